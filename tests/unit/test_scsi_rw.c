/* scsi_rw.c */
#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "scsi/scsi_internal.h"

static uint8_t pattern[64 * 1024];

static int
start(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.size = 256 * MIB, .volatile_cache = true});
	disk_ready(disk.nexus);
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7 + i / 512 + 1);
	return 0;
}

/* A READ or WRITE of either of the four lengths. */
static const uint8_t *
rw_cdb(uint8_t opcode, uint8_t flags, uint64_t lba, uint32_t blocks)
{
	static uint8_t cdb[16];

	memset(cdb, 0, sizeof(cdb));
	cdb[0] = opcode;
	cdb[1] = flags;
	switch (disk_cdb_length(opcode)) {
	case 6:
		put_be24(cdb + 1, (uint32_t)lba);
		cdb[4] = (uint8_t)blocks;
		break;
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

static const uint8_t reads[] = {OP_READ_6, OP_READ_10, OP_READ_12, OP_READ_16};
static const uint8_t writes[] = {OP_WRITE_6, OP_WRITE_10, OP_WRITE_12, OP_WRITE_16};

static void
test_round_trip(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(reads); i++) {
		const struct answer *a;
		uint64_t lba = 1000 * (i + 1);

		a = disk_command(disk.nexus, rw_cdb(writes[i], 0, lba, 8), pattern + i, 4096);
		assert_good(a);
		assert_int_equal(a->out_length, 4096);
		assert_int_equal(a->in_length, 0);
		assert_memory_equal(disk_medium() + lba * 512, pattern + i, 4096);
		assert_int_equal(disk_medium()[lba * 512 - 1], 0);
		assert_int_equal(disk_medium()[lba * 512 + 4096], 0);

		a = disk_command(disk.nexus, rw_cdb(reads[i], 0, lba, 8), NULL, 0);
		assert_good(a);
		assert_int_equal(a->in_max, 4096);
		assert_int_equal(a->in_length, 4096);
		assert_memory_equal(a->in, pattern + i, 4096);
	}
}

/* READ(6) and WRITE(6): 0 means 256 blocks; elsewhere it means none. */
static void
test_zero_blocks(void **state)
{
	const struct answer *a;

	(void)state;
	a = disk_command(disk.nexus, rw_cdb(OP_READ_6, 0, 0, 0), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in_length, 256 * 512);
	a = disk_command(disk.nexus, rw_cdb(OP_WRITE_6, 0, 0, 0), pattern, 0);
	assert_int_equal(a->out_length, 256 * 512);
	volume_script_forget(disk.script);
	for (size_t i = 1; i < ARRAY_SIZE(reads); i++) {
		uint64_t end = 256 * MIB / 512;

		a = disk_command(disk.nexus, rw_cdb(reads[i], 0, end, 0), NULL, 0);
		assert_good(a);
		assert_int_equal(a->in_length, 0);
		assert_good(disk_command(disk.nexus, rw_cdb(writes[i], 0, end, 0), NULL, 0));
		assert_sense(disk_command(disk.nexus, rw_cdb(reads[i], 0, end + 1, 0), NULL, 0), 5,
			0x2100);
		assert_sense(disk_command(disk.nexus, rw_cdb(writes[i], 0, end + 1, 0), NULL, 0), 5,
			0x2100);
	}
	assert_int_equal(volume_script_calls(disk.script), 0);
}

static void
test_past_the_end(void **state)
{
	uint64_t end = 256 * MIB / 512;

	(void)state;
	for (size_t i = 1; i < ARRAY_SIZE(reads); i++) {
		assert_good(disk_command(disk.nexus, rw_cdb(reads[i], 0, end - 1, 1), NULL, 0));
		assert_sense(disk_command(disk.nexus, rw_cdb(reads[i], 0, end - 1, 2), NULL, 0), 5,
			0x2100);
		assert_sense(disk_command(disk.nexus, rw_cdb(reads[i], 0, UINT32_MAX, 1), NULL, 0),
			5, 0x2100);
		assert_sense(disk_command(disk.nexus, rw_cdb(writes[i], 0, end, 1), pattern, 512),
			5, 0x2100);
	}
	/* Where LBA times block size, or LBA plus length, wraps. */
	static const uint64_t far[] = {UINT64_MAX, UINT64_C(1) << 55, UINT64_C(1) << 63,
		(UINT64_C(1) << 55) - 1, UINT64_MAX - 7};
	for (size_t i = 0; i < ARRAY_SIZE(far); i++) {
		assert_sense(disk_command(disk.nexus, rw_cdb(OP_READ_16, 0, far[i], 8), NULL, 0), 5,
			0x2100);
		assert_sense(disk_command(disk.nexus, rw_cdb(OP_WRITE_16, 0, far[i], UINT32_MAX),
				     pattern, 512),
			5, 0x2100);
	}
}

static void
test_too_long(void **state)
{
	const uint32_t most = LIMIT_SCSI_TRANSFER / 512;

	(void)state;
	assert_good(disk_command(disk.nexus, rw_cdb(OP_READ_16, 0, 0, most), NULL, 0));
	assert_bad_cdb(disk_command(disk.nexus, rw_cdb(OP_READ_16, 0, 0, most + 1), NULL, 0), 10);
	assert_bad_cdb(disk_command(disk.nexus, rw_cdb(OP_WRITE_12, 0, 0, most + 1), NULL, 0), 6);
	/* READ(10) cannot say so much: its 16 bits end below the limit of 32 MiB. */
}

static void
test_protection_is_refused(void **state)
{
	(void)state;
	for (size_t i = 1; i < ARRAY_SIZE(reads); i++) {
		for (unsigned protect = 1; protect < 8; protect++) {
			uint8_t flags = (uint8_t)(protect << 5);

			assert_bad_cdb(
				disk_command(disk.nexus, rw_cdb(reads[i], flags, 0, 1), NULL, 0),
				1);
			assert_bad_cdb(disk_command(disk.nexus, rw_cdb(writes[i], flags, 0, 1),
					       pattern, 512),
				1);
		}
	}
}

static void
test_fua(void **state)
{
	(void)state;
	for (size_t i = 1; i < ARRAY_SIZE(reads); i++) {
		volume_script_forget(disk.script);
		assert_good(
			disk_command(disk.nexus, rw_cdb(writes[i], CDB_DPO, 0, 1), pattern, 512));
		assert_good(disk_command(disk.nexus, rw_cdb(reads[i], CDB_DPO, 0, 1), NULL, 0));
		assert_int_equal(disk_calls(BLK_FLUSH), 0);
		assert_good(
			disk_command(disk.nexus, rw_cdb(writes[i], CDB_FUA, 0, 1), pattern, 512));
		assert_int_equal(disk_calls(BLK_FLUSH), 1);
		/* What is read with FUA is on the medium. */
		assert_good(disk_command(
			disk.nexus, rw_cdb(reads[i], CDB_FUA | CDB_DPO, 0, 1), NULL, 0));
		assert_int_equal(disk_calls(BLK_FLUSH), 2);
	}
}

/* An initiator that announces less than the CDB takes: whole blocks of it are written. */
static void
test_short_data_out(void **state)
{
	static const struct {
		size_t sent, written;
		bool refused;
	} rows[] = {{0, 0, false}, {200, 0, true}, {512, 512, false}, {1000, 512, false},
		{4095, 3584, false}, {4096, 4096, false}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct answer *a;

		memset(disk_medium(), 0xee, 8192);
		a = disk_command(disk.nexus, rw_cdb(OP_WRITE_10, 0, 0, 8), pattern, rows[i].sent);
		if (rows[i].refused)
			assert_sense(a, 5, 0x0e03);
		else
			assert_good(a);
		assert_memory_equal(disk_medium(), pattern, rows[i].written);
		for (size_t at = rows[i].written; at < 8192; at++)
			assert_int_equal(disk_medium()[at], 0xee);
	}
}

static void
test_each_error_has_its_sense(void **state)
{
	static const struct {
		int rc;
		uint8_t status, key;
		uint16_t read_code, write_code;
	} rows[] = {
		{-EIO, SCSI_CHECK_CONDITION, 0x3, 0x1100, 0x0c00},
		{-ENOSPC, SCSI_CHECK_CONDITION, 0x7, 0x2707, 0x2707},
		{-EROFS, SCSI_CHECK_CONDITION, 0x7, 0x2700, 0x2700},
		{-EPERM, SCSI_RESERVATION_CONFLICT, 0, 0, 0},
		{-ENOMEM, SCSI_BUSY, 0, 0, 0},
		{-ERANGE, SCSI_CHECK_CONDITION, 0x5, 0x2100, 0x2100},
		{-ENODEV, SCSI_CHECK_CONDITION, 0x2, 0x0400, 0x0400},
		{-ESHUTDOWN, SCSI_CHECK_CONDITION, 0x2, 0x0412, 0x0412},
		{-ETIMEDOUT, SCSI_CHECK_CONDITION, 0xb, 0x2e02, 0x2e02},
		{-ENOTSUP, SCSI_CHECK_CONDITION, 0x4, 0x4400, 0x4400},
		{-EINVAL, SCSI_CHECK_CONDITION, 0x4, 0x4400, 0x4400},
	};

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (unsigned write = 0; write < 2; write++) {
			const struct answer *a;

			volume_script_fail(
				disk.script, write ? BLK_WRITE : BLK_READ, rows[i].rc, 1);
			a = write ? disk_command(
					    disk.nexus, rw_cdb(OP_WRITE_10, 0, 0, 1), pattern, 512)
				  : disk_command(disk.nexus, rw_cdb(OP_READ_10, 0, 0, 1), NULL, 0);
			assert_int_equal(a->status, rows[i].status);
			assert_int_equal(a->key, rows[i].key);
			assert_int_equal(a->code, write ? rows[i].write_code : rows[i].read_code);
			assert_int_equal(a->in_length, 0);
			/* And it was this command's alone. */
			assert_good(disk_command(disk.nexus, rw_cdb(OP_READ_10, 0, 0, 1), NULL, 0));
		}
	}
}

