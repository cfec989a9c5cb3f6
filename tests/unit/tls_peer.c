#include "config.h"

#include "tls_peer.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[64];

void
tls_files_start(void)
{
	snprintf(directory, sizeof(directory), "/tmp/slabd-tls.XXXXXX");
	assert_non_null(mkdtemp(directory));
}

void
tls_files_end(void)
{
	DIR *dir = opendir(directory);
	struct dirent *entry;

	assert_non_null(dir);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			unlink(tls_path(entry->d_name));
	closedir(dir);
	rmdir(directory);
}

const char *
tls_path(const char *name)
{
	static char paths[16][320];
	static unsigned next;
	char *path = paths[next++ % 16];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static const char *
path_with(const char *name, const char *suffix)
{
	char file[128];

	snprintf(file, sizeof(file), "%s%s", name, suffix);
	return tls_path(file);
}

static X509 *
load_certificate(const char *name)
{
	FILE *file = fopen(path_with(name, ".pem"), "r");
	X509 *certificate;

	assert_non_null(file);
	certificate = PEM_read_X509(file, NULL, NULL, NULL);
	fclose(file);
	assert_non_null(certificate);
	return certificate;
}

static EVP_PKEY *
load_key(const char *name)
{
	FILE *file = fopen(path_with(name, ".key"), "r");
	EVP_PKEY *key;

	assert_non_null(file);
	key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
	fclose(file);
	assert_non_null(key);
	return key;
}

static EVP_PKEY *
make_key(enum tls_key kind)
{
	if (kind == KEY_P256)
		return EVP_EC_gen("P-256");
	return EVP_RSA_gen(kind == KEY_RSA_2048 ? 2048 : 3072);
}

static void
make_authority(X509 *certificate)
{
	X509_EXTENSION *extension =
		X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");

	assert_non_null(extension);
	assert_true(X509_add_ext(certificate, extension, -1));
	X509_EXTENSION_free(extension);
}

static FILE *
create_file(const char *path, unsigned mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	FILE *file = fdopen(fd, "w");

	assert_non_null(file);
	fchmod(fd, (mode_t)mode);
	return file;
}

void
tls_make(const char *name, const char *issuer, enum tls_key kind, long from, long to)
{
	static long serial = 1;
	X509 *certificate = X509_new();
	X509 *signer = issuer ? load_certificate(issuer) : NULL;
	EVP_PKEY *key = make_key(kind);
	EVP_PKEY *signing = issuer ? load_key(issuer) : key;
	X509_NAME *subject;
	FILE *file;

	assert_non_null(certificate);
	assert_non_null(key);
	subject = X509_get_subject_name(certificate);
	X509_set_version(certificate, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
	X509_gmtime_adj(X509_getm_notBefore(certificate), from);
	X509_gmtime_adj(X509_getm_notAfter(certificate), to);
	X509_set_pubkey(certificate, key);
	X509_NAME_add_entry_by_txt(
		subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(certificate, signer ? X509_get_subject_name(signer) : subject);
	if (!issuer)
		make_authority(certificate);
	assert_true(X509_sign(certificate, signing, EVP_sha256()) > 0);
	file = create_file(path_with(name, ".pem"), 0644);
	assert_true(PEM_write_X509(file, certificate));
	fclose(file);
	file = create_file(path_with(name, ".key"), 0600);
	assert_true(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
	fclose(file);
	if (issuer)
		EVP_PKEY_free(signing);
	EVP_PKEY_free(key);
	X509_free(signer);
	X509_free(certificate);
}

void
tls_write(const char *name, unsigned mode, const char *text)
{
	FILE *file = create_file(tls_path(name), mode);

	fputs(text, file);
	fclose(file);
}

struct tls_context *
tls_server(const char *certificate, const char *key, const char *ca, const char *psk)
{
	struct tls_files files = {
		.certificate = certificate ? tls_path(certificate) : NULL,
		.key = key ? tls_path(key) : NULL,
		.ca = ca ? tls_path(ca) : NULL,
		.psk = psk ? tls_path(psk) : NULL,
	};
	struct error error = {.text = ""};
	struct tls_context *context = tls_context_new(&files, &error);

	if (!context)
		fail_msg("%s", error.text);
	return context;
}

static void
begin_client(struct tls_client *client, int version)
{
	client->context = SSL_CTX_new(TLS_client_method());
	assert_non_null(client->context);
	if (version) {
		SSL_CTX_set_min_proto_version(client->context, version);
		SSL_CTX_set_max_proto_version(client->context, version);
	}
	if (version && version < TLS1_2_VERSION)
		SSL_CTX_set_security_level(client->context, 0);
}

static void
connect_client(struct tls_client *client)
{
	client->ssl = SSL_new(client->context);
	client->in = BIO_new(BIO_s_mem());
	client->out = BIO_new(BIO_s_mem());
	assert_true(client->ssl && client->in && client->out);
	BIO_set_mem_eof_return(client->in, -1);
	SSL_set_bio(client->ssl, client->in, client->out);
	SSL_set_connect_state(client->ssl);
}

void
tls_client_start(struct tls_client *client, int version, const char *ca, const char *certificate)
{
	begin_client(client, version);
	if (ca) {
		assert_true(SSL_CTX_load_verify_file(client->context, path_with(ca, ".pem")));
		SSL_CTX_set_verify(client->context, SSL_VERIFY_PEER, NULL);
	}
	if (certificate) {
		assert_true(SSL_CTX_use_certificate_file(
			client->context, path_with(certificate, ".pem"), SSL_FILETYPE_PEM));
		assert_true(SSL_CTX_use_PrivateKey_file(
			client->context, path_with(certificate, ".key"), SSL_FILETYPE_PEM));
	}
	connect_client(client);
}

static const char *psk_identity;
static unsigned char psk_byte;

static unsigned
give_psk(SSL *ssl, const char *hint, char *identity, unsigned identity_size, unsigned char *key,
	unsigned key_size)
{
	(void)ssl;
	(void)hint;
	assert_true(key_size >= 16);
	snprintf(identity, identity_size, "%s", psk_identity);
	memset(key, psk_byte, 16);
	return 16;
}

void
tls_client_psk(struct tls_client *client, int version, const char *identity, unsigned char byte)
{
	begin_client(client, version);
	psk_identity = identity;
	psk_byte = byte;
	SSL_CTX_set_psk_client_callback(client->context, give_psk);
	SSL_CTX_set_cipher_list(client->context, "ECDHE-PSK-CHACHA20-POLY1305");
	connect_client(client);
}

void
tls_client_end(struct tls_client *client)
{
	SSL_free(client->ssl);
	SSL_CTX_free(client->context);
	ERR_clear_error();
	*client = (struct tls_client){0};
}

size_t
tls_client_push(struct tls_client *client, struct stream_pipe *pipe, size_t most)
{
	uint8_t bytes[4096];
	size_t pushed = 0;

	while (pushed < most) {
		size_t room = most - pushed < sizeof(bytes) ? most - pushed : sizeof(bytes);
		int n = BIO_read(client->out, bytes, (int)room);

		if (n <= 0)
			break;
		pipe_feed(pipe, bytes, (size_t)n);
		pushed += (size_t)n;
	}
	return pushed;
}

size_t
tls_client_pull(struct tls_client *client, struct stream_pipe *pipe)
{
	uint8_t bytes[4096];
	size_t pulled = 0, n;

	while ((n = pipe_take(pipe, bytes, sizeof(bytes))) > 0) {
		assert_int_equal(BIO_write(client->in, bytes, (int)n), (int)n);
		pulled += n;
	}
	return pulled;
}
