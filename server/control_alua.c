/* `slabctl alua`: states of the targets' portal groups. Main thread. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "alua.h"
#include "catalogue.h"
#include "check.h"
#include "control.h"
#include "limits.h"
#include "words.h"

/* Portals before `index` are of other groups. */
static bool
first_of_group(const struct catalogue *catalogue, size_t index)
{
	for (size_t i = 0; i < index; i++)
		if (catalogue->portals[i].group == catalogue->portals[index].group)
			return false;
	return true;
}

static json_t *
list_groups(const struct catalogue *catalogue)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < catalogue->ntargets; i++) {
		const char *target = catalogue->targets[i].name;

		for (size_t j = 0; j < catalogue->nportals; j++) {
			unsigned group = catalogue->portals[j].group;

			if (!first_of_group(catalogue, j))
				continue;
			json_array_append_new(rows,
				json_pack("{s:s, s:i, s:s}", "target", target, "group", (int)group,
					"state", alua_words[alua_get(target, (uint16_t)group)]));
		}
	}
	return json_pack("{s:o}", "groups", rows);
}

/* False: refused, with words. */
static bool
set_group(struct control_client *client, const struct catalogue *catalogue, const char *target,
	const char *group, const char *word)
{
	enum alua_state state = ALUA_OPTIMIZED;
	uint64_t number = 0;
	bool served = false;

	if (!catalogue_target(catalogue, target)) {
		control_refuse(client, "there is no target \"%.223s\"", target);
		return false;
	}
	if (parse_number(group, &number))
		for (size_t i = 0; i < catalogue->nportals; i++)
			served = served || catalogue->portals[i].group == number;
	if (!served) {
		control_refuse(client, "no iSCSI listener is of portal group \"%.16s\"", group);
		return false;
	}
	while (alua_words[state] && strcmp(alua_words[state], word) != 0)
		state++;
	if (!alua_words[state]) {
		control_refuse(client,
			"\"%.32s\" is not a state (active/optimized, active/non-optimized, standby "
			"or unavailable)",
			word);
		return false;
	}
	if (alua_set(target, (uint16_t)number, state) != 0) {
		control_refuse(client, "out of memory");
		return false;
	}
	log_info("target %s: portal group %u is %s", target, (unsigned)number, word);
	return true;
}

void
control_alua(struct control_client *client, const struct conf *conf, json_t *request)
{
	const char *words = json_string_value(json_object_get(request, "words"));
	const struct catalogue *catalogue = catalogue_get();
	char target[LIMIT_ISCSI_NAME + 1], group[16], state[32], rest[2];
	int n = sscanf(words ? words : "", "%223s %15s %31s %1s", target, group, state, rest);

	(void)conf;
	if (n > 0 && n != 3)
		control_refuse(
			client, "alua needs a target, a portal group and a state, or nothing");
	else if (n <= 0 || set_group(client, catalogue, target, group, state))
		control_answer(client, list_groups(catalogue));
	catalogue_put(catalogue);
}
_Static_assert(LIMIT_ISCSI_NAME == 223, "sscanf() above");
