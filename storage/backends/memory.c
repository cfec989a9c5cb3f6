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
#include <sys/resource.h>
#include <unistd.h>

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

static uint64_t
count_chunks(uint64_t size)
{
	return (size + CHUNK_SIZE - 1) / CHUNK_SIZE;
}

static void
free_memory(struct memory *memory)
{
	/* What a descendant still has stays; else the cache frees all at once. */
	if (atomic_load(&memory->pool->references) > 1)
		memory_drop_from(memory, 0);
	tree_destroy(&memory->tree);
	memory_pool_put(memory->pool);
	free(memory->name);
	free(memory);
}

/* An empty one; takes over the reference to the pool. NULL: no memory. */
static struct memory *
make_memory(const struct conf_volume *conf, uint64_t size, struct memory_pool *pool)
{
	struct memory *memory = aligned_alloc(_Alignof(struct memory), sizeof(*memory));
	char *name = strdup(conf->name);

	if (!memory || !name) {
		free(memory);
		free(name);
		memory_pool_put(pool);
		return NULL;
	}
	memset(memory, 0, sizeof(*memory));
	memory->name = name;
	memory->pool = pool;
	memory->size = size;
	memory->limit = conf->limit ? conf->limit / CHUNK_SIZE : UINT64_MAX;
	memory->zero_detect = conf->zero_detect;
	tree_init(&memory->tree, count_chunks(size));
	return memory;
}

static int
refuse_populate(const struct conf_volume *conf, struct error *error)
{
	return error_set(error, -ENOMEM,
		"populate: there is no memory for %" PRIu64 " bytes (%" PRIu64
		" are left of what memory volumes may have)",
		conf->size, storage_memory_cap() - storage_memory_used());
}

static int
check_conf(const struct conf_volume *conf, struct error *error)
{
	struct rlimit locked = {0};
	uint64_t most = conf->limit && conf->limit < conf->size ? conf->limit : conf->size;

	if (!conf->size)
		return error_set(error, -EINVAL, "needs a size: %s=memory:1G", conf->name);
	if (conf->limit && conf->limit < CHUNK_SIZE)
		return error_set(error, -EINVAL, "limit %" PRIu64 " is less than %" PRIu64,
			conf->limit, CHUNK_SIZE);
	if (conf->populate && most < conf->size)
		return error_set(error, -EINVAL,
			"populate takes all of size, which is more than limit allows");
	/* Before any of it is taken: what is not enough would push everybody else out of memory. */
	if (conf->populate &&
		!range_within(storage_memory_used(), conf->size, storage_memory_cap()))
		return refuse_populate(conf, error);
	if (conf->lock && geteuid() != 0 && getrlimit(RLIMIT_MEMLOCK, &locked) == 0 &&
		locked.rlim_cur < most)
		return error_set(error, -EPERM,
			"lock: %" PRIu64 " bytes are to be locked, the limit is %" PRIu64
			" (ulimit -l, LimitMEMLOCK=)",
			most, (uint64_t)locked.rlim_cur);
	return 0;
}

/* Takes every chunk, and from the kernel every page of it. */
static bool
populate(struct memory *memory)
{
	for (uint64_t at = 0; at < memory->size; at += CHUNK_SIZE) {
		struct span span = first_span(at, CHUNK_SIZE);
		struct chunk_entry *entry = memory_entry(memory, &span);

		if (!entry)
			return false;
		for (uint64_t i = 0; i < CHUNK_SIZE; i += CHUNK_PAGE)
			*(volatile uint8_t *)(memory_chunk(memory, entry) + i) = 0;
	}
	return true;
}

static void
promise(const struct conf_volume *conf, struct blk_info *info, uint64_t size)
{
	info->size = size;
	info->native = NATIVE;
	info->discard_granularity = CHUNK_PAGE;
	info->sparse = true;
	info->fast_zero = true;
	info->carried_inline = true;
	info->atomic_max = LIMIT_IOBUF_PIECE; /* a power cut leaves nothing at all */
	info->limit = conf->limit && conf->limit < size ? round_down(conf->limit, CHUNK_SIZE) : 0;
}

