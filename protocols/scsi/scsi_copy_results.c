/*
 * RECEIVE COPY RESULTS, and the Third-party Copy page: how copies went, and what can be copied.
 * SPC-4
 */
#include "config.h"

#include "scsi/scsi_copy.h"

#include "check.h"

#define STATUS_LID4 32
#define DETAILS     60

static const uint8_t descriptor_types[] = {
	SEGMENT_BLOCK_TO_BLOCK, SEGMENT_WITH_OFFSET, CSCD_IDENTIFICATION};

/* COPY MANAGER STATUS (SPC-4 6.18.2), COPY OPERATION STATUS (6.24) */
static const uint8_t states_lid1[] = {
	[COPY_RUNNING] = 0x00, [COPY_DONE] = 0x01, [COPY_FAILED] = 0x02, [COPY_ABORTED] = 0x02};
static const uint8_t states_lid4[] = {
	[COPY_RUNNING] = 0x11, [COPY_DONE] = 0x01, [COPY_FAILED] = 0x02, [COPY_ABORTED] = 0x60};

static uint32_t
list_id(const struct scsi_task *task)
{
	return task->opcode->action == SA_COPY_STATUS_LID4 ? get_be32(task->cdb + 2) : task->cdb[2];
}

static uint32_t
allocation(const struct scsi_task *task)
{
	return get_be32(task->cdb + 10);
}

bool
prepare_copy_results(struct scsi_task *task)
{
	const struct scsi_copy *copy;

	task->in_max = min_u64(allocation(task), SCSI_PAGE_MAX);
	if (task->opcode->action == SA_COPY_PARAMETERS)
		return true;
	copy = copy_find(task->unit, list_id(task));
	if (!copy || (task->opcode->action == SA_COPY_FAILED_SEGMENT && copy->task))
		return scsi_fail_cdb(task, 2);
	return true;
}

/* Bytes in units of 1024^n that fit the field; returns n, TRANSFER COUNT UNITS. */
static uint8_t
scale(uint64_t *bytes, uint64_t max)
{
	uint8_t n = 0;

	for (; *bytes > max; n++)
		*bytes >>= 10;
	return n;
}

static uint16_t
segments_done(const struct scsi_copy *copy)
{
	return (uint16_t)copy->segment;
}

static void
put_status_lid1(const struct scsi_copy *copy, struct writer *w)
{
	uint64_t moved = copy->moved;
	uint8_t units = scale(&moved, UINT32_MAX);

	writer_u8(w, states_lid1[copy->state]); /* HDD: no data is held */
	writer_be16(w, segments_done(copy));
	writer_u8(w, units);
	writer_be32(w, (uint32_t)moved);
}

static void
put_status_lid4(const struct scsi_copy *copy, struct writer *w)
{
	uint64_t moved = copy->moved;
	uint8_t units = scale(&moved, UINT64_MAX);

	writer_u8(w, copy->action); /* RESPONSE TO SERVICE ACTION */
	writer_u8(w, states_lid4[copy->state]);
	writer_be16(w, 0);
	writer_be32(w, UINT32_MAX); /* ESTIMATED STATUS UPDATE DELAY: not told */
	writer_u8(w, copy->sense_length ? SCSI_CHECK_CONDITION : SCSI_GOOD);
	writer_u8(w, copy->sense_length);
	writer_u8(w, copy->sense_length);
	writer_u8(w, units);
	writer_be64(w, moved);
	writer_be16(w, segments_done(copy));
	writer_zero(w, 6);
	writer_bytes(w, copy->sense, copy->sense_length);
}

static void
put_failed_segment(const struct scsi_copy *copy, struct writer *w)
{
	writer_zero(w, 52);
	writer_u8(w, copy->sense_length ? SCSI_CHECK_CONDITION : SCSI_GOOD);
	writer_u8(w, 0);
	writer_be16(w, copy->sense_length);
	writer_bytes(w, copy->sense, copy->sense_length);
}
_Static_assert(DETAILS + LIMIT_SCSI_SENSE <= SCSI_PAGE_MAX, "a failure's details fit a page");

