/*
 * storage/copy.c and the memory backend's part of it (memory_pool.c, memory_chunks.c, memory_image.c):
 * snapshots, saving, loading; and what else a memory volume gives back: limit, zero detection, resizing.
 */
#include "config.h"

#include "storage_test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "slab.h"

#define CHUNK  (64 * KIB)
#define VIEW   (4 * MIB)
#define FAMILY 5 /* a volume and its descendants */

static uint8_t buffer[VIEW];
static char dir[200];
static uint64_t seed;

static uint64_t
next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* What done() said. */
static struct {
	unsigned times;
	struct volume *made;
	int rc;
	char text[512];
} told;

static void
note_done(void *arg, struct volume *made, int rc, const char *text)
{
	assert_ptr_equal(arg, &told);
	assert_ptr_equal(loop_current(), loop_main());
	told.times++;
	told.made = made;
	told.rc = rc;
	snprintf(told.text, sizeof(told.text), "%s", text);
}

/* What is asked of the main thread. */
static int
begin_copy(int (*begin)(struct volume *, const char *, volume_copied *, void *, struct error *),
	struct volume *volume, const char *what)
{
	struct loop *before = virtual_as(loop_main());
	struct error error = {.text = ""};
	int rc;

	memset(&told, 0, sizeof(told));
	rc = begin(volume, what, note_done, &told, &error);
	virtual_as(before);
	assert_true(!rc == !error.text[0]);
	return rc;
}

static int
do_copy(int (*begin)(struct volume *, const char *, volume_copied *, void *, struct error *),
	struct volume *volume, const char *what)
{
	assert_int_equal(begin_copy(begin, volume, what), 0);
	assert_int_equal(told.times, 0);
	virtual_run_until_idle();
	assert_int_equal(told.times, 1);
	return told.rc;
}

static struct volume *
open_memory(const struct conf_volume *given)
{
	struct conf_volume conf = test_conf("memory", "memory", NULL, given->size);
	struct volume *volume;
	struct error error;
	int rc;

	conf.limit = given->limit;
	conf.zero_detect = given->zero_detect;
	conf.populate = given->populate;
	conf.hugepages = given->hugepages;
	conf.load = given->load;
	conf.save = given->save;
	rc = volume_open(&conf, &volume, &error);
	if (rc)
		print_message("%s\n", error.text);
	assert_int_equal(rc, 0);
	return volume;
}

static void
close_volume(struct volume *volume, struct blk_handle *handle)
{
	if (handle)
		blk_close(handle);
	volume_put(volume);
	virtual_run_until_idle();
}

static void
expect_nothing_left(void)
{
	assert_int_equal(storage_memory_used(), 0);
}

static const char *
in_dir(const char *name)
{
	static char paths[4][256];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
	return path;
}

static void
expect_filled(struct blk_handle *handle, uint64_t offset, uint64_t length, uint8_t value)
{
	memset(buffer, 0x55, length);
	assert_int_equal(do_io(handle, BLK_READ, 0, offset, length, buffer), 0);
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(buffer[i], value);
}

static void
fill(struct blk_handle *handle, uint64_t offset, uint64_t length, uint8_t value)
{
	memset(buffer, value, length);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, offset, length, buffer), 0);
}

static uint64_t chunks_active;

static void
count_chunks(const struct slab_stats *stats, void *arg)
{
	(void)arg;
	if (strncmp(stats->name, "chunk_", 6) == 0)
		chunks_active += stats->active;
}

static uint64_t
active_chunks(void)
{
	chunks_active = 0;
	slab_for_each(count_chunks, NULL);
	return chunks_active;
}

