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

#endif
