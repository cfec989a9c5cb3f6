/*
 * B6 and B7: one sync per volume at a time, shared by all who ask before it begins; a failure is
 * told to all of them and latches the volume. The kernel tells a failed write-back to one caller
 * only and says success afterwards: a second sync in flight, or a later one, would be told a lie
 * (promises section 3).
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "storage.h"

void
volume_latch(struct volume *volume, const char *what, int rc)
{
	time_t now = (time_t)clock_wall();
	const char *name = strerrorname_np(-rc);
	char when[32] = "";
	struct tm tm;

	if (localtime_r(&now, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	pthread_mutex_lock(&volume->lock);
	if (atomic_load(&volume->refuse) & VOLUME_BROKEN) {
		pthread_mutex_unlock(&volume->lock);
		return;
	}
	snprintf(volume->why, sizeof(volume->why), "%s failed with %s at %s", what,
		name ? name : "an unknown error", when);
	atomic_fetch_or(&volume->refuse, VOLUME_BROKEN);
	pthread_mutex_unlock(&volume->lock);
	log_error("volume %s: %s; %swrites and flushes are refused from now on", volume->name,
		volume->why, volume->info.buffered ? "reads, " : "");
}

void
volume_mark_gone(struct volume *volume)
{
	pthread_mutex_lock(&volume->lock);
	if (!(atomic_fetch_or(&volume->refuse, VOLUME_GONE) & VOLUME_GONE)) {
		log_error("volume %s: the device is gone", volume->name);
		if (!volume->why[0])
			snprintf(volume->why, sizeof(volume->why), "the device is gone");
	}
	pthread_mutex_unlock(&volume->lock);
}

/*
 * Syncs on their way, in order of their beginning: the shared one and the WRITEs that are their own.
 * One that succeeded waits in `done` for those that were on their way when it ended: each of these
 * overlapped it, and may yet be told of the failure that was its own. Later ones did not. All under the
 * volume's lock.
 */

static void
begin_one(struct sync *sync, struct blk_sync *one)
{
	one->number = sync->next_number++;
	TAILQ_INSERT_TAIL(&sync->on_way, one, link);
}

static void
hold_back(struct sync *sync, struct blk_request *request)
{
	request->sync.number = sync->next_number;
	chain_append(&sync->done, request);
}

/* Those that no sync on its way overlapped. */
static struct request_chain
take_released(struct sync *sync)
{
	const struct blk_sync *oldest = TAILQ_FIRST(&sync->on_way);
	struct request_chain released = {NULL, NULL};

	while (sync->done.first && (!oldest || sync->done.first->sync.number <= oldest->number))
		chain_append(&released, chain_pop(&sync->done));
	return released;
}

/* The last word: after every failure that it may have hidden was latched. */
static int
released_rc(const struct volume *volume)
{
	return volume_broken(volume) ? -EIO : 0;
}

static void
complete_chain(struct request_chain *chain, int rc)
{
	struct blk_request *request;

	while ((request = chain_pop(chain)))
		blk_complete(request, rc);
}

/* ENOSPC and ENODEV are said to those whose sync it was; whoever comes later finds the latch: EIO. */
static int
failed_rc(int rc)
{
	return rc == -ENOSPC || rc == -ENODEV ? rc : -EIO;
}

void
sync_write_begin(struct blk_request *request)
{
	struct volume *volume = request->handle->volume;

	request->state |= STATE_SYNCING | STATE_SYNCED;
	pthread_mutex_lock(&volume->lock);
	begin_one(&volume->sync, &request->sync);
	pthread_mutex_unlock(&volume->lock);
}

/* It is not on its way any more; those it held back go. */
static void
end_write(struct blk_request *request, bool hold)
{
	struct volume *volume = request->handle->volume;
	struct request_chain released;

	request->state &= ~(uint32_t)STATE_SYNCING;
	pthread_mutex_lock(&volume->lock);
	TAILQ_REMOVE(&volume->sync.on_way, &request->sync, link);
	if (hold)
		hold_back(&volume->sync, request);
	released = take_released(&volume->sync);
	pthread_mutex_unlock(&volume->lock);
	complete_chain(&released, released_rc(volume));
}

