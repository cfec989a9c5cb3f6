#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const allocation[] = {"base:allocation"};
static const char *const wildcard[] = {"base:"};
static const char *const unknown_leaf[] = {"base:nbdcheck-no-such-leaf"};
static const char *const unknown_space[] = {"x-nbdcheck-unknown:leaf"};
static const char *const no_colon[] = {"nbdcheck"};

static struct session *
open_chunked(struct test *t)
{
	struct session *s = session_open(t);
	option_style(s, CHUNKED);
	return s;
}

/* LIST or SET of queries on the target's export; the final reply's type. */
static uint32_t
ask(struct session *s, uint32_t option, size_t count, const char *const *queries)
{
	struct query q = query_contexts(s->test, s->test->target->uri.export_name, count, queries);
	return option_ask(s, option, q.data, q.length);
}

/* The same, which must succeed with so many contexts. */
static void
expect_contexts(
	struct session *s, uint32_t option, size_t count, const char *const *queries, size_t want)
{
	struct test *t = s->test;
	uint32_t type = ask(s, option, count, queries);
	expect(t, type == REP_ACK, "ACK", "%s", reply_name(type));
	size_t contexts = count_replies(s, REP_META_CONTEXT);
	expect(t, contexts == want, want == 0 ? "no context" : "one context", "%zu", contexts);
	expect(t, want == 0 || find_context(s, allocation[0]) != NULL, "base:allocation",
		"another context");
}

/* Enters the transmission phase; BLOCK_STATUS must not be possible there, or must. */
static void
expect_selection(struct session *s, bool selected)
{
	option_go(s);
	struct reply *r = submit(s, CMD_BLOCK_STATUS, 0, 0, block_of(s->test), NULL);
	await_or_close(s, r);
	if (selected)
		expect(s->test, r->done && r->error == 0 && r->status_count > 0,
			"BLOCK_STATUS to succeed: the context is still selected", "%s",
			r->closed ? "a closed connection" : error_name(r->error));
	else
		expect(s->test, r->error != 0 || r->closed,
			"BLOCK_STATUS refused: no context is selected", "success");
}

static void
list_all(struct test *t)
{
	struct session *s = open_chunked(t);
	uint32_t type = ask(s, OPT_LIST_META_CONTEXT, 0, NULL);
	expect(t, type == REP_ACK, "ACK", "%s", reply_name(type));
	expect(t, find_context(s, allocation[0]) != NULL || find_context(s, wildcard[0]) != NULL,
		"base:allocation, or base: as a wildcard", "%zu others",
		count_replies(s, REP_META_CONTEXT));
}

static void
list_wildcard(struct test *t)
{
	expect_contexts(open_chunked(t), OPT_LIST_META_CONTEXT, 1, wildcard, 1);
}

static void
list_by_name(struct test *t)
{
	expect_contexts(open_chunked(t), OPT_LIST_META_CONTEXT, 1, allocation, 1);
}

static void
list_unknown_namespace(struct test *t)
{
	expect_contexts(open_chunked(t), OPT_LIST_META_CONTEXT, 1, unknown_space, 0);
}

static void
list_unknown_leaf(struct test *t)
{
	expect_contexts(open_chunked(t), OPT_LIST_META_CONTEXT, 1, unknown_leaf, 0);
}

static void
list_ids_are_zero(struct test *t)
{
	struct session *s = open_chunked(t);
	ask(s, OPT_LIST_META_CONTEXT, 1, wildcard);
	for (size_t i = 0; i < s->reply_count; i++)
		if (s->replies[i].type == REP_META_CONTEXT && s->replies[i].length >= 4)
			expect(t, get32(s->replies[i].data) == 0, "context id 0 in LIST",
				"%" PRIu32, get32(s->replies[i].data));
}

static void
names_have_a_namespace(struct test *t)
{
	struct session *s = open_chunked(t);
	ask(s, OPT_LIST_META_CONTEXT, 0, NULL);
	for (size_t i = 0; i < s->reply_count; i++) {
		const struct option_reply *r = &s->replies[i];
		if (r->type != REP_META_CONTEXT)
			continue;
		size_t length = r->length - 4;
		expect(t, r->length > 4 && string_is_valid(r->data + 4, length), "a valid string",
			"%zu other bytes", length);
		const uint8_t *colon = memchr(r->data + 4, ':', length);
		expect(t, colon != NULL && colon > r->data + 4, "NAMESPACE:LEAF", "\"%.*s\"",
			(int)length, (const char *)r->data + 4);
	}
}

