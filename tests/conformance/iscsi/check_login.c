#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const none = "AuthMethod=None";

/* The first step of a login that goes well. */
static struct session *
begin(struct test *t, const struct pdu **p)
{
	struct session *s = session_connect(t);
	*p = login_step(s, STAGES(SECURITY, OPERATIONAL), with_names(s, none));
	if (login_status(*p) != 0)
		fail(t, "status 0000h", "status %04xh", login_status(*p));
	return s;
}

static unsigned
try_first(struct test *t, unsigned flags, const char *keys)
{
	return login_status(login_step(session_connect(t), flags, keys));
}

/* Just this status; any other refusal is still one, and a warn. */
static void
expect_status(struct test *t, unsigned status, unsigned wanted)
{
	char words[32];
	snprintf(words, sizeof words, "status %04xh", wanted);
	expect_refused(t, status);
	prefer(t, status == wanted, words,
		status == CLOSED ? "a closed connection" : "status %04xh", status);
}

static void
two_stages(struct test *t)
{
	session_open(t, "");
}

static void
skip_security(struct test *t)
{
	struct session *s = session_connect(t);
	const struct pdu *p = login_step(s, STAGES(OPERATIONAL, FULL_FEATURE), with_names(s, ""));
	for (int i = 0; i < 4 && login_status(p) == 0 && (p->bhs[1] & TRANSIT) == 0; i++)
		p = login_step(s, STAGES(OPERATIONAL, FULL_FEATURE), "");
	expect(t, login_status(p) == 0, "status 0000h", "status %04xh", login_status(p));
	s->tsih = get16(p->bhs + 14);
	s->next_tag++;
	test_unit_ready(s);
}

static void
skip_operational(struct test *t)
{
	struct session *s = session_connect(t);
	const struct pdu *p = login_step(s, STAGES(SECURITY, FULL_FEATURE), with_names(s, none));
	for (int i = 0; i < 4 && login_status(p) == 0 && (p->bhs[1] & TRANSIT) == 0; i++)
		p = login_step(s, STAGES(SECURITY, FULL_FEATURE), "");
	expect(t, login_status(p) == 0, "status 0000h", "status %04xh", login_status(p));
	s->next_tag++;
	test_unit_ready(s);
}

static void
portal_group_tag(struct test *t)
{
	const struct pdu *p;
	struct session *s = begin(t, &p);
	const char *tag = answer(s, "TargetPortalGroupTag");
	expect(t, tag != NULL, "TargetPortalGroupTag in the first Login Response", "none");
}

static void
versions(struct test *t)
{
	const struct pdu *p;
	begin(t, &p);
	expect(t, p->bhs[2] == 0 && p->bhs[3] == 0, "Version-max and Version-active 0", "%u and %u",
		p->bhs[2], p->bhs[3]);
}

static void
tsih_at_the_end(struct test *t)
{
	struct session *s = session_open(t, "");
	expect(t, s->tsih != 0, "a TSIH in the final Login Response", "0");
}

static void
tsih_not_before(struct test *t)
{
	const struct pdu *p;
	begin(t, &p);
	expect(t, get16(p->bhs + 14) == 0, "TSIH 0 before the end of the login", "%u",
		get16(p->bhs + 14));
}

static void
tsihs_differ(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_open(t, "");
	expect(t, a->tsih != b->tsih || memcmp(a->isid, b->isid, 6) != 0,
		"two sessions to be told apart", "TSIH %u twice", a->tsih);
	expect_alive(a);
	expect_alive(b);
}

static void
echoes(struct test *t)
{
	const struct pdu *p;
	struct session *s = begin(t, &p);
	expect(t, memcmp(p->bhs + 8, s->isid, 6) == 0, "the request's ISID", "another one");
	expect(t, tag_of(p) == s->next_tag, "the request's Initiator Task Tag", "%08xh", tag_of(p));
}

static void
stages_echoed(struct test *t)
{
	const struct pdu *p;
	begin(t, &p);
	expect(t, (p->bhs[1] & 0x0c) == SECURITY << 2, "CSG 0", "flags %02xh", p->bhs[1]);
	if (p->bhs[1] & TRANSIT)
		expect(t, (p->bhs[1] & 3) == OPERATIONAL, "NSG 1", "flags %02xh", p->bhs[1]);
}

