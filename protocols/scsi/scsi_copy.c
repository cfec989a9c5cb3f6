/*
 * EXTENDED COPY: extents are moved inside slabd, a piece at a time, between the units that the
 * nexus sees. Holes are not read, and stay holes. SPC-4 6.4
 */
#include "config.h"

#include "scsi/scsi_copy.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "slab.h"

static struct slab_cache *copy_cache;

static void next_piece(struct scsi_copy *copy);

int
scsi_copy_start(void)
{
	copy_cache = slab_cache_new("scsi_copy", sizeof(struct scsi_copy), 0, 0, NULL);
	return copy_cache ? 0 : -ENOMEM;
}

void
scsi_copy_stop(void)
{
	if (copy_cache)
		slab_cache_free(copy_cache);
	copy_cache = NULL;
}

static struct scsi_copy *
copy_of(struct blk_request *request)
{
	return scsi_task_of(request)->copy;
}

static void
remove_copy(struct scsi_unit *unit, struct scsi_copy *copy)
{
	struct scsi_copy **link = &unit->copies;

	while (*link != copy)
		link = &(*link)->next;
	*link = copy->next;
	slab_free(copy_cache, copy);
}

void
scsi_copy_forget(struct scsi_unit *unit)
{
	while (unit->copies)
		remove_copy(unit, unit->copies);
}

/* The end of a copy, well or not; the task has its status. */
static void
end_copy(struct scsi_copy *copy, enum copy_state state)
{
	struct scsi_task *task = copy->task;

	copy->state = state;
	copy->task = NULL;
	copy->segments = NULL;
	copy->sense_length = task->sense_length;
	memcpy(copy->sense, task->sense, task->sense_length);
	copy_release(copy);
	if (!copy->named)
		remove_copy(task->unit, copy);
	scsi_complete(task);
}

/* SPC-4 5.17.7.4: COMMAND-SPECIFIC INFORMATION ends with the segment's number. */
static void
fail_copy(struct scsi_copy *copy, unsigned code)
{
	scsi_fail_with(copy->task, &(struct scsi_sense){.key = KEY_COPY_ABORTED,
					   .code = (uint16_t)code,
					   .has_specific = true,
					   .specific = copy->segment});
	end_copy(copy, COPY_FAILED);
}

static void
abort_copy(struct scsi_copy *copy)
{
	scsi_fail(copy->task, KEY_COPY_ABORTED, ASC_NONE);
	end_copy(copy, COPY_ABORTED);
}

/* A request of the copy has failed: logged as the unit's whose it was. True: the copy is over. */
static bool
step_failed(struct scsi_copy *copy, struct scsi_unit *unit)
{
	struct scsi_task *task = copy->task;
	struct scsi_unit *addressed = task->unit;
	int rc = task->blk.rc;

	if (rc >= 0)
		return false;
	if (task->cancelled) {
		abort_copy(copy);
		return true;
	}
	task->unit = unit;
	scsi_fail_errno(task, rc);
	task->unit = addressed;
	if (rc == -ENOSPC)
		fail_copy(copy, ASC_SPACE_FAILED);
	else if (rc == -ENODEV || rc == -ESHUTDOWN)
		fail_copy(copy, ASC_COPY_TARGET_UNREACHABLE);
	else
		fail_copy(copy, ASC_COPY_TARGET_FAILURE);
	return true;
}

static unsigned
write_flags(const struct scsi_copy *copy)
{
	return copy->to->settings & UNIT_WCE_OFF ? BLK_FUA : 0;
}

/* How far into what is left the next `length` bytes stand. */
static uint64_t
place_of(const struct scsi_copy *copy, uint64_t length)
{
	return copy->backward ? copy->length - length : 0;
}

static void
piece_done(struct blk_request *request)
{
	struct scsi_copy *copy = copy_of(request);
	uint64_t length = request->length;

	if (step_failed(copy, copy->to))
		return;
	copy->moved += length;
	copy->length -= length;
	copy->data -= min_u64(copy->data, length);
	if (!copy->backward) {
		copy->from_offset += length;
		copy->to_offset += length;
	}
	next_piece(copy);
}

static void
read_done(struct blk_request *request)
{
	struct scsi_copy *copy = copy_of(request);
	uint64_t length = request->length;

	if (step_failed(copy, copy->from))
		return;
	scsi_submit_to(copy->task, copy->to, BLK_WRITE, write_flags(copy),
		copy->to_offset + place_of(copy, length), length, piece_done);
}

