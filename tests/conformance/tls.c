#include "config.h"
#include "tls.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PSK_MAX = 64, IDENTITY_MAX = 128 };

/* The key of OpenSSL's callback, which knows no better place to keep it. */
static struct {
	char identity[IDENTITY_MAX];
	uint8_t key[PSK_MAX];
	unsigned key_length;
} psk;

static unsigned
give_psk(SSL *ssl, const char *hint, char *identity, unsigned identity_size, unsigned char *key,
	unsigned key_size)
{
	(void)ssl;
	(void)hint;
	if (strlen(psk.identity) >= identity_size || psk.key_length > key_size)
		return 0;
	memcpy(identity, psk.identity, strlen(psk.identity) + 1);
	memcpy(key, psk.key, psk.key_length);
	return psk.key_length;
}

static bool
parse_hex(const char *text)
{
	psk.key_length = 0;
	for (; text[0] != '\0' && text[1] != '\0' && psk.key_length < PSK_MAX; text += 2) {
		unsigned byte;
		int used = 0;
		if (sscanf(text, "%2x%n", &byte, &used) != 1 || used != 2)
			return false;
		psk.key[psk.key_length++] = (uint8_t)byte;
	}
	return text[0] == '\0' && psk.key_length > 0;
}

/* "identity:hexkey" lines; the wanted identity's, or the first if none is wanted. */
static int
load_psk(const char *path, const char *identity, char *why, size_t why_size)
{
	FILE *file = fopen(path, "re");
	if (file == NULL) {
		snprintf(why, why_size, "%s: %s", path, strerror(errno));
		return -1;
	}
	char line[512];
	bool found = false;
	while (!found && fgets(line, sizeof line, file) != NULL) {
		line[strcspn(line, "\r\n")] = '\0';
		char *colon = strchr(line, ':');
		if (colon == NULL || line[0] == '#' || colon - line >= IDENTITY_MAX)
			continue;
		*colon = '\0';
		if (identity != NULL && strcmp(identity, line) != 0)
			continue;
		memcpy(psk.identity, line, (size_t)(colon - line) + 1);
		found = parse_hex(colon + 1);
	}
	fclose(file);
	if (!found)
		snprintf(why, why_size, "%s: no line \"%s:HEXKEY\"", path,
			identity != NULL ? identity : "IDENTITY");
	return found ? 0 : -1;
}

/* The files that libnbd looks for in the same directory; those that are missing are not used. */
static int
load_certificates(struct tls *tls, const char *directory, char *why, size_t why_size)
{
	char path[3][4096];
	static const char *const names[] = {"ca-cert.pem", "client-cert.pem", "client-key.pem"};
	for (int i = 0; i < 3; i++)
		snprintf(path[i], sizeof path[i], "%s/%s", directory, names[i]);
	FILE *ca = fopen(path[0], "re");
	FILE *cert = fopen(path[1], "re");
	if (ca == NULL && cert == NULL) {
		snprintf(why, why_size, "%s: neither ca-cert.pem nor client-cert.pem is there",
			directory);
		return -1;
	}
	int rc = 0;
	if (ca != NULL) {
		fclose(ca);
		if (SSL_CTX_load_verify_file(tls->ctx, path[0]) != 1)
			rc = -1;
		else if (tls->verify)
			SSL_CTX_set_verify(tls->ctx, SSL_VERIFY_PEER, NULL);
	}
	if (cert != NULL) {
		fclose(cert);
		if (SSL_CTX_use_certificate_chain_file(tls->ctx, path[1]) != 1 ||
			SSL_CTX_use_PrivateKey_file(tls->ctx, path[2], SSL_FILETYPE_PEM) != 1)
			rc = -1;
	}
	if (rc != 0)
		snprintf(why, why_size, "%s: a certificate or key there cannot be used", directory);
	return rc;
}

bool
tls_parameter(struct tls *tls, const char *name, size_t name_length, char *value)
{
	const struct {
		const char *name;
		char **field;
	} strings[] = {
		{"tls-hostname", &tls->hostname},
		{"tls-certificates", &tls->certificates},
		{"tls-psk-file", &tls->psk_file},
		{"tls-username", &tls->username},
	};
	for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
		if (strlen(strings[i].name) != name_length ||
			memcmp(strings[i].name, name, name_length) != 0)
			continue;
		free(*strings[i].field);
		*strings[i].field = value;
		return true;
	}
	if (name_length != 15 || memcmp(name, "tls-verify-peer", 15) != 0 ||
		(value[0] != '0' && value[0] != '1') || value[1] != '\0')
		return false;
	tls->verify = value[0] == '1';
	free(value);
	return true;
}

int
tls_open(struct tls *tls, char *why, size_t why_size)
{
	tls->ctx = SSL_CTX_new(TLS_client_method());
	if (tls->ctx == NULL) {
		snprintf(why, why_size, "OpenSSL cannot be used");
		return -1;
	}
	SSL_CTX_set_mode(
		tls->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (tls->certificates != NULL &&
		load_certificates(tls, tls->certificates, why, why_size) != 0)
		return -1;
	if (tls->psk_file != NULL) {
		if (load_psk(tls->psk_file, tls->username, why, why_size) != 0)
			return -1;
		SSL_CTX_set_psk_client_callback(tls->ctx, give_psk);
		/* Up to TLS 1.2; GnuTLS gives up on suites that want a certificate too. */
		SSL_CTX_set_cipher_list(tls->ctx, "kECDHEPSK:kDHEPSK:kPSK");
	}
	return 0;
}

/* The name that the certificate must bear, unless the address or the user says otherwise. */
static void
set_verification(SSL *ssl, const char *name)
{
	if (name == NULL || name[0] == '\0')
		return;
	if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1)
		return;
	SSL_set_tlsext_host_name(ssl, name);
	if (SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
		SSL_set1_host(ssl, name);
}

SSL *
tls_new(const struct tls *tls, const char *host, int min_version, int max_version)
{
	SSL *ssl = SSL_new(tls->ctx);
	if (ssl == NULL)
		return NULL;
	set_verification(ssl, tls->hostname != NULL ? tls->hostname : host);
	if (max_version != 0 && max_version < TLS1_2_VERSION) {
		SSL_set_security_level(ssl, 0);
		SSL_set_cipher_list(ssl, "ALL:@SECLEVEL=0");
	}
	SSL_set_min_proto_version(ssl, min_version);
	SSL_set_max_proto_version(ssl, max_version);
	return ssl;
}

void
tls_close(struct tls *tls)
{
	SSL_CTX_free(tls->ctx);
	free(tls->hostname);
	free(tls->certificates);
	free(tls->psk_file);
	free(tls->username);
	*tls = (struct tls){0};
}