static void
stat_sn(struct test *t)
{
	const struct pdu *p;
	struct session *s = begin(t, &p);
	uint32_t first = get32(p->bhs + 24);
	p = login_step(s, OPERATIONAL << 2, "");
	expect(t, login_status(p) == 0, "status 0000h", "status %04xh", login_status(p));
	expect(t, get32(p->bhs + 24) == first + 1, "StatSN one higher with each Login Response",
		"%u after %u", get32(p->bhs + 24), first);
}

static void
exp_cmd_sn(struct test *t)
{
	const struct pdu *p;
	struct session *s = begin(t, &p);
	expect(t, get32(p->bhs + 28) == s->cmd_sn, "ExpCmdSN is the Login Request's CmdSN",
		"%u, not %u", get32(p->bhs + 28), s->cmd_sn);
}

static void
no_transit_unasked(struct test *t)
{
	struct session *s = session_connect(t);
	const struct pdu *p = login_step(s, SECURITY << 2, with_names(s, none));
	expect(t, login_status(p) == 0, "status 0000h", "status %04xh", login_status(p));
	expect(t, (p->bhs[1] & TRANSIT) == 0, "T=0 after T=0", "T=1");
}

static void
empty_steps(struct test *t)
{
	struct session *s = session_connect(t);
	login_step(s, SECURITY << 2, with_names(s, none));
	const struct pdu *p = login_step(s, SECURITY << 2, "");
	expect(t, login_status(p) == 0, "an answer to a Login Request without keys", "status %04xh",
		login_status(p));
	p = login_step(s, STAGES(SECURITY, OPERATIONAL), "");
	expect(t, login_status(p) == 0 && (p->bhs[1] & TRANSIT), "T=1", "status %04xh",
		login_status(p));
}

static void
version_too_new(struct test *t)
{
	struct session *s = session_connect(t);
	char packed[1024];
	size_t length = pack_keys(with_names(s, none), packed);
	uint8_t bhs[BHS_SIZE] = {OP_LOGIN | IMMEDIATE, STAGES(SECURITY, OPERATIONAL), 5, 5};
	memcpy(bhs + 8, s->isid, 6);
	sent(t, "Login Request, Version-min 5");
	send_pdu(s, bhs, packed, length);
	expect_status(t, login_status(receive(s)), 0x0205);
}

static void
no_initiator_name(struct test *t)
{
	char keys[512];
	snprintf(keys, sizeof keys, "SessionType=Normal\nTargetName=%s\nAuthMethod=None",
		t->target->uri.target);
	expect_status(t, try_first(t, STAGES(SECURITY, OPERATIONAL), keys), 0x0207);
}

static void
no_target_name(struct test *t)
{
	struct session *s = session_connect(t);
	s->nameless = true;
	unsigned status =
		login_status(login_step(s, STAGES(SECURITY, OPERATIONAL), with_names(s, none)));
	expect_status(t, status, 0x0207);
}

static void
no_keys(struct test *t)
{
	expect_status(t, try_first(t, STAGES(SECURITY, OPERATIONAL), ""), 0x0207);
}

static void
unknown_target(struct test *t)
{
	struct session *s = session_connect(t);
	s->target_name = "iqn.2026-11.localhost.iscsicheck:no-such-target";
	expect_status(t, login(s, ""), 0x0203);
}

static void
unknown_session_type(struct test *t)
{
	char keys[512];
	snprintf(keys, sizeof keys,
		"InitiatorName=iqn.2026-11.localhost.iscsicheck:x\nSessionType=Nonsense\nTargetName=%s\n"
		"AuthMethod=None",
		t->target->uri.target);
	expect_refused(t, try_first(t, STAGES(SECURITY, OPERATIONAL), keys));
}

static void
unknown_tsih(struct test *t)
{
	struct session *s = session_connect(t);
	s->tsih = 0xbeef;
	expect_status(t, login(s, ""), 0x020a);
}

static void
foreign_tsih(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_connect(t);
	b->tsih = a->tsih;
	b->cid = 1;
	expect_status(t, login(b, ""), 0x020a);
	expect_alive(a);
}

static void
too_many_connections(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_connect(t);
	memcpy(b->isid, a->isid, 6);
	b->tsih = a->tsih;
	b->cid = 1;
	b->cmd_sn = a->cmd_sn;
	expect_status(t, login(b, ""), 0x0206);
	expect_alive(a);
}

static void
not_a_login(struct test *t)
{
	struct session *s = session_connect(t);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
	put32(bhs + 20, NO_TAG);
	sent(t, "a NOP-Out before any login");
	send_pdu(s, bhs, NULL, 0);
	const struct pdu *p = receive(s);
	expect(t, p == NULL, "the connection closed without an answer", "a PDU %02xh",
		p != NULL ? opcode_of(p) : 0);
}

