/* storage/layers/qos.c on virtual time: rates within 5 %, bursts, large requests in pieces. */
#include "config.h"

#include "storage_test.h"

#include <stdio.h>

#include "qos.h"

#define DEPTH 32
#define STEP  (MS_NS / 4)

static struct volume *volume;
static struct blk_handle *handles[2]; /* on two loops */
static uint8_t data[4 * MIB];

static void
set_qos(const struct conf_qos *qos)
{
	struct error error;

	assert_int_equal(volume_qos_set(volume, qos, &error), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct loop *before = virtual_as(loop_by_index(i));

		volume_layers_apply(volume);
		virtual_as(before);
	}
}

static void
begin(const struct conf_qos *qos)
{
	struct conf_volume conf = test_conf("disk0", "memory", NULL, GIB);
	struct error error;

	conf.qos = *qos;
	assert_int_equal(volume_open(&conf, &volume, &error), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct loop *before = virtual_as(loop_by_index(i));

		handles[i] = open_handle(volume);
		virtual_as(before);
	}
}

static void
end(void)
{
	for (unsigned i = 0; i < 2; i++) {
		struct loop *before = virtual_as(loop_by_index(i));

		blk_close(handles[i]);
		virtual_as(before);
	}
	volume_put(volume);
	virtual_run_until_idle();
}

/* Of what DEPTH allows; large requests pay side by side and end together. */
static unsigned depth = DEPTH;

/* A client that always has `depth` requests on their way. */
struct pump {
	struct io io[DEPTH];
	struct blk_handle *handle;
	uint64_t length, done;
	bool used[DEPTH];
};

static void
turn_pump(struct pump *pump, unsigned client, bool refill)
{
	struct loop *before = virtual_as(loop_by_index(client));

	for (unsigned i = 0; i < depth; i++) {
		if (pump->used[i] && pump->io[i].completed) {
			assert_int_equal(pump->io[i].blk.rc, 0);
			pump->done++;
			pump->used[i] = false;
		}
		if (!pump->used[i] && refill) {
			pump->used[i] = true;
			io_submit(&pump->io[i], handles[client], i % 2 ? BLK_READ : BLK_WRITE, 0,
				i * pump->length, pump->length, data);
		}
	}
	virtual_as(before);
}

/* Requests done by each of the clients in that time, without what the first `skip` of it brought. */
static void
run_pumps(struct pump pumps[2], unsigned clients, uint64_t skip, uint64_t time, uint64_t done[2])
{
	uint64_t first[2] = {0};

	for (uint64_t at = 0; at < skip + time; at += STEP) {
		if (at == skip)
			for (unsigned c = 0; c < clients; c++)
				first[c] = pumps[c].done;
		for (unsigned c = 0; c < clients; c++)
			turn_pump(&pumps[c], c, true);
		virtual_advance(STEP);
	}
	for (unsigned c = 0; c < clients; c++) {
		turn_pump(&pumps[c], c, false);
		done[c] = pumps[c].done - first[c];
	}
	/* What is left comes to its end too. */
	for (unsigned c = 0; c < clients; c++)
		for (unsigned i = 0; i < DEPTH; i++)
			for (unsigned n = 0; pumps[c].used[i] && !pumps[c].io[i].completed; n++) {
				assert_true(n < 100000);
				virtual_advance(10 * MS_NS);
			}
}

static void
expect_within(uint64_t got, uint64_t wanted)
{
	if (got * 100 < wanted * 95 || got * 100 > wanted * 105)
		fail_msg("%llu is not within 5 %% of %llu", (unsigned long long)got,
			(unsigned long long)wanted);
}

static void
operations_keep_their_rate(void **state)
{
	static const uint64_t rates[] = {50, 1000, 7777, 40000};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++)
		for (unsigned clients = 1; clients <= 2; clients++) {
			struct pump *pumps = calloc(2, sizeof(*pumps));
			uint64_t done[2] = {0};

			pumps[0].length = pumps[1].length = 4096;
			begin(&(struct conf_qos){.iops = rates[i]});
			run_pumps(pumps, clients, SECOND_NS, 4 * SECOND_NS, done);
			expect_within(done[0] + done[1], 4 * rates[i]);
			end();
			free(pumps);
		}
}

