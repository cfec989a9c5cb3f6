#include "config.h"

#include "test_scsi_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "conf.h"

struct disk disk;

static struct scsi_task current;
static bool ended;
static struct answer answer;
static uint8_t data_in[LIMIT_SCSI_TRANSFER];

static void
make_nexuses(void)
{
	disk.nexus = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:one,i,0x1");
	disk.other = scsi_nexus_new(&disk.catalogue, &disk.target, "iqn.test:two,i,0x2");
	assert_non_null(disk.nexus);
	assert_non_null(disk.other);
}

static void
start_runtime(void)
{
	virtual_loops_start(1);
	assert_int_equal(iobuf_start(), 0);
	assert_int_equal(storage_start(64 * MIB), 0);
	assert_int_equal(scsi_start(), 0);
}

static void
start_target(struct volume *volume)
{
	disk.portal_id = 2;
	disk.luns[0] = (struct lun){.number = 0, .volume = volume};
	disk.target = (struct target){
		.name = "iqn.2026-11.localhost.slabd:disk0", .luns = disk.luns, .nluns = 1};
	disk.portals[0] = (struct portal){.address = "a", .group = 1, .relative_id = 1};
	disk.portals[1] = (struct portal){.address = "b", .group = 7, .relative_id = 2};
	disk.catalogue = (struct catalogue){.references = 1,
		.targets = &disk.target, .ntargets = 1, .portals = disk.portals, .nportals = 2};
	make_nexuses();
}

void
disk_start(const struct volume_script_options *options)
{
	start_runtime();
	disk.script = volume_script_open(options);
	start_target(volume_script_volume(disk.script));
}

void
disk_start_volume(struct volume *volume)
{
	disk.script = NULL;
	start_target(volume);
}

struct volume *
disk_memory_volume(const struct conf_volume *conf)
{
	struct volume *volume;
	struct error error;

	start_runtime();
	if (volume_open(conf, &volume, &error) < 0)
		fail_msg("%s", error.text);
	return volume;
}

static struct blk_info plain_info;

static int
open_plain(const struct conf_volume *conf, struct blk_info *info, void **state, struct error *error)
{
	(void)error;
	info->size = plain_info.size ? plain_info.size : conf->size;
	info->discard_granularity = plain_info.discard_granularity;
	info->sparse = plain_info.sparse;
	info->native = 1u << BLK_READ | 1u << BLK_WRITE;
	*state = NULL;
	return 0;
}

static void
close_plain(void *state)
{
	(void)state;
}

static bool
submit_plain(void *state, struct blk_request *request)
{
	(void)state;
	blk_complete(request, 0);
	return true;
}

struct volume *
disk_plain_volume(const struct conf_volume *conf, const struct blk_info *info)
{
	static const struct blk_driver driver = {.name = "plain",
		.argument = "size",
		.open = open_plain,
		.close = close_plain,
		.submit = submit_plain};
	struct volume *volume;
	struct error error;

	start_runtime();
	plain_info = *info;
	assert_int_equal(volume_open_driver(conf, &driver, &volume, &error), 0);
	return volume;
}

void
disk_add_lun(uint16_t number, struct volume *volume, bool read_only)
{
	scsi_nexus_free(disk.nexus);
	scsi_nexus_free(disk.other);
	disk.luns[disk.target.nluns++] =
		(struct lun){.number = number, .volume = volume, .read_only = read_only};
	make_nexuses();
}

void
disk_stop(void)
{
	struct volume *volume = disk.luns[0].volume;

	if (disk.nexus)
		scsi_nexus_free(disk.nexus);
	if (disk.other)
		scsi_nexus_free(disk.other);
	if (disk.script)
		volume_script_close(disk.script);
	else
		volume_put(volume);
	virtual_run_until_idle();
	scsi_stop();
	storage_stop();
	virtual_loops_stop();
	disk = (struct disk){0};
}

int
disk_setup(void **state)
{
	(void)state;
	disk_start(&(struct volume_script_options){.size = 16 * MIB, .volatile_cache = true});
	disk_ready(disk.nexus);
	return 0;
}

int
disk_teardown(void **state)
{
	(void)state;
	disk_stop();
	return 0;
}

uint8_t *
disk_medium(void)
{
	return volume_script_data(disk.script);
}

unsigned
disk_calls(enum blk_op op)
{
	unsigned n = 0;

	for (unsigned i = 0; i < volume_script_calls(disk.script); i++)
		n += volume_script_call(disk.script, i)->op == op;
	return n;
}

unsigned
disk_cdb_length(uint8_t opcode)
{
	static const uint8_t lengths[] = {6, 10, 10, 16, 16, 12, 16, 16};

	return lengths[opcode >> 5];
}

