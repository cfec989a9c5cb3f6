#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { UNIT = 65536 };

/* The best kind of reply there is, so that a failed READ leaves the connection open. */
static struct session *
open_any(struct test *t)
{
	return session_export(t, t->target->structured ? CHUNKED : COMPACT);
}

/* A request on a range outside the export, and whether the server goes on. */
static void
expect_refused(struct test *t, uint16_t type, uint64_t offset, uint64_t length, uint32_t want)
{
	struct session *s = open_any(t);
	uint8_t *payload = type == CMD_WRITE ? take_pattern(t, 30, length) : NULL;
	struct reply *r = request(s, type, 0, offset, length, payload);
	expect(t, r->error == want, error_name(want), "%s", error_name(r->error));
	expect_sync(s);
}

/* Where a request of two blocks lies: across the end, beyond it, or wrapping around 2^64. */
static uint64_t
across(const struct test *t)
{
	return end_of(t) - block_of(t);
}

static uint64_t
beyond(const struct test *t)
{
	return end_of(t) + UNIT;
}

static uint64_t
wrapping(const struct test *t)
{
	return UINT64_MAX - block_of(t) + 1;
}

static void
read_across(struct test *t)
{
	expect_refused(t, CMD_READ, across(t), 2 * block_of(t), ERR_INVAL);
}

static void
read_beyond(struct test *t)
{
	expect_refused(t, CMD_READ, beyond(t), block_of(t), ERR_INVAL);
}

static void
read_wrapping(struct test *t)
{
	expect_refused(t, CMD_READ, wrapping(t), 2 * block_of(t), ERR_INVAL);
}

static void
write_across(struct test *t)
{
	expect_refused(t, CMD_WRITE, across(t), 2 * block_of(t), ERR_NOSPC);
}

static void
write_beyond(struct test *t)
{
	expect_refused(t, CMD_WRITE, beyond(t), block_of(t), ERR_NOSPC);
}

/* A range that wraps may end the connection; whatever it does, a stored block must stay as it is.
 */
static void
expect_untouched(struct test *t, uint16_t type, uint64_t offset, uint64_t kept)
{
	struct session *s = open_any(t);
	uint32_t block = block_of(t);
	uint8_t *bytes = take_pattern(t, 31, block);
	uint8_t *other = type == CMD_WRITE ? take_pattern(t, 32, 2 * block) : NULL;
	write_bytes(s, kept, bytes, block);
	session_flush(s);
	struct reply *r = submit(s, type, 0, offset, 2 * block, other);
	await_or_close(s, r);
	expect(t, r->closed || r->error != 0, "an error", "success");
	expect_stored(open_any(t), kept, bytes, block);
}

static void
write_wrapping(struct test *t)
{
	expect_untouched(t, CMD_WRITE, wrapping(t), 0);
}

static void
zeroes_across(struct test *t)
{
	expect_refused(t, CMD_WRITE_ZEROES, across(t), 2 * block_of(t), ERR_NOSPC);
}

static void
zeroes_beyond(struct test *t)
{
	expect_refused(t, CMD_WRITE_ZEROES, beyond(t), block_of(t), ERR_NOSPC);
}

static void
zeroes_wrapping(struct test *t)
{
	expect_untouched(t, CMD_WRITE_ZEROES, wrapping(t), 0);
}

static void
trim_across(struct test *t)
{
	expect_refused(t, CMD_TRIM, across(t), 2 * block_of(t), ERR_INVAL);
}

static void
trim_beyond(struct test *t)
{
	expect_refused(t, CMD_TRIM, beyond(t), block_of(t), ERR_INVAL);
}

static void
trim_wrapping(struct test *t)
{
	expect_untouched(t, CMD_TRIM, wrapping(t), 0);
}

static void
cache_across(struct test *t)
{
	expect_refused(t, CMD_CACHE, across(t), 2 * block_of(t), ERR_INVAL);
}

static void
refused_write_alters_nothing_else(struct test *t)
{
	expect_untouched(t, CMD_WRITE, across(t), across(t) - block_of(t));
}

static void
unknown_command(struct test *t)
{
	static const uint16_t commands[] = {9, 0xff, CMD_UNKNOWN, 0xffff};
	struct session *s = open_any(t);
	for (size_t i = 0; i < COUNT_OF(commands); i++)
		request_expect(s, commands[i], 0, 0, 0, ERR_INVAL);
}

static void
unknown_command_has_no_payload(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r = request(s, CMD_UNKNOWN, 0, 0, UNIT, NULL);
	expect(t, r->error != 0, "an error", "success");
	expect_sync(s);
}

static void
refused_write_is_drained(struct test *t)
{
	struct session *s = open_any(t);
	uint8_t *bytes = take_pattern(t, 37, 4 * UNIT);
	struct reply *r = submit(s, CMD_WRITE, 0, beyond(t), 4 * UNIT, bytes);
	await(s, r);
	expect(t, r->error != 0, "an error", "success");
	expect_sync(s);
}

