/* What real initiators ask, in their own CDBs and order, and what they must find. */
#include "config.h"

#include "test_scsi_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "conf.h"
#include "scsi/scsi_internal.h"

#define BLOCK  512u
#define BLOCKS (64 * MIB / BLOCK)
#define LIMIT  (20 * MIB)

static uint8_t data[2 * MIB];

/* A thin disk of memory, with less room behind it than it offers. */
static int
start(void **state)
{
	static char name[] = "disk0", backend[] = "memory";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = 64 * MIB,
		.block_size = BLOCK,
		.physical_block_size = BLOCK,
		.limit = LIMIT};

	(void)state;
	disk_start_volume(disk_memory_volume(&conf));
	return 0;
}

static const struct answer *
inquire(uint8_t page, uint16_t length)
{
	return disk_command(disk.nexus,
		CDB(OP_INQUIRY, 1, page, (uint8_t)(length >> 8), (uint8_t)length), NULL, 0);
}

static const struct answer *
read_blocks(struct scsi_nexus *nexus, uint16_t lba, uint16_t count)
{
	return disk_command(nexus,
		CDB(OP_READ_10, 0, 0, 0, (uint8_t)(lba >> 8), (uint8_t)lba, 0,
			(uint8_t)(count >> 8), (uint8_t)count),
		NULL, 0);
}

static const struct answer *
write_blocks(struct scsi_nexus *nexus, uint16_t lba, uint16_t count, uint8_t value)
{
	memset(data, value, count * BLOCK);
	return disk_command(nexus,
		CDB(OP_WRITE_10, 0, 0, 0, (uint8_t)(lba >> 8), (uint8_t)lba, 0,
			(uint8_t)(count >> 8), (uint8_t)count),
		data, count * BLOCK);
}

static void
assert_blocks(uint16_t lba, uint16_t count, uint8_t value)
{
	const struct answer *a = read_blocks(disk.nexus, lba, count);

	assert_good(a);
	assert_int_equal(a->in_length, count * BLOCK);
	for (size_t i = 0; i < a->in_length; i++)
		assert_int_equal(a->in[i], value);
}

/* REPORT SUPPORTED OPERATION CODES of one command, as sd and sg_opcodes ask it: is it there? */
static bool
has_command(uint8_t opcode, uint8_t option, uint8_t action)
{
	const struct answer *a = disk_command(disk.nexus,
		CDB(OP_MAINTENANCE_IN, SA_REPORT_SUPPORTED_OPCODES, option, opcode, 0, action, 0, 0,
			2, 0),
		NULL, 0);

	assert_good(a);
	return (a->in[1] & 7) == 3;
}

/* scsi_scan, sd_probe; sg_inq, sg_vpd -a, sg_luns, sg_turs, sg_readcap, sg_modes, sg_opcodes, sg_logs,
 * sg_persist, sg_rtpg, sg_requests */
