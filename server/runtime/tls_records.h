/*
 * TLS's records over another stream: plaintext on one side, ciphertext on the other. It knows neither
 * loop nor owner; who calls when is stream_tls.c's business.
 *
 * OpenSSL sees no socket: ciphertext is read into a buffer of the thread (one large read for many
 * records), decrypted straight into what the owner reads into, and what is encrypted is collected
 * and written every two records. Between calls only what is left over is kept: at most
 * LIMIT_TLS_INPUT of ciphertext that nobody wanted yet, and LIMIT_TLS_OUTPUT that the inner stream
 * did not take (R04).
 *
 * Of the thread that the stream belongs to.
 */
#ifndef SLABD_TLS_RECORDS_H
#define SLABD_TLS_RECORDS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stream.h"

struct tls_records {
	struct stream *inner; /* the owner's */
	SSL *ssl;
	int failed;  /* -errno: dead */
	bool ended;  /* close_notify received */
	bool silent; /* the inner stream's end was told: nothing is written any more */
	bool choked; /* OpenSSL reads on when the output is flushed */

	/* Ciphertext to decrypt: in the thread's buffer during a call, in `kept` between calls. */
	const uint8_t *input;
	size_t input_left;
	uint8_t *kept; /* NULL: none */

	/* Ciphertext that the inner stream did not take. While there is any, more goes behind it.
	 */
	uint8_t *output; /* NULL: none */
	size_t output_at, output_length;
	size_t owed; /* plaintext encrypted and not yet counted as written */
};

/* Caches and the like; any thread, any number of times. False: no memory. */
bool tls_records_start(void);

/* Owns ssl, also when it fails. 0 or -ENOMEM. */
int tls_records_init(struct tls_records *records, struct stream *inner, SSL *ssl);
/* Frees ssl and all that is kept; not the inner stream. */
void tls_records_free(struct tls_records *records);

/* The first failure stays; what was to be sent is dropped. */
void tls_records_fail(struct tls_records *records, int rc);

/* Writes what was kept; true when nothing is left of it. */
bool tls_records_flush(struct tls_records *records);

/*
 * A step of the handshake: one read, and what OpenSSL makes of it. 1: done. 0: it goes on when the
 * inner stream is readable, or when what is kept is flushed. -errno: failed; *reason says why.
 */
int tls_records_handshake(struct tls_records *records, const char **reason);

/* The bytes of plaintext, 0 where there are none now or it has ended or failed. */
size_t tls_records_read(struct tls_records *records, const struct iovec *iov, unsigned niov);

/*
 * The bytes that were written. What was encrypted and could not be sent is not counted yet: the
 * next call must offer the same bytes again.
 */
size_t tls_records_write(struct tls_records *records, const struct iovec *iov, unsigned niov);

/* Puts close_notify behind what was written. */
void tls_records_shutdown(struct tls_records *records);
/* The same where the stream is closed next: what the peer sent is read away before. */
void tls_records_goodbye(struct tls_records *records);

/* There is something to read, as far as one can know without reading. */
bool tls_records_pending(const struct tls_records *records);

#endif
