#include "config.h"

#include "iscsi/iscsi.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

/*
 * The key table: RFC 7143 sections 12 and 13. One row parses a key, negotiates it and describes it.
 * What this target wants is `mine`; `fallback` is what holds when nobody speaks of the key.
 */

enum key_kind {
	KEY_NAME,    /* declared text, kept in struct iscsi_names */
	KEY_NOTE,    /* declared text that is read and not kept */
	KEY_NUMBER,  /* declared number */
	KEY_CHOICE,  /* declared, one of the words */
	KEY_LIST,    /* negotiated, 6.2.1: the first of the list that is one of the words */
	KEY_AND,     /* negotiated boolean: Yes when both say Yes */
	KEY_OR,      /* negotiated boolean: Yes when one says Yes */
	KEY_MIN,     /* negotiated number: the smaller */
	KEY_MAX,     /* negotiated number: the larger */
	KEY_TARGETS, /* SendTargets */
	KEY_REFUSED, /* obsolete, answered Reject */
	KEY_MARKER,  /* obsolete boolean, answered No */
	KEY_OURS,    /* only a target may say it */
	KEY_AUTH,    /* AuthMethod: answered by iscsi_chap.c, when it is known who asks for what */
	KEY_CHAP,    /* CHAP_x, likewise */
};

enum {
	AT_SECURITY = 1, /* allowed in that stage */
	AT_OPERATIONAL = 2,
	AT_FULL_FEATURE = 4,
	NOT_DISCOVERY = 8,  /* Irrelevant in a discovery session */
	OF_CONNECTION = 16, /* scope; else the session */
	TWICE = 32,         /* may be said again in one login with the same value: initiators do */

	AT_LOGIN = AT_SECURITY | AT_OPERATIONAL,
};

struct iscsi_key {
	const char *name;
	enum key_kind kind;
	unsigned flags;
	const char *words; /* LIST, CHOICE: their number is the value */
	uint32_t min, max, fallback, mine;
	size_t offset;
	const char *section;
};

#define NAME(member)  offsetof(struct iscsi_names, member)
#define PARAM(member) offsetof(struct iscsi_params, member)
#define SEGMENT_MAX   0xffffff

