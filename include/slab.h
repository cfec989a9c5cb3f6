/*
 * Named caches of equal objects. slab_alloc() and slab_free() may be called on any thread; on a loop's
 * thread they work on that loop's magazine and take no lock. An object may be freed by another thread
 * than the one that allocated it.
 *
 * A cache grows by arenas: large aligned mappings cut into slabs (64 KiB for objects up to 4 KiB, 2 MiB
 * above), slabs cut into objects. What is free is a bit in the arena's header, never a word in the
 * object: a freed object costs no page, and freeing twice is a CHECK when it comes back to its slab (at
 * once with slab_cache_poison() or AddressSanitizer).
 */
#ifndef SLABD_SLAB_H
#define SLABD_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slab_cache;

enum {
	/* Objects are addressed by index too, huge pages are advised, and magazines are not used: a freed
	 * object goes straight back to its slab, an empty slab to the system. */
	SLAB_CHUNKS = 1,
	SLAB_SMALL_PAGES = 2, /* huge pages are not */
	SLAB_LOCKED = 4,      /* slabs are never swapped out; what cannot be locked is no slab */
	SLAB_HUGE_PAGES = 8,  /* advised for other objects than chunks */
};

/*
 * `name` is copied (at most 31 bytes); `align` a power of two, 0 for 16; `ctor` (may be NULL) runs on
 * an object when its slab is made: the object keeps that state when it is freed and reused. NULL: no
 * memory. Main thread or before the loops start.
 */
struct slab_cache *slab_cache_new(const char *name, size_t object_size, size_t align, unsigned flags,
	void (*ctor)(void *object));

/* All objects must be free, or may be given up at once (a memory volume's chunks). */
void slab_cache_free(struct slab_cache *cache);

/* NULL: the system or the cache's limit has no more. Contents are the last user's (or the ctor's). */
void *slab_alloc(struct slab_cache *cache);
void slab_free(struct slab_cache *cache, void *object);

/* SLAB_CHUNKS only: the object's number, below 2^32 - 1, and back, without a lock. */
uint32_t slab_index(const struct slab_cache *cache, const void *object);
void *slab_object(const struct slab_cache *cache, uint32_t index);

/* At most so many bytes of slabs; 0 is no limit. */
void slab_cache_limit(struct slab_cache *cache, uint64_t bytes);

/* Fills freed objects with 0x6b and checks them at alloc (a CHECK), new ones with 0x5a. Run time. */
void slab_cache_poison(struct slab_cache *cache, bool on);

/* The kernel's names (sysfs-kernel-slab), read without stopping anyone: each number is true, their
 * sum at one instant is not promised. */
struct slab_stats {
	char name[32];
	uint64_t object_size, align, objs_per_slab, slab_size;
	uint64_t objects; /* that the slabs hold */
	uint64_t active;  /* in use */
	uint64_t slabs, partial;
	uint64_t memory, high_water; /* bytes of slabs, now and at most so far */
	uint64_t alloc_fastpath, alloc_slowpath, free_fastpath, free_slowpath;
};

void slab_cache_stats(const struct slab_cache *cache, struct slab_stats *stats);

/* Every cache, by name. `visit` must not make or free caches. Any thread. */
void slab_for_each(void (*visit)(const struct slab_stats *stats, void *arg), void *arg);

/* Gives the calling loop's magazines back to their slabs, and empty slabs to the system. */
void slab_reclaim(void);

#endif
