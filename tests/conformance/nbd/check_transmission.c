#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { UNIT = 65536 };

static void
read_is_simple(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	struct reply *r = request(s, CMD_READ, 0, 0, UNIT, NULL);
	expect_success(s, r);
	expect_faultless(s, r, FAULT_CHUNK);
}

static void
all_replies_are_simple(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	if (s->flags & SEND_FLUSH)
		expect_faultless(s, request(s, CMD_FLUSH, 0, 0, 0, NULL), FAULT_CHUNK);
	expect_faultless(s, request(s, CMD_UNKNOWN, 0, 0, 0, NULL), FAULT_CHUNK);
	expect_faultless(s, request(s, CMD_READ, 0, end_of(t), UNIT, NULL), FAULT_CHUNK);
}

/* The reply's cookie is matched by reply_read(). */
static void
cookies_are_opaque(struct test *t)
{
	static const uint64_t cookies[] = {0, UINT64_MAX, UINT64_C(0x8000000000000000),
		UINT64_C(0x0123456789abcdef), 0x67446698};
	struct session *s = session_export(t, COMPACT);
	for (size_t i = 0; i < COUNT_OF(cookies); i++) {
		s->next_cookie = cookies[i];
		expect_success(s, request(s, CMD_READ, 0, 0, block_of(t), NULL));
	}
}

static void
cookie_reused(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	for (int i = 0; i < 4; i++) {
		s->next_cookie = 7;
		expect_success(s, request(s, CMD_READ, 0, 0, block_of(t), NULL));
	}
}

static void
error_has_no_payload(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	struct reply *r = submit(s, CMD_READ, 0, end_of(t), UNIT, NULL);
	await_or_close(s, r);
	if (r->closed)
		return; /* "The server MAY then initiate a hard disconnect" */
	expect(t, r->error != 0, "an error", "success");
	expect_sync(s);
}

static void
write_then_read(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	for (uint32_t length = block_of(t); length <= 1 << 19; length *= 2) {
		uint8_t *bytes = take_pattern(t, length, length);
		write_bytes(s, length, bytes, length);
		expect_stored(s, length, bytes, length);
	}
}

static void
write_bytes_unaligned(struct test *t)
{
	static const uint32_t lengths[] = {1, 3, 511, 513, 4095, 4097, 12345};
	struct session *s = session_export(t, COMPACT);
	for (size_t i = 0; i < COUNT_OF(lengths); i++) {
		uint64_t offset = 4096 * i + 4095 - i;
		uint8_t *bytes = take_pattern(t, lengths[i], lengths[i]);
		write_bytes(s, offset, bytes, lengths[i]);
		expect_stored(s, offset, bytes, lengths[i]);
	}
}

/* The three units with the command on the middle one: the outer two must keep their bytes. */
static struct session *
write_three(struct test *t, uint8_t **bytes, uint64_t unit)
{
	struct session *s = session_export(t, COMPACT);
	*bytes = take_pattern(t, 8, 3 * unit);
	write_bytes(s, 0, *bytes, 3 * unit);
	return s;
}

static void
write_spares_neighbours(struct test *t)
{
	uint32_t block = block_of(t);
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, block);
	memset(bytes + block, 0x55, block);
	write_bytes(s, block, bytes + block, block);
	expect_stored(s, 0, bytes, 3 * block);
}

static void
write_byte_spares_neighbours(struct test *t)
{
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, 4096);
	bytes[5001] = 0xaa;
	write_bytes(s, 5001, bytes + 5001, 1);
	expect_stored(s, 0, bytes, 3 * 4096);
}

static void
last_block_is_stored(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint32_t block = block_of(t);
	uint8_t *bytes = take_pattern(t, 9, block);
	write_bytes(s, end_of(t) - block, bytes, block);
	expect_stored(s, end_of(t) - block, bytes, block);
}

static void
last_byte_is_read(struct test *t)
{
	read_bytes(session_export(t, COMPACT), t->target->size - 1, 1);
}

static void
far_offsets_are_64_bits(struct test *t)
{
	uint64_t far = UINT64_C(1) << 32;
	if (t->target->size < far + UNIT)
		skip(t, "the export is smaller than 4 GiB");
	struct session *s = session_export(t, COMPACT);
	uint8_t *near_bytes = take_pattern(t, 10, UNIT), *far_bytes = take_pattern(t, 11, UNIT);
	write_bytes(s, 0, near_bytes, UNIT);
	write_bytes(s, far, far_bytes, UNIT);
	expect_stored(s, 0, near_bytes, UNIT);
	expect_stored(s, far, far_bytes, UNIT);
}

