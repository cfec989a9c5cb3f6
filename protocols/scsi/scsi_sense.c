/* Status and sense data: how a command says that it failed. SPC-4 4.5 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "check.h"
#include "log.h"
#include "loop.h"
#include "volume.h"

/* SPC-4 4.5.3. The INFORMATION field has 32 bits: what does not fit is not valid. */
static uint8_t
build_fixed(const struct scsi_sense *sense, uint8_t *to)
{
	memset(to, 0, SCSI_FIXED_SENSE);
	to[0] = 0x70;
	if (sense->has_information && sense->information <= UINT32_MAX) {
		to[0] |= 0x80; /* VALID */
		put_be32(to + 3, (uint32_t)sense->information);
	}
	to[2] = sense->key;
	to[7] = SCSI_FIXED_SENSE - 8;
	if (sense->has_specific)
		put_be32(to + 8, sense->specific);
	put_be16(to + 12, sense->code);
	if (sense->has_field) {
		to[15] = (uint8_t)(0x80 | (sense->field_in_cdb ? 0x40 : 0)); /* SKSV, C/D */
		put_be16(to + 16, sense->field);
	} else if (sense->has_progress) {
		to[15] = 0x80; /* SKSV */
		put_be16(to + 16, sense->field);
	}
	return SCSI_FIXED_SENSE;
}

#define SENSE_DESCRIPTORS (8 + 12 + 12 + 8) /* header, and the longest of each descriptor */

/* SPC-4 4.5.2 */
static uint8_t
build_descriptor(const struct scsi_sense *sense, uint8_t *to)
{
	uint8_t *p = to + 8;

	memset(to, 0, SENSE_DESCRIPTORS);
	to[0] = 0x72;
	to[1] = sense->key;
	put_be16(to + 2, sense->code);
	if (sense->has_information) {
		p[0] = 0x00; /* information descriptor, 4.5.2.2 */
		p[1] = 0x0a;
		p[2] = 0x80; /* VALID */
		put_be64(p + 4, sense->information);
		p += 12;
	}
	if (sense->has_specific) {
		p[0] = 0x01; /* command specific information, 4.5.2.3 */
		p[1] = 0x0a;
		put_be64(p + 4, sense->specific);
		p += 12;
	}
	if (sense->has_field || sense->has_progress) {
		p[0] = 0x02; /* sense key specific, 4.5.2.4 */
		p[1] = 0x06;
		p[4] = (uint8_t)(0x80 | (sense->field_in_cdb ? 0x40 : 0));
		put_be16(p + 5, sense->field);
		p += 8;
	}
	to[7] = (uint8_t)(p - to - 8);
	return (uint8_t)(p - to);
}
_Static_assert(LIMIT_SCSI_SENSE >= SENSE_DESCRIPTORS, "sense data as we build it");

uint8_t
scsi_sense_build(const struct scsi_sense *sense, bool descriptor, uint8_t *to)
{
	return descriptor ? build_descriptor(sense, to) : build_fixed(sense, to);
}

void
scsi_fail_with(struct scsi_task *task, const struct scsi_sense *sense)
{
	bool descriptor = task->unit && (task->unit->settings & UNIT_D_SENSE);

	task->status = SCSI_CHECK_CONDITION;
	task->in_length = 0;
	task->sense_length = scsi_sense_build(sense, descriptor, task->sense);
}

bool
scsi_fail(struct scsi_task *task, uint8_t key, unsigned code)
{
	scsi_fail_with(task, &(struct scsi_sense){.key = key, .code = (uint16_t)code});
	return false;
}

void
scsi_check_condition(struct scsi_task *task, uint8_t key, uint8_t asc, uint8_t ascq)
{
	scsi_fail(task, key, (unsigned)asc << 8 | ascq);
}

struct scsi_sense
scsi_attention_sense(unsigned code)
{
	/* SBC-3 4.7.3.7.6: which threshold, by the place of its descriptor in the mode page. */
	return (struct scsi_sense){.key = KEY_UNIT_ATTENTION,
		.code = (uint16_t)code,
		.has_information = code == ASC_THRESHOLD,
		.information = SCSI_THRESHOLD_OFFSET};
}

