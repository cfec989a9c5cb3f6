#include "config.h"
#include "slabctl_table.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CELL_ROOM 512

static void
put_bytes(uint64_t bytes, char *text, size_t room)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
	double value = (double)bytes;
	int unit = -1;

	while (value >= 1024 && unit < 4) {
		value /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(text, room, "%u B", (unsigned)bytes);
	else if (value >= 10 || value == (double)(uint64_t)value)
		snprintf(text, room, "%.0f %s", value, units[unit]);
	else
		snprintf(text, room, "%.1f %s", value, units[unit]);
}

static void
put_count(uint64_t count, char *text, size_t room)
{
	if (count >= 10000000)
		snprintf(text, room, "%uM", (unsigned)(count / 1000000));
	else if (count >= 10000)
		snprintf(text, room, "%uk", (unsigned)(count / 1000));
	else
		snprintf(text, room, "%u", (unsigned)count);
}

static void
put_latency(double seconds, char *text, size_t room)
{
	double value = seconds * 1e6;
	const char *unit = "us";

	if (value >= 1e6) {
		value /= 1e6;
		unit = "s";
	} else if (value >= 1e3) {
		value /= 1e3;
		unit = "ms";
	}
	if (seconds <= 0)
		snprintf(text, room, "–");
	else
		snprintf(text, room, value < 10 ? "%.1f %s" : "%.0f %s", value, unit);
}

static void
put_age(double seconds, char *text, size_t room)
{
	if (seconds < 60)
		snprintf(text, room, "%.0f s", seconds);
	else if (seconds < 3600)
		snprintf(text, room, "%.0f min", seconds / 60);
	else if (seconds < 48 * 3600)
		snprintf(text, room, "%.0f h", seconds / 3600);
	else
		snprintf(text, room, "%.0f d", seconds / 86400);
}

static void
put_rate(const struct column *column, const json_t *row, char *text, size_t room)
{
	uint64_t count = (uint64_t)json_integer_value(json_object_get(row, column->key));
	uint64_t bytes = (uint64_t)json_integer_value(json_object_get(row, column->second));
	char counted[32], sized[32];

	if (count == 0) {
		snprintf(text, room, "–");
		return;
	}
	put_count(count, counted, sizeof(counted));
	put_bytes(bytes, sized, sizeof(sized));
	snprintf(text, room, "%s  %s", counted, sized);
}

/* What a peer named itself must not steer the terminal. */
static void
put_text(const char *from, char *text, size_t room)
{
	size_t length = 0;

	for (; *from && length + 1 < room; from++)
		text[length++] = (unsigned char)*from < 0x20 || *from == 0x7f ? '?' : *from;
	text[length] = '\0';
}

static void
put_state(const char *state, char *text, size_t room)
{
	put_text(state, text, room);
	if (strcmp(text, "ok") == 0)
		return;
	for (char *c = text; *c; c++)
		if (*c >= 'a' && *c <= 'z')
			*c = (char)(*c - 'a' + 'A');
}

void
table_cell(const struct column *column, const json_t *row, char *text, size_t room)
{
	const json_t *value = json_object_get(row, column->key);
	uint64_t number = (uint64_t)json_integer_value(value);

	switch (column->kind) {
	case CELL_TEXT:
		put_text(json_string_value(value) ?: "", text, room);
		break;
	case CELL_NUMBER:
		snprintf(text, room, "%llu", (unsigned long long)number);
		break;
	case CELL_BYTES:
		put_bytes(number, text, room);
		break;
	case CELL_SECONDS:
		put_latency(json_number_value(value), text, room);
		break;
	case CELL_AGE:
		put_age(json_number_value(value), text, room);
		break;
	case CELL_RATE:
		put_rate(column, row, text, room);
		break;
	case CELL_STATE:
		put_state(json_string_value(value) ?: "", text, room);
		break;
	}
}

/* Columns on the terminal: characters, not bytes. */
static int
measure(const char *text)
{
	int width = 0;

	for (; *text; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

static void
print_row(const struct column *columns, size_t count, const int *widths, const json_t *row,
	bool colour)
{
	char text[CELL_ROOM];

	for (size_t i = 0; i < count; i++) {
		bool right = columns[i].kind == CELL_NUMBER;
		bool red = false;
		int gap;

		if (row)
			table_cell(&columns[i], row, text, sizeof(text));
		else
			snprintf(text, sizeof(text), "%s", columns[i].title);
		gap = widths[i] - measure(text);
		red = colour && row && columns[i].kind == CELL_STATE && strcmp(text, "ok") != 0;
		printf("%*s%s%s%s", right ? gap : 0, "", red ? "\033[31m" : "", text,
			red ? "\033[0m" : "");
		if (i + 1 < count)
			printf("%*s", (right ? 0 : gap) + 2, "");
	}
	printf("\n");
}

void
table_print(const struct column *columns, size_t count, const json_t *rows, const char *note,
	bool colour)
{
	int *widths = calloc(count, sizeof(*widths));
	char text[CELL_ROOM];
	size_t index;
	const json_t *row;

	if (!widths)
		return;
	for (size_t i = 0; i < count; i++) {
		widths[i] = measure(columns[i].title);
		json_array_foreach((json_t *)(uintptr_t)rows, index, row)
		{
			table_cell(&columns[i], row, text, sizeof(text));
			if (measure(text) > widths[i])
				widths[i] = measure(text);
		}
	}
	if (colour)
		printf("\033[1m");
	print_row(columns, count, widths, NULL, colour);
	if (colour)
		printf("\033[0m");
	json_array_foreach((json_t *)(uintptr_t)rows, index, row)
	{
		const char *said = note ? json_string_value(json_object_get(row, note)) : NULL;

		print_row(columns, count, widths, row, colour);
		if (!said || !*said)
			continue;
		put_text(said, text, sizeof(text));
		printf("        %s: %s\n", json_string_value(json_object_get(row, "name")), text);
	}
	free(widths);
}
