/*
 * A connection to the server: bytes with a deadline. Writing takes in what the server sends
 * meanwhile, so that neither waits for the other. The test owns it; what is not closed is closed
 * when the check ends.
 */
#ifndef NBDCHECK_CONN_H
#define NBDCHECK_CONN_H

#include "test.h"

#include <sys/types.h>

enum { QUIET_MS = 150 }; /* long enough to see a reply that must not come */

/* Ends the check if nobody accepts. */
struct conn *conn_open(struct test *t);
void conn_close(struct conn *c);
/* Closes with a reset where the transport has one (TCP). */
void conn_reset(struct conn *c);

/* False if the connection ended first. Past the deadline the check fails. */
bool conn_write(struct conn *c, const void *bytes, size_t length);
bool conn_read(struct conn *c, void *bytes, size_t length);
/* True if the connection stays open and nothing arrives for so long. */
bool conn_is_quiet(struct conn *c, unsigned ms);
/* Waits for the end: true if nothing came before it. */
bool conn_ends(struct conn *c);
/* Waits for the end, whatever comes before it. */
void conn_drain(struct conn *c);

/* The TLS handshake; min and max are TLS versions, 0 for any. False if it did not come to be. */
bool conn_start_tls(struct conn *c, int min_version, int max_version);
/* Why TLS did not come to be, or ended. */
const char *conn_tls_error(const struct conn *c);
/* The server said close_notify before it closed. */
bool conn_said_goodbye(const struct conn *c);

/* The process that serves a unix socket, 0 if unknown. */
pid_t conn_peer(const struct conn *c);
/* TCP: let the kernel wait with its acknowledgements, as it does by itself sooner or later. */
void conn_delay_acks(struct conn *c);

#endif
