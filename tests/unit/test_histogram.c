#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "histogram.h"

static struct histogram h;
static struct histogram sum;

static int
setup(void **state)
{
	(void)state;
	memset(&h, 0, sizeof(h));
	memset(&sum, 0, sizeof(sum));
	return 0;
}

static void
test_empty(void **state)
{
	(void)state;
	assert_int_equal(histogram_quantile(&h, 500), 0);
}

/* One value alone: the quantile is at least the value, and less than 25 % above it. */
static void
check_value(uint64_t value)
{
	uint64_t q;

	memset(&h, 0, sizeof(h));
	histogram_add(&h, value);
	q = histogram_quantile(&h, 1000);
	if (q < value || q - value > value / 4)
		fail_msg("%llu became %llu", (unsigned long long)value, (unsigned long long)q);
	assert_true(histogram_quantile(&h, 0) == q);
}

static void
test_precision(void **state)
{
	uint64_t v;
	unsigned power;

	(void)state;
	for (v = 0; v < 100000; v++)
		check_value(v);
	for (power = 0; power < 64; power++) {
		check_value((uint64_t)1 << power);
		check_value(((uint64_t)1 << power) - 1);
		check_value(((uint64_t)1 << power) + 1);
	}
	check_value(UINT64_MAX);
}

static void
test_quantiles(void **state)
{
	unsigned i;

	(void)state;
	for (i = 1; i <= 1000; i++)
		histogram_add(&h, i <= 990 ? 3 : 1 << 20);
	assert_int_equal(histogram_quantile(&h, 500), 3);
	assert_int_equal(histogram_quantile(&h, 990), 3);
	assert_true(histogram_quantile(&h, 991) >= 1 << 20);
	assert_true(h.count == 1000);
	assert_true(h.sum == 990 * 3 + 10 * (1 << 20));
}

static void
test_merge(void **state)
{
	(void)state;
	histogram_add(&sum, 1);
	histogram_add(&h, 2);
	histogram_add(&h, 2);
	histogram_merge(&sum, &h);
	assert_true(sum.count == 3 && sum.sum == 5);
	assert_int_equal(histogram_quantile(&sum, 333), 1);
	assert_int_equal(histogram_quantile(&sum, 334), 2);
}

/* A bucket's 32 bits end; the shape must not. */
static void
test_full_bucket(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < (1 << 25) - 2; i++)
		histogram_add(&h, 1);
	for (i = 0; i < 1 << 25; i++)
		histogram_add(&h, 3);
	assert_true(h.count == (1 << 26) - 2);
	assert_int_equal(histogram_quantile(&h, 300), 1);
	assert_int_equal(histogram_quantile(&h, 700), 3);
	for (i = 0; i < 64; i++)
		histogram_merge(&sum, &h);
	assert_int_equal(histogram_quantile(&sum, 300), 1);
	assert_int_equal(histogram_quantile(&sum, 700), 3);
}

/* What was slow an hour ago is not slow now, and what is slow now is not lost among what was fast. */
static void
window_forgets(void **state)
{
	static struct histogram_window window;
	uint64_t now = 7;

	(void)state;
	assert_int_equal(histogram_window_quantile(&window, &h, 990), 0);
	histogram_window_turn(&window, &h, now);
	for (unsigned i = 0; i < 1000; i++)
		histogram_add(&h, 1000000);
	assert_in_range(histogram_window_quantile(&window, &h, 990), 1000000, 1250000);
	/* Younger than a window: since the start. */
	histogram_window_turn(&window, &h, now + HISTOGRAM_WINDOW_NS);
	histogram_window_turn(&window, &h, now + HISTOGRAM_WINDOW_NS + 1);
	assert_in_range(histogram_window_quantile(&window, &h, 990), 1000000, 1250000);
	for (unsigned i = 0; i < 50; i++)
		histogram_add(&h, 100);
	histogram_window_turn(&window, &h, now + 2 * HISTOGRAM_WINDOW_NS);
	assert_in_range(histogram_window_quantile(&window, &h, 990), 100, 125);
	histogram_window_turn(&window, &h, now + 3 * HISTOGRAM_WINDOW_NS);
	assert_int_equal(histogram_window_quantile(&window, &h, 990), 0);
}

/* A full histogram has halved its buckets since: what it has now is the answer, not a difference. */
static void
window_over_a_halving(void **state)
{
	static struct histogram_window window;

	(void)state;
	for (unsigned i = 0; i < 100; i++)
		histogram_add(&h, 1000);
	histogram_window_turn(&window, &h, 1);
	histogram_window_turn(&window, &h, 1 + HISTOGRAM_WINDOW_NS);
	histogram_window_turn(&window, &h, 1 + 2 * HISTOGRAM_WINDOW_NS);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		h.bucket[i] = h.bucket[i] / 2;
	assert_in_range(histogram_window_quantile(&window, &h, 990), 1000, 1250);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_empty, setup),
		cmocka_unit_test_setup(test_precision, setup),
		cmocka_unit_test_setup(test_quantiles, setup),
		cmocka_unit_test_setup(test_merge, setup),
		cmocka_unit_test_setup(test_full_bucket, setup),
		cmocka_unit_test_setup(window_forgets, setup),
		cmocka_unit_test_setup(window_over_a_halving, setup),
	};

	return cmocka_run_group_tests_name("histogram", tests, NULL, NULL);
}
