/* What the daemon sees of NBD: the connections of each loop. */
#include "config.h"

#include <stdio.h>

#include "check.h"
#include "frontend.h"
#include "limits.h"
#include "nbd/nbd.h"
#include "volume.h"

static struct nbd_loop loops[LIMIT_LOOPS + 1];

static struct nbd_loop *
loop_state(const struct loop *loop)
{
	return &loops[loop_index(loop)];
}

static int
start_frontend(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(loops); i++) {
		TAILQ_INIT(&loops[i].conns);
		loops[i].count = 0;
		loops[i].leftover = 0;
		loops[i].draining = false;
	}
	return nbd_conn_start();
}

static void
accept_stream(struct loop *loop, struct stream *stream, const struct portal *portal)
{
	(void)portal;
	nbd_conn_accept(loop_state(loop), loop, stream);
}

static void
drain_loop(struct loop *loop)
{
	struct nbd_loop *state = loop_state(loop);
	struct nbd_conn *conn;

	state->draining = true;
	TAILQ_FOREACH(conn, &state->conns, link)
		nbd_conn_set_going(conn);
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
			nbd_conn_set_going(conn);
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
	const char *security = conn->stream ? stream_security(conn->stream) : NULL;

	if (nbd_negotiating(conn))
		snprintf(text, size, "negotiating");
	else
		snprintf(text, size, "%s%s%s%s%s%s",
			conn->terms.extended     ? "extended"
			: conn->terms.structured ? "structured"
						 : "simple",
			conn->terms.base_allocation ? ", " NBD_BASE_ALLOCATION : "",
			conn->terms.flags & NBD_FLAG_READ_ONLY ? ", read-only" : "",
			security ? ", " : "", security ? security : "",
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
			.protocol = conn->secure ? "nbd+tls" : "nbd",
			.client = nbd_conn_peer(conn),
			.name = conn->stream ? stream_identity(conn->stream) : "",
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
	.stop = nbd_conn_stop,
	.accept = accept_stream,
	.drain = drain_loop,
	.abort = abort_loop,
	.connections = count_connections,
	.visit = visit_connections,
	.volume_gone = forget_volume,
};
