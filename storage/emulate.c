/*
 * What a driver does not do itself, made of what it does. One emulation carries out one request,
 * step by step: a step asks the driver for something by `sub` and names the step that follows; all
 * steps run on the request's loop, later than the one before.
 *
 * Requests that do not fit the driver's alignment go through bounce buffers; a write whose edge
 * shares a block with others reads that block first, under a freeze of its range
 * (read-modify-write).
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "iobuf.h"
#include "slab.h"
#include "storage.h"

#define ZERO_PIECE  65536
#define ZERO_PIECES (LIMIT_IOBUF_PIECE / ZERO_PIECE)

struct emulation {
	struct blk_request sub;
	struct blk_request *parent;
	struct volume *volume;
	void (*next)(struct emulation *e);
	struct freeze freeze;
	bool frozen;
	bool write_zeroes; /* the driver's own ZERO would not do */
	struct iobuf bounce;
	struct iovec iov[ZERO_PIECES];
	uint64_t at; /* the first byte of the parent that is not done */
	/* The aligned piece in the bounce buffer, and how much of the parent it holds. */
	uint64_t piece, piece_length;
	uint64_t part;
};

static struct slab_cache *emulations;
static uint8_t *zeroes; /* ZERO_PIECE bytes, aligned for any driver */

int
emulate_start(void)
{
	int rc = iobuf_start();

	if (rc)
		return rc;
	emulations = slab_cache_new("blk_emulation", sizeof(struct emulation), 0, 0, NULL);
	zeroes = aligned_alloc(ZERO_PIECE, ZERO_PIECE);
	if (!emulations || !zeroes) {
		emulate_stop();
		return -ENOMEM;
	}
	memset(zeroes, 0, ZERO_PIECE);
	return 0;
}

void
emulate_stop(void)
{
	if (emulations)
		slab_cache_free(emulations);
	free(zeroes);
	emulations = NULL;
	zeroes = NULL;
}

static uint64_t
parent_end(const struct emulation *e)
{
	return e->parent->offset + e->parent->length;
}

static bool
has_native(const struct emulation *e, enum blk_op op)
{
	return e->volume->info.native & 1u << op;
}

/* The one end of every emulation. */
static void
end_emulation(struct emulation *e, int rc)
{
	struct blk_request *parent = e->parent;

	if (e->frozen)
		freeze_release(&e->freeze);
	iobuf_free(&e->bounce);
	slab_free(emulations, e);
	blk_complete(parent, rc);
}

static void
sub_done(struct blk_request *sub)
{
	struct emulation *e = container_of(sub, struct emulation, sub);

	e->next(e);
}

static void
ask_driver(struct emulation *e, enum blk_op op, uint64_t offset, uint64_t length,
	const struct iovec *iov, unsigned niov, void (*next)(struct emulation *e))
{
	e->next = next;
	e->sub = (struct blk_request){.op = op,
		.flags = e->parent->flags & (BLK_MAY_UNMAP | BLK_FAST_ONLY),
		.offset = offset,
		.length = length,
		.iov = iov,
		.niov = niov,
		.nextents = e->parent->nextents,
		.extents = e->parent->extents,
		.done = sub_done,
		.handle = e->parent->handle,
		.state = STATE_SUB | STATE_EMULATED,
		.task.run = blk_finish};
	blk_dispatch(&e->sub);
}

/* Copies between the parent's data, from `skip` on, and the bounce buffer, from `from` on. */
static void
copy_bounce(struct emulation *e, bool in, uint64_t skip, uint64_t from, uint64_t length)
{
	const struct blk_request *parent = e->parent;

	for (unsigned i = 0; i < e->bounce.niov && length; i++) {
		struct iovec *piece = &e->bounce.iov[i];
		size_t n;

		if (from >= piece->iov_len) {
			from -= piece->iov_len;
			continue;
		}
		n = min_size(piece->iov_len - from, length);
		if (in)
			iov_to(parent->iov, parent->niov, skip, (uint8_t *)piece->iov_base + from,
				n);
		else
			iov_from(parent->iov, parent->niov, skip,
				(const uint8_t *)piece->iov_base + from, n);
		skip += n;
		length -= n;
		from = 0;
	}
}

/* Chooses the next aligned piece that holds parent's bytes from `at` on, at most `most` long. */
static void
choose_piece(struct emulation *e, uint64_t most)
{
	uint64_t align = e->volume->align_mask + 1;
	uint64_t end = parent_end(e);

	e->piece = round_down(e->at, align);
	e->piece_length = min_u64(round_up(end, align) - e->piece, most);
	e->part = min_u64(end, e->piece + e->piece_length) - e->at;
}

/* Bytes that one sub-request may carry. */
static uint64_t
piece_max(const struct emulation *e)
{
	return min_u64(LIMIT_IOBUF_PIECE, e->volume->info.transfer_max);
}

