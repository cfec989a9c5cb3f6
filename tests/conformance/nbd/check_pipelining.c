#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { DEPTH = 64, UNIT = 4096, MIB = 1 << 20 };

/* DEPTH units can lie side by side in the first 512 KiB whatever the minimum block size: 65536 at
 * most means 8 of them, so positions repeat beyond that. */
static uint64_t
unit_of(const struct test *t)
{
	return t->target->min_block > UNIT ? t->target->min_block : UNIT;
}

static uint64_t
place(const struct test *t, size_t i)
{
	return i * unit_of(t) % MIB;
}

static struct session *
open_any(struct test *t)
{
	return session_export(t, t->target->structured ? CHUNKED : COMPACT);
}

static void
finish_all(struct session *s, struct reply *const *r, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		await(s, r[i]);
		expect_success(s, r[i]);
	}
}

static void
read_many(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	struct reply *r[DEPTH];
	for (size_t i = 0; i < DEPTH; i++)
		r[i] = submit(s, CMD_READ, 0, place(t, i), unit_of(t), NULL);
	finish_all(s, r, DEPTH);
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "one reply each", "more bytes");
}

static void
write_many(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t unit = unit_of(t);
	size_t count = MIB / unit < DEPTH ? MIB / unit : DEPTH;
	uint8_t *bytes = take_pattern(t, 70, DEPTH * unit);
	struct reply *r[DEPTH];
	for (size_t i = 0; i < count; i++)
		r[i] = submit(s, CMD_WRITE, 0, i * unit, unit, bytes + i * unit);
	finish_all(s, r, count);
	expect_stored(s, 0, bytes, count * unit);
}

static void
lengths_belong_to_cookies(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *bytes = read_bytes(s, 0, MIB / 2);
	struct reply *r[DEPTH];
	for (size_t i = 0; i < DEPTH; i++)
		r[i] = submit(s, CMD_READ, 0, 0, unit_of(t) * (1 + i * 7 % 8), NULL);
	finish_all(s, r, DEPTH);
	for (size_t i = 0; i < DEPTH; i++)
		expect_bytes(s, r[i]->data, bytes, r[i]->length < MIB / 2 ? r[i]->length : MIB / 2);
}

static void
mixed_commands(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t unit = unit_of(t);
	uint8_t *bytes = take_pattern(t, 71, 8 * unit);
	uint8_t *reads = read_bytes(s, MIB / 2, unit);
	struct reply *r[DEPTH];
	for (size_t i = 0; i < DEPTH; i++) {
		if (i % 2 == 0)
			r[i] = submit(
				s, CMD_WRITE, 0, i / 2 % 8 * unit, unit, bytes + i / 2 % 8 * unit);
		else
			r[i] = submit(s, CMD_READ, 0, MIB / 2, unit, NULL);
	}
	finish_all(s, r, DEPTH);
	for (size_t i = 1; i < DEPTH; i += 2)
		expect_bytes(s, r[i]->data, reads, unit);
	expect_stored(s, 0, bytes, 8 * unit);
}

static void
errors_in_between(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r[DEPTH];
	for (size_t i = 0; i < DEPTH; i++)
		r[i] = i % 4 == 3 ? submit(s, CMD_UNKNOWN, 0, 0, 0, NULL)
				  : submit(s, CMD_READ, 0, place(t, i), unit_of(t), NULL);
	for (size_t i = 0; i < DEPTH; i++) {
		await(s, r[i]);
		if (i % 4 == 3)
			expect(t, r[i]->error != 0, "an error", "success");
		else
			expect_success(s, r[i]);
	}
}

static void
refused_writes_in_between(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t unit = unit_of(t);
	uint8_t *bytes = take_pattern(t, 72, unit);
	struct reply *r[DEPTH];
	for (size_t i = 0; i < DEPTH; i++)
		r[i] = i % 2 ? submit(s, CMD_WRITE, 0, end_of(t), unit, bytes)
			     : submit(s, CMD_READ, 0, place(t, i), unit, NULL);
	for (size_t i = 0; i < DEPTH; i++) {
		await(s, r[i]);
		expect(t, (r[i]->error != 0) == (i % 2 == 1),
			"the WRITEs refused and the READs answered", "request %zu: %s", i,
			error_name(r[i]->error));
	}
}

