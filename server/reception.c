#include "config.h"
#include "reception.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "catalogue.h"
#include "check.h"
#include "headcount.h"
#include "limits.h"
#include "log.h"
#include "secure.h"
#include "strangers.h"

#define WARN_EVERY (10 * SECOND_NS)
#define PAUSE      SECOND_NS

/* A connection on its way to its loop. */
struct handed {
	struct loop_task task;
	const struct frontend *frontend;
	const struct portal *portal;
	struct stream *stream;
};

static void
take_handed(struct loop_task *task)
{
	struct handed *handed = container_of(task, struct handed, task);
	struct loop *loop = loop_current();

	headcount_arrived(loop_index(loop));
	handed->frontend->accept(loop, handed->stream, handed->portal);
	free(handed);
}

static void
hand_over(const struct frontend *frontend, const struct portal *portal, int fd,
	struct tls_context *secure, struct stranger *stranger)
{
	struct handed *handed = calloc(1, sizeof(*handed));
	struct stream *stream = handed ? stream_plain_new(fd) : NULL;
	struct stream *outer = stream;
	unsigned index = headcount_least_loop();

	if (stream && secure)
		outer = stream_tls_new(stream, secure);
	if (!outer) {
		if (stream)
			stream_close(stream);
		else if (!handed)
			close(fd);
		free(handed);
		strangers_leave(stranger);
		return;
	}
	stream->stranger = stranger;
	headcount_add(stream, index);
	*handed = (struct handed){.task = {.run = take_handed},
		.frontend = frontend,
		.portal = portal,
		.stream = outer};
	loop_post(loop_by_index(index), &handed->task);
}

void
reception_hand_over(const struct frontend *frontend, const struct portal *portal, int fd,
	struct tls_context *secure)
{
	hand_over(frontend, portal, fd, secure, NULL);
}

/* A flood of clients must not become a flood of lines. */
static void
warn_seldom(struct reception *reception, const char *what, const char *why)
{
	uint64_t now = loop_now(loop_main());

	reception->unreported++;
	if (reception->warned && now - reception->warned < WARN_EVERY)
		return;
	log_warn("%s %s: %s %u times: %s", reception->frontend->name, reception->name, what,
		reception->unreported, why);
	reception->warned = now;
	reception->unreported = 0;
}

static void
resume_accepting(struct loop_timer *timer)
{
	struct reception *reception = container_of(timer, struct reception, pause);

	loop_watch_change(&reception->watch, LOOP_READ);
}

/* Level-triggered: without a pause the loop would spin on what cannot be accepted. */
static void
pause_accepting(struct reception *reception)
{
	if (loop_timer_start(loop_main(), &reception->pause, PAUSE, resume_accepting) == 0)
		loop_watch_change(&reception->watch, 0);
}

static void
take_connection(struct reception *reception, int fd, const struct sockaddr *peer)
{
	const struct portal *portal = reception->portal;
	char who[64], why[160];
	struct stranger *stranger;
	int rc;

	if (headcount_total() >= reception->connections) {
		close(fd);
		warn_seldom(reception, "refused", "the limit of connections is reached");
		return;
	}
	rc = strangers_enter(peer, reception->handshakes_per_address, &stranger);
	if (rc == 0) {
		hand_over(reception->frontend, portal, fd,
			portal && portal->tls ? secure_context() : NULL, stranger);
		return;
	}
	close(fd);
	strangers_text(peer, who, sizeof(who));
	snprintf(why, sizeof(why), "%s: %s", who,
		rc == -EUSERS ? "as many handshakes as an address may have are going on already"
			      : strerror(-rc));
	warn_seldom(reception, "refused", why);
}

static void
accept_some(struct loop_watch *watch, unsigned events)
{
	struct reception *reception = container_of(watch, struct reception, watch);

	(void)events;
	for (unsigned i = 0; i < LIMIT_ACCEPTS; i++) {
		struct sockaddr_storage peer = {.ss_family = AF_UNSPEC};
		socklen_t length = sizeof(peer);
		int fd = accept4(watch->fd, (void *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			take_connection(reception, fd, (const void *)&peer);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			   errno == ENOMEM) {
			warn_seldom(reception, "could not accept", strerror(errno));
			pause_accepting(reception);
			return;
		} else if (errno == EAGAIN || errno == EINVAL) {
			return;
		}
		/* accept(2): anything else is the connection's own error; the next may be good. */
	}
}

int
reception_start(struct reception *reception, int fd, const struct frontend *frontend,
	const struct portal *portal, const char *name, const struct conf *conf)
{
	int rc;

	*reception = (struct reception){.frontend = frontend,
		.portal = portal,
		.name = name,
		.connections = conf->connections,
		.handshakes_per_address = conf->handshakes_per_address};
	rc = loop_watch_start(loop_main(), &reception->watch, fd, LOOP_READ, accept_some);
	reception->started = rc == 0;
	return rc;
}

void
reception_stop(struct reception *reception)
{
	if (!reception->started)
		return;
	loop_watch_stop(&reception->watch);
	loop_timer_stop(&reception->pause);
	reception->started = false;
}
