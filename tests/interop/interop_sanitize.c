/*
 * SANITIZE with real clients: the session that asked for it logs out, NBD gets nothing of what is
 * half gone, others poll how far it is; at the end both protocols read the pattern. And slabd can
 * be ended meanwhile.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "clients.h"

#define SIZE  (16 * 1024 * 1024)
#define BLOCK 512
#define POLLS 600

static struct server server;

static int
status_of(struct scsi_task *task)
{
	int status = task ? task->status : -1;

	if (task)
		scsi_free_scsi_task(task);
	return status;
}

static bool
begin_sanitize(struct iscsi_context *iscsi)
{
	unsigned char list[4 + 4] = {0x01, 0, 0, 4, 'a', 'b', 'c', 'd'};
	struct iscsi_data data = {.size = sizeof(list), .data = list};

	return status_of(iscsi_sanitize_sync(iscsi, 0, 1, 0, SCSI_SANITIZE_OVERWRITE, sizeof(list),
		       &data)) == SCSI_STATUS_GOOD;
}

/* TEST UNIT READY says "sanitize in progress". */
static bool
in_progress(struct iscsi_context *iscsi)
{
	struct scsi_task *task = iscsi_testunitready_sync(iscsi, 0);
	bool runs = task && task->status == SCSI_STATUS_CHECK_CONDITION &&
		    task->sense.key == SCSI_SENSE_NOT_READY &&
		    task->sense.ascq == SCSI_SENSE_ASCQ_SANITIZE_IN_PROGRESS;

	if (task)
		scsi_free_scsi_task(task);
	return runs;
}

/* PROGRESS INDICATION of REQUEST SENSE; -1 when there is none. */
static int
poll_progress(struct iscsi_context *iscsi)
{
	static unsigned char cdb[6] = {0x03, 0, 0, 0, 18, 0};
	struct scsi_task *task = scsi_create_task(sizeof(cdb), cdb, SCSI_XFER_READ, 18);
	const unsigned char *sense;
	int progress = -1;

	if (iscsi_scsi_command_sync(iscsi, 0, task, NULL) && task->status == SCSI_STATUS_GOOD &&
		task->datain.size == 18) {
		sense = task->datain.data;
		if (sense[12] == 0x04 && sense[13] == 0x1b && sense[15] == 0x80)
			progress = sense[16] << 8 | sense[17];
	}
	scsi_free_scsi_task(task);
	return progress;
}

static bool
wait_for_end(struct iscsi_context *iscsi)
{
	int last = -1, progress;
	unsigned steps = 0;

	for (unsigned i = 0; i < POLLS; i++) {
		progress = poll_progress(iscsi);
		if (progress < 0) {
			tap_ok(steps > 2, "progress was told, and grew (%u times)", steps);
			return true;
		}
		if (progress < last)
			return false;
		steps += progress > last;
		last = progress;
		sleep_ms(200);
	}
	return false;
}

static bool
is_pattern(const unsigned char *data, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (data[i] != "abcd"[i % 4])
			return false;
	}
	return true;
}

static void
test_sanitize(struct nbd_handle *nbd)
{
	static unsigned char data[SIZE];
	struct iscsi_context *asks = client_iscsi(&server, "disk0", "iqn.test:asks");
	struct iscsi_context *looks = client_iscsi(&server, "disk0", "iqn.test:looks");

	memset(data, 0x77, sizeof(data));
	if (nbd_pwrite(nbd, data, sizeof(data), 0, 0) != 0)
		tap_bail("nbd_pwrite: %s", nbd_get_error());
	while (status_of(iscsi_testunitready_sync(looks, 0)) == SCSI_STATUS_CHECK_CONDITION)
		tap_note("unit attention");
	tap_ok(begin_sanitize(asks), "SANITIZE began");
	client_iscsi_close(asks);
	tap_ok(in_progress(looks), "another session is told of it");
	tap_ok(nbd_pread(nbd, data, BLOCK, 0, 0) < 0 && nbd_get_errno() == EIO,
		"NBD reads nothing of what is half gone");
	tap_ok(nbd_pwrite(nbd, data, BLOCK, 0, 0) < 0 && nbd_get_errno() == EIO,
		"and writes nothing into it");
	tap_ok(wait_for_end(looks), "it came to its end without the session that asked");
	tap_ok(nbd_pread(nbd, data, sizeof(data), 0, 0) == 0 && is_pattern(data, sizeof(data)),
		"NBD reads the pattern");
	client_iscsi_close(looks);
}

int
main(void)
{
	const char *args[] = {"disk0=memory:16M", NULL};
	struct iscsi_context *iscsi;
	struct nbd_handle *nbd;

	server_prepare(&server);
	server_start(&server, args);
	nbd = client_nbd(&server, "disk0");
	test_sanitize(nbd);
	iscsi = client_iscsi(&server, "disk0", "iqn.test:again");
	tap_ok(begin_sanitize(iscsi), "SANITIZE began again");
	client_iscsi_close(iscsi);
	nbd_close(nbd);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well meanwhile");
	return tap_done();
}
