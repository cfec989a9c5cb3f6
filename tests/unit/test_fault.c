/*
 * storage/layers/fault.c, fault_rule.c and layer.c: for each knob, exactly the requests fail that
 * its seed says; on virtual time.
 */
#include "config.h"

#include "storage_test.h"

#include <errno.h>
#include <stdio.h>

#include "fault.h"
#include "volume_script.h"

#define BLOCK   512
#define COUNT   1000 /* requests of a sequence */
#define MILLION 1000000

static struct volume *volume;
static struct blk_handle *handle;
static uint8_t data[64 * 1024];

static void
apply_everywhere(void)
{
	for (unsigned i = 0; i < loop_count(); i++) {
		struct loop *before = virtual_as(loop_by_index(i));

		volume_layers_apply(volume);
		virtual_as(before);
	}
}

static void
set_rules(const char *rules)
{
	struct error error = {.text = ""};
	int rc = volume_fault_set(volume, rules, &error);

	if (rc)
		print_message("%s: %s\n", rules, error.text);
	assert_int_equal(rc, 0);
	apply_everywhere();
}

/* From a clean slate. */
static void
begin(const char *rules)
{
	struct conf_volume conf = test_conf("disk0", "memory", NULL, MIB);
	struct error error;

	assert_int_equal(volume_open(&conf, &volume, &error), 0);
	handle = open_handle(volume);
	set_rules(rules);
}

static void
end(void)
{
	blk_close(handle);
	volume_put(volume);
	virtual_run_until_idle();
}

static int
io(enum blk_op op, uint64_t offset, uint64_t length)
{
	return do_io(handle, op, 0, offset, length, data);
}

static struct fault_stats last;
static unsigned nrules;

static void
note_rule(const struct fault_stats *stats, void *arg)
{
	(void)arg;
	last = *stats;
	nrules++;
}

static void
look(void)
{
	nrules = 0;
	volume_fault_visit(volume, note_rule, NULL);
}

/* The generator of fault_rule.c, written down again: splitmix64. */
static uint64_t
expect_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static void
probability_fails_what_its_seed_says(void **state)
{
	static const struct {
		const char *percent;
		unsigned millionths;
	} cases[] = {{"10", 100000}, {"50", 500000}, {"0.5", 5000}, {"99.99", 999900}};

	(void)state;
	for (unsigned seed = 1; seed <= 5; seed++)
		for (unsigned c = 0; c < ARRAY_SIZE(cases); c++) {
			uint64_t random = seed;
			unsigned failed = 0;
			char rule[100];

			snprintf(rule, sizeof(rule), "write errno=ENOSPC probability=%s seed=%u",
				cases[c].percent, seed);
			begin(rule);
			for (unsigned i = 0; i < COUNT; i++) {
				bool fails = expect_random(&random) % MILLION < cases[c].millionths;

				assert_int_equal(io(BLK_WRITE, 0, BLOCK), fails ? -ENOSPC : 0);
				assert_int_equal(io(BLK_READ, 0, BLOCK), 0);
				failed += fails;
			}
			look();
			assert_int_equal(last.candidates, COUNT);
			assert_int_equal(last.injected, failed);
			end();
		}
}

static void
probability_of_0_and_of_100(void **state)
{
	(void)state;
	begin("read probability=0 seed=1");
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(io(BLK_READ, 0, BLOCK), 0);
	end();
	begin("read probability=100 seed=1");
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(io(BLK_READ, 0, BLOCK), -EIO);
	end();
}

static void
interval_fails_every_nth(void **state)
{
	(void)state;
	begin("read errno=EPERM interval=7 seed=1");
	for (unsigned i = 1; i <= COUNT; i++)
		assert_int_equal(io(BLK_READ, 0, BLOCK), i % 7 == 0 ? -EPERM : 0);
	end();
	/* Together: of every third, those that the seed says. */
	begin("read interval=3 probability=40 seed=9");
	for (uint64_t i = 1, random = 9; i <= COUNT; i++) {
		bool fails = i % 3 == 0 && expect_random(&random) % MILLION < 400000;

		assert_int_equal(io(BLK_READ, 0, BLOCK), fails ? -EIO : 0);
	}
	end();
}

