#include "config.h"

#include "iscsi/iscsi.h"

#include <string.h>

#include "check.h"

/*
 * A SCSI command from its PDU (11.3) to the SCSI layer and back. What its data does on the wire is
 * iscsi_data.c's.
 */

static unsigned
bucket_of(uint32_t itt)
{
	return (itt ^ itt >> 6 ^ itt >> 16) % ISCSI_TASK_BUCKETS;
}

struct iscsi_task *
iscsi_task_find(struct iscsi_session *session, uint32_t itt)
{
	struct iscsi_task *task;

	LIST_FOREACH(task, &session->buckets[bucket_of(itt)], hash) {
		/* The tags of a connection that is over are free again. */
		if (task->itt == itt && !task->conn->dying)
			return task;
	}
	return NULL;
}

/* Gives data-out memory and its reservation back, whichever class it is in by now. */
static void
release_out(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;

	iscsi_wait_cancel(session, &task->wait);
	iobuf_free(&task->scsi.out);
	if (!task->reserved)
		return;
	task->reserved = false;
	if (task->state == TASK_COLLECT) {
		session->collecting--;
		iobuf_unreserve(&session->account, task->out_want, IOBUF_PAYLOAD);
	} else {
		iobuf_unreserve(&session->account, task->out_want, IOBUF_READY);
	}
}

static void
forget_task(struct iscsi_task *task)
{
	if (task->prepared)
		scsi_forget(&task->scsi);
	task->prepared = false;
}

void
iscsi_task_free(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;
	struct iscsi_conn *conn = task->conn;
	bool aborted = task->aborted;
	bool widen = task->in_window; /* it ends without a status that would say so */

	iscsi_set_leave(task);
	release_out(task);
	iobuf_free(&task->scsi.in);
	if (task->reserved_in)
		iobuf_unreserve(&session->account, task->reserved_in, IOBUF_READY);
	if (task->ranges)
		slab_free(iscsi_caches.ranges, task->ranges);
	if (task->held) {
		task->held->task = NULL;
		task->held->filled = true;
	}
	TAILQ_REMOVE(&session->tasks, task, link);
	LIST_REMOVE(task, hash);
	session->ntasks--;
	conn->ntasks--;
	slab_free(iscsi_caches.task, task);
	if (widen)
		iscsi_window_widen(session);
	iscsi_set_settle(session);
	if (aborted)
		iscsi_tmf_settle(session);
	iscsi_conn_settle(conn);
	if (session->logout && session->logout != conn)
		iscsi_conn_settle(session->logout);
}

void
iscsi_task_refuse(struct iscsi_task *task, enum scsi_status status)
{
	forget_task(task);
	task->scsi.status = (uint8_t)status;
	task->scsi.sense_length = 0;
	task->refused = true;
	release_out(task);
}

void
iscsi_task_fail(struct iscsi_task *task, uint8_t asc, uint8_t ascq)
{
	if (task->refused)
		return;
	iscsi_task_refuse(task, SCSI_CHECK_CONDITION);
	scsi_check_condition(&task->scsi, 0x0b, asc, ascq);
}

/* The SCSI layer is done with it. */
static void
task_done(struct scsi_task *scsi)
{
	struct iscsi_task *task = container_of(scsi, struct iscsi_task, scsi);
	struct iscsi_session *session = task->session;

	release_out(task);
	if (task->conn->dying || (task->aborted && !task->told)) {
		iscsi_task_free(task);
		return;
	}
	if (task->told) {
		task->aborted = task->told = false;
		iobuf_free(&scsi->in);
		scsi->in_length = 0;
		iscsi_task_refuse(task, SCSI_TASK_ABORTED);
		iscsi_data_reply(task);
		iscsi_tmf_settle(session);
		return;
	}
	iscsi_data_reply(task);
}

static void
execute_task(struct iscsi_task *task)
{
	task->state = TASK_RUNNING;
	task->prepared = false;
	scsi_execute(&task->scsi);
}

static void
room_granted(struct iscsi_wait *wait)
{
	struct iscsi_task *task = container_of(wait, struct iscsi_task, wait);

	task->reserved_in = task->scsi.in_max;
	execute_task(task);
}

void
iscsi_task_start(struct iscsi_task *task)
{
	if (task->refused)
		iscsi_data_reply(task);
	else if (iscsi_reserve(
			 task->session, &task->wait, task->scsi.in_max, IOBUF_READY, room_granted))
		room_granted(&task->wait);
	else
		iscsi_set_settle(task->session);
}

/* Everything is there: it runs when it is its turn, in CmdSN's order and in its task set. */
static void
start_task(struct iscsi_task *task)
{
	if (!task->held && iscsi_set_enable(task))
		iscsi_task_start(task);
	else
		iscsi_set_settle(task->session); /* what it holds may be what others wait for */
}

