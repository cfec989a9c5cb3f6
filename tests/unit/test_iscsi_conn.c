/* protocols/iscsi/iscsi_conn.c and iscsi_target.c: deadlines, drain, what the daemon sees. */
#include "config.h"

#include "iscsi_peer.h"

#include <errno.h>

#include "bytes.h"
#include "scsi/scsi.h"

static uint8_t pattern[256 * 1024];

/* 11.19: the target's ping has no tag of the initiator's, the answer has its. */
static void
answer_ping(struct peer *peer)
{
	struct pdu *pdu = peer_expect(peer, ISCSI_NOP_IN);
	uint32_t ttt = get_be32(pdu->bhs + BHS_TTT);
	uint8_t *bhs = peer_start(peer, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);

	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), ISCSI_TAG_NONE);
	assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL);
	assert_int_equal(pdu->length, 0);
	assert_true(ttt != ISCSI_TAG_NONE);
	put_be32(bhs + BHS_ITT, ISCSI_TAG_NONE);
	put_be32(bhs + BHS_TTT, ttt);
	peer_send(peer, NULL, 0);
	peer_expect_nothing(peer);
	assert_true(peer_open(peer));
}

/* One that answers stays, one that says anything else too, one that is silent goes. */
static void
test_pings(void **state)
{
	struct peer *peer = peer_session("HeaderDigest=CRC32C\n"), *silent = peer_session(NULL);
	struct peer *busy = peer_session(NULL);

	(void)state;
	virtual_advance(LIMIT_ISCSI_SILENCE - 2 * SECOND_NS);
	peer_expect_nothing(peer);
	peer_read10(busy, 0, 1);
	peer_send(busy, NULL, 0);
	peer_expect(busy, ISCSI_DATA_IN);
	virtual_advance(4 * SECOND_NS);
	answer_ping(peer);
	peer_expect(silent, ISCSI_NOP_IN);
	peer_expect_nothing(busy);
	virtual_advance(LIMIT_ISCSI_PING - 4 * SECOND_NS);
	assert_true(peer_open(silent));
	virtual_advance(6 * SECOND_NS);
	assert_false(peer_open(silent));
	assert_true(peer_open(peer));
	assert_true(peer_open(busy));
	virtual_advance(LIMIT_ISCSI_SILENCE - LIMIT_ISCSI_PING);
	answer_ping(peer);
	peer_free(busy);
	peer_free(silent);
	peer_free(peer);
}

/* R05: a PDU that stops in the middle. */
static void
test_partial_pdu(void **state)
{
	static const size_t parts[] = {1, 47, 48, 100};
	uint8_t bytes[1024];
	struct peer *peer;
	size_t n;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		peer = peer_session(NULL);
		peer_start(peer, ISCSI_NOP_OUT);
		n = peer_compose(peer, pattern, 200, bytes);
		pipe_feed(peer->pipe, bytes, parts[i]);
		virtual_advance(LIMIT_PARTIAL_IDLE - 2 * SECOND_NS);
		assert_true(peer_open(peer));
		if (i == 0) { /* in time after all */
			pipe_feed(peer->pipe, bytes + parts[i], n - parts[i]);
			peer_expect(peer, ISCSI_NOP_IN);
			virtual_advance(LIMIT_ISCSI_SILENCE + 2 * SECOND_NS);
			answer_ping(peer); /* idle is no sin */
		} else {
			virtual_advance(4 * SECOND_NS);
			assert_false(peer_open(peer));
		}
		peer_free(peer);
	}
}

/* A drop a second does not keep a PDU alive. */
static void
test_trickle(void **state)
{
	struct peer *peer = peer_session(NULL);
	unsigned seconds;

	(void)state;
	for (seconds = 0; seconds < 60 && peer_open(peer); seconds++) {
		pipe_feed(peer->pipe, "", 1);
		virtual_advance(SECOND_NS);
	}
	assert_in_range(seconds, 28, 33);
	peer_free(peer);
}

