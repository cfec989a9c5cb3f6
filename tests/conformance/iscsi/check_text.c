#include "config.h"
#include "checks.h"

#include "session.h"

#include <stdio.h>

static unsigned
count_answers(const struct session *s, const char *key, const char *value)
{
	unsigned count = 0;
	size_t length = strlen(key);
	for (const char *p = s->answers; p < s->answers + s->answers_length; p += strlen(p) + 1)
		if (strncmp(p, key, length) == 0 && p[length] == '=' &&
			(value == NULL || strcmp(p + length + 1, value) == 0))
			count++;
	return count;
}

/* The whole answer to a SendTargets, however many PDUs it takes. */
static void
send_targets(struct session *s, const char *value)
{
	char keys[300];
	snprintf(keys, sizeof keys, "SendTargets=%.250s", value);
	s->answers_length = 0;
	const struct pdu *p = text(s, FINAL, NO_TAG, NO_TAG, keys);
	for (int i = 0; i < 64 && (p->bhs[1] & FINAL) == 0; i++)
		p = text(s, FINAL, tag_of(p), get32(p->bhs + 20), "");
	expect(s->test, p->bhs[1] & FINAL, "an end of the answer", "none after 64 PDUs");
}

static void
list_all(struct test *t)
{
	struct session *s = session_discover(t);
	send_targets(s, "All");
	expect(t, count_answers(s, "TargetName", t->target->uri.target) == 1, "the target, once",
		"%u times", count_answers(s, "TargetName", t->target->uri.target));
}

static void
list_by_name(struct test *t)
{
	struct session *s = session_discover(t);
	send_targets(s, t->target->uri.target);
	expect(t,
		count_answers(s, "TargetName", NULL) == 1 &&
			count_answers(s, "TargetName", t->target->uri.target) == 1,
		"this target alone", "%u names", count_answers(s, "TargetName", NULL));
}

static void
list_unknown(struct test *t)
{
	struct session *s = session_discover(t);
	send_targets(s, "iqn.2026-11.localhost.iscsicheck:nobody");
	expect(t, count_answers(s, "TargetName", NULL) == 0, "no target", "%u",
		count_answers(s, "TargetName", NULL));
}

static void
addresses(struct test *t)
{
	struct session *s = session_discover(t);
	char name[80];
	conn_name(s->conn, name, sizeof name);
	send_targets(s, "All");
	unsigned found = 0;
	for (const char *p = s->answers; p < s->answers + s->answers_length; p += strlen(p) + 1) {
		if (strncmp(p, "TargetAddress=", 14) != 0)
			continue;
		const char *comma = strrchr(p, ',');
		expect(t,
			comma != NULL && comma[1] != '\0' &&
				strspn(comma + 1, "0123456789") == strlen(comma + 1),
			"address:port,tag", "%.80s", p);
		size_t length = strlen(name);
		const char *port = strrchr(name, ':');
		found += (strncmp(p + 14, name, length) == 0 && p[14 + length] == ',') ||
			 (strcmp(port, ":3260") == 0 &&
				 strncmp(p + 14, name, (size_t)(port - name)) == 0);
	}
	prefer(t, found > 0, "the address by which the request came", "none");
}

static void
command_in_discovery(struct test *t)
{
	struct session *s = session_discover(t);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	sent(t, "a SCSI Command in a discovery session");
	send_pdu(s, bhs, NULL, 0);
	const struct pdu *p = receive(s);
	expect(t, p == NULL || opcode_of(p) == OP_REJECT, "a Reject", "a PDU %02xh",
		p != NULL ? opcode_of(p) : 0);
}

static void
management_in_discovery(struct test *t)
{
	struct session *s = session_discover(t);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_TMF | IMMEDIATE, FINAL | LUN_RESET);
	put32(bhs + 20, NO_TAG);
	sent(t, "LOGICAL UNIT RESET in a discovery session");
	send_pdu(s, bhs, NULL, 0);
	const struct pdu *p = receive(s);
	expect(t, p == NULL || opcode_of(p) == OP_REJECT || p->bhs[2] != 0, "a Reject",
		"response 0");
}

static void
ping_in_discovery(struct test *t)
{
	struct session *s = session_discover(t);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_NOP_OUT | IMMEDIATE, FINAL);
	put32(bhs + 20, NO_TAG);
	sent(t, "a NOP-Out in a discovery session");
	send_pdu(s, bhs, NULL, 0);
	const struct pdu *p = receive(s);
	expect(t, p == NULL || opcode_of(p) == OP_REJECT, "a Reject", "a PDU %02xh",
		p != NULL ? opcode_of(p) : 0);
}

static void
discovery_logout(struct test *t)
{
	struct session *s = session_discover(t);
	const struct pdu *p = logout(s, 0);
	expect(t, p->bhs[2] == 0, "response 0", "response %u", p->bhs[2]);
	prefer(t, conn_ends_within(s->conn, 3000), "a closed connection", "an open one");
}

