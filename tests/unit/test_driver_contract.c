/*
 * B1 to B10 on real loops and workers, for every backend and for scripted ones: what a driver's
 * author runs first. Clients on two loops do random things to slices of one volume that interlock
 * block by block, each against its own shadow; then the loops take turns on the same blocks.
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "block_driver.h"
#include "check.h"
#include "limits.h"
#include "loop_device.h"
#include "volume_script.h"
#include "../../storage/uring.h"
#include "work.h"

#define SLICES  10                /* of a client, each SLICE bytes */
#define SLICE   ((uint64_t)20000) /* neither a page nor a block: neighbours share both */
#define CLIENTS 4
#define DEPTH   6

/* Of all clients of a variant together; SLABD_REQUESTS says another number. What waits for a disk or for a
 * clock does fewer by default, so that make check stays short. */
#define REQUESTS      100000
#define REQUESTS_SLOW 10000

struct variant {
	const char *name;
	const char *backend; /* NULL: scripted */
	uint64_t size, base;
	struct volume_script_options script;
	enum conf_direct direct;
	bool workers;      /* no io_uring */
	uint32_t block;    /* device: its logical block */
	const char *fault; /* layers */
	struct conf_qos qos;
	bool zero_detect;
	bool snapshot; /* of a volume that has all its chunks, and stays */
	bool slow;     /* REQUESTS_SLOW */
	bool forgets;  /* reads are zeroes, whatever was written */
};

#define CLIENT_SPAN (CLIENTS * SLICES * SLICE)

/* Half of all wait before, others after it was done. */
#define LATENCIES                                        \
	"all latency=uniform:0us-300us probability=50; " \
	"all client=client late=on latency=exponential:50us probability=10"

static const struct variant variants[] = {
	{.name = "memory", .backend = "memory", .size = PIB},
	{.name = "memory past 2^31",
		.backend = "memory",
		.size = PIB,
		.base = ((uint64_t)1 << 31) - CLIENT_SPAN / 2},
	{.name = "memory past 2^41",
		.backend = "memory",
		.size = PIB,
		.base = ((uint64_t)1 << 41) - CLIENT_SPAN / 2},
	{.name = "memory, zeroes detected", .backend = "memory", .size = PIB, .zero_detect = true},
	{.name = "memory, a snapshot", .backend = "memory", .size = 8 * MIB, .snapshot = true},
	{.name = "null", .backend = "null", .size = PIB, .forgets = true},
	{.name = "fault over memory",
		.slow = true,
		.backend = "memory",
		.size = PIB,
		.fault = LATENCIES},
	{.name = "qos over memory",
		.slow = true,
		.backend = "memory",
		.size = PIB,
		.qos = {.iops = 20000, .client_bps = GIB, .client_bps_burst = 1}},
	{.name = "qos over fault over file",
		.slow = true,
		.backend = "file",
		.size = 8 * GIB,
		.fault = LATENCIES,
		.qos = {.iops = 20000, .iops_burst = 1}},
	{.name = "file", .backend = "file", .size = 8 * GIB},
	{.name = "file past 2^32",
		.backend = "file",
		.size = 8 * GIB,
		.base = ((uint64_t)1 << 32) - CLIENT_SPAN / 2},
	{.name = "file past 2^41",
		.backend = "file",
		.size = 4 * TIB,
		.base = ((uint64_t)1 << 41) - CLIENT_SPAN / 2},
	{.name = "file by workers", .backend = "file", .size = 8 * GIB, .workers = true},
	{.name = "file, direct",
		.slow = true,
		.backend = "file",
		.size = 8 * GIB,
		.direct = CONF_DIRECT_ON},
	{.name = "file, direct, by workers",
		.slow = true,
		.backend = "file",
		.size = 8 * GIB,
		.direct = CONF_DIRECT_ON,
		.workers = true},
	{.name = "device 512", .slow = true, .backend = "device", .size = 64 * MIB, .block = 512},
	{.name = "device 4096", .slow = true, .backend = "device", .size = 64 * MIB, .block = 4096},
	{.name = "device by workers",
		.slow = true,
		.backend = "device",
		.size = 64 * MIB,
		.block = 512,
		.workers = true},
	{.name = "async 512",
		.size = 8 * MIB,
		.script = {.forgets = true, .alignment = 512, .missing = 1u << BLK_COMPARE_WRITE}},
	{.name = "async 4096",
		.size = 8 * MIB,
		.script = {.forgets = true,
			.alignment = 4096,
			.volatile_cache = true,
			.missing = 1u << BLK_COMPARE_WRITE}},
	{.name = "blocking 512",
		.size = 8 * MIB,
		.script = {.forgets = true,
			.alignment = 512,
			.blocking = true,
			.volatile_cache = true,
			.missing = 1u << BLK_COMPARE_WRITE | 1u << BLK_ZERO}},
	{.name = "blocking",
		.size = 8 * MIB,
		.script = {.forgets = true, .blocking = true, .missing = 1u << BLK_COMPARE_WRITE}},
};

