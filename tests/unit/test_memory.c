/* storage/backends/memory.c, memory_tree.c and memory_cap.c. */
#include "config.h"

#include "storage_test.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "slab.h"

#define SLAB  (2 * MIB)
#define CHUNK (64 * KIB)
#define LEAF  (64 * CHUNK)
#define VIEW  (12 * MIB) /* what a random test sees of a volume */

static uint8_t shadow[VIEW], buffer[VIEW];
static uint64_t seed;

static uint64_t
next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static struct volume *
open_memory(const char *name, uint64_t size)
{
	struct conf_volume conf = test_conf(name, "memory", NULL, size);
	struct volume *volume;
	struct error error;

	assert_int_equal(volume_open(&conf, &volume, &error), 0);
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

static uint64_t nodes_active;

static void
visit_nodes(const struct slab_stats *stats, void *arg)
{
	(void)arg;
	if (strcmp(stats->name, "memory_node") == 0)
		nodes_active = stats->active;
}

static uint64_t
count_nodes(void)
{
	slab_for_each(visit_nodes, NULL);
	return nodes_active;
}

/* Extents against the shadow: what is called a hole or zeroes is zero, and the parts adjoin. */
static void
check_extents(struct blk_handle *handle, uint64_t base, uint64_t from, uint64_t length)
{
	while (length) {
		struct blk_extent extents[16];
		unsigned n = 1 + (unsigned)(next_random() % 16);
		unsigned flags = next_random() % 4 ? 0 : BLK_EXTENT_ONE;

		assert_int_equal(do_extents(handle, flags, base + from, length, extents, &n), 0);
		assert_in_range(n, 1, flags ? 1 : 16);
		for (unsigned i = 0; i < n; i++) {
			assert_in_range(extents[i].length, 1, length);
			assert_true(i == 0 || extents[i].flags != extents[i - 1].flags);
			if (extents[i].flags & BLK_ZEROES)
				for (uint64_t j = 0; j < extents[i].length; j++)
					assert_int_equal(shadow[from + j], 0);
			from += extents[i].length;
			length -= extents[i].length;
		}
	}
}

static void
one_random_request(struct blk_handle *handle, uint64_t base)
{
	static const uint64_t most[] = {600, 5000, 200000, 6 * MIB};
	uint64_t length = 1 + next_random() % most[next_random() % ARRAY_SIZE(most)];
	uint64_t offset = next_random() % (VIEW - length + 1);

	if (next_random() % 2)
		offset = round_down(offset, 4096);
	if (next_random() % 2 && length > 4096)
		length = round_down(length, 4096);
	switch (next_random() % 8) {
	case 0:
	case 1:
		memset(buffer, 0xee, length);
		assert_int_equal(do_io(handle, BLK_READ, 0, base + offset, length, buffer), 0);
		assert_memory_equal(buffer, shadow + offset, length);
		break;
	case 2:
		assert_int_equal(do_io(handle, BLK_ZERO, next_random() % 2 ? BLK_MAY_UNMAP : 0,
					 base + offset, length, NULL),
			0);
		memset(shadow + offset, 0, length);
		break;
	case 3:
		assert_int_equal(do_io(handle, BLK_DISCARD, 0, base + offset, length, NULL), 0);
		memset(shadow + offset, 0, length);
		break;
	case 4:
		check_extents(handle, base, offset, length);
		break;
	case 5:
		length = min_u64(length, MIB);
		memcpy(buffer, shadow + offset, length);
		memset(buffer + length, (int)next_random(), length);
		if (next_random() % 3 == 0) {
			struct io io;
			uint64_t at = next_random() % length;

			buffer[at] ^= 0x80;
			io_submit(&io, handle, BLK_COMPARE_WRITE, 0, base + offset, length, buffer);
			virtual_run_until_idle();
			assert_int_equal(io.blk.rc, -EILSEQ);
			assert_int_equal(io.blk.mismatch, at);
			break;
		}
		assert_int_equal(
			do_io(handle, BLK_COMPARE_WRITE, 0, base + offset, length, buffer), 0);
		memcpy(shadow + offset, buffer + length, length);
		break;
	default:
		for (uint64_t i = 0; i < length; i++)
			buffer[i] = (uint8_t)(next_random() >> 20);
		assert_int_equal(do_io(handle, BLK_WRITE, 0, base + offset, length, buffer), 0);
		memcpy(shadow + offset, buffer, length);
		break;
	}
}

static void
random_requests_against_a_shadow(void **state)
{
	const struct {
		uint64_t size, base;
	} where[] = {{VIEW, 0}, {VIEW + 1536, 1536}, {PIB, 0}, {PIB, ((uint64_t)1 << 31) - 5 * MIB},
		{PIB, ((uint64_t)1 << 32) - 4096}, {PIB, ((uint64_t)1 << 41) - MIB},
		{LIMIT_VOLUME_SIZE, LIMIT_VOLUME_SIZE - VIEW}};

	(void)state;
	printf("# seed %llu\n", (unsigned long long)seed);
	for (unsigned i = 0; i < ARRAY_SIZE(where); i++) {
		struct volume *volume = open_memory("random", where[i].size);
		struct blk_handle *handle = open_handle(volume);

		memset(shadow, 0, VIEW);
		for (unsigned n = 0; n < 120; n++)
			one_random_request(handle, where[i].base);
		assert_int_equal(do_io(handle, BLK_READ, 0, where[i].base, VIEW, buffer), 0);
		assert_memory_equal(buffer, shadow, VIEW);
		assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, where[i].size, NULL), 0);
		assert_int_equal(get_stats(volume)->allocated, 0);
		assert_int_equal(count_nodes(), 0);
		close_memory(volume, handle);
	}
}

