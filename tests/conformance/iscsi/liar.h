/*
 * The liar: a small iSCSI target in memory that tells the truth, or one lie. It shares no code with
 * iscsicheck or slabd. One connection in a session; commands are executed one by one, under one lock,
 * and only writes wait for anything.
 */
#ifndef ISCSICHECK_LIAR_H
#define ISCSICHECK_LIAR_H

#include "lying.h"

#include <sys/queue.h>

enum lie {
	NO_LIE,
	/* login */
	LIE_KEY_TWICE,
	LIE_KEY_TWICE_LATER,
	LIE_STRANGER,
	LIE_COMMAND_IN_LOGIN,
	LIE_PART_ANSWERED,
	LIE_PARTS_APART,
	LIE_TSIH_ZERO,
	LIE_TSIH_EARLY,
	LIE_LOGIN_TAG,
	LIE_LOGIN_STAT_SN,
	LIE_LOGIN_CMD_SN,
	LIE_TRANSIT,
	LIE_VERSION,
	LIE_NO_PORTAL_TAG,
	LIE_UNKNOWN_TARGET,
	LIE_UNKNOWN_TSIH,
	LIE_STAYS_OPEN,
	LIE_CONTINUE_TRANSIT,
	LIE_BACKWARDS,
	LIE_LOGIN_DEATH,
	/* keys */
	LIE_NO_NUL,
	LIE_MARKER,
	LIE_MARK_INT,
	LIE_FIRST_BURST,
	LIE_UNOFFERED,
	LIE_LIST_REFUSED,
	LIE_RANGE,
	LIE_CASE,
	LIE_UNKNOWN_KEY,
	LIE_AND,
	LIE_OR,
	LIE_HEX_NUMBER,
	/* CHAP */
	LIE_REFLECTION,
	LIE_SAME_CHALLENGE,
	LIE_NO_BASE64,
	LIE_NO_UPPER_CASE,
	LIE_NAME_IS_NUMBER,
	LIE_WRONG_PROOF,
	LIE_ANY_SECRET,
	LIE_STAGE_SKIPPED,
	/* reinstatement */
	LIE_OLD_STAYS,
	LIE_OLD_WRITE_LANDS,
	LIE_EARLY_REINSTATEMENT,
	LIE_EARLY_WITH_CHAP,
	/* sequence numbers */
	LIE_ABOVE_WINDOW,
	LIE_BELOW_WINDOW,
	LIE_OUTSIDE_CLOSES,
	LIE_OUT_OF_ORDER,
	LIE_DUPLICATE,
	LIE_IMMEDIATE_COUNTS,
	LIE_IMMEDIATE_WAITS,
	LIE_STAT_SN,
	LIE_WINDOW_BACK,
	LIE_ATTRIBUTE,
	LIE_ORDERED,
	/* data */
	LIE_NO_FINAL,
	LIE_DATA_SN,
	LIE_DATA_OFFSET,
	LIE_SEGMENT,
	LIE_STATUS_WITHOUT_S,
	LIE_PADDING,
	LIE_R2T_BEYOND,
	LIE_R2T_SN,
	LIE_R2T_STAT_SN,
	LIE_TWO_R2TS,
	LIE_R2T_TAG,
	LIE_RESIDUAL,
	LIE_OVERFLOW,
	LIE_NOTHING_EXPECTED,
	LIE_UNANSWERED,
	LIE_WRONG_DATA_SN,
	LIE_EARLY_FINAL,
	LIE_IMMEDIATE_TAKEN,
	LIE_NO_SENSE,
	LIE_MORE_THAN_ASKED,
	LIE_ANY_TRANSFER_TAG,
	LIE_ABOVE_BURST,
	LIE_ABOVE_FIRST_BURST,
	/* digests */
	LIE_HEADER_DIGEST,
	LIE_PADDING_DIGEST,
	LIE_BAD_HEADER,
	LIE_BAD_IMMEDIATE,
	LIE_BAD_DATA_OUT,
	LIE_BAD_DATA_OUT_EARLY,
	LIE_BAD_PING,
	/* task management */
	LIE_GAP_STAYS,
	LIE_NO_LUN,
	LIE_ABORTED_ANSWERED,
	LIE_ABORTED_WRITES,
	LIE_ABORTS_OTHERS,
	LIE_RESET_UNTOLD,
	LIE_RESET_SPARES_OTHERS,
	LIE_COLD_RESET,
	LIE_UNKNOWN_FUNCTION,
	/* rejects, logout, text, pings */
	LIE_REJECT_HEADER,
	LIE_REJECT_STAT_SN,
	LIE_REJECT_UNDRAINED,
	LIE_UNKNOWN_CID,
	LIE_RECOVERY,
	LIE_AFTER_LOGOUT,
	LIE_ALL_IN_NORMAL,
	LIE_EMPTY_LISTS_ALL,
	LIE_UNKNOWN_LISTS_ALL,
	LIE_NO_ADDRESS_TAG,
	LIE_DISCOVERY_COMMAND,
	LIE_TEXT_APART,
	LIE_ECHO,
	LIE_UNCUT,
	LIE_UNCUT_LATER,
	LIE_PING_WAITS,
	LIE_PING_STAT_SN,
	LIE_PING_UNASKED,
	LIE_RESET_KILLS,
	LIE_ENDLESS_TEXT,
	LIE_COUNT,
};

