/* scsi_provision.c */
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

static const uint64_t blocks = 16 * MIB / 512;

/* UNMAP */

static uint8_t list[8 + 16 * 300];

static void
put_descriptor(unsigned i, uint64_t lba, uint32_t count)
{
	memset(list + 8 + 16 * i, 0, 16);
	put_be64(list + 8 + 16 * i, lba);
	put_be32(list + 8 + 16 * i + 8, count);
}

static const struct answer *
unmap(unsigned descriptors)
{
	unsigned length = 8 + 16 * descriptors;

	put_be16(list, (uint16_t)(length - 2));
	put_be16(list + 2, (uint16_t)(length - 8));
	return disk_command(disk.nexus,
		CDB(OP_UNMAP, [7] = (uint8_t)(length >> 8), (uint8_t)length), list, length);
}

static void
test_unmap(void **state)
{
	(void)state;
	memset(disk_medium(), 0x77, 16 * MIB);
	put_descriptor(0, 10, 4);
	put_descriptor(1, 1000, 0);
	put_descriptor(2, blocks - 1, 1);
	put_descriptor(3, blocks, 0); /* nothing, at the end */
	volume_script_forget(disk.script);
	assert_good(unmap(4));
	assert_int_equal(volume_script_calls(disk.script), 2);
	assert_int_equal(volume_script_call(disk.script, 0)->op, BLK_DISCARD);
	assert_int_equal(volume_script_call(disk.script, 0)->offset, 10 * 512);
	assert_int_equal(volume_script_call(disk.script, 0)->length, 4 * 512);
	assert_int_equal(volume_script_call(disk.script, 1)->offset, (blocks - 1) * 512);
	assert_int_equal(disk_medium()[10 * 512 - 1], 0x77);
	assert_int_equal(disk_medium()[14 * 512], 0x77);
}

static void
test_unmap_of_nothing(void **state)
{
	(void)state;
	volume_script_forget(disk.script);
	assert_good(disk_command(disk.nexus, CDB(OP_UNMAP), NULL, 0));
	assert_good(unmap(0));
	put_descriptor(0, 5, 0);
	assert_good(unmap(1));
	assert_int_equal(volume_script_calls(disk.script), 0);
}

/* The list is checked whole before anything is done. */
static void
test_unmap_past_the_end(void **state)
{
	static const struct {
		uint64_t lba;
		uint32_t count;
	} wrong[] = {{16 * MIB / 512, 1}, {16 * MIB / 512 - 1, 2}, {16 * MIB / 512 + 1, 0},
		{UINT64_MAX, 1}, {0, UINT32_MAX}, {UINT64_MAX / 512, 512}, {UINT64_C(1) << 55, 1}};

	(void)state;
	volume_script_forget(disk.script);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		put_descriptor(0, 0, 8);
		put_descriptor(1, wrong[i].lba, wrong[i].count);
		assert_sense(unmap(2), 5, 0x2100);
	}
	assert_int_equal(volume_script_calls(disk.script), 0);
}

static void
test_unmap_lists(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 300; i++)
		put_descriptor(i, i * 2, 1);
	volume_script_forget(disk.script);
	assert_good(unmap(LIMIT_SCSI_UNMAP));
	assert_int_equal(disk_calls(BLK_DISCARD), LIMIT_SCSI_UNMAP);
	volume_script_forget(disk.script);
	assert_sense(unmap(LIMIT_SCSI_UNMAP + 1), 5, 0x2600);
	for (uint8_t length = 1; length < 8; length++)
		assert_sense(disk_command(disk.nexus, CDB(OP_UNMAP, [8] = length), list, length), 5,
			0x1a00);
	/* Less in the list than its header says; less sent than the CDB says. */
	unmap(2);
	volume_script_forget(disk.script);
	assert_sense(disk_command(disk.nexus, CDB(OP_UNMAP, [8] = 39), list, 39), 5, 0x1a00);
	assert_sense(disk_command(disk.nexus, CDB(OP_UNMAP, [8] = 40), list, 39), 5, 0x0e03);
	assert_sense(disk_command(disk.nexus, CDB(OP_UNMAP, [8] = 40), list, 0), 5, 0x0e03);
	assert_int_equal(volume_script_calls(disk.script), 0);
	/* What is left over after the last whole descriptor is ignored. */
	put_be16(list + 2, 39);
	assert_good(disk_command(disk.nexus, CDB(OP_UNMAP, [8] = 47), list, 47));
	assert_int_equal(disk_calls(BLK_DISCARD), 2);
	assert_bad_cdb(disk_command(disk.nexus, CDB(OP_UNMAP, 2, [8] = 8), list, 8), 1);
}

