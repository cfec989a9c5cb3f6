#include "config.h"
#include "liar.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* proto.md "Option types", "Option reply types" */
enum {
	EXPORT_NAME = 1,
	ABORT,
	LIST,
	STARTTLS = 5,
	INFO,
	GO,
	STRUCTURED_REPLY,
	LIST_CONTEXTS,
	SET_CONTEXTS,
	EXTENDED_HEADERS
};

enum { ACK = 1, SERVER, INFO_REPLY, CONTEXT };

enum reply_error { UNSUP = 1, INVALID = 3, TLS_REQD = 5, UNKNOWN = 6, TOO_BIG = 9, EXT_REQD = 10 };

enum { OPTION_MAX = 1 << 16, ENOUGH = 16 << 20, CONTEXT_ID = 17 };

static const char name[] = "truth", description[] = "or not";

struct option {
	uint32_t number, length;
	uint8_t data[OPTION_MAX];
};

enum step { NEXT, ENTER, END };

/* Header and payload in two writes: with Nagle's algorithm on, the second waits. */
static enum step
reply(struct peer *p, const struct option *o, uint32_t type, const void *data, size_t length)
{
	uint8_t header[20], *at = store(header, 0x3e889045565a9, 8);
	store(store(store(at, o->number, 4), type, 4), length, 4);
	bool given = give_bytes(p, header, sizeof header) && give_bytes(p, data, length);
	return given ? NEXT : END;
}

static enum step
ack(struct peer *p, const struct option *o)
{
	return reply(p, o, ACK, NULL, 0);
}

static enum step
refuse(struct peer *p, const struct option *o, enum reply_error error)
{
	static const char text[] = "no";
	return reply(p, o, UINT32_C(0x80000000) + error, text, 2);
}

static uint16_t
transmission_flags(const struct peer *p, uint32_t option)
{
	enum {
		HAS_FLAGS = 0x1,
		RO = 0x2,
		FLUSH = 0x4,
		FUA = 0x8,
		TRIM = 0x20,
		ZEROES = 0x40,
		DF = 0x80,
		MULTI = 0x100,
		CACHE = 0x400,
		FAST = 0x800,
		PAYLOAD = 0x1000,
	};
	uint16_t flags = HAS_FLAGS | FLUSH | FUA | TRIM | ZEROES | MULTI | CACHE | FAST;
	if (read_only)
		flags |= RO;
	if (p->structured || p->extended || (lying(LIE_DF_IN_GO) && option == GO) ||
		(lying(LIE_DF_IN_INFO) && option == INFO))
		flags |= DF;
	if (p->extended && p->selected)
		flags |= PAYLOAD;
	if (lying(LIE_INFO_DIFFERS) && option == INFO)
		flags &= (uint16_t)~CACHE;
	return flags;
}

static bool
is_name(const uint8_t *bytes, size_t length)
{
	return length == 0 || (length == sizeof name - 1 && memcmp(bytes, name, length) == 0);
}

static enum step
enter_by_name(struct peer *p, const struct option *o)
{
	if (tls_mode == TLS_REQUIRE && p->ssl == NULL && !lying(LIE_FORCED_EXPORT_NAME))
		return END;
	if (!is_name(o->data, o->length))
		return END;
	uint8_t answer[134] = {0};
	store(store(answer, DISK_SIZE, 8), transmission_flags(p, EXPORT_NAME), 2);
	bool zeroes = !p->no_zeroes || lying(LIE_ZEROES);
	return give_bytes(p, answer, zeroes ? 134 : 10) ? ENTER : END;
}

static enum step
list(struct peer *p, const struct option *o)
{
	if (lying(LIE_LIST_CLEARS))
		p->selected = false;
	if (o->length > 0)
		return refuse(p, o, INVALID);
	uint8_t data[64], *at = store(data, sizeof name - 1, 4);
	memcpy(at, name, sizeof name - 1);
	memcpy(at + sizeof name - 1, description, sizeof description - 1);
	if (reply(p, o, SERVER, data, 4 + sizeof name - 1 + sizeof description - 1) == END)
		return END;
	return ack(p, o);
}

/* What is said of a name that is not there; the truth does not repeat it. */
static enum step
refuse_name(struct peer *p, const struct option *o, const uint8_t *asked, size_t length)
{
	static uint8_t text[8192];
	uint32_t type = UINT32_C(0x80000000) + UNKNOWN;
	if (lying(LIE_UNKNOWN_CLEARS) || (lying(LIE_GO_CLEARS) && o->number == GO))
		p->selected = false;
	if (lying(LIE_LONG_MESSAGE)) {
		memset(text, 'n', sizeof text);
		return reply(p, o, type, text, sizeof text);
	}
	if ((lying(LIE_RAW_NAME) || lying(LIE_NUL_NAME)) && length < 64) {
		memcpy(text, "no export ", 10);
		memcpy(text + 10, asked, length);
		return reply(p, o, type, text, 10 + length);
	}
	return refuse(p, o, UNKNOWN);
}

