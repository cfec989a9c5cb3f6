#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

static void
greeting_is_newstyle(struct test *t)
{
	session_greet(session_connect(t));
}

static void
greeting_stands_alone(struct test *t)
{
	struct session *s = session_connect(t);
	session_greet(s);
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "silence until the client's flags",
		"more bytes, or a closed connection");
}

static void
flags_have_fixed_newstyle(struct test *t)
{
	struct session *s = session_connect(t);
	session_greet(s);
	expect(t, (s->handshake_flags & FIXED_NEWSTYLE) != 0, "NBD_FLAG_FIXED_NEWSTYLE",
		"handshake flags %#x", s->handshake_flags);
}

static void
flags_are_known(struct test *t)
{
	struct session *s = session_connect(t);
	session_greet(s);
	expect(t, (s->handshake_flags & ~(FIXED_NEWSTYLE | NO_ZEROES)) == 0,
		"flags of bits 0 and 1", "handshake flags %#x", s->handshake_flags);
}

static void
unknown_flags_close(struct test *t)
{
	static const uint32_t unknown[] = {1u << 2, 1u << 16, 1u << 31};
	for (size_t i = 0; i < COUNT_OF(unknown); i++) {
		struct session *s = session_begin(t, FIXED_NEWSTYLE | unknown[i]);
		option_send(s, OPT_LIST, NULL, 0);
		sent(t, "client flags %#x, then LIST", FIXED_NEWSTYLE | unknown[i]);
		expect(t, conn_ends(s->conn), "a closed connection", "an answer");
	}
}

static void
unoffered_no_zeroes_closes(struct test *t)
{
	if (t->target->handshake_flags & NO_ZEROES)
		skip(t, "the server offers NO_ZEROES");
	struct session *s = session_begin(t, FIXED_NEWSTYLE | NO_ZEROES);
	option_send(s, OPT_LIST, NULL, 0);
	expect(t, conn_ends(s->conn), "a closed connection", "an answer");
}

static void
flags_may_come_in_pieces(struct test *t)
{
	struct session *s = session_connect(t);
	session_greet(s);
	uint8_t flags[4];
	put32(flags, FIXED_NEWSTYLE);
	for (size_t i = 0; i < sizeof flags; i++) {
		conn_write(s->conn, flags + i, 1);
		expect(t, conn_is_quiet(s->conn, 5), "patience", "bytes, or a closed connection");
	}
	if (t->target->tls)
		session_start_tls(s);
	option_expect_sync(s);
}

/* The client need not wait for the greeting: it knows what it will say. */
static void
flags_may_come_with_an_option(struct test *t)
{
	struct session *s = session_connect(t);
	uint8_t message[20];
	put32(put32(put64(put32(message, FIXED_NEWSTYLE), IHAVEOPT), OPT_UNKNOWN), 0);
	sent(t, "client flags and an unknown option in one piece");
	conn_write(s->conn, message, sizeof message);
	session_greet(s);
	struct option_reply reply;
	expect(t, option_read(s, OPT_UNKNOWN, &reply), "a reply", "a closed connection");
	expect(t, (reply.type & REP_ERROR) != 0, "an error", "%s", reply_name(reply.type));
}

/* Enters the transmission phase by EXPORT_NAME; the zeroes must be there or not. */
static void
enter_by_name(struct session *s, bool zeroes)
{
	struct test *t = s->test;
	const char *name = t->target->uri.export_name;
	option_send(s, OPT_EXPORT_NAME, name, strlen(name));
	uint8_t answer[10 + 124];
	if (!conn_read(s->conn, answer, zeroes ? 134 : 10))
		fail(t, "size, flags and perhaps zeroes", "a closed connection");
	s->size = get64(answer);
	s->flags = get16(answer + 8);
	for (size_t i = 10; zeroes && i < sizeof answer; i++)
		expect(t, answer[i] == 0, "124 bytes of zero", "%#x at %zu", answer[i], i - 10);
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "nothing more", "more bytes");
	expect_sync(s);
}

