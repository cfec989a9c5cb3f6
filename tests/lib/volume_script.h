/*
 * A scripted volume: true block layer, a driver under the test's command over a plain array of
 * bytes.
 *
 *	struct volume_script *s = volume_script_open(&(struct volume_script_options){.size = MIB});
 *	handle = blk_open(volume_script_volume(s), "test", false, &rc);
 *	volume_script_hold(s, true);                 from now on requests stay with the driver
 *	... blk_submit(), or bytes to the protocol under test ...
 *	volume_script_calls(s)                       how many requests the driver has got so far
 *	call = volume_script_call(s, 0)              what the first of them asked for
 *	volume_script_complete(s, 1, 0);             in any order: carried out, and success
 *	volume_script_complete(s, 0, -EIO);          or not carried out, and an error
 *	virtual_run_until_idle();                    completions come by the loop, as ever
 *	blk_close(handle);
 *	volume_script_close(s);
 *
 * Without hold, each request is carried out and completed inside submit, as a memory volume does
 * it; blk_inline() says so, and is false while requests are held. What the driver does not do (options.missing, options.alignment) the block layer emulates: the
 * calls show by what. FLUSH and FUA appear as FLUSH calls if options.volatile_cache is set, else not
 * at all.
 *
 * storage_start(0) must have been called. Any loop may submit; the functions below may be called on
 * any thread, and take a lock.
 */
#ifndef SLABD_VOLUME_SCRIPT_H
#define SLABD_VOLUME_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>

#include "block.h"
#include "volume.h"

struct volume_script;

/* Zero means: the default in brackets, or no. */
struct volume_script_options {
	const char *name;             /* ["script"] */
	uint64_t size;                /* [1 MiB] */
	uint32_t block_size;          /* [512] */
	uint32_t physical_block_size; /* [block_size] */
	uint32_t alignment;           /* [1] */
	uint64_t transfer_max;        /* [32 MiB] */
	uint32_t discard_granularity; /* [block_size] */
	uint32_t missing;             /* operations the driver has not, as bits 1 << BLK_ZERO */
	bool read_only;
	bool rotational;
	bool volatile_cache;
	bool buffered;
	bool fua; /* a WRITE with FUA is its own sync */
	bool no_fast_zero;
	bool not_inline; /* blk_inline() is false although nothing is held */
	bool cancels;    /* what is held and cancelled is taken back */
	bool forgets;    /* the last call alone is kept; nothing is held */
	bool blocking;   /* blocking functions on workers instead of submit(); nothing is held */
};

/* What the driver was asked. Grows by one for each request, in order of arrival. */
struct script_call {
	enum blk_op op;
	unsigned flags;
	uint64_t offset, length;
	struct blk_request *request; /* NULL once completed, and for blocking ones */
	bool completed;
	int rc; /* then */
};

/* A CHECK if it cannot be opened. */
struct volume_script *volume_script_open(const struct volume_script_options *options);

/* Lets go of the volume, which is closed when no handle is left; the script stays until then.
 * Nothing may be held. */
void volume_script_close(struct volume_script *script);

struct volume *volume_script_volume(struct volume_script *script);

/* The content, `size` bytes, to look at or to prepare while nothing is going on. */
uint8_t *volume_script_data(struct volume_script *script);

/* Ranges given back by DISCARD or ZERO with MAY_UNMAP and not written since are holes for EXTENTS,
 * by blocks of block_size. Everything is data at first; this makes a hole of a range, and zeroes of
 * it. */
void volume_script_punch(struct volume_script *script, uint64_t offset, uint64_t length);

/* Later requests stay with the driver until volume_script_complete(). Not while a loop submits. */
void volume_script_hold(struct volume_script *script, bool hold);

/* The next `times` requests with this operation are completed with rc and not carried out. */
void volume_script_fail(struct volume_script *script, enum blk_op op, int rc, unsigned times);

/* Calls so far; and one of them, good until the script is closed (at most SCRIPT_CALLS are kept).
 */
#define SCRIPT_CALLS 65536
unsigned volume_script_calls(struct volume_script *script);
const struct script_call *volume_script_call(struct volume_script *script, unsigned index);

/* Forgets the calls that are completed and starts counting at 0 again. Nothing may be held. */
void volume_script_forget(struct volume_script *script);

/* Held requests. */
unsigned volume_script_held(struct volume_script *script);

/* Completes a held call: rc 0 carries it out first. A CHECK if it is not held. */
void volume_script_complete(struct volume_script *script, unsigned index, int rc);

/* Completes all that is held, oldest first. */
void volume_script_complete_all(struct volume_script *script, int rc);

#endif
