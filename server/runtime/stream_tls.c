/*
 * TLS over another stream.
 *
 * OpenSSL sees no socket: ciphertext is read into a buffer of the thread (one large read for many
 * records), decrypted straight into what the owner reads into, and what is encrypted is collected
 * and written every two records. Between calls a stream keeps only what is left over: at most
 * LIMIT_TLS_INPUT of ciphertext that nobody wanted yet, and LIMIT_TLS_OUTPUT that the socket did
 * not take (R04).
 *
 * What is decrypted and not yet read is not seen by the inner stream's readiness. Then the nudge, a
 * deferred task, calls the owner.
 */
#include "config.h"

#include "tls.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"
#include "slab.h"
#include "tls_openssl.h"

#define RECORD_PLAIN  (16 * 1024)
#define RECORD_MAX    (RECORD_PLAIN + 512) /* RFC 5246 6.2.3 allows a cipher more, AEADs take 22 */
#define BATCH_RECORDS 2
#define RECEIVE_MAX   (128 * 1024)
#define LOG_EVERY     SECOND_NS

_Static_assert(LIMIT_TLS_OUTPUT >= BATCH_RECORDS * RECORD_MAX + 1024, "a batch fits");

/* A thread's, while it handles one call. */
struct scratch {
	uint8_t received[RECEIVE_MAX];
	uint8_t record[RECORD_PLAIN];     /* small pieces, gathered into one */
	uint8_t output[LIMIT_TLS_OUTPUT]; /* ciphertext to be written before the call ends */
	size_t output_length;
};

/* Calls the owner from the loop. Apart from the stream, which may leave the loop while it is
 * queued. */
struct nudge {
	struct loop_task task;
	struct tls_stream *tls; /* NULL: it left, and the nudge is freed when it runs */
};

struct tls_stream {
	struct stream stream;
	struct stream *inner;
	struct tls_context *context;
	SSL *ssl;
	struct nudge *nudge; /* while attached */
	unsigned wanted;     /* STREAM_*, the owner's */
	unsigned watched;    /* of the inner stream */
	int failed;          /* -errno: dead */
	bool established;
	bool ended;     /* close_notify received */
	bool finishing; /* close_notify is the last that was put into the output */
	bool finished;  /* the inner stream's end was told as well */
	bool choked;    /* OpenSSL reads on when the output is flushed */

	/* Ciphertext to decrypt: in the scratch during a call, in `kept` between calls. */
	const uint8_t *input;
	size_t input_left;
	uint8_t *kept; /* input_cache; NULL: none */

	/* Ciphertext that the inner stream did not take. While there is any, more goes behind it.
	 */
	uint8_t *output; /* output_cache; NULL: none */
	size_t output_at, output_length;
	size_t owed; /* plaintext encrypted and not yet counted as written */

	const char *version;
	char identity[LIMIT_TLS_PSK_IDENTITY + 4]; /* "CN=" and a name, or a PSK's */
};

static const struct stream_ops tls_ops;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t scratch_key;
static struct slab_cache *stream_cache, *input_cache, *output_cache;
static BIO_METHOD *bio_method;

static struct tls_stream *
tls_of(const struct stream *stream)
{
	return container_of((struct stream *)(uintptr_t)stream, struct tls_stream, stream);
}

static struct scratch *
get_scratch(void)
{
	struct scratch *scratch = pthread_getspecific(scratch_key);

	if (!scratch && (scratch = malloc(sizeof(*scratch)))) {
		scratch->output_length = 0;
		pthread_setspecific(scratch_key, scratch);
	}
	return scratch;
}

static int
read_bio(BIO *bio, char *data, int size)
{
	struct tls_stream *tls = BIO_get_data(bio);
	size_t n = min_size((size_t)size, tls->input_left);

	BIO_clear_retry_flags(bio);
	if (n == 0) {
		BIO_set_retry_read(bio);
		return -1;
	}
	memcpy(data, tls->input, n);
	tls->input += n;
	tls->input_left -= n;
	return (int)n;
}

