/* Commands that tell what the disk is: INQUIRY, READ CAPACITY, REPORT LUNS, REQUEST SENSE and the
 * like. */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <string.h>

#include "check.h"
#include "conf.h"
#include "volume.h"

/* SPC-4, standard INQUIRY data: which standards are obeyed, no version of them claimed. */
static const uint16_t version_descriptors[] = {
	0x00a0, /* SAM-5 */
	0x0460, /* SPC-4 */
	0x04c0, /* SBC-3 */
	0x0960, /* iSCSI */
};

bool
prepare_nothing(struct scsi_task *task)
{
	(void)task;
	return true;
}

/* All that can be wrong has been checked by scsi_prepare(). */
void
execute_test_unit_ready(struct scsi_task *task)
{
	scsi_finish(task);
}

/* REQUEST SENSE (SPC-4) */

bool
prepare_request_sense(struct scsi_task *task)
{
	task->in_max = task->cdb[4];
	return true;
}

void
execute_request_sense(struct scsi_task *task)
{
	struct scsi_sense sense = {.key = KEY_NO_SENSE};
	struct scsi_unit *unit = task->unit;
	uint8_t data[LIMIT_SCSI_SENSE];
	unsigned code;

	if (!unit) {
		sense.key = KEY_ILLEGAL_REQUEST;
		sense.code = ASC_NO_SUCH_LUN;
	} else if ((code = scsi_unit_attention(unit))) {
		sense = scsi_attention_sense(code);
	} else if (blk_sealed(unit->handle)) {
		scsi_sanitize_sense(unit, &sense); /* SPC-4 5.6: polled for progress */
	} else if (unit->settings & UNIT_EJECTED) {
		sense.key = KEY_NOT_READY;
		sense.code = ASC_NO_MEDIUM;
	} else if ((unit->settings & UNIT_TEST) && (unit->settings & UNIT_DEXCPT_OFF)) {
		sense.code = ASC_FALSE_PREDICTION; /* SPC-4 7.5.11, TEST with MRIE 6h */
	}
	scsi_data_in(
		task, data, scsi_sense_build(&sense, task->cdb[1] & CDB_DESC, data), task->cdb[4]);
	scsi_finish(task);
}

/* INQUIRY (SPC-4) */

bool
prepare_inquiry(struct scsi_task *task)
{
	uint8_t page = task->cdb[2];

	if (!(task->cdb[1] & CDB_EVPD) && page != 0)
		return scsi_fail_cdb(task, 2);
	if ((task->cdb[1] & CDB_EVPD) && (!task->unit || !scsi_vpd_exists(page)))
		return scsi_fail_cdb(task, 2);
	task->in_max = min_u64(get_be16(task->cdb + 3), SCSI_INQUIRY_MAX);
	return true;
}

static void
put_standard_inquiry(const struct scsi_task *task, struct writer *w)
{
	const struct target *offered = task->nexus->offered;
	const struct scsi_unit *unit = task->unit;

	writer_u8(w, unit ? 0x00 : 0x7f); /* no such LUN: qualifier 011b, type 1Fh */
	writer_u8(w, unit && unit->conf->removable ? 0x80 : 0);
	writer_u8(w, 0x06); /* SPC-4 */
	/* HISUP, response data format 2; AERC, which later standards have no use for (SPC-2 7.3.2) */
	writer_u8(w, offered && offered->events ? 0x92 : 0x12);
	writer_u8(w, 96 - 5);
	writer_u8(w, 0x18); /* TPGS 01b: implicit asymmetric access; 3PC */
	writer_u8(w, task->nexus->nports > 1 ? 0x10 : 0); /* MULTIP */
	writer_u8(w, 0x02);                               /* CMDQUE */
	scsi_put_ascii(w, scsi_vendor(unit), 8);
	scsi_put_ascii(w, scsi_product(unit), 16);
	scsi_put_ascii(w, "0001", 4);
	writer_zero(w, 22);
	for (size_t i = 0; i < ARRAY_SIZE(version_descriptors); i++)
		writer_be16(w, version_descriptors[i]);
	writer_zero(w, 96 - w->length);
}

void
execute_inquiry(struct scsi_task *task)
{
	uint8_t page[SCSI_INQUIRY_MAX];
	struct writer w = writer_of(page, sizeof(page));

	if (task->cdb[1] & CDB_EVPD)
		scsi_vpd_page(task, task->cdb[2], &w);
	else
		put_standard_inquiry(task, &w);
	scsi_data_in(task, page, w.length, get_be16(task->cdb + 3));
	scsi_finish(task);
}

/* READ CAPACITY (SBC-3) */

