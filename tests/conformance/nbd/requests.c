#include "config.h"
#include "session.h"

#include "target.h"

#include <inttypes.h>
#include <string.h>

uint32_t
block_of(const struct test *t)
{
	return t->target->min_block > SECTOR ? t->target->min_block : SECTOR;
}

uint64_t
end_of(const struct test *t)
{
	return t->target->size / t->target->min_block * t->target->min_block;
}

size_t
build_request(const struct session *s, uint8_t header[32], uint16_t type, uint16_t flags,
	uint64_t cookie, uint64_t offset, uint64_t length)
{
	bool wide = s->style == WIDE;
	uint8_t *p = put32(header, wide ? EXT_REQUEST_MAGIC : REQUEST_MAGIC);
	p = put64(put64(put16(put16(p, flags), type), cookie), offset);
	p = wide ? put64(p, length) : put32(p, (uint32_t)length);
	return (size_t)(p - header);
}

struct reply *
expect_reply_to(struct session *s, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t length)
{
	struct reply *r = take(s->test, sizeof *r);
	*r = (struct reply){.type = type, .cookie = cookie, .offset = offset, .length = length};
	LIST_INSERT_HEAD(&s->pending, r, link);
	return r;
}

struct reply *
submit(struct session *s, uint16_t type, uint16_t flags, uint64_t offset, uint64_t length,
	const void *payload)
{
	uint8_t header[32];
	if (type == CMD_WRITE && s->style == WIDE && payload != NULL)
		flags |= PAYLOAD_LEN;
	struct reply *r = expect_reply_to(s, type, s->next_cookie++, offset, length);
	size_t n = build_request(s, header, type, flags, r->cookie, offset, length);
	sent(s->test, "%s flags %s cookie %#" PRIx64 " offset %" PRIu64 " length %" PRIu64,
		command_name(type), flags_text(flags), r->cookie, offset, length);
	conn_write(s->conn, header, n);
	if (payload != NULL)
		conn_write(s->conn, payload, length);
	return r;
}

void
await_or_close(struct session *s, struct reply *r)
{
	while (!r->done && !r->closed)
		if (!reply_read(s))
			r->closed = true;
}

void
await(struct session *s, struct reply *r)
{
	await_or_close(s, r);
	expect(s->test, !r->closed, "a reply", "the connection was closed");
}

struct reply *
request(struct session *s, uint16_t type, uint16_t flags, uint64_t offset, uint64_t length,
	const void *payload)
{
	struct reply *r = submit(s, type, flags, offset, length, payload);
	await(s, r);
	return r;
}

void
expect_error(struct session *s, const struct reply *r, uint32_t want)
{
	expect(s->test, r->error == want, error_name(want), "%s", error_name(r->error));
}

struct reply *
request_wrong(struct session *s, uint16_t type, uint16_t flags, uint64_t offset, uint64_t length)
{
	struct reply *r = submit(s, type, flags, offset, length, NULL);
	await_or_close(s, r);
	if (r->closed)
		skip(s->test, "the server closes the connection, as it may");
	return r;
}

void
request_expect(struct session *s, uint16_t type, uint16_t flags, uint64_t offset, uint64_t length,
	uint32_t want)
{
	expect_error(s, request(s, type, flags, offset, length, NULL), want);
}

void
expect_success(struct session *s, const struct reply *r)
{
	expect(s->test, r->error == 0, "success", "%s", error_name(r->error));
	if (r->type != CMD_READ || r->simple || r->length == 0)
		return;
	const uint8_t *gap = r->seen != NULL ? memchr(r->seen, 0, r->length) : NULL;
	if (r->seen == NULL)
		fail(s->test, "content chunks for every byte of the READ", "none");
	if (gap != NULL)
		fail(s->test, "content chunks for every byte of the READ",
			"none for offset %" PRIu64, r->offset + (uint64_t)(gap - r->seen));
}

void
expect_faultless(struct session *s, const struct reply *r, unsigned faults)
{
	for (unsigned i = 0; i < FAULT_COUNT; i++)
		expect(s->test, (r->faults & faults & 1u << i) == 0, "a reply by the rules", "%s",
			fault_text(1u << i));
}

void
expect_bytes(struct session *s, const uint8_t *got, const uint8_t *want, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		uint8_t wanted = want != NULL ? want[i] : 0;
		expect(s->test, got[i] == wanted, want != NULL ? "the bytes written" : "zeroes",
			"byte %zu of %zu is %#x, not %#x", i, length, got[i], wanted);
	}
}

void
write_bytes(struct session *s, uint64_t offset, const void *bytes, size_t length)
{
	struct reply *r = request(s, CMD_WRITE, 0, offset, length, bytes);
	if (r->error != 0)
		fail(s->test, "the WRITE to succeed", "%s", error_name(r->error));
}

uint8_t *
read_bytes(struct session *s, uint64_t offset, size_t length)
{
	struct reply *r = request(s, CMD_READ, 0, offset, length, NULL);
	if (r->error != 0)
		fail(s->test, "the READ to succeed", "%s", error_name(r->error));
	expect_success(s, r);
	return r->data;
}

void
expect_stored(struct session *s, uint64_t offset, const uint8_t *want, size_t length)
{
	expect_bytes(s, read_bytes(s, offset, length), want, length);
}

void
expect_sync(struct session *s)
{
	char before[sizeof s->test->sent];
	memcpy(before, s->test->sent, sizeof before);
	struct reply *r = submit(s, CMD_READ, 0, 0, block_of(s->test), NULL);
	await_or_close(s, r);
	expect(s->test, r->done && r->error == 0, "the next request to be understood",
		"%s, after %s", r->closed ? "a closed connection" : error_name(r->error), before);
}

void
session_flush(struct session *s)
{
	if (s->flags & SEND_FLUSH)
		expect_success(s, request(s, CMD_FLUSH, 0, 0, 0, NULL));
}

void
session_disconnect(struct session *s)
{
	uint8_t header[32];
	conn_write(s->conn, header, build_request(s, header, CMD_DISC, 0, 0, 0, 0));
	conn_drain(s->conn);
	conn_close(s->conn);
}
