/*
 * Freezing a range (design section 3). Freezes of overlapping ranges queue at the volume. One that
 * may start is told to every lane: from then on the lane holds new overlapping requests, and
 * answers when its own in flight are complete. `lane->frozen` is all that an ordinary request looks
 * at.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "log.h"
#include "storage.h"

static void look_at_freezes(struct loop_task *task);

static bool
overlaps(const struct freeze *a, const struct freeze *b)
{
	return range_overlaps(a->offset, a->length, b->offset, b->length);
}

static bool
concerns(const struct freeze *freeze, const struct blk_request *request)
{
	switch (request->op) {
	case BLK_WRITE:
	case BLK_ZERO:
	case BLK_DISCARD:
	case BLK_COMPARE_WRITE:
		break;
	case BLK_READ:
	case BLK_EXTENTS:
		if (freeze->mode == FREEZE_ALL)
			break;
		return false;
	default:
		return false;
	}
	return range_overlaps(freeze->offset, freeze->length, request->offset, request->length);
}

/* Under the lock: makes the lane look. */
static void
tell_lane(struct lane *lane)
{
	if (lane->told)
		return;
	lane->told = true;
	lane->freeze_task.run = look_at_freezes;
	volume_get(lane->volume);
	loop_post(lane->loop, &lane->freeze_task);
}

static void
tell_lanes(struct volume *volume)
{
	for (unsigned i = 0; i < LANES; i++) {
		struct lane *lane = atomic_load_explicit(&volume->lanes[i], memory_order_relaxed);

		if (lane)
			tell_lane(lane);
	}
}

static void
run_ready(struct loop_task *task)
{
	struct freeze *freeze = container_of(task, struct freeze, task);

	loop_sweep_remove(freeze->loop, &freeze->sweep);
	freeze->ready(freeze, freeze->rc);
}

/* Under the lock: the owner is told, once. */
static void
tell_owner(struct freeze *freeze, int rc)
{
	freeze->rc = rc;
	freeze->task.run = run_ready;
	loop_post(freeze->loop, &freeze->task);
}

/* Under the lock. */
static void
try_hold(struct freeze *freeze)
{
	for (unsigned i = 0; i < ARRAY_SIZE(freeze->unanswered); i++)
		if (freeze->unanswered[i])
			return;
	freeze->state = FREEZE_HELD;
	tell_owner(freeze, 0);
}

/* Under the lock: starts the freezes that no earlier one stands in the way of. */
static void
start_freezes(struct volume *volume)
{
	struct freeze *freeze, *earlier;
	bool started = false;

	TAILQ_FOREACH(freeze, &volume->freezes, link) {
		if (freeze->state != FREEZE_QUEUED)
			continue;
		for (earlier = TAILQ_FIRST(&volume->freezes); earlier != freeze;
			earlier = TAILQ_NEXT(earlier, link))
			if (overlaps(earlier, freeze))
				break;
		if (earlier != freeze)
			continue;
		freeze->state = FREEZE_STARTING;
		started = true;
		for (unsigned i = 0; i < LANES; i++)
			if (atomic_load_explicit(&volume->lanes[i], memory_order_relaxed))
				freeze->unanswered[i / 64] |= (uint64_t)1 << (i % 64);
		/* A volume that nobody has opened yet. */
		try_hold(freeze);
	}
	if (started)
		tell_lanes(volume);
}

/* Under the lock, on the lane's loop: answers a freeze if nothing of it is in flight here. */
static void
answer(struct lane *lane, struct freeze *freeze)
{
	uint64_t bit = (uint64_t)1 << (lane->index % 64);
	struct blk_request *request;

	if (freeze->state != FREEZE_STARTING || !(freeze->unanswered[lane->index / 64] & bit))
		return;
	TAILQ_FOREACH(request, &lane->in_flight, link)
		if (concerns(freeze, request))
			return;
	freeze->unanswered[lane->index / 64] &= ~bit;
	try_hold(freeze);
}

static bool
is_active(const struct freeze *freeze)
{
	return freeze->state == FREEZE_STARTING || freeze->state == FREEZE_HELD ||
	       (freeze->state == FREEZE_QUEUED && freeze->behind);
}

/* On the lane's loop: something began or ended. */
static void
look_at_freezes(struct loop_task *task)
{
	struct lane *lane = container_of(task, struct lane, freeze_task);
	struct volume *volume = lane->volume;
	struct request_list again = TAILQ_HEAD_INITIALIZER(again);
	struct freeze *freeze;
	struct blk_request *request;

	pthread_mutex_lock(&volume->lock);
	lane->told = false;
	lane->frozen = false;
	TAILQ_FOREACH(freeze, &volume->freezes, link) {
		lane->frozen = lane->frozen || is_active(freeze);
		answer(lane, freeze);
	}
	pthread_mutex_unlock(&volume->lock);
	/* From the first check again; who is still in a frozen range is held again, in order. */
	TAILQ_CONCAT(&again, &lane->held, link);
	while ((request = TAILQ_FIRST(&again))) {
		TAILQ_REMOVE(&again, request, link);
		blk_restart(request);
	}
	volume_put(volume);
}

