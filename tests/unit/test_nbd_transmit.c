/*
 * The NBD transmission phase, byte by byte: each command, errors, pipelining, payloads in parts,
 * back-pressure, and every way to end.
 */
#include "config.h"

#include "nbd_peer.h"

#include <errno.h>

#include "iobuf.h"
#include "limits.h"
#include "volume.h"

static struct peer peer;
static uint8_t pattern[256 * 1024];

static int
setup(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7 + i / 251);
	peer_start(&peer, NULL);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	peer_stop(&peer);
	return 0;
}

static void
send_write(unsigned flags, uint64_t cookie, uint64_t offset, uint32_t length)
{
	peer_request(&peer, flags, NBD_CMD_WRITE, cookie, offset, length);
	peer_bytes(&peer, pattern, length);
}

/* The same again over a volume with other properties. */
static void
restart(const struct volume_script_options *options)
{
	peer_stop(&peer);
	peer_start(&peer, options);
}

/* One command, alone, to the default export; no answer is taken. */
static void
send_one(unsigned flags, unsigned command, uint64_t cookie, uint64_t offset, uint32_t length)
{
	peer_request(&peer, flags, command, cookie, offset, length);
	peer_flush(&peer);
}

static void
expect_in_step(void)
{
	send_one(0, NBD_CMD_FLUSH, 0xf1, 0, 0);
	peer_expect_simple(&peer, 0, 0xf1);
	peer_expect_nothing(&peer);
	assert_true(peer_is_open(&peer));
}

/* Commands */

static void
test_read_simple(void **state)
{
	static const uint32_t lengths[] = {1, 512, 4096, 65536, 1048576, 3 * 1048576 + 17};

	(void)state;
	memcpy(peer_data(&peer) + 5, pattern, sizeof(pattern));
	peer_go(&peer, "disk0", false);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		send_one(0, NBD_CMD_READ, i, 5, lengths[i]);
		peer_expect_simple(&peer, 0, i);
		peer_expect(&peer, peer_data(&peer) + 5, lengths[i]);
		peer_expect_nothing(&peer);
	}
	/* Nothing to read: success without data. */
	send_one(0, NBD_CMD_READ, 9, PEER_SIZE, 0);
	peer_expect_simple(&peer, 0, 9);
	expect_in_step();
}

static void
test_read_structured(void **state)
{
	uint8_t none[NBD_CHUNK_SIZE];

	(void)state;
	memcpy(peer_data(&peer) + PEER_SIZE - sizeof(pattern), pattern, sizeof(pattern));
	peer_go(&peer, "", true);
	send_one(0, NBD_CMD_READ, 1, PEER_SIZE - 4096, 4096);
	peer_expect_data(&peer, 1, PEER_SIZE - 4096, 4096);
	send_one(NBD_CMD_FLAG_DF, NBD_CMD_READ, 2, PEER_SIZE - 5 * 1048576, 5 * 1048576);
	peer_expect_data(&peer, 2, PEER_SIZE - 5 * 1048576, 5 * 1048576);
	send_one(0, NBD_CMD_READ, 3, 0, 0);
	peer_take(&peer, none, sizeof(none));
	assert_int_equal(get_be16(none + 6), NBD_REPLY_TYPE_NONE);
	assert_int_equal(get_be32(none + 16), 0);
	expect_in_step();
}

static void
test_read_largest(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", true);
	send_one(NBD_CMD_FLAG_DF, NBD_CMD_READ, 1, 1, LIMIT_NBD_PAYLOAD);
	peer_expect_data(&peer, 1, 1, LIMIT_NBD_PAYLOAD);
	send_one(0, NBD_CMD_READ, 2, 0, LIMIT_NBD_PAYLOAD + 1);
	peer_expect_error_chunk(&peer, NBD_EOVERFLOW, 2);
	peer_go(&peer, "disk0", false);
	send_one(0, NBD_CMD_READ, 3, 0, LIMIT_NBD_PAYLOAD + 1);
	peer_expect_simple(&peer, NBD_EINVAL, 3);
	expect_in_step();
}

static void
test_write_simple(void **state)
{
	static const uint32_t lengths[] = {1, 4096, 65536, sizeof(pattern)};

	(void)state;
	for (int is_inline = 0; is_inline < 2; is_inline++) {
		restart(&(struct volume_script_options){.not_inline = !is_inline});
		peer_go(&peer, "disk0", is_inline);
		for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
			uint64_t offset = 1000000 * (i + 1);

			memset(peer_data(&peer), 0, PEER_SIZE);
			send_write(0, i, offset, lengths[i]);
			peer_flush(&peer);
			peer_expect_simple(&peer, 0, i);
			assert_memory_equal(peer_data(&peer) + offset, pattern, lengths[i]);
			assert_int_equal(peer_data(&peer)[offset - 1], 0);
			assert_int_equal(peer_data(&peer)[offset + lengths[i]], 0);
		}
		send_write(0, 9, PEER_SIZE, 0);
		peer_flush(&peer);
		peer_expect_simple(&peer, 0, 9);
		expect_in_step();
	}
}

/* Bytes are lent from the receive buffer only while the volume carries writes out at once. */
static void
test_held_write_keeps_its_bytes(void **state)
{
	(void)state;
	restart(&(struct volume_script_options){0});
	peer_go(&peer, "disk0", false);
	peer_hold(&peer, true);
	send_write(0, 1, 4096, 8192);
	peer_flush(&peer);
	assert_int_equal(peer_held(&peer), 1);
	memset(loop_buffer(peer.loop), 0xee, LIMIT_RECV_BUFFER);
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 1);
	assert_memory_equal(peer_data(&peer) + 4096, pattern, 8192);
	peer_hold(&peer, false);
	send_write(0, 2, 65536, 8192);
	peer_flush(&peer);
	peer_expect_simple(&peer, 0, 2);
	assert_memory_equal(peer_data(&peer) + 65536, pattern, 8192);
}

