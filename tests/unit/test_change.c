/* storage/change.c: size and latch of an open volume, on memory, files and scripted volumes. */
#include "config.h"

#include "storage_test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../storage/storage.h"
#include "volume_script.h"

static char dir[200];
static char path[300];

static struct volume *
open_volume(const char *backend, uint64_t size)
{
	struct conf_volume conf = test_conf("web", backend, path, size);
	struct volume *volume;
	struct error error;
	int rc;

	if (strcmp(backend, "memory") == 0)
		conf.path = NULL;
	rc = volume_open(&conf, &volume, &error);
	if (rc)
		print_message("%s\n", error.text);
	assert_int_equal(rc, 0);
	return volume;
}

struct answer {
	unsigned calls;
	int rc;
	char text[512];
};

static void
answered(void *arg, int rc, const char *text)
{
	struct answer *answer = arg;

	assert_ptr_equal(loop_current(), loop_main());
	answer->calls++;
	answer->rc = rc;
	snprintf(answer->text, sizeof(answer->text), "%s", text);
}

/* On the main loop, to its end. */
static int
resize(struct volume *volume, uint64_t size, bool force, char *text)
{
	struct answer answer = {0};
	struct error error = {.text = ""};
	int rc;

	virtual_as(loop_main());
	rc = volume_resize(volume, size, force, answered, &answer, &error);
	assert_int_equal(answer.calls, 0);
	virtual_run_until_idle();
	assert_int_equal(answer.calls, rc == 0);
	if (text)
		strcpy(text, rc ? error.text : answer.text);
	return rc ? rc : answer.rc;
}

static int
clear(struct volume *volume, char *text)
{
	struct answer answer = {0};
	struct error error = {.text = ""};
	int rc;

	virtual_as(loop_main());
	rc = volume_clear(volume, answered, &answer, &error);
	virtual_run_until_idle();
	assert_int_equal(answer.calls, rc == 0);
	strcpy(text, rc ? error.text : answer.text);
	return rc ? rc : answer.rc;
}

static int
io_on(struct blk_handle *handle, enum blk_op op, uint64_t offset, uint8_t *data)
{
	virtual_as(loop_by_index(0));
	return do_io(handle, op, 0, offset, op == BLK_FLUSH ? 0 : 512, data);
}

static void
drop(struct volume *volume, struct blk_handle *handle)
{
	virtual_as(loop_by_index(0));
	blk_close(handle);
	virtual_as(loop_main());
	volume_put(volume);
	virtual_run_until_idle();
}

static void
grows_and_shrinks(const char *backend, uint64_t small, uint64_t large)
{
	struct volume *volume = open_volume(backend, small);
	uint8_t data[512], zeroes[512] = {0};
	struct blk_handle *handle;
	struct blk_info info;

	virtual_as(loop_by_index(0));
	handle = open_handle(volume);
	memset(data, 7, sizeof(data));
	assert_int_equal(io_on(handle, BLK_WRITE, small - 512, data), 0);
	assert_int_equal(io_on(handle, BLK_WRITE, small, data), -ERANGE);
	assert_int_equal(resize(volume, large, false, NULL), 0);
	blk_info(handle, &info);
	assert_int_equal(info.size, large);
	memset(data, 8, sizeof(data));
	assert_int_equal(io_on(handle, BLK_WRITE, large - 512, data), 0);
	memset(data, 0, sizeof(data));
	assert_int_equal(io_on(handle, BLK_READ, small - 512, data), 0);
	assert_int_equal(data[0] & data[511], 7);
	assert_int_equal(io_on(handle, BLK_READ, large - 512, data), 0);
	assert_int_equal(data[0] & data[511], 8);
	/* What was above a smaller size is gone for good. */
	assert_int_equal(resize(volume, small, false, NULL), -EPERM);
	assert_int_equal(resize(volume, small - 512, true, NULL), 0);
	assert_int_equal(io_on(handle, BLK_READ, small - 512, data), -ERANGE);
	assert_int_equal(resize(volume, large, false, NULL), 0);
	assert_int_equal(io_on(handle, BLK_READ, small - 512, data), 0);
	assert_memory_equal(data, zeroes, 512);
	assert_int_equal(io_on(handle, BLK_READ, large - 512, data), 0);
	assert_memory_equal(data, zeroes, 512);
	drop(volume, handle);
}

