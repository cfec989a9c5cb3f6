#include "config.h"
#include "session.h"

#include <stdio.h>
#include <stdlib.h>

/* What a session asks for if its check does not say otherwise. */
static const char *const usual_keys[] = {
	"HeaderDigest=None",
	"DataDigest=None",
	"InitialR2T=Yes",
	"ImmediateData=Yes",
	"MaxRecvDataSegmentLength=65536",
	"MaxBurstLength=262144",
	"FirstBurstLength=65536",
	"DefaultTime2Wait=2",
	"DefaultTime2Retain=0",
	"MaxOutstandingR2T=1",
	"MaxConnections=1",
	"DataPDUInOrder=Yes",
	"DataSequenceInOrder=Yes",
	"ErrorRecoveryLevel=0",
};
enum { USUAL_COUNT = sizeof usual_keys / sizeof usual_keys[0], LOGIN_STEPS = 8 };

size_t
pack_keys(const char *keys, char *text)
{
	size_t length = strlen(keys);
	for (size_t i = 0; i < length; i++)
		text[i] = keys[i] == '\n' ? '\0' : keys[i];
	if (length > 0)
		text[length++] = '\0';
	return length;
}

void
keep_answers(struct session *s, const struct pdu *p)
{
	if (p->length > sizeof s->answers - s->answers_length - 1)
		return;
	memcpy(s->answers + s->answers_length, p->data, p->length);
	s->answers_length += p->length;
	s->answers[s->answers_length] = '\0';
}

const char *
answer(const struct session *s, const char *key)
{
	size_t length = strlen(key);
	const char *end = s->answers + s->answers_length;
	for (const char *p = s->answers; p < end; p += strlen(p) + 1)
		if (strncmp(p, key, length) == 0 && p[length] == '=')
			return p + length + 1;
	return NULL;
}

bool
send_login(struct session *s, unsigned flags, const char *keys)
{
	char *packed = take(s->test, strlen(keys) + 2);
	size_t length = pack_keys(keys, packed);
	uint8_t bhs[BHS_SIZE] = {OP_LOGIN | IMMEDIATE, (uint8_t)flags};
	memcpy(bhs + 8, s->isid, 6);
	put16(bhs + 14, s->tsih);
	/* 11.12: one tag for the whole login. */
	put32(bhs + 16, s->next_tag);
	put16(bhs + 20, s->cid);
	put32(bhs + 24, s->cmd_sn);
	put32(bhs + 28, s->exp_stat_sn);
	sent(s->test, "Login Request, flags %02xh, %.160s", flags, keys);
	return send_pdu(s, bhs, packed, length);
}

unsigned
login_status(const struct pdu *p)
{
	return p == NULL ? CLOSED : get16(p->bhs + 36);
}

const struct pdu *
login_step(struct session *s, unsigned flags, const char *keys)
{
	if (!send_login(s, flags, keys))
		return NULL;
	const struct pdu *p = receive(s);
	if (p == NULL)
		return NULL;
	if (opcode_of(p) != OP_LOGIN_RESPONSE)
		fail(s->test, "a Login Response", "a PDU %02xh", opcode_of(p));
	keep_answers(s, p);
	return p;
}

const char *
with_names(struct session *s, const char *keys)
{
	size_t size = strlen(keys) + 1024;
	char *all = take(s->test, size);
	const char *target = s->target_name != NULL ? s->target_name : s->test->target->uri.target;
	snprintf(all, size,
		"InitiatorName=iqn.2026-11.localhost.iscsicheck:%02x%02x\nSessionType=%s%s%s%s%s",
		s->isid[1], s->isid[2], s->discovery ? "Discovery" : "Normal",
		s->discovery || s->nameless ? "" : "\nTargetName=",
		s->discovery || s->nameless ? "" : target, keys[0] != '\0' ? "\n" : "", keys);
	return all;
}

/* Is it the name of one of the keys? */
static bool
names_key(const char *keys, const char *key)
{
	size_t length = strcspn(key, "=") + 1;
	for (const char *p = keys; *p != '\0'; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, key, length) == 0)
			return true;
	return false;
}

/* Session-wide keys have no place in a discovery session but for a few, nor where a connection joins its
 * session. */
static const char *
all_keys(struct session *s, const char *keys)
{
	char *all = take(s->test, 1024 + strlen(keys));
	bool narrow = s->discovery || s->tsih != 0;
	for (int i = 0; i < USUAL_COUNT; i++) {
		if (names_key(keys, usual_keys[i]) || (narrow && i != 0 && i != 1 && i != 4))
			continue;
		strcat(strcat(all, usual_keys[i]), "\n");
	}
	strcat(all, keys);
	size_t length = strlen(all);
	if (all[length - 1] == '\n')
		all[length - 1] = '\0';
	return all;
}

