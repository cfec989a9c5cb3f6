#include "config.h"

#include "canary.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients.h"

#define BLOCK  4096
#define BLOCKS 4096

struct canary {
	const char *name;
	pthread_t thread;
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
	canaries[0].client = client_nbd(server, nbd_volume);
	canaries[1].client = client_iscsi(server, iscsi_volume, "canary");
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
	client_iscsi_close(canaries[1].client);
}
