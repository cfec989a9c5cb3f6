#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "catalogue.h"
#include "frontend.h"

static const struct export exports[] = {
	{.name = "disk0", .is_default = true},
	{.name = "disk"},
};

static const struct target targets[] = {{.name = "iqn.2026-11.localhost.slabd:disk0"}};

static unsigned destroyed;

static void
destroy(struct catalogue *catalogue)
{
	catalogue->exports = NULL;
	__atomic_fetch_add(&destroyed, 1, __ATOMIC_RELAXED);
}

static void
fill(struct catalogue *catalogue)
{
	*catalogue = (struct catalogue){.references = 1,
		.exports = exports,
		.nexports = 2,
		.targets = targets,
		.ntargets = 1,
		.destroy = destroy};
}

static void
test_publish(void **state)
{
	struct catalogue a;
	struct catalogue b;
	const struct catalogue *held;

	(void)state;
	destroyed = 0;
	assert_null(catalogue_get());
	fill(&a);
	fill(&b);
	catalogue_publish(&a);
	held = catalogue_get();
	assert_ptr_equal(held, &a);
	catalogue_publish(&b);
	assert_int_equal(destroyed, 0); /* still used */
	catalogue_put(held);
	assert_int_equal(destroyed, 1);
	assert_null(a.exports);
	catalogue_publish(NULL);
	assert_int_equal(destroyed, 2);
	assert_null(catalogue_get());
}

static void
test_find(void **state)
{
	struct catalogue a;

	(void)state;
	fill(&a);
	assert_ptr_equal(catalogue_export(&a, "disk", 4), &exports[1]);
	assert_ptr_equal(catalogue_export(&a, "disk0xxx", 5), &exports[0]);
	assert_ptr_equal(catalogue_export(&a, NULL, 0), &exports[0]);
	assert_null(catalogue_export(&a, "dis", 3));
	assert_null(catalogue_export(&a, "disk\0", 5));
	assert_ptr_equal(catalogue_target(&a, targets[0].name), &targets[0]);
	assert_null(catalogue_target(&a, "iqn.2026-11.localhost.slabd:disk"));
}

static void
test_no_default_export(void **state)
{
	struct catalogue a;

	(void)state;
	fill(&a);
	a.exports = exports + 1;
	a.nexports = 1;
	assert_null(catalogue_export(&a, "", 0));
}

static void *
take_and_put(void *arg)
{
	const struct catalogue *catalogue;
	unsigned i;

	for (i = 0; i < 20000; i++) {
		catalogue = catalogue_get();
		if (catalogue->nexports != 2 || !catalogue->exports)
			return arg;
		catalogue_put(catalogue);
	}
	return NULL;
}

static void
test_threads(void **state)
{
	static struct catalogue many[2000];
	pthread_t thread[2];
	void *bad;
	unsigned i;

	(void)state;
	destroyed = 0;
	for (i = 0; i < 2000; i++)
		fill(&many[i]);
	catalogue_publish(&many[0]);
	for (i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, take_and_put, many), 0);
	for (i = 1; i < 2000; i++)
		catalogue_publish(&many[i]);
	for (i = 0; i < 2; i++) {
		pthread_join(thread[i], &bad);
		assert_null(bad);
	}
	catalogue_publish(NULL);
	assert_int_equal(destroyed, 2000);
}

static void
test_connection_ids(void **state)
{
	uint64_t first = frontend_next_id();

	(void)state;
	assert_true(first > 0);
	assert_true(frontend_next_id() > first);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_publish),
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_no_default_export),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_connection_ids),
	};

	return cmocka_run_group_tests_name("catalogue", tests, NULL, NULL);
}
