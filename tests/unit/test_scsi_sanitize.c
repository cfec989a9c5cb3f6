/* scsi_sanitize.c */
#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "block.h"
#include "bytes.h"
#include "check.h"
#include "scsi/scsi_internal.h"

#define SIZE (16 * MIB)

static uint8_t list[4 + 512 + 8];

static const uint8_t *
sanitize_cdb(uint8_t action, uint8_t flags, size_t length)
{
	static uint8_t cdb[16];

	memset(cdb, 0, sizeof(cdb));
	cdb[0] = OP_SANITIZE;
	cdb[1] = action | flags;
	put_be16(cdb + 7, (uint16_t)length);
	return cdb;
}

/* A parameter list of OVERWRITE; its length. */
static size_t
make_list(uint8_t flags, const char *pattern)
{
	size_t length = strlen(pattern);

	memset(list, 0, sizeof(list));
	list[0] = flags;
	put_be16(list + 2, (uint16_t)length);
	memcpy(list + 4, pattern, length);
	return 4 + length;
}

static void
begin_overwrite(uint8_t cdb_flags, uint8_t flags, const char *pattern)
{
	size_t length = make_list(flags, pattern);

	disk_begin(
		disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, cdb_flags, length), list, length);
}

static int
start(void **state)
{
	disk_setup(state);
	log_set_level(LOG_LEVEL_ERROR);
	disk_ready(disk.other);
	memset(disk_medium(), 0x77, SIZE);
	return 0;
}

/* Whatever runs comes to its end. */
static int
stop(void **state)
{
	for (unsigned i = 0; i < 100 && scsi_background(loop_current()); i++)
		virtual_advance(SECOND_NS);
	assert_int_equal(scsi_background(loop_current()), 0);
	return disk_teardown(state);
}

static void
assert_pattern(const char *pattern)
{
	size_t length = strlen(pattern);

	for (size_t i = 0; i < SIZE; i++) {
		if (disk_medium()[i] != (uint8_t)pattern[i % 512 % length])
			fail_msg("byte %zu is %02x", i, disk_medium()[i]);
	}
}

static void
test_overwrite(void **state)
{
	(void)state;
	begin_overwrite(0, 1, "abcde");
	assert_false(disk_ended());
	virtual_advance(LIMIT_SCSI_SANITIZE / 2);
	assert_false(disk_ended());
	virtual_advance(LIMIT_SCSI_SANITIZE);
	assert_good(disk_end());
	assert_pattern("abcde");
	assert_true(disk_calls(BLK_FLUSH) > 0);
	assert_good(disk_command(disk.other, CDB(OP_READ_10, [8] = 1), NULL, 0));
}

/* SBC-4 5.24.2: after an even number of passes the first of them was inverted. */
static void
test_inverted_passes(void **state)
{
	(void)state;
	for (uint8_t passes = 1; passes <= 3; passes++) {
		volume_script_forget(disk.script);
		begin_overwrite(0, 0x80 | passes, "ab");
		virtual_advance(LIMIT_SCSI_SANITIZE / 2 / passes);
		assert_int_equal(disk_medium()[0], passes % 2 ? 'a' : (uint8_t) ~'a');
		virtual_advance(2 * LIMIT_SCSI_SANITIZE);
		assert_good(disk_end());
		assert_pattern("ab");
		assert_int_equal(disk_calls(BLK_WRITE), passes * 16u);
		assert_int_equal(disk_calls(BLK_FLUSH), passes);
	}
}

static void
test_block_erase(void **state)
{
	(void)state;
	volume_script_forget(disk.script);
	assert_good(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_BLOCK_ERASE, 0, 0), NULL, 0));
	assert_int_equal(disk_medium()[0], 0);
	assert_memory_equal(disk_medium(), disk_medium() + 1, SIZE - 1);
	assert_int_equal(volume_script_call(disk.script, 0)->op, BLK_ZERO);
	assert_int_equal(volume_script_call(disk.script, 0)->flags, BLK_MAY_UNMAP);
}

