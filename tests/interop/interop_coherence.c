/*
 * What one client wrote and was answered for, another reads at once by the other protocol (B5):
 * blocks written by iSCSI and read by NBD after each reply, and the reverse, on a memory and a file
 * volume. The connections are spread over two loops.
 */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients.h"

#define ROUNDS  1500
#define SIZE    (16 * 1024 * 1024)
#define CLIENTS 2 /* of each protocol: on different loops */
#define MAX_LEN 65536

static struct server server;
static struct nbd_handle *nbd[CLIENTS];
static struct iscsi_context *iscsi[CLIENTS];
static uint64_t rng;

static void
connect_clients(const char *volume)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		nbd[i] = client_nbd(&server, volume);
		iscsi[i] = client_iscsi(&server, volume, i ? "second" : "first");
	}
}

static void
disconnect_clients(void)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		nbd_close(nbd[i]);
		client_iscsi_close(iscsi[i]);
	}
}

static void
must_nbd(int rc)
{
	if (rc < 0)
		tap_bail("nbd: %s", nbd_get_error());
}

/* The task with status GOOD; the caller frees it. */
static struct scsi_task *
must_scsi(struct iscsi_context *context, struct scsi_task *task)
{
	if (!task || task->status != SCSI_STATUS_GOOD)
		tap_bail("iscsi: %s", iscsi_get_error(context));
	return task;
}

static void
scsi_write(unsigned client, uint8_t *data, uint32_t length, uint64_t offset)
{
	scsi_free_scsi_task(
		must_scsi(iscsi[client], iscsi_write16_sync(iscsi[client], 0, offset / 512, data,
						 length, 512, 0, 0, 0, 0, 0)));
}

static bool
scsi_read_is(unsigned client, const uint8_t *want, uint32_t length, uint64_t offset)
{
	struct scsi_task *task = must_scsi(iscsi[client],
		iscsi_read16_sync(iscsi[client], 0, offset / 512, length, 512, 0, 0, 0, 0, 0));
	bool same = task->datain.size == (int)length && !memcmp(task->datain.data, want, length);

	scsi_free_scsi_task(task);
	return same;
}

static void
make_data(uint8_t *data, uint32_t length)
{
	uint64_t word;

	for (uint32_t i = 0; i < length; i += 8) {
		word = random_next(&rng);
		memcpy(data + i, &word, 8);
	}
}

/* Half of the rounds stay on the same few blocks, so that old data is always there to be seen
 * wrongly. */
static uint64_t
choose_range(uint32_t *length)
{
	uint64_t blocks = random_next(&rng) & 1 ? 64 : SIZE / 512;

	*length = (uint32_t)(1 + random_next(&rng) % (random_next(&rng) & 3 ? 8 : MAX_LEN / 512)) *
		  512;
	if (*length > blocks * 512)
		*length = (uint32_t)blocks * 512;
	return random_next(&rng) % (blocks - *length / 512 + 1) * 512;
}

static void
test_volume(const char *volume)
{
	static uint8_t data[MAX_LEN], have[MAX_LEN];
	unsigned stale_nbd = 0, stale_iscsi = 0, stale_same = 0;

	connect_clients(volume);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned writer = round & 1, reader = round >> 1 & 1;
		uint32_t length;
		uint64_t offset = choose_range(&length);

		make_data(data, length);
		scsi_write(writer, data, length, offset);
		must_nbd(nbd_pread(nbd[reader], have, length, offset, 0));
		stale_nbd += memcmp(data, have, length) != 0;

		offset = choose_range(&length);
		make_data(data, length);
		must_nbd(nbd_pwrite(nbd[writer], data, length, offset, 0));
		stale_iscsi += !scsi_read_is(reader, data, length, offset);
		must_nbd(nbd_pread(nbd[!writer], have, length, offset, 0));
		stale_same += memcmp(data, have, length) != 0;

		/* Zeroes and discards are writes too. */
		if (round % 8 == 0) {
			memset(data, 0, length);
			must_nbd(nbd_zero(nbd[writer], length, offset, 0));
			stale_iscsi += !scsi_read_is(reader, data, length, offset);
		}
	}
	disconnect_clients();
	tap_ok(!stale_nbd, "%s: %u of %u reads by NBD missed what iSCSI wrote", volume, stale_nbd,
		ROUNDS);
	tap_ok(!stale_iscsi, "%s: %u reads by iSCSI missed what NBD wrote", volume, stale_iscsi);
	tap_ok(!stale_same, "%s: %u reads by NBD missed what another connection wrote", volume,
		stale_same);
}

int
main(void)
{
	char file[160];
	const char *args[] = {"disk0=memory:16M", file, NULL};

	server_prepare(&server);
	snprintf(file, sizeof(file), "web=file:%s/web.img,size=16M", server.dir);
	server_start(&server, args);
	rng = test_seed();
	test_volume("disk0");
	test_volume("web");
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