static void
range_frozen(struct freeze *freeze, int rc)
{
	struct emulation *e = container_of(freeze, struct emulation, freeze);

	e->frozen = rc == 0;
	if (rc)
		end_emulation(e, rc);
	else
		e->next(e);
}

/* The parent becomes the owner of its range: other freezes queue behind it, and do not wait for it.
 */
static void
freeze_range(struct emulation *e, enum freeze_mode mode, void (*next)(struct emulation *e))
{
	e->next = next;
	blk_unlist(e->parent);
	freeze_start(
		&e->freeze, e->volume, e->parent->offset, e->parent->length, mode, range_frozen);
}

/* READ through the bounce buffer. */

static void read_piece(struct emulation *e);

static void
piece_read(struct emulation *e)
{
	if (e->sub.rc) {
		end_emulation(e, e->sub.rc);
		return;
	}
	copy_bounce(e, false, e->at - e->parent->offset, e->at - e->piece, e->part);
	e->at += e->part;
	read_piece(e);
}

static void
read_piece(struct emulation *e)
{
	int rc;

	if (e->at == parent_end(e)) {
		end_emulation(e, 0);
		return;
	}
	choose_piece(e, piece_max(e));
	iobuf_free(&e->bounce);
	rc = iobuf_take(&e->bounce, e->piece_length);
	if (rc)
		end_emulation(e, rc);
	else
		ask_driver(e, BLK_READ, e->piece, e->piece_length, e->bounce.iov, e->bounce.niov,
			piece_read);
}

/* WRITE and ZERO: aligned pieces, edges read first. */

static void next_piece(struct emulation *e);

