#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <string.h>

static const char no_export[] = "nbdcheck: no such export";

static struct session *
info(struct test *t)
{
	struct session *s = session_open(t);
	uint32_t type = option_info(s, OPT_INFO);
	if (type != REP_ACK)
		fail(t, "INFO answered with ACK", "%s", reply_name(type));
	return s;
}

static void
info_tells_export(struct test *t)
{
	expect(t, find_info(info(t), INFO_EXPORT) != NULL, "INFO_EXPORT before ACK", "none");
}

static void
info_export_is_12(struct test *t)
{
	const struct option_reply *r = find_info(info(t), INFO_EXPORT);
	expect(t, r != NULL && r->length == 12, "12 bytes", "%" PRIu32, r != NULL ? r->length : 0);
}

static void
info_without_requests(struct test *t)
{
	struct session *s = session_open(t);
	struct query q = query_export(t, t->target->uri.export_name, 0, NULL);
	option_expect(s, OPT_INFO, q.data, q.length, REP_ACK);
	expect(t, find_info(s, INFO_EXPORT) != NULL, "INFO_EXPORT", "none");
}

/* An unknown name: ERR_UNKNOWN, or to a client without TLS perhaps TLS_REQD. */
static void
expect_unknown(struct session *s, uint32_t option)
{
	struct test *t = s->test;
	struct query q = query_export(t, no_export, 0, NULL);
	uint32_t type = option_ask(s, option, q.data, q.length);
	if (type == REP_ACK)
		skip(t, "the server has an export of every name");
	bool hidden = type == REP_ERR_TLS_REQD && t->target->tls_offered && !t->target->tls;
	expect(t, type == REP_ERR_UNKNOWN || hidden, "ERR_UNKNOWN", "%s", reply_name(type));
}

static void
info_of_unknown_name(struct test *t)
{
	expect_unknown(session_open(t), OPT_INFO);
}

static void
unknown_name_has_no_info(struct test *t)
{
	struct session *s = session_open(t);
	expect_unknown(s, OPT_INFO);
	expect(t, count_replies(s, REP_INFO) == 0, "no INFO before ERR_UNKNOWN", "%zu",
		count_replies(s, REP_INFO));
}

static void
go_of_unknown_name(struct test *t)
{
	struct session *s = session_open(t);
	expect_unknown(s, OPT_GO);
	option_expect_sync(s);
}

static void
go_after_failed_go(struct test *t)
{
	struct session *s = session_open(t);
	expect_unknown(s, OPT_GO);
	option_go(s);
	expect_sync(s);
}

static void
info_does_not_go(struct test *t)
{
	struct session *s = info(t);
	option_expect_sync(s);
	option_go(s);
	expect_sync(s);
}

static bool
has_reply(const struct session *s, const struct option_reply *wanted)
{
	for (size_t i = 0; i < s->reply_count; i++) {
		const struct option_reply *r = &s->replies[i];
		if (r->type == wanted->type && r->length == wanted->length &&
			memcmp(r->data, wanted->data, r->length) == 0)
			return true;
	}
	return false;
}

static void
go_repeats_info(struct test *t)
{
	struct session *s = info(t);
	size_t count = s->reply_count;
	struct option_reply *before = take(t, count * sizeof *before);
	memcpy(before, s->replies, count * sizeof *before);
	option_go(s);
	expect(t, s->reply_count == count, "as many replies", "%zu, INFO had %zu", s->reply_count,
		count);
	for (size_t i = 0; i < count; i++)
		expect(t, before[i].type != REP_INFO || has_reply(s, &before[i]),
			"the information that INFO gave", "another for information type %u",
			get16(before[i].data));
}

static void
unknown_requests_are_ignored(struct test *t)
{
	uint16_t requests[] = {99, INFO_EXPORT, 0x7fff, INFO_BLOCK_SIZE, 0xffff};
	struct session *s = session_open(t);
	struct query q = query_export(t, t->target->uri.export_name, COUNT_OF(requests), requests);
	option_expect(s, OPT_INFO, q.data, q.length, REP_ACK);
}

