/* The parameter list of EXTENDED COPY: what is to be copied, and between which units. SPC-4 6.4 */
#include "config.h"

#include "scsi/scsi_copy.h"

#include <string.h>

#include "check.h"
#include "volume.h"

/* LIST ID USAGE, SPC-4 6.4.3.3 */
enum { USAGE_HOLD = 0, USAGE_RESERVED = 1, USAGE_DISCARD = 2, USAGE_NO_IDENTIFIER = 3 };

/* What the headers of both forms say. */
struct header {
	unsigned length;
	uint64_t cscds, segments; /* bytes of descriptors */
};

static bool
fail_length(struct scsi_task *task)
{
	return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
}

static bool
fail_code(struct scsi_task *task, unsigned code)
{
	return scsi_fail(task, KEY_ILLEGAL_REQUEST, code);
}

static bool
parse_usage(struct scsi_task *task, struct scsi_copy *copy, uint8_t flags, unsigned id_byte)
{
	unsigned usage = flags >> 3 & 3;

	if (usage == USAGE_RESERVED)
		return scsi_fail_list(task, 1);
	if (usage == USAGE_NO_IDENTIFIER && copy->id != 0)
		return scsi_fail_list(task, id_byte);
	copy->named = usage != USAGE_NO_IDENTIFIER;
	return true;
}

/* SPC-4 6.4.3.2. STR and PRIORITY say nothing about block devices in one process. */
static bool
parse_lid1(struct scsi_task *task, struct scsi_copy *copy, const uint8_t *list, struct header *h)
{
	copy->id = list[0];
	h->cscds = get_be16(list + 2);
	h->segments = get_be32(list + 8);
	if (get_be32(list + 4) != 0)
		return scsi_fail_list(task, 4);
	if (get_be32(list + 12) != 0)
		return fail_code(task, ASC_INLINE_DATA_LENGTH);
	return parse_usage(task, copy, list[1], 0);
}

/*
 * SPC-4 6.4.3.3; status comes when the copy is done (IMMED is 0), without sense data (G_SENSE is
 * 0).
 */
static bool
parse_lid4(struct scsi_task *task, struct scsi_copy *copy, const uint8_t *list, struct header *h)
{
	copy->id = get_be32(list + 20);
	h->cscds = get_be16(list + 42);
	h->segments = get_be16(list + 44);
	if (list[0] != 1) /* PARAMETER LIST FORMAT */
		return scsi_fail_list(task, 0);
	if (get_be16(list + 2) != 0x20)
		return scsi_fail_list(task, 2);
	if (list[15] != 0)
		return scsi_fail_list(task, 15);
	if (list[16] != 0xff)
		return scsi_fail_list(task, 16);
	if (get_be16(list + 46) != 0)
		return fail_code(task, ASC_INLINE_DATA_LENGTH);
	return parse_usage(task, copy, list[1], 20);
}

/* CSCD descriptors */

struct wanted {
	uint8_t type;
	uint64_t designator;
};

static bool
is_wanted(const uint8_t uuid[16], const void *arg)
{
	const struct wanted *wanted = arg;

	return wanted->designator ==
	       (wanted->type == DESIGNATOR_NAA ? scsi_naa(uuid) : scsi_eui_64(uuid));
}

/*
 * The unit that an identification descriptor names (SPC-4 6.4.5.2), among those that this nexus
 * sees: for it there are no others (promises R11). Returns 0 or what is wrong with it.
 */
static uint16_t
find_target(struct scsi_task *task, const uint8_t *d, struct scsi_unit **unit)
{
	struct wanted wanted = {.type = d[5] & 0x0f, .designator = get_be64(d + 8)};
	bool binary = (d[4] & 0x0f) == 1, of_unit = (d[5] & 0x30) == 0;

	if ((d[1] & 0x1f) != 0) /* a disk */
		return ASC_COPY_TARGET_TYPE;
	if (!binary || !of_unit || d[7] != 8 ||
		(wanted.type != DESIGNATOR_NAA && wanted.type != DESIGNATOR_EUI_64) ||
		scsi_nexus_find(task->nexus, is_wanted, &wanted, unit) < 0)
		return ASC_COPY_TARGET_UNREACHABLE;
	/* DISK BLOCK LENGTH */
	return get_be24(d + 29) == (*unit)->info.block_size ? 0 : ASC_COPY_TARGET_TYPE;
}

