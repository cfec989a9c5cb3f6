#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { AREA = 1 << 20, UNIT = 65536 }; /* what is written here: data and zeroes by turns */

/* BLOCK_STATUS that must succeed: the extents of base:allocation. */
static struct extents
ask(struct session *s, uint16_t flags, uint64_t offset, uint64_t length)
{
	struct reply *r = request(s, CMD_BLOCK_STATUS, flags, offset, length, NULL);
	expect_success(s, r);
	expect(s->test, r->status_count == 1 && r->status[0].context == s->context,
		"one status chunk, of the selected context", "%zu chunks", r->status_count);
	return r->status[0];
}

/* Data and zeroes by turns in the first MiB. */
static void
write_turns(struct session *s)
{
	uint8_t *bytes = take_pattern(s->test, 3, UNIT);
	for (uint64_t offset = 0; offset < AREA; offset += 2 * UNIT)
		write_bytes(s, offset, bytes, UNIT);
	bytes = take(s->test, UNIT);
	for (uint64_t offset = UNIT; offset < AREA; offset += 2 * UNIT) {
		if (s->flags & SEND_WRITE_ZEROES)
			expect_success(s, request(s, CMD_WRITE_ZEROES, 0, offset, UNIT, NULL));
		else
			write_bytes(s, offset, bytes, UNIT);
	}
}

static void
status_is_a_chunk(struct test *t)
{
	ask(session_status(t, CHUNKED), 0, 0, UNIT);
}

static void
status_has_the_form(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct reply *r = request(s, CMD_BLOCK_STATUS, 0, 0, AREA, NULL);
	expect_faultless(s, r, FAULT_STATUS_FORM | FAULT_STATUS_TYPE | FAULT_SIMPLE | FAULT_TYPE);
}

static void
one_chunk_per_context(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct reply *r = request(s, CMD_BLOCK_STATUS, 0, 0, AREA, NULL);
	expect_faultless(s, r, FAULT_STATUS_TWICE);
	expect(t, r->status_count == 1, "one chunk", "%zu", r->status_count);
}

static void
unselected_is_refused(struct test *t)
{
	request_expect(session_export(t, CHUNKED), CMD_BLOCK_STATUS, 0, 0, UNIT, ERR_INVAL);
}

static void
only_the_last_exceeds(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	for (uint64_t length = block_of(t); length <= AREA; length *= 2) {
		struct extents e = ask(s, 0, 0, length);
		uint64_t sum = 0;
		for (size_t i = 0; i + 1 < e.count; i++)
			sum += e.list[i].length;
		expect(t, e.count == 1 || sum < length,
			"all extents but the last within the request",
			"%" PRIu64 " of %" PRIu64 " bytes before the last", sum, length);
	}
}

static void
extents_end_with_the_export(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	uint64_t offset = end_of(t) - block_of(t);
	struct extents e = ask(s, 0, offset, block_of(t));
	uint64_t sum = 0;
	for (size_t i = 0; i < e.count; i++)
		sum += e.list[i].length;
	expect(t, sum <= s->size - offset, "extents within the export",
		"%" PRIu64 " bytes past its end", sum - (s->size - offset));
}

static void
req_one_is_one(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct extents e = ask(s, REQ_ONE, 0, AREA);
	expect(t, e.count == 1, "one extent", "%zu", e.count);
	expect(t, e.list[0].length <= AREA, "an extent within the request", "%" PRIu64,
		e.list[0].length);
}

static void
req_one_is_cut(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	uint32_t block = block_of(t);
	struct extents e = ask(s, REQ_ONE, block, block);
	expect(t, e.count == 1 && e.list[0].length == block, "one extent, not above the request",
		"%zu, the first of %" PRIu64 " bytes for a request of %" PRIu32, e.count,
		e.list[0].length, block);
}

static void
req_one_in_the_middle(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	write_turns(s);
	struct extents e = ask(s, REQ_ONE, UNIT / 2, AREA - UNIT / 2);
	expect(t, e.count == 1, "one extent though the status changes", "%zu", e.count);
}

static void
reserved_bits_are_clear(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct extents e = ask(s, 0, 0, AREA);
	for (size_t i = 0; i < e.count; i++)
		expect(t, (e.list[i].flags & ~(uint64_t)(STATE_HOLE | STATE_ZERO)) == 0,
			"HOLE and ZERO alone", "flags %#" PRIx64, e.list[i].flags);
}

