/*
 * A connection to the peer under test: bytes with a deadline. Writing takes in what the peer sends
 * meanwhile, so that neither waits for the other. The test owns it; what is not closed is closed
 * when the check ends.
 */
#ifndef CONFORMANCE_CONN_H
#define CONFORMANCE_CONN_H

#include "test.h"

#include <stddef.h>
#include <sys/types.h>

struct ssl_st;

enum { QUIET_MS = 150 }; /* long enough to see a reply that must not come */

/*
 * Each program's: a connected socket, within left_ns; -1 with *error for gai_strerror() or, where that is
 * 0, errno. Made by one of the two behind it.
 */
int target_connect(const struct target *target, int64_t left_ns, int *error);
/* The first address that answers. */
int conn_connect_tcp(const char *host, const char *port, int64_t left_ns, int *error);
int conn_connect_unix(const char *name, size_t name_length, int64_t left_ns);

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
/* The same, for so long. */
bool conn_ends_within(struct conn *c, unsigned ms);

/* The TLS handshake with ssl, which the connection takes over (NULL: no memory). False if it did not
 * come to be. */
bool conn_start_tls(struct conn *c, struct ssl_st *ssl);
/* Why TLS did not come to be, or ended. */
const char *conn_tls_error(const struct conn *c);
/* The peer said close_notify before it closed. */
bool conn_said_goodbye(const struct conn *c);

/* The process that serves a unix socket, 0 if unknown. */
pid_t conn_peer(const struct conn *c);
/* TCP: the peer's address, "HOST:PORT" or "[V6]:PORT". */
void conn_name(const struct conn *c, char *name, size_t size);
/* TCP: let the kernel wait with its acknowledgements, as it does by itself sooner or later. */
void conn_delay_acks(struct conn *c);

#endif
