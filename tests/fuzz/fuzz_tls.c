/*
 * TLS between a true client and our stream. The first byte of an input chooses version and keys, the
 * rest is a list of steps: what moves between them, how slowly, what is damaged on the way. Whatever
 * happens, what the owner reads is what the client wrote, from its first byte on, and an end that is
 * not an error was said by close_notify; where nothing was damaged, all of it arrives.
 */
#include "config.h"

#include "fuzz.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "check.h"
#include "loop_virtual.h"
#include "stream_pipe.h"
#include "tls.h"

#define CHAIN_LONG 160 /* certificates: a flight longer than what is kept of our output */
#define OFFER_MAX  40000

/* The step's number is its first byte modulo STEPS; arguments follow. */
enum {
	STEP_PUSH,         /* 16 bits: so many bytes of the client's arrive */
	STEP_PULL,         /* the client gets all that was sent, and reads */
	STEP_CLIENT_WRITE, /* 16 bits: so many bytes */
	STEP_OWNER_WRITE,  /* the same on our side */
	STEP_ROOM,         /* 16 bits: the socket takes so many bytes more */
	STEP_READ_SIZE,    /* 16 bits: the owner reads so many at a time; 0: not */
	STEP_LIMITS,       /* 8 bits each: bytes in one read and one write of the socket; 0: any */
	STEP_FLIP,         /* 16 bits: the bit of the client's next bytes that is turned over */
	STEP_INJECT,       /* 8 bits: so many bytes follow that the client did not send */
	STEP_EOF,
	STEP_RESET,
	STEP_KEY_UPDATE,
	STEP_CLIENT_SHUTDOWN,
	STEP_FINISH,
	STEP_MOVE, /* off the loop, and on it again */
	STEPS
};

enum kind { CERTIFICATE, LONG_CHAIN, PSK, KINDS };

static struct tls_context *contexts[KINDS];
static SSL_CTX *clients[2]; /* 1.3, 1.2 */

struct session {
	struct stream_pipe *pipe;
	struct stream *stream;
	SSL *ssl;
	BIO *in, *out;
	size_t read_size;
	uint64_t client_wrote, owner_read;
	uint64_t owner_wants, owner_wrote, client_read;
	bool blocked;
	bool damaged;  /* what arrives is not what was sent */
	bool cut;      /* nothing arrives any more */
	bool finished; /* the owner writes no more */
	bool over;     /* a read said 0 or an error */
};

static const char key_hex[] = "00112233445566778899aabbccddeeff";

static unsigned
give_psk(SSL *ssl, const char *hint, char *identity, unsigned size, unsigned char *key,
	unsigned room)
{
	(void)ssl;
	(void)hint;
	CHECK(room >= 16);
	snprintf(identity, size, "alice");
	for (unsigned i = 0; i < 16; i++)
		key[i] = (unsigned char)(i * 0x11);
	return 16;
}

static FILE *
open_secret(char path[32])
{
	int fd = memfd_create("fuzz_tls", MFD_CLOEXEC);
	FILE *file = fdopen(fd, "w");

	CHECK(file && fchmod(fd, 0600) == 0);
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return file;
}

static X509 *
make_certificate(EVP_PKEY *key)
{
	X509 *certificate = X509_new();
	X509_NAME *name;

	CHECK(certificate && key);
	name = X509_get_subject_name(certificate);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 365 * 86400L);
	X509_set_pubkey(certificate, key);
	X509_NAME_add_entry_by_txt(
		name, "CN", MBSTRING_ASC, (const unsigned char *)"fuzz", -1, -1, 0);
	X509_set_issuer_name(certificate, name);
	CHECK(X509_sign(certificate, key, EVP_sha256()) > 0);
	return certificate;
}

static struct tls_context *
load(const struct tls_files *files)
{
	struct error error = {.text = ""};
	struct tls_context *context = tls_context_new(files, &error);

	if (!context)
		fprintf(stderr, "%s\n", error.text);
	CHECK(context);
	return context;
}

