#include "config.h"
#include "session.h"

enum { SEGMENT_MAX = 1 << 24 };

static void
start_tls(struct session *s)
{
	const struct uri *uri = &s->test->target->uri;
	if (uri->with_tls && !conn_start_tls(s->conn, tls_new(&uri->tls, uri->host, 0, 0)))
		fail(s->test, "a TLS handshake", "%s", conn_tls_error(s->conn));
}

struct session *
session_connect(struct test *t)
{
	struct session *s = take(t, sizeof *s);
	uint64_t random = test_random(t);
	s->test = t;
	s->conn = conn_open(t);
	start_tls(s);
	s->cmd_sn = (uint32_t)(random >> 32);
	s->max_cmd_sn = s->exp_cmd_sn = s->cmd_sn;
	s->next_tag = (uint32_t)random & 0xffffff;
	s->initial_r2t = s->immediate_data = true;
	s->max_burst = 262144;
	s->first_burst = 65536;
	s->max_send = s->max_receive = DEFAULT_SEGMENT;
	/* 11.12.5: type 10b, random. */
	s->isid[0] = 0x80;
	put24(s->isid + 1, (uint32_t)(random >> 8));
	put16(s->isid + 4, (uint16_t)random);
	return s;
}

static bool
send_padded(struct session *s, const void *bytes, size_t length, bool digest, bool spoil)
{
	static const uint8_t zeroes[4];
	uint8_t *whole = take(s->test, length + 8);
	size_t padded = (length + 3) & ~(size_t)3;
	memcpy(whole, bytes, length);
	memcpy(whole + length, zeroes, padded - length);
	if (digest) {
		/* 13.1: the register's lowest byte goes first. */
		uint32_t crc = crc32c(whole, padded) ^ (spoil ? 0x00010000 : 0);
		for (int i = 0; i < 4; i++)
			whole[padded++] = (uint8_t)(crc >> 8 * i);
	}
	return conn_write(s->conn, whole, padded);
}

bool
send_ahs(struct session *s, uint8_t *bhs, const uint8_t *ahs, size_t ahs_length, const void *data,
	size_t length)
{
	uint8_t header[BHS_SIZE + 1024];
	bhs[4] = (uint8_t)(ahs_length / 4);
	put24(bhs + 5, (uint32_t)length);
	memcpy(header, bhs, BHS_SIZE);
	memcpy(header + BHS_SIZE, ahs, ahs_length);
	bool spoil_header = s->spoil_header_digest, spoil_data = s->spoil_data_digest;
	s->spoil_header_digest = s->spoil_data_digest = false;
	bool ok = send_padded(s, header, BHS_SIZE + ahs_length, s->header_digest, spoil_header);
	return ok && (length == 0 || send_padded(s, data, length, s->data_digest, spoil_data));
}

bool
send_pdu(struct session *s, uint8_t *bhs, const void *data, size_t length)
{
	return send_ahs(s, bhs, bhs, 0, data, length);
}

static bool
read_digest(struct session *s, const uint8_t *bytes, size_t length, const char *what)
{
	uint8_t digest[4];
	if (!conn_read(s->conn, digest, 4))
		return false;
	uint32_t crc = (uint32_t)digest[3] << 24 | (uint32_t)digest[2] << 16 |
		       (uint32_t)digest[1] << 8 | digest[0];
	if (crc != crc32c(bytes, length))
		fail(s->test, "the right CRC32C", "a wrong %s digest", what);
	return true;
}

/* The tables of section 11: which PDUs carry a StatSN that the target moves on by. */
static bool
takes_stat_sn(const struct pdu *p)
{
	switch (opcode_of(p)) {
	case OP_R2T:
		return false;
	case OP_DATA_IN:
		return (p->bhs[1] & HAS_STATUS) != 0;
	case OP_NOP_IN:
		return tag_of(p) != NO_TAG;
	default:
		return true;
	}
}

static void
note_numbers(struct session *s, const struct pdu *p)
{
	if (takes_stat_sn(p))
		s->exp_stat_sn = get32(p->bhs + 24) + 1;
	uint32_t exp = get32(p->bhs + 28), max = get32(p->bhs + 32);
	/* 4.2.2.1: older ones are ignored. */
	if ((int32_t)(max - exp) < -1)
		return;
	if ((int32_t)(exp - s->exp_cmd_sn) > 0)
		s->exp_cmd_sn = exp;
	if ((int32_t)(max - s->max_cmd_sn) > 0)
		s->max_cmd_sn = max;
}

