/*
 * TLS: who we are and whom we trust (server/runtime/tls_context.c), and a stream that speaks it
 * over another stream (server/runtime/stream_tls.c). TLS 1.3, or 1.2 with ECDHE and AEAD; no
 * renegotiation, no compression, no early data, no resumption.
 */
#ifndef SLABD_TLS_H
#define SLABD_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"
#include "log.h"
#include "stream.h"

enum tls_mode {
	TLS_UNSET,
	TLS_OFF,
	TLS_ALLOW,   /* whoever asks for it gets it */
	TLS_REQUIRE, /* nothing is served without it */
};

/* Paths; NULL: none. A certificate needs its key; a CA needs a certificate. */
struct tls_files {
	const char *certificate; /* PEM: ours, then the chain up to what the peers trust */
	const char *key;         /* PEM, for nobody but its owner */
	const char *ca;  /* PEM: who signs clients; with it every client needs a certificate */
	const char *psk; /* lines of IDENTITY:HEXKEY, for nobody but its owner */
};

/* Immutable and reference-counted. Any thread, but for tls_context_new(). */
struct tls_context;

/*
 * Reads and checks them all: present, in order, fitting each other, not expired, private where they
 * must be. NULL with *error naming the file and the reason. Main thread.
 */
struct tls_context *tls_context_new(const struct tls_files *files, struct error *error);
struct tls_context *tls_context_get(struct tls_context *context);
void tls_context_put(struct tls_context *context); /* NULL is harmless */

/* No peer gets through a handshake without a certificate of the CA or a key of the PSK file. */
bool tls_context_verifies(const struct tls_context *context);

/* "OpenSSL 3.0.22". */
const char *tls_library(void);

/*
 * The server's end of TLS over `inner`, which is attached to no loop and is the new stream's from
 * here on; unless it fails (NULL: no memory), then it is still the caller's. The handshake is done
 * behind stream_attach(): until it is over reads and writes say -EAGAIN, and if it fails reads say
 * so. A read says 0 only after the peer's close_notify; an end without it is -ECONNRESET.
 * stream_close() sends ours, as far as the inner stream takes it at once.
 *
 * What stream_write() did not count may be encrypted already: the caller must offer the same bytes
 * again, first, as send_queue does.
 */
struct stream *stream_tls_new(struct stream *inner, struct tls_context *context);

/* PSK files, without OpenSSL (server/runtime/tls_psk.c). */
struct tls_psk {
	char *identity;
	uint8_t key[LIMIT_TLS_PSK_KEY];
	size_t length;
};

struct tls_psk_table {
	struct tls_psk *entries; /* by identity */
	size_t count;
};

/* `text` of a PSK file; `path` is its name in errors. 0 or -errno with nothing to free. */
int tls_psk_parse(struct tls_psk_table *table, const char *path, const char *text, size_t length,
	struct error *error);
/* An identity as a peer sent it: any bytes. NULL: unknown. */
const struct tls_psk *
tls_psk_find(const struct tls_psk_table *table, const void *identity, size_t length);
/* Cleanses the keys. */
void tls_psk_clear(struct tls_psk_table *table);

#endif
