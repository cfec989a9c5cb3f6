/* protocols/iscsi/iscsi_request.c, and CmdSN of iscsi_session.c: order, NOP, Logout, Reject. */
#include "config.h"

#include "iscsi_peer.h"

#include "bytes.h"
#include "scsi/scsi.h"

static uint8_t pattern[512 * 1024];

static void
expect_reject(struct peer *peer, uint8_t reason)
{
	struct pdu *pdu = peer_expect(peer, ISCSI_REJECT);

	assert_int_equal(pdu->bhs[BHS_RESPONSE], reason);
	assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), ISCSI_TAG_NONE);
	assert_int_equal(pdu->length, ISCSI_BHS);
	assert_memory_equal(pdu->data, peer->bhs, ISCSI_BHS);
}

static void
ping(struct peer *peer, uint8_t immediate, size_t length)
{
	peer_start(peer, ISCSI_NOP_OUT | immediate);
	put_be32(peer->bhs + BHS_TTT, ISCSI_TAG_NONE);
	peer_send(peer, pattern, length);
}

static void
test_ping(void **state)
{
	static const size_t lengths[] = {0, 1, 3, 4, 100, 8192, 8193, 65536, 262144};
	static const char *const keys[] = {"", "DataDigest=CRC32C\nHeaderDigest=CRC32C\n",
		"MaxRecvDataSegmentLength=262144\n"};
	size_t max, expect;
	struct peer *peer;
	struct pdu *pdu;

	(void)state;
	fill_pattern(pattern, sizeof(pattern), 1);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		peer = peer_session(keys[i]);
		max = i == 2 ? 262144 : 8192;
		for (size_t j = 0; j < ARRAY_SIZE(lengths); j++) {
			ping(peer, j % 2 ? ISCSI_IMMEDIATE : 0, lengths[j]);
			pdu = peer_expect(peer, ISCSI_NOP_IN);
			/* 11.19: cut to what the initiator takes */
			expect = lengths[j] < max ? lengths[j] : max;
			assert_int_equal(get_be32(pdu->bhs + BHS_ITT), peer->itt);
			assert_int_equal(get_be32(pdu->bhs + BHS_TTT), ISCSI_TAG_NONE);
			assert_int_equal(get_be32(pdu->bhs + BHS_EXPCMDSN), peer->cmdsn);
			assert_int_equal(pdu->length, expect);
			assert_memory_equal(pdu->data, pattern, expect);
		}
		peer_free(peer);
	}
}

/* 11.18: without a task tag nothing is asked. */
static void
test_ping_without_tag(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	peer_start(peer, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);
	put_be32(peer->bhs + BHS_ITT, ISCSI_TAG_NONE);
	peer_send(peer, pattern, 100);
	peer_expect_nothing(peer);
	ping(peer, 0, 0);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_free(peer);
}

static void
test_ping_with_bad_digest(void **state)
{
	struct peer *peer = peer_session("DataDigest=CRC32C\n");

	(void)state;
	peer->spoil_data = true;
	ping(peer, ISCSI_IMMEDIATE, 100);
	expect_reject(peer, ISCSI_REJECT_DIGEST);
	ping(peer, ISCSI_IMMEDIATE, 100);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_free(peer);
}

/* open-iscsi pings every 5 s: the disk's state does not matter. */
static void
test_ping_during_a_stall(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	ping(peer, ISCSI_IMMEDIATE, 4);
	peer_expect(peer, ISCSI_NOP_IN);
	ping(peer, 0, 4);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_expect_nothing(peer);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer->itt -= 2;
	peer_expect(peer, ISCSI_DATA_IN);
	peer_free(peer);
}

