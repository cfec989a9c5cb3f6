/*
 * Commands that look at the medium and move nothing, or look at it before or after they write:
 * VERIFY, WRITE AND VERIFY, ORWRITE, WRITE ATOMIC, PRE-FETCH. SBC-3 5
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <string.h>

#include "check.h"

#define ORWRITE_TRIES 64 /* against other writers, before the initiator is asked to come again */

/* BYTCHK. SBC-3 5.33: 10b is reserved; in WRITE AND VERIFY so is 11b. */
enum { CHECK_MEDIUM, CHECK_ALL, CHECK_RESERVED, CHECK_REPEATED };

static unsigned
bytchk(const struct scsi_task *task)
{
	return task->cdb[1] >> 1 & 3;
}

/* What is read passes through `in`, a piece at a time; none of it is data-in. */
static uint64_t
piece_of(const struct scsi_task *task)
{
	return min_u64(task->length, round_down(LIMIT_IOBUF_PIECE, task->unit->info.block_size));
}

/* VERIFY */

bool
prepare_verify(struct scsi_task *task)
{
	unsigned check = bytchk(task);

	if (check == CHECK_RESERVED)
		return scsi_fail_cdb(task, 1);
	if (!scsi_transfer(task))
		return false;
	if (check == CHECK_ALL)
		task->out_length = task->length;
	else if (check == CHECK_REPEATED && task->length)
		task->out_length = task->unit->info.block_size;
	task->in_max = piece_of(task);
	return true;
}

bool
prepare_write_and_verify(struct scsi_task *task)
{
	if (bytchk(task) > CHECK_ALL)
		return scsi_fail_cdb(task, 1);
	if (!scsi_transfer(task))
		return false;
	task->out_length = task->length;
	task->in_max = piece_of(task);
	return true;
}

/* The byte of `piece`, which stands `skip` bytes into the range, that differs from data-out; or
 * -1. */
static int64_t
find_difference(const struct scsi_task *task, const uint8_t *piece, uint64_t length, uint64_t skip)
{
	uint32_t block = task->unit->info.block_size;
	bool repeated = bytchk(task) == CHECK_REPEATED;
	uint8_t expected[SCSI_BLOCK_MAX];

	if (repeated)
		skip = 0;
	for (uint64_t at = 0; at < length; at += block) {
		if (at == 0 || !repeated)
			iov_to(task->out.iov, task->out.niov, (size_t)(skip + at), expected, block);
		if (memcmp(expected, piece + at, block) != 0)
			return (int64_t)at;
	}
	return -1;
}

static void verify_piece(struct scsi_task *task);

static void
verify_read_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);
	int64_t different = -1;

	if (request->rc == -EIO)
		atomic_fetch_add(&task->unit->lu->verify_failures, 1);
	if (scsi_step_failed(task, request))
		return;
	atomic_fetch_add(&task->unit->lu->verified, request->length);
	if (bytchk(task) != CHECK_MEDIUM)
		different = find_difference(
			task, task->in.iov[0].iov_base, request->length, task->verified);
	if (different >= 0) {
		/* SBC-3 4.18: INFORMATION is the block. */
		scsi_fail_with(
			task, &(struct scsi_sense){.key = KEY_MISCOMPARE,
				      .code = ASC_MISCOMPARE,
				      .has_information = true,
				      .information = (request->offset + (uint64_t)different) >>
						     task->unit->block_shift});
		scsi_complete(task);
		return;
	}
	task->verified += request->length;
	if (task->verified == task->length)
		scsi_complete(task);
	else
		verify_piece(task);
}

static void
verify_piece(struct scsi_task *task)
{
	uint64_t length = min_u64(task->in.iov[0].iov_len, task->length - task->verified);

	task->piece = (struct iovec){task->in.iov[0].iov_base, (size_t)length};
	task->blk.iov = &task->piece;
	task->blk.niov = 1;
	scsi_submit(task, BLK_READ, 0, task->offset + task->verified, length, verify_read_done);
}

/* Takes the memory that is read into. False: the task is over. */
static bool
take_piece(struct scsi_task *task, uint64_t length)
{
	if (iobuf_take(&task->in, (size_t)length) == 0)
		return true;
	scsi_fail_busy(task);
	scsi_finish(task);
	return false;
}

void
execute_verify(struct scsi_task *task)
{
	if (task->out.length < task->out_length) {
		scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
		scsi_finish(task);
	} else if (task->length == 0) {
		scsi_finish(task);
	} else if (take_piece(task, piece_of(task))) {
		verify_piece(task);
	}
}

static void
written_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (scsi_step_failed(task, request))
		return;
	verify_piece(task);
}

/* Like a WRITE: of what was announced, the whole blocks. On the medium, for that is what is
 * verified. */
