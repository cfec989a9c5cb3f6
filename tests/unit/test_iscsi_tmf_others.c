/* protocols/iscsi/iscsi_tmf.c: what one session's resets do to other sessions. RFC 7143 4.2.3 */
#include "config.h"

#include "iscsi_peer.h"

#include "bytes.h"
#include "scsi/scsi.h"

static uint8_t pattern[64 * 1024];

/* On the other loop. */
static struct peer *
other_session(const char *keys)
{
	struct peer *peer = peer_new(1);

	peer_login(peer, keys);
	peer_clear_attention(peer);
	return peer;
}

static void
send_reset(struct peer *peer, uint8_t function)
{
	uint8_t *bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = 0x80 | function;
	peer_send(peer, NULL, 0);
}

static void
expect_answer(struct peer *peer, uint8_t answer)
{
	assert_int_equal(peer_expect(peer, ISCSI_TASK_RESPONSE)->bhs[BHS_RESPONSE], answer);
}

static uint32_t
start_read(struct peer *peer)
{
	peer_read10(peer, 0, 8);
	peer_send(peer, NULL, 0);
	virtual_run_until_idle();
	return peer->itt;
}

/* Its R2T's transfer tag. */
static uint32_t
start_write(struct peer *peer, uint32_t *itt)
{
	peer_write10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	*itt = peer->itt;
	return get_be32(peer_expect(peer, ISCSI_R2T)->bhs + BHS_TTT);
}

static void
expect_attention(struct peer *peer, unsigned code)
{
	uint8_t cdb[6] = {0};
	struct pdu *pdu;

	peer_command(peer, 0, 0, cdb, sizeof(cdb));
	peer_send(peer, NULL, 0);
	pdu = peer_expect(peer, ISCSI_RESPONSE);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_CHECK_CONDITION);
	assert_int_equal(get_be16(pdu->data + 2 + 12), code);
}

/* The Control mode page's TAS bit, and the others' attention taken away. */
static void
set_tas(struct peer *peer, struct peer *other)
{
	static const uint8_t list[] = {
		0, 0, 0, 0, 0x0a, 10, 0x20, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0};
	static const uint8_t cdb[6] = {0x15, 0x10, 0, 0, sizeof(list)};

	peer_command(peer, ISCSI_COMMAND_WRITE, sizeof(list), cdb, sizeof(cdb));
	peer_send(peer, list, sizeof(list));
	assert_int_equal(peer_status(peer), SCSI_GOOD);
	peer_clear_attention(other);
}

/* "Complete" comes when the other session's task has ended, and that session hears 29/03 instead of a
 * status. */
static void
test_reset_waits_for_others(void **state)
{
	static const uint8_t functions[] = {ISCSI_LUN_RESET, ISCSI_TARGET_WARM_RESET};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
		struct peer *peer = peer_session(NULL), *other = other_session(NULL);

		volume_script_forget(world.script);
		volume_script_hold(world.script, true);
		start_read(other);
		send_reset(peer, functions[i]);
		virtual_advance(5 * SECOND_NS);
		peer_expect_nothing(peer);
		volume_script_hold(world.script, false);
		volume_script_complete_all(world.script, 0);
		expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
		peer_expect_nothing(other);
		expect_attention(other, 0x2903);
		peer_clear_attention(other);
		peer_free(peer);
		peer_free(other);
	}
}

/* What has not begun yet is gone at once; what still comes of it passes by. */
static void
test_others_that_wait(void **state)
{
	struct peer *peer = peer_session(NULL);
	struct peer *other = other_session("ImmediateData=No\n");
	uint32_t itt, ttt;

	(void)state;
	ttt = start_write(other, &itt);
	peer_read10(other, 0, 8)[BHS_FLAGS] |= ISCSI_ORDERED; /* dormant */
	peer_send(other, NULL, 0);
	virtual_run_until_idle();
	send_reset(peer, ISCSI_LUN_RESET);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	assert_int_equal(iobuf_reserved(1), 0);
	peer_data_out(other, itt, ttt, pattern, 0, 32768, 8192);
	peer_expect_nothing(other);
	assert_int_equal(volume_script_calls(world.script), 0);
	expect_attention(other, 0x2903);
	peer_free(peer);
	peer_free(other);
}

