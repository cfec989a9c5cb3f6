/*
 * Life of a connection: accepted, read, flushed, held back, timed, closed, freed.
 *
 * It dies in three steps. Whoever finds it ought to end calls nbd_conn_kill(): the stream is
 * closed, unsent answers are dropped, the phase is NBD_DEAD. Requests still in the block layer come
 * back to nbd_reply_done(), which only releases them. When none is left and no task of ours is
 * queued, on_reap() frees it at the end of the loop's turn.
 */
#include "config.h"

#include "nbd/nbd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "frontend.h"
#include "limits.h"
#include "log.h"
#include "slab.h"
#include "volume.h"

/* Bytes of one read during negotiation: what a wait may have to keep is small before GO (R04). */
#define NEGOTIATION_READ (16 * 1024)

/* One per loop, of that loop's thread. */
struct nbd_loop {
	_Alignas(64) TAILQ_HEAD(, nbd_conn) conns;
	unsigned count;
	bool draining;
};

static struct nbd_loop loops[LIMIT_LOOPS + 1];
static struct slab_cache *conn_cache;
static struct slab_cache *request_cache;

static struct nbd_loop *
loop_state(const struct loop *loop)
{
	return &loops[loop_index(loop)];
}

static const char *
peer_name(const struct nbd_conn *conn)
{
	/* A dead one has no stream, but the handle's name is "nbd PEER". */
	if (conn->stream)
		return stream_peer(conn->stream);
	return conn->blk ? blk_name(conn->blk) + strlen("nbd ") : "";
}

/* --- time --- */

static bool
is_partial(const struct nbd_conn *conn)
{
	if (conn->phase == NBD_REQUEST)
		return conn->have > 0;
	return conn->phase == NBD_PAYLOAD || conn->phase == NBD_REFUSED;
}

static bool
is_timed(const struct nbd_conn *conn)
{
	return nbd_negotiating(conn) || is_partial(conn) || (conn->wait & NBD_WAIT_ROOM) ||
	       !send_queue_empty(&conn->output);
}

static void
start_sweep(struct nbd_conn *conn)
{
	if (conn->sweeping || conn->phase == NBD_DEAD)
		return;
	conn->sweeping = true;
	loop_sweep_add(conn->loop, &conn->sweep);
}

static void
stop_sweep(struct nbd_conn *conn)
{
	if (!conn->sweeping)
		return;
	conn->sweeping = false;
	loop_sweep_remove(conn->loop, &conn->sweep);
}

static void
restart_window(struct nbd_conn *conn)
{
	conn->progress_ns = loop_now(conn->loop);
	conn->window_ns = conn->progress_ns;
	conn->window_bytes = 0;
}

/* After `bytes` were received and parsed. */
static void
note_progress(struct nbd_conn *conn, size_t bytes)
{
	if (!is_partial(conn))
		return;
	if (conn->fresh) {
		conn->fresh = false;
		restart_window(conn);
	} else {
		conn->progress_ns = loop_now(conn->loop);
		conn->window_bytes += bytes;
	}
	start_sweep(conn);
}

static bool
is_older(uint64_t now, uint64_t then, uint64_t limit)
{
	return now > then && now - then > limit;
}

/* R05: what has taken too long, or NULL. */
static const char *
find_overdue(struct nbd_conn *conn, uint64_t now)
{
	if (nbd_negotiating(conn) && is_older(now, conn->since, LIMIT_NBD_HANDSHAKE))
		return "negotiation took too long";
	if (!send_queue_empty(&conn->output) &&
		is_older(now, conn->output.progress_ns, LIMIT_OUTPUT_STALL))
		return "takes no answers";
	if (!is_partial(conn))
		return NULL;
	if (conn->wait || conn->leftover.length) {
		/* We do not read: the peer's clock stands still. */
		restart_window(conn);
		return NULL;
	}
	if (is_older(now, conn->progress_ns, LIMIT_PARTIAL_IDLE))
		return "stopped in the middle of a request";
	if (is_older(now, conn->window_ns, LIMIT_PARTIAL_WINDOW)) {
		/* Silence has its own, longer limit. */
		if (conn->window_bytes > 0 && conn->window_bytes < LIMIT_PARTIAL_BYTES)
			return "sends a request too slowly";
		conn->window_ns = now;
		conn->window_bytes = 0;
	}
	return NULL;
}

static void schedule_resume(struct nbd_conn *conn);

