#include "config.h"
#include "checks.h"

#include "session.h"

/* TEST UNIT READY with this CmdSN; its tag. */
static uint32_t
send_ready(struct session *s, uint32_t cmd_sn, unsigned op)
{
	uint8_t bhs[BHS_SIZE];
	uint32_t keep = s->cmd_sn;
	begin_bhs(s, bhs, op, FINAL | SIMPLE);
	s->cmd_sn = keep;
	put_lun(bhs, s->test->target->uri.lun);
	put32(bhs + 24, cmd_sn);
	sent(s->test, "TEST UNIT READY with CmdSN %u, expected %u to %u", cmd_sn, s->exp_cmd_sn,
		s->max_cmd_sn);
	send_pdu(s, bhs, NULL, 0);
	return get32(bhs + 16);
}

/* Nothing comes of it, and all goes on. */
static void
expect_ignored(struct session *s, uint32_t tag)
{
	struct test *t = s->test;
	expect_alive(s);
	expect_good(test_unit_ready(s));
	expect_alive(s);
	for (unsigned i = 0; i < s->seen_count; i++)
		expect(t, tag_of(s->seen[i]) != tag && opcode_of(s->seen[i]) != OP_REJECT,
			"no answer at all", "a PDU %02xh", opcode_of(s->seen[i]));
}

static void
below_window(struct test *t)
{
	struct session *s = session_open(t, "");
	expect_ignored(s, send_ready(s, s->exp_cmd_sn - 1, OP_SCSI));
}

static void
far_below_window(struct test *t)
{
	struct session *s = session_open(t, "");
	expect_ignored(s, send_ready(s, s->exp_cmd_sn - 100000, OP_SCSI));
}

static void
above_window(struct test *t)
{
	struct session *s = session_open(t, "");
	expect_ignored(s, send_ready(s, s->max_cmd_sn + 1, OP_SCSI));
}

static void
far_above_window(struct test *t)
{
	struct session *s = session_open(t, "");
	expect_ignored(s, send_ready(s, s->max_cmd_sn + 100000, OP_SCSI));
}

static void
out_of_order(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t next = s->cmd_sn;
	uint32_t late = send_ready(s, next + 1, OP_SCSI);
	expect_alive(s);
	for (unsigned i = 0; i < s->seen_count; i++)
		expect(t, tag_of(s->seen[i]) != late || opcode_of(s->seen[i]) != OP_SCSI_RESPONSE,
			"commands executed in order", "an answer before the earlier command");
	uint32_t early = send_ready(s, next, OP_SCSI);
	const struct pdu *p = await_pdu(s, OP_SCSI_RESPONSE, NO_TAG);
	expect(t, tag_of(p) == early, "the earlier command's answer first", "the other's");
	await_pdu(s, OP_SCSI_RESPONSE, late);
	s->cmd_sn = next + 2;
	expect_good(test_unit_ready(s));
}

static void
duplicate(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t next = s->cmd_sn;
	uint32_t gap = send_ready(s, next + 1, OP_SCSI);
	uint32_t again = send_ready(s, next + 1, OP_SCSI);
	uint32_t first = send_ready(s, next, OP_SCSI);
	await_pdu(s, OP_SCSI_RESPONSE, first);
	await_pdu(s, OP_SCSI_RESPONSE, gap);
	s->cmd_sn = next + 2;
	expect_ignored(s, again);
}

static void
immediate_in_gap(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t next = s->cmd_sn;
	uint32_t late = send_ready(s, next + 1, OP_SCSI);
	uint32_t now = send_ready(s, next, OP_SCSI | IMMEDIATE);
	await_pdu(s, OP_SCSI_RESPONSE, now);
	uint32_t early = send_ready(s, next, OP_SCSI);
	await_pdu(s, OP_SCSI_RESPONSE, early);
	await_pdu(s, OP_SCSI_RESPONSE, late);
}

