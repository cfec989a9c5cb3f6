#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/*
 * Input that no client sends. The document lets a server close the connection it comes on, and no
 * other: "The client and the server MUST NOT initiate any form of disconnect other than in one of
 * the above circumstances". So each check has a bystander, whose requests must be answered
 * afterwards, and new clients must be served.
 */
enum { UNIT = 65536, CROWD = 24, ANNOUNCED = 12 };

static struct session *
open_any(struct test *t)
{
	return session_export(t, t->target->structured ? CHUNKED : COMPACT);
}

static void
expect_unharmed(struct session *bystander)
{
	char before[sizeof bystander->test->sent];
	struct test *t = bystander->test;
	memcpy(before, t->sent, sizeof before);
	/* A server that dies of it needs a moment to. */
	(void)conn_is_quiet(bystander->conn, QUIET_MS);
	struct reply *r = submit(bystander, CMD_READ, 0, 0, block_of(t), NULL);
	await_or_close(bystander, r);
	sent(t, "%s", before);
	if (!r->done || r->error != 0)
		fail(t, "another client's READ to be answered", "%s",
			r->closed ? "its connection was closed" : error_name(r->error));
	struct session *fresh = open_any(t);
	expect_sync(fresh);
	conn_close(fresh->conn);
	sent(t, "%s", before);
}

/* Sends an option's bytes as they are and waits for an error or the end; success is wrong. */
static void
send_bad_option(struct test *t, uint32_t option, uint32_t told, const void *data, size_t length)
{
	struct session *bystander = open_any(t), *s = session_open(t);
	uint8_t header[16];
	put32(put32(put64(header, IHAVEOPT), option), told);
	conn_write(s->conn, header, sizeof header);
	conn_write(s->conn, data, length);
	sent(t, "option %s that announces %" PRIu32 " bytes, %zu of them", option_name(option),
		told, length);
	if (!conn_is_quiet(s->conn, QUIET_MS)) {
		struct option_reply reply;
		if (option_read(s, option, &reply))
			expect(t, (reply.type & REP_ERROR) != 0, "an error or a closed connection",
				"%s", reply_name(reply.type));
	}
	conn_close(s->conn);
	expect_unharmed(bystander);
}

static void
huge_unknown_option(struct test *t)
{
	send_bad_option(t, OPT_UNKNOWN, UINT32_MAX, "x", 1);
}

static void
huge_export_name(struct test *t)
{
	send_bad_option(t, OPT_EXPORT_NAME, UINT32_MAX, "x", 1);
}

static void
huge_list(struct test *t)
{
	send_bad_option(t, OPT_LIST, 0x7fffffff, "x", 1);
}

/* name length + 6 wraps around 2^32 to fit the data. */
static void
wrapping_name_length(struct test *t)
{
	uint8_t data[10] = {0};
	put32(data, UINT32_MAX - 1);
	send_bad_option(t, OPT_INFO, sizeof data, data, sizeof data);
}

static void
wrapping_query_length(struct test *t)
{
	struct query q =
		query_contexts(t, t->target->uri.export_name, 1, (const char *[]){"base:x"});
	put32(q.data + q.length - 10, UINT32_MAX - 3);
	struct session *bystander = open_any(t), *s = session_open(t);
	option_try(s, OPT_STRUCTURED_REPLY, NULL, 0);
	uint32_t type = option_try(s, OPT_SET_META_CONTEXT, q.data, q.length);
	expect(t, type == 0 || (type & REP_ERROR) != 0, "an error or a closed connection", "%s",
		reply_name(type));
	expect_unharmed(bystander);
}

static void
countless_queries(struct test *t)
{
	struct query q = query_contexts(t, t->target->uri.export_name, 0, NULL);
	put32(q.data + q.length - 4, UINT32_MAX);
	struct session *bystander = open_any(t), *s = session_open(t);
	option_try(s, OPT_STRUCTURED_REPLY, NULL, 0);
	uint32_t type = option_try(s, OPT_LIST_META_CONTEXT, q.data, q.length);
	expect(t, type == 0 || (type & REP_ERROR) != 0, "an error or a closed connection", "%s",
		reply_name(type));
	expect_unharmed(bystander);
}

static void
countless_requests(struct test *t)
{
	struct query q = query_export(t, t->target->uri.export_name, 0, NULL);
	put16(q.data + q.length - 2, UINT16_MAX);
	send_bad_option(t, OPT_INFO, (uint32_t)q.length, q.data, q.length);
}

