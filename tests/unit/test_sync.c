/* storage/sync.c: B6, B7 and oracle O4, with drivers that flush by submit() and by flush(). */
#include "config.h"

#include "storage_test.h"

#include <errno.h>

#include "../../storage/storage.h"
#include "volume_script.h"

static unsigned
count_calls(struct volume_script *s, enum blk_op op)
{
	unsigned n = 0;

	for (unsigned i = 0; i < volume_script_calls(s); i++)
		n += volume_script_call(s, i)->op == op;
	return n;
}

static struct volume_script *
open_cached(bool blocking, bool buffered)
{
	return volume_script_open(&(struct volume_script_options){
		.volatile_cache = true, .blocking = blocking, .buffered = buffered});
}

static void
fua_is_the_operation_then_a_sync(void **state)
{
	const enum blk_op ops[] = {BLK_WRITE, BLK_ZERO, BLK_DISCARD, BLK_COMPARE_WRITE};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		struct volume_script *s = open_cached(false, false);
		struct blk_handle *handle = open_handle(volume_script_volume(s));
		uint8_t data[1024] = {0};
		struct io io;

		volume_script_hold(s, true);
		io_submit(&io, handle, ops[i], BLK_FUA, 0, 512, data);
		assert_int_equal(volume_script_calls(s), 1);
		volume_script_complete(s, 0, 0);
		virtual_run_until_idle();
		assert_int_equal(io.completed, 0);
		assert_int_equal(volume_script_calls(s), 2);
		assert_int_equal(volume_script_call(s, 1)->op, BLK_FLUSH);
		volume_script_complete(s, 1, 0);
		virtual_run_until_idle();
		assert_int_equal(io.completed, 1);
		assert_int_equal(io.blk.rc, 0);
		blk_close(handle);
		volume_script_close(s);
		virtual_run_until_idle();
	}
}

/*
 * Where a WRITE with FUA is its own sync, several syncs are in the kernel at once, and it tells a failed
 * write-back to one of them only: a success waits for those that it overlapped.
 */
static struct volume_script *
open_fua(void)
{
	return volume_script_open(
		&(struct volume_script_options){.volatile_cache = true, .fua = true});
}

static void
fua_write_of_the_driver_is_one_step(void **state)
{
	struct volume_script *s = open_fua();
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	uint8_t data[512] = {1};

	(void)state;
	assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, 0, 512, data), 0);
	assert_int_equal(count_calls(s, BLK_FLUSH), 0);
	assert_int_equal(volume_script_call(s, 0)->flags, BLK_FUA);
	/* What is not a WRITE is followed by the shared one. */
	assert_int_equal(do_io(handle, BLK_ZERO, BLK_FUA, 0, 512, NULL), 0);
	assert_int_equal(count_calls(s, BLK_FLUSH), 1);
	blk_close(handle);
	volume_script_close(s);
}

static void
success_waits_for_overlapping_syncs(void **state)
{
	struct volume_script *s = open_fua();
	struct blk_handle *handle[2];
	struct io early, late, flush, after;
	uint8_t data[512] = {1};

	(void)state;
	volume_script_hold(s, true);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		handle[i] = open_handle(volume_script_volume(s));
	}
	io_submit(&late, handle[1], BLK_WRITE, BLK_FUA, 512, 512, data);
	virtual_as(loop_by_index(0));
	io_submit(&early, handle[0], BLK_WRITE, BLK_FUA, 0, 512, data);
	io_submit(&flush, handle[0], BLK_FLUSH, 0, 0, 0, NULL);
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(s), 3);
	/* Both overlapped `late`, which is still with the driver. */
	volume_script_complete(s, 1, 0);
	volume_script_complete(s, 2, 0);
	virtual_run_until_idle();
	assert_int_equal(early.completed, 0);
	assert_int_equal(flush.completed, 0);
	/* This one did not overlap `early`, and is no reason to hold it back. */
	io_submit(&after, handle[0], BLK_WRITE, BLK_FUA, 1024, 512, data);
	volume_script_complete(s, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(late.completed, 0); /* it overlapped `after` */
	assert_int_equal(early.completed, 1);
	assert_int_equal(flush.completed, 1);
	assert_int_equal(early.blk.rc | flush.blk.rc, 0);
	volume_script_complete(s, 3, 0);
	virtual_run_until_idle();
	assert_int_equal(late.completed, 1);
	assert_int_equal(after.completed, 1);
	assert_int_equal(late.blk.rc | after.blk.rc, 0);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		blk_close(handle[i]);
	}
	virtual_as(loop_main());
	volume_script_close(s);
}

