#include "config.h"

#include "iscsi/iscsi.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

/* What the daemon sees of iSCSI: frontend.h. */

struct iscsi_caches iscsi_caches;

static void
stop_iscsi(void)
{
	struct slab_cache **cache = (struct slab_cache **)&iscsi_caches;
	size_t i;

	for (i = 0; i < sizeof(iscsi_caches) / sizeof(*cache); i++) {
		if (cache[i])
			slab_cache_free(cache[i]);
		cache[i] = NULL;
	}
	scsi_stop();
}

static int
start_iscsi(void)
{
	struct iscsi_caches *c = &iscsi_caches;
	int rc;

	rc = iobuf_start();
	if (!rc)
		rc = scsi_start();
	if (rc)
		return rc;
	c->conn = slab_cache_new("iscsi_conn", sizeof(struct iscsi_conn), 0, 0, NULL);
	c->login = slab_cache_new("iscsi_login", sizeof(struct iscsi_login), 0, 0, NULL);
	c->text = slab_cache_new("iscsi_text", sizeof(struct iscsi_text), 0, 0, NULL);
	c->session = slab_cache_new("iscsi_session", sizeof(struct iscsi_session), 0, 0, NULL);
	c->task = slab_cache_new("iscsi_task", sizeof(struct iscsi_task), 64, 0, NULL);
	c->reply = slab_cache_new("iscsi_reply", sizeof(struct iscsi_reply), 0, 0, NULL);
	c->held = slab_cache_new("iscsi_held", sizeof(struct iscsi_held), 0, 0, NULL);
	c->ranges = slab_cache_new("iscsi_ranges", sizeof(struct iscsi_ranges), 0, 0, NULL);
	c->tmf = slab_cache_new("iscsi_tmf", sizeof(struct iscsi_tmf), 0, 0, NULL);
	c->left = slab_cache_new("iscsi_left", LIMIT_RECV_BUFFER, 0, 0, NULL);
	if (!c->conn || !c->login || !c->text || !c->session || !c->task || !c->reply || !c->held ||
		!c->ranges || !c->tmf || !c->left) {
		stop_iscsi();
		return -ENOMEM;
	}
	iscsi_sessions_init();
	iscsi_loops_init();
	return 0;
}

static void
drain_loop(struct loop *loop)
{
	struct iscsi_loop *home = iscsi_loop_of(loop);
	struct iscsi_conn *conn;

	home->draining = true;
	scsi_drain(loop);
	TAILQ_FOREACH(conn, &home->conns, link)
		iscsi_conn_ask_logout(conn);
}

static void
abort_loop(struct loop *loop)
{
	struct iscsi_loop *home = iscsi_loop_of(loop);
	struct iscsi_conn *conn;

	TAILQ_FOREACH(conn, &home->conns, link)
		iscsi_conn_die(conn, NULL);
}

static unsigned
count_connections(struct loop *loop, unsigned *in_flight)
{
	struct iscsi_loop *home = iscsi_loop_of(loop);
	struct iscsi_conn *conn;

	*in_flight = scsi_background(loop);
	TAILQ_FOREACH(conn, &home->conns, link)
		*in_flight += conn->ntasks;
	return home->count;
}

static const char *
describe_conn(const struct iscsi_conn *conn)
{
	if (!conn->session || conn->login)
		return "login";
	if (conn->session->params.discovery)
		return "discovery";
	if (conn->header_digest && conn->data_digest)
		return "digests header+data";
	if (conn->header_digest)
		return "digests header";
	return conn->data_digest ? "digests data" : "";
}

static void
visit_connections(struct loop *loop, connection_visit *visit, void *arg)
{
	struct iscsi_loop *home = iscsi_loop_of(loop);
	struct iscsi_conn *conn;
	char volumes[256];

	TAILQ_FOREACH(conn, &home->conns, link) {
		struct connection_row row = {
			.id = conn->id,
			.protocol = conn->stream && stream_security(conn->stream) ? "iscsi+tls"
										  : "iscsi",
			.client = conn->peer,
			.name = conn->session ? conn->session->names.initiator : "",
			.volume = volumes,
			.since = conn->since,
			.in_flight = conn->ntasks,
			.what = conn->dying ? "closing" : describe_conn(conn),
		};

		volumes[0] = '\0';
		if (conn->session && conn->session->nexus)
			scsi_nexus_describe(conn->session->nexus, volumes, sizeof(volumes));
		visit(&row, arg);
	}
}

static void
drop_volume(struct loop *loop, struct volume *volume)
{
	struct iscsi_loop *home = iscsi_loop_of(loop);
	struct iscsi_conn *conn;

	TAILQ_FOREACH(conn, &home->conns, link) {
		if (conn->session && conn->session->nexus &&
			scsi_nexus_drop_volume(conn->session->nexus, volume))
			iscsi_conn_drop(conn);
	}
}

const struct frontend iscsi_frontend = {
	.name = "iscsi",
	.start = start_iscsi,
	.stop = stop_iscsi,
	.accept = iscsi_conn_accept,
	.drain = drain_loop,
	.abort = abort_loop,
	.connections = count_connections,
	.visit = visit_connections,
	.volume_gone = drop_volume,
};
