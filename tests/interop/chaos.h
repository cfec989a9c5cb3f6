/*
 * An iSCSI session that keeps verified I/O in flight on a region of its own, and treats itself badly:
 * it is killed, reinstated, logged out, its tasks are aborted and its unit reset. It knows what each
 * block may hold at any moment. One thread a session.
 */
#ifndef SLABD_CHAOS_H
#define SLABD_CHAOS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

enum {
	CHAOS_BLOCK = 4096,
	CHAOS_BLOCKS = 256, /* in a region */
	CHAOS_DEPTH = 8,
	CHAOS_BLOCKS_MAX = 8, /* in a request */
	CHAOS_DEEDS = 9,
};

/* What a block holds: its last write, or, after a write whose end nobody told, perhaps that one. */
struct chaos_block {
	uint32_t generation, perhaps; /* perhaps: 0 for none */
	bool busy;                    /* a request is in flight */
};

struct chaos_request {
	bool used, write, probe; /* probe: TEST UNIT READY */
	uint32_t tag, cmd_sn, generation;
	unsigned block, count;
	uint32_t length, received;
	uint8_t data[CHAOS_BLOCKS_MAX * CHAOS_BLOCK];
};

struct chaos {
	const char *address, *target;
	uint32_t number; /* of the session: its ISID and its region */
	uint64_t base;   /* of the region, bytes */
	uint64_t random;
	const atomic_bool *stop;

	struct wire wire;
	bool connected;
	uint32_t next_tag, generations;
	uint32_t
		dead_below; /* a task management function was complete: no status for earlier tags */
	uint32_t managing, function, target_tag; /* the tag of a function in flight, 0 for none */
	double heard;                            /* seconds_now() */
	unsigned in_flight;
	struct chaos_block blocks[CHAOS_BLOCKS];
	struct chaos_request requests[CHAOS_DEPTH + 1];

	/* What became of it. */
	bool wrong;
	char why[256];
	uint64_t reads, writes, uncertain, attentions;
	uint64_t deeds[CHAOS_DEEDS];
};

extern const char *const chaos_deeds[CHAOS_DEEDS];

/* Writes the whole region, logs out. False, with why, where that fails. */
bool chaos_fill(struct chaos *chaos);
/* A thread's body: until *stop, or until something is wrong. */
void *chaos_run(void *chaos);
/* Reads the whole region and logs out. */
bool chaos_verify(struct chaos *chaos);

#endif
