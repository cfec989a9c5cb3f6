/* The table of keys, and that slabd.yaml.5 says what it says. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "../lib/manual.h"
#include "../../server/config_keys.h"

static void
write_keys(const void *arg, FILE *out)
{
	config_keys_manual(arg, out);
}

static void
manual_lists_every_key(void **state)
{
	struct manual_list lists[64];
	size_t n = 0;

	(void)state;
	for (; config_sections[n]; n++) {
		assert_true(n < ARRAY_SIZE(lists));
		lists[n] = (struct manual_list){
			config_sections[n]->noun, write_keys, config_sections[n]};
	}
	manual_check("server/slabd.yaml.5", lists, n);
}

static void
every_row_is_whole(void **state)
{
	(void)state;
	for (size_t i = 0; config_sections[i]; i++)
		for (const struct config_key *key = config_sections[i]->keys; key->name; key++) {
			if (key->kind != KEY_LATER)
				assert_non_null(key->help);
			assert_int_equal(key->section != NULL,
				key->kind == KEY_GROUP || key->kind == KEY_ITEMS);
			assert_ptr_equal(config_key_find(config_sections[i], key->name), key);
		}
	for (size_t i = 0; config_sections[i]; i++)
		if (config_sections[i]->shorthand)
			assert_non_null(
				config_key_find(config_sections[i], config_sections[i]->shorthand));
}

static const struct config_key *
volume_key(const char *name)
{
	return config_key_find(&config_volume_section, name);
}

static void
values_are_stored(void **state)
{
	struct conf_volume volume = {0};
	struct error error;

	(void)state;
	assert_true(config_key_defaults(&config_volume_section, &volume));
	assert_int_equal(volume.block_size, 512);
	assert_int_equal(volume.physical_block_size, 0);
	assert_true(config_key_set(volume_key("size"), &volume, "1P", &error));
	assert_int_equal(volume.size, 1ull << 50);
	assert_true(config_key_set(volume_key("read_only"), &volume, "on", &error));
	assert_true(volume.read_only);
	assert_true(config_key_set(volume_key("path"), &volume, "/a", &error));
	assert_true(config_key_set(volume_key("path"), &volume, "/b", &error));
	assert_string_equal(volume.path, "/b");
	config_item_clear(&config_volume_section, &volume);
}

static void
assert_refused(const char *key, const char *text, const char *why)
{
	struct conf_volume volume = {0}, before = {0};
	struct error error;

	assert_false(config_key_set(volume_key(key), &volume, text, &error));
	assert_string_equal(error.text, why);
	assert_memory_equal(&volume, &before, sizeof(volume));
}

static void
wrong_values_are_refused_and_change_nothing(void **state)
{
	(void)state;
	assert_refused("size", "4Q",
		"\"4Q\" is not a size (give bytes, or a number with K, M, G, T or P)");
	assert_refused("size", "2048P", "2048P is out of range (0 to 1024P)");
	assert_refused("block_size", "1", "1 is out of range (512 to 4K)");
	assert_refused("read_only", "yes", "\"yes\" is neither on nor off");
	assert_refused("path", "", "must not be empty");
}

static void
items_come_and_go(void **state)
{
	const struct config_key *volumes = config_key_find(&config_root, "volumes");
	struct conf conf = {0};

	(void)state;
	for (int i = 0; i < 20; i++) {
		struct conf_volume *volume = config_item_add(volumes, &conf);
		char name[16];

		assert_non_null(volume);
		snprintf(name, sizeof(name), "v%d", i);
		volume->name = strdup(name);
		assert_int_equal(volume->block_size, 512);
	}
	config_item_remove(volumes, &conf, 0);
	config_item_remove(volumes, &conf, 18);
	assert_int_equal(conf.nvolumes, 18);
	assert_string_equal(conf.volumes[0].name, "v1");
	assert_string_equal(conf.volumes[17].name, "v18");
	config_item_clear(&config_root, &conf);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(manual_lists_every_key),
		cmocka_unit_test(every_row_is_whole),
		cmocka_unit_test(values_are_stored),
		cmocka_unit_test(wrong_values_are_refused_and_change_nothing),
		cmocka_unit_test(items_come_and_go),
	};

	return cmocka_run_group_tests_name("config_keys", tests, NULL, NULL);
}