void
execute_write_and_verify(struct scsi_task *task)
{
	uint64_t length =
		round_down(min_u64(task->length, task->out.length), task->unit->info.block_size);

	if (length == 0) {
		if (task->length && task->out.length)
			scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
		scsi_finish(task);
		return;
	}
	task->length = length;
	if (!take_piece(task, piece_of(task)))
		return;
	if (!scsi_use_out(task, (size_t)length)) {
		scsi_finish(task);
		return;
	}
	scsi_submit(task, BLK_WRITE, BLK_FUA, task->offset, length, written_done);
}

/* ORWRITE */

/* One action against every other request (SBC-3 5.10), so no more than can be compared at once. */
bool
prepare_orwrite(struct scsi_task *task)
{
	if (!scsi_transfer(task))
		return false;
	if (task->length > task->unit->compare_max)
		return scsi_fail_cdb(task, 10);
	task->out_length = task->length;
	task->in_max = 2 * task->length; /* old and new data; none of it is sent */
	return true;
}

/*
 * SBC-4 4.29, WRITE ATOMIC: all of it or nothing is seen by other commands, and left by a loss of
 * power, which bounds it more than the first does. Its old data is read for no other reason than
 * to be compared with.
 */
bool
prepare_write_atomic(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->unit;
	uint64_t lba, blocks;

	scsi_cdb_range(task, &lba, &blocks); /* ATOMIC BOUNDARY before the length is 0 */
	if (!scsi_range(task, lba, blocks))
		return false;
	if (task->offset % unit->atomic_unit != 0)
		return scsi_fail_cdb(task, 2);
	if (task->length > unit->atomic_max || task->length % unit->atomic_unit != 0)
		return scsi_fail_cdb(task, 12);
	task->out_length = task->length;
	task->in_max = 2 * task->length;
	return true;
}

static void orwrite_read(struct scsi_task *task);

static void
orwrite_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (request->rc == -EILSEQ && ++task->step < ORWRITE_TRIES) {
		orwrite_read(task); /* somebody wrote meanwhile */
		return;
	}
	if (request->rc == -EILSEQ)
		scsi_fail_busy(task);
	else if (request->rc < 0)
		scsi_fail_errno(task, request->rc);
	scsi_complete(task);
}

/* `in` is what was read, and behind it what is to be written. */
static void
orwrite_read_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);
	const struct iobuf *in = &task->in;
	uint8_t old[SCSI_BLOCK_MAX], data[SCSI_BLOCK_MAX];
	size_t block = task->unit->info.block_size, length = (size_t)task->length;
	bool fua = task->cdb[1] & CDB_FUA, merges = task->opcode->opcode == OP_ORWRITE;

	if (scsi_step_failed(task, request))
		return;
	for (size_t at = 0; at < length; at += block) {
		iov_to(in->iov, in->niov, at, old, block);
		iov_to(task->out.iov, task->out.niov, at, data, block);
		for (size_t i = 0; merges && i < block; i++)
			data[i] |= old[i];
		iov_from(in->iov, in->niov, length + at, data, block);
	}
	task->blk.iov = in->iov;
	task->blk.niov = in->niov;
	scsi_submit(task, BLK_COMPARE_WRITE, scsi_write_flags(task, fua), task->offset,
		task->length, orwrite_done);
}

static void
orwrite_read(struct scsi_task *task)
{
	size_t covered;

	task->blk.niov = iov_slice(task->in.iov, task->in.niov, 0, (size_t)task->length,
		task->scratch->iov, ARRAY_SIZE(task->scratch->iov), &covered);
	task->blk.iov = task->scratch->iov;
	CHECK(covered == task->length);
	scsi_submit(task, BLK_READ, 0, task->offset, task->length, orwrite_read_done);
}

void
execute_orwrite(struct scsi_task *task)
{
	if (task->length == 0) {
		scsi_finish(task);
		return;
	}
	if (task->out.length < task->length) {
		scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
		scsi_finish(task);
		return;
	}
	if (!take_piece(task, 2 * task->length))
		return;
	if (!scsi_scratch(task)) {
		scsi_finish(task);
		return;
	}
	orwrite_read(task);
}

/* PRE-FETCH */

/* 0 blocks: to the end. */
bool
prepare_prefetch(struct scsi_task *task)
{
	uint64_t lba, blocks;

	scsi_cdb_range(task, &lba, &blocks);
	if (!scsi_range(task, lba, blocks))
		return false;
	if (blocks == 0)
		task->length = task->unit->info.size - task->offset;
	return true;
}

static void
prefetch_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (request->rc < 0)
		scsi_fail_errno(task, request->rc);
	else
		task->status = SCSI_CONDITION_MET;
	scsi_complete(task);
}

/* IMMED may be answered late: the backend is asked to read ahead, and does not make us wait. */
void
execute_prefetch(struct scsi_task *task)
{
	scsi_submit(task, BLK_PREFETCH, 0, task->offset, task->length, prefetch_done);
}