static void
on_sweep(struct loop_sweep *sweep, uint64_t now)
{
	struct nbd_conn *conn = container_of(sweep, struct nbd_conn, sweep);
	const char *overdue = find_overdue(conn, now);

	if (overdue) {
		nbd_conn_kill(conn, overdue);
		return;
	}
	if (conn->wait & NBD_WAIT_ROOM)
		schedule_resume(conn);
	if (!is_timed(conn))
		stop_sweep(conn);
}

/* --- death --- */

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
	struct nbd_loop *state = loop_state(conn->loop);

	TAILQ_REMOVE(&state->conns, conn, link);
	state->count--;
	iobuf_account_close(&conn->account);
	if (conn->blk)
		blk_close(conn->blk);
	slab_free(conn_cache, conn);
}

static void
drop_input(struct nbd_conn *conn)
{
	struct nbd_request *current = conn->current;

	nbd_negotiate_end(conn);
	iobuf_free(&conn->leftover);
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
		log_debug("nbd %s: %s: closed", peer_name(conn), why);
	conn->phase = NBD_DEAD;
	drop_input(conn);
	send_queue_drop(&conn->output, -ECONNABORTED);
	stop_sweep(conn);
	stream_close(conn->stream);
	conn->stream = NULL;
	reap_when_unused(conn);
}

/* --- output --- */

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
		log_debug("nbd %s: %s: closing", peer_name(conn), why);
	conn->phase = NBD_CLOSING;
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
	if (nbd_reading(conn) && !conn->leftover.length)
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
		start_sweep(conn);
	} else if ((conn->phase == NBD_CLOSING || conn->going) && is_idle(conn)) {
		nbd_conn_kill(conn, NULL);
		return;
	} else if (conn->wait & NBD_WAIT_OUTPUT) {
		schedule_resume(conn);
	}
	set_watch(conn);
}

static void
on_flush(struct loop_task *task)
{
	struct nbd_conn *conn = container_of(task, struct nbd_conn, flush);

	if (conn->phase != NBD_DEAD)
		flush_output(conn);
	reap_when_unused(conn);
}

/* --- input --- */

const uint8_t *
nbd_conn_header(struct nbd_conn *conn, const uint8_t *data, size_t length, size_t size,
	uint8_t whole[NBD_REQUEST_SIZE], size_t *used)
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
 * socket: it is kept aside until the wait is over. At most LIMIT_RECV_BUFFER a connection, and
 * outside the budget whose exhaustion may be the cause.
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
		iobuf_free(&conn->leftover);
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
		iov[niov++].iov_len = nbd_negotiating(conn) ? NEGOTIATION_READ : LIMIT_RECV_BUFFER;
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
		set_watch(conn);
		return;
	}
	in_place = min_size((size_t)got, room);
	if (in_place)
		nbd_payload_arrived(conn, in_place);
	rest = (size_t)got - in_place;
	used = feed_bytes(conn, buffer, rest);
	if (used < rest && conn->phase < NBD_CLOSING)
		keep_leftover(conn, buffer + used, rest - used);
	note_progress(conn, (size_t)got);
	if (conn->wait & NBD_WAIT_ROOM)
		start_sweep(conn);
	set_watch(conn);
}

static void
on_ready(struct stream *stream, unsigned events)
{
	struct nbd_conn *conn = stream->owner;

	if (events & STREAM_WRITABLE && conn->blocked)
		flush_output(conn);
	if (events & STREAM_READABLE && nbd_reading(conn) && !conn->leftover.length)
		read_input(conn);
}

static void
schedule_resume(struct nbd_conn *conn)
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
		note_progress(conn, 0);
		if (conn->wait & NBD_WAIT_ROOM)
			start_sweep(conn);
	}
	set_watch(conn);
}

static void
on_granted(struct iobuf_account *account)
{
	struct nbd_conn *conn = container_of(account, struct nbd_conn, account);

	conn->wait &= ~(unsigned)NBD_WAIT_MEMORY;
	if (conn->phase == NBD_DEAD) {
		/* The request that wanted it is gone, others may be in flight for long yet. */
		iobuf_unreserve(account, conn->wanted, conn->wanted_use);
		return;
	}
	nbd_transmit_granted(conn);
	restart_window(conn);
	schedule_resume(conn);
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

/* --- requests --- */

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
	if (request->reserved)
		iobuf_unreserve(&conn->account, request->reserved, request->use);
	slab_free(request_cache, request);
	conn->in_flight--;
	if (conn->phase == NBD_DEAD)
		reap_when_unused(conn);
	else if (conn->wait & NBD_WAIT_ROOM)
		schedule_resume(conn);
}

