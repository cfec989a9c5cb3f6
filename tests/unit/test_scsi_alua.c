/* scsi_alua.c */
#include "config.h"

#include "test_scsi_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "alua.h"
#include "bytes.h"
#include "check.h"
#include "scsi/scsi_internal.h"

#define GROUP 7 /* the one that the disk's commands come by; the other is 1 */

/* Both nexuses are ready, and no state is set. */
static int
start(void **state)
{
	disk_setup(state);
	disk_ready(disk.other);
	return 0;
}

static int
stop(void **state)
{
	alua_clear();
	return disk_teardown(state);
}

static void
set_state(uint16_t group, enum alua_state state)
{
	assert_int_equal(alua_set(disk.target.name, group, state), 0);
}

static const struct answer *
report_groups(void)
{
	return disk_command(
		disk.nexus, CDB(OP_MAINTENANCE_IN, SA_REPORT_PORT_GROUPS, [9] = 255), NULL, 0);
}

/* What the operator says is reported, and each nexus hears of it once. */
static void
test_states_are_reported(void **state)
{
	uint8_t expected[] = {0, 0, 0, 24, 0, 0x0f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x0f, 0, 7, 0,
		0, 0, 1, 0, 0, 0, 2};
	const struct answer *a = report_groups();

	(void)state;
	assert_int_equal(a->in_length, sizeof(expected));
	assert_memory_equal(a->in, expected, sizeof(expected));
	set_state(1, ALUA_STANDBY);
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2a06);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0)); /* its own group is well */
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2a06);
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	expected[4] = 0x02;
	expected[9] = 0x02; /* implicitly altered */
	a = report_groups();
	assert_memory_equal(a->in, expected, sizeof(expected));
	/* The same again is no change. */
	set_state(1, ALUA_STANDBY);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	/* Nor is another target's. */
	assert_int_equal(alua_set("iqn.2026-11.localhost.slabd:other", GROUP, ALUA_STANDBY), 0);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	assert_int_equal(alua_get(disk.target.name, 1), ALUA_STANDBY);
	assert_int_equal(alua_get(disk.target.name, GROUP), ALUA_OPTIMIZED);
}

/* One that begins later finds the state, and no change of it. */
static void
test_a_new_nexus(void **state)
{
	(void)state;
	set_state(GROUP, ALUA_NON_OPTIMIZED);
	scsi_nexus_free(disk.nexus);
	disk.nexus = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:new");
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2900);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	assert_int_equal(report_groups()->in[16], 0x01);
	assert_int_equal(report_groups()->in[21], 0);
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0));
}

/* SPC-4 5.15.2.4.4, 5.15.2.4.5: each command of the table is answered or refused as its state says. */
static void
test_every_command(void **state)
{
	static const uint8_t standby[] = {OP_MODE_SELECT_6, OP_MODE_SENSE_6, OP_RECEIVE_DIAGNOSTIC,
		OP_SEND_DIAGNOSTIC, 0x4d, OP_MODE_SELECT_10, OP_MODE_SENSE_10, OP_RESERVE_IN,
		OP_RESERVE_OUT};
	static const uint8_t always[] = {OP_REQUEST_SENSE, OP_INQUIRY, OP_REPORT_LUNS};

	(void)state;
	for (enum alua_state s = ALUA_STANDBY; s <= ALUA_UNAVAILABLE; s++) {
		set_state(GROUP, s);
		assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 6, 0x2a06);
		for (unsigned i = 0; i < scsi_opcodes_count; i++) {
			const struct scsi_opcode *row = &scsi_opcodes[i];
			uint8_t cdb[LIMIT_SCSI_CDB] = {row->opcode};
			bool allowed = memchr(always, row->opcode, sizeof(always)) ||
				       (s == ALUA_STANDBY &&
					       memchr(standby, row->opcode, sizeof(standby))) ||
				       (row->opcode == OP_MAINTENANCE_IN &&
					       row->action == SA_REPORT_PORT_GROUPS);
			const struct answer *a;

			if (row->flags & ROW_ACTION)
				cdb[1] = row->action;
			a = disk_command(disk.nexus, cdb, NULL, 0);
			if (!allowed)
				assert_sense(a, 2, s == ALUA_STANDBY ? 0x040b : 0x040c);
			else if (a->key == 2)
				fail_msg("%s is refused in state %d", row->name, (int)s);
		}
	}
	set_state(GROUP, ALUA_OPTIMIZED);
	assert_sense(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0), 6, 0x2a06);
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0));
}

/* A command that was begun is finished, whatever the state becomes. */
static void
test_commands_in_flight(void **state)
{
	(void)state;
	volume_script_hold(disk.script, true);
	disk_begin(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0);
	set_state(GROUP, ALUA_UNAVAILABLE);
	volume_script_complete_all(disk.script, 0);
	assert_good(disk_end());
	volume_script_hold(disk.script, false);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_states_are_reported, start, stop),
		cmocka_unit_test_setup_teardown(test_a_new_nexus, start, stop),
		cmocka_unit_test_setup_teardown(test_every_command, start, stop),
		cmocka_unit_test_setup_teardown(test_commands_in_flight, start, stop),
	};

	return cmocka_run_group_tests_name("scsi_alua", tests, NULL, NULL);
}
