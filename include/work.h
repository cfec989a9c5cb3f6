/*
 * Worker threads for what may block. server/runtime/work.c; tests/lib/work_inline.c runs it on virtual
 * time.
 */
#ifndef SLABD_WORK_H
#define SLABD_WORK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* Lives in its owner's object until run() has returned, or until run() itself passes it on. */
struct work {
	STAILQ_ENTRY(work) link;
	void (*run)(struct work *work); /* on a worker thread */
};

/* Work of one owner (a volume): at most `most` of it occupies workers at a time, the rest queues. */
struct work_queue;

/* Any thread. NULL: no memory. */
struct work_queue *work_queue_new(unsigned most);
/* Nothing may be queued. Waits for a run() that is about to return. */
void work_queue_free(struct work_queue *queue);

/* Any thread; first in, first started. Never fails, never runs inside the call. */
void work_submit(struct work_queue *queue, struct work *work);

/* Threads are started when work waits and none is idle, up to `most`, and end when idle for long. */
int work_start(unsigned most);
/* Runs what is queued, joins the threads. */
void work_stop(void);

#endif