/* Commands that overtake one another are carried out in order, whatever they are. */
static void
test_gap_holds_what_follows(void **state)
{
	struct peer *peer = peer_session("InitialR2T=No\n");
	uint32_t first = peer->cmdsn, itt;
	uint8_t *bhs;

	(void)state;
	fill_pattern(pattern, sizeof(pattern), 2);
	peer->cmdsn = first + 4;
	ping(peer, 0, 100);
	peer->cmdsn = first + 2;
	peer_read10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	/* a write with immediate and unsolicited data, held like the rest */
	peer->cmdsn = first + 1;
	bhs = peer_write10(peer, 0, 64);
	bhs[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
	itt = peer->itt;
	peer_send(peer, pattern, 4096);
	peer_data_out(peer, itt, ISCSI_TAG_NONE, pattern, 4096, 32768 - 4096, 8192);
	peer->cmdsn = first + 3;
	peer_start(peer, ISCSI_TEXT_REQUEST);
	put_be32(peer->bhs + BHS_TTT, ISCSI_TAG_NONE);
	peer_send(peer, "X-a=1", 6);
	peer_expect_nothing(peer);
	assert_int_equal(volume_script_calls(world.script), 0);
	/* immediate ones pass them all */
	ping(peer, ISCSI_IMMEDIATE, 0);
	peer->cmdsn = first + 5;
	assert_int_equal(get_be32(peer_expect(peer, ISCSI_NOP_IN)->bhs + BHS_EXPCMDSN), first);
	peer->cmdsn = first;
	ping(peer, 0, 0);
	peer->cmdsn = first + 5;
	peer_expect(peer, ISCSI_NOP_IN);
	peer_expect(peer, ISCSI_TEXT_RESPONSE);
	assert_int_equal(peer_expect(peer, ISCSI_NOP_IN)->length, 100);
	assert_int_equal(peer_status(peer), SCSI_GOOD);
	assert_int_equal(get_be32(peer_expect(peer, ISCSI_DATA_IN)->bhs + BHS_EXPCMDSN), first + 5);
	peer_expect(peer, ISCSI_DATA_IN);
	peer_expect(peer, ISCSI_DATA_IN);
	peer_expect(peer, ISCSI_DATA_IN);
	peer_expect_nothing(peer);
	peer_free(peer);
}

/* The connection ends while requests are held. */
static void
test_hang_up_with_a_gap(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	peer->cmdsn++;
	ping(peer, 0, 1000);
	peer_write10(peer, 0, 8);
	peer_send(peer, pattern, 4096);
	peer_write10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_R2T);
	peer_free(peer);
}

/* 4.2.2.1: outside the window or a duplicate: silently ignored, its data too. */
static void
test_out_of_window(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t first = peer->cmdsn;
	static const uint32_t offsets[] = {LIMIT_ISCSI_WINDOW, LIMIT_ISCSI_WINDOW + 1, 0x7fffffff,
		0x80000000, (uint32_t)-1, (uint32_t)-1000};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		peer->cmdsn = first + offsets[i];
		ping(peer, 0, 10);
		peer->cmdsn = first + offsets[i];
		peer_write10(peer, 0, 1);
		peer_send(peer, pattern, 512);
		peer->cmdsn = first + offsets[i];
		peer_read10(peer, 0, 1);
		peer_send(peer, NULL, 0);
		peer_expect_nothing(peer);
	}
	assert_int_equal(volume_script_calls(world.script), 0);
	/* the last of the window is held, and held once */
	peer->cmdsn = first + LIMIT_ISCSI_WINDOW - 1;
	ping(peer, 0, 0);
	peer->cmdsn = first + LIMIT_ISCSI_WINDOW - 1;
	ping(peer, 0, 0);
	for (unsigned i = 0; i < LIMIT_ISCSI_WINDOW - 1; i++) {
		peer->cmdsn = first + i;
		ping(peer, 0, 0);
	}
	for (unsigned i = 0; i < LIMIT_ISCSI_WINDOW; i++)
		peer_expect(peer, ISCSI_NOP_IN);
	peer_expect_nothing(peer);
	peer_free(peer);
}

