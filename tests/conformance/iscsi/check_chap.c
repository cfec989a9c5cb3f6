#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>

static struct chap
credentials(const struct test *t)
{
	return (struct chap){.user = t->target->uri.user, .secret = t->target->uri.secret};
}

static unsigned
try(struct test *t, struct chap *chap)
{
	return chap_login(session_connect(t), chap);
}

/* 0201h; any other refusal is a warn. */
static void
expect_unauthenticated(struct test *t, unsigned status)
{
	expect_refused(t, status);
	prefer(t, status == 0x0201, "status 0201h", "status %04xh", status);
}

static void
none_refused(struct test *t)
{
	struct session *s = session_connect(t);
	expect_unauthenticated(t, login_status(login_step(s, STAGES(SECURITY, OPERATIONAL),
					  with_names(s, "AuthMethod=None"))));
}

static void
stage_not_skipped(struct test *t)
{
	struct session *s = session_connect(t);
	expect_unauthenticated(t,
		login_status(login_step(s, STAGES(OPERATIONAL, FULL_FEATURE), with_names(s, ""))));
}

static void
no_key_no_way(struct test *t)
{
	struct session *s = session_connect(t);
	const struct pdu *p = login_step(s, STAGES(SECURITY, FULL_FEATURE), with_names(s, ""));
	if (login_status(p) == 0)
		expect(t, (p->bhs[1] & TRANSIT) == 0, "no transition without CHAP", "T=1");
	else
		expect_refused(t, login_status(p));
}

static void
list_answered(struct test *t)
{
	struct session *s = session_connect(t);
	const struct pdu *p =
		login_step(s, SECURITY << 2 | OPERATIONAL, with_names(s, "AuthMethod=None,CHAP"));
	const char *method = answer(s, "AuthMethod");
	expect(t, login_status(p) == 0 && method != NULL && strcmp(method, "CHAP") == 0,
		"AuthMethod=CHAP", "%s, status %04xh", method != NULL ? method : "none",
		login_status(p));
}

static void
use_algorithm(struct test *t, const char *algorithm)
{
	struct chap chap = credentials(t);
	chap.algorithms = algorithm;
	unsigned status = try(t, &chap);
	if (status >> 8 == 2)
		skip(t, "CHAP_A=%s is refused", algorithm);
	expect(t, status == 0 && strcmp(chap.algorithm, algorithm) == 0, "a login",
		"status %04xh, CHAP_A=%s", status, chap.algorithm);
}

static void
md5(struct test *t)
{
	struct chap chap = credentials(t);
	unsigned status = try(t, &chap);
	expect(t, status == 0, "a login", "status %04xh", status);
}

static void
sha1(struct test *t)
{
	use_algorithm(t, "6");
}

static void
sha256(struct test *t)
{
	use_algorithm(t, "7");
}

static void
sha3(struct test *t)
{
	use_algorithm(t, "8");
}

static void
unknown_algorithm(struct test *t)
{
	struct session *s = session_connect(t);
	login_step(s, SECURITY << 2 | OPERATIONAL, with_names(s, "AuthMethod=CHAP"));
	const struct pdu *p = login_step(s, SECURITY << 2, "CHAP_A=200");
	expect_refused(t, login_status(p));
}

static void
algorithm_list(struct test *t)
{
	struct chap chap = credentials(t);
	chap.algorithms = "200,5";
	unsigned status = try(t, &chap);
	expect(t, status == 0 && strcmp(chap.algorithm, "5") == 0, "CHAP_A=5 and a login",
		"CHAP_A=%s, status %04xh", chap.algorithm, status);
}

static void
wrong_secret(struct test *t)
{
	struct chap chap = credentials(t);
	chap.secret = "certainly not the secret";
	expect_unauthenticated(t, try(t, &chap));
}

static void
wrong_user(struct test *t)
{
	struct chap chap = credentials(t);
	chap.user = "certainly-nobody";
	expect_unauthenticated(t, try(t, &chap));
}

