/*
 * READ, WRITE and ZERO that do not fit the driver's alignment, or that it does not do: in aligned
 * pieces through a bounce buffer. Where an edge of a write shares a block with others, that block
 * is read first, with the range frozen (read-modify-write).
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>

#include "bytes.h"
#include "emulation.h"

/* Bytes that one sub-request may carry. */
static uint64_t
piece_max(const struct emulation *e)
{
	return min_u64(LIMIT_IOBUF_PIECE, e->volume->info.transfer_max);
}

/* READ */

static void
piece_read(struct emulation *e)
{
	if (e->sub.rc) {
		emulation_end(e, e->sub.rc);
		return;
	}
	emulation_copy(e, false, e->at - e->parent->offset, e->at - e->piece, e->part);
	e->at += e->part;
	bounce_read(e);
}

void
bounce_read(struct emulation *e)
{
	int rc;

	if (e->at == emulation_limit(e)) {
		emulation_end(e, 0);
		return;
	}
	emulation_piece(e, piece_max(e));
	iobuf_free(&e->bounce);
	rc = iobuf_take(&e->bounce, e->piece_length);
	if (rc)
		emulation_end(e, rc);
	else
		emulation_ask(e, BLK_READ, e->piece, e->piece_length, e->bounce.iov, e->bounce.niov,
			piece_read);
}

/* WRITE and ZERO */

static void next_piece(struct emulation *e);

static void
piece_written(struct emulation *e)
{
	if (e->sub.rc) {
		emulation_end(e, e->sub.rc);
		return;
	}
	e->at += e->part;
	next_piece(e);
}

static void
write_piece(struct emulation *e)
{
	if (e->parent->op == BLK_ZERO)
		iov_zero(e->bounce.iov, e->bounce.niov, e->at - e->piece, e->part);
	else
		emulation_copy(e, true, e->at - e->parent->offset, e->at - e->piece, e->part);
	emulation_ask(e, BLK_WRITE, e->piece, e->piece_length, e->bounce.iov, e->bounce.niov,
		piece_written);
}

/* Reads the block at `offset` into its place in the bounce buffer. */
static void
read_edge(struct emulation *e, uint64_t offset, void (*next)(struct emulation *e))
{
	uint64_t align = e->volume->align_mask + 1;
	unsigned n = iov_slice(e->bounce.iov, e->bounce.niov, offset - e->piece, align, e->iov,
		ARRAY_SIZE(e->iov), NULL);

	emulation_ask(e, BLK_READ, offset, align, e->iov, n, next);
}

static void
edges_read(struct emulation *e)
{
	if (e->sub.rc)
		emulation_end(e, e->sub.rc);
	else
		write_piece(e);
}

static void
read_last_edge(struct emulation *e)
{
	uint64_t mask = e->volume->align_mask;
	uint64_t end = e->at + e->part;

	if (end & mask)
		read_edge(e, end & ~mask, edges_read);
	else
		write_piece(e);
}

static void
first_edge_read(struct emulation *e)
{
	uint64_t mask = e->volume->align_mask;

	if (e->sub.rc)
		emulation_end(e, e->sub.rc);
	/* Both edges in one block: it is there already. */
	else if ((e->at & ~mask) == ((e->at + e->part) & ~mask))
		write_piece(e);
	else
		read_last_edge(e);
}

static void
bounce_piece(struct emulation *e, uint64_t most)
{
	int rc;

	emulation_piece(e, most);
	iobuf_free(&e->bounce);
	rc = iobuf_take(&e->bounce, e->piece_length);
	if (rc)
		emulation_end(e, rc);
	else if (e->at & e->volume->align_mask)
		read_edge(e, e->piece, first_edge_read);
	else
		read_last_edge(e);
}

static void
driver_zeroed(struct emulation *e)
{
	if (e->sub.rc == -ENOTSUP && !(e->parent->flags & BLK_FAST_ONLY)) {
		e->write_zeroes = true;
		next_piece(e);
		return;
	}
	piece_written(e);
}

static void
write_zeroes(struct emulation *e)
{
	unsigned n = 0;

	for (uint64_t left = e->part; left; left -= e->iov[n++].iov_len)
		e->iov[n] = (struct iovec){emulation_zeroes, min_size(ZERO_PIECE, left)};
	emulation_ask(e, BLK_WRITE, e->at, e->part, e->iov, n, piece_written);
}

static void
next_piece(struct emulation *e)
{
	uint64_t mask = e->volume->align_mask;
	uint64_t end = emulation_limit(e);

	if (e->at == end) {
		emulation_end(e, 0);
		return;
	}
	if (e->parent->op == BLK_WRITE) {
		bounce_piece(e, piece_max(e));
		return;
	}
	/* ZERO: only a block that is not wholly ours needs to be read and bounced. */
	if (e->at & mask || end - e->at <= mask) {
		bounce_piece(e, mask + 1);
		return;
	}
	e->part = (end & ~mask) - e->at;
	if (!e->write_zeroes) {
		emulation_ask(e, BLK_ZERO, e->at, e->part, NULL, 0, driver_zeroed);
		return;
	}
	e->part = min_u64(e->part, piece_max(e));
	write_zeroes(e);
}

/* It works and is slow: whoever set the client up may want to know, once. */
static void
count_unaligned(const struct emulation *e)
{
	struct blk_handle *handle = e->parent->handle;

	if (atomic_load_explicit(&handle->counters.rmw_ops, memory_order_relaxed) == 0)
		log_warn("%s: volume %s: writes that are not aligned to %" PRIu64
			 " bytes (%" PRIu64 " at %" PRIu64
			 "): what shares their blocks is read first",
			handle->name, e->volume->name, e->volume->align_mask + 1, e->parent->length,
			e->parent->offset);
	counter_add(&handle->counters.rmw_ops, 1);
}

void
bounce_write(struct emulation *e)
{
	if ((e->at | emulation_limit(e)) & e->volume->align_mask) {
		count_unaligned(e);
		emulation_freeze(e, FREEZE_WRITES, next_piece);
	} else {
		next_piece(e);
	}
}