void
iscsi_task_go(struct iscsi_task *task)
{
	struct iscsi_session *session = task->session;

	if (task->state != TASK_COLLECT || iscsi_task_unsolicited(task))
		return;
	if (!task->refused && task->out_asked < task->out_want) {
		if (task->reserved)
			iscsi_data_solicit(task);
		return;
	}
	if (task->nbursts > 0)
		return;
	task->state = TASK_READY;
	if (task->reserved) {
		session->collecting--;
		iobuf_arrived(&session->account, task->out_want);
	}
	start_task(task);
}

void
iscsi_task_turn(struct iscsi_task *task)
{
	if (!task->immediate) {
		task->in_window = true;
		task->session->window_used++;
	}
	iscsi_set_enter(task);
	if (task->state == TASK_READY)
		start_task(task);
}

/* The PDU being received, if it is this task's, has no effect any more. */
static void
leave_rx(struct iscsi_task *task)
{
	struct iscsi_rx *rx = &task->conn->rx;

	if (rx->task != task)
		return;
	rx->niov = 0;
	if (rx->blocked)
		iscsi_conn_resume_soon(task->conn);
	rx->blocked = false;
}

void
iscsi_task_abort(struct iscsi_task *task)
{
	struct iscsi_rx *rx = &task->conn->rx;

	switch (task->state) {
	case TASK_COLLECT:
	case TASK_READY:
		forget_task(task);
		leave_rx(task);
		if (rx->task == task) {
			rx->task = NULL;
			rx->drop = true;
			rx->spent = (rx->head[BHS_OPCODE] & ISCSI_OPCODE_MASK) == ISCSI_COMMAND;
		}
		iscsi_task_free(task);
		break;
	case TASK_RUNNING:
		scsi_cancel(&task->scsi);
		__attribute__((fallthrough));
	case TASK_REPLY:
		task->aborted = true;
		task->told = false;
		break;
	case TASK_STATUS:
		break;
	}
}

void
iscsi_task_abort_told(struct iscsi_task *task)
{
	switch (task->state) {
	case TASK_COLLECT:
		leave_rx(task);
		iscsi_task_refuse(task, SCSI_TASK_ABORTED);
		iscsi_task_go(task); /* when the data asked for has passed by. 4.2.3.3 */
		break;
	case TASK_READY:
		iscsi_task_refuse(task, SCSI_TASK_ABORTED);
		if (!task->dormant)
			iscsi_data_reply(task);
		break;
	case TASK_RUNNING:
		if (task->aborted)
			break;
		task->aborted = task->told = true;
		scsi_cancel(&task->scsi);
		break;
	case TASK_REPLY:
	case TASK_STATUS:
		break;
	}
}

/* One that ends at once when it is aborted. */
static struct iscsi_task *
find_idle(const struct iscsi_conn *conn, bool all)
{
	struct iscsi_task *task;

	TAILQ_FOREACH(task, &conn->session->tasks, link) {
		if (task->conn == conn &&
			(task->state == TASK_COLLECT || (all && task->state == TASK_READY)))
			return task;
	}
	return NULL;
}

void
iscsi_tasks_abort(struct iscsi_conn *conn, bool all)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_task *task;
	bool held = iscsi_set_hold(session);

	TAILQ_FOREACH(task, &session->tasks, link) {
		if (!all || task->conn != conn ||
			(task->state != TASK_RUNNING && task->state != TASK_REPLY))
			continue;
		scsi_lun_cleared(task->scsi.nexus, task->scsi.lun);
		if (task->state == TASK_RUNNING)
			scsi_abandon(&task->scsi);
		iscsi_task_abort(task);
	}
	/* From the start each time: what ends with a task may end others. */
	while ((task = find_idle(conn, all))) {
		scsi_lun_cleared(task->scsi.nexus, task->scsi.lun);
		iscsi_task_abort(task);
	}
	iscsi_set_release(session, held);
}

/* Immediate data, if any, goes to its place. */
static void
sink_immediate(struct iscsi_task *task)
{
	struct iscsi_rx *rx = &task->conn->rx;

	if (rx->data_length > 0 && !task->refused)
		iscsi_data_sink(task, 0, rx->data_length);
}

static void
hold_reservation(struct iscsi_task *task)
{
	task->reserved = true;
	task->session->collecting++;
	task->progress = loop_now(task->conn->loop);
}

