/* PDUs after a login. The first byte of an input says in which steps the rest arrives, whether with
 * digests, and in which kind of session. */
#include "config.h"

#include "fuzz.h"
#include "iscsi_world.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *world = world_begin();

	if (size > 0) {
		world_login(world, data[0] & 128, data[0] & 64);
		pipe_limit_read(world->pipe, data[0] % 64);
		world_feed(world, data + 1, size - 1);
		world_check_output(world, data[0] & 64);
	}
	world_end(world);
	return 0;
}
