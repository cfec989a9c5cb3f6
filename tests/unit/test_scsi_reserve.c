/* scsi_reserve.c, and storage/reservation.c below it: whom each type lets do what */
#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "reservation.h"
#include "scsi/scsi_internal.h"

static const uint8_t types[] = {1, 3, 5, 6, 7, 8};
static struct blk_handle *nbd; /* of a protocol without nexuses */
static char state_dir[] = "/tmp/slabd-test.XXXXXX";

static int
start(void **state)
{
	int rc;

	(void)state;
	disk_start(&(struct volume_script_options){.size = 16 * MIB, .volatile_cache = true});
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	nbd = blk_open(volume_script_volume(disk.script), "nbd", false, &rc);
	assert_non_null(nbd);
	return 0;
}

static int
stop(void **state)
{
	(void)state;
	blk_close(nbd);
	disk_stop();
	return 0;
}

/* What is asked */

static const struct answer *
reserve_out(struct scsi_nexus *nexus, unsigned action, unsigned type, uint64_t key,
	uint64_t action_key, uint8_t flags)
{
	uint8_t list[24] = {0};

	put_be64(list, key);
	put_be64(list + 8, action_key);
	list[20] = flags;
	return disk_command(nexus,
		CDB(OP_RESERVE_OUT, (uint8_t)action, (uint8_t)type, [8] = sizeof(list)), list,
		sizeof(list));
}

static void
do_out(struct scsi_nexus *nexus, unsigned action, unsigned type, uint64_t key, uint64_t action_key)
{
	assert_good(reserve_out(nexus, action, type, key, action_key, 0));
}

static void
assert_conflict(const struct answer *a)
{
	assert_int_equal(a->status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(a->sense_length, 0);
	assert_int_equal(a->in_length, 0);
}

static const struct answer *
reserve_in(unsigned action)
{
	const struct answer *a = disk_command(
		disk.nexus, CDB(OP_RESERVE_IN, (uint8_t)action, [7] = 0xff, 0xff), NULL, 0);

	assert_good(a);
	return a;
}

static unsigned
count_keys(void)
{
	return get_be32(reserve_in(SA_READ_KEYS)->in + 4) / 8;
}

static unsigned
held_type(void)
{
	const struct answer *a = reserve_in(SA_READ_RESERVATION);

	return get_be32(a->in + 4) ? a->in[8 + 13] : 0;
}

static void
request_done(struct blk_request *request)
{
	(void)request;
}

static int
nbd_request(enum blk_op op)
{
	static uint8_t data[512];
	struct iovec iov = {data, sizeof(data)};
	struct blk_request request = {
		.op = op, .length = 512, .iov = &iov, .niov = 1, .done = request_done};

	blk_submit(nbd, &request);
	virtual_run_until_idle();
	return request.rc;
}

static uint8_t block[512];

static bool
may_read(struct scsi_nexus *nexus)
{
	const struct answer *a = disk_command(nexus, CDB(OP_READ_10, [8] = 1), NULL, 0);

	if (a->status != SCSI_GOOD)
		assert_conflict(a);
	return a->status == SCSI_GOOD;
}

static bool
may_write(struct scsi_nexus *nexus)
{
	const struct answer *a = disk_command(nexus, CDB(OP_WRITE_10, [8] = 1), block, 512);

	if (a->status != SCSI_GOOD)
		assert_conflict(a);
	return a->status == SCSI_GOOD;
}

static void
assert_attention(struct scsi_nexus *nexus, unsigned code)
{
	assert_sense(disk_command(nexus, CDB(OP_TEST_UNIT_READY), NULL, 0), 6, code);
	assert_good(disk_command(nexus, CDB(OP_TEST_UNIT_READY), NULL, 0));
}

/* Tests */

static void
test_each_type(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		unsigned type = types[i];
		bool exclusive = type == 3 || type == 6 || type == 8, shared = type >= 5;

		do_out(disk.nexus, SA_REGISTER, 0, 0, 0xa);
		do_out(disk.nexus, SA_RESERVE, type, 0xa, 0);
		assert_int_equal(held_type(), type);
		assert_true(may_read(disk.nexus) && may_write(disk.nexus));
		/* Not registered; and whatever speaks no SCSI. */
		assert_int_equal(may_read(disk.other), !exclusive);
		assert_false(may_write(disk.other));
		assert_int_equal(nbd_request(BLK_READ), exclusive ? -EPERM : 0);
		assert_int_equal(nbd_request(BLK_EXTENTS) == -EPERM, exclusive);
		assert_int_equal(nbd_request(BLK_WRITE), -EPERM);
		assert_int_equal(nbd_request(BLK_ZERO), -EPERM);
		assert_int_equal(nbd_request(BLK_DISCARD), -EPERM);
		assert_int_equal(nbd_request(BLK_FLUSH), 0);
		/* Registered. */
		do_out(disk.other, SA_REGISTER, 0, 0, 0xb);
		assert_int_equal(may_read(disk.other), !exclusive || shared);
		assert_int_equal(may_write(disk.other), shared);
		assert_int_equal(nbd_request(BLK_WRITE), -EPERM);
		/* Freed again. */
		do_out(disk.nexus, SA_RELEASE, type, 0xa, 0);
		if (shared)
			assert_attention(disk.other, ASC_RESERVATIONS_RELEASED);
		assert_true(may_read(disk.other) && may_write(disk.other));
		assert_int_equal(nbd_request(BLK_WRITE), 0);
		assert_int_equal(nbd_request(BLK_READ), 0);
		do_out(disk.nexus, SA_CLEAR, 0, 0xa, 0);
		assert_attention(disk.other, ASC_RESERVATIONS_PREEMPTED);
		assert_int_equal(count_keys(), 0);
	}
}