static void
read_piece(struct scsi_copy *copy)
{
	struct scsi_task *task = copy->task;
	uint64_t length = min_u64(copy->data, copy->piece_max);

	task->piece = (struct iovec){task->in.iov[0].iov_base, (size_t)length};
	task->blk.iov = &task->piece;
	task->blk.niov = 1;
	scsi_submit_to(copy->task, copy->from, BLK_READ, 0,
		copy->from_offset + place_of(copy, length), length, read_done);
}

/*
 * From the front an extent is taken as long as it is; from the back, only a piece that is all
 * hole.
 */
static void
extents_done(struct blk_request *request)
{
	struct scsi_copy *copy = copy_of(request);
	uint64_t length = copy->extent.length;

	if (step_failed(copy, copy->from))
		return;
	if (copy->backward && length < request->length)
		copy->extent.flags = 0;
	if (!(copy->extent.flags & BLK_ZEROES)) {
		copy->data = copy->backward ? request->length : length;
		read_piece(copy);
		return;
	}
	scsi_submit_to(copy->task, copy->to, BLK_ZERO, BLK_MAY_UNMAP | write_flags(copy),
		copy->to_offset + place_of(copy, length), length, piece_done);
}

static void
look_for_holes(struct scsi_copy *copy)
{
	uint64_t length = copy->backward ? min_u64(copy->length, copy->piece_max) : copy->length;

	copy->task->blk.extents = &copy->extent;
	copy->task->blk.nextents = 1;
	scsi_submit_to(copy->task, copy->from, BLK_EXTENTS, BLK_EXTENT_ONE,
		copy->from_offset + place_of(copy, length), length, extents_done);
}

/* The unit of a CSCD descriptor ID; NULL: *code says why. */
static struct scsi_unit *
find_unit(struct scsi_copy *copy, uint16_t id, unsigned *code)
{
	if (id == COPY_SELF)
		return copy->task->unit;
	*code = id < copy->ntargets ? copy->targets[id].code : ASC_UNREACHABLE_COPY_TARGET;
	return id < copy->ntargets ? copy->targets[id].unit : NULL;
}

/* What would refuse a READ or WRITE of that unit. */
static bool
may_not(struct scsi_unit *unit, unsigned fence)
{
	scsi_unit_refresh(unit);
	return (reservation_fence(unit->handle) & (FENCE_RESERVED | fence)) ||
	       (unit->settings & UNIT_EJECTED) ||
	       ((fence & FENCE_WRITE) && scsi_unit_read_only(unit));
}

/* Bytes from what a segment counts in blocks. False: they do not fit the unit. */
static bool
set_offset(const struct scsi_unit *unit, uint64_t lba, uint64_t skip, uint64_t length,
	uint64_t *offset)
{
	return checked_mul(lba, unit->info.block_size, offset) &&
	       checked_add(*offset, skip, offset) && blk_check(unit->handle, *offset, length);
}

/* Makes the next segment the current one. 0, or what is wrong with it. */
static unsigned
open_segment(struct scsi_copy *copy, const struct copy_segment *segment)
{
	unsigned code = ASC_NONE;
	uint64_t unit;

	copy->from = find_unit(copy, segment->source, &code);
	if (!copy->from)
		return code;
	copy->to = find_unit(copy, segment->destination, &code);
	if (!copy->to)
		return code;
	if (may_not(copy->from, FENCE_READ) || may_not(copy->to, FENCE_WRITE))
		return ASC_COPY_TARGET_FAILURE;
	unit = segment->destination_counts ? copy->to->info.block_size
					   : copy->from->info.block_size;
	copy->length = segment->count * (segment->type == SEGMENT_WITH_OFFSET ? 1 : unit);
	/* CAT and PAD are not needed where both units have blocks of the same size. */
	if (segment->type == SEGMENT_BLOCK_TO_BLOCK &&
		(copy->length % copy->to->info.block_size ||
			copy->length % copy->from->info.block_size))
		return ASC_INEXACT_SEGMENT;
	return 0;
}

/* False: it reaches past an end. */
static bool
place_segment(struct scsi_copy *copy, const struct copy_segment *segment)
{
	bool same = copy->from->lu == copy->to->lu;

	if (!set_offset(copy->from, segment->source_lba, segment->source_skip, copy->length,
		    &copy->from_offset) ||
		!set_offset(copy->to, segment->destination_lba, segment->destination_skip,
			copy->length, &copy->to_offset))
		return false;
	if (same && copy->from_offset == copy->to_offset)
		copy->length = 0; /* onto itself */
	copy->backward = same && copy->to_offset > copy->from_offset &&
			 copy->to_offset - copy->from_offset < copy->length;
	copy->data = 0;
	copy->piece_max = min_u64(copy->from->compare_max, copy->to->compare_max);
	return true;
}

