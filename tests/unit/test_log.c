#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "log.h"

/* stderr is a socket during a test, as it is under systemd; lines[] gets what arrives. */
static int peer, saved;
static char lines[16384];

static int
setup(void **state)
{
	int fds[2];

	(void)state;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		return -1;
	saved = dup(STDERR_FILENO);
	dup2(fds[0], STDERR_FILENO);
	close(fds[0]);
	peer = fds[1];
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(peer);
	log_set_level(LOG_LEVEL_INFO);
	return 0;
}

static const char *
read_lines(void)
{
	ssize_t n = recv(peer, lines, sizeof(lines) - 1, MSG_DONTWAIT);

	lines[n > 0 ? n : 0] = '\0';
	return lines;
}

static void
test_levels(void **state)
{
	(void)state;
	log_info("ready");
	log_warn("%s is %d", "x", 1);
	log_error("no");
	log_debug("not shown");
	assert_string_equal(read_lines(), "ready\nwarning: x is 1\nerror: no\n");
	log_set_level(LOG_LEVEL_ERROR);
	log_warn("not shown");
	assert_string_equal(read_lines(), "");
	log_set_level(LOG_LEVEL_DEBUG);
	log_debug("shown");
	assert_string_equal(read_lines(), "debug: shown\n");
}

static void
test_hostile_text(void **state)
{
	(void)state;
	log_info("name %s", "a\nerror: b\x1b[2J\x7f\xc3\xa4");
	assert_string_equal(read_lines(), "name a\\x0aerror: b\\x1b[2J\\x7f\xc3\xa4\n");
}

static void
test_long_text(void **state)
{
	char text[8000];
	size_t n;

	(void)state;
	memset(text, 1, sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_info("%s", text);
	n = strlen(read_lines());
	assert_true(n > 1000 && lines[n - 1] == '\n');
	assert_ptr_equal(strchr(lines, '\n'), lines + n - 1);
}

static void
test_errno_is_kept(void **state)
{
	(void)state;
	errno = ENOSPC;
	log_info("x");
	assert_int_equal(errno, ENOSPC);
	read_lines();
}

static void
test_error_set(void **state)
{
	struct error e;
	char text[1000];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[999] = '\0';
	assert_int_equal(error_set(&e, -EINVAL, "size %d", 3), -EINVAL);
	assert_string_equal(e.text, "size 3");
	assert_int_equal(error_set(NULL, -EIO, "x"), -EIO);
	error_set(&e, 0, "%s", text);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

static void
test_check_aborts(void **state)
{
	int status = 0;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		signal(SIGABRT, SIG_DFL); /* cmocka and sanitizers take it */
		CHECK(pid != 0);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(read_lines(), "CHECK(pid != 0) failed"));
}

/* $JOURNAL_STREAM is looked at once per process: a child each. */
static void
log_with_journal(const char *value)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setenv("JOURNAL_STREAM", value, 1);
		log_error("e");
		log_info("i");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void
test_journal(void **state)
{
	char value[64];
	struct stat st;

	(void)state;
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(value, sizeof(value), "%llu:%llu", (unsigned long long)st.st_dev,
		(unsigned long long)st.st_ino);
	log_with_journal(value);
	assert_string_equal(read_lines(), "<3>e\n<6>i\n");
	log_with_journal("1:1");
	assert_string_equal(read_lines(), "error: e\ni\n");
}

static void
test_limit(void **state)
{
	struct log_limit limit = {0};
	uint64_t now = 5 * LOG_WINDOW_NS;
	unsigned left_out;

	(void)state;
	for (unsigned i = 0; i < LOG_BURST; i++)
		assert_true(log_limit_passes(&limit, now + i, &left_out));
	for (unsigned i = 0; i < 7; i++)
		assert_false(log_limit_passes(&limit, now + LOG_WINDOW_NS - 1, &left_out));
	assert_true(log_limit_passes(&limit, now + LOG_WINDOW_NS, &left_out));
	assert_int_equal(left_out, 7);
	assert_true(log_limit_passes(&limit, now + 2 * LOG_WINDOW_NS, &left_out));
	assert_int_equal(left_out, 0);
}

static unsigned
count_lines(void)
{
	unsigned count = 0;

	read_lines();
	for (const char *p = lines; (p = strchr(p, '\n')) != NULL; p++)
		count++;
	return count;
}

/* A flood of a peer's making is a few lines; who debugs sees all of it. */
static void
test_seldom(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3 * LOG_BURST; i++)
		log_seldom(LOG_LEVEL_INFO, "a peer did %u", i);
	assert_int_equal(count_lines(), LOG_BURST);
	log_set_level(LOG_LEVEL_DEBUG);
	for (unsigned i = 0; i < 3 * LOG_BURST; i++)
		log_seldom(LOG_LEVEL_DEBUG, "a peer did %u", i);
	assert_int_equal(count_lines(), 3 * LOG_BURST);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_journal, setup, teardown),
		cmocka_unit_test_setup_teardown(test_levels, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile_text, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_text, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errno_is_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(test_error_set, setup, teardown),
		cmocka_unit_test(test_limit),
		cmocka_unit_test_setup_teardown(test_seldom, setup, teardown),
		cmocka_unit_test_setup_teardown(test_check_aborts, setup, teardown),
	};

	unsetenv("JOURNAL_STREAM");
	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
