/* Several connections in one session (RFC 7143 4.2.5.1), and a connection in another one's place. */
#include "config.h"

#include "iscsi_peer.h"

#include <errno.h>
#include <stdio.h>

#include "bytes.h"
#include "scsi/scsi.h"

#define NAMES "InitiatorName=" PEER_NAME "\nTargetName=" WORLD_TARGET "\n"

static struct pdu response;

/* A session of up to four connections. */
static struct peer *
new_session(void)
{
	return peer_session("MaxConnections=4\n");
}

static struct peer *
join(const struct peer *other, unsigned loop, uint16_t cid)
{
	struct peer *peer = peer_join(other, loop, cid);

	peer_login(peer, NULL);
	assert_int_equal(peer->tsih, other->tsih);
	return peer;
}

static int
try_to_join(struct peer *peer, const char *keys)
{
	char lines[512];

	snprintf(lines, sizeof(lines), "%s%s", NAMES, keys);
	return peer_login_step(peer, 0x87, lines, &response);
}

static void
ping(struct peer *peer)
{
	peer_start(peer, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);
	peer_send(peer, NULL, 0);
	peer_expect(peer, ISCSI_NOP_IN);
}

static void
logout(struct peer *peer, uint8_t reason, uint16_t cid)
{
	uint8_t *bhs = peer_start(peer, ISCSI_LOGOUT_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = ISCSI_FINAL | reason;
	put_be16(bhs + BHS_CID, cid);
	peer_send(peer, NULL, 0);
}

static void
expect_logout(struct peer *peer, enum iscsi_logout_answer answer)
{
	assert_int_equal(peer_expect(peer, ISCSI_LOGOUT_RESPONSE)->bhs[BHS_RESPONSE], answer);
}

/* From either loop: all live on the session's, and the CmdSN is one for all. */
static void
test_one_order_of_commands(void **state)
{
	struct peer *first = new_session(), *second, *third;
	uint32_t cmdsn;

	(void)state;
	second = join(first, 1, 7);
	third = join(first, 0, 8);
	assert_int_equal(world_connections(0), 3);
	assert_int_equal(world_connections(1), 0);
	cmdsn = first->cmdsn;
	/* backwards: each waits for the ones before it */
	third->cmdsn = cmdsn + 2;
	peer_read10(third, 0, 1);
	peer_send(third, NULL, 0);
	second->cmdsn = cmdsn + 1;
	peer_read10(second, 0, 1);
	peer_send(second, NULL, 0);
	peer_expect_nothing(third);
	peer_expect_nothing(second);
	peer_read10(first, 0, 1);
	peer_send(first, NULL, 0);
	assert_int_equal(
		get_be32(peer_expect(third, ISCSI_DATA_IN)->bhs + BHS_EXPCMDSN), cmdsn + 3);
	peer_expect(second, ISCSI_DATA_IN);
	peer_expect(first, ISCSI_DATA_IN);
	peer_expect_nothing(first);
	peer_expect_nothing(second);
	peer_expect_nothing(third);
	peer_free(second);
	peer_free(first);
	peer_free(third);
}

/* Digests, StatSN and MaxRecvDataSegmentLength are each connection's own. */
static void
test_connection_parameters(void **state)
{
	struct peer *first = new_session(), *second = peer_join(first, 1, 1);

	(void)state;
	second->statsn = 0x1000;
	peer_login(
		second, "HeaderDigest=CRC32C\nDataDigest=CRC32C\nMaxRecvDataSegmentLength=512\n");
	peer_read10(second, 0, 2);
	peer_send(second, NULL, 0);
	assert_int_equal(peer_expect(second, ISCSI_DATA_IN)->length, 512);
	assert_int_equal(peer_expect(second, ISCSI_DATA_IN)->length, 512);
	first->cmdsn = second->cmdsn;
	peer_read10(first, 0, 2);
	peer_send(first, NULL, 0);
	assert_int_equal(peer_expect(first, ISCSI_DATA_IN)->length, 1024);
	peer_free(first);
	peer_free(second);
}

/* Data-out comes by the command's connection alone. */
static void
test_allegiance(void **state)
{
	uint8_t data[4096];
	struct peer *first = new_session(), *second = join(first, 1, 1);
	uint32_t itt, ttt;

	(void)state;
	fill_pattern(data, sizeof(data), 5);
	peer_write10(first, 8, 8);
	itt = first->itt;
	peer_send(first, NULL, 0);
	ttt = get_be32(peer_expect(first, ISCSI_R2T)->bhs + BHS_TTT);
	peer_data_out(second, itt, ttt, data, 0, sizeof(data), sizeof(data));
	assert_int_equal(
		peer_expect(second, ISCSI_REJECT)->bhs[BHS_RESPONSE], ISCSI_REJECT_PROTOCOL);
	peer_expect_nothing(first);
	peer_data_out(first, itt, ttt, data, 0, sizeof(data), sizeof(data));
	assert_int_equal(peer_status(first), SCSI_GOOD);
	assert_memory_equal(volume_script_data(world.script) + 4096, data, sizeof(data));
	peer_free(first);
	peer_free(second);
}

/* 13: what only the leading connection may negotiate, and what may be said again. */
static void
test_leading_only(void **state)
{
	static const char *const refused[] = {"MaxConnections=4\n", "InitialR2T=No\n",
		"ImmediateData=Yes\n", "MaxBurstLength=65536\n", "FirstBurstLength=4096\n",
		"DefaultTime2Wait=2\n", "DefaultTime2Retain=2\n", "MaxOutstandingR2T=1\n",
		"DataPDUInOrder=Yes\n", "DataSequenceInOrder=Yes\n", "ErrorRecoveryLevel=0\n",
		"TaskReporting=RFC3720\n", "iSCSIProtocolLevel=1\n"};
	struct peer *first = new_session(), *second;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		second = peer_join(first, i % 2, 1);
		assert_int_equal(try_to_join(second, refused[i]), 0x0200);
		peer_expect_closed(second);
		peer_free(second);
	}
	second = peer_join(first, 1, 1);
	assert_int_equal(try_to_join(second, "SessionType=Normal\nInitiatorAlias=x\n"), 0);
	ping(second);
	peer_free(first);
	peer_free(second);
}

