#include "config.h"
#include "catalogue_build.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "limits.h"
#include "secure.h"
#include "volumes.h"

/* The catalogue and what it names are one object's: freed together, by any thread. */
struct built {
	struct catalogue catalogue;
	struct export *exports;
	struct target *targets;
	struct portal *portals;
	size_t nexports, ntargets, nportals;
	bool no_memory;
};

static void
destroy_built(struct catalogue *catalogue)
{
	struct built *built = container_of(catalogue, struct built, catalogue);

	for (size_t i = 0; i < built->nexports; i++) {
		free((char *)(uintptr_t)built->exports[i].name);
		free((char *)(uintptr_t)built->exports[i].description);
		volume_put(built->exports[i].volume);
	}
	for (size_t i = 0; i < built->ntargets; i++) {
		for (size_t j = 0; j < built->targets[i].nluns; j++)
			volume_put(built->targets[i].luns[j].volume);
		free((struct lun *)(uintptr_t)built->targets[i].luns);
		free((char *)(uintptr_t)built->targets[i].name);
	}
	for (size_t i = 0; i < built->nportals; i++) {
		free((char *)(uintptr_t)built->portals[i].address);
		free((char *)(uintptr_t)built->portals[i].advertise);
	}
	tls_context_put(built->catalogue.tls_context);
	free(built->exports);
	free(built->targets);
	free(built->portals);
	free(built);
}

static char *
copy_text(struct built *built, const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		built->no_memory = true;
	return copy;
}

static void
add_export(struct built *built, const struct conf_export *conf, struct volume *volume)
{
	struct export *export = &built->exports[built->nexports++];

	*export = (struct export){
		.name = copy_text(built, conf->name),
		.description = copy_text(built, conf->description),
		.volume = volume_get(volume),
		.min_block = conf->min_block,
		.read_only = conf->read_only,
		.hidden = conf->hidden,
		.is_default = conf->is_default,
		.tls = conf->tls,
	};
}

/* LUNs come in ascending order (config_finish). */
static void
add_target(struct built *built, const struct conf_target *conf)
{
	struct target *target = &built->targets[built->ntargets];
	struct lun *luns = calloc(conf->nluns, sizeof(*luns));
	struct served_volume *served;

	if (!luns) {
		built->no_memory = true;
		return;
	}
	*target = (struct target){.luns = luns};
	for (size_t i = 0; i < conf->nluns; i++) {
		served = volumes_find(conf->luns[i].volume);
		if (!served)
			continue;
		luns[target->nluns++] = (struct lun){.number = conf->luns[i].number,
			.volume = volume_get(served->volume),
			.read_only = conf->luns[i].read_only};
	}
	if (target->nluns == 0) {
		free(luns);
		return;
	}
	target->name = copy_text(built, conf->name);
	built->ntargets++;
}

static void
add_own_export(struct built *built, const struct conf *conf, struct volume *volume)
{
	const char *name = volume_name(volume);
	struct conf_export export = {.name = (char *)(uintptr_t)name, .tls = conf->tls};

	/* By name, not by rank: a client that asks for the default export never gets another volume
	 * because the first one was removed. */
	if (conf->nexports == 0 && conf->nvolumes > 0)
		export.is_default = strcmp(conf->volumes[0].name, name) == 0;
	add_export(built, &export, volume);
}

static void
add_own_target(struct built *built, struct volume *volume)
{
	char name[sizeof(TARGET_PREFIX) + LIMIT_VOLUME_NAME];
	struct conf_lun lun = {.volume = (char *)(uintptr_t)volume_name(volume)};
	struct conf_target target = {.name = name, .luns = &lun, .nluns = 1};

	snprintf(name, sizeof(name), TARGET_PREFIX "%s", volume_name(volume));
	add_target(built, &target);
}

static void
add_all(struct built *built, const struct conf *conf)
{
	struct served_volume *served;

	for (size_t i = 0; i < conf->nexports; i++) {
		served = volumes_find(conf->exports[i].volume);
		if (served)
			add_export(built, &conf->exports[i], served->volume);
	}
	for (size_t i = 0; i < conf->ntargets; i++)
		add_target(built, &conf->targets[i]);
	TAILQ_FOREACH(served, volumes_list(), link) {
		if (volume_going(served->volume))
			continue;
		if (served->added || conf->nexports == 0)
			add_own_export(built, conf, served->volume);
		if (served->added || conf->ntargets == 0)
			add_own_target(built, served->volume);
	}
}

struct catalogue *
catalogue_build(const struct conf *conf, const struct portal *portals, size_t nportals)
{
	struct built *built = calloc(1, sizeof(*built));
	struct served_volume *served;
	size_t volumes = 0;

	if (!built)
		return NULL;
	TAILQ_FOREACH(served, volumes_list(), link)
		volumes++;
	built->exports = calloc(conf->nexports + volumes + 1, sizeof(*built->exports));
	built->targets = calloc(conf->ntargets + volumes + 1, sizeof(*built->targets));
	built->portals = calloc(nportals + 1, sizeof(*built->portals));
	if (!built->exports || !built->targets || !built->portals) {
		destroy_built(&built->catalogue);
		return NULL;
	}
	add_all(built, conf);
	for (size_t i = 0; i < nportals; i++) {
		struct portal *portal = &built->portals[built->nportals++];

		*portal = portals[i];
		portal->address = copy_text(built, portals[i].address);
		portal->advertise = copy_text(built, portals[i].advertise);
	}
	built->catalogue = (struct catalogue){
		.exports = built->exports,
		.nexports = built->nexports,
		.targets = built->targets,
		.ntargets = built->ntargets,
		.portals = built->portals,
		.nportals = built->nportals,
		.tls = conf->tls,
		.tls_context = secure_context() ? tls_context_get(secure_context()) : NULL,
		.destroy = destroy_built,
	};
	atomic_init(&built->catalogue.references, 1);
	if (built->no_memory) {
		destroy_built(&built->catalogue);
		return NULL;
	}
	return &built->catalogue;
}

bool
catalogue_name_taken(const struct conf *conf, const char *name)
{
	char target[sizeof(TARGET_PREFIX) + LIMIT_VOLUME_NAME];

	snprintf(target, sizeof(target), TARGET_PREFIX "%.*s", LIMIT_VOLUME_NAME, name);
	for (size_t i = 0; i < conf->nexports; i++)
		if (strcmp(conf->exports[i].name, name) == 0)
			return true;
	for (size_t i = 0; i < conf->ntargets; i++)
		if (strcmp(conf->targets[i].name, target) == 0)
			return true;
	return false;
}

int
catalogue_renew(const struct conf *conf, const struct portal *portals, size_t nportals)
{
	struct catalogue *catalogue = catalogue_build(conf, portals, nportals);

	if (!catalogue)
		return -ENOMEM;
	catalogue_publish(catalogue);
	return 0;
}
