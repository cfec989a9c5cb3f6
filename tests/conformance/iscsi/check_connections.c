#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>

/* The session's numbers go on at another of its connections. */
static struct session *
go_on(struct session *from, struct session *to)
{
	to->cmd_sn = from->cmd_sn;
	to->exp_cmd_sn = from->exp_cmd_sn;
	to->max_cmd_sn = from->max_cmd_sn;
	return to;
}

/* A connection of the session that is to be logged in. */
static struct session *
connect_to(struct session *a, uint16_t cid)
{
	struct session *b = session_connect(a->test);
	memcpy(b->isid, a->isid, 6);
	b->tsih = a->tsih;
	b->cid = cid;
	b->next_tag = a->next_tag + 0x100000u * cid;
	/* Session-wide; the login takes it for granted. */
	b->initial_r2t = a->initial_r2t;
	b->immediate_data = a->immediate_data;
	b->max_burst = a->max_burst;
	b->first_burst = a->first_burst;
	return go_on(a, b);
}

static struct session *
join(struct session *a, uint16_t cid, const char *keys)
{
	struct session *b = connect_to(a, cid);
	sent(a->test, "a login with TSIH %u and CID %u", a->tsih, cid);
	unsigned status = login(b, keys);
	if (status != 0)
		fail(a->test, "a login", "status %04xh", status);
	return b;
}

/* Two connections of one session. */
static struct session *
open_two(struct test *t, struct session **second, const char *keys)
{
	char all[256];
	snprintf(all, sizeof all, "MaxConnections=2%s%s", keys[0] != '\0' ? "\n" : "", keys);
	struct session *a = session_open(t, all);
	*second = join(a, 1, "");
	return a;
}

static struct task *
begin_write(struct session *s, unsigned seed)
{
	uint8_t *bytes = take_pattern(s->test, seed, 8192);
	struct task *task = submit_write(s, 0, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	if (task->done)
		fail(s->test, "an R2T", "status %02xh", task->status);
	return task;
}

/* Of a connection that went, the session may have been told. */
static void
expect_still_serving(struct session *s)
{
	for (int i = 0; i < 3; i++)
		if (test_unit_ready(s)->status == GOOD)
			return;
	expect_good(test_unit_ready(s));
}

static void
joins(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	expect(t, b->tsih == a->tsih, "the session's TSIH in the final Login Response",
		"%u, not %u", b->tsih, a->tsih);
	expect_good(test_unit_ready(go_on(a, b)));
	expect_good(test_unit_ready(go_on(b, a)));
}

static void
one_too_many(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	unsigned agreed = (unsigned)answer(a, "MaxConnections")[0] - '0';
	if (agreed != 2)
		skip(t, "MaxConnections is not 2");
	unsigned status = login(connect_to(a, 2), "");
	expect_refused(t, status);
	prefer(t, status == 0x0206, "status 0206h", "status %04xh", status);
	expect_alive(a);
	expect_alive(b);
}

static void
one_cmd_sn(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	for (int i = 0; i < 8; i++) {
		expect_good(test_unit_ready(a));
		expect_good(test_unit_ready(go_on(a, b)));
		go_on(b, a);
	}
	expect_alive(a);
	expect(t, a->exp_cmd_sn == a->cmd_sn, "ExpCmdSN past the commands of both", "%u, not %u",
		a->exp_cmd_sn, a->cmd_sn);
}

static void
order_across(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	uint8_t cdb[16] = {0};
	b->cmd_sn = a->cmd_sn + 1;
	struct task *late = submit(b, cdb, FINAL | SIMPLE, 0, NULL, 0);
	expect(t, conn_is_quiet(b->conn, QUIET_MS), "commands executed in order",
		"an answer before the earlier command");
	expect_good(test_unit_ready(a));
	expect_good(late);
}

static void
stat_sn_apart(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	test_unit_ready(go_on(a, b));
	uint32_t before = b->exp_stat_sn;
	go_on(b, a);
	for (int i = 0; i < 5; i++)
		test_unit_ready(a);
	test_unit_ready(go_on(a, b));
	expect(t, b->exp_stat_sn == before + 1, "a StatSN that counts this connection's responses",
		"%u after %u", b->exp_stat_sn, before);
}

static void
answered_where_sent(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "ImmediateData=No");
	struct task *task = begin_write(go_on(a, b), 100);
	answer_r2t(task, task->r2t);
	expect_good(task);
	expect(t, conn_is_quiet(a->conn, QUIET_MS), "nothing on the other connection", "a PDU");
	expect_stored(go_on(b, a), 0, task->out, 8192);
}