static int
open_memory(
	const struct conf_volume *conf, struct blk_info *info, void **state, struct error *error)
{
	struct memory_pool *pool;
	struct memory *memory;
	int rc = check_conf(conf, error);

	if (rc)
		return rc;
	pool = memory_pool_new(conf->name,
		(conf->hugepages ? 0 : SLAB_SMALL_PAGES) | (conf->lock ? SLAB_LOCKED : 0));
	memory = pool ? make_memory(conf, conf->size, pool) : NULL;
	if (!memory)
		return error_set(error, -ENOMEM, "no memory");
	promise(conf, info, conf->size);
	if (conf->load)
		rc = memory_image_load(memory, conf->load, error);
	/* The first time there is nothing yet of what will be saved. */
	if (rc == -ENOENT && conf->save && strcmp(conf->save, conf->load) == 0)
		rc = 0;
	if (!rc && conf->populate && !populate(memory))
		rc = refuse_populate(conf, error);
	if (!rc && conf->save) {
		memory->save = strdup(conf->save);
		rc = memory->save ? 0 : error_set(error, -ENOMEM, "no memory");
	}
	if (rc) {
		free_memory(memory);
		return rc;
	}
	*state = memory;
	return 0;
}

static void
close_memory(void *state)
{
	struct memory *memory = state;
	struct error error;

	if (memory->save && memory_image_save(memory, memory->save, &error))
		log_error("volume %s: it was not saved: %s", memory->name, error.text);
	else if (memory->save)
		log_info("volume %s: saved to %s", memory->name, memory->save);
	free(memory->save);
	free_memory(memory);
}

static int
clone_memory(void *state, const struct conf_volume *conf, struct blk_info *info, void **clone,
	struct error *error)
{
	struct memory *from = state;
	struct memory *to = make_memory(conf, from->size, memory_pool_get(from->pool));
	int rc = to ? memory_share_all(from, to) : -ENOMEM;

	if (rc) {
		if (to)
			free_memory(to);
		return error_set(error, rc, "no memory");
	}
	promise(conf, info, to->size);
	*clone = to;
	return 0;
}

static int
save_memory(void *state, const char *path, struct error *error)
{
	return memory_image_save(state, path, error);
}

static int
load_memory(void *state, const struct conf_volume *conf, const char *path, void **loaded,
	struct error *error)
{
	struct memory *like = state;
	struct memory *memory = make_memory(conf, like->size, memory_pool_get(like->pool));
	int rc;

	if (!memory)
		return error_set(error, -ENOMEM, "no memory");
	rc = memory_image_load(memory, path, error);
	if (rc)
		free_memory(memory);
	else
		*loaded = memory;
	return rc;
}

static int
adopt_memory(void *state, void *loaded)
{
	struct memory *memory = state, *other = loaded;
	uint64_t used = memory->used;

	if (!tree_grow(&other->tree, count_chunks(memory->size)))
		return -ENOMEM;
	tree_swap(&memory->tree, &other->tree);
	memory->used = other->used;
	other->used = used;
	return 0;
}

