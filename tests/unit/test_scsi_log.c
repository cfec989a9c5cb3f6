/* scsi_log.c */
#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "conf.h"
#include "scsi/scsi_internal.h"

static const struct answer *
log_sense(uint8_t pc, uint8_t page, uint8_t subpage, uint16_t first, uint16_t allocated)
{
	return disk_command(disk.nexus,
		CDB(OP_LOG_SENSE, 0, (uint8_t)(pc << 6 | page), subpage, 0, (uint8_t)(first >> 8),
			(uint8_t)first, (uint8_t)(allocated >> 8), (uint8_t)allocated),
		NULL, 0);
}

/* A parameter of a page that is read whole; its value. */
static const uint8_t *
find_parameter(const struct answer *a, unsigned code, uint8_t length)
{
	assert_good(a);
	assert_int_equal(get_be16(a->in + 2), a->in_length - 4);
	for (size_t at = 4; at < a->in_length; at += 4u + a->in[at + 3]) {
		assert_true(at + 4 + a->in[at + 3] <= a->in_length);
		if (get_be16(a->in + at) != code)
			continue;
		assert_int_equal(a->in[at + 3], length);
		return a->in + at + 4;
	}
	fail_msg("no parameter %u", code);
	return NULL;
}

static uint64_t
counter(uint8_t page, uint8_t subpage, unsigned code, uint8_t length)
{
	const uint8_t *value = find_parameter(log_sense(1, page, subpage, 0, 4096), code, length);

	return length == 8 ? get_be64(value) : get_be32(value);
}

static void
test_lists(void **state)
{
	static const uint8_t all[] = {0, 0, 0, 8, 0, 2, 3, 5, 0x0c, 0x0d, 0x0e, 0x19};
	static const uint8_t whole[] = {0x40, 0xff, 0, 20, 0, 0, 0, 0xff, 2, 0, 3, 0, 5, 0, 0x0c, 0,
		0x0d, 0, 0x0e, 0, 0x19, 0, 0x19, 0x20};
	const struct answer *a = log_sense(0, 0, 0, 0, 4096);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, sizeof(all));
	assert_memory_equal(a->in, all, sizeof(all));
	a = log_sense(1, 0, 0xff, 0, 4096);
	assert_good(a);
	assert_int_equal(a->in_length, sizeof(whole));
	assert_memory_equal(a->in, whole, sizeof(whole));
	/* Each page there is. */
	for (size_t i = 4; i < sizeof(whole); i += 2) {
		a = log_sense(1, whole[i], whole[i + 1], 0, 4096);
		assert_good(a);
		assert_int_equal(a->in[0] & 0x3f, whole[i]);
		assert_int_equal(a->in[1], whole[i + 1]);
		assert_int_equal(a->in[0] >> 6 & 1, whole[i + 1] != 0);
	}
}

static void
test_wrong_cdbs(void **state)
{
	(void)state;
	assert_bad_cdb(log_sense(1, 0x01, 0, 0, 255), 2);
	assert_bad_cdb(log_sense(1, 0x19, 0x21, 0, 255), 2);
	assert_bad_cdb(log_sense(0, 0x02, 0, 0, 255), 2); /* thresholds */
	assert_bad_cdb(log_sense(2, 0x02, 0, 0, 255), 2);
	assert_bad_cdb(log_sense(1, 0, 0, 1, 255), 5);
	assert_bad_cdb(log_sense(1, 0x02, 0, 7, 255), 5); /* above the last */
	for (uint8_t bit = 1; bit < 4; bit++)             /* SP, PPC */
		assert_bad_cdb(
			disk_command(disk.nexus, CDB(OP_LOG_SENSE, bit, 0x42, [8] = 255), NULL, 0),
			1);
}

