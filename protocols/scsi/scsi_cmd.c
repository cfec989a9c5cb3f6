/*
 * The opcode table, and the way of a command through it: scsi_prepare() finds LUN and row, checks
 * what holds for every command, and lets the row check the rest; scsi_execute() runs the row;
 * scsi_complete() is the only way out.
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "slab.h"

static struct slab_cache *scratch_cache;

/* Index of an opcode's first row, plus 1. */
static uint8_t first_row[256];

/*
 * Bits of the usage column, from byte 1 on, that stand for something: in READ and WRITE 18h is DPO
 * and FUA (RDPROTECT and WRPROTECT are not there, so that they are refused as SBC-3 wants it
 * without protection information); in SYNCHRONIZE CACHE 06h is SYNC_NV and IMMED. GROUP NUMBER
 * (but in PRE-FETCH, where it changes nothing), NACA and everything reserved or obsolete is refused (promises R14).
 */
#define FF2     0xff, 0xff
#define FF3     0xff, FF2
#define FF4     FF2, FF2
#define FF8     FF4, FF4
#define Z3      0, 0, 0
#define Z5      0, 0, Z3
#define Z8      Z5, Z3
#define MEDIUM  ROW_MEDIUM
#define READS   ROW_MEDIUM | ROW_DATA
#define WRITES  ROW_MEDIUM | ROW_DATA | ROW_WRITES
#define CHANGES ROW_MEDIUM | ROW_WRITES
#define ALWAYS  ROW_ANY_LUN | ROW_QUIET