static char dir[200];
static char file_path[sizeof(dir) + 16];
static struct loop_device device;
static uint64_t first_seed;

/* A call on a loop that the test waits for. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

struct call {
	struct loop_task task;
	void (*function)(void *arg);
	void *arg;
	bool done;
};

static void
run_call(struct loop_task *task)
{
	struct call *call = container_of(task, struct call, task);

	call->function(call->arg);
	pthread_mutex_lock(&lock);
	call->done = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void
call_on(unsigned loop, void (*function)(void *arg), void *arg)
{
	struct call call = {.task.run = run_call, .function = function, .arg = arg};

	loop_post(loop_by_index(loop), &call.task);
	pthread_mutex_lock(&lock);
	while (!call.done)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

/* Failures on loops are told to the main thread: cmocka's asserts are for that one. */
static atomic_uint failures;
static char failure[512];

static void
fail_here(const char *text, const struct blk_request *request)
{
	pthread_mutex_lock(&lock);
	if (atomic_fetch_add(&failures, 1) == 0)
		snprintf(failure, sizeof(failure), "%s: %s at %llu, %llu bytes: rc %d", text,
			blk_op_name(request->op), (unsigned long long)request->offset,
			(unsigned long long)request->length, request->rc);
	pthread_mutex_unlock(&lock);
}

static void
expect_no_failures(void)
{
	if (atomic_load(&failures))
		print_message("%s\n", failure);
	assert_int_equal(atomic_load(&failures), 0);
}

struct client;

struct random_io {
	struct blk_request blk;
	struct client *client;
	struct iovec iov[3];
	unsigned slice;
	uint64_t within; /* the slice */
	uint8_t *data;   /* 2 * SLICE */
	bool expect_mismatch;
	bool busy, cancelled;
	struct blk_extent extents[8];
};

struct client {
	struct blk_handle *handle;
	struct volume *volume;
	unsigned number, loop;
	uint64_t base, seed;
	uint8_t *shadow; /* SLICES * SLICE */
	bool taken[SLICES];
	struct random_io io[DEPTH];
	unsigned started, in_flight, most;
	unsigned taken_back; /* B10 */
	bool forgets;
	bool finished;
};

static uint64_t
next_random(struct client *c)
{
	c->seed ^= c->seed << 13;
	c->seed ^= c->seed >> 7;
	c->seed ^= c->seed << 17;
	return c->seed;
}

static void random_done(struct blk_request *request);
static void cancel_one(struct random_io *io);

/* Slices of the clients lie between each other's. */
static uint64_t
slice_offset(const struct client *c, unsigned slice)
{
	return c->base + (slice * (uint64_t)CLIENTS + c->number) * SLICE;
}

static void
fill_random(struct client *c, uint8_t *data, uint64_t length)
{
	for (uint64_t i = 0; i < length; i++)
		data[i] = (uint8_t)(next_random(c) >> 17);
}