static void
memory_grows_and_shrinks(void **state)
{
	(void)state;
	grows_and_shrinks("memory", MIB, 2 * MIB);
	/* Over several heights of the radix trees. */
	grows_and_shrinks("memory", 5 * MIB + 512, 3 * TIB);
	grows_and_shrinks("memory", 20 * GIB, PIB);
}

static void
file_grows_and_shrinks(void **state)
{
	struct stat st;

	(void)state;
	grows_and_shrinks("file", MIB, 5 * MIB + 512);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 5 * MIB + 512);
	unlink(path);
}

/* The volume's descriptor. */
static int
find_descriptor(void)
{
	char name[64], target[300];

	for (int fd = 3; fd < 1024; fd++) {
		ssize_t length;

		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		length = readlink(name, target, sizeof(target) - 1);
		if (length <= 0)
			continue;
		target[length] = '\0';
		if (strcmp(target, path) == 0)
			return fd;
	}
	fail_msg("nobody has %s open", path);
	return -1;
}

/* A size that the file did not get is not taken for its own: who cuts it there is still found out. */
static void
failed_shrink_changes_nothing(void **state)
{
	struct volume *volume = open_volume("file", 2 * MIB);
	int fd = find_descriptor(), kept = dup(fd), other = open(path, O_RDONLY | O_CLOEXEC);
	struct blk_handle *handle;
	uint8_t data[512] = {1};
	char text[512];

	(void)state;
	virtual_as(loop_by_index(0));
	handle = open_handle(volume);
	assert_true(kept >= 0 && other >= 0);
	assert_int_equal(dup2(other, fd), fd);
	assert_int_equal(resize(volume, MIB, true, text), -EINVAL);
	assert_non_null(strstr(text, "cannot make it 1048576 bytes long"));
	assert_int_equal(dup2(kept, fd), fd);
	close(kept);
	close(other);
	assert_int_equal(io_on(handle, BLK_WRITE, 2 * MIB - 512, data), 0);
	assert_int_equal(truncate(path, MIB + MIB / 2), 0);
	virtual_advance(SECOND_NS);
	assert_int_equal(io_on(handle, BLK_WRITE, 0, data), -EIO);
	drop(volume, handle);
	unlink(path);
}

static void
refusals_say_why(void **state)
{
	struct volume *volume = open_volume("memory", MIB);
	char text[512];

	(void)state;
	assert_int_equal(resize(volume, 1000, false, text), -EINVAL);
	assert_string_equal(text, "volume web: size 1000 is not a multiple of 512 from 512 to "
				  "1152921504606846976");
	assert_int_equal(resize(volume, 0, true, text), -EINVAL);
	assert_int_equal(resize(volume, 512, false, text), -EPERM);
	assert_string_equal(text, "volume web has 1048576 bytes; what is above 512 would be lost: "
				  "--force does it");
	assert_int_equal(clear(volume, text), -EINVAL);
	assert_string_equal(text, "volume web has not failed");
	volume_put(volume);
	virtual_run_until_idle();
	volume = open_volume("null", MIB);
	assert_int_equal(resize(volume, 2 * MIB, false, text), -ENOTSUP);
	assert_string_equal(text, "volume web: a null volume cannot be resized");
	volume_put(volume);
	virtual_run_until_idle();
}

static void
one_change_at_a_time(void **state)
{
	struct volume *volume = open_volume("memory", MIB);
	struct answer first = {0}, second = {0};
	struct error error;

	(void)state;
	virtual_as(loop_main());
	assert_int_equal(volume_resize(volume, 2 * MIB, false, answered, &first, &error), 0);
	assert_int_equal(volume_resize(volume, 3 * MIB, false, answered, &second, &error), -EBUSY);
	assert_string_equal(error.text, "volume web is being changed");
	virtual_run_until_idle();
	assert_int_equal(first.calls, 1);
	assert_int_equal(second.calls, 0);
	volume_put(volume);
	virtual_run_until_idle();
}

