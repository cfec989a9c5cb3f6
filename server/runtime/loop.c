/* Loops on libevent. Nothing else in slabd's data path includes it. */
#include "config.h"

#include "loop.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "limits.h"
#include "log.h"
#include "slab.h"

#define LOOP_LAST_MAX 1024 /* turns that a loop which ends may still need */

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

static struct loop *loops[LIMIT_LOOPS + 1];
static unsigned nloops;
static struct slab_cache *watch_cache;
static struct slab_cache *timer_cache;
static _Thread_local struct loop *current;

/* A watch has two libevent events side by side in one object (0 reads, 1 writes), so that adding or
 * leaving out LOOP_WRITE is one epoll_ctl and no more. */
static struct event *
watch_event(void *both, unsigned which)
{
	return (void *)((char *)both + which * round_up(event_get_struct_event_size(), 16));
}

static void
init_list(struct task_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

static void
append_task(struct task_list *list, struct loop_task *task)
{
	CHECK(!task->queued);
	task->queued = true;
	task->next = NULL;
	*list->last = task;
	list->last = &task->next;
}

static void
run_task(struct loop_task *task)
{
	task->queued = false;
	task->run(task);
}

/* Runs tasks, also those queued meanwhile, until the list is empty or `most` have run. */
static void
run_list(struct loop *loop, struct task_list *list, unsigned most)
{
	struct loop_task *task;

	while ((task = list->first) && most-- > 0) {
		list->first = task->next;
		if (!list->first)
			list->last = &list->first;
		loop->dirty = true;
		run_task(task);
	}
}

/* Runs what is queued now; what that queues is for the next turn. */
static void
run_queued(struct loop *loop, struct task_list *list)
{
	struct loop_task *task = list->first;
	struct loop_task *next;

	if (!task)
		return;
	init_list(list);
	loop->dirty = true;
	for (; task; task = next) {
		next = task->next;
		run_task(task);
	}
}

void
loop_defer(struct loop *loop, struct loop_task *task)
{
	CHECK(loop == current);
	append_task(&loop->deferred, task);
}

void
loop_before_sleep(struct loop *loop, struct loop_task *task)
{
	CHECK(loop == current);
	append_task(&loop->before_sleep, task);
}

void
loop_reap(struct loop *loop, struct loop_task *task)
{
	CHECK(loop == current);
	append_task(&loop->reap, task);
}

/*
 * A stack: producers push with one compare-and-swap, the loop takes all with one exchange and turns
 * it round. Who pushes while the loop sleeps, or is about to, wakes it: either the poster sees
 * `sleeping`, or the loop, which looks at `posted` after setting it, sees the task (both seq_cst).
 */
void
loop_post(struct loop *loop, struct loop_task *task)
{
	struct loop_task *first;
	uint64_t one = 1;

	CHECK(!task->queued);
	task->queued = true;
	first = atomic_load_explicit(&loop->posted, memory_order_relaxed);
	do {
		task->next = first;
	} while (!atomic_compare_exchange_weak(&loop->posted, &first, task));
	if (atomic_load(&loop->sleeping) && atomic_exchange(&loop->sleeping, false))
		CHECK(write(loop->eventfd, &one, sizeof(one)) == sizeof(one));
}

static void
run_posted(struct loop *loop)
{
	struct loop_task *task;
	struct loop_task *next;
	struct loop_task *oldest = NULL;

	if (!atomic_load_explicit(&loop->posted, memory_order_relaxed))
		return;
	for (task = atomic_exchange(&loop->posted, NULL); task; task = next) {
		next = task->next;
		task->next = oldest;
		oldest = task;
	}
	loop->active = true;
	loop->dirty = true;
	for (task = oldest; task; task = next) {
		next = task->next;
		run_task(task);
	}
}

/* libevent has no hook between waiting and the first callback: the first callback calls this. */
static void
note_awake(struct loop *loop)
{
	if (loop->woken)
		return;
	loop->woken = true;
	loop->now = clock_now();
	atomic_store_explicit(&loop->sleeping, false, memory_order_relaxed);
}

static void
note_event(struct loop *loop)
{
	note_awake(loop);
	loop->active = true;
	loop->dirty = true;
}

static void
start_tick(struct loop *loop)
{
	static const struct timeval second = {.tv_sec = 1};

	if (!loop->ticking)
		loop->ticking = event_add(loop->tick, &second) == 0;
}

static void
run_sweeps(struct loop *loop)
{
	struct loop_sweep *sweep;

	for (sweep = loop->sweeps; sweep; sweep = loop->next_sweep) {
		loop->next_sweep = sweep->next;
		sweep->sweep(sweep, loop->now);
	}
	loop->next_sweep = NULL;
}

/*
 * Once a second while there are sweeps or something happens. After a second without an event the
 * loop is idle: it gives its free objects back, once, and without sweeps sleeps until the next
 * event.
 */
static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct loop *loop = arg;
	bool idle = !loop->active;

	(void)fd;
	(void)what;
	note_awake(loop);
	loop->ticking = false;
	loop->active = false;
	run_sweeps(loop);
	if (idle && loop->dirty) {
		slab_reclaim();
		loop->dirty = false;
	}
	if (loop->sweeps || loop->dirty)
		start_tick(loop);
}

