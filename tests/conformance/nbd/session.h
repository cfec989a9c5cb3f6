/*
 * A client's side of the protocol, as strict as the document: options with their replies, requests
 * with theirs. What breaks a rule but leaves the stream readable is noted in the reply for the
 * check that asks for it; what makes the stream unreadable fails whatever check is running.
 */
#ifndef NBDCHECK_SESSION_H
#define NBDCHECK_SESSION_H

#include "conn.h"
#include "wire.h"

enum style { COMPACT, CHUNKED, WIDE }; /* simple, structured, extended replies */

struct option_reply {
	uint32_t option, type, length;
	uint8_t *data;
};

struct extent {
	uint64_t length, flags;
};

struct extents {
	uint32_t context;
	size_t count;
	struct extent *list;
};

/* Rules broken by one of a reply's messages. The text of each is in reply.c. */
enum fault {
	FAULT_SIMPLE = 1 << 0,
	FAULT_CHUNK = 1 << 1,
	FAULT_OVERLAP = 1 << 2,
	FAULT_OUTSIDE = 1 << 3,
	FAULT_EMPTY = 1 << 4,
	FAULT_FLAGS = 1 << 5,
	FAULT_NONE = 1 << 6,
	FAULT_ERROR_FORM = 1 << 7,
	FAULT_MESSAGE = 1 << 8,
	FAULT_ECHO = 1 << 9,
	FAULT_ERROR_OFFSET = 1 << 10,
	FAULT_UNALIGNED = 1 << 11,
	FAULT_STATUS_FORM = 1 << 12,
	FAULT_STATUS_TYPE = 1 << 13,
	FAULT_STATUS_TWICE = 1 << 14,
	FAULT_TYPE = 1 << 15,
	FAULT_LONG = 1 << 16,
	FAULT_COUNT = 17,
};

enum { CONTEXTS_MAX = 16 };

/* A request in flight, and what came back. Valid until the check ends. */
struct reply {
	LIST_ENTRY(reply) link;
	uint64_t cookie, offset, length; /* the request's */
	uint16_t type;
	bool done, closed; /* closed: the connection ended first */
	bool simple;
	uint32_t error; /* the first told, 0 for success */
	unsigned chunks, contents, holes, errors;
	unsigned faults;
	uint8_t *data; /* READ: length bytes */
	uint8_t *seen; /* READ in chunks: 1 for a byte that a content chunk told */
	struct extents status[CONTEXTS_MAX];
	size_t status_count;
};

struct session {
	struct test *test;
	struct conn *conn;
	enum style style;
	uint16_t handshake_flags;
	uint16_t flags;
	uint64_t size;
	uint32_t context; /* base:allocation's id, if selected */
	bool selected;
	uint64_t next_cookie;
	LIST_HEAD(, reply) pending;
	/* Of the last option. */
	struct option_reply *replies;
	size_t reply_count, reply_room;
};

/* Handshake.c: from the greeting to the first option */

struct session *session_connect(struct test *t);
/* Reads the greeting. */
void session_greet(struct session *s);
/* Connects, greets, sends the client flags; no TLS. */
struct session *session_begin(struct test *t, uint32_t client_flags);
/* Up to the option haggling, behind TLS if the target wants it. */
struct session *session_open(struct test *t);
void session_start_tls(struct session *s);
/* The handshake after STARTTLS; min and max are TLS versions, 0 for any. False if it did not come to be. */
bool session_handshake(struct session *s, int min_version, int max_version);

/* Options.c */

void option_send(struct session *s, uint32_t option, const void *data, size_t length);
/* One reply. False if the connection ended. */
bool option_read(struct session *s, uint32_t option, struct option_reply *reply);
/* Sends, and reads to the final reply: its type. What came before it is in s->replies. */
uint32_t option_ask(struct session *s, uint32_t option, const void *data, size_t length);
/* The same, 0 if the server closes the connection. */
uint32_t option_try(struct session *s, uint32_t option, const void *data, size_t length);
/* As the check demands, or it ends here. */
void
option_expect(struct session *s, uint32_t option, const void *data, size_t length, uint32_t want);
/* The server understands the next option: an unknown one is answered ERR_UNSUP. */
void option_expect_sync(struct session *s);
/* The same after an option that broke a rule: the server may have closed the connection for it, but
 * from outside that looks like payload left in the stream, and is a warn. */
