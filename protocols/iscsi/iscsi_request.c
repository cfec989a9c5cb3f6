#include "config.h"

#include "iscsi/iscsi.h"

#include <string.h>

#include "check.h"

/*
 * The full feature phase: which PDU is whose, what order CmdSN gives them, and the two requests
 * that need no file of their own, NOP-Out (11.18) and Logout (11.14).
 */

static void run_nop(struct iscsi_conn *conn, struct iscsi_request *request);
static void run_text(struct iscsi_conn *conn, struct iscsi_request *request);
static void run_task_request(struct iscsi_conn *conn, struct iscsi_request *request);
static void run_logout(struct iscsi_conn *conn, struct iscsi_request *request);

static const struct opcode {
	enum iscsi_opcode opcode;
	/* Those with a life of their own. */
	void (*begin)(struct iscsi_conn *conn);
	void (*finish)(struct iscsi_conn *conn);
	/* Those that are ordered by CmdSN, run when whole. */
	void (*run)(struct iscsi_conn *conn, struct iscsi_request *request);
	uint32_t data_max; /* more is rejected */
	enum iscsi_reject reject;
} opcodes[] = {
	{ISCSI_COMMAND, iscsi_task_begin, iscsi_task_finish, NULL, 0, 0},
	{ISCSI_DATA_OUT, iscsi_data_begin, iscsi_data_finish, NULL, 0, 0},
	{ISCSI_NOP_OUT, NULL, NULL, run_nop, LIMIT_ISCSI_RECV, 0},
	{ISCSI_TASK_REQUEST, NULL, NULL, run_task_request, 0, 0},
	{ISCSI_TEXT_REQUEST, NULL, NULL, run_text, LIMIT_ISCSI_TEXT, 0},
	{ISCSI_LOGOUT_REQUEST, NULL, NULL, run_logout, 0, 0},
	{ISCSI_LOGIN_REQUEST, NULL, NULL, NULL, 0, ISCSI_REJECT_PROTOCOL},
	{ISCSI_SNACK, NULL, NULL, NULL, 0, ISCSI_REJECT_SNACK}, /* error recovery level 0 */
};

static const struct opcode *
find_opcode(const uint8_t *bhs)
{
	const struct opcode *row;

	for (row = opcodes; row < opcodes + ARRAY_SIZE(opcodes); row++) {
		if (row->opcode == (bhs[BHS_OPCODE] & ISCSI_OPCODE_MASK))
			return row;
	}
	return NULL;
}

void
iscsi_request_free(struct iscsi_session *session, struct iscsi_request *request)
{
	iobuf_free(&request->data);
	if (request->reserved)
		iobuf_unreserve(&session->account, request->reserved, IOBUF_READY);
	request->reserved = 0;
	request->length = 0;
}

/* The reservation for a request's data is there. */
static void
take_request_data(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;

	rx->request.reserved = rx->request.length;
	if (iobuf_take(&rx->request.data, rx->request.length) != 0) {
		iscsi_conn_die(conn, "out of memory");
		return;
	}
	rx->iov = rx->request.data.iov;
	rx->niov = rx->request.data.niov;
	rx->skip = 0;
}

static void
request_granted(struct iscsi_wait *wait)
{
	struct iscsi_conn *conn = container_of(wait, struct iscsi_conn, rx.wait);

	take_request_data(conn);
	conn->rx.blocked = false;
	iscsi_conn_resume(conn);
}

void
iscsi_request_hurry(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;

	iscsi_wait_cancel(conn->session, &rx->wait);
	/* A whole text, but not a whole ping: what lies beyond passes by and is not sent back. */
	rx->request.length = min_size(rx->data_length, LIMIT_ISCSI_TEXT);
	iobuf_charge(&conn->session->account, rx->request.length, IOBUF_READY);
	take_request_data(conn);
}