static bool late_done;

static void
on_late(struct scsi_task *task)
{
	(void)task;
	late_done = true;
}

/* A MODE SELECT whose list comes after another nexus' RESERVE changes nothing. */
static void
test_reserved_before_its_data(void **state)
{
	static const uint8_t swp[16] = {
		[4] = MODE_CONTROL, 10, 0x20, 0x10, 0x08, [12] = 0xff, 0xff};
	struct scsi_task task = {.nexus = disk.other,
		.cdb = {OP_MODE_SELECT_6, CDB_PF, [4] = sizeof(swp)},
		.cdb_length = 6,
		.portal_id = disk.portal_id,
		.out_expected = sizeof(swp),
		.done = on_late};

	(void)state;
	late_done = false;
	assert_true(scsi_prepare(&task));
	do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
	do_out(disk.nexus, SA_RESERVE, 1, 1, 0);
	assert_int_equal(iobuf_take(&task.out, sizeof(swp)), 0);
	iov_from(task.out.iov, task.out.niov, 0, swp, sizeof(swp));
	scsi_execute(&task);
	assert_false(late_done);
	virtual_run_until_idle();
	assert_true(late_done);
	iobuf_free(&task.out);
	assert_int_equal(task.status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(task.sense_length, 0);
	assert_true(may_write(disk.nexus));
	do_out(disk.nexus, SA_RELEASE, 1, 1, 0);
	/* The same list is good otherwise. */
	assert_good(disk_command(disk.other, task.cdb, swp, sizeof(swp)));
	assert_attention(disk.nexus, ASC_MODE_CHANGED);
	assert_sense(disk_command(disk.nexus, CDB(OP_WRITE_10, [8] = 1), block, 512), 7,
		ASC_SOFTWARE_PROTECTED);
}

static void
test_commands_by_class(void **state)
{
	(void)state;
	do_out(disk.nexus, SA_REGISTER, 0, 0, 0xa);
	do_out(disk.nexus, SA_RESERVE, 3, 0xa, 0);
	assert_good(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0));
	assert_good(disk_command(disk.other, CDB(OP_INQUIRY, [4] = 36), NULL, 0));
	assert_good(disk_command(disk.other, CDB(OP_READ_CAPACITY_10), NULL, 0));
	assert_good(disk_command(disk.other, CDB(OP_RESERVE_IN, [8] = 8), NULL, 0));
	assert_good(disk_command(disk.other, CDB(OP_PREVENT_ALLOW), NULL, 0));
	assert_good(disk_command(disk.other, CDB(OP_START_STOP_UNIT, [4] = 1), NULL, 0));
	assert_conflict(disk_command(disk.other, CDB(OP_PREVENT_ALLOW, [4] = 1), NULL, 0));
	assert_conflict(disk_command(disk.other, CDB(OP_START_STOP_UNIT), NULL, 0));
	assert_conflict(disk_command(disk.other, CDB(OP_MODE_SENSE_6, 0, 8, 0, 99), NULL, 0));
	assert_conflict(disk_command(disk.other, CDB(OP_SYNCHRONIZE_CACHE_10), NULL, 0));
	assert_conflict(disk_command(disk.other, CDB(OP_VERIFY_10), NULL, 0));
	assert_conflict(disk_command(disk.other, CDB(OP_UNMAP, [8] = 8), block, 8));
}

