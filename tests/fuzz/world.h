/*
 * A server for one client in the fuzzer's hand: the true protocol code and block layer on a virtual
 * loop, before a scripted volume. Made at the first input and kept; each input has a connection of
 * its own. What the protocols differ in stands in nbd_world.h and iscsi_world.h.
 */
#ifndef SLABD_FUZZ_WORLD_H
#define SLABD_FUZZ_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frontend.h"
#include "loop_virtual.h"
#include "stream_pipe.h"
#include "volume_script.h"

#define WORLD_SIZE (320 * 1024)

struct world {
	const struct frontend *frontend;
	void (*publish)(struct volume *volume); /* a catalogue that offers the volume */
	struct loop *loop;                      /* NULL: not made yet */
	struct volume_script *script;
	struct stream_pipe *pipe;
	bool ended;                /* the peer has hung up */
	struct stream_pipe *other; /* a second connection, which steps change to; NULL: none */
	bool other_ended;
	bool drained;
};

/* Made if need be, by frontend and publish; the pipe is new and no connection's yet. */
void world_open(struct world *world);
/* Hangs up, completes what is held, and CHECKs that nothing of the connection is left. */
void world_end(struct world *world);

void world_feed(struct world *world, const void *data, size_t size);
/* Nothing is held any more. */
void world_complete_all(struct world *world);
/* Every volume is going, as in a shutdown; undone by world_end(). */
void world_drain(struct world *world);

/*
 * Takes the input as a list of steps (world_steps.c), of which some feed bytes and others are what
 * else may happen to a connection. took() gets the output where the peer takes all of it.
 */
void world_steps(
	struct world *world, const uint8_t *data, size_t size, void (*took)(struct world *world));

#endif
