#include "config.h"
#include "stdio_conn.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend.h"
#include "loop.h"
#include "reception.h"
#include "shutdown.h"

#define PIECE (64 * 1024)

static int ours = -1; /* the end of the pair that the threads have */

/* Its write end is closed when all was carried out. The threads know no loop: nobody joins them, and
 * they may outlive all loops. */
static int over[2] = {-1, -1};
static struct loop_watch watch;

void
stdio_spare_stderr(void)
{
	struct stat err, out;
	int fd;

	if (fstat(STDERR_FILENO, &err) < 0 || fstat(STDOUT_FILENO, &out) < 0 ||
		!S_ISSOCK(err.st_mode) || err.st_dev != out.st_dev || err.st_ino != out.st_ino)
		return;
	fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	dup2(fd, STDERR_FILENO);
	close(fd);
}

static bool
write_all(int fd, const uint8_t *data, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, data, length);

		if (n < 0 && errno != EINTR)
			return false;
		if (n > 0) {
			data += n;
			length -= (size_t)n;
		}
	}
	return true;
}

/* Until the end of one side or the death of the other. */
static void
carry_bytes(int from, int to)
{
	static _Thread_local uint8_t piece[PIECE];
	ssize_t n;

	do {
		n = read(from, piece, sizeof(piece));
		if (n > 0 && !write_all(to, piece, (size_t)n))
			return;
	} while (n > 0 || (n < 0 && errno == EINTR));
}

static void *
carry_in(void *unused)
{
	carry_bytes(STDIN_FILENO, ours);
	shutdown(ours, SHUT_WR);
	return unused;
}

static void
end_daemon(struct loop_watch *ended, unsigned events)
{
	(void)events;
	loop_watch_stop(ended);
	shutdown_begin(true);
}

static void *
carry_out(void *unused)
{
	carry_bytes(ours, STDOUT_FILENO);
	shutdown(ours, SHUT_RDWR);
	close(over[1]);
	return unused;
}

/* The reader may wait for its peer for ever: nobody waits for the reader. */
static int
start_thread(void *(*run)(void *))
{
	pthread_attr_t attributes;
	pthread_t thread;
	int rc;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	rc = -pthread_create(&thread, &attributes, run, NULL);
	pthread_attr_destroy(&attributes);
	return rc;
}

int
stdio_start(struct error *error)
{
	int pair[2];
	int rc;

	if (fcntl(STDIN_FILENO, F_GETFD) < 0 || fcntl(STDOUT_FILENO, F_GETFD) < 0)
		return error_set(error, -EBADF, "--stdio: standard input or output is closed");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(error, -errno, "--stdio: %m");
	ours = pair[0];
	rc = pipe2(over, O_CLOEXEC) < 0 ? -errno : 0;
	if (rc == 0)
		rc = loop_watch_start(loop_main(), &watch, over[0], LOOP_READ, end_daemon);
	if (rc == 0)
		rc = start_thread(carry_out);
	if (rc == 0)
		rc = start_thread(carry_in);
	if (rc) {
		close(pair[1]);
		return error_set(error, rc, "--stdio: %s", strerror(-rc));
	}
	reception_hand_over(&nbd_frontend, NULL, pair[1], NULL);
	return 0;
}

void
stdio_stop(void)
{
	loop_watch_stop(&watch);
}
