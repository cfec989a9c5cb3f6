/*
 * The iSCSI target's inside. A session and all its connections live on one loop: a connection that
 * logs in to a session of another loop moves there before its final Login Response. Everything here
 * is that loop's but for the session table (iscsi_session.c), which is behind a lock that only
 * logins and ends of sessions take.
 *
 * The way of a command: iscsi_conn.c reads -> iscsi_pdu.c cuts PDUs -> iscsi_request.c orders by
 * CmdSN -> iscsi_task.c prepares, collects data-out (iscsi_data.c) and executes -> the SCSI layer
 * -> iscsi_data.c queues Data-In and status -> iscsi_conn.c sends all of a turn with one write
 * before the loop sleeps.
 */
#ifndef SLABD_ISCSI_H
#define SLABD_ISCSI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "bytes.h"
#include "frontend.h"
#include "iobuf.h"
#include "iscsi/iscsi_wire.h"
#include "limits.h"
#include "loop.h"
#include "scsi/scsi.h"
#include "slab.h"
#include "stream.h"

struct catalogue;
struct iscsi_conn;
struct iscsi_session;
struct iscsi_task;

/* parameters (iscsi_keys.c) */

/* Values by the rows of the key table; booleans and choices are numbers too. No pointers: survives.
 */
struct iscsi_params {
	uint32_t header_digest, data_digest; /* 0 None, 1 CRC32C */
	uint32_t max_connections;
	uint32_t initial_r2t, immediate_data;
	uint32_t max_recv; /* in `his` and `active`: what the initiator takes */
	uint32_t max_burst, first_burst;
	uint32_t time2wait, time2retain;
	uint32_t max_r2t;
	uint32_t data_pdu_in_order, data_sequence_in_order;
	uint32_t error_recovery_level;
	uint32_t discovery; /* SessionType */
	uint32_t task_reporting;
	uint32_t protocol_level;
};

struct iscsi_names {
	char initiator[LIMIT_ISCSI_NAME + 1]; /* lower case; empty: not declared */
	char target[LIMIT_ISCSI_NAME + 1];
};

struct iscsi_pair {
	const char *key,
		*value; /* where they stand in the text; not terminated but for the value's NUL */
	size_t key_length, value_length;
};

enum iscsi_chap_key {
	ISCSI_CHAP_A,
	ISCSI_CHAP_I,
	ISCSI_CHAP_C,
	ISCSI_CHAP_N,
	ISCSI_CHAP_R,
	ISCSI_CHAP_KEYS,
};

enum { ISCSI_AUTH_NONE = 1, ISCSI_AUTH_CHAP = 2 };

/* One negotiation: a login, or a text exchange of the full feature phase. */
struct iscsi_negotiation {
	struct iscsi_params mine, his, active;
	struct iscsi_names names;
	uint64_t seen;                           /* bit: row of the key table */
	unsigned unknown;                        /* keys not in the table, so far */
	bool joining;                            /* not the leading login of its session */
	bool auth_said;                          /* AuthMethod came */
	unsigned auth_offered;                   /* with these */
	struct iscsi_pair chap[ISCSI_CHAP_KEYS]; /* in the text under way; key NULL: not said */
	bool send_targets;                       /* SendTargets came, with this value */
	char send_targets_value[LIMIT_ISCSI_VALUE + 1];
};

/* mine as configured, his and active at the RFC's defaults. */
void iscsi_negotiation_init(struct iscsi_negotiation *n);

/*
 * Takes all pairs of a complete text received in `stage`, merges mine and his into active, and
 * writes the answers. 0 or an iscsi_login_status of class 2 or 3 (nothing useful written then).
 */
uint16_t iscsi_keys_take(struct iscsi_negotiation *n, enum iscsi_stage stage, const void *text,
	size_t length, struct writer *answer);

/* The rows, for the manual and for tests: one line per key. False past the last. */
bool iscsi_key_describe(unsigned row, char *line, size_t size);

/* text (iscsi_text.c) */

/* The next key=value of a text: 1; 0 at the end; -EINVAL where it is malformed (RFC 7143 6.1). */
int iscsi_pair_next(struct reader *text, struct iscsi_pair *pair);
void iscsi_pair_write(struct writer *out, const char *key, const char *value);

