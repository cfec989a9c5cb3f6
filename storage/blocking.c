/*
 * Blocking drivers. What one turn of a loop brings for a volume is handed over in one piece. One
 * job, at most, is started from the loop; a job that takes a request and leaves others behind
 * starts the next, up to LIMIT_VOLUME_WORKS. So requests that take microseconds are done by one
 * worker without waking others, and a small read does not wait behind slow ones while a worker of
 * the volume is idle.
 */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "storage.h"

uint32_t
blocking_operations(const struct blk_driver *driver)
{
	return (driver->read ? 1u << BLK_READ : 0) | (driver->write ? 1u << BLK_WRITE : 0) |
	       (driver->flush ? 1u << BLK_FLUSH : 0) | (driver->zero ? 1u << BLK_ZERO : 0) |
	       (driver->discard ? 1u << BLK_DISCARD : 0) |
	       (driver->extents ? 1u << BLK_EXTENTS : 0) |
	       (driver->prefetch ? 1u << BLK_PREFETCH : 0);
}

static int
flush_driver(const struct volume *volume)
{
	int rc;

	do
		rc = volume->driver->flush(volume->state);
	while (rc == -EINTR);
	return rc;
}

static int
call_driver(const struct volume *volume, struct blk_request *request)
{
	const struct blk_driver *driver = volume->driver;
	void *state = volume->state;

	switch (request->op) {
	case BLK_READ:
		return driver->read(
			state, request->iov, request->niov, request->offset, request->length);
	case BLK_WRITE:
		return driver->write(
			state, request->iov, request->niov, request->offset, request->length);
	case BLK_ZERO:
		return driver->zero(state, request->offset, request->length,
			request->flags & (BLK_MAY_UNMAP | BLK_FAST_ONLY));
	case BLK_DISCARD:
		return driver->discard(state, request->offset, request->length);
	case BLK_EXTENTS:
		if (request->flags & BLK_EXTENT_ONE)
			request->nextents = 1;
		return driver->extents(state, request->offset, request->length, request->extents,
			&request->nextents);
	case BLK_PREFETCH:
		return driver->prefetch(state, request->offset, request->length);
	case BLK_FLUSH: /* that came through layers: sync.c calls it else */
		return flush_driver(volume);
	default:
		return -EINVAL;
	}
}

/* Takes an idle job for what waits, with a reference to the volume. Under jobs->lock. */
static struct job *
take_job(struct jobs *jobs)
{
	struct job *job;

	if (!jobs->waiting.first || jobs->nidle == 0)
		return NULL;
	job = jobs->idle[--jobs->nidle];
	volume_get(job->volume);
	return job;
}

/* A worker. */
static void
run_job(struct work *work)
{
	struct job *job = container_of(work, struct job, work);
	struct volume *volume = job->volume;
	struct jobs *jobs = &volume->jobs;

	pthread_mutex_lock(&jobs->lock);
	for (;;) {
		struct blk_request *request = chain_pop(&jobs->waiting);
		struct job *next = request ? take_job(jobs) : NULL;

		if (!request)
			break;
		pthread_mutex_unlock(&jobs->lock);
		if (next)
			work_submit(volume->works, &next->work);
		blk_complete(request, call_driver(volume, request));
		pthread_mutex_lock(&jobs->lock);
	}
	jobs->idle[jobs->nidle++] = job;
	pthread_mutex_unlock(&jobs->lock);
	volume_put(volume);
}

/* At the end of the turn in which the batch's first request came. */
static void
hand_over_batch(struct loop_task *task)
{
	struct lane *lane = container_of(task, struct lane, batch_task);
	struct volume *volume = lane->volume;
	struct jobs *jobs = &volume->jobs;
	struct job *job;

	/* Cancelled, all of it. */
	if (!lane->batch.first)
		return;
	pthread_mutex_lock(&jobs->lock);
	if (jobs->waiting.last)
		jobs->waiting.last->driver[0] = (uintptr_t)lane->batch.first;
	else
		jobs->waiting.first = lane->batch.first;
	jobs->waiting.last = lane->batch.last;
	job = take_job(jobs);
	pthread_mutex_unlock(&jobs->lock);
	lane->batch = (struct request_chain){NULL, NULL};
	if (job)
		work_submit(volume->works, &job->work);
}

/* Unless a worker has begun with it. */
static void
cancel_waiting(struct blk_request *request)
{
	struct lane *lane = request->handle->lane;
	struct jobs *jobs = &lane->volume->jobs;
	bool found = chain_remove(&lane->batch, request);

	if (!found) {
		pthread_mutex_lock(&jobs->lock);
		found = chain_remove(&jobs->waiting, request);
		pthread_mutex_unlock(&jobs->lock);
	}
	if (found)
		blk_complete(request, -ETIMEDOUT);
}

void
blocking_submit(struct blk_request *request)
{
	struct lane *lane = request->handle->lane;

	request->cancel = cancel_waiting;
	if (!lane->batch_task.queued) {
		lane->batch_task.run = hand_over_batch;
		loop_defer(lane->loop, &lane->batch_task);
	}
	chain_append(&lane->batch, request);
}

int
jobs_start(struct volume *volume)
{
	struct jobs *jobs = &volume->jobs;

	volume->works = work_queue_new(LIMIT_VOLUME_WORKS);
	if (!volume->works)
		return -ENOMEM;
	pthread_mutex_init(&jobs->lock, NULL);
	for (unsigned i = 0; i < LIMIT_VOLUME_WORKS; i++) {
		jobs->job[i].volume = volume;
		jobs->job[i].work.run = run_job;
		jobs->idle[jobs->nidle++] = &jobs->job[i];
	}
	return 0;
}

void
jobs_stop(struct volume *volume)
{
	CHECK(!volume->jobs.waiting.first);
	work_queue_free(volume->works);
	pthread_mutex_destroy(&volume->jobs.lock);
}