static void
immediate_takes_none(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t before = s->cmd_sn;
	for (int i = 0; i < 3; i++)
		await_pdu(s, OP_SCSI_RESPONSE, send_ready(s, before, OP_SCSI | IMMEDIATE));
	expect(t, s->exp_cmd_sn == before, "ExpCmdSN unchanged", "%u after %u", s->exp_cmd_sn,
		before);
	expect_good(test_unit_ready(s));
}

/* StatSN over everything that came. */
static void
follow_stat_sn(struct session *s, unsigned from)
{
	uint32_t next = 0;
	bool known = false;
	for (unsigned i = from; i < s->seen_count; i++) {
		const struct pdu *p = s->seen[i];
		unsigned op = opcode_of(p);
		bool takes = op != OP_R2T && !(op == OP_DATA_IN && (p->bhs[1] & HAS_STATUS) == 0) &&
			     !(op == OP_NOP_IN && tag_of(p) == NO_TAG);
		uint32_t stat_sn = get32(p->bhs + 24);
		if (op == OP_DATA_IN && !takes)
			continue;
		expect(s->test, !known || stat_sn == next, "StatSN one higher with each status",
			"%u instead of %u in a PDU %02xh", stat_sn, next, op);
		known = true;
		next = stat_sn + (takes ? 1 : 0);
	}
}

static void
stat_sn_of_commands(struct test *t)
{
	struct session *s = session_open(t, "");
	for (int i = 0; i < 8; i++)
		test_unit_ready(s);
	follow_stat_sn(s, 0);
}

static void
stat_sn_of_reads(struct test *t)
{
	struct session *s = session_open(t, "MaxRecvDataSegmentLength=4096");
	for (int i = 0; i < 4; i++)
		expect_good(submit_read(s, 0, blocks_of(s, 65536)));
	follow_stat_sn(s, 0);
}

static void
stat_sn_of_all_kinds(struct test *t)
{
	struct session *s = session_open(t, "");
	test_unit_ready(s);
	expect_alive(s);
	text(s, FINAL, NO_TAG, NO_TAG, "SendTargets=");
	manage(s, ABORT_TASK, t->target->uri.lun, 0xabcd, s->cmd_sn - 1);
	expect_good(submit_read(s, 0, 1));
	logout(s, 0);
	follow_stat_sn(s, 0);
}

static void
window_sane(struct test *t)
{
	struct session *s = session_open(t, "");
	for (int i = 0; i < 40; i++)
		test_unit_ready(s);
	uint32_t exp = 0, max = 0;
	for (unsigned i = 0; i < s->seen_count; i++) {
		const struct pdu *p = s->seen[i];
		uint32_t e = get32(p->bhs + 28), m = get32(p->bhs + 32);
		expect(t, (int32_t)(m - e) >= -1, "MaxCmdSN of ExpCmdSN-1 at least", "%u and %u", m,
			e);
		expect(t, i == 0 || ((int32_t)(e - exp) >= 0 && (int32_t)(m - max) >= 0),
			"ExpCmdSN and MaxCmdSN that never go back", "%u, %u after %u, %u", e, m,
			exp, max);
		exp = e;
		max = m;
	}
}

static void
whole_window(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t window = s->max_cmd_sn - s->exp_cmd_sn + 1;
	if (window > 128)
		window = 128;
	struct task *tasks[128];
	uint8_t cdb[16] = {0};
	for (uint32_t i = 0; i < window; i++)
		tasks[i] = submit(s, cdb, FINAL | SIMPLE, 0, NULL, 0);
	for (uint32_t i = 0; i < window; i++) {
		await(tasks[i]);
		expect(t, tasks[i]->status == GOOD || tasks[i]->status == TASK_SET_FULL,
			"GOOD, or TASK SET FULL", "status %02xh", tasks[i]->status);
	}
}

