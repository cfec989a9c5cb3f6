/*
 * What is behind a volume goes away under its clients: a device that is there no more is NOT READY over
 * iSCSI and EIO over NBD, a file that somebody truncated a MEDIUM ERROR and EIO; the volumes beside it go on
 * for both. Then each comes back.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients.h"
#include "shell.h"

#define PIECE 65536

static struct server server;
static char loop_path[64], back[80], web[80];

/* A client of each protocol for each volume. */
enum { DB, WEB, SCRATCH, VOLUMES };
static const char *const names[VOLUMES] = {"db", "web", "scratch"};
static struct nbd_handle *nbd[VOLUMES];
static struct iscsi_context *iscsi[VOLUMES];

static void
clean_up(void)
{
	if (server.pid > 0 && server_running(&server))
		server_stop(&server, SIGKILL);
	if (loop_path[0])
		shell("losetup -d %s", loop_path);
}

/* Sense key, ASC, ASCQ as one number; 0: GOOD; -1: neither. */
static int
sense_of(struct scsi_task *task)
{
	int said = -1;

	if (task && task->status == SCSI_STATUS_GOOD)
		said = 0;
	else if (task && task->status == SCSI_STATUS_CHECK_CONDITION)
		said = (int)task->sense.key << 16 | task->sense.ascq;
	if (task)
		scsi_free_scsi_task(task);
	return said;
}

/* The last sense after unit attentions were taken. */
static int
ready(struct iscsi_context *context)
{
	int said = 0;

	for (unsigned i = 0; i < 8; i++) {
		said = sense_of(iscsi_testunitready_sync(context, 0));
		if (said >> 16 != SCSI_SENSE_UNIT_ATTENTION)
			break;
	}
	return said;
}

static int
iscsi_read(unsigned volume, uint64_t offset)
{
	return sense_of(
		iscsi_read16_sync(iscsi[volume], 0, offset / 512, 4096, 512, 0, 0, 0, 0, 0));
}

static int
iscsi_write(unsigned volume, uint64_t offset)
{
	static unsigned char data[PIECE] = {0x5a};

	return sense_of(iscsi_write16_sync(
		iscsi[volume], 0, offset / 512, data, PIECE, 512, 0, 0, 0, 0, 0));
}

/* errno as the server said it; 0: it worked. */
static int
nbd_read(unsigned volume, uint64_t offset)
{
	char data[4096];

	return nbd_pread(nbd[volume], data, sizeof(data), offset, 0) == 0 ? 0 : nbd_get_errno();
}

static int
nbd_write(unsigned volume, uint64_t offset)
{
	static const char data[PIECE] = {0x5a};

	return nbd_pwrite(nbd[volume], data, PIECE, offset, 0) == 0 ? 0 : nbd_get_errno();
}

static void
works(unsigned volume, const char *when)
{
	bool by_nbd = nbd_write(volume, 0) == 0 && nbd_read(volume, 0) == 0 &&
		      nbd_flush(nbd[volume], 0) == 0;
	bool by_iscsi = ready(iscsi[volume]) == 0 && iscsi_write(volume, 0) == 0 &&
			iscsi_read(volume, 0) == 0 &&
			sense_of(iscsi_synchronizecache10_sync(iscsi[volume], 0, 0, 0, 0, 0)) == 0;

	tap_ok(by_nbd, "%s: %s works over NBD", when, names[volume]);
	tap_ok(by_iscsi, "%s: %s works over iSCSI", when, names[volume]);
}

/* A write beyond a device's end is ENOSPC to the kernel; it is no lack of room to a client. */
static void
device_shrinks(void)
{
	int said;

	if (shell("truncate -s 32M %s && losetup -c %s", back, loop_path))
		tap_bail("the loop device cannot be made smaller");
	said = nbd_write(DB, 48 * 1024 * 1024);
	tap_ok(said == EIO, "a write beyond the end of a device that shrank is EIO (%d)", said);
	said = iscsi_write(DB, 48 * 1024 * 1024);
	tap_ok(said == (SCSI_SENSE_MEDIUM_ERROR << 16 | 0x0c00), "and MEDIUM ERROR 0C/00 (%06x)",
		said);
	works(DB, "below its end");
	shell("truncate -s 64M %s && losetup -c %s", back, loop_path);
	said = nbd_write(DB, 48 * 1024 * 1024);
	tap_ok(said == 0, "and above it when it is as large as it was (%d)", said);
}

