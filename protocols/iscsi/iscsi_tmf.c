#include "config.h"

#include "iscsi/iscsi.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "log.h"

/*
 * Task management (RFC 7143 11.5, 11.6). "Function complete" is said only when no task it names can
 * have an effect any more, in this session or, for a reset, in any: those in the SCSI layer are
 * waited for, at most LIMIT_ISCSI_ABORT; after that the answer is FUNCTION REJECTED and they go on
 * as if nothing had been asked.
 *
 * What other nexuses' resets and PREEMPT AND ABORT want of this session stands in the same list,
 * with a part of the SCSI layer's instead of a connection to answer.
 *
 * 4.2.3.3 wants a target to wait for the data of R2Ts that are out. This one does not: what comes
 * of it is passed over, and open-iscsi, which stops sending, need not wait for 10 s.
 */

static bool
of_unit(const struct iscsi_tmf *tmf)
{
	return tmf->function == ISCSI_ABORT_TASK_SET || tmf->function == ISCSI_CLEAR_TASK_SET ||
	       tmf->function == ISCSI_LUN_RESET;
}

static bool
same_lun(const struct iscsi_tmf *tmf, const struct iscsi_task *task)
{
	return scsi_lun_same(task->scsi.lun, tmf->lun);
}

static bool
concerns(const struct iscsi_tmf *tmf, const struct iscsi_task *task)
{
	if (tmf->part) /* 4.2.3.3: only what was delivered to the SCSI layer */
		return task->in_set && task->scsi.unit == tmf->unit;
	switch (tmf->function) {
	case ISCSI_ABORT_TASK:
		return task->itt == tmf->rtt;
	case ISCSI_ABORT_TASK_SET:
	case ISCSI_CLEAR_TASK_SET: /* 11.5.1: with a lower CmdSN */
		return same_lun(tmf, task) &&
		       (task->immediate || sn_diff(task->cmdsn, tmf->cmdsn) < 0);
	case ISCSI_LUN_RESET:
		return same_lun(tmf, task);
	default:
		return true;
	}
}

/* 4.2.3.3: commands with a lower CmdSN, sent before it, are still to come. */
static bool
awaits_commands(const struct iscsi_session *session, const struct iscsi_tmf *tmf)
{
	return !tmf->part && of_unit(tmf) && sn_diff(session->exp_cmdsn, tmf->cmdsn) < 0;
}

bool
iscsi_tmf_covers(const struct iscsi_session *session, const struct iscsi_task *task)
{
	const struct iscsi_tmf *tmf;

	TAILQ_FOREACH(tmf, &session->tmfs, link) {
		if (!task->immediate && awaits_commands(session, tmf) && same_lun(tmf, task) &&
			sn_diff(task->cmdsn, tmf->cmdsn) < 0)
			return true;
	}
	return false;
}

static bool
is_pending(const struct iscsi_session *session, const struct iscsi_tmf *tmf)
{
	const struct iscsi_task *task;

	if (!tmf->begun || tmf->abort.run || awaits_commands(session, tmf))
		return true;
	TAILQ_FOREACH(task, &session->tasks, link) {
		if (task->aborted && concerns(tmf, task))
			return true;
	}
	return false;
}

/* A message to each loop: sessions with the target end. The last loop frees it. */
struct cold_reset {
	_Atomic unsigned left;
	struct iscsi_names names; /* of the asker's */
	uint64_t asker;           /* the connection that has the answer to take along */
	struct cold_reset_loop {
		struct cold_reset *reset;
		struct loop_task task;
	} loops[];
};

static void
run_cold_reset(struct loop_task *task)
{
	struct cold_reset *reset = container_of(task, struct cold_reset_loop, task)->reset;
	struct iscsi_conn *conn;

	TAILQ_FOREACH(conn, &iscsi_loop_of(loop_current())->conns, link) {
		if (!conn->session || conn->session->params.discovery || conn->id == reset->asker ||
			strcmp(conn->session->names.target, reset->names.target) != 0)
			continue;
		log_seldom(LOG_LEVEL_INFO, "iscsi %s: the target was reset by %s", conn->peer,
			reset->names.initiator);
		iscsi_conn_drop(conn);
	}
	if (atomic_fetch_sub_explicit(&reset->left, 1, memory_order_acq_rel) == 1)
		free(reset);
}

/* 11.5.1: TARGET COLD RESET terminates all connections. False: no memory. */
static bool
end_sessions(const struct iscsi_conn *asker)
{
	unsigned n = loop_count(), i;
	struct cold_reset *reset = calloc(1, sizeof(*reset) + n * sizeof(reset->loops[0]));

	if (!reset)
		return false;
	atomic_init(&reset->left, n);
	reset->names = asker->session->names;
	reset->asker = asker->id;
	for (i = 0; i < n; i++) {
		reset->loops[i].reset = reset;
		reset->loops[i].task.run = run_cold_reset;
	}
	/* None of it is touched once the last one is posted. */
	for (i = 0; i < n; i++)
		loop_post(loop_by_index(i), &reset->loops[i].task);
	return true;
}