/* SPC-4 5.13.7 */
static void
test_registering(void **state)
{
	const struct answer *a;

	(void)state;
	assert_conflict(reserve_out(disk.nexus, SA_REGISTER, 0, 1, 2, 0));
	do_out(disk.nexus, SA_REGISTER, 0, 0, 0); /* nothing to take away */
	assert_int_equal(get_be32(reserve_in(SA_READ_KEYS)->in), 0);
	do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
	assert_conflict(reserve_out(disk.nexus, SA_REGISTER, 0, 0, 2, 0));
	do_out(disk.nexus, SA_REGISTER, 0, 1, 2);
	do_out(disk.other, SA_REGISTER_AND_IGNORE, 0, 77, 3);
	a = reserve_in(SA_READ_KEYS);
	assert_int_equal(get_be32(a->in), 3); /* PRgeneration */
	assert_int_equal(get_be32(a->in + 4), 16);
	assert_int_equal(get_be64(a->in + 8), 2);
	assert_int_equal(get_be64(a->in + 16), 3);
	assert_conflict(reserve_out(disk.nexus, SA_RESERVE, 1, 9, 0, 0));
	do_out(disk.other, SA_REGISTER, 0, 3, 0);
	assert_conflict(reserve_out(disk.other, SA_RESERVE, 1, 3, 0, 0));
	assert_int_equal(count_keys(), 1);
}

static void
test_reserving(void **state)
{
	(void)state;
	do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
	do_out(disk.other, SA_REGISTER, 0, 0, 2);
	do_out(disk.nexus, SA_RESERVE, 1, 1, 0);
	do_out(disk.nexus, SA_RESERVE, 1, 1, 0); /* the same again */
	assert_conflict(reserve_out(disk.nexus, SA_RESERVE, 3, 1, 0, 0));
	assert_conflict(reserve_out(disk.other, SA_RESERVE, 1, 2, 0, 0));
	do_out(disk.other, SA_RELEASE, 1, 2, 0); /* not the holder: nothing */
	assert_int_equal(held_type(), 1);
	assert_sense(reserve_out(disk.nexus, SA_RELEASE, 3, 1, 0, 0), 5, 0x2604);
	/* The holder unregisters. */
	do_out(disk.nexus, SA_REGISTER, 0, 1, 0);
	assert_int_equal(held_type(), 0);
	assert_int_equal(count_keys(), 1);
}

/* The last of all registrants takes the reservation with him. */
static void
test_all_registrants(void **state)
{
	(void)state;
	do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
	do_out(disk.other, SA_REGISTER, 0, 0, 2);
	do_out(disk.nexus, SA_RESERVE, 7, 1, 0);
	do_out(disk.other, SA_RESERVE, 7, 2, 0); /* holds it too */
	do_out(disk.nexus, SA_REGISTER, 0, 1, 0);
	assert_int_equal(held_type(), 7);
	assert_false(may_write(disk.nexus));
	do_out(disk.other, SA_REGISTER, 0, 2, 0);
	assert_int_equal(held_type(), 0);
	assert_true(may_write(disk.nexus));
}