static void
test_data_that_does_not_come(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	peer_write10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_R2T);
	virtual_advance(LIMIT_PARTIAL_IDLE - 2 * SECOND_NS);
	assert_true(peer_open(peer));
	virtual_advance(4 * SECOND_NS);
	assert_false(peer_open(peer));
	assert_int_equal(iobuf_reserved(0), 0);
	peer_free(peer);
}

static void
test_output_stalls(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	pipe_set_room(peer->pipe, 10);
	peer_read10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	virtual_advance(LIMIT_OUTPUT_STALL - 2 * SECOND_NS);
	assert_true(peer_open(peer));
	virtual_advance(5 * SECOND_NS);
	assert_false(peer_open(peer));
	peer_free(peer);
}

/* A stalled disk is no reason to lose a connection. */
static void
test_disk_stalls_for_minutes(void **state)
{
	struct peer *peer = peer_session(NULL);

	(void)state;
	volume_script_hold(world.script, true);
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	for (unsigned i = 0; i < 4; i++) {
		virtual_advance(LIMIT_ISCSI_SILENCE + 2 * SECOND_NS);
		answer_ping(peer);
	}
	assert_true(peer_open(peer));
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect(peer, ISCSI_DATA_IN);
	peer_free(peer);
}

/* A connection that is not read for want of memory: what it asked before has its answer in time. */
static void
test_blocked_reading(void **state)
{
	struct peer *peer = peer_session(NULL);
	uint32_t itt;
	uint8_t *bhs;

	(void)state;
	volume_script_hold(world.script, true);
	for (unsigned i = 0; i < 9; i++) { /* the ninth waits for room */
		peer_read10(peer, 0, WORLD_SIZE / 512 - 1);
		put_be32(peer->bhs + BHS_EDTL, 512);
		itt = peer->itt;
		peer_send(peer, NULL, 0);
	}
	bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
	bhs[BHS_FLAGS] = ISCSI_FINAL | ISCSI_ABORT_TASK;
	put_be32(bhs + BHS_RTT, itt - 1);
	peer_send(peer, NULL, 0);
	peer_start(peer, ISCSI_NOP_OUT | ISCSI_IMMEDIATE); /* its data waits behind the ninth */
	peer_send(peer, pattern, 4096);
	virtual_advance(LIMIT_ISCSI_ABORT - 2 * SECOND_NS);
	peer_expect_nothing(peer);
	virtual_advance(4 * SECOND_NS);
	assert_int_equal(
		peer_expect(peer, ISCSI_TASK_RESPONSE)->bhs[BHS_RESPONSE], ISCSI_FUNCTION_REJECTED);
	peer_expect_nothing(peer);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	for (unsigned i = 0; i < 8; i++)
		peer_expect(peer, ISCSI_DATA_IN);
	peer_expect(peer, ISCSI_NOP_IN);
	peer_expect(peer, ISCSI_DATA_IN);
	peer_free(peer);
}

/* Errors of the stream itself, at every moment. */
static void
test_stream_errors(void **state)
{
	struct peer *peer;

	(void)state;
	peer = peer_session(NULL);
	pipe_fail_read(peer->pipe, -ECONNRESET);
	peer_expect_closed(peer);
	peer_free(peer);
	peer = peer_session(NULL);
	pipe_fail_write(peer->pipe, -EPIPE);
	peer_read10(peer, 0, 64);
	peer_send(peer, NULL, 0);
	peer_expect_closed(peer);
	peer_free(peer);
	peer = peer_new(0);
	pipe_fail_write(peer->pipe, -EPIPE);
	peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE)[BHS_FLAGS] = 0x87;
	peer_send(peer, NULL, 0);
	peer_expect_closed(peer);
	peer_free(peer);
}

