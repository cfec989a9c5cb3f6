/* Which chunks a memory volume holds: within its limit, its own before it writes to them. */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "memory.h"

/* Makes the entry present, with no page in its mask. Its stripe is held. */
static bool
add_chunk(struct memory *memory, struct memory_node *leaf, struct chunk_entry *entry)
{
	void *chunk = NULL;

	if (atomic_fetch_add_explicit(&memory->used, 1, memory_order_relaxed) < memory->limit)
		chunk = memory_pool_alloc(memory->pool);
	if (!chunk) {
		atomic_fetch_sub_explicit(&memory->used, 1, memory_order_relaxed);
		return false;
	}
	*entry = (struct chunk_entry){
		.chunk = slab_index(memory->pool->chunks, chunk), .present = 1};
	leaf->used++;
	return true;
}

void
memory_drop_chunk(struct memory *memory, struct memory_node *leaf, struct chunk_entry *entry)
{
	memory_pool_drop(memory->pool, entry->chunk);
	*entry = (struct chunk_entry){0};
	leaf->used--;
	atomic_fetch_sub_explicit(&memory->used, 1, memory_order_relaxed);
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

bool
memory_own(struct memory *memory, struct chunk_entry *entry, uint16_t keep)
{
	const uint8_t *shared;
	uint8_t *own;

	if (!memory_pool_shared(memory->pool, entry->chunk))
		return true;
	own = memory_pool_alloc(memory->pool);
	if (!own)
		return false;
	shared = memory_chunk(memory, entry);
	for (unsigned page = 0; page < CHUNK_PAGES; page++)
		if (entry->pages & keep & 1u << page)
			memcpy(own + page * CHUNK_PAGE, shared + page * CHUNK_PAGE, CHUNK_PAGE);
	memory_pool_drop(memory->pool, entry->chunk);
	entry->chunk = slab_index(memory->pool->chunks, own);
	return true;
}

void
memory_drop_from(struct memory *memory, uint64_t first)
{
	for (unsigned i = 0; i < STRIPES; i++) {
		struct stripe *stripe = &memory->tree.stripe[i];
		/* The first leaf of this stripe that may have any of them. */
		uint64_t number =
			round_up(first / NODE_SLOTS - min_u64(first / NODE_SLOTS, i), STRIPES) + i;
		struct memory_node *leaf;

		/* One leaf at a time: readers need not wait for all. */
		do {
			pthread_mutex_lock(&stripe->lock);
			leaf = tree_next(&memory->tree, &number);
			for (unsigned slot = 0; leaf && slot < NODE_SLOTS; slot++)
				if (leaf->entry[slot].present &&
					number * NODE_SLOTS + slot >= first)
					memory_drop_chunk(memory, leaf, &leaf->entry[slot]);
			if (leaf)
				tree_prune(&memory->tree, number);
			pthread_mutex_unlock(&stripe->lock);
			number += STRIPES;
		} while (leaf);
	}
	memory_pool_shrink(memory->pool);
}

/* The source's stripe is held; what was shared before a failure stays, to be dropped with *to. */
static bool
share_leaf(struct memory *from, struct memory *to, const struct memory_node *leaf, uint64_t number)
{
	struct memory_node *copy = tree_make(&to->tree, number);

	if (!copy)
		return false;
	for (unsigned slot = 0; slot < NODE_SLOTS; slot++) {
		const struct chunk_entry *entry = &leaf->entry[slot];

		if (!entry->present)
			continue;
		if (!memory_pool_share(from->pool, entry->chunk)) {
			tree_prune(&to->tree, number);
			return false;
		}
		copy->entry[slot] = *entry;
		copy->used++;
		atomic_fetch_add_explicit(&to->used, 1, memory_order_relaxed);
	}
	return true;
}

int
memory_share_all(struct memory *from, struct memory *to)
{
	for (unsigned i = 0; i < STRIPES; i++) {
		struct stripe *stripe = &from->tree.stripe[i];
		struct memory_node *leaf;
		uint64_t number = i;
		bool shared = true;

		do {
			pthread_mutex_lock(&stripe->lock);
			leaf = tree_next(&from->tree, &number);
			if (leaf)
				shared = share_leaf(from, to, leaf, number);
			pthread_mutex_unlock(&stripe->lock);
			number += STRIPES;
		} while (leaf && shared);
		if (!shared)
			return -ENOMEM;
	}
	return 0;
}
