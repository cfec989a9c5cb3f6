#include "config.h"

#include "nbd_peer.h"

#include <errno.h>

#include "catalogue.h"
#include "iobuf.h"
#include "limits.h"
#include "volume.h"

#define OUT_SIZE (512 * 1024)

static struct export exports[] = {
	{.name = "disk0", .is_default = true},
	{.name = "hidden", .hidden = true},
	{.name = "ro",
		.description = PEER_DESCRIPTION,
		.read_only = true,
		.min_block = PEER_MIN_BLOCK},
};

static struct catalogue catalogue;

static void
keep_catalogue(struct catalogue *unused)
{
	(void)unused;
}

static void
publish_exports(struct volume *volume)
{
	for (size_t i = 0; i < ARRAY_SIZE(exports); i++)
		exports[i].volume = volume;
	catalogue.references = 1;
	catalogue.exports = exports;
	catalogue.nexports = ARRAY_SIZE(exports);
	catalogue.destroy = keep_catalogue;
	catalogue_publish(&catalogue);
}

void
peer_start(struct peer *peer, const struct volume_script_options *options)
{
	/* Held requests are not carried out inline. */
	struct volume_script_options all = {.volatile_cache = true, .not_inline = true};

	if (options)
		all = *options;
	all.size = PEER_SIZE;
	*peer = (struct peer){0};
	virtual_loops_start(1);
	peer->loop = loop_by_index(0);
	assert_int_equal(iobuf_start(), 0);
	assert_int_equal(nbd_frontend.start(), 0);
	assert_int_equal(storage_start(0), 0);
	peer->script = volume_script_open(&all);
	publish_exports(volume_script_volume(peer->script));
	peer->out = writer_of(malloc(OUT_SIZE), OUT_SIZE);
	assert_non_null(peer->out.start);
}

void
peer_stop(struct peer *peer)
{
	if (peer->pipe)
		peer_hang_up(peer);
	assert_int_equal(peer_connections(peer), 0);
	assert_int_equal(iobuf_reserved(0), 0);
	catalogue_publish(NULL);
	volume_script_close(peer->script);
	peer_run();
	nbd_frontend.stop();
	storage_stop();
	virtual_loops_stop();
	free(peer->out.start);
}

void
peer_run(void)
{
	virtual_run_until_idle();
}

void
peer_connect(struct peer *peer)
{
	if (peer->pipe)
		peer_hang_up(peer);
	peer->out.length = 0;
	peer->extended = false;
	peer->pipe = pipe_new();
	pipe_set_peer(peer->pipe, "10.0.0.7:41332", "10.0.0.1:10809");
	nbd_frontend.accept(peer->loop, pipe_stream(peer->pipe), NULL);
	peer_run();
}

void
peer_hang_up(struct peer *peer)
{
	if (peer_is_open(peer)) {
		pipe_feed_eof(peer->pipe);
		pipe_fail_write(peer->pipe, -EPIPE);
		peer_run();
	}
	/* It may not read at the moment: its answers tell it. */
	assert_false(peer_is_open(peer));
	if (!pipe_closed(peer->pipe)) {
		pipe_feed_eof(peer->pipe);
		peer_run();
	}
	assert_true(pipe_closed(peer->pipe));
	pipe_free(peer->pipe);
	peer->pipe = NULL;
}

bool
peer_is_open(const struct peer *peer)
{
	return !pipe_finished(peer->pipe);
}

unsigned
peer_connections(const struct peer *peer)
{
	unsigned in_flight;

	return nbd_frontend.connections(peer->loop, &in_flight);
}

unsigned
peer_in_flight(const struct peer *peer)
{
	unsigned in_flight;

	nbd_frontend.connections(peer->loop, &in_flight);
	return in_flight;
}

unsigned
peer_writes(const struct peer *peer)
{
	return pipe_writes(peer->pipe);
}

void
peer_advance(struct peer *peer, uint64_t ns)
{
	(void)peer;
	virtual_advance(ns);
}

void
peer_drain(struct peer *peer)
{
	nbd_frontend.drain(peer->loop);
	peer_run();
}

uint8_t *
peer_data(struct peer *peer)
{
	return volume_script_data(peer->script);
}

void
peer_hold(struct peer *peer, bool hold)
{
	volume_script_hold(peer->script, hold);
}

unsigned
peer_held(struct peer *peer)
{
	return volume_script_held(peer->script);
}