/* The vector in up to three pieces. */
static void
set_vector(struct client *c, struct random_io *io, uint64_t bytes)
{
	uint64_t first = next_random(c) % (bytes + 1),
		 second = next_random(c) % (bytes - first + 1);

	io->iov[0] = (struct iovec){io->data, first};
	io->iov[1] = (struct iovec){io->data + first, second};
	io->iov[2] = (struct iovec){io->data + first + second, bytes - first - second};
	io->blk.iov = io->iov;
	io->blk.niov = 3;
}

static void
prepare_data(struct client *c, struct random_io *io)
{
	const uint8_t *shadow = c->shadow + io->slice * SLICE + io->within;
	uint64_t length = io->blk.length;

	switch (io->blk.op) {
	case BLK_READ:
		memset(io->data, 0xee, length);
		set_vector(c, io, length);
		break;
	case BLK_WRITE:
		fill_random(c, io->data, length);
		set_vector(c, io, length);
		break;
	case BLK_COMPARE_WRITE:
		memcpy(io->data, shadow, length);
		fill_random(c, io->data + length, length);
		io->expect_mismatch = next_random(c) % 2;
		if (io->expect_mismatch)
			io->data[length - 1] ^= 1;
		set_vector(c, io, 2 * length);
		break;
	default:
		break;
	}
}

static void
cancel_one(struct random_io *io)
{
	if (!io->busy)
		return;
	io->cancelled = true;
	blk_cancel(&io->blk);
	if (!io->busy)
		fail_here("B10: completed inside cancel", &io->blk);
}

static void
start_random(struct client *c, struct random_io *io)
{
	static const enum blk_op ops[] = {BLK_READ, BLK_READ, BLK_READ, BLK_WRITE, BLK_WRITE,
		BLK_WRITE, BLK_ZERO, BLK_DISCARD, BLK_FLUSH, BLK_EXTENTS, BLK_PREFETCH,
		BLK_COMPARE_WRITE};
	struct blk_request *blk = &io->blk;
	uint64_t length = 1 + next_random(c) % (next_random(c) % 2 ? SLICE : 600);

	do
		io->slice = (unsigned)(next_random(c) % SLICES);
	while (c->taken[io->slice]);
	c->taken[io->slice] = true;
	io->within = next_random(c) % (SLICE - length + 1);
	memset(blk, 0, sizeof(*blk));
	blk->op = ops[next_random(c) % ARRAY_SIZE(ops)];
	blk->flags = blk->op == BLK_ZERO && next_random(c) % 2 ? BLK_MAY_UNMAP : 0;
	if (next_random(c) % 16 == 0)
		blk->flags |= BLK_FUA;
	blk->offset = slice_offset(c, io->slice) + io->within;
	blk->length = blk->op == BLK_FLUSH ? 0 : length;
	blk->extents = io->extents;
	blk->nextents = ARRAY_SIZE(io->extents);
	blk->done = random_done;
	prepare_data(c, io);
	io->busy = true;
	io->cancelled = false;
	c->started++;
	c->in_flight++;
	blk_submit(c->handle, blk);
	if (!io->busy)
		fail_here("B2: completed inside submit", blk);
	/* This one before it has gone anywhere, or any other at any moment. */
	if (next_random(c) % 16 == 0)
		cancel_one(next_random(c) % 2 ? io : &c->io[next_random(c) % DEPTH]);
}

static void
check_extents(const struct random_io *io, const uint8_t *shadow)
{
	uint64_t at = 0;

	if (io->blk.nextents < 1 || io->blk.nextents > ARRAY_SIZE(io->extents))
		fail_here("number of extents", &io->blk);
	for (unsigned i = 0; i < io->blk.nextents; i++) {
		if (io->extents[i].length == 0 || io->extents[i].length > io->blk.length - at) {
			fail_here("length of an extent", &io->blk);
			return;
		}
		for (uint64_t j = 0; io->extents[i].flags & BLK_ZEROES && j < io->extents[i].length;
			j++)
			if (shadow[at + j])
				fail_here("data in an extent of zeroes", &io->blk);
		at += io->extents[i].length;
	}
}

