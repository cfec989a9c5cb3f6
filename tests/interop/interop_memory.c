/*
 * A memory volume of 1 PiB: it starts in under a second, costs what is written, and gives it back,
 * once chunk by chunk by NBD TRIM, once whole by a single SCSI command.
 */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients.h"

#define WRITES   25600
#define CHUNK    65536
#define PETABYTE ((uint64_t)1 << 50)
#define BACK_TO  (5 * 1024 * 1024)
#define BLOCK_BYTES \
	4096 /* of the volume: 65 UNMAP descriptors cover a PiB, 513 would at 512 bytes */

static struct server server;
static struct nbd_handle *nbd;
static struct iscsi_context *iscsi;
static uint64_t offsets[WRITES];

static void
fill_page(uint8_t *data, uint64_t offset)
{
	uint64_t state = offset, word;

	for (unsigned i = 0; i < 4096; i += 8) {
		word = random_next(&state);
		memcpy(data + i, &word, 8);
	}
}

static int
compare_offsets(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static unsigned
count_chunks(void)
{
	unsigned chunks = 0;
	uint64_t last = UINT64_MAX;

	qsort(offsets, WRITES, sizeof(offsets[0]), compare_offsets);
	for (unsigned i = 0; i < WRITES; i++) {
		if (offsets[i] / CHUNK != last)
			chunks++;
		last = offsets[i] / CHUNK;
	}
	return chunks;
}

/* The same offsets each time: "the same load". */
static void
write_load(void)
{
	uint8_t data[4096];

	for (unsigned i = 0; i < WRITES; i++) {
		fill_page(data, offsets[i]);
		if (nbd_pwrite(nbd, data, sizeof(data), offsets[i], 0) < 0)
			tap_bail("write at %llu: %s", (unsigned long long)offsets[i],
				nbd_get_error());
	}
}

static unsigned
count_wrong(bool trimmed)
{
	uint8_t have[4096], want[4096] = {0};
	unsigned wrong = 0;

	for (unsigned i = 0; i < WRITES; i += 7) {
		if (!trimmed)
			fill_page(want, offsets[i]);
		if (nbd_pread(nbd, have, sizeof(have), offsets[i], 0) < 0)
			tap_bail("read at %llu: %s", (unsigned long long)offsets[i],
				nbd_get_error());
		wrong += memcmp(have, want, sizeof(want)) != 0;
	}
	return wrong;
}

static void
trim_chunks(void)
{
	for (unsigned i = 0; i < WRITES; i++)
		if (nbd_trim(nbd, CHUNK, offsets[i] / CHUNK * CHUNK, 0) < 0)
			tap_bail("trim at %llu: %s", (unsigned long long)offsets[i],
				nbd_get_error());
}

static bool
is_good(struct scsi_task *task)
{
	bool good = task && task->status == SCSI_STATUS_GOOD;

	if (!good)
		tap_note("%s", iscsi_get_error(iscsi));
	if (task)
		scsi_free_scsi_task(task);
	return good;
}

static bool
unmap_all(void)
{
	struct unmap_list list[PETABYTE / BLOCK_BYTES / UINT32_MAX + 1];
	uint64_t lba = 0, blocks = PETABYTE / BLOCK_BYTES;
	int n = 0;

	for (; lba < blocks; n++) {
		list[n].lba = lba;
		list[n].num = blocks - lba < UINT32_MAX ? (uint32_t)(blocks - lba) : UINT32_MAX;
		lba += list[n].num;
	}
	tap_note("one UNMAP of %d descriptors", n);
	return is_good(iscsi_unmap_sync(iscsi, 0, 0, 0, list, n));
}

/* WRITE SAME(16), UNMAP=1, NUMBER OF BLOCKS 0: to the end (SBC-3 5.50), where the target takes
 * that. */
static bool
write_same_all(void)
{
	uint8_t zeroes[BLOCK_BYTES] = {0};

	tap_note("one WRITE SAME(16) of all blocks, UNMAP=1");
	return is_good(iscsi_writesame16_sync(iscsi, 0, 0, zeroes, sizeof(zeroes), 0, 0, 1, 0, 0));
}

/* Bytes of all caches but the chunks' and the I/O buffers': the index is among them. */
static uint64_t
index_bytes(void)
{
	char out[65536], *at = out, *end;
	uint64_t bytes = 0;

	if (server_ctl(&server, out, sizeof(out),
		    "--json slabs | jq -r '.. | objects | select(has(\"memory\")) | "
		    "\"\\(.cache // .name) \\(.memory)\"'"))
		tap_bail("slabctl slabs: %s", out);
	while (*at) {
		char name[64];
		unsigned long long memory;

		if (sscanf(at, "%63s %llu", name, &memory) == 2 && !strstr(name, "chunk") &&
			!strstr(name, "iobuf"))
			bytes += memory;
		end = strchr(at, '\n');
		if (!end)
			break;
		at = end + 1;
	}
	return bytes;
}

static uint64_t
settled_rss(void)
{
	sleep_ms(2500); /* idle loops give their magazines back after a second */
	return server_rss(&server);
}

static void
check_back(uint64_t base, const char *how)
{
	uint64_t rss = settled_rss();
	int64_t more = (int64_t)rss - (int64_t)base;

	tap_ok(more < BACK_TO, "%s: back to within 5 MiB (%+lld KiB) of %llu KiB", how,
		(long long)more / 1024, (unsigned long long)base / 1024);
	tap_ok(count_wrong(true) == 0, "%s: what was written reads as zeroes", how);
}

static void
check_start(const char *const *args)
{
	double best = 1e9;

	for (unsigned i = 0; i < 3; i++) {
		server_start(&server, args);
		if (server.start_seconds < best)
			best = server.start_seconds;
		if (i < 2)
			server_stop(&server, SIGTERM);
	}
	tap_ok(best < 1.0, "1 PiB is served after %.3f s (best of 3), under a second", best);
}

int
main(void)
{
	const char *args[] = {"disk0=memory:1P,block_size=4096", NULL};
	uint64_t random, base, loaded, index, limit;
	unsigned chunks;

	if (sanitized())
		tap_skip_all(
			"measures resident memory; the %s sanitizer adds its own", sanitizers());
	server_prepare(&server);
	check_start(args);
	nbd = client_nbd(&server, "disk0");
	iscsi = client_iscsi(&server, "disk0", "memory");
	random = test_seed();
	for (unsigned i = 0; i < WRITES; i++)
		offsets[i] = random_next(&random) % (PETABYTE / 4096) * 4096;
	chunks = count_chunks();

	write_load();
	trim_chunks();
	base = settled_rss();
	write_load();
	loaded = server_rss(&server);
	index = index_bytes();
	limit = ((uint64_t)chunks * CHUNK + index) / 100 * 110;
	tap_ok(loaded < limit, "%u writes touch %u chunks: %llu KiB resident, under %llu KiB",
		WRITES, chunks, (unsigned long long)loaded / 1024,
		(unsigned long long)limit / 1024);
	tap_note("index: %llu KiB, a page a write: %u KiB", (unsigned long long)index / 1024,
		WRITES * 4);
	tap_ok(count_wrong(false) == 0, "what was written is read");
	trim_chunks();
	check_back(base, "chunk by chunk");

	write_load();
	tap_ok(write_same_all() || unmap_all(), "the whole disk is unmapped by one command");
	check_back(base, "whole disk");
	nbd_close(nbd);
	client_iscsi_close(iscsi);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