/* Edge-triggered: each write to the eventfd is an event of its own, and nobody needs to read it. */
static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	note_awake(arg);
}

static bool
has_work(struct loop *loop)
{
	return loop->deferred.first || loop->before_sleep.first || loop->reap.first ||
	       atomic_load(&loop->posted);
}

static void
wait_for_events(struct loop *loop)
{
	bool ready = loop->stopping || has_work(loop);

	if (!ready) {
		atomic_store(&loop->sleeping, true);
		ready = atomic_load(&loop->posted) != NULL;
	}
	loop->woken = false;
	CHECK(event_base_loop(loop->base, ready ? EVLOOP_ONCE | EVLOOP_NONBLOCK : EVLOOP_ONCE) >=
		0);
	note_awake(loop);
}

static void
run_turn(struct loop *loop)
{
	wait_for_events(loop);
	run_posted(loop);
	loop->now = clock_now();
	run_list(loop, &loop->deferred, LOOP_DEFER_MAX);
	run_queued(loop, &loop->before_sleep);
	run_queued(loop, &loop->reap);
	if (loop->dirty)
		start_tick(loop);
}

struct loop *
loop_current(void)
{
	return current;
}

unsigned
loop_index(const struct loop *loop)
{
	return loop->index;
}

unsigned
loop_count(void)
{
	return nloops;
}

struct loop *
loop_by_index(unsigned index)
{
	CHECK(index <= nloops);
	return loops[index];
}

struct loop *
loop_main(void)
{
	return loops[nloops];
}

uint64_t
loop_now(const struct loop *loop)
{
	return loop->now;
}

uint8_t *
loop_buffer(struct loop *loop)
{
	return loop->buffer;
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct loop_watch *watch = arg;

	(void)fd;
	(void)what;
	note_event(watch->loop);
	watch->ready(watch, LOOP_READ);
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct loop_watch *watch = arg;

	(void)fd;
	(void)what;
	note_event(watch->loop);
	watch->ready(watch, LOOP_WRITE);
}

int
loop_watch_start(struct loop *loop, struct loop_watch *watch, int fd, unsigned events,
	void (*ready)(struct loop_watch *watch, unsigned events))
{
	void *both = slab_alloc(watch_cache);
	int rc;

	if (!both)
		return -ENOMEM;
	event_assign(
		watch_event(both, 0), loop->base, fd, EV_READ | EV_PERSIST, on_readable, watch);
	event_assign(
		watch_event(both, 1), loop->base, fd, EV_WRITE | EV_PERSIST, on_writable, watch);
	watch->loop = loop;
	watch->ready = ready;
	watch->fd = fd;
	watch->events = 0;
	watch->event = both;
	rc = loop_watch_change(watch, events);
	if (rc)
		loop_watch_stop(watch);
	return rc;
}

static int
add_event(struct event *event)
{
	errno = 0;
	if (event_add(event, NULL) == 0)
		return 0;
	return errno ? -errno : -ENOMEM;
}

