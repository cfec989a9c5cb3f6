#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { UNIT = 65536 };

static struct session *
open_any(struct test *t)
{
	return session_export(t, t->target->structured ? CHUNKED : COMPACT);
}

static uint64_t
at_most(const struct test *t, uint64_t length)
{
	uint64_t whole = end_of(t) / UNIT * UNIT;
	return length < whole ? length : whole;
}

/* What the client may ask for in one request with a payload. */
static uint64_t
largest_payload(const struct test *t)
{
	uint64_t payload = t->target->max_payload;
	return at_most(t, (payload < DEFAULT_PAYLOAD ? payload : DEFAULT_PAYLOAD) /
				  t->target->min_block * t->target->min_block);
}

static void
read_largest(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	expect_success(s, request(s, CMD_READ, 0, 0, largest_payload(t), NULL));
}

static void
write_largest(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t length = largest_payload(t);
	uint8_t *bytes = take_pattern(t, 60, length);
	expect_success(s, request(s, CMD_WRITE, 0, 0, length, bytes));
	expect_stored(s, 0, bytes, length);
}

static void
read_32m_is_no_attack(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r = submit(s, CMD_READ, 0, 0, DEFAULT_PAYLOAD, NULL);
	await(s, r);
	expect_sync(s);
}

static void
write_32m_is_no_attack(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r = submit(s, CMD_WRITE, 0, 0, DEFAULT_PAYLOAD, take(t, DEFAULT_PAYLOAD));
	await(s, r);
	expect_sync(s);
}

/* More than the maximum may end the connection, before a reply or after it; but what is said is to
 * be understood, and others are served. */
static void
expect_answer_or_end(struct session *s, struct reply *r)
{
	struct test *t = s->test;
	await_or_close(s, r);
	if (!r->closed)
		await_or_close(s, submit(s, CMD_READ, 0, 0, block_of(t), NULL));
	expect_sync(open_any(t));
}

static void
write_above_maximum(struct test *t)
{
	uint64_t length = (uint64_t)t->target->max_payload + UNIT;
	if (length > 2u * DEFAULT_PAYLOAD)
		skip(t, "the maximum payload is above 64 MiB");
	struct session *s = open_any(t);
	struct reply *r = submit(s, CMD_WRITE, 0, 0, length, take(t, length));
	expect_answer_or_end(s, r);
}

static void
read_above_maximum(struct test *t)
{
	uint64_t length = (uint64_t)t->target->max_payload + UNIT;
	if (length > at_most(t, 2u * DEFAULT_PAYLOAD))
		skip(t, "the export or 64 MiB is not above the maximum payload");
	struct session *s = open_any(t);
	struct reply *r = submit(s, CMD_READ, 0, 0, length, NULL);
	expect_answer_or_end(s, r);
}

/* A command without payload on a range above the maximum payload, or the largest there is. */
static struct reply *
ask_for_much(struct session *s, uint16_t type, uint16_t flags)
{
	struct test *t = s->test;
	uint64_t payload = t->target->max_payload;
	uint64_t length =
		at_most(t, payload < UINT32_MAX - UNIT ? payload + UNIT : UINT32_MAX / UNIT * UNIT);
	struct reply *r = request(s, type, flags, 0, length, NULL);
	expect(t,
		r->error == 0 || r->error == ERR_OVERFLOW || r->error == ERR_INVAL ||
			(r->error == ERR_NOTSUP && (flags & FAST_ZERO) != 0),
		"success, EOVERFLOW or EINVAL", "%s", error_name(r->error));
	if (r->length <= payload)
		expect(t, r->error == 0 || r->error == ERR_NOTSUP || type == CMD_CACHE, "success",
			"%s", error_name(r->error));
	expect_sync(s);
	return r;
}

static void
trim_much(struct test *t)
{
	ask_for_much(open_any(t), CMD_TRIM, 0);
}

static void
zero_much(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t last = at_most(t, (uint64_t)t->target->max_payload + UNIT) - UNIT;
	write_bytes(s, last, take_pattern(t, 61, UNIT), UNIT);
	if (ask_for_much(s, CMD_WRITE_ZEROES, 0)->error == 0)
		expect_stored(s, last, NULL, UNIT);
}

static void
cache_much(struct test *t)
{
	ask_for_much(open_any(t), CMD_CACHE, 0);
}

static void
status_of_much(struct test *t)
{
	ask_for_much(session_status(t, CHUNKED), CMD_BLOCK_STATUS, 0);
}

static void
fast_zero_never_overflows(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r = ask_for_much(s, CMD_WRITE_ZEROES, FAST_ZERO);
	expect(t, r->error != ERR_OVERFLOW, "no EOVERFLOW for FAST_ZERO", "EOVERFLOW");
}

