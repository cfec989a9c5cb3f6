/*
 * What the files of protocols/scsi share: the logical unit, a nexus' view of it, and the row of the
 * opcode table.
 */
#ifndef SLABD_SCSI_INTERNAL_H
#define SLABD_SCSI_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "alua.h"
#include "block.h"
#include "bytes.h"
#include "catalogue.h"
#include "limits.h"
#include "reservation.h"
#include "scsi/scsi.h"
#include "scsi/scsi_wire.h"

/* The logical unit (scsi_unit.c) */

/* What initiators may switch; all off when a unit is new. */
enum {
	UNIT_WCE_OFF = 1, /* caching page: every write is durable before GOOD */
	UNIT_D_SENSE = 2, /* control page: descriptor format sense */
	UNIT_SWP = 4,     /* control page: software write protect */
	UNIT_EJECTED = 8, /* START STOP UNIT took the medium out */
	UNIT_TAS = 16,    /* control page: a task that another nexus aborts says so */
	UNIT_LBPERE_OFF = 32, /* recovery page: no attention when the soft threshold is passed */
	UNIT_DEXCPT_OFF = 64, /* exceptions page: REQUEST SENSE tells them */
	UNIT_TEST = 128,      /* ... and there is one, to try it */
	UNIT_RESTRICTED = 1024, /* control page: SIMPLE tasks run in their order */
	UNIT_SANITIZE_RESTRICTED = 256, /* a SANITIZE failed that had not set AUSE */
	UNIT_MODE_PAGES = UNIT_WCE_OFF | UNIT_D_SENSE | UNIT_SWP | UNIT_TAS | UNIT_LBPERE_OFF |
			  UNIT_DEXCPT_OFF | UNIT_TEST | UNIT_RESTRICTED,
};

/* Unit attentions, in the order they are reported. SAM-5 5.14 */
enum {
	ATTENTION_POWER_ON = 1,
	ATTENTION_RESET = 2,
	ATTENTION_MEDIUM = 4,
	ATTENTION_MODE = 8,
	ATTENTION_CAPACITY = 16,
	ATTENTION_RESERVATIONS_PREEMPTED = 32,
	ATTENTION_RESERVATIONS_RELEASED = 64,
	ATTENTION_REGISTRATIONS_PREEMPTED = 128,
	ATTENTION_THRESHOLD = 256,
	ATTENTION_CLEARED = 512, /* the transport terminated commands */
	ATTENTION_LUNS = 1024,
	ATTENTION_OTHER_CLEARED = 2048, /* another nexus terminated commands */
	ATTENTION_ALUA = 4096,
	ATTENTION_NEXUS_LOSS = 8192,
};

/*
 * What all nexuses of one volume share, on whichever loops they are. Known by the volume's uuid, so
 * that it is one logical unit through every target and LUN number. Lock order: the list's lock,
 * then the unit's. The data path takes neither: it compares `generation` with the one it saw last.
 */
struct scsi_lu {
	TAILQ_ENTRY(scsi_lu) link; /* the list's lock, as are the next two */
	uint8_t uuid[16];
	unsigned references;

	pthread_mutex_t lock;
	TAILQ_HEAD(, scsi_unit) units;
	unsigned settings; /* UNIT_* */
	unsigned prevents; /* units that prevent medium removal */
	struct scsi_sanitize *sanitize; /* that runs */

	/* For the log pages; any nexus' loop. */
	_Atomic uint64_t verified, verify_failures; /* bytes; VERIFYs that the medium failed */
	_Atomic uint32_t starts, loads;

	_Atomic uint32_t generation; /* written under the lock */
	_Atomic bool past_threshold; /* written under the lock: as last looked at */
};

