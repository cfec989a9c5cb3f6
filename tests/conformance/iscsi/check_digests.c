#include "config.h"
#include "checks.h"

#include "session.h"

static const char both[] = "HeaderDigest=CRC32C\nDataDigest=CRC32C";

static struct session *
open_with(struct test *t, const char *keys, bool header, bool data)
{
	struct session *s = session_open(t, keys);
	if (s->header_digest != header || s->data_digest != data)
		skip(t, "not agreed to");
	return s;
}

static void
read_headers(struct test *t)
{
	struct session *s = open_with(t, "HeaderDigest=CRC32C", true, false);
	expect_good(submit_read(s, 0, blocks_of(s, 65536)));
	expect_alive(s);
}

static void
read_data(struct test *t)
{
	struct session *s = open_with(t, "DataDigest=CRC32C", false, true);
	expect_good(submit_read(s, 0, blocks_of(s, 65536)));
}

static void
read_both(struct test *t)
{
	struct session *s = open_with(t, both, true, true);
	expect_good(submit_read(s, 0, blocks_of(s, 65536)));
	expect_sense(submit_read(s, 0xfffffff0, 1), 5, 0x2100);
}

static void
write_both(struct test *t)
{
	struct session *s = open_with(t, both, true, true);
	uint8_t *bytes = take_pattern(t, 40, 131072);
	expect_good(submit_write(s, 0, bytes, 131072, s->immediate_data ? 4096 : 0, 0));
	expect_stored(s, 0, bytes, 131072);
}

static void
padded(struct test *t)
{
	struct session *s = open_with(t, both, true, true);
	for (uint8_t length = 5; length < 9; length++) {
		uint8_t cdb[16] = {0x12, 0, 0, 0, length};
		expect_good(submit(s, cdb, FINAL | SCSI_READ | SIMPLE, length, NULL, 0));
	}
}

static void
text_and_ping(struct test *t)
{
	struct session *s = open_with(t, both, true, true);
	text(s, FINAL, NO_TAG, NO_TAG, "SendTargets=");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
	put32(bhs + 20, NO_TAG);
	send_pdu(s, bhs, "abcde", 5);
	const struct pdu *p = await_pdu(s, OP_NOP_IN, get32(bhs + 16));
	expect(t, p->length == 5 && memcmp(p->data, "abcde", 5) == 0, "the ping's data",
		"%zu bytes", p->length);
}

static void
ahs_covered(struct test *t)
{
	struct session *s = open_with(t, "HeaderDigest=CRC32C", true, false);
	uint8_t bhs[BHS_SIZE], ahs[20] = {0, 17, 1, 0};
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	bhs[32] = 0x7f;
	bhs[39] = 24;
	put16(bhs + 40, 0xffff);
	send_ahs(s, bhs, ahs, 20, NULL, 0);
	await_pdu(s, OP_SCSI_RESPONSE, get32(bhs + 16));
	expect_alive(s);
}

static void
bad_header(struct test *t)
{
	struct session *s = open_with(t, "HeaderDigest=CRC32C", true, false);
	s->spoil_header_digest = true;
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	sent(t, "TEST UNIT READY with a wrong header digest");
	send_pdu(s, bhs, NULL, 0);
	if (conn_is_quiet(s->conn, QUIET_MS))
		return;
	const struct pdu *p = receive(s);
	expect(t, p == NULL || opcode_of(p) == OP_ASYNC, "no answer, or the connection's end",
		"a PDU %02xh", p != NULL ? opcode_of(p) : 0);
	expect_serving(t);
}

static void
bad_data_of_ping(struct test *t)
{
	struct session *s = open_with(t, both, true, true);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
	put32(bhs + 20, NO_TAG);
	s->spoil_data_digest = true;
	sent(t, "a NOP-Out with a wrong data digest");
	send_pdu(s, bhs, "abcd", 4);
	const struct pdu *p = await_pdu(s, OP_REJECT, NO_TAG);
	expect(t, p->bhs[2] == REJECT_DATA_DIGEST, "Reject 02h", "reason %02xh", p->bhs[2]);
	expect_alive(s);
}