void
peer_complete(struct peer *peer, unsigned index, int rc)
{
	unsigned calls = volume_script_calls(peer->script);

	for (unsigned i = 0; i < calls; i++) {
		if (volume_script_call(peer->script, i)->completed || index-- > 0)
			continue;
		volume_script_complete(peer->script, i, rc);
		peer_run();
		return;
	}
	fail_msg("nothing is held");
}

void
peer_fail_next(struct peer *peer, enum blk_op op, int rc)
{
	volume_script_fail(peer->script, op, rc, 1);
}

void
peer_forget(struct peer *peer)
{
	volume_script_forget(peer->script);
}

unsigned
peer_calls(struct peer *peer)
{
	return volume_script_calls(peer->script);
}

void
peer_expect_call(struct peer *peer, unsigned index, enum blk_op op, unsigned flags, uint64_t offset,
	uint64_t length)
{
	const struct script_call *call;

	assert_in_range(index + 1, 1, peer_calls(peer));
	call = volume_script_call(peer->script, index);
	assert_int_equal(call->op, op);
	assert_int_equal(call->flags, flags);
	assert_int_equal(call->offset, offset);
	assert_int_equal(call->length, length);
}

void
peer_bytes(struct peer *peer, const void *data, size_t length)
{
	writer_bytes(&peer->out, data, length);
	assert_false(peer->out.bad);
}

void
peer_be16(struct peer *peer, uint16_t value)
{
	writer_be16(&peer->out, value);
}

void
peer_be32(struct peer *peer, uint32_t value)
{
	writer_be32(&peer->out, value);
}

void
peer_be64(struct peer *peer, uint64_t value)
{
	writer_be64(&peer->out, value);
}

void
peer_flush(struct peer *peer)
{
	assert_false(peer->out.bad);
	if (peer->one_by_one) {
		for (size_t i = 0; i < peer->out.length; i++) {
			pipe_feed(peer->pipe, peer->out.start + i, 1);
			peer_run();
		}
	} else {
		pipe_feed(peer->pipe, peer->out.start, peer->out.length);
	}
	peer->out.length = 0;
	peer_run();
}

void
peer_option(struct peer *peer, uint32_t option, const void *data, size_t length)
{
	peer_be64(peer, NBD_IHAVEOPT);
	peer_be32(peer, option);
	peer_be32(peer, (uint32_t)length);
	peer_bytes(peer, data, length);
}

