/*
 * Life of a connection: accepted, read, flushed, held back, closed, freed.
 *
 * It dies in three steps. Whoever finds it ought to end calls nbd_conn_kill(): the stream is
 * closed, unsent answers are dropped, the phase is NBD_DEAD. Requests still in the block layer come
 * back to nbd_reply_done(), which only releases them. When none is left and no task of ours is
 * queued, on_reap() frees it at the end of the loop's turn.
 */
#include "config.h"

#include "nbd/nbd.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "catalogue.h"
#include "check.h"
#include "frontend.h"
#include "limits.h"
#include "log.h"
#include "slab.h"

/* Bytes of one read during negotiation: what a wait may have to keep is small before GO (R04). */
#define NEGOTIATION_READ (16 * 1024)

static void on_ready(struct stream *stream, unsigned events);

static struct slab_cache *conn_cache;
static struct slab_cache *request_cache;

const char *
nbd_conn_peer(const struct nbd_conn *conn)
{
	/* A dead one has no stream, but the handle's name is "nbd PEER". */
	if (conn->stream)
		return stream_peer(conn->stream);
	return conn->blk ? blk_name(conn->blk) + strlen("nbd ") : "";
}

static void
reap_when_unused(struct nbd_conn *conn)
{
	if (conn->phase != NBD_DEAD || conn->in_flight || conn->flush.queued ||
		conn->resume.queued || conn->reap.queued)
		return;
	loop_reap(conn->loop, &conn->reap);
}

static void
on_reap(struct loop_task *task)
{
	struct nbd_conn *conn = container_of(task, struct nbd_conn, reap);

	TAILQ_REMOVE(&conn->home->conns, conn, link);
	conn->home->count--;
	iobuf_account_close(&conn->account);
	if (conn->blk)
		blk_close(conn->blk);
	slab_free(conn_cache, conn);
}

static void
free_leftover(struct nbd_conn *conn)
{
	size_t length = conn->leftover.length;

	if (length == 0)
		return;
	iobuf_free(&conn->leftover);
	conn->home->leftover -= length;
	iobuf_unreserve(&conn->account, length, IOBUF_READY);
}

static void
drop_input(struct nbd_conn *conn)
{
	struct nbd_request *current = conn->current;

	nbd_negotiate_end(conn);
	free_leftover(conn);
	conn->have = 0;
	conn->current = NULL;
	if (current)
		nbd_request_release(current);
}

void
nbd_conn_kill(struct nbd_conn *conn, const char *why)
{
	if (conn->phase == NBD_DEAD)
		return;
	if (why)
		log_debug("nbd %s: %s: closed", nbd_conn_peer(conn), why);
	conn->phase = NBD_DEAD;
	drop_input(conn);
	send_queue_drop(&conn->output, -ECONNABORTED);
	nbd_deadline_stop(conn);
	stream_close(conn->stream);
	conn->stream = NULL;
	reap_when_unused(conn);
}

static void
schedule_flush(struct nbd_conn *conn)
{
	if (!conn->blocked && !conn->flush.queued)
		loop_before_sleep(conn->loop, &conn->flush);
}

void
nbd_conn_send(struct nbd_conn *conn, struct send_item *item)
{
	send_queue_push(&conn->output, item);
	schedule_flush(conn);
}

void
nbd_conn_close(struct nbd_conn *conn, const char *why)
{
	if (conn->phase >= NBD_CLOSING)
		return;
	if (why)
		log_debug("nbd %s: %s: closing", nbd_conn_peer(conn), why);
	conn->phase = NBD_CLOSING;
	conn->linger = true;
	drop_input(conn);
	schedule_flush(conn);
}

/* Nothing is owed to the peer: its requests are answered and it is not in the middle of one. */
static bool
is_idle(const struct nbd_conn *conn)
{
	unsigned in_flight = conn->in_flight;

	if (!send_queue_empty(&conn->output) || conn->leftover.length)
		return false;
	if (conn->phase == NBD_REFUSED)
		in_flight--;
	if (nbd_negotiating(conn) && (conn->phase > NBD_OPTION || conn->have))
		return false;
	return in_flight == 0;
}

static void
set_watch(struct nbd_conn *conn)
{
	unsigned events = 0;
	int rc;

	if (conn->phase == NBD_DEAD)
		return;
	if (conn->blocked)
		events |= STREAM_WRITABLE;
	if ((nbd_reading(conn) && !conn->leftover.length) || conn->phase == NBD_LINGER)
		events |= STREAM_READABLE;
	if (events == conn->watched)
		return;
	rc = stream_watch(conn->stream, events);
	if (rc) {
		nbd_conn_kill(conn, "cannot be watched");
		return;
	}
	conn->watched = events;
}

