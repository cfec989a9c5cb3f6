/*
 * An NBD connection and its requests, as the files of this directory see them. The specification is
 * "The NBD protocol" (proto.md), cited by its headings; promises are R01 to R15, the block layer's
 * contract B1 to B10.
 *
 * The way of a read: on_ready() and read_input() in nbd_conn.c, nbd_transmit() parses,
 * check_request() and submit_request() in nbd_transmit.c, blk_submit(); then nbd_reply_done() and
 * send_data() in nbd_reply.c, on_flush() in nbd_conn.c.
 *
 * A connection lives on one loop and is touched by that loop's thread only.
 */
#ifndef SLABD_NBD_H
#define SLABD_NBD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "block.h"
#include "bytes.h"
#include "iobuf.h"
#include "loop.h"
#include "nbd_wire.h"
#include "stream.h"

/* The longest header of all that a peer sends. */
#define NBD_HEADER_MAX NBD_EXTENDED_REQUEST_SIZE

struct export;
struct nbd_conn;
struct nbd_split;

/* One per loop, of that loop's thread. */
struct nbd_loop {
	_Alignas(64) TAILQ_HEAD(, nbd_conn) conns;
	unsigned count;
	size_t leftover; /* bytes of all of them */
	bool draining;
};

/*
 * What the two sides agreed on. Plain and without pointers, so that it can be handed to another
 * process together with the socket.
 */
struct nbd_terms {
	uint64_t context_export; /* nbd_export_hash() of the name SET_META_CONTEXT was for */
	uint32_t payload_max;
	uint32_t min_block; /* 1: any byte range */
	uint16_t flags;     /* transmission flags as the client was told */
	bool fixed;         /* the client speaks fixed newstyle */
	bool no_zeroes;
	bool structured; /* answers are chunks */
	bool extended;   /* and requests and chunks have extended headers; structured is set too */
	bool base_allocation; /* this context is selected */
};

/* What the next byte from the peer belongs to; in this order. */
enum nbd_phase {
	NBD_CLIENT_FLAGS,
	NBD_OPTION,
	NBD_OPTION_DATA,
	NBD_OPTION_SKIP,
	NBD_REQUEST,     /* first of the transmission phase */
	NBD_PAYLOAD,     /* of conn->current */
	NBD_STATUS_LIST, /* the same, of a BLOCK_STATUS */
	NBD_REFUSED,     /* payload of conn->current, thrown away; its answer follows */
	NBD_CLOSING,     /* nothing is read any more; what is outstanding is answered */
	NBD_LINGER, /* all is answered and the peer told so; what it still sends is thrown away */
	NBD_DEAD,   /* the stream is closed; freed when nothing is in flight */
};

/* Why nothing is read although the peer may send. */
enum {
	NBD_WAIT_MEMORY = 1, /* account.granted() ends it */
	NBD_WAIT_ROOM = 2,   /* LIMIT_NBD_IN_FLIGHT, or no request object */
	NBD_WAIT_OUTPUT = 4, /* negotiation: earlier answers are not sent yet */
	NBD_WAIT_TLS = 8,    /* STARTTLS: its answer is the last that is sent in the clear */
};

/*
 * From the parsed header to the last byte of the answer. From the slab cache; freed by
 * nbd_request_release() only, which its connection outlives.
 */
struct nbd_request {
	struct blk_request blk;
	struct nbd_conn *conn;
	uint64_t cookie; /* as it came: opaque bytes */
	uint16_t command;
	uint16_t flags;
	int refusal; /* phase NBD_REFUSED: the answer once the payload is gone */
	const char *refusal_text;
	struct iobuf buffer;
	uint32_t need;     /* bytes of buffer it works with */
	uint32_t reserved; /* of them, 0 or all */
	enum iobuf_use use;
	struct nbd_split *split; /* a READ answered in several chunks, else NULL */
	struct send_item head, tail;
	struct iovec iov[3];
	uint8_t header[NBD_EXTENDED_CHUNK_SIZE + 8];
};

struct nbd_conn {
	TAILQ_ENTRY(nbd_conn) link;
	struct nbd_loop *home;
	struct loop *loop;
	struct stream *stream;  /* NULL when dead */
	struct blk_handle *blk; /* from NBD_REQUEST on */
	struct nbd_terms terms;
	enum nbd_phase phase;
	unsigned wait;    /* NBD_WAIT_* */
	unsigned watched; /* STREAM_* asked for last */
	bool going;       /* drain or volume gone: new requests are refused, closed when idle */
	bool blocked;     /* the stream takes no more for now */
	bool secure;      /* STARTTLS was answered: all further bytes are TLS's */
	bool linger;      /* at the end: the peer may be sending */
	bool sweeping;
	bool fresh;          /* a request began or ended since progress was noted */
	unsigned in_flight;  /* requests that exist, unsent answers included */
	uint64_t split_from; /* a READ at least so long may be answered in several chunks */
	bool sparse;         /* and is looked at for holes */

