/* The stream over a pipe, an OpenSSL client at its other end, all on virtual time. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "limits.h"
#include "loop.h"
#include "loop_virtual.h"
#include "stream.h"
#include "stream_pipe.h"
#include "tls.h"
#include "tls_peer.h"

#define DAY       (24 * 3600L)
#define BULK      (1024 * 1024)
#define GOOD_KEY  "alice:07070707070707070707070707070707\n"
#define EVER_MOST SIZE_MAX

/* A stream's owner: takes what it can get, sends what it is told. */
struct owner {
	struct stream *stream;
	struct stream_pipe *pipe;
	struct tls_client client;
	size_t read_size; /* of one read; 0: does not read */
	size_t detach_at; /* leaves the loop when it has so many bytes; 0: never */
	uint8_t *got;
	size_t got_length;
	ssize_t end; /* what ended it: 0 or -errno; 1: nothing yet */
	struct send_queue queue;
	bool blocked;
	unsigned calls;
};

static int
setup(void **state)
{
	(void)state;
	tls_files_start();
	tls_make("ca", NULL, KEY_P256, 0, DAY);
	tls_make("server", "ca", KEY_P256, 0, DAY);
	tls_make("rsa", "ca", KEY_RSA_2048, 0, DAY);
	tls_make("client.example", "ca", KEY_P256, 0, DAY);
	tls_make("late", "ca", KEY_P256, -2 * DAY, -DAY);
	tls_make("strangers", NULL, KEY_P256, 0, DAY);
	tls_make("stranger", "strangers", KEY_P256, 0, DAY);
	tls_write("keys.psk", 0600, GOOD_KEY);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	tls_files_end();
	return 0;
}

static void
read_some(struct owner *owner)
{
	/* In pieces, as a payload is read. */
	struct iovec iov[2] = {
		{owner->got + owner->got_length, owner->read_size / 2},
		{owner->got + owner->got_length + owner->read_size / 2,
			owner->read_size - owner->read_size / 2},
	};
	ssize_t n = stream_read(owner->stream, iov, 2);

	if (n > 0) {
		owner->got_length += (size_t)n;
		assert_true(owner->got_length <= 2 * BULK);
		if (owner->got_length == owner->detach_at)
			stream_detach(owner->stream);
	} else if (n != -EAGAIN) {
		owner->end = n;
		stream_watch(owner->stream, 0);
	}
}

static void
flush_queue(struct owner *owner)
{
	int rc = send_queue_flush(&owner->queue);

	owner->blocked = rc == -EAGAIN;
	if (rc && rc != -EAGAIN) {
		owner->end = rc;
		send_queue_drop(&owner->queue, rc);
		stream_watch(owner->stream, 0);
		return;
	}
	stream_watch(owner->stream, (owner->read_size && owner->end == 1 ? STREAM_READABLE : 0) |
					    (owner->blocked ? STREAM_WRITABLE : 0));
}

static void
on_ready(struct stream *stream, unsigned events)
{
	struct owner *owner = stream->owner;

	owner->calls++;
	assert_true(events);
	if (events & STREAM_WRITABLE && owner->blocked)
		flush_queue(owner);
	if (events & STREAM_READABLE && owner->read_size)
		read_some(owner);
}

static void
begin(struct owner *owner, struct tls_context *context)
{
	*owner = (struct owner){.end = 1, .read_size = 256 * 1024, .got = malloc(3 * BULK)};
	assert_non_null(owner->got);
	owner->pipe = pipe_new();
	pipe_set_peer(owner->pipe, "10.0.0.7:41332", "10.0.0.1:10809");
	owner->stream = stream_tls_new(pipe_stream(owner->pipe), context);
	assert_non_null(owner->stream);
	tls_context_put(context);
	assert_string_equal(stream_identity(owner->stream), "");
	assert_null(stream_security(owner->stream));
	assert_int_equal(stream_attach(owner->stream, loop_current(), on_ready, owner), 0);
	send_queue_init(&owner->queue, owner->stream);
}

static void
end(struct owner *owner)
{
	send_queue_drop(&owner->queue, -ECONNABORTED);
	if (owner->stream)
		stream_close(owner->stream);
	virtual_run_until_idle();
	assert_true(pipe_closed(owner->pipe));
	tls_client_end(&owner->client);
	pipe_free(owner->pipe);
	free(owner->got);
}

