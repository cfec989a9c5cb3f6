#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { UNIT = 65536, AREA = 8 * UNIT };

/*
 * Holes and data by turns, and what is there, for reads to fall into holes of odd sizes: data lies
 * at bytes 0 and 3 of each unit, 4 KiB long, and in the middle of it once.
 */
static uint8_t *
write_sparse(struct session *s)
{
	struct test *t = s->test;
	uint8_t *bytes = take(t, AREA);
	if (s->flags & SEND_WRITE_ZEROES)
		expect_success(s, request(s, CMD_WRITE_ZEROES, 0, 0, AREA, NULL));
	else
		write_bytes(s, 0, bytes, AREA);
	uint32_t block = block_of(t) > 4096 ? block_of(t) : 4096;
	for (uint64_t offset = 0; offset < AREA; offset += 2 * UNIT) {
		memcpy(bytes + offset, take_pattern(t, (unsigned)offset, block), block);
		write_bytes(s, offset, bytes + offset, block);
	}
	return bytes;
}

/* A READ across data and holes, checked for some of the rules of its chunks. */
static struct reply *
read_sparse(struct test *t, unsigned faults)
{
	struct session *s = session_export(t, CHUNKED);
	uint8_t *bytes = (t->target->offers & WRITABLE) != 0 ? write_sparse(s) : NULL;
	uint32_t block = block_of(t);
	struct reply *r = request(s, CMD_READ, 0, block, AREA - 2 * block, NULL);
	expect_faultless(s, r, faults);
	if (faults == 0) {
		expect_success(s, r);
		if (bytes != NULL)
			expect_bytes(s, r->data, bytes + block, AREA - 2 * block);
	}
	return r;
}

static void
read_is_chunked(struct test *t)
{
	read_sparse(t, FAULT_SIMPLE);
}

static void
chunks_cover_the_read(struct test *t)
{
	read_sparse(t, 0);
}

static void
chunks_do_not_overlap(struct test *t)
{
	read_sparse(t, FAULT_OVERLAP);
}

static void
chunks_stay_inside(struct test *t)
{
	read_sparse(t, FAULT_OUTSIDE);
}

static void
chunks_are_not_empty(struct test *t)
{
	read_sparse(t, FAULT_EMPTY);
}

static void
flags_are_known(struct test *t)
{
	read_sparse(t, FAULT_FLAGS);
}

static void
types_fit(struct test *t)
{
	read_sparse(t, FAULT_TYPE | FAULT_NONE);
}

static void
chunks_are_aligned(struct test *t)
{
	read_sparse(t, FAULT_UNALIGNED);
}

static void
reply_ends_with_done(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request(s, CMD_READ, 0, 0, AREA, NULL);
	expect(t, r->done, "a chunk with DONE", "none");
	/* A chunk after DONE has a cookie that is not in flight. */
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "nothing after DONE", "more bytes");
}

static void
unaligned_read(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	uint8_t *bytes = write_sparse(s);
	struct reply *r = request(s, CMD_READ, 0, 4001, 3 * UNIT + 333, NULL);
	expect_success(s, r);
	expect_bytes(s, r->data, bytes + 4001, 3 * UNIT + 333);
	expect_faultless(s, r, FAULT_OUTSIDE | FAULT_EMPTY | FAULT_OVERLAP);
}

static void
single_bytes(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	uint8_t *bytes = write_sparse(s);
	static const uint32_t offsets[] = {
		0, 511, 4095, 4096, UNIT - 1, UNIT, 2 * UNIT, 2 * UNIT + 4095};
	for (size_t i = 0; i < COUNT_OF(offsets); i++)
		expect_stored(s, offsets[i], bytes + offsets[i], 1);
}

static void
hole_reads_as_zeroes(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	expect_success(s, request(s, CMD_WRITE_ZEROES, 0, 0, AREA, NULL));
	struct reply *r = request(s, CMD_READ, 0, 0, AREA, NULL);
	expect_success(s, r);
	expect_bytes(s, r->data, NULL, AREA);
}

static void
data_is_not_told_as_hole(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	uint32_t block = block_of(t);
	uint8_t *bytes = take_pattern(t, 20, block);
	write_bytes(s, UNIT + block, bytes, block);
	expect_stored(s, UNIT + block, bytes, block);
}

static void
df_is_one_chunk(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	uint8_t *bytes = (t->target->offers & WRITABLE) != 0 ? write_sparse(s) : NULL;
	uint32_t half = UNIT / 2;
	struct reply *r = request(s, CMD_READ, DF, half, UNIT, NULL);
	expect_success(s, r);
	expect(t, r->contents == 1, "one content chunk", "%u", r->contents);
	if (bytes != NULL) {
		expect_bytes(s, r->data, bytes + half, UNIT);
		expect(t, r->holes == 0, "data and hole as data", "a hole");
	}
}

