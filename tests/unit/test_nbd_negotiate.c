/* The NBD handshake, byte by byte: each option as it should be, and as it should not. */
#include "config.h"

#include "nbd_peer.h"

#include "catalogue.h"
#include "limits.h"
#include "patience.h"

static struct peer peer;

static int
setup(void **state)
{
	(void)state;
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
test_greeting(void **state)
{
	static const uint8_t greeting[] = "NBDMAGICIHAVEOPT\0\3";

	(void)state;
	peer_connect(&peer);
	peer_expect(&peer, greeting, NBD_GREETING_SIZE);
	peer_expect_nothing(&peer);
	assert_true(peer_is_open(&peer));
}

static void
test_unknown_client_flags(void **state)
{
	(void)state;
	for (unsigned bit = 2; bit < 32; bit++) {
		peer_connect(&peer);
		peer_expect_greeting(&peer);
		peer_be32(&peer, 1u << bit | NBD_FLAG_C_FIXED_NEWSTYLE);
		peer_flush(&peer);
		assert_false(peer_is_open(&peer));
	}
}

static void
test_nonfixed(void **state)
{
	uint8_t answer[NBD_EXPORT_SIZE + NBD_EXPORT_PAD];

	(void)state;
	peer_connect(&peer);
	peer_expect_greeting(&peer);
	peer_be32(&peer, 0);
	peer_option(&peer, NBD_OPT_EXPORT_NAME, "disk0", 5);
	peer_flush(&peer);
	peer_take(&peer, answer, sizeof(answer));
	assert_int_equal(get_be64(answer), PEER_SIZE);
	for (size_t i = NBD_EXPORT_SIZE; i < sizeof(answer); i++)
		assert_int_equal(answer[i], 0);
	peer_expect_nothing(&peer);
	assert_true(peer_is_open(&peer));

	peer_connect(&peer);
	peer_expect_greeting(&peer);
	peer_be32(&peer, 0);
	peer_option(&peer, NBD_OPT_LIST, NULL, 0);
	peer_flush(&peer);
	assert_false(peer_is_open(&peer));
}

static void
test_export_name(void **state)
{
	static const char *const names[] = {"disk0", ""};
	uint8_t answer[NBD_EXPORT_SIZE];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		peer_hello(&peer);
		peer_option(&peer, NBD_OPT_EXPORT_NAME, names[i], strlen(names[i]));
		peer_flush(&peer);
		peer_take(&peer, answer, sizeof(answer));
		assert_int_equal(get_be64(answer), PEER_SIZE);
		assert_true(get_be16(answer + 8) & NBD_FLAG_HAS_FLAGS);
		assert_false(get_be16(answer + 8) & NBD_FLAG_SEND_DF);
		peer_expect_nothing(&peer);
		peer_request(&peer, 0, NBD_CMD_FLUSH, 7, 0, 0);
		peer_flush(&peer);
		peer_expect_simple(&peer, 0, 7);
	}
}

static void
test_export_name_unknown(void **state)
{
	static char name[LIMIT_NBD_STRING + 1];

	(void)state;
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_EXPORT_NAME, "disk1", 5);
	peer_flush(&peer);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));

	memset(name, 'a', sizeof(name));
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_EXPORT_NAME, name, sizeof(name));
	peer_flush(&peer);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));
}

static void
test_abort_option(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_ABORT, NULL, 0);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_ABORT, NBD_REP_ACK, NULL, 0);
	assert_false(peer_is_open(&peer));

	/* "a server SHOULD ignore any data sent by the client" */
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_ABORT, "farewell", 8);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_ABORT, NBD_REP_ACK, NULL, 0);
	assert_false(peer_is_open(&peer));
}

static void
expect_server(const char *name, const char *description)
{
	uint8_t data[256];
	struct writer writer = writer_of(data, sizeof(data));

	writer_be32(&writer, (uint32_t)strlen(name));
	writer_bytes(&writer, name, strlen(name));
	writer_bytes(&writer, description, strlen(description));
	peer_expect_reply(&peer, NBD_OPT_LIST, NBD_REP_SERVER, data, writer.length);
}

static void
test_list(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_LIST, NULL, 0);
	peer_flush(&peer);
	expect_server("disk0", "");
	expect_server("ro", PEER_DESCRIPTION);
	peer_expect_reply(&peer, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
	peer_expect_nothing(&peer);
}