static void
flush_succeeds(struct test *t)
{
	request_expect(session_export(t, COMPACT), CMD_FLUSH, 0, 0, 0, 0);
}

static void
flush_after_writes(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *bytes = take_pattern(t, 12, UNIT);
	write_bytes(s, 0, bytes, UNIT);
	expect_success(s, request(s, CMD_FLUSH, 0, 0, 0, NULL));
	expect_stored(s, 0, bytes, UNIT);
}

static void
trim_succeeds(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	expect_success(s, request(s, CMD_TRIM, 0, UNIT, UNIT, NULL));
	read_bytes(s, UNIT, UNIT);
}

static void
trim_spares_neighbours(struct test *t)
{
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, UNIT);
	expect_success(s, request(s, CMD_TRIM, 0, UNIT, UNIT, NULL));
	expect_stored(s, 0, bytes, UNIT);
	expect_stored(s, 2 * UNIT, bytes + 2 * UNIT, UNIT);
}

static void
trim_rounds_inwards(struct test *t)
{
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, UNIT);
	expect_success(s, request(s, CMD_TRIM, 0, UNIT - 100, UNIT + 300, NULL));
	expect_stored(s, 0, bytes, UNIT - 100);
	expect_stored(s, 2 * UNIT + 200, bytes + 2 * UNIT + 200, UNIT - 200);
}

static void
write_after_trim(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *bytes = take_pattern(t, 13, UNIT);
	expect_success(s, request(s, CMD_TRIM, 0, 0, UNIT, NULL));
	write_bytes(s, 0, bytes, UNIT);
	expect_stored(s, 0, bytes, UNIT);
}

static void
zeroes_read_as_zeroes(struct test *t)
{
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, UNIT);
	expect_success(s, request(s, CMD_WRITE_ZEROES, 0, UNIT, UNIT, NULL));
	expect_stored(s, UNIT, NULL, UNIT);
}

static void
zeroes_spare_neighbours(struct test *t)
{
	uint32_t block = block_of(t);
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, block);
	expect_success(s, request(s, CMD_WRITE_ZEROES, 0, block, block, NULL));
	expect_stored(s, 0, bytes, block);
	expect_stored(s, 2 * block, bytes + 2 * block, block);
}

static void
zeroes_unaligned(struct test *t)
{
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, UNIT);
	expect_success(s, request(s, CMD_WRITE_ZEROES, 0, 4001, UNIT + 777, NULL));
	memset(bytes + 4001, 0, UNIT + 777);
	expect_stored(s, 0, bytes, 3 * UNIT);
}

static void
zeroes_without_holes(struct test *t)
{
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, UNIT);
	expect_success(s, request(s, CMD_WRITE_ZEROES, NO_HOLE, UNIT, UNIT, NULL));
	expect_stored(s, UNIT, NULL, UNIT);
}

static void
zeroes_then_write(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *bytes = take_pattern(t, 14, UNIT);
	expect_success(s, request(s, CMD_WRITE_ZEROES, 0, 0, UNIT, NULL));
	write_bytes(s, 0, bytes, UNIT);
	expect_stored(s, 0, bytes, UNIT);
}

static void
fast_zero_is_zero_or_enotsup(struct test *t)
{
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, UNIT);
	struct reply *r = request(s, CMD_WRITE_ZEROES, FAST_ZERO, UNIT, UNIT, NULL);
	expect(t, r->error == 0 || r->error == ERR_NOTSUP, "success or ENOTSUP", "%s",
		error_name(r->error));
	expect_stored(s, UNIT, r->error == 0 ? NULL : bytes + UNIT, UNIT);
}

static void
fast_zero_refused_alters_nothing(struct test *t)
{
	uint8_t *bytes;
	struct session *s = write_three(t, &bytes, UNIT);
	struct reply *r = request(s, CMD_WRITE_ZEROES, FAST_ZERO | NO_HOLE, UNIT - 512, UNIT, NULL);
	if (r->error != 0)
		expect_stored(s, 0, bytes, 3 * UNIT);
	else
		expect_stored(s, UNIT - 512, NULL, UNIT);
}