static void
cancel_held(struct blk_request *request)
{
	TAILQ_REMOVE(&request->handle->lane->held, request, link);
	blk_complete(request, -ETIMEDOUT);
}

bool
freeze_holds(struct lane *lane, struct blk_request *request)
{
	struct freeze *freeze;

	pthread_mutex_lock(&lane->volume->lock);
	TAILQ_FOREACH(freeze, &lane->volume->freezes, link)
		if (is_active(freeze) && concerns(freeze, request))
			break;
	pthread_mutex_unlock(&lane->volume->lock);
	if (!freeze)
		return false;
	TAILQ_INSERT_TAIL(&lane->held, request, link);
	request->cancel = cancel_held;
	return true;
}

void
freeze_passed(struct lane *lane, const struct blk_request *request)
{
	struct freeze *freeze;

	pthread_mutex_lock(&lane->volume->lock);
	TAILQ_FOREACH(freeze, &lane->volume->freezes, link)
		if (concerns(freeze, request))
			answer(lane, freeze);
	pthread_mutex_unlock(&lane->volume->lock);
}

void
freeze_inherit(struct lane *lane)
{
	struct freeze *freeze;

	TAILQ_FOREACH(freeze, &lane->volume->freezes, link)
		lane->frozen = lane->frozen || is_active(freeze);
}

/* Under the lock. */
static void
take_out(struct freeze *freeze)
{
	struct volume *volume = freeze->volume;

	TAILQ_REMOVE(&volume->freezes, freeze, link);
	freeze->state = FREEZE_OVER;
	start_freezes(volume);
	tell_lanes(volume);
}

static void
give_up_late(struct loop_sweep *sweep, uint64_t now)
{
	struct freeze *freeze = container_of(sweep, struct freeze, sweep);

	if (now >= freeze->deadline)
		freeze_cancel(freeze);
}

void
freeze_cancel(struct freeze *freeze)
{
	pthread_mutex_lock(&freeze->volume->lock);
	if (freeze->state == FREEZE_QUEUED || freeze->state == FREEZE_STARTING) {
		take_out(freeze);
		tell_owner(freeze, -ETIMEDOUT);
	}
	pthread_mutex_unlock(&freeze->volume->lock);
}

static void
prepare_freeze(struct freeze *freeze, struct volume *volume, uint64_t offset, uint64_t length,
	enum freeze_mode mode, void (*ready)(struct freeze *freeze, int rc))
{
	uint64_t block = volume->info.physical_block_size;
	uint64_t end;

	if (volume->align_mask >= block)
		block = volume->align_mask + 1;
	end = round_up(offset + length, block); /* sizes end below 2^61 */
	offset = round_down(offset, block);
	memset(freeze, 0, sizeof(*freeze));
	freeze->volume = volume;
	freeze->loop = loop_current();
	freeze->ready = ready;
	freeze->offset = offset;
	freeze->length = end - offset;
	freeze->mode = mode;
	freeze->state = FREEZE_QUEUED;
}

void
freeze_start(struct freeze *freeze, struct volume *volume, uint64_t offset, uint64_t length,
	enum freeze_mode mode, void (*ready)(struct freeze *freeze, int rc))
{
	prepare_freeze(freeze, volume, offset, length, mode, ready);
	freeze->deadline = loop_now(freeze->loop) + LIMIT_FREEZE_WAIT;
	freeze->sweep.sweep = give_up_late;
	loop_sweep_add(freeze->loop, &freeze->sweep);
	pthread_mutex_lock(&volume->lock);
	TAILQ_INSERT_TAIL(&volume->freezes, freeze, link);
	start_freezes(volume);
	pthread_mutex_unlock(&volume->lock);
}

/* All that was in flight has ended, what is left behind among it. */
static void
end_behind(struct freeze *freeze, int rc)
{
	struct volume *volume = freeze->volume;

	CHECK(rc == 0); /* it has no deadline */
	freeze_release(freeze);
	free(freeze);
	volume_put(volume);
}

/*
 * A freeze that nobody does anything in. It has its turn like any other, since a request that is
 * emulated may be waiting for its own; but nothing new may slip into its range meanwhile.
 */
void
freeze_behind(const struct blk_request *request)
{
	struct volume *volume = request->handle->volume;
	struct freeze *freeze = malloc(sizeof(*freeze));

	if (!freeze) {
		log_error("%s: out of memory: a lost client's %s is not waited for",
			request->handle->name, blk_op_name(request->op));
		return;
	}
	prepare_freeze(freeze, volume_get(volume), request->offset, request->length, FREEZE_ALL,
		end_behind);
	freeze->behind = true;
	pthread_mutex_lock(&volume->lock);
	TAILQ_INSERT_TAIL(&volume->freezes, freeze, link);
	start_freezes(volume);
	tell_lanes(volume);
	pthread_mutex_unlock(&volume->lock);
}

void
freeze_release(struct freeze *freeze)
{
	struct volume *volume = freeze->volume;

	pthread_mutex_lock(&volume->lock);
	CHECK(freeze->state == FREEZE_HELD);
	take_out(freeze);
	pthread_mutex_unlock(&volume->lock);
}
