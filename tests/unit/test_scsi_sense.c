/* scsi_sense.c: sense data byte for byte; its errors are in test_scsi_rw.c. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "scsi/scsi_internal.h"

static void
check(const struct scsi_sense *sense, bool descriptor, const uint8_t *expected, size_t length)
{
	uint8_t data[LIMIT_SCSI_SENSE];

	memset(data, 0xdb, sizeof(data));
	assert_int_equal(scsi_sense_build(sense, descriptor, data), length);
	assert_memory_equal(data, expected, length);
	assert_int_equal(data[40], 0xdb);
}

#define BYTES(...) ((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__})

static void
test_plain(void **state)
{
	struct scsi_sense sense = {.key = 5, .code = 0x2100};

	(void)state;
	check(&sense, false, BYTES(0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0));
	check(&sense, true, BYTES(0x72, 5, 0x21, 0, 0, 0, 0, 0));
}

/* COMMAND-SPECIFIC INFORMATION */
static void
test_specific(void **state)
{
	struct scsi_sense sense = {
		.key = 10, .code = 0x0804, .has_specific = true, .specific = 0x0102};

	(void)state;
	check(&sense, false, BYTES(0x70, 0, 10, 0, 0, 0, 0, 10, 0, 0, 1, 2, 8, 4, 0, 0, 0, 0));
	check(&sense, true,
		BYTES(0x72, 10, 8, 4, 0, 0, 0, 12, 1, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2));
}

static void
test_field_pointer(void **state)
{
	struct scsi_sense sense = {
		.key = 5, .code = 0x2400, .has_field = true, .field_in_cdb = true, .field = 0x0102};

	(void)state;
	check(&sense, false, BYTES(0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xc0, 1, 2));
	check(&sense, true, BYTES(0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xc0, 1, 2, 0));
	sense.field_in_cdb = false;
	sense.code = 0x2600;
	check(&sense, false, BYTES(0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x26, 0, 0, 0x80, 1, 2));
}

static void
test_information(void **state)
{
	struct scsi_sense sense = {
		.key = 0xe, .code = 0x1d00, .has_information = true, .information = 0xfffffffe};

	(void)state;
	check(&sense, false,
		BYTES(0xf0, 0, 0xe, 0xff, 0xff, 0xff, 0xfe, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0));
	check(&sense, true,
		BYTES(0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff,
			0xfe));
	/* What 32 bits do not hold is not valid. */
	sense.information = UINT64_C(0x100000000);
	check(&sense, false, BYTES(0x70, 0, 0xe, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0));
}

/* A transport's own failure, before there is a unit. */
static void
test_check_condition(void **state)
{
	struct scsi_task task = {0};

	(void)state;
	scsi_check_condition(&task, 0x0b, 0x47, 0x05);
	assert_int_equal(task.status, SCSI_CHECK_CONDITION);
	assert_int_equal(task.sense_length, 18);
	assert_int_equal(task.sense[2], 0x0b);
	assert_int_equal(task.sense[12], 0x47);
	assert_int_equal(task.sense[13], 0x05);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_specific),
		cmocka_unit_test(test_field_pointer),
		cmocka_unit_test(test_information),
		cmocka_unit_test(test_check_condition),
	};

	return cmocka_run_group_tests_name("scsi_sense", tests, NULL, NULL);
}
