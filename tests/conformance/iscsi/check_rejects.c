#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>

/* A PDU that cannot be: the Reject for it, or NULL if the connection was closed. */
static const struct pdu *
send_odd(struct session *s, uint8_t *bhs, const void *data, size_t length, const char *what)
{
	sent(s->test, "%s", what);
	send_pdu(s, bhs, data, length);
	for (;;) {
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			return p;
		if (tag_of(p) == get32(bhs + 16) && opcode_of(p) != OP_NOP_IN)
			fail(s->test, "a Reject", "a PDU %02xh", opcode_of(p));
	}
}

static void
expect_reason(struct test *t, const struct pdu *p, unsigned reason)
{
	char words[32];
	snprintf(words, sizeof words, "a Reject with reason %02xh", reason);
	if (p == NULL)
		prefer(t, false, words, "the connection was closed");
	else
		expect(t, p->bhs[2] == reason, words, "reason %02xh", p->bhs[2]);
}

static void
odd_opcode(struct test *t, unsigned op, const char *what)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, op | IMMEDIATE, FINAL);
	const struct pdu *p = send_odd(s, bhs, NULL, 0, what);
	expect_reason(t, p, REJECT_UNSUPPORTED);
	if (p != NULL)
		expect_alive(s);
}

static void
reserved_opcode(struct test *t)
{
	odd_opcode(t, 0x07, "opcode 07h");
}

static void
vendor_opcode(struct test *t)
{
	odd_opcode(t, 0x1c, "the vendor's opcode 1ch");
}

static void
target_opcode(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	unsigned reason;
	begin_bhs(s, bhs, OP_NOP_IN | IMMEDIATE, FINAL);
	sent(t, "a NOP-In");
	send_pdu(s, bhs, NULL, 0);
	refused(s, &reason);
	expect_serving(t);
}

static void
header_returned(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, 0x07 | IMMEDIATE, FINAL);
	const struct pdu *p = send_odd(s, bhs, NULL, 0, "opcode 07h");
	if (p == NULL)
		skip(t, "the connection is closed instead of a Reject");
	expect(t, p->length >= BHS_SIZE && memcmp(p->data, bhs, BHS_SIZE) == 0,
		"the header that was rejected, all of it", "%zu bytes, or others", p->length);
	expect(t, p->bhs[1] == FINAL, "flags 80h", "%02xh", p->bhs[1]);
	expect(t, tag_of(p) == NO_TAG, "tag ffffffffh", "%08xh", tag_of(p));
}

static void
reject_stat_sn(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t next = s->exp_stat_sn;
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, 0x07 | IMMEDIATE, FINAL);
	const struct pdu *p = send_odd(s, bhs, NULL, 0, "opcode 07h");
	if (p == NULL)
		skip(t, "the connection is closed instead of a Reject");
	expect(t, get32(p->bhs + 24) == next, "the next StatSN", "%u instead of %u",
		get32(p->bhs + 24), next);
	struct task *task = test_unit_ready(s);
	expect(t, get32(task->final->bhs + 24) == next + 1, "StatSN one higher after the Reject",
		"%u after %u", get32(task->final->bhs + 24), next);
}

static void
snack(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_SNACK | IMMEDIATE, FINAL);
	put32(bhs + 20, NO_TAG);
	const struct pdu *p = send_odd(s, bhs, NULL, 0, "SNACK at ErrorRecoveryLevel 0");
	if (p == NULL) {
		prefer(t, false, "a Reject", "the connection was closed");
		return;
	}
	expect(t,
		p->bhs[2] == REJECT_SNACK || p->bhs[2] == REJECT_PROTOCOL ||
			p->bhs[2] == REJECT_UNSUPPORTED,
		"Reject 03h, 04h or 05h", "reason %02xh", p->bhs[2]);
}

