/*
 * storage/uring.c on a real ring and a real loop: its clients read pipes, which hang for as long as a test
 * wants them to.
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "limits.h"
#include "work.h"
#include "../../storage/uring.h"

#define WAITING 5
#define ALL     (LIMIT_URING_DEPTH + WAITING)

/* One test's client. Everything happens on the main loop, which runs until `left` is 0. */
static struct uring_client client;
static int ends[2];
static struct one {
	struct blk_request blk;
	struct iovec iov;
	uint8_t byte;
	unsigned completed;
	int result;
} ones[ALL];
static unsigned left;

static void
on_done(struct uring_client *of, struct blk_request *request, int result)
{
	struct one *one = container_of(request, struct one, blk);

	assert_ptr_equal(of, &client);
	one->completed++;
	one->result = result;
	if (--left == 0)
		loop_stop_main();
}

static void
submit_reads(unsigned n)
{
	memset(ones, 0, sizeof(ones));
	for (unsigned i = 0; i < n; i++) {
		struct one *one = &ones[i];

		one->iov = (struct iovec){&one->byte, 1};
		one->blk.op = BLK_READ;
		one->blk.length = 1;
		one->blk.iov = &one->iov;
		one->blk.niov = 1;
		assert_true(uring_submit(&client, &one->blk));
		assert_int_equal(one->completed, 0);
	}
	left = n;
}

static void
expect_results(unsigned n, int result)
{
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(ones[i].completed, 1);
		assert_int_equal(ones[i].result, result);
	}
	assert_int_equal(client.in_flight, 0);
}

static int
begin(void **state)
{
	(void)state;
	CHECK(pipe(ends) == 0);
	client = (struct uring_client){.fd = ends[0], .done = on_done};
	return 0;
}

static int
end(void **state)
{
	(void)state;
	close(ends[0]);
	close(ends[1]);
	return 0;
}

static bool
has_ring(void)
{
	if (uring_usable() && uring_join(&client))
		return true;
	print_message("%s\n", uring_text());
	return false;
}

static void
what_waits_begins_when_others_end(void **state)
{
	char bytes[ALL] = {0};

	(void)state;
	if (!has_ring())
		skip();
	submit_reads(ALL);
	assert_int_equal(client.in_flight, LIMIT_URING_DEPTH);
	assert_int_equal(write(ends[1], bytes, ALL), ALL);
	loop_run_main();
	expect_results(ALL, 1);
}

static void
what_waits_is_taken_back_at_once(void **state)
{
	char bytes[ALL] = {0};

	(void)state;
	if (!has_ring())
		skip();
	submit_reads(ALL);
	/* The middle, the end, the beginning of those that wait. */
	for (unsigned i = 0; i < 3; i++) {
		static const unsigned which[3] = {2, WAITING - 1, 0};
		struct one *one = &ones[LIMIT_URING_DEPTH + which[i]];

		uring_cancel(&client, &one->blk);
		assert_int_equal(one->completed, 1);
		assert_int_equal(one->result, -ECANCELED);
	}
	assert_int_equal(write(ends[1], bytes, ALL - 3), ALL - 3);
	loop_run_main();
	for (unsigned i = 0; i < ALL; i++)
		assert_int_equal(ones[i].completed, 1);
	assert_int_equal(client.in_flight, 0);
}

static void
cancel_in_its_turn(struct loop_task *task)
{
	(void)task;
	for (unsigned i = 0; i < ALL; i++)
		if (!ones[i].completed)
			uring_cancel(&client, &ones[i].blk);
}

/* Handed to the kernel by one turn, fetched back by a later one. */
static void
kernel_gives_back_what_has_not_begun(void **state)
{
	struct loop_task task = {.run = cancel_in_its_turn};

	(void)state;
	if (!has_ring())
		skip();
	submit_reads(ALL);
	loop_post(loop_main(), &task);
	loop_run_main();
	expect_results(ALL, -ECANCELED);
}

static void
read_again(struct loop_task *task)
{
	(void)task;
	uring_cancel(&client, &ones[0].blk);
	/* Done at this moment, as far as the kernel is concerned: its word has not been taken yet. */
	assert_int_equal(write(ends[1], "x", 1), 1);
}

/* The answer to a cancel says nothing about the request, which may have been quicker. */
static void
request_and_cancel_race(void **state)
{
	struct loop_task task = {.run = read_again};

	(void)state;
	if (!has_ring())
		skip();
	for (unsigned i = 0; i < 100; i++) {
		submit_reads(1);
		loop_post(loop_main(), &task);
		loop_run_main();
		assert_int_equal(ones[0].completed, 1);
		assert_true(ones[0].result == 1 || ones[0].result == -ECANCELED);
		/* The same object again, while the cancel's own answer may be on its way. */
		submit_reads(1);
		assert_int_equal(write(ends[1], "y", 1), 1);
		loop_run_main();
		expect_results(1, 1);
		/* Nothing of the last round stays in the pipe. */
		end(NULL);
		CHECK(pipe(ends) == 0);
		client.fd = ends[0];
	}
}

