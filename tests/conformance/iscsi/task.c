#include "config.h"
#include "session.h"

#include <stdio.h>

enum {
	TEST_UNIT_READY = 0x00,
	READ_10 = 0x28,
	WRITE_10 = 0x2a,
	PATIENCE_MS = 1000,
};

void
make_cdb(uint8_t *cdb, uint8_t opcode, uint32_t lba, uint32_t blocks)
{
	memset(cdb, 0, 16);
	cdb[0] = opcode;
	put32(cdb + 2, lba);
	put16(cdb + 7, (uint16_t)blocks);
}

uint32_t
blocks_of(const struct session *s, size_t length)
{
	return (uint32_t)(length / s->test->target->block_size);
}

struct task *
submit(struct session *s, const uint8_t *cdb, unsigned flags, uint32_t length,
	const void *immediate, size_t immediate_length)
{
	struct task *task = take(s->test, sizeof *task);
	uint8_t bhs[BHS_SIZE];
	unsigned op = flags & 0x100 ? OP_SCSI | IMMEDIATE : OP_SCSI;
	begin_bhs(s, bhs, op, flags & 0xff);
	put_lun(bhs, s->test->target->uri.lun);
	put32(bhs + 20, length);
	memcpy(bhs + 32, cdb, 16);
	task->session = s;
	task->tag = tag_of(&(struct pdu){.bhs = {[16] = bhs[16], bhs[17], bhs[18], bhs[19]}});
	task->cmd_sn = get32(bhs + 24);
	if ((flags & SCSI_READ) != 0) {
		task->in = take(s->test, length + 1);
		task->in_size = length;
	}
	if (s->task_count == TASKS_MAX)
		fail(s->test, "fewer commands in a check", "%d", TASKS_MAX);
	s->tasks[s->task_count++] = task;
	sent(s->test, "CDB %02xh, flags %02xh, expected length %u, %zu bytes of immediate data",
		cdb[0], flags & 0xff, length, immediate_length);
	send_pdu(s, bhs, immediate, immediate_length);
	return task;
}

void
await(struct task *task)
{
	struct session *s = task->session;
	unsigned r2ts = task->r2ts;
	while (!task->done && !(task->manual && task->r2ts > r2ts)) {
		const struct pdu *p = receive(s);
		if (p == NULL)
			fail(s->test, "a SCSI Response", "the connection was closed");
		if (opcode_of(p) == OP_REJECT && p->length >= BHS_SIZE &&
			get32(p->data + 16) == task->tag)
			fail(s->test, "a SCSI Response", "a Reject with reason %02xh", p->bhs[2]);
	}
}

void
expect_end(struct task *task)
{
	struct session *s = task->session;
	while (!task->done) {
		if (conn_is_quiet(s->conn, PATIENCE_MS)) {
			prefer(s->test, false, "an error, a Reject or the connection's end",
				"nothing");
			return;
		}
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			return;
	}
}

void
data_out(struct task *task, uint32_t ttt, uint32_t sn, size_t offset, size_t length, unsigned flags)
{
	struct session *s = task->session;
	uint8_t bhs[BHS_SIZE] = {OP_DATA_OUT, (uint8_t)flags};
	put_lun(bhs, s->test->target->uri.lun);
	put32(bhs + 16, task->tag);
	put32(bhs + 20, ttt);
	put32(bhs + 28, s->exp_stat_sn);
	put32(bhs + 36, sn);
	put32(bhs + 40, (uint32_t)offset);
	send_pdu(s, bhs, task->out + offset, length);
}

void
answer_r2t(struct task *task, const struct pdu *r2t)
{
	struct session *s = task->session;
	uint32_t offset = get32(r2t->bhs + 40), left = get32(r2t->bhs + 44), sn = 0;
	if (offset > task->out_length || left > task->out_length - offset || left == 0)
		fail(s->test, "an R2T within the expected length", "%u bytes at %u of %zu", left,
			offset, task->out_length);
	while (left > 0) {
		uint32_t length = left < s->max_send ? left : s->max_send;
		left -= length;
		data_out(task, get32(r2t->bhs + 20), sn++, offset, length, left == 0 ? FINAL : 0);
		offset += length;
	}
}

struct task *
submit_read(struct session *s, uint32_t lba, uint32_t blocks)
{
	uint8_t cdb[16];
	make_cdb(cdb, READ_10, lba, blocks);
	return submit(
		s, cdb, FINAL | SCSI_READ | SIMPLE, blocks * s->test->target->block_size, NULL, 0);
}

struct task *
submit_write(struct session *s, uint32_t lba, const uint8_t *bytes, size_t length, size_t immediate,
	size_t unsolicited)
{
	uint8_t cdb[16];
	make_cdb(cdb, WRITE_10, lba, blocks_of(s, length));
	struct task *task = submit(s, cdb, SCSI_WRITE | SIMPLE | (unsolicited > 0 ? 0 : FINAL),
		(uint32_t)length, bytes, immediate);
	task->out = bytes;
	task->out_length = length;
	size_t offset = immediate, end = immediate + unsolicited;
	for (uint32_t sn = 0; offset < end; sn++) {
		size_t step = end - offset < s->max_send ? end - offset : s->max_send;
		data_out(task, NO_TAG, sn, offset, step, offset + step == end ? FINAL : 0);
		offset += step;
	}
	return task;
}

