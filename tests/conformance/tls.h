/* TLS as the URIs of both programs ask for it: the parameters, and OpenSSL set up by them. */
#ifndef CONFORMANCE_TLS_H
#define CONFORMANCE_TLS_H

#include <stdbool.h>
#include <stddef.h>

struct ssl_ctx_st;
struct ssl_st;

struct tls {
	char *hostname, *certificates, *psk_file, *username;
	bool verify;
	struct ssl_ctx_st *ctx;
};

/*
 * One parameter of the URI: tls-hostname, tls-certificates, tls-psk-file, tls-username or
 * tls-verify-peer. True if it is one of them and makes sense; value, malloc()ed, is taken then.
 */
bool tls_parameter(struct tls *tls, const char *name, size_t name_length, char *value);
/* Loads what the parameters name. 0, or -1 with the reason in why. */
int tls_open(struct tls *tls, char *why, size_t why_size);
/* For conn_start_tls(), NULL without memory; host is the URI's; min and max are TLS versions, 0 for any. */
struct ssl_st *tls_new(const struct tls *tls, const char *host, int min_version, int max_version);
void tls_close(struct tls *tls);

#endif