/* With the window full of tasks nothing more is taken; MaxCmdSN does not go back, and opens again. */
static void
test_full_window(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t max = peer->cmdsn + LIMIT_ISCSI_WINDOW - 1, now;
	struct pdu *pdu;

	(void)state;
	volume_script_hold(world.script, true);
	for (unsigned i = 0; i < LIMIT_ISCSI_WINDOW; i++) {
		peer_read10(peer, i, 1);
		peer_send(peer, NULL, 0);
	}
	ping(peer, ISCSI_IMMEDIATE, 0);
	pdu = peer_expect(peer, ISCSI_NOP_IN);
	assert_int_equal(get_be32(pdu->bhs + BHS_MAXCMDSN), max);
	assert_int_equal(get_be32(pdu->bhs + BHS_EXPCMDSN), max + 1);
	ping(peer, 0, 0); /* not within it */
	peer->cmdsn--;
	peer_expect_nothing(peer);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	for (unsigned i = 0; i < LIMIT_ISCSI_WINDOW; i++) {
		pdu = peer_expect(peer, ISCSI_DATA_IN);
		now = get_be32(pdu->bhs + BHS_MAXCMDSN);
		assert_int_equal(now, max + i + 1);
	}
	peer_free(peer);
}

/* While memory is short the window is small, by not moving on; and it opens again. */
static void
test_window_under_pressure(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t max = peer->cmdsn + LIMIT_ISCSI_WINDOW - 1, first = peer->cmdsn, now, least;
	struct pdu *pdu;

	(void)state;
	volume_script_hold(world.script, true);
	/* The ninth waits for room. */
	for (unsigned i = 0; i < 9; i++) {
		peer_read10(peer, 0, WORLD_SIZE / 512 - 1);
		put_be32(peer->bhs + BHS_EDTL, 512);
		peer_send(peer, NULL, 0);
	}
	for (unsigned i = 0; i < LIMIT_ISCSI_WINDOW - 9; i++) {
		ping(peer, 0, 0);
		now = get_be32(peer_expect(peer, ISCSI_NOP_IN)->bhs + BHS_MAXCMDSN);
		/* What was announced stays, and then there is room for 16 - 9. */
		least = peer->cmdsn + LIMIT_ISCSI_WINDOW_PRESSED - 9 - 1;
		assert_int_equal(now, (int32_t)(least - max) > 0 ? least : max);
	}
	assert_int_equal(peer->cmdsn, max + 1);
	max = now;
	volume_script_complete_all(world.script, 0);
	now = max;
	for (unsigned i = 0; i < 9; i++) {
		volume_script_hold(world.script, false);
		virtual_run_until_idle();
		if (volume_script_held(world.script))
			volume_script_complete_all(world.script, 0);
		pdu = peer_expect(peer, ISCSI_DATA_IN);
		assert_true((int32_t)(get_be32(pdu->bhs + BHS_MAXCMDSN) - now) >= 0);
		now = get_be32(pdu->bhs + BHS_MAXCMDSN);
	}
	assert_int_equal(now - get_be32(pdu->bhs + BHS_EXPCMDSN) + 1, LIMIT_ISCSI_WINDOW);
	assert_int_equal(peer->cmdsn - first, LIMIT_ISCSI_WINDOW);
	peer_free(peer);
}

/* Tasks that are aborted have no status to carry MaxCmdSN: where the window was full, a NOP-In does. */
static void
test_window_opened_by_aborts(void **state)
{
	struct peer *peer = peer_session("MaxConnections=2\n"), *other = peer_join(peer, 0, 1);
	uint32_t max;
	struct pdu *pdu;

	(void)state;
	peer_login(other, NULL);
	volume_script_hold(world.script, true);
	other->cmdsn = peer->cmdsn;
	for (unsigned i = 0; i < LIMIT_ISCSI_WINDOW; i++) {
		peer_read10(other, i, 1);
		peer_send(other, NULL, 0);
	}
	virtual_run_until_idle();
	max = other->cmdsn - 1;
	peer_free(other);
	peer_expect_nothing(peer);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	pdu = peer_expect(peer, ISCSI_NOP_IN);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), ISCSI_TAG_NONE);
	assert_int_equal(get_be32(pdu->bhs + BHS_TTT), ISCSI_TAG_NONE);
	assert_true((int32_t)(get_be32(pdu->bhs + BHS_MAXCMDSN) - max) > 0);
	peer_expect_nothing(peer);
	peer_free(peer);
}

