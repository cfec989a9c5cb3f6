/* storage/emulate.c: what drivers lack, over drivers that lack it, against a plain array of bytes.
 */
#include "config.h"

#include "storage_test.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "volume_script.h"

#define SIZE (4 * MIB)

static uint8_t shadow[SIZE], buffer[2 * SIZE];
static uint64_t seed;

static uint64_t
next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void
fill_random(uint8_t *data, size_t length)
{
	for (size_t i = 0; i < length; i++)
		data[i] = (uint8_t)(next_random() >> 24);
}

/* Mostly small and unaligned, sometimes large. */
static void
choose_range(uint64_t *offset, uint64_t *length)
{
	static const uint64_t most[] = {700, 5000, 70000, 2 * MIB};

	*length = 1 + next_random() % most[next_random() % ARRAY_SIZE(most)];
	*offset = next_random() % (SIZE - *length + 1);
	if (next_random() % 4 == 0)
		*offset = round_down(*offset, 512);
	if (next_random() % 4 == 0)
		*length =
			round_up(*length, 512) > SIZE - *offset ? *length : round_up(*length, 512);
}

/* Cuts the buffer into a vector of odd pieces. */
static unsigned
cut(uint8_t *data, uint64_t length, struct iovec *iov, unsigned max)
{
	unsigned n = 0;

	while (length) {
		uint64_t take = n + 1 == max ? length : 1 + next_random() % length;

		iov[n++] = (struct iovec){data, take};
		data += take;
		length -= take;
	}
	return n;
}

static int
do_vector(struct blk_handle *handle, enum blk_op op, unsigned flags, uint64_t offset,
	uint64_t length, uint64_t bytes, uint64_t *mismatch)
{
	struct iovec iov[5];
	struct io io = {.blk = {.op = op,
				.flags = flags,
				.offset = offset,
				.length = length,
				.iov = iov,
				.done = io_done}};

	io.blk.niov = cut(buffer, bytes, iov, 1 + (unsigned)(next_random() % 5));
	blk_submit(handle, &io.blk);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	*mismatch = io.blk.mismatch;
	return io.blk.rc;
}

static void
one_random_request(struct blk_handle *handle)
{
	uint64_t offset, length, mismatch;

	choose_range(&offset, &length);
	switch (next_random() % 5) {
	case 0:
		memset(buffer, 0xee, length);
		assert_int_equal(
			do_vector(handle, BLK_READ, 0, offset, length, length, &mismatch), 0);
		assert_memory_equal(buffer, shadow + offset, length);
		break;
	case 1:
		assert_int_equal(do_io(handle, BLK_ZERO, next_random() % 2 ? BLK_MAY_UNMAP : 0,
					 offset, length, NULL),
			0);
		memset(shadow + offset, 0, length);
		break;
	case 2:
		length = min_u64(length, LIMIT_IOBUF_PIECE / 2);
		memcpy(buffer, shadow + offset, length);
		fill_random(buffer + length, length);
		if (next_random() % 2) {
			uint64_t at = next_random() % length;

			buffer[at] ^= 1;
			assert_int_equal(do_vector(handle, BLK_COMPARE_WRITE, 0, offset, length,
						 2 * length, &mismatch),
				-EILSEQ);
			assert_int_equal(mismatch, at);
			break;
		}
		assert_int_equal(do_vector(handle, BLK_COMPARE_WRITE, 0, offset, length, 2 * length,
					 &mismatch),
			0);
		memcpy(shadow + offset, buffer + length, length);
		break;
	default:
		fill_random(buffer, length);
		assert_int_equal(do_vector(handle, BLK_WRITE, next_random() % 8 ? 0 : BLK_FUA,
					 offset, length, length, &mismatch),
			0);
		memcpy(shadow + offset, buffer, length);
		break;
	}
}

