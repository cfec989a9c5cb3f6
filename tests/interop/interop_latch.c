/*
 * O4 with a real write-back error. A buffered file lies on ext4, on a loop device, on a tmpfs that is
 * full: write() succeeds, writing back does not, and the kernel says so once. Four clients, two of each
 * protocol and spread over two loops, write and flush without pause: after the first failure nobody is
 * told a success of a FLUSH or FUA that began later, nor may read, until `slabctl clear`. Then the same
 * with O_DIRECT, where a WRITE with FUA is its own sync; and with a device, a second loop device over a file
 * on that ext4: it takes every write into its page cache, and its FLUSH is that file's fsync.
 */
#include "config.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients.h"
#include "shell.h"

#define CLIENTS 4
#define ROUNDS  400
#define AFTER   20 /* attempts of each client after its first failure */
#define PIECE   (256 * 1024)
#define SIZE    (64 * 1024 * 1024)

static struct server server;
static char loop_path[64], device_path[64];
static bool mounted_tmpfs, mounted_ext4;

struct client {
	struct nbd_handle *nbd; /* or: */
	struct iscsi_context *iscsi;
	unsigned number;
	pthread_t thread;
	unsigned successes, failures, lies;
};

static atomic_bool failed;

static void
clean_up(void)
{
	if (server.pid > 0 && server_running(&server))
		server_stop(&server, SIGKILL);
	if (device_path[0])
		shell("losetup -d %s", device_path);
	if (mounted_ext4)
		shell("umount %s/m", server.dir);
	if (loop_path[0])
		shell("losetup -d %s", loop_path);
	if (mounted_tmpfs)
		shell("umount %s/t", server.dir);
}

static void
make_disk(void)
{
	const char *dir = server.dir;
	char back[80];

	if (geteuid() != 0)
		tap_skip_all("only root can mount");
	if (shell("command -v mkfs.ext4 >/dev/null && command -v losetup >/dev/null"))
		tap_skip_all("mkfs.ext4 or losetup is not installed");
	if (shell("mkdir %s/t %s/m && mount -t tmpfs -o size=48m none %s/t", dir, dir, dir))
		tap_skip_all("no tmpfs can be mounted here");
	mounted_tmpfs = true;
	snprintf(back, sizeof(back), "%s/t/back", dir);
	if (shell("truncate -s 256M %s", back) || !shell_attach_loop(back, loop_path))
		tap_skip_all("there are no loop devices here");
}

static void
make_file_system(void)
{
	if (shell("mkfs.ext4 -q -F -O ^has_journal %s && mount %s %s/m", loop_path, loop_path,
		    server.dir))
		tap_bail("no ext4 can be mounted here");
	mounted_ext4 = true;
}

static void
drop_file_system(void)
{
	if (device_path[0])
		shell("losetup -d %s", device_path);
	device_path[0] = '\0';
	shell("umount %s/m", server.dir);
	mounted_ext4 = false;
}

/* Nearly everything that is left, so that soon the loop device's new blocks find no room. */
static void
fill_tmpfs(void)
{
	shell("sync -f %s/m; cat /dev/zero >%s/t/fill 2>/dev/null; truncate -s -6M %s/t/fill",
		server.dir, server.dir, server.dir);
}

static bool
good(struct scsi_task *task)
{
	bool is = task && task->status == SCSI_STATUS_GOOD;

	if (task)
		scsi_free_scsi_task(task);
	return is;
}

static bool
client_write(struct client *c, uint64_t offset, bool fua)
{
	static const uint8_t data[PIECE] = {0x5a};

	if (c->nbd)
		return nbd_pwrite(c->nbd, data, PIECE, offset, fua ? LIBNBD_CMD_FLAG_FUA : 0) == 0;
	return good(iscsi_write16_sync(c->iscsi, 0, offset / 512, (unsigned char *)(uintptr_t)data,
		PIECE, 512, 0, 0, fua, 0, 0));
}

static bool
client_flush(struct client *c)
{
	if (c->nbd)
		return nbd_flush(c->nbd, 0) == 0;
	return good(iscsi_synchronizecache10_sync(c->iscsi, 0, 0, 0, 0, 0));
}

static bool
client_read(struct client *c)
{
	uint8_t data[4096];

	if (c->nbd)
		return nbd_pread(c->nbd, data, sizeof(data), 0, 0) == 0;
	return good(iscsi_read16_sync(c->iscsi, 0, 0, sizeof(data), 512, 0, 0, 0, 0, 0));
}

/* A sync that begins now; whether it may succeed was decided before. */
static void
try_sync(struct client *c, uint64_t offset, bool fua)
{
	bool late = atomic_load(&failed), ok;

	ok = fua ? client_write(c, offset, true) : client_flush(c);
	if (!ok) {
		atomic_store(&failed, true);
		c->failures++;
	} else {
		c->successes++;
		c->lies += late;
	}
}