	/* Input. */
	uint8_t header[NBD_HEADER_MAX]; /* a partial header */
	unsigned have;
	struct nbd_request *current; /* payload still to come, or held for memory */
	uint64_t
		left; /* bytes of payload or option data still to come; NBD_LINGER: to throw away */
	struct iobuf leftover; /* unparsed bytes from before a wait; freed as soon as parsed */
	size_t leftover_at;
	struct iobuf_account account;
	uint32_t wanted; /* NBD_WAIT_MEMORY: this reservation */
	enum iobuf_use wanted_use;

	/* Negotiation. */
	uint32_t option;
	uint32_t refusal; /* NBD_OPTION_SKIP: NBD_REP_ERR_*, or 0 where the data is ignored */
	const char *refusal_text;
	unsigned options; /* so far, of LIMIT_NBD_OPTIONS */
	uint8_t *data;    /* malloc'd while an option's data arrives in parts */
	size_t data_have, data_length;

	/* Output. */
	struct send_queue output;
	struct loop_task flush, resume, reap;

	/* Time (R05). */
	struct loop_sweep sweep;
	uint64_t since;        /* accepted */
	uint64_t progress_ns;  /* last byte received */
	uint64_t window_ns;    /* the current partial request is measured from here */
	uint64_t window_bytes; /* received since */
	uint64_t id;
};

static inline bool
nbd_negotiating(const struct nbd_conn *conn)
{
	return conn->phase < NBD_REQUEST;
}

/* False: whoever parses returns to its caller and leaves the rest of the bytes. */
static inline bool
nbd_reading(const struct nbd_conn *conn)
{
	return conn->phase < NBD_CLOSING && !conn->wait;
}

/* nbd_conn.c */

/* Caches: before the loops start, after they ended. */
int nbd_conn_start(void);
void nbd_conn_stop(void);
/* Owns the stream. */
void nbd_conn_accept(struct nbd_loop *home, struct loop *loop, struct stream *stream);
/* Its address, also when it is dead. */
const char *nbd_conn_peer(const struct nbd_conn *conn);
/* New requests are refused from now on; it is closed as soon as nothing is owed to the peer. */
void nbd_conn_set_going(struct nbd_conn *conn);
/* A wait may be over: looks again, in the loop's next phase of deferred tasks. */
void nbd_conn_resume(struct nbd_conn *conn);

/* Answers what is outstanding, then closes. `why` is for the log; NULL is nothing special. */
void nbd_conn_close(struct nbd_conn *conn, const char *why);
/* Closes now, whatever is in flight: answers are dropped. */
void nbd_conn_kill(struct nbd_conn *conn, const char *why);
/* Queues bytes for the peer; sent with others before the loop sleeps. */
void nbd_conn_send(struct nbd_conn *conn, struct send_item *item);
/*
 * A whole header of `size` bytes: where it stands in data, or put together in whole[]. *used gets
 * its bytes in data; conn->have = 0 consumes the rest of it. NULL: not whole yet, everything was
 * kept.
 */
const uint8_t *nbd_conn_header(struct nbd_conn *conn, const uint8_t *data, size_t length,
	size_t size, uint8_t whole[NBD_HEADER_MAX], size_t *used);
/* iobuf_reserve() for the connection; false: NBD_WAIT_MEMORY is set. */
bool nbd_conn_reserve(struct nbd_conn *conn, uint32_t bytes, enum iobuf_use use);
/* NULL: NBD_WAIT_ROOM is set. */
struct nbd_request *nbd_request_new(struct nbd_conn *conn);
void nbd_request_release(struct nbd_request *request);

/* nbd_deadline.c */

/* Something is timed now. */
void nbd_deadline_start(struct nbd_conn *conn);
void nbd_deadline_stop(struct nbd_conn *conn);
/* A partial request is measured from now on. */
void nbd_deadline_restart(struct nbd_conn *conn);
/* `bytes` were received and parsed. */
void nbd_deadline_note(struct nbd_conn *conn, size_t bytes);

/* nbd_negotiate.c */

void nbd_negotiate_start(struct nbd_conn *conn);
/* Returns the bytes consumed: all, unless it stops reading or the transmission phase begins. */
size_t nbd_negotiate(struct nbd_conn *conn, const uint8_t *data, size_t length);
/* Frees what negotiation may hold. Harmless at any time. */
void nbd_negotiate_end(struct nbd_conn *conn);