/* A payload of 3 MiB in reads of at most `limit` bytes. */
static void
test_write_in_parts(void **state)
{
	static const size_t limits[] = {1000, 4096, 100000, 1048576, 0};
	const uint32_t length = 12 * sizeof(pattern);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		memset(peer_data(&peer), 0, PEER_SIZE);
		peer_go(&peer, "disk0", false);
		pipe_limit_read(peer.pipe, limits[i]);
		peer_request(&peer, 0, NBD_CMD_WRITE, 5, 4096, length);
		for (int part = 0; part < 12; part++) {
			peer_expect_nothing(&peer);
			peer_bytes(&peer, pattern, sizeof(pattern));
			peer_flush(&peer);
		}
		peer_expect_simple(&peer, 0, 5);
		for (int part = 0; part < 12; part++)
			assert_memory_equal(
				peer_data(&peer) + 4096 + (size_t)part * sizeof(pattern), pattern,
				sizeof(pattern));
		pipe_limit_read(peer.pipe, 0);
		expect_in_step();
	}
}

/* R09: nothing is submitted before the last byte is there. */
static void
test_partial_write_has_no_effect(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	peer_request(&peer, 0, NBD_CMD_WRITE, 5, 0, 100000);
	peer_bytes(&peer, pattern, 99999);
	peer_flush(&peer);
	assert_int_equal(peer_in_flight(&peer), 1);
	assert_int_equal(peer_calls(&peer), 0);
	peer_hang_up(&peer);
	assert_int_equal(peer_calls(&peer), 0);
	assert_int_equal(peer_data(&peer)[0], 0);
}

/* The only call since the last time. */
static void
expect_call(enum blk_op op, unsigned flags, uint64_t offset, uint64_t length)
{
	assert_int_equal(peer_calls(&peer), 1);
	peer_expect_call(&peer, 0, op, flags, offset, length);
	peer_forget(&peer);
}

static void
test_flush(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", true);
	send_one(0, NBD_CMD_FLUSH, 1, 0, 0);
	peer_expect_simple(&peer, 0, 1);
	expect_call(BLK_FLUSH, 0, 0, 0);
	send_one(0, NBD_CMD_FLUSH, 2, 1, 0);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 2);
	send_one(0, NBD_CMD_FLUSH, 3, 0, 1);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 3);
	expect_in_step();
}

static void
test_trim(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	/* Longer than any payload may be. */
	send_one(0, NBD_CMD_TRIM, 1, 4096, PEER_SIZE - 4096);
	peer_expect_simple(&peer, 0, 1);
	expect_call(BLK_DISCARD, 0, 4096, PEER_SIZE - 4096);
	send_one(0, NBD_CMD_TRIM, 2, PEER_SIZE, 0);
	peer_expect_simple(&peer, 0, 2);
	expect_in_step();
}

static void
test_cache(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	send_one(0, NBD_CMD_CACHE, 1, 4096, PEER_SIZE - 4096);
	peer_expect_simple(&peer, 0, 1);
	expect_call(BLK_PREFETCH, 0, 4096, PEER_SIZE - 4096);
	expect_in_step();
}

static void
test_write_zeroes(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	send_one(0, NBD_CMD_WRITE_ZEROES, 1, 512, PEER_SIZE - 512);
	peer_expect_simple(&peer, 0, 1);
	expect_call(BLK_ZERO, BLK_MAY_UNMAP, 512, PEER_SIZE - 512);
	send_one(NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES, 2, 0, 4096);
	peer_expect_simple(&peer, 0, 2);
	expect_call(BLK_ZERO, 0, 0, 4096);
	send_one(NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 3, 0, 4096);
	peer_expect_simple(&peer, 0, 3);
	expect_call(BLK_ZERO, BLK_MAY_UNMAP | BLK_FAST_ONLY, 0, 4096);
	expect_in_step();
}

static void
test_fast_zero(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", true);
	peer_fail_next(&peer, BLK_ZERO, -ENOTSUP);
	send_one(NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 1, 0, 4096);
	peer_expect_error_chunk(&peer, NBD_ENOTSUP, 1);
	/* Not a valid flag where it is not offered. */
	restart(&(struct volume_script_options){.no_fast_zero = true});
	peer_go(&peer, "disk0", true);
	send_one(NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 3, 0, 4096);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 3);
	expect_in_step();
}

/* Accepted on each command; what writes is followed by a flush before its answer. */
static void
test_fua_everywhere(void **state)
{
	static const unsigned all[] = {
		NBD_CMD_READ, NBD_CMD_FLUSH, NBD_CMD_CACHE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES};

	(void)state;
	peer_go(&peer, "disk0", false);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		uint32_t length = all[i] == NBD_CMD_FLUSH ? 0 : 512;

		peer_forget(&peer);
		send_one(NBD_CMD_FLAG_FUA, all[i], i, 0, length);
		peer_expect_simple(&peer, 0, i);
		if (all[i] == NBD_CMD_READ)
			peer_expect(&peer, peer_data(&peer), length);
		if (all[i] == NBD_CMD_TRIM || all[i] == NBD_CMD_WRITE_ZEROES) {
			assert_int_equal(peer_calls(&peer), 2);
			peer_expect_call(&peer, 1, BLK_FLUSH, 0, 0, 0);
		}
	}
	peer_forget(&peer);
	peer_hold(&peer, true);
	send_write(NBD_CMD_FLAG_FUA, 9, 0, 512);
	peer_flush(&peer);
	peer_complete(&peer, 0, 0);
	peer_expect_nothing(&peer);
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 9);
	peer_expect_call(&peer, 1, BLK_FLUSH, 0, 0, 0);
	peer_hold(&peer, false);
	peer_go(&peer, "disk0", true);
	send_one(NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 10, 0, 512);
	peer_skip(&peer);
	expect_in_step();
}