static void
times_ends_it(void **state)
{
	(void)state;
	begin("write times=5 interval=2 seed=1");
	for (unsigned i = 1; i <= 50; i++)
		assert_int_equal(io(BLK_WRITE, 0, BLOCK), i % 2 == 0 && i <= 10 ? -EIO : 0);
	look();
	assert_non_null(strstr(last.rule, "times=0"));
	assert_int_equal(last.injected, 5);
	end();
}

/* The kernel's: a request larger than what is left begins the failing, and uses up nothing. */
static void
space_is_used_up_first(void **state)
{
	uint64_t space = 10000;

	(void)state;
	begin("write space=10000 seed=1");
	for (unsigned i = 0; i < 40; i++) {
		uint64_t length = 512 + i % 3 * 512;
		bool fails = space <= length;

		if (!fails)
			space -= length;
		assert_int_equal(io(BLK_WRITE, 0, length), fails ? -EIO : 0);
	}
	look();
	assert_true(space > 0 && last.injected > 20);
	end();
}

static void
ranges_choose_by_place(void **state)
{
	(void)state;
	begin("read+write require-start=64K require-end=128K reject-start=96K reject-end=97K seed=1");
	for (uint64_t at = 0; at < 256 * KIB; at += BLOCK) {
		bool required = at >= 64 * KIB && at < 128 * KIB;
		bool rejected = at >= 96 * KIB && at < 97 * KIB;

		assert_int_equal(io(BLK_READ, at, BLOCK), required && !rejected ? -EIO : 0);
	}
	/* Touching the range is enough, for either. */
	assert_int_equal(io(BLK_WRITE, 64 * KIB - BLOCK, 2 * BLOCK), -EIO);
	assert_int_equal(io(BLK_WRITE, 96 * KIB - BLOCK, 2 * BLOCK), 0);
	/* A flush has no place. */
	assert_int_equal(io(BLK_FLUSH, 0, 0), 0);
	end();
}

static void
fail_nth_fails_exactly_that_one(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= 20; n++) {
		char rule[64];

		snprintf(rule, sizeof(rule), "read+write fail-nth=%u seed=1", n);
		begin(rule);
		for (unsigned i = 1; i <= 40; i++) {
			look();
			snprintf(rule, sizeof(rule), "fail-nth=%u", i <= n ? n - i + 1 : 0);
			assert_non_null(strstr(last.rule, rule)); /* read back, it tells */
			assert_int_equal(
				io(i % 2 ? BLK_READ : BLK_WRITE, 0, BLOCK), i == n ? -EIO : 0);
		}
		end();
	}
}

static void
client_filter_fails_one_client_only(void **state)
{
	struct blk_handle *other;
	struct io a;
	int rc;

	(void)state;
	begin("read client=nbd*10.0.0.7:* seed=1");
	other = blk_open(volume, "nbd 10.0.0.7:4711", false, &rc);
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(io(BLK_READ, 0, BLOCK), 0);
		io_submit(&a, other, BLK_READ, 0, 0, BLOCK, data);
		virtual_run_until_idle();
		assert_int_equal(a.blk.rc, -EIO);
	}
	look();
	assert_int_equal(last.candidates, 10);
	blk_close(other);
	end();
	/* By who it is, whatever the connection is called. */
	begin("read client=nbd?CN=alice seed=1");
	other = blk_open(volume, "nbd 10.0.0.7:4711", false, &rc);
	assert_int_equal(blk_set_client(other, "nbd CN=alice"), 0);
	assert_int_equal(io(BLK_READ, 0, BLOCK), 0);
	io_submit(&a, other, BLK_READ, 0, 0, BLOCK, data);
	virtual_run_until_idle();
	assert_int_equal(a.blk.rc, -EIO);
	blk_close(other);
	end();
}

