/*
 * How long a peer may take (R05). Deadlines are timestamps: a connection asks for the loop's sweep
 * only while something of it is timed, so idle connections wake nobody.
 */
#include "config.h"

#include "nbd/nbd.h"

#include "check.h"
#include "limits.h"
#include "patience.h"

static bool
is_partial(const struct nbd_conn *conn)
{
	if (conn->phase == NBD_REQUEST)
		return conn->have > 0;
	return conn->phase >= NBD_PAYLOAD && conn->phase <= NBD_REFUSED;
}

static bool
is_timed(const struct nbd_conn *conn)
{
	return nbd_negotiating(conn) || is_partial(conn) || conn->phase == NBD_LINGER ||
	       (conn->wait & NBD_WAIT_ROOM) || !send_queue_empty(&conn->output);
}

static void on_sweep(struct loop_sweep *sweep, uint64_t now);

void
nbd_deadline_start(struct nbd_conn *conn)
{
	if (conn->sweeping || conn->phase == NBD_DEAD)
		return;
	conn->sweeping = true;
	conn->sweep.sweep = on_sweep;
	loop_sweep_add(conn->loop, &conn->sweep);
}

void
nbd_deadline_stop(struct nbd_conn *conn)
{
	if (!conn->sweeping)
		return;
	conn->sweeping = false;
	loop_sweep_remove(conn->loop, &conn->sweep);
}

void
nbd_deadline_restart(struct nbd_conn *conn)
{
	conn->progress_ns = loop_now(conn->loop);
	conn->window_ns = conn->progress_ns;
	conn->window_bytes = 0;
}

void
nbd_deadline_note(struct nbd_conn *conn, size_t bytes)
{
	if (!is_partial(conn))
		return;
	if (conn->fresh) {
		conn->fresh = false;
		nbd_deadline_restart(conn);
	} else {
		conn->progress_ns = loop_now(conn->loop);
		conn->window_bytes += bytes;
	}
	nbd_deadline_start(conn);
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
	if (nbd_negotiating(conn) && is_older(now, conn->since, patience.handshake))
		return "negotiation took too long";
	if (!send_queue_empty(&conn->output) &&
		is_older(now, conn->output.progress_ns, patience.output))
		return "takes no answers";
	if (conn->phase == NBD_LINGER && is_older(now, conn->progress_ns, LIMIT_NBD_LINGER))
		return "does not close";
	if (!is_partial(conn))
		return NULL;
	if (conn->wait || conn->leftover.length) {
		/* We do not read: the peer's clock stands still. */
		nbd_deadline_restart(conn);
		return NULL;
	}
	if (is_older(now, conn->progress_ns, patience.partial))
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
		nbd_conn_resume(conn);
	if (!is_timed(conn))
		nbd_deadline_stop(conn);
}
