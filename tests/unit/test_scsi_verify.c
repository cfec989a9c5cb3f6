/* scsi_verify.c */
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

static uint8_t pattern[64 * 1024];

static int
start(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.size = 64 * MIB, .volatile_cache = true});
	disk_ready(disk.nexus);
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7 + i / 512 + 1);
	return 0;
}

static const uint8_t *
make_cdb(uint8_t opcode, uint8_t flags, uint64_t lba, uint32_t blocks)
{
	static uint8_t cdb[16];

	memset(cdb, 0, sizeof(cdb));
	cdb[0] = opcode;
	cdb[1] = flags;
	switch (disk_cdb_length(opcode)) {
	case 10:
		put_be32(cdb + 2, (uint32_t)lba);
		put_be16(cdb + 7, (uint16_t)blocks);
		break;
	case 12:
		put_be32(cdb + 2, (uint32_t)lba);
		put_be32(cdb + 6, blocks);
		break;
	default:
		put_be64(cdb + 2, lba);
		put_be32(cdb + 10, blocks);
		break;
	}
	return cdb;
}

static const uint8_t verifies[] = {OP_VERIFY_10, OP_VERIFY_12, OP_VERIFY_16};
static const uint8_t writes[] = {
	OP_WRITE_AND_VERIFY_10, OP_WRITE_AND_VERIFY_12, OP_WRITE_AND_VERIFY_16};

enum { MEDIUM = 0, ALL = 2, RESERVED = 4, REPEATED = 6 };

/* MISCOMPARE with the block in INFORMATION. */
static void
assert_miscompare(const struct answer *a, uint32_t information)
{
	assert_sense(a, KEY_MISCOMPARE, ASC_MISCOMPARE);
	assert_int_equal(a->sense[0], 0xf0);
	assert_int_equal(get_be32(a->sense + 3), information);
}

static void
test_verify_medium(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(verifies); i++) {
		const struct answer *a =
			disk_command(disk.nexus, make_cdb(verifies[i], MEDIUM, 7, 5000), NULL, 0);
		uint64_t bytes = 0;

		assert_good(a);
		assert_int_equal(a->in_length, 0);
		for (unsigned j = 0; j < volume_script_calls(disk.script); j++) {
			assert_int_equal(volume_script_call(disk.script, j)->op, BLK_READ);
			bytes += volume_script_call(disk.script, j)->length;
		}
		assert_int_equal(bytes, 5000 * 512);
		volume_script_forget(disk.script);
	}
}

static void
test_verify_compares_each_block(void **state)
{
	(void)state;
	memcpy(disk_medium() + 100 * 512, pattern, 4096);
	for (size_t i = 0; i < ARRAY_SIZE(verifies); i++) {
		assert_good(disk_command(
			disk.nexus, make_cdb(verifies[i], ALL, 100, 8), pattern, 4096));
		pattern[5 * 512 + 511] ^= 1;
		assert_miscompare(
			disk_command(disk.nexus, make_cdb(verifies[i], ALL, 100, 8), pattern, 4096),
			105);
		pattern[5 * 512 + 511] ^= 1;
	}
}

/* More than one piece: what is compared moves on with what is read. */
static void
test_verify_long(void **state)
{
	static uint8_t data[3 * MIB];

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 13 + i / 4096);
	memcpy(disk_medium(), data, sizeof(data));
	assert_good(
		disk_command(disk.nexus, make_cdb(OP_VERIFY_16, ALL, 0, 6144), data, sizeof(data)));
	disk_medium()[2 * MIB + 1024] ^= 0x80;
	assert_miscompare(
		disk_command(disk.nexus, make_cdb(OP_VERIFY_16, ALL, 0, 6144), data, sizeof(data)),
		4098);
}

static void
test_verify_repeated_block(void **state)
{
	const struct answer *a;

	(void)state;
	for (unsigned i = 0; i < 4000; i++)
		memcpy(disk_medium() + (10 + i) * 512, pattern, 512);
	for (size_t i = 0; i < ARRAY_SIZE(verifies); i++) {
		a = disk_command(
			disk.nexus, make_cdb(verifies[i], REPEATED, 10, 4000), pattern, 512);
		assert_good(a);
		assert_int_equal(a->out_length, 512);
	}
	disk_medium()[(10 + 3999) * 512] ^= 1;
	assert_miscompare(
		disk_command(disk.nexus, make_cdb(OP_VERIFY_16, REPEATED, 10, 4000), pattern, 512),
		4009);
}

static void
test_verify_refuses(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(verifies); i++) {
		assert_bad_cdb(
			disk_command(disk.nexus, make_cdb(verifies[i], RESERVED, 0, 1), NULL, 0),
			1);
		assert_sense(disk_command(disk.nexus,
				     make_cdb(verifies[i], MEDIUM, 64 * MIB / 512, 1), NULL, 0),
			5, 0x2100);
		assert_sense(
			disk_command(disk.nexus, make_cdb(verifies[i], ALL, 0, 8), pattern, 4095),
			5, 0x0e03);
		assert_bad_cdb(
			disk_command(disk.nexus, make_cdb(writes[i], REPEATED, 0, 1), pattern, 512),
			1);
		/* No block at all is no error. */
		assert_good(disk_command(disk.nexus, make_cdb(verifies[i], ALL, 0, 0), NULL, 0));
	}
	assert_int_equal(volume_script_calls(disk.script), 0);
}