static void
failed_sync_takes_those_it_overlapped_with_it(void **state)
{
	const int failures[] = {-EIO, -ENOSPC};

	(void)state;
	for (unsigned flushed = 0; flushed < 2; flushed++)
		for (unsigned i = 0; i < ARRAY_SIZE(failures); i++) {
			struct volume_script *s = open_fua();
			struct blk_handle *handle = open_handle(volume_script_volume(s));
			uint8_t data[512] = {1};
			struct io good, bad;

			volume_script_hold(s, true);
			io_submit(&good, handle, BLK_WRITE, BLK_FUA, 0, 512, data);
			io_submit(&bad, handle, flushed ? BLK_FLUSH : BLK_WRITE,
				flushed ? 0 : BLK_FUA, 512, flushed ? 0 : 512, data);
			virtual_run_until_idle();
			volume_script_complete(s, 0, 0);
			virtual_run_until_idle();
			assert_int_equal(good.completed, 0);
			volume_script_complete(s, 1, failures[i]);
			virtual_run_until_idle();
			assert_int_equal(bad.completed, 1);
			assert_int_equal(bad.blk.rc, failures[i]);
			assert_int_equal(good.completed, 1);
			assert_int_equal(good.blk.rc, -EIO);
			assert_true(volume_broken(volume_script_volume(s)));
			assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, 0, 512, data), -EIO);
			blk_close(handle);
			volume_script_close(s);
			virtual_run_until_idle();
		}
}

static void
failed_operation_is_not_synced(void **state)
{
	struct volume_script *s = open_cached(false, false);
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	uint8_t data[512] = {0};

	(void)state;
	volume_script_fail(s, BLK_WRITE, -EIO, 1);
	assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, 0, 512, data), -EIO);
	assert_int_equal(count_calls(s, BLK_FLUSH), 0);
	assert_false(volume_broken(volume_script_volume(s)));
	assert_int_equal(do_io(handle, BLK_READ, BLK_FUA, 0, 512, data), 0);
	assert_int_equal(count_calls(s, BLK_FLUSH), 0);
	blk_close(handle);
	volume_script_close(s);
}

static void
without_a_cache_nothing_is_synced(void **state)
{
	struct volume_script *s = volume_script_open(&(struct volume_script_options){0});
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	uint8_t data[512] = {0};

	(void)state;
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, 0, 512, data), 0);
	assert_int_equal(count_calls(s, BLK_FLUSH), 0);
	blk_close(handle);
	volume_script_close(s);
}

/* One in the driver; all who come meanwhile, from any loop, share the next. */
static void
flushes_share_the_next_sync(void **state)
{
	struct volume_script *s = open_cached(false, false);
	struct blk_handle *handle[2];
	struct io first, later[6];

	(void)state;
	volume_script_hold(s, true);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		handle[i] = open_handle(volume_script_volume(s));
	}
	virtual_as(loop_by_index(0));
	io_submit(&first, handle[0], BLK_FLUSH, 0, 0, 0, NULL);
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(s), 1);
	for (unsigned i = 0; i < 6; i++) {
		virtual_as(loop_by_index(1 - i % 2));
		io_submit(&later[i], handle[1 - i % 2], BLK_FLUSH, 0, 0, 0, NULL);
	}
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(s), 1);
	volume_script_complete(s, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(first.completed, 1);
	/* What came after the first sync began is not covered by it (B6). */
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(later[i].completed, 0);
	assert_int_equal(volume_script_calls(s), 2);
	volume_script_complete(s, 1, 0);
	virtual_run_until_idle();
	for (unsigned i = 0; i < 6; i++) {
		assert_int_equal(later[i].completed, 1);
		assert_int_equal(later[i].blk.rc, 0);
		assert_ptr_equal(later[i].on, loop_by_index(1 - i % 2));
	}
	assert_int_equal(volume_script_calls(s), 2);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		blk_close(handle[i]);
	}
	virtual_as(loop_by_index(0));
	volume_script_close(s);
}

