/*
 * What an operator changes in an open volume: its size, and the latch. Main thread, one change of a
 * volume at a time; the driver's part runs on a worker of the volume, under a freeze of all of it
 * where nothing else may be in flight.
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "storage.h"

#define LOOK_AGAIN (10 * MS_NS)

struct change {
	struct volume *volume; /* a reference */
	struct freeze freeze;
	bool frozen;
	bool paused; /* no shared sync begins; the last one may be on its way yet */
	bool clear;  /* the latch; else: */
	uint64_t size;
	bool resized; /* the driver was, whatever rc */
	uint64_t deadline;
	struct loop_timer timer;
	struct work work;
	struct loop_task task;
	int rc;
	struct error error;
	void (*done)(void *arg, int rc, const char *text);
	void *arg;
};

static void
end_change(struct change *change, int rc)
{
	struct volume *volume = change->volume;

	if (change->paused)
		sync_resume(volume);
	if (change->frozen)
		freeze_release(&change->freeze);
	volume->changing = false;
	change->done(change->arg, rc, rc ? change->error.text : "");
	free(change);
	volume_put(volume);
}

static int
give_up(struct change *change, int rc, const char *why)
{
	return error_set(&change->error, rc, "volume %s: %s", change->volume->name, why);
}

/* The main loop again: the driver is done. */
static void
driver_changed(struct loop_task *task)
{
	struct change *change = container_of(task, struct change, task);
	struct volume *volume = change->volume;

	if (change->rc) {
		struct error cause = change->error;

		if (change->resized)
			atomic_store(&volume->size, change->size);
		give_up(change, change->rc, cause.text);
		log_warn("%s", change->error.text);
		end_change(change, change->rc);
		return;
	}
	if (change->clear) {
		log_warn("volume %s: cleared by an operator; it had failed: %s", volume->name,
			volume->why);
		volume_unlatch(volume);
	} else {
		log_info("volume %s: %" PRIu64 " bytes now, %" PRIu64 " before", volume->name,
			change->size, atomic_load(&volume->size));
	}
	atomic_store(&volume->size, change->size);
	end_change(change, 0);
}

/* A size that was told is durable. Its sync may be told of a failure that is everybody's (B7). */
static int
resize_driver(struct change *change)
{
	struct volume *volume = change->volume;
	int rc = volume->driver->resize(volume->state, change->size, &change->error);

	if (rc)
		return rc;
	change->resized = true;
	rc = sync_alone(volume);
	return rc ? error_set(&change->error, rc, "resized, but its sync failed: %s", strerror(-rc))
		  : 0;
}

/* A worker. */
static void
change_driver(struct work *work)
{
	struct change *change = container_of(work, struct change, work);
	struct volume *volume = change->volume;

	change->rc = 0;
	if (!change->clear)
		change->rc = resize_driver(change);
	else if (volume->driver->reopen)
		change->rc = volume->driver->reopen(
			volume->state, change->size, &change->size, &change->error);
	change->task.run = driver_changed;
	loop_post(loop_main(), &change->task);
}

static void
ask_driver(struct change *change)
{
	change->work.run = change_driver;
	work_submit(change->volume->works, &change->work);
}

/* Syncs are no part of a range: the one on its way is waited for. */
static void
pause_syncs(struct loop_timer *timer)
{
	struct change *change = container_of(timer, struct change, timer);
	int rc;

	change->paused = true;
	if (sync_pause(change->volume)) {
		ask_driver(change);
	} else if (clock_now() >= change->deadline) {
		rc = give_up(change, -ETIMEDOUT, "a flush in the kernel does not come back");
		end_change(change, rc);
	} else if ((rc = loop_timer_start(loop_main(), timer, LOOK_AGAIN, pause_syncs)) < 0) {
		give_up(change, rc, "no memory");
		end_change(change, rc);
	}
}

static void
all_frozen(struct freeze *freeze, int rc)
{
	struct change *change = container_of(freeze, struct change, freeze);

	if (rc) {
		give_up(change, rc, "requests in flight do not come back");
		end_change(change, rc);
		return;
	}
	change->frozen = true;
	pause_syncs(&change->timer);
}