/* clang-format off */
const struct scsi_opcode scsi_opcodes[] = {
	{"TEST UNIT READY", OP_TEST_UNIT_READY, 0, 6, MEDIUM, ACCESS_STATUS, {0},
		prepare_nothing, execute_test_unit_ready},
	{"REQUEST SENSE", OP_REQUEST_SENSE, 0, 6, ALWAYS, ACCESS_NONE, {CDB_DESC, 0, 0, 0xff},
		prepare_request_sense, execute_request_sense},
	{"READ(6)", OP_READ_6, 0, 6, READS, ACCESS_READ, {0x1f, FF3},
		prepare_read, execute_read},
	{"WRITE(6)", OP_WRITE_6, 0, 6, WRITES, ACCESS_WRITE, {0x1f, FF3},
		prepare_write, execute_write},
	{"INQUIRY", OP_INQUIRY, 0, 6, ALWAYS, ACCESS_NONE, {CDB_EVPD, FF3},
		prepare_inquiry, execute_inquiry},
	{"MODE SELECT(6)", OP_MODE_SELECT_6, 0, 6, 0, ACCESS_WRITE, {CDB_PF, 0, 0, 0xff},
		prepare_mode_select, execute_mode_select},
	{"RESERVE(6)", OP_RESERVE_6, 0, 6, 0, ACCESS_STATUS, {0},
		prepare_nothing, execute_reserve},
	{"RELEASE(6)", OP_RELEASE_6, 0, 6, 0, ACCESS_NONE, {0},
		prepare_nothing, execute_release},
	{"MODE SENSE(6)", OP_MODE_SENSE_6, 0, 6, 0, ACCESS_READ, {CDB_DBD, FF3},
		prepare_mode_sense, execute_mode_sense},
	{"START STOP UNIT", OP_START_STOP_UNIT, 0, 6, 0, ACCESS_START, {0x01, 0, 0x0f, 0xf7},
		prepare_start_stop_unit, execute_start_stop_unit},
	{"RECEIVE DIAGNOSTIC RESULTS", OP_RECEIVE_DIAGNOSTIC, 0, 6, 0, ACCESS_READ, {CDB_PCV, FF3},
		prepare_receive_diagnostic, execute_receive_diagnostic},
	/* DEVOFFL and UNITOFFL allow what the self-test does not need */
	{"SEND DIAGNOSTIC", OP_SEND_DIAGNOSTIC, 0, 6, MEDIUM, ACCESS_WRITE, {0x13 | CDB_SELFTEST, 0, FF2},
		prepare_send_diagnostic, execute_send_diagnostic},
	{"PREVENT ALLOW MEDIUM REMOVAL", OP_PREVENT_ALLOW, 0, 6, 0, ACCESS_PREVENT, {Z3, 0x01},
		prepare_nothing, execute_prevent_allow},
	{"READ CAPACITY(10)", OP_READ_CAPACITY_10, 0, 10, MEDIUM, ACCESS_NONE, {0},
		prepare_read_capacity_10, execute_read_capacity_10},
	{"READ(10)", OP_READ_10, 0, 10, READS, ACCESS_READ, {CDB_DPO | CDB_FUA, FF4, 0, FF2},
		prepare_read, execute_read},
	{"WRITE(10)", OP_WRITE_10, 0, 10, WRITES, ACCESS_WRITE, {CDB_DPO | CDB_FUA, FF4, 0, FF2},
		prepare_write, execute_write},
	{"WRITE AND VERIFY(10)", OP_WRITE_AND_VERIFY_10, 0, 10, WRITES, ACCESS_WRITE, {CDB_DPO | CDB_BYTCHK, FF4, 0, FF2},
		prepare_write_and_verify, execute_write_and_verify},
	{"VERIFY(10)", OP_VERIFY_10, 0, 10, READS, ACCESS_READ, {CDB_DPO | CDB_BYTCHK, FF4, 0, FF2},
		prepare_verify, execute_verify},
	{"PRE-FETCH(10)", OP_PREFETCH_10, 0, 10, MEDIUM, ACCESS_READ, {0x02, FF4, 0x1f, FF2},
		prepare_prefetch, execute_prefetch},
	{"SYNCHRONIZE CACHE(10)", OP_SYNCHRONIZE_CACHE_10, 0, 10, MEDIUM, ACCESS_WRITE, {0x06, FF4, 0, FF2},
		prepare_synchronize_cache, execute_synchronize_cache},
	{"READ DEFECT DATA(10)", OP_READ_DEFECT_DATA_10, 0, 10, MEDIUM, ACCESS_READ, {0, 0x1f, Z3, 0, FF2},
		prepare_read_defect_data, execute_read_defect_data},
	{"WRITE SAME(10)", OP_WRITE_SAME_10, 0, 10, CHANGES | ROW_EXACT, ACCESS_WRITE, {CDB_WS_ANCHOR | CDB_WS_UNMAP, FF4, 0, FF2},
		prepare_write_same, execute_write_same},
	{"UNMAP", OP_UNMAP, 0, 10, CHANGES, ACCESS_WRITE, {CDB_UNMAP_ANCHOR, Z5, FF2},
		prepare_unmap, execute_unmap},
	{"SANITIZE, OVERWRITE", OP_SANITIZE, SA_SANITIZE_OVERWRITE, 10, ROW_ACTION | CHANGES,
		ACCESS_WRITE, {SA_SANITIZE_OVERWRITE | CDB_SANITIZE_IMMED | CDB_AUSE, Z5, FF2},
		prepare_sanitize, execute_sanitize},
	{"SANITIZE, BLOCK ERASE", OP_SANITIZE, SA_SANITIZE_BLOCK_ERASE, 10, ROW_ACTION | CHANGES,
		ACCESS_WRITE, {SA_SANITIZE_BLOCK_ERASE | CDB_SANITIZE_IMMED | CDB_AUSE, Z5, FF2},
		prepare_sanitize, execute_sanitize},
	{"SANITIZE, EXIT FAILURE MODE", OP_SANITIZE, SA_SANITIZE_EXIT_FAILURE, 10, ROW_ACTION | CHANGES,
		ACCESS_WRITE, {SA_SANITIZE_EXIT_FAILURE, Z5, FF2},
		prepare_exit_failure, execute_exit_failure},
	{"LOG SENSE", OP_LOG_SENSE, 0, 10, 0, ACCESS_NONE, {0, FF2, 0, FF4},
		prepare_log_sense, execute_log_sense},
	{"MODE SELECT(10)", OP_MODE_SELECT_10, 0, 10, 0, ACCESS_WRITE, {CDB_PF, Z5, FF2},
		prepare_mode_select, execute_mode_select},
	{"RESERVE(10)", OP_RESERVE_10, 0, 10, 0, ACCESS_STATUS, {0},
		prepare_nothing, execute_reserve},
	{"RELEASE(10)", OP_RELEASE_10, 0, 10, 0, ACCESS_NONE, {0},
		prepare_nothing, execute_release},
	{"MODE SENSE(10)", OP_MODE_SENSE_10, 0, 10, 0, ACCESS_READ, {CDB_LLBAA | CDB_DBD, FF2, Z3, FF2},
		prepare_mode_sense, execute_mode_sense},
	{"PERSISTENT RESERVE IN, READ KEYS", OP_RESERVE_IN, SA_READ_KEYS, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_READ_KEYS, Z5, FF2}, prepare_reserve_in, execute_read_keys},
	{"PERSISTENT RESERVE IN, READ RESERVATION", OP_RESERVE_IN, SA_READ_RESERVATION, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_READ_RESERVATION, Z5, FF2}, prepare_reserve_in, execute_read_reservation},
	{"PERSISTENT RESERVE IN, REPORT CAPABILITIES", OP_RESERVE_IN, SA_REPORT_CAPABILITIES, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_REPORT_CAPABILITIES, Z5, FF2}, prepare_reserve_in, execute_report_capabilities},
	{"PERSISTENT RESERVE IN, READ FULL STATUS", OP_RESERVE_IN, SA_READ_FULL_STATUS, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_READ_FULL_STATUS, Z5, FF2}, prepare_reserve_in, execute_read_full_status},
	{"PERSISTENT RESERVE OUT, REGISTER", OP_RESERVE_OUT, SA_REGISTER, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_REGISTER, 0xff, 0, 0, FF4}, prepare_reserve_out, execute_reserve_out},
	{"PERSISTENT RESERVE OUT, RESERVE", OP_RESERVE_OUT, SA_RESERVE, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_RESERVE, 0xff, 0, 0, FF4}, prepare_reserve_out, execute_reserve_out},
	{"PERSISTENT RESERVE OUT, RELEASE", OP_RESERVE_OUT, SA_RELEASE, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_RELEASE, 0xff, 0, 0, FF4}, prepare_reserve_out, execute_reserve_out},
	{"PERSISTENT RESERVE OUT, CLEAR", OP_RESERVE_OUT, SA_CLEAR, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_CLEAR, 0xff, 0, 0, FF4}, prepare_reserve_out, execute_reserve_out},
	{"PERSISTENT RESERVE OUT, PREEMPT", OP_RESERVE_OUT, SA_PREEMPT, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_PREEMPT, 0xff, 0, 0, FF4}, prepare_reserve_out, execute_reserve_out},
	{"PERSISTENT RESERVE OUT, PREEMPT AND ABORT", OP_RESERVE_OUT, SA_PREEMPT_AND_ABORT, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_PREEMPT_AND_ABORT, 0xff, 0, 0, FF4}, prepare_reserve_out, execute_reserve_out},
	{"PERSISTENT RESERVE OUT, REGISTER AND IGNORE", OP_RESERVE_OUT, SA_REGISTER_AND_IGNORE, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_REGISTER_AND_IGNORE, 0xff, 0, 0, FF4}, prepare_reserve_out, execute_reserve_out},
	{"PERSISTENT RESERVE OUT, REGISTER AND MOVE", OP_RESERVE_OUT, SA_REGISTER_AND_MOVE, 10, ROW_ACTION,
		ACCESS_STATUS, {SA_REGISTER_AND_MOVE, 0xff, 0, 0, FF4}, prepare_reserve_out, execute_reserve_out},
	/* SPC-4 5.13.1, as WRITE: what the copy reads and writes is looked at when it does */
	{"EXTENDED COPY(LID1)", OP_EXTENDED_COPY, SA_EXTENDED_COPY_LID1, 16, ROW_ACTION | MEDIUM,
		ACCESS_WRITE, {SA_EXTENDED_COPY_LID1, Z8, FF4},
		prepare_extended_copy, execute_extended_copy},
	{"EXTENDED COPY(LID4)", OP_EXTENDED_COPY, SA_EXTENDED_COPY_LID4, 16, ROW_ACTION | MEDIUM,
		ACCESS_WRITE, {SA_EXTENDED_COPY_LID4, Z8, FF4},
		prepare_extended_copy, execute_extended_copy},
	{"COPY OPERATION ABORT", OP_EXTENDED_COPY, SA_COPY_ABORT, 16, ROW_ACTION,
		ACCESS_WRITE, {SA_COPY_ABORT, FF4},
		prepare_copy_abort, execute_copy_abort},
	{"RECEIVE COPY STATUS(LID1)", OP_COPY_RESULTS, SA_COPY_STATUS_LID1, 16, ROW_ACTION,
		ACCESS_WRITE, {SA_COPY_STATUS_LID1, 0xff, Z5, 0, 0, FF4},
		prepare_copy_results, execute_copy_results},
	{"RECEIVE COPY DATA(LID1)", OP_COPY_RESULTS, SA_COPY_DATA, 16, ROW_ACTION,
		ACCESS_WRITE, {SA_COPY_DATA, 0xff, Z5, 0, 0, FF4},
		prepare_copy_results, execute_copy_results},
	{"RECEIVE COPY OPERATING PARAMETERS", OP_COPY_RESULTS, SA_COPY_PARAMETERS, 16, ROW_ACTION,
		ACCESS_WRITE, {SA_COPY_PARAMETERS, Z8, FF4},
		prepare_copy_results, execute_copy_results},
	{"RECEIVE COPY FAILURE DETAILS(LID1)", OP_COPY_RESULTS, SA_COPY_FAILED_SEGMENT, 16, ROW_ACTION,
		ACCESS_WRITE, {SA_COPY_FAILED_SEGMENT, 0xff, Z5, 0, 0, FF4},
		prepare_copy_results, execute_copy_results},
	{"RECEIVE COPY STATUS(LID4)", OP_COPY_RESULTS, SA_COPY_STATUS_LID4, 16, ROW_ACTION,
		ACCESS_WRITE, {SA_COPY_STATUS_LID4, FF4, Z3, 0, FF4},
		prepare_copy_results, execute_copy_results},
	{"READ(16)", OP_READ_16, 0, 16, READS, ACCESS_READ, {CDB_DPO | CDB_FUA, FF8, FF4},
		prepare_read, execute_read},
	{"COMPARE AND WRITE", OP_COMPARE_AND_WRITE, 0, 16, WRITES | ROW_EXACT, ACCESS_WRITE, {CDB_DPO | CDB_FUA, FF8, Z3, 0xff},
		prepare_compare_and_write, execute_compare_and_write},
	{"WRITE(16)", OP_WRITE_16, 0, 16, WRITES, ACCESS_WRITE, {CDB_DPO | CDB_FUA, FF8, FF4},
		prepare_write, execute_write},
	{"ORWRITE", OP_ORWRITE, 0, 16, WRITES, ACCESS_WRITE, {CDB_DPO | CDB_FUA, FF8, FF4},
		prepare_orwrite, execute_orwrite},
	{"WRITE AND VERIFY(16)", OP_WRITE_AND_VERIFY_16, 0, 16, WRITES, ACCESS_WRITE, {CDB_DPO | CDB_BYTCHK, FF8, FF4},
		prepare_write_and_verify, execute_write_and_verify},
	{"VERIFY(16)", OP_VERIFY_16, 0, 16, READS, ACCESS_READ, {CDB_DPO | CDB_BYTCHK, FF8, FF4},
		prepare_verify, execute_verify},
	{"PRE-FETCH(16)", OP_PREFETCH_16, 0, 16, MEDIUM, ACCESS_READ, {0x02, FF8, FF4, 0x1f},
		prepare_prefetch, execute_prefetch},
	{"SYNCHRONIZE CACHE(16)", OP_SYNCHRONIZE_CACHE_16, 0, 16, MEDIUM, ACCESS_WRITE, {0x06, FF8, FF4},
		prepare_synchronize_cache, execute_synchronize_cache},
	{"WRITE SAME(16)", OP_WRITE_SAME_16, 0, 16, CHANGES | ROW_EXACT, ACCESS_WRITE, {CDB_WS_ANCHOR | CDB_WS_UNMAP | CDB_WS_NDOB, FF8, FF4},
		prepare_write_same, execute_write_same},
	{"WRITE ATOMIC(16)", OP_WRITE_ATOMIC_16, 0, 16, WRITES, ACCESS_WRITE, {CDB_DPO | CDB_FUA, FF8, 0, 0, FF2},
		prepare_write_atomic, execute_orwrite},
	{"READ CAPACITY(16)", OP_SERVICE_ACTION_IN_16, SA_READ_CAPACITY_16, 16, ROW_ACTION | MEDIUM,
		ACCESS_NONE, {SA_READ_CAPACITY_16, Z8, FF4},
		prepare_read_capacity_16, execute_read_capacity_16},
	{"GET LBA STATUS", OP_SERVICE_ACTION_IN_16, SA_GET_LBA_STATUS, 16, ROW_ACTION | MEDIUM,
		ACCESS_READ, {SA_GET_LBA_STATUS, FF8, FF4},
		prepare_get_lba_status, execute_get_lba_status},
	{"REPORT LUNS", OP_REPORT_LUNS, 0, 12, ALWAYS, ACCESS_NONE, {0, 0xff, Z3, FF4},
		prepare_report_luns, execute_report_luns},
	{"REPORT TARGET PORT GROUPS", OP_MAINTENANCE_IN, SA_REPORT_PORT_GROUPS, 12,
		ROW_ACTION, ACCESS_STATUS, {SA_REPORT_PORT_GROUPS, 0, Z3, FF4},
		prepare_report_port_groups, execute_report_port_groups},
	{"REPORT SUPPORTED OPERATION CODES", OP_MAINTENANCE_IN, SA_REPORT_SUPPORTED_OPCODES, 12,
		ROW_ACTION, ACCESS_STATUS, {SA_REPORT_SUPPORTED_OPCODES, CDB_RCTD | 7, FF3, FF4},
		prepare_report_opcodes, execute_report_opcodes},
	{"REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", OP_MAINTENANCE_IN, SA_REPORT_SUPPORTED_TMF, 12,
		ROW_ACTION, ACCESS_STATUS, {SA_REPORT_SUPPORTED_TMF, CDB_REPD, Z3, FF4},
		prepare_report_tmf, execute_report_tmf},
	{"REPORT TIMESTAMP", OP_MAINTENANCE_IN, SA_REPORT_TIMESTAMP, 12,
		ROW_ACTION, ACCESS_STATUS, {SA_REPORT_TIMESTAMP, 0, Z3, FF4},
		prepare_report_timestamp, execute_report_timestamp},
	{"READ(12)", OP_READ_12, 0, 12, READS, ACCESS_READ, {CDB_DPO | CDB_FUA, FF4, FF4},
		prepare_read, execute_read},
	{"WRITE(12)", OP_WRITE_12, 0, 12, WRITES, ACCESS_WRITE, {CDB_DPO | CDB_FUA, FF4, FF4},
		prepare_write, execute_write},
	{"WRITE AND VERIFY(12)", OP_WRITE_AND_VERIFY_12, 0, 12, WRITES, ACCESS_WRITE, {CDB_DPO | CDB_BYTCHK, FF4, FF4},
		prepare_write_and_verify, execute_write_and_verify},
	{"VERIFY(12)", OP_VERIFY_12, 0, 12, READS, ACCESS_READ, {CDB_DPO | CDB_BYTCHK, FF4, FF4},
		prepare_verify, execute_verify},
	{"READ DEFECT DATA(12)", OP_READ_DEFECT_DATA_12, 0, 12, MEDIUM, ACCESS_READ, {0x1f, FF4, FF4},
		prepare_read_defect_data, execute_read_defect_data},
};
/* clang-format on */
const unsigned scsi_opcodes_count = ARRAY_SIZE(scsi_opcodes);
_Static_assert(ARRAY_SIZE(scsi_opcodes) < UINT8_MAX, "first_row[] counts the rows");

