#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"
#include "control.h"
#include "frontend.h"
#include "gather.h"
#include "headcount.h"
#include "iobuf.h"
#include "limits.h"
#include "listener.h"
#include "slab.h"
#include "volumes.h"
#include "words.h"

/* A command that asks every loop, and who waits for it. */
struct question {
	struct gather gather;
	struct control_client *client;
	const struct conf *conf;
	json_t *parts[LIMIT_LOOPS]; /* each made by its loop */
};

static json_t *
make_text(const char *text)
{
	/* Names that a peer gave need not be UTF-8. */
	return json_string(text) ?: json_string("?");
}

static json_int_t
to_json(uint64_t value)
{
	return value > INT64_MAX ? INT64_MAX : (json_int_t)value;
}

static double
to_seconds(uint64_t nanoseconds)
{
	return (double)nanoseconds / 1e9;
}

static void
ask_loops(struct control_client *client, const struct conf *conf,
	void (*visit)(struct gather *gather, struct loop *loop, unsigned index),
	void (*done)(struct gather *gather))
{
	struct question *question = calloc(1, sizeof(*question));

	if (!question) {
		control_refuse(client, "out of memory");
		return;
	}
	question->client = client;
	question->conf = conf;
	question->gather.visit = visit;
	question->gather.done = done;
	gather_start(&question->gather);
}

static void
count_loop(struct gather *gather, struct loop *loop, unsigned index)
{
	struct question *question = container_of(gather, struct question, gather);
	unsigned nbd_in_flight = 0, iscsi_in_flight = 0;
	unsigned nbd = nbd_frontend.connections(loop, &nbd_in_flight);
	unsigned iscsi = iscsi_frontend.connections(loop, &iscsi_in_flight);

	question->parts[index] = json_pack("{s:i, s:i, s:i, s:i, s:I}", "loop", (int)index, "nbd",
		(int)nbd, "iscsi", (int)iscsi, "in_flight", (int)(nbd_in_flight + iscsi_in_flight),
		"buffers_reserved", to_json(iobuf_reserved(index)));
}

static void
add_listener(const char *protocol, const char *address, void *arg)
{
	json_array_append_new(
		arg, json_pack("{s:s, s:s}", "protocol", protocol, "address", address));
}

static void
answer_status(struct gather *gather)
{
	struct question *question = container_of(gather, struct question, gather);
	json_t *loops = json_array(), *listeners = json_array();
	struct served_volume *served;
	struct rlimit descriptors = {0};
	int volumes = 0;

	for (unsigned i = 0; i < loop_count(); i++)
		json_array_append_new(loops, question->parts[i]);
	TAILQ_FOREACH(served, volumes_list(), link)
		volumes++;
	listeners_visit(add_listener, listeners);
	getrlimit(RLIMIT_NOFILE, &descriptors);
	control_answer(question->client,
		json_pack("{s:s, s:i, s:f, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:s?, s:o, s:o}",
			"version", PACKAGE_VERSION, "pid", (int)getpid(), "uptime",
			to_seconds(control_uptime()), "io", storage_engine(), "volumes", volumes,
			"connections", (int)headcount_total(), "connections_limit",
			(int)question->conf->connections, "memory_used",
			to_json(storage_memory_used()), "memory_cap", to_json(storage_memory_cap()),
			"descriptors_limit", to_json(descriptors.rlim_cur), "control",
			control_path(), "loops", loops, "listeners", listeners));
	free(question);
}

static void
command_status(struct control_client *client, const struct conf *conf, json_t *request)
{
	(void)request;
	ask_loops(client, conf, count_loop, answer_status);
}

static json_t *
describe_volume(const struct served_volume *served)
{
	const struct conf_volume *conf = volume_conf(served->volume);
	struct volume_stats stats;

	volume_get_stats(served->volume, &stats);
	return json_pack(
		"{s:s, s:s, s:s?, s:I, s:I, s:s, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:o}",
		"name", volume_name(served->volume), "backend", conf->backend, "path", conf->path,
		"size", to_json(stats.size), "allocated", to_json(stats.allocated), "state",
		stats.broken  ? "failed"
		: stats.going ? "going"
			      : "ok",
		"clients", (int)stats.handles, "reads_per_second", to_json(served->reads_rate),
		"read_bytes_per_second", to_json(served->read_bytes_rate), "writes_per_second",
		to_json(served->writes_rate), "write_bytes_per_second",
		to_json(served->write_bytes_rate), "p99_read",
		to_seconds(histogram_window_quantile(&served->recent_reads, &stats.read, 990)),
		"p99_write",
		to_seconds(histogram_window_quantile(&served->recent_writes, &stats.write, 990)),
		"detail", make_text(stats.detail), "why", make_text(stats.why));
}

