#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "../../server/config_load.h"
#include "check.h"

static void
specs_are_read(void **state)
{
	struct config config;
	const struct conf_volume *v;

	(void)state;
	assert_true(config_init(&config));
	config_add_volume(&config, "disk0=memory:1G");
	config_add_volume(&config,
		"web=file:/srv/a,,b:c=d.img,size=10G,read_only,block_size=4K,removable=off,vendor=A,,B");
	config_add_volume(&config, "nil=null:1P,serial=X1,physical_block_size=4096");
	assert_true(config_finish(&config));
	assert_int_equal(config.conf.nvolumes, 3);
	v = config.conf.volumes;
	assert_string_equal(v[0].name, "disk0");
	assert_string_equal(v[0].backend, "memory");
	assert_int_equal(v[0].size, 1ull << 30);
	assert_int_equal(v[0].block_size, 512);
	assert_int_equal(v[0].physical_block_size, 512);
	assert_string_equal(v[1].path, "/srv/a,b:c=d.img");
	assert_int_equal(v[1].size, 10ull << 30);
	assert_true(v[1].read_only);
	assert_false(v[1].removable);
	assert_int_equal(v[1].block_size, 4096);
	assert_int_equal(v[1].physical_block_size, 4096);
	assert_string_equal(v[1].vendor, "A,B");
	assert_int_equal(v[2].size, 1ull << 50);
	assert_string_equal(v[2].serial, "X1");
	assert_int_equal(v[2].physical_block_size, 4096);
	config_free(&config);
}

static void
mistakes_are_named(void **state)
{
	static const struct {
		const char *spec, *problem;
	} bad[] = {
		{"web=file:/srv/web.img,sise=10G",
			"volume web: unknown option \"sise\" (did you mean \"size\"?)"},
		{"foo", "\"foo\" is no volume: say NAME=BACKEND:ARG, as in disk0=memory:1G"},
		{"=memory:1G",
			"\"=memory:1G\" is no volume: say NAME=BACKEND:ARG, as in disk0=memory:1G"},
		{"a=memory",
			"volume a: \"memory\" is not BACKEND:ARG, as in memory:1G or file:/srv/web.img"},
		{"a=memry:1G", "volume a: unknown backend \"memry\" (did you mean \"memory\"?)"},
		{"a=tape:1G", "volume a: unknown backend \"tape\" (known: memory, file, device, null)"},
		{"a=memory:",
			"volume a: size: \"\" is not a size (give bytes, or a number with K, M, "
			"G, T or P)"},
		{"a=memory:0", "volume a: a memory volume needs a size"},
		{"a=memory:1G,size=1G", "volume a: size is given twice"},
		{"a=memory:1G,read_only,read_only=off", "volume a: read_only is given twice"},
		{"a=memory:1G,serial", "volume a: serial needs a value: serial=…"},
		{"a=memory:1G,", "volume a: unknown option \"\""},
		{"a=memory:1G,backend=file",
			"volume a: unknown option \"backend\" (did you mean \"backend\"?)"},
		{"a=memory:1G,path=/x", "volume a: a memory volume takes no path"},
		{"a=file:", "volume a: path: must not be empty"},
		{"a=memory:513", "volume a: size is not a multiple of block_size 512"},
		{"a=memory:1G,block_size=4096,physical_block_size=512",
			"volume a: physical_block_size 512 is not a power of two times block_size 4096"},
		{"a=memory:1G,block_size=1024", "volume a: block_size is 512 or 4096, not 1024"},
		{"A=memory:1G", "volume A: a name is [a-z0-9][a-z0-9.-]*, at most 64 characters"},
		{"-a=memory:1G", "volume -a: a name is [a-z0-9][a-z0-9.-]*, at most 64 characters"},
		{"a=memory:1G,vendor=123456789",
			"volume a: vendor has at most 8 printable ASCII characters"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct config config;

		assert_true(config_init(&config));
		config_add_volume(&config, bad[i].spec);
		assert_false(config_finish(&config));
		assert_int_equal(config.nproblems, 1);
		assert_string_equal(config.problems[0].text, bad[i].problem);
		assert_true(config.usage);
		config_free(&config);
	}
}

static void
every_mistake_is_said(void **state)
{
	struct config config;

	(void)state;
	assert_true(config_init(&config));
	config_add_volume(&config, "a=memory:x,foo=1,read_only=maybe");
	config_add_volume(&config, "b=memory:1G");
	config_add_volume(&config, "b=memory:2G");
	assert_false(config_finish(&config));
	assert_int_equal(config.nproblems, 4);
	assert_string_equal(config.problems[3].text, "volume b is defined twice");
	config_free(&config);
}

static void
without_volumes_there_is_a_hint(void **state)
{
	struct config config;

	(void)state;
	assert_true(config_init(&config));
	assert_false(config_finish(&config));
	assert_int_equal(config.nproblems, 1);
	assert_string_equal(
		config.problems[0].text, "no volumes: name one, as in: slabd disk0=memory:1G");
	config_free(&config);
}

static void
listeners_have_defaults_unless_they_are_given(void **state)
{
	struct config config;

	(void)state;
	assert_true(config_init(&config));
	config_add_volume(&config, "a=memory:1G");
	config_add_listen(&config, "iscsi", "none");
	assert_true(config_finish(&config));
	assert_int_equal(config.conf.nnbd_listen, 1);
	assert_string_equal(config.conf.nbd_listen[0].address, "127.0.0.1:10809");
	assert_int_equal(config.conf.niscsi_listen, 0);
	config_free(&config);

	assert_true(config_init(&config));
	config_add_volume(&config, "a=memory:1G");
	config_add_listen(&config, "nbd", "none");
	config_add_listen(&config, "iscsi", "none");
	assert_false(config_finish(&config));
	assert_string_equal(config.problems[0].text,
		"neither NBD nor iSCSI is served: give --nbd or --iscsi an address");
	config_free(&config);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(specs_are_read),
		cmocka_unit_test(mistakes_are_named),
		cmocka_unit_test(every_mistake_is_said),
		cmocka_unit_test(without_volumes_there_is_a_hint),
		cmocka_unit_test(listeners_have_defaults_unless_they_are_given),
	};

	return cmocka_run_group_tests_name("config_volume", tests, NULL, NULL);
}
