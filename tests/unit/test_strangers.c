/* How many handshakes an address may have: who is counted as whom, the limit, and what is forgotten. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "../../server/strangers.h"

#define MAX 3

static int
enter(const char *text, struct stranger **whose)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

	if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
		return strangers_enter((void *)&in, MAX, whose);
	assert_int_equal(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
	return strangers_enter((void *)&in6, MAX, whose);
}

/* The pairs are one address (true) or two (false): does filling the one close the other? */
static void
addresses_are_told_apart(void **state)
{
	static const struct {
		const char *full, *other;
		bool same;
	} pairs[] = {
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"0.0.0.0", "::2", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		struct stranger *whose[MAX], *other;

		for (unsigned n = 0; n < MAX; n++) {
			assert_int_equal(enter(pairs[i].full, &whose[n]), 0);
			assert_non_null(whose[n]);
		}
		assert_int_equal(enter(pairs[i].full, &other), -EUSERS);
		assert_null(other);
		assert_int_equal(enter(pairs[i].other, &other), pairs[i].same ? -EUSERS : 0);
		strangers_leave(other);
		/* Each that leaves makes room for one. */
		strangers_leave(whose[0]);
		assert_int_equal(enter(pairs[i].full, &whose[0]), 0);
		assert_int_equal(enter(pairs[i].full, &other), -EUSERS);
		for (unsigned n = 0; n < MAX; n++)
			strangers_leave(whose[n]);
	}
}

static void
loopback_and_what_is_not_tcp_are_exempt(void **state)
{
	static const char *const exempt[] = {"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"};
	struct sockaddr_storage other = {.ss_family = AF_UNIX};
	unsigned before = strangers_addresses();
	struct stranger *whose;

	(void)state;
	for (unsigned n = 0; n <= MAX; n++) {
		for (size_t i = 0; i < sizeof(exempt) / sizeof(exempt[0]); i++) {
			assert_int_equal(enter(exempt[i], &whose), 0);
			assert_null(whose);
		}
		other.ss_family = n % 2 ? AF_UNIX : AF_VSOCK;
		assert_int_equal(strangers_enter((void *)&other, MAX, &whose), 0);
		assert_null(whose);
	}
	strangers_leave(NULL);
	assert_int_equal(strangers_addresses(), before);
}

static void
addresses_are_named_as_counted(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	char text[64];

	(void)state;
	inet_pton(AF_INET, "192.0.2.7", &in.sin_addr);
	strangers_text((void *)&in, text, sizeof(text));
	assert_string_equal(text, "192.0.2.7");
	inet_pton(AF_INET6, "::ffff:192.0.2.8", &in6.sin6_addr);
	strangers_text((void *)&in6, text, sizeof(text));
	assert_string_equal(text, "192.0.2.8");
	inet_pton(AF_INET6, "2001:db8:0:1::7", &in6.sin6_addr);
	strangers_text((void *)&in6, text, sizeof(text));
	assert_string_equal(text, "2001:db8:0:1::/64");
}

/* Somebody who comes from a new address each time is not remembered for ever; who stays, is. */
static void
table_is_bounded(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct stranger *stays[MAX], *whose;

	(void)state;
	for (unsigned n = 0; n < MAX; n++)
		assert_int_equal(enter("192.0.2.1", &stays[n]), 0);
	for (uint32_t i = 0; i < 100000; i++) {
		in.sin_addr.s_addr = htonl(0x0a000000 + i);
		assert_int_equal(strangers_enter((void *)&in, MAX, &whose), 0);
		strangers_leave(whose);
		assert_in_range(strangers_addresses(), 1, 1024 + 2);
	}
	assert_int_equal(enter("192.0.2.1", &whose), -EUSERS);
	for (unsigned n = 0; n < MAX; n++)
		strangers_leave(stays[n]);
}

#define ROUNDS 20000

static void *
leave_all(void *arg)
{
	struct stranger **whose = arg;

	for (unsigned i = 0; i < ROUNDS; i++)
		strangers_leave(whose[i]);
	return NULL;
}

/* Loops count down while the main thread counts up and frees. */
static void
leaving_is_for_any_thread(void **state)
{
	static struct stranger *whose[ROUNDS];
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct stranger *other;
	pthread_t thread;

	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++) {
		in.sin_addr.s_addr = htonl(0x0b000000 + i % 5000);
		assert_int_equal(strangers_enter((void *)&in, ROUNDS, &whose[i]), 0);
	}
	assert_int_equal(pthread_create(&thread, NULL, leave_all, whose), 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		in.sin_addr.s_addr = htonl(0x0b000000 + i % 5000);
		assert_int_equal(strangers_enter((void *)&in, ROUNDS, &other), 0);
		strangers_leave(other);
	}
	assert_int_equal(pthread_join(thread, NULL), 0);
	/* Everybody has left, and nobody was counted twice: the limit is far again. */
	in.sin_addr.s_addr = htonl(0x0b000000);
	assert_int_equal(strangers_enter((void *)&in, 1, &other), 0);
	strangers_leave(other);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_are_told_apart),
		cmocka_unit_test(loopback_and_what_is_not_tcp_are_exempt),
		cmocka_unit_test(addresses_are_named_as_counted),
		cmocka_unit_test(table_is_bounded),
		cmocka_unit_test(leaving_is_for_any_thread),
	};

	return cmocka_run_group_tests_name("strangers", tests, NULL, NULL);
}