static const struct iscsi_key keys[] = {
	{"AuthMethod", KEY_AUTH, AT_SECURITY | OF_CONNECTION, "None,CHAP", 0, 0, 0, 0, 0, "12.1"},
	{"CHAP_A", KEY_CHAP, AT_SECURITY | OF_CONNECTION, NULL, 0, 0, 0, 0, ISCSI_CHAP_A, "12.1.3"},
	{"CHAP_I", KEY_CHAP, AT_SECURITY | OF_CONNECTION, NULL, 0, 0, 0, 0, ISCSI_CHAP_I, "12.1.3"},
	{"CHAP_C", KEY_CHAP, AT_SECURITY | OF_CONNECTION, NULL, 0, 0, 0, 0, ISCSI_CHAP_C, "12.1.3"},
	{"CHAP_N", KEY_CHAP, AT_SECURITY | OF_CONNECTION, NULL, 0, 0, 0, 0, ISCSI_CHAP_N, "12.1.3"},
	{"CHAP_R", KEY_CHAP, AT_SECURITY | OF_CONNECTION, NULL, 0, 0, 0, 0, ISCSI_CHAP_R, "12.1.3"},
	{"HeaderDigest", KEY_LIST, AT_OPERATIONAL | OF_CONNECTION, "None,CRC32C", 0, 1, 0, 1,
		PARAM(header_digest), "13.1"},
	{"DataDigest", KEY_LIST, AT_OPERATIONAL | OF_CONNECTION, "None,CRC32C", 0, 1, 0, 1,
		PARAM(data_digest), "13.1"},
	{"MaxConnections", KEY_MIN, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 1, 65535, 1,
		LIMIT_ISCSI_CONNECTIONS, PARAM(max_connections), "13.2"},
	{"SendTargets", KEY_TARGETS, AT_FULL_FEATURE, NULL, 0, 0, 0, 0, 0, "13.3"},
	{"TargetName", KEY_NAME, AT_LOGIN | TWICE, NULL, 0, 0, 0, 0, NAME(target), "13.4"},
	{"InitiatorName", KEY_NAME, AT_LOGIN | TWICE, NULL, 0, 0, 0, 0, NAME(initiator), "13.5"},
	{"TargetAlias", KEY_OURS, 0, NULL, 0, 0, 0, 0, 0, "13.6"},
	{"InitiatorAlias", KEY_NOTE, AT_LOGIN | AT_FULL_FEATURE | TWICE, NULL, 0, 0, 0, 0, 0,
		"13.7"},
	{"TargetAddress", KEY_OURS, 0, NULL, 0, 0, 0, 0, 0, "13.8"},
	{"TargetPortalGroupTag", KEY_OURS, 0, NULL, 0, 0, 0, 0, 0, "13.9"},
	{"InitialR2T", KEY_OR, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 0, 1, 1, 0, PARAM(initial_r2t),
		"13.10"},
	{"ImmediateData", KEY_AND, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 0, 1, 1, 1,
		PARAM(immediate_data), "13.11"},
	{"MaxRecvDataSegmentLength", KEY_NUMBER, AT_OPERATIONAL | AT_FULL_FEATURE | OF_CONNECTION,
		NULL, 512, SEGMENT_MAX, 8192, LIMIT_ISCSI_RECV, PARAM(max_recv), "13.12"},
	{"MaxBurstLength", KEY_MIN, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 512, SEGMENT_MAX, 262144,
		LIMIT_ISCSI_BURST, PARAM(max_burst), "13.13"},
	{"FirstBurstLength", KEY_MIN, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 512, SEGMENT_MAX, 65536,
		LIMIT_ISCSI_FIRST_BURST, PARAM(first_burst), "13.14"},
	{"DefaultTime2Wait", KEY_MAX, AT_OPERATIONAL, NULL, 0, 3600, 2, 0, PARAM(time2wait),
		"13.15"},
	{"DefaultTime2Retain", KEY_MIN, AT_OPERATIONAL, NULL, 0, 3600, 20, 0, PARAM(time2retain),
		"13.16"},
	{"MaxOutstandingR2T", KEY_MIN, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 1, 65535, 1,
		LIMIT_ISCSI_R2TS, PARAM(max_r2t), "13.17"},
	{"DataPDUInOrder", KEY_OR, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 0, 1, 1, 0,
		PARAM(data_pdu_in_order), "13.18"},
	{"DataSequenceInOrder", KEY_OR, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 0, 1, 1, 0,
		PARAM(data_sequence_in_order), "13.19"},
	{"ErrorRecoveryLevel", KEY_MIN, AT_OPERATIONAL, NULL, 0, 2, 0, 0,
		PARAM(error_recovery_level), "13.20"},
	{"SessionType", KEY_CHOICE, AT_LOGIN | TWICE, "Normal,Discovery", 0, 1, 0, 0,
		PARAM(discovery), "13.21"},
	{"TaskReporting", KEY_LIST, AT_OPERATIONAL | NOT_DISCOVERY, "RFC3720", 0, 0, 0, 0,
		PARAM(task_reporting), "13.23"},
	{"iSCSIProtocolLevel", KEY_MIN, AT_OPERATIONAL | NOT_DISCOVERY, NULL, 0, 31, 1, 1,
		PARAM(protocol_level), "13.24"},
	{"IFMarker", KEY_MARKER, AT_OPERATIONAL, NULL, 0, 1, 0, 0, 0, "13.25"},
	{"OFMarker", KEY_MARKER, AT_OPERATIONAL, NULL, 0, 1, 0, 0, 0, "13.25"},
	{"IFMarkInt", KEY_REFUSED, AT_OPERATIONAL, NULL, 0, 0, 0, 0, 0, "13.25"},
	{"OFMarkInt", KEY_REFUSED, AT_OPERATIONAL, NULL, 0, 0, 0, 0, 0, "13.25"},
	{"X-NodeArchitecture", KEY_NOTE, AT_LOGIN | AT_FULL_FEATURE | TWICE, NULL, 0, 0, 0, 0, 0,
		"13.26"},
};