static void
test_refused(void **state)
{
	struct peer *first = new_session(), *more[3], *late, *single, *discovery;

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		more[i] = join(first, i % 2, (uint16_t)(i + 1));
	for (unsigned loop = 0; loop < 2; loop++) {
		late = peer_join(first, loop, 9);
		assert_int_equal(try_to_join(late, ""), 0x0206);
		peer_expect_closed(late);
		peer_free(late);
		late = peer_join(first, loop, 9);
		late->tsih++;
		assert_int_equal(try_to_join(late, ""), 0x020a);
		peer_free(late);
		late = peer_join(first, loop, 9);
		late->isid[5]++;
		assert_int_equal(try_to_join(late, ""), 0x020a);
		peer_free(late);
	}
	/* One that went makes room. */
	peer_free(more[1]);
	more[1] = join(first, 1, 9);
	/* MaxConnections nobody spoke of is 1. */
	single = peer_session(NULL);
	late = peer_join(single, 1, 1);
	assert_int_equal(try_to_join(late, ""), 0x0206);
	ping(single);
	peer_free(late);
	peer_free(single);
	discovery = peer_new(0);
	peer_discover(discovery);
	late = peer_join(discovery, 0, 1);
	late->tsih = 1;
	assert_int_equal(peer_login_step(late, 0x87,
				 "InitiatorName=" PEER_NAME "\nSessionType=Discovery\n", &response),
		0x020a);
	peer_free(late);
	peer_free(discovery);
	for (unsigned i = 0; i < 3; i++)
		peer_free(more[i]);
	peer_free(first);
}

/* 4.4.1: the portals of a group are one target port, another group's are another. */
static void
test_other_portal_group(void **state)
{
	struct peer *first = new_session(), *second;
	uint16_t group = world.portals[0].group;

	(void)state;
	world.portals[0].group = 3;
	second = peer_join(first, 0, 1);
	assert_int_equal(try_to_join(second, ""), 0x0208);
	world.portals[0].group = group;
	peer_free(second);
	ping(first);
	peer_free(first);
}