static void
send_answer(struct iscsi_conn *conn, uint32_t itt, enum iscsi_task_answer answer, bool last)
{
	struct iscsi_reply *reply = iscsi_reply_new(conn, ISCSI_TASK_RESPONSE, itt);

	if (!reply)
		return;
	reply->head[BHS_RESPONSE] = (uint8_t)answer;
	reply->last = last;
	iscsi_reply_push(reply, 0, STATSN_ADVANCE);
}

static void
end_tmf(struct iscsi_session *session, struct iscsi_tmf *tmf, enum iscsi_task_answer answer)
{
	bool cold = tmf->function == ISCSI_TARGET_COLD_RESET && answer == ISCSI_FUNCTION_COMPLETE;

	TAILQ_REMOVE(&session->tmfs, tmf, link);
	if (tmf->part) {
		scsi_abort_ended(tmf->part, answer == ISCSI_FUNCTION_COMPLETE);
	} else {
		session->ntmfs--;
		scsi_abort_forget(&tmf->abort);
		if (cold && !end_sessions(tmf->conn)) {
			cold = false;
			answer = ISCSI_FUNCTION_REJECTED;
		}
		send_answer(tmf->conn, tmf->itt, answer, cold);
	}
	slab_free(iscsi_caches.tmf, tmf);
}

/*
 * 4.2.3.3: statuses that were sent before have to have arrived, and on other connections only their
 * ExpStatSN tells; a ping makes them say it.
 */
static void
await_status(struct iscsi_session *session, const struct iscsi_tmf *tmf)
{
	const struct iscsi_conn *asker = tmf->conn; /* a ping may end it all */
	struct iscsi_conn *conn;

	if (tmf->part || tmf->function == ISCSI_ABORT_TASK)
		return;
	TAILQ_FOREACH(conn, &session->conns, sibling) {
		if (conn == asker || !iscsi_conn_live(conn) || conn->acked == conn->statsn)
			continue;
		conn->awaited = conn->statsn;
		iscsi_ping(conn, true);
	}
}

static bool
awaits_status(const struct iscsi_session *session, const struct iscsi_tmf *tmf)
{
	const struct iscsi_conn *conn;

	if (tmf->part || tmf->function == ISCSI_ABORT_TASK)
		return false;
	TAILQ_FOREACH(conn, &session->conns, sibling) {
		if (conn != tmf->conn && !conn->dying && !conn->closing &&
			sn_diff(conn->awaited, conn->acked) > 0)
			return true;
	}
	return false;
}

void
iscsi_tmf_settle(struct iscsi_session *session)
{
	struct iscsi_tmf *tmf;

	/* A PDU that cannot be sent ends its connection, and with it other functions. */
	do {
		TAILQ_FOREACH(tmf, &session->tmfs, link) {
			if (!is_pending(session, tmf) &&
				!(tmf->done && awaits_status(session, tmf)))
				break;
		}
		if (tmf && !tmf->done) {
			tmf->done = true;
			await_status(session, tmf);
		} else if (tmf) {
			end_tmf(session, tmf, ISCSI_FUNCTION_COMPLETE);
		}
	} while (tmf);
}

/* True when some task still waited for is named by both. */
static bool
share_task(
	const struct iscsi_session *session, const struct iscsi_tmf *a, const struct iscsi_tmf *b)
{
	const struct iscsi_task *task;

	TAILQ_FOREACH(task, &session->tasks, link) {
		if (task->aborted && concerns(a, task) && concerns(b, task))
			return true;
	}
	return false;
}

/*
 * Too late: its tasks go on and will have a status, so whoever else waits for one of them cannot be
 * told "complete" either.
 */
static void
reject_tmf(struct iscsi_session *session, struct iscsi_tmf *late)
{
	struct iscsi_tmf copy = *late, *tmf;
	struct iscsi_task *task;

	end_tmf(session, late, ISCSI_FUNCTION_REJECTED);
	do {
		TAILQ_FOREACH(tmf, &session->tmfs, link) {
			if (share_task(session, &copy, tmf))
				break;
		}
		if (tmf)
			end_tmf(session, tmf, ISCSI_FUNCTION_REJECTED);
	} while (tmf);
	TAILQ_FOREACH(task, &session->tasks, link) {
		if (concerns(&copy, task) && !task->conn->dying)
			task->aborted = task->told = false;
	}
}

