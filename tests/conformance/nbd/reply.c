#include "config.h"
#include "session.h"

#include "target.h"

#include <inttypes.h>
#include <string.h>

enum {
	CHUNK_MAX =
		80 << 20, /* longer than what any check asks for, with all that may go around it */
};

struct message {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset, length;
	uint8_t *payload;
};

const char *
fault_text(unsigned fault)
{
	static const char *const texts[FAULT_COUNT] = {
		"a simple reply where chunks are due",
		"a kind of reply that was not negotiated",
		"a content chunk that overlaps an earlier one",
		"a content chunk outside the request's range",
		"a content chunk that describes no byte, or of the wrong length",
		"unknown reply flags",
		"a NONE chunk with a payload or without DONE",
		"an error chunk of the wrong form: no error, or lengths that do not fit",
		"an error message that is not UTF-8 without NUL of at most 4096 bytes",
		"an extended reply whose offset is not the request's",
		"an ERROR_OFFSET outside the request's range",
		"a content chunk whose bounds are not multiples of 512, nor the request's",
		"a status chunk of the wrong length, or with an extent of length 0",
		"a status chunk of the other header style",
		"two status chunks for one context",
		"a chunk type that the command does not have",
		"a content chunk larger than the advertised maximum payload",
	};
	unsigned i = (unsigned)__builtin_ctz(fault);
	return i < FAULT_COUNT ? texts[i] : "?";
}

static struct reply *
find_pending(struct session *s, uint64_t cookie)
{
	struct reply *r;
	LIST_FOREACH(r, &s->pending, link)
		if (r->cookie == cookie)
			return r;
	fail(s->test, "the cookie of a request in flight", "cookie %#" PRIx64, cookie);
}

static void
finish(struct reply *r)
{
	r->done = true;
	LIST_REMOVE(r, link);
}

static void
note_error(struct reply *r, uint32_t error)
{
	if (r->error == 0)
		r->error = error;
	r->errors++;
}

static void
check_edges(struct reply *r, uint64_t offset, uint64_t length)
{
	uint64_t end = r->offset + r->length;
	bool start_fits = offset % SECTOR == 0 || offset == r->offset;
	bool end_fits = (offset + length) % SECTOR == 0 || offset + length == end;
	if (!start_fits || !end_fits)
		r->faults |= FAULT_UNALIGNED;
}

/* A content chunk: bytes, or NULL for a hole. */
static void
take_content(
	struct session *s, struct reply *r, uint64_t offset, uint64_t length, const uint8_t *bytes)
{
	r->contents++;
	r->holes += bytes == NULL;
	if (r->type != CMD_READ) {
		r->faults |= FAULT_TYPE;
		return;
	}
	if (length == 0) {
		r->faults |= FAULT_EMPTY;
		return;
	}
	if (offset < r->offset || length > r->length || offset - r->offset > r->length - length) {
		r->faults |= FAULT_OUTSIDE;
		return;
	}
	if (r->seen == NULL) {
		r->seen = take(s->test, r->length);
		r->data = take(s->test, r->length);
	}
	uint64_t at = offset - r->offset;
	if (memchr(r->seen + at, 1, length) != NULL)
		r->faults |= FAULT_OVERLAP;
	memset(r->seen + at, 1, length);
	if (bytes != NULL)
		memcpy(r->data + at, bytes, length);
	else
		memset(r->data + at, 0, length);
	if (bytes != NULL && length > s->test->target->max_payload)
		r->faults |= FAULT_LONG;
	check_edges(r, offset, length);
}

static void
take_error(struct reply *r, const struct message *m)
{
	size_t fixed = m->type == CHUNK_ERROR_OFFSET ? 14 : 6;
	if (m->length < 6) {
		r->faults |= FAULT_ERROR_FORM;
		note_error(r, ERR_INVAL);
		return;
	}
	uint32_t error = get32(m->payload);
	size_t text = get16(m->payload + 4);
	if (error == 0 || m->length < fixed || text > m->length - fixed)
		r->faults |= FAULT_ERROR_FORM;
	else if (!string_is_valid(m->payload + 6, text))
		r->faults |= FAULT_MESSAGE;
	if (m->type == CHUNK_ERROR_OFFSET && (r->faults & FAULT_ERROR_FORM) == 0) {
		uint64_t offset = get64(m->payload + 6 + text);
		if (offset < r->offset || offset - r->offset >= r->length)
			r->faults |= FAULT_ERROR_OFFSET;
	}
	note_error(r, error != 0 ? error : ERR_INVAL);
}

