#include "config.h"

#include "uring.h"

#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define IOV_MOST    1024 /* the kernel takes so many pieces (UIO_MAXIOV) */
#define ENTRIES     256  /* submissions prepared in one turn before they are handed over early */
#define COMPLETIONS 4096 /* more than that the kernel keeps for us (IORING_FEAT_NODROP) */
/* The kernel's threads for what would block: enough for several volumes that hang at full depth. */
#define THREADS (8 * LIMIT_URING_DEPTH)

struct uring {
	struct io_uring ring;
	struct loop *loop;
	struct loop_watch watch;
	struct loop_task submit_task;
};

static int refusal = -ENOSYS; /* 0: usable */
static bool forbidden;
static char text[80];

/* Each written by its loop; freed when all have ended. */
static struct uring *rings[LANES];

/* What must be there, and that it works at all: seccomp often refuses io_uring in containers. */
static int
probe(void)
{
	static const int needed[] = {
		IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV};
	struct io_uring_probe *operations;
	struct io_uring ring;
	int rc;

	if (getenv("SLABD_NO_IO_URING"))
		return -ECANCELED;
	rc = io_uring_queue_init(4, &ring, 0);
	if (rc)
		return rc;
	operations = io_uring_get_probe_ring(&ring);
	rc = operations && ring.features & IORING_FEAT_NODROP ? 0 : -ENOSYS;
	for (unsigned i = 0; !rc && i < ARRAY_SIZE(needed); i++)
		if (!io_uring_opcode_supported(operations, needed[i]))
			rc = -ENOSYS;
	if (operations)
		io_uring_free_probe(operations);
	io_uring_queue_exit(&ring);
	return rc;
}

void
uring_start(void)
{
	refusal = probe();
	if (refusal == 0)
		snprintf(text, sizeof(text), "io_uring");
	else if (refusal == -ECANCELED)
		snprintf(text, sizeof(text), "workers (SLABD_NO_IO_URING is set)");
	else
		snprintf(text, sizeof(text), "workers (io_uring: %s)", strerror(-refusal));
}

void
uring_stop(void)
{
	for (unsigned i = 0; i < LANES; i++) {
		if (!rings[i])
			continue;
		/* Its watch went with its loop. */
		io_uring_queue_exit(&rings[i]->ring);
		free(rings[i]);
		rings[i] = NULL;
	}
}

bool
uring_usable(void)
{
	return refusal == 0 && !forbidden;
}

void
uring_forbid(bool forbid)
{
	forbidden = forbid;
}

const char *
uring_text(void)
{
	return text;
}

static void submit_batch(struct loop_task *task);

static void
want_submit(struct uring *uring)
{
	if (uring->submit_task.queued)
		return;
	uring->submit_task.run = submit_batch;
	loop_before_sleep(uring->loop, &uring->submit_task);
}

/* NULL: the ring has no room although it was just emptied. */
static struct io_uring_sqe *
get_entry(struct uring *uring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&uring->ring);
	return io_uring_get_sqe(&uring->ring);
}

/* False: no room. */
static bool
start_io(struct uring_client *client, struct blk_request *request)
{
	struct uring *uring = client->ring;
	struct io_uring_sqe *sqe = get_entry(uring);
	const struct iovec *iov = request->iov;
	bool write = request->op == BLK_WRITE;

	if (!sqe)
		return false;
	if (request->niov == 1)
		io_uring_prep_rw(write ? IORING_OP_WRITE : IORING_OP_READ, sqe, client->fd,
			iov->iov_base, (unsigned)request->length, request->offset);
	else
		io_uring_prep_rw(write ? IORING_OP_WRITEV : IORING_OP_READV, sqe, client->fd, iov,
			request->niov, request->offset);
	if (write && request->flags & BLK_FUA && client->dsync)
		sqe->rw_flags = RWF_DSYNC;
	io_uring_sqe_set_data(sqe, request);
	request->driver[1] = (uintptr_t)client;
	client->in_flight++;
	want_submit(uring);
	return true;
}