/* The longest that 32 bits can say, past the end of the export unless that is huge. */
static void
ask_for_4g(struct test *t, uint16_t type)
{
	struct session *s = open_any(t);
	if (t->target->size >= UINT32_MAX)
		skip(t, "the export is above 4 GiB");
	struct reply *r = submit(s, type, 0, 0, UINT32_MAX / UNIT * UNIT, NULL);
	await(s, r);
	expect(t, r->error != 0, "an error", "success");
	expect_sync(s);
}

static void
trim_4g(struct test *t)
{
	ask_for_4g(t, CMD_TRIM);
}

static void
zero_4g(struct test *t)
{
	ask_for_4g(t, CMD_WRITE_ZEROES);
}

static void
cache_4g(struct test *t)
{
	ask_for_4g(t, CMD_CACHE);
}

static void
read_4g(struct test *t)
{
	struct session *s = open_any(t);
	if (t->target->size >= UINT32_MAX)
		skip(t, "the export is above 4 GiB");
	struct reply *r = submit(s, CMD_READ, 0, 0, UINT32_MAX, NULL);
	await_or_close(s, r);
	expect(t, r->closed || r->error != 0, "an error or a closed connection", "success");
	expect_sync(open_any(t));
}

static void
smallest_request(struct test *t)
{
	struct session *s = open_any(t);
	uint32_t block = t->target->min_block;
	for (uint64_t i = 1; i <= 4; i++)
		read_bytes(s, i * block, block);
}

static void
smallest_write(struct test *t)
{
	struct session *s = open_any(t);
	uint32_t block = t->target->min_block;
	uint8_t *bytes = take_pattern(t, 62, block);
	write_bytes(s, 3 * block, bytes, block);
	expect_stored(s, 3 * block, bytes, block);
}

static void
write_whole_area(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t area = at_most(t, 64 << 20);
	for (uint64_t offset = 0; offset < area; offset += 1 << 20) {
		uint64_t length = area - offset < 1 << 20 ? area - offset : 1 << 20;
		write_bytes(s, offset, take_pattern(t, (unsigned)(offset >> 16), length), length);
	}
	for (uint64_t offset = 0; offset < area; offset += 1 << 20) {
		uint64_t length = area - offset < 1 << 20 ? area - offset : 1 << 20;
		expect_stored(s, offset, take_pattern(t, (unsigned)(offset >> 16), length), length);
	}
}

static const struct check checks[] = {
	{"L01", MUST, "Size constraints", 0, "READ of the maximum payload succeeds", read_largest},
	{"L02", MUST, "Size constraints", WRITABLE, "WRITE of the maximum payload succeeds",
		write_largest},
	{"L03", SHOULD, "Size constraints", 0, "READ of 32 MiB is no attack",
		read_32m_is_no_attack},
	{"L04", SHOULD, "Size constraints", WRITABLE, "WRITE of 32 MiB is no attack",
		write_32m_is_no_attack},
	{"L05", MUST, "Size constraints", WRITABLE,
		"WRITE above the maximum is drained, or ends the connection", write_above_maximum},
	{"L06", MUST, "Size constraints", 0,
		"READ above the maximum is answered, or ends the connection", read_above_maximum},
	{"L07", SHOULD, "Size constraints", WRITABLE | TRIMS,
		"TRIM is not bound by the maximum payload", trim_much},
	{"L08", SHOULD, "Size constraints", WRITABLE | ZEROES,
		"WRITE_ZEROES is not bound by the maximum payload", zero_much},
	{"L09", SHOULD, "Size constraints", CACHES, "CACHE is not bound by the maximum payload",
		cache_much},
	{"L10", SHOULD, "Size constraints", META,
		"BLOCK_STATUS is not bound by the maximum payload", status_of_much},
	{"L11", SHOULD, "NBD_CMD_WRITE_ZEROES", WRITABLE | FAST_ZEROES,
		"FAST_ZERO is never EOVERFLOW", fast_zero_never_overflows},
	{"L12", SHOULD, "Size constraints", WRITABLE | TRIMS,
		"TRIM of nearly 4 GiB past the end is an error", trim_4g},
	{"L13", SHOULD, "Size constraints", WRITABLE | ZEROES,
		"WRITE_ZEROES of nearly 4 GiB past the end is an error", zero_4g},
	{"L14", SHOULD, "Size constraints", CACHES,
		"CACHE of nearly 4 GiB past the end is an error", cache_4g},
	{"L15", MUST, "Size constraints", 0, "READ of 4 GiB past the end never succeeds", read_4g},
	{"L16", MUST, "Size constraints", 0, "READ of the minimum block size succeeds",
		smallest_request},
	{"L17", MUST, "Size constraints", WRITABLE, "WRITE of the minimum block size succeeds",
		smallest_write},
	{"L18", MUST, "NBD_CMD_WRITE", WRITABLE | MEBIBYTES, "up to 64 MiB, written, are all there",
		write_whole_area},
};

const struct group limits_group = {"limits", "proto.md", checks, COUNT_OF(checks)};