void
iscsi_request_begin(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	const struct opcode *row = find_opcode(rx->head);

	if (!row || row->reject) {
		rx->drop = true;
		rx->reject = (uint8_t)(row ? row->reject : ISCSI_REJECT_COMMAND);
		return;
	}
	if (row->begin) {
		row->begin(conn);
		return;
	}
	if (iscsi_session_order(conn->session, rx->head) == ORDER_IGNORE) {
		rx->drop = true;
		return;
	}
	if (rx->data_length > row->data_max) {
		rx->drop = true;
		rx->reject = ISCSI_REJECT_FIELD;
		return;
	}
	rx->request.length = rx->data_length;
	if (rx->data_length == 0)
		return;
	if (iscsi_reserve(conn->session, &rx->wait, rx->data_length, IOBUF_READY, request_granted))
		take_request_data(conn);
	else if (conn->session->collecting > 0)
		iscsi_request_hurry(conn);
	else
		rx->blocked = true;
}

void
iscsi_request_run(struct iscsi_conn *conn, struct iscsi_request *request)
{
	find_opcode(request->bhs)->run(conn, request);
	iscsi_request_free(conn->session, request);
}

/* A whole request, in its place by CmdSN (4.2.2.1). */
static void
order_request(struct iscsi_conn *conn)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_request *request = &conn->rx.request;
	struct iscsi_held *held;
	enum iscsi_order order;

	memcpy(request->bhs, conn->rx.head, ISCSI_BHS);
	order = iscsi_session_order(session, request->bhs);
	if (order == ORDER_IGNORE) { /* its number came by another connection meanwhile */
		iscsi_request_free(session, request);
		return;
	}
	if (order == ORDER_LATER) {
		held = iscsi_session_hold(conn, get_be32(request->bhs + BHS_CMDSN));
		if (!held) {
			iscsi_conn_die(conn, "out of memory");
			return;
		}
		held->request = *request;
		/* A short iobuf's vector lies inside it. */
		if (request->data.iov == request->data.few)
			held->request.data.iov = held->request.data.few;
		memset(request, 0, sizeof(*request));
		return;
	}
	if (!(request->bhs[BHS_OPCODE] & ISCSI_IMMEDIATE))
		session->exp_cmdsn++;
	iscsi_request_run(conn, request);
	iscsi_session_advance(session);
}

void
iscsi_request_finish(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	const struct opcode *row = find_opcode(rx->head);

	if (!rx->drop && row->finish) {
		row->finish(conn);
		return;
	}
	/* 7.8: the PDU is as if it had not come, CmdSN included. */
	if (rx->reject || (!rx->drop && rx->bad_digest)) {
		iscsi_request_free(conn->session, &rx->request);
		iscsi_reply_reject(conn, rx->reject ? rx->reject : ISCSI_REJECT_DIGEST, rx->head);
		return;
	}
	if (!rx->drop)
		order_request(conn);
	else if (rx->spent && !rx->bad_digest && !iscsi_session_skip(conn, rx->head))
		iscsi_conn_die(conn, "out of memory");
}

static void
run_nop(struct iscsi_conn *conn, struct iscsi_request *request)
{
	uint32_t itt = get_be32(request->bhs + BHS_ITT);
	struct iscsi_reply *reply;
	size_t length;

	/* 11.18: without a tag it asks for nothing; an answer to a ping of ours comes so. */
	if (itt == ISCSI_TAG_NONE)
		return;
	/* 4.3: SendTargets and a logout, nothing else. */
	if (conn->session->params.discovery) {
		iscsi_reply_reject(conn, ISCSI_REJECT_PROTOCOL, request->bhs);
		return;
	}
	reply = iscsi_reply_new(conn, ISCSI_NOP_IN, itt);
	if (!reply)
		return;
	put_be32(reply->head + BHS_TTT, ISCSI_TAG_NONE);
	/* 11.19.3: the ping's data, as far as the initiator takes it. */
	length = min_size(request->length, conn->max_recv);
	reply->buffer = request->data;
	if (request->data.iov == request->data.few)
		reply->buffer.iov = reply->buffer.few;
	reply->reserved = request->reserved;
	memset(&request->data, 0, sizeof(request->data));
	request->reserved = 0;
	iscsi_reply_push(reply, length, STATSN_ADVANCE);
}

