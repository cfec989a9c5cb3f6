/*
 * The memory backend: a sparse disk of slab chunks (memory_tree.h). Requests are carried out
 * inline, at most LIMIT_INLINE_BYTES or LIMIT_INLINE_CHUNKS a turn.
 *
 * A chunk's pages outside its mask read as zeroes and are never read: a new chunk is not zeroed,
 * only the rest of a partly written page is, and nobody sees what another had there (R10). ZERO
 * without MAY_UNMAP provides chunks for the range without touching them, so that later writes find
 * their memory; with it, and by DISCARD, a chunk without pages goes back.
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "memory.h"
#include "../storage.h"

#define NATIVE ((1u << BLK_OPS) - 1)

int
memory_start(void)
{
	return tree_start();
}

void
memory_stop(void)
{
	tree_stop();
}

static int
open_memory(
	const struct conf_volume *conf, struct blk_info *info, void **state, struct error *error)
{
	struct memory *memory;

	if (!conf->size)
		return error_set(error, -EINVAL, "needs a size: %s=memory:1G", conf->name);
	memory = aligned_alloc(_Alignof(struct memory), sizeof(*memory));
	if (!memory)
		return error_set(error, -ENOMEM, "no memory");
	memset(memory, 0, sizeof(*memory));
	if (memory_chunks_start(memory, conf->name)) {
		free(memory);
		return error_set(error, -ENOMEM, "no memory");
	}
	atomic_init(&memory->size, conf->size);
	tree_init(&memory->tree, (conf->size + CHUNK_SIZE - 1) / CHUNK_SIZE);

	info->size = conf->size;
	info->native = NATIVE;
	info->discard_granularity = CHUNK_PAGE;
	info->sparse = true;
	info->fast_zero = true;
	info->carried_inline = true;
	*state = memory;
	return 0;
}

static void
close_memory(void *state)
{
	struct memory *memory = state;

	tree_destroy(&memory->tree);
	memory_chunks_stop(memory);
	free(memory);
}

/* The pages first .. last as bits. */
static uint16_t
page_mask(unsigned first, unsigned last)
{
	return (uint16_t)(((2u << last) - 1) & ~((1u << first) - 1));
}

static void
read_span(struct memory *memory, const struct span *span, const struct blk_request *request,
	size_t skip)
{
	struct stripe *stripe = tree_stripe(&memory->tree, span->leaf);
	size_t within = span->within, end = span->within + span->length;
	const struct chunk_entry *entry = NULL;
	struct memory_node *leaf;
	const uint8_t *base = NULL;

	pthread_mutex_lock(&stripe->lock);
	leaf = tree_find(&memory->tree, span->leaf);
	if (leaf && leaf->entry[span->slot].pages) {
		entry = &leaf->entry[span->slot];
		base = slab_object(memory->chunks, entry->chunk);
	}
	while (within < end) {
		unsigned page = (unsigned)(within / CHUNK_PAGE);
		bool data = entry && entry->pages >> page & 1;
		size_t to;

		/* As many pages of a kind as follow each other. */
		for (page++; page < CHUNK_PAGES; page++)
			if ((entry && entry->pages >> page & 1) != data)
				break;
		to = min_size(end, page * CHUNK_PAGE);
		if (data)
			iov_from(request->iov, request->niov, skip, base + within, to - within);
		else
			iov_zero(request->iov, request->niov, skip, to - within);
		skip += to - within;
		within = to;
	}
	pthread_mutex_unlock(&stripe->lock);
}

/* Its stripe is held. False: no room. */
static bool
fill_span(struct memory *memory, const struct span *span, const struct blk_request *request,
	size_t skip)
{
	struct chunk_entry *entry = memory_entry(memory, span);
	size_t end = span->within + span->length;
	unsigned first = (unsigned)(span->within / CHUNK_PAGE);
	unsigned last = (unsigned)((end - 1) / CHUNK_PAGE);
	uint8_t *base;

	if (!entry)
		return false;
	base = slab_object(memory->chunks, entry->chunk);
	if (span->within % CHUNK_PAGE && !(entry->pages >> first & 1))
		memset(base + first * CHUNK_PAGE, 0, span->within % CHUNK_PAGE);
	if (end % CHUNK_PAGE && !(entry->pages >> last & 1))
		memset(base + end, 0, CHUNK_PAGE - end % CHUNK_PAGE);
	iov_to(request->iov, request->niov, skip, base + span->within, span->length);
	entry->pages |= page_mask(first, last);
	return true;
}

static bool
write_span(struct memory *memory, const struct span *span, const struct blk_request *request,
	size_t skip)
{
	struct stripe *stripe = tree_stripe(&memory->tree, span->leaf);
	bool done;

	pthread_mutex_lock(&stripe->lock);
	done = fill_span(memory, span, request, skip);
	pthread_mutex_unlock(&stripe->lock);
	return done;
}

