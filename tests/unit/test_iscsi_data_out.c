/* protocols/iscsi/iscsi_data_out.c: several R2Ts at once, and data in any order. RFC 7143 13.17 to 13.19 */
#include "config.h"

#include "iscsi_peer.h"

#include <stdio.h>
#include <time.h>

#include "bytes.h"
#include "scsi/scsi.h"

static uint8_t pattern[WORLD_SIZE];

struct burst {
	uint32_t ttt, offset, length;
	uint32_t datasn;
	uint32_t left;                     /* PDUs not sent */
	uint32_t order[WORLD_SIZE / 4096]; /* of the PDUs */
};

/* Takes what R2Ts there are; how many. */
static unsigned
take_r2ts(struct peer *peer, struct burst *bursts, unsigned have, unsigned most)
{
	struct pdu *pdu;

	virtual_run_until_idle();
	while (pipe_output_length(peer->pipe) > 0) {
		assert_true(have < most);
		pdu = peer_expect(peer, ISCSI_R2T);
		bursts[have++] = (struct burst){.ttt = get_be32(pdu->bhs + BHS_TTT),
			.offset = get_be32(pdu->bhs + BHS_OFFSET),
			.length = get_be32(pdu->bhs + BHS_DESIRED)};
	}
	return have;
}

static void
send_data_out(struct peer *peer, uint32_t itt, struct burst *burst, uint32_t offset,
	uint32_t length, bool final)
{
	uint8_t *bhs = peer_start(peer, ISCSI_DATA_OUT);

	peer->itt--;
	bhs[BHS_FLAGS] = final ? ISCSI_FINAL : 0;
	put_be32(bhs + BHS_ITT, itt);
	put_be32(bhs + BHS_TTT, burst->ttt);
	put_be32(bhs + BHS_CMDSN, 0);
	put_be32(bhs + BHS_DATASN, burst->datasn++);
	put_be32(bhs + BHS_OFFSET, offset);
	peer_send(peer, pattern + offset, length);
}

static void
send_burst(struct peer *peer, uint32_t itt, const struct burst *burst)
{
	peer_data_out(peer, itt, burst->ttt, pattern, burst->offset, burst->length, 8192);
}

static uint32_t
start_write(struct peer *peer, uint16_t blocks)
{
	peer_write10(peer, 0, blocks);
	peer_send(peer, NULL, 0);
	return peer->itt;
}

static void
expect_good(struct peer *peer, size_t length)
{
	struct pdu *pdu = peer_expect(peer, ISCSI_RESPONSE);

	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_GOOD);
	assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL);
	assert_memory_equal(volume_script_data(world.script), pattern, length);
}

static void
expect_sense(struct peer *peer, unsigned code)
{
	struct pdu *pdu = peer_expect(peer, ISCSI_RESPONSE);

	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_CHECK_CONDITION);
	assert_int_equal(pdu->data[2 + 2], 0x0b);
	assert_int_equal(get_be16(pdu->data + 2 + 12), code);
}

/* As many as agreed, ascending, and another for each that was answered. */
static void
test_several_r2ts(void **state)
{
	struct peer *peer =
		peer_session("ImmediateData=No\nMaxOutstandingR2T=4\nMaxBurstLength=65536\n");
	struct burst bursts[4];
	uint32_t itt, offset = 0;

	(void)state;
	fill_pattern(pattern, MIB, 1);
	itt = start_write(peer, 2048);
	assert_int_equal(take_r2ts(peer, bursts, 0, 4), 4);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(bursts[i % 4].offset, offset);
		assert_int_equal(bursts[i % 4].length, 65536);
		send_burst(peer, itt, &bursts[i % 4]);
		offset += 65536;
		if (i < 12) {
			struct burst next[1];

			assert_int_equal(take_r2ts(peer, next, 0, 1), 1);
			bursts[i % 4] = next[0];
		} else if (i < 15) {
			peer_expect_nothing(peer);
		}
	}
	expect_good(peer, MIB);
	peer_free(peer);

	peer = peer_session("ImmediateData=No\nMaxOutstandingR2T=65535\nMaxBurstLength=512\n");
	start_write(peer, 100);
	assert_int_equal(take_r2ts(peer, (struct burst[LIMIT_ISCSI_R2TS]){0}, 0, LIMIT_ISCSI_R2TS),
		LIMIT_ISCSI_R2TS);
	peer_free(peer);
}

