/*
 * How many connections each address has that are still in their handshake or login (promises section
 * 1): nobody has proved anything, and one peer must not take every place. An IPv6 address counts as its
 * /64, which is what one host is given.
 */
#ifndef SLABD_STRANGERS_H
#define SLABD_STRANGERS_H

#include <stddef.h>
#include <sys/socket.h>

struct stranger;

/*
 * One more from this peer, until strangers_leave(*whose); *whose is NULL for a peer that is not counted:
 * loopback, and what is not TCP. -EUSERS when it has `max` already, -ENOMEM. Main thread.
 */
int strangers_enter(const struct sockaddr *peer, unsigned max, struct stranger **whose);

/* It is known now, or gone; once. Any thread; NULL is harmless. */
void strangers_leave(struct stranger *whose);

/* "192.0.2.7" or "2001:db8:0:1::/64": what such a peer is counted as. */
void strangers_text(const struct sockaddr *peer, char *text, size_t room);

/* Addresses remembered, also those whose count is 0 by now. Main thread. */
unsigned strangers_addresses(void);

#endif
