/*
 * PSK files in the field's format, as psktool makes them: a line is IDENTITY:HEXKEY. Identities are
 * no secrets; keys are wiped wherever they were.
 */
#include "config.h"

#include "tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "limits.h"

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* What is wrong with it, or NULL. Nothing of a key may come into an error. */
static const char *
parse_key(struct tls_psk *psk, const char *hex, size_t length)
{
	if (length % 2 != 0)
		return "the key has half a byte";
	if (length / 2 < LIMIT_TLS_PSK_KEY_MIN || length / 2 > LIMIT_TLS_PSK_KEY)
		return "a key has 16 to 64 bytes";
	for (size_t i = 0; i < length; i += 2) {
		int high = hex_value(hex[i]), low = hex_value(hex[i + 1]);

		if (high < 0 || low < 0)
			return "the key is not hexadecimal";
		psk->key[i / 2] = (uint8_t)(high << 4 | low);
	}
	psk->length = length / 2;
	return NULL;
}

static const char *
parse_line(struct tls_psk *psk, const char *line, size_t length)
{
	const char *colon = memchr(line, ':', length);
	size_t identity = colon ? (size_t)(colon - line) : 0;

	if (!colon)
		return "say IDENTITY:HEXKEY";
	/* GnuTLS writes an identity of arbitrary bytes so. */
	if (line[0] == '#')
		return "an identity in hexadecimal is not supported";
	if (identity == 0 || identity > LIMIT_TLS_PSK_IDENTITY)
		return "an identity has 1 to 128 bytes";
	for (size_t i = 0; i < identity; i++)
		if (line[i] < 0x20 || line[i] > 0x7e)
			return "an identity is printable ASCII";
	psk->identity = strndup(line, identity);
	if (!psk->identity)
		return "out of memory";
	return parse_key(psk, colon + 1, length - identity - 1);
}

static int
compare_identities(const void *a, const void *b)
{
	return strcmp(((const struct tls_psk *)a)->identity, ((const struct tls_psk *)b)->identity);
}

static size_t
count_lines(const char *text, size_t length)
{
	size_t lines = 1;

	for (size_t i = 0; i < length; i++)
		lines += text[i] == '\n';
	return lines;
}

/* The line's length without its end, be it DOS's. */
static size_t
measure_line(const char *line, size_t left, size_t *step)
{
	const char *end = memchr(line, '\n', left);
	size_t length = end ? (size_t)(end - line) : left;

	*step = end ? length + 1 : length;
	return length > 0 && line[length - 1] == '\r' ? length - 1 : length;
}

int
tls_psk_parse(struct tls_psk_table *table, const char *path, const char *text, size_t length,
	struct error *error)
{
	unsigned number = 0;
	int rc = -EINVAL;
	const char *wrong;
	size_t line, step;

	*table = (struct tls_psk_table){
		.entries = calloc(count_lines(text, length), sizeof(*table->entries))};
	if (!table->entries)
		return error_set(error, -ENOMEM, "%s: out of memory", path);
	for (size_t at = 0; at < length; at += step) {
		line = measure_line(text + at, length - at, &step);
		number++;
		if (line == 0)
			continue;
		wrong = parse_line(&table->entries[table->count++], text + at, line);
		if (wrong) {
			error_set(error, rc, "%s:%u: %s", path, number, wrong);
			goto fail;
		}
	}
	if (table->count == 0) {
		error_set(error, rc, "%s: no identity in it", path);
		goto fail;
	}
	qsort(table->entries, table->count, sizeof(*table->entries), compare_identities);
	for (size_t i = 1; i < table->count; i++)
		if (compare_identities(&table->entries[i - 1], &table->entries[i]) == 0) {
			error_set(error, rc, "%s: \"%s\" is there twice", path,
				table->entries[i].identity);
			goto fail;
		}
	return 0;
fail:
	tls_psk_clear(table);
	return rc;
}

const struct tls_psk *
tls_psk_find(const struct tls_psk_table *table, const void *identity, size_t length)
{
	struct tls_psk wanted = {.identity = NULL};
	char text[LIMIT_TLS_PSK_IDENTITY + 1];

	if (length > LIMIT_TLS_PSK_IDENTITY || memchr(identity, 0, length))
		return NULL;
	memcpy(text, identity, length);
	text[length] = '\0';
	wanted.identity = text;
	return table->count ? bsearch(&wanted, table->entries, table->count, sizeof(wanted),
				      compare_identities)
			    : NULL;
}

void
tls_psk_clear(struct tls_psk_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		free(table->entries[i].identity);
	if (table->entries)
		explicit_bzero(table->entries, table->count * sizeof(*table->entries));
	free(table->entries);
	*table = (struct tls_psk_table){0};
}
