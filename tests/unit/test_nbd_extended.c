/* Extended headers: negotiation, each command, payloads announced by a flag, lengths of 64 bits. */
#include "config.h"

#include "nbd_peer.h"

#include <errno.h>

#include "limits.h"
#include "volume.h"

#define PAYLOAD_LEN NBD_CMD_FLAG_PAYLOAD_LEN
#define TIB_        ((uint64_t)1 << 40)

static struct peer peer;
static uint8_t pattern[65536];

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
send_one(unsigned flags, unsigned command, uint64_t cookie, uint64_t offset, uint64_t length)
{
	peer_request(&peer, flags, command, cookie, offset, length);
	peer_flush(&peer);
}

static void
send_payload(unsigned flags, unsigned command, uint64_t cookie, uint64_t offset, uint32_t length)
{
	peer_request(&peer, flags | PAYLOAD_LEN, command, cookie, offset, length);
	peer_bytes(&peer, pattern, length);
	peer_flush(&peer);
}

static void
expect_in_step(void)
{
	send_one(0, NBD_CMD_FLUSH, 0xf1, 0, 0);
	peer_expect_success(&peer, 0xf1);
	peer_expect_nothing(&peer);
	assert_true(peer_is_open(&peer));
}

static void
expect_offset(unsigned type, uint64_t cookie, uint64_t offset)
{
	struct peer_chunk chunk;

	peer_take_chunk(&peer, &chunk);
	assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
	assert_int_equal(chunk.type, type);
	assert_int_equal(chunk.cookie, cookie);
	assert_int_equal(chunk.offset, offset);
}

/* Negotiation */

static void
test_negotiate(void **state)
{
	static const uint8_t data[4];

	(void)state;
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_EXTENDED_HEADERS, data, sizeof(data));
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID);
	for (int i = 0; i < 2; i++) {
		peer_option(&peer, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
		peer_flush(&peer);
		peer_expect_reply(&peer, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, NULL, 0);
	}
	peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD);
	peer_info(&peer, NBD_OPT_GO, "disk0", NULL, 0);
	assert_true(peer_expect_export(&peer, NBD_OPT_GO) & NBD_FLAG_SEND_DF);
	peer_skip(&peer);
	peer.extended = true;
	expect_in_step();
}

static void
test_after_structured(void **state)
{
	(void)state;
	peer_hello_structured(&peer);
	peer_option(&peer, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, NULL, 0);
	peer_info(&peer, NBD_OPT_GO, "disk0", NULL, 0);
	peer_skip(&peer);
	peer.extended = true;
	expect_in_step();
}

static void
test_export_name_is_refused(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	peer_flush(&peer);
	peer_skip(&peer);
	peer_option(&peer, NBD_OPT_EXPORT_NAME, "disk0", 5);
	peer_flush(&peer);
	peer_expect_nothing(&peer);
	assert_int_equal(pipe_wanted(peer.pipe) & STREAM_WRITABLE, 0);
}

static unsigned
flags_of(const char *set, const char *name)
{
	unsigned flags;

	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	peer_flush(&peer);
	peer_skip(&peer);
	if (set)
		peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, set, NBD_BASE_ALLOCATION, NULL);
	peer_skip(&peer);
	peer_info(&peer, NBD_OPT_GO, name, NULL, 0);
	flags = peer_expect_export(&peer, NBD_OPT_GO);
	peer_skip(&peer);
	return flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD;
}

static void
test_status_payload_flag(void **state)
{
	(void)state;
	assert_true(flags_of("disk0", "disk0"));
	assert_false(flags_of(NULL, "disk0"));
	assert_false(flags_of("hidden", "disk0"));
}

/* Commands */