/* The payload holds requests; drained, they are not carried out. */
static void
drained_payload_is_not_read(struct test *t)
{
	struct session *s = open_any(t);
	uint8_t *payload = take(t, UNIT), header[32];
	for (size_t at = 0; at + 28 <= UNIT; at += 28)
		memcpy(payload + at, header, build_request(s, header, CMD_FLUSH, 0, 99, 0, 0));
	struct reply *r = request(s, CMD_WRITE, 0, beyond(t), UNIT, payload);
	expect(t, r->error != 0, "an error", "success");
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "one reply", "more");
	expect_sync(s);
}

static void
errors_are_listed(struct test *t)
{
	static const uint16_t commands[] = {CMD_READ, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES,
		CMD_BLOCK_STATUS, CMD_RESIZE, CMD_UNKNOWN};
	struct session *s = open_any(t);
	for (size_t i = 0; i < COUNT_OF(commands); i++) {
		struct reply *r = request_wrong(s, commands[i], 0, beyond(t), UNIT);
		expect(t, r->error == 0 || error_is_listed(r->error), "one of the listed errors",
			"%s", error_name(r->error));
	}
}

static void
no_enotsup(struct test *t)
{
	static const uint16_t commands[] = {CMD_READ, CMD_TRIM, CMD_CACHE, CMD_FLUSH,
		CMD_BLOCK_STATUS, CMD_WRITE_ZEROES, CMD_RESIZE, CMD_UNKNOWN};
	struct session *s = open_any(t);
	for (size_t i = 0; i < COUNT_OF(commands); i++) {
		struct reply *r = request_wrong(s, commands[i], 0, beyond(t), UNIT);
		expect(t, r->error != ERR_NOTSUP, "ENOTSUP for FAST_ZERO alone", "%s: ENOTSUP",
			command_name(commands[i]));
	}
}

static void
no_eoverflow(struct test *t)
{
	struct session *s = open_any(t);
	static const uint16_t commands[] = {CMD_READ, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES};
	for (size_t i = 0; i < COUNT_OF(commands); i++) {
		struct reply *r = request_wrong(s, commands[i], 0, beyond(t), block_of(t));
		expect(t, r->error != ERR_OVERFLOW, "no EOVERFLOW for a small request",
			"%s: EOVERFLOW", command_name(commands[i]));
	}
}

static void
unoffered_trim(struct test *t)
{
	struct session *s = open_any(t);
	if (s->flags & SEND_TRIM)
		skip(t, "TRIM is offered");
	request_expect(s, CMD_TRIM, 0, 0, UNIT, ERR_INVAL);
}

static void
flush_of_a_range(struct test *t)
{
	struct session *s = open_any(t);
	await(s, submit(s, CMD_FLUSH, 0, 4096, 4096, NULL));
	expect_sync(s);
}

static void
unaligned_read(struct test *t)
{
	struct session *s = open_any(t);
	request_expect(s, CMD_READ, 0, 1, t->target->min_block, ERR_INVAL);
	expect_sync(s);
}

static void
unaligned_write(struct test *t)
{
	struct session *s = open_any(t);
	uint32_t block = t->target->min_block;
	struct reply *r = request(s, CMD_WRITE, 0, 1, block, take_pattern(t, 38, block));
	expect_error(s, r, ERR_INVAL);
	expect_sync(s);
}

static void
unaligned_length(struct test *t)
{
	struct session *s = open_any(t);
	request_expect(s, CMD_READ, 0, 0, t->target->min_block + 1, ERR_INVAL);
	expect_sync(s);
}

/* Read-only exports */

static void
read_only_write_is_an_error(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r = request(s, CMD_WRITE, 0, 0, UNIT, take_pattern(t, 39, UNIT));
	expect(t, r->error != 0, "an error", "success");
	expect_sync(s);
}

static void
read_only_write_is_eperm(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r = request(s, CMD_WRITE, 0, 0, UNIT, take_pattern(t, 39, UNIT));
	expect_error(s, r, ERR_PERM);
}

static void
read_only_trim_is_eperm(struct test *t)
{
	struct session *s = open_any(t);
	if ((s->flags & SEND_TRIM) == 0)
		skip(t, "TRIM is not offered");
	request_expect(s, CMD_TRIM, 0, 0, UNIT, ERR_PERM);
}

static void
read_only_zeroes_are_eperm(struct test *t)
{
	struct session *s = open_any(t);
	if ((s->flags & SEND_WRITE_ZEROES) == 0)
		skip(t, "WRITE_ZEROES is not offered");
	request_expect(s, CMD_WRITE_ZEROES, 0, 0, UNIT, ERR_PERM);
}