static void
snapshot_keeps_what_was(void **state)
{
	struct volume *volume = open_memory(&(struct conf_volume){.size = PIB});
	struct blk_handle *handle = open_handle(volume), *old;
	struct volume *snapshot;
	struct blk_info info, old_info;

	(void)state;
	fill(handle, 0, MIB, 1);
	fill(handle, PIB / 2, CHUNK, 2);
	assert_int_equal(do_copy(volume_snapshot, volume, "before"), 0);
	snapshot = told.made;
	assert_string_equal(volume_name(snapshot), "before");
	assert_int_equal(active_chunks(), 17); /* nothing was copied */
	old = open_handle(snapshot);
	blk_info(handle, &info);
	blk_info(old, &old_info);
	assert_int_equal(old_info.size, PIB);
	assert_memory_not_equal(info.uuid, old_info.uuid, 16); /* another disk */
	assert_true(blk_inline(old));

	fill(handle, 4096, 4096, 9);
	assert_int_equal(active_chunks(), 18); /* what changes is paid for */
	expect_filled(handle, 0, 4096, 1);
	expect_filled(handle, 4096, 4096, 9);
	expect_filled(handle, 8192, MIB - 8192, 1);
	expect_filled(old, 0, MIB, 1);

	/* Writable too, and both ways apart. */
	fill(old, PIB / 2 + 100, 50, 7);
	expect_filled(handle, PIB / 2, CHUNK, 2);
	expect_filled(old, PIB / 2 + 100, 50, 7);
	expect_filled(old, PIB / 2 + 150, CHUNK - 150, 2);
	assert_int_equal(active_chunks(), 19);

	/* A discard takes it from one of them only. */
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 0, PIB, NULL), 0);
	expect_filled(handle, 0, MIB, 0);
	expect_filled(old, 0, MIB, 1);
	assert_int_equal(active_chunks(), 17);
	close_volume(volume, handle);
	expect_filled(old, 0, MIB, 1);
	close_volume(snapshot, old);
	expect_nothing_left();
}

static void
parts_of_pages_are_cleared_apart(void **state)
{
	struct volume *volume = open_memory(&(struct conf_volume){.size = MIB});
	struct blk_handle *handle = open_handle(volume), *old;
	struct volume *snapshot;

	(void)state;
	fill(handle, 0, CHUNK, 3);
	assert_int_equal(do_copy(volume_snapshot, volume, "before"), 0);
	snapshot = told.made;
	old = open_handle(snapshot);
	assert_int_equal(do_io(handle, BLK_ZERO, BLK_MAY_UNMAP, 100, 200, NULL), 0);
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 5000, 100, NULL), 0);
	assert_int_equal(do_io(handle, BLK_ZERO, 0, 9000, 100, NULL), 0);
	expect_filled(handle, 100, 200, 0);
	expect_filled(handle, 9000, 100, 0);
	expect_filled(handle, 300, 4000, 3);
	expect_filled(old, 0, CHUNK, 3);
	memset(buffer, 3, 512);
	memset(buffer + 512, 4, 512);
	assert_int_equal(do_io(old, BLK_COMPARE_WRITE, 0, 0, 512, buffer), 0);
	expect_filled(old, 0, 512, 4);
	expect_filled(handle, 0, 100, 3);
	close_volume(snapshot, old);
	close_volume(volume, handle);
	expect_nothing_left();
}

/* Snapshots of snapshots, each with its own shadow; a member may leave at any time. */
static void
family_against_shadows(void **state)
{
	struct volume *volumes[FAMILY] = {NULL};
	struct blk_handle *handles[FAMILY] = {NULL};
	uint8_t *shadows[FAMILY];
	char name[16];

	(void)state;
	seed = (uint64_t)time(NULL);
	if (getenv("SLABD_SEED"))
		seed = strtoull(getenv("SLABD_SEED"), NULL, 0);
	print_message("# seed %llu\n", (unsigned long long)seed);
	seed |= 1;
	for (unsigned i = 0; i < FAMILY; i++)
		shadows[i] = calloc(1, VIEW);
	volumes[0] = open_memory(&(struct conf_volume){.size = VIEW, .zero_detect = true});
	handles[0] = open_handle(volumes[0]);
	for (unsigned step = 0; step < 4000; step++) {
		unsigned who = (unsigned)(next_random() % FAMILY), from = who;
		uint64_t length = 1 + next_random() % (next_random() % 4 ? 20000 : 300000);
		uint64_t offset = next_random() % (VIEW - length);

		if (!volumes[who]) {
			while (!volumes[from])
				from = (from + 1) % FAMILY;
			snprintf(name, sizeof(name), "s%u", step);
			assert_int_equal(do_copy(volume_snapshot, volumes[from], name), 0);
			volumes[who] = told.made;
			handles[who] = open_handle(told.made);
			memcpy(shadows[who], shadows[from], VIEW);
			continue;
		}
		switch (next_random() % 24) {
		case 0:
			for (from = (who + 1) % FAMILY; !volumes[from]; from = (from + 1) % FAMILY)
				;
			if (from == who)
				break; /* the last one stays */
			close_volume(volumes[who], handles[who]);
			volumes[who] = NULL;
			break;
		case 1 ... 4:
			assert_int_equal(
				do_io(handles[who], BLK_ZERO, next_random() % 2 ? BLK_MAY_UNMAP : 0,
					offset, length, NULL),
				0);
			memset(shadows[who] + offset, 0, length);
			break;
		case 5 ... 14:
			memset(buffer, (int)(next_random() % 3), length);
			if (next_random() % 2)
				for (uint64_t i = 0; i < length; i += 1 + next_random() % 9000)
					buffer[i] = (uint8_t)next_random();
			memcpy(shadows[who] + offset, buffer, length);
			assert_int_equal(
				do_io(handles[who], BLK_WRITE, 0, offset, length, buffer), 0);
			break;
		default:
			assert_int_equal(
				do_io(handles[who], BLK_READ, 0, offset, length, buffer), 0);
			assert_memory_equal(buffer, shadows[who] + offset, length);
		}
	}
	for (unsigned i = 0; i < FAMILY; i++) {
		if (volumes[i]) {
			assert_int_equal(do_io(handles[i], BLK_READ, 0, 0, VIEW, buffer), 0);
			assert_memory_equal(buffer, shadows[i], VIEW);
			close_volume(volumes[i], handles[i]);
		}
		free(shadows[i]);
	}
	expect_nothing_left();
}

