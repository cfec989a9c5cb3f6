/* scsi_lun.c and scsi_unit.c: LUNs, nexuses, unit attentions */
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

static const uint8_t lun_0[8];

static void
test_addressing(void **state)
{
	static const struct {
		uint8_t lun[8];
		bool there;
	} rows[] = {
		{{0, 0}, true},    /* peripheral */
		{{0x40, 0}, true}, /* flat */
		{{0, 5}, true},
		{{0x40, 5}, true},
		{{0x41, 0x2c}, true}, /* 300 */
		{{0, 1}, false},
		{{0x41, 0x2d}, false},
		{{0x01, 0}, false},    /* bus 1 */
		{{0x80, 0}, false},    /* logical unit addressing */
		{{0xc1, 0x01}, false}, /* well known: REPORT LUNS */
		{{0, 0, 0, 1}, false}, /* a second level */
		{{0, 0, 0, 0, 0, 0, 0, 1}, false},
		{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false},
	};

	(void)state;
	disk_add_lun(5, disk.luns[0].volume, false);
	disk_add_lun(300, disk.luns[0].volume, false);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct answer *a;

		assert_int_equal(scsi_lun_exists(disk.nexus, rows[i].lun), rows[i].there);
		a = disk_command_lun(
			disk.nexus, rows[i].lun, CDB(OP_INQUIRY, 0, 0, 0, 96), NULL, 0);
		assert_int_equal(a->in[0], rows[i].there ? 0x00 : 0x7f);
		a = disk_command_lun(disk.nexus, rows[i].lun, CDB(OP_READ_10), NULL, 0);
		if (!rows[i].there)
			assert_sense(a, 5, 0x2500);
		scsi_lun_reset(disk.nexus, rows[i].lun); /* harmless on what is not there */
	}
}

/* Once, per nexus and LUN, before executing; not for INQUIRY, REPORT LUNS, REQUEST SENSE. */
static void
test_power_on(void **state)
{
	uint8_t data[512] = {9};

	(void)state;
	assert_good(disk_command(disk.other, CDB(OP_INQUIRY, 0, 0, 0, 96), NULL, 0));
	assert_good(disk_command(disk.other, CDB(OP_REPORT_LUNS, [9] = 16), NULL, 0));
	volume_script_forget(disk.script);
	assert_sense(disk_command(disk.other, CDB(OP_WRITE_10, [8] = 1), data, 512), 6, 0x2900);
	assert_int_equal(volume_script_calls(disk.script), 0);
	assert_good(disk_command(disk.other, CDB(OP_WRITE_10, [8] = 1), data, 512));
	assert_int_equal(volume_script_calls(disk.script), 1);
}

/* A nexus that was lost and comes back hears that, if it had anything to lose; another does not. */
static void
test_nexus_loss(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		scsi_nexus_free(disk.nexus);
		disk.nexus = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:one,i,0x1");
		assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2907);
		assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	}
	scsi_nexus_free(disk.other);
	disk.other = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:two,i,0x2");
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2900);
	scsi_nexus_free(disk.other);
	disk.other = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:two,i,0x22");
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2900);
}

/* They are remembered to a number, the last ones. */
static void
test_many_nexuses_are_lost(void **state)
{
	char name[64];

	(void)state;
	for (unsigned i = 0; i <= LIMIT_SCSI_NEXUSES; i++) {
		scsi_nexus_free(disk.other);
		snprintf(name, sizeof(name), "iqn.test:n,i,0x%x", i);
		disk.other = scsi_nexus_new(&disk.catalogue, &disk.target, name);
		assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2900);
	}
	scsi_nexus_free(disk.other);
	disk.other = scsi_nexus_new(&disk.catalogue, &disk.target, name);
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2907);
	scsi_nexus_free(disk.other);
	disk.other = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:n,i,0x0");
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2900);
}

