#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>
#include <stdlib.h>

/* The answer to an offer in the operational stage; NULL without one, or if the login was refused: then
 * *status is not 0. */
static const char *
offer(struct test *t, const char *keys, const char *key, unsigned *status, struct session **session)
{
	struct session *s = session_connect(t);
	*status = login(s, keys);
	if (session != NULL)
		*session = s;
	return *status == 0 ? answer(s, key) : NULL;
}

/* A key that the answer must match: words, with | between; "refused" for a refused login; LOW-HIGH for a
 * number; "-" for no answer. */
struct expectation {
	const char *id, *keys, *key, *answers;
};

static const struct expectation expectations[] = {
	{"N01", "HeaderDigest=None", "HeaderDigest", "None"},
	{"N02", "DataDigest=None", "DataDigest", "None"},
	{"N03", "HeaderDigest=None,CRC32C", "HeaderDigest", "None|CRC32C"},
	{"N04", "HeaderDigest=CRC32C,None", "HeaderDigest", "None|CRC32C"},
	{"N05", "DataDigest=None,CRC32C", "DataDigest", "None|CRC32C"},
	{"N06", "DataDigest=CRC32C,None", "DataDigest", "None|CRC32C"},
	{"N07", "HeaderDigest=X-com.example.sum", "HeaderDigest", "Reject|refused"},
	{"N08", "DataDigest=X-com.example.sum", "DataDigest", "Reject|refused"},
	{"N09", "HeaderDigest=X-com.example.sum,None", "HeaderDigest", "None"},
	{"N10", "MaxConnections=8", "MaxConnections", "1-8"},
	{"N11", "MaxConnections=0", "MaxConnections", "Reject|refused|1-65535"},
	{"N12", "InitialR2T=Yes", "InitialR2T", "Yes|-"},
	{"N13", "InitialR2T=No", "InitialR2T", "Yes|No"},
	{"N14", "InitialR2T=Perhaps", "InitialR2T", "Reject|refused"},
	{"N15", "ImmediateData=No", "ImmediateData", "No|-"},
	{"N16", "ImmediateData=Yes", "ImmediateData", "Yes|No"},
	{"N17", "ImmediateData=yes", "ImmediateData", "Reject|refused"},
	{"N18", "MaxBurstLength=16777215", "MaxBurstLength", "512-16777215"},
	{"N19", "MaxBurstLength=512\nFirstBurstLength=512", "MaxBurstLength", "512-512"},
	{"N20", "MaxBurstLength=0x10000", "MaxBurstLength", "512-65536"},
	{"N21", "MaxBurstLength=511", "MaxBurstLength", "Reject|refused|512-16777215"},
	{"N22", "MaxBurstLength=16777216", "MaxBurstLength", "Reject|refused|512-16777215"},
	{"N23", "MaxBurstLength=many", "MaxBurstLength", "Reject|refused"},
	{"N24", "FirstBurstLength=16777215", "FirstBurstLength", "512-16777215|Irrelevant"},
	{"N25", "FirstBurstLength=100", "FirstBurstLength",
		"Reject|refused|512-16777215|Irrelevant"},
	{"N26", "InitialR2T=Yes\nImmediateData=No\nFirstBurstLength=4096", "FirstBurstLength",
		"Irrelevant|512-4096"},
	{"N27", "DefaultTime2Wait=3600", "DefaultTime2Wait", "3600-3600"},
	{"N28", "DefaultTime2Wait=3601", "DefaultTime2Wait", "Reject|refused|0-3600"},
	{"N29", "DefaultTime2Retain=0", "DefaultTime2Retain", "0-0"},
	{"N30", "MaxOutstandingR2T=65535", "MaxOutstandingR2T", "1-65535"},
	{"N31", "MaxOutstandingR2T=0", "MaxOutstandingR2T", "Reject|refused|1-65535"},
	{"N32", "DataPDUInOrder=No", "DataPDUInOrder", "Yes|No"},
	{"N33", "DataPDUInOrder=Yes", "DataPDUInOrder", "Yes|-"},
	{"N34", "DataSequenceInOrder=No", "DataSequenceInOrder", "Yes|No"},
	{"N35", "DataSequenceInOrder=Yes", "DataSequenceInOrder", "Yes|-"},
	{"N36", "ErrorRecoveryLevel=2", "ErrorRecoveryLevel", "0-2"},
	{"N37", "ErrorRecoveryLevel=3", "ErrorRecoveryLevel", "Reject|refused|0-2"},
	{"N38", "IFMarker=No", "IFMarker", "No|Reject"},
	{"N39", "OFMarker=Yes", "OFMarker", "No|Reject"},
	{"N40", "IFMarkInt=2048~8192", "IFMarkInt", "Reject"},
	{"N41", "OFMarkInt=2048~8192", "OFMarkInt", "Reject"},
	{"N42", "X-com.example.colour=red", "X-com.example.colour", "NotUnderstood"},
	{"N43", "NoSuchKey=1", "NoSuchKey", "NotUnderstood"},
	{"N44", "TaskReporting=RFC3720", "TaskReporting", "RFC3720"},
	{"N45", "TaskReporting=FastAbort,ResponseFence,RFC3720", "TaskReporting",
		"FastAbort|ResponseFence|RFC3720"},
	{"N46", "iSCSIProtocolLevel=1", "iSCSIProtocolLevel", "0-1"},
	{"N47", "InitiatorAlias=iscsicheck", "InitiatorAlias", "-"},
	{"N49", "HeaderDigest=None,None", "HeaderDigest", "None"},
	{"N50", "maxburstlength=65536", "maxburstlength", "NotUnderstood"},
	{"N61", "MaxBurstLength=", "MaxBurstLength", "Reject|refused"},
	{"N62", "ErrorRecoveryLevel=0", "ErrorRecoveryLevel", "0-0"},
};