/* Nobody is told a success between the failure and the clear, and everybody may go on after it. */
static void
clear_lifts_the_latch(void **state)
{
	(void)state;
	for (unsigned blocking = 0; blocking < 2; blocking++) {
		struct volume_script *s = volume_script_open(&(struct volume_script_options){
			.volatile_cache = true, .buffered = true, .blocking = blocking});
		struct volume *volume = volume_script_volume(s);
		struct blk_handle *handle;
		uint8_t data[512] = {1};
		char text[512];

		virtual_as(loop_by_index(0));
		handle = open_handle(volume);
		volume_script_fail(s, BLK_FLUSH, -EIO, 1);
		assert_int_equal(io_on(handle, BLK_FLUSH, 0, NULL), -EIO);
		assert_int_equal(io_on(handle, BLK_WRITE, 0, data), -EIO);
		assert_int_equal(io_on(handle, BLK_READ, 0, data), -EIO);
		assert_true(volume_broken(volume));
		assert_int_equal(clear(volume, text), 0);
		assert_false(volume_broken(volume));
		assert_string_equal(get_stats(volume)->why, "");
		assert_int_equal(io_on(handle, BLK_WRITE, 0, data), 0);
		assert_int_equal(io_on(handle, BLK_FLUSH, 0, NULL), 0);
		virtual_as(loop_by_index(0));
		blk_close(handle);
		virtual_as(loop_main());
		volume_script_close(s);
		virtual_run_until_idle();
	}
}

/* A write of another loop is in flight: the clear waits for it. */
static void
clear_waits_for_what_is_in_flight(void **state)
{
	struct volume_script *s =
		volume_script_open(&(struct volume_script_options){.volatile_cache = true});
	struct volume *volume = volume_script_volume(s);
	struct answer answer = {0};
	struct blk_handle *handle;
	uint8_t data[512] = {1};
	struct error error;
	struct io write, flush;

	(void)state;
	virtual_as(loop_by_index(0));
	handle = open_handle(volume);
	volume_script_hold(s, true);
	io_submit(&write, handle, BLK_WRITE, 0, 0, 512, data);
	io_submit(&flush, handle, BLK_FLUSH, 0, 0, 0, NULL);
	virtual_run_until_idle();
	volume_script_complete(s, 1, -EIO);
	virtual_run_until_idle();
	assert_int_equal(flush.blk.rc, -EIO);
	virtual_as(loop_main());
	assert_int_equal(volume_clear(volume, answered, &answer, &error), 0);
	virtual_run_until_idle();
	assert_int_equal(answer.calls, 0);
	virtual_as(loop_by_index(0));
	volume_script_complete(s, 0, 0);
	virtual_run_until_idle();
	assert_int_equal(answer.calls, 1);
	assert_int_equal(answer.rc, 0);
	assert_int_equal(write.blk.rc, -EIO); /* it ended while the volume was broken */
	virtual_as(loop_by_index(0));
	blk_close(handle);
	virtual_as(loop_main());
	volume_script_close(s);
	virtual_run_until_idle();
}

/* A FLUSH that waited for its sync while the volume broke: after the clear there is nothing left that
 * could tell it what was lost. */
static void
clear_makes_no_success_of_a_waiting_flush(void **state)
{
	struct volume_script *s = volume_script_open(
		&(struct volume_script_options){.volatile_cache = true, .fua = true});
	struct volume *volume = volume_script_volume(s);
	struct io first, waiting, write;
	struct answer answer = {0};
	struct blk_handle *handle;
	uint8_t data[512] = {1};
	struct error error;

	(void)state;
	virtual_as(loop_by_index(0));
	handle = open_handle(volume);
	volume_script_hold(s, true);
	io_submit(&first, handle, BLK_FLUSH, 0, 0, 0, NULL);
	io_submit(&waiting, handle, BLK_FLUSH, 0, 0, 0, NULL);
	io_submit(&write, handle, BLK_WRITE, BLK_FUA, 0, 512, data);
	virtual_run_until_idle();
	assert_int_equal(volume_script_calls(s), 2);
	volume_script_complete(s, 1, -EIO);
	virtual_run_until_idle();
	assert_int_equal(write.blk.rc, -EIO);
	assert_true(volume_broken(volume));
	virtual_as(loop_main());
	assert_int_equal(volume_clear(volume, answered, &answer, &error), 0);
	virtual_run_until_idle();
	assert_int_equal(answer.calls, 0);
	virtual_as(loop_by_index(0));
	volume_script_hold(s, false);
	volume_script_complete(s, 0, 0);
	virtual_advance(SECOND_NS);
	assert_int_equal(answer.calls, 1);
	assert_int_equal(answer.rc, 0);
	assert_false(volume_broken(volume));
	assert_int_equal(first.blk.rc, -EIO);
	assert_int_equal(waiting.completed, 1);
	assert_int_equal(waiting.blk.rc, -EIO);
	assert_int_equal(io_on(handle, BLK_FLUSH, 0, NULL), 0);
	virtual_as(loop_by_index(0));
	blk_close(handle);
	virtual_as(loop_main());
	volume_script_close(s);
	virtual_run_until_idle();
}

