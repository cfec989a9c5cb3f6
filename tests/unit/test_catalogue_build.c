#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "../../server/catalogue_build.h"
#include "../../server/config_load.h"
#include "../../server/volumes.h"
#include "loop.h"

static const struct portal portals[] = {
	{.address = "127.0.0.1:3260", .group = 1, .relative_id = 1},
	{.address = "127.0.0.1:3261", .advertise = "192.0.2.1:3260", .group = 2, .relative_id = 2},
};

static struct config config;

static void
open_from(const char *yaml)
{
	struct error error;

	assert_true(config_init(&config));
	config_read_text(&config, "f.yaml", yaml, strlen(yaml));
	if (!config_finish(&config))
		fail_msg("%s", config.problems[0].text);
	if (volumes_open_all(&config.conf, &error) != 0)
		fail_msg("%s", error.text);
}

static void
add_volume(const char *spec)
{
	struct config one;
	struct error error;

	assert_true(config_init(&one));
	config_add_volume(&one, spec);
	config_check_volume(&one, 0);
	assert_int_equal(one.nproblems, 0);
	assert_int_equal(volumes_open(&one.conf.volumes[0], true, NULL, &error), 0);
	config_free(&one);
}

static struct catalogue *
build(void)
{
	struct catalogue *catalogue = catalogue_build(&config.conf, portals, 2);

	assert_non_null(catalogue);
	return catalogue;
}

static void
close_all(void)
{
	volumes_close_all();
	config_free(&config);
}

static void
without_exports_each_volume_has_its_own(void **state)
{
	struct catalogue *catalogue;

	(void)state;
	open_from("volumes: {b: {backend: null, size: 1G}, a: {backend: null, size: 1G}}\n");
	catalogue = build();
	assert_int_equal(catalogue->nexports, 2);
	assert_string_equal(catalogue->exports[0].name, "b");
	assert_true(catalogue->exports[0].is_default);
	assert_false(catalogue->exports[1].is_default);
	assert_ptr_equal(catalogue_export(catalogue, "", 0), &catalogue->exports[0]);
	assert_ptr_equal(catalogue_export(catalogue, "a", 1), &catalogue->exports[1]);
	assert_int_equal(catalogue->ntargets, 2);
	assert_string_equal(catalogue->targets[1].name, "iqn.2026-11.localhost.slabd:a");
	assert_int_equal(catalogue->targets[1].nluns, 1);
	assert_int_equal(catalogue->targets[1].luns[0].number, 0);
	assert_int_equal(catalogue->nportals, 2);
	assert_string_equal(catalogue->portals[1].advertise, "192.0.2.1:3260");
	catalogue_put(catalogue);
	close_all();
}

static void
configured_ones_are_offered_as_they_are(void **state)
{
	struct catalogue *catalogue;
	const struct target *target;

	(void)state;
	open_from(
		"volumes: {a: {backend: null, size: 1G}, b: {backend: null, size: 1G}}\n"
		"nbd: {exports: {x: {volume: b, hidden: on, min_block: 512, description: d}}}\n"
		"iscsi: {targets: {iqn.2026-11.x:t: {luns: {7: a, 2: {volume: b, read_only: on}}}}}\n");
	catalogue = build();
	assert_int_equal(catalogue->nexports, 1);
	assert_string_equal(volume_name(catalogue->exports[0].volume), "b");
	assert_true(catalogue->exports[0].hidden);
	assert_int_equal(catalogue->exports[0].min_block, 512);
	assert_string_equal(catalogue->exports[0].description, "d");
	assert_false(catalogue->exports[0].is_default);
	target = catalogue_target(catalogue, "iqn.2026-11.x:t");
	assert_ptr_equal(target, &catalogue->targets[0]);
	assert_int_equal(target->nluns, 2);
	assert_int_equal(target->luns[0].number, 2);
	assert_true(target->luns[0].read_only);
	assert_int_equal(target->luns[1].number, 7);
	catalogue_put(catalogue);
	close_all();
}

static void
added_volumes_stand_beside_configured_ones(void **state)
{
	struct catalogue *catalogue;

	(void)state;
	open_from("volumes: {a: {backend: null, size: 1G}}\n"
		  "nbd: {exports: {x: a}}\niscsi: {targets: {iqn.2026-11.x:t: {luns: {0: a}}}}\n");
	add_volume("more=memory:1M");
	catalogue = build();
	assert_int_equal(catalogue->nexports, 2);
	assert_int_equal(catalogue->ntargets, 2);
	assert_non_null(catalogue_export(catalogue, "more", 4));
	assert_non_null(catalogue_target(catalogue, "iqn.2026-11.localhost.slabd:more"));
	assert_true(catalogue_name_taken(&config.conf, "x"));
	assert_false(catalogue_name_taken(&config.conf, "a"));
	catalogue_put(catalogue);
	close_all();
}

static void
what_is_going_is_not_offered(void **state)
{
	struct catalogue *before, *after;

	(void)state;
	open_from("volumes: {a: {backend: null, size: 1G}, b: {backend: null, size: 1G}}\n"
		  "iscsi: {targets: {iqn.2026-11.x:t: {luns: {0: a, 1: b}}, "
		  "iqn.2026-11.x:u: {luns: {0: a}}}}\n");
	before = build();
	volume_set_going(volumes_find("a")->volume);
	assert_null(volumes_find("a"));
	after = build();
	assert_int_equal(after->nexports, 1);
	/* The default export went with its volume; nobody inherits it. */
	assert_null(catalogue_export(after, "", 0));
	assert_int_equal(after->ntargets, 1);
	assert_int_equal(after->targets[0].nluns, 1);
	assert_int_equal(after->targets[0].luns[0].number, 1);
	assert_int_equal(before->nexports, 2);
	catalogue_put(after);
	catalogue_put(before);
	close_all();
}

static void
default_export_comes_back_with_its_volume(void **state)
{
	struct catalogue *catalogue;
	struct served_volume *served;

	(void)state;
	open_from("volumes: {a: {backend: null, size: 1G}, b: {backend: null, size: 1G}}\n");
	served = volumes_find("a");
	volume_set_going(served->volume);
	volumes_drop(served);
	add_volume("a=memory:1M");
	catalogue = build();
	assert_string_equal(catalogue_export(catalogue, "", 0)->name, "a");
	catalogue_put(catalogue);
	close_all();
}

static int
start(void **state)
{
	(void)state;
	return loops_start(1) || storage_start(0);
}

static int
stop(void **state)
{
	(void)state;
	storage_stop();
	loops_stop();
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_exports_each_volume_has_its_own),
		cmocka_unit_test(configured_ones_are_offered_as_they_are),
		cmocka_unit_test(added_volumes_stand_beside_configured_ones),
		cmocka_unit_test(what_is_going_is_not_offered),
		cmocka_unit_test(default_export_comes_back_with_its_volume),
	};

	return cmocka_run_group_tests_name("catalogue_build", tests, start, stop);
}
