/* protocols/iscsi/iscsi_task_set.c: task attributes. SAM-5 8.6 */
#include "config.h"

#include "iscsi_peer.h"

#include <time.h>

#include "bytes.h"
#include "scsi/scsi.h"

enum { SIMPLE = ISCSI_SIMPLE, ORDERED = ISCSI_ORDERED, HEAD = ISCSI_HEAD_OF_QUEUE };

/* A READ of the block `lba`, by which the volume's call is known. Returns its tag. */
static uint32_t
send_read(struct peer *peer, unsigned attribute, uint32_t lba)
{
	peer_read10(peer, lba, 1)[BHS_FLAGS] |= (uint8_t)attribute;
	peer_send(peer, NULL, 0);
	virtual_run_until_idle();
	return peer->itt;
}

/* The call for that block; -1: it has not come to the volume. */
static int
call_of(uint32_t lba)
{
	for (unsigned i = 0; i < volume_script_calls(world.script); i++) {
		if (volume_script_call(world.script, i)->offset == (uint64_t)lba * 512)
			return (int)i;
	}
	return -1;
}

static void
complete(uint32_t lba)
{
	assert_true(call_of(lba) >= 0);
	volume_script_complete(world.script, (unsigned)call_of(lba), 0);
	virtual_run_until_idle();
}

static void
expect_data_in(struct peer *peer, uint32_t itt)
{
	assert_int_equal(get_be32(peer_expect(peer, ISCSI_DATA_IN)->bhs + BHS_ITT), itt);
}

static void
test_ordered_waits_for_older_and_holds_younger(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t itt[4];

	(void)state;
	volume_script_hold(world.script, true);
	for (unsigned i = 0; i < 4; i++)
		itt[i] = send_read(peer, i == 2 ? ORDERED : SIMPLE, i);
	assert_int_equal(volume_script_held(world.script), 2);
	complete(1);
	assert_int_equal(call_of(2), -1);
	complete(0);
	assert_int_equal(volume_script_held(world.script), 1);
	assert_int_equal(call_of(3), -1);
	complete(2);
	complete(3);
	expect_data_in(peer, itt[1]);
	expect_data_in(peer, itt[0]);
	expect_data_in(peer, itt[2]);
	expect_data_in(peer, itt[3]);
	volume_script_hold(world.script, false);
	peer_free(peer);
}

/* SPC-4 7.5.8: with QUEUE ALGORITHM MODIFIER 0h SIMPLE tasks run one after the other. */
static void
test_restricted_reordering(void **state)
{
	static const uint8_t list[16] = {0, 0, 0, 0, 0x0a, 10, 0x20, 0, [12] = 0xff, 0xff};
	static const uint8_t select[] = {0x15, 0x10, 0, 0, sizeof(list)};
	struct peer *peer = peer_session(NULL);

	(void)state;
	peer_command(peer, ISCSI_COMMAND_WRITE | SIMPLE, sizeof(list), select, sizeof(select));
	peer_send(peer, list, sizeof(list));
	assert_int_equal(peer_status(peer), SCSI_GOOD);
	volume_script_hold(world.script, true);
	for (unsigned i = 0; i < 3; i++)
		send_read(peer, SIMPLE, i);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(volume_script_held(world.script), 1);
		complete(i);
		peer_expect(peer, ISCSI_DATA_IN);
	}
	volume_script_hold(world.script, false);
	peer_free(peer);
}

/* It passes what waits, and nothing passes it. */
/* SAM-5 4.7: both ways to address a LUN lead to one task set. */
static void
test_one_set_by_either_address(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t first, second;

	(void)state;
	volume_script_hold(world.script, true);
	first = send_read(peer, SIMPLE, 0);
	peer_read10(peer, 1, 1)[BHS_FLAGS] |= ORDERED;
	peer->bhs[BHS_LUN] = 0x40; /* flat space */
	second = peer->itt;
	peer_send(peer, NULL, 0);
	virtual_run_until_idle();
	assert_int_equal(call_of(1), -1);
	complete(0);
	complete(1);
	expect_data_in(peer, first);
	expect_data_in(peer, second);
	volume_script_hold(world.script, false);
	peer_free(peer);
}

