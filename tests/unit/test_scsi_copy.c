/* scsi_copy.c, scsi_copy_list.c, scsi_copy_results.c */
#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "scsi/scsi_copy.h"

#define BLOCKS (16 * MIB / 512)

static const uint8_t lun_1[8] = {0, 1};

/* A second volume as LUN 1, and one that no LUN shows. */
static struct volume_script *second, *foreign;

/* The parameter list being made. */
static uint8_t list[8192];
static size_t list_length;
static unsigned cscds;

static int
start(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.size = 16 * MIB});
	second = volume_script_open(
		&(struct volume_script_options){.name = "second", .size = 16 * MIB});
	foreign = volume_script_open(
		&(struct volume_script_options){.name = "foreign", .size = 16 * MIB});
	disk_add_lun(1, volume_script_volume(second), false);
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	for (size_t i = 0; i < 16 * MIB; i++)
		disk_medium()[i] = (uint8_t)(i * 7 + i / 512 + 1);
	memset(volume_script_data(second), 0xee, 16 * MIB);
	volume_script_forget(disk.script);
	return 0;
}

static int
stop(void **state)
{
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	volume_script_close(second);
	volume_script_close(foreign);
	return disk_teardown(state);
}

static void
begin_list(uint8_t id, uint8_t usage)
{
	memset(list, 0, sizeof(list));
	list[0] = id;
	list[1] = (uint8_t)(usage << 3);
	list_length = COPY_HEADER_LID1;
	cscds = 0;
}

/* By the designator that page 83h gives: NAA, or EUI-64. */
static void
add_cscd(struct volume *volume, uint8_t type)
{
	uint8_t *d = list + list_length;
	const uint8_t *uuid = volume_uuid(volume);

	memset(d, 0, COPY_CSCD);
	d[0] = CSCD_IDENTIFICATION;
	d[4] = 1;
	d[5] = type;
	d[7] = 8;
	put_be64(d + 8, type == DESIGNATOR_NAA ? scsi_naa(uuid) : scsi_eui_64(uuid));
	put_be16(d + 30, 512);
	list_length += COPY_CSCD;
	cscds++;
	put_be16(list + 2, (uint16_t)(cscds * COPY_CSCD));
}

static void
count_segment(size_t size)
{
	list_length += size;
	put_be32(list + 8, (uint32_t)(list_length - COPY_HEADER_LID1 - cscds * COPY_CSCD));
}

static void
add_segment(uint16_t from, uint16_t to, uint16_t count, uint64_t from_lba, uint64_t to_lba)
{
	uint8_t *d = list + list_length;

	memset(d, 0, 28);
	d[0] = SEGMENT_BLOCK_TO_BLOCK;
	d[3] = 0x18;
	put_be16(d + 4, from);
	put_be16(d + 6, to);
	put_be16(d + 10, count);
	put_be64(d + 12, from_lba);
	put_be64(d + 20, to_lba);
	count_segment(28);
}

static void
add_bytes(uint16_t from, uint16_t to, uint32_t bytes, uint64_t from_byte, uint64_t to_byte)
{
	uint8_t *d = list + list_length;

	memset(d, 0, 32);
	d[0] = SEGMENT_WITH_OFFSET;
	d[3] = 0x1c;
	put_be16(d + 4, from);
	put_be16(d + 6, to);
	put_be32(d + 8, bytes);
	put_be64(d + 12, from_byte / 512);
	put_be64(d + 20, to_byte / 512);
	put_be16(d + 28, (uint16_t)(from_byte % 512));
	put_be16(d + 30, (uint16_t)(to_byte % 512));
	count_segment(32);
}

static const uint8_t *
copy_cdb(uint8_t action, size_t length)
{
	static uint8_t cdb[16];

	memset(cdb, 0, sizeof(cdb));
	cdb[0] = OP_EXTENDED_COPY;
	cdb[1] = action;
	put_be32(cdb + 10, (uint32_t)length);
	return cdb;
}

static const struct answer *
copy(void)
{
	return disk_command(disk.nexus, copy_cdb(0, list_length), list, list_length);
}

static const struct answer *
results(uint8_t action, uint8_t id)
{
	return disk_command(disk.nexus, CDB(OP_COPY_RESULTS, action, id, [12] = 4), NULL, 0);
}

