/* scsi_mode.c */
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
	disk_start(&(struct volume_script_options){.size = MIB, .volatile_cache = true});
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	return 0;
}

static const uint8_t recovery[12] = {0x01, 0x0a, [7] = 0x80};
static const uint8_t disconnect[16] = {0x02, 0x0e};
static const uint8_t caching[20] = {0x08, 0x12, 0x04};
static const uint8_t control[12] = {0x0a, 0x0a, 0x20, 0x10, [8] = 0xff, [9] = 0xff};
static const uint8_t power[40] = {0x1a, 0x26};
static const uint8_t exceptions[12] = {0x1c, 0x0a, 0x08, 0x06};
static const uint8_t provisioning[24] = {
	0x5c, 0x02, 0, 0x14, [16] = 0x01, [17] = 0x02}; /* no threshold */

/* In the order in which they come; the switches of each byte. */
static const struct {
	const uint8_t *page;
	uint8_t length;
	uint8_t changeable[8];
} all_pages[] = {{recovery, 12, {[7] = 0x80}}, {disconnect, 16, {0}}, {caching, 20, {[2] = 0x04}},
	{control, 12, {[2] = 0x04, [3] = 0x10, [4] = 0x08, [5] = 0x40}}, {power, 40, {0}},
	{exceptions, 12, {[2] = 0x0c}}, {provisioning, 24, {0}}};
#define PAGES_00 112 /* bytes of those without subpage */
#define PAGES_FF 136

static void
test_sense_6(void **state)
{
	static const uint8_t head[] = {4 + 8 + PAGES_00 - 1, 0, 0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0};
	const struct answer *a = disk_command(disk.nexus, CDB(0x1a, 0, 0x3f, 0, 255), NULL, 0);
	size_t whole = 4 + 8 + PAGES_FF, at = 12;

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 4 + 8 + PAGES_00);
	assert_memory_equal(a->in, head, sizeof(head));
	a = disk_command(disk.nexus, CDB(0x1a, 0, 0x3f, 0xff, 255), NULL, 0);
	assert_int_equal(a->in_length, whole);
	assert_int_equal(a->in[0], whole - 1);
	for (size_t i = 0; i < ARRAY_SIZE(all_pages); i++) {
		assert_memory_equal(a->in + at, all_pages[i].page, all_pages[i].length);
		at += all_pages[i].length;
	}
	assert_int_equal(at, whole);
	for (unsigned length = 0; length <= whole + 2; length++) {
		a = disk_command(disk.nexus, CDB(0x1a, 0, 0x3f, 0xff, (uint8_t)length), NULL, 0);
		assert_good(a);
		assert_int_equal(a->in_length, min_size(length, whole));
		assert_memory_equal(a->in + 1, head + 1, min_size(a->in_length, 12) - (length > 0));
	}
	a = disk_command(disk.nexus, CDB(0x1a, 0x08, 0x08, 0, 255), NULL, 0); /* DBD */
	assert_int_equal(a->in_length, 24);
	assert_int_equal(a->in[3], 0);
	assert_memory_equal(a->in + 4, caching, 20);
}

/* SPC-4 6.11.1: a subpage by itself, all of a page's, and one that is not there. */
static void
test_subpages(void **state)
{
	const struct answer *a = disk_command(disk.nexus, CDB(0x1a, 8, 0x1c, 0x02, 255), NULL, 0);

	(void)state;
	assert_int_equal(a->in_length, 4 + 24);
	assert_memory_equal(a->in + 4, provisioning, 24);
	a = disk_command(disk.nexus, CDB(0x1a, 8, 0x1c, 0, 255), NULL, 0);
	assert_int_equal(a->in_length, 4 + 12);
	a = disk_command(disk.nexus, CDB(0x1a, 8, 0x1c, 0xff, 255), NULL, 0);
	assert_int_equal(a->in_length, 4 + 12 + 24);
	assert_memory_equal(a->in + 4, exceptions, 12);
	assert_memory_equal(a->in + 16, provisioning, 24);
	a = disk_command(disk.nexus, CDB(0x1a, 8, 0x08, 0xff, 255), NULL, 0);
	assert_int_equal(a->in_length, 4 + 20);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x1a, 8, 0x08, 0x02, 255), NULL, 0), 3);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x1a, 8, 0x1c, 0x01, 255), NULL, 0), 3);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x1a, 8, 0x3f, 0x02, 255), NULL, 0), 3);
}

