/*
 * What a protocol may ask of storage. Bytes, 64-bit, offset before length. A request is embedded in its
 * owner's object and found again with container_of: nothing is allocated or looked up on the data path.
 *
 * The contract, cited by number:
 *
 * B1 A submitted request completes exactly once. Submit cannot fail and does not block.
 * B2 Completion runs on the handle's loop, never inside submit.
 * B3 From submit to completion the request and its buffers belong to the block layer.
 * B4 Requests in flight together have no order. Who needs an order waits.
 * B5 A completed WRITE is seen by every READ submitted later, through any handle and either protocol.
 * B6 A FLUSH makes durable all that completed, through any handle, before it was submitted. A FUA
 *    request is durable when it completes. Nothing else is.
 * B7 After a failed FLUSH or FUA the volume is broken: every write, flush and FUA (on buffered backends
 *    reads too) fails with -EIO for every client until an operator clears it. One sync per volume is
 *    in the kernel at a time; flushes arriving meanwhile share the next one. FUA where the driver has none is
 *    the operation followed by that shared flush. Where it has, a sync's success is released only when every
 *    sync that overlapped it has returned. The latch is looked at last.
 * B8 After a failed WRITE, ZERO or DISCARD its own range holds anything; no byte outside has changed,
 *    except within a physical block whose edge was read-modify-written. A write whose payload did not
 *    arrive whole is never submitted.
 * B9 The submitter checks ranges with blk_check(); the block layer checks again when the request really
 *    starts and completes it with -ERANGE. A range is never asserted: the size may have changed.
 * B10 blk_cancel() is a wish. What has not reached the disk, or can be fetched back from it, completes with
 *    -ETIMEDOUT ("taken back", the one word for it) and does nothing any more: of a request that is carried
 *    out in several steps the steps that were done stay done (B8). What cannot be taken back completes as it
 *    would have. Either way it completes once, later, and until then nothing is known.
 *
 * Results are 0 or one of: -EIO -ENOSPC -EROFS -EPERM -ENOMEM -ENOTSUP -ERANGE -ENODEV -ETIMEDOUT
 * -ESHUTDOWN -EILSEQ -EINVAL (a request no driver could carry out: our own mistake, but not worth a
 * crash). Each protocol has one function that maps them.
 */
#ifndef SLABD_BLOCK_H
#define SLABD_BLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "loop.h"

struct volume;

enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_ZERO,    /* reads as zeroes afterwards; MAY_UNMAP lets it become a hole */
	BLK_DISCARD, /* old data or zeroes afterwards, never anything else */
	BLK_FLUSH,
	BLK_EXTENTS,
	BLK_PREFETCH,
	BLK_COMPARE_WRITE, /* one action against every other request on the range */
	BLK_OPS,
};

enum {
	BLK_FUA = 1,
	BLK_MAY_UNMAP = 2, /* ZERO */
	BLK_FAST_ONLY =
		4, /* ZERO: -ENOTSUP, decided before anything is touched, unless it is cheap */
	BLK_EXTENT_ONE = 8, /* EXTENTS: one is enough */
};

enum { BLK_HOLE = 1, BLK_ZEROES = 2 }; /* of an extent */

struct blk_extent {
	uint64_t length;
	uint32_t flags;
};

/* A sync on its way: a FLUSH, or a WRITE with FUA that the driver makes durable itself (B7). */
struct blk_sync {
	TAILQ_ENTRY(blk_sync) link;
	uint64_t number;
};

/* Valid from blk_open() on; blk_info() is read again after a resize. */
struct blk_info {
	uint64_t size;
	uint32_t block_size;          /* logical, 512 or 4096 */
	uint32_t physical_block_size; /* a multiple of it */
	uint32_t alignment;           /* the driver's need for offset, length and memory; 1: none */
	/* Bytes of data in one READ or WRITE; a multiple of alignment. COMPARE_WRITE: the same, and at
	 * most LIMIT_IOBUF_PIECE. What moves no data (ZERO, DISCARD, EXTENTS, PREFETCH) is not bound. */
	uint64_t transfer_max;
	uint64_t limit; /* less than size: bytes that can be allocated before -ENOSPC; else 0 */
	uint32_t discard_granularity; /* smaller discards free nothing; 0: discard does nothing */
	uint32_t native;              /* bit 1 << op: the driver does it itself */
	bool read_only;
	bool rotational;
	bool volatile_cache; /* FLUSH means something */
	bool buffered;       /* B7: reads fail too once broken */
	bool sparse;         /* has holes; unallocated blocks read as zeroes */
	bool fast_zero;      /* ZERO with FAST_ONLY can succeed */
	bool fua;            /* the driver's submit() carries out FUA of a WRITE itself */
	bool carried_inline; /* the driver's promise behind blk_inline() */
	/* Bytes of one WRITE that a power cut leaves done or not done as a whole; 0: one physical block. */
	uint64_t atomic_max;
	uint8_t uuid[16]; /* derived from the volume's name */
};

struct blk_request {
	/* The submitter's, untouched by the block layer. */
	enum blk_op op;
	unsigned flags;
	uint64_t offset;
	uint64_t length;
	/* READ: filled, exactly `length` bytes. WRITE: `length` bytes. COMPARE_WRITE: 2 * length, first
	 * what to compare with, then what to write. Else unused. */
	const struct iovec *iov;
	unsigned niov;
	/* EXTENTS: room for nextents (at least 1); on success nextents says how many are filled: at least
	 * one, none of length 0, adjoining, the first at `offset`, together at most `length`; the last
	 * may end before `length` does. None at all where `length` is 0. */
	unsigned nextents;
	struct blk_extent *extents;
	/* On the handle's loop. The request is the owner's again when it is called. */
	void (*done)(struct blk_request *request);