void option_prefer_sync(struct session *s);

/* INFO and GO: the data of an option, made until the check ends. */
struct query {
	uint8_t *data;
	size_t length;
};
struct query query_export(struct test *t, const char *name, size_t count, const uint16_t *requests);
/* LIST_META_CONTEXT and SET_META_CONTEXT. */
struct query
query_contexts(struct test *t, const char *name, size_t count, const char *const *list);

/* On the target's export, with INFO_BLOCK_SIZE asked for. The final reply's type. */
uint32_t option_info(struct session *s, uint32_t option);
/* The last INFO reply of a type, NULL if there was none. */
const struct option_reply *find_info(const struct session *s, uint16_t type);
const struct option_reply *find_context(const struct session *s, const char *name);
size_t count_replies(const struct session *s, uint32_t type);
/* SET_META_CONTEXT base:allocation. */
void option_select(struct session *s);
/* Negotiates the style; skips where the server does not offer it. */
void option_style(struct session *s, enum style style);
/* GO, which must succeed. */
void option_go(struct session *s);

/* All of it: connected, negotiated, in the transmission phase. */
struct session *session_export(struct test *t, enum style style);
/* The same, with base:allocation selected. */
struct session *session_status(struct test *t, enum style style);

/* Requests.c */

struct reply *submit(struct session *s, uint16_t type, uint16_t flags, uint64_t offset,
	uint64_t length, const void *payload);
/* The same in parts: nothing but the header; the cookie is the caller's. */
size_t build_request(const struct session *s, uint8_t header[32], uint16_t type, uint16_t flags,
	uint64_t cookie, uint64_t offset, uint64_t length);
struct reply *expect_reply_to(
	struct session *s, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t length);
/* Until the reply is whole. If the connection ends first, so does the check. */
void await(struct session *s, struct reply *r);
/* The same, r->closed if it ends. */
void await_or_close(struct session *s, struct reply *r);
struct reply *request(struct session *s, uint16_t type, uint16_t flags, uint64_t offset,
	uint64_t length, const void *payload);
/* The same without payload, for a request that breaks a rule: skips if the server closes for it. */
struct reply *
request_wrong(struct session *s, uint16_t type, uint16_t flags, uint64_t offset, uint64_t length);
/* A request without a payload, and what is demanded of it. */
void request_expect(struct session *s, uint16_t type, uint16_t flags, uint64_t offset,
	uint64_t length, uint32_t want);
void expect_error(struct session *s, const struct reply *r, uint32_t want);
/* Success, and for READ each byte of it. */
void expect_success(struct session *s, const struct reply *r);
void expect_faultless(struct session *s, const struct reply *r, unsigned faults);
void expect_bytes(struct session *s, const uint8_t *got, const uint8_t *want, size_t length);

void write_bytes(struct session *s, uint64_t offset, const void *bytes, size_t length);
uint8_t *read_bytes(struct session *s, uint64_t offset, size_t length);
/* Reads and compares; want NULL for zeroes. */
void expect_stored(struct session *s, uint64_t offset, const uint8_t *want, size_t length);
/* A READ of the first block is answered: requests and replies are still in step. */
void expect_sync(struct session *s);
void session_flush(struct session *s);
/* DISC and close. */
void session_disconnect(struct session *s);

/* The smallest request the export takes: its minimum block size, 512 at least. */
uint32_t block_of(const struct test *t);
/* The end of what can be addressed. */
uint64_t end_of(const struct test *t);

/* Reply.c */

/* Reads one message of the server's into the reply it belongs to. False if the connection ended. */
bool reply_read(struct session *s);
const char *fault_text(unsigned fault);

#endif