static void
petabyte_costs_what_is_written(void **state)
{
	struct volume *volume = open_memory("huge", PIB);
	struct blk_handle *handle = open_handle(volume);
	uint64_t before = 0;

	(void)state;
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t offset = next_random() % (PIB / 4096) * 4096;

		assert_int_equal(do_io(handle, BLK_WRITE, 0, offset, 4096, buffer), 0);
		assert_in_range(get_stats(volume)->allocated, before, before + CHUNK);
		before = get_stats(volume)->allocated;
	}
	/* Six levels at most, the upper ones shared. */
	assert_in_range(count_nodes(), 2000, 2000 * 5);
	/* Whole, by one request. */
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, PIB, NULL), 0);
	assert_int_equal(get_stats(volume)->allocated, 0);
	assert_int_equal(count_nodes(), 0);
	assert_int_equal(storage_memory_used(), 0);
	close_memory(volume, handle);
}

static void
closing_gives_everything_back(void **state)
{
	struct volume *volume = open_memory("closing", PIB);
	struct blk_handle *handle = open_handle(volume);

	(void)state;
	for (unsigned i = 0; i < 500; i++)
		assert_int_equal(do_io(handle, BLK_WRITE, 0, next_random() % (PIB / 4096) * 4096,
					 4096, buffer),
			0);
	close_memory(volume, handle);
	assert_int_equal(count_nodes(), 0);
}

/* R10: chunks that were somebody else's show nothing of it. */
static void
reused_chunks_show_nothing(void **state)
{
	struct volume *volume = open_memory("reuse", 64 * MIB);
	struct blk_handle *handle = open_handle(volume);

	(void)state;
	memset(buffer, 'S', 8 * MIB);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 4 * MIB, buffer), 0);
	/* One chunk of each slab stays, so that the slabs do too. */
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, 2 * MIB - CHUNK, NULL), 0);
	for (unsigned i = 0; i < 31; i++) {
		uint64_t at = 32 * MIB + i * CHUNK;

		buffer[0] = 1;
		assert_int_equal(do_io(handle, BLK_WRITE, 0, at + 5000, 1, buffer), 0);
		assert_int_equal(do_io(handle, BLK_WRITE, 0, at + 3 * 4096, 4096, buffer), 0);
		assert_int_equal(do_io(handle, BLK_WRITE, 0, at + 9 * 4096 - 10, 20, buffer), 0);
	}
	assert_int_equal(do_io(handle, BLK_READ, 0, 32 * MIB, 31 * CHUNK, buffer), 0);
	for (unsigned i = 0; i < 31 * CHUNK; i++) {
		unsigned in = i % CHUNK;
		bool ours = in == 5000 || (in >= 3 * 4096 && in < 4 * 4096) ||
			    (in >= 9 * 4096 - 10 && in < 9 * 4096 + 10);

		if (!ours)
			assert_int_equal(buffer[i], 0);
	}
	close_memory(volume, handle);
}

