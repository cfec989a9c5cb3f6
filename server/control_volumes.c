/* `slabctl add` and `slabctl remove`. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "catalogue_build.h"
#include "check.h"
#include "config_load.h"
#include "control.h"
#include "frontend.h"
#include "gather.h"
#include "limits.h"
#include "listener.h"
#include "volumes.h"

#define LOOK_AGAIN (10 * MS_NS)

/*
 * A volume on its way out: the loops are told, its clients let go, then it is closed. Until then nobody else
 * may have its name: he would find its file locked, and write over its reservations.
 */
struct removal {
	TAILQ_ENTRY(removal) link;
	struct gather gather;
	struct loop_timer timer;
	struct control_client *client; /* NULL: was answered */
	struct served_volume *served;  /* NULL: is being closed */
	char name[LIMIT_VOLUME_NAME + 1];
	uint64_t deadline;
	bool told; /* every loop was */
};

static TAILQ_HEAD(, removal) removals = TAILQ_HEAD_INITIALIZER(removals);
static bool stopping;

static int
renew_catalogue(const struct conf *conf)
{
	size_t nportals;
	const struct portal *portals = listeners_portals(&nportals);

	return catalogue_renew(conf, portals, nportals);
}

static const struct removal *
find_removal(const char *name)
{
	const struct removal *removal;

	TAILQ_FOREACH(removal, &removals, link)
		if (strcmp(removal->name, name) == 0)
			return removal;
	return NULL;
}

bool
control_name_free(struct control_client *client, const struct conf *conf, const char *name)
{
	if (volumes_find(name))
		control_refuse(client, "volume %s is already there", name);
	else if (find_removal(name))
		control_refuse(client, "volume %s is being removed", name);
	else if (catalogue_name_taken(conf, name))
		control_refuse(client,
			"volume %s: the configuration offers something else under this name", name);
	else
		return true;
	return false;
}

void
control_offer(struct control_client *client, const struct conf *conf, struct volume *volume)
{
	const char *name = volume_name(volume);
	struct served_volume *served = NULL;

	if (stopping) {
		control_refuse(client, "slabd is stopping");
	} else if (!control_name_free(client, conf, name)) {
		/* Said. */
	} else if (volumes_take(volume, &served) != 0 || renew_catalogue(conf) != 0) {
		control_refuse(client, "out of memory");
		if (served)
			volumes_drop(served);
		else
			volume_put(volume);
		return;
	} else {
		log_info("volume %s added", name);
		control_answer(client, json_pack("{s:s}", "added", name));
		return;
	}
	volume_put(volume);
}

static void
open_added(struct control_client *client, const struct conf *conf, const struct conf_volume *volume)
{
	struct served_volume *served = NULL;
	struct error error;

	if (!control_name_free(client, conf, volume->name))
		return;
	if (volumes_open(volume, true, &served, &error) != 0) {
		control_refuse(client, "%s", error.text);
	} else if (renew_catalogue(conf) != 0) {
		volumes_drop(served);
		control_refuse(client, "out of memory");
	} else {
		log_info("volume %s added", volume->name);
		control_answer(client, json_pack("{s:s}", "added", volume->name));
	}
}

void
control_add(struct control_client *client, const struct conf *conf, json_t *request)
{
	const char *spec = json_string_value(json_object_get(request, "volume"));
	struct config config;

	if (!spec) {
		control_refuse(client, "add needs a volume: NAME=BACKEND:ARG[,KEY=VALUE]...");
		return;
	}
	if (config_init(&config)) {
		config.conf.allow_faults = conf->allow_faults;
		config_add_volume(&config, spec);
		if (config.conf.nvolumes == 1)
			config_check_volume(&config, 0);
	}
	if (config.nproblems > 0)
		control_refuse(client, "%s", config.problems[0].text);
	else if (config.no_memory || config.conf.nvolumes != 1)
		control_refuse(client, "out of memory");
	else
		open_added(client, conf, &config.conf.volumes[0]);
	config_free(&config);
}

/* The main loop: nothing is left of the volume. */
static void
removal_closed(void *arg)
{
	struct removal *removal = arg;

	loop_timer_stop(&removal->timer);
	log_info("volume %s removed", removal->name);
	if (removal->client)
		control_answer(removal->client, json_pack("{s:s}", "removed", removal->name));
	TAILQ_REMOVE(&removals, removal, link);
	free(removal);
}

