/* Who holds a port, found in /proc as far as we may look. For error messages; slow. */
#ifndef SLABD_DIAGNOSE_H
#define SLABD_DIAGNOSE_H

#include <stddef.h>
#include <sys/socket.h>

/* " (by NAME, pid N)", or "" when it cannot be told. */
const char *diagnose_port(const struct sockaddr *socket, char *text, size_t room);

#endif
