/*
 * The last answers reach a client that goes on sending: after DISC, after bytes that are no request,
 * and after the option ABORT. A server that simply closed would reset the connection.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bytes.h"
#include "harness.h"
#include "wire.h"

#define READS  32
#define LENGTH 4096
#define JUNK   65536

static struct server server;

/* Bytes until the end of the stream; -errno where it does not end well. */
static long
count_answers(int fd)
{
	static uint8_t bytes[65536];
	long total = 0;
	ssize_t n;

	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		total += n;
	return n < 0 ? -errno : total;
}

static void
put_request(uint8_t *out, unsigned command, uint64_t offset, uint32_t length)
{
	memset(out, 0, 28);
	put_be32(out, 0x25609513);
	put_be16(out + 6, (uint16_t)command);
	put_be64(out + 16, offset);
	put_be32(out + 24, length);
}

static void
send_all(int fd, const void *data, size_t length)
{
	const uint8_t *at = data;
	ssize_t n;

	for (; length > 0; at += n, length -= (size_t)n) {
		n = send(fd, at, length, MSG_NOSIGNAL);
		if (n <= 0)
			tap_bail("send: %s", strerror(errno));
	}
}

static int
connect_patiently(const char *address)
{
	struct timeval patience = {.tv_sec = patience_seconds(20)};
	int fd = wire_connect(address);

	if (fd < 0)
		tap_bail("%s: %s", address, strerror(-fd));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* Greeting, GO, READs, then `last` and much more in one go. */
static void
test_session(const char *address, const char *how, unsigned last)
{
	static uint8_t bytes[4096 + READS * 28 + 28 + JUNK];
	int fd = connect_patiently(address);
	size_t hello = wire_nbd_hello(bytes, "disk");
	size_t at = hello;
	uint8_t *junk;
	long got;

	for (unsigned i = 0; i < READS; i++, at += 28)
		put_request(bytes + at, 0, (uint64_t)i * LENGTH, LENGTH);
	put_request(bytes + at, last, 0, 0);
	if (last != 2)
		bytes[at] = 'x';
	junk = bytes + at + 28;
	memset(junk, 'x', JUNK);
	send_all(fd, bytes, (size_t)(junk - bytes) + JUNK);
	sleep_ms(100);
	/* It may be over for the server: that is not what is tested. */
	send(fd, junk, JUNK, MSG_NOSIGNAL | MSG_DONTWAIT);
	got = count_answers(fd);
	tap_ok(got > READS * (16 + LENGTH), "%s: all answers and a clean end behind %s (%ld)",
		address, how, got);
	close(fd);
}

static void
test_abort(const char *address)
{
	static uint8_t bytes[4 + 16 + JUNK];
	int fd = connect_patiently(address);
	long got;

	memset(bytes, 'x', sizeof(bytes));
	put_be32(bytes, 3);
	put_be64(bytes + 4, UINT64_C(0x49484156454f5054));
	put_be32(bytes + 12, 2);
	put_be32(bytes + 16, 0);
	send_all(fd, bytes, sizeof(bytes));
	got = count_answers(fd);
	tap_ok(got == 18 + 20, "%s: the greeting and ABORT's acknowledgement arrive (%ld)", address,
		got);
	close(fd);
}

int
main(void)
{
	server_prepare(&server);
	server_start(&server, (const char *[]){"disk=memory:1M", NULL});
	for (int unix_socket = 0; unix_socket < 2; unix_socket++) {
		const char *address = unix_socket ? server.nbd_unix : server.nbd;

		test_session(address, "DISC", 2);
		test_session(address, "bytes that are no request", 0);
		test_abort(address);
	}
	server_stop(&server, SIGTERM);
	return tap_done();
}