static bool
tell(struct peer *p, const struct option *o, uint16_t type, const void *data, size_t length)
{
	uint8_t info[64];
	memcpy(store(info, type, 2), data, length);
	return reply(p, o, INFO_REPLY, info, 2 + length) == NEXT;
}

static enum step
inform(struct peer *p, const struct option *o)
{
	if (o->length < 6)
		return refuse(p, o, INVALID);
	uint64_t length = load(o->data, 4);
	if (length > o->length - 6) {
		if (lying(LIE_DRAINED_TWICE) && !drain(p, o->length))
			return END;
		return refuse(p, o, INVALID);
	}
	if (o->length - 6 - length != 2 * load(o->data + 4 + length, 2))
		return refuse(p, o, INVALID);
	if (!is_name(o->data + 4, length))
		return refuse_name(p, o, o->data + 4, length);
	if (lying(LIE_INFO_CLEARS) && o->number == INFO)
		p->selected = false;
	uint8_t export[10], sizes[12];
	store(store(export, DISK_SIZE, 8), transmission_flags(p, o->number), 2);
	store(store(store(sizes, 1, 4), lying(LIE_PREFERRED) ? 5000 : 4096, 4), PAYLOAD_MAX, 4);
	if ((!(lying(LIE_INFO_BARE) && o->number == INFO) && !tell(p, o, 0, export, 10)) ||
		!tell(p, o, 1, name, sizeof name - 1) ||
		!tell(p, o, 2, description, sizeof description - 1) || !tell(p, o, 3, sizes, 12))
		return END;
	if (ack(p, o) == END)
		return END;
	if (o->number == GO && lying(LIE_GO_PADDING) && !p->no_zeroes)
		give_bytes(p, (uint8_t[124]){0}, 124);
	return o->number == GO ? ENTER : NEXT;
}

static bool
matches(const uint8_t *query, size_t length, const char *text)
{
	return length == strlen(text) && memcmp(query, text, length) == 0;
}

/* Does the query choose base:allocation? Below zero for an error that only a lie has. */
static int
judge_query(const struct option *o, const uint8_t *query, size_t length)
{
	if (matches(query, length, "base:allocation"))
		return 1;
	if (matches(query, length, "base:"))
		return o->number == LIST_CONTEXTS ? !lying(LIE_BASE_LISTS_NOTHING)
						  : lying(LIE_BASE_SELECTS);
	bool base = length > 5 && memcmp(query, "base:", 5) == 0;
	if (lying(base ? LIE_LEAF_ERROR : LIE_NAMESPACE_ERROR))
		return -1;
	return 0;
}

/* 1 if base:allocation is chosen, 0 if not, -1 for a form that cannot be read. */
static int
read_queries(const struct option *o, bool *known)
{
	if (o->length < 8)
		return -1;
	uint64_t left = o->length - 8, length = load(o->data, 4);
	if (length > left)
		return -1;
	*known = is_name(o->data + 4, length);
	const uint8_t *at = o->data + 4 + length;
	uint64_t count = load(at, 4);
	int chosen = count == 0 && o->number == LIST_CONTEXTS;
	at += 4;
	left -= length;
	for (; count > 0; count--) {
		if (left < 4 || load(at, 4) > left - 4)
			return lying(LIE_MALFORMED_ACKED) ? 0 : -1;
		length = load(at, 4);
		int judged = judge_query(o, at + 4, length);
		if (judged < 0)
			return -1;
		chosen |= judged;
		at += 4 + length;
		left -= 4 + length;
	}
	return left > 0 ? -1 : chosen;
}

static enum step
choose_contexts(struct peer *p, const struct option *o)
{
	bool known = false, set = o->number == SET_CONTEXTS;
	if (set && !p->structured && !p->extended)
		return refuse(p, o, INVALID);
	if (set && !lying(LIE_SET_KEEPS))
		p->selected = false;
	int chosen = read_queries(o, &known);
	if (chosen < 0)
		return refuse(p, o, INVALID);
	if (!known)
		return refuse(p, o, UNKNOWN);
	if (set)
		p->selected = chosen;
	uint8_t data[32];
	memcpy(store(data, set ? CONTEXT_ID : 0, 4), "base:allocation", 15);
	if (chosen && reply(p, o, CONTEXT, data, 19) == END)
		return END;
	return ack(p, o);
}

static enum step
turn_on(struct peer *p, const struct option *o)
{
	bool structured = o->number == STRUCTURED_REPLY;
	if (o->length > 0 && !(structured && lying(LIE_STRUCTURED_DATA)))
		return refuse(p, o, INVALID);
	if (structured && p->extended && !lying(LIE_EXT_STRUCTURED))
		return refuse(p, o, EXT_REQD);
	if (structured)
		p->structured = true;
	else
		p->extended = true;
	return ack(p, o);
}