static void
test_verify_bad_medium(void **state)
{
	(void)state;
	volume_script_fail(disk.script, BLK_READ, -EIO, 1);
	assert_sense(
		disk_command(disk.nexus, make_cdb(OP_VERIFY_10, MEDIUM, 0, 8), NULL, 0), 3, 0x1100);
}

static void
test_write_and_verify(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(writes); i++) {
		for (unsigned check = MEDIUM; check <= ALL; check += ALL) {
			uint64_t lba = 64 * (i + 1) + check * 1024;

			volume_script_forget(disk.script);
			assert_good(disk_command(disk.nexus,
				make_cdb(writes[i], (uint8_t)check, lba, 8), pattern, 4096));
			assert_memory_equal(disk_medium() + lba * 512, pattern, 4096);
			/* On the medium before it is read back. */
			assert_int_equal(volume_script_calls(disk.script), 3);
			assert_int_equal(volume_script_call(disk.script, 0)->op, BLK_WRITE);
			assert_int_equal(volume_script_call(disk.script, 1)->op, BLK_FLUSH);
			assert_int_equal(volume_script_call(disk.script, 2)->op, BLK_READ);
		}
	}
}

/* Of what was announced, the whole blocks. */
static void
test_write_and_verify_short(void **state)
{
	(void)state;
	assert_good(disk_command(
		disk.nexus, make_cdb(OP_WRITE_AND_VERIFY_10, ALL, 0, 8), pattern, 1024 + 100));
	assert_memory_equal(disk_medium(), pattern, 1024);
	assert_int_equal(disk_medium()[1024], 0);
	assert_sense(
		disk_command(disk.nexus, make_cdb(OP_WRITE_AND_VERIFY_10, ALL, 0, 8), pattern, 511),
		5, 0x0e03);
}

static void
test_orwrite(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4096; i++)
		disk_medium()[4096 + i] = (uint8_t)(i * 3);
	assert_good(disk_command(disk.nexus, make_cdb(OP_ORWRITE, 0, 8, 8), pattern, 4096));
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(disk_medium()[4096 + i], (uint8_t)(i * 3) | pattern[i]);
	assert_int_equal(disk_medium()[8192], 0);
	assert_good(disk_command(disk.nexus, make_cdb(OP_ORWRITE, 0, 8, 0), NULL, 0));
	assert_sense(
		disk_command(disk.nexus, make_cdb(OP_ORWRITE, 0, 8, 8), pattern, 4095), 5, 0x0e03);
	assert_bad_cdb(
		disk_command(disk.nexus, make_cdb(OP_ORWRITE, 0, 0, 2049), pattern, 512), 10);
}

/* Another writer comes between the read and the write: a bit that he took away stays away. */
static void
test_orwrite_against_a_writer(void **state)
{
	static const uint8_t ones[512] = {0x01, 0x01};

	(void)state;
	disk_medium()[0] = 0xf0;
	volume_script_hold(disk.script, true);
	disk_begin(disk.nexus, make_cdb(OP_ORWRITE, 0, 0, 1), ones, 512);
	volume_script_complete(disk.script, 0, 0);
	virtual_run_until_idle();
	disk_medium()[0] = 0x80;
	volume_script_hold(disk.script, false);
	while (!disk_ended()) {
		for (unsigned i = 0; i < volume_script_calls(disk.script); i++) {
			if (!volume_script_call(disk.script, i)->completed)
				volume_script_complete(disk.script, i, 0);
		}
		virtual_run_until_idle();
	}
	assert_good(disk_end());
	assert_int_equal(disk_medium()[0], 0x81);
	assert_int_equal(disk_medium()[1], 0x01);
}

static const uint8_t *
atomic_cdb(uint64_t lba, uint16_t count)
{
	static uint8_t cdb[16];

	memset(cdb, 0, sizeof(cdb));
	cdb[0] = OP_WRITE_ATOMIC_16;
	put_be64(cdb + 2, lba);
	put_be16(cdb + 12, count);
	return cdb;
}

/* A volume that promises no more: one physical block. */
static void
test_write_atomic(void **state)
{
	uint8_t cdb[16];

	(void)state;
	memset(disk_medium(), 0x77, 2 * 4096);
	assert_good(disk_command(disk.nexus, atomic_cdb(5, 1), pattern, 512));
	assert_memory_equal(disk_medium() + 5 * 512, pattern, 512);
	assert_int_equal(disk_medium()[5 * 512 - 1], 0x77);
	assert_int_equal(disk_medium()[6 * 512], 0x77);
	assert_int_equal(disk_calls(BLK_COMPARE_WRITE), 1);
	assert_int_equal(disk_calls(BLK_WRITE), 0);
	assert_good(disk_command(disk.nexus, atomic_cdb(5, 0), NULL, 0));
	assert_bad_cdb(disk_command(disk.nexus, atomic_cdb(5, 2), pattern, 1024), 12);
	assert_sense(disk_command(disk.nexus, atomic_cdb(5, 1), pattern, 511), 5, 0x0e03);
	assert_sense(
		disk_command(disk.nexus, atomic_cdb(64 * MIB / 512, 1), pattern, 512), 5, 0x2100);
	memcpy(cdb, atomic_cdb(5, 1), sizeof(cdb));
	cdb[11] = 1; /* ATOMIC BOUNDARY */
	assert_bad_cdb(disk_command(disk.nexus, cdb, pattern, 512), 11);
}

