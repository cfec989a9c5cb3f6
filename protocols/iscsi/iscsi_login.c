#include "config.h"

#include "iscsi/iscsi.h"

#include <stdio.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"
#include "log.h"

/* The login phase: RFC 7143 section 6.3, PDUs in 11.12 and 11.13. Who may log in to what is the
 * catalogue's word; how he proves who he is, iscsi_chap.c's. */

static uint16_t
portal_group(const struct iscsi_conn *conn)
{
	return conn->portal ? conn->portal->group : 1;
}

void
iscsi_login_free(struct iscsi_conn *conn)
{
	struct iscsi_login *login = conn->login;

	if (!login)
		return;
	conn->login = NULL;
	if (login->text)
		slab_free(iscsi_caches.text, login->text);
	if (login->answer)
		slab_free(iscsi_caches.text, login->answer);
	explicit_bzero(&login->chap, sizeof(login->chap));
	slab_free(iscsi_caches.login, login);
}

static const char *
describe_status(uint16_t status)
{
	switch (status) {
	case ISCSI_LOGIN_MOVED_TEMPORARILY:
	case ISCSI_LOGIN_MOVED:
		return "redirected";
	case ISCSI_LOGIN_AUTHENTICATION:
		return "not authenticated";
	case ISCSI_LOGIN_FORBIDDEN:
		return "no access rule for this initiator";
	case ISCSI_LOGIN_NOT_FOUND:
		return "no such target";
	case ISCSI_LOGIN_VERSION:
		return "protocol version";
	case ISCSI_LOGIN_CONNECTIONS:
		return "too many connections in the session";
	case ISCSI_LOGIN_MISSING:
		return "initiator or target name is missing";
	case ISCSI_LOGIN_NOT_INCLUDED:
		return "the session is another portal group's";
	case ISCSI_LOGIN_TYPE:
		return "session type";
	case ISCSI_LOGIN_NO_SESSION:
		return "no such session";
	case ISCSI_LOGIN_REQUEST_TYPE:
		return "request that is not a Login";
	case ISCSI_LOGIN_RESOURCES:
		return "out of resources";
	default:
		return "malformed login";
	}
}

/* A Login Response (11.13) to the request in `bhs`; numbers from the request while there is no
 * session. */
static struct iscsi_reply *
new_response(struct iscsi_conn *conn, const uint8_t *bhs, uint16_t status)
{
	struct iscsi_reply *reply;

	reply = iscsi_reply_new(conn, ISCSI_LOGIN_RESPONSE, get_be32(bhs + BHS_ITT));
	if (!reply)
		return NULL;
	reply->head[BHS_FLAGS] = 0;
	memcpy(reply->head + BHS_ISID, bhs + BHS_ISID, 8); /* and TSIH */
	put_be16(reply->head + BHS_STATUS_CLASS, status);
	/* Login requests are immediate: CmdSN stays what the first one said (11.12.8). */
	put_be32(reply->head + BHS_EXPCMDSN, get_be32(bhs + BHS_CMDSN));
	put_be32(reply->head + BHS_MAXCMDSN, get_be32(bhs + BHS_CMDSN));
	return reply;
}

/* Refuses the login; the connection closes when that is sent. Takes the text, which may be NULL. */
static void
refuse_with(struct iscsi_conn *conn, const uint8_t *bhs, uint16_t status, struct iscsi_text *text,
	size_t length)
{
	struct iscsi_reply *reply;

	log_seldom(LOG_LEVEL_INFO, "iscsi %s: login of \"%s\" to \"%s\" refused: %s (%04x)",
		conn->peer, conn->login ? conn->login->negotiation.names.initiator : "",
		conn->login ? conn->login->negotiation.names.target : "", describe_status(status),
		status);
	reply = new_response(conn, bhs, status);
	if (!reply) {
		if (text)
			slab_free(iscsi_caches.text, text);
		return;
	}
	iscsi_conn_event(conn, EVENT_LOGIN_FAILED);
	reply->last = true;
	reply->text = text;
	conn->rx.blocked = true; /* nothing after this is looked at */
	iscsi_reply_push(reply, length, STATSN_ADVANCE);
}