static void
test_every_reply_echoes(void **state)
{
	(void)state;
	peer_go_extended(&peer, "disk0");
	send_payload(NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 1, 12345, 4096);
	expect_offset(NBD_REPLY_TYPE_NONE, 1, 12345);
	assert_memory_equal(peer_data(&peer) + 12345, pattern, 4096);
	send_one(0, NBD_CMD_TRIM, 2, 4096, 4096);
	expect_offset(NBD_REPLY_TYPE_NONE, 2, 4096);
	send_one(0, NBD_CMD_CACHE, 3, 512, 4096);
	expect_offset(NBD_REPLY_TYPE_NONE, 3, 512);
	send_one(0, NBD_CMD_WRITE_ZEROES, 4, 1024, 4096);
	expect_offset(NBD_REPLY_TYPE_NONE, 4, 1024);
	send_one(0, NBD_CMD_READ, 5, 12345, 4096);
	peer_expect_data(&peer, 5, 12345, 4096);
	send_one(0, NBD_CMD_READ, 6, PEER_SIZE, 1);
	expect_offset(NBD_REPLY_TYPE_ERROR, 6, PEER_SIZE);
	send_one(0, NBD_CMD_READ, 7, PEER_SIZE, 0);
	expect_offset(NBD_REPLY_TYPE_NONE, 7, PEER_SIZE);
	send_one(0, 77, 8, 0x8877665544332211, 5);
	expect_offset(NBD_REPLY_TYPE_ERROR, 8, 0x8877665544332211);
	peer_fail_next(&peer, BLK_WRITE, -EIO);
	send_payload(0, NBD_CMD_WRITE, 9, 77, 512);
	expect_offset(NBD_REPLY_TYPE_ERROR, 9, 77);
	peer_expect_nothing(&peer);
	expect_in_step();
}

/* The low 32 bits alone would be a fine request. */
static void
test_long_lengths(void **state)
{
	static const unsigned commands[] = {
		NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS};

	(void)state;
	peer_go_extended(&peer, "disk0");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		bool zeroes = commands[i] == NBD_CMD_WRITE_ZEROES;

		send_one(0, commands[i], i, 4096, TIB_ + 4096);
		peer_expect_error_chunk(&peer, zeroes ? NBD_ENOSPC : NBD_EINVAL, i);
		send_one(0, commands[i], i, 4096, UINT64_MAX - 4095);
		peer_expect_error_chunk(&peer, zeroes ? NBD_ENOSPC : NBD_EINVAL, i);
	}
	send_one(0, NBD_CMD_READ, 9, 0, TIB_ + 4096);
	peer_expect_error_chunk(&peer, NBD_EOVERFLOW, 9);
	assert_int_equal(peer_calls(&peer), 0);
	expect_in_step();
}

static void
test_payload_is_announced(void **state)
{
	(void)state;
	peer_go_extended(&peer, "disk0");
	/* Without the flag there is no payload, and a WRITE needs one. */
	send_one(0, NBD_CMD_WRITE, 1, 0, 4096);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 1);
	expect_in_step();
	peer_forget(&peer);
	/* With it there is one, whatever the command. */
	send_payload(0, NBD_CMD_READ, 2, 0, 4096);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 2);
	send_payload(0, NBD_CMD_FLUSH, 3, 0, 1);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 3);
	send_payload(0, NBD_CMD_WRITE_ZEROES, 4, 0, 65536);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 4);
	send_payload(0, 4711, 5, 0, 65536);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 5);
	assert_int_equal(peer_calls(&peer), 0);
	send_payload(0, NBD_CMD_WRITE, 6, PEER_SIZE, 512);
	peer_expect_error_chunk(&peer, NBD_ENOSPC, 6);
	send_payload(0, NBD_CMD_WRITE, 7, 0, 0);
	peer_expect_success(&peer, 7);
	expect_in_step();
}

static void
test_payload_flag_needs_extended_headers(void **state)
{
	(void)state;
	peer_go(&peer, "disk0", true);
	send_payload(0, NBD_CMD_WRITE, 1, 0, 4096);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 1);
	/* A compact header announces no payload with it. */
	send_one(PAYLOAD_LEN, NBD_CMD_READ, 2, 0, 4096);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 2);
	send_one(PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 3, 0, 12);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 3);
	expect_in_step();
}