static inline bool
lying(enum lie lie)
{
	return the_lie == (size_t)lie;
}

extern bool with_chap;

enum {
	BHS_SIZE = 48,
	BLOCK = 512,
	DISK_SIZE = 8 << 20,
	SEGMENT_MAX = 65536,
	LOGIN_SEGMENT_MAX = 8192,
	FIRST_BURST = 65536,
	MAX_BURST = 262144,
	WINDOW = 32,
	TEXT_MAX = 16384,
	NAME_MAX_LENGTH = 224,
	NO_TAG = 0xffffffff,
};
#define TARGET_NAME "iqn.2026-11.localhost.liar:disk"
#define OTHER_NAME  "iqn.2026-11.localhost.liar:other"

/* RFC 7143 11.2.1.2 */
enum {
	NOP_OUT,
	COMMAND,
	MANAGEMENT,
	LOGIN,
	TEXT,
	DATA_OUT,
	LOGOUT,
	SNACK = 0x10,
	NOP_IN = 0x20,
	RESPONSE,
	MANAGEMENT_RESPONSE,
	LOGIN_RESPONSE,
	TEXT_RESPONSE,
	DATA_IN,
	LOGOUT_RESPONSE,
	R2T = 0x31,
	REJECT = 0x3f,
};

struct pdu {
	uint8_t bhs[BHS_SIZE];
	uint8_t *data; /* padded; NULL for none */
	size_t length;
	bool bad_data, bad_ahs;
	STAILQ_ENTRY(pdu) link; /* of those that wait for ORDERED tasks, or that are such */
};

/* A write that waits for its data. */
struct write_task {
	LIST_ENTRY(write_task) link;
	uint32_t tag, ttt, offset, edtl; /* offset on the disk */
	uint32_t wanted, residual;       /* bytes */
	unsigned residual_flag;
	uint32_t received, burst_end, data_sn, r2t_sn;
	bool unsolicited, failed, ordered;
	uint8_t *bytes; /* edtl and more */
};

struct peer {
	LIST_ENTRY(peer) link;
	int fd;
	bool dead; /* another connection ended it */

	/* Login. */
	unsigned stage;
	bool began, discovery, authenticated;
	char initiator[NAME_MAX_LENGTH];
	uint8_t isid[6];
	uint16_t tsih, cid;
	char text[TEXT_MAX + 1]; /* parts with C=1 */
	size_t text_length;
	char keys[TEXT_MAX]; /* names that came, each with its NUL */
	size_t keys_length;
	char answers[TEXT_MAX];
	size_t answers_length;
	unsigned algorithm;
	uint8_t chap_id, challenge[64];
	size_t challenge_length;

	/* Agreed. */
	bool full_feature, header_digest, data_digest, initial_r2t, immediate_data;
	uint32_t max_burst, first_burst, max_send;

	uint32_t exp_cmd_sn, stat_sn, next_ttt;
	struct pdu *held[WINDOW]; /* commands behind a gap, by CmdSN */
	bool filled[WINDOW];      /* aborted before they came */
	bool text_pending, attention;
	LIST_HEAD(, write_task) writes;
	STAILQ_HEAD(, pdu) waiting;
};

extern LIST_HEAD(peers, peer) peers;

/* liar.c: false when the connection is over. */
bool give_pdu(struct peer *p, uint8_t *bhs, const void *data, size_t length);
/* StatSN, ExpCmdSN and MaxCmdSN; StatSN goes on if takes. */
void put_numbers(struct peer *p, uint8_t *bhs, bool takes);
struct pdu *take_pdu(struct peer *p);
void free_pdu(struct pdu *pdu);
bool give_reject(struct peer *p, const struct pdu *pdu, unsigned reason);
/* Its thread sees to the rest. */
void end_peer(struct peer *p);

/* liar_login.c: true when the full feature phase begins. */
bool answer_login(struct peer *p, const struct pdu *pdu);

/* liar_keys.c: each pair of the text, in answers; 0 or a login status. */
unsigned answer_keys(struct peer *p, char *text, size_t length);
void add_answer(struct peer *p, const char *key, const char *value);
const char *find_key(const char *text, size_t length, const char *key);

/* liar_chap.c: the security stage's keys; 0 or a login status. */
unsigned answer_chap(struct peer *p, const char *text, size_t length);

/* liar_tasks.c */
bool answer_command(struct peer *p, const struct pdu *pdu);
bool answer_data_out(struct peer *p, const struct pdu *pdu);
bool answer_management(struct peer *p, const struct pdu *pdu);
void land_writes(struct peer *p);
/* All that waits. */
void drop_tasks(struct peer *p);
/* ORDERED tasks whose turn it is. */
bool answer_waiting(struct peer *p);
bool has_task(const struct peer *p, uint32_t tag);

/* liar_session.c: one request of the full feature phase. */
bool answer_request(struct peer *p, struct pdu *pdu);
/* The next commands that a gap kept back. */
bool answer_held(struct peer *p);

#endif