/*
 * All is answered. A socket that is closed with bytes unread, or that gets more of them, is reset,
 * and the reset may overtake the last answers: so the peer is told the end first, and for a short
 * while what it sends is thrown away.
 */
static void
end_connection(struct nbd_conn *conn)
{
	if (!conn->linger || stream_finish(conn->stream)) {
		nbd_conn_kill(conn, NULL);
		return;
	}
	conn->phase = NBD_LINGER;
	drop_input(conn);
	if (conn->blk)
		blk_close(conn->blk);
	conn->blk = NULL;
	conn->left = LIMIT_NBD_LINGER_BYTES;
	conn->progress_ns = loop_now(conn->loop);
	nbd_deadline_start(conn);
	set_watch(conn);
}

/* The end, or more than there ought to be. */
static void
throw_away(struct nbd_conn *conn)
{
	struct iovec iov = {.iov_base = loop_buffer(conn->loop), .iov_len = LIMIT_RECV_BUFFER};
	ssize_t got = stream_read(conn->stream, &iov, 1);

	if (got == -EAGAIN)
		return;
	if (got <= 0 || (uint64_t)got >= conn->left)
		nbd_conn_kill(conn, NULL);
	else
		conn->left -= (uint64_t)got;
}

/*
 * The answer to STARTTLS is sent. proto.md "NBD_OPT_STARTTLS", R07: nothing that was agreed on
 * before stays, and nothing that came in the clear is used (CVE-2021-3716). What the client sends
 * from now on goes through TLS, whatever it is.
 */
static void
start_tls(struct nbd_conn *conn)
{
	const struct catalogue *catalogue = catalogue_get();
	struct stream *secure = NULL;

	drop_input(conn);
	conn->terms = (struct nbd_terms){.fixed = true, .no_zeroes = conn->terms.no_zeroes};
	/* All answers are sent, so what waited for that waits no more. */
	conn->wait &= ~(unsigned)(NBD_WAIT_TLS | NBD_WAIT_OUTPUT);
	stream_detach(conn->stream);
	if (catalogue && catalogue->tls_context)
		secure = stream_tls_new(conn->stream, catalogue->tls_context);
	if (catalogue)
		catalogue_put(catalogue);
	if (!secure) {
		nbd_conn_kill(conn, "no TLS any more");
		return;
	}
	conn->stream = secure;
	conn->watched = STREAM_READABLE;
	send_queue_init(&conn->output, secure);
	if (stream_attach(secure, conn->loop, on_ready, conn))
		nbd_conn_kill(conn, "cannot be watched");
}

static void
flush_output(struct nbd_conn *conn)
{
	int rc = send_queue_flush(&conn->output);

	if (rc && rc != -EAGAIN) {
		nbd_conn_kill(conn, "connection lost");
		return;
	}
	conn->blocked = rc == -EAGAIN;
	if (conn->blocked) {
		nbd_deadline_start(conn);
	} else if ((conn->phase == NBD_CLOSING || conn->going) && is_idle(conn)) {
		end_connection(conn);
		return;
	} else if (conn->wait & NBD_WAIT_TLS) {
		start_tls(conn);
	} else if (conn->wait & NBD_WAIT_OUTPUT) {
		nbd_conn_resume(conn);
	}
	set_watch(conn);
}

static void
on_flush(struct loop_task *task)
{
	struct nbd_conn *conn = container_of(task, struct nbd_conn, flush);

	if (conn->phase < NBD_LINGER)
		flush_output(conn);
	reap_when_unused(conn);
}

const uint8_t *
nbd_conn_header(struct nbd_conn *conn, const uint8_t *data, size_t length, size_t size,
	uint8_t whole[NBD_HEADER_MAX], size_t *used)
{
	if (conn->have + length < size) {
		memcpy(conn->header + conn->have, data, length);
		conn->have += (unsigned)length;
		*used = length;
		return NULL;
	}
	*used = size - conn->have;
	if (!conn->have)
		return data;
	memcpy(whole, conn->header, conn->have);
	memcpy(whole + conn->have, data, *used);
	return whole;
}