/* Until neither side has anything more to say. `most`: bytes on the way at a time. */
static void
exchange(struct owner *owner, size_t most)
{
	for (unsigned i = 0; i < 1000000; i++) {
		size_t moved = tls_client_push(&owner->client, owner->pipe, most);

		virtual_run_until_idle();
		moved += tls_client_pull(&owner->client, owner->pipe);
		if (!SSL_is_init_finished(owner->client.ssl))
			SSL_do_handshake(owner->client.ssl);
		ERR_clear_error();
		virtual_run_until_idle();
		moved += tls_client_pull(&owner->client, owner->pipe);
		if (moved == 0)
			return;
	}
	fail_msg("they never come to rest");
}

static void
shake_hands(struct owner *owner, size_t most)
{
	SSL_do_handshake(owner->client.ssl);
	ERR_clear_error();
	exchange(owner, most);
}

static bool
is_up(const struct owner *owner)
{
	return SSL_is_init_finished(owner->client.ssl) && stream_security(owner->stream) &&
	       owner->end == 1;
}

static void
begin_plain(struct owner *owner, int version)
{
	begin(owner, tls_server("server.pem", "server.key", NULL, NULL));
	tls_client_start(&owner->client, version, "ca", NULL);
	shake_hands(owner, EVER_MOST);
	assert_true(is_up(owner));
}

/* What the client decrypts, appended. */
static size_t
client_read(struct owner *owner, uint8_t *data, size_t size)
{
	size_t done = 0, n;

	while (done < size && SSL_read_ex(owner->client.ssl, data + done, size - done, &n))
		done += n;
	ERR_clear_error();
	return done;
}

struct message {
	struct send_item item;
	struct iovec iov;
	bool sent;
};

static void
message_sent(struct send_item *item, int rc)
{
	(void)rc;
	container_of(item, struct message, item)->sent = true;
}

static void
push(struct owner *owner, struct message *message, const void *data, size_t length)
{
	message->iov = (struct iovec){(void *)(uintptr_t)data, length};
	message->item = (struct send_item){.iov = &message->iov, .niov = 1, .sent = message_sent};
	message->sent = false;
	send_queue_push(&owner->queue, &message->item);
}

static uint8_t *
make_bulk(unsigned seed)
{
	uint8_t *bulk = malloc(BULK);

	assert_non_null(bulk);
	for (size_t i = 0; i < BULK; i++) {
		seed = seed * 1664525u + 1013904223u;
		bulk[i] = (uint8_t)(seed >> 24);
	}
	return bulk;
}

static void
test_handshakes(void **state)
{
	static const struct {
		int version;
		const char *security;
	} rows[] = {{0, "TLS 1.3"}, {TLS1_3_VERSION, "TLS 1.3"}, {TLS1_2_VERSION, "TLS 1.2"}};
	struct owner owner;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		begin_plain(&owner, rows[i].version);
		assert_string_equal(stream_security(owner.stream), rows[i].security);
		assert_string_equal(stream_identity(owner.stream), "");
		assert_string_equal(stream_peer(owner.stream), "10.0.0.7:41332");
		assert_string_equal(stream_local(owner.stream), "10.0.0.1:10809");
		assert_int_equal(owner.got_length, 0);
		end(&owner);
	}
}

/* One byte at a time, either way. */
static void
test_in_drops(void **state)
{
	static const uint8_t hello[] = "hello, server", hi[] = "hello, client";
	struct message message;
	struct owner owner;
	uint8_t data[64];

	(void)state;
	begin(&owner, tls_server("rsa.pem", "rsa.key", "ca.pem", NULL));
	tls_client_start(&owner.client, 0, "ca", "client.example");
	pipe_limit_read(owner.pipe, 1);
	pipe_limit_write(owner.pipe, 1);
	shake_hands(&owner, 1);
	assert_true(is_up(&owner));
	assert_string_equal(stream_identity(owner.stream), "CN=client.example");
	assert_int_equal(SSL_write(owner.client.ssl, hello, sizeof(hello)), sizeof(hello));
	exchange(&owner, 1);
	assert_int_equal(owner.got_length, sizeof(hello));
	assert_memory_equal(owner.got, hello, sizeof(hello));
	push(&owner, &message, hi, sizeof(hi));
	flush_queue(&owner);
	exchange(&owner, 1);
	assert_true(message.sent);
	assert_int_equal(client_read(&owner, data, sizeof(data)), sizeof(hi));
	assert_memory_equal(data, hi, sizeof(hi));
	end(&owner);
}

