#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "limits.h"
#include "loop.h"
#include "slab.h"

static char order[64];
static unsigned ordered;

struct step {
	struct loop_task task;
	char letter;
};

static void
note(char letter)
{
	if (ordered < sizeof(order) - 1)
		order[ordered++] = letter;
	order[ordered] = '\0';
}

static void
run_step(struct loop_task *task)
{
	note(container_of(task, struct step, task)->letter);
}

static void
stop_main(struct loop_task *task)
{
	(void)task;
	loop_stop_main();
}

static struct loop_task stopper = {.run = stop_main};

static int
setup(void **state)
{
	(void)state;
	ordered = 0;
	order[0] = '\0';
	return loops_start(2);
}

static int
teardown(void **state)
{
	(void)state;
	loops_stop();
	return 0;
}

static void
test_loops(void **state)
{
	unsigned i;

	(void)state;
	assert_int_equal(loop_count(), 2);
	for (i = 0; i <= 2; i++)
		assert_int_equal(loop_index(loop_by_index(i)), i);
	assert_ptr_equal(loop_main(), loop_by_index(2));
	assert_ptr_equal(loop_current(), loop_main());
	assert_int_equal((uintptr_t)loop_buffer(loop_main()) % 4096, 0);
	memset(loop_buffer(loop_main()), 1, LIMIT_RECV_BUFFER);
}

static void
test_phases(void **state)
{
	struct loop *loop = loop_main();
	struct step steps[] = {{{.run = run_step}, 'r'}, {{.run = run_step}, 'b'},
		{{.run = run_step}, 'd'}, {{.run = run_step}, 'p'}};

	(void)state;
	loop_reap(loop, &stopper);
	loop_reap(loop, &steps[0].task);
	loop_before_sleep(loop, &steps[1].task);
	loop_defer(loop, &steps[2].task);
	loop_post(loop, &steps[3].task);
	loop_run_main();
	assert_string_equal(order, "pdbr");
}

/* A task that always queues itself again must leave room for the rest of each turn. */
static unsigned again, turns;

static void
run_again(struct loop_task *task)
{
	again++;
	loop_defer(loop_current(), task);
}

static void
count_turn(struct loop_task *task)
{
	if (++turns == 3)
		loop_stop_main();
	else
		loop_before_sleep(loop_current(), task);
}

static void
stay(struct loop_task *task)
{
	(void)task;
}

static void
test_deferred_work_is_bounded(void **state)
{
	static struct loop_task busy = {.run = run_again};
	static struct loop_task count = {.run = count_turn};

	(void)state;
	again = turns = 0;
	loop_defer(loop_main(), &busy);
	loop_before_sleep(loop_main(), &count);
	loop_run_main();
	assert_int_equal(turns, 3);
	assert_int_equal(again, 3 * LOOP_DEFER_MAX);
	busy.run = stay;
}

/* Posts from two loops and a plain thread: all run, in each poster's order, on the right thread. */
enum { POSTS = 20000 };

struct posted {
	struct loop_task task;
	unsigned poster, number;
};

static struct posted posts[3][POSTS];
static unsigned next_number[3], received;

static void
on_post(struct loop_task *task)
{
	struct posted *p = container_of(task, struct posted, task);

	if (loop_current() != loop_main() || p->number != next_number[p->poster])
		note('!');
	next_number[p->poster]++;
	if (++received == 3 * POSTS)
		loop_stop_main();
}

static void
post_all(unsigned poster)
{
	unsigned i;

	for (i = 0; i < POSTS; i++) {
		posts[poster][i] =
			(struct posted){.task.run = on_post, .poster = poster, .number = i};
		loop_post(loop_main(), &posts[poster][i].task);
		if (i % 1000 == 0)
			usleep(100); /* lets the loop fall asleep now and then */
	}
}

static void
post_from_loop(struct loop_task *task)
{
	(void)task;
	post_all(loop_index(loop_current()));
}

static void *
post_from_thread(void *arg)
{
	if (loop_current())
		note('!');
	post_all(2);
	return arg;
}

static void
test_posts(void **state)
{
	static struct loop_task start[2] = {{.run = post_from_loop}, {.run = post_from_loop}};
	pthread_t thread;

	(void)state;
	received = 0;
	memset(next_number, 0, sizeof(next_number));
	loop_post(loop_by_index(0), &start[0]);
	loop_post(loop_by_index(1), &start[1]);
	assert_int_equal(pthread_create(&thread, NULL, post_from_thread, NULL), 0);
	loop_run_main();
	pthread_join(thread, NULL);
	assert_int_equal(received, 3 * POSTS);
	assert_string_equal(order, "");
}

/* A task handed back and forth: each hop must wake a sleeping loop. */
static unsigned hops;

static void
hop(struct loop_task *task)
{
	if (++hops == 2001)
		loop_stop_main();
	else
		loop_post(loop_by_index(hops % 2 ? 0 : 2), task);
}

static void
test_wakeups(void **state)
{
	static struct loop_task task = {.run = hop};

	(void)state;
	hops = 0;
	loop_post(loop_main(), &task);
	loop_run_main();
	assert_int_equal(hops, 2001);
}

static void
note_signals(struct loop_task *task)
{
	sigset_t blocked;
	char name[16];

	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	pthread_getname_np(pthread_self(), name, sizeof(name));
	if (sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGINT))
		note('s');
	if (strcmp(name, "slabd-loop1") == 0)
		note('n');
	loop_post(loop_main(), &stopper);
	(void)task;
}

static void
test_threads(void **state)
{
	static struct loop_task task = {.run = note_signals};

	(void)state;
	loop_post(loop_by_index(1), &task);
	loop_run_main();
	assert_string_equal(order, "sn");
}