/* DataSequenceInOrder=Yes: the second answered first fails the write when all have been answered. */
static void
test_sequences_out_of_order(void **state)
{
	struct peer *peer =
		peer_session("ImmediateData=No\nMaxOutstandingR2T=2\nMaxBurstLength=16384\n");
	struct burst bursts[2];
	uint32_t itt;

	(void)state;
	itt = start_write(peer, 128);
	assert_int_equal(take_r2ts(peer, bursts, 0, 2), 2);
	send_burst(peer, itt, &bursts[1]);
	peer_expect_nothing(peer);
	send_burst(peer, itt, &bursts[0]);
	expect_sense(peer, 0x4705);
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_free(peer);
}

/* A burst that fails: no more is asked for, and the others are still taken from the wire. */
static void
test_one_burst_of_several_fails(void **state)
{
	struct peer *peer =
		peer_session("ImmediateData=No\nMaxOutstandingR2T=3\nMaxBurstLength=16384\n");
	struct burst bursts[3];
	uint32_t itt;

	(void)state;
	itt = start_write(peer, 256);
	assert_int_equal(take_r2ts(peer, bursts, 0, 3), 3);
	send_data_out(peer, itt, &bursts[0], 0, 8192, true); /* F comes early */
	peer_expect_nothing(peer);
	send_burst(peer, itt, &bursts[1]);
	peer_expect_nothing(peer);
	send_burst(peer, itt, &bursts[2]);
	expect_sense(peer, 0x0c0d);
	assert_int_equal(volume_script_calls(world.script), 0);
	/* what comes with a tag that was answered is refused */
	itt = start_write(peer, 256);
	take_r2ts(peer, bursts, 0, 3);
	send_burst(peer, itt, &bursts[0]);
	bursts[0].length = 512;
	send_burst(peer, itt, &bursts[0]);
	peer_expect(peer, ISCSI_R2T);
	assert_int_equal(peer_expect(peer, ISCSI_REJECT)->bhs[BHS_RESPONSE], ISCSI_REJECT_FIELD);
	peer_free(peer);
}

static void
shuffle(uint32_t *order, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		order[i] = i;
	for (unsigned i = n; i > 1; i--) {
		unsigned j = (unsigned)random() % i;
		uint32_t kept = order[i - 1];

		order[i - 1] = order[j];
		order[j] = kept;
	}
}

/* The PDUs of a burst, by `pdus` or by ascending offset. */
static void
prepare_burst(struct burst *burst, uint32_t segment, bool any)
{
	burst->left = (burst->length + segment - 1) / segment;
	assert_true(burst->left <= ARRAY_SIZE(burst->order));
	if (any) {
		shuffle(burst->order, burst->left);
		return;
	}
	for (uint32_t i = 0; i < burst->left; i++)
		burst->order[i] = burst->left - 1 - i;
}

static void
send_next(struct peer *peer, uint32_t itt, struct burst *burst, uint32_t segment)
{
	uint32_t at = burst->order[--burst->left] * segment;
	uint32_t length = burst->length - at < segment ? burst->length - at : segment;

	send_data_out(peer, itt, burst, burst->offset + at, length, burst->left == 0);
}

