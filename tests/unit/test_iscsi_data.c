/* protocols/iscsi/iscsi_data.c and iscsi_task.c: a command's data both ways, and its status. */
#include "config.h"

#include "iscsi_peer.h"

#include <errno.h>
#include <stdio.h>

#include "bytes.h"
#include "scsi/scsi.h"

static uint8_t pattern[WORLD_SIZE];
static uint8_t got[WORLD_SIZE];

/* Takes all Data-In of a command, checks what the RFC says of each, and returns the status. */
static int
take_data_in(struct peer *peer, size_t segment, size_t burst, size_t *length, struct pdu *last)
{
	uint32_t datasn = 0;
	size_t in_burst = 0;
	struct pdu *pdu;

	*length = 0;
	for (;;) {
		pdu = malloc(sizeof(*pdu));
		assert_non_null(pdu);
		assert_true(peer_try(peer, pdu));
		if (pdu->bhs[BHS_OPCODE] == ISCSI_RESPONSE) {
			assert_int_equal(get_be32(pdu->bhs + BHS_STATSN), peer->statsn++);
			assert_int_equal(get_be32(pdu->bhs + BHS_DATASN), datasn);
			assert_int_equal(in_burst, 0);
		} else {
			assert_int_equal(pdu->bhs[BHS_OPCODE], ISCSI_DATA_IN);
			assert_int_equal(get_be32(pdu->bhs + BHS_ITT), peer->itt);
			assert_int_equal(get_be32(pdu->bhs + BHS_TTT), ISCSI_TAG_NONE);
			assert_int_equal(get_be32(pdu->bhs + BHS_DATASN), datasn++);
			assert_int_equal(get_be32(pdu->bhs + BHS_OFFSET), *length);
			assert_true(pdu->length > 0 && pdu->length <= segment);
			memcpy(got + *length, pdu->data, pdu->length);
			*length += pdu->length;
			in_burst += pdu->length;
			assert_true(in_burst <= burst);
			if (in_burst == burst)
				assert_true(pdu->bhs[BHS_FLAGS] & ISCSI_FINAL);
			if (pdu->bhs[BHS_FLAGS] & ISCSI_FINAL)
				in_burst = 0;
			if (!(pdu->bhs[BHS_FLAGS] & ISCSI_DATA_IN_STATUS)) {
				free(pdu);
				continue;
			}
			assert_true(pdu->bhs[BHS_FLAGS] & ISCSI_FINAL);
			assert_int_equal(get_be32(pdu->bhs + BHS_STATSN), peer->statsn++);
		}
		*last = *pdu;
		free(pdu);
		return last->bhs[BHS_STATUS];
	}
}

static struct pdu last;

static void
read_back(struct peer *peer, uint32_t lba, uint16_t blocks, size_t segment, size_t burst)
{
	size_t length;

	memset(got, 0xee, sizeof(got));
	peer_read10(peer, lba, blocks);
	peer_send(peer, NULL, 0);
	assert_int_equal(take_data_in(peer, segment, burst, &length, &last), SCSI_GOOD);
	assert_int_equal(length, (size_t)blocks * 512);
	assert_int_equal(last.bhs[BHS_FLAGS] & (ISCSI_OVERFLOW | ISCSI_UNDERFLOW), 0);
}

/* Reads of many sizes against many segment and burst lengths, with and without digests. */
static void
test_reads(void **state)
{
	static const struct {
		const char *keys;
		size_t segment, burst;
	} sessions[] = {
		{"", 8192, 262144},
		{"MaxRecvDataSegmentLength=512\nMaxBurstLength=1024\n", 512, 1024},
		{"MaxRecvDataSegmentLength=262144\nMaxBurstLength=1048576\n", 262144, 1048576},
		{"MaxRecvDataSegmentLength=16777215\nMaxBurstLength=16777215\n", 262144, 1048576},
		{"MaxRecvDataSegmentLength=5001\nMaxBurstLength=7003\n", 5001, 7003},
		{"HeaderDigest=CRC32C\n", 8192, 262144},
		{"DataDigest=CRC32C\nMaxRecvDataSegmentLength=5001\n", 5001, 262144},
		{"HeaderDigest=CRC32C\nDataDigest=CRC32C\n", 8192, 262144},
	};
	static const uint16_t blocks[] = {1, 2, 8, 16, 17, 127, 128, 513, 2048, 4097};
	struct peer *peer;

	(void)state;
	fill_pattern(volume_script_data(world.script), WORLD_SIZE, 1);
	for (size_t i = 0; i < ARRAY_SIZE(sessions); i++) {
		peer = peer_session(sessions[i].keys);
		for (size_t j = 0; j < ARRAY_SIZE(blocks); j++) {
			read_back(peer, 3, blocks[j], sessions[i].segment, sessions[i].burst);
			assert_memory_equal(got, volume_script_data(world.script) + 3 * 512,
				(size_t)blocks[j] * 512);
		}
		peer_free(peer);
	}
}

