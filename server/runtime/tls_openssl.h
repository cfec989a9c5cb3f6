/*
 * What tls_context.c, stream_tls.c and tls_records.c share: they alone include OpenSSL, besides
 * CHAP's digests.
 */
#ifndef SLABD_TLS_OPENSSL_H
#define SLABD_TLS_OPENSSL_H

#include <openssl/ssl.h>

#include "tls.h"

/* A server's end in accept state. Its app data is the char[LIMIT_TLS_PSK_IDENTITY + 1] where the
 * PSK identity a client names is noted, once it is known. NULL: no memory. */
SSL *tls_context_ssl(struct tls_context *context, char *identity);

/* The caches of stream_tls.c. Main thread, any number of times. False: no memory. */
bool stream_tls_start(void);

/* The first reason in this thread's error queue, which is emptied: "certificate verify failed". */
const char *tls_reason(void);

#endif
