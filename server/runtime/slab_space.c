#include "config.h"

#include "slab_space.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "limits.h"
#include "slab.h"
#include "slab_asan.h"

#define SMALL_OBJECT ((size_t)4096)
#define SMALL_SLAB   ((size_t)64 << 10)
#define LARGE_SLAB   ((size_t)2 << 20) /* a huge page on x86-64 */
#define SMALL_ARENA  ((size_t)64 << 20)
#define LARGE_ARENA  ((size_t)1 << 30)
#define ARENA_SLABS  1024
#define ARENA_STEP   ((size_t)8 << 20) /* made usable at a time */
#define ARENAS_MAX   4096              /* of caches without indexes: 256 GiB or 4 TiB */
#define KEEP_BYTES   ((size_t)8 << 20) /* of empty slabs, but one at least */

_Static_assert(SMALL_ARENA / SMALL_SLAB <= ARENA_SLABS && LARGE_ARENA / LARGE_SLAB <= ARENA_SLABS,
	"an arena's slabs fit its header's bits");

/*
 * At the start of its mapping, which is aligned to its size: an object's address leads here. Only
 * the pages that are used cost memory. Behind it, bits_offset and poisoned_offset bytes from the
 * start, are bit_words words per slab each: which objects are free, and which of those are filled
 * with poison.
 */
struct slab_arena {
	struct slab_space *space;
	unsigned number;
	size_t usable; /* bytes from the start that may be touched */
	struct slab_bits slabs[SLAB_STATES];
	uint64_t words[SLAB_STATES][ARENA_SLABS / 64];
	uint32_t used[ARENA_SLABS]; /* objects of each slab in use */
};

static void
set_bit(struct slab_bits *bits, unsigned i)
{
	bits->words[i / 64] |= (uint64_t)1 << i % 64;
	if (i / 64 < bits->low)
		bits->low = i / 64;
}

static void
clear_bit(struct slab_bits *bits, unsigned i)
{
	bits->words[i / 64] &= ~((uint64_t)1 << i % 64);
}

/* The lowest, or -1. */
static int
first_bit(struct slab_bits *bits)
{
	for (; bits->low < bits->nwords; bits->low++)
		if (bits->words[bits->low])
			return (int)(bits->low * 64) + __builtin_ctzll(bits->words[bits->low]);
	return -1;
}

static struct slab_arena *
arena_of(const struct slab_space *space, const void *object)
{
	return (struct slab_arena *)((uintptr_t)object & ~(uintptr_t)(space->arena_size - 1));
}

static uint8_t *
slab_at(const struct slab_space *space, struct slab_arena *arena, unsigned slab)
{
	return (uint8_t *)arena + slab * space->slab_size;
}

static uint64_t *
free_bits(const struct slab_space *space, struct slab_arena *arena, unsigned slab)
{
	return (uint64_t *)(void *)((uint8_t *)arena + space->bits_offset) +
	       slab * space->bit_words;
}

/* Atomic: loops that hold objects of the same slab in their magazines change it without the lock.
 */
static _Atomic uint64_t *
poisoned_bits(const struct slab_space *space, struct slab_arena *arena, unsigned slab)
{
	return (_Atomic uint64_t *)(void *)((uint8_t *)arena + space->poisoned_offset) +
	       slab * space->bit_words;
}

/* Which slab of which arena, and which object in it. An address that is none is our own mistake. */
static unsigned
locate_object(const struct slab_space *space, const void *object, struct slab_arena **arena,
	unsigned *slab)
{
	size_t offset;
	size_t position;

	*arena = arena_of(space, object);
	CHECK((*arena)->space == space);
	offset = (size_t)((const uint8_t *)object - (const uint8_t *)*arena);
	*slab = (unsigned)(offset / space->slab_size);
	offset %= space->slab_size;
	position = offset / space->stride;
	CHECK(*slab >= space->header_slabs && offset % space->stride == 0 &&
		position < space->objs_per_slab);
	return (unsigned)position;
}

static void
count(_Atomic uint64_t *counter, int64_t n)
{
	atomic_store_explicit(counter,
		atomic_load_explicit(counter, memory_order_relaxed) + (uint64_t)n,
		memory_order_relaxed);
}

static void
enter_state(
	struct slab_space *space, struct slab_arena *arena, unsigned slab, enum slab_state state)
{
	set_bit(&arena->slabs[state], slab);
	set_bit(&space->arenas[state], arena->number);
	if (state == SLAB_PARTIAL)
		count(&space->partial, 1);
	if (state == SLAB_EMPTY)
		space->kept++;
}