static void
every_operation_and_every_error(void **state)
{
	static const struct {
		const char *name;
		enum blk_op op;
	} ops[] = {{"read", BLK_READ}, {"write", BLK_WRITE}, {"zero", BLK_ZERO},
		{"discard", BLK_DISCARD}, {"extents", BLK_EXTENTS}, {"prefetch", BLK_PREFETCH},
		{"compare_write", BLK_COMPARE_WRITE}, {"flush", BLK_FLUSH}};
	static const struct {
		const char *name;
		int rc;
	} errors[] = {{"EIO", -EIO}, {"ENOSPC", -ENOSPC}, {"EROFS", -EROFS}, {"EPERM", -EPERM},
		{"ENOMEM", -ENOMEM}, {"ENODEV", -ENODEV}, {"ETIMEDOUT", -ETIMEDOUT},
		{"ESHUTDOWN", -ESHUTDOWN}};
	struct blk_extent extents[4];

	(void)state;
	for (unsigned o = 0; o < ARRAY_SIZE(ops); o++)
		for (unsigned e = 0; e < ARRAY_SIZE(errors); e++) {
			char rule[64];

			snprintf(rule, sizeof(rule), "%s errno=%s", ops[o].name, errors[e].name);
			begin(rule);
			for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
				unsigned n = ARRAY_SIZE(extents);
				int rc = ops[i].op == BLK_EXTENTS
						 ? do_extents(handle, 0, 0, BLOCK, extents, &n)
						 : io(ops[i].op, 0,
							   ops[i].op == BLK_FLUSH ? 0 : BLOCK);
				int expected = i == o ? errors[e].rc : 0;

				/* B7: who shared the sync hears ENOSPC, or EIO for anything else.
				 */
				if (i == o && ops[i].op == BLK_FLUSH && expected != -ENOSPC &&
					expected != -ENODEV)
					expected = -EIO;
				assert_int_equal(rc, expected);
			}
			end();
		}
}

static void
failed_flush_breaks_the_volume(void **state)
{
	(void)state;
	begin("flush fail-nth=2");
	assert_int_equal(io(BLK_FLUSH, 0, 0), 0);
	assert_int_equal(io(BLK_WRITE, 0, BLOCK), 0);
	assert_int_equal(io(BLK_FLUSH, 0, 0), -EIO);
	assert_true(volume_broken(volume));
	assert_int_equal(io(BLK_FLUSH, 0, 0), -EIO);
	assert_int_equal(io(BLK_WRITE, 0, BLOCK), -EIO);
	assert_int_equal(io(BLK_READ, 0, BLOCK), 0);
	end();
	/* FUA is the write and that sync. */
	begin("flush fail-nth=1");
	assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, 0, BLOCK, data), -EIO);
	assert_true(volume_broken(volume));
	end();
}

static uint64_t
time_read(void)
{
	uint64_t began = loop_now(handle == NULL ? NULL : loop_by_index(0)), step = 100 * 1000;
	struct io a;

	io_submit(&a, handle, BLK_READ, 0, 0, BLOCK, data);
	virtual_run_until_idle();
	for (unsigned i = 0; !a.completed && i < 10000000; i++)
		virtual_advance(step);
	assert_int_equal(a.completed, 1);
	assert_int_equal(a.blk.rc, 0);
	return loop_now(loop_by_index(0)) - began;
}

static void
latency_fixed(void **state)
{
	(void)state;
	begin("read latency=5ms interval=2");
	for (unsigned i = 1; i <= 20; i++) {
		uint64_t took = time_read();

		if (i % 2)
			assert_int_equal(took, 0);
		else
			assert_true(took >= 5 * MS_NS && took <= 5 * MS_NS + 200 * 1000);
	}
	end();
}

static void
latency_uniform_follows_its_seed(void **state)
{
	uint64_t random = 3;

	(void)state;
	begin("read latency=uniform:2ms-9ms seed=3");
	for (unsigned i = 0; i < 200; i++) {
		uint64_t expected = 2 * MS_NS + expect_random(&random) % (7 * MS_NS + 1);
		uint64_t took = time_read();

		assert_true(took >= expected && took <= expected + 200 * 1000);
	}
	end();
}

/* e^-1 of them take longer than the mean, e^-2 longer than twice: with 4000 draws, within 4 sigma.
 */