bool
sync_write_end(struct blk_request *request)
{
	/* Taken back before it was a sync: nobody was told of anything. */
	if (request->rc == -ETIMEDOUT && request->state & STATE_CANCELLED) {
		end_write(request, false);
		return true;
	}
	if (request->rc) {
		/* Before anybody hears of it (B7). */
		volume_latch(request->handle->volume, "write with FUA", request->rc);
		request->rc = failed_rc(request->rc);
		end_write(request, false);
		return true;
	}
	/* Completed a second time by whoever ends last: itself, as a rule. */
	end_write(request, true);
	return false;
}

void
sync_write_forget(struct blk_request *request)
{
	request->state &= ~(uint32_t)STATE_SYNCED;
	end_write(request, false);
}

static void begin_sync(struct volume *volume);

/* Those who waited share the sync that begins now. */
static void
admit_waiting(struct volume *volume)
{
	struct sync *sync = &volume->sync;

	pthread_mutex_lock(&volume->lock);
	sync->sharing = sync->waiting;
	sync->waiting = (struct request_chain){NULL, NULL};
	sync->carrier = NULL;
	begin_one(sync, &sync->mark);
	pthread_mutex_unlock(&volume->lock);
}

/* Tells everybody who shared it. True: others came meanwhile, and `busy` stays. */
static bool
end_sync(struct volume *volume, int rc)
{
	struct sync *sync = &volume->sync;
	struct request_chain sharing = sync->sharing, released;
	struct blk_request *request;
	bool more;

	/* Before anybody hears of it (B7). */
	if (rc)
		volume_latch(volume, "flush", rc);
	sync->sharing = (struct request_chain){NULL, NULL};
	pthread_mutex_lock(&volume->lock);
	TAILQ_REMOVE(&sync->on_way, &sync->mark, link);
	while (!rc && (request = chain_pop(&sharing)))
		hold_back(sync, request);
	released = take_released(sync);
	more = sync->waiting.first && !sync->paused;
	sync->busy = more;
	pthread_mutex_unlock(&volume->lock);
	complete_chain(&sharing, failed_rc(rc));
	complete_chain(&released, released_rc(volume));
	return more;
}

/* A worker. */
static void
run_sync(struct work *work)
{
	struct volume *volume = container_of(work, struct volume, sync.work);
	bool more;

	do {
		int rc;

		admit_waiting(volume);
		/* A latched volume is not synced again: the kernel would say success. */
		if (volume_broken(volume)) {
			more = end_sync(volume, -EIO);
			continue;
		}
		do
			rc = volume->driver->flush(volume->state);
		while (rc == -EINTR);
		more = end_sync(volume, rc);
	} while (more && !atomic_load(&volume->layers));
	if (more)
		begin_sync(volume);
	volume_put(volume);
}

/* The loop of whose request carried it. */
static void
flush_done(struct blk_request *flush)
{
	struct volume *volume = container_of(flush, struct volume, sync.flush);

	if (end_sync(volume, flush->rc))
		begin_sync(volume);
	volume_put(volume);
}

/* On the loop of the first request that waits: the driver is asked through its handle. */
static void
submit_flush(struct blk_request *first)
{
	struct volume *volume = first->handle->volume;
	struct blk_request *flush = &volume->sync.flush;

	admit_waiting(volume);
	*flush = (struct blk_request){.op = BLK_FLUSH,
		.done = flush_done,
		.handle = first->handle,
		.state = STATE_SUB,
		.task.run = blk_finish};
	if (volume_broken(volume))
		blk_complete(flush, -EIO);
	else
		blk_dispatch(flush);
}

static void
submit_flush_here(struct loop_task *task)
{
	struct blk_request *first = container_of(task, struct blk_request, task);

	first->task.run = blk_finish;
	submit_flush(first);
}

/* The caller set `busy`, and somebody waits. Takes a reference to the volume for the sync's time.
 */