static void
test_list_with_data(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_LIST, "x", 1);
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
	peer_expect_nothing(&peer);
	/* Still in step. */
	peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
}

static void
test_structured(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, "x", 1);
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
	peer_info(&peer, NBD_OPT_INFO, "disk0", NULL, 0);
	assert_false(peer_expect_export(&peer, NBD_OPT_INFO) & NBD_FLAG_SEND_DF);
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);

	for (int i = 0; i < 2; i++) {
		peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		peer_flush(&peer);
		peer_expect_reply(&peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
	}
	peer_info(&peer, NBD_OPT_INFO, "disk0", NULL, 0);
	assert_true(peer_expect_export(&peer, NBD_OPT_INFO) & NBD_FLAG_SEND_DF);
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);
}

static void
test_unknown_option(void **state)
{
	static const uint32_t unknown[] = {0, 4, 12, 13, 0x7fffffff, 0xffffffff};
	static uint8_t data[300];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
		peer_hello(&peer);
		peer_option(&peer, unknown[i], data, i * 40);
		peer_flush(&peer);
		peer_expect_error(&peer, unknown[i], NBD_REP_ERR_UNSUP);
		peer_expect_nothing(&peer);
		peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		peer_flush(&peer);
		peer_expect_reply(&peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
	}
}

static void
test_option_too_long(void **state)
{
	static uint8_t data[LIMIT_NBD_OPTION + 1];

	(void)state;
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_INFO, data, sizeof(data));
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_INFO, NBD_REP_ERR_TOO_BIG);
	peer_expect_nothing(&peer);
	peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
}

static void
test_bad_option_magic(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_be64(&peer, NBD_IHAVEOPT ^ 1);
	peer_be32(&peer, NBD_OPT_LIST);
	peer_be32(&peer, 0);
	peer_flush(&peer);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));
}

static void
test_too_many_options(void **state)
{
	(void)state;
	peer_hello(&peer);
	for (unsigned i = 0; i < LIMIT_NBD_OPTIONS; i++) {
		peer_option(&peer, 77, NULL, 0);
		peer_flush(&peer);
		peer_expect_error(&peer, 77, NBD_REP_ERR_UNSUP);
	}
	assert_true(peer_is_open(&peer));
	peer_option(&peer, 77, NULL, 0);
	peer_flush(&peer);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));
}

static void
test_info(void **state)
{
	static const uint16_t all[] = {
		NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, 99, NBD_INFO_EXPORT};
	uint8_t data[NBD_INFO_BLOCK_SIZE_SIZE];

	(void)state;
	peer_hello(&peer);
	/* By the default name: the canonical one comes back; no description. */
	peer_info(&peer, NBD_OPT_INFO, "", all, ARRAY_SIZE(all));
	assert_false(peer_expect_export(&peer, NBD_OPT_INFO) & NBD_FLAG_READ_ONLY);
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_INFO, "\0\1disk0", 7);
	put_be16(data, NBD_INFO_BLOCK_SIZE);
	put_be32(data + 2, 1);
	put_be32(data + 6, 4096);
	put_be32(data + 10, LIMIT_NBD_PAYLOAD);
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_INFO, data, sizeof(data));
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);
	peer_expect_nothing(&peer);

	peer_info(&peer, NBD_OPT_INFO, "hidden", NULL, 0);
	peer_expect_export(&peer, NBD_OPT_INFO);
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);

	/* INFO does not end the negotiation. */
	peer_info(&peer, NBD_OPT_INFO, "disk1", NULL, 0);
	peer_expect_error(&peer, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN);
	assert_true(peer_is_open(&peer));
}

static void
test_info_block_size(void **state)
{
	static const uint16_t description[] = {NBD_INFO_DESCRIPTION};
	uint8_t data[NBD_INFO_BLOCK_SIZE_SIZE];

	(void)state;
	peer_hello(&peer);
	peer_info(&peer, NBD_OPT_INFO, "ro", description, 1);
	assert_true(peer_expect_export(&peer, NBD_OPT_INFO) & NBD_FLAG_READ_ONLY);
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_INFO, "\0\2" PEER_DESCRIPTION,
		1 + sizeof("\1" PEER_DESCRIPTION) - 1);
	/* Unasked, since it is not the default. */
	put_be16(data, NBD_INFO_BLOCK_SIZE);
	put_be32(data + 2, PEER_MIN_BLOCK);
	put_be32(data + 6, PEER_MIN_BLOCK);
	put_be32(data + 10, LIMIT_NBD_PAYLOAD);
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_INFO, data, sizeof(data));
	peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);
	peer_expect_nothing(&peer);
}

