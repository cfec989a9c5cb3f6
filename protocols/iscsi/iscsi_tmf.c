#include "config.h"

#include "iscsi/iscsi.h"

#include <string.h>

#include "catalogue.h"
#include "check.h"

/*
 * Task management (RFC 7143 11.5, 11.6). "Function complete" is said only when no task it names can
 * have an effect any more: those in the SCSI layer are waited for, at most LIMIT_ISCSI_ABORT; after
 * that the answer is FUNCTION REJECTED and they go on as if nothing had been asked.
 */

static void
send_answer(struct iscsi_conn *conn, uint32_t itt, enum iscsi_task_answer answer)
{
	struct iscsi_reply *reply = iscsi_reply_new(conn, ISCSI_TASK_RESPONSE, itt);

	if (!reply)
		return;
	reply->head[BHS_RESPONSE] = (uint8_t)answer;
	iscsi_reply_push(reply, 0, STATSN_ADVANCE);
}

static bool
concerns(const struct iscsi_tmf *tmf, const struct iscsi_task *task)
{
	switch (tmf->function) {
	case ISCSI_ABORT_TASK:
		return task->itt == tmf->rtt;
	case ISCSI_TARGET_WARM_RESET:
		return true;
	default:
		return memcmp(task->scsi.lun, tmf->lun, sizeof(tmf->lun)) == 0;
	}
}

/* An aborted task that has not ended yet. */
static struct iscsi_task *
find_pending(const struct iscsi_session *session, const struct iscsi_tmf *tmf)
{
	struct iscsi_task *task;

	TAILQ_FOREACH(task, &session->tasks, link) {
		if (task->aborted && concerns(tmf, task))
			return task;
	}
	return NULL;
}

static void
end_tmf(struct iscsi_session *session, struct iscsi_tmf *tmf, enum iscsi_task_answer answer)
{
	TAILQ_REMOVE(&session->tmfs, tmf, link);
	session->ntmfs--;
	send_answer(tmf->conn, tmf->itt, answer);
	slab_free(iscsi_caches.tmf, tmf);
}

void
iscsi_tmf_settle(struct iscsi_session *session)
{
	struct iscsi_tmf *tmf;

	/* An answer that cannot be sent ends its connection, and with it other functions. */
	do {
		TAILQ_FOREACH(tmf, &session->tmfs, link) {
			if (!find_pending(session, tmf))
				break;
		}
		if (tmf)
			end_tmf(session, tmf, ISCSI_FUNCTION_COMPLETE);
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
			task->aborted = false;
	}
}

void
iscsi_tmf_sweep(struct iscsi_session *session, uint64_t now)
{
	struct iscsi_tmf *tmf;

	/* In order of arrival, so the first is the first due. */
	while ((tmf = TAILQ_FIRST(&session->tmfs)) && now >= tmf->deadline)
		reject_tmf(session, tmf);
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
		slab_free(iscsi_caches.tmf, tmf);
	}
}

static void
abort_concerned(struct iscsi_session *session, const struct iscsi_tmf *tmf)
{
	struct iscsi_task *task, *next;
	bool held = iscsi_set_hold(session);

	for (task = TAILQ_FIRST(&session->tasks); task; task = next) {
		next = TAILQ_NEXT(task, link);
		if (concerns(tmf, task))
			iscsi_task_abort(task);
	}
	iscsi_set_release(session, held);
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

	if (sn_diff(cmdsn, session->exp_cmdsn) < 0 ||
		sn_diff(cmdsn, iscsi_session_max_cmdsn(session)) > 0 ||
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

/* 11.5.1: the initiator's other nexuses are told by unit attention. */
static void
reset_units(struct iscsi_session *session)
{
	const struct catalogue *catalogue = catalogue_get();
	const struct target *target = catalogue_target(catalogue, session->names.target);
	uint8_t lun[8];
	size_t i;

	if (target)
		target = catalogue_admit(target, session->names.initiator);
	for (i = 0; target && i < target->nluns; i++) {
		memset(lun, 0, sizeof(lun));
		/* SAM-5 4.7.7: peripheral below 256, flat above */
		put_be16(lun,
			(uint16_t)(target->luns[i].number < 256 ? target->luns[i].number
								: target->luns[i].number | 0x4000));
		scsi_lun_reset(session->nexus, lun);
	}
	catalogue_put(catalogue);
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
		if (task && task->state != TASK_STATUS &&
			memcmp(task->scsi.lun, tmf->lun, sizeof(tmf->lun)) == 0)
			return false;
		*answer = task ? ISCSI_NO_TASK : fill_gap(conn, bhs);
		return true;
	case ISCSI_ABORT_TASK_SET:
	case ISCSI_CLEAR_TASK_SET: /* the task set is the nexus' (TST 001b) */
	case ISCSI_LUN_RESET:
		*answer = ISCSI_NO_LUN;
		return !scsi_lun_exists(session->nexus, tmf->lun);
	case ISCSI_TARGET_WARM_RESET:
		return false;
	case ISCSI_TASK_REASSIGN:
		*answer = ISCSI_NO_REASSIGN;
		return true;
	default:
		*answer = ISCSI_NOT_SUPPORTED;
		return true;
	}
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
	tmf = slab_alloc(iscsi_caches.tmf);
	if (!tmf) {
		iscsi_conn_die(conn, "out of memory");
		return;
	}
	tmf->conn = conn;
	tmf->itt = get_be32(bhs + BHS_ITT);
	tmf->function = bhs[BHS_FLAGS] & 0x7f;
	memcpy(tmf->lun, bhs + BHS_LUN, sizeof(tmf->lun));
	tmf->rtt = get_be32(bhs + BHS_RTT);
	tmf->deadline = loop_now(conn->loop) + LIMIT_ISCSI_ABORT;
	if (answer_at_once(conn, tmf, bhs, &answer)) {
		slab_free(iscsi_caches.tmf, tmf);
		send_answer(conn, get_be32(bhs + BHS_ITT), answer);
		iscsi_session_advance(session);
		return;
	}
	abort_concerned(session, tmf);
	if (tmf->function == ISCSI_LUN_RESET)
		scsi_lun_reset(session->nexus, tmf->lun);
	else if (tmf->function == ISCSI_TARGET_WARM_RESET)
		reset_units(session);
	TAILQ_INSERT_TAIL(&session->tmfs, tmf, link);
	session->ntmfs++;
	if (!find_pending(session, tmf))
		end_tmf(session, tmf, ISCSI_FUNCTION_COMPLETE);
}
