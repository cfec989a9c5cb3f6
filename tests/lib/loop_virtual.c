#include "config.h"

#include "loop_virtual.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "limits.h"
#include "slab.h"
#include "work.h"

#define CLOCK_START (3600 * SECOND_NS)
#define WALL_START  ((uint64_t)1700000000) /* clock_wall() when the clock is 0 */

struct task_list {
	struct loop_task *first, **last;
};

/* A running timer; loop_timer.event points here. */
struct virtual_timer {
	TAILQ_ENTRY(virtual_timer) link;
	struct loop_timer *timer;
	uint64_t due;
};

struct loop {
	unsigned index;
	bool stopped; /* loop_stop_main() */
	uint64_t now;
	uint64_t swept; /* when the last sweep was, or would have been */
	struct task_list posted, deferred, before_sleep, reap;
	TAILQ_HEAD(timers, virtual_timer) timers; /* in the order in which they are due */
	TAILQ_HEAD(, virtual_source) sources;
	struct loop_sweep *sweeps, *next_sweep;
	uint8_t *buffer;
};

static struct loop *loops[LIMIT_LOOPS + 1];
static unsigned nloops;
static struct loop *current;
static uint64_t now = CLOCK_START;
static uint64_t random_state = 1;

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

static struct loop_task *
take_task(struct task_list *list)
{
	struct loop_task *task = list->first;

	if (!task)
		return NULL;
	list->first = task->next;
	if (!list->first)
		list->last = &list->first;
	task->queued = false;
	return task;
}

static unsigned
run_tasks(struct task_list *list, unsigned most)
{
	struct loop_task *task;
	unsigned n;

	for (n = 0; n < most && (task = take_task(list)); n++)
		task->run(task);
	return n;
}

/* Those queued now; what they queue is for the next turn. */
static unsigned
run_queued(struct task_list *list)
{
	const struct loop_task *task;
	unsigned n = 0;

	for (task = list->first; task; task = task->next)
		n++;
	return run_tasks(list, n);
}

void
loop_post(struct loop *loop, struct loop_task *task)
{
	append_task(&loop->posted, task);
}

/* Only the loop's own thread may: here that is whoever stands for it. */
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

struct loop *
loop_current(void)
{
	return current;
}

