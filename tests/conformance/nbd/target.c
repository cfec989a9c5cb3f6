#include "config.h"
#include "target.h"

#include "conn.h"
#include "session.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char program_name[] = "nbdcheck";
const char program_subject[] = "export";
const char program_peer[] = "server";
const char program_uris[] = "nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbds and "
			    "nbds+unix with TLS";

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
load_certificates(struct target *target, const char *directory, char *why, size_t why_size)
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
		if (SSL_CTX_load_verify_file(target->ssl, path[0]) != 1)
			rc = -1;
		else if (target->uri.tls_verify)
			SSL_CTX_set_verify(target->ssl, SSL_VERIFY_PEER, NULL);
	}
	if (cert != NULL) {
		fclose(cert);
		if (SSL_CTX_use_certificate_chain_file(target->ssl, path[1]) != 1 ||
			SSL_CTX_use_PrivateKey_file(target->ssl, path[2], SSL_FILETYPE_PEM) != 1)
			rc = -1;
	}
	if (rc != 0)
		snprintf(why, why_size, "%s: a certificate or key there cannot be used", directory);
	return rc;
}

int
target_open(struct target *target, const char *uri, char *why, size_t why_size)
{
	target->uri_text = uri;
	if (uri_parse(uri, &target->uri, why, why_size) != 0)
		return -1;
	target->ssl = SSL_CTX_new(TLS_client_method());
	if (target->ssl == NULL) {
		snprintf(why, why_size, "OpenSSL cannot be used");
		return -1;
	}
	SSL_CTX_set_mode(
		target->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	const struct uri *u = &target->uri;
	if (u->tls_certificates != NULL &&
		load_certificates(target, u->tls_certificates, why, why_size) != 0)
		return -1;
	if (u->tls_psk_file != NULL) {
		if (load_psk(u->tls_psk_file, u->tls_username, why, why_size) != 0)
			return -1;
		SSL_CTX_set_psk_client_callback(target->ssl, give_psk);
		/* Up to TLS 1.2; GnuTLS gives up on suites that want a certificate too. */
		SSL_CTX_set_cipher_list(target->ssl, "kECDHEPSK:kDHEPSK:kPSK");
	}
	return 0;
}

int
target_connect(const struct target *target, int64_t left_ns, int *error)
{
	const struct uri *uri = &target->uri;
	if (uri->unix_socket)
		return conn_connect_unix(uri->socket, uri->socket_length, left_ns);
	return conn_connect_tcp(uri->host, uri->port != NULL ? uri->port : "10809", left_ns, error);
}

/* The name that the certificate must bear, unless the address or the user says otherwise. */
static void
set_verification(SSL *ssl, const struct uri *uri)
{
	const char *name = uri->tls_hostname != NULL ? uri->tls_hostname : uri->host;
	if (name == NULL || name[0] == '\0')
		return;
	if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1)
		return;
	SSL_set_tlsext_host_name(ssl, name);
	if (SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
		SSL_set1_host(ssl, name);
}

SSL *
target_new_tls(const struct target *target, int min_version, int max_version)
{
	SSL *ssl = SSL_new(target->ssl);
	if (ssl == NULL)
		return NULL;
	set_verification(ssl, &target->uri);
	if (max_version != 0 && max_version < TLS1_2_VERSION) {
		SSL_set_security_level(ssl, 0);
		SSL_set_cipher_list(ssl, "ALL:@SECLEVEL=0");
	}
	SSL_set_min_proto_version(ssl, min_version);
	SSL_set_max_proto_version(ssl, max_version);
	return ssl;
}

void
target_close(struct target *target)
{
	SSL_CTX_free(target->ssl);
	uri_free(&target->uri);
}

/* Does the server take STARTTLS, and anything before it? */
static void
probe_tls(struct test *t, struct target *target)
{
	struct session *s =
		session_begin(t, target->handshake_flags & (FIXED_NEWSTYLE | NO_ZEROES));
	/* SELECTIVETLS may say TLS_REQD to INFO and GO alone. */
	uint32_t list = option_try(s, OPT_LIST, NULL, 0);
	target->tls_forced = list == REP_ERR_TLS_REQD;
	target->lists = list == REP_ACK;
	target->plain = list != 0 && !target->tls_forced && option_info(s, OPT_INFO) == REP_ACK;
	uint32_t starttls = list != 0 ? option_try(s, OPT_STARTTLS, NULL, 0) : 0;
	target->tls_offered = starttls == REP_ACK;
	conn_close(s->conn);
	if ((target->uri.tls || target->tls_forced) && !target->tls_offered)
		fail(t, "STARTTLS answered with ACK", "%s", reply_name(starttls));
	target->tls = target->uri.tls || target->tls_forced;
}

static void
probe_export(struct test *t, struct target *target)
{
	struct session *s = session_open(t);
	if (target->tls)
		target->lists = option_try(s, OPT_LIST, NULL, 0) == REP_ACK;
	uint32_t type = option_info(s, OPT_INFO);
	if (type == REP_ERR_TLS_REQD && target->tls_offered && !target->tls) {
		conn_close(s->conn);
		target->tls = true;
		s = session_open(t);
		type = option_info(s, OPT_INFO);
	}
	const struct option_reply *sizes = find_info(s, INFO_BLOCK_SIZE);
	if (sizes != NULL && sizes->length == 14) {
		target->has_block_sizes = true;
		target->min_block = get32(sizes->data + 2);
		target->preferred_block = get32(sizes->data + 6);
		target->max_payload = get32(sizes->data + 10);
		if (target->min_block == 0 || target->min_block > FRAGMENT_MAX)
			target->min_block = SECTOR;
	}
	option_go(s);
	target->size = s->size;
	target->compact_flags = s->flags;
}

static void
probe_styles(struct test *t, struct target *target)
{
	struct session *s = session_open(t);
	target->structured = option_try(s, OPT_STRUCTURED_REPLY, NULL, 0) == REP_ACK;
	if (target->structured) {
		static const char *const names[] = {"base:allocation"};
		struct query q = query_contexts(t, target->uri.export_name, 1, names);
		target->meta = option_try(s, OPT_SET_META_CONTEXT, q.data, q.length) == REP_ACK &&
			       find_context(s, names[0]) != NULL;
	}
	option_go(s);
	target->flags = s->flags;
	s = session_open(t);
	target->extended = option_try(s, OPT_EXTENDED_HEADERS, NULL, 0) == REP_ACK;
}

static unsigned
sum_up(const struct target *target)
{
	const struct {
		unsigned need;
		bool there;
	} facts[] = {
		{WRITABLE, (target->flags & READ_ONLY) == 0 && !target->read_only},
		{READONLY, (target->flags & READ_ONLY) != 0 && !target->read_only},
		{STRUCTURED, target->structured},
		{EXTENDED, target->extended},
		{META, target->meta},
		{FLUSHES, (target->flags & SEND_FLUSH) != 0},
		{FUAS, (target->flags & SEND_FUA) != 0},
		{TRIMS, (target->flags & SEND_TRIM) != 0},
		{ZEROES, (target->flags & SEND_WRITE_ZEROES) != 0},
		{FAST_ZEROES, (target->flags & SEND_FAST_ZERO) != 0},
		{CACHES, (target->flags & SEND_CACHE) != 0},
		{DFS, (target->flags & SEND_DF) != 0},
		{MULTI, (target->flags & CAN_MULTI_CONN) != 0},
		{TLS, target->tls_offered},
		{NOTLS, !target->tls_offered},
		{FORCED, target->tls_forced},
		{SELECTIVE, target->tls_offered && !target->tls_forced},
		{PLAIN, target->plain},
		{BLOCK_SIZES, target->has_block_sizes},
		{BYTES, target->min_block == 1},
		{BLOCKS, target->min_block > 1},
		{TCP, !target->uri.unix_socket},
		{MEBIBYTES, target->size >= 8 << 20},
		{LISTS, target->lists},
	};
	unsigned offers = 0;
	for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++)
		offers |= facts[i].there ? facts[i].need : 0;
	return offers;
}

