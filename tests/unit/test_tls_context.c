#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "tls.h"
#include "tls_peer.h"

#define DAY  (24 * 3600L)
#define KEYS "alice:000102030405060708090a0b0c0d0e0f\n"

static int
setup(void **state)
{
	(void)state;
	tls_files_start();
	tls_make("ca", NULL, KEY_P256, 0, DAY);
	tls_make("server", "ca", KEY_P256, 0, DAY);
	tls_make("other", "ca", KEY_RSA_2048, 0, DAY);
	tls_make("big", "ca", KEY_RSA_3072, 0, DAY);
	tls_make("expired", "ca", KEY_P256, -2 * DAY, -DAY);
	tls_make("early", "ca", KEY_P256, DAY, 2 * DAY);
	tls_make("oldca", NULL, KEY_P256, -2 * DAY, -DAY);
	tls_write("keys.psk", 0600, KEYS);
	tls_write("empty", 0600, "");
	tls_write("garbage", 0600,
		"-----BEGIN CERTIFICATE-----\nbm9ib2R5\n-----END CERTIFICATE-----\n");
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	tls_files_end();
	return 0;
}

static void
test_good(void **state)
{
	struct tls_context *context;

	(void)state;
	context = tls_server("server.pem", "server.key", NULL, NULL);
	assert_false(tls_context_verifies(context));
	tls_context_put(tls_context_get(context));
	tls_context_put(context);
	context = tls_server("server.pem", "server.key", "ca.pem", NULL);
	assert_true(tls_context_verifies(context));
	tls_context_put(context);
	context = tls_server(NULL, NULL, NULL, "keys.psk");
	assert_true(tls_context_verifies(context));
	tls_context_put(context);
	context = tls_server("server.pem", "server.key", "ca.pem", "keys.psk");
	assert_true(tls_context_verifies(context));
	tls_context_put(context);
	/* Who has no PSK may come in by the certificate, which asks nothing of him. */
	context = tls_server("server.pem", "server.key", NULL, "keys.psk");
	assert_false(tls_context_verifies(context));
	tls_context_put(context);
	tls_context_put(NULL);
	assert_non_null(strstr(tls_library(), "OpenSSL 3"));
}

static void
refuse(const char *certificate, const char *key, const char *ca, const char *psk, const char *words)
{
	struct tls_files files = {
		.certificate = certificate ? tls_path(certificate) : NULL,
		.key = key ? tls_path(key) : NULL,
		.ca = ca ? tls_path(ca) : NULL,
		.psk = psk ? tls_path(psk) : NULL,
	};
	struct error error = {.text = ""};

	if (tls_context_new(&files, &error))
		fail_msg("accepted, and not \"%s\"", words);
	if (!strstr(error.text, words))
		fail_msg("\"%s\" does not say \"%s\"", error.text, words);
}

static void
test_refused(void **state)
{
	(void)state;
	refuse(NULL, NULL, NULL, NULL, "a certificate or a PSK file");
	refuse("server.pem", NULL, NULL, NULL, "server.pem: its key is missing");
	refuse(NULL, "server.key", NULL, NULL, "server.key: a certificate is missing");
	refuse(NULL, NULL, "ca.pem", "keys.psk", "ca.pem: a certificate is missing");
	refuse("nobody", "server.key", NULL, NULL, "nobody: No such file");
	refuse("server.pem", "nobody", NULL, NULL, "nobody: No such file");
	refuse("server.pem", "server.key", "nobody", NULL, "nobody: No such file");
	refuse(NULL, NULL, NULL, "nobody", "nobody: No such file");
	refuse("empty", "server.key", NULL, NULL, "empty: no PEM certificate in it");
	refuse("garbage", "server.key", NULL, NULL, "TLS certificate");
	refuse("server.pem", "server.key", "garbage", NULL, "TLS CA");
	refuse("server.key", "server.key", NULL, NULL, "no PEM certificate in it");
	refuse("server.pem", "server.pem", NULL, NULL, "mode 0644");
	refuse("server.pem", "empty", NULL, NULL, "not an unencrypted PEM key");
	refuse("server.pem", "other.key", NULL, NULL, "does not match the certificate");
	refuse("server.pem", "big.key", NULL, NULL, "does not match the certificate");
	refuse("expired.pem", "expired.key", NULL, NULL, "expired.pem: expired on 20");
	refuse("early.pem", "early.key", NULL, NULL, "early.pem: not valid before 20");
	refuse("server.pem", "server.key", "oldca.pem", NULL, "oldca.pem: expired on 20");
	refuse(NULL, NULL, NULL, "empty", "empty: no identity in it");
	refuse("../", "server.key", NULL, NULL, "not a file");
}

/* Any bit of group or others, and its mode is named. */
static void
test_modes(void **state)
{
	static const unsigned bits[] = {0001, 0002, 0004, 0010, 0020, 0040};
	char words[32];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
		snprintf(words, sizeof(words), "mode %04o ", 0600 | bits[i]);
		chmod(tls_path("server.key"), 0600 | bits[i]);
		refuse("server.pem", "server.key", NULL, NULL, words);
		chmod(tls_path("keys.psk"), 0600 | bits[i]);
		refuse(NULL, NULL, NULL, "keys.psk", words);
	}
	chmod(tls_path("server.key"), 0400);
	chmod(tls_path("keys.psk"), 0400);
	tls_context_put(tls_server("server.pem", "server.key", NULL, "keys.psk"));
	chmod(tls_path("server.key"), 0600);
	chmod(tls_path("keys.psk"), 0600);
}

/* A pipe in the place of stderr. */
static void
load_logged(const char *certificate, const char *key, char *text, size_t size)
{
	int saved = dup(STDERR_FILENO), ends[2];
	ssize_t n;

	assert_int_equal(pipe(ends), 0);
	dup2(ends[1], STDERR_FILENO);
	tls_context_put(tls_server(certificate, key, NULL, NULL));
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(ends[1]);
	n = read(ends[0], text, size - 1);
	close(ends[0]);
	text[n > 0 ? n : 0] = '\0';
}

static void
test_cost(void **state)
{
	char text[512];

	(void)state;
	load_logged("big.pem", "big.key", text, sizeof(text));
	assert_non_null(strstr(text, "RSA with 3072 bits costs about 3 ms"));
	load_logged("other.pem", "other.key", text, sizeof(text));
	assert_string_equal(text, "");
	load_logged("server.pem", "server.key", text, sizeof(text));
	assert_string_equal(text, "");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_cost),
	};

	return cmocka_run_group_tests_name("tls_context", tests, setup, teardown);
}
