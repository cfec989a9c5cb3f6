/* The transmission phase, inwards: requests are parsed, checked, and submitted to the block layer.
 */
#include "config.h"

#include "nbd/nbd.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"
#include "log.h"

/*
 * FUA is a flag of every command, `flags` are those of this one alone (proto.md "Command flags").
 * `needs`: transmission flags without which a client must not send it.
 */
static const struct command {
	enum blk_op op;
	uint16_t flags;
	uint16_t needs;
	bool writes;
} commands[] = {
	[NBD_CMD_READ] = {BLK_READ, NBD_CMD_FLAG_DF, 0, false},
	[NBD_CMD_WRITE] = {BLK_WRITE, 0, 0, true},
	[NBD_CMD_DISC] = {BLK_OPS, 0, 0, false},
	[NBD_CMD_FLUSH] = {BLK_FLUSH, 0, NBD_FLAG_SEND_FLUSH, false},
	[NBD_CMD_TRIM] = {BLK_DISCARD, 0, NBD_FLAG_SEND_TRIM, true},
	/* "client implementations exist which attempt to send a cache request" without its flag. */
	[NBD_CMD_CACHE] = {BLK_PREFETCH, 0, 0, false},
	[NBD_CMD_WRITE_ZEROES] = {BLK_ZERO, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
		NBD_FLAG_SEND_WRITE_ZEROES, true},
	[NBD_CMD_BLOCK_STATUS] = {BLK_EXTENTS, NBD_CMD_FLAG_REQ_ONE, 0, false},
};

/* Command flags that only a transmission flag makes valid. */
static uint16_t
valid_flags(const struct nbd_terms *terms, const struct command *command)
{
	unsigned flags = command->flags | NBD_CMD_FLAG_FUA;

	if (!(terms->flags & NBD_FLAG_SEND_DF))
		flags &= ~NBD_CMD_FLAG_DF;
	if (!(terms->flags & NBD_FLAG_SEND_FAST_ZERO))
		flags &= ~NBD_CMD_FLAG_FAST_ZERO;
	if (terms->extended && command->op == BLK_WRITE)
		flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	if (command->op == BLK_EXTENTS && terms->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD)
		flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	return (uint16_t)flags;
}

/* What the length of the header is the length of. */
static bool
has_payload(const struct nbd_conn *conn, const struct nbd_request *request)
{
	if (conn->terms.extended)
		return request->flags & NBD_CMD_FLAG_PAYLOAD_LEN;
	return request->command == NBD_CMD_WRITE;
}

static int
check_range(const struct nbd_conn *conn, const struct nbd_request *request, const char **text)
{
	uint64_t offset = request->blk.offset;
	uint64_t length = request->blk.length;

	if ((offset | length) & (conn->terms.min_block - 1)) {
		*text = "not aligned to the minimum block size";
		return -EINVAL;
	}
	return blk_check(conn->blk, offset, length) ? 0 : -ERANGE;
}

/*
 * What a peer sent is checked here, once and completely. 0, or -errno for the answer with a text
 * for the client (or NULL: errno says it).
 */
