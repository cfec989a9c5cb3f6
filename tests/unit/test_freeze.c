/* storage/freeze.c, and COMPARE_WRITE as its first user. */
#include "config.h"

#include "storage_test.h"

#include <errno.h>

#include "../../storage/storage.h"
#include "volume_script.h"

struct owner {
	struct freeze freeze;
	unsigned called;
	int rc;
	struct loop *on;
};

static void
on_ready(struct freeze *freeze, int rc)
{
	struct owner *owner = container_of(freeze, struct owner, freeze);

	owner->called++;
	owner->rc = rc;
	owner->on = loop_current();
}

static void
start_owner(struct owner *owner, struct volume *volume, uint64_t offset, uint64_t length,
	enum freeze_mode mode)
{
	owner->called = 0;
	owner->rc = 1;
	freeze_start(&owner->freeze, volume, offset, length, mode, on_ready);
	assert_int_equal(owner->called, 0);
}

struct two {
	struct volume_script *script;
	struct volume *volume;
	struct blk_handle *handle[2];
};

static struct two
open_two(void)
{
	struct two two = {.script = volume_script_open(&(struct volume_script_options){
				  .missing = 1u << BLK_COMPARE_WRITE})};

	two.volume = volume_script_volume(two.script);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		two.handle[i] = open_handle(two.volume);
	}
	virtual_as(loop_by_index(0));
	return two;
}

static void
close_two(struct two *two)
{
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		blk_close(two->handle[i]);
	}
	virtual_as(loop_by_index(0));
	volume_script_close(two->script);
}

static void
waits_for_what_is_in_flight_on_every_loop(void **state)
{
	struct two two = open_two();
	uint8_t data[512] = {0};
	struct owner owner;
	struct io io[2], beside;

	(void)state;
	volume_script_hold(two.script, true);
	io_submit(&beside, two.handle[0], BLK_WRITE, 0, 8192, 512, data);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		io_submit(&io[i], two.handle[i], BLK_WRITE, 0, 512 * i, 512, data);
	}
	virtual_as(loop_by_index(0));
	start_owner(&owner, two.volume, 0, 1024, FREEZE_WRITES);
	virtual_run_until_idle();
	assert_int_equal(owner.called, 0);
	volume_script_complete(two.script, 2, 0);
	virtual_run_until_idle();
	assert_int_equal(owner.called, 0);
	volume_script_complete(two.script, 1, -EIO);
	virtual_run_until_idle();
	/* What is beside the range does not matter. */
	assert_int_equal(owner.called, 1);
	assert_int_equal(owner.rc, 0);
	assert_ptr_equal(owner.on, loop_by_index(0));
	assert_int_equal(beside.completed, 0);
	volume_script_complete(two.script, 0, 0);
	virtual_as(loop_by_index(0));
	freeze_release(&owner.freeze);
	virtual_run_until_idle();
	close_two(&two);
}

static void
holds_what_it_concerns_and_nothing_else(void **state)
{
	struct two two = open_two();
	uint8_t data[512] = {0};
	struct owner owner;
	struct io held[3], pass[4];

	(void)state;
	for (unsigned all = 0; all < 2; all++) {
		virtual_as(loop_by_index(0));
		start_owner(&owner, two.volume, 512, 512, all ? FREEZE_ALL : FREEZE_WRITES);
		virtual_run_until_idle();
		assert_int_equal(owner.called, 1);
		virtual_as(loop_by_index(1));
		assert_false(blk_inline(two.handle[1]));
		io_submit(&held[0], two.handle[1], BLK_WRITE, 0, 1023, 1, data);
		io_submit(&held[1], two.handle[1], BLK_DISCARD, 0, 0, MIB, NULL);
		io_submit(&held[2], two.handle[1], BLK_READ, 0, 512, 512, data);
		io_submit(&pass[0], two.handle[1], BLK_WRITE, 0, 1024, 512, data);
		io_submit(&pass[1], two.handle[1], BLK_WRITE, 0, 0, 512, data);
		io_submit(&pass[2], two.handle[1], BLK_READ, 0, 0, 512, data);
		io_submit(&pass[3], two.handle[1], BLK_FLUSH, 0, 0, 0, NULL);
		virtual_run_until_idle();
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(pass[i].completed, 1);
		assert_int_equal(held[0].completed + held[1].completed, 0);
		assert_int_equal(held[2].completed, !all);
		virtual_as(loop_by_index(0));
		freeze_release(&owner.freeze);
		virtual_run_until_idle();
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(held[i].completed, 1);
			assert_int_equal(held[i].blk.rc, 0);
		}
		virtual_as(loop_by_index(1));
		assert_true(blk_inline(two.handle[1]));
	}
	close_two(&two);
}