static void
test_block_status(void **state)
{
	static const uint32_t extents[][2] = {
		{4096, 0}, {8192, NBD_STATE_HOLE | NBD_STATE_ZERO}, {1024 * 1024, 0}};
	uint8_t reply[NBD_CHUNK_SIZE + 4 + 3 * 8];

	(void)state;
	volume_script_punch(peer.script, 8192, 8192);
	peer_go(&peer, "disk0", true);
	send_one(0, NBD_CMD_BLOCK_STATUS, 0x1122334455667788, 4096, 4096 + 8192 + 1024 * 1024);
	peer_take(&peer, reply, sizeof(reply));
	assert_int_equal(get_be32(reply), NBD_STRUCTURED_REPLY_MAGIC);
	assert_int_equal(get_be16(reply + 4), NBD_REPLY_FLAG_DONE);
	assert_int_equal(get_be16(reply + 6), NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal(get_be64(reply + 8), 0x1122334455667788);
	assert_int_equal(get_be32(reply + 16), 4 + 3 * 8);
	assert_int_equal(get_be32(reply + 20), NBD_BASE_ALLOCATION_ID);
	for (size_t i = 0; i < ARRAY_SIZE(extents); i++) {
		assert_int_equal(get_be32(reply + 24 + 8 * i), extents[i][0]);
		assert_int_equal(get_be32(reply + 28 + 8 * i), extents[i][1]);
	}
	peer_expect_nothing(&peer);
	peer_forget(&peer);

	send_one(NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 2, 0, 512);
	peer_take(&peer, reply, NBD_CHUNK_SIZE + 4 + 8);
	assert_int_equal(get_be32(reply + 16), 4 + 8);
	assert_in_range(get_be32(reply + 24), 1, 512);
	expect_call(BLK_EXTENTS, BLK_EXTENT_ONE, 0, 512);

	send_one(0, NBD_CMD_BLOCK_STATUS, 3, 0, 0);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 3);
	send_one(0, NBD_CMD_BLOCK_STATUS, 4, PEER_SIZE - 511, 512);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 4);
	expect_in_step();

	/* No context was selected. */
	peer_go(&peer, "disk0", false);
	send_one(0, NBD_CMD_BLOCK_STATUS, 5, 0, 512);
	peer_expect_simple(&peer, NBD_EINVAL, 5);
	expect_in_step();
}

static unsigned
flags_of(const char *name, bool structured)
{
	unsigned flags;

	if (structured)
		peer_hello_structured(&peer);
	else
		peer_hello(&peer);
	peer_info(&peer, NBD_OPT_INFO, name, NULL, 0);
	flags = peer_expect_export(&peer, NBD_OPT_INFO);
	peer_skip(&peer);
	return flags;
}

static void
test_transmission_flags(void **state)
{
	const unsigned always = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
				NBD_FLAG_CAN_MULTI_CONN;

	(void)state;
	restart(&(struct volume_script_options){.rotational = true});
	assert_int_equal(flags_of("disk0", false),
		always | NBD_FLAG_ROTATIONAL | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
			NBD_FLAG_SEND_FAST_ZERO | NBD_FLAG_SEND_CACHE);
	restart(&(struct volume_script_options){
		.no_fast_zero = true, .missing = 1u << BLK_PREFETCH | 1u << BLK_DISCARD});
	assert_int_equal(flags_of("disk0", true) & ~NBD_FLAG_SEND_TRIM,
		always | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_DF);
	assert_int_equal(flags_of("ro", false), always | NBD_FLAG_READ_ONLY);
	restart(&(struct volume_script_options){.read_only = true});
	assert_int_equal(
		flags_of("disk0", false), always | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_CACHE);
}

/* Refusals */

static void
test_past_the_end(void **state)
{
	static const struct {
		unsigned command;
		uint32_t error;
	} rows[] = {
		{NBD_CMD_READ, NBD_EINVAL},
		{NBD_CMD_TRIM, NBD_EINVAL},
		{NBD_CMD_CACHE, NBD_EINVAL},
		{NBD_CMD_WRITE_ZEROES, NBD_ENOSPC},
	};
	static const uint64_t offsets[] = {
		PEER_SIZE, PEER_SIZE - 511, UINT64_MAX, UINT64_MAX - 511, (uint64_t)1 << 63};

	(void)state;
	peer_go(&peer, "disk0", false);
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(rows); j++) {
			send_one(0, rows[j].command, j, offsets[i], 512);
			peer_expect_simple(&peer, rows[j].error, j);
		}
		send_write(0, 7, offsets[i], 512);
		peer_flush(&peer);
		peer_expect_simple(&peer, NBD_ENOSPC, 7);
	}
	assert_int_equal(peer_calls(&peer), 0);
	expect_in_step();
}

static void
test_read_only(void **state)
{
	(void)state;
	peer_go(&peer, "ro", false);
	send_write(0, 1, 0, PEER_MIN_BLOCK);
	send_write(0, 2, PEER_SIZE, 513);
	peer_request(&peer, 0, NBD_CMD_TRIM, 3, 0, PEER_MIN_BLOCK);
	peer_request(&peer, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES, 4, 0, PEER_MIN_BLOCK);
	peer_flush(&peer);
	for (uint64_t cookie = 1; cookie <= 4; cookie++)
		peer_expect_simple(&peer, NBD_EPERM, cookie);
	assert_int_equal(peer_calls(&peer), 0);
	send_one(0, NBD_CMD_READ, 5, 0, PEER_MIN_BLOCK);
	peer_expect_simple(&peer, 0, 5);
	peer_expect(&peer, peer_data(&peer), PEER_MIN_BLOCK);
	expect_in_step();
}

static void
test_min_block(void **state)
{
	(void)state;
	peer_go(&peer, "ro", false);
	send_one(0, NBD_CMD_READ, 1, 512, PEER_MIN_BLOCK);
	peer_expect_simple(&peer, NBD_EINVAL, 1);
	send_one(0, NBD_CMD_READ, 2, PEER_MIN_BLOCK, 512);
	peer_expect_simple(&peer, NBD_EINVAL, 2);
	expect_in_step();
}