/* SPC-4 5.13.11.2 */
static void
test_preempting(void **state)
{
	(void)state;
	for (unsigned action = SA_PREEMPT; action <= SA_PREEMPT_AND_ABORT; action++) {
		do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
		do_out(disk.other, SA_REGISTER, 0, 0, 2);
		do_out(disk.nexus, SA_RESERVE, 1, 1, 0);
		assert_conflict(reserve_out(disk.other, action, 3, 2, 99, 0));
		assert_sense(reserve_out(disk.other, action, 3, 2, 0, 0), 5, 0x2600);
		do_out(disk.other, action, 3, 2, 1);
		assert_attention(disk.nexus, ASC_REGISTRATIONS_PREEMPTED);
		assert_int_equal(held_type(), 3);
		assert_int_equal(count_keys(), 1);
		assert_false(may_read(disk.nexus));
		assert_true(may_write(disk.other));
		assert_int_equal(nbd_request(BLK_READ), -EPERM);
		do_out(disk.other, SA_REGISTER, 0, 2, 0);
		assert_int_equal(nbd_request(BLK_READ), 0);
	}
	/* A registration alone; then all of all registrants. */
	do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
	do_out(disk.other, SA_REGISTER, 0, 0, 2);
	do_out(disk.nexus, SA_PREEMPT, 1, 1, 2);
	assert_attention(disk.other, ASC_REGISTRATIONS_PREEMPTED);
	assert_int_equal(held_type(), 0);
	do_out(disk.other, SA_REGISTER, 0, 0, 2);
	do_out(disk.nexus, SA_RESERVE, 8, 1, 0);
	do_out(disk.other, SA_PREEMPT, 1, 2, 0);
	assert_attention(disk.nexus, ASC_REGISTRATIONS_PREEMPTED);
	assert_int_equal(held_type(), 1);
	assert_int_equal(count_keys(), 1);
}

/* GOOD means that no fenced write can still land (design section 3). */
static void
test_preempt_waits_for_writes(void **state)
{
	static uint8_t data[512] = {0xee};
	struct iovec iov = {data, sizeof(data)};
	struct blk_request request = {.op = BLK_WRITE,
		.length = 512,
		.iov = &iov,
		.niov = 1,
		.done = request_done,
		.rc = 7};
	struct blk_request late = {.op = BLK_WRITE,
		.length = 512,
		.iov = &iov,
		.niov = 1,
		.done = request_done,
		.rc = 7};
	uint8_t list[24] = {0};

	(void)state;
	do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
	volume_script_forget(disk.script);
	volume_script_hold(disk.script, true);
	blk_submit(nbd, &request);
	put_be64(list, 1);
	disk_begin(disk.nexus, CDB(OP_RESERVE_OUT, SA_RESERVE, 1, [8] = 24), list, 24);
	virtual_run_until_idle();
	assert_false(disk_ended());
	blk_submit(nbd, &late);
	volume_script_hold(disk.script, false);
	volume_script_complete(disk.script, 0, 0);
	assert_good(disk_end());
	assert_int_equal(request.rc, 0);
	assert_int_equal(late.rc, -EPERM);
	assert_int_equal(volume_script_calls(disk.script), 1);
}

static size_t
put_id(uint8_t *p, const char *name)
{
	memset(p, 0, 24);
	p[0] = 0x45;
	p[3] = 20;
	memcpy(p + 4, name, strlen(name));
	return 24;
}

