/* protocols/iscsi/iscsi_tmf.c: task management. */
#include "config.h"

#include "iscsi_peer.h"

#include "bytes.h"
#include "iscsi/iscsi.h"
#include "scsi/scsi.h"

static uint8_t pattern[64 * 1024];

static void
send_tmf(struct peer *peer, uint8_t function, uint8_t lun, uint32_t rtt, uint32_t refcmdsn)
{
	uint8_t *bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = 0x80 | function;
	bhs[BHS_LUN + 1] = lun;
	put_be32(bhs + BHS_RTT, rtt);
	put_be32(bhs + BHS_REFCMDSN, refcmdsn);
	peer_send(peer, NULL, 0);
}

static void
expect_answer(struct peer *peer, uint8_t answer)
{
	struct pdu *pdu = peer_expect(peer, ISCSI_TASK_RESPONSE);

	assert_int_equal(pdu->bhs[BHS_RESPONSE], answer);
	assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL);
}

static uint32_t
start_read(struct peer *peer)
{
	peer_read10(peer, 0, 8);
	peer_send(peer, NULL, 0);
	return peer->itt;
}

static void
release_disk(void)
{
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
}

static void
test_answers_at_once(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	send_tmf(peer, ISCSI_ABORT_TASK, 0, 4711, peer->cmdsn - 1);
	expect_answer(peer, ISCSI_NO_TASK);
	send_tmf(peer, ISCSI_ABORT_TASK_SET, 9, 0, 0);
	expect_answer(peer, ISCSI_NO_LUN);
	send_tmf(peer, ISCSI_LUN_RESET, 9, 0, 0);
	expect_answer(peer, ISCSI_NO_LUN);
	send_tmf(peer, ISCSI_CLEAR_TASK_SET, 9, 0, 0);
	expect_answer(peer, ISCSI_NO_LUN);
	send_tmf(peer, ISCSI_TASK_REASSIGN, 0, 1, 0);
	expect_answer(peer, ISCSI_NO_REASSIGN);
	send_tmf(peer, ISCSI_CLEAR_ACA, 0, 0, 0);
	expect_answer(peer, ISCSI_NOT_SUPPORTED);
	send_tmf(peer, 0, 0, 0, 0);
	expect_answer(peer, ISCSI_NOT_SUPPORTED);
	send_tmf(peer, 0x7f, 0, 0, 0);
	expect_answer(peer, ISCSI_NOT_SUPPORTED);
	send_tmf(peer, ISCSI_ABORT_TASK_SET, 0, 0, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	send_tmf(peer, ISCSI_CLEAR_TASK_SET, 0, 0, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_free(peer);
}

/* A write whose data has not come is gone at once; what still comes of it passes by. */
static void
test_abort_before_the_data(void **state)
{
	struct peer *peer = peer_session("InitialR2T=No\nFirstBurstLength=65536\n");
	uint32_t itt;

	(void)state;
	peer_write10(peer, 0, 64)[BHS_FLAGS] &= (uint8_t)~ISCSI_FINAL;
	itt = peer->itt;
	peer_send(peer, pattern, 4096);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, itt, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_data_out(peer, itt, ISCSI_TAG_NONE, pattern, 4096, 28672, 8192);
	peer_expect_nothing(peer);
	assert_int_equal(iobuf_reserved(0), 0);
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_clear_attention(peer);
	peer_free(peer);
}

/* "Complete" comes when the disk has let go, and no status ever. */
static void
test_abort_of_a_running_task(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t itt, other;

	(void)state;
	volume_script_hold(world.script, true);
	itt = start_read(peer);
	other = start_read(peer);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, itt, 0);
	peer_expect_nothing(peer);
	virtual_advance(5 * SECOND_NS);
	peer_expect_nothing(peer);
	volume_script_complete(world.script, 0, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	release_disk();
	assert_int_equal(get_be32(peer_expect(peer, ISCSI_DATA_IN)->bhs + BHS_ITT), other);
	peer_expect_nothing(peer);
	peer_free(peer);
}

/* After 10 s it is FUNCTION REJECTED, and the task goes on with its status. */
static void
test_abort_that_takes_too_long(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t itt;

	(void)state;
	volume_script_hold(world.script, true);
	itt = start_read(peer);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, itt, 0);
	virtual_advance(LIMIT_ISCSI_ABORT - 2 * SECOND_NS);
	peer_expect_nothing(peer);
	virtual_advance(4 * SECOND_NS);
	expect_answer(peer, ISCSI_FUNCTION_REJECTED);
	release_disk();
	assert_int_equal(get_be32(peer_expect(peer, ISCSI_DATA_IN)->bhs + BHS_ITT), itt);
	peer_free(peer);
}

/* Two functions wait for one task: neither may say "complete" once one was told it goes on. */
static void
test_two_functions_share_a_task(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t itt;

	(void)state;
	volume_script_hold(world.script, true);
	itt = start_read(peer);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, itt, 0);
	virtual_advance(6 * SECOND_NS);
	send_tmf(peer, ISCSI_LUN_RESET, 0, 0, 0);
	virtual_advance(6 * SECOND_NS);
	expect_answer(peer, ISCSI_FUNCTION_REJECTED);
	expect_answer(peer, ISCSI_FUNCTION_REJECTED);
	release_disk();
	peer_expect(peer, ISCSI_DATA_IN);
	peer_expect_nothing(peer);
	peer_free(peer);

	/* and both say it when the task ends in time */
	peer = peer_session(NULL);
	volume_script_hold(world.script, true);
	itt = start_read(peer);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, itt, 0);
	send_tmf(peer, ISCSI_ABORT_TASK_SET, 0, 0, 0);
	peer_expect_nothing(peer);
	release_disk();
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_expect_nothing(peer);
	peer_free(peer);
}

