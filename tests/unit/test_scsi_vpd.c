/* scsi_vpd.c */
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
	disk_start(&(struct volume_script_options){.size = MIB,
		.physical_block_size = 4096,
		.discard_granularity = 8192,
		.transfer_max = 4 * MIB});
	return 0;
}

/* The page whole; and cut at every allocation length. */
static const struct answer *
read_page(uint8_t page)
{
	static uint8_t full[SCSI_INQUIRY_MAX];
	const struct answer *a = disk_command(disk.nexus, CDB(0x12, 1, page, 0xff, 0xff), NULL, 0);
	size_t whole = a->in_length;

	assert_good(a);
	assert_int_equal(a->in[0], 0);
	assert_int_equal(a->in[1], page);
	assert_int_equal(get_be16(a->in + 2) + 4, whole);
	memcpy(full, a->in, whole);
	for (size_t length = 0; length <= whole + 4; length++) {
		a = disk_command(disk.nexus,
			CDB(0x12, 1, page, (uint8_t)(length >> 8), (uint8_t)length), NULL, 0);
		assert_good(a);
		assert_int_equal(a->in_length, min_size(length, whole));
		assert_memory_equal(a->in, full, a->in_length);
	}
	return a;
}

static void
test_supported_pages(void **state)
{
	static const uint8_t pages[] = {
		0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2, 0xb6, 0xb7};
	const struct answer *a = read_page(0);

	(void)state;
	assert_int_equal(a->in_length, 4 + sizeof(pages));
	assert_memory_equal(a->in + 4, pages, sizeof(pages));
	for (size_t i = 0; i < sizeof(pages); i++)
		read_page(pages[i]);
}

static void
test_extended_inquiry(void **state)
{
	const struct answer *a = read_page(0x86);

	(void)state;
	assert_int_equal(a->in_length, 64);
	assert_int_equal(a->in[4], 0);
	assert_int_equal(a->in[5], 0x07);
	assert_true(a->in[6] <= 1);
	for (size_t i = 7; i < 64; i++)
		assert_int_equal(a->in[i], 0);
}

/* The same after a restart, on every path; another volume's differs. */
static void
test_serial(void **state)
{
	char first[33], again[33];
	const struct answer *a = read_page(0x80);
	struct volume_script *second;

	(void)state;
	assert_int_equal(a->in_length, 4 + 32);
	memcpy(first, a->in + 4, 32);
	a = disk_command(disk.other, CDB(0x12, 1, 0x80, 0, 255), NULL, 0);
	assert_memory_equal(a->in + 4, first, 32);
	disk_stop();
	disk_start(&(struct volume_script_options){.size = 2 * MIB});
	a = read_page(0x80);
	memcpy(again, a->in + 4, 32);
	assert_memory_equal(again, first, 32);
	second = volume_script_open(&(struct volume_script_options){.name = "second"});
	disk_add_lun(1, volume_script_volume(second), false);
	a = disk_command_lun(
		disk.nexus, (const uint8_t[8]){0, 1}, CDB(0x12, 1, 0x80, 0, 255), NULL, 0);
	assert_memory_not_equal(a->in + 4, first, 32);
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	volume_script_close(second);
}

/* The designator with that association and type; its length in *length. */
static const uint8_t *
find_designator(const struct answer *a, uint8_t association, uint8_t type, size_t *length)
{
	for (size_t at = 4; at < a->in_length; at += 4 + *length) {
		const uint8_t *p = a->in + at;

		*length = p[3];
		assert_true(at + 4 + *length <= a->in_length);
		assert_int_equal(p[2], 0);
		if ((p[1] & 0x3f) == (association << 4 | type))
			return p;
	}
	fail_msg("no designator of association %u, type %u", association, type);
	return NULL;
}

