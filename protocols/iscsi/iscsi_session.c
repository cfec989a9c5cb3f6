#include "config.h"

#include "iscsi/iscsi.h"

#include <pthread.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"
#include "log.h"

/*
 * The session table: initiator name, ISID, target and target portal group lead to the session
 * (4.4.1 "I_T nexus"). Any loop's logins and ends of sessions, under its lock; nothing else is done
 * under it.
 *
 * Reinstatement (6.3.5): a login takes the table's place of the session with its name, posts `end`
 * to that one's loop, and goes on when `ended` comes back. The old session, which may itself still
 * be waiting for the one before it, answers only when that one has answered: so of racing logins
 * the last wins, and two are never active. While `end` or `ended` is on its way to a session it is
 * not freed.
 */

#define TABLE_BUCKETS 256
#define TSIH_WORDS    (65536 / 64)

static struct session_table {
	pthread_mutex_t lock;
	LIST_HEAD(, iscsi_session) buckets[TABLE_BUCKETS];
	uint64_t tsihs[TSIH_WORDS]; /* those in use; 0 never is */
	uint16_t last_tsih;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

void
iscsi_sessions_init(void)
{
	unsigned i;

	for (i = 0; i < TABLE_BUCKETS; i++)
		LIST_INIT(&table.buckets[i]);
	memset(table.tsihs, 0, sizeof(table.tsihs));
}

static unsigned
hash_port(const struct iscsi_names *names, const uint8_t isid[6])
{
	uint32_t h = 2166136261u;
	const char *p;
	unsigned i;

	for (p = names->initiator; *p; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	for (i = 0; i < 6; i++)
		h = (h ^ isid[i]) * 16777619u;
	return h % TABLE_BUCKETS;
}

static bool
is_of(const struct iscsi_session *session, const struct iscsi_names *names, const uint8_t isid[6])
{
	return memcmp(session->isid, isid, 6) == 0 &&
	       strcmp(session->names.initiator, names->initiator) == 0 &&
	       strcmp(session->names.target, names->target) == 0;
}

/* Under the lock. */
static struct iscsi_session *
find_session(const struct iscsi_names *names, const uint8_t isid[6], uint16_t group)
{
	struct iscsi_session *session;

	LIST_FOREACH(session, &table.buckets[hash_port(names, isid)], link) {
		if (session->group == group && is_of(session, names, isid))
			return session;
	}
	return NULL;
}

/* Under the lock. 0: all are in use. */
static uint16_t
take_tsih(void)
{
	unsigned i;

	for (i = 0; i < 65535; i++) {
		if (++table.last_tsih == 0)
			table.last_tsih = 1;
		if (!(table.tsihs[table.last_tsih / 64] >> (table.last_tsih % 64) & 1)) {
			table.tsihs[table.last_tsih / 64] |= (uint64_t)1 << (table.last_tsih % 64);
			return table.last_tsih;
		}
	}
	return 0;
}

/* It waits for the first of the session's waits, or has got it and the session not yet been told. */
static bool
account_busy(const struct iobuf_account *account)
{
	return account->waiting || account->granting;
}

static void
run_granted(struct iobuf_account *account)
{
	struct iscsi_session *session = container_of(account, struct iscsi_session, account);
	struct iscsi_wait *wait = TAILQ_FIRST(&session->waits);

	if (session->head_gone) {
		session->head_gone = false;
		iobuf_unreserve(account, session->head_bytes, session->head_use);
		wait = NULL;
	}
	for (;;) {
		if (wait) {
			TAILQ_REMOVE(&session->waits, wait, link);
			wait->queued = false;
			wait->granted(wait);
		}
		/* granted() may have ended waits, or begun to ask by itself. */
		wait = TAILQ_FIRST(&session->waits);
		if (!wait || account_busy(account) || session->head_gone)
			return;
		if (!iobuf_reserve(account, wait->bytes, wait->use))
			return;
	}
}

bool
iscsi_reserve(struct iscsi_session *session, struct iscsi_wait *wait, size_t bytes,
	enum iobuf_use use, void (*granted)(struct iscsi_wait *wait))
{
	bool first = TAILQ_EMPTY(&session->waits) && !session->head_gone;

	CHECK(!wait->queued);
	if (bytes == 0)
		return true;
	if (first && !account_busy(&session->account) &&
		iobuf_reserve(&session->account, bytes, use))
		return true;
	wait->bytes = bytes;
	wait->use = use;
	wait->granted = granted;
	wait->queued = true;
	TAILQ_INSERT_TAIL(&session->waits, wait, link);
	return false;
}

void
iscsi_wait_cancel(struct iscsi_session *session, struct iscsi_wait *wait)
{
	if (!wait->queued)
		return;
	/* The account waits for the first one and cannot be told otherwise: it is given back when
	 * granted. */
	if (wait == TAILQ_FIRST(&session->waits) && account_busy(&session->account) &&
		!session->head_gone) {
		session->head_gone = true;
		session->head_bytes = wait->bytes;
		session->head_use = wait->use;
	}
	TAILQ_REMOVE(&session->waits, wait, link);
	wait->queued = false;
}

void
iscsi_session_settle(struct iscsi_session *session)
{
	struct iscsi_conn *conn;

	TAILQ_FOREACH(conn, &session->conns, sibling)
		iscsi_conn_settle(conn);
}

/* The successor's loop: the session before this one is over. */
static void
run_ended(struct loop_task *task)
{
	struct iscsi_session *session = container_of(task, struct iscsi_session, ended);
	struct iscsi_conn *conn = TAILQ_FIRST(&session->conns); /* none joins before it is open */

	session->waiting = false;
	if (session->answer_due) {
		session->answer_due = false;
		loop_post(session->successor->loop, &session->successor->ended);
	}
	if (conn->dying)
		iscsi_conn_settle(conn);
	else
		iscsi_login_continue(conn);
}

/* The connection is over for a reason that lies elsewhere. */
static void
replace_conn(struct iscsi_conn *conn)
{
	if (conn->dying)
		return;
	iscsi_conn_event(conn, EVENT_REPLACED);
	iscsi_conn_die(conn, NULL);
}

/* Connections that take part in it, and are not on their way out. */
static unsigned
count_live(const struct iscsi_session *session)
{
	const struct iscsi_conn *conn;
	unsigned n = 0;

	TAILQ_FOREACH(conn, &session->conns, sibling)
		n += iscsi_conn_live(conn);
	return n;
}

/* The old session's loop: another login takes its place. */
static void
run_end(struct loop_task *task)
{
	struct iscsi_session *session = container_of(task, struct iscsi_session, end);
	struct iscsi_session *successor;
	struct iscsi_conn *conn;

	pthread_mutex_lock(&table.lock);
	session->end_due = false;
	successor = session->successor;
	pthread_mutex_unlock(&table.lock);
	if (count_live(session) > 0)
		log_seldom(LOG_LEVEL_INFO, "iscsi %s: session of %s is reinstated",
			TAILQ_FIRST(&session->conns)->peer, session->names.initiator);
	TAILQ_FOREACH(conn, &session->conns, sibling)
		replace_conn(conn);
	if (session->waiting)
		session->answer_due = true;
	else
		loop_post(successor->loop, &successor->ended);
	iscsi_session_settle(session);
}

struct iscsi_session *
iscsi_session_new(struct iscsi_conn *conn, const struct iscsi_login *login)
{
	struct iscsi_session *session = slab_alloc(iscsi_caches.session);
	unsigned i;

	if (!session)
		return NULL;
	memset(session, 0, sizeof(*session));
	pthread_mutex_lock(&table.lock);
	session->tsih = take_tsih();
	pthread_mutex_unlock(&table.lock);
	if (!session->tsih) {
		slab_free(iscsi_caches.session, session);
		return NULL;
	}
	session->loop = conn->loop;
	TAILQ_INIT(&session->conns);
	TAILQ_INSERT_TAIL(&session->conns, conn, sibling);
	conn->session = session;
	session->names = login->negotiation.names;
	session->params = login->negotiation.active;
	memcpy(session->isid, login->isid, sizeof(session->isid));
	session->group = conn->portal ? conn->portal->group : 1;
	session->portal_id = conn->portal ? conn->portal->relative_id : 1;
	session->exp_cmdsn = login->cmdsn;
	session->end.run = run_end;
	session->ended.run = run_ended;
	TAILQ_INIT(&session->tasks);
	TAILQ_INIT(&session->held);
	TAILQ_INIT(&session->tmfs);
	TAILQ_INIT(&session->waits);
	for (i = 0; i < ISCSI_TASK_BUCKETS; i++)
		LIST_INIT(&session->buckets[i]);
	iobuf_account_init(&session->account, conn->loop, run_granted);
	return session;
}

bool
iscsi_session_enter(struct iscsi_session *session)
{
	struct iscsi_session *old;

	/* A discovery session has no target whose nexus could be taken over. */
	if (session->params.discovery)
		return true;
	pthread_mutex_lock(&table.lock);
	old = find_session(&session->names, session->isid, session->group);
	if (old) {
		LIST_REMOVE(old, link);
		old->listed = false;
		old->successor = session;
		old->end_due = true;
		session->waiting = true;
	}
	LIST_INSERT_HEAD(&table.buckets[hash_port(&session->names, session->isid)], session, link);
	session->listed = true;
	/* Under the lock: once it is released the old one may find itself due and be gone. */
	if (old)
		loop_post(old->loop, &old->end);
	pthread_mutex_unlock(&table.lock);
	return !old;
}

uint16_t
iscsi_session_find(
	const struct iscsi_conn *conn, const struct iscsi_login *login, struct iscsi_session **pin)
{
	const struct iscsi_names *names = &login->negotiation.names;
	uint16_t group = conn->portal ? conn->portal->group : 1;
	uint16_t status = ISCSI_LOGIN_NO_SESSION;
	struct iscsi_session *session;

	pthread_mutex_lock(&table.lock);
	LIST_FOREACH(session, &table.buckets[hash_port(names, login->isid)], link) {
		if (session->tsih == login->tsih && is_of(session, names, login->isid))
			break;
	}
	if (session) /* 4.4.1: a session does not span portal groups */
		status = session->group == group ? 0 : ISCSI_LOGIN_NOT_INCLUDED;
	if (!status && pin) {
		session->pins++;
		*pin = session;
	}
	pthread_mutex_unlock(&table.lock);
	return status;
}

struct iscsi_conn *
iscsi_session_cid(const struct iscsi_session *session, uint16_t cid)
{
	struct iscsi_conn *conn;

	TAILQ_FOREACH(conn, &session->conns, sibling) {
		if (conn->cid == cid && !conn->dying)
			return conn;
	}
	return NULL;
}

uint16_t
iscsi_session_admit(struct iscsi_session *session, struct iscsi_conn *conn)
{
	struct iscsi_conn *same = iscsi_session_cid(session, conn->cid);
	unsigned live = count_live(session);

	pthread_mutex_lock(&table.lock);
	session->pins--;
	pthread_mutex_unlock(&table.lock);
	if (conn->dying || !session->open || session->ending || live == 0)
		return ISCSI_LOGIN_NO_SESSION;
	if (!same && live >= session->params.max_connections)
		return ISCSI_LOGIN_CONNECTIONS;
	TAILQ_INSERT_TAIL(&session->conns, conn, sibling);
	conn->session = session;
	if (same) {
		log_seldom(LOG_LEVEL_INFO, "iscsi %s: connection %u of %s is reinstated",
			same->peer, same->cid, session->names.initiator);
		replace_conn(same);
	}
	return 0;
}

bool
iscsi_session_leave(struct iscsi_conn *conn, bool *over)
{
	struct iscsi_session *session = conn->session;
	bool posted;

	*over = TAILQ_FIRST(&session->conns) == conn && !TAILQ_NEXT(conn, sibling);
	if (!*over) {
		TAILQ_REMOVE(&session->conns, conn, sibling);
		return true;
	}
	pthread_mutex_lock(&table.lock);
	if (session->listed)
		LIST_REMOVE(session, link);
	session->listed = false;
	posted = session->end_due || session->pins > 0;
	pthread_mutex_unlock(&table.lock);
	return !posted && !session->waiting;
}

void
iscsi_session_free(struct iscsi_session *session)
{
	struct iscsi_held *held;

	CHECK(session->ntasks == 0 && TAILQ_EMPTY(&session->waits) && TAILQ_EMPTY(&session->tmfs));
	while ((held = TAILQ_FIRST(&session->held))) { /* gaps that were closed */
		TAILQ_REMOVE(&session->held, held, link);
		slab_free(iscsi_caches.held, held);
	}
	pthread_mutex_lock(&table.lock);
	table.tsihs[session->tsih / 64] &= ~((uint64_t)1 << (session->tsih % 64));
	pthread_mutex_unlock(&table.lock);
	if (session->nexus)
		scsi_nexus_free(session->nexus);
	iobuf_account_close(&session->account);
	slab_free(iscsi_caches.session, session);
}

/* Memory is short: for this session, or on its loop. */
static bool
is_pressed(const struct iscsi_session *session)
{
	return !TAILQ_EMPTY(&session->waits) ||
	       iobuf_reserved(loop_index(session->loop)) > LIMIT_IOBUF_SHARE / 4 * 3;
}

/*
 * 4.2.2.1: the window is what this session may still put into its tasks. ExpCmdSN and window_used
 * grow together when a command comes. MaxCmdSN never goes back: a window that shrinks does so by
 * staying where it is until commands have filled it. The last command's response finds
 * window_used 0 and opens it again.
 */
uint32_t
iscsi_session_announce(struct iscsi_session *session)
{
	uint32_t window = is_pressed(session) ? LIMIT_ISCSI_WINDOW_PRESSED : LIMIT_ISCSI_WINDOW;
	uint32_t max = session->exp_cmdsn + window - session->window_used - 1;

	if (sn_diff(max, session->max_cmdsn) > 0)
		session->max_cmdsn = max;
	return session->max_cmdsn;
}

void
iscsi_window_widen(struct iscsi_session *session)
{
	struct iscsi_conn *conn;

	session->window_used--;
	if (sn_diff(session->max_cmdsn, session->exp_cmdsn) >= 0)
		return;
	TAILQ_FOREACH(conn, &session->conns, sibling) {
		if (iscsi_conn_live(conn)) {
			iscsi_ping(conn, false);
			return;
		}
	}
}

enum iscsi_order
iscsi_session_order(const struct iscsi_session *session, const uint8_t *bhs)
{
	uint32_t cmdsn = get_be32(bhs + BHS_CMDSN);
	const struct iscsi_held *held;

	if (bhs[BHS_OPCODE] & ISCSI_IMMEDIATE)
		return ORDER_NOW;
	if (sn_diff(cmdsn, session->exp_cmdsn) < 0 || sn_diff(cmdsn, session->max_cmdsn) > 0)
		return ORDER_IGNORE;
	if (cmdsn == session->exp_cmdsn)
		return ORDER_NOW;
	TAILQ_FOREACH(held, &session->held, link) {
		if (held->cmdsn == cmdsn)
			return ORDER_IGNORE;
	}
	return ORDER_LATER;
}

struct iscsi_held *
iscsi_session_hold(struct iscsi_conn *conn, uint32_t cmdsn)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_held *held = slab_alloc(iscsi_caches.held);
	struct iscsi_held *next;

	if (!held)
		return NULL;
	memset(held, 0, sizeof(*held));
	held->conn = conn;
	held->cmdsn = cmdsn;
	TAILQ_FOREACH(next, &session->held, link) {
		if (sn_diff(next->cmdsn, cmdsn) > 0) {
			TAILQ_INSERT_BEFORE(next, held, link);
			return held;
		}
	}
	TAILQ_INSERT_TAIL(&session->held, held, link);
	return held;
}

bool
iscsi_session_skip(struct iscsi_conn *conn, const uint8_t *bhs)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_held *held;

