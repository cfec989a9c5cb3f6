#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "limits.h"
#include "loop.h"
#include "slab.h"

/* Link-time stand-ins: which loop this thread is, without running any. */
static _Thread_local struct loop *as_loop;

struct loop {
	unsigned index;
};

static struct loop fake_loops[3] = {{0}, {1}, {2}};

struct loop *
loop_current(void)
{
	return as_loop;
}

unsigned
loop_index(const struct loop *loop)
{
	return loop->index;
}

static int
teardown(void **state)
{
	(void)state;
	as_loop = NULL;
	return 0;
}

static uint64_t
active(const struct slab_cache *cache)
{
	struct slab_stats stats;

	slab_cache_stats(cache, &stats);
	return stats.active;
}

/* Runs it in a child, which must die of a CHECK. */
static void
expect_abort(void (*sin)(void))
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGABRT, SIG_DFL);
		fclose(stderr);
		close(STDERR_FILENO);
		sin();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static const size_t sizes[] = {
	1, 8, 16, 24, 100, 4000, 4096, 4097, 16384, 65536, 100000, 1 << 20, 2 << 20};

/* Objects of every size: aligned, disjoint, and theirs to write. */
static void
check_size(size_t size, size_t align, unsigned flags)
{
	struct slab_cache *cache = slab_cache_new("test", size, align, flags, NULL);
	uint8_t *objects[200];
	unsigned n = size > 100000 ? 5 : 200;
	unsigned i;
	size_t at;

	assert_non_null(cache);
	for (i = 0; i < n; i++) {
		objects[i] = slab_alloc(cache);
		assert_non_null(objects[i]);
		assert_int_equal((uintptr_t)objects[i] % (align ? align : 16), 0);
		memset(objects[i], (int)i, size);
		if (flags & SLAB_CHUNKS)
			assert_ptr_equal(
				slab_object(cache, slab_index(cache, objects[i])), objects[i]);
	}
	assert_true(active(cache) == n);
	for (i = 0; i < n; i++) {
		for (at = 0; at < size; at += size / 3 + 1)
			assert_int_equal(objects[i][at], (uint8_t)i);
		assert_int_equal(objects[i][size - 1], (uint8_t)i);
		slab_free(cache, objects[i]);
	}
	assert_true(active(cache) == 0);
	slab_cache_free(cache);
}

static void
test_sizes(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		as_loop = NULL;
		check_size(sizes[i], 0, 0);
		check_size(sizes[i], 4096, 0);
		check_size(sizes[i], 1, 0);
		if (sizes[i] >= 4096)
			check_size(sizes[i], 4096, SLAB_CHUNKS);
		as_loop = &fake_loops[0];
		check_size(sizes[i], 64, 0);
	}
}

/* Any order of allocations and frees on two loops and none: nothing is given out twice or lost. */
static void
run_random(unsigned seed, size_t size, unsigned flags)
{
	enum { MOST = 3000 };
	struct slab_cache *cache = slab_cache_new("random", size, 0, flags, NULL);
	uint32_t **objects = calloc(MOST, sizeof(*objects));
	struct slab_stats stats;
	unsigned used = 0;
	unsigned i;
	unsigned step;
	unsigned k;

	for (step = 0; step < 60000; step++) {
		k = (unsigned)rand_r(&seed);
		as_loop = k % 3 < 2 ? &fake_loops[k % 3] : NULL;
		i = (k >> 4) % MOST;
		if (step % 20000 == 19999)
			slab_reclaim();
		if (!objects[i]) {
			objects[i] = slab_alloc(cache);
			assert_non_null(objects[i]);
			objects[i][0] = i;
			objects[i][size / 4 - 1] = ~i;
			used++;
		} else {
			assert_true(objects[i][0] == i && objects[i][size / 4 - 1] == ~i);
			slab_free(cache, objects[i]);
			objects[i] = NULL;
			used--;
		}
		if (step % 1000 == 0)
			assert_true(active(cache) == used);
	}
	for (i = 0; i < MOST; i++)
		if (objects[i])
			slab_free(cache, objects[i]);
	for (i = 0; i < 3; i++) {
		as_loop = &fake_loops[i];
		slab_reclaim();
	}
	slab_cache_stats(cache, &stats);
	assert_true(stats.active == 0 && stats.slabs == 0 && stats.partial == 0);
	assert_true(stats.memory == 0 && stats.high_water > 0);
	assert_true(stats.alloc_fastpath + stats.alloc_slowpath ==
		    stats.free_fastpath + stats.free_slowpath);
	free(objects);
	slab_cache_free(cache);
}

