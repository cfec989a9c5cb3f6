#include "config.h"

#include "chaos.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bytes.h"
#include "harness.h"

/* RFC 7143 11 */
enum {
	BHS = 48,
	NOP_OUT = 0x40, /* immediate */
	COMMAND = 0x01,
	MANAGEMENT = 0x42, /* immediate */
	DATA_OUT = 0x05,
	NOP_IN = 0x20,
	RESPONSE = 0x21,
	MANAGEMENT_RESPONSE = 0x22,
	DATA_IN = 0x25,
	R2T = 0x31,
	ASYNC = 0x32,
	ABORT_TASK = 1,
	ABORT_TASK_SET = 2,
	CLEAR_TASK_SET = 4,
	LUN_RESET = 5,
	WARM_RESET = 6,
	COMPLETE = 0,
	NO_TASK = 1,
	GOOD = 0,
	CHECK_CONDITION = 2,
	BUSY = 8,
	TASK_SET_FULL = 0x28,
	TASK_ABORTED = 0x40,
};

enum deed {
	KILL,
	REINSTATE,
	LOG_OUT,
	HALF_PDU,
	ABORT_ONE,
	ABORT_SET,
	CLEAR_SET,
	RESET_UNIT,
	RESET_TARGET
};

const char *const chaos_deeds[CHAOS_DEEDS] = {"kills", "reinstatements", "logouts", "half PDUs",
	"ABORT TASK", "ABORT TASK SET", "CLEAR TASK SET", "LOGICAL UNIT RESET",
	"TARGET WARM RESET"};

enum { NO_TAG = 0xffffffff, DEED_ONE_IN = 40, QUIET_MS = 200 };

static bool
fail(struct chaos *c, const char *format, ...)
{
	va_list args;

	if (!c->wrong) {
		va_start(args, format);
		vsnprintf(c->why, sizeof(c->why), format, args);
		va_end(args);
	}
	c->wrong = true;
	return false;
}

static void
fill_block(const struct chaos *c, unsigned block, uint32_t generation, uint8_t *data)
{
	uint64_t state = (uint64_t)c->number << 48 ^ (uint64_t)block << 32 ^ generation;

	for (unsigned i = 0; i < CHAOS_BLOCK; i += 8) {
		uint64_t word = state + i * 0x9e3779b97f4a7c15;

		memcpy(data + i, &word, 8);
	}
}

static bool
holds(const struct chaos *c, unsigned block, uint32_t generation, const uint8_t *data)
{
	uint8_t want[CHAOS_BLOCK];

	fill_block(c, block, generation, want);
	return memcmp(data, want, CHAOS_BLOCK) == 0;
}

/* A read settles what was uncertain: from now on the block holds that, and nothing else. */
static bool
check_read(struct chaos *c, const struct chaos_request *r)
{
	for (unsigned i = 0; i < r->count; i++) {
		struct chaos_block *block = &c->blocks[r->block + i];
		const uint8_t *data = r->data + (size_t)i * CHAOS_BLOCK;

		if (block->perhaps && holds(c, r->block + i, block->perhaps, data))
			block->generation = block->perhaps;
		else if (!holds(c, r->block + i, block->generation, data))
			return fail(c,
				"block %u holds neither write %u nor %u, but %02x%02x%02x%02x",
				r->block + i, block->generation, block->perhaps, data[3], data[2],
				data[1], data[0]);
		block->perhaps = 0;
	}
	return true;
}

enum end { DONE, NOT_DONE, UNCERTAIN };

static void
release(struct chaos *c, struct chaos_request *r, enum end end)
{
	for (unsigned i = 0; i < r->count; i++) {
		struct chaos_block *block = &c->blocks[r->block + i];

		block->busy = false;
		if (r->write && end == DONE)
			block->generation = r->generation;
		else if (r->write && end == UNCERTAIN)
			block->perhaps = r->generation;
	}
	c->uncertain += end == UNCERTAIN;
	r->used = false;
	c->in_flight--;
}

/* All of them, or those with an earlier CmdSN than this. */
static void
release_all(struct chaos *c, const uint32_t *cmd_sn)
{
	for (unsigned i = 0; i <= CHAOS_DEPTH; i++) {
		struct chaos_request *r = &c->requests[i];

		if (r->used && (!cmd_sn || (int32_t)(r->cmd_sn - *cmd_sn) < 0))
			release(c, r, UNCERTAIN);
	}
}

