#include "config.h"

#include "histogram.h"

#include <string.h>

#include "check.h"

#define HISTOGRAM_STEPS 4 /* per power of two */

/*
 * A bucket that gets this full halves them all: the shape stays, old values fade, and the sum over
 * 64 loops still fits 32 bits. Reached after a minute of the fastest load, not in an hour.
 */
#define HISTOGRAM_FULL ((uint32_t)1 << 25)

/* Values below 4 have buckets of their own; 5 = 0b101 is step 1 of the power 2, bucket 5; 252 are
 * used. */
static unsigned
bucket_of(uint64_t value)
{
	unsigned power;

	if (value < HISTOGRAM_STEPS)
		return (unsigned)value;
	power = 63 - (unsigned)__builtin_clzll(value);
	return HISTOGRAM_STEPS * (power - 1) + (unsigned)(value >> (power - 2) & 3);
}

static uint64_t
bucket_most(unsigned bucket)
{
	unsigned power = bucket / HISTOGRAM_STEPS + 1;
	uint64_t step = bucket % HISTOGRAM_STEPS;

	if (bucket < HISTOGRAM_STEPS)
		return bucket;
	return ((HISTOGRAM_STEPS + step) << (power - 2)) + (((uint64_t)1 << (power - 2)) - 1);
}

static uint32_t
get_bucket(const struct histogram *h, unsigned i)
{
	return atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
}

static void
set_bucket(struct histogram *h, unsigned i, uint32_t n)
{
	atomic_store_explicit(&h->bucket[i], n, memory_order_relaxed);
}

/* One writer: no locked instruction is needed. */
static void
add_relaxed(_Atomic uint64_t *counter, uint64_t n)
{
	uint64_t v = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, v + n, memory_order_relaxed);
}

static void
halve_buckets(struct histogram *h)
{
	unsigned i;

	for (i = 0; i < HISTOGRAM_BUCKETS; i++)
		set_bucket(h, i, get_bucket(h, i) / 2);
}

void
histogram_add(struct histogram *h, uint64_t value)
{
	unsigned i = bucket_of(value);
	uint32_t n = get_bucket(h, i) + 1;

	add_relaxed(&h->count, 1);
	add_relaxed(&h->sum, value);
	set_bucket(h, i, n);
	if (__builtin_expect(n >= HISTOGRAM_FULL, 0))
		halve_buckets(h);
}

void
histogram_merge(struct histogram *into, const struct histogram *from)
{
	uint32_t n;
	unsigned i;

	add_relaxed(&into->count, atomic_load_explicit(&from->count, memory_order_relaxed));
	add_relaxed(&into->sum, atomic_load_explicit(&from->sum, memory_order_relaxed));
	for (i = 0; i < HISTOGRAM_BUCKETS; i++) {
		if (__builtin_add_overflow(get_bucket(into, i), get_bucket(from, i), &n))
			n = UINT32_MAX;
		set_bucket(into, i, n);
	}
}

uint64_t
histogram_quantile(const struct histogram *h, unsigned permille)
{
	uint32_t n[HISTOGRAM_BUCKETS];
	uint64_t total = 0;
	uint64_t rank;
	unsigned i;

	for (i = 0; i < HISTOGRAM_BUCKETS; i++) {
		n[i] = get_bucket(h, i);
		total += n[i];
	}
	if (total == 0)
		return 0;
	/* 256 buckets of 32 bits: no overflow. At least one value, also for the 0 permille. */
	rank = (total * min_u64(permille, 1000) + 999) / 1000;
	for (i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
		if (n[i] && n[i] >= rank)
			break;
		rank -= min_u64(rank, n[i]);
	}
	return bucket_most(i);
}

static void
copy_histogram(struct histogram *to, const struct histogram *from)
{
	memset(to, 0, sizeof(*to));
	histogram_merge(to, from);
}

void
histogram_window_turn(struct histogram_window *window, const struct histogram *all, uint64_t now)
{
	if (window->turned && now - window->turned < HISTOGRAM_WINDOW_NS)
		return;
	if (window->turned) {
		copy_histogram(&window->older, &window->newer);
		copy_histogram(&window->newer, all);
	}
	window->turned = now;
}

uint64_t
histogram_window_quantile(
	const struct histogram_window *window, const struct histogram *all, unsigned permille)
{
	struct histogram recent = {0};

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		uint32_t now = get_bucket(all, i), then = get_bucket(&window->older, i);

		if (now < then)
			return histogram_quantile(all, permille);
		set_bucket(&recent, i, now - then);
	}
	return histogram_quantile(&recent, permille);
}
