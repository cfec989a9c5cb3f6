/* Listeners, receptions, the headcount and the drain, over loops and sockets that are real. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../server/config_load.h"
#include "../../server/headcount.h"
#include "../../server/listener.h"
#include "../../server/shutdown.h"
#include "server_frontends.h"

#define LOOPS 2

static struct config config;

static void
configure(const char *yaml)
{
	assert_true(config_init(&config));
	config_read_text(&config, "f.yaml", yaml, strlen(yaml));
	if (!config_finish(&config))
		fail_msg("%s", config.problems[0].text);
}

#define VOLUME "volumes: {disk0: {backend: null, size: 1G}}\n"

static void
beyond_loopback_needs_a_word(void **state)
{
	struct error error;

	(void)state;
	configure(VOLUME "iscsi: {listen: [\"0.0.0.0:3260\"]}\n");
	assert_int_equal(listeners_resolve(&config.conf, &error), -EACCES);
	assert_string_equal(error.text,
		"iscsi 0.0.0.0:3260 would offer disk0 to everyone: add CHAP, TLS with verified "
		"peers or an access rule, or say --insecure");
	listeners_stop();
	config.conf.insecure = true;
	assert_int_equal(listeners_resolve(&config.conf, &error), 0);
	listeners_stop();
	config_free(&config);
	configure(VOLUME "nbd: {listen: [\"[::]:10809\"]}\n");
	assert_int_equal(listeners_resolve(&config.conf, &error), -EACCES);
	listeners_stop();
	config_free(&config);
}

static void
unknown_host_is_named(void **state)
{
	struct error error;

	(void)state;
	configure(VOLUME "nbd: {listen: [\"nowhere.invalid:1\"]}\n");
	assert_true(listeners_resolve(&config.conf, &error) < 0);
	assert_non_null(strstr(error.text, "nbd nowhere.invalid:1: "));
	listeners_stop();
	config_free(&config);
}

/* A passed socket is served under the same rule as one of ours, and its name is the kernel's. */
static void
passed_sockets_are_adopted(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_ANY)}};
	struct passed_socket passed = {.iscsi = true};
	const struct portal *portals;
	struct error error;
	size_t count;

	(void)state;
	configure(VOLUME "nbd: {listen: []}\niscsi: {listen: [\"127.0.0.1:0\"]}\n");
	passed.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(passed.fd, (void *)&in, sizeof(in)), 0);
	assert_int_equal(listen(passed.fd, 1), 0);
	assert_int_equal(listeners_adopt(&config.conf, &passed, 1, &error), -EACCES);
	assert_memory_equal(error.text, "iscsi 0.0.0.0:", strlen("iscsi 0.0.0.0:"));
	config.conf.insecure = true;
	assert_int_equal(listeners_adopt(&config.conf, &passed, 1, &error), 0);
	assert_int_equal(listeners_bind(&error), 0);
	portals = listeners_portals(&count);
	assert_true(count >= 1);
	assert_memory_equal(portals[count - 1].address, "0.0.0.0:", strlen("0.0.0.0:"));
	assert_int_equal(portals[count - 1].group, 1);
	assert_null(portals[count - 1].advertise);
	assert_false(portals[count - 1].tls);
	listeners_stop();
	/* It was ours from then on. */
	assert_int_equal(close(passed.fd), -1);
	passed.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(listeners_adopt(&config.conf, &passed, 1, &error), -EINVAL);
	assert_non_null(strstr(error.text, "iSCSI is served over TCP only"));
	close(passed.fd);
	listeners_stop();
	config_free(&config);
}

/* Told is what the operator says, but for a port that only the kernel knows, another one each time. */
static void
advertised_port_0_is_the_bound_one(void **state)
{
	const struct portal *portals;
	struct error error;
	char bound[64];
	size_t count;

	(void)state;
	configure(VOLUME "nbd: {listen: []}\niscsi: {listen: [\n"
			 "  {address: \"127.0.0.1:0\", advertise: \"192.0.2.7:0\"},\n"
			 "  {address: \"127.0.0.1:0\", advertise: \"[2001:db8::7]:0\"},\n"
			 "  {address: \"127.0.0.1:0\", advertise: \"192.0.2.7:10\"}]}\n");
	assert_int_equal(listeners_resolve(&config.conf, &error), 0);
	assert_int_equal(listeners_bind(&error), 0);
	portals = listeners_portals(&count);
	assert_true(count >= 3);
	portals += count - 3;
	assert_string_not_equal(portals[0].address, portals[1].address);
	snprintf(bound, sizeof(bound), "192.0.2.7%s", strrchr(portals[0].address, ':'));
	assert_string_equal(portals[0].advertise, bound);
	snprintf(bound, sizeof(bound), "[2001:db8::7]%s", strrchr(portals[1].address, ':'));
	assert_string_equal(portals[1].advertise, bound);
	assert_string_equal(portals[2].advertise, "192.0.2.7:10");
	listeners_stop();
	config_free(&config);
}

