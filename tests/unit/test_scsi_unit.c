/*
 * scsi_unit.c on two true loops: what one nexus does to a logical unit reaches the other once,
 * whatever both are doing meanwhile. What it says on one loop is in test_scsi_lun.c.
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "alua.h"
#include "bytes.h"
#include "catalogue.h"
#include "check.h"
#include "conf.h"
#include "loop.h"
#include "scsi/scsi_internal.h"
#include "volume.h"
#include "work.h"

#define COMMANDS 20000

static struct target target;
static struct catalogue catalogue;

/* A nexus and the commands it sends, one after the other, on a loop of its own. */
static struct side {
	struct loop *loop;
	struct loop_task step;
	struct scsi_nexus *nexus;
	struct scsi_task task;
	bool quiet; /* only asks */
	unsigned sent, failed;
	unsigned resets, changes; /* done */
	unsigned power_ons, heard_resets, heard_changes, heard_offers;
} sides[2];
static const struct portal portal = {.address = "a", .group = 1, .relative_id = 1};
static atomic_uint left;
static struct loop_task stop_task;

static void
stop_main(struct loop_task *task)
{
	(void)task;
	loop_stop_main();
}

static void
end_side(struct side *side)
{
	scsi_nexus_free(side->nexus);
	if (atomic_fetch_sub(&left, 1) == 1) {
		stop_task.run = stop_main;
		loop_post(loop_main(), &stop_task);
	}
}

static void
count_attention(struct side *side)
{
	if (side->task.status == SCSI_GOOD)
		return;
	switch (get_be16(side->task.sense + 12)) {
	case ASC_POWER_ON:
	case ASC_NEXUS_LOSS: /* the same name, again and again */
		side->power_ons++;
		break;
	case ASC_DEVICE_RESET:
		side->heard_resets++;
		break;
	case ASC_MODE_CHANGED:
		side->heard_changes++;
		break;
	case ASC_LUNS_CHANGED:
	case ASC_ALUA_CHANGED:
		side->heard_offers++;
		break;
	default:
		side->failed++;
		break;
	}
}

static void
on_done(struct scsi_task *task)
{
	struct side *side = container_of(task, struct side, task);

	count_attention(side);
	iobuf_free(&task->in);
	loop_defer(side->loop, &side->step);
}

/* Now and then a reset or another caching page, else TEST UNIT READY. */
static void
run_step(struct loop_task *step)
{
	static uint8_t lists[2][24] = {
		{0, 0, 0, 0, 0x08, 0x12, 0x00}, {0, 0, 0, 0, 0x08, 0x12, 0x04}};
	static const uint8_t lun[8];
	struct side *side = container_of(step, struct side, step);
	unsigned n = side->sent++;
	struct iovec list = {lists[n / 50 % 2], sizeof(lists[0])};

	if (!side->nexus) {
		side->nexus = scsi_nexus_new(&catalogue, &target, "iqn.test:side");
		CHECK(side->nexus);
	}
	if (n == COMMANDS) {
		end_side(side);
		return;
	}
	memset(&side->task, 0, sizeof(side->task));
	side->task.nexus = side->nexus;
	side->task.done = on_done;
	side->task.cdb_length = 6;
	side->task.portal_id = 1;
	if (!side->quiet && n % 50 == 25) {
		scsi_lun_reset(side->nexus, lun);
		side->resets++;
	} else if (!side->quiet && n % 50 == 0) {
		memcpy(side->task.cdb, ((const uint8_t[]){OP_MODE_SELECT_6, 0x10, 0, 0, 24, 0}), 6);
	}
	if (!scsi_prepare(&side->task)) {
		count_attention(side);
		loop_defer(side->loop, &side->step);
		return;
	}
	if (side->task.cdb[0] == OP_MODE_SELECT_6) {
		side->task.out = (struct iobuf){.iov = &list, .niov = 1, .length = 24};
		side->changes++;
	}
	scsi_execute(&side->task);
}

/* What is offered, published again and again on the main thread while both sides work. */
struct offer {
	struct catalogue catalogue;
	struct target target;
	struct lun luns[2];
};