static void
large_reads_unread(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r[32];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = submit(s, CMD_READ, 0, 0, MIB, NULL);
	finish_all(s, r, COUNT_OF(r));
}

static void
large_writes(struct test *t)
{
	struct session *s = open_any(t);
	uint8_t *bytes = take_pattern(t, 73, MIB);
	struct reply *r[32];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = submit(s, CMD_WRITE, 0, 0, MIB, bytes);
	finish_all(s, r, COUNT_OF(r));
	expect_stored(s, 0, bytes, MIB);
}

/* Requests cut at every seventh byte, whatever the server's buffers make of it. */
static void
odd_segments(struct test *t)
{
	struct session *s = open_any(t);
	uint8_t *stream = take(t, DEPTH * 28);
	struct reply *r[DEPTH];
	size_t length = 0;
	for (size_t i = 0; i < DEPTH; i++) {
		uint64_t cookie = s->next_cookie++;
		r[i] = expect_reply_to(s, CMD_READ, cookie, place(t, i), unit_of(t));
		uint8_t header[32];
		size_t n = build_request(s, header, CMD_READ, 0, cookie, place(t, i), unit_of(t));
		memcpy(stream + length, header, n);
		length += n;
	}
	for (size_t at = 0; at < length; at += 7)
		conn_write(s->conn, stream + at, length - at < 7 ? length - at : 7);
	sent(t, "%d READs in pieces of 7 bytes", DEPTH);
	finish_all(s, r, DEPTH);
}

static void
one_segment(struct test *t)
{
	struct session *s = open_any(t);
	uint8_t *stream = take(t, 28u * 1024);
	struct reply **r = take(t, 1024 * sizeof *r);
	for (size_t i = 0; i < 1024; i++) {
		uint64_t cookie = s->next_cookie++;
		uint8_t header[32];
		r[i] = expect_reply_to(s, CMD_READ, cookie, place(t, i), unit_of(t));
		memcpy(stream + 28 * i, header,
			build_request(s, header, CMD_READ, 0, cookie, place(t, i), unit_of(t)));
	}
	conn_write(s->conn, stream, 28u * 1024);
	sent(t, "1024 READs in one piece");
	finish_all(s, r, 1024);
}

static void
overlapping_writes(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t unit = unit_of(t);
	struct reply *r[16];
	uint8_t *bytes[16];
	for (size_t i = 0; i < COUNT_OF(r); i++) {
		bytes[i] = take_pattern(t, 80 + (unsigned)i, unit);
		r[i] = submit(s, CMD_WRITE, 0, 0, unit, bytes[i]);
	}
	finish_all(s, r, COUNT_OF(r));
	uint8_t *now = read_bytes(s, 0, unit);
	/* In any order, but one of them is the last; sectors may come from different ones. */
	for (uint64_t at = 0; at < unit; at += SECTOR) {
		bool found = false;
		for (size_t i = 0; i < COUNT_OF(r); i++)
			found |= memcmp(now + at, bytes[i] + at, SECTOR) == 0;
		expect(t, found, "each sector as one of the WRITEs left it",
			"a mixture at %" PRIu64, at);
	}
}

static void
write_replied_then_read(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t unit = unit_of(t);
	for (unsigned i = 0; i < 32; i++) {
		struct reply *other = submit(s, CMD_READ, 0, MIB / 2, unit, NULL);
		uint8_t *bytes = take_pattern(t, 100 + i, unit);
		write_bytes(s, 0, bytes, unit);
		expect_stored(s, 0, bytes, unit);
		await(s, other);
	}
}

