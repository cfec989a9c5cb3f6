/*
 * READs answered in several chunks: holes are told instead of sent, and no chunk of data is longer
 * than LIMIT_NBD_CHUNK, so that other answers go out between them.
 *
 * Where the volume is sparse the extents of the range are asked for first. What lies between its
 * first and its last byte of data is then read at once, into the request's buffer. A group of
 * chunks is one item of the send queue; the next is queued a turn of the loop after it was sent,
 * behind what became ready meanwhile.
 *
 * B5 holds: what EXTENTS calls a hole was one after the READ came.
 */
#include "config.h"

#include "nbd/nbd.h"

#include <errno.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"
#include "slab.h"

#define EXTENTS_MAX 64 /* what is behind them is data */
#define GROUP_MAX   16 /* chunks */

/* A shorter hole costs more as a chunk than as zeroes. */
#define HOLE_MIN 4096

/* Where EXTENTS is carried out inline; elsewhere it is a worker's turn, as the READ itself. */
#define INLINE_PROBE (64 * 1024)

struct nbd_split {
	struct loop_task more;
	struct nbd_request *request;
	uint64_t offset, length;             /* of the READ; the request's own change on the way */
	uint64_t at;                         /* the next byte to answer */
	uint64_t start;                      /* of the bytes in the request's buffer */
	struct blk_extent runs[EXTENTS_MAX]; /* from `offset` on; flags: BLK_ZEROES or 0 */
	unsigned nruns;
	unsigned run;     /* the one that `at` is in */
	uint64_t run_end; /* of that one */
	struct iovec iov[3 * GROUP_MAX];
	uint8_t headers[GROUP_MAX][NBD_EXTENDED_CHUNK_SIZE + NBD_HOLE_SIZE];
};

static struct slab_cache *split_cache;

int
nbd_read_start(void)
{
	split_cache = slab_cache_new("nbd_split", sizeof(struct nbd_split), 0, 0, NULL);
	return split_cache ? 0 : -ENOMEM;
}

void
nbd_read_stop(void)
{
	if (split_cache)
		slab_cache_free(split_cache);
	split_cache = NULL;
}

void
nbd_read_free(struct nbd_request *request)
{
	slab_free(split_cache, request->split);
	request->split = NULL;
}

void
nbd_read_prepare(struct nbd_conn *conn, const struct blk_info *info)
{
	conn->sparse = info->sparse && info->native & 1u << BLK_EXTENTS;
	if (!conn->terms.structured)
		conn->split_from = UINT64_MAX;
	else if (conn->sparse && info->carried_inline)
		conn->split_from = INLINE_PROBE;
	else
		conn->split_from = LIMIT_NBD_CHUNK + 1;
}

static void
add_run(struct nbd_split *split, uint64_t length, uint32_t flags)
{
	struct blk_extent *last = split->nruns ? &split->runs[split->nruns - 1] : NULL;

	if (last && (last->flags == flags || split->nruns == EXTENTS_MAX)) {
		last->length += length;
		last->flags &= flags;
	} else {
		split->runs[split->nruns++] = (struct blk_extent){length, flags};
	}
}

/* Extents, in place, become runs that cover the range: what is not known to be zeroes is data. */
static void
find_runs(struct nbd_split *split, unsigned nextents)
{
	uint64_t covered = 0;

	split->nruns = 0;
	for (unsigned i = 0; i < nextents; i++) {
		struct blk_extent extent = split->runs[i];
		bool hole = extent.flags & BLK_ZEROES && extent.length >= HOLE_MIN;

		add_run(split, extent.length, hole ? BLK_ZEROES : 0);
		covered += extent.length;
	}
	if (covered < split->length)
		add_run(split, split->length - covered, 0);
	split->run = 0;
	split->run_end = split->offset + split->runs[0].length;
}

static uint64_t
range_end(const struct nbd_split *split)
{
	return split->offset + split->length;
}

/* The next byte is `length` on. */
static void
move_on(struct nbd_split *split, uint64_t length)
{
	split->at += length;
	if (split->at == split->run_end && split->at < range_end(split))
		split->run_end += split->runs[++split->run].length;
}

static unsigned
done_flag(const struct nbd_split *split, uint64_t length)
{
	return split->at + length == range_end(split) ? NBD_REPLY_FLAG_DONE : 0;
}

/* Each returns the entries of iov[] it fills. */
static unsigned
add_hole(struct nbd_split *split, uint8_t *header, struct iovec *iov)
{
	uint64_t length = split->run_end - split->at;
	size_t size = nbd_write_chunk(split->request, header, done_flag(split, length),
		NBD_REPLY_TYPE_OFFSET_HOLE, split->offset, NBD_HOLE_SIZE);

	_Static_assert(LIMIT_NBD_PAYLOAD <= UINT32_MAX, "a hole's size has 32 bits");
	put_be64(header + size, split->at);
	put_be32(header + size + 8, (uint32_t)length);
	iov[0] = (struct iovec){.iov_base = header, .iov_len = size + NBD_HOLE_SIZE};
	move_on(split, length);
	return 1;
}

