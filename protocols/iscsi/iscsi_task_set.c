#include "config.h"

#include "iscsi/iscsi.h"

#include "check.h"

/*
 * Task attributes (SAM-5 8.6). A task set is one logical unit's tasks of one session (TST 001b of
 * the Control mode page). A task is in it from its CmdSN's turn until its status is queued or it is
 * aborted; session->tasks, as far as in_set, is in the order of entering.
 *
 * Where there is neither an ORDERED nor a HEAD OF QUEUE task, a SIMPLE one costs a look at a
 * counter. Where there is, sets are looked through: they have LIMIT_ISCSI_TASKS at most.
 */

static bool
same_set(const struct iscsi_task *a, const struct iscsi_task *b)
{
	return scsi_lun_same(a->scsi.lun, b->scsi.lun);
}

void
iscsi_set_enter(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;

	task->in_set = true;
	if (task->attribute <= ISCSI_SIMPLE && scsi_restricted(&task->scsi))
		task->attribute = ISCSI_ORDERED;
	if (task->attribute == ISCSI_ORDERED || task->attribute == ISCSI_HEAD_OF_QUEUE)
		session->ordering++;
	/* The list is by arrival: one that waited for its CmdSN enters behind those that did not. */
	if (TAILQ_NEXT(task, link)) {
		TAILQ_REMOVE(&session->tasks, task, link);
		TAILQ_INSERT_TAIL(&session->tasks, task, link);
	}
}

/*
 * SAM-5 8.6.2 to 8.6.4. HEAD OF QUEUE at once; SIMPLE when no HEAD OF QUEUE and no older ORDERED
 * task is in the set; ORDERED when no HEAD OF QUEUE and no older task is.
 */
static bool
may_run(const struct iscsi_task *task)
{
	const struct iscsi_task *other;
	bool older = true;

	if (task->attribute == ISCSI_HEAD_OF_QUEUE)
		return true;
	TAILQ_FOREACH(other, &task->session->tasks, link) {
		if (other == task) {
			older = false;
			continue;
		}
		if (!other->in_set || !same_set(task, other))
			continue;
		if (other->attribute == ISCSI_HEAD_OF_QUEUE)
			return false;
		if (older &&
			(task->attribute == ISCSI_ORDERED || other->attribute == ISCSI_ORDERED))
			return false;
	}
	return true;
}

bool
iscsi_set_enable(struct iscsi_task *task)
{
	if (task->session->ordering == 0 || may_run(task))
		return true;
	CHECK(!task->dormant);
	task->dormant = true;
	task->session->dormant++;
	return false;
}

void
iscsi_set_leave(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;

	if (!task->in_set)
		return;
	task->in_set = false;
	if (task->attribute == ISCSI_ORDERED || task->attribute == ISCSI_HEAD_OF_QUEUE)
		session->ordering--;
	if (task->dormant)
		session->dormant--;
	task->dormant = false;
}

/*
 * The first dormant task that may run. Of a set whose first one may not, no other may. Those of a
 * dying connection are about to be aborted.
 */
static struct iscsi_task *
find_enabled(const struct iscsi_session *session)
{
	struct iscsi_task *task, *blocked = NULL;

	TAILQ_FOREACH(task, &session->tasks, link) {
		if (!task->dormant || task->conn->dying || (blocked && same_set(task, blocked)))
			continue;
		if (may_run(task))
			return task;
		blocked = task;
	}
	return NULL;
}

/*
 * A task that may run and waits for room for its data-in, while the session's room is held by
 * writes that wait for it, in its set or in CmdSN's order, and nothing else of the session is under
 * way that could give any back: waiting could be for ever.
 */
static struct iscsi_task *
find_stuck(const struct iscsi_session *session)
{
	struct iscsi_task *task, *stuck = NULL;
	bool behind = false;

	TAILQ_FOREACH(task, &session->tasks, link) {
		if (task->state >= TASK_RUNNING || task->nbursts > 0)
			return NULL;
		if (task->state != TASK_READY || task->conn->dying)
			continue;
		if (task->wait.queued)
			stuck = stuck ? stuck : task;
		else
			behind |= task->reserved;
	}
	return behind ? stuck : NULL;
}

void
iscsi_set_settle(struct iscsi_session *session)
{
	struct iscsi_task *task;

	if ((session->dormant == 0 && TAILQ_EMPTY(&session->waits)) || session->set_held)
		return;
	/* What starts may end at once and come here again: the list is looked through anew by the
	 * one loop there is. */
	session->set_held = true;
	while (session->dormant > 0 && (task = find_enabled(session))) {
		task->dormant = false;
		session->dormant--;
		iscsi_task_start(task);
	}
	task = TAILQ_EMPTY(&session->waits) ? NULL : find_stuck(session);
	if (task) {
		iscsi_task_refuse(task, SCSI_TASK_SET_FULL);
		iscsi_data_reply(task);
	}
	session->set_held = false;
}

bool
iscsi_set_hold(struct iscsi_session *session)
{
	bool held = session->set_held;

	session->set_held = true;
	return held;
}

void
iscsi_set_release(struct iscsi_session *session, bool held)
{
	session->set_held = held;
	iscsi_set_settle(session);
}
