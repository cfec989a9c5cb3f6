/* What a client is told about an export, as far as it needs no connection. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "catalogue.h"
#include "limits.h"
#include "nbd/nbd.h"

static int
match(const char *query, bool listing)
{
	return nbd_context_match((const uint8_t *)query, strlen(query), listing);
}

static void
test_context_match(void **state)
{
	static const char *const none[] = {"base:alloc", "base:allocation2", "base:Allocation",
		"qemu:", "qemu:dirty-bitmap:x", "x-mine:base:allocation", "BASE:allocation"};
	static const char *const bad[] = {"", "base", ":", ":allocation", "base allocation"};
	uint8_t query[LIMIT_NBD_STRING + 1];

	(void)state;
	for (int listing = 0; listing < 2; listing++) {
		assert_int_equal(match("base:allocation", listing), 1);
		assert_int_equal(match("base:", listing), listing);
		for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
			assert_int_equal(match(none[i], listing), 0);
		for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
			assert_int_equal(match(bad[i], listing), -EINVAL);
		assert_int_equal(
			nbd_context_match((const uint8_t *)"base:\0", 6, listing), -EINVAL);
		memset(query, ':', sizeof(query));
		query[0] = 'x';
		assert_int_equal(nbd_context_match(query, LIMIT_NBD_STRING, listing), 0);
		assert_int_equal(nbd_context_match(query, sizeof(query), listing), -EINVAL);
	}
}

/* proto.md "Size constraints": a power of 2, not below the minimum block nor 512. */
static void
test_preferred(void **state)
{
	static const uint32_t sizes[] = {512, 4096, 65536};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		for (size_t j = 0; j < 4; j++) {
			struct blk_info info = {.physical_block_size = sizes[i]};
			struct export export = {.min_block = j < 3 ? sizes[j] : 0};
			uint32_t preferred = nbd_export_preferred(&export, &info);

			assert_true(preferred >= 4096 && preferred >= sizes[i]);
			assert_true(preferred >= export.min_block);
			assert_int_equal(preferred & (preferred - 1), 0);
		}
	}
}

static void
test_hash(void **state)
{
	(void)state;
	assert_true(nbd_export_hash("disk0", 5) == nbd_export_hash("disk0", 5));
	assert_true(nbd_export_hash("disk0", 5) != nbd_export_hash("disk1", 5));
	assert_true(nbd_export_hash("disk0", 5) != nbd_export_hash("disk0", 4));
	assert_true(nbd_export_hash("", 0) != nbd_export_hash("\0", 1));
	/* What no SET_META_CONTEXT leaves behind names no export. */
	assert_true(nbd_export_hash("", 0) != 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_context_match),
		cmocka_unit_test(test_preferred),
		cmocka_unit_test(test_hash),
	};

	return cmocka_run_group_tests_name("nbd_export", tests, NULL, NULL);
}