/* A login that takes its time moves when it is done, and its answers before that are sent first. */
static void
test_login_in_stages_on_another_loop(void **state)
{
	struct peer *first = new_session(), *second = peer_join(first, 1, 1);

	(void)state;
	pipe_set_room(second->pipe, 20);
	pipe_limit_read(second->pipe, 100);
	second->bhs[0] = 0;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t text[512];
		uint8_t *bhs = peer_start(second, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);

		bhs[BHS_FLAGS] = i ? 0x87 : 0x04;
		memcpy(bhs + BHS_ISID, second->isid, 6);
		put_be16(bhs + BHS_TSIH, second->tsih);
		put_be16(bhs + BHS_CID, 1);
		put_be32(bhs + BHS_ITT, 5);
		peer_send(second, text, text_of(i ? "" : NAMES, text));
	}
	virtual_run_until_idle();
	assert_int_equal(world_connections(1), 1);
	pipe_set_room(second->pipe, SIZE_MAX);
	assert_int_equal(peer_expect(second, ISCSI_LOGIN_RESPONSE)->bhs[BHS_FLAGS], 0x04);
	assert_int_equal(peer_expect(second, ISCSI_LOGIN_RESPONSE)->bhs[BHS_FLAGS], 0x87);
	assert_int_equal(world_connections(0), 2);
	ping(second);
	peer_free(first);
	peer_free(second);
}

/* What was sent behind the last Login Request moves along. */
static void
test_bytes_behind_the_login(void **state)
{
	struct peer *first = new_session(), *second = peer_join(first, 1, 1);
	uint8_t bytes[1024], text[512], *bhs;
	size_t n;

	(void)state;
	bhs = peer_start(second, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);
	bhs[BHS_FLAGS] = 0x87;
	memcpy(bhs + BHS_ISID, second->isid, 6);
	put_be16(bhs + BHS_TSIH, second->tsih);
	put_be16(bhs + BHS_CID, 1);
	n = peer_compose(second, text, text_of(NAMES, text), bytes);
	peer_start(second, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);
	n += peer_compose(second, "hello", 5, bytes + n);
	pipe_feed(second->pipe, bytes, n);
	peer_expect(second, ISCSI_LOGIN_RESPONSE);
	assert_int_equal(peer_expect(second, ISCSI_NOP_IN)->length, 5);
	peer_free(first);
	peer_free(second);
}

/* A connection that is lost takes its own commands along, and the others go on. */
static void
test_connection_lost(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1);
	uint8_t cdb[6] = {0};
	struct pdu *pdu;

	(void)state;
	volume_script_hold(world.script, true);
	peer_read10(second, 0, 1);
	peer_send(second, NULL, 0);
	first->cmdsn = second->cmdsn;
	peer_read10(first, 8, 1);
	peer_send(first, NULL, 0);
	/* one whose CmdSN has not come: its number becomes a gap again */
	second->cmdsn = first->cmdsn + 1;
	peer_read10(second, 16, 1);
	peer_send(second, NULL, 0);
	virtual_run_until_idle();
	pipe_feed_eof(second->pipe);
	virtual_run_until_idle();
	assert_false(peer_open(second));
	ping(first);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	pdu = peer_expect(first, ISCSI_DATA_IN);
	assert_int_equal(get_be32(pdu->bhs + BHS_EXPCMDSN), first->cmdsn);
	/* 7.11: SOME COMMANDS CLEARED BY ISCSI PROTOCOL EVENT */
	peer_command(first, 0, 0, cdb, sizeof(cdb));
	peer_send(first, NULL, 0);
	pdu = peer_expect(first, ISCSI_RESPONSE);
	assert_int_equal(pdu->bhs[BHS_STATUS], SCSI_CHECK_CONDITION);
	assert_int_equal(pdu->data[2 + 2] & 0xf, 6);
	assert_int_equal(get_be16(pdu->data + 2 + 12), 0x477f);
	peer_clear_attention(first);
	peer_free(second);
	peer_free(first);
}