/* Status comes in the last Data-In: one PDU for a small read. */
static void
test_small_read_is_one_pdu(void **state)
{
	struct peer *peer = peer_session(NULL);
	unsigned writes;

	(void)state;
	writes = pipe_writes(peer->pipe);
	for (unsigned i = 0; i < 32; i++) {
		peer_read10(peer, i * 8, 8);
		peer_send(peer, NULL, 0);
	}
	for (unsigned i = 0; i < 32; i++) {
		struct pdu *pdu = peer_expect(peer, ISCSI_DATA_IN);

		assert_int_equal(pdu->length, 4096);
		assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL | ISCSI_DATA_IN_STATUS);
		assert_int_equal(
			get_be32(pdu->bhs + BHS_MAXCMDSN) - get_be32(pdu->bhs + BHS_EXPCMDSN) + 1,
			LIMIT_ISCSI_WINDOW - (31 - i));
	}
	assert_int_equal(pipe_writes(peer->pipe) - writes, 1);
	peer_free(peer);
}

/* Answers R2Ts until the status comes. */
static int
serve_r2ts(struct peer *peer, const uint8_t *data, uint32_t itt, size_t have, size_t edtl,
	size_t burst, size_t segment)
{
	uint32_t r2tsn = 0, offset, desired;
	struct pdu pdu;

	for (;;) {
		assert_true(peer_try(peer, &pdu));
		if (pdu.bhs[BHS_OPCODE] == ISCSI_RESPONSE) {
			assert_int_equal(get_be32(pdu.bhs + BHS_STATSN), peer->statsn++);
			assert_int_equal(get_be32(pdu.bhs + BHS_ITT), itt);
			last = pdu;
			return pdu.bhs[BHS_STATUS];
		}
		assert_int_equal(pdu.bhs[BHS_OPCODE], ISCSI_R2T);
		assert_int_equal(get_be32(pdu.bhs + BHS_STATSN), peer->statsn);
		assert_int_equal(get_be32(pdu.bhs + BHS_ITT), itt);
		assert_int_equal(get_be32(pdu.bhs + BHS_DATASN), r2tsn++);
		offset = get_be32(pdu.bhs + BHS_OFFSET);
		desired = get_be32(pdu.bhs + BHS_DESIRED);
		assert_int_equal(offset, have);
		assert_true(desired > 0 && desired <= burst && offset + desired <= edtl);
		assert_int_equal(pipe_output_length(peer->pipe), 0); /* MaxOutstandingR2T=1 */
		peer_data_out(
			peer, itt, get_be32(pdu.bhs + BHS_TTT), data, offset, desired, segment);
		have += desired;
	}
}

static void
write_blocks(struct peer *peer, uint32_t lba, uint16_t blocks, bool immediate, bool unsolicited,
	size_t first_burst, size_t burst, size_t segment)
{
	size_t edtl = (size_t)blocks * 512, have = 0, end;
	const uint8_t *data = pattern + (size_t)lba * 512;
	uint8_t *bhs = peer_write10(peer, lba, blocks);
	uint32_t itt = peer->itt;

	end = edtl < first_burst ? edtl : first_burst;
	if (immediate)
		have = end < segment ? end : segment;
	if (unsolicited && have < end)
		bhs[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
	peer_send(peer, data, have);
	if (unsolicited && have < end) {
		peer_data_out(peer, itt, ISCSI_TAG_NONE, data, have, end - have, segment);
		have = end;
	}
	assert_int_equal(serve_r2ts(peer, data, itt, have, edtl, burst, segment), SCSI_GOOD);
	assert_int_equal(last.bhs[BHS_FLAGS], ISCSI_FINAL);
}

/* ImmediateData and InitialR2T in all four combinations, sizes around every bound, digests. */
static void
test_writes(void **state)
{
	static const uint16_t blocks[] = {1, 8, 16, 17, 64, 65, 300, 3000};
	static const char *const digests[] = {"", "HeaderDigest=CRC32C\nDataDigest=CRC32C\n"};
	char keys[256];
	struct peer *peer;
	unsigned round = 0;

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		bool immediate = i & 1, unsolicited = i & 2;

		snprintf(keys, sizeof(keys),
			"ImmediateData=%s\nInitialR2T=%s\nFirstBurstLength=32768\nMaxBurstLength=65536\n%s",
			immediate ? "Yes" : "No", unsolicited ? "No" : "Yes", digests[i >> 2]);
		peer = peer_session(keys);
		for (size_t j = 0; j < ARRAY_SIZE(blocks); j++) {
			fill_pattern(pattern, sizeof(pattern), ++round);
			write_blocks(
				peer, 5, blocks[j], immediate, unsolicited, 32768, 65536, 8192);
			assert_memory_equal(volume_script_data(world.script) + 5 * 512,
				pattern + 5 * 512, (size_t)blocks[j] * 512);
		}
		/* an odd segment length: padding within the data's stream of PDUs */
		fill_pattern(pattern, sizeof(pattern), ++round);
		write_blocks(peer, 0, 200, immediate, unsolicited, 32768, 65536, 1001);
		assert_memory_equal(volume_script_data(world.script), pattern, 200 * 512);
		peer_free(peer);
	}
}