/* A task whose Data-In is half sent: no more of it, then "complete". */
static void
test_abort_during_data_in(void **state)
{
	struct peer *peer = peer_session("MaxRecvDataSegmentLength=512\n");
	struct pdu pdu;
	unsigned data = 0;

	(void)state;
	pipe_set_room(peer->pipe, 1000);
	peer_read10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	virtual_run_until_idle();
	send_tmf(peer, ISCSI_ABORT_TASK, 0, peer->itt, 0);
	virtual_run_until_idle();
	pipe_set_room(peer->pipe, SIZE_MAX);
	for (;;) {
		assert_true(peer_try(peer, &pdu));
		if (pdu.bhs[BHS_OPCODE] != ISCSI_DATA_IN)
			break;
		assert_false(pdu.bhs[BHS_FLAGS] & ISCSI_DATA_IN_STATUS);
		data++;
	}
	assert_true(data < 64);
	assert_int_equal(pdu.bhs[BHS_OPCODE], ISCSI_TASK_RESPONSE);
	assert_int_equal(pdu.bhs[BHS_RESPONSE], ISCSI_FUNCTION_COMPLETE);
	peer->statsn++;
	peer_expect_nothing(peer);
	peer_free(peer);
}

/* 11.5.5: a task that never came, within the window: its CmdSN counts as received. */
static void
test_abort_fills_the_gap(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t missing = peer->cmdsn;

	(void)state;
	peer->cmdsn++;
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	peer_expect_nothing(peer);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, 4711,
		missing + 5); /* after this request: not sent yet */
	expect_answer(peer, ISCSI_NO_TASK);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, 4711, missing);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_expect(peer, ISCSI_NOP_IN);
	/* it comes after all: a duplicate by now */
	peer->cmdsn = missing;
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	peer_expect_nothing(peer);
	peer_free(peer);
}

/*
 * 4.2.3.3: ABORT TASK SET means every command with a lower CmdSN, also one that comes only now; what
 * has a higher one is not meant.
 */
