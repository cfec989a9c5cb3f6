#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>

/* Whatever comes of it on that connection, others are served. */
static void
unharmed(struct session *s)
{
	conn_is_quiet(s->conn, QUIET_MS);
	conn_reset(s->conn);
	expect_serving(s->test);
}

static void
send_noise(struct session *s)
{
	uint8_t *bytes = take(s->test, 4096);
	for (int i = 0; i < 4096; i++)
		bytes[i] = (uint8_t)test_random(s->test);
	conn_write(s->conn, bytes, 4096);
	unharmed(s);
}

static void
noise(struct test *t)
{
	struct session *s = session_connect(t);
	sent(t, "4096 random bytes");
	send_noise(s);
}

static void
noise_after_login(struct test *t)
{
	struct session *s = session_open(t, "");
	sent(t, "4096 random bytes after login");
	send_noise(s);
}

static void
noise_with_digests(struct test *t)
{
	send_noise(session_open(t, "HeaderDigest=CRC32C\nDataDigest=CRC32C"));
}

static void
web_request(struct test *t)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
	struct session *s = session_connect(t);
	sent(t, "an HTTP request");
	conn_write(s->conn, request, sizeof request - 1);
	unharmed(s);
}

static void
huge_login(struct test *t)
{
	struct session *s = session_connect(t);
	uint8_t bhs[BHS_SIZE] = {
		OP_LOGIN | IMMEDIATE, STAGES(SECURITY, OPERATIONAL), [5] = 0xff, 0xff, 0xff};
	sent(t, "a Login Request that announces 16 MiB");
	conn_write(s->conn, bhs, BHS_SIZE);
	unharmed(s);
}

static void
endless_keys(struct test *t)
{
	struct session *s = session_connect(t);
	char keys[7200];
	size_t used = 0;
	for (int i = 0; i < 200; i++)
		used += (size_t)snprintf(keys + used, sizeof keys - used,
			"X-com.example.key%u=12345%s", i, i < 199 ? "\n" : "");
	const struct pdu *p = login_step(s, CONTINUE | SECURITY << 2, with_names(s, keys));
	for (int i = 0; i < 40 && login_status(p) == 0; i++)
		p = login_step(s, CONTINUE | SECURITY << 2, keys);
	expect(t, p == NULL || login_status(p) != 0, "a refusal sooner or later", "40 times more");
	expect_serving(t);
}

static void
endless_login(struct test *t)
{
	if (t->target->uri.user != NULL)
		skip(t, "the URI has credentials");
	struct session *s = session_connect(t);
	const struct pdu *p = login_step(s, SECURITY << 2, with_names(s, "AuthMethod=None"));
	for (int i = 0; i < 200 && login_status(p) == 0; i++)
		p = login_step(s, SECURITY << 2, "");
	prefer(t, login_status(p) != 0, "an end of a login that makes no progress",
		"none after 200 requests");
	expect_serving(t);
}

static void
no_equals(struct test *t)
{
	struct session *s = session_connect(t);
	unsigned status = login_status(login_step(s, STAGES(SECURITY, OPERATIONAL),
		with_names(s, "AuthMethod=None\nnonsense without sign")));
	expect(t, status == CLOSED || status >> 8 == 2, "a refusal", "status %04xh", status);
	expect_serving(t);
}

static void
no_nul(struct test *t)
{
	struct session *s = session_connect(t);
	uint8_t bhs[BHS_SIZE] = {OP_LOGIN | IMMEDIATE, STAGES(SECURITY, OPERATIONAL)};
	memcpy(bhs + 8, s->isid, 6);
	sent(t, "keys without a NUL at the end");
	send_pdu(s, bhs, "InitiatorName=iqn.2026-11.localhost:xyz", 39);
	receive(s);
	unharmed(s);
}

