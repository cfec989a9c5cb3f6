#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>

#include "check.h"
#include "work.h"

struct job {
	struct work work;
	unsigned number;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned running, running_most, ended;
static bool gate; /* open: jobs may end */
static unsigned first_number[64];
static struct job jobs[200];

static int
setup(void **state)
{
	(void)state;
	running = running_most = ended = 0;
	gate = true;
	return work_start(4);
}

static void
run_job(struct work *work)
{
	struct job *job = container_of(work, struct job, work);

	pthread_mutex_lock(&lock);
	if (++running > running_most)
		running_most = running;
	pthread_cond_broadcast(&changed);
	while (!gate)
		pthread_cond_wait(&changed, &lock);
	if (ended < ARRAY_SIZE(first_number))
		first_number[ended] = job->number;
	running--;
	ended++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void
submit(struct work_queue *queue, unsigned from, unsigned n)
{
	unsigned i;

	for (i = from; i < from + n; i++) {
		jobs[i].number = i;
		jobs[i].work.run = run_job;
		work_submit(queue, &jobs[i].work);
	}
}

static void
set_gate(bool open)
{
	pthread_mutex_lock(&lock);
	gate = open;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* Waits for a state that must come; the test's timeout is the harness'. */
static void
wait_for(unsigned *what, unsigned value)
{
	pthread_mutex_lock(&lock);
	while (*what < value)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void
test_order(void **state)
{
	struct work_queue *queue = work_queue_new(1);
	unsigned i;

	(void)state;
	submit(queue, 0, 64);
	wait_for(&ended, 64);
	assert_int_equal(running_most, 1);
	for (i = 0; i < 64; i++)
		assert_int_equal(first_number[i], i);
	work_queue_free(queue);
	work_stop();
}

static void
test_queue_limit(void **state)
{
	struct work_queue *slow = work_queue_new(2);
	struct work_queue *other = work_queue_new(1);

	(void)state;
	set_gate(false);
	submit(slow, 0, 50);
	wait_for(&running, 2);
	/* A stuck queue leaves workers for others. */
	submit(other, 50, 1);
	wait_for(&running, 3);
	assert_int_equal(running_most, 3);
	set_gate(true);
	wait_for(&ended, 51);
	work_queue_free(slow);
	work_queue_free(other);
	work_stop();
}

static void
test_worker_limit(void **state)
{
	struct work_queue *queue = work_queue_new(100);

	(void)state;
	set_gate(false);
	submit(queue, 0, 100);
	wait_for(&running, 4);
	set_gate(true);
	wait_for(&ended, 100);
	assert_int_equal(running_most, 4);
	work_queue_free(queue);
	work_stop();
}

static void
test_stop_runs_the_rest(void **state)
{
	struct work_queue *queue = work_queue_new(1);

	(void)state;
	submit(queue, 0, 100);
	work_stop();
	assert_int_equal(ended, 100);
	work_queue_free(queue);
	assert_int_equal(work_start(1), 0); /* again */
	queue = work_queue_new(1);
	submit(queue, 0, 1);
	work_stop();
	assert_int_equal(ended, 101);
	work_queue_free(queue);
}

static void
note_signals(struct work *work)
{
	sigset_t blocked;

	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	container_of(work, struct job, work)->number =
		sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGHUP);
}

static void
test_signals_are_blocked(void **state)
{
	struct work_queue *queue = work_queue_new(1);

	(void)state;
	jobs[0].work.run = note_signals;
	jobs[0].number = 0;
	work_submit(queue, &jobs[0].work);
	work_stop();
	assert_int_equal(jobs[0].number, 1);
	work_queue_free(queue);
}

static void
count_job(struct work *work)
{
	(void)work;
	__atomic_fetch_add(&ended, 1, __ATOMIC_RELAXED);
}

static struct work_queue *queues[4];
static struct job own[4][2000];

static void *
submit_own(void *arg)
{
	struct job *mine = arg;
	unsigned i;

	for (i = 0; i < 2000; i++) {
		mine[i].work.run = count_job;
		work_submit(queues[i % 4], &mine[i].work);
	}
	return NULL;
}

/* A queue is freed as soon as its last work has told that it ran: before run() has returned. */
static void
test_many_submitters(void **state)
{
	pthread_t threads[4];
	unsigned i;

	(void)state;
	for (i = 0; i < 4; i++)
		queues[i] = work_queue_new(i + 1);
	for (i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, submit_own, own[i]), 0);
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	while (__atomic_load_n(&ended, __ATOMIC_RELAXED) < 8000)
		sched_yield();
	for (i = 0; i < 4; i++)
		work_queue_free(queues[i]);
	work_stop();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_order, setup),
		cmocka_unit_test_setup(test_queue_limit, setup),
		cmocka_unit_test_setup(test_worker_limit, setup),
		cmocka_unit_test_setup(test_stop_runs_the_rest, setup),
		cmocka_unit_test_setup(test_signals_are_blocked, setup),
		cmocka_unit_test_setup(test_many_submitters, setup),
	};

	return cmocka_run_group_tests_name("work", tests, NULL, NULL);
}