static void
df_works_to_64k(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	for (uint32_t length = block_of(t); length <= FRAGMENT_MAX; length *= 2)
		expect_success(s, request(s, CMD_READ, DF, 0, length, NULL));
}

static void
df_above_64k(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request(s, CMD_READ, DF, 0, 1 << 20, NULL);
	expect(t, r->error == 0 || r->error == ERR_OVERFLOW, "success or EOVERFLOW", "%s",
		error_name(r->error));
	unsigned most = r->error == 0 ? 1 : 0;
	expect(t, r->contents <= most, most == 1 ? "one content chunk" : "no content chunk", "%u",
		r->contents);
}

static void
df_means_send_df(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request(s, CMD_READ, DF, 0, block_of(t), NULL);
	expect(t, (s->flags & SEND_DF) != 0 || r->error != 0, "SEND_DF where READ takes DF",
		"success with DF, flags %#x", s->flags);
}

static void
read_errors_are_chunks(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request_wrong(s, CMD_READ, 0, end_of(t), UNIT);
	expect(t, r->error != 0, "an error", "success");
	expect_faultless(s, r, FAULT_SIMPLE);
}

static void
bad_flags_are_chunks(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request_wrong(s, CMD_READ, UNKNOWN_FLAG, 0, UNIT);
	expect_faultless(s, r, FAULT_SIMPLE);
}

static void
error_chunks_have_the_form(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request_wrong(s, CMD_READ, 0, end_of(t), UNIT);
	expect_faultless(s, r, FAULT_ERROR_FORM | FAULT_ERROR_OFFSET);
}

static void
error_messages_are_strings(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request_wrong(s, CMD_READ, 0, end_of(t), UNIT);
	expect_faultless(s, r, FAULT_MESSAGE);
}

static void
errors_come_once(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request_wrong(s, CMD_READ, 0, end_of(t), UNIT);
	expect(t, r->errors == 1, "one error chunk", "%u", r->errors);
}

static void
failed_read_has_no_content(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request_wrong(s, CMD_READ, 0, end_of(t) - block_of(t), 2 * block_of(t));
	expect(t, r->error != 0, "an error", "success");
	expect_faultless(s, r, FAULT_OUTSIDE | FAULT_OVERLAP | FAULT_EMPTY);
}

static void
errors_are_structured(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request(s, CMD_UNKNOWN, 0, 0, 0, NULL);
	expect(t, !r->simple, "an error chunk", "a simple reply");
}

static void
other_replies_have_no_payload(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request(s, CMD_FLUSH, 0, 0, 0, NULL);
	expect_success(s, r);
	expect_faultless(s, r, FAULT_TYPE | FAULT_NONE | FAULT_FLAGS);
}

static void
write_is_answered(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	uint8_t *bytes = take_pattern(t, 21, UNIT);
	struct reply *r = request(s, CMD_WRITE, 0, 0, UNIT, bytes);
	expect_success(s, r);
	expect_faultless(s, r, FAULT_TYPE | FAULT_NONE | FAULT_FLAGS);
	expect_stored(s, 0, bytes, UNIT);
}

static void
empty_read_has_no_content(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	struct reply *r = request_wrong(s, CMD_READ, 0, 0, 0);
	expect_faultless(s, r, FAULT_EMPTY | FAULT_SIMPLE);
}

static void
chunks_keep_to_the_maximum(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	uint64_t length = end_of(t) < DEFAULT_PAYLOAD ? end_of(t) : DEFAULT_PAYLOAD;
	struct reply *r = request(s, CMD_READ, 0, 0, length, NULL);
	expect_faultless(s, r, FAULT_LONG);
	expect(t, r->error == 0 || r->error == ERR_OVERFLOW || r->error == ERR_INVAL,
		"success, EOVERFLOW or EINVAL", "%s", error_name(r->error));
}

static void
chunks_of_many_reads(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	uint8_t *bytes = write_sparse(s);
	struct reply *r[32];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = submit(s, CMD_READ, 0, i * AREA / 64, AREA / 2, NULL);
	for (size_t i = 0; i < COUNT_OF(r); i++) {
		await(s, r[i]);
		expect_success(s, r[i]);
		expect_bytes(s, r[i]->data, bytes + i * AREA / 64, AREA / 2);
	}
}

static void
structured_agrees_with_simple(struct test *t)
{
	struct session *a = session_export(t, COMPACT), *b = session_export(t, CHUNKED);
	for (uint64_t offset = 0; offset < 1 << 20; offset += UNIT)
		expect_bytes(b, read_bytes(b, offset, UNIT), read_bytes(a, offset, UNIT), UNIT);
}