/* 6.1: a decimal or hexadecimal constant of at most 32 bits. */
bool iscsi_pair_number(const struct iscsi_pair *pair, uint32_t *number);

/* Text that arrives in several PDUs, or leaves in one. From a slab cache. */
struct iscsi_text {
	size_t length;
	uint8_t data[LIMIT_ISCSI_TEXT];
};

/* A listing under way in a Text exchange: the next record to write. */
struct iscsi_listing {
	bool on;
	bool all;
	char name[LIMIT_ISCSI_NAME + 1];
	size_t target, portal; /* next; portal 0 is the TargetName */
};

/* Text requests of the full feature phase: at most one exchange at a time (11.10.4). */
struct iscsi_exchange {
	bool open;
	uint32_t itt, ttt;
	struct iscsi_text *text;
	struct iscsi_listing listing;
};

struct iscsi_request;
void iscsi_text_request(struct iscsi_conn *conn, const struct iscsi_request *request);
void iscsi_exchange_close(struct iscsi_exchange *exchange);

/* PDUs in (iscsi_pdu.c) */

/* A PDU that is not a SCSI Command or Data-Out, whole. */
struct iscsi_request {
	uint8_t bhs[ISCSI_BHS];
	struct iobuf data;
	size_t length;   /* of its data segment */
	size_t reserved; /* READY bytes */
};

/* A reservation that may have to wait its turn (iscsi_session.c). */
struct iscsi_wait {
	TAILQ_ENTRY(iscsi_wait) link;
	size_t bytes;
	enum iobuf_use use;
	bool queued;
	void (*granted)(struct iscsi_wait *wait);
};

enum iscsi_rx_state { RX_HEADER, RX_DATA };

struct iscsi_rx {
	enum iscsi_rx_state state;
	bool blocked; /* no byte is taken until somebody unblocks */
	bool drop;    /* the PDU has no effect: its data passes by */
	bool bad_digest;
	bool spent;     /* a command that was aborted while it came: its CmdSN counts */
	uint8_t reject; /* reason of the Reject to send when the PDU has passed by, or 0 */
	uint8_t head[ISCSI_BHS + ISCSI_AHS + 4];
	size_t head_have, head_need;
	struct iovec flat;       /* a sink of one piece */
	const struct iovec *iov; /* where data goes; niov 0: nowhere */
	unsigned niov;
	size_t skip;
	uint32_t data_length, data_left;
	uint8_t tail[8]; /* padding and digest */
	size_t tail_have, tail_need;
	uint32_t crc;
	uint64_t started;        /* loop_now() at the PDU's first byte, 0 between PDUs */
	struct iscsi_task *task; /* whose data arrives */
	struct iscsi_request request;
	struct iscsi_wait wait; /* for the request's data */
	uint8_t *left; /* bytes received and not taken yet; LIMIT_RECV_BUFFER, from a slab */
	size_t left_at, left_length;
};

void iscsi_rx_init(struct iscsi_rx *rx);
/* Takes bytes until all are taken, the connection is blocked or dying. Returns the bytes taken. */
size_t iscsi_rx_feed(struct iscsi_conn *conn, const uint8_t *data, size_t length);
/* The sink as a vector for a direct read, 0 when the loop's buffer is the better place. */
unsigned iscsi_rx_direct(struct iscsi_rx *rx, struct iovec *iov, unsigned max);
/* `length` bytes of what iscsi_rx_direct() gave are there. */
void iscsi_rx_directed(struct iscsi_conn *conn, size_t length);
void iscsi_rx_close(struct iscsi_conn *conn);

uint32_t iscsi_crc(uint32_t crc, const void *data, size_t length);
uint32_t
iscsi_crc_iov(uint32_t crc, const struct iovec *iov, unsigned niov, size_t skip, size_t length);
#define ISCSI_CRC_START 0xffffffffu
/* On the wire the digest is the complement, least significant byte first (RFC 7143 13.1). */
void iscsi_crc_put(uint8_t out[4], uint32_t crc);

/* PDUs out (iscsi_reply.c) */

#define ISCSI_HEAD (ISCSI_BHS + 4) /* with its digest */
#define ISCSI_TAIL 8               /* padding and digest of a data segment */