/* Above LIMIT_DIRECT_RECV data is read into place; cut anywhere it is the same. */
static void
test_writes_in_any_pieces(void **state)
{
	static const size_t pieces[] = {1, 7, 47, 48, 49, 1000, 16384, 20000, 65537};
	struct peer *peer =
		peer_session("InitialR2T=No\nFirstBurstLength=262144\nMaxBurstLength=1048576\n"
			     "DataDigest=CRC32C\nHeaderDigest=CRC32C\n");

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		pipe_limit_read(peer->pipe, pieces[i]);
		fill_pattern(pattern, sizeof(pattern), (unsigned)i);
		write_blocks(peer, 1, pieces[i] < 1000 ? 129 : 1500, true, true, 262144, 1048576,
			262144);
		assert_memory_equal(volume_script_data(world.script) + 512, pattern + 512,
			(pieces[i] < 1000 ? 129 : 1500) * 512);
	}
	peer_free(peer);
}

/* Bit offsets of EDTL against the CDB, each direction, and the wrong one. */
static void
test_residuals(void **state)
{
	static const struct {
		uint8_t opcode, flags;
		uint32_t edtl;
		uint8_t residual_flag;
		uint32_t residual, moved;
	} cases[] = {
		{0x28, ISCSI_COMMAND_READ, 512, 0, 0, 512},
		{0x28, ISCSI_COMMAND_READ, 1024, ISCSI_UNDERFLOW, 512, 512},
		{0x28, ISCSI_COMMAND_READ, 10000, ISCSI_UNDERFLOW, 9488, 512},
		{0x28, ISCSI_COMMAND_READ, 200, ISCSI_OVERFLOW, 312, 200},
		{0x28, ISCSI_COMMAND_READ, 0, ISCSI_OVERFLOW, 512, 0},
		{0x28, 0, 0, ISCSI_OVERFLOW, 512, 0},
		{0x00, ISCSI_COMMAND_READ, 512, ISCSI_UNDERFLOW, 512, 0}, /* TEST UNIT READY */
		{0x00, 0, 0, 0, 0, 0},
	};
	struct peer *peer = peer_session(NULL);
	uint8_t cdb[10] = {0};
	size_t length;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cdb[0] = cases[i].opcode;
		cdb[8] = cases[i].opcode == 0x28;
		peer_command(peer, cases[i].flags, cases[i].edtl, cdb, sizeof(cdb));
		peer_send(peer, NULL, 0);
		assert_int_equal(take_data_in(peer, 8192, 262144, &length, &last), SCSI_GOOD);
		assert_int_equal(length, cases[i].moved);
		assert_int_equal(last.bhs[BHS_FLAGS] & (ISCSI_OVERFLOW | ISCSI_UNDERFLOW),
			cases[i].residual_flag);
		assert_int_equal(get_be32(last.bhs + BHS_RESIDUAL), cases[i].residual);
	}
	/* a write that brings more than its CDB takes */
	fill_pattern(pattern, 2048, 9);
	put_be32(peer_write10(peer, 0, 1) + BHS_EDTL, 2048);
	peer_send(peer, pattern, 2048);
	peer_expect(peer, ISCSI_RESPONSE);
	peer_write10(peer, 0, 1);
	put_be32(peer->bhs + BHS_EDTL, 2048);
	peer_send(peer, pattern, 2048);
	last = *peer_expect(peer, ISCSI_RESPONSE);
	assert_int_equal(last.bhs[BHS_STATUS], SCSI_GOOD);
	assert_int_equal(last.bhs[BHS_FLAGS], ISCSI_FINAL | ISCSI_UNDERFLOW);
	assert_int_equal(get_be32(last.bhs + BHS_RESIDUAL), 1536);
	assert_memory_equal(volume_script_data(world.script), pattern, 512);
	peer_free(peer);
}

static void
assert_sense(const struct pdu *pdu, uint8_t key, uint8_t asc, uint8_t ascq)
{
	const uint8_t *sense = pdu->data + 2;

	assert_int_equal(pdu->bhs[BHS_OPCODE], ISCSI_RESPONSE);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_CHECK_CONDITION);
	assert_true(pdu->length >= 2 + 14);
	assert_int_equal(get_be16(pdu->data), pdu->length - 2);
	assert_int_equal(sense[2] & 0x0f, key);
	assert_int_equal(sense[12], asc);
	assert_int_equal(sense[13], ascq);
}