static void
wrong_option_magic(struct test *t)
{
	struct session *bystander = open_any(t), *s = session_open(t);
	uint8_t header[16];
	put32(put32(put64(header, IHAVEOPT ^ 1), OPT_LIST), 0);
	conn_write(s->conn, header, sizeof header);
	sent(t, "LIST with a wrong magic");
	if (!conn_is_quiet(s->conn, QUIET_MS)) {
		struct option_reply reply;
		if (option_read(s, OPT_LIST, &reply))
			expect(t, (reply.type & REP_ERROR) != 0, "an error or a closed connection",
				"%s", reply_name(reply.type));
	}
	expect_unharmed(bystander);
}

static void
format_strings(struct test *t)
{
	static const char name[] = "%s%n%s%n%x%1000000d";
	struct session *bystander = open_any(t), *s = session_open(t);
	struct query q = query_export(t, name, 0, NULL);
	if (option_try(s, OPT_INFO, q.data, q.length) == REP_ACK)
		skip(t, "the server has an export of every name");
	expect_unharmed(bystander);
}

static void
long_payload_of_unknown_option(struct test *t)
{
	struct session *bystander = open_any(t), *s = session_open(t);
	uint8_t *data = take_pattern(t, 120, 1 << 20);
	uint32_t type = option_try(s, OPT_UNKNOWN, data, 1 << 20);
	expect(t, type == 0 || (type & REP_ERROR) != 0, "an error or a closed connection", "%s",
		reply_name(type));
	if (type != 0)
		option_expect_sync(s);
	expect_unharmed(bystander);
}

/* Hanging up */

static void
hang_up_in_negotiation(struct test *t)
{
	struct session *bystander = open_any(t);
	uint8_t message[64];
	struct query q = query_export(t, "", 1, (uint16_t[]){INFO_BLOCK_SIZE});
	uint8_t *end = put32(message, FIXED_NEWSTYLE);
	end = put32(put32(put64(end, IHAVEOPT), OPT_INFO), (uint32_t)q.length);
	end = put_bytes(end, q.data, q.length);
	for (size_t length = 0; length <= (size_t)(end - message); length++) {
		struct session *s = session_connect(t);
		session_greet(s);
		conn_write(s->conn, message, length);
		if (length % 2)
			conn_reset(s->conn);
		else
			conn_close(s->conn);
	}
	sent(t, "client flags and INFO, cut off after each byte");
	expect_unharmed(bystander);
}

static void
hang_up_in_requests(struct test *t)
{
	struct session *bystander = open_any(t);
	uint8_t header[32];
	for (size_t length = 1; length < 28; length += 3) {
		struct session *s = open_any(t);
		size_t n = build_request(s, header, CMD_READ, 0, 1, 0, UNIT);
		conn_write(s->conn, header, length < n ? length : n);
		if (length % 2)
			conn_reset(s->conn);
		else
			conn_close(s->conn);
	}
	sent(t, "a READ, cut off after each third byte");
	expect_unharmed(bystander);
}

static void
reset_with_reads_in_flight(struct test *t)
{
	struct session *bystander = open_any(t);
	for (int i = 0; i < 8; i++) {
		struct session *s = open_any(t);
		for (int j = 0; j < 16; j++)
			submit(s, CMD_READ, 0, 0, 1 << 19, NULL);
		conn_reset(s->conn);
	}
	sent(t, "16 READs of 512 KiB, then a reset; eight times");
	expect_unharmed(bystander);
}

static void
reset_in_a_payload(struct test *t)
{
	struct session *bystander = open_any(t);
	uint8_t *bytes = take_pattern(t, 121, 1 << 20), header[32];
	for (size_t length = 1; length < 1 << 20; length = length * 5 + 1) {
		struct session *s = open_any(t);
		conn_write(s->conn, header, build_request(s, header, CMD_WRITE, 0, 1, 0, 1 << 20));
		conn_write(s->conn, bytes, length);
		conn_reset(s->conn);
	}
	sent(t, "WRITEs of 1 MiB, reset in the middle of the payload");
	expect_unharmed(bystander);
}

static void
hang_up_during_reply(struct test *t)
{
	struct session *bystander = open_any(t);
	for (int i = 0; i < 8; i++) {
		struct session *s = open_any(t);
		submit(s, CMD_READ, 0, 0, 1 << 20, NULL);
		uint8_t some[16];
		conn_read(s->conn, some, sizeof some);
		conn_close(s->conn);
	}
	sent(t, "READs of 1 MiB, closed after 16 bytes of the reply");
	expect_unharmed(bystander);
}

