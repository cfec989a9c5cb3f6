/* Checks of iSCSI targets: their names, LUNs and access rules. Main thread. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "config_load.h"
#include "limits.h"

/* RFC 7143 4.2.7: an iqn. name has a date and a reversed domain; eui. 16, naa. 16 or 32 hex digits.
 */
static bool
is_target_name(const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789.-:";
	static const char hex[] = "0123456789abcdefABCDEF";
	size_t length = strlen(name);

	if (length > LIMIT_ISCSI_NAME)
		return false;
	if (strncmp(name, "eui.", 4) == 0 || strncmp(name, "naa.", 4) == 0)
		return strspn(name + 4, hex) == length - 4 &&
		       (length == 20 || (name[0] == 'n' && length == 36));
	if (strncmp(name, "iqn.", 4) != 0 || strspn(name, letters) != length || length < 13)
		return false;
	for (size_t i = 4; i < 11; i++)
		if (i == 8 ? name[i] != '-' : name[i] < '0' || name[i] > '9')
			return false;
	return name[11] == '.' && name[12] != ':';
}

static int
compare_luns(const void *a, const void *b)
{
	return (int)((const struct conf_lun *)a)->number -
	       (int)((const struct conf_lun *)b)->number;
}

/* `where` is the path of what has them, `whose` it in words. */
static void
check_luns(struct config *config, const char *where, const char *whose, const struct conf_lun *luns,
	size_t nluns)
{
	char path[80], who[320];

	for (size_t i = 0; i < nluns; i++) {
		const struct conf_lun *lun = &luns[i];

		snprintf(path, sizeof(path), "%.44s.luns[%zu]", where, i);
		snprintf(who, sizeof(who), "LUN %u of %.250s", lun->number, whose);
		if (lun->number >= LIMIT_SCSI_LUNS)
			config_problem(config, path, "%s: a LUN's number is 0 to %d", who,
				LIMIT_SCSI_LUNS - 1);
		for (size_t j = 0; j < i; j++)
			if (luns[j].number == lun->number)
				config_problem(config, path, "%s is defined twice", who);
		if (lun->volume) {
			snprintf(path, sizeof(path), "%.44s.luns[%zu].volume", where, i);
			config_check_reference(config, path, who, lun->volume);
		} else {
			config_problem(config, path, "%s: volume is missing", who);
		}
	}
}

/* 4.2.7: anything that can be compared once it is in lower case. */
static bool
lower_name(char *name)
{
	for (char *c = name; *c; c++) {
		if ((unsigned char)*c <= ' ' || *c == ',' || *c == 0x7f)
			return false;
		if (*c >= 'A' && *c <= 'Z')
			*c = (char)(*c | 0x20);
	}
	return strlen(name) <= LIMIT_ISCSI_NAME;
}

static void
check_initiators(struct config *config, size_t index)
{
	const struct conf_target *target = &config->conf.targets[index];
	char path[80], whose[320];

	snprintf(path, sizeof(path), "iscsi.targets[%zu].initiators", index);
	if (target->ninitiators == 0 && config_where(config, path))
		config_problem(config, path,
			"target %.230s: initiators names nobody: leave it out to let everyone in",
			target->name);
	for (size_t i = 0; i < target->ninitiators; i++) {
		struct conf_initiator *initiator = &target->initiators[i];

		snprintf(path, sizeof(path), "iscsi.targets[%zu].initiators[%zu]", index, i);
		if (!initiator->name) {
			config_problem(config, path, "an initiator of target %.230s has no name",
				target->name);
			continue;
		}
		if (!lower_name(initiator->name))
			config_problem(config, path,
				"initiator \"%.100s\": a name has no spaces and no commas, and at "
				"most %d bytes",
				initiator->name, LIMIT_ISCSI_NAME);
		for (size_t j = 0; j < i; j++)
			if (target->initiators[j].name &&
				strcmp(target->initiators[j].name, initiator->name) == 0)
				config_problem(config, path,
					"initiator %.230s is named twice in target %.230s",
					initiator->name, target->name);
		snprintf(whose, sizeof(whose), "initiator %.230s", initiator->name);
		check_luns(config, path, whose, initiator->luns, initiator->nluns);
	}
}

/* A group that is served nowhere is a slip. */
static void
check_groups(struct config *config, size_t index)
{
	const struct conf *conf = &config->conf;
	const struct conf_target *target = &conf->targets[index];
	char path[80];

	for (size_t i = 0; i < target->ngroups; i++) {
		bool served = conf->passed > 0 && target->groups[i].group == 1;

		for (size_t j = 0; j < conf->niscsi_listen; j++)
			served = served || conf->iscsi_listen[j].group == target->groups[i].group;
		snprintf(path, sizeof(path), "iscsi.targets[%zu].alua[%zu]", index, i);
		if (!served)
			config_problem(config, path,
				"target %.230s: no iSCSI listener is of portal group %u",
				target->name, (unsigned)target->groups[i].group);
	}
}

static void
check_redirect(struct config *config, const struct conf_target *target, const char *where)
{
	struct address address;
	struct error error;
	char path[80];

	snprintf(path, sizeof(path), "%.56s.redirect.permanent", where);
	if (!target->redirect && target->moved)
		config_problem(config, path, "redirect of target %.230s: address is missing",
			target->name);
	snprintf(path, sizeof(path), "%.56s.redirect.address", where);
	if (target->redirect && (!address_parse(target->redirect, &address, &error) ||
					address.is_unix || address.is_vsock || address.tls))
		config_problem(
			config, path, "redirect: \"%.255s\" is not HOST:PORT", target->redirect);
}

void
config_check_target(struct config *config, size_t index)
{
	const struct conf_target *target = &config->conf.targets[index];
	char path[80], whose[320];

	snprintf(path, sizeof(path), "iscsi.targets[%zu]", index);
	if (!is_target_name(target->name))
		config_problem(config, path,
			"target \"%.100s\": a name is iqn.YYYY-MM.REVERSED.DOMAIN[:ANYTHING] in lower "
			"case, eui. or naa. with hex digits, at most %d bytes",
			target->name, LIMIT_ISCSI_NAME);
	for (size_t i = 0; i < index; i++)
		if (strcmp(config->conf.targets[i].name, target->name) == 0)
			config_problem(
				config, path, "target %.230s is defined twice", target->name);
	check_redirect(config, target, path);
	if (target->nluns == 0 && !target->redirect)
		config_problem(config, path, "target %.230s has no luns", target->name);
	snprintf(whose, sizeof(whose), "target %.230s", target->name);
	check_luns(config, path, whose, target->luns, target->nluns);
	check_initiators(config, index);
	check_groups(config, index);
}

static void
sort_luns(struct conf_lun *luns, size_t nluns)
{
	if (nluns > 0)
		qsort(luns, nluns, sizeof(*luns), compare_luns);
}

void
config_sort_luns(struct conf *conf)
{
	for (size_t i = 0; i < conf->ntargets; i++) {
		struct conf_target *target = &conf->targets[i];

		sort_luns(target->luns, target->nluns);
		for (size_t j = 0; j < target->ninitiators; j++)
			sort_luns(target->initiators[j].luns, target->initiators[j].nluns);
	}
}

bool
config_targets_guarded(const struct conf *conf)
{
	for (size_t i = 0; i < conf->ntargets; i++)
		if (conf->targets[i].nchap == 0 && conf->targets[i].ninitiators == 0)
			return false;
	return conf->ntargets > 0;
}
