#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { UNIT = 65536, CLIENTS = 8 };

static struct session *
open_any(struct test *t)
{
	return session_export(t, t->target->structured ? CHUNKED : COMPACT);
}

/* A range that both connections have read, so that each has it in whatever cache it keeps. */
static uint8_t *
warm_up(struct session *a, struct session *b)
{
	write_bytes(a, 0, take_pattern(a->test, 110, UNIT), UNIT);
	session_flush(a);
	read_bytes(a, 0, UNIT);
	read_bytes(b, 0, UNIT);
	return take_pattern(a->test, 111 + (unsigned)(test_random(a->test) % 1000), UNIT);
}

static void
flush_shows_own_writes(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	uint8_t *bytes = warm_up(a, b);
	write_bytes(a, 0, bytes, UNIT);
	expect_success(a, request(a, CMD_FLUSH, 0, 0, 0, NULL));
	expect_stored(b, 0, bytes, UNIT);
}

static void
flush_covers_other_connections(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	uint8_t *bytes = warm_up(a, b);
	write_bytes(a, 0, bytes, UNIT);
	expect_success(b, request(b, CMD_FLUSH, 0, 0, 0, NULL));
	sent(t, "WRITE on one connection, FLUSH on another, READ there");
	expect_bytes(b, request(b, CMD_READ, 0, 0, UNIT, NULL)->data, bytes, UNIT);
}

static void
fua_write_is_seen(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	uint8_t *bytes = warm_up(a, b);
	expect_success(a, request(a, CMD_WRITE, FUA, 0, UNIT, bytes));
	expect_stored(b, 0, bytes, UNIT);
}

static void
fua_zeroes_are_seen(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	warm_up(a, b);
	expect_success(a, request(a, CMD_WRITE_ZEROES, FUA, 0, UNIT, NULL));
	expect_stored(b, 0, NULL, UNIT);
}

static void
flushed_zeroes_are_seen(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	warm_up(a, b);
	expect_success(a, request(a, CMD_WRITE_ZEROES, 0, 0, UNIT, NULL));
	expect_success(a, request(a, CMD_FLUSH, 0, 0, 0, NULL));
	expect_stored(b, 0, NULL, UNIT);
}

static void
flushed_data_outlives_connection(struct test *t)
{
	struct session *a = open_any(t);
	uint8_t *bytes = take_pattern(t, (unsigned)test_random(t), UNIT);
	write_bytes(a, 0, bytes, UNIT);
	session_flush(a);
	conn_reset(a->conn);
	expect_stored(open_any(t), 0, bytes, UNIT);
}

static void
fua_data_outlives_connection(struct test *t)
{
	struct session *a = open_any(t);
	uint8_t *bytes = take_pattern(t, (unsigned)test_random(t), UNIT);
	expect_success(a, request(a, CMD_WRITE, FUA, 0, UNIT, bytes));
	conn_reset(a->conn);
	expect_stored(open_any(t), 0, bytes, UNIT);
}

static void
data_outlives_disconnect(struct test *t)
{
	struct session *a = open_any(t);
	uint8_t *bytes = take_pattern(t, (unsigned)test_random(t), UNIT);
	write_bytes(a, 0, bytes, UNIT);
	session_disconnect(a);
	expect_stored(open_any(t), 0, bytes, UNIT);
}

static void
size_and_flags_agree(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	expect(t, a->size == b->size, "one size", "%" PRIu64 " and %" PRIu64, a->size, b->size);
	expect(t, a->flags == b->flags, "one set of flags", "%#x and %#x", a->flags, b->flags);
}

static void
writes_side_by_side(struct test *t)
{
	struct session *s[CLIENTS];
	struct reply *r[CLIENTS];
	uint8_t *bytes = take_pattern(t, 112, CLIENTS * UNIT);
	for (size_t i = 0; i < CLIENTS; i++)
		s[i] = open_any(t);
	for (size_t i = 0; i < CLIENTS; i++)
		r[i] = submit(s[i], CMD_WRITE, 0, i * UNIT, UNIT, bytes + i * UNIT);
	for (size_t i = 0; i < CLIENTS; i++) {
		await(s[i], r[i]);
		expect_success(s[i], r[i]);
		session_flush(s[i]);
	}
	for (size_t i = 0; i < CLIENTS; i++)
		expect_stored(s[i], 0, bytes, CLIENTS * UNIT);
}

/* Neighbouring small writes of two connections: neither may carry the other's old bytes along. */
static void
neighbours_do_not_tear(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	uint32_t block = block_of(t);
	uint8_t *bytes = take_pattern(t, 113, 64 * block);
	for (size_t i = 0; i < 64; i += 2) {
		struct reply *one = submit(a, CMD_WRITE, 0, i * block, block, bytes + i * block);
		struct reply *two =
			submit(b, CMD_WRITE, 0, (i + 1) * block, block, bytes + (i + 1) * block);
		await(a, one);
		await(b, two);
	}
	session_flush(a);
	session_flush(b);
	expect_stored(a, 0, bytes, 64 * block);
}

