/* The loops' life: bases, threads, start and end. */
#include "config.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "log.h"
#include "loop_internal.h"
#include "slab.h"

#define LOOP_LAST_MAX 1024 /* turns that a loop which ends may still need */

struct loop *loops[LIMIT_LOOPS + 1];
unsigned nloops;

static struct event_base *
make_base(void)
{
	struct event_config *config = event_config_new();
	struct event_base *base = NULL;

	if (!config)
		return NULL;
	/* One thread per base. Time is read by us, or from the heap of timers when it is not empty.
	 */
	if (event_config_require_features(config, EV_FEATURE_ET | EV_FEATURE_O1) == 0 &&
		event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV |
						      EVENT_BASE_FLAG_NO_CACHE_TIME) == 0)
		base = event_base_new_with_config(config);
	event_config_free(config);
	return base;
}

static void
free_loop(struct loop *loop)
{
	if (loop->tick)
		event_free(loop->tick);
	if (loop->wake)
		event_free(loop->wake);
	if (loop->base)
		event_base_free(loop->base);
	if (loop->buffer)
		munmap(loop->buffer, LIMIT_RECV_BUFFER);
	if (loop->eventfd >= 0)
		close(loop->eventfd);
	free(loop);
}

static struct loop *
make_loop(unsigned index)
{
	struct loop *loop = aligned_alloc(_Alignof(struct loop), sizeof(*loop));
	void *buffer;

	if (!loop)
		return NULL;
	memset(loop, 0, sizeof(*loop));
	loop->index = index;
	loop->now = clock_now();
	task_list_init(&loop->deferred);
	task_list_init(&loop->before_sleep);
	task_list_init(&loop->reap);
	atomic_init(&loop->posted, NULL);
	atomic_init(&loop->sleeping, false);
	loop->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->base = make_base();
	buffer = mmap(NULL, LIMIT_RECV_BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	if (buffer != MAP_FAILED)
		loop->buffer = buffer;
	if (!loop->base || !loop->buffer || loop->eventfd < 0)
		goto fail;
	loop->tick = evtimer_new(loop->base, loop_on_tick, loop);
	loop->wake = event_new(
		loop->base, loop->eventfd, EV_READ | EV_PERSIST | EV_ET, loop_on_wake, loop);
	if (!loop->tick || !loop->wake || event_add(loop->wake, NULL))
		goto fail;
	return loop;
fail:
	free_loop(loop);
	return NULL;
}

static void
run_stop(struct loop_task *task)
{
	container_of(task, struct loop, stop)->stopping = true;
}

static void *
run_thread(void *arg)
{
	struct loop *loop = arg;
	char name[16];

	snprintf(name, sizeof(name), "slabd-loop%u", loop->index);
	pthread_setname_np(pthread_self(), name);
	loop_set_current(loop);
	while (!loop->stopping)
		loop_turn(loop);
	return NULL;
}

/* Signals are the main thread's: the others are started with all of them blocked. */
static int
start_thread(struct loop *loop)
{
	sigset_t all;
	sigset_t before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&loop->thread, NULL, run_thread, loop);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -rc;
}

static void
stop_thread(struct loop *loop)
{
	loop->stop.run = run_stop;
	loop_post(loop, &loop->stop);
	pthread_join(loop->thread, NULL);
}

/* What was still posted to a loop runs here, when no other thread is left to post more. */
static void
end_loop(struct loop *loop)
{
	struct loop *caller = loop_current();
	unsigned i;

	loop_set_current(loop);
	loop->stopping = true;
	for (i = 0; i < LOOP_LAST_MAX && loop_has_work(loop); i++)
		loop_turn(loop);
	slab_reclaim();
	loop_set_current(caller);
}

static void
free_all(void)
{
	unsigned i;

	for (i = 0; i <= nloops; i++) {
		free_loop(loops[i]);
		loops[i] = NULL;
	}
	nloops = 0;
	loop_set_current(NULL);
	loop_watch_caches_free();
}

/* All loops or none: they find each other by index from their first turn on. */
static int
make_loops(unsigned count)
{
	unsigned i;

	for (i = 0; i <= count; i++) {
		loops[i] = make_loop(i);
		if (!loops[i])
			goto fail;
	}
	nloops = count;
	return 0;
fail:
	while (i-- > 0) {
		free_loop(loops[i]);
		loops[i] = NULL;
	}
	return -ENOMEM;
}

/* What libevent complains of is an error code here too, logged by whoever handles it. */
static void
log_libevent(int severity, const char *text)
{
	(void)severity;
	log_debug("libevent: %s", text);
}

int
loops_start(unsigned count)
{
	unsigned i;
	int rc;

	CHECK(!loops[0] && count <= LIMIT_LOOPS);
	event_set_log_callback(log_libevent);
	rc = loop_watch_caches_new();
	if (rc)
		return rc;
	rc = make_loops(count);
	if (rc) {
		loop_watch_caches_free();
		return rc;
	}
	loop_set_current(loops[count]);
	for (i = 0; i < count; i++) {
		rc = start_thread(loops[i]);
		if (rc)
			goto fail;
	}
	return 0;
fail:
	while (i-- > 0)
		stop_thread(loops[i]);
	free_all();
	return rc;
}

void
loop_run_main(void)
{
	struct loop *loop = loop_main();

	while (!loop->stopping)
		loop_turn(loop);
	loop->stopping = false;
}

void
loop_stop_main(void)
{
	CHECK(loop_current() == loop_main());
	loop_main()->stopping = true;
}

void
loops_stop(void)
{
	unsigned i;

	for (i = 0; i < nloops; i++)
		stop_thread(loops[i]);
	for (i = 0; i <= nloops; i++)
		end_loop(loops[i]);
	free_all();
}

const char *
loop_library_version(void)
{
	return event_get_version();
}