static void
test_pointer_and_allocation(void **state)
{
	uint8_t whole[256];
	const struct answer *a = log_sense(1, 0x02, 0, 0, 255);
	size_t length = a->in_length;

	(void)state;
	memcpy(whole, a->in, length);
	a = log_sense(1, 0x02, 0, 5, 255);
	assert_good(a);
	assert_int_equal(a->in_length, 4 + 12 + 8);
	assert_int_equal(get_be16(a->in + 2), 20);
	assert_memory_equal(a->in + 4, whole + 4 + 5 * 8, 20);
	for (uint16_t allocated = 0; allocated < length + 4; allocated++) {
		a = log_sense(1, 0x02, 0, 0, allocated);
		assert_good(a);
		assert_int_equal(a->in_length, min_u64(allocated, length));
		assert_memory_equal(a->in, whole, a->in_length);
	}
}

static void
test_errors(void **state)
{
	uint8_t data[2048] = {1};
	uint64_t before = counter(0x02, 0, 5, 8);

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	assert_good(disk_command(disk.nexus, CDB(OP_WRITE_10, [8] = 4), data, sizeof(data)));
	assert_int_equal(counter(0x02, 0, 5, 8), before + 2048);
	assert_int_equal(counter(0x02, 0, 6, 4), 0);
	volume_script_fail(disk.script, BLK_WRITE, -EIO, 1);
	disk_command(disk.other, CDB(0), NULL, 0);
	disk_command(disk.other, CDB(OP_WRITE_10, [8] = 4), data, sizeof(data));
	assert_int_equal(counter(0x02, 0, 6, 4), 1); /* whoever's it was */
	before = counter(0x03, 0, 5, 8);
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 2), NULL, 0));
	assert_int_equal(counter(0x03, 0, 5, 8), before + 1024);
	volume_script_fail(disk.script, BLK_READ, -EIO, 1);
	disk_command(disk.nexus, CDB(OP_READ_10, [8] = 2), NULL, 0);
	assert_int_equal(counter(0x03, 0, 6, 4), 1);
	/* What is no error of the medium is none here. */
	volume_script_fail(disk.script, BLK_READ, -ENOMEM, 1);
	disk_command(disk.nexus, CDB(OP_READ_10, [8] = 2), NULL, 0);
	assert_int_equal(counter(0x03, 0, 6, 4), 1);
	assert_good(disk_command(disk.nexus, CDB(OP_VERIFY_10, [8] = 4), NULL, 0));
	assert_int_equal(counter(0x05, 0, 5, 8), 2048);
	volume_script_fail(disk.script, BLK_READ, -EIO, 1);
	disk_command(disk.nexus, CDB(OP_VERIFY_10, [8] = 4), NULL, 0);
	assert_int_equal(counter(0x05, 0, 6, 4), 1);
	/* Defaults of cumulative values. */
	assert_int_equal(get_be64(find_parameter(log_sense(3, 0x02, 0, 0, 4096), 5, 8)), 0);
}

static void
test_temperature_and_starts(void **state)
{
	static const uint8_t unknown[2] = {0, 0xff};

	(void)state;
	assert_memory_equal(find_parameter(log_sense(1, 0x0d, 0, 0, 255), 0, 2), unknown, 2);
	assert_memory_equal(find_parameter(log_sense(1, 0x0d, 0, 0, 255), 1, 2), unknown, 2);
	assert_memory_equal(find_parameter(log_sense(1, 0x0e, 0, 0, 255), 1, 6), "      ", 6);
	assert_int_equal(counter(0x0e, 0, 4, 4), 0);
	assert_good(disk_command(disk.nexus, CDB(OP_START_STOP_UNIT, [4] = 1), NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(OP_START_STOP_UNIT), NULL, 0));
	assert_int_equal(counter(0x0e, 0, 4, 4), 1);
	assert_int_equal(counter(0x0e, 0, 6, 4), 0);
}

