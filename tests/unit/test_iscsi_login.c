/* protocols/iscsi/iscsi_login.c, and iscsi_session.c's table: who gets in, and in whose place. */
#include "config.h"

#include "iscsi_peer.h"

#include <stdio.h>

#include "bytes.h"
#include "iscsi/iscsi.h"

#define NAMES "InitiatorName=" PEER_NAME "\nTargetName=" WORLD_TARGET "\n"

static struct pdu response;

static void
test_login_in_one_pdu(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	assert_int_equal(peer_login_step(peer, 0x87,
				 NAMES "SessionType=Normal\nHeaderDigest=None\n", &response),
		0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0x87);
	assert_int_equal(response.bhs[BHS_VERSION_MAX], 0);
	assert_memory_equal(response.bhs + BHS_ISID, peer->isid, 6);
	assert_true(text_is(&response,
		"HeaderDigest=None\nTargetPortalGroupTag=1\nMaxRecvDataSegmentLength=262144\n"));
	assert_int_equal(
		get_be32(response.bhs + BHS_MAXCMDSN), peer->cmdsn + LIMIT_ISCSI_WINDOW - 1);
	peer_clear_attention(peer);
	peer_free(peer);
}

static void
test_login_in_stages(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	assert_int_equal(peer_login_step(peer, 0x00, NAMES, &response), 0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0x00);
	assert_true(text_is(&response, "TargetPortalGroupTag=1\n"));
	assert_int_equal(peer_login_step(peer, 0x81, "AuthMethod=None\n", &response), 0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0x81);
	assert_true(text_is(&response, "AuthMethod=None\n"));
	assert_int_equal(peer_login_step(peer, 0x04, NAMES "InitialR2T=No\n", &response), 0);
	assert_true(text_is(&response, "InitialR2T=No\nMaxRecvDataSegmentLength=262144\n"));
	assert_int_equal(peer_login_step(peer, 0x87, "ImmediateData=No\n", &response), 0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0x87);
	assert_true(text_is(&response, "ImmediateData=No\n"));
	peer_clear_attention(peer);
	peer_free(peer);
}

/* 6.3: straight from security to the full feature phase. */
static void
test_login_without_operational_stage(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	assert_int_equal(peer_login_step(peer, 0x83, NAMES "AuthMethod=None\n", &response), 0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0x83);
	peer_clear_attention(peer);
	peer_free(peer);
}

/* A text cut at each place, the first part with C=1. */
static void
test_text_split_anywhere(void **state)
{
	static const char lines[] = NAMES "InitialR2T=No\nMaxBurstLength=4096\n";
	char part[sizeof(lines)];
	struct peer *peer;

	(void)state;
	for (size_t cut = 0; cut < sizeof(lines); cut++) {
		peer = peer_new(0);
		memcpy(part, lines, cut);
		part[cut] = '\0';
		assert_int_equal(peer_login_step(peer, 0x44, part, &response), 0);
		assert_int_equal(response.bhs[BHS_FLAGS], 0x04);
		assert_int_equal(response.length, 0);
		assert_int_equal(peer_login_step(peer, 0x87, lines + cut, &response), 0);
		assert_int_equal(response.bhs[BHS_FLAGS], 0x87);
		assert_true(text_has(&response, "InitialR2T=No"));
		assert_true(text_has(&response, "MaxBurstLength=4096"));
		peer_free(peer);
	}
}

static void
test_one_byte_at_a_time(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	pipe_limit_read(peer->pipe, 1);
	pipe_limit_write(peer->pipe, 1);
	peer_login(peer, "HeaderDigest=CRC32C\nDataDigest=CRC32C\n");
	peer_clear_attention(peer);
	peer_free(peer);
}

static void
test_hang_up_at_every_byte(void **state)
{
	static const char lines[] = NAMES "InitialR2T=No\n";
	uint8_t text[sizeof(lines)], bytes[512], *bhs;
	size_t n, length;
	struct peer *peer;

	(void)state;
	for (n = 0;; n++) {
		peer = peer_new(0);
		bhs = peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);
		bhs[BHS_FLAGS] = 0x87;
		memcpy(bhs + BHS_ISID, peer->isid, 6);
		length = peer_compose(peer, text, text_of(lines, text), bytes);
		if (n < length)
			pipe_feed(peer->pipe, bytes, n);
		peer_free(peer);
		if (n == length)
			break;
	}
}

