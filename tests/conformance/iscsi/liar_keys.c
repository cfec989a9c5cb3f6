#include "config.h"
#include "liar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* RFC 7143 6.2.1, 6.2.2 and 13 */
enum kind { MINIMUM, MAXIMUM, OR, AND, LIST, SEGMENT, DECLARED, NO, REJECTED, ELSEWHERE };

static const struct key {
	const char *name;
	enum kind kind;
	uint32_t low, high, ours;
	const char *value; /* of a list */
	bool irrelevant;   /* in discovery sessions */
} keys[] = {
	{"AuthMethod", ELSEWHERE, 0, 0, 0, NULL, false},
	{"CHAP_A", ELSEWHERE, 0, 0, 0, NULL, false},
	{"CHAP_I", ELSEWHERE, 0, 0, 0, NULL, false},
	{"CHAP_C", ELSEWHERE, 0, 0, 0, NULL, false},
	{"CHAP_N", ELSEWHERE, 0, 0, 0, NULL, false},
	{"CHAP_R", ELSEWHERE, 0, 0, 0, NULL, false},
	{"InitiatorName", DECLARED, 0, 0, 0, NULL, false},
	{"InitiatorAlias", DECLARED, 0, 0, 0, NULL, false},
	{"TargetName", DECLARED, 0, 0, 0, NULL, false},
	{"SessionType", DECLARED, 0, 0, 0, NULL, false},
	{"HeaderDigest", LIST, 0, 0, 0, "None,CRC32C", false},
	{"DataDigest", LIST, 0, 0, 0, "None,CRC32C", false},
	{"TaskReporting", LIST, 0, 0, 0, "RFC3720", true},
	{"MaxRecvDataSegmentLength", SEGMENT, 512, 16777215, 0, NULL, false},
	{"MaxConnections", MINIMUM, 1, 65535, 1, NULL, true},
	{"InitialR2T", OR, 0, 1, 0, NULL, true},
	{"ImmediateData", AND, 0, 1, 1, NULL, true},
	{"MaxBurstLength", MINIMUM, 512, 16777215, MAX_BURST, NULL, true},
	{"FirstBurstLength", MINIMUM, 512, 16777215, FIRST_BURST, NULL, true},
	{"MaxOutstandingR2T", MINIMUM, 1, 65535, 1, NULL, true},
	{"DefaultTime2Wait", MAXIMUM, 0, 3600, 0, NULL, false},
	{"DefaultTime2Retain", MINIMUM, 0, 3600, 0, NULL, false},
	{"DataPDUInOrder", OR, 0, 1, 1, NULL, true},
	{"DataSequenceInOrder", OR, 0, 1, 1, NULL, true},
	{"ErrorRecoveryLevel", MINIMUM, 0, 2, 0, NULL, false},
	{"iSCSIProtocolLevel", MINIMUM, 0, 31, 1, NULL, true},
	{"IFMarker", NO, 0, 0, 0, NULL, true},
	{"OFMarker", NO, 0, 0, 0, NULL, true},
	{"IFMarkInt", REJECTED, 0, 0, 0, NULL, true},
	{"OFMarkInt", REJECTED, 0, 0, 0, NULL, true},
	{"SendTargets", REJECTED, 0, 0, 0, NULL, false},
};

void
add_answer(struct peer *p, const char *key, const char *value)
{
	size_t room = sizeof p->answers - p->answers_length;
	int n = snprintf(p->answers + p->answers_length, room, "%s=%s", key, value);
	if (n > 0 && (size_t)n < room)
		p->answers_length += (size_t)n + (lying(LIE_NO_NUL) ? 0 : 1);
}

const char *
find_key(const char *text, size_t length, const char *key)
{
	size_t n = strlen(key);
	for (const char *at = text; at < text + length; at += strlen(at) + 1)
		if (strncmp(at, key, n) == 0 && at[n] == '=')
			return at + n + 1;
	return NULL;
}

static bool
read_number(const char *text, uint32_t *value)
{
	char *end;
	bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	if (text[0] < '0' || text[0] > '9' || (hex && lying(LIE_HEX_NUMBER)))
		return false;
	unsigned long long number = strtoull(text, &end, hex ? 16 : 10);
	*value = number > 0xffffffff ? 0xffffffff : (uint32_t)number;
	return *end == '\0';
}

static bool
read_boolean(const char *text, uint32_t *value)
{
	*value = text[0] == 'Y' || (lying(LIE_CASE) && text[0] == 'y');
	return strcmp(text, "Yes") == 0 || strcmp(text, "No") == 0 ||
	       (lying(LIE_CASE) && strcmp(text, "yes") == 0);
}

static bool
is_listed(const char *list, const char *word, size_t length)
{
	for (const char *at = list; *at != '\0'; at += strcspn(at, ","), at += *at == ',')
		if (strcspn(at, ",") == length && strncmp(at, word, length) == 0)
			return true;
	return false;
}

/* The first of theirs that is one of ours; NULL if none is. */
static const char *
choose(const struct key *key, const char *theirs, char *choice, size_t size)
{
	if (lying(LIE_LIST_REFUSED) && strchr(theirs, ',') != NULL)
		return NULL;
	for (const char *at = theirs; *at != '\0'; at += strcspn(at, ","), at += *at == ',') {
		size_t length = strcspn(at, ",");
		if (!is_listed(key->value, at, length))
			continue;
		snprintf(choice, size, "%.*s", (int)length, at);
		return choice;
	}
	return lying(LIE_UNOFFERED) ? "None" : NULL;
}

