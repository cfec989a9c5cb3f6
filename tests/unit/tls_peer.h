/* Certificates, keys and an OpenSSL client for the tests of TLS. */
#ifndef SLABD_TLS_PEER_H
#define SLABD_TLS_PEER_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

#include "stream_pipe.h"
#include "tls.h"

/* A directory of its own, and all that is made in it; paths stay good until tls_files_end(). */
void tls_files_start(void);
void tls_files_end(void);
/* DIRECTORY/name. */
const char *tls_path(const char *name);

enum tls_key { KEY_P256, KEY_RSA_2048, KEY_RSA_3072 };

/*
 * Makes NAME.pem and NAME.key (mode 0600). `issuer`: the name of the pair that signs, NULL for
 * itself (then it is a CA). Valid from now + `from` to now + `to` seconds.
 */
void tls_make(const char *name, const char *issuer, enum tls_key kind, long from, long to);
void tls_write(const char *name, unsigned mode, const char *text);

/* A context of the files that were made; NULL where none. Fails the test with the reason. */
struct tls_context *
tls_server(const char *certificate, const char *key, const char *ca, const char *psk);

/* The client's end, over memory. */
struct tls_client {
	SSL_CTX *context;
	SSL *ssl;
	BIO *in, *out;
};

/* version: 0 or the only one, TLS1_2_VERSION. ca, certificate: names of pairs or NULL. */
void
tls_client_start(struct tls_client *client, int version, const char *ca, const char *certificate);
/* Instead of certificates; the key is 16 bytes of `byte`. */
void
tls_client_psk(struct tls_client *client, int version, const char *identity, unsigned char byte);
void tls_client_end(struct tls_client *client);

/* Moves what the client has to say to the pipe, at most `most` bytes; the bytes. */
size_t tls_client_push(struct tls_client *client, struct stream_pipe *pipe, size_t most);
/* Moves what the stream has written to the client. */
size_t tls_client_pull(struct tls_client *client, struct stream_pipe *pipe);

#endif
