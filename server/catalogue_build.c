#include "config.h"
#include "catalogue_build.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "config_load.h"
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
destroy_credentials(const struct credential *credentials, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char *secret = (char *)(uintptr_t)credentials[i].secret;

		if (secret)
			explicit_bzero(secret, strlen(secret));
		free(secret);
		free((char *)(uintptr_t)credentials[i].user);
	}
	free((struct credential *)(uintptr_t)credentials);
}

static void
destroy_target(const struct target *target)
{
	for (size_t i = 0; i < target->ninitiators; i++) {
		destroy_target(&target->initiators[i].as);
		free((char *)(uintptr_t)target->initiators[i].name);
	}
	free((struct initiator *)(uintptr_t)target->initiators);
	for (size_t i = 0; i < target->nluns; i++)
		volume_put(target->luns[i].volume);
	free((struct lun *)(uintptr_t)target->luns);
	destroy_credentials(target->chap, target->nchap);
	destroy_credentials(target->mutual, target->mutual ? 1 : 0);
	free((char *)(uintptr_t)target->redirect);
	free((char *)(uintptr_t)target->name);
}

static void
destroy_built(struct catalogue *catalogue)
{
	struct built *built = container_of(catalogue, struct built, catalogue);

	for (size_t i = 0; i < built->nexports; i++) {
		free((char *)(uintptr_t)built->exports[i].name);
		free((char *)(uintptr_t)built->exports[i].description);
		volume_put(built->exports[i].volume);
	}
	for (size_t i = 0; i < built->ntargets; i++)
		destroy_target(&built->targets[i]);
	destroy_credentials(built->catalogue.discovery_chap, built->catalogue.ndiscovery_chap);
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

static struct credential *
copy_credentials(struct built *built, const struct conf_credential *conf, size_t count, size_t *n)
{
	struct credential *credentials = count ? calloc(count, sizeof(*credentials)) : NULL;

	*n = credentials ? count : 0;
	if (count && !credentials)
		built->no_memory = true;
	for (size_t i = 0; i < *n; i++)
		credentials[i] = (struct credential){.user = copy_text(built, conf[i].user),
			.secret = copy_text(built, conf[i].secret)};
	return credentials;
}

/* LUNs come in ascending order (config_finish). */
static struct lun *
copy_luns(struct built *built, const struct conf_lun *conf, size_t count, size_t *n)
{
	struct lun *luns = calloc(count + 1, sizeof(*luns));
	struct served_volume *served;

	*n = 0;
	if (!luns)
		built->no_memory = true;
	for (size_t i = 0; luns && i < count; i++) {
		served = volumes_find(conf[i].volume);
		if (served)
			luns[(*n)++] = (struct lun){.number = conf[i].number,
				.volume = volume_get(served->volume),
				.read_only = conf[i].read_only};
	}
	return luns;
}

/* The target as one initiator sees it: what its rule does not say is the target's. */
static void
fill_target(struct built *built, struct target *target, const struct conf_target *conf,
	const struct conf_initiator *rule)
{
	bool own_luns = rule && rule->nluns > 0, own_chap = rule && rule->nchap > 0;
	size_t one;

	*target = (struct target){.name = copy_text(built, conf->name)};
	target->luns = copy_luns(built, own_luns ? rule->luns : conf->luns,
		own_luns ? rule->nluns : conf->nluns, &target->nluns);
	target->chap = copy_credentials(built, own_chap ? rule->chap : conf->chap,
		own_chap ? rule->nchap : conf->nchap, &target->nchap);
	target->redirect = copy_text(built, conf->redirect);
	target->moved = conf->moved;
	target->events = conf->events;
	if (conf->mutual.user)
		target->mutual = copy_credentials(built, &conf->mutual, 1, &one);
}

static void
add_target(struct built *built, const struct conf_target *conf)
{
	struct target *target = &built->targets[built->ntargets];
	struct initiator *initiators;
	bool any;

	fill_target(built, target, conf, NULL);
	initiators = calloc(conf->ninitiators + 1, sizeof(*initiators));
	if (!initiators)
		built->no_memory = true;
	target->initiators = initiators;
	any = target->nluns > 0 || target->redirect;
	for (size_t i = 0; initiators && i < conf->ninitiators; i++) {
		initiators[i].name = copy_text(built, conf->initiators[i].name);
		fill_target(built, &initiators[i].as, conf, &conf->initiators[i]);
		any = any || initiators[i].as.nluns > 0;
		target->ninitiators++;
	}
	if (any)
		built->ntargets++;
	else
		destroy_target(target);
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
		/* Where every target asks who comes, none is added that does not. */
		if (conf->ntargets == 0 || (served->added && !config_targets_guarded(conf)))
			add_own_target(built, served->volume);
	}
}

struct catalogue *
catalogue_build(const struct conf *conf, const struct portal *portals, size_t nportals)
{
	struct built *built = calloc(1, sizeof(*built));
	struct served_volume *served;
	struct credential *discovery;
	size_t volumes = 0, ndiscovery;

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
	discovery =
		copy_credentials(built, conf->discovery_chap, conf->ndiscovery_chap, &ndiscovery);
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
		.discovery_chap = discovery,
		.ndiscovery_chap = ndiscovery,
		.tls = conf->tls,
		.tls_context = secure_context() ? tls_context_get(secure_context()) : NULL,
		.destroy = destroy_built,
	};
	for (size_t i = 0;
		i < conf->nchap_algorithms && i < ARRAY_SIZE(built->catalogue.chap_algorithms); i++)
		built->catalogue.chap_algorithms[built->catalogue.nchap_algorithms++] =
			(uint8_t)conf->chap_algorithms[i].number;
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
