#include "config.h"

#include "tls_records.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"
#include "log.h"
#include "slab.h"
#include "tls_openssl.h"

#define RECORD_PLAIN  (16 * 1024)
#define RECORD_MAX    (RECORD_PLAIN + 512) /* RFC 5246 6.2.3 allows a cipher more, AEADs take 22 */
#define BATCH_RECORDS 2
#define RECEIVE_MAX   (128 * 1024)

_Static_assert(LIMIT_TLS_OUTPUT >= BATCH_RECORDS * RECORD_MAX + 1024, "a batch fits");

/* A thread's, while it handles one call. */
struct scratch {
	uint8_t received[RECEIVE_MAX];
	uint8_t record[RECORD_PLAIN];     /* small pieces, gathered into one */
	uint8_t output[LIMIT_TLS_OUTPUT]; /* ciphertext to be written before the call ends */
	size_t output_length;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t scratch_key;
static struct slab_cache *input_cache, *output_cache;
static BIO_METHOD *bio_method;

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
	struct tls_records *tls = BIO_get_data(bio);
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
	struct tls_records *tls = BIO_get_data(bio);
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

bool
tls_records_start(void)
{
	pthread_once(&once, make_globals);
	return input_cache && output_cache && bio_method;
}

static void
drop_output(struct tls_records *tls)
{
	if (tls->output)
		slab_free(output_cache, tls->output);
	tls->output = NULL;
	tls->output_at = 0;
	tls->output_length = 0;
	tls->choked = false;
}

void
tls_records_fail(struct tls_records *tls, int rc)
{
	if (!tls->failed)
		tls->failed = rc;
	drop_output(tls);
}

static ssize_t
write_inner(struct tls_records *tls, const uint8_t *data, size_t length)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};

	return stream_write(tls->inner, &iov, 1);
}

bool
tls_records_flush(struct tls_records *tls)
{
	ssize_t n;

	if (!tls->output)
		return true;
	n = write_inner(tls, tls->output + tls->output_at, tls->output_length - tls->output_at);
	if (n < 0 && n != -EAGAIN)
		tls_records_fail(tls, (int)n);
	else if (n > 0)
		tls->output_at += (size_t)n;
	if (tls->output && tls->output_at == tls->output_length)
		drop_output(tls);
	return !tls->output;
}

/* Writes what OpenSSL has made; keeps what the inner stream does not take. Ends every call. */
static void
flush_output(struct tls_records *tls, struct scratch *scratch)
{
	size_t length = tls->silent ? 0 : scratch->output_length;
	ssize_t n = 0;

	scratch->output_length = 0;
	if (!tls_records_flush(tls) || length == 0)
		return;
	n = write_inner(tls, scratch->output, length);
	if (n < 0 && n != -EAGAIN) {
		tls_records_fail(tls, (int)n);
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
		tls_records_fail(tls, -ENOMEM);
		return;
	}
	tls->output_at = 0;
	tls->output_length = length - (size_t)n;
	memcpy(tls->output, scratch->output + n, tls->output_length);
}

/* Keeps what was received and not decrypted. */
static void
keep_input(struct tls_records *tls)
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
		tls_records_fail(tls, -EPROTO);
		keep_input(tls);
		return;
	}
	if (!tls->kept && !(tls->kept = slab_alloc(input_cache))) {
		tls->input_left = 0;
		tls_records_fail(tls, -ENOMEM);
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
receive(struct tls_records *tls, struct scratch *scratch, size_t room)
{
	size_t most =
		room > 2 * RECORD_MAX ? min_size(room - RECORD_MAX, RECEIVE_MAX) : LIMIT_TLS_INPUT;
	struct iovec iov = {.iov_base = scratch->received, .iov_len = most};
	ssize_t n = stream_read(tls->inner, &iov, 1);

	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		/* RFC 8446 6.1: an end without close_notify may be somebody else's doing. */
		tls_records_fail(tls, n == 0 ? -ECONNRESET : (int)n);
		return false;
	}
	tls->input = scratch->received;
	tls->input_left = (size_t)n;
	return true;
}

/* The result of an SSL call that did not succeed: whether it may go on later. */
static bool
may_continue(struct tls_records *tls, int result)
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
decrypt(struct tls_records *tls, const struct iovec *iov, unsigned niov, size_t done)
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
decrypt_all(struct tls_records *tls, struct scratch *scratch, const struct iovec *iov,
	unsigned niov, size_t done)
{
	bool choked;

	do {
		done = decrypt(tls, iov, niov, done);
		choked = tls->choked;
		flush_output(tls, scratch);
	} while (choked && !tls->choked && !tls->failed);
	return done;
}