static unsigned offers; /* made; 0 to begin with: none shall be */
static struct loop_timer next_offer;

static void
destroy_offer(struct catalogue *made)
{
	free(container_of(made, struct offer, catalogue));
}

/* A second LUN comes and goes, and with it the port group's state. */
static void
on_next_offer(struct loop_timer *timer)
{
	struct offer *offer = calloc(1, sizeof(*offer));

	CHECK(offer);
	offers++;
	offer->luns[0] = target.luns[0];
	offer->luns[1] = (struct lun){.number = 1, .volume = target.luns[0].volume};
	offer->target = target;
	offer->target.luns = offer->luns;
	offer->target.nluns = 1 + offers % 2;
	offer->catalogue = (struct catalogue){.references = 1,
		.targets = &offer->target,
		.ntargets = 1,
		.portals = &portal,
		.nportals = 1,
		.destroy = destroy_offer};
	catalogue_publish(&offer->catalogue);
	CHECK(alua_set(target.name, 1, offers % 2 ? ALUA_NON_OPTIMIZED : ALUA_OPTIMIZED) == 0);
	if (atomic_load(&left) > 0)
		CHECK(loop_timer_start(loop_main(), timer, MS_NS / 10, on_next_offer) == 0);
}

static void
run_both(bool quiet, bool offering)
{
	char name[] = "shared", backend[] = "memory";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = MIB,
		.block_size = 512,
		.physical_block_size = 512};
	struct lun lun = {0};
	struct error error;

	assert_int_equal(loops_start(2), 0);
	assert_int_equal(work_start(2), 0);
	assert_int_equal(iobuf_start(), 0);
	assert_int_equal(storage_start(64 * MIB), 0);
	assert_int_equal(scsi_start(), 0);
	assert_int_equal(volume_open(&conf, &lun.volume, &error), 0);
	target = (struct target){.name = "iqn.test:shared", .luns = &lun, .nluns = 1};
	catalogue = (struct catalogue){.references = 1,
		.targets = &target,
		.ntargets = 1,
		.portals = &portal,
		.nportals = 1};
	atomic_store(&left, 2);
	memset(sides, 0, sizeof(sides));
	for (unsigned i = 0; i < 2; i++) {
		sides[i].loop = loop_by_index(i);
		sides[i].step.run = run_step;
		sides[i].quiet = quiet && i == 1;
		loop_post(sides[i].loop, &sides[i].step);
	}
	offers = 0;
	if (offering)
		on_next_offer(&next_offer);
	loop_run_main();
	loop_timer_stop(&next_offer);
	catalogue_publish(NULL);
	alua_clear();
	volume_put(lun.volume);
	work_stop();
	loops_stop();
	scsi_stop();
	storage_stop();
}

/* No attention is made up, and none but attentions fails. */
static void
test_both_change(void **state)
{
	(void)state;
	run_both(false, false);
	for (unsigned i = 0; i < 2; i++) {
		const struct side *side = &sides[i], *other = &sides[!i];

		assert_int_equal(side->failed, 0);
		assert_int_equal(side->power_ons, 1);
		assert_true(side->heard_resets <= side->resets + other->resets);
		assert_true(side->heard_changes <= other->changes);
	}
}

static void
test_one_listens(void **state)
{
	(void)state;
	run_both(true, false);
	assert_int_equal(sides[0].heard_changes, 0);
	assert_true(sides[0].heard_resets <= sides[0].resets);
	assert_int_equal(sides[1].failed, 0);
	assert_int_equal(sides[1].power_ons, 1);
	assert_true(sides[1].heard_resets <= sides[0].resets);
}

/* One attention tells several changes, and nothing else is made up. */
static void
test_offers_change(void **state)
{
	(void)state;
	run_both(true, true);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(sides[i].failed, 0);
		assert_true(sides[i].heard_offers <= 2 * offers);
	}
	print_message("# %u offers, %u and %u attentions\n", offers, sides[0].heard_offers,
		sides[1].heard_offers);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_change),
		cmocka_unit_test(test_one_listens),
		cmocka_unit_test(test_offers_change),
	};

	return cmocka_run_group_tests_name("scsi_unit", tests, NULL, NULL);
}