/* Whatever the size of reads and of what arrives at a time, each byte comes once and in order. */
static void
test_bulk_in(void **state)
{
	static const size_t reads[] = {256 * 1024, 100000, 33792, 33793, 16384, 16385, 4096, 997};
	uint8_t *bulk = make_bulk(1);
	struct owner owner;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(reads); i++) {
		begin_plain(&owner, i % 2 ? TLS1_2_VERSION : 0);
		owner.read_size = reads[i];
		for (size_t at = 0; at < BULK; at += BULK / 8)
			assert_int_equal(
				SSL_write(owner.client.ssl, bulk + at, BULK / 8), BULK / 8);
		exchange(&owner, i % 3 ? EVER_MOST : 5000);
		assert_int_equal(owner.got_length, BULK);
		assert_memory_equal(owner.got, bulk, BULK);
		end(&owner);
	}
	free(bulk);
}

/* Who does not want to read is left alone, and gets it all later. */
static void
test_back_pressure(void **state)
{
	uint8_t *bulk = make_bulk(2);
	struct owner owner;
	unsigned calls;

	(void)state;
	begin_plain(&owner, 0);
	for (size_t at = 0; at < BULK; at += BULK / 8)
		SSL_write(owner.client.ssl, bulk + at, BULK / 8);
	owner.read_size = 10;
	tls_client_push(&owner.client, owner.pipe, 50000);
	virtual_loop_turn(loop_current());
	owner.read_size = 0;
	assert_int_equal(stream_watch(owner.stream, 0), 0);
	virtual_run_until_idle();
	calls = owner.calls;
	tls_client_push(&owner.client, owner.pipe, EVER_MOST);
	virtual_run_until_idle();
	assert_int_equal(owner.calls, calls);
	assert_true(owner.got_length < BULK);
	/* R04: what is left lies in the pipe, not in the stream. */
	assert_true(pipe_unread(owner.pipe) > BULK - 100 * 1024);
	owner.read_size = 64 * 1024;
	assert_int_equal(stream_watch(owner.stream, STREAM_READABLE), 0);
	virtual_run_until_idle();
	assert_int_equal(owner.got_length, BULK);
	assert_memory_equal(owner.got, bulk, BULK);
	end(&owner);
	free(bulk);
}

/* To another loop with bytes decrypted and not yet read. */
static void
test_moves(void **state)
{
	uint8_t *bulk = make_bulk(3);
	struct owner owner;

	(void)state;
	begin_plain(&owner, 0);
	SSL_write(owner.client.ssl, bulk, 30000);
	owner.read_size = 10;
	owner.detach_at = 10;
	tls_client_push(&owner.client, owner.pipe, EVER_MOST);
	virtual_run_until_idle();
	assert_null(owner.stream->loop);
	virtual_run_until_idle();
	assert_true(owner.got_length < 30000);
	virtual_as(loop_by_index(1));
	owner.read_size = 1000;
	assert_int_equal(stream_attach(owner.stream, loop_by_index(1), on_ready, &owner), 0);
	virtual_run_until_idle();
	assert_int_equal(owner.got_length, 30000);
	assert_memory_equal(owner.got, bulk, 30000);
	end(&owner);
	virtual_as(loop_by_index(0));
	free(bulk);
}

/* The TLS records in what the stream has written. */
static unsigned
count_records(const struct stream_pipe *pipe, unsigned *full)
{
	size_t length, at = 0;
	const uint8_t *data = pipe_output(pipe, &length);
	unsigned records = 0;

	*full = 0;
	while (at + 5 <= length) {
		size_t size = (size_t)(data[at + 3] << 8 | data[at + 4]);

		records++;
		*full += size > 16 * 1024;
		at += 5 + size;
	}
	assert_int_equal(at, length);
	return records;
}

