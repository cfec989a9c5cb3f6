/* Checks of CHAP credentials, and the files that hold secrets. R13: no secret is ever shown. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "config_load.h"
#include "limits.h"

/* RFC 7143 9.2.1: 96 bits at least. */
#define SECRET_LEAST 12
#define SECRET_MOST  255

/* The one line that a file holds; NULL after saying what is wrong with it. */
static char *
read_secret(struct config *config, const char *path, const char *who, const char *file)
{
	char text[SECRET_MOST + 3];
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char *secret = NULL;
	struct stat st;
	ssize_t n = 0;

	if (fd < 0 || fstat(fd, &st) < 0) {
		config_problem(config, path, "%s: %s: %m", who, file);
	} else if (!S_ISREG(st.st_mode)) {
		config_problem(config, path, "%s: %s: not a file", who, file);
	} else if (st.st_mode & (S_IRWXG | S_IRWXO)) {
		config_problem(config, path,
			"%s: %s: mode %04o lets others at the secret: must be 0600 or 0400", who,
			file, (unsigned)st.st_mode & 07777);
	} else if ((n = read(fd, text, sizeof(text))) < 0) {
		config_problem(config, path, "%s: %s: %m", who, file);
	} else {
		if (n > 0 && text[n - 1] == '\n')
			n--;
		if (n > 0 && text[n - 1] == '\r')
			n--;
		if (n > SECRET_MOST || memchr(text, '\n', (size_t)n) ||
			memchr(text, '\0', (size_t)n))
			config_problem(config, path,
				"%s: %s: must hold one line of at most %d bytes", who, file,
				SECRET_MOST);
		else if (!(secret = strndup(text, (size_t)n)))
			config->no_memory = true;
	}
	explicit_bzero(text, sizeof(text));
	if (fd >= 0)
		close(fd);
	return secret;
}

static void
check_credential(struct config *config, const char *path, const char *who,
	struct conf_credential *credential)
{
	if (!credential->user) {
		config_problem(config, path, "%s: user is missing", who);
		return;
	}
	if (strlen(credential->user) > LIMIT_ISCSI_VALUE)
		config_problem(
			config, path, "%s: user has at most %d bytes", who, LIMIT_ISCSI_VALUE);
	if (!credential->secret == !credential->secret_file) {
		config_problem(config, path, "%s: needs either secret or secret_file", who);
		return;
	}
	if (credential->secret_file) {
		credential->secret = read_secret(config, path, who, credential->secret_file);
		if (!credential->secret)
			return;
	}
	if (strlen(credential->secret) < SECRET_LEAST || strlen(credential->secret) > SECRET_MOST)
		config_problem(config, path, "%s: a secret has %d to %d bytes", who, SECRET_LEAST,
			SECRET_MOST);
}

static void
check_list(struct config *config, const char *path, const char *whose,
	struct conf_credential *credentials, size_t count)
{
	char item[80], who[400];

	if (count == 0 && config_where(config, path))
		config_problem(config, path,
			"%s: an empty list of users: leave it out to ask for none", whose);
	for (size_t i = 0; i < count; i++) {
		snprintf(item, sizeof(item), "%.56s[%zu]", path, i);
		snprintf(who, sizeof(who), "CHAP of %.250s, user %.100s", whose,
			credentials[i].user ? credentials[i].user : "?");
		check_credential(config, item, who, &credentials[i]);
		for (size_t j = 0; j < i; j++)
			if (credentials[i].user && credentials[j].user &&
				strcmp(credentials[i].user, credentials[j].user) == 0)
				config_problem(config, item, "%s: is given twice", who);
	}
}

static bool
has_secret(const struct conf_credential *credentials, size_t count, const char *secret)
{
	for (size_t i = 0; i < count; i++)
		if (credentials[i].secret && strcmp(credentials[i].secret, secret) == 0)
			return true;
	return false;
}

/* 9.2.1: one secret for both directions would let an initiator answer with the target's words. */
static void
check_mutual(struct config *config, struct conf_target *target, const char *path)
{
	struct conf_credential *mutual = &target->mutual;
	bool users = target->nchap > 0, same;
	char who[320];

	if (!mutual->user && !mutual->secret && !mutual->secret_file)
		return;
	snprintf(who, sizeof(who), "mutual_chap of target %.230s", target->name);
	check_credential(config, path, who, mutual);
	if (!mutual->secret)
		return;
	same = has_secret(target->chap, target->nchap, mutual->secret);
	for (size_t i = 0; i < target->ninitiators; i++) {
		const struct conf_initiator *initiator = &target->initiators[i];

		users = users || initiator->nchap > 0;
		same = same || has_secret(initiator->chap, initiator->nchap, mutual->secret);
	}
	if (!users)
		config_problem(config, path, "%s: without chap nobody asks for it", who);
	if (same)
		config_problem(config, path, "%s: its secret is an initiator's too", who);
}

static void
check_target_chap(struct config *config, size_t index)
{
	struct conf_target *target = &config->conf.targets[index];
	char path[80], whose[320];

	snprintf(path, sizeof(path), "iscsi.targets[%zu].chap", index);
	snprintf(whose, sizeof(whose), "target %.230s", target->name);
	check_list(config, path, whose, target->chap, target->nchap);
	for (size_t i = 0; i < target->ninitiators; i++) {
		snprintf(path, sizeof(path), "iscsi.targets[%zu].initiators[%zu].chap", index, i);
		snprintf(whose, sizeof(whose), "initiator %.230s",
			target->initiators[i].name ? target->initiators[i].name : "?");
		check_list(config, path, whose, target->initiators[i].chap,
			target->initiators[i].nchap);
	}
	snprintf(path, sizeof(path), "iscsi.targets[%zu].mutual_chap", index);
	check_mutual(config, target, path);
}

static void
check_algorithms(struct config *config)
{
	static const unsigned preferred[] = {7, 8, 6, 5};
	struct conf *conf = &config->conf;
	char path[80];

	if (conf->nchap_algorithms == 0 && config_where(config, "iscsi.chap_algorithms"))
		config_problem(config, "iscsi.chap_algorithms",
			"chap_algorithms: an empty list: nobody could log in");
	if (conf->nchap_algorithms == 0) {
		conf->chap_algorithms =
			calloc(ARRAY_SIZE(preferred), sizeof(*conf->chap_algorithms));
		if (!conf->chap_algorithms) {
			config->no_memory = true;
			return;
		}
		for (size_t i = 0; i < ARRAY_SIZE(preferred); i++)
			conf->chap_algorithms[i].number = preferred[i];
		conf->nchap_algorithms = ARRAY_SIZE(preferred);
	}
	for (size_t i = 0; i < conf->nchap_algorithms; i++) {
		snprintf(path, sizeof(path), "iscsi.chap_algorithms[%zu]", i);
		if (conf->chap_algorithms[i].number == 0)
			config_problem(config, path, "a CHAP algorithm without its number");
		for (size_t j = 0; j < i; j++)
			if (conf->chap_algorithms[i].number == conf->chap_algorithms[j].number)
				config_problem(config, path, "CHAP algorithm %u is named twice",
					conf->chap_algorithms[i].number);
	}
}

void
config_check_chap(struct config *config)
{
	struct conf *conf = &config->conf;

	check_algorithms(config);
	check_list(config, "iscsi.discovery_chap", "discovery", conf->discovery_chap,
		conf->ndiscovery_chap);
	for (size_t i = 0; i < conf->ntargets; i++)
		check_target_chap(config, i);
}
