/*
 * A SCSI disk without a network: CDB and data in; data, status and sense out. Knows no transport.
 * SPC-4, SBC-3, SAM-5.
 *
 * The way of a command: the transport fills a task and calls scsi_prepare(), which checks the CDB
 * against the opcode table and says how many bytes go which way; the transport collects the
 * data-out; then scsi_execute(), and done() on the nexus' loop with status, sense and data-in.
 */
#ifndef SLABD_SCSI_H
#define SLABD_SCSI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"
#include "iobuf.h"
#include "limits.h"
#include "log.h"

struct catalogue;
struct loop;
struct target;
struct volume;

/* SAM-5 5.3.1 */
enum scsi_status {
	SCSI_GOOD = 0x00,
	SCSI_CHECK_CONDITION = 0x02,
	SCSI_CONDITION_MET = 0x04,
	SCSI_BUSY = 0x08,
	SCSI_RESERVATION_CONFLICT = 0x18,
	SCSI_TASK_SET_FULL = 0x28,
	SCSI_ACA_ACTIVE = 0x30,
	SCSI_TASK_ABORTED = 0x40,
};

struct scsi_opcode; /* a row of the table */
struct scsi_unit;   /* a LUN as one nexus sees it */
struct scsi_copy;   /* an EXTENDED COPY */
union scsi_scratch; /* vectors and lists of a command that needs its own */

struct scsi_task {
	/* The transport's, set before scsi_prepare(). */
	struct scsi_nexus *nexus;
	uint8_t lun[8]; /* SAM-5 4.7 */
	uint8_t cdb[LIMIT_SCSI_CDB];
	unsigned cdb_length;
	uint16_t portal_id;    /* relative target port identifier the command came by */
	uint64_t out_expected; /* bytes of data-out that the initiator announced */
	void (*done)(struct scsi_task *task); /* the nexus' loop; never inside scsi_execute() */
	struct iobuf out; /* data-out: out_length bytes, or fewer where the initiator sends less;
			   * pieces are the transport's to fill and to free after done() */

	/* Set by scsi_prepare(). */
	uint64_t out_length; /* what the CDB takes; the transport hands in min(this, expected) */
	uint64_t in_max; /* the most data-in it can give; reserve so much before scsi_execute() */

	/* Set when done() is called. */
	struct iobuf in;    /* the transport's to free */
	uint64_t in_length; /* bytes of `in` that are valid, all written for this task */
	uint8_t status;
	uint8_t sense_length;
	uint8_t sense[LIMIT_SCSI_SENSE];

	/* The SCSI layer's while it runs. */
	const struct scsi_opcode *opcode;
	struct scsi_unit *unit;
	struct blk_request blk;
	struct loop_task task;
	uint64_t offset, length; /* bytes of the volume */
	uint64_t verified;       /* bytes of them that were looked at */
	struct iovec piece;
	bool cancelled; /* no further block request of it is begun */
	/* Of one that waits for what is no block request of its own: scsi_finish() for it. */
	void (*withdraw)(struct scsi_task *task);
	struct scsi_copy *copy; /* EXTENDED COPY */
	unsigned step;  /* within a command of several block requests */
	unsigned pending;
	union scsi_scratch *scratch;
};

/* Caches; before the loops start. 0 or -ENOMEM. */
int scsi_start(void);
void scsi_stop(void);

/*
 * An I_T nexus: one initiator port's view of one target; for iSCSI a session. On the calling
 * thread's loop. `initiator` (copied) names the initiator port ("iqn.…,i,0x00023d000001"). The
 * target's LUN map is copied and each volume held by itself: the catalogue must be good during the
 * call only, so that a session does not keep a removed volume alive. A new nexus has a POWER ON
 * unit attention pending on each LUN. NULL: no memory.
 */
struct scsi_nexus *scsi_nexus_new(
	const struct catalogue *catalogue, const struct target *target, const char *initiator);
/* No task may be in it. */
void scsi_nexus_free(struct scsi_nexus *nexus);

/* The volume is being removed: LUNs on it become LOGICAL UNIT NOT SUPPORTED once their tasks are
 * done. Returns true when no LUN is left. */
bool scsi_nexus_drop_volume(struct scsi_nexus *nexus, struct volume *volume);

/*
 * Asynchronous event reporting, where the target is to do it (struct target, `events`): the LUN and the
 * sense data of a unit attention that came since the last call, which stays pending for the next command.
 * False: there is none. The nexus' loop, now and then.
 */
bool scsi_nexus_event(struct scsi_nexus *nexus, uint8_t lun[8], uint8_t sense[LIMIT_SCSI_SENSE],
	uint8_t *sense_length);

/* Volume names of this nexus' open LUNs, for people: "disk0" or "disk0:0 web:1". */
void scsi_nexus_describe(const struct scsi_nexus *nexus, char *text, size_t size);

