#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "bytes.h"
#include "check.h"

static void
test_big_endian(void **state)
{
	uint8_t b[8] = {0x01, 0x02, 0x03, 0x04, 0xf5, 0xf6, 0xf7, 0xf8};
	uint8_t out[8] = {0};

	(void)state;
	assert_int_equal(get_be16(b), 0x0102);
	assert_int_equal(get_be24(b), 0x010203);
	assert_int_equal(get_be32(b), 0x01020304);
	assert_true(get_be64(b) == 0x01020304f5f6f7f8);
	put_be64(out, 0x01020304f5f6f7f8);
	assert_memory_equal(out, b, 8);
	put_be24(out, 0xa1b2c3);
	assert_int_equal(get_be24(out), 0xa1b2c3);
	assert_int_equal(out[3], 4);
}

/* R02: one bounded reader and one bounded writer, ... */
static void
test_reader_past_the_end(void **state)
{
	uint8_t b[7] = {0, 1, 0, 0, 0, 2, 9};
	struct reader r = reader_of(b, sizeof(b));

	(void)state;
	assert_int_equal(reader_be16(&r), 1);
	assert_int_equal(reader_be32(&r), 2);
	assert_false(r.bad);
	assert_int_equal(reader_be16(&r), 0);
	assert_true(r.bad);
	/* Bad for good, although one byte is left. */
	assert_null(reader_bytes(&r, 1));
	assert_int_equal(r.left, 1);
}

static void
test_reader_huge_length(void **state)
{
	uint8_t b[4] = {0};
	struct reader r = reader_of(b, sizeof(b));

	(void)state;
	assert_null(reader_bytes(&r, SIZE_MAX));
	assert_true(r.bad);
}

static void
test_writer_past_the_end(void **state)
{
	uint8_t b[8];
	struct writer w = writer_of(b, 6);

	(void)state;
	memset(b, 0xee, sizeof(b));
	writer_be32(&w, 0x01020304);
	writer_be32(&w, 0x05060708); /* does not fit: not even in part */
	assert_true(w.bad);
	assert_int_equal(w.length, 4);
	assert_int_equal(b[4], 0xee);
	writer_u8(&w, 1);
	assert_int_equal(w.length, 4);
}

static void
test_iov_copy(void **state)
{
	char a[3];
	char b[5];
	char out[9] = {0};
	struct iovec iov[] = {{a, 3}, {NULL, 0}, {b, 5}};

	(void)state;
	memset(a, '.', 3);
	memset(b, '.', 5);
	assert_int_equal(iov_length(iov, 3), 8);
	assert_int_equal(iov_from(iov, 3, 2, "xyz", 3), 3);
	assert_int_equal(iov_to(iov, 3, 0, out, 8), 8);
	assert_string_equal(out, "..xyz...");
	/* The vector ends first. */
	assert_int_equal(iov_from(iov, 3, 6, "QRST", 4), 2);
	assert_int_equal(iov_to(iov, 3, 4, out, 8), 4);
	assert_memory_equal(out, "z.QR", 4);
	assert_int_equal(iov_zero(iov, 3, 3, 2), 2);
	assert_int_equal(iov_to(iov, 3, 0, out, 8), 8);
	assert_memory_equal(out, "..x\0\0.QR", 8);
	assert_int_equal(iov_to(iov, 3, 8, out, 1), 0);
	assert_int_equal(iov_to(iov, 3, SIZE_MAX, out, 1), 0);
}

static void
test_iov_slice(void **state)
{
	char a[10];
	char b[10];
	char c[10];
	struct iovec iov[] = {{a, 10}, {b, 10}, {c, 10}};
	struct iovec out[3];
	size_t covered;

	(void)state;
	assert_int_equal(iov_slice(iov, 3, 5, 10, out, 3, &covered), 2);
	assert_int_equal(covered, 10);
	assert_ptr_equal(out[0].iov_base, a + 5);
	assert_int_equal(out[0].iov_len, 5);
	assert_ptr_equal(out[1].iov_base, b);
	assert_int_equal(out[1].iov_len, 5);
	/* No room in out[]. */
	assert_int_equal(iov_slice(iov, 3, 0, SIZE_MAX, out, 2, &covered), 2);
	assert_int_equal(covered, 20);
	assert_int_equal(iov_slice(iov, 3, 30, 1, out, 3, &covered), 0);
	assert_int_equal(covered, 0);
	assert_int_equal(iov_slice(iov, 3, 20, 10, out, 3, NULL), 1);
	assert_ptr_equal(out[0].iov_base, c);
}

/* ... and one helper for ranges, which cannot overflow (R02). */
static void
test_ranges(void **state)
{
	uint64_t v = 7;

	(void)state;
	assert_true(range_within(0, 0, 0));
	assert_true(range_within(10, 0, 10));
	assert_false(range_within(11, 0, 10));
	assert_false(range_within(UINT64_MAX, 2, 10));
	assert_false(range_within(2, UINT64_MAX, 10));
	assert_true(range_overlaps(0, 2, 1, 1));
	assert_false(range_overlaps(0, 1, 1, 1));
	assert_false(checked_add(UINT64_MAX, 1, &v));
	assert_false(checked_mul(UINT64_MAX / 2 + 1, 2, &v));
	assert_true(v == 7);
	assert_true(checked_mul(UINT64_MAX / 2, 2, &v));
	assert_true(v == UINT64_MAX - 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_big_endian),
		cmocka_unit_test(test_reader_past_the_end),
		cmocka_unit_test(test_reader_huge_length),
		cmocka_unit_test(test_writer_past_the_end),
		cmocka_unit_test(test_iov_copy),
		cmocka_unit_test(test_iov_slice),
		cmocka_unit_test(test_ranges),
	};

	return cmocka_run_group_tests_name("bytes", tests, NULL, NULL);
}