/* A volume without a single block has no last one. */
static bool
check_capacity(struct scsi_task *task)
{
	if (scsi_unit_blocks(task->unit) == 0)
		return scsi_fail(task, KEY_NOT_READY, ASC_NOT_READY);
	return true;
}

bool
prepare_read_capacity_10(struct scsi_task *task)
{
	task->in_max = 8;
	return check_capacity(task);
}

void
execute_read_capacity_10(struct scsi_task *task)
{
	uint64_t last = scsi_unit_blocks(task->unit) - 1;
	uint8_t data[8];

	put_be32(data, (uint32_t)min_u64(last, UINT32_MAX));
	put_be32(data + 4, task->unit->info.block_size);
	scsi_data_in(task, data, sizeof(data), sizeof(data));
	scsi_finish(task);
}

bool
prepare_read_capacity_16(struct scsi_task *task)
{
	task->in_max = min_u64(get_be32(task->cdb + 10), 32);
	return check_capacity(task);
}

void
execute_read_capacity_16(struct scsi_task *task)
{
	const struct blk_info *info = &task->unit->info;
	unsigned exponent = (unsigned)__builtin_ctz(info->physical_block_size / info->block_size);
	uint8_t data[32] = {0};

	put_be64(data, scsi_unit_blocks(task->unit) - 1);
	put_be32(data + 8, info->block_size);
	data[13] = (uint8_t)(exponent & 0x0f);
	data[14] = (uint8_t)((task->unit->thin ? 0x80 : 0) |                 /* LBPME */
			     (task->unit->thin && info->sparse ? 0x40 : 0)); /* LBPRZ */
	scsi_data_in(task, data, sizeof(data), get_be32(task->cdb + 10));
	scsi_finish(task);
}

/* REPORT LUNS (SPC-4) */

/* SELECT REPORT */
enum {
	REPORT_PLAIN = 0x00,
	REPORT_WELL_KNOWN = 0x01, /* we have none */
	REPORT_EVERY = 0x02,
	REPORT_ADMINISTRATIVE = 0x10, /* nor such ones */
	REPORT_TOP = 0x11,            /* and none of ours is another's subsidiary */
};

bool
prepare_report_luns(struct scsi_task *task)
{
	const struct target *offered = task->nexus->offered;
	uint64_t all = 8 + 8 * (offered ? (uint64_t)offered->nluns : 0);

	switch (task->cdb[2]) {
	case REPORT_PLAIN:
	case REPORT_WELL_KNOWN:
	case REPORT_EVERY:
	case REPORT_ADMINISTRATIVE:
	case REPORT_TOP:
		break;
	default: /* 12h too: the one addressed is no administrative one */
		return scsi_fail_cdb(task, 2);
	}
	task->in_max = min_u64(get_be32(task->cdb + 6), all);
	return true;
}

/* The part that was asked for is written; the length is of all. That the LUNs have changed need not be
 * said any more (SPC-4 6.33). */
void
execute_report_luns(struct scsi_task *task)
{
	const struct scsi_nexus *nexus = task->nexus;
	const struct target *offered = nexus->offered;
	bool none = task->cdb[2] == REPORT_WELL_KNOWN || task->cdb[2] == REPORT_ADMINISTRATIVE;
	size_t nluns = none || !offered ? 0 : offered->nluns, listed = 0, room;
	uint8_t entry[8] = {0};

	room = (size_t)min_u64(task->in_max, 8 + 8 * (uint64_t)nluns);
	if (room > 0 && iobuf_take(&task->in, room) < 0) {
		scsi_fail_busy(task);
		scsi_finish(task);
		return;
	}
	for (unsigned i = 0; i < nexus->nunits; i++)
		nexus->units[i]->attentions &= ~(unsigned)ATTENTION_LUNS;
	for (size_t i = 0; i < nluns; i++) {
		size_t at = 8 + 8 * listed;

		if (volume_going(offered->luns[i].volume))
			continue;
		listed++;
		if (at >= room)
			continue;
		scsi_lun_write(entry, offered->luns[i].number);
		iov_from(task->in.iov, task->in.niov, at, entry, min_size(8, room - at));
	}
	memset(entry, 0, sizeof(entry));
	put_be32(entry, (uint32_t)(8 * listed));
	if (room > 0)
		iov_from(task->in.iov, task->in.niov, 0, entry, min_size(8, room));
	task->in_length = min_u64(room, 8 + 8 * (uint64_t)listed);
	scsi_finish(task);
}

/* REPORT SUPPORTED OPERATION CODES (SPC-4) */

