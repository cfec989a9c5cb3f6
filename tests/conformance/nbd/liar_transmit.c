#include "config.h"
#include "liar.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* proto.md "Request types", "Command flags", "Error values", "Structured reply types" */
enum { READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS };

enum { FUA = 1, NO_HOLE = 2, DF = 4, REQ_ONE = 8, FAST = 16, PAYLOAD_LEN = 32 };

enum { E_PERM = 1, E_INVAL = 22, E_NOSPC = 28, E_NOTSUP = 95 };

enum { NONE = 0, DATA = 1, HOLE = 2, BLOCK_STATUS = 5, BLOCK_STATUS_EXT = 6, ERROR = 0x8001 };

enum { DONE = 1, CONTEXT_ID = 17, EXTENTS_MAX = 512, HOLD_MS = 60 };

struct request {
	uint16_t flags, type;
	uint64_t cookie, offset, length; /* of the effect */
	uint64_t payload;                /* bytes that follow the header */
};

static struct {
	pthread_mutex_t lock;
	uint8_t bytes[DISK_SIZE];
	bool used[DISK_SIZE / PAGE]; /* pages that are no hole */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Replies */

/* Replies that are kept back go when nothing follows for a while, or never if DISC does. */
static bool
say(struct peer *p, const void *bytes, size_t length)
{
	if (!lying(LIE_DISC_DROPS))
		return give_bytes(p, bytes, length);
	uint8_t *kept = realloc(p->kept, p->kept_length + length);
	if (kept == NULL)
		return false;
	memcpy(kept + p->kept_length, bytes, length);
	p->kept = kept;
	p->kept_length += length;
	return true;
}

static bool
let_go(struct peer *p)
{
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
	if (p->kept_length == 0 || poll(&pfd, 1, HOLD_MS) > 0)
		return true;
	bool given = give_bytes(p, p->kept, p->kept_length);
	p->kept_length = 0;
	return given;
}

static uint64_t
cookie_of(const struct request *r)
{
	return lying(LIE_COOKIE) ? r->cookie & INT64_MAX : r->cookie;
}

static bool
say_simple(struct peer *p, const struct request *r, uint32_t error)
{
	uint8_t header[16];
	store(store(store(header, 0x67446698, 4), error, 4), cookie_of(r), 8);
	return say(p, header, sizeof header);
}

/* The head of a chunk, whose payload the caller sends. */
static bool
say_chunk(struct peer *p, const struct request *r, uint16_t flags, uint16_t type, uint64_t length)
{
	uint8_t header[32], *at = store(header, p->extended ? 0x6e8a278c : 0x668e33ef, 4);
	if (lying(LIE_REPLY_FLAG))
		flags |= 0x100;
	at = store(store(store(at, flags, 2), type, 2), cookie_of(r), 8);
	bool echo = type == ERROR ? !lying(LIE_EXT_ERROR_ECHO) : !lying(LIE_EXT_ECHO);
	if (p->extended)
		at = store(at, echo ? r->offset : 0, 8);
	at = store(at, length, p->extended ? 8 : 4);
	return say(p, header, (size_t)(at - header));
}

static bool
say_error(struct peer *p, const struct request *r, uint32_t error)
{
	bool simple = !p->structured && !p->extended;
	if ((lying(LIE_SIMPLE_ERROR) && !p->extended) || (lying(LIE_EXT_SIMPLE) && p->extended))
		simple = true;
	if (simple)
		return say_simple(p, r, error);
	uint8_t payload[8];
	store(store(payload, error, 4), 2, 2);
	memcpy(payload + 6, lying(LIE_ERROR_MESSAGE) ? "\xff\xfe" : "no", 2);
	return say_chunk(p, r, DONE, ERROR, sizeof payload) && say(p, payload, sizeof payload);
}

static bool
say_success(struct peer *p, const struct request *r)
{
	if (!p->structured && !p->extended)
		return say_simple(p, r, 0);
	return say_chunk(p, r, DONE, NONE, 0);
}

/* The disk */

static void
mark(uint64_t offset, uint64_t length, bool used)
{
	for (uint64_t page = offset / PAGE; page * PAGE < offset + length; page++)
		disk.used[page] = used;
}

/* Zeroes, and holes where whole pages are. */
static void
punch(uint64_t offset, uint64_t length)
{
	memset(disk.bytes + offset, 0, length);
	uint64_t first = (offset + PAGE - 1) / PAGE, end = (offset + length) / PAGE;
	if (first < end)
		mark(first * PAGE, (end - first) * PAGE, false);
}

static void
write_disk(uint64_t offset, const uint8_t *bytes, size_t length)
{
	if (lying(LIE_WRAP) && offset >= DISK_SIZE) {
		for (size_t i = 0; i < length; i++)
			if (offset + i < DISK_SIZE)
				disk.bytes[offset + i] = bytes[i];
		return;
	}
	memcpy(disk.bytes + offset, bytes, length);
	mark(offset, length, true);
}

static void
settle(struct peer *p)
{
	struct held_write *h;
	while ((h = STAILQ_FIRST(&p->held)) != NULL) {
		STAILQ_REMOVE_HEAD(&p->held, link);
		write_disk(h->offset, h->bytes, h->length);
		free(h);
	}
}

static void
hold(struct peer *p, uint64_t offset, const uint8_t *bytes, size_t length)
{
	struct held_write *h = malloc(sizeof *h + length);
	if (h == NULL)
		return;
	h->offset = offset;
	h->length = length;
	memcpy(h->bytes, bytes, length);
	STAILQ_INSERT_TAIL(&p->held, h, link);
}

static void
copy_out(struct peer *p, uint64_t offset, uint8_t *bytes, size_t length)
{
	memcpy(bytes, disk.bytes + offset, length);
	struct held_write *h;
	STAILQ_FOREACH(h, &p->held, link)
		for (size_t i = 0; i < h->length; i++)
			if (h->offset + i >= offset && h->offset + i < offset + length)
				bytes[h->offset + i - offset] = h->bytes[i];
}

/* The end of the run of used pages, or holes, that offset lies in. */
static uint64_t
run_end(uint64_t offset, uint64_t end)
{
	uint64_t page = offset / PAGE;
	bool used = disk.used[page];
	while (page * PAGE < end && disk.used[page] == used)
		page++;
	return page * PAGE < end ? page * PAGE : end;
}

/* READ */

static bool
say_data(struct peer *p, const struct request *r, uint16_t flags, uint64_t offset,
	const uint8_t *bytes, uint64_t length)
{
	uint8_t at[8];
	store(at, offset, 8);
	return say_chunk(p, r, flags, DATA, 8 + length) && say(p, at, 8) && say(p, bytes, length);
}

static bool
say_hole(struct peer *p, const struct request *r, uint64_t offset, uint64_t length)
{
	uint8_t payload[12];
	store(store(payload, offset, 8), length, 4);
	return say_chunk(p, r, 0, HOLE, sizeof payload) && say(p, payload, sizeof payload);
}

/* Lies told of a hole; true if it was told in another way. */
static bool
lie_of_hole(struct peer *p, const struct request *r, const uint8_t *bytes, uint64_t offset,
	uint64_t length)
{
	if (lying(LIE_UNALIGNED_HOLE) && length > 100)
		return say_data(p, r, 0, offset, bytes, 100) &&
		       say_hole(p, r, offset + 100, length - 100);
	if (lying(LIE_OUTSIDE))
		return say_hole(p, r, r->offset + r->length, PAGE) &&
		       say_hole(p, r, offset, length);
	if (lying(LIE_EMPTY_HOLE))
		return say_hole(p, r, offset, 0) && say_hole(p, r, offset, length);
	if (lying(LIE_OVERLAP))
		return say_hole(p, r, offset, length) && say_hole(p, r, offset, length);
	return say_hole(p, r, offset, length);
}

static bool
say_runs(struct peer *p, const struct request *r, const uint8_t *bytes)
{
	uint64_t end = r->offset + r->length;
	bool whole = (r->flags & DF) != 0 && !lying(LIE_DF_FRAGMENTS);
	if (lying(LIE_SHORT_READ) && r->length > PAGE)
		end -= 512;
	for (uint64_t at = r->offset; at < end;) {
		uint64_t next = whole ? end : run_end(at, end);
		bool used = whole || disk.used[at / PAGE];
		if (lying(LIE_DATA_AS_HOLE) && next - at < 2 * PAGE)
			used = false;
		const uint8_t *data = bytes + (at - r->offset);
		bool said = used ? say_data(p, r, 0, at, data, next - at)
				 : lie_of_hole(p, r, data, at, next - at);
		if (!said)
			return false;
		at = next;
	}
	if (!say_chunk(p, r, DONE, NONE, 0))
		return false;
	return !lying(LIE_AFTER_DONE) || say_chunk(p, r, DONE, NONE, 0);
}

static bool
answer_read(struct peer *p, const struct request *r)
{
	uint8_t *bytes = malloc(r->length + 1);
	if (bytes == NULL)
		return false;
	pthread_mutex_lock(&disk.lock);
	copy_out(p, r->offset, bytes, r->length);
	pthread_mutex_unlock(&disk.lock);
	bool said = p->structured || p->extended ? say_runs(p, r, bytes)
						 : say_simple(p, r, 0) && say(p, bytes, r->length);
	free(bytes);
	return said;
}

/* BLOCK_STATUS */

struct extent {
	uint64_t length, flags;
};

static size_t
find_extents(const struct request *r, struct extent *list)
{
	uint64_t end = r->offset + r->length;
	size_t count = 0;
	for (uint64_t at = r->offset; at < end && count < EXTENTS_MAX;) {
		uint64_t next = run_end(at, end);
		bool used = disk.used[at / PAGE];
		list[count].length = next - at;
		list[count++].flags = used ? (lying(LIE_DATA_AS_ZERO) ? 2 : 0) : 3;
		at = next;
		if ((r->flags & REQ_ONE) != 0 && !lying(LIE_REQ_ONE_TWO))
			break;
	}
	if (lying(LIE_REQ_ONE_LONG) && (r->flags & REQ_ONE) != 0)
		list[0].length += PAGE;
	if (lying(LIE_PAST_EXPORT) && end == DISK_SIZE)
		list[count - 1].length += PAGE;
	if (lying(LIE_EMPTY_EXTENT) && count < EXTENTS_MAX)
		list[count++] = (struct extent){0, 0};
	return count;
}

static bool
answer_status(struct peer *p, const struct request *r)
{
	struct extent list[EXTENTS_MAX];
	uint8_t payload[8 + 16 * EXTENTS_MAX], *at = store(payload, CONTEXT_ID, 4);
	pthread_mutex_lock(&disk.lock);
	size_t count = find_extents(r, list), width = p->extended ? 8 : 4;
	pthread_mutex_unlock(&disk.lock);
	if (p->extended)
		at = store(at, count, 4);
	for (size_t i = 0; i < count; i++)
		at = store(store(at, list[i].length, width), list[i].flags, width);
	size_t length = (size_t)(at - payload);
	return say_chunk(p, r, DONE, p->extended ? BLOCK_STATUS_EXT : BLOCK_STATUS, length) &&
	       say(p, payload, length);
}

/* The other commands */

/* A lie may keep a write from other connections until this one flushes. */
static void
do_write(struct peer *p, const struct request *r, const uint8_t *bytes)
{
	bool fua = (r->flags & FUA) != 0;
	pthread_mutex_lock(&disk.lock);
	if ((lying(LIE_FLUSH_FORGETS) && !fua) || (lying(LIE_FUA_FORGETS) && fua))
		hold(p, r->offset, bytes, r->length);
	else
		write_disk(r->offset, bytes, r->length);
	pthread_mutex_unlock(&disk.lock);
}

static void
do_command(struct peer *p, const struct request *r)
{
	uint64_t spill =
		lying(LIE_ZEROES_SPILL) && r->offset + r->length + 100 < DISK_SIZE ? 100 : 0;
	pthread_mutex_lock(&disk.lock);
	if (r->type == FLUSH || r->type == ZEROES || r->type == TRIM)
		settle(p);
	if (r->type == TRIM)
		punch(r->offset, r->length);
	if (r->type == ZEROES && !lying(LIE_ZEROES_KEEP)) {
		punch(r->offset, r->length);
		memset(disk.bytes + r->offset + r->length, 0, spill);
		if ((r->flags & NO_HOLE) != 0 && !lying(LIE_NO_HOLE_HOLE))
			mark(r->offset, r->length, true);
	}
	pthread_mutex_unlock(&disk.lock);
}

/* What is wrong with a request */

static uint16_t
known_flags(const struct peer *p, uint16_t type)
{
	bool chunks = p->structured || p->extended;
	switch (type) {
	case READ:
		return lying(LIE_UNKNOWN_FLAG)  ? 0x7fdf
		       : lying(LIE_FUA_REFUSED) ? DF
		       : chunks                 ? FUA | DF
						: FUA;
	case WRITE:
		return p->extended ? FUA | PAYLOAD_LEN : FUA;
	case ZEROES:
		return FUA | NO_HOLE | FAST;
	case STATUS:
		return p->extended && p->selected ? FUA | REQ_ONE | PAYLOAD_LEN : FUA | REQ_ONE;
	case CACHE:
		return lying(LIE_CACHE_FLAG) ? 0xffff : FUA;
	}
	return FUA;
}

static bool
is_outside(const struct request *r)
{
	if (lying(LIE_WRAP) && r->offset + r->length <= DISK_SIZE)
		return false;
	return r->length > DISK_SIZE || r->offset > DISK_SIZE - r->length;
}

static uint32_t
outside_error(uint16_t type)
{
	switch (type) {
	case WRITE:
		return lying(LIE_WRITE_END) ? E_INVAL : E_NOSPC;
	case ZEROES:
		return lying(LIE_ZEROES_END) ? E_INVAL : E_NOSPC;
	case READ:
		return lying(LIE_READ_END) ? E_NOSPC : E_INVAL;
	case TRIM:
		return lying(LIE_TRIM_END) ? E_NOSPC : E_INVAL;
	case STATUS:
		return lying(LIE_STATUS_END) ? E_NOSPC : E_INVAL;
	}
	return E_INVAL;
}

static uint32_t
judge(const struct peer *p, const struct request *r)
{
	if (r->type > STATUS || r->type == DISC || (r->flags & ~known_flags(p, r->type)) != 0)
		return E_INVAL;
	bool writes = r->type == WRITE || r->type == TRIM || r->type == ZEROES;
	if (read_only && writes && !lying(LIE_READ_ONLY_WRITES))
		return lying(LIE_READ_ONLY_EINVAL) ? E_INVAL : E_PERM;
	if (p->extended && r->type == WRITE && (r->flags & PAYLOAD_LEN) == 0 &&
		!lying(LIE_EXT_UNFLAGGED))
		return E_INVAL;
	if (r->type == STATUS && (!p->selected || (!p->structured && !p->extended)))
		return E_INVAL;
	if (r->type != FLUSH && is_outside(r))
		return outside_error(r->type);
	if (r->type == ZEROES && lying(LIE_ENOTSUP) && (r->flags & FAST) == 0)
		return E_NOTSUP;
	return 0;
}

/* The stream */

/* The payload of a WRITE, in memory that grows as it comes; NULL if the connection ends. */
static uint8_t *
take_payload(struct peer *p, uint64_t length)
{
	size_t room = lying(LIE_EAGER_MEMORY) ? length : 0, have = 0;
	uint8_t *bytes = malloc(room + 1);
	if (bytes != NULL && room > 0)
		memset(bytes, 1, room);
	while (bytes != NULL && have < length) {
		size_t part = length - have < 65536 ? (size_t)(length - have) : 65536;
		uint8_t *more = have + part > room ? realloc(bytes, have * 2 + part) : bytes;
		if (more == NULL || !take_bytes(p, more + have, part)) {
			free(more != NULL ? more : bytes);
			return NULL;
		}
		if (have + part > room)
			room = have * 2 + part;
		bytes = more;
		have += part;
	}
	return bytes;
}

static bool
answer_write(struct peer *p, const struct request *r)
{
	uint8_t *bytes = take_payload(p, r->length);
	if (bytes == NULL)
		return false;
	do_write(p, r, bytes);
	free(bytes);
	return say_success(p, r);
}

/* BLOCK_STATUS with a payload: the effect length and the contexts wanted. */
static bool
answer_filtered_status(struct peer *p, struct request *r)
{
	uint8_t payload[8 + 4 * 16];
	if (r->payload > sizeof payload)
		return drain(p, r->payload) && say_error(p, r, E_INVAL);
	if (!take_bytes(p, payload, r->payload))
		return false;
	bool whole = r->payload >= 8 && r->payload % 4 == 0 && r->payload <= 12;
	if (!whole || (r->payload == 12 && load(payload + 8, 4) != CONTEXT_ID))
		return say_error(p, r, E_INVAL);
	r->length = load(payload, 8);
	if (is_outside(r))
		return say_error(p, r, E_INVAL);
	return r->payload == 12 ? answer_status(p, r) : say_success(p, r);
}

static bool
refuse(struct peer *p, const struct request *r, uint32_t error)
{
	bool left = (lying(LIE_TLS_UNDRAINED) && p->ssl != NULL) ||
		    (lying(LIE_EXT_UNDRAINED) && r->type == READ);
	if (!left && !drain(p, r->payload))
		return false;
	return say_error(p, r, error);
}

/* Lies that close the connection because of a length that asks for no payload. */
static bool
is_bound(const struct request *r)
{
	return r->length > PAYLOAD_MAX && ((lying(LIE_TRIM_BOUND) && r->type == TRIM) ||
						  (lying(LIE_ZEROES_BOUND) && r->type == ZEROES) ||
						  (lying(LIE_CACHE_BOUND) && r->type == CACHE) ||
						  (lying(LIE_STATUS_BOUND) && r->type == STATUS));
}

static bool
answer(struct peer *p, struct request *r)
{
	bool filtered = r->type == STATUS && r->payload > 0;
	uint64_t effect = r->length;
	if (filtered)
		r->length = 0;
	uint32_t error = judge(p, r);
	r->length = effect;
	if (error != 0)
		return refuse(p, r, error);
	if (is_bound(r))
		return false;
	switch (r->type) {
	case READ:
		return answer_read(p, r);
	case WRITE:
		return answer_write(p, r);
	case STATUS:
		return filtered ? answer_filtered_status(p, r) : answer_status(p, r);
	}
	do_command(p, r);
	return say_success(p, r);
}

static bool
read_request(struct peer *p, struct request *r)
{
	uint8_t b[32];
	size_t length = p->extended ? 32 : 28;
	if (!take_bytes(p, b, 1) || !take_bytes(p, b + 1, length - 1) ||
		load(b, 4) != (p->extended ? 0x21e41c71 : 0x25609513))
		return false;
	*r = (struct request){.flags = (uint16_t)load(b + 4, 2),
		.type = (uint16_t)load(b + 6, 2),
		.cookie = load(b + 8, 8),
		.offset = load(b + 16, 8),
		.length = load(b + 24, length - 24)};
	bool flagged = p->extended && (r->flags & PAYLOAD_LEN) != 0;
	if (flagged || (r->type == WRITE && (!p->extended || lying(LIE_EXT_UNFLAGGED))))
		r->payload = r->length;
	if (lying(LIE_EXT_CUT) && !flagged)
		r->length &= UINT32_MAX;
	return r->payload <= 2u * PAYLOAD_MAX;
}

void
transmit(struct peer *p)
{
	struct request r;
	while (let_go(p) && read_request(p, &r)) {
		if (r.type == DISC) {
			if (lying(LIE_DISC_REPLIES))
				say_success(p, &r);
			break;
		}
		if (!answer(p, &r))
			break;
	}
	pthread_mutex_lock(&disk.lock);
	settle(p);
	pthread_mutex_unlock(&disk.lock);
}