static struct session *
open_without_no_zeroes(struct test *t)
{
	struct session *s = session_begin(t, FIXED_NEWSTYLE);
	if (t->target->tls)
		session_start_tls(s);
	return s;
}

static void
export_name_ends_in_zeroes(struct test *t)
{
	enter_by_name(open_without_no_zeroes(t), true);
}

static void
export_name_omits_zeroes(struct test *t)
{
	if ((t->target->handshake_flags & NO_ZEROES) == 0)
		skip(t, "the server does not offer NO_ZEROES");
	enter_by_name(session_open(t), false);
}

static void
export_name_serves_old_clients(struct test *t)
{
	enter_by_name(session_begin(t, 0), true);
}

static void
export_name_agrees_with_go(struct test *t)
{
	struct session *s = open_without_no_zeroes(t);
	enter_by_name(s, true);
	struct session *other = session_export(t, COMPACT);
	expect(t, s->size == other->size, "the size that GO tells", "%" PRIu64 ", GO %" PRIu64,
		s->size, other->size);
	expect(t, s->flags == other->flags, "the flags that GO tells", "%#x, GO %#x", s->flags,
		other->flags);
}

static void
export_name_keeps_structured(struct test *t)
{
	struct session *s = open_without_no_zeroes(t);
	option_style(s, CHUNKED);
	enter_by_name(s, true);
	struct reply *r = request(s, CMD_READ, 0, 0, block_of(t), NULL);
	expect_faultless(s, r, FAULT_SIMPLE);
}

static void
export_name_after_options(struct test *t)
{
	struct session *s = open_without_no_zeroes(t);
	option_ask(s, OPT_LIST, NULL, 0);
	option_expect_sync(s);
	enter_by_name(s, true);
}

static void
unknown_export_name_closes(struct test *t)
{
	static const char name[] = "nbdcheck: no such export";
	struct session *s = session_open(t);
	struct query q = query_export(t, name, 0, NULL);
	if (option_ask(s, OPT_INFO, q.data, q.length) == REP_ACK)
		skip(t, "the server has an export of every name");
	s = session_open(t);
	option_send(s, OPT_EXPORT_NAME, name, sizeof name - 1);
	expect(t, conn_ends(s->conn), "a closed connection", "an answer");
}

static void
abort_is_acknowledged(struct test *t)
{
	option_expect(session_open(t), OPT_ABORT, NULL, 0, REP_ACK);
}

static void
abort_ignores_data(struct test *t)
{
	option_expect(session_open(t), OPT_ABORT, "so long", 7, REP_ACK);
}

static void
abort_ends_haggling(struct test *t)
{
	struct session *s = session_open(t);
	if (option_try(s, OPT_ABORT, NULL, 0) == 0)
		return;
	option_send(s, OPT_LIST, NULL, 0);
	sent(t, "ABORT, then LIST");
	expect(t, conn_ends(s->conn), "no answer after ABORT's", "one");
}

static void
abort_and_away(struct test *t)
{
	struct session *stays = session_open(t);
	for (int i = 0; i < 8; i++) {
		struct session *s = session_open(t);
		option_send(s, OPT_ABORT, NULL, 0);
		conn_close(s->conn);
	}
	option_expect_sync(stays);
	option_expect_sync(session_open(t));
}

/* The second small write of one reply waits for the first's acknowledgement (Nagle), which a kernel
 * delays by 40 ms: if each INFO takes that long, the server did not disable it. */
static void
nagle_is_off(struct test *t)
{
	struct session *s = session_open(t);
	unsigned slow = 0;
	int64_t fastest = INT64_MAX;
	for (int i = 0; i < 24; i++) {
		conn_delay_acks(s->conn);
		int64_t start = now_ns();
		option_info(s, OPT_INFO);
		int64_t took = now_ns() - start;
		slow += took > 30000000;
		fastest = i >= 12 && took < fastest ? took : fastest;
	}
	expect(t, slow < 12 || fastest < 30000000, "INFO answered without the delay of an ACK",
		"%u of 24 took above 30 ms", slow);
}

