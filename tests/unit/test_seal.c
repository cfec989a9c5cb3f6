/* storage/seal.c */
#include "config.h"

#include "storage_test.h"

#include <errno.h>

#include "reservation.h"
#include "volume_script.h"

struct sealing {
	unsigned called;
	int rc;
	struct loop *on;
};

static void
on_sealed(void *arg, int rc)
{
	struct sealing *sealing = arg;

	sealing->called++;
	sealing->rc = rc;
	sealing->on = loop_current();
}

/* Two handles on two loops, and one beside the first. */
struct three {
	struct volume_script *script;
	struct volume *volume;
	struct blk_handle *handle[3];
};

static struct loop *
loop_of(unsigned handle)
{
	return loop_by_index(handle == 1);
}

static struct three
open_three(void)
{
	struct three three = {.script = volume_script_open(
				      &(struct volume_script_options){.volatile_cache = true})};

	three.volume = volume_script_volume(three.script);
	for (unsigned i = 0; i < 3; i++) {
		virtual_as(loop_of(i));
		three.handle[i] = open_handle(three.volume);
	}
	virtual_as(loop_by_index(0));
	return three;
}

static void
close_one(struct three *three, unsigned i)
{
	if (!three->handle[i])
		return;
	virtual_as(loop_of(i));
	blk_close(three->handle[i]);
	three->handle[i] = NULL;
	virtual_as(loop_by_index(0));
}

static void
close_three(struct three *three)
{
	for (unsigned i = 0; i < 3; i++)
		close_one(three, i);
	volume_script_close(three->script);
}

static int
do_write(struct three *three, unsigned i)
{
	uint8_t data[512] = {0};
	int rc;

	virtual_as(loop_of(i));
	rc = do_io(three->handle[i], BLK_WRITE, 0, 0, 512, data);
	virtual_as(loop_by_index(0));
	return rc;
}

static int
do_seal(struct three *three, unsigned i)
{
	struct sealing sealing = {0};

	virtual_as(loop_of(i));
	assert_int_equal(blk_seal(three->handle[i], NULL, on_sealed, &sealing), 0);
	assert_int_equal(sealing.called, 0);
	virtual_run_until_idle();
	assert_int_equal(sealing.called, 1);
	assert_ptr_equal(sealing.on, loop_of(i));
	virtual_as(loop_by_index(0));
	return sealing.rc;
}

static void
nobody_else_passes(void **state)
{
	struct three three = open_three();
	uint8_t data[512] = {0};

	(void)state;
	assert_int_equal(do_seal(&three, 0), 0);
	assert_false(blk_sealed(three.handle[0]));
	assert_true(blk_sealed(three.handle[1]));
	assert_true(blk_sealed(three.handle[2]));
	assert_int_equal(do_write(&three, 0), 0);
	assert_int_equal(do_write(&three, 1), -ENODEV);
	for (unsigned op = BLK_READ; op < BLK_OPS; op++) {
		if (op != BLK_EXTENTS && op != BLK_COMPARE_WRITE)
			assert_int_equal(
				do_io(three.handle[2], op, 0, 0, op == BLK_FLUSH ? 0 : 512, data),
				-ENODEV);
	}
	assert_int_equal(do_io(three.handle[0], BLK_FLUSH, 0, 0, 0, NULL), 0);
	blk_unseal(three.handle[0]);
	for (unsigned i = 0; i < 3; i++) {
		assert_false(blk_sealed(three.handle[i]));
		assert_int_equal(do_write(&three, i), 0);
	}
	close_three(&three);
}

static bool
say(void *arg)
{
	const struct sealing *sealing = arg;

	return sealing->rc == 0;
}

/* Who asked may change his mind until nothing is in flight; then nothing has happened. */
static void
asks_whether_it_may(void **state)
{
	struct three three = open_three();
	struct sealing sealing = {.rc = 1};

	(void)state;
	assert_int_equal(blk_seal(three.handle[0], say, on_sealed, &sealing), 0);
	virtual_run_until_idle();
	assert_int_equal(sealing.called, 1);
	assert_int_equal(sealing.rc, -EPERM);
	assert_int_equal(do_write(&three, 1), 0);
	sealing.rc = 0;
	assert_int_equal(blk_seal(three.handle[0], say, on_sealed, &sealing), 0);
	virtual_run_until_idle();
	assert_int_equal(sealing.rc, 0);
	assert_int_equal(do_write(&three, 1), -ENODEV);
	close_three(&three);
}

