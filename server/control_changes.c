/* `slabctl resize` and `slabctl clear`. */
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

static struct volume *
find_volume(struct control_client *client, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	struct served_volume *served = name ? volumes_find(name) : NULL;

	if (served)
		return served->volume;
	control_refuse(client, "there is no volume \"%.64s\"", name ? name : "");
	return NULL;
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
	struct volume *volume = find_volume(client, request);
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
	struct volume *volume = find_volume(client, request);
	struct error error;

	(void)conf;
	if (volume)
		begin(client, volume_clear(volume, answer_change, client, &error), &error);
}

void
control_changes_finish(void)
{
	stopping = true;
	if (pending > 0)
		loop_run_main();
}
