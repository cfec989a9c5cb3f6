#include "config.h"
#include "test.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int64_t
now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void
test_run(struct test *t, void (*run)(struct test *t), double seconds)
{
	t->verdict = PASS;
	t->expected[0] = t->got[0] = '\0';
	t->refused = false;
	sent(t, "nothing yet");
	t->deadline_ns = now_ns() + (int64_t)(seconds * 1e9);
	LIST_INIT(&t->memory);
	LIST_INIT(&t->conns);
	if (setjmp(t->end) == 0)
		run(t);
	while (!LIST_EMPTY(&t->conns))
		conn_close(LIST_FIRST(&t->conns));
	struct memory *memory;
	while ((memory = LIST_FIRST(&t->memory)) != NULL) {
		LIST_REMOVE(memory, link);
		free(memory);
	}
}

static void judge(struct test *t, enum verdict verdict, const char *expected, const char *got,
	va_list args) __attribute__((format(printf, 4, 0)));

static void
judge(struct test *t, enum verdict verdict, const char *expected, const char *got, va_list args)
{
	t->verdict = verdict;
	snprintf(t->expected, sizeof t->expected, "%s", expected);
	vsnprintf(t->got, sizeof t->got, got, args);
}

void
fail(struct test *t, const char *expected, const char *got, ...)
{
	va_list args;
	va_start(args, got);
	judge(t, FAIL, expected, got, args);
	va_end(args);
	longjmp(t->end, 1);
}

void
expect(struct test *t, bool ok, const char *expected, const char *got, ...)
{
	if (ok)
		return;
	bool should = t->check != NULL && t->check->level == SHOULD;
	va_list args;
	va_start(args, got);
	judge(t, should ? WARN : FAIL, expected, got, args);
	va_end(args);
	longjmp(t->end, 1);
}

void
prefer(struct test *t, bool ok, const char *expected, const char *got, ...)
{
	if (ok || t->verdict != PASS)
		return;
	va_list args;
	va_start(args, got);
	judge(t, WARN, expected, got, args);
	va_end(args);
}

void
skip(struct test *t, const char *reason, ...)
{
	va_list args;
	va_start(args, reason);
	judge(t, SKIP, "", reason, args);
	va_end(args);
	longjmp(t->end, 1);
}

void
sent(struct test *t, const char *what, ...)
{
	va_list args;
	va_start(args, what);
	vsnprintf(t->sent, sizeof t->sent, what, args);
	va_end(args);
	/* A diagnostic is one line. */
	for (char *p = t->sent; *p != '\0'; p++)
		if (*p == '\n')
			*p = ' ';
}

void *
take(struct test *t, size_t size)
{
	struct memory *memory = calloc(1, sizeof *memory + size);
	if (memory == NULL)
		skip(t, "no memory for %zu bytes", size);
	LIST_INSERT_HEAD(&t->memory, memory, link);
	return memory->bytes;
}

uint8_t *
take_pattern(struct test *t, unsigned seed, size_t length)
{
	uint8_t *bytes = take(t, length);
	uint32_t state = seed * 2654435761u + 1;
	for (size_t i = 0; i < length; i++) {
		state = state * 1664525u + 1013904223u;
		bytes[i] = (uint8_t)(1 + (state >> 16) % 255);
	}
	return bytes;
}

/* splitmix64: any seed will do. */
uint64_t
test_random(struct test *t)
{
	uint64_t z = t->random += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}