int
scsi_start(void)
{
	for (unsigned i = scsi_opcodes_count; i-- > 0;)
		first_row[scsi_opcodes[i].opcode] = (uint8_t)(i + 1);
	scratch_cache = slab_cache_new("scsi_scratch", sizeof(union scsi_scratch), 4096, 0, NULL);
	if (!scratch_cache || iobuf_start() < 0 || scsi_unit_start() < 0 ||
		scsi_abort_start() < 0 || scsi_copy_start() < 0) {
		scsi_stop();
		return -ENOMEM;
	}
	return 0;
}

void
scsi_stop(void)
{
	scsi_abort_stop();
	scsi_nexus_stop();
	scsi_unit_stop();
	scsi_copy_stop();
	if (scratch_cache)
		slab_cache_free(scratch_cache);
	scratch_cache = NULL;
}

/* NULL with *known true: the opcode is there, its service action is not. */
static const struct scsi_opcode *
find_row(const uint8_t *cdb, bool *known)
{
	unsigned i = first_row[cdb[0]];

	*known = i != 0;
	if (i == 0)
		return NULL;
	for (i--; i < scsi_opcodes_count && scsi_opcodes[i].opcode == cdb[0]; i++) {
		if (!(scsi_opcodes[i].flags & ROW_ACTION) ||
			scsi_opcodes[i].action == (cdb[1] & 0x1f))
			return &scsi_opcodes[i];
	}
	return NULL;
}