/* Writes that are in flight when it is asked for are in it, later ones wait for it. */
static void
snapshot_lies_between_writes(void **state)
{
	struct volume *volume = open_memory(&(struct conf_volume){.size = 64 * MIB});
	struct blk_handle *handle = open_handle(volume), *old;
	static uint8_t first[8 * MIB], second[8 * MIB];
	struct io before, after;
	struct volume *snapshot;

	(void)state;
	memset(first, 1, sizeof(first));
	memset(second, 2, sizeof(second));
	/* So long that it yields. */
	io_submit(&before, handle, BLK_WRITE, 0, 0, sizeof(first), first);
	assert_int_equal(begin_copy(volume_snapshot, volume, "s"), 0);
	work_inline_hold(true);
	virtual_run_until_idle();
	assert_true(before.completed);
	io_submit(&after, handle, BLK_WRITE, 0, 0, sizeof(second), second);
	virtual_run_until_idle();
	assert_false(after.completed);
	expect_filled(handle, 0, MIB, 1); /* reads need not wait */
	work_inline_hold(false);
	virtual_run_until_idle();
	assert_true(after.completed);
	assert_int_equal(told.rc, 0);
	snapshot = told.made;
	old = open_handle(snapshot);
	for (uint64_t at = 0; at < sizeof(first); at += MIB) {
		expect_filled(old, at, MIB, 1);
		expect_filled(handle, at, MIB, 2);
	}
	close_volume(snapshot, old);
	close_volume(volume, handle);
	expect_nothing_left();
}

static void
names_and_backends_are_checked(void **state)
{
	struct volume *volume = open_memory(&(struct conf_volume){.size = MIB}), *null;
	struct conf_volume conf = test_conf("nil", "null", NULL, MIB);
	struct error error;

	(void)state;
	assert_int_equal(begin_copy(volume_snapshot, volume, "Bad Name"), -EINVAL);
	assert_int_equal(volume_open(&conf, &null, &error), 0);
	assert_int_equal(begin_copy(volume_snapshot, null, "s"), -ENOTSUP);
	assert_int_equal(begin_copy(volume_save, null, "x"), -ENOTSUP);
	/* One change at a time. */
	assert_int_equal(begin_copy(volume_snapshot, volume, "s"), 0);
	assert_int_equal(begin_copy(volume_snapshot, volume, "t"), -EBUSY);
	memset(&told, 0, sizeof(told));
	virtual_run_until_idle();
	assert_int_equal(told.times, 1);
	close_volume(told.made, NULL);
	volume_set_going(volume);
	assert_int_equal(begin_copy(volume_snapshot, volume, "s"), -EBUSY);
	close_volume(volume, NULL);
	close_volume(null, NULL);
	expect_nothing_left();
}

