#include "config.h"

#include <inttypes.h>
#include <string.h>

#include "config_keys.h"
#include "config_load.h"
#include "words.h"

static void
print_indent(FILE *out, unsigned depth)
{
	fprintf(out, "%*s", (int)(2 * depth), "");
}

/* Double-quoted unless plain text cannot be mistaken for anything else. */
static void
print_text(FILE *out, const char *text)
{
	static const char plain[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-";

	if (text[strspn(text, plain)] == '\0' && strchr("./-0123456789", text[0]) == NULL &&
		strcmp(text, "null") != 0 && strcmp(text, "Null") != 0 &&
		strcmp(text, "NULL") != 0) {
		fputs(text, out);
		return;
	}
	fputc('"', out);
	for (const char *c = text; *c; c++) {
		if (*c == '"' || *c == '\\')
			fprintf(out, "\\%c", *c);
		else if ((unsigned char)*c < 0x20 || *c == 0x7f)
			fprintf(out, "\\x%02x", (unsigned char)*c);
		else
			fputc(*c, out);
	}
	fputc('"', out);
}

/* What the key holds as it would be typed; false where it was not given. */
static bool
print_value(FILE *out, const char *lead, const struct config_key *key, const void *item)
{
	const void *member = (const char *)item + key->offset;
	char text[32];
	uint64_t number;

	switch (key->kind) {
	case KEY_TEXT:
		if (!*(char *const *)member)
			return false;
		fprintf(out, "%s%s: ", lead, key->name);
		print_text(out, *(char *const *)member);
		break;
	case KEY_SECRET: /* R13 */
		if (!*(char *const *)member)
			return false;
		fprintf(out, "%s# %s: (not shown)", lead, key->name);
		break;
	case KEY_SIZE:
	case KEY_SIZE32:
		number = key->kind == KEY_SIZE ? *(const uint64_t *)member
					       : *(const uint32_t *)member;
		if (number == 0 && !key->fallback)
			return false;
		fprintf(out, "%s%s: %s", lead, key->name, size_text(number, text, sizeof(text)));
		break;
	case KEY_U16:
		fprintf(out, "%s%s: %u", lead, key->name, *(const uint16_t *)member);
		break;
	case KEY_NUMBER:
		fprintf(out, "%s%s: %u", lead, key->name, *(const unsigned *)member);
		break;
	case KEY_SWITCH:
		fprintf(out, "%s%s: %s", lead, key->name, *(const bool *)member ? "on" : "off");
		break;
	case KEY_CHOICE:
		if (!*key->choices[*(const unsigned *)member])
			return false;
		fprintf(out, "%s%s: %s", lead, key->name, key->choices[*(const unsigned *)member]);
		break;
	case KEY_GROUP:
	case KEY_ITEMS:
	case KEY_LATER:
		return false;
	}
	fputc('\n', out);
	return true;
}

static void print_section(FILE *out, const struct config_section *section, const void *item,
	const char *first, unsigned depth);

static void
print_items(FILE *out, const struct config_key *key, const void *parent, unsigned depth)
{
	const struct config_section *section = key->section;
	size_t count = config_item_count(key, parent);
	char first[64];

	print_indent(out, depth);
	if (count == 0) {
		fprintf(out, "%s: []\n", key->name);
		return;
	}
	fprintf(out, "%s:\n", key->name);
	for (size_t i = 0; i < count; i++) {
		const char *item = config_item(key, parent, i);

		if (section->form == SECTION_LISTED) {
			snprintf(first, sizeof(first), "%*s- ", (int)(2 * depth + 2), "");
			print_section(out, section, item, first, depth + 2);
			continue;
		}
		print_indent(out, depth + 1);
		if (section->form == SECTION_NAMED)
			print_text(out, *(char *const *)(const void *)(item + section->id));
		else
			fprintf(out, "%u", *(const uint16_t *)(const void *)(item + section->id));
		fprintf(out, ":\n");
		print_section(out, section, item, NULL, depth + 2);
	}
}

/* Nothing in the group was given, or nothing but a switch that is off anyway. */
static bool
is_absent(const struct config_key *group, const void *item)
{
	for (const struct config_key *key = group->section->keys; key->name; key++) {
		const char *member = (const char *)item + key->offset;

		if (key->kind == KEY_SWITCH ? *(const bool *)(const void *)member
			: key->kind == KEY_TEXT || key->kind == KEY_SECRET
				? *(char *const *)(const void *)member != NULL
				: true)
			return false;
	}
	return true;
}

/* As deep as the table of keys. `first` stands before the first line of a list's item. */
static void
print_section(FILE *out, const struct config_section *section, const void *item, const char *first,
	unsigned depth)
{
	char plain[64];
	const char *lead = first ? first : plain;

	snprintf(plain, sizeof(plain), "%*s", (int)(2 * depth), "");
	for (const struct config_key *key = section->keys; key->name; key++) {
		if (key->kind == KEY_GROUP) {
			if (is_absent(key, item))
				continue;
			fprintf(out, "%s%s:\n", lead, key->name);
			print_section(out, key->section, item, NULL, depth + 1);
		} else if (key->kind == KEY_ITEMS) {
			/* An empty list of listeners is a choice; an empty mapping is "not given".
			 */
			if (config_item_count(key, item) > 0 ||
				(key->section->form == SECTION_LISTED && !key->sparse))
				print_items(out, key, item, depth);
		} else if (print_value(out, lead, key, item)) {
			lead = plain;
		}
	}
}

void
config_print(const struct conf *conf, FILE *out)
{
	print_section(out, &config_root, conf, NULL, 0);
}