enum { REPORT_ALL, REPORT_OPCODE, REPORT_ACTION, REPORT_EITHER }; /* REPORTING OPTIONS */

/* The row asked for; NULL: there is none. */
static const struct scsi_opcode *
find_reported(uint8_t opcode, uint16_t action, bool *known, bool *actions)
{
	const struct scsi_opcode *found = NULL;

	*known = *actions = false;
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		const struct scsi_opcode *row = &scsi_opcodes[i];

		if (row->opcode != opcode)
			continue;
		*known = true;
		*actions = row->flags & ROW_ACTION;
		if (!*actions || row->action == action)
			found = row;
	}
	return found;
}

bool
prepare_report_opcodes(struct scsi_task *task)
{
	unsigned option = task->cdb[2] & 7;
	bool known, actions;

	find_reported(task->cdb[3], get_be16(task->cdb + 4), &known, &actions);
	/* An option that does not fit the opcode's kind. */
	if (option > REPORT_EITHER || (known && option == REPORT_OPCODE && actions) ||
		(known && option == REPORT_ACTION && !actions))
		return scsi_fail_cdb(task, 2);
	task->in_max = min_u64(get_be32(task->cdb + 6), SCSI_PAGE_MAX);
	return true;
}

/*
 * Seconds after which an initiator may take a command for lost. What touches the medium has a freeze to wait for
 * (LIMIT_FREEZE_WAIT) and a disk that tries again; what goes over much of it has longer.
 */
static uint32_t
recommended_timeout(const struct scsi_opcode *row)
{
	switch (row->opcode) {
	case OP_SANITIZE:
		return 24 * 3600;
	case OP_EXTENDED_COPY:
	case OP_WRITE_SAME_10:
	case OP_WRITE_SAME_16:
	case OP_UNMAP:
	case OP_VERIFY_10:
	case OP_VERIFY_12:
	case OP_VERIFY_16:
	case OP_SYNCHRONIZE_CACHE_10:
	case OP_SYNCHRONIZE_CACHE_16:
		return 300;
	default:
		return row->flags & ROW_MEDIUM ? 60 : 30;
	}
}

/* SPC-4 6.35.4. The nominal time is not indicated: it is a disk's, whatever disk there is. */
static void
put_timeouts(struct writer *w, const struct scsi_opcode *row)
{
	writer_be16(w, 0x0a);
	writer_be16(w, 0);
	writer_be32(w, 0);
	writer_be32(w, recommended_timeout(row));
}
_Static_assert(LIMIT_FREEZE_WAIT < 30 * SECOND_NS, "a freeze fits the shortest timeout");

static void
put_all_opcodes(struct writer *w, bool timeouts)
{
	writer_zero(w, 4);
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		const struct scsi_opcode *row = &scsi_opcodes[i];

		writer_u8(w, row->opcode);
		writer_u8(w, 0);
		writer_be16(w, row->action);
		writer_u8(w, 0);
		writer_u8(w, (uint8_t)((timeouts ? 2 : 0) | (row->flags & ROW_ACTION ? 1 : 0)));
		writer_be16(w, row->length);
		if (timeouts)
			put_timeouts(w, row);
	}
	put_be32(w->start, (uint32_t)w->length - 4);
}

static void
put_one_opcode(struct writer *w, const struct scsi_opcode *row, bool timeouts)
{
	writer_u8(w, 0);
	if (!row) {
		writer_u8(w, 1); /* not supported */
		writer_be16(w, 0);
		return;
	}
	writer_u8(w, (uint8_t)((timeouts ? 0x80 : 0) | 3)); /* supported as the standard says */
	writer_be16(w, row->length);
	writer_u8(w, row->opcode);
	writer_bytes(w, row->usage, row->length - 1u);
	if (timeouts)
		put_timeouts(w, row);
}

void
execute_report_opcodes(struct scsi_task *task)
{
	const uint8_t *cdb = task->cdb;
	bool timeouts = cdb[2] & CDB_RCTD, known, actions;
	uint8_t page[SCSI_PAGE_MAX];
	struct writer w = writer_of(page, sizeof(page));
	const struct scsi_opcode *row = find_reported(cdb[3], get_be16(cdb + 4), &known, &actions);

	if ((cdb[2] & 7) == REPORT_EITHER && known && !actions && get_be16(cdb + 4) != 0)
		row = NULL;
	if ((cdb[2] & 7) == REPORT_ALL)
		put_all_opcodes(&w, timeouts);
	else
		put_one_opcode(&w, row, timeouts);
	CHECK(!w.bad);
	scsi_data_in(task, page, w.length, get_be32(cdb + 6));
	scsi_finish(task);
}