static int
write_bio(BIO *bio, const char *data, int size)
{
	struct tls_stream *tls = BIO_get_data(bio);
	struct scratch *scratch = pthread_getspecific(scratch_key);
	uint8_t *buffer = tls->output ? tls->output : scratch->output;
	size_t *length = tls->output ? &tls->output_length : &scratch->output_length;
	size_t n = min_size((size_t)size, LIMIT_TLS_OUTPUT - *length);

	BIO_clear_retry_flags(bio);
	if (n == 0) {
		BIO_set_retry_write(bio);
		return -1;
	}
	memcpy(buffer + *length, data, n);
	*length += n;
	return (int)n;
}

static long
control_bio(BIO *bio, int command, long number, void *pointer)
{
	(void)bio;
	(void)number;
	(void)pointer;
	return command == BIO_CTRL_FLUSH;
}

static void
make_globals(void)
{
	stream_cache = slab_cache_new("stream_tls", sizeof(struct tls_stream), 0, 0, NULL);
	input_cache = slab_cache_new("tls_input", LIMIT_TLS_INPUT, 0, 0, NULL);
	output_cache = slab_cache_new("tls_output", LIMIT_TLS_OUTPUT, 0, 0, NULL);
	bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "slabd stream");
	if (bio_method) {
		BIO_meth_set_read(bio_method, read_bio);
		BIO_meth_set_write(bio_method, write_bio);
		BIO_meth_set_ctrl(bio_method, control_bio);
	}
	if (pthread_key_create(&scratch_key, free) && bio_method) {
		BIO_meth_free(bio_method);
		bio_method = NULL;
	}
}

static void
drop_output(struct tls_stream *tls)
{
	if (tls->output)
		slab_free(output_cache, tls->output);
	tls->output = NULL;
	tls->output_at = 0;
	tls->output_length = 0;
	tls->choked = false;
}

static void
fail(struct tls_stream *tls, int rc)
{
	if (!tls->failed)
		tls->failed = rc;
	drop_output(tls);
}

static ssize_t
write_inner(struct tls_stream *tls, const uint8_t *data, size_t length)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};

	return stream_write(tls->inner, &iov, 1);
}

/* Nothing can follow close_notify but the end. */
static void
finish_inner(struct tls_stream *tls)
{
	if (!tls->finishing || tls->finished || tls->failed)
		return;
	tls->finished = true;
	if (tls->inner->ops->finish)
		stream_finish(tls->inner);
}

/* What was kept goes first; true when nothing is left of it. */
static bool
flush_kept(struct tls_stream *tls)
{
	ssize_t n;

	if (!tls->output)
		return true;
	n = write_inner(tls, tls->output + tls->output_at, tls->output_length - tls->output_at);
	if (n < 0 && n != -EAGAIN)
		fail(tls, (int)n);
	else if (n > 0)
		tls->output_at += (size_t)n;
	if (tls->output && tls->output_at == tls->output_length)
		drop_output(tls);
	return !tls->output;
}

/* Writes what OpenSSL has made; keeps what the inner stream does not take. Ends every call. */
static void
flush_output(struct tls_stream *tls, struct scratch *scratch)
{
	size_t length = tls->finished ? 0 : scratch->output_length;
	ssize_t n = 0;

	scratch->output_length = 0;
	if (!flush_kept(tls) || length == 0)
		return;
	n = write_inner(tls, scratch->output, length);
	if (n < 0 && n != -EAGAIN) {
		fail(tls, (int)n);
		return;
	}
	if (n < 0)
		n = 0;
	if ((size_t)n == length)
		tls->choked = false;
	if ((size_t)n == length || tls->failed)
		return;
	tls->output = slab_alloc(output_cache);
	if (!tls->output) {
		fail(tls, -ENOMEM);
		return;
	}
	tls->output_at = 0;
	tls->output_length = length - (size_t)n;
	memcpy(tls->output, scratch->output + n, tls->output_length);
}

