/*
 * protocols/iscsi/iscsi_session.c on two true loops: initiators that log in with one and the same port on
 * both at once, so that each login ends another session, and sessions whose connections come from both.
 * What reinstatement says on one thread is in test_iscsi_login.c, what several connections are in
 * test_iscsi_connections.c.
 */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "bytes.h"
#include "catalogue.h"
#include "check.h"
#include "conf.h"
#include "frontend.h"
#include "iobuf.h"
#include "iscsi/iscsi_wire.h"
#include "limits.h"
#include "log.h"
#include "loop.h"
#include "slab.h"
#include "volume.h"
#include "work.h"

#define INITIATORS 4
#define ROUNDS     150

static struct lun lun;
static struct target target = {.name = "iqn.test:shared", .luns = &lun, .nluns = 1};
static struct catalogue catalogue;

static atomic_uint logins, pings, lost, broken;
static atomic_uint joined, refused;

struct arrival {
	struct loop_task task;
	struct loop *loop;
	struct stream *stream;
};

static void
run_arrival(struct loop_task *task)
{
	struct arrival *arrival = container_of(task, struct arrival, task);

	iscsi_frontend.accept(arrival->loop, arrival->stream, NULL);
	free(arrival);
}

/* A connection to that loop, or -1. */
static int
connect_loop(unsigned loop)
{
	struct arrival *arrival = calloc(1, sizeof(*arrival));
	int fds[2];

	if (!arrival || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
		free(arrival);
		return -1;
	}
	arrival->task.run = run_arrival;
	arrival->loop = loop_by_index(loop);
	arrival->stream = stream_plain_new(fds[0]);
	if (!arrival->stream) {
		free(arrival);
		close(fds[1]);
		return -1;
	}
	loop_post(arrival->loop, &arrival->task);
	return fds[1];
}

/* One whole PDU: 1; 0 where the target hung up; -1 where it said nothing for long. */
static int
receive(int fd, uint8_t bhs[ISCSI_BHS])
{
	struct pollfd watch = {.fd = fd, .events = POLLIN};
	uint8_t data[1024];
	size_t have = 0, need = ISCSI_BHS, length;
	ssize_t n;

	while (have < need) {
		if (poll(&watch, 1, 20000) != 1)
			return -1;
		n = have < ISCSI_BHS ? read(fd, bhs + have, ISCSI_BHS - have)
				     : read(fd, data, need - have);
		if (n <= 0)
			return 0;
		have += (size_t)n;
		if (have == ISCSI_BHS) {
			length = get_be24(bhs + BHS_DATA_LENGTH);
			if (length > sizeof(data))
				return -1;
			need += (length + 3) & ~(size_t)3;
		}
	}
	return 1;
}

static bool
send_pdu(int fd, const uint8_t bhs[ISCSI_BHS], const void *data, size_t length)
{
	uint8_t pdu[ISCSI_BHS + 256] = {0};
	size_t whole = ISCSI_BHS + ((length + 3) & ~(size_t)3);

	memcpy(pdu, bhs, ISCSI_BHS);
	put_be24(pdu + BHS_DATA_LENGTH, (uint32_t)length);
	memcpy(pdu + ISCSI_BHS, data, length);
	return send(fd, pdu, whole, MSG_NOSIGNAL) == (ssize_t)whole;
}

