/*
 * slabd: the daemon. The order of a start is the promise that a failed one leaves nothing behind:
 * parse and check everything, look up and bind every address, and only then open (and create)
 * volumes.
 */
#include "config.h"

#include <errno.h>
#include <jansson.h>
#include <libfyaml.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "activation.h"
#include "alua.h"
#include "catalogue_build.h"
#include "check.h"
#include "config_load.h"
#include "control.h"
#include "frontend.h"
#include "iobuf.h"
#include "limits.h"
#include "listener.h"
#include "log.h"
#include "loop.h"
#include "options.h"
#include "patience.h"
#include "reservation.h"
#include "secure.h"
#include "shutdown.h"
#include "stdio_conn.h"
#include "volumes.h"
#include "words.h"
#include "work.h"

#define WORKERS 64

/* Descriptors besides connections: volumes, listeners, loops, control. */
#define SPARE_DESCRIPTORS 512

static void
print_version(void)
{
	printf("slabd %s\n", PACKAGE_VERSION);
	printf("  libevent   %s\n", loop_library_version());
	printf("  libfyaml   %s\n", fy_library_version());
	printf("  jansson    %s\n", jansson_version_str());
#ifdef HAVE_LIBSYSTEMD
	printf("  systemd    notify\n");
#else
	printf("  systemd    no\n");
#endif
	printf("  TLS        %s\n", tls_library());
#ifdef HAVE_LIBURING
	printf("  io_uring   yes\n");
#else
	printf("  io_uring   no\n");
#endif
#ifdef SANITIZERS
	printf("  sanitizers %s\n", SANITIZERS);
#endif
}

/* As many descriptors as the system lets us have; what that is, is said in the banner. */
static uint64_t
raise_descriptors(unsigned connections)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 0;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < connections + SPARE_DESCRIPTORS)
		log_warn("%llu descriptors may be open: too few for %u connections",
			(unsigned long long)limit.rlim_cur, connections);
	return limit.rlim_cur;
}

static void
print_banner(const struct conf *conf, uint64_t descriptors)
{
	struct served_volume *served;
	struct volume_stats stats;
	char size[32];

	dprintf(STDERR_FILENO, "slabd %s · %u loop%s · %s · %s · %u connections · %llu descriptors\n",
		PACKAGE_VERSION, conf->loops, conf->loops == 1 ? "" : "s", storage_engine(),
		tls_library(), conf->connections, (unsigned long long)descriptors);
	TAILQ_FOREACH(served, volumes_list(), link) {
		volume_get_stats(served->volume, &stats);
		dprintf(STDERR_FILENO, "  volume %-10s %-8s %-10s %s\n",
			volume_name(served->volume), volume_conf(served->volume)->backend,
			size_human(stats.size, size, sizeof(size)), stats.detail);
	}
}

/* What is offered where, and that it is. */
static void
print_start(const struct conf *conf, uint64_t descriptors)
{
	const struct catalogue *catalogue = catalogue_get();

	print_banner(conf, descriptors);
	listeners_print(catalogue);
	catalogue_put(catalogue);
	dprintf(STDERR_FILENO, "ready\n");
}

static void
sample_volumes(struct loop_sweep *sweep, uint64_t now)
{
	(void)sweep;
	volumes_sample(now);
	volumes_look();
}

/* States of portal groups, as configured. */
static int
set_access(const struct conf *conf)
{
	int rc = 0;

	for (size_t i = 0; i < conf->ntargets; i++) {
		const struct conf_target *target = &conf->targets[i];

		for (size_t j = 0; rc == 0 && j < target->ngroups; j++)
			rc = alua_set(target->name, target->groups[j].group,
				(enum alua_state)target->groups[j].state);
	}
	return rc;
}

/* Everything is open; from here on clients are served. */
static int
serve(const struct conf *conf, uint64_t descriptors, struct error *error)
{
	struct loop_sweep sweep = {.sweep = sample_volumes};
	const struct portal *portals;
	size_t nportals;
	int rc;

	portals = listeners_portals(&nportals);
	rc = set_access(conf);
	if (rc == 0)
		rc = catalogue_renew(conf, portals, nportals);
	if (rc == 0)
		rc = signals_watch();
	if (rc == 0)
		rc = control_start();
	if (rc == 0)
		rc = listeners_start(conf);
	if (rc == 0 && conf->stdio)
		rc = stdio_start(error);
	if (rc == 0) {
		loop_sweep_add(loop_main(), &sweep);
		if (!conf->stdio)
			print_start(conf, descriptors);
#ifdef HAVE_LIBSYSTEMD
		sd_notify(0, "READY=1");
#endif
		loop_run_main();
		control_changes_finish();
		loop_sweep_remove(loop_main(), &sweep);
	} else if (!error->text[0]) {
		error_set(error, rc, "%s", strerror(-rc));
	}
	listeners_stop();
	control_stop();
	stdio_stop();
	signals_unwatch();
	catalogue_publish(NULL);
	alua_clear();
	return rc;
}

