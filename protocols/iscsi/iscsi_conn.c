#include "config.h"

#include "iscsi/iscsi.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"
#include "log.h"
#include "patience.h"

/*
 * Life of a connection. RFC 7143 8.1.2, the target's side; a row is a transition of the RFC. Events
 * that are in no row of their state are a peer that does the impossible: its connection is lost.
 */
static const struct transition {
	enum iscsi_state from;
	enum iscsi_event event;
	enum iscsi_state to;
	const char *rfc;
} transitions[] = {
	{CONN_XPT_UP, EVENT_LOGIN_REQUEST, CONN_IN_LOGIN, "T4"},
	{CONN_XPT_UP, EVENT_LOGIN_FAILED, CONN_FREE, "T6"},
	{CONN_XPT_UP, EVENT_LOST, CONN_FREE, "T6"},
	{CONN_IN_LOGIN, EVENT_LOGIN_DONE, CONN_LOGGED_IN, "T5"},
	{CONN_IN_LOGIN, EVENT_LOGIN_FAILED, CONN_FREE, "T7"},
	{CONN_IN_LOGIN, EVENT_LOST, CONN_FREE, "T7"},
	{CONN_IN_LOGIN, EVENT_REPLACED, CONN_FREE, "T7"},
	{CONN_LOGGED_IN, EVENT_REPLACED, CONN_FREE, "T8"},
	{CONN_LOGGED_IN, EVENT_LOGOUT_REQUEST, CONN_IN_LOGOUT, "T9"},
	{CONN_LOGOUT_REQUESTED, EVENT_LOGOUT_REQUEST, CONN_IN_LOGOUT, "T10"},
	{CONN_LOGGED_IN, EVENT_LOGOUT_ASKED, CONN_LOGOUT_REQUESTED, "T11"},
	{CONN_IN_LOGOUT, EVENT_LOGOUT_DONE, CONN_FREE, "T13"},
	{CONN_IN_LOGOUT, EVENT_REPLACED, CONN_FREE, "T13"},
	{CONN_LOGGED_IN, EVENT_LOST, CONN_CLEANUP_WAIT, "T15"},
	{CONN_LOGOUT_REQUESTED, EVENT_LOST, CONN_CLEANUP_WAIT, "T16"},
	{CONN_IN_LOGOUT, EVENT_LOST, CONN_CLEANUP_WAIT, "T17"},
	{CONN_LOGOUT_REQUESTED, EVENT_REPLACED, CONN_FREE, "T18"},
};

void
iscsi_conn_event(struct iscsi_conn *conn, enum iscsi_event event)
{
	const struct transition *row;

	for (row = transitions; row < transitions + ARRAY_SIZE(transitions); row++) {
		if (row->from == conn->state && row->event == event) {
			conn->state = row->to;
			return;
		}
	}
	if (!conn->dying)
		iscsi_conn_die(conn, "impossible request in this state");
}

bool
iscsi_conn_choked(const struct iscsi_conn *conn)
{
	return conn->replies >= LIMIT_ISCSI_REPLIES;
}

/* Wants from the stream what can be served now. */
static void
watch_stream(struct iscsi_conn *conn)
{
	unsigned events = 0;
	int rc;

	if (conn->dying)
		return;
	if (!conn->closing && !conn->rx.blocked && !conn->rx.left && !iscsi_conn_choked(conn))
		events |= STREAM_READABLE;
	if (conn->output_full)
		events |= STREAM_WRITABLE;
	if (events == conn->watched)
		return;
	rc = stream_watch(conn->stream, events);
	if (rc) {
		iscsi_conn_die(conn, "cannot watch the socket");
		return;
	}
	conn->watched = events;
}

/* Keeps what was received and cannot be taken now. */
static void
keep_left(struct iscsi_conn *conn, const uint8_t *data, size_t length)
{
	struct iscsi_rx *rx = &conn->rx;

	/* What follows a login that was refused is never taken (R04). */
	if (conn->dying || conn->closing || conn->state == CONN_FREE || length == 0)
		return;
	rx->left = slab_alloc(iscsi_caches.left);
	if (!rx->left) {
		iscsi_conn_die(conn, "out of memory");
		return;
	}
	memcpy(rx->left, data, length);
	rx->left_at = 0;
	rx->left_length = length;
}

void
iscsi_conn_resume(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;

	if (conn->dying)
		return;
	if (rx->started)
		rx->started = loop_now(conn->loop); /* its deadline stood still */
	if (rx->left) {
		rx->left_at +=
			iscsi_rx_feed(conn, rx->left + rx->left_at, rx->left_length - rx->left_at);
		if (conn->dying)
			return;
		if (rx->left_at == rx->left_length || conn->closing) {
			slab_free(iscsi_caches.left, rx->left);
			rx->left = NULL;
		}
	} else {
		iscsi_rx_feed(conn, NULL, 0); /* a PDU whose data was complete may be due */
	}
	watch_stream(conn);
}