/* As the volume remembers it. */
static void
remember(const struct client *c, uint8_t *shadow, const uint8_t *data, uint64_t length)
{
	if (!c->forgets)
		memcpy(shadow, data, length);
}

static void
check_result(struct client *c, struct random_io *io)
{
	uint8_t *shadow = c->shadow + io->slice * SLICE + io->within;
	struct blk_request *blk = &io->blk;
	int expected = blk->op == BLK_COMPARE_WRITE && io->expect_mismatch ? -EILSEQ : 0;

	if (!io->busy)
		fail_here("B1: completed twice", blk);
	if (loop_current() != loop_by_index(c->loop))
		fail_here("B2: on another loop", blk);
	if (blk->rc == -ETIMEDOUT && io->cancelled) {
		c->taken_back++;
		return;
	}
	if (blk->rc != expected) {
		fail_here("result", blk);
		return;
	}
	switch (blk->op) {
	case BLK_READ:
		if (memcmp(io->data, shadow, blk->length) != 0)
			fail_here("B5: data", blk);
		break;
	case BLK_WRITE:
		remember(c, shadow, io->data, blk->length);
		break;
	case BLK_COMPARE_WRITE:
		if (!io->expect_mismatch)
			remember(c, shadow, io->data + blk->length, blk->length);
		else if (blk->mismatch != blk->length - 1)
			fail_here("offset of the mismatch", blk);
		break;
	case BLK_ZERO:
		memset(shadow, 0, blk->length);
		break;
	case BLK_EXTENTS:
		check_extents(io, shadow);
		break;
	default:
		break;
	}
}

static void
finish_client(struct client *c)
{
	blk_close(c->handle);
	pthread_mutex_lock(&lock);
	c->finished = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* The next one, in the place of one that has ended. */
static void
go_on(struct client *c, struct random_io *io)
{
	io->busy = false;
	c->in_flight--;
	c->taken[io->slice] = false;
	if (c->started < c->most)
		start_random(c, io);
	else if (!c->in_flight)
		finish_client(c);
}

/* What the volume has there now is what it is to have from now on. */
static void
remember_read(struct random_io *io)
{
	struct client *c = io->client;

	remember(c, c->shadow + io->slice * SLICE + io->within, io->data, io->blk.length);
	go_on(c, io);
}

static void
read_back(struct random_io *io, void (*done)(struct blk_request *request))
{
	struct blk_request *blk = &io->blk;

	blk->op = BLK_READ;
	blk->flags = 0;
	blk->done = done;
	io->cancelled = false;
	set_vector(io->client, io, blk->length);
	blk_submit(io->client->handle, blk);
}

/* B8: a request that was taken back may have been carried out in part. */
static void
taken_back_read(struct blk_request *request)
{
	struct random_io *io = container_of(request, struct random_io, blk);

	if (request->rc == -ETIMEDOUT && io->cancelled)
		read_back(io, taken_back_read);
	else if (request->rc)
		fail_here("read after a request that was taken back", request);
	else
		remember_read(io);
}

/* Old data or zeroes, byte by byte: what it is now is read back, checked and remembered. */
static void
discarded_read(struct blk_request *request)
{
	struct random_io *io = container_of(request, struct random_io, blk);
	struct client *c = io->client;
	const uint8_t *shadow = c->shadow + io->slice * SLICE + io->within;

	if (request->rc == -ETIMEDOUT && io->cancelled) {
		read_back(io, discarded_read);
		return;
	}
	for (uint64_t i = 0; i < request->length; i++)
		if (io->data[i] && io->data[i] != shadow[i]) {
			fail_here("discarded data is neither old nor zeroes", request);
			break;
		}
	remember_read(io);
}

static void
random_done(struct blk_request *request)
{
	struct random_io *io = container_of(request, struct random_io, blk);
	struct client *c = io->client;

	check_result(c, io);
	if (request->op == BLK_DISCARD)
		read_back(io, discarded_read);
	else if (request->rc == -ETIMEDOUT && request->op != BLK_READ && request->length)
		read_back(io, taken_back_read);
	else
		go_on(c, io);
}

static void
start_client(void *arg)
{
	struct client *c = arg;
	int rc;

	c->handle = blk_open(c->volume, "client", false, &rc);
	CHECK(c->handle);
	for (unsigned i = 0; i < DEPTH; i++) {
		c->io[i].client = c;
		start_random(c, &c->io[i]);
	}
}

static bool
has_direct(void)
{
	int fd = open(file_path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);

	if (fd >= 0)
		close(fd);
	unlink(file_path);
	return fd >= 0;
}

/* A loop device over the file. False, said: there is none here. */
static bool
attach_device(const struct variant *v)
{
	int fd = open(file_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), rc;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)v->size), 0);
	close(fd);
	rc = loop_device_attach(&device, file_path, v->block);
	if (rc)
		print_message("# SKIP %s: no loop device: %s\n", v->name, strerror(-rc));
	return rc == 0;
}

