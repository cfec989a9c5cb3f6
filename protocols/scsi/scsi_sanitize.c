/*
 * SANITIZE (SBC-3 4.11, SBC-4 5.24): an operation on all of a volume that belongs to no nexus and
 * no task. It has a handle of its own, which seals the volume: until it is done nobody reads what
 * is half gone, by either protocol. Resets, aborts and logouts do not end it; the task that asked
 * for it only waits.
 *
 * An operation is on the loop where it was asked for; others look at `progress` under the unit's
 * lock.
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "log.h"
#include "volume.h"

#define LIST_HEADER   4 /* of the parameter list of OVERWRITE */
#define PATTERN_BYTES (64 * 1024)
#define PATTERNS      16         /* in one WRITE */
#define ERASE_BYTES   (64 * MIB) /* in one ZERO */

struct scsi_sanitize {
	LIST_ENTRY(scsi_sanitize) link; /* `running`, under its lock */
	struct loop *loop;
	struct scsi_lu *lu; /* a reference */
	struct blk_handle *handle;
	struct scsi_task *waiter; /* NULL: it has its status, or was taken back */
	bool immediate, unrestricted, stop;
	uint8_t method;
	bool invert;
	unsigned passes, pass; /* passes done */
	uint64_t size, offset, piece_max;
	uint64_t started;          /* loop_now() */
	_Atomic uint16_t progress; /* PROGRESS INDICATION, of 65,536 */
	uint8_t *pattern;
	struct iovec iov[PATTERNS];
	struct blk_request blk;
	struct loop_timer timer;
};

static pthread_mutex_t running_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, scsi_sanitize) running = LIST_HEAD_INITIALIZER(running);

static void next_piece(struct scsi_sanitize *s);

/* What other commands are told */

/* False: the volume is sealed for another reason than an operation that runs. */
static bool
get_progress(struct scsi_lu *lu, uint16_t *progress)
{
	bool runs;

	pthread_mutex_lock(&lu->lock);
	runs = lu->sanitize;
	*progress = runs ? atomic_load(&lu->sanitize->progress) : 0;
	pthread_mutex_unlock(&lu->lock);
	return runs;
}

void
scsi_sanitize_sense(struct scsi_unit *unit, struct scsi_sense *sense)
{
	*sense = (struct scsi_sense){0};
	if (!blk_sealed(unit->handle))
		return;
	if (get_progress(unit->lu, &sense->field)) {
		sense->key = KEY_NOT_READY;
		sense->code = ASC_SANITIZE_IN_PROGRESS;
		sense->has_progress = true;
	} else {
		sense->key = KEY_MEDIUM_ERROR;
		sense->code = ASC_SANITIZE_FAILED;
	}
}

/* SBC-4 4.11.2 and 4.11.4 */
bool
scsi_sanitize_allows(struct scsi_task *task, const struct scsi_opcode *row)
{
	struct scsi_sense sense;

	scsi_sanitize_sense(task->unit, &sense);
	if (sense.key == KEY_NO_SENSE || (row->flags & ROW_QUIET) ||
		row->opcode == OP_MAINTENANCE_IN)
		return true;
	if (sense.key == KEY_MEDIUM_ERROR &&
		(row->opcode == OP_SANITIZE || !(row->flags & ROW_MEDIUM)))
		return true;
	scsi_fail_with(task, &sense);
	return false;
}

/* The operation */

static void
free_sanitize(struct scsi_sanitize *s)
{
	loop_timer_stop(&s->timer);
	blk_close(s->handle);
	scsi_lu_put(s->lu);
	free(s->pattern);
	free(s);
}

/* Whether a failure that EXIT FAILURE MODE cannot end is the unit's state. */
static void
set_restricted(struct scsi_sanitize *s, bool restricted)
{
	struct scsi_lu *lu = s->lu;

	pthread_mutex_lock(&lu->lock);
	lu->settings &= ~(unsigned)UNIT_SANITIZE_RESTRICTED;
	lu->settings |= restricted ? UNIT_SANITIZE_RESTRICTED : 0;
	atomic_fetch_add_explicit(&lu->generation, 1, memory_order_release);
	pthread_mutex_unlock(&lu->lock);
}