static struct loop_watch watch;
static int fds[2];

static void
on_ready(struct loop_watch *w, unsigned events)
{
	char c;

	if (events & LOOP_WRITE) {
		note('w');
		assert_int_equal(loop_watch_change(w, LOOP_READ), 0);
		assert_int_equal(write(fds[1], "ab", 2), 2);
	}
	if (events & LOOP_READ) {
		assert_int_equal(read(fds[0], &c, 1), 1);
		note(c); /* level-triggered: b makes another event */
		if (c == 'b') {
			loop_watch_stop(w);
			loop_stop_main();
		}
	}
}

static void
test_watch(void **state)
{
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	loop_watch_stop(&watch);
	assert_int_equal(loop_watch_start(loop_main(), &watch, fds[0], 0, on_ready), 0);
	assert_int_equal(loop_watch_change(&watch, LOOP_READ | LOOP_WRITE), 0);
	loop_run_main();
	assert_string_equal(order, "wab");
	loop_watch_stop(&watch);
	close(fds[0]);
	close(fds[1]);
}

static void
test_watch_bad_fd(void **state)
{
	(void)state;
	assert_int_equal(loop_watch_start(loop_main(), &watch, 9999, LOOP_READ, on_ready), -EBADF);
	assert_null(watch.event);
}

/* Both directions ready in one wake-up, and the first callback stops the watch. */
static void
stop_at_once(struct loop_watch *w, unsigned events)
{
	(void)events;
	note('1');
	loop_watch_stop(w);
	loop_before_sleep(loop_main(), &stopper);
}

static void
test_watch_stopped_in_callback(void **state)
{
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(write(fds[1], "a", 1), 1);
	assert_int_equal(
		loop_watch_start(loop_main(), &watch, fds[0], LOOP_READ | LOOP_WRITE, stop_at_once),
		0);
	loop_run_main();
	assert_string_equal(order, "1");
	close(fds[0]);
	close(fds[1]);
}

static uint64_t started;

static void
on_timer(struct loop_timer *timer)
{
	assert_true(loop_now(timer->loop) <= clock_now());
	note('t');
	if (ordered < 3)
		assert_int_equal(loop_timer_start(timer->loop, timer, MS_NS, on_timer), 0);
	else
		loop_stop_main();
}

static void
never(struct loop_timer *timer)
{
	(void)timer;
	note('!');
}

static void
test_timers(void **state)
{
	struct loop_timer timer = {0};
	struct loop_timer other = {0};

	(void)state;
	started = clock_now();
	assert_int_equal(loop_timer_start(loop_main(), &other, MS_NS, never), 0);
	assert_int_equal(loop_timer_start(loop_main(), &timer, 20 * MS_NS, on_timer), 0);
	loop_timer_stop(&other);
	loop_timer_stop(&other);
	loop_run_main();
	assert_string_equal(order, "ttt");
	assert_true(clock_now() - started >= 15 * MS_NS); /* the coarse clock ticks in 4 ms */
}

static struct loop_sweep sweeps[3];
static struct slab_cache *cache;

static uint64_t
cache_memory(void)
{
	struct slab_stats stats;

	slab_cache_stats(cache, &stats);
	return stats.memory;
}

static void
sweep_once(struct loop_sweep *sweep, uint64_t now)
{
	unsigned i;

	assert_true(now == loop_now(loop_current()));
	note((char)('0' + (sweep - sweeps)));
	if (sweep == &sweeps[1])
		for (i = 0; i < 3; i++)
			loop_sweep_remove(loop_current(), &sweeps[i]);
	if (!sweeps[0].previous)
		loop_stop_main();
}

static void
test_sweeps(void **state)
{
	unsigned i;

	(void)state;
	memset(sweeps, 0, sizeof(sweeps));
	for (i = 0; i < 3; i++) {
		sweeps[i].sweep = sweep_once;
		loop_sweep_add(loop_main(), &sweeps[i]);
	}
	loop_run_main();
	assert_string_equal(order, "21"); /* 0 was removed by 1 */
}

/* The loop's free objects go back after a second in which nothing happened. */
static void
use_object(struct loop_task *task)
{
	(void)task;
	slab_free(cache, slab_alloc(cache));
	atomic_thread_fence(memory_order_seq_cst);
	loop_post(loop_main(), &stopper);
}

static void
test_idle_loop_reclaims(void **state)
{
	static struct loop_task task = {.run = use_object};
	unsigned waits = 0;

	(void)state;
	cache = slab_cache_new("idle", 64, 0, 0, NULL);
	loop_post(loop_by_index(0), &task);
	loop_run_main();
	assert_true(cache_memory() > 0);
	while (cache_memory() > 0 && ++waits < 100)
		usleep(100000);
	assert_true(cache_memory() == 0);
	slab_cache_free(cache);
}

static void
test_randomness(void **state)
{
	static uint8_t a[1000];
	static uint8_t b[1000];
	unsigned i;
	unsigned zeroes = 0;

	(void)state;
	for (i = 0; i + 7 <= sizeof(a); i += 7)
		loop_random(a + i, 7);
	loop_random(b, sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
	for (i = 0; i < 994; i++)
		zeroes += a[i] == 0;
	assert_in_range(zeroes, 0, 40); /* 4 are expected */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_loops, setup, teardown),
		cmocka_unit_test_setup_teardown(test_phases, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deferred_work_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_posts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wakeups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_watch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_watch_bad_fd, setup, teardown),
		cmocka_unit_test_setup_teardown(test_watch_stopped_in_callback, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sweeps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_idle_loop_reclaims, setup, teardown),
		cmocka_unit_test_setup_teardown(test_randomness, setup, teardown),
	};

	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