static void
test_random(void **state)
{
	unsigned seed = (unsigned)time(NULL);

	(void)state;
	print_message("# seed %u\n", seed);
	run_random(seed, 48, 0);
	run_random(seed, 4096, 0);
	run_random(seed, 8192, 0);
	run_random(seed, 65536, SLAB_CHUNKS);
}

static void
test_fast_path(void **state)
{
	struct slab_cache *cache = slab_cache_new("fast", 64, 0, 0, NULL);
	struct slab_stats stats;
	void *objects[32];
	unsigned round;
	unsigned i;

	(void)state;
	as_loop = &fake_loops[1];
	for (round = 0; round < 1000; round++) {
		for (i = 0; i < 32; i++)
			objects[i] = slab_alloc(cache);
		for (i = 0; i < 32; i++)
			slab_free(cache, objects[i]);
	}
	slab_cache_stats(cache, &stats);
	assert_true(stats.alloc_fastpath + stats.alloc_slowpath == 32000);
	assert_true(stats.alloc_slowpath <= 3 && stats.free_slowpath <= 3);
	assert_true(stats.objs_per_slab == 1024 && stats.slab_size == 65536);
	assert_true(stats.slabs == 1 && stats.objects == 1024);
	slab_cache_free(cache);
}

static void
construct(void *object)
{
	memcpy(object, "made", 5);
}

static void
test_constructor(void **state)
{
	struct slab_cache *cache = slab_cache_new("ctor", 64, 0, 0, construct);
	char *objects[2000];
	unsigned i;

	(void)state;
	slab_cache_poison(cache, true); /* without effect: it would destroy the state */
	for (i = 0; i < 2000; i++) {
		objects[i] = slab_alloc(cache);
		assert_string_equal(objects[i], "made");
		objects[i][0] = 'M';
	}
	for (i = 0; i < 2000; i++)
		slab_free(cache, objects[i]);
	objects[0] = slab_alloc(cache);
	assert_string_equal(objects[0] + 1, "ade");
	slab_free(cache, objects[0]);
	slab_reclaim();
	objects[0] = slab_alloc(cache);
	assert_string_equal(objects[0], "made"); /* a new slab */
	slab_cache_free(cache);
}

static void
test_limit(void **state)
{
	struct slab_cache *cache = slab_cache_new("limit", 65536, 0, SLAB_CHUNKS, NULL);
	void *objects[64];
	unsigned i;

	(void)state;
	slab_cache_limit(cache, 4 << 20);
	for (i = 0; i < 64; i++) {
		objects[i] = slab_alloc(cache);
		assert_non_null(objects[i]);
	}
	assert_null(slab_alloc(cache));
	assert_true(active(cache) == 64);
	slab_free(cache, objects[40]);
	assert_ptr_equal(slab_alloc(cache), objects[40]);
	slab_cache_limit(cache, 0);
	assert_non_null(slab_alloc(cache));
	slab_cache_free(cache); /* chunks may be given up at once */
}

static void
test_indexes(void **state)
{
	struct slab_cache *cache = slab_cache_new("index", 65536, 0, SLAB_CHUNKS, NULL);
	uint32_t index;
	uint32_t last = 0;
	unsigned i;
	char *object;

	(void)state;
	/* Over the end of the first arena (1 GiB); nothing is touched. */
	for (i = 0; i < 20000; i++) {
		object = slab_alloc(cache);
		index = slab_index(cache, object);
		assert_true(i == 0 || index > last);
		assert_ptr_equal(slab_object(cache, index), object);
		last = index;
	}
	object = slab_object(cache, last);
	object[65535] = 1;
	slab_cache_free(cache);
}

static void
free_twice(void)
{
	struct slab_cache *cache = slab_cache_new("twice", 64, 0, 0, NULL);
	void *object = slab_alloc(cache);

	slab_free(cache, object);
	slab_free(cache, object);
}