static void
released_requests_are_checked_again(void **state)
{
	struct two two = open_two();
	uint8_t data[512] = {0};
	struct owner owner;
	struct io io;

	(void)state;
	start_owner(&owner, two.volume, 0, MIB, FREEZE_ALL);
	virtual_run_until_idle();
	io_submit(&io, two.handle[0], BLK_WRITE, 0, 0, 512, data);
	volume_set_going(two.volume);
	freeze_release(&owner.freeze);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	assert_int_equal(io.blk.rc, -ESHUTDOWN);
	assert_int_equal(volume_script_calls(two.script), 0);
	close_two(&two);
}

static void
overlapping_freezes_queue(void **state)
{
	struct two two = open_two();
	struct owner owner[4];

	(void)state;
	start_owner(&owner[0], two.volume, 0, 1024, FREEZE_ALL);
	virtual_as(loop_by_index(1));
	start_owner(&owner[1], two.volume, 512, 1024, FREEZE_WRITES);
	start_owner(&owner[2], two.volume, 1024, 1024, FREEZE_ALL); /* behind the second only */
	start_owner(&owner[3], two.volume, 8192, 512, FREEZE_ALL);
	virtual_run_until_idle();
	assert_int_equal(owner[0].called, 1);
	assert_int_equal(owner[1].called, 0);
	assert_int_equal(owner[2].called, 0);
	assert_int_equal(owner[3].called, 1);
	virtual_as(loop_by_index(0));
	freeze_release(&owner[0].freeze);
	virtual_run_until_idle();
	assert_int_equal(owner[1].called, 1);
	assert_ptr_equal(owner[1].on, loop_by_index(1));
	assert_int_equal(owner[2].called, 0);
	virtual_as(loop_by_index(1));
	freeze_release(&owner[1].freeze);
	virtual_run_until_idle();
	assert_int_equal(owner[2].called, 1);
	freeze_release(&owner[2].freeze);
	freeze_release(&owner[3].freeze);
	virtual_run_until_idle();
	close_two(&two);
}

static void
range_is_rounded_to_physical_blocks(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.physical_block_size = 4096});
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	uint8_t data[512] = {0};
	struct owner owner;
	struct io io, beside;

	(void)state;
	start_owner(&owner, volume_script_volume(s), 5000, 1, FREEZE_ALL);
	virtual_run_until_idle();
	io_submit(&io, handle, BLK_WRITE, 0, 4096, 512, data);
	io_submit(&beside, handle, BLK_WRITE, 0, 8192, 512, data);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 0);
	assert_int_equal(beside.completed, 1);
	freeze_release(&owner.freeze);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	blk_close(handle);
	volume_script_close(s);
}

static void
gives_up_after_its_time(void **state)
{
	struct two two = open_two();
	uint8_t data[512] = {0};
	struct owner owner, behind;
	struct io stuck, held;

	(void)state;
	volume_script_hold(two.script, true);
	io_submit(&stuck, two.handle[1], BLK_WRITE, 0, 0, 512, data);
	start_owner(&owner, two.volume, 0, 512, FREEZE_ALL);
	virtual_run_until_idle();
	io_submit(&held, two.handle[0], BLK_WRITE, 0, 0, 512, data);
	virtual_advance(LIMIT_FREEZE_WAIT / 2);
	start_owner(&behind, two.volume, 0, 512, FREEZE_ALL);
	assert_int_equal(owner.called, 0);
	virtual_advance(LIMIT_FREEZE_WAIT / 2 + 2 * SECOND_NS);
	assert_int_equal(owner.called, 1);
	assert_int_equal(owner.rc, -ETIMEDOUT);
	/* The next in the queue waits on, and what is held with it. */
	assert_int_equal(behind.called, 0);
	assert_int_equal(held.completed, 0);
	volume_script_complete_all(two.script, 0);
	virtual_run_until_idle();
	assert_int_equal(behind.called, 1);
	assert_int_equal(behind.rc, 0);
	freeze_release(&behind.freeze);
	virtual_run_until_idle();
	volume_script_complete_all(two.script, 0);
	virtual_run_until_idle();
	assert_int_equal(held.completed, 1);
	close_two(&two);
}