static void
test_rejects(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint8_t cdb[16] = {0};

	(void)state;
	peer_start(peer, 0x1c | ISCSI_IMMEDIATE); /* no such opcode */
	peer_send(peer, pattern, 77);
	expect_reject(peer, ISCSI_REJECT_COMMAND);
	peer_start(peer, ISCSI_SNACK | ISCSI_IMMEDIATE);
	peer_send(peer, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_SNACK);
	peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);
	peer_send(peer, pattern, 200);
	expect_reject(peer, ISCSI_REJECT_PROTOCOL);
	peer_start(peer, ISCSI_LOGOUT_REQUEST | ISCSI_IMMEDIATE)[BHS_FLAGS] = 0x80 | 5;
	peer_send(peer, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_FIELD);
	peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
	peer_send(peer, pattern, 4);
	expect_reject(peer, ISCSI_REJECT_FIELD);
	/* commands: the tag none, a tag in use, data without W, F=0 without W */
	peer_command(peer, 0, 0, cdb, 6);
	peer->bhs[0] |= ISCSI_IMMEDIATE;
	put_be32(peer->bhs + BHS_ITT, ISCSI_TAG_NONE);
	peer_send(peer, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_FIELD);
	volume_script_hold(world.script, true);
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	peer_start(peer, ISCSI_COMMAND | ISCSI_IMMEDIATE);
	put_be32(peer->bhs + BHS_ITT, --peer->itt);
	peer_send(peer, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_IN_PROGRESS);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect(peer, ISCSI_DATA_IN);
	peer_command(peer, ISCSI_COMMAND_READ, 512, cdb, 6);
	peer->bhs[0] |= ISCSI_IMMEDIATE;
	peer_send(peer, pattern, 512);
	expect_reject(peer, ISCSI_REJECT_FIELD);
	peer_command(peer, ISCSI_COMMAND_READ, 512, cdb, 6);
	peer->bhs[0] |= ISCSI_IMMEDIATE;
	peer->bhs[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
	peer_send(peer, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_FIELD);
	/* and the session is as it was */
	peer_clear_attention(peer);
	peer_free(peer);
}

/* 11.17: the CmdSN of what was rejected is not consumed. */
static void
test_rejected_cmdsn_is_a_gap(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	peer_start(peer, 0x1c);
	peer_send(peer, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_COMMAND);
	ping(peer, 0, 0);
	peer_expect_nothing(peer);
	peer->cmdsn -= 2;
	ping(peer, 0, 0);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_free(peer);
}

static void
test_commands_in_discovery(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	peer_discover(peer);
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_PROTOCOL);
	peer->cmdsn--;
	peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE)[BHS_FLAGS] = 0x80 | ISCSI_LUN_RESET;
	peer_send(peer, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_PROTOCOL);
	ping(peer, 0, 0);
	expect_reject(peer, ISCSI_REJECT_PROTOCOL);
	peer_free(peer);
}