static void
test_refused(void **state)
{
	size_t length = make_list(1, "abc");

	(void)state;
	for (uint16_t wrong = 0; wrong < 5; wrong++)
		assert_bad_cdb(disk_command(disk.nexus,
				       sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, wrong), list, wrong),
			7);
	assert_bad_cdb(
		disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, 517), list, 517),
		7);
	assert_bad_cdb(
		disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_BLOCK_ERASE, 0, 8), list, 8), 7);
	assert_bad_cdb(
		disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_EXIT_FAILURE, 0, 8), list, 8), 7);
	/* cryptographic erase; ZNR */
	assert_bad_cdb(disk_command(disk.nexus, sanitize_cdb(0x03, 0, 0), NULL, 0), 1);
	assert_bad_cdb(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0x40, length),
			       list, length),
		1);
	assert_sense(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list,
			     length - 1),
		5, 0x0e03);
	for (uint8_t flags = 0; flags < 0x80; flags += 0x20) { /* count 0; TEST */
		length = make_list(flags ? flags | 1 : 0, "abc");
		assert_sense(disk_command(disk.nexus,
				     sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list, length),
			5, 0x2600);
		if (flags == 0)
			continue;
	}
	length = make_list(1, "abc");
	list[1] = 1;
	assert_sense(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list,
			     length),
		5, 0x2600);
	list[1] = 0;
	list[3] = 0;
	assert_sense(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list,
			     length),
		5, 0x2600);
	put_be16(list + 2, 513);
	assert_sense(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list,
			     length),
		5, 0x2600);
	put_be16(list + 2, 4);
	assert_sense(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list,
			     length),
		5, 0x1a00);
	assert_good(
		disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_EXIT_FAILURE, 0, 0), NULL, 0));
	assert_int_equal(disk_medium()[0], 0x77);
}

static void
assert_in_progress(const struct answer *a)
{
	assert_sense(a, 2, 0x041b);
	assert_int_equal(a->sense[15], 0x80);
}

static uint16_t
poll_progress(struct scsi_nexus *nexus)
{
	const struct answer *a = disk_command(nexus, CDB(OP_REQUEST_SENSE, [4] = 18), NULL, 0);

	assert_good(a);
	assert_int_equal(a->in[2], 2);
	assert_int_equal(get_be16(a->in + 12), 0x041b);
	assert_int_equal(a->in[15], 0x80);
	return get_be16(a->in + 16);
}

/* All nexuses are told, and how far it is. */
static void
test_in_progress(void **state)
{
	uint16_t progress, last = 0;
	size_t length = make_list(1, "z");

	(void)state;
	assert_good(disk_command(disk.nexus,
		sanitize_cdb(SA_SANITIZE_OVERWRITE, CDB_SANITIZE_IMMED, length), list, length));
	for (unsigned i = 0; i < 14; i++) {
		virtual_advance(SECOND_NS);
		progress = poll_progress(i % 2 ? disk.nexus : disk.other);
		assert_true(progress > last);
		last = progress;
		assert_in_progress(disk_command(disk.nexus, CDB(0), NULL, 0));
		assert_in_progress(disk_command(disk.other, CDB(OP_READ_10, [8] = 1), NULL, 0));
		assert_in_progress(
			disk_command(disk.nexus, CDB(OP_START_STOP_UNIT, [4] = 1), NULL, 0));
		assert_in_progress(disk_command(
			disk.other, sanitize_cdb(SA_SANITIZE_BLOCK_ERASE, 0, 0), NULL, 0));
		assert_in_progress(disk_command(
			disk.other, sanitize_cdb(SA_SANITIZE_EXIT_FAILURE, 0, 0), NULL, 0));
		assert_good(disk_command(disk.other, CDB(OP_INQUIRY, [4] = 96), NULL, 0));
		assert_good(disk_command(disk.other, CDB(OP_REPORT_LUNS, [9] = 16), NULL, 0));
		assert_good(disk_command(disk.other,
			CDB(OP_MAINTENANCE_IN, SA_REPORT_SUPPORTED_TMF, [9] = 4), NULL, 0));
	}
	assert_true(last > 50000);
	virtual_advance(2 * SECOND_NS);
	assert_good(disk_command(disk.nexus, CDB(0), NULL, 0));
	assert_pattern("z");
}

