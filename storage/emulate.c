/*
 * What a driver does not do itself, made of what it does. One emulation carries out one request,
 * step by step: a step asks the driver for something by `sub` and names the step that follows; all
 * steps run on the request's loop, later than the one before.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "emulation.h"
#include "slab.h"

static struct slab_cache *emulations;
uint8_t *emulation_zeroes;

int
emulate_start(void)
{
	int rc = iobuf_start();

	if (rc)
		return rc;
	emulations = slab_cache_new("blk_emulation", sizeof(struct emulation), 0, 0, NULL);
	emulation_zeroes = aligned_alloc(ZERO_PIECE, ZERO_PIECE);
	if (!emulations || !emulation_zeroes) {
		emulate_stop();
		return -ENOMEM;
	}
	memset(emulation_zeroes, 0, ZERO_PIECE);
	return 0;
}

void
emulate_stop(void)
{
	if (emulations)
		slab_cache_free(emulations);
	free(emulation_zeroes);
	emulations = NULL;
	emulation_zeroes = NULL;
}

void
emulation_end(struct emulation *e, int rc)
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

void
emulation_ask(struct emulation *e, enum blk_op op, uint64_t offset, uint64_t length,
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
		.state = STATE_SUB | STATE_EMULATED | (e->parent->state & STATE_LAYERED),
		.task.run = blk_finish};
	if (e->parent->state & STATE_CANCELLED)
		blk_complete(&e->sub, -ETIMEDOUT);
	else
		blk_dispatch(&e->sub);
}

/* Where it waits for its range, or for the driver. */
static void
cancel_emulation(struct blk_request *parent)
{
	struct emulation *e = (struct emulation *)parent->driver[0];

	if (e->freeze.volume && !e->frozen)
		freeze_cancel(&e->freeze);
	else
		blk_take_back(&e->sub);
}

void
emulation_copy(struct emulation *e, bool in, uint64_t skip, uint64_t from, uint64_t length)
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

void
emulation_piece(struct emulation *e, uint64_t most)
{
	uint64_t align = e->volume->align_mask + 1;
	uint64_t end = emulation_limit(e);

	e->piece = round_down(e->at, align);
	e->piece_length = min_u64(round_up(end, align) - e->piece, most);
	e->part = min_u64(end, e->piece + e->piece_length) - e->at;
}

static void
range_frozen(struct freeze *freeze, int rc)
{
	struct emulation *e = container_of(freeze, struct emulation, freeze);

	e->frozen = rc == 0;
	/* B9: another freeze, that this one waited for, may have changed what the first checks saw. */
	if (!rc)
		rc = blk_recheck(e->parent);
	if (rc)
		emulation_end(e, rc);
	else
		e->next(e);
}

void
emulation_freeze(struct emulation *e, enum freeze_mode mode, void (*next)(struct emulation *e))
{
	e->next = next;
	blk_unlist(e->parent);
	freeze_start(
		&e->freeze, e->volume, e->parent->offset, e->parent->length, mode, range_frozen);
}

/* COMPARE_WRITE: all of it is in the bounce buffer, and the range is frozen. */

static void
compare_written(struct emulation *e)
{
	emulation_end(e, e->sub.rc);
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
		emulation_end(e, e->sub.rc);
		return;
	}
	same = compare_bounce(e);
	if (same < parent->length) {
		parent->mismatch = same;
		emulation_end(e, -EILSEQ);
		return;
	}
	emulation_copy(e, true, parent->length, parent->offset - e->piece, parent->length);
	emulation_ask(e, BLK_WRITE, e->piece, e->piece_length, e->bounce.iov, e->bounce.niov,
		compare_written);
}

static void
read_for_compare(struct emulation *e)
{
	emulation_ask(e, BLK_READ, e->piece, e->piece_length, e->bounce.iov, e->bounce.niov,
		compare_read);
}

static void
start_compare(struct emulation *e)
{
	int rc;

	emulation_piece(e, UINT64_MAX);
	rc = e->piece_length > e->volume->info.transfer_max ? -EINVAL : 0;
	/* The owner takes every buffer it will need before it freezes. */
	if (!rc)
		rc = iobuf_take(&e->bounce, e->piece_length);
	if (rc) {
		emulation_end(e, rc);
		return;
	}
	emulation_freeze(e, FREEZE_ALL, read_for_compare);
}

/* What moves no data: asked for on the driver's boundaries. */

static void
asked(struct emulation *e)
{
	emulation_end(e, e->sub.rc);
}

static void
start_discard(struct emulation *e)
{
	uint64_t align = e->volume->align_mask + 1;
	uint64_t from = round_up(e->at, align), to = round_down(emulation_limit(e), align);

	if (from < to)
		emulation_ask(e, BLK_DISCARD, from, to - from, NULL, 0, asked);
	else
		emulation_end(e, 0);
}

static void
start_prefetch(struct emulation *e)
{
	emulation_piece(e, UINT64_MAX);
	emulation_ask(e, BLK_PREFETCH, e->piece, e->piece_length, NULL, 0, asked);
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
	emulation_end(e, e->sub.rc);
}

static void
start_extents(struct emulation *e)
{
	emulation_piece(e, UINT64_MAX);
	emulation_ask(e, BLK_EXTENTS, e->piece, e->piece_length, NULL, 0, extents_found);
}

static void
start_emulation(struct emulation *e)
{
	struct blk_request *parent = e->parent;

	switch (parent->op) {
	case BLK_READ:
		counter_add(&parent->handle->counters.bounced_bytes, parent->length);
		bounce_read(e);
		break;
	case BLK_WRITE:
		counter_add(&parent->handle->counters.bounced_bytes, parent->length);
		bounce_write(e);
		break;
	case BLK_ZERO:
		e->write_zeroes = !emulation_native(e, BLK_ZERO) || parent->rc == -ENOTSUP;
		bounce_write(e);
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
	request->driver[0] = (uintptr_t)e;
	request->cancel = cancel_emulation;
	start_emulation(e);
}
