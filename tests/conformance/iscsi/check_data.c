#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>

enum {
	UNIT = 65536,
	LARGE = 1 << 20,
	INQUIRY = 0x12,
	REPORT_LUNS = 0xa0,
	READ_10 = 0x28,
	WRITE_10 = 0x2a
};

static const char small_bursts[] = "MaxBurstLength=16384\nFirstBurstLength=16384\n"
				   "MaxRecvDataSegmentLength=4096";

/* A write of the length, with as much of it sent unasked as was agreed. */
static void
write_unasked(struct test *t, const char *keys, size_t length, size_t immediate, bool more)
{
	struct session *s = session_open(t, keys);
	uint8_t *bytes =
		take_pattern(t, (unsigned)t->check->id[1] * 10 + (unsigned)t->check->id[2], length);
	size_t first = length < s->first_burst ? length : s->first_burst;
	if (immediate > s->max_send)
		immediate = s->max_send;
	if (immediate > first)
		immediate = first;
	if (immediate > 0 && !s->immediate_data)
		skip(t, "ImmediateData=Yes is not agreed to");
	if (more && s->initial_r2t)
		skip(t, "InitialR2T=No is not agreed to");
	struct task *task =
		submit_write(s, 0, bytes, length, immediate, more ? first - immediate : 0);
	expect_good(task);
	expect(t, (task->final->bhs[1] & (OVERFLOWN | UNDERFLOWN)) == 0, "no residual",
		"flags %02xh", task->final->bhs[1]);
	expect_stored(s, 0, bytes, length);
}

static void
all_solicited(struct test *t)
{
	write_unasked(t, "InitialR2T=Yes\nImmediateData=No", 4 * UNIT, 0, false);
}

static void
immediate_then_r2t(struct test *t)
{
	write_unasked(t, "InitialR2T=Yes\nImmediateData=Yes", 4 * UNIT, 4096, false);
}

static void
unsolicited_then_r2t(struct test *t)
{
	write_unasked(t, "InitialR2T=No\nImmediateData=No", 4 * UNIT, 0, true);
}

static void
both_then_r2t(struct test *t)
{
	write_unasked(t, "InitialR2T=No\nImmediateData=Yes", 4 * UNIT, 4096, true);
}

static void
immediate_alone(struct test *t)
{
	write_unasked(t, "InitialR2T=Yes\nImmediateData=Yes", 4096, 4096, false);
}

static void
unsolicited_alone(struct test *t)
{
	write_unasked(t, "InitialR2T=No\nImmediateData=No", 8192, 0, true);
}

static void
nothing_unasked(struct test *t)
{
	write_unasked(t, "InitialR2T=No\nImmediateData=Yes", 4 * UNIT, 0, false);
}

static void
immediate_whole_first_burst(struct test *t)
{
	write_unasked(t, "ImmediateData=Yes\nFirstBurstLength=4096", UNIT, 4096, false);
}

static void
small_segments(struct test *t)
{
	struct session *s = session_open(t, small_bursts);
	uint8_t *bytes = take_pattern(t, 20, UNIT);
	if (s->max_send > 2048)
		s->max_send = 2048;
	write_bytes(s, 0, bytes, UNIT);
	expect_stored(s, 0, bytes, UNIT);
}

static void
large_write(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t *bytes = take_pattern(t, 21, LARGE);
	write_bytes(s, 0, bytes, LARGE);
	expect_stored(s, 0, bytes, LARGE);
}

/* A read whose Data-In are looked at one by one. */
static struct session *
read_seen(struct test *t, const char *keys, size_t length, unsigned *first)
{
	struct session *s = session_open(t, keys);
	*first = s->seen_count;
	struct task *task = submit_read(s, 0, blocks_of(s, length));
	expect_good(task);
	expect(t, task->in_length == length, "all bytes", "%zu of %zu", task->in_length, length);
	return s;
}

static void
data_sn(struct test *t)
{
	unsigned i, sn = 0;
	struct session *s = read_seen(t, small_bursts, UNIT, &i);
	for (; i < s->seen_count; i++)
		if (opcode_of(s->seen[i]) == OP_DATA_IN) {
			expect(t, get32(s->seen[i]->bhs + 36) == sn, "DataSN from 0 up by one",
				"%u after %u PDUs", get32(s->seen[i]->bhs + 36), sn);
			sn++;
		}
}

