#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "check.h"
#include "tls.h"

#define KEY "000102030405060708090a0b0c0d0eFf"

static int
parse(struct tls_psk_table *table, const char *text, struct error *error)
{
	return tls_psk_parse(table, "keys", text, strlen(text), error);
}

static void
test_good(void **state)
{
	static const char text[] = "zoe:" KEY "\r\n\nalice:" KEY KEY "\nbob the 2nd:" KEY;
	struct tls_psk_table table;
	const struct tls_psk *psk;

	(void)state;
	assert_int_equal(parse(&table, text, NULL), 0);
	assert_int_equal(table.count, 3);
	psk = tls_psk_find(&table, "zoe", 3);
	assert_non_null(psk);
	assert_string_equal(psk->identity, "zoe");
	assert_int_equal(psk->length, 16);
	assert_int_equal(psk->key[0], 0);
	assert_int_equal(psk->key[10], 10);
	assert_int_equal(psk->key[15], 0xff);
	psk = tls_psk_find(&table, "alice", 5);
	assert_non_null(psk);
	assert_int_equal(psk->length, 32);
	assert_non_null(tls_psk_find(&table, "bob the 2nd", 11));
	tls_psk_clear(&table);
	assert_null(table.entries);
	assert_null(tls_psk_find(&table, "zoe", 3));
}

/* An identity is a peer's: any bytes, any length. */
static void
test_strange_identities(void **state)
{
	struct tls_psk_table table;
	char many[4096];

	(void)state;
	memset(many, 'a', sizeof(many));
	assert_int_equal(parse(&table, "a:" KEY "\n", NULL), 0);
	assert_null(tls_psk_find(&table, "", 0));
	assert_null(tls_psk_find(&table, "a\0", 2));
	assert_null(tls_psk_find(&table, "\0", 1));
	assert_null(tls_psk_find(&table, many, sizeof(many)));
	assert_null(tls_psk_find(&table, many, LIMIT_TLS_PSK_IDENTITY));
	assert_null(tls_psk_find(&table, "b", 1));
	assert_non_null(tls_psk_find(&table, "a", 1));
	tls_psk_clear(&table);
}

static void
test_bad(void **state)
{
	static const struct {
		const char *text, *error;
	} rows[] = {
		{"", "keys: no identity in it"},
		{"\n\n", "keys: no identity in it"},
		{"alice\n", "keys:1: say IDENTITY:HEXKEY"},
		{"\nalice:" KEY "\n:" KEY "\n", "keys:3: an identity has 1 to 128 bytes"},
		{"alice:00\n", "keys:1: a key has 16 to 64 bytes"},
		{"alice:\n", "keys:1: a key has 16 to 64 bytes"},
		{"alice:" KEY KEY KEY KEY KEY "\n", "keys:1: a key has 16 to 64 bytes"},
		{"alice:" KEY "0\n", "keys:1: the key has half a byte"},
		{"alice:" KEY "0g\n", "keys:1: the key is not hexadecimal"},
		{"#616c:" KEY "\n", "keys:1: an identity in hexadecimal is not supported"},
		{"al\tice:" KEY "\n", "keys:1: an identity is printable ASCII"},
		{"alice:" KEY "\nbob:" KEY "\nalice:" KEY "\n", "keys: \"alice\" is there twice"},
	};
	struct tls_psk_table table;
	struct error error;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(parse(&table, rows[i].text, &error), -EINVAL);
		assert_string_equal(error.text, rows[i].error);
		assert_null(table.entries);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_strange_identities),
		cmocka_unit_test(test_bad),
	};

	return cmocka_run_group_tests_name("tls_psk", tests, NULL, NULL);
}
