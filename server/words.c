#include "config.h"
#include "words.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

#define WORD_MAX 32 /* longer words have no near ones */

static const char unit_letters[] = "KMGTP";

bool
parse_number(const char *text, uint64_t *number)
{
	uint64_t n = 0;

	if (*text == '\0')
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		if (!checked_mul(n, 10, &n) || !checked_add(n, (uint64_t)(*text - '0'), &n))
			return false;
	}
	*number = n;
	return true;
}

bool
parse_size(const char *text, uint64_t *size)
{
	size_t length = strlen(text);
	char digits[24];
	const char *unit;
	uint64_t n;

	if (length == 0 || length >= sizeof(digits))
		return false;
	memcpy(digits, text, length + 1);
	unit = strchr(unit_letters, digits[length - 1]);
	if (unit)
		digits[length - 1] = '\0';
	if (!parse_number(digits, &n))
		return false;
	if (unit && !checked_mul(n, (uint64_t)1 << (10 * (unit - unit_letters + 1)), &n))
		return false;
	*size = n;
	return true;
}

bool
parse_switch(const char *text, bool *on)
{
	if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
		return false;
	*on = text[1] == 'n';
	return true;
}

const char *
size_text(uint64_t size, char *text, size_t room)
{
	unsigned shift = 0;

	while (size > 0 && size % 1024 == 0 && shift < sizeof(unit_letters) - 1) {
		size /= 1024;
		shift++;
	}
	snprintf(text, room, "%" PRIu64 "%.*s", size, shift ? 1 : 0,
		shift ? &unit_letters[shift - 1] : "");
	return text;
}

const char *
size_human(uint64_t size, char *text, size_t room)
{
	unsigned shift = 0;
	uint64_t whole = size;

	while (whole >= 1024 && shift < sizeof(unit_letters) - 1) {
		whole /= 1024;
		shift++;
	}
	if (shift == 0)
		snprintf(text, room, "%" PRIu64 " bytes", size);
	else if (size == whole << (10 * shift) || whole >= 100)
		snprintf(text, room, "%" PRIu64 " %ciB", whole, unit_letters[shift - 1]);
	else
		snprintf(text, room, "%" PRIu64 ".%u %ciB", whole,
			(unsigned)((size >> (10 * (shift - 1))) % 1024 * 10 / 1024),
			unit_letters[shift - 1]);
	return text;
}

static unsigned
min3(unsigned a, unsigned b, unsigned c)
{
	unsigned least = a < b ? a : b;

	return least < c ? least : c;
}

/* Levenshtein's distance, one row at a time; both words are shorter than WORD_MAX. */
static unsigned
count_edits(const char *a, const char *b)
{
	size_t b_length = strlen(b);
	unsigned row[WORD_MAX + 1];

	for (size_t j = 0; j <= b_length; j++)
		row[j] = (unsigned)j;
	for (size_t i = 0; a[i]; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i + 1;
		for (size_t j = 0; j < b_length; j++) {
			unsigned above = row[j + 1];

			row[j + 1] = min3(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
			diagonal = above;
		}
	}
	return row[b_length];
}

void
nearest_init(struct nearest *nearest, const char *word)
{
	*nearest = (struct nearest){.word = word, .distance = WORD_MAX};
}

void
nearest_try(struct nearest *nearest, const char *candidate)
{
	size_t length = strlen(nearest->word);
	unsigned distance;

	if (length >= WORD_MAX || strlen(candidate) >= WORD_MAX)
		return;
	distance = count_edits(nearest->word, candidate);
	/* A third of the word may be wrong, two letters at least: "tls" is not near "cli". */
	if (distance > (length < 6 ? 2 : length / 3) || distance >= length)
		return;
	if (distance < nearest->distance) {
		nearest->best = candidate;
		nearest->distance = distance;
	}
}

const char *
nearest_text(const struct nearest *nearest, char *text, size_t room)
{
	if (nearest->best)
		snprintf(text, room, " (did you mean \"%s\"?)", nearest->best);
	else
		snprintf(text, room, "%s", "");
	return text;
}