static void
random_requests_against_a_shadow(void **state)
{
	const uint32_t alignments[] = {1, 512, 4096};
	const uint32_t missing[] = {
		0, 1u << BLK_COMPARE_WRITE, 1u << BLK_ZERO | 1u << BLK_COMPARE_WRITE};
	uint64_t first_seed = seed;

	(void)state;
	printf("# seed %llu\n", (unsigned long long)first_seed);
	for (unsigned variant = 0; variant < 18; variant++) {
		struct volume_script *s =
			volume_script_open(&(struct volume_script_options){.size = SIZE,
				.alignment = alignments[variant % 3],
				.missing = missing[variant / 3 % 3] |
					   (variant >= 9 ? 1u << BLK_COMPARE_WRITE : 0),
				.transfer_max = variant % 2 ? 32 * MIB : 2 * MIB,
				.volatile_cache = true,
				.blocking = variant >= 9});
		struct blk_handle *handle = open_handle(volume_script_volume(s));

		memset(shadow, 0, SIZE);
		for (unsigned i = 0; i < 150; i++) {
			one_random_request(handle);
			volume_script_forget(s);
		}
		assert_memory_equal(volume_script_data(s), shadow, SIZE);
		if (variant % 3 == 0)
			assert_int_equal(blk_counters(handle)->rmw_ops, 0);
		else
			assert_true(blk_counters(handle)->rmw_ops > 0);
		blk_close(handle);
		volume_script_close(s);
		virtual_run_until_idle();
	}
}

/* Requests in flight together: each owns a slice that shares blocks with its neighbours'. */
static void
neighbours_in_one_block_survive_each_other(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.alignment = 4096, .size = MIB});
	struct blk_handle *handle[2];
	uint8_t data[8][512];
	struct io io[8];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		handle[i] = open_handle(volume_script_volume(s));
	}
	for (unsigned i = 0; i < 8; i++) {
		memset(data[i], 'a' + (int)i, 512);
		virtual_as(loop_by_index(i % 2));
		io_submit(&io[i], handle[i % 2], BLK_WRITE, 0, 8192 + 512 * i, 512, data[i]);
	}
	virtual_run_until_idle();
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(io[i].completed, 1);
		assert_int_equal(io[i].blk.rc, 0);
		assert_memory_equal(volume_script_data(s) + 8192 + 512 * i, data[i], 512);
	}
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		blk_close(handle[i]);
	}
	virtual_as(loop_by_index(0));
	volume_script_close(s);
}

static void
fast_only_touches_nothing(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.missing = 1u << BLK_ZERO});
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	struct blk_info info;

	(void)state;
	blk_info(handle, &info);
	assert_false(info.fast_zero);
	assert_int_equal(do_io(handle, BLK_ZERO, BLK_FAST_ONLY, 0, 4096, NULL), -ENOTSUP);
	assert_int_equal(volume_script_calls(s), 0);
	blk_close(handle);
	volume_script_close(s);
}

/* A driver that has zero(), over something that has not: asked once, then written. */
static void
zero_refused_by_the_driver_is_written(void **state)
{
	(void)state;
	for (unsigned blocking = 0; blocking < 2; blocking++) {
		struct volume_script *s =
			volume_script_open(&(struct volume_script_options){.blocking = blocking});
		struct blk_handle *handle = open_handle(volume_script_volume(s));

		memset(volume_script_data(s), 'x', 8192);
		volume_script_fail(s, BLK_ZERO, -ENOTSUP, 1);
		assert_int_equal(do_io(handle, BLK_ZERO, 0, 100, 5000, NULL), 0);
		assert_int_equal(volume_script_call(s, 1)->op, BLK_WRITE);
		for (unsigned i = 0; i < 8192; i++)
			assert_int_equal(volume_script_data(s)[i], i >= 100 && i < 5100 ? 0 : 'x');
		volume_script_fail(s, BLK_ZERO, -ENOTSUP, 1);
		assert_int_equal(do_io(handle, BLK_ZERO, BLK_FAST_ONLY, 0, 512, NULL), -ENOTSUP);
		blk_close(handle);
		volume_script_close(s);
		virtual_run_until_idle();
	}
}