static void
data_in_order(struct test *t)
{
	unsigned i;
	size_t offset = 0;
	struct session *s = read_seen(t, small_bursts, UNIT, &i);
	for (; i < s->seen_count; i++)
		if (opcode_of(s->seen[i]) == OP_DATA_IN) {
			expect(t, get32(s->seen[i]->bhs + 40) == offset,
				"offsets without gap or overlap", "%u instead of %zu",
				get32(s->seen[i]->bhs + 40), offset);
			offset += s->seen[i]->length;
		}
}

static void
segments_within_limit(struct test *t)
{
	unsigned i;
	struct session *s = read_seen(t, small_bursts, UNIT, &i);
	for (; i < s->seen_count; i++)
		expect(t, s->seen[i]->length <= 4096, "4096 bytes in a PDU at most", "%zu",
			s->seen[i]->length);
}

static void
smallest_segments(struct test *t)
{
	unsigned i;
	struct session *s = read_seen(t, "MaxRecvDataSegmentLength=512", UNIT, &i);
	for (; i < s->seen_count; i++)
		expect(t, s->seen[i]->length <= 512, "512 bytes in a PDU at most", "%zu",
			s->seen[i]->length);
}

static void
final_at_burst(struct test *t)
{
	unsigned i;
	size_t burst = 0;
	struct session *s = read_seen(t, small_bursts, UNIT, &i);
	for (; i < s->seen_count; i++) {
		const struct pdu *p = s->seen[i];
		if (opcode_of(p) != OP_DATA_IN)
			continue;
		burst += p->length;
		expect(t, burst <= s->max_burst, "F=1 at MaxBurstLength at the latest",
			"%zu bytes without it", burst);
		if (p->bhs[1] & FINAL)
			burst = 0;
	}
	expect(t, burst == 0, "F=1 in the last Data-In", "none");
}

static void
data_in_fields(struct test *t)
{
	unsigned i;
	struct session *s = read_seen(t, small_bursts, UNIT, &i);
	for (; i < s->seen_count; i++) {
		const struct pdu *p = s->seen[i];
		if (opcode_of(p) != OP_DATA_IN)
			continue;
		expect(t, get32(p->bhs + 20) == NO_TAG || (p->bhs[1] & 0x40),
			"Target Transfer Tag ffffffffh without A", "%08xh", get32(p->bhs + 20));
		if (p->bhs[1] & HAS_STATUS)
			expect(t, p->bhs[1] & FINAL, "F with S", "flags %02xh", p->bhs[1]);
		else
			expect(t, p->bhs[3] == 0 && (p->bhs[1] & (OVERFLOWN | UNDERFLOWN)) == 0,
				"no status or residual without S", "flags %02xh, status %02xh",
				p->bhs[1], p->bhs[3]);
	}
}

static void
padding(struct test *t)
{
	struct session *s = session_open(t, "");
	for (uint8_t length = 5; length < 9; length++) {
		uint8_t cdb[16] = {INQUIRY, 0, 0, 0, length};
		struct task *task = submit(s, cdb, FINAL | SCSI_READ | SIMPLE, length, NULL, 0);
		expect_good(task);
		expect(t, task->in_length == length, "as many bytes as asked for", "%zu of %u",
			task->in_length, length);
	}
}

/* What an R2T asks for; the write is left alone then. */
static struct task *
begin_write(struct test *t, const char *keys, size_t length)
{
	struct session *s = session_open(t, keys);
	uint8_t *bytes = take_pattern(t, 22, length);
	struct task *task = submit_write(s, 0, bytes, length, 0, 0);
	task->manual = true;
	await(task);
	if (task->done || task->r2t == NULL)
		fail(t, "an R2T", "status %02xh", task->status);
	return task;
}

static void
finish_write(struct task *task)
{
	while (!task->done) {
		answer_r2t(task, task->r2t);
		await(task);
	}
	expect_good(task);
	expect_stored(task->session, 0, task->out, task->out_length);
}

static void
r2t_sn(struct test *t)
{
	struct task *task = begin_write(t, small_bursts, UNIT);
	for (unsigned sn = 0; !task->done; sn++) {
		expect(t, get32(task->r2t->bhs + 36) == sn, "R2TSN from 0 up by one",
			"%u after %u R2Ts", get32(task->r2t->bhs + 36), sn);
		answer_r2t(task, task->r2t);
		await(task);
	}
}