/* A logical unit as one nexus sees it. The nexus' loop, but for what stands under the lock. */
struct scsi_unit {
	struct scsi_nexus *nexus;
	uint16_t number; /* LUN */
	bool read_only;  /* the LUN's word, when it was opened */
	bool gone;       /* is no longer that LUN's: closed when its tasks are done */
	struct scsi_lu *lu;
	struct blk_handle *handle;
	const struct conf_volume *conf;
	struct blk_info info; /* as last looked at; the block size never changes */
	unsigned content;     /* blk_content() then */
	unsigned block_shift;
	uint64_t transfer_max; /* bytes in one READ or WRITE */
	uint64_t compare_max;  /* and compared by COMPARE AND WRITE */
	uint64_t atomic_max;   /* and written by WRITE ATOMIC ... */
	uint32_t atomic_unit;  /* ... a multiple of this, at a multiple of it */
	bool thin;             /* discard does something: LBPME */
	uint64_t threshold;    /* soft, of what is allocated: bytes, a whole number of ... */
	unsigned threshold_shift; /* ... threshold sets of 1 << this bytes; 0: none */
	unsigned tasks;        /* between scsi_prepare() and done() */

	uint32_t generation; /* of the logical unit when the next two were read */
	unsigned settings;
	unsigned attentions; /* ATTENTION_*, pending */
	unsigned announced;  /* of them: those that an event has told already */

	struct scsi_copy *copies; /* running, and the latest that are over */

	uint64_t logged; /* loop_now() of the last failure logged, and those kept silent since */
	unsigned unlogged;

	TAILQ_ENTRY(scsi_unit) link; /* under lu->lock */
	unsigned posted;             /* under lu->lock: attentions on their way */
	unsigned resets_told;        /* under lu->lock: resets to come that are posted already */
	TAILQ_HEAD(, scsi_abort_part) parts; /* under lu->lock: requests to end tasks, on their way */
	bool prevents;               /* changed under lu->lock */
};

struct scsi_port {
	uint16_t relative_id;
	uint16_t group;
	enum alua_state state;
	bool altered; /* the state, since the nexus began */
};

struct scsi_nexus {
	char initiator[LIMIT_ISCSI_NAME + 33]; /* and ",i,0x" with an ISID */
	char target[LIMIT_ISCSI_NAME + 1];
	char port[RESERVATION_NAME]; /* target port: "target,t,0x0001"; from the first task on */
	/* What LUNs there are: the target, to this initiator, as of a catalogue that is held. */
	const struct catalogue *catalogue;
	const struct target *offered; /* NULL: no longer there */
	uint32_t generation;          /* of what is offered, when it was looked at */
	bool returned;                /* the same nexus was there before, and was lost */
	struct scsi_unit **units;     /* those that were used, by ascending numbers */
	unsigned nunits, room;
	struct scsi_port *ports;
	unsigned nports;
	struct loop *loop;
	scsi_abort_fn *abort; /* NULL: no transport */
	void *owner;
	bool limited;             /* some port's state refuses commands */
	uint32_t alua_generation; /* when the states were read */
};

/* The target port with that relative identifier; NULL: there is none. */
/* The initiator's name, without the ISID that makes a port of it. */
void scsi_nexus_initiator(const struct scsi_nexus *nexus, char name[RESERVATION_NAME]);
struct scsi_port *scsi_nexus_find_port(const struct scsi_nexus *nexus, uint16_t relative_id);
/* Its name, in `name`. False: there is none. */
bool scsi_nexus_port(
	const struct scsi_nexus *nexus, uint16_t relative_id, char name[RESERVATION_NAME]);

int scsi_unit_start(void);
void scsi_unit_stop(void);

/* A reference to a logical unit, for what outlives a nexus. Any thread. */
struct scsi_lu *scsi_lu_get(struct scsi_lu *lu);
void scsi_lu_put(struct scsi_lu *lu);

/* Opens a LUN for a nexus. 0 or -ENOMEM, -ESHUTDOWN. */
int scsi_unit_open(struct scsi_nexus *nexus, const struct lun *lun, struct scsi_unit **unit);
/* No task may be in it. */
void scsi_unit_close(struct scsi_unit *unit);

/* Copies settings and posted attentions over; scsi_unit_refresh() when something changed. */
void scsi_unit_sync(struct scsi_unit *unit);

static inline void
scsi_unit_refresh(struct scsi_unit *unit)
{
	if (atomic_load_explicit(&unit->lu->generation, memory_order_acquire) != unit->generation)
		scsi_unit_sync(unit);
}

/* Takes the first pending attention away: ASC << 8 | ASCQ, or 0. */
unsigned scsi_unit_attention(struct scsi_unit *unit);

