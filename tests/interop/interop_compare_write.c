/*
 * COMPARE AND WRITE against NBD: iSCSI sessions increment a counter by comparing and writing its
 * whole block, while NBD clients write only their own field of that block, and the block beside it.
 * At the end the counter is exact and no field has lost its last write that was replied to.
 */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients.h"

#define SESSIONS 2
#define WRITERS  2
#define BLOCK    512

static struct server server;
static const char *volume;
static unsigned increments; /* of each session */
static atomic_bool over;

struct session {
	pthread_t thread;
	struct iscsi_context *iscsi;
	unsigned done, retries;
};

struct writer {
	pthread_t thread;
	struct nbd_handle *nbd;
	unsigned index;
	uint64_t last; /* replied to */
	bool failed;
};

static size_t
field_of(unsigned index)
{
	return 64 + 100 * index; /* across 16-byte lines, at odd places */
}

/* One try; true when the counter is one more. */
static bool
increment(struct session *session, bool *failed)
{
	unsigned char data[2 * BLOCK];
	struct scsi_task *task;
	uint64_t counter;
	bool done, miscompare;

	task = iscsi_read10_sync(session->iscsi, 0, 0, BLOCK, BLOCK, 0, 0, 0, 0, 0);
	*failed = !task || task->status != SCSI_STATUS_GOOD || task->datain.size != BLOCK;
	if (!*failed)
		memcpy(data, task->datain.data, BLOCK);
	if (task)
		scsi_free_scsi_task(task);
	if (*failed)
		return false;
	memcpy(data + BLOCK, data, BLOCK);
	memcpy(&counter, data, sizeof(counter));
	counter++;
	memcpy(data + BLOCK, &counter, sizeof(counter));
	task = iscsi_compareandwrite_sync(
		session->iscsi, 0, 0, data, sizeof(data), BLOCK, 0, 0, 0, 0, 0);
	done = task && task->status == SCSI_STATUS_GOOD;
	miscompare = task && task->status == SCSI_STATUS_CHECK_CONDITION &&
		     task->sense.key == SCSI_SENSE_MISCOMPARE;
	*failed = !done && !miscompare;
	if (task)
		scsi_free_scsi_task(task);
	return done;
}

static void *
run_session(void *arg)
{
	struct session *session = arg;
	bool failed = false;

	while (session->done < increments && !failed) {
		if (increment(session, &failed))
			session->done++;
		else
			session->retries++;
	}
	return NULL;
}

static void *
run_writer(void *arg)
{
	struct writer *writer = arg;
	char beside[BLOCK];

	while (!atomic_load(&over) && !writer->failed) {
		uint64_t value = writer->last + 1;

		memset(beside, (int)(value & 0xff), sizeof(beside));
		writer->failed = nbd_pwrite(writer->nbd, &value, sizeof(value),
					 field_of(writer->index), 0) < 0 ||
				 nbd_pwrite(writer->nbd, beside, sizeof(beside),
					 BLOCK * (1 + writer->index), 0) < 0;
		if (!writer->failed)
			writer->last = value;
	}
	return NULL;
}

static void
test_race(const char *name)
{
	struct session sessions[SESSIONS] = {0};
	struct writer writers[WRITERS] = {0};
	unsigned char block[BLOCK * (1 + WRITERS)];
	uint64_t counter, field, total = 0;
	unsigned retries = 0;
	struct nbd_handle *nbd;

	volume = name;
	atomic_store(&over, false);
	for (unsigned i = 0; i < SESSIONS; i++) {
		char initiator[64];

		snprintf(initiator, sizeof(initiator), "iqn.2026-11.localhost.session%u", i);
		sessions[i].iscsi = client_iscsi(&server, volume, initiator);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i].index = i;
		writers[i].nbd = client_nbd(&server, volume);
		pthread_create(&writers[i].thread, NULL, run_writer, &writers[i]);
	}
	for (unsigned i = 0; i < SESSIONS; i++)
		pthread_create(&sessions[i].thread, NULL, run_session, &sessions[i]);
	for (unsigned i = 0; i < SESSIONS; i++) {
		pthread_join(sessions[i].thread, NULL);
		total += sessions[i].done;
		retries += sessions[i].retries;
		client_iscsi_close(sessions[i].iscsi);
	}
	atomic_store(&over, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(writers[i].thread, NULL);
		nbd_close(writers[i].nbd);
	}
	nbd = client_nbd(&server, volume);
	if (nbd_pread(nbd, block, sizeof(block), 0, 0) < 0)
		tap_bail("reading the result: %s", nbd_get_error());
	nbd_close(nbd);
	memcpy(&counter, block, sizeof(counter));
	tap_note("%s: %llu increments, %u of them tried again", name, (unsigned long long)total,
		retries);
	tap_ok(total == (uint64_t)SESSIONS * increments && counter == total,
		"%s: the counter is exact", name);
	for (unsigned i = 0; i < WRITERS; i++) {
		memcpy(&field, block + field_of(i), sizeof(field));
		tap_ok(!writers[i].failed && writers[i].last > 0 && field == writers[i].last,
			"%s: NBD client %u lost none of %llu writes", name, i,
			(unsigned long long)writers[i].last);
		tap_ok(block[BLOCK * (1 + i)] == (writers[i].last & 0xff) &&
				block[BLOCK * (2 + i) - 1] == (writers[i].last & 0xff),
			"%s: nor in the block beside it", name);
	}
}

int
main(void)
{
	const char *count = getenv("SLABD_INCREMENTS");
	const char *sanitizers = getenv("SLABD_SANITIZERS");
	bool slow = sanitizers && *sanitizers && strcmp(sanitizers, "no") != 0;
	char file[256];
	const char *args[] = {"memory=memory:16M", file, NULL};

	increments = count ? (unsigned)strtoul(count, NULL, 10) : slow ? 1000 : 50000;
	server_prepare(&server);
	snprintf(file, sizeof(file), "file=file:%s/disk,size=16M", server.dir);
	server_start(&server, args);
	test_race("memory");
	increments /= 10;
	test_race("file");
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