/* The first connection of a session has no privileges: the session outlives it. */
static void
test_leading_connection_lost(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1), *third;

	(void)state;
	second->cmdsn = first->cmdsn;
	peer_free(first);
	peer_clear_attention(second);
	third = join(second, 0, 2);
	ping(third);
	peer_free(second);
	peer_free(third);
}

/* Logout reason 1, of itself and of another; a CID that is not there. */
static void
test_logout_connection(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1), *third;

	(void)state;
	logout(first, ISCSI_LOGOUT_CONNECTION, 5);
	expect_logout(first, ISCSI_LOGOUT_NO_CID);
	logout(second, ISCSI_LOGOUT_CONNECTION, 1);
	expect_logout(second, ISCSI_LOGOUT_CLOSED);
	peer_expect_closed(second);
	ping(first);
	third = join(first, 1, 1);
	logout(first, ISCSI_LOGOUT_CONNECTION, 1);
	expect_logout(first, ISCSI_LOGOUT_CLOSED);
	peer_expect_closed(third);
	ping(first);
	peer_free(second);
	peer_free(third);
	logout(first, ISCSI_LOGOUT_CONNECTION, 0);
	expect_logout(first, ISCSI_LOGOUT_CLOSED);
	peer_expect_closed(first);
	peer_free(first);
}

/* What runs on a connection is answered before its Logout, what runs on others does not matter. */
static void
test_logout_connection_waits_for_its_own(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1);

	(void)state;
	volume_script_hold(world.script, true);
	peer_read10(first, 0, 1);
	peer_send(first, NULL, 0);
	second->cmdsn = first->cmdsn;
	peer_read10(second, 8, 1);
	peer_send(second, NULL, 0);
	logout(second, ISCSI_LOGOUT_CONNECTION, 1);
	peer_expect_nothing(second);
	volume_script_complete(world.script, 1, 0);
	peer_expect(second, ISCSI_DATA_IN);
	expect_logout(second, ISCSI_LOGOUT_CLOSED);
	peer_expect_closed(second);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect(first, ISCSI_DATA_IN);
	peer_free(second);
	peer_free(first);
}

/* Reason 0 closes all, each when what runs on it is answered; nobody joins meanwhile. */
static void
test_logout_session(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1), *idle = join(first, 1, 2);
	struct peer *late;

	(void)state;
	volume_script_hold(world.script, true);
	second->cmdsn = first->cmdsn;
	peer_read10(second, 0, 1);
	peer_send(second, NULL, 0);
	virtual_run_until_idle();
	logout(first, ISCSI_LOGOUT_SESSION, 0);
	peer_expect_closed(idle);
	peer_expect_nothing(first);
	late = peer_join(first, 1, 3);
	assert_int_equal(try_to_join(late, ""), 0x020a);
	peer_free(late);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect(second, ISCSI_DATA_IN);
	expect_logout(first, ISCSI_LOGOUT_CLOSED);
	peer_expect_closed(second);
	peer_expect_closed(first);
	peer_free(idle);
	peer_free(second);
	peer_free(first);
}

/* The connection that logged the session out is lost before its answer. */
static void
test_logout_session_and_vanish(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1);

	(void)state;
	volume_script_hold(world.script, true);
	second->cmdsn = first->cmdsn;
	peer_read10(second, 0, 1);
	peer_send(second, NULL, 0);
	virtual_run_until_idle();
	logout(first, ISCSI_LOGOUT_SESSION, 0);
	virtual_run_until_idle();
	pipe_fail_read(first->pipe, -ECONNRESET);
	iscsi_frontend.abort(loop_by_index(0));
	virtual_run_until_idle();
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_free(second);
	peer_free(first);
}

