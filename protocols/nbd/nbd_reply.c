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

void
nbd_send_reply(struct nbd_request *request, size_t length, unsigned niov)
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
		nbd_send_reply(request, length, buffer->niov);
		return;
	}
	nbd_send_reply(request, length, 0);
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

/* proto.md "Structured reply chunk message", "Extended reply chunk message" */
size_t
nbd_write_chunk(const struct nbd_request *request, uint8_t *header, unsigned flags, unsigned type,
	uint64_t offset, uint64_t length)
{
	put_be16(header + 4, (uint16_t)flags);
	put_be16(header + 6, (uint16_t)type);
	memcpy(header + 8, &request->cookie, sizeof(request->cookie));
	if (request->conn->terms.extended) {
		put_be32(header, NBD_EXTENDED_REPLY_MAGIC);
		put_be64(header + 16, offset);
		put_be64(header + 24, length);
		return NBD_EXTENDED_CHUNK_SIZE;
	}
	put_be32(header, NBD_STRUCTURED_REPLY_MAGIC);
	put_be32(header + 16, (uint32_t)length);
	return NBD_CHUNK_SIZE;
}

/* The only chunk of its answer: the result is known, no error can follow. */
static size_t
write_only_chunk(struct nbd_request *request, unsigned type, size_t length)
{
	return nbd_write_chunk(
		request, request->header, NBD_REPLY_FLAG_DONE, type, request->blk.offset, length);
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
		header = write_only_chunk(request, NBD_REPLY_TYPE_NONE, 0);
	} else {
		header = write_only_chunk(request, NBD_REPLY_TYPE_OFFSET_DATA, 8 + length);
		put_be64(request->header + header, request->blk.offset);
		header += 8;
	}
	send_with_buffer(request, header);
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
		log_seldom(ours ? LOG_LEVEL_WARN : LOG_LEVEL_DEBUG,
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
		nbd_send_reply(request, write_simple(request, error), 0);
		return;
	}
	/* "The server SHOULD prefer sending errors via a structured reply"; the text is a constant.
	 */
	header = write_only_chunk(request, NBD_REPLY_TYPE_ERROR, 6 + length);
	put_be32(request->header + header, error);
	put_be16(request->header + header + 4, (uint16_t)length);
	request->iov[1].iov_base = (void *)(uintptr_t)text;
	request->iov[1].iov_len = length;
	nbd_send_reply(request, header + 6, 1);
}

static void
send_success(struct nbd_request *request)
{
	/* A simple reply is allowed beside structured ones where there is no payload, and shorter.
	 */
	if (request->conn->terms.extended)
		nbd_send_reply(request, write_only_chunk(request, NBD_REPLY_TYPE_NONE, 0), 0);
	else
		nbd_send_reply(request, write_simple(request, 0), 0);
}

void
nbd_reply_done(struct blk_request *blk)
{
	struct nbd_request *request = container_of(blk, struct nbd_request, blk);

	if (request->conn->phase == NBD_DEAD) {
		nbd_request_release(request);
		return;
	}
	if (request->split)
		nbd_read_done(request);
	else if (blk->rc)
		nbd_reply_error(request, blk->rc, NULL);
	else if (request->command == NBD_CMD_READ)
		send_data(request);
	else if (request->command == NBD_CMD_BLOCK_STATUS)
		nbd_send_status(request);
	else
		send_success(request);
}