static const uint8_t *
same_cdb(bool sixteen, uint8_t flags, uint64_t lba, uint32_t count)
{
	static uint8_t cdb[16];

	memset(cdb, 0, sizeof(cdb));
	cdb[0] = sixteen ? OP_WRITE_SAME_16 : OP_WRITE_SAME_10;
	cdb[1] = flags;
	if (sixteen) {
		put_be64(cdb + 2, lba);
		put_be32(cdb + 10, count);
	} else {
		put_be32(cdb + 2, (uint32_t)lba);
		put_be16(cdb + 7, (uint16_t)count);
	}
	return cdb;
}

/* What is anchored keeps its place: zeroes are written to it. */
static void
test_anchor(void **state)
{
	static const uint8_t zeroes[512];
	const struct script_call *call;

	(void)state;
	memset(disk_medium(), 0x77, MIB);
	put_descriptor(0, 10, 4);
	unmap(1);
	volume_script_forget(disk.script);
	assert_good(disk_command(disk.nexus, CDB(OP_UNMAP, CDB_UNMAP_ANCHOR, [8] = 24), list, 24));
	assert_good(disk_command(
		disk.nexus, same_cdb(true, CDB_WS_ANCHOR | CDB_WS_UNMAP, 10, 4), zeroes, 512));
	assert_int_equal(volume_script_calls(disk.script), 2);
	for (unsigned i = 0; i < 2; i++) {
		call = volume_script_call(disk.script, i);
		assert_int_equal(call->op, BLK_ZERO);
		assert_int_equal(call->flags, 0);
		assert_int_equal(call->offset, 10 * 512);
		assert_int_equal(call->length, 4 * 512);
	}
}

static void
test_unmap_that_fails(void **state)
{
	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	for (unsigned i = 0; i < 4; i++)
		put_descriptor(i, i * 2, 1);
	volume_script_forget(disk.script);
	volume_script_hold(disk.script, true);
	disk_begin(disk.nexus, CDB(OP_UNMAP, [8] = 8 + 64), list, 0);
	assert_sense(disk_end(), 5, 0x0e03);
	put_be16(list, 70);
	put_be16(list + 2, 64);
	disk_begin(disk.nexus, CDB(OP_UNMAP, [8] = 8 + 64), list, 8 + 64);
	volume_script_complete(disk.script, 0, 0);
	virtual_run_until_idle();
	assert_false(disk_ended());
	volume_script_complete(disk.script, 1, -EIO);
	assert_sense(disk_end(), 3, 0x0c00);
	assert_int_equal(volume_script_calls(disk.script), 2);
	volume_script_hold(disk.script, false);
}

/* WRITE SAME */

static void
test_write_same_of_a_pattern(void **state)
{
	uint8_t block[512];

	(void)state;
	for (unsigned i = 0; i < 512; i++)
		block[i] = (uint8_t)(i + 1);
	for (unsigned sixteen = 0; sixteen < 2; sixteen++) {
		/* One; a vector full; one more; many. */
		static const uint32_t counts[] = {1, 255, 256, 257, 1000};

		for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
			const struct answer *a;

			memset(disk_medium(), 0xee, 16 * MIB);
			volume_script_forget(disk.script);
			a = disk_command(
				disk.nexus, same_cdb(sixteen, 0, 7, counts[i]), block, 512);
			assert_good(a);
			assert_int_equal(a->out_length, 512);
			assert_int_equal(disk_calls(BLK_WRITE), (counts[i] + 255) / 256);
			assert_int_equal(disk_medium()[7 * 512 - 1], 0xee);
			for (unsigned b = 0; b < counts[i]; b++)
				assert_memory_equal(disk_medium() + (7 + b) * 512, block, 512);
			assert_int_equal(disk_medium()[(7 + counts[i]) * 512], 0xee);
		}
	}
}

