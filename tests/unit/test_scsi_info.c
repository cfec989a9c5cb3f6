/* scsi_info.c */
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

static int
start(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.size = MIB});
	disk_ready(disk.nexus);
	return 0;
}

static const uint8_t missing_lun[8] = {0, 9};

/*
 * The same answer cut at every allocation length: exactly the first bytes of the whole. `at` and
 * `size` are the allocation length's place in the CDB.
 */
static void
check_truncation(const uint8_t *cdb, unsigned at, unsigned size, size_t whole)
{
	static uint8_t full[SCSI_PAGE_MAX];
	uint8_t shorter[16];
	const struct answer *a;

	memcpy(shorter, cdb, 16);
	for (size_t i = 0; i <= whole + 8; i++) {
		size_t length = whole + 8 - i; /* the longest first */

		if (size == 1 && length > UINT8_MAX)
			continue;
		if (size == 1)
			shorter[at] = (uint8_t)length;
		else if (size == 2)
			put_be16(shorter + at, (uint16_t)length);
		else
			put_be32(shorter + at, (uint32_t)length);
		a = disk_command(disk.nexus, shorter, NULL, 0);
		assert_good(a);
		assert_int_equal(a->in_length, min_size(length, whole));
		assert_int_equal(a->in_max >= a->in_length, true);
		if (i == 0)
			memcpy(full, a->in, whole);
		assert_memory_equal(a->in, full, a->in_length);
	}
}

static void
test_standard_inquiry(void **state)
{
	static const uint8_t head[] = {0x00, 0x00, 0x06, 0x12, 91, 0x18, 0x10, 0x02};
	static const uint8_t versions[] = {0x00, 0xa0, 0x04, 0x60, 0x04, 0xc0, 0x09, 0x60};
	static const uint8_t zeroes[64];
	const struct answer *a = disk_command(disk.nexus, CDB(0x12, 0, 0, 0, 255), NULL, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 96);
	assert_memory_equal(a->in, head, sizeof(head));
	assert_memory_equal(a->in + 8, "SLABD   disk            0001", 28);
	assert_memory_equal(a->in + 36, zeroes, 22);
	assert_memory_equal(a->in + 58, versions, sizeof(versions));
	assert_memory_equal(a->in + 66, zeroes, 30);
	check_truncation(CDB(0x12), 3, 2, 96);
	/* AERC: the target reports events of itself. */
	disk.target.events = true;
	a = disk_command(disk.nexus, CDB(0x12, 0, 0, 0, 255), NULL, 0);
	assert_int_equal(a->in[3], 0x92);
	disk.target.events = false;
}

static void
test_inquiry_of_a_missing_lun(void **state)
{
	const struct answer *a =
		disk_command_lun(disk.nexus, missing_lun, CDB(0x12, 0, 0, 0, 255), NULL, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 96);
	assert_int_equal(a->in[0], 0x7f);
	a = disk_command_lun(disk.nexus, missing_lun, CDB(0x12, 1, 0x83, 0, 255), NULL, 0);
	assert_bad_cdb(a, 2);
}

static void
test_wrong_inquiry(void **state)
{
	(void)state;
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x12, 0, 0x80, 0, 255), NULL, 0), 2);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x12, 1, 0x81, 0, 255), NULL, 0), 2);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x12, 2, 0, 0, 255), NULL, 0), 1); /* CMDDT */
}

static void
test_identity_from_the_configuration(void **state)
{
	char name[] = "db", vendor[] = "ACME\tInc", product[] = "A product with a long name",
	     serial[] = "S-4711", backend[] = "plain";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = MIB,
		.block_size = 512,
		.physical_block_size = 4096,
		.removable = true,
		.vendor = vendor,
		.product = product,
		.serial = serial};
	const struct answer *a;

	(void)state;
	disk_start_volume(disk_plain_volume(&conf, &(struct blk_info){0}));
	a = disk_command(disk.nexus, CDB(0x12, 0, 0, 0, 255), NULL, 0);
	assert_int_equal(a->in[1], 0x80);
	/* What is not printable is a space; what is too long is cut. */
	assert_memory_equal(a->in + 8, "ACME IncA product with a0001", 24);
	a = disk_command(disk.nexus, CDB(0x12, 1, 0x80, 0, 255), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in_length, 4 + 6);
	assert_memory_equal(a->in + 4, "S-4711", 6);
	disk_stop();
}