static void
late_loop_inherits_the_freeze(void **state)
{
	struct volume_script *s = volume_script_open(&(struct volume_script_options){0});
	struct blk_handle *handle[2];
	uint8_t data[512] = {0};
	struct owner owner;
	struct io io;

	(void)state;
	handle[0] = open_handle(volume_script_volume(s));
	start_owner(&owner, volume_script_volume(s), 0, MIB, FREEZE_ALL);
	virtual_run_until_idle();
	virtual_as(loop_by_index(1));
	handle[1] = open_handle(volume_script_volume(s));
	io_submit(&io, handle[1], BLK_READ, 0, 0, 512, data);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 0);
	virtual_as(loop_by_index(0));
	freeze_release(&owner.freeze);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	blk_close(handle[0]);
	virtual_as(loop_by_index(1));
	blk_close(handle[1]);
	virtual_as(loop_by_index(0));
	volume_script_close(s);
}

/* Increments from two loops: none gets lost, so each was one action. */
static void
compare_and_writes_are_atomic(void **state)
{
	struct two two = open_two();
	uint8_t data[8][1024];
	struct io io[8];
	unsigned wins = 0;

	(void)state;
	for (unsigned round = 0; round < 8; round++) {
		for (unsigned i = 0; i < 8; i++) {
			memset(data[i], (int)round, 512);
			memset(data[i] + 512, (int)round + 1, 512);
			virtual_as(loop_by_index(i % 2));
			io_submit(&io[i], two.handle[i % 2], BLK_COMPARE_WRITE, 0, 4096, 512,
				data[i]);
		}
		virtual_run_until_idle();
		for (unsigned i = 0; i < 8; i++) {
			assert_int_equal(io[i].completed, 1);
			wins += io[i].blk.rc == 0;
			if (io[i].blk.rc)
				assert_int_equal(io[i].blk.rc, -EILSEQ);
		}
		assert_int_equal(wins, round + 1);
	}
	assert_int_equal(volume_script_data(two.script)[4096], 8);
	close_two(&two);
}

static void
compare_and_write_gives_up_in_time(void **state)
{
	struct two two = open_two();
	uint8_t data[1024] = {0};
	struct io stuck, compare;

	(void)state;
	volume_script_hold(two.script, true);
	io_submit(&stuck, two.handle[1], BLK_WRITE, 0, 0, 512, data);
	io_submit(&compare, two.handle[0], BLK_COMPARE_WRITE, 0, 0, 512, data);
	virtual_advance(LIMIT_FREEZE_WAIT + 2 * SECOND_NS);
	assert_int_equal(compare.completed, 1);
	assert_int_equal(compare.blk.rc, -ETIMEDOUT);
	volume_script_complete_all(two.script, 0);
	virtual_run_until_idle();
	assert_int_equal(stuck.completed, 1);
	close_two(&two);
}

/*
 * A request that finds the volume frozen only when it freezes a part itself waits behind that freeze:
 * what is true after it is what counts (B9), here a volume that was made smaller.
 */
static void
emulation_is_checked_again_behind_a_freeze(void **state)
{
	struct two two = open_two();
	uint8_t data[1024] = {0};
	struct io compare;
	struct owner owner;
	unsigned calls;

	(void)state;
	virtual_as(loop_by_index(1));
	start_owner(&owner, two.volume, 0, MIB, FREEZE_ALL);
	/* The other loop has not been told yet. */
	virtual_as(loop_by_index(0));
	io_submit(&compare, two.handle[0], BLK_COMPARE_WRITE, 0, MIB - 512, 512, data);
	virtual_run_until_idle();
	assert_int_equal(owner.called, 1);
	assert_int_equal(owner.rc, 0);
	assert_int_equal(compare.completed, 0);
	calls = volume_script_calls(two.script);
	atomic_store(&two.volume->size, MIB / 2);
	virtual_as(loop_by_index(1));
	freeze_release(&owner.freeze);
	virtual_run_until_idle();
	assert_int_equal(compare.completed, 1);
	assert_int_equal(compare.blk.rc, -ERANGE);
	assert_int_equal(volume_script_calls(two.script), calls);
	/* It left no freeze behind. */
	virtual_as(loop_by_index(0));
	assert_int_equal(do_io(two.handle[0], BLK_WRITE, 0, 0, 512, data), 0);
	atomic_store(&two.volume->size, MIB);
	close_two(&two);
}

/* What a lost client left in the kernel is waited for by who comes to the same blocks, however long it
 * takes; others' blocks are free. */