/* Requests */

/* Bytes in the transmission phase that are no request: no answer but an error. */
static void
send_nonsense(struct test *t, const uint8_t *bytes, size_t length, const char *what)
{
	struct session *bystander = open_any(t), *s = session_export(t, COMPACT);
	conn_write(s->conn, bytes, length);
	sent(t, "%s", what);
	if (!conn_is_quiet(s->conn, QUIET_MS)) {
		uint8_t reply[16];
		if (conn_read(s->conn, reply, sizeof reply))
			expect(t, get32(reply) == SIMPLE_MAGIC && get32(reply + 4) != 0,
				"an error or a closed connection", "%#" PRIx32 ", %s", get32(reply),
				error_name(get32(reply + 4)));
	}
	conn_close(s->conn);
	expect_unharmed(bystander);
}

static void
send_magic(struct test *t, uint32_t magic, const char *what)
{
	uint8_t header[32] = {0};
	put32(put64(put64(put16(put16(put32(header, magic), 0), CMD_READ), 1), 0), SECTOR);
	send_nonsense(t, header, 28, what);
}

static void
wrong_request_magic(struct test *t)
{
	send_magic(t, REQUEST_MAGIC ^ 0x100, "a READ with a wrong magic");
}

static void
historic_magic(struct test *t)
{
	send_magic(t, 0x12560953, "a READ with the magic of Linux 2.1");
}

static void
extended_magic(struct test *t)
{
	send_magic(t, EXT_REQUEST_MAGIC, "a READ with the extended magic");
}

static void
options_in_transmission(struct test *t)
{
	uint8_t option[28] = {0};
	put32(put32(put64(option, IHAVEOPT), OPT_LIST), 0);
	send_nonsense(t, option, sizeof option, "LIST in the transmission phase");
}

static void
wrong_magic_writes_nothing(struct test *t)
{
	struct session *s = open_any(t), *other = open_any(t);
	uint8_t *bytes = take_pattern(t, 122, UNIT), header[32];
	write_bytes(s, 0, bytes, UNIT);
	session_flush(s);
	build_request(other, header, CMD_WRITE, 0, 1, 0, UNIT);
	put32(header, REQUEST_MAGIC ^ 0x8000);
	conn_write(other->conn, header, 28);
	conn_write(other->conn, take_pattern(t, 123, UNIT), UNIT);
	conn_close(other->conn);
	expect_stored(s, 0, bytes, UNIT);
	expect_unharmed(s);
}

static void
huge_write(struct test *t)
{
	struct session *bystander = open_any(t), *s = open_any(t);
	uint8_t header[32];
	conn_write(s->conn, header, build_request(s, header, CMD_WRITE, 0, 1, 0, UINT32_MAX));
	conn_write(s->conn, take(t, UNIT), UNIT);
	sent(t, "a WRITE that announces 4 GiB, 64 KiB of them");
	conn_is_quiet(s->conn, QUIET_MS);
	expect_unharmed(bystander);
}

static void
nonsense_after_disconnect(struct test *t)
{
	struct session *bystander = open_any(t), *s = open_any(t);
	uint8_t bytes[32 + 512];
	size_t n = build_request(s, bytes, CMD_DISC, 0, 0, 0, 0);
	memset(bytes + n, 0xdb, sizeof bytes - n);
	conn_write(s->conn, bytes, sizeof bytes);
	sent(t, "DISC and 512 bytes of nonsense");
	expect(t, conn_ends(s->conn), "a closed connection", "an answer");
	expect_unharmed(bystander);
}

static void
equal_cookies(struct test *t)
{
	struct session *bystander = open_any(t), *s = session_export(t, COMPACT);
	for (int i = 0; i < 8; i++) {
		s->next_cookie = 42;
		submit(s, CMD_READ, 0, 0, block_of(t), NULL);
	}
	for (struct reply *r; (r = LIST_FIRST(&s->pending)) != NULL;)
		await(s, r);
	expect_unharmed(bystander);
}

/* Crowds */

static void
silent_crowd(struct test *t)
{
	struct session *bystander = open_any(t);
	for (int i = 0; i < CROWD; i++)
		session_connect(t);
	sent(t, "%d connections that say nothing", CROWD);
	expect_unharmed(bystander);
}

