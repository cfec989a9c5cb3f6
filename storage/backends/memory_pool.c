/*
 * Chunks of memory volumes: from a slab cache which may grow as far as the cap of all memory
 * volumes lets it. A slab is taken from the cap when the cache has no room left; an allocation that
 * finds room touches nothing shared. Chunks that several volumes hold are counted.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>

#include "memory.h"
#include "../storage.h"

#define SHARE_PAGE  ((uint32_t)1 << 16) /* chunks: 4 GiB of them */
#define SHARE_PAGES ((uint32_t)1 << 16)

struct share_page {
	_Atomic uint32_t others[SHARE_PAGE];
};

struct memory_pool *
memory_pool_new(const char *volume, unsigned flags)
{
	struct memory_pool *pool = calloc(1, sizeof(*pool));
	struct slab_stats stats;
	char name[sizeof(stats.name)];

	if (!pool)
		return NULL;
	snprintf(name, sizeof(name), "chunk_%.25s", volume);
	pool->chunks = slab_cache_new(name, CHUNK_SIZE, CHUNK_PAGE, SLAB_CHUNKS | flags, NULL);
	if (!pool->chunks) {
		free(pool);
		return NULL;
	}
	slab_cache_stats(pool->chunks, &stats);
	pool->slab_size = stats.slab_size;
	slab_cache_limit(pool->chunks, 1); /* nothing before it is granted; 0 would be no limit */
	pthread_mutex_init(&pool->budget, NULL);
	atomic_init(&pool->references, 1);
	return pool;
}

struct memory_pool *
memory_pool_get(struct memory_pool *pool)
{
	atomic_fetch_add(&pool->references, 1);
	return pool;
}

void
memory_pool_put(struct memory_pool *pool)
{
	struct share_page *_Atomic *table = atomic_load(&pool->shares);

	if (atomic_fetch_sub(&pool->references, 1) > 1)
		return;
	slab_cache_free(pool->chunks);
	memory_cap_give(pool->granted);
	for (uint32_t i = 0; table && i < SHARE_PAGES; i++)
		free(atomic_load_explicit(&table[i], memory_order_relaxed));
	free(table);
	pthread_mutex_destroy(&pool->budget);
	free(pool);
}

/* One slab more from the cap. */
static bool
grow_budget(struct memory_pool *pool)
{
	bool grown;

	pthread_mutex_lock(&pool->budget);
	grown = memory_cap_take(pool->slab_size);
	if (grown) {
		pool->granted += pool->slab_size;
		slab_cache_limit(pool->chunks, pool->granted);
	}
	pthread_mutex_unlock(&pool->budget);
	return grown;
}

/* Under `budget`: what was granted and the cache does not have goes back to the cap. */
static void
give_surplus(struct memory_pool *pool)
{
	struct slab_stats stats;

	slab_cache_stats(pool->chunks, &stats);
	slab_cache_limit(pool->chunks, stats.memory ? stats.memory : 1);
	/* Others may have grown up to the old limit just before; they cannot any more. */
	slab_cache_stats(pool->chunks, &stats);
	if (stats.memory < pool->granted) {
		memory_cap_give(pool->granted - stats.memory);
		pool->granted = stats.memory;
	}
	slab_cache_limit(pool->chunks, pool->granted ? pool->granted : 1);
}

void *
memory_pool_alloc(struct memory_pool *pool)
{
	void *chunk = slab_alloc(pool->chunks);
	unsigned tries = 0;

	/* What one loop grows another may take first: a few tries. */
	for (; !chunk && tries < 4 && grow_budget(pool); tries++)
		chunk = slab_alloc(pool->chunks);
	if (!chunk && tries > 0) {
		/* The kernel has none, or none that it locks: the grant is nobody's. */
		pthread_mutex_lock(&pool->budget);
		give_surplus(pool);
		pthread_mutex_unlock(&pool->budget);
	}
	return chunk;
}

void
memory_pool_shrink(struct memory_pool *pool)
{
	if (atomic_load_explicit(&pool->unasked, memory_order_relaxed) < pool->slab_size)
		return;
	pthread_mutex_lock(&pool->budget);
	atomic_store_explicit(&pool->unasked, 0, memory_order_relaxed);
	give_surplus(pool);
	pthread_mutex_unlock(&pool->budget);
}

/* The chunk's counter; NULL: it has none, which is 0. */
static _Atomic uint32_t *
find_share(struct memory_pool *pool, uint32_t chunk)
{
	struct share_page *_Atomic *table =
		atomic_load_explicit(&pool->shares, memory_order_acquire);
	struct share_page *page;

	if (!table)
		return NULL;
	page = atomic_load_explicit(&table[chunk / SHARE_PAGE], memory_order_acquire);
	return page ? &page->others[chunk % SHARE_PAGE] : NULL;
}

static _Atomic uint32_t *
make_share(struct memory_pool *pool, uint32_t chunk)
{
	struct share_page *_Atomic *table;
	struct share_page *page;

	pthread_mutex_lock(&pool->budget);
	table = atomic_load(&pool->shares);
	if (!table) {
		table = calloc(SHARE_PAGES, sizeof(*table));
		atomic_store_explicit(&pool->shares, table, memory_order_release);
	}
	page = table ? atomic_load(&table[chunk / SHARE_PAGE]) : NULL;
	if (table && !page) {
		page = calloc(1, sizeof(*page));
		atomic_store_explicit(&table[chunk / SHARE_PAGE], page, memory_order_release);
	}
	pthread_mutex_unlock(&pool->budget);
	return page ? &page->others[chunk % SHARE_PAGE] : NULL;
}

bool
memory_pool_share(struct memory_pool *pool, uint32_t chunk)
{
	_Atomic uint32_t *others = find_share(pool, chunk);

	if (!others)
		others = make_share(pool, chunk);
	if (!others)
		return false;
	atomic_fetch_add_explicit(others, 1, memory_order_relaxed);
	return true;
}

bool
memory_pool_shared(struct memory_pool *pool, uint32_t chunk)
{
	_Atomic uint32_t *others = find_share(pool, chunk);

	/* Acquire: what another did with it before letting go is over. */
	return others && atomic_load_explicit(others, memory_order_acquire) > 0;
}

void
memory_pool_drop(struct memory_pool *pool, uint32_t chunk)
{
	_Atomic uint32_t *others = find_share(pool, chunk);

	/* Of two who drop it at once the one that finds 0 is the last. */
	if (others && atomic_fetch_sub_explicit(others, 1, memory_order_acq_rel) > 0)
		return;
	if (others)
		atomic_store_explicit(others, 0, memory_order_relaxed);
	slab_free(pool->chunks, slab_object(pool->chunks, chunk));
	atomic_fetch_add_explicit(&pool->unasked, CHUNK_SIZE, memory_order_relaxed);
}
