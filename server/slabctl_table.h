/* Aligned columns for people, with units. */
#ifndef SLABD_SLABCTL_TABLE_H
#define SLABD_SLABCTL_TABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum cell_kind {
	CELL_TEXT,
	CELL_NUMBER,
	CELL_BYTES,   /* "1.9 GiB" */
	CELL_SECONDS, /* a latency: "85 us", "2.1 ms"; 0 is "–" */
	CELL_AGE,     /* "11 min", "2 h" */
	CELL_RATE,    /* "41k  160 MiB": `key` a second, `second` bytes of it */
	CELL_STATE,   /* anything but "ok" in capitals, and red */
};

struct column {
	const char *title;
	const char *key;
	enum cell_kind kind;
	const char *second;
};

/* `note`: a key whose text, where there is any, follows its row on a line of its own; NULL: none.
 */
void table_print(const struct column *columns, size_t count, const json_t *rows, const char *note,
	bool colour);

/* One value as its cell would show it, of at most `room` bytes. */
void table_cell(const struct column *column, const json_t *row, char *text, size_t room);

#endif
