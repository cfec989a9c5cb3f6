/* world.h's server with NBD before it. */
#ifndef SLABD_NBD_WORLD_H
#define SLABD_NBD_WORLD_H

#include <stdbool.h>

#include "world.h"

/* A new connection, which has sent its greeting. */
struct world *world_begin(void);
/* Nothing is answered in the clear but STARTTLS and ABORT, until said otherwise. */
void world_require_tls(bool require);

/* Option haggling as a client does it that knows what it wants. */
enum world_headers { WORLD_SIMPLE, WORLD_STRUCTURED, WORLD_EXTENDED };
void world_negotiate(struct world *world, enum world_headers headers, bool min_block);
/* CHECKs that everything sent is a sequence of well-formed chunks, and drops it. */
void world_check_chunks(struct world *world, enum world_headers headers);

#endif
