#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../server/address.h"
#include "../../server/unix_socket.h"

static char directory[] = "/tmp/slabd-unix-XXXXXX";
static struct address address;

static int
make_directory(void **state)
{
	char text[128];
	struct error error;

	(void)state;
	if (!mkdtemp(directory))
		return -1;
	snprintf(text, sizeof(text), "unix:%s/s", directory);
	return address_parse(text, &address, &error) ? 0 : -1;
}

static int
remove_directory(void **state)
{
	(void)state;
	return rmdir(directory);
}

static int
listen_here(struct error *error)
{
	return unix_listen(&address.local, address.local_length, 0177, error);
}

static void
socket_is_the_owners_and_leaves_no_file(void **state)
{
	struct error error;
	struct stat st;
	int fd = listen_here(&error);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(stat(address.local.sun_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	unix_close(fd);
	assert_int_equal(stat(address.local.sun_path, &st), -1);
	unix_close(-1);
}

static void
stale_file_is_replaced(void **state)
{
	struct error error;
	int fd = listen_here(&error);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	fd = listen_here(&error);
	assert_true(fd >= 0);
	unix_close(fd);
}

static void
one_who_answers_is_not_replaced(void **state)
{
	struct error error;
	int fd = listen_here(&error);
	char want[300];

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(listen_here(&error), -EADDRINUSE);
	snprintf(want, sizeof(want), "unix:%s: address in use", address.local.sun_path);
	assert_string_equal(error.text, want);
	assert_int_equal(access(address.local.sun_path, F_OK), 0);
	unix_close(fd);
}

static void
other_file_is_left_alone(void **state)
{
	struct error error;
	int fd = open(address.local.sun_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(listen_here(&error), -EADDRINUSE);
	assert_int_equal(unlink(address.local.sun_path), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(socket_is_the_owners_and_leaves_no_file),
		cmocka_unit_test(stale_file_is_replaced),
		cmocka_unit_test(one_who_answers_is_not_replaced),
		cmocka_unit_test(other_file_is_left_alone),
	};

	return cmocka_run_group_tests_name("unix_socket", tests, make_directory, remove_directory);
}