static void
test_named_initiators(void **state)
{
	uint8_t list[28 + 24] = {0};
	const struct answer *a;

	(void)state;
	put_be64(list + 8, 5);
	list[20] = 0x08;
	list[27] = 24;
	put_id(list + 28, "iqn.test:two,i,0x2");
	assert_good(disk_command(
		disk.nexus, CDB(OP_RESERVE_OUT, 0, [8] = sizeof(list)), list, sizeof(list)));
	assert_int_equal(count_keys(), 2);
	do_out(disk.other, SA_RESERVE, 5, 5, 0);
	a = reserve_in(SA_READ_FULL_STATUS);
	assert_int_equal(get_be32(a->in + 4), 2 * 48);
	assert_int_equal(a->in[8 + 12], 0);
	assert_int_equal(a->in[56 + 12], 1); /* R_HOLDER */
	assert_int_equal(a->in[56 + 13], 5);
	assert_int_equal(a->in[56 + 24], 0x45);
	assert_string_equal((const char *)a->in + 56 + 28, "iqn.test:two,i,0x2");
	/* Moved to the first. */
	memset(list, 0, sizeof(list));
	put_be64(list, 5);
	put_be64(list + 8, 6);
	list[17] = 0x02; /* UNREG */
	list[19] = 2;
	list[23] = 24;
	put_id(list + 24, "iqn.test:one,i,0x1");
	assert_good(disk_command(disk.other, CDB(OP_RESERVE_OUT, 7, [8] = 48), list, 48));
	assert_int_equal(count_keys(), 1);
	assert_int_equal(held_type(), 5);
	assert_false(may_write(disk.other));
	assert_true(may_write(disk.nexus));
	list[19] = 9; /* no such port */
	assert_sense(
		disk_command(disk.nexus, CDB(OP_RESERVE_OUT, 7, [8] = 48), list, 48), 5, 0x2600);
}

static void
test_bad_lists(void **state)
{
	uint8_t list[64] = {0};

	(void)state;
	assert_sense(
		disk_command(disk.nexus, CDB(OP_RESERVE_OUT, 0, [8] = 23), list, 23), 5, 0x1a00);
	assert_sense(
		disk_command(disk.nexus, CDB(OP_RESERVE_OUT, 0, [8] = 25), list, 25), 5, 0x1a00);
	assert_sense(
		disk_command(disk.nexus, CDB(OP_RESERVE_OUT, 0, [8] = 24), list, 20), 5, 0x1a00);
	assert_bad_cdb(disk_command(disk.nexus, CDB(OP_RESERVE_OUT, 1, 2, [8] = 24), list, 24), 2);
	assert_bad_cdb(
		disk_command(disk.nexus, CDB(OP_RESERVE_OUT, 1, 0x11, [8] = 24), list, 24), 2);
	/* There is no place to keep it. */
	assert_sense(reserve_out(disk.nexus, SA_REGISTER, 0, 0, 1, 0x01), 5, 0x2600);
	assert_sense(reserve_out(disk.nexus, SA_REGISTER, 0, 0, 1, 0x80), 5, 0x2600);
	list[20] = 0x08;
	assert_sense(
		disk_command(disk.nexus, CDB(OP_RESERVE_OUT, 0, [8] = 28), list, 27), 5, 0x1a00);
	list[27] = 24;
	put_be64(list + 8, 5);
	list[28] = 0x05;
	assert_sense(
		disk_command(disk.nexus, CDB(OP_RESERVE_OUT, 0, [8] = 52), list, 52), 5, 0x2600);
	assert_int_equal(count_keys(), 0);
}

/* The same initiator port by whatever target port. */
static void
test_all_target_ports(void **state)
{
	(void)state;
	assert_good(reserve_out(disk.nexus, SA_REGISTER, 0, 0, 1, 0x04));
	assert_int_equal(reserve_in(SA_READ_FULL_STATUS)->in[8 + 12], 2);
	do_out(disk.nexus, SA_RESERVE, 3, 1, 0);
	assert_true(may_write(disk.nexus));
}

static void
test_capabilities(void **state)
{
	const struct answer *a = reserve_in(SA_REPORT_CAPABILITIES);

	(void)state;
	assert_int_equal(get_be16(a->in), 8);
	assert_int_equal(a->in[2], 0x0c); /* nothing survives without a directory */
	assert_int_equal(a->in[3], 0x80);
	assert_int_equal(get_be16(a->in + 4), 0xea01);
}

