/*
 * An NBD client for unit tests, byte by byte over a pipe, before exports of a scripted volume:
 *
 *	disk0   the default export
 *	hidden  the same volume, not listed
 *	ro      the same, read-only, with a description and a minimum block size
 *
 * Every function fails the running test when something is not as its name says.
 */
#ifndef SLABD_NBD_PEER_H
#define SLABD_NBD_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bytes.h"
#include "check.h"
#include "frontend.h"
#include "loop_virtual.h"
#include "nbd/nbd.h"
#include "stream_pipe.h"
#include "volume_script.h"

#define PEER_SIZE        (64 * 1024 * 1024)
#define PEER_DESCRIPTION "the read-only one"
#define PEER_MIN_BLOCK   8192

struct peer {
	struct loop *loop;
	struct volume_script *script;
	struct stream_pipe *pipe;
	bool one_by_one;   /* peer_flush() feeds single bytes */
	bool extended;     /* headers of requests and chunks; of this connection */
	struct writer out; /* what peer_flush() will feed */
};

/*
 * One loop, caches, catalogue and volume (options NULL: a volatile cache, not inline); and
 * the end of them all, with nothing left over.
 */
void peer_start(struct peer *peer, const struct volume_script_options *options);
void peer_stop(struct peer *peer);

/* Connections. The one before is hung up first. */
void peer_connect(struct peer *peer);
void peer_hang_up(struct peer *peer);
bool peer_is_open(const struct peer *peer);
unsigned peer_connections(const struct peer *peer);
unsigned peer_in_flight(const struct peer *peer);
unsigned peer_writes(const struct peer *peer);
void peer_run(void);
void peer_advance(struct peer *peer, uint64_t ns);
void peer_drain(struct peer *peer);

/* The volume. Calls are counted from the last peer_forget(). Each runs the loop until it is idle.
 */
uint8_t *peer_data(struct peer *peer);
void peer_hold(struct peer *peer, bool hold);
unsigned peer_held(struct peer *peer);
/* The index-th of those held, counted from 0 in order of arrival. */
void peer_complete(struct peer *peer, unsigned index, int rc);
void peer_fail_next(struct peer *peer, enum blk_op op, int rc);
void peer_forget(struct peer *peer);
unsigned peer_calls(struct peer *peer);
void peer_expect_call(struct peer *peer, unsigned index, enum blk_op op, unsigned flags,
	uint64_t offset, uint64_t length);

/* Sending: gathered until peer_flush(), which also runs the loop until it is idle. */
void peer_bytes(struct peer *peer, const void *data, size_t length);
void peer_be16(struct peer *peer, uint16_t value);
void peer_be32(struct peer *peer, uint32_t value);
void peer_be64(struct peer *peer, uint64_t value);
void peer_flush(struct peer *peer);
void peer_option(struct peer *peer, uint32_t option, const void *data, size_t length);
void peer_request(struct peer *peer, unsigned flags, unsigned command, uint64_t cookie,
	uint64_t offset, uint64_t length);
void peer_add_info(struct peer *peer, uint32_t option, const char *name, const uint16_t *types,
	unsigned ntypes);
/* Flushed at once. */
void peer_info(struct peer *peer, uint32_t option, const char *name, const uint16_t *types,
	unsigned ntypes);
/* Queries, then NULL. Flushed at once. */
void
peer_contexts(struct peer *peer, uint32_t option, const char *name, ...) __attribute__((sentinel));

/* Receiving. */
void peer_take(struct peer *peer, void *data, size_t length);
size_t peer_take_all(struct peer *peer, void *data, size_t size);
void peer_skip(struct peer *peer);
void peer_expect(struct peer *peer, const void *data, size_t length);
void peer_expect_nothing(struct peer *peer);
void peer_expect_greeting(struct peer *peer);
void peer_expect_reply(
	struct peer *peer, uint32_t option, uint32_t type, const void *data, size_t length);
/* An error reply with a text for people. */
void peer_expect_error(struct peer *peer, uint32_t option, uint32_t type);
/* NBD_INFO_EXPORT; the transmission flags. */
unsigned peer_expect_export(struct peer *peer, uint32_t option);
void peer_expect_simple(struct peer *peer, uint32_t error, uint64_t cookie);
/* A single error chunk. */
void peer_expect_error_chunk(struct peer *peer, uint32_t error, uint64_t cookie);
/* A single OFFSET_DATA chunk with `length` bytes of the volume as it is now. */
void peer_expect_data(struct peer *peer, uint64_t cookie, uint64_t offset, uint32_t length);

/* One chunk of an answer. Its payload is left to take, but for an error's, which is checked. */
struct peer_chunk {
	unsigned flags, type;
	uint64_t cookie;
	uint64_t offset; /* extended: of the request */
	uint64_t length; /* of the payload */
	uint32_t error;
};
void peer_take_chunk(struct peer *peer, struct peer_chunk *chunk);
/*
 * The chunks of an answer to READ up to the one that is the last: they cover the range once and say
 * what the volume holds. How many were of data, and of holes.
 */
struct peer_pieces {
	unsigned data, holes;
};
struct peer_pieces
peer_expect_pieces(struct peer *peer, uint64_t cookie, uint64_t offset, uint32_t length);
/* Success without payload in whichever form is due. */
void peer_expect_success(struct peer *peer, uint64_t cookie);

/* Greeting and client flags; the same and structured replies; the same and GO to an export. */
void peer_hello(struct peer *peer);
void peer_hello_structured(struct peer *peer);
void peer_go(struct peer *peer, const char *name, bool structured);
/* The same with extended headers; the transmission flags. */
unsigned peer_go_extended(struct peer *peer, const char *name);

#endif