static void
take_data_in(struct task *task, const struct pdu *p)
{
	uint32_t offset = get32(p->bhs + 40);
	if (offset > task->in_size || p->length > task->in_size - offset)
		fail(task->session->test, "Data-In within the expected length",
			"%zu bytes at %u of %zu", p->length, offset, task->in_size);
	memcpy(task->in + offset, p->data, p->length);
	task->in_length += p->length;
	task->data_ins++;
}

static void
finish(struct task *task, const struct pdu *p)
{
	task->done = true;
	task->final = p;
	task->status = p->bhs[3];
	if (opcode_of(p) != OP_SCSI_RESPONSE)
		return;
	task->response = p->bhs[2];
	size_t length = p->length >= 2 ? get16(p->data) : 0;
	task->sense = p->data + 2;
	task->sense_length = length <= p->length - 2 && p->length >= 2 ? length : 0;
}

static void
advance_task(struct session *s, const struct pdu *p)
{
	for (unsigned i = 0; i < s->task_count; i++) {
		struct task *task = s->tasks[i];
		if (task->done || task->tag != tag_of(p))
			continue;
		switch (opcode_of(p)) {
		case OP_DATA_IN:
			take_data_in(task, p);
			if ((p->bhs[1] & HAS_STATUS) != 0)
				finish(task, p);
			break;
		case OP_SCSI_RESPONSE:
			finish(task, p);
			break;
		case OP_R2T:
			task->r2t = p;
			task->r2ts++;
			if (!task->manual)
				answer_r2t(task, p);
			break;
		}
		return;
	}
}

static void
answer_ping(struct session *s, const struct pdu *p)
{
	uint8_t bhs[BHS_SIZE] = {OP_NOP_OUT | IMMEDIATE, FINAL};
	memcpy(bhs + 8, p->bhs + 8, 8);
	put32(bhs + 16, NO_TAG);
	memcpy(bhs + 20, p->bhs + 20, 4);
	put32(bhs + 24, s->cmd_sn);
	put32(bhs + 28, s->exp_stat_sn);
	send_pdu(s, bhs, NULL, 0);
}

const struct pdu *
receive(struct session *s)
{
	uint8_t header[BHS_SIZE + 1024];
	struct pdu *p = take(s->test, sizeof *p);
	if (!conn_read(s->conn, header, BHS_SIZE))
		return NULL;
	size_t ahs_length = (size_t)header[4] * 4;
	if (!conn_read(s->conn, header + BHS_SIZE, ahs_length))
		return NULL;
	if (s->header_digest && !read_digest(s, header, BHS_SIZE + ahs_length, "header"))
		return NULL;
	memcpy(p->bhs, header, BHS_SIZE);
	p->length = get24(header + 5);
	size_t padded = (p->length + 3) & ~(size_t)3;
	p->data = take(s->test, padded + 1);
	if (!conn_read(s->conn, p->data, padded))
		return NULL;
	if (s->data_digest && padded > 0 && !read_digest(s, p->data, padded, "data"))
		return NULL;
	p->data[p->length] = 0;
	if (s->seen_count < SEEN_MAX)
		s->seen[s->seen_count++] = p;
	note_numbers(s, p);
	if (opcode_of(p) == OP_NOP_IN && get32(p->bhs + 20) != NO_TAG)
		answer_ping(s, p);
	if (opcode_of(p) == OP_REJECT)
		s->reject = p;
	advance_task(s, p);
	return p;
}

const struct pdu *
await_pdu(struct session *s, enum opcode op, uint32_t tag)
{
	for (;;) {
		const struct pdu *p = receive(s);
		if (p == NULL)
			fail(s->test, "an answer",
				"the connection was closed instead of a PDU %02xh", op);
		if (opcode_of(p) == op && (tag == NO_TAG || tag_of(p) == tag))
			return p;
		/* 11.17.4: the rejected PDU's header is its data. */
		if (opcode_of(p) == OP_REJECT && p->length >= BHS_SIZE &&
			get32(p->data + 16) == tag)
			fail(s->test, "an answer", "a Reject with reason %02xh", p->bhs[2]);
	}
}

void
begin_bhs(struct session *s, uint8_t *bhs, unsigned op, unsigned flags)
{
	memset(bhs, 0, BHS_SIZE);
	bhs[0] = (uint8_t)op;
	bhs[1] = (uint8_t)flags;
	put32(bhs + 16, s->next_tag++);
	put32(bhs + 24, s->cmd_sn);
	put32(bhs + 28, s->exp_stat_sn);
	if ((op & IMMEDIATE) == 0)
		s->cmd_sn++;
}

uint8_t *
put_lun(uint8_t *bhs, unsigned lun)
{
	bhs[8] = 0;
	bhs[9] = (uint8_t)lun;
	return bhs;
}