static void
command_before_login(struct test *t)
{
	struct session *s = session_connect(t);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_SCSI, FINAL);
	sent(t, "a SCSI Command before any login");
	send_pdu(s, bhs, NULL, 0);
	const struct pdu *p = receive(s);
	expect(t, p == NULL, "the connection closed without an answer", "a PDU %02xh",
		p != NULL ? opcode_of(p) : 0);
}

static void
other_pdu_in_login(struct test *t)
{
	const struct pdu *p;
	struct session *s = begin(t, &p);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
	put32(bhs + 20, NO_TAG);
	sent(t, "a NOP-Out in the middle of a login");
	send_pdu(s, bhs, NULL, 0);
	p = receive(s);
	expect(t, p != NULL && opcode_of(p) == OP_LOGIN_RESPONSE && login_status(p) == 0x020b,
		"a Login Response with status 020bh",
		p == NULL ? "a closed connection" : "PDU %02xh, %04xh",
		p != NULL ? opcode_of(p) : 0, login_status(p));
	expect(t, conn_ends_within(s->conn, 3000), "a closed connection after it", "an open one");
}

static void
closes_after_refusal(struct test *t)
{
	struct session *s = session_connect(t);
	s->target_name = "iqn.2026-11.localhost.iscsicheck:no-such-target";
	expect_refused(t, login(s, ""));
	expect(t, conn_ends_within(s->conn, 3000), "a closed connection after the refusal",
		"an open one");
}

static void
same_key_twice(struct test *t)
{
	struct session *s = session_connect(t);
	unsigned status = login(s, "MaxBurstLength=65536\nMaxBurstLength=65536");
	expect_refused(t, status);
}

static void
same_key_in_two_requests(struct test *t)
{
	const struct pdu *p;
	struct session *s = begin(t, &p);
	p = login_step(s, OPERATIONAL << 2, "InitialR2T=Yes");
	if (login_status(p) == 0)
		p = login_step(s, OPERATIONAL << 2, "InitialR2T=Yes");
	expect_refused(t, login_status(p));
}

/* The operational keys in two Login Requests, split after so many bytes. */
static struct session *
split_login(struct test *t, size_t at)
{
	static const char keys[] = "HeaderDigest=None\nDataDigest=None\nMaxBurstLength=131072\n"
				   "FirstBurstLength=32768\nMaxRecvDataSegmentLength=65536";
	char packed[256];
	size_t length = pack_keys(keys, packed);
	const struct pdu *p;
	struct session *s = begin(t, &p);
	uint8_t bhs[BHS_SIZE] = {OP_LOGIN | IMMEDIATE, CONTINUE | OPERATIONAL << 2};
	memcpy(bhs + 8, s->isid, 6);
	put32(bhs + 16, s->next_tag);
	put32(bhs + 24, s->cmd_sn);
	put32(bhs + 28, s->exp_stat_sn);
	sent(t, "Login Request with C=1 and %zu of %zu bytes of keys", at, length);
	send_pdu(s, bhs, packed, at);
	p = receive(s);
	if (login_status(p) != 0)
		fail(t, "an empty Login Response", "status %04xh", login_status(p));
	expect(t, p->length == 0, "an empty Login Response to C=1", "%zu bytes", p->length);
	expect(t, (p->bhs[1] & TRANSIT) == 0, "T=0", "T=1");
	bhs[1] = STAGES(OPERATIONAL, FULL_FEATURE);
	put32(bhs + 28, s->exp_stat_sn);
	send_pdu(s, bhs, packed + at, length - at);
	p = receive(s);
	if (login_status(p) != 0)
		fail(t, "status 0000h", "status %04xh", login_status(p));
	keep_answers(s, p);
	const char *burst = answer(s, "MaxBurstLength");
	expect(t, burst != NULL && atoi(burst) <= 131072 && atoi(burst) >= 512,
		"MaxBurstLength of 131072 at most", "%s", burst != NULL ? burst : "none");
	return s;
}

static void
split_between_keys(struct test *t)
{
	split_login(t, 18);
}

static void
split_in_key(struct test *t)
{
	split_login(t, 40);
}

static void
split_in_value(struct test *t)
{
	split_login(t, 51);
}

static void
split_before_nul(struct test *t)
{
	split_login(t, 17);
}