/* 6.3.4: the same CID again takes the old one's place, at once; its tags are free. */
static void
test_connection_reinstatement(void **state)
{
	static const char *const sessions[] = {"MaxConnections=2\n", NULL};
	struct peer *first, *second, *again;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		first = peer_session(sessions[i % 2]);
		second = i % 2 ? NULL : join(first, 1, 1);
		volume_script_hold(world.script, true);
		peer_read10(first, 0, 1);
		peer_send(first, NULL, 0);
		virtual_run_until_idle();
		again = peer_join(first, i / 2, 0);
		again->itt = first->itt - 1;
		peer_login(again, NULL);
		peer_expect_closed(first);
		ping(again);
		volume_script_hold(world.script, false);
		again->itt = first->itt - 1;
		peer_read10(again, 8, 1);
		peer_send(again, NULL, 0);
		assert_int_equal(peer_status(again), SCSI_CHECK_CONDITION); /* 47/7F */
		again->itt = first->itt - 1;
		peer_read10(again, 8, 1);
		peer_send(again, NULL, 0);
		peer_expect(again, ISCSI_DATA_IN);
		volume_script_complete_all(world.script, 0);
		peer_expect_nothing(again);
		if (second) {
			ping(second);
			peer_free(second);
		}
		peer_free(first);
		peer_free(again);
	}
}

/* Nexus loss (promises.md): what the old session or connection left in the kernel is waited for by
 * commands on the same blocks, and by nothing else. */
static void
test_writes_left_behind(void **state)
{
	static uint8_t old_data[4096], new_data[4096];
	struct peer *first, *new;

	(void)state;
	memset(old_data, 0xaa, sizeof(old_data));
	memset(new_data, 0xbb, sizeof(new_data));
	/* by a session, by a connection in it; lost before, or still there; on either loop */
	for (unsigned i = 0; i < 8; i++) {
		bool session = i & 1, lost = session && i & 2;

		first = new_session();
		volume_script_forget(world.script);
		volume_script_hold(world.script, true);
		peer_write10(first, 8, 8);
		peer_send(first, old_data, sizeof(old_data));
		virtual_run_until_idle();
		if (lost) {
			pipe_feed_eof(first->pipe);
			virtual_run_until_idle();
		}
		new = peer_join(first, i / 4, 0);
		if (session)
			new->tsih = 0;
		peer_login(new, NULL);
		peer_expect_closed(first);
		volume_script_hold(world.script, false);
		peer_clear_attention(new);
		peer_write10(new, 8, 8);
		peer_send(new, new_data, sizeof(new_data));
		peer_read10(new, 15, 2);
		peer_send(new, NULL, 0);
		virtual_advance(3 * LIMIT_FREEZE_WAIT / 2);
		peer_expect_nothing(new);
		peer_read10(new, 16, 2);
		peer_send(new, NULL, 0);
		assert_int_equal(peer_expect(new, ISCSI_DATA_IN)->length, 1024);
		ping(new);
		volume_script_complete(world.script, 0, 0);
		virtual_run_until_idle();
		assert_int_equal(peer_status(new), SCSI_GOOD);
		peer_expect(new, ISCSI_DATA_IN);
		assert_memory_equal(
			volume_script_data(world.script) + 4096, new_data, sizeof(new_data));
		peer_free(first);
		peer_free(new);
	}
}

/* Task management by one connection for tasks of another; it is answered where it was asked. */
static void
test_task_management_across(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1);
	uint8_t *bhs;
	uint32_t itt;

	(void)state;
	volume_script_hold(world.script, true);
	peer_read10(second, 0, 1);
	itt = second->itt;
	peer_send(second, NULL, 0);
	virtual_run_until_idle();
	first->cmdsn = second->cmdsn;
	bhs = peer_start(first, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
	bhs[BHS_FLAGS] = ISCSI_FINAL | ISCSI_ABORT_TASK_SET;
	put_be32(bhs + BHS_RTT, itt);
	peer_send(first, NULL, 0);
	peer_expect_nothing(first);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	assert_int_equal(peer_expect(first, ISCSI_TASK_RESPONSE)->bhs[BHS_RESPONSE],
		ISCSI_FUNCTION_COMPLETE);
	peer_expect_nothing(second);
	peer_free(first);
	peer_free(second);
}

static void
send_function(struct peer *peer, uint8_t function, uint32_t rtt)
{
	uint8_t *bhs = peer_start(peer, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);

	bhs[BHS_FLAGS] = ISCSI_FINAL | function;
	put_be32(bhs + BHS_RTT, rtt);
	peer_send(peer, NULL, 0);
}

