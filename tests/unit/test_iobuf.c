#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bytes.h"
#include "check.h"
#include "iobuf.h"
#include "limits.h"
#include "loop_virtual.h"
#include "slab.h"
#include "smaps.h"

static uint64_t active_objects;

static void
add_active(const struct slab_stats *stats, void *arg)
{
	(void)arg;
	if (strncmp(stats->name, "iobuf_", 6) == 0)
		active_objects += stats->active;
}

static uint64_t
count_active(void)
{
	active_objects = 0;
	slab_for_each(add_active, NULL);
	return active_objects;
}

static int
setup(void **state)
{
	(void)state;
	virtual_loops_start(2);
	return iobuf_start();
}

static int
teardown(void **state)
{
	(void)state;
	assert_true(iobuf_reserved(0) == 0);
	assert_true(iobuf_reserved(1) == 0);
	assert_true(count_active() == 0);
	virtual_loops_stop();
	return 0;
}

static void
check_pieces(const struct iobuf *buffer, size_t length)
{
	size_t at = 0;
	unsigned i;

	assert_int_equal(buffer->length, length);
	assert_int_equal(iov_length(buffer->iov, buffer->niov), length);
	assert_true(buffer->niov <= LIMIT_IOBUF_PIECES);
	for (i = 0; i < buffer->niov; i++) {
		assert_int_equal((uintptr_t)buffer->iov[i].iov_base % 4096, 0);
		/* None lies across a multiple of the largest piece. */
		assert_true(at % LIMIT_IOBUF_PIECE + buffer->iov[i].iov_len <= LIMIT_IOBUF_PIECE);
		memset(buffer->iov[i].iov_base, 1, buffer->iov[i].iov_len);
		at += buffer->iov[i].iov_len;
	}
}

static void
test_take_at_once(void **state)
{
	static const size_t lengths[] = {0, 1, 512, 4096, 4097, 16384, 65536, 65537, 262144, 262145,
		LIMIT_IOBUF_PIECE, LIMIT_IOBUF_PIECE + 1, 2 * LIMIT_IOBUF_PIECE + 4096,
		5 * LIMIT_IOBUF_PIECE, LIMIT_NBD_PAYLOAD, LIMIT_NBD_PAYLOAD + 4096};
	struct iobuf buffer = {0};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		assert_int_equal(iobuf_take(&buffer, lengths[i]), 0);
		check_pieces(&buffer, lengths[i]);
		assert_int_equal(
			buffer.niov, (lengths[i] + LIMIT_IOBUF_PIECE - 1) / LIMIT_IOBUF_PIECE);
		iobuf_free(&buffer);
		assert_true(buffer.niov == 0 && buffer.length == 0 && !buffer.iov);
	}
	iobuf_free(&buffer);
}

static void
test_take_in_steps(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	struct iobuf buffer = {0};
	size_t length = 0;
	size_t step;

	(void)state;
	print_message("# seed %u\n", seed);
	while (length < 20 * LIMIT_IOBUF_PIECE) {
		step = LIMIT_IOBUF_PIECE - (size_t)(rand_r(&seed) % 2) * 4096;
		assert_int_equal(iobuf_take(&buffer, step), 0);
		length += step;
		assert_int_equal(buffer.length, length);
	}
	iobuf_free(&buffer);
	/* Within a class, a piece grows in place. */
	assert_int_equal(iobuf_take(&buffer, 5000), 0);
	assert_int_equal(iobuf_take(&buffer, 5000), 0);
	assert_int_equal(buffer.niov, 1);
	assert_int_equal(iobuf_take(&buffer, 10000), 0);
	check_pieces(&buffer, 20000);
	assert_int_equal(buffer.niov, 2);
	iobuf_free(&buffer);
}

static void
test_too_much_changes_nothing(void **state)
{
	struct iobuf buffer = {0};
	uint64_t before;

	(void)state;
	assert_int_equal(iobuf_take(&buffer, 5000), 0);
	before = count_active();
	assert_int_equal(
		iobuf_take(&buffer, (size_t)LIMIT_IOBUF_PIECES * LIMIT_IOBUF_PIECE), -ENOMEM);
	check_pieces(&buffer, 5000);
	assert_int_equal(buffer.niov, 1);
	/* The vector that it grew may stay until the buffer is freed. */
	assert_true(count_active() <= before + 1);
	iobuf_free(&buffer);
	assert_int_equal(
		iobuf_take(&buffer, (size_t)(LIMIT_IOBUF_PIECES + 1) * LIMIT_IOBUF_PIECE), -ENOMEM);
	assert_true(buffer.niov == 0 && buffer.length == 0 && !buffer.iov);
}