/* B7: a write that is its own sync is let be. */
static void
sync_of_its_own_is_not_interrupted(void **state)
{
	struct one *one = &ones[0];

	(void)state;
	if (!has_ring())
		skip();
	client.fd = ends[1];
	client.dsync = true;
	memset(ones, 0, sizeof(ones));
	one->iov = (struct iovec){&one->byte, 1};
	one->blk = (struct blk_request){
		.op = BLK_WRITE, .flags = BLK_FUA, .length = 1, .iov = &one->iov, .niov = 1};
	left = 1;
	assert_true(uring_submit(&client, &one->blk));
	uring_cancel(&client, &one->blk);
	loop_run_main();
	expect_results(1, 1);
}

/* Many volumes whose requests all end in one turn: more than the completion ring has places. */
#define MANY 40

static struct uring_client many[MANY];
static unsigned many_left;

static void
one_of_many_done(struct uring_client *of, struct blk_request *request, int result)
{
	(void)of;
	CHECK(result == 1 && request->op == BLK_READ);
	if (--many_left == 0)
		loop_stop_main();
}

static void
feed_all(struct loop_task *task)
{
	static const char bytes[MANY * LIMIT_URING_DEPTH];

	(void)task;
	assert_int_equal(write(ends[1], bytes, sizeof(bytes)), sizeof(bytes));
}

static void
more_completions_than_places(void **state)
{
	struct loop_task task = {.run = feed_all};
	struct one *all = calloc((size_t)MANY * LIMIT_URING_DEPTH, sizeof(*all));

	(void)state;
	if (!has_ring())
		skip();
	many_left = MANY * LIMIT_URING_DEPTH;
	for (unsigned i = 0; i < MANY; i++) {
		many[i] = (struct uring_client){.fd = ends[0], .done = one_of_many_done};
		assert_true(uring_join(&many[i]));
		for (unsigned j = 0; j < LIMIT_URING_DEPTH; j++) {
			struct one *one = &all[i * LIMIT_URING_DEPTH + j];

			one->iov = (struct iovec){&one->byte, 1};
			one->blk = (struct blk_request){
				.op = BLK_READ, .length = 1, .iov = &one->iov, .niov = 1};
			assert_true(uring_submit(&many[i], &one->blk));
		}
	}
	loop_post(loop_main(), &task);
	loop_run_main();
	assert_int_equal(many_left, 0);
	free(all);
}

/* More than the ring has places for submissions: a reset of many units, whose disks hang. */
#define HANGING 5

static struct one *hanging;
static unsigned taken_back;

static void
hanging_done(struct uring_client *of, struct blk_request *request, int result)
{
	(void)of;
	(void)request;
	CHECK(result == 1 || result == -ECANCELED);
	taken_back += result == -ECANCELED;
	if (--many_left == 0)
		loop_stop_main();
}

/* What was not taken back ends too, later. */
static void
let_go(struct loop_task *task)
{
	static const char bytes[HANGING * LIMIT_URING_DEPTH];

	(void)task;
	assert_int_equal(write(ends[1], bytes, sizeof(bytes)), sizeof(bytes));
	if (--many_left == 0)
		loop_stop_main();
}

static void
cancel_all(struct loop_task *task)
{
	for (unsigned i = 0; i < HANGING * LIMIT_URING_DEPTH; i++)
		uring_cancel(&many[i / LIMIT_URING_DEPTH], &hanging[i].blk);
	task->run = let_go;
	loop_post(loop_main(), task);
}

static void
more_cancels_than_places(void **state)
{
	struct loop_task task = {.run = cancel_all};

	(void)state;
	if (!has_ring())
		skip();
	hanging = calloc((size_t)HANGING * LIMIT_URING_DEPTH, sizeof(*hanging));
	many_left = HANGING * LIMIT_URING_DEPTH + 1; /* and let_go() */
	taken_back = 0;
	for (unsigned i = 0; i < HANGING * LIMIT_URING_DEPTH; i++) {
		struct uring_client *of = &many[i / LIMIT_URING_DEPTH];
		struct one *one = &hanging[i];

		if (i % LIMIT_URING_DEPTH == 0) {
			*of = (struct uring_client){.fd = ends[0], .done = hanging_done};
			assert_true(uring_join(of));
		}
		one->iov = (struct iovec){&one->byte, 1};
		one->blk = (struct blk_request){
			.op = BLK_READ, .length = 1, .iov = &one->iov, .niov = 1};
		assert_true(uring_submit(of, &one->blk));
	}
	loop_post(loop_main(), &task);
	loop_run_main();
	assert_int_equal(many_left, 0);
	assert_int_equal(taken_back, HANGING * LIMIT_URING_DEPTH);
	free(hanging);
}

static int
start(void **state)
{
	(void)state;
	CHECK(loops_start(1) == 0);
	CHECK(work_start(1) == 0);
	CHECK(storage_start(0) == 0);
	return 0;
}

static int
stop(void **state)
{
	(void)state;
	loops_stop();
	work_stop();
	storage_stop();
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_waits_begins_when_others_end, begin, end),
		cmocka_unit_test_setup_teardown(what_waits_is_taken_back_at_once, begin, end),
		cmocka_unit_test_setup_teardown(kernel_gives_back_what_has_not_begun, begin, end),
		cmocka_unit_test_setup_teardown(request_and_cancel_race, begin, end),
		cmocka_unit_test_setup_teardown(more_completions_than_places, begin, end),
		cmocka_unit_test_setup_teardown(more_cancels_than_places, begin, end),
		cmocka_unit_test_setup_teardown(sync_of_its_own_is_not_interrupted, begin, end),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