_Static_assert(ARRAY_SIZE(keys) <= 64, "a bit of `seen` for each row");
_Static_assert(LIMIT_ISCSI_RECV <= SEGMENT_MAX && LIMIT_ISCSI_BURST <= SEGMENT_MAX, "24 bits");

/* What becomes of one pair. */
enum outcome {
	SAY_NOTHING, /* a declaration */
	SAY_VALUE,   /* the active value */
	SAY_NO,
	SAY_REJECT,
	SAY_IRRELEVANT,
	SAY_NOT_UNDERSTOOD,
};

struct answer {
	const struct iscsi_key *key; /* NULL: not in the table */
	const char *name;            /* as the peer wrote it */
	size_t name_length;
	enum outcome outcome;
};

#define ANSWERS_MAX (ARRAY_SIZE(keys) * 2 + LIMIT_ISCSI_UNKNOWN)

static uint32_t *
param(struct iscsi_params *params, const struct iscsi_key *key)
{
	return (uint32_t *)(void *)((char *)params + key->offset);
}

static bool
has_param(const struct iscsi_key *key)
{
	switch (key->kind) {
	case KEY_NUMBER:
	case KEY_CHOICE:
	case KEY_LIST:
	case KEY_AND:
	case KEY_OR:
	case KEY_MIN:
	case KEY_MAX:
		return true;
	default:
		return false;
	}
}

void
iscsi_negotiation_init(struct iscsi_negotiation *n)
{
	const struct iscsi_key *key;

	memset(n, 0, sizeof(*n));
	for (key = keys; key < keys + ARRAY_SIZE(keys); key++) {
		if (!has_param(key))
			continue;
		*param(&n->mine, key) = key->mine;
		*param(&n->his, key) = key->fallback;
		*param(&n->active, key) = key->fallback;
	}
}

static const struct iscsi_key *
find_key(const struct iscsi_pair *pair)
{
	const struct iscsi_key *key;

	for (key = keys; key < keys + ARRAY_SIZE(keys); key++) {
		if (strlen(key->name) == pair->key_length &&
			memcmp(key->name, pair->key, pair->key_length) == 0)
			return key;
	}
	return NULL;
}

/* Index of a word in a comma-separated list, or -1. */
static int
find_word(const char *words, const char *word, size_t length)
{
	const char *end;
	int i;

	for (i = 0;; i++) {
		end = strchrnul(words, ',');
		if ((size_t)(end - words) == length && memcmp(words, word, length) == 0)
			return i;
		if (!*end)
			return -1;
		words = end + 1;
	}
}

/* The first value the initiator prefers that we know and allow: 6.2.1. */
static int
choose_word(const struct iscsi_key *key, const char *value, size_t length, uint32_t mine)
{
	const char *comma;
	size_t part;
	int word;

	for (;;) {
		comma = memchr(value, ',', length);
		part = comma ? (size_t)(comma - value) : length;
		word = find_word(key->words, value, part);
		if (word >= 0 && (uint32_t)word <= mine)
			return word;
		if (!comma)
			return -1;
		length -= part + 1;
		value = comma + 1;
	}
}

bool
iscsi_pair_number(const struct iscsi_pair *pair, uint32_t *number)
{
	const char *p = pair->value;
	size_t left = pair->value_length;
	unsigned base = 10, digit;
	uint64_t n = 0;

	if (left > 2 && p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
		base = 16;
		p += 2;
		left -= 2;
	}
	if (left == 0)
		return false;
	for (; left > 0; p++, left--) {
		if (*p >= '0' && *p <= '9')
			digit = (unsigned)(*p - '0');
		else if (base == 16 && (*p | 0x20) >= 'a' && (*p | 0x20) <= 'f')
			digit = (unsigned)((*p | 0x20) - 'a') + 10;
		else
			return false;
		n = n * base + digit;
		if (n > UINT32_MAX)
			return false;
	}
	*number = (uint32_t)n;
	return true;
}