static void
user_looks_hexadecimal(struct test *t)
{
	struct chap chap = credentials(t);
	chap.user = "0xabc";
	expect_unauthenticated(t, try(t, &chap));
	chap.user = "0bzz";
	expect_unauthenticated(t, try(t, &chap));
}

static void
upper_case(struct test *t)
{
	struct chap chap = credentials(t);
	chap.form = UPPER_HEX;
	unsigned status = try(t, &chap);
	expect(t, status == 0, "a login", "status %04xh", status);
}

static void
base64(struct test *t)
{
	struct chap chap = credentials(t);
	chap.form = BASE64;
	unsigned status = try(t, &chap);
	expect(t, status == 0, "a login", "status %04xh", status);
}

static void
fresh_challenges(struct test *t)
{
	struct chap first = credentials(t), second = credentials(t);
	try(t, &first);
	try(t, &second);
	expect(t,
		first.challenge_length != second.challenge_length ||
			memcmp(first.challenge, second.challenge, first.challenge_length) != 0,
		"a new challenge each time", "the same %zu bytes", first.challenge_length);
}

static void
long_challenge(struct test *t)
{
	struct chap chap = credentials(t);
	try(t, &chap);
	expect(t, chap.challenge_length >= 16, "a challenge of 16 bytes at least", "%zu",
		chap.challenge_length);
}

static void
mutual(struct test *t)
{
	struct chap chap = credentials(t);
	chap.mutual = true;
	unsigned status = try(t, &chap);
	expect(t, status == 0, "a login", "status %04xh", status);
	expect(t, chap.proved, "the target's CHAP_N and a right CHAP_R", "others, or none");
}

static void
mutual_base64(struct test *t)
{
	struct chap chap = credentials(t);
	chap.mutual = true;
	chap.form = BASE64;
	unsigned status = try(t, &chap);
	expect(t, status == 0 && chap.proved, "a login and the target's proof", "status %04xh",
		status);
}

static void
reflection(struct test *t)
{
	struct chap chap = credentials(t);
	chap.mutual = chap.reflect = true;
	unsigned status = try(t, &chap);
	expect(t, status == CLOSED || status >> 8 == 2, "a closed connection", "status %04xh",
		status);
}

/* The steps up to the challenge, then something else than a response. */
static void
answer_wrongly(struct test *t, const char *keys)
{
	struct session *s = session_connect(t);
	login_step(s, SECURITY << 2 | OPERATIONAL, with_names(s, "AuthMethod=CHAP"));
	login_step(s, SECURITY << 2, "CHAP_A=5");
	const struct pdu *p = login_step(s, STAGES(SECURITY, OPERATIONAL), keys);
	if (login_status(p) == 0)
		expect(t, (p->bhs[1] & TRANSIT) == 0, "no transition", "T=1");
	else
		expect_refused(t, login_status(p));
	expect_serving(t);
}

static void
no_name(struct test *t)
{
	answer_wrongly(t, "CHAP_R=0x00112233445566778899aabbccddeeff");
}

static void
no_response(struct test *t)
{
	char keys[300];
	snprintf(keys, sizeof keys, "CHAP_N=%.200s", t->target->uri.user);
	answer_wrongly(t, keys);
}

static void
nothing(struct test *t)
{
	answer_wrongly(t, "");
}

static void
short_response(struct test *t)
{
	char keys[300];
	snprintf(keys, sizeof keys, "CHAP_N=%.200s\nCHAP_R=0x00", t->target->uri.user);
	answer_wrongly(t, keys);
}

static void
long_response(struct test *t)
{
	char keys[3000];
	int used = snprintf(keys, sizeof keys, "CHAP_N=%.200s\nCHAP_R=0x", t->target->uri.user);
	memset(keys + used, 'a', 2048);
	keys[used + 2048] = '\0';
	answer_wrongly(t, keys);
}

static void
not_hexadecimal(struct test *t)
{
	char keys[300];
	snprintf(keys, sizeof keys, "CHAP_N=%.200s\nCHAP_R=0xzzzzzzzz", t->target->uri.user);
	answer_wrongly(t, keys);
}