static void
test_write_same_of_zeroes(void **state)
{
	static const uint8_t zeroes[512];
	const struct script_call *call;

	(void)state;
	for (unsigned sixteen = 0; sixteen < 2; sixteen++) {
		for (unsigned unmap_bit = 0; unmap_bit < 2; unmap_bit++) {
			memset(disk_medium(), 0xee, MIB);
			volume_script_forget(disk.script);
			assert_good(disk_command(disk.nexus,
				same_cdb(sixteen, unmap_bit ? CDB_WS_UNMAP : 0, 1, 1000), zeroes,
				512));
			assert_int_equal(volume_script_calls(disk.script), 1);
			call = volume_script_call(disk.script, 0);
			assert_int_equal(call->op, BLK_ZERO);
			assert_int_equal(call->flags, unmap_bit ? BLK_MAY_UNMAP : 0);
			assert_int_equal(call->length, 1000 * 512);
			assert_int_equal(disk_medium()[511], 0xee);
			assert_int_equal(disk_medium()[512], 0);
			assert_int_equal(disk_medium()[1001 * 512 - 1], 0);
			assert_int_equal(disk_medium()[1001 * 512], 0xee);
		}
	}
}

/* SBC-3 5.43: UNMAP or not, what is read afterwards is the block that was sent. */
static void
test_write_same_unmaps_only_zeroes(void **state)
{
	uint8_t block[512];

	(void)state;
	memset(block, 0xff, sizeof(block));
	for (unsigned sixteen = 0; sixteen < 2; sixteen++) {
		memset(disk_medium(), 0xee, 16 * MIB);
		assert_good(disk_command(
			disk.nexus, same_cdb(sixteen, CDB_WS_UNMAP, blocks - 3, 0), block, 512));
		for (unsigned i = 3; i > 0; i--)
			assert_memory_equal(disk_medium() + (blocks - i) * 512, block, 512);
		assert_int_equal(disk_medium()[(blocks - 3) * 512 - 1], 0xee);
	}
}

static void
test_write_same_without_data(void **state)
{
	const struct answer *a;

	(void)state;
	memset(disk_medium(), 0xee, MIB);
	a = disk_command(disk.nexus, same_cdb(true, CDB_WS_NDOB | CDB_WS_UNMAP, 2, 3), NULL, 0);
	assert_good(a);
	assert_int_equal(a->out_length, 0);
	assert_int_equal(disk_medium()[2 * 512], 0);
	assert_int_equal(disk_medium()[5 * 512], 0xee);
	assert_bad_cdb(disk_command(disk.nexus, same_cdb(false, CDB_WS_NDOB, 2, 3), NULL, 0), 1);
}

/* 0 blocks: to the end. */
static void
test_write_same_to_the_end(void **state)
{
	static const uint8_t block[512] = {1, 2, 3};

	(void)state;
	for (unsigned sixteen = 0; sixteen < 2; sixteen++) {
		memset(disk_medium(), 0xee, 16 * MIB);
		assert_good(disk_command(
			disk.nexus, same_cdb(sixteen, 0, blocks - 300, 0), block, 512));
		assert_int_equal(disk_medium()[(blocks - 300) * 512 - 1], 0xee);
		for (uint64_t i = blocks - 300; i < blocks; i++)
			assert_memory_equal(disk_medium() + i * 512, block, 512);
		assert_good(disk_command(disk.nexus, same_cdb(sixteen, 0, blocks, 0), block, 512));
		assert_sense(
			disk_command(disk.nexus, same_cdb(sixteen, 0, blocks + 1, 0), block, 512),
			5, 0x2100);
	}
}

static void
test_write_same_refused(void **state)
{
	static const uint8_t block[512] = {1};

	(void)state;
	volume_script_forget(disk.script);
	for (unsigned sixteen = 0; sixteen < 2; sixteen++) {
		/* ANCHOR alone */
		assert_bad_cdb(
			disk_command(disk.nexus, same_cdb(sixteen, 0x10, 0, 1), block, 512), 1);
		assert_bad_cdb(
			disk_command(disk.nexus, same_cdb(sixteen, 0x20, 0, 1), block, 512), 1);
		assert_sense(disk_command(disk.nexus, same_cdb(sixteen, 0, blocks, 1), block, 512),
			5, 0x2100);
		assert_sense(
			disk_command(disk.nexus, same_cdb(sixteen, 0, blocks - 1, 2), block, 512),
			5, 0x2100);
		assert_sense(disk_command(disk.nexus, same_cdb(sixteen, 0, 0, 1), block, 256), 5,
			0x0e03);
	}
	assert_int_equal(volume_script_calls(disk.script), 0);
}

static void
test_write_same_that_fails(void **state)
{
	uint8_t block[512] = {1};

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	volume_script_forget(disk.script);
	volume_script_fail(disk.script, BLK_WRITE, -ENOSPC, 1);
	assert_sense(disk_command(disk.nexus, same_cdb(true, 0, 0, 1000), block, 512), 7, 0x2707);
	assert_int_equal(volume_script_calls(disk.script), 1);
	volume_script_fail(disk.script, BLK_ZERO, -EIO, 1);
	assert_sense(disk_command(disk.nexus, same_cdb(true, 1, 0, 1000), NULL, 0), 3, 0x0c00);
}