static void
status_follows_flush(struct test *t)
{
	struct session *a = open_any(t), *b = session_status(t, CHUNKED);
	write_bytes(a, 0, take(t, UNIT), UNIT);
	session_flush(a);
	request(b, CMD_BLOCK_STATUS, REQ_ONE, 0, UNIT, NULL);
	write_bytes(a, 0, take_pattern(t, 114, UNIT), UNIT);
	session_flush(a);
	struct reply *r = request(b, CMD_BLOCK_STATUS, REQ_ONE, 0, UNIT, NULL);
	expect_success(b, r);
	expect(t, r->status_count == 1 && (r->status[0].list[0].flags & STATE_ZERO) == 0,
		"what another connection wrote not to be ZERO", "ZERO");
}

static void
styles_are_per_connection(struct test *t)
{
	struct session *a = session_export(t, COMPACT), *b = session_export(t, CHUNKED);
	struct session *c = session_export(t, COMPACT);
	expect_faultless(a, request(a, CMD_READ, 0, 0, UNIT, NULL), FAULT_CHUNK);
	expect_faultless(b, request(b, CMD_READ, 0, 0, UNIT, NULL), FAULT_SIMPLE);
	expect_faultless(c, request(c, CMD_READ, 0, 0, UNIT, NULL), FAULT_CHUNK);
}

static void
contexts_are_per_connection(struct test *t)
{
	struct session *a = session_status(t, CHUNKED), *b = session_export(t, CHUNKED);
	struct reply *r = submit(b, CMD_BLOCK_STATUS, 0, 0, UNIT, NULL);
	await_or_close(b, r);
	expect(t, r->closed || r->error != 0, "BLOCK_STATUS refused without a context", "success");
	expect_success(a, request(a, CMD_BLOCK_STATUS, 0, 0, UNIT, NULL));
}

static void
disconnect_ends_one(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	struct reply *r = submit(b, CMD_READ, 0, 0, UNIT, NULL);
	session_disconnect(a);
	await(b, r);
	expect_sync(b);
}

static void
cookies_are_per_connection(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	a->next_cookie = b->next_cookie = 4711;
	struct reply *one = submit(a, CMD_READ, 0, 0, UNIT, NULL);
	struct reply *two = submit(b, CMD_READ, 0, 0, block_of(t), NULL);
	await(b, two);
	await(a, one);
	expect_success(a, one);
	expect_success(b, two);
}

static void
trimmed_is_written_again(struct test *t)
{
	struct session *a = open_any(t), *b = open_any(t);
	uint8_t *bytes = warm_up(a, b);
	expect_success(a, request(a, CMD_TRIM, 0, 0, UNIT, NULL));
	session_flush(a);
	write_bytes(b, 0, bytes, UNIT);
	session_flush(b);
	expect_stored(a, 0, bytes, UNIT);
}

static const struct check checks[] = {
	{"C01", MUST, "Transmission flags", MULTI | FLUSHES | WRITABLE,
		"after FLUSH another connection sees the writes", flush_shows_own_writes},
	{"C02", MUST, "Transmission flags", MULTI | FLUSHES | WRITABLE,
		"FLUSH covers what other connections wrote", flush_covers_other_connections},
	{"C03", MUST, "Transmission flags", MULTI | FUAS | WRITABLE,
		"WRITE with FUA is seen by another connection", fua_write_is_seen},
	{"C04", MUST, "Transmission flags", MULTI | FUAS | ZEROES | WRITABLE,
		"WRITE_ZEROES with FUA is seen by another connection", fua_zeroes_are_seen},
	{"C05", MUST, "Transmission flags", MULTI | FLUSHES | ZEROES | WRITABLE,
		"after FLUSH another connection sees WRITE_ZEROES", flushed_zeroes_are_seen},
	{"C06", MUST, "NBD_CMD_FLUSH", FLUSHES | WRITABLE, "flushed data outlives a reset",
		flushed_data_outlives_connection},
	{"C07", MUST, "Command flags", FUAS | WRITABLE, "data written with FUA outlives a reset",
		fua_data_outlives_connection},
	{"C08", MUST, "NBD_CMD_WRITE", WRITABLE, "data outlives DISC", data_outlives_disconnect},
	{"C09", MUST, "Transmission flags", MULTI, "size and flags agree between connections",
		size_and_flags_agree},
	{"C10", MUST, "Transmission flags", MULTI | WRITABLE,
		"eight connections write side by side", writes_side_by_side},
	{"C11", MUST, "Transmission flags", MULTI | WRITABLE,
		"neighbouring writes of two connections do not tear", neighbours_do_not_tear},
	{"C12", MUST, "base:allocation metadata context", MULTI | META | WRITABLE,
		"block status follows another connection's flushed writes", status_follows_flush},
	{"C13", MUST, "Structured reply chunk message", STRUCTURED,
		"structured replies are negotiated per connection", styles_are_per_connection},
	{"C14", MUST, "NBD_CMD_BLOCK_STATUS", META, "contexts are selected per connection",
		contexts_are_per_connection},
	{"C15", MUST, "Terminating the transmission phase", 0, "DISC ends its own connection alone",
		disconnect_ends_one},
	{"C16", MUST, "Transmission", 0, "cookies are per connection", cookies_are_per_connection},
	{"C17", MUST, "Transmission flags", MULTI | FLUSHES | TRIMS | WRITABLE,
		"another connection writes where one trimmed", trimmed_is_written_again},
};

const struct group coherence_group = {"coherence", "proto.md", checks, COUNT_OF(checks)};