static void
check_broken(struct blk_handle *handle, bool buffered)
{
	uint8_t data[1024] = {0};
	struct blk_extent extent;
	unsigned one = 1;

	for (unsigned again = 0; again < 2; again++) {
		assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), -EIO);
		assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 512, data), -EIO);
		assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, 0, 512, data), -EIO);
		assert_int_equal(do_io(handle, BLK_ZERO, 0, 0, 512, NULL), -EIO);
		assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, 512, NULL), -EIO);
		assert_int_equal(do_io(handle, BLK_COMPARE_WRITE, 0, 0, 512, data), -EIO);
		assert_int_equal(do_io(handle, BLK_READ, 0, 0, 512, data), buffered ? -EIO : 0);
		assert_int_equal(do_extents(handle, 0, 0, 512, &extent, &one), buffered ? -EIO : 0);
	}
	assert_false(blk_inline(handle));
}

static void
failed_sync_breaks_the_volume_for_all(void **state)
{
	(void)state;
	for (unsigned variant = 0; variant < 8; variant++) {
		bool blocking = variant & 1, buffered = variant & 2, fua = variant & 4;
		struct volume_script *s = open_cached(blocking, buffered);
		struct blk_handle *handle[2];
		struct volume_stats *stats;
		uint8_t data[512] = {0};

		for (unsigned i = 0; i < 2; i++) {
			virtual_as(loop_by_index(i));
			handle[i] = open_handle(volume_script_volume(s));
		}
		virtual_as(loop_by_index(0));
		assert_int_equal(do_io(handle[0], BLK_WRITE, 0, 0, 512, data), 0);
		volume_script_fail(s, BLK_FLUSH, -EIO, 1);
		assert_int_equal(fua ? do_io(handle[0], BLK_WRITE, BLK_FUA, 0, 512, data)
				     : do_io(handle[0], BLK_FLUSH, 0, 0, 0, NULL),
			-EIO);
		assert_true(volume_broken(volume_script_volume(s)));
		/* The driver would say success now (promises section 3): nobody asks it. */
		volume_script_forget(s);
		for (unsigned i = 0; i < 2; i++) {
			virtual_as(loop_by_index(i));
			check_broken(handle[i], buffered);
		}
		assert_int_equal(count_calls(s, BLK_FLUSH) + count_calls(s, BLK_WRITE), 0);
		stats = get_stats(volume_script_volume(s));
		assert_true(stats->broken);
		assert_memory_equal(stats->why, "flush failed with EIO at 2", 26);
		for (unsigned i = 0; i < 2; i++) {
			virtual_as(loop_by_index(i));
			blk_close(handle[i]);
		}
		virtual_as(loop_by_index(0));
		volume_script_close(s);
		virtual_run_until_idle();
	}
}

static void
enospc_on_sync_is_said_once(void **state)
{
	struct volume_script *s = open_cached(true, true);
	struct blk_handle *handle = open_handle(volume_script_volume(s));

	(void)state;
	volume_script_fail(s, BLK_FLUSH, -ENOSPC, 1);
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), -ENOSPC);
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), -EIO);
	blk_close(handle);
	volume_script_close(s);
}

static void
interrupted_sync_is_tried_again(void **state)
{
	struct volume_script *s = open_cached(true, true);
	struct blk_handle *handle = open_handle(volume_script_volume(s));

	(void)state;
	volume_script_fail(s, BLK_FLUSH, -EINTR, 3);
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(count_calls(s, BLK_FLUSH), 4);
	blk_close(handle);
	volume_script_close(s);
}

