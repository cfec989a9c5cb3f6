/* The handshake. The first byte of an input says in which steps the rest arrives, and whether TLS is
 * required. */
#include "config.h"

#include "fuzz.h"
#include "nbd_world.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *world = world_begin();

	if (size > 0) {
		pipe_limit_read(world->pipe, data[0] % 64);
		world_require_tls(data[0] & 64);
		/* A client that is slow to take its answers. */
		if (data[0] & 128)
			pipe_set_room(world->pipe, 100);
		world_feed(world, data + 1, size - 1);
		pipe_set_room(world->pipe, SIZE_MAX);
		virtual_run_until_idle();
	}
	world_require_tls(false);
	world_end(world);
	return 0;
}