static void
free_twice_poisoned(void)
{
	struct slab_cache *cache = slab_cache_new("twice", 64, 0, 0, NULL);
	void *object;

	as_loop = &fake_loops[0];
	slab_cache_poison(cache, true);
	object = slab_alloc(cache);
	slab_free(cache, object);
	slab_free(cache, object);
}

static void
free_elsewhere(void)
{
	struct slab_cache *a = slab_cache_new("a", 64, 0, 0, NULL);
	struct slab_cache *b = slab_cache_new("b", 64, 0, 0, NULL);

	slab_free(b, slab_alloc(a));
}

static void
free_middle(void)
{
	struct slab_cache *cache = slab_cache_new("middle", 64, 0, 0, NULL);

	slab_free(cache, (char *)slab_alloc(cache) + 16);
}

static void
test_bad_frees(void **state)
{
	(void)state;
	expect_abort(free_twice);
	expect_abort(free_twice_poisoned);
	expect_abort(free_elsewhere);
	expect_abort(free_middle);
}

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif

#ifndef HAVE_ASAN /* which finds it at the write */
static void
write_after_free(void)
{
	struct slab_cache *cache = slab_cache_new("late", 64, 0, 0, NULL);
	volatile char *object;

	slab_cache_poison(cache, true);
	object = slab_alloc(cache);
	slab_free(cache, (void *)object);
	object[20] = 1;
	(void)slab_alloc(cache);
}
#endif

static void
test_poison(void **state)
{
	struct slab_cache *cache = slab_cache_new("poison", 64, 0, 0, NULL);
	uint8_t *object;
	unsigned round;

	(void)state;
	for (round = 0; round < 2; round++) {
		as_loop = round ? &fake_loops[0] : NULL;
		slab_cache_poison(cache, true);
		object = slab_alloc(cache);
		assert_true(object[0] == 0x5a && object[63] == 0x5a);
		slab_free(cache, object);
		/* Switched off and on while objects are free and in use. */
		slab_cache_poison(cache, false);
		object = slab_alloc(cache);
		assert_true(object[0] == 0x6b && object[63] == 0x6b);
		memset(object, 1, 64);
		slab_free(cache, object);
		slab_cache_poison(cache, true);
		object = slab_alloc(cache);
		assert_true(object[0] == 0x5a);
		slab_free(cache, object);
		slab_reclaim();
		object =
			slab_alloc(cache); /* of a slab that the system took and gave back zeroed */
		slab_free(cache, object);
	}
#ifndef HAVE_ASAN
	expect_abort(write_after_free);
#endif
	slab_cache_free(cache);
}

static char names[256];

static void
add_name(const struct slab_stats *stats, void *arg)
{
	(void)arg;
	snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s %llu,", stats->name,
		(unsigned long long)stats->object_size);
}

static void
test_listing(void **state)
{
	struct slab_cache *b = slab_cache_new("b", 2, 0, 0, NULL);
	struct slab_cache *c = slab_cache_new("c", 3, 0, 0, NULL);
	struct slab_cache *a =
		slab_cache_new("a-name-that-is-longer-than-a-name-may-be", 1, 0, 0, NULL);

	(void)state;
	names[0] = '\0';
	slab_for_each(add_name, NULL);
	assert_string_equal(names, "a-name-that-is-longer-than-a-na 1,b 2,c 3,");
	slab_cache_free(b);
	names[0] = '\0';
	slab_for_each(add_name, NULL);
	assert_string_equal(names, "a-name-that-is-longer-than-a-na 1,c 3,");
	slab_cache_free(a);
	slab_cache_free(c);
}

#ifndef SANITIZERS
static long
resident_bytes(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	long kib = -1;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Rss: %ld kB", &kib) == 1)
			break;
	fclose(f);
	return kib < 0 ? -1 : kib * 1024;
}
#endif

