/*
 * How long a peer may take (R05), in nanoseconds. From `limits` of the configuration; set before the
 * loops start, only read afterwards.
 */
#ifndef SLABD_PATIENCE_H
#define SLABD_PATIENCE_H

#include <stdint.h>

struct patience {
	uint64_t handshake; /* NBD: from accept to the transmission phase, TLS within it */
	uint64_t login;     /* iSCSI: from accept to the full feature phase */
	uint64_t partial;   /* a partial request or PDU without progress */
	uint64_t output;    /* answers that are not taken */
};

/* As limits.h has them until somebody says otherwise. */
extern struct patience patience;

#endif