static void
test_head_of_queue_goes_first(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	send_read(peer, SIMPLE, 0);
	send_read(peer, ORDERED, 1);
	send_read(peer, HEAD, 2);
	send_read(peer, SIMPLE, 3);
	assert_int_equal(volume_script_held(world.script), 2);
	complete(0);
	assert_int_equal(call_of(1), -1); /* the one at the head has not ended */
	complete(2);
	assert_true(call_of(1) >= 0);
	assert_int_equal(call_of(3), -1);
	complete(1);
	complete(3);
	volume_script_hold(world.script, false);
	for (unsigned i = 0; i < 4; i++)
		peer_expect(peer, ISCSI_DATA_IN);
	peer_free(peer);
}

/* A write is in its task set before its data is there. */
static void
test_ordered_waits_for_the_data_of_a_write(void **state)
{
	static uint8_t pattern[4096];
	struct peer *peer = peer_session("ImmediateData=No\n");
	struct pdu *pdu;
	uint32_t itt, ttt;

	(void)state;
	peer_write10(peer, 0, 8);
	peer_send(peer, NULL, 0);
	itt = peer->itt;
	pdu = peer_expect(peer, ISCSI_R2T);
	ttt = get_be32(pdu->bhs + BHS_TTT);
	fill_pattern(pattern, sizeof(pattern), 3);
	peer_read10(peer, 0, 8)[BHS_FLAGS] |= ORDERED;
	peer_send(peer, NULL, 0);
	peer_expect_nothing(peer);
	peer_data_out(peer, itt, ttt, pattern, 0, sizeof(pattern), sizeof(pattern));
	assert_int_equal(peer_status(peer), SCSI_GOOD);
	pdu = peer_expect(peer, ISCSI_DATA_IN);
	assert_memory_equal(pdu->data, pattern, sizeof(pattern));
	peer_free(peer);
}

/* The set is one logical unit's, and one session's. */
static void
test_other_units_and_sessions_do_not_wait(void **state)
{
	static struct lun luns[2];
	struct peer *peer, *other;

	(void)state;
	luns[0] = luns[1] = world.luns[0];
	luns[1].number = 1;
	world.targets[0].luns = luns;
	world.targets[0].nluns = 2;
	peer = peer_session(NULL);
	other = peer_session(NULL);
	for (unsigned i = 0; i < 2; i++) { /* LUN 1's unit attentions */
		peer_read10(peer, 0, 1)[BHS_LUN + 1] = 1;
		peer_send(peer, NULL, 0);
		peer_expect(peer, i == 0 ? ISCSI_RESPONSE : ISCSI_DATA_IN);
	}
	volume_script_forget(world.script);
	volume_script_hold(world.script, true);
	send_read(peer, SIMPLE, 0);
	send_read(peer, ORDERED, 1);
	peer_read10(peer, 2, 1)[BHS_LUN + 1] = 1;
	peer->bhs[BHS_FLAGS] |= ORDERED;
	peer_send(peer, NULL, 0);
	send_read(other, ORDERED, 3);
	assert_int_equal(call_of(1), -1);
	assert_true(call_of(2) >= 0);
	assert_true(call_of(3) >= 0);
	complete(0);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_free(peer);
	peer_free(other);
}

static void
test_attributes_that_are_refused(void **state)
{
	struct peer *peer = peer_session(NULL);
	struct pdu *pdu;

	(void)state;
	for (uint8_t attribute = ISCSI_ACA; attribute <= 7; attribute++) {
		peer_read10(peer, 0, 1)[BHS_FLAGS] |= attribute;
		peer_send(peer, NULL, 0);
		pdu = peer_expect(peer, ISCSI_RESPONSE);
		assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_CHECK_CONDITION);
		assert_int_equal(pdu->data[2 + 2], 5);
		assert_int_equal(get_be16(pdu->data + 2 + 12), 0x4900);
		assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL | ISCSI_UNDERFLOW);
		assert_int_equal(get_be32(pdu->bhs + BHS_RESIDUAL), 512);
	}
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_clear_attention(peer);
	peer_free(peer);
}