static void
test_synchronize_cache(void **state)
{
	uint64_t end = 256 * MIB / 512;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t opcode = i ? OP_SYNCHRONIZE_CACHE_16 : OP_SYNCHRONIZE_CACHE_10;

		volume_script_forget(disk.script);
		assert_good(disk_command(disk.nexus, rw_cdb(opcode, 0, 0, 0), NULL, 0));
		assert_int_equal(disk_calls(BLK_FLUSH), 1);
		assert_good(
			disk_command(disk.nexus, rw_cdb(opcode, 0x02, 5, 9), NULL, 0)); /* IMMED */
		assert_int_equal(disk_calls(BLK_FLUSH), 2);
		assert_sense(
			disk_command(disk.nexus, rw_cdb(opcode, 0, end, 1), NULL, 0), 5, 0x2100);
		assert_sense(disk_command(disk.nexus, rw_cdb(opcode, 0, end + 1, 0), NULL, 0), 5,
			0x2100);
		assert_int_equal(disk_calls(BLK_FLUSH), 2);
	}
	/* GOOD waits for the flush. */
	volume_script_forget(disk.script);
	volume_script_hold(disk.script, true);
	disk_begin(disk.nexus, rw_cdb(OP_SYNCHRONIZE_CACHE_10, 0, 0, 0), NULL, 0);
	virtual_run_until_idle();
	assert_false(disk_ended());
	volume_script_complete_all(disk.script, 0);
	assert_good(disk_end());
}

