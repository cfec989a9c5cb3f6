/*
 * Sockets that systemd, or who acts like it, passed to us already listening (sd_listen_fds(3)). Main
 * thread, before anything else is opened.
 */
#ifndef SLABD_ACTIVATION_H
#define SLABD_ACTIVATION_H

#include <stdbool.h>
#include <stddef.h>

#include "log.h"

struct passed_socket {
	int fd;
	bool iscsi; /* its name says so; else NBD */
};

/*
 * Takes them, once; LISTEN_FDS and its like leave the environment. Their number, at most `most`, 0
 * where there are none, or -errno with *error naming the one that cannot be served.
 */
int activation_take(struct passed_socket *sockets, size_t most, struct error *error);

#endif
