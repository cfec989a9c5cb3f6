/*
 * I/O buffers: page-aligned memory in pieces of at most LIMIT_IOBUF_PIECE, from slab caches, under a
 * budget for each loop. Loop's thread only, but for iobuf_free(), which any thread may call.
 *
 * Memory is taken piece by piece as payload arrives, but a request's whole length is reserved first, in
 * arrival order: no reservation, no reading from that socket. That is back-pressure, never an error.
 */
#ifndef SLABD_IOBUF_H
#define SLABD_IOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "loop.h"

/* Zeroed is empty. iov points to `few` or to a longer vector. */
struct iobuf {
	struct iovec *iov;
	unsigned niov;
	size_t length; /* sum of the pieces */
	struct iovec few[2];
};

/* Appends pieces for `bytes` more (each piece but the last is LIMIT_IOBUF_PIECE when it starts at a
 * multiple of it). Contents are undefined. 0, or -ENOMEM with the buffer unchanged. */
int iobuf_take(struct iobuf *buffer, size_t bytes);

/* Gives all pieces back; the buffer is empty then. Harmless on an empty one. */
void iobuf_free(struct iobuf *buffer);

/*
 * The budget. PAYLOAD is for requests whose data is still to come: such reservations together hold at
 * most half of a loop's share. READY is everything else. One client holds at most LIMIT_IOBUF_CLIENT
 * of either.
 */
enum iobuf_use { IOBUF_PAYLOAD, IOBUF_READY };

/* One per client (NBD connection, iSCSI session), on its loop. Zero it, then iobuf_account_init(). */
struct iobuf_account {
	TAILQ_ENTRY(iobuf_account) link;
	struct loop *loop;
	void (*granted)(struct iobuf_account *account);
	size_t reserved[2]; /* by enum iobuf_use */
	size_t want;        /* while waiting */
	enum iobuf_use want_use;
	bool waiting;
	bool granting; /* reserved, granted() not yet called */
};

/* granted() is called, as a deferred task, when a reservation that had to wait has been made. */
void iobuf_account_init(struct iobuf_account *account, struct loop *loop,
	void (*granted)(struct iobuf_account *account));

/*
 * True: reserved now. False: this client waits, first come first served, and granted() will follow; it
 * may wait for one reservation at a time (a CHECK). bytes <= LIMIT_IOBUF_CLIENT (a CHECK).
 */
bool iobuf_reserve(struct iobuf_account *account, size_t bytes, enum iobuf_use use);
void iobuf_unreserve(struct iobuf_account *account, size_t bytes, enum iobuf_use use);

/* Counts bytes that are held already, whatever that makes the client hold; iobuf_unreserve() ends it. */
void iobuf_charge(struct iobuf_account *account, size_t bytes, enum iobuf_use use);

/* The payload has arrived: its reservation becomes READY, whatever that makes the client hold. */
void iobuf_arrived(struct iobuf_account *account, size_t bytes);

/* Gives up waiting and every reservation. */
void iobuf_account_close(struct iobuf_account *account);

/* Bytes reserved on a loop. Any thread, relaxed. */
uint64_t iobuf_reserved(unsigned loop);

/* Makes the caches; before the loops start, and again harmlessly. 0 or -ENOMEM. */
int iobuf_start(void);

#endif