static void
test_lun_reset(void **state)
{
	(void)state;
	disk_ready(disk.other);
	scsi_lun_reset(disk.nexus, lun_0);
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2903); /* who asked, too */
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2903);
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	scsi_lun_reset(disk.other, lun_0);
	scsi_lun_reset(disk.other, lun_0); /* told once */
	assert_sense(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0), 6, 0x2903);
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0));
}

/* One volume in two targets is one logical unit. */
static void
test_reset_through_another_target(void **state)
{
	struct target target = {
		.name = "iqn.2026-11.localhost.slabd:second", .luns = disk.luns, .nluns = 1};
	struct scsi_nexus *nexus = scsi_nexus_new(&disk.catalogue, &target, "iqn.test:far");

	(void)state;
	disk_ready(nexus);
	scsi_lun_reset(nexus, lun_0);
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2903);
	scsi_nexus_free(nexus);
}

static void
test_read_only_lun(void **state)
{
	static const uint8_t lun[8] = {0, 1};
	static const struct {
		uint8_t cdb[16];
	} writing[] = {{{OP_WRITE_6, [4] = 1}}, {{OP_WRITE_10, [8] = 1}}, {{OP_WRITE_12, [9] = 1}},
		{{OP_WRITE_16, [13] = 1}}, {{OP_WRITE_SAME_10, [8] = 1}},
		{{OP_WRITE_SAME_16, [13] = 1}}, {{OP_UNMAP, [8] = 24}},
		{{OP_COMPARE_AND_WRITE, [13] = 1}}};
	static const uint8_t data[1024];
	const struct answer *a;

	(void)state;
	disk_add_lun(1, disk.luns[0].volume, true);
	disk_command_lun(disk.nexus, lun, CDB(0), NULL, 0);
	volume_script_forget(disk.script);
	for (size_t i = 0; i < ARRAY_SIZE(writing); i++) {
		a = disk_command_lun(disk.nexus, lun, writing[i].cdb, data, sizeof(data));
		assert_sense(a, 7, 0x2700);
		assert_int_equal(a->out_length, 0);
	}
	assert_int_equal(volume_script_calls(disk.script), 0);
	assert_good(disk_command_lun(disk.nexus, lun, CDB(OP_READ_10, [8] = 1), NULL, 0));
	assert_good(disk_command_lun(disk.nexus, lun, CDB(OP_SYNCHRONIZE_CACHE_10), NULL, 0));
	a = disk_command_lun(disk.nexus, lun, CDB(OP_MODE_SENSE_6, 8, 0x3f, 0, 255), NULL, 0);
	assert_int_equal(a->in[2], 0x90);
	/* The same volume is writable as LUN 0. */
	disk_ready(disk.nexus);
	assert_good(disk_command(disk.nexus, CDB(OP_WRITE_10, [8] = 1), data, 512));
}