/* LIE_KEEPS_PLAINTEXT: an option in the clear behind STARTTLS is obeyed. */
static void
obey_plaintext(struct peer *p)
{
	uint8_t header[16];
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
	if (poll(&pfd, 1, 100) > 0 && recv(p->fd, header, 16, MSG_PEEK) == 16 && header[0] == 'I' &&
		recv(p->fd, header, 16, 0) == 16)
		p->structured = load(header + 8, 4) == STRUCTURED_REPLY;
}

static enum step
upgrade(struct peer *p, const struct option *o)
{
	if (tls_mode == TLS_OFF || !p->fixed)
		return refuse(p, o, UNSUP);
	if (p->ssl != NULL || o->length > 0)
		return refuse(p, o, INVALID);
	p->structured &= lying(LIE_KEEPS_STRUCTURED);
	p->extended &= lying(LIE_KEEPS_EXTENDED);
	p->selected &= lying(LIE_KEEPS_CONTEXTS);
	if (ack(p, o) == END)
		return END;
	if (lying(LIE_KEEPS_PLAINTEXT))
		obey_plaintext(p);
	return start_tls(p) ? NEXT : END;
}

static enum step
answer(struct peer *p, const struct option *o)
{
	bool clear = tls_mode == TLS_REQUIRE && p->ssl == NULL;
	if (clear && o->number != STARTTLS && o->number != ABORT && o->number != EXPORT_NAME) {
		if (!p->fixed && !lying(LIE_FORCED_OLD_CLIENT))
			return END;
		if (!lying(LIE_FORCED_LIST) || o->number != STRUCTURED_REPLY)
			return refuse(p, o, TLS_REQD);
	}
	switch (o->number) {
	case EXPORT_NAME:
		return enter_by_name(p, o);
	case ABORT:
		if (!lying(LIE_ABORT))
			ack(p, o);
		return END;
	case LIST:
		return list(p, o);
	case STARTTLS:
		return upgrade(p, o);
	case INFO:
	case GO:
		return inform(p, o);
	case STRUCTURED_REPLY:
	case EXTENDED_HEADERS:
		return turn_on(p, o);
	case LIST_CONTEXTS:
	case SET_CONTEXTS:
		return choose_contexts(p, o);
	}
	return lying(LIE_UNKNOWN_ACKED) ? ack(p, o) : refuse(p, o, UNSUP);
}

/* A lie that leaves some of the payload in the stream. */
static bool
leaves_payload(const struct option *o)
{
	return (lying(LIE_UNDRAINED) && o->number > EXTENDED_HEADERS) ||
	       (lying(LIE_UNDRAINED_LIST) && o->number == LIST);
}

/* LIE_UNDRAINED_QUERY: what stands behind whole queries stays in the stream. */
static enum step
answer_before_end(struct peer *p, struct option *o)
{
	bool known;
	o->length--;
	if (!take_bytes(p, o->data, o->length))
		return END;
	if (read_queries(o, &known) >= 0)
		return refuse(p, o, INVALID);
	o->length++;
	return take_bytes(p, o->data + o->length - 1, 1) ? answer(p, o) : END;
}

static enum step
next_option(struct peer *p, struct option *o)
{
	uint8_t header[16];
	if (!take_bytes(p, header, 1) || !take_bytes(p, header + 1, 15) ||
		load(header, 8) != 0x49484156454f5054)
		return END;
	o->number = (uint32_t)load(header + 8, 4);
	o->length = (uint32_t)load(header + 12, 4);
	if (o->length > ENOUGH)
		return END;
	if (leaves_payload(o))
		return answer(p, o);
	if (o->length > OPTION_MAX)
		return drain(p, o->length) ? refuse(p, o, TOO_BIG) : END;
	if (lying(LIE_UNDRAINED_QUERY) && o->number == LIST_CONTEXTS && o->length > 0)
		return answer_before_end(p, o);
	return take_bytes(p, o->data, o->length) ? answer(p, o) : END;
}

bool
negotiate(struct peer *p)
{
	uint8_t bytes[18];
	store(store(store(bytes, 0x4e42444d41474943, 8), 0x49484156454f5054, 8), 3, 2);
	if (!give_bytes(p, bytes, 18) || !take_bytes(p, bytes, 1) || !take_bytes(p, bytes + 1, 3))
		return false;
	uint64_t flags = load(bytes, 4);
	if (flags > 3 && !lying(LIE_CLIENT_FLAGS))
		return false;
	p->fixed = flags & 1;
	p->no_zeroes = flags & 2;
	struct option *o = calloc(1, sizeof *o);
	enum step step = NEXT;
	while (o != NULL && step == NEXT)
		step = next_option(p, o);
	free(o);
	return step == ENTER;
}
