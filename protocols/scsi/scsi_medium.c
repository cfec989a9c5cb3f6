/* START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL. SBC-3, SPC-4 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include "conf.h"

bool
prepare_start_stop_unit(struct scsi_task *task)
{
	bool condition = task->cdb[4] >> 4;

	if (!condition && (task->cdb[4] & CDB_LOEJ) && !task->unit->conf->removable)
		return scsi_fail_cdb(task, 4);
	return true;
}

static void
eject_done(struct blk_request *request)
{
	struct scsi_task *task = scsi_task_of(request);

	if (request->rc < 0)
		scsi_fail_errno(task, request->rc);
	else
		scsi_unit_change(task->unit, 0, UNIT_EJECTED, 0);
	scsi_complete(task);
}

/* LOEJ: load, or eject. Where the medium is already, nothing is prevented. */
static void
move_medium(struct scsi_task *task, bool load)
{
	struct scsi_unit *unit = task->unit;
	bool out = unit->settings & UNIT_EJECTED;

	if (load != out) {
		scsi_finish(task);
	} else if (scsi_unit_prevented(unit)) {
		scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_REMOVAL_PREVENTED);
		scsi_finish(task);
	} else if (load) {
		scsi_unit_change(unit, UNIT_EJECTED, 0, ATTENTION_MEDIUM);
		atomic_fetch_add(&unit->lu->loads, 1);
		scsi_finish(task);
	} else {
		scsi_submit(task, BLK_FLUSH, 0, 0, 0, eject_done);
	}
}

/*
 * A power condition is taken note of and changes nothing: there is no motor, and START and LOEJ are
 * ignored beside it. Nor does a stop without LOEJ, which makes durable what is cached. IMMED may be
 * answered late.
 */
void
execute_start_stop_unit(struct scsi_task *task)
{
	uint8_t byte = task->cdb[4];

	if (byte >> 4)
		scsi_finish(task);
	else if (byte & CDB_LOEJ)
		move_medium(task, byte & CDB_START);
	else if (byte & (CDB_START | CDB_NO_FLUSH))
		scsi_finish(task);
	else
		scsi_flush(task);
	if (!(byte >> 4) && (byte & CDB_START) && !(byte & CDB_LOEJ))
		atomic_fetch_add(&task->unit->lu->starts, 1);
}

void
execute_prevent_allow(struct scsi_task *task)
{
	scsi_unit_prevent(task->unit, task->cdb[4] & 1);
	scsi_finish(task);
}