static void
test_payload_too_long(void **state)
{
	static const unsigned commands[] = {NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_BLOCK_STATUS, 99};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		peer_go_extended(&peer, "disk0");
		peer_request(&peer, 0, NBD_CMD_READ, 1, 0, 512);
		peer_request(&peer, PAYLOAD_LEN, commands[i], 2, 0, TIB_);
		peer_flush(&peer);
		/* What came before is answered. */
		peer_expect_data(&peer, 1, 0, 512);
		peer_expect_nothing(&peer);
		assert_int_equal(peer_in_flight(&peer), 0);
	}
}

static void
test_compact_header_closes(void **state)
{
	(void)state;
	peer_go_extended(&peer, "disk0");
	peer.extended = false;
	peer_request(&peer, 0, NBD_CMD_READ, 1, 0, 512);
	peer_request(&peer, 0, NBD_CMD_READ, 1, 0, 512);
	peer_flush(&peer);
	peer_expect_nothing(&peer);
	assert_int_equal(peer_calls(&peer), 0);
}

/* Block status */

static void
expect_status(uint64_t cookie, uint64_t offset, unsigned n, const uint64_t extents[][2])
{
	struct peer_chunk chunk;
	uint8_t data[8 + 16 * 4];

	peer_take_chunk(&peer, &chunk);
	assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
	assert_int_equal(chunk.type, NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
	assert_int_equal(chunk.cookie, cookie);
	assert_int_equal(chunk.offset, offset);
	assert_int_equal(chunk.length, 8 + 16 * n);
	peer_take(&peer, data, chunk.length);
	assert_int_equal(get_be32(data), NBD_BASE_ALLOCATION_ID);
	assert_int_equal(get_be32(data + 4), n);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(get_be64(data + 8 + 16 * i), extents[i][0]);
		assert_int_equal(get_be64(data + 16 + 16 * i), extents[i][1]);
	}
}

static const uint64_t three[][2] = {
	{4096, 0}, {8192, NBD_STATE_HOLE | NBD_STATE_ZERO}, {1024 * 1024, 0}};

static void
test_block_status(void **state)
{
	static const uint64_t one[][2] = {{512, 0}};

	(void)state;
	volume_script_punch(peer.script, 8192, 8192);
	peer_go_extended(&peer, "disk0");
	send_one(0, NBD_CMD_BLOCK_STATUS, 1, 4096, 4096 + 8192 + 1024 * 1024);
	expect_status(1, 4096, 3, three);
	send_one(NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 2, 0, 512);
	expect_status(2, 0, 1, one);
	expect_in_step();
}

static void
send_list(unsigned flags, uint64_t cookie, uint64_t length, unsigned n, const uint32_t *ids)
{
	peer_request(&peer, flags | PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, cookie, 4096, 8 + 4 * n);
	peer_be64(&peer, length);
	for (unsigned i = 0; i < n; i++)
		peer_be32(&peer, ids[i]);
	peer_flush(&peer);
}

