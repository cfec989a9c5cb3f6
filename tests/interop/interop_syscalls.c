/*
 * The server's system calls per request, counted by strace, with a client that sends what is due in
 * one write and, for comparison, one that writes each request alone.
 */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "wire.h"

#define REQUESTS 100000
#define DEPTH    32
#define SIZE     (64 * 1024 * 1024)

struct load {
	uint64_t random, sent, done, errors;
};

static struct server server;

static bool
next_read(void *arg, struct wire_io *io)
{
	struct load *load = arg;

	if (load->sent == REQUESTS)
		return false;
	load->sent++;
	io->length = 4096;
	io->offset = random_next(&load->random) % (SIZE / 4096) * 4096;
	return true;
}

static void
read_done(void *arg, const struct wire_io *io)
{
	struct load *load = arg;

	load->done++;
	load->errors += io->error != 0;
}

static pid_t
start_strace(const char *output)
{
	char target[16];
	pid_t pid;

	snprintf(target, sizeof(target), "%d", (int)server.pid);
	pid = fork();
	if (pid < 0)
		tap_bail("fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!freopen("/dev/null", "w", stderr))
			_exit(127);
		execlp("strace", "strace", "-f", "-q", "-c", "-o", output, "-p", target,
			(char *)NULL);
		_exit(127);
	}
	return pid;
}

/* strace is there once every thread of the server has it as its tracer. */
static bool
traced(void)
{
	char path[64], line[256];
	int tracer = 0;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)server.pid);
	status = fopen(path, "re");
	while (status && fgets(line, sizeof(line), status) &&
		sscanf(line, "TracerPid: %d", &tracer) != 1)
		;
	if (status)
		fclose(status);
	return tracer != 0;
}

/* The calls column of the total line; 0 where there is none. */
static unsigned long
read_total(const char *output)
{
	unsigned long calls = 0;
	char line[512];
	FILE *file = fopen(output, "re");

	while (file && fgets(line, sizeof(line), file)) {
		double percent, seconds;
		unsigned long usecs, count;

		if (strstr(line, "total") &&
			sscanf(line, "%lf %lf %lu %lu", &percent, &seconds, &usecs, &count) == 4)
			calls = count;
	}
	if (file)
		fclose(file);
	return calls;
}

/* Calls per request; below 0 where it could not be counted. */
static double
count_calls(enum wire_protocol protocol, bool batch)
{
	struct load load = {.random = 7};
	struct wire_load run = {DEPTH, batch, next_read, read_done, &load};
	struct wire wire;
	char output[128];
	unsigned long calls;
	pid_t strace;
	int rc, status;

	snprintf(output, sizeof(output), "%s/strace", server.dir);
	unlink(output);
	rc = wire_open(&wire, protocol, protocol == WIRE_NBD ? server.nbd : server.iscsi,
		protocol == WIRE_NBD ? "disk0" : "iqn.2026-11.localhost.slabd:disk0");
	if (rc)
		tap_bail("open: %s", strerror(-rc));
	strace = start_strace(output);
	for (unsigned tries = 0; !traced() && tries < 500; tries++)
		sleep_ms(10);
	if (!traced()) {
		kill(strace, SIGKILL);
		waitpid(strace, NULL, 0);
		wire_close(&wire);
		return -1;
	}
	sleep_ms(200); /* the other threads */
	rc = wire_run(&wire, &run);
	kill(strace, SIGINT);
	waitpid(strace, &status, 0);
	wire_close(&wire);
	calls = read_total(output);
	if (rc || load.errors || load.done != REQUESTS || !calls)
		tap_bail("%llu of %u reads done, %llu failed, %lu calls counted: %s",
			(unsigned long long)load.done, REQUESTS, (unsigned long long)load.errors,
			calls, strerror(-rc));
	return (double)calls / (double)load.done;
}

static void
test_protocol(enum wire_protocol protocol, const char *name)
{
	double batched = count_calls(protocol, true), alone;

	if (batched < 0) {
		tap_skip("strace cannot attach here (not installed, or ptrace is not permitted)",
			"%s: system calls per request", name);
		return;
	}
	alone = count_calls(protocol, false);
	tap_ok(batched < 0.2, "%s: %.3f system calls per 4 KiB read at queue depth %u, under 0.2",
		name, batched, DEPTH);
	tap_note("%s: %.3f with a client that writes each request alone", name, alone);
}

int
main(void)
{
	const char *args[] = {"disk0=memory:64M", NULL};

	if (sanitized())
		tap_skip_all("counts system calls; the %s sanitizer makes its own", sanitizers());
	server_prepare(&server);
	server_start(&server, args);
	test_protocol(WIRE_NBD, "nbd");
	test_protocol(WIRE_ISCSI, "iscsi");
	return tap_done();
}
