/* storage/blocking.c: how blocking requests come to workers; the workers run when the test says so.
 */
#include "config.h"

#include "storage_test.h"

#include <errno.h>

#include "volume_script.h"

static struct volume_script *
open_blocking(uint32_t missing)
{
	return volume_script_open(
		&(struct volume_script_options){.blocking = true, .missing = missing});
}

static void
one_turn_is_one_job(void **state)
{
	struct volume_script *s = open_blocking(0);
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	static struct io io[100];
	static uint8_t data[512];

	(void)state;
	work_inline_hold(true);
	for (unsigned i = 0; i < 100; i++)
		io_submit(&io[i], handle, BLK_READ, 0, 512 * i, 512, data);
	assert_int_equal(work_inline_waiting(), 0);
	virtual_run_until_idle();
	assert_int_equal(work_inline_waiting(), 1);
	/* It takes them all; the help it called for finds nothing to do. */
	assert_int_equal(work_inline_run(1), 1);
	assert_int_equal(volume_script_calls(s), 100);
	assert_in_range(work_inline_waiting(), 0, LIMIT_VOLUME_WORKS - 1);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(volume_script_call(s, i)->offset, 512 * i);
		assert_int_equal(io[i].completed, 0);
	}
	work_inline_hold(false);
	virtual_run_until_idle();
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(io[i].completed, 1);
	blk_close(handle);
	volume_script_close(s);
}

static void
jobs_are_bounded(void **state)
{
	struct volume_script *s = open_blocking(0);
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	struct io io[20];
	uint8_t data[512];

	(void)state;
	work_inline_hold(true);
	for (unsigned i = 0; i < 20; i++) {
		io_submit(&io[i], handle, BLK_READ, 0, 0, 512, data);
		virtual_run_until_idle();
		assert_in_range(work_inline_waiting(), 1, LIMIT_VOLUME_WORKS);
	}
	work_inline_hold(false);
	virtual_run_until_idle();
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(io[i].completed, 1);
	blk_close(handle);
	volume_script_close(s);
}

static void
every_operation_finds_its_function(void **state)
{
	struct volume_script *s = open_blocking(0);
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	uint8_t data[1024] = {0};
	struct blk_extent extents[2];
	unsigned n = 2;

	(void)state;
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 512, 512, data), 0);
	assert_int_equal(do_io(handle, BLK_READ, 0, 512, 512, data), 0);
	assert_int_equal(do_io(handle, BLK_ZERO, BLK_MAY_UNMAP | BLK_FAST_ONLY, 512, 512, NULL), 0);
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 512, 512, NULL), 0);
	assert_int_equal(do_io(handle, BLK_PREFETCH, 0, 512, 512, NULL), 0);
	assert_int_equal(do_extents(handle, 0, 512, 1024, extents, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(volume_script_call(s, 2)->flags, BLK_MAY_UNMAP | BLK_FAST_ONLY);
	for (unsigned i = 0; i < 6; i++) {
		static const enum blk_op ops[] = {
			BLK_WRITE, BLK_READ, BLK_ZERO, BLK_DISCARD, BLK_PREFETCH, BLK_EXTENTS};

		assert_int_equal(volume_script_call(s, i)->op, ops[i]);
		assert_int_equal(volume_script_call(s, i)->offset, 512);
	}
	n = 2;
	assert_int_equal(do_extents(handle, BLK_EXTENT_ONE, 512, 1024, extents, &n), 0);
	assert_int_equal(n, 1);
	blk_close(handle);
	volume_script_close(s);
}

static void
errors_come_back(void **state)
{
	struct volume_script *s = open_blocking(1u << BLK_FLUSH);
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	uint8_t data[512] = {1};

	(void)state;
	volume_script_fail(s, BLK_WRITE, -ENOSPC, 1);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 512, data), -ENOSPC);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 512, data), 0);
	assert_int_equal(volume_script_data(s)[0], 1);
	blk_close(handle);
	volume_script_close(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(one_turn_is_one_job, settle),
		cmocka_unit_test_teardown(jobs_are_bounded, settle),
		cmocka_unit_test_teardown(every_operation_finds_its_function, settle),
		cmocka_unit_test_teardown(errors_come_back, settle),
	};

	return cmocka_run_group_tests_name("blocking", tests, setup_loops, teardown_loops);
}