static void
agree(struct peer *p, const char *name, uint32_t number)
{
	if (strcmp(name, "InitialR2T") == 0)
		p->initial_r2t = number != 0;
	else if (strcmp(name, "ImmediateData") == 0)
		p->immediate_data = number != 0;
	else if (strcmp(name, "MaxBurstLength") == 0)
		p->max_burst = number;
	else if (strcmp(name, "FirstBurstLength") == 0)
		p->first_burst = number;
	else if (strcmp(name, "MaxRecvDataSegmentLength") == 0)
		p->max_send = number;
}

static void
answer_number(struct peer *p, const struct key *key, const char *value)
{
	uint32_t number, theirs;
	char text[16];
	if (!read_number(value, &theirs) || theirs < key->low ||
		(theirs > key->high && !lying(LIE_RANGE))) {
		add_answer(p, key->name, "Reject");
		return;
	}
	number = theirs;
	if (key->kind == MINIMUM && number > key->ours && !(lying(LIE_RANGE) && theirs > key->high))
		number = key->ours;
	if (key->kind == MAXIMUM && number < key->ours)
		number = key->ours;
	if (strcmp(key->name, "FirstBurstLength") == 0) {
		if (lying(LIE_FIRST_BURST))
			number = theirs;
		else if (number > p->max_burst)
			number = p->max_burst;
	}
	agree(p, key->name, number);
	snprintf(text, sizeof text, "%u", number);
	add_answer(p, key->name, text);
}

static void
answer_boolean(struct peer *p, const struct key *key, const char *value)
{
	uint32_t theirs;
	if (!read_boolean(value, &theirs)) {
		add_answer(p, key->name, "Reject");
		return;
	}
	bool or = key->kind == OR;
	if (lying(LIE_AND) && ! or)
		or = true;
	else if (lying(LIE_OR) && or &&key->ours == 0)
		or = false;
	uint32_t agreed = or ? (theirs | key->ours) : (theirs & key->ours);
	agree(p, key->name, agreed);
	add_answer(p, key->name, agreed ? "Yes" : "No");
}

static void
answer_list(struct peer *p, const struct key *key, const char *value)
{
	char choice[64];
	const char *chosen = choose(key, value, choice, sizeof choice);
	bool crc = chosen != NULL && strcmp(chosen, "CRC32C") == 0;
	if (strcmp(key->name, "HeaderDigest") == 0)
		p->header_digest = crc;
	else if (strcmp(key->name, "DataDigest") == 0)
		p->data_digest = crc;
	add_answer(p, key->name, chosen != NULL ? chosen : "Reject");
}

static void
answer_key(struct peer *p, const char *name, const char *value)
{
	const struct key *key = keys, *end = keys + sizeof keys / sizeof keys[0];
	while (key < end && strcmp(key->name, name) != 0)
		key++;
	if (key == end || (lying(LIE_MARKER) && key->kind == NO) ||
		(lying(LIE_MARK_INT) && strstr(name, "MarkInt") != NULL)) {
		if (!lying(LIE_UNKNOWN_KEY))
			add_answer(p, name, "NotUnderstood");
		return;
	}
	if (p->discovery && key->irrelevant) {
		add_answer(p, name, "Irrelevant");
		return;
	}
	switch (key->kind) {
	case MINIMUM:
	case MAXIMUM:
		answer_number(p, key, value);
		break;
	case OR:
	case AND:
		answer_boolean(p, key, value);
		break;
	case LIST:
		answer_list(p, key, value);
		break;
	case SEGMENT: {
		uint32_t number;
		if (!read_number(value, &number) || number < key->low || number > key->high)
			add_answer(p, name, "Reject");
		else
			agree(p, name, number);
		break;
	}
	case NO:
		add_answer(p, name, "No");
		break;
	case REJECTED:
		add_answer(p, name, "Reject");
		break;
	case DECLARED:
	case ELSEWHERE:
		break;
	}
}

/* RFC 7143 6.2: a key is negotiated once. */
static bool
is_new(struct peer *p, const char *name, size_t keys_before)
{
	size_t from = lying(LIE_KEY_TWICE_LATER) ? keys_before : 0;
	size_t end = lying(LIE_KEY_TWICE) ? keys_before : p->keys_length;
	for (size_t at = from; at < end; at += strlen(p->keys + at) + 1)
		if (strcmp(p->keys + at, name) == 0)
			return false;
	size_t length = strlen(name) + 1;
	if (length > sizeof p->keys - p->keys_length)
		return false;
	memcpy(p->keys + p->keys_length, name, length);
	p->keys_length += length;
	return true;
}

unsigned
answer_keys(struct peer *p, char *text, size_t length)
{
	size_t before = p->keys_length;
	text[length] = '\0';
	for (char *at = text; at < text + length; at += strlen(at) + 1) {
		char *equals = strchr(at, '=');
		if (*at == '\0')
			continue;
		if (equals == NULL || equals == at)
			return 0x0200;
		*equals = '\0';
		if (!is_new(p, at, before))
			return 0x0200;
		answer_key(p, at, equals + 1);
		*equals = '=';
	}
	return 0;
}