/* Nothing but a multiple of a physical block, at one. */
static void
test_write_atomic_of_eighths(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.size = MIB, .physical_block_size = 4096});
	disk_ready(disk.nexus);
	assert_bad_cdb(disk_command(disk.nexus, atomic_cdb(0, 1), pattern, 512), 12);
	assert_bad_cdb(disk_command(disk.nexus, atomic_cdb(1, 8), pattern, 4096), 2);
	assert_good(disk_command(disk.nexus, atomic_cdb(8, 8), pattern, 4096));
	assert_memory_equal(disk_medium() + 4096, pattern, 4096);
	disk_stop();
}

/* Memory loses all or nothing: as much as can be compared at once. */
static void
test_write_atomic_of_memory(void **state)
{
	static uint8_t data[MIB], back[MIB];
	static const uint8_t lun[8] = {0, 1};
	char name[] = "atom", backend[] = "memory";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = 4 * MIB,
		.block_size = 512,
		.physical_block_size = 4096};
	struct volume *volume;
	struct error error;
	const struct answer *a;

	(void)state;
	disk_start(&(struct volume_script_options){.size = MIB});
	assert_int_equal(volume_open(&conf, &volume, &error), 0);
	disk_add_lun(1, volume, false);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i / 512 + 1);
	disk_command_lun(disk.nexus, lun, CDB(0), NULL, 0);
	assert_good(disk_command_lun(disk.nexus, lun, atomic_cdb(3, 2048), data, MIB));
	a = disk_command_lun(disk.nexus, lun, CDB(OP_READ_16, [9] = 3, [12] = 2048 >> 8), NULL, 0);
	assert_good(a);
	memcpy(back, a->in, MIB);
	assert_memory_equal(back, data, MIB);
	assert_bad_cdb(disk_command_lun(disk.nexus, lun, atomic_cdb(3, 2049), data, MIB), 12);
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	volume_put(volume);
	disk_stop();
}

static void
test_prefetch(void **state)
{
	static const uint8_t opcodes[] = {OP_PREFETCH_10, OP_PREFETCH_16};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(opcodes); i++) {
		const struct answer *a =
			disk_command(disk.nexus, make_cdb(opcodes[i], 2, 8, 16), NULL, 0);

		assert_int_equal(a->status, SCSI_CONDITION_MET);
		a = disk_command(disk.nexus, make_cdb(opcodes[i], 0, 8, 0), NULL, 0);
		assert_int_equal(a->status, SCSI_CONDITION_MET);
		assert_sense(disk_command(disk.nexus, make_cdb(opcodes[i], 0, 64 * MIB / 512, 1),
				     NULL, 0),
			5, 0x2100);
	}
	assert_int_equal(volume_script_call(disk.script, 0)->op, BLK_PREFETCH);
	assert_int_equal(volume_script_call(disk.script, 0)->length, 16 * 512);
	assert_int_equal(volume_script_call(disk.script, 1)->length, 64 * MIB - 8 * 512);
}

/* More is announced than the CDB takes. */
static void
test_too_much_data(void **state)
{
	const uint8_t *cdb;

	(void)state;
	assert_sense(disk_command(disk.nexus, CDB(OP_COMPARE_AND_WRITE, [13] = 1), pattern, 2048),
		5, 0x0e03);
	assert_bad_cdb(disk_command(disk.nexus, CDB(OP_COMPARE_AND_WRITE), pattern, 2048), 13);
	assert_good(disk_command(disk.nexus, CDB(OP_COMPARE_AND_WRITE), NULL, 0));
	cdb = make_cdb(OP_WRITE_SAME_10, 0, 0, 4);
	assert_sense(disk_command(disk.nexus, cdb, pattern, 1024), 5, 0x0e03);
	cdb = make_cdb(OP_WRITE_SAME_16, 0, 0, 4);
	assert_sense(disk_command(disk.nexus, cdb, pattern, 1024), 5, 0x0e03);
	assert_int_equal(volume_script_calls(disk.script), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_verify_medium, start, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_verify_compares_each_block, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_verify_long, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_verify_repeated_block, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_verify_refuses, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_verify_bad_medium, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_write_and_verify, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_write_and_verify_short, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_orwrite, start, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_orwrite_against_a_writer, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_write_atomic, start, disk_teardown),
		cmocka_unit_test(test_write_atomic_of_eighths),
		cmocka_unit_test(test_write_atomic_of_memory),
		cmocka_unit_test_setup_teardown(test_prefetch, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_too_much_data, start, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_verify", tests, NULL, NULL);
}
