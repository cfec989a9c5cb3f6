/* Volumes come and go by slabctl while verified I/O runs on others over both protocols. */
#include "config.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "canary.h"
#include "clients.h"
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

/* What is removed is closed when that is answered: its file can be had again. */
static void
add_again(void)
{
	char words[256], out[4096];
	unsigned good = 0;

	snprintf(words, sizeof(words), "add again=file:%s/again.img,size=8M", server.dir);
	for (unsigned i = 0; i < 20; i++) {
		must_ctl(words);
		if (i == 0)
			words[strlen(words) - strlen(",size=8M")] = '\0';
		good += server_ctl(&server, out, sizeof(out), "remove again") == 0;
	}
	tap_ok(good == 20, "a file was added and removed 20 times without a pause");
}

static void *
remove_slow(void *arg)
{
	char out[4096];

	*(int *)arg = server_ctl(&server, out, sizeof(out), "remove slow --force");
	return NULL;
}

static int
on_written(void *arg, int *error)
{
	(void)arg;
	(void)error;
	return 1;
}

/* A removal that waits for a write: until it is over its name is nobody's. */
static void
remove_twice(void)
{
	static const char data[512] = {1};
	char out[4096] = "";
	struct nbd_handle *nbd;
	pthread_t thread;
	int rc = -1;

	must_ctl("add 'slow=memory:8M,fault=write late=on latency=4s'");
	nbd = client_nbd(&server, "slow");
	nbd_aio_pwrite(
		nbd, data, sizeof(data), 0, (nbd_completion_callback){.callback = on_written}, 0);
	for (unsigned i = 0; i < 500 && !strstr(out, "slow"); i++)
		server_ctl(&server, out, sizeof(out), "connections");
	pthread_create(&thread, NULL, remove_slow, &rc);
	/* Until it has begun it is refused because the volume is in use. */
	for (unsigned i = 0; i < 500; i++) {
		server_ctl(&server, out, sizeof(out), "remove slow");
		if (!strstr(out, "in use"))
			break;
	}
	tap_ok(strstr(out, "is being removed") != NULL, "a second remove: %.*s",
		(int)strcspn(out, "\n"), out);
	server_ctl(&server, out, sizeof(out), "add slow=memory:8M");
	tap_ok(strstr(out, "is being removed") != NULL, "another of that name: %.*s",
		(int)strcspn(out, "\n"), out);
	pthread_join(thread, NULL);
	tap_ok(rc == 0, "the first remove is done");
	must_ctl("add slow=memory:8M");
	must_ctl("remove slow");
	tap_ok(true, "and the name is free");
	nbd_close(nbd);
}

int
main(void)
{
	const char *args[] = {"disk0=memory:64M", "disk1=memory:64M", "--allow-faults", NULL};
	unsigned before, after = 0;

	server_prepare(&server);
	server_start(&server, args);
	canary_start(&server, "disk0", "disk1");
	sleep_ms(200);
	before = server_descriptors(&server);
	add_and_remove();
	test_refused();
	add_again();
	remove_twice();
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
