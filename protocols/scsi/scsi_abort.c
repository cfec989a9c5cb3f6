/*
 * Tasks that another nexus ends. SAM-5 5.6 and 7. The asker's loop tells each other nexus of the
 * unit by a message to its loop; its transport ends the tasks and says so when none of them can
 * have an effect any more; the message comes back, and when all are back the asker is told. A
 * nexus that goes away meanwhile has no tasks left.
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>

#include "check.h"
#include "slab.h"

/* One asking; its loop's. It outlives the asker's interest, until every part is back. */
struct scsi_abort_run {
	struct scsi_abort *abort; /* NULL: nobody waits any more */
	struct loop *loop;        /* constant */
	bool reset;               /* constant */
	bool complete;
	unsigned pending; /* parts on their way, and 1 while `begun` is queued */
	struct loop_task begun;
	struct loop_timer timer;
};

/* What one nexus has to do for it. */
struct scsi_abort_part {
	struct scsi_abort_run *run;
	struct loop_task task;  /* to the nexus' loop, and back */
	struct scsi_unit *unit; /* until it has come there; that loop's. NULL: the unit is closed */
	TAILQ_ENTRY(scsi_abort_part) link; /* of unit->parts, under lu->lock */
	bool tas;
	bool complete;
};

static struct slab_cache *run_cache, *part_cache;

int
scsi_abort_start(void)
{
	run_cache = slab_cache_new("scsi_abort", sizeof(struct scsi_abort_run), 0, 0, NULL);
	part_cache = slab_cache_new("scsi_abort_part", sizeof(struct scsi_abort_part), 0, 0, NULL);
	return run_cache && part_cache ? 0 : -ENOMEM;
}

void
scsi_abort_stop(void)
{
	if (run_cache)
		slab_cache_free(run_cache);
	if (part_cache)
		slab_cache_free(part_cache);
	run_cache = part_cache = NULL;
}

/* The asker hears of it, once. */
static void
tell_asker(struct scsi_abort_run *run, bool complete)
{
	struct scsi_abort *abort = run->abort;

	if (!abort)
		return;
	loop_timer_stop(&run->timer);
	run->abort = NULL;
	abort->run = NULL;
	abort->done(abort, complete);
}

static void
end_one(struct scsi_abort_run *run)
{
	if (--run->pending > 0)
		return;
	tell_asker(run, run->complete);
	slab_free(run_cache, run);
}

static void
run_begun(struct loop_task *task)
{
	end_one(container_of(task, struct scsi_abort_run, begun));
}

static void
on_deadline(struct loop_timer *timer)
{
	tell_asker(container_of(timer, struct scsi_abort_run, timer), false);
}

/* Back on the asker's loop. */
static void
run_back(struct loop_task *task)
{
	struct scsi_abort_part *part = container_of(task, struct scsi_abort_part, task);
	struct scsi_abort_run *run = part->run;

	run->complete &= part->complete;
	slab_free(part_cache, part);
	end_one(run);
}

void
scsi_abort_ended(struct scsi_abort_part *part, bool complete)
{
	part->complete = complete;
	part->task.run = run_back;
	loop_post(part->run->loop, &part->task);
}

/* On the other nexus' loop. */
static void
run_part(struct loop_task *task)
{
	struct scsi_abort_part *part = container_of(task, struct scsi_abort_part, task);
	bool told = part->tas || part->run->reset;
	struct scsi_unit *unit = part->unit;

	if (!unit) {
		scsi_abort_ended(part, true);
		return;
	}
	pthread_mutex_lock(&unit->lu->lock);
	TAILQ_REMOVE(&unit->parts, part, link);
	pthread_mutex_unlock(&unit->lu->lock);
	unit->tasks++; /* its last task may be among those that end */
	/* SAM-5 5.6: the initiator hears of it by the status, or else by unit attention. A reset
	 * has an attention of its own. */
	if (unit->nexus->abort(unit->nexus->owner, unit, part->tas, part) > 0 && !told)
		unit->attentions |= ATTENTION_OTHER_CLEARED;
	scsi_unit_sync(unit); /* what it kept back meanwhile */
	scsi_nexus_leave(unit);
}

