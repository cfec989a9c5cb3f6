/*
 * Magazines over slab_space.c. A loop has two magazines per cache: allocations and frees come from
 * and go to `loaded`; when that is empty or full the two change places; only when that does not
 * help either does the loop take the cache's lock and exchange a magazine with the depot. So a lock
 * is taken once in LIMIT_MAGAZINE_OBJECTS operations at most, whichever way they alternate.
 */
#include "config.h"

#include "slab.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "check.h"
#include "limits.h"
#include "loop.h"
#include "slab_asan.h"
#include "slab_space.h"

/* Full magazines, and bytes in them: more go back to their slabs. */
#define DEPOT_MAX   8
#define DEPOT_BYTES (2 * LIMIT_MAGAZINE_BYTES)
#define POISON_FREE 0x6b
#define POISON_NEW  0x5a

enum { DEBUG_POISON = 1, DEBUG_WAS_POISONED = 2 };

struct magazine {
	SLIST_ENTRY(magazine) link;
	unsigned count;
	void *objects[LIMIT_MAGAZINE_OBJECTS];
};

SLIST_HEAD(magazines, magazine);

/* One loop's, touched by its thread only; counters are read relaxed by others. */
struct slab_local {
	_Alignas(64) struct magazine *loaded;
	struct magazine *previous;
	_Atomic uint64_t alloc_fast, alloc_slow, free_fast, free_slow;
};

struct slab_cache {
	unsigned capacity;      /* of a magazine; 0: none are used */
	unsigned depot_max;     /* full magazines */
	_Atomic unsigned debug; /* DEBUG_* */
	LIST_ENTRY(slab_cache) link;
	size_t object_size, align;
	char name[32];
	pthread_mutex_t lock; /* of the depot; taken before the space's */
	struct magazines full, empty;
	unsigned nfull;
	_Atomic uint64_t alloc_direct, free_direct; /* by threads that have no magazine */
	struct slab_space space;
	struct slab_local locals[LIMIT_LOOPS + 1];
};

/* Every cache, by name. The lock is taken before any cache's. */
static pthread_mutex_t caches_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, slab_cache) caches = LIST_HEAD_INITIALIZER(caches);

static struct slab_local *
local_of(struct slab_cache *cache)
{
	struct loop *loop = loop_current();

	return loop && cache->capacity ? &cache->locals[loop_index(loop)] : NULL;
}

/* The owner is the only writer: no locked instruction. */
static void
count_one(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
		memory_order_relaxed);
}