/* A clone needs a place for its counters, a write a chunk of its own: no room is -ENOSPC, nothing lost. */
static void
no_room_for_what_changes(void **state)
{
	struct volume *volume, *snapshot;
	struct blk_handle *handle, *old;

	(void)state;
	storage_stop();
	assert_int_equal(storage_start(2 * MIB), 0);
	volume = open_memory(&(struct conf_volume){.size = 4 * MIB});
	handle = open_handle(volume);
	fill(handle, 0, 2 * MIB, 1);
	assert_int_equal(do_copy(volume_snapshot, volume, "s"), 0);
	snapshot = told.made;
	old = open_handle(snapshot);
	memset(buffer, 2, 4096);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 4096, buffer), -ENOSPC);
	assert_int_equal(do_io(handle, BLK_ZERO, BLK_MAY_UNMAP, 100, 100, NULL), -ENOSPC);
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 100, 100, NULL), 0);
	expect_filled(handle, 0, 2 * MIB, 1);
	expect_filled(old, 0, 2 * MIB, 1);
	close_volume(snapshot, old);
	fill(handle, 0, 4096, 2); /* alone again */
	close_volume(volume, handle);
	expect_nothing_left();
	storage_stop();
	assert_int_equal(storage_start(0), 0);
}

static void
limit_is_kept_and_given_back(void **state)
{
	struct volume *volume =
		open_memory(&(struct conf_volume){.size = 100 * GIB, .limit = MIB + 1000});
	struct blk_handle *handle = open_handle(volume);
	struct blk_info info;

	(void)state;
	blk_info(handle, &info);
	assert_int_equal(info.limit, MIB);
	assert_int_equal(get_stats(volume)->limit, MIB);
	for (unsigned i = 0; i < 16; i++)
		fill(handle, i * GIB, 512, 1);
	assert_int_equal(blk_allocated(handle), MIB);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 50 * GIB, 512, buffer), -ENOSPC);
	assert_int_equal(do_io(handle, BLK_ZERO, 0, 50 * GIB, 512, NULL), -ENOSPC);
	assert_int_equal(do_io(handle, BLK_ZERO, BLK_MAY_UNMAP, 50 * GIB, GIB, NULL), 0);
	fill(handle, 3 * GIB, CHUNK, 2); /* where there is a chunk there is room */
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 5 * GIB, CHUNK, NULL), 0);
	fill(handle, 50 * GIB, 512, 3);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 51 * GIB, 512, buffer), -ENOSPC);
	expect_filled(handle, 50 * GIB, 512, 3);
	close_volume(volume, handle);
	expect_nothing_left();
}