/* A refused WRITE: its unsolicited data passes by, nothing is written, the stream stays in step. */
static void
test_refused_write_is_drained(void **state)
{
	struct peer *peer = peer_session("InitialR2T=No\nFirstBurstLength=65536\n");
	uint32_t itt;

	(void)state;
	peer_write10(peer, WORLD_SIZE / 512, 64)[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
	itt = peer->itt;
	peer_send(peer, pattern, 4096);
	peer_expect_nothing(peer);
	peer_data_out(peer, itt, ISCSI_TAG_NONE, pattern, 4096, 32768 - 4096, 8192);
	last = *peer_expect(peer, ISCSI_RESPONSE);
	assert_sense(&last, 0x05, 0x21, 0x00);
	assert_int_equal(get_be32(last.bhs + BHS_RESIDUAL), 32768);
	assert_int_equal(volume_script_calls(world.script), 0);
	/* without data to drain it is refused at once */
	peer_write10(peer, WORLD_SIZE / 512, 64);
	peer_send(peer, NULL, 0);
	assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x05, 0x21, 0x00);
	read_back(peer, 0, 1, 8192, 262144);
	peer_free(peer);
}

static void
test_io_errors_become_sense(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	volume_script_fail(world.script, BLK_READ, -EIO, 1);
	peer_read10(peer, 0, 8);
	peer_send(peer, NULL, 0);
	last = *peer_expect(peer, ISCSI_RESPONSE);
	assert_sense(&last, 0x03, 0x11, 0x00);
	assert_int_equal(last.bhs[BHS_FLAGS], ISCSI_FINAL | ISCSI_UNDERFLOW);
	assert_int_equal(get_be32(last.bhs + BHS_RESIDUAL), 4096);
	volume_script_fail(world.script, BLK_WRITE, -ENOSPC, 1);
	peer_write10(peer, 0, 1);
	peer_send(peer, pattern, 512);
	assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x07, 0x27, 0x07);
	peer_free(peer);
}

/* Starts a write of 32 KiB and gets its R2T. */
static uint32_t
start_solicited(struct peer *peer, uint32_t *itt)
{
	struct pdu *pdu;

	peer_write10(peer, 0, 64);
	*itt = peer->itt;
	peer_send(peer, NULL, 0);
	pdu = peer_expect(peer, ISCSI_R2T);
	assert_int_equal(get_be32(pdu->bhs + BHS_DESIRED), 32768);
	return get_be32(pdu->bhs + BHS_TTT);
}

static void
send_data_out(struct peer *peer, uint32_t itt, uint32_t ttt, uint32_t datasn, uint32_t offset,
	size_t length, bool final)
{
	uint8_t *bhs = peer_start(peer, ISCSI_DATA_OUT);

	peer->itt--;
	bhs[BHS_FLAGS] = final ? ISCSI_FINAL : 0;
	put_be32(bhs + BHS_ITT, itt);
	put_be32(bhs + BHS_TTT, ttt);
	put_be32(bhs + BHS_DATASN, datasn);
	put_be32(bhs + BHS_OFFSET, offset);
	peer_send(peer, pattern, length);
}

/* Each way to send data wrongly fails the write after its sequence has ended; nothing is written.
 */
static void
test_wrong_data_out(void **state)
{
	static const struct {
		uint32_t datasn[2], offset[2];
		size_t length[2];
		uint8_t asc, ascq;
	} cases[] = {
		{{0, 2}, {0, 16384}, {16384, 16384}, 0x47, 0x05}, /* DataSN skips */
		{{1, 2}, {0, 16384}, {16384, 16384}, 0x47, 0x05},
		{{0, 1}, {0, 16000}, {16384, 16384}, 0x47, 0x05}, /* an offset again */
		{{0, 1}, {0, 20000}, {16384, 8192}, 0x47, 0x05},  /* a gap */
		{{0, 1}, {0, 16384}, {16384, 32768}, 0x0c, 0x0d}, /* past what was asked for */
		{{0, 1}, {0, 16384}, {16384, 8192}, 0x0c, 0x0d},  /* F comes early */
	};
	struct peer *peer = peer_session(NULL);
	uint32_t itt, ttt;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ttt = start_solicited(peer, &itt);
		send_data_out(peer, itt, ttt, cases[i].datasn[0], cases[i].offset[0],
			cases[i].length[0], false);
		peer_expect_nothing(peer);
		send_data_out(peer, itt, ttt, cases[i].datasn[1], cases[i].offset[1],
			cases[i].length[1], true);
		assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x0b, cases[i].asc, cases[i].ascq);
		assert_int_equal(volume_script_calls(world.script), 0);
	}
	peer_free(peer);
}