/* No CmdSN is missing. */
static void
expect_caught_up(struct peer *peer)
{
	peer_start(peer, ISCSI_NOP_OUT);
	peer_send(peer, NULL, 0);
	assert_int_equal(
		get_be32(peer_expect(peer, ISCSI_NOP_IN)->bhs + BHS_EXPCMDSN), peer->cmdsn);
}

/* A command is aborted by one connection while the other is still bringing it: its number counts as
 * received, or no later command would ever run. */
static void
test_abort_of_a_command_half_received(void **state)
{
	static const uint8_t functions[] = {
		ISCSI_ABORT_TASK, ISCSI_LUN_RESET, ISCSI_TARGET_WARM_RESET};
	static uint8_t bytes[8192], data[4096];
	size_t n;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
		struct peer *first = new_session(), *second = join(first, 1, 1);

		peer_write10(second, 8, 8);
		n = peer_compose(second, data, sizeof(data), bytes);
		pipe_feed(second->pipe, bytes, n / 2);
		virtual_run_until_idle();
		first->cmdsn = second->cmdsn;
		send_function(first, functions[i], second->itt);
		virtual_run_until_idle();
		pipe_feed(second->pipe, bytes + n / 2, n - n / 2);
		assert_int_equal(peer_expect(first, ISCSI_TASK_RESPONSE)->bhs[BHS_RESPONSE],
			ISCSI_FUNCTION_COMPLETE);
		peer_expect_nothing(second);
		expect_caught_up(first);
		peer_free(first);
		peer_free(second);
	}
}

/* One number by two connections, the second time begun before the first one was whole: once. */
static void
test_number_taken_while_a_pdu_comes(void **state)
{
	static uint8_t bytes[8192], data[4096];
	size_t n;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct peer *first = new_session(), *second = join(first, 1, 1);

		if (i == 0)
			peer_write10(second, 8, 8);
		else
			peer_start(second, ISCSI_NOP_OUT);
		n = peer_compose(second, data, sizeof(data), bytes);
		pipe_feed(second->pipe, bytes, n / 2);
		virtual_run_until_idle();
		peer_start(first, ISCSI_NOP_OUT);
		peer_send(first, NULL, 0);
		peer_expect(first, ISCSI_NOP_IN);
		pipe_feed(second->pipe, bytes + n / 2, n - n / 2);
		peer_expect_nothing(second);
		expect_caught_up(first);
		peer_free(first);
		peer_free(second);
	}
}

/* 4.2.3.3: what was answered on other connections has to have arrived. */
static void
test_task_management_awaits_status(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1);
	struct pdu *pdu;
	uint8_t *bhs;
	uint32_t ttt;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		peer_read10(second, 0, 1);
		peer_send(second, NULL, 0);
		peer_expect(second, ISCSI_DATA_IN);
		first->cmdsn = second->cmdsn;
		bhs = peer_start(first, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
		bhs[BHS_FLAGS] = ISCSI_FINAL | ISCSI_ABORT_TASK_SET;
		peer_send(first, NULL, 0);
		peer_expect_nothing(first);
		pdu = peer_expect(second, ISCSI_NOP_IN);
		ttt = get_be32(pdu->bhs + BHS_TTT);
		assert_true(ttt != ISCSI_TAG_NONE);
		if (i == 0) { /* as asked */
			bhs = peer_start(second, ISCSI_NOP_OUT | ISCSI_IMMEDIATE);
			put_be32(bhs + BHS_ITT, ISCSI_TAG_NONE);
			put_be32(bhs + BHS_TTT, ttt);
			peer_send(second, NULL, 0);
		} else if (i == 1) { /* not in time */
			virtual_advance(LIMIT_ISCSI_ABORT - 2 * SECOND_NS);
			peer_expect_nothing(first);
			virtual_advance(4 * SECOND_NS);
		} else {
			peer_free(second);
		}
		assert_int_equal(peer_expect(first, ISCSI_TASK_RESPONSE)->bhs[BHS_RESPONSE],
			ISCSI_FUNCTION_COMPLETE);
	}
	peer_free(first);
}

