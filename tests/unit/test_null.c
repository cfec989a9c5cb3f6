/* storage/backends/null.c */
#include "config.h"

#include "storage_test.h"

#include <errno.h>

static void
reads_zeroes_and_forgets(void **state)
{
	struct conf_volume conf = test_conf("nil", "null", NULL, TIB);
	struct volume *volume;
	struct blk_handle *handle;
	struct error error;
	struct blk_extent extents[2];
	uint8_t *data = malloc(8 * MIB);
	unsigned n = 2;

	(void)state;
	assert_int_equal(volume_open(&conf, &volume, &error), 0);
	handle = open_handle(volume);
	assert_true(blk_inline(handle));
	memset(data, 'x', 8 * MIB);
	assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, TIB - 8 * MIB, 8 * MIB, data), 0);
	assert_int_equal(do_io(handle, BLK_READ, 0, TIB - 8 * MIB, 8 * MIB, data), 0);
	for (unsigned i = 0; i < 8 * MIB; i++)
		assert_int_equal(data[i], 0);
	assert_int_equal(do_io(handle, BLK_ZERO, 0, 0, TIB, NULL), 0);
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, TIB, NULL), 0);
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(do_extents(handle, 0, 5, TIB - 5, extents, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(extents[0].length, TIB - 5);
	assert_int_equal(extents[0].flags, BLK_HOLE | BLK_ZEROES);
	assert_int_equal(get_stats(volume)->allocated, 0);
	blk_close(handle);
	volume_put(volume);
	free(data);
}

static void
compares_with_zeroes(void **state)
{
	struct conf_volume conf = test_conf("nil", "null", NULL, MIB);
	struct volume *volume;
	struct blk_handle *handle;
	struct error error;
	uint8_t data[1024] = {0};

	(void)state;
	assert_int_equal(volume_open(&conf, &volume, &error), 0);
	handle = open_handle(volume);
	assert_int_equal(do_io(handle, BLK_COMPARE_WRITE, 0, 0, 512, data), 0);
	data[5] = 1;
	assert_int_equal(do_io(handle, BLK_COMPARE_WRITE, 0, 0, 512, data), -EILSEQ);
	blk_close(handle);
	volume_put(volume);
}

static void
without_size_is_refused(void **state)
{
	struct conf_volume conf = test_conf("nil", "null", NULL, 0);
	struct volume *volume;
	struct error error;

	(void)state;
	assert_int_equal(volume_open(&conf, &volume, &error), -EINVAL);
	assert_string_equal(error.text, "needs a size: nil=null:1T");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(reads_zeroes_and_forgets, settle),
		cmocka_unit_test_teardown(compares_with_zeroes, settle),
		cmocka_unit_test_teardown(without_size_is_refused, settle),
	};

	return cmocka_run_group_tests_name("null", tests, setup_loops, teardown_loops);
}