static void
test_linux_probes(void **state)
{
	uint8_t pages[64];
	const struct answer *a;
	size_t npages;

	(void)state;
	a = disk_command(disk.nexus, CDB(OP_INQUIRY, [4] = 36), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in_length, 36);
	a = disk_command(disk.nexus, CDB(OP_INQUIRY, [4] = (uint8_t)(a->in[4] + 5)), NULL, 0);
	assert_int_equal(a->in_length, 96);
	assert_int_equal(a->in[2], 6);
	assert_true(a->in[7] & 0x02); /* CMDQUE */
	a = disk_command(disk.nexus, CDB(OP_REPORT_LUNS, [8] = 0x02), NULL, 0);
	assert_int_equal(get_be32(a->in), 8);
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2900);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	a = inquire(0, 255);
	npages = get_be16(a->in + 2);
	assert_in_range(npages, 8, sizeof(pages));
	memcpy(pages, a->in + 4, npages);
	for (size_t i = 0; i < npages; i++) {
		assert_int_equal(inquire(pages[i], 4)->in_length, 4);
		a = inquire(pages[i], 0x1000);
		assert_good(a);
		assert_int_equal(a->in[1], pages[i]);
		assert_int_equal(a->in_length, 4 + get_be16(a->in + 2));
	}
	/* sd_read_capacity, sd_read_block_provisioning, sd_config_discard: UNMAP is chosen. */
	a = disk_command(disk.nexus, CDB(OP_SERVICE_ACTION_IN_16, 0x10, [13] = 32), NULL, 0);
	assert_int_equal(get_be64(a->in), BLOCKS - 1);
	assert_int_equal(get_be32(a->in + 8), BLOCK);
	assert_int_equal(a->in[14] & 0xc0, 0xc0);
	assert_int_equal(inquire(0xb2, 255)->in[5] & 0xe4, 0xe4);
	assert_true(get_be32(inquire(0xb0, 64)->in + 20) > 0);
	assert_int_equal(get_be16(inquire(0xb1, 64)->in + 4), 1); /* no seeks */
	/* sd_read_write_protect_flag, sd_read_cache_type: write back, DPO and FUA. */
	a = disk_command(disk.nexus, CDB(OP_MODE_SENSE_6, 0, 0x3f, 0, 4), NULL, 0);
	assert_int_equal(a->in_length, 4);
	assert_int_equal(a->in[2] & 0x90, 0x10);
	a = disk_command(disk.nexus, CDB(OP_MODE_SENSE_6, 8, 0x08, 0, 4), NULL, 0);
	a = disk_command(
		disk.nexus, CDB(OP_MODE_SENSE_6, 8, 0x08, 0, (uint8_t)(a->in[0] + 1)), NULL, 0);
	assert_int_equal(a->in[4 + 2] & 0x05, 0x04); /* WCE, and RCD is not set */
	a = disk_command(disk.nexus, CDB(OP_MODE_SENSE_10, 0, 0x3f, 0xff, [7] = 0x10), NULL, 0);
	assert_int_equal(a->in_length, 2 + get_be16(a->in));
	assert_true(has_command(OP_WRITE_SAME_16, 1, 0));
	assert_true(has_command(OP_WRITE_SAME_10, 1, 0));
	assert_true(has_command(OP_SYNCHRONIZE_CACHE_10, 1, 0));
	assert_true(has_command(OP_SERVICE_ACTION_IN_16, 2, 0x12));
	assert_false(has_command(0x85, 1, 0)); /* ATA PASS-THROUGH(16): it is no ATA disk */
	a = disk_command(disk.nexus, CDB(0x4d, 0, 0x40, [7] = 0x02), NULL, 0);
	assert_good(a);
	assert_int_equal(a->in[0] & 0x3f, 0);
	a = disk_command(disk.nexus, CDB(OP_RESERVE_IN, SA_READ_KEYS, [7] = 0x20), NULL, 0);
	assert_int_equal(get_be32(a->in + 4), 0);
	assert_good(disk_command(
		disk.nexus, CDB(OP_MAINTENANCE_IN, SA_REPORT_PORT_GROUPS, [8] = 4), NULL, 0));
	a = disk_command(disk.nexus, CDB(OP_REQUEST_SENSE, 0, 0, 0, 252), NULL, 0);
	assert_int_equal(a->in[2], 0);
}

static const struct answer *
reserve_out(struct scsi_nexus *nexus, unsigned action, unsigned type, uint64_t key, uint64_t other)
{
	uint8_t list[24] = {0};

	put_be64(list, key);
	put_be64(list + 8, other);
	return disk_command(nexus,
		CDB(OP_RESERVE_OUT, (uint8_t)action, (uint8_t)type, [8] = sizeof(list)), list,
		sizeof(list));
}

static void
assert_conflict(const struct answer *a)
{
	assert_int_equal(a->status, SCSI_RESERVATION_CONFLICT);
}