/* 11.9: the target asks for a Logout within so many seconds. */
static void
expect_asked(struct peer *peer)
{
	struct pdu *pdu = peer_expect(peer, ISCSI_ASYNC);

	assert_int_equal(pdu->bhs[BHS_FLAGS], ISCSI_FINAL);
	assert_int_equal(pdu->bhs[BHS_EVENT], ISCSI_ASYNC_LOGOUT);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), ISCSI_TAG_NONE);
	assert_int_equal(get_be16(pdu->bhs + BHS_PARAMETER), 0);
	assert_int_equal(get_be16(pdu->bhs + BHS_PARAMETER + 2), 0);
	assert_int_equal(get_be16(pdu->bhs + BHS_PARAMETER + 4), LIMIT_ISCSI_LOGOUT / SECOND_NS);
	assert_int_equal(pdu->length, 0);
}

/* ... and says so before it hangs up. */
static void
expect_dropped(struct peer *peer)
{
	struct pdu *pdu = peer_expect(peer, ISCSI_ASYNC);

	assert_int_equal(pdu->bhs[BHS_EVENT], ISCSI_ASYNC_DROP);
	assert_int_equal(get_be16(pdu->bhs + BHS_PARAMETER), peer->cid);
	assert_int_equal(get_be16(pdu->bhs + BHS_PARAMETER + 2), 2); /* DefaultTime2Wait */
}

/* Those who log out, with what runs answered before, are gone early. */
static void
test_drain_by_logout(void **state)
{
	struct peer *idle = peer_session(NULL), *busy = peer_session("HeaderDigest=CRC32C\n");

	(void)state;
	volume_script_hold(world.script, true);
	peer_read10(busy, 0, 8);
	peer_send(busy, NULL, 0);
	virtual_run_until_idle();
	iscsi_frontend.drain(loop_by_index(0));
	expect_asked(idle);
	expect_asked(busy);
	for (unsigned i = 0; i < 2; i++) {
		peer_start(i ? busy : idle, ISCSI_LOGOUT_REQUEST);
		peer_send(i ? busy : idle, NULL, 0);
	}
	peer_expect(idle, ISCSI_LOGOUT_RESPONSE);
	peer_expect_closed(idle);
	peer_expect_nothing(busy);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect(busy, ISCSI_DATA_IN);
	peer_expect(busy, ISCSI_LOGOUT_RESPONSE);
	peer_expect_closed(busy);
	assert_int_equal(world_connections(0), 0);
	peer_free(idle);
	peer_free(busy);
}

/* Drain: those who do not log out are served until their time is up; then what runs is answered, and
 * what waits for data is not waited for. */
static void
test_drain(void **state)
{
	struct peer *busy = peer_session(NULL), *idle = peer_session(NULL), *login = peer_new(0),
		    *discovery = peer_new(0), *late;
	struct pdu *pdu;

	(void)state;
	peer_discover(discovery);
	volume_script_hold(world.script, true);
	peer_read10(busy, 0, 8);
	peer_send(busy, NULL, 0);
	peer_write10(busy, 0, 64);
	peer_send(busy, NULL, 0);
	peer_expect(busy, ISCSI_R2T);
	iscsi_frontend.drain(loop_by_index(0));
	virtual_run_until_idle();
	assert_false(peer_open(login));
	assert_false(peer_open(discovery));
	expect_asked(busy);
	expect_asked(idle);
	virtual_advance(LIMIT_ISCSI_LOGOUT - SECOND_NS - 1);
	peer_start(idle, ISCSI_NOP_OUT);
	peer_send(idle, NULL, 0);
	peer_expect(idle, ISCSI_NOP_IN);
	virtual_advance(2 * SECOND_NS);
	expect_dropped(idle);
	expect_dropped(busy);
	peer_expect_closed(idle);
	peer_read10(busy, 8, 8);
	peer_send(busy, NULL, 0);
	virtual_run_until_idle();
	assert_true(peer_open(busy));
	assert_int_equal(world_connections(0), 1);
	late = peer_new(0);
	assert_false(peer_open(late));
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	pdu = peer_expect(busy, ISCSI_DATA_IN);
	assert_int_equal(pdu->length, 4096);
	peer_expect_closed(busy);
	peer_free(busy);
	peer_free(idle);
	peer_free(login);
	peer_free(discovery);
	peer_free(late);
}