static void
test_sense_10(void **state)
{
	static const uint8_t head[] = {0, 8 + 16 + 12 - 2, 0, 0x10, 1, 0, 0, 16, 0, 0, 0, 0, 0, 0,
		8, 0, 0, 0, 0, 0, 0, 0, 2, 0};
	const struct answer *a = disk_command(
		disk.nexus, CDB(0x5a, 0x10, 0x0a, 0, 0, 0, 0, 0, 255), NULL, 0); /* LLBAA */

	(void)state;
	assert_good(a);
	assert_int_equal(a->in_length, 8 + 16 + 12);
	assert_memory_equal(a->in, head, sizeof(head));
	assert_memory_equal(a->in + 24, control, 12);
	a = disk_command(disk.nexus, CDB(0x5a, 0, 0x01, 0, 0, 0, 0, 0, 255), NULL, 0);
	assert_int_equal(a->in_length, 8 + 8 + 12);
	assert_int_equal(a->in[4], 0);
	a = disk_command(disk.nexus, CDB(0x5a, 0x08, 0x1c, 0, 0, 0, 0, 0, 10), NULL, 0);
	assert_int_equal(a->in_length, 10);
	assert_int_equal(get_be16(a->in), 8 + 12 - 2);
}

static void
test_changeable_default_saved(void **state)
{
	uint8_t page[20] = {0x08, 0x12, 0x04};
	const struct answer *a;

	(void)state;
	a = disk_command(disk.nexus, CDB(0x1a, 0x08, 0x48, 0, 255), NULL, 0);
	assert_memory_equal(a->in + 4, page, 20); /* WCE */
	a = disk_command(disk.nexus, CDB(0x1a, 0x08, 0x4a, 0, 255), NULL, 0);
	memset(page, 0, sizeof(page));
	memcpy(page, (const uint8_t[]){0x0a, 0x0a, 0x04, 0x10, 0x08, 0x40},
		6); /* D_SENSE, queue algorithm, SWP, TAS */
	assert_memory_equal(a->in + 4, page, 12);
	a = disk_command(disk.nexus, CDB(0x1a, 0x08, 0x42, 0, 255), NULL, 0);
	assert_int_equal(a->in[6], 0);
	a = disk_command(disk.nexus, CDB(0x1a, 0x08, 0x5c, 0x02, 255), NULL, 0);
	assert_memory_equal(a->in + 4, provisioning, 4); /* nothing of it */
	for (unsigned i = 8; i < 28; i++)
		assert_int_equal(a->in[i], 0);
	a = disk_command(disk.nexus, CDB(0x1a, 0x08, 0x88, 0, 255), NULL, 0);
	assert_memory_equal(a->in + 4, caching, 20);
	assert_sense(disk_command(disk.nexus, CDB(0x1a, 0, 0xc8, 0, 255), NULL, 0), 5, 0x3900);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x1a, 0, 0x09, 0, 255), NULL, 0), 2);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x1a, 0, 0x0a, 1, 255), NULL, 0), 3);
}

/* MODE SELECT(6) or (10) of one page without block descriptor. */
static const struct answer *
select_page(struct scsi_nexus *nexus, bool ten, const uint8_t *page, uint8_t length)
{
	uint8_t list[64] = {0}, head = ten ? 8 : 4;

	memcpy(list + head, page, length);
	length = (uint8_t)(length + head);
	return ten ? disk_command(nexus, CDB(0x55, 0x10, [8] = length), list, length)
		   : disk_command(nexus, CDB(0x15, 0x10, 0, 0, length), list, length);
}

static unsigned
count_flushes(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < volume_script_calls(disk.script); i++)
		n += volume_script_call(disk.script, i)->op == BLK_FLUSH;
	return n;
}

static void
test_write_cache_off(void **state)
{
	uint8_t page[20], data[512] = {1};

	(void)state;
	for (unsigned ten = 0; ten < 2; ten++) {
		memcpy(page, caching, 20);
		page[2] = 0;
		volume_script_forget(disk.script);
		assert_good(select_page(disk.nexus, ten, page, 20));
		assert_int_equal(count_flushes(), 1); /* what was cached is written first */
		/* For every nexus, which hear of it. */
		assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2a01);
		assert_good(disk_command(disk.other, CDB(0), NULL, 0));
		assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
		assert_int_equal(
			disk_command(disk.other, CDB(0x1a, 8, 8, 0, 255), NULL, 0)->in[6], 0);
		assert_int_equal(
			disk_command(disk.other, CDB(0x1a, 8, 0x88, 0, 255), NULL, 0)->in[6], 4);
		assert_good(disk_command(disk.other, CDB(0x2a, [8] = 1), data, 512));
		assert_int_equal(count_flushes(), 2);
		assert_good(disk_command(disk.nexus, CDB(0x41, [8] = 1), data, 512));
		assert_int_equal(count_flushes(), 3);
		/* The same again changes nothing, and nobody hears of it. */
		assert_good(select_page(disk.nexus, ten, page, 20));
		assert_good(disk_command(disk.other, CDB(0), NULL, 0));
		assert_good(select_page(disk.nexus, ten, caching, 20));
		assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2a01);
		assert_good(disk_command(disk.other, CDB(0x2a, [8] = 1), data, 512));
		assert_int_equal(count_flushes(), 3);
	}
}

