/*
 * --stdio: one NBD connection on standard input and output, for inetd, ssh and fuzzers. Whatever
 * those are (pipes, files, a terminal, a socket), two threads carry their bytes to and from a socket
 * pair, so that the rest of the daemon sees a connection like any other. Main thread.
 */
#ifndef SLABD_STDIO_CONN_H
#define SLABD_STDIO_CONN_H

#include "log.h"

/* Where standard error is the peer's socket too, as under inetd, nothing may be said there. */
void stdio_spare_stderr(void);

/* Begins to serve; when the connection has ended, the daemon does. 0 or -errno. */
int stdio_start(struct error *error);
/* Before the loops end. Harmless when it was not started. */
void stdio_stop(void);

#endif
