#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../server/activation.h"

#define FIRST 3 /* sd_listen_fds(3) */

enum kind { LISTENING, UNBOUND, DATAGRAM, FILE_LIKE };

/* As the service manager would have left it at exec. */
static void
place(unsigned index, enum kind kind)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = kind == FILE_LIKE
			 ? open("/dev/null", O_RDWR)
			 : socket(AF_INET, kind == DATAGRAM ? SOCK_DGRAM : SOCK_STREAM, 0);

	assert_true(fd >= 0);
	if (kind == LISTENING) {
		assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
		assert_int_equal(listen(fd, 1), 0);
	}
	if (fd != FIRST + (int)index) {
		assert_int_equal(dup2(fd, FIRST + (int)index), FIRST + (int)index);
		close(fd);
	}
}

static int
take(unsigned count, const char *names, struct passed_socket *sockets, struct error *error)
{
	char text[32];

	snprintf(text, sizeof(text), "%d", (int)getpid());
	setenv("LISTEN_PID", text, 1);
	snprintf(text, sizeof(text), "%u", count);
	setenv("LISTEN_FDS", text, 1);
	if (names)
		setenv("LISTEN_FDNAMES", names, 1);
	else
		unsetenv("LISTEN_FDNAMES");
	return activation_take(sockets, 4, error);
}

static void
close_all(unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		close(FIRST + (int)i);
}

static void
test_none(void **state)
{
	struct passed_socket sockets[4];
	struct error error;

	(void)state;
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_PID");
	assert_int_equal(activation_take(sockets, 4, &error), 0);
}

static void
test_somebody_elses(void **state)
{
	struct passed_socket sockets[4];
	struct error error;

	(void)state;
	setenv("LISTEN_PID", "1", 1);
	setenv("LISTEN_FDS", "1", 1);
	assert_int_equal(activation_take(sockets, 4, &error), 0);
}

static void
test_named(void **state)
{
	struct passed_socket sockets[4];
	struct error error;

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		place(i, LISTENING);
	assert_int_equal(take(3, "nbd:iscsi:unknown", sockets, &error), 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(sockets[i].fd, FIRST + i);
		assert_int_equal(sockets[i].iscsi, i == 1);
		assert_true(fcntl(FIRST + i, F_GETFL) & O_NONBLOCK);
		assert_true(fcntl(FIRST + i, F_GETFD) & FD_CLOEXEC);
	}
	assert_null(getenv("LISTEN_FDS"));
	assert_null(getenv("LISTEN_FDNAMES"));
	close_all(3);
}

static void
test_without_names(void **state)
{
	struct passed_socket sockets[4];
	struct error error;

	(void)state;
	place(0, LISTENING);
	assert_int_equal(take(1, NULL, sockets, &error), 1);
	assert_false(sockets[0].iscsi);
	close_all(1);
}

static void
refuse(enum kind kind, const char *name, const char *words)
{
	struct passed_socket sockets[4];
	struct error error;

	place(0, kind);
	assert_true(take(1, name, sockets, &error) < 0);
	assert_string_equal(error.text, words);
	close_all(1);
}

static void
test_refused(void **state)
{
	static const char wrong[] =
		"LISTEN_FDS: descriptor 3 is not a listening stream socket (Accept=no)";
	struct passed_socket sockets[4];
	struct error error;

	(void)state;
	refuse(LISTENING, "tape",
		"LISTEN_FDNAMES: \"tape\" is neither nbd nor iscsi (FileDescriptorName=)");
	refuse(UNBOUND, "nbd", wrong);
	refuse(DATAGRAM, "iscsi", wrong);
	refuse(FILE_LIKE, "nbd", wrong);
	for (unsigned i = 0; i < 5; i++)
		place(i, LISTENING);
	assert_int_equal(take(5, NULL, sockets, &error), -E2BIG);
	assert_string_equal(error.text, "LISTEN_FDS: more than 4 sockets");
	close_all(5);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_somebody_elses),
		cmocka_unit_test(test_named),
		cmocka_unit_test(test_without_names),
		cmocka_unit_test(test_refused),
	};

#ifndef HAVE_LIBSYSTEMD
	puts("1..0 # SKIP built without systemd");
	return 0;
#endif
	return cmocka_run_group_tests_name("activation", tests, NULL, NULL);
}