/* What a snapshot was taken of. */
static struct volume *origin;

static void
snapshot_taken(void *arg, struct volume *made, int rc, const char *text)
{
	if (rc)
		print_message("%s\n", text);
	*(struct volume **)arg = made;
	loop_stop_main();
}

static struct volume *
take_snapshot(struct volume *volume)
{
	struct volume *made = NULL;
	struct error error;

	origin = volume;
	assert_int_equal(volume_snapshot(volume, "snapshot", snapshot_taken, &made, &error), 0);
	loop_run_main();
	assert_non_null(made);
	return made;
}

/* The variant's volume; *script is NULL for backends. NULL: not here, and said why. */
static struct volume *
open_variant(const struct variant *v, struct volume_script **script)
{
	struct volume_script_options options = v->script;
	char name[] = "contract", backend[16];
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.path = file_path,
		.size = v->size,
		.block_size = 512,
		.direct = v->direct,
		.fault = (char *)(uintptr_t)v->fault,
		.qos = v->qos,
		.zero_detect = v->zero_detect,
		.populate = v->snapshot};
	struct volume *volume;
	struct error error;
	int rc;

	*script = NULL;
	if (!v->backend) {
		options.size = v->size;
		*script = volume_script_open(&options);
		return volume_script_volume(*script);
	}
	strcpy(backend, v->backend);
	unlink(file_path);
	if (v->block) {
		if (!attach_device(v))
			return NULL;
		conf.path = device.path;
	}
	if (v->direct == CONF_DIRECT_ON && !has_direct()) {
		print_message("# SKIP %s: %s has no O_DIRECT\n", v->name, dir);
		return NULL;
	}
	uring_forbid(v->workers);
	rc = volume_open(&conf, &volume, &error);
	if (rc)
		print_message("%s\n", error.text);
	assert_int_equal(rc, 0);
	return v->snapshot ? take_snapshot(volume) : volume;
}

static void
close_variant(struct volume *volume)
{
	volume_put(volume);
	if (origin)
		volume_put(origin);
	origin = NULL;
	if (device.path[0])
		loop_device_detach(&device);
	device.path[0] = '\0';
	unlink(file_path);
}

static unsigned
number_of_requests(const struct variant *v)
{
	const char *given = getenv("SLABD_REQUESTS");

	return given ? (unsigned)strtoul(given, NULL, 10) : v->slow ? REQUESTS_SLOW : REQUESTS;
}