void
iscsi_tmf_sweep(struct iscsi_session *session, uint64_t now)
{
	struct iscsi_tmf *tmf;

	/* In order of arrival, so the first is the first due. */
	while ((tmf = TAILQ_FIRST(&session->tmfs)) && now >= tmf->deadline) {
		if (tmf->done && !is_pending(session, tmf))
			end_tmf(session, tmf, ISCSI_FUNCTION_COMPLETE);
		else
			reject_tmf(session, tmf);
	}
}

void
iscsi_tmf_drop(struct iscsi_conn *conn)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_tmf *tmf, *next;

	for (tmf = TAILQ_FIRST(&session->tmfs); tmf; tmf = next) {
		next = TAILQ_NEXT(tmf, link);
		if (tmf->conn != conn)
			continue;
		TAILQ_REMOVE(&session->tmfs, tmf, link);
		session->ntmfs--;
		scsi_abort_forget(&tmf->abort);
		slab_free(iscsi_caches.tmf, tmf);
	}
}

/* One that ends at once when it is aborted. */
static struct iscsi_task *
find_idle(const struct iscsi_session *session, const struct iscsi_tmf *tmf)
{
	struct iscsi_task *task;

	TAILQ_FOREACH(task, &session->tasks, link) {
		if (task->state < TASK_RUNNING && concerns(tmf, task))
			return task;
	}
	return NULL;
}

/* The function may be gone after this: what ends with a task may end the asker's connection. */
static unsigned
abort_concerned(struct iscsi_session *session, const struct iscsi_tmf *function)
{
	const struct iscsi_tmf copy = *function, *tmf = &copy;
	void (*abort)(struct iscsi_task *) = tmf->tas ? iscsi_task_abort_told : iscsi_task_abort;
	struct iscsi_task *task;
	bool held = iscsi_set_hold(session);
	unsigned n = 0;

	TAILQ_FOREACH(task, &session->tasks, link) {
		if (task->state >= TASK_RUNNING && concerns(tmf, task)) {
			/* Another's: this session is not asked to wait, and may come to the same
			 * blocks. */
			if (tmf->part && task->state == TASK_RUNNING)
				scsi_abandon(&task->scsi);
			abort(task);
			n++;
		}
	}
	/* From the start each time: what ends with a task may end others. Told or not, a task is
	 * not concerned any more. */
	while ((task = find_idle(session, tmf))) {
		abort(task);
		n++;
	}
	iscsi_set_release(session, held);
	return n;
}

static struct iscsi_tmf *
new_tmf(struct iscsi_session *session)
{
	struct iscsi_tmf *tmf = slab_alloc(iscsi_caches.tmf);

	if (!tmf)
		return NULL;
	memset(tmf, 0, sizeof(*tmf));
	tmf->session = session;
	tmf->deadline = loop_now(session->loop) + LIMIT_ISCSI_ABORT;
	return tmf;
}

unsigned
iscsi_tmf_other(void *owner, const struct scsi_unit *unit, bool tas, struct scsi_abort_part *part)
{
	struct iscsi_session *session = owner;
	struct iscsi_tmf *tmf = new_tmf(session);
	unsigned n;

	if (!tmf) {
		scsi_abort_ended(part, false);
		return 0;
	}
	tmf->part = part;
	tmf->unit = unit;
	tmf->tas = tas;
	TAILQ_INSERT_TAIL(&session->tmfs, tmf, link);
	n = abort_concerned(session, tmf);
	tmf->begun = true;
	iscsi_tmf_settle(session);
	return n;
}

/*
 * 11.5.5: a task that is not here may be one that never arrived. If its CmdSN lies between what was
 * received and this request, it counts as received now.
 */
static enum iscsi_task_answer
fill_gap(struct iscsi_conn *conn, const uint8_t *bhs)
{
	struct iscsi_session *session = conn->session;
	uint32_t cmdsn = get_be32(bhs + BHS_REFCMDSN);
	struct iscsi_held *held;

	if (sn_diff(cmdsn, session->exp_cmdsn) < 0 || sn_diff(cmdsn, session->max_cmdsn) > 0 ||
		sn_diff(cmdsn, get_be32(bhs + BHS_CMDSN)) >= 0)
		return ISCSI_NO_TASK;
	TAILQ_FOREACH(held, &session->held, link) {
		if (held->cmdsn == cmdsn) /* something else came under that number */
			return ISCSI_NO_TASK;
	}
	held = iscsi_session_hold(conn, cmdsn);
	if (!held)
		return ISCSI_FUNCTION_REJECTED;
	held->filled = true;
	return ISCSI_FUNCTION_COMPLETE;
}

/*
 * 4.2.3.3: for a reset of the target every number up to its own counts as received. Those that came
 * early and are no tasks are carried out.
 */
