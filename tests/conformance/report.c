#include "config.h"
#include "report.h"

#include <jansson.h>
#include <stdio.h>

static const char *const level_names[] = {"MUST", "SHOULD"};
static const char *const verdict_names[] = {"pass", "warn", "fail", "skip"};

static void
format_size(char *text, size_t text_size, uint64_t bytes)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	unsigned unit = 0;
	while (bytes >= 1024 && bytes % 1024 == 0 && unit < 6) {
		bytes /= 1024;
		unit++;
	}
	snprintf(text, text_size, "%llu %s", (unsigned long long)bytes, units[unit]);
}

void
report_start(struct report *report, const struct target *target)
{
	report->results = json_array();
	if (report->json)
		return;
	char size[48];
	format_size(size, sizeof size, target->size);
	printf("# %s %s · %s · %s, %s\n", program_name, PACKAGE_VERSION, target->uri_text, size,
		target_is_read_only(target) ? "read-only" : "writable");
	if (target->offers & WRITABLE)
		printf("# overwrites the whole %s; --read-only does not\n", program_subject);
}

/* TAP ends a description at "#". */
static void
print_escaped(const char *text)
{
	for (; *text != '\0'; text++) {
		if (*text == '#' || *text == '\\')
			putchar('\\');
		putchar(*text == '\n' ? ' ' : *text);
	}
}

static void
print_tap(const struct report *report, const struct group *group, const struct test *t)
{
	const struct check *check = t->check;
	bool failed = t->verdict == FAIL || (report->strict && t->verdict == WARN);
	printf("%sok %u - %s ", failed ? "not " : "", report->number, check->id);
	print_escaped(check->title);
	printf(" (%s \"%s\"", group->document, check->section);
	if (t->verdict == FAIL || t->verdict == WARN)
		printf(": %s", level_names[t->verdict == FAIL ? MUST : SHOULD]);
	printf(")");
	if (t->verdict == SKIP)
		printf(" # SKIP %s", t->got);
	if (t->verdict == WARN)
		printf(" # warn: expected %s, got %s", t->expected, t->got);
	putchar('\n');
	if (failed)
		printf("#   sent:     %s\n#   expected: %s\n#   got:      %s\n", t->sent,
			t->expected, t->got);
	fflush(stdout);
}

/* What a server sent may not be UTF-8, which JSON is. */
static json_t *
make_string(const char *text)
{
	json_t *string = json_string(text);
	return string != NULL ? string : json_string("(not UTF-8)");
}

static void
keep_json(struct report *report, const struct group *group, const struct test *t, double seconds)
{
	const struct check *check = t->check;
	json_t *o = json_object();
	json_object_set_new(o, "number", json_integer(report->number));
	json_object_set_new(o, "id", json_string(check->id));
	json_object_set_new(o, "group", json_string(group->name));
	json_object_set_new(o, "title", json_string(check->title));
	json_object_set_new(o, "document", json_string(group->document));
	json_object_set_new(o, "section", json_string(check->section));
	json_object_set_new(o, "level", json_string(level_names[check->level]));
	json_object_set_new(o, "result", json_string(verdict_names[t->verdict]));
	json_object_set_new(o, "seconds", json_real(seconds));
	if (t->verdict == SKIP)
		json_object_set_new(o, "reason", make_string(t->got));
	if (t->verdict == FAIL || t->verdict == WARN) {
		json_object_set_new(o, "sent", make_string(t->sent));
		json_object_set_new(o, "expected", make_string(t->expected));
		json_object_set_new(o, "got", make_string(t->got));
	}
	json_array_append_new(report->results, o);
}

void
report_check(struct report *report, const struct group *group, const struct test *t, double seconds)
{
	report->number++;
	report->counts[t->verdict]++;
	if (report->json)
		keep_json(report, group, t, seconds);
	else
		print_tap(report, group, t);
}

static void
print_json(struct report *report, const struct target *target, double seconds)
{
	json_t *summary = json_object();
	json_object_set_new(summary, "checks", json_integer(report->number));
	for (int v = PASS; v <= SKIP; v++)
		json_object_set_new(summary, verdict_names[v], json_integer(report->counts[v]));
	json_object_set_new(summary, "seconds", json_real(seconds));
	json_t *o = json_object();
	json_object_set_new(o, program_name, json_string(PACKAGE_VERSION));
	json_object_set_new(o, "uri", make_string(target->uri_text));
	json_object_set_new(o, "size", json_integer((json_int_t)target->size));
	json_object_set_new(o, "read_only", json_boolean((target->offers & WRITABLE) == 0));
	json_object_set_new(o, "results", json_incref(report->results));
	json_object_set_new(o, "summary", summary);
	json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(o);
}

int
report_end(struct report *report, const struct target *target, double seconds)
{
	const unsigned *counts = report->counts;
	if (report->json) {
		print_json(report, target, seconds);
	} else {
		printf("1..%u\n", report->number);
		printf("# %u checks: %u pass, %u FAIL, %u warn, %u skip, %.1f s\n", report->number,
			counts[PASS], counts[FAIL], counts[WARN], counts[SKIP], seconds);
	}
	json_decref(report->results);
	return counts[FAIL] > 0 || (report->strict && counts[WARN] > 0) ? 1 : 0;
}
