/* slabctl: asks a running slabd over its control socket. One request, one answer. */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "slabctl_table.h"

enum { EXIT_REFUSED = 1, EXIT_USAGE = 2 };

static const struct column volume_columns[] = {
	{"NAME", "name", CELL_TEXT, NULL},
	{"BACKEND", "backend", CELL_TEXT, NULL},
	{"SIZE", "size", CELL_BYTES, NULL},
	{"ALLOCATED", "allocated", CELL_BYTES, NULL},
	{"STATE", "state", CELL_STATE, NULL},
	{"CLIENTS", "clients", CELL_NUMBER, NULL},
	{"READ/s", "reads_per_second", CELL_RATE, "read_bytes_per_second"},
	{"WRITE/s", "writes_per_second", CELL_RATE, "write_bytes_per_second"},
	{"P99 READ", "p99_read", CELL_SECONDS, NULL},
	{"P99 WRITE", "p99_write", CELL_SECONDS, NULL},
};

static const struct column connection_columns[] = {
	{"ID", "id", CELL_NUMBER, NULL},
	{"PROTOCOL", "protocol", CELL_TEXT, NULL},
	{"CLIENT", "client", CELL_TEXT, NULL},
	{"NAME", "name", CELL_TEXT, NULL},
	{"VOLUME", "volume", CELL_TEXT, NULL},
	{"SINCE", "since", CELL_AGE, NULL},
	{"IN FLIGHT", "in_flight", CELL_NUMBER, NULL},
	{"WHAT", "what", CELL_TEXT, NULL},
};

static const struct column stats_columns[] = {
	{"NAME", "name", CELL_TEXT, NULL},
	{"READS", "reads", CELL_NUMBER, NULL},
	{"WRITES", "writes", CELL_NUMBER, NULL},
	{"ZEROES", "zeroes", CELL_NUMBER, NULL},
	{"DISCARDS", "discards", CELL_NUMBER, NULL},
	{"FLUSHES", "flushes", CELL_NUMBER, NULL},
	{"ERRORS", "errors", CELL_NUMBER, NULL},
	{"RMW_OPS", "rmw_ops", CELL_NUMBER, NULL},
	{"BOUNCED", "bounced_bytes", CELL_BYTES, NULL},
	{"READ", "bytes_read", CELL_BYTES, NULL},
	{"WRITTEN", "bytes_written", CELL_BYTES, NULL},
	{"P50 READ", "p50_read", CELL_SECONDS, NULL},
	{"P99 READ", "p99_read", CELL_SECONDS, NULL},
	{"P50 WRITE", "p50_write", CELL_SECONDS, NULL},
	{"P99 WRITE", "p99_write", CELL_SECONDS, NULL},
};

static const struct column slab_columns[] = {
	{"CACHE", "cache", CELL_TEXT, NULL},
	{"OBJECT_SIZE", "object_size", CELL_NUMBER, NULL},
	{"OBJS_PER_SLAB", "objs_per_slab", CELL_NUMBER, NULL},
	{"OBJECTS", "objects", CELL_NUMBER, NULL},
	{"ACTIVE", "active", CELL_NUMBER, NULL},
	{"SLABS", "slabs", CELL_NUMBER, NULL},
	{"PARTIAL", "partial", CELL_NUMBER, NULL},
	{"MEMORY", "memory", CELL_BYTES, NULL},
	{"HIGH WATER", "high_water", CELL_BYTES, NULL},
};

static const struct column status_columns[] = {
	{"version", "version", CELL_TEXT, NULL},
	{"pid", "pid", CELL_NUMBER, NULL},
	{"uptime", "uptime", CELL_AGE, NULL},
	{"files, devices", "io", CELL_TEXT, NULL},
	{"volumes", "volumes", CELL_NUMBER, NULL},
	{"connections", "connections", CELL_NUMBER, NULL},
	{"  at most", "connections_limit", CELL_NUMBER, NULL},
	{"memory volumes", "memory_used", CELL_BYTES, NULL},
	{"  at most", "memory_cap", CELL_BYTES, NULL},
	{"descriptors", "descriptors_limit", CELL_NUMBER, NULL},
};

static const struct column loop_columns[] = {
	{"LOOP", "loop", CELL_NUMBER, NULL},
	{"NBD", "nbd", CELL_NUMBER, NULL},
	{"ISCSI", "iscsi", CELL_NUMBER, NULL},
	{"IN FLIGHT", "in_flight", CELL_NUMBER, NULL},
	{"BUFFERS", "buffers_reserved", CELL_BYTES, NULL},
};