void
expect_good(struct task *task)
{
	struct test *t = task->session->test;
	if (!task->done)
		await(task);
	const uint8_t *sense = task->sense_length >= 14 ? task->sense : NULL;
	if (task->response != 0)
		fail(t, "status GOOD", "response %02xh", task->response);
	if (task->status != GOOD)
		fail(t, "status GOOD", "status %02xh, sense %02x/%02x/%02x", task->status,
			sense != NULL ? sense[2] & 15u : 0, sense != NULL ? sense[12] : 0u,
			sense != NULL ? sense[13] : 0u);
}

void
expect_sense(struct task *task, unsigned key, unsigned asc)
{
	struct test *t = task->session->test;
	if (!task->done)
		await(task);
	const uint8_t *sense = task->sense_length >= 14 ? task->sense : NULL;
	char wanted[64];
	snprintf(wanted, sizeof wanted, "CHECK CONDITION, sense %02x/%02x/%02x", key, asc >> 8,
		asc & 255);
	if (sense == NULL || task->status != CHECK_CONDITION) {
		expect(t, false, wanted, "status %02xh, %zu bytes of sense", task->status,
			task->sense_length);
		return;
	}
	expect(t,
		(sense[2] & 15u) == key &&
			(asc == 0 || (sense[12] == asc >> 8 && sense[13] == (asc & 255))),
		wanted, "sense %02x/%02x/%02x", sense[2] & 15u, sense[12], sense[13]);
}

void
write_bytes(struct session *s, uint32_t lba, const uint8_t *bytes, size_t length)
{
	expect_good(submit_write(s, lba, bytes, length, 0, 0));
}

void
expect_stored(struct session *s, uint32_t lba, const uint8_t *bytes, size_t length)
{
	struct task *task = submit_read(s, lba, blocks_of(s, length));
	expect_good(task);
	if (task->in_length != length)
		fail(s->test, "all bytes that were asked for", "%zu of %zu", task->in_length,
			length);
	for (size_t i = 0; i < length; i++)
		if (task->in[i] != bytes[i])
			fail(s->test, "the bytes that were written", "%02x instead of %02x at %zu",
				task->in[i], bytes[i], i);
}

struct task *
test_unit_ready(struct session *s)
{
	uint8_t cdb[16] = {TEST_UNIT_READY};
	struct task *task = submit(s, cdb, FINAL | SIMPLE, 0, NULL, 0);
	await(task);
	return task;
}

unsigned
manage(struct session *s, unsigned function, unsigned lun, uint32_t tag, uint32_t cmd_sn)
{
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_TMF | IMMEDIATE, FINAL | function);
	put_lun(bhs, lun);
	put32(bhs + 20, tag);
	put32(bhs + 32, cmd_sn);
	sent(s->test, "task management function %u, LUN %u, task %08xh", function, lun, tag);
	send_pdu(s, bhs, NULL, 0);
	return await_pdu(s, OP_TMF_RESPONSE, get32(bhs + 16))->bhs[2];
}

void
expect_alive(struct session *s)
{
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
	put32(bhs + 20, NO_TAG);
	send_pdu(s, bhs, NULL, 0);
	await_pdu(s, OP_NOP_IN, get32(bhs + 16));
}

void
expect_serving(struct test *t)
{
	expect_good(test_unit_ready(session_open(t, "")));
}

bool
refused(struct session *s, unsigned *reason)
{
	const struct pdu *before = s->reject;
	*reason = 0;
	for (;;) {
		const struct pdu *p = receive(s);
		if (p == NULL)
			return true;
		if (opcode_of(p) == OP_REJECT && p != before) {
			*reason = p->bhs[2];
			return true;
		}
	}
}

const struct pdu *
logout(struct session *s, unsigned reason)
{
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_LOGOUT | IMMEDIATE, FINAL | reason);
	put16(bhs + 20, s->cid);
	sent(s->test, "Logout Request, reason %u", reason);
	send_pdu(s, bhs, NULL, 0);
	return await_pdu(s, OP_LOGOUT_RESPONSE, get32(bhs + 16));
}

const struct pdu *
text(struct session *s, unsigned flags, uint32_t tag, uint32_t ttt, const char *keys)
{
	uint8_t bhs[BHS_SIZE];
	char *packed = take(s->test, strlen(keys) + 2);
	size_t length = pack_keys(keys, packed);
	begin_bhs(s, bhs, OP_TEXT, flags);
	if (tag != NO_TAG)
		put32(bhs + 16, tag);
	put32(bhs + 20, ttt);
	sent(s->test, "Text Request, flags %02xh, %.160s", flags, keys);
	send_pdu(s, bhs, packed, length);
	const struct pdu *p = await_pdu(s, OP_TEXT_RESPONSE, get32(bhs + 16));
	keep_answers(s, p);
	return p;
}