static void
leave_state(
	struct slab_space *space, struct slab_arena *arena, unsigned slab, enum slab_state state)
{
	clear_bit(&arena->slabs[state], slab);
	if (first_bit(&arena->slabs[state]) < 0)
		clear_bit(&space->arenas[state], arena->number);
	if (state == SLAB_PARTIAL)
		count(&space->partial, -1);
	if (state == SLAB_EMPTY)
		space->kept--;
}

/* The lowest slab in that state: high ones run empty. -1: none. */
static int
lowest_slab(struct slab_space *space, enum slab_state state, struct slab_arena **arena)
{
	int number = first_bit(&space->arenas[state]);

	if (number < 0)
		return -1;
	*arena = atomic_load_explicit(&space->table[number], memory_order_relaxed);
	return first_bit(&(*arena)->slabs[state]);
}

/* An address range aligned to its own size, with nothing behind it yet. */
static void *
reserve_arena(size_t size)
{
	uint8_t *map =
		mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start;

	if (map == MAP_FAILED)
		return NULL;
	start = (uint8_t *)round_up((uintptr_t)map, size);
	if (start > map)
		munmap(map, (size_t)(start - map));
	munmap(start + size, (size_t)(map + size - start));
	return start;
}

/* Makes an arena's first `bytes` usable. Slabs are taken lowest first, so it stays one mapping. */
static bool
grow_arena(struct slab_space *space, struct slab_arena *arena, size_t bytes)
{
	size_t to;

	if (bytes <= arena->usable)
		return true;
	to = min_size(round_up(bytes, ARENA_STEP), space->arena_size);
	if (mprotect((uint8_t *)arena + arena->usable, to - arena->usable, PROT_READ | PROT_WRITE))
		return false;
	arena->usable = to;
	return true;
}

