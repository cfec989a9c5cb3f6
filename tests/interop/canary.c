#include "config.h"

#include "canary.h"

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK  4096
#define BLOCKS 4096

struct canary {
	const char *name;
	pthread_t thread;
	char address[256];
	uint64_t base; /* of its half, bytes */
	uint64_t random;
	uint64_t operations;
	bool broken, wrong;
	char why[256];
	uint32_t generations[BLOCKS]; /* 0: never written, reads as zeroes */
	bool (*io)(struct canary *canary, bool write, uint64_t offset, uint8_t *data);
	void *client;
};

static struct canary canaries[2];
static atomic_bool stopping;

static void
fill_block(uint8_t *data, uint64_t offset, uint32_t generation)
{
	uint64_t state = offset << 20 ^ generation, word;

	memset(data, 0, BLOCK);
	for (unsigned i = 0; generation && i < BLOCK; i += 8) {
		word = random_next(&state);
		memcpy(data + i, &word, 8);
	}
}

static bool
nbd_io(struct canary *canary, bool write, uint64_t offset, uint8_t *data)
{
	struct nbd_handle *nbd = canary->client;
	int rc = write ? nbd_pwrite(nbd, data, BLOCK, offset, 0)
		       : nbd_pread(nbd, data, BLOCK, offset, 0);

	if (rc < 0)
		snprintf(canary->why, sizeof(canary->why), "%s", nbd_get_error());
	return rc == 0;
}

static bool
iscsi_io(struct canary *canary, bool write, uint64_t offset, uint8_t *data)
{
	struct iscsi_context *iscsi = canary->client;
	struct scsi_task *task;
	bool good;

	if (write)
		task = iscsi_write16_sync(iscsi, 0, offset / 512, data, BLOCK, 512, 0, 0, 0, 0, 0);
	else
		task = iscsi_read16_sync(iscsi, 0, offset / 512, BLOCK, 512, 0, 0, 0, 0, 0);
	good = task && task->status == SCSI_STATUS_GOOD && (write || task->datain.size == BLOCK);
	if (!good)
		snprintf(canary->why, sizeof(canary->why), "%s", iscsi_get_error(iscsi));
	else if (!write)
		memcpy(data, task->datain.data, BLOCK);
	if (task)
		scsi_free_scsi_task(task);
	return good;
}

static void *
run_canary(void *arg)
{
	uint8_t data[BLOCK], want[BLOCK];
	struct canary *canary = arg;

	while (!atomic_load(&stopping) && !canary->broken && !canary->wrong) {
		uint64_t block = random_next(&canary->random) % BLOCKS;
		uint64_t offset = canary->base + block * BLOCK;
		bool write = random_next(&canary->random) & 1;

		if (write)
			fill_block(data, offset, ++canary->generations[block]);
		if (!canary->io(canary, write, offset, data)) {
			canary->broken = true;
			break;
		}
		fill_block(want, offset, canary->generations[block]);
		if (!write && memcmp(data, want, BLOCK)) {
			canary->wrong = true;
			snprintf(canary->why, sizeof(canary->why), "offset %llu",
				(unsigned long long)offset);
		}
		canary->operations++;
	}
	return NULL;
}

static void
open_nbd(struct canary *canary, const struct server *server, const char *volume)
{
	struct nbd_handle *nbd = nbd_create();

	snprintf(canary->address, sizeof(canary->address), "nbd://%s/%s", server->nbd, volume);
	if (!nbd || nbd_connect_uri(nbd, canary->address) < 0)
		tap_bail("%s: %s", canary->address, nbd_get_error());
	canary->client = nbd;
}

static void
open_iscsi(struct canary *canary, const struct server *server, const char *volume)
{
	struct iscsi_context *iscsi = iscsi_create_context("iqn.2026-11.localhost.canary");

	snprintf(
		canary->address, sizeof(canary->address), "iqn.2026-11.localhost.slabd:%s", volume);
	if (!iscsi || iscsi_set_targetname(iscsi, canary->address) ||
		iscsi_set_session_type(iscsi, ISCSI_SESSION_NORMAL) ||
		iscsi_set_header_digest(iscsi, ISCSI_HEADER_DIGEST_NONE))
		tap_bail("libiscsi");
	/* A lost connection is what the canary is there to see. */
	iscsi_set_noautoreconnect(iscsi, 1);
	if (iscsi_full_connect_sync(iscsi, server->iscsi, 0))
		tap_bail("%s: %s", canary->address, iscsi_get_error(iscsi));
	canary->client = iscsi;
}

void
canary_start(const struct server *server, const char *nbd_volume, const char *iscsi_volume)
{
	memset(canaries, 0, sizeof(canaries));
	atomic_store(&stopping, false);
	canaries[0] = (struct canary){.name = "nbd", .io = nbd_io, .random = test_seed()};
	canaries[1] = (struct canary){.name = "iscsi",
		.io = iscsi_io,
		.base = (uint64_t)BLOCK * BLOCKS,
		.random = canaries[0].random + 1};
	open_nbd(&canaries[0], server, nbd_volume);
	open_iscsi(&canaries[1], server, iscsi_volume);
	for (unsigned i = 0; i < 2; i++)
		if (pthread_create(&canaries[i].thread, NULL, run_canary, &canaries[i]))
			tap_bail("pthread_create");
}

void
canary_stop(void)
{
	atomic_store(&stopping, true);
	for (unsigned i = 0; i < 2; i++) {
		struct canary *canary = &canaries[i];

		pthread_join(canary->thread, NULL);
		tap_ok(canary->operations > 0 && !canary->broken && !canary->wrong,
			"canary over %s: %llu requests%s%s", canary->name,
			(unsigned long long)canary->operations,
			canary->broken  ? ", then one failed: "
			: canary->wrong ? ", then a read saw something else: "
					: ", all good",
			canary->why);
	}
	nbd_close(canaries[0].client);
	iscsi_logout_sync(canaries[1].client);
	iscsi_destroy_context(canaries[1].client);
}
