#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

enum { UNIT = 65536, WIDE_FAULTS = FAULT_SIMPLE | FAULT_CHUNK };

#define FOUR_GIB (UINT64_C(1) << 32)

static void
extended_is_acknowledged(struct test *t)
{
	uint32_t type = option_ask(session_open(t), OPT_EXTENDED_HEADERS, NULL, 0);
	expect(t, type == REP_ACK, "ACK", "%s", reply_name(type));
}

static void
extended_with_data(struct test *t)
{
	struct session *s = session_open(t);
	option_expect(s, OPT_EXTENDED_HEADERS, "x", 1, REP_ERR_INVALID);
	option_expect_sync(s);
}

static void
refused_extended_stays_off(struct test *t)
{
	struct session *s = session_open(t);
	if (option_ask(s, OPT_EXTENDED_HEADERS, "x", 1) == REP_ACK)
		skip(t, "EXTENDED_HEADERS with data is accepted");
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), FAULT_CHUNK);
}

static void
structured_afterwards(struct test *t)
{
	struct session *s = session_open(t);
	option_style(s, WIDE);
	option_expect(s, OPT_STRUCTURED_REPLY, NULL, 0, REP_ERR_EXT_HEADER_REQD);
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), WIDE_FAULTS);
}

static void
structured_before(struct test *t)
{
	struct session *s = session_open(t);
	option_style(s, CHUNKED);
	option_style(s, WIDE);
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), WIDE_FAULTS);
}

static void
go_still_works(struct test *t)
{
	struct session *s = session_open(t);
	option_style(s, WIDE);
	uint32_t type = option_info(s, OPT_GO);
	expect(t, type != REP_ERR_UNSUP, "GO known with extended headers", "ERR_UNSUP");
}

static void
reads_are_extended(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	struct reply *r = request(s, CMD_READ, 0, UNIT, 4 * UNIT, NULL);
	expect_success(s, r);
	expect_faultless(s, r, WIDE_FAULTS | FAULT_OVERLAP | FAULT_OUTSIDE | FAULT_EMPTY);
}

static void
read_offset_is_echoed(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	struct reply *r = request(s, CMD_READ, 0, UNIT, 8 * UNIT, NULL);
	expect_faultless(s, r, FAULT_ECHO);
}

static void
every_offset_is_echoed(struct test *t)
{
	static const uint16_t commands[] = {CMD_CACHE, CMD_BLOCK_STATUS, CMD_UNKNOWN};
	struct session *s = session_export(t, WIDE);
	for (size_t i = 0; i < COUNT_OF(commands); i++)
		expect_faultless(s, request_wrong(s, commands[i], 0, 12345678, UNIT), FAULT_ECHO);
}

static void
write_offset_is_echoed(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	struct reply *r = request(s, CMD_WRITE, 0, UNIT, UNIT, take_pattern(t, 140, UNIT));
	expect_success(s, r);
	expect_faultless(s, r, FAULT_ECHO | WIDE_FAULTS | FAULT_NONE | FAULT_FLAGS);
}

static void
flush_is_extended(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	struct reply *r = request(s, CMD_FLUSH, 0, 0, 0, NULL);
	expect_success(s, r);
	expect_faultless(s, r, FAULT_ECHO | WIDE_FAULTS | FAULT_NONE | FAULT_FLAGS | FAULT_TYPE);
}

static void
errors_are_extended(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	struct reply *r = request_wrong(s, CMD_READ, 0, end_of(t), UNIT);
	expect(t, r->error != 0, "an error", "success");
	expect_faultless(s, r, WIDE_FAULTS | FAULT_ERROR_FORM | FAULT_MESSAGE);
	r = request_wrong(s, CMD_UNKNOWN, 0, 0, 0);
	expect_faultless(s, r, WIDE_FAULTS | FAULT_ERROR_FORM | FAULT_MESSAGE);
}