static void
assert_copy_status(uint8_t id, uint8_t status, uint16_t segments, uint32_t bytes)
{
	const struct answer *a = results(SA_COPY_STATUS_LID1, id);

	assert_good(a);
	assert_int_equal(a->in_length, 12);
	assert_int_equal(get_be32(a->in), 8);
	assert_int_equal(a->in[4], status);
	assert_int_equal(get_be16(a->in + 5), segments);
	assert_int_equal(a->in[7], 0);
	assert_int_equal(get_be32(a->in + 8), bytes);
}

static void
test_within_a_unit(void **state)
{
	(void)state;
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_segment(0, 0, 2048, 0, BLOCKS - 2048);
	assert_good(copy());
	assert_memory_equal(disk_medium() + 15 * MIB, disk_medium(), MIB);
	assert_int_equal(disk_medium()[15 * MIB - 1],
		(uint8_t)((15 * MIB - 1) * 7 + (15 * MIB - 1) / 512 + 1));
	assert_copy_status(1, 1, 1, MIB);
	/* the unit that has the command needs no descriptor */
	begin_list(0, 3);
	add_segment(COPY_SELF, COPY_SELF, 8, 8, 100);
	assert_good(copy());
	assert_memory_equal(disk_medium() + 100 * 512, disk_medium() + 8 * 512, 4096);
}

static void
test_between_units(void **state)
{
	(void)state;
	begin_list(1, 2);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_cscd(volume_script_volume(second), DESIGNATOR_EUI_64);
	add_segment(0, 1, 5000, 17, 3);
	add_segment(1, 0, 1, 0, 0);
	add_segment(0, 1, 0, BLOCKS, BLOCKS);
	assert_good(copy());
	assert_memory_equal(
		volume_script_data(second) + 3 * 512, disk_medium() + 17 * 512, 5000 * 512);
	assert_int_equal(volume_script_data(second)[3 * 512 - 1], 0xee);
	assert_int_equal(volume_script_data(second)[5003 * 512], 0xee);
	assert_int_equal(disk_medium()[0], 0xee);
	assert_copy_status(1, 1, 3, 5001 * 512);
}

/* VMware's Clone Blocks: NAA designators, segments of 4 MiB, no list identifier kept. */
static void
test_clone_blocks(void **state)
{
	(void)state;
	volume_script_punch(disk.script, 5 * MIB, 2 * MIB);
	begin_list(0x55, 2);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_cscd(volume_script_volume(second), DESIGNATOR_NAA);
	for (uint64_t at = 0; at < 16 * MIB; at += 4 * MIB)
		add_segment(0, 1, 8192, at / 512, at / 512);
	volume_script_forget(second);
	assert_good(copy());
	assert_memory_equal(volume_script_data(second), disk_medium(), 16 * MIB);
	/* The hole is not read, nor written. */
	for (unsigned i = 0; i < volume_script_calls(disk.script); i++) {
		const struct script_call *call = volume_script_call(disk.script, i);

		if (call->op == BLK_READ)
			assert_true(
				call->offset + call->length <= 5 * MIB || call->offset >= 7 * MIB);
	}
	for (unsigned i = 0; i < volume_script_calls(second); i++) {
		const struct script_call *call = volume_script_call(second, i);

		assert_true(call->length <= MIB || call->op != BLK_WRITE);
		if (call->op == BLK_ZERO)
			assert_int_equal(call->flags, BLK_MAY_UNMAP);
		else
			assert_true(
				call->offset + call->length <= 5 * MIB || call->offset >= 7 * MIB);
	}
}

static void
test_bytes(void **state)
{
	(void)state;
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_cscd(volume_script_volume(second), DESIGNATOR_NAA);
	add_bytes(0, 1, 3 * MIB + 5, 1000, 2001);
	assert_good(copy());
	assert_memory_equal(volume_script_data(second) + 2001, disk_medium() + 1000, 3 * MIB + 5);
	assert_int_equal(volume_script_data(second)[2000], 0xee);
	assert_int_equal(volume_script_data(second)[2001 + 3 * MIB + 5], 0xee);
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_bytes(0, 0, LIMIT_SCSI_COPY_SEGMENT + 1, 0, 0);
	assert_sense(copy(), 5, 0x2600);
}