static int
open_and_serve(const struct conf *conf, uint64_t descriptors, struct error *error)
{
	int rc = loops_start(conf->loops);

	if (rc)
		return error_set(error, rc, "loops: %s", strerror(-rc));
	rc = volumes_open_all(conf, error);
	if (rc == 0)
		rc = serve(conf, descriptors, error);
	volumes_close_all();
	loops_stop();
	return rc;
}

/* NULL: nothing is kept. */
static const char *
state_directory(const struct conf *conf)
{
	if (!conf->state)
		return "/var/lib/slabd";
	return strcmp(conf->state, "none") == 0 ? NULL : conf->state;
}

static int
start_layers(struct error *error)
{
	int rc = storage_start(0);

	if (rc == 0)
		rc = iobuf_start();
	if (rc == 0)
		rc = work_start(WORKERS);
	if (rc == 0)
		rc = nbd_frontend.start();
	if (rc == 0)
		rc = iscsi_frontend.start();
	return rc ? error_set(error, rc, "cannot start: %s", strerror(-rc)) : 0;
}

static void
stop_layers(void)
{
	iscsi_frontend.stop();
	nbd_frontend.stop();
	work_stop();
	storage_stop();
}

static void
set_patience(const struct conf *conf)
{
	patience.handshake = conf->handshake_timeout * SECOND_NS;
	patience.login = conf->login_timeout * SECOND_NS;
	patience.partial = conf->request_timeout * SECOND_NS;
	patience.output = conf->output_timeout * SECOND_NS;
}

static int
run_daemon(const struct conf *conf, const struct passed_socket *passed)
{
	struct error error = {.text = ""};
	uint64_t descriptors;
	int rc;

	signals_block();
	if (conf->stdio)
		stdio_spare_stderr();
	set_patience(conf);
	descriptors = raise_descriptors(conf->connections);
	rc = secure_load(conf, &error);
	if (rc == 0)
		rc = listeners_adopt(conf, passed, conf->passed, &error);
	if (rc == 0)
		rc = listeners_resolve(conf, &error);
	if (rc == 0)
		rc = listeners_bind(&error);
	if (rc == 0)
		rc = control_bind(conf, &error);
	if (rc == 0)
		rc = start_layers(&error);
	if (rc == 0 && reservation_directory(state_directory(conf)) < 0)
		rc = error_set(&error, -ENOMEM, "no memory");
	if (rc == 0) {
		rc = open_and_serve(conf, descriptors, &error);
		stop_layers();
	}
	listeners_stop();
	control_stop();
	secure_unload();
	if (rc)
		fprintf(stderr, "slabd: %s\n", error.text);
	else if (shutdown_begun() && !conf->stdio)
		dprintf(STDERR_FILENO, " stopped\n");
	return rc ? 1 : 0;
}

static int
check_files_and_addresses(const struct conf *conf)
{
	struct error error;
	int rc = secure_load(conf, &error);

	if (rc == 0)
		rc = listeners_resolve(conf, &error);
	secure_unload();
	if (rc == 0)
		return 0;
	fprintf(stderr, "slabd: %s\n", error.text);
	return 1;
}

int
main(int argc, char **argv)
{
	struct passed_socket passed[LIMIT_LISTENERS];
	struct config config;
	enum options_action action;
	struct error error;
	int status = 0, count;

	if (!config_init(&config)) {
		fprintf(stderr, "slabd: out of memory\n");
		return 1;
	}
	count = activation_take(passed, ARRAY_SIZE(passed), &error);
	if (count < 0) {
		fprintf(stderr, "slabd: %s\n", error.text);
		return 1;
	}
	config.conf.passed = (unsigned)count;
	action = options_parse(argc, argv, &config);
	if (action == OPTIONS_HELP) {
		options_help();
	} else if (action == OPTIONS_VERSION) {
		print_version();
	} else if (!config_finish(&config)) {
		config_print_problems(&config, stderr);
		status = config.usage ? 2 : 1;
	} else if (action == OPTIONS_PRINT) {
		config_print(&config.conf, stdout);
	} else if (action == OPTIONS_CHECK) {
		status = check_files_and_addresses(&config.conf);
	} else {
		status = run_daemon(&config.conf, passed);
	}
	config_free(&config);
	return status;
}