/* False: the copy is over. */
static bool
begin_segment(struct scsi_copy *copy)
{
	const struct copy_segment *segment = &copy->segments[copy->segment];
	unsigned code;

	if (copy->segment == copy->nsegments) {
		end_copy(copy, COPY_DONE);
		return false;
	}
	code = open_segment(copy, segment);
	if (code || !place_segment(copy, segment)) {
		fail_copy(copy, code);
		return false;
	}
	return true;
}

static void
next_piece(struct scsi_copy *copy)
{
	if (copy->task->cancelled) {
		abort_copy(copy);
		return;
	}
	while (copy->length == 0) {
		copy->segment++;
		if (!begin_segment(copy))
			return;
	}
	if (copy->data == 0 && copy->from->info.sparse) {
		look_for_holes(copy);
	} else {
		if (copy->data == 0)
			copy->data = copy->length;
		read_piece(copy);
	}
}

static void
run_copy(struct loop_task *loop_task)
{
	struct scsi_copy *copy = container_of(loop_task, struct scsi_task, task)->copy;

	if (begin_segment(copy))
		next_piece(copy);
}

struct scsi_copy *
copy_find(const struct scsi_unit *unit, uint32_t id)
{
	struct scsi_copy *copy;

	for (copy = unit->copies; copy; copy = copy->next) {
		if (copy->named && copy->id == id)
			return copy;
	}
	return NULL;
}

/* Room for one more: the oldest that is over gives way. False: all of them run. */
static bool
make_room(struct scsi_unit *unit)
{
	struct scsi_copy *oldest = NULL;
	unsigned n = 0;

	for (struct scsi_copy *copy = unit->copies; copy; copy = copy->next, n++) {
		if (!copy->task)
			oldest = copy;
	}
	if (n < LIMIT_SCSI_COPIES)
		return true;
	if (oldest)
		remove_copy(unit, oldest);
	return oldest;
}

/* Takes what a copy needs. False: the task has its status. */
static bool
start_copy(struct scsi_task *task, struct scsi_copy *copy)
{
	struct scsi_unit *unit = task->unit;
	struct scsi_copy *same;

	if (!scsi_scratch(task))
		return false;
	copy->segments = (struct copy_segment *)(void *)task->scratch->bytes;
	if (!copy_parse(task, copy))
		return false;
	same = copy->named ? copy_find(unit, copy->id) : NULL;
	if (same && same->task) {
		copy_release(copy);
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_OPERATION_IN_PROGRESS);
	}
	if (same)
		remove_copy(unit, same);
	if (!make_room(unit) || iobuf_take(&task->in, LIMIT_IOBUF_PIECE) < 0) {
		copy_release(copy);
		return scsi_fail_busy(task);
	}
	copy->task = task;
	task->copy = copy;
	copy->next = unit->copies;
	unit->copies = copy;
	task->task.run = run_copy;
	loop_defer(loop_current(), &task->task);
	return true;
}

bool
prepare_extended_copy(struct scsi_task *task)
{
	task->out_length = get_be32(task->cdb + 10);
	if (task->out_length > COPY_LIST)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	task->in_max = LIMIT_IOBUF_PIECE; /* what passes through; none of it is sent */
	return true;
}

void
execute_extended_copy(struct scsi_task *task)
{
	struct scsi_copy *copy;

	if (task->out.length < task->out_length) {
		scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
		scsi_finish(task);
		return;
	}
	if (task->out_length == 0) { /* no list is no error */
		scsi_finish(task);
		return;
	}
	copy = slab_alloc(copy_cache);
	if (!copy) {
		scsi_fail_busy(task);
		scsi_finish(task);
		return;
	}
	memset(copy, 0, sizeof(*copy));
	copy->action = task->opcode->action;
	if (!start_copy(task, copy)) {
		slab_free(copy_cache, copy);
		scsi_finish(task);
	}
}

/* COPY OPERATION ABORT, SPC-4 6.3 */

bool
prepare_copy_abort(struct scsi_task *task)
{
	const struct scsi_copy *copy = copy_find(task->unit, get_be32(task->cdb + 2));

	return copy && copy->task ? true : scsi_fail_cdb(task, 2);
}

void
execute_copy_abort(struct scsi_task *task)
{
	struct scsi_copy *copy = copy_find(task->unit, get_be32(task->cdb + 2));

	if (copy && copy->task)
		scsi_cancel(copy->task);
	scsi_finish(task);
}
