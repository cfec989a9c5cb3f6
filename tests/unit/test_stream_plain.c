#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "loop.h"
#include "slab.h"
#include "stream.h"

static int
setup(void **state)
{
	(void)state;
	return loops_start(1);
}

static int
teardown(void **state)
{
	(void)state;
	loops_stop();
	return 0;
}

/* A connected pair over loopback. client's end is a plain descriptor. False: no such family here.
 */
static bool
connect_tcp(const struct sockaddr *address, socklen_t length, int *client, int *server)
{
	struct sockaddr_storage bound;
	socklen_t size = sizeof(bound);
	int listener = socket(address->sa_family, SOCK_STREAM, 0);

	if (listener < 0)
		return false;
	if (bind(listener, address, length) || listen(listener, 1)) {
		close(listener);
		return false;
	}
	assert_int_equal(getsockname(listener, (struct sockaddr *)&bound, &size), 0);
	*client = socket(address->sa_family, SOCK_STREAM, 0);
	assert_int_equal(connect(*client, (struct sockaddr *)&bound, size), 0);
	*server = accept(listener, NULL, NULL);
	assert_true(*server >= 0);
	close(listener);
	return true;
}

static unsigned
port_of(int fd, bool peer)
{
	struct sockaddr_in6 a;
	socklen_t size = sizeof(a);

	if (peer)
		assert_int_equal(getpeername(fd, (struct sockaddr *)&a, &size), 0);
	else
		assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
	return ntohs(a.sin6_port); /* at the same place in sockaddr_in */
}

static int
get_option(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &size), 0);
	return value;
}

static void
check_tcp(const struct sockaddr *address, socklen_t length, const char *host)
{
	char peer[64];
	char local[64];
	struct stream *stream;
	int client;
	int server;

	if (!connect_tcp(address, length, &client, &server)) {
		print_message("# address family %d is not there\n", address->sa_family);
		skip();
	}
	snprintf(peer, sizeof(peer), "%s:%u", host, port_of(server, true));
	snprintf(local, sizeof(local), "%s:%u", host, port_of(server, false));
	stream = stream_plain_new(server);
	assert_non_null(stream);
	assert_string_equal(stream_peer(stream), peer);
	assert_string_equal(stream_local(stream), local);
	assert_int_equal(get_option(server, IPPROTO_TCP, TCP_NODELAY), 1);
	stream_close(stream);
	close(client);
}

static void
test_tcp4(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	(void)state;
	check_tcp((struct sockaddr *)&in, sizeof(in), "127.0.0.1");
}

static void
test_tcp6(void **state)
{
	struct sockaddr_in6 in = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

	(void)state;
	check_tcp((struct sockaddr *)&in, sizeof(in), "[::1]");
}

static void
test_mapped(void **state)
{
	struct sockaddr_in6 in = {.sin6_family = AF_INET6};

	(void)state;
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &in.sin6_addr);
	check_tcp((struct sockaddr *)&in, sizeof(in), "127.0.0.1");
}

static void
test_peer_that_has_gone(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct linger linger = {.l_onoff = 1};
	struct stream *stream;
	struct iovec iov;
	char c;
	int client;
	int server;

	(void)state;
	assert_true(connect_tcp((struct sockaddr *)&in, sizeof(in), &client, &server));
	setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(client); /* a reset */
	stream = stream_plain_new(server);
	assert_non_null(stream);
	assert_true(strlen(stream_peer(stream)) > 0);
	iov = (struct iovec){&c, 1};
	assert_int_equal(stream_read(stream, &iov, 1), -ECONNRESET);
	assert_int_equal(stream_write(stream, &iov, 1), -EPIPE); /* and no signal */
	stream_close(stream);
}

static unsigned wanted_events, calls;
static char got[16];

static void
on_ready(struct stream *stream, unsigned events)
{
	char c;
	char d[2];
	struct iovec iov[2] = {{&c, 1}, {d, 2}};
	ssize_t n;

	calls++;
	assert_ptr_equal(stream->owner, got);
	assert_int_equal(events & ~wanted_events, 0);
	if (events & STREAM_WRITABLE) {
		wanted_events = STREAM_READABLE;
		assert_int_equal(stream_watch(stream, STREAM_READABLE), 0);
		return;
	}
	n = stream_read(stream, iov, 2);
	assert_true(n >= 0);
	if (n == 0) {
		stream_close(stream);
		loop_stop_main();
		return;
	}
	strncat(got, &c, 1);
	strncat(got, d, (size_t)n - 1);
}