static void
refuse_login(struct iscsi_conn *conn, const uint8_t *bhs, uint16_t status)
{
	refuse_with(conn, bhs, status, NULL, 0);
}

static bool
start_login(struct iscsi_conn *conn, const uint8_t *bhs)
{
	struct iscsi_login *login = slab_alloc(iscsi_caches.login);

	if (!login) {
		iscsi_conn_die(conn, "out of memory");
		return false;
	}
	memset(login, 0, sizeof(*login));
	iscsi_negotiation_init(&login->negotiation);
	memcpy(login->isid, bhs + BHS_ISID, sizeof(login->isid));
	login->tsih = get_be16(bhs + BHS_TSIH);
	login->negotiation.joining = login->tsih != 0;
	login->cid = get_be16(bhs + BHS_CID);
	login->itt = get_be32(bhs + BHS_ITT);
	login->cmdsn = get_be32(bhs + BHS_CMDSN);
	login->stage = bhs[BHS_FLAGS] >> 2 & 3;
	conn->login = login;
	conn->cid = login->cid;
	conn->statsn = conn->acked = conn->awaited = get_be32(bhs + BHS_EXPSTATSN);
	iscsi_conn_event(conn, EVENT_LOGIN_REQUEST);
	return true;
}

/* 11.12.1 to 11.12.8: what the header alone can have wrong. 0 or a status. */
static uint16_t
check_header(const struct iscsi_login *login, const uint8_t *bhs)
{
	uint8_t flags = bhs[BHS_FLAGS];
	enum iscsi_stage csg = flags >> 2 & 3, nsg = flags & 3;

	if (bhs[BHS_VERSION_MIN] > 0)
		return ISCSI_LOGIN_VERSION;
	if (csg != login->stage || csg > ISCSI_STAGE_OPERATIONAL)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if ((flags & ISCSI_FINAL) && (flags & ISCSI_CONTINUE))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if ((flags & ISCSI_FINAL) &&
		(nsg <= csg || (nsg != ISCSI_STAGE_OPERATIONAL && nsg != ISCSI_STAGE_FULL_FEATURE)))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (memcmp(bhs + BHS_ISID, login->isid, 6) != 0 ||
		get_be16(bhs + BHS_TSIH) != login->tsih || get_be16(bhs + BHS_CID) != login->cid ||
		get_be32(bhs + BHS_ITT) != login->itt || get_be32(bhs + BHS_CMDSN) != login->cmdsn)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (get_be24(bhs + BHS_DATA_LENGTH) > LIMIT_ISCSI_LOGIN_PDU ||
		login->pdus > LIMIT_ISCSI_LOGIN_PDUS)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	return 0;
}

void
iscsi_login_begin(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	const uint8_t *bhs = rx->head;
	struct iscsi_login *login;
	uint16_t status;

	if ((bhs[BHS_OPCODE] & ISCSI_OPCODE_MASK) != ISCSI_LOGIN_REQUEST) {
		refuse_login(conn, bhs, ISCSI_LOGIN_REQUEST_TYPE);
		return;
	}
	if (!conn->login && !start_login(conn, bhs))
		return;
	login = conn->login;
	login->pdus++;
	status = check_header(login, bhs);
	if (!status && !login->text) {
		login->text = slab_alloc(iscsi_caches.text);
		if (login->text)
			login->text->length = 0;
		else
			status = ISCSI_LOGIN_RESOURCES;
	}
	if (!status && rx->data_length > LIMIT_ISCSI_TEXT - login->text->length)
		status = ISCSI_LOGIN_INITIATOR_ERROR;
	if (status) {
		refuse_login(conn, bhs, status);
		return;
	}
	rx->flat.iov_base = login->text->data + login->text->length;
	rx->flat.iov_len = rx->data_length;
	rx->iov = &rx->flat;
	rx->niov = 1;
	rx->skip = 0;
}