/* One of the alternatives? */
static bool
matches(const char *got, const char *word, size_t length, unsigned status)
{
	unsigned long low, high;
	char end;
	if (length == 7 && strncmp(word, "refused", 7) == 0)
		return status != 0;
	if (length == 1 && (*word == '*' || *word == '-'))
		return status == 0 && (*word == '*' || got == NULL);
	if (got == NULL)
		return false;
	if (strlen(got) == length && strncmp(got, word, length) == 0)
		return true;
	char *number_end;
	unsigned long value = strtoul(got, &number_end, 0);
	return sscanf(word, "%lu-%lu%c", &low, &high, &end) >= 2 && number_end != got &&
	       *number_end == '\0' && value >= low && value <= high;
}

static void
expect_answer(struct test *t)
{
	const struct expectation *e = expectations;
	while (strcmp(e->id, t->check->id) != 0)
		e++;
	unsigned status;
	const char *got = offer(t, e->keys, e->key, &status, NULL);
	sent(t, "%s", e->keys);
	for (const char *p = e->answers; *p != '\0'; p += strcspn(p, "|"), p += *p == '|')
		if (matches(got, p, strcspn(p, "|"), status))
			return;
	char words[128];
	snprintf(words, sizeof words, "%s=%s", e->key, e->answers);
	if (status == CLOSED)
		expect(t, false, words, "the connection was closed");
	else if (status != 0)
		expect(t, false, words, "status %04xh", status);
	else
		expect(t, false, words, "%s", got != NULL ? got : "no answer");
}

static void
first_burst_within_max(struct test *t)
{
	unsigned status;
	struct session *s;
	offer(t, "MaxBurstLength=65536\nFirstBurstLength=131072\nInitialR2T=No", "FirstBurstLength",
		&status, &s);
	if (status != 0) {
		expect_refused(t, status);
		return;
	}
	const char *first = answer(s, "FirstBurstLength"), *max = answer(s, "MaxBurstLength");
	expect(t, first == NULL || max == NULL || atoi(first) <= atoi(max) || first[0] == 'R',
		"FirstBurstLength of MaxBurstLength at most", "%s and %s",
		first != NULL ? first : "", max != NULL ? max : "");
}

static void
segment_declared(struct test *t)
{
	struct session *s = session_open(t, "");
	const char *segment = answer(s, "MaxRecvDataSegmentLength");
	if (segment == NULL)
		return;
	long value = strtol(segment, NULL, 0);
	expect(t, value >= 512 && value <= 16777215, "512 to 16777215", "%s", segment);
}

static void
no_foreign_answers(struct test *t)
{
	struct session *s = session_open(t, "");
	const char *end = s->answers + s->answers_length;
	unsigned keys = 0;
	for (const char *p = s->answers; p < end; p += strlen(p) + 1) {
		if (*p == '\0')
			continue;
		keys++;
		expect(t, strchr(p, '=') != NULL && p[0] != '=', "key=value", "%.80s", p);
		for (const char *q = s->answers; q < p; q += strlen(q) + 1)
			expect(t,
				strcspn(p, "=") != strcspn(q, "=") ||
					strncmp(p, q, strcspn(p, "=")) != 0 ||
					strncmp(p, "TargetAddress", 13) == 0,
				"each key once", "%.60s and %.60s", q, p);
	}
	expect(t, keys > 0, "answers", "none");
}

static void
ends_with_nul(struct test *t)
{
	struct session *s = session_open(t, "");
	for (unsigned i = 0; i < s->seen_count; i++) {
		const struct pdu *p = s->seen[i];
		if (opcode_of(p) == OP_LOGIN_RESPONSE && p->length > 0)
			expect(t, p->data[p->length - 1] == '\0', "a NUL after each pair",
				"%02xh at the end", p->data[p->length - 1]);
	}
}

