#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { LISTED_MAX = 16 };

static void
list_answers(struct test *t)
{
	uint32_t type = option_ask(session_open(t), OPT_LIST, NULL, 0);
	expect(t, type == REP_ACK || type == REP_ERR_POLICY, "ACK, or ERR_POLICY by configuration",
		"%s", reply_name(type));
}

/* A session whose last option was a LIST that succeeded. */
static struct session *
list(struct test *t)
{
	struct session *s = session_open(t);
	option_expect(s, OPT_LIST, NULL, 0, REP_ACK);
	return s;
}

static bool
read_server(const struct option_reply *r, const uint8_t **name, uint32_t *length)
{
	if (r->type != REP_SERVER || r->length < 4 || get32(r->data) > r->length - 4)
		return false;
	*length = get32(r->data);
	*name = r->data + 4;
	return true;
}

static void
list_lengths_fit(struct test *t)
{
	struct session *s = list(t);
	for (size_t i = 0; i + 1 < s->reply_count; i++) {
		const struct option_reply *r = &s->replies[i];
		expect(t, r->length >= 4 && get32(r->data) <= r->length - 4,
			"a name no longer than the reply", "reply of %" PRIu32 " bytes", r->length);
	}
}

static void
list_names_are_strings(struct test *t)
{
	struct session *s = list(t);
	const uint8_t *name;
	uint32_t length;
	for (size_t i = 0; i < s->reply_count; i++)
		if (read_server(&s->replies[i], &name, &length))
			expect(t, string_is_valid(name, length),
				"UTF-8 without NUL, at most 4096 bytes",
				"a name of %" PRIu32 " other bytes", length);
}

static void
list_names_are_short(struct test *t)
{
	struct session *s = list(t);
	const uint8_t *name;
	uint32_t length;
	for (size_t i = 0; i < s->reply_count; i++)
		if (read_server(&s->replies[i], &name, &length))
			expect(t, length <= 256, "names of at most 256 bytes", "%" PRIu32, length);
}

static void
list_details_are_strings(struct test *t)
{
	struct session *s = list(t);
	const uint8_t *name;
	uint32_t length;
	for (size_t i = 0; i < s->reply_count; i++) {
		if (!read_server(&s->replies[i], &name, &length))
			continue;
		size_t rest = s->replies[i].length - 4 - length;
		expect(t, string_is_valid(name + length, rest), "details fit for display",
			"%zu other bytes", rest);
	}
}

static void
listed_exports_exist(struct test *t)
{
	struct session *s = list(t), *asks = session_open(t);
	const uint8_t *name;
	uint32_t length;
	for (size_t i = 0; i < s->reply_count && i < LISTED_MAX; i++) {
		if (!read_server(&s->replies[i], &name, &length) || length > STRING_MAX)
			continue;
		uint8_t *data = take(t, length + 6u);
		put16(put_bytes(put32(data, length), name, length), 0);
		uint32_t type = option_ask(asks, OPT_INFO, data, length + 6u);
		expect(t, type != REP_ERR_UNKNOWN && type != REP_ERR_INVALID,
			"INFO to know what LIST told", "%s for \"%.*s\"", reply_name(type),
			(int)length, (const char *)name);
	}
}

static void
list_ack_is_empty(struct test *t)
{
	struct session *s = list(t);
	uint32_t length = s->replies[s->reply_count - 1].length;
	expect(t, length == 0, "an ACK without data", "%" PRIu32 " bytes", length);
}

static void
list_repeats(struct test *t)
{
	struct session *s = list(t);
	size_t count = s->reply_count;
	option_expect(s, OPT_LIST, NULL, 0, REP_ACK);
	expect(t, s->reply_count == count, "the same list", "%zu replies, then %zu", count,
		s->reply_count);
}

static void
list_with_data_is_invalid(struct test *t)
{
	option_expect(session_open(t), OPT_LIST, "data", 4, REP_ERR_INVALID);
}