static void
make_contexts(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *certificate = make_certificate(key);
	char certificate_path[32], key_path[32], psk_path[32];
	FILE *file = open_secret(certificate_path), *key_file = open_secret(key_path);
	FILE *psk_file = open_secret(psk_path);

	CHECK(PEM_write_X509(file, certificate) && fflush(file) == 0);
	CHECK(PEM_write_PrivateKey(key_file, key, NULL, NULL, 0, NULL, NULL));
	CHECK(fflush(key_file) == 0);
	contexts[CERTIFICATE] =
		load(&(struct tls_files){.certificate = certificate_path, .key = key_path});
	for (unsigned i = 1; i < CHAIN_LONG; i++)
		PEM_write_X509(file, certificate);
	CHECK(fflush(file) == 0);
	contexts[LONG_CHAIN] =
		load(&(struct tls_files){.certificate = certificate_path, .key = key_path});
	fprintf(psk_file, "alice:%s\n", key_hex);
	CHECK(fflush(psk_file) == 0);
	contexts[PSK] = load(&(struct tls_files){.psk = psk_path});
	fclose(file);
	fclose(key_file);
	fclose(psk_file);
	X509_free(certificate);
	EVP_PKEY_free(key);
}

static void
make_world(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	virtual_loops_start(1);
	make_contexts();
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
		clients[i] = SSL_CTX_new(TLS_client_method());
		CHECK(clients[i]);
		SSL_CTX_set_max_proto_version(clients[i], i ? TLS1_2_VERSION : TLS1_3_VERSION);
		SSL_CTX_set_max_cert_list(clients[i], 1024L * 1024);
	}
}

/* Both sides write the same endless text. */
static const uint8_t *
text_at(uint64_t position)
{
	static uint8_t text[251 + OFFER_MAX + 65536];

	if (!text[1])
		for (size_t i = 0; i < sizeof(text); i++)
			text[i] = (uint8_t)(i % 251);
	return text + position % 251;
}

static void
want(struct session *s)
{
	if (s->stream->loop)
		stream_watch(s->stream, (s->read_size && !s->over ? STREAM_READABLE : 0) |
						(s->blocked && !s->over ? STREAM_WRITABLE : 0));
}

static void
owner_write(struct session *s)
{
	while (!s->finished && !s->over && s->owner_wrote < s->owner_wants) {
		size_t length = (size_t)min_u64(s->owner_wants - s->owner_wrote, OFFER_MAX);
		uint8_t *text = (uint8_t *)(uintptr_t)text_at(s->owner_wrote);
		size_t first = length / 3;
		struct iovec iov[] = {{text, first}, {text + first, length - first}};
		ssize_t n = stream_write(s->stream, iov, 2);

		s->blocked = n == -EAGAIN;
		if (n < 0)
			break;
		CHECK((size_t)n <= length);
		s->owner_wrote += (uint64_t)n;
	}
	want(s);
}

static void
owner_read(struct session *s)
{
	static uint8_t data[65536];
	struct iovec iov[] = {{data, s->read_size / 2},
		{data + s->read_size / 2, s->read_size - s->read_size / 2}};
	ssize_t n = stream_read(s->stream, iov, 2);

	if (n == -EAGAIN)
		return;
	if (n > 0) {
		CHECK((size_t)n <= s->read_size);
		CHECK(!memcmp(data, text_at(s->owner_read), (size_t)n));
		s->owner_read += (uint64_t)n;
		CHECK(s->owner_read <= s->client_wrote);
		return;
	}
	if (n == 0) {
		CHECK(SSL_get_shutdown(s->ssl) & SSL_SENT_SHUTDOWN);
		CHECK(s->owner_read == s->client_wrote);
	} else {
		CHECK(s->damaged);
		s->over = true;
	}
	s->read_size = 0;
	want(s);
}