struct loop *
virtual_as(struct loop *loop)
{
	struct loop *before = current;

	current = loop;
	return before;
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

uint64_t
clock_now(void)
{
	return now;
}

uint64_t
clock_wall(void)
{
	return WALL_START + now / SECOND_NS;
}

void
virtual_set_clock(uint64_t ns)
{
	CHECK(ns >= now);
	now = ns;
}

void
virtual_seed(uint64_t seed)
{
	random_state = seed;
}

/* splitmix64: every seed, also 0, gives another sequence. */
static uint64_t
next_random(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

void
loop_random(void *data, size_t length)
{
	uint8_t *at = data;
	uint64_t word;
	size_t n;

	for (; length > 0; length -= n, at += n) {
		word = next_random();
		n = min_size(length, sizeof(word));
		memcpy(at, &word, n);
	}
}

uint8_t *
loop_buffer(struct loop *loop)
{
	return loop->buffer;
}

int
loop_watch_start(struct loop *loop, struct loop_watch *watch, int fd, unsigned events,
	void (*ready)(struct loop_watch *watch, unsigned events))
{
	(void)loop;
	(void)watch;
	(void)fd;
	(void)events;
	(void)ready;
	return -ENOTSUP;
}

int
loop_watch_change(struct loop_watch *watch, unsigned events)
{
	(void)watch;
	(void)events;
	return -ENOTSUP;
}

void
loop_watch_stop(struct loop_watch *watch)
{
	(void)watch;
}

int
loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ns,
	void (*fired)(struct loop_timer *timer))
{
	struct virtual_timer *entry;
	struct virtual_timer *other;

	CHECK(loop == current);
	loop_timer_stop(timer);
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	entry->timer = timer;
	entry->due = now + delay_ns;
	timer->loop = loop;
	timer->fired = fired;
	timer->event = entry;
	TAILQ_FOREACH(other, &loop->timers, link)
		if (other->due > entry->due)
			break;
	if (other)
		TAILQ_INSERT_BEFORE(other, entry, link);
	else
		TAILQ_INSERT_TAIL(&loop->timers, entry, link);
	return 0;
}

void
loop_timer_stop(struct loop_timer *timer)
{
	struct virtual_timer *entry = timer->event;

	if (!entry)
		return;
	TAILQ_REMOVE(&timer->loop->timers, entry, link);
	free(entry);
	timer->event = NULL;
}

void
loop_sweep_add(struct loop *loop, struct loop_sweep *sweep)
{
	CHECK(!sweep->previous);
	if (!loop->sweeps)
		loop->swept = now;
	sweep->next = loop->sweeps;
	sweep->previous = &loop->sweeps;
	if (sweep->next)
		sweep->next->previous = &sweep->next;
	loop->sweeps = sweep;
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

void
virtual_source_add(struct loop *loop, struct virtual_source *source)
{
	CHECK(!source->loop);
	source->loop = loop;
	TAILQ_INSERT_TAIL(&loop->sources, source, link);
}

void
virtual_source_remove(struct virtual_source *source)
{
	if (!source->loop)
		return;
	TAILQ_REMOVE(&source->loop->sources, source, link);
	source->loop = NULL;
}

/* Each source once; they go round the list, because any of them may be removed meanwhile. */
static unsigned
poll_sources(struct loop *loop)
{
	struct virtual_source *source;
	unsigned left = 0;
	unsigned ran = 0;

	TAILQ_FOREACH(source, &loop->sources, link)
		left++;
	for (; left > 0 && (source = TAILQ_FIRST(&loop->sources)); left--) {
		TAILQ_REMOVE(&loop->sources, source, link);
		TAILQ_INSERT_TAIL(&loop->sources, source, link);
		ran += source->poll(source);
	}
	return ran;
}

/* Those due when the turn began: one that starts itself again without delay waits for the next
 * turn. */
static unsigned
fire_timers(struct loop *loop)
{
	struct virtual_timer *entry;
	struct loop_timer *timer;
	unsigned due = 0;
	unsigned ran = 0;

	TAILQ_FOREACH(entry, &loop->timers, link)
		due += entry->due <= loop->now;
	for (; ran < due && (entry = TAILQ_FIRST(&loop->timers)); ran++) {
		if (entry->due > loop->now)
			break;
		timer = entry->timer;
		loop_timer_stop(timer);
		timer->fired(timer);
	}
	return ran;
}

static unsigned
run_sweeps(struct loop *loop)
{
	struct loop_sweep *sweep;
	unsigned ran = 0;

	if (!loop->sweeps || loop->now - loop->swept < SECOND_NS)
		return 0;
	loop->swept = loop->now;
	for (sweep = loop->sweeps; sweep; sweep = loop->next_sweep) {
		loop->next_sweep = sweep->next;
		sweep->sweep(sweep, loop->now);
		ran++;
	}
	loop->next_sweep = NULL;
	return ran;
}

bool
virtual_loop_turn(struct loop *loop)
{
	struct loop *before = virtual_as(loop);
	unsigned ran;

	loop->now = now;
	ran = poll_sources(loop);
	ran += fire_timers(loop);
	ran += run_sweeps(loop);
	ran += run_queued(&loop->posted);
	loop->now = now;
	ran += run_tasks(&loop->deferred, LOOP_DEFER_MAX);
	ran += run_queued(&loop->before_sleep);
	ran += run_queued(&loop->reap);
	virtual_as(before);
	return ran > 0;
}

bool
virtual_loop_busy(const struct loop *loop)
{
	return loop->posted.first || loop->deferred.first || loop->before_sleep.first ||
	       loop->reap.first;
}

void
virtual_run_until_idle(void)
{
	unsigned rounds = 0;
	unsigned i;
	bool ran;

	do {
		CHECK(rounds++ < VIRTUAL_ROUNDS_MAX);
		ran = false;
		for (i = 0; i <= nloops; i++)
			ran |= virtual_loop_turn(loops[i]);
		if (!work_inline_held())
			ran |= work_inline_run(0) > 0;
	} while (ran);
}

/* When the next timer or sweep of any loop is due; `until` when there is none before it. */
static uint64_t
next_due(uint64_t until)
{
	const struct virtual_timer *entry;
	unsigned i;

	for (i = 0; i <= nloops; i++) {
		entry = TAILQ_FIRST(&loops[i]->timers);
		if (entry)
			until = min_u64(until, entry->due);
		if (loops[i]->sweeps)
			until = min_u64(until, loops[i]->swept + SECOND_NS);
	}
	return until;
}

void
virtual_advance(uint64_t ns)
{
	uint64_t until = now + ns;
	uint64_t due;

	virtual_run_until_idle();
	while (now < until) {
		due = next_due(until);
		if (due > now)
			now = due;
		virtual_run_until_idle();
	}
}

static struct loop *
make_loop(unsigned index)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	CHECK(loop);
	loop->buffer = aligned_alloc(4096, LIMIT_RECV_BUFFER);
	CHECK(loop->buffer);
	loop->index = index;
	loop->now = now;
	init_list(&loop->posted);
	init_list(&loop->deferred);
	init_list(&loop->before_sleep);
	init_list(&loop->reap);
	TAILQ_INIT(&loop->timers);
	TAILQ_INIT(&loop->sources);
	return loop;
}

static void
free_loop(struct loop *loop)
{
	struct virtual_timer *entry;
	struct virtual_source *source;

	while ((entry = TAILQ_FIRST(&loop->timers)))
		loop_timer_stop(entry->timer);
	while (loop->sweeps)
		loop_sweep_remove(loop, loop->sweeps);
	while ((source = TAILQ_FIRST(&loop->sources)))
		virtual_source_remove(source);
	free(loop->buffer);
	free(loop);
}

int
loops_start(unsigned count)
{
	unsigned i;

	CHECK(!loops[0] && count <= LIMIT_LOOPS);
	now = CLOCK_START;
	virtual_seed(1);
	for (i = 0; i <= count; i++)
		loops[i] = make_loop(i);
	nloops = count;
	current = loop_main();
	return 0;
}

void
virtual_loops_start(unsigned count)
{
	CHECK(loops_start(count) == 0);
	current = loops[0];
}

void
loops_stop(void)
{
	unsigned i;

	virtual_run_until_idle();
	for (i = 0; i <= nloops; i++) {
		current = loops[i];
		slab_reclaim();
	}
	for (i = 0; i <= nloops; i++) {
		free_loop(loops[i]);
		loops[i] = NULL;
	}
	nloops = 0;
	current = NULL;
}

void
virtual_loops_stop(void)
{
	work_stop();
	loops_stop();
}

void
loop_run_main(void)
{
	struct loop *loop = loop_main();

	while (!loop->stopped)
		virtual_advance(SECOND_NS);
	loop->stopped = false;
}

void
loop_stop_main(void)
{
	loop_main()->stopped = true;
}