void
iscsi_ping(struct iscsi_conn *conn, bool ask)
{
	struct iscsi_reply *reply = iscsi_reply_new(conn, ISCSI_NOP_IN, ISCSI_TAG_NONE);

	if (!reply)
		return;
	put_be32(reply->head + BHS_TTT, ISCSI_TAG_NONE);
	if (ask) {
		if (++conn->session->ttt == ISCSI_TAG_NONE)
			conn->session->ttt = 0;
		put_be32(reply->head + BHS_TTT, conn->session->ttt);
		conn->pinged = loop_now(conn->loop);
	}
	iscsi_reply_push(reply, 0, STATSN_NEXT); /* 11.19.1 */
}

static void
run_text(struct iscsi_conn *conn, struct iscsi_request *request)
{
	iscsi_text_request(conn, request);
}

static void
run_task_request(struct iscsi_conn *conn, struct iscsi_request *request)
{
	iscsi_tmf_request(conn, request);
}

static void
send_logout(struct iscsi_conn *conn, uint32_t itt, enum iscsi_logout_answer answer, bool last)
{
	struct iscsi_reply *reply = iscsi_reply_new(conn, ISCSI_LOGOUT_RESPONSE, itt);

	if (!reply)
		return;
	reply->head[BHS_RESPONSE] = (uint8_t)answer;
	put_be16(reply->head + BHS_TIME2WAIT, (uint16_t)conn->session->params.time2wait);
	put_be16(reply->head + BHS_TIME2WAIT + 2, (uint16_t)conn->session->params.time2retain);
	reply->last = last;
	iscsi_reply_push(reply, 0, STATSN_ADVANCE);
}

void
iscsi_logout_answer(struct iscsi_conn *conn)
{
	send_logout(conn, conn->logout_itt, ISCSI_LOGOUT_CLOSED, true);
}

/* Another connection of the session is to be closed: at once, and its tasks are terminated. */
static void
logout_other(struct iscsi_conn *conn, uint16_t cid, uint32_t itt)
{
	struct iscsi_conn *other = iscsi_session_cid(conn->session, cid);

	if (other) {
		iscsi_conn_event(other, EVENT_REPLACED);
		iscsi_conn_die(other, "logged out by another connection");
	}
	send_logout(conn, itt, other ? ISCSI_LOGOUT_CLOSED : ISCSI_LOGOUT_NO_CID, false);
}

/* The session is to be closed: so are the other connections, each when its commands are answered. */
static void
logout_session(struct iscsi_conn *conn)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_conn *other;

	session->ending = true;
	session->logout = conn;
	TAILQ_FOREACH(other, &session->conns, sibling) {
		if (other == conn || other->dying || other->closing)
			continue;
		if (iscsi_conn_active(other))
			iscsi_conn_event(other, EVENT_LOGOUT_REQUEST);
		iscsi_conn_close(other);
	}
}

/*
 * 11.14. Commands that run are answered first, those whose data or whose CmdSN has not come are
 * forgotten.
 */
static void
run_logout(struct iscsi_conn *conn, struct iscsi_request *request)
{
	uint32_t itt = get_be32(request->bhs + BHS_ITT);
	uint8_t reason = request->bhs[BHS_FLAGS] & 0x7f;
	uint16_t cid = get_be16(request->bhs + BHS_CID);

	if (reason == ISCSI_LOGOUT_RECOVERY) { /* 11.15.1: no recovery at level 0 */
		send_logout(conn, itt, ISCSI_LOGOUT_NO_RECOVERY, false);
		return;
	}
	if (reason > ISCSI_LOGOUT_RECOVERY) {
		iscsi_reply_reject(conn, ISCSI_REJECT_FIELD, request->bhs);
		return;
	}
	if (reason == ISCSI_LOGOUT_CONNECTION && cid != conn->cid) {
		logout_other(conn, cid, itt);
		return;
	}
	iscsi_conn_event(conn, EVENT_LOGOUT_REQUEST);
	conn->rx.blocked = true;
	conn->logout = true;
	conn->logout_itt = itt;
	if (reason == ISCSI_LOGOUT_SESSION)
		logout_session(conn);
	iscsi_held_drop(conn);
	iscsi_tasks_abort(conn, false);
	iscsi_conn_settle(conn);
}