/* Every LUN that flat addressing has; only those that are used cost anything. */
static void
test_many_luns(void **state)
{
	static const uint8_t last[8] = {0x7f, 0xff}, middle[8] = {0, 200};
	struct lun *luns = calloc(LIMIT_SCSI_LUNS, sizeof(*luns));
	uint32_t whole = 8 + 8 * LIMIT_SCSI_LUNS;
	const struct answer *a;

	(void)state;
	assert_non_null(luns);
	for (unsigned i = 0; i < LIMIT_SCSI_LUNS; i++)
		luns[i] = (struct lun){.number = (uint16_t)i, .volume = disk.luns[0].volume};
	disk.target.luns = luns;
	disk.target.nluns = LIMIT_SCSI_LUNS;
	scsi_nexus_free(disk.nexus);
	disk.nexus = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:one");
	for (uint32_t allocated = 4; allocated <= whole + 8; allocated = 2 * allocated + 1) {
		a = disk_command(disk.nexus,
			CDB(OP_REPORT_LUNS, [6] = (uint8_t)(allocated >> 24),
				[7] = (uint8_t)(allocated >> 16), [8] = (uint8_t)(allocated >> 8),
				[9] = (uint8_t)allocated),
			NULL, 0);
		assert_good(a);
		assert_int_equal(a->in_length, min_u64(allocated, whole));
		assert_int_equal(get_be32(a->in), whole - 8);
	}
	a = disk_command(disk.nexus, CDB(OP_REPORT_LUNS, [6] = 0xff), NULL, 0);
	assert_int_equal(a->in_length, whole);
	for (unsigned i = 0; i < LIMIT_SCSI_LUNS; i++)
		assert_int_equal(get_be16(a->in + 8 + 8 * i), i < 256 ? i : 0x4000 | i);
	assert_int_equal(disk.nexus->nunits, 1); /* LUN 0, which was asked */
	/* In any order, each by itself. */
	assert_sense(disk_command_lun(disk.nexus, last, CDB(0), NULL, 0), 6, 0x2900);
	assert_sense(disk_command_lun(disk.nexus, lun_0, CDB(0), NULL, 0), 6, 0x2900);
	assert_sense(disk_command_lun(disk.nexus, middle, CDB(0), NULL, 0), 6, 0x2900);
	assert_good(disk_command_lun(disk.nexus, last, CDB(0), NULL, 0));
	assert_good(disk_command_lun(disk.nexus, middle, CDB(0), NULL, 0));
	assert_int_equal(disk.nexus->nunits, 3);
	scsi_nexus_free(disk.nexus);
	disk.nexus = NULL;
	free(luns);
	disk.target.luns = NULL;
	disk.target.nluns = 0;
}

static void
destroy_nothing(struct catalogue *catalogue)
{
	(void)catalogue;
}

/* A catalogue of the disk's target with these LUNs, for initiators of any name but that rule's. */
struct offer {
	struct catalogue catalogue;
	struct target target;
};

static void
publish(struct offer *offer, const struct lun *luns, size_t nluns, const struct initiator *rule)
{
	static const struct credential chap = {"user", "secret"};

	offer->target = (struct target){.name = disk.target.name,
		.luns = luns,
		.nluns = nluns,
		.initiators = rule,
		.ninitiators = rule != NULL,
		.chap = &chap,
		.nchap = 1};
	offer->catalogue = (struct catalogue){.references = 1,
		.targets = &offer->target,
		.ntargets = 1,
		.portals = disk.portals,
		.nportals = 2,
		.destroy = destroy_nothing};
	catalogue_publish(&offer->catalogue);
}

/* What is offered changes under a session: it hears of it once for each LUN that it uses, REPORT LUNS
 * takes that for said, and the LUNs are those of now. */
static void
test_inventory_changed(void **state)
{
	static const uint8_t lun_1[8] = {0, 1};
	struct volume_script *second =
		volume_script_open(&(struct volume_script_options){.name = "second"});
	struct lun luns[2] = {{.number = 0, .volume = disk.luns[0].volume},
		{.number = 1, .volume = volume_script_volume(second)}};
	struct initiator rule = {.name = "iqn.test:two", .as = {.luns = luns + 1, .nluns = 1}};
	struct offer one, two, three, mapped;
	const struct answer *a;

	(void)state;
	publish(&one, luns, 1, NULL);
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	publish(&two, luns, 2, NULL);
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x3f0e);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	a = disk_command(disk.other, CDB(OP_REPORT_LUNS, [9] = 255), NULL, 0);
	assert_int_equal(a->in_length, 24);
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	assert_sense(disk_command_lun(disk.nexus, lun_1, CDB(0), NULL, 0), 6, 0x2900);
	assert_good(disk_command_lun(disk.nexus, lun_1, CDB(0), NULL, 0));
	/* The same again is no change. */
	publish(&three, luns, 2, NULL);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	/* A map of its own for one of them: LUN 0 is gone for it, 1 stays. */
	disk_command_lun(disk.other, lun_1, CDB(0), NULL, 0);
	publish(&mapped, luns, 2, &rule);
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 5, 0x2500);
	assert_sense(disk_command_lun(disk.other, lun_1, CDB(0), NULL, 0), 6, 0x3f0e);
	assert_good(disk_command_lun(disk.other, lun_1, CDB(0), NULL, 0));
	assert_int_equal(disk.other->nunits, 1);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	/* The number is another volume's now, while a command is in the first. */
	volume_script_hold(disk.script, true);
	disk_begin(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0);
	luns[0].volume = luns[1].volume;
	publish(&one, luns, 1, NULL);
	scsi_nexus_renew(disk.nexus);
	volume_script_complete_all(disk.script, 0);
	assert_good(disk_end());
	volume_script_hold(disk.script, false);
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2900);
	assert_ptr_equal(blk_volume(disk.nexus->units[0]->handle), luns[1].volume);
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	catalogue_publish(NULL);
	volume_script_close(second);
}

