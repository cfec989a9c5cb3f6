#include "config.h"

#include "iscsi/iscsi.h"

#include <string.h>

#include "check.h"

/* A task's Data-In (RFC 7143 11.7) and status (11.4). */

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
	if (task->read_edtl) { /* 11.4.5.2: refused, so nothing was read */
		head[BHS_FLAGS] |= ISCSI_BIDI_UNDERFLOW;
		put_be32(head + BHS_BIDI_RESIDUAL, task->read_edtl);
	}
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