/* A volume that takes less at once than an operation would like to write. */
static void
test_small_transfers(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.size = MIB, .transfer_max = 12 * 1024});
	disk_ready(disk.nexus);
	begin_overwrite(0, 1, "xyz");
	virtual_advance(2 * LIMIT_SCSI_SANITIZE);
	assert_good(disk_end());
	for (size_t i = 0; i < MIB; i++)
		assert_int_equal(disk_medium()[i], "xyz"[i % 512 % 3]);
	disk_stop();
}

/* A small one is no sooner done, and yet ends at once when slabd does. */
static void
test_a_small_volume(void **state)
{
	uint16_t last = 0, progress;

	(void)state;
	disk_start(&(struct volume_script_options){.size = 4096});
	disk_ready(disk.nexus);
	for (unsigned round = 0; round < 2; round++) {
		begin_overwrite(CDB_SANITIZE_IMMED, 1, "z");
		assert_good(disk_end());
		for (unsigned i = 0; i < 5; i++, last = progress) {
			virtual_advance(2 * SECOND_NS);
			progress = poll_progress(disk.nexus);
			assert_true(progress > last || i == 0);
		}
		if (round == 1)
			scsi_drain(loop_current());
		virtual_advance(round ? 2 * SECOND_NS : LIMIT_SCSI_SANITIZE);
		assert_int_equal(scsi_background(loop_current()), 0);
	}
	disk_stop();
}

static int blk_rc;

static void
on_blk(struct blk_request *request)
{
	blk_rc = request->rc;
}

/* A client of another protocol sees nothing of what is half gone. */
static void
test_other_protocols(void **state)
{
	uint8_t data[512] = {0};
	struct iovec iov = {data, sizeof(data)};
	struct blk_handle *handle = blk_open(disk.luns[0].volume, "nbd", false, &blk_rc);

	(void)state;
	assert_non_null(handle);
	for (unsigned op = BLK_READ; op < BLK_OPS; op++) {
		struct blk_extent extent;
		struct blk_request request = {.op = op,
			.length = op == BLK_FLUSH ? 0 : 512,
			.iov = &iov,
			.niov = 1,
			.extents = &extent,
			.nextents = 1,
			.done = on_blk};

		if (op == BLK_COMPARE_WRITE)
			continue;
		begin_overwrite(0, 1, "z");
		virtual_advance(SECOND_NS);
		assert_true(blk_sealed(handle));
		blk_submit(handle, &request);
		virtual_run_until_idle();
		assert_int_equal(blk_rc, -ENODEV);
		virtual_advance(LIMIT_SCSI_SANITIZE);
		assert_good(disk_end());
		assert_false(blk_sealed(handle));
		request.done = on_blk;
		blk_submit(handle, &request);
		virtual_run_until_idle();
		assert_int_equal(blk_rc, 0);
	}
	blk_close(handle);
}

/* What is on its way is waited for, and sees the disk as it was. */
static void
test_requests_in_flight(void **state)
{
	uint8_t data[512] = {0};
	struct iovec iov = {data, sizeof(data)};
	struct blk_handle *handle = blk_open(disk.luns[0].volume, "nbd", false, &blk_rc);
	struct blk_request request = {
		.op = BLK_READ, .length = 512, .iov = &iov, .niov = 1, .done = on_blk};

	(void)state;
	volume_script_hold(disk.script, true);
	blk_rc = 1;
	blk_submit(handle, &request);
	begin_overwrite(CDB_SANITIZE_IMMED, 1, "z");
	virtual_advance(SECOND_NS);
	assert_false(disk_ended()); /* the volume is not sealed yet */
	assert_int_equal(disk_calls(BLK_WRITE), 0);
	volume_script_hold(disk.script, false);
	volume_script_complete_all(disk.script, 0);
	virtual_run_until_idle();
	assert_int_equal(blk_rc, 0);
	assert_int_equal(data[0], 0x77);
	assert_good(disk_end());
	blk_close(handle);
}