void
iscsi_conn_resume_soon(struct iscsi_conn *conn)
{
	if (conn->dying)
		return;
	conn->resume = true;
	if (!conn->flush.queued)
		loop_before_sleep(conn->loop, &conn->flush);
}

static void
read_stream(struct iscsi_conn *conn)
{
	struct iovec iov[LIMIT_IOBUF_PIECES + 1];
	uint8_t *buffer = loop_buffer(conn->loop);
	unsigned n = iscsi_rx_direct(&conn->rx, iov, LIMIT_IOBUF_PIECES);
	size_t direct = n ? conn->rx.data_left : 0;
	size_t part, taken;
	ssize_t got;

	iov[n].iov_base = buffer;
	iov[n++].iov_len = LIMIT_RECV_BUFFER;
	got = stream_read(conn->stream, iov, n);
	if (got == -EAGAIN)
		return;
	if (got <= 0) {
		iscsi_conn_die(conn, NULL);
		return;
	}
	part = min_size((size_t)got, direct);
	if (part)
		iscsi_rx_directed(conn, part);
	taken = iscsi_rx_feed(conn, buffer, (size_t)got - part);
	keep_left(conn, buffer + taken, (size_t)got - part - taken);
	watch_stream(conn);
}

static void
flush_output(struct iscsi_conn *conn)
{
	bool choked = iscsi_conn_choked(conn);
	int rc;

	if (conn->dying) {
		iscsi_conn_settle(conn);
		return;
	}
	rc = send_queue_flush(&conn->queue);
	if (rc && rc != -EAGAIN) {
		iscsi_conn_die(conn, NULL);
		return;
	}
	conn->output_full = rc == -EAGAIN;
	if ((choked && !iscsi_conn_choked(conn)) || conn->resume) {
		conn->resume = false;
		iscsi_conn_resume(conn);
	}
	watch_stream(conn);
	iscsi_conn_settle(conn);
}

/* Before the loop sleeps: everything queued in this turn goes with one write. */
static void
run_flush(struct loop_task *task)
{
	flush_output(container_of(task, struct iscsi_conn, flush));
}

static void
on_ready(struct stream *stream, unsigned events)
{
	struct iscsi_conn *conn = stream->owner;

	if ((events & STREAM_WRITABLE) && conn->output_full)
		flush_output(conn);
	if ((events & STREAM_READABLE) && !conn->dying && (conn->watched & STREAM_READABLE))
		read_stream(conn);
}

void
iscsi_conn_send(struct iscsi_conn *conn, struct send_item *item)
{
	if (conn->dying) {
		item->sent(item, -ESHUTDOWN);
		return;
	}
	send_queue_push(&conn->queue, item);
	if (!conn->flush.queued && !conn->output_full)
		loop_before_sleep(conn->loop, &conn->flush);
}

/* Initiators that vanish without a word hold a session, and what it has reserved, for ever. */
static void
sweep_silence(struct iscsi_conn *conn, uint64_t now)
{
	if (!iscsi_conn_active(conn) || conn->closing || iscsi_conn_choked(conn))
		return;
	if (!conn->pinged && now - conn->heard > LIMIT_ISCSI_SILENCE)
		iscsi_ping(conn, true);
	else if (conn->pinged && now - conn->pinged > LIMIT_ISCSI_PING)
		iscsi_conn_die(conn, "does not answer a ping");
}

/* Who has commands of ours in the full feature phase, and not only asks for names. */
static bool
hears_events(const struct iscsi_conn *conn)
{
	return iscsi_conn_live(conn) && !conn->session->params.discovery;
}

/* 11.9.1: on whichever connection of the session is looked at first. */
static void
sweep_events(struct iscsi_conn *conn)
{
	uint8_t lun[8], sense[LIMIT_SCSI_SENSE], length;

	if (!hears_events(conn) || iscsi_conn_choked(conn))
		return;
	for (unsigned i = 0; i < LIMIT_ISCSI_EVENTS && !conn->dying; i++) {
		if (!scsi_nexus_event(conn->session->nexus, lun, sense, &length))
			return;
		iscsi_reply_event(conn, lun, sense, length);
	}
}

/*
 * What came ahead of its CmdSN holds room that others wait for: the number that is missing has as
 * long to come as the rest of a PDU.
 */
static void
sweep_gap(struct iscsi_conn *conn, uint64_t now)
{
	struct iscsi_session *session = conn->session;
	const struct iscsi_held *held;

	if (TAILQ_EMPTY(&session->held) || session->exp_cmdsn != session->stood_at) {
		session->stood_at = session->exp_cmdsn;
		session->stood_since = now;
		return;
	}
	if (now - session->stood_since <= patience.partial)
		return;
	TAILQ_FOREACH(held, &session->held, link) {
		if (held->conn == conn && !held->filled) {
			iscsi_conn_die(conn, "a CmdSN before the others does not come");
			return;
		}
	}
}