	if (bhs[BHS_OPCODE] & ISCSI_IMMEDIATE || iscsi_session_order(session, bhs) == ORDER_IGNORE)
		return true;
	held = iscsi_session_hold(conn, get_be32(bhs + BHS_CMDSN));
	if (!held)
		return false;
	held->filled = true;
	iscsi_session_advance(session);
	return true;
}

void
iscsi_session_advance(struct iscsi_session *session)
{
	struct iscsi_held *held;
	struct iscsi_task *task;

	for (;;) {
		if (session->ntmfs > 0) /* some wait for commands up to here */
			iscsi_tmf_settle(session);
		held = TAILQ_FIRST(&session->held);
		if (!held || held->cmdsn != session->exp_cmdsn)
			return;
		session->exp_cmdsn++;
		TAILQ_REMOVE(&session->held, held, link);
		task = held->task;
		if (task) {
			task->held = NULL;
			iscsi_task_turn(task);
		} else if (!held->filled) {
			iscsi_request_run(held->conn, &held->request);
		}
		slab_free(iscsi_caches.held, held);
	}
}

void
iscsi_held_drop(struct iscsi_conn *conn)
{
	struct iscsi_session *session = conn->session;
	struct iscsi_held *held;
	struct iscsi_task *task;

	/* From the start each time: what ends with a task may end others. */
	for (;;) {
		TAILQ_FOREACH(held, &session->held, link) {
			if (held->conn == conn && !held->filled)
				break;
		}
		if (!held)
			return;
		task = held->task;
		TAILQ_REMOVE(&session->held, held, link);
		iscsi_request_free(session, &held->request);
		slab_free(iscsi_caches.held, held);
		if (task) {
			task->held = NULL;
			iscsi_task_abort(task);
		}
	}
}