/* Replies share records, and records share writes. */
static void
test_fills_records(void **state)
{
	enum { REPLIES = 256, REPLY = 4112 };
	static uint8_t reply[REPLY];
	struct message *messages = calloc(REPLIES, sizeof(*messages));
	struct owner owner;
	unsigned full, writes;

	(void)state;
	assert_non_null(messages);
	begin_plain(&owner, 0);
	writes = pipe_writes(owner.pipe);
	for (unsigned i = 0; i < REPLIES; i++)
		push(&owner, &messages[i], reply, sizeof(reply));
	flush_queue(&owner);
	assert_true(messages[REPLIES - 1].sent);
	/* 1,052,672 bytes are 64 full records and a quarter of one. */
	assert_int_equal(count_records(owner.pipe, &full), 65);
	assert_int_equal(full, 64);
	assert_int_equal(pipe_writes(owner.pipe) - writes, 33);
	end(&owner);
	free(messages);
}

/* A peer that takes a little at a time gets every byte once; nothing counts as sent before it is.
 */
static void
test_stalls(void **state)
{
	static const size_t rooms[] = {1, 100, 5000, 16406, 40000, 200000};
	uint8_t *bulk = make_bulk(4), *back = malloc(BULK);
	struct message message[3];
	struct owner owner;
	size_t done;

	(void)state;
	assert_non_null(back);
	for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
		size_t length = rooms[i] < 100 ? 20000 : BULK;

		begin_plain(&owner, i % 2 ? TLS1_2_VERSION : 0);
		push(&owner, &message[0], bulk, 100);
		push(&owner, &message[1], bulk + 100, length - 200);
		push(&owner, &message[2], bulk + length - 100, 100);
		pipe_set_room(owner.pipe, 0);
		flush_queue(&owner);
		assert_true(owner.blocked);
		assert_false(message[0].sent);
		done = 0;
		for (unsigned j = 0; j < 100000 && done < length; j++) {
			assert_false(message[2].sent && done + 40000 + rooms[i] < length);
			pipe_set_room(owner.pipe, rooms[i]);
			virtual_run_until_idle();
			tls_client_pull(&owner.client, owner.pipe);
			done += client_read(&owner, back + done, BULK - done);
		}
		assert_int_equal(done, length);
		assert_memory_equal(back, bulk, length);
		assert_true(message[2].sent);
		assert_int_equal(owner.end, 1);
		end(&owner);
	}
	free(bulk);
	free(back);
}

/* Both ways at once through a narrow pipe: reading goes on while output waits. */
static void
test_both_ways(void **state)
{
	uint8_t *bulk = make_bulk(5);
	struct message message;
	struct owner owner;

	(void)state;
	begin_plain(&owner, 0);
	push(&owner, &message, bulk, BULK);
	pipe_set_room(owner.pipe, 0);
	flush_queue(&owner);
	for (size_t at = 0; at < BULK; at += BULK / 8)
		SSL_write(owner.client.ssl, bulk + at, BULK / 8);
	tls_client_push(&owner.client, owner.pipe, EVER_MOST);
	virtual_run_until_idle();
	assert_int_equal(owner.got_length, BULK);
	assert_memory_equal(owner.got, bulk, BULK);
	assert_false(message.sent);
	end(&owner);
	free(bulk);
}

static void
test_close_notify(void **state)
{
	struct owner owner;
	uint8_t byte;
	int rc;

	(void)state;
	begin_plain(&owner, 0);
	/* Theirs: what was sent before it is read first, and we may still write. */
	SSL_write(owner.client.ssl, "last", 4);
	SSL_shutdown(owner.client.ssl);
	exchange(&owner, EVER_MOST);
	assert_int_equal(owner.got_length, 4);
	assert_int_equal(owner.end, 0);
	/* Ours. */
	stream_close(owner.stream);
	owner.stream = NULL;
	tls_client_pull(&owner.client, owner.pipe);
	rc = SSL_read(owner.client.ssl, &byte, 1);
	assert_int_equal(SSL_get_error(owner.client.ssl, rc), SSL_ERROR_ZERO_RETURN);
	end(&owner);
}