/*
 * Checks LUN, opcode, CDB bits, unit attentions and ranges. True: go on (out_length and in_max are
 * set). False: the task is over, status and sense are set, done() is not called; the transport
 * drains what the initiator sends anyway. A task that was prepared must be executed or given to
 * scsi_forget().
 */
bool scsi_prepare(struct scsi_task *task);

/* Runs a prepared task; `out` holds the data. done() follows in a later phase of the loop. */
void scsi_execute(struct scsi_task *task);

/* A prepared task that will not be executed (aborted before its data arrived). */
void scsi_forget(struct scsi_task *task);

/* True from scsi_execute() to done(), when the task has requests in the block layer. */
bool scsi_running(const struct scsi_task *task);

/*
 * A task from scsi_execute() to done() is not wanted any more: what of it has not reached the disk does not
 * (B10 of block.h), and no further step is begun. done() follows as ever, with whatever status; a write that
 * cannot be taken back ends as it does. Harmless when it is called again. The nexus' loop.
 */
void scsi_cancel(struct scsi_task *task);

/* scsi_cancel() where the nexus is lost: what of it still may land is waited for by whoever comes to the same
 * blocks later (blk_abandon()). */
void scsi_abandon(struct scsi_task *task);

/* Operations that belong to no nexus (SANITIZE) and run on a loop: how many; and that they end before their
 * next step. The loop. */
unsigned scsi_background(const struct loop *loop);
void scsi_drain(const struct loop *loop);

/* A prepared task's unit wants SIMPLE tasks in their order: QUEUE ALGORITHM MODIFIER 0h of the control
 * mode page (SPC-4 7.5.8). Ordering them is the transport's. */
bool scsi_restricted(const struct scsi_task *task);

/* Task management. LUN -> true if this nexus has it. */
bool scsi_lun_exists(struct scsi_nexus *nexus, const uint8_t lun[8]);
/* Both name one LUN, whichever addressing method each uses (SAM-5 4.7). */
bool scsi_lun_same(const uint8_t a[8], const uint8_t b[8]);
/* LOGICAL UNIT RESET: unit attention 29/03 for every nexus of the unit; tasks are the
 * transport's, and scsi_abort_others() asks for those of other nexuses. */
void scsi_lun_reset(struct scsi_nexus *nexus, const uint8_t lun[8]);
/* The same for every LUN of the nexus. */
void scsi_target_reset(struct scsi_nexus *nexus);

/*
 * Tasks that another nexus ends (SAM-5 5.6): by LOGICAL UNIT RESET, TARGET RESET and PREEMPT AND
 * ABORT. The asker calls scsi_abort_others(); each other nexus of the unit, on its own loop and
 * behind whatever target, is told by the function its transport has attached; when all have ended
 * their tasks, or LIMIT_SCSI_ABORT after the asking, done() is called.
 */
struct scsi_abort {
	/* The asker's loop; once, never from inside the call that asks. complete: no task that was
	 * asked about can have an effect any more. False: some go on, or there was no memory. */
	void (*done)(struct scsi_abort *abort, bool complete);
	bool reset; /* the unit attention of a reset tells the others, not COMMANDS CLEARED */
	struct scsi_abort_run *run; /* the SCSI layer's; NULL: not under way */
};

struct scsi_abort_part; /* of one nexus in it */

/*
 * The transport's: ends the nexus' tasks of the unit (task->unit) that are delivered and have no
 * status yet; returns how many. `tas`: each of them gets status TASK ABORTED as its initiator's
 * answer; else none, and the SCSI layer raises COMMANDS CLEARED BY ANOTHER INITIATOR. When none of
 * them can have an effect any more, scsi_abort_ended(part, true), also from inside; false when they
 * go on after all. On the nexus' loop. It must be called before the nexus is freed.
 */
typedef unsigned scsi_abort_fn(
	void *owner, const struct scsi_unit *unit, bool tas, struct scsi_abort_part *part);
/* Before the nexus' first task. */
void scsi_nexus_attach(struct scsi_nexus *nexus, scsi_abort_fn *abort, void *owner);
void scsi_abort_ended(struct scsi_abort_part *part, bool complete);

/* Asks for one LUN, or all of the nexus (NULL). Before the unit is reset: TAS is a mode page's. 0, or
 * -ENXIO, -ENOMEM: nothing was begun, and done() does not follow. */
int scsi_abort_others(struct scsi_nexus *nexus, const uint8_t *lun, struct scsi_abort *abort);
/* The asker does not want to hear of it; harmless when nothing is under way. */
void scsi_abort_forget(struct scsi_abort *abort);

/* Commands of this LUN were terminated by an event of the transport, and others of the nexus go on:
 * unit attention 47/7F (RFC 7143 11.14.5). */
void scsi_lun_cleared(struct scsi_nexus *nexus, const uint8_t lun[8]);

/* Sense for a task the transport fails itself: key, ASC, ASCQ (fixed format or the unit's D_SENSE).
 * The task has been through scsi_prepare() or is zeroed. */
void scsi_check_condition(struct scsi_task *task, uint8_t key, uint8_t asc, uint8_t ascq);

#endif
