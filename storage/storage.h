/*
 * What the block layer's files share; nobody outside storage/ includes it.
 *
 * A request's way: blk_submit() -> start_request() -> blk_dispatch() -> the driver, on this
 * loop or on a worker -> blk_complete() -> blk_finish() on the home loop -> done().
 *
 * Threads: a handle and a lane are touched by their loop only, but for counters and what is said to
 * be under the volume's lock. Locks: the volume's `lock` and the jobs' `lock` are never held
 * together and never around a driver's call.
 */
#ifndef SLABD_STORAGE_H
#define SLABD_STORAGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "block.h"
#include "block_driver.h"
#include "conf.h"
#include "histogram.h"
#include "limits.h"
#include "reservation.h"
#include "volume.h"
#include "work.h"
#include "layers/layer.h"

/* blk_request.state */
enum {
	STATE_SUB = 1, /* the block layer's own part of another request: not checked, not counted */
	STATE_LISTED = 2,      /* on its lane's in_flight: freezes wait for it */
	STATE_EMULATED = 4,    /* emulate.c has it or had it */
	STATE_SYNCED = 8,      /* its sync was asked for */
	STATE_SYNCING = 16,    /* it is its own sync, and among those on their way */
	STATE_LAYERED = 32,    /* layers have it or had it */
	STATE_OWNED = 64,      /* from blk_submit() to done() */
	STATE_CANCELLED = 128, /* not wanted any more: no further step of it is begun (B10) */
	/* Bits 8 to 15 are layers/layer.c's; then a bit for each layer that it passed and must leave. */
	STATE_PASSED_SHIFT = 16,
	STATE_PASSED = 0xff << STATE_PASSED_SHIFT,
};

/* volume.refuse */
enum {
	VOLUME_GOING = 1,
	VOLUME_BROKEN = 2,
	VOLUME_GONE = 4,     /* no device behind it */
	VOLUME_RESERVED = 8, /* look at the handle's fence */
	VOLUME_SEALED = 16,  /* for all but volume->sealer */
};

#define LANES (LIMIT_LOOPS + 1) /* the main loop is one more */

TAILQ_HEAD(request_list, blk_request);
TAILQ_HEAD(freeze_list, freeze);

/* Requests chained by driver[0], which is free while no driver has them. */
struct request_chain {
	struct blk_request *first, *last;
};

/* A volume as one loop sees it. Made with the loop's first handle, freed with the volume. */
struct lane {
	struct volume *volume;
	struct loop *loop;
	unsigned index;
	struct request_list in_flight;
	bool frozen;    /* some range is, or is about to be: look before starting anything */
	uint8_t layers; /* that are on, as bits */
	struct request_list held; /* by a freeze, first come first */
	struct request_chain batch;
	struct loop_task batch_task;
	struct histogram latency[2];  /* BLK_READ, BLK_WRITE */
	struct request_chain delayed; /* by layers, first due first */
	struct loop_timer delay_timer;
	struct loop_sweep delay_sweep;

	/* Under volume->lock. */
	struct loop_task freeze_task; /* "look at the freezes"; holds the volume while queued */
	bool told;                    /* freeze_task is on its way */
	LIST_HEAD(, blk_handle) handles;
	struct blk_counters closed; /* of handles that are gone */
};

/* A layer of a volume. */
struct layer {
	const struct layer_ops *ops;
	void *state; /* NULL: there is none */
};

/* client.c */
struct blk_client {
	LIST_ENTRY(blk_client) link;
	unsigned handles;         /* under volume->lock */
	_Atomic uint64_t paid[2]; /* layers/qos.c: its buckets */
	char name[];
};

struct blk_handle {
	struct volume *volume;
	struct lane *lane;
	struct loop *loop;
	struct blk_client *client; /* &own until blk_set_client() */
	bool read_only;
	unsigned in_flight;
	atomic_uint fence;      /* FENCE_*; written under volume->lock */
	char *initiator, *port; /* under volume->lock; NULL: no nexus of SCSI */
	struct blk_counters counters;
	LIST_ENTRY(blk_handle) link;
	const char *name;
	struct blk_client own;
};

/* A worker's turn at a volume's blocking requests. */
struct job {
	struct work work;
	struct volume *volume;
};

struct jobs {
	pthread_mutex_t lock;
	struct request_chain waiting;
	struct job job[LIMIT_VOLUME_WORKS];
	struct job *idle[LIMIT_VOLUME_WORKS];
	unsigned nidle;
};

TAILQ_HEAD(sync_list, blk_sync);

/* B7. Under volume->lock but for `work`, `flush` and `mark`, which belong to whoever set `busy`, or
 * `paused` while nobody is busy. */
struct sync {
	struct sync_list on_way; /* in order of their beginning, which numbers them */
	uint64_t next_number;
	struct request_chain done;    /* succeeded; wait for those that overlapped them */
	struct blk_sync mark;         /* the shared sync's place among them */
	struct request_chain waiting; /* will share the next sync */
	const struct blk_request
		*carrier;             /* of them: is posted to its loop, to ask the driver there */
	struct request_chain sharing; /* share the one being made */
	bool busy;
	bool paused; /* change.c: the next one does not begin */
	struct work work;
	struct blk_request flush; /* for drivers that flush by submit() */
};