/* The operation is over; then its task, if one still waits. */
static void
end_sanitize(struct scsi_sanitize *s)
{
	struct scsi_task *waiter = s->waiter;

	pthread_mutex_lock(&running_lock);
	LIST_REMOVE(s, link);
	pthread_mutex_unlock(&running_lock);
	pthread_mutex_lock(&s->lu->lock);
	s->lu->sanitize = NULL;
	pthread_mutex_unlock(&s->lu->lock);
	free_sanitize(s);
	if (waiter)
		scsi_complete(waiter);
}

/* SBC-4 4.11.4: the volume stays sealed until another operation succeeds, or EXIT FAILURE MODE. */
static void
fail_sanitize(struct scsi_sanitize *s, int rc)
{
	log_error("%s: volume %s: sanitizing failed %u %% of the way: %s", blk_name(s->handle),
		volume_name(blk_volume(s->handle)),
		(unsigned)(atomic_load(&s->progress) * 100 / 65536), strerror(-rc));
	if (s->waiter)
		scsi_fail(s->waiter, KEY_MEDIUM_ERROR, ASC_SANITIZE_FAILED);
	set_restricted(s, !s->unrestricted);
	end_sanitize(s);
}

static void
succeed(struct scsi_sanitize *s)
{
	log_info("%s: volume %s: sanitized in %" PRIu64 " s", blk_name(s->handle),
		volume_name(blk_volume(s->handle)), (loop_now(s->loop) - s->started) / SECOND_NS);
	set_restricted(s, false);
	blk_unseal(s->handle);
	end_sanitize(s);
}

static void
submit_piece(struct scsi_sanitize *s, enum blk_op op, unsigned flags, uint64_t length,
	void (*done)(struct blk_request *request))
{
	s->blk.op = op;
	s->blk.flags = flags;
	s->blk.offset = op == BLK_FLUSH ? 0 : s->offset;
	s->blk.length = length;
	s->blk.done = done;
	blk_submit(s->handle, &s->blk);
}

static double
fraction_done(const struct scsi_sanitize *s)
{
	return (s->pass + (double)s->offset / (double)s->size) / s->passes;
}

static void go_on(struct scsi_sanitize *s);

static void
on_timer(struct loop_timer *timer)
{
	go_on(container_of(timer, struct scsi_sanitize, timer));
}

/*
 * An overwrite that memory could do at once is spread over LIMIT_SCSI_SANITIZE, so that whoever
 * polls sees it begin, go on and end. It waits for a second at most before it looks whether it has
 * to end.
 */
static void
go_on(struct scsi_sanitize *s)
{
	double done = fraction_done(s);
	uint64_t now = loop_now(s->loop), due = s->started;

	if (s->method == SA_SANITIZE_OVERWRITE)
		due += (uint64_t)(done * (double)LIMIT_SCSI_SANITIZE);
	if (now < due)
		done *= (double)(now - s->started) / (double)(due - s->started);
	atomic_store(&s->progress, (uint16_t)(done * 65535));
	if (volume_going(blk_volume(s->handle)))
		s->stop = true;
	if (s->stop || now >= due ||
		loop_timer_start(s->loop, &s->timer, min_u64(due - now, SECOND_NS), on_timer) < 0)
		next_piece(s);
}

static void
invert_pattern(struct scsi_sanitize *s)
{
	for (unsigned i = 0; s->invert && i < PATTERN_BYTES; i++)
		s->pattern[i] ^= 0xff;
}

/* A pass is on the medium. */
static void
pass_done(struct blk_request *request)
{
	struct scsi_sanitize *s = container_of(request, struct scsi_sanitize, blk);

	if (request->rc < 0) {
		fail_sanitize(s, request->rc);
		return;
	}
	s->pass++;
	s->offset = 0;
	invert_pattern(s);
	if (s->pass == s->passes)
		succeed(s);
	else
		next_piece(s);
}

static void
piece_done(struct blk_request *request)
{
	struct scsi_sanitize *s = container_of(request, struct scsi_sanitize, blk);

	if (request->rc < 0) {
		fail_sanitize(s, request->rc);
		return;
	}
	s->offset += request->length;
	go_on(s);
}

