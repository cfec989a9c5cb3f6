/* scsi_diagnostic.c */
#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "loop.h"
#include "scsi/scsi_internal.h"

static int
start(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.size = 16 * MIB});
	disk_ready(disk.nexus);
	return 0;
}

static void
test_self_test(void **state)
{
	(void)state;
	assert_good(disk_command(disk.nexus, CDB(OP_SEND_DIAGNOSTIC), NULL, 0));
	assert_int_equal(volume_script_calls(disk.script), 0);
	assert_good(disk_command(disk.nexus, CDB(OP_SEND_DIAGNOSTIC, 0x04), NULL, 0));
	assert_int_equal(volume_script_calls(disk.script), 2);
	assert_int_equal(volume_script_call(disk.script, 0)->offset, 0);
	assert_int_equal(volume_script_call(disk.script, 1)->offset, 16 * MIB - 512);
	volume_script_fail(disk.script, BLK_READ, -EIO, 1);
	assert_sense(disk_command(disk.nexus, CDB(OP_SEND_DIAGNOSTIC, 0x04), NULL, 0), 4, 0x3e03);
	assert_int_equal(volume_script_calls(disk.script), 3);
}

static void
test_diagnostic_refuses(void **state)
{
	(void)state;
	assert_bad_cdb(disk_command(disk.nexus, CDB(OP_SEND_DIAGNOSTIC, 0x20), NULL, 0), 1);
	assert_bad_cdb(
		disk_command(disk.nexus, CDB(OP_SEND_DIAGNOSTIC, 0x10, 0, 0, 4), "abcd", 4), 3);
	assert_bad_cdb(disk_command(disk.nexus, CDB(OP_RECEIVE_DIAGNOSTIC, 0, 1), NULL, 0), 1);
	assert_bad_cdb(disk_command(disk.nexus, CDB(OP_RECEIVE_DIAGNOSTIC, 1, 1), NULL, 0), 2);
}

static void
test_diagnostic_pages(void **state)
{
	const struct answer *a =
		disk_command(disk.nexus, CDB(OP_RECEIVE_DIAGNOSTIC, 1, 0, 0, 255), NULL, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 5);
	assert_int_equal(get_be16(a->in + 2), 1);
	assert_int_equal(a->in[4], 0);
}

static void
test_no_defects(void **state)
{
	const struct answer *a =
		disk_command(disk.nexus, CDB(OP_READ_DEFECT_DATA_10, 0, 0x1d, [8] = 255), NULL, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 4);
	assert_int_equal(a->in[1], 0x1d);
	assert_int_equal(get_be16(a->in + 2), 0);
	a = disk_command(disk.nexus, CDB(OP_READ_DEFECT_DATA_12, 0x0d, [9] = 255), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in_length, 8);
	assert_int_equal(a->in[1], 0x0d);
	assert_int_equal(get_be32(a->in + 4), 0);
}

static void
test_task_management(void **state)
{
	const struct answer *a;

	(void)state;
	a = disk_command(disk.nexus, CDB(OP_MAINTENANCE_IN, 0x0d, [9] = 4), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in_length, 4);
	assert_int_equal(a->in[0], 0xda);
	assert_int_equal(a->in[3], 0);
	a = disk_command(disk.nexus, CDB(OP_MAINTENANCE_IN, 0x0d, 0x80, [9] = 255), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in_length, 16);
	assert_int_equal(a->in[3], 12);
	assert_bad_cdb(disk_command(disk.nexus, CDB(OP_MAINTENANCE_IN, 0x0d, [9] = 3), NULL, 0), 6);
}

static void
test_port_groups(void **state)
{
	static const uint8_t expected[] = {0, 0, 0, 24, 0, 0x0f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0,
		0x0f, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2};
	const struct answer *a =
		disk_command(disk.nexus, CDB(OP_MAINTENANCE_IN, 0x0a, [9] = 255), NULL, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, sizeof(expected));
	assert_memory_equal(a->in, expected, sizeof(expected));
	disk.portals[1].group = 1; /* both in one */
	scsi_nexus_free(disk.nexus);
	disk.nexus = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:one");
	disk_ready(disk.nexus);
	a = disk_command(disk.nexus, CDB(OP_MAINTENANCE_IN, 0x0a, [9] = 255), NULL, 0);
	assert_int_equal(a->in_length, 20);
	assert_int_equal(a->in[4 + 7], 2);
	assert_int_equal(get_be16(a->in + 18), 2);
	a = disk_command(disk.nexus, CDB(OP_INQUIRY, [4] = 36), NULL, 0);
	assert_int_equal(a->in[5], 0x18);
}

static void
test_timestamp(void **state)
{
	const struct answer *a =
		disk_command(disk.nexus, CDB(OP_MAINTENANCE_IN, 0x0f, [9] = 255), NULL, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 12);
	assert_int_equal(get_be16(a->in), 10);
	assert_int_equal(a->in[2], 3);
	assert_int_equal(
		(uint64_t)get_be16(a->in + 4) << 32 | get_be32(a->in + 6), clock_wall() * 1000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_self_test, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_diagnostic_refuses, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_diagnostic_pages, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_no_defects, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_task_management, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_port_groups, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_timestamp, start, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_diagnostic", tests, NULL, NULL);
}
