#include "config.h"
#include "unix_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "address.h"

/* Something else has the name. */
static bool
is_other_file(const struct sockaddr_un *address)
{
	struct stat st;

	return address->sun_path[0] != '\0' && lstat(address->sun_path, &st) == 0 &&
	       !S_ISSOCK(st.st_mode);
}

/* A socket file whose listener is gone: connect(2) says ECONNREFUSED. */
static bool
is_stale(const struct sockaddr_un *address, socklen_t length)
{
	struct stat st;
	bool stale;
	int fd;

	if (address->sun_path[0] == '\0' || lstat(address->sun_path, &st) < 0 ||
		!S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	stale = connect(fd, (const void *)address, length) < 0 && errno == ECONNREFUSED;
	close(fd);
	return stale;
}

static int
bind_masked(int fd, const struct sockaddr_un *address, socklen_t length, mode_t mask)
{
	mode_t before = umask(mask);
	int rc = bind(fd, (const void *)address, length) < 0 ? -errno : 0;

	umask(before);
	return rc;
}

int
unix_listen(const struct sockaddr_un *address, socklen_t length, mode_t mask, struct error *error)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char text[ADDRESS_TEXT];
	int rc;

	address_text((const void *)address, length, text, sizeof(text));
	if (fd < 0)
		return error_set(error, -errno, "%s: %m", text);
	rc = bind_masked(fd, address, length, mask);
	if (rc == -EADDRINUSE && is_stale(address, length)) {
		unlink(address->sun_path);
		rc = bind_masked(fd, address, length, mask);
	}
	if (rc == 0 && listen(fd, SOMAXCONN) < 0) {
		rc = -errno;
		unix_close(fd);
		fd = -1;
	}
	if (rc == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	if (rc == -EADDRINUSE)
		return error_set(error, rc, "%s: %s", text,
			is_other_file(address) ? "a file that is no socket has this name"
					       : "address in use");
	return error_set(error, rc, "%s: %s", text, strerror(-rc));
}

void
unix_close(int fd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t length = sizeof(address) - 1;

	if (fd < 0)
		return;
	if (getsockname(fd, (void *)&address, &length) == 0 &&
		length > offsetof(struct sockaddr_un, sun_path) && address.sun_path[0] != '\0')
		unlink(address.sun_path);
	close(fd);
}
