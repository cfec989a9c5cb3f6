/* protocols/iscsi/iscsi_text.c: Text requests of the full feature phase, SendTargets. */
#include "config.h"

#include "iscsi_peer.h"

#include <stdio.h>

#include "bytes.h"

static struct pdu *
ask(struct peer *peer, uint8_t flags, uint32_t itt, uint32_t ttt, const char *lines)
{
	uint8_t text[LIMIT_ISCSI_TEXT];
	uint8_t *bhs = peer_start(peer, ISCSI_TEXT_REQUEST);

	bhs[BHS_FLAGS] = flags;
	put_be32(bhs + BHS_ITT, itt);
	put_be32(bhs + BHS_TTT, ttt);
	peer_send(peer, text, text_of(lines, text));
	return peer_expect(peer, ISCSI_TEXT_RESPONSE);
}

static void
assert_final(const struct pdu *pdu)
{
	assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL);
	assert_int_equal(get_be32(pdu->bhs + BHS_TTT), ISCSI_TAG_NONE);
}

#define ADDRESSES "TargetAddress=10.0.0.1:3260,1\nTargetAddress=192.0.2.7:3261,2\n"

static void
test_send_targets_in_discovery(void **state)
{
	struct peer *peer = peer_new(0);
	struct pdu *pdu;

	(void)state;
	peer_discover(peer);
	pdu = ask(peer, ISCSI_FINAL, 1, ISCSI_TAG_NONE, "SendTargets=All\n");
	assert_final(pdu);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), 1);
	assert_true(text_is(pdu, "TargetName=" WORLD_TARGET "\n" ADDRESSES "TargetName=" WORLD_OTHER
				 "\n" ADDRESSES));
	pdu = ask(peer, ISCSI_FINAL, 2, ISCSI_TAG_NONE, "SendTargets=" WORLD_OTHER "\n");
	assert_true(text_is(pdu, "TargetName=" WORLD_OTHER "\n" ADDRESSES));
	pdu = ask(peer, ISCSI_FINAL, 3, ISCSI_TAG_NONE, "SendTargets=iqn.none\n");
	assert_true(text_is(pdu, ""));
	pdu = ask(peer, ISCSI_FINAL, 4, ISCSI_TAG_NONE, "SendTargets=\n");
	assert_true(text_is(pdu, ""));
	peer_free(peer);
}

/* Appendix C: a normal session hears of its own target only. */
static void
test_send_targets_in_a_normal_session(void **state)
{
	struct peer *peer = peer_new(0);
	struct pdu *pdu;

	(void)state;
	peer_login(peer, NULL);
	pdu = ask(peer, ISCSI_FINAL, 1, ISCSI_TAG_NONE, "SendTargets=\n");
	assert_true(text_is(pdu, "TargetName=" WORLD_TARGET "\n" ADDRESSES));
	pdu = ask(peer, ISCSI_FINAL, 2, ISCSI_TAG_NONE, "SendTargets=" WORLD_TARGET "\n");
	assert_true(text_is(pdu, "TargetName=" WORLD_TARGET "\n" ADDRESSES));
	pdu = ask(peer, ISCSI_FINAL, 3, ISCSI_TAG_NONE, "SendTargets=All\n");
	assert_true(text_is(pdu, "SendTargets=Reject\n"));
	pdu = ask(peer, ISCSI_FINAL, 4, ISCSI_TAG_NONE, "SendTargets=" WORLD_OTHER "\n");
	assert_true(text_is(pdu, "SendTargets=Reject\n"));
	peer_free(peer);
}