/* Until all is consumed, or the connection waits or closes. */
static size_t
feed_bytes(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	size_t at = 0;

	while (at < length && nbd_reading(conn)) {
		if (nbd_negotiating(conn))
			at += nbd_negotiate(conn, data + at, length - at);
		else
			at += nbd_transmit(conn, data + at, length - at);
	}
	return at;
}

/*
 * The loop's buffer is another connection's in a moment, and what is in it was taken from the
 * socket: it is kept aside until the wait is over. At most LIMIT_RECV_BUFFER a connection; it
 * counts for the budget, but does not wait for it.
 */
static void
keep_leftover(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	if (iobuf_take(&conn->leftover, length)) {
		nbd_conn_kill(conn, "no memory for its requests");
		return;
	}
	iov_from(conn->leftover.iov, conn->leftover.niov, 0, data, length);
	conn->leftover_at = 0;
	conn->home->leftover += length;
	iobuf_charge(&conn->account, length, IOBUF_READY);
}

static void
feed_leftover(struct nbd_conn *conn)
{
	const struct iobuf *leftover = &conn->leftover;
	struct iovec part;
	size_t used;

	while (nbd_reading(conn) && conn->leftover_at < leftover->length) {
		iov_slice(
			leftover->iov, leftover->niov, conn->leftover_at, SIZE_MAX, &part, 1, NULL);
		used = feed_bytes(conn, part.iov_base, part.iov_len);
		conn->leftover_at += used;
	}
	/* Closing has freed it already. */
	if (conn->leftover_at == leftover->length)
		free_leftover(conn);
}

/* Of one read: what a wait may have to keep. */
static size_t
receive_size(const struct nbd_conn *conn)
{
	if (nbd_negotiating(conn))
		return NEGOTIATION_READ;
	return conn->home->leftover > LIMIT_NBD_LEFTOVER ? LIMIT_NBD_SMALL_READ : LIMIT_RECV_BUFFER;
}

static void
read_input(struct nbd_conn *conn)
{
	uint8_t *buffer = loop_buffer(conn->loop);
	struct iovec iov[3];
	unsigned niov = 0;
	size_t room = 0;
	size_t in_place, rest, used;
	ssize_t got;

	if (conn->phase == NBD_PAYLOAD && conn->left > LIMIT_DIRECT_RECV)
		room = nbd_payload_room(conn, iov, &niov);
	if (!nbd_reading(conn)) {
		set_watch(conn);
		return;
	}
	/* Behind a piece that is not the payload's last there would be only more payload to copy.
	 */
	if (room == 0 || room == conn->left) {
		iov[niov].iov_base = buffer;
		iov[niov++].iov_len = receive_size(conn);
	}
	got = stream_read(conn->stream, iov, niov);
	if (got == -EAGAIN)
		return;
	if (got < 0) {
		nbd_conn_kill(conn, "connection lost");
		return;
	}
	if (got == 0) {
		/* It may have closed its side only: what it asked for is still answered. */
		nbd_conn_close(conn, NULL);
		conn->linger = false;
		set_watch(conn);
		return;
	}
	in_place = min_size((size_t)got, room);
	if (in_place)
		nbd_payload_arrived(conn, in_place);
	rest = (size_t)got - in_place;
	used = feed_bytes(conn, buffer, rest);
	/* Behind STARTTLS there is nothing to keep (R07). */
	if (used < rest && conn->phase < NBD_CLOSING && !(conn->wait & NBD_WAIT_TLS))
		keep_leftover(conn, buffer + used, rest - used);
	nbd_deadline_note(conn, (size_t)got);
	if (conn->wait & NBD_WAIT_ROOM)
		nbd_deadline_start(conn);
	set_watch(conn);
}

static void
on_ready(struct stream *stream, unsigned events)
{
	struct nbd_conn *conn = stream->owner;

	if (events & STREAM_WRITABLE && conn->blocked)
		flush_output(conn);
	if (events & STREAM_READABLE && conn->phase == NBD_LINGER)
		throw_away(conn);
	else if (events & STREAM_READABLE && nbd_reading(conn) && !conn->leftover.length)
		read_input(conn);
}

void
nbd_conn_resume(struct nbd_conn *conn)
{
	if (!conn->resume.queued)
		loop_defer(conn->loop, &conn->resume);
}