static void
error_offset_is_echoed(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint64_t offset = end_of(t) + UNIT;
	expect_faultless(s, request_wrong(s, CMD_READ, 0, offset, UNIT), FAULT_ECHO);
}

static void
write_and_read(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint8_t *bytes = take_pattern(t, 141, 4 * UNIT);
	write_bytes(s, UNIT, bytes, 4 * UNIT);
	expect_stored(s, UNIT, bytes, 4 * UNIT);
}

static void
write_without_flag(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint8_t *bytes = take_pattern(t, 142, UNIT);
	write_bytes(s, 0, bytes, UNIT);
	/* No payload follows: without the flag, length is an effect length. */
	struct reply *r = request(s, CMD_WRITE, 0, 0, UNIT, NULL);
	expect_error(s, r, ERR_INVAL);
	expect_stored(s, 0, bytes, UNIT);
}

/* A command that has no payload form, with one: consumed, and EINVAL. */
static void
refuse_payload(struct test *t, uint16_t type)
{
	struct session *s = session_export(t, WIDE);
	struct reply *r = request(s, type, PAYLOAD_LEN, 0, UNIT, take_pattern(t, 143, UNIT));
	expect_error(s, r, ERR_INVAL);
	expect_sync(s);
}

static void
payload_on_read(struct test *t)
{
	refuse_payload(t, CMD_READ);
}

static void
payload_on_trim(struct test *t)
{
	refuse_payload(t, CMD_TRIM);
}

static void
payload_on_zeroes(struct test *t)
{
	refuse_payload(t, CMD_WRITE_ZEROES);
}

static void
payload_on_flush(struct test *t)
{
	refuse_payload(t, CMD_FLUSH);
}

static void
payload_on_unknown(struct test *t)
{
	refuse_payload(t, CMD_UNKNOWN);
}

static void
payload_beyond_maximum(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint8_t header[32];
	uint64_t length = (uint64_t)t->target->max_payload + FOUR_GIB;
	conn_write(s->conn, header, build_request(s, header, CMD_WRITE, PAYLOAD_LEN, 1, 0, length));
	sent(t, "WRITE that announces a payload above 4 GiB");
	expect(t, conn_ends(s->conn), "a closed connection", "an answer");
	expect_sync(session_export(t, COMPACT));
}

static void
refused_write_is_drained(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	struct reply *r = request(s, CMD_WRITE, 0, end_of(t), UNIT, take_pattern(t, 144, UNIT));
	expect_error(s, r, ERR_NOSPC);
	expect_sync(s);
}

/* 64-bit lengths */

/* Cut to 32 bits, the length would fit. */
static struct reply *
ask_above_4g(struct session *s, uint16_t type)
{
	struct test *t = s->test;
	if (t->target->size > FOUR_GIB)
		skip(t, "the export is above 4 GiB");
	return request(s, type, 0, 0, FOUR_GIB + UNIT, NULL);
}

static void
zeroes_above_4g(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint8_t *bytes = take_pattern(t, 145, UNIT);
	write_bytes(s, 0, bytes, UNIT);
	expect_error(s, ask_above_4g(s, CMD_WRITE_ZEROES), ERR_NOSPC);
	expect_stored(s, 0, bytes, UNIT);
}

static void
trim_above_4g(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint8_t *bytes = take_pattern(t, 146, UNIT);
	write_bytes(s, 0, bytes, UNIT);
	expect_error(s, ask_above_4g(s, CMD_TRIM), ERR_INVAL);
	expect_stored(s, 0, bytes, UNIT);
}

static void
read_above_4g(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	if (t->target->size > FOUR_GIB)
		skip(t, "the export is above 4 GiB");
	struct reply *r = submit(s, CMD_READ, 0, 0, FOUR_GIB + UNIT, NULL);
	await(s, r);
	expect(t, r->error == ERR_INVAL || r->error == ERR_OVERFLOW, "EINVAL or EOVERFLOW", "%s",
		error_name(r->error));
	expect_sync(s);
}

