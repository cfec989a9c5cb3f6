/* Volumes come and go by slabctl while verified I/O runs on others over both protocols. */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "canary.h"
#include "harness.h"
#include "wire.h"

#define VOLUMES 50

static struct server server;

static void
must_ctl(const char *words)
{
	char out[8192];
	int rc = server_ctl(&server, out, sizeof(out), words);

	if (rc)
		tap_bail("slabctl %s: exit status %d: %s", words, rc, out);
}

static unsigned
count_volumes(void)
{
	char out[65536];

	if (server_ctl(&server, out, sizeof(out), "volumes | tail -n +2 | grep -c '^[a-z0-9]'"))
		tap_bail("slabctl volumes: %s", out);
	return (unsigned)atoi(out);
}

/* Opens the volume by both protocols. True when it is there in both; *half when in one only. */
static bool
is_served(const char *name, bool *half)
{
	char target[128];
	struct wire wire;
	bool nbd, iscsi;

	snprintf(target, sizeof(target), "iqn.2026-11.localhost.slabd:%s", name);
	nbd = wire_open(&wire, WIRE_NBD, server.nbd, name) == 0;
	if (nbd)
		wire_close(&wire);
	iscsi = wire_open(&wire, WIRE_ISCSI, server.iscsi, target) == 0;
	if (iscsi)
		wire_close(&wire);
	*half = nbd != iscsi;
	return nbd && iscsi;
}

static void
add_and_remove(void)
{
	unsigned served = 0, gone = 0, halves = 0;
	char words[256], name[32];
	bool half;

	for (unsigned i = 0; i < VOLUMES; i++) {
		snprintf(name, sizeof(name), "extra-%u", i);
		if (i & 1)
			snprintf(words, sizeof(words), "add %s=file:%s/%s.img,size=8M", name,
				server.dir, name);
		else
			snprintf(words, sizeof(words), "add %s=memory:8M", name);
		must_ctl(words);
		served += is_served(name, &half);
		halves += half;
	}
	tap_ok(served == VOLUMES && !halves, "%u of %u added volumes are there by NBD and by iSCSI",
		served, VOLUMES);
	tap_ok(count_volumes() == VOLUMES + 2, "slabctl volumes shows them all");
	for (unsigned i = 0; i < VOLUMES; i++) {
		snprintf(name, sizeof(name), "extra-%u", i);
		snprintf(words, sizeof(words), "remove %s", name);
		must_ctl(words);
		gone += !is_served(name, &half);
		halves += half;
	}
	tap_ok(gone == VOLUMES && !halves, "%u of %u removed volumes are gone from both", gone,
		VOLUMES);
	tap_ok(count_volumes() == 2, "slabctl volumes shows the two that stayed");
}

static void
check_refused(const char *words, const char *what)
{
	char out[8192];
	int rc = server_ctl(&server, out, sizeof(out), words);

	tap_ok(rc == 1, "%s is refused: %.*s", what, (int)strcspn(out, "\n"), out);
}

static void
test_refused(void)
{
	check_refused("add disk0=memory:1M", "a name that is taken");
	check_refused("remove nobody", "removing what is not there");
	check_refused("add bad=nothing:1M", "an unknown backend");
}

int
main(void)
{
	const char *args[] = {"disk0=memory:64M", "disk1=memory:64M", NULL};
	unsigned before, after = 0;

	server_prepare(&server);
	server_start(&server, args);
	canary_start(&server, "disk0", "disk1");
	sleep_ms(200);
	before = server_descriptors(&server);
	add_and_remove();
	test_refused();
	for (unsigned waits = 0; waits < 100; waits++) {
		after = server_descriptors(&server);
		if (after <= before)
			break;
		sleep_ms(100);
	}
	tap_ok(after <= before, "descriptors come back: %u before, %u after", before, after);
	canary_stop();
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
