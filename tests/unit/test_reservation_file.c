/*
 * storage/reservation_file.c: the n-th call of the file system fails, or the power goes at it, for
 * n = 1, 2, 3 … until saving no longer gets that far. What was not synced is lost with the power.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "reservation.h"
#include "../../storage/storage.h"

/* The file system */

static unsigned calls, fail_at; /* 0: never */
static bool power_cut;          /* at fail_at: nothing happens any more */
static int fresh_fd, directory_fd;
static bool data_synced, renamed, name_synced;

int __real_openat(int dir, const char *path, int flags, mode_t mode);
int __real_open(const char *path, int flags, ...);
ssize_t __real_write(int fd, const void *data, size_t length);
int __real_fsync(int fd);
int __real_close(int fd);
int __real_renameat(int from, const char *old, int to, const char *new);
int __real_unlinkat(int dir, const char *path, int flags);
int __real_mkdir(const char *path, mode_t mode);
int __wrap_openat(int dir, const char *path, int flags, mode_t mode);
int __wrap_open(const char *path, int flags, ...);
ssize_t __wrap_write(int fd, const void *data, size_t length);
int __wrap_fsync(int fd);
int __wrap_close(int fd);
int __wrap_renameat(int from, const char *old, int to, const char *new);
int __wrap_unlinkat(int dir, const char *path, int flags);
int __wrap_mkdir(const char *path, mode_t mode);

static bool
fails(void)
{
	if (fail_at == 0)
		return false;
	calls++;
	if (power_cut ? calls < fail_at : calls != fail_at)
		return false;
	errno = EIO;
	return true;
}

int
__wrap_openat(int dir, const char *path, int flags, mode_t mode)
{
	if (fails())
		return -1;
	fresh_fd = __real_openat(dir, path, flags, mode);
	return fresh_fd;
}

int
__wrap_open(const char *path, int flags, ...)
{
	if (!(flags & O_DIRECTORY))
		return __real_open(path, flags, 0600);
	if (fails())
		return -1;
	directory_fd = __real_open(path, flags, 0);
	return directory_fd;
}

/* Half of it, then nothing: what a full disk does. */
ssize_t
__wrap_write(int fd, const void *data, size_t length)
{
	if (fd != fresh_fd || fail_at == 0)
		return __real_write(fd, data, length);
	if (fails())
		return -1;
	return __real_write(fd, data, (length + 1) / 2);
}

int
__wrap_fsync(int fd)
{
	if (fails())
		return -1;
	if (fd == fresh_fd)
		data_synced = true;
	else if (fd == directory_fd)
		name_synced = renamed;
	return __real_fsync(fd);
}

int
__wrap_close(int fd)
{
	int rc = __real_close(fd);

	return fd == fresh_fd && fails() ? -1 : rc;
}

int
__wrap_renameat(int from, const char *old, int to, const char *new)
{
	if (fails())
		return -1;
	renamed = true;
	return __real_renameat(from, old, to, new);
}

int
__wrap_unlinkat(int dir, const char *path, int flags)
{
	if (fails())
		return -1;
	renamed = true; /* a name was changed, too */
	return __real_unlinkat(dir, path, flags);
}

int
__wrap_mkdir(const char *path, mode_t mode)
{
	return fails() ? -1 : __real_mkdir(path, mode);
}

/* Reservations */

static char base[] = "/tmp/slabd-test.XXXXXX";
static char directory[64], file[96], kept[96], fresh[96];

static struct reservation *
make(unsigned count, enum reservation_type type)
{
	struct reservation *r =
		calloc(1, sizeof(*r) + LIMIT_RESERVATIONS * sizeof(r->registrations[0]));

	assert_non_null(r);
	r->survives = true;
	r->count = count;
	r->type = type;
	r->holder = count - 1;
	for (unsigned i = 0; i < count; i++) {
		struct registration *g = &r->registrations[i];

		g->key = UINT64_MAX - i;
		g->all_ports = i % 2;
		g->port_id = (uint16_t)(i + 1);
		snprintf(g->initiator, sizeof(g->initiator), "iqn.test:%u,i,0x%012x", i, i);
		snprintf(g->port, sizeof(g->port), "iqn.target,t,0x%04x", i);
	}
	return r;
}

static bool
equal(const struct reservation *a, const struct reservation *b)
{
	return a->type == b->type && a->count == b->count && a->holder == b->holder &&
	       memcmp(a->registrations, b->registrations, a->count * sizeof(a->registrations[0])) ==
		       0;
}

static struct reservation *
load(int *rc)
{
	struct reservation *r = make(1, RESERVATION_NONE);
	struct error error;

	memset(r, 0, sizeof(*r) + LIMIT_RESERVATIONS * sizeof(r->registrations[0]));
	*rc = reservation_load("disk0", r, &error);
	return r;
}

static void
assert_saved(const struct reservation *expected)
{
	int rc;
	struct reservation *r = load(&rc);

	assert_int_equal(rc, 1);
	assert_true(equal(r, expected));
	free(r);
}