/* Every PDU from the target but those of SCSI tasks. From a slab cache; frees itself when sent. */
struct iscsi_reply {
	struct send_item item;
	struct iscsi_conn *conn;
	uint8_t head[ISCSI_HEAD];
	uint8_t tail[ISCSI_TAIL];
	struct iovec iov[8];
	uint8_t few[ISCSI_BHS]; /* a small data segment */
	struct iscsi_text *text;
	struct iobuf buffer;
	size_t reserved;
	bool last; /* close the connection when it is sent */
};

enum iscsi_statsn { STATSN_ADVANCE, STATSN_NEXT /* carried, not consumed */ };

/* Zeroed header with opcode, F bit and ITT. NULL: no memory, and the connection is dying. */
struct iscsi_reply *
iscsi_reply_new(struct iscsi_conn *conn, enum iscsi_opcode opcode, uint32_t itt);
/* Numbers, digests, padding; queues it. `length` bytes of text, buffer or few, whichever is there.
 */
void iscsi_reply_push(struct iscsi_reply *reply, size_t length, enum iscsi_statsn statsn);
/* One that is not to be sent after all. */
void iscsi_reply_discard(struct iscsi_reply *reply);
void iscsi_reply_reject(struct iscsi_conn *conn, enum iscsi_reject reason, const uint8_t *bhs);
/* An Asynchronous Message (11.9). */
void iscsi_reply_async(
	struct iscsi_conn *conn, enum iscsi_async_event event, const uint16_t parameters[3]);
/* A SCSI event, 11.9.1: sense data of a unit attention, and whose. */
void iscsi_reply_event(
	struct iscsi_conn *conn, const uint8_t lun[8], const uint8_t *sense, uint8_t length);
/* Fills ExpCmdSN, MaxCmdSN and the header's digest; returns the header's length on the wire. */
size_t iscsi_head_seal(struct iscsi_conn *conn, uint8_t head[ISCSI_HEAD]);
/* Padding and digest after `length` bytes of data with checksum `crc`. Returns the tail's length.
 */
size_t
iscsi_tail_seal(struct iscsi_conn *conn, uint8_t tail[ISCSI_TAIL], size_t length, uint32_t crc);

/* connections (iscsi_conn.c) */

/* RFC 7143 8.1.2, the target's states. */
enum iscsi_state {
	CONN_FREE,
	CONN_XPT_UP,
	CONN_IN_LOGIN,
	CONN_LOGGED_IN,
	CONN_IN_LOGOUT,
	CONN_LOGOUT_REQUESTED, /* by the target */
	CONN_CLEANUP_WAIT,
	CONN_STATES,
};

enum iscsi_event {
	EVENT_LOGIN_REQUEST, /* the first one */
	EVENT_LOGIN_DONE,    /* final response with status 0 is queued */
	EVENT_LOGIN_FAILED,  /* refused, timed out */
	EVENT_LOGOUT_ASKED,  /* by an Asynchronous Message of ours */
	EVENT_LOGOUT_REQUEST,
	EVENT_LOGOUT_DONE, /* the response has been sent */
	EVENT_LOST,        /* the transport is gone, or the peer broke the protocol */
	EVENT_REPLACED,    /* another login, or a Logout on another connection, ended it */
};

struct iscsi_login;

struct iscsi_loop {
	TAILQ_HEAD(iscsi_conns, iscsi_conn) conns;
	struct loop_sweep sweep;
	unsigned count;
	bool draining;
};

struct iscsi_conn {
	TAILQ_ENTRY(iscsi_conn) link;
	struct iscsi_loop *home;
	struct loop *loop;
	struct stream *stream; /* NULL once dying */
	const struct portal *portal;
	char peer[64];
	uint64_t id, since;
	uint64_t heard;  /* loop_now() of the last header received */
	uint64_t pinged; /* of our NOP-In that nothing has followed yet; 0: none */

	enum iscsi_state state;
	bool dying;   /* nothing is read or sent any more; freed when nothing is in flight */
	bool closing; /* no more is read; dies when what is in flight has been answered and sent */
	bool output_full; /* the stream took no more */
	bool resume;      /* iscsi_conn_resume() is due at the next flush */
	uint64_t asked;   /* loop_now() of the Asynchronous Message that asks for a Logout */
	unsigned watched;
	unsigned replies; /* iscsi_reply objects queued */
	struct send_queue queue;
	struct loop_task flush, reap;

	struct iscsi_rx rx;
	struct iscsi_login *login; /* NULL in the full feature phase */
	struct iscsi_session *session;
	struct iscsi_exchange exchange;