/* READ and WRITE, from where the last turn ended. */
static void
move_data(struct blk_request *request)
{
	struct memory *memory = blk_driver_state(request);
	uint64_t most = request->progress + LIMIT_INLINE_BYTES;

	while (request->progress < request->length) {
		struct span span = first_span(
			request->offset + request->progress, request->length - request->progress);

		if (request->progress + span.length > most) {
			blk_yield(request, move_data);
			return;
		}
		if (request->op == BLK_READ) {
			read_span(memory, &span, request, request->progress);
		} else if (!write_span(memory, &span, request, request->progress)) {
			blk_complete(request, -ENOSPC);
			return;
		}
		request->progress += span.length;
	}
	blk_complete(request, 0);
}

/* The span's bytes become zero, whole pages without being touched. Its stripe is held. */
static void
clear_pages(struct memory *memory, struct chunk_entry *entry, size_t within, size_t length)
{
	uint8_t *base = slab_object(memory->chunks, entry->chunk);
	size_t end = within + length;

	while (within < end) {
		unsigned page = (unsigned)(within / CHUNK_PAGE);
		size_t to = min_size(end, (page + 1) * CHUNK_PAGE);

		if (to - within == CHUNK_PAGE)
			entry->pages &= (uint16_t)~(1u << page);
		else if (entry->pages >> page & 1)
			memset(base + within, 0, to - within);
		within = to;
	}
}

/* ZERO without MAY_UNMAP, from where the last turn ended. */
static void
provide_zeroes(struct blk_request *request)
{
	struct memory *memory = blk_driver_state(request);

	for (unsigned chunks = 0; request->progress < request->length; chunks++) {
		struct span span = first_span(
			request->offset + request->progress, request->length - request->progress);
		struct stripe *stripe = tree_stripe(&memory->tree, span.leaf);
		struct chunk_entry *entry;

		if (chunks == LIMIT_INLINE_CHUNKS) {
			blk_yield(request, provide_zeroes);
			return;
		}
		pthread_mutex_lock(&stripe->lock);
		entry = memory_entry(memory, &span);
		if (entry)
			clear_pages(memory, entry, span.within, span.length);
		pthread_mutex_unlock(&stripe->lock);
		if (!entry) {
			blk_complete(request, -ENOSPC);
			return;
		}
		request->progress += span.length;
	}
	blk_complete(request, 0);
}

/* Unmaps [offset, end) as far as it lies in this leaf. Its stripe is held. Chunks looked at. */
static unsigned
unmap_leaf(struct memory *memory, struct memory_node *leaf, uint64_t number, uint64_t offset,
	uint64_t end)
{
	uint64_t at = number * LEAF_SIZE > offset ? number * LEAF_SIZE : offset;
	unsigned chunks = 0;

	end = min_u64(end, (number + 1) * LEAF_SIZE);
	while (at < end) {
		struct span span = first_span(at, end - at);
		struct chunk_entry *entry = &leaf->entry[span.slot];

		if (entry->present) {
			chunks++;
			clear_pages(memory, entry, span.within, span.length);
			if (!entry->pages)
				memory_drop_chunk(memory, leaf, entry);
		}
		at += span.length;
	}
	tree_prune(&memory->tree, number);
	return chunks;
}

/*
 * DISCARD, and ZERO with MAY_UNMAP: visits the leaves that are there, stripe by stripe. driver[0]
 * counts the stripes done; progress is the leaf to go on with in the present one, 0 for its first.
 */
static void
unmap_range(struct blk_request *request)
{
	struct memory *memory = blk_driver_state(request);
	uint64_t given = request->offset + request->length;
	/* The volume's last page ends with it. */
	uint64_t size = atomic_load_explicit(&memory->size, memory_order_relaxed);
	uint64_t end = given == size ? round_up(given, CHUNK_PAGE) : given;
	uint64_t first = request->offset / LEAF_SIZE, last = (end - 1) / LEAF_SIZE;
	uint64_t stripes = min_u64(last - first + 1, STRIPES);
	unsigned chunks = 0;

	while (request->driver[0] < stripes) {
		uint64_t number =
			request->progress ? request->progress : first + request->driver[0];
		struct stripe *stripe = tree_stripe(&memory->tree, number);
		struct memory_node *leaf;

		if (chunks + NODE_SLOTS > LIMIT_INLINE_CHUNKS) {
			blk_yield(request, unmap_range);
			return;
		}
		pthread_mutex_lock(&stripe->lock);
		leaf = tree_next(&memory->tree, &number);
		if (leaf && number <= last)
			chunks += 1 + unmap_leaf(memory, leaf, number, request->offset, end);
		pthread_mutex_unlock(&stripe->lock);
		if (leaf && number + STRIPES <= last) {
			request->progress = number + STRIPES;
		} else {
			request->progress = 0;
			request->driver[0]++;
		}
	}
	memory_shrink(memory);
	blk_complete(request, 0);
}