static void
many_requests_are_ignored(struct test *t)
{
	uint16_t requests[200];
	for (size_t i = 0; i < COUNT_OF(requests); i++)
		requests[i] = (uint16_t)(1000 + i);
	struct session *s = session_open(t);
	struct query q = query_export(t, t->target->uri.export_name, COUNT_OF(requests), requests);
	option_expect(s, OPT_INFO, q.data, q.length, REP_ACK);
}

static const struct option_reply *
block_sizes(struct test *t)
{
	return find_info(info(t), INFO_BLOCK_SIZE);
}

static void
block_size_is_14(struct test *t)
{
	uint32_t length = block_sizes(t)->length;
	expect(t, length == 14, "14 bytes", "%" PRIu32, length);
}

static bool
is_power_of_two(uint32_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

static void
minimum_is_sane(struct test *t)
{
	uint32_t minimum = get32(block_sizes(t)->data + 2);
	expect(t, is_power_of_two(minimum) && minimum <= 65536, "a power of 2 up to 65536",
		"%" PRIu32, minimum);
}

static void
preferred_is_sane(struct test *t)
{
	const struct option_reply *r = block_sizes(t);
	uint32_t minimum = get32(r->data + 2), preferred = get32(r->data + 6);
	expect(t, is_power_of_two(preferred) && preferred >= minimum && preferred >= SECTOR,
		"a power of 2, no less than 512 and the minimum",
		"%" PRIu32 " (minimum %" PRIu32 ")", preferred, minimum);
}

static void
maximum_is_sane(struct test *t)
{
	const struct option_reply *r = block_sizes(t);
	uint32_t preferred = get32(r->data + 6), maximum = get32(r->data + 10);
	expect(t, maximum >= preferred, "no less than the preferred size", "%" PRIu32, maximum);
}

static void
maximum_is_large(struct test *t)
{
	uint32_t maximum = get32(block_sizes(t)->data + 10);
	expect(t, maximum >= 1 << 20, "at least 1 MiB", "%" PRIu32, maximum);
}

static void
size_is_multiple_of_minimum(struct test *t)
{
	uint64_t size = t->target->size;
	expect(t, size % t->target->min_block == 0, "a multiple of the minimum block size",
		"%" PRIu64, size);
}

static void
sizes_are_never_required(struct test *t)
{
	struct session *s = session_open(t);
	struct query q = query_export(t, t->target->uri.export_name, 0, NULL);
	uint32_t type = option_ask(s, OPT_GO, q.data, q.length);
	expect(t, type == REP_ACK, "GO without INFO_BLOCK_SIZE to succeed", "%s", reply_name(type));
	expect_sync(s);
}

/* The string of an INFO reply, skipping where the server gives none. */
static const struct option_reply *
info_string(struct session *s, uint16_t type)
{
	const struct option_reply *r = find_info(s, type);
	if (r == NULL)
		skip(s->test, "the server does not tell it");
	return r;
}

static void
name_is_a_string(struct test *t)
{
	const struct option_reply *r = info_string(info(t), INFO_NAME);
	expect(t, string_is_valid(r->data + 2, r->length - 2),
		"UTF-8 without NUL, at most 4096 bytes", "%" PRIu32 " other bytes", r->length - 2);
}

static void
description_is_a_string(struct test *t)
{
	const struct option_reply *r = info_string(info(t), INFO_DESCRIPTION);
	expect(t, string_is_valid(r->data + 2, r->length - 2),
		"UTF-8 without NUL, at most 4096 bytes", "%" PRIu32 " other bytes", r->length - 2);
}

/* The LIST entry of the name that INFO_NAME tells; skips where it is not listed. */
static const struct option_reply *
listed_entry(struct session *s, const struct option_reply *name)
{
	option_expect(s, OPT_LIST, NULL, 0, REP_ACK);
	uint32_t length = name->length - 2;
	for (size_t i = 0; i < s->reply_count; i++) {
		const struct option_reply *r = &s->replies[i];
		if (r->type == REP_SERVER && r->length >= 4 + length && get32(r->data) == length &&
			memcmp(r->data + 4, name->data + 2, length) == 0)
			return r;
	}
	skip(s->test, "LIST does not have the export");
}

static void
name_leads_back(struct test *t)
{
	struct session *s = info(t);
	struct option_reply name = *info_string(s, INFO_NAME);
	uint64_t size = get64(find_info(s, INFO_EXPORT)->data + 2);
	uint32_t length = name.length - 2;
	uint8_t *data = take(t, length + 6u);
	put16(put_bytes(put32(data, length), name.data + 2, length), 0);
	option_expect(s, OPT_INFO, data, length + 6u, REP_ACK);
	uint64_t again = get64(find_info(s, INFO_EXPORT)->data + 2);
	expect(t, again == size, "the same export under its canonical name",
		"one of %" PRIu64 " bytes, not %" PRIu64, again, size);
}

static void
description_agrees_with_list(struct test *t)
{
	struct session *s = info(t);
	struct option_reply description = *info_string(s, INFO_DESCRIPTION);
	struct option_reply name = *info_string(s, INFO_NAME);
	const struct option_reply *r = listed_entry(s, &name);
	uint32_t length = r->length - 4 - get32(r->data);
	expect(t,
		length == 0 || (length == description.length - 2 &&
				       memcmp(r->data + r->length - length, description.data + 2,
					       length) == 0),
		"LIST's details to be INFO_DESCRIPTION", "others");
}

static void
each_information_once(struct test *t)
{
	struct session *s = info(t);
	for (uint16_t type = INFO_EXPORT; type <= INFO_BLOCK_SIZE; type++) {
		unsigned count = 0;
		for (size_t i = 0; i < s->reply_count; i++)
			count +=
				s->replies[i].type == REP_INFO && get16(s->replies[i].data) == type;
		expect(t, count <= 1, "each information once", "type %u %u times", type, count);
	}
}

/* INFO whose data breaks the form: an error, and the next option is understood. */
static void
expect_malformed(struct test *t, const uint8_t *data, size_t length)
{
	struct session *s = session_open(t);
	uint32_t type = option_ask(s, OPT_INFO, data, length);
	expect(t, (type & REP_ERROR) != 0, "an error", "%s", reply_name(type));
	prefer(t, type == REP_ERR_INVALID, "ERR_INVALID", "%s", reply_name(type));
	option_prefer_sync(s);
}

static void
name_longer_than_data(struct test *t)
{
	uint8_t data[16];
	put_bytes(put32(data, 11), "abcdefghijkl", 12);
	expect_malformed(t, data, sizeof data);
}

static void
data_too_short(struct test *t)
{
	uint8_t data[6] = {0};
	for (size_t length = 0; length < sizeof data; length++)
		expect_malformed(t, data, length);
}

static void
fewer_requests_than_told(struct test *t)
{
	struct query q = query_export(t, t->target->uri.export_name, 2, (uint16_t[]){0, 3});
	put16(q.data + q.length - 6, 3);
	expect_malformed(t, q.data, q.length);
}

static void
more_requests_than_told(struct test *t)
{
	struct query q = query_export(t, t->target->uri.export_name, 2, (uint16_t[]){0, 3});
	put16(q.data + q.length - 6, 1);
	expect_malformed(t, q.data, q.length);
}

static void
odd_trailing_byte(struct test *t)
{
	struct query q = query_export(t, t->target->uri.export_name, 0, NULL);
	uint8_t *data = take(t, q.length + 1);
	memcpy(data, q.data, q.length);
	expect_malformed(t, data, q.length + 1);
}

static void
malformed_go_does_not_go(struct test *t)
{
	struct query q = query_export(t, t->target->uri.export_name, 1, (uint16_t[]){0});
	put16(q.data + q.length - 4, 9);
	struct session *s = session_open(t);
	uint32_t type = option_ask(s, OPT_GO, q.data, q.length);
	expect(t, (type & REP_ERROR) != 0, "an error", "%s", reply_name(type));
	option_expect_sync(s);
	option_go(s);
	expect_sync(s);
}

static void
no_padding_after_go(struct test *t)
{
	struct session *s = session_begin(t, FIXED_NEWSTYLE);
	if (t->target->tls)
		session_start_tls(s);
	option_go(s);
	expect(t, conn_is_quiet(s->conn, QUIET_MS), "nothing after GO's ACK", "more bytes");
	expect_sync(s);
}

static void
has_flags(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	expect(t, (s->flags & HAS_FLAGS) != 0, "bit 0 set", "flags %#x", s->flags);
}

static void
go_clears_df(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	expect(t, (s->flags & SEND_DF) == 0, "SEND_DF clear without structured replies",
		"flags %#x", s->flags);
}

static void
info_clears_df(struct test *t)
{
	uint16_t flags = get16(find_info(info(t), INFO_EXPORT)->data + 10);
	expect(t, (flags & SEND_DF) == 0, "SEND_DF clear without structured replies", "flags %#x",
		flags);
}

static void
fast_zero_needs_zeroes(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	expect(t, (s->flags & SEND_FAST_ZERO) == 0 || (s->flags & SEND_WRITE_ZEROES) != 0,
		"FAST_ZERO only with WRITE_ZEROES", "flags %#x", s->flags);
}

static void
no_extension_flags(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	expect(t, (s->flags & STATUS_PAYLOAD) == 0,
		"BLOCK_STATUS_PAYLOAD clear without extended headers", "flags %#x", s->flags);
}

static void
info_keeps_structured(struct test *t)
{
	struct session *s = session_open(t);
	option_style(s, CHUNKED);
	option_info(s, OPT_INFO);
	expect_unknown(s, OPT_INFO);
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), FAULT_SIMPLE);
}