static void *
run_client(void *arg)
{
	struct client *c = arg;
	unsigned after = 0;

	for (unsigned i = 0; i < ROUNDS && after < AFTER; i++) {
		uint64_t offset = (uint64_t)(i * CLIENTS + c->number) % (SIZE / PIECE) * PIECE;

		client_write(c, offset, false);
		try_sync(c, offset, i % 3 == 2);
		after += c->failures > 0;
	}
	return NULL;
}

static void
connect_client(struct client *c, unsigned number)
{
	*c = (struct client){.number = number};
	if (number % 2)
		c->iscsi = client_iscsi(&server, "web", number == 1 ? "first" : "second");
	else
		c->nbd = client_nbd(&server, "web");
}

static void
disconnect_client(struct client *c)
{
	if (c->nbd)
		nbd_close(c->nbd);
	else
		client_iscsi_close(c->iscsi);
}

static void
storm(struct client *clients)
{
	unsigned failures = 0, successes = 0, lies = 0, told = 0;

	fill_tmpfs();
	for (unsigned i = 0; i < CLIENTS; i++)
		pthread_create(&clients[i].thread, NULL, run_client, &clients[i]);
	for (unsigned i = 0; i < CLIENTS; i++) {
		pthread_join(clients[i].thread, NULL);
		failures += clients[i].failures;
		successes += clients[i].successes;
		lies += clients[i].lies;
		told += clients[i].failures > 0;
	}
	tap_note("%u syncs succeeded before, %u failed", successes, failures);
	tap_ok(told == CLIENTS, "every client of both protocols is told that a sync failed");
	tap_ok(lies == 0, "no FLUSH or FUA that began after the failure succeeds (%u did)", lies);
}

static void
latched(struct client *clients, bool buffered)
{
	char out[4000];
	struct client late[2];
	unsigned reads = 0, writes = 0, syncs = 0;

	server_ctl(&server, out, sizeof(out), "volumes");
	tap_ok(strstr(out, "FAILED") && strstr(out, "failed with"),
		"slabctl volumes says FAILED, and why");
	/* Room again does not make it well. */
	shell("rm %s/t/fill", server.dir);
	for (unsigned i = 0; i < CLIENTS; i++) {
		reads += client_read(&clients[i]);
		writes += client_write(&clients[i], 0, false);
		syncs += client_flush(&clients[i]);
	}
	if (buffered)
		tap_ok(reads == 0, "no read is served from the page cache any more");
	tap_ok(writes == 0, "no write is taken");
	tap_ok(syncs == 0, "no flush succeeds, with room again");
	syncs = 0;
	for (unsigned i = 0; i < 2; i++) {
		connect_client(&late[i], i);
		syncs += client_flush(&late[i]);
		disconnect_client(&late[i]);
	}
	tap_ok(syncs == 0, "nor for those who connect later");
}

static void
cleared(struct client *clients)
{
	char out[4000];
	unsigned reads = 0, writes = 0, syncs = 0;

	tap_ok(server_ctl(&server, out, sizeof(out), "clear web") == 0, "slabctl clear web");
	server_ctl(&server, out, sizeof(out), "volumes");
	tap_ok(!strstr(out, "FAILED"), "it is not FAILED any more");
	for (unsigned i = 0; i < CLIENTS; i++) {
		reads += client_read(&clients[i]);
		writes += client_write(&clients[i], 0, true);
		syncs += client_flush(&clients[i]);
	}
	tap_ok(reads == CLIENTS && writes == CLIENTS && syncs == CLIENTS,
		"every client reads, writes with FUA and flushes again");
	tap_ok(shell("grep -q 'web: cleared by an operator' %s", server.log) == 0,
		"the log says so");
	tap_ok(server_ctl(&server, out, sizeof(out), "clear web") == 1,
		"a second clear is refused: it has not failed");
}

/* NULL for the file's option: a device. */
static void
run_all(const char *what, const char *option)
{
	struct client clients[CLIENTS];
	char volume[160], file[80];

	tap_note("%s", what);
	atomic_store(&failed, false);
	make_file_system();
	snprintf(file, sizeof(file), "%s/m/device", server.dir);
	if (option)
		snprintf(volume, sizeof(volume), "web=file:%s/m/web.img,size=64M,%s", server.dir,
			option);
	else if (shell("truncate -s 64M %s", file) == 0 && shell_attach_loop(file, device_path))
		snprintf(volume, sizeof(volume), "web=device:%s", device_path);
	else
		tap_bail("there is no second loop device here");
	server_start(&server, (const char *const[]){volume, NULL});
	for (unsigned i = 0; i < CLIENTS; i++) {
		connect_client(&clients[i], i);
		tap_ok(client_write(&clients[i], 0, true) && client_flush(&clients[i]),
			"client %u syncs while there is room", i);
	}
	storm(clients);
	latched(clients, option && strcmp(option, "direct=off") == 0);
	cleared(clients);
	for (unsigned i = 0; i < CLIENTS; i++)
		disconnect_client(&clients[i]);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	drop_file_system();
}

int
main(void)
{
	server_prepare(&server);
	atexit(clean_up);
	make_disk();
	run_all("through the page cache", "direct=off");
	run_all("past it", "direct=on");
	run_all("a device", NULL);
	return tap_done();
}