static void
fill_gaps(struct iscsi_session *session, uint32_t cmdsn)
{
	if (sn_diff(cmdsn, session->max_cmdsn + 1) > 0)
		return;
	for (;;) {
		iscsi_session_advance(session);
		if (sn_diff(session->exp_cmdsn, cmdsn) >= 0)
			return;
		session->exp_cmdsn++;
	}
}

/* What can be said at once. True when it was; else tasks are to be aborted. */
static bool
answer_at_once(struct iscsi_conn *conn, const struct iscsi_tmf *tmf, const uint8_t *bhs,
	enum iscsi_task_answer *answer)
{
	struct iscsi_session *session = conn->session;
	const struct iscsi_task *task;

	switch (tmf->function) {
	case ISCSI_ABORT_TASK:
		task = iscsi_task_find(session, tmf->rtt);
		if (task && task->state != TASK_STATUS && same_lun(tmf, task))
			return false;
		*answer = task ? ISCSI_NO_TASK : fill_gap(conn, bhs);
		return true;
	case ISCSI_ABORT_TASK_SET:
	case ISCSI_CLEAR_TASK_SET: /* the task set is the nexus' (TST 001b) */
	case ISCSI_LUN_RESET:
		*answer = ISCSI_NO_LUN;
		return !scsi_lun_exists(session->nexus, tmf->lun);
	case ISCSI_TARGET_WARM_RESET:
	case ISCSI_TARGET_COLD_RESET:
		return false;
	case ISCSI_TASK_REASSIGN:
		*answer = ISCSI_NO_REASSIGN;
		return true;
	default: /* CLEAR ACA too: there is no ACA (NORMACA 0) */
		*answer = ISCSI_NOT_SUPPORTED;
		return true;
	}
}

/* Other nexuses have ended their tasks, or not. */
static void
others_done(struct scsi_abort *abort, bool complete)
{
	struct iscsi_tmf *tmf = container_of(abort, struct iscsi_tmf, abort);

	if (complete)
		iscsi_tmf_settle(tmf->session);
	else
		reject_tmf(tmf->session, tmf);
}

/* The reset itself. False: no memory. */
static bool
reset_units(struct iscsi_session *session, struct iscsi_tmf *tmf)
{
	const uint8_t *lun = tmf->function == ISCSI_LUN_RESET ? tmf->lun : NULL;
	int rc;

	tmf->abort.done = others_done;
	tmf->abort.reset = true;
	rc = scsi_abort_others(session->nexus, lun, &tmf->abort);
	if (lun)
		scsi_lun_reset(session->nexus, lun);
	else
		scsi_target_reset(session->nexus);
	return rc != -ENOMEM;
}

static void
begin_tmf(struct iscsi_conn *conn, struct iscsi_tmf *tmf)
{
	struct iscsi_session *session = conn->session;
	bool target = tmf->function == ISCSI_TARGET_WARM_RESET ||
		      tmf->function == ISCSI_TARGET_COLD_RESET;
	bool begun = true;

	TAILQ_INSERT_TAIL(&session->tmfs, tmf, link);
	session->ntmfs++;
	abort_concerned(session, tmf);
	if (conn->dying) /* and the function dropped */
		return;
	if (target || tmf->function == ISCSI_LUN_RESET)
		begun = reset_units(session, tmf);
	if (target)
		fill_gaps(session, tmf->cmdsn);
	if (conn->dying)
		return;
	tmf->begun = true;
	if (begun)
		iscsi_tmf_settle(session);
	else
		reject_tmf(session, tmf);
}

void
iscsi_tmf_request(struct iscsi_conn *conn, const struct iscsi_request *request)
{
	struct iscsi_session *session = conn->session;
	const uint8_t *bhs = request->bhs;
	enum iscsi_task_answer answer;
	struct iscsi_tmf *tmf;

	if (!session->nexus || session->ntmfs >= LIMIT_ISCSI_TMFS) {
		iscsi_reply_reject(
			conn, session->nexus ? ISCSI_REJECT_IMMEDIATE : ISCSI_REJECT_PROTOCOL, bhs);
		return;
	}
	tmf = new_tmf(session);
	if (!tmf) {
		iscsi_conn_die(conn, "out of memory");
		return;
	}
	tmf->conn = conn;
	tmf->itt = get_be32(bhs + BHS_ITT);
	tmf->cmdsn = get_be32(bhs + BHS_CMDSN);
	tmf->function = bhs[BHS_FLAGS] & 0x7f;
	memcpy(tmf->lun, bhs + BHS_LUN, sizeof(tmf->lun));
	tmf->rtt = get_be32(bhs + BHS_RTT);
	if (!answer_at_once(conn, tmf, bhs, &answer)) {
		begin_tmf(conn, tmf);
		return;
	}
	slab_free(iscsi_caches.tmf, tmf);
	send_answer(conn, get_be32(bhs + BHS_ITT), answer, false);
	iscsi_session_advance(session);
}
