/*
 * An initiator that does as it is told: PDUs one by one, a login, SCSI tasks. What the standard demands
 * of the target is judged by the checks, from what is kept here; only what leaves nothing to go on
 * with ends a check by itself. Memory of the test; one thread.
 */
#ifndef ISCSICHECK_SESSION_H
#define ISCSICHECK_SESSION_H

#include "conn.h"
#include "target.h"
#include "wire.h"

#include <string.h>

enum { SEEN_MAX = 8192, TASKS_MAX = 160, TEXT_MAX = 65536 };

struct task {
	struct session *session;
	uint32_t tag, cmd_sn;
	const uint8_t *out; /* what R2Ts are answered from */
	size_t out_length;
	uint8_t *in;
	size_t in_size;
	bool manual; /* R2Ts are left to the check */
	bool done;
	const struct pdu *r2t;   /* the last one */
	const struct pdu *final; /* SCSI Response, or the Data-In with the status */
	unsigned r2ts, data_ins, r2ts_at_once;
	size_t in_length; /* of all Data-In */
	uint8_t status, response;
	const uint8_t *sense;
	size_t sense_length;
};

struct session {
	struct test *test;
	struct conn *conn;
	bool discovery, nameless; /* before login: SessionType=Discovery; without TargetName */
	const char *target_name;  /* before login: another one */
	const char *chap_secret, *chap_user; /* before login: others than the URI's */
	uint8_t isid[6];
	uint16_t tsih, cid;
	uint32_t next_tag, cmd_sn;
	uint32_t exp_stat_sn, exp_cmd_sn, max_cmd_sn; /* as the target says */
	/* The next PDU only. */
	bool spoil_header_digest, spoil_data_digest;

	/* Agreed. */
	bool header_digest, data_digest, initial_r2t, immediate_data;
	uint32_t max_burst, first_burst, max_outstanding;
	uint32_t max_send, max_receive; /* MaxRecvDataSegmentLength of the target, and ours */

	char answers[TEXT_MAX]; /* keys of Login or Text Responses, each with its NUL */
	size_t answers_length;
	const struct pdu *seen[SEEN_MAX]; /* all that came, in order */
	unsigned seen_count;
	const struct pdu *reject; /* the last */
	struct task *tasks[TASKS_MAX];
	unsigned task_count;
};

/* session.c: a connection, and PDUs */

/* Connected, with an ISID of its own; nothing sent. */
struct session *session_connect(struct test *t);
/* Digests and padding as agreed, DataSegmentLength filled in. False if the connection ended. */
bool send_pdu(struct session *s, uint8_t *bhs, const void *data, size_t length);
/* The same with an AHS, of a multiple of 4 bytes. */
bool send_ahs(struct session *s, uint8_t *bhs, const uint8_t *ahs, size_t ahs_length,
	const void *data, size_t length);
/* The next PDU, NULL if the connection ended. Pings are answered, tasks go on. */
const struct pdu *receive(struct session *s);
/* Waits for a PDU of this kind and tag (NO_TAG: any). The check fails if the connection ends. */
const struct pdu *await_pdu(struct session *s, enum opcode op, uint32_t tag);
/* The header of a request with the next CmdSN, which is taken unless it is immediate, and a tag. */
void begin_bhs(struct session *s, uint8_t *bhs, unsigned op, unsigned flags);
uint8_t *put_lun(uint8_t *bhs, unsigned lun);

/* login.c */

enum { CLOSED = 0x10000 }; /* instead of a status, class << 8 | detail */
/* A whole login; keys (with '\n' between) replace or follow the usual ones. The status. */
unsigned login(struct session *s, const char *keys);
/* One Login Request and its answer, which is NULL if the connection ended. */
const struct pdu *login_step(struct session *s, unsigned flags, const char *keys);
bool send_login(struct session *s, unsigned flags, const char *keys);
unsigned login_status(const struct pdu *p);
#define STAGES(csg, nsg) (TRANSIT | (csg) << 2 | (nsg))
/* InitiatorName, SessionType, TargetName, and these. */
const char *with_names(struct session *s, const char *keys);
/* A session of which nothing but success is expected; the unit attentions are fetched. */
struct session *session_open(struct test *t, const char *keys);
struct session *session_discover(struct test *t);
/* The value of a key in answers, NULL without. */
const char *answer(const struct session *s, const char *key);
void keep_answers(struct session *s, const struct pdu *p);
size_t pack_keys(const char *keys, char *text);
void expect_refused(struct test *t, unsigned status);

/* chap.c: the security stage with CHAP, from AuthMethod on. The status. */
struct chap {
	const char *user, *secret;
	const char *algorithms; /* "5" if NULL */
	enum { HEX, UPPER_HEX, BASE64 } form;
	bool mutual, reflect; /* ask for the target's response; with its own challenge */
	/* Found out. */
	char algorithm[16];
	uint8_t challenge[1024];
	size_t challenge_length;
	bool proved; /* mutual: the target's name and response were right */
};
unsigned chap_login(struct session *s, struct chap *chap);

/* task.c */

struct task *submit(struct session *s, const uint8_t *cdb, unsigned flags, uint32_t length,
	const void *immediate, size_t immediate_length);
/* Its end, or with manual an R2T. */
void await(struct task *task);
/* After what a target may refuse in several ways: a status, a Reject or the end. None of them within a
 * second is a warn. */
void expect_end(struct task *task);
void data_out(
	struct task *task, uint32_t ttt, uint32_t sn, size_t offset, size_t length, unsigned flags);
/* All that the R2T asks for, in segments that the target takes. */
void answer_r2t(struct task *task, const struct pdu *r2t);
void make_cdb(uint8_t *cdb, uint8_t opcode, uint32_t lba, uint32_t blocks);
struct task *submit_read(struct session *s, uint32_t lba, uint32_t blocks);
/* With immediate data and unsolicited Data-Out of these lengths. */
struct task *submit_write(struct session *s, uint32_t lba, const uint8_t *bytes, size_t length,
	size_t immediate, size_t unsolicited);
void write_bytes(struct session *s, uint32_t lba, const uint8_t *bytes, size_t length);
void expect_stored(struct session *s, uint32_t lba, const uint8_t *bytes, size_t length);
void expect_good(struct task *task);
/* CHECK CONDITION with this key; asc and ascq together, 0 for any. */
void expect_sense(struct task *task, unsigned key, unsigned asc);
uint32_t blocks_of(const struct session *s, size_t length);
struct task *test_unit_ready(struct session *s);
unsigned manage(struct session *s, unsigned function, unsigned lun, uint32_t tag, uint32_t cmd_sn);
/* NOP-Out is answered: all is well with the connection. */
void expect_alive(struct session *s);
/* A new session can be had and serves. */
void expect_serving(struct test *t);
/* Waits for the target to close or to reject. False if it did neither. */
bool refused(struct session *s, unsigned *reason);
const struct pdu *logout(struct session *s, unsigned reason);
const struct pdu *
text(struct session *s, unsigned flags, uint32_t tag, uint32_t ttt, const char *keys);

#endif