/* Follows the extents of [offset, end) and tells each to visit(). */
static void
walk(struct session *s, uint64_t offset, uint64_t end,
	void (*visit)(struct session *s, uint64_t offset, uint64_t length, uint64_t flags))
{
	for (int turns = 0; offset < end; turns++) {
		struct extents e =
			ask(s, 0, offset, end - offset < 1u << 30 ? end - offset : 1u << 30);
		for (size_t i = 0; i < e.count && offset < end; i++) {
			uint64_t length = e.list[i].length;
			if (length == 0)
				fail(s->test, "extents that are not empty", "one of length 0");
			visit(s, offset, length < end - offset ? length : end - offset,
				e.list[i].flags);
			offset += length;
		}
		if (turns == 4096)
			skip(s->test, "the export is too fragmented");
	}
}

static void
expect_zeroes_in(struct session *s, uint64_t offset, uint64_t length, uint64_t flags)
{
	if (flags & STATE_ZERO)
		expect_stored(s, offset, NULL, length);
}

static void
zero_extents_read_as_zeroes(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	if (t->target->offers & WRITABLE)
		write_turns(s);
	walk(s, 0, AREA, expect_zeroes_in);
}

static void
data_is_not_zero(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	write_bytes(s, UNIT, take(t, UNIT), UNIT);
	write_bytes(s, UNIT, take_pattern(t, 4, UNIT), UNIT);
	struct extents e = ask(s, REQ_ONE, UNIT, UNIT);
	expect(t, (e.list[0].flags & STATE_ZERO) == 0, "data just written not to be ZERO", "ZERO");
}

static void
part_of_an_extent_is_data(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	uint32_t block = block_of(t);
	if (s->flags & SEND_WRITE_ZEROES)
		expect_success(s, request(s, CMD_WRITE_ZEROES, 0, 0, 2 * UNIT, NULL));
	else
		write_bytes(s, 0, take(t, 2 * UNIT), 2 * UNIT);
	write_bytes(s, UNIT, take_pattern(t, 5, block), block);
	walk(s, 0, 2 * UNIT, expect_zeroes_in);
}

static void
zeroes_are_seen(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	write_bytes(s, 0, take_pattern(t, 6, AREA), AREA);
	expect_success(s, request(s, CMD_WRITE_ZEROES, 0, 0, AREA, NULL));
	walk(s, 0, AREA, expect_zeroes_in);
	expect_stored(s, 0, NULL, AREA);
}

static void
no_hole_is_provisioned(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	expect_success(s, request(s, CMD_WRITE_ZEROES, NO_HOLE, 0, AREA, NULL));
	struct extents e = ask(s, 0, 0, AREA);
	uint64_t offset = 0;
	for (size_t i = 0; i < e.count && offset < AREA; offset += e.list[i++].length)
		expect(t, (e.list[i].flags & STATE_HOLE) == 0,
			"no hole after WRITE_ZEROES with NO_HOLE", "one at %" PRIu64, offset);
}

static void
written_data_is_no_hole(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	write_bytes(s, 0, take_pattern(t, 7, UNIT), UNIT);
	session_flush(s);
	struct extents e = ask(s, REQ_ONE, 0, UNIT);
	expect(t, (e.list[0].flags & STATE_HOLE) == 0, "written data not to be a hole", "HOLE");
}

static void
past_the_end(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	request_expect(s, CMD_BLOCK_STATUS, 0, end_of(t) - block_of(t), 2 * block_of(t), ERR_INVAL);
}

static void
beyond_the_end(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	request_expect(s, CMD_BLOCK_STATUS, 0, end_of(t) + UNIT, UNIT, ERR_INVAL);
	expect_sync(s);
}

static void
empty_request(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct reply *r = submit(s, CMD_BLOCK_STATUS, 0, 0, 0, NULL);
	await(s, r);
	expect_sync(s);
}

static void
unaligned_request(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct extents e = ask(s, REQ_ONE, 4097, 7777);
	expect(t, e.list[0].length <= 7777, "an extent of at most 7777 bytes", "%" PRIu64,
		e.list[0].length);
}

static void
lengths_fit_the_block(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	uint64_t offset = 0;
	struct extents e = ask(s, 0, 0, AREA);
	for (size_t i = 0; i < e.count; i++) {
		offset += e.list[i].length;
		bool fits = e.list[i].length % SECTOR == 0 &&
			    e.list[i].length % t->target->min_block == 0;
		expect(t, fits || offset == s->size, "lengths that are multiples of 512",
			"%" PRIu64, e.list[i].length);
	}
}

static void
neighbours_differ(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct extents e = ask(s, 0, 0, AREA);
	for (size_t i = 0; i + 1 < e.count; i++)
		expect(t, e.list[i].flags != e.list[i + 1].flags, "neighbours of different status",
			"flags %#" PRIx64 " twice", e.list[i].flags);
}

static void
count_nothing(struct session *s, uint64_t offset, uint64_t length, uint64_t flags)
{
	(void)s;
	(void)offset;
	(void)length;
	(void)flags;
}