static void
leading_only(struct test *t)
{
	unsigned status;
	const char *got = offer(t, "SendTargets=All", "SendTargets", &status, NULL);
	expect(t,
		status != 0 || got == NULL || strcmp(got, "Reject") == 0 ||
			strcmp(got, "NotUnderstood") == 0 || strcmp(got, "Irrelevant") == 0,
		"SendTargets refused in login", "%s", got != NULL ? got : "");
}

static void
long_key(struct test *t)
{
	unsigned status;
	const char *got = offer(t,
		"X-com.example.0123456789012345678901234567890123456789012345678=1",
		"X-com.example.0123456789012345678901234567890123456789012345678", &status, NULL);
	expect(t, status == 0 && got != NULL && strcmp(got, "NotUnderstood") == 0, "NotUnderstood",
		"%s, status %04xh", got != NULL ? got : "no answer", status);
}

static void
too_long_key(struct test *t)
{
	unsigned status;
	offer(t, "X-com.example.01234567890123456789012345678901234567890123456789=1", "X", &status,
		NULL);
	expect(t, status == 0 || status == CLOSED || status >> 8 == 2, "an answer or a refusal",
		"status %04xh", status);
	expect_serving(t);
}

static void
long_value(struct test *t)
{
	char keys[300] = "X-com.example.colour=";
	size_t length = strlen(keys);
	memset(keys + length, 'r', 255);
	keys[length + 255] = '\0';
	unsigned status;
	const char *got = offer(t, keys, "X-com.example.colour", &status, NULL);
	expect(t, status == 0 && got != NULL && strcmp(got, "NotUnderstood") == 0, "NotUnderstood",
		"%s, status %04xh", got != NULL ? got : "no answer", status);
}

static void
all_at_once(struct test *t)
{
	struct session *s = session_connect(t);
	if (t->target->uri.user != NULL)
		skip(t, "the URI has credentials");
	const struct pdu *p =
		login_step(s, STAGES(SECURITY, OPERATIONAL), with_names(s, "AuthMethod=None"));
	expect(t, login_status(p) == 0, "status 0000h", "status %04xh", login_status(p));
	static const char *const steps[] = {"InitialR2T=No", "ImmediateData=Yes",
		"MaxBurstLength=65536", "FirstBurstLength=8192", "MaxOutstandingR2T=1"};
	for (size_t i = 0; i < COUNT_OF(steps); i++) {
		p = login_step(s, OPERATIONAL << 2, steps[i]);
		expect(t, login_status(p) == 0, "status 0000h", "status %04xh", login_status(p));
		char key[64];
		snprintf(key, sizeof key, "%.*s", (int)strcspn(steps[i], "="), steps[i]);
		expect(t, answer(s, key) != NULL, "the key's answer in the next response", "none");
	}
	p = login_step(s, STAGES(OPERATIONAL, FULL_FEATURE), "");
	expect(t, login_status(p) == 0 && (p->bhs[1] & TRANSIT), "the full feature phase",
		"status %04xh", login_status(p));
}

#define ANSWER(id, level, section, title)                   \
	{                                                   \
		id, level, section, 0, title, expect_answer \
	}