static void
test_unknown_flags(void **state)
{
	static const unsigned valid[] = {
		[NBD_CMD_READ] = NBD_CMD_FLAG_DF,
		[NBD_CMD_FLUSH] = 0,
		[NBD_CMD_TRIM] = 0,
		[NBD_CMD_CACHE] = 0,
		[NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
		[NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE,
	};

	(void)state;
	peer_go(&peer, "disk0", true);
	for (unsigned command = 0; command < ARRAY_SIZE(valid); command++) {
		if (command == NBD_CMD_DISC)
			continue;
		for (unsigned bit = 1; bit < 16; bit++) {
			if (valid[command] & 1u << bit)
				continue;
			if (command == NBD_CMD_WRITE)
				send_write(1u << bit, bit, 0, 512);
			else
				peer_request(&peer, 1u << bit, command, bit, 0,
					command == NBD_CMD_FLUSH ? 0 : 512);
			peer_flush(&peer);
			peer_expect_error_chunk(&peer, NBD_EINVAL, bit);
		}
	}
	assert_int_equal(peer_calls(&peer), 0);
	/* DF needs structured replies. */
	peer_go(&peer, "disk0", false);
	send_one(NBD_CMD_FLAG_DF, NBD_CMD_READ, 1, 0, 512);
	peer_expect_simple(&peer, NBD_EINVAL, 1);
	expect_in_step();
}

static void
test_unknown_command(void **state)
{
	static const unsigned unknown[] = {8, 9, 255, 256, 0x7fff, 0x8000, 0xffff};

	(void)state;
	for (int structured = 0; structured < 2; structured++) {
		peer_go(&peer, "disk0", structured);
		for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
			send_one(0, unknown[i], i, 0, 512);
			if (structured)
				peer_expect_error_chunk(&peer, NBD_EINVAL, i);
			else
				peer_expect_simple(&peer, NBD_EINVAL, i);
		}
		expect_in_step();
	}
}

/* R03: a refused write is drained to its last byte, wherever it is cut. */
static void
test_refused_write_drains(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", true);
	for (uint32_t cut = 0; cut <= 28 + 600; cut += 3) {
		send_write(0, cut, PEER_SIZE, 600);
		peer_request(&peer, 0, NBD_CMD_FLUSH, 2, 0, 0);
		pipe_feed(peer.pipe, peer.out.start, cut);
		peer_run();
		peer_expect_nothing(&peer);
		pipe_feed(peer.pipe, peer.out.start + cut, peer.out.length - cut);
		peer.out.length = 0;
		peer_run();
		peer_expect_error_chunk(&peer, NBD_ENOSPC, cut);
		peer_expect_simple(&peer, 0, 2);
		peer_expect_nothing(&peer);
	}
}

static void
test_payload_too_long(void **state)
{
	const uint32_t length = LIMIT_NBD_PAYLOAD + 1;
	uint32_t sent = 0;

	(void)state;
	peer_go(&peer, "disk0", false);
	peer_request(&peer, 0, NBD_CMD_WRITE, 1, 0, length);
	peer_flush(&peer);
	while (sent < length) {
		uint32_t part = (uint32_t)min_u64(sizeof(pattern), length - sent);

		peer_expect_nothing(&peer);
		peer_bytes(&peer, pattern, part);
		peer_flush(&peer);
		assert_int_equal(iobuf_reserved(0), 0);
		sent += part;
	}
	peer_expect_simple(&peer, NBD_EINVAL, 1);
	expect_in_step();
}

static void
test_bad_magic(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	peer_request(&peer, 0, NBD_CMD_READ, 1, 0, 16);
	peer_bytes(&peer, "garbage that is no request at all", 28);
	peer_request(&peer, 0, NBD_CMD_READ, 2, 0, 16);
	peer_flush(&peer);
	/* What came before is answered. */
	peer_expect_simple(&peer, 0, 1);
	peer_expect(&peer, peer_data(&peer), 16);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));
}

static void
test_errors_of_the_block_layer(void **state)
{
	static const struct {
		int rc;
		uint32_t error;
	} rows[] = {
		{-EIO, NBD_EIO},
		{-ENOSPC, NBD_ENOSPC},
		{-EROFS, NBD_EPERM},
		{-EPERM, NBD_EPERM},
		{-ENOMEM, NBD_ENOMEM},
		{-ENODEV, NBD_EIO},
		{-ETIMEDOUT, NBD_EIO},
		{-ESHUTDOWN, NBD_ESHUTDOWN},
		{-EINVAL, NBD_EINVAL},
		{-EXDEV, NBD_EIO},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_go(&peer, "disk0", false);
		peer_fail_next(&peer, BLK_READ, rows[i].rc);
		send_one(0, NBD_CMD_READ, 1, 0, 4096);
		peer_expect_simple(&peer, rows[i].error, 1);
		peer_fail_next(&peer, BLK_WRITE, rows[i].rc);
		send_write(0, 2, 0, 4096);
		peer_flush(&peer);
		peer_expect_simple(&peer, rows[i].error, 2);
		expect_in_step();
		peer_go(&peer, "disk0", true);
		peer_fail_next(&peer, BLK_READ, rows[i].rc);
		send_one(0, NBD_CMD_READ, 3, 0, 4096);
		peer_expect_error_chunk(&peer, rows[i].error, 3);
		peer_fail_next(&peer, BLK_EXTENTS, rows[i].rc);
		send_one(0, NBD_CMD_BLOCK_STATUS, 4, 0, 4096);
		peer_expect_error_chunk(&peer, rows[i].error, 4);
		expect_in_step();
	}
	/* The volume shrank after the check. */
	peer_go(&peer, "disk0", false);
	peer_fail_next(&peer, BLK_READ, -ERANGE);
	send_one(0, NBD_CMD_READ, 1, 0, 4096);
	peer_expect_simple(&peer, NBD_EINVAL, 1);
	peer_fail_next(&peer, BLK_WRITE, -ERANGE);
	send_write(0, 2, 0, 4096);
	peer_flush(&peer);
	peer_expect_simple(&peer, NBD_ENOSPC, 2);
	peer_fail_next(&peer, BLK_ZERO, -ERANGE);
	send_one(0, NBD_CMD_WRITE_ZEROES, 3, 0, 4096);
	peer_expect_simple(&peer, NBD_ENOSPC, 3);
	peer_fail_next(&peer, BLK_DISCARD, -ERANGE);
	send_one(0, NBD_CMD_TRIM, 4, 0, 4096);
	peer_expect_simple(&peer, NBD_EINVAL, 4);
	expect_in_step();
}

