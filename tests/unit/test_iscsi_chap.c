/* protocols/iscsi/iscsi_chap.c: who is let in, by what, and who is not. */
#include "config.h"

#include "iscsi_peer.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <sys/types.h>

#include "bytes.h"
#include "iscsi/iscsi.h"

#define NAMES     "InitiatorName=" PEER_NAME "\nTargetName=" WORLD_TARGET "\n"
#define DISCOVERY "InitiatorName=" PEER_NAME "\nSessionType=Discovery\n"
#define SECRET    "twelve bytes"
#define MUTUAL    "other twelve"

static struct pdu response;

static const struct credential users[] = {
	{"alice", SECRET},
	{"0xbob", "another secret"},
	{"0bob", "a third secret"},
};
static const struct credential target_user = {"0xtarget", MUTUAL};

static int
start_guarded(void **state)
{
	world_start(state);
	world.targets[0].chap = users;
	world.targets[0].nchap = ARRAY_SIZE(users);
	world.targets[0].mutual = &target_user;
	memcpy(world.catalogue.chap_algorithms, (uint8_t[]){7, 8, 6, 5}, 4);
	world.catalogue.nchap_algorithms = 4;
	return 0;
}

static void
parse_hex(const char *text, uint8_t *out, size_t length)
{
	unsigned byte;

	for (size_t i = 0; i < length; i++) {
		assert_int_equal(sscanf(text + 2 * i, "%2x", &byte), 1);
		out[i] = (uint8_t)byte;
	}
}

/* --- the digest and the encodings */

static void
test_known_responses(void **state)
{
	/* python3: hashlib.new(name, b"\x2a" + b"twelve bytes" + bytes(range(16))).hexdigest() */
	static const struct {
		uint32_t algorithm;
		size_t length;
		const char *digest;
	} rows[] = {
		{5, 16, "13d6679c461c9ba140ac8df45f128526"},
		{6, 20, "337138449f37c6ea866111071f42eb64fb85204c"},
		{7, 32, "5a9071b020c72647ebdf65d440ed6dd6b2f808597a4fd31d7dbea9755bf79dc8"},
		{8, 32, "708fb3e99bec0bf4ad0fb31a980b9644587bafb772c8085f36ee04e8b81bb6d3"},
	};
	uint8_t challenge[16], expected[32], got[32];

	(void)state;
	for (uint8_t i = 0; i < 16; i++)
		challenge[i] = i;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(strlen(rows[i].digest), 2 * rows[i].length);
		parse_hex(rows[i].digest, expected, rows[i].length);
		assert_true(iscsi_chap_response(
			rows[i].algorithm, 0x2a, SECRET, challenge, sizeof(challenge), got));
		assert_memory_equal(got, expected, rows[i].length);
	}
	assert_false(iscsi_chap_response(4, 0, SECRET, challenge, sizeof(challenge), got));
}

static void
test_binary_values(void **state)
{
	static const struct {
		const char *text;
		ssize_t length;
		const char *bytes;
	} rows[] = {
		{"0x00ff10", 3, "\x00\xff\x10"},
		{"0X00Ff1A", 3, "\x00\xff\x1a"},
		{"0bAP8Q", 3, "\x00\xff\x10"},
		{"0BAP8Q", 3, "\x00\xff\x10"},
		{"0b+/8=", 2, "\xfb\xff"},
		{"0bAA==", 1, "\x00"},
		{"0x", 0, ""},
		{"0b", 0, ""},
		{"0x1", -EINVAL, ""},
		{"0xgg", -EINVAL, ""},
		{"00ff", -EINVAL, ""},
		{"0b+/9=", -EINVAL, ""},
		{"0bAB==", -EINVAL, ""},
		{"0bA===", -EINVAL, ""},
		{"0b====", -EINVAL, ""},
		{"0bAA=A", -EINVAL, ""},
		{"0bAAA", -EINVAL, ""},
		{"0b-_8=", -EINVAL, ""},
		{"", -EINVAL, ""},
		{"0", -EINVAL, ""},
		{"5", -EINVAL, ""},
		{"0x0011223344", -EINVAL, ""},
		{"0bAAAAAAA=", -EINVAL, ""},
		{"0bAAAAAA==", 4, "\x00\x00\x00\x00"},
	};
	uint8_t out[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (iscsi_binary_decode(rows[i].text, strlen(rows[i].text), out, sizeof(out)) !=
			rows[i].length)
			fail_msg("%s", rows[i].text);
		if (rows[i].length > 0)
			assert_memory_equal(out, rows[i].bytes, (size_t)rows[i].length);
	}
}

