#include "config.h"

#include "stream.h"

#include <errno.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"

STAILQ_HEAD(sent_items, send_item);

void
send_queue_init(struct send_queue *queue, struct stream *stream)
{
	queue->stream = stream;
	STAILQ_INIT(&queue->items);
	queue->done = 0;
	queue->bytes = 0;
	queue->progress_ns = 0;
}

void
send_queue_push(struct send_queue *queue, struct send_item *item)
{
	if (STAILQ_EMPTY(&queue->items))
		queue->progress_ns = loop_now(queue->stream->loop);
	queue->bytes += iov_length(item->iov, item->niov);
	STAILQ_INSERT_TAIL(&queue->items, item, link);
}

/* The next bytes to send, in at most LIMIT_SEND_IOV pieces; *bytes gets their sum. */
static unsigned
gather_items(const struct send_queue *queue, struct iovec *iov, size_t *bytes)
{
	const struct send_item *item;
	size_t skip = queue->done;
	size_t covered;
	unsigned n = 0;

	*bytes = 0;
	STAILQ_FOREACH(item, &queue->items, link) {
		if (n == LIMIT_SEND_IOV)
			break;
		n += iov_slice(item->iov, item->niov, skip, SIZE_MAX, iov + n, LIMIT_SEND_IOV - n,
			&covered);
		*bytes += covered;
		skip = 0;
	}
	return n;
}

/* Takes the items whose last byte is among the next `sent` ones off the queue. */
static void
take_sent(struct send_queue *queue, size_t sent, struct sent_items *complete)
{
	struct send_item *item;
	size_t left;

	queue->bytes -= sent;
	while ((item = STAILQ_FIRST(&queue->items))) {
		left = iov_length(item->iov, item->niov) - queue->done;
		if (sent < left) {
			queue->done += sent;
			return;
		}
		sent -= left;
		queue->done = 0;
		STAILQ_REMOVE_HEAD(&queue->items, link);
		STAILQ_INSERT_TAIL(complete, item, link);
	}
	CHECK(sent == 0);
}

/* The items are on a list of their own, so sent() may push to the queue, or drop it. */
static void
report_items(struct sent_items *items, int rc)
{
	struct send_item *item;

	while ((item = STAILQ_FIRST(items))) {
		STAILQ_REMOVE_HEAD(items, link);
		item->sent(item, rc);
	}
}

int
send_queue_flush(struct send_queue *queue)
{
	struct iovec iov[LIMIT_SEND_IOV];
	struct sent_items complete = STAILQ_HEAD_INITIALIZER(complete);
	size_t bytes;
	ssize_t n;
	unsigned niov;

	while (!STAILQ_EMPTY(&queue->items)) {
		niov = gather_items(queue, iov, &bytes);
		n = bytes ? stream_write(queue->stream, iov, niov) : 0;
		if (n < 0)
			return (int)n;
		CHECK((size_t)n <= bytes);
		if (n > 0)
			queue->progress_ns = loop_now(queue->stream->loop);
		take_sent(queue, (size_t)n, &complete);
		report_items(&complete, 0);
		/* A short write means that the next would get -EAGAIN: not worth a system call. */
		if ((size_t)n < bytes)
			return -EAGAIN;
	}
	return 0;
}

void
send_queue_drop(struct send_queue *queue, int rc)
{
	struct sent_items left = STAILQ_HEAD_INITIALIZER(left);

	STAILQ_CONCAT(&left, &queue->items);
	queue->done = 0;
	queue->bytes = 0;
	report_items(&left, rc);
}