static void
test_identification(void **state)
{
	const struct answer *a = read_page(0x83);
	const char name[] = "iqn.2026-11.localhost.slabd:disk0,t,0x0007";
	const uint8_t *p;
	size_t length;
	char naa[32];

	(void)state;
	p = find_designator(a, 0, 3, &length); /* the unit's NAA */
	assert_int_equal(p[0], 0x01);
	assert_int_equal(p[1], 0x03);
	assert_int_equal(length, 8);
	assert_int_equal(p[4] >> 4, 3);
	snprintf(naa, sizeof(naa), "naa.%016llX", (unsigned long long)get_be64(p + 4));
	p = find_designator(a, 0, 2, &length); /* EUI-64, locally administered */
	assert_int_equal(p[0], 0x01);
	assert_int_equal(length, 8);
	assert_int_equal(p[4] & 0x03, 0x02);
	p = find_designator(a, 0, 1, &length); /* T10 vendor identification */
	assert_int_equal(p[0], 0x02);
	assert_int_equal(length, 8 + 16 + 32);
	assert_memory_equal(p + 4, "SLABD   disk            ", 24);
	p = find_designator(a, 0, 8, &length); /* SCSI name string */
	assert_int_equal(p[0], 0x03);
	assert_int_equal(length, 24);
	assert_string_equal((const char *)p + 4, naa);
	p = find_designator(a, 1, 4, &length); /* relative target port: the one it came by */
	assert_int_equal(p[0], 0x51);
	assert_int_equal(p[1], 0x94);
	assert_int_equal(get_be32(p + 4), 2);
	p = find_designator(a, 1, 5, &length); /* target port group */
	assert_int_equal(get_be32(p + 4), 7);
	p = find_designator(a, 1, 8, &length);
	assert_int_equal(p[0], 0x53);
	assert_string_equal((const char *)p + 4, name);
	assert_int_equal(length % 4, 0);
	p = find_designator(a, 2, 8, &length);
	assert_string_equal((const char *)p + 4, "iqn.2026-11.localhost.slabd:disk0");
}

/* Of the unit on every path the same; of the port only where it differs. SPC-4 7.8.6 */
static void
test_identity_on_every_path(void **state)
{
	static const uint8_t types[] = {1, 2, 3, 8};
	uint8_t first[512];
	struct answer one;
	const struct answer *a = read_page(0x83);
	const uint8_t *p, *q;
	size_t length, again;

	(void)state;
	memcpy(first, a->in, a->in_length);
	one = *a;
	one.in = first;
	disk.target.name = "iqn.2026-11.localhost.slabd:elsewhere";
	disk_add_lun(1, disk.luns[0].volume, false);
	a = disk_command_lun(
		disk.other, (const uint8_t[8]){0, 1}, CDB(0x12, 1, 0x83, 2, 0), NULL, 0);
	assert_good(a);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		p = find_designator(&one, 0, types[i], &length);
		q = find_designator(a, 0, types[i], &again);
		assert_int_equal(length, again);
		assert_memory_equal(p, q, 4 + length);
	}
	p = find_designator(&one, 2, 8, &length);
	q = find_designator(a, 2, 8, &again);
	assert_string_equal((const char *)q + 4, "iqn.2026-11.localhost.slabd:elsewhere");
	assert_string_not_equal((const char *)p + 4, (const char *)q + 4);
}

static void
test_mode_policy(void **state)
{
	static const uint8_t shared[] = {0, 0x87, 0, 4, 0x3f, 0xff, 0, 0};
	const struct answer *a = read_page(0x87);

	(void)state;
	assert_int_equal(a->in_length, sizeof(shared));
	assert_memory_equal(a->in, shared, sizeof(shared));
}

/* Each port once, with the name that 83h gives it; a group of two portals is one port. */
static void
test_ports(void **state)
{
	static const struct portal portals[] = {{.address = "a", .group = 3, .relative_id = 1},
		{.address = "b", .group = 3, .relative_id = 1},
		{.address = "c", .group = 300, .relative_id = 2}};
	static const char *const names[] = {"iqn.2026-11.localhost.slabd:disk0,t,0x0003",
		"iqn.2026-11.localhost.slabd:disk0,t,0x012c"};
	const struct answer *a;
	const uint8_t *p;

	(void)state;
	disk.catalogue.portals = portals;
	disk.catalogue.nportals = ARRAY_SIZE(portals);
	disk_add_lun(1, disk.luns[0].volume, false);
	read_page(0x88);
	a = disk_command(disk.nexus, CDB(0x12, 1, 0x88, 2, 0), NULL, 0);
	p = a->in + 4;
	for (unsigned i = 0; i < 2; i++) {
		size_t length = get_be16(p + 10);

		assert_true(p + 12 + length <= a->in + a->in_length);
		assert_int_equal(get_be16(p + 2), i + 1);
		assert_int_equal(get_be16(p + 6), 0); /* no initiator port */
		assert_int_equal(p[12], 0x53);
		assert_int_equal(p[13], 0x98);
		assert_int_equal(p[15], length - 4);
		assert_string_equal((const char *)p + 16, names[i]);
		p += 12 + length;
	}
	assert_ptr_equal(p, a->in + a->in_length);
}