/* --- logins */

/* The value of a key in the response. */
static const char *
find_value(const char *key)
{
	const char *at = (const char *)response.data, *end = at + response.length;

	for (; at < end; at += strlen(at) + 1)
		if (strncmp(at, key, strlen(key)) == 0 && at[strlen(key)] == '=')
			return at + strlen(key) + 1;
	fail_msg("no %s", key);
	return NULL;
}

struct challenge {
	unsigned algorithm, id;
	size_t length;
	uint8_t bytes[32];
	const char *text;
};

static struct challenge
take_challenge(void)
{
	struct challenge c = {.algorithm = (unsigned)atoi(find_value("CHAP_A")),
		.id = (unsigned)atoi(find_value("CHAP_I")),
		.text = find_value("CHAP_C")};

	assert_memory_equal(c.text, "0x", 2);
	c.length = (strlen(c.text) - 2) / 2;
	assert_true(c.length <= sizeof(c.bytes));
	parse_hex(c.text + 2, c.bytes, c.length);
	return c;
}

/* The digest by this file's own hand. */
static size_t
digest_of(unsigned algorithm, unsigned id, const char *secret, const uint8_t *challenge,
	size_t length, uint8_t out[32])
{
	const EVP_MD *md = algorithm == 5   ? EVP_md5()
			   : algorithm == 6 ? EVP_sha1()
			   : algorithm == 7 ? EVP_sha256()
					    : EVP_sha3_256();
	uint8_t all[1 + 64 + 1024];
	unsigned n;

	all[0] = (uint8_t)id;
	memcpy(all + 1, secret, strlen(secret));
	memcpy(all + 1 + strlen(secret), challenge, length);
	assert_true(EVP_Digest(all, 1 + strlen(secret) + length, out, &n, md, NULL));
	return n;
}

static void
encode(char *text, const char *prefix, const uint8_t *data, size_t length)
{
	const char *digits = prefix[1] == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
	char *at = text + 2;

	strcpy(text, prefix);
	if (prefix[1] == 'b' || prefix[1] == 'B') {
		EVP_EncodeBlock((uint8_t *)text + 2, data, (int)length);
		return;
	}
	for (size_t i = 0; i < length; i++) {
		*at++ = digits[data[i] >> 4];
		*at++ = digits[data[i] & 15];
	}
	*at = '\0';
}

static struct peer *
begin(const char *names, const char *algorithms)
{
	struct peer *peer = peer_new(0);
	char lines[64];

	assert_int_equal(peer_login_step(peer, 0x00, names, &response), 0);
	/* It would go on at once: the target says when. */
	assert_int_equal(peer_login_step(peer, 0x81, "AuthMethod=CHAP,None\n", &response), 0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0x00);
	assert_true(text_is(&response, "AuthMethod=CHAP\n"));
	snprintf(lines, sizeof(lines), "CHAP_A=%s\n", algorithms);
	assert_int_equal(peer_login_step(peer, 0x00, lines, &response), 0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0x00);
	return peer;
}

/* The last step: a status, or -1. */
static int
prove(struct peer *peer, const char *user, const char *secret, const char *prefix, const char *more)
{
	struct challenge c = take_challenge();
	uint8_t digest[32];
	char text[128], lines[4096];

	encode(text, prefix, digest,
		digest_of(c.algorithm, c.id, secret, c.bytes, c.length, digest));
	snprintf(lines, sizeof(lines), "CHAP_N=%s\nCHAP_R=%s\n%s", user, text, more);
	return peer_login_step(peer, 0x81, lines, &response);
}

static void
finish(struct peer *peer)
{
	assert_int_equal(response.bhs[BHS_FLAGS], 0x81);
	assert_int_equal(peer_login_step(peer, 0x87, "InitialR2T=No\n", &response), 0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0x87);
	peer_clear_attention(peer);
	peer_free(peer);
}

static void
test_every_algorithm_and_encoding(void **state)
{
	static const char *const prefixes[] = {"0x", "0X", "0b", "0B"};
	static const char *const algorithms[] = {"5", "6", "7", "8"};
	struct peer *peer;

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		for (size_t j = 0; j < 4; j++) {
			peer = begin(NAMES, algorithms[i]);
			assert_int_equal(atoi(find_value("CHAP_A")), atoi(algorithms[i]));
			assert_int_equal(prove(peer, "alice", SECRET, prefixes[j], ""), 0);
			assert_int_equal(response.length, 0);
			finish(peer);
		}
	}
}