static void
bytes_keep_their_rate(void **state)
{
	static const uint64_t lengths[] = {512, 4096, 100000, MIB};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct pump *pumps = calloc(2, sizeof(*pumps));
		uint64_t rate = lengths[i] * (lengths[i] < MIB ? 500 : 40), done[2] = {0};

		depth = lengths[i] < MIB ? DEPTH : 1;
		pumps[0].length = pumps[1].length = lengths[i];
		begin(&(struct conf_qos){.bps = rate});
		run_pumps(pumps, 2, SECOND_NS, 4 * SECOND_NS, done);
		expect_within((done[0] + done[1]) * lengths[i], 4 * rate);
		depth = DEPTH;
		end();
		free(pumps);
	}
}

static void
each_client_has_its_own(void **state)
{
	struct pump *pumps = calloc(2, sizeof(*pumps));
	uint64_t done[2] = {0};

	(void)state;
	pumps[0].length = 4096;
	pumps[1].length = 4096;
	begin(&(struct conf_qos){.client_iops = 300});
	run_pumps(pumps, 2, SECOND_NS, 4 * SECOND_NS, done);
	expect_within(done[0], 1200);
	expect_within(done[1], 1200);
	/* Both limits hold: the volume's is the smaller one now. */
	set_qos(&(struct conf_qos){.client_iops = 300, .iops = 400});
	memset(pumps, 0, 2 * sizeof(*pumps));
	pumps[0].length = pumps[1].length = 4096;
	run_pumps(pumps, 2, SECOND_NS, 4 * SECOND_NS, done);
	expect_within(done[0] + done[1], 1600);
	assert_true(done[0] <= 1260 && done[1] <= 1260);
	end();
	free(pumps);
}

/* Handles on two loops that are one client's share its rate; those of others have their own. */
static void
connections_do_not_multiply_a_rate(void **state)
{
	struct pump *pumps = calloc(2, sizeof(*pumps));
	uint64_t done[2] = {0};

	(void)state;
	pumps[0].length = pumps[1].length = 4096;
	for (unsigned same = 0; same < 2; same++) {
		begin(&(struct conf_qos){.client_iops = 300});
		for (unsigned i = 0; i < 2; i++) {
			struct loop *before = virtual_as(loop_by_index(i));

			assert_int_equal(
				blk_set_client(handles[i], i && !same ? "nbd 2" : "nbd 1"), 0);
			assert_string_equal(blk_client(handles[i]), i && !same ? "nbd 2" : "nbd 1");
			virtual_as(before);
		}
		run_pumps(pumps, 2, SECOND_NS, 4 * SECOND_NS, done);
		expect_within(done[0] + done[1], same ? 1200 : 2400);
		memset(pumps, 0, 2 * sizeof(*pumps));
		pumps[0].length = pumps[1].length = 4096;
		end();
	}
	free(pumps);
}

static unsigned
requests_at_once(const char *client)
{
	struct blk_handle *handle = open_handle(volume);
	struct io io[20];
	unsigned done = 0;

	assert_int_equal(blk_set_client(handle, client), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++)
		io_submit(&io[i], handle, BLK_READ, 0, 0, 512, data);
	virtual_run_until_idle();
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		done += io[i].completed;
		blk_cancel(&io[i].blk);
	}
	virtual_run_until_idle();
	blk_close(handle);
	return done;
}

/* Who comes again finds what he owes; when that is paid nobody remembers him. */
static void
leaving_does_not_pay_a_debt(void **state)
{
	(void)state;
	begin(&(struct conf_qos){.client_iops = 10, .client_iops_burst = 5});
	assert_in_range(requests_at_once("nbd 1"), 5, 6);
	assert_int_equal(requests_at_once("nbd 1"), 0);
	assert_in_range(requests_at_once("nbd 2"), 5, 6);
	virtual_advance(60 * SECOND_NS);
	assert_in_range(requests_at_once("nbd 1"), 5, 6);
	/* New rates are a new beginning. */
	set_qos(&(struct conf_qos){.client_iops = 10, .client_iops_burst = 5});
	assert_in_range(requests_at_once("nbd 1"), 5, 6);
	end();
}

