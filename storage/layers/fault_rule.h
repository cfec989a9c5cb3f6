/* A fault rule: its text, and which requests it chooses. Pure; the caller has the lock. */
#ifndef SLABD_FAULT_RULE_H
#define SLABD_FAULT_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"
#include "log.h"

enum fault_latency { LATENCY_NONE, LATENCY_FIXED, LATENCY_UNIFORM, LATENCY_EXPONENTIAL };
enum fault_part { PART_ALL, PART_SHORT, PART_TORN };

struct fault_rule {
	uint32_t operations; /* bits 1 << op */
	char client[96];     /* a pattern for blk_name(); empty: everybody */

	/* What it does. */
	int rc; /* 0: no error */
	enum fault_latency latency;
	uint64_t latency_ns[2]; /* FIXED: [0]; UNIFORM: from, to; EXPONENTIAL: the mean */
	enum fault_part part;
	uint64_t part_bytes;
	bool late; /* once what is below has done it */

	/* Whom it chooses. */
	uint32_t probability; /* in a million */
	uint32_t interval;
	int64_t times; /* left; -1: no end */
	uint64_t space;
	uint64_t require_start, require_end, reject_start, reject_end;
	bool has_nth;
	uint64_t nth; /* left; 0: it has fired */
	uint64_t seed;
	unsigned verbose;

	uint64_t random; /* the generator's state */
	uint64_t count;  /* for interval */
	uint64_t candidates, injected;
};

/* One rule, of `length` bytes. A seed that is not given is drawn. 0 or -errno with *error. */
int fault_rule_parse(const char *text, size_t length, struct fault_rule *rule, struct error *error);

/* "write+flush" as bits. 0 or -errno with *error. */
int
fault_operations_parse(const char *text, size_t length, uint32_t *operations, struct error *error);

/* As it could be typed, with what has changed since. */
void fault_rule_text(const struct fault_rule *rule, char *text, size_t size);

/* Counts a request that what is said of operations, client and ranges fits; true: it is chosen. */
bool fault_rule_choose(struct fault_rule *rule, const struct blk_request *request);

/* Nanoseconds that the chosen request is to be delayed. */
uint64_t fault_rule_delay(struct fault_rule *rule);

#endif