static void
latency_exponential_has_its_mean(void **state)
{
	uint64_t sum = 0;
	unsigned above1 = 0, above2 = 0, draws = 4000;

	(void)state;
	begin("read latency=exponential:10ms seed=11");
	for (unsigned i = 0; i < draws; i++) {
		uint64_t took = time_read();

		sum += took;
		above1 += took > 10 * MS_NS;
		above2 += took > 20 * MS_NS;
	}
	end();
	assert_true(sum / draws > 9350 * 1000 && sum / draws < 10700 * 1000);
	assert_in_range(above1, 1350, 1600);
	assert_in_range(above2, 455, 630);
}

static void
delays_keep_order_by_time(void **state)
{
	struct io slow, fast, first;

	(void)state;
	begin("read latency=20ms; write latency=5ms; zero latency=1ms");
	io_submit(&slow, handle, BLK_READ, 0, 0, BLOCK, data);
	io_submit(&fast, handle, BLK_WRITE, 0, 0, BLOCK, data);
	io_submit(&first, handle, BLK_ZERO, 0, 0, BLOCK, NULL);
	virtual_advance(2 * MS_NS);
	assert_int_equal(first.completed + fast.completed + slow.completed, 1);
	assert_int_equal(first.completed, 1);
	virtual_advance(4 * MS_NS);
	assert_int_equal(fast.completed, 1);
	assert_int_equal(slow.completed, 0);
	virtual_advance(20 * MS_NS);
	assert_int_equal(slow.completed, 1);
	end();
}

static void
latency_and_error_together(void **state)
{
	struct io a;

	(void)state;
	begin("write errno=EIO latency=5ms");
	io_submit(&a, handle, BLK_WRITE, 0, 0, BLOCK, data);
	virtual_advance(4 * MS_NS);
	assert_int_equal(a.completed, 0);
	virtual_advance(2 * MS_NS);
	assert_int_equal(a.completed, 1);
	assert_int_equal(a.blk.rc, -EIO);
	end();
}

static void
expect_bytes(uint64_t offset, uint64_t length, uint8_t value)
{
	assert_int_equal(io(BLK_READ, offset, length), 0);
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(data[i], value);
}

static void
short_write_stops_and_says_so(void **state)
{
	(void)state;
	begin("write short=1000 errno=ENOSPC fail-nth=2");
	memset(data, 0xaa, sizeof(data));
	assert_int_equal(io(BLK_WRITE, 0, 4096), 0);
	memset(data, 0xbb, sizeof(data));
	assert_int_equal(io(BLK_WRITE, 0, 4096), -ENOSPC);
	expect_bytes(0, 1000, 0xbb);
	expect_bytes(1000, 3096, 0xaa);
	end();
}

static void
torn_write_lies(void **state)
{
	(void)state;
	begin("write torn=512 fail-nth=2");
	memset(data, 0xaa, sizeof(data));
	assert_int_equal(io(BLK_WRITE, 0, 4096), 0);
	memset(data, 0xbb, sizeof(data));
	assert_int_equal(io(BLK_WRITE, 0, 4096), 0);
	expect_bytes(0, 512, 0xbb);
	expect_bytes(512, 4096 - 512, 0xaa);
	/* Nothing of it at all; and a torn one that is long enough is a whole one. */
	set_rules("write torn=0 fail-nth=1");
	assert_int_equal(io(BLK_WRITE, 0, 4096), 0);
	memset(data, 0xcc, sizeof(data));
	set_rules("write torn=8K fail-nth=1");
	assert_int_equal(io(BLK_WRITE, 8192, 4096), 0);
	expect_bytes(8192, 4096, 0xcc);
	expect_bytes(512, 4096 - 512, 0xaa);
	end();
}