static const struct column listener_columns[] = {
	{"PROTOCOL", "protocol", CELL_TEXT, NULL},
	{"ADDRESS", "address", CELL_TEXT, NULL},
};

static const struct column fault_columns[] = {
	{"CANDIDATES", "candidates", CELL_NUMBER, NULL},
	{"INJECTED", "injected", CELL_NUMBER, NULL},
	{"RULE", "rule", CELL_TEXT, NULL},
};

static const struct column qos_columns[] = {
	{"NAME", "name", CELL_TEXT, NULL},
	{"IOPS", "iops", CELL_NUMBER, NULL},
	{"BURST", "iops_burst", CELL_NUMBER, NULL},
	{"BPS", "bps", CELL_BYTES, NULL},
	{"BURST", "bps_burst", CELL_BYTES, NULL},
	{"CLIENT IOPS", "client_iops", CELL_NUMBER, NULL},
	{"BURST", "client_iops_burst", CELL_NUMBER, NULL},
	{"CLIENT BPS", "client_bps", CELL_BYTES, NULL},
	{"BURST", "client_bps_burst", CELL_BYTES, NULL},
	{"REQUESTS", "requests", CELL_NUMBER, NULL},
	{"DELAYED", "delayed", CELL_NUMBER, NULL},
};

static void
show_qos(const json_t *result, bool colour)
{
	table_print(qos_columns, ARRAY_SIZE(qos_columns), json_object_get(result, "qos"), NULL,
		colour);
}

static const struct column alua_columns[] = {
	{"TARGET", "target", CELL_TEXT, NULL},
	{"GROUP", "group", CELL_NUMBER, NULL},
	{"STATE", "state", CELL_TEXT, NULL},
};

static void
show_alua(const json_t *result, bool colour)
{
	table_print(alua_columns, ARRAY_SIZE(alua_columns), json_object_get(result, "groups"), NULL,
		colour);
}

static void
show_faults(const json_t *result, bool colour)
{
	table_print(fault_columns, ARRAY_SIZE(fault_columns), json_object_get(result, "rules"),
		NULL, colour);
}

static void
show_status(const json_t *result, bool colour)
{
	char text[64];

	for (size_t i = 0; i < ARRAY_SIZE(status_columns); i++) {
		table_cell(&status_columns[i], result, text, sizeof(text));
		printf("%-16s%s\n", status_columns[i].title, text);
	}
	printf("\n");
	table_print(listener_columns, ARRAY_SIZE(listener_columns),
		json_object_get(result, "listeners"), NULL, colour);
	printf("\n");
	table_print(loop_columns, ARRAY_SIZE(loop_columns), json_object_get(result, "loops"), NULL,
		colour);
}

static void
show_volumes(const json_t *result, bool colour)
{
	table_print(volume_columns, ARRAY_SIZE(volume_columns), json_object_get(result, "volumes"),
		"why", colour);
}

static void
show_connections(const json_t *result, bool colour)
{
	table_print(connection_columns, ARRAY_SIZE(connection_columns),
		json_object_get(result, "connections"), NULL, colour);
}

static void
show_stats(const json_t *result, bool colour)
{
	table_print(stats_columns, ARRAY_SIZE(stats_columns), json_object_get(result, "volumes"),
		NULL, colour);
}

static void
show_slabs(const json_t *result, bool colour)
{
	table_print(slab_columns, ARRAY_SIZE(slab_columns), json_object_get(result, "slabs"), NULL,
		colour);
}

static const struct command {
	const char *name;
	void (*show)(const json_t *result, bool colour); /* NULL: nothing to say when it is done */
	const char *arguments[2]; /* the request's members that the arguments become */
	bool force;               /* takes --force */
	const char *rest; /* the member that all further words become; NULL: there are none */
} commands[] = {
	{"status", show_status, {NULL}, false, NULL},
	{"volumes", show_volumes, {NULL}, false, NULL},
	{"connections", show_connections, {NULL}, false, NULL},
	{"stats", show_stats, {NULL}, false, NULL},
	{"slabs", show_slabs, {NULL}, false, NULL},
	{"add", NULL, {"volume"}, false, NULL},
	{"remove", NULL, {"name"}, true, NULL},
	{"resize", NULL, {"name", "size"}, true, NULL},
	{"clear", NULL, {"name"}, false, NULL},
	{"snapshot", NULL, {"name", "new"}, false, NULL},
	{"save", NULL, {"name", "file"}, false, NULL},
	{"load", NULL, {"name", "file"}, true, NULL},
	{"fault", show_faults, {"name"}, false, "words"},
	{"qos", show_qos, {"name"}, false, "words"},
	{"alua", show_alua, {NULL}, false, "words"},
};