/* Source and destination overlap, this way and that, over holes and data: as memmove() does it. */
static void
test_overlaps(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	uint8_t *expected = malloc(16 * MIB);

	(void)state;
	print_message("seed %u\n", seed);
	srand(seed);
	for (unsigned round = 0; round < 24; round++) {
		uint64_t length = 1 + (uint64_t)rand() % (4 * MIB);
		uint64_t from = (uint64_t)rand() % (16 * MIB - length);
		uint64_t to = (uint64_t)rand() % (16 * MIB - length);

		if (round % 2) {
			to = from + (uint64_t)rand() % (2 * MIB);
			to = min_u64(to, 16 * MIB - length);
		}
		volume_script_punch(disk.script, (uint64_t)rand() % (14 * MIB) / 512 * 512,
			(uint64_t)rand() % MIB / 512 * 512);
		memcpy(expected, disk_medium(), 16 * MIB);
		memmove(expected + to, expected + from, length);
		begin_list(1, 0);
		add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
		add_bytes(0, 0, (uint32_t)length, from, to);
		assert_good(copy());
		assert_memory_equal(disk_medium(), expected, 16 * MIB);
	}
	free(expected);
}

/* Blocks of different size. */
static void
test_block_sizes(void **state)
{
	struct volume_script *large;

	(void)state;
	disk_start(&(struct volume_script_options){.size = 16 * MIB});
	large = volume_script_open(&(struct volume_script_options){
		.name = "large", .size = 16 * MIB, .block_size = 4096});
	disk_add_lun(1, volume_script_volume(large), false);
	disk_ready(disk.nexus);
	for (size_t i = 0; i < MIB; i++)
		disk_medium()[i] = (uint8_t)(i * 7 + i / 512 + 1);
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_cscd(volume_script_volume(large), DESIGNATOR_NAA);
	put_be16(list + list_length - 2, 4096);
	add_segment(0, 1, 16, 8, 1);
	add_segment(0, 1, 2, 32, 4);
	list[list_length - 27] = 0x02; /* DC: two of the destination's */
	assert_good(copy());
	assert_memory_equal(volume_script_data(large) + 4096, disk_medium() + 4096, 8192);
	assert_memory_equal(volume_script_data(large) + 4 * 4096, disk_medium() + 32 * 512, 8192);
	add_segment(0, 1, 7, 0, 0);
	assert_sense(copy(), 0xa, 0x260a);
	assert_copy_status(1, 2, 2, 16384);
	/* A descriptor that has the block length wrong. */
	put_be16(list + COPY_HEADER_LID1 + 2 * COPY_CSCD - 2, 512);
	assert_sense(copy(), 0xa, 0x0d03);
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	volume_script_close(large);
	disk_stop();
}

/* Promises R11: what the nexus does not see is not there. */
static void
test_foreign_volumes(void **state)
{
	unsigned calls = volume_script_calls(foreign);

	(void)state;
	for (unsigned way = 0; way < 2; way++) {
		begin_list(1, 0);
		add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
		add_cscd(volume_script_volume(foreign), DESIGNATOR_NAA);
		add_segment((uint16_t)way, (uint16_t)!way, 8, 0, 0);
		assert_sense(copy(), 0xa, 0x0d02);
	}
	/* A descriptor that no segment uses does no harm. */
	add_segment(0, 0, 8, 0, 8);
	memmove(list + list_length - 56, list + list_length - 28, 28);
	list_length -= 28;
	count_segment(0);
	assert_good(copy());
	assert_int_equal(volume_script_calls(foreign), calls);
	/* One that is being removed is not there any more. */
	volume_set_going(volume_script_volume(second));
	scsi_nexus_drop_volume(disk.nexus, volume_script_volume(second));
	begin_list(1, 0);
	add_cscd(volume_script_volume(second), DESIGNATOR_NAA);
	add_segment(0, COPY_SELF, 8, 0, 0);
	assert_sense(copy(), 0xa, 0x0d02);
}

