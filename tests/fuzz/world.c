#include "config.h"

#include "world.h"

#include "block.h"
#include "catalogue.h"
#include "check.h"
#include "iobuf.h"
#include "log.h"
#include "volume.h"

static void
make_world(struct world *world)
{
	struct volume_script_options options = {
		.name = "disk", .size = WORLD_SIZE, .volatile_cache = true};

	/* What goes wrong is the fuzzer's doing. */
	log_set_level(LOG_LEVEL_ERROR);
	virtual_loops_start(1);
	world->loop = loop_by_index(0);
	CHECK(iobuf_start() == 0 && storage_start(0) == 0 && world->frontend->start() == 0);
	world->script = volume_script_open(&options);
	world->publish(volume_script_volume(world->script));
	world->drained = false;
}

static void
unmake_world(struct world *world)
{
	catalogue_publish(NULL);
	volume_script_close(world->script);
	virtual_run_until_idle();
	world->frontend->stop();
	storage_stop();
	virtual_loops_stop();
}

void
world_open(struct world *world)
{
	if (!world->loop)
		make_world(world);
	world->pipe = pipe_new();
	world->ended = world->other_ended = false;
}

void
world_feed(struct world *world, const void *data, size_t size)
{
	pipe_feed(world->pipe, data, size);
	virtual_run_until_idle();
}

void
world_complete_all(struct world *world)
{
	volume_script_hold(world->script, false);
	while (volume_script_held(world->script)) {
		volume_script_complete_all(world->script, 0);
		virtual_run_until_idle();
	}
}

void
world_drain(struct world *world)
{
	world->drained = true;
	world->frontend->drain(world->loop);
	virtual_run_until_idle();
}

/* By a SANITIZE that failed. */
static bool
is_sealed(struct world *world)
{
	struct blk_handle *handle;
	bool sealed;
	int rc;

	handle = blk_open(volume_script_volume(world->script), "fuzz", true, &rc);
	if (!handle)
		return false;
	sealed = blk_sealed(handle);
	blk_close(handle);
	return sealed;
}

void
world_end(struct world *world)
{
	unsigned in_flight;

	if (!pipe_closed(world->pipe) || (world->other && !pipe_closed(world->other))) {
		pipe_set_room(world->pipe, SIZE_MAX);
		world->frontend->abort(world->loop);
		virtual_run_until_idle();
	}
	world_complete_all(world);
	CHECK(pipe_closed(world->pipe));
	if (world->other) {
		CHECK(pipe_closed(world->other));
		pipe_free(world->other);
		world->other = NULL;
	}
	CHECK(world->frontend->connections(world->loop, &in_flight) == 0);
	if (in_flight) { /* what belongs to no connection: SANITIZE */
		world_drain(world);
		virtual_advance(2 * SECOND_NS);
		CHECK(world->frontend->connections(world->loop, &in_flight) == 0 && in_flight == 0);
	}
	CHECK(iobuf_reserved(0) == 0);
	pipe_free(world->pipe);
	world->pipe = NULL;
	volume_script_forget(world->script);
	for (unsigned op = 0; op < BLK_OPS; op++)
		volume_script_fail(world->script, op, 0, 0);
	/* A drain, a failed sync, and a failed SANITIZE are for good. */
	if (world->drained || volume_broken(volume_script_volume(world->script)) ||
		is_sealed(world)) {
		unmake_world(world);
		make_world(world);
	}
}