/* --- the frontend --- */

static int
start_frontend(void)
{
	conn_cache = slab_cache_new("nbd_conn", sizeof(struct nbd_conn), 0, 0, NULL);
	request_cache = slab_cache_new("nbd_request", sizeof(struct nbd_request), 0, 0, NULL);
	if (!conn_cache || !request_cache)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(loops); i++) {
		TAILQ_INIT(&loops[i].conns);
		loops[i].count = 0;
		loops[i].draining = false;
	}
	return 0;
}

static void
stop_frontend(void)
{
	if (conn_cache)
		slab_cache_free(conn_cache);
	if (request_cache)
		slab_cache_free(request_cache);
	conn_cache = NULL;
	request_cache = NULL;
}

static void
accept_stream(struct loop *loop, struct stream *stream, const struct portal *portal)
{
	struct nbd_loop *state = loop_state(loop);
	struct nbd_conn *conn;

	(void)portal;
	conn = state->draining ? NULL : slab_alloc(conn_cache);
	if (!conn) {
		stream_close(stream);
		return;
	}
	*conn = (struct nbd_conn){
		.loop = loop,
		.stream = stream,
		.phase = NBD_CLIENT_FLAGS,
		.watched = STREAM_READABLE,
		.fresh = true,
		.flush.run = on_flush,
		.resume.run = on_resume,
		.reap.run = on_reap,
		.sweep.sweep = on_sweep,
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
	TAILQ_INSERT_TAIL(&state->conns, conn, link);
	state->count++;
	start_sweep(conn);
	nbd_negotiate_start(conn);
}

/* New requests are refused from now on; it is closed as soon as nothing is owed to the peer. */
static void
begin_going(struct nbd_conn *conn)
{
	if (conn->phase == NBD_DEAD)
		return;
	conn->going = true;
	schedule_flush(conn);
}

static void
drain_loop(struct loop *loop)
{
	struct nbd_loop *state = loop_state(loop);
	struct nbd_conn *conn;

	state->draining = true;
	TAILQ_FOREACH(conn, &state->conns, link)
		begin_going(conn);
}

static void
abort_loop(struct loop *loop)
{
	struct nbd_conn *conn;

	TAILQ_FOREACH(conn, &loop_state(loop)->conns, link)
		nbd_conn_kill(conn, NULL);
}

static void
forget_volume(struct loop *loop, struct volume *volume)
{
	struct nbd_conn *conn;

	TAILQ_FOREACH(conn, &loop_state(loop)->conns, link) {
		if (conn->blk && blk_volume(conn->blk) == volume)
			begin_going(conn);
	}
}

static unsigned
count_connections(struct loop *loop, unsigned *in_flight)
{
	struct nbd_loop *state = loop_state(loop);
	struct nbd_conn *conn;

	*in_flight = 0;
	TAILQ_FOREACH(conn, &state->conns, link)
		*in_flight += conn->in_flight;
	return state->count;
}

static void
describe_conn(const struct nbd_conn *conn, char *text, size_t size)
{
	if (nbd_negotiating(conn))
		snprintf(text, size, "negotiating");
	else
		snprintf(text, size, "%s%s%s%s", conn->terms.structured ? "structured" : "simple",
			conn->terms.base_allocation ? ", " NBD_BASE_ALLOCATION : "",
			conn->terms.flags & NBD_FLAG_READ_ONLY ? ", read-only" : "",
			conn->going || conn->phase >= NBD_CLOSING ? ", closing" : "");
}

static void
visit_connections(struct loop *loop, connection_visit *visit, void *arg)
{
	struct nbd_conn *conn;
	char what[80];

	TAILQ_FOREACH(conn, &loop_state(loop)->conns, link) {
		struct connection_row row = {
			.id = conn->id,
			.protocol = "nbd",
			.client = peer_name(conn),
			.name = "",
			.volume = conn->blk ? volume_name(blk_volume(conn->blk)) : "",
			.since = conn->since,
			.in_flight = conn->in_flight,
			.what = what,
		};

		describe_conn(conn, what, sizeof(what));
		visit(&row, arg);
	}
}

const struct frontend nbd_frontend = {
	.name = "nbd",
	.start = start_frontend,
	.stop = stop_frontend,
	.accept = accept_stream,
	.drain = drain_loop,
	.abort = abort_loop,
	.connections = count_connections,
	.visit = visit_connections,
	.volume_gone = forget_volume,
};
