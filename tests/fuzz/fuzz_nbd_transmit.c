/*
 * Requests. The first byte of an input says what was negotiated and in which steps the rest
 * arrives; what is answered in chunks must be well-formed.
 */
#include "config.h"

#include "fuzz.h"
#include "nbd_world.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t steps[] = {0, 1, 7, 100};
	struct world *world = world_begin();
	enum world_headers headers;

	if (size > 0) {
		headers = data[0] % 3;
		world_negotiate(world, headers, data[0] & 64);
		pipe_limit_read(world->pipe, steps[data[0] >> 4 & 3]);
		volume_script_hold(world->script, data[0] & 128);
		world_feed(world, data + 1, size - 1);
		world_complete_all(world);
		virtual_run_until_idle();
		if (headers != WORLD_SIMPLE)
			world_check_chunks(world, headers);
	}
	world_end(world);
	return 0;
}