static void
list_without_structured_is_answered(struct test *t)
{
	struct session *s = session_open(t);
	uint32_t type = ask(s, OPT_LIST_META_CONTEXT, 1, allocation);
	expect(t, type == REP_ACK || type == REP_ERR_INVALID || type == REP_ERR_EXT_HEADER_REQD,
		"ACK or ERR_INVALID", "%s", reply_name(type));
	option_expect_sync(s);
}

/* Broken forms */

static void
expect_invalid(struct session *s, uint32_t option, const uint8_t *data, size_t length)
{
	option_expect(s, option, data, length, REP_ERR_INVALID);
	option_prefer_sync(s);
}

static void
break_query_length(struct test *t, uint32_t option)
{
	struct query q = query_contexts(t, t->target->uri.export_name, 1, allocation);
	put32(q.data + q.length - 15 - 4, 16);
	expect_invalid(open_chunked(t), option, q.data, q.length);
}

static void
list_query_too_long(struct test *t)
{
	break_query_length(t, OPT_LIST_META_CONTEXT);
}

static void
set_query_too_long(struct test *t)
{
	break_query_length(t, OPT_SET_META_CONTEXT);
}

static void
break_query_count(struct test *t, uint32_t option)
{
	struct query q = query_contexts(t, t->target->uri.export_name, 1, allocation);
	put32(q.data + q.length - 15 - 8, 2);
	expect_invalid(open_chunked(t), option, q.data, q.length);
}

static void
list_queries_missing(struct test *t)
{
	break_query_count(t, OPT_LIST_META_CONTEXT);
}

static void
set_queries_missing(struct test *t)
{
	break_query_count(t, OPT_SET_META_CONTEXT);
}

static void
list_name_too_long(struct test *t)
{
	struct query q = query_contexts(t, t->target->uri.export_name, 1, allocation);
	put32(q.data, (uint32_t)q.length - 3);
	expect_invalid(open_chunked(t), OPT_LIST_META_CONTEXT, q.data, q.length);
}

static void
set_name_too_long(struct test *t)
{
	struct query q = query_contexts(t, t->target->uri.export_name, 1, allocation);
	put32(q.data, (uint32_t)q.length - 3);
	expect_invalid(open_chunked(t), OPT_SET_META_CONTEXT, q.data, q.length);
}

static void
add_trailing_byte(struct test *t, uint32_t option)
{
	struct query q = query_contexts(t, t->target->uri.export_name, 1, allocation);
	uint8_t *data = take(t, q.length + 1);
	memcpy(data, q.data, q.length);
	expect_invalid(open_chunked(t), option, data, q.length + 1);
}

static void
list_trailing_byte(struct test *t)
{
	add_trailing_byte(t, OPT_LIST_META_CONTEXT);
}

static void
set_trailing_byte(struct test *t)
{
	add_trailing_byte(t, OPT_SET_META_CONTEXT);
}

static void
short_data(struct test *t)
{
	uint8_t data[7] = {0};
	struct session *s = open_chunked(t);
	for (size_t length = 0; length < sizeof data; length++)
		expect_invalid(s, OPT_LIST_META_CONTEXT, data, length);
}

static void
no_colon_selects_nothing(struct test *t)
{
	struct session *s = open_chunked(t);
	uint32_t type = ask(s, OPT_SET_META_CONTEXT, 1, no_colon);
	expect(t, type == REP_ACK || type == REP_ERR_INVALID, "ERR_INVALID, or ACK", "%s",
		reply_name(type));
	expect(t, count_replies(s, REP_META_CONTEXT) == 0, "no context", "one");
	expect_selection(s, false);
}

/* SET */

static void
set_by_name(struct test *t)
{
	struct session *s = open_chunked(t);
	expect_contexts(s, OPT_SET_META_CONTEXT, 1, allocation, 1);
	expect_selection(s, true);
}

static void
set_without_structured(struct test *t)
{
	struct session *s = session_open(t);
	uint32_t type = ask(s, OPT_SET_META_CONTEXT, 1, allocation);
	expect(t, type == REP_ERR_INVALID || type == REP_ERR_EXT_HEADER_REQD, "ERR_INVALID", "%s",
		reply_name(type));
	option_expect_sync(s);
}