static void
zero_provides_or_unmaps(void **state)
{
	struct volume *volume = open_memory("zero", 64 * MIB);
	struct blk_handle *handle = open_handle(volume);
	struct blk_extent extents[4];
	unsigned n = 4;

	(void)state;
	assert_int_equal(do_io(handle, BLK_ZERO, BLK_FAST_ONLY, 4096, 16 * MIB, NULL), 0);
	assert_int_equal(get_stats(volume)->allocated, 16 * MIB + CHUNK);
	assert_int_equal(do_extents(handle, 0, 0, 64 * MIB, extents, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(extents[0].flags, BLK_ZEROES);
	assert_int_equal(extents[0].length, 16 * MIB + CHUNK);
	assert_int_equal(extents[1].flags, BLK_HOLE | BLK_ZEROES);
	assert_int_equal(
		do_io(handle, BLK_ZERO, BLK_FAST_ONLY | BLK_MAY_UNMAP, 0, 64 * MIB, NULL), 0);
	assert_int_equal(get_stats(volume)->allocated, 0);
	close_memory(volume, handle);
}

static void
extents_tell_pages_apart(void **state)
{
	struct volume *volume = open_memory("extents", PIB);
	struct blk_handle *handle = open_handle(volume);
	struct blk_extent extents[8];
	unsigned n = 8;

	(void)state;
	memset(buffer, 'x', 8192);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, CHUNK + 4096, 8192, buffer), 0);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, PIB - 512, 512, buffer), 0);
	assert_int_equal(do_extents(handle, 0, 0, PIB, extents, &n), 0);
	assert_int_equal(n, 7);
	assert_int_equal(extents[0].length, CHUNK);
	assert_int_equal(extents[1].length, 4096);
	assert_int_equal(extents[1].flags, BLK_ZEROES);
	assert_int_equal(extents[2].length, 8192);
	assert_int_equal(extents[2].flags, 0);
	assert_int_equal(extents[3].length, CHUNK - 3 * 4096);
	assert_int_equal(extents[4].length, PIB - 3 * CHUNK);
	assert_int_equal(extents[4].flags, BLK_HOLE | BLK_ZEROES);
	assert_int_equal(extents[5].length, CHUNK - 4096);
	assert_int_equal(extents[6].length, 4096);
	assert_int_equal(extents[6].flags, 0);
	n = 8;
	assert_int_equal(do_extents(handle, BLK_EXTENT_ONE, 10, PIB - 10, extents, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(extents[0].length, CHUNK - 10);
	close_memory(volume, handle);
}

/* A long request does not keep a short one waiting. */
static void
long_requests_yield(void **state)
{
	struct volume *volume = open_memory("yield", GIB);
	struct blk_handle *handle = open_handle(volume);
	struct io slow, quick;
	uint8_t data[512];
	const enum blk_op ops[] = {BLK_WRITE, BLK_READ, BLK_ZERO, BLK_DISCARD};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		io_submit(
			&slow, handle, ops[i], 0, 512, ops[i] > BLK_WRITE ? GIB / 2 : VIEW, buffer);
		io_submit(&quick, handle, BLK_READ, 0, GIB - 512, 512, data);
		virtual_run_until_idle();
		assert_int_equal(slow.completed, 1);
		assert_int_equal(quick.completed, 1);
		assert_int_equal(slow.blk.rc, 0);
		assert_true(quick.order < slow.order);
	}
	close_memory(volume, handle);
}

