/*
 * A byte stream to a peer: plain (stream_plain.c), TLS over another one (stream_tls.c, made by
 * tls.h), a test's pipe (tests/lib/stream_pipe.c).
 * Belongs to one loop at a time and is touched only there. Nothing here blocks.
 */
#ifndef SLABD_STREAM_H
#define SLABD_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "loop.h"

enum { STREAM_READABLE = 1, STREAM_WRITABLE = 2 };

struct stream {
	const struct stream_ops *ops;
	struct loop *loop;
	void (*ready)(struct stream *stream, unsigned events); /* the owner's */
	void *owner;
	struct stranger *stranger; /* the server's, of a peer not known yet */
};

struct stream_ops {
	/* Bytes moved; 0 (read only) at the peer's end of stream; -EAGAIN; other -errno: it is dead. */
	ssize_t (*read)(struct stream *stream, const struct iovec *iov, unsigned niov);
	ssize_t (*write)(struct stream *stream, const struct iovec *iov, unsigned niov);
	/* Which STREAM_* events the owner wants; level-triggered. */
	int (*watch)(struct stream *stream, unsigned events);
	int (*attach)(struct stream *stream, struct loop *loop);
	void (*detach)(struct stream *stream);
	void (*close)(struct stream *stream);
	/* Optional: see stream_finish(). */
	int (*finish)(struct stream *stream);
	const char *(*peer)(const struct stream *stream);
	const char *(*local)(const struct stream *stream);
	/* Optional: see stream_established(). */
	void (*established)(struct stream *stream);
	/* Optional: as who the peer proved itself, and by what means the stream is secure. */
	const char *(*identity)(const struct stream *stream);
	const char *(*security)(const struct stream *stream);
};

/*
 * Wraps a connected socket (TCP, unix or vsock; TCP_NODELAY is set), not yet on a loop.
 * Owns fd from here on, also when it fails (NULL: no memory). Any thread.
 */
struct stream *stream_plain_new(int fd);

/*
 * Puts the stream on the calling thread's loop and wants STREAM_READABLE; from now on `ready` is
 * called with what is true. ready() may close the stream. 0 or -errno (stream unchanged).
 */
int stream_attach(struct stream *stream, struct loop *loop,
	void (*ready)(struct stream *stream, unsigned events), void *owner);

/* Takes it off its loop, with nothing queued, so that it can be posted to another. */
void stream_detach(struct stream *stream);

static inline ssize_t
stream_read(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	return stream->ops->read(stream, iov, niov);
}

static inline ssize_t
stream_write(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	return stream->ops->write(stream, iov, niov);
}

static inline int
stream_watch(struct stream *stream, unsigned events)
{
	return stream->ops->watch(stream, events);
}

/*
 * Nothing more will be written: the peer sees the end of the stream behind what was sent, and may
 * still be read from. 0, or -errno: close it.
 */
int stream_finish(struct stream *stream);

/* The protocol's handshake or login is done: the peer is no stranger any more. */
void stream_established(struct stream *stream);

/* Frees it. No callback afterwards. */
void stream_close(struct stream *stream);

/*
 * "10.0.0.7:41332", "[fd00::7]:41332" or "unix"; where it came from and which of our addresses it
 * reached. The stream's own memory.
 */
const char *stream_peer(const struct stream *stream);
const char *stream_local(const struct stream *stream);

/* "CN=backup.example.net" or a PSK's identity; "" where the peer proved nothing (yet). */
const char *stream_identity(const struct stream *stream);
/* "TLS 1.3"; NULL: not secured (yet). */
const char *stream_security(const struct stream *stream);

/*
 * What is to be sent, in order, gathered into as few writes as possible. An item lives in its owner's
 * object; sent() is called once, when its last byte was handed to the stream (rc 0) or the queue was
 * dropped (rc -errno), and may free the item. Its vector and bytes must stay until then.
 */
struct send_item {
	STAILQ_ENTRY(send_item) link;
	const struct iovec *iov;
	unsigned niov;
	void (*sent)(struct send_item *item, int rc);
};

struct send_queue {
	struct stream *stream;
	STAILQ_HEAD(, send_item) items;
	size_t done;          /* bytes of the first item already sent */
	uint64_t bytes;       /* queued and unsent */
	uint64_t progress_ns; /* loop_now() of the last byte sent, or of the first push to an empty queue */
};

void send_queue_init(struct send_queue *queue, struct stream *stream);
void send_queue_push(struct send_queue *queue, struct send_item *item);

/*
 * Sends what the stream takes, calling sent() on the way. 0: empty now. -EAGAIN: the stream is full;
 * want STREAM_WRITABLE and flush again then. Other -errno: the stream is dead; drop the queue.
 */
int send_queue_flush(struct send_queue *queue);

/* Calls sent(item, rc) for everything left. */
void send_queue_drop(struct send_queue *queue, int rc);

static inline bool
send_queue_empty(const struct send_queue *queue)
{
	return STAILQ_EMPTY(&queue->items);
}

#endif