static void
on_ready(struct stream *stream, unsigned events)
{
	struct session *s = stream->owner;

	if (events & STREAM_WRITABLE && s->blocked)
		owner_write(s);
	if (events & STREAM_READABLE && s->read_size)
		owner_read(s);
}

static size_t
push(struct session *s, size_t most)
{
	uint8_t bytes[4096];
	size_t pushed = 0;
	int n;

	while (pushed < most &&
		(n = BIO_read(s->out, bytes, (int)min_size(most - pushed, sizeof(bytes)))) > 0) {
		if (!s->cut)
			pipe_feed(s->pipe, bytes, (size_t)n);
		pushed += (size_t)n;
	}
	virtual_run_until_idle();
	return pushed;
}

static size_t
pull(struct session *s)
{
	static uint8_t bytes[65536];
	size_t pulled = 0, n;

	while ((n = pipe_take(s->pipe, bytes, sizeof(bytes))) > 0) {
		BIO_write(s->in, bytes, (int)n);
		pulled += n;
	}
	if (!SSL_is_init_finished(s->ssl))
		SSL_do_handshake(s->ssl);
	while (SSL_read_ex(s->ssl, bytes, sizeof(bytes), &n)) {
		CHECK(!memcmp(bytes, text_at(s->client_read), n));
		s->client_read += n;
	}
	ERR_clear_error();
	return pulled;
}

static void
client_write(struct session *s, size_t length)
{
	size_t n;

	if (!SSL_is_init_finished(s->ssl) || SSL_get_shutdown(s->ssl) & SSL_SENT_SHUTDOWN)
		return;
	if (length && SSL_write_ex(s->ssl, text_at(s->client_wrote), length, &n))
		s->client_wrote += n;
	ERR_clear_error();
}

static void
flip(struct session *s, unsigned bit)
{
	char *bytes;
	long length = BIO_get_mem_data(s->out, &bytes);

	if (length <= 0)
		return;
	bytes[bit / 8 % (unsigned long)length] ^= (char)(1 << bit % 8);
	s->damaged = true;
}

static void
update_keys(struct session *s)
{
	if (SSL_is_init_finished(s->ssl) && SSL_version(s->ssl) == TLS1_3_VERSION &&
		!(SSL_get_shutdown(s->ssl) & SSL_SENT_SHUTDOWN) &&
		SSL_key_update(s->ssl, SSL_KEY_UPDATE_REQUESTED))
		SSL_do_handshake(s->ssl);
	ERR_clear_error();
}

static void
attach(struct session *s)
{
	CHECK(stream_attach(s->stream, loop_by_index(0), on_ready, s) == 0);
	want(s);
}

static void
do_step(struct session *s, struct reader *reader)
{
	const uint8_t *bytes = reader_bytes(reader, 1);
	size_t length;

	switch (bytes ? *bytes % STEPS : STEPS) {
	case STEP_PUSH:
		push(s, reader_be16(reader));
		break;
	case STEP_PULL:
		pull(s);
		break;
	case STEP_CLIENT_WRITE:
		client_write(s, reader_be16(reader));
		break;
	case STEP_OWNER_WRITE:
		s->owner_wants += s->finished ? 0 : reader_be16(reader);
		owner_write(s);
		break;
	case STEP_ROOM:
		pipe_set_room(s->pipe, reader_be16(reader));
		break;
	case STEP_READ_SIZE:
		s->read_size = reader_be16(reader);
		want(s);
		break;
	case STEP_LIMITS:
		bytes = reader_bytes(reader, 2);
		pipe_limit_read(s->pipe, bytes ? bytes[0] : 0);
		pipe_limit_write(s->pipe, bytes ? bytes[1] : 0);
		break;
	case STEP_FLIP:
		flip(s, reader_be16(reader));
		break;
	case STEP_INJECT:
		bytes = reader_bytes(reader, 1);
		length = min_size(bytes ? *bytes : 0, reader->left);
		bytes = reader_bytes(reader, length);
		if (!s->cut)
			pipe_feed(s->pipe, bytes, length);
		s->damaged = s->damaged || length;
		break;
	case STEP_EOF:
		if (!s->cut)
			pipe_feed_eof(s->pipe);
		s->cut = true;
		s->damaged = true;
		break;
	case STEP_RESET:
		pipe_fail_read(s->pipe, -ECONNRESET);
		pipe_fail_write(s->pipe, -EPIPE);
		s->damaged = true;
		break;
	case STEP_KEY_UPDATE:
		update_keys(s);
		break;
	case STEP_CLIENT_SHUTDOWN:
		if (SSL_is_init_finished(s->ssl))
			SSL_shutdown(s->ssl);
		break;
	case STEP_FINISH:
		/* As connections do it: behind all they have to say. */
		if (!s->finished && s->owner_wrote == s->owner_wants)
			s->finished = stream_finish(s->stream) == 0;
		break;
	case STEP_MOVE:
		stream_detach(s->stream);
		virtual_run_until_idle();
		attach(s);
		break;
	default:
		break;
	}
	virtual_run_until_idle();
}