static const struct check checks[] = {
	{"S01", MUST, "Structured reply chunk message", STRUCTURED, "READ is answered with chunks",
		read_is_chunked},
	{"S02", MUST, "NBD_CMD_READ", STRUCTURED,
		"chunks cover the whole READ, with the right bytes", chunks_cover_the_read},
	{"S03", MUST, "NBD_CMD_READ", STRUCTURED, "content chunks do not overlap",
		chunks_do_not_overlap},
	{"S04", MUST, "NBD_CMD_READ", STRUCTURED, "content chunks lie within the request",
		chunks_stay_inside},
	{"S05", MUST, "NBD_REPLY_TYPE_OFFSET_HOLE", STRUCTURED,
		"content chunks have the right length and describe a byte at least",
		chunks_are_not_empty},
	{"S06", MUST, "Structured reply flags", STRUCTURED, "no flag but DONE is set",
		flags_are_known},
	{"S07", MUST, "Structured reply types", STRUCTURED,
		"READ has content, error and NONE chunks only", types_fit},
	{"S08", SHOULD, "NBD_CMD_READ", STRUCTURED,
		"chunks begin and end at multiples of 512: no unaligned holes", chunks_are_aligned},
	{"S09", MUST, "Structured reply flags", STRUCTURED,
		"DONE is on the last chunk, and ends the reply", reply_ends_with_done},
	{"S10", MUST, "NBD_CMD_READ", STRUCTURED | WRITABLE | BYTES,
		"an unaligned READ across holes has the right bytes", unaligned_read},
	{"S11", MUST, "NBD_CMD_READ", STRUCTURED | WRITABLE | BYTES,
		"single bytes at the edges of holes are right", single_bytes},
	{"S12", MUST, "NBD_REPLY_TYPE_OFFSET_HOLE", STRUCTURED | WRITABLE | ZEROES,
		"zeroed ranges read as zeroes", hole_reads_as_zeroes},
	{"S13", MUST, "NBD_REPLY_TYPE_OFFSET_HOLE", STRUCTURED | WRITABLE,
		"a block of data in a hole is not told as hole", data_is_not_told_as_hole},
	{"S14", MUST, "Command flags", DFS, "DF: data and hole come as one data chunk",
		df_is_one_chunk},
	{"S15", MUST, "NBD_CMD_READ", DFS, "DF works up to 65536 bytes", df_works_to_64k},
	{"S16", MUST, "NBD_CMD_READ", DFS, "DF of 1 MiB is one chunk, or EOVERFLOW and none",
		df_above_64k},
	{"S17", MUST, "Transmission flags", STRUCTURED, "SEND_DF is set where DF works",
		df_means_send_df},
	{"S18", MUST, "Structured reply chunk message", STRUCTURED,
		"a failed READ is told in a chunk", read_errors_are_chunks},
	{"S19", MUST, "Structured reply chunk message", STRUCTURED,
		"a READ with an unknown flag is refused in a chunk", bad_flags_are_chunks},
	{"S20", MUST, "NBD_REPLY_TYPE_ERROR", STRUCTURED,
		"error chunks have an error and fitting lengths", error_chunks_have_the_form},
	{"S21", MUST, "NBD_REPLY_TYPE_ERROR", STRUCTURED, "error messages are valid strings",
		error_messages_are_strings},
	{"S22", SHOULD, "NBD_REPLY_TYPE_ERROR", STRUCTURED, "an error is told once",
		errors_come_once},
	{"S23", MUST, "NBD_CMD_READ", STRUCTURED, "READ across the end fails without stray content",
		failed_read_has_no_content},
	{"S24", SHOULD, "Structured reply chunk message", STRUCTURED,
		"errors of other commands are chunks too", errors_are_structured},
	{"S25", MUST, "Structured reply types", STRUCTURED | FLUSHES,
		"FLUSH is answered without a payload", other_replies_have_no_payload},
	{"S26", MUST, "Structured reply types", STRUCTURED | WRITABLE,
		"WRITE is answered without a payload", write_is_answered},
	{"S27", MUST, "NBD_CMD_READ", STRUCTURED, "READ of length 0 has no content chunk",
		empty_read_has_no_content},
	{"S28", MUST, "Structured reply types", STRUCTURED,
		"no chunk is larger than the maximum payload", chunks_keep_to_the_maximum},
	{"S29", MUST, "Transmission", STRUCTURED | WRITABLE,
		"chunks of 32 READs in flight sort out", chunks_of_many_reads},
	{"S30", MUST, "NBD_CMD_READ", STRUCTURED,
		"structured and simple replies have the same bytes", structured_agrees_with_simple},
};

const struct group structured_group = {"structured", "proto.md", checks, COUNT_OF(checks)};