/* The first pending attention that has not been announced, which it is then, or 0. */
unsigned scsi_unit_announce(struct scsi_unit *unit);

/* Changes settings for every nexus; all others get the attention (0: none). */
void scsi_unit_change(struct scsi_unit *unit, unsigned clear, unsigned set, unsigned attention);
/* PREVENT ALLOW MEDIUM REMOVAL, per nexus. */
void scsi_unit_prevent(struct scsi_unit *unit, bool prevent);
bool scsi_unit_prevented(struct scsi_unit *unit);
void scsi_unit_reset(struct scsi_unit *unit);
/* Posts to every other nexus of the unit what `attention` says, which may be 0. */
void scsi_unit_tell(struct scsi_unit *unit,
	unsigned (*attention)(const struct scsi_unit *unit, void *arg), void *arg);
/* Tells the volume which nexus this is. 0 or -ENOMEM. */
int scsi_unit_identify(struct scsi_unit *unit);

/* Looks at what is allocated; each way past the soft threshold is told once to every nexus. */
void scsi_unit_watch(struct scsi_unit *unit);

/* Reads blk_info() again; a size that changed becomes an attention. */
void scsi_unit_look(struct scsi_unit *unit);

static inline uint64_t
scsi_unit_blocks(const struct scsi_unit *unit)
{
	return unit->info.size >> unit->block_shift;
}

static inline bool
scsi_unit_read_only(const struct scsi_unit *unit)
{
	return unit->info.read_only || (unit->settings & UNIT_SWP);
}

/* Tasks that another nexus ends (scsi_abort.c) */

int scsi_abort_start(void);
void scsi_abort_stop(void);
/*
 * PREEMPT AND ABORT (SPC-4 5.13.11.2.6): as scsi_abort_others(), for those other nexuses of the unit
 * of which concerns(), called under the unit's lock, is true; NULL: for all.
 */
int scsi_unit_abort(struct scsi_unit *unit, struct scsi_abort *abort,
	bool (*concerns)(const struct scsi_unit *unit, void *arg), void *arg);
/* The unit is being closed. With its lock held. */
void scsi_abort_close(struct scsi_unit *unit);

/* Nexus (scsi_lun.c) */

void scsi_nexus_stop(void);

/* The unit a LUN names, opened when new. 0, -ENXIO: no such LUN, or -ENOMEM. */
int scsi_nexus_unit(struct scsi_nexus *nexus, const uint8_t lun[8], struct scsi_unit **unit);
/* The same for the unit whose volume's uuid is the one; of several, one that may be written. */
int scsi_nexus_find(struct scsi_nexus *nexus, bool (*match)(const uint8_t uuid[16], const void *arg),
	const void *arg, struct scsi_unit **unit);
/* SAM-5 4.7: peripheral device addressing where it suffices, else flat space. */
void scsi_lun_write(uint8_t to[8], uint16_t number);
/* A LUN of that number, offered to the nexus now; NULL. */
const struct lun *scsi_nexus_lun(const struct scsi_nexus *nexus, unsigned number);
/* Looks at what is offered now. Units whose LUN is another's, or nobody's, are let go; the others get
 * an attention when the LUNs have changed. */
void scsi_nexus_renew(struct scsi_nexus *nexus);

/* Cheap when nothing was published. */
static inline void
scsi_nexus_refresh(struct scsi_nexus *nexus)
{
	if (atomic_load_explicit(&catalogue_generation, memory_order_acquire) != nexus->generation)
		scsi_nexus_renew(nexus);
}
/* Opens what is not open yet, as far as there is memory. */
void scsi_nexus_use_all(struct scsi_nexus *nexus);
/* A task has left; the unit is let go when it was waited for. */
void scsi_nexus_leave(struct scsi_unit *unit);

/* Asymmetric access (scsi_alua.c) */

/* Copies the states of the target's port groups; units get an attention where one has changed. */
void scsi_alua_sync(struct scsi_nexus *nexus);
/* False: the command is refused in the state of the group that it came by; sense is set. */
bool scsi_alua_check(struct scsi_task *task, const struct scsi_opcode *row);
bool prepare_report_port_groups(struct scsi_task *task);
void execute_report_port_groups(struct scsi_task *task);

