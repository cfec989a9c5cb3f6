/*
 * One check while it runs: what it is, how it ends, and what it took. A check ends at the first
 * thing that is wrong: fail(), skip() and a broken expect() do not return, and whatever was taken
 * or opened on the way is given back by test_run(). One thread.
 */
#ifndef CONFORMANCE_TEST_H
#define CONFORMANCE_TEST_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct conn;
struct target;
struct test;

enum level { MUST, SHOULD };
enum verdict { PASS, WARN, FAIL, SKIP };

struct check {
	const char *id;
	enum level level;    /* of the sentence it tests, in RFC 2119's words */
	const char *section; /* of its group's document */
	unsigned needs;      /* of enum need: without one of them it is skipped */
	const char *title;
	void (*run)(struct test *t);
};

struct group {
	const char *name;
	const char *document;
	const struct check *checks;
	size_t count;
};

struct memory {
	LIST_ENTRY(memory) link;
	_Alignas(16) uint8_t bytes[];
};

struct test {
	const struct check *check;
	const struct target *target;
	int64_t deadline_ns; /* monotonic; nothing waits longer */
	uint64_t random;     /* the state of test_random() */

	enum verdict verdict;
	char expected[256], got[512], sent[256]; /* of a FAIL or a warn; got alone for a skip */
	bool refused;                            /* it ended because no connection could be made */

	jmp_buf end;
	LIST_HEAD(, memory) memory;
	LIST_HEAD(, conn) conns;
};

/* Runs the check (which may be NULL: then run alone) to its end and gives back all that it took. */
void test_run(struct test *t, void (*run)(struct test *t), double seconds);

/* A MUST is broken, or the bytes make no sense. */
void fail(struct test *t, const char *expected, const char *got, ...)
	__attribute__((format(printf, 3, 4), noreturn));
/* What the check's own sentence demands: broken, it is a FAIL or a warn as the sentence's level
 * says. */
void expect(struct test *t, bool ok, const char *expected, const char *got, ...)
	__attribute__((format(printf, 4, 5)));
/* A SHOULD inside a check, of any level: broken, it is a warn, and the check goes on. */
void prefer(struct test *t, bool ok, const char *expected, const char *got, ...)
	__attribute__((format(printf, 4, 5)));
/* What the check needs turns out not to be offered. */
void skip(struct test *t, const char *reason, ...) __attribute__((format(printf, 2, 3), noreturn));
/* What was sent last, for the diagnostic. */
void sent(struct test *t, const char *what, ...) __attribute__((format(printf, 2, 3)));

/* Zeroed memory until the check ends. */
void *take(struct test *t, size_t size);
/* The same, filled with bytes that are never zero and differ with seed and position. */
uint8_t *take_pattern(struct test *t, unsigned seed, size_t length);
uint64_t test_random(struct test *t);

int64_t now_ns(void);

/* Each program's own, in its conn.c. */
void conn_close(struct conn *c);

#endif
