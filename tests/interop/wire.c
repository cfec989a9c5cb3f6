#include "config.h"

#include "wire.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "bytes.h"

#define IN_SIZE  (WIRE_LENGTH_MAX + 512 * 1024)
#define OUT_SIZE (2 * WIRE_LENGTH_MAX)

/* proto.md, "Values" */
#define NBD_IHAVEOPT     0x49484156454f5054
#define NBD_OPTION_REPLY 0x3e889045565a9
#define NBD_REQUEST      0x25609513
#define NBD_SIMPLE_REPLY 0x67446698
#define NBD_OPT_STARTTLS 5
#define NBD_OPT_GO       7
#define NBD_REP_ACK      1
#define NBD_REP_INFO     3
#define CLIENT_FLAGS     4 /* bytes */

/* RFC 7143 11.1 */
enum {
	PDU_COMMAND = 0x01,
	PDU_LOGIN = 0x43, /* immediate */
	PDU_DATA_OUT = 0x05,
	PDU_NOP_OUT = 0x40, /* immediate */
	PDU_LOGOUT = 0x46,  /* immediate */
	PDU_ASYNC = 0x32,
	PDU_NOP_IN = 0x20,
	PDU_RESPONSE = 0x21,
	PDU_LOGIN_RESPONSE = 0x23,
	PDU_DATA_IN = 0x25,
	PDU_R2T = 0x31,
	BHS = 48,
};

static const char LOGIN_KEYS[] =
	"SessionType=Normal\0HeaderDigest=None\0DataDigest=None\0"
	"InitialR2T=Yes\0ImmediateData=Yes\0MaxRecvDataSegmentLength=262144\0"
	"MaxBurstLength=1048576\0FirstBurstLength=262144\0MaxConnections=1\0"
	"MaxOutstandingR2T=1\0ErrorRecoveryLevel=0";

struct run {
	struct wire *wire;
	const struct wire_load *load;
	struct wire_io ios[WIRE_DEPTH_MAX];
	unsigned idle[WIRE_DEPTH_MAX]; /* slots with nothing in flight */
	unsigned nidle;
	bool finished; /* next() has no more */
	bool asked;    /* the target asks for a Logout */
};

static int
connect_unix(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd < 0 ? -errno : fd;
}