static unsigned
count_done(struct io *io, unsigned n)
{
	unsigned done = 0;

	for (unsigned i = 0; i < n; i++)
		done += io[i].completed;
	return done;
}

static void
burst_comes_at_once(void **state)
{
	static struct io io[100];

	(void)state;
	begin(&(struct conf_qos){.iops = 10, .iops_burst = 50});
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 100; i++)
			io_submit(&io[i], handles[0], BLK_READ, 0, 0, 512, data);
		virtual_run_until_idle();
		assert_in_range(count_done(io, 100), 50, 51);
		virtual_advance(SECOND_NS);
		assert_in_range(count_done(io, 100), 59, 61);
		/* The rest, and a pause that fills the bucket, but no more than that. */
		virtual_advance(60 * SECOND_NS);
		assert_int_equal(count_done(io, 100), 100);
	}
	end();
}

static void
large_one_pays_in_pieces(void **state)
{
	struct io large, small;
	struct qos_stats stats;
	uint64_t waited = 0;

	(void)state;
	/* 4 MiB at 1 MiB/s take 4 s; a small one meanwhile waits for a piece, not for all. */
	begin(&(struct conf_qos){.bps = MIB, .bps_burst = 1});
	io_submit(&large, handles[0], BLK_WRITE, 0, 0, 4 * MIB, data);
	virtual_advance(SECOND_NS);
	assert_false(large.completed);
	io_submit(&small, handles[0], BLK_READ, 0, 0, 4096, data);
	for (; !small.completed && waited < 10 * SECOND_NS; waited += 10 * MS_NS)
		virtual_advance(10 * MS_NS);
	assert_true(waited <= 300 * MS_NS);
	assert_false(large.completed);
	virtual_advance(2 * SECOND_NS);
	assert_false(large.completed);
	virtual_advance(1200 * MS_NS);
	assert_true(large.completed);
	assert_int_equal(large.blk.rc, 0);
	volume_qos_get(volume, &stats);
	assert_int_equal(stats.requests, 2);
	assert_int_equal(stats.delayed, 2); /* each once, however often it waited */
	end();
}

static void
what_waits_goes_by_new_rates(void **state)
{
	struct io io[20];
	struct qos_stats stats;

	(void)state;
	begin(&(struct conf_qos){.iops = 1, .iops_burst = 1});
	for (unsigned i = 0; i < 20; i++)
		io_submit(&io[i], handles[0], BLK_READ, 0, 0, 512, data);
	virtual_advance(SECOND_NS);
	assert_true(count_done(io, 20) < 5);
	volume_qos_get(volume, &stats);
	assert_int_equal(stats.requests, 20);
	assert_int_equal(stats.delayed, 18);
	assert_false(blk_inline(handles[0]));
	set_qos(&(struct conf_qos){0});
	virtual_advance(MS_NS);
	assert_int_equal(count_done(io, 20), 20);
	assert_true(blk_inline(handles[0]));
	end();
}

static void
only_data_costs_bytes(void **state)
{
	(void)state;
	begin(&(struct conf_qos){.bps = 512, .bps_burst = 1});
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(do_io(handles[0], BLK_ZERO, BLK_MAY_UNMAP, 0, GIB, NULL), 0);
		assert_int_equal(do_io(handles[0], BLK_DISCARD, 0, 0, GIB, NULL), 0);
		assert_int_equal(do_io(handles[0], BLK_FLUSH, 0, 0, 0, NULL), 0);
	}
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operations_keep_their_rate),
		cmocka_unit_test(bytes_keep_their_rate),
		cmocka_unit_test(each_client_has_its_own),
		cmocka_unit_test(connections_do_not_multiply_a_rate),
		cmocka_unit_test(leaving_does_not_pay_a_debt),
		cmocka_unit_test(burst_comes_at_once),
		cmocka_unit_test(large_one_pays_in_pieces),
		cmocka_unit_test(what_waits_goes_by_new_rates),
		cmocka_unit_test(only_data_costs_bytes),
	};

	return cmocka_run_group_tests_name("qos", tests, setup_loops, teardown_loops);
}
