#include "config.h"
#include "activation.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif

#ifdef HAVE_LIBSYSTEMD

/* accept(2) on it must not wait: it may be shared, or its client gone. */
static int
check_socket(int fd, struct error *error)
{
	int listening = 0, type = 0;
	socklen_t length = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0 || !listening ||
		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_STREAM)
		return error_set(error, -EINVAL,
			"LISTEN_FDS: descriptor %d is not a listening stream socket (Accept=no)",
			fd);
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return error_set(error, -errno, "LISTEN_FDS: descriptor %d: %m", fd);
	return 0;
}

static int
take_socket(struct passed_socket *socket, int fd, const char *name, struct error *error)
{
	socket->fd = fd;
	socket->iscsi = strcmp(name, "iscsi") == 0;
	/* Who passes a single socket, as libnbd does, has no need to name it. */
	if (!socket->iscsi && strcmp(name, "nbd") != 0 && strcmp(name, "unknown") != 0)
		return error_set(error, -EINVAL,
			"LISTEN_FDNAMES: \"%s\" is neither nbd nor iscsi (FileDescriptorName=)",
			name);
	return check_socket(fd, error);
}

int
activation_take(struct passed_socket *sockets, size_t most, struct error *error)
{
	char **names = NULL;
	int count = sd_listen_fds_with_names(1, &names);
	int rc = count;

	if (count < 0)
		rc = error_set(error, count, "LISTEN_FDS: %s", strerror(-count));
	else if ((size_t)count > most)
		rc = error_set(error, -E2BIG, "LISTEN_FDS: more than %zu sockets", most);
	for (int i = 0; rc >= 0 && i < count; i++) {
		int wrong = take_socket(&sockets[i], SD_LISTEN_FDS_START + i, names[i], error);

		if (wrong)
			rc = wrong;
	}
	for (int i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
	return rc;
}

#else

int
activation_take(struct passed_socket *sockets, size_t most, struct error *error)
{
	(void)sockets;
	(void)most;
	if (getenv("LISTEN_FDS"))
		return error_set(
			error, -ENOTSUP, "LISTEN_FDS: this slabd was built without systemd");
	return 0;
}

#endif
