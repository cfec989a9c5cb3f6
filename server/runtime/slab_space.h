/*
 * The slabs of one cache: arenas, and in each a header with the slabs' states and the bits that say
 * which objects are free. slab.c's back end, below the magazines. A space has a lock of its own;
 * every function takes it where it must.
 */
#ifndef SLABD_SLAB_SPACE_H
#define SLABD_SLAB_SPACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slab_arena;

/* Indexes of what has some property, the lowest of them found fast. */
struct slab_bits {
	uint64_t *words;
	unsigned nwords;
	unsigned low; /* no word below it has a bit */
};

/* A slab is in one of these, or full, or being given back to the system. */
enum slab_state { SLAB_PARTIAL, SLAB_EMPTY, SLAB_ABSENT, SLAB_STATES };

struct slab_space {
	/* Constant. */
	size_t object_size, stride, slab_size, arena_size;
	size_t bits_offset, poisoned_offset; /* in an arena's header */
	unsigned objs_per_slab, bit_words;   /* per slab */
	unsigned slabs_per_arena, header_slabs;
	unsigned slab_shift, arena_shift; /* of an object's index */
	unsigned arenas_max, keep_max;    /* empty slabs kept */
	bool huge, locked;
	void (*ctor)(void *object);
	void *map;
	size_t map_size;

	pthread_mutex_t lock;
	uint64_t limit;
	unsigned narenas, kept;
	struct slab_bits arenas[SLAB_STATES]; /* that have a slab in that state */

	/* Written under the lock, read relaxed from anywhere. */
	_Atomic uint64_t slabs, partial, memory, high_water;

	/* Entries are written once, before any index into them exists. */
	_Atomic(struct slab_arena *) *table;
};

/* 0 or -ENOMEM. align: a power of two. flags: SLAB_*. */
int slab_space_init(struct slab_space *space, size_t object_size, size_t align, unsigned flags,
	void (*ctor)(void *object));
void slab_space_destroy(struct slab_space *space);

/* Fills objects[] with up to n free objects; how many there were. */
unsigned slab_space_take(struct slab_space *space, void **objects, unsigned n);
void slab_space_put(struct slab_space *space, void *const *objects, unsigned n);

/* Gives every empty slab to the system. */
void slab_space_trim(struct slab_space *space);
void slab_space_limit(struct slab_space *space, uint64_t bytes);

uint32_t slab_space_index(const struct slab_space *space, const void *object);
void *slab_space_object(const struct slab_space *space, uint32_t index);

/* Notes whether a free object is filled with the poison pattern; what was noted before. Any thread.
 */
bool slab_space_set_poisoned(struct slab_space *space, const void *object, bool poisoned);

#endif