static void
test_descriptors_that_name_nothing(void **state)
{
	static const struct {
		unsigned byte;
		uint8_t value;
		uint16_t code;
	} rows[] = {
		{1, 0x01, 0x0d03}, /* a tape */
		{4, 0x02, 0x0d02}, /* ASCII */
		{5, 0x13, 0x0d02}, /* of a port */
		{5, 0x01, 0x0d02}, /* T10 */
		{7, 7, 0x0d02},    /* length */
		{29, 1, 0x0d03},   /* DISK BLOCK LENGTH */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		begin_list(1, 0);
		add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
		list[COPY_HEADER_LID1 + rows[i].byte] = rows[i].value;
		add_segment(0, 0, 8, 0, 8);
		assert_sense(copy(), 0xa, rows[i].code);
	}
	/* Obsolete: LU ID TYPE, NUL. */
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	list[COPY_HEADER_LID1 + 1] = 0xe0;
	add_segment(0, 0, 8, 0, 8);
	assert_good(copy());
	assert_int_equal(disk_calls(BLK_WRITE), 1);
}

static void
test_wrong_lists(void **state)
{
	(void)state;
	assert_good(disk_command(disk.nexus, copy_cdb(0, 0), NULL, 0));
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_segment(0, 0, 8, 0, 8);
	/* truncated in the header, the CSCD descriptor, the segment */
	for (size_t length = 1; length < list_length; length++)
		assert_sense(
			disk_command(disk.nexus, copy_cdb(0, length), list, length), 5, 0x1a00);
	assert_sense(disk_command(disk.nexus, copy_cdb(0, list_length), list, list_length - 1), 5,
		0x0e03);
	assert_sense(
		disk_command(disk.nexus, copy_cdb(0, sizeof(list)), list, sizeof(list)), 5, 0x1a00);
	list[4] = 1;
	assert_sense(copy(), 5, 0x2600);
	list[4] = 0;
	list[15] = 1; /* inline data */
	assert_sense(copy(), 5, 0x260b);
	list[15] = 0;
	list[1] = 1 << 3;
	assert_sense(copy(), 5, 0x2600);
	list[1] = 3 << 3; /* no identifier, and one */
	assert_sense(copy(), 5, 0x2600);
	list[1] = 0;
	list[COPY_HEADER_LID1] = 0xe0;
	assert_sense(copy(), 5, 0x2607);
	list[COPY_HEADER_LID1] = CSCD_IDENTIFICATION;
	list[COPY_HEADER_LID1 + COPY_CSCD] = 0x03;
	assert_sense(copy(), 5, 0x2609);
	list[COPY_HEADER_LID1 + COPY_CSCD] = SEGMENT_BLOCK_TO_BLOCK;
	list[COPY_HEADER_LID1 + COPY_CSCD + 3] = 0x17;
	assert_sense(copy(), 5, 0x2600);
	assert_int_equal(volume_script_calls(disk.script), 0);
}

static void
test_too_many_descriptors(void **state)
{
	(void)state;
	begin_list(1, 0);
	for (unsigned i = 0; i <= LIMIT_SCSI_COPY_TARGETS; i++)
		add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_segment(0, 0, 8, 0, 8);
	assert_sense(copy(), 5, 0x2606);
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	for (unsigned i = 0; i < LIMIT_SCSI_COPY_SEGMENTS; i++)
		add_segment(0, 0, 1, i, 1000 + i);
	assert_good(copy());
	assert_memory_equal(disk_medium() + 1000 * 512, disk_medium(), 64 * 512);
	add_segment(0, 0, 8, 0, 8);
	assert_sense(copy(), 5, 0x2608);
}

