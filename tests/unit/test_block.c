/* storage/block.c: what every request passes, whatever is below. */
#include "config.h"

#include "storage_test.h"

#include <errno.h>

#include "volume_script.h"

static const enum blk_op writing[] = {BLK_WRITE, BLK_ZERO, BLK_DISCARD, BLK_COMPARE_WRITE};

static void
completes_once_on_its_loop(void **state)
{
	struct volume_script *s = volume_script_open(&(struct volume_script_options){0});
	struct blk_handle *handle[2];
	uint8_t data[512];
	struct io io[2];

	(void)state;
	volume_script_hold(s, true);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		handle[i] = open_handle(volume_script_volume(s));
		io_submit(&io[i], handle[i], BLK_READ, 0, 512 * i, 512, data);
	}
	assert_int_equal(volume_script_held(s), 2);
	/* Completed here for both: each hears it on its own loop. */
	virtual_as(NULL);
	volume_script_complete(s, 1, 0);
	volume_script_complete(s, 0, -EIO);
	assert_int_equal(io[0].completed + io[1].completed, 0);
	virtual_run_until_idle();
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(io[i].completed, 1);
		assert_ptr_equal(io[i].on, loop_by_index(i));
	}
	assert_int_equal(io[0].blk.rc, -EIO);
	assert_int_equal(io[1].blk.rc, 0);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		blk_close(handle[i]);
	}
	virtual_as(loop_by_index(0));
	volume_script_close(s);
}

static void
range_past_end_is_erange(void **state)
{
	struct volume_script *s = volume_script_open(&(struct volume_script_options){.size = MIB});
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	const struct {
		uint64_t offset, length;
	} bad[] = {{MIB, 1}, {MIB - 1, 2}, {0, MIB + 1}, {UINT64_MAX, 1}, {UINT64_MAX, UINT64_MAX},
		{1, UINT64_MAX}, {MIB + 1, 0}, {(uint64_t)1 << 63, (uint64_t)1 << 63}};
	const enum blk_op ops[] = {BLK_READ, BLK_WRITE, BLK_ZERO, BLK_DISCARD, BLK_EXTENTS,
		BLK_PREFETCH, BLK_COMPARE_WRITE};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_false(blk_check(handle, bad[i].offset, bad[i].length));
		for (unsigned op = 0; op < ARRAY_SIZE(ops); op++)
			assert_int_equal(
				do_io(handle, ops[op], 0, bad[i].offset, bad[i].length, NULL),
				-ERANGE);
	}
	assert_true(blk_check(handle, MIB, 0));
	assert_true(blk_check(handle, 0, MIB));
	for (unsigned op = 0; op < ARRAY_SIZE(ops); op++)
		assert_int_equal(do_io(handle, ops[op], 0, MIB, 0, NULL), 0);
	assert_int_equal(volume_script_calls(s), 0);
	blk_close(handle);
	volume_script_close(s);
}

static void
impossible_requests_are_einval(void **state)
{
	struct volume_script *s = volume_script_open(
		&(struct volume_script_options){.size = 4 * MIB, .transfer_max = 64 * KIB});
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	static uint8_t data[4 * MIB];
	struct blk_extent extent;
	unsigned none = 0;

	(void)state;
	assert_int_equal(do_io(handle, BLK_READ, 0, 0, 64 * KIB, data), 0);
	assert_int_equal(do_io(handle, BLK_READ, 0, 0, 64 * KIB + 1, data), -EINVAL);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 64 * KIB + 1, data), -EINVAL);
	assert_int_equal(do_io(handle, BLK_COMPARE_WRITE, 0, 0, 64 * KIB + 1, data), -EINVAL);
	assert_int_equal(do_io(handle, BLK_OPS, 0, 0, 512, data), -EINVAL);
	assert_int_equal(do_io(handle, (enum blk_op)200, 0, 0, 512, data), -EINVAL);
	assert_int_equal(do_extents(handle, 0, 0, 512, &extent, &none), -EINVAL);
	/* What moves no data has no such bound. */
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, 4 * MIB, NULL), 0);
	assert_int_equal(do_io(handle, BLK_ZERO, 0, 0, 4 * MIB, NULL), 0);
	blk_close(handle);
	volume_script_close(s);
}

static void
read_only_refuses_every_write(void **state)
{
	uint8_t data[1024] = {0};

	(void)state;
	for (unsigned by_volume = 0; by_volume < 2; by_volume++) {
		struct volume_script *s =
			volume_script_open(&(struct volume_script_options){.read_only = by_volume});
		struct blk_info info;
		int rc;
		struct blk_handle *handle =
			blk_open(volume_script_volume(s), "test", !by_volume, &rc);

		blk_info(handle, &info);
		assert_true(info.read_only);
		for (unsigned i = 0; i < ARRAY_SIZE(writing); i++)
			assert_int_equal(do_io(handle, writing[i], 0, 0, 512, data), -EROFS);
		assert_int_equal(volume_script_calls(s), 0);
		assert_int_equal(do_io(handle, BLK_READ, 0, 0, 512, data), 0);
		assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
		blk_close(handle);
		volume_script_close(s);
	}
}

