/*
 * What the files of EXTENDED COPY share: a copy, from its parameter list to what RECEIVE COPY
 * RESULTS tells of it. SPC-4 5.17. All of it is on the loop of the nexus that asked.
 */
#ifndef SLABD_SCSI_COPY_H
#define SLABD_SCSI_COPY_H

#include "scsi/scsi_internal.h"

#define COPY_HEADER_LID1 16
#define COPY_HEADER_LID4 48
#define COPY_CSCD        32 /* bytes of a CSCD descriptor */
#define COPY_LIST        (COPY_HEADER_LID4 + LIMIT_SCSI_COPY_LIST)
#define COPY_SELF        0xffff /* CSCD descriptor ID: the unit that was sent the command */

enum {
	CSCD_IDENTIFICATION = 0xe4,
	SEGMENT_BLOCK_TO_BLOCK = 0x02,
	SEGMENT_WITH_OFFSET = 0x0a,
};

enum copy_state { COPY_RUNNING, COPY_DONE, COPY_FAILED, COPY_ABORTED };

/* A copy source or destination. */
struct copy_target {
	struct scsi_unit *unit; /* held like by a task; NULL: there is none ... */
	uint16_t code;          /* ... because of this, ASC << 8 | ASCQ */
};

struct copy_segment {
	uint8_t type;
	bool destination_counts; /* DC: the count is of the destination's blocks */
	uint16_t source, destination;
	uint32_t count; /* of blocks; with offsets, of bytes */
	uint64_t source_lba, destination_lba;
	uint16_t source_skip, destination_skip; /* bytes */
};

_Static_assert(LIMIT_SCSI_COPY_SEGMENTS * sizeof(struct copy_segment) <= SCSI_BLOCK_MAX,
	"segments fit the scratch");

struct scsi_copy {
	struct scsi_copy *next; /* of those of its unit, newest first */
	struct scsi_task *task; /* while it runs */
	bool named;             /* has a list identifier */
	uint8_t action;         /* EXTENDED COPY's service action */
	uint32_t id;
	enum copy_state state;

	unsigned ntargets, nsegments;
	unsigned segment; /* segments that are done */
	struct copy_target targets[LIMIT_SCSI_COPY_TARGETS];
	struct copy_segment *segments; /* in the task's scratch */

	/* What is left of the segment: from the front, or, where source and destination overlap the
	 * wrong way, from the back. Bytes. */
	struct scsi_unit *from, *to;
	uint64_t from_offset, to_offset, length;
	bool backward;
	uint64_t piece_max; /* what either side takes at once */
	uint64_t data;      /* bytes of it, next in turn, that are known to hold data */
	uint64_t moved;     /* by all segments */
	struct blk_extent extent;

	uint8_t sense_length;
	uint8_t sense[LIMIT_SCSI_SENSE]; /* of a copy that failed */
};

/* scsi_copy_list.c: reads the parameter list. False: sense is set, nothing is held. */
bool copy_parse(struct scsi_task *task, struct scsi_copy *copy);
/* Lets go of what the copy holds. */
void copy_release(struct scsi_copy *copy);

/* scsi_copy.c: the copy of a unit with that list identifier, or NULL. */
struct scsi_copy *copy_find(const struct scsi_unit *unit, uint32_t id);

#endif
