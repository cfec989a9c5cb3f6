/*
 * How many connections there are, on every loop and in all: a stream counts from headcount_add()
 * until it is closed, and on the loop it is attached to. Costs nothing while a stream is read and
 * written.
 */
#ifndef SLABD_HEADCOUNT_H
#define SLABD_HEADCOUNT_H

#include "stream.h"

/* Main thread, before the stream is anyone's: it is on its way to `loop`. */
void headcount_add(struct stream *stream, unsigned loop);
/* On that loop, just before the protocol gets it. */
void headcount_arrived(unsigned loop);

/* Any thread, relaxed. */
unsigned headcount_total(void);
unsigned headcount_least_loop(void);

#endif
