/* The server and export under test, and what a first look at them found out. Set up once by main().
 */
#ifndef NBDCHECK_TARGET_H
#define NBDCHECK_TARGET_H

#include "uri.h"

#include <stdbool.h>
#include <stdint.h>

struct ssl_st;
struct test;

/* What a check may need; see needs[] in target.c for the words of the skip. */
enum need {
	WRITABLE = 1 << 0,
	READONLY = 1 << 1, /* an export that says so, and leave to try a write on it */
	STRUCTURED = 1 << 2,
	EXTENDED = 1 << 3,
	META = 1 << 4, /* base:allocation */
	FLUSHES = 1 << 5,
	FUAS = 1 << 6,
	TRIMS = 1 << 7,
	ZEROES = 1 << 8,
	FAST_ZEROES = 1 << 9,
	CACHES = 1 << 10,
	DFS = 1 << 11,
	MULTI = 1 << 12,
	TLS = 1 << 13,       /* STARTTLS is answered with ACK */
	NOTLS = 1 << 14,     /* it is not */
	FORCED = 1 << 15,    /* nothing is answered before it */
	SELECTIVE = 1 << 16, /* TLS, not forced */
	PLAIN = 1 << 17,     /* the export can be used without TLS */
	BLOCK_SIZES = 1 << 18,
	BYTES = 1 << 19,  /* a minimum block size of 1 */
	BLOCKS = 1 << 20, /* one above 1 */
	TCP = 1 << 21,
	MEBIBYTES = 1 << 22, /* 8 MiB at least */
	LISTS = 1 << 23,
};

struct target {
	struct uri uri;
	const char *uri_text;
	bool read_only; /* --read-only: nothing is written */
	double deadline;

	/* Found out by target_probe(). */
	bool tls;   /* sessions begin with STARTTLS */
	bool plain; /* INFO in the clear succeeds */
	bool tls_offered, tls_forced;
	bool structured, extended, meta, lists;
	bool has_block_sizes;
	uint16_t handshake_flags;
	uint16_t flags;         /* transmission flags, with the best replies there are */
	uint16_t compact_flags; /* and with simple ones */
	uint64_t size;
	uint32_t min_block, preferred_block, max_payload; /* the defaults if not told */
	unsigned offers;                                  /* of enum need */
};

/* What main.c and report.c say of this program. */
extern const char program_name[], program_subject[], program_peer[], program_uris[];

/* 0, or -1 with the reason in why. */
int target_open(struct target *target, const char *uri, char *why, size_t why_size);
void target_close(struct target *target);
/* For conn_start_tls(); min and max are TLS versions, 0 for any. */
struct ssl_st *target_new_tls(const struct target *target, int min_version, int max_version);
/* As a check: fails if there is no server to be tested. Writes to the target that t->target points
 * to. */
void target_probe(struct test *t);
bool target_is_read_only(const struct target *target);
/* The first thing missing of needs, NULL if nothing is. */
const char *target_lacks(const struct target *target, unsigned needs);

#endif