static void
whole_export_can_be_walked(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	walk(s, 0, end_of(t), count_nothing);
}

static void
extents_are_few(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	uint64_t length = end_of(t) < UINT32_MAX ? end_of(t) : UINT32_MAX / UNIT * UNIT;
	struct extents e = ask(s, 0, 0, length);
	expect(t, e.count <= 1 << 20, "at most 2^20 extents in a chunk", "%zu", e.count);
}

static void
errors_are_chunks(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	struct reply *r = request_wrong(s, CMD_BLOCK_STATUS, 0, end_of(t), UNIT);
	expect(t, r->error == 0 || !r->simple, "an error chunk", "a simple reply");
}

static const struct check checks[] = {
	{"B01", MUST, "NBD_CMD_BLOCK_STATUS", META,
		"BLOCK_STATUS is answered for the selected context", status_is_a_chunk},
	{"B02", MUST, "NBD_REPLY_TYPE_BLOCK_STATUS", META,
		"status chunks have the right form, and no extent of length 0",
		status_has_the_form},
	{"B03", MUST, "NBD_REPLY_TYPE_BLOCK_STATUS", META, "one status chunk per context",
		one_chunk_per_context},
	{"B04", SHOULD, "Metadata querying", STRUCTURED, "BLOCK_STATUS without a context is EINVAL",
		unselected_is_refused},
	{"B05", MUST, "NBD_REPLY_TYPE_BLOCK_STATUS", META,
		"only the last extent reaches past the request", only_the_last_exceeds},
	{"B06", MUST, "NBD_CMD_BLOCK_STATUS", META, "extents do not reach past the export",
		extents_end_with_the_export},
	{"B07", MUST, "NBD_REPLY_TYPE_BLOCK_STATUS", META, "REQ_ONE is answered with one extent",
		req_one_is_one},
	{"B08", MUST, "NBD_REPLY_TYPE_BLOCK_STATUS", META,
		"REQ_ONE's extent is no longer than the request", req_one_is_cut},
	{"B09", MUST, "NBD_REPLY_TYPE_BLOCK_STATUS", META | WRITABLE,
		"REQ_ONE stops where the status changes", req_one_in_the_middle},
	{"B10", SHOULD, "base:allocation metadata context", META, "reserved status bits are clear",
		reserved_bits_are_clear},
	{"B11", MUST, "base:allocation metadata context", META, "what is ZERO reads as zeroes",
		zero_extents_read_as_zeroes},
	{"B12", MUST, "base:allocation metadata context", META | WRITABLE,
		"data written over zeroes is not ZERO", data_is_not_zero},
	{"B13", MUST, "base:allocation metadata context", META | WRITABLE,
		"a block of data in zeroes is not hidden in their extent",
		part_of_an_extent_is_data},
	{"B14", MUST, "base:allocation metadata context", META | WRITABLE | ZEROES,
		"after WRITE_ZEROES status and data agree", zeroes_are_seen},
	{"B15", MUST, "NBD_CMD_WRITE_ZEROES", META | WRITABLE | ZEROES,
		"WRITE_ZEROES with NO_HOLE leaves no hole", no_hole_is_provisioned},
	{"B16", MUST, "base:allocation metadata context", META | WRITABLE,
		"written data is no hole", written_data_is_no_hole},
	{"B17", SHOULD, "NBD_CMD_BLOCK_STATUS", META, "BLOCK_STATUS across the end is EINVAL",
		past_the_end},
	{"B18", SHOULD, "NBD_CMD_BLOCK_STATUS", META, "BLOCK_STATUS beyond the end is EINVAL",
		beyond_the_end},
	{"B19", SHOULD, "NBD_CMD_BLOCK_STATUS", META,
		"BLOCK_STATUS of length 0 does not disconnect", empty_request},
	{"B20", MUST, "NBD_CMD_BLOCK_STATUS", META | BYTES, "BLOCK_STATUS of unaligned bytes",
		unaligned_request},
	{"B21", SHOULD, "NBD_CMD_BLOCK_STATUS", META,
		"extents are multiples of 512 and the block size", lengths_fit_the_block},
	{"B22", SHOULD, "NBD_CMD_BLOCK_STATUS", META, "neighbouring extents differ",
		neighbours_differ},
	{"B23", MUST, "NBD_CMD_BLOCK_STATUS", META, "the whole export can be walked by its extents",
		whole_export_can_be_walked},
	{"B24", SHOULD, "NBD_CMD_BLOCK_STATUS", META, "no more than 2^20 extents come in a chunk",
		extents_are_few},
	{"B25", SHOULD, "NBD_CMD_BLOCK_STATUS", META, "BLOCK_STATUS errors are error chunks",
		errors_are_chunks},
};

const struct group status_group = {"status", "proto.md", checks, COUNT_OF(checks)};