#define CLIENT ((size_t)LIMIT_IOBUF_CLIENT)

struct client {
	struct iobuf_account account;
	unsigned granted;
};

static struct client clients[8];
static struct client *closes; /* by the first granted() */

static void
on_granted(struct iobuf_account *account)
{
	container_of(account, struct client, account)->granted++;
	if (closes) {
		iobuf_account_close(&closes->account);
		closes = NULL;
	}
}

static int
setup_clients(void **state)
{
	unsigned i;

	memset(clients, 0, sizeof(clients));
	closes = NULL;
	if (setup(state))
		return -1;
	for (i = 0; i < 8; i++)
		iobuf_account_init(&clients[i].account, loop_current(), on_granted);
	return 0;
}

static int
teardown_clients(void **state)
{
	unsigned i;

	for (i = 0; i < 8; i++)
		iobuf_account_close(&clients[i].account);
	return teardown(state);
}

static bool
reserve(unsigned client, size_t bytes, enum iobuf_use use)
{
	return iobuf_reserve(&clients[client].account, bytes, use);
}

static void
unreserve(unsigned client, size_t bytes, enum iobuf_use use)
{
	iobuf_unreserve(&clients[client].account, bytes, use);
}

/* R06: at the budget reading stops; incomplete payloads do not take all of it. */
static void
test_payload_has_half(void **state)
{
	(void)state;
	assert_true(reserve(0, CLIENT, IOBUF_PAYLOAD));
	assert_true(reserve(1, CLIENT, IOBUF_PAYLOAD));
	assert_false(reserve(2, 1, IOBUF_PAYLOAD));
	assert_true(reserve(3, CLIENT, IOBUF_READY)); /* not held up */
	assert_true(reserve(4, CLIENT, IOBUF_READY));
	assert_false(reserve(5, 1, IOBUF_READY));
	assert_true(iobuf_reserved(0) == 4 * CLIENT);
	unreserve(3, 10, IOBUF_READY);
	virtual_run_until_idle();
	assert_int_equal(clients[5].granted, 1);
	assert_int_equal(clients[2].granted, 0);
	unreserve(0, 10, IOBUF_PAYLOAD);
	assert_int_equal(clients[2].granted, 0); /* never inside the call */
	virtual_run_until_idle();
	assert_int_equal(clients[2].granted, 1);
}

static void
test_arrived_makes_room_for_payload(void **state)
{
	(void)state;
	assert_true(reserve(0, CLIENT, IOBUF_PAYLOAD));
	assert_true(reserve(1, CLIENT, IOBUF_PAYLOAD));
	assert_false(reserve(2, 100, IOBUF_PAYLOAD));
	iobuf_arrived(&clients[0].account, CLIENT);
	virtual_run_until_idle();
	assert_int_equal(clients[2].granted, 1);
	assert_int_equal(clients[0].account.reserved[IOBUF_READY], CLIENT);
	assert_int_equal(clients[0].account.reserved[IOBUF_PAYLOAD], 0);
}

/* What is held already is counted without asking, and then others wait. */
static void
test_charge(void **state)
{
	(void)state;
	assert_true(reserve(0, CLIENT, IOBUF_READY));
	iobuf_charge(&clients[0].account, 100, IOBUF_READY);
	assert_int_equal(clients[0].account.reserved[IOBUF_READY], CLIENT + 100);
	assert_false(reserve(0, 1, IOBUF_READY));
	unreserve(0, 100, IOBUF_READY);
	virtual_run_until_idle();
	assert_int_equal(clients[0].granted, 0);
	unreserve(0, 1, IOBUF_READY);
	virtual_run_until_idle();
	assert_int_equal(clients[0].granted, 1);
}

static void
test_one_client_starves_nobody(void **state)
{
	(void)state;
	assert_true(reserve(0, CLIENT, IOBUF_READY));
	assert_false(reserve(0, 1, IOBUF_READY));
	/* He waits for himself: others pass. */
	assert_true(reserve(1, CLIENT, IOBUF_READY));
	assert_true(reserve(2, CLIENT, IOBUF_PAYLOAD));
	unreserve(0, 1, IOBUF_READY);
	virtual_run_until_idle();
	assert_int_equal(clients[0].granted, 1);
}

