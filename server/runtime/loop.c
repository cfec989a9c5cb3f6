/* A loop's turn, on libevent: nothing in slabd's data path but loop*.c includes it. */
#include "config.h"

#include "loop_internal.h"

#include <event2/event.h>
#include <unistd.h>

#include "check.h"
#include "slab.h"

static _Thread_local struct loop *current;

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
	task_list_init(list);
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

void
loop_note_event(struct loop *loop)
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
void
loop_on_tick(evutil_socket_t fd, short what, void *arg)
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
void
loop_on_wake(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	note_awake(arg);
}

bool
loop_has_work(struct loop *loop)
{
	return loop->deferred.first || loop->before_sleep.first || loop->reap.first ||
	       atomic_load(&loop->posted);
}

static void
wait_for_events(struct loop *loop)
{
	bool ready = loop->stopping || loop_has_work(loop);

	if (!ready) {
		atomic_store(&loop->sleeping, true);
		ready = atomic_load(&loop->posted) != NULL;
	}
	loop->woken = false;
	CHECK(event_base_loop(loop->base, ready ? EVLOOP_ONCE | EVLOOP_NONBLOCK : EVLOOP_ONCE) >=
		0);
	note_awake(loop);
}

void
loop_turn(struct loop *loop)
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

void
loop_set_current(struct loop *loop)
{
	current = loop;
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
