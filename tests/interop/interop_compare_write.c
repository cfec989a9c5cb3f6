/*
 * COMPARE AND WRITE against NBD: iSCSI sessions increment counters by comparing and writing their
 * whole blocks, while NBD clients write only their own field of each block, and the block beside it.
 * At the end the counters are exact and no field has lost its last write that was replied to.
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
#define COUNTERS 4             /* blocks with one, each followed by ... */
#define STRIDE   (1 + WRITERS) /* ... a block of each writer */

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
	uint64_t last[COUNTERS]; /* replied to */
	uint64_t writes;
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
	uint32_t lba = session->done % COUNTERS * STRIDE;
	unsigned char data[2 * BLOCK];
	struct scsi_task *task;
	uint64_t counter;
	bool done, miscompare;

	task = iscsi_read10_sync(session->iscsi, 0, lba, BLOCK, BLOCK, 0, 0, 0, 0, 0);
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
		session->iscsi, 0, lba, data, sizeof(data), BLOCK, 0, 0, 0, 0, 0);
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
		unsigned i = (unsigned)(writer->writes % COUNTERS);
		uint64_t at = (uint64_t)i * STRIDE * BLOCK, value = writer->last[i] + 1;

		memset(beside, (int)(value & 0xff), sizeof(beside));
		writer->failed = nbd_pwrite(writer->nbd, &value, sizeof(value),
					 at + field_of(writer->index), 0) < 0 ||
				 nbd_pwrite(writer->nbd, beside, sizeof(beside),
					 at + BLOCK * (1 + writer->index), 0) < 0;
		if (!writer->failed) {
			writer->last[i] = value;
			writer->writes++;
		}
	}
	return NULL;
}

/* What one writer has in one counter's blocks. */
static bool
is_kept(const struct writer *writer, unsigned counter, const unsigned char *blocks)
{
	const unsigned char *beside = blocks + BLOCK * (1 + writer->index);
	uint64_t field;

	memcpy(&field, blocks + field_of(writer->index), sizeof(field));
	for (unsigned i = 0; i < BLOCK; i++) {
		if (beside[i] != (writer->last[counter] & 0xff))
			return false;
	}
	return field == writer->last[counter];
}

static void
check_result(const struct session *sessions, const struct writer *writers)
{
	static unsigned char blocks[COUNTERS][BLOCK * STRIDE];
	uint64_t counter, sum = 0, total = 0;
	struct nbd_handle *nbd = client_nbd(&server, volume);
	unsigned retries = 0;

	if (nbd_pread(nbd, blocks, sizeof(blocks), 0, 0) < 0)
		tap_bail("reading the result: %s", nbd_get_error());
	nbd_close(nbd);
	for (unsigned i = 0; i < SESSIONS; i++) {
		total += sessions[i].done;
		retries += sessions[i].retries;
	}
	for (unsigned i = 0; i < COUNTERS; i++) {
		memcpy(&counter, blocks[i], sizeof(counter));
		sum += counter;
	}
	tap_note("%s: %llu increments, %u of them tried again", volume, (unsigned long long)total,
		retries);
	tap_ok(total == (uint64_t)SESSIONS * increments && sum == total,
		"%s: the counters are exact", volume);
	for (unsigned i = 0; i < WRITERS; i++) {
		bool kept = !writers[i].failed && writers[i].writes > COUNTERS;

		for (unsigned j = 0; j < COUNTERS; j++)
			kept = kept && is_kept(&writers[i], j, blocks[j]);
		tap_ok(kept, "%s: NBD client %u lost none of %llu writes, nor in the blocks beside",
			volume, i, (unsigned long long)writers[i].writes);
	}
}

static void
test_race(const char *name, unsigned total)
{
	struct session sessions[SESSIONS] = {0};
	struct writer writers[WRITERS] = {0};

	volume = name;
	increments = total / SESSIONS;
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
		client_iscsi_close(sessions[i].iscsi);
	}
	atomic_store(&over, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(writers[i].thread, NULL);
		nbd_close(writers[i].nbd);
	}
	check_result(sessions, writers);
}

int
main(void)
{
	const char *count = getenv("SLABD_INCREMENTS");
	const char *sanitizers = getenv("SLABD_SANITIZERS");
	bool slow = sanitizers && *sanitizers && strcmp(sanitizers, "no") != 0;
	char file[256];
	const char *args[] = {"memory=memory:16M", file, NULL};
	/* SLABD_INCREMENTS: of the memory volume's counters together. */
	unsigned usual = slow ? 2000 : 100000;
	unsigned total = count ? (unsigned)strtoul(count, NULL, 10) : usual;
	server_prepare(&server);
	snprintf(file, sizeof(file), "file=file:%s/disk,size=16M", server.dir);
	server_start(&server, args);
	test_race("memory", total);
	test_race("file", total < usual ? total : usual);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