static void
wraparound(struct test *t)
{
	struct session *s = session_connect(t);
	s->cmd_sn = s->exp_cmd_sn = s->max_cmd_sn = 0xfffffffd;
	unsigned status = login(s, "");
	expect(t, status == 0, "a login", "status %04xh", status);
	for (int i = 0; i < 8; i++)
		test_unit_ready(s);
	expect_good(test_unit_ready(s));
	expect(t, s->exp_cmd_sn == s->cmd_sn, "ExpCmdSN past 0", "%u, not %u", s->exp_cmd_sn,
		s->cmd_sn);
}

static void
one_task_attribute(struct test *t, unsigned attribute)
{
	struct session *s = session_open(t, "");
	uint8_t cdb[16] = {0};
	expect_good(submit(s, cdb, FINAL | attribute, 0, NULL, 0));
}

static void
ordered(struct test *t)
{
	one_task_attribute(t, ORDERED);
}

static void
head_of_queue(struct test *t)
{
	one_task_attribute(t, HEAD_OF_QUEUE);
}

static void
untagged(struct test *t)
{
	one_task_attribute(t, 0);
}

static void
attribute_refused(struct test *t, unsigned attribute)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_SCSI, FINAL | attribute);
	put_lun(bhs, t->target->uri.lun);
	sent(t, "TEST UNIT READY with task attribute %u", attribute);
	send_pdu(s, bhs, NULL, 0);
	for (;;) {
		const struct pdu *p = receive(s);
		if (p == NULL)
			fail(t, "an answer", "a closed connection");
		if (opcode_of(p) == OP_REJECT)
			break;
		if (opcode_of(p) != OP_SCSI_RESPONSE || tag_of(p) != get32(bhs + 16))
			continue;
		expect(t, p->bhs[3] != GOOD || p->bhs[2] != 0, "an error", "status GOOD");
		break;
	}
	expect_alive(s);
}

static void
aca(struct test *t)
{
	attribute_refused(t, ACA);
}

static void
reserved_attribute(struct test *t)
{
	attribute_refused(t, 7);
}

static void
ordered_after_writes(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t block = t->target->block_size;
	uint8_t *a = take_pattern(t, 30, block), *b = take_pattern(t, 31, block);
	uint8_t cdb[16];
	for (int i = 0; i < 16; i++) {
		const uint8_t *bytes = i & 1 ? b : a;
		make_cdb(cdb, 0x2a, 8, 1);
		struct task *w = submit(s, cdb, FINAL | SCSI_WRITE | ORDERED, block, NULL, 0);
		w->out = bytes;
		w->out_length = block;
		make_cdb(cdb, 0x28, 8, 1);
		struct task *r = submit(s, cdb, FINAL | SCSI_READ | ORDERED, block, NULL, 0);
		expect_good(w);
		expect_good(r);
		expect(t, memcmp(r->in, bytes, block) == 0, "the write before the read",
			"older bytes");
	}
}

/* A write that waits for its data. */
static struct task *
begin_write(struct session *s, unsigned attribute)
{
	uint32_t block = s->test->target->block_size;
	uint8_t cdb[16];
	make_cdb(cdb, 0x2a, 8, 1);
	struct task *task = submit(s, cdb, FINAL | SCSI_WRITE | attribute, block, NULL, 0);
	task->out = take_pattern(s->test, 32, block);
	task->out_length = block;
	task->manual = true;
	await(task);
	if (task->done)
		fail(s->test, "an R2T", "status %02xh", task->status);
	return task;
}

/* What comes while a write of one attribute waits, of another: it must wait too. */
static void
expect_to_wait(struct test *t, unsigned first, unsigned second)
{
	struct session *s = session_open(t, "ImmediateData=No");
	struct task *write = begin_write(s, first);
	uint8_t cdb[16];
	make_cdb(cdb, 0x28, 8, 1);
	struct task *read =
		submit(s, cdb, FINAL | SCSI_READ | second, t->target->block_size, NULL, 0);
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "no answer before the write's", "one");
	answer_r2t(write, write->r2t);
	expect_good(write);
	expect_good(read);
	expect(t, memcmp(read->in, write->out, write->out_length) == 0, "the bytes just written",
		"others");
}