/* Headers with additional segments: the ones that do not matter pass, an extended CDB is no command here. */
static void
test_additional_header_segments(void **state)
{
	uint8_t bytes[ISCSI_BHS + 1024];
	struct peer *peer = peer_session(NULL);
	uint8_t cdb[6] = {0}, *ahs = bytes + ISCSI_BHS;

	(void)state;
	for (unsigned type = 1; type < 4; type++) {
		peer_command(peer, 0, 0, cdb, 6)[BHS_AHS_LENGTH] = 5;
		memset(bytes, 0, sizeof(bytes));
		peer_compose(peer, NULL, 0, bytes);
		put_be16(ahs, 17);
		ahs[2] = (uint8_t)type;
		pipe_feed(peer->pipe, bytes, ISCSI_BHS + 20);
		if (type == 2) { /* not as long as a Bidirectional Read EDTL is */
			expect_reject(peer, ISCSI_REJECT_FIELD);
			peer->cmdsn--;
			continue;
		}
		assert_int_equal(peer_status(peer), type == 1 ? SCSI_CHECK_CONDITION : SCSI_GOOD);
	}
	/* its length leads out of the header */
	peer_command(peer, 0, 0, cdb, 6)[BHS_AHS_LENGTH] = 5;
	memset(bytes, 0, sizeof(bytes));
	peer_compose(peer, NULL, 0, bytes);
	put_be16(ahs, 18);
	pipe_feed(peer->pipe, bytes, ISCSI_BHS + 20);
	expect_reject(peer, ISCSI_REJECT_FIELD);
	/* the largest there is, on a request that has no use for it */
	peer->cmdsn--;
	peer_start(peer, ISCSI_NOP_OUT)[BHS_AHS_LENGTH] = 255;
	memset(bytes, 0, sizeof(bytes));
	peer_compose(peer, NULL, 0, bytes);
	pipe_feed(peer->pipe, bytes, ISCSI_BHS);
	for (unsigned i = 0; i < 1020; i++)
		pipe_feed(peer->pipe, ahs, 1);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_free(peer);
}

/* Refused, with a residual for each direction. 11.4.5 */
static void
test_bidirectional_commands(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint8_t cdb[10] = {0x2a, 0, 0, 0, 0, 0, 0, 0, 1};
	uint8_t bytes[ISCSI_BHS + 1024 + 16], *ahs = bytes + ISCSI_BHS;
	struct pdu *pdu;

	(void)state;
	for (uint32_t read_edtl = 0; read_edtl <= 700; read_edtl += 700) {
		memset(bytes, 0, sizeof(bytes));
		peer_command(peer, ISCSI_COMMAND_READ | ISCSI_COMMAND_WRITE, 512, cdb, sizeof(cdb));
		peer->bhs[BHS_AHS_LENGTH] = 2;
		put_be24(peer->bhs + BHS_DATA_LENGTH, 512);
		memcpy(bytes, peer->bhs, ISCSI_BHS);
		put_be16(ahs, 5);
		ahs[2] = 2; /* Bidirectional Read Expected Data Transfer Length */
		put_be32(ahs + 4, read_edtl);
		memcpy(ahs + 8, pattern, 512);
		pipe_feed(peer->pipe, bytes, ISCSI_BHS + 8 + 512);
		peer->cmdsn++;
		pdu = peer_expect(peer, ISCSI_RESPONSE);
		assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_CHECK_CONDITION);
		assert_int_equal(pdu->bhs[BHS_FLAGS],
			ISCSI_FINAL | ISCSI_UNDERFLOW | (read_edtl ? 0x08 : 0));
		assert_int_equal(get_be32(pdu->bhs + BHS_RESIDUAL), 512);
		assert_int_equal(get_be32(pdu->bhs + 40), read_edtl);
	}
	/* without the segment */
	peer_command(peer, ISCSI_COMMAND_READ | ISCSI_COMMAND_WRITE, 512, cdb, sizeof(cdb));
	peer_send(peer, pattern, 512);
	assert_int_equal(peer_status(peer), SCSI_CHECK_CONDITION);
	assert_int_equal(volume_script_calls(world.script), 0);
	/* one that is too short for what it says */
	peer_command(peer, ISCSI_COMMAND_READ | ISCSI_COMMAND_WRITE, 512, cdb, sizeof(cdb));
	peer->bhs[BHS_AHS_LENGTH] = 1;
	memset(bytes, 0, sizeof(bytes));
	memcpy(bytes, peer->bhs, ISCSI_BHS);
	put_be16(ahs, 1);
	ahs[2] = 2;
	pipe_feed(peer->pipe, bytes, ISCSI_BHS + 4);
	expect_reject(peer, ISCSI_REJECT_FIELD);
	peer_free(peer);
}

