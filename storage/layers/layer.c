#include "config.h"

#include "layer.h"

#include <errno.h>

#include "check.h"
#include "../storage.h"

/* In blk_request.state: the next layer to enter, and those that it passed. */
#define NEXT_SHIFT   8
#define NEXT_MASK    ((uint32_t)0xff << NEXT_SHIFT)
#define PASSED_SHIFT STATE_PASSED_SHIFT

_Static_assert((STATE_PASSED & 1u << (PASSED_SHIFT + LAYERS - 1)) != 0, "a bit for each layer");

static unsigned
next_layer(const struct blk_request *request)
{
	return (request->state & NEXT_MASK) >> NEXT_SHIFT;
}

/* The first layer that is on, from `i` on, gets it; else the driver. */
static void
descend(struct blk_request *request, unsigned i)
{
	struct lane *lane = request->handle->lane;
	const struct layer *layer;

	while (i < LAYERS && !(lane->layers & 1u << i))
		i++;
	request->state &= ~NEXT_MASK;
	if (i == LAYERS) {
		request->state |= LAYERS << NEXT_SHIFT;
		blk_drive(request);
		return;
	}
	request->state |= (i + 1) << NEXT_SHIFT;
	request->progress = 0;
	request->driver[0] = request->driver[1] = 0;
	request->cancel = NULL;
	layer = &lane->volume->layer[i];
	layer->ops->enter(layer->state, request);
}

void
layer_enter(struct blk_request *request)
{
	request->state |= STATE_LAYERED;
	descend(request, 0);
}

void
layer_pass(struct blk_request *request)
{
	unsigned next = next_layer(request);

	request->state |= 1u << (PASSED_SHIFT + next - 1);
	descend(request, next);
}

void
layer_pass_part(struct blk_request *part, const struct blk_request *whole)
{
	descend(part, next_layer(whole));
}

bool
layer_leave(struct blk_request *request)
{
	struct volume *volume = request->handle->volume;

	while (request->state & STATE_PASSED) {
		unsigned passed = (request->state & STATE_PASSED) >> PASSED_SHIFT;
		unsigned i = 31 - (unsigned)__builtin_clz(passed);
		const struct layer *layer = &volume->layer[i];

		request->state &= ~(1u << (PASSED_SHIFT + i));
		if (layer->ops->leave && !layer->ops->leave(layer->state, request))
			return false;
	}
	return true;
}

/* Delayed requests of a lane, by their due time (progress): a chain through driver[0], with what to
 * do then in driver[1]. */

static void start_timer(struct lane *lane);

static void
resume_due(struct loop_timer *timer)
{
	struct lane *lane = container_of(timer, struct lane, delay_timer);
	uint64_t now = loop_now(lane->loop);

	while (lane->delayed.first && lane->delayed.first->progress <= now) {
		struct blk_request *request = chain_pop(&lane->delayed);
		void (*resume)(struct blk_request *) =
			(void (*)(struct blk_request *))request->driver[1];

		request->cancel = NULL;
		resume(request);
	}
	start_timer(lane);
}

static void
start_timer(struct lane *lane)
{
	const struct blk_request *first = lane->delayed.first;
	uint64_t now = loop_now(lane->loop);

	if (first && loop_timer_start(lane->loop, &lane->delay_timer,
			     first->progress > now ? first->progress - now : 1, resume_due) != 0)
		/* No memory for a timer: the sweep of a second serves as one. */
		loop_sweep_add(lane->loop, &lane->delay_sweep);
}

static void
sweep_due(struct loop_sweep *sweep, uint64_t now)
{
	struct lane *lane = container_of(sweep, struct lane, delay_sweep);

	(void)now;
	loop_sweep_remove(lane->loop, sweep);
	resume_due(&lane->delay_timer);
}

static void
cancel_delayed(struct blk_request *request)
{
	struct lane *lane = request->handle->lane;

	if (!chain_remove(&lane->delayed, request))
		return;
	/* A timer that comes too early finds nothing due; one that nobody waits for is not left behind. */
	if (!lane->delayed.first) {
		loop_timer_stop(&lane->delay_timer);
		loop_sweep_remove(lane->loop, &lane->delay_sweep);
	}
	blk_complete(request, -ETIMEDOUT);
}

void
layer_delay(struct blk_request *request, uint64_t due, void (*resume)(struct blk_request *request))
{
	struct lane *lane = request->handle->lane;
	struct request_chain *chain = &lane->delayed;
	struct blk_request *before = NULL, *after = chain->first;

	request->progress = due;
	request->driver[1] = (uintptr_t)resume;
	request->cancel = cancel_delayed;
	if (!chain->last || chain->last->progress <= due) {
		bool first = !chain->first;

		chain_append(chain, request);
		if (!first)
			return;
	} else {
		while (after->progress <= due) {
			before = after;
			after = chain_next(after);
		}
		request->driver[0] = (uintptr_t)after;
		if (before) {
			before->driver[0] = (uintptr_t)request;
			return;
		}
		chain->first = request;
	}
	/* It is the first. A lane that waits for the sweep has no timer to set earlier. */
	lane->delay_sweep.sweep = sweep_due;
	if (!lane->delay_sweep.previous)
		start_timer(lane);
}

void *
layer_state(struct volume *volume, enum layer_id id)
{
	return volume->layer[id].state;
}

void
layer_put_in(struct volume *volume, enum layer_id id, const struct layer_ops *ops, void *state)
{
	CHECK(!volume->layer[id].state);
	/* A loop on which a client comes asks what the rates know of others (qos_client_rested()). */
	pthread_mutex_lock(&volume->lock);
	volume->layer[id] = (struct layer){.ops = ops, .state = state};
	pthread_mutex_unlock(&volume->lock);
}

void
layer_switch(struct volume *volume, enum layer_id id, bool on)
{
	if (on)
		atomic_fetch_or(&volume->layers, 1u << id);
	else
		atomic_fetch_and(&volume->layers, ~(1u << id));
}

void
volume_layers_apply(struct volume *volume)
{
	struct lane *lane = atomic_load_explicit(
		&volume->lanes[loop_index(loop_current())], memory_order_relaxed);

	/* A lane that is made later looks for itself. */
	if (!lane)
		return;
	lane->layers = (uint8_t)atomic_load(&volume->layers);
	/* What waits by the old word waits no longer, or again by the new one. */
	for (struct blk_request *r = lane->delayed.first; r; r = chain_next(r))
		r->progress = 0;
	if (!lane->delay_sweep.previous)
		start_timer(lane);
}

void
layers_free(struct volume *volume)
{
	for (unsigned i = 0; i < LAYERS; i++)
		if (volume->layer[i].state)
			volume->layer[i].ops->free(volume->layer[i].state);
}