/* Reserved, obsolete and unsupported bits are refused (SPC-4 4.2), and CDBs that are cut short.
 */
static bool
check_usage(struct scsi_task *task, const struct scsi_opcode *row)
{
	unsigned i = 1, wrong = 0;

	if (task->cdb_length < row->length)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_CDB);
	if (row->flags & ROW_ACTION) { /* the action itself has been looked up */
		if (task->cdb[1] & 0xe0 & ~row->usage[0])
			return scsi_fail_cdb(task, 1);
		i = 2;
	}
	for (unsigned j = i; j < row->length; j++)
		wrong |= task->cdb[j] & ~(unsigned)row->usage[j - 1];
	if (!wrong)
		return true;
	while (!(task->cdb[i] & ~(unsigned)row->usage[i - 1]))
		i++;
	return scsi_fail_cdb(task, i);
}

/* Another nexus' reservation: before data is asked for, and when the command begins. The block layer
 * looks again when its requests start. */
static bool
check_access(struct scsi_task *task, const struct scsi_opcode *row)
{
	static const unsigned conflicts[] = {
		[ACCESS_NONE] = 0,
		[ACCESS_STATUS] = FENCE_RESERVED,
		[ACCESS_READ] = FENCE_RESERVED | FENCE_READ,
		[ACCESS_WRITE] = FENCE_RESERVED | FENCE_WRITE,
	};
	unsigned fence = reservation_fence(task->unit->handle), access = row->access;

	if (__builtin_expect(fence == 0, 1))
		return true;
	if (access == ACCESS_START)
		access = (task->cdb[4] & 0xf1) == CDB_START ? ACCESS_STATUS : ACCESS_WRITE;
	else if (access == ACCESS_PREVENT)
		access = task->cdb[4] & 1 ? ACCESS_WRITE : ACCESS_NONE;
	if (!(fence & conflicts[access]))
		return true;
	task->status = SCSI_RESERVATION_CONFLICT;
	return false;
}

