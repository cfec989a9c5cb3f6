/* Unix sockets to listen on. Main thread, before the loops start or on the main loop. */
#ifndef SLABD_UNIX_SOCKET_H
#define SLABD_UNIX_SOCKET_H

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "log.h"

/*
 * A listening, non-blocking socket. A socket file that nobody listens on is replaced; anything else
 * in its place is left alone. `mask` is the umask it is made under. A descriptor, or -errno with
 * *error naming the address.
 */
int
unix_listen(const struct sockaddr_un *address, socklen_t length, mode_t mask, struct error *error);

/* Closes it and takes its file away. Harmless for -1. */
void unix_close(int fd);

#endif