static const struct check checks[] = {
	ANSWER("N01", MUST, "13.1", "HeaderDigest=None is accepted"),
	ANSWER("N02", MUST, "13.1", "DataDigest=None is accepted"),
	ANSWER("N03", MUST, "6.2.1", "HeaderDigest=None,CRC32C: one of them"),
	ANSWER("N04", MUST, "6.2.1", "HeaderDigest=CRC32C,None: one of them"),
	ANSWER("N05", MUST, "6.2.1", "DataDigest=None,CRC32C: one of them"),
	ANSWER("N06", MUST, "6.2.1", "DataDigest=CRC32C,None: one of them"),
	ANSWER("N07", MUST, "6.2.1", "an unknown HeaderDigest: Reject, never a value not offered"),
	ANSWER("N08", MUST, "6.2.1", "an unknown DataDigest: Reject, never a value not offered"),
	ANSWER("N09", MUST, "6.2.1", "an unknown digest in a list is passed over"),
	ANSWER("N10", MUST, "13.2", "MaxConnections: what was offered at most"),
	ANSWER("N11", MUST, "6.2.2", "MaxConnections=0: Reject or an admissible value"),
	ANSWER("N12", MUST, "13.10", "InitialR2T=Yes: Yes (OR)"),
	ANSWER("N13", MUST, "6.2.2", "InitialR2T=No must be answered"),
	ANSWER("N14", MUST, "6.2.2", "a boolean that is none: Reject"),
	ANSWER("N15", MUST, "13.11", "ImmediateData=No: No (AND)"),
	ANSWER("N16", MUST, "6.2.2", "ImmediateData=Yes must be answered"),
	ANSWER("N17", MUST, "6.1", "values are case-sensitive"),
	ANSWER("N18", MUST, "13.13", "the largest MaxBurstLength is admissible"),
	ANSWER("N19", MUST, "13.13", "the smallest MaxBurstLength is admissible, and taken"),
	ANSWER("N20", MUST, "6.1", "numbers may be hexadecimal"),
	ANSWER("N21", MUST, "6.2.2", "MaxBurstLength below 512: Reject or an admissible value"),
	ANSWER("N22", MUST, "6.2.2", "MaxBurstLength of 2^24: Reject or an admissible value"),
	ANSWER("N23", MUST, "6.2.2", "a number that is none: Reject"),
	ANSWER("N24", MUST, "13.14", "the largest FirstBurstLength is admissible"),
	ANSWER("N25", MUST, "6.2.2", "FirstBurstLength below 512: Reject or an admissible value"),
	ANSWER("N26", MUST, "13.14",
		"FirstBurstLength without unsolicited data: Irrelevant or a value"),
	ANSWER("N27", MUST, "13.15", "DefaultTime2Wait: the larger one"),
	ANSWER("N28", MUST, "6.2.2", "DefaultTime2Wait above 3600: Reject or an admissible value"),
	ANSWER("N29", MUST, "13.16", "DefaultTime2Retain: the smaller one"),
	ANSWER("N30", MUST, "13.17", "the largest MaxOutstandingR2T is admissible"),
	ANSWER("N31", MUST, "6.2.2", "MaxOutstandingR2T=0: Reject or an admissible value"),
	ANSWER("N32", MUST, "6.2.2", "DataPDUInOrder=No must be answered"),
	ANSWER("N33", MUST, "13.18", "DataPDUInOrder=Yes: Yes (OR)"),
	ANSWER("N34", MUST, "6.2.2", "DataSequenceInOrder=No must be answered"),
	ANSWER("N35", MUST, "13.19", "DataSequenceInOrder=Yes: Yes (OR)"),
	ANSWER("N36", MUST, "13.20", "ErrorRecoveryLevel=2: 2 at most"),
	ANSWER("N37", MUST, "6.2.2", "ErrorRecoveryLevel=3: Reject or an admissible value"),
	ANSWER("N62", MUST, "13.20", "ErrorRecoveryLevel=0: 0"),
	ANSWER("N38", MUST, "13.25", "IFMarker: No or Reject"),
	ANSWER("N39", MUST, "13.25", "OFMarker=Yes: No or Reject"),
	ANSWER("N40", MUST, "13.25", "IFMarkInt: Reject"),
	ANSWER("N41", MUST, "13.25", "OFMarkInt: Reject"),
	ANSWER("N42", MUST, "6.2", "a private key: NotUnderstood"),
	ANSWER("N43", MUST, "6.2", "an unknown key: NotUnderstood"),
	ANSWER("N50", MUST, "6.1", "keys are case-sensitive"),
	ANSWER("N44", MUST, "13.23", "TaskReporting=RFC3720 is accepted"),
	ANSWER("N45", MUST, "13.23", "TaskReporting: one of those offered"),
	ANSWER("N46", SHOULD, "13.24", "iSCSIProtocolLevel=1: 1 at most"),
	ANSWER("N47", MUST, "6.2", "a declaration has no answer: InitiatorAlias"),
	ANSWER("N49", MUST, "6.2.1", "a value twice in a list does no harm"),
	ANSWER("N61", MUST, "6.2.2", "a number without digits: Reject"),
	{"N51", MUST, "13.14", 0, "FirstBurstLength does not exceed MaxBurstLength",
		first_burst_within_max},
	{"N52", MUST, "13.12", 0, "the target's MaxRecvDataSegmentLength is in range",
		segment_declared},
	{"N53", MUST, "6.2", 0, "answers are pairs, each key once", no_foreign_answers},
	{"N54", MUST, "6.1", 0, "each pair ends with a NUL", ends_with_nul},
	{"N55", MUST, "13.3", 0, "SendTargets is no key for login", leading_only},
	{"N56", MUST, "6.1", 0, "a key of 63 bytes is taken", long_key},
	{"N57", MUST, "6.1", 0, "a key of 64 bytes does no harm", too_long_key},
	{"N58", MUST, "6.1", 0, "a value of 255 bytes is taken", long_value},
	{"N59", MUST, "6.3.3", NOCHAP, "keys may come one by one, each answered at once",
		all_at_once},
};
const struct group negotiation_group = {"negotiation", "RFC 7143", checks, COUNT_OF(checks)};