	TAILQ_ENTRY(iscsi_conn) sibling; /* in its session */
	unsigned ntasks;                 /* that owe it allegiance (4.2.5.1) */
	uint16_t cid;
	uint32_t statsn;   /* the next to be used */
	uint32_t acked;    /* the highest ExpStatSN heard (4.2.2.2) */
	uint32_t awaited;  /* task management waits until it is this */
	uint32_t max_recv; /* bytes of data the initiator takes in one PDU */
	bool header_digest, data_digest;
	bool logout; /* the Logout below waits for tasks to end */
	uint32_t logout_itt;

	bool moving;             /* goes to the loop of the session it joins, when all is sent */
	struct loop_task arrive; /* there */
	struct iscsi_session *joining; /* while `arrive` is posted: that session */
};

void iscsi_conn_accept(struct loop *loop, struct stream *stream, const struct portal *portal);
/* Takes the table's transition; one that the table does not have is a dead connection. */
void iscsi_conn_event(struct iscsi_conn *conn, enum iscsi_event event);
/* It is over: for a broken protocol `why` says what the peer did, for the log. NULL: nothing to
 * say. */
void iscsi_conn_die(struct iscsi_conn *conn, const char *why);
/* No more requests; ends when everything in flight is answered. */
void iscsi_conn_close(struct iscsi_conn *conn);
/* The same, and the initiator of a normal session is told (11.9). */
void iscsi_conn_drop(struct iscsi_conn *conn);
/* Asks the initiator to log out, within LIMIT_ISCSI_LOGOUT; one that cannot be asked is closed. */
void iscsi_conn_ask_logout(struct iscsi_conn *conn);
/* In the full feature phase, and no Logout under way. */
static inline bool
iscsi_conn_active(const struct iscsi_conn *conn)
{
	return conn->state == CONN_LOGGED_IN || conn->state == CONN_LOGOUT_REQUESTED;
}

/* The same, and it is not on its way out. */
static inline bool
iscsi_conn_live(const struct iscsi_conn *conn)
{
	return iscsi_conn_active(conn) && !conn->dying && !conn->closing;
}
/* Something ended that closing or reaping may have waited for. */
void iscsi_conn_settle(struct iscsi_conn *conn);
void iscsi_conn_send(struct iscsi_conn *conn, struct send_item *item);
/* What blocked reading is over: takes the bytes left, then reads again. */
void iscsi_conn_resume(struct iscsi_conn *conn);
/* The same before the loop sleeps, for who is in the middle of something else. */
void iscsi_conn_resume_soon(struct iscsi_conn *conn);
/* Leaves its loop, with nothing in flight; iscsi_login_arrived() follows on the other one. */
void iscsi_conn_move(struct iscsi_conn *conn, struct loop *loop);
bool iscsi_conn_choked(const struct iscsi_conn *conn);
struct iscsi_loop *iscsi_loop_of(struct loop *loop);
/* Before the loops start. */
void iscsi_loops_init(void);

/* CHAP (iscsi_chap.c) */

#define ISCSI_CHAP_DIGEST 32 /* the longest */

/* Instead of a status: the connection closes without an answer. */
#define ISCSI_LOGIN_REFLECTED 0xffff

enum iscsi_chap_state {
	CHAP_OFF,
	CHAP_CHOSEN,     /* AuthMethod=CHAP is said */
	CHAP_CHALLENGED, /* the challenge is sent */
	CHAP_DONE,       /* he is who he says, or nobody asks */
};

struct iscsi_chap {
	enum iscsi_chap_state state;
	uint32_t algorithm;
	uint8_t id;
	size_t length; /* of challenge and response */
	uint8_t challenge[ISCSI_CHAP_DIGEST];
};

/* What an initiator has to prove; nothing where nchap is 0. Points into a catalogue. */
struct iscsi_access {
	const struct credential *chap;
	size_t nchap;
	const struct credential *mutual; /* NULL: the target proves nothing */
};

/* Takes what a complete text of the security stage says of it and writes the answer. 0, a login
 * status, or ISCSI_LOGIN_REFLECTED. */
uint16_t iscsi_chap_step(struct iscsi_chap *chap, const struct catalogue *catalogue,
	const struct iscsi_access *access, struct iscsi_negotiation *n, struct writer *out);