/* The whole of the data-out is reserved. */
static void
out_granted(struct iscsi_wait *wait)
{
	struct iscsi_task *task = container_of(wait, struct iscsi_task, wait);
	struct iscsi_conn *conn = task->conn;
	struct iscsi_task *blocked = conn->rx.blocked ? conn->rx.task : NULL;

	hold_reservation(task);
	if (blocked && blocked != task) {
		/* Its data lies behind the one that blocks the socket: one of the two must give
		 * way. */
		iscsi_task_refuse(blocked, SCSI_TASK_SET_FULL);
		iscsi_task_go(task);
	} else if (blocked) {
		sink_immediate(task);
	} else {
		iscsi_task_go(task);
		if (!conn->rx.wait.queued)
			return;
		iscsi_request_hurry(conn); /* its data lies behind that */
	}
	conn->rx.blocked = false;
	iscsi_conn_resume(conn);
}

/*
 * Reserves what the command will bring, before any of it is taken. Without immediate or unsolicited
 * data the command waits alone; with such data the socket waits with it. But where another
 * command's solicited data is still to come through that same socket, waiting could be for ever:
 * TASK SET FULL.
 */
static void
reserve_out(struct iscsi_task *task)
{
	struct iscsi_conn *conn = task->conn;

	if (task->refused || task->out_want == 0)
		return;
	if (iscsi_reserve(task->session, &task->wait, task->out_want, IOBUF_PAYLOAD, out_granted)) {
		hold_reservation(task);
		return;
	}
	if (conn->rx.data_length == 0 && !iscsi_task_unsolicited(task))
		return;
	if (task->session->collecting > 0)
		iscsi_task_refuse(task, SCSI_TASK_SET_FULL);
	else
		conn->rx.blocked = true;
}

/* Additional header segments (11.2.2). */
struct ahs {
	bool extended_cdb;
	uint32_t read_edtl; /* of a bidirectional command, 11.2.2.4 */
};

/* False: malformed. */
static bool
scan_ahs(const uint8_t *head, struct ahs *ahs)
{
	struct reader r = reader_of(head + ISCSI_BHS, (size_t)head[BHS_AHS_LENGTH] * 4);
	const uint8_t *type, *specific;
	uint16_t length;

	*ahs = (struct ahs){0};
	while (r.left > 0) {
		length = reader_be16(&r);
		type = reader_bytes(&r, 1);
		specific = reader_bytes(&r, length);
		/* Each AHS is padded; length counts from the byte after the type. */
		reader_bytes(&r, -((size_t)length + 3) & 3);
		if (r.bad)
			return false;
		if (*type == 1)
			ahs->extended_cdb = true;
		else if (*type == 2 && length == 5) /* a reserved byte, then the length */
			ahs->read_edtl = get_be32(specific + 1);
		else if (*type == 2)
			return false;
	}
	return true;
}

/* What the PDU has wrong before it is a command. 0 or a Reject reason. */
static uint8_t
check_command(struct iscsi_conn *conn)
{
	struct iscsi_session *session = conn->session;
	const uint8_t *bhs = conn->rx.head;
	uint32_t itt = get_be32(bhs + BHS_ITT);
	uint32_t edtl = get_be32(bhs + BHS_EDTL);
	bool write = bhs[BHS_FLAGS] & ISCSI_COMMAND_WRITE;
	bool final = bhs[BHS_FLAGS] & ISCSI_FINAL;
	struct ahs ahs;

	if (!session->nexus)
		return ISCSI_REJECT_PROTOCOL; /* a discovery session, 4.3 */
	if (itt == ISCSI_TAG_NONE)
		return ISCSI_REJECT_FIELD;
	if (iscsi_task_find(session, itt))
		return ISCSI_REJECT_IN_PROGRESS;
	if (session->ntasks >= LIMIT_ISCSI_TASKS)
		return ISCSI_REJECT_IMMEDIATE;
	if (!write && (!final || conn->rx.data_length > 0))
		return ISCSI_REJECT_FIELD;
	/* 11.3.1: F=0 announces unsolicited data, which InitialR2T=Yes forbids. */
	if (!final && session->params.initial_r2t && edtl > conn->rx.data_length)
		return ISCSI_REJECT_FIELD;
	if (!scan_ahs(bhs, &ahs))
		return ISCSI_REJECT_FIELD;
	return 0;
}

static struct iscsi_task *
new_task(struct iscsi_conn *conn, const uint8_t *bhs)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_task *task = slab_alloc(iscsi_caches.task);

	if (!task)
		return NULL;
	memset(task, 0, offsetof(struct iscsi_task, head));
	task->session = session;
	task->conn = conn;
	task->immediate = bhs[BHS_OPCODE] & ISCSI_IMMEDIATE;
	task->read = bhs[BHS_FLAGS] & ISCSI_COMMAND_READ;
	task->write = bhs[BHS_FLAGS] & ISCSI_COMMAND_WRITE;
	task->attribute = bhs[BHS_FLAGS] & ISCSI_ATTRIBUTE_MASK;
	task->itt = get_be32(bhs + BHS_ITT);
	task->edtl = get_be32(bhs + BHS_EDTL);
	task->cmdsn = get_be32(bhs + BHS_CMDSN);
	task->scsi.nexus = session->nexus;
	memcpy(task->scsi.lun, bhs + BHS_LUN, sizeof(task->scsi.lun));
	memcpy(task->scsi.cdb, bhs + BHS_CDB, 16);
	task->scsi.cdb_length = 16;
	task->scsi.portal_id = session->portal_id;
	task->scsi.out_expected = task->write ? task->edtl : 0;
	task->scsi.done = task_done;
	TAILQ_INSERT_TAIL(&session->tasks, task, link);
	LIST_INSERT_HEAD(&session->buckets[bucket_of(task->itt)], task, hash);
	session->ntasks++;
	conn->ntasks++;
	return task;
}