/*
 * Windows: validation of a cluster's disks by two nodes. Write Exclusive, Registrants Only; a challenger
 * takes the disk of an owner that is gone by PREEMPT, and what the owner still writes is refused.
 */
static void
test_windows_cluster(void **state)
{
	struct scsi_nexus *owner = disk.nexus, *challenger = disk.other;
	const uint64_t one = UINT64_C(0x734d4e4f00010001), two = UINT64_C(0x734d4e4f00020001);
	const struct answer *a;

	(void)state;
	disk_ready(owner);
	disk_ready(challenger);
	/* Who is not registered cannot reserve, nor register over another key. */
	assert_conflict(reserve_out(owner, SA_RESERVE, 5, one, 0));
	assert_good(reserve_out(owner, SA_REGISTER_AND_IGNORE, 0, 0, one));
	assert_good(reserve_out(owner, SA_RESERVE, 5, one, 0));
	assert_good(
		reserve_out(owner, SA_RESERVE, 5, one, 0)); /* again, as a test that it has it */
	assert_conflict(reserve_out(owner, SA_REGISTER, 0, two, one));
	/* The other sees it, may read, and neither writes nor reserves. */
	a = disk_command(challenger, CDB(OP_RESERVE_IN, SA_READ_RESERVATION, [8] = 24), NULL, 0);
	assert_int_equal(get_be64(a->in + 8), one);
	assert_int_equal(a->in[21], 5);
	assert_good(read_blocks(challenger, 0, 1));
	assert_conflict(write_blocks(challenger, 0, 1, 2));
	assert_good(reserve_out(challenger, SA_REGISTER, 0, 0, two));
	assert_conflict(reserve_out(challenger, SA_RESERVE, 5, two, 0));
	assert_good(write_blocks(challenger, 0, 1, 2)); /* registered ones write */
	a = disk_command(owner, CDB(OP_RESERVE_IN, SA_READ_KEYS, [8] = 64), NULL, 0);
	assert_int_equal(get_be32(a->in + 4), 16);
	/* The owner is thought dead. */
	assert_good(reserve_out(challenger, SA_PREEMPT, 5, two, one));
	assert_sense(disk_command(owner, CDB(0), NULL, 0), 6, 0x2a05);
	assert_conflict(write_blocks(owner, 0, 1, 1));
	assert_conflict(reserve_out(owner, SA_RELEASE, 5, one, 0));
	assert_blocks(0, 1, 2);
	/* It comes back, and takes it by PREEMPT AND ABORT. */
	assert_good(reserve_out(owner, SA_REGISTER, 0, 0, one));
	assert_good(reserve_out(owner, SA_PREEMPT_AND_ABORT, 5, one, two));
	assert_sense(disk_command(challenger, CDB(0), NULL, 0), 6, 0x2a05);
	assert_conflict(write_blocks(challenger, 0, 1, 2));
	assert_good(write_blocks(owner, 0, 1, 1));
	assert_good(reserve_out(owner, SA_RELEASE, 5, one, 0));
	assert_good(reserve_out(owner, SA_CLEAR, 0, one, 0));
	assert_good(write_blocks(challenger, 0, 1, 2));
	a = disk_command(owner, CDB(OP_RESERVE_IN, SA_READ_KEYS, [8] = 64), NULL, 0);
	assert_int_equal(get_be32(a->in + 4), 0);
}

