/*
 * nbdcheck and iscsicheck: is this server what the standard says? main() reads the command line, looks
 * at the server once (target.c) and runs the checks of check_*.c one after another; each makes its
 * own connections. What differs between the two is behind target.h and checks.h.
 */
#include "config.h"

#include "checks.h"
#include "report.h"
#include "target.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_UNREACHABLE = 2 };

struct arguments {
	bool list, read_only, json, strict;
	const char *only;
	double deadline;
	uint64_t seed;
	const char *uri;
};

static void
print_usage(FILE *to)
{
	fprintf(to,
		"usage: %s [--json] [--strict] [--read-only] [--only ID[,ID...]|GROUP]\n"
		"                [--deadline SECONDS] [--seed NUMBER] URI\n"
		"       %s --list [--only ID[,ID...]|GROUP]\n"
		"URI: %s\n",
		program_name, program_name, program_uris);
}

/* Is the word one of the comma-separated ones? */
static bool
names(const char *list, const char *word)
{
	size_t length = strlen(word);
	for (const char *p = list; *p != '\0'; p += strcspn(p, ","), p += *p == ',')
		if (strcspn(p, ",") == length && strncmp(p, word, length) == 0)
			return true;
	return false;
}

static bool
is_wanted(const struct arguments *args, const struct group *group, const struct check *check)
{
	return args->only == NULL || names(args->only, check->id) || names(args->only, group->name);
}

static bool
is_known(const char *word, size_t length)
{
	for (size_t g = 0; g < group_count; g++) {
		if (strlen(groups[g]->name) == length &&
			strncmp(groups[g]->name, word, length) == 0)
			return true;
		for (size_t i = 0; i < groups[g]->count; i++)
			if (strlen(groups[g]->checks[i].id) == length &&
				strncmp(groups[g]->checks[i].id, word, length) == 0)
				return true;
	}
	return false;
}

/* False, with the reason on stderr. */
static bool
check_only(const char *list)
{
	for (const char *p = list; p != NULL && *p != '\0'; p += strcspn(p, ","), p += *p == ',') {
		if (is_known(p, strcspn(p, ",")))
			continue;
		fprintf(stderr, "%s: no check or group \"%.*s\" (groups:", program_name,
			(int)strcspn(p, ","), p);
		for (size_t g = 0; g < group_count; g++)
			fprintf(stderr, " %s", groups[g]->name);
		fprintf(stderr, "; --list names the checks)\n");
		return false;
	}
	return true;
}

static void
print_list(const struct arguments *args)
{
	static const char *const levels[] = {"MUST", "SHOULD"};
	for (size_t g = 0; g < group_count; g++) {
		for (size_t i = 0; i < groups[g]->count; i++) {
			const struct check *check = &groups[g]->checks[i];
			if (is_wanted(args, groups[g], check))
				printf("%s %s %s (%s \"%s\": %s)\n", check->id, groups[g]->name,
					check->title, groups[g]->document, check->section,
					levels[check->level]);
		}
	}
}

static bool
read_seed(const char *text, uint64_t *seed)
{
	char *end;
	errno = 0;
	*seed = strtoull(text, &end, 0);
	if (isdigit((unsigned char)*text) && *end == '\0' && errno == 0)
		return true;
	fprintf(stderr, "%s: --seed %s: not a number of 64 bits\n", program_name, text);
	return false;
}

static bool
read_number(const char *text, double *value)
{
	char *end;
	*value = strtod(text, &end);
	return end != text && *end == '\0';
}