static void
test_abort(void **state)
{
	struct peer *busy = peer_session(NULL), *login = peer_new(0);

	(void)state;
	volume_script_hold(world.script, true);
	peer_read10(busy, 0, 8);
	peer_send(busy, NULL, 0);
	virtual_run_until_idle();
	iscsi_frontend.abort(loop_by_index(0));
	virtual_run_until_idle();
	assert_false(peer_open(busy));
	assert_false(peer_open(login));
	assert_int_equal(world_connections(0), 1); /* its read is still with the disk */
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_free(busy);
	peer_free(login);
}

static unsigned rows;

static void
look_at_row(const struct connection_row *row, void *arg)
{
	const char *const *what = arg;

	assert_string_equal(row->protocol, "iscsi");
	assert_string_equal(row->client, "10.0.0.7:41332");
	assert_string_equal(row->what, what[rows]);
	assert_string_equal(row->name, rows == 0 ? "" : PEER_NAME);
	if (rows >= 2)
		assert_non_null(strstr(row->volume, "script"));
	else
		assert_string_equal(row->volume, "");
	assert_int_equal(row->in_flight, rows == 3);
	rows++;
}

static void
test_visit(void **state)
{
	const char *what[] = {"login", "discovery", "", "digests header+data"};
	struct peer *login = peer_new(0), *discovery = peer_new(0), *plain, *digests;

	(void)state;
	peer_discover(discovery);
	plain = peer_session(NULL);
	digests = peer_session("HeaderDigest=CRC32C\nDataDigest=CRC32C\n");
	volume_script_hold(world.script, true);
	peer_read10(digests, 0, 1);
	peer_send(digests, NULL, 0);
	virtual_run_until_idle();
	rows = 0;
	iscsi_frontend.visit(loop_by_index(0), look_at_row, what);
	assert_int_equal(rows, 4);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect(digests, ISCSI_DATA_IN);
	peer_free(login);
	peer_free(discovery);
	peer_free(plain);
	peer_free(digests);
}

/* The only LUN goes: what runs is answered, then the session ends. */
static void
test_volume_gone(void **state)
{
	struct peer *peer = peer_session(NULL), *discovery = peer_new(0);

	(void)state;
	peer_discover(discovery);
	volume_script_hold(world.script, true);
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	virtual_run_until_idle();
	volume_set_going(volume_script_volume(world.script));
	iscsi_frontend.volume_gone(loop_by_index(0), volume_script_volume(world.script));
	virtual_run_until_idle();
	assert_true(peer_open(peer));
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	expect_dropped(peer);
	peer_expect(peer, ISCSI_DATA_IN);
	peer_expect_closed(peer);
	assert_true(peer_open(discovery));
	peer_free(peer);
	peer_free(discovery);
}

/* Requests in one read, answers in one write: a system call for many (design section 4). */
static void
test_calls_per_request(void **state)
{
	struct peer *peer = peer_session(NULL);
	unsigned before;

	(void)state;
	before = pipe_calls(peer->pipe);
	for (unsigned round = 0; round < 100; round++) {
		for (unsigned i = 0; i < 32; i++) {
			peer_read10(peer, i, 8);
			peer_send(peer, NULL, 0);
		}
		virtual_run_until_idle();
		for (unsigned i = 0; i < 32; i++)
			peer_expect(peer, ISCSI_DATA_IN);
	}
	assert_true(pipe_calls(peer->pipe) - before <= 200);
	peer_free(peer);
}