/* A VMFS heartbeat: one block, taken by who finds it as he read it. */
static void
test_vaai_atomic_test_and_set(void **state)
{
	uint8_t sets[2 * BLOCK];
	const struct answer *a;

	(void)state;
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	assert_true(inquire(0xb0, 64)->in[5] >= 1); /* MAXIMUM COMPARE AND WRITE LENGTH */
	memset(sets, 0, BLOCK);
	memset(sets + BLOCK, 0x11, BLOCK);
	assert_good(disk_command(
		disk.nexus, CDB(OP_COMPARE_AND_WRITE, [9] = 8, [13] = 1), sets, sizeof(sets)));
	a = disk_command(
		disk.other, CDB(OP_COMPARE_AND_WRITE, [9] = 8, [13] = 1), sets, sizeof(sets));
	assert_sense(a, 0xe, 0x1d00);
	assert_int_equal(a->sense[0] & 0x80, 0x80);
	assert_int_equal(get_be32(a->sense + 3), 0);
	assert_blocks(8, 1, 0x11);
}

/* RECEIVE COPY RESULTS for the limits, then 4 MiB by each segment: by the unit's NAA designator. */
static void
test_vaai_clone_blocks(void **state)
{
	uint8_t list[16 + 32 + 28] = {0x01, 0, 0, 32, [11] = 28}, *cscd = list + 16,
			       *segment = list + 48;
	uint32_t most;
	const struct answer *a;

	(void)state;
	disk_ready(disk.nexus);
	assert_true(disk_command(disk.nexus, CDB(OP_INQUIRY, [4] = 36), NULL, 0)->in[5] &
		    0x08); /* 3PC */
	a = disk_command(disk.nexus, CDB(0x84, 0x03, [12] = 0x02), NULL, 0);
	assert_good(a);
	assert_true(get_be16(a->in + 8) >= 2 && get_be16(a->in + 10) >= 1);
	most = get_be32(a->in + 16); /* MAXIMUM SEGMENT LENGTH */
	assert_true(most == 0 || most >= 4 * MIB);
	assert_good(write_blocks(disk.nexus, 0, 2048, 0x77));
	/* The NAA designator as it stands in page 83h. */
	a = inquire(0x83, 255);
	assert_int_equal(a->in[5] & 0x0f, 3);
	cscd[0] = 0xe4;
	memcpy(cscd + 4, a->in + 4, 12);
	put_be32(cscd + 28, BLOCK); /* and three bytes of it are the block length */
	segment[0] = 0x02;
	segment[3] = 24;
	put_be16(segment + 10, 2048);
	put_be64(segment + 20, 8192);
	assert_good(disk_command(disk.nexus, CDB(0x83, [13] = sizeof(list)), list, sizeof(list)));
	assert_blocks(8192, 2048, 0x77);
}

/* Blocks are zeroed a MiB at a time. */
static void
test_vaai_write_same(void **state)
{
	static const uint8_t zeroes[BLOCK];
	const struct answer *a;

	(void)state;
	disk_ready(disk.nexus);
	a = inquire(0xb0, 64);
	assert_true(get_be64(a->in + 36) >= 2048); /* MAXIMUM WRITE SAME LENGTH */
	assert_good(write_blocks(disk.nexus, 100, 2048, 0xff));
	assert_good(disk_command(disk.nexus,
		CDB(OP_WRITE_SAME_16, 0, [9] = 101, [12] = 2046 >> 8, [13] = 2046 & 0xff), zeroes,
		BLOCK));
	assert_blocks(100, 1, 0xff);
	assert_blocks(101, 2046, 0);
	assert_blocks(2147, 1, 0xff);
}

