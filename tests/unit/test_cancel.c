/* blk_cancel(), B10: each place where a request can be when nobody wants it any more. */
#include "config.h"

#include "storage_test.h"

#include <errno.h>
#include <stdio.h>

#include "../../storage/storage.h"
#include "fault.h"
#include "qos.h"
#include "volume_script.h"

static struct volume_script *script;
static struct volume *volume;
static struct blk_handle *handle;
static uint8_t data[8192];

static void
begin(const struct volume_script_options *options)
{
	script = volume_script_open(options);
	volume = volume_script_volume(script);
	handle = open_handle(volume);
	memset(data, 0x5a, sizeof(data));
}

static void
end(void)
{
	virtual_run_until_idle();
	blk_close(handle);
	volume_script_close(script);
	virtual_run_until_idle();
}

/* Cancels it, which is never an end inside, and twice, which is the same as once. */
static void
cancel(struct io *io)
{
	blk_cancel(&io->blk);
	blk_cancel(&io->blk);
	assert_int_equal(io->completed, 0);
}

static void
expect_taken_back(struct io *io)
{
	cancel(io);
	virtual_run_until_idle();
	assert_int_equal(io->completed, 1);
	assert_int_equal(io->blk.rc, -ETIMEDOUT);
	assert_int_equal(volume_script_calls(script), 0);
	assert_int_equal(get_stats(volume)->broken, false);
}

static void
set_faults(const char *rules)
{
	struct error error;

	assert_int_equal(volume_fault_set(volume, rules, &error), 0);
	volume_layers_apply(volume);
}

static void
set_rate(uint64_t iops, uint64_t bps)
{
	struct conf_qos qos = {.iops = iops, .iops_burst = 1, .bps = bps, .bps_burst = 1};
	struct error error;

	assert_int_equal(volume_qos_set(volume, &qos, &error), 0);
	volume_layers_apply(volume);
}

/* One operation a second, and one at once: both are gone. */
static void
use_up_the_rate(unsigned flags)
{
	set_rate(1, 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(do_io(handle, BLK_WRITE, flags, 0, 512, data), 0);
	volume_script_forget(script);
}

static void
outside_of_the_block_layer_it_is_harmless(void **state)
{
	struct io io = {0};

	(void)state;
	begin(&(struct volume_script_options){0});
	blk_cancel(&io.blk);
	io_submit(&io, handle, BLK_WRITE, 0, 0, 512, data);
	/* Done, and the word on its way. */
	cancel(&io);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	assert_int_equal(io.blk.rc, 0);
	blk_cancel(&io.blk);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	/* The object's next request is another one. */
	io_submit(&io, handle, BLK_WRITE, 0, 0, 512, data);
	virtual_run_until_idle();
	assert_int_equal(io.blk.rc, 0);
	end();
}

static void
driver_that_can_takes_it_back(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){.cancels = true});
	volume_script_hold(script, true);
	io_submit(&io, handle, BLK_WRITE, 0, 0, 512, data);
	assert_int_equal(volume_script_held(script), 1);
	cancel(&io);
	assert_int_equal(volume_script_held(script), 0);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	assert_int_equal(io.blk.rc, -ETIMEDOUT);
	assert_int_equal(volume_script_data(script)[0], 0);
	end();
}

static void
driver_that_cannot_completes_it(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){0});
	volume_script_hold(script, true);
	io_submit(&io, handle, BLK_WRITE, 0, 0, 512, data);
	cancel(&io);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 0);
	volume_script_complete(script, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	assert_int_equal(io.blk.rc, 0);
	assert_int_equal(volume_script_data(script)[0], 0x5a);
	end();
}

static void
on_frozen(struct freeze *freeze, int rc)
{
	(void)freeze;
	assert_int_equal(rc, 0);
}