static void
random_clients(const struct variant *v)
{
	struct volume_script *script;
	struct volume *volume = open_variant(v, &script);
	unsigned requests = number_of_requests(v), done = 0, taken_back = 0;
	uint64_t began = clock_now();
	struct client *clients;

	if (!volume)
		return;
	clients = calloc(CLIENTS, sizeof(*clients));
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct client *c = &clients[i];

		c->number = i;
		c->loop = i % 2;
		c->volume = volume;
		c->base = v->base;
		c->forgets = v->forgets;
		c->most = (requests + CLIENTS - 1) / CLIENTS;
		c->seed = (first_seed + i * 77777) | 1;
		c->shadow = calloc(SLICES, SLICE);
		for (unsigned j = 0; j < DEPTH; j++)
			c->io[j].data = malloc(2 * SLICE);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		call_on(clients[i].loop, start_client, &clients[i]);
	for (unsigned i = 0; i < CLIENTS; i++) {
		pthread_mutex_lock(&lock);
		while (!clients[i].finished)
			pthread_cond_wait(&changed, &lock);
		pthread_mutex_unlock(&lock);
		done += clients[i].started;
		taken_back += clients[i].taken_back;
		for (unsigned j = 0; j < DEPTH; j++)
			free(clients[i].io[j].data);
		free(clients[i].shadow);
	}
	free(clients);
	print_message("# %s: %u requests, %u taken back, %.1f s\n", v->name, done, taken_back,
		(double)(clock_now() - began) / 1e9);
	expect_no_failures();
	close_variant(volume);
}

static void
clients_on_two_loops_see_their_own_data(void **state)
{
	(void)state;
	print_message("# seed %llu\n", (unsigned long long)first_seed);
	for (unsigned i = 0; i < ARRAY_SIZE(variants); i++)
		random_clients(&variants[i]);
}

/*
 * B5 across loops: one ball that two loops throw to each other. Who has it reads what the other
 * wrote last, writes the next number over the same blocks, and throws it when that is complete.
 */
struct ball {
	struct blk_request blk;
	struct loop_task task;
	struct iovec iov;
	struct blk_handle *handle[2];
	struct volume *volume;
	uint64_t offset, length;
	unsigned turn;
	uint8_t data[9000];
	bool over;
};

#define TURNS 300

static void
open_ball(void *arg)
{
	struct ball *ball = arg;
	unsigned loop = loop_index(loop_current());
	int rc;

	ball->handle[loop] = blk_open(ball->volume, "ball", false, &rc);
	CHECK(ball->handle[loop]);
}

static void
close_ball(void *arg)
{
	struct ball *ball = arg;

	blk_close(ball->handle[loop_index(loop_current())]);
}

static void
submit_ball(struct ball *ball, enum blk_op op, void (*done)(struct blk_request *))
{
	ball->iov = (struct iovec){ball->data, ball->length};
	ball->blk.op = op;
	ball->blk.flags = 0;
	ball->blk.offset = ball->offset;
	ball->blk.length = ball->length;
	ball->blk.iov = &ball->iov;
	ball->blk.niov = 1;
	ball->blk.done = done;
	blk_submit(ball->handle[ball->turn % 2], &ball->blk);
}

static void
ball_written(struct blk_request *request)
{
	struct ball *ball = container_of(request, struct ball, blk);

	if (request->rc)
		fail_here("ball", request);
	ball->turn++;
	if (ball->turn < TURNS) {
		loop_post(loop_by_index(ball->turn % 2), &ball->task);
		return;
	}
	pthread_mutex_lock(&lock);
	ball->over = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void
ball_read(struct blk_request *request)
{
	struct ball *ball = container_of(request, struct ball, blk);

	for (uint64_t i = 0; i < ball->length; i++)
		if (ball->data[i] != (uint8_t)ball->turn) {
			fail_here("B5: the other loop's write is not seen", request);
			break;
		}
	memset(ball->data, (int)(ball->turn + 1), ball->length);
	submit_ball(ball, BLK_WRITE, ball_written);
}

static void
catch_ball(struct loop_task *task)
{
	struct ball *ball = container_of(task, struct ball, task);

	submit_ball(ball, BLK_READ, ball_read);
}

static void
loops_see_each_others_writes(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
		struct volume_script *script;
		struct ball *ball;

		if (variants[i].forgets)
			continue;
		ball = calloc(1, sizeof(*ball));
		ball->volume = open_variant(&variants[i], &script);
		if (!ball->volume) {
			free(ball);
			continue;
		}
		ball->offset = variants[i].base + 65536 - 100;
		ball->length = 9000;
		for (unsigned loop = 0; loop < 2; loop++)
			call_on(loop, open_ball, ball);
		ball->task.run = catch_ball;
		loop_post(loop_by_index(0), &ball->task);
		pthread_mutex_lock(&lock);
		while (!ball->over)
			pthread_cond_wait(&changed, &lock);
		pthread_mutex_unlock(&lock);
		for (unsigned loop = 0; loop < 2; loop++)
			call_on(loop, close_ball, ball);
		expect_no_failures();
		close_variant(ball->volume);
		free(ball);
	}
}