/* Each sin with its status class and detail. */
static void
test_refusals(void **state)
{
	static const struct {
		uint8_t flags;
		const char *lines;
		int status;
	} cases[] = {
		{0x87, "TargetName=" WORLD_TARGET "\n", 0x0207},
		{0x87, "InitiatorName=" PEER_NAME "\n", 0x0207},
		{0x87, "InitiatorName=" PEER_NAME "\nTargetName=iqn.2026-11.localhost.slabd:none\n",
			0x0203},
		{0x87, NAMES "SessionType=Strange\n", 0x0209},
		{0x87, NAMES "InitialR2T=No\nInitialR2T=No\n", 0x0200},
		{0x81, NAMES "AuthMethod=CHAP,SRP\n", 0x0201},
		{0x87, NAMES "AuthMethod=None\n", 0x0200}, {0x87, NAMES "no equals sign\n", 0x0200},
		{0x85, NAMES, 0x0200}, /* T to the same stage */
		{0x86, NAMES, 0x0200}, /* NSG reserved */
		{0x84, NAMES, 0x0200}, /* backwards */
		{0x8f, NAMES, 0x0200}, /* CSG full feature */
		{0x88, NAMES, 0x0200}, /* CSG reserved */
		{0xc7, NAMES, 0x0200}, /* T and C */
	};
	struct peer *peer;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		peer = peer_new(0);
		assert_int_equal(peer_login_step(peer, cases[i].flags, cases[i].lines, &response),
			cases[i].status);
		assert_int_equal(response.length, 0);
		peer_expect_closed(peer);
		peer_free(peer);
	}
}

static void
test_header_changes_during_login(void **state)
{
	static const size_t fields[] = {BHS_ISID + 5, BHS_TSIH + 1, BHS_CID + 1, BHS_ITT + 3,
		BHS_CMDSN + 3, BHS_VERSION_MIN};
	struct peer *peer;
	uint8_t *bhs;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		peer = peer_new(0);
		assert_int_equal(peer_login_step(peer, 0x04, NAMES, &response), 0);
		bhs = peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);
		bhs[BHS_FLAGS] = 0x87;
		memcpy(bhs + BHS_ISID, peer->isid, 6);
		put_be32(bhs + BHS_ITT, 5);
		bhs[fields[i]]++;
		peer_send(peer, NULL, 0);
		assert_true(peer_try(peer, &response));
		assert_int_equal(get_be16(response.bhs + BHS_STATUS_CLASS),
			fields[i] == BHS_VERSION_MIN ? 0x0205 : 0x0200);
		peer_expect_closed(peer);
		peer_free(peer);
	}
}

static void
test_first_pdu_is_not_a_login(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	peer_expect_closed(peer);
	peer_free(peer);
	peer = peer_new(0); /* the additional headers it promises are not waited for */
	peer_start(peer, ISCSI_COMMAND)[BHS_AHS_LENGTH] = 255;
	pipe_feed(peer->pipe, peer->bhs, ISCSI_BHS);
	virtual_run_until_idle();
	peer_expect_closed(peer);
	peer_free(peer);
}

static void
test_other_request_during_login(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	assert_int_equal(peer_login_step(peer, 0x04, NAMES, &response), 0);
	peer_start(peer, ISCSI_TEXT_REQUEST);
	peer_send(peer, NULL, 0);
	assert_true(peer_try(peer, &response));
	assert_int_equal(response.bhs[BHS_OPCODE], ISCSI_LOGIN_RESPONSE);
	assert_int_equal(get_be16(response.bhs + BHS_STATUS_CLASS), 0x020b);
	peer_expect_closed(peer);
	peer_free(peer);
}