static void
list_with_data_is_drained(struct test *t)
{
	struct session *s = session_open(t);
	uint8_t *data = take_pattern(t, 1, 1000);
	option_ask(s, OPT_LIST, data, 1000);
	option_prefer_sync(s);
}

static void
unknown_options_are_unsupported(struct test *t)
{
	static const uint32_t options[] = {0, 12, 0xffff, 0x7fffffff, 0xffffffff};
	struct session *s = session_open(t);
	for (size_t i = 0; i < COUNT_OF(options); i++)
		option_expect(s, options[i], NULL, 0, REP_ERR_UNSUP);
}

static void
peek_export_is_unsupported(struct test *t)
{
	option_expect(session_open(t), OPT_PEEK_EXPORT, NULL, 0, REP_ERR_UNSUP);
}

static void
unknown_option_is_drained(struct test *t)
{
	static const size_t lengths[] = {1, 17, 4096, 20000};
	struct session *s = session_open(t);
	for (size_t i = 0; i < COUNT_OF(lengths); i++) {
		uint8_t *data = take_pattern(t, 2, lengths[i]);
		option_expect(s, OPT_UNKNOWN, data, lengths[i], REP_ERR_UNSUP);
		option_expect_sync(s);
	}
}

/* Data that looks like an option must not become one. */
static void
drained_data_is_not_read(struct test *t)
{
	struct session *s = session_open(t);
	uint8_t data[64];
	for (size_t i = 0; i < 4; i++)
		put32(put32(put64(data + 16 * i, IHAVEOPT), OPT_ABORT), 0);
	option_expect(s, OPT_UNKNOWN, data, sizeof data, REP_ERR_UNSUP);
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "one reply for one option", "more");
	option_expect_sync(s);
}

static void
one_final_reply(struct test *t)
{
	struct session *s = session_open(t);
	option_expect(s, OPT_UNKNOWN, NULL, 0, REP_ERR_UNSUP);
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "one final reply", "more bytes");
}

static void
many_errors_are_borne(struct test *t)
{
	struct session *s = session_open(t);
	for (int i = 0; i < 24; i++)
		option_expect(s, OPT_UNKNOWN + (uint32_t)i, NULL, 0, REP_ERR_UNSUP);
	option_go(s);
	expect_sync(s);
}

static void
header_in_pieces(struct test *t)
{
	struct session *s = session_open(t);
	uint8_t header[16];
	put32(put32(put64(header, IHAVEOPT), OPT_UNKNOWN), 0);
	sent(t, "an option header, byte by byte");
	for (size_t i = 0; i < sizeof header; i++) {
		expect(t, conn_is_quiet(s->conn, 2), "patience", "bytes, or a closed connection");
		conn_write(s->conn, header + i, 1);
	}
	struct option_reply reply;
	expect(t, option_read(s, OPT_UNKNOWN, &reply), "a reply", "a closed connection");
}

static void
data_in_pieces(struct test *t)
{
	struct session *s = session_open(t);
	static const uint16_t requests[] = {INFO_EXPORT, INFO_BLOCK_SIZE};
	struct query q = query_export(t, t->target->uri.export_name, 2, requests);
	uint8_t header[16];
	put32(put32(put64(header, IHAVEOPT), OPT_INFO), (uint32_t)q.length);
	conn_write(s->conn, header, sizeof header);
	sent(t, "INFO, its data byte by byte");
	for (size_t i = 0; i < q.length; i++) {
		conn_write(s->conn, q.data + i, 1);
		conn_is_quiet(s->conn, 2); /* a reply may come before the last byte is needed */
	}
	struct option_reply reply;
	do
		expect(t, option_read(s, OPT_INFO, &reply), "replies", "a closed connection");
	while (reply.type == REP_INFO);
	expect(t, reply.type == REP_ACK, "ACK", "%s", reply_name(reply.type));
}