static void
discovery_irrelevant(struct test *t)
{
	struct session *s = session_connect(t);
	s->discovery = true;
	unsigned status = login(s, "MaxBurstLength=65536");
	const char *got = answer(s, "MaxBurstLength");
	expect(t, status == 0, "a login", "status %04xh", status);
	prefer(t, got != NULL && strcmp(got, "Irrelevant") == 0, "MaxBurstLength=Irrelevant", "%s",
		got != NULL ? got : "none");
}

static void
discovery_with_target(struct test *t)
{
	char keys[600];
	struct session *s = session_connect(t);
	s->discovery = true;
	snprintf(keys, sizeof keys, "TargetName=%s\nAuthMethod=None", t->target->uri.target);
	unsigned status =
		login_status(login_step(s, STAGES(SECURITY, OPERATIONAL), with_names(s, keys)));
	expect(t, status == 0 || status == CLOSED || status >> 8 == 2, "an answer", "status %04xh",
		status);
}

static const struct check discovery_checks[] = {
	{"Y01", MUST, "13.3", DISCOVERY, "SendTargets=All lists the target", list_all},
	{"Y02", MUST, "13.3", DISCOVERY, "SendTargets by name lists this one alone", list_by_name},
	{"Y03", MUST, "13.3", DISCOVERY, "SendTargets of an unknown name lists nothing",
		list_unknown},
	{"Y04", MUST, "13.8", DISCOVERY, "TargetAddress has a portal group tag", addresses},
	{"Y05", MUST, "4.3", DISCOVERY, "a SCSI Command is rejected", command_in_discovery},
	{"Y06", MUST, "4.3", DISCOVERY, "task management is rejected", management_in_discovery},
	{"Y07", MUST, "4.3", DISCOVERY, "a ping is rejected", ping_in_discovery},
	{"Y08", MUST, "11.14", DISCOVERY, "a logout ends it", discovery_logout},
	{"Y09", MUST, "13.13", DISCOVERY, "session-wide data keys are irrelevant",
		discovery_irrelevant},
	{"Y10", MUST, "13.4", DISCOVERY | NOCHAP, "a TargetName does no harm",
		discovery_with_target},
};
const struct group discovery_group = {
	"discovery", "RFC 7143", discovery_checks, COUNT_OF(discovery_checks)};

static void
own_target(struct test *t)
{
	struct session *s = session_open(t, "");
	send_targets(s, "");
	expect(t,
		count_answers(s, "TargetName", NULL) <= 1 &&
			count_answers(s, "TargetName", t->target->uri.target) == 1,
		"the session's own target", "%u names", count_answers(s, "TargetName", NULL));
}

static void
all_in_normal(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_TEXT, FINAL);
	put32(bhs + 20, NO_TAG);
	s->answers_length = 0;
	sent(t, "SendTargets=All in a normal session");
	send_pdu(s, bhs, "SendTargets=All", 16);
	for (;;) {
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			return;
		if (opcode_of(p) != OP_TEXT_RESPONSE)
			continue;
		keep_answers(s, p);
		break;
	}
	const char *got = answer(s, "SendTargets");
	expect(t, count_answers(s, "TargetName", NULL) == 0 || got != NULL, "Reject, and no list",
		"%u targets", count_answers(s, "TargetName", NULL));
}

static void
fields(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t stat_sn = s->exp_stat_sn;
	const struct pdu *p = text(s, FINAL, NO_TAG, NO_TAG, "SendTargets=");
	expect(t, (p->bhs[1] & FINAL) == 0 || get32(p->bhs + 20) == NO_TAG,
		"Target Transfer Tag ffffffffh with F", "%08xh", get32(p->bhs + 20));
	expect(t, get32(p->bhs + 24) == stat_sn, "the next StatSN", "%u", get32(p->bhs + 24));
}

static void
takes_cmd_sn(struct test *t)
{
	struct session *s = session_open(t, "");
	text(s, FINAL, NO_TAG, NO_TAG, "SendTargets=");
	expect(t, s->exp_cmd_sn == s->cmd_sn, "its CmdSN taken", "ExpCmdSN %u, not %u",
		s->exp_cmd_sn, s->cmd_sn);
}

static void
unknown_key(struct test *t)
{
	struct session *s = session_open(t, "");
	text(s, FINAL, NO_TAG, NO_TAG, "X-com.example.colour=red");
	const char *got = answer(s, "X-com.example.colour");
	expect(t, got != NULL && strcmp(got, "NotUnderstood") == 0, "NotUnderstood", "%s",
		got != NULL ? got : "none");
}

