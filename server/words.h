/* Words an operator types: sizes, switches, and what was probably meant. Pure functions. */
#ifndef SLABD_WORDS_H
#define SLABD_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes, or a number with K, M, G, T or P (powers of 1024). False when it is anything else or does
 * not fit. */
bool parse_size(const char *text, uint64_t *size);
/* Decimal digits only. */
bool parse_number(const char *text, uint64_t *number);
/* "on" or "off". */
bool parse_switch(const char *text, bool *on);

/* The shortest text that parse_size() reads back to the same: "1G", "1536M", "513". */
const char *size_text(uint64_t size, char *text, size_t room);
/* For people: "1 GiB", "1.9 GiB", "512 bytes". */
const char *size_human(uint64_t size, char *text, size_t room);

/* The candidate nearest to `word` by edits, or NULL when none is near enough to be worth saying. */
struct nearest {
	const char *word;
	const char *best;
	unsigned distance;
};

void nearest_init(struct nearest *nearest, const char *word);
void nearest_try(struct nearest *nearest, const char *candidate);
/* " (did you mean "size"?)", or "" when nothing was near. */
const char *nearest_text(const struct nearest *nearest, char *text, size_t room);

#endif