static void
write_piece(struct scsi_sanitize *s)
{
	uint64_t length = min_u64(s->size - s->offset, s->piece_max), left = length;
	unsigned n = 0;

	for (; left; n++) {
		s->iov[n] = (struct iovec){s->pattern, (size_t)min_u64(left, PATTERN_BYTES)};
		left -= s->iov[n].iov_len;
	}
	s->blk.iov = s->iov;
	s->blk.niov = n;
	submit_piece(s, BLK_WRITE, 0, length, piece_done);
}

static void
next_piece(struct scsi_sanitize *s)
{
	if (s->stop)
		fail_sanitize(s, -ESHUTDOWN);
	else if (s->offset == s->size)
		submit_piece(s, BLK_FLUSH, 0, 0, pass_done);
	else if (s->method == SA_SANITIZE_OVERWRITE)
		write_piece(s);
	else
		submit_piece(s, BLK_ZERO, BLK_MAY_UNMAP, min_u64(s->size - s->offset, ERASE_BYTES),
			piece_done);
}

/*
 * Nothing is in flight. The CDB was checked before its parameter list came and before what was in flight
 * ended: a reservation that was made meanwhile is obeyed, since nothing else would stop the operation (its
 * handle is not bound by any), and a task that was taken back meanwhile has not begun.
 */
static bool
may_begin(void *arg)
{
	const struct scsi_sanitize *s = arg;

	return s->waiter &&
	       !(reservation_fence(s->waiter->unit->handle) & (FENCE_RESERVED | FENCE_WRITE));
}

/* Nobody reaches the volume any more. With IMMED the task has waited for this much. */
static void
volume_sealed(void *arg, int rc)
{
	struct scsi_sanitize *s = arg;
	struct scsi_task *task = s->waiter;

	if (rc < 0) {
		if (task && rc == -EPERM)
			task->status = SCSI_RESERVATION_CONFLICT;
		else if (task)
			scsi_fail(task, KEY_ABORTED_COMMAND, ASC_COMMAND_TIMEOUT);
		end_sanitize(s);
		return;
	}
	s->size = blk_size(s->handle);
	s->started = loop_now(s->loop);
	log_info("%s: volume %s: %s began", blk_name(s->handle), volume_name(blk_volume(s->handle)),
		s->method == SA_SANITIZE_OVERWRITE ? "overwriting" : "erasing");
	if (s->immediate && task) {
		s->waiter = NULL;
		scsi_complete(task);
	}
	next_piece(s);
}

/* The command */

/* The transport does not wait any longer; an operation that has begun goes on. SBC-4 4.11.2 */
static void
withdraw_sanitize(struct scsi_task *task)
{
	struct scsi_lu *lu = task->unit->lu;
	bool waits;

	pthread_mutex_lock(&lu->lock);
	waits = lu->sanitize && lu->sanitize->waiter == task;
	if (waits)
		lu->sanitize->waiter = NULL;
	pthread_mutex_unlock(&lu->lock);
	if (waits)
		scsi_finish(task);
}

bool
prepare_sanitize(struct scsi_task *task)
{
	unsigned length = get_be16(task->cdb + 7);
	bool overwrite = task->opcode->action == SA_SANITIZE_OVERWRITE;

	if (overwrite ? length <= LIST_HEADER || length > LIST_HEADER + task->unit->info.block_size
		      : length != 0)
		return scsi_fail_cdb(task, 7);
	/* What failed in the restricted mode may not be tried again in the other. */
	if ((task->cdb[1] & CDB_AUSE) && blk_sealed(task->unit->handle) &&
		(task->unit->settings & UNIT_SANITIZE_RESTRICTED))
		return scsi_fail_cdb(task, 1);
	task->out_length = length;
	return true;
}

/* Each block begins with the first byte of the pattern. */
static void
fill_pattern(struct scsi_sanitize *s, const uint8_t *pattern, size_t length, uint32_t block)
{
	for (size_t i = 0; i < PATTERN_BYTES; i++)
		s->pattern[i] = pattern[i % block % length];
}