static void
torn_read_zero_and_discard(void **state)
{
	(void)state;
	begin("read torn=1K fail-nth=1");
	memset(data, 0xaa, sizeof(data));
	assert_int_equal(io(BLK_WRITE, 0, 8192), 0);
	memset(data, 0xee, sizeof(data));
	assert_int_equal(io(BLK_READ, 0, 4096), 0);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(data[i], i < 1024 ? 0xaa : 0); /* R10: never what the buffer had */
	set_rules("zero+discard torn=4K latency=1ms");
	assert_int_equal(do_io(handle, BLK_ZERO, 0, 0, 0, NULL), 0);
	{
		struct io a;

		io_submit(&a, handle, BLK_ZERO, 0, 0, 8192, NULL);
		virtual_advance(2 * MS_NS);
		assert_int_equal(a.completed, 1);
		assert_int_equal(a.blk.rc, 0);
	}
	expect_bytes(0, 4096, 0);
	expect_bytes(4096, 4096, 0xaa);
	end();
}

/* The driver wants 4096: what is cut is cut there, and the bytes behind are not touched. */
static void
cuts_are_aligned_for_the_driver(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.alignment = 4096});
	static _Alignas(4096) uint8_t aligned[16384];

	(void)state;
	volume = volume_script_volume(s);
	handle = open_handle(volume);
	set_rules("write short=6000");
	memset(aligned, 0xbb, sizeof(aligned));
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 16384, aligned), -EIO);
	assert_int_equal(volume_script_calls(s), 1);
	assert_int_equal(volume_script_call(s, 0)->length, 4096);
	blk_close(handle);
	volume_script_close(s);
	virtual_run_until_idle();
}

static void
late_fails_after_the_deed(void **state)
{
	struct io a;

	(void)state;
	begin("write errno=EIO late=on fail-nth=1");
	memset(data, 0xaa, sizeof(data));
	assert_int_equal(io(BLK_WRITE, 0, 4096), -EIO);
	expect_bytes(0, 4096, 0xaa);
	set_rules("write latency=5ms late=on");
	memset(data, 0xbb, sizeof(data));
	io_submit(&a, handle, BLK_WRITE, 0, 0, 4096, data);
	virtual_run_until_idle();
	assert_int_equal(a.completed, 0);
	/* Done, but not told. */
	memset(data, 0, sizeof(data));
	expect_bytes(0, 4096, 0xbb);
	virtual_advance(6 * MS_NS);
	assert_int_equal(a.completed, 1);
	end();
}

/* A write in the middle of a block is a read and a write for the driver, and for a layer. */
static void
parts_of_an_emulation_fail_too(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.alignment = 512});

	(void)state;
	volume = volume_script_volume(s);
	handle = open_handle(volume);
	set_rules("read fail-nth=1");
	assert_int_equal(io(BLK_WRITE, 100, 50), -EIO);
	assert_int_equal(io(BLK_WRITE, 100, 50), 0);
	look();
	assert_int_equal(last.injected, 1);
	blk_close(handle);
	volume_script_close(s);
	virtual_run_until_idle();
}

/* A compare and write over two chunks is emulated although the driver has one: counted once. */
static void
emulated_once_counted_once(void **state)
{
	(void)state;
	begin("all latency=0ms");
	memset(data, 0, sizeof(data));
	assert_int_equal(io(BLK_COMPARE_WRITE, 64 * KIB - 512, 1024), 0);
	look();
	assert_int_equal(last.candidates, 1);
	end();
}

static void
rules_are_replaced_and_cleared(void **state)
{
	struct error error;

	(void)state;
	begin("write errno=EIO; read errno=EPERM");
	look();
	assert_int_equal(nrules, 2);
	set_rules("write errno=ENOSPC");
	look();
	assert_int_equal(nrules, 2);
	assert_int_equal(io(BLK_WRITE, 0, BLOCK), -ENOSPC);
	/* Nothing of a text with a mistake in it. */
	assert_int_equal(volume_fault_set(volume, "write errno=EIO; reed", &error), -EINVAL);
	assert_int_equal(io(BLK_WRITE, 0, BLOCK), -ENOSPC);
	assert_int_equal(volume_fault_clear(volume, "read", &error), 0);
	assert_int_equal(volume_fault_clear(volume, "read", &error), -ENOENT);
	assert_int_equal(io(BLK_READ, 0, BLOCK), 0);
	assert_false(blk_inline(handle));
	assert_int_equal(volume_fault_clear(volume, NULL, &error), 0);
	apply_everywhere();
	assert_int_equal(io(BLK_WRITE, 0, BLOCK), 0);
	assert_true(blk_inline(handle));
	look();
	assert_int_equal(nrules, 0);
	end();
}