/*
 * COMPARE_WRITE is one action: clients on both loops count up the same number, within a chunk and
 * across two; a reader never sees half of a count.
 */
struct counter {
	struct blk_request blk;
	struct blk_handle *handle;
	struct volume *volume;
	struct iovec iov;
	uint64_t offset;
	unsigned loop, counted;
	uint8_t data[2048];
	bool only_read, over;
};

#define COUNTS 200

static void read_count(struct counter *k);

static void
end_counter(struct counter *k)
{
	blk_close(k->handle);
	pthread_mutex_lock(&lock);
	k->over = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void
count_written(struct blk_request *request)
{
	struct counter *k = container_of(request, struct counter, blk);

	if (request->rc == 0)
		k->counted++;
	else if (request->rc != -EILSEQ)
		fail_here("count", request);
	if (k->counted < COUNTS && !atomic_load(&failures))
		read_count(k);
	else
		end_counter(k);
}

static void
count_read(struct blk_request *request)
{
	struct counter *k = container_of(request, struct counter, blk);
	unsigned value;

	if (request->rc)
		fail_here("read of the count", request);
	for (unsigned i = 4; i < 1024; i += 4)
		if (memcmp(k->data, k->data + i, 4) != 0) {
			fail_here("half a COMPARE_WRITE was seen", request);
			break;
		}
	if (k->only_read) {
		end_counter(k);
		return;
	}
	memcpy(&value, k->data, 4);
	value++;
	for (unsigned i = 0; i < 1024; i += 4)
		memcpy(k->data + 1024 + i, &value, 4);
	k->iov.iov_len = 2048;
	k->blk.op = BLK_COMPARE_WRITE;
	k->blk.done = count_written;
	blk_submit(k->handle, &k->blk);
}

static void
read_count(struct counter *k)
{
	k->iov = (struct iovec){k->data, 1024};
	k->blk.op = BLK_READ;
	k->blk.offset = k->offset;
	k->blk.length = 1024;
	k->blk.iov = &k->iov;
	k->blk.niov = 1;
	k->blk.done = count_read;
	blk_submit(k->handle, &k->blk);
}

static void
start_counter(void *arg)
{
	struct counter *k = arg;
	int rc;

	k->handle = blk_open(k->volume, "counter", false, &rc);
	CHECK(k->handle);
	read_count(k);
}

static void
count_together(const struct variant *v, uint64_t offset)
{
	struct volume_script *script;
	struct volume *volume = open_variant(v, &script);
	struct counter counters[CLIENTS] = {0};
	unsigned value;

	if (!volume)
		return;
	for (unsigned i = 0; i < CLIENTS; i++) {
		counters[i].volume = volume;
		counters[i].offset = offset;
		counters[i].loop = i % 2;
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		call_on(counters[i].loop, start_counter, &counters[i]);
	for (unsigned i = 0; i < CLIENTS; i++) {
		pthread_mutex_lock(&lock);
		while (!counters[i].over)
			pthread_cond_wait(&changed, &lock);
		pthread_mutex_unlock(&lock);
	}
	expect_no_failures();
	/* COUNTS each, none lost. */
	counters[0].only_read = true;
	counters[0].over = false;
	call_on(0, start_counter, &counters[0]);
	pthread_mutex_lock(&lock);
	while (!counters[0].over)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	memcpy(&value, counters[0].data, 4);
	assert_int_equal(value, CLIENTS * COUNTS);
	expect_no_failures();
	close_variant(volume);
}

static void
compare_and_write_is_one_action(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
		if (variants[i].forgets)
			continue;
		count_together(&variants[i], round_down(variants[i].base, 65536) + 65536 + 8192);
		count_together(&variants[i], round_down(variants[i].base, 65536) + 131072 - 512);
	}
}

/* O4: two loops flush without pause; the n-th sync fails; nobody is told a success that began
 * later. */
struct flusher {
	struct blk_request blk;
	struct blk_handle *handle;
	struct volume *volume;
	struct volume_script *script;
	unsigned number, successes, after;
	bool failed, over;
};

static void
flushed(struct blk_request *request)
{
	struct flusher *f = container_of(request, struct flusher, blk);

	if (request->rc == 0 && f->failed)
		fail_here("O4: success after a failure", request);
	if (request->rc)
		f->failed = true;
	else if (++f->successes == 50 && f->number == 0)
		volume_script_fail(f->script, BLK_FLUSH, -EIO, 1);
	if (f->failed && f->after++ == 20) {
		blk_close(f->handle);
		pthread_mutex_lock(&lock);
		f->over = true;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
		return;
	}
	blk_submit(f->handle, request);
}

static void
start_flusher(void *arg)
{
	struct flusher *f = arg;
	int rc;

	f->handle = blk_open(f->volume, "flusher", false, &rc);
	CHECK(f->handle);
	f->blk.op = BLK_FLUSH;
	f->blk.done = flushed;
	blk_submit(f->handle, &f->blk);
}

static void
failed_sync_is_told_to_all(void **state)
{
	(void)state;
	for (unsigned blocking = 0; blocking < 2; blocking++) {
		struct volume_script *s = volume_script_open(&(struct volume_script_options){
			.volatile_cache = true, .blocking = blocking});
		struct flusher flushers[4] = {0};

		for (unsigned i = 0; i < 4; i++) {
			flushers[i].volume = volume_script_volume(s);
			flushers[i].script = s;
			flushers[i].number = i;
			call_on(i % 2, start_flusher, &flushers[i]);
		}
		for (unsigned i = 0; i < 4; i++) {
			pthread_mutex_lock(&lock);
			while (!flushers[i].over)
				pthread_cond_wait(&changed, &lock);
			pthread_mutex_unlock(&lock);
		}
		expect_no_failures();
		assert_true(volume_broken(volume_script_volume(s)));
		volume_script_close(s);
	}
}

static int
setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "%s/slabd-test-contract-XXXXXX",
		getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(dir))
		return -1;
	snprintf(file_path, sizeof(file_path), "%s/image", dir);
	if (storage_start(0) || work_start(8))
		return -1;
	loops_start(2);
	return 0;
}

/* The main loop closes what the other loops let go of last. */
static void
stop_main(struct loop_timer *timer)
{
	(void)timer;
	loop_stop_main();
}

static int
teardown(void **state)
{
	struct loop_timer timer = {0};

	(void)state;
	if (loop_timer_start(loop_main(), &timer, 50 * MS_NS, stop_main))
		return -1;
	loop_run_main();
	loops_stop();
	work_stop();
	storage_stop();
	return rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_on_two_loops_see_their_own_data),
		cmocka_unit_test(loops_see_each_others_writes),
		cmocka_unit_test(compare_and_write_is_one_action),
		cmocka_unit_test(failed_sync_is_told_to_all),
	};
	const char *given = getenv("SLABD_SEED");

	first_seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	return cmocka_run_group_tests_name("driver_contract", tests, setup, teardown);
}
