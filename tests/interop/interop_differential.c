/*
 * One seeded stream of requests goes to slabd, to nbdkit's memory plugin and to qemu-nbd, one at a
 * time: their errors agree, and what each reads is what a model of the disk says. The stream has
 * wrong requests of each kind too. Where servers may differ is a table, with the sentence of the
 * protocol document that allows it: any other difference fails, and so does a row never seen.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bytes.h"
#include "check.h"
#include "harness.h"
#include "wire.h"

#define SIZE     (4 * 1024 * 1024)
#define REQUESTS 60000
#define MAX_LEN  65536
#define CHUNK    20 /* header of a structured reply */

enum { READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS, RESIZE, UNKNOWN, COMMANDS };
enum { FUA = 1, NO_HOLE = 2, DF = 4, REQ_ONE = 8, FAST_ZERO = 16, PAYLOAD_LEN = 32 };

static const char *const command_names[COMMANDS] = {"READ", "WRITE", "DISC", "FLUSH", "TRIM",
	"CACHE", "WRITE_ZEROES", "BLOCK_STATUS", "RESIZE", "unknown command"};

struct request {
	unsigned command, flags;
	uint64_t offset;
	uint32_t length;
	bool payload;
};

/* What about a request a row allows a difference for. */
static bool
is_empty(const struct request *r)
{
	return r->length == 0 && r->command != FLUSH;
}

static bool
has_flush_range(const struct request *r)
{
	return r->command == FLUSH && (r->offset || r->length);
}

static bool
is_past_end(const struct request *r)
{
	return !range_within(r->offset, r->length, SIZE);
}

enum { SLABD, NBDKIT, QEMU, SERVERS };
static const char *const server_names[SERVERS] = {"slabd", "nbdkit", "qemu-nbd"};

static const struct row {
	unsigned server, command;
	bool (*condition)(const struct request *request);
	uint32_t ours, theirs;
	const char *sentence; /* of nbd-proto.md */
} rows[] = {
	{QEMU, FLUSH, has_flush_range, 22, 0,
		"For a flush request, *length* and *offset* are reserved, and MUST be set to all-zero."},
	{QEMU, WRITE, is_past_end, 28, 22,
		"The server SHOULD return `NBD_ENOSPC` if it receives a write request including one or "
		"more sectors beyond the size of the device."},
	{QEMU, ZEROES, is_past_end, 28, 22,
		"The server SHOULD return `NBD_ENOSPC` if it receives a write zeroes request including "
		"one or more sectors beyond the size of the device."},
	{NBDKIT, READ, is_empty, 0, 22,
		"The client SHOULD NOT request a read length of 0; the behavior of a server on such a "
		"request is unspecified although the server SHOULD NOT disconnect."},
	{NBDKIT, WRITE, is_empty, 0, 28,
		"The client SHOULD NOT request a write length of 0; the behavior of a server on such a "
		"request is unspecified although the server SHOULD NOT disconnect."},
	{NBDKIT, ZEROES, is_empty, 0, 28,
		"The client SHOULD NOT request a write length of 0; the behavior of a server on such a "
		"request is unspecified although the server SHOULD NOT disconnect."},
	{NBDKIT, TRIM, is_empty, 0, 22,
		"The client SHOULD NOT request a trim length of 0; the behavior of a server on such a "
		"request is unspecified although the server SHOULD NOT disconnect."},
	{NBDKIT, CACHE, is_empty, 0, 22,
		"Which error to return in any other case is not specified by the NBD protocol."},
};

static unsigned long seen[ARRAY_SIZE(rows)];

static struct peer {
	int fd;
	pid_t pid;
	uint16_t flags;
	uint32_t error;
	uint8_t *data; /* of the last READ */
} peers[SERVERS];

static struct server server;
static uint8_t disk[SIZE];    /* what must be read ... */
static uint8_t trimmed[SIZE]; /* ... or zero, where this is set */
static uint64_t rng;