/* Whoever cuts the connection must not pass for a peer that said goodbye. */
static void
test_truncated(void **state)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	struct owner owner;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		begin_plain(&owner, versions[i]);
		SSL_write(owner.client.ssl, "half of it", 10);
		exchange(&owner, EVER_MOST);
		pipe_feed_eof(owner.pipe);
		virtual_run_until_idle();
		assert_int_equal(owner.got_length, 10);
		assert_int_equal(owner.end, -ECONNRESET);
		end(&owner);
	}
	/* In the middle of a record, and of the handshake. */
	begin_plain(&owner, 0);
	SSL_write(owner.client.ssl, "half of it", 10);
	tls_client_push(&owner.client, owner.pipe, 9);
	pipe_feed_eof(owner.pipe);
	virtual_run_until_idle();
	assert_int_equal(owner.got_length, 0);
	assert_int_equal(owner.end, -ECONNRESET);
	end(&owner);
	begin(&owner, tls_server("server.pem", "server.key", NULL, NULL));
	tls_client_start(&owner.client, 0, "ca", NULL);
	SSL_do_handshake(owner.client.ssl);
	tls_client_push(&owner.client, owner.pipe, 40);
	pipe_feed_eof(owner.pipe);
	virtual_run_until_idle();
	assert_int_equal(owner.end, -ECONNRESET);
	end(&owner);
}

static void
test_broken_record(void **state)
{
	static const uint8_t nonsense[] = {0x17, 3, 3, 0, 32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
		13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32};
	struct owner owner;

	(void)state;
	begin_plain(&owner, 0);
	pipe_feed(owner.pipe, nonsense, sizeof(nonsense));
	virtual_run_until_idle();
	assert_int_equal(owner.end, -EPROTO);
	assert_int_equal(owner.got_length, 0);
	/* The alert, and nothing after it. */
	assert_true(pipe_output_length(owner.pipe) > 0);
	assert_int_equal(stream_write(owner.stream, &(struct iovec){(void *)"x", 1}, 1), -EPROTO);
	end(&owner);
}

/* What was not TLS, whatever it was, is nobody's input. */
static void
test_plaintext(void **state)
{
	static const char *const texts[] = {"GET / HTTP/1.0\r\n\r\n", "IHAVEOPT\0\0\0\7\0\0\0\0"};
	static uint8_t zeroes[70000];
	struct owner owner;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts) + 1; i++) {
		begin(&owner, tls_server("server.pem", "server.key", NULL, NULL));
		tls_client_start(&owner.client, 0, "ca", NULL);
		if (i < ARRAY_SIZE(texts))
			pipe_feed(owner.pipe, texts[i], 16);
		else
			pipe_feed(owner.pipe, zeroes, sizeof(zeroes));
		virtual_run_until_idle();
		assert_int_equal(owner.end, -EPROTO);
		assert_int_equal(owner.got_length, 0);
		assert_null(stream_security(owner.stream));
		end(&owner);
	}
}

/* The client's wish is ignored or the connection ends; there is no second handshake. */
static void
test_renegotiation(void **state)
{
	struct owner owner;
	size_t before;

	(void)state;
	begin_plain(&owner, TLS1_2_VERSION);
	assert_int_equal(SSL_renegotiate(owner.client.ssl), 1);
	SSL_do_handshake(owner.client.ssl);
	ERR_clear_error();
	before = tls_client_push(&owner.client, owner.pipe, EVER_MOST);
	assert_true(before > 0);
	virtual_run_until_idle();
	/* An alert has 26 bytes, a ServerHello and a certificate hundreds. */
	assert_true(pipe_output_length(owner.pipe) < 100);
	assert_int_equal(owner.got_length, 0);
	end(&owner);
}

