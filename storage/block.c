#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "storage.h"

#define OP(op) (1u << (op))

#define WRITING (OP(BLK_WRITE) | OP(BLK_ZERO) | OP(BLK_DISCARD) | OP(BLK_COMPARE_WRITE))
#define MOVING  (OP(BLK_READ) | OP(BLK_WRITE) | OP(BLK_COMPARE_WRITE))

static const char *const op_names[BLK_OPS] = {"read", "write", "write zeroes", "discard", "flush",
	"extents", "prefetch", "compare and write"};

const char *
blk_op_name(enum blk_op op)
{
	return (unsigned)op < BLK_OPS ? op_names[op] : "unknown operation";
}

struct blk_handle *
blk_open(struct volume *volume, const char *name, bool read_only, int *rc)
{
	size_t length = strlen(name) + 1;
	struct blk_handle *handle;
	struct lane *lane;

	if (volume_going(volume)) {
		*rc = -ESHUTDOWN;
		return NULL;
	}
	lane = volume_lane(volume);
	handle = lane ? calloc(1, sizeof(*handle) + length) : NULL;
	if (!handle) {
		*rc = -ENOMEM;
		return NULL;
	}
	handle->volume = volume_get(volume);
	handle->lane = lane;
	handle->loop = lane->loop;
	handle->read_only = read_only || volume->info.read_only;
	handle->client = &handle->own;
	handle->name = memcpy(handle->own.name, name, length);
	pthread_mutex_lock(&volume->lock);
	LIST_INSERT_HEAD(&lane->handles, handle, link);
	reservation_fence_handle(handle);
	pthread_mutex_unlock(&volume->lock);
	atomic_fetch_add(&volume->nhandles, 1);
	*rc = 0;
	return handle;
}

void
counters_merge(struct blk_counters *into, const struct blk_counters *from)
{
	for (unsigned op = 0; op < BLK_OPS; op++)
		counter_add(&into->operations[op], from->operations[op]);
	counter_add(&into->bytes_read, from->bytes_read);
	counter_add(&into->bytes_written, from->bytes_written);
	counter_add(&into->errors, from->errors);
	counter_add(&into->read_failures, from->read_failures);
	counter_add(&into->write_failures, from->write_failures);
	counter_add(&into->rmw_ops, from->rmw_ops);
	counter_add(&into->bounced_bytes, from->bounced_bytes);
}

void
blk_close(struct blk_handle *handle)
{
	struct volume *volume = handle->volume;

	CHECK(handle->in_flight == 0);
	seal_forget(handle);
	reservation_forget(handle);
	pthread_mutex_lock(&volume->lock);
	LIST_REMOVE(handle, link);
	client_leave(handle);
	counters_merge(&handle->lane->closed, &handle->counters);
	pthread_mutex_unlock(&volume->lock);
	atomic_fetch_sub(&volume->nhandles, 1);
	free(handle);
	volume_put(volume);
}

struct volume *
blk_volume(const struct blk_handle *handle)
{
	return handle->volume;
}

const char *
blk_name(const struct blk_handle *handle)
{
	return handle->name;
}

struct blk_counters *
blk_counters(struct blk_handle *handle)
{
	return &handle->counters;
}

void
blk_info(const struct blk_handle *handle, struct blk_info *info)
{
	*info = handle->volume->info;
	info->size = atomic_load_explicit(&handle->volume->size, memory_order_relaxed);
	info->read_only = handle->read_only;
}

uint64_t
blk_size(const struct blk_handle *handle)
{
	return atomic_load_explicit(&handle->volume->size, memory_order_relaxed);
}

bool
blk_check(const struct blk_handle *handle, uint64_t offset, uint64_t length)
{
	return range_within(
		offset, length, atomic_load_explicit(&handle->volume->size, memory_order_relaxed));
}

unsigned
blk_content(const struct blk_handle *handle)
{
	return atomic_load_explicit(&handle->volume->content, memory_order_relaxed);
}

bool
blk_gone(const struct blk_handle *handle)
{
	return atomic_load_explicit(&handle->volume->refuse, memory_order_relaxed) & VOLUME_GONE;
}

uint64_t
blk_allocated(const struct blk_handle *handle)
{
	struct volume *volume = handle->volume;

	return volume->driver->allocated
		       ? volume->driver->allocated(volume->state)
		       : atomic_load_explicit(&volume->size, memory_order_relaxed);
}

bool
blk_inline(const struct blk_handle *handle)
{
	const struct volume *volume = handle->volume;

	return volume->info.carried_inline && !handle->lane->frozen && !handle->lane->layers &&
	       !(atomic_load_explicit(&volume->refuse, memory_order_relaxed) &
		       ~(unsigned)VOLUME_RESERVED);
}

/* Design section 3: who is fenced off by a reservation, through whatever protocol. */
static bool
is_fenced(const struct blk_request *request)
{
	unsigned fence = reservation_fence(request->handle);

	if (OP(request->op) & WRITING)
		return fence & FENCE_WRITE;
	return request->op != BLK_FLUSH && (fence & FENCE_READ);
}