static void
sessions_negotiate_side_by_side(struct test *t)
{
	struct session *a = session_open(t), *b = session_open(t);
	uint8_t part[12];
	put32(put64(part, IHAVEOPT), OPT_LIST);
	conn_write(a->conn, part, sizeof part);
	option_expect_sync(b);
	option_go(b);
	expect_sync(b);
	uint8_t rest[4] = {0};
	conn_write(a->conn, rest, sizeof rest);
	struct option_reply reply;
	expect(t, option_read(a, OPT_LIST, &reply), "a reply to the LIST that came in two parts",
		"a closed connection");
}

static const struct check checks[] = {
	{"H01", MUST, "Newstyle negotiation", 0, "greeting carries NBDMAGIC and IHAVEOPT",
		greeting_is_newstyle},
	{"H02", MUST, "Newstyle negotiation", 0,
		"nothing follows the greeting before the client's flags", greeting_stands_alone},
	{"H03", MUST, "Baseline", 0, "the handshake flags say fixed newstyle",
		flags_have_fixed_newstyle},
	{"H04", MUST, "Handshake flags", 0, "no unknown handshake flag is set", flags_are_known},
	{"H05", MUST, "Client flags", 0, "unknown client flags close the connection",
		unknown_flags_close},
	{"H06", MUST, "Client flags", 0, "NO_ZEROES that was not offered closes the connection",
		unoffered_no_zeroes_closes},
	{"H07", MUST, "Newstyle negotiation", 0, "client flags may come byte by byte",
		flags_may_come_in_pieces},
	{"H08", MUST, "Newstyle negotiation", 0,
		"client flags and an option may come in one segment",
		flags_may_come_with_an_option},
	{"H09", MUST, "Newstyle negotiation", 0, "EXPORT_NAME ends in 124 zeroes without NO_ZEROES",
		export_name_ends_in_zeroes},
	{"H10", MUST, "Handshake flags", 0, "EXPORT_NAME omits the zeroes with NO_ZEROES",
		export_name_omits_zeroes},
	{"H11", MUST, "NBD_OPT_EXPORT_NAME", PLAIN,
		"a client that is not fixed newstyle enters by EXPORT_NAME",
		export_name_serves_old_clients},
	{"H12", MUST, "NBD_INFO_EXPORT", 0, "EXPORT_NAME tells the size and flags that GO tells",
		export_name_agrees_with_go},
	{"H13", MUST, "NBD_OPT_STRUCTURED_REPLY", STRUCTURED,
		"structured replies stay negotiated through EXPORT_NAME",
		export_name_keeps_structured},
	{"H14", MUST, "Fixed newstyle negotiation", 0, "EXPORT_NAME works after other options",
		export_name_after_options},
	{"H15", MUST, "NBD_OPT_EXPORT_NAME", 0,
		"EXPORT_NAME of an unknown export closes the connection",
		unknown_export_name_closes},
	{"H16", MUST, "NBD_OPT_ABORT", 0, "ABORT is answered with ACK", abort_is_acknowledged},
	{"H17", SHOULD, "NBD_OPT_ABORT", 0, "ABORT with data is answered with ACK",
		abort_ignores_data},
	{"H18", MUST, "Termination of the session during option haggling", 0,
		"nothing is answered after ABORT", abort_ends_haggling},
	{"H19", SHOULD, "NBD_OPT_ABORT", 0, "clients that ABORT and do not wait disturb nobody",
		abort_and_away},
	{"H20", SHOULD, "Protocol phases", TCP,
		"TCP_NODELAY: INFO does not wait for acknowledgements", nagle_is_off},
	{"H21", MUST, "Newstyle negotiation", 0,
		"a session that stalls in an option holds up no other",
		sessions_negotiate_side_by_side},
};

const struct group handshake_group = {"handshake", "proto.md", checks, COUNT_OF(checks)};