void
target_probe(struct test *t)
{
	/* The one place that writes to the target; all others see it as const. */
	struct target *target = (struct target *)(uintptr_t)t->target;
	target->min_block = 1;
	target->preferred_block = 4096;
	target->max_payload = DEFAULT_PAYLOAD;
	struct session *s = session_connect(t);
	session_greet(s);
	target->handshake_flags = s->handshake_flags;
	conn_close(s->conn);
	if ((target->handshake_flags & FIXED_NEWSTYLE) == 0)
		fail(t, "a fixed newstyle server", "handshake flags %#x", target->handshake_flags);
	probe_tls(t, target);
	probe_export(t, target);
	probe_styles(t, target);
	if (target->size < 1 << 20)
		fail(t, "an export of at least 1 MiB", "one of %llu bytes",
			(unsigned long long)target->size);
	target->offers = sum_up(target);
}

bool
target_is_read_only(const struct target *target)
{
	return (target->flags & READ_ONLY) != 0;
}

const char *
target_lacks(const struct target *target, unsigned needs)
{
	static const char *const reasons[] = {
		[0] = "the export is read-only, or --read-only was given",
		[1] = "the export is not read-only, or --read-only was given",
		[2] = "no structured replies offered",
		[3] = "no extended headers offered",
		[4] = "no base:allocation offered",
		[5] = "no FLUSH offered",
		[6] = "no FUA offered",
		[7] = "no TRIM offered",
		[8] = "no WRITE_ZEROES offered",
		[9] = "no FAST_ZERO offered",
		[10] = "no CACHE offered",
		[11] = "no DF offered",
		[12] = "CAN_MULTI_CONN is not set",
		[13] = "no TLS offered",
		[14] = "TLS is offered",
		[15] = "TLS is not forced",
		[16] = "TLS is not offered, or forced",
		[17] = "the export needs TLS",
		[18] = "no block sizes told",
		[19] = "the minimum block size is not 1",
		[20] = "the minimum block size is 1",
		[21] = "not over TCP",
		[22] = "the export is smaller than 8 MiB",
		[23] = "no LIST offered",
	};
	unsigned missing = needs & ~target->offers;
	return missing == 0 ? NULL : reasons[__builtin_ctz(missing)];
}
