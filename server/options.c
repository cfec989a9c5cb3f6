#include "config.h"
#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "config_keys.h"
#include "words.h"

enum {
	OPTION_NBD = 256,
	OPTION_ISCSI,
	OPTION_CONTROL,
	OPTION_METRICS,
	OPTION_INSECURE,
	OPTION_ALLOW_FAULTS,
	OPTION_LOOPS,
	OPTION_CHECK,
	OPTION_PRINT,
	OPTION_VERSION,
	OPTION_HELP,
	OPTION_STDIO,
	OPTION_TLS,
	OPTION_TLS_CERT,
	OPTION_TLS_KEY,
	OPTION_TLS_CA,
	OPTION_TLS_PSK,
	OPTION_STATE,
};

static const struct option long_options[] = {
	{"config", required_argument, NULL, 'c'},
	{"nbd", required_argument, NULL, OPTION_NBD},
	{"iscsi", required_argument, NULL, OPTION_ISCSI},
	{"control", required_argument, NULL, OPTION_CONTROL},
	{"metrics", required_argument, NULL, OPTION_METRICS},
	{"insecure", no_argument, NULL, OPTION_INSECURE},
	{"allow-faults", no_argument, NULL, OPTION_ALLOW_FAULTS},
	{"loops", required_argument, NULL, OPTION_LOOPS},
	{"check-config", no_argument, NULL, OPTION_CHECK},
	{"print-config", no_argument, NULL, OPTION_PRINT},
	{"version", no_argument, NULL, OPTION_VERSION},
	{"help", no_argument, NULL, OPTION_HELP},
	{"tls", required_argument, NULL, OPTION_TLS},
	{"tls-cert", required_argument, NULL, OPTION_TLS_CERT},
	{"tls-key", required_argument, NULL, OPTION_TLS_KEY},
	{"tls-ca", required_argument, NULL, OPTION_TLS_CA},
	{"tls-psk", required_argument, NULL, OPTION_TLS_PSK},
	{"stdio", no_argument, NULL, OPTION_STDIO},
	{"state", required_argument, NULL, OPTION_STATE},
	{0},
};

void
options_help(void)
{
	fputs("Usage: slabd [OPTION]... [NAME=BACKEND:ARG[,KEY=VALUE]...]...\n"
	      "Serve volumes over NBD and iSCSI.\n"
	      "\n"
	      "Volumes:\n"
	      "  disk0=memory:1G                  sparse memory, gone at the end\n"
	      "  web=file:/srv/web.img,size=10G   a file, created when a size is given\n"
	      "  db=device:/dev/sdb               a disk, partition or loop device\n"
	      "  nil=null:1T                      reads zeroes, forgets what is written\n"
	      "  KEY: size block_size physical_block_size read_only direct prealloc removable rotational\n"
	      "       serial vendor product; sizes take K, M, G, T and P\n"
	      "\n"
	      "Options:\n"
	      "  -c, --config FILE   a slabd.yaml(5); the command line adds to it\n"
	      "      --nbd ADDR      HOST:PORT, [V6]:PORT, unix:PATH, unix:@NAME, vsock:PORT or\n"
	      "                      none; may be repeated; default 127.0.0.1:10809\n"
	      "      --iscsi ADDR    HOST:PORT, [V6]:PORT, tls:HOST:PORT or none; may be repeated;\n"
	      "                      default 127.0.0.1:3260\n"
	      "      --control PATH  socket for slabctl(8), or none; default\n"
	      "                      $XDG_RUNTIME_DIR/slabd.sock, else /run/slabd.sock\n"
	      "      --state DIR     what survives a restart, or none; default /var/lib/slabd\n"
	      "      --tls MODE      TLS for NBD: off, allow or require; with a certificate or a\n"
	      "                      PSK file the default is require\n"
	      "      --tls-cert FILE --tls-key FILE\n"
	      "                      PEM certificate and its key, which only its owner may read\n"
	      "      --tls-ca FILE   PEM; clients need a certificate that it signed\n"
	      "      --tls-psk FILE  pre-shared keys, a line IDENTITY:HEXKEY each\n"
	      "      --stdio         serve one NBD connection on standard input and output\n"
	      "      --insecure      serve beyond this machine although nothing protects the volumes\n"
	      "      --allow-faults  let volumes fail on purpose (fault=, slabctl fault)\n"
	      "      --loops N       event loops; default one per core\n"
	      "      --check-config  only say what is wrong with the configuration\n"
	      "      --print-config  only print the configuration that would be used, as YAML\n"
	      "      --version, --help\n"
	      "\n"
	      "Every volume is exported over NBD under its name, the first also as the default\n"
	      "export, and over iSCSI as iqn.2026-11.localhost.slabd:NAME, LUN 0.\n",
		stdout);
}