static void
test_our_order(void **state)
{
	(void)state;
	peer_free(begin(NAMES, "5,6,8,7"));
	assert_int_equal(atoi(find_value("CHAP_A")), 7);
	peer_free(begin(NAMES, "5,0x8,6"));
	assert_int_equal(atoi(find_value("CHAP_A")), 8);
	world.catalogue.chap_algorithms[0] = 5;
	world.catalogue.nchap_algorithms = 1;
	peer_free(begin(NAMES, "7,5"));
	assert_int_equal(atoi(find_value("CHAP_A")), 5);
}

static void
test_algorithm_refused(void **state)
{
	static const char *const offers[] = {"7", "4", "", ",", "55", "5x", "x"};
	struct peer *peer;
	char lines[64];

	(void)state;
	world.catalogue.chap_algorithms[0] = 5;
	world.catalogue.nchap_algorithms = 1;
	for (size_t i = 0; i < ARRAY_SIZE(offers); i++) {
		peer = peer_new(0);
		assert_int_equal(
			peer_login_step(peer, 0x00, NAMES "AuthMethod=CHAP\n", &response), 0);
		snprintf(lines, sizeof(lines), "CHAP_A=%s\n", offers[i]);
		assert_int_equal(peer_login_step(peer, 0x00, lines, &response), 0x0201);
		peer_expect_closed(peer);
		peer_free(peer);
	}
}

/* A name is text, however it begins. */
static void
test_names_like_numbers(void **state)
{
	struct peer *peer;

	(void)state;
	peer = begin(NAMES, "7");
	assert_int_equal(prove(peer, "0xbob", "another secret", "0x", ""), 0);
	finish(peer);
	peer = begin(NAMES, "7");
	assert_int_equal(prove(peer, "0bob", "a third secret", "0b", ""), 0);
	finish(peer);
}

/* An unknown user, another's secret, a wrong one: one answer. */
static void
test_wrong_looks_alike(void **state)
{
	static const struct {
		const char *user, *secret;
	} rows[] = {{"alice", "wrong secret"}, {"nobody", SECRET}, {"0xbob", SECRET},
		{"alice", "one as long as most"}, {"nobody", "one as long as most"}, {"", SECRET},
		{"Alice", SECRET}, {"alice ", SECRET}, {"alic", SECRET}};
	struct peer *peer;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		peer = begin(NAMES, "7,5");
		assert_int_equal(prove(peer, rows[i].user, rows[i].secret, "0x", ""), 0x0201);
		assert_int_equal(response.bhs[BHS_FLAGS], 0);
		assert_int_equal(response.length, 0);
		peer_expect_closed(peer);
		peer_free(peer);
	}
}

static void
test_malformed_responses(void **state)
{
	static const char *const rows[] = {"CHAP_N=alice\n", "CHAP_R=0x00\n", "",
		"CHAP_N=alice\nCHAP_R=0x\n", "CHAP_N=alice\nCHAP_R=\n",
		"CHAP_N=alice\nCHAP_R=0x0011\n", "CHAP_N=alice\nCHAP_R=0b=\n",
		"CHAP_N=alice\nCHAP_R=0x00\nCHAP_I=1\n",
		"CHAP_N=alice\nCHAP_R=0x00\nCHAP_C=0x0102\n",
		"CHAP_N=alice\nCHAP_R=0x00\nCHAP_I=1\nCHAP_C=0x\n",
		"CHAP_N=alice\nCHAP_R=0x00\nCHAP_I=1\nCHAP_C=hello\n"};
	struct peer *peer;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		peer = begin(NAMES, "7");
		assert_int_equal(peer_login_step(peer, 0x81, rows[i], &response), 0x0201);
		peer_expect_closed(peer);
		peer_free(peer);
	}
	peer = begin(NAMES, "7"); /* a key again */
	assert_int_equal(peer_login_step(peer, 0x00, "CHAP_A=5\n", &response), 0x0200);
	peer_free(peer);
}

