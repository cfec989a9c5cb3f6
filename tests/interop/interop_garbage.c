/*
 * Peers that send garbage, stop in the middle of a handshake or hang up at any byte lose their own
 * connection and nothing else (R01): a canary's requests all succeed (O5), and descriptors come
 * back (O6).
 */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bytes.h"
#include "canary.h"
#include "harness.h"
#include "wire.h"

#define RANDOM_PEERS 60

static struct server server;

static const char *
address_of(enum wire_protocol protocol)
{
	return protocol == WIRE_NBD ? server.nbd : server.iscsi;
}

/* Sends, then reads to the end of the connection. False when the server still holds it after `ms`.
 */
static bool
is_closed_after(int fd, const void *data, size_t length, int ms)
{
	double end = seconds_now() + ms / 1e3;
	uint8_t sink[4096];

	(void)!send(fd, data, length, MSG_NOSIGNAL);
	for (;;) {
		struct pollfd poller = {.fd = fd, .events = POLLIN};
		double left = end - seconds_now();

		if (left <= 0 || poll(&poller, 1, (int)(left * 1e3) + 1) <= 0)
			return false;
		if (recv(fd, sink, sizeof(sink), MSG_DONTWAIT) <= 0)
			return true;
	}
}

static int
must_connect(enum wire_protocol protocol)
{
	int fd = wire_connect(address_of(protocol));

	if (fd < 0)
		tap_bail("connect to %s: %s", address_of(protocol), strerror(-fd));
	return fd;
}

/* The server may wait for more of what random bytes seem to announce: hanging up must do. */
static void
send_random(enum wire_protocol protocol, uint64_t *random)
{
	uint8_t data[8192];

	for (unsigned peer = 0; peer < RANDOM_PEERS; peer++) {
		size_t length = 1 + random_next(random) % sizeof(data);
		int fd = must_connect(protocol);

		for (size_t i = 0; i < length; i++)
			data[i] = (uint8_t)random_next(random);
		is_closed_after(fd, data, length, 20);
		close(fd);
	}
}

/* A handshake that ends at every byte, by an orderly close and by a reset. */
static void
truncate_handshake(enum wire_protocol protocol, const uint8_t *hello, size_t length)
{
	const struct linger reset = {.l_onoff = 1};

	for (size_t cut = 0; cut <= length; cut++) {
		int fd = must_connect(protocol);

		(void)!send(fd, hello, cut, MSG_NOSIGNAL);
		if (cut & 1)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
}

/* A whole session that breaks in the transmission phase: a bad request, or a cut in the middle of
 * one. */
static void
break_session(enum wire_protocol protocol, const char *name, uint64_t *random, bool cut)
{
	uint8_t data[8192] = {0};
	struct wire wire;
	int rc = wire_open(&wire, protocol, address_of(protocol), name);

	if (rc)
		tap_bail("open %s: %s", name, strerror(-rc));
	if (cut && protocol == WIRE_NBD) {
		put_be32(data, 0x25609513);
		data[7] = 1; /* WRITE */
		put_be32(data + 24, 1 << 20);
		send(wire.fd, data, 28 + random_next(random) % 4096, MSG_NOSIGNAL);
	} else if (cut) {
		data[0] = 0x01;
		data[1] = 0xa1;
		put_be24(data + 5, 65536);
		put_be32(data + 20, 65536);
		put_be32(data + 24, wire.cmd_sn);
		data[32] = 0x8a;
		put_be32(data + 42, 128);
		send(wire.fd, data, 48 + random_next(random) % 4096, MSG_NOSIGNAL);
	} else {
		for (size_t i = 0; i < sizeof(data); i++)
			data[i] = (uint8_t)random_next(random);
		data[0] = 0xff;
		is_closed_after(wire.fd, data, sizeof(data), 50);
	}
	wire_close(&wire);
}

/* Each must be answered by the end of the connection at once. */
static void
test_closed_at_once(void)
{
	static const struct {
		const char *words;
		enum wire_protocol protocol;
		uint8_t start[24]; /* zeroes follow */
		size_t length;
	} sins[] = {
		{"nbd: unknown client flags", WIRE_NBD, {0xff, 0xff, 0xff, 0xff}, 4},
		{"nbd: an option without IHAVEOPT", WIRE_NBD, {0, 0, 0, 3, 'G', 'E', 'T', ' ', '/'},
			20},
		{"iscsi: a first PDU that is no Login", WIRE_ISCSI, {0x01, 0xc1}, 48},
		{"iscsi: a browser's words", WIRE_ISCSI, "GET / HTTP/1.1\r\n", 512},
	};
	uint8_t data[512];

	for (size_t i = 0; i < sizeof(sins) / sizeof(sins[0]); i++) {
		int fd = must_connect(sins[i].protocol);

		memset(data, 0, sizeof(data));
		memcpy(data, sins[i].start, sizeof(sins[i].start));
		tap_ok(is_closed_after(fd, data, sins[i].length, (int)patience_seconds(5) * 1000),
			"%s: closed", sins[i].words);
		close(fd);
	}
}

/* A peer that says nothing is closed by the deadlines of R05: NBD 10 s, iSCSI 15 s. */
static void
test_silent_peers(void)
{
	int nbd = must_connect(WIRE_NBD), iscsi = must_connect(WIRE_ISCSI);
	int patience = (int)patience_seconds(25) * 1000;

	tap_ok(is_closed_after(nbd, "", 0, patience), "nbd: a silent peer is closed");
	tap_ok(is_closed_after(iscsi, "", 0, patience), "iscsi: a silent peer is closed");
	close(nbd);
	close(iscsi);
}

int
main(void)
{
	const char *args[] = {"disk0=memory:64M", "canary=memory:64M", NULL};
	const char *target = "iqn.2026-11.localhost.slabd:disk0";
	uint8_t hello[2048];
	unsigned before, after;
	uint64_t random;

	server_prepare(&server);
	server_start(&server, args);
	random = test_seed();
	canary_start(&server, "canary", "canary");
	sleep_ms(200);
	before = server_descriptors(&server);

	send_random(WIRE_NBD, &random);
	send_random(WIRE_ISCSI, &random);
	tap_ok(server_running(&server), "random bytes");
	truncate_handshake(WIRE_NBD, hello, wire_nbd_hello(hello, "disk0"));
	truncate_handshake(WIRE_ISCSI, hello, wire_iscsi_hello(hello, sizeof(hello), target));
	tap_ok(server_running(&server), "handshakes that end at each byte");
	for (unsigned i = 0; i < 20; i++) {
		break_session(WIRE_NBD, "disk0", &random, i & 1);
		break_session(WIRE_ISCSI, target, &random, i & 1);
	}
	tap_ok(server_running(&server), "sessions that break in the middle of a request");
	test_closed_at_once();
	test_silent_peers();

	for (unsigned waits = 0; waits < 150; waits++) {
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
