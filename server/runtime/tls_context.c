/* Certificates, keys, PSK files and what is spoken: checked once, at the start. */
#include "config.h"

#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tls_openssl.h"

/*
 * promises section 1: 1.3 preferred, 1.2 with ECDHE and AEAD only. Our order, not the client's: a
 * PSK of 1.3 goes with SHA-256 alone (RFC 8446 4.2.11), so a suite of it must win where there is
 * one.
 */
#define CIPHERS_13 "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
#define CIPHERS_12                                                   \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:" \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:" \
	"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:" \
	"ECDHE-PSK-CHACHA20-POLY1305" /* OpenSSL has no other AEAD for it */

/* A signature costs 0.45 ms here, four times that for each doubling; P-256 0.03 ms. */
#define RSA_BITS_CHEAP 2048

struct tls_context {
	atomic_uint references;
	SSL_CTX *ssl;
	struct tls_psk_table psk;
	bool verifies;
};

struct file {
	char *data;
	size_t length;
};

const char *
tls_library(void)
{
	static char text[32];
	const char *version = OpenSSL_version(OPENSSL_VERSION_STRING);

	snprintf(text, sizeof(text), "OpenSSL %s", version);
	return text;
}

const char *
tls_reason(void)
{
	unsigned long code = ERR_get_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	return reason ? reason : "no reason given";
}

/* A secret is refused when anyone but its owner could have read or written it. */
static int
read_file(
	struct file *file, const char *what, const char *path, bool is_secret, struct error *error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	ssize_t n;
	int rc;

	*file = (struct file){0};
	if (fd < 0 || fstat(fd, &st) < 0) {
		rc = error_set(error, -errno, "%s %s: %s", what, path, strerror(errno));
		goto done;
	}
	rc = -EINVAL;
	if (!S_ISREG(st.st_mode)) {
		error_set(error, rc, "%s %s: not a file", what, path);
	} else if (is_secret && st.st_mode & (S_IRWXG | S_IRWXO)) {
		error_set(error, rc,
			"%s %s: mode %04o lets others at the secret: must be 0600 or 0400", what,
			path, (unsigned)st.st_mode & 07777);
	} else if ((uint64_t)st.st_size > LIMIT_TLS_FILE) {
		error_set(error, rc, "%s %s: too large", what, path);
	} else if (!(file->data = malloc((size_t)st.st_size + 1))) {
		rc = error_set(error, -ENOMEM, "%s %s: out of memory", what, path);
	} else if ((n = read(fd, file->data, (size_t)st.st_size)) < 0) {
		rc = error_set(error, -errno, "%s %s: %s", what, path, strerror(errno));
	} else {
		file->length = (size_t)n;
		rc = 0;
	}
done:
	if (fd >= 0)
		close(fd);
	return rc;
}

static void
wipe_file(struct file *file)
{
	if (file->data)
		OPENSSL_cleanse(file->data, file->length);
	free(file->data);
	*file = (struct file){0};
}

/* No terminal is asked for it. */
static int
give_no_passphrase(char *buffer, int size, int writing, void *arg)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)arg;
	return 0;
}

static void
format_date(const ASN1_TIME *date, char *text, size_t size)
{
	struct tm tm;

	if (!ASN1_TIME_to_tm(date, &tm) || strftime(text, size, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
		snprintf(text, size, "unknown");
}

static int
check_dates(const X509 *certificate, const char *what, const char *path, struct error *error)
{
	const ASN1_TIME *from = X509_get0_notBefore(certificate);
	const ASN1_TIME *to = X509_get0_notAfter(certificate);
	char date[40];

	/* 0: a date that cannot be read. */
	if (X509_cmp_current_time(to) <= 0) {
		format_date(to, date, sizeof(date));
		return error_set(error, -EINVAL, "%s %s: expired on %s", what, path, date);
	}
	if (X509_cmp_current_time(from) >= 0) {
		format_date(from, date, sizeof(date));
		return error_set(error, -EINVAL, "%s %s: not valid before %s", what, path, date);
	}
	return 0;
}

/*
 * Every certificate of a PEM file, each given to take(); at least one. take() owns what it is given
 * when it returns true.
 */
static int
read_certificates(const char *what, const char *path,
	bool (*take)(struct tls_context *context, X509 *certificate, unsigned number),
	struct tls_context *context, struct error *error)
{
	struct file file;
	unsigned number = 0;
	BIO *bio = NULL;
	X509 *certificate;
	int rc = read_file(&file, what, path, false, error);

	if (rc == 0 && !(bio = BIO_new_mem_buf(file.data, (int)file.length)))
		rc = error_set(error, -ENOMEM, "%s %s: out of memory", what, path);
	while (rc == 0 &&
		(certificate = PEM_read_bio_X509(bio, NULL, give_no_passphrase, NULL)) != NULL) {
		rc = check_dates(certificate, what, path, error);
		if (rc == 0 && take(context, certificate, number++))
			continue;
		X509_free(certificate);
		if (rc == 0)
			rc = error_set(error, -EINVAL, "%s %s: %s", what, path, tls_reason());
	}
	if (rc == 0 && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
		rc = error_set(error, -EINVAL, "%s %s: %s", what, path, tls_reason());
	if (rc == 0 && number == 0)
		rc = error_set(error, -EINVAL, "%s %s: no PEM certificate in it", what, path);
	ERR_clear_error();
	BIO_free(bio);
	wipe_file(&file);
	return rc;
}

static bool
take_own(struct tls_context *context, X509 *certificate, unsigned number)
{
	if (number > 0)
		return SSL_CTX_add0_chain_cert(context->ssl, certificate) == 1;
	if (SSL_CTX_use_certificate(context->ssl, certificate) != 1)
		return false;
	X509_free(certificate); /* it has a reference of its own */
	return true;
}

static bool
take_authority(struct tls_context *context, X509 *certificate, unsigned number)
{
	(void)number;
	if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context->ssl), certificate) != 1 ||
		SSL_CTX_add_client_CA(context->ssl, certificate) != 1)
		return false;
	X509_free(certificate);
	return true;
}