int
loop_watch_change(struct loop_watch *watch, unsigned events)
{
	static const unsigned bits[] = {LOOP_READ, LOOP_WRITE};
	unsigned i;
	int rc;

	for (i = 0; i < 2; i++) {
		if (!(events & ~watch->events & bits[i]))
			continue;
		rc = add_event(watch_event(watch->event, i));
		if (rc)
			return rc;
		watch->events |= bits[i];
	}
	for (i = 0; i < 2; i++)
		if (~events & watch->events & bits[i])
			event_del(watch_event(watch->event, i));
	watch->events = events;
	return 0;
}

void
loop_watch_stop(struct loop_watch *watch)
{
	if (!watch->event)
		return;
	event_del(watch_event(watch->event, 0));
	event_del(watch_event(watch->event, 1));
	slab_free(watch_cache, watch->event);
	watch->event = NULL;
	watch->events = 0;
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct loop_timer *timer = arg;

	(void)fd;
	(void)what;
	note_event(timer->loop);
	loop_timer_stop(timer);
	timer->fired(timer);
}

int
loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ns,
	void (*fired)(struct loop_timer *timer))
{
	uint64_t us = delay_ns / 1000 + (delay_ns % 1000 != 0);
	struct timeval delay = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (long)(us % 1000000)};

	if (!timer->event) {
		timer->event = slab_alloc(timer_cache);
		if (!timer->event)
			return -ENOMEM;
		evtimer_assign((struct event *)timer->event, loop->base, on_timer, timer);
	}
	timer->loop = loop;
	timer->fired = fired;
	if (event_add(timer->event, &delay) == 0)
		return 0;
	loop_timer_stop(timer);
	return -ENOMEM;
}

void
loop_timer_stop(struct loop_timer *timer)
{
	if (!timer->event)
		return;
	event_del(timer->event);
	slab_free(timer_cache, timer->event);
	timer->event = NULL;
}

void
loop_sweep_add(struct loop *loop, struct loop_sweep *sweep)
{
	CHECK(!sweep->previous);
	sweep->next = loop->sweeps;
	sweep->previous = &loop->sweeps;
	if (sweep->next)
		sweep->next->previous = &sweep->next;
	loop->sweeps = sweep;
	start_tick(loop);
}

void
loop_sweep_remove(struct loop *loop, struct loop_sweep *sweep)
{
	if (!sweep->previous)
		return;
	if (loop->next_sweep == sweep)
		loop->next_sweep = sweep->next;
	*sweep->previous = sweep->next;
	if (sweep->next)
		sweep->next->previous = sweep->previous;
	sweep->previous = NULL;
	sweep->next = NULL;
}

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
	init_list(&loop->deferred);
	init_list(&loop->before_sleep);
	init_list(&loop->reap);
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
	loop->tick = evtimer_new(loop->base, on_tick, loop);
	loop->wake =
		event_new(loop->base, loop->eventfd, EV_READ | EV_PERSIST | EV_ET, on_wake, loop);
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
	current = loop;
	while (!loop->stopping)
		run_turn(loop);
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
	struct loop *caller = current;
	unsigned i;

	current = loop;
	loop->stopping = true;
	for (i = 0; i < LOOP_LAST_MAX && has_work(loop); i++)
		run_turn(loop);
	slab_reclaim();
	current = caller;
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
	current = NULL;
	slab_cache_free(watch_cache);
	slab_cache_free(timer_cache);
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

static int
make_caches(void)
{
	size_t size = round_up(event_get_struct_event_size(), 16);

	watch_cache = slab_cache_new("loop_watch", 2 * size, 0, 0, NULL);
	timer_cache = slab_cache_new("loop_timer", size, 0, 0, NULL);
	if (watch_cache && timer_cache)
		return 0;
	if (watch_cache)
		slab_cache_free(watch_cache);
	if (timer_cache)
		slab_cache_free(timer_cache);
	return -ENOMEM;
}

int
loops_start(unsigned count)
{
	unsigned i;
	int rc;

	CHECK(!loops[0] && count <= LIMIT_LOOPS);
	event_set_log_callback(log_libevent);
	rc = make_caches();
	if (rc)
		return rc;
	rc = make_loops(count);
	if (rc) {
		slab_cache_free(watch_cache);
		slab_cache_free(timer_cache);
		return rc;
	}
	current = loops[count];
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
		run_turn(loop);
	loop->stopping = false;
}

void
loop_stop_main(void)
{
	CHECK(current == loop_main());
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
