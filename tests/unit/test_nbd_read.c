/* READ answered in several chunks: cuts, holes, what goes between them, and every way to end. */
#include "config.h"

#include "nbd_peer.h"

#include <errno.h>

#include "limits.h"
#include "volume.h"

#define CUT  LIMIT_NBD_CHUNK
#define HEAD (NBD_CHUNK_SIZE + 8)

static struct peer peer;

static void
start(bool is_inline)
{
	peer_start(&peer, &(struct volume_script_options){.not_inline = !is_inline});
	for (size_t i = 0; i < PEER_SIZE; i++)
		peer_data(&peer)[i] = (uint8_t)(i * 7 + i / 251 + 1);
}

static int
setup(void **state)
{
	(void)state;
	start(false);
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
send_read(unsigned flags, uint64_t cookie, uint64_t offset, uint32_t length)
{
	peer_request(&peer, flags, NBD_CMD_READ, cookie, offset, length);
	peer_flush(&peer);
}

static void
expect_pieces(uint64_t cookie, uint64_t offset, uint32_t length, unsigned data, unsigned holes)
{
	struct peer_pieces pieces = peer_expect_pieces(&peer, cookie, offset, length);

	assert_int_equal(pieces.data, data);
	assert_int_equal(pieces.holes, holes);
	assert_int_equal(peer_in_flight(&peer), 0);
}

static void
go(bool extended)
{
	if (extended)
		peer_go_extended(&peer, "disk0");
	else
		peer_go(&peer, "disk0", true);
}

static void
test_cut(void **state)
{
	(void)state;
	for (int extended = 0; extended < 2; extended++) {
		go(extended);
		send_read(0, 1, CUT, CUT);
		expect_pieces(1, CUT, CUT, 1, 0);
		send_read(0, 2, 0, CUT + 1);
		expect_pieces(2, 0, CUT + 1, 2, 0);
		send_read(0, 3, 5, 4 * CUT);
		expect_pieces(3, 5, 4 * CUT, 5, 0);
		send_read(0, 4, 1, LIMIT_NBD_PAYLOAD);
		expect_pieces(4, 1, LIMIT_NBD_PAYLOAD, LIMIT_NBD_PAYLOAD / CUT + 1, 0);
		peer_expect_nothing(&peer);
	}
}

static void
test_holes(void **state)
{
	(void)state;
	volume_script_punch(peer.script, CUT / 2, CUT);
	volume_script_punch(peer.script, 4 * CUT, 2 * CUT);
	for (int extended = 0; extended < 2; extended++) {
		go(extended);
		peer_forget(&peer);
		/* Data, hole, data in one chunk and two, hole, data. */
		send_read(0, 1, 0, 7 * CUT);
		expect_pieces(1, 0, 7 * CUT, 1 + 3 + 1, 2);
		peer_expect_call(&peer, 0, BLK_EXTENTS, 0, 0, 7 * CUT);
		peer_expect_call(&peer, 1, BLK_READ, 0, 0, 7 * CUT);
		/* What is read is what lies between holes. */
		peer_forget(&peer);
		send_read(0, 2, CUT, 4 * CUT);
		expect_pieces(2, CUT, 4 * CUT, 3, 2);
		peer_expect_call(&peer, 1, BLK_READ, 0, CUT + CUT / 2, 2 * CUT + CUT / 2);
		/* Nothing but a hole is not read at all. */
		peer_forget(&peer);
		send_read(0, 3, 4 * CUT + 7, CUT + 100);
		expect_pieces(3, 4 * CUT + 7, CUT + 100, 0, 1);
		assert_int_equal(peer_calls(&peer), 1);
		/* Ends within a hole, and begins in one. */
		send_read(0, 4, 3 * CUT + 1, CUT + CUT / 2 + 1);
		expect_pieces(4, 3 * CUT + 1, CUT + CUT / 2 + 1, 1, 1);
		send_read(0, 5, 5 * CUT + 3, 2 * CUT);
		expect_pieces(5, 5 * CUT + 3, 2 * CUT, 2, 1);
	}
}

/* Where it costs no worker's turn shorter reads are looked at, the shortest never. */
static void
test_holes_inline(void **state)
{
	(void)state;
	peer_stop(&peer);
	start(true);
	volume_script_punch(peer.script, 0, CUT);
	go(false);
	send_read(0, 1, 0, 65536);
	expect_pieces(1, 0, 65536, 0, 1);
	send_read(0, 2, 0, 65535);
	peer_expect_data(&peer, 2, 0, 65535);
	peer_forget(&peer);
	send_read(0, 3, 0, 4096);
	peer_expect_data(&peer, 3, 0, 4096);
	assert_int_equal(peer_calls(&peer), 1);
}

static void
test_do_not_fragment(void **state)
{
	(void)state;
	volume_script_punch(peer.script, CUT, CUT);
	for (int extended = 0; extended < 2; extended++) {
		go(extended);
		peer_forget(&peer);
		send_read(NBD_CMD_FLAG_DF, 1, 0, 3 * CUT);
		peer_expect_data(&peer, 1, 0, 3 * CUT);
		assert_int_equal(peer_calls(&peer), 1);
	}
}

static void
test_simple_replies_are_whole(void **state)
{
	(void)state;
	volume_script_punch(peer.script, CUT, CUT);
	peer_go(&peer, "disk0", false);
	send_read(0, 1, 0, 3 * CUT);
	peer_expect_simple(&peer, 0, 1);
	peer_expect(&peer, peer_data(&peer), 3 * CUT);
	peer_expect_nothing(&peer);
}

static void
test_small_holes_are_data(void **state)
{
	(void)state;
	volume_script_punch(peer.script, 8192, 2048);
	volume_script_punch(peer.script, 65536, 4096);
	go(false);
	send_read(0, 1, 0, 2 * CUT);
	expect_pieces(1, 0, 2 * CUT, 3, 1);
}

/* More extents than are looked at: the rest is data, also where it is zeroes. */
static void
test_many_holes(void **state)
{
	struct peer_pieces pieces;

	(void)state;
	for (unsigned i = 0; i < 200; i++)
		volume_script_punch(peer.script, i * 16384 + 4096, 8192);
	go(false);
	send_read(0, 1, 0, 200 * 16384);
	pieces = peer_expect_pieces(&peer, 1, 0, 200 * 16384);
	assert_in_range(pieces.holes, 16, 64);
	for (unsigned i = 0; i < 40; i++) {
		uint32_t length = 300000 + i * 12345;

		send_read(0, i, i * 5000, length);
		peer_expect_pieces(&peer, i, i * 5000, length);
	}
	assert_int_equal(peer_in_flight(&peer), 0);
}

static void
expect_small(uint64_t cookie)
{
	peer_expect_data(&peer, cookie, 0, 16);
}

/* A group that waits for its turn does not keep back what is ready meanwhile. */
static void
test_others_go_between(void **state)
{
	uint8_t head[HEAD];

	(void)state;
	go(false);
	pipe_set_room(peer.pipe, 1000);
	send_read(0, 1, 0, 8 * CUT);
	/* The first chunk is on its way; these are answered after it. */
	send_read(0, 2, 0, 16);
	send_read(0, 3, 0, 16);
	assert_int_equal(pipe_output_length(peer.pipe), 1000);
	pipe_set_room(peer.pipe, SIZE_MAX);
	peer_run();
	peer_take(&peer, head, HEAD);
	assert_int_equal(get_be64(head + 8), 1);
	assert_int_equal(get_be16(head + 4), 0);
	assert_int_equal(get_be32(head + 16), 8 + CUT);
	peer_expect(&peer, peer_data(&peer), CUT);
	expect_small(2);
	expect_small(3);
	expect_pieces(1, CUT, 7 * CUT, 7, 0);
	peer_expect_nothing(&peer);
}

/* Without any back-pressure large answers take turns. */
static void
test_large_ones_take_turns(void **state)
{
	uint64_t cookies[8];

	(void)state;
	go(false);
	peer_request(&peer, 0, NBD_CMD_READ, 1, 0, 4 * CUT);
	peer_request(&peer, 0, NBD_CMD_READ, 2, 8 * CUT, 4 * CUT);
	peer_flush(&peer);
	for (unsigned i = 0; i < ARRAY_SIZE(cookies); i++) {
		uint8_t head[HEAD];

		peer_take(&peer, head, HEAD);
		cookies[i] = get_be64(head + 8);
		assert_int_equal(get_be16(head + 4), i < 6 ? 0 : NBD_REPLY_FLAG_DONE);
		peer_expect(&peer, peer_data(&peer) + get_be64(head + 20), CUT);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(cookies); i += 2)
		assert_int_not_equal(cookies[i], cookies[i + 1]);
	peer_expect_nothing(&peer);
}

/* Its backend has not answered the large one yet. */
static void
test_small_before_large(void **state)
{
	(void)state;
	go(false);
	peer_hold(&peer, true);
	send_read(0, 1, 0, 8 * CUT);
	send_read(0, 2, 0, 16);
	assert_int_equal(peer_held(&peer), 2);
	peer_complete(&peer, 1, 0);
	expect_small(2);
	peer_complete(&peer, 0, 0); /* EXTENTS */
	send_read(0, 3, 0, 16);
	peer_complete(&peer, 1, 0);
	expect_small(3);
	peer_expect_nothing(&peer);
	peer_complete(&peer, 0, 0);
	expect_pieces(1, 0, 8 * CUT, 8, 0);
	peer_hold(&peer, false);
}

static void
test_errors(void **state)
{
	(void)state;
	go(false);
	/* Nothing known is no failure. */
	peer_fail_next(&peer, BLK_EXTENTS, -EIO);
	send_read(0, 1, 0, 2 * CUT);
	expect_pieces(1, 0, 2 * CUT, 2, 0);
	/* A failed READ is an error and no data at all. */
	volume_script_punch(peer.script, 0, CUT);
	peer_fail_next(&peer, BLK_READ, -EIO);
	send_read(0, 2, 0, 2 * CUT);
	peer_expect_error_chunk(&peer, NBD_EIO, 2);
	peer_expect_nothing(&peer);
	assert_int_equal(peer_in_flight(&peer), 0);
}

/* The client goes away while its extents, its data or its answer are on their way. */
static void
test_hang_up(void **state)
{
	(void)state;
	for (unsigned completed = 0; completed < 2; completed++) {
		go(false);
		peer_hold(&peer, true);
		send_read(0, 1, 0, 8 * CUT);
		for (unsigned i = 0; i < completed; i++)
			peer_complete(&peer, 0, 0);
		peer_hold(&peer, false);
		pipe_fail_read(peer.pipe, -ECONNRESET);
		peer_run();
		assert_false(peer_is_open(&peer));
		assert_int_equal(peer_in_flight(&peer), 1);
		while (peer_held(&peer))
			peer_complete(&peer, 0, 0);
		assert_int_equal(peer_connections(&peer), 0);
	}
	for (size_t room = 1; room < 3 * CUT; room += CUT / 3) {
		go(false);
		pipe_set_room(peer.pipe, room);
		send_read(0, 1, 0, 8 * CUT);
		pipe_fail_write(peer.pipe, -EPIPE);
		peer_run();
		assert_false(peer_is_open(&peer));
		assert_int_equal(peer_connections(&peer), 0);
	}
}

/* DISC and a drain wait for the last chunk. */
static void
test_end_after_the_last_chunk(void **state)
{
	(void)state;
	go(false);
	peer_request(&peer, 0, NBD_CMD_READ, 1, 0, 8 * CUT);
	peer_request(&peer, 0, NBD_CMD_DISC, 2, 0, 0);
	peer_flush(&peer);
	peer_expect_pieces(&peer, 1, 0, 8 * CUT);
	go(false);
	pipe_set_room(peer.pipe, CUT);
	send_read(0, 1, 0, 8 * CUT);
	peer_drain(&peer);
	assert_true(peer_is_open(&peer));
	pipe_set_room(peer.pipe, SIZE_MAX);
	peer_run();
	peer_expect_pieces(&peer, 1, 0, 8 * CUT);
	peer_expect_nothing(&peer);
}

#define CASE(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(cut),
		CASE(holes),
		CASE(holes_inline),
		CASE(do_not_fragment),
		CASE(simple_replies_are_whole),
		CASE(small_holes_are_data),
		CASE(many_holes),
		CASE(others_go_between),
		CASE(large_ones_take_turns),
		CASE(small_before_large),
		CASE(errors),
		CASE(hang_up),
		CASE(end_after_the_last_chunk),
	};

	return cmocka_run_group_tests_name("nbd_read", tests, NULL, NULL);
}