/* What an error reply says of an export with this name. */
static const struct option_reply *
ask_strange_name(struct session *s, const char *name, size_t length)
{
	uint8_t *data = take(s->test, length + 6);
	put16(put_bytes(put32(data, (uint32_t)length), name, length), 0);
	uint32_t type = option_try(s, OPT_INFO, data, length + 6);
	if (type == 0)
		skip(s->test, "the server closes the connection, as it may");
	return &s->replies[s->reply_count - 1];
}

static void
expect_message(struct test *t, const struct option_reply *r)
{
	if ((r->type & REP_ERROR) == 0)
		skip(t, "the name is an export's");
	expect(t, string_is_valid(r->data, r->length),
		"an error message that is UTF-8 without NUL, at most 4096 bytes",
		"%" PRIu32 " other bytes", r->length);
}

static void
message_is_utf8(struct test *t)
{
	expect_message(t, ask_strange_name(session_open(t), "no\xff\xfe\xc0\xaf\xed\xa0\x80", 9));
}

static void
message_has_no_nul(struct test *t)
{
	expect_message(t, ask_strange_name(session_open(t), "no\0such\0export", 14));
}

static void
message_is_bounded(struct test *t)
{
	char *name = take(t, STRING_MAX);
	memset(name, 'n', STRING_MAX);
	expect_message(t, ask_strange_name(session_open(t), name, STRING_MAX));
}

static void
longest_name_is_read(struct test *t)
{
	char *name = take(t, STRING_MAX);
	memset(name, 'n', STRING_MAX);
	uint8_t *data = take(t, STRING_MAX + 6);
	put16(put_bytes(put32(data, STRING_MAX), name, STRING_MAX), 0);
	struct session *s = session_open(t);
	option_ask(s, OPT_INFO, data, STRING_MAX + 6);
	option_expect_sync(s);
}

static void
nul_does_not_end_a_name(struct test *t)
{
	const char *name = t->target->uri.export_name;
	size_t length = strlen(name) + 4;
	char *longer = take(t, length);
	memcpy(longer, name, strlen(name));
	memcpy(longer + strlen(name), "\0nul", 4);
	struct session *s = session_open(t);
	struct query q = query_export(t, "nbdcheck: no such export", 0, NULL);
	if (option_ask(s, OPT_INFO, q.data, q.length) == REP_ACK)
		skip(t, "the server has an export of every name");
	const struct option_reply *r = ask_strange_name(s, longer, length);
	expect(t, r->type != REP_ACK, "an error", "ACK: the name was cut at its NUL");
}

static void
structured_is_acknowledged(struct test *t)
{
	uint32_t type = option_ask(session_open(t), OPT_STRUCTURED_REPLY, NULL, 0);
	expect(t, type == REP_ACK || type == REP_ERR_UNSUP, "ACK or ERR_UNSUP", "%s",
		reply_name(type));
}

static void
structured_with_data_is_invalid(struct test *t)
{
	struct session *s = session_open(t);
	option_expect(s, OPT_STRUCTURED_REPLY, "x", 1, REP_ERR_INVALID);
	option_expect_sync(s);
}

static void
refused_structured_stays_off(struct test *t)
{
	struct session *s = session_open(t);
	if (option_ask(s, OPT_STRUCTURED_REPLY, "x", 1) == REP_ACK)
		skip(t, "STRUCTURED_REPLY with data is accepted");
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), FAULT_CHUNK);
}

static void
structured_twice(struct test *t)
{
	struct session *s = session_open(t);
	option_style(s, CHUNKED);
	uint32_t type = option_ask(s, OPT_STRUCTURED_REPLY, NULL, 0);
	expect(t, type == REP_ACK || type == REP_ERR_INVALID, "ACK or ERR_INVALID", "%s",
		reply_name(type));
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), FAULT_SIMPLE);
}

static void
error_reply_then_success(struct test *t)
{
	struct session *s = session_open(t);
	option_expect(s, OPT_UNKNOWN, NULL, 0, REP_ERR_UNSUP);
	option_go(s);
	expect_sync(s);
}

