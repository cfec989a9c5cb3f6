#include "config.h"
#include "checks.h"

#include "session.h"

static void
close_session(struct test *t)
{
	struct session *s = session_open(t, "");
	const struct pdu *p = logout(s, 0);
	expect(t, p->bhs[2] == 0, "response 0", "response %u", p->bhs[2]);
	expect(t, conn_ends_within(s->conn, 3000), "a closed connection", "an open one");
}

static void
close_connection(struct test *t)
{
	struct session *s = session_open(t, "");
	const struct pdu *p = logout(s, 1);
	expect(t, p->bhs[2] == 0, "response 0", "response %u", p->bhs[2]);
	expect(t, conn_ends_within(s->conn, 3000), "a closed connection", "an open one");
}

static void
unknown_connection(struct test *t)
{
	struct session *s = session_open(t, "");
	s->cid = 77;
	const struct pdu *p = logout(s, 1);
	expect(t, p->bhs[2] == 1, "response 1", "response %u", p->bhs[2]);
	expect_alive(s);
}

static void
recovery(struct test *t)
{
	struct session *s = session_open(t, "");
	const struct pdu *p = logout(s, 2);
	expect(t, p->bhs[2] == 2, "response 2", "response %u", p->bhs[2]);
	expect_serving(t);
}

static void
unknown_reason(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_LOGOUT | IMMEDIATE, FINAL | 0x55);
	sent(t, "Logout Request with reason 55h");
	send_pdu(s, bhs, NULL, 0);
	for (;;) {
		const struct pdu *p = receive(s);
		if (p == NULL || opcode_of(p) == OP_REJECT)
			break;
		if (opcode_of(p) != OP_LOGOUT_RESPONSE)
			continue;
		expect(t, p->bhs[2] != 0, "a Reject or a failure", "response 0");
		break;
	}
	expect_serving(t);
}

static void
fields(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t stat_sn = s->exp_stat_sn;
	const struct pdu *p = logout(s, 0);
	expect(t, p->bhs[1] == FINAL && p->length == 0, "flags 80h and no data", "%02xh, %zu bytes",
		p->bhs[1], p->length);
	expect(t, get32(p->bhs + 24) == stat_sn, "the next StatSN", "%u instead of %u",
		get32(p->bhs + 24), stat_sn);
}

static void
after_commands(struct test *t)
{
	struct session *s = session_open(t, "");
	uint32_t block = blocks_of(s, 65536);
	struct task *tasks[4];
	for (int i = 0; i < 4; i++)
		tasks[i] = submit_read(s, 0, block);
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_LOGOUT, FINAL);
	sent(t, "Logout Request behind four READs, not immediate");
	send_pdu(s, bhs, NULL, 0);
	await_pdu(s, OP_LOGOUT_RESPONSE, get32(bhs + 16));
	unsigned done = 0;
	for (int i = 0; i < 4; i++)
		done += tasks[i]->done;
	prefer(t, done == 4, "commands that came before it finished", "%u of 4", done);
	expect(t, conn_ends_within(s->conn, 3000), "a closed connection", "an open one");
}

static void
nothing_after(struct test *t)
{
	struct session *s = session_open(t, "");
	uint8_t logout_bhs[BHS_SIZE], bhs[BHS_SIZE];
	begin_bhs(s, logout_bhs, OP_LOGOUT | IMMEDIATE, FINAL);
	begin_bhs(s, bhs, OP_SCSI, FINAL | SIMPLE);
	put_lun(bhs, t->target->uri.lun);
	uint8_t both[2 * BHS_SIZE];
	memcpy(both, logout_bhs, BHS_SIZE);
	memcpy(both + BHS_SIZE, bhs, BHS_SIZE);
	sent(t, "Logout Request and TEST UNIT READY in one segment");
	conn_write(s->conn, both, sizeof both);
	await_pdu(s, OP_LOGOUT_RESPONSE, get32(logout_bhs + 16));
	const struct pdu *p = receive(s);
	expect(t, p == NULL, "nothing after the Logout Response", "a PDU %02xh",
		p != NULL ? opcode_of(p) : 0);
}

static void
session_gone(struct test *t)
{
	struct session *a = session_open(t, ""), *b = session_connect(t);
	logout(a, 0);
	conn_ends_within(a->conn, 3000);
	memcpy(b->isid, a->isid, 6);
	b->tsih = a->tsih;
	expect_refused(t, login(b, ""));
}

static const struct check checks[] = {
	{"O01", MUST, "11.14.1", 0, "a logout of the session: response 0, and the end",
		close_session},
	{"O02", MUST, "11.14.1", 0, "a logout of the connection: response 0, and the end",
		close_connection},
	{"O03", MUST, "11.15.1", 0, "a logout of an unknown CID: response 1", unknown_connection},
	{"O04", MUST, "11.15.1", 0, "a logout for recovery at level 0: response 2", recovery},
	{"O05", MUST, "11.14.1", 0, "an unknown reason is refused", unknown_reason},
	{"O06", MUST, "11.15", 0, "the response's flags and StatSN", fields},
	{"O07", MUST, "11.14", QUEUES, "a logout behind commands is answered", after_commands},
	{"O08", MUST, "11.14", 0, "nothing comes after the Logout Response", nothing_after},
	{"O09", MUST, "11.12.6", 0, "the session is gone: its TSIH is refused", session_gone},
};
const struct group logout_group = {"logout", "RFC 7143", checks, COUNT_OF(checks)};