static void
half_way_crowd(struct test *t)
{
	struct session *bystander = open_any(t);
	uint8_t part[10];
	put16(put64(part, IHAVEOPT), 0);
	for (int i = 0; i < CROWD; i++)
		conn_write(session_open(t)->conn, part, sizeof part);
	sent(t, "%d connections that stop within an option", CROWD);
	expect_unharmed(bystander);
}

static void
greedy_reader(struct test *t)
{
	struct session *bystander = open_any(t), *s = open_any(t);
	uint8_t header[32];
	for (uint64_t i = 0; i < 128; i++) {
		size_t n = build_request(s, header, CMD_READ, 0, i, 0, 1 << 20);
		conn_write(s->conn, header, n);
	}
	sent(t, "128 READs of 1 MiB whose replies nobody reads");
	expect_unharmed(bystander);
}

/* The resident bytes of the server's process, 0 if that cannot be known. */
static uint64_t
resident_bytes(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
	FILE *file = pid > 0 ? fopen(path, "re") : NULL;
	unsigned long long total, resident = 0;
	if (file != NULL) {
		if (fscanf(file, "%llu %llu", &total, &resident) != 2)
			resident = 0;
		fclose(file);
	}
	return resident * 4096;
}

static void
announced_writes(struct test *t)
{
	struct session *bystander = open_any(t);
	uint64_t most =
		t->target->max_payload < DEFAULT_PAYLOAD ? t->target->max_payload : DEFAULT_PAYLOAD;
	uint64_t length = most < end_of(t) ? most : end_of(t);
	length -= length % t->target->min_block;
	uint64_t before = resident_bytes(conn_peer(bystander->conn));
	uint8_t header[32];
	for (int i = 0; i < ANNOUNCED; i++) {
		struct session *s = open_any(t);
		conn_write(s->conn, header, build_request(s, header, CMD_WRITE, 0, 1, 0, length));
		conn_write(s->conn, "payload", 7);
	}
	sent(t, "%d WRITEs of %" PRIu64 " bytes, 7 of them each", ANNOUNCED, length);
	conn_is_quiet(bystander->conn, QUIET_MS);
	expect_unharmed(bystander);
	uint64_t after = resident_bytes(conn_peer(bystander->conn));
	prefer(t, before == 0 || after < before + ANNOUNCED * length / 2,
		"memory as payload arrives, not as it is announced",
		"%" PRIu64 " MiB more for %" PRIu64 " MiB announced", (after - before) >> 20,
		ANNOUNCED * length >> 20);
}

/* Random bytes; --seed repeats them */

static void
random_bytes(struct test *t)
{
	struct session *bystander = open_any(t);
	for (int i = 0; i < 32; i++) {
		struct session *s = i % 2 ? session_connect(t) : session_open(t);
		uint8_t bytes[512];
		for (size_t j = 0; j < sizeof bytes; j += 8)
			put64(bytes + j, test_random(t));
		conn_write(s->conn, bytes, sizeof bytes);
		conn_close(s->conn);
	}
	sent(t, "32 times 512 random bytes");
	expect_unharmed(bystander);
}

static void
random_options(struct test *t)
{
	struct session *bystander = open_any(t);
	for (int i = 0; i < 24; i++) {
		struct session *s = session_open(t);
		for (int j = 0; j < 8; j++) {
			uint8_t option[16 + 64];
			uint32_t length = (uint32_t)(test_random(t) % 64);
			uint32_t number = 2 + (uint32_t)(test_random(t) % 10);
			put32(put32(put64(option, IHAVEOPT), number == OPT_STARTTLS ? 0 : number),
				length);
			for (size_t k = 0; k < 64; k++)
				option[16 + k] = (uint8_t)(test_random(t) % 4 ? 0 : test_random(t));
			conn_write(s->conn, option, 16 + length);
		}
		conn_close(s->conn);
	}
	sent(t, "24 sessions of 8 options with random data");
	expect_unharmed(bystander);
}

static void
random_requests(struct test *t)
{
	static const uint16_t commands[] = {
		CMD_READ, CMD_FLUSH, CMD_CACHE, CMD_BLOCK_STATUS, 9, 200};
	struct session *bystander = open_any(t);
	for (int i = 0; i < 16; i++) {
		struct session *s = open_any(t);
		for (int j = 0; j < 16; j++) {
			uint8_t header[32];
			uint16_t type = commands[test_random(t) % COUNT_OF(commands)];
			uint64_t offset = test_random(t) >> (test_random(t) % 64);
			uint32_t length = (uint32_t)(test_random(t) >> (32 + test_random(t) % 32));
			size_t n = build_request(s, header, type, (uint16_t)test_random(t),
				test_random(t), offset, length);
			conn_write(s->conn, header, n);
		}
		conn_reset(s->conn);
	}
	sent(t, "16 sessions of 16 random requests");
	expect_unharmed(bystander);
}