/* What the initiator has to prove, by the catalogue's rules. */
static uint16_t
find_access(const struct iscsi_negotiation *n, const struct catalogue *catalogue,
	struct iscsi_access *access)
{
	const struct target *target;

	if (n->active.discovery) {
		*access = (struct iscsi_access){
			.chap = catalogue->discovery_chap, .nchap = catalogue->ndiscovery_chap};
		return 0;
	}
	target = catalogue_target(catalogue, n->names.target);
	if (!target)
		return ISCSI_LOGIN_NOT_FOUND;
	target = catalogue_admit(target, n->names.initiator);
	if (!target)
		return ISCSI_LOGIN_FORBIDDEN;
	*access = (struct iscsi_access){
		.chap = target->chap, .nchap = target->nchap, .mutual = target->mutual};
	return 0;
}

/* The first complete text says who wants what (6.3.1), and it stays so. */
static uint16_t
check_identity(struct iscsi_login *login)
{
	const struct iscsi_negotiation *n = &login->negotiation;

	if (login->greeted)
		return n->active.discovery == login->discovery ? 0 : ISCSI_LOGIN_INITIATOR_ERROR;
	login->discovery = n->active.discovery;
	if (!n->names.initiator[0] || (!login->discovery && !n->names.target[0]))
		return ISCSI_LOGIN_MISSING;
	return 0;
}

/*
 * Everything is proved, or nothing has to be; until then the security stage is not left (12.1). A
 * login that begins in the operational stage, or leaves security without a word, proves nothing.
 */
static uint16_t
authenticate(struct iscsi_conn *conn, uint8_t flags, struct writer *out)
{
	struct iscsi_login *login = conn->login;
	const struct catalogue *catalogue = catalogue_get();
	struct iscsi_access access;
	uint16_t status;

	status = find_access(&login->negotiation, catalogue, &access);
	if (!status && login->stage == ISCSI_STAGE_SECURITY)
		status =
			iscsi_chap_step(&login->chap, catalogue, &access, &login->negotiation, out);
	if (!status && login->chap.state == CHAP_OFF) {
		if (access.nchap == 0)
			login->proved = true;
		else if (login->stage != ISCSI_STAGE_SECURITY || flags & ISCSI_FINAL)
			status = ISCSI_LOGIN_AUTHENTICATION;
	}
	if (!status && login->chap.state == CHAP_DONE)
		login->proved = true;
	catalogue_put(catalogue);
	return status;
}

/* 11.12.6: a session to be joined must be there, long before the login is done. */
static uint16_t
check_session(struct iscsi_conn *conn)
{
	const struct iscsi_login *login = conn->login;

	return login->tsih ? iscsi_session_find(conn, login, NULL) : 0;
}

/*
 * 11.13.5: the target is somewhere else, which is then all that the answer says. Told to who may get
 * in, when that is known.
 */
static uint16_t
check_redirect(const struct iscsi_login *login, struct writer *out)
{
	const struct catalogue *catalogue = catalogue_get();
	const struct target *target = catalogue_target(catalogue, login->negotiation.names.target);
	uint16_t status = 0;

	if (target && target->redirect && login->tsih == 0 && !login->discovery) {
		out->length = 0;
		/* 13.8: without the portal group tag */
		iscsi_pair_write(out, "TargetAddress", target->redirect);
		status = target->moved ? ISCSI_LOGIN_MOVED : ISCSI_LOGIN_MOVED_TEMPORARILY;
	}
	catalogue_put(catalogue);
	return status;
}

/* What a target declares of itself (13.9, 13.12). */
static void
write_declarations(struct iscsi_conn *conn, bool first, struct writer *out)
{
	struct iscsi_login *login = conn->login;
	char number[16];

	if (first && login->negotiation.names.target[0]) {
		snprintf(number, sizeof(number), "%u", portal_group(conn));
		iscsi_pair_write(out, "TargetPortalGroupTag", number);
	}
	if (login->stage == ISCSI_STAGE_OPERATIONAL && !login->recv_declared) {
		login->recv_declared = true;
		snprintf(number, sizeof(number), "%u", login->negotiation.mine.max_recv);
		iscsi_pair_write(out, "MaxRecvDataSegmentLength", number);
	}
}