/* Keeps what was received and not decrypted. */
static void
keep_input(struct tls_stream *tls)
{
	if (tls->input_left == 0 || tls->failed) {
		if (tls->kept)
			slab_free(input_cache, tls->kept);
		tls->kept = NULL;
		tls->input_left = 0;
		return;
	}
	/* receive() took no more than the owner's room or this: our alerts have filled the output.
	 */
	if (tls->input_left > LIMIT_TLS_INPUT) {
		fail(tls, -EPROTO);
		keep_input(tls);
		return;
	}
	if (!tls->kept && !(tls->kept = slab_alloc(input_cache))) {
		tls->input_left = 0;
		fail(tls, -ENOMEM);
		return;
	}
	memmove(tls->kept, tls->input, tls->input_left);
	tls->input = tls->kept;
}

/*
 * Only when all that was received before is decrypted. `room`: plaintext that the owner still
 * takes. A record begun earlier may add its plaintext to that of the bytes received now, so that
 * beyond two records no more is received than will be taken, and below that LIMIT_TLS_INPUT.
 */
static bool
receive(struct tls_stream *tls, struct scratch *scratch, size_t room)
{
	size_t most =
		room > 2 * RECORD_MAX ? min_size(room - RECORD_MAX, RECEIVE_MAX) : LIMIT_TLS_INPUT;
	struct iovec iov = {.iov_base = scratch->received, .iov_len = most};
	ssize_t n = stream_read(tls->inner, &iov, 1);

	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		/* RFC 8446 6.1: an end without close_notify may be somebody else's doing. */
		fail(tls, n == 0 ? -ECONNRESET : (int)n);
		return false;
	}
	tls->input = scratch->received;
	tls->input_left = (size_t)n;
	return true;
}

/* The result of an SSL call that did not succeed: whether it may go on later. */
static bool
may_continue(struct tls_stream *tls, int result)
{
	switch (SSL_get_error(tls->ssl, result)) {
	case SSL_ERROR_WANT_WRITE:
		tls->choked = true;
		return true;
	case SSL_ERROR_WANT_READ:
		return true;
	case SSL_ERROR_ZERO_RETURN:
		tls->ended = true;
		return false;
	default:
		return false;
	}
}

/* Fills the vector from `done` on; the bytes in it then. */
static size_t
decrypt(struct tls_stream *tls, const struct iovec *iov, unsigned niov, size_t done)
{
	size_t skip = done, n;

	for (unsigned i = 0; i < niov; i++) {
		size_t at = min_size(skip, iov[i].iov_len);

		skip -= at;
		while (at < iov[i].iov_len) {
			ERR_clear_error();
			if (SSL_read_ex(tls->ssl, (uint8_t *)iov[i].iov_base + at,
				    iov[i].iov_len - at, &n)) {
				at += n;
				done += n;
			} else {
				if (!may_continue(tls, 0) && !tls->ended) {
					tls->failed = -EPROTO;
					log_debug("%s: TLS: %s", stream_peer(tls->inner),
						tls_reason());
				}
				return done;
			}
		}
	}
	return done;
}

/* The same; answers of TLS itself are sent on the way. */
static size_t
decrypt_all(struct tls_stream *tls, struct scratch *scratch, const struct iovec *iov, unsigned niov,
	size_t done)
{
	bool choked;

	do {
		done = decrypt(tls, iov, niov, done);
		choked = tls->choked;
		flush_output(tls, scratch);
	} while (choked && !tls->choked && !tls->failed);
	return done;
}

/* A read would give something else than -EAGAIN, or may. */
static bool
has_news(const struct tls_stream *tls)
{
	if (tls->failed || tls->ended)
		return true;
	return tls->established && !tls->choked &&
	       (tls->input_left > 0 || SSL_pending(tls->ssl) > 0);
}

/* What the owner wants and can have, now that the inner stream is ready for `events`. */
static unsigned
find_ready(const struct tls_stream *tls, unsigned events)
{
	unsigned ready = 0;

	if (has_news(tls) || (tls->established && events & STREAM_READABLE))
		ready |= STREAM_READABLE;
	if (tls->failed || (tls->established && !tls->output && events & STREAM_WRITABLE))
		ready |= STREAM_WRITABLE;
	return ready & tls->wanted;
}