static const struct check checks[] = {
	{"Z01", MUST, "Terminating the transmission phase", 0,
		"an unknown option that announces 4 GiB harms nobody else", huge_unknown_option},
	{"Z02", MUST, "Terminating the transmission phase", PLAIN,
		"EXPORT_NAME that announces 4 GiB harms nobody else", huge_export_name},
	{"Z03", MUST, "Terminating the transmission phase", 0,
		"LIST that announces 2 GiB harms nobody else", huge_list},
	{"Z04", MUST, "NBD_OPT_INFO", 0, "a name length that wraps is refused",
		wrapping_name_length},
	{"Z05", MUST, "NBD_OPT_SET_META_CONTEXT", 0, "a query length that wraps is refused",
		wrapping_query_length},
	{"Z06", MUST, "NBD_OPT_LIST_META_CONTEXT", 0, "2^32 queries without data are refused",
		countless_queries},
	{"Z07", MUST, "NBD_OPT_INFO", 0, "65535 information requests without data are refused",
		countless_requests},
	{"Z08", MUST, "Newstyle negotiation", 0, "a wrong option magic is not an option",
		wrong_option_magic},
	{"Z09", MUST, "Conventions", 0, "a name of format directives is a name", format_strings},
	{"Z10", MUST, "Baseline", 0,
		"1 MiB of data with an unknown option is drained, or ends the session",
		long_payload_of_unknown_option},
	{"Z11", MUST, "Terminating the transmission phase", 0,
		"a client that hangs up at any byte of the negotiation harms nobody",
		hang_up_in_negotiation},
	{"Z12", MUST, "Terminating the transmission phase", 0,
		"a client that hangs up within a request harms nobody", hang_up_in_requests},
	{"Z13", MUST, "Terminating the transmission phase", 0,
		"a reset with READs in flight harms nobody", reset_with_reads_in_flight},
	{"Z14", MUST, "Terminating the transmission phase", WRITABLE,
		"a reset within a payload harms nobody", reset_in_a_payload},
	{"Z15", MUST, "Terminating the transmission phase", 0,
		"a client that hangs up within a reply harms nobody", hang_up_during_reply},
	{"Z16", MUST, "Request message", 0, "a wrong request magic is not a request",
		wrong_request_magic},
	{"Z17", MUST, "Reserved Magic values", 0, "the historic request magic is not a request",
		historic_magic},
	{"Z18", MUST, "Reserved Magic values", 0,
		"the extended magic is not a request unless negotiated", extended_magic},
	{"Z19", MUST, "NBD_OPT_GO", 0, "options are not read in the transmission phase",
		options_in_transmission},
	{"Z20", MUST, "Request message", WRITABLE, "a WRITE with a wrong magic writes nothing",
		wrong_magic_writes_nothing},
	{"Z21", MUST, "Size constraints", WRITABLE,
		"a WRITE that announces 4 GiB harms nobody else", huge_write},
	{"Z22", MUST, "NBD_CMD_DISC", 0, "nonsense after DISC is not answered",
		nonsense_after_disconnect},
	{"Z23", MUST, "Transmission", 0, "equal cookies in flight are all answered", equal_cookies},
	{"Z24", MUST, "Terminating the transmission phase", 0, "24 silent connections harm nobody",
		silent_crowd},
	{"Z25", MUST, "Terminating the transmission phase", 0,
		"24 connections that stop within an option harm nobody", half_way_crowd},
	{"Z26", MUST, "Terminating the transmission phase", 0,
		"a client that reads no replies harms nobody", greedy_reader},
	{"Z27", MUST, "Size constraints", WRITABLE,
		"announced payloads harm nobody, and take no memory before they come",
		announced_writes},
	{"Z28", MUST, "Terminating the transmission phase", 0, "random bytes harm nobody",
		random_bytes},
	{"Z29", MUST, "Terminating the transmission phase", 0, "random options harm nobody",
		random_options},
	{"Z30", MUST, "Terminating the transmission phase", 0, "random requests harm nobody",
		random_requests},
};

const struct group hostile_group = {"hostile", "proto.md", checks, COUNT_OF(checks)};