static void
zeroes_never_enotsup(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	static const uint16_t flags[] = {0, NO_HOLE};
	for (size_t i = 0; i < COUNT_OF(flags); i++) {
		struct reply *r = request(s, CMD_WRITE_ZEROES, flags[i], 0, UNIT, NULL);
		expect(t, r->error != ERR_NOTSUP, "anything but ENOTSUP without FAST_ZERO",
			"ENOTSUP");
	}
}

static void
cache_changes_nothing(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *before = read_bytes(s, 0, UNIT);
	struct reply *r = request(s, CMD_CACHE, 0, 0, UNIT, NULL);
	expect(t, r->error == 0 || error_is_listed(r->error), "success, or a listed error", "%s",
		error_name(r->error));
	expect_stored(s, 0, before, UNIT);
}

static void
cache_then_write(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *bytes = take_pattern(t, 15, UNIT);
	request(s, CMD_CACHE, 0, 0, UNIT, NULL);
	write_bytes(s, 0, bytes, UNIT);
	request(s, CMD_CACHE, 0, 0, UNIT, NULL);
	expect_stored(s, 0, bytes, UNIT);
}

/* DISC */

static void
send_disconnect(struct session *s)
{
	uint8_t header[32];
	size_t n = build_request(s, header, CMD_DISC, 0, 0x6469736364697363, 0, 0);
	sent(s->test, "DISC");
	conn_write(s->conn, header, n);
}

static void
disconnect_closes(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	send_disconnect(s);
	conn_drain(s->conn);
}

static void
disconnect_has_no_reply(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	send_disconnect(s);
	expect(t, conn_ends(s->conn), "no byte after DISC", "some");
}

static void
disconnect_has_no_chunk(struct test *t)
{
	struct session *s = session_export(t, CHUNKED);
	send_disconnect(s);
	expect(t, conn_ends(s->conn), "no byte after DISC", "some");
}

static void
disconnect_waits_for_reads(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	struct reply *r[16];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = submit(s, CMD_READ, 0, UNIT * (i % 8), UNIT, NULL);
	send_disconnect(s);
	sent(t, "16 READs, then DISC");
	size_t done = 0;
	for (size_t i = 0; i < COUNT_OF(r); i++) {
		await_or_close(s, r[i]);
		done += r[i]->done;
	}
	expect(t, done == COUNT_OF(r), "16 replies before the connection closes", "%zu", done);
	expect(t, conn_ends(s->conn), "nothing after them", "more bytes");
}

static void
disconnect_waits_for_writes(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *bytes = take_pattern(t, (unsigned)test_random(t), 8 * UNIT);
	for (size_t i = 0; i < 8; i++)
		submit(s, CMD_WRITE, 0, UNIT * i, UNIT, bytes + UNIT * i);
	send_disconnect(s);
	conn_drain(s->conn);
	sent(t, "8 WRITEs, then DISC; a READ on another connection");
	expect_stored(session_export(t, COMPACT), 0, bytes, 8 * UNIT);
}

static void
disconnect_with_flags(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t header[32];
	conn_write(s->conn, header, build_request(s, header, CMD_DISC, FUA, 1, 0, 0));
	sent(t, "DISC with FUA");
	expect(t, conn_ends(s->conn), "a closed connection", "a reply");
}

/* Lengths of 0 */

static void
expect_alive_after_empty(struct test *t, uint16_t type)
{
	struct session *s = session_export(t, COMPACT);
	struct reply *r = submit(s, type, 0, 0, 0, NULL);
	await(s, r);
	expect_sync(s);
}

static void
empty_read(struct test *t)
{
	expect_alive_after_empty(t, CMD_READ);
}

static void
empty_write(struct test *t)
{
	expect_alive_after_empty(t, CMD_WRITE);
}

static void
empty_trim(struct test *t)
{
	expect_alive_after_empty(t, CMD_TRIM);
}

static void
empty_zeroes(struct test *t)
{
	expect_alive_after_empty(t, CMD_WRITE_ZEROES);
}

static void
empty_cache(struct test *t)
{
	expect_alive_after_empty(t, CMD_CACHE);
}

/* The stream */