/* Pipelining */

/* Answers by cookie, since they may come in any order: structured replies are negotiated. */
struct answer {
	size_t length;
	uint8_t bytes[512];
};

static void
take_answers(struct answer *answers, unsigned count)
{
	uint8_t header[NBD_CHUNK_SIZE];
	struct answer *answer;
	size_t rest;

	memset(answers, 0, count * sizeof(*answers));
	while (pipe_output_length(peer.pipe) > 0) {
		memset(header, 0, sizeof(header));
		peer_take(&peer, header, NBD_SIMPLE_REPLY_SIZE);
		rest = 0;
		if (get_be32(header) == NBD_STRUCTURED_REPLY_MAGIC) {
			peer_take(&peer, header + 16, 4);
			rest = get_be32(header + 16);
		}
		assert_in_range(get_be64(header + 8), 0, count - 1);
		answer = &answers[get_be64(header + 8)];
		assert_int_equal(answer->length, 0);
		memcpy(answer->bytes, header, sizeof(header));
		assert_in_range(rest, 0, sizeof(answer->bytes) - sizeof(header));
		peer_take(&peer, answer->bytes + sizeof(header), rest);
		answer->length = sizeof(header) + rest;
	}
}

/* A mix of requests cut into two reads at every byte, and into single bytes. */
static void
split_everywhere(void)
{
	static struct answer whole[7], cut[7];
	uint8_t requests[2048];
	size_t length = SIZE_MAX;

	for (size_t at = 0; at <= length; at++) {
		peer_go(&peer, "disk0", true);
		memset(peer_data(&peer), 0, 8192);
		send_write(0, 1, 100, 333);
		peer_request(&peer, 0, NBD_CMD_READ, 2, 5000, 50);
		send_write(0, 3, PEER_SIZE - 10, 20);
		peer_request(&peer, 7 << 8, NBD_CMD_TRIM, 4, 0, 0);
		send_write(NBD_CMD_FLAG_FUA, 5, 600, 700);
		peer_request(&peer, 0, NBD_CMD_FLUSH, 6, 0, 0);
		length = peer.out.length;
		assert_in_range(length, 1, sizeof(requests));
		memcpy(requests, peer.out.start, length);
		peer.out.length = 0;
		pipe_feed(peer.pipe, requests, at);
		peer_run();
		pipe_feed(peer.pipe, requests + at, length - at);
		if (at == length)
			pipe_limit_read(peer.pipe, 1);
		peer_run();
		assert_memory_equal(peer_data(&peer) + 100, pattern, 333);
		assert_memory_equal(peer_data(&peer) + 600, pattern, 700);
		take_answers(at ? cut : whole, ARRAY_SIZE(cut));
		if (at)
			assert_memory_equal(whole, cut, sizeof(cut));
		assert_int_equal(peer_in_flight(&peer), 0);
	}
	for (size_t i = 1; i < ARRAY_SIZE(whole); i++)
		assert_true(whole[i].length);
}

static void
test_split_everywhere(void **state)
{
	(void)state;
	split_everywhere();
	restart(&(struct volume_script_options){.volatile_cache = true});
	split_everywhere();
}

/* What one read brought is answered in one write. */
static void
test_batched_answers(void **state)
{
	unsigned calls;

	(void)state;
	peer_go(&peer, "disk0", false);
	calls = pipe_calls(peer.pipe);
	for (uint64_t i = 0; i < 100; i++)
		peer_request(&peer, 0, NBD_CMD_READ, i, i * 4096, 4096);
	peer_flush(&peer);
	assert_int_equal(pipe_calls(peer.pipe) - calls, 2);
	for (uint64_t i = 0; i < 100; i++) {
		peer_expect_simple(&peer, 0, i);
		peer_expect(&peer, peer_data(&peer) + i * 4096, 4096);
	}
	expect_in_step();
}

static void
test_out_of_order(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	peer_hold(&peer, true);
	for (uint64_t i = 0; i < 4; i++)
		peer_request(&peer, 0, NBD_CMD_READ, i, i * 4096, 16);
	peer_flush(&peer);
	assert_int_equal(peer_held(&peer), 4);
	assert_int_equal(peer_in_flight(&peer), 4);
	peer_expect_nothing(&peer);
	peer_complete(&peer, 2, 0); /* 2 of 0 1 2 3 */
	peer_expect_simple(&peer, 0, 2);
	peer_expect(&peer, peer_data(&peer), 16);
	peer_complete(&peer, 2, -EIO); /* 3 of 0 1 3 */
	peer_expect_simple(&peer, NBD_EIO, 3);
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 0);
	peer_expect(&peer, peer_data(&peer), 16);
	peer_expect_nothing(&peer);
	assert_int_equal(peer_in_flight(&peer), 1);
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 1);
	peer_expect(&peer, peer_data(&peer), 16);
	peer_hold(&peer, false);
	expect_in_step();
}

/* Back-pressure */

static void
test_in_flight_limit(void **state)
{
	const uint64_t count = LIMIT_NBD_IN_FLIGHT + 700;

	(void)state;
	peer_go(&peer, "disk0", false);
	peer_hold(&peer, true);
	for (uint64_t i = 0; i < count; i++)
		peer_request(&peer, 0, NBD_CMD_TRIM, i, 0, 4096);
	peer_flush(&peer);
	assert_int_equal(peer_in_flight(&peer), LIMIT_NBD_IN_FLIGHT);
	assert_int_equal(peer_held(&peer), LIMIT_NBD_IN_FLIGHT);
	assert_false(pipe_wanted(peer.pipe) & STREAM_READABLE);
	/* One out, one in. */
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 0);
	assert_int_equal(peer_held(&peer), LIMIT_NBD_IN_FLIGHT);
	for (uint64_t i = 1; i < count; i++) {
		peer_complete(&peer, 0, 0);
		peer_expect_simple(&peer, 0, i);
	}
	assert_int_equal(peer_held(&peer), 0);
	assert_true(pipe_wanted(peer.pipe) & STREAM_READABLE);
	peer_hold(&peer, false);
	expect_in_step();
}