/* Logs in with the port all share, and pings. Returns with the connection still open. */
static int
visit_target(unsigned loop)
{
	static const char names[] = "InitiatorName=iqn.test:one\0TargetName=iqn.test:shared";
	uint8_t bhs[ISCSI_BHS] = {ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE, 0x87};
	int fd = connect_loop(loop), rc;

	if (fd < 0) {
		atomic_fetch_add(&broken, 1);
		return -1;
	}
	bhs[BHS_ISID] = 0x80;
	send_pdu(fd, bhs, names, sizeof(names));
	rc = receive(fd, bhs);
	if (rc > 0 && bhs[0] == ISCSI_LOGIN_RESPONSE && get_be16(bhs + BHS_STATUS_CLASS) == 0) {
		atomic_fetch_add(&logins, 1);
		memset(bhs, 0, sizeof(bhs));
		bhs[BHS_OPCODE] = ISCSI_NOP_OUT | ISCSI_IMMEDIATE;
		bhs[BHS_FLAGS] = ISCSI_FINAL;
		put_be32(bhs + BHS_ITT, 1);
		put_be32(bhs + BHS_TTT, ISCSI_TAG_NONE);
		send_pdu(fd, bhs, "ping", 4);
		rc = receive(fd, bhs);
		if (rc > 0 && bhs[0] == ISCSI_NOP_IN)
			atomic_fetch_add(&pings, 1);
	}
	atomic_fetch_add(rc < 0 ? &broken : &lost, rc <= 0);
	return fd;
}

/* True when a ping is answered; else the connection has been ended, or is `broken`. */
static bool
ping(int fd)
{
	uint8_t bhs[ISCSI_BHS] = {ISCSI_NOP_OUT | ISCSI_IMMEDIATE, ISCSI_FINAL};
	int rc;

	put_be32(bhs + BHS_ITT, 1);
	put_be32(bhs + BHS_TTT, ISCSI_TAG_NONE);
	if (!send_pdu(fd, bhs, "ping", 4))
		return false;
	rc = receive(fd, bhs);
	atomic_fetch_add(&broken, rc < 0);
	return rc > 0 && bhs[0] == ISCSI_NOP_IN;
}

/* Logs in, to the session *tsih where that is not 0. The connection, or -1. */
static int
log_in(unsigned loop, unsigned port, uint16_t *tsih, uint16_t cid)
{
	static const char lead[] = "InitiatorName=iqn.test:one\0TargetName=iqn.test:shared\0"
				   "MaxConnections=3";
	uint8_t bhs[ISCSI_BHS] = {ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE, 0x87};
	int fd = connect_loop(loop), rc;

	if (fd < 0) {
		atomic_fetch_add(&broken, 1);
		return -1;
	}
	bhs[BHS_ISID] = 0x80;
	bhs[BHS_ISID + 5] = (uint8_t)port;
	put_be16(bhs + BHS_TSIH, *tsih);
	put_be16(bhs + BHS_CID, cid);
	send_pdu(fd, bhs, lead, *tsih ? sizeof(lead) - sizeof("MaxConnections=3") : sizeof(lead));
	rc = receive(fd, bhs);
	if (rc > 0 && get_be16(bhs + BHS_STATUS_CLASS) == 0) {
		*tsih = get_be16(bhs + BHS_TSIH);
		return fd;
	}
	atomic_fetch_add(rc < 0 ? &broken : &refused, 1);
	close(fd);
	return -1;
}

/* Two initiators share a port, so that a session may end at any moment of a join; two have their own. */
static void
run_session(unsigned number, unsigned round)
{
	uint16_t tsih = 0;
	int fds[4];

	fds[0] = log_in((number + round) % 2, number < 2 ? 1 : number, &tsih, 0);
	fds[1] = fds[0] < 0 ? -1 : log_in(round % 2, number < 2 ? 1 : number, &tsih, 1);
	fds[2] = fds[0] < 0 ? -1 : log_in(round / 2 % 2, number < 2 ? 1 : number, &tsih, 2);
	if (round % 4 == 0 && fds[0] >= 0)
		close(fds[0]);
	/* in the place of one of them */
	fds[3] = fds[1] < 0
			 ? -1
			 : log_in((round + 1) % 2, number < 2 ? 1 : number, &tsih, 1 + round % 2);
	for (unsigned i = round % 4 ? 0 : 1; i < 4; i++) {
		if (fds[i] < 0)
			continue;
		atomic_fetch_add(&joined, ping(fds[i]) && i > 0);
		close(fds[i]);
	}
}