/* Two flushes on two loops: the first fails, and the one that waited is not made a success. */
static void
who_waits_behind_a_failure_fails(void **state)
{
	struct volume_script *s = open_cached(false, false);
	struct blk_handle *handle[2];
	uint8_t data[512] = {0};
	struct io io[2], write;

	(void)state;
	volume_script_hold(s, true);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		handle[i] = open_handle(volume_script_volume(s));
		io_submit(&io[i], handle[i], BLK_FLUSH, 0, 0, 0, NULL);
	}
	io_submit(&write, handle[1], BLK_WRITE, 0, 0, 512, data);
	virtual_run_until_idle();
	assert_int_equal(count_calls(s, BLK_FLUSH), 1);
	for (unsigned i = 0; i < volume_script_calls(s); i++)
		if (volume_script_call(s, i)->op == BLK_FLUSH)
			volume_script_complete(s, i, -EIO);
	virtual_run_until_idle();
	volume_script_complete_all(s, 0);
	virtual_run_until_idle();
	assert_int_equal(io[0].blk.rc, -EIO);
	assert_int_equal(io[1].completed, 1);
	assert_int_equal(io[1].blk.rc, -EIO);
	assert_int_equal(count_calls(s, BLK_FLUSH), 1);
	/* The latch is looked at last: also for a write that was in flight. */
	assert_int_equal(write.blk.rc, -EIO);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		blk_close(handle[i]);
	}
	virtual_as(loop_by_index(0));
	volume_script_close(s);
}

/* Whoever pauses gets his turn although syncs are asked for all the time; none is lost. */
static void
pause_comes_before_those_who_wait(void **state)
{
	struct volume_script *s = open_cached(false, false);
	struct volume *volume = volume_script_volume(s);
	struct blk_handle *handle;
	struct io io[3];

	(void)state;
	virtual_as(loop_by_index(0));
	handle = open_handle(volume);
	volume_script_hold(s, true);
	for (unsigned i = 0; i < 2; i++)
		io_submit(&io[i], handle, BLK_FLUSH, 0, 0, 0, NULL);
	virtual_as(loop_main());
	assert_false(sync_pause(volume));
	virtual_as(loop_by_index(0));
	volume_script_complete(s, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(io[0].completed, 1);
	assert_int_equal(volume_script_calls(s), 1);
	io_submit(&io[2], handle, BLK_FLUSH, 0, 0, 0, NULL);
	virtual_as(loop_main());
	assert_true(sync_pause(volume));
	sync_resume(volume);
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(s), 2);
	virtual_as(loop_by_index(0));
	volume_script_complete(s, 1, 0);
	virtual_run_until_idle();
	assert_int_equal(io[1].completed, 1);
	assert_int_equal(io[2].completed, 1);
	/* Given up while one is still on its way. */
	io_submit(&io[0], handle, BLK_FLUSH, 0, 0, 0, NULL);
	virtual_as(loop_main());
	assert_false(sync_pause(volume));
	sync_resume(volume);
	virtual_as(loop_by_index(0));
	io_submit(&io[1], handle, BLK_FLUSH, 0, 0, 0, NULL);
	volume_script_complete(s, 2, 0);
	virtual_run_until_idle();
	volume_script_complete(s, 3, 0);
	virtual_run_until_idle();
	assert_int_equal(io[0].completed & io[1].completed, 1);
	blk_close(handle);
	virtual_as(loop_main());
	volume_script_close(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(fua_is_the_operation_then_a_sync, settle),
		cmocka_unit_test_teardown(fua_write_of_the_driver_is_one_step, settle),
		cmocka_unit_test_teardown(success_waits_for_overlapping_syncs, settle),
		cmocka_unit_test_teardown(failed_sync_takes_those_it_overlapped_with_it, settle),
		cmocka_unit_test_teardown(failed_operation_is_not_synced, settle),
		cmocka_unit_test_teardown(without_a_cache_nothing_is_synced, settle),
		cmocka_unit_test_teardown(flushes_share_the_next_sync, settle),
		cmocka_unit_test_teardown(failed_sync_breaks_the_volume_for_all, settle),
		cmocka_unit_test_teardown(enospc_on_sync_is_said_once, settle),
		cmocka_unit_test_teardown(interrupted_sync_is_tried_again, settle),
		cmocka_unit_test_teardown(who_waits_behind_a_failure_fails, settle),
		cmocka_unit_test_teardown(pause_comes_before_those_who_wait, settle),
	};

	return cmocka_run_group_tests_name("sync", tests, setup_loops, teardown_loops);
}
