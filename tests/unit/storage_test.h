/* For the tests of storage/ on virtual loops: one request at a time, or several to look at. */
#ifndef SLABD_STORAGE_TEST_H
#define SLABD_STORAGE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "block.h"
#include "check.h"
#include "limits.h"
#include "loop_virtual.h"
#include "volume.h"
#include "work.h"

struct io {
	struct blk_request blk;
	struct iovec iov;
	unsigned completed; /* B1: becomes 1 */
	struct loop *on;    /* where done() ran */
	unsigned order;     /* of completions, counted over all */
};

static inline void
io_done(struct blk_request *request)
{
	static unsigned order;
	struct io *io = container_of(request, struct io, blk);

	io->order = ++order;
	io->completed++;
	io->on = loop_current();
}

/* COMPARE_WRITE: data has 2 * length bytes. */
static inline void
io_submit(struct io *io, struct blk_handle *handle, enum blk_op op, unsigned flags, uint64_t offset,
	uint64_t length, void *data)
{
	memset(io, 0, sizeof(*io));
	io->iov = (struct iovec){data, op == BLK_COMPARE_WRITE ? 2 * length : length};
	io->blk.op = op;
	io->blk.flags = flags;
	io->blk.offset = offset;
	io->blk.length = length;
	io->blk.iov = &io->iov;
	io->blk.niov = data ? 1 : 0;
	io->blk.done = io_done;
	blk_submit(handle, &io->blk);
	assert_int_equal(io->completed, 0); /* B2 */
}

static inline int
do_io(struct blk_handle *handle, enum blk_op op, unsigned flags, uint64_t offset, uint64_t length,
	void *data)
{
	struct io io;

	io_submit(&io, handle, op, flags, offset, length, data);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1); /* B1 */
	return io.blk.rc;
}

static inline int
do_extents(struct blk_handle *handle, unsigned flags, uint64_t offset, uint64_t length,
	struct blk_extent *extents, unsigned *nextents)
{
	struct io io = {.blk = {.op = BLK_EXTENTS,
				.flags = flags,
				.offset = offset,
				.length = length,
				.nextents = *nextents,
				.extents = extents,
				.done = io_done}};

	blk_submit(handle, &io.blk);
	virtual_run_until_idle();
	assert_int_equal(io.completed, 1);
	*nextents = io.blk.nextents;
	return io.blk.rc;
}

static inline struct blk_handle *
open_handle(struct volume *volume)
{
	int rc = 1;
	struct blk_handle *handle = blk_open(volume, "test", false, &rc);

	assert_non_null(handle);
	assert_int_equal(rc, 0);
	return handle;
}

static inline struct volume_stats *
get_stats(struct volume *volume)
{
	static struct volume_stats stats;

	volume_get_stats(volume, &stats);
	return &stats;
}

static inline int
setup_loops(void **state)
{
	(void)state;
	virtual_loops_start(2);
	CHECK(work_start(4) == 0);
	CHECK(storage_start(0) == 0);
	return 0;
}

static inline int
teardown_loops(void **state)
{
	(void)state;
	virtual_run_until_idle();
	work_stop();
	virtual_loops_stop();
	storage_stop();
	return 0;
}

/* Handles and volumes that a test let go of are closed on the main loop. */
static inline int
settle(void **state)
{
	(void)state;
	virtual_run_until_idle();
	return 0;
}

/* A volume's configuration for tests. Strings live as long as what they are given. */
static inline struct conf_volume
test_conf(const char *name, const char *backend, const char *path, uint64_t size)
{
	static char copies[3][4096];
	const char *given[3] = {name, backend, path};

	for (unsigned i = 0; i < 3; i++)
		if (given[i]) {
			CHECK(strlen(given[i]) < sizeof(copies[i]));
			strcpy(copies[i], given[i]);
		}
	return (struct conf_volume){.name = copies[0],
		.backend = copies[1],
		.path = path ? copies[2] : NULL,
		.size = size,
		.block_size = 512,
		.physical_block_size = 512};
}

#endif