static void
set_nothing(struct test *t)
{
	struct session *s = open_chunked(t);
	expect_contexts(s, OPT_SET_META_CONTEXT, 0, NULL, 0);
	expect_selection(s, false);
}

static void
set_wildcard(struct test *t)
{
	struct session *s = open_chunked(t);
	expect_contexts(s, OPT_SET_META_CONTEXT, 1, wildcard, 0);
	expect_selection(s, false);
}

static void
set_unknown_namespace(struct test *t)
{
	expect_contexts(open_chunked(t), OPT_SET_META_CONTEXT, 1, unknown_space, 0);
}

static void
set_unknown_leaf(struct test *t)
{
	expect_contexts(open_chunked(t), OPT_SET_META_CONTEXT, 1, unknown_leaf, 0);
}

static void
set_among_unknown(struct test *t)
{
	const char *const queries[] = {unknown_space[0], "base:", allocation[0], unknown_leaf[0]};
	struct session *s = open_chunked(t);
	expect_contexts(s, OPT_SET_META_CONTEXT, 4, queries, 1);
	expect_selection(s, true);
}

static void
set_twice_in_one(struct test *t)
{
	const char *const queries[] = {allocation[0], allocation[0]};
	expect_contexts(open_chunked(t), OPT_SET_META_CONTEXT, 2, queries, 1);
}

static void
set_ids_are_unique(struct test *t)
{
	struct session *s = open_chunked(t);
	uint32_t type = ask(s, OPT_LIST_META_CONTEXT, 0, NULL);
	const char *names[CONTEXTS_MAX];
	size_t count = 0;
	for (size_t i = 0; type == REP_ACK && i + 1 < s->reply_count && count < CONTEXTS_MAX; i++) {
		char *name = take(t, s->replies[i].length);
		memcpy(name, s->replies[i].data + 4, s->replies[i].length - 4);
		names[count++] = name;
	}
	ask(s, OPT_SET_META_CONTEXT, count, names);
	for (size_t i = 0; i + 1 < s->reply_count; i++)
		for (size_t j = i + 1; j + 1 < s->reply_count; j++)
			expect(t, get32(s->replies[i].data) != get32(s->replies[j].data),
				"a unique id for each context", "%" PRIu32 " twice",
				get32(s->replies[i].data));
}

static void
set_many_queries(struct test *t)
{
	const char *queries[64];
	for (size_t i = 0; i < COUNT_OF(queries); i++) {
		char *name = take(t, 32);
		snprintf(name, 32, "x-nbdcheck:%zu", i);
		queries[i] = name;
	}
	queries[63] = allocation[0];
	struct session *s = open_chunked(t);
	uint32_t type = ask(s, OPT_SET_META_CONTEXT, COUNT_OF(queries), queries);
	expect(t, type == REP_ACK || type == REP_ERR_TOO_BIG, "ACK or ERR_TOO_BIG", "%s",
		reply_name(type));
	expect_selection(s, type == REP_ACK);
}

static void
set_long_query(struct test *t)
{
	char *name = take(t, STRING_MAX + 1);
	memset(name, 'q', STRING_MAX);
	memcpy(name, "x-nbdcheck:", 11);
	const char *const queries[] = {name};
	expect_contexts(open_chunked(t), OPT_SET_META_CONTEXT, 1, queries, 0);
}

/* What replaces a selection, and what must not */

static struct session *
open_selected(struct test *t)
{
	struct session *s = open_chunked(t);
	option_select(s);
	return s;
}

static void
set_replaces(struct test *t)
{
	struct session *s = open_selected(t);
	expect_contexts(s, OPT_SET_META_CONTEXT, 1, unknown_space, 0);
	expect_selection(s, false);
}

static void
failed_set_clears(struct test *t)
{
	struct session *s = open_selected(t);
	struct query q = query_contexts(t, t->target->uri.export_name, 1, allocation);
	put32(q.data + q.length - 15 - 4, 0x10000);
	uint32_t type = option_ask(s, OPT_SET_META_CONTEXT, q.data, q.length);
	if ((type & REP_ERROR) == 0)
		fail(t, "an error", "%s", reply_name(type));
	expect_selection(s, false);
}

static void
set_of_another_export_clears(struct test *t)
{
	struct session *s = open_selected(t);
	struct query q = query_contexts(t, "nbdcheck: another export", 1, allocation);
	option_ask(s, OPT_SET_META_CONTEXT, q.data, q.length);
	expect_selection(s, false);
}

