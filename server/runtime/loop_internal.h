/* What the files of the loop share: loop.c (a turn), loop_watch.c (descriptors and timers), loops.c (threads). */
#ifndef SLABD_LOOP_INTERNAL_H
#define SLABD_LOOP_INTERNAL_H

#include <event2/util.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "limits.h"
#include "loop.h"

struct event;
struct event_base;

struct task_list {
	struct loop_task *first, **last;
};

struct loop {
	struct event_base *base;
	uint64_t now;
	bool woken; /* `now` was read in this turn */
	bool stopping;
	bool ticking; /* the tick's timer runs */
	bool active;  /* an event or a post since the last tick */
	bool dirty;   /* anything ran since the last slab_reclaim() */
	struct task_list deferred, before_sleep, reap;
	struct loop_sweep *sweeps;
	struct loop_sweep *next_sweep; /* while sweeping */
	struct event *tick;
	struct event *wake;
	uint8_t *buffer;
	unsigned index;
	int eventfd;
	pthread_t thread;
	struct loop_task stop;

	/* Other threads': the newest posted task first, and whether they must write the eventfd. */
	_Alignas(64) _Atomic(struct loop_task *) posted;
	atomic_bool sleeping;
};

/* Those of loops_start(), the main thread's behind the others. */
extern struct loop *loops[LIMIT_LOOPS + 1];
extern unsigned nloops;

static inline void
task_list_init(struct task_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

/* loop.c */

/* Which loop the calling thread runs; NULL: none. */
void loop_set_current(struct loop *loop);

/* Waits, and does all that is to be done. */
void loop_turn(struct loop *loop);

/* A task is queued or posted. */
bool loop_has_work(struct loop *loop);

/* To be called first by what libevent calls for a peer's doing or a timer. */
void loop_note_event(struct loop *loop);

/* libevent calls these for the second's tick and for the eventfd; `arg` is the loop. */
void loop_on_tick(evutil_socket_t fd, short what, void *arg);
void loop_on_wake(evutil_socket_t fd, short what, void *arg);

/* loop_watch.c: where watches and timers have their events. 0 or -ENOMEM. */
int loop_watch_caches_new(void);
void loop_watch_caches_free(void);

#endif