static void
dispose_memory(void *state)
{
	struct memory *memory = state;

	/* What it had is freed chunk by chunk: others may have the pool. */
	free_memory(memory);
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
		base = memory_chunk(memory, entry);
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

/* Of vector bytes [skip, skip + length). */
static bool
is_zero(const struct blk_request *request, size_t skip, size_t length)
{
	while (length) {
		struct iovec piece;
		const uint8_t *bytes;
		size_t n;

		if (!iov_slice(request->iov, request->niov, skip, length, &piece, 1, &n))
			return false;
		bytes = piece.iov_base;
		if (bytes[0] || memcmp(bytes, bytes + 1, n - 1) != 0)
			return false;
		skip += n;
		length -= n;
	}
	return true;
}

/* The pages that a write covers whole and would fill with zeroes. */
static uint16_t
zero_pages(const struct span *span, const struct blk_request *request, size_t skip)
{
	size_t end = span->within + span->length;
	uint16_t pages = 0;

	for (size_t at = round_up(span->within, CHUNK_PAGE); at + CHUNK_PAGE <= end;
		at += CHUNK_PAGE)
		if (is_zero(request, skip + at - span->within, CHUNK_PAGE))
			pages |= (uint16_t)(1u << at / CHUNK_PAGE);
	return pages;
}

/* The pages become a hole, and their chunk when it has no others. Its stripe is held. */
static void
forget_pages(struct memory *memory, const struct span *span, uint16_t pages)
{
	struct memory_node *leaf = tree_find(&memory->tree, span->leaf);
	struct chunk_entry *entry = leaf ? &leaf->entry[span->slot] : NULL;

	if (!entry || !entry->present)
		return;
	entry->pages &= (uint16_t)~pages;
	if (!entry->pages) {
		memory_drop_chunk(memory, leaf, entry);
		tree_prune(&memory->tree, span->leaf);
	}
}

/* Its stripe is held. False: no room. */
static bool
fill_span(struct memory *memory, const struct span *span, const struct blk_request *request,
	size_t skip)
{
	size_t end = span->within + span->length;
	unsigned first = (unsigned)(span->within / CHUNK_PAGE);
	unsigned last = (unsigned)((end - 1) / CHUNK_PAGE);
	uint16_t touched = page_mask(first, last), whole = touched, zeroes = 0;
	struct chunk_entry *entry;
	uint8_t *base;

	if (memory->zero_detect)
		zeroes = zero_pages(span, request, skip);
	if (zeroes == touched) {
		forget_pages(memory, span, zeroes);
		return true;
	}
	if (span->within % CHUNK_PAGE)
		whole &= (uint16_t) ~(1u << first);
	if (end % CHUNK_PAGE)
		whole &= (uint16_t) ~(1u << last);
	entry = memory_entry(memory, span);
	if (!entry || !memory_own(memory, entry, (uint16_t)~whole))
		return false;
	base = memory_chunk(memory, entry);
	if (span->within % CHUNK_PAGE && !(entry->pages >> first & 1))
		memset(base + first * CHUNK_PAGE, 0, span->within % CHUNK_PAGE);
	if (end % CHUNK_PAGE && !(entry->pages >> last & 1))
		memset(base + end, 0, CHUNK_PAGE - end % CHUNK_PAGE);
	iov_to(request->iov, request->niov, skip, base + span->within, span->length);
	entry->pages = (uint16_t)((entry->pages | touched) & ~zeroes);
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
	if (memory->zero_detect && request->op == BLK_WRITE)
		memory_pool_shrink(memory->pool);
	blk_complete(request, 0);
}

/* The span's bytes become zero, whole pages without being touched. Its stripe is held. False: no
 * room for a chunk of its own. */
static bool
clear_pages(struct memory *memory, struct chunk_entry *entry, size_t within, size_t length)
{
	size_t end = within + length;

	while (within < end) {
		unsigned page = (unsigned)(within / CHUNK_PAGE);
		size_t to = min_size(end, (page + 1) * CHUNK_PAGE);

		if (to - within == CHUNK_PAGE) {
			entry->pages &= (uint16_t) ~(1u << page);
		} else if (entry->pages >> page & 1) {
			if (!memory_own(memory, entry, UINT16_MAX))
				return false;
			memset(memory_chunk(memory, entry) + within, 0, to - within);
		}
		within = to;
	}
	return true;
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
		bool done;

		if (chunks == LIMIT_INLINE_CHUNKS) {
			blk_yield(request, provide_zeroes);
			return;
		}
		pthread_mutex_lock(&stripe->lock);
		entry = memory_entry(memory, &span);
		/* Its own, so that later writes find their memory. */
		done = entry && memory_own(memory, entry, UINT16_MAX) &&
		       clear_pages(memory, entry, span.within, span.length);
		pthread_mutex_unlock(&stripe->lock);
		if (!done) {
			blk_complete(request, -ENOSPC);
			return;
		}
		request->progress += span.length;
	}
	blk_complete(request, 0);
}