static void
test_unix(void **state)
{
	char hello[] = "hello";
	struct iovec out[2] = {{hello, 2}, {hello + 2, 3}};
	struct stream *stream;
	char text[8] = {0};
	int fds[2];

	(void)state;
	calls = 0;
	got[0] = '\0';
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	stream = stream_plain_new(fds[0]);
	assert_string_equal(stream_peer(stream), "unix");
	assert_string_equal(stream_local(stream), "unix");
	assert_int_equal(stream_attach(stream, loop_current(), on_ready, got), 0);
	wanted_events = STREAM_READABLE | STREAM_WRITABLE;
	assert_int_equal(stream_watch(stream, wanted_events), 0);
	assert_int_equal(stream_write(stream, out, 2), 5);
	assert_int_equal(read(fds[1], text, sizeof(text)), 5);
	assert_string_equal(text, "hello");
	assert_int_equal(stream_read(stream, &(struct iovec){text, 8}, 1), -EAGAIN);
	assert_int_equal(write(fds[1], "abcde", 5), 5);
	shutdown(fds[1], SHUT_WR);
	loop_run_main();
	assert_string_equal(got, "abcde");
	assert_int_equal(calls, 4); /* writable, abc, de, the end */
	close(fds[1]);
}

static void
test_full_socket(void **state)
{
	static char block[65536];
	struct iovec iov = {block, sizeof(block)};
	struct stream *stream;
	size_t total = 0;
	ssize_t n;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	stream = stream_plain_new(fds[0]);
	while ((n = stream_write(stream, &iov, 1)) > 0 && total < 64 << 20)
		total += (size_t)n;
	assert_int_equal(n, -EAGAIN);
	assert_true(total >= sizeof(block));
	stream_close(stream);
	close(fds[1]);
}

/* The peer sees the end and is still heard. */
static void
test_finish(void **state)
{
	char byte;
	struct iovec iov = {&byte, 1};
	struct stream *stream;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	stream = stream_plain_new(fds[0]);
	assert_int_equal(stream_finish(stream), 0);
	assert_int_equal(read(fds[1], &byte, 1), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(stream_read(stream, &iov, 1), 1);
	assert_int_equal(byte, 'x');
	assert_int_equal(stream_write(stream, &iov, 1), -EPIPE);
	stream_close(stream);
	close(fds[1]);
}

/* Taken off one loop with bytes unread, and put on another. */
static struct stream *moving;

static void
run_attach(struct loop_task *task)
{
	(void)task;
	assert_int_equal(stream_attach(moving, loop_current(), on_ready, got), 0);
}

static void
on_moved(struct stream *stream, unsigned events)
{
	static struct loop_task task = {.run = run_attach};

	(void)events;
	stream_detach(stream);
	assert_null(stream->loop);
	loop_post(loop_main(), &task);
}

static void
attach_there(struct loop_task *task)
{
	(void)task;
	assert_int_equal(stream_attach(moving, loop_current(), on_moved, NULL), 0);
}

static void
test_move(void **state)
{
	static struct loop_task task = {.run = attach_there};
	int fds[2];

	(void)state;
	calls = 0;
	got[0] = '\0';
	wanted_events = STREAM_READABLE;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	moving = stream_plain_new(fds[0]);
	assert_int_equal(write(fds[1], "xyz", 3), 3);
	close(fds[1]);
	loop_post(loop_by_index(0), &task);
	loop_run_main();
	assert_string_equal(got, "xyz");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_tcp4, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tcp6, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mapped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_peer_that_has_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unix, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_socket, setup, teardown),
		cmocka_unit_test_setup_teardown(test_finish, setup, teardown),
		cmocka_unit_test_setup_teardown(test_move, setup, teardown),
	};

	return cmocka_run_group_tests_name("stream_plain", tests, NULL, NULL);
}
