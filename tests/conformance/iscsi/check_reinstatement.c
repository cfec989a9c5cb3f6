#include "config.h"
#include "checks.h"

#include "session.h"

static struct session *
reinstate(struct session *a)
{
	struct session *b = session_connect(a->test);
	memcpy(b->isid, a->isid, 6);
	sent(a->test, "a login with the ISID of a live session");
	unsigned status = login(b, "");
	if (status != 0)
		fail(a->test, "a login", "status %04xh", status);
	return b;
}

static void
old_one_ends(struct test *t)
{
	struct session *a = session_open(t, "");
	struct session *b = reinstate(a);
	expect(t, conn_ends_within(a->conn, 3000), "the old connection closed", "an open one");
	test_unit_ready(b);
	expect_alive(b);
}

static void
tsih_is_new(struct test *t)
{
	struct session *a = session_open(t, "");
	struct session *b = reinstate(a);
	expect(t, b->tsih != 0, "a TSIH", "0");
	prefer(t, b->tsih != a->tsih, "another TSIH than the old session's", "%u", b->tsih);
}

static void
with_write_pending(struct test *t)
{
	struct session *a = session_open(t, "ImmediateData=No");
	uint8_t *before = take_pattern(t, 70, 8192), *bytes = take_pattern(t, 71, 8192);
	write_bytes(a, 0, before, 8192);
	struct task *task = submit_write(a, 0, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	struct session *b = reinstate(a);
	test_unit_ready(b);
	test_unit_ready(b);
	expect_stored(b, 0, before, 8192);
}

static void
others_stay(struct test *t)
{
	struct session *a = session_open(t, ""), *c = session_open(t, "");
	reinstate(a);
	expect_alive(c);
	test_unit_ready(c);
}

static void
not_before_the_end(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_connect(t);
	memcpy(b->isid, a->isid, 6);
	if (t->target->uri.user != NULL)
		login_step(b, SECURITY << 2 | OPERATIONAL, with_names(b, "AuthMethod=CHAP"));
	else
		login_step(b, SECURITY << 2, with_names(b, "AuthMethod=None"));
	expect_alive(a);
	conn_reset(b->conn);
	expect_alive(a);
}

static void
after_lost_link(struct test *t)
{
	struct session *a = session_open(t, "");
	submit_read(a, 0, blocks_of(a, 65536));
	struct session *b = reinstate(a);
	test_unit_ready(b);
	expect_good(submit_read(b, 0, 1));
}

static void
many_times(struct test *t)
{
	struct session *s = session_open(t, "");
	for (int i = 0; i < 10; i++)
		s = reinstate(s);
	test_unit_ready(s);
	expect_alive(s);
}

static void
connection_at_level_0(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_connect(t);
	memcpy(b->isid, a->isid, 6);
	b->tsih = a->tsih;
	b->cmd_sn = a->cmd_sn;
	unsigned status = login(b, "");
	if (status == 0) {
		expect(t, conn_ends_within(a->conn, 3000), "the old connection closed",
			"an open one");
		expect_alive(b);
	} else {
		expect_refused(t, status);
	}
}

static const struct check checks[] = {
	{"I01", MUST, "6.3.5", 0, "a login with a live session's ISID ends the old session",
		old_one_ends},
	{"I02", MUST, "6.3.5", 0, "the new session has a TSIH of its own", tsih_is_new},
	{"I03", MUST, "6.3.5", WRITABLE, "the old session's waiting write is dropped",
		with_write_pending},
	{"I04", MUST, "6.3.5", 0, "sessions with another ISID stay", others_stay},
	{"I05", MUST, "6.3.5", 0, "a login that does not end leaves the session alone",
		not_before_the_end},
	{"I06", MUST, "6.3.5", 0, "in the middle of a read it serves at once", after_lost_link},
	{"I07", MUST, "6.3.5", 0, "ten times in a row", many_times},
	{"I08", MUST, "6.3.4", 0, "the same CID and TSIH: the connection is reinstated or refused",
		connection_at_level_0},
};
const struct group reinstatement_group = {"reinstatement", "RFC 7143", checks, COUNT_OF(checks)};