/* R06: reads that fill the client's budget hold back what follows; nothing is lost, nothing fails. */
static void
test_memory_limit(void **state)
{
	const uint32_t length = 8 * 1024 * 1024;
	const uint64_t count = 3 * LIMIT_IOBUF_CLIENT / length;

	(void)state;
	peer_go(&peer, "disk0", false);
	peer_hold(&peer, true);
	for (uint64_t i = 0; i < count; i++)
		peer_request(&peer, 0, NBD_CMD_READ, i, 0, length);
	send_write(0, 1000, 512, 4096);
	peer_flush(&peer);
	assert_int_equal(peer_held(&peer), LIMIT_IOBUF_CLIENT / length);
	/* What was received behind them counts too. */
	assert_in_range(
		iobuf_reserved(0), LIMIT_IOBUF_CLIENT + 1, LIMIT_IOBUF_CLIENT + LIMIT_RECV_BUFFER);
	assert_false(pipe_wanted(peer.pipe) & STREAM_READABLE);
	/* The clock of the request we do not read stands still. */
	peer_advance(&peer, 10 * LIMIT_PARTIAL_IDLE);
	assert_true(peer_is_open(&peer));
	for (uint64_t i = 0; i < count; i++) {
		peer_complete(&peer, 0, 0);
		peer_expect_simple(&peer, 0, i);
		peer_expect(&peer, peer_data(&peer), length);
	}
	assert_int_equal(peer_held(&peer), 1);
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 1000);
	assert_int_equal(iobuf_reserved(0), 0);
	peer_hold(&peer, false);
	expect_in_step();
}

/* Dies while it waits for memory, with requests in flight. */
static void
test_abort_while_waiting(void **state)
{
	const uint32_t length = 32 * 1024 * 1024;

	(void)state;
	peer_go(&peer, "disk0", false);
	peer_hold(&peer, true);
	for (uint64_t i = 0; i < 5; i++)
		peer_request(&peer, 0, NBD_CMD_READ, i, 0, length);
	peer_flush(&peer);
	assert_int_equal(peer_held(&peer), LIMIT_IOBUF_CLIENT / length);
	nbd_frontend.abort(peer.loop);
	peer_run();
	assert_false(peer_is_open(&peer));
	assert_int_equal(peer_connections(&peer), 1);
	while (peer_held(&peer))
		peer_complete(&peer, 0, 0);
	assert_int_equal(peer_connections(&peer), 0);
	assert_int_equal(iobuf_reserved(0), 0);
}

/* The client takes no answers: reading goes on until the limits, writing when it takes them again.
 */
static void
test_output_blocked(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	pipe_set_room(peer.pipe, 10);
	for (uint64_t i = 0; i < 40; i++)
		peer_request(&peer, 0, NBD_CMD_READ, i, 0, 100000);
	peer_flush(&peer);
	assert_int_equal(pipe_output_length(peer.pipe), 10);
	assert_true(pipe_wanted(peer.pipe) & STREAM_WRITABLE);
	pipe_set_room(peer.pipe, SIZE_MAX);
	pipe_limit_write(peer.pipe, 7777);
	peer_run();
	for (uint64_t i = 0; i < 40; i++) {
		peer_expect_simple(&peer, 0, i);
		peer_expect(&peer, peer_data(&peer), 100000);
	}
	assert_false(pipe_wanted(peer.pipe) & STREAM_WRITABLE);
	pipe_limit_write(peer.pipe, 0);
	expect_in_step();
}

/* Deadlines (R05) */

static void
test_stalled_output(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	pipe_set_room(peer.pipe, 0);
	send_one(0, NBD_CMD_READ, 1, 0, 4096);
	peer_advance(&peer, LIMIT_OUTPUT_STALL - 2 * SECOND_NS);
	assert_true(peer_is_open(&peer));
	peer_advance(&peer, 4 * SECOND_NS);
	assert_false(peer_is_open(&peer));
}

static void
test_partial_request_times_out(void **state)
{
	static const size_t parts[] = {1, 27, 28, 1000};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		peer_go(&peer, "disk0", false);
		peer_request(&peer, 0, NBD_CMD_WRITE, 1, 0, 4096);
		peer_bytes(&peer, pattern, 4096);
		peer.out.length = parts[i];
		peer_flush(&peer);
		peer_advance(&peer, LIMIT_PARTIAL_IDLE - 2 * SECOND_NS);
		assert_true(peer_is_open(&peer));
		peer_advance(&peer, 4 * SECOND_NS);
		assert_false(peer_is_open(&peer));
	}
}

static void
test_slow_payload_times_out(void **state)
{
	unsigned seconds;

	(void)state;
	peer_go(&peer, "disk0", false);
	peer_request(&peer, 0, NBD_CMD_WRITE, 1, 0, 1024 * 1024);
	peer_flush(&peer);
	for (seconds = 0; peer_is_open(&peer) && seconds < 60; seconds++) {
		peer_bytes(&peer, pattern, 100);
		peer_flush(&peer);
		peer_advance(&peer, SECOND_NS);
	}
	assert_in_range(seconds, 10, 13);

	/* Fast enough. */
	peer_go(&peer, "disk0", false);
	peer_request(&peer, 0, NBD_CMD_WRITE, 1, 0, 100 * 8192);
	for (int i = 0; i < 100; i++) {
		peer_bytes(&peer, pattern, 8192);
		peer_flush(&peer);
		peer_advance(&peer, SECOND_NS);
	}
	peer_expect_simple(&peer, 0, 1);
	/* Idle for ever. */
	peer_advance(&peer, 1000 * LIMIT_PARTIAL_IDLE);
	expect_in_step();
}

