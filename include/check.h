/* Checks of our own mistakes, arithmetic that cannot wrap, and the way back from a member. */
#ifndef SLABD_CHECK_H
#define SLABD_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * CHECK(x): x is true unless slabd itself is wrong. Always compiled in; prints and aborts. Nothing a
 * peer, a file or an operator can do may reach one (promises R01): those get error codes.
 */
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (__builtin_expect(!(x), 0))                                                     \
			check_failed(__FILE__, __LINE__, #x);                                      \
	} while (0)

_Noreturn void check_failed(const char *file, int line, const char *expression);

#define container_of(pointer, type, member)                                                        \
	((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* True when [offset, offset + length) lies in [0, size). Cannot overflow (B9). */
static inline bool
range_within(uint64_t offset, uint64_t length, uint64_t size)
{
	return length <= size && offset <= size - length;
}

/* True when the two ranges share a byte. Both must already lie within some 64-bit size. */
static inline bool
range_overlaps(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
	return a < b + b_length && b < a + a_length;
}

/* *sum = a + b or *product = a * b; false, with nothing written, when that does not fit. */
static inline bool
checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
	uint64_t s;

	if (__builtin_add_overflow(a, b, &s))
		return false;
	*sum = s;
	return true;
}

static inline bool
checked_mul(uint64_t a, uint64_t b, uint64_t *product)
{
	uint64_t p;

	if (__builtin_mul_overflow(a, b, &p))
		return false;
	*product = p;
	return true;
}

static inline uint64_t
max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t
min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline size_t
min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* align: a power of two. round_up wraps past 2^64: check the operand first when a peer sent it. */
static inline uint64_t
round_down(uint64_t value, uint64_t align)
{
	return value & ~(align - 1);
}

static inline uint64_t
round_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) & ~(align - 1);
}

#endif