struct volume {
	char name[LIMIT_VOLUME_NAME + 1];
	struct conf_volume conf;
	const struct blk_driver *driver;
	void *state;
	struct blk_info info; /* constant but for size */
	_Atomic uint64_t size;
	uint32_t submits;  /* operations the driver's submit() takes, as bits */
	bool drop_sync;    /* no volatile cache: FLUSH and FUA are nothing */
	bool write_syncs;  /* info.fua, and somebody to do it */
	bool changing;     /* change.c: one at a time. Main thread */
	uint64_t measured; /* by the driver, when volume_look() was last called */
	uint64_t align_mask;

	struct layer layer[LAYERS];
	atomic_uint layers; /* that are on, as bits */

	atomic_uint refuse; /* VOLUME_* */
	atomic_uint references;
	atomic_uint nhandles;
	atomic_uint content; /* counts what took the place of all of it */
	struct loop_task close_task;
	struct work close_work;
	void (*closed)(void *arg); /* NULL: the last put closes it where it is */
	void *closed_arg;

	pthread_mutex_t lock;
	_Atomic(struct lane *) lanes[LANES]; /* written under lock */
	struct freeze_list freezes;          /* all of them, in order of arrival */
	struct sync sync;
	struct reservation *reservation; /* NULL: nobody is registered */
	struct blk_handle *taken;        /* all of the volume, by SPC-2's RESERVE */
	_Atomic(struct blk_handle *) sealer; /* written under lock; NULL though sealed: it is gone */
	TAILQ_HEAD(, change) changes;    /* of reservations; the first one runs */
	char why[256];
	LIST_HEAD(, blk_client) clients;
	unsigned nclients;

	struct work_queue *works;
	struct jobs jobs;
};

/* block.c */

/* Sends a request that passed all checks through the layers to the driver. The request's loop. */
void blk_dispatch(struct blk_request *request);
/* The same below the layers. */
void blk_drive(struct blk_request *request);
/* Starts a request again from the first check (design section 3, freeze (5)). Its loop. */
void blk_restart(struct blk_request *request);
/* The first checks alone, for one that goes on where it is. 0 or -errno. Its loop. */
int blk_recheck(const struct blk_request *request);
/* Asks whoever has the request, or a part of one, to take it back (B10). Its loop. */
void blk_take_back(struct blk_request *request);
/* Takes a request off its lane's in_flight; freezes do not wait for it any more. Its loop. */
void blk_unlist(struct blk_request *request);
/* task.run of every request that a driver has. */
void blk_finish(struct loop_task *task);

static inline void
counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	/* One writer: no locked instruction is needed. */
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
		memory_order_relaxed);
}

void counters_merge(struct blk_counters *into, const struct blk_counters *from);

static inline struct blk_request *
chain_next(const struct blk_request *request)
{
	return (struct blk_request *)request->driver[0];
}

static inline void
chain_append(struct request_chain *chain, struct blk_request *request)
{
	request->driver[0] = 0;
	if (chain->last)
		chain->last->driver[0] = (uintptr_t)request;
	else
		chain->first = request;
	chain->last = request;
}

static inline struct blk_request *
chain_pop(struct request_chain *chain)
{
	struct blk_request *request = chain->first;

	if (request) {
		chain->first = chain_next(request);
		if (!chain->first)
			chain->last = NULL;
	}
	return request;
}

/* False: it is not there. */
static inline bool
chain_remove(struct request_chain *chain, struct blk_request *request)
{
	struct blk_request *before = NULL, *at = chain->first;

	while (at && at != request) {
		before = at;
		at = chain_next(at);
	}
	if (!at)
		return false;
	if (before)
		before->driver[0] = request->driver[0];
	else
		chain->first = chain_next(request);
	if (chain->last == request)
		chain->last = before;
	return true;
}

/* volume.c: the calling loop's lane, made if need be. NULL: no memory. */
struct lane *volume_lane(struct volume *volume);

/* A volume without its driver's state, which is to become open by volume_settle(), with what the driver made
 * of its info, or to be abandoned. 0 or -errno with *error. Main thread. */
int volume_make(const struct conf_volume *conf, const struct blk_driver *driver,
	struct volume **made, struct error *error);
void volume_settle(struct volume *volume, void *state, const struct blk_info *found);
void volume_abandon(struct volume *volume);

/* blocking.c */
int jobs_start(struct volume *volume);
void jobs_stop(struct volume *volume);
/* Which operations the driver has blocking functions for, as bits. */
uint32_t blocking_operations(const struct blk_driver *driver);
/* Lets a worker do it. The request's loop. */
void blocking_submit(struct blk_request *request);

/* sync.c */

/*
 * The request completes with the result of a sync that begins after this call. The request's loop;
 * all that it is to make durable has completed.
 */
void sync_join(struct blk_request *request);

/* A WRITE that is its own sync: before the driver has it; on its loop. */
void sync_write_begin(struct blk_request *request);
/* The driver is done with it. False: it is held back, and completes later with the last word. */
bool sync_write_end(struct blk_request *request);
/* It is no sync of its own any more: a shared one will follow it. */
void sync_write_forget(struct blk_request *request);