static void
test_first_come_first_served(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < 4; i++)
		assert_true(reserve(i, CLIENT, IOBUF_READY));
	assert_false(reserve(4, CLIENT, IOBUF_READY));
	assert_false(reserve(5, 1, IOBUF_READY));
	/* Room for the small one, but it came later. */
	unreserve(0, CLIENT - 1, IOBUF_READY);
	virtual_run_until_idle();
	assert_int_equal(clients[4].granted, 0);
	assert_int_equal(clients[5].granted, 0);
	assert_false(reserve(6, 1, IOBUF_READY)); /* and so does this one */
	unreserve(0, 1, IOBUF_READY);
	virtual_run_until_idle();
	assert_int_equal(clients[4].granted, 1);
	assert_int_equal(clients[5].granted, 0);
	unreserve(1, 2, IOBUF_READY);
	virtual_run_until_idle();
	assert_int_equal(clients[5].granted, 1);
	assert_int_equal(clients[6].granted, 1);
}

static void
test_close(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < 4; i++)
		assert_true(reserve(i, CLIENT, IOBUF_READY));
	for (i = 4; i < 7; i++)
		assert_false(reserve(i, 1, IOBUF_READY));
	iobuf_account_close(&clients[4].account); /* while it waits */
	iobuf_account_close(&clients[0].account);
	/* 5 and 6 are granted; the one told first closes the other before it is told. */
	closes = &clients[6];
	virtual_run_until_idle();
	assert_int_equal(clients[4].granted, 0);
	assert_int_equal(clients[5].granted, 1);
	assert_int_equal(clients[6].granted, 0);
	assert_true(iobuf_reserved(0) == 3 * CLIENT + 1);
	iobuf_account_close(&clients[5].account); /* twice is harmless */
	iobuf_account_close(&clients[5].account);
}

static void
test_loops_are_apart(void **state)
{
	struct client other = {0};
	unsigned i;

	(void)state;
	for (i = 0; i < 4; i++)
		assert_true(reserve(i, CLIENT, IOBUF_READY));
	virtual_as(loop_by_index(1));
	iobuf_account_init(&other.account, loop_by_index(1), on_granted);
	assert_true(iobuf_reserve(&other.account, CLIENT, IOBUF_READY));
	assert_true(iobuf_reserved(1) == CLIENT);
	iobuf_account_close(&other.account);
	virtual_as(loop_by_index(0));
}

/* O_DIRECT is paid for by pages; small pieces are too many to cost 2 MiB each. */
static void
test_large_pieces_lie_in_huge_pages(void **state)
{
	uint64_t before = smaps_sum("Rss:", "hg");
	struct iobuf large = {0}, small = {0};

	(void)state;
	if (access("/sys/kernel/mm/transparent_hugepage", F_OK) < 0)
		skip();
	assert_int_equal(iobuf_take(&small, 16 * KIB), 0);
	memset(small.iov[0].iov_base, 1, 16 * KIB);
	assert_true(smaps_sum("Rss:", "hg") == before);
	assert_int_equal(iobuf_take(&large, 256 * KIB), 0);
	memset(large.iov[0].iov_base, 1, 256 * KIB);
	assert_true(smaps_sum("Rss:", "hg") >= before + 256 * KIB);
	iobuf_free(&large);
	iobuf_free(&small);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_take_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_take_in_steps, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_large_pieces_lie_in_huge_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_much_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_payload_has_half, setup_clients, teardown_clients),
		cmocka_unit_test_setup_teardown(
			test_arrived_makes_room_for_payload, setup_clients, teardown_clients),
		cmocka_unit_test_setup_teardown(test_charge, setup_clients, teardown_clients),
		cmocka_unit_test_setup_teardown(
			test_one_client_starves_nobody, setup_clients, teardown_clients),
		cmocka_unit_test_setup_teardown(
			test_first_come_first_served, setup_clients, teardown_clients),
		cmocka_unit_test_setup_teardown(test_close, setup_clients, teardown_clients),
		cmocka_unit_test_setup_teardown(
			test_loops_are_apart, setup_clients, teardown_clients),
	};

	return cmocka_run_group_tests_name("iobuf", tests, NULL, NULL);
}