/* What a volume that is broken, going, sealed or reserved answers; 0: it may pass. */
static int
refused_rc(const struct volume *volume, unsigned refuse, const struct blk_request *request)
{
	if (refuse & VOLUME_GOING)
		return -ESHUTDOWN;
	if (refuse & VOLUME_GONE)
		return -ENODEV;
	if (refuse & VOLUME_SEALED) {
		if (atomic_load_explicit(&volume->sealer, memory_order_acquire) != request->handle)
			return -ENODEV;
	} else if ((refuse & VOLUME_RESERVED) && is_fenced(request)) {
		return -EPERM;
	}
	if (!(refuse & VOLUME_BROKEN))
		return 0;
	/* B7 */
	if (volume->info.buffered || (OP(request->op) & (WRITING | OP(BLK_FLUSH))) ||
		(request->flags & BLK_FUA))
		return -EIO;
	return 0;
}

/* The first checks of a request (B9). Above 0: nothing is left to do. */
static int
check_request(const struct volume *volume, const struct blk_request *request)
{
	unsigned refuse = atomic_load_explicit(&volume->refuse, memory_order_acquire);
	int rc;

	if (__builtin_expect((unsigned)request->op >= BLK_OPS, 0))
		return -EINVAL;
	if (__builtin_expect(refuse != 0, 0)) {
		rc = refused_rc(volume, refuse, request);
		if (rc)
			return rc;
	}
	if (OP(request->op) & WRITING && request->handle->read_only)
		return -EROFS;
	/* A layer may make a sync of what needs none. */
	if (request->op == BLK_FLUSH)
		return volume->drop_sync && !request->handle->lane->layers ? 1 : 0;
	if (!range_within(request->offset, request->length,
		    atomic_load_explicit(&volume->size, memory_order_relaxed)))
		return -ERANGE;
	if (request->length == 0)
		return 1;
	if (OP(request->op) & MOVING && request->length > volume->info.transfer_max)
		return -EINVAL;
	if (request->op == BLK_COMPARE_WRITE && request->length > LIMIT_IOBUF_PIECE)
		return -EINVAL;
	if (request->op == BLK_EXTENTS && request->nextents == 0)
		return -EINVAL;
	return 0;
}

