/* NAME=BACKEND:ARG[,KEY=VALUE]... : a volume on the command line and in `slabctl add`. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "block_driver.h"
#include "config_keys.h"
#include "config_load.h"
#include "words.h"

/* Cuts the text up to the next single comma off *rest, making ",," one comma. NULL at the end. */
static char *
next_part(char **rest)
{
	char *part = *rest, *to = part, *from = part;

	if (!part)
		return NULL;
	for (; *from; from++) {
		if (from[0] == ',') {
			if (from[1] != ',')
				break;
			from++;
		}
		*to++ = *from;
	}
	*rest = *from ? from + 1 : NULL;
	*to = '\0';
	return part;
}

static void
complain_about_option(struct config *config, const char *volume, const char *option)
{
	struct nearest nearest;
	char hint[96];

	nearest_init(&nearest, option);
	for (const struct config_key *key = config_volume_section.keys; key->name; key++)
		nearest_try(&nearest, key->name);
	config_usage(config, "volume %s: unknown option \"%s\"%s", volume, option,
		nearest_text(&nearest, hint, sizeof(hint)));
}

static void
set_option(struct config *config, struct conf_volume *volume, char *option, uint64_t *given)
{
	char *equals = strchr(option, '=');
	const struct config_key *key;
	struct error error;

	if (equals)
		*equals = '\0';
	key = config_key_find(&config_volume_section, option);
	if (!key || strcmp(option, "backend") == 0) {
		complain_about_option(config, volume->name, option);
		return;
	}
	if (*given & (uint64_t)1 << (key - config_volume_section.keys)) {
		config_usage(config, "volume %s: %s is given twice", volume->name, option);
		return;
	}
	*given |= (uint64_t)1 << (key - config_volume_section.keys);
	if (!equals && key->kind != KEY_SWITCH) {
		config_usage(
			config, "volume %s: %s needs a value: %s=…", volume->name, option, option);
		return;
	}
	if (!config_key_set(key, volume, equals ? equals + 1 : "on", &error))
		config_usage(config, "volume %s: %s: %s", volume->name, option, error.text);
}

static bool
complain_about_spec(struct config *config, const char *spec)
{
	size_t name = strcspn(spec, "=");

	if (spec[name] != '=' || name == 0)
		config_usage(config,
			"\"%s\" is no volume: say NAME=BACKEND:ARG, as in disk0=memory:1G", spec);
	else if (!strchr(spec + name, ':'))
		config_usage(config,
			"volume %.*s: \"%s\" is not BACKEND:ARG, as in memory:1G or "
			"file:/srv/web.img",
			(int)name, spec, spec + name + 1);
	else
		return false;
	return true;
}

static void
complain_about_backend(struct config *config, const char *name, const char *backend)
{
	struct nearest nearest;
	char hint[96], known[128] = "";

	nearest_init(&nearest, backend);
	for (const struct blk_driver *const *d = blk_drivers; *d; d++) {
		size_t length = strlen(known);

		nearest_try(&nearest, (*d)->name);
		snprintf(known + length, sizeof(known) - length, "%s%s", length ? ", " : "",
			(*d)->name);
	}
	if (nearest.best)
		config_usage(config, "volume %s: unknown backend \"%s\"%s", name, backend,
			nearest_text(&nearest, hint, sizeof(hint)));
	else
		config_usage(config, "volume %s: unknown backend \"%s\" (known: %s)", name, backend,
			known);
}

void
config_add_volume(struct config *config, const char *spec)
{
	const struct config_key *volumes = config_key_find(&config_root, "volumes");
	struct conf_volume *volume;
	const struct blk_driver *driver;
	const struct config_key *argument;
	char *name, *backend, *rest, *part;
	size_t problems = config->nproblems;
	uint64_t given = 0;
	struct error error;

	if (complain_about_spec(config, spec))
		return;
	name = strdup(spec);
	volume = config_item_add(volumes, &config->conf);
	if (!name || !volume) {
		config->no_memory = true;
		free(name);
		return;
	}
	volume->name = name;
	backend = strchr(name, '=');
	*backend++ = '\0';
	rest = strchr(backend, ':');
	*rest++ = '\0';
	driver = blk_driver_find(backend);
	if (!driver) {
		complain_about_backend(config, name, backend);
		goto drop;
	}
	volume->backend = strdup(backend);
	if (!volume->backend) {
		config->no_memory = true;
		goto drop;
	}
	argument = config_key_find(&config_volume_section, driver->argument);
	part = next_part(&rest);
	given = (uint64_t)1 << (argument - config_volume_section.keys);
	if (!config_key_set(argument, volume, part, &error))
		config_usage(config, "volume %s: %s: %s", name, driver->argument, error.text);
	while ((part = next_part(&rest)))
		set_option(config, volume, part, &given);
	if (config->nproblems == problems)
		return;
drop:
	/* What is wrong with it has been said; the checks would only repeat it. */
	config_item_remove(volumes, &config->conf, config->conf.nvolumes - 1);
}

void
config_add_listen(struct config *config, const char *protocol, const char *address)
{
	bool nbd = strcmp(protocol, "nbd") == 0;
	const struct config_key *group = config_key_find(&config_root, protocol);
	const struct config_key *key = config_key_find(group->section, "listen");
	const char *path = nbd ? "nbd.listen" : "iscsi.listen";
	struct conf_listen *listen;

	/* Given, so no default; line 0 says that it was not in the file. */
	if (!config_where(config, path))
		config_found(config, path, (struct config_mark){0});
	if (strcmp(address, "none") == 0) {
		while (config_item_count(key, &config->conf) > 0)
			config_item_remove(key, &config->conf, 0);
		return;
	}
	listen = config_item_add(key, &config->conf);
	if (listen)
		listen->address = strdup(address);
	if (!listen || !listen->address)
		config->no_memory = true;
}