static int
setup(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(base));
	snprintf(directory, sizeof(directory), "%s/state", base);
	snprintf(file, sizeof(file), "%s/disk0.reservations", directory);
	snprintf(fresh, sizeof(fresh), "%s/disk0.reservations.new", directory);
	snprintf(kept, sizeof(kept), "%s/kept", base);
	assert_int_equal(reservation_directory(directory), 0);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	fail_at = 0;
	unlink(file);
	unlink(fresh);
	unlink(kept);
	rmdir(directory);
	return rmdir(base);
}

static void
test_saves_and_loads(void **state)
{
	struct reservation *most = make(LIMIT_RESERVATIONS, RESERVATION_EXCLUSIVE_ACCESS_RO);
	struct reservation *none = make(1, RESERVATION_NONE);
	struct error error;
	int rc;

	(void)state;
	free(load(&rc));
	assert_int_equal(rc, 0); /* neither file nor directory */
	assert_int_equal(reservation_save("disk0", most, &error), 0);
	assert_saved(most);
	assert_int_equal(reservation_save("disk0", none, &error), 0);
	assert_saved(none);
	none->survives = false;
	assert_int_equal(reservation_save("disk0", none, &error), 0);
	free(load(&rc));
	assert_int_equal(rc, 0);
	free(most);
	free(none);
}

/* Every byte of the file matters. */
static void
test_damage_is_refused(void **state)
{
	struct reservation *r = make(3, RESERVATION_WRITE_EXCLUSIVE_AR);
	struct error error;
	struct stat st;
	int fd, rc;
	char byte;

	(void)state;
	assert_int_equal(reservation_save("disk0", r, &error), 0);
	assert_int_equal(stat(file, &st), 0);
	fd = __real_open(file, O_RDWR);
	for (off_t at = 0; at < st.st_size; at++) {
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		free(load(&rc));
		assert_int_equal(rc, -EINVAL);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	assert_saved(r);
	for (off_t length = 0; length < st.st_size; length++) {
		assert_int_equal(ftruncate(fd, st.st_size - 1 - length), 0);
		free(load(&rc));
		assert_int_equal(rc, -EINVAL);
	}
	close(fd);
	unlink(file);
	free(r);
}

/* What the disk holds after the power came back; `undo`: a name that was not synced is the old
 * one. */
static void
lose_what_was_not_synced(bool undo)
{
	if (!data_synced && truncate(renamed ? file : fresh, 0) < 0)
		assert_int_equal(errno, ENOENT);
	if (renamed && !name_synced && undo)
		assert_int_equal(rename(kept, file), 0);
}

static void
keep_copy(void)
{
	unlink(kept);
	assert_int_equal(link(file, kept), 0);
}

/* What a load finds after a step of saving `new` over `old` failed with rc. */
static void
assert_one_of(int rc, const struct reservation *old, const struct reservation *new)
{
	int loaded;
	struct reservation *found = load(&loaded);
	bool is_old = loaded == 1 && equal(found, old);
	/* One that does not survive is no file. */
	bool is_new = new->survives ? loaded == 1 && equal(found, new) : loaded == 0;

	assert_true(is_new || (rc != 0 && is_old));
	free(found);
}

/* The steps of saving `new` over `old`: an error at each; a power cut; one that undoes names. */
static void
save_step_by_step(const struct reservation *old, const struct reservation *new, unsigned steps[3])
{
	for (unsigned way = 0; way < 3; way++) {
		for (unsigned n = 1;; n++) {
			struct error error;
			int rc;

			fail_at = 0;
			assert_int_equal(reservation_save("disk0", old, &error), 0);
			keep_copy();
			data_synced = renamed = name_synced = false;
			calls = 0;
			fail_at = n;
			power_cut = way > 0;
			rc = reservation_save("disk0", new, &error);
			fail_at = 0;
			if (rc == 0 && calls < n)
				break;
			if (power_cut)
				lose_what_was_not_synced(way == 2);
			assert_one_of(rc, old, new);
			steps[way] = n;
		}
		assert_one_of(0, old, new);
	}
	print_message("# %u, %u and %u steps\n", steps[0], steps[1], steps[2]);
}

static void
test_each_step(void **state)
{
	struct reservation *old = make(2, RESERVATION_WRITE_EXCLUSIVE);
	struct reservation *new = make(5, RESERVATION_EXCLUSIVE_ACCESS);
	unsigned steps[3] = {0};

	(void)state;
	save_step_by_step(old, new, steps);
	/* mkdir, open, openat, some writes, fsync, close, renameat, fsync */
	for (unsigned way = 0; way < 3; way++)
		assert_true(steps[way] >= 8);
	free(old);
	free(new);
}

/* The last registration goes, or APTPL is taken back: the file is unlinked. */
static void
test_each_step_of_removing(void **state)
{
	struct reservation *old = make(2, RESERVATION_WRITE_EXCLUSIVE);
	struct reservation *none = make(1, RESERVATION_NONE);
	unsigned steps[3] = {0};

	(void)state;
	none->survives = false;
	save_step_by_step(old, none, steps);
	for (unsigned way = 0; way < 3; way++)
		assert_true(steps[way] >= 2);
	free(old);
	free(none);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_saves_and_loads),
		cmocka_unit_test(test_damage_is_refused),
		cmocka_unit_test(test_each_step),
		cmocka_unit_test(test_each_step_of_removing),
	};

	return cmocka_run_group_tests_name("reservation_file", tests, setup, teardown);
}
