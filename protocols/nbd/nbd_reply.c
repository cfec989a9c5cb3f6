/* The transmission phase, outwards: results become answers, in whichever order they come. */
#include "config.h"

#include "nbd/nbd.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"
#include "log.h"
#include "volume.h"

static void
on_sent(struct send_item *item, int rc)
{
	(void)rc;
	nbd_request_release(container_of(item, struct nbd_request, head));
}

static void
on_tail_sent(struct send_item *item, int rc)
{
	(void)rc;
	nbd_request_release(container_of(item, struct nbd_request, tail));
}

/* The tail is sent after it and ends the request. */
static void
on_head_sent(struct send_item *item, int rc)
{
	(void)item;
	(void)rc;
}

/* The first `length` bytes of the header, then niov pieces in iov[1 ..]. */
static void
send_reply(struct nbd_request *request, size_t length, unsigned niov)
{
	request->iov[0].iov_base = request->header;
	request->iov[0].iov_len = length;
	request->head.iov = request->iov;
	request->head.niov = 1 + niov;
	request->head.sent = on_sent;
	nbd_conn_send(request->conn, &request->head);
}

/* The same with the request's buffer as data. */
static void
send_with_buffer(struct nbd_request *request, size_t length)
{
	const struct iobuf *buffer = &request->buffer;

	if (buffer->niov < ARRAY_SIZE(request->iov)) {
		for (unsigned i = 0; i < buffer->niov; i++)
			request->iov[1 + i] = buffer->iov[i];
		send_reply(request, length, buffer->niov);
		return;
	}
	send_reply(request, length, 0);
	request->head.sent = on_head_sent;
	request->tail.iov = buffer->iov;
	request->tail.niov = buffer->niov;
	request->tail.sent = on_tail_sent;
	nbd_conn_send(request->conn, &request->tail);
}

/* proto.md "Simple reply message" */
static size_t
write_simple(struct nbd_request *request, uint32_t error)
{
	put_be32(request->header, NBD_SIMPLE_REPLY_MAGIC);
	put_be32(request->header + 4, error);
	memcpy(request->header + 8, &request->cookie, sizeof(request->cookie));
	return NBD_SIMPLE_REPLY_SIZE;
}

/*
 * proto.md "Structured reply chunk message". Every answer is one chunk: it is sent when the result
 * is known, so no error can follow it.
 */
static size_t
write_chunk(struct nbd_request *request, unsigned type, size_t length)
{
	put_be32(request->header, NBD_STRUCTURED_REPLY_MAGIC);
	put_be16(request->header + 4, NBD_REPLY_FLAG_DONE);
	put_be16(request->header + 6, (uint16_t)type);
	memcpy(request->header + 8, &request->cookie, sizeof(request->cookie));
	put_be32(request->header + 16, (uint32_t)length);
	return NBD_CHUNK_SIZE;
}

static void
send_data(struct nbd_request *request)
{
	size_t length = request->buffer.length;
	size_t header;

	if (!request->conn->terms.structured) {
		header = write_simple(request, 0);
	} else if (length == 0) {
		/* OFFSET_DATA must describe at least one byte. */
		header = write_chunk(request, NBD_REPLY_TYPE_NONE, 0);
	} else {
		header = write_chunk(request, NBD_REPLY_TYPE_OFFSET_DATA, 8 + length);
		put_be64(request->header + header, request->blk.offset);
		header += 8;
	}
	send_with_buffer(request, header);
}

static uint32_t
status_flags(uint32_t flags)
{
	return (flags & BLK_HOLE ? NBD_STATE_HOLE : 0) | (flags & BLK_ZEROES ? NBD_STATE_ZERO : 0);
}

/* proto.md "NBD_REPLY_TYPE_BLOCK_STATUS" */
static void
send_status(struct nbd_request *request)
{
	const struct blk_request *blk = &request->blk;
	const struct blk_extent *extents = blk->extents;
	uint8_t *out = (uint8_t *)blk->extents;
	size_t length = NBD_DESCRIPTOR_SIZE * (size_t)blk->nextents;
	struct blk_extent extent;
	size_t header;

	/* In place: a descriptor is shorter than the extent it is made from. */
	_Static_assert(NBD_DESCRIPTOR_SIZE <= sizeof(struct blk_extent), "converted in place");
	for (unsigned i = 0; i < blk->nextents; i++) {
		extent = extents[i];
		/* Together they are at most the length asked for, which has 32 bits. */
		put_be32(out, (uint32_t)extent.length);
		put_be32(out + 4, status_flags(extent.flags));
		out += NBD_DESCRIPTOR_SIZE;
	}
	header = write_chunk(request, NBD_REPLY_TYPE_BLOCK_STATUS, NBD_CONTEXT_ID_SIZE + length);
	put_be32(request->header + header, NBD_BASE_ALLOCATION_ID);
	request->iov[1].iov_base = blk->extents;
	request->iov[1].iov_len = length;
	send_reply(request, header + NBD_CONTEXT_ID_SIZE, 1);
}