static void
data_elsewhere(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "ImmediateData=No");
	struct task *task = begin_write(go_on(a, b), 101);
	uint8_t bhs[BHS_SIZE] = {OP_DATA_OUT, FINAL}, *other = take_pattern(t, 102, 8192);
	put_lun(bhs, t->target->uri.lun);
	put32(bhs + 16, task->tag);
	memcpy(bhs + 20, task->r2t->bhs + 20, 4);
	put32(bhs + 28, a->exp_stat_sn);
	sent(t, "the Data-Out of a write on another connection than the write's");
	send_pdu(a, bhs, other, 8192);
	expect(t, conn_is_quiet(b->conn, QUIET_MS), "a write that still waits", "an answer");
	answer_r2t(task, task->r2t);
	expect_good(task);
	expect_stored(b, 0, task->out, 8192);
}

static void
logout_of_one(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	const struct pdu *p = logout(go_on(a, b), 1);
	expect(t, p->bhs[2] == 0, "response 0", "response %u", p->bhs[2]);
	expect(t, conn_ends_within(b->conn, 3000), "a closed connection", "an open one");
	expect_still_serving(go_on(b, a));
}

static void
logout_of_the_other(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	a->cid = b->cid;
	const struct pdu *p = logout(a, 1);
	expect(t, p->bhs[2] == 0, "response 0", "response %u", p->bhs[2]);
	expect(t, conn_ends_within(b->conn, 3000), "the other connection closed", "an open one");
	expect_still_serving(a);
}

static void
logout_of_all(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	const struct pdu *p = logout(go_on(a, b), 0);
	expect(t, p->bhs[2] == 0, "response 0", "response %u", p->bhs[2]);
	expect(t, conn_ends_within(a->conn, 3000) && conn_ends_within(b->conn, 3000),
		"both connections closed", "an open one");
}

static void
lost_connection(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "ImmediateData=No");
	uint8_t *before = take_pattern(t, 103, 8192);
	write_bytes(a, 0, before, 8192);
	begin_write(go_on(a, b), 104);
	conn_reset(b->conn);
	expect_still_serving(go_on(b, a));
	expect_stored(a, 0, before, 8192);
}

static void
joins_again(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	test_unit_ready(go_on(a, b));
	conn_reset(b->conn);
	expect_still_serving(go_on(b, a));
	struct session *c = join(a, 1, "");
	expect_still_serving(c);
	expect_still_serving(go_on(c, a));
}

static void
connection_reinstated(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "ImmediateData=No");
	uint8_t *before = take_pattern(t, 105, 8192);
	write_bytes(a, 0, before, 8192);
	begin_write(go_on(a, b), 106);
	struct session *c = join(go_on(b, a), 1, "");
	expect(t, conn_ends_within(b->conn, 3000), "the old connection closed", "an open one");
	expect_still_serving(c);
	expect_still_serving(go_on(c, a));
	expect_stored(a, 0, before, 8192);
}

static void
session_reinstated(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	struct session *c = session_connect(t);
	memcpy(c->isid, a->isid, 6);
	unsigned status = login(c, "");
	expect(t, status == 0, "a login", "status %04xh", status);
	expect(t, conn_ends_within(a->conn, 3000) && conn_ends_within(b->conn, 3000),
		"both old connections closed", "an open one");
	expect_still_serving(c);
}

static void
segments_apart(struct test *t)
{
	struct session *a = session_open(t, "MaxConnections=2");
	struct session *b = join(a, 1, "MaxRecvDataSegmentLength=512");
	struct task *task = submit_read(b, 0, blocks_of(b, 65536));
	expect_good(task);
	expect(t, task->data_ins >= 128, "segments of 512 bytes on this connection", "%u Data-In",
		task->data_ins);
	task = submit_read(go_on(b, a), 0, blocks_of(a, 65536));
	expect_good(task);
	expect(t, task->in_length == 65536, "all bytes", "%zu", task->in_length);
}