static void
begin_sync(struct volume *volume)
{
	struct sync *sync = &volume->sync;
	struct blk_request *first;

	volume_get(volume);
	/* Layers see a sync as they see every request, on a loop. */
	if (volume->driver->flush && !atomic_load(&volume->layers)) {
		volume->sync.work.run = run_sync;
		work_submit(volume->works, &volume->sync.work);
		return;
	}
	pthread_mutex_lock(&volume->lock);
	first = sync->waiting.first;
	sync->carrier = first;
	sync->busy = first != NULL;
	pthread_mutex_unlock(&volume->lock);
	if (!first) { /* cancelled meanwhile */
		volume_put(volume);
	} else if (first->handle->loop == loop_current()) {
		submit_flush(first);
	} else {
		first->task.run = submit_flush_here;
		loop_post(first->handle->loop, &first->task);
	}
}

/* A FLUSH whose sync has not begun. */
static void
cancel_flush(struct blk_request *request)
{
	struct volume *volume = request->handle->volume;
	bool found;

	pthread_mutex_lock(&volume->lock);
	found = volume->sync.carrier != request && chain_remove(&volume->sync.waiting, request);
	pthread_mutex_unlock(&volume->lock);
	if (found)
		blk_complete(request, -ETIMEDOUT);
}

void
sync_join(struct blk_request *request)
{
	struct volume *volume = request->handle->volume;
	struct sync *sync = &volume->sync;
	bool begin;

	/* What a FUA is about has been done. */
	request->cancel = request->op == BLK_FLUSH ? cancel_flush : NULL;
	pthread_mutex_lock(&volume->lock);
	chain_append(&sync->waiting, request);
	begin = !sync->busy && !sync->paused;
	sync->busy = sync->busy || begin;
	pthread_mutex_unlock(&volume->lock);
	if (begin)
		begin_sync(volume);
}

bool
sync_pause(struct volume *volume)
{
	bool quiet;

	pthread_mutex_lock(&volume->lock);
	volume->sync.paused = true;
	quiet = !volume->sync.busy;
	pthread_mutex_unlock(&volume->lock);
	return quiet;
}

void
sync_resume(struct volume *volume)
{
	struct sync *sync = &volume->sync;
	bool begin;

	pthread_mutex_lock(&volume->lock);
	sync->paused = false;
	begin = !sync->busy && sync->waiting.first;
	sync->busy = sync->busy || begin;
	pthread_mutex_unlock(&volume->lock);
	if (begin)
		begin_sync(volume);
}

/* Who waits for a sync asked before the failure was lifted: what is synced afterwards is another
 * description, which knows nothing of what was lost. */
void
volume_unlatch(struct volume *volume)
{
	struct request_chain waiting;

	pthread_mutex_lock(&volume->lock);
	waiting = volume->sync.waiting;
	volume->sync.waiting = (struct request_chain){NULL, NULL};
	volume->why[0] = '\0';
	atomic_fetch_and(&volume->refuse, ~(unsigned)(VOLUME_BROKEN | VOLUME_GONE));
	pthread_mutex_unlock(&volume->lock);
	complete_chain(&waiting, -EIO);
}

/* It has the place of the shared one, so that WRITEs which are their own syncs and overlap it wait for
 * what it is told. */
int
sync_alone(struct volume *volume)
{
	struct sync *sync = &volume->sync;
	struct request_chain released;
	int rc;

	if (!volume->driver->flush)
		return 0;
	pthread_mutex_lock(&volume->lock);
	begin_one(sync, &sync->mark);
	pthread_mutex_unlock(&volume->lock);
	do
		rc = volume->driver->flush(volume->state);
	while (rc == -EINTR);
	if (rc)
		volume_latch(volume, "sync", rc);
	pthread_mutex_lock(&volume->lock);
	TAILQ_REMOVE(&sync->on_way, &sync->mark, link);
	released = take_released(sync);
	pthread_mutex_unlock(&volume->lock);
	complete_chain(&released, released_rc(volume));
	return rc;
}