static void
send_all(const struct peer *peer, const void *data, size_t length)
{
	const uint8_t *at = data;
	ssize_t n;

	for (; length > 0; at += n, length -= (size_t)n) {
		n = send(peer->fd, at, length, MSG_NOSIGNAL);
		if (n <= 0)
			tap_bail("%s: send: %s", server_names[peer - peers], strerror(errno));
	}
}

static void
receive_all(const struct peer *peer, void *data, size_t length)
{
	uint8_t *at = data;
	ssize_t n;

	for (; length > 0; at += n, length -= (size_t)n) {
		n = recv(peer->fd, at, length, 0);
		if (n <= 0)
			tap_bail("%s: receive: %s", server_names[peer - peers],
				n ? strerror(errno) : "it closed the connection");
	}
}

static void
skip_bytes(const struct peer *peer, uint64_t length)
{
	uint8_t bytes[4096];

	for (; length > 0; length -= min_u64(length, sizeof(bytes)))
		receive_all(peer, bytes, (size_t)min_u64(length, sizeof(bytes)));
}

static void
send_option(const struct peer *peer, uint32_t option, const void *data, uint32_t length)
{
	uint8_t header[16];

	put_be64(header, UINT64_C(0x49484156454f5054));
	put_be32(header + 8, option);
	put_be32(header + 12, length);
	send_all(peer, header, sizeof(header));
	send_all(peer, data, length);
}

/* Up to the ACK; an error ends the test. */
static void
expect_ack(struct peer *peer)
{
	uint8_t header[20], info[12];
	uint32_t type, length;

	do {
		receive_all(peer, header, sizeof(header));
		type = get_be32(header + 12);
		length = get_be32(header + 16);
		if (type >> 31)
			tap_bail("%s: option %u is refused: %#x", server_names[peer - peers],
				get_be32(header + 8), type);
		if (type == 3 && length == sizeof(info)) {
			receive_all(peer, info, sizeof(info));
			peer->flags = get_be16(info + 10);
			if (get_be64(info + 2) != SIZE)
				tap_bail("%s: not the size it shall have",
					server_names[peer - peers]);
		} else {
			skip_bytes(peer, length);
		}
	} while (type != 1);
}

/* Structured replies, base:allocation, the default export. */
static void
negotiate(struct peer *peer)
{
	static const uint8_t client_flags[4] = {0, 0, 0, 3};
	static const uint8_t context[] = "\0\0\0\0\0\0\0\1\0\0\0\17base:allocation";
	static const uint8_t go[6];

	skip_bytes(peer, 18);
	send_all(peer, client_flags, sizeof(client_flags));
	send_option(peer, 8, NULL, 0);
	expect_ack(peer);
	send_option(peer, 10, context, sizeof(context) - 1);
	expect_ack(peer);
	send_option(peer, 7, go, sizeof(go));
	expect_ack(peer);
}

static void
send_request(const struct peer *peer, const struct request *r, const uint8_t *payload)
{
	uint8_t header[28];

	put_be32(header, 0x25609513);
	put_be16(header + 4, (uint16_t)r->flags);
	put_be16(header + 6, (uint16_t)(r->command == UNKNOWN ? 4711 : r->command));
	put_be64(header + 8, 0x0102030405060708);
	put_be64(header + 16, r->offset);
	put_be32(header + 24, r->length);
	send_all(peer, header, sizeof(header));
	if (r->command == WRITE)
		send_all(peer, payload, r->length);
}

static void
wrong(const struct peer *peer, const char *what)
{
	tap_bail("%s: %s", server_names[peer - peers], what);
}

/* An extent that is said to be zeroes is. */
static void
check_status(struct peer *peer, const struct request *r, uint32_t length)
{
	uint64_t at = r->offset;
	uint8_t extent[8];

	skip_bytes(peer, 4);
	if (length < 12 || (length - 4) % 8)
		wrong(peer, "BLOCK_STATUS: not a list of descriptors");
	for (uint32_t i = 4; i < length; i += 8) {
		uint32_t bytes, flags;

		receive_all(peer, extent, sizeof(extent));
		bytes = get_be32(extent);
		flags = get_be32(extent + 4);
		if (bytes == 0 || (r->flags & REQ_ONE && (length != 12 || bytes > r->length)))
			wrong(peer, "BLOCK_STATUS: not what was asked for");
		for (; bytes > 0 && at < SIZE; bytes--, at++)
			if (flags & 2 && disk[at] && !trimmed[at])
				wrong(peer, "BLOCK_STATUS: data is called zeroes");
	}
}

