/* storage/backends/file.c, on files in a directory of its own. */
#include "config.h"

#include "storage_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[200];
static char path[400];

static const char *
in_dir(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int
try_open(const char *name, uint64_t size, bool read_only, struct volume **volume,
	struct error *error)
{
	struct conf_volume conf = test_conf("web", "file", in_dir(name), size);

	conf.read_only = read_only;
	return volume_open(&conf, volume, error);
}

static struct volume *
open_file(const char *name, uint64_t size)
{
	struct volume *volume;
	struct error error;
	int rc = try_open(name, size, false, &volume, &error);

	if (rc)
		print_message("%s\n", error.text);
	assert_int_equal(rc, 0);
	return volume;
}

static void
close_file(struct volume *volume, struct blk_handle *handle)
{
	blk_close(handle);
	volume_put(volume);
	virtual_run_until_idle();
}

static void
make_file(const char *name, uint64_t size)
{
	int fd = open(in_dir(name), O_RDWR | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static void
expect_refusal(const char *name, uint64_t size, bool read_only, int rc, const char *text)
{
	char expected[512];
	struct volume *volume;
	struct error error;

	assert_int_equal(try_open(name, size, read_only, &volume, &error), rc);
	snprintf(expected, sizeof(expected), "%s%s", path, text);
	assert_string_equal(error.text, expected);
}

static void
opens_that_are_refused(void **state)
{
	struct stat st;

	(void)state;
	expect_refusal("absent", 0, false, -ENOENT,
		": No such file or directory (give size= to create it)");
	expect_refusal("absent", MIB, true, -ENOENT,
		": No such file or directory (read_only: it is not created)");
	expect_refusal("no/such/dir", MIB, false, -ENOENT,
		": cannot create it: No such file or directory");
	assert_int_equal(mkdir(in_dir("adir"), 0700), 0);
	expect_refusal("adir", 0, false, -EINVAL, " is a directory, not a file");
	expect_refusal("adir", MIB, false, -EINVAL, " is a directory, not a file");
	assert_int_equal(mkfifo(in_dir("afifo"), 0600), 0);
	expect_refusal("afifo", 0, false, -EINVAL, " is a FIFO, not a file");
	assert_int_equal(symlink("aloop", in_dir("aloop")), 0);
	expect_refusal("aloop", 0, false, -ELOOP, ": Too many levels of symbolic links");
	make_file("odd", 1000);
	expect_refusal("odd", 0, false, -EINVAL,
		" has 1000 bytes, not a multiple of the block size 512 (the next is 1024)");
	make_file("empty", 0);
	expect_refusal(
		"empty", 0, false, -EINVAL, " is empty (remove it and give size= to create it)");
	make_file("other", MIB);
	expect_refusal("other", 2 * MIB, false, -EINVAL,
		" has 1048576 bytes, but size= says 2097152 (leave it out for a file that exists)");
	/* A file that was not ours to make is not ours to change. */
	assert_int_equal(stat(in_dir("other"), &st), 0);
	assert_int_equal(st.st_size, MIB);
}

static void
devices_are_refused(void **state)
{
	struct conf_volume conf = test_conf("web", "file", "/dev/null", 0);
	struct volume *volume;
	struct error error;

	(void)state;
	assert_int_equal(volume_open(&conf, &volume, &error), -EINVAL);
	assert_string_equal(error.text, "/dev/null is a device, not a file");
	conf.path = NULL;
	assert_int_equal(volume_open(&conf, &volume, &error), -EINVAL);
	assert_string_equal(error.text, "needs a path: web=file:/srv/web.img");
}

/* Creation that cannot be finished leaves nothing. */
static void
failed_creation_leaves_nothing(void **state)
{
	struct rlimit before, small;
	char expected[512];
	struct volume *volume;
	struct error error;
	struct stat st;

	(void)state;
	/* A full file system is not at hand: the process may not make files of that size. */
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = before;
	small.rlim_cur = 64 * KIB;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(try_open("toolong", MIB, false, &volume, &error), -EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	snprintf(expected, sizeof(expected),
		"%s: cannot make it 1048576 bytes long: File too large", path);
	assert_string_equal(error.text, expected);
	assert_int_equal(stat(in_dir("toolong"), &st), -1);
	/* A size that the block layer refuses comes to no driver. */
	assert_int_equal(try_open("odder", 1000, false, &volume, &error), -EINVAL);
	assert_int_equal(stat(in_dir("odder"), &st), -1);
}

static void
second_opener_is_refused(void **state)
{
	struct volume *volume = open_file("locked", MIB), *second;
	struct error error;

	(void)state;
	assert_int_equal(try_open("locked", 0, false, &second, &error), -EBUSY);
	assert_non_null(strstr(error.text, "in use by another volume or process"));
	assert_int_equal(try_open("locked", 0, true, &second, &error), -EBUSY);
	volume_put(volume);
	virtual_run_until_idle();
	/* Readers share it. */
	assert_int_equal(try_open("locked", 0, true, &volume, &error), 0);
	assert_int_equal(try_open("locked", 0, true, &second, &error), 0);
	volume_put(volume);
	volume_put(second);
	virtual_run_until_idle();
}

static void
owner_of_an_old_lock_is_named(void **state)
{
	int ready[2], done[2];
	struct volume *volume;
	struct error error;
	char byte, expected[512];
	pid_t pid;

	(void)state;
	make_file("posix", MIB);
	assert_int_equal(pipe(ready) + pipe(done), 0);
	pid = fork();
	if (pid == 0) {
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		int fd = open(path, O_RDWR);

		if (fcntl(fd, F_SETLK, &lock) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		(void)!read(done[0], &byte, 1);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(try_open("posix", 0, false, &volume, &error), -EBUSY);
	snprintf(expected, sizeof(expected), "%s: in use by process %d", path, (int)pid);
	assert_string_equal(error.text, expected);
	assert_int_equal(write(done[1], "x", 1), 1);
	waitpid(pid, NULL, 0);
	close(ready[0]);
	close(ready[1]);
	close(done[0]);
	close(done[1]);
}

static void
data_is_in_the_file(void **state)
{
	struct volume *volume = open_file("data", 8 * MIB);
	struct blk_handle *handle = open_handle(volume);
	uint8_t *data = malloc(3 * MIB), *again = malloc(3 * MIB);
	struct stat st;
	int fd;

	(void)state;
	for (unsigned i = 0; i < 3 * MIB; i++)
		data[i] = (uint8_t)(i * 7 + i / 4099);
	assert_int_equal(stat(in_dir("data"), &st), 0);
	assert_int_equal(st.st_size, 8 * MIB);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(do_io(handle, BLK_WRITE, BLK_FUA, 12345, 3 * MIB, data), 0);
	/* In one piece, by a worker; and small, perhaps from the page cache. */
	assert_int_equal(do_io(handle, BLK_READ, 0, 12345, 3 * MIB, again), 0);
	assert_memory_equal(again, data, 3 * MIB);
	for (unsigned i = 0; i < 100; i++) {
		memset(again, 0xee, 4096);
		assert_int_equal(do_io(handle, BLK_READ, 0, 12345 + i * 10000, 4096, again), 0);
		assert_memory_equal(again, data + i * 10000, 4096);
	}
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
	close_file(volume, handle);
	fd = open(in_dir("data"), O_RDONLY);
	assert_int_equal(pread(fd, again, 3 * MIB, 12345), 3 * MIB);
	assert_memory_equal(again, data, 3 * MIB);
	close(fd);
	/* It opens again without its size, and with the same. */
	volume_put(open_file("data", 0));
	virtual_run_until_idle();
	volume_put(open_file("data", 8 * MIB));
	virtual_run_until_idle();
	free(data);
	free(again);
}

static void
stays_sparse(void **state)
{
	struct volume *volume = open_file("sparse", GIB);
	struct blk_handle *handle = open_handle(volume);
	uint8_t *data = malloc(MIB);
	struct blk_extent extents[8];
	uint64_t at = 0;
	unsigned n = 8;

	(void)state;
	memset(data, 'x', MIB);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 512 * MIB, MIB, data), 0);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 16 * MIB, MIB, data), 0);
	assert_in_range(get_stats(volume)->allocated, 2 * MIB, 2 * MIB + 256 * KIB);
	assert_int_equal(do_io(handle, BLK_DISCARD, 0, 16 * MIB, MIB, NULL), 0);
	assert_int_equal(do_io(handle, BLK_ZERO, BLK_MAY_UNMAP, 0, 512 * MIB, NULL), 0);
	assert_in_range(get_stats(volume)->allocated, MIB, MIB + 256 * KIB);
	assert_int_equal(do_extents(handle, 0, 4096, GIB - 4096, extents, &n), 0);
	assert_in_range(n, 1, 3);
	for (unsigned i = 0; i < n; i++) {
		bool data_here = !(extents[i].flags & BLK_HOLE);

		assert_true(extents[i].length > 0);
		if (data_here) {
			assert_int_equal(at, 512 * MIB - 4096);
			assert_int_equal(extents[i].length, MIB);
		}
		at += extents[i].length;
	}
	assert_int_equal(at, GIB - 4096);
	assert_int_equal(do_io(handle, BLK_READ, 0, 16 * MIB, MIB, data), 0);
	for (unsigned i = 0; i < MIB; i++)
		assert_int_equal(data[i], 0);
	n = 1;
	assert_int_equal(do_extents(handle, 0, 512 * MIB + 5, 100, extents, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(extents[0].flags, 0);
	assert_int_equal(extents[0].length, 100);
	free(data);
	close_file(volume, handle);
}

/* What ZERO has provided is zeroes with blocks behind them; around it there are none. */
static void
provisioned_zeroes_are_no_hole(void **state)
{
	struct volume *volume = open_file("provisioned", 8 * MIB);
	struct blk_handle *handle = open_handle(volume);
	struct blk_extent extents[8];
	unsigned n = 8;
	uint64_t at = 0;

	(void)state;
	assert_int_equal(do_io(handle, BLK_ZERO, 0, MIB, MIB, NULL), 0);
	assert_int_equal(do_io(handle, BLK_ZERO, 0, 4 * MIB, MIB, NULL), 0);
	assert_int_equal(do_extents(handle, 0, 0, 8 * MIB, extents, &n), 0);
	for (unsigned i = 0; i < n; i++) {
		bool provided = at == MIB || at == 4 * MIB;

		assert_int_equal(!(extents[i].flags & BLK_HOLE), provided);
		if (provided)
			assert_int_equal(extents[i].length, MIB);
		at += extents[i].length;
	}
	assert_int_equal(n, 5);
	assert_int_equal(at, 8 * MIB);
	/* No more than there is room for. */
	n = 2;
	assert_int_equal(do_extents(handle, 0, 512, 8 * MIB - 512, extents, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(extents[0].length, MIB - 512);
	assert_int_equal(extents[1].length, MIB);
	close_file(volume, handle);
}

static unsigned
count_resident(int fd, uint64_t size)
{
	unsigned pages = 0;
	uint8_t byte;
	struct iovec iov = {&byte, 1};

	for (uint64_t at = 0; at < size; at += 4096)
		pages += preadv2(fd, &iov, 1, (off_t)at, RWF_NOWAIT) == 1;
	return pages;
}

/* PREFETCH brings all of a range into the page cache, not only as much as the kernel reads ahead. */
static void
prefetches(void **state)
{
	struct volume *volume = open_file("prefetched", 16 * MIB);
	struct blk_handle *handle = open_handle(volume);
	int fd = open(in_dir("prefetched"), O_RDONLY);
	uint8_t *data = malloc(16 * MIB);
	unsigned left;

	(void)state;
	memset(data, 'x', 16 * MIB);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 16 * MIB, data), 0);
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
	free(data);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	left = count_resident(fd, 16 * MIB);
	if (left < 2048) {
		assert_int_equal(do_io(handle, BLK_PREFETCH, 0, 0, 16 * MIB, NULL), 0);
		/* It reads on its own. */
		for (unsigned i = 0; i < 1000 && count_resident(fd, 16 * MIB) < 4096; i++)
			usleep(10000);
		assert_int_equal(count_resident(fd, 16 * MIB), 4096);
	} else {
		print_message("# the page cache cannot be emptied here: %u pages left\n", left);
	}
	close(fd);
	close_file(volume, handle);
}

static void
zeroes_without_unmapping(void **state)
{
	struct volume *volume = open_file("zeroes", 4 * MIB);
	struct blk_handle *handle = open_handle(volume);
	uint8_t data[8192];

	(void)state;
	memset(data, 'x', sizeof(data));
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 8192, data), 0);
	assert_int_equal(do_io(handle, BLK_ZERO, 0, 100, 5000, NULL), 0);
	assert_int_equal(do_io(handle, BLK_READ, 0, 0, 8192, data), 0);
	for (unsigned i = 0; i < 8192; i++)
		assert_int_equal(data[i], i >= 100 && i < 5100 ? 0 : 'x');
	close_file(volume, handle);
}

/* What was lost is not zeroes, and does not become so by writing behind it. */
static void
truncation_under_us_is_an_error(void **state)
{
	struct volume *volume = open_file("cut", 4 * MIB);
	struct blk_handle *handle = open_handle(volume);
	uint8_t data[4096] = {1};
	struct blk_extent extent;
	struct stat st;
	unsigned one = 1;

	(void)state;
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 3 * MIB, 4096, data), 0);
	assert_int_equal(truncate(in_dir("cut"), MIB), 0);
	assert_int_equal(do_io(handle, BLK_READ, 0, 3 * MIB, 4096, data), -EIO);
	assert_int_equal(do_io(handle, BLK_READ, 0, MIB - 100, 4096, data), -EIO);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 3 * MIB, 4096, data), -EIO);
	assert_int_equal(do_io(handle, BLK_ZERO, 0, 3 * MIB, 4096, NULL), -EIO);
	assert_int_equal(do_extents(handle, 0, 0, 4 * MIB, &extent, &one), -EIO);
	assert_int_equal(stat(in_dir("cut"), &st), 0);
	assert_int_equal(st.st_size, MIB);
	close_file(volume, handle);
}