bool
scsi_fail_attention(struct scsi_task *task, unsigned code)
{
	struct scsi_sense sense = scsi_attention_sense(code);

	scsi_fail_with(task, &sense);
	return false;
}

bool
scsi_fail_cdb(struct scsi_task *task, unsigned byte)
{
	scsi_fail_with(task, &(struct scsi_sense){.key = KEY_ILLEGAL_REQUEST,
				     .code = ASC_INVALID_FIELD_CDB,
				     .has_field = true,
				     .field_in_cdb = true,
				     .field = (uint16_t)byte});
	return false;
}

bool
scsi_fail_list(struct scsi_task *task, unsigned byte)
{
	scsi_fail_with(task, &(struct scsi_sense){.key = KEY_ILLEGAL_REQUEST,
				     .code = ASC_INVALID_FIELD_LIST,
				     .has_field = true,
				     .field = (uint16_t)byte});
	return false;
}

/* Passing: the initiator tries again. SAM-5 5.3.1 */
bool
scsi_fail_busy(struct scsi_task *task)
{
	task->status = SCSI_BUSY;
	task->in_length = 0;
	task->sense_length = 0;
	return false;
}

/*
 * One line a second for each unit and nexus, so that a peer that tries again and again does not
 * fill the log.
 */
static void
log_failure(const struct scsi_task *task, int rc)
{
	const struct blk_request *blk = &task->blk;
	struct scsi_unit *unit = task->unit;
	uint64_t now = loop_now(loop_current());

	if (unit->logged && now - unit->logged < SECOND_NS) {
		unit->unlogged++;
		return;
	}
	log_warn("%s: volume %s: %s: %s of %" PRIu64 " bytes at %" PRIu64
		 " failed: %s (%u more not shown)",
		blk_name(unit->handle), volume_name(blk_volume(unit->handle)), task->opcode->name,
		blk_op_name(blk->op), blk->length, blk->offset, strerror(-rc), unit->unlogged);
	unit->logged = now;
	unit->unlogged = 0;
}

static bool
is_write(enum blk_op op)
{
	return op != BLK_READ && op != BLK_EXTENTS && op != BLK_PREFETCH;
}

/* design section 3, the table of errors. */
void
scsi_fail_errno(struct scsi_task *task, int rc)
{
	struct scsi_sense sense;

	if (rc == -EILSEQ) {
		/* SBC-3, COMPARE AND WRITE: INFORMATION is the offset of the first byte that
		 * differs. */
		scsi_fail_with(task, &(struct scsi_sense){.key = KEY_MISCOMPARE,
					     .code = ASC_MISCOMPARE,
					     .has_information = true,
					     .information = task->blk.mismatch});
		return;
	}
	if (rc != -ETIMEDOUT || !task->cancelled) /* nobody wanted it any more */
		log_failure(task, rc);
	switch (rc) {
	case -EIO:
		scsi_fail(task, KEY_MEDIUM_ERROR,
			is_write(task->blk.op) ? ASC_WRITE_ERROR : ASC_READ_ERROR);
		break;
	case -ENOSPC:
		scsi_fail(task, KEY_DATA_PROTECT, ASC_SPACE_FAILED);
		break;
	case -EROFS:
		scsi_fail(task, KEY_DATA_PROTECT, ASC_WRITE_PROTECTED);
		break;
	case -EPERM:
		task->status = SCSI_RESERVATION_CONFLICT;
		task->in_length = 0;
		task->sense_length = 0;
		break;
	case -ENOMEM:
		scsi_fail_busy(task);
		break;
	case -ERANGE:
		scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_OUT_OF_RANGE);
		break;
	case -ENODEV:
		scsi_sanitize_sense(task->unit, &sense);
		if (sense.key != KEY_NO_SENSE)
			scsi_fail_with(task, &sense);
		else
			scsi_fail(task, KEY_NOT_READY, ASC_NOT_READY);
		break;
	case -ESHUTDOWN:
		scsi_fail(task, KEY_NOT_READY, ASC_OFFLINE);
		break;
	case -ETIMEDOUT:
		scsi_fail(task, KEY_ABORTED_COMMAND, ASC_COMMAND_TIMEOUT);
		break;
	default:
		scsi_fail(task, KEY_HARDWARE_ERROR, ASC_INTERNAL_FAILURE);
		break;
	}
}