static void
test_abort_task_set_waits_for_commands(void **state)
{
	static const uint8_t functions[] = {
		ISCSI_ABORT_TASK_SET, ISCSI_CLEAR_TASK_SET, ISCSI_LUN_RESET};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
		struct peer *peer = peer_session(NULL);
		uint32_t missing = peer->cmdsn++, later;

		volume_script_forget(world.script);
		start_read(peer); /* held behind the gap, and aborted */
		send_tmf(peer, functions[i], 0, 0, 0);
		later = peer->cmdsn;
		start_read(peer);
		later = peer->itt;
		peer_expect_nothing(peer);
		peer->cmdsn = missing;
		start_read(peer);
		if (functions[i] == ISCSI_LUN_RESET) { /* the unit's attention */
			expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
			assert_int_equal(
				get_be32(peer_expect(peer, ISCSI_RESPONSE)->bhs + BHS_ITT), later);
		} else {
			expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
			assert_int_equal(
				get_be32(peer_expect(peer, ISCSI_DATA_IN)->bhs + BHS_ITT), later);
		}
		peer_expect_nothing(peer);
		peer->cmdsn = missing + 3;
		peer_free(peer);
	}
}

/* They do not come: after 10 s it is FUNCTION REJECTED. An immediate command is not waited for. */
static void
test_abort_task_set_waits_in_vain(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	peer->cmdsn++;
	send_tmf(peer, ISCSI_ABORT_TASK_SET, 0, 0, 0);
	peer_expect_nothing(peer);
	peer_start(peer, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_NOP_IN);
	virtual_advance(LIMIT_ISCSI_ABORT + 2 * SECOND_NS);
	expect_answer(peer, ISCSI_FUNCTION_REJECTED);
	peer_free(peer);
}

/* 4.2.3.3: a reset of the target waits for no command: numbers up to its own count as received. */
static void
test_target_reset_fills_the_gaps(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t first = peer->cmdsn;

	(void)state;
	peer->cmdsn = first + 1;
	start_read(peer); /* held, and aborted */
	peer->cmdsn = first + 3;
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	peer->cmdsn = first + 5;
	send_tmf(peer, ISCSI_TARGET_WARM_RESET, 0, 0, 0);
	peer_expect(peer, ISCSI_NOP_IN);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_expect_nothing(peer);
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_clear_attention(peer);
	/* a number that is in no window fills nothing */
	peer->cmdsn += LIMIT_ISCSI_WINDOW + 5;
	send_tmf(peer, ISCSI_TARGET_WARM_RESET, 0, 0, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer->cmdsn -= LIMIT_ISCSI_WINDOW + 5;
	peer_clear_attention(peer);
	peer_free(peer);
}

/* What the block layer can take back is waited for no longer than it takes. */
static void
test_abort_takes_back(void **state)
{
	struct peer *peer;

	(void)state;
	world_stop(NULL);
	world_start_with(&(struct volume_script_options){.not_inline = true, .cancels = true});
	peer = peer_session(NULL);
	volume_script_hold(world.script, true);
	start_read(peer);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, peer->itt - 1, 0);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, peer->itt - 1, 0);
	expect_answer(peer, ISCSI_NO_TASK);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	assert_int_equal(volume_script_held(world.script), 0);
	peer_expect_nothing(peer);
	/* so for a connection that is lost: its tasks are aborted */
	start_read(peer);
	virtual_run_until_idle();
	assert_int_equal(volume_script_held(world.script), 1);
	peer_free(peer);
	assert_int_equal(volume_script_held(world.script), 0);
	volume_script_hold(world.script, false);
}