/* A driver of its own: what its next sync says. */
static struct {
	int rc;
	unsigned flushes;
	uint64_t size;
} plain;

static int
open_plain(const struct conf_volume *conf, struct blk_info *info, void **state, struct error *error)
{
	(void)state;
	(void)error;
	info->size = conf->size;
	info->volatile_cache = true;
	info->buffered = true;
	return 0;
}

static void
close_plain(void *state)
{
	(void)state;
}

static int
move_plain(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length)
{
	(void)state;
	(void)iov;
	(void)niov;
	(void)offset;
	(void)length;
	return 0;
}

static int
flush_plain(void *state)
{
	(void)state;
	plain.flushes++;
	return plain.rc;
}

static int
resize_plain(void *state, uint64_t size, struct error *error)
{
	(void)state;
	(void)error;
	plain.size = size;
	return 0;
}

/* The kernel may tell the sync of a resize of a write that failed, and nobody else: all are told. */
static void
failed_sync_of_a_resize_is_everybodys(void **state)
{
	static const struct blk_driver driver = {.name = "plain",
		.argument = "size",
		.open = open_plain,
		.close = close_plain,
		.read = move_plain,
		.write = move_plain,
		.flush = flush_plain,
		.resize = resize_plain};
	struct conf_volume conf = test_conf("web", "plain", NULL, MIB);
	struct blk_handle *handle;
	struct volume *volume;
	struct error error;
	struct blk_info info;
	uint8_t data[512] = {1};
	char text[512];

	(void)state;
	for (unsigned shrink = 0; shrink < 2; shrink++) {
		uint64_t size = shrink ? MIB / 2 : 2 * MIB;

		memset(&plain, 0, sizeof(plain));
		virtual_as(loop_main());
		assert_int_equal(volume_open_driver(&conf, &driver, &volume, &error), 0);
		virtual_as(loop_by_index(0));
		handle = open_handle(volume);
		assert_int_equal(io_on(handle, BLK_WRITE, 0, data), 0);
		plain.rc = -EIO;
		assert_int_equal(resize(volume, size, true, text), -EIO);
		assert_string_equal(
			text, "volume web: resized, but its sync failed: Input/output error");
		assert_int_equal(plain.size, size);
		assert_int_equal(plain.flushes, 1);
		plain.rc = 0;
		assert_true(volume_broken(volume));
		assert_int_equal(io_on(handle, BLK_FLUSH, 0, NULL), -EIO);
		assert_int_equal(io_on(handle, BLK_WRITE, 0, data), -EIO);
		blk_info(handle, &info);
		assert_int_equal(info.size, size);
		assert_int_equal(clear(volume, text), 0);
		assert_int_equal(io_on(handle, BLK_FLUSH, 0, NULL), 0);
		assert_int_equal(resize(volume, MIB, false, NULL), shrink ? 0 : -EPERM);
		drop(volume, handle);
	}
}

static int
setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s/slabd-test-change-XXXXXX",
		getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/image", dir);
	return setup_loops(state);
}

static int
teardown(void **state)
{
	teardown_loops(state);
	return rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(memory_grows_and_shrinks, settle),
		cmocka_unit_test_teardown(file_grows_and_shrinks, settle),
		cmocka_unit_test_teardown(failed_shrink_changes_nothing, settle),
		cmocka_unit_test_teardown(refusals_say_why, settle),
		cmocka_unit_test_teardown(one_change_at_a_time, settle),
		cmocka_unit_test_teardown(clear_lifts_the_latch, settle),
		cmocka_unit_test_teardown(clear_waits_for_what_is_in_flight, settle),
		cmocka_unit_test_teardown(clear_makes_no_success_of_a_waiting_flush, settle),
		cmocka_unit_test_teardown(failed_sync_of_a_resize_is_everybodys, settle),
	};

	return cmocka_run_group_tests_name("change", tests, setup, teardown);
}
