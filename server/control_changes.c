/* `slabctl resize`, `clear`, `snapshot`, `save` and `load`. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "volumes.h"
#include "words.h"

static unsigned pending;
static bool stopping;

/* The volume has changed, or not: the main loop. */
static void
answer_change(void *arg, int rc, const char *text)
{
	struct control_client *client = arg;

	if (rc)
		control_refuse(client, "%s", text);
	else
		control_answer(client, json_pack("{s:b}", "done", 1));
	if (--pending == 0 && stopping)
		loop_stop_main();
}

static void
begin(struct control_client *client, int rc, const struct error *error)
{
	if (rc)
		control_refuse(client, "%s", error->text);
	else
		pending++;
}

void
control_resize(struct control_client *client, const struct conf *conf, json_t *request)
{
	const char *text = json_string_value(json_object_get(request, "size"));
	bool force = json_is_true(json_object_get(request, "force"));
	struct volume *volume = control_volume(client, request);
	struct error error;
	uint64_t size;

	(void)conf;
	if (!volume)
		return;
	if (!text || !parse_size(text, &size)) {
		control_refuse(client,
			"\"%.64s\" is not a size (give bytes, or a number with K, M, G, T or P)",
			text ? text : "");
		return;
	}
	begin(client, volume_resize(volume, size, force, answer_change, client, &error), &error);
}

void
control_clear(struct control_client *client, const struct conf *conf, json_t *request)
{
	struct volume *volume = control_volume(client, request);
	struct error error;

	(void)conf;
	if (volume)
		begin(client, volume_clear(volume, answer_change, client, &error), &error);
}

/* A copy, and who waits for it. */
struct copying {
	struct control_client *client;
	const struct conf *conf;
};

static void
answer_copy(void *arg, struct volume *made, int rc, const char *text)
{
	struct copying *copying = arg;

	if (!rc && made)
		control_offer(copying->client, copying->conf, made);
	else
		answer_change(copying->client, rc, text);
	/* answer_change() has counted it. */
	if (!rc && made && --pending == 0 && stopping)
		loop_stop_main();
	free(copying);
}

static void
begin_copy(struct control_client *client, const struct conf *conf, struct volume *volume,
	int (*function)(struct volume *, const char *, volume_copied *, void *, struct error *),
	const char *argument)
{
	struct copying *copying = malloc(sizeof(*copying));
	struct error error;
	int rc;

	if (!copying) {
		control_refuse(client, "out of memory");
		return;
	}
	*copying = (struct copying){client, conf};
	rc = function(volume, argument, answer_copy, copying, &error);
	if (rc)
		free(copying);
	begin(client, rc, &error);
}

void
control_snapshot(struct control_client *client, const struct conf *conf, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "new"));
	struct volume *volume = control_volume(client, request);

	if (!volume)
		return;
	if (!name)
		control_refuse(client, "snapshot needs a name for the new volume");
	else if (control_name_free(client, conf, name))
		begin_copy(client, conf, volume, volume_snapshot, name);
}

/* The daemon's directory is not the one where the path was typed. */
static const char *
find_path(struct control_client *client, json_t *request)
{
	const char *path = json_string_value(json_object_get(request, "file"));

	if (path && path[0] == '/')
		return path;
	control_refuse(client, "\"%.200s\" is not a path from /", path ? path : "");
	return NULL;
}

void
control_save(struct control_client *client, const struct conf *conf, json_t *request)
{
	struct volume *volume = control_volume(client, request);
	const char *path = volume ? find_path(client, request) : NULL;

	if (path)
		begin_copy(client, conf, volume, volume_save, path);
}

void
control_load(struct control_client *client, const struct conf *conf, json_t *request)
{
	bool force = json_is_true(json_object_get(request, "force"));
	struct volume *volume = control_volume(client, request);
	const char *path = volume ? find_path(client, request) : NULL;
	struct volume_stats stats;

	if (!path)
		return;
	volume_get_stats(volume, &stats);
	if (stats.handles > 0 && !force)
		control_refuse(client,
			"volume %s is in use by %u client%s, under whom its content would change; "
			"--force does it",
			volume_name(volume), stats.handles, stats.handles == 1 ? "" : "s");
	else
		begin_copy(client, conf, volume, volume_load, path);
}

void
control_changes_finish(void)
{
	stopping = true;
	if (pending > 0)
		loop_run_main();
}
