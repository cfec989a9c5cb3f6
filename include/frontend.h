/* What the daemon asks of a protocol. One constant per protocol; its state is per loop, inside. */
#ifndef SLABD_FRONTEND_H
#define SLABD_FRONTEND_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"
#include "stream.h"

struct portal;
struct volume;

/* A row of `slabctl connections`. Strings are good during the visit. */
struct connection_row {
	uint64_t id;
	const char *protocol; /* "nbd", "nbd+tls", "iscsi", "iscsi+tls" */
	const char *client;   /* stream_peer() */
	const char *name;     /* initiator name, TLS identity; "" where there is none */
	const char *volume;   /* "" during negotiation and discovery */
	uint64_t since;       /* loop_now() at accept */
	unsigned in_flight;
	const char *what; /* "structured, FUA", "digests header": short, for people */
};

typedef void connection_visit(const struct connection_row *row, void *arg);

struct frontend {
	const char *name; /* "nbd", "iscsi" */

	/* Main thread, before the loops start: caches. 0 or -errno. */
	int (*start)(void);
	/* Main thread, after they ended. */
	void (*stop)(void);

	/* All below run on the loop in question. */

	/* A new connection, not yet attached; owned from here on. `portal` is iSCSI's, else NULL; it is
	 * good for ever. */
	void (*accept)(struct loop *loop, struct stream *stream, const struct portal *portal);

	/* Shutdown begins: nothing new is taken up, what is in flight is finished, then connections are
	 * closed; iSCSI initiators are asked to log out first. connections() counts how far that is.
	 * Called once. */
	void (*drain)(struct loop *loop);
	/* Closes every connection now, whatever is in flight: its replies are dropped. */
	void (*abort)(struct loop *loop);

	/* Connections on this loop, sessions' not counted twice; *in_flight gets their requests. */
	unsigned (*connections)(struct loop *loop, unsigned *in_flight);
	void (*visit)(struct loop *loop, connection_visit *visit, void *arg);

	/* `volume` is being removed (volume_going() is true): let go of its handles soon: NBD closes
	 * its connections when their requests are answered, a SCSI target loses the LUN. */
	void (*volume_gone)(struct loop *loop, struct volume *volume);
};

extern const struct frontend nbd_frontend;
extern const struct frontend iscsi_frontend;

/* An identifier for a connection, unique in this process, for `slabctl connections`. Any thread. */
uint64_t frontend_next_id(void);

#endif
