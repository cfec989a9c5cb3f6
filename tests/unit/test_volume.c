/* storage/volume.c: opening, references, identity. */
#include "config.h"

#include "storage_test.h"

#include <errno.h>

#include "block_driver.h"
#include "volume_script.h"

static int
try_conf(const struct conf_volume *conf, struct error *error)
{
	struct volume *volume;
	int rc = volume_open(conf, &volume, error);

	if (rc == 0) {
		volume_put(volume);
		virtual_run_until_idle();
	}
	return rc;
}

static void
names_are_checked(void **state)
{
	const char *const good[] = {"a", "0", "disk0", "a.b-c",
		"a234567890123456789012345678901234567890123456789012345678901234"};
	const char *const bad[] = {"", ".", "-a", ".a", "A", "a_b", "a b", "a/b", "\xc3\xa4",
		"a2345678901234567890123456789012345678901234567890123456789012345"};
	struct error error;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		struct conf_volume conf = test_conf(good[i], "null", NULL, MIB);

		assert_int_equal(try_conf(&conf, &error), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct conf_volume conf = test_conf(bad[i], "null", NULL, MIB);

		assert_int_equal(try_conf(&conf, &error), -EINVAL);
		assert_memory_equal(error.text, "name \"", 6);
	}
}

static void
sizes_and_blocks_are_checked(void **state)
{
	const struct {
		uint64_t size;
		uint32_t block, physical;
		int rc;
		const char *text;
	} rows[] = {
		{MIB, 512, 512, 0, NULL},
		{MIB, 512, 4096, 0, NULL},
		{MIB, 4096, 4096, 0, NULL},
		{MIB, 4096, 65536, 0, NULL},
		{LIMIT_VOLUME_SIZE, 512, 512, 0, NULL},
		{MIB, 1024, 1024, -EINVAL, "block_size 1024 must be 512 or 4096"},
		{MIB, 0, 0, -EINVAL, "block_size 0 must be 512 or 4096"},
		{MIB, 4096, 512, -EINVAL,
			"physical_block_size 512 must be a power of two times block_size 4096"},
		{MIB, 512, 1536, -EINVAL,
			"physical_block_size 1536 must be a power of two times block_size 512"},
		{1000, 512, 512, -EINVAL,
			"size 1000 is not a multiple of the block size 512 (the next is 1024)"},
		{MIB + 512, 4096, 4096, -EINVAL,
			"size 1049088 is not a multiple of the block size 4096 (the next is 1052672)"},
		{LIMIT_VOLUME_SIZE + 512, 512, 512, -EINVAL,
			"size 1152921504606847488 is more than 1152921504606846976 (1024 PiB)"},
		{UINT64_MAX, 512, 512, -EINVAL,
			"size 18446744073709551615 is more than 1152921504606846976 (1024 PiB)"},
	};
	struct error error;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct conf_volume conf = test_conf("v", "null", NULL, rows[i].size);

		conf.block_size = rows[i].block;
		conf.physical_block_size = rows[i].physical;
		assert_int_equal(try_conf(&conf, &error), rows[i].rc);
		if (rows[i].text)
			assert_string_equal(error.text, rows[i].text);
	}
}

static void
unknown_backends_are_named(void **state)
{
	struct conf_volume conf = test_conf("v", "foo", NULL, MIB);
	struct error error;

	(void)state;
	assert_int_equal(try_conf(&conf, &error), -EINVAL);
	assert_string_equal(error.text, "unknown backend \"foo\" (backends: memory, file, device, null)");
}

static void
identity_comes_from_the_name(void **state)
{
	uint8_t uuid[3][16];
	const char *const names[] = {"disk0", "disk0", "disk1"};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct volume_script *s =
			volume_script_open(&(struct volume_script_options){.name = names[i]});
		struct blk_handle *handle = open_handle(volume_script_volume(s));
		struct blk_info info;

		blk_info(handle, &info);
		memcpy(uuid[i], info.uuid, 16);
		blk_close(handle);
		volume_script_close(s);
		virtual_run_until_idle();
	}
	assert_memory_equal(uuid[0], uuid[1], 16);
	assert_memory_not_equal(uuid[0], uuid[2], 8);
	assert_memory_not_equal(uuid[0] + 9, uuid[2] + 9, 7);
	assert_int_equal(uuid[0][6] >> 4, 8);
	assert_int_equal(uuid[0][8] >> 6, 2);
}

static unsigned closed;

static int
open_counted(
	const struct conf_volume *conf, struct blk_info *info, void **opened, struct error *error)
{
	(void)error;
	info->size = conf->size;
	*opened = &closed;
	return 0;
}

static void
close_counted(void *opened)
{
	assert_ptr_equal(opened, &closed);
	assert_ptr_equal(loop_current(), loop_main());
	closed++;
}

/* Handles and references hold it; the last one, on whatever loop, closes it on the main one. */
static void
last_reference_closes_on_the_main_loop(void **state)
{
	const struct blk_driver driver = {
		.name = "counted", .open = open_counted, .close = close_counted};
	struct conf_volume conf = test_conf("counted", "counted", NULL, MIB);
	struct blk_handle *handle;
	struct volume *volume;
	struct error error;

	(void)state;
	assert_int_equal(volume_open_driver(&conf, &driver, &volume, &error), 0);
	assert_ptr_not_equal(volume_conf(volume)->name, conf.name);
	assert_string_equal(volume_conf(volume)->name, "counted");
	virtual_as(loop_by_index(1));
	handle = open_handle(volume);
	virtual_as(loop_by_index(0));
	assert_ptr_equal(volume_get(volume), volume);
	volume_put(volume);
	volume_put(volume);
	virtual_run_until_idle();
	assert_int_equal(closed, 0);
	virtual_as(loop_by_index(1));
	blk_close(handle);
	assert_int_equal(closed, 0);
	virtual_run_until_idle();
	assert_int_equal(closed, 1);
	virtual_as(loop_by_index(0));
}

static void
histograms_are_merged_over_loops(void **state)
{
	struct volume_script *s = volume_script_open(&(struct volume_script_options){0});
	struct blk_handle *handle[2];
	uint8_t data[512];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		handle[i] = open_handle(volume_script_volume(s));
		assert_int_equal(do_io(handle[i], BLK_READ, 0, 0, 512, data), 0);
	}
	assert_int_equal(get_stats(volume_script_volume(s))->read.count, 2);
	assert_int_equal(get_stats(volume_script_volume(s))->handles, 2);
	assert_int_equal(get_stats(volume_script_volume(s))->bytes_read, 1024);
	for (unsigned i = 0; i < 2; i++) {
		virtual_as(loop_by_index(i));
		blk_close(handle[i]);
	}
	virtual_as(loop_by_index(0));
	volume_script_close(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(names_are_checked, settle),
		cmocka_unit_test_teardown(sizes_and_blocks_are_checked, settle),
		cmocka_unit_test_teardown(unknown_backends_are_named, settle),
		cmocka_unit_test_teardown(identity_comes_from_the_name, settle),
		cmocka_unit_test_teardown(last_reference_closes_on_the_main_loop, settle),
		cmocka_unit_test_teardown(histograms_are_merged_over_loops, settle),
	};

	return cmocka_run_group_tests_name("volume", tests, setup_loops, teardown_loops);
}
