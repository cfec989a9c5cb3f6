/*
 * A TCP connection to the target: bytes with a deadline. Writing takes in what the target sends
 * meanwhile, so that neither waits for the other. The test owns it; what is not closed is closed when
 * the check ends.
 */
#ifndef ISCSICHECK_CONN_H
#define ISCSICHECK_CONN_H

#include "test.h"

enum { QUIET_MS = 150 }; /* long enough to see an answer that must not come */

/* Ends the check if nobody accepts. */
struct conn *conn_open(struct test *t);
/* Closes with a reset. */
void conn_reset(struct conn *c);

/* False if the connection ended first. Past the deadline the check fails. */
bool conn_write(struct conn *c, const void *bytes, size_t length);
bool conn_read(struct conn *c, void *bytes, size_t length);
/* True if the connection stays open and nothing arrives for so long. */
bool conn_is_quiet(struct conn *c, unsigned ms);
/* Waits for the end, whatever comes before it, for so long. */
bool conn_ends_within(struct conn *c, unsigned ms);
/* The target's address as TargetAddress writes it. */
void conn_name(const struct conn *c, char *name, size_t size);

#endif