static void
read_only_serves_what_cannot_be_written(void **state)
{
	struct volume *volume;
	struct blk_handle *handle;
	struct error error;
	uint8_t data[512] = {1};

	(void)state;
	make_file("ro", MIB);
	assert_int_equal(chmod(in_dir("ro"), 0400), 0);
	assert_int_equal(try_open("ro", 0, true, &volume, &error), 0);
	handle = open_handle(volume);
	assert_int_equal(do_io(handle, BLK_READ, 0, 0, 512, data), 0);
	assert_int_equal(do_io(handle, BLK_WRITE, 0, 0, 512, data), -EROFS);
	assert_int_equal(do_io(handle, BLK_FLUSH, 0, 0, 0, NULL), 0);
	close_file(volume, handle);
}

static int
setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s/slabd-test-file-XXXXXX",
		getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(dir))
		return -1;
	return setup_loops(state);
}

static int
teardown(void **state)
{
	static const char *const names[] = {"afifo", "aloop", "odd", "empty", "other", "locked",
		"posix", "data", "sparse", "provisioned", "prefetched", "zeroes", "cut", "ro"};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		unlink(in_dir(names[i]));
	rmdir(in_dir("adir"));
	/* Fails when a test left something behind. */
	return teardown_loops(state) || rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens_that_are_refused),
		cmocka_unit_test(devices_are_refused),
		cmocka_unit_test(failed_creation_leaves_nothing),
		cmocka_unit_test(second_opener_is_refused),
		cmocka_unit_test(owner_of_an_old_lock_is_named),
		cmocka_unit_test(data_is_in_the_file),
		cmocka_unit_test(stays_sparse),
		cmocka_unit_test(provisioned_zeroes_are_no_hole),
		cmocka_unit_test(prefetches),
		cmocka_unit_test(zeroes_without_unmapping),
		cmocka_unit_test(truncation_under_us_is_an_error),
		cmocka_unit_test(read_only_serves_what_cannot_be_written),
	};

	return cmocka_run_group_tests_name("file", tests, setup, teardown);
}