/* What began before has ended before; what comes meanwhile waits, and is refused then. */
static void
waits_for_what_is_in_flight(void **state)
{
	struct three three = open_three();
	struct sealing sealing = {0};
	uint8_t data[512] = {0};
	struct io before, after;

	(void)state;
	volume_script_hold(three.script, true);
	virtual_as(loop_by_index(1));
	io_submit(&before, three.handle[1], BLK_READ, 0, 0, 512, data);
	virtual_as(loop_by_index(0));
	assert_int_equal(blk_seal(three.handle[0], NULL, on_sealed, &sealing), 0);
	virtual_run_until_idle();
	io_submit(&after, three.handle[2], BLK_WRITE, 0, 4096, 512, data);
	virtual_run_until_idle();
	assert_int_equal(sealing.called, 0);
	assert_int_equal(after.completed, 0);
	volume_script_hold(three.script, false);
	volume_script_complete_all(three.script, 0);
	virtual_run_until_idle();
	assert_int_equal(before.blk.rc, 0);
	assert_int_equal(sealing.called, 1);
	assert_int_equal(sealing.rc, 0);
	assert_int_equal(after.completed, 1);
	assert_int_equal(after.blk.rc, -ENODEV);
	close_three(&three);
}

/* Given up; nothing is sealed. */
static void
what_does_not_come_back(void **state)
{
	struct three three = open_three();
	struct sealing sealing = {0};
	uint8_t data[512] = {0};
	struct io stuck;

	(void)state;
	volume_script_hold(three.script, true);
	io_submit(&stuck, three.handle[2], BLK_WRITE, 0, 0, 512, data);
	assert_int_equal(blk_seal(three.handle[0], NULL, on_sealed, &sealing), 0);
	virtual_advance(LIMIT_FREEZE_WAIT + 2 * SECOND_NS);
	assert_int_equal(sealing.called, 1);
	assert_int_equal(sealing.rc, -ETIMEDOUT);
	volume_script_hold(three.script, false);
	volume_script_complete_all(three.script, 0);
	virtual_run_until_idle();
	assert_false(blk_sealed(three.handle[1]));
	assert_int_equal(do_write(&three, 1), 0);
	close_three(&three);
}

static void
one_at_a_time(void **state)
{
	struct three three = open_three();

	(void)state;
	assert_int_equal(do_seal(&three, 1), 0);
	assert_int_equal(do_seal(&three, 0), -EBUSY);
	blk_unseal(three.handle[0]); /* not his to lift */
	assert_true(blk_sealed(three.handle[0]));
	/* A handle that is closed leaves it as it is, for anybody to lift, or to take over. */
	close_one(&three, 1);
	assert_true(blk_sealed(three.handle[0]));
	assert_int_equal(do_write(&three, 2), -ENODEV);
	assert_int_equal(do_seal(&three, 0), 0);
	assert_int_equal(do_write(&three, 0), 0);
	close_one(&three, 0);
	blk_unseal(three.handle[2]);
	assert_int_equal(do_write(&three, 2), 0);
	close_three(&three);
}

static void
on_change(void *arg, int rc, const char *text)
{
	(void)arg;
	(void)rc;
	(void)text;
	fail_msg("was begun");
}

static void
on_copied(void *arg, struct volume *made, int rc, const char *text)
{
	(void)made;
	on_change(arg, rc, text);
}

/* Nobody is given a copy of what is half gone. */
static void
is_not_changed_meanwhile(void **state)
{
	struct conf_volume conf = test_conf("sealed", "memory", NULL, MIB);
	struct sealing sealing = {0};
	struct blk_handle *handle;
	struct volume *volume;
	struct error error;

	(void)state;
	assert_int_equal(volume_open(&conf, &volume, &error), 0);
	handle = open_handle(volume);
	assert_int_equal(blk_seal(handle, NULL, on_sealed, &sealing), 0);
	virtual_run_until_idle();
	assert_int_equal(sealing.rc, 0);
	assert_int_equal(volume_resize(volume, 2 * MIB, false, on_change, NULL, &error), -EBUSY);
	assert_non_null(strstr(error.text, "sanitized"));
	assert_int_equal(volume_snapshot(volume, "snap", on_copied, NULL, &error), -EBUSY);
	assert_int_equal(volume_save(volume, "/nowhere", on_copied, NULL, &error), -EBUSY);
	blk_close(handle);
	volume_put(volume);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(nobody_else_passes, settle),
		cmocka_unit_test_teardown(asks_whether_it_may, settle),
		cmocka_unit_test_teardown(waits_for_what_is_in_flight, settle),
		cmocka_unit_test_teardown(what_does_not_come_back, settle),
		cmocka_unit_test_teardown(one_at_a_time, settle),
		cmocka_unit_test_teardown(is_not_changed_meanwhile, settle),
	};

	return cmocka_run_group_tests_name("seal", tests, setup_loops, teardown_loops);
}