/* A held command is aborted like any other, and leaves no hole. */
static void
test_abort_of_a_held_task(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t missing = peer->cmdsn++;

	(void)state;
	start_read(peer);
	send_tmf(peer, ISCSI_ABORT_TASK, 0, peer->itt, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer->cmdsn = missing;
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	assert_int_equal(get_be32(peer_expect(peer, ISCSI_NOP_IN)->bhs + BHS_ITT), peer->itt);
	peer->cmdsn = missing + 2;
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_free(peer);
}

/* Resets end all tasks, and tell the other nexus. */
static void
test_resets(void **state)
{
	static const uint8_t functions[] = {ISCSI_LUN_RESET, ISCSI_TARGET_WARM_RESET};
	struct peer *peer, *other;
	struct pdu *pdu;
	uint8_t cdb[6] = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
		peer = peer_session(NULL);
		other = peer_session(NULL);
		volume_script_forget(world.script);
		volume_script_hold(world.script, true);
		start_read(peer);
		start_read(peer);
		peer_write10(peer, 0, 64);
		peer_send(peer, NULL, 0);
		peer_expect(peer, ISCSI_R2T);
		send_tmf(peer, functions[i], 0, 0, 0);
		peer_expect_nothing(peer);
		release_disk();
		expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
		peer_expect_nothing(peer);
		/* LUN RESET: 29/03 for whoever did not ask */
		peer_command(other, 0, 0, cdb, sizeof(cdb));
		peer_send(other, NULL, 0);
		pdu = peer_expect(other, ISCSI_RESPONSE);
		assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_CHECK_CONDITION);
		assert_int_equal(pdu->data[2 + 12], 0x29);
		assert_int_equal(pdu->data[2 + 13], 0x03);
		peer_free(peer);
		peer_free(other);
	}
}

/* SAM-5 4.7: LUN 0 by peripheral and by flat space addressing is one LUN. */
static void
test_either_way_to_address_a_lun(void **state)
{
	static const uint8_t functions[] = {
		ISCSI_ABORT_TASK, ISCSI_ABORT_TASK_SET, ISCSI_CLEAR_TASK_SET, ISCSI_LUN_RESET};
	uint8_t *bhs;

	(void)state;
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(functions); i++) {
		struct peer *peer = peer_session(NULL);
		uint8_t flat = i % 2 ? 0x40 : 0;
		uint32_t itt;

		volume_script_forget(world.script);
		volume_script_hold(world.script, true);
		peer_read10(peer, 0, 8)[BHS_LUN] = flat ^ 0x40;
		itt = peer->itt;
		peer_send(peer, NULL, 0);
		bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
		bhs[BHS_FLAGS] = 0x80 | functions[i / 2];
		bhs[BHS_LUN] = flat;
		put_be32(bhs + BHS_RTT, itt);
		peer_send(peer, NULL, 0);
		peer_expect_nothing(peer);
		release_disk();
		expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
		peer_expect_nothing(peer);
		peer_free(peer);
	}
}

static void
test_too_many_functions(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	start_read(peer);
	for (unsigned i = 0; i < LIMIT_ISCSI_TMFS; i++)
		send_tmf(peer, ISCSI_ABORT_TASK_SET, 0, 0, 0);
	peer_expect_nothing(peer);
	send_tmf(peer, ISCSI_ABORT_TASK_SET, 0, 0, 0);
	assert_int_equal(
		peer_expect(peer, ISCSI_REJECT)->bhs[BHS_RESPONSE], ISCSI_REJECT_IMMEDIATE);
	release_disk();
	for (unsigned i = 0; i < LIMIT_ISCSI_TMFS; i++)
		expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_free(peer);
}

static void
test_hang_up_while_waiting(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	start_read(peer);
	send_tmf(peer, ISCSI_LUN_RESET, 0, 0, 0);
	peer_expect_nothing(peer);
	peer_free(peer);
	virtual_advance(2 * LIMIT_ISCSI_ABORT);
	release_disk();
}

/*
 * The room that one write waits for comes free while both are aborted by the same request: it goes
 * back, and what follows in the same bytes gets its own.
 */