static void
device_goes_away(void)
{
	static const int not_ready = SCSI_SENSE_NOT_READY << 16 | 0x0400;
	char out[4000];
	int said;

	/* What a pulled disk looks like: the node is open, and has no bytes. */
	if (shell("truncate -s 0 %s && losetup -c %s", back, loop_path))
		tap_bail("the loop device cannot be made empty");
	said = iscsi_read(DB, 0);
	tap_ok(said == not_ready, "a read over iSCSI is NOT READY 04/00 (%06x)", said);
	said = nbd_read(DB, 0);
	tap_ok(said == EIO, "a read over NBD is EIO (%d)", said);
	said = iscsi_write(DB, 1024 * 1024);
	tap_ok(said == not_ready, "a write over iSCSI is NOT READY 04/00 (%06x)", said);
	said = nbd_write(DB, 1024 * 1024);
	tap_ok(said == EIO, "a write over NBD is EIO (%d)", said);
	for (unsigned i = 0; i < 200; i++) {
		server_ctl(&server, out, sizeof(out), "volumes");
		if (strstr(out, "the device is gone"))
			break;
		sleep_ms(100);
	}
	tap_ok(strstr(out, "FAILED") && strstr(out, "the device is gone"),
		"slabctl volumes says FAILED, and why");
	said = ready(iscsi[DB]);
	tap_ok(said == not_ready, "TEST UNIT READY is NOT READY 04/00 (%06x)", said);
	said = sense_of(iscsi_synchronizecache10_sync(iscsi[DB], 0, 0, 0, 0, 0));
	tap_ok(said == not_ready, "SYNCHRONIZE CACHE is NOT READY 04/00 (%06x)", said);
	said = nbd_flush(nbd[DB], 0) == 0 ? 0 : nbd_get_errno();
	tap_ok(said == EIO, "FLUSH over NBD is EIO (%d)", said);
	works(WEB, "without the device");
	works(SCRATCH, "without the device");
	tap_ok(shell("truncate -s 64M %s && losetup -c %s", back, loop_path) == 0 &&
			server_ctl(&server, out, sizeof(out), "clear db") == 0,
		"it comes back, slabctl clear db");
	works(DB, "after clear");
}

static void
file_is_truncated(void)
{
	static const int medium = SCSI_SENSE_MEDIUM_ERROR << 16;
	char out[4000];
	int said;

	if (truncate(web, 512 * 1024) < 0)
		tap_bail("%s", web);
	said = iscsi_read(WEB, 16 * 1024 * 1024);
	tap_ok(said == (medium | 0x1100), "a read over iSCSI is MEDIUM ERROR 11/00 (%06x)", said);
	said = nbd_read(WEB, 16 * 1024 * 1024);
	tap_ok(said == EIO, "a read over NBD is EIO (%d)", said);
	said = iscsi_write(WEB, 0);
	tap_ok(said == (medium | 0x0c00), "a write over iSCSI is MEDIUM ERROR 0C/00 (%06x)", said);
	said = nbd_write(WEB, 0);
	tap_ok(said == EIO, "a write over NBD is EIO (%d)", said);
	tap_ok(iscsi_read(WEB, 0) == 0 && nbd_read(WEB, 0) == 0, "what is left of it is served");
	works(DB, "beside a truncated file");
	works(SCRATCH, "beside a truncated file");
	tap_ok(truncate(web, 64 * 1024 * 1024) == 0, "the file is as long as it was");
	works(WEB, "then");
	server_ctl(&server, out, sizeof(out), "volumes");
	tap_ok(!strstr(out, "FAILED"), "nothing has failed");
}

int
main(void)
{
	char db[80], file[120];

	server_prepare(&server);
	atexit(clean_up);
	if (geteuid() != 0)
		tap_skip_all("only root has loop devices");
	snprintf(back, sizeof(back), "%s/back", server.dir);
	snprintf(web, sizeof(web), "%s/web.img", server.dir);
	if (shell("truncate -s 64M %s", back) || !shell_attach_loop(back, loop_path))
		tap_skip_all("there are no loop devices here");
	snprintf(db, sizeof(db), "db=device:%s", loop_path);
	snprintf(file, sizeof(file), "web=file:%s,size=64M", web);
	server_start(&server, (const char *const[]){db, file, "scratch=memory:64M", NULL});
	for (unsigned i = 0; i < VOLUMES; i++) {
		nbd[i] = client_nbd(&server, names[i]);
		nbd_set_strict_mode(nbd[i], 0);
		iscsi[i] = client_iscsi(&server, names[i], "gone");
		works(i, "at first");
	}
	device_shrinks();
	device_goes_away();
	file_is_truncated();
	/* A detach while somebody has it open is none: the kernel keeps the device for him. */
	shell("losetup -d %s", loop_path);
	loop_path[0] = '\0';
	works(DB, "detached while it is open");
	for (unsigned i = 0; i < VOLUMES; i++) {
		nbd_close(nbd[i]);
		client_iscsi_close(iscsi[i]);
	}
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