/* The end */

/* The peer has seen the end of the stream; it is closed when the peer has ended too. */
static void
expect_lingering(void)
{
	assert_int_equal(peer_connections(&peer), 1);
	assert_int_equal(peer_in_flight(&peer), 0);
	pipe_feed(peer.pipe, pattern, 1000);
	peer_run();
	assert_int_equal(pipe_unread(peer.pipe), 0);
	assert_false(pipe_closed(peer.pipe));
	pipe_feed_eof(peer.pipe);
	peer_run();
	assert_true(pipe_closed(peer.pipe));
	assert_int_equal(peer_connections(&peer), 0);
}

/* What a peer goes on sending is thrown away, but not for ever. */
static void
test_linger(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	send_one(0, NBD_CMD_READ, 1, 0, 16);
	peer_skip(&peer);
	peer_bytes(&peer, pattern, NBD_REQUEST_SIZE);
	peer_flush(&peer);
	assert_false(peer_is_open(&peer));
	expect_lingering();

	peer_go(&peer, "disk0", false);
	send_one(0, NBD_CMD_DISC, 1, 0, 0);
	for (uint64_t sent = 0; sent < LIMIT_NBD_LINGER_BYTES; sent += sizeof(pattern)) {
		assert_false(pipe_closed(peer.pipe));
		pipe_feed(peer.pipe, pattern, sizeof(pattern));
		peer_run();
	}
	assert_true(pipe_closed(peer.pipe));

	peer_go(&peer, "disk0", false);
	send_one(0, NBD_CMD_DISC, 1, 0, 0);
	peer_advance(&peer, LIMIT_NBD_LINGER / 2);
	assert_false(pipe_closed(peer.pipe));
	peer_advance(&peer, 2 * LIMIT_NBD_LINGER);
	assert_true(pipe_closed(peer.pipe));

	/* Its end is the end: there is nothing to wait for. */
	peer_go(&peer, "disk0", false);
	pipe_feed_eof(peer.pipe);
	peer_run();
	assert_true(pipe_closed(peer.pipe));

	/* A drain does not wait for one that lingers any longer than for others. */
	peer_go(&peer, "disk0", false);
	send_one(0, NBD_CMD_DISC, 1, 0, 0);
	peer_drain(&peer);
	assert_false(pipe_closed(peer.pipe));
	nbd_frontend.abort(peer.loop);
	peer_run();
	assert_true(pipe_closed(peer.pipe));
	assert_int_equal(peer_connections(&peer), 0);
}

/* What one connection leaves unparsed makes the next reads of the loop small. */
static void
test_leftovers_are_bounded(void **state)
{
	enum {
		EACH = LIMIT_RECV_BUFFER - (LIMIT_NBD_IN_FLIGHT + 1) * NBD_REQUEST_SIZE,
		MOST = LIMIT_NBD_LEFTOVER / EACH + 2,
	};
	struct peer others[MOST];
	static uint8_t requests[LIMIT_RECV_BUFFER];
	struct writer writer = writer_of(requests, sizeof(requests));
	size_t unread;

	(void)state;
	peer_hold(&peer, true);
	for (size_t i = 0; i + NBD_REQUEST_SIZE <= sizeof(requests); i += NBD_REQUEST_SIZE) {
		writer_be32(&writer, NBD_REQUEST_MAGIC);
		writer_be16(&writer, 0);
		writer_be16(&writer, NBD_CMD_FLUSH);
		writer_be64(&writer, i);
		writer_be64(&writer, 0);
		writer_be32(&writer, 0);
	}
	for (unsigned i = 0; i < MOST; i++) {
		others[i] = peer;
		others[i].pipe = NULL;
		peer_go(&others[i], "disk0", false);
		pipe_feed(others[i].pipe, requests, sizeof(requests));
		peer_run();
		unread = pipe_unread(others[i].pipe);
		/* As many as may be in flight, and what was read with them. */
		if (i + 1 < MOST)
			assert_int_equal(unread, 0);
		else
			assert_in_range(unread, 1, sizeof(requests) - 1);
	}
	assert_in_range(
		iobuf_reserved(0), LIMIT_NBD_LEFTOVER, LIMIT_NBD_LEFTOVER + LIMIT_RECV_BUFFER);
	nbd_frontend.abort(peer.loop);
	while (peer_held(&peer))
		peer_complete(&peer, 0, 0);
	peer_run();
	for (unsigned i = 0; i < MOST; i++)
		pipe_free(others[i].pipe);
	assert_int_equal(iobuf_reserved(0), 0);
	peer_hold(&peer, false);
}

static void
test_disc(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	peer_hold(&peer, true);
	send_write(0, 1, 0, 512);
	peer_request(&peer, 0, NBD_CMD_READ, 2, 0, 512);
	peer_request(&peer, 0, NBD_CMD_DISC, 3, 0, 0);
	/* "A client MUST NOT send anything to the server after" */
	peer_request(&peer, 0, NBD_CMD_FLUSH, 4, 0, 0);
	peer_flush(&peer);
	assert_int_equal(peer_held(&peer), 2);
	assert_true(peer_is_open(&peer));
	peer_complete(&peer, 1, 0);
	assert_true(peer_is_open(&peer));
	peer_complete(&peer, 0, 0);
	assert_false(peer_is_open(&peer));
	peer_expect_simple(&peer, 0, 2);
	pipe_take(peer.pipe, NULL, 512);
	peer_expect_simple(&peer, 0, 1);
	peer_expect_nothing(&peer);
	expect_lingering();
	peer_hold(&peer, false);

	peer_go(&peer, "disk0", true);
	send_one(NBD_CMD_FLAG_FUA, NBD_CMD_DISC, 0, 1, 2);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));
}

/* The client closes its side only and still reads. */
static void
test_half_close(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	peer_hold(&peer, true);
	send_one(0, NBD_CMD_READ, 1, 0, 16);
	pipe_feed_eof(peer.pipe);
	peer_run();
	assert_true(peer_is_open(&peer));
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 1);
	peer_expect(&peer, peer_data(&peer), 16);
	assert_false(peer_is_open(&peer));
	peer_hold(&peer, false);
}

