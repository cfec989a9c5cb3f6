/* The control socket over loops that are real, with frontends of the test's own. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../server/catalogue_build.h"
#include "../../server/config_load.h"
#include "../../server/control.h"
#include "../../server/shutdown.h"
#include "../../server/volumes.h"
#include "block.h"
#include "check.h"
#include "server_frontends.h"
#include "work.h"

#define LOOPS 2

static char directory[] = "/tmp/slabd-control-XXXXXX";
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static struct config config;

/* What a thread beside the main loop says and hears; looked at by the main thread afterwards. */
static struct exchange {
	const char *name;
	const char *request; /* NULL: `length` bytes of 'x' */
	size_t length;
	const char *result; /* a member that the result must have; NULL: an error is due */
	const char *error;  /* which begins so */
	char answer[65536];
} exchanges[] = {
	{.name = "status", .request = "{\"command\":\"status\"}\n", .result = "uptime"},
	{.name = "volumes", .request = "{\"command\":\"volumes\"}\n", .result = "volumes"},
	{.name = "stats", .request = "{\"command\":\"stats\"}\n", .result = "volumes"},
	{.name = "connections",
		.request = "{\"command\":\"connections\"}\n",
		.result = "connections"},
	{.name = "slabs", .request = "{\"command\":\"slabs\"}\n", .result = "slabs"},
	{.name = "add",
		.request = "{\"command\":\"add\",\"volume\":\"more=memory:1M\"}\n",
		.result = "added"},
	{.name = "add twice",
		.request = "{\"command\":\"add\",\"volume\":\"more=memory:1M\"}\n",
		.error = "volume more is already there"},
	{.name = "add nonsense",
		.request = "{\"command\":\"add\",\"volume\":\"m=memory:1M,sise=1\"}\n",
		.error = "volume m: unknown option \"sise\""},
	{.name = "add no file",
		.request = "{\"command\":\"add\",\"volume\":\"f=file:/nonexistent/x\"}\n",
		.error = "volume f: /nonexistent/x"},
	{.name = "add nothing",
		.request = "{\"command\":\"add\"}\n",
		.error = "add needs a volume"},
	{.name = "remove",
		.request = "{\"command\":\"remove\",\"name\":\"more\"}\n",
		.result = "removed"},
	{.name = "remove again",
		.request = "{\"command\":\"remove\",\"name\":\"more\"}\n",
		.error = "there is no volume \"more\""},
	{.name = "remove used",
		.request = "{\"command\":\"remove\",\"name\":\"a\"}\n",
		.error = "volume a is in use by 1 client; --force takes it away"},
	{.name = "resize",
		.request = "{\"command\":\"resize\",\"name\":\"a\",\"size\":\"2T\"}\n",
		.result = "done"},
	{.name = "resize to less",
		.request = "{\"command\":\"resize\",\"name\":\"a\",\"size\":\"1M\"}\n",
		.error = "volume a has 2199023255552 bytes; what is above 1048576 would be lost"},
	{.name = "resize to no size",
		.request = "{\"command\":\"resize\",\"name\":\"a\",\"size\":\"big\"}\n",
		.error = "\"big\" is not a size"},
	{.name = "resize nobody",
		.request = "{\"command\":\"resize\",\"name\":\"b\",\"size\":\"1M\"}\n",
		.error = "there is no volume \"b\""},
	{.name = "clear",
		.request = "{\"command\":\"clear\",\"name\":\"a\"}\n",
		.error = "volume a has not failed"},
	{.name = "later",
		.request = "{\"command\":\"kill\"}\n",
		.error = "kill: not there yet in this version"},
	{.name = "unknown",
		.request = "{\"command\":\"volume\"}\n",
		.error = "unknown command \"volume\" (did you mean \"volumes\"?)"},
	{.name = "no command", .request = "{}\n", .error = "the request names no command"},
	{.name = "an array", .request = "[1,2]\n", .error = "the request names no command"},
	{.name = "no JSON", .request = "hello\n", .error = "the request is not JSON"},
	{.name = "a zero byte",
		.request = "{\"command\":\"sta\\u0000tus\"}\n",
		.error = "the request is not JSON"},
	{.name = "bad UTF-8",
		.request = "{\"command\":\"\xff\"}\n",
		.error = "the request is not JSON"},
	{.name = "an endless line", .length = 65536, .error = "a request has at most 65536 bytes"},
};

static int
connect_control(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (void *)&address, sizeof(address)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static void
say(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t n = send(fd, text, length, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		text += n;
		length -= (size_t)n;
	}
}

static void
hear_line(int fd, char *answer, size_t room)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	size_t length = 0;

	while (length + 1 < room && poll(&pollfd, 1, 20000) == 1) {
		ssize_t n = read(fd, answer + length, 1);

		if (n <= 0 || answer[length] == '\n')
			break;
		length++;
	}
	answer[length] = '\0';
}

static char pipelined[3][4096];
static unsigned connected;

