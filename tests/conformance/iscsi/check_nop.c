#include "config.h"
#include "checks.h"

#include "session.h"

static const struct pdu *
ping(struct session *s, unsigned op, const void *data, size_t length)
{
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, op, FINAL);
	put32(bhs + 20, NO_TAG);
	sent(s->test, "a NOP-Out with %zu bytes", length);
	send_pdu(s, bhs, data, length);
	return await_pdu(s, OP_NOP_IN, get32(bhs + 16));
}

static void
empty(struct test *t)
{
	struct session *s = session_open(t, "");
	const struct pdu *p = ping(s, OP_NOP_OUT | IMMEDIATE, NULL, 0);
	expect(t, p->length == 0 && p->bhs[1] == FINAL, "no data, flags 80h", "%zu bytes, %02xh",
		p->length, p->bhs[1]);
	expect(t, get32(p->bhs + 20) == NO_TAG, "Target Transfer Tag ffffffffh", "%08xh",
		get32(p->bhs + 20));
}

static void
echo(struct test *t)
{
	struct session *s = session_open(t, "");
	for (size_t length = 1; length <= 4096; length = length * 3 + 1) {
		uint8_t *bytes = take_pattern(t, 80, length);
		const struct pdu *p = ping(s, OP_NOP_OUT | IMMEDIATE, bytes, length);
		expect(t, p->length == length && memcmp(p->data, bytes, length) == 0,
			"the same bytes", "%zu of %zu bytes", p->length, length);
	}
}

static void
cut(struct test *t)
{
	struct session *s = session_open(t, "MaxRecvDataSegmentLength=512");
	if (s->max_send < 4096)
		skip(t, "the target takes less than 4096 bytes");
	uint8_t *bytes = take_pattern(t, 81, 4096);
	const struct pdu *p = ping(s, OP_NOP_OUT | IMMEDIATE, bytes, 4096);
	expect(t, p->length == 512 && memcmp(p->data, bytes, 512) == 0, "the first 512 bytes",
		"%zu bytes", p->length);
}

static void
cut_later(struct test *t)
{
	struct session *s = session_open(t, "");
	text(s, FINAL, NO_TAG, NO_TAG, "MaxRecvDataSegmentLength=512");
	uint8_t *bytes = take_pattern(t, 82, 2048);
	const struct pdu *p = ping(s, OP_NOP_OUT | IMMEDIATE, bytes, 2048);
	expect(t, p->length == 512, "512 bytes", "%zu bytes", p->length);
}

static void
takes_cmd_sn(struct test *t)
{
	struct session *s = session_open(t, "");
	ping(s, OP_NOP_OUT, NULL, 0);
	expect(t, s->exp_cmd_sn == s->cmd_sn, "its CmdSN taken", "ExpCmdSN %u, not %u",
		s->exp_cmd_sn, s->cmd_sn);
}

static void
immediate_takes_none(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t before = s->exp_cmd_sn;
	ping(s, OP_NOP_OUT | IMMEDIATE, NULL, 0);
	expect(t, s->exp_cmd_sn == before, "ExpCmdSN unchanged", "%u after %u", s->exp_cmd_sn,
		before);
}

static void
stat_sn(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t next = s->exp_stat_sn;
	for (unsigned i = 0; i < 3; i++) {
		const struct pdu *p = ping(s, OP_NOP_OUT | IMMEDIATE, NULL, 0);
		expect(t, get32(p->bhs + 24) == next + i, "StatSN one higher each time",
			"%u instead of %u", get32(p->bhs + 24), next + i);
	}
}

static void
unasked(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
	put32(bhs + 16, NO_TAG);
	put32(bhs + 20, NO_TAG);
	sent(t, "a NOP-Out with tag ffffffffh");
	send_pdu(s, bhs, NULL, 0);
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "no answer", "one, or the connection's end");
	expect_alive(s);
}

static void
during_write(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	uint8_t *bytes = take_pattern(t, 83, 8192);
	struct task *task = submit_write(s, 0, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	ping(s, OP_NOP_OUT | IMMEDIATE, NULL, 0);
	answer_r2t(task, task->r2t);
	expect_good(task);
	expect_stored(s, 0, bytes, 8192);
}

static void
many(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t first = s->next_tag;
	for (int i = 0; i < 64; i++) {
		uint8_t bhs[BHS_SIZE];
		begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
		put32(bhs + 20, NO_TAG);
		send_pdu(s, bhs, NULL, 0);
	}
	for (uint32_t i = 0; i < 64; i++)
		await_pdu(s, OP_NOP_IN, first + i);
}

static const struct check checks[] = {
	{"P01", MUST, "11.19", 0, "a NOP-Out is answered: tag, flags, no Target Transfer Tag",
		empty},
	{"P02", MUST, "11.18.3", 0, "its data comes back", echo},
	{"P03", MUST, "11.18.3", 0, "cut to the initiator's MaxRecvDataSegmentLength", cut},
	{"P04", MUST, "13.12", 0, "also where that changed by a Text Request", cut_later},
	{"P05", MUST, "11.18", 0, "a NOP-Out takes its CmdSN", takes_cmd_sn},
	{"P06", MUST, "11.18", 0, "an immediate one takes none", immediate_takes_none},
	{"P07", MUST, "11.19.2", 0, "its answer takes a StatSN", stat_sn},
	{"P08", MUST, "11.18.1", 0, "with tag ffffffffh it has no answer", unasked},
	{"P09", MUST, "11.18", WRITABLE, "a ping in the middle of a write", during_write},
	{"P10", MUST, "4.2.2.1", 0, "64 pings at once", many},
};
const struct group nop_group = {"nop", "RFC 7143", checks, COUNT_OF(checks)};