static void
take_content(struct peer *peer, const struct request *r, unsigned type, uint32_t length)
{
	uint8_t head[12];
	uint64_t offset, bytes;

	receive_all(peer, head, type == 1 ? 8 : 12);
	offset = get_be64(head);
	bytes = type == 1 ? length - 8 : get_be32(head + 8);
	if (offset < r->offset || bytes == 0 || !range_within(offset - r->offset, bytes, r->length))
		wrong(peer, "READ: a chunk outside of the range");
	if (type == 1)
		receive_all(peer, peer->data + (offset - r->offset), (size_t)bytes);
	else
		memset(peer->data + (offset - r->offset), 0, (size_t)bytes);
}

static void
receive_reply(struct peer *peer, const struct request *r)
{
	uint8_t header[CHUNK], payload[6];
	unsigned flags = 0, type;
	uint32_t length;

	peer->error = 0;
	/* A byte that no chunk covers is found wrong. */
	if (r->command == READ)
		memset(peer->data, 0xee, MAX_LEN);
	while (!(flags & 1)) {
		receive_all(peer, header, 16);
		if (get_be64(header + 8) != 0x0102030405060708)
			wrong(peer, "a cookie that was not sent");
		if (get_be32(header) == 0x67446698) {
			peer->error = get_be32(header + 4);
			if (r->command == READ && !peer->error)
				wrong(peer, "READ: a simple reply");
			return;
		}
		receive_all(peer, header + 16, 4);
		flags = get_be16(header + 4);
		type = get_be16(header + 6);
		length = get_be32(header + 16);
		if (type >> 15) {
			receive_all(peer, payload, sizeof(payload));
			peer->error = get_be32(payload);
			skip_bytes(peer, length - sizeof(payload));
		} else if (type == 1 || type == 2) {
			take_content(peer, r, type, length);
		} else if (type == 5) {
			check_status(peer, r, length);
		} else if (type || length) {
			wrong(peer, "a chunk of unknown type");
		}
	}
}

static void
start_peer(struct peer *peer, const char *path, const char *const *args)
{
	char address[160];
	struct timeval patience = {.tv_sec = patience_seconds(30)};

	if (args) {
		peer->pid = fork();
		if (peer->pid < 0)
			tap_bail("fork: %s", strerror(errno));
		if (peer->pid == 0) {
			/* What they think of wrong requests is not of interest. */
			int null = open("/dev/null", O_RDWR);

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			dup2(null, STDOUT_FILENO);
			dup2(null, STDERR_FILENO);
			execvp(args[0], (char *const *)args);
			_exit(127);
		}
	}
	snprintf(address, sizeof(address), "unix:%s", path);
	peer->fd = -1;
	for (unsigned i = 0; i < 20 * patience_seconds(10); i++) {
		peer->fd = wire_connect(address);
		if (peer->fd >= 0)
			break;
		sleep_ms(50);
	}
	if (peer->fd < 0)
		tap_bail("%s does not listen on %s", server_names[peer - peers], path);
	setsockopt(peer->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	peer->data = malloc(MAX_LEN);
	if (!peer->data)
		tap_bail("no memory");
	negotiate(peer);
}

static void
stop_peer(struct peer *peer)
{
	close(peer->fd);
	free(peer->data);
	if (peer->pid) {
		kill(peer->pid, SIGKILL);
		waitpid(peer->pid, NULL, 0);
	}
}

static bool
is_installed(const char *program)
{
	char command[64];

	snprintf(command, sizeof(command), "command -v %s >/dev/null", program);
	return system(command) == 0;
}

static void
start_all(void)
{
	char volume[64], nbdkit_path[96], qemu_path[96], image[96];
	int fd;

	snprintf(volume, sizeof(volume), "disk=memory:%d", SIZE);
	server_start(&server, (const char *[]){volume, NULL});
	start_peer(&peers[SLABD], server.nbd_unix + strlen("unix:"), NULL);

	snprintf(nbdkit_path, sizeof(nbdkit_path), "%s/nbdkit.sock", server.dir);
	snprintf(volume, sizeof(volume), "%d", SIZE);
	start_peer(&peers[NBDKIT], nbdkit_path,
		(const char *[]){"nbdkit", "-f", "-U", nbdkit_path, "--exit-with-parent", "memory",
			volume, NULL});

	snprintf(qemu_path, sizeof(qemu_path), "%s/qemu.sock", server.dir);
	snprintf(image, sizeof(image), "%s/qemu.img", server.dir);
	fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, SIZE))
		tap_bail("%s: %s", image, strerror(errno));
	close(fd);
	start_peer(&peers[QEMU], qemu_path,
		(const char *[]){"qemu-nbd", "-t", "-k", qemu_path, "-f", "raw", "--discard=unmap",
			image, NULL});
}