static void
request_in_pieces(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t header[32];
	size_t n = build_request(s, header, CMD_READ, 0, 5, 0, block_of(t));
	struct reply *r = expect_reply_to(s, CMD_READ, 5, 0, block_of(t));
	sent(t, "a READ, byte by byte");
	for (size_t i = 0; i < n; i++) {
		expect(t, conn_is_quiet(s->conn, 2), "patience", "bytes, or a closed connection");
		conn_write(s->conn, header + i, 1);
	}
	await(s, r);
	expect_success(s, r);
}

static void
payload_in_pieces(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *bytes = take_pattern(t, 16, UNIT), header[32];
	size_t n = build_request(s, header, CMD_WRITE, 0, 6, 0, UNIT);
	struct reply *r = expect_reply_to(s, CMD_WRITE, 6, 0, UNIT);
	conn_write(s->conn, header, n);
	for (size_t at = 0, piece = 1; at < UNIT; at += piece, piece = piece * 3 % 8191 + 1) {
		size_t left = UNIT - at;
		conn_write(s->conn, bytes + at, piece < left ? piece : left);
		expect(t, left <= piece || conn_is_quiet(s->conn, 1), "patience",
			"bytes before the payload was whole");
	}
	await(s, r);
	expect_success(s, r);
	expect_stored(s, 0, bytes, UNIT);
}

static void
unsent_payload_is_not_written(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	uint8_t *bytes = take_pattern(t, 17, UNIT), header[32];
	write_bytes(s, 0, bytes, UNIT);
	uint8_t *other = take_pattern(t, 18, UNIT);
	conn_write(s->conn, header, build_request(s, header, CMD_WRITE, 0, 7, 0, UNIT));
	conn_write(s->conn, other, UNIT / 2);
	conn_close(s->conn);
	s = session_export(t, COMPACT);
	uint8_t *now = read_bytes(s, 0, UNIT);
	/* What was not sent cannot have been written. */
	expect_bytes(s, now + UNIT / 2, bytes + UNIT / 2, UNIT / 2);
}

