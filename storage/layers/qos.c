/*
 * The qos layer. A bucket is one number: the time at which what was taken from it will have come back. It
 * lies at most a burst behind now, which is what may be taken at once; whoever finds it ahead of now waits
 * until then. Taking is one atomic step, so no rate is exceeded, however many loops take.
 *
 * A large request pays in pieces and waits for each, behind those who came meanwhile: a small one does not
 * wait for all of it.
 */
#include "config.h"

#include "qos.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "check.h"
#include "../storage.h"

#define PIECE  ((uint64_t)128 * KIB)
#define WAITED (1 << 30) /* in rc: it was counted as delayed */

enum { OPERATIONS, BYTES, KINDS };

struct rate {
	_Atomic uint64_t per_second; /* 0: no limit */
	_Atomic uint64_t burst_ns;
};

struct qos {
	struct rate volume[KINDS], client[KINDS];
	_Atomic uint64_t paid[KINDS]; /* the volume's buckets */
	_Atomic uint64_t requests, delayed;
	struct conf_qos conf; /* main thread */
};

/* When `units` may go on: *paid is what it is when they are taken. */
static uint64_t
due_after(const struct rate *rate, uint64_t *paid, uint64_t units, uint64_t now)
{
	uint64_t per_second = atomic_load_explicit(&rate->per_second, memory_order_relaxed);
	uint64_t burst = atomic_load_explicit(&rate->burst_ns, memory_order_relaxed);
	uint64_t due;

	if (!per_second)
		return 0;
	due = max_u64(*paid, now > burst ? now - burst : 0);
	*paid = due + units * SECOND_NS / per_second;
	return due;
}

/* From a bucket that loops share. */
static uint64_t
take_from(const struct rate *rate, _Atomic uint64_t *paid, uint64_t units, uint64_t now)
{
	uint64_t before = atomic_load_explicit(paid, memory_order_relaxed), after, due;

	do {
		after = before;
		due = due_after(rate, &after, units, now);
	} while (!atomic_compare_exchange_weak_explicit(
		paid, &before, after, memory_order_relaxed, memory_order_relaxed));
	return due;
}

static uint64_t
take(struct qos *qos, struct blk_client *client, unsigned kind, uint64_t units, uint64_t now)
{
	uint64_t mine = take_from(&qos->client[kind], &client->paid[kind], units, now);

	return max_u64(mine, take_from(&qos->volume[kind], &qos->paid[kind], units, now));
}

static uint64_t
payload(const struct blk_request *request)
{
	switch (request->op) {
	case BLK_READ:
	case BLK_WRITE:
	case BLK_COMPARE_WRITE:
		return request->length;
	default:
		return 0;
	}
}

static void
pass(struct blk_request *request)
{
	request->rc = 0;
	layer_pass(request);
}

/* rc counts the pieces that are paid for, beside WAITED; it is the request's again when it goes on. */
static void
pay(struct blk_request *request)
{
	struct blk_handle *handle = request->handle;
	struct qos *qos = layer_state(handle->volume, LAYER_QOS);
	uint64_t now = loop_now(handle->loop), length = payload(request);
	uint64_t done = (uint64_t)(request->rc & ~WAITED) * PIECE;

	for (;;) {
		uint64_t due = done == 0 ? take(qos, handle->client, OPERATIONS, 1, now) : 0;
		uint64_t piece = min_u64(length - done, PIECE);
		bool last = piece == length - done;

		if (piece)
			due = max_u64(due, take(qos, handle->client, BYTES, piece, now));
		if (due > now) {
			if (!(request->rc & WAITED))
				atomic_fetch_add_explicit(&qos->delayed, 1, memory_order_relaxed);
			request->rc = (request->rc + 1) | WAITED;
			layer_delay(request, due, last ? pass : pay);
			return;
		}
		request->rc++;
		done += piece;
		if (last)
			break;
	}
	pass(request);
}

static void
enter_qos(void *state, struct blk_request *request)
{
	struct qos *qos = state;

	/* One sync may be many clients': none of them pays for it. */
	if (request->op == BLK_FLUSH) {
		layer_pass(request);
		return;
	}
	atomic_fetch_add_explicit(&qos->requests, 1, memory_order_relaxed);
	request->rc = 0;
	pay(request);
}

static const struct layer_ops qos_layer = {.enter = enter_qos, .free = free};

/* Without a burst: what a tenth of a second brings. */
static void
set_rate(struct rate *rate, uint64_t per_second, uint64_t burst)
{
	uint64_t ns = SECOND_NS / 10;

	if (per_second && burst)
		ns = (uint64_t)min_u64(
			(uint64_t)((unsigned __int128)burst * SECOND_NS / per_second),
			3600 * SECOND_NS);
	atomic_store(&rate->burst_ns, ns);
	atomic_store(&rate->per_second, per_second);
}

static struct qos *
get_qos(struct volume *volume)
{
	struct qos *qos = layer_state(volume, LAYER_QOS);

	if (qos)
		return qos;
	qos = calloc(1, sizeof(*qos));
	if (qos)
		layer_put_in(volume, LAYER_QOS, &qos_layer, qos);
	return qos;
}

/* Everybody begins anew with new rates. */
static void
forget_paid(struct volume *volume, struct qos *qos)
{
	struct blk_handle *handle;
	struct blk_client *client;

	pthread_mutex_lock(&volume->lock);
	for (unsigned kind = 0; kind < KINDS; kind++) {
		atomic_store(&qos->paid[kind], 0);
		LIST_FOREACH(client, &volume->clients, link)
			atomic_store(&client->paid[kind], 0);
		for (unsigned i = 0; i < LANES; i++) {
			struct lane *lane = atomic_load(&volume->lanes[i]);

			if (lane)
				LIST_FOREACH(handle, &lane->handles, link)
					atomic_store(&handle->own.paid[kind], 0);
		}
	}
	pthread_mutex_unlock(&volume->lock);
}

bool
qos_client_rested(struct volume *volume, const struct blk_client *client, uint64_t now)
{
	const struct qos *qos = layer_state(volume, LAYER_QOS);

	for (unsigned kind = 0; qos && kind < KINDS; kind++)
		if (atomic_load(&client->paid[kind]) + atomic_load(&qos->client[kind].burst_ns) >
			now)
			return false;
	return true;
}

int
volume_qos_set(struct volume *volume, const struct conf_qos *conf, struct error *error)
{
	struct qos *qos = get_qos(volume);

	if (!qos)
		return error_set(error, -ENOMEM, "out of memory");
	qos->conf = *conf;
	set_rate(&qos->volume[OPERATIONS], conf->iops, conf->iops_burst);
	set_rate(&qos->volume[BYTES], conf->bps, conf->bps_burst);
	set_rate(&qos->client[OPERATIONS], conf->client_iops, conf->client_iops_burst);
	set_rate(&qos->client[BYTES], conf->client_bps, conf->client_bps_burst);
	forget_paid(volume, qos);
	layer_switch(volume, LAYER_QOS, qos_limits(conf));
	return 0;
}

void
volume_qos_get(struct volume *volume, struct qos_stats *stats)
{
	struct qos *qos = layer_state(volume, LAYER_QOS);

	*stats = (struct qos_stats){0};
	if (!qos)
		return;
	stats->qos = qos->conf;
	stats->requests = atomic_load_explicit(&qos->requests, memory_order_relaxed);
	stats->delayed = atomic_load_explicit(&qos->delayed, memory_order_relaxed);
}