static unsigned
below(unsigned n)
{
	return (unsigned)(random_next(&rng) % n);
}

static void
choose_range(struct request *r)
{
	r->length = 1 + below(below(8) ? 8192 : MAX_LEN);
	/* Half are aligned, as a disk's are; half of all lie on the same few blocks. */
	if (below(2))
		r->length = (uint32_t)round_up(r->length, 512);
	if (r->length > MAX_LEN)
		r->length = MAX_LEN;
	r->offset = below((below(2) ? SIZE : 4 * MAX_LEN) - r->length + 1);
	if (r->length % 512 == 0)
		r->offset = round_down(r->offset, 512);
}

/* One thing wrong, or out of the ordinary. */
static void
spoil(struct request *r)
{
	static const uint64_t offsets[] = {SIZE, UINT64_MAX, (uint64_t)1 << 63, (uint64_t)1 << 32};

	choose_range(r);
	switch (below(6)) {
	case 0:
		r->length = 0;
		break;
	case 1:
		r->offset = SIZE - r->length + 1 + below(r->length);
		break;
	case 2:
		r->offset = offsets[below(ARRAY_SIZE(offsets))];
		break;
	case 3:
		r->flags |= 1u << below(16);
		break;
	case 4:
		r->command = below(2) ? UNKNOWN : RESIZE;
		break;
	default:
		r->command = FLUSH;
		r->flags = 0;
		break;
	}
}

static struct request
choose_request(void)
{
	static const unsigned commands[] = {READ, READ, READ, READ, READ, READ, WRITE, WRITE, WRITE,
		WRITE, WRITE, ZEROES, ZEROES, TRIM, CACHE, STATUS, FLUSH};
	struct request r = {.command = commands[below(ARRAY_SIZE(commands))]};

	choose_range(&r);
	if (r.command == FLUSH)
		r.offset = r.length = 0;
	if (below(8) == 0)
		r.flags |= FUA;
	if (r.command == READ && below(4) == 0)
		r.flags |= DF;
	if (r.command == ZEROES)
		r.flags |= (below(2) ? NO_HOLE : 0) | (below(4) ? 0 : FAST_ZERO);
	if (r.command == STATUS && below(2))
		r.flags |= REQ_ONE;
	if (below(12) == 0)
		spoil(&r);
	return r;
}

/* What all of them did. */
static void
apply(const struct request *r, const uint8_t *payload)
{
	switch (r->command) {
	case WRITE:
		memcpy(disk + r->offset, payload, r->length);
		memset(trimmed + r->offset, 0, r->length);
		break;
	case ZEROES:
		memset(disk + r->offset, 0, r->length);
		memset(trimmed + r->offset, 0, r->length);
		break;
	case TRIM:
		memset(trimmed + r->offset, 1, r->length);
		break;
	default:
		break;
	}
}