/* Writes with bursts and PDUs in random order, as far as was agreed; unsolicited data too. */
static void
write_at_random(struct peer *peer, bool any_pdu, bool any_sequence, unsigned round)
{
	static struct burst bursts[4], unsolicited;
	const uint32_t segment = 4096 + 4 * (uint32_t)(random() % 1024);
	uint16_t blocks = (uint16_t)(1 + random() % 1500);
	uint32_t itt, edtl = (uint32_t)blocks * 512, end = edtl < 65536 ? edtl : 65536;
	unsigned n = 0, pick;

	fill_pattern(pattern, edtl, round);
	peer_write10(peer, 0, blocks)[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
	itt = peer->itt;
	peer_send(peer, pattern, 512);
	unsolicited = (struct burst){.ttt = ISCSI_TAG_NONE, .offset = 512, .length = end - 512};
	if (blocks == 1) {
		expect_good(peer, edtl);
		return;
	}
	prepare_burst(&unsolicited, segment, any_pdu);
	while (unsolicited.left > 0)
		send_next(peer, itt, &unsolicited, segment);
	for (;;) {
		unsigned before = n;

		virtual_run_until_idle();
		if (pipe_output_length(peer->pipe) == 0 || n == 4)
			;
		else if (pipe_output(peer->pipe, &(size_t){0})[0] == ISCSI_RESPONSE)
			break;
		else
			n = take_r2ts(peer, bursts, n, 4);
		for (unsigned i = before; i < n; i++)
			prepare_burst(&bursts[i], segment, any_pdu);
		assert_true(n > 0);
		pick = any_sequence ? (unsigned)random() % n : 0;
		send_next(peer, itt, &bursts[pick], segment);
		if (bursts[pick].left == 0) {
			n--;
			memmove(&bursts[pick], &bursts[pick + 1], (n - pick) * sizeof(bursts[0]));
		}
	}
	expect_good(peer, edtl);
}

static void
test_any_order(void **state)
{
	const char *given = getenv("SLABD_TEST_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);
	char keys[256];
	struct peer *peer;

	(void)state;
	print_message("# seed %u\n", seed);
	srandom(seed);
	for (unsigned i = 0; i < 8; i++) {
		bool any_pdu = i & 1, any_sequence = i & 2;

		snprintf(keys, sizeof(keys),
			"InitialR2T=No\nMaxOutstandingR2T=4\nMaxBurstLength=131072\n"
			"FirstBurstLength=65536\nDataPDUInOrder=%s\nDataSequenceInOrder=%s\n%s",
			any_pdu ? "No" : "Yes", any_sequence ? "No" : "Yes",
			i & 4 ? "HeaderDigest=CRC32C\nDataDigest=CRC32C\n" : "");
		peer = peer_session(keys);
		for (unsigned j = 0; j < 12; j++)
			write_at_random(peer, any_pdu, any_sequence, seed + 100 * i + j);
		peer_free(peer);
	}
}

/* Each way to send data wrongly where it may come in any order; nothing is written. */
static void
test_wrong_data_in_any_order(void **state)
{
	static const struct {
		uint32_t offset[3], length[3];
		unsigned code;
	} cases[] = {
		{{0, 8192, 8192}, {8192, 8192, 16384}, 0x4705},     /* the same bytes again */
		{{16384, 8192, 8191}, {16384, 8192, 8192}, 0x4705}, /* one of them */
		{{16384, 0, 8193}, {16384, 8192, 8192}, 0x4705},    /* a hole, and one too many */
		{{16384, 0, 8192}, {16384, 8192, 4096}, 0x0c0d},    /* a hole at the end of it */
		{{16384, 0, 32768}, {16384, 8192, 8192}, 0x0c0d},   /* past what was asked for */
		{{16384, 0, 0xfffffff0}, {16384, 8192, 32}, 0x0c0d},
	};
	struct peer *peer = peer_session("ImmediateData=No\nDataPDUInOrder=No\n");
	struct burst burst;
	uint32_t itt;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		itt = start_write(peer, 64);
		assert_int_equal(take_r2ts(peer, &burst, 0, 1), 1);
		for (unsigned j = 0; j < 3; j++) {
			uint8_t *bhs = peer_start(peer, ISCSI_DATA_OUT);

			peer->itt--;
			bhs[BHS_FLAGS] = j == 2 ? ISCSI_FINAL : 0;
			put_be32(bhs + BHS_ITT, itt);
			put_be32(bhs + BHS_TTT, burst.ttt);
			put_be32(bhs + BHS_DATASN, j);
			put_be32(bhs + BHS_OFFSET, cases[i].offset[j]);
			peer_send(peer, pattern, cases[i].length[j]);
		}
		expect_sense(peer, cases[i].code);
		assert_int_equal(volume_script_calls(world.script), 0);
	}
	peer_free(peer);
}

/* Unsolicited data may be less than the burst, but not with a hole. */
static void
test_unsolicited_data_with_a_hole(void **state)
{
	struct peer *peer = peer_session("InitialR2T=No\nImmediateData=No\nDataPDUInOrder=No\n");
	struct burst burst = {.ttt = ISCSI_TAG_NONE};
	uint32_t itt;

	(void)state;
	for (unsigned hole = 0; hole < 2; hole++) {
		burst.datasn = 0;
		peer_write10(peer, 0, 64)[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
		peer_send(peer, NULL, 0);
		itt = peer->itt;
		send_data_out(peer, itt, &burst, 8192, 8192, false);
		send_data_out(peer, itt, &burst, 0, hole ? 4096 : 8192, true);
		if (hole) {
			expect_sense(peer, 0x4705);
		} else {
			struct burst rest;

			assert_int_equal(take_r2ts(peer, &rest, 0, 1), 1);
			assert_int_equal(rest.offset, 16384);
			assert_int_equal(rest.length, 16384);
			send_data_out(peer, itt, &rest, 24576, 8192, false);
			send_data_out(peer, itt, &rest, 16384, 8192, true);
			expect_good(peer, 32768);
			volume_script_forget(world.script);
		}
	}
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_free(peer);
}

/* The record of what came is bounded: a write in too many pieces is BUSY, and the stream in step. */
static void
test_too_many_pieces(void **state)
{
	struct peer *peer = peer_session("ImmediateData=No\nDataPDUInOrder=No\n");
	struct burst burst;
	uint32_t itt;

	(void)state;
	for (uint32_t pieces = LIMIT_ISCSI_RANGES; pieces <= LIMIT_ISCSI_RANGES + 1; pieces++) {
		itt = start_write(peer, (uint16_t)(2 * pieces));
		assert_int_equal(take_r2ts(peer, &burst, 0, 1), 1);
		for (uint32_t i = 0; i < pieces; i++) /* each other block */
			send_data_out(peer, itt, &burst, i * 1024, 512, false);
		for (uint32_t i = 0; i < pieces; i++)
			send_data_out(peer, itt, &burst, i * 1024 + 512, 512, i == pieces - 1);
		if (pieces == LIMIT_ISCSI_RANGES)
			expect_good(peer, pieces * 1024);
		else
			assert_int_equal(peer_status(peer), SCSI_BUSY);
	}
	assert_int_equal(volume_script_calls(world.script), 1);
	peer_clear_attention(peer);
	peer_free(peer);
}

/* Hanging up with data half there gives everything back; so does an abort. */
static void
test_ends_half_way(void **state)
{
	struct peer *peer;
	struct burst bursts[8];
	uint32_t itt;
	uint8_t *bhs;

	(void)state;
	for (unsigned abort = 0; abort < 2; abort++) {
		peer = peer_session("ImmediateData=No\nDataPDUInOrder=No\nDataSequenceInOrder=No\n"
				    "MaxOutstandingR2T=8\nMaxBurstLength=8192\n");
		itt = start_write(peer, 512);
		assert_int_equal(take_r2ts(peer, bursts, 0, 8), 8);
		send_data_out(peer, itt, &bursts[5], bursts[5].offset + 4096, 4096, false);
		virtual_run_until_idle();
		if (abort) {
			bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
			bhs[BHS_FLAGS] = 0x80 | ISCSI_ABORT_TASK;
			put_be32(bhs + BHS_RTT, itt);
			peer_send(peer, NULL, 0);
			assert_int_equal(peer_expect(peer, ISCSI_TASK_RESPONSE)->bhs[BHS_RESPONSE],
				ISCSI_FUNCTION_COMPLETE);
			send_burst(peer, itt, &bursts[0]);
			peer_expect_nothing(peer);
		}
		peer_free(peer);
		assert_int_equal(iobuf_reserved(0), 0);
	}
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_several_r2ts),
		WORLD_TEST(test_sequences_out_of_order),
		WORLD_TEST(test_one_burst_of_several_fails),
		WORLD_TEST(test_any_order),
		WORLD_TEST(test_wrong_data_in_any_order),
		WORLD_TEST(test_unsolicited_data_with_a_hole),
		WORLD_TEST(test_too_many_pieces),
		WORLD_TEST(test_ends_half_way),
	};

	return cmocka_run_group_tests_name("iscsi_data_out", tests, NULL, NULL);
}
