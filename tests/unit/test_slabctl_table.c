#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "../../server/slabctl_table.h"

static void
assert_cell(enum cell_kind kind, json_t *value, const char *want)
{
	const struct column column = {"X", "x", kind, "y"};
	json_t *row = json_pack("{s:o, s:i}", "x", value, "y", 48 * 1024 * 1024);
	char text[64];

	assert_non_null(row);
	table_cell(&column, row, text, sizeof(text));
	assert_string_equal(text, want);
	json_decref(row);
}

static void
numbers_have_units(void **state)
{
	(void)state;
	assert_cell(CELL_BYTES, json_integer(0), "0 B");
	assert_cell(CELL_BYTES, json_integer(1023), "1023 B");
	assert_cell(CELL_BYTES, json_integer(1024), "1 KiB");
	assert_cell(CELL_BYTES, json_integer(2040109466), "1.9 GiB");
	assert_cell(CELL_BYTES, json_integer(1ll << 60), "1024 PiB");
	assert_cell(CELL_SECONDS, json_real(0), "–");
	assert_cell(CELL_SECONDS, json_real(0.000085), "85 us");
	assert_cell(CELL_SECONDS, json_real(0.0021), "2.1 ms");
	assert_cell(CELL_SECONDS, json_real(1.5), "1.5 s");
	assert_cell(CELL_AGE, json_real(7), "7 s");
	assert_cell(CELL_AGE, json_real(11 * 60), "11 min");
	assert_cell(CELL_AGE, json_real(7200), "2 h");
	assert_cell(CELL_AGE, json_real(864000), "10 d");
	assert_cell(CELL_RATE, json_integer(0), "–");
	assert_cell(CELL_RATE, json_integer(210), "210  48 MiB");
	assert_cell(CELL_RATE, json_integer(41000), "41k  48 MiB");
	assert_cell(CELL_NUMBER, json_integer(INT64_MAX), "9223372036854775807");
	assert_cell(CELL_STATE, json_string("ok"), "ok");
	assert_cell(CELL_STATE, json_string("failed"), "FAILED");
}

static void
text_cannot_steer_the_terminal(void **state)
{
	(void)state;
	assert_cell(CELL_TEXT, json_string("a\033[2Jb\nc"), "a?[2Jb?c");
	assert_cell(CELL_TEXT, json_null(), "");
}

static void
long_text_is_cut(void **state)
{
	char name[1000];
	const struct column column = {"X", "x", CELL_TEXT, NULL};
	json_t *row;
	char text[64];

	(void)state;
	memset(name, 'a', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	row = json_pack("{s:s}", "x", name);
	table_cell(&column, row, text, sizeof(text));
	assert_int_equal(strlen(text), sizeof(text) - 1);
	json_decref(row);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_have_units),
		cmocka_unit_test(text_cannot_steer_the_terminal),
		cmocka_unit_test(long_text_is_cut),
	};

	return cmocka_run_group_tests_name("slabctl_table", tests, NULL, NULL);
}