/* Nobody gets past the security stage by leaving something out. */
static void
test_ways_around(void **state)
{
	static const struct {
		uint8_t flags;
		const char *lines;
	} rows[] = {
		{0x87, NAMES}, /* the operational stage first */
		{0x04, NAMES},
		{0x83, NAMES},
		{0x81, NAMES}, /* security without a word */
		{0x83, NAMES "AuthMethod=None\n"},
		{0x00, NAMES "AuthMethod=None\n"},
		{0x00, NAMES "AuthMethod=SRP,KRB5\n"},
		{0x00, NAMES "AuthMethod=CHAP\nCHAP_A=7\n"}, /* too early */
		{0x00, NAMES "CHAP_N=alice\nCHAP_R=0x00\n"},
	};
	struct peer *peer;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		peer = peer_new(0);
		if (peer_login_step(peer, rows[i].flags, rows[i].lines, &response) != 0x0201)
			fail_msg("%zu", i);
		peer_expect_closed(peer);
		peer_free(peer);
	}
	peer = peer_new(0); /* AuthMethod, then as if nothing were */
	assert_int_equal(peer_login_step(peer, 0x83, NAMES "AuthMethod=CHAP\n", &response), 0);
	assert_int_equal(response.bhs[BHS_FLAGS], 0);
	assert_int_equal(peer_login_step(peer, 0x87, "InitialR2T=No\n", &response), 0x0200);
	peer_free(peer);
	peer = peer_new(0);
	assert_int_equal(peer_login_step(peer, 0x00, NAMES "AuthMethod=CHAP\n", &response), 0);
	assert_int_equal(peer_login_step(peer, 0x83, "", &response), 0x0201);
	peer_free(peer);
	/* What was proved for one kind of session is not proved for the other. */
	world.catalogue.discovery_chap = users;
	world.catalogue.ndiscovery_chap = 1;
	peer = begin(NAMES, "7");
	assert_int_equal(prove(peer, "0xbob", "another secret", "0x", ""), 0);
	assert_int_equal(peer_login_step(peer, 0x87, "SessionType=Discovery\n", &response), 0x0200);
	peer_free(peer);
}

static void
test_the_other_target_is_open(void **state)
{
	struct peer *peer = peer_new(0);

	(void)state;
	assert_int_equal(
		peer_login_step(peer, 0x87,
			"InitiatorName=" PEER_NAME "\nTargetName=" WORLD_OTHER "\n", &response),
		0);
	peer_free(peer);
	peer = peer_new(0); /* who insists on CHAP where there is none is not let in */
	assert_int_equal(peer_login_step(peer, 0x00,
				 "InitiatorName=" PEER_NAME "\nTargetName=" WORLD_OTHER
				 "\nAuthMethod=CHAP\n",
				 &response),
		0x0201);
	peer_free(peer);
}

static void
test_mutual(void **state)
{
	static const char *const prefixes[] = {"0x", "0X", "0b", "0B"};
	uint8_t challenge[LIMIT_ISCSI_BINARY], expected[32], got[32];
	char text[2 * LIMIT_ISCSI_BINARY + 3], lines[2 * LIMIT_ISCSI_BINARY + 64];
	size_t lengths[] = {1, 16, 32, LIMIT_ISCSI_BINARY}, n;
	unsigned algorithm;
	struct peer *peer;

	(void)state;
	fill_pattern(challenge, sizeof(challenge), 9);
	for (size_t i = 0; i < 4; i++) {
		for (size_t j = 0; j < ARRAY_SIZE(lengths); j++) {
			peer = begin(NAMES, i % 2 ? "7" : "5");
			algorithm = i % 2 ? 7 : 5;
			encode(text, prefixes[i], challenge, lengths[j]);
			snprintf(lines, sizeof(lines), "CHAP_I=0xC8\nCHAP_C=%s\n", text);
			assert_int_equal(prove(peer, "alice", SECRET, "0x", lines), 0);
			assert_string_equal(find_value("CHAP_N"), "0xtarget");
			n = digest_of(algorithm, 200, MUTUAL, challenge, lengths[j], expected);
			assert_int_equal(strlen(find_value("CHAP_R")), 2 + 2 * n);
			parse_hex(find_value("CHAP_R") + 2, got, n);
			assert_memory_equal(got, expected, n);
			finish(peer);
		}
	}
}