/* False: no such algorithm, or OpenSSL has none. */
bool iscsi_chap_response(uint32_t algorithm, uint8_t id, const char *secret,
	const uint8_t *challenge, size_t length, uint8_t response[ISCSI_CHAP_DIGEST]);
/* 6.1: hexadecimal after 0x, base64 after 0b, either case. Its length, or -EINVAL. */
ssize_t iscsi_binary_decode(const char *text, size_t length, uint8_t *out, size_t room);

/* login (iscsi_login.c) */

struct iscsi_login {
	struct iscsi_negotiation negotiation;
	struct iscsi_chap chap;
	struct iscsi_text *text; /* NULL between chains */
	uint8_t isid[6];
	uint16_t tsih, cid;
	uint32_t itt, cmdsn;
	enum iscsi_stage stage;
	unsigned pdus;
	bool greeted;             /* the first complete text has been checked */
	bool discovery;           /* as that text said */
	bool proved;              /* who he is */
	bool recv_declared;       /* our MaxRecvDataSegmentLength is said */
	uint8_t final[ISCSI_BHS]; /* the request whose answer waits for a reinstatement */
	struct iscsi_text *answer;
	size_t answer_length;
};

/* The header of a PDU is complete: checks it and sets the sink. */
void iscsi_login_begin(struct iscsi_conn *conn);
/* The PDU is complete. */
void iscsi_login_finish(struct iscsi_conn *conn);
/* The session in whose place this one is logging in has ended. */
void iscsi_login_continue(struct iscsi_conn *conn);
/* On the loop of the session it joins: conn->joining. */
void iscsi_login_arrived(struct iscsi_conn *conn);
/* All answers so far are sent: on to the session's loop. Not from inside the connection. */
void iscsi_login_join(struct iscsi_conn *conn);
void iscsi_login_free(struct iscsi_conn *conn);

/* sessions (iscsi_session.c) */

#define ISCSI_TASK_BUCKETS 64

/* A request received ahead of its CmdSN. */
struct iscsi_held {
	TAILQ_ENTRY(iscsi_held) link;
	uint32_t cmdsn;
	struct iscsi_conn *conn; /* it came by, unless filled */
	struct iscsi_task *task; /* a SCSI command */
	bool filled; /* a gap closed by ABORT TASK, or its task is gone: nothing to do */
	struct iscsi_request request;
};

struct iscsi_session {
	/* Constant once it is in the table. */
	struct loop *loop;
	struct iscsi_names names;
	uint8_t isid[6];
	uint16_t group;
	uint16_t tsih;

	/* The table's, under its lock. */
	LIST_ENTRY(iscsi_session) link;
	bool listed;
	struct iscsi_session *successor; /* whose login waits for the end of this one */
	unsigned pins;                   /* connections on their way to join */

	/* Reinstatement; posted between loops, see iscsi_session.c. */
	struct loop_task end, ended;
	bool end_due;    /* under the lock: `end` will run here */
	bool waiting;    /* this loop's: `ended` will run here */
	bool answer_due; /* this loop's: ended, and the successor must be told once `waiting` is
			    over */

	/* Never empty: the last one is freed together with the session. */
	TAILQ_HEAD(, iscsi_conn) conns;
	bool open;                 /* the leading login is done */
	bool ending;               /* a Logout closes it */
	struct iscsi_conn *logout; /* on which it came, until that is answered */
	struct iscsi_params params;
	uint16_t portal_id;
	struct scsi_nexus *nexus; /* NULL in discovery */

	uint32_t exp_cmdsn;
	uint32_t max_cmdsn;   /* the highest announced */
	unsigned window_used; /* non-immediate tasks in it */
	unsigned ntasks;
	TAILQ_HEAD(, iscsi_task) tasks;
	LIST_HEAD(, iscsi_task) buckets[ISCSI_TASK_BUCKETS];
	TAILQ_HEAD(, iscsi_held) held; /* by CmdSN */
	uint32_t stood_at;    /* ExpCmdSN when the sweep last saw it move, or nothing held */
	uint64_t stood_since; /* loop_now() of that */
	TAILQ_HEAD(, iscsi_tmf) tmfs; /* that wait for tasks */
	unsigned ntmfs;
	uint32_t ttt;        /* last one given */
	unsigned collecting; /* tasks that hold a reservation and wait for data */
	unsigned ordering;   /* ORDERED and HEAD OF QUEUE tasks in the task sets */
	unsigned dormant;    /* tasks that wait for others of their set */
	bool set_held;       /* no dormant task starts now */

