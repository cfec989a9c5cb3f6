/*
 * Asking every loop: visit(loop, index) runs on each serving loop, then done() on the main loop.
 * Main thread; the object is the caller's until done().
 */
#ifndef SLABD_GATHER_H
#define SLABD_GATHER_H

#include "limits.h"
#include "loop.h"

struct gather {
	/* The caller's. */
	void (*visit)(
		struct gather *gather, struct loop *loop, unsigned index); /* that loop's thread */
	void (*done)(struct gather *gather);                               /* main thread */

	/* gather.c's. */
	unsigned pending;
	struct gather_leg {
		struct gather *gather;
		struct loop_task task;
	} legs[LIMIT_LOOPS];
};

void gather_start(struct gather *gather);

#endif