static void
test_info_malformed(void **state)
{
	static const struct {
		const char *data;
		size_t length;
	} bad[] = {
		{"", 0},
		{"\0\0\0", 3},
		{"\0\0\0\0", 4},
		{"\0\0\0\0\0", 5},
		{"\0\0\0\5disk", 8},
		{"\0\0\0\5disk0", 9},
		{"\0\0\0\5disk0\0", 10},
		{"\0\0\0\5disk0\0\1", 11},
		{"\0\0\0\5disk0\0\1\0", 12},
		{"\0\0\0\5disk0\0\1\0\0\0", 14},
		{"\0\0\0\5disk0\0\0x", 12},
		{"\377\377\377\377disk0\0\0", 11},
		{"\377\377\377\373disk0\0\0", 11},
		{"\0\0\0\5disk0\377\377", 11},
	};
	static const uint32_t which[] = {NBD_OPT_INFO, NBD_OPT_GO};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad) * 2; i++) {
		peer_hello(&peer);
		peer_option(&peer, which[i % 2], bad[i / 2].data, bad[i / 2].length);
		peer_flush(&peer);
		peer_expect_error(&peer, which[i % 2], NBD_REP_ERR_INVALID);
		peer_expect_nothing(&peer);
		peer_info(&peer, NBD_OPT_INFO, "disk0", NULL, 0);
		peer_expect_export(&peer, NBD_OPT_INFO);
		peer_expect_reply(&peer, NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);
	}
}