static const struct check checks[] = {
	{"O01", MUST, "Baseline", 0, "LIST is answered", list_answers},
	{"O02", MUST, "NBD_REP_SERVER", LISTS, "LIST's names fit into their replies",
		list_lengths_fit},
	{"O03", MUST, "Conventions", LISTS, "LIST's names are valid strings",
		list_names_are_strings},
	{"O04", SHOULD, "Conventions", LISTS, "LIST's names are no longer than 256 bytes",
		list_names_are_short},
	{"O05", MUST, "NBD_REP_SERVER", LISTS, "LIST's details are valid strings",
		list_details_are_strings},
	{"O06", MUST, "NBD_REP_SERVER", LISTS, "what LIST names, INFO knows", listed_exports_exist},
	{"O07", SHOULD, "NBD_OPT_LIST", LISTS, "LIST with a payload is answered ERR_INVALID",
		list_with_data_is_invalid},
	{"O08", MUST, "NBD_REP_ACK", LISTS, "the ACK after LIST has no data", list_ack_is_empty},
	{"O09", SHOULD, "Fixed newstyle negotiation", LISTS, "LIST can be asked again",
		list_repeats},
	{"O10", MUST, "Baseline", 0, "the payload of a refused LIST is drained once",
		list_with_data_is_drained},
	{"O11", MUST, "Baseline", 0, "unknown options are answered ERR_UNSUP",
		unknown_options_are_unsupported},
	{"O12", MUST, "NBD_OPT_PEEK_EXPORT", 0, "the withdrawn PEEK_EXPORT is answered ERR_UNSUP",
		peek_export_is_unsupported},
	{"O13", MUST, "Baseline", 0, "the payload of an unknown option is drained once",
		unknown_option_is_drained},
	{"O14", MUST, "Newstyle negotiation", 0, "a drained payload is not read as options",
		drained_data_is_not_read},
	{"O15", MUST, "Fixed newstyle negotiation", 0, "an option gets one final reply",
		one_final_reply},
	{"O16", MUST, "Termination of the session during option haggling", 0,
		"24 unknown options in a row are borne", many_errors_are_borne},
	{"O17", MUST, "Newstyle negotiation", 0, "an option's header may come byte by byte",
		header_in_pieces},
	{"O18", MUST, "Newstyle negotiation", 0, "an option's data may come byte by byte",
		data_in_pieces},
	{"O19", MUST, "Conventions", 0,
		"an error message is UTF-8 though the name asked for is not", message_is_utf8},
	{"O20", MUST, "Conventions", 0, "an error message has no NUL though the name asked for has",
		message_has_no_nul},
	{"O21", MUST, "Conventions", 0, "an error message is at most 4096 bytes",
		message_is_bounded},
	{"O22", MUST, "Conventions", 0, "a name of 4096 bytes is read and answered",
		longest_name_is_read},
	{"O23", SHOULD, "Conventions", 0, "a name does not end at a NUL", nul_does_not_end_a_name},
	{"O24", MUST, "NBD_OPT_STRUCTURED_REPLY", 0,
		"STRUCTURED_REPLY is answered ACK or ERR_UNSUP", structured_is_acknowledged},
	{"O25", SHOULD, "NBD_OPT_STRUCTURED_REPLY", STRUCTURED,
		"STRUCTURED_REPLY with a payload is answered ERR_INVALID",
		structured_with_data_is_invalid},
	{"O26", MUST, "Structured reply chunk message", STRUCTURED,
		"a refused STRUCTURED_REPLY stays without effect", refused_structured_stays_off},
	{"O27", MUST, "Fixed newstyle negotiation", STRUCTURED,
		"STRUCTURED_REPLY twice is answered ACK or ERR_INVALID and stays on",
		structured_twice},
	{"O28", MUST, "Termination of the session during option haggling", 0,
		"GO succeeds after an option that failed", error_reply_then_success},
};

const struct group options_group = {"options", "proto.md", checks, COUNT_OF(checks)};