static void
absent_operations_have_an_answer(void **state)
{
	struct volume_script *s = volume_script_open(&(struct volume_script_options){
		.missing = 1u << BLK_DISCARD | 1u << BLK_EXTENTS | 1u << BLK_PREFETCH});
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	struct blk_extent extents[4];
	unsigned n = 4;

	(void)state;
	volume_script_data(s)[0] = 'x';
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, MIB, NULL), 0);
	assert_int_equal(volume_script_data(s)[0], 'x');
	assert_int_equal(do_io(handle, BLK_PREFETCH, 0, 0, MIB, NULL), 0);
	assert_int_equal(do_extents(handle, 0, 1000, 5000, extents, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(extents[0].length, 5000);
	assert_int_equal(extents[0].flags, 0);
	assert_int_equal(volume_script_calls(s), 0);
	blk_close(handle);
	volume_script_close(s);
}

static void
discard_is_rounded_inwards(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.alignment = 4096});
	struct blk_handle *handle = open_handle(volume_script_volume(s));

	(void)state;
	memset(volume_script_data(s), 'x', 16384);
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 4000, 4000, NULL), 0);
	assert_int_equal(volume_script_calls(s), 0);
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 4000, 9000, NULL), 0);
	assert_int_equal(volume_script_calls(s), 1);
	assert_int_equal(volume_script_call(s, 0)->offset, 4096);
	assert_int_equal(volume_script_call(s, 0)->length, 8192);
	for (unsigned i = 0; i < 16384; i++)
		assert_int_equal(volume_script_data(s)[i], i >= 4096 && i < 12288 ? 0 : 'x');
	blk_close(handle);
	volume_script_close(s);
}

static void
extents_are_trimmed_to_the_question(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.alignment = 4096});
	struct blk_handle *handle = open_handle(volume_script_volume(s));
	struct blk_extent extents[8];
	unsigned n = 8;

	(void)state;
	volume_script_punch(s, 512, 512);
	volume_script_punch(s, 8192, 4096);
	assert_int_equal(do_extents(handle, 0, 600, 10000, extents, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(extents[0].length, 424);
	assert_int_equal(extents[0].flags, BLK_HOLE | BLK_ZEROES);
	assert_int_equal(extents[1].length, 7168);
	assert_int_equal(extents[1].flags, 0);
	assert_int_equal(extents[2].length, 10600 - 8192);
	/* One is enough, and it lies before the question. */
	n = 8;
	assert_int_equal(do_extents(handle, BLK_EXTENT_ONE, 600, 10000, extents, &n), 0);
	assert_int_equal(n, 1);
	assert_true(extents[0].length > 0 && extents[0].length <= 10000);
	n = 1;
	assert_int_equal(do_extents(handle, 0, 4196, 3, extents, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(extents[0].length, 3);
	blk_close(handle);
	volume_script_close(s);
}

/* The n-th request to the driver fails, n = 1, 2, 3 ...: one error, nothing left behind. */
static void
every_step_may_fail(void **state)
{
	const enum blk_op ops[] = {BLK_READ, BLK_WRITE, BLK_ZERO, BLK_COMPARE_WRITE};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		for (unsigned nth = 0;; nth++) {
			struct volume_script *s = volume_script_open(
				&(struct volume_script_options){.alignment = 4096,
					.missing = 1u << BLK_COMPARE_WRITE | 1u << BLK_ZERO,
					.transfer_max = 64 * KIB});
			struct blk_handle *handle = open_handle(volume_script_volume(s));
			uint64_t length = ops[i] == BLK_COMPARE_WRITE ? 9000 : 64 * KIB;
			unsigned seen = 0;
			struct io io;

			memset(buffer, 0, 2 * length);
			volume_script_hold(s, true);
			io_submit(&io, handle, ops[i], 0, 100, length, buffer);
			for (;;) {
				virtual_run_until_idle();
				if (io.completed)
					break;
				assert_int_equal(volume_script_held(s), 1);
				volume_script_complete(s, seen, seen == nth ? -EIO : 0);
				seen++;
			}
			assert_int_equal(io.blk.rc, nth < seen ? -EIO : 0);
			volume_script_hold(s, false);
			assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 4096, buffer), 0);
			blk_close(handle);
			volume_script_close(s);
			virtual_run_until_idle();
			if (nth >= seen)
				break;
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(random_requests_against_a_shadow, settle),
		cmocka_unit_test_teardown(neighbours_in_one_block_survive_each_other, settle),
		cmocka_unit_test_teardown(fast_only_touches_nothing, settle),
		cmocka_unit_test_teardown(zero_refused_by_the_driver_is_written, settle),
		cmocka_unit_test_teardown(absent_operations_have_an_answer, settle),
		cmocka_unit_test_teardown(discard_is_rounded_inwards, settle),
		cmocka_unit_test_teardown(extents_are_trimmed_to_the_question, settle),
		cmocka_unit_test_teardown(every_step_may_fail, settle),
	};
	const char *given = getenv("SLABD_SEED");

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 1 | 1;
	return cmocka_run_group_tests_name("emulate", tests, setup_loops, teardown_loops);
}