static bool held_done;

static void
on_held(struct scsi_task *task)
{
	(void)task;
	held_done = true;
}

/* A LUN that is gone, while a command of before still has its unit, is gone for INQUIRY and the like, too. */
static void
test_gone_while_in_use(void **state)
{
	struct scsi_task held = {.nexus = disk.nexus,
		.cdb = {OP_READ_10, [8] = 1},
		.cdb_length = 10,
		.portal_id = disk.portal_id,
		.done = on_held};
	struct offer none;
	const struct answer *a;

	(void)state;
	held_done = false;
	volume_script_hold(disk.script, true);
	assert_true(scsi_prepare(&held));
	scsi_execute(&held);
	publish(&none, disk.luns, 0, NULL);
	a = disk_command(disk.nexus, CDB(OP_INQUIRY, [4] = 96), NULL, 0);
	assert_int_equal(a->in[0], 0x7f);
	assert_bad_cdb(disk_command(disk.nexus, CDB(OP_INQUIRY, 1, 0x83, 0, 96), NULL, 0), 2);
	a = disk_command(disk.nexus, CDB(OP_REQUEST_SENSE, [4] = 18), NULL, 0);
	assert_int_equal(get_be16(a->in + 12), ASC_NO_SUCH_LUN);
	assert_false(held_done);
	volume_script_hold(disk.script, false);
	volume_script_complete_all(disk.script, 0);
	virtual_run_until_idle();
	assert_true(held_done);
	assert_int_equal(held.status, SCSI_GOOD);
	iobuf_free(&held.in);
	assert_int_equal(disk.nexus->nunits, 0);
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	catalogue_publish(NULL);
}

/* A LUN that has become read-only is so for a nexus that was writing, too; and the other way round. */
static void
test_read_only_from_now_on(void **state)
{
	uint8_t data[512] = {0};
	struct lun luns[3] = {disk.luns[0], disk.luns[0], disk.luns[0]};
	struct offer offers[3];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(offers); i++) {
		luns[i].read_only = i == 1;
		publish(&offers[i], &luns[i], 1, NULL);
		disk_ready(disk.nexus);
		if (luns[i].read_only)
			assert_sense(disk_command(disk.nexus, CDB(OP_WRITE_10, [8] = 1), data, 512),
				7, 0x2700);
		else
			assert_good(disk_command(disk.nexus, CDB(OP_WRITE_10, [8] = 1), data, 512));
	}
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.nexus = disk.other = NULL;
	catalogue_publish(NULL);
}