static void
send_abort(struct peer *peer, uint32_t itt)
{
	uint8_t *bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = 0x80 | ISCSI_ABORT_TASK;
	put_be32(bhs + BHS_RTT, itt);
	peer_send(peer, NULL, 0);
	assert_int_equal(
		peer_expect(peer, ISCSI_TASK_RESPONSE)->bhs[BHS_RESPONSE], ISCSI_FUNCTION_COMPLETE);
}

/* A dormant task that is aborted lets those behind it go. */
static void
test_abort_of_a_dormant_task(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t itt;

	(void)state;
	volume_script_hold(world.script, true);
	send_read(peer, SIMPLE, 0);
	itt = send_read(peer, ORDERED, 1);
	send_read(peer, SIMPLE, 2);
	assert_int_equal(call_of(2), -1);
	send_abort(peer, itt);
	virtual_run_until_idle();
	assert_true(call_of(2) >= 0);
	assert_int_equal(call_of(1), -1);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_free(peer);
}

/* ABORT TASK SET starts none of those it is about to abort; a hang-up neither. */
static void
test_nothing_starts_while_all_are_aborted(void **state)
{
	struct peer *peer;
	uint8_t *bhs;

	(void)state;
	for (unsigned hang_up = 0; hang_up < 2; hang_up++) {
		peer = peer_session("ImmediateData=No\n");
		volume_script_forget(world.script);
		peer_write10(peer, 0, 8)[BHS_FLAGS] |= ORDERED;
		peer_send(peer, NULL, 0);
		peer_expect(peer, ISCSI_R2T);
		send_read(peer, SIMPLE, 1);
		send_read(peer, ORDERED, 2);
		if (hang_up) {
			peer_free(peer);
		} else {
			bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
			bhs[BHS_FLAGS] = 0x80 | ISCSI_ABORT_TASK_SET;
			peer_send(peer, NULL, 0);
			peer_expect(peer, ISCSI_TASK_RESPONSE);
			peer_expect_nothing(peer);
			peer_clear_attention(peer);
			peer_free(peer);
		}
		assert_int_equal(volume_script_calls(world.script), 0);
	}
}

/* Tasks enter the set in the order of CmdSN, not of arrival. */
static void
test_order_is_that_of_cmdsn(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t first = peer->cmdsn;

	(void)state;
	volume_script_hold(world.script, true);
	peer->cmdsn = first + 2;
	send_read(peer, SIMPLE, 2);
	peer->cmdsn = first + 1;
	send_read(peer, ORDERED, 1);
	assert_int_equal(volume_script_calls(world.script), 0);
	peer->cmdsn = first;
	send_read(peer, SIMPLE, 0);
	assert_int_equal(volume_script_held(world.script), 1);
	complete(0);
	assert_int_equal(call_of(2), -1);
	complete(1);
	complete(2);
	volume_script_hold(world.script, false);
	peer_free(peer);
}

/*
 * Dormant writes hold all the room a client may have, and the ORDERED read they wait for needs some:
 * it cannot have it, and says so.
 */
