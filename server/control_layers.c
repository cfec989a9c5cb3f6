/* `slabctl fault`: what layers of a volume do. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control.h"
#include "fault.h"
#include "gather.h"
#include "volumes.h"

/* A layer was set; each loop is told, then this is answered. */
struct setting {
	struct gather gather;
	struct control_client *client;
	struct volume *volume; /* a reference */
	json_t *(*describe)(struct volume *volume);
};

static void
apply_here(struct gather *gather, struct loop *loop, unsigned index)
{
	struct setting *setting = container_of(gather, struct setting, gather);

	(void)loop;
	(void)index;
	volume_layers_apply(setting->volume);
}

static void
all_applied(struct gather *gather)
{
	struct setting *setting = container_of(gather, struct setting, gather);

	volume_layers_apply(setting->volume);
	control_answer(setting->client, setting->describe(setting->volume));
	volume_put(setting->volume);
	free(setting);
}

/* Answers once every loop does as it is set. `setting` was made before anything was. */
static void
apply(struct setting *setting, struct control_client *client, struct volume *volume,
	json_t *(*describe)(struct volume *volume))
{
	setting->client = client;
	setting->volume = volume_get(volume);
	setting->describe = describe;
	setting->gather.visit = apply_here;
	setting->gather.done = all_applied;
	gather_start(&setting->gather);
}

static void
add_rule(const struct fault_stats *stats, void *arg)
{
	json_array_append_new(arg,
		json_pack("{s:s, s:I, s:I}", "rule", stats->rule, "candidates",
			(json_int_t)stats->candidates, "injected", (json_int_t)stats->injected));
}

static json_t *
describe_faults(struct volume *volume)
{
	json_t *rules = json_array();

	volume_fault_visit(volume, add_rule, rules);
	return json_pack("{s:o}", "rules", rules);
}

/* Cuts the first word off: *rest is what follows it. */
static bool
first_word_is(const char *words, const char *word, const char **rest)
{
	size_t length = strlen(word);

	if (strncmp(words, word, length) != 0 || (words[length] && words[length] != ' '))
		return false;
	*rest = words + length + strspn(words + length, " ");
	return true;
}

void
control_fault(struct control_client *client, const struct conf *conf, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	const char *words = json_string_value(json_object_get(request, "words"));
	struct served_volume *served = name ? volumes_find(name) : NULL;
	struct setting *setting;
	struct error error;
	const char *rest = "";
	int rc;

	if (!served) {
		control_refuse(client, "there is no volume \"%.64s\"", name ? name : "");
		return;
	}
	if (!words || !*words || first_word_is(words, "show", &rest)) {
		control_answer(client, describe_faults(served->volume));
		return;
	}
	if (!conf->allow_faults) {
		control_refuse(client,
			"faults are not allowed: allow_faults: on in slabd.yaml or --allow-faults "
			"allows them");
		return;
	}
	setting = calloc(1, sizeof(*setting));
	if (!setting) {
		control_refuse(client, "out of memory");
		return;
	}
	if (first_word_is(words, "set", &rest))
		rc = volume_fault_set(served->volume, rest, &error);
	else if (first_word_is(words, "clear", &rest))
		rc = volume_fault_clear(served->volume, *rest ? rest : NULL, &error);
	else
		rc = error_set(&error, -1,
			"fault NAME show, set RULE or clear [OPERATIONS], not \"%.64s\"", words);
	if (rc) {
		free(setting);
		control_refuse(client, "%s", error.text);
		return;
	}
	apply(setting, client, served->volume, describe_faults);
}
