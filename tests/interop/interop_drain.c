/*
 * A server that is told to end, or killed, with writes in flight: every write that was replied to
 * is in the file (O2), and SIGTERM is an orderly end.
 */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "wire.h"

#define BLOCK  4096
#define BLOCKS 65536
#define DEPTH  16

/* Each block is written once, in a shuffled order, with what only it holds. */
struct load {
	uint64_t salt;
	unsigned sent, replied, errors;
	bool acknowledged[BLOCKS];
	uint8_t data[DEPTH][BLOCK];
};

static struct server server;
static struct load load;

static void
fill_block(uint8_t *data, uint64_t salt, uint64_t block)
{
	uint64_t state = salt ^ block * 0x100000001b3, word;

	for (unsigned i = 0; i < BLOCK; i += 8) {
		word = random_next(&state);
		memcpy(data + i, &word, 8);
	}
}

static bool
next_write(void *arg, struct wire_io *io)
{
	uint64_t block;

	(void)arg;
	if (load.sent == BLOCKS)
		return false;
	block = (uint64_t)load.sent++ * 40503 % BLOCKS; /* odd: visits each once */
	fill_block(load.data[io->slot], load.salt, block);
	io->write = true;
	io->offset = block * BLOCK;
	io->length = BLOCK;
	io->data = load.data[io->slot];
	return true;
}

static void
write_done(void *arg, const struct wire_io *io)
{
	(void)arg;
	if (io->error)
		load.errors++;
	else
		load.acknowledged[io->offset / BLOCK] = true;
	__atomic_store_n(&load.replied, load.replied + 1, __ATOMIC_RELAXED);
}

static void *
run_writes(void *arg)
{
	struct wire_load run = {DEPTH, true, next_write, write_done, NULL};

	wire_run(arg, &run); /* ends by the connection's end */
	return NULL;
}

static unsigned
count_missing(const char *path, unsigned *acknowledged)
{
	uint8_t want[BLOCK], have[BLOCK];
	unsigned missing = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		tap_bail("%s", path);
	*acknowledged = 0;
	for (uint64_t block = 0; block < BLOCKS; block++) {
		if (!load.acknowledged[block])
			continue;
		++*acknowledged;
		fill_block(want, load.salt, block);
		if (pread(fd, have, BLOCK, (off_t)(block * BLOCK)) != BLOCK ||
			memcmp(want, have, BLOCK))
			missing++;
	}
	close(fd);
	return missing;
}

static void
test_end(enum wire_protocol protocol, int sig, const char *name)
{
	char path[128], volume[160];
	const char *args[] = {volume, NULL};
	unsigned acknowledged, missing;
	struct wire wire;
	pthread_t thread;
	int rc, status;

	snprintf(path, sizeof(path), "%s/disk.img", server.dir);
	unlink(path);
	snprintf(volume, sizeof(volume), "disk0=file:%s,size=256M", path);
	memset(&load, 0, sizeof(load));
	load.salt = test_seed();
	server_start(&server, args);
	rc = wire_open(&wire, protocol, protocol == WIRE_NBD ? server.nbd : server.iscsi,
		protocol == WIRE_NBD ? "disk0" : "iqn.2026-11.localhost.slabd:disk0");
	if (rc)
		tap_bail("open: %s", strerror(-rc));
	pthread_create(&thread, NULL, run_writes, &wire);
	for (unsigned waits = 0; waits < 30000; waits++) {
		if (__atomic_load_n(&load.replied, __ATOMIC_RELAXED) >= 2000)
			break;
		sleep_ms(1);
	}
	status = server_stop(&server, sig);
	pthread_join(thread, NULL);
	wire_close(&wire);
	if (sig == SIGTERM)
		tap_ok(status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0,
			"%s: exits 0 with writes in flight (wait status %#x)", name,
			(unsigned)status);
	else
		tap_ok(status >= 0 && WIFSIGNALED(status), "%s: killed", name);
	missing = count_missing(path, &acknowledged);
	tap_ok(acknowledged >= 1000 && acknowledged < BLOCKS && !missing,
		"%s: %u writes replied to, %u of them not in the file", name, acknowledged,
		missing);
}

int
main(void)
{
	server_prepare(&server);
	test_end(WIRE_NBD, SIGTERM, "nbd, SIGTERM");
	test_end(WIRE_ISCSI, SIGTERM, "iscsi, SIGTERM");
	test_end(WIRE_NBD, SIGKILL, "nbd, SIGKILL");
	test_end(WIRE_ISCSI, SIGKILL, "iscsi, SIGKILL");
	return tap_done();
}
