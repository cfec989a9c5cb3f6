/* STARTTLS and what may be asked before and after it (proto.md "TLS support"). */
#include "config.h"

#include <openssl/err.h>

#include "catalogue.h"
#include "nbd_peer.h"
#include "tls_peer.h"

#define DAY (24 * 3600L)

static struct peer peer;
static struct tls_context *context;
static struct export exports[] = {
	{.name = "either", .tls = TLS_ALLOW, .is_default = true},
	{.name = "secret", .tls = TLS_REQUIRE},
	{.name = "clear", .tls = TLS_OFF},
};
static struct catalogue catalogue;

static void
keep_catalogue(struct catalogue *unused)
{
	(void)unused;
}

/* As the server is run: an export is as the server is, unless that allows TLS. */
static void
set_mode(enum tls_mode mode)
{
	catalogue_publish(NULL);
	catalogue = (struct catalogue){
		.references = 1,
		.exports = exports,
		.nexports = ARRAY_SIZE(exports),
		.tls = mode,
		.tls_context = mode == TLS_OFF ? NULL : context,
		.destroy = keep_catalogue,
	};
	for (size_t i = 0; i < ARRAY_SIZE(exports); i++)
		exports[i].volume = volume_script_volume(peer.script);
	exports[1].tls = mode == TLS_OFF ? TLS_OFF : TLS_REQUIRE;
	exports[2].tls = mode == TLS_REQUIRE ? TLS_REQUIRE : TLS_OFF;
	exports[0].tls = mode;
	catalogue_publish(&catalogue);
}

static int
setup(void **state)
{
	(void)state;
	tls_files_start();
	tls_make("server", NULL, KEY_P256, 0, DAY);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	tls_files_end();
	return 0;
}

static int
start(void **state)
{
	(void)state;
	context = tls_server("server.pem", "server.key", NULL, NULL);
	peer_start(&peer, NULL);
	return 0;
}

static int
stop(void **state)
{
	(void)state;
	peer_stop(&peer);
	tls_context_put(context);
	return 0;
}

static struct tls_client client;

static void
move_bytes(void)
{
	size_t moved;

	do {
		moved = tls_client_push(&client, peer.pipe, SIZE_MAX);
		peer_run();
		moved += tls_client_pull(&client, peer.pipe);
		if (!SSL_is_init_finished(client.ssl))
			SSL_do_handshake(client.ssl);
		ERR_clear_error();
	} while (moved > 0);
}

static void
begin_tls(void)
{
	tls_client_start(&client, 0, "server", NULL);
	SSL_do_handshake(client.ssl);
	move_bytes();
}

static void
start_tls(void)
{
	peer_option(&peer, NBD_OPT_STARTTLS, NULL, 0);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
	begin_tls();
	assert_true(SSL_is_init_finished(client.ssl));
}

static void
send_secret(const void *data, size_t length)
{
	assert_int_equal(SSL_write(client.ssl, data, (int)length), (int)length);
	move_bytes();
}

static void
send_option(uint32_t option, const void *data, size_t length)
{
	uint8_t bytes[256];
	struct writer writer = writer_of(bytes, sizeof(bytes));

	writer_be64(&writer, NBD_IHAVEOPT);
	writer_be32(&writer, option);
	writer_be32(&writer, (uint32_t)length);
	writer_bytes(&writer, data, length);
	assert_false(writer.bad);
	send_secret(bytes, writer.length);
}

/* INFO or GO without information requests. */
static void
send_info(uint32_t option, const char *name)
{
	uint8_t bytes[128];
	struct writer writer = writer_of(bytes, sizeof(bytes));

	writer_be32(&writer, (uint32_t)strlen(name));
	writer_bytes(&writer, name, strlen(name));
	writer_be16(&writer, 0);
	send_option(option, bytes, writer.length);
}

static size_t
take_secret(uint8_t *data, size_t size)
{
	size_t done = 0, n;

	while (done < size && SSL_read_ex(client.ssl, data + done, size - done, &n))
		done += n;
	ERR_clear_error();
	return done;
}