/* What was set outlives the sessions, until a reset. */
static void
test_settings_outlive_sessions(void **state)
{
	uint8_t page[20];
	static const uint8_t lun[8];

	(void)state;
	memcpy(page, caching, 20);
	page[2] = 0;
	assert_good(select_page(disk.nexus, false, page, 20));
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.other = NULL;
	disk.nexus = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:three");
	disk_ready(disk.nexus);
	assert_int_equal(disk_command(disk.nexus, CDB(0x1a, 8, 8, 0, 255), NULL, 0)->in[6], 0);
	scsi_lun_reset(disk.nexus, lun);
	disk_ready(disk.nexus);
	assert_int_equal(disk_command(disk.nexus, CDB(0x1a, 8, 8, 0, 255), NULL, 0)->in[6], 4);
}

static void
test_software_write_protect(void **state)
{
	uint8_t page[12], data[512] = {0};

	(void)state;
	memcpy(page, control, 12);
	page[4] = 0x08;
	assert_good(select_page(disk.nexus, false, page, 12));
	assert_sense(disk_command(disk.nexus, CDB(0x2a, [8] = 1), data, 512), 7, 0x2702);
	assert_int_equal(disk_command(disk.nexus, CDB(0x1a, 8, 0x0a, 0, 255), NULL, 0)->in[2],
		0x90); /* WP */
	assert_good(disk_command(disk.nexus, CDB(0x28, [8] = 1), NULL, 0));
	assert_good(select_page(disk.nexus, true, control, 12));
	assert_good(disk_command(disk.nexus, CDB(0x2a, [8] = 1), data, 512));
}

static void
test_descriptor_sense(void **state)
{
	uint8_t page[12];
	const struct answer *a;

	(void)state;
	memcpy(page, control, 12);
	page[2] |= 0x04;
	assert_good(select_page(disk.nexus, false, page, 12));
	a = disk_command(disk.nexus, CDB(0x28, 0x20, [8] = 1), NULL, 0);
	assert_sense(a, 5, 0x2400);
	assert_int_equal(a->sense[0], 0x72);
	assert_int_equal(a->sense_length, 16);
	assert_memory_equal(a->sense + 8, ((const uint8_t[]){2, 6, 0, 0, 0xc0, 0, 1, 0}), 8);
	a = disk_command(disk.nexus, CDB(0x89, [13] = 1), (const uint8_t[1024]){1}, 1024);
	assert_sense(a, 0xe, 0x1d00);
	assert_int_equal(a->sense_length, 20);
	assert_memory_equal(
		a->sense + 8, ((const uint8_t[]){0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 12);
}

/* Everything else in every page is fixed, and a wrong byte leaves all as it was. */
static void
test_fixed_bits(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all_pages); i++) {
		uint8_t length = all_pages[i].length;

		assert_good(select_page(disk.nexus, false, all_pages[i].page, length));
		for (unsigned byte = 0; byte < length; byte++) {
			for (unsigned bit = 0; bit < 8; bit++) {
				uint8_t page[40];
				const struct answer *a;

				if (byte < 8 && (all_pages[i].changeable[byte] & 1u << bit))
					continue;
				memcpy(page, all_pages[i].page, length);
				page[byte] ^= (uint8_t)(1u << bit);
				a = select_page(disk.nexus, false, page, length);
				assert_sense(a, 5, 0x2600);
				assert_int_equal(a->sense[15], 0x80);
			}
		}
	}
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
}

/* Each switch by itself, there and back; the others hear of it, who asked does not. */
static void
test_every_switch(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all_pages); i++) {
		uint8_t code = all_pages[i].page[0] & 0x3f, length = all_pages[i].length;

		for (unsigned bit = 0; bit < 64; bit++) {
			uint8_t page[40], mask = (uint8_t)(1u << bit % 8);

			if (!(all_pages[i].changeable[bit / 8] & mask))
				continue;
			memcpy(page, all_pages[i].page, length);
			page[bit / 8] ^= mask;
			if (code == 0x1c && mask == 0x04) /* TEST needs exceptions to be told */
				page[2] = 0x04;
			assert_good(select_page(disk.nexus, true, page, length));
			assert_memory_equal(
				disk_command(disk.nexus, CDB(0x1a, 8, code, 0, 255), NULL, 0)->in +
					4,
				page, length);
			disk_ready(disk.nexus);
			assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2a01);
			assert_good(select_page(disk.other, true, all_pages[i].page, length));
			assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2a01);
			assert_good(disk_command(disk.other, CDB(0), NULL, 0));
		}
	}
}