/*
 * No shared sync begins until sync_resume(). False: one is still on its way; asked again until it is
 * not. Main thread.
 */
bool sync_pause(struct volume *volume);
void sync_resume(struct volume *volume);
/* Between the two, on a worker: a sync that nobody shares. 0, or -errno and the volume is broken. */
int sync_alone(struct volume *volume);
/* B7: the volume is broken from now on. The first reason is kept. Any thread. */
void volume_latch(struct volume *volume, const char *what, int rc);
/* Nothing is behind it any more: -ENODEV for all but shutdown, until it is cleared. Any thread. */
void volume_mark_gone(struct volume *volume);
/* Lifts both. Between sync_pause() and sync_resume(), nothing else in flight: who waits for a sync is
 * told of the failure. */
void volume_unlatch(struct volume *volume);

/* freeze.c */

enum freeze_mode { FREEZE_WRITES, FREEZE_ALL };

/*
 * A range in which nothing but its owner's own I/O happens. Lives in its owner's object, on one
 * loop. The owner's own request must not be on its lane's in_flight list, and its I/O goes to
 * blk_dispatch().
 */
struct freeze {
	TAILQ_ENTRY(freeze) link; /* volume->lock, as all but the first three */
	struct volume *volume;
	struct loop *loop;
	void (*ready)(struct freeze *freeze, int rc);
	uint64_t offset, length;
	enum freeze_mode mode;
	bool behind; /* holds requests already while it is queued */
	enum { FREEZE_QUEUED, FREEZE_STARTING, FREEZE_HELD, FREEZE_OVER } state;
	uint64_t unanswered[(LANES + 63) / 64]; /* lanes that still have overlapping requests */
	uint64_t deadline;
	int rc;
	struct loop_task task;
	struct loop_sweep sweep;
};

/*
 * ready(freeze, 0) is called when the range is still: later, on the calling loop; what it owns
 * until freeze_release(). ready(freeze, -ETIMEDOUT) when that took longer than LIMIT_FREEZE_WAIT:
 * nothing is owned then. Rounded out to physical blocks. The caller keeps the volume open
 * meanwhile.
 */
void freeze_start(struct freeze *freeze, struct volume *volume, uint64_t offset, uint64_t length,
	enum freeze_mode mode, void (*ready)(struct freeze *freeze, int rc));
/* On its loop; only after ready(freeze, 0). */
void freeze_release(struct freeze *freeze);
/* On its loop: the range is not wanted any more. ready(freeze, -ETIMEDOUT) follows, unless it is on its way
 * with 0 already. */
void freeze_cancel(struct freeze *freeze);

/* Whatever overlaps the request and is submitted later waits for its end (blk_abandon()). Its loop. */
void freeze_behind(const struct blk_request *request);

/* The lane is frozen: true when the request was put aside until a freeze ends. Its loop. */
bool freeze_holds(struct lane *lane, struct blk_request *request);
/* The lane is frozen and this request, already off the list, was in flight on it. */
void freeze_passed(struct lane *lane, const struct blk_request *request);
/* A new lane, under the volume's lock, inherits what is frozen. */
void freeze_inherit(struct lane *lane);

/* reservation.c */

/* What was kept of them. 0 or -errno with a text. */
int reservation_open(struct volume *volume, struct error *error);
void reservation_close(struct volume *volume);
/* Under the lock: a new handle. */
void reservation_fence_handle(struct blk_handle *handle);
/* The handle is being closed. */
void reservation_forget(struct blk_handle *handle);

/* client.c */

/* Under the lock: a handle is being closed. */
void client_leave(struct blk_handle *handle);
void clients_free(struct volume *volume);

/* layers/qos.c, under the lock: the client owes nothing, and has its whole burst to come. */
bool qos_client_rested(struct volume *volume, const struct blk_client *client, uint64_t now);

/* reservation_file.c: workers, but for load: main thread. 0 or -errno with a text. */
int
reservation_save(const char *volume, const struct reservation *reservation, struct error *error);
/* 1: there was one. */
int reservation_load(const char *volume, struct reservation *reservation, struct error *error);

/* seal.c: the handle is being closed; what it sealed stays sealed. */
void seal_forget(struct blk_handle *handle);

/* volume.c: why the volume cannot be changed or copied now, "being changed"; NULL: it can. Main thread. */
const char *volume_occupied(const struct volume *volume);

/* emulate.c: carries out what the driver does not, and completes the request. Its loop. */
void emulate(struct blk_request *request);
int emulate_start(void);
void emulate_stop(void);

/* backends/memory_cap.c: bytes of slabs that all memory volumes may have together. */
void memory_cap_set(uint64_t bytes);
bool memory_cap_take(uint64_t bytes);
void memory_cap_give(uint64_t bytes);
int memory_start(void);
void memory_stop(void);

extern const struct blk_driver memory_driver;
extern const struct blk_driver file_driver;
extern const struct blk_driver device_driver;
extern const struct blk_driver null_driver;

#endif