static void
end_io(struct blk_request *request, int result)
{
	struct uring_client *client = (struct uring_client *)request->driver[1];
	struct blk_request *next;

	client->in_flight--;
	client->done(client, request, result);
	/* What the ring does not take is for a worker. With nothing in flight nobody would come back here
	 * for those that wait. */
	do {
		next = chain_pop(&client->waiting);
		if (!next || start_io(client, next))
			break;
		client->done(client, next, -EAGAIN);
	} while (client->in_flight == 0);
}

/* What is in the completion ring now. */
static void
take_completions(struct uring *uring)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&uring->ring, head, cqe)
	{
		struct blk_request *request = io_uring_cqe_get_data(cqe);

		if (request) /* else the answer to a cancel, which says nothing that the request's own does not */
			end_io(request, cqe->res);
		n++;
	}
	io_uring_cq_advance(&uring->ring, n);
}

static void
reap(struct uring *uring)
{
	take_completions(uring);
	/* What found no place there comes when it is asked for; the descriptor is readable until then. */
	while (io_uring_cq_has_overflow(&uring->ring) && io_uring_get_events(&uring->ring) >= 0)
		take_completions(uring);
}

/* Before the loop sleeps. */
static void
submit_batch(struct loop_task *task)
{
	struct uring *uring = container_of(task, struct uring, submit_task);

	/* No memory now, or completions to be taken first: again in the next turn, which comes at
	 * once. */
	if (io_uring_submit(&uring->ring) < 0 || io_uring_sq_ready(&uring->ring))
		want_submit(uring);
	/* What the page cache had is there already. */
	reap(uring);
}

static void
on_completions(struct loop_watch *watch, unsigned events)
{
	struct uring *uring = container_of(watch, struct uring, watch);

	(void)events;
	reap(uring);
}

static int
make_ring(struct uring *uring)
{
	/* Not IORING_SETUP_DEFER_TASKRUN: whoever polls such a ring's descriptor is not woken. */
	static const unsigned tries[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_COOP_TASKRUN, 0};
	unsigned threads[2] = {THREADS, 0};
	int rc = -EINVAL;

	for (unsigned i = 0; rc == -EINVAL && i < ARRAY_SIZE(tries); i++) {
		struct io_uring_params params = {
			.flags = tries[i] | IORING_SETUP_CQSIZE, .cq_entries = COMPLETIONS};

		rc = io_uring_queue_init_params(ENTRIES, &uring->ring, &params);
	}
	if (rc)
		return rc;
	/* Older kernels keep their own number: it only bounds how much a hung disk can hold up. */
	io_uring_register_iowq_max_workers(&uring->ring, threads);
	rc = loop_watch_start(
		uring->loop, &uring->watch, uring->ring.ring_fd, LOOP_READ, on_completions);
	if (rc)
		io_uring_queue_exit(&uring->ring);
	return rc;
}

bool
uring_join(struct uring_client *client)
{
	struct loop *loop = loop_current();
	unsigned index = loop_index(loop);
	struct uring *uring = rings[index];
	int rc;

	client->ring = uring;
	if (uring)
		return true;
	uring = calloc(1, sizeof(*uring));
	if (!uring)
		return false;
	uring->loop = loop;
	rc = make_ring(uring);
	if (rc) {
		log_info("loop %u has no io_uring: %s; workers do its part", index, strerror(-rc));
		free(uring);
		return false;
	}
	rings[index] = client->ring = uring;
	return true;
}

bool
uring_submit(struct uring_client *client, struct blk_request *request)
{
	if (request->niov > IOV_MOST || request->length > GIB)
		return false;
	if (client->in_flight < LIMIT_URING_DEPTH)
		return start_io(client, request);
	chain_append(&client->waiting, request);
	return true;
}

void
uring_cancel(struct uring_client *client, struct blk_request *request)
{
	struct uring *uring = client->ring;
	struct io_uring_sqe *sqe;

	if (chain_remove(&client->waiting, request)) {
		client->done(client, request, -ECANCELED);
		return;
	}
	/* B7: a sync that is interrupted may have been told of a failure that nobody hears then. */
	if (request->op == BLK_WRITE && request->flags & BLK_FUA)
		return;
	sqe = get_entry(uring);
	if (!sqe)
		return;
	/* In its place among the submissions: a later request at the same address is not meant. */
	io_uring_prep_cancel(sqe, request, 0);
	io_uring_sqe_set_data(sqe, NULL);
	want_submit(uring);
}