/* SPC-4 7.5.11: a failure predicted to try it, by REQUEST SENSE; TEST without reporting is refused. */
static void
test_informational_exceptions(void **state)
{
	uint8_t page[12];
	const struct answer *a;

	(void)state;
	memcpy(page, exceptions, 12);
	page[2] = 0x0c;
	assert_sense(select_page(disk.nexus, false, page, 12), 5, 0x2600);
	a = disk_command(disk.nexus, CDB(0x03, 0, 0, 0, 252), NULL, 0);
	assert_int_equal(get_be16(a->in + 12), 0);
	page[2] = 0x04;
	assert_good(select_page(disk.nexus, false, page, 12));
	a = disk_command(disk.nexus, CDB(0x03, 0, 0, 0, 252), NULL, 0);
	assert_int_equal(a->in[2], 0);
	assert_int_equal(get_be16(a->in + 12), 0x5dff);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	assert_good(select_page(disk.nexus, false, exceptions, 12));
	a = disk_command(disk.nexus, CDB(0x03, 0, 0, 0, 252), NULL, 0);
	assert_int_equal(get_be16(a->in + 12), 0);
}

static void
test_wrong_lists(void **state)
{
	uint8_t list[64] = {0};

	(void)state;
	memcpy(list + 4, caching, 20);
	list[4 + 2] = 0; /* WCE off: must not come true below */
	assert_good(disk_command(disk.nexus, CDB(0x15, 0x10), list, 0));
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x15, 0, 0, 0, 24), list, 24), 1);    /* PF */
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x15, 0x11, 0, 0, 24), list, 24), 1); /* SP */
	for (uint8_t length = 1; length < 24; length++) {
		if (length != 4) /* a header alone is a list */
			assert_sense(disk_command(disk.nexus, CDB(0x15, 0x10, 0, 0, length), list,
					     length),
				5, 0x1a00);
	}
	assert_sense(disk_command(disk.nexus, CDB(0x15, 0x10, 0, 0, 24), list, 23), 5,
		0x0e03); /* short */
	/* A good page before a wrong one. */
	memcpy(list + 24, exceptions, 12);
	list[27] = 0;
	assert_sense(disk_command(disk.nexus, CDB(0x15, 0x10, 0, 0, 36), list, 36), 5, 0x2600);
	assert_int_equal(disk_command(disk.nexus, CDB(0x1a, 8, 8, 0, 255), NULL, 0)->in[6], 4);
	assert_bad_cdb(disk_command(disk.nexus, CDB(0x55, 0x10, [7] = 0x11), list, 0), 7);
}

/* What MODE SENSE said can be handed back; another geometry cannot. */
static void
test_block_descriptors(void **state)
{
	uint8_t list[64];
	const struct answer *a;

	(void)state;
	a = disk_command(disk.nexus, CDB(0x5a, 0x10, 0x08, 0, 0, 0, 0, 0, 255), NULL, 0);
	memcpy(list, a->in, 44);
	assert_good(disk_command(disk.nexus, CDB(0x55, 0x10, [8] = 44), list, 44));
	list[8 + 14]++;
	assert_sense(disk_command(disk.nexus, CDB(0x55, 0x10, [8] = 44), list, 44), 5, 0x2600);
	a = disk_command(disk.nexus, CDB(0x1a, 0, 0x08, 0, 255), NULL, 0);
	memcpy(list, a->in, 32);
	assert_good(disk_command(disk.nexus, CDB(0x15, 0x10, 0, 0, 32), list, 32));
	list[7]++; /* the number of blocks */
	assert_sense(disk_command(disk.nexus, CDB(0x15, 0x10, 0, 0, 32), list, 32), 5, 0x2600);
	list[3] = 9;
	assert_sense(disk_command(disk.nexus, CDB(0x15, 0x10, 0, 0, 32), list, 32), 5, 0x2600);
	list[3] = 255;
	assert_sense(disk_command(disk.nexus, CDB(0x15, 0x10, 0, 0, 32), list, 32), 5, 0x1a00);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_sense_6, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_sense_10, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_subpages, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_every_switch, start, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_informational_exceptions, start, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_changeable_default_saved, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_write_cache_off, start, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_settings_outlive_sessions, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_software_write_protect, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_descriptor_sense, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_fixed_bits, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_wrong_lists, start, disk_teardown),
		cmocka_unit_test_setup_teardown(test_block_descriptors, start, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_mode", tests, NULL, NULL);
}
