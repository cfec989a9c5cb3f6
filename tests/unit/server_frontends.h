/*
 * Two protocols of a test's own, in place of nbd_frontend and iscsi_frontend: each greets a
 * connection with a byte, keeps it in a list, and closes it when told to. Included by one source
 * file of a program.
 */
#ifndef SLABD_TEST_SERVER_FRONTENDS_H
#define SLABD_TEST_SERVER_FRONTENDS_H

#include <stdatomic.h>
#include <stdlib.h>

#include "frontend.h"
#include "limits.h"

struct greeted {
	struct stream *stream;
	struct greeted *next;
	uint64_t id, since;
};

static struct greeted *greeted[2][LIMIT_LOOPS];
static atomic_uint volumes_gone;

static void
ignore_events(struct stream *stream, unsigned events)
{
	(void)stream;
	(void)events;
}

static void
greet(struct loop *loop, struct stream *stream, unsigned which)
{
	struct greeted *g = calloc(1, sizeof(*g));
	char letter = which ? 'i' : 'n';
	struct iovec byte = {&letter, 1};

	if (!g || stream_attach(stream, loop, ignore_events, NULL) != 0) {
		free(g);
		stream_close(stream);
		return;
	}
	*g = (struct greeted){
		stream, greeted[which][loop_index(loop)], frontend_next_id(), loop_now(loop)};
	greeted[which][loop_index(loop)] = g;
	stream_watch(stream, 0);
	(void)!stream_write(stream, &byte, 1);
}

static void
dismiss(struct loop *loop, unsigned which)
{
	struct greeted *g;

	while ((g = greeted[which][loop_index(loop)])) {
		greeted[which][loop_index(loop)] = g->next;
		stream_close(g->stream);
		free(g);
	}
}

static unsigned
count_greeted(struct loop *loop, unsigned which)
{
	unsigned count = 0;

	for (struct greeted *g = greeted[which][loop_index(loop)]; g; g = g->next)
		count++;
	return count;
}

static void
visit_greeted(struct loop *loop, unsigned which, connection_visit *visit, void *arg)
{
	for (struct greeted *g = greeted[which][loop_index(loop)]; g; g = g->next) {
		struct connection_row row = {.id = g->id,
			.protocol = which ? "iscsi" : "nbd",
			.client = stream_peer(g->stream),
			.name = "na\xff",
			.volume = "",
			.since = g->since,
			.in_flight = 3,
			.what = "greeted"};

		visit(&row, arg);
	}
}

static int
start_nothing(void)
{
	return 0;
}

static void
stop_nothing(void)
{
}

static void
note_gone(struct loop *loop, struct volume *volume)
{
	(void)loop;
	(void)volume;
	atomic_fetch_add(&volumes_gone, 1);
}

#define FRONTEND(which, prefix)                                                           \
	static void prefix##_accept(                                                      \
		struct loop *loop, struct stream *stream, const struct portal *portal)    \
	{                                                                                 \
		(void)portal;                                                             \
		greet(loop, stream, which);                                               \
	}                                                                                 \
	static void prefix##_drain(struct loop *loop)                                     \
	{                                                                                 \
		dismiss(loop, which);                                                     \
	}                                                                                 \
	static unsigned prefix##_connections(struct loop *loop, unsigned *in_flight)      \
	{                                                                                 \
		*in_flight = 0;                                                           \
		return count_greeted(loop, which);                                        \
	}                                                                                 \
	static void prefix##_visit(struct loop *loop, connection_visit *visit, void *arg) \
	{                                                                                 \
		visit_greeted(loop, which, visit, arg);                                   \
	}                                                                                 \
	const struct frontend prefix##_frontend = {.name = #prefix,                       \
		.start = start_nothing,                                                   \
		.stop = stop_nothing,                                                     \
		.accept = prefix##_accept,                                                \
		.drain = prefix##_drain,                                                  \
		.abort = prefix##_drain,                                                  \
		.connections = prefix##_connections,                                      \
		.visit = prefix##_visit,                                                  \
		.volume_gone = note_gone}

FRONTEND(0, nbd);
FRONTEND(1, iscsi);

#endif