static void
complain_about_unknown(struct config *config, const char *name)
{
	struct nearest nearest;

	nearest_init(&nearest, name + strspn(name, "-"));
	for (const struct option *o = long_options; o->name; o++)
		nearest_try(&nearest, o->name);
	if (nearest.best)
		config_usage(config, "unknown option %s (did you mean --%s?)", name, nearest.best);
	else
		config_usage(config, "unknown option %s", name);
}

/* What getopt_long() refused: `value` is the option's, 0 when it is not known. */
static void
complain(struct config *config, int code, int value, const char *word)
{
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "="), word);
	if (code == ':')
		config_usage(config, "%s needs an argument", name);
	else if (value == 0)
		complain_about_unknown(config, name);
	else if (value < OPTION_NBD)
		config_usage(config, "unknown option -%c", value);
	else
		config_usage(config, "%s takes no argument", name);
}

static void
set_root(struct config *config, const char *key, const char *option, const char *text)
{
	struct error error;

	if (!config_key_set(config_key_find(&config_root, key), &config->conf, text, &error))
		config_usage(config, "%s: %s", option, error.text);
}

static void
set_tls(struct config *config, const char *key, const char *option, const char *text)
{
	const struct config_key *group = config_key_find(&config_root, "tls");
	struct error error;

	if (!config_key_set(config_key_find(group->section, key), &config->conf, text, &error))
		config_usage(config, "%s: %s", option, error.text);
}

static void
apply(struct config *config, int code, enum options_action *action)
{
	switch (code) {
	case OPTION_NBD:
		config_add_listen(config, "nbd", optarg);
		break;
	case OPTION_ISCSI:
		config_add_listen(config, "iscsi", optarg);
		break;
	case OPTION_CONTROL:
		set_root(config, "control", "--control", optarg);
		break;
	case OPTION_METRICS:
		if (strcmp(optarg, "none") != 0)
			config_usage(config, "--metrics: not there yet in this version");
		break;
	case OPTION_INSECURE:
		config->conf.insecure = true;
		break;
	case OPTION_ALLOW_FAULTS:
		config->conf.allow_faults = true;
		break;
	case OPTION_LOOPS:
		set_root(config, "loops", "--loops", optarg);
		break;
	case OPTION_CHECK:
		*action = OPTIONS_CHECK;
		break;
	case OPTION_PRINT:
		*action = OPTIONS_PRINT;
		break;
	case OPTION_VERSION:
		*action = OPTIONS_VERSION;
		break;
	case OPTION_HELP:
		*action = OPTIONS_HELP;
		break;
	case OPTION_STDIO:
		config->conf.stdio = true;
		break;
	case OPTION_TLS:
		set_tls(config, "mode", "--tls", optarg);
		break;
	case OPTION_TLS_CERT:
		set_tls(config, "certificate", "--tls-cert", optarg);
		break;
	case OPTION_TLS_KEY:
		set_tls(config, "key", "--tls-key", optarg);
		break;
	case OPTION_TLS_CA:
		set_tls(config, "ca", "--tls-ca", optarg);
		break;
	case OPTION_TLS_PSK:
		set_tls(config, "psk", "--tls-psk", optarg);
		break;
	case OPTION_STATE:
		set_root(config, "state", "--state", optarg);
		break;
	}
}

static const char short_options[] = ":c:";

/* The file comes first, wherever it is named: the command line adds to it. getopt_long() moves
 * words about, and a second look must find them where they were. */
static void
read_config(int argc, char **argv, struct config *config)
{
	char **copy = calloc((size_t)argc + 1, sizeof(*copy));
	const char *file = NULL;
	int code;

	if (!copy) {
		config->no_memory = true;
		return;
	}
	memcpy(copy, argv, (size_t)argc * sizeof(*copy));
	while ((code = getopt_long(argc, copy, short_options, long_options, NULL)) != -1) {
		if (code == 'c' && file)
			config_usage(config, "--config is given twice");
		else if (code == 'c')
			file = optarg;
	}
	free(copy);
	if (file)
		config_read_file(config, file);
}

enum options_action
options_parse(int argc, char **argv, struct config *config)
{
	enum options_action action = OPTIONS_SERVE;
	int code;
	bool wrong;

	opterr = 0;
	read_config(argc, argv, config);
	optind = 0;
	while ((code = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		if (code == '?' || code == ':')
			complain(config, code, optopt, argv[optind - 1]);
		else
			apply(config, code, &action);
	}
	/* After an option that is not known, a bare word may well be its argument. */
	wrong = config->usage;
	for (int i = optind; i < argc; i++)
		if (!wrong || strchr(argv[i], '='))
			config_add_volume(config, argv[i]);
	return action;
}
