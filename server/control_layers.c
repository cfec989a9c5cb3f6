/* `slabctl fault` and `slabctl qos`: what layers of a volume do. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "config_keys.h"
#include "control.h"
#include "fault.h"
#include "gather.h"
#include "qos.h"
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
	const char *words = json_string_value(json_object_get(request, "words"));
	struct volume *volume = control_volume(client, request);
	struct setting *setting;
	struct error error;
	const char *rest = "";
	int rc;

	if (!volume)
		return;
	if (!words || !*words || first_word_is(words, "show", &rest)) {
		control_answer(client, describe_faults(volume));
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
		rc = volume_fault_set(volume, rest, &error);
	else if (first_word_is(words, "clear", &rest))
		rc = volume_fault_clear(volume, *rest ? rest : NULL, &error);
	else
		rc = error_set(&error, -EINVAL,
			"fault NAME show, set RULE or clear [OPERATIONS], not \"%.64s\"", words);
	if (rc) {
		free(setting);
		control_refuse(client, "%s", error.text);
		return;
	}
	apply(setting, client, volume, describe_faults);
}

static const char *const qos_keys[] = {"iops", "iops_burst", "bps", "bps_burst", "client_iops",
	"client_iops_burst", "client_bps", "client_bps_burst"};

static json_t *
describe_qos(struct volume *volume)
{
	struct conf_volume shown = {0};
	struct qos_stats stats;
	json_t *made;

	volume_qos_get(volume, &stats);
	shown.qos = stats.qos;
	made = json_pack("{s:s, s:I, s:I}", "name", volume_name(volume), "requests",
		(json_int_t)stats.requests, "delayed", (json_int_t)stats.delayed);
	for (size_t i = 0; made && i < ARRAY_SIZE(qos_keys); i++) {
		const struct config_key *key = config_key_find(&config_volume_section, qos_keys[i]);
		uint64_t value;

		memcpy(&value, (const char *)&shown + key->offset, sizeof(value));
		json_object_set_new(made, qos_keys[i], json_integer((json_int_t)value));
	}
	return json_pack("{s:[o]}", "qos", made);
}

/* KEY=VALUE ..., in the words of the configuration; what is not named stays. */
static bool
parse_qos(const char *words, struct conf_qos *qos, struct error *error)
{
	struct conf_volume parsed = {.qos = *qos};
	char *copy = strdup(words), *rest = copy, *word;
	bool good = copy != NULL;

	while (good && (word = strsep(&rest, " "))) {
		char *value = strchr(word, '=');
		bool known = false;
		struct error cause;

		if (!*word)
			continue;
		if (value)
			*value++ = '\0';
		for (size_t i = 0; i < ARRAY_SIZE(qos_keys); i++)
			known = known || strcmp(qos_keys[i], word) == 0;
		good = known && value &&
		       config_key_set(config_key_find(&config_volume_section, word), &parsed, value,
			       &cause);
		if (!good && known && value)
			error_set(error, -EINVAL, "%s: %s", word, cause.text);
		else if (!good)
			error_set(error, -EINVAL,
				"qos NAME show, clear or KEY=VALUE..., not \"%.64s\" (keys: iops, bps, "
				"client_iops, client_bps, each also with _burst)",
				word);
	}
	*qos = parsed.qos;
	free(copy);
	return good;
}

void
control_qos(struct control_client *client, const struct conf *conf, json_t *request)
{
	const char *words = json_string_value(json_object_get(request, "words"));
	struct volume *volume = control_volume(client, request);
	struct setting *setting;
	struct qos_stats stats;
	struct error error = {.text = "out of memory"};
	const char *rest = "";

	(void)conf;
	if (!volume)
		return;
	if (!words || !*words || first_word_is(words, "show", &rest)) {
		control_answer(client, describe_qos(volume));
		return;
	}
	volume_qos_get(volume, &stats);
	setting = calloc(1, sizeof(*setting));
	if (first_word_is(words, "clear", &rest))
		stats.qos = (struct conf_qos){0};
	else if (setting && !parse_qos(words, &stats.qos, &error))
		goto refuse;
	if (!setting || volume_qos_set(volume, &stats.qos, &error))
		goto refuse;
	apply(setting, client, volume, describe_qos);
	return;

refuse:
	free(setting);
	control_refuse(client, "%s", error.text);
}