static void
r2t_within_burst(struct test *t)
{
	struct task *task = begin_write(t, small_bursts, UNIT);
	size_t offset = 0;
	while (!task->done) {
		uint32_t length = get32(task->r2t->bhs + 44);
		expect(t, length > 0 && length <= task->session->max_burst, "16384 bytes at most",
			"%u", length);
		expect(t, get32(task->r2t->bhs + 40) == offset, "offsets in order",
			"%u instead of %zu", get32(task->r2t->bhs + 40), offset);
		offset += length;
		answer_r2t(task, task->r2t);
		await(task);
	}
	expect(t, offset == UNIT, "all of it asked for", "%zu of %u", offset, UNIT);
}

static void
r2t_fields(struct test *t)
{
	struct task *task = begin_write(t, "", UNIT);
	const struct pdu *p = task->r2t;
	expect(t, get32(p->bhs + 20) != NO_TAG, "a Target Transfer Tag", "ffffffffh");
	expect(t, p->length == 0 && p->bhs[1] == FINAL, "no data, flags 80h", "%zu bytes, %02xh",
		p->length, p->bhs[1]);
	expect(t, get16(p->bhs + 8) == task->session->test->target->uri.lun, "the command's LUN",
		"%04xh", get16(p->bhs + 8));
	finish_write(task);
}

static void
r2t_stat_sn(struct test *t)
{
	struct task *task = begin_write(t, "", UNIT);
	uint32_t stat_sn = get32(task->r2t->bhs + 24);
	expect(t, stat_sn == task->session->exp_stat_sn, "the next StatSN", "%u instead of %u",
		stat_sn, task->session->exp_stat_sn);
	finish_write(task);
	expect(t, get32(task->final->bhs + 24) == stat_sn, "the same StatSN in the response",
		"%u after %u", get32(task->final->bhs + 24), stat_sn);
}

static void
one_r2t_at_once(struct test *t)
{
	struct task *task = begin_write(t, small_bursts, UNIT);
	expect(t, conn_is_quiet(task->session->conn, QUIET_MS), "one R2T at once", "another PDU");
	finish_write(task);
}

static void
several_r2ts(struct test *t)
{
	struct session *s =
		session_open(t, "MaxOutstandingR2T=4\nMaxBurstLength=8192\nFirstBurstLength=8192");
	uint8_t *bytes = take_pattern(t, 23, UNIT);
	struct task *task = submit_write(s, 0, bytes, UNIT, 0, 0);
	const struct pdu *r2ts[64];
	unsigned asked = 0, answered = 0;
	task->manual = true;
	while (!task->done) {
		await(task);
		if (task->done)
			break;
		r2ts[asked++ % 64] = task->r2t;
		while (!task->done && asked - answered < s->max_outstanding &&
			!conn_is_quiet(s->conn, 20)) {
			await(task);
			if (!task->done)
				r2ts[asked++ % 64] = task->r2t;
		}
		expect(t, asked - answered <= s->max_outstanding, "MaxOutstandingR2T at most", "%u",
			asked - answered);
		for (; answered < asked; answered++)
			answer_r2t(task, r2ts[answered % 64]);
	}
	expect_good(task);
	expect_stored(s, 0, bytes, UNIT);
}

/* A command whose expected length is not what its CDB says. */
static struct task *
mismatch(struct test *t, uint8_t opcode, unsigned flags, uint32_t length, uint32_t blocks)
{
	struct session *s = session_open(t, "");
	uint8_t cdb[16];
	make_cdb(cdb, opcode, 0, blocks);
	struct task *task = submit(s, cdb, FINAL | flags | SIMPLE, length, NULL, 0);
	task->out = take_pattern(t, 24, length + 1);
	task->out_length = length;
	await(task);
	return task;
}

static void
expect_residual(struct test *t, const struct task *task, unsigned flag, uint32_t count)
{
	const uint8_t *bhs = task->final->bhs;
	unsigned flags = bhs[1] & (OVERFLOWN | UNDERFLOWN);
	expect(t, flags == flag && (flag == 0 || get32(bhs + 44) == count),
		flag == OVERFLOWN    ? "O and the exact count"
		: flag == UNDERFLOWN ? "U and the exact count"
				     : "no residual",
		"flags %02xh, residual %u, wanted %u, status %02xh", flags, get32(bhs + 44), count,
		task->status);
}