/* What lies above `from` goes. Nothing is in flight. */
static void
forget_above(struct memory *memory, uint64_t from, uint64_t end)
{
	uint64_t last = (end - 1) / LEAF_SIZE;

	for (unsigned i = 0; i < STRIPES; i++) {
		uint64_t number = from / LEAF_SIZE + i;

		for (;;) {
			struct stripe *stripe = tree_stripe(&memory->tree, number);
			struct memory_node *leaf;

			pthread_mutex_lock(&stripe->lock);
			leaf = tree_next(&memory->tree, &number);
			if (leaf && number <= last)
				unmap_leaf(memory, leaf, number, from, end);
			pthread_mutex_unlock(&stripe->lock);
			if (!leaf || number + STRIPES > last)
				break;
			number += STRIPES;
		}
	}
	memory_shrink(memory);
}

static int
resize_memory(void *state, uint64_t size, struct error *error)
{
	struct memory *memory = state;
	uint64_t before = atomic_load(&memory->size);

	if (size < before)
		forget_above(memory, size, round_up(before, CHUNK_PAGE));
	else if (tree_grow(&memory->tree, (size + CHUNK_SIZE - 1) / CHUNK_SIZE))
		return error_set(error, -ENOMEM, "no memory");
	atomic_store(&memory->size, size);
	return 0;
}

/* Bytes that agree, from the chunk's `within` and the vector's `skip` on, at most `length`. */
static size_t
compare_bytes(const uint8_t *held, const struct blk_request *request, size_t skip, size_t length)
{
	size_t done = 0;

	while (done < length) {
		struct iovec piece;
		size_t n;

		if (!iov_slice(
			    request->iov, request->niov, skip + done, length - done, &piece, 1, &n))
			break;
		if (memcmp(held + done, piece.iov_base, n) != 0) {
			const uint8_t *given = piece.iov_base;
			size_t i = 0;

			while (held[done + i] == given[i])
				i++;
			return done + i;
		}
		done += n;
	}
	return done;
}

/* The same for a span, whose stripe is held. */
static size_t
compare_span(struct memory *memory, const struct span *span, const struct blk_request *request)
{
	static const uint8_t zeroes[CHUNK_PAGE];
	struct memory_node *leaf = tree_find(&memory->tree, span->leaf);
	const struct chunk_entry *entry = leaf ? &leaf->entry[span->slot] : NULL;
	size_t done = 0;

	while (done < span->length) {
		size_t within = span->within + done;
		unsigned page = (unsigned)(within / CHUNK_PAGE);
		size_t n = min_size(span->length - done, CHUNK_PAGE - within % CHUNK_PAGE), same;
		const uint8_t *held = zeroes;

		if (entry && entry->pages >> page & 1)
			held = (uint8_t *)slab_object(memory->chunks, entry->chunk) + within;
		same = compare_bytes(held, request, done, n);
		done += same;
		if (same < n)
			break;
	}
	return done;
}

/*
 * Within one chunk its stripe makes it one action. Across chunks it would be one to other writes,
 * but a READ of both could see half of it: the block layer does it under a frozen range.
 */
static bool
compare_and_write(struct memory *memory, struct blk_request *request)
{
	struct span span = first_span(request->offset, request->length);
	struct stripe *stripe = tree_stripe(&memory->tree, span.leaf);
	size_t same;
	int rc = 0;

	if (span.length < request->length)
		return false;
	pthread_mutex_lock(&stripe->lock);
	same = compare_span(memory, &span, request);
	if (same < span.length) {
		request->mismatch = same;
		rc = -EILSEQ;
	} else if (!fill_span(memory, &span, request, span.length)) {
		rc = -ENOSPC;
	}
	pthread_mutex_unlock(&stripe->lock);
	blk_complete(request, rc);
	return true;
}

static bool
submit_memory(void *state, struct blk_request *request)
{
	struct memory *memory = state;

	switch (request->op) {
	case BLK_READ:
	case BLK_WRITE:
		move_data(request);
		return true;
	case BLK_ZERO:
		if (!(request->flags & BLK_MAY_UNMAP)) {
			provide_zeroes(request);
			return true;
		}
		__attribute__((fallthrough));
	case BLK_DISCARD:
		unmap_range(request);
		return true;
	case BLK_EXTENTS:
		memory_extents(memory, request);
		return true;
	case BLK_COMPARE_WRITE:
		return compare_and_write(memory, request);
	default: /* FLUSH, PREFETCH: it is where it shall be */
		blk_complete(request, 0);
		return true;
	}
}

static uint64_t
memory_allocated(void *state)
{
	struct memory *memory = state;

	return atomic_load_explicit(&memory->used, memory_order_relaxed) * CHUNK_SIZE;
}

static void
describe_memory(void *state, char *text, size_t size)
{
	(void)state;
	snprintf(text, size, "sparse, chunks of %" PRIu64 " KiB", CHUNK_SIZE / KIB);
}

const struct blk_driver memory_driver = {
	.name = "memory",
	.argument = "size",
	.open = open_memory,
	.close = close_memory,
	.submit = submit_memory,
	.resize = resize_memory,
	.allocated = memory_allocated,
	.describe = describe_memory,
};