static void
test_unexpected_unsolicited_data(void **state)
{
	struct peer *peer = peer_session("ImmediateData=No\nInitialR2T=Yes\n");
	uint32_t itt;

	(void)state;
	peer_write10(peer, 0, 1);
	peer_send(peer, pattern, 512);
	assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x0b, 0x0c, 0x0c);
	/* F=0 announces what was not agreed */
	peer_write10(peer, 0, 64)[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
	peer_send(peer, NULL, 0);
	assert_int_equal(peer_expect(peer, ISCSI_REJECT)->bhs[BHS_RESPONSE], ISCSI_REJECT_FIELD);
	peer->cmdsn--;
	/* Data-Out without tag while an R2T is out */
	start_solicited(peer, &itt);
	send_data_out(peer, itt, ISCSI_TAG_NONE, 0, 0, 512, true);
	peer_expect_nothing(peer);
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_free(peer);
}

static void
test_data_out_with_unknown_tags(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t itt, ttt;

	(void)state;
	send_data_out(peer, 4711, 1, 0, 0, 4096, true); /* a task long gone */
	peer_expect_nothing(peer);
	ttt = start_solicited(peer, &itt);
	send_data_out(peer, itt, ttt + 1, 0, 0, 4096, false);
	assert_int_equal(peer_expect(peer, ISCSI_REJECT)->bhs[BHS_RESPONSE], ISCSI_REJECT_FIELD);
	send_data_out(peer, itt, ttt, 0, 0, 32768, true);
	assert_int_equal(peer_status(peer), SCSI_GOOD);
	peer_free(peer);
}

static void
test_too_much_immediate_data(void **state)
{
	struct peer *peer = peer_session("FirstBurstLength=4096\n");

	(void)state;
	peer_write10(peer, 0, 64);
	peer_send(peer, pattern, 8192);
	assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x0b, 0x0c, 0x0d);
	peer_write10(peer, 0, 1);
	peer_send(peer, pattern, 1024);
	assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x0b, 0x0c, 0x0d);
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_free(peer);
}

/* 7.8: a bad digest on immediate data is a Reject, and the CmdSN is still to come. */
static void
test_bad_data_digest_of_immediate_data(void **state)
{
	struct peer *peer = peer_session("DataDigest=CRC32C\n");
	struct pdu *pdu;
	uint32_t expected = peer->cmdsn;

	(void)state;
	peer_write10(peer, 0, 1);
	peer->spoil_data = true;
	peer_send(peer, pattern, 512);
	pdu = peer_expect(peer, ISCSI_REJECT);
	assert_int_equal(pdu->bhs[BHS_RESPONSE], ISCSI_REJECT_DIGEST);
	assert_int_equal(get_be32(pdu->bhs + BHS_EXPCMDSN), expected);
	assert_memory_equal(pdu->data, peer->bhs, ISCSI_BHS);
	assert_int_equal(volume_script_calls(world.script), 0);
	/* a read behind it waits until it comes again */
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	peer_expect_nothing(peer);
	peer->cmdsn = expected;
	peer_write10(peer, 0, 1);
	peer_send(peer, pattern, 512);
	peer->cmdsn++;
	pdu = peer_expect(peer, ISCSI_RESPONSE);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_GOOD);
	pdu = peer_expect(peer, ISCSI_DATA_IN);
	assert_int_equal(get_be32(pdu->bhs + BHS_EXPCMDSN), peer->cmdsn);
	peer_free(peer);
}

static void
test_bad_data_digest_of_data_out(void **state)
{
	struct peer *peer = peer_session("DataDigest=CRC32C\n");
	uint32_t itt, ttt;

	(void)state;
	ttt = start_solicited(peer, &itt);
	peer->spoil_data = true;
	send_data_out(peer, itt, ttt, 0, 0, 16384, false);
	assert_int_equal(peer_expect(peer, ISCSI_REJECT)->bhs[BHS_RESPONSE], ISCSI_REJECT_DIGEST);
	peer_expect_nothing(peer);
	send_data_out(peer, itt, ttt, 1, 16384, 16384, true);
	assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x0b, 0x47, 0x05);
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_free(peer);
}