/* O4: after a failed flush nothing says GOOD until an operator clears it. */
static void
test_failed_flush_is_told(void **state)
{
	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	volume_script_fail(disk.script, BLK_FLUSH, -EIO, 1);
	assert_sense(disk_command(disk.nexus, rw_cdb(OP_SYNCHRONIZE_CACHE_10, 0, 0, 0), NULL, 0), 3,
		0x0c00);
	disk_ready(disk.other);
	assert_sense(disk_command(disk.other, rw_cdb(OP_SYNCHRONIZE_CACHE_16, 0, 0, 0), NULL, 0), 3,
		0x0c00);
	assert_sense(
		disk_command(disk.other, rw_cdb(OP_WRITE_10, 0, 0, 1), pattern, 512), 3, 0x0c00);
}

static const uint8_t *
compare_cdb(uint8_t flags, uint64_t lba, uint8_t blocks)
{
	static uint8_t cdb[16];

	memset(cdb, 0, sizeof(cdb));
	cdb[0] = OP_COMPARE_AND_WRITE;
	cdb[1] = flags;
	put_be64(cdb + 2, lba);
	cdb[13] = blocks;
	return cdb;
}

static void
test_compare_and_write(void **state)
{
	uint8_t data[2 * 1024];
	const struct answer *a;

	(void)state;
	memset(disk_medium() + 512, 0x11, 1024);
	memset(data, 0x11, 1024);
	memset(data + 1024, 0x22, 1024);
	a = disk_command(disk.nexus, compare_cdb(0, 1, 2), data, sizeof(data));
	assert_good(a);
	assert_int_equal(a->out_length, 2048);
	assert_memory_equal(disk_medium() + 512, data + 1024, 1024);
	/* Now it differs from the first byte on; then only from byte 700 on. */
	for (size_t at = 0; at <= 700; at += 700) {
		memset(disk_medium() + 512, 0x11, 1024);
		disk_medium()[512 + at] = 0x33;
		a = disk_command(disk.nexus, compare_cdb(0, 1, 2), data, sizeof(data));
		assert_sense(a, 0xe, 0x1d00);
		assert_int_equal(a->sense[0], 0xf0); /* VALID */
		assert_int_equal(get_be32(a->sense + 3), at);
		assert_int_equal(disk_medium()[512 + 1], 0x11);
	}
	/* Half of what it needs means nothing, and nothing is written. */
	volume_script_forget(disk.script);
	memset(disk_medium() + 512, 0x11, 1024);
	assert_sense(disk_command(disk.nexus, compare_cdb(0, 1, 2), data, 2047), 5, 0x0e03);
	assert_sense(disk_command(disk.nexus, compare_cdb(0, 1, 2), data, 0), 5, 0x0e03);
	assert_int_equal(volume_script_calls(disk.script), 0);
	assert_good(disk_command(disk.nexus, compare_cdb(0, 1, 0), data, 0));
	assert_sense(disk_command(disk.nexus, compare_cdb(0, 256 * MIB / 512, 1), data, 1024), 5,
		0x2100);
	assert_good(disk_command(disk.nexus, compare_cdb(CDB_FUA, 1, 2), data, sizeof(data)));
	assert_int_equal(disk_calls(BLK_FLUSH), 1);
}