static struct chaos_request *
find_request(struct chaos *c, uint32_t tag)
{
	for (unsigned i = 0; i <= CHAOS_DEPTH; i++)
		if (c->requests[i].used && c->requests[i].tag == tag)
			return &c->requests[i];
	return NULL;
}

static bool
open_session(struct chaos *c)
{
	int rc = wire_open_again(&c->wire, c->address, c->target, 0x10000 + c->number);

	if (rc)
		return fail(c, "a login: %s", strerror(-rc));
	c->wire.block_size = 512;
	c->connected = true;
	c->next_tag = c->dead_below = 1;
	c->managing = 0;
	c->heard = seconds_now();
	return true;
}

/* The connection is gone, and with it all answers. */
static void
close_session(struct chaos *c)
{
	release_all(c, NULL);
	wire_close(&c->wire);
	c->connected = false;
}

static void
reset_connection(struct chaos *c)
{
	const struct linger reset = {.l_onoff = 1};

	setsockopt(c->wire.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close_session(c);
}

static bool
send_bytes(struct chaos *c, const void *bytes, size_t length)
{
	const uint8_t *at = bytes;

	while (length) {
		ssize_t n = send(c->wire.fd, at, length, MSG_NOSIGNAL);

		if (n <= 0)
			return fail(c, "send: %s", strerror(errno));
		at += n;
		length -= (size_t)n;
	}
	return true;
}

static void
put_header(struct chaos *c, uint8_t *bhs, unsigned opcode, unsigned flags, uint32_t tag)
{
	memset(bhs, 0, BHS);
	bhs[0] = (uint8_t)opcode;
	bhs[1] = (uint8_t)flags;
	put_be32(bhs + 16, tag);
	put_be32(bhs + 24, c->wire.cmd_sn);
	put_be32(bhs + 28, c->wire.exp_stat_sn);
}

/* The header of a request's command; its immediate data follows. */
static void
put_command(struct chaos *c, struct chaos_request *r, uint32_t immediate, uint8_t *bhs)
{
	uint64_t at = c->base + (uint64_t)r->block * CHAOS_BLOCK;

	put_header(c, bhs, COMMAND, r->probe ? 0x81 : r->write ? 0xa1 : 0xc1, r->tag);
	r->cmd_sn = c->wire.cmd_sn++;
	put_be24(bhs + 5, immediate);
	put_be32(bhs + 20, r->length);
	if (r->probe)
		return;
	bhs[32] = r->write ? 0x8a : 0x88;
	put_be64(bhs + 34, at / c->wire.block_size);
	put_be32(bhs + 42, r->length / c->wire.block_size);
}

static bool
send_request(struct chaos *c, struct chaos_request *r)
{
	bool asked_for = random_next(&c->random) % 2; /* by R2T, all of it */
	uint32_t immediate = r->write && !asked_for ? r->length : 0;
	uint8_t bhs[BHS];

	r->used = true;
	r->tag = c->next_tag++;
	r->received = 0;
	c->in_flight++;
	put_command(c, r, immediate, bhs);
	return send_bytes(c, bhs, BHS) && send_bytes(c, r->data, immediate);
}

static void
begin_write(struct chaos *c, struct chaos_request *r)
{
	r->generation = ++c->generations;
	for (unsigned i = 0; i < r->count; i++)
		fill_block(c, r->block + i, r->generation, r->data + (size_t)i * CHAOS_BLOCK);
}

/* Blocks that nothing is in flight on; what is uncertain is read before it is written. */
static bool
choose_request(struct chaos *c, struct chaos_request *r)
{
	r->probe = false;
	r->count = 1 + (unsigned)(random_next(&c->random) % CHAOS_BLOCKS_MAX);
	r->block = (unsigned)(random_next(&c->random) % (CHAOS_BLOCKS - r->count + 1));
	r->length = r->count * CHAOS_BLOCK;
	r->write = random_next(&c->random) % 2;
	for (unsigned i = 0; i < r->count; i++) {
		if (c->blocks[r->block + i].busy)
			return false;
		if (c->blocks[r->block + i].perhaps)
			r->write = false;
	}
	for (unsigned i = 0; i < r->count; i++)
		c->blocks[r->block + i].busy = true;
	if (r->write)
		begin_write(c, r);
	return true;
}

static bool
has_window(const struct chaos *c)
{
	return (int32_t)(c->wire.cmd_sn - c->wire.max_cmd_sn) <= 0;
}

static bool
keep_in_flight(struct chaos *c)
{
	for (unsigned i = 0; i < CHAOS_DEPTH && has_window(c); i++) {
		struct chaos_request *r = &c->requests[i];

		if (!r->used && choose_request(c, r) && !send_request(c, r))
			return false;
	}
	return true;
}

/* A reset by another session is told with the next command only. */
static bool
probe(struct chaos *c)
{
	struct chaos_request *r = &c->requests[CHAOS_DEPTH];

	if (r->used || !has_window(c))
		return true;
	r->probe = true;
	r->write = false;
	r->count = 0;
	r->length = 0;
	return send_request(c, r);
}

static bool
answer_r2t(struct chaos *c, const uint8_t *r2t)
{
	struct chaos_request *r = find_request(c, get_be32(r2t + 16));
	uint32_t offset = get_be32(r2t + 40), length = get_be32(r2t + 44);
	uint8_t bhs[BHS];

	if (!r)
		return true; /* aborted meanwhile */
	if (!r->write || offset > r->length || length > r->length - offset)
		return fail(c, "an R2T of %u bytes at %u", length, offset);
	put_header(c, bhs, DATA_OUT, 0x80, r->tag);
	put_be32(bhs + 24, 0);
	put_be24(bhs + 5, length);
	put_be32(bhs + 20, get_be32(r2t + 20));
	put_be32(bhs + 40, offset);
	return send_bytes(c, bhs, BHS) && send_bytes(c, r->data + offset, length);
}

static bool
take_attention(struct chaos *c, struct chaos_request *r, const uint8_t *sense)
{
	uint32_t cmd_sn = r->cmd_sn;

	if ((sense[2] & 15) != 6)
		return fail(
			c, "CHECK CONDITION %x/%02x/%02x", sense[2] & 15u, sense[12], sense[13]);
	c->attentions++;
	release(c, r, NOT_DONE);
	/* SAM-5 6.3: whoever was here before the reset is gone. */
	if (sense[12] == 0x29 || sense[12] == 0x2f)
		release_all(c, &cmd_sn);
	return true;
}

static bool
take_status(struct chaos *c, uint32_t tag, unsigned status, const uint8_t *data, size_t length)
{
	static const uint8_t nothing[20] = {0};
	struct chaos_request *r = find_request(c, tag);

	if (!r)
		return (int32_t)(tag - c->dead_below) >= 0 ||
		       fail(c, "status %02x for a task that was aborted", status);
	switch (status) {
	case GOOD:
		if (!r->write && r->received != r->length)
			return fail(c, "a read of %u bytes gave %u", r->length, r->received);
		if (!r->write && !check_read(c, r))
			return false;
		c->reads += !r->write && !r->probe;
		c->writes += r->write;
		release(c, r, DONE);
		return true;
	case CHECK_CONDITION:
		return take_attention(c, r, length >= 16 ? data + 2 : nothing);
	case BUSY:
	case TASK_SET_FULL:
		release(c, r, NOT_DONE);
		return true;
	case TASK_ABORTED:
		release(c, r, UNCERTAIN);
		return true;
	default:
		return fail(c, "status %02x", status);
	}
}

static bool
take_data(struct chaos *c, const uint8_t *bhs, const uint8_t *data, uint32_t length)
{
	struct chaos_request *r = find_request(c, get_be32(bhs + 16));
	uint32_t offset = get_be32(bhs + 40);

	if (r && (r->write || offset > r->length || length > r->length - offset))
		return fail(c, "Data-In of %u bytes at %u", length, offset);
	if (r) {
		memcpy(r->data + offset, data, length);
		r->received += length;
	}
	return !(bhs[1] & 1) || take_status(c, get_be32(bhs + 16), bhs[3], NULL, 0);
}

/* After "function complete" no task it was meant for has a status (R12, promises 2). */
static bool
take_management(struct chaos *c, const uint8_t *bhs)
{
	struct chaos_request *r = find_request(c, c->target_tag);
	uint32_t tag = get_be32(bhs + 16);

	if (tag != c->managing)
		return fail(c, "a task management response nobody asked for");
	c->managing = 0;
	if (c->function == ABORT_TASK) {
		if (bhs[2] == COMPLETE && r)
			release(c, r, UNCERTAIN);
		return true;
	}
	if (bhs[2] != COMPLETE) {
		/* Some ended and some did not: a new session knows. */
		reset_connection(c);
		return true;
	}
	for (unsigned i = 0; i <= CHAOS_DEPTH; i++)
		if (c->requests[i].used && (int32_t)(c->requests[i].tag - tag) < 0)
			release(c, &c->requests[i], UNCERTAIN);
	c->dead_below = tag;
	return true;
}

static bool
take_pdu(struct chaos *c, const uint8_t *bhs, const uint8_t *data, uint32_t length)
{
	unsigned opcode = bhs[0] & 0x3f;
	uint8_t ping[BHS];

	if (opcode == RESPONSE || opcode == MANAGEMENT_RESPONSE ||
		(opcode == DATA_IN && bhs[1] & 1))
		c->wire.exp_stat_sn = get_be32(bhs + 24) + 1;
	if ((int32_t)(get_be32(bhs + 32) - c->wire.max_cmd_sn) > 0)
		c->wire.max_cmd_sn = get_be32(bhs + 32);
	switch (opcode) {
	case DATA_IN:
		return take_data(c, bhs, data, length);
	case RESPONSE:
		if (bhs[2])
			return fail(c, "response %02x", bhs[2]);
		return take_status(c, get_be32(bhs + 16), bhs[3], data, length);
	case R2T:
		return answer_r2t(c, bhs);
	case MANAGEMENT_RESPONSE:
		return take_management(c, bhs);
	case NOP_IN:
		put_header(c, ping, NOP_OUT, 0x80, NO_TAG);
		memcpy(ping + 20, bhs + 20, 4);
		return get_be32(bhs + 20) == NO_TAG || send_bytes(c, ping, BHS);
	case ASYNC:
		return true;
	default:
		return fail(c, "a PDU %02x", opcode);
	}
}

/* Takes what is there; waits a little for it. */
static bool
take_answers(struct chaos *c)
{
	struct pollfd poller = {.fd = c->wire.fd, .events = POLLIN};
	struct wire *wire = &c->wire;
	size_t at = 0;
	ssize_t n;

	if (poll(&poller, 1, QUIET_MS) == 0) {
		if (seconds_now() - c->heard > patience_seconds(60))
			return fail(
				c, "nothing is answered, with %u requests in flight", c->in_flight);
		return c->in_flight == 0 || probe(c);
	}
	n = recv(wire->fd, wire->in + wire->in_length, WIRE_LENGTH_MAX - wire->in_length, 0);
	if (n <= 0)
		return fail(c, "the connection ended: %s", n ? strerror(errno) : "by the target");
	c->heard = seconds_now();
	wire->in_length += (size_t)n;
	while (c->connected && wire->in_length - at >= BHS) {
		uint32_t length = get_be24(wire->in + at + 5);
		size_t whole = BHS + ((length + 3) & ~(size_t)3);

		if (wire->in_length - at < whole)
			break;
		if (!take_pdu(c, wire->in + at, wire->in + at + BHS, length))
			return false;
		at += whole;
	}
	if (!c->connected)
		return true;
	memmove(wire->in, wire->in + at, wire->in_length - at);
	wire->in_length -= at;
	return true;
}

/* Deeds */

/* The session's ISID logs in by another connection: the old one ends. */
static bool
reinstate(struct chaos *c)
{
	struct wire old = c->wire;
	struct pollfd poller = {.fd = old.fd, .events = POLLIN};
	double end = seconds_now() + patience_seconds(60);
	bool ended = false;

	release_all(c, NULL);
	c->connected = false;
	if (!open_session(c)) {
		wire_close(&old);
		return false;
	}
	while (!ended && seconds_now() < end)
		if (poll(&poller, 1, QUIET_MS) > 0)
			ended = recv(old.fd, old.in, WIRE_LENGTH_MAX, 0) <= 0;
	wire_close(&old);
	return ended || fail(c, "a reinstated session's old connection stays");
}

/* R09: a write whose payload is incomplete has no effect. */
static bool
send_half(struct chaos *c)
{
	struct chaos_request half = {.write = true, .tag = c->next_tag++};
	uint8_t bhs[BHS];
	bool sent;

	if (!has_window(c))
		return true;
	half.count = CHAOS_BLOCKS_MAX;
	half.length = half.count * CHAOS_BLOCK;
	half.block = (unsigned)(random_next(&c->random) % (CHAOS_BLOCKS - half.count + 1));
	half.generation = ++c->generations;
	memset(half.data, 0xee, sizeof(half.data));
	put_command(c, &half, half.length, bhs);
	sent = send_bytes(c, bhs, BHS) &&
	       send_bytes(c, half.data, random_next(&c->random) % half.length);
	reset_connection(c);
	return sent;
}

static bool
manage(struct chaos *c, unsigned function)
{
	const struct chaos_request *r = &c->requests[random_next(&c->random) % CHAOS_DEPTH];
	uint8_t bhs[BHS];

	if (c->managing || (function == ABORT_TASK && !r->used))
		return true;
	c->managing = c->next_tag++;
	c->function = function;
	c->target_tag = function == ABORT_TASK ? r->tag : NO_TAG;
	put_header(c, bhs, MANAGEMENT, 0x80 | function, c->managing);
	put_be32(bhs + 20, c->target_tag);
	if (function == ABORT_TASK)
		put_be32(bhs + 32, r->cmd_sn);
	return send_bytes(c, bhs, BHS);
}

static bool
do_deed(struct chaos *c)
{
	/* Resets hit all sessions: one of them is as much as many of the others. */
	static const uint8_t often[] = {KILL, KILL, REINSTATE, REINSTATE, LOG_OUT, HALF_PDU,
		HALF_PDU, ABORT_ONE, ABORT_ONE, ABORT_ONE, ABORT_ONE, ABORT_SET, ABORT_SET,
		CLEAR_SET};
	static const uint8_t functions[] = {[ABORT_ONE] = ABORT_TASK,
		[ABORT_SET] = ABORT_TASK_SET,
		[CLEAR_SET] = CLEAR_TASK_SET,
		[RESET_UNIT] = LUN_RESET,
		[RESET_TARGET] = WARM_RESET};
	uint64_t draw = random_next(&c->random) % 100;
	enum deed deed = draw == 0   ? RESET_TARGET
			 : draw <= 3 ? RESET_UNIT
				     : often[random_next(&c->random) % sizeof(often)];

	c->deeds[deed]++;
	switch (deed) {
	case KILL:
		reset_connection(c);
		return true;
	case REINSTATE:
		return reinstate(c);
	case LOG_OUT:
		wire_log_out(&c->wire);
		close_session(c);
		return true;
	case HALF_PDU:
		return send_half(c);
	default:
		return manage(c, functions[deed]);
	}
}

void *
chaos_run(void *arg)
{
	struct chaos *c = arg;

	while (!c->wrong && !atomic_load(c->stop)) {
		if (!c->connected && !open_session(c))
			break;
		if (!keep_in_flight(c) || !take_answers(c))
			break;
		if (c->connected && random_next(&c->random) % DEED_ONE_IN == 0 && !do_deed(c))
			break;
	}
	if (c->connected)
		close_session(c);
	return NULL;
}

/* The region from end to end, one request after the other. */
static bool
sweep(struct chaos *c, bool write)
{
	struct chaos_request *r = &c->requests[0];

	if (!open_session(c))
		return false;
	for (unsigned block = 0; block < CHAOS_BLOCKS && !c->wrong;) {
		uint64_t done = c->reads + c->writes;
		uint32_t tag = c->next_tag;

		r->probe = false;
		r->write = write;
		r->block = block;
		r->count = CHAOS_BLOCKS_MAX;
		r->length = r->count * CHAOS_BLOCK;
		if (write)
			begin_write(c, r);
		if (!send_request(c, r))
			break;
		while (find_request(c, tag) && take_answers(c))
			;
		/* Once more after a unit attention. */
		block += c->reads + c->writes > done ? CHAOS_BLOCKS_MAX : 0;
	}
	if (!c->wrong)
		wire_log_out(&c->wire);
	close_session(c);
	return !c->wrong;
}

bool
chaos_fill(struct chaos *c)
{
	return sweep(c, true);
}

bool
chaos_verify(struct chaos *c)
{
	return sweep(c, false);
}
