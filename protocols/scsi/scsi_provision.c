/* UNMAP, WRITE SAME, GET LBA STATUS: blocks that need no data of their own. SBC-3 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <string.h>

#include "check.h"

#define UNMAP_HEADER     8
#define UNMAP_DESCRIPTOR 16

/* UNMAP */

bool
prepare_unmap(struct scsi_task *task)
{
	if ((task->cdb[1] & CDB_UNMAP_ANCHOR) && !task->unit->thin) /* ANC_SUP is not set */
		return scsi_fail_cdb(task, 1);
	task->out_length = get_be16(task->cdb + 7);
	return true;
}

static bool
load_descriptor(struct scsi_task *task, unsigned i)
{
	const uint8_t *p = task->scratch->bytes + i * UNMAP_DESCRIPTOR;

	return scsi_range(task, get_be64(p), get_be32(p + 8));
}

/* The list is valid whole, or nothing of it is done (promises section 2). */
static bool
check_list(struct scsi_task *task, unsigned *count)
{
	uint8_t header[UNMAP_HEADER];
	size_t length = min_size(task->out.length, (size_t)task->out_length);
	unsigned described;

	if (task->out.length < task->out_length)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
	if (length < UNMAP_HEADER)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	iov_to(task->out.iov, task->out.niov, 0, header, sizeof(header));
	described = get_be16(header + 2);
	if (described > length - UNMAP_HEADER)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	*count = described / UNMAP_DESCRIPTOR; /* what is left over is ignored */
	if (*count > LIMIT_SCSI_UNMAP)
		return scsi_fail_list(task, 2);
	if (!scsi_scratch(task))
		return false;
	iov_to(task->out.iov, task->out.niov, UNMAP_HEADER, task->scratch->bytes,
		*count * UNMAP_DESCRIPTOR);
	for (unsigned i = 0; i < *count; i++) {
		if (!load_descriptor(task, i))
			return false;
	}
	return true;
}

static void unmap_done(struct blk_request *request);

/*
 * One DISCARD for each descriptor with a length, one after the other; task->step counts the
 * descriptors begun, out of task->pending - 1. What is to be anchored (SBC-3 4.7.4.5) is written
 * with zeroes, which gives it its place. False: none is left, or sense is set because the volume
 * shrank.
 */
static bool
start_unmap(struct scsi_task *task)
{
	enum blk_op op = task->cdb[1] & CDB_UNMAP_ANCHOR ? BLK_ZERO : BLK_DISCARD;

	do {
		if (task->step == task->pending - 1 || !load_descriptor(task, task->step))
			return false;
		task->step++;
	} while (task->length == 0);
	scsi_submit(
		task, op, scsi_write_flags(task, false), task->offset, task->length, unmap_done);
	return true;
}

static void
unmap_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (request->rc < 0)
		scsi_fail_errno(task, request->rc);
	if (request->rc < 0 || !start_unmap(task))
		scsi_complete(task);
}

void
execute_unmap(struct scsi_task *task)
{
	unsigned count = 0;

	if (task->out_length == 0 || !check_list(task, &count)) { /* no list is no error */
		scsi_finish(task);
		return;
	}
	task->pending = count + 1; /* 1: running */
	if (!start_unmap(task))
		scsi_finish(task);
}

/* WRITE SAME */

static bool
no_data_out(const struct scsi_task *task)
{
	return task->opcode->length == 16 && (task->cdb[1] & CDB_WS_NDOB);
}

bool
prepare_write_same(struct scsi_task *task)
{
	unsigned length_byte = task->opcode->length == 16 ? 10 : 7;
	uint64_t lba, blocks;

	scsi_cdb_range(task, &lba, &blocks);
	if (!scsi_range(task, lba, blocks))
		return false;
	if (blocks == 0) /* to the end; WSNZ is not set in the block limits page */
		task->length = task->unit->info.size - task->offset;
	if (task->length > LIMIT_SCSI_WRITE_SAME)
		return scsi_fail_cdb(task, length_byte);
	if ((task->cdb[1] & CDB_WS_UNMAP) && !task->unit->thin) /* LBPWS is not set */
		return scsi_fail_cdb(task, 1);
	if ((task->cdb[1] & (CDB_WS_ANCHOR | CDB_WS_UNMAP)) == CDB_WS_ANCHOR)
		return scsi_fail_cdb(task, 1);
	task->out_length = no_data_out(task) ? 0 : task->unit->info.block_size;
	return true;
}

static void write_same_done(struct blk_request *request);

/*
 * Zeroes are one request; anchored ones keep their place. Any other block is written from a vector
 * that names it many times: task->step counts the vector's entries.
 */
static void
start_write_same(struct scsi_task *task)
{
	unsigned flags = scsi_write_flags(task, false);
	uint64_t length = task->length;

	if (task->step == 0) {
		if ((task->cdb[1] & (CDB_WS_ANCHOR | CDB_WS_UNMAP)) == CDB_WS_UNMAP)
			flags |= BLK_MAY_UNMAP;
		scsi_submit(task, BLK_ZERO, flags, task->offset, length, write_same_done);
		return;
	}
	length = min_u64(length, (uint64_t)task->step << task->unit->block_shift);
	task->blk.iov = task->scratch->iov;
	task->blk.niov = (unsigned)(length >> task->unit->block_shift);
	scsi_submit(task, BLK_WRITE, flags, task->offset, length, write_same_done);
}