/* Watches for what moves this stream on, and nudges the owner to what is here already. */
static int
settle(struct tls_stream *tls)
{
	unsigned events = 0;
	int rc = 0;

	if (!tls->nudge)
		return 0;
	if (tls->output)
		events |= STREAM_WRITABLE;
	else
		finish_inner(tls);
	if (!tls->established)
		events |= STREAM_READABLE;
	else
		events |= tls->wanted;
	/* What is not read although it is there must not wake us again and again. */
	if (has_news(tls) || tls->choked || (!tls->established && tls->output))
		events &= ~(unsigned)STREAM_READABLE;
	if (tls->failed)
		events = 0;
	if (find_ready(tls, 0) && !tls->nudge->task.queued)
		loop_defer(tls->stream.loop, &tls->nudge->task);
	if (events != tls->watched) {
		rc = stream_watch(tls->inner, events);
		if (rc == 0)
			tls->watched = events;
	}
	return rc;
}

static void
run_nudge(struct loop_task *task)
{
	struct nudge *nudge = container_of(task, struct nudge, task);
	struct tls_stream *tls = nudge->tls;
	unsigned ready;

	if (!tls) {
		free(nudge);
		return;
	}
	ready = find_ready(tls, 0);
	if (ready)
		tls->stream.ready(&tls->stream, ready);
}

/* Someone who knocks at the door all day must not fill the log. */
static void
log_failure(const struct tls_stream *tls, const char *reason)
{
	static _Atomic uint64_t last;
	uint64_t now = clock_now(), then = atomic_load(&last);

	if ((then == 0 || now - then >= LOG_EVERY) &&
		atomic_compare_exchange_strong(&last, &then, now))
		log_info("%s: no TLS: %s", stream_peer(tls->inner), reason);
	else
		log_debug("%s: no TLS: %s", stream_peer(tls->inner), reason);
}

/* "CN=" and the name: what a person or a rule calls the peer by. Made fit for any output. */
static void
note_certificate(struct tls_stream *tls)
{
	const X509 *certificate = SSL_get0_peer_certificate(tls->ssl);
	const X509_NAME *name = certificate ? X509_get_subject_name(certificate) : NULL;
	char *text = tls->identity + 3;
	int length;

	if (!name)
		return;
	length = X509_NAME_get_text_by_NID(
		(X509_NAME *)(uintptr_t)name, NID_commonName, text, LIMIT_TLS_PSK_IDENTITY);
	if (length < 0)
		return;
	memcpy(tls->identity, "CN=", 3);
	text[length] = '\0';
	for (int i = 0; i < length; i++)
		if (text[i] < 0x20 || text[i] > 0x7e)
			text[i] = '?';
}

static void
establish(struct tls_stream *tls)
{
	const char *psk = SSL_get_psk_identity(tls->ssl);

	tls->established = true;
	tls->version = SSL_version(tls->ssl) >= TLS1_3_VERSION ? "TLS 1.3" : "TLS 1.2";
	/* In 1.3 a key that was named and then not used proves nothing; there is no resumption. */
	if (!SSL_session_reused(tls->ssl) && !psk)
		tls->identity[0] = '\0';
	note_certificate(tls);
	log_debug("%s: %s, %s%s%s", stream_peer(tls->inner), tls->version,
		SSL_get_cipher_name(tls->ssl), tls->identity[0] ? ", " : "", tls->identity);
}

/* At most one step in a turn of the loop: a signature may cost milliseconds. */
static void
step_handshake(struct tls_stream *tls)
{
	struct scratch *scratch = get_scratch();
	int result;

	if (!scratch) {
		fail(tls, -ENOMEM);
		return;
	}
	if (tls->input_left == 0 && !receive(tls, scratch, 0)) {
		if (tls->failed)
			log_failure(tls, "the peer hung up in the handshake");
		return;
	}
	do {
		flush_output(tls, scratch);
		ERR_clear_error();
		result = SSL_do_handshake(tls->ssl);
	} while (result != 1 && may_continue(tls, result) && tls->choked && !tls->output);
	if (result == 1) {
		establish(tls);
	} else if (!may_continue(tls, result)) {
		log_failure(tls, tls_reason());
		fail(tls, -EPROTO);
	}
	flush_output(tls, scratch); /* the alert too */
	keep_input(tls);
}

