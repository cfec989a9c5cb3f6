/* READ, WRITE, COMPARE AND WRITE, SYNCHRONIZE CACHE: the data path. SBC-3 5 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>

#include "check.h"

struct scsi_task *
scsi_task_of(struct blk_request *request)
{
	return container_of(request, struct scsi_task, blk);
}

bool
scsi_range(struct scsi_task *task, uint64_t lba, uint64_t blocks)
{
	uint64_t block_size = task->unit->info.block_size;

	if (!checked_mul(lba, block_size, &task->offset) ||
		!checked_mul(blocks, block_size, &task->length) ||
		!blk_check(task->unit->handle, task->offset, task->length))
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_OUT_OF_RANGE);
	return true;
}

void
scsi_cdb_range(const struct scsi_task *task, uint64_t *lba, uint64_t *blocks)
{
	const uint8_t *cdb = task->cdb;

	switch (task->opcode->length) {
	case 6:
		*lba = get_be24(cdb + 1) & 0x1fffff;
		*blocks = cdb[4] ? cdb[4] : 256;
		break;
	case 10:
		*lba = get_be32(cdb + 2);
		*blocks = get_be16(cdb + 7);
		break;
	case 12:
		*lba = get_be32(cdb + 2);
		*blocks = get_be32(cdb + 6);
		break;
	default:
		*lba = get_be64(cdb + 2);
		*blocks = get_be32(cdb + 10);
		break;
	}
}

unsigned
scsi_write_flags(const struct scsi_task *task, bool fua)
{
	return fua || (task->unit->settings & UNIT_WCE_OFF) ? BLK_FUA : 0;
}

static void
run_cancelled(struct loop_task *loop_task)
{
	struct scsi_task *task = container_of(loop_task, struct scsi_task, task);

	task->blk.done(&task->blk);
}

void
scsi_submit(struct scsi_task *task, enum blk_op op, unsigned flags, uint64_t offset,
	uint64_t length, void (*done)(struct blk_request *request))
{
	scsi_submit_to(task, task->unit, op, flags, offset, length, done);
}

void
scsi_submit_to(struct scsi_task *task, struct scsi_unit *unit, enum blk_op op, unsigned flags,
	uint64_t offset, uint64_t length, void (*done)(struct blk_request *request))
{
	task->blk.op = op;
	task->blk.flags = flags;
	task->blk.offset = offset;
	task->blk.length = length;
	task->blk.done = done;
	if (task->cancelled) {
		task->blk.rc = -ETIMEDOUT;
		task->task.run = run_cancelled;
		loop_defer(loop_current(), &task->task);
		return;
	}
	blk_submit(unit->handle, &task->blk);
}

/* READ(6) and WRITE(6) have no such bit. */
static bool
wants_fua(const struct scsi_task *task)
{
	return task->opcode->length > 6 && (task->cdb[1] & CDB_FUA);
}

bool
scsi_transfer(struct scsi_task *task)
{
	static const uint8_t length_byte[] = {[6] = 4, [10] = 7, [12] = 6, [16] = 10};
	uint64_t lba, blocks;

	scsi_cdb_range(task, &lba, &blocks);
	if (!scsi_range(task, lba, blocks))
		return false;
	/* SBC-3, Block Limits page: above MAXIMUM TRANSFER LENGTH */
	if (task->length > task->unit->transfer_max)
		return scsi_fail_cdb(task, length_byte[task->opcode->length]);
	return true;
}

bool
prepare_read(struct scsi_task *task)
{
	if (!scsi_transfer(task))
		return false;
	task->in_max = task->length;
	return true;
}

bool
scsi_step_failed(struct scsi_task *task, const struct blk_request *request)
{
	if (request->rc >= 0)
		return false;
	scsi_fail_errno(task, request->rc);
	scsi_complete(task);
	return true;
}

static void
read_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (request->rc < 0)
		scsi_fail_errno(task, request->rc);
	else
		task->in_length = request->length;
	scsi_complete(task);
}