static void
test_key_update(void **state)
{
	struct message message;
	struct owner owner;
	uint8_t data[16];

	(void)state;
	begin_plain(&owner, TLS1_3_VERSION);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(SSL_key_update(owner.client.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
		assert_int_equal(SSL_write(owner.client.ssl, "more", 4), 4);
		exchange(&owner, EVER_MOST);
		push(&owner, &message, "back", 4);
		flush_queue(&owner);
		assert_true(message.sent);
		tls_client_pull(&owner.client, owner.pipe);
		assert_int_equal(client_read(&owner, data, sizeof(data)), 4);
	}
	assert_int_equal(owner.got_length, 400);
	end(&owner);
}

/* A peer that asks for new keys all the time is answered; one that does not take the answers goes. */
static void
test_key_update_flood(void **state)
{
	struct owner owner;

	(void)state;
	for (int room = 0; room < 2; room++) {
		begin_plain(&owner, TLS1_3_VERSION);
		if (!room)
			pipe_set_room(owner.pipe, 0);
		for (unsigned i = 0; i < 3000; i++) {
			SSL_key_update(owner.client.ssl, SSL_KEY_UPDATE_REQUESTED);
			SSL_do_handshake(owner.client.ssl);
		}
		assert_true(tls_client_push(&owner.client, owner.pipe, EVER_MOST) > 3000 * 20);
		virtual_run_until_idle();
		assert_int_equal(owner.end, room ? 1 : -EPROTO);
		end(&owner);
	}
}

/* In small numbers they wait for room: who does not take the answers is read no further. */
static void
test_choked(void **state)
{
	enum { UPDATES = 6000 };
	struct owner owner;
	size_t got;

	(void)state;
	begin_plain(&owner, TLS1_3_VERSION);
	pipe_set_room(owner.pipe, 0);
	for (unsigned i = 0; i < UPDATES; i++) {
		SSL_key_update(owner.client.ssl, SSL_KEY_UPDATE_REQUESTED);
		assert_int_equal(SSL_write(owner.client.ssl, "x", 1), 1);
		tls_client_push(&owner.client, owner.pipe, EVER_MOST);
		if (i % 100 == 0)
			virtual_run_until_idle();
	}
	virtual_run_until_idle();
	assert_int_equal(owner.end, 1);
	got = owner.got_length;
	assert_true(got > 0 && got < UPDATES);
	assert_true(pipe_unread(owner.pipe) > 0);
	pipe_set_room(owner.pipe, SIZE_MAX);
	virtual_run_until_idle();
	assert_int_equal(owner.end, 1);
	assert_int_equal(owner.got_length, UPDATES);
	end(&owner);
}

static void
refuse(struct owner *owner)
{
	shake_hands(owner, EVER_MOST);
	assert_int_equal(owner->end, -EPROTO);
	assert_null(stream_security(owner->stream));
	assert_string_equal(stream_identity(owner->stream), "");
	end(owner);
}

static void
test_old_versions(void **state)
{
	static const char *const weak[] = {"ECDHE-RSA-AES128-SHA256", "AES128-GCM-SHA256",
		"DHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-SHA"};
	struct owner owner;

	(void)state;
	begin(&owner, tls_server("rsa.pem", "rsa.key", NULL, NULL));
	tls_client_start(&owner.client, TLS1_1_VERSION, "ca", NULL);
	refuse(&owner);
	/* 1.2 without forward secrecy of elliptic curves, or without AEAD. */
	for (size_t i = 0; i < ARRAY_SIZE(weak); i++) {
		begin(&owner, tls_server("rsa.pem", "rsa.key", NULL, NULL));
		tls_client_start(&owner.client, TLS1_2_VERSION, "ca", NULL);
		assert_int_equal(SSL_set_cipher_list(owner.client.ssl, weak[i]), 1);
		refuse(&owner);
	}
}

static void
test_client_certificates(void **state)
{
	static const char *const bad[] = {NULL, "stranger", "strangers", "late"};
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	struct owner owner;

	(void)state;
	for (size_t v = 0; v < ARRAY_SIZE(versions); v++) {
		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			begin(&owner, tls_server("server.pem", "server.key", "ca.pem", NULL));
			tls_client_start(&owner.client, versions[v], "ca", bad[i]);
			refuse(&owner);
		}
		begin(&owner, tls_server("server.pem", "server.key", "ca.pem", NULL));
		tls_client_start(&owner.client, versions[v], "ca", "client.example");
		shake_hands(&owner, EVER_MOST);
		assert_true(is_up(&owner));
		assert_string_equal(stream_identity(owner.stream), "CN=client.example");
		end(&owner);
	}
}

