#include "config.h"

#include "iscsi/iscsi.h"

#include <string.h>

#include "check.h"

static void
free_reply(struct iscsi_reply *reply)
{
	struct iscsi_conn *conn = reply->conn;

	if (reply->text)
		slab_free(iscsi_caches.text, reply->text);
	iobuf_free(&reply->buffer);
	if (reply->reserved)
		iobuf_unreserve(&conn->session->account, reply->reserved, IOBUF_READY);
	conn->replies--;
	slab_free(iscsi_caches.reply, reply);
}

/* The loop's thread, from send_queue_flush() or send_queue_drop(). */
static void
reply_sent(struct send_item *item, int rc)
{
	struct iscsi_reply *reply = container_of(item, struct iscsi_reply, item);
	struct iscsi_conn *conn = reply->conn;
	bool last = reply->last && rc == 0;

	free_reply(reply);
	if (last)
		iscsi_conn_close(conn);
}

struct iscsi_reply *
iscsi_reply_new(struct iscsi_conn *conn, enum iscsi_opcode opcode, uint32_t itt)
{
	struct iscsi_reply *reply = slab_alloc(iscsi_caches.reply);

	if (!reply) {
		iscsi_conn_die(conn, "out of memory");
		return NULL;
	}
	memset(reply, 0, sizeof(*reply));
	reply->conn = conn;
	reply->item.sent = reply_sent;
	reply->head[BHS_OPCODE] = (uint8_t)opcode;
	reply->head[BHS_FLAGS] = ISCSI_FINAL;
	put_be32(reply->head + BHS_ITT, itt);
	conn->replies++;
	return reply;
}

void
iscsi_reply_discard(struct iscsi_reply *reply)
{
	free_reply(reply);
}

size_t
iscsi_head_seal(struct iscsi_conn *conn, uint8_t head[ISCSI_HEAD])
{
	struct iscsi_session *session = conn->session;

	if (session) {
		put_be32(head + BHS_EXPCMDSN, session->exp_cmdsn);
		put_be32(head + BHS_MAXCMDSN, iscsi_session_announce(session));
	}
	if (!conn->header_digest)
		return ISCSI_BHS;
	iscsi_crc_put(head + ISCSI_BHS, iscsi_crc(ISCSI_CRC_START, head, ISCSI_BHS));
	return ISCSI_HEAD;
}

size_t
iscsi_tail_seal(struct iscsi_conn *conn, uint8_t tail[ISCSI_TAIL], size_t length, uint32_t crc)
{
	size_t pad = -length & 3; /* 11.1 */

	memset(tail, 0, pad);
	if (!conn->data_digest || length == 0)
		return pad;
	iscsi_crc_put(tail + pad, iscsi_crc(crc, tail, pad));
	return pad + 4;
}

void
iscsi_reply_push(struct iscsi_reply *reply, size_t length, enum iscsi_statsn statsn)
{
	struct iscsi_conn *conn = reply->conn;
	uint32_t crc = ISCSI_CRC_START;
	unsigned n = 1;
	size_t covered;

	put_be24(reply->head + BHS_DATA_LENGTH, (uint32_t)length);
	put_be32(reply->head + BHS_STATSN, conn->statsn);
	if (statsn == STATSN_ADVANCE)
		conn->statsn++;
	if (length > 0 && reply->buffer.niov) {
		n += iov_slice(reply->buffer.iov, reply->buffer.niov, 0, length, reply->iov + 1,
			ARRAY_SIZE(reply->iov) - 2, &covered);
		CHECK(covered == length);
	} else if (length > 0) {
		reply->iov[n].iov_base = reply->text ? reply->text->data : reply->few;
		reply->iov[n++].iov_len = length;
	}
	if (conn->data_digest)
		crc = iscsi_crc_iov(crc, reply->iov + 1, n - 1, 0, length);
	reply->iov[n].iov_base = reply->tail;
	reply->iov[n].iov_len = iscsi_tail_seal(conn, reply->tail, length, crc);
	if (reply->iov[n].iov_len)
		n++;
	reply->iov[0].iov_base = reply->head;
	reply->iov[0].iov_len = iscsi_head_seal(conn, reply->head);
	reply->item.iov = reply->iov;
	reply->item.niov = n;
	iscsi_conn_send(conn, &reply->item);
}

void
iscsi_reply_reject(struct iscsi_conn *conn, enum iscsi_reject reason, const uint8_t *bhs)
{
	struct iscsi_reply *reply = iscsi_reply_new(conn, ISCSI_REJECT, ISCSI_TAG_NONE);

	if (!reply)
		return;
	reply->head[BHS_RESPONSE] = (uint8_t)reason;
	/* 11.17: the header that offended, and nothing else of its PDU. */
	memcpy(reply->few, bhs, ISCSI_BHS);
	iscsi_reply_push(reply, ISCSI_BHS, STATSN_ADVANCE);
}

void
iscsi_reply_async(
	struct iscsi_conn *conn, enum iscsi_async_event event, const uint16_t parameters[3])
{
	struct iscsi_reply *reply = iscsi_reply_new(conn, ISCSI_ASYNC, ISCSI_TAG_NONE);
	unsigned i;

	if (!reply)
		return;
	reply->head[BHS_EVENT] = (uint8_t)event;
	for (i = 0; i < 3; i++)
		put_be16(reply->head + BHS_PARAMETER + 2 * i, parameters[i]);
	iscsi_reply_push(reply, 0, STATSN_ADVANCE);
}

void
iscsi_reply_event(
	struct iscsi_conn *conn, const uint8_t lun[8], const uint8_t *sense, uint8_t length)
{
	struct iscsi_reply *reply = iscsi_reply_new(conn, ISCSI_ASYNC, ISCSI_TAG_NONE);

	if (!reply)
		return;
	CHECK(length + 2u <= sizeof(reply->few));
	reply->head[BHS_EVENT] = ISCSI_ASYNC_SCSI;
	memcpy(reply->head + BHS_LUN, lun, 8);
	put_be16(reply->few, length); /* 11.9.4 */
	memcpy(reply->few + 2, sense, length);
	iscsi_reply_push(reply, length + 2u, STATSN_ADVANCE);
}
