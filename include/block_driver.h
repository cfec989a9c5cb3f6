/*
 * What a backend must give (a layer: storage/layers/layer.h). The block layer calls it with ranges
 * that were within the size when it looked, rounded to info->alignment, never with length 0 (but for FLUSH), READ and WRITE
 * never above transfer_max.
 *
 * A driver gives submit(), or blocking functions, or both; what is NULL is emulated (ZERO by writing
 * zeroes, COMPARE_WRITE under a frozen range, FUA by the shared flush, alignment by read-modify-write) or
 * reported (no extents: all data; no discard, no prefetch: success without effect).
 */
#ifndef SLABD_BLOCK_DRIVER_H
#define SLABD_BLOCK_DRIVER_H

#include "block.h"
#include "conf.h"
#include "log.h"

struct blk_driver {
	const char *name;     /* BACKEND on the command line */
	const char *argument; /* what ARG is: "size" or "path" */

	/*
	 * Required. Main thread; may block. Fills info (block sizes, read_only, rotational and uuid are set
	 * from conf before the call, alignment is 1) and *state. In info->native it sets the operations
	 * that submit() takes; those with a blocking function are added. 0, or -errno with a text that
	 * names what is wrong and what would be right, and nothing created.
	 */
	int (*open)(const struct conf_volume *conf, struct blk_info *info, void **state,
		struct error *error);
	/* Required. When no handle is left: the main thread, or a worker (volume_close()). */
	void (*close)(void *state);

	/*
	 * Optional. On the request's loop; must not block. True: taken, and blk_complete() is or was
	 * called for it, here or later on any thread. False: not now; the blocking function for this
	 * operation (which must be there) is called on a worker; a COMPARE_WRITE is emulated then.
	 * Called for operations in info->native only; FLUSH one at a time (B7), and only where there
	 * is no flush().
	 */
	bool (*submit)(void *state, struct blk_request *request);
	/*
	 * Optional. On the request's loop; must not block. A request that submit() took is not wanted any
	 * more (B10). If it can be taken back blk_complete() is called with -ETIMEDOUT, here or later; if
	 * not, it goes on. Called also for one that has just completed on another thread.
	 */
	void (*cancel)(void *state, struct blk_request *request);

	/* Optional. On workers, several at once. 0 or -errno; never short. */
	int (*read)(void *state, const struct iovec *iov, unsigned niov, uint64_t offset,
		uint64_t length);
	int (*write)(void *state, const struct iovec *iov, unsigned niov, uint64_t offset,
		uint64_t length);
	/* Called by the block layer one at a time (B7). Any failure breaks the volume. */
	int (*flush)(void *state);
	/* flags: BLK_MAY_UNMAP, BLK_FAST_ONLY. -ENOTSUP without FAST_ONLY: emulate. */
	int (*zero)(void *state, uint64_t offset, uint64_t length, unsigned flags);
	int (*discard)(void *state, uint64_t offset, uint64_t length);
	int (*extents)(void *state, uint64_t offset, uint64_t length, struct blk_extent *extents,
		unsigned *nextents);
	int (*prefetch)(void *state, uint64_t offset, uint64_t length);

	/*
	 * Optional. On a worker. Grows or shrinks to `size`, a multiple of the block size and of the
	 * alignment. While it shrinks nothing else is in flight; while it grows anything within the old
	 * size may be. flush() follows. 0, or -errno with a text and the old size.
	 */
	int (*resize)(void *state, uint64_t size, struct error *error);
	/*
	 * Optional. On a worker, nothing but prefetches in flight: opens anew what is behind the volume
	 * after a failure (promises section 3), syncs it, and sees that it has at least `least` bytes;
	 * *size is what the volume has from now on. 0, or -errno with a text.
	 */
	int (*reopen)(void *state, uint64_t least, uint64_t *size, struct error *error);
	/* Optional. Main thread, once a second, must not block: bytes behind the volume now, when they
	 * may change by themselves; 0: it is gone. */
	uint64_t (*measure)(void *state);
	/*
	 * Optional, together. On a worker. clone: a state of its own with the same content, while nothing
	 * writes; info and *clone as by open(). save: the content to a raw file, while nothing writes.
	 * load: *loaded becomes a state as large as this one, with a raw file's content, which adopt()
	 * makes this one's while nothing is in flight, giving it the old one in exchange. dispose: the
	 * end of such a state, and of a clone that became no volume. 0, or -errno with a text.
	 */
	int (*clone)(void *state, const struct conf_volume *conf, struct blk_info *info,
		void **clone, struct error *error);
	int (*save)(void *state, const char *path, struct error *error);
	int (*load)(void *state, const struct conf_volume *conf, const char *path, void **loaded,
		struct error *error);
	int (*adopt)(void *state, void *loaded);
	void (*dispose)(void *state);

	/* Optional. Any thread, must not block: bytes allocated behind the volume, for people. */
	uint64_t (*allocated)(void *state);
	/* Optional. The main thread, for people: "sparse, chunks of 64 KiB". */
	void (*describe)(void *state, char *text, size_t size);
};

/*
 * A request taken by submit() has ended. Any thread, also from inside submit(); once per request. The
 * request must not be touched afterwards.
 */
void blk_complete(struct blk_request *request, int rc);

/*
 * From submit() or a continuation, on the request's loop: calls more(request) again at the end of the
 * loop's queue, so that a long request leaves room for others. Uses driver[1].
 */
void blk_yield(struct blk_request *request, void (*more)(struct blk_request *request));

/*
 * From submit() or later on the request's loop: the driver took the request and cannot finish it there;
 * its blocking function does all of it again on a worker.
 */
void blk_retry_blocking(struct blk_request *request);

/* The driver state of the volume a request goes to; for continuations. */
void *blk_driver_state(const struct blk_request *request);

/* All there are, ends with NULL; the one of that name, or NULL. storage/volume.c. Any thread. */
extern const struct blk_driver *const blk_drivers[];
const struct blk_driver *blk_driver_find(const char *name);

#endif