/* The one that asked is gone when the task ends: nobody is told. */
static void
test_task_management_asker_lost(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1);
	uint8_t *bhs;

	(void)state;
	volume_script_hold(world.script, true);
	peer_read10(second, 0, 1);
	peer_send(second, NULL, 0);
	virtual_run_until_idle();
	first->cmdsn = second->cmdsn;
	bhs = peer_start(first, ISCSI_TASK_REQUEST | ISCSI_IMMEDIATE);
	bhs[BHS_FLAGS] = ISCSI_FINAL | ISCSI_ABORT_TASK_SET;
	peer_send(first, NULL, 0);
	virtual_run_until_idle();
	peer_free(first);
	volume_script_hold(world.script, false);
	volume_script_complete_all(world.script, 0);
	peer_expect_nothing(second);
	ping(second);
	peer_free(second);
}

/* A new login of the same port ends all connections of the session. */
static void
test_session_reinstatement(void **state)
{
	struct peer *first = new_session(), *second = join(first, 1, 1), *new = peer_new(1);

	(void)state;
	memcpy(new->isid, first->isid, 6);
	peer_login(new, NULL);
	peer_expect_closed(first);
	peer_expect_closed(second);
	peer_clear_attention(new);
	peer_free(first);
	peer_free(second);
	peer_free(new);
}

/* The session goes while a connection is on its way to it. */
static void
test_session_gone_on_the_way(void **state)
{
	unsigned seed = 20261123, x = seed, joined = 0;

	(void)state;
	print_message("seed %u\n", seed);
	for (unsigned round = 0; round < 300; round++) {
		struct peer *first = peer_session("MaxConnections=3\n");
		struct peer *second = peer_join(first, 1, 1), *third = peer_join(first, 1, 1);
		struct peer *peers[2] = {second, third};

		for (unsigned i = 0; i < 2; i++) {
			uint8_t text[512];
			uint8_t *bhs = peer_start(peers[i], ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);

			bhs[BHS_FLAGS] = 0x87;
			memcpy(bhs + BHS_ISID, first->isid, 6);
			put_be16(bhs + BHS_TSIH, first->tsih);
			put_be16(bhs + BHS_CID, 1);
			peer_send(peers[i], text, text_of(NAMES, text));
		}
		for (unsigned turn = 0; turn < 10; turn++) {
			x = x * 1664525u + 1013904223u;
			if (turn == round % 7) {
				if (round % 3 == 0)
					pipe_feed_eof(first->pipe);
				else if (round % 3 == 1)
					pipe_feed_eof(second->pipe);
				else
					logout(first, ISCSI_LOGOUT_SESSION, 0);
			}
			virtual_loop_turn(loop_by_index(x >> 31));
		}
		virtual_run_until_idle();
		joined += peer_open(second) || peer_open(third);
		peer_free(first);
		peer_free(second);
		peer_free(third);
	}
	assert_in_range(joined, 1, 299);
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_one_order_of_commands),
		WORLD_TEST(test_connection_parameters),
		WORLD_TEST(test_allegiance),
		WORLD_TEST(test_leading_only),
		WORLD_TEST(test_refused),
		WORLD_TEST(test_other_portal_group),
		WORLD_TEST(test_login_in_stages_on_another_loop),
		WORLD_TEST(test_bytes_behind_the_login),
		WORLD_TEST(test_connection_lost),
		WORLD_TEST(test_leading_connection_lost),
		WORLD_TEST(test_logout_connection),
		WORLD_TEST(test_logout_connection_waits_for_its_own),
		WORLD_TEST(test_logout_session),
		WORLD_TEST(test_logout_session_and_vanish),
		WORLD_TEST(test_connection_reinstatement),
		WORLD_TEST(test_writes_left_behind),
		WORLD_TEST(test_task_management_across),
		WORLD_TEST(test_abort_of_a_command_half_received),
		WORLD_TEST(test_number_taken_while_a_pdu_comes),
		WORLD_TEST(test_task_management_awaits_status),
		WORLD_TEST(test_task_management_asker_lost),
		WORLD_TEST(test_session_reinstatement),
		WORLD_TEST(test_session_gone_on_the_way),
	};

	return cmocka_run_group_tests_name("iscsi_connections", tests, NULL, NULL);
}