/* 7.8: on the last PDU of a sequence, on unsolicited data, on what only passes by. */
static void
test_bad_data_digest_everywhere(void **state)
{
	static const struct {
		uint16_t blocks; /* past the end: refused */
		bool unsolicited, last;
	} cases[] = {{64, false, true}, {64, true, false}, {64, true, true}, {1, false, true}};
	struct peer *peer = peer_session(
		"DataDigest=CRC32C\nInitialR2T=No\nImmediateData=No\nFirstBurstLength=32768\n");
	uint32_t itt, ttt, lba;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		bool refused = cases[i].blocks == 1;

		lba = refused ? WORLD_SIZE / 512 - 1 : 0;
		ttt = ISCSI_TAG_NONE;
		if (!cases[i].unsolicited && !refused) {
			ttt = start_solicited(peer, &itt);
		} else {
			peer_write10(peer, lba, 64)[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
			peer_send(peer, NULL, 0);
			itt = peer->itt;
		}
		for (uint32_t j = 0; j < 2; j++) {
			peer->spoil_data = j == cases[i].last;
			send_data_out(peer, itt, ttt, j, 16384 * j, 16384, j == 1);
			if (j == cases[i].last)
				assert_int_equal(peer_expect(peer, ISCSI_REJECT)->bhs[BHS_RESPONSE],
					ISCSI_REJECT_DIGEST);
		}
		if (refused)
			assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x05, 0x21, 0x00);
		else
			assert_sense(peer_expect(peer, ISCSI_RESPONSE), 0x0b, 0x47, 0x05);
	}
	assert_int_equal(volume_script_calls(world.script), 0);
	read_back(peer, 0, 1, 8192, 262144);
	peer_free(peer);
}

/* 7.8: the connection is lost with a header, whatever it was, and nothing is written. */
static void
test_bad_header_digest(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct peer *peer = peer_session("HeaderDigest=CRC32C\n");
		uint32_t itt, ttt;

		switch (i) {
		case 0:
			peer_read10(peer, 0, 1);
			peer->spoil_header = true;
			peer_send(peer, NULL, 0);
			break;
		case 1:
			peer_start(peer, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);
			peer->spoil_header = true;
			peer_send(peer, pattern, 100);
			break;
		case 2:
			ttt = start_solicited(peer, &itt);
			send_data_out(peer, itt, ttt, 0, 0, 16384, false);
			peer->spoil_header = true;
			send_data_out(peer, itt, ttt, 1, 16384, 16384, true);
			break;
		}
		peer_expect_closed(peer);
		assert_int_equal(volume_script_calls(world.script), 0);
		peer_free(peer);
	}
}

/* 4.2.2.2: at error recovery level 0 nothing is kept for ExpStatSN to acknowledge: no value of it does
 * harm, and StatSN counts on. */
static void
test_any_expstatsn(void **state)
{
	static const uint32_t off[] = {0, 1, (uint32_t)-1, 1000, (uint32_t)-1000, 0x80000000};
	struct peer *peer = peer_session(NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		peer_read10(peer, 0, 1);
		put_be32(peer->bhs + BHS_EXPSTATSN, peer->statsn + off[i]);
		peer_send(peer, NULL, 0);
		peer_expect(peer, ISCSI_DATA_IN);
		peer_start(peer, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);
		put_be32(peer->bhs + BHS_EXPSTATSN, peer->statsn + off[i]);
		peer_send(peer, NULL, 0);
		peer_expect(peer, ISCSI_NOP_IN);
	}
	peer_free(peer);
}

/* The connection ends at each byte of a write and its data: nothing is written, nothing is left. */
static void
test_hang_up_at_every_byte(void **state)
{
	uint8_t bytes[2048];
	struct peer *peer;
	size_t n, length;

	(void)state;
	for (n = 0;; n += n < 100 || n > 1080 ? 1 : 61) {
		peer = peer_session("DataDigest=CRC32C\nHeaderDigest=CRC32C\n");
		peer_write10(peer, 0, 2);
		length = peer_compose(peer, pattern, 1024, bytes);
		pipe_feed(peer->pipe, bytes, n < length ? n : length);
		virtual_run_until_idle();
		peer_free(peer);
		assert_int_equal(volume_script_calls(world.script), n >= length);
		if (n >= length)
			break;
	}
}

/* The peer goes while its reads and writes are with a disk that stalls. */
static void
test_hang_up_during_a_stall(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	for (unsigned i = 0; i < 4; i++) {
		peer_read10(peer, i, 1);
		peer_send(peer, NULL, 0);
		peer_write10(peer, 8 + i, 1);
		peer_send(peer, pattern, 512);
	}
	peer_expect_nothing(peer);
	assert_int_equal(volume_script_held(world.script), 8);
	peer_free(peer);
	assert_int_equal(world_connections(0), 1);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	virtual_run_until_idle();
	assert_int_equal(world_connections(0), 0);
}

/* The peer takes its answer slowly: all of it comes, in batches, and memory stays what was
 * reserved. */
static void
test_slow_reader(void **state)
{
	struct peer *peer = peer_session("MaxRecvDataSegmentLength=4096\n");
	size_t length;

	(void)state;
	fill_pattern(volume_script_data(world.script), WORLD_SIZE, 3);
	pipe_limit_write(peer->pipe, 1000);
	read_back(peer, 0, 4096, 4096, 262144);
	assert_memory_equal(got, volume_script_data(world.script), 4096 * 512);
	pipe_limit_write(peer->pipe, 0);
	pipe_set_room(peer->pipe, 100);
	peer_read10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	virtual_run_until_idle();
	assert_int_equal(pipe_output_length(peer->pipe), 100);
	assert_true(pipe_wanted(peer->pipe) & STREAM_READABLE);
	pipe_set_room(peer->pipe, SIZE_MAX);
	assert_int_equal(take_data_in(peer, 4096, 262144, &length, &last), SCSI_GOOD);
	peer_free(peer);
}