void
peer_request(struct peer *peer, unsigned flags, unsigned command, uint64_t cookie, uint64_t offset,
	uint64_t length)
{
	peer_be32(peer, peer->extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
	peer_be16(peer, (uint16_t)flags);
	peer_be16(peer, (uint16_t)command);
	peer_be64(peer, cookie);
	peer_be64(peer, offset);
	if (peer->extended)
		peer_be64(peer, length);
	else
		peer_be32(peer, (uint32_t)length);
}

void
peer_add_info(struct peer *peer, uint32_t option, const char *name, const uint16_t *types,
	unsigned ntypes)
{
	uint8_t data[512];
	struct writer writer = writer_of(data, sizeof(data));

	writer_be32(&writer, (uint32_t)strlen(name));
	writer_bytes(&writer, name, strlen(name));
	writer_be16(&writer, (uint16_t)ntypes);
	for (unsigned i = 0; i < ntypes; i++)
		writer_be16(&writer, types[i]);
	assert_false(writer.bad);
	peer_option(peer, option, data, writer.length);
}

void
peer_info(struct peer *peer, uint32_t option, const char *name, const uint16_t *types,
	unsigned ntypes)
{
	peer_add_info(peer, option, name, types, ntypes);
	peer_flush(peer);
}

void
peer_contexts(struct peer *peer, uint32_t option, const char *name, ...)
{
	uint8_t data[512];
	struct writer writer = writer_of(data, sizeof(data));
	const char *query;
	uint32_t count = 0;
	size_t at;
	va_list list;

	writer_be32(&writer, (uint32_t)strlen(name));
	writer_bytes(&writer, name, strlen(name));
	at = writer.length;
	writer_be32(&writer, 0);
	va_start(list, name);
	while ((query = va_arg(list, const char *))) {
		writer_be32(&writer, (uint32_t)strlen(query));
		writer_bytes(&writer, query, strlen(query));
		count++;
	}
	va_end(list);
	assert_false(writer.bad);
	put_be32(data + at, count);
	peer_option(peer, option, data, writer.length);
	peer_flush(peer);
}

void
peer_take(struct peer *peer, void *data, size_t length)
{
	assert_in_range(length, 0, pipe_output_length(peer->pipe));
	pipe_take(peer->pipe, data, length);
}

size_t
peer_take_all(struct peer *peer, void *data, size_t size)
{
	size_t length = pipe_output_length(peer->pipe);

	assert_in_range(length, 0, size);
	return pipe_take(peer->pipe, data, length);
}

void
peer_skip(struct peer *peer)
{
	pipe_take(peer->pipe, NULL, SIZE_MAX);
}

void
peer_expect(struct peer *peer, const void *data, size_t length)
{
	size_t there;
	const uint8_t *output = pipe_output(peer->pipe, &there);

	assert_in_range(length, 0, there);
	if (length)
		assert_memory_equal(output, data, length);
	pipe_take(peer->pipe, NULL, length);
}

void
peer_expect_nothing(struct peer *peer)
{
	assert_int_equal(pipe_output_length(peer->pipe), 0);
}

void
peer_expect_greeting(struct peer *peer)
{
	uint8_t greeting[NBD_GREETING_SIZE];

	peer_take(peer, greeting, sizeof(greeting));
	assert_int_equal(get_be64(greeting), NBD_MAGIC);
	assert_int_equal(get_be64(greeting + 8), NBD_IHAVEOPT);
}

/* Its type and length. */
static uint32_t
take_reply(struct peer *peer, uint32_t option, uint32_t *length)
{
	uint8_t header[NBD_REP_SIZE];

	peer_take(peer, header, sizeof(header));
	assert_int_equal(get_be64(header), NBD_REP_MAGIC);
	assert_int_equal(get_be32(header + 8), option);
	*length = get_be32(header + 16);
	return get_be32(header + 12);
}

void
peer_expect_reply(
	struct peer *peer, uint32_t option, uint32_t type, const void *data, size_t length)
{
	uint32_t there;

	assert_int_equal(take_reply(peer, option, &there), type);
	assert_int_equal(there, length);
	peer_expect(peer, data, length);
}

static void
expect_text(struct peer *peer, size_t length)
{
	char text[LIMIT_NBD_STRING];

	assert_in_range(length, 1, sizeof(text));
	peer_take(peer, text, length);
	for (size_t i = 0; i < length; i++)
		assert_in_range(text[i], 0x20, 0x7e);
}

void
peer_expect_error(struct peer *peer, uint32_t option, uint32_t type)
{
	uint32_t length;

	assert_int_equal(take_reply(peer, option, &length), type);
	expect_text(peer, length);
}

unsigned
peer_expect_export(struct peer *peer, uint32_t option)
{
	uint8_t data[NBD_INFO_EXPORT_SIZE];
	uint32_t length;

	assert_int_equal(take_reply(peer, option, &length), NBD_REP_INFO);
	assert_int_equal(length, sizeof(data));
	peer_take(peer, data, sizeof(data));
	assert_int_equal(get_be16(data), NBD_INFO_EXPORT);
	assert_int_equal(get_be64(data + 2), PEER_SIZE);
	return get_be16(data + 10);
}

void
peer_expect_simple(struct peer *peer, uint32_t error, uint64_t cookie)
{
	uint8_t header[NBD_SIMPLE_REPLY_SIZE];

	peer_take(peer, header, sizeof(header));
	assert_int_equal(get_be32(header), NBD_SIMPLE_REPLY_MAGIC);
	assert_int_equal(get_be32(header + 4), error);
	assert_int_equal(get_be64(header + 8), cookie);
}

void
peer_take_chunk(struct peer *peer, struct peer_chunk *chunk)
{
	uint8_t header[NBD_EXTENDED_CHUNK_SIZE], payload[6];

	*chunk = (struct peer_chunk){0};
	peer_take(peer, header, peer->extended ? NBD_EXTENDED_CHUNK_SIZE : NBD_CHUNK_SIZE);
	chunk->flags = get_be16(header + 4);
	chunk->type = get_be16(header + 6);
	chunk->cookie = get_be64(header + 8);
	if (peer->extended) {
		assert_int_equal(get_be32(header), NBD_EXTENDED_REPLY_MAGIC);
		chunk->offset = get_be64(header + 16);
		chunk->length = get_be64(header + 24);
	} else {
		assert_int_equal(get_be32(header), NBD_STRUCTURED_REPLY_MAGIC);
		chunk->length = get_be32(header + 16);
	}
	if (chunk->type != NBD_REPLY_TYPE_ERROR)
		return;
	peer_take(peer, payload, sizeof(payload));
	chunk->error = get_be32(payload);
	assert_int_not_equal(chunk->error, 0);
	assert_int_equal(get_be16(payload + 4), chunk->length - 6);
	expect_text(peer, chunk->length - 6);
}

/* A chunk that is the whole answer. */
static struct peer_chunk
take_only_chunk(struct peer *peer, unsigned type, uint64_t cookie)
{
	struct peer_chunk chunk;

	peer_take_chunk(peer, &chunk);
	assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
	assert_int_equal(chunk.type, type);
	assert_int_equal(chunk.cookie, cookie);
	return chunk;
}

void
peer_expect_error_chunk(struct peer *peer, uint32_t error, uint64_t cookie)
{
	assert_int_equal(take_only_chunk(peer, NBD_REPLY_TYPE_ERROR, cookie).error, error);
}

void
peer_expect_success(struct peer *peer, uint64_t cookie)
{
	if (peer->extended)
		assert_int_equal(take_only_chunk(peer, NBD_REPLY_TYPE_NONE, cookie).length, 0);
	else
		peer_expect_simple(peer, 0, cookie);
}

void
peer_expect_data(struct peer *peer, uint64_t cookie, uint64_t offset, uint32_t length)
{
	struct peer_chunk chunk = take_only_chunk(peer, NBD_REPLY_TYPE_OFFSET_DATA, cookie);
	uint8_t at[8];

	assert_int_equal(chunk.length, 8 + length);
	if (peer->extended)
		assert_int_equal(chunk.offset, offset);
	peer_take(peer, at, sizeof(at));
	assert_int_equal(get_be64(at), offset);
	peer_expect(peer, peer_data(peer) + offset, length);
}

struct peer_pieces
peer_expect_pieces(struct peer *peer, uint64_t cookie, uint64_t offset, uint32_t length)
{
	static const uint8_t zeroes[LIMIT_NBD_PAYLOAD];
	struct peer_pieces pieces = {0};
	struct peer_chunk chunk = {0};
	uint64_t at = offset;
	uint8_t head[12];

	while (!(chunk.flags & NBD_REPLY_FLAG_DONE)) {
		peer_take_chunk(peer, &chunk);
		assert_int_equal(chunk.cookie, cookie);
		assert_int_equal(chunk.offset, peer->extended ? offset : 0);
		if (chunk.type == NBD_REPLY_TYPE_OFFSET_HOLE) {
			assert_int_equal(chunk.length, 12);
			peer_take(peer, head, 12);
			assert_int_equal(get_be64(head), at);
			chunk.length = get_be32(head + 8);
			pieces.holes++;
		} else {
			assert_int_equal(chunk.type, NBD_REPLY_TYPE_OFFSET_DATA);
			peer_take(peer, head, 8);
			assert_int_equal(get_be64(head), at);
			chunk.length -= 8;
			assert_in_range(chunk.length, 1, LIMIT_NBD_CHUNK);
			pieces.data++;
		}
		/* In order, so they cover the range once. */
		assert_in_range(chunk.length, 1, offset + length - at);
		if (chunk.type == NBD_REPLY_TYPE_OFFSET_HOLE)
			assert_memory_equal(peer_data(peer) + at, zeroes, chunk.length);
		else
			peer_expect(peer, peer_data(peer) + at, chunk.length);
		at += chunk.length;
		if (at < offset + length)
			assert_int_equal(at % 512, 0);
	}
	assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
	assert_int_equal(at, offset + length);
	return pieces;
}

void
peer_hello(struct peer *peer)
{
	peer_connect(peer);
	peer_expect_greeting(peer);
	peer_be32(peer, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	peer_flush(peer);
	peer_expect_nothing(peer);
}

void
peer_hello_structured(struct peer *peer)
{
	peer_hello(peer);
	peer_option(peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	peer_flush(peer);
	peer_expect_reply(peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
}

void
peer_go(struct peer *peer, const char *name, bool structured)
{
	if (structured) {
		peer_hello_structured(peer);
		peer_contexts(peer, NBD_OPT_SET_META_CONTEXT, name, NBD_BASE_ALLOCATION, NULL);
	} else {
		peer_hello(peer);
	}
	peer_info(peer, NBD_OPT_GO, name, NULL, 0);
	peer_skip(peer);
}

unsigned
peer_go_extended(struct peer *peer, const char *name)
{
	unsigned flags;

	peer_hello(peer);
	peer_option(peer, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	peer_flush(peer);
	peer_expect_reply(peer, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, NULL, 0);
	peer_contexts(peer, NBD_OPT_SET_META_CONTEXT, name, NBD_BASE_ALLOCATION, NULL);
	peer_skip(peer);
	peer_info(peer, NBD_OPT_GO, name, NULL, 0);
	flags = peer_expect_export(peer, NBD_OPT_GO);
	peer_skip(peer);
	peer->extended = true;
	return flags;
}
