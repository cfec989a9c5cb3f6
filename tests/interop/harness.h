/*
 * What the interop programs share: TAP, and a slabd of their own to talk to. One thread; the server
 * dies with the program that started it.
 */
#ifndef SLABD_HARNESS_H
#define SLABD_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* TAP on stdout, any thread. The plan comes last. */
void tap_ok(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
void tap_skip(const char *why, const char *format, ...) __attribute__((format(printf, 2, 3)));
void tap_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The program cannot go on: "Bail out!", and exit 1. */
void tap_bail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Skips the whole program and exits 0; nothing may have been counted yet. */
void tap_skip_all(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Prints the plan; main()'s result. */
int tap_done(void);

/* The sanitizers of the build under test, "no" where there are none. */
const char *sanitizers(void);
bool sanitized(void);

/* Seconds, monotonic. */
double seconds_now(void);
void sleep_ms(unsigned ms);

/* From /dev/urandom or $SEED; printed, so that a failure can be run again. */
uint64_t test_seed(void);
uint64_t random_next(uint64_t *state);

struct server {
	pid_t pid;
	double start_seconds; /* from exec to "ready" */
	char dir[64];         /* the test's own, removed at exit */
	char nbd[64];         /* HOST:PORT */
	char nbd_unix[128];   /* unix:PATH */
	char iscsi[64];       /* HOST:PORT */
	char control[128];
	char log[128];
};

/*
 * Makes a temporary directory for the server and the test's files. At exit what runs is ended, the
 * log is shown if a test failed, and the directory is removed. Once in a program.
 */
void server_prepare(struct server *server);
/*
 * Starts slabd with 2 loops, on ports of its own choosing and a unix socket, and waits for "ready";
 * args ends with NULL and holds volumes and further options. Bails out where that fails.
 */
void server_start(struct server *server, const char *const *args);
bool server_running(struct server *server);
/* Sends the signal, if any, and waits. The wait status; -1 when it is still there after a minute.
 */
int server_stop(struct server *server, int signal);

/* Runs slabctl with the words given; its output goes to out. The exit status. */
int server_ctl(const struct server *server, char *out, size_t size, const char *words);

uint64_t server_rss(const struct server *server); /* bytes */
unsigned server_descriptors(const struct server *server);

/* How long to wait for what takes a moment: longer under sanitizers. */
unsigned patience_seconds(unsigned normal);

#endif
