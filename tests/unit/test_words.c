#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../server/words.h"
#include "check.h"

static void
sizes_are_read(void **state)
{
	static const struct {
		const char *text;
		uint64_t size;
	} good[] = {{"0", 0}, {"1", 1}, {"512", 512}, {"1K", 1024}, {"10G", 10ull << 30},
		{"1T", 1ull << 40}, {"1P", 1ull << 50}, {"1024P", 1ull << 60},
		{"18446744073709551615", UINT64_MAX}};
	uint64_t size;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_true(parse_size(good[i].text, &size));
		assert_int_equal(size, good[i].size);
	}
}

static void
what_is_no_size_is_refused(void **state)
{
	static const char *const bad[] = {"", "G", "1g", "1GB", "1GiB", " 1", "1 ", "-1", "+1",
		"0x10", "1.5G", "18446744073709551616", "16384P", "99999999999999999999999999",
		"1KK", "1E"};
	uint64_t size = 7;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(parse_size(bad[i], &size));
	assert_int_equal(size, 7);
}

static void
sizes_are_written_to_be_read_back(void **state)
{
	static const uint64_t sizes[] = {0, 1, 512, 1023, 1024, 1025, 1536ull << 20, 10ull << 30,
		1ull << 50, 1ull << 60, UINT64_MAX};
	char text[32];
	uint64_t size;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_true(parse_size(size_text(sizes[i], text, sizeof(text)), &size));
		assert_int_equal(size, sizes[i]);
	}
	assert_string_equal(size_text(1536ull << 20, text, sizeof(text)), "1536M");
	assert_string_equal(size_human(1ull << 30, text, sizeof(text)), "1 GiB");
	assert_string_equal(size_human((1ull << 30) * 19 / 10, text, sizeof(text)), "1.8 GiB");
	assert_string_equal(size_human(512, text, sizeof(text)), "512 bytes");
}

static void
switches_are_on_or_off(void **state)
{
	bool on = false;

	(void)state;
	assert_true(parse_switch("on", &on) && on);
	assert_true(parse_switch("off", &on) && !on);
	assert_false(parse_switch("yes", &on));
	assert_false(parse_switch("ON", &on));
	assert_false(parse_switch("", &on));
}

static const char *
find_nearest(const char *word)
{
	struct nearest nearest;

	nearest_init(&nearest, word);
	nearest_try(&nearest, "size");
	nearest_try(&nearest, "read_only");
	nearest_try(&nearest, "block_size");
	nearest_try(&nearest, "serial");
	return nearest.best;
}

static void
a_slip_is_understood_and_nonsense_is_not(void **state)
{
	char long_word[500];

	(void)state;
	assert_string_equal(find_nearest("sise"), "size");
	assert_string_equal(find_nearest("szie"), "size");
	assert_string_equal(find_nearest("readonly"), "read_only");
	assert_string_equal(find_nearest("blocksize"), "block_size");
	assert_null(find_nearest("foo"));
	assert_null(find_nearest("x"));
	assert_null(find_nearest(""));
	memset(long_word, 's', sizeof(long_word));
	long_word[sizeof(long_word) - 1] = '\0';
	assert_null(find_nearest(long_word));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_read),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(sizes_are_written_to_be_read_back),
		cmocka_unit_test(switches_are_on_or_off),
		cmocka_unit_test(a_slip_is_understood_and_nonsense_is_not),
	};

	return cmocka_run_group_tests_name("words", tests, NULL, NULL);
}