/* A wait may be over. */
static void
on_resume(struct loop_task *task)
{
	struct nbd_conn *conn = container_of(task, struct nbd_conn, resume);

	if (conn->phase == NBD_DEAD) {
		reap_when_unused(conn);
		return;
	}
	conn->wait &= ~(unsigned)(NBD_WAIT_ROOM | NBD_WAIT_OUTPUT);
	if (conn->leftover.length && nbd_reading(conn)) {
		feed_leftover(conn);
		conn->fresh = true;
		nbd_deadline_note(conn, 0);
		if (conn->wait & NBD_WAIT_ROOM)
			nbd_deadline_start(conn);
	}
	set_watch(conn);
}

static void
on_granted(struct iobuf_account *account)
{
	struct nbd_conn *conn = container_of(account, struct nbd_conn, account);

	conn->wait &= ~(unsigned)NBD_WAIT_MEMORY;
	if (conn->phase >= NBD_CLOSING) {
		/* The request that wanted it is gone, others may be in flight for long yet. */
		iobuf_unreserve(account, conn->wanted, conn->wanted_use);
		return;
	}
	nbd_transmit_granted(conn);
	nbd_deadline_restart(conn);
	nbd_conn_resume(conn);
}

bool
nbd_conn_reserve(struct nbd_conn *conn, uint32_t bytes, enum iobuf_use use)
{
	if (iobuf_reserve(&conn->account, bytes, use))
		return true;
	conn->wait |= NBD_WAIT_MEMORY;
	conn->wanted = bytes;
	conn->wanted_use = use;
	return false;
}

struct nbd_request *
nbd_request_new(struct nbd_conn *conn)
{
	struct nbd_request *request = NULL;

	if (conn->in_flight < LIMIT_NBD_IN_FLIGHT)
		request = slab_alloc(request_cache);
	if (!request) {
		conn->wait |= NBD_WAIT_ROOM;
		return NULL;
	}
	*request = (struct nbd_request){.conn = conn, .blk.done = nbd_reply_done};
	conn->in_flight++;
	return request;
}

void
nbd_request_release(struct nbd_request *request)
{
	struct nbd_conn *conn = request->conn;

	iobuf_free(&request->buffer);
	if (request->split)
		nbd_read_free(request);
	if (request->reserved)
		iobuf_unreserve(&conn->account, request->reserved, request->use);
	slab_free(request_cache, request);
	conn->in_flight--;
	if (conn->phase == NBD_DEAD)
		reap_when_unused(conn);
	else if (conn->wait & NBD_WAIT_ROOM)
		nbd_conn_resume(conn);
}

int
nbd_conn_start(void)
{
	conn_cache = slab_cache_new("nbd_conn", sizeof(struct nbd_conn), 0, 0, NULL);
	request_cache = slab_cache_new("nbd_request", sizeof(struct nbd_request), 0, 0, NULL);
	return conn_cache && request_cache ? nbd_read_start() : -ENOMEM;
}

void
nbd_conn_stop(void)
{
	if (conn_cache)
		slab_cache_free(conn_cache);
	if (request_cache)
		slab_cache_free(request_cache);
	conn_cache = NULL;
	request_cache = NULL;
	nbd_read_stop();
}

void
nbd_conn_accept(struct nbd_loop *home, struct loop *loop, struct stream *stream)
{
	struct nbd_conn *conn = home->draining ? NULL : slab_alloc(conn_cache);

	if (!conn) {
		stream_close(stream);
		return;
	}
	*conn = (struct nbd_conn){
		.home = home,
		.loop = loop,
		.stream = stream,
		.phase = NBD_CLIENT_FLAGS,
		.watched = STREAM_READABLE,
		.fresh = true,
		.flush.run = on_flush,
		.resume.run = on_resume,
		.reap.run = on_reap,
		.since = loop_now(loop),
		.id = frontend_next_id(),
	};
	if (stream_attach(stream, loop, on_ready, conn)) {
		stream_close(stream);
		slab_free(conn_cache, conn);
		return;
	}
	iobuf_account_init(&conn->account, loop, on_granted);
	send_queue_init(&conn->output, stream);
	TAILQ_INSERT_TAIL(&home->conns, conn, link);
	home->count++;
	nbd_deadline_start(conn);
	nbd_negotiate_start(conn);
}

void
nbd_conn_set_going(struct nbd_conn *conn)
{
	if (conn->phase >= NBD_LINGER)
		return;
	/* Who waits for nothing need not be waited for. */
	if (!conn->going && conn->phase < NBD_CLOSING)
		conn->linger = !is_idle(conn);
	conn->going = true;
	schedule_flush(conn);
}