/* GET LBA STATUS */

static const struct answer *
lba_status(uint64_t lba, uint32_t allocated)
{
	static uint8_t cdb[16];

	memset(cdb, 0, sizeof(cdb));
	cdb[0] = OP_SERVICE_ACTION_IN_16;
	cdb[1] = SA_GET_LBA_STATUS;
	put_be64(cdb + 2, lba);
	put_be32(cdb + 10, allocated);
	return disk_command(disk.nexus, cdb, NULL, 0);
}

static void
assert_status(const struct answer *a, unsigned i, uint64_t lba, uint32_t count, uint8_t status)
{
	const uint8_t *p = a->in + 8 + 16 * i;

	assert_true(8 + 16 * (i + 1) <= a->in_length);
	assert_int_equal(get_be64(p), lba);
	assert_int_equal(get_be32(p + 8), count);
	assert_int_equal(get_be32(p + 12), (uint32_t)status << 24);
}

static void
test_lba_status(void **state)
{
	const struct answer *a;

	(void)state;
	volume_script_punch(disk.script, 10 * 512, 20 * 512);
	a = lba_status(0, 4096);
	assert_good(a);
	assert_int_equal(a->in_length, 8 + 3 * 16);
	assert_int_equal(get_be32(a->in), 4 + 3 * 16);
	assert_status(a, 0, 0, 10, 0);
	assert_status(a, 1, 10, 20, 1);
	assert_status(a, 2, 30, (uint32_t)blocks - 30, 0);
	/* It starts at the block asked for. */
	a = lba_status(15, 24);
	assert_int_equal(a->in_length, 24);
	assert_status(a, 0, 15, 15, 1);
	a = lba_status(blocks - 1, 24);
	assert_status(a, 0, blocks - 1, 1, 0);
	assert_sense(lba_status(blocks, 24), 5, 0x2100);
	assert_sense(lba_status(UINT64_MAX, 24), 5, 0x2100);
	for (uint32_t allocated = 0; allocated < 60; allocated++) {
		a = lba_status(0, allocated);
		assert_good(a);
		assert_int_equal(a->in_length, min_u64(allocated, get_be32(a->in) + 4));
	}
}

/* SBC-3 5.5: 0h, mapped or unknown, where a volume cannot tell; also of what was unmapped. */
static void
test_lba_status_unknown(void **state)
{
	char name[] = "db", backend[] = "plain";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = MIB,
		.block_size = 512,
		.physical_block_size = 512};
	static const uint8_t eight[24] = {0, 22, 0, 16, [19] = 8};
	const struct answer *a;

	(void)state;
	disk_start_volume(disk_plain_volume(&conf, &(struct blk_info){.discard_granularity = 512}));
	disk_ready(disk.nexus);
	assert_good(disk_command(disk.nexus, CDB(OP_UNMAP, [8] = 24), eight, 24));
	a = lba_status(0, 4096);
	assert_good(a);
	assert_status(a, 0, 0, MIB / 512, 0);
	disk_stop();
}

/* More extents than the longest answer holds. */
static void
test_lba_status_of_many_holes(void **state)
{
	const struct answer *a;

	(void)state;
	for (unsigned i = 0; i < 400; i++)
		volume_script_punch(disk.script, (2 * i + 1) * 512, 512);
	a = lba_status(0, UINT32_MAX);
	assert_good(a);
	assert_int_equal(a->in_length, 8 + 255 * 16);
	for (unsigned i = 0; i < 255; i++)
		assert_status(a, i, i, 1, i % 2);
	a = lba_status(255, UINT32_MAX);
	assert_status(a, 0, 255, 1, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_unmap, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_unmap_of_nothing, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_unmap_past_the_end, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_unmap_lists, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_anchor, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_unmap_that_fails, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_write_same_of_a_pattern, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_write_same_of_zeroes, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_write_same_unmaps_only_zeroes, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_write_same_without_data, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_write_same_to_the_end, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_write_same_refused, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_write_same_that_fails, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_lba_status, disk_setup, disk_teardown),
		cmocka_unit_test(test_lba_status_unknown),
		cmocka_unit_test_setup_teardown(
			test_lba_status_of_many_holes, disk_setup, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_provision", tests, NULL, NULL);
}