static int
connect_tcp(const char *address)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	const char *colon = strrchr(address, ':');
	struct addrinfo *list;
	char host[256];
	int fd, rc = 0, one = 1;

	if (!colon || (size_t)(colon - address) >= sizeof(host))
		return -EINVAL;
	memcpy(host, address, (size_t)(colon - address));
	host[colon - address] = '\0';
	if (getaddrinfo(host, colon + 1, &hints, &list))
		return -EINVAL;
	fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, list->ai_addr, list->ai_addrlen) < 0)
		rc = -errno;
	freeaddrinfo(list);
	if (rc) {
		if (fd >= 0)
			close(fd);
		return rc;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

int
wire_connect(const char *address)
{
	const struct timeval limit = {.tv_sec = 60};
	int fd;

	fd = strncmp(address, "unix:", 5) ? connect_tcp(address) : connect_unix(address + 5);
	if (fd >= 0) {
		/* No test hangs on a server that has stopped answering. */
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	}
	return fd;
}

static int
send_all(struct wire *wire, const void *data, size_t length)
{
	const uint8_t *at = data;

	while (length) {
		ssize_t n = wire->layer ? wire->layer->send(wire, at, length)
					: send(wire->fd, at, length, MSG_NOSIGNAL);

		if (n < 0)
			return wire->layer ? (int)n : -errno;
		at += n;
		length -= (size_t)n;
	}
	return 0;
}

/* Bytes, or -errno, which the end is too. */
static ssize_t
receive_some(struct wire *wire, void *data, size_t size)
{
	ssize_t n = wire->layer ? wire->layer->receive(wire, data, size)
				: recv(wire->fd, data, size, 0);

	if (n < 0 && !wire->layer)
		return -errno;
	return n ? n : -ECONNRESET;
}

static int
receive_exactly(struct wire *wire, void *data, size_t length)
{
	uint8_t *at = data;

	while (length) {
		ssize_t n = receive_some(wire, at, length);

		if (n < 0)
			return (int)n;
		at += n;
		length -= (size_t)n;
	}
	return 0;
}

static int
flush_out(struct wire *wire)
{
	int rc = send_all(wire, wire->out, wire->out_length);

	wire->out_length = 0;
	return rc;
}

/* Room for so many bytes in the output buffer; what is there is sent first if there is none. */
static uint8_t *
reserve_out(struct wire *wire, size_t length, int *rc)
{
	uint8_t *at;

	if (wire->out_length + length > OUT_SIZE) {
		*rc = flush_out(wire);
		if (*rc)
			return NULL;
	}
	at = wire->out + wire->out_length;
	wire->out_length += length;
	return at;
}

size_t
wire_nbd_hello(uint8_t *out, const char *name)
{
	struct writer w = writer_of(out, 64 + strlen(name));
	uint32_t length = (uint32_t)strlen(name);

	writer_be32(&w, 3); /* fixed newstyle, no zeroes */
	writer_be64(&w, NBD_IHAVEOPT);
	writer_be32(&w, NBD_OPT_GO);
	writer_be32(&w, 4 + length + 2);
	writer_be32(&w, length);
	writer_bytes(&w, name, length);
	writer_be16(&w, 0); /* no information asked for */
	return w.length;
}

/* STARTTLS, behind the client flags. */
static int
start_layer(struct wire *wire, const struct wire_layer *layer)
{
	uint8_t option[16] = {0}, header[20];
	int rc;

	put_be64(option, NBD_IHAVEOPT);
	put_be32(option + 8, NBD_OPT_STARTTLS);
	rc = send_all(wire, option, sizeof(option));
	if (!rc)
		rc = receive_exactly(wire, header, sizeof(header));
	if (!rc && (get_be32(header + 12) != NBD_REP_ACK || get_be32(header + 16)))
		rc = -EPROTO;
	if (!rc)
		rc = layer->start(wire);
	if (!rc)
		wire->layer = layer;
	return rc;
}

static int
open_nbd(struct wire *wire, const struct wire_layer *layer, const char *name)
{
	uint8_t greeting[18], header[20], body[4096];
	size_t hello;
	int rc;

	rc = receive_exactly(wire, greeting, sizeof(greeting));
	if (rc)
		return rc;
	if (memcmp(greeting, "NBDMAGICIHAVEOPT", 16) || strlen(name) > 512)
		return -EPROTO;
	hello = wire_nbd_hello(wire->out, name);
	rc = send_all(wire, wire->out, CLIENT_FLAGS);
	if (!rc && layer)
		rc = start_layer(wire, layer);
	if (!rc)
		rc = send_all(wire, wire->out + CLIENT_FLAGS, hello - CLIENT_FLAGS);
	for (unsigned replies = 0; !rc && replies < 64; replies++) {
		uint32_t type, length;

		rc = receive_exactly(wire, header, sizeof(header));
		if (rc)
			return rc;
		type = get_be32(header + 12);
		length = get_be32(header + 16);
		if (get_be64(header) != NBD_OPTION_REPLY || length > sizeof(body))
			return -EPROTO;
		rc = receive_exactly(wire, body, length);
		if (type == NBD_REP_ACK)
			return rc;
		if (type != NBD_REP_INFO)
			return -ENOENT;
		if (length == 12 && get_be16(body) == 0) { /* NBD_INFO_EXPORT */
			wire->size = get_be64(body + 2);
			wire->nbd_flags = get_be16(body + 10);
		}
	}
	return rc ? rc : -EPROTO;
}

size_t
wire_iscsi_hello(uint8_t *out, size_t size, const char *target)
{
	static _Atomic uint32_t sessions; /* each login of this program is a session of its own */
	static const char name[] = "InitiatorName=iqn.2026-11.localhost.wire";
	struct writer w = writer_of(out, size);
	uint32_t text;

	writer_zero(&w, BHS);
	writer_bytes(&w, name, sizeof(name));
	writer_bytes(&w, "TargetName=", 11);
	writer_bytes(&w, target, strcspn(target, "/"));
	writer_zero(&w, 1);
	writer_bytes(&w, LOGIN_KEYS, sizeof(LOGIN_KEYS));
	text = (uint32_t)w.length - BHS;
	writer_zero(&w, -w.length & 3);
	out[0] = PDU_LOGIN;
	out[1] = 0x80 | 1 << 2 | 3; /* transit from operational to full feature */
	put_be24(out + 5, text);
	out[8] = 0x80; /* random ISID */
	put_be32(out + 9, (uint32_t)getpid() << 12 | (sessions++ & 0xfff));
	put_be32(out + 24, 1); /* CmdSN */
	return w.length;
}

/* The number after KEY= among NUL-separated pairs, or `otherwise`. */
static uint32_t
find_number(const uint8_t *text, size_t length, const char *key, uint32_t otherwise)
{
	size_t key_length = strlen(key);

	for (size_t at = 0; at < length; at += strnlen((const char *)text + at, length - at) + 1)
		if (length - at > key_length + 1 && !memcmp(text + at, key, key_length) &&
			text[at + key_length] == '=')
			return (uint32_t)strtoul(
				(const char *)text + at + key_length + 1, NULL, 10);
	return otherwise;
}

static bool
serial_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static void
note_numbers(struct wire *wire, const uint8_t *bhs, bool has_status)
{
	if (has_status)
		wire->exp_stat_sn = get_be32(bhs + 24) + 1;
	if (serial_before(wire->max_cmd_sn, get_be32(bhs + 32)))
		wire->max_cmd_sn = get_be32(bhs + 32);
}

static uint8_t *
put_command(
	struct wire *wire, uint32_t tag, uint8_t flags, uint32_t length, size_t immediate, int *rc)
{
	uint8_t *bhs = reserve_out(wire, BHS + immediate, rc);

	if (!bhs)
		return NULL;
	memset(bhs, 0, BHS);
	bhs[0] = PDU_COMMAND;
	bhs[1] = flags | 1; /* SIMPLE */
	put_be24(bhs + 5, (uint32_t)immediate);
	bhs[9] = wire->lun;
	put_be32(bhs + 16, tag);
	put_be32(bhs + 20, length);
	put_be32(bhs + 24, wire->cmd_sn++);
	put_be32(bhs + 28, wire->exp_stat_sn);
	return bhs;
}

/* A command on its own, before any load: its status, or -errno. data gets what comes in, 4 KiB at
 * most. */
static int
run_command(struct wire *wire, const uint8_t *cdb, uint32_t length, uint8_t *data)
{
	uint8_t bhs[BHS], body[8192];
	int rc = 0;
	uint8_t *out = put_command(wire, 1, length ? 0xc0 : 0x80, length, 0, &rc);

	if (!out)
		return rc;
	memcpy(out + 32, cdb, 16);
	rc = flush_out(wire);
	for (unsigned pdus = 0; !rc && pdus < 16; pdus++) {
		uint32_t segment;

		rc = receive_exactly(wire, bhs, sizeof(bhs));
		if (rc)
			return rc;
		segment = (get_be24(bhs + 5) + 3) & ~(uint32_t)3;
		if (segment > sizeof(body))
			return -EPROTO;
		rc = receive_exactly(wire, body, segment);
		if (rc)
			return rc;
		note_numbers(wire, bhs, bhs[0] == PDU_RESPONSE || bhs[1] & 1);
		if (bhs[0] == PDU_DATA_IN && segment <= 4096)
			memcpy(data, body, segment);
		if (bhs[0] == PDU_RESPONSE || (bhs[0] == PDU_DATA_IN && bhs[1] & 1))
			return bhs[3];
	}
	return rc ? rc : -EPROTO;
}

static int
find_capacity(struct wire *wire)
{
	static const uint8_t test_unit_ready[16] = {0};
	static const uint8_t read_capacity[16] = {0x9e, 0x10, [13] = 32};
	uint8_t data[4096] = {0};
	int rc = 2;

	/* A new nexus finds unit attentions first; a reset by somebody else raises more. */
	for (unsigned tries = 0; rc == 2 && tries < 16; tries++) {
		rc = run_command(wire, test_unit_ready, 0, data);
		if (!rc)
			rc = run_command(wire, read_capacity, 32, data);
	}
	if (rc)
		return rc < 0 ? rc : -EPROTO;
	wire->block_size = get_be32(data + 8);
	wire->size = (get_be64(data) + 1) * wire->block_size;
	return wire->block_size ? 0 : -EPROTO;
}

static int
open_iscsi(struct wire *wire, const char *target, uint32_t isid)
{
	uint8_t bhs[BHS], body[8192 + 4];
	uint32_t first_burst = 65536;
	size_t hello;
	int rc;

	if (strlen(target) > 256)
		return -EINVAL;
	if (strchr(target, '/'))
		wire->lun = (uint8_t)atoi(strchr(target, '/') + 1);
	hello = wire_iscsi_hello(wire->out, 2048, target);
	if (isid)
		put_be32(wire->out + 9, isid);
	rc = send_all(wire, wire->out, hello);
	wire->segment_max = 8192;
	for (unsigned answers = 0; !rc && answers < 8; answers++) {
		uint32_t length;

		rc = receive_exactly(wire, bhs, sizeof(bhs));
		length = get_be24(bhs + 5);
		if (rc || bhs[0] != PDU_LOGIN_RESPONSE || bhs[36] || length > 8192)
			return rc ? rc : -EPROTO;
		rc = receive_exactly(wire, body, (length + 3) & ~(uint32_t)3);
		if (rc)
			return rc;
		body[length] = '\0';
		wire->segment_max =
			find_number(body, length, "MaxRecvDataSegmentLength", wire->segment_max);
		first_burst = find_number(body, length, "FirstBurstLength", first_burst);
		wire->exp_stat_sn = get_be32(bhs + 24) + 1;
		wire->max_cmd_sn = get_be32(bhs + 32);
		wire->cmd_sn = get_be32(bhs + 28);
		if (bhs[1] & 0x80 && (bhs[1] & 3) == 3)
			break;
		/* It wants to say more: an empty Login with the same transition. */
		memset(wire->out + 4, 0, 4);
		memcpy(wire->out + 14, bhs + 14, 2);
		put_be32(wire->out + 28, wire->exp_stat_sn);
		rc = send_all(wire, wire->out, BHS);
	}
	wire->immediate_max = wire->segment_max < first_burst ? wire->segment_max : first_burst;
	return rc || isid ? rc : find_capacity(wire);
}

static int
open_wire(struct wire *wire, enum wire_protocol protocol, const struct wire_layer *layer,
	const char *address, const char *name, uint32_t isid)
{
	int rc;

	memset(wire, 0, sizeof(*wire));
	wire->protocol = protocol;
	wire->fd = wire_connect(address);
	if (wire->fd < 0)
		return wire->fd;
	wire->in = malloc(IN_SIZE);
	wire->out = malloc(OUT_SIZE);
	if (!wire->in || !wire->out)
		rc = -ENOMEM;
	else
		rc = protocol == WIRE_NBD ? open_nbd(wire, layer, name)
					  : open_iscsi(wire, name, isid);
	if (rc)
		wire_close(wire);
	return rc;
}

int
wire_open(struct wire *wire, enum wire_protocol protocol, const char *address, const char *name)
{
	return open_wire(wire, protocol, NULL, address, name, 0);
}

int
wire_open_again(struct wire *wire, const char *address, const char *name, uint32_t isid)
{
	return open_wire(wire, WIRE_ISCSI, NULL, address, name, isid);
}

int
wire_open_layered(
	struct wire *wire, const struct wire_layer *layer, const char *address, const char *name)
{
	return open_wire(wire, WIRE_NBD, layer, address, name, 0);
}

void
wire_close(struct wire *wire)
{
	if (wire->layer)
		wire->layer->end(wire);
	wire->layer = NULL;
	if (wire->fd >= 0)
		close(wire->fd);
	free(wire->in);
	free(wire->out);
	wire->fd = -1;
	wire->in = wire->out = NULL;
}

static int
send_nbd(struct wire *wire, const struct wire_io *io)
{
	int rc = 0;
	uint8_t *at = reserve_out(wire, 28 + (io->write ? io->length : 0), &rc);

	if (!at)
		return rc;
	put_be32(at, NBD_REQUEST);
	put_be16(at + 4, 0);
	put_be16(at + 6, io->write);
	put_be64(at + 8, io->slot);
	put_be64(at + 16, io->offset);
	put_be32(at + 24, io->length);
	if (io->write)
		memcpy(at + 28, io->data, io->length);
	return 0;
}

static int
send_iscsi(struct wire *wire, const struct wire_io *io)
{
	uint32_t immediate = io->write ? io->length : 0;
	int rc = 0;
	uint8_t *bhs;

	if (immediate > wire->immediate_max)
		immediate = wire->immediate_max;
	bhs = put_command(wire, io->slot, io->write ? 0xa0 : 0xc0, io->length, immediate, &rc);
	if (!bhs)
		return rc;
	bhs[32] = io->write ? 0x8a : 0x88; /* WRITE(16), READ(16) */
	put_be64(bhs + 34, io->offset / wire->block_size);
	put_be32(bhs + 42, io->length / wire->block_size);
	if (immediate)
		memcpy(bhs + BHS, io->data, immediate);
	return 0;
}

/* RFC 7143 11.8: the solicited part of a write. */
static int
answer_r2t(struct wire *wire, const struct wire_io *io, const uint8_t *r2t)
{
	uint32_t offset = get_be32(r2t + 40), left = get_be32(r2t + 44), number = 0;

	if (!io->write || offset > io->length || left > io->length - offset)
		return -EPROTO;
	while (left) {
		uint32_t segment = left < wire->segment_max ? left : wire->segment_max;
		int rc = 0;
		uint8_t *bhs = reserve_out(wire, BHS + segment, &rc);

		if (!bhs)
			return rc;
		memset(bhs, 0, BHS);
		bhs[0] = PDU_DATA_OUT;
		bhs[1] = segment == left ? 0x80 : 0;
		put_be24(bhs + 5, segment);
		bhs[9] = wire->lun;
		memcpy(bhs + 16, r2t + 16, 8); /* task and transfer tag */
		put_be32(bhs + 28, wire->exp_stat_sn);
		put_be32(bhs + 36, number++);
		put_be32(bhs + 40, offset);
		memcpy(bhs + BHS, (const uint8_t *)io->data + offset, segment);
		offset += segment;
		left -= segment;
	}
	return 0;
}

static int
answer_ping(struct wire *wire, const uint8_t *nop)
{
	int rc = 0;
	uint8_t *bhs;

	if (get_be32(nop + 20) == 0xffffffff)
		return 0;
	bhs = reserve_out(wire, BHS, &rc);
	if (!bhs)
		return rc;
	memset(bhs, 0, BHS);
	bhs[0] = PDU_NOP_OUT;
	bhs[1] = 0x80;
	put_be32(bhs + 16, 0xffffffff);
	put_be32(bhs + 20, get_be32(nop + 20));
	put_be32(bhs + 24, wire->cmd_sn);
	put_be32(bhs + 28, wire->exp_stat_sn);
	return 0;
}

void
wire_log_out(struct wire *wire)
{
	uint8_t byte;
	int rc = 0;
	uint8_t *bhs = reserve_out(wire, BHS, &rc);

	if (!bhs)
		return;
	memset(bhs, 0, BHS);
	bhs[0] = PDU_LOGOUT;
	bhs[1] = 0x80;
	put_be32(bhs + 24, wire->cmd_sn);
	put_be32(bhs + 28, wire->exp_stat_sn);
	if (flush_out(wire) == 0)
		while (recv(wire->fd, &byte, 1, 0) > 0)
			;
}

static void
finish_io(struct run *run, struct wire_io *io, const void *data, int error)
{
	io->error = error;
	if (!io->write)
		io->data = data;
	run->load->done(run->load->arg, io);
	run->idle[run->nidle++] = io->slot;
}

/* One reply from the front of the input: its length, 0 if it is not all there, or -errno. */
static ssize_t
take_nbd(struct run *run, const uint8_t *at, size_t length)
{
	struct wire_io *io;
	size_t whole = 16;
	uint32_t error;

	if (length < whole)
		return 0;
	if (get_be32(at) != NBD_SIMPLE_REPLY || get_be64(at + 8) >= run->load->depth)
		return -EPROTO;
	io = &run->ios[get_be64(at + 8)];
	error = get_be32(at + 4);
	if (!io->write && !error)
		whole += io->length;
	if (length < whole)
		return 0;
	finish_io(run, io, at + 16, (int)error);
	return (ssize_t)whole;
}

static ssize_t
take_iscsi(struct run *run, const uint8_t *at, size_t length)
{
	struct wire_io *io;
	size_t whole = BHS;
	uint8_t opcode;
	int rc = 0;

	if (length < BHS)
		return 0;
	whole += (get_be24(at + 5) + 3) & ~(size_t)3;
	if (length < whole)
		return 0;
	opcode = at[0];
	note_numbers(run->wire, at, opcode == PDU_RESPONSE || (opcode == PDU_DATA_IN && at[1] & 1));
	if (opcode == PDU_NOP_IN) {
		rc = answer_ping(run->wire, at);
		return rc ? rc : (ssize_t)whole;
	}
	if (opcode == PDU_ASYNC) {
		run->asked = run->finished = run->asked || at[36] == 1;
		return (ssize_t)whole;
	}
	if (get_be32(at + 16) >= run->load->depth)
		return -EPROTO;
	io = &run->ios[get_be32(at + 16)];
	if (opcode == PDU_DATA_IN) {
		/* A read that comes in one piece is shown where it lies; of others only the status
		 * counts. */
		io->data = get_be24(at + 5) == io->length ? at + BHS : NULL;
		if (at[1] & 1)
			finish_io(run, io, io->data, at[3]);
	} else if (opcode == PDU_RESPONSE) {
		finish_io(run, io, NULL, at[2] ? -1 : at[3]);
	} else if (opcode == PDU_R2T) {
		rc = answer_r2t(run->wire, io, at);
	} else {
		rc = -EPROTO;
	}
	return rc ? rc : (ssize_t)whole;
}

static int
take_replies(struct run *run)
{
	struct wire *wire = run->wire;
	size_t at = 0;
	ssize_t n;

	n = receive_some(wire, wire->in + wire->in_length, IN_SIZE - wire->in_length);
	if (n < 0)
		return (int)n;
	wire->in_length += (size_t)n;
	do {
		if (wire->protocol == WIRE_NBD)
			n = take_nbd(run, wire->in + at, wire->in_length - at);
		else
			n = take_iscsi(run, wire->in + at, wire->in_length - at);
		if (n < 0)
			return (int)n;
		at += (size_t)n;
	} while (n);
	wire->in_length -= at;
	memmove(wire->in, wire->in + at, wire->in_length);
	return 0;
}

static bool
window_open(const struct wire *wire)
{
	return wire->protocol == WIRE_NBD || !serial_before(wire->max_cmd_sn, wire->cmd_sn);
}

static int
send_due(struct run *run)
{
	struct wire *wire = run->wire;
	int rc = 0;

	while (run->nidle && !run->finished && window_open(wire)) {
		unsigned slot = run->idle[run->nidle - 1];
		struct wire_io *io = &run->ios[slot];

		*io = (struct wire_io){.slot = slot};
		if (!run->load->next(run->load->arg, io)) {
			run->finished = true;
			break;
		}
		run->nidle--;
		rc = wire->protocol == WIRE_NBD ? send_nbd(wire, io) : send_iscsi(wire, io);
		if (!rc && !run->load->batch)
			rc = flush_out(wire);
		if (rc)
			return rc;
	}
	return wire->out_length ? flush_out(wire) : 0;
}

int
wire_run(struct wire *wire, const struct wire_load *load)
{
	struct run *run;
	int rc;

	if (!load->depth || load->depth > WIRE_DEPTH_MAX)
		return -EINVAL;
	run = calloc(1, sizeof(*run));
	if (!run)
		return -ENOMEM;
	run->wire = wire;
	run->load = load;
	while (run->nidle < load->depth) {
		run->idle[run->nidle] = load->depth - 1 - run->nidle;
		run->nidle++;
	}
	do {
		rc = send_due(run);
		if (!rc && run->nidle < load->depth)
			rc = take_replies(run);
	} while (!rc && (!run->finished || run->nidle < load->depth));
	if (!rc && run->asked) {
		wire_log_out(wire);
		rc = -ESHUTDOWN;
	}
	free(run);
	return rc;
}
