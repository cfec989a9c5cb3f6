#include "config.h"

#include "iscsi/iscsi.h"

#include <string.h>

#include "check.h"

/* A task's data on the wire: Data-Out and R2T (RFC 7143 11.7, 11.8), Data-In and status
 * (11.7, 11.4). */

bool
iscsi_data_sink(struct iscsi_task *task, size_t length)
{
	struct iscsi_rx *rx = &task->conn->rx;
	struct iobuf *out = &task->scsi.out;
	size_t end = min_size(task->out_have + length, task->out_want);

	if (task->out_have >= task->out_want)
		return true; /* more than the command takes: it passes by */
	/* Piece by piece as data comes, each but the last a whole one. */
	while (out->length < end) {
		if (iobuf_take(out, min_size(task->out_want - out->length,
					    LIMIT_IOBUF_PIECE - out->length % LIMIT_IOBUF_PIECE))) {
			iscsi_task_refuse(task, SCSI_BUSY);
			return false;
		}
	}
	rx->iov = out->iov;
	rx->niov = out->niov;
	rx->skip = task->out_have;
	return true;
}

void
iscsi_data_solicit(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;
	struct iscsi_reply *reply;
	size_t burst = min_size(task->out_want - task->out_have, session->params.max_burst);

	reply = iscsi_reply_new(task->conn, ISCSI_R2T, task->itt);
	if (!reply)
		return;
	if (++session->ttt == ISCSI_TAG_NONE)
		session->ttt = 0;
	task->ttt = session->ttt;
	task->solicited = true;
	task->burst_end = task->out_have + burst;
	task->datasn = 0;
	task->progress = loop_now(task->conn->loop);
	memcpy(reply->head + BHS_LUN, task->scsi.lun, sizeof(task->scsi.lun));
	put_be32(reply->head + BHS_TTT, task->ttt);
	put_be32(reply->head + BHS_DATASN, task->r2tsn++);
	put_be32(reply->head + BHS_OFFSET, (uint32_t)task->out_have);
	put_be32(reply->head + BHS_DESIRED, (uint32_t)burst);
	/* 11.8: StatSN is carried and not advanced. */
	iscsi_reply_push(reply, 0, STATSN_NEXT);
}

void
iscsi_data_begin(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	const uint8_t *bhs = rx->head;
	uint32_t ttt = get_be32(bhs + BHS_TTT);
	uint32_t offset = get_be32(bhs + BHS_OFFSET);
	struct iscsi_task *task = iscsi_task_find(conn->session, get_be32(bhs + BHS_ITT));

	/* Data of a task that was aborted may still be on its way. */
	rx->drop = true;
	if (!task || task->state != TASK_COLLECT)
		return;
	if (task->conn != conn) { /* 4.2.5.1: allegiance */
		rx->reject = ISCSI_REJECT_PROTOCOL;
		return;
	}
	if (ttt == ISCSI_TAG_NONE && !task->unsolicited) {
		iscsi_task_fail(task, 0x0c, 0x0c); /* 11.4.7.2: unexpected unsolicited data */
		iscsi_task_go(task);
		return;
	}
	if (ttt != ISCSI_TAG_NONE && (!task->solicited || ttt != task->ttt)) {
		rx->reject = ISCSI_REJECT_FIELD;
		return;
	}
	rx->drop = false;
	rx->task = task;
	if (task->refused)
		return;
	/* 7.9: something is missing in between, or it is more than was agreed. */
	if (!range_within(offset, rx->data_length, task->burst_end))
		iscsi_task_fail(task, 0x0c, 0x0d);
	else if (get_be32(bhs + BHS_DATASN) != task->datasn || offset != task->out_have)
		iscsi_task_fail(task, 0x47, 0x05);
	else
		iscsi_data_sink(task, rx->data_length);
}

void
iscsi_data_finish(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	struct iscsi_task *task = rx->task;
	bool final = rx->head[BHS_FLAGS] & ISCSI_FINAL;

	rx->task = NULL;
	if (rx->bad_digest) {
		/* 7.8: a Reject now, and CHECK CONDITION when the sequence is over. */
		iscsi_reply_reject(conn, ISCSI_REJECT_DIGEST, rx->head);
		if (conn->dying)
			return;
		iscsi_task_fail(task, 0x47, 0x05);
	}
	task->progress = loop_now(conn->loop);
	task->datasn++;
	task->out_have += rx->data_length;
	if (!final && (task->refused || task->out_have < task->burst_end))
		return;
	/* A solicited sequence brings all that was asked for. */
	if (task->solicited && task->out_have < task->burst_end)
		iscsi_task_fail(task, 0x0c, 0x0d);
	task->solicited = false;
	task->unsolicited = false;
	iscsi_task_go(task);
}

/* 11.4.5: what was expected (EDTL) against what the command wanted to move. */
static uint8_t
residual_of(const struct iscsi_task *task, uint32_t *residual)
{
	const struct scsi_task *scsi = &task->scsi;
	uint64_t wanted = 0, expected = task->edtl;

	*residual = 0;
	if (scsi->in_length > 0) {
		wanted = scsi->in_length;
		if (!task->read)
			expected = 0;
	} else if (!task->refused && scsi->out_length > 0) {
		wanted = scsi->out_length;
		if (!task->write)
			expected = 0;
	}
	if (wanted == expected)
		return 0;
	*residual = (uint32_t)(wanted > expected ? wanted - expected : expected - wanted);
	return wanted > expected ? ISCSI_OVERFLOW : ISCSI_UNDERFLOW;
}