static void
bad_immediate(struct test *t)
{
	struct session *s = open_with(t, "DataDigest=CRC32C\nImmediateData=Yes", false, true);
	uint8_t *bytes = take_pattern(t, 41, 4096), *before = take_pattern(t, 42, 4096);
	write_bytes(s, 0, before, 4096);
	uint32_t cmd_sn = s->cmd_sn;
	s->spoil_data_digest = true;
	uint8_t cdb[16];
	make_cdb(cdb, 0x2a, 0, blocks_of(s, 4096));
	submit(s, cdb, FINAL | SCSI_WRITE | SIMPLE, 4096, bytes, 4096);
	sent(t, "WRITE with a wrong digest of its immediate data");
	const struct pdu *p = await_pdu(s, OP_REJECT, NO_TAG);
	expect(t, p->bhs[2] == REJECT_DATA_DIGEST, "Reject 02h", "reason %02xh", p->bhs[2]);
	expect(t, p->length >= BHS_SIZE && p->data[0] == OP_SCSI, "the header that was rejected",
		"%zu bytes", p->length);
	/* 7.8: the command was never received; its CmdSN is still to come. */
	expect(t, (int32_t)(s->exp_cmd_sn - cmd_sn) <= 0, "a CmdSN that is still expected",
		"ExpCmdSN %u after %u", s->exp_cmd_sn, cmd_sn);
	s->cmd_sn = cmd_sn;
	expect_stored(s, 0, before, 4096);
}

static void
bad_data_out(struct test *t)
{
	struct session *s = open_with(t, "DataDigest=CRC32C\nImmediateData=No", false, true);
	uint8_t *bytes = take_pattern(t, 43, 4096);
	struct task *task = submit_write(s, 0, bytes, 4096, 0, 0);
	task->manual = true;
	await(task);
	s->spoil_data_digest = true;
	sent(t, "Data-Out with a wrong digest");
	data_out(task, get32(task->r2t->bhs + 20), 0, 0, 4096, FINAL);
	const struct pdu *p = await_pdu(s, OP_REJECT, NO_TAG);
	expect(t, p->bhs[2] == REJECT_DATA_DIGEST, "Reject 02h", "reason %02xh", p->bhs[2]);
	expect_sense(task, 0x0b, 0x4705);
	expect_good(test_unit_ready(s));
}

static void
bad_data_out_middle(struct test *t)
{
	struct session *s = open_with(t, "DataDigest=CRC32C\nImmediateData=No", false, true);
	uint8_t *bytes = take_pattern(t, 44, 8192);
	struct task *task = submit_write(s, 0, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	if (get32(task->r2t->bhs + 44) < 8192)
		skip(t, "an R2T for less than 8 KiB");
	s->spoil_data_digest = true;
	sent(t, "the first of two Data-Out with a wrong digest");
	data_out(task, get32(task->r2t->bhs + 20), 0, 0, 4096, 0);
	await_pdu(s, OP_REJECT, NO_TAG);
	expect(t, conn_is_quiet(s->conn, QUIET_MS) && !task->done, "no status before all data",
		"something earlier");
	data_out(task, get32(task->r2t->bhs + 20), 1, 4096, 4096, FINAL);
	expect_sense(task, 0x0b, 0x4705);
}

static const struct check checks[] = {
	{"G01", MUST, "13.1", HDIGEST, "header digests of all that comes are right", read_headers},
	{"G02", MUST, "13.1", DDIGEST, "data digests of all that comes are right", read_data},
	{"G03", MUST, "11.2.3", HDIGEST | DDIGEST, "both together, sense included", read_both},
	{"G04", MUST, "11.2.3", WRITABLE | HDIGEST | DDIGEST, "a write with both", write_both},
	{"G05", MUST, "11.2.3", HDIGEST | DDIGEST, "a data digest covers the padding", padded},
	{"G06", MUST, "11.2.3", HDIGEST | DDIGEST, "text and pings have digests too",
		text_and_ping},
	{"G07", MUST, "11.2.3", HDIGEST, "a header digest covers the AHS", ahs_covered},
	{"G08", MUST, "7.8", HDIGEST, "a PDU with a wrong header digest is not answered",
		bad_header},
	{"G09", MUST, "7.8", HDIGEST | DDIGEST, "a ping with a wrong data digest: Reject 02h",
		bad_data_of_ping},
	{"G10", MUST, "7.8", WRITABLE | DDIGEST | BURSTY,
		"bad immediate data: Reject 02h, the CmdSN not taken", bad_immediate},
	{"G11", MUST, "7.8", WRITABLE | DDIGEST, "bad Data-Out: Reject 02h, then 0B/47/05",
		bad_data_out},
	{"G12", MUST, "7.8", WRITABLE | DDIGEST, "that status comes after all data",
		bad_data_out_middle},
};
const struct group digests_group = {"digests", "RFC 7143", checks, COUNT_OF(checks)};