/* Unmaps [offset, end) as far as it lies in this leaf. Its stripe is held. Chunks looked at; *full:
 * some bytes are left, for there was no room for a chunk of its own to clear them in. */
static unsigned
unmap_leaf(struct memory *memory, struct memory_node *leaf, uint64_t number, uint64_t offset,
	uint64_t end, bool *full)
{
	uint64_t at = number * LEAF_SIZE > offset ? number * LEAF_SIZE : offset;
	unsigned chunks = 0;

	end = min_u64(end, (number + 1) * LEAF_SIZE);
	while (at < end) {
		struct span span = first_span(at, end - at);
		struct chunk_entry *entry = &leaf->entry[span.slot];

		if (entry->present) {
			chunks++;
			*full = !clear_pages(memory, entry, span.within, span.length) || *full;
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
	uint64_t end = given == memory->size ? round_up(given, CHUNK_PAGE) : given;
	uint64_t first = request->offset / LEAF_SIZE, last = (end - 1) / LEAF_SIZE;
	uint64_t stripes = min_u64(last - first + 1, STRIPES);
	unsigned chunks = 0;
	bool full = false;

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
			chunks += 1 + unmap_leaf(memory, leaf, number, request->offset, end, &full);
		pthread_mutex_unlock(&stripe->lock);
		/* DISCARD may leave old data. */
		if (full && request->op == BLK_ZERO) {
			blk_complete(request, -ENOSPC);
			return;
		}
		if (leaf && number + STRIPES <= last) {
			request->progress = number + STRIPES;
		} else {
			request->progress = 0;
			request->driver[0]++;
		}
	}
	memory_pool_shrink(memory->pool);
	blk_complete(request, 0);
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
			held = memory_chunk(memory, entry) + within;
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

/* What lies behind the end comes back as zeroes. Nothing is in flight when it shrinks. */
static int
resize_memory(void *state, uint64_t size, struct error *error)
{
	struct memory *memory = state;
	struct span tail = first_span(size, CHUNK_SIZE);
	struct stripe *stripe = tree_stripe(&memory->tree, tail.leaf);
	struct memory_node *leaf;
	bool cleared = true;

	if (size >= memory->size) {
		if (!tree_grow(&memory->tree, count_chunks(size)))
			return error_set(error, -ENOMEM, "no memory");
		memory->size = size;
		return 0;
	}
	if (tail.within) {
		pthread_mutex_lock(&stripe->lock);
		leaf = tree_find(&memory->tree, tail.leaf);
		if (leaf && leaf->entry[tail.slot].present)
			cleared = clear_pages(memory, &leaf->entry[tail.slot], tail.within,
				CHUNK_SIZE - tail.within);
		pthread_mutex_unlock(&stripe->lock);
	}
	if (!cleared)
		return error_set(error, -ENOSPC, "no memory for a chunk of its own");
	memory_drop_from(memory, count_chunks(size));
	memory->size = size;
	return 0;
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
	const struct memory *memory = state;
	unsigned others = atomic_load(&memory->pool->references) - 1;
	char limit[48] = "", shared[48] = "";

	if (memory->limit != UINT64_MAX)
		snprintf(limit, sizeof(limit), ", at most %" PRIu64 " MiB",
			memory->limit * CHUNK_SIZE / MIB);
	if (others)
		snprintf(shared, sizeof(shared), ", shares with %u other%s", others,
			others > 1 ? "s" : "");
	snprintf(text, size, "sparse, chunks of %" PRIu64 " KiB%s%s", CHUNK_SIZE / KIB, limit,
		shared);
}

const struct blk_driver memory_driver = {
	.name = "memory",
	.argument = "size",
	.open = open_memory,
	.close = close_memory,
	.submit = submit_memory,
	.resize = resize_memory,
	.clone = clone_memory,
	.save = save_memory,
	.load = load_memory,
	.adopt = adopt_memory,
	.dispose = dispose_memory,
	.allocated = memory_allocated,
	.describe = describe_memory,
};
