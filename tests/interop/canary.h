/*
 * Verified I/O on threads of its own, one by libnbd and one by libiscsi, while a test does
 * something to the server that must not disturb anyone (O1, O5).
 */
#ifndef SLABD_CANARY_H
#define SLABD_CANARY_H

#include "harness.h"

/* The volume's first 32 MiB are written over: by NBD the first half, by iSCSI the second. */
void canary_start(const struct server *server, const char *nbd_volume, const char *iscsi_volume);
/* Stops and counts two cases: no request failed, and every read saw the last write. */
void canary_stop(void);

#endif