static inline void
scsi_alua_refresh(struct scsi_nexus *nexus)
{
	if (atomic_load_explicit(&alua_generation, memory_order_acquire) != nexus->alua_generation)
		scsi_alua_sync(nexus);
}

/* The opcode table (scsi_cmd.c) */

enum {
	ROW_ACTION = 1,  /* byte 1 holds a service action */
	ROW_ANY_LUN = 2, /* answered for a LUN that does not exist */
	ROW_QUIET = 4,   /* unit attentions stay pending. SAM-5 5.14 */
	ROW_MEDIUM = 8,  /* NOT READY while the medium is out */
	ROW_WRITES = 16, /* refused on a write-protected unit */
	ROW_DATA = 32,   /* the data path: does not look at the volume's size anew */
	ROW_EXACT = 64,  /* more data-out than the CDB takes is an error */
};

/* When another nexus' reservation stands in the way. SPC-4 5.13.1, SBC-3 4.17, SPC-2 5.5.1 */
enum {
	ACCESS_NONE,   /* never */
	ACCESS_STATUS, /* when it has all of the unit by RESERVE */
	ACCESS_READ,   /* and under Exclusive Access */
	ACCESS_WRITE,  /* and under Write Exclusive */
	ACCESS_START,  /* as WRITE, but for START */
	ACCESS_PREVENT /* as WRITE, but for "allow" */
};

struct scsi_opcode {
	const char *name;
	uint8_t opcode;
	uint8_t action;
	uint8_t length; /* of the CDB */
	uint8_t flags;
	uint8_t access; /* ACCESS_* */
	/* Bits that may be set in byte 1 and on, as in CDB USAGE DATA (SPC-4, REPORT SUPPORTED
	 * OPERATION CODES); a service action stands as itself. */
	uint8_t usage[LIMIT_SCSI_CDB - 1];
	/* Checks the CDB's fields; sets out_length, in_max, offset and length. False: sense is set.
	 */
	bool (*prepare)(struct scsi_task *task);
	/* Ends with scsi_finish(), or submits and ends with scsi_complete(). */
	void (*execute)(struct scsi_task *task);
};

extern const struct scsi_opcode scsi_opcodes[]; /* by opcode, then service action */
extern const unsigned scsi_opcodes_count;

/* From inside execute: done() follows in a later phase. */
void scsi_finish(struct scsi_task *task);
/* From a completion: calls done(). */
void scsi_complete(struct scsi_task *task);

/* Sets data-in to the first min(length, allocated) bytes of `data`; on no memory, BUSY. */
void scsi_data_in(struct scsi_task *task, const void *data, size_t length, uint64_t allocated);

/* Vectors, lists and blocks of commands that need more than the task; given back with the task. */
union scsi_scratch {
	struct {
		uint8_t bytes[SCSI_BLOCK_MAX]; /* page-aligned; also an UNMAP list */
		struct iovec iov[LIMIT_SCSI_UNMAP];
	};
	struct blk_extent extents[LIMIT_SCSI_UNMAP];
};
_Static_assert(SCSI_BLOCK_MAX >= LIMIT_SCSI_UNMAP * 16, "an UNMAP list fits");

/* Sets task->scratch. False: BUSY is set. */
bool scsi_scratch(struct scsi_task *task);

/* Sense (scsi_sense.c) */

struct scsi_sense {
	uint8_t key;
	uint16_t code; /* ASC << 8 | ASCQ */
	bool has_information;
	bool has_field; /* sense key specific: which byte was wrong */
	bool field_in_cdb;
	uint16_t field; /* or PROGRESS INDICATION */
	bool has_progress;
	uint64_t information;
	bool has_specific; /* COMMAND-SPECIFIC INFORMATION */
	uint32_t specific;
};