static void
status_above_4g(struct test *t)
{
	struct session *s = session_status(t, WIDE);
	expect_error(s, ask_above_4g(s, CMD_BLOCK_STATUS), ERR_INVAL);
	expect_sync(s);
}

static void
whole_export_is_zeroed(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint32_t block = block_of(t);
	write_bytes(s, end_of(t) - block, take_pattern(t, 147, block), block);
	struct reply *r = request(s, CMD_WRITE_ZEROES, 0, 0, end_of(t), NULL);
	expect(t, r->error == 0 || r->error == ERR_OVERFLOW || r->error == ERR_INVAL,
		"success, EOVERFLOW or EINVAL", "%s", error_name(r->error));
	if (r->error == 0)
		expect_stored(s, end_of(t) - block, NULL, block);
}

/* Status */

static void
status_is_wide(struct test *t)
{
	struct session *s = session_status(t, WIDE);
	struct reply *r = request(s, CMD_BLOCK_STATUS, 0, 0, UNIT, NULL);
	expect_success(s, r);
	expect_faultless(s, r, FAULT_STATUS_TYPE | FAULT_STATUS_FORM | WIDE_FAULTS | FAULT_ECHO);
	expect(t, r->status_count == 1 && r->status[0].context == s->context,
		"one chunk, of the selected context", "%zu", r->status_count);
}

static void
upper_status_bits_are_zero(struct test *t)
{
	struct session *s = session_status(t, WIDE);
	struct reply *r = request(s, CMD_BLOCK_STATUS, 0, 0, end_of(t), NULL);
	expect_success(s, r);
	for (size_t i = 0; i < r->status[0].count; i++)
		expect(t, r->status[0].list[i].flags >> 32 == 0, "the upper 32 bits zero",
			"%#" PRIx64, r->status[0].list[i].flags);
}

static void
wide_req_one(struct test *t)
{
	struct session *s = session_status(t, WIDE);
	struct reply *r = request(s, CMD_BLOCK_STATUS, REQ_ONE, 0, end_of(t), NULL);
	expect_success(s, r);
	expect(t, r->status_count == 1 && r->status[0].count == 1, "one extent", "%zu",
		r->status[0].count);
	expect(t, r->status[0].list[0].length <= end_of(t), "an extent within the request",
		"%" PRIu64, r->status[0].list[0].length);
}

static void
wide_contexts_need_no_structured(struct test *t)
{
	struct session *s = session_open(t);
	option_style(s, WIDE);
	option_select(s);
	option_go(s);
	expect_success(s, request(s, CMD_BLOCK_STATUS, 0, 0, UNIT, NULL));
}

static void
base_needs_no_extended(struct test *t)
{
	static const char *const names[] = {"base:"}, *const allocation[] = {"base:allocation"};
	struct session *s = session_open(t);
	option_style(s, CHUNKED);
	struct query q = query_contexts(t, t->target->uri.export_name, 1, names);
	uint32_t type = option_ask(s, OPT_LIST_META_CONTEXT, q.data, q.length);
	expect(t, type != REP_ERR_EXT_HEADER_REQD, "base: without extended headers", "%s",
		reply_name(type));
	q = query_contexts(t, t->target->uri.export_name, 1, allocation);
	type = option_ask(s, OPT_SET_META_CONTEXT, q.data, q.length);
	expect(t, type != REP_ERR_EXT_HEADER_REQD, "base: without extended headers", "%s",
		reply_name(type));
}

/* BLOCK_STATUS with a payload */

static void
no_payload_flag_without_contexts(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	expect(t, (s->flags & STATUS_PAYLOAD) == 0, "BLOCK_STATUS_PAYLOAD clear", "flags %#x",
		s->flags);
}