/* More writes than their share of memory: none fails, each is asked for its data in its turn. */
static void
test_writes_beyond_the_budget(void **state)
{
	enum { BLOCKS = 16384, WRITES = 12 }; /* 8 MiB each, 96 MiB in all; a client holds 64 */
	struct peer *peer = peer_session("MaxBurstLength=1048576\nFirstBurstLength=262144\n");
	uint32_t itts[WRITES], itt, ttt, offset, desired;
	unsigned done = 0, asked = 0, sent = 0, i;
	struct pdu pdu;

	(void)state;
	fill_pattern(pattern, sizeof(pattern), 5);
	for (i = 0; i < WRITES; i++) {
		peer_write10(peer, 0, BLOCKS);
		itts[i] = peer->itt;
		peer_send(peer, NULL, 0);
	}
	while (done < WRITES) {
		assert_true(peer_try(peer, &pdu));
		itt = get_be32(pdu.bhs + BHS_ITT);
		for (i = 0; i < WRITES && itts[i] != itt; i++)
			continue;
		assert_true(i < WRITES);
		if (pdu.bhs[BHS_OPCODE] == ISCSI_RESPONSE) {
			assert_int_equal(pdu.bhs[BHS_STATUS], SCSI_GOOD);
			peer->statsn++;
			done++;
			continue;
		}
		assert_int_equal(pdu.bhs[BHS_OPCODE], ISCSI_R2T);
		ttt = get_be32(pdu.bhs + BHS_TTT);
		offset = get_be32(pdu.bhs + BHS_OFFSET);
		asked += offset == 0;
		/* what is still to come stays within the client's part */
		assert_true(asked - sent <= LIMIT_IOBUF_CLIENT / (BLOCKS * 512));
		assert_true(iobuf_reserved(0) <= 2 * LIMIT_IOBUF_CLIENT);
		desired = get_be32(pdu.bhs + BHS_DESIRED);
		sent += offset + desired == BLOCKS * 512;
		peer_data_out(peer, itt, ttt, pattern, offset, desired, 262144);
	}
	assert_memory_equal(volume_script_data(world.script), pattern, BLOCKS * 512);
	peer_free(peer);
}

/*
 * A write with immediate data when the budget is taken by writes whose data comes by the same
 * socket: waiting for them would be for ever, so it is TASK SET FULL, and the stream stays in step.
 */
static void
test_no_deadlock_of_immediate_data(void **state)
{
	enum { BLOCKS = 16384, WRITES = LIMIT_IOBUF_CLIENT / (BLOCKS * 512) };
	struct peer *peer = peer_session(NULL);
	struct pdu *pdu;

	(void)state;
	for (unsigned i = 0; i < WRITES; i++) {
		peer_write10(peer, 0, BLOCKS);
		peer_send(peer, NULL, 0);
		peer_expect(peer, ISCSI_R2T);
	}
	peer_write10(peer, 0, 1);
	peer_send(peer, pattern, 512);
	pdu = peer_expect(peer, ISCSI_RESPONSE);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_TASK_SET_FULL);
	assert_int_equal(get_be32(pdu->bhs + BHS_RESIDUAL), 512);
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_free(peer);
}

/* Nor does a ping's data wait behind a write for room that is held for data behind the ping. */
static void
test_no_deadlock_of_ping_data(void **state)
{
	enum { BLOCKS = 16384, WRITES = LIMIT_IOBUF_CLIENT / (BLOCKS * 512) };
	static uint8_t data[64 * 1024];
	struct peer *peer = peer_session("MaxRecvDataSegmentLength=262144\n");
	struct pdu *pdu;

	(void)state;
	fill_pattern(data, sizeof(data), 9);
	for (unsigned i = 0; i < WRITES; i++) {
		peer_write10(peer, 0, BLOCKS);
		peer_send(peer, NULL, 0);
		peer_expect(peer, ISCSI_R2T);
	}
	peer_write10(peer, 0, BLOCKS); /* waits for the others */
	peer_send(peer, NULL, 0);
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, data, 512);
	pdu = peer_expect(peer, ISCSI_NOP_IN);
	assert_int_equal(pdu->length, 512);
	assert_memory_equal(pdu->data, data, 512);
	peer_start(peer, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);
	peer_send(peer, data, sizeof(data));
	pdu = peer_expect(peer, ISCSI_NOP_IN);
	assert_int_equal(pdu->length, LIMIT_ISCSI_TEXT);
	assert_memory_equal(pdu->data, data, LIMIT_ISCSI_TEXT);
	assert_int_equal(iobuf_reserved(0), LIMIT_IOBUF_CLIENT);
	peer_free(peer);
}

