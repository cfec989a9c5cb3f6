/*
 * Snapshots of a memory volume under load. Each writer goes round its blocks and puts the round's number into
 * one after the other, each when the one before is replied to: at any instant the numbers do not rise along
 * the blocks, and no two differ by more than 1. A snapshot that shows anything else is none.
 */
#include "config.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients.h"

#define MIB       ((uint64_t)1 << 20)
#define FILLED    (128 * MIB)
#define BLOCK     20480 /* five pages: a torn one shows */
#define BLOCKS    12
#define WRITERS   4
#define SNAPSHOTS 12

static struct server server;
static atomic_bool stop;
static atomic_ulong rounds;

/* Each in a chunk of its own, a little before its end, and of another stripe than the next. */
static uint64_t
place_of(unsigned writer, unsigned block)
{
	return (block * WRITERS + writer) * 5 * MIB / 2 % FILLED + 65536 - BLOCK / 2;
}

static void
fill_block(uint64_t data[BLOCK / 8], uint64_t round)
{
	for (unsigned i = 0; i < BLOCK / 8; i++)
		data[i] = round;
}

static void *
run_writer(void *arg)
{
	unsigned writer = (unsigned)(uintptr_t)arg;
	struct nbd_handle *nbd = client_nbd(&server, "disk0");
	uint64_t data[BLOCK / 8];

	for (uint64_t round = 1; !atomic_load(&stop); round++) {
		fill_block(data, round);
		for (unsigned block = 0; block < BLOCKS; block++)
			if (nbd_pwrite(nbd, data, BLOCK, place_of(writer, block), 0) < 0)
				tap_bail("write: %s", nbd_get_error());
		atomic_fetch_add(&rounds, 1);
	}
	nbd_close(nbd);
	return NULL;
}

/* How many of the writers' blocks contradict each other, or themselves. */
static unsigned
count_contradictions(struct nbd_handle *nbd)
{
	uint64_t data[BLOCK / 8];
	unsigned wrong = 0;

	for (unsigned writer = 0; writer < WRITERS; writer++) {
		uint64_t first = 0, before = 0;

		for (unsigned block = 0; block < BLOCKS; block++) {
			if (nbd_pread(nbd, data, BLOCK, place_of(writer, block), 0) < 0)
				tap_bail("read: %s", nbd_get_error());
			for (unsigned i = 1; i < BLOCK / 8; i++)
				wrong += data[i] != data[0];
			if (block == 0)
				first = before = data[0];
			wrong += data[0] > before || data[0] + 1 < first;
			before = data[0];
		}
	}
	return wrong;
}

static uint64_t
memory_used(void)
{
	char out[65536];

	if (server_ctl(&server, out, sizeof(out), "--json status | jq .memory_used"))
		tap_bail("slabctl status: %s", out);
	return strtoull(out, NULL, 10);
}

static void
fill_volume(struct nbd_handle *nbd)
{
	static uint8_t data[MIB];

	memset(data, 0xab, sizeof(data));
	for (uint64_t at = 0; at < FILLED; at += MIB)
		if (nbd_pwrite(nbd, data, MIB, at, 0) < 0)
			tap_bail("write: %s", nbd_get_error());
	memset(data, 0, BLOCK);
	for (unsigned writer = 0; writer < WRITERS; writer++)
		for (unsigned block = 0; block < BLOCKS; block++)
			if (nbd_pwrite(nbd, data, BLOCK, place_of(writer, block), 0) < 0)
				tap_bail("write: %s", nbd_get_error());
}

static void
take_snapshots(void)
{
	char out[4096], words[64];
	unsigned refused = 0;

	for (unsigned i = 0; i < SNAPSHOTS; i++) {
		unsigned long before = atomic_load(&rounds);

		snprintf(words, sizeof(words), "snapshot disk0 s%u", i);
		refused += server_ctl(&server, out, sizeof(out), words) != 0;
		while (atomic_load(&rounds) < before + 4)
			sleep_ms(1);
	}
	tap_ok(refused == 0, "%u snapshots are taken under load", SNAPSHOTS);
}

static void
check_snapshots(void)
{
	static uint8_t data[4096];
	char name[16];

	for (unsigned i = 0; i < SNAPSHOTS; i++) {
		struct nbd_handle *nbd;
		unsigned wrong;

		snprintf(name, sizeof(name), "s%u", i);
		nbd = client_nbd(&server, name);
		wrong = count_contradictions(nbd);
		tap_ok(wrong == 0, "%s is what the volume was at one instant", name);
		/* Written to, it changes nobody else. */
		memset(data, (int)i, sizeof(data));
		if (nbd_pwrite(nbd, data, sizeof(data), 100 * MIB, 0) < 0)
			tap_bail("write: %s", nbd_get_error());
		nbd_close(nbd);
	}
}

int
main(void)
{
	const char *args[] = {"disk0=memory:256M", NULL};
	pthread_t threads[WRITERS];
	struct nbd_handle *nbd;
	uint64_t base, more;
	uint8_t byte = 0;
	char out[4096], words[64];

	server_prepare(&server);
	server_start(&server, args);
	nbd = client_nbd(&server, "disk0");
	fill_volume(nbd);
	base = memory_used();
	for (uintptr_t i = 0; i < WRITERS; i++)
		if (pthread_create(&threads[i], NULL, run_writer, (void *)i))
			tap_bail("pthread_create");
	take_snapshots();
	atomic_store(&stop, true);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	more = memory_used() - base;
	/* Each chunk that is written after a snapshot, at most: two for a block. */
	tap_ok(more <= SNAPSHOTS * WRITERS * BLOCKS * 2 * 65536 + 4 * MIB,
		"%u snapshots of %llu MiB cost %llu MiB more, what changed", SNAPSHOTS,
		(unsigned long long)(FILLED / MIB), (unsigned long long)(more / MIB));
	check_snapshots();
	tap_ok(nbd_pread(nbd, &byte, 1, 100 * MIB, 0) == 0 && byte == 0xab,
		"the origin is not changed by what its snapshots are");
	for (unsigned i = 0; i < SNAPSHOTS; i++) {
		snprintf(words, sizeof(words), "remove s%u --force", i);
		if (server_ctl(&server, out, sizeof(out), words))
			tap_bail("%s: %s", words, out);
	}
	more = memory_used() - base;
	tap_ok(more <= 16 * MIB, "without them it is as it was (%llu KiB more)",
		(unsigned long long)more / 1024);
	tap_ok(count_contradictions(nbd) == 0, "the origin is whole");
	nbd_close(nbd);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
