/*
 * Reservations: changes one after the other, each under a freeze of the whole volume where it takes
 * rights away (design section 3); every handle's fence computed anew when one is done. A request
 * meets them in its first check, behind the branch that is there for broken volumes.
 */
#include "config.h"

#include "reservation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "storage.h"

struct change {
	TAILQ_ENTRY(change) link; /* volume->lock */
	struct volume *volume;    /* a reference */
	struct loop *loop;
	struct blk_handle *taker; /* SPC-2 RESERVE; else NULL */
	bool fences, frozen;
	const struct reservation_change_ops *ops;
	void *arg;
	struct reservation *before, *after;
	struct freeze freeze;
	struct loop_task task;
	struct work work;
	int rc;
	struct error error;
};

static struct reservation *
new_reservation(void)
{
	struct reservation *reservation = calloc(1,
		sizeof(*reservation) + LIMIT_RESERVATIONS * sizeof(reservation->registrations[0]));

	if (reservation)
		atomic_init(&reservation->references, 1);
	return reservation;
}

struct reservation *
reservation_get(struct volume *volume)
{
	struct reservation *reservation;

	pthread_mutex_lock(&volume->lock);
	reservation = volume->reservation;
	if (reservation)
		atomic_fetch_add(&reservation->references, 1);
	pthread_mutex_unlock(&volume->lock);
	return reservation;
}

void
reservation_put(struct reservation *reservation)
{
	if (reservation && atomic_fetch_sub(&reservation->references, 1) == 1)
		free(reservation);
}

static bool
is_nexus(const struct registration *r, const char *initiator, const char *port)
{
	return strcmp(r->initiator, initiator) == 0 && (r->all_ports || strcmp(r->port, port) == 0);
}

int
reservation_find(const struct reservation *reservation, const char *initiator, const char *port)
{
	for (unsigned i = 0; reservation && i < reservation->count; i++) {
		if (is_nexus(&reservation->registrations[i], initiator, port))
			return (int)i;
	}
	return -1;
}

bool
reservation_holds(const struct reservation *reservation, int index)
{
	if (!reservation || reservation->type == RESERVATION_NONE || index < 0)
		return false;
	return reservation_all_registrants(reservation->type) ||
	       reservation->holder == (unsigned)index;
}

void
reservation_remove(struct reservation *reservation, unsigned index)
{
	bool all = reservation_all_registrants(reservation->type);

	if (all ? reservation->count == 1 : reservation->holder == index)
		reservation->type = RESERVATION_NONE;
	memmove(&reservation->registrations[index], &reservation->registrations[index + 1],
		(reservation->count - index - 1) * sizeof(reservation->registrations[0]));
	reservation->count--;
	if (reservation->holder > index)
		reservation->holder--;
}

/* Under the lock. */
static unsigned
compute_fence(const struct blk_handle *handle)
{
	const struct volume *volume = handle->volume;
	const struct reservation *r = volume->reservation;
	unsigned fence = 0;
	int index = -1;

	if (volume->taken && volume->taken != handle)
		fence = FENCE_READ | FENCE_WRITE | FENCE_RESERVED;
	if (!r || r->type == RESERVATION_NONE)
		return fence;
	if (handle->initiator)
		index = reservation_find(r, handle->initiator, handle->port);
	if (index >= 0 && (reservation_shared(r->type) || reservation_holds(r, index)))
		return fence;
	switch (r->type) {
	case RESERVATION_WRITE_EXCLUSIVE:
	case RESERVATION_WRITE_EXCLUSIVE_RO:
	case RESERVATION_WRITE_EXCLUSIVE_AR:
		return fence | FENCE_WRITE;
	default:
		return fence | FENCE_READ | FENCE_WRITE;
	}
}

void
reservation_fence_handle(struct blk_handle *handle)
{
	atomic_store_explicit(&handle->fence, compute_fence(handle), memory_order_relaxed);
}

/* Under the lock. */
static void
fence_all(struct volume *volume)
{
	bool reserved = volume->taken ||
			(volume->reservation && volume->reservation->type != RESERVATION_NONE);
	struct blk_handle *handle;

	for (unsigned i = 0; i < LANES; i++) {
		struct lane *lane = atomic_load_explicit(&volume->lanes[i], memory_order_relaxed);

		if (!lane)
			continue;
		LIST_FOREACH(handle, &lane->handles, link)
			reservation_fence_handle(handle);
	}
	if (reserved)
		atomic_fetch_or(&volume->refuse, VOLUME_RESERVED);
	else
		atomic_fetch_and(&volume->refuse, ~(unsigned)VOLUME_RESERVED);
}

unsigned
reservation_fence(const struct blk_handle *handle)
{
	return atomic_load_explicit(&handle->fence, memory_order_relaxed);
}

int
reservation_identify(struct blk_handle *handle, const char *initiator, const char *port)
{
	char *names[2] = {strdup(initiator), strdup(port)};

	if (!names[0] || !names[1]) {
		free(names[0]);
		free(names[1]);
		return -ENOMEM;
	}
	pthread_mutex_lock(&handle->volume->lock);
	free(handle->initiator);
	free(handle->port);
	handle->initiator = names[0];
	handle->port = names[1];
	reservation_fence_handle(handle);
	pthread_mutex_unlock(&handle->volume->lock);
	return 0;
}

void
reservation_forget(struct blk_handle *handle)
{
	reservation_drop(handle, false);
	free(handle->initiator);
	free(handle->port);
}

/* Changes */

static void begin_change(struct loop_task *task);

/* Under the lock: the first in the queue runs, on its own loop. */
static void
start_first(struct volume *volume)
{
	struct change *change = TAILQ_FIRST(&volume->changes);

	if (change) {
		change->task.run = begin_change;
		loop_post(change->loop, &change->task);
	}
}