/* What came ahead of its CmdSN does not hold its room for ever. */
static void
test_cmdsn_that_does_not_come(void **state)
{
	static const uint8_t data[4096];
	struct peer *peer = peer_session(NULL);
	uint32_t missing = peer->cmdsn;

	(void)state;
	peer->cmdsn += 2;
	peer_write10(peer, 0, 8);
	peer_send(peer, data, sizeof(data));
	virtual_advance(20 * SECOND_NS);
	assert_int_equal(iobuf_reserved(0), sizeof(data));
	peer->cmdsn = missing;
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_NOP_IN);
	virtual_advance(LIMIT_PARTIAL_IDLE - 2 * SECOND_NS);
	peer_expect_nothing(peer);
	virtual_advance(5 * SECOND_NS);
	peer_expect_closed(peer);
	assert_int_equal(iobuf_reserved(0), 0);
	assert_int_equal(volume_script_calls(world.script), 0);
	peer_free(peer);
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

/* Everybody has an attention of it, who asked too. */
static void
reset_unit(struct peer *peer)
{
	uint8_t *bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = ISCSI_FINAL | ISCSI_LUN_RESET;
	put_be32(bhs + BHS_RTT, ISCSI_TAG_NONE);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_TASK_RESPONSE);
	virtual_advance(2 * SECOND_NS);
	assert_int_equal(peer_expect(peer, ISCSI_ASYNC)->bhs[BHS_EVENT], ISCSI_ASYNC_SCSI);
	peer_clear_attention(peer);
}

/* 11.9.1: what the next command will hear is told by itself, once; to those that asked for it. */
static void
test_events(void **state)
{
	struct peer *peer, *other = peer_session(NULL);
	struct pdu *pdu;

	(void)state;
	world.targets[0].events = true;
	peer = peer_session("DataDigest=CRC32C\n");
	virtual_advance(2 * SECOND_NS);
	peer_expect_nothing(peer);
	reset_unit(other);
	pdu = peer_expect(peer, ISCSI_ASYNC);
	assert_int_equal(pdu->bhs[BHS_EVENT], ISCSI_ASYNC_SCSI);
	assert_int_equal(get_be64(pdu->bhs + BHS_LUN), 0);
	assert_int_equal(get_be32(pdu->bhs + BHS_ITT), ISCSI_TAG_NONE);
	assert_int_equal(get_be16(pdu->data), pdu->length - 2);
	assert_int_equal(pdu->data[2 + 2], 0x06);
	assert_int_equal(get_be16(pdu->data + 2 + 12), 0x2903);
	virtual_advance(2 * SECOND_NS);
	peer_expect_nothing(peer);
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	assert_int_equal(peer_status(peer), SCSI_CHECK_CONDITION);
	peer_read10(peer, 0, 1);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_DATA_IN);
	/* And again with the next one. */
	reset_unit(other);
	assert_int_equal(peer_expect(peer, ISCSI_ASYNC)->bhs[BHS_EVENT], ISCSI_ASYNC_SCSI);
	peer_free(peer);
	peer_free(other);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_pings),
		WORLD_TEST(test_partial_pdu),
		WORLD_TEST(test_trickle),
		WORLD_TEST(test_data_that_does_not_come),
		WORLD_TEST(test_output_stalls),
		WORLD_TEST(test_disk_stalls_for_minutes),
		WORLD_TEST(test_blocked_reading),
		WORLD_TEST(test_stream_errors),
		WORLD_TEST(test_drain),
		WORLD_TEST(test_drain_by_logout),
		WORLD_TEST(test_events),
		WORLD_TEST(test_abort),
		WORLD_TEST(test_visit),
		WORLD_TEST(test_volume_gone),
		WORLD_TEST(test_calls_per_request),
		WORLD_TEST(test_cmdsn_that_does_not_come),
	};

	return cmocka_run_group_tests_name("iscsi_conn", tests, NULL, NULL);
}
