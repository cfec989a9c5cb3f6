/*
 * The sockets that NBD and iSCSI are served on: resolved and bound before anything is opened, so
 * that a start that fails leaves nothing behind; accepted from on the main loop. Main thread.
 */
#ifndef SLABD_LISTENER_H
#define SLABD_LISTENER_H

#include <stddef.h>

#include "activation.h"
#include "catalogue.h"
#include "conf.h"
#include "log.h"

/*
 * Looks names up and refuses what would be open to everyone. *error names the address. 0 or -errno.
 * The first takes sockets that listen already, and owns them from here on.
 */
int listeners_adopt(const struct conf *conf, const struct passed_socket *sockets, size_t count,
	struct error *error);
int listeners_resolve(const struct conf *conf, struct error *error);

/* Binds and listens; clients wait until listeners_start(). 0 or -errno. */
int listeners_bind(struct error *error);

/* iSCSI's, once bound; good for ever. */
const struct portal *listeners_portals(size_t *count);

/* Accepts from now on, at most as many connections at a time as conf says. 0 or -errno. */
int listeners_start(const struct conf *conf);

/* "nbd 127.0.0.1:10809    disk0 (default export)", a line each, to stderr. */
void listeners_print(const struct catalogue *catalogue);

/* Calls visit for each: protocol and address. */
void
listeners_visit(void (*visit)(const char *protocol, const char *address, void *arg), void *arg);

/* Stops and closes; socket files are removed. Harmless when nothing was bound. */
void listeners_stop(void);

#endif