/*
 * An answer of the handshake, all of an option's replies together: one allocation, freed when sent.
 */
struct nbd_message {
	struct send_item item;
	struct iovec iov;
	struct writer writer;
	uint8_t bytes[];
};

/* Room for `size` bytes. NULL: no memory, and the connection is closed. */
struct nbd_message *nbd_message_new(struct nbd_conn *conn, size_t size);
void nbd_message_send(struct nbd_conn *conn, struct nbd_message *message);
/* The header of a reply to conn->option with `length` bytes of data. */
void
nbd_message_reply(struct writer *writer, const struct nbd_conn *conn, uint32_t type, size_t length);
/* `text`: for people, ASCII; nothing a client sent is echoed. */
void nbd_option_error(struct nbd_conn *conn, uint32_t type, const char *text);

/* nbd_option.c */

enum nbd_option_data {
	NBD_DATA_USED,
	NBD_DATA_IGNORED, /* skipped, however long */
	NBD_DATA_REFUSED, /* ERR_INVALID where there is any */
};

struct nbd_option {
	uint32_t number;
	enum nbd_option_data data;
	void (*handle)(struct nbd_conn *conn, const uint8_t *data, size_t length);
};

/* NULL: unknown. */
const struct nbd_option *nbd_option_find(uint32_t number);
/* Why it is refused before its data is looked at: NBD_REP_ERR_* and a text, or 0. */
uint32_t nbd_option_refuse(const struct nbd_conn *conn, const struct nbd_option *option,
	uint32_t length, const char **text);

/* Nothing but STARTTLS and ABORT is taken before TLS. */
bool nbd_needs_tls(const struct nbd_conn *conn);

/* nbd_transmit.c */

/* Returns the bytes consumed: all, unless it stops reading. */
size_t nbd_transmit(struct nbd_conn *conn, const uint8_t *data, size_t length);
/* The reservation that conn->current waited for has been made. */
void nbd_transmit_granted(struct nbd_conn *conn);
/* Where the next bytes of the payload may be received in place, in iov[2]; 0: not now. */
size_t nbd_payload_room(struct nbd_conn *conn, struct iovec *iov, unsigned *niov);
/* So many bytes have been received there. */
void nbd_payload_arrived(struct nbd_conn *conn, size_t bytes);

/* nbd_reply.c */

/* The blk.done of every request. */
void nbd_reply_done(struct blk_request *blk);
/* Answers with an error: rc is -errno, `text` says more than errno does, or is NULL. */
void nbd_reply_error(struct nbd_request *request, int rc, const char *text);
/*
 * The header of a chunk with `length` bytes of payload, in the form that was negotiated; its size.
 * `offset` is the request's.
 */
size_t nbd_write_chunk(const struct nbd_request *request, uint8_t *header, unsigned flags,
	unsigned type, uint64_t offset, uint64_t length);
/* Queues the answer: the first `length` bytes of request->header, then niov pieces in iov[1 ..]. */
void nbd_send_reply(struct nbd_request *request, size_t length, unsigned niov);

/* nbd_read.c */

/* Caches, as nbd_conn_start(). */
int nbd_read_start(void);
void nbd_read_stop(void);
/* What of conn follows from the volume. */
void nbd_read_prepare(struct nbd_conn *conn, const struct blk_info *info);
/* A READ whose memory is reserved. False: it is answered in one chunk, as others are. */
bool nbd_read_split(struct nbd_conn *conn, struct nbd_request *request);
/* A part of it has ended in the block layer. */
void nbd_read_done(struct nbd_request *request);
/* Frees request->split. */
void nbd_read_free(struct nbd_request *request);

/* nbd_status.c */

/* Answers a BLOCK_STATUS from the extents that were found. */
void nbd_send_status(struct nbd_request *request);

/* nbd_export.c */

/* A handle for the connection; fills `info` and what of the terms follows from it. NULL with *rc.
 */
struct blk_handle *
nbd_export_open(struct nbd_conn *conn, const struct export *export, struct blk_info *info, int *rc);
uint32_t nbd_export_preferred(const struct export *export, const struct blk_info *info);
uint64_t nbd_export_hash(const void *name, size_t length);
/* base:allocation is selected for the export of that name. */
bool nbd_context_selected(const struct nbd_terms *terms, const void *name, size_t length);

/*
 * Does a metadata query name base:allocation? `listing`: the wildcard "base:" does too. 1, 0, or
 * -EINVAL when it is no query at all.
 */
int nbd_context_match(const uint8_t *query, size_t length, bool listing);
#define NBD_BASE_ALLOCATION    "base:allocation"
#define NBD_BASE_ALLOCATION_ID 1

#endif
