/* Memory volumes as the kernel sees them: lock=, populate=, hugepages=. */
#include "config.h"

#include "storage_test.h"

#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "smaps.h"

#define SIZE   (4 * MIB)
#define NOBODY 65534

static uint8_t data[SIZE];

static struct volume *
open_memory(const struct conf_volume *given)
{
	struct conf_volume conf = test_conf("disk0", "memory", NULL, SIZE);
	struct volume *volume;
	struct error error;

	conf.lock = given->lock;
	conf.populate = given->populate;
	conf.hugepages = given->hugepages;
	if (volume_open(&conf, &volume, &error))
		fail_msg("%s", error.text);
	return volume;
}

static void
close_memory(struct volume *volume, struct blk_handle *handle)
{
	blk_close(handle);
	volume_put(volume);
	virtual_run_until_idle();
	assert_int_equal(storage_memory_used(), 0);
}

/* The sanitizers make nothing of mlock(): their shadow would be locked with it. */
static void
skip_where_nothing_is_locked(void)
{
#ifdef SANITIZERS
	skip();
#endif
}

static void
what_is_written_is_locked(void **state)
{
	uint64_t before = status_bytes("VmLck:");
	struct volume *volume;
	struct blk_handle *handle;

	(void)state;
	skip_where_nothing_is_locked();
	volume = open_memory(&(struct conf_volume){.lock = true});
	handle = open_handle(volume);
	assert_int_equal(status_bytes("VmLck:"), before);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, SIZE, data), 0);
	assert_true(status_bytes("VmLck:") >= before + SIZE);
	assert_true(smaps_sum("Rss:", "lo") >= SIZE);
	/* What is given back is not kept locked. */
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, SIZE, NULL), 0);
	assert_int_equal(status_bytes("VmLck:"), before);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, MIB, data), 0);
	assert_true(status_bytes("VmLck:") > before);
	close_memory(volume, handle);
	assert_int_equal(status_bytes("VmLck:"), before);
}

/* Runs as somebody who may lock so much and no more; 0: as root again. */
static void
limit_locked(rlim_t most)
{
	struct rlimit limit;

	assert_int_equal(seteuid(0), 0);
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
	limit.rlim_cur = most ? most : limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	if (most)
		assert_int_equal(seteuid(NOBODY), 0);
}

static void
what_cannot_be_locked_is_not_there(void **state)
{
	struct conf_volume conf = test_conf("disk0", "memory", NULL, SIZE);
	struct volume *volume;
	struct blk_handle *handle;
	struct error error;
	uint64_t used;

	(void)state;
	skip_where_nothing_is_locked();
	if (geteuid() != 0)
		skip();
	conf.lock = true;
	limit_locked(SIZE - 1);
	assert_int_equal(volume_open(&conf, &volume, &error), -EPERM);
	assert_string_equal(error.text,
		"lock: 4194304 bytes are to be locked, the limit is 4194303 (ulimit -l, LimitMEMLOCK=)");
	/* Others took it meanwhile: no room, and nothing that could be swapped out instead. */
	limit_locked(SIZE);
	assert_int_equal(volume_open(&conf, &volume, &error), 0);
	limit_locked(SIZE - 1);
	handle = open_handle(volume);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, MIB, data), 0);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, SIZE, data), -ENOSPC);
	/* What was not had is not counted, however often it is asked for: others may want it. */
	used = storage_memory_used();
	assert_true(used <= SIZE);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, SIZE, data), -ENOSPC);
	assert_int_equal(storage_memory_used(), used);
	limit_locked(0);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, SIZE, data), 0);
	close_memory(volume, handle);
}

static void
populated_pages_are_there(void **state)
{
	uint64_t before = status_bytes("VmRSS:");
	struct volume *volume = open_memory(&(struct conf_volume){.populate = true});

	(void)state;
	assert_true(status_bytes("VmRSS:") >= before + SIZE);
	volume_put(volume);
	virtual_run_until_idle();
	volume = open_memory(&(struct conf_volume){0});
	assert_true(status_bytes("VmRSS:") < before + SIZE);
	volume_put(volume);
	virtual_run_until_idle();
}

static void
huge_pages_are_advised_or_refused(void **state)
{
	(void)state;
	/* Kernels without them take no such advice. */
	if (access("/sys/kernel/mm/transparent_hugepage", F_OK) < 0)
		skip();
	for (unsigned huge = 0; huge < 2; huge++) {
		const char *flag = huge ? "hg" : "nh", *other = huge ? "nh" : "hg";
		uint64_t before = smaps_sum("Rss:", flag), others = smaps_sum("Rss:", other);
		struct volume *volume =
			open_memory(&(struct conf_volume){.populate = true, .hugepages = huge});

		assert_true(smaps_sum("Rss:", flag) >= before + SIZE);
#ifndef SANITIZERS
		/* Their shadow grows with what is populated, and has pages of its own kind. */
		assert_true(smaps_sum("Rss:", other) < others + SIZE);
#else
		(void)others;
#endif
		volume_put(volume);
		virtual_run_until_idle();
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_locked),
		cmocka_unit_test(what_cannot_be_locked_is_not_there),
		cmocka_unit_test(populated_pages_are_there),
		cmocka_unit_test(huge_pages_are_advised_or_refused),
	};

	return cmocka_run_group_tests(tests, setup_loops, teardown_loops);
}
