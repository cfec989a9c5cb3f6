#include "config.h"
#include "shutdown.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "check.h"
#include "control.h"
#include "frontend.h"
#include "gather.h"
#include "headcount.h"
#include "limits.h"
#include "listener.h"
#include "log.h"
#include "loop.h"

#define LOOK_AGAIN (20 * MS_NS)

/* One drain in a process's life. */
static struct {
	bool begun, announced, aborted;
	unsigned quiet; /* looks in a row that found nothing */
	uint64_t deadline;
	struct gather gather;
	struct loop_timer timer;
	struct {
		unsigned connections, in_flight;
	} loops[LIMIT_LOOPS];
} drain;

static struct loop_watch signal_watch;
static int signal_fd = -1;

static sigset_t
list_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	return set;
}

void
signals_block(void)
{
	sigset_t set = list_signals();

	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void
count_loop(struct loop *loop, unsigned index)
{
	unsigned nbd_in_flight = 0, iscsi_in_flight = 0;

	drain.loops[index].connections = nbd_frontend.connections(loop, &nbd_in_flight) +
					 iscsi_frontend.connections(loop, &iscsi_in_flight);
	drain.loops[index].in_flight = nbd_in_flight + iscsi_in_flight;
}

static void
visit_begin(struct gather *gather, struct loop *loop, unsigned index)
{
	(void)gather;
	count_loop(loop, index);
	nbd_frontend.drain(loop);
	iscsi_frontend.drain(loop);
}

static void
visit_count(struct gather *gather, struct loop *loop, unsigned index)
{
	(void)gather;
	count_loop(loop, index);
}

static void
visit_abort(struct gather *gather, struct loop *loop, unsigned index)
{
	(void)gather;
	nbd_frontend.abort(loop);
	iscsi_frontend.abort(loop);
	count_loop(loop, index);
}

static void
ask_loops(void (*visit)(struct gather *gather, struct loop *loop, unsigned index))
{
	drain.gather.visit = visit;
	gather_start(&drain.gather);
}

static void
look_again(struct loop_timer *timer)
{
	(void)timer;
	ask_loops(visit_count);
}

static void
announce(unsigned connections, unsigned in_flight)
{
	drain.announced = true;
	dprintf(STDERR_FILENO, "draining: %u connection%s, %u request%s in flight …", connections,
		connections == 1 ? "" : "s", in_flight, in_flight == 1 ? "" : "s");
}

static void
loops_answered(struct gather *gather)
{
	unsigned connections = 0, in_flight = 0;
	uint64_t now = clock_now();

	(void)gather;
	for (unsigned i = 0; i < loop_count(); i++) {
		connections += drain.loops[i].connections;
		in_flight += drain.loops[i].in_flight;
	}
	if (!drain.announced)
		announce(connections, in_flight);
	/* A session may outlive its stream, and a stream be on its way to its loop. */
	connections += headcount_total();
	drain.quiet = connections + in_flight == 0 ? drain.quiet + 1 : 0;
	/* The second look comes after the turn in which the last one was freed. */
	if (drain.quiet == 2) {
		loop_stop_main();
	} else if (now < drain.deadline) {
		if (loop_timer_start(loop_main(), &drain.timer, LOOK_AGAIN, look_again) != 0)
			ask_loops(visit_count);
	} else if (!drain.aborted) {
		drain.aborted = true;
		drain.deadline = now + LIMIT_DRAIN;
		dprintf(STDERR_FILENO, "\n");
		log_warn("giving up what is not done after %u s: %u in flight",
			(unsigned)(LIMIT_DRAIN / SECOND_NS), in_flight);
		ask_loops(visit_abort);
	} else {
		log_error("%u in flight never came back from storage: not stopped cleanly",
			in_flight);
		_exit(1);
	}
}

static void
end_at_once(int signal_number)
{
	(void)signal_number;
	_exit(1);
}

/* From now on also while the main thread is busy closing volumes. */
static void
arm_second_signal(void)
{
	struct sigaction action = {.sa_handler = end_at_once};
	sigset_t set;

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void
shutdown_begin(bool silent)
{
	if (drain.begun)
		return;
	drain.announced = silent;
	drain.begun = true;
	drain.deadline = clock_now() + LIMIT_DRAIN;
	drain.gather.done = loops_answered;
#ifdef HAVE_LIBSYSTEMD
	sd_notify(0, "STOPPING=1");
#endif
	arm_second_signal();
	listeners_stop();
	control_stop();
	ask_loops(visit_begin);
}

static void
on_signal(struct loop_watch *watch, unsigned events)
{
	struct signalfd_siginfo info;

	(void)events;
	if (read(watch->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP)
		log_warn("SIGHUP: reload is not there yet");
	else if (drain.begun)
		_exit(1);
	else
		shutdown_begin(false);
}

int
signals_watch(void)
{
	sigset_t set = list_signals();

	signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (signal_fd < 0)
		return -errno;
	return loop_watch_start(loop_main(), &signal_watch, signal_fd, LOOP_READ, on_signal);
}

void
signals_unwatch(void)
{
	loop_watch_stop(&signal_watch);
	loop_timer_stop(&drain.timer);
	if (signal_fd >= 0)
		close(signal_fd);
	signal_fd = -1;
}

bool
shutdown_begun(void)
{
	return drain.begun;
}