static void
test_psk(void **state)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	struct owner owner;

	(void)state;
	for (size_t v = 0; v < ARRAY_SIZE(versions); v++) {
		begin(&owner, tls_server(NULL, NULL, NULL, "keys.psk"));
		tls_client_psk(&owner.client, versions[v], "alice", 7);
		shake_hands(&owner, EVER_MOST);
		assert_true(is_up(&owner));
		assert_string_equal(stream_identity(owner.stream), "alice");
		end(&owner);
		/* A PSK is as good as a certificate of the CA. */
		begin(&owner, tls_server("server.pem", "server.key", "ca.pem", "keys.psk"));
		tls_client_psk(&owner.client, versions[v], "alice", 7);
		shake_hands(&owner, EVER_MOST);
		assert_true(is_up(&owner));
		end(&owner);
		begin(&owner, tls_server(NULL, NULL, NULL, "keys.psk"));
		tls_client_psk(&owner.client, versions[v], "alice", 8);
		refuse(&owner);
		begin(&owner, tls_server(NULL, NULL, NULL, "keys.psk"));
		tls_client_psk(&owner.client, versions[v], "mallory", 7);
		refuse(&owner);
		begin(&owner, tls_server(NULL, NULL, NULL, "keys.psk"));
		tls_client_start(&owner.client, versions[v], "ca", NULL);
		refuse(&owner);
	}
	/* Named, not proven: the certificate was used. */
	begin(&owner, tls_server("server.pem", "server.key", NULL, "keys.psk"));
	tls_client_start(&owner.client, 0, "ca", NULL);
	shake_hands(&owner, EVER_MOST);
	assert_true(is_up(&owner));
	assert_string_equal(stream_identity(owner.stream), "");
	end(&owner);
}

/* A handshake that stands still holds up nobody on its loop. */
static void
test_slow_handshake(void **state)
{
	struct owner slow, quick;

	(void)state;
	begin(&slow, tls_server("server.pem", "server.key", NULL, NULL));
	tls_client_start(&slow.client, 0, "ca", NULL);
	SSL_do_handshake(slow.client.ssl);
	tls_client_push(&slow.client, slow.pipe, 30);
	virtual_run_until_idle();
	begin_plain(&quick, 0);
	SSL_write(quick.client.ssl, "first", 5);
	exchange(&quick, EVER_MOST);
	assert_int_equal(quick.got_length, 5);
	assert_null(stream_security(slow.stream));
	shake_hands(&slow, EVER_MOST);
	assert_true(is_up(&slow));
	end(&slow);
	end(&quick);
}

/* Nothing passes before the handshake is over, and nothing is lost by asking early. */
static void
test_early_calls(void **state)
{
	struct message message;
	struct owner owner;
	uint8_t data[16];
	struct iovec iov = {data, sizeof(data)};

	(void)state;
	begin(&owner, tls_server("server.pem", "server.key", NULL, NULL));
	assert_int_equal(stream_read(owner.stream, &iov, 1), -EAGAIN);
	push(&owner, &message, "early", 5);
	flush_queue(&owner);
	assert_true(owner.blocked);
	assert_int_equal(pipe_output_length(owner.pipe), 0);
	tls_client_start(&owner.client, 0, "ca", NULL);
	shake_hands(&owner, EVER_MOST);
	assert_true(message.sent);
	assert_int_equal(client_read(&owner, data, sizeof(data)), 5);
	end(&owner);
}

/* A peer that takes nothing in the handshake is waited for, at no cost; then it goes on. */
static void
test_blocked_handshake(void **state)
{
	struct owner owner;

	(void)state;
	for (int more = 1; more >= 0; more--) {
		begin(&owner, tls_server("server.pem", "server.key", NULL, NULL));
		tls_client_start(&owner.client, 0, "ca", NULL);
		pipe_set_room(owner.pipe, 0);
		SSL_do_handshake(owner.client.ssl);
		tls_client_push(&owner.client, owner.pipe, EVER_MOST);
		virtual_run_until_idle();
		if (more)
			pipe_feed(owner.pipe, "\26", 1);
		virtual_run_until_idle();
		assert_int_equal(owner.end, 1);
		assert_int_equal(pipe_unread(owner.pipe), more);
		if (!more) {
			pipe_set_room(owner.pipe, SIZE_MAX);
			shake_hands(&owner, EVER_MOST);
			assert_true(is_up(&owner));
		}
		end(&owner);
	}
}

/* server.pem with so many certificates behind it that a flight is longer than what is kept of it. */
static void
make_long_chain(void)
{
	FILE *chain = fopen(tls_path("chain.pem"), "w");
	char text[4096];

	assert_non_null(chain);
	for (unsigned i = 0; i < 140; i++) {
		FILE *file = fopen(tls_path(i ? "rsa.pem" : "server.pem"), "r");

		assert_non_null(file);
		fwrite(text, 1, fread(text, 1, sizeof(text), file), chain);
		fclose(file);
	}
	assert_true(ftell(chain) > 2 * LIMIT_TLS_OUTPUT); /* base64 is a third longer */
	fclose(chain);
}

