#include "config.h"

#include "nbd_world.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "catalogue.h"
#include "check.h"
#include "frontend.h"
#include "iobuf.h"
#include "limits.h"
#include "log.h"
#include "nbd/nbd.h"

static struct export exports[] = {
	{.name = "disk0", .is_default = true},
	{.name = "hidden", .hidden = true},
	{.name = "ro", .description = "the read-only one", .read_only = true},
	{.name = "big", .min_block = 8192},
	{.name = "secret", .tls = TLS_REQUIRE},
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

static struct world the_world = {.frontend = &nbd_frontend, .publish = publish_exports};

/* Data and holes of several lengths, the same for each input. */
static void
restore_volume(struct world *world)
{
	uint8_t *data = volume_script_data(world->script);

	for (size_t i = 0; i < WORLD_SIZE; i += 4096)
		memset(data + i, (int)(i / 4096 % 251 + 1), 4096);
	volume_script_punch(world->script, 64 * 1024, 32 * 1024);
	volume_script_punch(world->script, 192 * 1024, 100 * 1024);
}

struct world *
world_begin(void)
{
	world_open(&the_world);
	restore_volume(&the_world);
	nbd_frontend.accept(the_world.loop, pipe_stream(the_world.pipe), NULL);
	virtual_run_until_idle();
	return &the_world;
}

void
world_require_tls(bool require)
{
	catalogue.tls = require ? TLS_REQUIRE : TLS_OFF;
}

static void
put_option(struct writer *writer, uint32_t option, uint32_t length)
{
	writer_be64(writer, NBD_IHAVEOPT);
	writer_be32(writer, option);
	writer_be32(writer, length);
}

void
world_negotiate(struct world *world, enum world_headers headers, bool min_block)
{
	const char *name = min_block ? "big" : "disk0";
	uint32_t length = (uint32_t)strlen(name);
	uint8_t data[256];
	struct writer writer = writer_of(data, sizeof(data));

	writer_be32(&writer, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	if (headers != WORLD_SIMPLE) {
		put_option(&writer,
			headers == WORLD_EXTENDED ? NBD_OPT_EXTENDED_HEADERS
						  : NBD_OPT_STRUCTURED_REPLY,
			0);
		put_option(&writer, NBD_OPT_SET_META_CONTEXT,
			12 + length + (uint32_t)strlen(NBD_BASE_ALLOCATION));
		writer_be32(&writer, length);
		writer_bytes(&writer, name, length);
		writer_be32(&writer, 1);
		writer_be32(&writer, (uint32_t)strlen(NBD_BASE_ALLOCATION));
		writer_bytes(&writer, NBD_BASE_ALLOCATION, strlen(NBD_BASE_ALLOCATION));
	}
	put_option(&writer, NBD_OPT_GO, 6 + length);
	writer_be32(&writer, length);
	writer_bytes(&writer, name, length);
	writer_be16(&writer, 0);
	CHECK(!writer.bad);
	world_feed(world, data, writer.length);
	pipe_take(world->pipe, NULL, SIZE_MAX);
}

static bool
is_error(uint32_t error)
{
	static const uint32_t errors[] = {NBD_EPERM, NBD_EIO, NBD_ENOMEM, NBD_EINVAL, NBD_ENOSPC,
		NBD_EOVERFLOW, NBD_ENOTSUP, NBD_ESHUTDOWN};

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		if (errors[i] == error)
			return true;
	return false;
}

static void
check_payload(struct reader *reader, unsigned flags, unsigned type, uint64_t length)
{
	struct reader payload;
	const uint8_t *bytes = reader_bytes(reader, length);

	if (!bytes)
		return; /* the connection ended in the middle of it */
	payload = reader_of(bytes, length);
	switch (type) {
	case NBD_REPLY_TYPE_NONE:
		CHECK(length == 0 && flags == NBD_REPLY_FLAG_DONE);
		return;
	case NBD_REPLY_TYPE_OFFSET_DATA:
		CHECK(length > 8 && range_within(reader_be64(&payload), length - 8, WORLD_SIZE));
		return;
	case NBD_REPLY_TYPE_OFFSET_HOLE: {
		uint64_t offset = reader_be64(&payload);
		uint32_t hole = reader_be32(&payload);

		CHECK(length == 12 && hole > 0 && range_within(offset, hole, WORLD_SIZE));
		return;
	}
	case NBD_REPLY_TYPE_BLOCK_STATUS:
		CHECK(length > 4 && (length - 4) % 8 == 0);
		CHECK(reader_be32(&payload) == NBD_BASE_ALLOCATION_ID);
		while (payload.left) {
			CHECK(reader_be32(&payload) > 0);
			CHECK(reader_be32(&payload) < 4);
		}
		return;
	case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
		CHECK(length > 8 && (length - 8) % 16 == 0);
		CHECK(reader_be32(&payload) == NBD_BASE_ALLOCATION_ID);
		CHECK(reader_be32(&payload) == (length - 8) / 16);
		while (payload.left) {
			CHECK(reader_be64(&payload) > 0);
			CHECK(reader_be64(&payload) < 4);
		}
		return;
	case NBD_REPLY_TYPE_ERROR:
		CHECK(length >= 6 && is_error(reader_be32(&payload)));
		CHECK(reader_be16(&payload) == length - 6 && length - 6 <= LIMIT_NBD_STRING);
		return;
	default:
		CHECK(!"a chunk of unknown type");
	}
}

/* One chunk, or a simple reply without payload beside structured ones. */
static void
check_chunk(struct reader *reader, enum world_headers headers)
{
	uint32_t magic = reader_be32(reader);
	unsigned flags, type;
	uint64_t length;

	if (headers == WORLD_STRUCTURED && magic == NBD_SIMPLE_REPLY_MAGIC) {
		CHECK(reader_be32(reader) == 0);
		reader_be64(reader);
		return;
	}
	CHECK(reader->bad || magic == (headers == WORLD_EXTENDED ? NBD_EXTENDED_REPLY_MAGIC
								 : NBD_STRUCTURED_REPLY_MAGIC));
	flags = reader_be16(reader);
	type = reader_be16(reader);
	reader_be64(reader);
	if (headers == WORLD_EXTENDED)
		reader_be64(reader);
	length = headers == WORLD_EXTENDED ? reader_be64(reader) : reader_be32(reader);
	CHECK(flags <= NBD_REPLY_FLAG_DONE && length <= LIMIT_NBD_PAYLOAD + 8);
	if (!reader->bad)
		check_payload(reader, flags, type, length);
}

void
world_check_chunks(struct world *world, enum world_headers headers)
{
	size_t length;
	const uint8_t *output = pipe_output(world->pipe, &length);
	struct reader reader = reader_of(output, length);

	while (reader.left && !reader.bad)
		check_chunk(&reader, headers);
	pipe_take(world->pipe, NULL, SIZE_MAX);
}