static uint64_t
read_count(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void
swap_magazines(struct slab_local *local)
{
	struct magazine *m = local->loaded;

	local->loaded = local->previous;
	local->previous = m;
}

/* An empty one: from the depot, else new. NULL: no memory. */
static struct magazine *
get_magazine(struct slab_cache *cache)
{
	struct magazine *m;

	pthread_mutex_lock(&cache->lock);
	m = SLIST_FIRST(&cache->empty);
	if (m)
		SLIST_REMOVE_HEAD(&cache->empty, link);
	pthread_mutex_unlock(&cache->lock);
	if (m)
		return m;
	m = malloc(sizeof(*m));
	if (m)
		m->count = 0;
	return m;
}

static bool
have_magazines(struct slab_cache *cache, struct slab_local *local)
{
	if (!local->loaded)
		local->loaded = get_magazine(cache);
	if (!local->previous)
		local->previous = get_magazine(cache);
	return local->loaded && local->previous;
}

/* Puts an empty magazine down and takes a full one up. */
static bool
exchange_for_full(struct slab_cache *cache, struct slab_local *local)
{
	struct magazine *m;

	pthread_mutex_lock(&cache->lock);
	m = SLIST_FIRST(&cache->full);
	if (m) {
		SLIST_REMOVE_HEAD(&cache->full, link);
		cache->nfull--;
		SLIST_INSERT_HEAD(&cache->empty, local->loaded, link);
		local->loaded = m;
	}
	pthread_mutex_unlock(&cache->lock);
	return m != NULL;
}

static void *
alloc_direct(struct slab_cache *cache)
{
	void *object;

	if (slab_space_take(&cache->space, &object, 1) == 0)
		return NULL;
	atomic_fetch_add_explicit(&cache->alloc_direct, 1, memory_order_relaxed);
	return object;
}

/* `loaded` is empty or not there yet. */
static void *
alloc_slow(struct slab_cache *cache, struct slab_local *local)
{
	struct magazine *m;

	if (!local || !have_magazines(cache, local))
		return alloc_direct(cache);
	if (local->previous->count) {
		swap_magazines(local);
	} else if (!exchange_for_full(cache, local)) {
		/* Half of it, so that frees that follow find room. */
		m = local->loaded;
		m->count = slab_space_take(&cache->space, m->objects, (cache->capacity + 1) / 2);
		if (m->count == 0)
			return NULL;
	}
	count_one(&local->alloc_slow);
	return local->loaded->objects[--local->loaded->count];
}

static void
free_direct(struct slab_cache *cache, void *object)
{
	slab_space_put(&cache->space, &object, 1);
	atomic_fetch_add_explicit(&cache->free_direct, 1, memory_order_relaxed);
}

/* Both magazines are full: one goes to the depot, or its objects to their slabs. */
static void
make_room(struct slab_cache *cache, struct slab_local *local)
{
	struct magazine *empty = NULL;

	pthread_mutex_lock(&cache->lock);
	if (cache->nfull < cache->depot_max) {
		empty = SLIST_FIRST(&cache->empty);
		if (empty)
			SLIST_REMOVE_HEAD(&cache->empty, link);
		else
			empty = malloc(sizeof(*empty));
		if (empty) {
			empty->count = 0;
			SLIST_INSERT_HEAD(&cache->full, local->previous, link);
			cache->nfull++;
			local->previous = empty;
		}
	}
	pthread_mutex_unlock(&cache->lock);
	if (!empty) {
		slab_space_put(&cache->space, local->previous->objects, local->previous->count);
		local->previous->count = 0;
	}
}

/* `loaded` is full or not there yet. */
static void
free_slow(struct slab_cache *cache, struct slab_local *local, void *object)
{
	if (!local || !have_magazines(cache, local)) {
		free_direct(cache, object);
		return;
	}
	if (local->loaded->count == cache->capacity) {
		if (local->previous->count == cache->capacity)
			make_room(cache, local);
		swap_magazines(local);
	}
	count_one(&local->free_slow);
	local->loaded->objects[local->loaded->count++] = object;
}

/* A free object that was filled with poison still is, or somebody wrote to it. */
static void
check_poison(struct slab_cache *cache, void *object)
{
	const uint8_t *byte = object;

	if (slab_space_set_poisoned(&cache->space, object, false))
		CHECK(byte[0] == POISON_FREE &&
			memcmp(byte, byte + 1, cache->object_size - 1) == 0);
	if (atomic_load_explicit(&cache->debug, memory_order_relaxed) & DEBUG_POISON)
		memset(object, POISON_NEW, cache->object_size);
}

static void
fill_poison(struct slab_cache *cache, void *object)
{
	if (!(atomic_load_explicit(&cache->debug, memory_order_relaxed) & DEBUG_POISON))
		return;
	memset(object, POISON_FREE, cache->object_size);
	CHECK(!slab_space_set_poisoned(&cache->space, object, true)); /* freed twice */
}

void *
slab_alloc(struct slab_cache *cache)
{
	struct slab_local *local = local_of(cache);
	void *object;

	if (local && local->loaded && local->loaded->count) {
		object = local->loaded->objects[--local->loaded->count];
		count_one(&local->alloc_fast);
	} else {
		object = alloc_slow(cache, local);
		if (!object)
			return NULL;
	}
	asan_unpoison(object, cache->object_size);
	if (__builtin_expect(atomic_load_explicit(&cache->debug, memory_order_relaxed) != 0, 0))
		check_poison(cache, object);
	return object;
}

void
slab_free(struct slab_cache *cache, void *object)
{
	struct slab_local *local = local_of(cache);

	CHECK(!asan_poisoned(object)); /* freed twice */
	if (__builtin_expect(atomic_load_explicit(&cache->debug, memory_order_relaxed) != 0, 0))
		fill_poison(cache, object);
	asan_poison(object, cache->object_size);
	if (local && local->loaded && local->loaded->count < cache->capacity) {
		local->loaded->objects[local->loaded->count++] = object;
		count_one(&local->free_fast);
	} else {
		free_slow(cache, local, object);
	}
}

uint32_t
slab_index(const struct slab_cache *cache, const void *object)
{
	return slab_space_index(&cache->space, object);
}

void *
slab_object(const struct slab_cache *cache, uint32_t index)
{
	return slab_space_object(&cache->space, index);
}

void
slab_cache_limit(struct slab_cache *cache, uint64_t bytes)
{
	slab_space_limit(&cache->space, bytes);
}

void
slab_cache_poison(struct slab_cache *cache, bool on)
{
	if (cache->space.ctor)
		return; /* a free object's contents are the constructor's */
	atomic_store_explicit(&cache->debug,
		on ? DEBUG_POISON | DEBUG_WAS_POISONED : DEBUG_WAS_POISONED, memory_order_relaxed);
}

static void
insert_by_name(struct slab_cache *cache)
{
	struct slab_cache *after = NULL;
	struct slab_cache *other;

	pthread_mutex_lock(&caches_lock);
	LIST_FOREACH(other, &caches, link) {
		if (strcmp(other->name, cache->name) > 0)
			break;
		after = other;
	}
	if (after)
		LIST_INSERT_AFTER(after, cache, link);
	else
		LIST_INSERT_HEAD(&caches, cache, link);
	pthread_mutex_unlock(&caches_lock);
}

struct slab_cache *
slab_cache_new(const char *name, size_t object_size, size_t align, unsigned flags,
	void (*ctor)(void *object))
{
	struct slab_cache *cache = aligned_alloc(_Alignof(struct slab_cache), sizeof(*cache));
	size_t capacity = LIMIT_MAGAZINE_BYTES / object_size;

	if (!cache)
		return NULL;
	CHECK(object_size > 0 && (align & (align - 1)) == 0);
	memset(cache, 0, sizeof(*cache));
	snprintf(cache->name, sizeof(cache->name), "%s", name);
	cache->object_size = object_size;
	cache->align = align ? align : 16;
	if (!(flags & SLAB_CHUNKS))
		cache->capacity = (unsigned)min_size(capacity, LIMIT_MAGAZINE_OBJECTS);
	cache->depot_max =
		cache->capacity ? (unsigned)min_size(
					  DEPOT_BYTES / (cache->capacity * object_size), DEPOT_MAX)
				: 0;
	/* 8: what AddressSanitizer can tell apart. */
	if (slab_space_init(&cache->space, object_size, cache->align < 8 ? 8 : cache->align,
		    flags, ctor)) {
		free(cache);
		return NULL;
	}
	pthread_mutex_init(&cache->lock, NULL);
	SLIST_INIT(&cache->full);
	SLIST_INIT(&cache->empty);
	insert_by_name(cache);
	return cache;
}

static void
free_magazines(struct magazines *list)
{
	struct magazine *m;

	while ((m = SLIST_FIRST(list))) {
		SLIST_REMOVE_HEAD(list, link);
		free(m);
	}
}

void
slab_cache_free(struct slab_cache *cache)
{
	unsigned i;

	/* From here on no slab_reclaim() of another loop looks at it. */
	pthread_mutex_lock(&caches_lock);
	LIST_REMOVE(cache, link);
	pthread_mutex_unlock(&caches_lock);
	for (i = 0; i <= LIMIT_LOOPS; i++) {
		free(cache->locals[i].loaded);
		free(cache->locals[i].previous);
	}
	free_magazines(&cache->full);
	free_magazines(&cache->empty);
	pthread_mutex_destroy(&cache->lock);
	slab_space_destroy(&cache->space);
	free(cache);
}

static uint64_t
minus(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

void
slab_cache_stats(const struct slab_cache *cache, struct slab_stats *stats)
{
	const struct slab_space *space = &cache->space;
	const struct slab_local *local;
	unsigned i;

	memset(stats, 0, sizeof(*stats));
	memcpy(stats->name, cache->name, sizeof(stats->name));
	stats->object_size = cache->object_size;
	stats->align = cache->align;
	stats->objs_per_slab = space->objs_per_slab;
	stats->slab_size = space->slab_size;
	stats->slabs = read_count(&space->slabs);
	stats->partial = read_count(&space->partial);
	stats->objects = stats->slabs * space->objs_per_slab;
	stats->memory = read_count(&space->memory);
	stats->high_water = read_count(&space->high_water);
	stats->free_slowpath = read_count(&cache->free_direct);
	stats->alloc_slowpath = read_count(&cache->alloc_direct);
	for (i = 0; i <= LIMIT_LOOPS; i++) {
		local = &cache->locals[i];
		stats->free_fastpath += read_count(&local->free_fast);
		stats->free_slowpath += read_count(&local->free_slow);
		stats->alloc_fastpath += read_count(&local->alloc_fast);
		stats->alloc_slowpath += read_count(&local->alloc_slow);
	}
	stats->active = minus(stats->alloc_fastpath + stats->alloc_slowpath,
		stats->free_fastpath + stats->free_slowpath);
}

void
slab_for_each(void (*visit)(const struct slab_stats *stats, void *arg), void *arg)
{
	struct slab_cache *cache;
	struct slab_stats stats;

	pthread_mutex_lock(&caches_lock);
	LIST_FOREACH(cache, &caches, link) {
		slab_cache_stats(cache, &stats);
		visit(&stats, arg);
	}
	pthread_mutex_unlock(&caches_lock);
}

static void
empty_magazine(struct slab_cache *cache, struct magazine *m)
{
	if (!m)
		return;
	slab_space_put(&cache->space, m->objects, m->count);
	free(m);
}

static void
reclaim_cache(struct slab_cache *cache)
{
	struct slab_local *local = local_of(cache);
	struct magazines full;
	struct magazines empty;
	struct magazine *m;

	pthread_mutex_lock(&cache->lock);
	full = cache->full;
	empty = cache->empty;
	SLIST_INIT(&cache->full);
	SLIST_INIT(&cache->empty);
	cache->nfull = 0;
	pthread_mutex_unlock(&cache->lock);
	free_magazines(&empty);
	while ((m = SLIST_FIRST(&full))) {
		SLIST_REMOVE_HEAD(&full, link);
		empty_magazine(cache, m);
	}
	if (local) {
		empty_magazine(cache, local->loaded);
		empty_magazine(cache, local->previous);
		local->loaded = NULL;
		local->previous = NULL;
	}
	slab_space_trim(&cache->space);
}

void
slab_reclaim(void)
{
	struct slab_cache *cache;

	pthread_mutex_lock(&caches_lock);
	LIST_FOREACH(cache, &caches, link)
		reclaim_cache(cache);
	pthread_mutex_unlock(&caches_lock);
}
