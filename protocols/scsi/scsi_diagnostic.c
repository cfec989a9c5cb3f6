/*
 * What a disk says about its health: SEND and RECEIVE DIAGNOSTIC, READ DEFECT DATA; and what else
 * MAINTENANCE IN reports. SPC-4 6, SBC-3 5
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include "check.h"
#include "loop.h"

/* SEND DIAGNOSTIC */

/* The default self-test only; no parameters are taken, and no background test. */
bool
prepare_send_diagnostic(struct scsi_task *task)
{
	if (get_be16(task->cdb + 3) != 0)
		return scsi_fail_cdb(task, 3);
	if (task->cdb[1] & CDB_SELFTEST)
		task->in_max = SCSI_BLOCK_MAX;
	return true;
}

static void
self_test_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (request->rc == 0 && task->step++ == 0) {
		uint64_t block = task->unit->info.block_size;

		scsi_submit(
			task, BLK_READ, 0, task->unit->info.size - block, block, self_test_done);
		return;
	}
	/* SPC-4, SEND DIAGNOSTIC: a self-test that fails is a HARDWARE ERROR. */
	if (request->rc < 0)
		scsi_fail(task, KEY_HARDWARE_ERROR, ASC_SELF_TEST_FAILED);
	scsi_complete(task);
}

/* The self-test reads the first block and the last. */
void
execute_send_diagnostic(struct scsi_task *task)
{
	uint64_t block = task->unit->info.block_size;

	if (!(task->cdb[1] & CDB_SELFTEST) || scsi_unit_blocks(task->unit) == 0) {
		scsi_finish(task);
		return;
	}
	if (iobuf_take(&task->in, (size_t)block) < 0) {
		scsi_fail_busy(task);
		scsi_finish(task);
		return;
	}
	task->blk.iov = task->in.iov;
	task->blk.niov = task->in.niov;
	scsi_submit(task, BLK_READ, 0, 0, block, self_test_done);
}

/* RECEIVE DIAGNOSTIC RESULTS */

/* Page 00h, the list of pages, is the only one; without PCV it is what was last asked for. */
bool
prepare_receive_diagnostic(struct scsi_task *task)
{
	if (!(task->cdb[1] & CDB_PCV) && task->cdb[2] != 0)
		return scsi_fail_cdb(task, 1);
	if (task->cdb[2] != 0)
		return scsi_fail_cdb(task, 2);
	task->in_max = min_u64(get_be16(task->cdb + 3), SCSI_PAGE_MAX);
	return true;
}

void
execute_receive_diagnostic(struct scsi_task *task)
{
	static const uint8_t page[5] = {0x00, 0, 0, 1, 0x00};

	scsi_data_in(task, page, sizeof(page), get_be16(task->cdb + 3));
	scsi_finish(task);
}

/* READ DEFECT DATA */

static uint32_t
defect_allocation(const struct scsi_task *task)
{
	return task->opcode->length == 12 ? get_be32(task->cdb + 6) : get_be16(task->cdb + 7);
}

bool
prepare_read_defect_data(struct scsi_task *task)
{
	task->in_max = min_u64(defect_allocation(task), 8);
	return true;
}

/* Both lists are known, in whatever format, and empty. */
void
execute_read_defect_data(struct scsi_task *task)
{
	bool twelve = task->opcode->length == 12;
	uint8_t data[8] = {0, task->cdb[twelve ? 1 : 2] & 0x1f};

	scsi_data_in(task, data, twelve ? 8 : 4, defect_allocation(task));
	scsi_finish(task);
}

/* REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS */

bool
prepare_report_tmf(struct scsi_task *task)
{
	if (get_be32(task->cdb + 6) < 4)
		return scsi_fail_cdb(task, 6);
	task->in_max = 16;
	return true;
}

void
execute_report_tmf(struct scsi_task *task)
{
	bool extended = task->cdb[2] & CDB_REPD;
	uint8_t data[16] = {
		0xda, /* ATS ATSS CTSS LURS TRS; no ACA, no QUERY TASK */
		0x00, 0x00,
		extended ? 0x0c : 0x00, /* additional length; no timeouts are indicated */
	};

	scsi_data_in(task, data, extended ? 16 : 4, get_be32(task->cdb + 6));
	scsi_finish(task);
}

/* REPORT TIMESTAMP */

bool
prepare_report_timestamp(struct scsi_task *task)
{
	task->in_max = min_u64(get_be32(task->cdb + 6), 12);
	return true;
}

/* The machine's clock, which this standard has not set. SPC-4 5.2 */
void
execute_report_timestamp(struct scsi_task *task)
{
	uint64_t ms = clock_wall() * 1000;
	uint8_t data[12] = {0, 10, 0x03};

	put_be16(data + 4, (uint16_t)(ms >> 32));
	put_be32(data + 6, (uint32_t)ms);
	scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 6));
	scsi_finish(task);
}