static void
test_abort_of_writes_beyond_the_budget(void **state)
{
	enum { BLOCKS = 16384, WRITES = LIMIT_IOBUF_CLIENT / (BLOCKS * 512) };
	static uint8_t bytes[2 * ISCSI_BHS];
	struct peer *peer = peer_session(NULL);
	uint8_t *bhs;
	size_t n;

	(void)state;
	for (unsigned i = 0; i < WRITES; i++) {
		peer_write10(peer, 0, BLOCKS);
		peer_send(peer, NULL, 0);
		peer_expect(peer, ISCSI_R2T);
	}
	peer_write10(peer, 0, BLOCKS);
	peer_send(peer, NULL, 0);
	peer_expect_nothing(peer);
	bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
	bhs[BHS_FLAGS] = 0x80 | ISCSI_ABORT_TASK_SET;
	put_be32(bhs + BHS_RTT, ISCSI_TAG_NONE);
	n = peer_compose(peer, NULL, 0, bytes);
	peer_write10(peer, 0, 8);
	n += peer_compose(peer, NULL, 0, bytes + n);
	pipe_feed(peer->pipe, bytes, n);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_expect(peer, ISCSI_R2T);
	assert_int_equal(iobuf_reserved(0), 8 * 512);
	peer_free(peer);
}

/*
 * A reset of a full window: with the first command that ends a NOP-In is due, there is no memory for
 * it, the connection dies of that and the reset with it, while it is still being set up.
 */
static void
test_asker_dies_of_its_own_reset(void **state)
{
	static void *taken[4096];
	struct peer *peer = peer_session(NULL);
	struct slab_stats stats;
	unsigned n = 0;

	(void)state;
	slab_cache_poison(iscsi_caches.tmf, true);
	for (unsigned i = 0; i < LIMIT_ISCSI_WINDOW; i++) {
		peer_write10(peer, 0, 8);
		peer_send(peer, NULL, 0);
		peer_expect(peer, ISCSI_R2T);
	}
	slab_cache_stats(iscsi_caches.reply, &stats);
	slab_cache_limit(iscsi_caches.reply, stats.memory);
	while (n < ARRAY_SIZE(taken) && (taken[n] = slab_alloc(iscsi_caches.reply)))
		n++;
	assert_true(n < ARRAY_SIZE(taken));
	send_tmf(peer, ISCSI_TARGET_WARM_RESET, 0, 0, 0);
	peer_expect_closed(peer);
	while (n > 0)
		slab_free(iscsi_caches.reply, taken[--n]);
	slab_cache_limit(iscsi_caches.reply, 0);
	peer_free(peer);
	/* The place where the function was is as it was left. */
	peer = peer_session(NULL);
	send_tmf(peer, ISCSI_TARGET_WARM_RESET, 0, 0, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_free(peer);
	slab_cache_poison(iscsi_caches.tmf, false);
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_answers_at_once),
		WORLD_TEST(test_abort_before_the_data),
		WORLD_TEST(test_abort_of_a_running_task),
		WORLD_TEST(test_abort_that_takes_too_long),
		WORLD_TEST(test_two_functions_share_a_task),
		WORLD_TEST(test_abort_during_data_in),
		WORLD_TEST(test_abort_fills_the_gap),
		WORLD_TEST(test_abort_task_set_waits_for_commands),
		WORLD_TEST(test_abort_task_set_waits_in_vain),
		WORLD_TEST(test_target_reset_fills_the_gaps),
		WORLD_TEST(test_abort_takes_back),
		WORLD_TEST(test_abort_of_a_held_task),
		WORLD_TEST(test_resets),
		WORLD_TEST(test_either_way_to_address_a_lun),
		WORLD_TEST(test_too_many_functions),
		WORLD_TEST(test_hang_up_while_waiting),
		WORLD_TEST(test_abort_of_writes_beyond_the_budget),
		WORLD_TEST(test_asker_dies_of_its_own_reset),
	};

	return cmocka_run_group_tests_name("iscsi_tmf", tests, NULL, NULL);
}