static void
at_a_frozen_range(void **state)
{
	struct freeze freeze;
	struct io io[3];

	(void)state;
	begin(&(struct volume_script_options){0});
	freeze_start(&freeze, volume, 0, 4096, FREEZE_WRITES, on_frozen);
	virtual_run_until_idle();
	for (unsigned i = 0; i < 3; i++)
		io_submit(&io[i], handle, BLK_WRITE, 0, 512 * i, 512, data);
	expect_taken_back(&io[1]);
	assert_int_equal(io[0].completed + io[2].completed, 0);
	freeze_release(&freeze);
	virtual_run_until_idle();
	for (unsigned i = 0; i < 3; i += 2) {
		assert_int_equal(io[i].completed, 1);
		assert_int_equal(io[i].blk.rc, 0);
	}
	assert_int_equal(volume_script_calls(script), 2);
	/* The freeze is over for the one taken back too: nothing remembers it. */
	assert_int_equal(volume_script_data(script)[512], 0);
	end();
}

static void
at_the_rate(void **state)
{
	struct io first, io[3];

	(void)state;
	begin(&(struct volume_script_options){0});
	use_up_the_rate(0);
	for (unsigned i = 0; i < 3; i++)
		io_submit(&io[i], handle, BLK_WRITE, 0, 512 * i, 512, data);
	/* From the middle, the end and the beginning of those that wait. */
	expect_taken_back(&io[1]);
	expect_taken_back(&io[2]);
	expect_taken_back(&io[0]);
	virtual_advance(10 * SECOND_NS);
	assert_int_equal(volume_script_calls(script), 0);
	/* Who comes now finds a clock that runs. */
	io_submit(&first, handle, BLK_WRITE, 0, 0, 512, data);
	io_submit(&io[0], handle, BLK_WRITE, 0, 512, 512, data);
	virtual_advance(10 * SECOND_NS);
	assert_int_equal(first.completed + io[0].completed, 2);
	end();
}

/* With a sync of its own that never began: nothing is broken by that. */
static void
at_the_rate_with_fua(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){.volatile_cache = true, .fua = true});
	use_up_the_rate(BLK_FUA);
	io_submit(&io, handle, BLK_WRITE, BLK_FUA, 0, 512, data);
	expect_taken_back(&io);
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
	end();
}

static void
between_pieces_that_are_paid_for(void **state)
{
	static uint8_t much[1 << 20];
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){0});
	set_rate(0, 128 * KIB);
	io_submit(&io, handle, BLK_WRITE, 0, 0, sizeof(much), much);
	virtual_advance(3 * SECOND_NS);
	assert_int_equal(io.completed, 0);
	expect_taken_back(&io);
	end();
}

static void
in_a_latency(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){0});
	set_faults("write latency=30s");
	io_submit(&io, handle, BLK_WRITE, 0, 0, 512, data);
	expect_taken_back(&io);
	/* Its end would have been an error. */
	set_faults("write errno=EIO latency=30s");
	io_submit(&io, handle, BLK_WRITE, 0, 0, 512, data);
	expect_taken_back(&io);
	/* Of a part. */
	set_faults("write errno=EIO short=512 latency=30s");
	io_submit(&io, handle, BLK_WRITE, 0, 0, 1024, data);
	expect_taken_back(&io);
	end();
}

/* A late latency is that of a disk that did it already: as the kernel, it gives nothing back. */
static void
in_a_late_latency(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){0});
	set_faults("write late=on latency=30s");
	io_submit(&io, handle, BLK_WRITE, 0, 0, 512, data);
	virtual_run_until_idle();
	cancel(&io);
	virtual_advance(29 * SECOND_NS);
	assert_int_equal(io.completed, 0);
	virtual_advance(2 * SECOND_NS);
	assert_int_equal(io.completed, 1);
	assert_int_equal(io.blk.rc, 0);
	end();
}

static void
part_that_the_driver_has(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){.cancels = true});
	set_faults("write errno=EIO short=512");
	volume_script_hold(script, true);
	io_submit(&io, handle, BLK_WRITE, 0, 0, 1024, data);
	assert_int_equal(volume_script_held(script), 1);
	cancel(&io);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	assert_int_equal(io.blk.rc, -ETIMEDOUT);
	end();
}