/* The type of the reply to the option; *data gets what came with it. */
static uint32_t
take_reply(uint32_t option, uint8_t *data, size_t *length)
{
	uint8_t header[NBD_REP_SIZE];

	assert_int_equal(take_secret(header, sizeof(header)), sizeof(header));
	assert_true(get_be64(header) == NBD_REP_MAGIC);
	assert_int_equal(get_be32(header + 8), option);
	*length = get_be32(header + 16);
	assert_true(*length <= 256);
	assert_int_equal(take_secret(data, *length), *length);
	return get_be32(header + 12);
}

static void
expect_secret(uint32_t option, uint32_t type)
{
	uint8_t data[256];
	size_t length;

	assert_int_equal(take_reply(option, data, &length), type);
}

static void
test_off(void **state)
{
	(void)state;
	set_mode(TLS_OFF);
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_STARTTLS, NULL, 0);
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY);
	peer_info(&peer, NBD_OPT_GO, "secret", NULL, 0);
	peer_expect_export(&peer, NBD_OPT_GO);
	peer_expect_reply(&peer, NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
}

/* "FORCEDTLS mode": STARTTLS and ABORT alone, whatever else it is and whatever data it has. */
static void
test_require(void **state)
{
	static const uint32_t options[] = {NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_GO,
		NBD_OPT_STRUCTURED_REPLY, NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT,
		NBD_OPT_EXTENDED_HEADERS, 4, 0, 0xffffffff};
	static uint8_t data[300];

	(void)state;
	set_mode(TLS_REQUIRE);
	peer_hello(&peer);
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		peer_option(&peer, options[i], data, i * 30);
		peer_flush(&peer);
		peer_expect_error(&peer, options[i], NBD_REP_ERR_TLS_REQD);
		peer_expect_nothing(&peer);
	}
	peer_option(&peer, NBD_OPT_STARTTLS, data, 1);
	peer_flush(&peer);
	peer_expect_error(&peer, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
	peer_option(&peer, NBD_OPT_ABORT, NULL, 0);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_ABORT, NBD_REP_ACK, NULL, 0);
	assert_false(peer_is_open(&peer));
}

/* "as this request cannot error, it MUST terminate the session", fixed newstyle or not. */
static void
test_require_export_name(void **state)
{
	static const uint32_t flags[] = {0, NBD_FLAG_C_FIXED_NEWSTYLE};

	(void)state;
	set_mode(TLS_REQUIRE);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		peer_connect(&peer);
		peer_expect_greeting(&peer);
		peer_be32(&peer, flags[i]);
		peer_option(&peer, NBD_OPT_EXPORT_NAME, "either", 6);
		peer_flush(&peer);
		peer_expect_nothing(&peer);
		assert_false(peer_is_open(&peer));
	}
}

/* "SELECTIVETLS mode" */
static void
test_allow_in_the_clear(void **state)
{
	static const uint8_t list[] = {0, 0, 0, 6, 'e', 'i', 't', 'h', 'e', 'r'};
	static const uint8_t list2[] = {0, 0, 0, 5, 'c', 'l', 'e', 'a', 'r'};

	(void)state;
	set_mode(TLS_ALLOW);
	peer_hello_structured(&peer);
	peer_option(&peer, NBD_OPT_LIST, NULL, 0);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_LIST, NBD_REP_SERVER, list, sizeof(list));
	peer_expect_reply(&peer, NBD_OPT_LIST, NBD_REP_SERVER, list2, sizeof(list2));
	peer_expect_reply(&peer, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
	peer_info(&peer, NBD_OPT_INFO, "secret", NULL, 0);
	peer_expect_error(&peer, NBD_OPT_INFO, NBD_REP_ERR_TLS_REQD);
	peer_info(&peer, NBD_OPT_GO, "secret", NULL, 0);
	peer_expect_error(&peer, NBD_OPT_GO, NBD_REP_ERR_TLS_REQD);
	/* No other option may say so. */
	peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, "secret", "base:allocation", NULL);
	peer_expect_error(&peer, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
	peer_info(&peer, NBD_OPT_GO, "clear", NULL, 0);
	peer_expect_export(&peer, NBD_OPT_GO);
	peer_expect_reply(&peer, NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_EXPORT_NAME, "secret", 6);
	peer_flush(&peer);
	peer_expect_nothing(&peer);
	assert_false(peer_is_open(&peer));
}

