/* A memory volume, between the files of its backend: memory.c, memory_chunks.c and
 * memory_extents.c. */
#ifndef SLABD_MEMORY_H
#define SLABD_MEMORY_H

#include "block.h"
#include "check.h"
#include "memory_tree.h"
#include "slab.h"

#define LEAF_SIZE (CHUNK_SIZE * NODE_SLOTS)

struct memory {
	struct memory_tree tree;
	struct slab_cache *chunks;
	_Atomic uint64_t size;
	uint64_t slab_size;
	_Atomic uint64_t used; /* chunks */

	pthread_mutex_t budget;   /* taken under a stripe's lock, never the other way round */
	uint64_t granted;         /* bytes of slabs taken from the cap */
	_Atomic uint64_t unasked; /* bytes of chunks freed since the cap was given something back */
};

/* One chunk's part of a range. */
struct span {
	uint64_t leaf;
	unsigned slot;
	size_t within;
	size_t length;
};

/* The first chunk's part of [offset, offset + length). */
static inline struct span
first_span(uint64_t offset, uint64_t length)
{
	uint64_t chunk = offset / CHUNK_SIZE;
	size_t within = offset % CHUNK_SIZE;

	return (struct span){.leaf = chunk / NODE_SLOTS,
		.slot = (unsigned)(chunk % NODE_SLOTS),
		.within = within,
		.length = (size_t)min_u64(length, CHUNK_SIZE - within)};
}

/* memory_chunks.c */

/* 0 or -ENOMEM. What is left when the volume goes goes with it. */
int memory_chunks_start(struct memory *memory, const char *volume);
void memory_chunks_stop(struct memory *memory);

/* The entry of a span, made present if need be; NULL: no room. Its stripe is held. */
struct chunk_entry *memory_entry(struct memory *memory, const struct span *span);

/* The chunk goes back. The leaf is left to tree_prune(). Its stripe is held. */
void memory_drop_chunk(struct memory *memory, struct memory_node *leaf, struct chunk_entry *entry);

/* After frees: what the cache gave back to the system goes back to the cap. No stripe is held. */
void memory_shrink(struct memory *memory);

/* memory_extents.c: carries out an EXTENTS and completes it. */
void memory_extents(struct memory *memory, struct blk_request *request);

#endif