/* With the unit's lock held. */
static void
ask_unit(struct scsi_abort_run *run, struct scsi_unit *unit, bool tas)
{
	struct scsi_abort_part *part;

	if (!unit->nexus->abort)
		return;
	/* In one step with the part: what comes after its tasks have ended must hear of it, too. */
	if (run->reset) {
		unit->posted |= ATTENTION_RESET;
		unit->resets_told++;
	}
	part = slab_alloc(part_cache);
	if (!part) {
		run->complete = false;
		return;
	}
	*part = (struct scsi_abort_part){
		.run = run, .unit = unit, .tas = tas, .task.run = run_part};
	TAILQ_INSERT_TAIL(&unit->parts, part, link);
	run->pending++;
	loop_post(unit->nexus->loop, &part->task);
}

static int
begin_run(struct scsi_abort *abort, struct scsi_abort_run **runp)
{
	struct scsi_abort_run *run = slab_alloc(run_cache);
	int rc;

	CHECK(!abort->run);
	if (!run)
		return -ENOMEM;
	*run = (struct scsi_abort_run){.abort = abort,
		.loop = loop_current(),
		.reset = abort->reset,
		.complete = true,
		.pending = 1,
		.begun.run = run_begun};
	rc = loop_timer_start(run->loop, &run->timer, LIMIT_SCSI_ABORT, on_deadline);
	if (rc < 0) {
		slab_free(run_cache, run);
		return -ENOMEM;
	}
	abort->run = run;
	loop_defer(run->loop, &run->begun);
	*runp = run;
	return 0;
}

static void
ask_others(struct scsi_abort_run *run, struct scsi_unit *unit,
	bool (*concerns)(const struct scsi_unit *unit, void *arg), void *arg)
{
	struct scsi_unit *other;
	bool tas;

	pthread_mutex_lock(&unit->lu->lock);
	tas = unit->lu->settings & UNIT_TAS;
	TAILQ_FOREACH(other, &unit->lu->units, link) {
		if (other != unit && (!concerns || concerns(other, arg)))
			ask_unit(run, other, tas);
	}
	pthread_mutex_unlock(&unit->lu->lock);
}

int
scsi_unit_abort(struct scsi_unit *unit, struct scsi_abort *abort,
	bool (*concerns)(const struct scsi_unit *unit, void *arg), void *arg)
{
	struct scsi_abort_run *run;
	int rc = begin_run(abort, &run);

	if (rc == 0)
		ask_others(run, unit, concerns, arg);
	return rc;
}

int
scsi_abort_others(struct scsi_nexus *nexus, const uint8_t *lun, struct scsi_abort *abort)
{
	struct scsi_unit *unit;
	struct scsi_abort_run *run;
	int rc;

	if (lun) {
		rc = scsi_nexus_unit(nexus, lun, &unit);
		return rc < 0 ? rc : scsi_unit_abort(unit, abort, NULL, NULL);
	}
	scsi_nexus_use_all(nexus);
	rc = begin_run(abort, &run);
	for (unsigned i = 0; rc == 0 && i < nexus->nunits; i++)
		ask_others(run, nexus->units[i], NULL, NULL);
	return rc;
}

void
scsi_abort_forget(struct scsi_abort *abort)
{
	if (!abort->run)
		return;
	loop_timer_stop(&abort->run->timer);
	abort->run->abort = NULL;
	abort->run = NULL;
}

void
scsi_abort_close(struct scsi_unit *unit)
{
	struct scsi_abort_part *part;

	while ((part = TAILQ_FIRST(&unit->parts))) {
		TAILQ_REMOVE(&unit->parts, part, link);
		part->unit = NULL;
	}
}