static void
empty(struct test *t)
{
	struct session *s = session_open(t, "");
	const struct pdu *p = text(s, FINAL, NO_TAG, NO_TAG, "");
	expect(t, p->length == 0, "an empty answer", "%zu bytes", p->length);
	expect_alive(s);
}

static void
new_segment_length(struct test *t)
{
	struct session *s = session_open(t, "");
	text(s, FINAL, NO_TAG, NO_TAG, "MaxRecvDataSegmentLength=1024");
	unsigned from = s->seen_count;
	expect_good(submit_read(s, 0, blocks_of(s, 65536)));
	for (unsigned i = from; i < s->seen_count; i++)
		expect(t, s->seen[i]->length <= 1024, "1024 bytes in a PDU at most", "%zu",
			s->seen[i]->length);
}

static void
login_only_key(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_TEXT, FINAL);
	put32(bhs + 20, NO_TAG);
	sent(t, "HeaderDigest=None in the full feature phase");
	send_pdu(s, bhs, "HeaderDigest=None", 18);
	const struct pdu *p = receive(s);
	if (p == NULL || opcode_of(p) == OP_REJECT)
		return;
	s->answers_length = 0;
	keep_answers(s, p);
	const char *got = answer(s, "HeaderDigest");
	expect(t, got == NULL || strcmp(got, "CRC32C") != 0, "Reject", "%s",
		got != NULL ? got : "");
	prefer(t, got != NULL && strcmp(got, "Reject") == 0, "HeaderDigest=Reject", "%s",
		got != NULL ? got : "none");
	expect_alive(s);
}

static void
continued(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_TEXT, CONTINUE);
	put32(bhs + 20, NO_TAG);
	sent(t, "half of a Text Request, C=1");
	send_pdu(s, bhs, "X-com.exam", 10);
	const struct pdu *p = await_pdu(s, OP_TEXT_RESPONSE, get32(bhs + 16));
	expect(t, p->length == 0 && (p->bhs[1] & FINAL) == 0, "an empty answer with F=0",
		"%zu bytes, %02xh", p->length, p->bhs[1]);
	expect(t, get32(p->bhs + 20) != NO_TAG, "a Target Transfer Tag", "ffffffffh");
	uint32_t tag = get32(bhs + 16);
	begin_bhs(s, bhs, OP_TEXT, FINAL);
	put32(bhs + 16, tag);
	memcpy(bhs + 20, p->bhs + 20, 4);
	send_pdu(s, bhs, "ple.x=1", 8);
	keep_answers(s, await_pdu(s, OP_TEXT_RESPONSE, tag));
	const char *got = answer(s, "X-com.example.x");
	expect(t, got != NULL && strcmp(got, "NotUnderstood") == 0, "NotUnderstood", "%s",
		got != NULL ? got : "none");
}

static void
unknown_ttt(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_TEXT, FINAL);
	put32(bhs + 20, 0x4242);
	sent(t, "a Text Request that goes on with nothing");
	send_pdu(s, bhs, NULL, 0);
	const struct pdu *p = receive(s);
	expect(t, p == NULL || opcode_of(p) == OP_REJECT || opcode_of(p) == OP_TEXT_RESPONSE,
		"a Reject", "a PDU %02xh", p != NULL ? opcode_of(p) : 0);
	prefer(t, p != NULL && opcode_of(p) == OP_REJECT, "a Reject", "something else");
	expect_serving(t);
}

static void
with_commands(struct test *t)
{
	struct session *s = session_open(t, "");
	struct task *task = submit_read(s, 0, blocks_of(s, 65536));
	text(s, FINAL, NO_TAG, NO_TAG, "SendTargets=");
	expect_good(task);
}

static const struct check text_checks[] = {
	{"X01", MUST, "C", 0, "an empty SendTargets lists the session's own target", own_target},
	{"X02", MUST, "C", 0, "SendTargets=All belongs to discovery sessions", all_in_normal},
	{"X03", MUST, "11.11.4", 0, "the response's Target Transfer Tag and StatSN", fields},
	{"X04", MUST, "11.10", 0, "a Text Request takes its CmdSN", takes_cmd_sn},
	{"X05", MUST, "6.2", 0, "an unknown key: NotUnderstood", unknown_key},
	{"X06", MUST, "11.10", 0, "a Text Request without keys is answered", empty},
	{"X07", MUST, "13.12", 0, "MaxRecvDataSegmentLength may change at any time",
		new_segment_length},
	{"X08", MUST, "6.4", 0, "a key for login alone is not negotiated", login_only_key},
	{"X09", MUST, "11.10.2", 0, "keys may go on in the next Text Request", continued},
	{"X10", MUST, "11.10.4", 0, "an unknown Target Transfer Tag is refused", unknown_ttt},
	{"X11", MUST, "11.10", QUEUES, "text and commands side by side", with_commands},
};
const struct group text_group = {"text", "RFC 7143", text_checks, COUNT_OF(text_checks)};