	struct iobuf_account account;
	TAILQ_HEAD(, iscsi_wait) waits;
	bool head_gone; /* the reservation asked for belongs to nobody any more */
	size_t head_bytes;
	enum iobuf_use head_use;
};

/* Before the loops start. */
void iscsi_sessions_init(void);

/* A session for a login on this connection, not in the table. NULL: no memory. */
struct iscsi_session *iscsi_session_new(struct iscsi_conn *conn, const struct iscsi_login *login);
/*
 * Puts it into the table in the place of a session of the same initiator port and target port
 * group. True: go on. False: that one is being ended, and iscsi_login_continue() will follow.
 */
bool iscsi_session_enter(struct iscsi_session *session);
/*
 * Joining (11.12.6): the session that a login's TSIH names, from any loop. 0 or a status. With `pin`
 * it is not freed until iscsi_session_admit(), which must follow on its own loop.
 */
uint16_t iscsi_session_find(
	const struct iscsi_conn *conn, const struct iscsi_login *login, struct iscsi_session **pin);
/* Ends the pin and takes the connection in, in the place of one of the same CID if there is one
 * (6.3.4). 0 or a status. */
uint16_t iscsi_session_admit(struct iscsi_session *session, struct iscsi_conn *conn);
/* Its connection of that CID that is not over; NULL. */
struct iscsi_conn *iscsi_session_cid(const struct iscsi_session *session, uint16_t cid);
/* Something ended that one of its connections may have waited for. */
void iscsi_session_settle(struct iscsi_session *session);
/* Takes the connection out. False: it is the last one, and something posted will still touch the
 * session. Else *over says whether it was the last one. */
bool iscsi_session_leave(struct iscsi_conn *conn, bool *over);
/* Frees a session that iscsi_session_leave() has let go; no task is in it. */
void iscsi_session_free(struct iscsi_session *session);

/* CmdSN (4.2.2.1) */
/* A task has left the window, and no PDU may follow that announces it: one is sent if the initiator may
 * be waiting for it (11.19). */
void iscsi_window_widen(struct iscsi_session *session);
/* MaxCmdSN of a PDU that is about to be queued. */
uint32_t iscsi_session_announce(struct iscsi_session *session);
enum iscsi_order { ORDER_NOW, ORDER_LATER, ORDER_IGNORE };
enum iscsi_order iscsi_session_order(const struct iscsi_session *session, const uint8_t *bhs);
/* Keeps a place for a request that came early. NULL: no memory. */
struct iscsi_held *iscsi_session_hold(struct iscsi_conn *conn, uint32_t cmdsn);
/* The number of a request that has come whole and is not there any more: no gap stays. False: no memory. */
bool iscsi_session_skip(struct iscsi_conn *conn, const uint8_t *bhs);
/* Runs what waited for ExpCmdSN. */
void iscsi_session_advance(struct iscsi_session *session);
/* Forgets what came by this connection ahead of its CmdSN: it is a gap again (11.14). */
void iscsi_held_drop(struct iscsi_conn *conn);

/* Reservations, first come first served in the session. True: it is there now; else granted()
 * follows. */
bool iscsi_reserve(struct iscsi_session *session, struct iscsi_wait *wait, size_t bytes,
	enum iobuf_use use, void (*granted)(struct iscsi_wait *wait));
void iscsi_wait_cancel(struct iscsi_session *session, struct iscsi_wait *wait);

/* requests (iscsi_request.c) */

/* Full feature phase: the header is complete, then the PDU is. */
void iscsi_request_begin(struct iscsi_conn *conn);
void iscsi_request_finish(struct iscsi_conn *conn);
/* Carries out a request in its turn; its data is the callee's to free. */
void iscsi_request_run(struct iscsi_conn *conn, struct iscsi_request *request);
void iscsi_request_free(struct iscsi_session *session, struct iscsi_request *request);
/* The one being received, whose data has to wait for room, takes it past the budget: what others of the
 * session hold room for lies behind it on the socket. */