static void
live_session_stays(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_connect(t);
	memcpy(b->isid, a->isid, 6);
	b->chap_secret = "certainly not the secret";
	expect_refused(t, login(b, ""));
	expect_alive(a);
}

static void
response_before_challenge(struct test *t)
{
	struct session *s = session_connect(t);
	login_step(s, SECURITY << 2 | OPERATIONAL, with_names(s, "AuthMethod=CHAP"));
	const struct pdu *p =
		login_step(s, SECURITY << 2, "CHAP_N=x\nCHAP_R=0x00112233445566778899aabbccddeeff");
	if (login_status(p) == 0)
		expect(t, answer(s, "CHAP_C") == NULL && (p->bhs[1] & TRANSIT) == 0, "a refusal",
			"an answer");
	else
		expect_refused(t, login_status(p));
}

static const struct check checks[] = {
	{"C01", MUST, "12.1", CHAP, "AuthMethod=None is refused: 0201h", none_refused},
	{"C02", MUST, "6.3.2", CHAP, "the security stage cannot be skipped", stage_not_skipped},
	{"C03", MUST, "6.3.2", CHAP, "it cannot be left without AuthMethod", no_key_no_way},
	{"C04", MUST, "6.2.1", CHAP, "AuthMethod=None,CHAP: CHAP", list_answered},
	{"C05", MUST, "12.1.3", CHAP, "CHAP with MD5 (CHAP_A=5)", md5},
	{"C06", MUST, "12.1.3", CHAP, "CHAP with SHA-1 (CHAP_A=6)", sha1},
	{"C07", MUST, "12.1.3", CHAP, "CHAP with SHA-256 (CHAP_A=7)", sha256},
	{"C08", MUST, "12.1.3", CHAP, "CHAP with SHA3-256 (CHAP_A=8)", sha3},
	{"C09", MUST, "12.1.3", CHAP, "an unknown algorithm alone is refused", unknown_algorithm},
	{"C10", MUST, "12.1.3", CHAP, "an unknown algorithm in a list is passed over",
		algorithm_list},
	{"C11", MUST, "12.1.3", CHAP, "a wrong secret is refused: 0201h", wrong_secret},
	{"C12", MUST, "12.1.3", CHAP, "an unknown name is refused: 0201h", wrong_user},
	{"C13", MUST, "12.1.3", CHAP, "a name may begin with 0x or 0b", user_looks_hexadecimal},
	{"C14", MUST, "6.1", CHAP, "a response in upper case hexadecimal", upper_case},
	{"C15", MUST, "6.1", CHAP, "a response in base64", base64},
	{"C16", MUST, "9.2.1", CHAP, "each challenge is new", fresh_challenges},
	{"C17", SHOULD, "9.2.1", CHAP, "a challenge is as long as the hash at least",
		long_challenge},
	{"C18", MUST, "12.1.3", CHAP | MUTUAL, "the target proves itself when asked to", mutual},
	{"C19", MUST, "12.1.3", CHAP | MUTUAL, "its challenge may come in base64", mutual_base64},
	{"C20", MUST, "9.2.1", CHAP | MUTUAL, "its own challenge sent back closes the connection",
		reflection},
	{"C21", MUST, "12.1.3", CHAP, "a response without a name is refused", no_name},
	{"C22", MUST, "12.1.3", CHAP, "a name without a response is refused", no_response},
	{"C23", MUST, "12.1.3", CHAP, "silence after the challenge leads nowhere", nothing},
	{"C24", MUST, "12.1.3", CHAP, "a short response is refused", short_response},
	{"C25", MUST, "12.1.3", CHAP, "a response of 1,024 bytes is refused", long_response},
	{"C26", MUST, "12.1.3", CHAP, "a response that is no number is refused", not_hexadecimal},
	{"C27", MUST, "12.1.3", CHAP, "a response before the challenge is refused",
		response_before_challenge},
	{"C28", MUST, "6.3.5", CHAP, "who fails to authenticate ends nobody's session",
		live_session_stays},
};
const struct group chap_group = {"chap", "RFC 7143", checks, COUNT_OF(checks)};