/* One Data-In PDU; returns the entries of iov used. */
static unsigned
build_data_in(struct iscsi_task *task, unsigned pdu, struct iovec *iov)
{
	struct iscsi_conn *conn = task->conn;
	struct scsi_task *scsi = &task->scsi;
	uint8_t *head = task->head[pdu];
	uint32_t residual, crc = ISCSI_CRC_START;
	size_t length;
	unsigned n = 1;

	length = min_size(
		task->in_length - task->in_sent, task->session->params.max_burst - task->in_burst);
	length = min_size(length, min_size(conn->max_recv, LIMIT_ISCSI_RECV));
	n += iov_slice(scsi->in.iov, scsi->in.niov, task->in_sent, length, iov + 1, 4, &length);
	memset(head, 0, ISCSI_BHS);
	head[BHS_OPCODE] = ISCSI_DATA_IN;
	put_be24(head + BHS_DATA_LENGTH, (uint32_t)length);
	put_be32(head + BHS_ITT, task->itt);
	put_be32(head + BHS_TTT, ISCSI_TAG_NONE);
	put_be32(head + BHS_DATASN, task->in_datasn++);
	put_be32(head + BHS_OFFSET, (uint32_t)task->in_sent);
	task->in_sent += length;
	task->in_burst += length;
	/* 11.7.1: F ends a sequence, at MaxBurstLength or with the data. */
	if (task->in_burst == task->session->params.max_burst || task->in_sent == task->in_length) {
		head[BHS_FLAGS] = ISCSI_FINAL;
		task->in_burst = 0;
	}
	if (task->in_sent == task->in_length && scsi->status == SCSI_GOOD) {
		head[BHS_FLAGS] |= ISCSI_DATA_IN_STATUS | residual_of(task, &residual);
		head[BHS_STATUS] = SCSI_GOOD;
		put_be32(head + BHS_RESIDUAL, residual);
		put_be32(head + BHS_STATSN, conn->statsn++);
		task->state = TASK_STATUS;
	}
	if (conn->data_digest)
		crc = iscsi_crc_iov(crc, iov + 1, n - 1, 0, length);
	iov[n].iov_base = task->tail[pdu];
	iov[n].iov_len = iscsi_tail_seal(conn, task->tail[pdu], length, crc);
	if (iov[n].iov_len)
		n++;
	iov[0].iov_base = head;
	iov[0].iov_len = iscsi_head_seal(conn, head);
	return n;
}

/* The SCSI Response (11.4), with its sense data. */
static unsigned
build_response(struct iscsi_task *task, unsigned pdu, struct iovec *iov)
{
	struct iscsi_conn *conn = task->conn;
	struct scsi_task *scsi = &task->scsi;
	uint8_t *head = task->head[pdu];
	uint32_t residual, crc = ISCSI_CRC_START;
	size_t length = scsi->sense_length ? (size_t)scsi->sense_length + 2 : 0;
	unsigned n = 1;

	memset(head, 0, ISCSI_BHS);
	head[BHS_OPCODE] = ISCSI_RESPONSE;
	head[BHS_FLAGS] = ISCSI_FINAL | residual_of(task, &residual);
	head[BHS_STATUS] = scsi->status;
	put_be24(head + BHS_DATA_LENGTH, (uint32_t)length);
	put_be32(head + BHS_ITT, task->itt);
	put_be32(head + BHS_STATSN, conn->statsn++);
	put_be32(head + BHS_DATASN, task->in_datasn ? task->in_datasn : task->r2tsn);
	put_be32(head + BHS_RESIDUAL, residual);
	if (length) {
		put_be16(task->sense_length, scsi->sense_length);
		iov[n++] = (struct iovec){task->sense_length, 2};
		iov[n++] = (struct iovec){scsi->sense, scsi->sense_length};
		if (conn->data_digest)
			crc = iscsi_crc_iov(crc, iov + 1, 2, 0, length);
		iov[n].iov_base = task->tail[pdu];
		iov[n].iov_len = iscsi_tail_seal(conn, task->tail[pdu], length, crc);
		if (iov[n].iov_len)
			n++;
	}
	iov[0].iov_base = head;
	iov[0].iov_len = iscsi_head_seal(conn, head);
	task->state = TASK_STATUS;
	return n;
}

/* The next PDUs of a task as one item, the status with the last of them. */
static void
queue_batch(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;
	unsigned pdu, n = 0;

	for (pdu = 0; pdu < ISCSI_BATCH && task->in_sent < task->in_length; pdu++)
		n += build_data_in(task, pdu, task->iov + n);
	if (task->in_sent == task->in_length && task->state != TASK_STATUS)
		n += build_response(task, pdu, task->iov + n);
	task->item.iov = task->iov;
	task->item.niov = n;
	if (task->state == TASK_STATUS)
		iscsi_set_leave(task);
	iscsi_conn_send(task->conn, &task->item);
	iscsi_set_settle(session);
}

static void
batch_sent(struct send_item *item, int rc)
{
	struct iscsi_task *task = container_of(item, struct iscsi_task, item);

	if (rc == 0 && task->state == TASK_REPLY && !task->aborted && !task->conn->dying)
		queue_batch(task);
	else
		iscsi_task_free(task);
}

void
iscsi_data_reply(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;

	task->state = TASK_REPLY;
	if (task->in_window)
		session->window_used--;
	task->in_window = false;
	task->in_length = task->read ? min_size(task->scsi.in_length, task->edtl) : 0;
	task->item.sent = batch_sent;
	queue_batch(task);
}