/* Builds at most LIMIT_SCSI_SENSE bytes; returns how many. */
uint8_t scsi_sense_build(const struct scsi_sense *sense, bool descriptor, uint8_t *to);
void scsi_fail_with(struct scsi_task *task, const struct scsi_sense *sense);
/* CHECK CONDITION; return false, for `return scsi_fail(...)` in a prepare function. */
bool scsi_fail(struct scsi_task *task, uint8_t key, unsigned code);
/* What a pending attention says: ASC << 8 | ASCQ as scsi_unit_attention() gave it. */
struct scsi_sense scsi_attention_sense(unsigned code);
bool scsi_fail_attention(struct scsi_task *task, unsigned code);
bool scsi_fail_cdb(struct scsi_task *task, unsigned byte);
bool scsi_fail_list(struct scsi_task *task, unsigned byte);
bool scsi_fail_busy(struct scsi_task *task);
/* The one place where the block layer's errors become SCSI's; logs. task->blk says what failed. */
void scsi_fail_errno(struct scsi_task *task, int rc);

/* Handlers */

/* scsi_rw.c */
/* Blocks to task->offset and length, within the volume; false: 21/00 is set. */
bool scsi_range(struct scsi_task *task, uint64_t lba, uint64_t blocks);
/* LBA and count of a CDB of 6, 10, 12 or 16 bytes. */
void scsi_cdb_range(const struct scsi_task *task, uint64_t *lba, uint64_t *blocks);
/* scsi_range() of the CDB's fields, and no more than one transfer may have. */
bool scsi_transfer(struct scsi_task *task);
/*
 * Points the request at the first `length` bytes of data-out, which is longer when the initiator
 * sent part of a block. False: BUSY is set.
 */
bool scsi_use_out(struct scsi_task *task, size_t length);
/* Flags of a write: FUA where the CDB or the caching page says so. */
unsigned scsi_write_flags(const struct scsi_task *task, bool fua);
void scsi_submit(struct scsi_task *task, enum blk_op op, unsigned flags, uint64_t offset,
	uint64_t length, void (*done)(struct blk_request *request));
/* The same for another unit of the nexus, which the task holds. */
void scsi_submit_to(struct scsi_task *task, struct scsi_unit *unit, enum blk_op op, unsigned flags,
	uint64_t offset, uint64_t length, void (*done)(struct blk_request *request));
/* A block request within a task has ended. True: it failed, and the task is over with its sense. */
bool scsi_step_failed(struct scsi_task *task, const struct blk_request *request);
struct scsi_task *scsi_task_of(struct blk_request *request);
bool prepare_read(struct scsi_task *task);
void execute_read(struct scsi_task *task);
bool prepare_write(struct scsi_task *task);
void execute_write(struct scsi_task *task);
bool prepare_compare_and_write(struct scsi_task *task);
void execute_compare_and_write(struct scsi_task *task);
bool prepare_synchronize_cache(struct scsi_task *task);
void execute_synchronize_cache(struct scsi_task *task);
/* FLUSH, then GOOD. */
void scsi_flush(struct scsi_task *task);

/* scsi_verify.c */
bool prepare_verify(struct scsi_task *task);
void execute_verify(struct scsi_task *task);
bool prepare_write_and_verify(struct scsi_task *task);
void execute_write_and_verify(struct scsi_task *task);
bool prepare_orwrite(struct scsi_task *task);
void execute_orwrite(struct scsi_task *task);
bool prepare_write_atomic(struct scsi_task *task);
bool prepare_prefetch(struct scsi_task *task);
void execute_prefetch(struct scsi_task *task);

/* scsi_reserve.c */
bool prepare_reserve_in(struct scsi_task *task);
void execute_read_keys(struct scsi_task *task);
void execute_read_reservation(struct scsi_task *task);
void execute_report_capabilities(struct scsi_task *task);
void execute_read_full_status(struct scsi_task *task);
bool prepare_reserve_out(struct scsi_task *task);
void execute_reserve_out(struct scsi_task *task);
void execute_reserve(struct scsi_task *task);
void execute_release(struct scsi_task *task);

/* scsi_diagnostic.c */
bool prepare_send_diagnostic(struct scsi_task *task);
void execute_send_diagnostic(struct scsi_task *task);
bool prepare_receive_diagnostic(struct scsi_task *task);
void execute_receive_diagnostic(struct scsi_task *task);
bool prepare_read_defect_data(struct scsi_task *task);
void execute_read_defect_data(struct scsi_task *task);
bool prepare_report_tmf(struct scsi_task *task);
void execute_report_tmf(struct scsi_task *task);
bool prepare_report_timestamp(struct scsi_task *task);
void execute_report_timestamp(struct scsi_task *task);