	/* Result. */
	int rc;
	uint64_t mismatch; /* with -EILSEQ: offset of the first different byte, within the range */

	/* The block layer's, from submit to completion. */
	struct blk_handle *handle;
	struct loop_task task;
	TAILQ_ENTRY(blk_request) link;
	void (*cancel)(
		struct blk_request *request); /* of whoever has it now; NULL: there is no way */
	uint64_t started;                     /* loop_now() */
	uint32_t state;
	struct blk_sync sync;
	/* The driver's while it has the request; 0 when submit() is called. */
	uint64_t progress;
	uintptr_t driver[2];
};

/* Written by the handle's loop, read relaxed from anywhere. */
struct blk_counters {
	_Atomic uint64_t operations[BLK_OPS];
	_Atomic uint64_t bytes_read, bytes_written;
	_Atomic uint64_t errors;
	_Atomic uint64_t read_failures, write_failures; /* of them: -EIO */
	_Atomic uint64_t rmw_ops, bounced_bytes;
};

/*
 * One user's access to a volume: an NBD connection, a SCSI nexus. Made on the loop it belongs to; what is
 * submitted through it completes there. `name` (copied) is for log lines: "nbd 10.0.0.7:41332".
 * The handle holds the volume. NULL with *rc -ENOMEM or -ESHUTDOWN (the volume is going).
 */
struct blk_handle *blk_open(struct volume *volume, const char *name, bool read_only, int *rc);

/* Nothing may be in flight (a CHECK). */
void blk_close(struct blk_handle *handle);

/*
 * Whose handle it is, for what is counted for each client (rates, faults): all handles of a volume with the
 * same name, on whatever loop, are one client's, which keeps what it owes when the last of them is closed.
 * Without it a handle is a client by itself. Once, before the first request. Its loop. 0 or -ENOMEM.
 */
int blk_set_client(struct blk_handle *handle, const char *name);
/* The handle's own name without one. */
const char *blk_client(const struct blk_handle *handle);

struct volume *blk_volume(const struct blk_handle *handle);
const char *blk_name(const struct blk_handle *handle);
struct blk_counters *blk_counters(struct blk_handle *handle);

/* As this handle sees it (read_only includes the handle's own). The handle's loop. */
void blk_info(const struct blk_handle *handle, struct blk_info *info);

/* The size alone: cheap enough for every request. The handle's loop. */
uint64_t blk_size(const struct blk_handle *handle);

/* True when [offset, offset + length) lies within the volume now. length 0 at the end is legal. */
bool blk_check(const struct blk_handle *handle, uint64_t offset, uint64_t length);

/* Another number than before: all of the content was replaced by another (slabctl load). Its loop. */
unsigned blk_content(const struct blk_handle *handle);

/* Nothing is behind the volume any more, so that every request gets -ENODEV, until an operator clears it. */
bool blk_gone(const struct blk_handle *handle);

/* Bytes allocated behind the volume, for what is thin (info.limit). Any thread. */
uint64_t blk_allocated(const struct blk_handle *handle);

/*
 * True when a READ or WRITE of at most LIMIT_INLINE_BYTES submitted now is carried out before
 * blk_submit() returns (completion still comes later), so that a WRITE may lend bytes from the loop's
 * receive buffer. The handle's loop; good until the caller returns to its loop.
 */
bool blk_inline(const struct blk_handle *handle);

/* The handle's loop. B1. A length of 0 completes with success. Above transfer_max: -EINVAL. */
void blk_submit(struct blk_handle *handle, struct blk_request *request);

/*
 * The handle's loop. B10: for whoever has no use for the answer any more. Never completes inside. Harmless
 * for a request that is zeroed or has completed, and when it is called again.
 */
void blk_cancel(struct blk_request *request);

/*
 * The handle's loop. blk_cancel(), by a client that is lost and may come back: if what is left is a write of
 * any kind, requests on its range that anybody submits later, also on a loop that hears of it by a message
 * posted after this, wait until it has ended. Never completes inside.
 */
void blk_abandon(struct blk_request *request);

/*
 * Sealing, for what leaves nothing of a volume's content and takes its time (SANITIZE): every request but those
 * of the handle that sealed it completes with -ENODEV, "not ready", by whatever protocol it came; reservations
 * do not bind that handle.
 *
 * -ENOMEM, or 0: done() follows on the handle's loop, never from inside: with 0 when what was in flight is
 * over and the volume is sealed; -EBUSY: another handle has it; -ETIMEDOUT: what is in flight does not come back;
 * -EPERM: may() was false. It is asked just before, on the same loop, when nothing is in flight and changes of
 * reservations that began earlier are done; NULL: nothing may forbid it. The handle stays open until done(). A
 * handle that is closed leaves its volume sealed.
 */
int blk_seal(struct blk_handle *handle, bool (*may)(void *arg), void (*done)(void *arg, int rc),
	void *arg);
/* By the handle that sealed it, or, when that is gone, by any other. */
void blk_unseal(struct blk_handle *handle);
/* Against this handle. Any thread. */
bool blk_sealed(const struct blk_handle *handle);

/* "read", "write zeroes", ... for log lines. */
const char *blk_op_name(enum blk_op op);

#endif
