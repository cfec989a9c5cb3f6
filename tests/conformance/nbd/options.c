#include "config.h"
#include "session.h"

#include "target.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	REPLY_MAX = 1 << 20, /* no option has a longer reply */
	REPLIES_MAX = 65536, /* nor more of them */
};

void
option_send(struct session *s, uint32_t option, const void *data, size_t length)
{
	uint8_t *message = take(s->test, 16 + length);
	put_bytes(put32(put32(put64(message, IHAVEOPT), option), (uint32_t)length), data, length);
	sent(s->test, "%s with %zu bytes of data", option_name(option), length);
	conn_write(s->conn, message, 16 + length);
}

bool
option_read(struct session *s, uint32_t option, struct option_reply *reply)
{
	uint8_t header[20];
	if (!conn_read(s->conn, header, sizeof header))
		return false;
	*reply = (struct option_reply){.option = get32(header + 8),
		.type = get32(header + 12),
		.length = get32(header + 16)};
	if (get64(header) != OPTION_REPLY)
		fail(s->test, "an option reply, magic 0x3e889045565a9", "magic %#" PRIx64,
			get64(header));
	if (reply->option != option)
		fail(s->test, "a reply that names the option it answers", "a reply to %s",
			option_name(reply->option));
	if (reply->length > REPLY_MAX)
		fail(s->test, "an option reply of sane length", "%s of %" PRIu32 " bytes",
			reply_name(reply->type), reply->length);
	/* With room behind it, so that a reply that is too short has zeroes for fields. */
	reply->data = take(s->test, reply->length + 32u);
	return conn_read(s->conn, reply->data, reply->length);
}

static void
keep_reply(struct session *s, const struct option_reply *reply)
{
	if (s->reply_count == REPLIES_MAX)
		fail(s->test, "a final reply", "%u replies without one", REPLIES_MAX);
	if (s->reply_count == s->reply_room) {
		size_t room = s->reply_room * 2 + 16;
		struct option_reply *replies = take(s->test, room * sizeof *replies);
		if (s->reply_count > 0)
			memcpy(replies, s->replies, s->reply_count * sizeof *replies);
		s->replies = replies;
		s->reply_room = room;
	}
	s->replies[s->reply_count++] = *reply;
}

/* Which replies may come before the final one, and are long enough for their first field. */
static bool
reply_fits(uint32_t option, const struct option_reply *r)
{
	if (option == OPT_LIST)
		return r->type == REP_SERVER && r->length >= 4;
	if (option == OPT_INFO || option == OPT_GO)
		return r->type == REP_INFO && r->length >= 2;
	if (option == OPT_LIST_META_CONTEXT || option == OPT_SET_META_CONTEXT)
		return r->type == REP_META_CONTEXT && r->length >= 4;
	return false;
}

uint32_t
option_try(struct session *s, uint32_t option, const void *data, size_t length)
{
	s->reply_count = 0;
	option_send(s, option, data, length);
	struct option_reply reply;
	while (option_read(s, option, &reply)) {
		keep_reply(s, &reply);
		if (reply.type == REP_ACK || (reply.type & REP_ERROR) != 0)
			return reply.type;
		if (!reply_fits(option, &reply))
			fail(s->test, "a reply that the option has", "%s of %" PRIu32 " bytes",
				reply_name(reply.type), reply.length);
	}
	return 0;
}

uint32_t
option_ask(struct session *s, uint32_t option, const void *data, size_t length)
{
	uint32_t type = option_try(s, option, data, length);
	expect(s->test, type != 0, "a reply to the option", "%s", conn_tls_error(s->conn));
	return type;
}

void
option_expect(struct session *s, uint32_t option, const void *data, size_t length, uint32_t want)
{
	uint32_t type = option_ask(s, option, data, length);
	expect(s->test, type == want, reply_name(want), "%s", reply_name(type));
}

void
option_expect_sync(struct session *s)
{
	char before[sizeof s->test->sent];
	snprintf(before, sizeof before, "%s", s->test->sent);
	uint32_t type = option_try(s, OPT_UNKNOWN, NULL, 0);
	expect(s->test, type == REP_ERR_UNSUP, "the next (unknown) option answered ERR_UNSUP",
		"%s, after %s", reply_name(type), before);
}