static void
test_resets_and_logouts(void **state)
{
	static const uint8_t lun[8];

	(void)state;
	begin_overwrite(CDB_SANITIZE_IMMED, 1, "z");
	assert_good(disk_end());
	virtual_advance(SECOND_NS);
	scsi_lun_reset(disk.other, lun);
	virtual_advance(SECOND_NS);
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, 0x2903);
	assert_in_progress(disk_command(disk.other, CDB(0), NULL, 0));
}

/* The task is taken back and ends; the operation goes on without its nexus. */
static void
test_taken_back(void **state)
{
	struct scsi_task *task;
	size_t length = make_list(1, "z");

	(void)state;
	task = disk_begin(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list, length);
	virtual_advance(SECOND_NS);
	assert_false(disk_ended());
	scsi_cancel(task);
	assert_false(disk_ended());
	disk_end();
	scsi_nexus_free(disk.nexus);
	disk.nexus = NULL;
	virtual_advance(SECOND_NS);
	assert_in_progress(disk_command(disk.other, CDB(0), NULL, 0));
	virtual_advance(LIMIT_SCSI_SANITIZE);
	assert_good(disk_command(disk.other, CDB(0), NULL, 0));
	assert_pattern("z");
}

/* A task that is taken back while requests in flight are still waited for leaves the volume as it is. */
static void
test_taken_back_at_once(void **state)
{
	size_t length = make_list(1, "z");
	uint8_t data[512] = {0};
	struct iovec iov = {data, sizeof(data)};
	struct blk_handle *handle = blk_open(disk.luns[0].volume, "nbd", false, &blk_rc);
	struct blk_request request = {
		.op = BLK_READ, .length = 512, .iov = &iov, .niov = 1, .done = on_blk};
	struct scsi_task *task;

	(void)state;
	volume_script_hold(disk.script, true);
	blk_submit(handle, &request);
	task = disk_begin(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list, length);
	scsi_cancel(task);
	disk_end();
	volume_script_hold(disk.script, false);
	volume_script_complete_all(disk.script, 0);
	virtual_advance(LIMIT_SCSI_SANITIZE);
	assert_int_equal(scsi_background(loop_current()), 0);
	assert_int_equal(disk_calls(BLK_WRITE), 0);
	assert_good(disk_command(disk.other, CDB(OP_READ_10, [8] = 1), NULL, 0));
	blk_close(handle);
}

static void
fail_overwrite(uint8_t flags)
{
	volume_script_fail(disk.script, BLK_WRITE, -EIO, 1);
	begin_overwrite(flags, 1, "z");
	assert_sense(disk_end(), 3, 0x3103);
	/* What is left is not read as if it were good ... */
	assert_sense(disk_command(disk.other, CDB(OP_READ_10, [8] = 1), NULL, 0), 3, 0x3103);
	assert_sense(disk_command(disk.nexus, CDB(0), NULL, 0), 3, 0x3103);
	assert_good(disk_command(disk.nexus, CDB(OP_MODE_SENSE_6, [2] = 0x3f, [4] = 255), NULL, 0));
}

static void
test_failure(void **state)
{
	(void)state;
	/* ... until another sanitize succeeds; in the restricted mode nothing else helps. */
	fail_overwrite(0);
	assert_bad_cdb(
		disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_EXIT_FAILURE, 0, 0), NULL, 0), 1);
	assert_bad_cdb(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_BLOCK_ERASE, CDB_AUSE, 0),
			       NULL, 0),
		1);
	assert_good(disk_command(disk.other, sanitize_cdb(SA_SANITIZE_BLOCK_ERASE, 0, 0), NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0));
	/* With AUSE it may be left. */
	fail_overwrite(CDB_AUSE);
	assert_good(
		disk_command(disk.other, sanitize_cdb(SA_SANITIZE_EXIT_FAILURE, 0, 0), NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(OP_READ_10, [8] = 1), NULL, 0));
}

static void
test_rights(void **state)
{
	size_t length = make_list(1, "z");

	(void)state;
	assert_good(disk_command(disk.other, CDB(OP_RESERVE_6), NULL, 0));
	assert_int_equal(disk_command(disk.nexus, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length),
				 list, length)
				 ->status,
		SCSI_RESERVATION_CONFLICT);
	/* Who has the reservation may: its operation passes it. */
	disk_begin(disk.other, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), list, length);
	virtual_advance(2 * LIMIT_SCSI_SANITIZE);
	assert_good(disk_end());
	assert_pattern("z");
}

