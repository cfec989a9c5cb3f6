#include "config.h"

#include "fault_rule.h"

#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"

#define MILLION     1000000
#define LATENCY_MAX (60 * SECOND_NS)

static const char *const operation_names[BLK_OPS] = {
	"read", "write", "zero", "discard", "flush", "extents", "prefetch", "compare_write"};

/* What may come out of a driver (block.h), but for what means something to the block layer itself.
 */
static const struct {
	const char *name;
	int rc;
} errors[] = {
	{"EIO", -EIO},
	{"ENOSPC", -ENOSPC},
	{"EROFS", -EROFS},
	{"EPERM", -EPERM},
	{"ENOMEM", -ENOMEM},
	{"ENOTSUP", -ENOTSUP},
	{"ENODEV", -ENODEV},
	{"ETIMEDOUT", -ETIMEDOUT},
	{"ESHUTDOWN", -ESHUTDOWN},
};

static bool
word_is(const char *word, size_t length, const char *name)
{
	return strlen(name) == length && memcmp(word, name, length) == 0;
}

int
fault_operations_parse(const char *text, size_t length, uint32_t *operations, struct error *error)
{
	const char *end = text + length;

	*operations = 0;
	while (text <= end) {
		size_t n = 0;
		uint32_t bits = 0;

		while (text + n < end && text[n] != '+')
			n++;
		for (unsigned op = 0; op < BLK_OPS; op++)
			if (word_is(text, n, operation_names[op]) || word_is(text, n, "all"))
				bits |= 1u << op;
		if (!bits)
			return error_set(error, -EINVAL,
				"\"%.*s\" is no operation (read, write, zero, discard, flush, "
				"extents, prefetch, compare_write or all, joined by +)",
				(int)min_size(n, 64), text);
		*operations |= bits;
		text += n + 1;
	}
	return 0;
}

/* A number with one of the units behind it; -1: not one. `units` are letters for 1024, 1024^2 ...
 */