static void
check_going(void (*begin)(void))
{
	peer_go(&peer, "disk0", false);
	peer_hold(&peer, true);
	send_one(0, NBD_CMD_READ, 1, 0, 16);
	/* Half of a write: its client is owed an answer too. */
	peer_request(&peer, 0, NBD_CMD_WRITE, 2, 4096, 512);
	peer_bytes(&peer, pattern, 100);
	peer_flush(&peer);
	begin();
	peer_run();
	assert_true(peer_is_open(&peer));
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 1);
	pipe_take(peer.pipe, NULL, 16);
	assert_true(peer_is_open(&peer));
	peer_bytes(&peer, pattern + 100, 412);
	send_write(0, 3, 0, 512);
	peer_request(&peer, 0, NBD_CMD_READ, 4, 0, 16);
	peer_flush(&peer);
	peer_expect_simple(&peer, NBD_ESHUTDOWN, 3);
	peer_expect_simple(&peer, NBD_ESHUTDOWN, 4);
	peer_expect_nothing(&peer);
	assert_true(peer_is_open(&peer));
	peer_complete(&peer, 0, 0);
	peer_expect_simple(&peer, 0, 2);
	assert_false(peer_is_open(&peer));
	expect_lingering();
	peer_hold(&peer, false);
}

static void
begin_drain(void)
{
	nbd_frontend.drain(peer.loop);
}

static void
test_drain(void **state)
{
	(void)state;
	check_going(begin_drain);
}

static void
test_drain_idle(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", false);
	peer_drain(&peer);
	assert_false(peer_is_open(&peer));
	assert_int_equal(peer_connections(&peer), 0);
}

static void
begin_volume_gone(void)
{
	nbd_frontend.volume_gone(peer.loop, volume_script_volume(peer.script));
}

static void
test_volume_gone(void **state)
{
	(void)state;
	check_going(begin_volume_gone);
	/* Others, and those still negotiating, stay. */
	peer_hello(&peer);
	begin_volume_gone();
	peer_run();
	assert_true(peer_is_open(&peer));
}

/* With reads in flight, at every byte of a stream of requests; and again with an error instead of
 * an end. */
static void
test_hang_up_at_every_byte(void **state)
{
	size_t length = SIZE_MAX;

	(void)state;
	peer_hold(&peer, true);
	for (size_t at = 0; at <= length; at++) {
		peer_go(&peer, "disk0", at % 2);
		peer_request(&peer, 0, NBD_CMD_READ, 1, 0, 100000);
		send_write(0, 2, 0, 77);
		peer_request(&peer, 0, NBD_CMD_READ, 3, 4096, 4096);
		send_write(0, 4, PEER_SIZE, 55);
		length = peer.out.length;
		peer.out.length = at;
		peer_flush(&peer);
		pipe_fail_read(peer.pipe, -ECONNRESET);
		pipe_fail_write(peer.pipe, -EPIPE);
		if (at % 3 == 0)
			pipe_feed_eof(peer.pipe);
		peer_run();
		while (peer_held(&peer))
			peer_complete(&peer, peer_held(&peer) - 1, 0);
		assert_false(peer_is_open(&peer));
		assert_int_equal(peer_connections(&peer), 0);
		assert_int_equal(iobuf_reserved(0), 0);
	}
	peer_hold(&peer, false);
}

static void
visit_row(const struct connection_row *row, void *arg)
{
	unsigned *rows = arg;

	(*rows)++;
	assert_string_equal(row->protocol, "nbd");
	assert_string_equal(row->client, "10.0.0.7:41332");
	assert_string_equal(row->name, "");
	assert_string_equal(row->volume, volume_name(volume_script_volume(peer.script)));
	assert_int_equal(row->in_flight, 1);
	assert_non_null(strstr(row->what, "structured, base:allocation"));
}

static void
test_visit(void **state)
{
	unsigned rows = 0;

	(void)state;
	peer_go(&peer, "disk0", true);
	peer_hold(&peer, true);
	send_one(0, NBD_CMD_READ, 1, 0, 512);
	nbd_frontend.visit(peer.loop, visit_row, &rows);
	assert_int_equal(rows, 1);
	/* A dead one that waits for the volume is still shown. */
	nbd_frontend.abort(peer.loop);
	peer_run();
	nbd_frontend.visit(peer.loop, visit_row, &rows);
	assert_int_equal(rows, 2);
	peer_complete(&peer, 0, 0);
	peer_hold(&peer, false);
}

#define CASE(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(read_simple),
		CASE(read_structured),
		CASE(read_largest),
		CASE(write_simple),
		CASE(held_write_keeps_its_bytes),
		CASE(write_in_parts),
		CASE(partial_write_has_no_effect),
		CASE(flush),
		CASE(trim),
		CASE(cache),
		CASE(write_zeroes),
		CASE(fast_zero),
		CASE(fua_everywhere),
		CASE(block_status),
		CASE(transmission_flags),
		CASE(past_the_end),
		CASE(read_only),
		CASE(min_block),
		CASE(unknown_flags),
		CASE(unknown_command),
		CASE(refused_write_drains),
		CASE(payload_too_long),
		CASE(bad_magic),
		CASE(errors_of_the_block_layer),
		CASE(split_everywhere),
		CASE(batched_answers),
		CASE(out_of_order),
		CASE(in_flight_limit),
		CASE(memory_limit),
		CASE(abort_while_waiting),
		CASE(output_blocked),
		CASE(stalled_output),
		CASE(partial_request_times_out),
		CASE(slow_payload_times_out),
		CASE(linger),
		CASE(leftovers_are_bounded),
		CASE(disc),
		CASE(half_close),
		CASE(drain),
		CASE(drain_idle),
		CASE(volume_gone),
		CASE(hang_up_at_every_byte),
		CASE(visit),
	};

	return cmocka_run_group_tests_name("nbd_transmit", tests, NULL, NULL);
}
