#include "config.h"

#include "work.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"

#define WORK_IDLE_SECONDS 10

struct work_queue {
	TAILQ_ENTRY(work_queue) link; /* in `runnable` when `listed` */
	STAILQ_HEAD(, work) waiting;
	unsigned most, running;
	bool listed; /* has work waiting and may run more of it */
};

struct worker {
	pthread_t thread;
	SLIST_ENTRY(worker) link;
};

SLIST_HEAD(workers, worker);

/* All below is under `lock`. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted; /* a wake-up was given, or stopping; monotonic */
static pthread_cond_t ended_one = PTHREAD_COND_INITIALIZER; /* a work or a worker has ended */
static TAILQ_HEAD(, work_queue) runnable = TAILQ_HEAD_INITIALIZER(runnable);
static struct workers ended = SLIST_HEAD_INITIALIZER(ended); /* to be joined */
static unsigned nworkers, workers_most;
static unsigned idle;    /* workers waiting */
static unsigned wakeups; /* given and not yet taken; at most `idle` */
static bool stopping;

struct work_queue *
work_queue_new(unsigned most)
{
	struct work_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return NULL;
	CHECK(most > 0);
	queue->most = most;
	STAILQ_INIT(&queue->waiting);
	return queue;
}

/* The last work may have told its owner that it is done, and not yet have returned. */
void
work_queue_free(struct work_queue *queue)
{
	pthread_mutex_lock(&lock);
	CHECK(STAILQ_EMPTY(&queue->waiting));
	while (queue->running > 0)
		pthread_cond_wait(&ended_one, &lock);
	pthread_mutex_unlock(&lock);
	free(queue);
}

/* Queues take turns: the one served goes to the end. */
static void
list_queue(struct work_queue *queue)
{
	if (queue->listed || STAILQ_EMPTY(&queue->waiting) || queue->running == queue->most)
		return;
	queue->listed = true;
	TAILQ_INSERT_TAIL(&runnable, queue, link);
}

/* Under the lock but for the work itself. */
static void
run_next(void)
{
	struct work_queue *queue = TAILQ_FIRST(&runnable);
	struct work *work = STAILQ_FIRST(&queue->waiting);

	TAILQ_REMOVE(&runnable, queue, link);
	queue->listed = false;
	STAILQ_REMOVE_HEAD(&queue->waiting, link);
	queue->running++;
	list_queue(queue);
	pthread_mutex_unlock(&lock);
	work->run(work);
	pthread_mutex_lock(&lock);
	queue->running--;
	list_queue(queue);
	pthread_cond_broadcast(&ended_one);
}

/* False: nobody wanted this worker for long. The last worker stays: a submit cannot fail. */
static bool
wait_for_work(void)
{
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += WORK_IDLE_SECONDS;
	idle++;
	while (wakeups == 0 && !stopping && rc == 0)
		rc = pthread_cond_timedwait(&wanted, &lock, &until);
	idle--;
	if (wakeups > 0) {
		wakeups--;
		return true;
	}
	return stopping || nworkers == 1;
}

static void *
run_worker(void *arg)
{
	struct worker *worker = arg;

	pthread_setname_np(pthread_self(), "slabd-work");
	pthread_mutex_lock(&lock);
	for (;;) {
		if (!TAILQ_EMPTY(&runnable))
			run_next();
		else if (stopping || !wait_for_work())
			break;
	}
	nworkers--;
	SLIST_INSERT_HEAD(&ended, worker, link);
	pthread_cond_broadcast(&ended_one);
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* Workers that gave up waiting have left the lock for good: joining them takes no time. */
static void
join_ended(void)
{
	struct worker *worker;

	while ((worker = SLIST_FIRST(&ended))) {
		SLIST_REMOVE_HEAD(&ended, link);
		pthread_join(worker->thread, NULL);
		free(worker);
	}
}

/* Signals are the main thread's. 0 or -errno. */
static int
start_worker(void)
{
	struct worker *worker = malloc(sizeof(*worker));
	sigset_t all;
	sigset_t before;
	int rc;

	if (!worker)
		return -ENOMEM;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&worker->thread, NULL, run_worker, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		free(worker);
		return -rc;
	}
	nworkers++;
	return 0;
}

void
work_submit(struct work_queue *queue, struct work *work)
{
	pthread_mutex_lock(&lock);
	STAILQ_INSERT_TAIL(&queue->waiting, work, link);
	if (queue->running < queue->most) {
		list_queue(queue);
		if (idle > wakeups) {
			wakeups++;
			pthread_cond_signal(&wanted);
		} else if (nworkers < workers_most) {
			join_ended();
			start_worker(); /* if it cannot, those that run will come to it */
		}
	}
	pthread_mutex_unlock(&lock);
}

int
work_start(unsigned most)
{
	pthread_condattr_t monotonic;
	int rc;

	CHECK(most > 0);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&wanted, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_lock(&lock);
	workers_most = most;
	rc = start_worker();
	pthread_mutex_unlock(&lock);
	return rc;
}

void
work_stop(void)
{
	pthread_mutex_lock(&lock);
	stopping = true;
	pthread_cond_broadcast(&wanted);
	while (nworkers > 0)
		pthread_cond_wait(&ended_one, &lock);
	join_ended();
	stopping = false;
	workers_most = 0;
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&wanted);
}