static void
test_a_read_that_could_wait_for_ever(void **state)
{
	enum { BLOCKS = 16384, WRITES = LIMIT_IOBUF_CLIENT / (BLOCKS * 512) };
	static uint8_t bytes[BLOCKS * 512];
	struct peer *peer = peer_session("MaxBurstLength=16777215\nImmediateData=No\n");
	uint32_t itt, ttt, offset, length;
	struct pdu *pdu;

	(void)state;
	volume_script_hold(world.script, true);
	send_read(peer, SIMPLE, 0);
	itt = send_read(peer, ORDERED, 1);
	for (unsigned i = 0; i < WRITES; i++) {
		peer_write10(peer, 0, BLOCKS);
		peer_send(peer, NULL, 0);
		for (size_t have = 0; have < sizeof(bytes); have += length) {
			pdu = peer_expect(peer, ISCSI_R2T);
			ttt = get_be32(pdu->bhs + BHS_TTT);
			offset = get_be32(pdu->bhs + BHS_OFFSET);
			length = get_be32(pdu->bhs + BHS_DESIRED);
			peer_data_out(peer, peer->itt, ttt, bytes, offset, length, 256 * KIB);
		}
	}
	virtual_run_until_idle();
	volume_script_hold(world.script, false);
	complete(0);
	peer_expect(peer, ISCSI_DATA_IN);
	pdu = peer_expect(peer, ISCSI_RESPONSE);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), itt);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_TASK_SET_FULL);
	for (unsigned i = 0; i < WRITES; i++)
		assert_int_equal(peer_status(peer), SCSI_GOOD);
	peer_free(peer);
}

/*
 * Many tasks, attributes and completions at random, beside a model that is the standard's text: what
 * has started is exactly what may have, at every moment.
 */
enum { MODEL_TASKS = 48 };

struct model {
	unsigned attribute;
	bool started, ended;
};

static bool
model_allows(const struct model *tasks, unsigned sent, unsigned n)
{
	for (unsigned i = 0; i < sent; i++) {
		if (i == n || tasks[i].ended)
			continue;
		if (tasks[n].attribute != HEAD && tasks[i].attribute == HEAD)
			return false;
		if (i > n)
			continue;
		if (tasks[n].attribute == ORDERED ||
			(tasks[n].attribute == SIMPLE && tasks[i].attribute == ORDERED))
			return false;
	}
	return true;
}

static void
check_model(struct model *tasks, unsigned sent)
{
	for (unsigned i = 0; i < sent; i++) {
		tasks[i].started |= model_allows(tasks, sent, i);
		if (tasks[i].started != (call_of(i) >= 0))
			fail_msg("task %u of %u, attribute %u: %s", i, sent, tasks[i].attribute,
				tasks[i].started ? "has not started" : "has started");
	}
}

static void
test_random_tasks(void **state)
{
	const char *given = getenv("SLABD_TEST_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);
	struct model tasks[MODEL_TASKS] = {{0}};
	struct peer *peer = peer_session(NULL);
	unsigned sent = 0, ended = 0, pick;

	(void)state;
	print_message("# seed %u\n", seed);
	srandom(seed);
	volume_script_hold(world.script, true);
	while (ended < MODEL_TASKS) {
		if (sent < MODEL_TASKS && random() % 2) {
			tasks[sent].attribute = random() % 2   ? SIMPLE
						: random() % 3 ? ORDERED
							       : HEAD;
			send_read(peer, tasks[sent].attribute, sent);
			sent++;
		} else if (sent > ended) {
			do
				pick = (unsigned)random() % sent;
			while (!tasks[pick].started || tasks[pick].ended);
			complete(pick);
			peer_expect(peer, ISCSI_DATA_IN);
			tasks[pick].ended = true;
			ended++;
		}
		check_model(tasks, sent);
	}
	volume_script_hold(world.script, false);
	peer_free(peer);
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_ordered_waits_for_older_and_holds_younger),
		WORLD_TEST(test_one_set_by_either_address),
		WORLD_TEST(test_head_of_queue_goes_first),
		WORLD_TEST(test_restricted_reordering),
		WORLD_TEST(test_ordered_waits_for_the_data_of_a_write),
		WORLD_TEST(test_other_units_and_sessions_do_not_wait),
		WORLD_TEST(test_attributes_that_are_refused),
		WORLD_TEST(test_abort_of_a_dormant_task),
		WORLD_TEST(test_nothing_starts_while_all_are_aborted),
		WORLD_TEST(test_order_is_that_of_cmdsn),
		WORLD_TEST(test_a_read_that_could_wait_for_ever),
		WORLD_TEST(test_random_tasks),
	};

	return cmocka_run_group_tests_name("iscsi_task_set", tests, NULL, NULL);
}