/* Dead space goes back, and a datastore that fills up says so before it is full. */
static void
test_vaai_thin(void **state)
{
	uint8_t list[24] = {0, 22, 0, 16};
	unsigned granularity, mib;
	const struct answer *a = NULL;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	disk_ready(disk.nexus);
	a = inquire(0xb0, 64);
	assert_true(get_be32(a->in + 20) >= 2048 && get_be32(a->in + 24) >= 1);
	granularity = get_be32(a->in + 28);
	assert_true(granularity > 0 && 2048 % granularity == 0);
	a = inquire(0xb2, 64);
	assert_true(a->in[5] & 0x80); /* LBPU */
	assert_int_equal(a->in[6] & 7, 2);
	for (mib = 0; mib < 2; mib++)
		assert_good(write_blocks(disk.nexus, (uint16_t)(mib * 2048), 2048, 0x33));
	put_be64(list + 8, 2048);
	put_be32(list + 16, 2048);
	assert_good(disk_command(disk.nexus, CDB(OP_UNMAP, [8] = 24), list, 24));
	assert_blocks(2048, 2048, 0);
	a = disk_command(disk.nexus,
		CDB(OP_SERVICE_ACTION_IN_16, SA_GET_LBA_STATUS, [8] = 2048 >> 8, [13] = 24), NULL,
		0);
	assert_int_equal(a->in[20] & 0x0f, 1); /* deallocated */
	assert_blocks(0, 2048, 0x33);
	for (mib = 1; mib < 32; mib++) {
		a = write_blocks(disk.nexus, (uint16_t)(mib * 2048), 2048, 0x33);
		if (a->status != SCSI_GOOD)
			break;
	}
	assert_sense(a, 6, 0x3807);
	assert_int_equal(mib, LIMIT / MIB * 9 / 10);
	for (; mib < 32; mib++) {
		a = write_blocks(disk.nexus, (uint16_t)(mib * 2048), 2048, 0x33);
		if (a->status != SCSI_GOOD)
			break;
	}
	assert_sense(a, 7, 0x2707);
	assert_int_equal(mib, LIMIT / MIB);
}

/* Offset of the designator with that association and type in page 83h, as it came by a port. */
static const uint8_t *
designator(uint16_t port, uint8_t kind, uint8_t page[512])
{
	const struct answer *a;

	disk.portal_id = port;
	a = inquire(0x83, 512);
	assert_good(a);
	memcpy(page, a->in, a->in_length);
	for (size_t at = 4; at < a->in_length; at += 4 + page[at + 3]) {
		if ((page[at + 1] & 0x3f) == kind)
			return page + at;
	}
	fail_msg("no designator %02x", kind);
	return NULL;
}

/* One disk by two ports: a multipath driver knows it by its designators, and the paths by theirs. */
static void
test_multipath(void **state)
{
	static const uint8_t same[] = {0x01, 0x02, 0x03, 0x08, 0x28};
	static const uint8_t each[] = {0x14, 0x15, 0x18};
	uint8_t one[512], two[512];

	(void)state;
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	assert_int_equal(disk_command(disk.nexus, CDB(OP_INQUIRY, [4] = 96), NULL, 0)->in[5] & 0x30,
		0x10); /* TPGS: implicit */
	for (size_t i = 0; i < sizeof(same) + sizeof(each); i++) {
		bool differs = i >= sizeof(same);
		uint8_t kind = differs ? each[i - sizeof(same)] : same[i];
		const uint8_t *p = designator(1, kind, one), *q = designator(2, kind, two);

		assert_int_equal(p[3], q[3]);
		assert_int_equal(memcmp(p, q, 4u + p[3]) != 0, differs);
	}
	/* The ports of REPORT TARGET PORT GROUPS are the ones that page 83h names. */
	assert_int_equal(get_be16(designator(1, 0x14, one) + 6), 1);
	assert_int_equal(get_be16(designator(2, 0x14, two) + 6), 2);
	assert_int_equal(get_be16(designator(1, 0x15, one) + 6), disk.portals[0].group);
	assert_int_equal(get_be16(designator(2, 0x15, two) + 6), disk.portals[1].group);
	/* What one path writes the other reads. */
	disk.portal_id = 1;
	assert_good(write_blocks(disk.other, 5, 1, 0x42));
	disk.portal_id = 2;
	assert_blocks(5, 1, 0x42);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_linux_probes, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_windows_cluster, start, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_vaai_atomic_test_and_set, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_vaai_clone_blocks, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_vaai_write_same, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_vaai_thin, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_multipath, start, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_initiators", tests, NULL, NULL);
}