static void
test_too_much_text(void **state)
{
	struct peer *peer = peer_new(0);
	char lines[LIMIT_ISCSI_LOGIN_PDU + 64];

	(void)state;
	/* a PDU of more than 8192 */
	memset(lines, 'x', LIMIT_ISCSI_LOGIN_PDU + 1);
	lines[LIMIT_ISCSI_LOGIN_PDU + 1] = '\0';
	assert_int_equal(peer_login_step(peer, 0x44, lines, &response), 0x0200);
	peer_free(peer);
	/* a chain of more than 16 KiB */
	peer = peer_new(0);
	lines[LIMIT_ISCSI_LOGIN_PDU] = '\0';
	assert_int_equal(peer_login_step(peer, 0x44, lines, &response), 0);
	assert_int_equal(peer_login_step(peer, 0x44, lines, &response), 0);
	assert_int_equal(peer_login_step(peer, 0x44, "x", &response), 0x0200);
	peer_free(peer);
	/* more than eight PDUs */
	peer = peer_new(0);
	for (unsigned i = 0; i < LIMIT_ISCSI_LOGIN_PDUS; i++)
		assert_int_equal(peer_login_step(peer, 0x04, i ? "" : NAMES, &response), 0);
	assert_int_equal(peer_login_step(peer, 0x87, "", &response), 0x0200);
	peer_free(peer);
}

static void
test_login_times_out(void **state)
{
	struct peer *silent = peer_new(0), *slow = peer_new(1);

	(void)state;
	assert_int_equal(peer_login_step(slow, 0x04, NAMES, &response), 0);
	virtual_advance(LIMIT_ISCSI_LOGIN - SECOND_NS);
	assert_true(peer_open(silent));
	assert_true(peer_open(slow));
	virtual_advance(3 * SECOND_NS);
	assert_false(peer_open(silent));
	assert_false(peer_open(slow));
	peer_free(silent);
	peer_free(slow);
}

static int
join_session(struct peer *peer, const uint8_t isid[6], uint16_t tsih, uint16_t cid)
{
	uint8_t text[512], *bhs = peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = 0x87;
	memcpy(bhs + BHS_ISID, isid, 6);
	put_be16(bhs + BHS_TSIH, tsih);
	put_be16(bhs + BHS_CID, cid);
	peer_send(peer, text, text_of(NAMES, text));
	assert_true(peer_try(peer, &response));
	return get_be16(response.bhs + BHS_STATUS_CLASS);
}

static void
test_tsih(void **state)
{
	struct peer *first = peer_new(0), *second;
	uint16_t tsih;

	(void)state;
	assert_int_equal(peer_login_step(first, 0x87, NAMES, &response), 0);
	tsih = get_be16(response.bhs + BHS_TSIH);
	second = peer_new(1);
	assert_int_equal(join_session(second, first->isid, (uint16_t)(tsih + 1), 1), 0x020a);
	peer_free(second);
	second = peer_new(1);
	assert_int_equal(join_session(second, second->isid, tsih, 1), 0x020a);
	peer_free(second);
	/* MaxConnections is 1 */
	second = peer_new(1);
	assert_int_equal(join_session(second, first->isid, tsih, 1), 0x0206);
	peer_free(second);
	peer_clear_attention(first);
	peer_free(first);
}

static void
test_names_are_normalised(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	assert_int_equal(
		peer_login_step(peer, 0x87,
			"InitiatorName=IQN.Test\nTargetName=IQN.2026-11.localhost.SLABD:disk0\n",
			&response),
		0);
	peer_free(peer);
}

/* The same initiator port again: the old session ends, the new one is in at once, on any loop. */
static void
test_reinstatement(void **state)
{
	struct peer *old, *new;

	(void)state;
	for (unsigned loop = 0; loop < 2; loop++) {
		old = peer_new(0);
		peer_login(old, NULL);
		peer_clear_attention(old);
		new = peer_new(loop);
		memcpy(new->isid, old->isid, 6);
		peer_login(new, NULL);
		peer_expect_closed(old);
		peer_clear_attention(new);
		peer_free(old);
		peer_free(new);
	}
}

/* Another ISID, another initiator or another target is another session. */
static void
test_no_reinstatement_of_others(void **state)
{
	struct peer *first = peer_new(0), *isid = peer_new(1), *name = peer_new(1);

	(void)state;
	peer_login(first, NULL);
	peer_login(isid, NULL);
	name->name = "iqn.other";
	memcpy(name->isid, first->isid, 6);
	peer_login(name, NULL);
	assert_true(peer_open(first));
	assert_true(peer_open(isid));
	peer_free(first);
	peer_free(isid);
	peer_free(name);
}