static void
test_go(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_info(&peer, NBD_OPT_GO, "disk1", NULL, 0);
	peer_expect_error(&peer, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	peer_info(&peer, NBD_OPT_GO, "disk0", NULL, 0);
	assert_int_equal(peer_expect_export(&peer, NBD_OPT_GO) & NBD_FLAG_READ_ONLY, 0);
	peer_expect_reply(&peer, NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
	peer_expect_nothing(&peer);
	peer_request(&peer, 0, NBD_CMD_FLUSH, 1, 0, 0);
	peer_flush(&peer);
	peer_expect_simple(&peer, 0, 1);
}

static void
expect_context(uint32_t option, uint32_t id)
{
	uint8_t data[4 + sizeof("base:allocation") - 1];

	put_be32(data, id);
	memcpy(data + 4, "base:allocation", sizeof(data) - 4);
	peer_expect_reply(&peer, option, NBD_REP_META_CONTEXT, data, sizeof(data));
}

static void
test_contexts_need_structured(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_contexts(&peer, NBD_OPT_LIST_META_CONTEXT, "disk0", NULL);
	peer_expect_error(&peer, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_INVALID);
	peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, "disk0", "base:allocation", NULL);
	peer_expect_error(&peer, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
}

static void
test_list_meta_context(void **state)
{
	const uint32_t option = NBD_OPT_LIST_META_CONTEXT;

	(void)state;
	peer_hello_structured(&peer);
	peer_contexts(&peer, option, "disk0", NULL);
	expect_context(option, 0);
	peer_expect_reply(&peer, option, NBD_REP_ACK, NULL, 0);
	peer_contexts(&peer, option, "", "base:", NULL);
	expect_context(option, 0);
	peer_expect_reply(&peer, option, NBD_REP_ACK, NULL, 0);
	peer_contexts(
		&peer, option, "disk0", "x-other:leaf", "base:allocation", "base:allocation", NULL);
	expect_context(option, 0);
	peer_expect_reply(&peer, option, NBD_REP_ACK, NULL, 0);
	peer_contexts(&peer, option, "disk0", "base:alloc", "qemu:", "qemu:dirty-bitmap:x", NULL);
	peer_expect_reply(&peer, option, NBD_REP_ACK, NULL, 0);
	peer_contexts(&peer, option, "disk1", NULL);
	peer_expect_error(&peer, option, NBD_REP_ERR_UNKNOWN);
	peer_contexts(&peer, option, "disk0", "allocation", NULL);
	peer_expect_error(&peer, option, NBD_REP_ERR_INVALID);
	peer_expect_nothing(&peer);
}

static void
test_set_meta_context(void **state)
{
	const uint32_t option = NBD_OPT_SET_META_CONTEXT;

	(void)state;
	peer_hello_structured(&peer);
	peer_contexts(&peer, option, "disk0", "base:", NULL);
	peer_expect_reply(&peer, option, NBD_REP_ACK, NULL, 0);
	peer_contexts(&peer, option, "disk0", NULL);
	peer_expect_reply(&peer, option, NBD_REP_ACK, NULL, 0);
	peer_contexts(&peer, option, "disk0", "base:other", "x-y:z", NULL);
	peer_expect_reply(&peer, option, NBD_REP_ACK, NULL, 0);
	peer_contexts(&peer, option, "disk0", "base:allocation", NULL);
	expect_context(option, NBD_BASE_ALLOCATION_ID);
	peer_expect_reply(&peer, option, NBD_REP_ACK, NULL, 0);
	peer_expect_nothing(&peer);
}

static void
test_meta_context_malformed(void **state)
{
	static const struct {
		const char *data;
		size_t length;
	} bad[] = {
		{"", 0},
		{"\0\0\0\5disk0", 9},
		{"\0\0\0\5disk0\0\0\0", 12},
		{"\0\0\0\5disk0\0\0\0\1", 13},
		{"\0\0\0\5disk0\0\0\0\1\0\0\0\5base", 21},
		{"\0\0\0\5disk0\0\0\0\1\377\377\377\377base:", 22},
		{"\0\0\0\5disk0\0\0\0\0x", 14},
		{"\0\0\0\5disk0\0\0\0\1\0\0\0\5base:x", 23},
		{"\0\0\0\5disk0\0\0\0\1\0\0\0\0", 17},
		{"\0\0\0\5disk0\0\0\0\1\0\0\0\2:x", 19},
		{"\0\0\0\5disk0\0\0\0\1\0\0\0\6ba\0:xy", 23},
		{"\377\377\377\377disk0\0\0\0\0", 13},
	};
	static const uint32_t which[] = {NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad) * 2; i++) {
		peer_hello_structured(&peer);
		peer_option(&peer, which[i % 2], bad[i / 2].data, bad[i / 2].length);
		peer_flush(&peer);
		peer_expect_error(&peer, which[i % 2], NBD_REP_ERR_INVALID);
		peer_expect_nothing(&peer);
		peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		peer_flush(&peer);
		peer_expect_reply(&peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
	}
}

static void
test_too_many_queries(void **state)
{
	uint8_t data[13 + (LIMIT_NBD_QUERIES + 1) * 9];
	struct writer writer;

	(void)state;
	for (uint32_t count = LIMIT_NBD_QUERIES; count <= LIMIT_NBD_QUERIES + 1; count++) {
		peer_hello_structured(&peer);
		writer = writer_of(data, sizeof(data));
		writer_be32(&writer, 5);
		writer_bytes(&writer, "disk0", 5);
		writer_be32(&writer, count);
		for (uint32_t i = 0; i < count; i++) {
			writer_be32(&writer, 5);
			writer_bytes(&writer, "base:", 5);
		}
		peer_option(&peer, NBD_OPT_SET_META_CONTEXT, data, writer.length);
		peer_flush(&peer);
		if (count > LIMIT_NBD_QUERIES)
			peer_expect_error(&peer, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_TOO_BIG);
		else
			peer_expect_reply(&peer, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL, 0);
		peer_expect_nothing(&peer);
	}
}

/* Whether BLOCK_STATUS is accepted after GO. */
static bool
status_after_go(const char *name)
{
	uint8_t header[NBD_CHUNK_SIZE];
	uint8_t payload[256];

	peer_info(&peer, NBD_OPT_GO, name, NULL, 0);
	peer_skip(&peer);
	peer_request(&peer, NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 3, 0, 4096);
	peer_flush(&peer);
	peer_take(&peer, header, sizeof(header));
	peer_take(&peer, payload, get_be32(header + 16));
	if (get_be16(header + 6) == NBD_REPLY_TYPE_BLOCK_STATUS)
		return true;
	assert_int_equal(get_be16(header + 6), NBD_REPLY_TYPE_ERROR);
	assert_int_equal(get_be32(payload), NBD_EINVAL);
	return false;
}

static void
select_context(void)
{
	peer_hello_structured(&peer);
	peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, "disk0", "base:allocation", NULL);
	peer_skip(&peer);
}

static void
test_selection_lasts(void **state)
{
	(void)state;
	select_context();
	assert_true(status_after_go("disk0"));

	/* INFO, LIST or GO of a name that does not exist change nothing. */
	select_context();
	peer_info(&peer, NBD_OPT_INFO, "disk1", NULL, 0);
	peer_info(&peer, NBD_OPT_INFO, "hidden", NULL, 0);
	peer_info(&peer, NBD_OPT_GO, "disk1", NULL, 0);
	peer_option(&peer, NBD_OPT_LIST, NULL, 0);
	peer_contexts(&peer, NBD_OPT_LIST_META_CONTEXT, "hidden", "base:", NULL);
	peer_skip(&peer);
	assert_true(status_after_go("disk0"));

	/* Another export was chosen. */
	select_context();
	assert_false(status_after_go("hidden"));
}

static void
test_set_replaces_also_when_it_fails(void **state)
{
	static uint8_t long_data[LIMIT_NBD_OPTION + 1];

	(void)state;
	select_context();
	peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, "disk0", NULL);
	peer_skip(&peer);
	assert_false(status_after_go("disk0"));

	select_context();
	peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, "disk1", "base:allocation", NULL);
	peer_expect_error(&peer, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
	assert_false(status_after_go("disk0"));

	select_context();
	peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, "disk0", "nonsense", NULL);
	peer_expect_error(&peer, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
	assert_false(status_after_go("disk0"));

	select_context();
	peer_option(&peer, NBD_OPT_SET_META_CONTEXT, long_data, sizeof(long_data));
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_TOO_BIG);
	assert_false(status_after_go("disk0"));
}