static void
read_sense(void)
{
	const uint8_t *s = current.sense;

	answer.key = 0;
	answer.code = 0;
	if (!answer.sense_length)
		return;
	if (s[0] == 0x72) {
		answer.key = s[1];
		answer.code = get_be16(s + 2);
		assert_int_equal(answer.sense_length, 8 + s[7]);
	} else {
		assert_int_equal(s[0] & 0x7f, 0x70);
		answer.key = s[2];
		answer.code = get_be16(s + 12);
		assert_int_equal(answer.sense_length, 8 + s[7]);
	}
}

static void
take_answer(bool prepared)
{
	answer.prepared = prepared;
	answer.status = current.status;
	answer.sense_length = current.sense_length;
	answer.out_length = current.out_length;
	answer.in_max = current.in_max;
	answer.in_length = (size_t)current.in_length;
	answer.in = data_in;
	memcpy(answer.sense, current.sense, sizeof(answer.sense));
	assert_true(current.in_length <= current.in_max);
	assert_true(current.in_length <= current.in.length);
	iov_to(current.in.iov, current.in.niov, 0, data_in, answer.in_length);
	if (current.status == SCSI_CHECK_CONDITION)
		assert_in_range(current.sense_length, 8, LIMIT_SCSI_SENSE);
	else
		assert_int_equal(current.sense_length, 0);
	read_sense();
	iobuf_free(&current.in);
	iobuf_free(&current.out);
}

static void
on_done(struct scsi_task *task)
{
	assert_ptr_equal(task, &current);
	assert_false(ended);
	assert_false(scsi_running(task));
	ended = true;
	take_answer(true);
}

static void
begin(struct scsi_nexus *nexus, const uint8_t lun[8], const uint8_t *cdb, const void *out,
	size_t length)
{
	/* Whatever the last user left in the transport's memory. */
	memset(&current, 0xa5, sizeof(current));
	ended = false;
	current.nexus = nexus;
	memcpy(current.lun, lun, 8);
	memcpy(current.cdb, cdb, sizeof(current.cdb));
	current.cdb_length = disk_cdb_length(cdb[0]);
	current.portal_id = disk.portal_id;
	current.out_expected = length;
	current.done = on_done;
	current.out = (struct iobuf){0};
	if (!scsi_prepare(&current)) {
		ended = true;
		take_answer(false);
		return;
	}
	length = (size_t)min_u64(length, current.out_length);
	if (length) {
		assert_int_equal(iobuf_take(&current.out, length), 0);
		iov_from(current.out.iov, current.out.niov, 0, out, length);
	}
	scsi_execute(&current);
	assert_false(ended); /* never inside scsi_execute() */
	assert_true(scsi_running(&current));
}

struct scsi_task *
disk_begin(struct scsi_nexus *nexus, const uint8_t *cdb, const void *out, size_t length)
{
	static const uint8_t lun[8];

	begin(nexus, lun, cdb, out, length);
	return &current;
}

bool
disk_ended(void)
{
	return ended;
}

const struct answer *
disk_end(void)
{
	virtual_run_until_idle();
	assert_true(ended);
	return &answer;
}

const struct answer *
disk_command_lun(struct scsi_nexus *nexus, const uint8_t lun[8], const uint8_t *cdb,
	const void *out, size_t length)
{
	begin(nexus, lun, cdb, out, length);
	return disk_end();
}

const struct answer *
disk_command(struct scsi_nexus *nexus, const uint8_t *cdb, const void *out, size_t length)
{
	static const uint8_t lun[8];

	return disk_command_lun(nexus, lun, cdb, out, length);
}

void
disk_ready(struct scsi_nexus *nexus)
{
	for (unsigned i = 0; i < 8; i++) {
		if (disk_command(nexus, CDB(0), NULL, 0)->status == SCSI_GOOD)
			return;
		assert_int_equal(answer.key, 6);
	}
	fail_msg("the unit does not become ready");
}

void
assert_good(const struct answer *a)
{
	if (a->status != SCSI_GOOD)
		fail_msg("status %02x, sense %x/%04x", a->status, a->key, a->code);
}

void
assert_sense(const struct answer *a, uint8_t key, unsigned code)
{
	if (a->status != SCSI_CHECK_CONDITION || a->key != key || a->code != code)
		fail_msg("status %02x, sense %x/%04x, not %x/%04x", a->status, a->key, a->code, key,
			code);
	assert_int_equal(a->in_length, 0);
}

void
assert_bad_cdb(const struct answer *a, unsigned byte)
{
	assert_sense(a, 5, 0x2400);
	assert_int_equal(a->sense[0], 0x70);
	assert_int_equal(a->sense[15], 0xc0); /* SKSV, in the CDB */
	assert_int_equal(get_be16(a->sense + 16), byte);
}