/*
 * Why the handshake failed: of a certificate that was refused, what is wrong with it.
 */
static const char *
handshake_reason(const SSL *ssl)
{
	long verdict = SSL_get_verify_result(ssl);
	const char *reason = tls_reason();

	return verdict == X509_V_OK ? reason : X509_verify_cert_error_string(verdict);
}

int
tls_records_handshake(struct tls_records *tls, const char **reason)
{
	struct scratch *scratch = get_scratch();
	int result;

	*reason = "out of memory";
	if (!scratch) {
		tls_records_fail(tls, -ENOMEM);
		return tls->failed;
	}
	/* Where its own output held it up, nothing need come from the peer. */
	if (!SSL_want_write(tls->ssl) && tls->input_left == 0 && !receive(tls, scratch, 0)) {
		*reason = "the peer hung up in the handshake";
		return tls->failed;
	}
	do {
		flush_output(tls, scratch);
		ERR_clear_error();
		result = SSL_do_handshake(tls->ssl);
	} while (result != 1 && may_continue(tls, result) && tls->choked && !tls->output);
	if (result != 1 && !may_continue(tls, result)) {
		*reason = handshake_reason(tls->ssl);
		tls_records_fail(tls, -EPROTO);
	}
	flush_output(tls, scratch); /* the alert too */
	keep_input(tls);
	return tls->failed ? tls->failed : result == 1;
}

size_t
tls_records_read(struct tls_records *tls, const struct iovec *iov, unsigned niov)
{
	struct scratch *scratch = get_scratch();
	size_t room = iov_length(iov, niov);
	size_t done;

	if (!scratch) {
		tls_records_fail(tls, -ENOMEM);
		return 0;
	}
	tls_records_flush(tls);
	done = decrypt_all(tls, scratch, iov, niov, 0);
	if (done < room && !tls->failed && !tls->ended && tls->input_left == 0 &&
		receive(tls, scratch, room - done))
		done = decrypt_all(tls, scratch, iov, niov, done);
	keep_input(tls);
	return done;
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
encrypt_batch(struct tls_records *tls, struct scratch *scratch, const struct iovec *iov,
	unsigned niov, size_t done, size_t total)
{
	size_t batch = 0, length, n;

	for (unsigned i = 0; i < BATCH_RECORDS && done + batch < total; i++) {
		const uint8_t *data = gather_record(iov, niov, done + batch, scratch, &length);

		ERR_clear_error();
		if (!SSL_write_ex(tls->ssl, data, length, &n)) {
			/* There is room for it: nothing can be wanted. */
			tls_records_fail(tls, -EPROTO);
			break;
		}
		batch += n;
	}
	return batch;
}

size_t
tls_records_write(struct tls_records *tls, const struct iovec *iov, unsigned niov)
{
	struct scratch *scratch = get_scratch();
	size_t total = iov_length(iov, niov);
	size_t done;

	if (!scratch) {
		tls_records_fail(tls, -ENOMEM);
		return 0;
	}
	if (!tls_records_flush(tls))
		return 0;
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
	return done;
}

void
tls_records_shutdown(struct tls_records *tls)
{
	struct scratch *scratch = get_scratch();

	if (!scratch)
		return;
	ERR_clear_error();
	SSL_shutdown(tls->ssl);
	flush_output(tls, scratch);
}

/* A socket that is closed with bytes unread is reset, and our last ones are lost to the peer. */
void
tls_records_goodbye(struct tls_records *tls)
{
	struct scratch *scratch = get_scratch();
	struct iovec iov;

	if (!scratch || !tls_records_flush(tls) || tls->failed)
		return;
	tls_records_shutdown(tls);
	iov = (struct iovec){scratch->received, sizeof(scratch->received)};
	stream_read(tls->inner, &iov, 1);
}

bool
tls_records_pending(const struct tls_records *tls)
{
	return !tls->choked && (tls->input_left > 0 || SSL_pending(tls->ssl) > 0);
}

int
tls_records_init(struct tls_records *tls, struct stream *inner, SSL *ssl)
{
	BIO *bio = BIO_new(bio_method);

	*tls = (struct tls_records){.inner = inner, .ssl = ssl};
	if (!bio) {
		SSL_free(ssl);
		return -ENOMEM;
	}
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(ssl, bio, bio);
	return 0;
}

void
tls_records_free(struct tls_records *tls)
{
	drop_output(tls);
	tls->input_left = 0;
	keep_input(tls);
	SSL_free(tls->ssl);
	ERR_clear_error();
}