/* It will be closed one day: whoever waits is told that it is not yet. */
static void
answer_late(struct removal *removal, unsigned clients)
{
	char why[80] = "";

	if (clients)
		snprintf(why, sizeof(why), ": %u clients have not let go of it", clients);
	log_warn("volume %s is not closed yet%s", removal->name, why);
	control_refuse(
		removal->client, "volume %s is gone, but not closed yet%s", removal->name, why);
	removal->client = NULL;
}

static void
not_closed(struct loop_timer *timer)
{
	answer_late(container_of(timer, struct removal, timer), 0);
}

static void
close_removed(struct removal *removal, unsigned clients)
{
	struct served_volume *served = removal->served;
	uint64_t now = clock_now();

	removal->served = NULL;
	if (clients)
		answer_late(removal, clients);
	else if (!stopping &&
		 loop_timer_start(loop_main(), &removal->timer,
			 removal->deadline > now ? removal->deadline - now : 1, not_closed) != 0)
		log_error("volume %s: out of memory", removal->name);
	volumes_close(served, removal_closed, removal);
}

static void
look_again(struct loop_timer *timer)
{
	struct removal *removal = container_of(timer, struct removal, timer);
	struct volume_stats stats;

	volume_get_stats(removal->served->volume, &stats);
	if (stats.handles == 0 || stopping || clock_now() >= removal->deadline ||
		loop_timer_start(loop_main(), &removal->timer, LOOK_AGAIN, look_again) != 0)
		close_removed(removal, stats.handles);
}

static void
tell_loop(struct gather *gather, struct loop *loop, unsigned index)
{
	struct removal *removal = container_of(gather, struct removal, gather);

	(void)index;
	nbd_frontend.volume_gone(loop, removal->served->volume);
	iscsi_frontend.volume_gone(loop, removal->served->volume);
}

static void
wait_for_clients(struct gather *gather)
{
	struct removal *removal = container_of(gather, struct removal, gather);

	removal->told = true;
	look_again(&removal->timer);
}

struct volume *
control_volume(struct control_client *client, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	struct served_volume *served = name ? volumes_find(name) : NULL;

	if (served)
		return served->volume;
	control_refuse(client, "there is no volume \"%.64s\"", name ? name : "");
	return NULL;
}

void
control_remove(struct control_client *client, const struct conf *conf, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	bool force = json_is_true(json_object_get(request, "force"));
	struct served_volume *served = name ? volumes_find(name) : NULL;
	struct volume_stats stats;
	struct removal *removal;

	if (!served) {
		if (name && find_removal(name))
			control_refuse(client, "volume %s is being removed", name);
		else
			control_refuse(client, "there is no volume \"%.64s\"", name ? name : "");
		return;
	}
	volume_get_stats(served->volume, &stats);
	if (stats.handles > 0 && !force) {
		control_refuse(client, "volume %s is in use by %u client%s; --force takes it away",
			name, stats.handles, stats.handles == 1 ? "" : "s");
		return;
	}
	removal = calloc(1, sizeof(*removal));
	if (!removal) {
		control_refuse(client, "out of memory");
		return;
	}
	removal->client = client;
	removal->served = served;
	strcpy(removal->name, name);
	removal->deadline = clock_now() + LIMIT_REMOVE_WAIT;
	removal->gather.visit = tell_loop;
	removal->gather.done = wait_for_clients;
	TAILQ_INSERT_TAIL(&removals, removal, link);
	/* Refused from now on; then no longer offered; then taken from those who have it. */
	volume_set_going(served->volume);
	if (renew_catalogue(conf) != 0)
		log_error("volume %s is still listed: out of memory", name);
	gather_start(&removal->gather);
}

void
control_volumes_stop(void)
{
	struct removal *removal, *next;

	/* Removals that loops are still being told of end when those have answered. */
	stopping = true;
	for (removal = TAILQ_FIRST(&removals); removal; removal = next) {
		next = TAILQ_NEXT(removal, link);
		if (!removal->told)
			continue;
		loop_timer_stop(&removal->timer);
		if (removal->served)
			look_again(&removal->timer);
	}
	volumes_wait_closed();
	TAILQ_FOREACH(removal, &removals, link)
		if (removal->told && removal->client)
			answer_late(removal, 0);
}