static bool
parse_boolean(const struct iscsi_pair *pair, uint32_t *yes)
{
	int word = find_word("No,Yes", pair->value, pair->value_length);

	if (word < 0)
		return false;
	*yes = (uint32_t)word;
	return true;
}

/* Reads the value into `his`; false where it is not one that the key can have. */
static bool
parse_value(
	const struct iscsi_key *key, const struct iscsi_pair *pair, uint32_t mine, uint32_t *his)
{
	int word;

	switch (key->kind) {
	case KEY_AND:
	case KEY_OR:
	case KEY_MARKER:
		return parse_boolean(pair, his);
	case KEY_NUMBER:
	case KEY_MIN:
	case KEY_MAX:
		return iscsi_pair_number(pair, his) && *his >= key->min && *his <= key->max;
	case KEY_LIST:
		word = choose_word(key, pair->value, pair->value_length, mine);
		break;
	case KEY_CHOICE:
		word = find_word(key->words, pair->value, pair->value_length);
		break;
	default:
		return true;
	}
	if (word < 0)
		return false;
	*his = (uint32_t)word;
	return true;
}

/* Mine and his become active: the one place (6.2). */
static uint32_t
merge_values(const struct iscsi_key *key, uint32_t mine, uint32_t his)
{
	switch (key->kind) {
	case KEY_AND:
		return mine & his;
	case KEY_OR:
		return mine | his;
	case KEY_MIN:
		return mine < his ? mine : his;
	case KEY_MAX:
		return mine > his ? mine : his;
	default: /* declared, or chosen among what mine allows */
		return his;
	}
}

/*
 * iSCSI names compare once they are normalised (4.2.7.2): to lower case. A comma would end the name
 * in a port's name (",i,0x..."). False where it cannot be a name.
 */
static bool
normalise_name(const struct iscsi_pair *pair, char name[LIMIT_ISCSI_NAME + 1])
{
	size_t i;
	char c;

	if (pair->value_length == 0 || pair->value_length > LIMIT_ISCSI_NAME)
		return false;
	for (i = 0; i < pair->value_length; i++) {
		c = pair->value[i];
		if ((unsigned char)c <= ' ' || c == ',' || c == 0x7f)
			return false;
		name[i] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
	}
	name[i] = '\0';
	return true;
}

static uint16_t
take_name(struct iscsi_negotiation *n, const struct iscsi_key *key, const struct iscsi_pair *pair,
	bool again)
{
	char name[LIMIT_ISCSI_NAME + 1];
	char *kept = (char *)&n->names + key->offset;

	if (!normalise_name(pair, name))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (again && strcmp(kept, name) != 0)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	strcpy(kept, name);
	return 0;
}

/* Which of the methods are offered; those unknown to us are passed over. */
static void
take_methods(
	struct iscsi_negotiation *n, const struct iscsi_key *key, const struct iscsi_pair *pair)
{
	const char *at = pair->value, *end = at + pair->value_length, *comma;
	int word;

	n->auth_said = true;
	do {
		comma = memchr(at, ',', (size_t)(end - at));
		word = find_word(key->words, at, (size_t)((comma ? comma : end) - at));
		if (word >= 0)
			n->auth_offered |= 1u << word;
		if (comma)
			at = comma + 1;
	} while (comma);
}

/* A negotiated value or a declared number or choice. */
static uint16_t
take_param(struct iscsi_negotiation *n, const struct iscsi_key *key, const struct iscsi_pair *pair,
	bool again, enum outcome *outcome)
{
	uint32_t *his = param(&n->his, key);
	uint32_t mine = *param(&n->mine, key);
	uint32_t value;

	if (!parse_value(key, pair, mine, &value)) {
		if (key->kind == KEY_CHOICE)
			return ISCSI_LOGIN_TYPE;
		*outcome = SAY_REJECT;
		return 0;
	}
	if (again && value != *his)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	*his = value;
	*param(&n->active, key) = merge_values(key, mine, value);
	*outcome = key->kind == KEY_NUMBER || key->kind == KEY_CHOICE ? SAY_NOTHING : SAY_VALUE;
	return 0;
}