/* What was done before stays done, and the results say how far it came. */
static void
test_segments_that_fail(void **state)
{
	const struct answer *a;

	(void)state;
	begin_list(7, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_segment(0, 0, 8, 0, 100);
	add_segment(0, 1, 8, 0, 200); /* there is no such descriptor */
	a = copy();
	assert_sense(a, 0xa, 0x0804);
	assert_int_equal(get_be32(a->sense + 8), 1);
	assert_memory_equal(disk_medium() + 100 * 512, disk_medium(), 4096);
	assert_copy_status(7, 2, 1, 4096);
	a = results(SA_COPY_FAILED_SEGMENT, 7);
	assert_good(a);
	assert_int_equal(a->in_length, 60 + 18);
	assert_int_equal(a->in[56], SCSI_CHECK_CONDITION);
	assert_int_equal(get_be16(a->in + 58), 18);
	assert_int_equal(a->in[60 + 2], 0xa);
	assert_int_equal(get_be16(a->in + 60 + 12), 0x0804);
	/* past either end */
	begin_list(7, 0);
	add_segment(COPY_SELF, COPY_SELF, 8, BLOCKS - 7, 0);
	assert_sense(copy(), 0xa, 0);
	begin_list(7, 0);
	add_segment(COPY_SELF, COPY_SELF, 8, 0, BLOCKS - 7);
	assert_sense(copy(), 0xa, 0);
	begin_list(7, 0);
	add_segment(COPY_SELF, COPY_SELF, 8, 0, UINT64_MAX / 512 + 1);
	assert_sense(copy(), 0xa, 0);
}

static void
test_disks_that_fail(void **state)
{
	static const struct {
		enum blk_op op;
		int rc;
		uint16_t code;
	} rows[] = {
		{BLK_READ, -EIO, 0x0d01},
		{BLK_EXTENTS, -EIO, 0x0d01},
		{BLK_WRITE, -EIO, 0x0d01},
		{BLK_WRITE, -ENOSPC, 0x2707},
		{BLK_WRITE, -ENODEV, 0x0d02},
		{BLK_ZERO, -EIO, 0x0d01},
	};

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	volume_script_punch(disk.script, MIB, MIB);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		begin_list(1, 0);
		add_segment(COPY_SELF, COPY_SELF, 8192, 0, 16384);
		volume_script_fail(disk.script, rows[i].op, rows[i].rc, 1);
		assert_sense(copy(), 0xa, rows[i].code);
		assert_good(copy());
	}
}

/* Each end is asked whether it may be read, or written. */
static void
test_rights(void **state)
{
	static const uint8_t take[24] = {[7] = 1};

	(void)state;
	disk_add_lun(2, disk.luns[1].volume, true);
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_cscd(disk.luns[1].volume, DESIGNATOR_NAA);
	add_segment(0, 1, 8, 0, 0);
	assert_good(copy()); /* of the two LUNs the one that may be written */
	/* Another nexus reserves the destination for its writes alone. */
	disk_command_lun(disk.other, lun_1, CDB(0), NULL, 0);
	assert_good(disk_command_lun(disk.other, lun_1, CDB(OP_RESERVE_OUT, 0, 0, [8] = 24),
		(const uint8_t[24]){[15] = 1}, 24));
	assert_good(
		disk_command_lun(disk.other, lun_1, CDB(OP_RESERVE_OUT, 1, 1, [8] = 24), take, 24));
	assert_sense(copy(), 0xa, 0x0d01);
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_cscd(disk.luns[1].volume, DESIGNATOR_NAA);
	add_segment(1, 0, 8, 0, 0);
	assert_good(copy()); /* it may be read */
	/* Sent to a unit that is reserved, it is a conflict. */
	assert_int_equal(
		disk_command_lun(disk.nexus, lun_1, copy_cdb(0, list_length), list, list_length)
			->status,
		SCSI_CHECK_CONDITION); /* POWER ON */
	assert_int_equal(
		disk_command_lun(disk.nexus, lun_1, copy_cdb(0, list_length), list, list_length)
			->status,
		SCSI_RESERVATION_CONFLICT);
}

static void
test_a_write_protected_destination(void **state)
{
	struct volume_script *protected;

	(void)state;
	disk_start(&(struct volume_script_options){.size = MIB});
	protected = volume_script_open(&(struct volume_script_options){
		.name = "protected", .size = MIB, .read_only = true});
	disk_add_lun(1, volume_script_volume(protected), false);
	disk_ready(disk.nexus);
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_cscd(volume_script_volume(protected), DESIGNATOR_NAA);
	add_segment(0, 1, 8, 0, 0);
	assert_sense(copy(), 0xa, 0x0d01);
	list_length -= 28;
	add_segment(1, 0, 8, 0, 0);
	assert_good(copy());
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	volume_script_close(protected);
	disk_stop();
}