/* Each portal told to whoever asks by an address of its scope, and nobody else. */
static void
test_portals_by_scope(void **state)
{
	static const struct {
		const char *local, *answer;
	} rows[] = {
		{"10.0.0.1:3260", "TargetAddress=10.0.0.1:3260,1\nTargetAddress=10.0.0.1:1,1\n"
				  "TargetAddress=192.0.2.7:5,1\nTargetAddress=[2001:db8::7]:6,1\n"
				  "TargetAddress=198.51.100.1:9,1\n"},
		{"127.0.0.1:3260",
			"TargetAddress=127.0.0.1:3260,1\nTargetAddress=127.0.0.1:1,1\n"
			"TargetAddress=127.0.0.2:3,1\nTargetAddress=[::1]:4,1\n"
			"TargetAddress=198.51.100.1:9,1\n"},
		{"[::1]:3260", "TargetAddress=[::1]:3260,1\nTargetAddress=[::1]:2,1\n"
			       "TargetAddress=127.0.0.2:3,1\nTargetAddress=[::1]:4,1\n"
			       "TargetAddress=198.51.100.1:9,1\n"},
		{"[2001:db8::1]:3260",
			"TargetAddress=[2001:db8::1]:3260,1\nTargetAddress=[2001:db8::1]:2,1\n"
			"TargetAddress=192.0.2.7:5,1\nTargetAddress=[2001:db8::7]:6,1\n"
			"TargetAddress=198.51.100.1:9,1\n"},
		{"[::ffff:127.0.0.1]:3260",
			"TargetAddress=[::ffff:127.0.0.1]:3260,1\n"
			"TargetAddress=[::ffff:127.0.0.1]:1,1\n"
			"TargetAddress=127.0.0.2:3,1\nTargetAddress=[::1]:4,1\n"
			"TargetAddress=198.51.100.1:9,1\n"},
		{"[fe80::1%eth0]:3260",
			"TargetAddress=[fe80::1%eth0]:3260,1\nTargetAddress=[fe80::1%eth0]:2,1\n"
			"TargetAddress=169.254.1.1:7,1\nTargetAddress=[fe80::2%eth0]:8,1\n"
			"TargetAddress=198.51.100.1:9,1\n"},
	};
	static const struct portal portals[] = {
		{.address = "0.0.0.0:3260", .group = 1, .relative_id = 1},
		{.address = "0.0.0.0:1", .group = 1, .relative_id = 2},
		{.address = "[::]:2", .group = 1, .relative_id = 3},
		{.address = "127.0.0.2:3", .group = 1, .relative_id = 4},
		{.address = "[::1]:4", .group = 1, .relative_id = 5},
		{.address = "192.0.2.7:5", .group = 1, .relative_id = 6},
		{.address = "[2001:db8::7]:6", .group = 1, .relative_id = 7},
		{.address = "169.254.1.1:7", .group = 1, .relative_id = 8},
		{.address = "[fe80::2%eth0]:8", .group = 1, .relative_id = 9},
		{.address = "127.0.0.1:9",
			.advertise = "198.51.100.1:9",
			.group = 1,
			.relative_id = 10},
	};
	char expected[1024];
	struct peer *peer;
	struct pdu *pdu;

	(void)state;
	world.catalogue.portals = portals;
	world.catalogue.nportals = ARRAY_SIZE(portals);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		peer = peer_new(0);
		pipe_set_peer(peer->pipe, "10.0.0.7:41332", rows[i].local);
		peer_discover(peer);
		pdu = ask(peer, ISCSI_FINAL, 1, ISCSI_TAG_NONE, "SendTargets=" WORLD_OTHER "\n");
		snprintf(expected, sizeof(expected), "TargetName=" WORLD_OTHER "\n%s",
			rows[i].answer);
		if (!text_is(pdu, expected))
			fail_msg("%s", rows[i].local);
		peer_free(peer);
	}
}

/* A target whose rules keep an initiator out is not shown to it. */
static void
test_targets_by_rules(void **state)
{
	const struct initiator friend = {.name = "iqn.2026-11.test:friend",
		.as = {.name = WORLD_OTHER, .luns = world.luns, .nluns = 1}};
	struct peer *peer = peer_new(0);
	struct pdu *pdu;

	(void)state;
	world.targets[1].initiators = &friend;
	world.targets[1].ninitiators = 1;
	peer_discover(peer);
	pdu = ask(peer, ISCSI_FINAL, 1, ISCSI_TAG_NONE, "SendTargets=All\n");
	assert_true(text_is(pdu, "TargetName=" WORLD_TARGET "\n" ADDRESSES));
	pdu = ask(peer, ISCSI_FINAL, 2, ISCSI_TAG_NONE, "SendTargets=" WORLD_OTHER "\n");
	assert_true(text_is(pdu, ""));
	peer_free(peer);
	peer = peer_new(0);
	peer->name = friend.name;
	peer_discover(peer);
	pdu = ask(peer, ISCSI_FINAL, 1, ISCSI_TAG_NONE, "SendTargets=" WORLD_OTHER "\n");
	assert_true(text_is(pdu, "TargetName=" WORLD_OTHER "\n" ADDRESSES));
	peer_free(peer);
}

/* More targets than one PDU takes: C=1, and empty requests fetch the rest. */
static void
test_long_listing(void **state)
{
	enum { TARGETS = 200 };
	static char names[TARGETS][64];
	static struct target targets[TARGETS];
	unsigned seen = 0, answers = 0;
	char line[128];
	struct peer *peer;
	struct pdu *pdu;
	uint32_t ttt;

	(void)state;
	for (unsigned i = 0; i < TARGETS; i++) {
		snprintf(names[i], sizeof(names[i]), "iqn.2026-11.localhost.slabd:%03u", i);
		targets[i] = (struct target){.name = names[i], .luns = world.luns, .nluns = 1};
	}
	world.catalogue.targets = targets;
	world.catalogue.ntargets = TARGETS;
	peer = peer_new(0);
	peer_discover(peer);
	pdu = ask(peer, ISCSI_FINAL, 1, ISCSI_TAG_NONE,
		"SendTargets=All\nMaxRecvDataSegmentLength=512\n");
	for (;;) {
		assert_true(pdu->length <= 512);
		for (; seen < TARGETS; seen++) {
			snprintf(line, sizeof(line), "TargetName=%s", names[seen]);
			if (!text_has(pdu, line))
				break;
		}
		answers++;
		if (pdu->bhs[BHS_FLAGS] & ISCSI_FINAL)
			break;
		assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_CONTINUE);
		ttt = get_be32(pdu->bhs + BHS_TTT);
		assert_true(ttt != ISCSI_TAG_NONE);
		pdu = ask(peer, ISCSI_FINAL, 1, ttt, "");
	}
	assert_final(pdu);
	assert_int_equal(seen, TARGETS);
	assert_true(answers > 20);
	peer_free(peer);
}