static void
zeroes_written_are_holes(void **state)
{
	struct volume *volume =
		open_memory(&(struct conf_volume){.size = MIB, .zero_detect = true});
	struct blk_handle *handle = open_handle(volume);
	struct blk_extent extents[8];
	unsigned n = ARRAY_SIZE(extents);

	(void)state;
	fill(handle, 0, MIB, 0);
	assert_int_equal(blk_allocated(handle), 0);
	fill(handle, 0, CHUNK, 1);
	fill(handle, 4096, 8192, 0);
	expect_filled(handle, 0, 4096, 1);
	expect_filled(handle, 4096, 8192, 0);
	expect_filled(handle, 12288, 4096, 1);
	assert_int_equal(do_extents(handle, 0, 0, CHUNK, extents, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(extents[1].length, 8192);
	assert_int_equal(extents[1].flags, BLK_ZEROES);
	/* Parts of pages stay, and a whole chunk goes. */
	fill(handle, 100, 300, 0);
	assert_int_equal(blk_allocated(handle), CHUNK);
	expect_filled(handle, 400, 3696, 1);
	fill(handle, 0, CHUNK, 0);
	assert_int_equal(blk_allocated(handle), 0);
	close_volume(volume, handle);

	volume = open_memory(&(struct conf_volume){.size = MIB});
	handle = open_handle(volume);
	fill(handle, 0, MIB, 0);
	assert_int_equal(blk_allocated(handle), MIB);
	close_volume(volume, handle);
}

static void
populate_takes_everything(void **state)
{
	struct volume *volume = open_memory(
		&(struct conf_volume){.size = 4 * MIB, .populate = true, .hugepages = true});
	struct blk_handle *handle = open_handle(volume);
	struct conf_volume conf = test_conf("greedy", "memory", NULL, MIB);
	struct error error;
	struct volume *none;

	(void)state;
	assert_int_equal(blk_allocated(handle), 4 * MIB);
	expect_filled(handle, 0, 4 * MIB, 0);
	close_volume(volume, handle);
	expect_nothing_left();
	conf.populate = true;
	conf.limit = MIB / 2;
	assert_int_equal(volume_open(&conf, &none, &error), -EINVAL);
	conf.limit = 4096;
	conf.populate = false;
	assert_int_equal(volume_open(&conf, &none, &error), -EINVAL);
	conf.limit = 0;
	conf.populate = true;
	conf.size = PIB;
	assert_int_equal(volume_open(&conf, &none, &error), -ENOMEM);
	expect_nothing_left();
}

static uint64_t
blocks_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void
saved_and_loaded_again(void **state)
{
	struct volume *volume = open_memory(&(struct conf_volume){.size = 8 * GIB + 512});
	struct blk_handle *handle = open_handle(volume);
	char *path = strdup(in_dir("image"));
	struct stat st;

	(void)state;
	fill(handle, 0, 512, 1);
	fill(handle, 3 * GIB + 5 * CHUNK - 1000, 3 * CHUNK, 2);
	fill(handle, 8 * GIB, 512, 3);
	assert_int_equal(do_copy(volume_save, volume, path), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 8 * GIB + 512);
	assert_true(blocks_of(path) < MIB);
	/* Replaced by what comes later. */
	fill(handle, MIB, 512, 4);
	assert_int_equal(do_copy(volume_save, volume, path), 0);
	close_volume(volume, handle);
	expect_nothing_left();

	/* At the start, into a larger one; and what is written since does not last. */
	volume = open_memory(&(struct conf_volume){.size = 16 * GIB, .load = path});
	handle = open_handle(volume);
	expect_filled(handle, 0, 512, 1);
	expect_filled(handle, MIB, 512, 4);
	expect_filled(handle, 3 * GIB + 5 * CHUNK - 1000, 3 * CHUNK, 2);
	expect_filled(handle, 8 * GIB, 512, 3);
	expect_filled(handle, 8 * GIB + 512, MIB, 0);
	assert_true(blk_allocated(handle) <= 7 * CHUNK);
	fill(handle, 0, MIB, 9);
	fill(handle, 12 * GIB, 4096, 9);
	assert_int_equal(do_copy(volume_load, volume, path), 0);
	expect_filled(handle, 0, 512, 1);
	expect_filled(handle, 512, 4096, 0);
	expect_filled(handle, 12 * GIB, 4096, 0);
	assert_true(blk_allocated(handle) <= 7 * CHUNK);
	close_volume(volume, handle);
	expect_nothing_left();
	unlink(path);
	free(path);
}

static void
saved_at_the_end(void **state)
{
	char *path = strdup(in_dir("kept"));
	struct volume *volume =
		open_memory(&(struct conf_volume){.size = MIB, .load = path, .save = path});
	struct blk_handle *handle = open_handle(volume);

	(void)state;
	fill(handle, 4096, 4096, 7);
	close_volume(volume, handle);
	volume = open_memory(&(struct conf_volume){.size = MIB, .load = path, .save = path});
	handle = open_handle(volume);
	expect_filled(handle, 0, 4096, 0);
	expect_filled(handle, 4096, 4096, 7);
	/* A snapshot is not what is to be saved. */
	assert_int_equal(do_copy(volume_snapshot, volume, "s"), 0);
	close_volume(volume, handle);
	unlink(path);
	close_volume(told.made, NULL);
	assert_int_not_equal(access(path, F_OK), 0);
	expect_nothing_left();
	free(path);
}

static void
bad_files_change_nothing(void **state)
{
	struct volume *volume = open_memory(&(struct conf_volume){.size = MIB});
	struct blk_handle *handle = open_handle(volume);
	struct conf_volume conf = test_conf("other", "memory", NULL, MIB);
	char missing[256], large[256], fifo[256];
	struct error error;
	struct volume *none;
	int fd;

	(void)state;
	strcpy(missing, in_dir("missing"));
	strcpy(large, in_dir("large"));
	strcpy(fifo, in_dir("fifo"));
	fd = open(large, O_CREAT | O_RDWR, 0600);
	assert_true(fd >= 0 && ftruncate(fd, MIB + 1) == 0);
	close(fd);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	fill(handle, 0, CHUNK, 5);
	assert_int_equal(do_copy(volume_load, volume, missing), -ENOENT);
	assert_non_null(strstr(told.text, missing));
	assert_int_equal(do_copy(volume_load, volume, large), -EFBIG);
	assert_int_equal(do_copy(volume_load, volume, fifo), -EINVAL);
	assert_int_equal(do_copy(volume_load, volume, dir), -EINVAL);
	assert_int_equal(do_copy(volume_save, volume, fifo), -EINVAL);
	assert_int_equal(do_copy(volume_save, volume, dir), -EINVAL);
	assert_int_equal(do_copy(volume_save, volume, in_dir("no/such/file")), -ENOENT);
	expect_filled(handle, 0, CHUNK, 5);
	conf.load = missing;
	assert_int_equal(volume_open(&conf, &none, &error), -ENOENT);
	conf.load = large;
	assert_int_equal(volume_open(&conf, &none, &error), -EFBIG);
	close_volume(volume, handle);
	expect_nothing_left();
	unlink(large);
	unlink(fifo);
}

/* A file of data that is more than the limit lets in. */
static void
note_sealed(void *arg, int rc)
{
	*(int *)arg = rc;
}

/* A volume that is sanitized while a file is being read, or while a snapshot waits for its turn: what was
 * erased stays erased, and is not kept elsewhere. */
static void
sealed_meanwhile(void **state)
{
	int (*const begin[])(struct volume *, const char *, volume_copied *, void *,
		struct error *) = {volume_load, volume_save, volume_snapshot};
	char *path = strdup(in_dir("late"));
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	(void)state;
	assert_int_equal(pwrite(fd, "late", 4, 0), 4);
	close(fd);
	for (unsigned i = 0; i < ARRAY_SIZE(begin); i++) {
		struct volume *volume = open_memory(&(struct conf_volume){.size = MIB});
		struct blk_handle *handle = open_handle(volume);
		int sealed = 1;

		fill(handle, 0, CHUNK, 5);
		work_inline_hold(true);
		/* The load has its file to read first; the others come to the freeze after the seal. */
		if (begin[i] == volume_load)
			assert_int_equal(begin_copy(begin[i], volume, path), 0);
		assert_int_equal(blk_seal(handle, NULL, note_sealed, &sealed), 0);
		if (begin[i] != volume_load)
			assert_int_equal(begin_copy(begin[i], volume,
						 begin[i] == volume_save ? path : "clone"),
				0);
		virtual_run_until_idle();
		assert_int_equal(sealed, 0);
		work_inline_hold(false);
		virtual_run_until_idle();
		assert_int_equal(told.times, 1);
		assert_int_equal(told.rc, -EBUSY);
		assert_string_equal(told.text,
			"volume memory was sealed meanwhile: it is being sanitized, or that failed");
		expect_filled(handle, 0, CHUNK, 5);
		blk_unseal(handle);
		close_volume(volume, handle);
		expect_nothing_left();
	}
	unlink(path);
	free(path);
}

/* In place of libc's, for the loader: a file that grows after its size was looked at. */
static uint64_t grows_at;

off_t
lseek(int fd, off_t offset, int whence)
{
	if (whence == SEEK_DATA && grows_at) {
		char path[64];
		int same;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		same = open(path, O_WRONLY | O_CLOEXEC);
		assert_true(same >= 0);
		assert_int_equal(pwrite(same, "grown", 5, (off_t)grows_at), 5);
		close(same);
		grows_at = 0;
	}
	return syscall(SYS_lseek, fd, offset, whence);
}

/* What comes behind the end of a file that is being loaded is nowhere in the volume, not even behind its
 * own end, where it would appear when the volume grows. */
static void
file_that_grows_while_it_is_loaded(void **state)
{
	/* In the last chunk; where another leaf of the same stripe would be. */
	static const uint64_t places[] = {MIB + 8192, 256 * MIB};
	char *path = strdup(in_dir("growing"));

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		struct volume *volume = open_memory(&(struct conf_volume){.size = MIB + 512});
		struct blk_handle *handle = open_handle(volume);
		int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, MIB + 512), 0);
		close(fd);
		grows_at = places[i];
		assert_int_equal(do_copy(volume_load, volume, path), 0);
		assert_int_equal(grows_at, 0);
		assert_int_equal(blk_allocated(handle), 0);
		expect_filled(handle, 0, MIB + 512, 0);
		close_volume(volume, handle);
	}
	expect_nothing_left();
	unlink(path);
	free(path);
}