static void
put_parameters(struct writer *w)
{
	writer_be32(w, 1 << 24); /* SNLID: a list identifier is not needed */
	writer_be16(w, LIMIT_SCSI_COPY_TARGETS);
	writer_be16(w, LIMIT_SCSI_COPY_SEGMENTS);
	writer_be32(w, LIMIT_SCSI_COPY_LIST);
	writer_be32(w, LIMIT_SCSI_COPY_SEGMENT);
	writer_zero(w, 14); /* no inline data, no held data, no streams */
	writer_be16(w, LIMIT_SCSI_COPIES);
	writer_u8(w, LIMIT_SCSI_COPIES);
	writer_zero(w, 6); /* granularities: a byte */
	writer_u8(w, sizeof(descriptor_types));
	writer_bytes(w, descriptor_types, sizeof(descriptor_types));
}

void
execute_copy_results(struct scsi_task *task)
{
	const struct scsi_copy *copy = copy_find(task->unit, list_id(task));
	uint8_t page[SCSI_PAGE_MAX];
	struct writer w = writer_of(page, sizeof(page));

	if (!copy && task->opcode->action != SA_COPY_PARAMETERS) { /* it has given way meanwhile */
		scsi_fail_cdb(task, 2);
		scsi_finish(task);
		return;
	}
	writer_be32(&w, 0);
	switch (task->opcode->action) {
	case SA_COPY_PARAMETERS:
		put_parameters(&w);
		break;
	case SA_COPY_STATUS_LID1:
		put_status_lid1(copy, &w);
		break;
	case SA_COPY_STATUS_LID4:
		put_status_lid4(copy, &w);
		break;
	case SA_COPY_FAILED_SEGMENT:
		put_failed_segment(copy, &w);
		break;
	default: /* SA_COPY_DATA: no data is held */
		break;
	}
	CHECK(!w.bad);
	put_be32(page, (uint32_t)w.length - 4);
	scsi_data_in(task, page, w.length, allocation(task));
	scsi_finish(task);
}

/* The Third-party Copy page: descriptors of type, length, content. SPC-4 7.8.17 */

static size_t
start_descriptor(struct writer *w, uint16_t type)
{
	writer_be16(w, type);
	writer_be16(w, 0);
	return w->length;
}

/* Padded to a multiple of 4. */
static void
end_descriptor(struct writer *w, size_t start)
{
	writer_zero(w, -(w->length - start) & 3);
	if (!w->bad)
		put_be16(w->start + start - 2, (uint16_t)(w->length - start));
}

/* The service actions of an opcode, from the table. */
static void
put_actions(struct writer *w, uint8_t opcode)
{
	size_t start;

	writer_u8(w, opcode);
	writer_u8(w, 0);
	start = w->length;
	for (unsigned i = 0; i < scsi_opcodes_count; i++) {
		if (scsi_opcodes[i].opcode == opcode)
			writer_u8(w, scsi_opcodes[i].action);
	}
	if (!w->bad)
		w->start[start - 1] = (uint8_t)(w->length - start);
}

static void
put_commands(struct writer *w)
{
	size_t start = start_descriptor(w, 0x0001);

	writer_u8(w, 0);
	put_actions(w, OP_EXTENDED_COPY);
	put_actions(w, OP_COPY_RESULTS);
	if (!w->bad)
		w->start[start] = (uint8_t)(w->length - start - 1);
	end_descriptor(w, start);
}

void
scsi_put_third_party_copy(const struct scsi_task *task, struct writer *w)
{
	size_t start;

	(void)task;
	put_commands(w);
	start = start_descriptor(w, 0x0004); /* parameter data */
	writer_be32(w, 0);
	writer_be16(w, LIMIT_SCSI_COPY_TARGETS);
	writer_be16(w, LIMIT_SCSI_COPY_SEGMENTS);
	writer_be32(w, LIMIT_SCSI_COPY_LIST);
	writer_zero(w, 16); /* no inline data */
	end_descriptor(w, start);
	start = start_descriptor(w, 0x0008); /* supported descriptors */
	writer_u8(w, sizeof(descriptor_types));
	writer_bytes(w, descriptor_types, sizeof(descriptor_types));
	end_descriptor(w, start);
	start = start_descriptor(w, 0x000c); /* supported CSCD descriptor IDs */
	writer_be16(w, 2);
	writer_be16(w, COPY_SELF);
	end_descriptor(w, start);
	start = start_descriptor(w, 0x8001); /* general copy operations */
	writer_be32(w, LIMIT_SCSI_COPIES);
	writer_be32(w, LIMIT_SCSI_COPIES);
	writer_be32(w, LIMIT_SCSI_COPY_SEGMENT);
	writer_zero(w, 20); /* granularities: a byte */
	end_descriptor(w, start);
}