/* scsi_provision.c */
bool prepare_unmap(struct scsi_task *task);
void execute_unmap(struct scsi_task *task);
bool prepare_write_same(struct scsi_task *task);
void execute_write_same(struct scsi_task *task);
bool prepare_get_lba_status(struct scsi_task *task);
void execute_get_lba_status(struct scsi_task *task);

/* scsi_copy.c */
int scsi_copy_start(void);
void scsi_copy_stop(void);
/* The unit is being closed; no copy of it runs. */
void scsi_copy_forget(struct scsi_unit *unit);
bool prepare_extended_copy(struct scsi_task *task);
void execute_extended_copy(struct scsi_task *task);
bool prepare_copy_abort(struct scsi_task *task);
void execute_copy_abort(struct scsi_task *task);

/* scsi_copy_results.c */
bool prepare_copy_results(struct scsi_task *task);
void execute_copy_results(struct scsi_task *task);
/* The Third-party Copy page without its header. */
void scsi_put_third_party_copy(const struct scsi_task *task, struct writer *w);

/* scsi_sanitize.c */
bool prepare_sanitize(struct scsi_task *task);
void execute_sanitize(struct scsi_task *task);
bool prepare_exit_failure(struct scsi_task *task);
void execute_exit_failure(struct scsi_task *task);
/* How a unit that is sealed is not ready, with how far it is; NO SENSE where it is not sealed. */
void scsi_sanitize_sense(struct scsi_unit *unit, struct scsi_sense *sense);
/* The unit is sealed. False: sense is set, the command is not for now. */
bool scsi_sanitize_allows(struct scsi_task *task, const struct scsi_opcode *row);

/* scsi_log.c */
bool prepare_log_sense(struct scsi_task *task);
void execute_log_sense(struct scsi_task *task);

/* scsi_info.c */
bool prepare_nothing(struct scsi_task *task);
void execute_test_unit_ready(struct scsi_task *task);
bool prepare_request_sense(struct scsi_task *task);
void execute_request_sense(struct scsi_task *task);
bool prepare_inquiry(struct scsi_task *task);
void execute_inquiry(struct scsi_task *task);
bool prepare_read_capacity_10(struct scsi_task *task);
void execute_read_capacity_10(struct scsi_task *task);
bool prepare_read_capacity_16(struct scsi_task *task);
void execute_read_capacity_16(struct scsi_task *task);
bool prepare_report_luns(struct scsi_task *task);
void execute_report_luns(struct scsi_task *task);
bool prepare_report_opcodes(struct scsi_task *task);
void execute_report_opcodes(struct scsi_task *task);

/* scsi_vpd.c */
enum { DESIGNATOR_T10 = 1, DESIGNATOR_EUI_64 = 2, DESIGNATOR_NAA = 3 }; /* SPC-4 7.8, page 83h */
uint64_t scsi_naa(const uint8_t uuid[16]);
uint64_t scsi_eui_64(const uint8_t uuid[16]);
bool scsi_vpd_exists(uint8_t page);
/* Writes a page of vital product data. */
void scsi_vpd_page(const struct scsi_task *task, uint8_t page, struct writer *w);
/* `text` in a field of `length` bytes: printable ASCII, padded with spaces. SPC-4 4.3.1 */
void scsi_put_ascii(struct writer *w, const char *text, size_t length);
const char *scsi_vendor(const struct scsi_unit *unit);
const char *scsi_product(const struct scsi_unit *unit);

/* scsi_mode.c */
bool prepare_mode_sense(struct scsi_task *task);
void execute_mode_sense(struct scsi_task *task);
bool prepare_mode_select(struct scsi_task *task);
void execute_mode_select(struct scsi_task *task);

/* scsi_medium.c */
void execute_start_stop_unit(struct scsi_task *task);
bool prepare_start_stop_unit(struct scsi_task *task);
void execute_prevent_allow(struct scsi_task *task);

#endif