static void
data_out_of_nothing(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE] = {OP_DATA_OUT, FINAL}, bytes[512] = {0};
	unsigned seen = s->seen_count;
	put_lun(bhs, t->target->uri.lun);
	put32(bhs + 16, 0xabcdef);
	put32(bhs + 20, 0x12345);
	put32(bhs + 28, s->exp_stat_sn);
	sent(t, "Data-Out for a task that is not there");
	send_pdu(s, bhs, bytes, sizeof bytes);
	expect_alive(s);
	for (unsigned i = seen; i < s->seen_count; i++)
		expect(t, opcode_of(s->seen[i]) == OP_REJECT || opcode_of(s->seen[i]) == OP_NOP_IN,
			"a Reject, or nothing", "a PDU %02xh", opcode_of(s->seen[i]));
}

static void
tag_in_use(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	uint8_t *bytes = take_pattern(t, 60, 8192);
	struct task *task = submit_write(s, 0, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	put32(bhs + 16, task->tag);
	sent(t, "TEST UNIT READY with the tag of a write that is not finished");
	send_pdu(s, bhs, NULL, 0);
	if (conn_is_quiet(s->conn, QUIET_MS))
		fail(t, "a Reject, an error, or the connection's end", "nothing");
	const struct pdu *p = receive(s);
	expect(t, p == NULL || opcode_of(p) == OP_REJECT || p->bhs[3] != GOOD,
		"a Reject, an error, or the connection's end", "status GOOD");
	expect_serving(t);
}

static void
write_without_final(struct test *t)
{
	struct session *s = session_open(t, "InitialR2T=Yes\nImmediateData=Yes");
	uint8_t cdb[16], *bytes = take_pattern(t, 61, 8192);
	make_cdb(cdb, 0x2a, 0, blocks_of(s, 8192));
	struct task *task = submit(s, cdb, SCSI_WRITE | SIMPLE, 8192, NULL, 0);
	task->out = bytes;
	task->out_length = 8192;
	sent(t, "WRITE with F=0 under InitialR2T=Yes");
	expect_end(task);
	expect(t, !task->done || task->status != GOOD, "an error", "status GOOD");
	expect_serving(t);
}

static void
payload_passed_over(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE], *bytes = take_pattern(t, 62, 4096);
	begin_bhs(s, bhs, 0x07 | IMMEDIATE, FINAL);
	const struct pdu *p = send_odd(s, bhs, bytes, 4096, "opcode 07h with 4 KiB of data");
	if (p == NULL)
		skip(t, "the connection is closed instead of a Reject");
	expect_alive(s);
}

static void
missing_lun(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	put_lun(bhs, 200);
	sent(t, "TEST UNIT READY to LUN 200");
	send_pdu(s, bhs, NULL, 0);
	const struct pdu *p = await_pdu(s, OP_SCSI_RESPONSE, get32(bhs + 16));
	expect(t, p->bhs[3] == CHECK_CONDITION && p->length >= 16 && p->data[2 + 12] == 0x25,
		"CHECK CONDITION 05/25/00", "status %02xh", p->bhs[3]);
}

static const struct check checks[] = {
	{"R01", MUST, "11.17.1", 0, "a reserved opcode: Reject 05h", reserved_opcode},
	{"R02", MUST, "11.17.1", 0, "a vendor's opcode: Reject 05h", vendor_opcode},
	{"R03", MUST, "11.2.1.2", 0, "a target's opcode from the initiator does no harm", target_opcode},
	{"R04", MUST, "11.17.4", 0, "a Reject returns the whole header", header_returned},
	{"R05", MUST, "11.17.3", 0, "a Reject takes a StatSN", reject_stat_sn},
	{"R06", MUST, "11.16", 0, "SNACK at level 0 is rejected", snack},
	{"R07", MUST, "7.9", 0, "Data-Out without a task: Reject or nothing", data_out_of_nothing},
	{"R08", SHOULD, "11.2.1.8", WRITABLE, "a tag in use is refused", tag_in_use},
	{"R09", SHOULD, "13.10", WRITABLE, "WRITE with F=0 under InitialR2T=Yes is an error",
		write_without_final},
	{"R10", MUST, "7.3", 0, "a rejected PDU's data is passed over", payload_passed_over},
	{"R11", MUST, "4.4.2", 0, "a command to a missing LUN: 05/25/00", missing_lun},
};
const struct group rejects_group = {"rejects", "RFC 7143", checks, COUNT_OF(checks)};