static int
use_key(struct tls_context *context, const char *path, struct error *error)
{
	struct file file;
	BIO *bio = NULL;
	EVP_PKEY *key = NULL;
	int rc = read_file(&file, "TLS key", path, true, error);

	if (rc)
		return rc;
	rc = -EINVAL;
	bio = BIO_new_mem_buf(file.data, (int)file.length);
	if (bio)
		key = PEM_read_bio_PrivateKey(bio, NULL, give_no_passphrase, NULL);
	if (!key)
		error_set(error, rc, "TLS key %s: not an unencrypted PEM key (%s)", path,
			tls_reason());
	else if (X509_check_private_key(SSL_CTX_get0_certificate(context->ssl), key) != 1 ||
		 SSL_CTX_use_PrivateKey(context->ssl, key) != 1)
		error_set(error, rc, "TLS key %s: does not match the certificate (%s)", path,
			tls_reason());
	else
		rc = 0;
	EVP_PKEY_free(key);
	BIO_free(bio);
	wipe_file(&file);
	return rc;
}

/* A signature is made on the loop that serves the connection, for each of them. */
static void
warn_about_cost(const struct tls_context *context, const char *path)
{
	EVP_PKEY *key = SSL_CTX_get0_privatekey(context->ssl);
	int bits = EVP_PKEY_get_bits(key);

	if (!EVP_PKEY_is_a(key, "RSA") || bits <= RSA_BITS_CHEAP)
		return;
	log_warn("TLS key %s: RSA with %d bits costs about %d ms of its loop's time for each "
		 "connection (2048 bits: 0.5 ms, P-256: 0.03 ms)",
		path, bits,
		bits <= 3072   ? 3
		: bits <= 4096 ? 6
			       : 6 * (bits / 4096) * (bits / 4096));
}

static int
use_certificate(struct tls_context *context, const struct tls_files *files, struct error *error)
{
	int rc;

	if (!files->key)
		return error_set(error, -EINVAL, "TLS certificate %s: its key is missing",
			files->certificate);
	rc = read_certificates("TLS certificate", files->certificate, take_own, context, error);
	if (rc == 0)
		rc = use_key(context, files->key, error);
	if (rc == 0)
		warn_about_cost(context, files->key);
	return rc;
}