static void
large_segment(struct test *t)
{
	struct session *s = session_open(t, "");
	if (s->max_send >= 0xffffff)
		skip(t, "the target takes 16 MiB");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
	put32(bhs + 20, NO_TAG);
	put24(bhs + 5, 0xffffff);
	sent(t, "a NOP-Out that announces 16 MiB");
	conn_write(s->conn, bhs, BHS_SIZE);
	unharmed(s);
}

static void
large_immediate(struct test *t)
{
	struct session *s = session_open(t, "FirstBurstLength=4096\nImmediateData=Yes");
	uint8_t *bytes = take_pattern(t, 90, 8192);
	uint8_t cdb[16];
	if (s->first_burst >= 8192 || s->max_send < 8192)
		skip(t, "FirstBurstLength is not 4096");
	make_cdb(cdb, 0x2a, 0, blocks_of(s, 8192));
	struct task *task = submit(s, cdb, FINAL | SCSI_WRITE | SIMPLE, 8192, bytes, 8192);
	expect_end(task);
	expect(t, !task->done || task->status != GOOD, "an error", "status GOOD");
	expect_serving(t);
}

static void
data_out_past_end(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	uint8_t *bytes = take_pattern(t, 91, 65536);
	struct task *task = submit_write(s, 0, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	task->out_length = 65536;
	uint8_t bhs[BHS_SIZE] = {OP_DATA_OUT, FINAL};
	put32(bhs + 16, task->tag);
	memcpy(bhs + 20, task->r2t->bhs + 20, 4);
	put32(bhs + 40, 0xfffff000);
	sent(t, "Data-Out at offset fffff000h");
	send_pdu(s, bhs, bytes, 8192);
	expect_end(task);
	expect(t, !task->done || task->status != GOOD, "an error", "status GOOD");
	expect_serving(t);
}

static void
more_than_asked(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	uint8_t *bytes = take_pattern(t, 92, 65536);
	uint8_t *guard = take_pattern(t, 93, 8192);
	uint32_t next = blocks_of(s, 8192);
	write_bytes(s, next, guard, 8192);
	struct task *task = submit_write(s, 0, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	data_out(task, get32(task->r2t->bhs + 20), 0, 0, 8192, 0);
	task->out = bytes;
	data_out(task, get32(task->r2t->bhs + 20), 1, 8192, 8192, FINAL);
	expect_end(task);
	expect_stored(session_open(t, ""), next, guard, 8192);
}

static void
wrong_ahs(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE], ahs[8] = {0xff, 0xff, 1, 0};
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	sent(t, "an AHS that says it is longer than it is");
	send_ahs(s, bhs, ahs, 8, NULL, 0);
	unharmed(s);
}

static void
longest_ahs(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE], ahs[1020] = {0};
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	sent(t, "1020 bytes of AHS");
	send_ahs(s, bhs, ahs, sizeof ahs, NULL, 0);
	unharmed(s);
}

static void
hang_up_at_each_byte(struct test *t)
{
	uint8_t bhs[BHS_SIZE] = {OP_LOGIN | IMMEDIATE, STAGES(SECURITY, OPERATIONAL), [7] = 64};
	for (size_t i = 0; i <= BHS_SIZE; i += 3) {
		struct session *s = session_connect(t);
		conn_write(s->conn, bhs, i);
		if (i & 1)
			conn_reset(s->conn);
		else
			conn_close(s->conn);
	}
	expect_serving(t);
}

static void
reset_in_reads(struct test *t)
{
	for (int i = 0; i < 8; i++) {
		struct session *s = session_open(t, "");
		for (int j = 0; j < 4; j++)
			submit_read(s, 0, blocks_of(s, 262144));
		conn_reset(s->conn);
	}
	expect_serving(t);
}

static void
reset_in_write(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	uint8_t *bytes = take_pattern(t, 94, 65536);
	struct task *task = submit_write(s, 0, bytes, 65536, 0, 0);
	task->manual = true;
	await(task);
	data_out(task, get32(task->r2t->bhs + 20), 0, 0, 4096, 0);
	conn_reset(s->conn);
	expect_serving(t);
}