static void
digests_apart(struct test *t)
{
	struct session *a = session_open(t, "MaxConnections=2");
	struct session *b = join(a, 1, "HeaderDigest=CRC32C\nDataDigest=CRC32C");
	if (!b->header_digest || !b->data_digest)
		skip(t, "not agreed to");
	expect_good(submit_read(b, 0, blocks_of(b, 65536)));
	expect_good(submit_read(go_on(b, a), 0, blocks_of(a, 65536)));
}

static void
abort_set_of_both(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "ImmediateData=No");
	struct task *task = begin_write(go_on(a, b), 107);
	go_on(b, a);
	unsigned response = manage(a, ABORT_TASK_SET, t->target->uri.lun, NO_TAG, 0);
	expect(t, response == TMF_COMPLETE, "response 0", "response %u", response);
	expect_alive(b);
	expect(t, conn_is_quiet(b->conn, QUIET_MS) && !task->done, "no answer to the aborted task",
		"a PDU");
	expect_still_serving(a);
}

static void
reset_of_both(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "ImmediateData=No");
	uint8_t *before = take_pattern(t, 108, 8192);
	write_bytes(a, 0, before, 8192);
	struct task *task = begin_write(go_on(a, b), 109);
	go_on(b, a);
	unsigned response = manage(a, LUN_RESET, t->target->uri.lun, NO_TAG, 0);
	expect(t, response == TMF_COMPLETE, "response 0", "response %u", response);
	answer_r2t(task, task->r2t);
	expect_alive(b);
	expect_still_serving(a);
	expect_stored(a, 0, before, 8192);
}

static void
commands_in_turn(struct test *t)
{
	struct session *b, *a = open_two(t, &b, "");
	struct task *tasks[16];
	for (int i = 0; i < 16; i++) {
		struct session *s = i & 1 ? go_on(a, b) : i > 0 ? go_on(b, a) : a;
		tasks[i] = submit_read(s, 0, blocks_of(s, 65536));
	}
	for (int i = 0; i < 16; i++)
		expect_good(tasks[i]);
}

static const struct check checks[] = {
	{"K01", MUST, "11.12.6", MULTI, "a login with a live session's TSIH adds a connection",
		joins},
	{"K02", MUST, "13.2", MULTI, "MaxConnections at most: 0206h", one_too_many},
	{"K03", MUST, "4.2.2.1", MULTI, "one CmdSN runs through all connections", one_cmd_sn},
	{"K04", MUST, "4.2.2.1", MULTI | QUEUES, "commands are delivered in its order across them",
		order_across},
	{"K05", MUST, "4.2.2.2", MULTI, "each connection has a StatSN of its own", stat_sn_apart},
	{"K06", MUST, "4.2.5.1", MULTI | WRITABLE,
		"R2T, data and status stay on the command's connection", answered_where_sent},
	{"K07", MUST, "4.2.5.1", MULTI | WRITABLE, "data on another connection is not the write's",
		data_elsewhere},
	{"K08", MUST, "11.14.1", MULTI, "a logout of one connection leaves the other",
		logout_of_one},
	{"K09", MUST, "11.14.1", MULTI, "a connection can be logged out through another",
		logout_of_the_other},
	{"K10", MUST, "11.14.1", MULTI, "a logout of the session closes all connections",
		logout_of_all},
	{"K11", MUST, "4.2.5.1", MULTI | WRITABLE,
		"a lost connection takes its write along, not the session", lost_connection},
	{"K12", MUST, "6.3.4", MULTI, "its CID can be had again", joins_again},
	{"K13", MUST, "6.3.4", MULTI | WRITABLE,
		"a login with a live CID reinstates the connection", connection_reinstated},
	{"K14", MUST, "6.3.5", MULTI, "session reinstatement closes all connections",
		session_reinstated},
	{"K15", MUST, "13.12", MULTI, "MaxRecvDataSegmentLength is the connection's own",
		segments_apart},
	{"K16", MUST, "13.1", MULTI | HDIGEST | DDIGEST, "digests are the connection's own",
		digests_apart},
	{"K17", MUST, "4.2.3.3", MULTI | WRITABLE,
		"ABORT TASK SET reaches tasks of all connections", abort_set_of_both},
	{"K18", MUST, "4.2.3.3", MULTI | WRITABLE, "LOGICAL UNIT RESET does too", reset_of_both},
	{"K19", MUST, "4.2.5.1", MULTI | QUEUES, "reads in flight on two connections",
		commands_in_turn},
};
const struct group connections_group = {"connections", "RFC 7143", checks, COUNT_OF(checks)};