/* The whole volume; a volume without a byte has nothing in flight either. */
static void
freeze_all(struct change *change)
{
	uint64_t size = atomic_load(&change->volume->size);

	freeze_start(&change->freeze, change->volume, 0, size, FREEZE_ALL, all_frozen);
}

static struct change *
make_change(struct volume *volume, void (*done)(void *arg, int rc, const char *text), void *arg,
	struct error *error)
{
	struct change *change;

	if (volume_occupied(volume)) {
		error_set(error, -EBUSY, "volume %s is %s", volume->name, volume_occupied(volume));
		return NULL;
	}
	change = calloc(1, sizeof(*change));
	if (!change) {
		error_set(error, -ENOMEM, "out of memory");
		return NULL;
	}
	change->deadline = clock_now() + LIMIT_FREEZE_WAIT;
	change->volume = volume_get(volume);
	change->done = done;
	change->arg = arg;
	volume->changing = true;
	return change;
}

static int
check_resize(const struct volume *volume, uint64_t size, bool force, struct error *error)
{
	uint64_t now = atomic_load(&volume->size);
	uint64_t unit = max_u64(volume->info.block_size, volume->info.alignment);

	if (!volume->driver->resize)
		return error_set(error, -ENOTSUP, "volume %s: a %s volume cannot be resized",
			volume->name, volume->driver->name);
	if (volume->info.read_only)
		return error_set(error, -EROFS, "volume %s is read-only", volume->name);
	if (volume_broken(volume))
		return error_set(error, -EIO, "volume %s has failed: clear it first", volume->name);
	if (size == 0 || size > LIMIT_VOLUME_SIZE || size % unit)
		return error_set(error, -EINVAL,
			"volume %s: size %" PRIu64 " is not a multiple of %" PRIu64 " from %" PRIu64
			" to %" PRIu64,
			volume->name, size, unit, unit, LIMIT_VOLUME_SIZE);
	if (size < now && !force)
		return error_set(error, -EPERM,
			"volume %s has %" PRIu64 " bytes; what is above %" PRIu64
			" would be lost: --force does it",
			volume->name, now, size);
	return 0;
}

int
volume_resize(struct volume *volume, uint64_t size, bool force,
	void (*done)(void *arg, int rc, const char *text), void *arg, struct error *error)
{
	int rc = check_resize(volume, size, force, error);
	struct change *change;

	if (rc)
		return rc;
	change = make_change(volume, done, arg, error);
	if (!change)
		return -EBUSY;
	change->size = size;
	if (size >= atomic_load(&volume->size))
		pause_syncs(&change->timer);
	else
		freeze_all(change);
	return 0;
}

int
volume_clear(struct volume *volume, void (*done)(void *arg, int rc, const char *text), void *arg,
	struct error *error)
{
	struct change *change;

	if (!(atomic_load(&volume->refuse) & (VOLUME_BROKEN | VOLUME_GONE)))
		return error_set(error, -EINVAL, "volume %s has not failed", volume->name);
	change = make_change(volume, done, arg, error);
	if (!change)
		return -EBUSY;
	change->clear = true;
	change->size = atomic_load(&volume->size);
	freeze_all(change);
	return 0;
}

void
volume_look(struct volume *volume)
{
	uint64_t size = atomic_load(&volume->size), now;
	uint64_t unit = max_u64(volume->info.block_size, volume->info.alignment);

	if (!volume->driver->measure || volume->changing ||
		atomic_load(&volume->refuse) & VOLUME_GONE)
		return;
	now = round_down(volume->driver->measure(volume->state), unit);
	if (now == 0) {
		volume_mark_gone(volume);
	} else if (now > volume->measured && now > size && now <= LIMIT_VOLUME_SIZE) {
		log_info("volume %s: the device has grown: %" PRIu64 " bytes now, %" PRIu64
			 " before",
			volume->name, now, size);
		atomic_store(&volume->size, now);
	} else if (now < size && now < volume->measured) {
		log_error("volume %s: the device has shrunk to %" PRIu64
			  " bytes, the volume has %" PRIu64 "; what is beyond fails",
			volume->name, now, size);
	}
	volume->measured = now;
}