/* Volumes that take less at once than a piece. */
static void
test_small_transfers(void **state)
{
	struct volume_script *small;

	(void)state;
	disk_start(&(struct volume_script_options){.size = 4 * MIB});
	small = volume_script_open(&(struct volume_script_options){
		.name = "small", .size = 4 * MIB, .transfer_max = 65536});
	disk_add_lun(1, volume_script_volume(small), false);
	disk_ready(disk.nexus);
	for (size_t i = 0; i < 4 * MIB; i++)
		disk_medium()[i] = (uint8_t)(i * 7 + i / 512 + 1);
	begin_list(1, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_cscd(volume_script_volume(small), DESIGNATOR_NAA);
	add_segment(0, 1, 8192, 0, 0);
	add_segment(1, 1, 4000, 0, 100);
	add_segment(1, 0, 4000, 0, 0);
	assert_good(copy());
	assert_memory_equal(volume_script_data(small), disk_medium(), 4000 * 512);
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	volume_script_close(small);
	disk_stop();
}

/*
 * Lists that were right but for a few bytes, cut anywhere: each is answered, and nothing foreign
 * is touched.
 */
static void
test_garbage(void **state)
{
	unsigned seed = (unsigned)time(NULL), foreign_calls = volume_script_calls(foreign);

	(void)state;
	print_message("seed %u\n", seed);
	srand(seed);
	log_set_level(LOG_LEVEL_ERROR);
	for (unsigned round = 0; round < 20000; round++) {
		bool lid4 = rand() % 4 == 0;

		begin_list((uint8_t)(rand() % 3), (uint8_t)(rand() % 4));
		for (int i = rand() % 3; i >= 0; i--)
			add_cscd(disk.luns[rand() % 2].volume, (uint8_t)(2 + rand() % 2));
		for (int i = rand() % 4; i > 0; i--) {
			if (rand() % 2)
				add_segment((uint16_t)(rand() % 4), (uint16_t)(rand() % 4),
					(uint16_t)(rand() % 16), (unsigned)rand() % BLOCKS,
					(unsigned)rand() % BLOCKS);
			else
				add_bytes((uint16_t)(rand() % 4), (uint16_t)(rand() % 4),
					(uint32_t)(rand() % 5000), (unsigned)rand() % (16 * MIB),
					(unsigned)rand() % (16 * MIB));
		}
		for (int i = rand() % 4; i > 0; i--)
			list[(unsigned)rand() % list_length] = (uint8_t)rand();
		if (rand() % 4 == 0)
			list_length = (unsigned)rand() % (list_length + 8);
		disk_command(disk.nexus, copy_cdb(lid4, list_length), list, list_length);
		disk_command(disk.nexus,
			CDB(OP_COPY_RESULTS, (uint8_t)(rand() % 6),
				(uint8_t)(rand() % 3), [13] = 64),
			NULL, 0);
		if (volume_script_calls(disk.script) > 60000)
			volume_script_forget(disk.script);
		if (volume_script_calls(second) > 60000)
			volume_script_forget(second);
	}
	assert_int_equal(volume_script_calls(foreign), foreign_calls);
}

static bool late_done;

static void
on_late(struct scsi_task *task)
{
	(void)task;
	late_done = true;
}

/* A copy beside the tasks of the harness. */
static void
begin_late(struct scsi_task *task)
{
	memset(task, 0, sizeof(*task));
	task->nexus = disk.nexus;
	memcpy(task->cdb, copy_cdb(0, list_length), 16);
	task->cdb_length = 16;
	task->portal_id = 2;
	task->out_expected = list_length;
	task->done = on_late;
	late_done = false;
	assert_true(scsi_prepare(task));
	assert_int_equal(iobuf_take(&task->out, list_length), 0);
	iov_from(task->out.iov, task->out.niov, 0, list, list_length);
	scsi_execute(task);
	virtual_run_until_idle();
	assert_false(late_done);
}

static void
end_late(struct scsi_task *task)
{
	volume_script_hold(disk.script, false);
	volume_script_complete_all(disk.script, 0);
	virtual_run_until_idle();
	assert_true(late_done);
	iobuf_free(&task->in);
	iobuf_free(&task->out);
}

static void
test_while_it_runs(void **state)
{
	struct scsi_task late;
	const struct answer *a;

	(void)state;
	begin_list(9, 0);
	add_segment(COPY_SELF, COPY_SELF, 8192, 0, 16384);
	volume_script_hold(disk.script, true);
	begin_late(&late);
	assert_copy_status(9, 0, 0, 0);
	assert_bad_cdb(results(SA_COPY_FAILED_SEGMENT, 9), 2);
	assert_sense(copy(), 5, 0x0016); /* its identifier is taken */
	end_late(&late);
	assert_int_equal(late.status, SCSI_GOOD);
	assert_copy_status(9, 1, 1, 4 * MIB);
	a = results(SA_COPY_DATA, 9);
	assert_good(a);
	assert_int_equal(a->in_length, 4);
	/* Another nexus knows nothing of it. */
	assert_bad_cdb(disk_command(disk.other, CDB(OP_COPY_RESULTS, 0, 9, [13] = 12), NULL, 0), 2);
}

/* By its nexus, or by the transport. */
static void
test_taken_back(void **state)
{
	struct scsi_task late;

	(void)state;
	for (unsigned way = 0; way < 2; way++) {
		begin_list(9, 0);
		add_segment(COPY_SELF, COPY_SELF, 8192, 0, 16384);
		volume_script_hold(disk.script, true);
		begin_late(&late);
		if (way == 0)
			scsi_cancel(&late);
		else
			assert_good(disk_command(disk.nexus,
				CDB(OP_EXTENDED_COPY, SA_COPY_ABORT, [5] = 9), NULL, 0));
		end_late(&late);
		assert_int_equal(late.status, SCSI_CHECK_CONDITION);
		assert_int_equal(late.sense[2], 0xa);
		assert_int_equal(disk_calls(BLK_WRITE), 0);
		assert_copy_status(9, 2, 0, 0);
		assert_bad_cdb(disk_command(disk.nexus,
				       CDB(OP_EXTENDED_COPY, SA_COPY_ABORT, [5] = 9), NULL, 0),
			2);
	}
}

/* So many are remembered; the oldest is forgotten. */
static void
test_remembered(void **state)
{
	(void)state;
	for (uint8_t id = 1; id <= LIMIT_SCSI_COPIES + 1; id++) {
		begin_list(id, 0);
		add_segment(COPY_SELF, COPY_SELF, 1, 0, 1);
		assert_good(copy());
	}
	assert_bad_cdb(results(SA_COPY_STATUS_LID1, 1), 2);
	for (uint8_t id = 2; id <= LIMIT_SCSI_COPIES + 1; id++)
		assert_copy_status(id, 1, 1, 512);
}

static void
test_lid4(void **state)
{
	static const unsigned wrong[] = {0, 2, 3, 15, 16, 47};
	uint8_t long_list[COPY_HEADER_LID4 + COPY_CSCD + 28] = {1, 0, 0, 0x20, [16] = 0xff};
	const struct answer *a;
	const uint8_t *cdb;

	(void)state;
	begin_list(0, 0);
	add_cscd(disk.luns[0].volume, DESIGNATOR_NAA);
	add_segment(0, 0, 2048, 0, BLOCKS - 2048);
	memcpy(long_list + COPY_HEADER_LID4, list + COPY_HEADER_LID1, COPY_CSCD + 28);
	put_be32(long_list + 20, 0x12345678);
	put_be16(long_list + 42, COPY_CSCD);
	put_be16(long_list + 44, 28);
	cdb = copy_cdb(1, sizeof(long_list));
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		long_list[wrong[i]] ^= 1;
		assert_sense(disk_command(disk.nexus, cdb, long_list, sizeof(long_list)), 5,
			wrong[i] == 47 ? 0x260b : 0x2600);
		long_list[wrong[i]] ^= 1;
	}
	assert_good(disk_command(disk.nexus, cdb, long_list, sizeof(long_list)));
	assert_memory_equal(disk_medium() + 15 * MIB, disk_medium(), MIB);
	a = disk_command(disk.nexus,
		CDB(OP_COPY_RESULTS, SA_COPY_STATUS_LID4, 0x12, 0x34, 0x56, 0x78, [13] = 255), NULL,
		0);
	assert_good(a);
	assert_int_equal(a->in_length, 32);
	assert_int_equal(get_be32(a->in), 28);
	assert_int_equal(a->in[4], SA_EXTENDED_COPY_LID4);
	assert_int_equal(a->in[5], 0x01);
	assert_int_equal(get_be64(a->in + 16), MIB);
	assert_int_equal(get_be16(a->in + 24), 1);
	assert_bad_cdb(
		disk_command(disk.nexus,
			CDB(OP_COPY_RESULTS, SA_COPY_STATUS_LID4, [5] = 1, [13] = 255), NULL, 0),
		2);
}