static void
ordered_waits(struct test *t)
{
	expect_to_wait(t, SIMPLE, ORDERED);
}

static void
simple_waits(struct test *t)
{
	expect_to_wait(t, ORDERED, SIMPLE);
}

static void
head_of_queue_passes(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	struct task *write = begin_write(s, ORDERED);
	uint8_t cdb[16] = {0};
	struct task *behind = submit(s, cdb, FINAL | ORDERED, 0, NULL, 0);
	struct task *first = submit(s, cdb, FINAL | HEAD_OF_QUEUE, 0, NULL, 0);
	expect_good(first);
	expect(t, !behind->done, "HEAD OF QUEUE before what waits", "the other way round");
	answer_r2t(write, write->r2t);
	expect_good(write);
	expect_good(behind);
}

static void
exp_stat_sn_ignored(struct test *t)
{
	struct session *s = session_open(t, "");
	s->exp_stat_sn -= 1;
	test_unit_ready(s);
	expect_good(test_unit_ready(s));
}

static const struct check checks[] = {
	{"S01", MUST, "4.2.2.1", 0, "a CmdSN below the window is silently ignored", below_window},
	{"S02", MUST, "4.2.2.1", 0, "a CmdSN far below it too", far_below_window},
	{"S03", MUST, "4.2.2.1", 0, "a CmdSN above the window is silently ignored", above_window},
	{"S04", MUST, "4.2.2.1", 0, "a CmdSN far above it too", far_above_window},
	{"S05", MUST, "4.2.2.1", QUEUES, "commands are delivered in the order of their CmdSN",
		out_of_order},
	{"S06", MUST, "4.2.2.1", QUEUES, "a duplicate in the window is ignored", duplicate},
	{"S07", MUST, "4.2.2.1", QUEUES, "an immediate command does not wait for a gap",
		immediate_in_gap},
	{"S08", MUST, "4.2.2.1", 0, "an immediate command takes no CmdSN", immediate_takes_none},
	{"S09", MUST, "4.2.2.2", 0, "StatSN rises by one with each SCSI Response",
		stat_sn_of_commands},
	{"S10", MUST, "4.2.2.2", 0, "StatSN with Data-In: only with a status", stat_sn_of_reads},
	{"S11", MUST, "4.2.2.2", 0, "StatSN counts through all kinds of responses",
		stat_sn_of_all_kinds},
	{"S12", MUST, "4.2.2.1", 0, "ExpCmdSN and MaxCmdSN never go back", window_sane},
	{"S13", MUST, "4.2.2.1", 0, "a whole window of commands is answered", whole_window},
	{"S14", MUST, "4.2.2.1", 0, "CmdSN wraps around", wraparound},
	{"S15", MUST, "11.3.1", 0, "an ORDERED task is done", ordered},
	{"S16", MUST, "11.3.1", 0, "a HEAD OF QUEUE task is done", head_of_queue},
	{"S17", MUST, "11.3.1", 0, "an untagged task is done", untagged},
	{"S18", SHOULD, "11.3.1", 0, "ACA without an ACA is refused", aca},
	{"S19", SHOULD, "11.3.1", 0, "a reserved task attribute is refused", reserved_attribute},
	{"S20", MUST, "11.3.1", WRITABLE | QUEUES,
		"ORDERED reads see the ORDERED writes before them", ordered_after_writes},
	{"S22", MUST, "11.3.1", WRITABLE | QUEUES, "ORDERED waits for the write before it",
		ordered_waits},
	{"S23", MUST, "11.3.1", WRITABLE | QUEUES, "SIMPLE waits for the ORDERED write before it",
		simple_waits},
	{"S24", MUST, "11.3.1", WRITABLE | QUEUES, "HEAD OF QUEUE waits for neither",
		head_of_queue_passes},
	{"S21", MUST, "4.2.2.2", 0, "an ExpStatSN that lags does no harm", exp_stat_sn_ignored},
};
const struct group sequence_group = {"sequence", "RFC 7143", checks, COUNT_OF(checks)};