/* The initiator port's name, SAM-5's view of initiator name and ISID. */
static struct scsi_nexus *
open_nexus(struct iscsi_conn *conn)
{
	const struct iscsi_session *session = conn->session;
	const struct catalogue *catalogue = catalogue_get();
	const struct target *target = catalogue_target(catalogue, session->names.target);
	struct scsi_nexus *nexus = NULL;
	char port[LIMIT_ISCSI_NAME + 24];
	const uint8_t *i = session->isid;

	snprintf(port, sizeof(port), "%s,i,0x%02x%02x%02x%02x%02x%02x", session->names.initiator,
		i[0], i[1], i[2], i[3], i[4], i[5]);
	if (target)
		target = catalogue_admit(target, session->names.initiator);
	if (target)
		nexus = scsi_nexus_new(catalogue, target, port);
	catalogue_put(catalogue);
	return nexus;
}

/* The final response, T5: from here on digests are used, and the session takes commands. */
void
iscsi_login_continue(struct iscsi_conn *conn)
{
	struct iscsi_login *login = conn->login;
	struct iscsi_session *session = conn->session;
	struct iscsi_params active;
	struct iscsi_reply *reply;

	if (conn->dying || !login)
		return;
	active = login->negotiation.active;
	if (!session->open && !session->params.discovery) {
		session->nexus = open_nexus(conn);
		if (!session->nexus) {
			refuse_login(conn, login->final, ISCSI_LOGIN_NOT_FOUND);
			return;
		}
		scsi_nexus_attach(session->nexus, iscsi_tmf_other, session);
	}
	reply = new_response(conn, login->final, ISCSI_LOGIN_OK);
	if (!reply)
		return;
	reply->head[BHS_FLAGS] =
		(uint8_t)(ISCSI_FINAL | (login->stage << 2) | ISCSI_STAGE_FULL_FEATURE);
	put_be16(reply->head + BHS_TSIH, session->tsih);
	reply->text = login->answer;
	login->answer = NULL;
	if (!session->open) {
		session->exp_cmdsn = login->cmdsn;
		session->max_cmdsn = login->cmdsn - 1;
	}
	session->open = true;
	stream_established(conn->stream);
	iscsi_reply_push(reply, login->answer_length, STATSN_ADVANCE);
	iscsi_conn_event(conn, EVENT_LOGIN_DONE);
	log_debug("iscsi %s: %s logged in to %s, connection %u", conn->peer,
		session->names.initiator,
		session->params.discovery ? "discovery" : session->names.target, conn->cid);
	iscsi_login_free(conn);
	conn->header_digest = active.header_digest;
	conn->data_digest = active.data_digest;
	conn->max_recv = active.max_recv;
	if (conn->rx.blocked) {
		conn->rx.blocked = false;
		iscsi_conn_resume(conn);
	}
}

void
iscsi_login_arrived(struct iscsi_conn *conn)
{
	struct iscsi_session *session = conn->joining;
	uint16_t status = iscsi_session_admit(session, conn);

	conn->joining = NULL;
	if (!status)
		iscsi_login_continue(conn);
	else if (!conn->dying)
		refuse_login(conn, conn->login->final, status);
	iscsi_session_settle(session);
}

void
iscsi_login_join(struct iscsi_conn *conn)
{
	uint16_t status = iscsi_session_find(conn, conn->login, &conn->joining);

	if (status)
		refuse_login(conn, conn->login->final, status);
	else if (conn->joining->loop == conn->loop)
		iscsi_login_arrived(conn);
	else
		iscsi_conn_move(conn, conn->joining->loop);
}

