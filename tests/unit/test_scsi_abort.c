/* protocols/scsi/scsi_abort.c: tasks that another nexus ends. SAM-5 5.6 */
#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "scsi/scsi_internal.h"
#include "slab.h"

static const uint8_t lun_0[8];

/* A transport whose tasks are the test's to end. */
static struct transport {
	struct scsi_abort_part *part; /* not yet ended */
	unsigned calls, tasks;        /* tasks: to be reported */
	bool tas, at_once;
} other, third;

static unsigned
abort_tasks(void *owner, const struct scsi_unit *unit, bool tas, struct scsi_abort_part *part)
{
	struct transport *transport = owner;

	assert_non_null(unit);
	transport->calls++;
	transport->tas = tas;
	if (transport->at_once)
		scsi_abort_ended(part, true);
	else
		transport->part = part;
	return transport->tasks;
}

static void
end_part(struct transport *transport, bool complete)
{
	assert_non_null(transport->part);
	scsi_abort_ended(transport->part, complete);
	transport->part = NULL;
	virtual_run_until_idle();
}

static unsigned told;
static bool told_complete;

static void
note_done(struct scsi_abort *abort, bool complete)
{
	assert_null(abort->run);
	told++;
	told_complete = complete;
}

static struct scsi_abort asking;

static void
ask(bool reset)
{
	told = 0;
	asking = (struct scsi_abort){.done = note_done, .reset = reset};
	assert_int_equal(scsi_abort_others(disk.nexus, lun_0, &asking), 0);
	assert_int_equal(told, 0); /* never from inside */
	virtual_run_until_idle();
}

static void
expect_told(bool complete)
{
	assert_int_equal(told, 1);
	assert_int_equal(told_complete, complete);
}

static int
setup(void **state)
{
	disk_setup(state);
	other = third = (struct transport){.at_once = true};
	scsi_nexus_attach(disk.other, abort_tasks, &other);
	disk_ready(disk.other);
	return 0;
}

static void
check_cache(const struct slab_stats *stats, void *arg)
{
	(void)arg;
	if (strncmp(stats->name, "scsi_abort", 10) == 0 && stats->active != 0)
		fail_msg("%s: %lu objects left", stats->name, (unsigned long)stats->active);
}

static int
teardown(void **state)
{
	virtual_run_until_idle();
	slab_for_each(check_cache, NULL);
	return disk_teardown(state);
}

/* The initiator hears of its cleared commands once, by unit attention; not where there were none. */
static void
test_commands_cleared(void **state)
{
	(void)state;
	ask(false);
	expect_told(true);
	assert_int_equal(other.calls, 1);
	assert_false(other.tas);
	assert_good(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0));
	other.tasks = 3;
	ask(false);
	expect_told(true);
	assert_sense(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0), 6, 0x2f00);
	assert_good(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(OP_TEST_UNIT_READY), NULL, 0));
	/* a reset's attention is 29/03, and comes once */
	ask(true);
	assert_sense(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0), 6, 0x2903);
	scsi_lun_reset(disk.nexus, lun_0);
	assert_good(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0));
}

static void
begin_reset(void)
{
	told = 0;
	asking = (struct scsi_abort){.done = note_done, .reset = true};
	assert_int_equal(scsi_abort_others(disk.nexus, lun_0, &asking), 0);
	scsi_lun_reset(disk.nexus, lun_0);
}

/* Who hears of a reset may write again at once: its own tasks are ended before it can hear. */
static void
test_attention_after_the_end(void **state)
{
	struct scsi_unit *unit;

	(void)state;
	assert_int_equal(scsi_nexus_unit(disk.other, lun_0, &unit), 0);
	begin_reset();
	scsi_unit_sync(unit); /* its loop comes by before the message does */
	assert_int_equal(unit->attentions & ATTENTION_RESET, 0);
	assert_int_equal(other.calls, 0);
	virtual_run_until_idle();
	expect_told(true);
	assert_int_equal(other.calls, 1);
	assert_int_equal(unit->attentions & ATTENTION_RESET, ATTENTION_RESET);
	assert_sense(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0), 6, 0x2903);
	assert_good(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0));
}

/* With TAS the tasks' status tells, and no attention. SPC-4 7.5.8 */
static void
test_task_aborted_status(void **state)
{
	static const uint8_t list[] = {
		0, 0, 0, 0, MODE_CONTROL, 10, 0x20, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0};

	(void)state;
	assert_good(disk_command(
		disk.nexus, CDB(OP_MODE_SELECT_6, CDB_PF, 0, 0, sizeof(list)), list, sizeof(list)));
	disk_ready(disk.other); /* mode parameters changed */
	other.tasks = 1;
	ask(false);
	expect_told(true);
	assert_true(other.tas);
	assert_good(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0));
}