/* Aborted before its data came: nothing happens, nothing is left. */
static void
test_forgotten(void **state)
{
	struct scsi_task task = {.nexus = disk.nexus, .cdb_length = 10};

	(void)state;
	memcpy(task.cdb, rw_cdb(OP_WRITE_10, 0, 3, 8), 16);
	volume_script_forget(disk.script);
	assert_true(scsi_prepare(&task));
	assert_false(scsi_running(&task));
	scsi_forget(&task);
	assert_int_equal(volume_script_calls(disk.script), 0);
}

/* Pieces of any length, ending within a block: exactly the whole blocks go to the block layer. */
static void
pieces_done(struct scsi_task *task)
{
	assert_int_equal(task->status, SCSI_GOOD);
	task->cdb_length = 0;
}

static void
test_data_out_in_pieces(void **state)
{
	struct iovec pieces[] = {{pattern, 100}, {pattern + 100, 1500}, {pattern + 1600, 900}};
	struct scsi_task task = {.nexus = disk.nexus, .cdb_length = 10, .done = pieces_done};

	(void)state;
	memcpy(task.cdb, rw_cdb(OP_WRITE_10, 0, 3, 8), 16);
	assert_true(scsi_prepare(&task));
	task.out = (struct iobuf){.iov = pieces, .niov = ARRAY_SIZE(pieces), .length = 2500};
	scsi_execute(&task);
	virtual_run_until_idle();
	assert_int_equal(task.cdb_length, 0);
	assert_memory_equal(disk_medium() + 3 * 512, pattern, 2048);
	assert_int_equal(disk_medium()[3 * 512 + 2048], 0);
}

/* READ with FUA: the flush was all of it that anybody saw. */
static void
test_cancel(void **state)
{
	struct scsi_task *task;

	(void)state;
	volume_script_forget(disk.script);
	volume_script_hold(disk.script, true);
	task = disk_begin(disk.nexus, rw_cdb(OP_READ_10, CDB_FUA, 0, 8), NULL, 0);
	virtual_run_until_idle();
	assert_int_equal(volume_script_held(disk.script), 1);
	scsi_cancel(task);
	scsi_cancel(task);
	virtual_run_until_idle();
	assert_false(disk_ended());
	volume_script_complete(disk.script, 0, 0);
	virtual_run_until_idle();
	assert_true(disk_ended());
	disk_end();
	assert_int_equal(volume_script_calls(disk.script), 1);
	volume_script_hold(disk.script, false);
	assert_good(disk_command(disk.nexus, rw_cdb(OP_READ_10, CDB_FUA, 0, 8), NULL, 0));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_zero_blocks, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_past_the_end, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_too_long, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_protection_is_refused, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_fua, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_short_data_out, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_data_out_in_pieces, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_forgotten, start, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_each_error_has_its_sense, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_synchronize_cache, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_failed_flush_is_told, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_cancel, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_compare_and_write, start, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_rw", tests, NULL, NULL);
}