static void
end_login(struct iscsi_conn *conn, struct iscsi_text *answer, size_t length)
{
	struct iscsi_login *login = conn->login;

	login->answer = answer;
	login->answer_length = length;
	memcpy(login->final, conn->rx.head, ISCSI_BHS);
	conn->rx.blocked = true;
	if (login->tsih) {
		conn->moving = true;
		iscsi_conn_settle(conn);
		return;
	}
	if (!iscsi_session_new(conn, login)) {
		refuse_login(conn, conn->rx.head, ISCSI_LOGIN_RESOURCES);
		return;
	}
	if (!iscsi_session_enter(conn->session))
		return;
	conn->rx.blocked = false;
	iscsi_login_continue(conn);
}

/* Negotiates a complete text and answers it. */
static void
answer_login(struct iscsi_conn *conn)
{
	struct iscsi_login *login = conn->login;
	const uint8_t *bhs = conn->rx.head;
	uint8_t flags = bhs[BHS_FLAGS];
	bool first = !login->greeted;
	struct iscsi_reply *reply;
	struct iscsi_text *answer;
	struct writer out;
	uint16_t status;

	answer = slab_alloc(iscsi_caches.text);
	if (!answer) {
		refuse_login(conn, bhs, ISCSI_LOGIN_RESOURCES);
		return;
	}
	out = writer_of(answer->data, LIMIT_ISCSI_LOGIN_PDU);
	status = iscsi_keys_take(
		&login->negotiation, login->stage, login->text->data, login->text->length, &out);
	if (!status)
		status = check_identity(login);
	if (!status)
		status = authenticate(conn, flags, &out);
	slab_free(iscsi_caches.text, login->text); /* nothing points there any more */
	login->text = NULL;
	if (!status && login->proved)
		status = check_session(conn);
	if (!status && login->proved)
		status = check_redirect(login, &out);
	if (!status) {
		login->greeted = true;
		write_declarations(conn, first, &out);
		if (out.bad)
			status = ISCSI_LOGIN_RESOURCES;
	}
	if (status == ISCSI_LOGIN_REFLECTED) {
		slab_free(iscsi_caches.text, answer);
		iscsi_conn_die(conn, "sent our own CHAP challenge back");
		return;
	}
	if (status) {
		if (status >> 8 != 1)
			out.length = 0;
		refuse_with(conn, bhs, status, answer, out.length);
		return;
	}
	if (!login->proved) /* 6.3.2: the target, too, decides when a stage ends */
		flags &= (uint8_t)~ISCSI_FINAL;
	if ((flags & ISCSI_FINAL) && (flags & 3) == ISCSI_STAGE_FULL_FEATURE) {
		end_login(conn, answer, out.length);
		return;
	}
	reply = new_response(conn, bhs, ISCSI_LOGIN_OK);
	if (!reply) {
		slab_free(iscsi_caches.text, answer);
		return;
	}
	reply->head[BHS_FLAGS] = (uint8_t)(login->stage << 2);
	if (flags & ISCSI_FINAL) {
		reply->head[BHS_FLAGS] |= (uint8_t)(ISCSI_FINAL | (flags & 3));
		login->stage = flags & 3;
	}
	reply->text = answer;
	iscsi_reply_push(reply, out.length, STATSN_ADVANCE);
}

void
iscsi_login_finish(struct iscsi_conn *conn)
{
	struct iscsi_login *login = conn->login;
	const uint8_t *bhs = conn->rx.head;
	struct iscsi_reply *reply;

	login->text->length += conn->rx.data_length;
	if (!(bhs[BHS_FLAGS] & ISCSI_CONTINUE)) {
		answer_login(conn);
		return;
	}
	/* 6.2: text goes on in the next PDU; the answer is empty. */
	reply = new_response(conn, bhs, ISCSI_LOGIN_OK);
	if (!reply)
		return;
	reply->head[BHS_FLAGS] = (uint8_t)(login->stage << 2);
	iscsi_reply_push(reply, 0, STATSN_ADVANCE);
}