static void
load_beyond_the_limit(void **state)
{
	struct volume *volume = open_memory(&(struct conf_volume){.size = MIB});
	struct blk_handle *handle = open_handle(volume);
	char *path = strdup(in_dir("full"));

	(void)state;
	fill(handle, 0, MIB, 5);
	assert_int_equal(do_copy(volume_save, volume, path), 0);
	close_volume(volume, handle);
	volume = open_memory(&(struct conf_volume){.size = MIB, .limit = MIB / 2});
	handle = open_handle(volume);
	fill(handle, 0, CHUNK, 6);
	assert_int_equal(do_copy(volume_load, volume, path), -ENOSPC);
	expect_filled(handle, 0, CHUNK, 6);
	close_volume(volume, handle);
	expect_nothing_left();
	unlink(path);
	free(path);
}

static void
note_resized(void *arg, int rc, const char *text)
{
	(void)text;
	*(int *)arg = rc;
}

static int
resize(struct volume *volume, uint64_t size)
{
	struct loop *before = virtual_as(loop_main());
	struct error error;
	int rc = 1;

	assert_int_equal(volume_resize(volume, size, true, note_resized, &rc, &error), 0);
	virtual_as(before);
	virtual_advance(20 * MS_NS);
	return rc;
}

static void
grows_and_shrinks(void **state)
{
	struct volume *volume = open_memory(&(struct conf_volume){.size = MIB + 512});
	struct blk_handle *handle = open_handle(volume);
	uint64_t sizes[] = {MIB + 512, 300 * MIB, GIB, TIB, PIB, LIMIT_VOLUME_SIZE};

	(void)state;
	fill(handle, 0, MIB + 512, 1);
	for (unsigned i = 1; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(resize(volume, sizes[i]), 0);
		assert_int_equal(get_stats(volume)->size, sizes[i]);
		expect_filled(handle, sizes[i - 1], CHUNK, 0);
		fill(handle, sizes[i] - 4096, 4096, (uint8_t)(i + 1));
		expect_filled(handle, 0, MIB, 1);
	}
	for (unsigned i = 1; i < ARRAY_SIZE(sizes) - 1; i++)
		expect_filled(handle, sizes[i] - 4096, 4096, (uint8_t)(i + 1));
	/* What is cut off is gone, to the byte, and not seen again. */
	assert_int_equal(resize(volume, CHUNK + 1024), 0);
	assert_int_equal(blk_allocated(handle), 2 * CHUNK);
	assert_int_equal(resize(volume, GIB), 0);
	expect_filled(handle, 0, CHUNK + 1024, 1);
	expect_filled(handle, CHUNK + 1024, MIB, 0);
	expect_filled(handle, GIB - 4096, 4096, 0);
	close_volume(volume, handle);
	expect_nothing_left();
}

static int
setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s/slabd-test-copy-XXXXXX",
		getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	return mkdtemp(dir) ? setup_loops(state) : -1;
}

static int
teardown(void **state)
{
	return teardown_loops(state) || rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(snapshot_keeps_what_was),
		cmocka_unit_test(parts_of_pages_are_cleared_apart),
		cmocka_unit_test(family_against_shadows),
		cmocka_unit_test(snapshot_lies_between_writes),
		cmocka_unit_test(names_and_backends_are_checked),
		cmocka_unit_test(no_room_for_what_changes),
		cmocka_unit_test(limit_is_kept_and_given_back),
		cmocka_unit_test(zeroes_written_are_holes),
		cmocka_unit_test(populate_takes_everything),
		cmocka_unit_test(saved_and_loaded_again),
		cmocka_unit_test(saved_at_the_end),
		cmocka_unit_test(bad_files_change_nothing),
		cmocka_unit_test(file_that_grows_while_it_is_loaded),
		cmocka_unit_test(sealed_meanwhile),
		cmocka_unit_test(load_beyond_the_limit),
		cmocka_unit_test(grows_and_shrinks),
	};

	return cmocka_run_group_tests_name("copy", tests, setup, teardown);
}
