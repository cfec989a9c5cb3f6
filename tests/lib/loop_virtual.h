/*
 * All of loop.h and work.h on virtual time and on one thread: nothing happens but what a test makes
 * happen, and time passes only when it says so.
 *
 *	virtual_loops_start(2);             loops 0 and 1 and the main one; loop 0 is loop_current()
 *	... call code under test ...
 *	virtual_run_until_idle();           turns of all loops and works, until nothing is left to
 * do virtual_advance(3 * SECOND_NS);     the same, with each timer and sweep at its moment
 *	virtual_loops_stop();
 *
 * A turn has the phases of loop.h in their order; its phase 1 asks the sources (stream_pipe.c's
 * streams). During a turn loop_current() is that loop; during a work it is NULL; between them it is
 * what virtual_as() said last. Works run in order of submission, by virtual_run_until_idle() or by
 * work_inline_run(). loop_watch_start() says -ENOTSUP: there are no descriptors here.
 *
 * Link libslabd-virtual.a before libslabd-runtime.a.
 */
#ifndef SLABD_LOOP_VIRTUAL_H
#define SLABD_LOOP_VIRTUAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "loop.h"

/* Time starts at one hour, so that "now - something" is not below 0. Randomness is seeded with 1.
 */
void virtual_loops_start(unsigned count);

/* Runs what is left on every loop; then drops timers, sweeps and works, and frees the loops. */
void virtual_loops_stop(void);

/* Makes `loop` (may be NULL) the current one; returns the one before. */
struct loop *virtual_as(struct loop *loop);

/* One turn of one loop. True when anything ran. */
bool virtual_loop_turn(struct loop *loop);

/* Something is queued on the loop: its next turn would do something (sources not counted). */
bool virtual_loop_busy(const struct loop *loop);

/* At most so many rounds of turns; code that never comes to rest fails a CHECK here. */
#define VIRTUAL_ROUNDS_MAX 1000000
void virtual_run_until_idle(void);

/* Runs until idle, then lets so much time pass: each timer and sweep that falls due, in order. */
void virtual_advance(uint64_t ns);

/* Moves the clock only; what is due is found at the next turn. */
void virtual_set_clock(uint64_t ns);

/* loop_random() gives the same bytes after the same seed. */
void virtual_seed(uint64_t seed);

/* What a phase 1 asks: a source that has something to do does it in poll(), and says whether it
 * had. */
struct virtual_source {
	TAILQ_ENTRY(virtual_source) link;
	struct loop *loop; /* NULL: not registered */
	bool (*poll)(struct virtual_source *source);
};

void virtual_source_add(struct loop *loop, struct virtual_source *source);
/* Harmless on one that is not registered; also from inside poll(). */
void virtual_source_remove(struct virtual_source *source);

/* Runs at most n works (0: all, also those they submit); how many ran. Also while held. */
unsigned work_inline_run(unsigned n);

/* Works waiting, in all. */
unsigned work_inline_waiting(void);

/* While held, virtual_run_until_idle() leaves works alone. */
void work_inline_hold(bool hold);
bool work_inline_held(void);

#endif