static void
read_underflow(struct test *t)
{
	uint32_t block = t->target->block_size;
	struct task *task = mismatch(t, READ_10, SCSI_READ, 8 * block, 2);
	expect_residual(t, task, UNDERFLOWN, 6 * block);
	expect(t, task->in_length == 2 * block, "the bytes there are", "%zu", task->in_length);
}

static void
read_overflow(struct test *t)
{
	uint32_t block = t->target->block_size;
	expect_residual(t, mismatch(t, READ_10, SCSI_READ, 2 * block, 8), OVERFLOWN, 6 * block);
}

static void
read_odd_length(struct test *t)
{
	uint32_t block = t->target->block_size;
	struct task *task = mismatch(t, READ_10, SCSI_READ, 2 * block - 3, 2);
	expect_residual(t, task, OVERFLOWN, 3);
}

static void
inquiry_underflow(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t cdb[16] = {INQUIRY, 0, 0, 0, 255};
	struct task *task = submit(s, cdb, FINAL | SCSI_READ | SIMPLE, 4096, NULL, 0);
	expect_good(task);
	expect_residual(t, task, UNDERFLOWN, 4096 - (uint32_t)task->in_length);
}

static void
report_luns_overflow(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t cdb[16] = {REPORT_LUNS, [9] = 16};
	struct task *task = submit(s, cdb, FINAL | SCSI_READ | SIMPLE, 8, NULL, 0);
	await(task);
	expect(t, task->final->bhs[1] & OVERFLOWN, "O", "flags %02xh", task->final->bhs[1]);
	expect(t, get32(task->final->bhs + 44) == 8, "a residual of 8", "%u",
		get32(task->final->bhs + 44));
}

static void
write_underflow(struct test *t)
{
	uint32_t block = t->target->block_size;
	struct task *task = mismatch(t, WRITE_10, SCSI_WRITE, 8 * block, 2);
	expect_residual(t, task, UNDERFLOWN, 6 * block);
}

static void
write_overflow(struct test *t)
{
	uint32_t block = t->target->block_size;
	struct task *task = mismatch(t, WRITE_10, SCSI_WRITE, 2 * block, 8);
	expect_residual(t, task, OVERFLOWN, 6 * block);
}

static void
read_expecting_nothing(struct test *t)
{
	struct task *task = mismatch(t, READ_10, 0, 0, 2);
	expect_residual(t, task, OVERFLOWN, 2 * t->target->block_size);
	expect_alive(task->session);
}

static void
write_expecting_nothing(struct test *t)
{
	struct task *task = mismatch(t, WRITE_10, 0, 0, 2);
	expect_residual(t, task, OVERFLOWN, 2 * t->target->block_size);
	expect_alive(task->session);
}

static void
read_as_write(struct test *t)
{
	struct task *task = mismatch(t, READ_10, SCSI_WRITE, 2 * t->target->block_size, 2);
	expect(t, task->done, "an answer", "none");
	expect_alive(task->session);
}

static void
write_as_read(struct test *t)
{
	struct task *task = mismatch(t, WRITE_10, SCSI_READ, 2 * t->target->block_size, 2);
	expect(t, task->done, "an answer", "none");
	expect_alive(task->session);
}

static void
nothing_as_read(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t cdb[16] = {0};
	struct task *task = submit(s, cdb, FINAL | SCSI_READ | SIMPLE, 512, NULL, 0);
	expect_good(task);
	expect_residual(t, task, UNDERFLOWN, 512);
}

static void
nothing_as_write(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t cdb[16] = {0}, bytes[512] = {0};
	struct task *task = submit(s, cdb, FINAL | SCSI_WRITE | SIMPLE, 512, NULL, 0);
	task->out = bytes;
	task->out_length = 512;
	expect_good(task);
	expect_residual(t, task, UNDERFLOWN, 512);
}

static void
error_residual(struct test *t)
{
	struct session *s = session_open(t, "");
	struct task *task = submit_read(s, 0xfffffff0, 1);
	expect_sense(task, 5, 0x2100);
	expect_residual(t, task, UNDERFLOWN, t->target->block_size);
}

