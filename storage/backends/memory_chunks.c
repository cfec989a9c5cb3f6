/*
 * Chunks of a memory volume: from a slab cache of its own, which may grow as far as the cap of all
 * memory volumes lets it. A slab is taken from the cap when the cache has no room left; an
 * allocation that finds room touches nothing shared.
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>

#include "memory.h"
#include "../storage.h"

int
memory_chunks_start(struct memory *memory, const char *volume)
{
	struct slab_stats stats;
	char name[sizeof(stats.name)];

	snprintf(name, sizeof(name), "chunk_%.25s", volume);
	memory->chunks = slab_cache_new(name, CHUNK_SIZE, CHUNK_PAGE, SLAB_CHUNKS, NULL);
	if (!memory->chunks)
		return -ENOMEM;
	slab_cache_stats(memory->chunks, &stats);
	memory->slab_size = stats.slab_size;
	slab_cache_limit(memory->chunks, 1); /* nothing before it is granted; 0 would be no limit */
	pthread_mutex_init(&memory->budget, NULL);
	return 0;
}

void
memory_chunks_stop(struct memory *memory)
{
	slab_cache_free(memory->chunks);
	memory_cap_give(memory->granted);
	pthread_mutex_destroy(&memory->budget);
}

/* One slab more from the cap. */
static bool
grow_budget(struct memory *memory)
{
	bool grown;

	pthread_mutex_lock(&memory->budget);
	grown = memory_cap_take(memory->slab_size);
	if (grown) {
		memory->granted += memory->slab_size;
		slab_cache_limit(memory->chunks, memory->granted);
	}
	pthread_mutex_unlock(&memory->budget);
	return grown;
}

void
memory_shrink(struct memory *memory)
{
	struct slab_stats stats;

	if (atomic_load_explicit(&memory->unasked, memory_order_relaxed) < memory->slab_size)
		return;
	pthread_mutex_lock(&memory->budget);
	atomic_store_explicit(&memory->unasked, 0, memory_order_relaxed);
	slab_cache_stats(memory->chunks, &stats);
	slab_cache_limit(memory->chunks, stats.memory ? stats.memory : 1);
	/* Others may have grown up to the old limit just before; they cannot any more. */
	slab_cache_stats(memory->chunks, &stats);
	if (stats.memory < memory->granted) {
		memory_cap_give(memory->granted - stats.memory);
		memory->granted = stats.memory;
	}
	slab_cache_limit(memory->chunks, memory->granted ? memory->granted : 1);
	pthread_mutex_unlock(&memory->budget);
}

/* Makes the entry present, with no page in its mask. Its stripe is held. */
static bool
add_chunk(struct memory *memory, struct memory_node *leaf, struct chunk_entry *entry)
{
	void *chunk = slab_alloc(memory->chunks);

	/* What one loop grows another may take first: a few tries. */
	for (unsigned tries = 0; !chunk && tries < 4 && grow_budget(memory); tries++)
		chunk = slab_alloc(memory->chunks);
	if (!chunk)
		return false;
	*entry = (struct chunk_entry){.chunk = slab_index(memory->chunks, chunk), .present = 1};
	leaf->used++;
	atomic_fetch_add_explicit(&memory->used, 1, memory_order_relaxed);
	return true;
}

void
memory_drop_chunk(struct memory *memory, struct memory_node *leaf, struct chunk_entry *entry)
{
	slab_free(memory->chunks, slab_object(memory->chunks, entry->chunk));
	*entry = (struct chunk_entry){0};
	leaf->used--;
	atomic_fetch_sub_explicit(&memory->used, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&memory->unasked, CHUNK_SIZE, memory_order_relaxed);
}

struct chunk_entry *
memory_entry(struct memory *memory, const struct span *span)
{
	struct memory_node *leaf = tree_make(&memory->tree, span->leaf);
	struct chunk_entry *entry;

	if (!leaf)
		return NULL;
	entry = &leaf->entry[span->slot];
	if (!entry->present && !add_chunk(memory, leaf, entry)) {
		tree_prune(&memory->tree, span->leaf);
		return NULL;
	}
	return entry;
}