static void
test_parameters(void **state)
{
	static const uint8_t types[] = {0x02, 0x0a, 0xe4};
	const struct answer *a = results(SA_COPY_PARAMETERS, 0);

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 44 + 3);
	assert_int_equal(get_be32(a->in), 43);
	assert_int_equal(a->in[4], 1);
	assert_int_equal(get_be16(a->in + 8), LIMIT_SCSI_COPY_TARGETS);
	assert_int_equal(get_be16(a->in + 10), LIMIT_SCSI_COPY_SEGMENTS);
	assert_int_equal(get_be32(a->in + 12), LIMIT_SCSI_COPY_LIST);
	assert_int_equal(get_be32(a->in + 16), LIMIT_SCSI_COPY_SEGMENT);
	assert_int_equal(get_be16(a->in + 34), LIMIT_SCSI_COPIES);
	assert_int_equal(a->in[36], LIMIT_SCSI_COPIES);
	assert_int_equal(a->in[43], 3);
	assert_memory_equal(a->in + 44, types, 3);
	assert_bad_cdb(results(SA_COPY_STATUS_LID1, 1), 2);
	assert_bad_cdb(results(SA_COPY_DATA, 1), 2);
}

/* Descriptors that adjoin, each a multiple of 4 bytes. */
static void
test_third_party_page(void **state)
{
	static const uint8_t commands[] = {0x00, 0x01, 0x00, 0x10, 12, 0x83, 3, 0x00, 0x01, 0x1c,
		0x84, 5, 0x00, 0x01, 0x03, 0x04, 0x05};
	static const uint16_t expected[] = {0x0001, 0x0004, 0x0008, 0x000c, 0x8001};
	const struct answer *a = disk_command(disk.nexus, CDB(0x12, 1, 0x8f, 1), NULL, 0);
	unsigned n = 0;

	(void)state;
	assert_good(a);
	assert_int_equal(a->in[1], 0x8f);
	assert_int_equal(get_be16(a->in + 2), a->in_length - 4);
	assert_memory_equal(a->in + 4, commands, sizeof(commands));
	for (size_t at = 4; at < a->in_length; at += 4u + get_be16(a->in + at + 2)) {
		assert_int_equal(get_be16(a->in + at), expected[n++]);
		assert_int_equal(get_be16(a->in + at + 2) % 4, 0);
		if (expected[n - 1] == 0x0004 || expected[n - 1] == 0x8001)
			assert_int_equal(
				get_be16(a->in + at + 2), expected[n - 1] == 0x0004 ? 28 : 32);
	}
	assert_int_equal(n, ARRAY_SIZE(expected));
	a = disk_command(disk.nexus, CDB(0x12, [4] = 96), NULL, 0);
	assert_int_equal(a->in[5] & 0x08, 0x08); /* 3PC */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_within_a_unit, start, stop),
		cmocka_unit_test_setup_teardown(test_between_units, start, stop),
		cmocka_unit_test_setup_teardown(test_clone_blocks, start, stop),
		cmocka_unit_test_setup_teardown(test_bytes, start, stop),
		cmocka_unit_test_setup_teardown(test_overlaps, start, stop),
		cmocka_unit_test(test_block_sizes),
		cmocka_unit_test_setup_teardown(test_foreign_volumes, start, stop),
		cmocka_unit_test_setup_teardown(test_descriptors_that_name_nothing, start, stop),
		cmocka_unit_test_setup_teardown(test_wrong_lists, start, stop),
		cmocka_unit_test_setup_teardown(test_too_many_descriptors, start, stop),
		cmocka_unit_test_setup_teardown(test_segments_that_fail, start, stop),
		cmocka_unit_test_setup_teardown(test_disks_that_fail, start, stop),
		cmocka_unit_test_setup_teardown(test_rights, start, stop),
		cmocka_unit_test(test_a_write_protected_destination),
		cmocka_unit_test(test_small_transfers),
		cmocka_unit_test_setup_teardown(test_garbage, start, stop),
		cmocka_unit_test_setup_teardown(test_while_it_runs, start, stop),
		cmocka_unit_test_setup_teardown(test_taken_back, start, stop),
		cmocka_unit_test_setup_teardown(test_remembered, start, stop),
		cmocka_unit_test_setup_teardown(test_lid4, start, stop),
		cmocka_unit_test_setup_teardown(test_parameters, start, stop),
		cmocka_unit_test_setup_teardown(test_third_party_page, start, stop),
	};

	return cmocka_run_group_tests_name("scsi_copy", tests, NULL, NULL);
}