/* 4.4.1: the same port name before another portal group is another session. */
static void
test_no_reinstatement_across_groups(void **state)
{
	struct peer *first = peer_session(NULL), *second = peer_new(1);
	uint16_t group = world.portals[0].group;

	(void)state;
	memcpy(second->isid, first->isid, 6);
	world.portals[0].group = 2;
	assert_int_equal(peer_login_step(second, 0x87, NAMES, &response), 0);
	assert_true(text_has(&response, "TargetPortalGroupTag=2"));
	world.portals[0].group = group;
	peer_clear_attention(second);
	peer_read10(first, 0, 1);
	peer_send(first, NULL, 0);
	peer_expect(first, ISCSI_DATA_IN);
	peer_free(first);
	peer_free(second);
}

/* A link that was lost without a word: discovery with the same ISID is in at once, and the old one
 * is found to be silent in its time. */
static void
test_discovery_again(void **state)
{
	struct peer *first = peer_new(0), *second = peer_new(1);

	(void)state;
	peer_discover(first);
	memcpy(second->isid, first->isid, 6);
	peer_discover(second);
	assert_true(peer_open(first));
	virtual_advance(LIMIT_ISCSI_SILENCE + 2 * SECOND_NS);
	peer_expect(first, ISCSI_NOP_IN);
	virtual_advance(LIMIT_ISCSI_PING + 2 * SECOND_NS);
	assert_false(peer_open(first));
	peer_free(first);
	peer_free(second);
}

static void
test_version(void **state)
{
	struct peer *peer = peer_new(0);
	uint8_t text[512], *bhs = peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);

	(void)state;
	bhs[BHS_FLAGS] = 0x87;
	bhs[BHS_VERSION_MAX] = bhs[BHS_VERSION_MIN] = 1;
	peer_send(peer, text, text_of(NAMES, text));
	assert_true(peer_try(peer, &response));
	assert_int_equal(get_be16(response.bhs + BHS_STATUS_CLASS), ISCSI_LOGIN_VERSION);
	peer_expect_closed(peer);
	peer_free(peer);
}

/* The old session's disk stalls: the new one is in at once, and the old write is waited for. */
static void
test_reinstatement_during_a_stall(void **state)
{
	struct peer *old = peer_new(0), *new = peer_new(1);

	(void)state;
	peer_login(old, NULL);
	peer_clear_attention(old);
	volume_script_hold(world.script, true);
	peer_read10(old, 0, 8);
	peer_send(old, NULL, 0);
	peer_expect_nothing(old);
	memcpy(new->isid, old->isid, 6);
	peer_login(new, NULL);
	peer_expect_closed(old);
	assert_int_equal(world_connections(0), 1);
	peer_start(new, ISCSI_NOP_OUT);
	peer_send(new, NULL, 0);
	peer_expect(new, ISCSI_NOP_IN);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	virtual_run_until_idle();
	assert_int_equal(world_connections(0), 0);
	peer_free(old);
	peer_free(new);
}

static void
send_login(struct peer *peer)
{
	uint8_t text[512], *bhs = peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = 0x87;
	memcpy(bhs + BHS_ISID, peer->isid, 6);
	peer_send(peer, text, text_of(NAMES, text));
}

/* Logins that race for one session: whatever the order of turns, one is in at the end. */
static void
test_racing_reinstatements(void **state)
{
	struct peer *peers[4];
	unsigned open, seed = 20261122, x = seed;

	(void)state;
	print_message("seed %u\n", seed);
	for (unsigned round = 0; round < 200; round++) {
		for (unsigned i = 0; i < 4; i++) {
			peers[i] = peer_new(i % 2);
			memcpy(peers[i]->isid, peers[0]->isid, 6);
		}
		peer_login(peers[0], NULL);
		for (unsigned i = 1; i < 4; i++)
			send_login(peers[i]);
		if (round % 3 == 0)
			pipe_feed_eof(peers[1 + round % 2]->pipe);
		for (unsigned turn = 0; turn < 12; turn++) {
			x = x * 1664525u + 1013904223u;
			virtual_loop_turn(loop_by_index(x >> 31));
		}
		virtual_run_until_idle();
		open = 0;
		for (unsigned i = 0; i < 4; i++)
			open += peer_open(peers[i]);
		assert_true(open <= 1);
		if (round % 3 != 0)
			assert_int_equal(open, 1);
		for (unsigned i = 0; i < 4; i++)
			peer_free(peers[i]);
	}
}

