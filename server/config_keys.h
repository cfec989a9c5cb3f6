/*
 * The one table of keys. It drives the YAML parser, KEY=VALUE on the command line, --print-config
 * and the key lists of slabd.yaml.5: a later feature adds a row (and a member in conf.h), nothing
 * else.
 */
#ifndef SLABD_CONFIG_KEYS_H
#define SLABD_CONFIG_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "conf.h"
#include "log.h"

enum key_kind {
	KEY_TEXT,   /* char * */
	KEY_SECRET, /* char *, wiped and never shown */
	KEY_SIZE,   /* uint64_t, 0 where not given */
	KEY_SIZE32, /* uint32_t, 0 where not given */
	KEY_U16,    /* uint16_t */
	KEY_NUMBER, /* unsigned */
	KEY_SWITCH, /* bool */
	KEY_CHOICE, /* an enum: the index in `choices` */
	KEY_GROUP,  /* a mapping; its members lie in the same struct */
	KEY_ITEMS,  /* an array of structs: pointer at `offset`, size_t at `count` */
	KEY_LATER,  /* reserved for what is not there yet */
};

enum section_form {
	SECTION_GROUP,
	SECTION_NAMED,    /* a mapping; the key is the item's name (a char * at `id`) */
	SECTION_NUMBERED, /* a mapping; the key is the item's number (a uint16_t at `id`) */
	SECTION_LISTED,   /* a sequence */
};

struct config_section;

struct config_key {
	const char *name; /* NULL ends a table */
	enum key_kind kind;
	size_t offset, count;
	const struct config_section *section; /* GROUP and ITEMS */
	uint64_t min, max;                    /* SIZE32, U16, NUMBER; SIZE: max, 0 for none */
	const char *fallback;                 /* as it would be typed; NULL: none */
	const char *help;                     /* one sentence, for slabd.yaml.5 */
	bool sparse;                          /* ITEMS: an empty one is as good as none */
	const char *const *choices;           /* CHOICE: words, then NULL; "" is "not given" */
};

struct config_section {
	const char *title; /* where it is: "volumes: NAME" */
	const char *noun;  /* one of it, in errors: "volume" */
	enum section_form form;
	size_t size;           /* of an item */
	size_t id;             /* offset of its name or number */
	const char *shorthand; /* the key that a plain value in an item's place stands for; NULL */
	const struct config_key *keys;
};

/* The whole file; and the sections the manual shows, ending with NULL. */
extern const struct config_section config_root;
extern const struct config_section config_volume_section;
extern const struct config_section *const config_sections[];

const struct config_key *config_key_find(const struct config_section *section, const char *name);

/* Stores `text` in the key's member of *item. False with *error saying what is wrong with the text.
 */
bool
config_key_set(const struct config_key *key, void *item, const char *text, struct error *error);

/* Every key with a fallback gets it. False: no memory. */
bool config_key_defaults(const struct config_section *section, void *item);

/* Appends a zeroed item with defaults. NULL: no memory. */
void *config_item_add(const struct config_key *key, void *parent);
void *config_item(const struct config_key *key, const void *parent, size_t index);
size_t config_item_count(const struct config_key *key, const void *parent);

/* Frees what an item of the section owns, not the item. */
void config_item_clear(const struct config_section *section, void *item);
/* Takes item `index` out of the array. */
void config_item_remove(const struct config_key *key, void *parent, size_t index);

/* The mdoc list of a section's keys, as it stands in slabd.yaml.5. */
void config_keys_manual(const struct config_section *section, FILE *out);

#endif