void iscsi_request_hurry(struct iscsi_conn *conn);
/* NOP-In (11.19): asks whether anybody is there, or only carries numbers. */
void iscsi_ping(struct iscsi_conn *conn, bool ask);
/* The tasks a Logout waited for are gone. */
void iscsi_logout_answer(struct iscsi_conn *conn);

/* tasks (iscsi_task.c, iscsi_data.c, iscsi_data_out.c) */

#define ISCSI_BATCH 8 /* Data-In PDUs queued at once for one task */

enum iscsi_task_state {
	TASK_COLLECT, /* data-out is still to come */
	TASK_READY,   /* waits for its CmdSN or for room for its data-in */
	TASK_RUNNING, /* the SCSI layer's */
	TASK_REPLY,   /* Data-In is being sent */
	TASK_STATUS,  /* its status is queued: over, as far as task management goes */
};

/* A sequence of Data-Out: unsolicited, or what an R2T asked for. Offsets in the task's data. */
struct iscsi_burst {
	uint32_t ttt; /* ISCSI_TAG_NONE: unsolicited */
	uint32_t start, end;
	uint32_t got;    /* bytes of it */
	uint32_t top;    /* of what came, the last byte's end */
	uint32_t datasn; /* next expected */
};

/* What came of a task's data where it comes in any order, ascending and disjoint. */
struct iscsi_ranges {
	unsigned count;
	struct iscsi_range {
		uint32_t start, end;
	} range[LIMIT_ISCSI_RANGES];
};

struct iscsi_task {
	struct scsi_task scsi;
	struct iscsi_session *session;
	struct iscsi_conn *conn; /* allegiance, 4.2.5.1 */
	TAILQ_ENTRY(iscsi_task) link;
	LIST_ENTRY(iscsi_task) hash;
	struct iscsi_held *held;

	enum iscsi_task_state state;
	uint8_t attribute; /* enum iscsi_attribute */
	bool immediate;
	bool read, write; /* R and W bits */
	bool prepared;    /* scsi_prepare() said yes, and it has not been executed */
	bool refused;     /* status is decided; data that still comes is drained */
	bool reserved;    /* out_want bytes are */
	bool aborted;     /* task management waits for its end; no status */
	bool told;        /* ... but TASK ABORTED */
	bool in_window;
	bool in_set;  /* its CmdSN has come, and it has not ended: iscsi_task_set.c */
	bool dormant; /* waits there for others to end */
	uint32_t itt, cmdsn;
	uint32_t edtl;      /* expected data transfer length */
	uint32_t read_edtl; /* the other one, of a bidirectional command */

	size_t out_want;  /* min(out_length, what the initiator sends) */
	size_t out_asked; /* came with the command, or was announced or asked for as a burst */
	unsigned nbursts; /* of `bursts`, under way */
	struct iscsi_ranges
		*ranges; /* what came, where it comes in any order; from a slab, or NULL */
	uint32_t r2tsn;
	size_t reserved_in;
	uint64_t progress; /* loop_now() of the last data */
	struct iscsi_wait wait;

	size_t in_length, in_sent; /* data-in to send */
	size_t in_burst;           /* sent of the sequence under way */
	uint32_t in_datasn;
	struct send_item item;
	/* From here on a new task is not zeroed. */
	uint8_t head[ISCSI_BATCH + 1][ISCSI_HEAD];
	uint8_t tail[ISCSI_BATCH + 1][ISCSI_TAIL];
	uint8_t sense_length[2];
	struct iovec iov[ISCSI_BATCH * 6 + 4];
	struct iscsi_burst bursts[LIMIT_ISCSI_R2TS]; /* ascending */
};

/* Data-Out without R2T will follow. */
static inline bool
iscsi_task_unsolicited(const struct iscsi_task *task)
{
	return task->nbursts > 0 && task->bursts[0].ttt == ISCSI_TAG_NONE;
}

/* SCSI Command: header complete (creates rx->task or drops the PDU), PDU complete. */
void iscsi_task_begin(struct iscsi_conn *conn);
void iscsi_task_finish(struct iscsi_conn *conn);
struct iscsi_task *iscsi_task_find(struct iscsi_session *session, uint32_t itt);
/* Its CmdSN has come. */
void iscsi_task_turn(struct iscsi_task *task);
/* All its data is there, or it is refused: on to the next step when nothing holds it. */
void iscsi_task_go(struct iscsi_task *task);
/* Decides the status here instead of in the SCSI layer. ASC and ASCQ of ABORTED COMMAND, 11.4.7.2.
 */
