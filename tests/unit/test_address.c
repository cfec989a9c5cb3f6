#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "../../server/address.h"
#include "check.h"

static void
tcp_addresses_are_taken_apart(void **state)
{
	struct address address;
	struct error error;

	(void)state;
	assert_true(address_parse("127.0.0.1:10809", &address, &error));
	assert_false(address.is_unix);
	assert_string_equal(address.host, "127.0.0.1");
	assert_string_equal(address.port, "10809");
	assert_true(address_parse("[fd00::7]:0", &address, &error));
	assert_string_equal(address.host, "fd00::7");
	assert_string_equal(address.port, "0");
	assert_true(address_parse("storage.example:65535", &address, &error));
	assert_string_equal(address.host, "storage.example");
}

static void
unix_addresses_are_taken_apart(void **state)
{
	char text[300], longest[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 8];
	struct address address;
	struct error error;

	(void)state;
	assert_true(address_parse("unix:/run/a:b.sock", &address, &error));
	assert_true(address.is_unix);
	assert_string_equal(address.local.sun_path, "/run/a:b.sock");
	address_text((void *)&address.local, address.local_length, text, sizeof(text));
	assert_string_equal(text, "unix:/run/a:b.sock");
	assert_true(address_parse("unix:@x", &address, &error));
	assert_int_equal(address.local.sun_path[0], 0);
	assert_int_equal(address.local_length, offsetof(struct sockaddr_un, sun_path) + 2);
	address_text((void *)&address.local, address.local_length, text, sizeof(text));
	assert_string_equal(text, "unix:@x");
	memset(longest, 'x', sizeof(longest));
	memcpy(longest, "unix:/", 6);
	longest[5 + 107] = '\0';
	assert_true(address_parse(longest, &address, &error));
	longest[5 + 107] = 'x';
	longest[5 + 108] = '\0';
	assert_false(address_parse(longest, &address, &error));
}

static void
vsock_and_tls_are_taken_apart(void **state)
{
	struct address address;
	struct error error;
	char text[64];

	(void)state;
	assert_true(address_parse("vsock:10809", &address, &error));
	assert_true(address.is_vsock);
	assert_false(address.is_unix || address.tls);
	assert_int_equal(address.vm.svm_port, 10809);
	assert_true(address.vm.svm_cid == VMADDR_CID_ANY);
	address_text((void *)&address.vm, sizeof(address.vm), text, sizeof(text));
	assert_string_equal(text, "vsock:10809");
	assert_false(address_is_local((void *)&address.vm));
	assert_true(address_parse("tls:127.0.0.1:3260", &address, &error));
	assert_true(address.tls);
	assert_string_equal(address.host, "127.0.0.1");
	assert_string_equal(address.port, "3260");
	assert_true(address_parse("tls:[::1]:0", &address, &error));
	assert_string_equal(address.host, "::1");
}

static void
what_is_no_address_is_refused(void **state)
{
	static const char *const bad[] = {"", "x", ":1", "127.0.0.1",
		"127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:x", "::1:1", "[::1]",
		"[]:1", "[::1:1", "unix:", "unix:@", "vsock:", "vsock:0", "vsock:4294967295",
		"vsock:x", "vsock:2:1", "tls:", "tls:1", "tls::1", "tls:127.0.0.1", "tls:unix:/x"};
	struct address address;
	struct error error;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		error.text[0] = '\0';
		assert_false(address_parse(bad[i], &address, &error));
		assert_true(error.text[0]);
	}
}

static bool
is_local4(const char *host)
{
	struct sockaddr_in in = {.sin_family = AF_INET};

	assert_int_equal(inet_pton(AF_INET, host, &in.sin_addr), 1);
	return address_is_local((void *)&in);
}

static bool
is_local6(const char *host)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

	assert_int_equal(inet_pton(AF_INET6, host, &in6.sin6_addr), 1);
	return address_is_local((void *)&in6);
}

static void
only_loopback_is_local(void **state)
{
	struct sockaddr_un local = {.sun_family = AF_UNIX};

	(void)state;
	assert_true(is_local4("127.0.0.1") && is_local4("127.255.255.254"));
	assert_false(is_local4("0.0.0.0") || is_local4("128.0.0.1") || is_local4("10.0.0.1"));
	assert_true(is_local6("::1") && is_local6("::ffff:127.0.0.1"));
	assert_false(is_local6("::") || is_local6("::ffff:10.0.0.1") || is_local6("fe80::1"));
	assert_false(is_local6("::127.0.0.1"));
	assert_true(address_is_local((void *)&local));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tcp_addresses_are_taken_apart),
		cmocka_unit_test(unix_addresses_are_taken_apart),
		cmocka_unit_test(vsock_and_tls_are_taken_apart),
		cmocka_unit_test(what_is_no_address_is_refused),
		cmocka_unit_test(only_loopback_is_local),
	};

	return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