static void
sense_with_status(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t cdb[16] = {0xff};
	struct task *task = submit(s, cdb, FINAL | SIMPLE, 0, NULL, 0);
	expect_sense(task, 5, 0x2000);
	expect(t, task->final->length == 2 + task->sense_length, "SenseLength and the sense",
		"%zu bytes", task->final->length);
}

static void
error_with_data_pending(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=Yes");
	uint8_t *bytes = take_pattern(t, 25, 4096);
	uint8_t cdb[16];
	make_cdb(cdb, WRITE_10, 0xfffffff0, blocks_of(s, 4096));
	struct task *task = submit(s, cdb, FINAL | SCSI_WRITE | SIMPLE, 4096, bytes, 4096);
	task->out = bytes;
	task->out_length = 4096;
	expect_sense(task, 5, 0x2100);
	expect_alive(s);
}

static void
bidirectional(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t cdb[16];
	make_cdb(cdb, READ_10, 0, 1);
	uint8_t bhs[BHS_SIZE], ahs[8] = {0, 5, 2, 0};
	begin_bhs(s, bhs, OP_SCSI, FINAL | SCSI_READ | SCSI_WRITE | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	put32(bhs + 20, t->target->block_size);
	put32(ahs + 4, t->target->block_size);
	memcpy(bhs + 32, cdb, 16);
	sent(t, "a SCSI Command with R, W and an AHS for the read length");
	send_ahs(s, bhs, ahs, 8, NULL, 0);
	for (;;) {
		const struct pdu *p = receive(s);
		if (p == NULL)
			fail(t, "a SCSI Response or a Reject", "a closed connection");
		if (opcode_of(p) == OP_SCSI_RESPONSE || opcode_of(p) == OP_REJECT)
			break;
	}
	expect_alive(s);
}

static void
extended_cdb(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE], ahs[20] = {0, 17, 1, 0};
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	bhs[32] = 0x7f;
	bhs[39] = 24;
	put16(bhs + 40, 0xffff);
	sent(t, "a CDB of 32 bytes with an unknown service action");
	send_ahs(s, bhs, ahs, 20, NULL, 0);
	const struct pdu *p = await_pdu(s, OP_SCSI_RESPONSE, get32(bhs + 16));
	expect(t, p->bhs[3] == CHECK_CONDITION, "CHECK CONDITION", "status %02xh", p->bhs[3]);
	expect_alive(s);
}

static void
wrong_data_sn(struct test *t)
{
	struct task *task = begin_write(t, "", 8192);
	data_out(task, get32(task->r2t->bhs + 20), 7, 0, 8192, FINAL);
	struct session *s = task->session;
	while (!task->done) {
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			return;
	}
	expect(t, task->status != GOOD, "a failed write", "status GOOD");
}

static void
wrong_offset(struct test *t)
{
	struct task *task = begin_write(t, "", 8192);
	data_out(task, get32(task->r2t->bhs + 20), 0, 4096, 4096, 0);
	data_out(task, get32(task->r2t->bhs + 20), 1, 0, 4096, FINAL);
	struct session *s = task->session;
	while (!task->done) {
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			return;
	}
	if (task->status == GOOD)
		expect_stored(s, 0, task->out, task->out_length);
}

/* Every second Data-Out of the burst first, where that was agreed. */
static void
any_order(struct test *t)
{
	struct session *s = session_open(t, "DataPDUInOrder=No\nImmediateData=No");
	const char *agreed = answer(s, "DataPDUInOrder");
	if (agreed == NULL || strcmp(agreed, "No") != 0)
		skip(t, "DataPDUInOrder=No is not agreed to");
	uint8_t *bytes = take_pattern(t, 27, 8192);
	struct task *task = submit_write(s, 0, bytes, 8192, 0, 0);
	task->manual = true;
	await(task);
	if (task->r2t == NULL || get32(task->r2t->bhs + 44) < 8192)
		skip(t, "an R2T for less than 8 KiB");
	static const uint16_t offsets[] = {2048, 6144, 0, 4096};
	for (uint32_t i = 0; i < 4; i++)
		data_out(task, get32(task->r2t->bhs + 20), i, offsets[i], 2048, i == 3 ? FINAL : 0);
	expect_good(task);
	expect_stored(s, 0, bytes, 8192);
}