/* A whole session cut into single bytes gives the same answers as in one piece. */
static void
test_one_byte_at_a_time(void **state)
{
	uint8_t whole[1024];
	size_t length = 0;

	(void)state;
	for (int cut = 0; cut < 2; cut++) {
		peer_connect(&peer);
		peer.one_by_one = cut;
		peer_be32(&peer, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
		peer_option(&peer, 99, "some data", 9);
		peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		peer_option(&peer, NBD_OPT_LIST, "x", 1);
		peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, "disk0", "base:allocation", NULL);
		peer_info(&peer, NBD_OPT_INFO, "ro", NULL, 0);
		peer_info(&peer, NBD_OPT_GO, "disk0", NULL, 0);
		peer_request(&peer, 0, NBD_CMD_FLUSH, 0x0102030405060708, 0, 0);
		peer_flush(&peer);
		if (!cut) {
			length = peer_take_all(&peer, whole, sizeof(whole));
			assert_true(length > 200);
		} else {
			peer_expect(&peer, whole, length);
			peer_expect_nothing(&peer);
		}
		peer.one_by_one = false;
	}
}

/* Answers of one wake-up leave in one write. */
static void
test_answers_are_coalesced(void **state)
{
	unsigned before;

	(void)state;
	peer_hello(&peer);
	before = peer_writes(&peer);
	peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	peer_option(&peer, NBD_OPT_LIST, NULL, 0);
	peer_add_info(&peer, NBD_OPT_GO, "disk0", NULL, 0);
	peer_flush(&peer);
	assert_int_equal(peer_writes(&peer), before + 1);
}

static void
test_deadline(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_advance(&peer, LIMIT_NBD_HANDSHAKE - SECOND_NS);
	assert_true(peer_is_open(&peer));
	/* Being busy does not help. */
	peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	peer_flush(&peer);
	peer_advance(&peer, 3 * SECOND_NS);
	assert_false(peer_is_open(&peer));

	peer_hello(&peer);
	peer_info(&peer, NBD_OPT_GO, "disk0", NULL, 0);
	peer_advance(&peer, 100 * LIMIT_NBD_HANDSHAKE);
	assert_true(peer_is_open(&peer));
}