static void
test_request_split_anywhere(void **state)
{
	static const char lines[] = "SendTargets=All\n";
	char part[sizeof(lines)];
	struct peer *peer = peer_new(0);
	struct pdu *pdu;

	(void)state;
	peer_discover(peer);
	for (size_t cut = 0; cut < sizeof(lines); cut++) {
		memcpy(part, lines, cut);
		part[cut] = '\0';
		pdu = ask(peer, ISCSI_CONTINUE, 1, ISCSI_TAG_NONE, part);
		assert_int_equal(pdu->length, 0);
		assert_int_equal(pdu->bhs[BHS_FLAGS], 0);
		pdu = ask(peer, ISCSI_FINAL, 1, get_be32(pdu->bhs + BHS_TTT), lines + cut);
		assert_final(pdu);
		assert_true(text_has(pdu, "TargetName=" WORLD_OTHER));
	}
	peer_free(peer);
}

/* F=0 without C: the initiator has more to say, and the exchange goes on. */
static void
test_exchange_in_rounds(void **state)
{
	struct peer *peer = peer_new(0);
	struct pdu *pdu;

	(void)state;
	peer_login(peer, NULL);
	pdu = ask(peer, 0, 1, ISCSI_TAG_NONE, "X-first=1\n");
	assert_int_equal(pdu->bhs[BHS_FLAGS], 0);
	assert_true(text_is(pdu, "X-first=NotUnderstood\n"));
	pdu = ask(peer, ISCSI_FINAL, 1, get_be32(pdu->bhs + BHS_TTT), "MaxBurstLength=512\n");
	assert_final(pdu);
	assert_true(text_is(pdu, "MaxBurstLength=Reject\n"));
	peer_free(peer);
}

static void
expect_reject(struct peer *peer, uint8_t reason)
{
	struct pdu *pdu = peer_expect(peer, ISCSI_REJECT);

	assert_int_equal(pdu->bhs[BHS_RESPONSE], reason);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), ISCSI_TAG_NONE);
	assert_int_equal(pdu->length, ISCSI_BHS);
	assert_memory_equal(pdu->data, peer->bhs, ISCSI_BHS);
}

static void
send_bad(struct peer *peer, uint8_t flags, uint32_t ttt, const void *text, size_t length)
{
	uint8_t *bhs = peer_start(peer, ISCSI_TEXT_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = flags;
	put_be32(bhs + BHS_TTT, ttt);
	peer_send(peer, text, length);
}

static void
test_malformed_requests(void **state)
{
	static uint8_t big[LIMIT_ISCSI_TEXT + 4];
	struct peer *peer = peer_new(0);

	(void)state;
	peer_login(peer, NULL);
	send_bad(peer, ISCSI_FINAL | ISCSI_CONTINUE, ISCSI_TAG_NONE, NULL, 0);
	expect_reject(peer, ISCSI_REJECT_PROTOCOL);
	send_bad(peer, ISCSI_FINAL, 12345, NULL, 0); /* a tag nobody gave */
	expect_reject(peer, ISCSI_REJECT_FIELD);
	send_bad(peer, ISCSI_FINAL, ISCSI_TAG_NONE, "no sign", 8);
	expect_reject(peer, ISCSI_REJECT_PROTOCOL);
	send_bad(peer, ISCSI_FINAL, ISCSI_TAG_NONE, big, sizeof(big));
	expect_reject(peer, ISCSI_REJECT_FIELD);
	send_bad(peer, ISCSI_CONTINUE, ISCSI_TAG_NONE, big, LIMIT_ISCSI_TEXT);
	put_be32(peer->bhs + BHS_TTT,
		get_be32(peer_expect(peer, ISCSI_TEXT_RESPONSE)->bhs + BHS_TTT));
	peer_send(peer, big, 4); /* the chain grows past its bound */
	expect_reject(peer, ISCSI_REJECT_PROTOCOL);
	peer_clear_attention(peer);
	peer_free(peer);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_send_targets_in_discovery, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_send_targets_in_a_normal_session, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_portals_by_scope, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_targets_by_rules, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_long_listing, world_start, world_stop),
		cmocka_unit_test_setup_teardown(
			test_request_split_anywhere, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_exchange_in_rounds, world_start, world_stop),
		cmocka_unit_test_setup_teardown(test_malformed_requests, world_start, world_stop),
	};

	return cmocka_run_group_tests_name("iscsi_text", tests, NULL, NULL);
}
