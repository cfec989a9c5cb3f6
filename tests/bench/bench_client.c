/*
 * The bench's load: one or more connections to one disk, 4 KiB random reads or writes at a queue
 * depth, what is due in one write() or each request alone. Prints requests per second and the
 * median, 99th and 99.9th percentile of latency in microseconds, as KEY=VALUE words on one line.
 */
#include "config.h"

#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../interop/wire.h"
#include "bench_tls.h"

#define CONNECTIONS_MAX 64
#define SAMPLES_MAX     (1 << 20)

static struct {
	enum wire_protocol protocol;
	const char *address, *name;
	bool write, alone, fill, tls;
	unsigned depth, connections;
	uint32_t length;
	double seconds;
	uint64_t span; /* 0: the whole disk */
} options = {.depth = 32, .connections = 1, .length = 4096, .seconds = 2, .name = ""};

struct client {
	struct wire wire;
	pthread_t thread;
	uint64_t random, span, done, filled;
	unsigned errors;
	uint64_t end_ns;
	uint64_t started[WIRE_DEPTH_MAX];
	uint32_t *samples; /* nanoseconds of the last SAMPLES_MAX requests */
	uint8_t *data;
	int rc;
};

static uint64_t
now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t
next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static bool
next_load(void *arg, struct wire_io *io)
{
	struct client *client = arg;
	uint64_t now = now_ns();

	if (now >= client->end_ns)
		return false;
	client->started[io->slot] = now;
	io->write = options.write;
	io->length = options.length;
	io->offset =
		next_random(&client->random) % (client->span / options.length) * options.length;
	io->data = client->data;
	return true;
}

static void
load_done(void *arg, const struct wire_io *io)
{
	struct client *client = arg;
	uint64_t took = now_ns() - client->started[io->slot];

	client->errors += io->error != 0;
	client->samples[client->done++ % SAMPLES_MAX] =
		took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
}

/* Writes every block once, so that reads find allocated memory on every server. */
static bool
next_fill(void *arg, struct wire_io *io)
{
	struct client *client = arg;

	if (client->filled + WIRE_LENGTH_MAX / 4 > client->span)
		return false;
	io->write = true;
	io->length = WIRE_LENGTH_MAX / 4;
	io->offset = client->filled;
	io->data = client->data;
	client->filled += io->length;
	return true;
}

static void
fill_done(void *arg, const struct wire_io *io)
{
	struct client *client = arg;

	client->errors += io->error != 0;
}

static void *
run_client(void *arg)
{
	struct client *client = arg;
	struct wire_load load = {.depth = options.depth,
		.batch = !options.alone,
		.next = next_load,
		.done = load_done,
		.arg = client};

	if (options.fill) {
		load.depth = 4;
		load.next = next_fill;
		load.done = fill_done;
	}
	client->end_ns = now_ns() + (uint64_t)(options.seconds * 1e9);
	client->rc = wire_run(&client->wire, &load);
	return NULL;
}

static int
open_client(struct client *client, unsigned number)
{
	int rc;

	if (options.tls)
		rc = wire_open_layered(&client->wire, &bench_tls, options.address, options.name);
	else
		rc = wire_open(&client->wire, options.protocol, options.address, options.name);
	if (rc) {
		fprintf(stderr, "%s %s: %s\n", options.address, options.name, strerror(-rc));
		return rc;
	}
	client->random = 0x9e3779b97f4a7c15 * (number + 1);
	client->span = client->wire.size;
	if (options.span && options.span < client->span)
		client->span = options.span;
	client->samples = calloc(SAMPLES_MAX, sizeof(client->samples[0]));
	client->data = malloc(WIRE_LENGTH_MAX);
	if (!client->samples || !client->data || client->span < options.length) {
		fprintf(stderr, "%s: %s\n", options.address, "no memory, or the disk is too small");
		return -1;
	}
	for (unsigned i = 0; i < WIRE_LENGTH_MAX; i++)
		client->data[i] = (uint8_t)next_random(&client->random);
	return 0;
}

static int
compare_samples(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Percentiles are the first connection's: all do the same. */
static void
print_result(const struct client *clients, double seconds)
{
	uint64_t done = 0, n = clients[0].done < SAMPLES_MAX ? clients[0].done : SAMPLES_MAX;
	unsigned errors = 0;
	uint32_t *samples = clients[0].samples;

	for (unsigned i = 0; i < options.connections; i++) {
		done += clients[i].done;
		errors += clients[i].errors;
	}
	qsort(samples, n, sizeof(samples[0]), compare_samples);
	printf("iops=%.0f mib=%.1f errors=%u", (double)done / seconds,
		(double)done * options.length / seconds / 1048576, errors);
	if (n)
		printf(" p50=%.1f p99=%.1f p999=%.1f", samples[n / 2] / 1e3,
			samples[n * 99 / 100] / 1e3, samples[n * 999 / 1000] / 1e3);
	putchar('\n');
}

static void
usage(void)
{
	fputs("usage: bench_client [-w] [-a] [-F] [-t] [-d DEPTH] [-c CONNECTIONS] [-l LENGTH] [-s SECONDS]\n"
	      "                    [-S SPAN_MIB] nbd|iscsi ADDRESS NAME\n"
	      "  -w writes   -a each request alone in a write()   -F fill the disk and end\n"
	      "  -t NBD over TLS\n",
		stderr);
	exit(2);
}

static void
parse_options(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "waFtd:c:l:s:S:")) != -1) {
		switch (option) {
		case 'w':
			options.write = true;
			break;
		case 'a':
			options.alone = true;
			break;
		case 'F':
			options.fill = true;
			break;
		case 't':
			options.tls = true;
			break;
		case 'd':
			options.depth = (unsigned)atoi(optarg);
			break;
		case 'c':
			options.connections = (unsigned)atoi(optarg);
			break;
		case 'l':
			options.length = (uint32_t)atoi(optarg);
			break;
		case 's':
			options.seconds = atof(optarg);
			break;
		case 'S':
			options.span = strtoull(optarg, NULL, 10) << 20;
			break;
		default:
			usage();
		}
	}
	if (argc - optind != 3 || !options.depth || options.depth > WIRE_DEPTH_MAX ||
		!options.connections || options.connections > CONNECTIONS_MAX || !options.length ||
		options.length > WIRE_LENGTH_MAX || (options.fill && options.connections > 1))
		usage();
	options.protocol = strcmp(argv[optind], "iscsi") ? WIRE_NBD : WIRE_ISCSI;
	options.address = argv[optind + 1];
	options.name = argv[optind + 2];
}

int
main(int argc, char **argv)
{
	static struct client clients[CONNECTIONS_MAX];
	uint64_t start;
	double seconds;

	parse_options(argc, argv);
	for (unsigned i = 0; i < options.connections; i++)
		if (open_client(&clients[i], i))
			return 1;
	start = now_ns();
	for (unsigned i = 0; i < options.connections; i++)
		if (pthread_create(&clients[i].thread, NULL, run_client, &clients[i]))
			return 1;
	for (unsigned i = 0; i < options.connections; i++)
		pthread_join(clients[i].thread, NULL);
	seconds = (double)(now_ns() - start) / 1e9;
	for (unsigned i = 0; i < options.connections; i++) {
		if (clients[i].rc) {
			fprintf(stderr, "%s: %s\n", options.address, strerror(-clients[i].rc));
			return 1;
		}
		wire_close(&clients[i].wire);
	}
	print_result(clients, seconds);
	for (unsigned i = 0; i < options.connections; i++) {
		free(clients[i].samples);
		free(clients[i].data);
	}
	return 0;
}