void iscsi_task_fail(struct iscsi_task *task, uint8_t asc, uint8_t ascq);
void iscsi_task_refuse(struct iscsi_task *task, enum scsi_status status);
/* Ends it without status: now, or when the SCSI layer lets go of it. */
void iscsi_task_abort(struct iscsi_task *task);
/* Ends one that is in its task set with status TASK ABORTED: now, or when the SCSI layer lets go. */
void iscsi_task_abort_told(struct iscsi_task *task);
void iscsi_task_free(struct iscsi_task *task);
/* Aborts a connection's tasks: those whose data-out is still to come, or all. */
void iscsi_tasks_abort(struct iscsi_conn *conn, bool all);

/* Data-Out: header complete, PDU complete. */
void iscsi_data_begin(struct iscsi_conn *conn);
void iscsi_data_finish(struct iscsi_conn *conn);
/* Points rx at room for bytes of the task's data-out. False: no memory; it is refused. */
bool iscsi_data_sink(struct iscsi_task *task, size_t offset, size_t length);
/* A burst will come. */
void iscsi_data_announce(struct iscsi_task *task, uint32_t ttt, size_t start, size_t end);
/* Asks for what nothing has been announced of, as far as MaxOutstandingR2T goes. */
void iscsi_data_solicit(struct iscsi_task *task);
/* Queues Data-In and status. */
void iscsi_data_reply(struct iscsi_task *task);

/* Everything is there: runs it when its task set and the budget let it. */
void iscsi_task_start(struct iscsi_task *task);

/* task sets (iscsi_task_set.c) */

/* Its CmdSN has come. */
void iscsi_set_enter(struct iscsi_task *task);
/* False: it is dormant, and iscsi_task_start() follows when it may be enabled. SAM-5 8.6 */
bool iscsi_set_enable(struct iscsi_task *task);
/* It has ended; harmless on one that is not in the set. iscsi_set_settle() must follow. */
void iscsi_set_leave(struct iscsi_task *task);
/* Starts what others' end has enabled, and lets go of what could wait for ever. */
void iscsi_set_settle(struct iscsi_session *session);
/* Nothing dormant starts between the two, while tasks are being aborted; the first one's answer
 * goes to the second, which settles. */
bool iscsi_set_hold(struct iscsi_session *session);
void iscsi_set_release(struct iscsi_session *session, bool held);

/* task management (iscsi_tmf.c) */

struct iscsi_tmf {
	TAILQ_ENTRY(iscsi_tmf) link;
	struct iscsi_session *session;
	struct iscsi_conn *conn; /* to answer; NULL: another nexus asked, by `part` */
	struct scsi_abort_part *part;
	const struct scsi_unit *unit; /* of the part; only to be compared */
	bool tas;                     /* the part's tasks answer TASK ABORTED */
	bool begun;                   /* false while it is being set up */
	bool done;                    /* but for what other connections have not acknowledged */
	uint32_t itt, cmdsn, rtt;
	uint8_t function;
	uint8_t lun[8];
	uint64_t deadline;
	struct scsi_abort abort; /* what a reset wants of other nexuses */
};

void iscsi_tmf_request(struct iscsi_conn *conn, const struct iscsi_request *request);
/* What another nexus wants of the session: a scsi_abort_fn; the owner is the session. */
unsigned
iscsi_tmf_other(void *owner, const struct scsi_unit *unit, bool tas, struct scsi_abort_part *part);
/* A function waits for this command that has come only now: it is aborted at once. */
bool iscsi_tmf_covers(const struct iscsi_session *session, const struct iscsi_task *task);
/* An aborted task has ended, ExpCmdSN moved or a status was acknowledged: answers who waited for it. */
void iscsi_tmf_settle(struct iscsi_session *session);
/* Deadlines. */
void iscsi_tmf_sweep(struct iscsi_session *session, uint64_t now);
/* Those of this connection are not answered. */
void iscsi_tmf_drop(struct iscsi_conn *conn);

/* caches (iscsi_target.c) */

struct iscsi_caches {
	struct slab_cache *conn, *login, *text, *session, *task, *ranges, *reply, *held, *tmf,
		*left;
};
extern struct iscsi_caches iscsi_caches;

#endif