static uint16_t
take_known(struct iscsi_negotiation *n, enum iscsi_stage stage, const struct iscsi_key *key,
	const struct iscsi_pair *pair, enum outcome *outcome)
{
	uint64_t bit = (uint64_t)1 << (key - keys);
	bool again = n->seen & bit;
	unsigned at = stage == ISCSI_STAGE_SECURITY      ? AT_SECURITY
		      : stage == ISCSI_STAGE_OPERATIONAL ? AT_OPERATIONAL
							 : AT_FULL_FEATURE;
	uint32_t ignored;

	*outcome = SAY_REJECT;
	/* 6.3: negotiating a key again in one login is an error. So is a key out of its stage:
	 * section 12 names those of the security stage, 12.1 keeps AuthMethod in it. */
	if (again && !(key->flags & TWICE))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	/* 13: leading only. What the session has agreed on is not negotiated again. */
	if (n->joining && has_param(key) && !(key->flags & (OF_CONNECTION | TWICE)))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (!(key->flags & at)) {
		if (stage == ISCSI_STAGE_FULL_FEATURE || key->kind == KEY_OURS ||
			key->kind == KEY_TARGETS)
			return 0;
		return ISCSI_LOGIN_INITIATOR_ERROR;
	}
	n->seen |= bit;
	if ((key->flags & NOT_DISCOVERY) && n->active.discovery) {
		*outcome = SAY_IRRELEVANT;
		return 0;
	}
	switch (key->kind) {
	case KEY_NAME:
		*outcome = SAY_NOTHING;
		return take_name(n, key, pair, again);
	case KEY_NOTE:
		*outcome = SAY_NOTHING;
		return 0;
	case KEY_TARGETS:
		*outcome = SAY_NOTHING;
		n->send_targets = true;
		memcpy(n->send_targets_value, pair->value, pair->value_length);
		n->send_targets_value[pair->value_length] = '\0';
		return 0;
	case KEY_AUTH:
		*outcome = SAY_NOTHING;
		take_methods(n, key, pair);
		return 0;
	case KEY_CHAP:
		*outcome = SAY_NOTHING;
		n->chap[key->offset] = *pair;
		return 0;
	case KEY_MARKER:
		*outcome = parse_value(key, pair, 0, &ignored) ? SAY_NO : SAY_REJECT;
		return 0;
	case KEY_REFUSED:
	case KEY_OURS:
		return 0;
	default:
		return take_param(n, key, pair, again, outcome);
	}
}

/* First all pairs are taken, then all are answered, so that an answer may depend on a later key. */
static uint16_t
take_pairs(struct iscsi_negotiation *n, enum iscsi_stage stage, struct reader text,
	struct answer answers[ANSWERS_MAX], unsigned *nanswers)
{
	struct iscsi_pair pair;
	struct answer *answer;
	uint16_t status;
	int rc;

	*nanswers = 0;
	while ((rc = iscsi_pair_next(&text, &pair)) > 0) {
		if (*nanswers == ANSWERS_MAX)
			return ISCSI_LOGIN_INITIATOR_ERROR;
		answer = &answers[(*nanswers)++];
		*answer = (struct answer){
			.key = find_key(&pair),
			.name = pair.key,
			.name_length = pair.key_length,
			.outcome = SAY_NOT_UNDERSTOOD,
		};
		if (!answer->key) {
			if (++n->unknown > LIMIT_ISCSI_UNKNOWN)
				return ISCSI_LOGIN_INITIATOR_ERROR;
			continue;
		}
		status = take_known(n, stage, answer->key, &pair, &answer->outcome);
		if (status)
			return status;
	}
	return rc < 0 ? ISCSI_LOGIN_INITIATOR_ERROR : 0;
}