static void
default_export_agrees(struct test *t)
{
	struct session *s = session_open(t);
	struct query q = query_export(t, "", 0, NULL);
	uint32_t type = option_ask(s, OPT_INFO, q.data, q.length);
	if (type != REP_ACK) {
		expect(t,
			type == REP_ERR_UNKNOWN || type == REP_ERR_TLS_REQD ||
				type == REP_ERR_POLICY,
			"ACK, or ERR_UNKNOWN", "%s", reply_name(type));
		return;
	}
	uint64_t size = get64(find_info(s, INFO_EXPORT)->data + 2);
	s = session_begin(t, FIXED_NEWSTYLE);
	if (t->target->tls)
		session_start_tls(s);
	option_send(s, OPT_EXPORT_NAME, NULL, 0);
	uint8_t answer[134];
	expect(t, conn_read(s->conn, answer, sizeof answer),
		"EXPORT_NAME to know the default export", "a closed connection");
	expect(t, get64(answer) == size, "the size that INFO told", "%" PRIu64, get64(answer));
}

static const struct check checks[] = {
	{"I01", MUST, "NBD_REP_INFO", 0, "INFO tells INFO_EXPORT before ACK", info_tells_export},
	{"I02", MUST, "NBD_INFO_EXPORT", 0, "INFO_EXPORT has 12 bytes", info_export_is_12},
	{"I03", MUST, "NBD_OPT_INFO", 0, "INFO without information requests succeeds",
		info_without_requests},
	{"I04", MUST, "NBD_REP_ERR_UNKNOWN", 0, "INFO of an unknown name is answered ERR_UNKNOWN",
		info_of_unknown_name},
	{"I05", SHOULD, "NBD_OPT_INFO", 0, "an unknown name gets no INFO replies",
		unknown_name_has_no_info},
	{"I06", MUST, "NBD_OPT_GO", 0, "GO of an unknown name is an error, and haggling goes on",
		go_of_unknown_name},
	{"I07", MUST, "NBD_OPT_GO", 0, "GO succeeds after a GO that failed", go_after_failed_go},
	{"I08", MUST, "NBD_OPT_INFO", 0, "INFO does not enter the transmission phase",
		info_does_not_go},
	{"I09", MUST, "NBD_OPT_INFO", 0, "GO after INFO gives the same information",
		go_repeats_info},
	{"I10", MUST, "NBD_OPT_INFO", 0, "unknown information requests are ignored",
		unknown_requests_are_ignored},
	{"I11", MUST, "NBD_OPT_INFO", 0, "200 information requests are borne",
		many_requests_are_ignored},
	{"I12", MUST, "NBD_INFO_BLOCK_SIZE", BLOCK_SIZES, "INFO_BLOCK_SIZE has 14 bytes",
		block_size_is_14},
	{"I13", MUST, "Size constraints", BLOCK_SIZES,
		"the minimum block size is a power of 2 to 65536", minimum_is_sane},
	{"I14", MUST, "Size constraints", BLOCK_SIZES,
		"the preferred block size is a power of 2, not below 512 and the minimum",
		preferred_is_sane},
	{"I15", MUST, "Size constraints", BLOCK_SIZES,
		"the maximum payload is not below the preferred block size", maximum_is_sane},
	{"I16", SHOULD, "Size constraints", BLOCK_SIZES, "the maximum payload is 1 MiB or more",
		maximum_is_large},
	{"I17", SHOULD, "Size constraints", BLOCK_SIZES,
		"the size is a multiple of the minimum block size", size_is_multiple_of_minimum},
	{"I18", SHOULD, "Size constraints", 0, "GO succeeds though no block sizes are asked for",
		sizes_are_never_required},
	{"I19", MUST, "Conventions", 0, "INFO_NAME is a valid string", name_is_a_string},
	{"I20", MUST, "Conventions", 0, "INFO_DESCRIPTION is a valid string",
		description_is_a_string},
	{"I21", MUST, "NBD_INFO_NAME", 0, "INFO_NAME names the same export", name_leads_back},
	{"I22", MUST, "NBD_INFO_DESCRIPTION", LISTS, "INFO_DESCRIPTION is what LIST says",
		description_agrees_with_list},
	{"I23", SHOULD, "NBD_REP_INFO", 0, "each information comes once", each_information_once},
	{"I24", MUST, "NBD_OPT_INFO", 0, "a name longer than the data is an error, and drained",
		name_longer_than_data},
	{"I25", MUST, "NBD_OPT_INFO", 0, "data shorter than 6 bytes is an error", data_too_short},
	{"I26", MUST, "NBD_OPT_INFO", 0,
		"fewer information requests than told is an error, and drained",
		fewer_requests_than_told},
	{"I27", SHOULD, "NBD_OPT_INFO", 0,
		"more information requests than told is an error, and drained",
		more_requests_than_told},
	{"I28", SHOULD, "NBD_OPT_INFO", 0, "a trailing byte is an error, and drained",
		odd_trailing_byte},
	{"I29", MUST, "NBD_OPT_GO", 0, "a malformed GO does not enter the transmission phase",
		malformed_go_does_not_go},
	{"I30", MUST, "NBD_OPT_GO", 0, "no padding follows GO without NO_ZEROES",
		no_padding_after_go},
	{"I31", MUST, "Transmission flags", 0, "HAS_FLAGS is set", has_flags},
	{"I32", MUST, "Transmission flags", 0, "GO clears SEND_DF without structured replies",
		go_clears_df},
	{"I33", MUST, "Transmission flags", 0, "INFO clears SEND_DF without structured replies",
		info_clears_df},
	{"I34", MUST, "Transmission flags", 0, "FAST_ZERO is told only with WRITE_ZEROES",
		fast_zero_needs_zeroes},
	{"I35", MUST, "Transmission flags", 0,
		"BLOCK_STATUS_PAYLOAD is not told without extended headers", no_extension_flags},
	{"I36", MUST, "NBD_OPT_STRUCTURED_REPLY", STRUCTURED,
		"INFO leaves structured replies negotiated", info_keeps_structured},
	{"I37", MUST, "NBD_OPT_INFO", 0, "the empty name is the default export, or unknown",
		default_export_agrees},
};

const struct group info_group = {"info", "proto.md", checks, COUNT_OF(checks)};