static void
test_mutual_refused(void **state)
{
	char lines[2 * LIMIT_ISCSI_BINARY + 64], text[2 * LIMIT_ISCSI_BINARY + 8];
	uint8_t challenge[LIMIT_ISCSI_BINARY + 1] = {0};
	struct peer *peer;

	(void)state;
	peer = begin(NAMES, "7"); /* proves nothing to one who does not know a secret */
	assert_int_equal(
		prove(peer, "alice", "wrong secret", "0x", "CHAP_I=1\nCHAP_C=0x0102\n"), 0x0201);
	assert_int_equal(response.length, 0);
	peer_free(peer);
	peer = begin(NAMES, "7");
	assert_int_equal(prove(peer, "alice", SECRET, "0x", "CHAP_I=256\nCHAP_C=0x0102\n"), 0x0201);
	assert_int_equal(response.length, 0);
	peer_free(peer);
	peer = begin(NAMES, "7"); /* one byte too long */
	encode(text, "0b", challenge, sizeof(challenge));
	snprintf(lines, sizeof(lines), "CHAP_I=1\nCHAP_C=%s\n", text);
	assert_int_equal(prove(peer, "alice", SECRET, "0x", lines), 0x0201);
	peer_free(peer);
	world.targets[0].mutual = NULL;
	peer = begin(NAMES, "7");
	assert_int_equal(prove(peer, "alice", SECRET, "0x", "CHAP_I=1\nCHAP_C=0x0102\n"), 0x0201);
	assert_int_equal(response.length, 0);
	peer_free(peer);
}

/* RFC 7143 9.2.1: the connection closes, in each encoding, with a right response and a wrong one. */
static void
test_reflected_challenge(void **state)
{
	static const char *const prefixes[] = {"0x", "0X", "0b", "0B"};
	char lines[256], text[128];
	struct challenge c;
	struct peer *peer;

	(void)state;
	for (size_t i = 0; i < 8; i++) {
		peer = begin(NAMES, i < 4 ? "5" : "8");
		c = take_challenge();
		encode(text, prefixes[i % 4], c.bytes, c.length);
		snprintf(lines, sizeof(lines), "CHAP_I=%u\nCHAP_C=%s\n", c.id, text);
		assert_int_equal(
			prove(peer, "alice", i % 2 ? SECRET : "wrong secret", "0x", lines), -1);
		peer_expect_closed(peer);
		peer_free(peer);
	}
}

static void
test_challenges_differ(void **state)
{
	struct challenge a, b;

	(void)state;
	peer_free(begin(NAMES, "7"));
	a = take_challenge();
	peer_free(begin(NAMES, "7"));
	b = take_challenge();
	assert_int_equal(a.length, 32);
	assert_memory_not_equal(a.bytes, b.bytes, 32);
}

static void
test_discovery(void **state)
{
	static const struct credential scout = {"scout", "secret of scouts"};
	struct peer *peer;

	(void)state;
	peer_discover(peer = peer_new(0)); /* a target's CHAP is not discovery's */
	peer_free(peer);
	world.catalogue.discovery_chap = &scout;
	world.catalogue.ndiscovery_chap = 1;
	peer = peer_new(0);
	assert_int_equal(peer_login_step(peer, 0x87, DISCOVERY, &response), 0x0201);
	peer_free(peer);
	peer = begin(DISCOVERY, "7");
	assert_int_equal(prove(peer, "alice", SECRET, "0x", ""), 0x0201);
	peer_free(peer);
	peer = begin(DISCOVERY, "7"); /* and proves nothing itself */
	assert_int_equal(
		prove(peer, "scout", scout.secret, "0x", "CHAP_I=1\nCHAP_C=0x0102\n"), 0x0201);
	peer_free(peer);
	peer = begin(DISCOVERY, "7");
	assert_int_equal(prove(peer, "scout", scout.secret, "0x", ""), 0);
	assert_int_equal(peer_login_step(peer, 0x87, "", &response), 0);
	peer_free(peer);
}

/* --- rules for initiators */

static int
log_in(const char *name)
{
	struct peer *peer = peer_new(0);
	char lines[512];
	int status;

	snprintf(lines, sizeof(lines), "InitiatorName=%s\nTargetName=" WORLD_TARGET "\n", name);
	status = peer_login_step(peer, 0x87, lines, &response);
	peer_free(peer);
	return status;
}