static void
cap_is_shared_and_given_back(void **state)
{
	struct volume *a, *b;
	struct blk_handle *ha, *hb;
	uint64_t filled = 0;

	(void)state;
	storage_stop();
	assert_int_equal(storage_start(4 * SLAB + 12345), 0);
	assert_int_equal(storage_memory_cap(), 4 * SLAB + 12345);
	a = open_memory("a", GIB);
	b = open_memory("b", GIB);
	ha = open_handle(a);
	hb = open_handle(b);
	assert_int_equal(do_io(hb, BLK_WRITE, 0, 0, 1, buffer), 0);
	while (do_io(ha, BLK_WRITE, 0, filled, CHUNK, buffer) == 0)
		filled += CHUNK;
	assert_in_range(filled, 3 * SLAB - 4 * CHUNK, 3 * SLAB);
	assert_in_range(storage_memory_used(), 1, storage_memory_cap());
	assert_int_equal(do_io(ha, BLK_WRITE, 0, filled, 1, buffer), -ENOSPC);
	assert_int_equal(do_io(ha, BLK_ZERO, 0, filled, 1, NULL), -ENOSPC);
	assert_int_equal(do_io(ha, BLK_ZERO, BLK_MAY_UNMAP, filled, 1, NULL), 0);
	/* What is there stays usable, and what is not there reads as zeroes. */
	assert_int_equal(do_io(ha, BLK_WRITE, 0, 0, CHUNK, buffer), 0);
	assert_int_equal(do_io(ha, BLK_READ, 0, filled, CHUNK, buffer), 0);
	assert_int_equal(buffer[0], 0);
	/* Failed writes leave no nodes without chunks. */
	assert_int_equal(do_io(ha, BLK_WRITE, 0, GIB - 1, 1, buffer), -ENOSPC);
	assert_int_equal(do_io(ha, BLK_DISCARD, 0, 0, GIB, NULL), 0);
	assert_int_equal(do_io(hb, BLK_WRITE, 0, SLAB, 2 * SLAB, buffer), 0);
	assert_int_equal(do_io(hb, BLK_DISCARD, 0, 0, GIB, NULL), 0);
	assert_int_equal(count_nodes(), 0);
	blk_close(ha);
	blk_close(hb);
	volume_put(a);
	volume_put(b);
	virtual_run_until_idle();
	assert_int_equal(storage_memory_used(), 0);
	storage_stop();
	assert_int_equal(storage_start(0), 0);
	assert_true(storage_memory_cap() > 0);
}

static void
says_what_it_is(void **state)
{
	struct volume *volume = open_memory("info", 64 * MIB);
	struct blk_handle *handle = open_handle(volume);
	struct blk_info info;

	(void)state;
	blk_info(handle, &info);
	assert_int_equal(info.size, 64 * MIB);
	assert_int_equal(info.alignment, 1);
	assert_true(info.sparse && info.fast_zero);
	assert_false(info.volatile_cache || info.buffered || info.read_only);
	assert_true(blk_inline(handle));
	assert_string_equal(get_stats(volume)->detail, "sparse, chunks of 64 KiB");
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(do_io(handle, BLK_PREFETCH, 0, 0, MIB, NULL), 0);
	close_memory(volume, handle);
}

static void
without_size_is_refused(void **state)
{
	struct conf_volume conf = test_conf("m", "memory", NULL, 0);
	struct volume *volume;
	struct error error;

	(void)state;
	assert_int_equal(volume_open(&conf, &volume, &error), -EINVAL);
	assert_string_equal(error.text, "needs a size: m=memory:1G");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_requests_against_a_shadow),
		cmocka_unit_test(petabyte_costs_what_is_written),
		cmocka_unit_test(closing_gives_everything_back),
		cmocka_unit_test(reused_chunks_show_nothing),
		cmocka_unit_test(zero_provides_or_unmaps),
		cmocka_unit_test(extents_tell_pages_apart),
		cmocka_unit_test(long_requests_yield),
		cmocka_unit_test(cap_is_shared_and_given_back),
		cmocka_unit_test(says_what_it_is),
		cmocka_unit_test(without_size_is_refused),
	};
	const char *given = getenv("SLABD_SEED");

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 1 | 1;
	return cmocka_run_group_tests_name("memory", tests, setup_loops, teardown_loops);
}
