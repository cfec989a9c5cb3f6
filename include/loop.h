/*
 * Event loops. One per thread; what belongs to a loop is touched by that loop's thread only. This
 * header is the only way in for clock, randomness and readiness: server/runtime/loop.c implements it on
 * libevent, tests/lib/loop_virtual.c on virtual time.
 *
 * A turn of the loop, in this order:
 *   1. wait for events, then call the watches and timers that are due;
 *   2. run tasks posted by other threads;
 *   3. run deferred tasks (completions, inline work that yielded): those queued when the phase began
 *      and those they queue, at most LOOP_DEFER_MAX; what is left makes the next turn not wait;
 *   4. run before-sleep tasks: each connection sends its replies with one system call;
 *   5. run reap tasks: the one place where connections and sessions are freed.
 */
#ifndef SLABD_LOOP_H
#define SLABD_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOOP_DEFER_MAX 4096

struct loop;

/*
 * Work for a loop. Lives in its owner's object; may be queued once at a time (a CHECK) and is free
 * for reuse when run() is called.
 */
struct loop_task {
	struct loop_task *next; /* the queue's */
	void (*run)(struct loop_task *task);
	bool queued; /* the queue's */
};

/* Any thread. Runs on `loop`; tasks from one thread keep their order. Never runs inside the call. */
void loop_post(struct loop *loop, struct loop_task *task);

/* Loop's thread only: phases 3, 4 and 5. */
void loop_defer(struct loop *loop, struct loop_task *task);
void loop_before_sleep(struct loop *loop, struct loop_task *task);
void loop_reap(struct loop *loop, struct loop_task *task);

/* The calling thread's loop, NULL on workers. */
struct loop *loop_current(void);

/* 0 .. loop_count() - 1 serve connections; the main loop's index is loop_count(). Any thread. */
unsigned loop_index(const struct loop *loop);
unsigned loop_count(void);
struct loop *loop_by_index(unsigned index);
struct loop *loop_main(void);

/* Monotonic nanoseconds, read when phase 1 and phase 3 of this turn began. Loop's thread. */
uint64_t loop_now(const struct loop *loop);

/* Monotonic nanoseconds, read now. Any thread. */
uint64_t clock_now(void);

/* Seconds since 1970, for people. Any thread. */
uint64_t clock_wall(void);

/* Unpredictable bytes (the simulator's are seeded). Any thread. */
void loop_random(void *data, size_t length);

/*
 * The loop's receive buffer, LIMIT_RECV_BUFFER bytes, page-aligned. Whoever handles an event may use
 * it until that event's callback returns.
 */
uint8_t *loop_buffer(struct loop *loop);

/* Readiness of a descriptor, level-triggered. Loop's thread only. */
enum { LOOP_READ = 1, LOOP_WRITE = 2 };

struct loop_watch {
	struct loop *loop;
	void (*ready)(struct loop_watch *watch, unsigned events);
	int fd;
	unsigned events;
	void *event; /* the implementation's */
};

/* events: LOOP_* bits, may be 0. 0 or -errno. The watch must be stopped before fd is closed. */
int loop_watch_start(struct loop *loop, struct loop_watch *watch, int fd, unsigned events,
	void (*ready)(struct loop_watch *watch, unsigned events));
int loop_watch_change(struct loop_watch *watch, unsigned events);
/* No callback after it returns. Harmless on a watch that was zeroed or stopped. */
void loop_watch_stop(struct loop_watch *watch);

/* One-shot timers, for what is rare: per-request deadlines are swept. Loop's thread only. */
struct loop_timer {
	struct loop *loop;
	void (*fired)(struct loop_timer *timer);
	void *event; /* the implementation's */
};

/* Starts or restarts. 0 or -errno. */
int loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ns,
	void (*fired)(struct loop_timer *timer));
void loop_timer_stop(struct loop_timer *timer);

/* Called about once a second while registered; a loop without sweeps sleeps. Loop's thread only. */
struct loop_sweep {
	struct loop_sweep *next, **previous; /* the loop's */
	void (*sweep)(struct loop_sweep *sweep, uint64_t now);
};

void loop_sweep_add(struct loop *loop, struct loop_sweep *sweep);
/* Harmless on one that is not registered. May be called from inside a sweep, for itself or others. */
void loop_sweep_remove(struct loop *loop, struct loop_sweep *sweep);

/*
 * Life of the loops; main thread only. loops_start() makes the main loop on the calling thread and
 * `count` others, each on a thread of its own with all signals blocked. loop_run_main() returns after
 * loop_stop_main(). loops_stop() ends and joins the others (nothing may be registered on them any
 * more) and frees all.
 */
int loops_start(unsigned count);
void loop_run_main(void);
void loop_stop_main(void);
void loops_stop(void);

/* The version of the library behind it, for `slabd --version`. */
const char *loop_library_version(void);

#endif