static json_t *
count_volume(const struct served_volume *served)
{
	struct volume_stats stats;
	json_t *row;

	volume_get_stats(served->volume, &stats);
	row = json_pack("{s:s}", "name", volume_name(served->volume));
	for (int op = 0; row && op < BLK_OPS; op++) {
		static const char *const names[BLK_OPS] = {"reads", "writes", "zeroes", "discards",
			"flushes", "extents", "prefetches", "compare_writes"};

		json_object_set_new(row, names[op], json_integer(to_json(stats.operations[op])));
	}
	if (row)
		json_object_update_new(row,
			json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}",
				"errors", to_json(stats.errors), "rmw_ops", to_json(stats.rmw_ops),
				"bounced_bytes", to_json(stats.bounced_bytes), "bytes_read",
				to_json(stats.bytes_read), "bytes_written",
				to_json(stats.bytes_written), "p50_read",
				to_seconds(histogram_quantile(&stats.read, 500)), "p99_read",
				to_seconds(histogram_quantile(&stats.read, 990)), "p999_read",
				to_seconds(histogram_quantile(&stats.read, 999)), "p50_write",
				to_seconds(histogram_quantile(&stats.write, 500)), "p99_write",
				to_seconds(histogram_quantile(&stats.write, 990)), "p999_write",
				to_seconds(histogram_quantile(&stats.write, 999))));
	return row;
}

static void
answer_rows(struct control_client *client, json_t *(*row)(const struct served_volume *served))
{
	json_t *rows = json_array();
	struct served_volume *served;

	TAILQ_FOREACH(served, volumes_list(), link)
		json_array_append_new(rows, row(served));
	control_answer(client, json_pack("{s:o}", "volumes", rows));
}

static void
command_volumes(struct control_client *client, const struct conf *conf, json_t *request)
{
	(void)conf;
	(void)request;
	answer_rows(client, describe_volume);
}

static void
command_stats(struct control_client *client, const struct conf *conf, json_t *request)
{
	(void)conf;
	(void)request;
	answer_rows(client, count_volume);
}

static void
add_connection(const struct connection_row *row, void *arg)
{
	json_array_append_new(
		arg, json_pack("{s:I, s:s, s:o, s:o, s:o, s:f, s:i, s:o}", "id", to_json(row->id),
			     "protocol", row->protocol, "client", make_text(row->client), "name",
			     make_text(row->name), "volume", make_text(row->volume), "since",
			     to_seconds(clock_now() - row->since), "in_flight", (int)row->in_flight,
			     "what", make_text(row->what)));
}

static void
list_connections(struct gather *gather, struct loop *loop, unsigned index)
{
	struct question *question = container_of(gather, struct question, gather);

	question->parts[index] = json_array();
	nbd_frontend.visit(loop, add_connection, question->parts[index]);
	iscsi_frontend.visit(loop, add_connection, question->parts[index]);
}

static void
answer_connections(struct gather *gather)
{
	struct question *question = container_of(gather, struct question, gather);
	json_t *rows = json_array();

	for (unsigned i = 0; i < loop_count(); i++) {
		json_array_extend(rows, question->parts[i]);
		json_decref(question->parts[i]);
	}
	control_answer(question->client, json_pack("{s:o}", "connections", rows));
	free(question);
}

static void
command_connections(struct control_client *client, const struct conf *conf, json_t *request)
{
	(void)request;
	ask_loops(client, conf, list_connections, answer_connections);
}

static void
add_slab(const struct slab_stats *stats, void *arg)
{
	json_array_append_new(arg,
		json_pack(
			"{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
			"cache", make_text(stats->name), "object_size", to_json(stats->object_size),
			"align", to_json(stats->align), "slab_size", to_json(stats->slab_size),
			"objs_per_slab", to_json(stats->objs_per_slab), "objects",
			to_json(stats->objects), "active", to_json(stats->active), "slabs",
			to_json(stats->slabs), "partial", to_json(stats->partial), "memory",
			to_json(stats->memory), "high_water", to_json(stats->high_water),
			"alloc_fastpath", to_json(stats->alloc_fastpath), "alloc_slowpath",
			to_json(stats->alloc_slowpath), "free_fastpath",
			to_json(stats->free_fastpath), "free_slowpath",
			to_json(stats->free_slowpath)));
}

static void
command_slabs(struct control_client *client, const struct conf *conf, json_t *request)
{
	json_t *rows = json_array();

	(void)conf;
	(void)request;
	slab_for_each(add_slab, rows);
	control_answer(client, json_pack("{s:o}", "slabs", rows));
}

static const struct command {
	const char *name;
	void (*run)(struct control_client *client, const struct conf *conf, json_t *request);
} commands[] = {
	{"status", command_status},
	{"volumes", command_volumes},
	{"connections", command_connections},
	{"stats", command_stats},
	{"slabs", command_slabs},
	{"add", control_add},
	{"remove", control_remove},
	{"resize", control_resize},
	{"clear", control_clear},
	{"snapshot", control_snapshot},
	{"save", control_save},
	{"load", control_load},
	{"fault", control_fault},
	{"qos", control_qos},
	{"alua", control_alua},
	{"kill", NULL},
	{"reload", NULL},
	{"events", NULL},
	{"top", NULL},
};

void
control_execute(struct control_client *client, const struct conf *conf, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "command"));
	struct nearest nearest;
	char hint[96];

	if (!name) {
		control_refuse(client, "the request names no command");
		return;
	}
	nearest_init(&nearest, name);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		nearest_try(&nearest, commands[i].name);
		if (strcmp(commands[i].name, name) != 0)
			continue;
		if (commands[i].run)
			commands[i].run(client, conf, request);
		else
			control_refuse(client, "%s: not there yet in this version", name);
		return;
	}
	control_refuse(client, "unknown command \"%.64s\"%s", name,
		nearest_text(&nearest, hint, sizeof(hint)));
}