/* `limits` of the configuration. */
static void
test_deadlines_are_configurable(void **state)
{
	const struct patience usual = patience;

	(void)state;
	patience.handshake = 100 * SECOND_NS;
	patience.partial = 200 * SECOND_NS;
	peer_hello(&peer);
	peer_advance(&peer, 99 * SECOND_NS);
	assert_true(peer_is_open(&peer));
	peer_advance(&peer, 3 * SECOND_NS);
	assert_false(peer_is_open(&peer));
	peer_go(&peer, "disk0", false);
	peer_be32(&peer, NBD_REQUEST_MAGIC);
	peer_flush(&peer);
	peer_advance(&peer, 199 * SECOND_NS);
	assert_true(peer_is_open(&peer));
	peer_advance(&peer, 3 * SECOND_NS);
	assert_false(peer_is_open(&peer));
	patience = usual;
}

static void
test_drain_during_option(void **state)
{
	(void)state;
	/* Between options nothing is owed. */
	peer_hello(&peer);
	peer_drain(&peer);
	assert_false(peer_is_open(&peer));
	peer_connect(&peer);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));
}

static void
test_drain_answers_the_option(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_be64(&peer, NBD_IHAVEOPT);
	peer_be32(&peer, NBD_OPT_LIST);
	peer_flush(&peer);
	peer_drain(&peer);
	assert_true(peer_is_open(&peer));
	peer_be32(&peer, 0);
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_LIST, NBD_REP_ERR_SHUTDOWN);
	assert_false(peer_is_open(&peer));
}

/* EXPORT_NAME has no error reply. */
static void
test_drain_during_export_name(void **state)
{
	(void)state;
	peer_hello(&peer);
	peer_be64(&peer, NBD_IHAVEOPT);
	peer_be32(&peer, NBD_OPT_EXPORT_NAME);
	peer_flush(&peer);
	peer_drain(&peer);
	peer_be32(&peer, 0);
	peer_flush(&peer);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));
}

/* Hanging up at any byte leaves nothing behind. */
static void
test_hang_up_at_every_byte(void **state)
{
	size_t length = SIZE_MAX;

	(void)state;
	for (size_t at = 0; at <= length; at++) {
		peer_connect(&peer);
		peer_be32(&peer, NBD_FLAG_C_FIXED_NEWSTYLE);
		peer_option(&peer, 99, "some data", 9);
		peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		peer_add_info(&peer, NBD_OPT_INFO, "disk0", NULL, 0);
		length = peer.out.length;
		peer.out.length = at;
		peer_flush(&peer);
		peer_hang_up(&peer);
		assert_int_equal(peer_connections(&peer), 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_greeting, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown_client_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nonfixed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_export_name, setup, teardown),
		cmocka_unit_test_setup_teardown(test_export_name_unknown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_abort_option, setup, teardown),
		cmocka_unit_test_setup_teardown(test_list, setup, teardown),
		cmocka_unit_test_setup_teardown(test_list_with_data, setup, teardown),
		cmocka_unit_test_setup_teardown(test_structured, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown_option, setup, teardown),
		cmocka_unit_test_setup_teardown(test_option_too_long, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_option_magic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_options, setup, teardown),
		cmocka_unit_test_setup_teardown(test_info, setup, teardown),
		cmocka_unit_test_setup_teardown(test_info_block_size, setup, teardown),
		cmocka_unit_test_setup_teardown(test_info_malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_go, setup, teardown),
		cmocka_unit_test_setup_teardown(test_contexts_need_structured, setup, teardown),
		cmocka_unit_test_setup_teardown(test_list_meta_context, setup, teardown),
		cmocka_unit_test_setup_teardown(test_set_meta_context, setup, teardown),
		cmocka_unit_test_setup_teardown(test_meta_context_malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_queries, setup, teardown),
		cmocka_unit_test_setup_teardown(test_selection_lasts, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_set_replaces_also_when_it_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_byte_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_answers_are_coalesced, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deadlines_are_configurable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drain_during_option, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drain_answers_the_option, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drain_during_export_name, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hang_up_at_every_byte, setup, teardown),
	};

	return cmocka_run_group_tests_name("nbd_negotiate", tests, NULL, NULL);
}
