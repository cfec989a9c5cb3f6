/* What both programs print: TAP while it runs, or one JSON document at the end. */
#ifndef CONFORMANCE_REPORT_H
#define CONFORMANCE_REPORT_H

#include "target.h"
#include "test.h"

struct report {
	bool json, strict;
	unsigned counts[4]; /* by enum verdict */
	unsigned number;
	struct json_t *results;
};

void report_start(struct report *report, const struct target *target);
void report_check(
	struct report *report, const struct group *group, const struct test *t, double seconds);
/* The exit status. */
int report_end(struct report *report, const struct target *target, double seconds);

#endif