static void
at_the_workers(void **state)
{
	struct io io[4];

	(void)state;
	begin(&(struct volume_script_options){.blocking = true});
	work_inline_hold(true);
	/* Of this turn's batch: one of it, then all of it. */
	io_submit(&io[0], handle, BLK_WRITE, 0, 0, 512, data);
	io_submit(&io[1], handle, BLK_WRITE, 0, 512, 512, data);
	cancel(&io[1]);
	cancel(&io[0]);
	virtual_run_until_idle();
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(io[i].completed, 1);
		assert_int_equal(io[i].blk.rc, -ETIMEDOUT);
	}
	/* Handed over, and not begun: the middle, the end. */
	for (unsigned i = 0; i < 4; i++)
		io_submit(&io[i], handle, BLK_WRITE, 0, 512 * i, 512, data);
	virtual_run_until_idle();
	expect_taken_back(&io[1]);
	expect_taken_back(&io[3]);
	io_submit(&io[1], handle, BLK_WRITE, 0, 512, 512, data);
	virtual_run_until_idle();
	work_inline_hold(false);
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(script), 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(io[i].blk.rc, 0);
	end();
}

/* What it waits for may belong to another: that one goes on. */
static void
write_of_half_a_block_that_waits_for_its_range(void **state)
{
	struct freeze freeze;
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){.alignment = 512});
	freeze_start(&freeze, volume, 0, 4096, FREEZE_WRITES, on_frozen);
	virtual_run_until_idle();
	volume_script_hold(script, true);
	io_submit(&io, handle, BLK_WRITE, 0, 100, 100, data);
	virtual_run_until_idle();
	expect_taken_back(&io);
	freeze_release(&freeze);
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(script), 0);
	/* And a range that waits for what is in flight. */
	io_submit(&io, handle, BLK_WRITE, 0, 512, 512, data);
	{
		struct io second;

		io_submit(&second, handle, BLK_WRITE, 0, 600, 100, data);
		virtual_run_until_idle();
		cancel(&second);
		virtual_run_until_idle();
		assert_int_equal(second.completed, 1);
		assert_int_equal(second.blk.rc, -ETIMEDOUT);
	}
	volume_script_complete_all(script, 0);
	virtual_run_until_idle();
	assert_int_equal(io.blk.rc, 0);
	volume_script_hold(script, false);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 600, 100, data), 0);
	end();
}

/* COMPARE_WRITE: read, then write. After a cancel in the first step there is no second one. */
static void
no_further_step_is_begun(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){.missing = 1u << BLK_COMPARE_WRITE});
	memset(data, 0, 512);
	volume_script_hold(script, true);
	io_submit(&io, handle, BLK_COMPARE_WRITE, 0, 0, 512, data);
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(script), 1);
	assert_int_equal(volume_script_call(script, 0)->op, BLK_READ);
	cancel(&io);
	virtual_run_until_idle();
	/* This driver does not give the read back. */
	assert_int_equal(io.completed, 0);
	volume_script_complete(script, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	assert_int_equal(io.blk.rc, -ETIMEDOUT);
	assert_int_equal(volume_script_calls(script), 1);
	/* Its range is free again. */
	volume_script_hold(script, false);
	assert_int_equal(do_io(handle, BLK_COMPARE_WRITE, 0, 0, 512, data), 0);
	end();
}

/* Zeroes by pieces of LIMIT_IOBUF_PIECE: those that were written stay, those that were not are not. */
static void
long_request_ends_between_its_pieces(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){.size = 8 * MIB, .missing = 1u << BLK_ZERO});
	memset(volume_script_data(script), 0xff, 8 * MIB);
	volume_script_hold(script, true);
	io_submit(&io, handle, BLK_ZERO, 0, 0, 8 * MIB, NULL);
	virtual_run_until_idle();
	volume_script_complete(script, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(script), 2);
	cancel(&io);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 0);
	volume_script_complete(script, 1, 0);
	virtual_run_until_idle();
	assert_int_equal(io.blk.rc, -ETIMEDOUT);
	assert_int_equal(volume_script_calls(script), 2);
	assert_int_equal(volume_script_data(script)[2 * LIMIT_IOBUF_PIECE - 1], 0);
	assert_int_equal(volume_script_data(script)[2 * LIMIT_IOBUF_PIECE], 0xff);
	end();
}