static void
write_value(struct writer *out, const struct iscsi_key *key, uint32_t value)
{
	const char *word, *end;
	char number[16];

	switch (key->kind) {
	case KEY_AND:
	case KEY_OR:
		iscsi_pair_write(out, key->name, value ? "Yes" : "No");
		return;
	case KEY_LIST:
		for (word = key->words; value > 0; value--)
			word = strchrnul(word, ',') + 1;
		end = strchrnul(word, ',');
		writer_bytes(out, key->name, strlen(key->name));
		writer_u8(out, '=');
		writer_bytes(out, word, (size_t)(end - word));
		writer_u8(out, 0);
		return;
	default:
		snprintf(number, sizeof(number), "%u", value);
		iscsi_pair_write(out, key->name, number);
	}
}

static void
write_answer(struct writer *out, const struct answer *answer, struct iscsi_params *active)
{
	static const char *const words[] = {
		[SAY_NO] = "=No",
		[SAY_REJECT] = "=Reject",
		[SAY_IRRELEVANT] = "=Irrelevant",
		[SAY_NOT_UNDERSTOOD] = "=NotUnderstood",
	};

	if (answer->outcome == SAY_NOTHING)
		return;
	if (answer->outcome == SAY_VALUE) {
		write_value(out, answer->key, *param(active, answer->key));
		return;
	}
	writer_bytes(out, answer->name, answer->name_length);
	writer_bytes(out, words[answer->outcome], strlen(words[answer->outcome]) + 1);
}

uint16_t
iscsi_keys_take(struct iscsi_negotiation *n, enum iscsi_stage stage, const void *text,
	size_t length, struct writer *answer)
{
	struct answer answers[ANSWERS_MAX];
	unsigned nanswers, i;
	uint16_t status;

	status = take_pairs(n, stage, reader_of(text, length), answers, &nanswers);
	/* 13.14: FirstBurstLength MUST NOT exceed MaxBurstLength. */
	if (n->active.first_burst > n->active.max_burst)
		n->active.first_burst = n->active.max_burst;
	if (status)
		return status;
	for (i = 0; i < nanswers; i++)
		write_answer(answer, &answers[i], &n->active);
	return answer->bad ? ISCSI_LOGIN_RESOURCES : 0;
}

bool
iscsi_key_describe(unsigned row, char *line, size_t size)
{
	static const char *const kinds[] = {
		[KEY_NAME] = "declared name",
		[KEY_NOTE] = "declared text",
		[KEY_NUMBER] = "declared number",
		[KEY_CHOICE] = "declared choice",
		[KEY_LIST] = "list",
		[KEY_AND] = "boolean, AND",
		[KEY_OR] = "boolean, OR",
		[KEY_MIN] = "number, minimum",
		[KEY_MAX] = "number, maximum",
		[KEY_TARGETS] = "text request",
		[KEY_REFUSED] = "obsolete, Reject",
		[KEY_MARKER] = "obsolete, No",
		[KEY_OURS] = "declared by targets",
		[KEY_AUTH] = "list, our order",
		[KEY_CHAP] = "CHAP",
	};
	const struct iscsi_key *key = &keys[row];
	char range[64] = "";

	if (row >= ARRAY_SIZE(keys))
		return false;
	if (key->words)
		snprintf(range, sizeof(range), "%s", key->words);
	else if (key->kind == KEY_AND || key->kind == KEY_OR)
		snprintf(range, sizeof(range), "default %s, ours %s", key->fallback ? "Yes" : "No",
			key->mine ? "Yes" : "No");
	else if (has_param(key))
		snprintf(range, sizeof(range), "%u to %u, default %u, ours %u", key->min, key->max,
			key->fallback, key->mine);
	snprintf(line, size, "| %s | %s | %s | %s | %s |", key->name, key->section,
		kinds[key->kind], range, key->flags & OF_CONNECTION ? "connection" : "session");
	return true;
}