static void
sweep_conn(struct iscsi_conn *conn, uint64_t now)
{
	struct iscsi_task *task;

	if (conn->dying)
		return;
	/* R05. A PDU has 30 s, and 10 s more for each 64 KiB of it. */
	if (!iscsi_conn_active(conn) && conn->state != CONN_IN_LOGOUT && !conn->closing &&
		now - conn->since > patience.login) {
		iscsi_conn_event(conn, EVENT_LOGIN_FAILED);
		iscsi_conn_die(conn, "login took too long");
		return;
	}
	if (conn->state == CONN_LOGOUT_REQUESTED && now - conn->asked >= LIMIT_ISCSI_LOGOUT)
		iscsi_conn_drop(conn);
	if (conn->rx.started && !conn->rx.blocked && !conn->rx.left && !conn->closing &&
		now - conn->rx.started > patience.partial + (uint64_t)conn->rx.data_length /
								    (64 * KIB) * 10 * SECOND_NS) {
		iscsi_conn_die(conn, "a PDU took too long to arrive");
		return;
	}
	if (!send_queue_empty(&conn->queue) && now - conn->queue.progress_ns > patience.output) {
		iscsi_conn_die(conn, "does not take what it asked for");
		return;
	}
	if (!conn->session)
		return;
	iscsi_tmf_sweep(conn->session, now);
	sweep_gap(conn, now);
	if (conn->rx.blocked || conn->dying)
		return;
	TAILQ_FOREACH(task, &conn->session->tasks, link) {
		if (task->conn == conn && task->state == TASK_COLLECT && task->reserved &&
			task->nbursts > 0 && now - task->progress > patience.partial) {
			iscsi_conn_die(conn, "the data of a write does not come");
			return;
		}
	}
	sweep_silence(conn, now);
	sweep_events(conn);
}

static void
run_sweep(struct loop_sweep *sweep, uint64_t now)
{
	struct iscsi_loop *home = container_of(sweep, struct iscsi_loop, sweep);
	struct iscsi_conn *conn;

	TAILQ_FOREACH(conn, &home->conns, link)
		sweep_conn(conn, now);
}

static void
enter_home(struct iscsi_conn *conn)
{
	struct iscsi_loop *home = iscsi_loop_of(conn->loop);

	conn->home = home;
	TAILQ_INSERT_TAIL(&home->conns, conn, link);
	if (home->count++ == 0) {
		home->sweep.sweep = run_sweep;
		loop_sweep_add(conn->loop, &home->sweep);
	}
}

static void
leave_home(struct iscsi_conn *conn)
{
	TAILQ_REMOVE(&conn->home->conns, conn, link);
	if (--conn->home->count == 0)
		loop_sweep_remove(conn->loop, &conn->home->sweep);
}

/* The loop of the session it joins: everything that says "now" is this loop's from here on. */
static void
run_arrive(struct loop_task *task)
{
	struct iscsi_conn *conn = container_of(task, struct iscsi_conn, arrive);
	uint64_t now;

	conn->loop = loop_current();
	now = loop_now(conn->loop);
	conn->since = min_u64(conn->since, now);
	conn->heard = now;
	enter_home(conn);
	conn->watched = STREAM_READABLE;
	if (stream_attach(conn->stream, conn->loop, on_ready, conn) != 0)
		iscsi_conn_die(conn, "cannot watch the socket");
	else if (conn->home->draining)
		iscsi_conn_die(conn, NULL);
	iscsi_login_arrived(conn);
	watch_stream(conn);
}

void
iscsi_conn_move(struct iscsi_conn *conn, struct loop *loop)
{
	stream_detach(conn->stream);
	leave_home(conn);
	conn->arrive.run = run_arrive;
	loop_post(loop, &conn->arrive);
}

/* The one place where connections and sessions are freed; and where a connection leaves its loop.
 */
static void
run_reap(struct loop_task *task)
{
	struct iscsi_conn *conn = container_of(task, struct iscsi_conn, reap);
	bool over;

	if (conn->flush.queued)
		return; /* it settles again */
	if (!conn->dying) {
		if (conn->moving && send_queue_empty(&conn->queue)) {
			conn->moving = false;
			iscsi_login_join(conn);
		}
		return;
	}
	if (conn->session) {
		if (!iscsi_session_leave(conn, &over))
			return; /* what is posted settles it again */
		if (over)
			iscsi_session_free(conn->session);
	}
	leave_home(conn);
	slab_free(iscsi_caches.conn, conn);
}