/* The rest of the flight follows when the peer takes its beginning; it has nothing to say before. */
static void
test_long_flight(void **state)
{
	struct owner owner;

	(void)state;
	make_long_chain();
	begin(&owner, tls_server("chain.pem", "server.key", NULL, NULL));
	tls_client_start(&owner.client, 0, "ca", NULL);
	pipe_set_room(owner.pipe, 0);
	SSL_do_handshake(owner.client.ssl);
	tls_client_push(&owner.client, owner.pipe, EVER_MOST);
	virtual_run_until_idle();
	assert_int_equal(pipe_output_length(owner.pipe), 0);
	pipe_set_room(owner.pipe, SIZE_MAX);
	virtual_run_until_idle();
	assert_true(pipe_output_length(owner.pipe) > LIMIT_TLS_OUTPUT);
	shake_hands(&owner, EVER_MOST);
	assert_true(is_up(&owner));
	end(&owner);
}

/* Killed at any byte of the handshake, and at any of what follows, everything is given back. */
static void
test_closed_anywhere(void **state)
{
	struct owner owner;
	bool more = true;

	(void)state;
	for (size_t bytes = 0; more; bytes += 37) {
		begin(&owner, tls_server("server.pem", "server.key", "ca.pem", NULL));
		tls_client_start(&owner.client, 0, "ca", "client.example");
		SSL_do_handshake(owner.client.ssl);
		more = false;
		for (size_t left = bytes; left > 0;) {
			size_t n = tls_client_push(&owner.client, owner.pipe, left);

			virtual_run_until_idle();
			if (n == 0 && tls_client_pull(&owner.client, owner.pipe) == 0)
				break;
			left -= n;
			more = left == 0;
			SSL_do_handshake(owner.client.ssl);
			ERR_clear_error();
		}
		more |= bytes == 0;
		end(&owner);
	}
}

/* The n-th write fails, n = 1, 2, 3 ... */
static void
test_dead_socket(void **state)
{
	struct message message;
	uint8_t *bulk = make_bulk(6);
	struct owner owner;

	(void)state;
	begin_plain(&owner, 0);
	push(&owner, &message, bulk, BULK);
	pipe_set_room(owner.pipe, 50000);
	flush_queue(&owner);
	assert_true(owner.blocked);
	pipe_fail_write(owner.pipe, -EPIPE);
	pipe_fail_read(owner.pipe, -ECONNRESET);
	virtual_run_until_idle();
	assert_true(owner.end < 0);
	assert_true(message.sent);
	end(&owner);
	free(bulk);
}

static int
start_loops(void **state)
{
	(void)state;
	virtual_loops_start(2);
	return 0;
}

static int
stop_loops(void **state)
{
	(void)state;
	virtual_loops_stop();
	return 0;
}

#define ON_LOOPS(test) cmocka_unit_test_setup_teardown(test, start_loops, stop_loops)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		ON_LOOPS(test_handshakes),
		ON_LOOPS(test_in_drops),
		ON_LOOPS(test_bulk_in),
		ON_LOOPS(test_back_pressure),
		ON_LOOPS(test_moves),
		ON_LOOPS(test_fills_records),
		ON_LOOPS(test_stalls),
		ON_LOOPS(test_both_ways),
		ON_LOOPS(test_close_notify),
		ON_LOOPS(test_truncated),
		ON_LOOPS(test_broken_record),
		ON_LOOPS(test_plaintext),
		ON_LOOPS(test_renegotiation),
		ON_LOOPS(test_key_update_flood),
		ON_LOOPS(test_choked),
		ON_LOOPS(test_key_update),
		ON_LOOPS(test_old_versions),
		ON_LOOPS(test_client_certificates),
		ON_LOOPS(test_psk),
		ON_LOOPS(test_slow_handshake),
		ON_LOOPS(test_early_calls),
		ON_LOOPS(test_blocked_handshake),
		ON_LOOPS(test_long_flight),
		ON_LOOPS(test_closed_anywhere),
		ON_LOOPS(test_dead_socket),
	};

	return cmocka_run_group_tests_name("stream_tls", tests, setup, teardown);
}