static int
check_request(const struct nbd_conn *conn, const struct nbd_request *request,
	const struct command *command, const char **text)
{
	const struct nbd_terms *terms = &conn->terms;
	uint64_t offset = request->blk.offset;
	uint64_t length = request->blk.length;

	*text = NULL;
	if (conn->going)
		return -ESHUTDOWN;
	if (!command) {
		*text = "unknown command";
		return -EINVAL;
	}
	if (request->flags & ~valid_flags(terms, command)) {
		*text = "a flag that is not valid for this command";
		return -EINVAL;
	}
	if (command->writes && terms->flags & NBD_FLAG_READ_ONLY)
		return -EROFS;
	if (command->needs & ~terms->flags) {
		*text = "a command that is not offered";
		return -EINVAL;
	}
	switch (command->op) {
	case BLK_FLUSH:
		if (offset || length) {
			*text = "flush: offset and length are reserved";
			return -EINVAL;
		}
		return 0;
	case BLK_EXTENTS:
		if (!terms->base_allocation || !length) {
			*text = "block status: no context selected, or nothing asked for";
			return -EINVAL;
		}
		if (!(request->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
			break;
		/* There is one context to name; the range comes with the payload. */
		if (length == NBD_STATUS_LIST_SIZE)
			return 0;
		*text = "block status: not a list of selected contexts";
		return -EINVAL;
	case BLK_READ:
		if (length > terms->payload_max) {
			*text = "longer than the maximum payload";
			/* Simple replies know no EOVERFLOW ("Error values"). */
			return terms->structured ? -EOVERFLOW : -EINVAL;
		}
		break;
	case BLK_WRITE:
		if (terms->extended && !(request->flags & NBD_CMD_FLAG_PAYLOAD_LEN)) {
			*text = "a write without its payload";
			return -EINVAL;
		}
		if (length > terms->payload_max) {
			*text = "longer than the maximum payload";
			return -EINVAL;
		}
		break;
	default:
		break;
	}
	return check_range(conn, request, text);
}

static unsigned
block_flags(const struct nbd_request *request)
{
	unsigned flags = request->flags & NBD_CMD_FLAG_FUA ? BLK_FUA : 0;

	if (request->command == NBD_CMD_WRITE_ZEROES) {
		if (!(request->flags & NBD_CMD_FLAG_NO_HOLE))
			flags |= BLK_MAY_UNMAP;
		if (request->flags & NBD_CMD_FLAG_FAST_ZERO)
			flags |= BLK_FAST_ONLY;
	}
	if (request->flags & NBD_CMD_FLAG_REQ_ONE)
		flags |= BLK_EXTENT_ONE;
	return flags;
}

/* Bytes of memory a request needs before it can start, apart from a payload. */
static uint32_t
answer_size(const struct nbd_request *request)
{
	switch (request->command) {
	case NBD_CMD_READ:
		return (uint32_t)request->blk.length;
	case NBD_CMD_BLOCK_STATUS:
		if (request->flags & NBD_CMD_FLAG_REQ_ONE)
			return sizeof(struct blk_extent);
		return LIMIT_NBD_EXTENTS * sizeof(struct blk_extent);
	default:
		return 0;
	}
}

/* It has its memory. */
static void
submit_request(struct nbd_conn *conn, struct nbd_request *request)
{
	struct blk_request *blk = &request->blk;

	if (blk->op == BLK_EXTENTS) {
		blk->extents = request->buffer.iov[0].iov_base;
		blk->nextents = request->need / sizeof(struct blk_extent);
	} else if (request->buffer.length) {
		blk->iov = request->buffer.iov;
		blk->niov = request->buffer.niov;
	}
	blk_submit(conn->blk, blk);
}

/* A request without payload, whose reservation has been made. */
static void
start_request(struct nbd_conn *conn, struct nbd_request *request)
{
	int rc = 0;

	if (request->command == NBD_CMD_READ && request->need >= conn->split_from &&
		nbd_read_split(conn, request))
		return;
	if (request->need)
		rc = iobuf_take(&request->buffer, request->need);
	if (rc)
		nbd_reply_error(request, rc, NULL);
	else
		submit_request(conn, request);
}

static void
begin_request(struct nbd_conn *conn, struct nbd_request *request)
{
	request->need = answer_size(request);
	if (request->need) {
		request->use = IOBUF_READY;
		if (!nbd_conn_reserve(conn, request->need, IOBUF_READY)) {
			conn->current = request;
			return;
		}
		request->reserved = request->need;
	}
	start_request(conn, request);
}

void
nbd_transmit_granted(struct nbd_conn *conn)
{
	struct nbd_request *request = conn->current;

	request->reserved = request->need;
	/* A payload goes on with the bytes that follow. */
	if (conn->phase == NBD_PAYLOAD)
		return;
	conn->current = NULL;
	start_request(conn, request);
}

/* From now on the rest of the payload is thrown away, and then answered (R03, R09). */
static void
refuse_payload(struct nbd_conn *conn, int rc, const char *text)
{
	struct nbd_request *request = conn->current;

	request->refusal = rc;
	request->refusal_text = text;
	conn->phase = NBD_REFUSED;
}

static void
end_payload(struct nbd_conn *conn)
{
	conn->current = NULL;
	conn->phase = NBD_REQUEST;
	conn->fresh = true;
}

/* The whole length is reserved before the first byte gets memory. False: wait. */
static bool
reserve_payload(struct nbd_conn *conn)
{
	struct nbd_request *request = conn->current;

	if (request->reserved)
		return true;
	request->use = IOBUF_PAYLOAD;
	if (!nbd_conn_reserve(conn, request->need, IOBUF_PAYLOAD))
		return false;
	request->reserved = request->need;
	return true;
}

/* Room for the next bytes of the payload, one piece at a time. False: there is none, it is refused.
 */
static bool
extend_payload(struct nbd_conn *conn)
{
	struct nbd_request *request = conn->current;
	size_t have = request->need - (size_t)conn->left;
	int rc;

	if (have < request->buffer.length)
		return true;
	rc = iobuf_take(&request->buffer, (size_t)min_u64(conn->left, LIMIT_IOBUF_PIECE));
	if (rc)
		refuse_payload(conn, rc, NULL);
	return !rc;
}

size_t
nbd_payload_room(struct nbd_conn *conn, struct iovec *iov, unsigned *niov)
{
	const struct nbd_request *request = conn->current;
	size_t have = request->need - (size_t)conn->left;
	size_t room;

	if (!reserve_payload(conn) || !extend_payload(conn))
		return 0;
	*niov = iov_slice(request->buffer.iov, request->buffer.niov, have,
		request->buffer.length - have, iov, 2, &room);
	return room;
}

void
nbd_payload_arrived(struct nbd_conn *conn, size_t bytes)
{
	struct nbd_request *request = conn->current;

	conn->left -= bytes;
	if (conn->left > 0)
		return;
	end_payload(conn);
	iobuf_arrived(&conn->account, request->reserved);
	request->use = IOBUF_READY;
	submit_request(conn, request);
}

/*
 * All of a payload that an inline backend copies before blk_submit() returns: it is written from
 * where it stands in the receive buffer.
 */
static void
lend_payload(struct nbd_conn *conn, const uint8_t *data)
{
	struct nbd_request *request = conn->current;

	end_payload(conn);
	request->iov[0].iov_base = (void *)(uintptr_t)data;
	request->iov[0].iov_len = request->need;
	request->blk.iov = request->iov;
	request->blk.niov = 1;
	blk_submit(conn->blk, &request->blk);
}

static size_t
take_payload(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	struct nbd_request *request = conn->current;
	size_t have = request->need - (size_t)conn->left;
	size_t used = (size_t)min_u64(conn->left, length);

	_Static_assert(LIMIT_RECV_BUFFER <= LIMIT_INLINE_BYTES, "what is lent is copied at once");
	if (used == request->need && blk_inline(conn->blk)) {
		lend_payload(conn, data);
		return used;
	}
	if (!reserve_payload(conn) || !extend_payload(conn))
		return 0;
	used = iov_from(request->buffer.iov, request->buffer.niov, have, data, used);
	nbd_payload_arrived(conn, used);
	return used;
}

static void
end_refused(struct nbd_conn *conn)
{
	struct nbd_request *request = conn->current;

	end_payload(conn);
	nbd_reply_error(request, request->refusal, request->refusal_text);
}

static size_t
skip_payload(struct nbd_conn *conn, size_t length)
{
	size_t used = (size_t)min_u64(conn->left, length);

	conn->left -= used;
	if (conn->left == 0)
		end_refused(conn);
	return used;
}

/* The payload of a BLOCK_STATUS: its range's length, and the one context there may be. */
static size_t
take_status_list(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	uint8_t whole[NBD_HEADER_MAX];
	size_t used;
	const uint8_t *list =
		nbd_conn_header(conn, data, length, NBD_STATUS_LIST_SIZE, whole, &used);
	struct nbd_request *request = conn->current;
	const char *text = NULL;
	int rc;

	conn->left -= used;
	if (!list)
		return used;
	conn->have = 0;
	end_payload(conn);
	request->blk.length = get_be64(list);
	if (!request->blk.length || get_be32(list + 8) != NBD_BASE_ALLOCATION_ID) {
		text = "block status: a context that is not selected, or nothing asked for";
		rc = -EINVAL;
	} else {
		rc = check_range(conn, request, &text);
	}
	if (rc)
		nbd_reply_error(request, rc, text);
	else
		begin_request(conn, request);
	return used;
}

static void
dispatch_request(struct nbd_conn *conn, struct nbd_request *request, const struct command *command)
{
	const char *text;
	int rc = check_request(conn, request, command, &text);

	if (has_payload(conn, request) && request->blk.length) {
		/* "SHOULD initiate hard disconnect" ("Request message"). */
		if (conn->terms.extended && request->blk.length > conn->terms.payload_max) {
			nbd_request_release(request);
			nbd_conn_close(conn, "announced a payload longer than the maximum");
			return;
		}
		conn->current = request;
		conn->left = request->blk.length;
		conn->phase = command && command->op == BLK_EXTENTS ? NBD_STATUS_LIST : NBD_PAYLOAD;
		/* Too long is refused: drained to its end, the stream is in sync and costs no
		 * memory. */
		if (rc)
			refuse_payload(conn, rc, text);
		else
			request->need = (uint32_t)request->blk.length;
	} else if (rc) {
		nbd_reply_error(request, rc, text);
	} else {
		begin_request(conn, request);
	}
}

/* proto.md "Request message" */
static size_t
take_request(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	bool extended = conn->terms.extended;
	size_t size = extended ? NBD_EXTENDED_REQUEST_SIZE : NBD_REQUEST_SIZE;
	uint32_t magic = extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
	uint8_t whole[NBD_HEADER_MAX];
	size_t used;
	const uint8_t *header = nbd_conn_header(conn, data, length, size, whole, &used);
	const struct command *command = NULL;
	struct nbd_request *request;
	uint16_t type;

	if (!header)
		return used;
	type = get_be16(header + 6);
	if (get_be32(header) != magic || type == NBD_CMD_DISC) {
		nbd_conn_close(conn,
			get_be32(header) == magic ? NULL : "sent no request where one was due");
		return used;
	}
	request = nbd_request_new(conn);
	if (!request)
		return 0;
	conn->have = 0;
	conn->fresh = true;
	request->command = type;
	request->flags = get_be16(header + 4);
	memcpy(&request->cookie, header + 8, sizeof(request->cookie));
	request->blk.offset = get_be64(header + 16);
	request->blk.length = extended ? get_be64(header + 24) : get_be32(header + 24);
	request->blk.op = BLK_OPS;
	if (type < ARRAY_SIZE(commands)) {
		command = &commands[type];
		request->blk.op = command->op;
		request->blk.flags = block_flags(request);
	}
	dispatch_request(conn, request, command);
	return used;
}

size_t
nbd_transmit(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	size_t at = 0;

	while (at < length && nbd_reading(conn)) {
		switch (conn->phase) {
		case NBD_REQUEST:
			at += take_request(conn, data + at, length - at);
			break;
		case NBD_PAYLOAD:
			at += take_payload(conn, data + at, length - at);
			break;
		case NBD_STATUS_LIST:
			at += take_status_list(conn, data + at, length - at);
			break;
		case NBD_REFUSED:
			at += skip_payload(conn, length - at);
			break;
		default:
			return at;
		}
	}
	return at;
}
