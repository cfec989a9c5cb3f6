/* Takes connections from one listening socket and hands each to the loop with fewest. Main loop. */
#ifndef SLABD_RECEPTION_H
#define SLABD_RECEPTION_H

#include <stdbool.h>

#include "conf.h"
#include "frontend.h"
#include "loop.h"
#include "tls.h"

struct reception {
	struct loop_watch watch;
	struct loop_timer pause;
	const struct frontend *frontend;
	const struct portal *portal;
	const char *name; /* the address, for warnings */
	unsigned connections, handshakes_per_address;
	uint64_t warned;     /* when */
	unsigned unreported; /* refused since */
	bool started;
};

/* Hands a connected socket to the loop with fewest connections; secure: TLS from the first byte. */
void reception_hand_over(const struct frontend *frontend, const struct portal *portal, int fd,
	struct tls_context *secure);

/*
 * Refuses what would be more connections than conf says, counted over all receptions, and more
 * handshakes of one address. 0 or -errno.
 */
int reception_start(struct reception *reception, int fd, const struct frontend *frontend,
	const struct portal *portal, const char *name, const struct conf *conf);

/* Harmless when it was not started. */
void reception_stop(struct reception *reception);

#endif