/* What depends on the unit's state; cheap when nothing changed. */
static bool
check_unit(struct scsi_task *task, const struct scsi_opcode *row)
{
	struct scsi_unit *unit = task->unit;
	unsigned code;

	scsi_unit_refresh(unit);
	/* SPC-4 5.15: a capacity that changed is said by the next command, whatever it is. */
	if (!(row->flags & ROW_DATA) || blk_size(unit->handle) != unit->info.size ||
		blk_content(unit->handle) != unit->content)
		scsi_unit_look(unit);
	if (unit->threshold)
		scsi_unit_watch(unit);
	if (unit->attentions && !(row->flags & ROW_QUIET) &&
		(code = scsi_unit_attention(unit)) != 0)
		return scsi_fail_attention(task, code);
	if (task->nexus->limited && !scsi_alua_check(task, row))
		return false;
	if (!check_access(task, row))
		return false;
	if (blk_sealed(unit->handle) && !scsi_sanitize_allows(task, row))
		return false;
	if ((row->flags & ROW_MEDIUM) && (unit->settings & UNIT_EJECTED))
		return scsi_fail(task, KEY_NOT_READY, ASC_NO_MEDIUM);
	if ((row->flags & ROW_MEDIUM) && blk_gone(unit->handle))
		return scsi_fail(task, KEY_NOT_READY, ASC_NOT_READY);
	if ((row->flags & ROW_WRITES) && scsi_unit_read_only(unit))
		return scsi_fail(task, KEY_DATA_PROTECT,
			unit->info.read_only ? ASC_WRITE_PROTECTED : ASC_SOFTWARE_PROTECTED);
	return true;
}

