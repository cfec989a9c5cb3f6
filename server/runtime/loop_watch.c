/* Watched descriptors and timers, on libevent. */
#include "config.h"

#include <errno.h>
#include <event2/event.h>

#include "check.h"
#include "loop_internal.h"
#include "slab.h"

static struct slab_cache *watch_cache;
static struct slab_cache *timer_cache;

int
loop_watch_caches_new(void)
{
	size_t size = round_up(event_get_struct_event_size(), 16);

	watch_cache = slab_cache_new("loop_watch", 2 * size, 0, 0, NULL);
	timer_cache = slab_cache_new("loop_timer", size, 0, 0, NULL);
	if (watch_cache && timer_cache)
		return 0;
	if (watch_cache)
		slab_cache_free(watch_cache);
	if (timer_cache)
		slab_cache_free(timer_cache);
	return -ENOMEM;
}

void
loop_watch_caches_free(void)
{
	slab_cache_free(watch_cache);
	slab_cache_free(timer_cache);
}

/* A watch has two libevent events side by side in one object (0 reads, 1 writes), so that adding or
 * leaving out LOOP_WRITE is one epoll_ctl and no more. */
static struct event *
watch_event(void *both, unsigned which)
{
	return (void *)((char *)both + which * round_up(event_get_struct_event_size(), 16));
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct loop_watch *watch = arg;

	(void)fd;
	(void)what;
	loop_note_event(watch->loop);
	watch->ready(watch, LOOP_READ);
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct loop_watch *watch = arg;

	(void)fd;
	(void)what;
	loop_note_event(watch->loop);
	watch->ready(watch, LOOP_WRITE);
}

int
loop_watch_start(struct loop *loop, struct loop_watch *watch, int fd, unsigned events,
	void (*ready)(struct loop_watch *watch, unsigned events))
{
	void *both = slab_alloc(watch_cache);
	int rc;

	if (!both)
		return -ENOMEM;
	event_assign(
		watch_event(both, 0), loop->base, fd, EV_READ | EV_PERSIST, on_readable, watch);
	event_assign(
		watch_event(both, 1), loop->base, fd, EV_WRITE | EV_PERSIST, on_writable, watch);
	watch->loop = loop;
	watch->ready = ready;
	watch->fd = fd;
	watch->events = 0;
	watch->event = both;
	rc = loop_watch_change(watch, events);
	if (rc)
		loop_watch_stop(watch);
	return rc;
}

static int
add_event(struct event *event)
{
	errno = 0;
	if (event_add(event, NULL) == 0)
		return 0;
	return errno ? -errno : -ENOMEM;
}

int
loop_watch_change(struct loop_watch *watch, unsigned events)
{
	static const unsigned bits[] = {LOOP_READ, LOOP_WRITE};
	unsigned i;
	int rc;

	for (i = 0; i < 2; i++) {
		if (!(events & ~watch->events & bits[i]))
			continue;
		rc = add_event(watch_event(watch->event, i));
		if (rc)
			return rc;
		watch->events |= bits[i];
	}
	for (i = 0; i < 2; i++)
		if (~events & watch->events & bits[i])
			event_del(watch_event(watch->event, i));
	watch->events = events;
	return 0;
}

void
loop_watch_stop(struct loop_watch *watch)
{
	if (!watch->event)
		return;
	event_del(watch_event(watch->event, 0));
	event_del(watch_event(watch->event, 1));
	slab_free(watch_cache, watch->event);
	watch->event = NULL;
	watch->events = 0;
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct loop_timer *timer = arg;

	(void)fd;
	(void)what;
	loop_note_event(timer->loop);
	loop_timer_stop(timer);
	timer->fired(timer);
}

int
loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ns,
	void (*fired)(struct loop_timer *timer))
{
	uint64_t us = delay_ns / 1000 + (delay_ns % 1000 != 0);
	struct timeval delay = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (long)(us % 1000000)};

	if (!timer->event) {
		timer->event = slab_alloc(timer_cache);
		if (!timer->event)
			return -ENOMEM;
		evtimer_assign((struct event *)timer->event, loop->base, on_timer, timer);
	}
	timer->loop = loop;
	timer->fired = fired;
	if (event_add(timer->event, &delay) == 0)
		return 0;
	loop_timer_stop(timer);
	return -ENOMEM;
}

void
loop_timer_stop(struct loop_timer *timer)
{
	if (!timer->event)
		return;
	event_del(timer->event);
	slab_free(timer_cache, timer->event);
	timer->event = NULL;
}
