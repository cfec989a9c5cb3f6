#include "config.h"

#include "iscsi/iscsi.h"

#include <string.h>

#include <isa-l/crc.h>

#include "check.h"

/*
 * Cuts the byte stream into PDUs. Bytes may come in any pieces: a header is collected whole, data
 * goes straight to the sink that the header's handler chose, padding and digest are collected
 * again. With a whole PDU in the loop's buffer that is one pass over it.
 */

uint32_t
iscsi_crc(uint32_t crc, const void *data, size_t length)
{
	/* ISA-L takes int and, though it only reads, a pointer to bytes it could write. */
	CHECK(length <= INT32_MAX);
	return crc32_iscsi((unsigned char *)(uintptr_t)data, (int)length, crc);
}

uint32_t
iscsi_crc_iov(uint32_t crc, const struct iovec *iov, unsigned niov, size_t skip, size_t length)
{
	size_t part;

	for (; niov > 0 && length > 0; iov++, niov--) {
		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		part = min_size(iov->iov_len - skip, length);
		crc = iscsi_crc(crc, (const uint8_t *)iov->iov_base + skip, part);
		skip = 0;
		length -= part;
	}
	return crc;
}

void
iscsi_crc_put(uint8_t out[4], uint32_t crc)
{
	crc = ~crc;
	memcpy(out, &crc, 4); /* little-endian, as configure makes sure */
}

static bool
crc_matches(const uint8_t wire[4], uint32_t crc)
{
	uint8_t ours[4];

	iscsi_crc_put(ours, crc);
	return memcmp(wire, ours, 4) == 0;
}

static void
await_header(struct iscsi_rx *rx)
{
	rx->state = RX_HEADER;
	rx->head_have = 0;
	rx->head_need = ISCSI_BHS;
	rx->started = 0;
	rx->drop = false;
	rx->reject = 0;
	rx->bad_digest = false;
	rx->spent = false;
	rx->task = NULL;
	rx->niov = 0;
	rx->skip = 0;
}

void
iscsi_rx_init(struct iscsi_rx *rx)
{
	await_header(rx);
}

static void
finish_pdu(struct iscsi_conn *conn)
{
	if (conn->login)
		iscsi_login_finish(conn);
	else
		iscsi_request_finish(conn);
	if (!conn->dying)
		await_header(&conn->rx);
}

/* 4.2.2.2: statuses before ExpStatSN have arrived. */
static void
take_acknowledgement(struct iscsi_conn *conn)
{
	uint32_t acked = get_be32(conn->rx.head + BHS_EXPSTATSN);

	if (sn_diff(acked, conn->acked) <= 0 || sn_diff(acked, conn->statsn) > 0)
		return;
	conn->acked = acked;
	if (conn->session->ntmfs > 0)
		iscsi_tmf_settle(conn->session);
}

/* The header is complete. */
static void
begin_pdu(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	size_t length = rx->head_need;

	if (conn->header_digest) {
		length -= 4;
		/* 7.8: at error recovery level 0 the connection is lost with the header. */
		if (!crc_matches(rx->head + length, iscsi_crc(ISCSI_CRC_START, rx->head, length))) {
			iscsi_conn_die(conn, "bad header digest");
			return;
		}
	}
	rx->data_length = get_be24(rx->head + BHS_DATA_LENGTH);
	if (rx->data_length > LIMIT_ISCSI_RECV) { /* 13.12 */
		iscsi_conn_die(conn, "data segment above MaxRecvDataSegmentLength");
		return;
	}
	rx->data_left = rx->data_length;
	rx->tail_have = 0;
	rx->tail_need = -rx->data_length & 3;
	if (conn->data_digest && rx->data_length > 0)
		rx->tail_need += 4;
	rx->crc = ISCSI_CRC_START;
	if (conn->state == CONN_XPT_UP || conn->login) {
		iscsi_login_begin(conn);
	} else {
		take_acknowledgement(conn);
		if (!conn->dying)
			iscsi_request_begin(conn);
	}
	rx->state = RX_DATA;
}