static void
test_describe(void **state)
{
	char text[64], tiny[8];

	(void)state;
	scsi_nexus_describe(disk.other, text, sizeof(text));
	assert_string_equal(text, ""); /* nothing is open yet */
	scsi_nexus_describe(disk.nexus, text, sizeof(text));
	assert_string_equal(text, "script");
	disk_add_lun(7, disk.luns[0].volume, false);
	disk_ready(disk.nexus);
	disk_command_lun(disk.nexus, (const uint8_t[8]){0, 7}, CDB(0), NULL, 0);
	scsi_nexus_describe(disk.nexus, text, sizeof(text));
	assert_string_equal(text, "script:0 script:7");
	scsi_nexus_describe(disk.nexus, tiny, sizeof(tiny));
	assert_string_equal(tiny, "script:");
}

/* A volume is removed: its LUN goes when the last task is done, the other stays. */
static void
test_drop_volume(void **state)
{
	static const uint8_t lun[8] = {0, 1};
	struct volume_script *second =
		volume_script_open(&(struct volume_script_options){.name = "second"});
	struct volume *volume = volume_script_volume(second);
	struct volume_stats stats;
	const struct answer *a;

	(void)state;
	disk_add_lun(1, volume, false);
	disk_ready(disk.nexus);
	disk_command_lun(disk.nexus, lun, CDB(0), NULL, 0);
	volume_script_hold(disk.script, true);
	disk_begin(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0);
	volume_get_stats(disk.luns[0].volume, &stats);
	assert_int_equal(stats.handles, 1);
	volume_set_going(disk.luns[0].volume);
	assert_false(scsi_nexus_drop_volume(disk.nexus, disk.luns[0].volume));
	assert_false(scsi_nexus_drop_volume(disk.nexus, disk.luns[0].volume));
	assert_false(scsi_lun_exists(disk.nexus, lun_0));
	volume_get_stats(disk.luns[0].volume, &stats);
	assert_int_equal(stats.handles, 1);
	volume_script_complete_all(disk.script, 0);
	assert_good(disk_end());
	volume_script_hold(disk.script, false);
	volume_get_stats(disk.luns[0].volume, &stats);
	assert_int_equal(stats.handles, 0);

	assert_sense(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0), 5, 0x2500);
	a = disk_command(disk.nexus, CDB(OP_INQUIRY, 0, 0, 0, 96), NULL, 0);
	assert_int_equal(a->in[0], 0x7f);
	a = disk_command(disk.nexus, CDB(OP_REPORT_LUNS, [9] = 255), NULL, 0);
	assert_int_equal(a->in_length, 16);
	assert_good(disk_command_lun(disk.nexus, lun, CDB(OP_READ_10, [8] = 1), NULL, 0));
	volume_set_going(volume);
	assert_true(scsi_nexus_drop_volume(disk.nexus, volume));
	assert_sense(disk_command_lun(disk.nexus, lun, CDB(0), NULL, 0), 5, 0x2500);
	/* One that was never opened. */
	assert_true(scsi_nexus_drop_volume(disk.other, volume));
	volume_script_close(second);
}

/* volume_going() before anybody told the nexus. */
static void
test_going_volume(void **state)
{
	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	volume_set_going(disk.luns[0].volume);
	assert_sense(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0), 2, 0x0412);
	assert_sense(disk_command(disk.other, CDB(OP_READ_10, [8] = 1), NULL, 0), 5, 0x2500);
}

/* A failure is logged once a second for each unit. */
static void
test_failures_do_not_flood_the_log(void **state)
{
	const struct answer *a;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	volume_script_fail(disk.script, BLK_READ, -EIO, 1000);
	for (unsigned i = 0; i < 1000; i++) {
		a = disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0);
		assert_sense(a, 3, 0x1100);
	}
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_addressing, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_power_on, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_nexus_loss, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_many_nexuses_are_lost, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_lun_reset, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_reset_through_another_target, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_read_only_lun, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_many_luns, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_inventory_changed, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_gone_while_in_use, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_read_only_from_now_on, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_describe, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_drop_volume, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_going_volume, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(
			test_failures_do_not_flood_the_log, disk_setup, disk_teardown),
	};

	return cmocka_run_group_tests_name("scsi_lun", tests, NULL, NULL);
}