static bool
parse_bytes(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGTP";
	const char *unit;
	char *end;
	unsigned shift = 0;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*bytes = strtoull(text, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	if (unit)
		shift = 10 * (unsigned)(unit - units + 1);
	if (errno || (*end && (!unit || end[1])) || *bytes > UINT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

static bool
parse_count(const char *text, uint64_t most, uint64_t *number)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*number = strtoull(text, &end, 0);
	return !errno && !*end && *number <= most;
}

/* "5ms": us, ms or s; *end is behind it. */
static bool
parse_time(const char *text, uint64_t *ns, char **end)
{
	uint64_t unit;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*ns = strtoull(text, end, 10);
	if (strncmp(*end, "us", 2) == 0)
		unit = 1000;
	else if (strncmp(*end, "ms", 2) == 0)
		unit = MS_NS;
	else if (**end == 's')
		unit = SECOND_NS;
	else
		return false;
	*end += unit == SECOND_NS ? 1 : 2;
	if (errno || *ns > LATENCY_MAX / unit)
		return false;
	*ns *= unit;
	return true;
}

static bool
parse_latency(struct fault_rule *rule, const char *text)
{
	uint64_t *ns = rule->latency_ns;
	char *end;

	if (strncmp(text, "uniform:", 8) == 0) {
		rule->latency = LATENCY_UNIFORM;
		return parse_time(text + 8, &ns[0], &end) && *end == '-' &&
		       parse_time(end + 1, &ns[1], &end) && !*end && ns[0] <= ns[1];
	}
	rule->latency = LATENCY_FIXED;
	if (strncmp(text, "exponential:", 12) == 0) {
		rule->latency = LATENCY_EXPONENTIAL;
		text += 12;
	}
	return parse_time(text, &ns[0], &end) && !*end;
}

static bool
parse_percent(const char *text, uint32_t *millionths)
{
	uint64_t whole = 0, part = 0, unit = MILLION / 100;
	const char *c = text;

	for (; *c >= '0' && *c <= '9' && whole <= 100; c++)
		whole = 10 * whole + (uint64_t)(*c - '0');
	if (c == text)
		return false;
	if (*c == '.')
		for (c++; *c >= '0' && *c <= '9'; c++) {
			unit /= 10;
			part += unit * (uint64_t)(*c - '0');
		}
	if (*c || whole > 100 || whole * (MILLION / 100) + part > MILLION)
		return false;
	*millionths = (uint32_t)(whole * (MILLION / 100) + part);
	return true;
}

static bool
parse_errno(struct fault_rule *rule, const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		if (strcmp(errors[i].name, text) == 0) {
			rule->rc = errors[i].rc;
			return true;
		}
	return false;
}

static bool
parse_part(struct fault_rule *rule, enum fault_part part, const char *text)
{
	if (rule->part != PART_ALL)
		return false;
	rule->part = part;
	return parse_bytes(text, &rule->part_bytes);
}

static bool
parse_switch(const char *text, bool *on)
{
	*on = strcmp(text, "on") == 0;
	return *on || strcmp(text, "off") == 0;
}

static bool
parse_client(struct fault_rule *rule, const char *text)
{
	size_t length = strlen(text);

	if (length == 0 || length >= sizeof(rule->client))
		return false;
	memcpy(rule->client, text, length + 1);
	return true;
}

static bool
parse_small(const char *text, uint32_t *number)
{
	uint64_t value;

	if (!parse_count(text, UINT32_MAX, &value))
		return false;
	*number = (uint32_t)value;
	return true;
}

/* The knobs; the kernel's names where it has one. */
static int
parse_knob(struct fault_rule *rule, const char *key, const char *value, struct error *error)
{
	static const char *const would_do[][2] = {
		{"errno",
			"EIO, ENOSPC, EROFS, EPERM, ENOMEM, ENOTSUP, ENODEV, ETIMEDOUT or ESHUTDOWN"},
		{"latency", "5ms, uniform:1ms-10ms or exponential:5ms; us, ms or s, at most 60s"},
		{"probability", "0 to 100 percent"},
		{"short", "bytes, and not together with torn"},
		{"torn", "bytes, and not together with short"},
		{"client", "a pattern of 1 to 95 characters, as in *10.0.0.7:*"},
		{"times", "a number, or -1 for no end"},
		{"verbose", "0, 1 or 2"},
		{"late", "on or off"},
	};
	uint64_t number = 0;
	bool good;

	if (strcmp(key, "errno") == 0)
		good = parse_errno(rule, value);
	else if (strcmp(key, "latency") == 0)
		good = parse_latency(rule, value);
	else if (strcmp(key, "short") == 0)
		good = parse_part(rule, PART_SHORT, value);
	else if (strcmp(key, "torn") == 0)
		good = parse_part(rule, PART_TORN, value);
	else if (strcmp(key, "late") == 0)
		good = parse_switch(value, &rule->late);
	else if (strcmp(key, "client") == 0)
		good = parse_client(rule, value);
	else if (strcmp(key, "probability") == 0)
		good = parse_percent(value, &rule->probability);
	else if (strcmp(key, "interval") == 0)
		good = parse_small(value, &rule->interval) && rule->interval > 0;
	else if (strcmp(key, "times") == 0 && strcmp(value, "-1") == 0)
		good = true;
	else if (strcmp(key, "times") == 0) {
		good = parse_count(value, INT64_MAX, &number);
		rule->times = (int64_t)number;
	} else if (strcmp(key, "space") == 0)
		good = parse_bytes(value, &rule->space);
	else if (strcmp(key, "require-start") == 0)
		good = parse_bytes(value, &rule->require_start);
	else if (strcmp(key, "require-end") == 0)
		good = parse_bytes(value, &rule->require_end);
	else if (strcmp(key, "reject-start") == 0)
		good = parse_bytes(value, &rule->reject_start);
	else if (strcmp(key, "reject-end") == 0)
		good = parse_bytes(value, &rule->reject_end);
	else if (strcmp(key, "fail-nth") == 0)
		good = rule->has_nth = parse_count(value, UINT64_MAX, &rule->nth);
	else if (strcmp(key, "seed") == 0)
		good = parse_count(value, UINT64_MAX, &rule->seed);
	else if (strcmp(key, "verbose") == 0)
		good = parse_small(value, &rule->verbose) && rule->verbose <= 2;
	else
		return error_set(error, -EINVAL,
			"\"%s\" is no knob (errno, latency, short, torn, late, client, probability, "
			"interval, times, space, verbose, require-start, require-end, reject-start, "
			"reject-end, fail-nth, seed)",
			key);
	if (good)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(would_do); i++)
		if (strcmp(would_do[i][0], key) == 0)
			return error_set(
				error, -EINVAL, "%s=%s: say %s", key, value, would_do[i][1]);
	return error_set(error, -EINVAL, "%s=%s: not a number that would do", key, value);
}

static int
check_rule(struct fault_rule *rule, struct error *error)
{
	uint32_t cut = 1u << BLK_READ | 1u << BLK_WRITE | 1u << BLK_ZERO | 1u << BLK_DISCARD;

	if (rule->part != PART_ALL && rule->operations & ~cut)
		return error_set(error, -EINVAL,
			"short and torn are for read, write, zero and discard only");
	if (rule->part != PART_ALL && rule->late)
		return error_set(error, -EINVAL, "late goes with neither short nor torn");
	if (rule->part == PART_TORN && rule->rc)
		return error_set(error, -EINVAL,
			"a torn transfer is told as success: errno goes with short");
	if (rule->require_start >= rule->require_end)
		return error_set(error, -EINVAL, "require-end must lie behind require-start");
	if (rule->reject_start > rule->reject_end)
		return error_set(error, -EINVAL, "reject-end must not lie before reject-start");
	/* What does nothing else fails. */
	if (!rule->rc && rule->part != PART_TORN && rule->latency == LATENCY_NONE)
		rule->rc = -EIO;
	if (rule->part == PART_SHORT && !rule->rc)
		rule->rc = -EIO;
	return 0;
}

/* Cuts the next word off. NULL: none is left. */
static char *
next_word(char **rest)
{
	char *word = *rest + strspn(*rest, " \t\n");
	size_t length = strcspn(word, " \t\n");

	if (!length)
		return NULL;
	*rest = word + length + (word[length] != '\0');
	word[length] = '\0';
	return word;
}

int
fault_rule_parse(const char *text, size_t length, struct fault_rule *rule, struct error *error)
{
	char copy[512], *rest = copy, *word;
	bool seeded = false;
	int rc;

	*rule = (struct fault_rule){
		.probability = MILLION, .interval = 1, .times = -1, .require_end = UINT64_MAX};
	if (length >= sizeof(copy))
		return error_set(error, -EINVAL, "a rule has at most %zu bytes", sizeof(copy) - 1);
	memcpy(copy, text, length);
	copy[length] = '\0';
	word = next_word(&rest);
	if (!word)
		return error_set(error, -EINVAL,
			"an operation is missing: say as in \"write errno=EIO probability=10\"");
	rc = fault_operations_parse(word, strlen(word), &rule->operations, error);
	while (!rc && (word = next_word(&rest))) {
		char *equals = strchr(word, '=');

		if (!equals)
			return error_set(error, -EINVAL, "\"%s\" is not KEY=VALUE", word);
		*equals = '\0';
		rc = parse_knob(rule, word, equals + 1, error);
		seeded = seeded || strcmp(word, "seed") == 0;
	}
	if (!rc)
		rc = check_rule(rule, error);
	if (!seeded) {
		loop_random(&rule->seed, sizeof(rule->seed));
		rule->seed >>= 32; /* short enough to be typed */
	}
	rule->random = rule->seed;
	return rc;
}

static void __attribute__((format(printf, 3, 4)))
append(char *text, size_t size, const char *format, ...)
{
	size_t length = strlen(text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(text + length, size - length, format, ap);
	va_end(ap);
}

static void
append_time(char *text, size_t size, uint64_t ns)
{
	if (ns % SECOND_NS == 0)
		append(text, size, "%" PRIu64 "s", ns / SECOND_NS);
	else if (ns % MS_NS == 0)
		append(text, size, "%" PRIu64 "ms", ns / MS_NS);
	else
		append(text, size, "%" PRIu64 "us", ns / 1000);
}

static void
append_latency(const struct fault_rule *rule, char *text, size_t size)
{
	append(text, size, " latency=%s",
		rule->latency == LATENCY_UNIFORM       ? "uniform:"
		: rule->latency == LATENCY_EXPONENTIAL ? "exponential:"
						       : "");
	append_time(text, size, rule->latency_ns[0]);
	if (rule->latency == LATENCY_UNIFORM) {
		append(text, size, "-");
		append_time(text, size, rule->latency_ns[1]);
	}
}

static void
append_percent(char *text, size_t size, uint32_t millionths)
{
	char digits[8];
	size_t length;

	append(text, size, " probability=%u", millionths / (MILLION / 100));
	snprintf(digits, sizeof(digits), ".%04u", millionths % (MILLION / 100));
	length = strlen(digits);
	while (digits[length - 1] == '0' || digits[length - 1] == '.')
		if (digits[--length] == '.')
			break;
	append(text, size, "%.*s", (int)length, digits);
}

void
fault_rule_text(const struct fault_rule *rule, char *text, size_t size)
{
	bool first = true;

	text[0] = '\0';
	if (rule->operations == (1u << BLK_OPS) - 1)
		append(text, size, "all");
	else
		for (unsigned op = 0; op < BLK_OPS; op++)
			if (rule->operations & 1u << op) {
				append(text, size, "%s%s", first ? "" : "+", operation_names[op]);
				first = false;
			}
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		if (errors[i].rc == rule->rc)
			append(text, size, " errno=%s", errors[i].name);
	if (rule->latency != LATENCY_NONE)
		append_latency(rule, text, size);
	if (rule->part != PART_ALL)
		append(text, size, " %s=%" PRIu64, rule->part == PART_SHORT ? "short" : "torn",
			rule->part_bytes);
	if (rule->late)
		append(text, size, " late=on");
	if (rule->client[0])
		append(text, size, " client=%s", rule->client);
	if (rule->probability != MILLION)
		append_percent(text, size, rule->probability);
	if (rule->interval != 1)
		append(text, size, " interval=%u", rule->interval);
	if (rule->times != -1)
		append(text, size, " times=%" PRId64, rule->times);
	if (rule->space)
		append(text, size, " space=%" PRIu64, rule->space);
	if (rule->require_start)
		append(text, size, " require-start=%" PRIu64, rule->require_start);
	if (rule->require_end != UINT64_MAX)
		append(text, size, " require-end=%" PRIu64, rule->require_end);
	if (rule->reject_end) {
		append(text, size, " reject-start=%" PRIu64, rule->reject_start);
		append(text, size, " reject-end=%" PRIu64, rule->reject_end);
	}
	if (rule->has_nth)
		append(text, size, " fail-nth=%" PRIu64, rule->nth);
	if (rule->verbose)
		append(text, size, " verbose=%u", rule->verbose);
	append(text, size, " seed=%" PRIu64, rule->seed);
}

/* splitmix64: any seed will do, and a test can follow it. */
static uint64_t
next_random(struct fault_rule *rule)
{
	uint64_t z = rule->random += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static bool
is_candidate(const struct fault_rule *rule, const struct blk_request *request)
{
	bool ranged = request->op != BLK_FLUSH;
	bool everywhere = rule->require_start == 0 && rule->require_end == UINT64_MAX;

	if (!(rule->operations & 1u << request->op))
		return false;
	if (!ranged && !everywhere)
		return false;
	if (ranged && !everywhere &&
		!range_overlaps(request->offset, request->length, rule->require_start,
			rule->require_end - rule->require_start))
		return false;
	if (ranged && rule->reject_end > rule->reject_start &&
		range_overlaps(request->offset, request->length, rule->reject_start,
			rule->reject_end - rule->reject_start))
		return false;
	return !rule->client[0] || fnmatch(rule->client, blk_name(request->handle), 0) == 0 ||
	       fnmatch(rule->client, blk_client(request->handle), 0) == 0;
}

/* The kernel's should_fail_ex() (lib/fault-inject.c), knob by knob in its order. */
static bool
should_fail(struct fault_rule *rule, uint64_t length)
{
	if (rule->has_nth)
		return rule->nth && --rule->nth == 0;
	if (rule->probability == 0 || rule->times == 0)
		return false;
	if (rule->space > length) {
		rule->space -= length;
		return false;
	}
	if (rule->interval > 1 && ++rule->count % rule->interval)
		return false;
	if (rule->probability < MILLION && next_random(rule) % MILLION >= rule->probability)
		return false;
	if (rule->times > 0)
		rule->times--;
	return true;
}

bool
fault_rule_choose(struct fault_rule *rule, const struct blk_request *request)
{
	if (!is_candidate(rule, request))
		return false;
	rule->candidates++;
	if (!should_fail(rule, request->length))
		return false;
	rule->injected++;
	return true;
}

/* In units of 2^-32. */
static uint64_t
next_fraction(struct fault_rule *rule)
{
	return next_random(rule) >> 32;
}

/*
 * Von Neumann's way, which needs no logarithm: draw while the numbers fall; when their count is
 * odd, the first of them is the fraction of an exponential variate, and its whole part is how often
 * it was even. The result is in units of 2^-32.
 */
static uint64_t
draw_exponential(struct fault_rule *rule)
{
	for (uint64_t whole = 0;; whole++) {
		uint64_t first = next_fraction(rule), last = first, next;
		unsigned count = 1;

		while ((next = next_fraction(rule)) < last) {
			last = next;
			count++;
		}
		if (count % 2 || whole == 60)
			return (whole << 32) + first;
	}
}

uint64_t
fault_rule_delay(struct fault_rule *rule)
{
	const uint64_t *ns = rule->latency_ns;

	switch (rule->latency) {
	case LATENCY_NONE:
		break;
	case LATENCY_FIXED:
		return ns[0];
	case LATENCY_UNIFORM:
		return ns[0] + next_random(rule) % (ns[1] - ns[0] + 1);
	case LATENCY_EXPONENTIAL:
		return min_u64((uint64_t)((unsigned __int128)draw_exponential(rule) * ns[0] >> 32),
			LATENCY_MAX);
	}
	return 0;
}
