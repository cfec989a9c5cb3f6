/*
 * What an idle NBD connection costs the server, after negotiation: resident memory at 900 and at
 * 100. R04 allows a stranger 16 KiB.
 */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "harness.h"
#include "wire.h"

#define FEW  100
#define MANY 900

static struct server server;
static struct wire wires[MANY];

static unsigned
open_up_to(unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		int rc = wire_open(&wires[i], WIRE_NBD, server.nbd, "disk0");

		if (rc) {
			tap_note("connection %u: %s", i + 1, strerror(-rc));
			return i;
		}
		/* Idle connections do not need the client's buffers. */
		free(wires[i].in);
		free(wires[i].out);
		wires[i].in = wires[i].out = NULL;
	}
	return to;
}

/* An idle loop gives its magazines back after a second. */
static uint64_t
settled_rss(void)
{
	sleep_ms(2500);
	return server_rss(&server);
}

int
main(void)
{
	const char *args[] = {"disk0=memory:1G", NULL};
	struct rlimit files;
	uint64_t few, many;
	double each;

	if (sanitized())
		tap_skip_all(
			"measures resident memory; the %s sanitizer adds its own", sanitizers());
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur < MANY + 64)
		tap_skip_all("needs %u file descriptors, the limit is %llu", MANY + 64,
			(unsigned long long)files.rlim_cur);
	server_prepare(&server);
	server_start(&server, args);
	tap_ok(open_up_to(0, FEW) == FEW, "%u connections", FEW);
	few = settled_rss();
	tap_ok(open_up_to(FEW, MANY) == MANY, "%u connections", MANY);
	many = settled_rss();
	each = ((double)many - (double)few) / (MANY - FEW);
	tap_ok(each < 4096, "an idle connection costs %.0f bytes of resident memory, under 4096",
		each);
	tap_note("resident: %llu KiB at %u, %llu KiB at %u connections",
		(unsigned long long)few / 1024, FEW, (unsigned long long)many / 1024, MANY);
	for (unsigned i = 0; i < MANY; i++)
		wire_close(&wires[i]);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