void
iscsi_conn_settle(struct iscsi_conn *conn)
{
	const struct iscsi_session *session = conn->session;

	if (conn->dying || conn->moving) {
		if (conn->ntasks == 0 && !conn->flush.queued && !conn->reap.queued)
			loop_reap(conn->loop, &conn->reap);
		return;
	}
	if (conn->ntasks > 0 || (session && session->logout == conn && session->ntasks > 0))
		return;
	if (conn->logout) {
		conn->logout = false;
		if (session->logout == conn)
			conn->session->logout = NULL;
		iscsi_logout_answer(conn);
	} else if (conn->closing && send_queue_empty(&conn->queue)) {
		iscsi_conn_die(conn, NULL);
	}
}

void
iscsi_conn_close(struct iscsi_conn *conn)
{
	if (conn->dying || conn->closing)
		return;
	conn->closing = true;
	conn->moving = false;
	if (conn->session) {
		iscsi_held_drop(conn);
		iscsi_tasks_abort(conn, false);
	}
	watch_stream(conn);
	/* Nobody may be deep in this connection's functions when it dies: the flush settles. */
	if (!conn->dying && !conn->flush.queued && !conn->output_full)
		loop_before_sleep(conn->loop, &conn->flush);
}

void
iscsi_conn_drop(struct iscsi_conn *conn)
{
	const struct iscsi_params *params;

	if (hears_events(conn)) {
		params = &conn->session->params;
		iscsi_reply_async(conn, ISCSI_ASYNC_DROP,
			(uint16_t[]){conn->cid, (uint16_t)params->time2wait,
				(uint16_t)params->time2retain});
	}
	iscsi_conn_close(conn);
}

void
iscsi_conn_ask_logout(struct iscsi_conn *conn)
{
	if (!hears_events(conn)) {
		iscsi_conn_close(conn);
		return;
	}
	iscsi_conn_event(conn, EVENT_LOGOUT_ASKED);
	conn->asked = loop_now(conn->loop);
	iscsi_reply_async(conn, ISCSI_ASYNC_LOGOUT,
		(uint16_t[]){0, 0, (uint16_t)(LIMIT_ISCSI_LOGOUT / SECOND_NS)});
}

void
iscsi_conn_die(struct iscsi_conn *conn, const char *why)
{
	if (conn->dying)
		return;
	if (why)
		log_seldom(LOG_LEVEL_INFO, "iscsi %s: connection closed: %s", conn->peer, why);
	conn->dying = true;
	if (conn->state != CONN_FREE)
		iscsi_conn_event(conn, conn->closing && conn->state == CONN_IN_LOGOUT
					       ? EVENT_LOGOUT_DONE
					       : EVENT_LOST);
	send_queue_drop(&conn->queue, -ECONNRESET);
	iscsi_rx_close(conn);
	iscsi_exchange_close(&conn->exchange);
	iscsi_login_free(conn);
	if (conn->session) {
		if (conn->session->logout == conn)
			conn->session->logout = NULL;
		iscsi_tmf_drop(conn);
		iscsi_held_drop(conn);
		iscsi_tasks_abort(conn, true);
	}
	stream_close(conn->stream);
	conn->stream = NULL;
	if (conn->session)
		iscsi_tmf_settle(conn->session); /* whom it kept waiting */
	iscsi_conn_settle(conn);
}

static struct iscsi_loop loops[LIMIT_LOOPS + 1];

struct iscsi_loop *
iscsi_loop_of(struct loop *loop)
{
	return &loops[loop_index(loop)];
}

void
iscsi_loops_init(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(loops); i++) {
		memset(&loops[i], 0, sizeof(loops[i]));
		TAILQ_INIT(&loops[i].conns);
	}
}

void
iscsi_conn_accept(struct loop *loop, struct stream *stream, const struct portal *portal)
{
	struct iscsi_loop *home = iscsi_loop_of(loop);
	struct iscsi_conn *conn = home->draining ? NULL : slab_alloc(iscsi_caches.conn);

	if (!conn) {
		stream_close(stream);
		return;
	}
	memset(conn, 0, sizeof(*conn));
	conn->loop = loop;
	conn->stream = stream;
	conn->portal = portal;
	conn->id = frontend_next_id();
	conn->since = loop_now(loop);
	conn->state = CONN_XPT_UP; /* T3 */
	conn->flush.run = run_flush;
	conn->reap.run = run_reap;
	conn->max_recv = 8192;
	snprintf(conn->peer, sizeof(conn->peer), "%s", stream_peer(stream));
	iscsi_rx_init(&conn->rx);
	if (stream_attach(stream, loop, on_ready, conn) != 0) {
		stream_close(stream);
		slab_free(iscsi_caches.conn, conn);
		return;
	}
	conn->watched = STREAM_READABLE;
	send_queue_init(&conn->queue, stream);
	enter_home(conn);
}
