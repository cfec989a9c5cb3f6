/* Signals, and the way from the first SIGTERM to an empty daemon. Main thread. */
#ifndef SLABD_SHUTDOWN_H
#define SLABD_SHUTDOWN_H

#include <stdbool.h>

/* Blocks SIGTERM, SIGINT and SIGHUP for all threads made later; ignores SIGPIPE. Before the loops
 * start. */
void signals_block(void);

/*
 * Watches for them on the main loop: SIGTERM and SIGINT stop listening, let the protocols drain,
 * abort what is left after LIMIT_DRAIN, and stop the main loop. A second one ends the process at
 * once with 1. 0 or -errno.
 */
int signals_watch(void);
void signals_unwatch(void);

/* What the first signal does; `silent`: saying nothing of it. Main loop. */
void shutdown_begin(bool silent);

/* True once a drain was begun; its line on stderr waits for its end. */
bool shutdown_begun(void);

#endif