/* LU ID TYPE and the bit that was NUL are obsolete, and ignored. */
static bool
parse_cscds(struct scsi_task *task, struct scsi_copy *copy, const uint8_t *list, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += COPY_CSCD) {
		struct copy_target *target = &copy->targets[copy->ntargets];
		struct scsi_unit *unit = NULL;

		if (list[at] != CSCD_IDENTIFICATION)
			return fail_code(task, ASC_CSCD_TYPE);
		if (length - at < COPY_CSCD)
			return fail_length(task);
		if (copy->ntargets == LIMIT_SCSI_COPY_TARGETS)
			return fail_code(task, ASC_TOO_MANY_CSCDS);
		*target = (struct copy_target){.code = find_target(task, list + at, &unit)};
		if (target->code == 0) {
			target->unit = unit;
			unit->tasks++;
		}
		copy->ntargets++;
	}
	return true;
}

/* Segment descriptors */

/* SPC-4 6.4.6.4 and 6.4.6.12 */
static void
read_segment(struct copy_segment *segment, const uint8_t *d)
{
	bool skips = d[0] == SEGMENT_WITH_OFFSET;

	*segment = (struct copy_segment){.type = d[0],
		.destination_counts = d[1] & 0x02,
		.source = get_be16(d + 4),
		.destination = get_be16(d + 6),
		.count = skips ? get_be32(d + 8) : get_be16(d + 10),
		.source_lba = get_be64(d + 12),
		.destination_lba = get_be64(d + 20),
		.source_skip = skips ? get_be16(d + 28) : 0,
		.destination_skip = skips ? get_be16(d + 30) : 0};
}

/* `list` begins `start` bytes into the parameter list. */
static bool
parse_segments(struct scsi_task *task, struct scsi_copy *copy, const uint8_t *list, uint64_t length,
	unsigned start)
{
	uint64_t at = 0;

	while (at < length) {
		const uint8_t *d = list + at;
		unsigned size = d[0] == SEGMENT_WITH_OFFSET ? 32 : 28;

		if (d[0] != SEGMENT_BLOCK_TO_BLOCK && d[0] != SEGMENT_WITH_OFFSET)
			return fail_code(task, ASC_SEGMENT_TYPE);
		if (length - at < size)
			return fail_length(task);
		if (get_be16(d + 2) != size - 4)
			return scsi_fail_list(task, start + (unsigned)at + 2);
		if (copy->nsegments == LIMIT_SCSI_COPY_SEGMENTS)
			return fail_code(task, ASC_TOO_MANY_SEGMENTS);
		read_segment(&copy->segments[copy->nsegments++], d);
		if (d[0] == SEGMENT_WITH_OFFSET && get_be32(d + 8) > LIMIT_SCSI_COPY_SEGMENT)
			return scsi_fail_list(task, start + (unsigned)at + 8);
		at += size;
	}
	return true;
}

bool
copy_parse(struct scsi_task *task, struct scsi_copy *copy)
{
	bool lid4 = task->opcode->action == SA_EXTENDED_COPY_LID4, good;
	struct header h = {.length = lid4 ? COPY_HEADER_LID4 : COPY_HEADER_LID1};
	size_t length = min_size(task->out.length, COPY_LIST);
	uint8_t list[COPY_LIST];

	copy->ntargets = copy->nsegments = 0;
	if (length < h.length)
		return fail_length(task);
	iov_to(task->out.iov, task->out.niov, 0, list, length);
	if (!(lid4 ? parse_lid4(task, copy, list, &h) : parse_lid1(task, copy, list, &h)))
		return false;
	if (h.cscds + h.segments > length - h.length || h.cscds + h.segments > LIMIT_SCSI_COPY_LIST)
		return fail_length(task);
	good = parse_cscds(task, copy, list + h.length, h.cscds) &&
	       parse_segments(task, copy, list + h.length + h.cscds, h.segments,
		       h.length + (unsigned)h.cscds);
	if (!good)
		copy_release(copy);
	return good;
}

void
copy_release(struct scsi_copy *copy)
{
	for (unsigned i = 0; i < copy->ntargets; i++) {
		if (copy->targets[i].unit)
			scsi_nexus_leave(copy->targets[i].unit);
	}
	copy->ntargets = 0;
}