static void
continue_and_transit(struct test *t)
{
	struct session *s = session_connect(t);
	expect_refused(t, login_status(login_step(s, STAGES(SECURITY, OPERATIONAL) | CONTINUE,
				  with_names(s, none))));
}

static void
reserved_stage(struct test *t)
{
	struct session *s = session_connect(t);
	expect_refused(
		t, login_status(login_step(s, STAGES(2, FULL_FEATURE), with_names(s, none))));
}

static void
stage_backwards(struct test *t)
{
	const struct pdu *p;
	struct session *s = begin(t, &p);
	login_step(s, OPERATIONAL << 2, "");
	expect_refused(t, login_status(login_step(s, STAGES(SECURITY, OPERATIONAL), "")));
}

static void
transit_backwards(struct test *t)
{
	const struct pdu *p;
	struct session *s = begin(t, &p);
	expect_refused(t, login_status(login_step(s, STAGES(OPERATIONAL, SECURITY), "")));
}

static void
empty_initiator_name(struct test *t)
{
	char keys[512];
	snprintf(keys, sizeof keys,
		"InitiatorName=\nSessionType=Normal\nTargetName=%s\nAuthMethod=None",
		t->target->uri.target);
	expect_refused(t, try_first(t, STAGES(SECURITY, OPERATIONAL), keys));
}

static void
unknown_auth_method(struct test *t)
{
	struct session *s = session_connect(t);
	const struct pdu *p = login_step(
		s, STAGES(SECURITY, OPERATIONAL), with_names(s, "AuthMethod=X-com.example.magic"));
	const char *method = answer(s, "AuthMethod");
	if (login_status(p) == 0)
		expect(t, method != NULL && strcmp(method, "Reject") == 0,
			"AuthMethod=Reject or status class 2", "%s",
			method != NULL ? method : "none");
	else
		expect_refused(t, login_status(p));
}

static void
auth_method_list(struct test *t)
{
	struct session *s = session_connect(t);
	const struct pdu *p = login_step(s, STAGES(SECURITY, OPERATIONAL),
		with_names(s, "AuthMethod=X-com.example.magic,None"));
	const char *method = answer(s, "AuthMethod");
	expect(t, login_status(p) == 0 && method != NULL && strcmp(method, "None") == 0,
		"AuthMethod=None", "%s, status %04xh", method != NULL ? method : "none",
		login_status(p));
}

static void
login_after_login(struct test *t)
{
	struct session *s = session_open(t, "");
	unsigned reason;
	send_login(s, STAGES(SECURITY, OPERATIONAL), with_names(s, none));
	refused(s, &reason);
	expect(t, reason == 0 || reason == REJECT_PROTOCOL || reason == REJECT_INVALID,
		"Reject 04h, or a closed connection", "reason %02xh", reason);
	expect_serving(t);
}

static void
bytewise(struct test *t)
{
	struct session *s = session_connect(t);
	char packed[1024];
	size_t length = pack_keys(with_names(s, none), packed);
	uint8_t bytes[BHS_SIZE + 1024] = {OP_LOGIN | IMMEDIATE, STAGES(SECURITY, OPERATIONAL)};
	memcpy(bytes + 8, s->isid, 6);
	put24(bytes + 5, (uint32_t)length);
	memcpy(bytes + BHS_SIZE, packed, length);
	sent(t, "a Login Request byte by byte");
	for (size_t i = 0; i < BHS_SIZE + ((length + 3) & ~(size_t)3); i++)
		conn_write(s->conn, bytes + i, 1);
	expect(t, login_status(receive(s)) == 0, "status 0000h", "another one");
}

static void
not_immediate(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t before = s->cmd_sn;
	test_unit_ready(s);
	expect(t, s->exp_cmd_sn == before + 1, "ExpCmdSN one past the command's", "%u after %u",
		s->exp_cmd_sn, before);
}