/* BLOCK_STATUS that names contexts; the effect length is a UNIT. */
static struct reply *
ask_status_of(struct session *s, size_t count, const uint32_t *contexts, size_t extra)
{
	size_t length = 8 + 4 * count + extra;
	uint8_t *payload = take(s->test, length), *p = put64(payload, UNIT);
	for (size_t i = 0; i < count; i++)
		p = put32(p, contexts[i]);
	return request(s, CMD_BLOCK_STATUS, PAYLOAD_LEN, 0, length, payload);
}

static struct session *
open_filtered(struct test *t)
{
	struct session *s = session_status(t, WIDE);
	if ((s->flags & STATUS_PAYLOAD) == 0)
		skip(t, "BLOCK_STATUS_PAYLOAD is not offered");
	return s;
}

static void
payload_selects_context(struct test *t)
{
	struct session *s = open_filtered(t);
	struct reply *r = ask_status_of(s, 1, &s->context, 0);
	expect_success(s, r);
	expect(t, r->status_count == 1 && r->status[0].context == s->context,
		"the context asked for", "%zu chunks", r->status_count);
}

static void
payload_of_no_context(struct test *t)
{
	struct session *s = open_filtered(t);
	struct reply *r = ask_status_of(s, 0, NULL, 0);
	expect(t, r->status_count == 0, "no status chunk for no context", "%zu", r->status_count);
	expect_sync(s);
}

static void
payload_of_unknown_context(struct test *t)
{
	struct session *s = open_filtered(t);
	uint32_t unknown = s->context + 1000;
	expect_error(s, ask_status_of(s, 1, &unknown, 0), ERR_INVAL);
	expect_sync(s);
}

static void
payload_of_repeated_context(struct test *t)
{
	struct session *s = open_filtered(t);
	uint32_t twice[] = {s->context, s->context};
	expect_error(s, ask_status_of(s, 2, twice, 0), ERR_INVAL);
	expect_sync(s);
}

static void
payload_of_odd_length(struct test *t)
{
	struct session *s = open_filtered(t);
	expect_error(s, ask_status_of(s, 1, &s->context, 3), ERR_INVAL);
	expect_sync(s);
}

static void
payload_too_short(struct test *t)
{
	struct session *s = open_filtered(t);
	struct reply *r = request(s, CMD_BLOCK_STATUS, PAYLOAD_LEN, 0, 5, "short");
	expect_error(s, r, ERR_INVAL);
	expect_sync(s);
}

static void
unoffered_payload(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	expect_error(s, ask_status_of(s, 1, &s->context, 0), ERR_INVAL);
	expect_sync(s);
}

/* And the rest */

static void
pipelined(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	struct reply *r[64];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = submit(s, CMD_READ, 0, i % 8 * UNIT, UNIT, NULL);
	for (size_t i = 0; i < COUNT_OF(r); i++) {
		await(s, r[i]);
		expect_success(s, r[i]);
		expect_faultless(s, r[i], FAULT_ECHO | WIDE_FAULTS);
	}
}

static void
df_is_one_chunk(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	if ((s->flags & SEND_DF) == 0)
		skip(t, "DF is not offered");
	struct reply *r = request(s, CMD_READ, DF, 0, FRAGMENT_MAX, NULL);
	expect_success(s, r);
	expect(t, r->contents == 1, "one content chunk", "%u", r->contents);
}

static void
disconnect(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint8_t header[32];
	conn_write(s->conn, header, build_request(s, header, CMD_DISC, 0, 1, 0, 0));
	sent(t, "DISC, extended");
	expect(t, conn_ends(s->conn), "a closed connection", "an answer");
}

static void
compact_request_is_refused(struct test *t)
{
	struct session *s = session_export(t, WIDE);
	uint8_t header[32] = {0};
	put32(put64(put64(put16(put16(put32(header, REQUEST_MAGIC), 0), CMD_READ), 1), 0), SECTOR);
	conn_write(s->conn, header, 32);
	sent(t, "a READ with the compact magic after extended headers");
	if (!conn_is_quiet(s->conn, QUIET_MS)) {
		uint8_t reply[32];
		if (conn_read(s->conn, reply, 32))
			expect(t,
				get32(reply) == EXT_REPLY_MAGIC &&
					(get16(reply + 6) & CHUNK_ERROR_BIT) != 0,
				"an extended error, or a closed connection",
				"magic %#" PRIx32 ", chunk %#x", get32(reply), get16(reply + 6));
	}
}