/* 11.13.5: temporarily or for good; not before who asks has proved who he is. */
static void
test_redirect(void **state)
{
	struct peer *peer;

	(void)state;
	world.targets[0].redirect = "192.0.2.9:3260";
	for (unsigned i = 0; i < 4; i++) {
		world.targets[0].moved = i % 2;
		peer = peer_new(0);
		assert_int_equal(peer_login_step(peer, i / 2 ? 0x87 : 0x00, NAMES, &response),
			i % 2 ? ISCSI_LOGIN_MOVED : ISCSI_LOGIN_MOVED_TEMPORARILY);
		assert_int_equal(response.bhs[BHS_FLAGS], 0);
		assert_true(text_is(&response, "TargetAddress=192.0.2.9:3260\n"));
		peer_expect_closed(peer);
		peer_free(peer);
	}
	/* the other target is here */
	peer = peer_new(0);
	assert_int_equal(
		peer_login_step(peer, 0x87,
			"InitiatorName=" PEER_NAME "\nTargetName=" WORLD_OTHER "\n", &response),
		0);
	peer_free(peer);
	peer = peer_new(0);
	peer_discover(peer);
	peer_free(peer);
}

static const struct credential redirect_user = {"alice", "twelve bytes"};

static void
test_redirect_after_authentication(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	world.targets[0].redirect = "192.0.2.9:3260";
	world.targets[0].chap = &redirect_user;
	world.targets[0].nchap = 1;
	assert_int_equal(peer_login_step(peer, 0x87, NAMES, &response), ISCSI_LOGIN_AUTHENTICATION);
	assert_int_equal(response.length, 0);
	peer_free(peer);
	peer = peer_new(0);
	assert_int_equal(peer_login_step(peer, 0x00, NAMES "AuthMethod=CHAP\n", &response), 0);
	assert_false(text_has(&response, "TargetAddress=192.0.2.9:3260"));
	peer_free(peer);
}

static void
test_discovery_login(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	assert_int_equal(
		peer_login_step(peer, 0x87,
			"InitiatorName=" PEER_NAME "\nSessionType=Discovery\nInitialR2T=No\n",
			&response),
		0);
	assert_true(text_is(&response, "InitialR2T=Irrelevant\nMaxRecvDataSegmentLength=262144\n"));
	assert_true(get_be16(response.bhs + BHS_TSIH) != 0);
	peer_free(peer);
}

/* R04: between the steps of a login no text is kept. */
static void
test_memory_between_steps(void **state)
{
	struct peer *peer = peer_new(0);
	struct slab_stats stats;

	(void)state;
	assert_int_equal(peer_login_step(peer, 0x04, NAMES, &response), 0);
	slab_cache_stats(iscsi_caches.text, &stats);
	assert_int_equal(stats.active, 0);
	assert_int_equal(peer_login_step(peer, 0x87, "", &response), 0);
	peer_free(peer);
}

/* R04: what a stranger sends behind a login that was refused is not kept until he reads the answer. */
static void
test_bytes_behind_a_refused_login(void **state)
{
	static uint8_t bytes[8192];
	struct peer *peer = peer_new(0);
	struct slab_stats stats;

	(void)state;
	peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE)[BHS_VERSION_MIN] = 1;
	peer_compose(peer, NULL, 0, bytes);
	pipe_set_room(peer->pipe, 0);
	pipe_feed(peer->pipe, bytes, sizeof(bytes));
	virtual_run_until_idle();
	assert_true(peer_open(peer));
	slab_cache_stats(iscsi_caches.left, &stats);
	assert_int_equal(stats.active, 0);
	peer_free(peer);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_login_in_one_pdu, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_login_in_stages, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_login_without_operational_stage, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_text_split_anywhere, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_one_byte_at_a_time, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_hang_up_at_every_byte, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_refusals, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_header_changes_during_login, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_first_pdu_is_not_a_login, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_other_request_during_login, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_too_much_text, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_login_times_out, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_tsih, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_names_are_normalised, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_reinstatement, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_no_reinstatement_of_others, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_reinstatement_during_a_stall, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_racing_reinstatements, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_no_reinstatement_across_groups, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_discovery_again, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_version, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_redirect, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_redirect_after_authentication, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_discovery_login, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_memory_between_steps, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_bytes_behind_a_refused_login, world_start, world_stop),
	};

	return cmocka_run_group_tests_name("iscsi_login", tests, NULL, NULL);
}