static void
test_data_segment_too_long(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, pattern, LIMIT_ISCSI_RECV + 1);
	peer_expect_closed(peer);
	peer_free(peer);
}

static void
send_logout(struct peer *peer, uint8_t reason, uint16_t cid)
{
	uint8_t *bhs = peer_start(peer, ISCSI_LOGOUT_REQUEST);

	bhs[BHS_FLAGS] = 0x80 | reason;
	put_be16(bhs + BHS_CID, cid);
	peer_send(peer, NULL, 0);
}

static void
test_logout(void **state)
{
	struct peer *peer;
	struct pdu *pdu;

	(void)state;
	for (uint8_t reason = ISCSI_LOGOUT_SESSION; reason <= ISCSI_LOGOUT_CONNECTION; reason++) {
		peer = peer_session(NULL);
		if (reason == ISCSI_LOGOUT_CONNECTION) {
			send_logout(peer, reason, 7);
			pdu = peer_expect(peer, ISCSI_LOGOUT_RESPONSE);
			assert_int_equal(pdu->bhs[BHS_RESPONSE], ISCSI_LOGOUT_NO_CID);
		}
		send_logout(peer, ISCSI_LOGOUT_RECOVERY, 0);
		pdu = peer_expect(peer, ISCSI_LOGOUT_RESPONSE);
		assert_int_equal(pdu->bhs[BHS_RESPONSE], ISCSI_LOGOUT_NO_RECOVERY);
		send_logout(peer, reason, 0);
		pdu = peer_expect(peer, ISCSI_LOGOUT_RESPONSE);
		assert_int_equal(pdu->bhs[BHS_RESPONSE], ISCSI_LOGOUT_CLOSED);
		assert_int_equal(get_be32(pdu->bhs + BHS_ITT), peer->itt);
		peer_expect_closed(peer);
		peer_free(peer);
		assert_int_equal(world_connections(0), 0);
	}
}

/* What runs is answered before the Logout is; what waits for data is forgotten. */
static void
test_logout_with_tasks(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	peer_write10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_R2T);
	volume_script_hold(world.script, true);
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	send_logout(peer, ISCSI_LOGOUT_SESSION, 0);
	ping(peer, 0, 0); /* nobody listens any more */
	peer_expect_nothing(peer);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect(peer, ISCSI_DATA_IN);
	peer_expect(peer, ISCSI_LOGOUT_RESPONSE);
	peer_expect_closed(peer);
	peer_free(peer);
}

static void
test_logout_of_discovery(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	peer_discover(peer);
	send_logout(peer, ISCSI_LOGOUT_SESSION, 0);
	peer_expect(peer, ISCSI_LOGOUT_RESPONSE);
	peer_expect_closed(peer);
	peer_free(peer);
}

/* A flood of pings whose answers nobody reads: reading stops, memory does not grow. */
static void
test_flood_of_pings(void **state)
{
	struct peer *peer = peer_session(NULL);
	unsigned sent = 0;

	(void)state;
	pipe_set_room(peer->pipe, 0);
	for (unsigned i = 0; i < 100; i++) {
		for (unsigned j = 0; j < 200; j++, sent++)
			ping(peer, ISCSI_IMMEDIATE, 0);
		virtual_run_until_idle();
	}
	assert_true(pipe_unread(peer->pipe) > 100 * 200 * ISCSI_BHS - 2 * LIMIT_RECV_BUFFER);
	assert_false(pipe_wanted(peer->pipe) & STREAM_READABLE);
	pipe_set_room(peer->pipe, SIZE_MAX);
	while (sent-- > 0)
		peer_expect(peer, ISCSI_NOP_IN);
	peer_expect_nothing(peer);
	peer_free(peer);
}