static void
info_keeps(struct test *t)
{
	struct session *s = open_selected(t);
	option_info(s, OPT_INFO);
	expect_selection(s, true);
}

static void
list_keeps(struct test *t)
{
	struct session *s = open_selected(t);
	option_ask(s, OPT_LIST, NULL, 0);
	expect_selection(s, true);
}

static void
info_of_unknown_keeps(struct test *t)
{
	struct session *s = open_selected(t);
	struct query q = query_export(t, "nbdcheck: no such export", 0, NULL);
	option_ask(s, OPT_INFO, q.data, q.length);
	expect_selection(s, true);
}

static void
go_of_unknown_keeps(struct test *t)
{
	struct session *s = open_selected(t);
	struct query q = query_export(t, "nbdcheck: no such export", 0, NULL);
	if (option_ask(s, OPT_GO, q.data, q.length) == REP_ACK)
		skip(t, "the server has an export of every name");
	expect_selection(s, true);
}

static void
list_meta_keeps(struct test *t)
{
	struct session *s = open_selected(t);
	ask(s, OPT_LIST_META_CONTEXT, 1, unknown_space);
	expect_selection(s, true);
}

static void
list_meta_selects_nothing(struct test *t)
{
	struct session *s = open_chunked(t);
	ask(s, OPT_LIST_META_CONTEXT, 1, allocation);
	expect_selection(s, false);
}

static void
unknown_option_keeps(struct test *t)
{
	struct session *s = open_selected(t);
	option_expect_sync(s);
	expect_selection(s, true);
}

static void
export_name_keeps(struct test *t)
{
	struct session *s = session_begin(t, FIXED_NEWSTYLE);
	if (t->target->tls)
		session_start_tls(s);
	option_style(s, CHUNKED);
	option_select(s);
	const char *name = t->target->uri.export_name;
	option_send(s, OPT_EXPORT_NAME, name, strlen(name));
	uint8_t answer[134];
	if (!conn_read(s->conn, answer, sizeof answer))
		fail(t, "the export", "a closed connection");
	struct reply *r = request(s, CMD_BLOCK_STATUS, 0, 0, block_of(t), NULL);
	expect(t, r->error == 0 && r->status_count == 1, "BLOCK_STATUS to succeed", "%s",
		error_name(r->error));
}