static void
reserve_out(uint8_t action, uint64_t key, uint64_t action_key)
{
	uint8_t out[24] = {0};

	put_be64(out, key);
	put_be64(out + 8, action_key);
	assert_good(disk_command(
		disk.other, CDB(OP_RESERVE_OUT, action, 1, [8] = sizeof(out)), out, sizeof(out)));
}

static bool late_done;

static void
on_late(struct scsi_task *task)
{
	(void)task;
	late_done = true;
}

/* Another nexus reserves the volume between the CDB and its parameter list: its data stays. */
static void
test_reserved_meanwhile(void **state)
{
	struct scsi_task task = {.nexus = disk.nexus, .cdb_length = 10, .done = on_late};
	size_t length = make_list(1, "z");

	(void)state;
	memcpy(task.cdb, sanitize_cdb(SA_SANITIZE_OVERWRITE, 0, length), LIMIT_SCSI_CDB);
	task.portal_id = disk.portal_id;
	task.out_expected = length;
	late_done = false;
	assert_true(scsi_prepare(&task));
	reserve_out(SA_REGISTER, 0, 7);
	reserve_out(SA_RESERVE, 7, 0);
	assert_int_equal(iobuf_take(&task.out, length), 0);
	iov_from(task.out.iov, task.out.niov, 0, list, length);
	scsi_execute(&task);
	virtual_advance(2 * LIMIT_SCSI_SANITIZE);
	assert_true(late_done);
	assert_int_equal(task.status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(task.sense_length, 0);
	iobuf_free(&task.out);
	assert_int_equal(disk_calls(BLK_WRITE), 0);
	assert_int_equal(disk_medium()[0], 0x77);
	assert_good(disk_command(disk.other, CDB(OP_READ_10, [8] = 1), NULL, 0));
}

/* slabd ends, or the volume goes. */
static void
test_drained(void **state)
{
	(void)state;
	begin_overwrite(0, 1, "z");
	virtual_advance(SECOND_NS);
	assert_int_equal(scsi_background(loop_current()), 1);
	scsi_drain(loop_current());
	virtual_advance(2 * SECOND_NS);
	assert_int_equal(scsi_background(loop_current()), 0);
	assert_sense(disk_end(), 3, 0x3103);
}

static void
test_volume_goes(void **state)
{
	(void)state;
	begin_overwrite(CDB_SANITIZE_IMMED, 1, "z");
	assert_good(disk_end());
	volume_set_going(disk.luns[0].volume);
	virtual_advance(2 * SECOND_NS);
	assert_int_equal(scsi_background(loop_current()), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_overwrite, start, stop),
		cmocka_unit_test_setup_teardown(test_inverted_passes, start, stop),
		cmocka_unit_test_setup_teardown(test_block_erase, start, stop),
		cmocka_unit_test_setup_teardown(test_refused, start, stop),
		cmocka_unit_test_setup_teardown(test_in_progress, start, stop),
		cmocka_unit_test(test_small_transfers),
		cmocka_unit_test(test_a_small_volume),
		cmocka_unit_test_setup_teardown(test_other_protocols, start, stop),
		cmocka_unit_test_setup_teardown(test_requests_in_flight, start, stop),
		cmocka_unit_test_setup_teardown(test_resets_and_logouts, start, stop),
		cmocka_unit_test_setup_teardown(test_taken_back, start, stop),
		cmocka_unit_test_setup_teardown(test_taken_back_at_once, start, stop),
		cmocka_unit_test_setup_teardown(test_failure, start, stop),
		cmocka_unit_test_setup_teardown(test_rights, start, stop),
		cmocka_unit_test_setup_teardown(test_reserved_meanwhile, start, stop),
		cmocka_unit_test_setup_teardown(test_drained, start, stop),
		cmocka_unit_test_setup_teardown(test_volume_goes, start, stop),
	};

	return cmocka_run_group_tests_name("scsi_sanitize", tests, NULL, NULL);
}
