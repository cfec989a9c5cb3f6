/* scsi_cmd.c: the opcode table against every CDB there can be */
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
#include "conf.h"
#include "scsi/scsi_internal.h"

static const struct scsi_opcode *
find_row(uint8_t opcode, unsigned action)
{
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		const struct scsi_opcode *row = &scsi_opcodes[i];

		if (row->opcode == opcode && (!(row->flags & ROW_ACTION) || row->action == action))
			return row;
	}
	return NULL;
}

static void
test_table_is_in_order(void **state)
{
	(void)state;
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		const struct scsi_opcode *row = &scsi_opcodes[i];

		assert_int_equal(row->length, disk_cdb_length(row->opcode));
		assert_non_null(row->prepare);
		assert_non_null(row->execute);
		if (row->flags & ROW_ACTION)
			assert_int_equal(row->usage[0] & 0x1f, row->action);
		for (unsigned byte = row->length; byte < LIMIT_SCSI_CDB; byte++)
			assert_int_equal(row->usage[byte - 1], 0);
		if (i == 0)
			continue;
		assert_true(row[-1].opcode << 8 < (row->opcode << 8 | row->action));
		assert_true(row[-1].opcode != row->opcode || row[-1].action < row->action);
	}
}

static void
test_unknown_opcodes(void **state)
{
	(void)state;
	for (unsigned opcode = 0; opcode < 256; opcode++) {
		uint8_t cdb[16] = {(uint8_t)opcode, 0x1f};
		bool known = false;

		for (unsigned i = 0; i < scsi_opcodes_count; i++)
			known |= scsi_opcodes[i].opcode == opcode;
		if (!known)
			assert_sense(disk_command(disk.nexus, cdb, NULL, 0), 5, 0x2000);
		else if (!find_row((uint8_t)opcode, 0x1f))
			assert_bad_cdb(disk_command(disk.nexus, cdb, NULL, 0), 1);
	}
}

/* Each bit that is not in the usage column is refused, and the sense says which byte. */
static void
test_reserved_bits(void **state)
{
	(void)state;
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		const struct scsi_opcode *row = &scsi_opcodes[i];

		for (unsigned bit = 8; bit < row->length * 8u; bit++) {
			unsigned byte = bit / 8;
			uint8_t cdb[16] = {row->opcode, row->action},
				mask = (uint8_t)(1u << bit % 8);

			if ((row->usage[byte - 1] & mask) ||
				((row->flags & ROW_ACTION) && byte == 1 && (mask & 0x1f)))
				continue;
			cdb[byte] |= mask;
			assert_bad_cdb(disk_command(disk.nexus, cdb, NULL, 0), byte);
		}
	}
}

/* What stands behind a CDB's length does not matter; a CDB that is cut does. */
static void
test_cdb_length(void **state)
{
	(void)state;
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		const struct scsi_opcode *row = &scsi_opcodes[i];
		struct scsi_task task = {.nexus = disk.nexus};

		for (task.cdb_length = 0; task.cdb_length < row->length; task.cdb_length++) {
			memset(task.cdb, 0, sizeof(task.cdb));
			task.cdb[0] = row->opcode;
			task.cdb[1] = row->action;
			assert_false(scsi_prepare(&task));
			assert_int_equal(task.status, SCSI_CHECK_CONDITION);
			assert_int_equal(get_be16(task.sense + 12), 0x2400);
		}
		task.cdb_length = LIMIT_SCSI_CDB + 1;
		assert_false(scsi_prepare(&task));
		memset(task.cdb + row->length, 0xff, sizeof(task.cdb) - row->length);
		task.cdb_length = LIMIT_SCSI_CDB;
		if (scsi_prepare(&task))
			scsi_forget(&task);
		else
			assert_int_not_equal(get_be16(task.sense + 12), 0x2000);
	}
}

/* Garbage */

static uint64_t seed;

static uint32_t
next_random(void)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed >> 33);
}

/* Buffers that were used before hold this; it must never come out (O7). */
#define MARKER 0xdb

static void
mark_buffers(void)
{
	static const size_t sizes[] = {18, 512, 4096, 65536, 1048576};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct iobuf buffer = {0};

		assert_int_equal(iobuf_take(&buffer, sizes[i]), 0);
		for (unsigned piece = 0; piece < buffer.niov; piece++)
			memset(buffer.iov[piece].iov_base, MARKER, buffer.iov[piece].iov_len);
		iobuf_free(&buffer);
	}
}

static void
assert_no_marker(const struct answer *a)
{
	for (size_t i = 0; i + 4 <= a->in_length; i++) {
		if (get_be32(a->in + i) == MARKER * UINT32_C(0x01010101))
			fail_msg("byte %zu of the answer was never written", i);
	}
}

/* Mostly what the table knows with mostly small fields, so that much gets through the first checks.
 */
static void
make_garbage(uint8_t *cdb)
{
	const struct scsi_opcode *row = &scsi_opcodes[next_random() % scsi_opcodes_count];
	unsigned kind = next_random() % 8;

	for (unsigned i = 0; i < 16; i++)
		cdb[i] = (uint8_t)next_random();
	if (kind == 0)
		return;
	cdb[0] = row->opcode;
	for (unsigned i = 1; i < row->length; i++) {
		if (kind > 1)
			cdb[i] &= row->usage[i - 1];
		if (kind > 2 && next_random() % 3)
			cdb[i] = 0;
	}
	if (row->flags & ROW_ACTION)
		cdb[1] = row->action;
	if (kind > 4)
		cdb[row->length - 2] = (uint8_t)(next_random() % 64);
}

static bool
is_legal(uint8_t status)
{
	return status == SCSI_GOOD || status == SCSI_CHECK_CONDITION || status == SCSI_BUSY ||
	       status == SCSI_CONDITION_MET || status == SCSI_RESERVATION_CONFLICT;
}

static void
test_garbage(void **state)
{
	static uint8_t out[256 * 1024];
	const char *from = getenv("SLABD_SEED");
	unsigned good = 0, failed = 0;

	(void)state;
	seed = from ? strtoull(from, NULL, 0) : (uint64_t)time(NULL);
	print_message("# seed %llu\n", (unsigned long long)seed);
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(next_random() & 0x3f);
	for (unsigned i = 0; i < 60000; i++) {
		struct scsi_nexus *nexus = next_random() % 4 ? disk.nexus : disk.other;
		uint8_t lun[8] = {0, next_random() % 16 == 0};
		uint8_t cdb[16];
		const struct answer *a;

		make_garbage(cdb);
		if (i % 16 == 0)
			mark_buffers();
		if (next_random() % 64 == 0)
			scsi_lun_reset(nexus, lun);
		if (i % SCRIPT_CALLS / 8 == 0)
			volume_script_forget(disk.script);
		a = disk_command_lun(nexus, lun, cdb, out, next_random() % sizeof(out));
		assert_true(is_legal(a->status));
		assert_true(a->status != SCSI_CHECK_CONDITION || a->key != 0);
		assert_true(a->status == SCSI_GOOD || a->in_length == 0);
		assert_true(a->in_max <= LIMIT_SCSI_TRANSFER);
		assert_true(a->out_length <= LIMIT_SCSI_TRANSFER);
		assert_no_marker(a);
		good += a->status == SCSI_GOOD;
		failed += a->status != SCSI_GOOD;
	}
	/* Else the garbage is of one kind and tests little. */
	assert_true(good > 1000);
	assert_true(failed > 1000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_table_is_in_order, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_unknown_opcodes, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_reserved_bits, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_cdb_length, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_garbage, disk_setup, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_cmd", tests, NULL, NULL);
}