static const struct check checks[] = {
	{"M01", MUST, "NBD_OPT_LIST_META_CONTEXT", META,
		"LIST without queries names base:allocation", list_all},
	{"M02", MUST, "The base: metadata namespace", META, "base: is a wildcard in LIST",
		list_wildcard},
	{"M03", MUST, "NBD_OPT_LIST_META_CONTEXT", META, "LIST finds base:allocation by name",
		list_by_name},
	{"M04", MUST, "NBD_OPT_LIST_META_CONTEXT", META, "LIST ignores an unknown namespace",
		list_unknown_namespace},
	{"M05", MUST, "The base: metadata namespace", META,
		"LIST ignores an unknown leaf of base:", list_unknown_leaf},
	{"M06", SHOULD, "NBD_OPT_LIST_META_CONTEXT", META, "LIST's context ids are 0",
		list_ids_are_zero},
	{"M07", MUST, "Metadata querying", META,
		"context names are NAMESPACE:LEAF and valid strings", names_have_a_namespace},
	{"M08", MUST, "NBD_OPT_LIST_META_CONTEXT", META,
		"LIST before structured replies is answered ACK or ERR_INVALID",
		list_without_structured_is_answered},
	{"M09", MUST, "NBD_OPT_LIST_META_CONTEXT", META,
		"LIST: a query longer than the data is ERR_INVALID, and drained",
		list_query_too_long},
	{"M10", MUST, "NBD_OPT_LIST_META_CONTEXT", META,
		"LIST: fewer queries than told is ERR_INVALID, and drained", list_queries_missing},
	{"M11", MUST, "NBD_OPT_LIST_META_CONTEXT", META,
		"LIST: a name longer than the data is ERR_INVALID, and drained",
		list_name_too_long},
	{"M12", MUST, "NBD_OPT_LIST_META_CONTEXT", META,
		"LIST: a trailing byte is ERR_INVALID, and drained", list_trailing_byte},
	{"M13", MUST, "NBD_OPT_LIST_META_CONTEXT", META,
		"LIST: data shorter than 8 bytes is ERR_INVALID", short_data},
	{"M14", SHOULD, "NBD_OPT_SET_META_CONTEXT", META,
		"SET: a query longer than the data is ERR_INVALID, and drained",
		set_query_too_long},
	{"M15", SHOULD, "NBD_OPT_SET_META_CONTEXT", META,
		"SET: fewer queries than told is ERR_INVALID, and drained", set_queries_missing},
	{"M16", SHOULD, "NBD_OPT_SET_META_CONTEXT", META,
		"SET: a name longer than the data is ERR_INVALID, and drained", set_name_too_long},
	{"M17", SHOULD, "NBD_OPT_SET_META_CONTEXT", META,
		"SET: a trailing byte is ERR_INVALID, and drained", set_trailing_byte},
	{"M18", MUST, "Metadata querying", META, "a query without a colon selects nothing",
		no_colon_selects_nothing},
	{"M19", MUST, "NBD_OPT_SET_META_CONTEXT", META, "SET base:allocation selects it",
		set_by_name},
	{"M20", SHOULD, "NBD_OPT_SET_META_CONTEXT", META,
		"SET before structured replies is ERR_INVALID", set_without_structured},
	{"M21", MUST, "NBD_OPT_SET_META_CONTEXT", META, "SET without queries selects nothing",
		set_nothing},
	{"M22", MUST, "The base: metadata namespace", META, "base: selects nothing in SET",
		set_wildcard},
	{"M23", MUST, "NBD_OPT_SET_META_CONTEXT", META,
		"SET of an unknown namespace is ACK, no context", set_unknown_namespace},
	{"M24", MUST, "The base: metadata namespace", META,
		"SET of an unknown leaf of base: is ACK, no context", set_unknown_leaf},
	{"M25", MUST, "NBD_OPT_SET_META_CONTEXT", META,
		"SET finds base:allocation among unknown queries", set_among_unknown},
	{"M26", MUST, "NBD_OPT_SET_META_CONTEXT", META,
		"a context asked for twice is selected once", set_twice_in_one},
	{"M27", MUST, "NBD_OPT_SET_META_CONTEXT", META, "the ids of selected contexts are unique",
		set_ids_are_unique},
	{"M28", MUST, "NBD_OPT_SET_META_CONTEXT", META,
		"64 queries are answered ACK or ERR_TOO_BIG", set_many_queries},
	{"M29", MUST, "Conventions", META, "a query of 4096 bytes is read and ignored",
		set_long_query},
	{"M30", MUST, "NBD_OPT_SET_META_CONTEXT", META, "SET replaces the earlier selection",
		set_replaces},
	{"M31", MUST, "NBD_OPT_SET_META_CONTEXT", META,
		"a failed SET_META_CONTEXT clears the selection", failed_set_clears},
	{"M32", MUST, "NBD_CMD_BLOCK_STATUS", META, "SET for another export clears the selection",
		set_of_another_export_clears},
	{"M33", MUST, "NBD_OPT_SET_META_CONTEXT", META, "INFO in between keeps the selection",
		info_keeps},
	{"M34", MUST, "NBD_OPT_SET_META_CONTEXT", META, "LIST in between keeps the selection",
		list_keeps},
	{"M35", MUST, "NBD_OPT_SET_META_CONTEXT", META,
		"INFO of an unknown name keeps the selection", info_of_unknown_keeps},
	{"M36", MUST, "NBD_OPT_SET_META_CONTEXT", META,
		"a failed GO of an unknown name keeps the selection", go_of_unknown_keeps},
	{"M37", MUST, "NBD_OPT_SET_META_CONTEXT", META, "LIST_META_CONTEXT keeps the selection",
		list_meta_keeps},
	{"M38", MUST, "NBD_OPT_SET_META_CONTEXT", META, "LIST_META_CONTEXT selects nothing",
		list_meta_selects_nothing},
	{"M39", MUST, "NBD_OPT_SET_META_CONTEXT", META, "an unknown option keeps the selection",
		unknown_option_keeps},
	{"M40", MUST, "NBD_OPT_SET_META_CONTEXT", META, "a selection holds through EXPORT_NAME",
		export_name_keeps},
};

const struct group meta_group = {"meta", "proto.md", checks, COUNT_OF(checks)};