static void *
run_initiator(void *arg)
{
	unsigned number = *(const unsigned *)arg;
	int before = -1, fd;

	for (unsigned round = 0; round < ROUNDS; round++) {
		fd = visit_target((number + round) % 2);
		/* Some sessions are left for others to end, some end by themselves. */
		if (before >= 0)
			close(before);
		before = fd;
		if (round % 3 == 0 && before >= 0) {
			close(before);
			before = -1;
		}
	}
	if (before >= 0)
		close(before);
	for (unsigned round = 0; round < ROUNDS; round++)
		run_session(number, round);
	return NULL;
}

static struct loop_task stop_task;
static atomic_uint busy_loops;

static void
stop_main(struct loop_task *task)
{
	(void)task;
	loop_stop_main();
}

/* On each loop, until nothing is left there. */
static void
wait_for_end(struct loop_task *task)
{
	unsigned in_flight;

	if (iscsi_frontend.connections(loop_current(), &in_flight) > 0) {
		loop_post(loop_current(), task);
		return;
	}
	if (atomic_fetch_sub(&busy_loops, 1) == 1) {
		stop_task.run = stop_main;
		loop_post(loop_main(), &stop_task);
	}
}

static struct loop_task end_tasks[2];
static unsigned last_two;

static void *
run_initiators(void *unused)
{
	pthread_t threads[INITIATORS];
	unsigned numbers[INITIATORS], before;
	int fds[2];

	(void)unused;
	for (unsigned i = 0; i < INITIATORS; i++) {
		numbers[i] = i;
		CHECK(pthread_create(&threads[i], NULL, run_initiator, &numbers[i]) == 0);
	}
	for (unsigned i = 0; i < INITIATORS; i++)
		pthread_join(threads[i], NULL);
	/* Nobody races now: the one is in, and then the other in its place. */
	before = logins + pings;
	fds[0] = visit_target(0);
	fds[1] = visit_target(1);
	last_two = logins + pings - before;
	close(fds[0]);
	close(fds[1]);
	atomic_store(&busy_loops, 2);
	for (unsigned i = 0; i < 2; i++) {
		end_tasks[i].run = wait_for_end;
		loop_post(loop_by_index(i), &end_tasks[i]);
	}
	return NULL;
}

static void
keep_catalogue(struct catalogue *unused)
{
	(void)unused;
}

static unsigned left_over;

static void
count_left(const struct slab_stats *stats, void *arg)
{
	(void)arg;
	if (strncmp(stats->name, "iscsi_", 6) == 0)
		left_over += (unsigned)stats->active;
}

static void
test_one_port_on_two_loops(void **state)
{
	char name[] = "shared", backend[] = "memory";
	struct conf_volume conf = {.name = name,
		.backend = backend,
		.size = MIB,
		.block_size = 512,
		.physical_block_size = 512};
	struct error error;
	pthread_t driver;

	(void)state;
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(loops_start(2), 0);
	assert_int_equal(work_start(2), 0);
	assert_int_equal(iobuf_start(), 0);
	assert_int_equal(storage_start(64 * MIB), 0);
	assert_int_equal(iscsi_frontend.start(), 0);
	assert_int_equal(volume_open(&conf, &lun.volume, &error), 0);
	catalogue = (struct catalogue){
		.references = 1, .targets = &target, .ntargets = 1, .destroy = keep_catalogue};
	catalogue_publish(&catalogue);
	assert_int_equal(pthread_create(&driver, NULL, run_initiators, NULL), 0);
	loop_run_main();
	pthread_join(driver, NULL);
	catalogue_publish(NULL);
	volume_put(lun.volume);
	work_stop();
	loops_stop();
	slab_for_each(count_left, NULL);
	iscsi_frontend.stop();
	storage_stop();
	print_message("%u logins, %u pings, %u lost; %u joined, %u refused\n", logins, pings, lost,
		joined, refused);
	assert_true(joined > 0);
	/* Each login is answered or ended by a later one, none is forgotten. */
	assert_int_equal(broken, 0);
	assert_int_equal(left_over, 0);
	assert_int_equal(last_two, 4);
	assert_int_equal(pings + lost, INITIATORS * ROUNDS + 2);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_port_on_two_loops)};

	return cmocka_run_group_tests_name("iscsi_session", tests, NULL, NULL);
}