/* As many ports as there can be, with names as long as they can be. */
static void
test_many_ports(void **state)
{
	static struct portal portals[LIMIT_LISTENERS];
	char name[LIMIT_ISCSI_NAME + 1] = "iqn.2026-11.";
	const struct answer *a;

	(void)state;
	memset(name + 12, 'x', LIMIT_ISCSI_NAME - 12);
	for (unsigned i = 0; i < LIMIT_LISTENERS; i++)
		portals[i] = (struct portal){.address = "a",
			.group = (uint16_t)(65535 - i),
			.relative_id = (uint16_t)(i + 1)};
	disk.target.name = name;
	disk.catalogue.portals = portals;
	disk.catalogue.nportals = LIMIT_LISTENERS;
	disk_add_lun(1, disk.luns[0].volume, false);
	a = disk_command(disk.nexus, CDB(0x12, 1, 0x88, 0xff, 0xff), NULL, 0);
	assert_good(a);
	assert_int_equal(get_be16(a->in + 2) + 4, a->in_length);
	assert_true(a->in_length > LIMIT_LISTENERS * LIMIT_ISCSI_NAME);
	assert_good(disk_command(disk.nexus, CDB(0x12, 1, 0x83, 2, 0), NULL, 0));
	disk.target.name = NULL;
}

static void
test_zones_and_more_limits(void **state)
{
	const struct answer *a = read_page(0xb6);

	(void)state;
	assert_int_equal(a->in_length, 64);
	assert_int_equal(get_be32(a->in + 4), 0);
	for (unsigned at = 8; at < 20; at += 4)
		assert_int_equal(get_be32(a->in + at), UINT32_MAX);
	for (unsigned at = 20; at < 64; at++)
		assert_int_equal(a->in[at], 0);
	a = read_page(0xb7);
	assert_int_equal(a->in_length, 64);
	for (unsigned at = 4; at < 64; at++)
		assert_int_equal(a->in[at], 0);
}

static void
test_block_limits(void **state)
{
	const struct answer *a = read_page(0xb0);

	(void)state;
	assert_int_equal(a->in_length, 0x40);
	assert_int_equal(a->in[4], 0);                        /* WSNZ */
	assert_int_equal(a->in[5], 255);                      /* COMPARE AND WRITE */
	assert_int_equal(get_be16(a->in + 6), 8);             /* 4096 / 512 */
	assert_int_equal(get_be32(a->in + 8), 4 * MIB / 512); /* less than ours: the volume's */
	assert_int_equal(get_be32(a->in + 12), MIB / 512);
	assert_int_equal(get_be32(a->in + 20), UINT32_MAX); /* UNMAP blocks */
	assert_int_equal(get_be32(a->in + 24), LIMIT_SCSI_UNMAP);
	assert_int_equal(get_be32(a->in + 28), 16); /* 8192 / 512 */
	assert_int_equal(get_be32(a->in + 32), UINT32_C(1) << 31);
	assert_int_equal(get_be64(a->in + 36), LIMIT_SCSI_WRITE_SAME / 512);
	for (unsigned at = 44; at < 56; at += 4) /* atomic: a physical block, and nothing less */
		assert_int_equal(get_be32(a->in + at), 8);
}

static void
test_qualities(void **state)
{
	static const uint8_t characteristics[] = {0, 1, 0, 0x40};
	static const uint8_t provisioning[] = {11, 0xe6, 2, 0}; /* sets of 1 MiB */
	const struct answer *a = read_page(0xb1);

	(void)state;
	assert_int_equal(a->in_length, 0x40);
	assert_memory_equal(a->in + 4, characteristics, 4);
	a = read_page(0xb2);
	assert_int_equal(a->in_length, 8);
	assert_memory_equal(a->in + 4, provisioning, 4);
}

/* Nothing is promised that the volume does not do. */
static void
test_a_thick_rotating_volume(void **state)
{
	char name[] = "db", backend[] = "plain";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = MIB,
		.block_size = 512,
		.physical_block_size = 512,
		.rotational = true};
	static const uint8_t zeroes[16];
	const struct answer *a;

	(void)state;
	disk_start_volume(disk_plain_volume(&conf, &(struct blk_info){.sparse = true}));
	a = read_page(0xb1);
	assert_int_equal(get_be16(a->in + 4), 7200);
	a = read_page(0xb2);
	assert_memory_equal(a->in + 4, zeroes, 4);
	a = read_page(0xb0);
	assert_memory_equal(a->in + 20, zeroes, 16);
	disk_ready(disk.nexus);
	/* And WRITE SAME with UNMAP is refused. */
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x41, 0x08, [8] = 1), zeroes, 0), 1);
	disk_stop();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_supported_pages, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_extended_inquiry, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_serial, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_identification, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_identity_on_every_path, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_mode_policy, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_ports, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_many_ports, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_zones_and_more_limits, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_block_limits, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_qualities, start, disk_teardown),
		cmocka_unit_test(test_a_thick_rotating_volume),
	};

	return cmocka_run_group_tests_name("scsi_vpd", tests, NULL, NULL);
}