static void
end_change(struct change *change, int rc)
{
	struct volume *volume = change->volume;

	pthread_mutex_lock(&volume->lock);
	TAILQ_REMOVE(&volume->changes, change, link);
	start_first(volume);
	pthread_mutex_unlock(&volume->lock);
	if (change->frozen)
		freeze_release(&change->freeze);
	change->ops->done(change->arg, rc, change->before, change->after);
	reservation_put(change->before);
	reservation_put(change->after);
	free(change);
	volume_put(volume);
}

/* It becomes the volume's. */
static void
install(struct change *change)
{
	struct volume *volume = change->volume;
	struct reservation *old;

	pthread_mutex_lock(&volume->lock);
	old = volume->reservation;
	volume->reservation = NULL;
	if (change->after->count || change->after->generation) {
		volume->reservation = change->after;
		atomic_fetch_add(&change->after->references, 1);
	}
	fence_all(volume);
	pthread_mutex_unlock(&volume->lock);
	reservation_put(old);
	end_change(change, 0);
}

static void
file_done(struct loop_task *task)
{
	struct change *change = container_of(task, struct change, task);

	if (change->rc < 0) {
		log_error("volume %s: %s", change->volume->name, change->error.text);
		end_change(change, change->rc);
		return;
	}
	install(change);
}

/* A worker. */
static void
write_file(struct work *work)
{
	struct change *change = container_of(work, struct change, work);

	change->rc = reservation_save(change->volume->name, change->after, &change->error);
	change->task.run = file_done;
	loop_post(change->loop, &change->task);
}

/* SPC-2 RESERVE. */
static int
take_volume(struct change *change)
{
	struct volume *volume = change->volume;
	int rc = 0;

	pthread_mutex_lock(&volume->lock);
	if ((volume->taken && volume->taken != change->taker) ||
		(volume->reservation && volume->reservation->count)) {
		rc = -EBUSY;
	} else {
		volume->taken = change->taker;
		fence_all(volume);
	}
	pthread_mutex_unlock(&volume->lock);
	return rc;
}

static void
copy_reservation(struct reservation *to, const struct reservation *from)
{
	to->generation = from->generation;
	to->survives = from->survives;
	to->type = from->type;
	to->holder = from->holder;
	to->count = from->count;
	memcpy(to->registrations, from->registrations,
		from->count * sizeof(from->registrations[0]));
}

static void
decide_change(struct change *change)
{
	int rc;

	if (change->taker) {
		end_change(change, take_volume(change));
		return;
	}
	change->before = reservation_get(change->volume);
	change->after = new_reservation();
	if (!change->after) {
		end_change(change, -ENOMEM);
		return;
	}
	if (change->before)
		copy_reservation(change->after, change->before);
	rc = change->ops->decide(change->arg, change->before, change->after);
	if (rc) {
		end_change(change, rc > 0 ? 0 : rc);
	} else if (change->after->survives || (change->before && change->before->survives)) {
		change->work.run = write_file;
		work_submit(change->volume->works, &change->work);
	} else {
		install(change);
	}
}

static void
volume_still(struct freeze *freeze, int rc)
{
	struct change *change = container_of(freeze, struct change, freeze);

	if (rc) {
		end_change(change, rc);
		return;
	}
	change->frozen = true;
	decide_change(change);
}

static void
begin_change(struct loop_task *task)
{
	struct change *change = container_of(task, struct change, task);
	struct volume *volume = change->volume;

	if (change->fences)
		freeze_start(&change->freeze, volume, 0, atomic_load(&volume->size), FREEZE_ALL,
			volume_still);
	else
		decide_change(change);
}

static int
queue_change(struct volume *volume, struct blk_handle *taker, bool fences,
	const struct reservation_change_ops *ops, void *arg)
{
	struct change *change = calloc(1, sizeof(*change));

	if (!change)
		return -ENOMEM;
	change->volume = volume_get(volume);
	change->loop = loop_current();
	change->taker = taker;
	change->fences = fences;
	change->ops = ops;
	change->arg = arg;
	pthread_mutex_lock(&volume->lock);
	TAILQ_INSERT_TAIL(&volume->changes, change, link);
	if (TAILQ_FIRST(&volume->changes) == change)
		start_first(volume);
	pthread_mutex_unlock(&volume->lock);
	return 0;
}

int
reservation_change(
	struct volume *volume, bool fences, const struct reservation_change_ops *ops, void *arg)
{
	return queue_change(volume, NULL, fences, ops, arg);
}

int
reservation_take(struct blk_handle *handle, const struct reservation_change_ops *ops, void *arg)
{
	return queue_change(handle->volume, handle, true, ops, arg);
}

void
reservation_drop(struct blk_handle *handle, bool any)
{
	struct volume *volume = handle->volume;

	pthread_mutex_lock(&volume->lock);
	if (volume->taken && (any || volume->taken == handle)) {
		volume->taken = NULL;
		fence_all(volume);
	}
	pthread_mutex_unlock(&volume->lock);
}

/* A volume's life */

int
reservation_open(struct volume *volume, struct error *error)
{
	struct reservation *reservation = new_reservation();
	int rc;

	if (!reservation)
		return error_set(error, -ENOMEM, "no memory");
	rc = reservation_load(volume->name, reservation, error);
	if (rc <= 0) {
		reservation_put(reservation);
		return rc;
	}
	pthread_mutex_lock(&volume->lock);
	volume->reservation = reservation;
	fence_all(volume);
	pthread_mutex_unlock(&volume->lock);
	return 0;
}

void
reservation_close(struct volume *volume)
{
	reservation_put(volume->reservation);
}
