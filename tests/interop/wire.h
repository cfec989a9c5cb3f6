/*
 * A raw client's side of NBD and iSCSI: enough of each to open a disk and keep requests in flight.
 * Not libnbd or libiscsi, because the bench and the tests that count system calls must decide
 * themselves what goes into one write(). One thread per connection.
 */
#ifndef SLABD_WIRE_H
#define SLABD_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WIRE_DEPTH_MAX  256
#define WIRE_LENGTH_MAX (1024 * 1024)

enum wire_protocol { WIRE_NBD, WIRE_ISCSI };

struct wire;

/* What goes between an NBD connection and its socket after STARTTLS. 0 or bytes, or -errno. */
struct wire_layer {
	int (*start)(struct wire *wire);
	ssize_t (*send)(struct wire *wire, const void *data, size_t length);
	ssize_t (*receive)(struct wire *wire, void *data, size_t size);
	void (*end)(struct wire *wire);
};

struct wire {
	enum wire_protocol protocol;
	int fd;
	const struct wire_layer *layer; /* NULL: the socket alone */
	void *layer_data;
	uint64_t size;      /* of the disk, bytes */
	uint16_t nbd_flags; /* transmission flags */
	uint32_t block_size;
	uint8_t lun;
	uint32_t immediate_max, segment_max; /* what the target takes in a command, in a Data-Out */
	uint32_t cmd_sn, max_cmd_sn, exp_stat_sn;
	uint8_t *in, *out;
	size_t in_length, out_length;
};

/* "HOST:PORT" or "unix:PATH". The descriptor, or -errno. */
int wire_connect(const char *address);

/*
 * Connects and negotiates: `name` is the export, or the target's IQN with or without /LUN. 0 or
 * -errno; -EPROTO where the answer is not what the standard says.
 */
int
wire_open(struct wire *wire, enum wire_protocol protocol, const char *address, const char *name);
/* The same over NBD with STARTTLS, and the layer from then on. */
int wire_open_layered(
	struct wire *wire, const struct wire_layer *layer, const char *address, const char *name);
/* iSCSI: the same with an ISID that a session may have already, which ends then (RFC 7143 6.3.5).
 * No command is sent: size and block_size are 0. */
int wire_open_again(struct wire *wire, const char *address, const char *name, uint32_t isid);
/* Orderly, RFC 7143 11.14; wire_close() is still due. */
void wire_log_out(struct wire *wire);
void wire_close(struct wire *wire);

/* The bytes that open an export: client flags and GO. Returns how many, at most 64 + the name's. */
size_t wire_nbd_hello(uint8_t *out, const char *name);
/* A Login request to IQN or IQN/LUN that asks for the full feature phase at once. Returns its
 * length. */
size_t wire_iscsi_hello(uint8_t *out, size_t size, const char *target);

struct wire_io {
	bool write;
	uint64_t offset;
	uint32_t length;
	const void *data; /* next(): to write; done(): what was read, gone when done() returns */
	int error;        /* 0, the NBD error, or the SCSI status */
	unsigned slot;    /* below the depth: next() may keep a buffer for each */
};

struct wire_load {
	unsigned depth;
	bool batch; /* all that is due in one write(), else a write() for each request */
	/* Fills the I/O; false when there is no more to do. */
	bool (*next)(void *arg, struct wire_io *io);
	void (*done)(void *arg, const struct wire_io *io);
	void *arg;
};

/* Keeps `depth` requests in flight until next() has no more and all are answered. 0 or -errno. */
int wire_run(struct wire *wire, const struct wire_load *load);

#endif
