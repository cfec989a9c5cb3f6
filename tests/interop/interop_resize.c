/*
 * A volume grows and shrinks under clients of both protocols, while others write to it: each iSCSI
 * session is told once by a unit attention, at its next command, also when that moves data; NBD clients
 * use the new end on the connection they have, and find the new size when they ask.
 */
#include "config.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "clients.h"

#define MIB ((uint64_t)1 << 20)

static struct server server;
static atomic_bool over;

/* Writes and reads back without pause, below every size that the volume has. */
static void *
load(void *arg)
{
	struct nbd_handle *nbd = arg;
	static uint8_t data[65536], back[65536];
	uintptr_t wrong = 0;

	for (unsigned i = 0; !atomic_load(&over); i++) {
		uint64_t offset = i % 64 * sizeof(data);

		memset(data, (int)i, sizeof(data));
		if (nbd_pwrite(nbd, data, sizeof(data), offset, 0) < 0 ||
			nbd_pread(nbd, back, sizeof(back), offset, 0) < 0 ||
			memcmp(data, back, sizeof(data)) != 0)
			wrong++;
	}
	return (void *)wrong; /* NOLINT: a count */
}

static bool
resize(const char *volume, const char *words)
{
	char out[1000], command[200];

	snprintf(command, sizeof(command), "resize %s %s", volume, words);
	return server_ctl(&server, out, sizeof(out), command) == 0;
}

/* The next command of a session: is it the attention? It may be one that moves data. */
static bool
is_told(struct iscsi_context *iscsi, int code)
{
	struct scsi_task *task = iscsi_read16_sync(iscsi, 0, 0, 512, 512, 0, 0, 0, 0, 0);
	bool told = task && task->status == SCSI_STATUS_CHECK_CONDITION &&
		    task->sense.key == SCSI_SENSE_UNIT_ATTENTION && task->sense.ascq == code;

	if (task)
		scsi_free_scsi_task(task);
	return told;
}

static uint64_t
capacity(struct iscsi_context *iscsi)
{
	struct scsi_task *task = iscsi_readcapacity16_sync(iscsi, 0);
	struct scsi_readcapacity16 *answer =
		task && task->status == SCSI_STATUS_GOOD ? scsi_datain_unmarshall(task) : NULL;
	uint64_t size = answer ? (answer->returned_lba + 1) * answer->block_length : 0;

	if (task)
		scsi_free_scsi_task(task);
	return size;
}

static void
check_size(const char *volume, struct nbd_handle *nbd, struct iscsi_context *const *iscsi,
	uint64_t size)
{
	uint8_t data[512] = {1};
	struct nbd_handle *late;

	for (unsigned i = 0; i < 2; i++) {
		tap_ok(is_told(iscsi[i], 0x2a09), "session %u: unit attention 2A/09", i);
		tap_ok(!is_told(iscsi[i], 0x2a09), "session %u: once", i);
		tap_ok(capacity(iscsi[i]) == size, "session %u: the new capacity", i);
	}
	tap_ok(nbd_pwrite(nbd, data, 512, size - 512, LIBNBD_CMD_FLAG_FUA) == 0,
		"NBD: the new end can be written on the old connection");
	late = client_nbd(&server, volume);
	tap_ok(nbd_get_size(late) == (int64_t)size, "NBD: who asks is told the new size");
	nbd_close(late);
}

static void
run_all(const char *volume)
{
	struct nbd_handle *nbd = client_nbd(&server, volume);
	struct nbd_handle *busy = client_nbd(&server, volume);
	struct iscsi_context *iscsi[2] = {
		client_iscsi(&server, volume, "first"), client_iscsi(&server, volume, "second")};
	uint8_t data[512];
	pthread_t thread;
	void *wrong;

	tap_note("%s", volume);
	/* libnbd itself refuses what lies past the size it was told. */
	nbd_set_strict_mode(nbd, 0);
	atomic_store(&over, false);
	pthread_create(&thread, NULL, load, busy);
	tap_ok(resize(volume, "100M"), "grows from 16M to 100M under load");
	check_size(volume, nbd, iscsi, 100 * MIB);
	tap_ok(resize(volume, "32M --force"), "shrinks to 32M");
	tap_ok(nbd_pread(nbd, data, 512, 64 * MIB, 0) < 0, "what is above cannot be read");
	check_size(volume, nbd, iscsi, 32 * MIB);
	tap_ok(resize(volume, "100M"), "grows to 100M again");
	check_size(volume, nbd, iscsi, 100 * MIB);
	memset(data, 1, sizeof(data));
	tap_ok(nbd_pread(nbd, data, 512, 100 * MIB - 1024, 0) == 0 && data[0] == 0 &&
			data[511] == 0,
		"what was above is forgotten");
	atomic_store(&over, true);
	pthread_join(thread, &wrong);
	tap_ok(wrong == NULL, "the load below saw nothing of it");
	nbd_close(nbd);
	nbd_close(busy);
	for (unsigned i = 0; i < 2; i++)
		client_iscsi_close(iscsi[i]);
}

/* The content changes under clients, who must have been asked for it: sessions are told so, once each. */
static void
load_under_clients(void)
{
	struct nbd_handle *nbd = client_nbd(&server, "memory");
	struct iscsi_context *iscsi[2] = {client_iscsi(&server, "memory", "first"),
		client_iscsi(&server, "memory", "second")};
	uint8_t data[512], was[512];
	char words[200], out[512];

	memset(data, 0x77, sizeof(data));
	nbd_pwrite(nbd, data, sizeof(data), 0, 0);
	snprintf(words, sizeof(words), "save memory %s/saved", server.dir);
	tap_ok(server_ctl(&server, out, sizeof(out), words) == 0, "slabctl save");
	memset(data, 0x11, sizeof(data));
	nbd_pwrite(nbd, data, sizeof(data), 0, 0);
	snprintf(words, sizeof(words), "load memory %s/saved", server.dir);
	tap_ok(server_ctl(&server, out, sizeof(out), words) == 1 && strstr(out, "--force"),
		"slabctl load is refused under clients");
	for (unsigned i = 0; i < 2; i++)
		tap_ok(!is_told(iscsi[i], 0x2800), "nothing has happened to session %u", i);
	strcat(words, " --force");
	tap_ok(server_ctl(&server, out, sizeof(out), words) == 0, "slabctl load --force");
	memset(was, 0x77, sizeof(was));
	tap_ok(nbd_pread(nbd, data, sizeof(data), 0, 0) == 0 &&
			memcmp(data, was, sizeof(data)) == 0,
		"the content is what was saved");
	for (unsigned i = 0; i < 2; i++) {
		tap_ok(is_told(iscsi[i], 0x2800),
			"session %u is told that the medium may have changed", i);
		tap_ok(!is_told(iscsi[i], 0x2800), "once");
		client_iscsi_close(iscsi[i]);
	}
	nbd_close(nbd);
}

int
main(void)
{
	char file[160], direct[160];

	server_prepare(&server);
	snprintf(file, sizeof(file), "file=file:%s/a,size=16M", server.dir);
	snprintf(direct, sizeof(direct), "direct=file:%s/b,size=16M,direct=auto,prealloc=on",
		server.dir);
	server_start(&server, (const char *const[]){"memory=memory:16M", file, direct, NULL});
	run_all("memory");
	run_all("file");
	run_all("direct");
	load_under_clients();
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
