#include "config.h"
#include "headcount.h"

#include <stdatomic.h>

#include "limits.h"
#include "strangers.h"

static atomic_uint total;
static atomic_int counts[LIMIT_LOOPS + 1];

/* The plain stream's operations, and the same with counting; written once, before the first stream
 * is handed to a loop. */
static const struct stream_ops *plain;
static struct stream_ops counted;

static int
attach_counted(struct stream *stream, struct loop *loop)
{
	int rc = plain->attach(stream, loop);

	if (rc == 0)
		atomic_fetch_add_explicit(&counts[loop_index(loop)], 1, memory_order_relaxed);
	return rc;
}

/* stream_close() detaches first. */
static void
detach_counted(struct stream *stream)
{
	atomic_fetch_sub_explicit(&counts[loop_index(stream->loop)], 1, memory_order_relaxed);
	plain->detach(stream);
}

static void
established_counted(struct stream *stream)
{
	strangers_leave(stream->stranger);
	stream->stranger = NULL;
}

static void
close_counted(struct stream *stream)
{
	established_counted(stream);
	atomic_fetch_sub_explicit(&total, 1, memory_order_relaxed);
	plain->close(stream);
}

void
headcount_add(struct stream *stream, unsigned loop)
{
	if (!plain) {
		plain = stream->ops;
		counted = *plain;
		counted.attach = attach_counted;
		counted.detach = detach_counted;
		counted.close = close_counted;
		counted.established = established_counted;
	}
	stream->ops = &counted;
	atomic_fetch_add_explicit(&total, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&counts[loop], 1, memory_order_relaxed);
}

void
headcount_arrived(unsigned loop)
{
	atomic_fetch_sub_explicit(&counts[loop], 1, memory_order_relaxed);
}

unsigned
headcount_total(void)
{
	return atomic_load_explicit(&total, memory_order_relaxed);
}

unsigned
headcount_least_loop(void)
{
	unsigned best = 0;

	for (unsigned i = 1; i < loop_count(); i++)
		if (atomic_load_explicit(&counts[i], memory_order_relaxed) <
			atomic_load_explicit(&counts[best], memory_order_relaxed))
			best = i;
	return best;
}