static void
start_read(struct scsi_task *task)
{
	task->blk.iov = task->in.iov;
	task->blk.niov = task->in.niov;
	scsi_submit(task, BLK_READ, 0, task->offset, task->length, read_done);
}

static void
fua_flush_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (scsi_step_failed(task, request))
		return;
	start_read(task);
}

void
execute_read(struct scsi_task *task)
{
	if (task->length == 0) {
		scsi_finish(task);
		return;
	}
	if (iobuf_take(&task->in, (size_t)task->length) < 0) {
		scsi_fail_busy(task);
		scsi_finish(task);
		return;
	}
	/* SBC-3, READ(10): with FUA what is newer in a volatile cache goes to the medium first. */
	if (wants_fua(task) && task->unit->info.volatile_cache)
		scsi_submit(task, BLK_FLUSH, 0, 0, 0, fua_flush_done);
	else
		start_read(task);
}

bool
prepare_write(struct scsi_task *task)
{
	if (!scsi_transfer(task))
		return false;
	task->out_length = task->length;
	return true;
}

static void
write_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (request->rc < 0)
		scsi_fail_errno(task, request->rc);
	scsi_complete(task);
}

bool
scsi_use_out(struct scsi_task *task, size_t length)
{
	size_t covered;

	task->blk.iov = task->out.iov;
	task->blk.niov = task->out.niov;
	if (task->out.length == length)
		return true;
	if (!scsi_scratch(task))
		return false;
	task->blk.niov = iov_slice(task->out.iov, task->out.niov, 0, length, task->scratch->iov,
		ARRAY_SIZE(task->scratch->iov), &covered);
	task->blk.iov = task->scratch->iov;
	CHECK(covered == length); /* LIMIT_IOBUF_PIECES is less */
	return true;
}

/*
 * An initiator may announce less than the CDB takes (RFC 7143 11.4.5.1 calls the rest residual
 * overflow): what it announced has arrived whole, and its whole blocks are written.
 */
void
execute_write(struct scsi_task *task)
{
	uint64_t length =
		round_down(min_u64(task->length, task->out.length), task->unit->info.block_size);

	if (length == 0) {
		if (task->length && task->out.length)
			scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
		scsi_finish(task);
		return;
	}
	if (!scsi_use_out(task, (size_t)length)) {
		scsi_finish(task);
		return;
	}
	scsi_submit(task, BLK_WRITE, scsi_write_flags(task, wants_fua(task)), task->offset, length,
		write_done);
}

bool
prepare_compare_and_write(struct scsi_task *task)
{
	if (!scsi_range(task, get_be64(task->cdb + 2), task->cdb[13]))
		return false;
	/* 256 blocks do not fit the byte, and 0 bring no data. */
	if (task->length == 0 && task->out_expected != 0)
		return scsi_fail_cdb(task, 13);
	if (task->length > task->unit->compare_max)
		return scsi_fail_cdb(task, 13);
	task->out_length = 2 * task->length;
	return true;
}

void
execute_compare_and_write(struct scsi_task *task)
{
	if (task->length == 0) {
		scsi_finish(task);
		return;
	}
	/* Half of it is to be compared with: a part of it means nothing. */
	if (task->out.length < 2 * task->length) {
		scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
		scsi_finish(task);
		return;
	}
	if (!scsi_use_out(task, (size_t)(2 * task->length))) {
		scsi_finish(task);
		return;
	}
	scsi_submit(task, BLK_COMPARE_WRITE, scsi_write_flags(task, wants_fua(task)), task->offset,
		task->length, write_done);
}

/* IMMED may be answered late: the flush is done first. */
bool
prepare_synchronize_cache(struct scsi_task *task)
{
	uint64_t lba, blocks;

	scsi_cdb_range(task, &lba, &blocks);
	return scsi_range(task, lba, blocks); /* 0 blocks: to the end */
}

void
scsi_flush(struct scsi_task *task)
{
	scsi_submit(task, BLK_FLUSH, 0, 0, 0, write_done);
}

/* The whole volume: a flush makes no less durable than what was asked for (B6). */
void
execute_synchronize_cache(struct scsi_task *task)
{
	scsi_flush(task);
}