static void
text_reads_back(void **state)
{
	static const char *const rules[] = {
		"read errno=EIO probability=12.5 seed=7",
		"write+flush errno=ENOSPC interval=3 times=4 space=4096 seed=8",
		"all errno=EIO latency=uniform:1ms-2s client=nbd* seed=9",
		"write latency=exponential:250us late=on seed=1",
		"write errno=EIO short=512 verbose=2 seed=1",
		"zero+discard torn=0 require-start=512 require-end=1024 reject-start=600 reject-end=700 seed=1",
		"read errno=EIO fail-nth=3 seed=0",
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rules); i++) {
		begin(rules[i]);
		look();
		assert_string_equal(last.rule, rules[i]);
		end();
	}
}

static void
nonsense_is_refused(void **state)
{
	static const char *const rules[] = {"", "reed", "read+", "read errno", "read errno=EILSEQ",
		"read errno=5", "read probability=101", "read probability=x",
		"read probability=", "read interval=0", "read interval=-1", "read times=-2",
		"read space=1Q", "read latency=5", "read latency=61s",
		"read latency=uniform:5ms-1ms", "read latency=gauss:1ms", "flush short=1",
		"extents torn=1", "read torn=1 errno=EIO", "read torn=1 short=1",
		"read torn=1 late=on", "read require-start=2 require-end=1",
		"read reject-start=2 reject-end=1", "read client=", "read seed=x", "read verbose=3",
		"read fail-nth=x", "read; ", "read frobnicate=1",
		"read space=99999999999999999999"};
	struct error error;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rules); i++) {
		error.text[0] = '\0';
		if (fault_check(rules[i], &error) != -EINVAL)
			fail_msg("\"%s\" was taken", rules[i]);
		assert_true(error.text[0]);
	}
}

static void
there_is_an_end_of_rules(void **state)
{
	struct error error;
	char rule[64];

	(void)state;
	begin("read client=c0");
	for (unsigned i = 1; i < LIMIT_FAULT_RULES; i++) {
		snprintf(rule, sizeof(rule), "read client=c%u", i);
		set_rules(rule);
	}
	assert_int_equal(volume_fault_set(volume, "read client=more", &error), -ENOSPC);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(probability_fails_what_its_seed_says),
		cmocka_unit_test(probability_of_0_and_of_100),
		cmocka_unit_test(interval_fails_every_nth),
		cmocka_unit_test(times_ends_it),
		cmocka_unit_test(space_is_used_up_first),
		cmocka_unit_test(ranges_choose_by_place),
		cmocka_unit_test(fail_nth_fails_exactly_that_one),
		cmocka_unit_test(client_filter_fails_one_client_only),
		cmocka_unit_test(every_operation_and_every_error),
		cmocka_unit_test(failed_flush_breaks_the_volume),
		cmocka_unit_test(latency_fixed),
		cmocka_unit_test(latency_uniform_follows_its_seed),
		cmocka_unit_test(latency_exponential_has_its_mean),
		cmocka_unit_test(delays_keep_order_by_time),
		cmocka_unit_test(latency_and_error_together),
		cmocka_unit_test(short_write_stops_and_says_so),
		cmocka_unit_test(torn_write_lies),
		cmocka_unit_test(torn_read_zero_and_discard),
		cmocka_unit_test(cuts_are_aligned_for_the_driver),
		cmocka_unit_test(late_fails_after_the_deed),
		cmocka_unit_test(parts_of_an_emulation_fail_too),
		cmocka_unit_test(emulated_once_counted_once),
		cmocka_unit_test(rules_are_replaced_and_cleared),
		cmocka_unit_test(text_reads_back),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(there_is_an_end_of_rules),
	};

	return cmocka_run_group_tests_name("fault", tests, setup_loops, teardown_loops);
}