static void
going_volume_finishes_and_refuses(void **state)
{
	struct volume_script *s = volume_script_open(&(struct volume_script_options){0});
	struct volume *volume = volume_script_volume(s);
	struct blk_handle *handle = open_handle(volume);
	uint8_t data[512] = {7};
	struct io io;
	int rc;

	(void)state;
	assert_true(blk_inline(handle));
	volume_script_hold(s, true);
	io_submit(&io, handle, BLK_WRITE, 0, 0, 512, data);
	assert_false(blk_inline(handle));
	volume_script_hold(s, false);
	assert_true(blk_inline(handle));
	volume_set_going(volume);
	assert_true(volume_going(volume));
	assert_false(blk_inline(handle));
	assert_int_equal(do_io(handle, BLK_READ, 0, 0, 512, data), -ESHUTDOWN);
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), -ESHUTDOWN);
	assert_null(blk_open(volume, "late", false, &rc));
	assert_int_equal(rc, -ESHUTDOWN);
	volume_script_complete(s, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(io.blk.rc, 0);
	assert_int_equal(volume_script_data(s)[0], 7);
	blk_close(handle);
	volume_script_close(s);
}

static void
inline_says_the_driver_and_nothing_else(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.not_inline = true});
	struct blk_handle *handle = open_handle(volume_script_volume(s));

	(void)state;
	assert_false(blk_inline(handle));
	blk_close(handle);
	volume_script_close(s);

	s = volume_script_open(&(struct volume_script_options){.alignment = 512});
	handle = open_handle(volume_script_volume(s));
	assert_false(blk_inline(handle));
	blk_close(handle);
	volume_script_close(s);
}

static void
everything_is_counted(void **state)
{
	struct volume_script *s = volume_script_open(&(struct volume_script_options){0});
	struct volume *volume = volume_script_volume(s);
	struct blk_handle *handle = open_handle(volume);
	struct volume_stats *stats;
	uint8_t data[1024] = {0};
	struct io io;

	(void)state;
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 1000, data), 0);
	assert_int_equal(do_io(handle, BLK_READ, 0, 5, 10, data), 0);
	assert_int_equal(do_io(handle, BLK_READ, 0, MIB, 10, data), -ERANGE);
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, 512, NULL), 0);
	volume_script_hold(s, true);
	io_submit(&io, handle, BLK_READ, 0, 0, 512, data);
	virtual_advance(3 * MS_NS);
	volume_script_complete_all(s, 0);
	virtual_run_until_idle();
	assert_int_equal(blk_counters(handle)->operations[BLK_READ], 3);
	assert_int_equal(blk_counters(handle)->bytes_read, 522);
	for (unsigned closed = 0; closed < 2; closed++) {
		stats = get_stats(volume);
		assert_int_equal(stats->operations[BLK_READ], 3);
		assert_int_equal(stats->operations[BLK_WRITE], 1);
		assert_int_equal(stats->operations[BLK_DISCARD], 1);
		assert_int_equal(stats->errors, 1);
		assert_int_equal(stats->bytes_read, 522);
		assert_int_equal(stats->bytes_written, 1000);
		assert_int_equal(stats->handles, !closed);
		assert_int_equal(stats->read.count, 2);
		assert_true(histogram_quantile(&stats->read, 1000) >= 3 * MS_NS);
		if (!closed)
			blk_close(handle);
	}
	volume_script_close(s);
}

static void
names_are_said(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.name = "a.b"});
	struct blk_handle *handle = open_handle(volume_script_volume(s));

	(void)state;
	assert_string_equal(blk_name(handle), "test");
	assert_ptr_equal(blk_volume(handle), volume_script_volume(s));
	assert_string_equal(volume_name(blk_volume(handle)), "a.b");
	assert_string_equal(blk_op_name(BLK_ZERO), "write zeroes");
	assert_string_equal(blk_op_name((enum blk_op)99), "unknown operation");
	blk_close(handle);
	volume_script_close(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(completes_once_on_its_loop, settle),
		cmocka_unit_test_teardown(range_past_end_is_erange, settle),
		cmocka_unit_test_teardown(impossible_requests_are_einval, settle),
		cmocka_unit_test_teardown(read_only_refuses_every_write, settle),
		cmocka_unit_test_teardown(going_volume_finishes_and_refuses, settle),
		cmocka_unit_test_teardown(inline_says_the_driver_and_nothing_else, settle),
		cmocka_unit_test_teardown(everything_is_counted, settle),
		cmocka_unit_test_teardown(names_are_said, settle),
	};

	return cmocka_run_group_tests_name("block", tests, setup_loops, teardown_loops);
}