static void
flushes_among_writes(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t unit = unit_of(t);
	uint8_t *bytes = take_pattern(t, 74, 8 * unit);
	struct reply *r[32];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = i % 2 ? submit(s, CMD_FLUSH, 0, 0, 0, NULL)
			     : submit(s, CMD_WRITE, 0, i / 2 % 8 * unit, unit,
				       bytes + i / 2 % 8 * unit);
	finish_all(s, r, COUNT_OF(r));
	expect_stored(s, 0, bytes, 8 * unit);
}

static void
status_among_reads(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct reply *r[32];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = i % 2 ? submit(s, CMD_BLOCK_STATUS, 0, 0, MIB, NULL)
			     : submit(s, CMD_READ, 0, place(t, i), unit_of(t), NULL);
	finish_all(s, r, COUNT_OF(r));
	for (size_t i = 1; i < COUNT_OF(r); i += 2)
		expect(t, r[i]->status_count == 1, "one status chunk each", "%zu",
			r[i]->status_count);
}

static void
zeroes_among_reads(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t unit = unit_of(t);
	write_bytes(s, 0, take_pattern(t, 75, 8 * unit), 8 * unit);
	struct reply *r[32];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = i % 2 ? submit(s, CMD_WRITE_ZEROES, 0, i / 2 % 8 * unit, unit, NULL)
			     : submit(s, CMD_READ, 0, MIB / 2, unit, NULL);
	finish_all(s, r, COUNT_OF(r));
	expect_stored(s, 0, NULL, 8 * unit);
}

static void
small_read_beside_large(struct test *t)
{
	struct session *s = open_any(t);
	uint64_t large = end_of(t) < 8 * MIB ? MIB : 8 * MIB;
	struct reply *r[2] = {submit(s, CMD_READ, 0, 0, large, NULL),
		submit(s, CMD_READ, 0, 0, block_of(t), NULL)};
	finish_all(s, r, 2);
	expect_bytes(s, r[1]->data, r[0]->data, block_of(t));
}

static const struct check checks[] = {
	{"P01", MUST, "Transmission", 0, "64 READs in flight are each answered once", read_many},
	{"P02", MUST, "Transmission", WRITABLE, "WRITEs in flight all land where they belong",
		write_many},
	{"P03", MUST, "Transmission", 0, "READs of different lengths in flight keep their cookies",
		lengths_belong_to_cookies},
	{"P04", MUST, "Transmission", WRITABLE, "READs and WRITEs in flight do not mix",
		mixed_commands},
	{"P05", MUST, "Transmission", 0, "errors among READs in flight change no other",
		errors_in_between},
	{"P06", SHOULD, "Transmission", WRITABLE,
		"refused WRITEs among READs in flight are drained", refused_writes_in_between},
	{"P07", MUST, "Transmission", 0, "32 READs of 1 MiB may be sent before a reply is read",
		large_reads_unread},
	{"P08", MUST, "Transmission", WRITABLE,
		"32 WRITEs of 1 MiB may be sent before a reply is read", large_writes},
	{"P09", MUST, "Request message", 0, "requests may be cut anywhere into segments",
		odd_segments},
	{"P10", MUST, "Request message", 0, "1024 READs in one segment are all answered",
		one_segment},
	{"P11", MUST, "NBD_CMD_WRITE", WRITABLE, "of overlapping WRITEs in flight one is the last",
		overlapping_writes},
	{"P12", MUST, "NBD_CMD_WRITE", WRITABLE, "a WRITE replied to is seen by the next READ",
		write_replied_then_read},
	{"P13", MUST, "Ordering of messages and writes", WRITABLE | FLUSHES,
		"FLUSHes and WRITEs in flight all succeed", flushes_among_writes},
	{"P14", MUST, "Transmission", META, "BLOCK_STATUS and READ in flight sort out",
		status_among_reads},
	{"P15", MUST, "Transmission", WRITABLE | ZEROES, "WRITE_ZEROES and READ in flight sort out",
		zeroes_among_reads},
	{"P16", MUST, "Transmission", 0, "a small READ beside a large one gets its own bytes",
		small_read_beside_large},
};

const struct group pipelining_group = {"pipelining", "proto.md", checks, COUNT_OF(checks)};
