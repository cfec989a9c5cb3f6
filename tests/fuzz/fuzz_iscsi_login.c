/* A login session, byte by byte the fuzzer's: the first byte of an input says in which steps the rest
 * arrives, and whether time passes after it. */
#include "config.h"

#include "fuzz.h"
#include "iscsi_world.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *world = world_begin();

	if (size > 0) {
		pipe_limit_read(world->pipe, data[0] % 64);
		if (data[0] & 128) /* an initiator that is slow to take its answers */
			pipe_set_room(world->pipe, 100);
		world_feed(world, data + 1, size - 1);
		pipe_set_room(world->pipe, SIZE_MAX);
		virtual_run_until_idle();
		if (data[0] & 64)
			virtual_advance(20000000000u);
	}
	world_end(world);
	return 0;
}