static int
use_authority(struct tls_context *context, const char *path, struct error *error)
{
	static const unsigned char id[] = "slabd";
	int rc = read_certificates("TLS CA", path, take_authority, context, error);

	SSL_CTX_set_verify(context->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_session_id_context(context->ssl, id, sizeof(id) - 1);
	return rc;
}

/* The key of an identity a client named, which is noted. */
static const struct tls_psk *
find_psk(SSL *ssl, const void *identity, size_t length)
{
	const struct tls_context *context = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	const struct tls_psk *psk = tls_psk_find(&context->psk, identity, length);

	if (psk)
		snprintf(SSL_get_app_data(ssl), LIMIT_TLS_PSK_IDENTITY + 1, "%s", psk->identity);
	return psk;
}

/* TLS 1.2 */
static unsigned
find_psk_12(SSL *ssl, const char *identity, unsigned char *key, unsigned size)
{
	const struct tls_psk *psk = identity ? find_psk(ssl, identity, strlen(identity)) : NULL;

	if (!psk || psk->length > size)
		return 0;
	memcpy(key, psk->key, psk->length);
	return (unsigned)psk->length;
}

/* TLS 1.3: RFC 8446 4.2.11, an external key goes with SHA-256. Unknown: no PSK, not an error. */
static int
find_psk_13(SSL *ssl, const unsigned char *identity, size_t length, SSL_SESSION **session)
{
	static const unsigned char aes_128_gcm_sha256[] = {0x13, 0x01};
	const struct tls_psk *psk = find_psk(ssl, identity, length);
	SSL_SESSION *made;

	*session = NULL;
	if (!psk)
		return 1;
	made = SSL_SESSION_new();
	if (made && SSL_SESSION_set1_master_key(made, psk->key, psk->length) &&
		SSL_SESSION_set_cipher(made, SSL_CIPHER_find(ssl, aes_128_gcm_sha256)) &&
		SSL_SESSION_set_protocol_version(made, TLS1_3_VERSION)) {
		*session = made;
		return 1;
	}
	SSL_SESSION_free(made);
	return 0;
}

static int
use_psk(struct tls_context *context, const char *path, struct error *error)
{
	struct file file;
	int rc = read_file(&file, "PSK file", path, true, error);

	if (rc == 0)
		rc = tls_psk_parse(&context->psk, path, file.data, file.length, error);
	wipe_file(&file);
	SSL_CTX_set_psk_server_callback(context->ssl, find_psk_12);
	SSL_CTX_set_psk_find_session_callback(context->ssl, find_psk_13);
	return rc;
}

/* What holds whatever the files say. */
static bool
set_terms(SSL_CTX *ssl)
{
	SSL_CTX_set_options(ssl, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
					 SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
	/* A stream encrypts what it was offered, and is offered it again elsewhere in memory. */
	SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_max_cert_list(ssl, LIMIT_TLS_CHAIN);
	SSL_CTX_set_max_early_data(ssl, 0);
	return SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION) == 1 &&
	       SSL_CTX_set_num_tickets(ssl, 0) == 1 &&
	       SSL_CTX_set_ciphersuites(ssl, CIPHERS_13) == 1 &&
	       SSL_CTX_set_cipher_list(ssl, CIPHERS_12) == 1;
}

struct tls_context *
tls_context_new(const struct tls_files *files, struct error *error)
{
	struct tls_context *context = calloc(1, sizeof(*context));
	int rc = 0;

	if (context) {
		atomic_init(&context->references, 1);
		context->ssl = SSL_CTX_new(TLS_server_method());
	}
	if (!context || !context->ssl || !set_terms(context->ssl) || !stream_tls_start()) {
		error_set(error, -ENOMEM, "TLS: %s", tls_reason());
		tls_context_put(context);
		return NULL;
	}
	SSL_CTX_set_app_data(context->ssl, context);
	if (!files->certificate && (files->key || files->ca))
		rc = error_set(error, -EINVAL, "TLS %s %s: a certificate is missing",
			files->key ? "key" : "CA", files->key ? files->key : files->ca);
	else if (!files->certificate && !files->psk)
		rc = error_set(error, -EINVAL, "TLS needs a certificate or a PSK file");
	if (rc == 0 && files->certificate)
		rc = use_certificate(context, files, error);
	if (rc == 0 && files->ca)
		rc = use_authority(context, files->ca, error);
	if (rc == 0 && files->psk)
		rc = use_psk(context, files->psk, error);
	if (rc) {
		tls_context_put(context);
		return NULL;
	}
	/* A certificate without a CA lets anyone in, whatever the PSK file says. */
	context->verifies = files->ca || !files->certificate;
	return context;
}

struct tls_context *
tls_context_get(struct tls_context *context)
{
	atomic_fetch_add_explicit(&context->references, 1, memory_order_relaxed);
	return context;
}

void
tls_context_put(struct tls_context *context)
{
	if (!context ||
		atomic_fetch_sub_explicit(&context->references, 1, memory_order_acq_rel) > 1)
		return;
	SSL_CTX_free(context->ssl);
	tls_psk_clear(&context->psk);
	free(context);
}

bool
tls_context_verifies(const struct tls_context *context)
{
	return context->verifies;
}

SSL *
tls_context_ssl(struct tls_context *context, char *identity)
{
	SSL *ssl = SSL_new(context->ssl);

	if (!ssl)
		return NULL;
	SSL_set_app_data(ssl, identity);
	SSL_set_accept_state(ssl);
	return ssl;
}