static void
test_block_status_payload(void **state)
{
	static const uint32_t ours[] = {NBD_BASE_ALLOCATION_ID};
	static const uint32_t unknown[] = {77};
	static const uint32_t twice[] = {NBD_BASE_ALLOCATION_ID, NBD_BASE_ALLOCATION_ID};

	(void)state;
	volume_script_punch(peer.script, 8192, 8192);
	for (int split = 0; split < 2; split++) {
		assert_true(peer_go_extended(&peer, "disk0") & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
		peer.one_by_one = split;
		send_list(0, 1, 4096 + 8192 + 1024 * 1024, 1, ours);
		expect_status(1, 4096, 3, three);
		send_list(NBD_CMD_FLAG_REQ_ONE, 2, 8192, 1, ours);
		expect_status(2, 4096, 1, three);
		send_list(0, 3, 4096, 1, unknown);
		peer_expect_error_chunk(&peer, NBD_EINVAL, 3);
		send_list(0, 4, 4096, 2, twice);
		peer_expect_error_chunk(&peer, NBD_EINVAL, 4);
		send_list(0, 5, 4096, 0, NULL);
		peer_expect_error_chunk(&peer, NBD_EINVAL, 5);
		send_list(0, 6, 0, 1, ours);
		peer_expect_error_chunk(&peer, NBD_EINVAL, 6);
		send_list(0, 7, PEER_SIZE - 4095, 1, ours);
		peer_expect_error_chunk(&peer, NBD_EINVAL, 7);
		send_list(0, 8, UINT64_MAX, 1, ours);
		peer_expect_error_chunk(&peer, NBD_EINVAL, 8);
		send_payload(0, NBD_CMD_BLOCK_STATUS, 9, 0, 11);
		peer_expect_error_chunk(&peer, NBD_EINVAL, 9);
		expect_in_step();
	}
	peer.one_by_one = false;
}

/* No context was selected: refused, and drained. */
static void
test_block_status_payload_unselected(void **state)
{
	static const uint32_t ours[] = {NBD_BASE_ALLOCATION_ID};

	(void)state;
	flags_of(NULL, "disk0");
	peer.extended = true;
	send_list(0, 1, 4096, 1, ours);
	peer_expect_error_chunk(&peer, NBD_EINVAL, 1);
	expect_in_step();
}

/* A descriptor is a multiple of the minimum block: one that is partly data is data. */
static void
test_block_status_min_block(void **state)
{
	const uint32_t both = NBD_STATE_HOLE | NBD_STATE_ZERO;
	const uint64_t expected[][2] = {
		{PEER_MIN_BLOCK, 0}, {2 * PEER_MIN_BLOCK, both}, {PEER_MIN_BLOCK, 0}};
	static const uint64_t first[][2] = {{PEER_MIN_BLOCK, 0}};

	(void)state;
	/* From the middle of the first block to within the fourth. */
	volume_script_punch(peer.script, 4096, 2 * PEER_MIN_BLOCK + 4096 + 512);
	peer_go_extended(&peer, "ro");
	send_one(0, NBD_CMD_BLOCK_STATUS, 1, 0, 4 * PEER_MIN_BLOCK);
	expect_status(1, 0, 3, expected);
	/* The one extent is shorter than a block. */
	send_one(NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 2, 0, 4 * PEER_MIN_BLOCK);
	expect_status(2, 0, 1, first);
}

/* A client that goes away at any byte of a request with payload. */
static void
test_hang_up_at_every_byte(void **state)
{
	(void)state;
	for (size_t at = 0; at < NBD_EXTENDED_REQUEST_SIZE + NBD_STATUS_LIST_SIZE; at++) {
		peer_go_extended(&peer, "disk0");
		peer_request(&peer, PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 1, 0, 12);
		peer_be64(&peer, 4096);
		peer_be32(&peer, NBD_BASE_ALLOCATION_ID);
		peer.out.length = at;
		peer_flush(&peer);
		peer_expect_nothing(&peer);
		peer_hang_up(&peer);
		assert_int_equal(peer_connections(&peer), 0);
	}
	assert_int_equal(peer_calls(&peer), 0);
}

static void
test_partial_list_times_out(void **state)
{
	(void)state;
	peer_go_extended(&peer, "disk0");
	send_one(PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 1, 0, 12);
	peer_advance(&peer, 29 * SECOND_NS);
	assert_true(peer_is_open(&peer));
	peer_advance(&peer, 3 * SECOND_NS);
	assert_false(peer_is_open(&peer));
}

#define CASE(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(negotiate),
		CASE(after_structured),
		CASE(export_name_is_refused),
		CASE(status_payload_flag),
		CASE(every_reply_echoes),
		CASE(long_lengths),
		CASE(payload_is_announced),
		CASE(payload_flag_needs_extended_headers),
		CASE(payload_too_long),
		CASE(compact_header_closes),
		CASE(block_status),
		CASE(block_status_payload),
		CASE(block_status_payload_unselected),
		CASE(block_status_min_block),
		CASE(hang_up_at_every_byte),
		CASE(partial_list_times_out),
	};

	return cmocka_run_group_tests_name("nbd_extended", tests, NULL, NULL);
}