static void
check_data(const struct peer *peer, const struct request *r)
{
	for (uint32_t i = 0; i < r->length; i++) {
		uint8_t byte = peer->data[i];
		uint64_t at = r->offset + i;

		if (byte == disk[at] || (trimmed[at] && byte == 0))
			continue;
		tap_bail("%s: READ of %u bytes at %#jx: byte %#jx is %#x, not %#x%s",
			server_names[peer - peers], r->length, (uintmax_t)r->offset, (uintmax_t)at,
			byte, disk[at], trimmed[at] ? " or 0" : "");
	}
}

static unsigned long differences;

/* Both answered; true when that is as it may be. */
static bool
compare_errors(unsigned other, const struct request *r)
{
	uint32_t ours = peers[SLABD].error, theirs = peers[other].error;

	if (ours == theirs)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *row = &rows[i];

		if (row->server == other && row->command == r->command && row->ours == ours &&
			row->theirs == theirs && row->condition(r)) {
			seen[i]++;
			return true;
		}
	}
	if (differences++ < 20)
		tap_note("%s flags %#x, %u bytes at %#jx: slabd says %u, %s says %u",
			command_names[r->command], r->flags, r->length, (uintmax_t)r->offset, ours,
			server_names[other], theirs);
	return false;
}

/* A difference that is allowed leaves a range of which nothing is known: made known again. */
static void
settle(const struct request *r, const uint8_t *payload)
{
	struct request write = {.command = WRITE, .offset = r->offset, .length = r->length};

	for (unsigned i = 0; i < SERVERS; i++) {
		send_request(&peers[i], &write, payload);
		receive_reply(&peers[i], &write);
		if (peers[i].error)
			tap_bail("%s: a WRITE fails with %u", server_names[i], peers[i].error);
	}
	apply(&write, payload);
}

static void
run_request(const struct request *r, const uint8_t *payload)
{
	bool same = true;

	for (unsigned i = 0; i < SERVERS; i++)
		send_request(&peers[i], r, payload);
	for (unsigned i = 0; i < SERVERS; i++) {
		receive_reply(&peers[i], r);
		if (r->command == READ && !peers[i].error)
			check_data(&peers[i], r);
	}
	for (unsigned i = NBDKIT; i < SERVERS; i++) {
		compare_errors(i, r);
		same = same && peers[i].error == peers[SLABD].error;
	}
	if (!same && r->length > 0 && range_within(r->offset, r->length, SIZE))
		settle(r, payload);
	else if (!peers[SLABD].error)
		apply(r, payload);
}

static void
check_flags(void)
{
	const unsigned needed = 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11;

	for (unsigned i = 0; i < SERVERS; i++)
		tap_ok((peers[i].flags & needed) == needed,
			"%s offers every command of the stream (flags %#x)", server_names[i],
			peers[i].flags);
}

int
main(void)
{
	static uint8_t bytes[2 * MAX_LEN];
	const uint8_t *payload;
	struct request r;

	if (!is_installed("nbdkit") || !is_installed("qemu-nbd"))
		tap_skip_all("nbdkit and qemu-nbd are not both installed");
	rng = test_seed();
	server_prepare(&server);
	start_all();
	check_flags();
	/* A block that lands elsewhere shows, whichever of a payload it is. */
	for (size_t i = 0; i < sizeof(bytes); i += 8)
		put_be64(bytes + i, random_next(&rng));
	for (unsigned i = 0; i < REQUESTS; i++) {
		r = choose_request();
		payload = bytes + below(MAX_LEN);
		run_request(&r, payload);
	}
	tap_ok(differences == 0, "%u requests: %lu differences that no row allows", REQUESTS,
		differences);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		tap_ok(seen[i] > 0, "%s, %s: %u here, %u there, %lu times: \"%s\"",
			server_names[rows[i].server], command_names[rows[i].command], rows[i].ours,
			rows[i].theirs, seen[i], rows[i].sentence);
	for (unsigned i = 0; i < SERVERS; i++)
		stop_peer(&peers[i]);
	server_stop(&server, SIGTERM);
	return tap_done();
}