static const struct check checks[] = {
	{"R01", MUST, "NBD_CMD_READ", 0, "READ is answered with a simple reply and its bytes",
		read_is_simple},
	{"R02", MUST, "Simple reply message", 0,
		"all replies are simple unless negotiated otherwise", all_replies_are_simple},
	{"R03", MUST, "Transmission", 0, "cookies are echoed, whatever their bits",
		cookies_are_opaque},
	{"R04", MUST, "Transmission", 0, "a cookie may be used again after its reply",
		cookie_reused},
	{"R05", MUST, "NBD_CMD_READ", 0, "a failed READ has no payload", error_has_no_payload},
	{"R06", MUST, "NBD_CMD_WRITE", WRITABLE, "READ returns what WRITE wrote", write_then_read},
	{"R07", MUST, "NBD_CMD_WRITE", WRITABLE | BYTES, "the same for any range of bytes",
		write_bytes_unaligned},
	{"R08", MUST, "NBD_CMD_WRITE", WRITABLE, "WRITE leaves its neighbours alone",
		write_spares_neighbours},
	{"R09", MUST, "NBD_CMD_WRITE", WRITABLE | BYTES,
		"WRITE of a byte leaves its neighbours alone", write_byte_spares_neighbours},
	{"R10", MUST, "Size constraints", WRITABLE, "the last block can be written and read",
		last_block_is_stored},
	{"R11", MUST, "Size constraints", BYTES, "the last byte can be read", last_byte_is_read},
	{"R12", MUST, "Request message", WRITABLE, "offsets have 64 bits", far_offsets_are_64_bits},
	{"R13", MUST, "NBD_CMD_FLUSH", FLUSHES, "FLUSH succeeds", flush_succeeds},
	{"R14", MUST, "NBD_CMD_FLUSH", FLUSHES | WRITABLE, "FLUSH keeps what was written",
		flush_after_writes},
	{"R15", MUST, "NBD_CMD_TRIM", TRIMS | WRITABLE, "TRIM succeeds and the range can be read",
		trim_succeeds},
	{"R16", MUST, "NBD_CMD_TRIM", TRIMS | WRITABLE, "TRIM leaves its neighbours alone",
		trim_spares_neighbours},
	{"R17", MUST, "NBD_CMD_TRIM", TRIMS | WRITABLE | BYTES,
		"TRIM of unaligned bytes rounds inwards", trim_rounds_inwards},
	{"R18", MUST, "NBD_CMD_TRIM", TRIMS | WRITABLE, "what is written after TRIM stays",
		write_after_trim},
	{"R19", MUST, "NBD_CMD_WRITE_ZEROES", ZEROES | WRITABLE,
		"WRITE_ZEROES reads back as zeroes", zeroes_read_as_zeroes},
	{"R20", MUST, "NBD_CMD_WRITE_ZEROES", ZEROES | WRITABLE,
		"WRITE_ZEROES leaves its neighbours alone", zeroes_spare_neighbours},
	{"R21", MUST, "NBD_CMD_WRITE_ZEROES", ZEROES | WRITABLE | BYTES,
		"WRITE_ZEROES of unaligned bytes is exact", zeroes_unaligned},
	{"R22", MUST, "NBD_CMD_WRITE_ZEROES", ZEROES | WRITABLE,
		"WRITE_ZEROES with NO_HOLE reads back as zeroes", zeroes_without_holes},
	{"R23", MUST, "NBD_CMD_WRITE_ZEROES", ZEROES | WRITABLE,
		"what is written after WRITE_ZEROES stays", zeroes_then_write},
	{"R24", MUST, "NBD_CMD_WRITE_ZEROES", FAST_ZEROES | WRITABLE,
		"FAST_ZERO zeroes, or is ENOTSUP", fast_zero_is_zero_or_enotsup},
	{"R25", SHOULD, "NBD_CMD_WRITE_ZEROES", FAST_ZEROES | WRITABLE,
		"FAST_ZERO that is refused alters nothing", fast_zero_refused_alters_nothing},
	{"R26", MUST, "NBD_CMD_WRITE_ZEROES", ZEROES | WRITABLE,
		"WRITE_ZEROES without FAST_ZERO is never ENOTSUP", zeroes_never_enotsup},
	{"R27", MUST, "NBD_CMD_CACHE", CACHES, "CACHE changes nothing that is read",
		cache_changes_nothing},
	{"R28", MUST, "NBD_CMD_CACHE", CACHES | WRITABLE, "a write after CACHE is seen",
		cache_then_write},
	{"R29", MUST, "NBD_CMD_DISC", 0, "DISC closes the connection", disconnect_closes},
	{"R30", MUST, "NBD_CMD_DISC", 0, "DISC has no reply", disconnect_has_no_reply},
	{"R31", MUST, "NBD_CMD_DISC", STRUCTURED, "DISC has no reply among structured ones",
		disconnect_has_no_chunk},
	{"R32", MUST, "NBD_CMD_DISC", 0, "READs in flight are answered before DISC closes",
		disconnect_waits_for_reads},
	{"R33", MUST, "NBD_CMD_DISC", WRITABLE, "WRITEs in flight are done before DISC closes",
		disconnect_waits_for_writes},
	{"R34", MUST, "Command flags", FUAS, "DISC with FUA disconnects", disconnect_with_flags},
	{"R35", SHOULD, "NBD_CMD_READ", 0, "READ of length 0 does not disconnect", empty_read},
	{"R36", SHOULD, "NBD_CMD_WRITE", WRITABLE, "WRITE of length 0 does not disconnect",
		empty_write},
	{"R37", SHOULD, "NBD_CMD_TRIM", TRIMS | WRITABLE, "TRIM of length 0 does not disconnect",
		empty_trim},
	{"R38", SHOULD, "NBD_CMD_WRITE_ZEROES", ZEROES | WRITABLE,
		"WRITE_ZEROES of length 0 does not disconnect", empty_zeroes},
	{"R39", SHOULD, "NBD_CMD_CACHE", CACHES, "CACHE of length 0 does not disconnect",
		empty_cache},
	{"R40", MUST, "Request message", 0, "a request may come byte by byte", request_in_pieces},
	{"R41", MUST, "Request message", WRITABLE, "a payload may come in pieces",
		payload_in_pieces},
	{"R42", MUST, "NBD_CMD_WRITE", WRITABLE,
		"a payload cut off writes nothing that was not sent",
		unsent_payload_is_not_written},
};

const struct group transmission_group = {"transmission", "proto.md", checks, COUNT_OF(checks)};