/* Nothing holds them up any more. */
static void
settle(struct session *s)
{
	size_t moved;

	pipe_set_room(s->pipe, SIZE_MAX);
	pipe_limit_read(s->pipe, 0);
	pipe_limit_write(s->pipe, 0);
	s->read_size = 65535;
	want(s);
	do {
		virtual_run_until_idle();
		moved = push(s, SIZE_MAX) + pull(s);
	} while (moved);
	if (s->damaged)
		return;
	CHECK(SSL_is_init_finished(s->ssl) && stream_security(s->stream));
	CHECK(s->owner_read == s->client_wrote);
	CHECK(s->client_read == s->owner_wrote);
	CHECK(s->finished || s->owner_wrote == s->owner_wants);
}

static void
end_session(struct session *s)
{
	bool up = !s->damaged && !s->over;

	stream_close(s->stream);
	virtual_run_until_idle();
	CHECK(pipe_closed(s->pipe));
	pull(s);
	CHECK(!up || SSL_get_shutdown(s->ssl) & SSL_RECEIVED_SHUTDOWN);
	SSL_free(s->ssl);
	ERR_clear_error();
	pipe_free(s->pipe);
}

/* A long chain costs as much as all the rest: seldom. */
static enum kind
choose_kind(uint8_t byte)
{
	static const enum kind kinds[] = {
		CERTIFICATE, CERTIFICATE, CERTIFICATE, CERTIFICATE, PSK, PSK, PSK, LONG_CHAIN};

	return kinds[byte / 2 % ARRAY_SIZE(kinds)];
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session s = {.read_size = 4096};
	struct reader reader = reader_of(data, size);
	const uint8_t *first = reader_bytes(&reader, 1);
	enum kind kind;

	if (!first)
		return 0;
	if (!contexts[0])
		make_world();
	kind = choose_kind(*first);
	s.pipe = pipe_new();
	s.stream = stream_tls_new(pipe_stream(s.pipe), contexts[kind]);
	s.ssl = SSL_new(clients[*first % 2]);
	s.in = BIO_new(BIO_s_mem());
	s.out = BIO_new(BIO_s_mem());
	CHECK(s.stream && s.ssl && s.in && s.out);
	BIO_set_mem_eof_return(s.in, -1);
	SSL_set_bio(s.ssl, s.in, s.out);
	if (kind == PSK) {
		SSL_set_psk_client_callback(s.ssl, give_psk);
		SSL_set_cipher_list(s.ssl, "ECDHE-PSK-CHACHA20-POLY1305");
	}
	SSL_set_connect_state(s.ssl);
	SSL_do_handshake(s.ssl);
	attach(&s);
	while (reader.left && !reader.bad)
		do_step(&s, &reader);
	settle(&s);
	end_session(&s);
	return 0;
}