static void
on_inner_ready(struct stream *inner, unsigned events)
{
	struct tls_stream *tls = inner->owner;
	unsigned ready;

	if (events & STREAM_WRITABLE)
		flush_kept(tls);
	if (!tls->established && !tls->failed) {
		/* What was kept waits for room in the output. */
		if (!tls->output && (events & STREAM_READABLE || tls->input_left))
			step_handshake(tls);
		events = 0;
	}
	if (settle(tls))
		fail(tls, -ENOMEM);
	ready = find_ready(tls, events);
	if (ready)
		tls->stream.ready(&tls->stream, ready);
}

static ssize_t
read_tls(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	struct tls_stream *tls = tls_of(stream);
	struct scratch *scratch = get_scratch();
	size_t room = iov_length(iov, niov);
	size_t done = 0;

	if (!scratch)
		return -ENOMEM;
	if (!tls->established && !tls->failed)
		return -EAGAIN;
	if (!tls->failed && !tls->ended) {
		flush_kept(tls);
		done = decrypt_all(tls, scratch, iov, niov, 0);
		if (done < room && !tls->failed && !tls->ended && tls->input_left == 0 &&
			receive(tls, scratch, room - done))
			done = decrypt_all(tls, scratch, iov, niov, done);
		keep_input(tls);
	}
	if (settle(tls))
		fail(tls, -ENOMEM);
	if (done > 0)
		return (ssize_t)done;
	if (tls->failed)
		return tls->failed;
	return tls->ended ? 0 : -EAGAIN;
}

/* The next record's plaintext: in place where one piece holds it, else gathered. */
static const uint8_t *
gather_record(const struct iovec *iov, unsigned niov, size_t skip, struct scratch *scratch,
	size_t *length)
{
	struct iovec part[64];
	unsigned n = iov_slice(iov, niov, skip, RECORD_PLAIN, part, ARRAY_SIZE(part), length);

	if (n == 1)
		return part[0].iov_base;
	*length = iov_to(part, n, 0, scratch->record, *length);
	return scratch->record;
}

/* Encrypts up to a batch from `done` on; the bytes of plaintext. */
static size_t
encrypt_batch(struct tls_stream *tls, struct scratch *scratch, const struct iovec *iov,
	unsigned niov, size_t done, size_t total)
{
	size_t batch = 0, length, n;

	for (unsigned i = 0; i < BATCH_RECORDS && done + batch < total; i++) {
		const uint8_t *data = gather_record(iov, niov, done + batch, scratch, &length);

		ERR_clear_error();
		if (!SSL_write_ex(tls->ssl, data, length, &n)) {
			/* There is room for it: nothing can be wanted. */
			fail(tls, -EPROTO);
			break;
		}
		batch += n;
	}
	return batch;
}

static ssize_t
write_tls(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	struct tls_stream *tls = tls_of(stream);
	struct scratch *scratch = get_scratch();
	size_t total = iov_length(iov, niov);
	size_t done = 0;

	if (!scratch)
		return -ENOMEM;
	if (tls->established && !tls->failed && flush_kept(tls)) {
		CHECK(tls->owed <= total);
		done = tls->owed;
		tls->owed = 0;
		while (done < total && !tls->failed) {
			size_t batch = encrypt_batch(tls, scratch, iov, niov, done, total);

			flush_output(tls, scratch);
			if (tls->output) {
				tls->owed = batch;
				break;
			}
			done += batch;
		}
	}
	if (settle(tls))
		fail(tls, -ENOMEM);
	if (tls->failed)
		return tls->failed;
	return done > 0 ? (ssize_t)done : -EAGAIN;
}

static int
watch_tls(struct stream *stream, unsigned events)
{
	struct tls_stream *tls = tls_of(stream);

	tls->wanted = events;
	return settle(tls);
}