/* Design section 3; only the errors of proto.md "Error values" leave the server. */
static const struct error_row {
	int rc;
	uint32_t error;
	const char *text;
	bool ours; /* not the client's mistake: logged for the operator */
} error_rows[] = {
	{-EIO, NBD_EIO, "input/output error", true},
	{-EINVAL, NBD_EINVAL, "invalid request", false},
	{-ERANGE, NBD_EINVAL, "past the end of the export", false},
	{-ENOSPC, NBD_ENOSPC, "no space left behind the export", true},
	{-EROFS, NBD_EPERM, "the export is read-only", false},
	{-EPERM, NBD_EPERM, "reserved by another client", false},
	{-ENOMEM, NBD_ENOMEM, "the server is out of memory", true},
	{-ENOTSUP, NBD_ENOTSUP, "no faster than writing zeroes", false},
	{-EOVERFLOW, NBD_EOVERFLOW, "too long", false},
	{-ENODEV, NBD_EIO, "the device is gone", true},
	{-ETIMEDOUT, NBD_EIO, "timed out", true},
	{-ESHUTDOWN, NBD_ESHUTDOWN, "the server or the export is shutting down", false},
};

static const struct error_row *
find_error(int rc)
{
	for (size_t i = 0; i < ARRAY_SIZE(error_rows); i++) {
		if (error_rows[i].rc == rc)
			return &error_rows[i];
	}
	return &error_rows[0];
}

/* The one place where errno becomes NBD's; the true cause is logged here. */
static uint32_t
map_error(const struct nbd_request *request, int rc, const char **text)
{
	const struct error_row *row = find_error(rc);
	enum blk_op op = request->blk.op;
	uint32_t error = row->error;
	bool ours = row->ours || row->rc != rc;

	/* "one or more sectors beyond the size": ENOSPC for a write, EINVAL for the rest. */
	if (rc == -ERANGE && (op == BLK_WRITE || op == BLK_ZERO))
		error = NBD_ENOSPC;
	/* "SHOULD NOT return NBD_ENOTSUP except" to FAST_ZERO. */
	if (error == NBD_ENOTSUP && !(request->flags & NBD_CMD_FLAG_FAST_ZERO)) {
		error = NBD_EINVAL;
		ours = true;
	}
	if (!*text)
		*text = row->text;
	if (ours || log_get_level() >= LOG_LEVEL_DEBUG)
		log_write(ours ? LOG_LEVEL_WARN : LOG_LEVEL_DEBUG,
			"%s: volume %s: %s of %" PRIu64 " bytes at %" PRIu64 ": %s (%s)",
			blk_name(request->conn->blk), volume_name(blk_volume(request->conn->blk)),
			op < BLK_OPS ? blk_op_name(op) : "command", request->blk.length,
			request->blk.offset, *text, strerrorname_np(-rc));
	return error;
}

void
nbd_reply_error(struct nbd_request *request, int rc, const char *text)
{
	uint32_t error = map_error(request, rc, &text);
	size_t length = strlen(text);
	size_t header;

	if (!request->conn->terms.structured) {
		send_reply(request, write_simple(request, error), 0);
		return;
	}
	/* "The server SHOULD prefer sending errors via a structured reply"; the text is a constant.
	 */
	header = write_chunk(request, NBD_REPLY_TYPE_ERROR, 6 + length);
	put_be32(request->header + header, error);
	put_be16(request->header + header + 4, (uint16_t)length);
	request->iov[1].iov_base = (void *)(uintptr_t)text;
	request->iov[1].iov_len = length;
	send_reply(request, header + 6, 1);
}

void
nbd_reply_done(struct blk_request *blk)
{
	struct nbd_request *request = container_of(blk, struct nbd_request, blk);

	if (request->conn->phase == NBD_DEAD) {
		nbd_request_release(request);
		return;
	}
	if (blk->rc)
		nbd_reply_error(request, blk->rc, NULL);
	else if (request->command == NBD_CMD_READ)
		send_data(request);
	else if (request->command == NBD_CMD_BLOCK_STATUS)
		send_status(request);
	else
		/* Allowed beside structured replies where there is no payload, and shorter. */
		send_reply(request, write_simple(request, 0), 0);
}