static void
huge_expected_length(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_SCSI, FINAL | SCSI_READ | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	put32(bhs + 20, 0xffffffff);
	sent(t, "TEST UNIT READY that expects 4 GiB");
	send_pdu(s, bhs, NULL, 0);
	const struct pdu *p = await_pdu(s, OP_SCSI_RESPONSE, get32(bhs + 16));
	expect(t, p->bhs[3] == GOOD && get32(p->bhs + 44) == 0xffffffff, "U and all of it",
		"status %02xh, residual %u", p->bhs[3], get32(p->bhs + 44));
}

static void
endless_text(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE], *part = take_pattern(t, 95, 4096);
	memset(part, 'a', 4096);
	sent(t, "a Text Request of parts without end");
	begin_bhs(s, bhs, OP_TEXT | IMMEDIATE, CONTINUE);
	put32(bhs + 20, NO_TAG);
	for (int i = 0; i < 256; i++) {
		if (!send_pdu(s, bhs, part, 4096))
			break;
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT) {
			expect_serving(t);
			return;
		}
		memcpy(bhs + 20, p->bhs + 20, 4);
	}
	fail(t, "a Reject sooner or later", "none after 1 MiB");
}

/* Answers are not taken: the target stops reading, or closes, but does not collect them for ever. */
static void
pings_unread(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE], *bytes = take_pattern(t, 96, 4096);
	sent(t, "16 MiB of pings");
	for (int i = 0; i < 4096; i++) {
		begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
		put32(bhs + 20, NO_TAG);
		if (!send_pdu(s, bhs, bytes, 4096))
			break;
	}
	conn_reset(s->conn);
	expect_serving(t);
}

static void
many_rejects(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	sent(t, "1024 PDUs of opcode 07h");
	for (int i = 0; i < 1024; i++) {
		begin_bhs(s, bhs, 0x07 | IMMEDIATE, FINAL);
		if (!send_pdu(s, bhs, NULL, 0))
			break;
	}
	unharmed(s);
}

static void
many_managements(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	sent(t, "1024 ABORT TASK of nothing");
	for (int i = 0; i < 1024; i++) {
		begin_bhs(s, bhs, OP_TMF | IMMEDIATE, FINAL | ABORT_TASK);
		put_lun(bhs, t->target->uri.lun);
		put32(bhs + 20, 0xabcdef);
		put32(bhs + 32, s->cmd_sn - 1);
		if (!send_pdu(s, bhs, NULL, 0))
			break;
	}
	unharmed(s);
}

static void
each_opcode(struct test *t)
{
	for (unsigned op = 0; op < 64; op++) {
		struct session *s = session_open(t, "");
		uint8_t bhs[BHS_SIZE];
		for (size_t i = 0; i < BHS_SIZE; i++)
			bhs[i] = (uint8_t)test_random(t);
		bhs[0] = (uint8_t)(op | IMMEDIATE);
		bhs[4] = 0;
		put24(bhs + 5, 0);
		sent(t, "opcode %02xh with a header of random bytes", op);
		conn_write(s->conn, bhs, BHS_SIZE);
		conn_close(s->conn);
	}
	expect_serving(t);
}

static void
each_opcode_in_login(struct test *t)
{
	for (unsigned op = 0; op < 64; op++) {
		struct session *s = session_connect(t);
		uint8_t bhs[BHS_SIZE];
		for (size_t i = 0; i < BHS_SIZE; i++)
			bhs[i] = (uint8_t)test_random(t);
		bhs[0] = (uint8_t)(op | IMMEDIATE);
		bhs[4] = 0;
		put24(bhs + 5, 0);
		sent(t, "opcode %02xh with a header of random bytes, before login", op);
		conn_write(s->conn, bhs, BHS_SIZE);
		conn_close(s->conn);
	}
	expect_serving(t);
}