static void
write_same_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	task->offset += request->length;
	task->length -= request->length;
	if (request->rc < 0)
		scsi_fail_errno(task, request->rc);
	if (request->rc < 0 || task->length == 0)
		scsi_complete(task);
	else
		start_write_same(task);
}

static bool
is_zero(const uint8_t *data, size_t length)
{
	return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

/* The block that is to be repeated; false: sense is set. */
static bool
load_pattern(struct scsi_task *task)
{
	size_t block_size = task->unit->info.block_size;
	uint64_t entries;

	if (task->out.length < block_size)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
	if (!scsi_scratch(task))
		return false;
	iov_to(task->out.iov, task->out.niov, 0, task->scratch->bytes, block_size);
	if (is_zero(task->scratch->bytes, block_size))
		return true;
	entries = min_u64(ARRAY_SIZE(task->scratch->iov), task->unit->transfer_max / block_size);
	for (unsigned i = 0; i < entries; i++)
		task->scratch->iov[i] =
			(struct iovec){.iov_base = task->scratch->bytes, .iov_len = block_size};
	task->step = (unsigned)entries;
	return true;
}

void
execute_write_same(struct scsi_task *task)
{
	if (!no_data_out(task) && !load_pattern(task)) {
		scsi_finish(task);
		return;
	}
	start_write_same(task);
}

/* GET LBA STATUS */

#define STATUS_HEADER     8
#define STATUS_DESCRIPTOR 16
#define STATUS_MAX        ((SCSI_PAGE_MAX - STATUS_HEADER) / STATUS_DESCRIPTOR)
_Static_assert(STATUS_MAX <= LIMIT_SCSI_UNMAP, "extents for the descriptors fit the scratch");

bool
prepare_get_lba_status(struct scsi_task *task)
{
	if (!scsi_range(task, get_be64(task->cdb + 2), 1)) /* past the end is 21/00 */
		return false;
	task->length = task->unit->info.size - task->offset;
	task->in_max = min_u64(get_be32(task->cdb + 10), SCSI_PAGE_MAX);
	return true;
}

/* A descriptor for [from, to), whole blocks. False: the list ends here. */
static bool
put_status(const struct scsi_task *task, struct writer *w, uint64_t from, uint64_t to, bool mapped)
{
	unsigned shift = task->unit->block_shift;
	uint64_t blocks = (to - from) >> shift;

	if (blocks == 0)
		return true;
	if (w->size - w->length < STATUS_DESCRIPTOR)
		return false;
	writer_be64(w, from >> shift);
	writer_be32(w, (uint32_t)min_u64(blocks, UINT32_MAX));
	writer_u8(w, mapped ? 0 : 1); /* 1: deallocated */
	writer_zero(w, 3);
	return blocks <= UINT32_MAX; /* what follows must adjoin */
}

/* Extents need not end at blocks: a block is deallocated only where all of it is a hole. */
static void
put_extents(const struct scsi_task *task, struct writer *w)
{
	const struct blk_request *blk = &task->blk;
	uint64_t block_size = task->unit->info.block_size;
	uint64_t told = task->offset, at = task->offset;

	for (unsigned i = 0; i < blk->nextents; i++) {
		const struct blk_extent *extent = &blk->extents[i];
		uint64_t from = round_up(at, block_size);

		at += extent->length;
		if (!(extent->flags & BLK_HOLE) || round_down(at, block_size) <= from)
			continue;
		if (!put_status(task, w, told, from, true) ||
			!put_status(task, w, from, round_down(at, block_size), false))
			return;
		told = round_down(at, block_size);
	}
	/* At least one descriptor; a block that is cut is told whole as mapped. */
	if (told == task->offset && at - told < block_size)
		at = told + block_size;
	put_status(task, w, told, round_down(at, block_size), true);
}

static void
extents_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);
	uint8_t page[SCSI_PAGE_MAX];
	struct writer w = writer_of(page, sizeof(page));

	if (request->rc < 0) {
		scsi_fail_errno(task, request->rc);
	} else {
		writer_zero(&w, STATUS_HEADER);
		put_extents(task, &w);
		put_be32(page, (uint32_t)w.length - 4); /* n - 3 */
		scsi_data_in(task, page, w.length, get_be32(task->cdb + 10));
	}
	scsi_complete(task);
}

void
execute_get_lba_status(struct scsi_task *task)
{
	uint64_t room = task->in_max > STATUS_HEADER ? task->in_max - STATUS_HEADER : 0;

	if (!scsi_scratch(task)) {
		scsi_finish(task);
		return;
	}
	task->blk.extents = task->scratch->extents;
	task->blk.nextents =
		(unsigned)min_u64((room + STATUS_DESCRIPTOR - 1) / STATUS_DESCRIPTOR, STATUS_MAX);
	if (task->blk.nextents == 0)
		task->blk.nextents = 1;
	scsi_submit(task, BLK_EXTENTS, 0, task->offset, task->length, extents_done);
}
