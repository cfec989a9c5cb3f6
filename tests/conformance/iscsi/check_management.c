#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>

/* A write that waits for its data. */
static struct task *
begin_write(struct session *s, uint32_t lba, unsigned seed)
{
	uint8_t *bytes = take_pattern(s->test, seed, 8192);
	struct task *task = submit_write(s, lba, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	if (task->done)
		fail(s->test, "an R2T", "status %02xh", task->status);
	return task;
}

static void
expect_response(struct test *t, unsigned response, unsigned wanted)
{
	char words[32];
	snprintf(words, sizeof words, "response %u", wanted);
	expect(t, response == wanted, words, "response %u", response);
}

/* Complete, or not there: then the rest has no meaning. */
static void
expect_done(struct test *t, unsigned response)
{
	if (response == TMF_UNSUPPORTED)
		skip(t, "response 5: not supported");
	expect_response(t, response, TMF_COMPLETE);
}

static void
expect_never_answered(struct session *s, const struct task *task)
{
	expect_alive(s);
	expect(s->test, conn_is_quiet(s->conn, QUIET_MS) && !task->done,
		"no answer to the aborted task", task->done ? "status %02xh" : "another PDU",
		task->status);
}

static void
abort_unknown(struct test *t)
{
	struct session *s = session_open(t, "");
	expect_response(
		t, manage(s, ABORT_TASK, t->target->uri.lun, 0xabcdef, s->cmd_sn - 1), TMF_NO_TASK);
	expect_alive(s);
}

static void
abort_write(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	struct task *task = begin_write(s, 0, 50);
	expect_done(t, manage(s, ABORT_TASK, t->target->uri.lun, task->tag, task->cmd_sn));
	expect_never_answered(s, task);
	expect_good(test_unit_ready(s));
}

static void
abort_stops(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	uint8_t *before = take_pattern(t, 51, 8192);
	write_bytes(s, 0, before, 8192);
	struct task *task = begin_write(s, 0, 52);
	expect_done(t, manage(s, ABORT_TASK, t->target->uri.lun, task->tag, task->cmd_sn));
	answer_r2t(task, task->r2t);
	expect_alive(s);
	expect_stored(s, 0, before, 8192);
}

static void
abort_finished(struct test *t)
{
	struct session *s = session_open(t, "");
	struct task *task = test_unit_ready(s);
	expect_response(
		t, manage(s, ABORT_TASK, t->target->uri.lun, task->tag, task->cmd_sn), TMF_NO_TASK);
}

static void
abort_never_received(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t gap = s->cmd_sn++;
	uint8_t cdb[16] = {0};
	struct task *later = submit(s, cdb, FINAL | SIMPLE, 0, NULL, 0);
	unsigned response = manage(s, ABORT_TASK, t->target->uri.lun, 0xabcdef, gap);
	expect_response(t, response, TMF_COMPLETE);
	expect_good(later);
	expect_good(test_unit_ready(s));
}

static void
abort_set(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	struct task *task = begin_write(s, 0, 53);
	expect_done(t, manage(s, ABORT_TASK_SET, t->target->uri.lun, NO_TAG, 0));
	expect_never_answered(s, task);
	expect_good(test_unit_ready(s));
}

static void
abort_set_spares_others(struct test *t)
{
	struct session *a = session_open(t, "ImmediateData=No"), *b = session_open(t, "");
	struct task *task = begin_write(a, 0, 54);
	expect_done(t, manage(b, ABORT_TASK_SET, t->target->uri.lun, NO_TAG, 0));
	answer_r2t(task, task->r2t);
	expect_good(task);
}

static void
clear_set(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	struct task *task = begin_write(s, 0, 55);
	expect_done(t, manage(s, CLEAR_TASK_SET, t->target->uri.lun, NO_TAG, 0));
	expect_never_answered(s, task);
}

static void
reset_lun(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	struct task *task = begin_write(s, 0, 56);
	expect_done(t, manage(s, LUN_RESET, t->target->uri.lun, NO_TAG, 0));
	expect_never_answered(s, task);
	test_unit_ready(s);
	test_unit_ready(s);
	expect_good(test_unit_ready(s));
}

static void
reset_tells_others(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_open(t, "");
	expect_done(t, manage(a, LUN_RESET, t->target->uri.lun, NO_TAG, 0));
	struct task *task = test_unit_ready(b);
	expect(t,
		task->status == CHECK_CONDITION && task->sense_length >= 14 &&
			(task->sense[2] & 15) == 6 && task->sense[12] == 0x29,
		"UNIT ATTENTION 29h for the other session", "status %02xh", task->status);
}

/* Another session's write is in the way of a reset: it writes nothing, and either has no answer and its
 * session a unit attention, or is told TASK ABORTED. */
static void
reset_hits_others(struct test *t, unsigned function)
{
	struct session *a = session_open(t, ""), *b = session_open(t, "ImmediateData=No");
	uint8_t *before = take_pattern(t, 57, 8192);
	write_bytes(a, 0, before, 8192);
	struct task *task = begin_write(b, 0, 58);
	expect_done(t, manage(a, function, t->target->uri.lun, NO_TAG, 0));
	answer_r2t(task, task->r2t);
	struct task *next = test_unit_ready(b);
	expect(t, task->done ? task->status == TASK_ABORTED : next->status == CHECK_CONDITION,
		"TASK ABORTED, or silence and a unit attention", "status %02xh, then %02xh",
		task->status, next->status);
	for (int i = 0; i < 3 && test_unit_ready(b)->status != GOOD; i++)
		;
	expect_stored(b, 0, before, 8192);
}

static void
lun_reset_hits_others(struct test *t)
{
	reset_hits_others(t, LUN_RESET);
}

static void
warm_reset_hits_others(struct test *t)
{
	reset_hits_others(t, WARM_RESET);
}

static void
cold_reset(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(a, bhs, OP_TMF | IMMEDIATE, FINAL | COLD_RESET);
	put32(bhs + 20, NO_TAG);
	sent(t, "TARGET COLD RESET");
	send_pdu(a, bhs, NULL, 0);
	const struct pdu *p = receive(a);
	if (p != NULL && opcode_of(p) == OP_TMF_RESPONSE && p->bhs[2] == TMF_UNSUPPORTED)
		skip(t, "response 5: not supported");
	expect(t, p == NULL || (opcode_of(p) == OP_TMF_RESPONSE && p->bhs[2] == TMF_COMPLETE),
		"response 0, or the end", "PDU %02xh, %u", opcode_of(p), p->bhs[2]);
	expect(t, conn_ends_within(a->conn, 3000) && conn_ends_within(b->conn, 3000),
		"all connections closed", "an open one");
	expect_serving(t);
}

static void
reset_no_lun(struct test *t)
{
	struct session *s = session_open(t, "");
	expect_response(t, manage(s, LUN_RESET, 200, NO_TAG, 0), TMF_NO_LUN);
}

static void
abort_set_no_lun(struct test *t)
{
	struct session *s = session_open(t, "");
	unsigned response = manage(s, ABORT_TASK_SET, 200, NO_TAG, 0);
	expect(t, response == TMF_NO_LUN || response == TMF_UNSUPPORTED, "response 2",
		"response %u", response);
}

static void
clear_aca(struct test *t)
{
	struct session *s = session_open(t, "");
	unsigned response = manage(s, CLEAR_ACA, t->target->uri.lun, NO_TAG, 0);
	expect(t,
		response == TMF_COMPLETE || response == TMF_UNSUPPORTED || response == TMF_REJECTED,
		"response 0, 5 or 255", "response %u", response);
}

static void
reassign(struct test *t)
{
	struct session *s = session_open(t, "");
	unsigned response = manage(s, TASK_REASSIGN, t->target->uri.lun, 0xabcdef, 0);
	expect(t,
		response == TMF_NO_REASSIGN || response == TMF_NO_TASK ||
			response == TMF_UNSUPPORTED,
		"response 4", "response %u", response);
	prefer(t, response == TMF_NO_REASSIGN, "response 4", "response %u", response);
}

static void
unknown_function(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_TMF | IMMEDIATE, FINAL | 0x7f);
	put_lun(bhs, t->target->uri.lun);
	send_pdu(s, bhs, NULL, 0);
	sent(t, "task management function 127");
	const struct pdu *p = receive(s);
	expect(t,
		p != NULL &&
			(opcode_of(p) == OP_REJECT || (opcode_of(p) == OP_TMF_RESPONSE &&
							      (p->bhs[2] == TMF_UNSUPPORTED ||
								      p->bhs[2] == TMF_REJECTED))),
		"response 5, 255 or a Reject", "PDU %02xh, %u", p != NULL ? opcode_of(p) : 0,
		p != NULL ? p->bhs[2] : 0u);
	expect_alive(s);
}

