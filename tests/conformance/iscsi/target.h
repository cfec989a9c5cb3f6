/* The target and logical unit under test, and what a first look at them found out. Set up once by
 * main(). */
#ifndef ISCSICHECK_TARGET_H
#define ISCSICHECK_TARGET_H

#include "uri.h"

#include <stdbool.h>
#include <stdint.h>

struct test;

/* What a check may need; see reasons[] in target.c for the words of the skip. */
enum need {
	WRITABLE = 1 << 0,
	CHAP = 1 << 1,   /* the target authenticates us */
	NOCHAP = 1 << 2, /* it does not */
	MUTUAL = 1 << 3,
	UNSOLICITED = 1 << 4, /* InitialR2T=No was agreed */
	BURSTY = 1 << 5,      /* ImmediateData=Yes was agreed */
	HDIGEST = 1 << 6,
	DDIGEST = 1 << 7,
	DISCOVERY = 1 << 8,
	QUEUES = 1 << 9, /* a command window above 1 */
	MULTI = 1 << 10, /* MaxConnections above 1 was agreed */
};

struct target {
	struct uri uri;
	const char *uri_text;
	bool read_only; /* --read-only: nothing is written */
	double deadline;

	/* Found out by target_probe(). */
	bool protected; /* the logical unit refuses writes */
	uint64_t size;
	uint32_t block_size;
	unsigned offers; /* of enum need */
};

/* What main.c and report.c say of this program. */
extern const char program_name[], program_subject[], program_peer[], program_uris[];

/* 0, or -1 with the reason in why. */
int target_open(struct target *target, const char *uri, char *why, size_t why_size);
void target_close(struct target *target);
/* As a check: fails if there is nothing to be tested. Writes to the target that t->target points to. */
void target_probe(struct test *t);
bool target_is_read_only(const struct target *target);
/* The first thing missing of needs, NULL if nothing is. */
const char *target_lacks(const struct target *target, unsigned needs);

#endif