/* Asks the SCSI layer, and checks what the command promises to send. */
static void
prepare_task(struct iscsi_task *task)
{
	struct iscsi_conn *conn = task->conn;
	const struct iscsi_params *params = &task->session->params;
	const uint8_t *bhs = conn->rx.head;
	uint32_t data = conn->rx.data_length;
	struct ahs ahs;
	size_t end;

	scan_ahs(bhs, &ahs); /* check_command() has seen it */
	if (ahs.extended_cdb) {
		task->refused = true; /* no command here has more than 16 bytes */
		scsi_check_condition(&task->scsi, 0x05, 0x20, 0x00);
	} else if (task->read && task->write) {
		task->refused = true; /* bidirectional */
		task->read_edtl = ahs.read_edtl;
		scsi_check_condition(&task->scsi, 0x05, 0x24, 0x00);
	} else if (task->attribute >= ISCSI_ACA) {
		/* SAM-5 8.6.5: there never is an ACA condition here (NACA is refused); above it
		 * values are reserved. Invalid message error. */
		task->refused = true;
		scsi_check_condition(&task->scsi, 0x05, 0x49, 0x00);
	} else if (!scsi_prepare(&task->scsi)) {
		task->refused = true;
	} else {
		task->prepared = true;
		task->out_want = task->write ? min_size(task->scsi.out_length, task->edtl) : 0;
		if (task->out_want > LIMIT_IOBUF_CLIENT || task->scsi.in_max > LIMIT_IOBUF_CLIENT)
			iscsi_task_refuse(task, SCSI_BUSY);
	}
	if (task->write && !(bhs[BHS_FLAGS] & ISCSI_FINAL) && task->edtl > data) {
		end = min_size(task->edtl, params->first_burst);
		iscsi_data_announce(task, ISCSI_TAG_NONE, data, data < end ? end : data);
	}
	if (data > 0 && !params->immediate_data)
		iscsi_task_fail(task, 0x0c, 0x0c); /* unexpected unsolicited data */
	else if (data > task->edtl || data > params->first_burst)
		iscsi_task_fail(task, 0x0c, 0x0d); /* incorrect amount of data */
}

void
iscsi_task_begin(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	struct iscsi_task *task;

	if (iscsi_session_order(conn->session, rx->head) == ORDER_IGNORE) {
		rx->drop = true;
		return;
	}
	rx->reject = check_command(conn);
	if (rx->reject) {
		rx->drop = true;
		return;
	}
	task = new_task(conn, rx->head);
	if (!task) {
		iscsi_conn_die(conn, "out of memory");
		return;
	}
	rx->task = task;
	prepare_task(task);
	reserve_out(task);
	if (!rx->blocked)
		sink_immediate(task);
}

void
iscsi_task_finish(struct iscsi_conn *conn)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_rx *rx = &conn->rx;
	struct iscsi_task *task = rx->task;
	bool covered = session->ntmfs > 0 && iscsi_tmf_covers(session, task);
	enum iscsi_order order = iscsi_session_order(session, rx->head);

	rx->task = NULL;
	/* 7.8: Reject alone; the CmdSN is not consumed. And while it came its number may have come by
	 * another connection, or been passed over by a reset. */
	if (rx->bad_digest || order == ORDER_IGNORE) {
		forget_task(task);
		iscsi_task_free(task);
		if (rx->bad_digest)
			iscsi_reply_reject(conn, ISCSI_REJECT_DIGEST, rx->head);
		return;
	}
	task->out_asked = rx->data_length;
	if (order == ORDER_LATER) {
		task->held = iscsi_session_hold(conn, task->cmdsn);
		if (!task->held) {
			iscsi_conn_die(conn, "out of memory");
			return;
		}
		task->held->task = task;
	} else {
		if (!task->immediate)
			session->exp_cmdsn++;
		iscsi_task_turn(task);
	}
	if (covered)
		iscsi_task_abort(task);
	else
		iscsi_task_go(task);
	if (order == ORDER_NOW)
		iscsi_session_advance(session);
}