static void
print_help(void)
{
	fputs("Usage: slabctl [--socket PATH] [--json] COMMAND\n"
	      "Ask a running slabd.\n"
	      "\n"
	      "Commands:\n"
	      "  status               the daemon: listeners, loops, memory, limits\n"
	      "  volumes              each volume: size, state, clients, rates\n"
	      "  connections          each client: who, since when, doing what\n"
	      "  stats                operations, bytes and latencies of each volume\n"
	      "  slabs                object caches and the memory they hold\n"
	      "  add NAME=SPEC        one more volume, as on slabd's command line\n"
	      "  remove NAME [--force]  take a volume away; --force also from its clients\n"
	      "  resize NAME SIZE [--force]  make a volume larger; --force also smaller\n"
	      "  clear NAME           lift the latch of a volume that failed\n"
	      "  snapshot NAME NEW    a new volume with what NAME has now (memory volumes)\n"
	      "  save NAME FILE       what NAME has now into a raw sparse file\n"
	      "  load NAME FILE [--force]  a raw file becomes what NAME has\n"
	      "  fault NAME show | set RULE | clear [OPERATIONS]\n"
	      "                       let a volume fail on purpose: set write errno=EIO times=3\n"
	      "  qos NAME show | clear | KEY=VALUE...\n"
	      "                       rates that a volume keeps to: iops=1000 client_bps=10M\n"
	      "  alua [TARGET GROUP STATE]\n"
	      "                       how good the paths through a portal group are, for multipath:\n"
	      "                       active/optimized, active/non-optimized, standby, unavailable\n"
	      "\n"
	      "Options:\n"
	      "      --socket PATH    default $XDG_RUNTIME_DIR/slabd.sock, else /run/slabd.sock\n"
	      "      --json           one JSON document instead of a table; bytes and seconds\n"
	      "                       as plain numbers\n"
	      "      --version, --help\n"
	      "\n"
	      "Exit status: 0 done, 1 refused or failed, 2 usage.\n",
		stdout);
}

static const char *
default_socket(char *text, size_t room)
{
	const char *directory = getenv("XDG_RUNTIME_DIR");

	if (directory && directory[0] == '/')
		snprintf(text, room, "%s/slabd.sock", directory);
	else
		snprintf(text, room, "/run/slabd.sock");
	return text;
}

static int
connect_socket(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(path);
	int fd;

	if (length == 0 || length >= sizeof(address.sun_path)) {
		fprintf(stderr, "slabctl: %s: a socket's path has 1 to %zu bytes\n", path,
			sizeof(address.sun_path) - 1);
		return -1;
	}
	memcpy(address.sun_path, path, length);
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (const void *)&address,
			       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length +
					   (path[0] != '@'))) == 0)
		return fd;
	if (errno == ENOENT || errno == ECONNREFUSED)
		fprintf(stderr, "slabctl: no slabd answers at %s (--socket PATH names another)\n",
			path);
	else
		fprintf(stderr, "slabctl: %s: %m\n", path);
	if (fd >= 0)
		close(fd);
	return -1;
}

static bool
send_line(int fd, const json_t *request)
{
	char *line = json_dumps(request, JSON_COMPACT);
	size_t length = line ? strlen(line) : 0, sent = 0;

	if (!line)
		return false;
	line[length++] = '\n';
	while (sent < length) {
		ssize_t n = send(fd, line + sent, length - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		sent += (size_t)n;
	}
	free(line);
	return sent == length;
}

/* The answer; NULL after saying why there is none. */
static json_t *
ask(const char *path, const json_t *request)
{
	int fd = connect_socket(path);
	json_error_t error;
	json_t *answer = NULL;

	if (fd < 0)
		return NULL;
	if (send_line(fd, request))
		/* The answer is one object: what follows it is not waited for. */
		answer = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, &error);
	close(fd);
	if (!answer)
		fprintf(stderr, "slabctl: slabd at %s ended the connection without an answer\n",
			path);
	return answer;
}

static int
count_arguments(const struct command *command)
{
	return (command->arguments[0] != NULL) + (command->arguments[1] != NULL);
}

/* A path is meant from here, not from where the daemon is. */
static json_t *
make_argument(const char *key, const char *text)
{
	char *here = strcmp(key, "file") == 0 && text[0] != '/' ? getcwd(NULL, 0) : NULL;
	json_t *made = here ? json_sprintf("%s/%s", here, text) : json_string(text);

	free(here);
	return made;
}