static void
read_only_stays_as_it_is(struct test *t)
{
	struct session *s = open_any(t);
	uint8_t *before = read_bytes(s, 0, UNIT);
	request(s, CMD_WRITE, 0, 0, UNIT, take_pattern(t, 40, UNIT));
	expect_stored(s, 0, before, UNIT);
	request(s, CMD_WRITE_ZEROES, 0, 0, UNIT, NULL);
	request(s, CMD_TRIM, 0, 0, UNIT, NULL);
	expect_stored(s, 0, before, UNIT);
}

static const struct check checks[] = {
	{"E01", SHOULD, "Error values", 0, "READ across the end is EINVAL", read_across},
	{"E02", SHOULD, "Error values", 0, "READ beyond the end is EINVAL", read_beyond},
	{"E03", SHOULD, "Error values", 0, "READ that wraps around 2^64 is EINVAL", read_wrapping},
	{"E04", SHOULD, "Error values", WRITABLE, "WRITE across the end is ENOSPC", write_across},
	{"E05", SHOULD, "Error values", WRITABLE, "WRITE beyond the end is ENOSPC", write_beyond},
	{"E06", MUST, "Size constraints", WRITABLE, "WRITE that wraps around 2^64 writes nothing",
		write_wrapping},
	{"E07", SHOULD, "NBD_CMD_WRITE_ZEROES", WRITABLE | ZEROES,
		"WRITE_ZEROES across the end is ENOSPC", zeroes_across},
	{"E08", SHOULD, "NBD_CMD_WRITE_ZEROES", WRITABLE | ZEROES,
		"WRITE_ZEROES beyond the end is ENOSPC", zeroes_beyond},
	{"E09", MUST, "Size constraints", WRITABLE | ZEROES,
		"WRITE_ZEROES that wraps around 2^64 zeroes nothing", zeroes_wrapping},
	{"E10", SHOULD, "Error values", WRITABLE | TRIMS, "TRIM across the end is EINVAL",
		trim_across},
	{"E11", SHOULD, "Error values", WRITABLE | TRIMS, "TRIM beyond the end is EINVAL",
		trim_beyond},
	{"E12", MUST, "Size constraints", WRITABLE | TRIMS,
		"TRIM that wraps around 2^64 trims nothing", trim_wrapping},
	{"E13", SHOULD, "Size constraints", CACHES, "CACHE across the end is EINVAL", cache_across},
	{"E14", MUST, "Size constraints", WRITABLE,
		"a refused WRITE leaves the block before it alone",
		refused_write_alters_nothing_else},
	{"E15", SHOULD, "Error values", 0, "an unknown command is EINVAL", unknown_command},
	{"E16", SHOULD, "Request message", 0, "an unknown command has no payload",
		unknown_command_has_no_payload},
	{"E17", SHOULD, "Request message", WRITABLE,
		"the payload of a refused WRITE is drained once", refused_write_is_drained},
	{"E18", SHOULD, "Request message", WRITABLE, "a drained payload is not read as requests",
		drained_payload_is_not_read},
	{"E19", MUST, "Error values", WRITABLE, "errors are of the listed values",
		errors_are_listed},
	{"E20", SHOULD, "Error values", WRITABLE, "ENOTSUP is for FAST_ZERO alone", no_enotsup},
	{"E21", SHOULD, "Error values", WRITABLE, "EOVERFLOW is not for small requests",
		no_eoverflow},
	{"E22", SHOULD, "Error values", WRITABLE, "TRIM that is not offered is EINVAL",
		unoffered_trim},
	{"E23", SHOULD, "NBD_CMD_FLUSH", FLUSHES, "FLUSH with a range is answered",
		flush_of_a_range},
	{"E24", SHOULD, "Error values", BLOCKS, "an unaligned READ is EINVAL", unaligned_read},
	{"E25", SHOULD, "Error values", BLOCKS | WRITABLE,
		"an unaligned WRITE is EINVAL, and drained", unaligned_write},
	{"E26", SHOULD, "Size constraints", BLOCKS, "an unaligned length is EINVAL",
		unaligned_length},
	{"E27", MUST, "Transmission flags", READONLY,
		"WRITE on a read-only export is an error, and drained",
		read_only_write_is_an_error},
	{"E28", SHOULD, "Error values", READONLY, "WRITE on a read-only export is EPERM",
		read_only_write_is_eperm},
	{"E29", SHOULD, "Error values", READONLY, "TRIM on a read-only export is EPERM",
		read_only_trim_is_eperm},
	{"E30", SHOULD, "NBD_CMD_WRITE_ZEROES", READONLY,
		"WRITE_ZEROES on a read-only export is EPERM", read_only_zeroes_are_eperm},
	{"E31", MUST, "Transmission flags", READONLY, "a read-only export stays as it is",
		read_only_stays_as_it_is},
};

const struct group errors_group = {"errors", "proto.md", checks, COUNT_OF(checks)};