static int
attach_tls(struct stream *stream, struct loop *loop)
{
	struct tls_stream *tls = tls_of(stream);
	struct nudge *nudge = calloc(1, sizeof(*nudge));
	int rc = nudge ? stream_attach(tls->inner, loop, on_inner_ready, tls) : -ENOMEM;

	if (rc) {
		free(nudge);
		return rc;
	}
	nudge->task.run = run_nudge;
	nudge->tls = tls;
	tls->nudge = nudge;
	tls->wanted = STREAM_READABLE;
	tls->watched = STREAM_READABLE;
	rc = settle(tls);
	if (rc)
		tls_ops.detach(stream);
	return rc;
}

static void
detach_tls(struct stream *stream)
{
	struct tls_stream *tls = tls_of(stream);

	if (tls->nudge->task.queued)
		tls->nudge->tls = NULL;
	else
		free(tls->nudge);
	tls->nudge = NULL;
	stream_detach(tls->inner);
}

/*
 * close_notify, behind everything that was counted as written. Then what the peer has sent is read
 * away: closing a socket with unread bytes would reset it, and take our last ones from the peer.
 */
static void
say_goodbye(struct tls_stream *tls, struct scratch *scratch)
{
	struct iovec iov = {.iov_base = scratch->received, .iov_len = sizeof(scratch->received)};

	if (!flush_kept(tls) || tls->failed)
		return;
	ERR_clear_error();
	SSL_shutdown(tls->ssl);
	flush_output(tls, scratch);
	stream_read(tls->inner, &iov, 1);
}

static int
finish_tls(struct stream *stream)
{
	struct tls_stream *tls = tls_of(stream);
	struct scratch *scratch = get_scratch();

	if (!scratch || !tls->established || tls->failed)
		return -ENOTCONN;
	ERR_clear_error();
	SSL_shutdown(tls->ssl);
	flush_output(tls, scratch);
	tls->finishing = true;
	if (settle(tls))
		fail(tls, -ENOMEM);
	return tls->failed;
}

static void
close_tls(struct stream *stream)
{
	struct tls_stream *tls = tls_of(stream);
	struct scratch *scratch = get_scratch();

	if (scratch && tls->established && !tls->finishing)
		say_goodbye(tls, scratch);
	drop_output(tls);
	tls->input_left = 0;
	keep_input(tls);
	SSL_free(tls->ssl);
	ERR_clear_error();
	stream_close(tls->inner);
	tls_context_put(tls->context);
	slab_free(stream_cache, tls);
}

static const char *
peer_tls(const struct stream *stream)
{
	return stream_peer(tls_of(stream)->inner);
}

static const char *
local_tls(const struct stream *stream)
{
	return stream_local(tls_of(stream)->inner);
}

static const char *
identity_tls(const struct stream *stream)
{
	const struct tls_stream *tls = tls_of(stream);

	return tls->established ? tls->identity : "";
}

static const char *
security_tls(const struct stream *stream)
{
	return tls_of(stream)->version;
}

static void
established_tls(struct stream *stream)
{
	stream_established(tls_of(stream)->inner);
}

static const struct stream_ops tls_ops = {
	.read = read_tls,
	.write = write_tls,
	.watch = watch_tls,
	.attach = attach_tls,
	.detach = detach_tls,
	.close = close_tls,
	.finish = finish_tls,
	.established = established_tls,
	.peer = peer_tls,
	.local = local_tls,
	.identity = identity_tls,
	.security = security_tls,
};

bool
stream_tls_start(void)
{
	pthread_once(&once, make_globals);
	return stream_cache && input_cache && output_cache && bio_method;
}

struct stream *
stream_tls_new(struct stream *inner, struct tls_context *context)
{
	struct tls_stream *tls = slab_alloc(stream_cache);
	BIO *bio;

	if (!tls)
		return NULL;
	memset(tls, 0, sizeof(*tls));
	tls->stream.ops = &tls_ops;
	tls->inner = inner;
	bio = BIO_new(bio_method);
	tls->ssl = bio ? tls_context_ssl(context, tls->identity) : NULL;
	if (!tls->ssl) {
		BIO_free(bio);
		slab_free(stream_cache, tls);
		return NULL;
	}
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	tls->context = tls_context_get(context);
	return &tls->stream;
}
