/*
 * A server for one NBD client in the fuzzer's hand: the true protocol code and block layer on a
 * virtual loop, before a scripted volume. Made at the first input and kept; each input has a
 * connection of its own.
 */
#ifndef SLABD_NBD_WORLD_H
#define SLABD_NBD_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop_virtual.h"
#include "stream_pipe.h"
#include "volume_script.h"

#define WORLD_SIZE (320 * 1024)

struct world {
	struct loop *loop;
	struct volume_script *script;
	struct stream_pipe *pipe;
};

/* A new connection, which has sent its greeting. */
struct world *world_begin(void);
/* Hangs up, completes what is held, and CHECKs that nothing of the connection is left. */
void world_end(struct world *world);

void world_feed(struct world *world, const void *data, size_t size);
/* Nothing is answered in the clear but STARTTLS and ABORT, until said otherwise. */
void world_require_tls(bool require);
/* Nothing is held any more. */
void world_complete_all(struct world *world);
/* Every volume is going, as in a shutdown; undone by world_end(). */
void world_drain(struct world *world);

/* Option haggling as a client does it that knows what it wants. */
enum world_headers { WORLD_SIMPLE, WORLD_STRUCTURED, WORLD_EXTENDED };
void world_negotiate(struct world *world, enum world_headers headers, bool min_block);
/* CHECKs that everything sent is a sequence of well-formed chunks, and drops it. */
void world_check_chunks(struct world *world, enum world_headers headers);

#endif