static size_t
take_header(struct iscsi_conn *conn, const uint8_t *data, size_t length)
{
	struct iscsi_rx *rx = &conn->rx;
	size_t part = min_size(rx->head_need - rx->head_have, length);

	if (!rx->started)
		rx->started = loop_now(conn->loop);
	memcpy(rx->head + rx->head_have, data, part);
	rx->head_have += part;
	if (rx->head_have < rx->head_need)
		return part;
	conn->heard = loop_now(conn->loop);
	conn->pinged = 0;
	if (conn->state == CONN_XPT_UP &&
		(rx->head[BHS_OPCODE] & ISCSI_OPCODE_MASK) != ISCSI_LOGIN_REQUEST) {
		/* 6.3: nothing more of it is waited for, or answered. */
		iscsi_conn_die(conn, "does not begin with a Login Request");
		return part;
	}
	if (rx->head_need == ISCSI_BHS) {
		/* TotalAHSLength is a byte: what it can say fits `head` (R02). */
		rx->head_need +=
			(size_t)rx->head[BHS_AHS_LENGTH] * 4 + (conn->header_digest ? 4 : 0);
		if (rx->head_need > ISCSI_BHS)
			return part;
	}
	begin_pdu(conn);
	return part;
}

static void
data_taken(struct iscsi_rx *rx, size_t part)
{
	rx->skip += part;
	rx->data_left -= (uint32_t)part;
}

static size_t
take_data(struct iscsi_conn *conn, const uint8_t *data, size_t length)
{
	struct iscsi_rx *rx = &conn->rx;
	size_t part = min_size(rx->data_left, length);

	if (conn->data_digest)
		rx->crc = iscsi_crc(rx->crc, data, part);
	if (rx->niov)
		iov_from(rx->iov, rx->niov, rx->skip, data, part);
	data_taken(rx, part);
	return part;
}

static size_t
take_tail(struct iscsi_conn *conn, const uint8_t *data, size_t length)
{
	struct iscsi_rx *rx = &conn->rx;
	size_t part = min_size(rx->tail_need - rx->tail_have, length);
	size_t pad = -rx->data_length & 3;

	memcpy(rx->tail + rx->tail_have, data, part);
	rx->tail_have += part;
	if (rx->tail_have < rx->tail_need)
		return part;
	/* The digest covers the padding (11.2.3). */
	if (rx->tail_need > pad)
		rx->bad_digest = !crc_matches(rx->tail + pad, iscsi_crc(rx->crc, rx->tail, pad));
	return part;
}

size_t
iscsi_rx_feed(struct iscsi_conn *conn, const uint8_t *data, size_t length)
{
	struct iscsi_rx *rx = &conn->rx;
	size_t taken = 0;

	while (!rx->blocked && !conn->dying && !conn->closing) {
		if (rx->state == RX_HEADER) {
			if (taken == length || iscsi_conn_choked(conn))
				break;
			taken += take_header(conn, data + taken, length - taken);
		} else if (rx->data_left > 0) {
			if (taken == length)
				break;
			taken += take_data(conn, data + taken, length - taken);
		} else if (rx->tail_have < rx->tail_need) {
			if (taken == length)
				break;
			taken += take_tail(conn, data + taken, length - taken);
		} else {
			finish_pdu(conn);
		}
	}
	return taken;
}

unsigned
iscsi_rx_direct(struct iscsi_rx *rx, struct iovec *iov, unsigned max)
{
	size_t covered;
	unsigned n;

	if (rx->state != RX_DATA || rx->data_left <= LIMIT_DIRECT_RECV || rx->niov == 0)
		return 0;
	n = iov_slice(rx->iov, rx->niov, rx->skip, rx->data_left, iov, max, &covered);
	return covered == rx->data_left ? n : 0;
}

void
iscsi_rx_directed(struct iscsi_conn *conn, size_t length)
{
	struct iscsi_rx *rx = &conn->rx;

	if (conn->data_digest)
		rx->crc = iscsi_crc_iov(rx->crc, rx->iov, rx->niov, rx->skip, length);
	data_taken(rx, length);
}

void
iscsi_rx_close(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;

	if (rx->left)
		slab_free(iscsi_caches.left, rx->left);
	rx->left = NULL;
	rx->left_length = 0;
	rx->task = NULL;
	rx->niov = 0;
	if (conn->session) {
		iscsi_wait_cancel(conn->session, &rx->wait);
		iscsi_request_free(conn->session, &rx->request);
	}
}