static void
data_out_past_burst(struct test *t)
{
	struct task *task = begin_write(t, small_bursts, UNIT);
	uint32_t asked = get32(task->r2t->bhs + 44);
	if (asked >= UNIT || task->session->max_send < asked + 512)
		skip(t, "R2Ts of all of it");
	data_out(task, get32(task->r2t->bhs + 20), 0, 0, asked + 512, FINAL);
	struct session *s = task->session;
	while (!task->done) {
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			return;
		if (opcode_of(p) == OP_R2T)
			answer_r2t(task, p);
	}
	expect(t, task->status != GOOD, "a failed write", "status GOOD");
}

static void
wrong_transfer_tag(struct test *t)
{
	struct task *task = begin_write(t, "ImmediateData=No", 8192);
	uint8_t *right = take_pattern(t, 28, 8192);
	data_out(task, get32(task->r2t->bhs + 20) ^ 0x55, 0, 0, 8192, FINAL);
	struct session *s = task->session;
	task->out = right;
	expect_alive(s);
	expect(t, !task->done || task->status != GOOD, "no write of data nobody asked for",
		"status GOOD");
	if (task->done)
		return;
	answer_r2t(task, task->r2t);
	expect_good(task);
	struct task *read = submit_read(s, 0, blocks_of(s, 8192));
	expect_good(read);
	expect(t, memcmp(read->in, right, 8192) == 0, "the data that was asked for", "the other");
}

static void
final_too_early(struct test *t)
{
	struct task *task = begin_write(t, "", 8192);
	data_out(task, get32(task->r2t->bhs + 20), 0, 0, 4096, FINAL);
	struct session *s = task->session;
	while (!task->done) {
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			return;
		if (opcode_of(p) == OP_R2T)
			return;
	}
	expect(t, task->status != GOOD, "a failed write, or another R2T", "status GOOD");
}

static void
unwanted_immediate(struct test *t)
{
	struct session *s = session_open(t, "ImmediateData=No");
	uint8_t *bytes = take_pattern(t, 26, 4096);
	uint8_t cdb[16];
	make_cdb(cdb, WRITE_10, 0, blocks_of(s, 4096));
	struct task *task = submit(s, cdb, FINAL | SCSI_WRITE | SIMPLE, 4096, bytes, 4096);
	task->out = bytes;
	task->out_length = 4096;
	while (!task->done) {
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			return;
	}
	expect(t, task->status != GOOD, "an error", "status GOOD");
}