/* TAS: each has a status, when the data that was asked for has passed by. Its own tasks have none. */
static void
test_task_aborted_status(void **state)
{
	struct peer *peer = peer_session(NULL);
	struct peer *other = other_session("ImmediateData=No\n");
	uint32_t read, write, dormant, ttt;
	struct pdu *pdu;

	(void)state;
	set_tas(peer, other);
	volume_script_forget(world.script);
	volume_script_hold(world.script, true);
	start_read(peer);
	read = start_read(other);
	ttt = start_write(other, &write);
	peer_read10(other, 0, 8)[BHS_FLAGS] |= ISCSI_ORDERED;
	peer_send(other, NULL, 0);
	dormant = other->itt;
	virtual_run_until_idle();
	send_reset(peer, ISCSI_LUN_RESET);
	peer_expect_nothing(peer);
	peer_expect_nothing(other);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_expect_nothing(peer);

	pdu = peer_expect(other, ISCSI_RESPONSE);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), read);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_TASK_ABORTED);
	assert_int_equal(pdu->length, 0);
	assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL | ISCSI_UNDERFLOW);
	assert_int_equal(get_be32(pdu->bhs + BHS_RESIDUAL), 4096);
	peer_expect_nothing(other);
	peer_data_out(other, write, ttt, pattern, 0, 32768, 8192);
	pdu = peer_expect(other, ISCSI_RESPONSE);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), write);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_TASK_ABORTED);
	pdu = peer_expect(other, ISCSI_RESPONSE);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), dormant);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_TASK_ABORTED);
	peer_expect_nothing(other);
	assert_int_equal(volume_script_calls(world.script), 2);
	peer_free(peer);
	peer_free(other);
}

/* TAS, and the write's data is half there: the rest is still taken from the wire. */
static void
test_task_aborted_status_after_the_data(void **state)
{
	struct peer *peer = peer_session(NULL);
	struct peer *other = other_session("ImmediateData=No\n");
	uint32_t itt, ttt;

	(void)state;
	set_tas(peer, other);
	ttt = start_write(other, &itt);
	for (unsigned i = 0; i < 4; i++) {
		uint8_t *bhs = peer_start(other, ISCSI_DATA_OUT);

		other->itt--;
		bhs[BHS_FLAGS] = i == 3 ? ISCSI_FINAL : 0;
		put_be32(bhs + BHS_ITT, itt);
		put_be32(bhs + BHS_TTT, ttt);
		put_be32(bhs + BHS_DATASN, i);
		put_be32(bhs + BHS_OFFSET, i * 8192);
		if (i == 1) { /* in the middle of a PDU */
			uint8_t bytes[ISCSI_BHS + 8192 + 16];
			size_t n = peer_compose(other, pattern, 8192, bytes);

			pipe_feed(other->pipe, bytes, 1000);
			virtual_run_until_idle();
			send_reset(peer, ISCSI_LUN_RESET);
			expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
			assert_int_equal(iobuf_reserved(1), 0);
			pipe_feed(other->pipe, bytes + 1000, n - 1000);
		} else {
			peer_send(other, pattern, 8192);
		}
		if (i < 3)
			peer_expect_nothing(other);
	}
	assert_int_equal(peer_status(other), SCSI_TASK_ABORTED);
	assert_int_equal(volume_script_calls(world.script), 0);
	expect_attention(other, 0x2903);
	peer_free(peer);
	peer_free(other);
}

