/*
 * io_uring for the drivers that read and write a descriptor: one ring per loop, polled by the loop,
 * everything of a turn handed over by one system call before the loop sleeps. uring.c; where liburing
 * is missing uring_none.c, which has no ring to give.
 */
#ifndef SLABD_URING_H
#define SLABD_URING_H

#include <stdbool.h>

#include "storage.h"

struct uring;

/* Before the loops start. Finds out once whether the kernel lets us; the daemon's first line says it. */
void uring_start(void);
/* After they ended. */
void uring_stop(void);

/* Whether volumes that are opened now may use it. Main thread. */
bool uring_usable(void);
/* For tests: from now on as if the kernel refused it. */
void uring_forbid(bool forbid);
/* "io_uring", or "workers (io_uring: Operation not permitted)". */
const char *uring_text(void);

/*
 * One volume's requests on one loop: at most LIMIT_URING_DEPTH are in the kernel, the others wait
 * here, so that a disk that hangs leaves the ring to the other volumes. The loop's.
 */
struct uring_client {
	struct uring *ring;
	int fd;
	bool dsync; /* a WRITE with FUA is its own sync */
	unsigned in_flight;
	struct request_chain waiting;
	/* On the loop: bytes moved or -errno. */
	void (*done)(struct uring_client *client, struct blk_request *request, int result);
};

/* Joins the calling loop's ring. False: there is none. */
bool uring_join(struct uring_client *client);

/* READ or WRITE; done() follows, never from inside. False: this one is for a worker. */
bool uring_submit(struct uring_client *client, struct blk_request *request);

/* One that uring_submit() took, and that is not done, is not wanted any more: done() follows, at once or
 * later, with -ECANCELED where it could be taken back. */
void uring_cancel(struct uring_client *client, struct blk_request *request);

#endif