static const struct check checks[] = {
	{"D01", MUST, "13.10", WRITABLE, "InitialR2T=Yes, ImmediateData=No: all of it is solicited",
		all_solicited},
	{"D02", MUST, "13.11", WRITABLE | BURSTY, "InitialR2T=Yes, ImmediateData=Yes",
		immediate_then_r2t},
	{"D03", MUST, "13.10", WRITABLE | UNSOLICITED, "InitialR2T=No, ImmediateData=No",
		unsolicited_then_r2t},
	{"D04", MUST, "13.10", WRITABLE | UNSOLICITED | BURSTY, "InitialR2T=No, ImmediateData=Yes",
		both_then_r2t},
	{"D05", MUST, "11.3.6", WRITABLE | BURSTY, "a write that is all immediate data",
		immediate_alone},
	{"D06", MUST, "11.7", WRITABLE | UNSOLICITED, "a write that is all unsolicited Data-Out",
		unsolicited_alone},
	{"D07", MUST, "4.2.5.2", WRITABLE, "what was allowed unasked and not sent is asked for",
		nothing_unasked},
	{"D08", MUST, "13.14", WRITABLE | BURSTY, "immediate data of all of FirstBurstLength",
		immediate_whole_first_burst},
	{"D09", MUST, "11.7.7", WRITABLE, "Data-Out in segments far below the limit",
		small_segments},
	{"D10", MUST, "11.8", WRITABLE, "a write of several bursts", large_write},
	{"D11", MUST, "11.7.5", 0, "Data-In: DataSN from 0 up by one", data_sn},
	{"D12", MUST, "11.7.6", 0, "Data-In: offsets in order", data_in_order},
	{"D13", MUST, "13.12", 0, "Data-In: within MaxRecvDataSegmentLength",
		segments_within_limit},
	{"D14", MUST, "13.12", 0, "Data-In: segments of 512 bytes", smallest_segments},
	{"D15", MUST, "13.13", 0, "Data-In: F at each MaxBurstLength and at the end",
		final_at_burst},
	{"D16", MUST, "11.7.4", 0, "Data-In: Target Transfer Tag, status only with S",
		data_in_fields},
	{"D17", MUST, "11.1", 0, "data of any length is padded to four bytes", padding},
	{"D18", MUST, "11.8.2", WRITABLE, "R2T: R2TSN from 0 up by one", r2t_sn},
	{"D19", MUST, "11.8.4", WRITABLE, "R2T: MaxBurstLength at most, in order, all in all",
		r2t_within_burst},
	{"D20", MUST, "11.8", WRITABLE, "R2T: tag, flags, LUN", r2t_fields},
	{"D21", MUST, "11.8.3", WRITABLE, "R2T: the next StatSN, which does not advance",
		r2t_stat_sn},
	{"D22", MUST, "13.17", WRITABLE, "R2T: one at once with MaxOutstandingR2T=1",
		one_r2t_at_once},
	{"D23", MUST, "13.17", WRITABLE, "R2T: no more at once than agreed", several_r2ts},
	{"D24", MUST, "11.4.5.1", 0, "READ of less than expected: U and the rest", read_underflow},
	{"D25", MUST, "11.4.5.1", 0, "READ of more than expected: O and the rest", read_overflow},
	{"D26", MUST, "11.4.5.1", 0, "READ cut inside a block: O and the rest", read_odd_length},
	{"D27", MUST, "11.4.5.1", 0, "INQUIRY of less than expected: U and the rest",
		inquiry_underflow},
	{"D28", SHOULD, "11.4.5.3", 0, "REPORT LUNS of more than expected: O and the rest",
		report_luns_overflow},
	{"D29", MUST, "11.4.5.1", WRITABLE, "WRITE of less than expected: U and the rest",
		write_underflow},
	{"D30", MUST, "11.4.5.1", WRITABLE, "WRITE of more than expected: O and the rest",
		write_overflow},
	{"D31", MUST, "11.4.5.1", 0, "READ with nothing expected: O and all of it",
		read_expecting_nothing},
	{"D32", MUST, "11.4.5.1", WRITABLE, "WRITE with nothing expected: O and all of it",
		write_expecting_nothing},
	{"D33", MUST, "11.3.1", 0, "READ with the W flag is answered", read_as_write},
	{"D34", MUST, "11.3.1", WRITABLE, "WRITE with the R flag is answered", write_as_read},
	{"D35", MUST, "11.4.5.1", 0, "TEST UNIT READY with R: U and all of it", nothing_as_read},
	{"D36", MUST, "11.4.5.1", 0, "TEST UNIT READY with W: U and all of it", nothing_as_write},
	{"D37", SHOULD, "11.4.5.1", 0, "a failed READ: U and all of it", error_residual},
	{"D38", MUST, "11.4.7", 0, "CHECK CONDITION comes with its sense", sense_with_status},
	{"D39", MUST, "11.3.6", WRITABLE | BURSTY, "a failed WRITE's immediate data is passed over",
		error_with_data_pending},
	{"D40", MUST, "11.2.2.4", 0, "a bidirectional command is answered", bidirectional},
	{"D41", MUST, "11.2.2.3", 0, "a CDB above 16 bytes is answered", extended_cdb},
	{"D42", MUST, "7.9", WRITABLE, "a wrong DataSN fails the write", wrong_data_sn},
	{"D43", MUST, "13.18", WRITABLE, "Data-Out out of order: a failed write, or the right one",
		wrong_offset},
	{"D44", MUST, "11.7.1", WRITABLE, "a burst ended too early is no complete write",
		final_too_early},
	{"D46", MUST, "13.18", WRITABLE, "DataPDUInOrder=No: a burst in any order", any_order},
	{"D47", MUST, "11.8.4", WRITABLE, "Data-Out of more than its R2T asked for fails the write",
		data_out_past_burst},
	{"D48", SHOULD, "11.7.4", WRITABLE,
		"Data-Out with a wrong Target Transfer Tag is not taken", wrong_transfer_tag},
	{"D45", SHOULD, "13.11", WRITABLE, "immediate data that was not agreed to is an error",
		unwanted_immediate},
};
const struct group data_group = {"data", "RFC 7143", checks, COUNT_OF(checks)};