static void
piece_written(struct emulation *e)
{
	if (e->sub.rc) {
		end_emulation(e, e->sub.rc);
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
		copy_bounce(e, true, e->at - e->parent->offset, e->at - e->piece, e->part);
	ask_driver(e, BLK_WRITE, e->piece, e->piece_length, e->bounce.iov, e->bounce.niov,
		piece_written);
}

/* Reads the block at `offset` into its place in the bounce buffer. */
static void
read_edge(struct emulation *e, uint64_t offset, void (*next)(struct emulation *e))
{
	uint64_t align = e->volume->align_mask + 1;
	unsigned n = iov_slice(e->bounce.iov, e->bounce.niov, offset - e->piece, align, e->iov,
		ARRAY_SIZE(e->iov), NULL);

	ask_driver(e, BLK_READ, offset, align, e->iov, n, next);
}

static void
edges_read(struct emulation *e)
{
	if (e->sub.rc)
		end_emulation(e, e->sub.rc);
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
		end_emulation(e, e->sub.rc);
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

	choose_piece(e, most);
	iobuf_free(&e->bounce);
	rc = iobuf_take(&e->bounce, e->piece_length);
	if (rc)
		end_emulation(e, rc);
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
		e->iov[n] = (struct iovec){zeroes, min_size(ZERO_PIECE, left)};
	ask_driver(e, BLK_WRITE, e->at, e->part, e->iov, n, piece_written);
}

static void
next_piece(struct emulation *e)
{
	uint64_t mask = e->volume->align_mask;
	uint64_t end = parent_end(e);

	if (e->at == end) {
		end_emulation(e, 0);
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
		ask_driver(e, BLK_ZERO, e->at, e->part, NULL, 0, driver_zeroed);
		return;
	}
	e->part = min_u64(e->part, piece_max(e));
	write_zeroes(e);
}

/* COMPARE_WRITE: all of it is in the bounce buffer, and the range is frozen. */

static void
compare_written(struct emulation *e)
{
	end_emulation(e, e->sub.rc);
}

/* Bytes from the start of the parent's range on that are as the first half of its data says. */
static uint64_t
compare_bounce(const struct emulation *e)
{
	const struct blk_request *parent = e->parent;
	uint64_t skip = parent->offset - e->piece, done = 0;

	while (done < parent->length) {
		struct iovec given, held;
		size_t n;

		if (!iov_slice(parent->iov, parent->niov, done, parent->length - done, &given, 1,
			    &n) ||
			!iov_slice(e->bounce.iov, e->bounce.niov, skip + done, n, &held, 1, &n))
			break;
		if (memcmp(given.iov_base, held.iov_base, n) != 0) {
			const uint8_t *a = given.iov_base, *b = held.iov_base;

			while (*a++ == *b++)
				done++;
			break;
		}
		done += n;
	}
	return done;
}

static void
compare_read(struct emulation *e)
{
	struct blk_request *parent = e->parent;
	uint64_t same;

	if (e->sub.rc) {
		end_emulation(e, e->sub.rc);
		return;
	}
	same = compare_bounce(e);
	if (same < parent->length) {
		parent->mismatch = same;
		end_emulation(e, -EILSEQ);
		return;
	}
	copy_bounce(e, true, parent->length, parent->offset - e->piece, parent->length);
	ask_driver(e, BLK_WRITE, e->piece, e->piece_length, e->bounce.iov, e->bounce.niov,
		compare_written);
}

static void
read_for_compare(struct emulation *e)
{
	ask_driver(e, BLK_READ, e->piece, e->piece_length, e->bounce.iov, e->bounce.niov,
		compare_read);
}

static void
start_compare(struct emulation *e)
{
	int rc;

	choose_piece(e, UINT64_MAX);
	rc = e->piece_length > e->volume->info.transfer_max ? -EINVAL : 0;
	/* The owner takes every buffer it will need before it freezes. */
	if (!rc)
		rc = iobuf_take(&e->bounce, e->piece_length);
	if (rc) {
		end_emulation(e, rc);
		return;
	}
	freeze_range(e, FREEZE_ALL, read_for_compare);
}

/* What moves no data: asked for on the driver's boundaries. */

static void
asked(struct emulation *e)
{
	end_emulation(e, e->sub.rc);
}

static void
start_discard(struct emulation *e)
{
	uint64_t align = e->volume->align_mask + 1;
	uint64_t from = round_up(e->at, align), to = round_down(parent_end(e), align);

	if (from < to)
		ask_driver(e, BLK_DISCARD, from, to - from, NULL, 0, asked);
	else
		end_emulation(e, 0);
}

static void
start_prefetch(struct emulation *e)
{
	choose_piece(e, UINT64_MAX);
	ask_driver(e, BLK_PREFETCH, e->piece, e->piece_length, NULL, 0, asked);
}

/* Cuts off what the answer has before and after the range that was asked for. */
static void
trim_extents(struct emulation *e)
{
	struct blk_request *parent = e->parent;
	uint64_t skip = parent->offset - e->piece, left = parent->length;
	unsigned most = parent->flags & BLK_EXTENT_ONE ? 1 : parent->nextents;
	unsigned n = 0;

	for (unsigned i = 0; i < e->sub.nextents && left && n < most; i++) {
		struct blk_extent extent = parent->extents[i];
		uint64_t cut = min_u64(skip, extent.length);

		skip -= cut;
		extent.length = min_u64(extent.length - cut, left);
		left -= extent.length;
		if (extent.length)
			parent->extents[n++] = extent;
	}
	/* All of the answer may lie before the range: less than a block, so calling it data is
	 * cheap. */
	if (!n)
		parent->extents[n++] = (struct blk_extent){.length = left};
	parent->nextents = n;
}

static void
extents_found(struct emulation *e)
{
	if (!e->sub.rc)
		trim_extents(e);
	end_emulation(e, e->sub.rc);
}

static void
start_extents(struct emulation *e)
{
	choose_piece(e, UINT64_MAX);
	ask_driver(e, BLK_EXTENTS, e->piece, e->piece_length, NULL, 0, extents_found);
}

static void
start_write(struct emulation *e)
{
	if ((e->at | parent_end(e)) & e->volume->align_mask) {
		counter_add(&e->parent->handle->counters.rmw_ops, 1);
		freeze_range(e, FREEZE_WRITES, next_piece);
	} else {
		next_piece(e);
	}
}

static void
start_emulation(struct emulation *e)
{
	struct blk_request *parent = e->parent;

	switch (parent->op) {
	case BLK_READ:
		counter_add(&parent->handle->counters.bounced_bytes, parent->length);
		read_piece(e);
		break;
	case BLK_WRITE:
		counter_add(&parent->handle->counters.bounced_bytes, parent->length);
		start_write(e);
		break;
	case BLK_ZERO:
		e->write_zeroes = !has_native(e, BLK_ZERO) || parent->rc == -ENOTSUP;
		start_write(e);
		break;
	case BLK_COMPARE_WRITE:
		start_compare(e);
		break;
	case BLK_DISCARD:
		start_discard(e);
		break;
	case BLK_EXTENTS:
		start_extents(e);
		break;
	default:
		start_prefetch(e);
		break;
	}
}

/* Answers what needs no driver. False: it does. */
static bool
answer_at_once(struct blk_request *request)
{
	bool native = request->handle->volume->info.native & 1u << request->op;

	if (request->op == BLK_ZERO && request->flags & BLK_FAST_ONLY) {
		blk_complete(request, -ENOTSUP);
	} else if (!native && (request->op == BLK_DISCARD || request->op == BLK_PREFETCH)) {
		blk_complete(request, 0);
	} else if (!native && request->op == BLK_EXTENTS) {
		request->extents[0] = (struct blk_extent){.length = request->length};
		request->nextents = 1;
		blk_complete(request, 0);
	} else {
		return false;
	}
	return true;
}

void
emulate(struct blk_request *request)
{
	struct emulation *e;

	request->state |= STATE_EMULATED;
	if (answer_at_once(request))
		return;
	e = slab_alloc(emulations);
	if (!e) {
		blk_complete(request, -ENOMEM);
		return;
	}
	memset(e, 0, sizeof(*e));
	e->parent = request;
	e->volume = request->handle->volume;
	e->at = request->offset;
	start_emulation(e);
}