static void
test_waits_for_every_nexus(void **state)
{
	struct scsi_nexus *nexus =
		scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:three,i,0x3");

	(void)state;
	scsi_nexus_attach(nexus, abort_tasks, &third);
	disk_ready(nexus);
	other.at_once = third.at_once = false;
	ask(false);
	assert_int_equal(told, 0);
	end_part(&third, true);
	assert_int_equal(told, 0);
	end_part(&other, true);
	expect_told(true);
	ask(false);
	end_part(&third, false);
	end_part(&other, true);
	expect_told(false);
	scsi_nexus_free(nexus);
}

/* The asker is told after 10 s; what comes back later finds nobody. */
static void
test_deadline(void **state)
{
	(void)state;
	other.at_once = false;
	ask(false);
	virtual_advance(LIMIT_SCSI_ABORT - SECOND_NS);
	assert_int_equal(told, 0);
	virtual_advance(2 * SECOND_NS);
	expect_told(false);
	end_part(&other, true);
	assert_int_equal(told, 1);
}

static void
test_an_asker_that_went_away(void **state)
{
	(void)state;
	other.at_once = false;
	ask(false);
	scsi_abort_forget(&asking);
	scsi_abort_forget(&asking);
	end_part(&other, true);
	virtual_advance(2 * LIMIT_SCSI_ABORT);
	assert_int_equal(told, 0);
}

/* Its unit is closed before the message has come to its loop: no task is left there. */
static void
test_a_nexus_that_went_away(void **state)
{
	(void)state;
	other.at_once = false;
	told = 0;
	asking = (struct scsi_abort){.done = note_done};
	assert_int_equal(scsi_abort_others(disk.nexus, lun_0, &asking), 0);
	scsi_nexus_free(disk.other);
	disk.other = NULL;
	virtual_run_until_idle();
	assert_int_equal(other.calls, 0);
	expect_told(true);
}

/* Nobody else is there, or nobody who has a transport. */
static void
test_nobody_to_ask(void **state)
{
	(void)state;
	scsi_nexus_attach(disk.other, NULL, NULL);
	ask(false);
	expect_told(true);
	scsi_nexus_free(disk.other);
	disk.other = NULL;
	ask(false);
	expect_told(true);
	assert_int_equal(scsi_abort_others(disk.nexus, (const uint8_t[8]){0, 9}, &asking), -ENXIO);
}

/* Every LUN of the nexus, each through whatever target others have it. */
static void
test_all_units(void **state)
{
	static const uint8_t lun_5[8] = {0, 5};

	(void)state;
	disk_add_lun(5, disk.luns[0].volume, false); /* makes the nexuses anew */
	scsi_nexus_attach(disk.other, abort_tasks, &other);
	disk_ready(disk.other);
	disk_command_lun(disk.other, lun_5, CDB(OP_TEST_UNIT_READY), NULL, 0);
	told = 0;
	asking = (struct scsi_abort){.done = note_done, .reset = true};
	assert_int_equal(scsi_abort_others(disk.nexus, NULL, &asking), 0);
	scsi_target_reset(disk.nexus);
	virtual_run_until_idle();
	expect_told(true);
	/* one volume: each of the two LUNs asks both of the other nexus' */
	assert_int_equal(other.calls, 4);
	assert_sense(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0), 6, 0x2903);
	assert_sense(
		disk_command_lun(disk.other, lun_5, CDB(OP_TEST_UNIT_READY), NULL, 0), 6, 0x2903);
}

static bool
concerns_none(const struct scsi_unit *unit, void *arg)
{
	(void)unit;
	++*(unsigned *)arg;
	return false;
}

static void
test_only_those_it_concerns(void **state)
{
	struct scsi_unit *unit;
	unsigned asked = 0;

	(void)state;
	assert_int_equal(scsi_nexus_unit(disk.nexus, lun_0, &unit), 0);
	told = 0;
	asking = (struct scsi_abort){.done = note_done};
	assert_int_equal(scsi_unit_abort(unit, &asking, concerns_none, &asked), 0);
	virtual_run_until_idle();
	expect_told(true);
	assert_int_equal(asked, 1);
	assert_int_equal(other.calls, 0);
}

#define ABORT_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		ABORT_TEST(test_commands_cleared),
		ABORT_TEST(test_attention_after_the_end),
		ABORT_TEST(test_task_aborted_status),
		ABORT_TEST(test_waits_for_every_nexus),
		ABORT_TEST(test_deadline),
		ABORT_TEST(test_an_asker_that_went_away),
		ABORT_TEST(test_a_nexus_that_went_away),
		ABORT_TEST(test_nobody_to_ask),
		ABORT_TEST(test_all_units),
		ABORT_TEST(test_only_those_it_concerns),
	};

	return cmocka_run_group_tests_name("scsi_abort", tests, NULL, NULL);
}