/* The first task tells by which target port its nexus comes. */
static int
name_port(struct scsi_task *task)
{
	struct scsi_nexus *nexus = task->nexus;
	int rc = 0;

	if (nexus->port[0] || !scsi_nexus_port(nexus, task->portal_id, nexus->port))
		return 0;
	for (unsigned i = 0; i < nexus->nunits && rc == 0; i++)
		rc = scsi_unit_identify(nexus->units[i]);
	if (rc < 0)
		nexus->port[0] = '\0';
	return rc;
}

static bool
check_task(struct scsi_task *task)
{
	bool known;
	const struct scsi_opcode *row = find_row(task->cdb, &known);
	int rc = name_port(task);

	scsi_nexus_refresh(task->nexus);
	scsi_alua_refresh(task->nexus);
	if (rc == 0)
		rc = scsi_nexus_unit(task->nexus, task->lun, &task->unit);
	if (rc == -ENOMEM)
		return scsi_fail_busy(task);
	if (rc < 0 && !(row && (row->flags & ROW_ANY_LUN)))
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_NO_SUCH_LUN);
	if (!row)
		return known ? scsi_fail_cdb(task, 1)
			     : scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
	task->opcode = row;
	if (!check_usage(task, row) || (task->unit && !check_unit(task, row)))
		return false;
	if (!row->prepare(task))
		return false;
	if ((row->flags & ROW_EXACT) && task->out_expected > task->out_length)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
	return true;
}