/* What our offer and the answer to it come to; 6.2.2 lets some answers be left out. */
static const char *
agree(const struct session *s, const char *offers, const char *key, const char *fallback)
{
	const char *his = answer(s, key);
	if (his != NULL)
		return his;
	size_t length = strlen(key);
	for (const char *p = offers; *p != '\0'; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, key, length) == 0 && p[length] == '=')
			return p[length + 1] == fallback[0] ? p + length + 1 : fallback;
	return fallback;
}

static uint32_t
number_of(const char *value, uint32_t fallback)
{
	char *end;
	unsigned long number = strtoul(value, &end, 0);
	return end != value && number > 0 && number < 1u << 24 ? (uint32_t)number : fallback;
}

static void
take_agreement(struct session *s, const char *offers, bool joins)
{
	const char *segment = answer(s, "MaxRecvDataSegmentLength");
	s->max_send = segment != NULL ? number_of(segment, DEFAULT_SEGMENT) : DEFAULT_SEGMENT;
	const char *mine = strstr(offers, "MaxRecvDataSegmentLength=");
	s->max_receive = number_of(mine + 25, DEFAULT_SEGMENT);
	s->header_digest = strcmp(agree(s, offers, "HeaderDigest", "None"), "CRC32C") == 0;
	s->data_digest = strcmp(agree(s, offers, "DataDigest", "None"), "CRC32C") == 0;
	if (joins)
		return;
	s->initial_r2t = agree(s, offers, "InitialR2T", "Yes")[0] == 'Y';
	s->immediate_data = agree(s, offers, "ImmediateData", "No")[0] == 'Y';
	s->max_burst = number_of(agree(s, offers, "MaxBurstLength", ""), 262144);
	s->first_burst = number_of(agree(s, offers, "FirstBurstLength", ""), 65536);
	s->max_outstanding = number_of(agree(s, offers, "MaxOutstandingR2T", ""), 1);
	if (s->first_burst > s->max_burst)
		s->first_burst = s->max_burst;
}

static unsigned
operate(struct session *s, const char *keys)
{
	const char *offers = all_keys(s, keys);
	bool joins = s->tsih != 0; /* session-wide keys stand */
	const struct pdu *p = login_step(s, STAGES(OPERATIONAL, FULL_FEATURE), offers);
	for (int i = 0; i < LOGIN_STEPS; i++) {
		if (login_status(p) != 0)
			return login_status(p);
		if ((p->bhs[1] & TRANSIT) != 0) {
			s->tsih = get16(p->bhs + 14);
			s->next_tag++;
			take_agreement(s, offers, joins);
			return 0;
		}
		p = login_step(s, STAGES(OPERATIONAL, FULL_FEATURE), "");
	}
	fail(s->test, "the full feature phase", "none after %d Login Requests", LOGIN_STEPS);
}

unsigned
login(struct session *s, const char *keys)
{
	const struct uri *uri = &s->test->target->uri;
	unsigned status;
	if (uri->user != NULL) {
		struct chap chap = {
			.user = s->chap_user != NULL ? s->chap_user : uri->user,
			.secret = s->chap_secret != NULL ? s->chap_secret : uri->secret,
		};
		status = chap_login(s, &chap);
	} else {
		const struct pdu *p = login_step(
			s, STAGES(SECURITY, OPERATIONAL), with_names(s, "AuthMethod=None"));
		for (int i = 0; i < LOGIN_STEPS && login_status(p) == 0; i++) {
			if ((p->bhs[1] & TRANSIT) != 0)
				break;
			p = login_step(s, STAGES(SECURITY, OPERATIONAL), "");
		}
		status = login_status(p);
	}
	return status != 0 ? status : operate(s, keys);
}

static void
expect_login(struct session *s, const char *keys)
{
	unsigned status = login(s, keys);
	if (status == CLOSED)
		fail(s->test, "a login", "the connection was closed");
	if (status != 0)
		fail(s->test, "a login", "status %04xh", status);
}

struct session *
session_open(struct test *t, const char *keys)
{
	struct session *s = session_connect(t);
	expect_login(s, keys);
	for (int i = 0; i < 4; i++)
		if (test_unit_ready(s)->status == GOOD)
			break;
	return s;
}

struct session *
session_discover(struct test *t)
{
	struct session *s = session_connect(t);
	s->discovery = true;
	expect_login(s, "");
	return s;
}

/* Initiator errors, 11.13.5; a connection that ends says less, but no. */
void
expect_refused(struct test *t, unsigned status)
{
	if (status == CLOSED)
		prefer(t, false, "a Login Response with status class 2",
			"the connection was closed");
	else
		expect(t, status >> 8 == 2 || status >> 8 == 3, "a refusal, status class 2",
			"status %04xh", status);
}