/* A sync that has begun is many clients'; who only waits for the next one leaves. */
static void
flush_that_waits_for_the_next_sync(void **state)
{
	struct io io[3];

	(void)state;
	for (unsigned layers = 0; layers < 2; layers++) {
		begin(&(struct volume_script_options){.volatile_cache = true});
		if (layers)
			set_faults("read errno=EIO");
		volume_script_hold(script, true);
		for (unsigned i = 0; i < 3; i++)
			io_submit(&io[i], handle, BLK_FLUSH, 0, 0, 0, NULL);
		virtual_run_until_idle();
		assert_int_equal(volume_script_held(script), 1);
		for (unsigned i = 0; i < 3; i++)
			cancel(&io[i]);
		virtual_run_until_idle();
		assert_int_equal(io[0].completed, 0);
		for (unsigned i = 1; i < 3; i++) {
			assert_int_equal(io[i].completed, 1);
			assert_int_equal(io[i].blk.rc, -ETIMEDOUT);
		}
		volume_script_complete(script, 0, 0);
		virtual_run_until_idle();
		assert_int_equal(io[0].blk.rc, 0);
		assert_int_equal(volume_script_calls(script), 1);
		/* The next one finds a sync that can begin. */
		volume_script_hold(script, false);
		assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
		end();
	}
}

/* The one whose loop was asked to carry the sync stays; those behind it may go. */
static void
flush_that_carries_others(void **state)
{
	struct blk_handle *other;
	struct io first, second;

	(void)state;
	begin(&(struct volume_script_options){.volatile_cache = true});
	virtual_as(loop_by_index(1));
	other = open_handle(volume);
	virtual_as(loop_by_index(0));
	volume_script_hold(script, true);
	io_submit(&first, handle, BLK_FLUSH, 0, 0, 0, NULL);
	virtual_run_until_idle();
	virtual_as(loop_by_index(1));
	io_submit(&second, other, BLK_FLUSH, 0, 0, 0, NULL);
	virtual_as(loop_by_index(0));
	volume_script_complete(script, 0, 0);
	/* Loop 0 ends the first sync and posts the second to loop 1, which has not run yet. */
	while (virtual_loop_turn(loop_by_index(0)))
		;
	virtual_as(loop_by_index(1));
	cancel(&second);
	virtual_as(loop_by_index(0));
	volume_script_hold(script, false);
	virtual_run_until_idle();
	assert_int_equal(first.blk.rc, 0);
	assert_int_equal(second.completed, 1);
	assert_int_equal(second.blk.rc, 0);
	virtual_as(loop_by_index(1));
	blk_close(other);
	virtual_as(loop_by_index(0));
	end();
}

/* After the operation itself there is only the sync left, which is not given up. */
static void
fua_that_waits_for_its_sync(void **state)
{
	struct io io;

	(void)state;
	begin(&(struct volume_script_options){.volatile_cache = true, .cancels = true});
	volume_script_hold(script, true);
	io_submit(&io, handle, BLK_WRITE, BLK_FUA, 0, 512, data);
	volume_script_complete(script, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(volume_script_held(script), 1);
	cancel(&io);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 0);
	volume_script_complete(script, 1, 0);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	assert_int_equal(io.blk.rc, 0);
	end();
}