/* SBC-4 5.24.2, the parameter list of OVERWRITE. False: sense is set. */
static bool
load_pattern(struct scsi_task *task, struct scsi_sanitize *s)
{
	uint8_t list[LIST_HEADER + SCSI_BLOCK_MAX];
	size_t length = (size_t)task->out_length, pattern;

	if (task->out.length < length)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
	iov_to(task->out.iov, task->out.niov, 0, list, length);
	s->passes = list[0] & 0x1f; /* OVERWRITE COUNT */
	s->invert = list[0] & 0x80;
	pattern = get_be16(list + 2);
	if (s->passes == 0 || (list[0] & 0x60)) /* TEST */
		return scsi_fail_list(task, 0);
	if (list[1] != 0)
		return scsi_fail_list(task, 1);
	if (pattern == 0 || pattern > task->unit->info.block_size)
		return scsi_fail_list(task, 2);
	if (pattern > length - LIST_HEADER)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	fill_pattern(s, list + LIST_HEADER, pattern, task->unit->info.block_size);
	/* The last pass leaves the pattern as it was sent. */
	if (s->passes % 2 == 0)
		invert_pattern(s);
	return true;
}

static struct scsi_sanitize *
new_sanitize(struct scsi_task *task)
{
	struct scsi_unit *unit = task->unit;
	struct scsi_sanitize *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return NULL;
	s->pattern = aligned_alloc(4096, PATTERN_BYTES);
	s->handle = s->pattern
			    ? blk_open(blk_volume(unit->handle), blk_name(unit->handle), false, &rc)
			    : NULL;
	if (!s->handle) {
		free(s->pattern);
		free(s);
		return NULL;
	}
	s->loop = loop_current();
	s->lu = scsi_lu_get(unit->lu);
	s->piece_max = min_u64(unit->transfer_max, PATTERNS * PATTERN_BYTES);
	s->waiter = task;
	s->method = task->opcode->action;
	s->immediate = task->cdb[1] & CDB_SANITIZE_IMMED;
	s->unrestricted = task->cdb[1] & CDB_AUSE;
	s->passes = 1;
	return s;
}

/* Becomes the unit's. False: another one is. */
static bool
install(struct scsi_sanitize *s)
{
	bool first;

	pthread_mutex_lock(&s->lu->lock);
	first = !s->lu->sanitize;
	if (first)
		s->lu->sanitize = s;
	pthread_mutex_unlock(&s->lu->lock);
	if (!first)
		return false;
	pthread_mutex_lock(&running_lock);
	LIST_INSERT_HEAD(&running, s, link);
	pthread_mutex_unlock(&running_lock);
	return true;
}

void
execute_sanitize(struct scsi_task *task)
{
	struct scsi_sanitize *s = new_sanitize(task);

	if (!s) {
		scsi_fail_busy(task);
		scsi_finish(task);
		return;
	}
	if (s->method == SA_SANITIZE_OVERWRITE && !load_pattern(task, s)) {
		free_sanitize(s);
		scsi_finish(task);
		return;
	}
	if (!install(s)) {
		free_sanitize(s);
		scsi_fail(task, KEY_NOT_READY, ASC_SANITIZE_IN_PROGRESS);
		scsi_finish(task);
		return;
	}
	task->withdraw = withdraw_sanitize;
	if (blk_seal(s->handle, may_begin, volume_sealed, s) < 0) {
		s->waiter = NULL;
		end_sanitize(s);
		scsi_fail_busy(task);
		scsi_finish(task);
	}
}

/* EXIT FAILURE MODE */

bool
prepare_exit_failure(struct scsi_task *task)
{
	if (get_be16(task->cdb + 7) != 0)
		return scsi_fail_cdb(task, 7);
	if (blk_sealed(task->unit->handle) && (task->unit->settings & UNIT_SANITIZE_RESTRICTED))
		return scsi_fail_cdb(task, 1);
	return true;
}

/* What the volume holds then is whatever it holds. */
void
execute_exit_failure(struct scsi_task *task)
{
	if (blk_sealed(task->unit->handle))
		blk_unseal(task->unit->handle);
	scsi_finish(task);
}

/* The daemon ends */

unsigned
scsi_background(const struct loop *loop)
{
	struct scsi_sanitize *s;
	unsigned n = 0;

	pthread_mutex_lock(&running_lock);
	LIST_FOREACH(s, &running, link)
		n += s->loop == loop;
	pthread_mutex_unlock(&running_lock);
	return n;
}

void
scsi_drain(const struct loop *loop)
{
	struct scsi_sanitize *s;

	pthread_mutex_lock(&running_lock);
	LIST_FOREACH(s, &running, link) {
		if (s->loop == loop)
			s->stop = true;
	}
	pthread_mutex_unlock(&running_lock);
}