static bool
add_arena(struct slab_space *space)
{
	size_t header = space->header_slabs * space->slab_size;
	struct slab_arena *arena;
	unsigned i;

	if (space->narenas == space->arenas_max)
		return false;
	arena = reserve_arena(space->arena_size);
	if (!arena)
		return false;
	if (mprotect(arena, header, PROT_READ | PROT_WRITE)) {
		munmap(arena, space->arena_size);
		return false;
	}
	/* Huge pages only where they were asked for: elsewhere a few objects would cost 2 MiB.
	 * Advice: a kernel without huge pages refuses, and that is fine. */
	madvise(arena, header, MADV_NOHUGEPAGE);
	madvise((uint8_t *)arena + header, space->arena_size - header,
		space->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	arena->space = space;
	arena->number = space->narenas;
	arena->usable = header;
	for (i = 0; i < SLAB_STATES; i++) {
		arena->slabs[i].words = arena->words[i];
		arena->slabs[i].nwords = (space->slabs_per_arena + 63) / 64;
		arena->slabs[i].low = arena->slabs[i].nwords;
	}
	for (i = space->header_slabs; i < space->slabs_per_arena; i++)
		enter_state(space, arena, i, SLAB_ABSENT);
	atomic_store_explicit(&space->table[space->narenas], arena, memory_order_release);
	space->narenas++;
	return true;
}

static void
fill_slab(struct slab_space *space, struct slab_arena *arena, unsigned slab)
{
	uint8_t *objects = slab_at(space, arena, slab);
	uint64_t *bits = free_bits(space, arena, slab);
	_Atomic uint64_t *poisoned = poisoned_bits(space, arena, slab);
	unsigned i;

	for (i = 0; i < space->objs_per_slab; i++)
		bits[i / 64] |= (uint64_t)1 << i % 64;
	for (i = 0; i < space->bit_words; i++)
		if (atomic_load_explicit(&poisoned[i], memory_order_relaxed))
			atomic_store_explicit(&poisoned[i], 0, memory_order_relaxed);
	if (space->ctor) {
		asan_unpoison(objects, space->slab_size);
		for (i = 0; i < space->objs_per_slab; i++)
			space->ctor(objects + i * space->stride);
	}
	asan_poison(objects, space->slab_size);
}

/* Makes an absent slab an empty one. False: the limit, or no memory. */
static bool
add_slab(struct slab_space *space)
{
	uint64_t memory = atomic_load_explicit(&space->memory, memory_order_relaxed);
	struct slab_arena *arena;
	int slab;

	memory += space->slab_size;
	if (space->limit && memory > space->limit)
		return false;
	slab = lowest_slab(space, SLAB_ABSENT, &arena);
	if (slab < 0) {
		if (!add_arena(space))
			return false;
		slab = lowest_slab(space, SLAB_ABSENT, &arena);
	}
	if (!grow_arena(space, arena, ((size_t)slab + 1) * space->slab_size))
		return false;
	if (space->locked && mlock(slab_at(space, arena, (unsigned)slab), space->slab_size))
		return false;
	leave_state(space, arena, (unsigned)slab, SLAB_ABSENT);
	fill_slab(space, arena, (unsigned)slab);
	enter_state(space, arena, (unsigned)slab, SLAB_EMPTY);
	count(&space->slabs, 1);
	atomic_store_explicit(&space->memory, memory, memory_order_relaxed);
	if (memory > atomic_load_explicit(&space->high_water, memory_order_relaxed))
		atomic_store_explicit(&space->high_water, memory, memory_order_relaxed);
	return true;
}

/*
 * Gives an empty slab, already out of its state, to the system. The lock is not held while the
 * kernel takes 2 MiB apart: nobody can find the slab meanwhile.
 */
static void
release_slab(struct slab_space *space, struct slab_arena *arena, unsigned slab)
{
	pthread_mutex_unlock(&space->lock);
	if (space->locked)
		munlock(slab_at(space, arena, slab), space->slab_size);
	madvise(slab_at(space, arena, slab), space->slab_size, MADV_DONTNEED);
	pthread_mutex_lock(&space->lock);
	enter_state(space, arena, slab, SLAB_ABSENT);
	count(&space->slabs, -1);
	count(&space->memory, -(int64_t)space->slab_size);
}

static void *
take_object(struct slab_space *space)
{
	enum slab_state state = SLAB_PARTIAL;
	struct slab_arena *arena;
	uint64_t *bits;
	unsigned word = 0;
	unsigned bit;
	int slab = lowest_slab(space, state, &arena);

	if (slab < 0) {
		state = SLAB_EMPTY;
		slab = lowest_slab(space, state, &arena);
		if (slab < 0) {
			if (!add_slab(space))
				return NULL;
			slab = lowest_slab(space, state, &arena);
		}
	}
	bits = free_bits(space, arena, (unsigned)slab);
	while (!bits[word])
		word++;
	bit = (unsigned)__builtin_ctzll(bits[word]);
	bits[word] &= bits[word] - 1;
	arena->used[slab]++;
	if (state == SLAB_EMPTY) {
		leave_state(space, arena, (unsigned)slab, SLAB_EMPTY);
		if (arena->used[slab] < space->objs_per_slab)
			enter_state(space, arena, (unsigned)slab, SLAB_PARTIAL);
	} else if (arena->used[slab] == space->objs_per_slab) {
		leave_state(space, arena, (unsigned)slab, SLAB_PARTIAL);
	}
	return slab_at(space, arena, (unsigned)slab) + (word * 64 + bit) * space->stride;
}

static void
put_object(struct slab_space *space, void *object)
{
	struct slab_arena *arena;
	unsigned slab;
	unsigned position = locate_object(space, object, &arena, &slab);
	uint64_t *word = free_bits(space, arena, slab) + position / 64;
	uint64_t bit = (uint64_t)1 << position % 64;

	CHECK(!(*word & bit) && arena->used[slab] > 0); /* freed twice */
	*word |= bit;
	if (arena->used[slab]-- < space->objs_per_slab)
		leave_state(space, arena, slab, SLAB_PARTIAL);
	if (arena->used[slab] > 0)
		enter_state(space, arena, slab, SLAB_PARTIAL);
	else if (space->kept < space->keep_max)
		enter_state(space, arena, slab, SLAB_EMPTY);
	else
		release_slab(space, arena, slab);
}

unsigned
slab_space_take(struct slab_space *space, void **objects, unsigned n)
{
	unsigned i;

	pthread_mutex_lock(&space->lock);
	for (i = 0; i < n; i++) {
		objects[i] = take_object(space);
		if (!objects[i])
			break;
	}
	pthread_mutex_unlock(&space->lock);
	return i;
}

void
slab_space_put(struct slab_space *space, void *const *objects, unsigned n)
{
	unsigned i;

	pthread_mutex_lock(&space->lock);
	for (i = 0; i < n; i++)
		put_object(space, objects[i]);
	pthread_mutex_unlock(&space->lock);
}

void
slab_space_trim(struct slab_space *space)
{
	struct slab_arena *arena;
	int slab;

	pthread_mutex_lock(&space->lock);
	while ((slab = lowest_slab(space, SLAB_EMPTY, &arena)) >= 0) {
		leave_state(space, arena, (unsigned)slab, SLAB_EMPTY);
		release_slab(space, arena, (unsigned)slab);
	}
	pthread_mutex_unlock(&space->lock);
}

void
slab_space_limit(struct slab_space *space, uint64_t bytes)
{
	pthread_mutex_lock(&space->lock);
	space->limit = bytes;
	pthread_mutex_unlock(&space->lock);
}

/* Positions and slabs have whole bits of the index, so that no lookup divides; the header's slabs
 * and what is left of a power of two are numbers without an object. */
uint32_t
slab_space_index(const struct slab_space *space, const void *object)
{
	struct slab_arena *arena;
	unsigned slab;
	unsigned position = locate_object(space, object, &arena, &slab);

	return arena->number << space->arena_shift | slab << space->slab_shift | position;
}

void *
slab_space_object(const struct slab_space *space, uint32_t index)
{
	struct slab_arena *arena = atomic_load_explicit(
		&space->table[index >> space->arena_shift], memory_order_acquire);
	uint32_t within = index & (((uint32_t)1 << space->arena_shift) - 1);
	uint32_t position = within & (((uint32_t)1 << space->slab_shift) - 1);

	return slab_at(space, arena, within >> space->slab_shift) + position * space->stride;
}

bool
slab_space_set_poisoned(struct slab_space *space, const void *object, bool poisoned)
{
	struct slab_arena *arena;
	unsigned slab;
	unsigned position = locate_object(space, object, &arena, &slab);
	_Atomic uint64_t *word = poisoned_bits(space, arena, slab) + position / 64;
	uint64_t bit = (uint64_t)1 << position % 64;
	uint64_t before;

	if (poisoned)
		before = atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
	else
		before = atomic_fetch_and_explicit(word, ~bit, memory_order_relaxed);
	return before & bit;
}

static unsigned
bits_for(size_t n)
{
	unsigned bits = 0;

	while (((size_t)1 << bits) < n)
		bits++;
	return bits;
}

static void
lay_out(struct slab_space *space, size_t object_size, size_t align, unsigned flags)
{
	bool chunks = flags & SLAB_CHUNKS;
	bool small = object_size <= SMALL_OBJECT && !chunks;
	size_t bits;

	space->object_size = object_size;
	space->stride = round_up(object_size, align);
	space->slab_size = small ? SMALL_SLAB : LARGE_SLAB;
	space->arena_size = small ? SMALL_ARENA : LARGE_ARENA;
	CHECK(space->stride <= space->slab_size);
	space->huge = (chunks && !(flags & SLAB_SMALL_PAGES)) || flags & SLAB_HUGE_PAGES;
	space->locked = flags & SLAB_LOCKED;
	space->objs_per_slab = (unsigned)(space->slab_size / space->stride);
	space->bit_words = (space->objs_per_slab + 63) / 64;
	space->slabs_per_arena = (unsigned)(space->arena_size / space->slab_size);
	bits = (size_t)space->slabs_per_arena * space->bit_words * sizeof(uint64_t);
	space->bits_offset = round_up(sizeof(struct slab_arena), 64);
	space->poisoned_offset = round_up(space->bits_offset + bits, 4096);
	space->header_slabs = (unsigned)((space->poisoned_offset + bits + space->slab_size - 1) /
					 space->slab_size);
	space->slab_shift = bits_for(space->objs_per_slab);
	space->arena_shift = space->slab_shift + bits_for(space->slabs_per_arena);
	space->arenas_max = ARENAS_MAX;
	if (chunks) /* all but the last of what 32 bits can number: 2^32 - 1 is no index */
		space->arenas_max = (unsigned)(((uint64_t)1 << (32 - space->arena_shift)) - 1);
	if (!chunks)
		space->keep_max = small ? 1 : (unsigned)(KEEP_BYTES / space->slab_size);
}

/* The table and the bits are as large as they may ever be; only what is used of them costs memory.
 */
static int
map_table(struct slab_space *space)
{
	size_t table = round_up(space->arenas_max * sizeof(space->table[0]), 4096);
	unsigned nwords = (space->arenas_max + 63) / 64;
	size_t bits = round_up(nwords * sizeof(uint64_t), 64);
	unsigned i;

	space->map_size = table + SLAB_STATES * bits;
	space->map = mmap(NULL, space->map_size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (space->map == MAP_FAILED)
		return -ENOMEM;
	space->table = space->map;
	for (i = 0; i < SLAB_STATES; i++) {
		space->arenas[i].words = (void *)((uint8_t *)space->map + table + i * bits);
		space->arenas[i].nwords = nwords;
		space->arenas[i].low = nwords;
	}
	return 0;
}

int
slab_space_init(struct slab_space *space, size_t object_size, size_t align, unsigned flags,
	void (*ctor)(void *object))
{
	memset(space, 0, sizeof(*space));
	lay_out(space, object_size, align, flags);
	space->ctor = ctor;
	if (map_table(space))
		return -ENOMEM;
	pthread_mutex_init(&space->lock, NULL);
	return 0;
}

void
slab_space_destroy(struct slab_space *space)
{
	struct slab_arena *arena;
	unsigned i;

	for (i = 0; i < space->narenas; i++) {
		arena = atomic_load_explicit(&space->table[i], memory_order_relaxed);
		asan_unpoison(arena, arena->usable);
		munmap(arena, space->arena_size);
	}
	pthread_mutex_destroy(&space->lock);
	munmap(space->map, space->map_size);
}