static void
abandoned_write_goes_before_later_requests(void **state)
{
	struct two two = open_two();
	uint8_t data[512] = {1}, later[512] = {2}, seen[512];
	struct io left, write[2], read, beside;

	(void)state;
	volume_script_hold(two.script, true);
	io_submit(&left, two.handle[0], BLK_WRITE, 0, 512, 512, data);
	blk_abandon(&left.blk);
	blk_abandon(&left.blk); /* harmless */
	virtual_run_until_idle();
	volume_script_hold(two.script, false);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		io_submit(&write[i], two.handle[i], BLK_ZERO, 0, 0, 1024, NULL);
	}
	io_submit(&read, two.handle[1], BLK_READ, 0, 512, 512, seen);
	io_submit(&beside, two.handle[1], BLK_WRITE, 0, 1024, 512, later);
	virtual_advance(3 * LIMIT_FREEZE_WAIT);
	assert_int_equal(beside.completed, 1);
	assert_int_equal(write[0].completed + write[1].completed + read.completed, 0);
	volume_script_complete(two.script, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(left.completed, 1);
	assert_int_equal(write[0].completed + write[1].completed + read.completed, 3);
	assert_true(left.order < write[0].order && left.order < read.order);
	assert_int_equal(do_io(two.handle[1], BLK_READ, 0, 512, 512, seen), 0);
	close_two(&two);
}

/* It has not begun: it is taken back, and nobody waits for it longer than for what it waited for. */
static void
abandoned_write_in_a_frozen_range(void **state)
{
	struct two two = open_two();
	uint8_t data[512] = {1}, seen[512];
	struct owner owner;
	struct io left, part, rest;

	(void)state;
	start_owner(&owner, two.volume, 0, 512, FREEZE_ALL);
	virtual_run_until_idle();
	io_submit(&left, two.handle[0], BLK_COMPARE_WRITE, 0, 0, 512, (uint8_t[1024]){0});
	blk_abandon(&left.blk);
	io_submit(&part, two.handle[0], BLK_WRITE, 0, 0, 512, data);
	io_submit(&rest, two.handle[0], BLK_WRITE, 0, 512, 512, data);
	virtual_run_until_idle();
	assert_int_equal(left.completed, 1);
	assert_int_equal(left.blk.rc, -ETIMEDOUT);
	assert_int_equal(part.completed, 0);
	assert_int_equal(rest.completed, 1);
	freeze_release(&owner.freeze);
	virtual_run_until_idle();
	assert_int_equal(part.completed, 1);
	assert_int_equal(do_io(two.handle[0], BLK_READ, 0, 0, 512, seen), 0);
	assert_memory_equal(seen, data, 512);
	close_two(&two);
}

/* A freeze that it overlaps and that came first: nothing slips into the rest of its range. */
static void
abandoned_write_behind_a_freeze(void **state)
{
	struct two two = open_two();
	uint8_t data[1024] = {1};
	struct owner owner;
	struct io left, rest;

	(void)state;
	volume_script_hold(two.script, true);
	io_submit(&left, two.handle[0], BLK_WRITE, 0, 0, 1024, data);
	start_owner(&owner, two.volume, 0, 512, FREEZE_ALL);
	blk_abandon(&left.blk);
	virtual_run_until_idle();
	volume_script_hold(two.script, false);
	io_submit(&rest, two.handle[0], BLK_WRITE, 0, 512, 512, data);
	virtual_run_until_idle();
	assert_int_equal(rest.completed, 0);
	volume_script_complete(two.script, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(owner.called, 1);
	assert_int_equal(owner.rc, 0);
	freeze_release(&owner.freeze);
	virtual_run_until_idle();
	assert_int_equal(rest.completed, 1);
	close_two(&two);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(waits_for_what_is_in_flight_on_every_loop, settle),
		cmocka_unit_test_teardown(holds_what_it_concerns_and_nothing_else, settle),
		cmocka_unit_test_teardown(released_requests_are_checked_again, settle),
		cmocka_unit_test_teardown(overlapping_freezes_queue, settle),
		cmocka_unit_test_teardown(range_is_rounded_to_physical_blocks, settle),
		cmocka_unit_test_teardown(gives_up_after_its_time, settle),
		cmocka_unit_test_teardown(late_loop_inherits_the_freeze, settle),
		cmocka_unit_test_teardown(compare_and_writes_are_atomic, settle),
		cmocka_unit_test_teardown(compare_and_write_gives_up_in_time, settle),
		cmocka_unit_test_teardown(emulation_is_checked_again_behind_a_freeze, settle),
		cmocka_unit_test_teardown(abandoned_write_goes_before_later_requests, settle),
		cmocka_unit_test_teardown(abandoned_write_in_a_frozen_range, settle),
		cmocka_unit_test_teardown(abandoned_write_behind_a_freeze, settle),
	};

	return cmocka_run_group_tests_name("freeze", tests, setup_loops, teardown_loops);
}