/* Three requests in one write, the last in two pieces; then more clients than are let in. */
static void
be_difficult(void)
{
	static const char three[] = "{\"command\":\"status\"}\n{\"command\":\"x\"}\n{\"command\":";
	int fds[LIMIT_CONTROL_CLIENTS + 8], fd = connect_control();

	say(fd, three, strlen(three));
	hear_line(fd, pipelined[0], sizeof(pipelined[0]));
	hear_line(fd, pipelined[1], sizeof(pipelined[1]));
	say(fd, "\"slabs\"}\n", 9);
	hear_line(fd, pipelined[2], sizeof(pipelined[2]));
	close(fd);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = connect_control();
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
		char answer[4096] = "";

		say(fds[i], "{\"command\":\"status\"}\n", 21);
		hear_line(fds[i], answer, sizeof(answer));
		connected += answer[0] == '{';
	}
	/* One leaves without waiting for its answer. */
	say(fds[0], "{\"command\":\"connections\"}\n", 26);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

static void *
run_client(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < ARRAY_SIZE(exchanges); i++) {
		struct exchange *e = &exchanges[i];
		int fd = connect_control();

		if (e->request) {
			say(fd, e->request, strlen(e->request));
		} else {
			char *much = malloc(e->length);

			memset(much, 'x', e->length);
			say(fd, much, e->length);
			free(much);
		}
		hear_line(fd, e->answer, sizeof(e->answer));
		close(fd);
	}
	be_difficult();
	kill(getpid(), SIGTERM);
	return NULL;
}

static void
check_exchange(const struct exchange *e)
{
	json_error_t error;
	json_t *answer = json_loads(e->answer, 0, &error);
	const char *refused;

	if (!answer)
		fail_msg("%s: \"%.200s\" is not JSON: %s", e->name, e->answer, error.text);
	refused = json_string_value(json_object_get(answer, "error"));
	if (e->result) {
		if (!json_object_get(json_object_get(answer, "result"), e->result))
			fail_msg("%s: no %s in %s", e->name, e->result, e->answer);
	} else if (!refused || strncmp(refused, e->error, strlen(e->error)) != 0) {
		fail_msg("%s: %.200s", e->name, e->answer);
	}
	json_decref(answer);
}

static struct blk_handle *user;

static void
use_volume(struct loop_task *task)
{
	int rc;

	(void)task;
	user = blk_open(volumes_find("a")->volume, "test", false, &rc);
}

static void
leave_volume(struct loop_task *task)
{
	(void)task;
	blk_close(user);
}

static void
requests_are_answered(void **state)
{
	struct loop_task task = {.run = use_volume};
	struct error error;
	pthread_t thread;
	struct stat st;

	(void)state;
	assert_true(config_init(&config));
	config_add_volume(&config, "a=memory:1G");
	config_add_listen(&config, "iscsi", "none");
	assert_true(config_finish(&config));
	config.conf.control = strdup(address.sun_path);
	assert_int_equal(control_bind(&config.conf, &error), 0);
	assert_string_equal(control_path(), address.sun_path);
	assert_int_equal(stat(address.sun_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(loops_start(LOOPS), 0);
	assert_int_equal(volumes_open_all(&config.conf, &error), 0);
	assert_int_equal(catalogue_renew(&config.conf, NULL, 0), 0);
	assert_int_equal(signals_watch(), 0);
	assert_int_equal(control_start(), 0);
	loop_post(loop_main(), &task);
	assert_int_equal(pthread_create(&thread, NULL, run_client, NULL), 0);
	loop_run_main();
	pthread_join(thread, NULL);
	dprintf(STDERR_FILENO, "\n"); /* the daemon ends this line with "stopped" */
	assert_int_equal(stat(address.sun_path, &st), -1);
	leave_volume(NULL);
	signals_unwatch();
	catalogue_publish(NULL);
	volumes_close_all();
	loops_stop();
	config_free(&config);
	for (size_t i = 0; i < ARRAY_SIZE(exchanges); i++)
		check_exchange(&exchanges[i]);
	/* Each loop was told of the one volume that went. */
	assert_int_equal(atomic_load(&volumes_gone), 2 * LOOPS);
}

static void
requests_in_one_write_are_answered_in_order(void **state)
{
	(void)state;
	assert_non_null(strstr(pipelined[0], "uptime"));
	assert_non_null(strstr(pipelined[1], "unknown command"));
	assert_non_null(strstr(pipelined[2], "slabs"));
}

static void
too_many_clients_are_turned_away(void **state)
{
	(void)state;
	assert_in_range(connected, 1, LIMIT_CONTROL_CLIENTS);
}

static int
start(void **state)
{
	(void)state;
	signals_block();
	if (!mkdtemp(directory) || storage_start(0) != 0 || work_start(2) != 0)
		return -1;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", directory);
	return 0;
}

static int
stop(void **state)
{
	(void)state;
	work_stop();
	storage_stop();
	return rmdir(directory);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_answered),
		cmocka_unit_test(requests_in_one_write_are_answered_in_order),
		cmocka_unit_test(too_many_clients_are_turned_away),
	};

	return cmocka_run_group_tests_name("control", tests, start, stop);
}