/* All words up to the NULL behind them, with a space between. */
static json_t *
join_words(char **words)
{
	json_t *joined = json_string(*words ? *words : "");

	while (joined && *words && *++words) {
		json_t *longer = json_sprintf("%s %s", json_string_value(joined), *words);

		json_decref(joined);
		joined = longer;
	}
	return joined;
}

static int
run_command(
	const struct command *command, const char *socket, char **arguments, bool force, bool json)
{
	json_t *request = json_pack("{s:s}", "command", command->name);
	const json_t *result;
	const char *refused;
	json_t *answer;
	bool colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");

	for (size_t i = 0; request && i < ARRAY_SIZE(command->arguments); i++) {
		if (!command->arguments[i] ||
			json_object_set_new(request, command->arguments[i],
				make_argument(command->arguments[i], arguments[i])) == 0)
			continue;
		fprintf(stderr, "slabctl: %s: \"%s\" is not UTF-8\n", command->name, arguments[i]);
		json_decref(request);
		return EXIT_USAGE;
	}
	if (command->rest && request &&
		json_object_set_new(request, command->rest,
			join_words(arguments + count_arguments(command))) != 0) {
		fprintf(stderr, "slabctl: %s: what follows is not UTF-8\n", command->name);
		json_decref(request);
		return EXIT_USAGE;
	}
	if (force)
		json_object_set_new(request, "force", json_true());
	answer = ask(socket, request);
	json_decref(request);
	if (!answer)
		return EXIT_REFUSED;
	result = json_object_get(answer, "result");
	refused = json_string_value(json_object_get(answer, "error"));
	if (!result) {
		fprintf(stderr, "slabctl: %s\n",
			refused ? refused : "slabd's answer makes no sense");
	} else if (json) {
		json_dumpf(result, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
		printf("\n");
	} else if (command->show) {
		command->show(result, colour);
	}
	json_decref(answer);
	return result && fflush(stdout) == 0 ? 0 : EXIT_REFUSED;
}

static int
complain_about_command(const char *name)
{
	static const char *const later[] = {"kill", "reload", "events", "top"};

	for (size_t i = 0; i < ARRAY_SIZE(later); i++)
		if (strcmp(later[i], name) == 0) {
			fprintf(stderr, "slabctl: %s: not there yet in this version\n", name);
			return EXIT_USAGE;
		}
	fprintf(stderr, "slabctl: unknown command \"%s\" (slabctl --help lists them)\n", name);
	return EXIT_USAGE;
}

static int
take_command(int argc, char **argv, const char *socket, bool force, bool json)
{
	const struct command *command = NULL;
	int wanted;

	if (argc == 0) {
		fprintf(stderr, "slabctl: say what: slabctl --help lists the commands\n");
		return EXIT_USAGE;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, argv[0]) == 0)
			command = &commands[i];
	if (!command)
		return complain_about_command(argv[0]);
	wanted = 1 + count_arguments(command);
	if (argc < wanted) {
		fprintf(stderr, "slabctl: %s needs a %s%s\n", command->name,
			strcmp(command->name, "add") == 0
				? "volume: NAME=BACKEND:ARG[,KEY=VALUE]..."
				: "volume's name",
			wanted < 3                                   ? ""
			: strcmp(command->arguments[1], "size") == 0 ? " and a size"
			: strcmp(command->arguments[1], "new") == 0  ? " and a new one"
								     : " and a file");
		return EXIT_USAGE;
	}
	if (argc > wanted && !command->rest) {
		fprintf(stderr, "slabctl: %s: \"%s\" is one word too many\n", command->name,
			argv[wanted]);
		return EXIT_USAGE;
	}
	if (force && !command->force) {
		fprintf(stderr, "slabctl: --force belongs to remove, resize and load\n");
		return EXIT_USAGE;
	}
	return run_command(command, socket, argv + 1, force, json);
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{"socket", required_argument, NULL, 's'},
		{"json", no_argument, NULL, 'j'},
		{"force", no_argument, NULL, 'f'},
		{"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bool json = false, force = false;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 256];
	const char *socket = default_socket(path, sizeof(path));
	int code;

	opterr = 0;
	while ((code = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (code) {
		case 's':
			socket = optarg;
			break;
		case 'j':
			json = true;
			break;
		case 'f':
			force = true;
			break;
		case 'v':
			printf("slabctl %s\n", PACKAGE_VERSION);
			return 0;
		case 'h':
			print_help();
			return 0;
		default:
			fprintf(stderr,
				"slabctl: %s: unknown option, or one without its argument\n",
				argv[optind - 1]);
			return EXIT_USAGE;
		}
	}
	return take_command(argc - optind, argv + optind, socket, force, json);
}