/* Random requests and cancels at random moments: each completes once, and the volume is whole after. */
static void
completes_once_whenever_it_is_cancelled(void **state)
{
	static uint8_t buffers[32][8192];
	static struct io io[32];
	unsigned seed = (unsigned)(clock_wall() ^ (uint64_t)(uintptr_t)&seed);
	unsigned taken = 0, done = 0;

	(void)state;
	print_message("seed %u\n", seed);
	srand(seed);
	begin(&(struct volume_script_options){.alignment = 512,
		.volatile_cache = true,
		.fua = true,
		.cancels = true,
		.missing = 1u << BLK_COMPARE_WRITE | 1u << BLK_ZERO});
	set_faults("all latency=uniform:0us-500us probability=30; "
		   "all client=test late=on latency=100us probability=10");
	memset(io, 0, sizeof(io));
	for (unsigned n = 0; n < 20000; n++) {
		struct io *one = &io[(unsigned)rand() % 32];
		unsigned what = (unsigned)rand() % 100;

		if (what < 40 && !(one->blk.state & STATE_OWNED)) {
			static const enum blk_op ops[] = {BLK_READ, BLK_WRITE, BLK_WRITE, BLK_ZERO,
				BLK_DISCARD, BLK_FLUSH, BLK_COMPARE_WRITE, BLK_PREFETCH};
			enum blk_op op = ops[(unsigned)rand() % ARRAY_SIZE(ops)];
			uint64_t offset = (unsigned)rand() % 8192;

			if (one->completed) {
				assert_int_equal(one->completed, 1);
				taken += one->blk.rc == -ETIMEDOUT;
				done += one->blk.rc != -ETIMEDOUT;
			}
			io_submit(one, handle, op, (unsigned)rand() % 4 ? 0 : BLK_FUA,
				op == BLK_FLUSH ? 0 : offset,
				op == BLK_FLUSH ? 0 : 1 + (unsigned)rand() % 3000,
				op == BLK_READ || op == BLK_WRITE || op == BLK_COMPARE_WRITE
					? buffers[one - io]
					: NULL);
		} else if (what < 60) {
			if (one->blk.state & STATE_OWNED)
				blk_cancel(&one->blk);
		} else if (what < 75) {
			virtual_loop_turn(loop_by_index(0));
		} else if (what < 85) {
			virtual_advance(50000);
		} else if (what < 90) {
			volume_script_hold(script, (unsigned)rand() % 2);
		} else {
			for (unsigned i = 0; i < volume_script_calls(script); i++)
				if (volume_script_call(script, i)->request) {
					volume_script_complete(script, i, 0);
					break;
				}
		}
		if (volume_script_held(script) == 0)
			volume_script_forget(script);
	}
	volume_script_hold(script, false);
	for (unsigned i = 0; i < 32; i++) {
		volume_script_complete_all(script, 0);
		virtual_advance(SECOND_NS);
	}
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(io[i].blk.state, 0);
	assert_true(taken > 100);
	assert_true(done > 100);
	assert_false(get_stats(volume)->broken);
	assert_int_equal(volume_fault_clear(volume, NULL, NULL), 0);
	volume_layers_apply(volume);
	assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, 100, 5000, data), 0);
	assert_int_equal(do_io(handle, BLK_READ, 0, 100, 5000, buffers[0]), 0);
	assert_memory_equal(data, buffers[0], 5000);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(outside_of_the_block_layer_it_is_harmless, settle),
		cmocka_unit_test_teardown(driver_that_can_takes_it_back, settle),
		cmocka_unit_test_teardown(driver_that_cannot_completes_it, settle),
		cmocka_unit_test_teardown(at_a_frozen_range, settle),
		cmocka_unit_test_teardown(at_the_rate, settle),
		cmocka_unit_test_teardown(at_the_rate_with_fua, settle),
		cmocka_unit_test_teardown(between_pieces_that_are_paid_for, settle),
		cmocka_unit_test_teardown(in_a_latency, settle),
		cmocka_unit_test_teardown(in_a_late_latency, settle),
		cmocka_unit_test_teardown(part_that_the_driver_has, settle),
		cmocka_unit_test_teardown(at_the_workers, settle),
		cmocka_unit_test_teardown(write_of_half_a_block_that_waits_for_its_range, settle),
		cmocka_unit_test_teardown(no_further_step_is_begun, settle),
		cmocka_unit_test_teardown(long_request_ends_between_its_pieces, settle),
		cmocka_unit_test_teardown(flush_that_waits_for_the_next_sync, settle),
		cmocka_unit_test_teardown(flush_that_carries_others, settle),
		cmocka_unit_test_teardown(fua_that_waits_for_its_sync, settle),
		cmocka_unit_test_teardown(completes_once_whenever_it_is_cancelled, settle),
	};

	return cmocka_run_group_tests(tests, setup_loops, teardown_loops);
}