static void
test_statistics(void **state)
{
	uint8_t data[2048] = {1};
	const uint8_t *value;
	uint64_t before[8];

	(void)state;
	value = find_parameter(log_sense(1, 0x19, 0, 0, 4096), 1, 64);
	for (unsigned i = 0; i < 8; i++)
		before[i] = get_be64(value + 8 * i);
	assert_good(disk_command(disk.nexus, CDB(OP_WRITE_10, [8] = 4), data, sizeof(data)));
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 2), NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0));
	value = find_parameter(log_sense(1, 0x19, 0, 0, 4096), 1, 64);
	assert_int_equal(get_be64(value), before[0] + 2);
	assert_int_equal(get_be64(value + 8), before[1] + 1);
	assert_int_equal(get_be64(value + 16), before[2] + 4);
	assert_int_equal(get_be64(value + 24), before[3] + 3);
	assert_int_equal(get_be64(value + 48), before[6] + 3);
	value = find_parameter(log_sense(1, 0x19, 0, 0, 4096), 3, 8);
	assert_int_equal(get_be32(value), 6);
	assert_int_equal(get_be32(value + 4), 1);
}

static void
test_cache(void **state)
{
	uint8_t data[2048] = {1};
	uint64_t writes = counter(0x19, 0x20, 3, 8), flushes = counter(0x19, 0x20, 4, 8);

	(void)state;
	assert_good(disk_command(disk.nexus, CDB(OP_WRITE_10, [8] = 4), data, sizeof(data)));
	assert_good(disk_command(disk.nexus, CDB(OP_SYNCHRONIZE_CACHE_10), NULL, 0));
	disk_command(disk.nexus, CDB(OP_PREFETCH_10, [8] = 1), NULL, 0);
	assert_int_equal(counter(0x19, 0x20, 1, 8), 0);
	assert_int_equal(counter(0x19, 0x20, 2, 8), 1);
	assert_int_equal(counter(0x19, 0x20, 3, 8), writes + 1);
	assert_int_equal(counter(0x19, 0x20, 4, 8), flushes + 1);
}

/* What is used and what is left of a volume that has a limit. */
static void
test_provisioning(void **state)
{
	char name[] = "thin", backend[] = "memory";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = 64 * MIB,
		.limit = 8 * MIB,
		.block_size = 512};
	static uint8_t data[MIB];
	struct volume *volume;
	struct error error;
	const uint8_t *value;

	(void)state;
	disk_start(&(struct volume_script_options){.size = MIB});
	assert_int_equal(volume_open(&conf, &volume, &error), 0);
	disk_add_lun(1, volume, false);
	disk_ready(disk.nexus);
	for (unsigned i = 0; i < 3; i++) {
		static const uint8_t lun[8] = {0, 1};
		const struct answer *a;

		disk_command_lun(disk.nexus, lun, CDB(0), NULL, 0);
		memset(data, 0x11, sizeof(data));
		assert_good(disk_command_lun(disk.nexus, lun,
			CDB(OP_WRITE_10, [4] = (uint8_t)(i * 8), [7] = 8), data, sizeof(data)));
		a = disk_command_lun(
			disk.nexus, lun, CDB(OP_LOG_SENSE, 0, 0x4c, [8] = 255), NULL, 0);
		value = find_parameter(a, 1, 8);
		assert_int_equal(get_be32(value), 7 - i);
		assert_int_equal(value[4], 1);
		value = find_parameter(a, 2, 8);
		assert_int_equal(get_be32(value), 1 + i);
	}
	volume_put(volume);
	disk_stop();
}

/* Not for one that is not thin. */
static void
test_a_thick_volume(void **state)
{
	char name[] = "thick", backend[] = "plain";
	struct conf_volume conf = {
		.name = name, .backend = backend, .size = MIB, .block_size = 512};

	(void)state;
	disk_start_volume(disk_plain_volume(&conf, &(struct blk_info){.size = MIB}));
	disk_ready(disk.nexus);
	assert_bad_cdb(log_sense(1, 0x0c, 0, 0, 255), 2);
	assert_good(log_sense(1, 0x02, 0, 0, 255));
	assert_int_equal(log_sense(0, 0, 0, 0, 255)->in_length, 4 + 7);
	disk_stop();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_lists, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_wrong_cdbs, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_pointer_and_allocation, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_errors, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_temperature_and_starts, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_statistics, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_cache, disk_setup, disk_teardown),
		cmocka_unit_test(test_provisioning),
		cmocka_unit_test(test_a_thick_volume),
	};

	return cmocka_run_group_tests_name("scsi_log", tests, NULL, NULL);
}