/* Cut where the offset is a multiple of it: "an integer multiple of 512 bytes, where possible". */
static uint64_t
data_length(const struct nbd_split *split)
{
	return min_u64(split->run_end, round_down(split->at, LIMIT_NBD_CHUNK) + LIMIT_NBD_CHUNK) -
	       split->at;
}

static unsigned
add_data(struct nbd_split *split, uint8_t *header, struct iovec *iov)
{
	const struct iobuf *buffer = &split->request->buffer;
	uint64_t length = data_length(split);
	size_t size = nbd_write_chunk(split->request, header, done_flag(split, length),
		NBD_REPLY_TYPE_OFFSET_DATA, split->offset, 8 + length);
	size_t covered;
	unsigned n;

	_Static_assert(LIMIT_NBD_CHUNK <= LIMIT_IOBUF_PIECE, "a chunk lies in at most two pieces");
	put_be64(header + size, split->at);
	iov[0] = (struct iovec){.iov_base = header, .iov_len = size + 8};
	n = iov_slice(
		buffer->iov, buffer->niov, split->at - split->start, length, iov + 1, 2, &covered);
	CHECK(covered == length);
	move_on(split, length);
	return 1 + n;
}

static void on_group_sent(struct send_item *item, int rc);

/* Chunks until there is data for one of the longest, or all is answered. */
static void
send_group(struct nbd_request *request)
{
	struct nbd_split *split = request->split;
	uint64_t data = 0;
	unsigned niov = 0;

	for (unsigned i = 0; i < GROUP_MAX && split->at < range_end(split); i++) {
		struct iovec *iov = split->iov + niov;

		if (split->runs[split->run].flags) {
			niov += add_hole(split, split->headers[i], iov);
		} else if (data && data + data_length(split) > LIMIT_NBD_CHUNK) {
			break;
		} else {
			data += data_length(split);
			niov += add_data(split, split->headers[i], iov);
		}
	}
	request->head.iov = split->iov;
	request->head.niov = niov;
	request->head.sent = on_group_sent;
	nbd_conn_send(request->conn, &request->head);
}

static void
on_more(struct loop_task *task)
{
	struct nbd_split *split = container_of(task, struct nbd_split, more);

	if (split->request->conn->phase == NBD_DEAD)
		nbd_request_release(split->request);
	else
		send_group(split->request);
}

static void
on_group_sent(struct send_item *item, int rc)
{
	struct nbd_request *request = container_of(item, struct nbd_request, head);
	struct nbd_split *split = request->split;

	if (rc || split->at == range_end(split))
		nbd_request_release(request);
	else
		loop_defer(request->conn->loop, &split->more);
}

/* All from the first data to the last. */
static void
read_data(struct nbd_request *request)
{
	struct nbd_split *split = request->split;
	uint64_t from = split->offset, to = range_end(split);
	int rc;

	request->blk.op = BLK_READ;
	if (split->runs[0].flags)
		from += split->runs[0].length;
	if (from < to && split->runs[split->nruns - 1].flags)
		to -= split->runs[split->nruns - 1].length;
	if (from == to) {
		send_group(request);
		return;
	}
	rc = iobuf_take(&request->buffer, to - from);
	if (rc) {
		nbd_reply_error(request, rc, NULL);
		return;
	}
	split->start = from;
	request->blk.offset = from;
	request->blk.length = to - from;
	request->blk.iov = request->buffer.iov;
	request->blk.niov = request->buffer.niov;
	blk_submit(request->conn->blk, &request->blk);
}

static void
find_holes(struct nbd_request *request)
{
	request->blk.op = BLK_EXTENTS;
	request->blk.extents = request->split->runs;
	request->blk.nextents = EXTENTS_MAX;
	blk_submit(request->conn->blk, &request->blk);
}

bool
nbd_read_split(struct nbd_conn *conn, struct nbd_request *request)
{
	struct nbd_split *split;

	/* "If this flag is set, the server MUST send at most one content chunk." */
	if (request->flags & NBD_CMD_FLAG_DF)
		return false;
	split = slab_alloc(split_cache);
	if (!split)
		return false;
	split->more.run = on_more;
	split->more.queued = false;
	split->request = request;
	split->offset = request->blk.offset;
	split->length = request->blk.length;
	split->at = split->offset;
	request->split = split;
	if (conn->sparse) {
		find_holes(request);
	} else {
		find_runs(split, 0);
		read_data(request);
	}
	return true;
}

void
nbd_read_done(struct nbd_request *request)
{
	struct nbd_split *split = request->split;
	struct blk_request *blk = &request->blk;

	if (blk->op == BLK_EXTENTS) {
		/* Whatever is wrong, the READ will say it. */
		find_runs(split, blk->rc ? 0 : blk->nextents);
		read_data(request);
		return;
	}
	blk->offset = split->offset;
	blk->length = split->length;
	if (blk->rc)
		nbd_reply_error(request, blk->rc, NULL);
	else
		send_group(request);
}
