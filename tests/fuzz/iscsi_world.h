/*
 * A target for one initiator in the fuzzer's hand: the true iSCSI and SCSI code and block layer on a
 * virtual loop, before a scripted volume. Made at the first input and kept; each input has a
 * connection of its own.
 */
#ifndef SLABD_ISCSI_WORLD_H
#define SLABD_ISCSI_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop_virtual.h"
#include "stream_pipe.h"
#include "volume_script.h"

#define WORLD_SIZE   (320 * 1024)
#define WORLD_OPEN   "iqn.2026-11.localhost.slabd:open"
#define WORLD_CHAP   "iqn.2026-11.localhost.slabd:chap"
#define WORLD_RULES  "iqn.2026-11.localhost.slabd:rules"
#define WORLD_FRIEND "iqn.2026-11.test:friend"

struct world {
	struct loop *loop;
	struct volume_script *script;
	struct stream_pipe *pipe;
};

/* A new connection. */
struct world *world_begin(void);
/* Hangs up, completes what is held, and CHECKs that nothing of the connection is left. */
void world_end(struct world *world);

void world_feed(struct world *world, const void *data, size_t size);
/* To the full feature phase with CmdSN 1, and CHECKs that it is reached. */
void world_login(struct world *world, bool discovery, bool digests);
/* CHECKs that everything sent is a sequence of PDUs that a target may send, and drops it. */
void world_check_output(struct world *world, bool digests);
/* Nothing is held any more. */
void world_complete_all(struct world *world);
/* As in a shutdown; undone by world_end(). */
void world_drain(struct world *world);

#endif
