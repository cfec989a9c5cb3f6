/*
 * Copies of a volume, where its driver can: a snapshot becomes a volume of its own, a save becomes a file,
 * and a loaded file takes the place of the content. Main thread; the driver's part runs on a worker. What
 * is copied is frozen only as long as a clone takes, which shares what is there; a file is read and
 * written apart from what clients see.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "storage.h"

struct copy {
	struct volume *volume; /* a reference */
	struct volume *made;   /* the snapshot, not open yet; NULL: it is none */
	void *state;           /* a clone, or what was loaded, or what that replaced */
	struct blk_info info;
	char *path;
	struct freeze freeze;
	bool frozen;
	int (*act)(struct copy *copy);    /* on a worker */
	void (*acted)(struct copy *copy); /* on the main loop again */
	struct work work;
	struct loop_task task;
	int rc;
	struct error error;
	volume_copied *done;
	void *arg;
};

static void
thaw(struct copy *copy)
{
	if (copy->frozen)
		freeze_release(&copy->freeze);
	copy->frozen = false;
}

static void
end_copy(struct copy *copy)
{
	struct volume *volume = copy->volume;

	thaw(copy);
	volume->changing = false;
	if (copy->rc && copy->made) {
		volume_abandon(copy->made);
		copy->made = NULL;
	}
	copy->done(copy->arg, copy->made, copy->rc, copy->rc ? copy->error.text : "");
	free(copy->path);
	free(copy);
	volume_put(volume);
}

static void
come_back(struct loop_task *task)
{
	struct copy *copy = container_of(task, struct copy, task);

	copy->acted(copy);
}

/* A worker. */
static void
run_act(struct work *work)
{
	struct copy *copy = container_of(work, struct copy, work);

	copy->rc = copy->act(copy);
	copy->task.run = come_back;
	loop_post(loop_main(), &copy->task);
}

static void
act(struct copy *copy, int (*function)(struct copy *copy), void (*acted)(struct copy *copy))
{
	copy->act = function;
	copy->acted = acted;
	copy->work.run = run_act;
	work_submit(copy->volume->works, &copy->work);
}

static void
freeze_all(struct copy *copy, enum freeze_mode mode, void (*ready)(struct freeze *, int rc))
{
	freeze_start(&copy->freeze, copy->volume, 0, atomic_load(&copy->volume->size), mode, ready);
}

/* True: the volume is frozen, and nobody sealed it since the copy was begun. */
static bool
has_frozen(struct copy *copy, int rc)
{
	copy->frozen = rc == 0;
	if (rc)
		error_set(&copy->error, rc, "requests in flight do not come back");
	else if (atomic_load(&copy->volume->refuse) & VOLUME_SEALED)
		rc = error_set(&copy->error, -EBUSY,
			"volume %s was sealed meanwhile: it is being sanitized, or that failed",
			copy->volume->name);
	copy->rc = rc;
	return rc == 0;
}

/* Snapshot and save. */

static int
clone_driver(struct copy *copy)
{
	struct volume *volume = copy->volume;
	const struct conf_volume *conf = copy->made ? &copy->made->conf : &volume->conf;

	return volume->driver->clone(volume->state, conf, &copy->info, &copy->state, &copy->error);
}

static int
save_clone(struct copy *copy)
{
	const struct blk_driver *driver = copy->volume->driver;
	int rc = driver->save(copy->state, copy->path, &copy->error);

	driver->dispose(copy->state);
	return rc;
}

static void
clone_made(struct copy *copy)
{
	thaw(copy);
	if (!copy->rc && !copy->made) {
		act(copy, save_clone, end_copy);
		return;
	}
	if (!copy->rc)
		volume_settle(copy->made, copy->state, &copy->info);
	end_copy(copy);
}

static void
frozen_for_clone(struct freeze *freeze, int rc)
{
	struct copy *copy = container_of(freeze, struct copy, freeze);

	if (has_frozen(copy, rc))
		act(copy, clone_driver, clone_made);
	else
		end_copy(copy);
}

/* Load. */

static int
load_file(struct copy *copy)
{
	struct volume *volume = copy->volume;

	return volume->driver->load(
		volume->state, &volume->conf, copy->path, &copy->state, &copy->error);
}

static int
dispose(struct copy *copy)
{
	copy->volume->driver->dispose(copy->state);
	return copy->rc;
}

static void
frozen_for_load(struct freeze *freeze, int rc)
{
	struct copy *copy = container_of(freeze, struct copy, freeze);

	if (has_frozen(copy, rc)) {
		copy->rc = copy->volume->driver->adopt(copy->volume->state, copy->state);
		if (copy->rc)
			error_set(&copy->error, copy->rc, "no memory");
		else
			atomic_fetch_add(&copy->volume->content, 1);
	}
	thaw(copy);
	act(copy, dispose, end_copy);
}

static void
file_loaded(struct copy *copy)
{
	if (copy->rc)
		end_copy(copy);
	else
		freeze_all(copy, FREEZE_ALL, frozen_for_load);
}

static struct copy *
make_copy(struct volume *volume, const char *path, volume_copied *done, void *arg, int *rc,
	struct error *error)
{
	struct copy *copy;

	if (!volume->driver->clone) {
		*rc = error_set(
			error, -ENOTSUP, "a %s volume cannot do that", volume->driver->name);
		return NULL;
	}
	if (volume_occupied(volume)) {
		*rc = error_set(
			error, -EBUSY, "volume %s is %s", volume->name, volume_occupied(volume));
		return NULL;
	}
	copy = calloc(1, sizeof(*copy));
	if (copy && path)
		copy->path = strdup(path);
	if (!copy || (path && !copy->path)) {
		free(copy);
		*rc = error_set(error, -ENOMEM, "out of memory");
		return NULL;
	}
	copy->volume = volume_get(volume);
	copy->done = done;
	copy->arg = arg;
	volume->changing = true;
	return copy;
}

int
volume_snapshot(struct volume *volume, const char *name, volume_copied *done, void *arg,
	struct error *error)
{
	struct conf_volume conf = volume->conf;
	struct volume *made;
	struct copy *copy;
	int rc;

	/* Another disk, whose end no file waits for. */
	conf.name = (char *)(uintptr_t)name;
	conf.qos = (struct conf_qos){0};
	conf.serial = conf.fault = conf.load = conf.save = NULL;
	conf.size = atomic_load(&volume->size);
	rc = volume_make(&conf, volume->driver, &made, error);
	if (rc)
		return rc;
	copy = make_copy(volume, NULL, done, arg, &rc, error);
	if (!copy) {
		volume_abandon(made);
		return rc;
	}
	copy->made = made;
	copy->info = made->info;
	freeze_all(copy, FREEZE_WRITES, frozen_for_clone);
	return 0;
}

int
volume_save(struct volume *volume, const char *path, volume_copied *done, void *arg,
	struct error *error)
{
	int rc;
	struct copy *copy = make_copy(volume, path, done, arg, &rc, error);

	if (!copy)
		return rc;
	freeze_all(copy, FREEZE_WRITES, frozen_for_clone);
	return 0;
}

int
volume_load(struct volume *volume, const char *path, volume_copied *done, void *arg,
	struct error *error)
{
	int rc;
	struct copy *copy;

	if (volume->info.read_only)
		return error_set(error, -EROFS, "volume %s is read-only", volume->name);
	copy = make_copy(volume, path, done, arg, &rc, error);
	if (!copy)
		return rc;
	act(copy, load_file, file_loaded);
	return 0;
}
