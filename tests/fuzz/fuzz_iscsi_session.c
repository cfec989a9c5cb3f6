/* The full feature phase of a session with two connections: an input is a list of steps (world_steps.c). */
#include "config.h"

#include "fuzz.h"
#include "iscsi_world.h"

static void
check_output(struct world *world)
{
	world_check_output(world, false);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *world = world_begin();

	world_login(world, false, false);
	world_join(world);
	world_steps(world, data, size, check_output);
	world_end(world);
	return 0;
}