/* Immediate commands are outside the window, but not without bound. */
static void
test_too_many_immediate_commands(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	for (unsigned i = 0; i <= LIMIT_ISCSI_TASKS; i++) {
		peer_read10(peer, i, 1)[BHS_OPCODE] |= ISCSI_IMMEDIATE;
		peer_send(peer, NULL, 0);
	}
	expect_reject(peer, ISCSI_REJECT_IMMEDIATE);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	for (unsigned i = 0; i < LIMIT_ISCSI_TASKS; i++)
		peer_expect(peer, ISCSI_DATA_IN);
	peer_free(peer);
}

static uint32_t random_state;

static uint32_t
next_random(void)
{
	random_state = random_state * 1664525u + 1013904223u;
	return random_state >> 8;
}

/*
 * Bytes at random, and true PDUs with bytes changed, to a session: it ends or goes on, and nothing is
 * left of it.
 */
static void
test_random_pdus(void **state)
{
	static const uint8_t opcodes[] = {
		0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x1f, 0x41, 0x42};
	const unsigned seed = 424242;
	uint32_t changes;
	uint8_t bytes[4096];
	struct peer *peer = NULL;
	size_t n, length;

	(void)state;
	print_message("seed %u\n", seed);
	random_state = seed;
	for (unsigned round = 0; round < 5000; round++) {
		if (!peer)
			peer = peer_session(
				round % 2 ? "InitialR2T=No\nFirstBurstLength=1024\n" : NULL);
		peer_start(peer, opcodes[next_random() % sizeof(opcodes)]);
		for (unsigned i = BHS_LUN; i < ISCSI_BHS; i++) {
			if (next_random() % 8 == 0)
				peer->bhs[i] = (uint8_t)next_random();
		}
		peer->bhs[BHS_FLAGS] = (uint8_t)next_random();
		peer->bhs[BHS_CDB] = (uint8_t)(next_random() % 2 ? 0x2a : 0x28);
		put_be32(peer->bhs + BHS_ITT, next_random() % 20);
		put_be32(peer->bhs + BHS_EDTL,
			next_random() % 3 ? next_random() % 9000 : ISCSI_TAG_NONE);
		length = next_random() % 4 ? 0 : next_random() % 2000;
		n = peer_compose(peer, pattern, length, bytes);
		changes = next_random() % 3;
		while (changes-- > 0)
			bytes[next_random() % n] ^= (uint8_t)(1 << next_random() % 8);
		pipe_feed(peer->pipe, bytes, n);
		virtual_run_until_idle();
		pipe_take(peer->pipe, NULL, SIZE_MAX);
		if (!peer_open(peer) || round % 100 == 99) {
			peer_free(peer);
			peer = NULL;
		}
	}
	if (peer)
		peer_free(peer);
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_ping),
		WORLD_TEST(test_ping_without_tag),
		WORLD_TEST(test_ping_with_bad_digest),
		WORLD_TEST(test_ping_during_a_stall),
		WORLD_TEST(test_gap_holds_what_follows),
		WORLD_TEST(test_hang_up_with_a_gap),
		WORLD_TEST(test_out_of_window),
		WORLD_TEST(test_full_window),
		WORLD_TEST(test_window_under_pressure),
		WORLD_TEST(test_window_opened_by_aborts),
		WORLD_TEST(test_rejects),
		WORLD_TEST(test_rejected_cmdsn_is_a_gap),
		WORLD_TEST(test_commands_in_discovery),
		WORLD_TEST(test_additional_header_segments),
		WORLD_TEST(test_bidirectional_commands),
		WORLD_TEST(test_data_segment_too_long),
		WORLD_TEST(test_logout),
		WORLD_TEST(test_logout_with_tasks),
		WORLD_TEST(test_logout_of_discovery),
		WORLD_TEST(test_flood_of_pings),
		WORLD_TEST(test_too_many_immediate_commands),
		WORLD_TEST(test_random_pdus),
	};

	return cmocka_run_group_tests_name("iscsi_request", tests, NULL, NULL);
}