void
option_prefer_sync(struct session *s)
{
	char before[sizeof s->test->sent];
	snprintf(before, sizeof before, "%s", s->test->sent);
	uint32_t type = option_try(s, OPT_UNKNOWN, NULL, 0);
	prefer(s->test, type != 0, "the next (unknown) option to be answered",
		"a closed connection, after %s", before);
	expect(s->test, type == 0 || type == REP_ERR_UNSUP,
		"the next (unknown) option answered ERR_UNSUP", "%s, after %s", reply_name(type),
		before);
}

struct query
query_export(struct test *t, const char *name, size_t count, const uint16_t *requests)
{
	size_t name_length = strlen(name);
	struct query q = {.length = 4 + name_length + 2 + 2 * count};
	q.data = take(t, q.length);
	uint8_t *p = put_bytes(put32(q.data, (uint32_t)name_length), name, name_length);
	p = put16(p, (uint16_t)count);
	for (size_t i = 0; i < count; i++)
		p = put16(p, requests[i]);
	return q;
}

struct query
query_contexts(struct test *t, const char *name, size_t count, const char *const *list)
{
	size_t name_length = strlen(name);
	struct query q = {.length = 4 + name_length + 4};
	for (size_t i = 0; i < count; i++)
		q.length += 4 + strlen(list[i]);
	q.data = take(t, q.length);
	uint8_t *p = put_bytes(put32(q.data, (uint32_t)name_length), name, name_length);
	p = put32(p, (uint32_t)count);
	for (size_t i = 0; i < count; i++)
		p = put_bytes(put32(p, (uint32_t)strlen(list[i])), list[i], strlen(list[i]));
	return q;
}

uint32_t
option_info(struct session *s, uint32_t option)
{
	static const uint16_t all[] = {INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE};
	struct query q = query_export(s->test, s->test->target->uri.export_name, 4, all);
	return option_ask(s, option, q.data, q.length);
}

const struct option_reply *
find_info(const struct session *s, uint16_t type)
{
	const struct option_reply *found = NULL;
	for (size_t i = 0; i < s->reply_count; i++) {
		const struct option_reply *r = &s->replies[i];
		if (r->type == REP_INFO && r->length >= 2 && get16(r->data) == type)
			found = r;
	}
	return found;
}

const struct option_reply *
find_context(const struct session *s, const char *name)
{
	for (size_t i = 0; i < s->reply_count; i++) {
		const struct option_reply *r = &s->replies[i];
		if (r->type == REP_META_CONTEXT && r->length == 4 + strlen(name) &&
			memcmp(r->data + 4, name, strlen(name)) == 0)
			return r;
	}
	return NULL;
}

size_t
count_replies(const struct session *s, uint32_t type)
{
	size_t count = 0;
	for (size_t i = 0; i < s->reply_count; i++)
		count += s->replies[i].type == type;
	return count;
}

void
option_select(struct session *s)
{
	static const char *const names[] = {"base:allocation"};
	struct query q = query_contexts(s->test, s->test->target->uri.export_name, 1, names);
	uint32_t type = option_ask(s, OPT_SET_META_CONTEXT, q.data, q.length);
	const struct option_reply *r = find_context(s, names[0]);
	if (type != REP_ACK || r == NULL)
		fail(s->test, "base:allocation to be selected", "%s, %s", reply_name(type),
			r != NULL ? "selected" : "not selected");
	s->context = get32(r->data);
	s->selected = true;
}

void
option_style(struct session *s, enum style style)
{
	static const uint32_t options[] = {
		[CHUNKED] = OPT_STRUCTURED_REPLY, [WIDE] = OPT_EXTENDED_HEADERS};
	if (style == COMPACT)
		return;
	uint32_t type = option_ask(s, options[style], NULL, 0);
	if (type == REP_ERR_UNSUP)
		skip(s->test, "the server does not offer %s", option_name(options[style]));
	if (type != REP_ACK)
		fail(s->test, "ACK", "%s", reply_name(type));
	s->style = style;
}

void
option_go(struct session *s)
{
	uint32_t type = option_info(s, OPT_GO);
	if (type != REP_ACK) {
		const struct option_reply *last = &s->replies[s->reply_count - 1];
		fail(s->test, "GO to be answered with ACK", "%s: %.*s", reply_name(type),
			(int)(last->length < 200 ? last->length : 200), (const char *)last->data);
	}
	const struct option_reply *r = find_info(s, INFO_EXPORT);
	if (r == NULL || r->length != 12)
		fail(s->test, "INFO_EXPORT of 12 bytes before ACK", "%s",
			r == NULL ? "none" : "another length");
	s->size = get64(r->data + 2);
	s->flags = get16(r->data + 10);
}