static void
take_status(struct session *s, struct reply *r, const struct message *m)
{
	bool wide = m->type == CHUNK_STATUS_EXT;
	size_t head = wide ? 8 : 4, each = wide ? 16 : 8;
	if (wide != (s->style == WIDE))
		r->faults |= FAULT_STATUS_TYPE;
	if (m->length < head + each || (m->length - head) % each != 0) {
		r->faults |= FAULT_STATUS_FORM;
		return;
	}
	struct extents extents = {.context = get32(m->payload), .count = (m->length - head) / each};
	if (wide && get32(m->payload + 4) != extents.count)
		r->faults |= FAULT_STATUS_FORM;
	extents.list = take(s->test, extents.count * sizeof *extents.list);
	const uint8_t *p = m->payload + head;
	for (size_t i = 0; i < extents.count; i++, p += each) {
		extents.list[i].length = wide ? get64(p) : get32(p);
		extents.list[i].flags = wide ? get64(p + 8) : get32(p + 4);
		if (extents.list[i].length == 0)
			r->faults |= FAULT_STATUS_FORM;
	}
	for (size_t i = 0; i < r->status_count; i++)
		if (r->status[i].context == extents.context)
			r->faults |= FAULT_STATUS_TWICE;
	if (r->status_count < CONTEXTS_MAX)
		r->status[r->status_count++] = extents;
	if (r->type != CMD_BLOCK_STATUS)
		r->faults |= FAULT_TYPE;
}

static void
take_chunk(struct session *s, const struct message *m)
{
	struct reply *r = find_pending(s, m->cookie);
	r->chunks++;
	bool wide = m->magic == EXT_REPLY_MAGIC;
	if (wide != (s->style == WIDE) || s->style == COMPACT)
		r->faults |= FAULT_CHUNK;
	if (wide && m->offset != r->offset)
		r->faults |= FAULT_ECHO;
	if ((m->flags & ~REPLY_DONE) != 0)
		r->faults |= FAULT_FLAGS;
	if (m->type == CHUNK_NONE) {
		if (m->length != 0 || (m->flags & REPLY_DONE) == 0)
			r->faults |= FAULT_NONE;
	} else if (m->type == CHUNK_DATA) {
		if (m->length < 9)
			r->faults |= FAULT_EMPTY;
		else
			take_content(s, r, get64(m->payload), m->length - 8, m->payload + 8);
	} else if (m->type == CHUNK_HOLE) {
		if (m->length != 12)
			r->faults |= FAULT_EMPTY;
		else
			take_content(s, r, get64(m->payload), get32(m->payload + 8), NULL);
	} else if (m->type == CHUNK_STATUS || m->type == CHUNK_STATUS_EXT) {
		take_status(s, r, m);
	} else if ((m->type & CHUNK_ERROR_BIT) != 0) {
		take_error(r, m);
	} else {
		r->faults |= FAULT_TYPE;
	}
	if (m->flags & REPLY_DONE)
		finish(r);
}

static bool
take_simple(struct session *s, const struct message *m, uint32_t error)
{
	struct reply *r = find_pending(s, m->cookie);
	r->simple = true;
	if (s->style == WIDE || (s->style == CHUNKED && r->type == CMD_READ))
		r->faults |= FAULT_SIMPLE;
	if (error != 0) {
		note_error(r, error);
	} else if (r->type == CMD_READ) {
		r->data = take(s->test, r->length + 1);
		if (!conn_read(s->conn, r->data, r->length))
			return false;
	}
	finish(r);
	return true;
}

bool
reply_read(struct session *s)
{
	uint8_t b[32];
	if (!conn_read(s->conn, b, 16))
		return false;
	struct message m = {.magic = get32(b)};
	if (m.magic == SIMPLE_MAGIC) {
		m.cookie = get64(b + 8);
		return take_simple(s, &m, get32(b + 4));
	}
	size_t header = m.magic == STRUCTURED_MAGIC ? 20 : m.magic == EXT_REPLY_MAGIC ? 32 : 0;
	if (header == 0)
		fail(s->test, "the magic of a reply", "%#" PRIx32, m.magic);
	if (!conn_read(s->conn, b + 16, header - 16))
		return false;
	m.flags = get16(b + 4);
	m.type = get16(b + 6);
	m.cookie = get64(b + 8);
	m.offset = header == 32 ? get64(b + 16) : 0;
	m.length = header == 32 ? get64(b + 24) : get32(b + 16);
	if (m.length > CHUNK_MAX)
		fail(s->test, "a chunk of sane length", "%" PRIu64 " bytes", m.length);
	m.payload = take(s->test, m.length + 1);
	if (!conn_read(s->conn, m.payload, m.length))
		return false;
	take_chunk(s, &m);
	return true;
}