/* 400 MiB of chunks written and freed in another order: the memory is the system's again. */
static void
test_resident(void **state)
{
#ifdef SANITIZERS
	(void)state;
	print_message("# the sanitizer's own memory counts too\n");
	skip();
#else
	enum { CHUNKS = 6400 };
	struct slab_cache *chunks = slab_cache_new("chunks", 65536, 4096, SLAB_CHUNKS, NULL);
	struct slab_cache *nodes = slab_cache_new("nodes", 4096, 0, 0, NULL);
	void **objects = calloc(2 * CHUNKS, sizeof(*objects));
	long before;
	long full;
	long after;
	unsigned round;
	unsigned i;

	(void)state;
	for (round = 0; round < 2; round++) {
		before = resident_bytes();
		if (before < 0) {
			print_message("# no /proc/self/smaps_rollup\n");
			skip();
		}
		as_loop = &fake_loops[0];
		for (i = 0; i < CHUNKS; i++) {
			objects[2 * i] = slab_alloc(chunks);
			objects[2 * i + 1] = slab_alloc(nodes);
			memset(objects[2 * i], 1, 65536);
			memset(objects[2 * i + 1], 1, 4096);
		}
		full = resident_bytes();
		assert_true(full - before >= (long)CHUNKS * (65536 + 4096));
		assert_true(full - before < (long)CHUNKS * (65536 + 4096) / 100 * 102);
		for (i = 0; i < CHUNKS; i++) {
			unsigned k = (unsigned)((uint64_t)i * 7919 % CHUNKS);

			slab_free(chunks, objects[2 * k]);
			slab_free(nodes, objects[2 * k + 1]);
		}
		/* Chunks have gone already. Of the nodes some are kept, each with its slab, until
		 * the loop is idle. */
		after = resident_bytes();
		assert_true(after - before < 20 << 20);
		slab_reclaim();
		after = resident_bytes();
		assert_true(after - before < 5 << 20);
	}
	free(objects);
	slab_cache_free(chunks);
	slab_cache_free(nodes);
#endif
}

/* Two loops and a plain thread, one of them freeing what the others allocate, and a reader. */
static struct slab_cache *shared;
static _Atomic(uint64_t *) boxes[256];
static atomic_bool done;

static void *
run_loop_thread(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	uint64_t *object;
	unsigned i;

	as_loop = seed < 3 ? &fake_loops[seed] : NULL;
	for (i = 0; i < 100000; i++) {
		object = NULL;
		if (rand_r(&seed) & 1) {
			object = slab_alloc(shared);
			object[0] = object[7] = (uintptr_t)object;
		}
		object = atomic_exchange(&boxes[rand_r(&seed) % 256], object);
		if (!object)
			continue;
		if (object[0] != (uintptr_t)object || object[7] != object[0])
			return arg;
		object[0] = object[7] = 0;
		slab_free(shared, object);
		if (i % 10000 == 0)
			slab_reclaim();
	}
	slab_reclaim();
	return NULL;
}

static void *
run_reader(void *arg)
{
	while (!atomic_load(&done)) {
		names[0] = '\0';
		slab_for_each(add_name, arg);
	}
	return NULL;
}

static void
test_threads(void **state)
{
	pthread_t threads[4];
	pthread_t reader;
	struct slab_stats stats;
	uint64_t *object;
	void *bad;
	uintptr_t i;

	(void)state;
	shared = slab_cache_new("shared", 64, 0, 0, NULL);
	atomic_store(&done, false);
	assert_int_equal(pthread_create(&reader, NULL, run_reader, NULL), 0);
	for (i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, run_loop_thread, (void *)i), 0);
	for (i = 0; i < 4; i++) {
		pthread_join(threads[i], &bad);
		assert_null(bad);
	}
	atomic_store(&done, true);
	pthread_join(reader, NULL);
	for (i = 0; i < 256; i++) {
		object = atomic_exchange(&boxes[i], NULL);
		if (object)
			slab_free(shared, object);
	}
	slab_reclaim();
	slab_cache_stats(shared, &stats);
	assert_true(stats.active == 0 && stats.slabs == 0);
	slab_cache_free(shared);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_resident, teardown),
		cmocka_unit_test_teardown(test_sizes, teardown),
		cmocka_unit_test_teardown(test_random, teardown),
		cmocka_unit_test_teardown(test_fast_path, teardown),
		cmocka_unit_test_teardown(test_constructor, teardown),
		cmocka_unit_test_teardown(test_limit, teardown),
		cmocka_unit_test_teardown(test_indexes, teardown),
		cmocka_unit_test_teardown(test_bad_frees, teardown),
		cmocka_unit_test_teardown(test_poison, teardown),
		cmocka_unit_test_teardown(test_listing, teardown),
		cmocka_unit_test_teardown(test_threads, teardown),
	};

	return cmocka_run_group_tests_name("slab", tests, NULL, NULL);
}
