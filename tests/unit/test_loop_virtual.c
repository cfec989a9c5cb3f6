#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "check.h"
#include "limits.h"
#include "loop_virtual.h"
#include "work.h"

static char order[64];
static unsigned ordered;

struct step {
	struct loop_task task;
	char letter;
};

static void
note(char letter)
{
	assert_true(ordered < sizeof(order) - 1);
	order[ordered++] = letter;
	order[ordered] = '\0';
}

static void
run_step(struct loop_task *task)
{
	note(container_of(task, struct step, task)->letter);
}

static int
setup(void **state)
{
	(void)state;
	ordered = 0;
	order[0] = '\0';
	virtual_loops_start(2);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	virtual_loops_stop();
	return 0;
}

static void
test_phases(void **state)
{
	struct loop *loop = loop_current();
	struct step steps[] = {{{.run = run_step}, 'r'}, {{.run = run_step}, 'b'},
		{{.run = run_step}, 'd'}, {{.run = run_step}, 'p'}};

	(void)state;
	assert_int_equal(loop_index(loop), 0);
	assert_int_equal(loop_count(), 2);
	loop_reap(loop, &steps[0].task);
	loop_before_sleep(loop, &steps[1].task);
	loop_defer(loop, &steps[2].task);
	loop_post(loop, &steps[3].task);
	assert_true(virtual_loop_busy(loop));
	assert_true(virtual_loop_turn(loop));
	assert_string_equal(order, "pdbr");
	assert_false(virtual_loop_turn(loop));
}

static struct loop *work_loop;

static void
run_work(struct work *work)
{
	(void)work;
	work_loop = loop_current();
	note('w');
}

static void
test_works(void **state)
{
	struct work_queue *queue = work_queue_new(1);
	struct work a = {.run = run_work};
	struct work b = {.run = run_work};

	(void)state;
	work_loop = loop_current();
	work_inline_hold(true);
	work_submit(queue, &a);
	work_submit(queue, &b);
	virtual_run_until_idle();
	assert_string_equal(order, "");
	assert_int_equal(work_inline_waiting(), 2);
	assert_int_equal(work_inline_run(1), 1);
	assert_null(work_loop);
	assert_non_null(loop_current());
	work_inline_hold(false);
	virtual_run_until_idle();
	assert_string_equal(order, "ww");
	work_queue_free(queue);
}

static uint64_t fired_at[8];
static unsigned nfired;

static void
fired(struct loop_timer *timer)
{
	fired_at[nfired++] = loop_now(timer->loop);
}

static void
test_timers(void **state)
{
	struct loop *loop = loop_current();
	struct loop_timer a = {0};
	struct loop_timer b = {0};
	struct loop_timer c = {0};
	uint64_t start = clock_now();

	(void)state;
	nfired = 0;
	assert_int_equal(loop_timer_start(loop, &a, 20, fired), 0);
	assert_int_equal(loop_timer_start(loop, &b, 10, fired), 0);
	assert_int_equal(loop_timer_start(loop, &c, 15, fired), 0);
	assert_int_equal(loop_timer_start(loop, &a, 30, fired), 0); /* anew */
	loop_timer_stop(&c);
	loop_timer_stop(&c);
	virtual_advance(29);
	assert_int_equal(nfired, 1);
	assert_true(fired_at[0] == start + 10);
	virtual_advance(SECOND_NS);
	assert_int_equal(nfired, 2);
	assert_true(fired_at[1] == start + 30);
	assert_true(clock_now() == start + 29 + SECOND_NS);
}

static struct loop_sweep sweeps[3];
static unsigned swept[3];

static void
sweep_all(struct loop_sweep *sweep, uint64_t now)
{
	unsigned i;

	assert_true(now == clock_now());
	swept[sweep - sweeps]++;
	if (sweep == &sweeps[1]) /* itself and the others, run or not */
		for (i = 0; i < 3; i++)
			loop_sweep_remove(loop_current(), &sweeps[i]);
}

static void
test_sweeps(void **state)
{
	struct loop *loop = loop_current();

	(void)state;
	memset(sweeps, 0, sizeof(sweeps));
	memset(swept, 0, sizeof(swept));
	sweeps[0].sweep = sweeps[1].sweep = sweeps[2].sweep = sweep_all;
	loop_sweep_add(loop, &sweeps[0]);
	virtual_advance(10 * SECOND_NS + 5);
	assert_int_equal(swept[0], 10);
	loop_sweep_add(loop, &sweeps[1]);
	loop_sweep_add(loop, &sweeps[2]);
	virtual_advance(5 * SECOND_NS);
	assert_int_equal(swept[1], 1);
	assert_true(swept[0] + swept[2] == 11);
	loop_sweep_remove(loop, &sweeps[0]);
}

static void
test_seeded_randomness(void **state)
{
	uint8_t a[20];
	uint8_t b[20];

	(void)state;
	virtual_seed(7);
	loop_random(a, sizeof(a));
	virtual_seed(7);
	loop_random(b, sizeof(b));
	assert_memory_equal(a, b, sizeof(a));
	loop_random(b, sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_phases, setup, teardown),
		cmocka_unit_test_setup_teardown(test_works, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sweeps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_seeded_randomness, setup, teardown),
	};

	return cmocka_run_group_tests_name("loop_virtual", tests, NULL, NULL);
}