/* SPC-2 */
static void
test_reserve_and_release(void **state)
{
	(void)state;
	assert_good(disk_command(disk.nexus, CDB(OP_RESERVE_6), NULL, 0));
	assert_good(disk_command(disk.nexus, CDB(OP_RESERVE_10), NULL, 0));
	assert_conflict(disk_command(disk.other, CDB(OP_RESERVE_6), NULL, 0));
	assert_conflict(disk_command(disk.other, CDB(OP_TEST_UNIT_READY), NULL, 0));
	assert_good(disk_command(disk.other, CDB(OP_INQUIRY, [4] = 36), NULL, 0));
	assert_false(may_read(disk.other));
	assert_int_equal(nbd_request(BLK_READ), -EPERM);
	assert_true(may_write(disk.nexus));
	assert_good(disk_command(disk.other, CDB(OP_RELEASE_6), NULL, 0)); /* nothing */
	assert_false(may_read(disk.other));
	assert_good(disk_command(disk.nexus, CDB(OP_RELEASE_10), NULL, 0));
	assert_true(may_write(disk.other));
	/* A reset gives it back, and so does the end of the nexus. */
	assert_good(disk_command(disk.nexus, CDB(OP_RESERVE_6), NULL, 0));
	scsi_lun_reset(disk.other, (const uint8_t[8]){0});
	assert_int_equal(nbd_request(BLK_WRITE), 0);
	disk_ready(disk.nexus);
	disk_ready(disk.other);
	assert_good(disk_command(disk.nexus, CDB(OP_RESERVE_6), NULL, 0));
	scsi_nexus_free(disk.nexus);
	disk.nexus = NULL;
	assert_int_equal(nbd_request(BLK_WRITE), 0);
	assert_true(may_write(disk.other));
	/* Not beside persistent ones. */
	do_out(disk.other, SA_REGISTER, 0, 0, 1);
	assert_conflict(disk_command(disk.other, CDB(OP_RESERVE_6), NULL, 0));
}

/* Reservations stay when their nexus goes, and know it when it comes again. */
static void
test_outlives_the_nexus(void **state)
{
	(void)state;
	do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
	do_out(disk.nexus, SA_RESERVE, 1, 1, 0);
	scsi_nexus_free(disk.nexus);
	assert_int_equal(nbd_request(BLK_WRITE), -EPERM);
	disk.nexus = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:one,i,0x1");
	disk_ready(disk.nexus);
	assert_true(may_write(disk.nexus));
	scsi_lun_reset(disk.other, (const uint8_t[8]){0});
	assert_int_equal(nbd_request(BLK_WRITE), -EPERM);
}

/* APTPL: the volume comes back with what was reserved. */
static void
test_survives(void **state)
{
	int rc;
	char file[64];

	(void)state;
	assert_non_null(mkdtemp(state_dir));
	for (unsigned survives = 0; survives < 2; survives++) {
		disk_start(&(struct volume_script_options){.size = MIB});
		assert_int_equal(reservation_directory(state_dir), 0);
		disk_ready(disk.nexus);
		assert_int_equal(reserve_in(SA_REPORT_CAPABILITIES)->in[2], 0x0d);
		assert_good(reserve_out(disk.nexus, SA_REGISTER, 0, 0, 1, 0x01));
		do_out(disk.nexus, SA_RESERVE, 3, 1, 0);
		if (!survives) /* registering without it: given up */
			assert_good(reserve_out(disk.nexus, SA_REGISTER, 0, 1, 1, 0));
		disk_stop();

		virtual_loops_start(1);
		assert_int_equal(iobuf_start(), 0);
		assert_int_equal(storage_start(64 * MIB), 0);
		assert_int_equal(reservation_directory(state_dir), 0);
		struct volume_script *script =
			volume_script_open(&(struct volume_script_options){.size = MIB});
		nbd = blk_open(volume_script_volume(script), "nbd", false, &rc);
		assert_int_equal(nbd_request(BLK_READ), survives ? -EPERM : 0);
		blk_close(nbd);
		volume_script_close(script);
		virtual_run_until_idle();
		storage_stop();
		virtual_loops_stop();
	}
	snprintf(file, sizeof(file), "%s/script.reservations", state_dir);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(rmdir(state_dir), 0);
}

/* A transport with tasks that the test ends. */
struct transport {
	struct scsi_abort_part *part;
	unsigned calls;
};

static unsigned
abort_tasks(void *owner, const struct scsi_unit *unit, bool tas, struct scsi_abort_part *part)
{
	struct transport *transport = owner;

	assert_non_null(unit);
	assert_false(tas);
	transport->calls++;
	transport->part = part;
	return 2;
}