/* Offset, length and memory as the driver needs them. */
static bool
is_aligned(const struct volume *volume, const struct blk_request *request)
{
	uint64_t bits = request->offset | request->length;

	if (OP(request->op) & (OP(BLK_READ) | OP(BLK_WRITE)))
		for (unsigned i = 0; i < request->niov; i++)
			bits |= (uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len;
	return (bits & volume->align_mask) == 0;
}

static void
start_request(struct blk_request *request)
{
	struct blk_handle *handle = request->handle;
	struct volume *volume = handle->volume;
	struct lane *lane = handle->lane;
	int rc = check_request(volume, request);

	request->cancel = NULL;
	if (__builtin_expect(rc != 0, 0)) {
		if (rc > 0 && request->op == BLK_EXTENTS)
			request->nextents = 0;
		blk_complete(request, rc < 0 ? rc : 0);
		return;
	}
	if (__builtin_expect(lane->frozen, 0) && freeze_holds(lane, request))
		return;
	TAILQ_INSERT_TAIL(&lane->in_flight, request, link);
	request->state |= STATE_LISTED;
	if (request->op == BLK_FLUSH) {
		request->state |= STATE_SYNCED;
		sync_join(request);
	} else if (!(volume->info.native & OP(request->op)) ||
		   (volume->align_mask && !is_aligned(volume, request))) {
		emulate(request);
	} else {
		if (__builtin_expect(request->flags & BLK_FUA, 0) && request->op == BLK_WRITE &&
			volume->write_syncs)
			sync_write_begin(request);
		blk_dispatch(request);
	}
}

void
blk_retry_blocking(struct blk_request *request)
{
	if (request->state & STATE_CANCELLED) {
		blk_complete(request, -ETIMEDOUT);
		return;
	}
	if (request->state & STATE_SYNCING)
		sync_write_forget(request);
	blocking_submit(request);
}

static void
cancel_driven(struct blk_request *request)
{
	struct volume *volume = request->handle->volume;

	volume->driver->cancel(volume->state, request);
}

void
blk_dispatch(struct blk_request *request)
{
	if (__builtin_expect(request->handle->lane->layers, 0) && !(request->state & STATE_LAYERED))
		layer_enter(request);
	else
		blk_drive(request);
}

void
blk_drive(struct blk_request *request)
{
	struct volume *volume = request->handle->volume;

	request->progress = 0;
	request->driver[0] = request->driver[1] = 0;
	request->cancel = volume->driver->cancel ? cancel_driven : NULL;
	if (volume->submits & OP(request->op) && volume->driver->submit(volume->state, request))
		return;
	if (request->op == BLK_COMPARE_WRITE)
		emulate(request);
	else if (request->op == BLK_FLUSH && !volume->driver->flush)
		blk_complete(request, 0); /* for the sake of a layer */
	else
		blk_retry_blocking(request);
}

void
blk_submit(struct blk_handle *handle, struct blk_request *request)
{
	request->handle = handle;
	request->task.run = blk_finish;
	request->task.queued = false;
	request->started = loop_now(handle->loop);
	request->state = STATE_OWNED;
	request->rc = 0;
	handle->in_flight++;
	start_request(request);
}

void
blk_take_back(struct blk_request *request)
{
	request->state |= STATE_CANCELLED;
	if (request->cancel)
		request->cancel(request);
}

void
blk_cancel(struct blk_request *request)
{
	if ((request->state & STATE_OWNED) && !(request->state & STATE_CANCELLED))
		blk_take_back(request);
}

void
blk_abandon(struct blk_request *request)
{
	blk_cancel(request);
	if (request->state & STATE_OWNED && OP(request->op) & WRITING && request->length > 0)
		freeze_behind(request);
}

void
blk_restart(struct blk_request *request)
{
	start_request(request);
}

int
blk_recheck(const struct blk_request *request)
{
	return check_request(request->handle->volume, request);
}

void
blk_complete(struct blk_request *request, int rc)
{
	struct loop *loop = request->handle->loop;

	request->rc = rc;
	if (loop_current() == loop) {
		request->cancel = NULL;
		loop_defer(loop, &request->task);
		return;
	}
	/* `cancel` is the loop's: who is asked there finds that he has the request no more. */
	loop_post(loop, &request->task);
}

static void
run_continuation(struct loop_task *task)
{
	struct blk_request *request = container_of(task, struct blk_request, task);
	void (*more)(struct blk_request *) = (void (*)(struct blk_request *))request->driver[1];

	request->task.run = blk_finish;
	more(request);
}

void
blk_yield(struct blk_request *request, void (*more)(struct blk_request *request))
{
	request->driver[1] = (uintptr_t)more;
	request->task.run = run_continuation;
	loop_defer(request->handle->loop, &request->task);
}

void *
blk_driver_state(const struct blk_request *request)
{
	return request->handle->volume->state;
}

void
blk_unlist(struct blk_request *request)
{
	struct lane *lane = request->handle->lane;

	if (!(request->state & STATE_LISTED))
		return;
	TAILQ_REMOVE(&lane->in_flight, request, link);
	request->state &= ~(uint32_t)STATE_LISTED;
	if (__builtin_expect(lane->frozen, 0))
		freeze_passed(lane, request);
}

static void
count_request(struct blk_handle *handle, const struct blk_request *request)
{
	struct blk_counters *counters = &handle->counters;

	counter_add(&counters->operations[request->op], 1);
	if (__builtin_expect(request->rc != 0, 0)) {
		counter_add(&counters->errors, 1);
		if (request->rc == -EIO)
			counter_add(OP(request->op) & (WRITING | OP(BLK_FLUSH))
					    ? &counters->write_failures
					    : &counters->read_failures,
				1);
		return;
	}
	if (request->op == BLK_READ)
		counter_add(&counters->bytes_read, request->length);
	else if (request->op == BLK_WRITE || request->op == BLK_COMPARE_WRITE)
		counter_add(&counters->bytes_written, request->length);
	if (request->op == BLK_READ || request->op == BLK_WRITE)
		histogram_add(&handle->lane->latency[request->op],
			loop_now(handle->loop) - request->started);
}

/* The last step: the request is its owner's again. */
static void
end_request(struct blk_request *request)
{
	struct blk_handle *handle = request->handle;

	blk_unlist(request);
	/* B7: looked at last, so that no success is told after another loop saw a sync fail. */
	if (request->rc == 0) {
		unsigned refuse =
			atomic_load_explicit(&handle->volume->refuse, memory_order_acquire);

		if (__builtin_expect(refuse & VOLUME_BROKEN, 0))
			request->rc = refused_rc(handle->volume, VOLUME_BROKEN, request);
	}
	if ((unsigned)request->op < BLK_OPS)
		count_request(handle, request);
	handle->in_flight--;
	request->state = 0;
	request->done(request);
}

void
blk_finish(struct loop_task *task)
{
	struct blk_request *request = container_of(task, struct blk_request, task);

	if (__builtin_expect(request->state & STATE_PASSED, 0) && !layer_leave(request))
		return;
	if (request->state & STATE_SUB) {
		request->done(request);
		return;
	}
	if (__builtin_expect(request->state & STATE_SYNCING, 0) && !sync_write_end(request))
		return;
	/* The driver has zero(), but what is below it has not. */
	if (__builtin_expect(request->rc == -ENOTSUP, 0) && request->op == BLK_ZERO &&
		!(request->flags & BLK_FAST_ONLY) && !(request->state & STATE_EMULATED)) {
		emulate(request);
		return;
	}
	/* B6: durable when it completes, and the sync begins after what it covers is done. */
	if (__builtin_expect(request->flags & BLK_FUA, 0) && request->rc == 0 &&
		OP(request->op) & WRITING && !(request->state & STATE_SYNCED) && request->length &&
		(!request->handle->volume->drop_sync || request->handle->lane->layers)) {
		request->state |= STATE_SYNCED;
		sync_join(request);
		return;
	}
	end_request(request);
}
