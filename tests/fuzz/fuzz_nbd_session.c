/* A whole session: an input is a list of steps (world_steps.c). */
#include "config.h"

#include "fuzz.h"
#include "nbd_world.h"

static void
drop_output(struct world *world)
{
	pipe_take(world->pipe, NULL, SIZE_MAX);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *world = world_begin();

	world_steps(world, data, size, drop_output);
	world_end(world);
	return 0;
}