static void
test_read_capacity(void **state)
{
	static const uint8_t ten[] = {0, 0, 7, 0xff, 0, 0, 2, 0};
	uint8_t sixteen[32] = {0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 2, 0, 0, 0, 0xc0};
	const struct answer *a = disk_command(disk.nexus, CDB(0x25), NULL, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 8);
	assert_memory_equal(a->in, ten, 8);
	a = disk_command(disk.nexus, CDB(0x9e, 0x10, [13] = 32), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in_length, 32);
	assert_memory_equal(a->in, sixteen, 32);
	check_truncation(CDB(0x9e, 0x10), 10, 4, 32);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x25, 0, 1), NULL, 0), 2);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 1), NULL, 0), 8);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x9e, 0x11, [13] = 32), NULL, 0), 1);
}

static void
test_capacity_of_a_large_volume(void **state)
{
	char name[] = "db", backend[] = "plain";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = PIB,
		.block_size = 4096,
		.physical_block_size = 4096};
	const struct answer *a;

	(void)state;
	disk_start_volume(disk_plain_volume(&conf, &(struct blk_info){0}));
	disk_ready(disk.nexus);
	a = disk_command(disk.nexus, CDB(0x25), NULL, 0);
	assert_int_equal(get_be32(a->in), UINT32_MAX);
	assert_int_equal(get_be32(a->in + 4), 4096);
	a = disk_command(disk.nexus, CDB(0x9e, 0x10, [13] = 32), NULL, 0);
	assert_int_equal(get_be64(a->in), PIB / 4096 - 1);
	assert_int_equal(a->in[13], 0);
	assert_int_equal(a->in[14], 0); /* discard does nothing here */
	disk_stop();
}

static void
test_physical_blocks(void **state)
{
	const struct answer *a;

	(void)state;
	disk_start(&(struct volume_script_options){.size = MIB, .physical_block_size = 4096});
	disk_ready(disk.nexus);
	a = disk_command(disk.nexus, CDB(0x9e, 0x10, [13] = 32), NULL, 0);
	assert_int_equal(a->in[13], 3);
	disk_stop();
}

static void
test_report_luns(void **state)
{
	static const uint8_t luns[] = {0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0,
		0, 0, 0, 0, 0, 0x41, 0x02, 0, 0, 0, 0, 0, 0};
	/* SELECT REPORT: well known and administrative units there are none, nor subsidiary ones. */
	static const uint8_t all[] = {0x00, 0x02, 0x11}, none[] = {0x01, 0x10};
	const struct answer *a;

	(void)state;
	disk_add_lun(255, disk.luns[0].volume, false);
	disk_add_lun(0x102, disk.luns[0].volume, false);
	for (size_t i = 0; i < sizeof(all); i++) {
		a = disk_command(disk.nexus, CDB(0xa0, 0, all[i], [9] = 255), NULL, 0);
		assert_good(a);
		assert_int_equal(a->in_length, sizeof(luns));
		assert_memory_equal(a->in, luns, sizeof(luns));
	}
	for (size_t i = 0; i < sizeof(none); i++) {
		a = disk_command(disk.nexus, CDB(0xa0, 0, none[i], [9] = 255), NULL, 0);
		assert_int_equal(a->in_length, 8);
		assert_int_equal(get_be32(a->in), 0);
	}
	for (unsigned select = 3; select < 256; select++) {
		if (select < 0x10 || select > 0x11)
			assert_bad_cdb(disk_command(disk.nexus,
					       CDB(0xa0, 0, (uint8_t)select, [9] = 255), NULL, 0),
				2);
	}
	check_truncation(CDB(0xa0), 6, 4, sizeof(luns));
	/* Also where there is no such LUN, and with an attention pending, which stays. */
	assert_good(disk_command_lun(disk.nexus, missing_lun, CDB(0xa0, [9] = 255), NULL, 0));
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2907);
}

static void
test_request_sense(void **state)
{
	const struct answer *a;

	(void)state;
	/* A pending attention is the data, once. */
	a = disk_command(disk.other, CDB(0x03, 0, 0, 0, 255), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in_length, 18);
	assert_int_equal(a->in[0], 0x70);
	assert_int_equal(a->in[2], 6);
	assert_int_equal(get_be16(a->in + 12), 0x2900);
	a = disk_command(disk.other, CDB(0x03, 0, 0, 0, 255), NULL, 0);
	assert_int_equal(a->in[2], 0);
	assert_int_equal(get_be16(a->in + 12), 0);
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	a = disk_command(disk.nexus, CDB(0x03, 1, 0, 0, 255), NULL, 0); /* DESC */
	assert_int_equal(a->in_length, 8);
	assert_int_equal(a->in[0], 0x72);
	a = disk_command_lun(disk.nexus, missing_lun, CDB(0x03, 0, 0, 0, 255), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in[2], 5);
	assert_int_equal(get_be16(a->in + 12), 0x2500);
	check_truncation(CDB(0x03), 4, 1, 18);
}