/* A ping that waits while others hold all room gives way when one of its session's writes gets some. */
static void
test_no_deadlock_of_a_ping_that_waits(void **state)
{
	enum { BLOCKS = 16384, WRITES = LIMIT_IOBUF_CLIENT / (BLOCKS * 512) };
	struct peer *others[2], *peer;

	(void)state;
	for (unsigned i = 0; i < 2; i++) { /* all that payloads may take of a loop's share */
		others[i] = peer_session(NULL);
		for (unsigned n = 0; n < WRITES; n++) {
			peer_write10(others[i], 0, BLOCKS);
			peer_send(others[i], NULL, 0);
			peer_expect(others[i], ISCSI_R2T);
		}
	}
	peer = peer_session(NULL);
	for (unsigned n = 0; n < WRITES + 1; n++) {
		peer_write10(peer, 0, BLOCKS);
		peer_send(peer, NULL, 0);
	}
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, pattern, 512);
	peer_expect_nothing(peer);
	peer_free(others[0]);
	peer_expect(peer, ISCSI_R2T);
	assert_int_equal(peer_expect(peer, ISCSI_NOP_IN)->length, 512);
	for (unsigned n = 1; n < WRITES; n++)
		peer_expect(peer, ISCSI_R2T);
	peer_free(others[1]);
	peer_free(peer);
}

/* Reads beyond the budget wait for room; pings are answered meanwhile. */
static void
test_reads_beyond_the_budget(void **state)
{
	enum { BLOCKS = 16384, READS = 12 };
	struct peer *peer =
		peer_session("MaxRecvDataSegmentLength=262144\nMaxBurstLength=1048576\n");
	size_t in = 0;
	unsigned done = 0;
	struct pdu pdu;

	(void)state;
	volume_script_hold(world.script, true);
	for (unsigned i = 0; i < READS; i++) {
		peer_read10(peer, 0, BLOCKS);
		peer_send(peer, NULL, 0);
	}
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_NOP_IN);
	assert_int_equal(volume_script_held(world.script), LIMIT_IOBUF_CLIENT / (BLOCKS * 512));
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	while (done < READS) {
		assert_true(peer_try(peer, &pdu));
		assert_int_equal(pdu.bhs[BHS_OPCODE], ISCSI_DATA_IN);
		in += pdu.length;
		done += pdu.bhs[BHS_FLAGS] & ISCSI_DATA_IN_STATUS;
	}
	assert_int_equal(in, (size_t)READS * BLOCKS * 512);
	peer_free(peer);
}

static void
test_two_sessions_on_two_loops(void **state)
{
	struct peer *a = peer_new(0), *b = peer_new(1);

	(void)state;
	peer_login(a, NULL);
	peer_login(b, NULL);
	peer_clear_attention(a);
	peer_clear_attention(b);
	fill_pattern(pattern, 8192, 77);
	peer_write10(a, 0, 16);
	peer_send(a, pattern, 8192);
	assert_int_equal(peer_status(a), SCSI_GOOD);
	read_back(b, 0, 16, 8192, 262144);
	assert_memory_equal(got, pattern, 8192);
	peer_free(a);
	peer_free(b);
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_reads),
		WORLD_TEST(test_small_read_is_one_pdu),
		WORLD_TEST(test_writes),
		WORLD_TEST(test_writes_in_any_pieces),
		WORLD_TEST(test_residuals),
		WORLD_TEST(test_refused_write_is_drained),
		WORLD_TEST(test_io_errors_become_sense),
		WORLD_TEST(test_wrong_data_out),
		WORLD_TEST(test_unexpected_unsolicited_data),
		WORLD_TEST(test_data_out_with_unknown_tags),
		WORLD_TEST(test_too_much_immediate_data),
		WORLD_TEST(test_bad_data_digest_of_immediate_data),
		WORLD_TEST(test_bad_data_digest_of_data_out),
		WORLD_TEST(test_bad_data_digest_everywhere),
		WORLD_TEST(test_bad_header_digest),
		WORLD_TEST(test_any_expstatsn),
		WORLD_TEST(test_hang_up_at_every_byte),
		WORLD_TEST(test_hang_up_during_a_stall),
		WORLD_TEST(test_slow_reader),
		WORLD_TEST(test_writes_beyond_the_budget),
		WORLD_TEST(test_no_deadlock_of_immediate_data),
		WORLD_TEST(test_no_deadlock_of_ping_data),
		WORLD_TEST(test_no_deadlock_of_a_ping_that_waits),
		WORLD_TEST(test_reads_beyond_the_budget),
		WORLD_TEST(test_two_sessions_on_two_loops),
	};

	return cmocka_run_group_tests_name("iscsi_data", tests, NULL, NULL);
}
