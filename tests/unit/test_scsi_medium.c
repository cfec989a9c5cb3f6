/* scsi_medium.c */
#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "conf.h"
#include "scsi/scsi_internal.h"

static char name[] = "db", backend[] = "plain";
static struct conf_volume conf = {.name = name,
	.backend = backend,
	.size = MIB,
	.block_size = 512,
	.physical_block_size = 512,
	.removable = true};

static int
start(void **state)
{
	(void)state;
	disk_start_volume(disk_plain_volume(&conf, &(struct blk_info){0}));
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	return 0;
}

#define START CDB(OP_START_STOP_UNIT, 0, 0, 0, 0x01)
#define STOP  CDB(OP_START_STOP_UNIT, 0, 0, 0, 0x00)
#define EJECT CDB(OP_START_STOP_UNIT, 0, 0, 0, 0x02)
#define LOAD  CDB(OP_START_STOP_UNIT, 0, 0, 0, 0x03)

static void
test_eject_and_load(void **state)
{
	static const uint8_t needs_medium[] = {OP_TEST_UNIT_READY, OP_READ_10, OP_WRITE_10,
		OP_READ_CAPACITY_10, OP_SYNCHRONIZE_CACHE_10, OP_UNMAP};
	const struct answer *a;

	(void)state;
	assert_good(disk_command(disk.nexus, EJECT, NULL, 0));
	for (size_t i = 0; i < ARRAY_SIZE(needs_medium); i++) {
		assert_sense(disk_command(disk.nexus, CDB(needs_medium[i]), NULL, 0), 2, 0x3a00);
		assert_sense(disk_command(disk.other, CDB(needs_medium[i]), NULL, 0), 2, 0x3a00);
	}
	assert_good(disk_command(disk.nexus, CDB(OP_INQUIRY, 0, 0, 0, 96), NULL, 0));
	a = disk_command(disk.nexus, CDB(OP_REQUEST_SENSE, 0, 0, 0, 18), NULL, 0);
	assert_int_equal(get_be16(a->in + 12), 0x3a00);
	assert_good(disk_command(disk.nexus, LOAD, NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(OP_TEST_UNIT_READY), NULL, 0));
	assert_sense(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0), 6, 0x2800);
	assert_good(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0));
}

/* Without LOEJ, and with any power condition, the medium stays. */
static void
test_stop_keeps_the_medium(void **state)
{
	(void)state;
	assert_good(disk_command(disk.nexus, STOP, NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(OP_START_STOP_UNIT, 0, 0, 0, 0x04), NULL, 0));
	assert_good(disk_command(disk.nexus, START, NULL, 0));
	for (uint8_t condition = 1; condition < 16; condition++) {
		assert_good(disk_command(disk.nexus,
			CDB(OP_START_STOP_UNIT, 1, 0, 0, (uint8_t)(condition << 4 | 0x02)), NULL,
			0));
		assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	}
}

static void
test_prevent(void **state)
{
	static const uint8_t lun[8];

	(void)state;
	for (unsigned how = 0; how < 3; how++) {
		assert_good(disk_command(disk.other, CDB(OP_PREVENT_ALLOW, 0, 0, 0, 1), NULL, 0));
		assert_good(disk_command(disk.other, CDB(OP_PREVENT_ALLOW, 0, 0, 0, 1), NULL, 0));
		assert_sense(disk_command(disk.nexus, EJECT, NULL, 0), 5, 0x5302);
		assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
		assert_good(disk_command(disk.nexus, LOAD, NULL, 0)); /* it is in */
		/* Allowed; reset; the nexus is lost. */
		switch (how) {
		case 0:
			assert_good(disk_command(disk.other, CDB(OP_PREVENT_ALLOW), NULL, 0));
			break;
		case 1:
			scsi_lun_reset(disk.nexus, lun);
			disk_ready(disk.nexus);
			break;
		default:
			scsi_nexus_free(disk.other);
			disk.other = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:four");
			break;
		}
		assert_good(disk_command(disk.nexus, EJECT, NULL, 0));
		assert_good(disk_command(disk.nexus, LOAD, NULL, 0));
		disk_ready(disk.other);
	}
}

static void
test_prevent_while_out(void **state)
{
	(void)state;
	assert_good(disk_command(disk.nexus, EJECT, NULL, 0));
	assert_good(disk_command(disk.other, CDB(OP_PREVENT_ALLOW, 0, 0, 0, 1), NULL, 0));
	assert_sense(disk_command(disk.nexus, LOAD, NULL, 0), 5, 0x5302);
	assert_good(disk_command(disk.other, CDB(OP_PREVENT_ALLOW), NULL, 0));
	assert_good(disk_command(disk.nexus, LOAD, NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
}

static void
test_a_fixed_disk(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.volatile_cache = true});
	disk_ready(disk.nexus);
	assert_bad_cdb(disk_command(disk.nexus, EJECT, NULL, 0), 4);
	assert_bad_cdb(disk_command(disk.nexus, LOAD, NULL, 0), 4);
	volume_script_forget(disk.script);
	assert_good(disk_command(disk.nexus, STOP, NULL, 0)); /* what is cached becomes durable */
	assert_int_equal(volume_script_calls(disk.script), 1);
	assert_int_equal(volume_script_call(disk.script, 0)->op, BLK_FLUSH);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	disk_stop();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_eject_and_load, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_stop_keeps_the_medium, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_prevent, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_prevent_while_out, start, disk_teardown),
		cmocka_unit_test(test_a_fixed_disk),
	};

	return cmocka_run_group_tests_name("scsi_medium", tests, NULL, NULL);
}