static const struct check checks[] = {
	{"L01", MUST, "6.3", 0, "a login through both stages ends in the full feature phase",
		two_stages},
	{"L02", MUST, "6.3.1", NOCHAP, "the security stage may be skipped", skip_security},
	{"L03", MUST, "6.3.1", NOCHAP, "the operational stage may be skipped", skip_operational},
	{"L04", MUST, "13.9", NOCHAP, "the first Login Response has TargetPortalGroupTag",
		portal_group_tag},
	{"L05", MUST, "11.13.2", NOCHAP, "Version-max and Version-active are 0", versions},
	{"L06", MUST, "11.13.3", 0, "the final Login Response has a TSIH", tsih_at_the_end},
	{"L07", MUST, "11.13.3", NOCHAP, "earlier Login Responses have TSIH 0", tsih_not_before},
	{"L08", MUST, "4.4.3.1", 0, "two sessions live side by side", tsihs_differ},
	{"L09", MUST, "11.13", NOCHAP, "ISID and Initiator Task Tag are echoed", echoes},
	{"L10", MUST, "11.13.6", NOCHAP, "CSG and NSG are those of the request", stages_echoed},
	{"L11", MUST, "11.13.4", NOCHAP, "StatSN rises by one with each Login Response", stat_sn},
	{"L12", MUST, "11.12.8", NOCHAP, "a Login Request takes no CmdSN", exp_cmd_sn},
	{"L13", MUST, "11.12.8", 0, "the first command has the login's CmdSN", not_immediate},
	{"L14", MUST, "11.13.6", NOCHAP, "T=0 is answered with T=0", no_transit_unasked},
	{"L15", MUST, "6.3", NOCHAP, "a Login Request without keys is answered", empty_steps},
	{"L16", MUST, "11.13.5", 0, "an unsupported version is refused: 0205h", version_too_new},
	{"L17", MUST, "11.13.5", 0, "no InitiatorName is refused: 0207h", no_initiator_name},
	{"L18", MUST, "11.13.5", 0, "a normal session without TargetName is refused: 0207h",
		no_target_name},
	{"L19", MUST, "11.13.5", 0, "a first Login Request without keys is refused: 0207h",
		no_keys},
	{"L20", MUST, "11.13.5", 0, "an unknown target is refused: 0203h", unknown_target},
	{"L21", MUST, "13.21", 0, "an unknown SessionType is refused", unknown_session_type},
	{"L22", MUST, "11.13.5", 0, "an unknown TSIH is refused: 020ah", unknown_tsih},
	{"L23", MUST, "11.12.6", 0, "a TSIH with another ISID is refused: 020ah", foreign_tsih},
	{"L24", MUST, "11.13.5", 0, "a connection too many is refused: 0206h",
		too_many_connections},
	{"L25", MUST, "6.3", 0, "a NOP-Out before login closes the connection silently",
		not_a_login},
	{"L26", MUST, "6.3", 0, "a SCSI Command before login closes it too", command_before_login},
	{"L27", MUST, "6.3", NOCHAP, "another PDU in login is refused: 020bh, and the end",
		other_pdu_in_login},
	{"L28", MUST, "11.13.5", 0, "a refusal closes the connection", closes_after_refusal},
	{"L29", MUST, "6.2", 0, "a key twice in one Login Request is refused", same_key_twice},
	{"L30", MUST, "6.2", NOCHAP, "a key twice in two Login Requests is refused",
		same_key_in_two_requests},
	{"L31", MUST, "11.12.2", NOCHAP, "C=1 is answered empty; keys go on in the next request",
		split_between_keys},
	{"L32", MUST, "6.2", NOCHAP, "a split may fall inside a key's name", split_in_key},
	{"L33", MUST, "6.2", NOCHAP, "a split may fall inside a value", split_in_value},
	{"L34", MUST, "6.2", NOCHAP, "a split may fall before the NUL", split_before_nul},
	{"L35", MUST, "11.12.2", NOCHAP, "C=1 with T=1 is refused", continue_and_transit},
	{"L36", MUST, "11.12.3", 0, "the reserved stage 2 is refused", reserved_stage},
	{"L37", MUST, "6.3", NOCHAP, "a return to the security stage is refused", stage_backwards},
	{"L38", MUST, "11.12.3", NOCHAP, "a transition backwards is refused", transit_backwards},
	{"L39", SHOULD, "13.5", 0, "an empty InitiatorName is refused", empty_initiator_name},
	{"L40", MUST, "6.2.1", 0, "no AuthMethod in common is refused or answered Reject",
		unknown_auth_method},
	{"L41", MUST, "6.2.1", NOCHAP, "the first AuthMethod that both know is chosen",
		auth_method_list},
	{"L42", MUST, "6.3", 0, "a Login Request in the full feature phase is a protocol error",
		login_after_login},
	{"L43", MUST, "4.2.9", NOCHAP, "PDUs may arrive byte by byte", bytewise},
};
const struct group login_group = {"login", "RFC 7143", checks, COUNT_OF(checks)};