static void
test_access_rules(void **state)
{
	struct lun luns[2] = {world.luns[0], world.luns[0]};
	struct initiator rules[] = {
		{.name = "iqn.2026-11.test:friend",
			.as = {.name = WORLD_TARGET, .luns = luns, .nluns = 1}},
		{.name = PEER_NAME,
			.as = {.name = WORLD_TARGET,
				.luns = luns,
				.nluns = 2,
				.chap = users + 1,
				.nchap = 1}},
	};
	struct peer *peer;
	struct pdu *pdu;
	uint8_t cdb[12] = {0xa0}; /* REPORT LUNS */

	(void)state;
	luns[0].number = 3;
	luns[1].number = 9;
	world.targets[0] = (struct target){.name = WORLD_TARGET,
		.luns = world.luns,
		.nluns = 1,
		.initiators = rules,
		.ninitiators = 2};
	assert_int_equal(log_in("iqn.2026-11.test:friend"), 0);
	assert_int_equal(log_in("IQN.2026-11.TEST:FRIEND"), 0);
	assert_int_equal(log_in("iqn.2026-11.test:stranger"), 0x0202);
	assert_int_equal(log_in("iqn.2026-11.test:frien"), 0x0202);
	assert_int_equal(log_in(PEER_NAME), 0x0201);
	peer = begin(NAMES, "7"); /* its own user, not another's */
	assert_int_equal(prove(peer, "alice", SECRET, "0x", ""), 0x0201);
	peer_free(peer);
	peer = begin(NAMES, "7");
	assert_int_equal(prove(peer, "0xbob", "another secret", "0x", ""), 0);
	assert_int_equal(peer_login_step(peer, 0x87, "", &response), 0);
	put_be32(cdb + 6, 64);
	peer_command(peer, ISCSI_COMMAND_READ, 64, cdb, sizeof(cdb));
	peer_send(peer, NULL, 0);
	pdu = peer_expect(peer, ISCSI_DATA_IN);
	assert_int_equal(get_be32(pdu->data), 16); /* LUNs 3 and 9, as the rule says */
	assert_int_equal(pdu->data[8 + 1], 3);
	assert_int_equal(pdu->data[16 + 1], 9);
	peer_free(peer);
	/* With CHAP of the target's own, whoever no rule names may prove himself by that. */
	world.targets[0].chap = users;
	world.targets[0].nchap = 1;
	assert_int_equal(log_in("iqn.2026-11.test:stranger"), 0x0201);
	peer = begin("InitiatorName=iqn.2026-11.test:stranger\nTargetName=" WORLD_TARGET "\n", "7");
	assert_int_equal(prove(peer, "alice", SECRET, "0x", ""), 0);
	peer_free(peer);
}

static int
test_unit(struct peer *peer, uint8_t lun)
{
	static const uint8_t cdb[6];

	peer_command(peer, 0, 0, cdb, sizeof(cdb))[BHS_LUN + 1] = lun;
	peer_send(peer, NULL, 0);
	return peer_status(peer);
}

/* A target's reset is one of the LUNs that its initiator has by its rule. */
static void
test_reset_by_rules(void **state)
{
	struct lun lun = {.number = 3, .volume = world.luns[0].volume};
	const struct initiator rule = {
		.name = PEER_NAME, .as = {.name = WORLD_TARGET, .luns = &lun, .nluns = 1}};
	struct peer *peers[2];

	(void)state;
	world.targets[0] = (struct target){.name = WORLD_TARGET,
		.luns = world.luns,
		.nluns = 1,
		.initiators = &rule,
		.ninitiators = 1};
	for (unsigned i = 0; i < 2; i++) {
		peers[i] = peer_new(0);
		peer_login(peers[i], NULL);
		for (unsigned tries = 0; tries < 4 && test_unit(peers[i], 3) != 0; tries++)
			;
		assert_int_equal(test_unit(peers[i], 3), 0);
	}
	put_be32(peer_start(peers[0], ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE) + BHS_RTT,
		ISCSI_TAG_NONE);
	peers[0]->bhs[BHS_FLAGS] = ISCSI_FINAL | ISCSI_TARGET_WARM_RESET;
	peer_send(peers[0], NULL, 0);
	peer_expect(peers[0], ISCSI_TASK_RESPONSE);
	assert_int_equal(test_unit(peers[1], 3), 2); /* CHECK CONDITION: it is told */
	assert_int_equal(test_unit(peers[1], 3), 0);
	peer_free(peers[0]);
	peer_free(peers[1]);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, start_guarded, world_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_responses),
		cmocka_unit_test(test_binary_values),
		CASE(test_every_algorithm_and_encoding),
		CASE(test_our_order),
		CASE(test_algorithm_refused),
		CASE(test_names_like_numbers),
		CASE(test_wrong_looks_alike),
		CASE(test_malformed_responses),
		CASE(test_ways_around),
		CASE(test_the_other_target_is_open),
		CASE(test_mutual),
		CASE(test_mutual_refused),
		CASE(test_reflected_challenge),
		CASE(test_challenges_differ),
		CASE(test_discovery),
		CASE(test_access_rules),
		CASE(test_reset_by_rules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
