/* world.h's server with iSCSI before it: a target for one initiator. */
#ifndef SLABD_ISCSI_WORLD_H
#define SLABD_ISCSI_WORLD_H

#include <stdbool.h>

#include "world.h"

#define WORLD_OPEN   "iqn.2026-11.localhost.slabd:open"
#define WORLD_CHAP   "iqn.2026-11.localhost.slabd:chap"
#define WORLD_RULES  "iqn.2026-11.localhost.slabd:rules"
#define WORLD_FRIEND "iqn.2026-11.test:friend"

/* A new connection. */
struct world *world_begin(void);
/* To the full feature phase with CmdSN 1, and CHECKs that it is reached. */
void world_login(struct world *world, bool discovery, bool digests);
/* A second connection in the session of world_login(), without digests. */
void world_join(struct world *world);
/* CHECKs that everything sent is a sequence of PDUs that a target may send, and drops it. */
void world_check_output(struct world *world, bool digests);

#endif