static void
response_fields(struct test *t)
{
	struct session *s = session_open(t, "");
	manage(s, ABORT_TASK, t->target->uri.lun, 0xabcdef, s->cmd_sn - 1);
	const struct pdu *p = s->seen[s->seen_count - 1];
	expect(t, p->bhs[1] == FINAL && p->length == 0, "flags 80h and no data",
		"flags %02xh, %zu bytes", p->bhs[1], p->length);
}

static void
queued_request(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_TMF, FINAL | ABORT_TASK);
	put_lun(bhs, t->target->uri.lun);
	put32(bhs + 20, 0xabcdef);
	put32(bhs + 32, s->cmd_sn - 2);
	send_pdu(s, bhs, NULL, 0);
	await_pdu(s, OP_TMF_RESPONSE, get32(bhs + 16));
	expect(t, s->exp_cmd_sn == s->cmd_sn, "its CmdSN taken", "ExpCmdSN %u, not %u",
		s->exp_cmd_sn, s->cmd_sn);
	expect_good(test_unit_ready(s));
}

static const struct check checks[] = {
	{"M01", MUST, "11.6.1", 0, "ABORT TASK of an unknown task: 1", abort_unknown},
	{"M02", MUST, "11.5.1", WRITABLE, "ABORT TASK of a write that waits: 0, and no status",
		abort_write},
	{"M03", MUST, "11.5.1", WRITABLE, "an aborted write does not write", abort_stops},
	{"M04", MUST, "11.6.1", 0, "ABORT TASK of a finished task: 1", abort_finished},
	{"M05", MUST, "11.5.5", QUEUES, "ABORT TASK of a RefCmdSN never received fills the gap",
		abort_never_received},
	{"M06", MUST, "11.5.1", WRITABLE, "ABORT TASK SET ends the session's tasks", abort_set},
	{"M07", MUST, "11.5.1", WRITABLE, "ABORT TASK SET spares other sessions",
		abort_set_spares_others},
	{"M08", MUST, "11.5.1", WRITABLE, "CLEAR TASK SET ends the tasks", clear_set},
	{"M09", MUST, "11.5.1", WRITABLE, "LOGICAL UNIT RESET ends the tasks", reset_lun},
	{"M10", MUST, "11.5.1", 0, "LOGICAL UNIT RESET is told to other sessions: 29h",
		reset_tells_others},
	{"M18", MUST, "4.2.3.3", WRITABLE, "LOGICAL UNIT RESET ends other sessions' writes too",
		lun_reset_hits_others},
	{"M19", MUST, "4.2.3.3", WRITABLE, "TARGET WARM RESET does as well",
		warm_reset_hits_others},
	{"M20", MUST, "11.5.1", 0, "TARGET COLD RESET closes all connections", cold_reset},
	{"M11", MUST, "11.6.1", 0, "LOGICAL UNIT RESET of a missing LUN: 2", reset_no_lun},
	{"M12", MUST, "11.6.1", 0, "ABORT TASK SET of a missing LUN: 2", abort_set_no_lun},
	{"M13", MUST, "11.6.1", 0, "CLEAR ACA is answered", clear_aca},
	{"M14", MUST, "11.6.1", 0, "TASK REASSIGN at level 0 is refused", reassign},
	{"M15", MUST, "11.6.1", 0, "an unknown function is refused", unknown_function},
	{"M16", MUST, "11.6", 0, "the response's reserved fields", response_fields},
	{"M17", MUST, "11.5", 0, "a request that is not immediate takes its CmdSN", queued_request},
};
const struct group management_group = {"management", "RFC 7143", checks, COUNT_OF(checks)};