bool
scsi_prepare(struct scsi_task *task)
{
	task->opcode = NULL;
	task->unit = NULL;
	task->in = (struct iobuf){0};
	task->in_length = task->in_max = task->out_length = 0;
	task->offset = task->length = task->verified = 0;
	task->status = SCSI_GOOD;
	task->sense_length = 0;
	task->step = task->pending = 0;
	task->scratch = NULL;
	if (task->cdb_length == 0 || task->cdb_length > sizeof(task->cdb)) {
		scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_CDB);
		return false;
	}
	if (!check_task(task)) {
		task->unit = NULL;
		task->out_length = task->in_max = 0;
		return false;
	}
	if (task->unit)
		task->unit->tasks++;
	return true;
}

static void
leave_unit(struct scsi_task *task)
{
	if (task->scratch)
		slab_free(scratch_cache, task->scratch);
	task->scratch = NULL;
	if (task->unit)
		scsi_nexus_leave(task->unit);
	task->unit = NULL;
}

void
scsi_forget(struct scsi_task *task)
{
	leave_unit(task);
}

void
scsi_execute(struct scsi_task *task)
{
	task->task = (struct loop_task){0};
	task->blk = (struct blk_request){0};
	task->pending = 1;
	task->cancelled = false;
	task->withdraw = NULL;
	/* It may have waited for data and for room; what is no request to the volume is looked at
	 * here alone. */
	if (task->unit && !check_access(task, task->opcode))
		scsi_finish(task);
	else
		task->opcode->execute(task);
}

void
scsi_cancel(struct scsi_task *task)
{
	task->cancelled = true;
	if (task->withdraw)
		task->withdraw(task);
	else
		blk_cancel(&task->blk);
}

void
scsi_abandon(struct scsi_task *task)
{
	scsi_cancel(task);
	blk_abandon(&task->blk);
}

bool
scsi_restricted(const struct scsi_task *task)
{
	return task->unit && (task->unit->settings & UNIT_RESTRICTED);
}

bool
scsi_running(const struct scsi_task *task)
{
	return task->pending != 0;
}

void
scsi_complete(struct scsi_task *task)
{
	leave_unit(task);
	task->pending = 0;
	task->done(task);
}

static void
run_finish(struct loop_task *loop_task)
{
	scsi_complete(container_of(loop_task, struct scsi_task, task));
}

void
scsi_finish(struct scsi_task *task)
{
	task->task.run = run_finish;
	loop_defer(loop_current(), &task->task);
}

void
scsi_data_in(struct scsi_task *task, const void *data, size_t length, uint64_t allocated)
{
	size_t n = (size_t)min_u64(length, allocated);

	if (n == 0)
		return;
	if (iobuf_take(&task->in, n) < 0) {
		scsi_fail_busy(task);
		return;
	}
	iov_from(task->in.iov, task->in.niov, 0, data, n);
	task->in_length = n;
}

bool
scsi_scratch(struct scsi_task *task)
{
	task->scratch = slab_alloc(scratch_cache);
	return task->scratch ? true : scsi_fail_busy(task);
}