/* GOOD comes when the preempted nexus' tasks have ended, and it hears that they were cleared; a nexus
 * that is not preempted keeps its own, and PREEMPT asks for none. SPC-4 5.13.11.2.6 */
static void
test_preempt_and_abort(void **state)
{
	struct transport others = {0}, thirds = {0};
	struct scsi_nexus *third =
		scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:three,i,0x3");
	uint8_t list[24] = {0};

	(void)state;
	assert_non_null(third);
	scsi_nexus_attach(disk.other, abort_tasks, &others);
	scsi_nexus_attach(third, abort_tasks, &thirds);
	disk_ready(third);
	do_out(disk.nexus, SA_REGISTER, 0, 0, 1);
	do_out(disk.other, SA_REGISTER, 0, 0, 2);
	do_out(third, SA_REGISTER, 0, 0, 3);
	do_out(disk.nexus, SA_RESERVE, 5, 1, 0);
	put_be64(list, 1);
	put_be64(list + 8, 2);
	disk_begin(disk.nexus, CDB(OP_RESERVE_OUT, SA_PREEMPT_AND_ABORT, 5, [8] = 24), list, 24);
	virtual_run_until_idle();
	assert_false(disk_ended());
	assert_int_equal(others.calls, 1);
	assert_int_equal(thirds.calls, 0);
	scsi_abort_ended(others.part, true);
	assert_good(disk_end());
	assert_sense(disk_command(disk.other, CDB(0), NULL, 0), 6, ASC_REGISTRATIONS_PREEMPTED);
	assert_attention(disk.other, ASC_OTHER_CLEARED);
	assert_good(disk_command(third, CDB(0), NULL, 0));
	assert_int_equal(count_keys(), 2);
	do_out(disk.nexus, SA_PREEMPT, 5, 1, 3);
	assert_int_equal(thirds.calls, 0);
	/* Tasks that do not come back keep nobody waiting for ever: they are fenced. */
	put_be64(list + 8, 3);
	disk_ready(third);
	do_out(third, SA_REGISTER_AND_IGNORE, 0, 0, 3);
	disk_begin(disk.nexus, CDB(OP_RESERVE_OUT, SA_PREEMPT_AND_ABORT, 5, [8] = 24), list, 24);
	virtual_run_until_idle();
	assert_int_equal(thirds.calls, 1);
	assert_false(disk_ended());
	virtual_advance(LIMIT_SCSI_ABORT + SECOND_NS);
	assert_good(disk_end());
	disk_ready(third);
	assert_false(may_write(third));
	scsi_abort_ended(thirds.part, true);
	virtual_run_until_idle();
	scsi_nexus_free(third);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_each_type, start, stop),
		cmocka_unit_test_setup_teardown(test_commands_by_class, start, stop),
		cmocka_unit_test_setup_teardown(test_reserved_before_its_data, start, stop),
		cmocka_unit_test_setup_teardown(test_registering, start, stop),
		cmocka_unit_test_setup_teardown(test_reserving, start, stop),
		cmocka_unit_test_setup_teardown(test_all_registrants, start, stop),
		cmocka_unit_test_setup_teardown(test_preempting, start, stop),
		cmocka_unit_test_setup_teardown(test_preempt_waits_for_writes, start, stop),
		cmocka_unit_test_setup_teardown(test_preempt_and_abort, start, stop),
		cmocka_unit_test_setup_teardown(test_named_initiators, start, stop),
		cmocka_unit_test_setup_teardown(test_bad_lists, start, stop),
		cmocka_unit_test_setup_teardown(test_all_target_ports, start, stop),
		cmocka_unit_test_setup_teardown(test_capabilities, start, stop),
		cmocka_unit_test_setup_teardown(test_reserve_and_release, start, stop),
		cmocka_unit_test_setup_teardown(test_outlives_the_nexus, start, stop),
		cmocka_unit_test(test_survives),
	};

	return cmocka_run_group_tests_name("scsi_reserve", tests, NULL, NULL);
}