static void
test_allow_in_tls(void **state)
{
	(void)state;
	set_mode(TLS_ALLOW);
	peer_hello(&peer);
	start_tls();
	send_option(NBD_OPT_STARTTLS, NULL, 0);
	expect_secret(NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
	send_info(NBD_OPT_INFO, "clear");
	expect_secret(NBD_OPT_INFO, NBD_REP_ERR_POLICY);
	send_info(NBD_OPT_INFO, "nobody");
	expect_secret(NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN);
	send_info(NBD_OPT_INFO, "either");
	expect_secret(NBD_OPT_INFO, NBD_REP_INFO);
	expect_secret(NBD_OPT_INFO, NBD_REP_ACK);
	send_info(NBD_OPT_GO, "secret");
	expect_secret(NBD_OPT_GO, NBD_REP_INFO);
	expect_secret(NBD_OPT_GO, NBD_REP_ACK);
	tls_client_end(&client);
}

/* A whole session: a read, and DISC, after which TLS is closed in order. */
static void
test_session(void **state)
{
	static const uint8_t read[NBD_REQUEST_SIZE] = {0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0, 'c', 'o',
		'o', 'k', 'i', 'e', 's', '!', 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 2, 0};
	static const uint8_t disc[NBD_REQUEST_SIZE] = {0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2};
	uint8_t answer[NBD_SIMPLE_REPLY_SIZE + 512];

	(void)state;
	set_mode(TLS_REQUIRE);
	peer_hello(&peer);
	start_tls();
	send_info(NBD_OPT_GO, "");
	expect_secret(NBD_OPT_GO, NBD_REP_INFO);
	expect_secret(NBD_OPT_GO, NBD_REP_ACK);
	send_secret(read, sizeof(read));
	assert_int_equal(take_secret(answer, sizeof(answer)), sizeof(answer));
	assert_int_equal(get_be32(answer), NBD_SIMPLE_REPLY_MAGIC);
	assert_int_equal(get_be32(answer + 4), 0);
	assert_memory_equal(answer + 8, read + 8, 8);
	assert_memory_equal(answer + NBD_SIMPLE_REPLY_SIZE, peer_data(&peer) + 4096, 512);
	send_secret(disc, sizeof(disc));
	assert_int_equal(take_secret(answer, 1), 0);
	assert_int_equal(
		SSL_get_shutdown(client.ssl) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
	SSL_shutdown(client.ssl);
	move_bytes();
	assert_false(peer_is_open(&peer));
	tls_client_end(&client);
}

/* R07: nothing that was negotiated in the clear is still there. */
static void
test_state_is_wiped(void **state)
{
	static const uint8_t query[] = {0, 0, 0, 6, 'e', 'i', 't', 'h', 'e', 'r', 0, 0, 0, 1, 0, 0,
		0, 15, 'b', 'a', 's', 'e', ':', 'a', 'l', 'l', 'o', 'c', 'a', 't', 'i', 'o', 'n'};
	uint8_t data[256];
	size_t length;

	(void)state;
	set_mode(TLS_ALLOW);
	peer_hello_structured(&peer);
	peer_contexts(&peer, NBD_OPT_SET_META_CONTEXT, "either", "base:allocation", NULL);
	peer_skip(&peer);
	peer_option(&peer, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	peer_flush(&peer);
	peer_skip(&peer);
	start_tls();
	/* Metadata contexts want structured replies first; SEND_DF is one of theirs. */
	send_option(NBD_OPT_SET_META_CONTEXT, query, sizeof(query));
	expect_secret(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
	send_info(NBD_OPT_INFO, "either");
	assert_int_equal(take_reply(NBD_OPT_INFO, data, &length), NBD_REP_INFO);
	assert_int_equal(get_be16(data + 10) & NBD_FLAG_SEND_DF, 0);
	expect_secret(NBD_OPT_INFO, NBD_REP_ACK);
	tls_client_end(&client);
}

/*
 * CVE-2021-3716: a peer in the middle puts options behind the client's STARTTLS, in the same
 * packet. None is answered, in the clear or in TLS, and none has an effect.
 */
static void
test_injected_options(void **state)
{
	uint8_t data[256];
	size_t length;

	(void)state;
	set_mode(TLS_ALLOW);
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_STARTTLS, NULL, 0);
	peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	peer_option(&peer, NBD_OPT_LIST, NULL, 0);
	peer_be64(&peer, NBD_IHAVEOPT); /* and a part of one more */
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
	peer_expect_nothing(&peer);
	begin_tls();
	assert_true(SSL_is_init_finished(client.ssl));
	assert_int_equal(take_secret(data, sizeof(data)), 0);
	send_info(NBD_OPT_INFO, "either");
	assert_int_equal(take_reply(NBD_OPT_INFO, data, &length), NBD_REP_INFO);
	assert_int_equal(get_be16(data + 10) & NBD_FLAG_SEND_DF, 0);
	expect_secret(NBD_OPT_INFO, NBD_REP_ACK);
	tls_client_end(&client);
}

/* In a packet of their own they are TLS's, and no TLS at all. */
static void
test_plaintext_after(void **state)
{
	(void)state;
	set_mode(TLS_ALLOW);
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_STARTTLS, NULL, 0);
	peer_flush(&peer);
	peer_expect_reply(&peer, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
	peer_option(&peer, NBD_OPT_LIST, NULL, 0);
	peer_flush(&peer);
	assert_false(peer_is_open(&peer));
}

/* Answers that the client has not taken yet go out in the clear before it. */
static void
test_answers_before(void **state)
{
	(void)state;
	set_mode(TLS_ALLOW);
	peer_hello(&peer);
	pipe_set_room(peer.pipe, 5);
	peer_option(&peer, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	peer_option(&peer, NBD_OPT_STARTTLS, NULL, 0);
	peer_flush(&peer);
	pipe_set_room(peer.pipe, SIZE_MAX);
	peer_run();
	peer_expect_reply(&peer, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
	peer_expect_reply(&peer, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
	begin_tls();
	assert_true(SSL_is_init_finished(client.ssl));
	tls_client_end(&client);
}

/* So many answers before it that options wait for them: the wait ends with the last. */
static void
test_many_answers_before(void **state)
{
	static char description[16300];

	(void)state;
	memset(description, 'd', sizeof(description) - 1);
	exports[0].description = description;
	set_mode(TLS_ALLOW);
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_LIST, NULL, 0);
	peer_option(&peer, NBD_OPT_STARTTLS, NULL, 0);
	peer_flush(&peer);
	exports[0].description = NULL;
	pipe_take(peer.pipe, NULL, SIZE_MAX);
	begin_tls();
	assert_true(SSL_is_init_finished(client.ssl));
	send_option(NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	expect_secret(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
	tls_client_end(&client);
}

/* R05: the handshake of TLS is part of the negotiation. */
static void
test_deadline(void **state)
{
	(void)state;
	set_mode(TLS_REQUIRE);
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_STARTTLS, NULL, 0);
	peer_flush(&peer);
	peer_advance(&peer, 8 * SECOND_NS);
	assert_true(peer_is_open(&peer));
	peer_advance(&peer, 4 * SECOND_NS);
	assert_false(peer_is_open(&peer));
	peer_hello(&peer);
	start_tls();
	peer_advance(&peer, 12 * SECOND_NS);
	assert_false(peer_is_open(&peer));
	tls_client_end(&client);
}

static void
test_drain(void **state)
{
	(void)state;
	set_mode(TLS_REQUIRE);
	peer_hello(&peer);
	peer_option(&peer, NBD_OPT_STARTTLS, NULL, 0);
	peer_flush(&peer);
	peer_drain(&peer);
	peer_advance(&peer, 4 * SECOND_NS);
	assert_false(peer_is_open(&peer));
}

#define WITH_PEER(test) cmocka_unit_test_setup_teardown(test, start, stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_PEER(test_off),
		WITH_PEER(test_require),
		WITH_PEER(test_require_export_name),
		WITH_PEER(test_allow_in_the_clear),
		WITH_PEER(test_allow_in_tls),
		WITH_PEER(test_session),
		WITH_PEER(test_state_is_wiped),
		WITH_PEER(test_injected_options),
		WITH_PEER(test_plaintext_after),
		WITH_PEER(test_answers_before),
		WITH_PEER(test_many_answers_before),
		WITH_PEER(test_deadline),
		WITH_PEER(test_drain),
	};

	return cmocka_run_group_tests_name("nbd_tls", tests, setup, teardown);
}