static const struct check checks[] = {
	{"X01", MUST, "NBD_OPT_EXTENDED_HEADERS", EXTENDED,
		"EXTENDED_HEADERS is acknowledged without STRUCTURED_REPLY",
		extended_is_acknowledged},
	{"X02", SHOULD, "NBD_OPT_EXTENDED_HEADERS", EXTENDED,
		"EXTENDED_HEADERS with a payload is ERR_INVALID", extended_with_data},
	{"X03", MUST, "Extended reply chunk message", EXTENDED,
		"a refused EXTENDED_HEADERS stays without effect", refused_extended_stays_off},
	{"X04", MUST, "NBD_OPT_STRUCTURED_REPLY", EXTENDED,
		"STRUCTURED_REPLY afterwards is EXT_HEADER_REQD", structured_afterwards},
	{"X05", MUST, "NBD_OPT_EXTENDED_HEADERS", EXTENDED | STRUCTURED,
		"EXTENDED_HEADERS takes precedence over STRUCTURED_REPLY", structured_before},
	{"X06", MUST, "NBD_OPT_GO", EXTENDED, "GO is known with extended headers", go_still_works},
	{"X07", MUST, "Extended reply chunk message", EXTENDED,
		"READ is answered with extended chunks", reads_are_extended},
	{"X08", MUST, "Extended reply chunk message", EXTENDED,
		"each chunk of a READ echoes its offset", read_offset_is_echoed},
	{"X09", MUST, "Extended reply chunk message", EXTENDED,
		"replies to other commands echo the offset", every_offset_is_echoed},
	{"X10", MUST, "Extended reply chunk message", EXTENDED | WRITABLE,
		"the reply to WRITE is extended and echoes the offset", write_offset_is_echoed},
	{"X11", MUST, "Extended reply chunk message", EXTENDED | FLUSHES,
		"the reply to FLUSH is extended", flush_is_extended},
	{"X12", MUST, "Simple reply message", EXTENDED, "errors are extended replies",
		errors_are_extended},
	{"X13", MUST, "Extended reply chunk message", EXTENDED,
		"errors echo an offset past the end", error_offset_is_echoed},
	{"X14", MUST, "Request message", EXTENDED | WRITABLE, "WRITE with PAYLOAD_LEN is written",
		write_and_read},
	{"X15", SHOULD, "Command flags", EXTENDED | WRITABLE,
		"WRITE without PAYLOAD_LEN is EINVAL and has no payload", write_without_flag},
	{"X16", SHOULD, "Request message", EXTENDED, "READ with a payload is EINVAL, and drained",
		payload_on_read},
	{"X17", SHOULD, "Request message", EXTENDED | TRIMS | WRITABLE,
		"TRIM with a payload is EINVAL, and drained", payload_on_trim},
	{"X18", SHOULD, "Request message", EXTENDED | ZEROES | WRITABLE,
		"WRITE_ZEROES with a payload is EINVAL, and drained", payload_on_zeroes},
	{"X19", SHOULD, "Request message", EXTENDED | FLUSHES,
		"FLUSH with a payload is EINVAL, and drained", payload_on_flush},
	{"X20", SHOULD, "Request message", EXTENDED,
		"an unknown command with a payload is EINVAL, and drained", payload_on_unknown},
	{"X21", SHOULD, "Request message", EXTENDED | WRITABLE,
		"a payload far above the maximum closes the connection", payload_beyond_maximum},
	{"X22", SHOULD, "Error values", EXTENDED | WRITABLE,
		"a WRITE past the end is ENOSPC, and drained", refused_write_is_drained},
	{"X23", SHOULD, "NBD_CMD_WRITE_ZEROES", EXTENDED | ZEROES | WRITABLE,
		"WRITE_ZEROES above 4 GiB is not cut to 32 bits", zeroes_above_4g},
	{"X24", SHOULD, "Error values", EXTENDED | TRIMS | WRITABLE,
		"TRIM above 4 GiB is not cut to 32 bits", trim_above_4g},
	{"X25", SHOULD, "NBD_CMD_READ", EXTENDED, "READ above 4 GiB is EINVAL or EOVERFLOW",
		read_above_4g},
	{"X26", SHOULD, "NBD_CMD_BLOCK_STATUS", EXTENDED | META,
		"BLOCK_STATUS longer than the export is EINVAL", status_above_4g},
	{"X27", SHOULD, "Size constraints", EXTENDED | ZEROES | WRITABLE,
		"WRITE_ZEROES of the whole export", whole_export_is_zeroed},
	{"X28", MUST, "NBD_REPLY_TYPE_BLOCK_STATUS_EXT", EXTENDED | META,
		"BLOCK_STATUS is answered with extended status chunks", status_is_wide},
	{"X29", MUST, "NBD_REPLY_TYPE_BLOCK_STATUS_EXT", EXTENDED | META,
		"the upper 32 bits of base:allocation are zero", upper_status_bits_are_zero},
	{"X30", MUST, "NBD_CMD_BLOCK_STATUS", EXTENDED | META,
		"REQ_ONE of the whole export is one extent within it", wide_req_one},
	{"X31", MUST, "Metadata querying", EXTENDED | META,
		"contexts can be selected with extended headers alone",
		wide_contexts_need_no_structured},
	{"X32", MUST, "NBD_OPT_LIST_META_CONTEXT", META, "base: never needs extended headers",
		base_needs_no_extended},
	{"X33", SHOULD, "Transmission flags", EXTENDED,
		"BLOCK_STATUS_PAYLOAD is not told without contexts",
		no_payload_flag_without_contexts},
	{"X34", MUST, "NBD_CMD_BLOCK_STATUS", EXTENDED | META,
		"a payload of BLOCK_STATUS selects its context", payload_selects_context},
	{"X35", MUST, "NBD_CMD_BLOCK_STATUS", EXTENDED | META,
		"a payload that names no context gets no status", payload_of_no_context},
	{"X36", MUST, "NBD_CMD_BLOCK_STATUS", EXTENDED | META,
		"a payload that names an unknown context is EINVAL", payload_of_unknown_context},
	{"X37", MUST, "NBD_CMD_BLOCK_STATUS", EXTENDED | META,
		"a payload that names a context twice is EINVAL", payload_of_repeated_context},
	{"X38", MUST, "NBD_CMD_BLOCK_STATUS", EXTENDED | META,
		"a payload of odd length is EINVAL, and drained", payload_of_odd_length},
	{"X39", MUST, "NBD_CMD_BLOCK_STATUS", EXTENDED | META,
		"a payload shorter than 8 bytes is EINVAL, and drained", payload_too_short},
	{"X40", MUST, "NBD_CMD_BLOCK_STATUS", EXTENDED,
		"a payload where no context is selected is EINVAL, and drained", unoffered_payload},
	{"X41", MUST, "Transmission", EXTENDED, "64 extended READs in flight", pipelined},
	{"X42", MUST, "NBD_CMD_READ", EXTENDED, "DF with extended headers is one chunk",
		df_is_one_chunk},
	{"X43", MUST, "NBD_CMD_DISC", EXTENDED, "an extended DISC closes without a reply",
		disconnect},
	{"X44", MUST, "NBD_OPT_EXTENDED_HEADERS", EXTENDED,
		"a compact request is not taken after extended headers",
		compact_request_is_refused},
};

const struct group extended_group = {
	"extended", "extension-ext-header/proto.md", checks, COUNT_OF(checks)};