static void
test_report_all_opcodes(void **state)
{
	const struct answer *a = disk_command(disk.nexus, CDB(0xa3, 0x0c, 0, [8] = 0x10), NULL, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 4 + 8 * scsi_opcodes_count);
	assert_int_equal(get_be32(a->in), 8 * scsi_opcodes_count);
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		const uint8_t *p = a->in + 4 + 8 * i;

		assert_int_equal(p[0], scsi_opcodes[i].opcode);
		assert_int_equal(get_be16(p + 2), scsi_opcodes[i].action);
		assert_int_equal(p[5], scsi_opcodes[i].flags & ROW_ACTION ? 1 : 0);
		assert_int_equal(get_be16(p + 6), disk_cdb_length(p[0]));
	}
	a = disk_command(disk.nexus, CDB(0xa3, 0x0c, 0x80, [8] = 0x10), NULL, 0); /* RCTD */
	assert_int_equal(a->in_length, 4 + 20 * scsi_opcodes_count);
	assert_int_equal(a->in[4 + 5] & 2, 2);
	assert_int_equal(get_be16(a->in + 12), 10);
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		const uint8_t *d = a->in + 4 + 20 * i;

		assert_int_equal(get_be32(d + 12), 0);
		assert_int_equal(get_be32(d + 16), d[0] == OP_SANITIZE        ? 86400
						   : d[0] == OP_WRITE_SAME_16 ? 300
						   : d[0] == OP_READ_10       ? 60
						   : d[0] == OP_INQUIRY       ? 30
									      : get_be32(d + 16));
		assert_in_range(get_be32(d + 16), 30, 86400);
	}
	check_truncation(CDB(0xa3, 0x0c), 6, 4, 4 + 8 * scsi_opcodes_count);
}

static void
test_report_one_opcode(void **state)
{
	static const uint8_t read_10[] = {
		0, 3, 0, 10, 0x28, 0x18, 255, 255, 255, 255, 0, 255, 255, 0};
	static const uint8_t capacity[] = {
		0, 3, 0, 16, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0};
	static const uint8_t none[] = {0, 1, 0, 0};
	static const struct {
		uint8_t option, opcode, action;
		const uint8_t *data; /* NULL: the option does not fit */
		size_t length;
	} rows[] = {
		{1, 0x28, 0, read_10, sizeof(read_10)},
		{1, 0x9e, 0x10, NULL, 0},
		{1, 0xff, 0, none, sizeof(none)},
		{2, 0x9e, 0x10, capacity, sizeof(capacity)},
		{2, 0x9e, 0x11, none, sizeof(none)},
		{2, 0x28, 0, NULL, 0},
		{3, 0x28, 0, read_10, sizeof(read_10)},
		{3, 0x28, 1, none, sizeof(none)},
		{3, 0x9e, 0x10, capacity, sizeof(capacity)},
		{3, 0x9e, 0x11, none, sizeof(none)},
		{4, 0x28, 0, NULL, 0},
	};
	const struct answer *a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		a = disk_command(disk.nexus,
			CDB(0xa3, 0x0c, rows[i].option, rows[i].opcode, 0,
				rows[i].action, [9] = 255),
			NULL, 0);
		if (!rows[i].data) {
			assert_bad_cdb(a, 2);
			continue;
		}
		assert_good(a);
		assert_int_equal(a->in_length, rows[i].length);
		assert_memory_equal(a->in, rows[i].data, rows[i].length);
	}
	a = disk_command(disk.nexus, CDB(0xa3, 0x0c, 0x81, 0x28, [9] = 255), NULL, 0);
	assert_int_equal(a->in_length, sizeof(read_10) + 12);
	assert_int_equal(a->in[1], 0x83);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_standard_inquiry, start, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_inquiry_of_a_missing_lun, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_wrong_inquiry, start, disk_teardown),
		cmocka_unit_test(test_identity_from_the_configuration),
		cmocka_unit_test_setup_teardown(test_read_capacity, start, disk_teardown),
		cmocka_unit_test(test_capacity_of_a_large_volume),
		cmocka_unit_test(test_physical_blocks),
		cmocka_unit_test_setup_teardown(test_report_luns, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_request_sense, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_report_all_opcodes, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_report_one_opcode, start, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_info", tests, NULL, NULL);
}
