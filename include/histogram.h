/*
 * Latency histograms: one writer, any reader (relaxed). Logarithmic buckets with 4 linear steps per
 * power of two, so that a quantile is within 25 % of the truth.
 */
#ifndef SLABD_HISTOGRAM_H
#define SLABD_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS 256

struct histogram {
	_Atomic uint64_t count;
	_Atomic uint64_t sum; /* of the values */
	_Atomic uint32_t bucket[HISTOGRAM_BUCKETS];
};

/* The writer's thread only. */
void histogram_add(struct histogram *h, uint64_t value);

/* into += from; `into` belongs to the caller. */
void histogram_merge(struct histogram *into, const struct histogram *from);

/* The value that `permille` of the values do not exceed (its bucket's upper bound); 0 when empty. */
uint64_t histogram_quantile(const struct histogram *h, unsigned permille);

/*
 * Of what a histogram has got, that of the last HISTOGRAM_WINDOW_NS to twice as long: quantiles of now and
 * not of the whole day. One thread; zeroed before the first use. Where a full histogram has halved its
 * buckets meanwhile, it is all that there is.
 */
#define HISTOGRAM_WINDOW_NS (30 * UINT64_C(1000000000))

struct histogram_window {
	struct histogram older, newer; /* as it was then */
	uint64_t turned;               /* when `newer` was taken; 0: never */
};

/* To be called about once a second. */
void
histogram_window_turn(struct histogram_window *window, const struct histogram *all, uint64_t now);

/* The value that `permille` of the recent ones do not exceed; 0 when there were none. */
uint64_t histogram_window_quantile(
	const struct histogram_window *window, const struct histogram *all, unsigned permille);

#endif
