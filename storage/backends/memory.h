/* A memory volume, between the files of its backend: memory.c, memory_pool.c, memory_chunks.c,
 * memory_extents.c and memory_image.c. */
#ifndef SLABD_MEMORY_H
#define SLABD_MEMORY_H

#include "block.h"
#include "check.h"
#include "memory_tree.h"
#include "slab.h"

#define LEAF_SIZE (CHUNK_SIZE * NODE_SLOTS)

struct error;

/* Where chunks come from: one slab cache, for a volume and all that descend from it by snapshots.
 */
struct memory_pool {
	atomic_uint references; /* volumes */
	struct slab_cache *chunks;
	uint64_t slab_size;
	pthread_mutex_t budget;   /* taken under a stripe's lock, never the other way round */
	uint64_t granted;         /* bytes of slabs taken from the cap */
	_Atomic uint64_t unasked; /* bytes of chunks freed since the cap was given something back */
	/*
	 * How many volumes hold a chunk besides one, by its index, SHARE_PAGE of them a page; no
	 * page, and before the first snapshot no table: none. Whoever holds a chunk alone stays
	 * alone: only by a snapshot of its own volume does another come.
	 */
	_Atomic(struct share_page *_Atomic *) shares;
};

struct memory {
	struct memory_tree tree;
	struct memory_pool *pool;
	_Atomic uint64_t size;
	uint64_t limit;        /* chunks */
	_Atomic uint64_t used; /* chunks, shared ones too */
	bool zero_detect;
	char *save; /* where the content goes at the end; NULL: nowhere */
	char *name; /* of the volume */
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

/* memory_pool.c */

/* One reference. NULL: no memory. flags: SLAB_* for its chunks. */
struct memory_pool *memory_pool_new(const char *volume, unsigned flags);
struct memory_pool *memory_pool_get(struct memory_pool *pool);
/* With the last reference go the chunks that are left. */
void memory_pool_put(struct memory_pool *pool);

/* Within what all memory volumes may have; NULL: no room. Its contents are anything. */
void *memory_pool_alloc(struct memory_pool *pool);
/* One holder less; the last one frees it. */
void memory_pool_drop(struct memory_pool *pool, uint32_t chunk);
/* After drops: what the cache gave back to the system goes back to the cap. No stripe is held. */
void memory_pool_shrink(struct memory_pool *pool);

/* One holder more: the volume of whoever holds its own stripe. False: no memory. */
bool memory_pool_share(struct memory_pool *pool, uint32_t chunk);
bool memory_pool_shared(struct memory_pool *pool, uint32_t chunk);

static inline uint8_t *
memory_chunk(const struct memory *memory, const struct chunk_entry *entry)
{
	return slab_object(memory->pool->chunks, entry->chunk);
}

/* memory_chunks.c; a span's stripe is held. */

/* The entry of a span, made present if need be; NULL: no room. */
struct chunk_entry *memory_entry(struct memory *memory, const struct span *span);

/* Before bytes are written: the chunk becomes this volume's own, with the bytes of those of its
 * pages that are in `keep`. False: no room. */
bool memory_own(struct memory *memory, struct chunk_entry *entry, uint16_t keep);

/* The chunk goes back. The leaf is left to tree_prune(). */
void memory_drop_chunk(struct memory *memory, struct memory_node *leaf, struct chunk_entry *entry);

/* No stripe is held. All chunks from number `first` on go back; none is added there meanwhile. */
void memory_drop_from(struct memory *memory, uint64_t first);

/* *to, which is empty and nobody else's, gets what `from` has, which nobody writes to. 0 or
 * -ENOMEM. */
int memory_share_all(struct memory *from, struct memory *to);

/* memory_extents.c: carries out an EXTENTS and completes it. */
void memory_extents(struct memory *memory, struct blk_request *request);

/* memory_image.c; what blocks. */

/* Fills an empty volume from a raw file; its holes and zeroes take no memory. 0 or -errno with
 * *error. */
int memory_image_load(struct memory *memory, const char *path, struct error *error);
/* Writes a raw sparse file in place of what was there, whole or not at all. Nobody writes
 * meanwhile. */
int memory_image_save(struct memory *memory, const char *path, struct error *error);

#endif