static int addresses[8];
static unsigned naddresses;

static void
take_port(const char *protocol, const char *address, void *arg)
{
	const char *colon = strrchr(address, ':');

	(void)protocol;
	(void)arg;
	assert_true(colon && naddresses < 8);
	addresses[naddresses++] = atoi(colon + 1);
}

static int
connect_to(int port)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (void *)&in, sizeof(in)), 0);
	return fd;
}

static void
port_in_use_is_explained(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t length = sizeof(in);
	char yaml[128], want[64], holder[32];
	struct error error;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (void *)&in, sizeof(in)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (void *)&in, &length), 0);
	snprintf(yaml, sizeof(yaml),
		VOLUME "nbd: {listen: [\"127.0.0.1:%d\"]}\niscsi: {listen: []}\n",
		ntohs(in.sin_port));
	configure(yaml);
	assert_int_equal(listeners_resolve(&config.conf, &error), 0);
	assert_int_equal(listeners_bind(&error), -EADDRINUSE);
	snprintf(want, sizeof(want), "nbd 127.0.0.1:%d: address in use (by ", ntohs(in.sin_port));
	assert_memory_equal(error.text, want, strlen(want));
	snprintf(holder, sizeof(holder), ", pid %d)", (int)getpid());
	assert_non_null(strstr(error.text, holder));
	listeners_stop();
	config_free(&config);
	close(fd);
}

/* Everything that needs a running main loop happens in a client thread beside it. */
static void (*client)(void);

static void *
run_client(void *arg)
{
	(void)arg;
	client();
	kill(getpid(), SIGTERM);
	return NULL;
}

/* A byte, or 0 when the connection was closed instead, within some seconds. */
static char
read_greeting(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	char byte = 0;

	if (poll(&pollfd, 1, 20000) != 1)
		return '?';
	return read(fd, &byte, 1) == 1 ? byte : 0;
}

static void
serve_while(const char *yaml, void (*body)(void))
{
	struct error error;
	pthread_t thread;

	configure(yaml);
	if (listeners_resolve(&config.conf, &error) != 0 || listeners_bind(&error) != 0)
		fail_msg("%s", error.text);
	assert_int_equal(loops_start(LOOPS), 0);
	assert_int_equal(signals_watch(), 0);
	assert_int_equal(listeners_start(&config.conf), 0);
	naddresses = 0;
	listeners_visit(take_port, NULL);
	client = body;
	assert_int_equal(pthread_create(&thread, NULL, run_client, NULL), 0);
	loop_run_main();
	pthread_join(thread, NULL);
	dprintf(STDERR_FILENO, "\n"); /* the daemon ends this line with "stopped" */
	assert_true(shutdown_begun());
	signals_unwatch();
	loops_stop();
	config_free(&config);
	assert_int_equal(headcount_total(), 0);
}

/* Written by the client thread, looked at when it is done: asserting is the main thread's. */
static char greetings[16];
static char refused;
static unsigned counted;

static void
many_connections(void)
{
	int fds[8];

	for (unsigned i = 0; i < 8; i++) {
		fds[i] = connect_to(addresses[i % 2]);
		greetings[i] = read_greeting(fds[i]);
	}
	counted = headcount_total();
	/* The ninth is one too many. */
	fds[0] = connect_to(addresses[0]);
	refused = read_greeting(fds[0]);
}

static void
connections_are_spread_limited_and_drained(void **state)
{
	(void)state;
	refused = '?';
	serve_while(VOLUME "nbd: {listen: [\"127.0.0.1:0\"]}\niscsi: {listen: [\"127.0.0.1:0\"]}\n"
			   "limits: {connections: 8}\n",
		many_connections);
	assert_memory_equal(greetings, "nininini", 8);
	assert_int_equal(counted, 8);
	assert_int_equal(refused, 0);
}

static int
block(void **state)
{
	(void)state;
	signals_block();
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(beyond_loopback_needs_a_word),
		cmocka_unit_test(unknown_host_is_named),
		cmocka_unit_test(passed_sockets_are_adopted),
		cmocka_unit_test(advertised_port_0_is_the_bound_one),
		cmocka_unit_test(port_in_use_is_explained),
		cmocka_unit_test(connections_are_spread_limited_and_drained),
	};

	return cmocka_run_group_tests_name("listener", tests, block, NULL);
}
