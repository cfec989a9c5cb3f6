/* The soft threshold of thin provisioning: scsi_unit.c, and its descriptor in scsi_mode.c */
#include "config.h"

#include "test_scsi_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "conf.h"
#include "scsi/scsi_internal.h"

static char name[] = "disk0", backend[] = "memory";

/* Both nexuses are ready. */
static void
start(uint64_t limit, uint64_t threshold)
{
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = 32 * MIB,
		.block_size = 512,
		.physical_block_size = 512,
		.limit = limit,
		.threshold = threshold};

	disk_start_volume(disk_memory_volume(&conf));
	disk_ready(disk.nexus);
	disk_ready(disk.other);
}

/* A MiB at that place, which is allocated then. */
static const struct answer *
write_mib(unsigned mib)
{
	static uint8_t data[MIB];

	memset(data, 0x5a, sizeof(data));
	return disk_command(disk.nexus,
		CDB(OP_WRITE_10, [3] = (uint8_t)(mib * 2048 >> 16),
			[4] = (uint8_t)(mib * 2048 >> 8), [7] = 2048 >> 8),
		data, sizeof(data));
}

static void
unmap_mib(unsigned mib)
{
	uint8_t list[24] = {0, 22, 0, 16};

	put_be64(list + 8, mib * 2048);
	put_be32(list + 16, 2048);
	assert_good(disk_command(disk.nexus, CDB(OP_UNMAP, [8] = 24), list, 24));
}

static void
assert_told(struct scsi_nexus *nexus)
{
	const struct answer *a = disk_command(nexus, CDB(0), NULL, 0);

	assert_sense(a, 6, 0x3807);
	assert_int_equal(a->sense[0], 0xf0); /* the descriptor at 16 of the mode page */
	assert_int_equal(get_be32(a->sense + 3), 16);
	assert_good(disk_command(nexus, CDB(0), NULL, 0));
}

/* Each nexus is told once, again when it was below meanwhile, and not when that was before it heard. */
static void
test_told_once(void **state)
{
	(void)state;
	start(0, 4 * MIB);
	for (unsigned i = 0; i < 4; i++)
		assert_good(write_mib(i));
	assert_told(disk.nexus);
	assert_told(disk.other);
	assert_good(write_mib(4));
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	unmap_mib(4);
	unmap_mib(3);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	assert_good(write_mib(3));
	assert_told(disk.nexus);
	unmap_mib(3);
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	disk_stop();
}

/* REQUEST SENSE hands it out too; LBPERE off keeps it silent, also what comes later. */
static void
test_reporting_off(void **state)
{
	uint8_t list[16] = {[4] = 0x01, 0x0a};
	const struct answer *a;

	(void)state;
	start(0, 2 * MIB);
	assert_good(disk_command(disk.other, CDB(OP_MODE_SELECT_6, 0x10, 0, 0, 16), list, 16));
	disk_ready(disk.nexus);
	assert_good(write_mib(0));
	assert_good(write_mib(1));
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	list[4 + 7] = 0x80;
	unmap_mib(0);
	assert_good(disk_command(disk.nexus, CDB(OP_MODE_SELECT_6, 0x10, 0, 0, 16), list, 16));
	disk_ready(disk.other);
	assert_good(write_mib(0));
	a = disk_command(disk.other, CDB(OP_REQUEST_SENSE, 0, 0, 0, 252), NULL, 0);
	assert_int_equal(a->in[2], 6);
	assert_int_equal(get_be16(a->in + 12), 0x3807);
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	assert_told(disk.nexus);
	disk_stop();
}

/* Where only a limit is configured, nine tenths of it; then it is full. */
static void
test_limit(void **state)
{
	static const uint8_t descriptor[8] = {0x81, 0x02, 0, 0, 0, 0, 0, 9};
	const struct answer *a;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	start(10 * MIB, 0);
	a = disk_command(disk.nexus, CDB(OP_MODE_SENSE_6, 8, 0x1c, 0x02, 255), NULL, 0);
	assert_good(a);
	assert_memory_equal(a->in + 4 + 16, descriptor, 8);
	for (unsigned i = 0; i < 9; i++)
		assert_good(write_mib(i));
	assert_sense(write_mib(9), 6, 0x3807);
	assert_good(write_mib(9));
	assert_sense(write_mib(10), 7, 0x2707);
	assert_told(disk.other);
	unmap_mib(0);
	assert_good(write_mib(10));
	disk_stop();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_told_once),
		cmocka_unit_test(test_reporting_off),
		cmocka_unit_test(test_limit),
	};

	return cmocka_run_group_tests_name("scsi_threshold", tests, NULL, NULL);
}