/* False for a usage error, told on stderr. */
static bool
parse(int argc, char **argv, struct arguments *args)
{
	static const struct option options[] = {
		{"list", no_argument, NULL, 'l'},
		{"json", no_argument, NULL, 'j'},
		{"strict", no_argument, NULL, 's'},
		{"read-only", no_argument, NULL, 'r'},
		{"only", required_argument, NULL, 'o'},
		{"deadline", required_argument, NULL, 'd'},
		{"seed", required_argument, NULL, 'S'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'l':
			args->list = true;
			break;
		case 'j':
			args->json = true;
			break;
		case 's':
			args->strict = true;
			break;
		case 'r':
			args->read_only = true;
			break;
		case 'o':
			args->only = optarg;
			break;
		case 'd':
			if (!read_number(optarg, &args->deadline) || !(args->deadline >= 0.5) ||
				args->deadline > 86400) {
				fprintf(stderr, "%s: --deadline %s: seconds from 0.5 on\n",
					program_name, optarg);
				return false;
			}
			break;
		case 'S':
			if (!read_seed(optarg, &args->seed))
				return false;
			break;
		case 'V':
			printf("%s %s\n", program_name, PACKAGE_VERSION);
			exit(0);
		case 'h':
			print_usage(stdout);
			exit(0);
		default:
			print_usage(stderr);
			return false;
		}
	}
	if (!check_only(args->only))
		return false;
	if (argc - optind != (args->list ? 0 : 1)) {
		print_usage(stderr);
		return false;
	}
	args->uri = argv[optind];
	return true;
}

/* Whom a check has killed fails the next one too; of those behind it nothing is known. */
static void
skip_if_gone(struct test *t, bool gone)
{
	char reason[sizeof t->got];
	if (!gone || !t->refused)
		return;
	t->verdict = SKIP;
	snprintf(reason, sizeof reason, "%s", t->got);
	snprintf(t->got, sizeof t->got, "the %s is gone: %.400s", program_peer, reason);
}

static void
run_check(
	struct test *t, struct report *report, const struct group *group, const struct check *check)
{
	t->check = check;
	int64_t start_ns = now_ns();
	const char *lacks = target_lacks(t->target, check->needs);
	bool gone = t->refused;
	if (lacks == NULL) {
		test_run(t, check->run, t->target->deadline);
		skip_if_gone(t, gone);
	} else {
		t->verdict = SKIP;
		snprintf(t->got, sizeof t->got, "%s", lacks);
	}
	report_check(report, group, t, (double)(now_ns() - start_ns) / 1e9);
}

static int
run(const struct arguments *args, struct target *target)
{
	struct test t = {.target = target, .random = args->seed};
	test_run(&t, target_probe, args->deadline);
	if (t.verdict == FAIL || t.verdict == SKIP) {
		fprintf(stderr, "%s: %s: expected %s, got %s (sent: %s)\n", program_name, args->uri,
			t.expected, t.got, t.sent);
		return EXIT_UNREACHABLE;
	}
	struct report report = {.json = args->json, .strict = args->strict};
	int64_t start_ns = now_ns();
	report_start(&report, target);
	if (!report.json)
		printf("# seed %llu\n", (unsigned long long)args->seed);
	for (size_t g = 0; g < group_count; g++)
		for (size_t i = 0; i < groups[g]->count; i++)
			if (is_wanted(args, groups[g], &groups[g]->checks[i]))
				run_check(&t, &report, groups[g], &groups[g]->checks[i]);
	return report_end(&report, target, (double)(now_ns() - start_ns) / 1e9);
}

int
main(int argc, char **argv)
{
	struct arguments args = {.deadline = 10, .seed = (uint64_t)now_ns() % 1000000};
	if (!parse(argc, argv, &args))
		return EXIT_UNREACHABLE;
	if (args.list) {
		print_list(&args);
		return 0;
	}
	signal(SIGPIPE, SIG_IGN);
	struct target target = {.read_only = args.read_only, .deadline = args.deadline};
	char why[4400];
	if (target_open(&target, args.uri, why, sizeof why) != 0) {
		fprintf(stderr, "%s: %s: %s\n", program_name, args.uri, why);
		target_close(&target);
		return EXIT_UNREACHABLE;
	}
	int status = run(&args, &target);
	target_close(&target);
	return status;
}
