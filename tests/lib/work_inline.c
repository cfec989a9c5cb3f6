#include "config.h"

#include "work.h"

#include <stdlib.h>

#include "check.h"
#include "loop_virtual.h"

struct work_queue {
	unsigned waiting;
};

/* Whose work it is, for the CHECK in work_queue_free(): works are many, queues in a test few. */
struct entry {
	STAILQ_ENTRY(entry) link;
	struct work_queue *queue;
	struct work *work;
};

static STAILQ_HEAD(, entry) entries = STAILQ_HEAD_INITIALIZER(entries);
static unsigned waiting;
static bool held;

struct work_queue *
work_queue_new(unsigned most)
{
	CHECK(most > 0);
	return calloc(1, sizeof(struct work_queue));
}

void
work_queue_free(struct work_queue *queue)
{
	CHECK(queue->waiting == 0);
	free(queue);
}

void
work_submit(struct work_queue *queue, struct work *work)
{
	struct entry *entry = calloc(1, sizeof(*entry));

	CHECK(entry);
	entry->queue = queue;
	entry->work = work;
	queue->waiting++;
	waiting++;
	STAILQ_INSERT_TAIL(&entries, entry, link);
}

unsigned
work_inline_run(unsigned n)
{
	struct loop *before = virtual_as(NULL);
	struct entry *entry;
	struct work *work;
	unsigned ran = 0;

	while ((entry = STAILQ_FIRST(&entries)) && (n == 0 || ran < n)) {
		STAILQ_REMOVE_HEAD(&entries, link);
		work = entry->work;
		entry->queue->waiting--;
		waiting--;
		free(entry);
		work->run(work);
		ran++;
	}
	virtual_as(before);
	return ran;
}

unsigned
work_inline_waiting(void)
{
	return waiting;
}

void
work_inline_hold(bool hold)
{
	held = hold;
}

bool
work_inline_held(void)
{
	return held;
}

int
work_start(unsigned most)
{
	CHECK(most > 0);
	return 0;
}

void
work_stop(void)
{
	work_inline_run(0);
	held = false;
}