/* After 10 s: FUNCTION REJECTED, and the other session's task goes on with its status. */
static void
test_others_that_take_too_long(void **state)
{
	struct peer *peer = peer_session(NULL), *other = other_session(NULL);
	uint32_t itt;

	(void)state;
	volume_script_hold(world.script, true);
	itt = start_read(other);
	send_reset(peer, ISCSI_LUN_RESET);
	virtual_advance(LIMIT_ISCSI_ABORT - 2 * SECOND_NS);
	peer_expect_nothing(peer);
	virtual_advance(4 * SECOND_NS);
	expect_answer(peer, ISCSI_FUNCTION_REJECTED);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect_nothing(peer);
	assert_int_equal(get_be32(peer_expect(other, ISCSI_DATA_IN)->bhs + BHS_ITT), itt);
	peer_free(peer);
	peer_free(other);
}

/* The session that is waited for hangs up: its task in the kernel is waited for all the same. */
static void
test_the_other_hangs_up(void **state)
{
	struct peer *peer = peer_session(NULL), *other = other_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	start_read(other);
	send_reset(peer, ISCSI_LUN_RESET);
	peer_expect_nothing(peer);
	peer_free(other);
	peer_expect_nothing(peer);
	/* and one that is hanging already is asked too */
	send_reset(peer, ISCSI_LUN_RESET);
	peer_expect_nothing(peer);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_free(peer);
}

static void
test_the_asker_hangs_up(void **state)
{
	struct peer *peer = peer_session(NULL), *other = other_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	start_read(other);
	send_reset(peer, ISCSI_LUN_RESET);
	peer_expect_nothing(peer);
	peer_free(peer);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect_nothing(other);
	expect_attention(other, 0x2903);
	peer_free(other);
}

/* Two sessions reset each other's tasks. */
static void
test_resets_cross(void **state)
{
	struct peer *peer = peer_session(NULL), *other = other_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	start_read(peer);
	start_read(other);
	send_reset(peer, ISCSI_LUN_RESET);
	send_reset(other, ISCSI_LUN_RESET);
	peer_expect_nothing(peer);
	peer_expect_nothing(other);
	volume_script_complete(world.script, 0, 0);
	peer_expect_nothing(peer);
	peer_expect_nothing(other);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	expect_answer(other, ISCSI_FUNCTION_COMPLETE);
	peer_free(peer);
	peer_free(other);
}

/* 11.5.1: every session with the target ends, the asker's behind its answer; other targets' do not. */
static void
test_cold_reset(void **state)
{
	struct peer *peer = peer_session(NULL), *other = other_session(NULL);
	struct peer *discovery = peer_new(1), *elsewhere = peer_new(1);
	struct pdu pdu;

	(void)state;
	peer_discover(discovery);
	assert_int_equal(peer_login_step(elsewhere, 0x87,
				 "InitiatorName=" PEER_NAME "\nTargetName=" WORLD_OTHER "\n", &pdu),
		0);
	peer_clear_attention(elsewhere);
	volume_script_hold(world.script, true);
	start_read(other);
	start_read(elsewhere);
	send_reset(peer, ISCSI_TARGET_COLD_RESET);
	peer_expect_nothing(peer);
	peer_expect_nothing(other);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	expect_answer(peer, ISCSI_FUNCTION_COMPLETE);
	peer_expect_closed(peer);
	assert_int_equal(peer_expect(other, ISCSI_ASYNC)->bhs[36], 2);
	peer_expect_closed(other);
	peer_expect_nothing(elsewhere);
	expect_attention(elsewhere, 0x2903);
	assert_true(peer_open(discovery));
	peer_free(peer);
	peer_free(other);
	peer_free(elsewhere);
	peer_free(discovery);
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_reset_waits_for_others),
		WORLD_TEST(test_others_that_wait),
		WORLD_TEST(test_task_aborted_status),
		WORLD_TEST(test_task_aborted_status_after_the_data),
		WORLD_TEST(test_others_that_take_too_long),
		WORLD_TEST(test_the_other_hangs_up),
		WORLD_TEST(test_the_asker_hangs_up),
		WORLD_TEST(test_resets_cross),
		WORLD_TEST(test_cold_reset),
	};

	return cmocka_run_group_tests_name("iscsi_tmf_others", tests, NULL, NULL);
}