static void
others_served_meanwhile(struct test *t)
{
	struct session *s[8];
	for (unsigned i = 0; i < 8; i++) {
		s[i] = session_open(t, "ImmediateData=No");
		uint8_t *bytes = take_pattern(t, 97, 8192);
		struct task *task = submit_write(s[i], 0, bytes, 8192, 0, 0);
		task->manual = true;
		await(task);
	}
	sent(t, "eight sessions' writes whose data does not come");
	struct session *other = session_open(t, "");
	expect_good(submit_read(other, 0, 1));
	expect_alive(other);
}

static void
login_half_way(struct test *t)
{
	struct session *s[32];
	for (int i = 0; i < 32; i++) {
		s[i] = session_connect(t);
		login_step(s[i], SECURITY << 2, with_names(s[i], "AuthMethod=None,CHAP"));
	}
	sent(t, "32 logins that stop half way");
	expect_serving(t);
	for (int i = 0; i < 32; i++)
		conn_reset(s[i]->conn);
	expect_serving(t);
}

static void
many_connections(struct test *t)
{
	for (int i = 0; i < 16; i++)
		session_connect(t);
	expect_serving(t);
}

static const struct check checks[] = {
	{"H01", MUST, "7.7", 0, "random bytes before login", noise},
	{"H02", MUST, "7.7", 0, "random bytes after login", noise_after_login},
	{"H03", MUST, "7.8", HDIGEST | DDIGEST, "random bytes with digests", noise_with_digests},
	{"H04", MUST, "6.3", 0, "an HTTP request", web_request},
	{"H05", MUST, "11.12", 0, "a Login Request of 16 MiB", huge_login},
	{"H06", MUST, "6.2", 0, "a login of keys without end", endless_keys},
	{"H07", MUST, "6.3", 0, "a login of steps without end", endless_login},
	{"H08", SHOULD, "6.1", 0, "a key without = is refused", no_equals},
	{"H09", MUST, "6.1", 0, "keys without NUL", no_nul},
	{"H10", MUST, "13.12", 0, "a segment above MaxRecvDataSegmentLength", large_segment},
	{"H11", SHOULD, "13.14", WRITABLE | BURSTY,
		"immediate data above FirstBurstLength is an error", large_immediate},
	{"H12", MUST, "11.7.6", WRITABLE, "Data-Out far outside of its write", data_out_past_end},
	{"H13", MUST, "11.8.4", WRITABLE, "Data-Out of more than asked for touches nothing else",
		more_than_asked},
	{"H14", MUST, "11.2.2", 0, "an AHS that lies about its length", wrong_ahs},
	{"H15", MUST, "11.2.2", 0, "the longest AHS", longest_ahs},
	{"H16", MUST, "7.14", 0, "hanging up at any byte of a login", hang_up_at_each_byte},
	{"H17", MUST, "7.14", 0, "resets with reads in flight", reset_in_reads},
	{"H18", MUST, "7.14", WRITABLE, "a reset in the middle of a write", reset_in_write},
	{"H19", MUST, "11.3.4", 0, "an expected length of 4 GiB for nothing", huge_expected_length},
	{"H21", MUST, "6.2", 0, "a Text Request of parts without end", endless_text},
	{"H22", MUST, "7.14", 0, "16 MiB of pings whose answers are not taken", pings_unread},
	{"H23", MUST, "7.3", 0, "a thousand PDUs to reject", many_rejects},
	{"H24", MUST, "11.5", 0, "a thousand task management requests", many_managements},
	{"H25", MUST, "7.7", 0, "each opcode with random fields", each_opcode},
	{"H26", MUST, "7.7", 0, "each opcode with random fields before login",
		each_opcode_in_login},
	{"H27", MUST, "4.2.5.2", WRITABLE, "writes whose data does not come hold nobody up",
		others_served_meanwhile},
	{"H28", MUST, "6.3", 0, "32 logins that stop half way", login_half_way},
	{"H20", MUST, "7.5", 0, "16 connections that say nothing", many_connections},
};
const struct group hostile_group = {"hostile", "RFC 7143", checks, COUNT_OF(checks)};
