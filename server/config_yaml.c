/*
 * slabd.yaml, walked along the table of keys. libfyaml's marks count from 0, its diagnostics from
 * 1; only scalars have a public token, so a mapping or a sequence is reported at its key.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <libfyaml.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config_keys.h"
#include "config_load.h"
#include "limits.h"
#include "words.h"

/* Where in the file and in the configuration the walk is. */
struct spot {
	char path[80];           /* "nbd.exports[0]" */
	char what[160];          /* "export \"web\"", for people; "" at the top */
	struct config_mark mark; /* of its key */
};

static void read_mapping(struct config *config, const struct config_section *section, void *item,
	struct fy_node *node, const struct spot *spot);

static struct config_mark
mark_node(struct fy_node *node, struct config_mark otherwise)
{
	struct fy_token *token =
		node && fy_node_is_scalar(node) ? fy_node_get_scalar_token(node) : NULL;
	const struct fy_mark *start = token ? fy_token_start_mark(token) : NULL;
	const struct fy_mark *end = token ? fy_token_end_mark(token) : NULL;
	struct config_mark mark;

	if (!start || !end)
		return otherwise;
	mark = (struct config_mark){(unsigned)start->line + 1, (unsigned)start->column + 1, 1};
	if (end->line == start->line && end->column > start->column)
		mark.length = (unsigned)(end->column - start->column);
	return mark;
}

/* The scalar as a C string in *text (to be freed), or NULL after saying why not. */
static char *
read_scalar(struct config *config, struct fy_node *node, const struct spot *spot)
{
	struct config_mark mark = mark_node(node, spot->mark);
	const char *data;
	size_t length = 0;
	char *text;

	if (node && fy_node_is_alias(node)) {
		config_problem_at(config, mark, "aliases are not taken: write the value");
		return NULL;
	}
	if (!node || (fy_node_is_scalar(node) && fy_node_is_null(node))) {
		config_problem_at(config, spot->mark, "%s has no value", spot->what);
		return NULL;
	}
	if (!fy_node_is_scalar(node)) {
		config_problem_at(config, spot->mark, "%s takes one value, not a %s", spot->what,
			fy_node_is_mapping(node) ? "mapping" : "list");
		return NULL;
	}
	data = fy_node_get_scalar(node, &length);
	if (!data || memchr(data, '\0', length)) {
		config_problem_at(config, mark, "%s contains a zero byte", spot->what);
		return NULL;
	}
	text = strndup(data, length);
	if (!text)
		config->no_memory = true;
	return text;
}

static void
read_value(struct config *config, const struct config_key *key, void *item, struct fy_node *node,
	const struct spot *spot)
{
	struct config_mark mark = mark_node(node, spot->mark);
	struct error error;
	char *text = read_scalar(config, node, spot);

	config_found(config, spot->path, mark);
	if (!text)
		return;
	if (!config_key_set(key, item, text, &error))
		config_problem_at(config, mark, "%s: %s", spot->what, error.text);
	free(text);
}

/* A plain value in an item's place: "db" for {volume: db}. */
static void
read_shorthand(struct config *config, const struct config_section *section, void *item,
	struct fy_node *node, const struct spot *spot)
{
	struct spot inner = *spot;

	snprintf(inner.path, sizeof(inner.path), "%.60s.%s", spot->path, section->shorthand);
	read_value(config, config_key_find(section, section->shorthand), item, node, &inner);
}

static void
read_item(struct config *config, const struct config_section *section, void *item,
	struct fy_node *node, const struct spot *spot)
{
	config_found(config, spot->path, spot->mark);
	if (node && fy_node_is_mapping(node))
		read_mapping(config, section, item, node, spot);
	else if (node && fy_node_is_alias(node))
		config_problem_at(config, spot->mark, "aliases are not taken: write the value");
	else if (section->shorthand)
		read_shorthand(config, section, item, node, spot);
	else
		config_problem_at(
			config, spot->mark, "%s is not a mapping: give its keys", spot->what);
}

static bool
set_id(struct config *config, const struct config_section *section, void *item, char *id,
	struct config_mark mark)
{
	char *member = (char *)item + section->id;
	uint64_t number = 0;

	if (section->form == SECTION_NAMED) {
		memcpy(member, &id, sizeof(id));
		return true;
	}
	if (!parse_number(id, &number) || number > UINT16_MAX) {
		config_problem_at(config, mark, "\"%s\" is not a %s's number", id,
			section->noun);
		return false;
	}
	*(uint16_t *)(void *)member = (uint16_t)number;
	return true;
}

static void
read_items_mapping(struct config *config, const struct config_key *key, void *parent,
	struct fy_node *node, const struct spot *spot)
{
	const struct config_section *section = key->section;
	struct fy_node_pair *pair;
	void *state = NULL;

	while ((pair = fy_node_mapping_iterate(node, &state))) {
		struct spot inner = *spot;
		char *id;
		void *item;

		inner.mark = mark_node(fy_node_pair_key(pair), spot->mark);
		snprintf(inner.what, sizeof(inner.what), "the name of %s %s",
			strchr("aeiou", section->noun[0]) ? "an" : "a", section->noun);
		id = read_scalar(config, fy_node_pair_key(pair), &inner);
		if (!id)
			continue;
		snprintf(inner.path, sizeof(inner.path), "%.60s[%zu]", spot->path,
			config_item_count(key, parent));
		if (section->form == SECTION_NUMBERED)
			snprintf(inner.what, sizeof(inner.what), "%s %.10s of %.140s",
				section->noun, id, spot->what);
		else
			snprintf(
				inner.what, sizeof(inner.what), "%s \"%.100s\"", section->noun, id);
		item = config_item_add(key, parent);
		if (!item)
			config->no_memory = true;
		else if (!set_id(config, section, item, id, inner.mark))
			config_item_remove(key, parent, config_item_count(key, parent) - 1);
		else
			read_item(config, section, item, fy_node_pair_value(pair), &inner);
		if (!item || section->form == SECTION_NUMBERED)
			free(id);
	}
}

static bool
is_none(struct fy_node *node)
{
	size_t length = 0;
	const char *text = fy_node_is_scalar(node) ? fy_node_get_scalar(node, &length) : NULL;

	return text && length == 4 && memcmp(text, "none", 4) == 0;
}

static void
read_list_item(struct config *config, const struct config_key *key, void *parent,
	struct fy_node *node, const struct spot *spot)
{
	struct spot inner = *spot;
	size_t index = config_item_count(key, parent);
	void *item = config_item_add(key, parent);

	if (!item) {
		config->no_memory = true;
		return;
	}
	inner.mark = mark_node(node, spot->mark);
	snprintf(inner.path, sizeof(inner.path), "%.60s[%zu]", spot->path, index);
	snprintf(inner.what, sizeof(inner.what), "%s", key->section->noun);
	read_item(config, key->section, item, node, &inner);
}

static void
read_items(struct config *config, const struct config_key *key, void *parent, struct fy_node *node,
	const struct spot *spot)
{
	bool listed = key->section->form == SECTION_LISTED;
	struct fy_node *entry;
	void *state = NULL;

	config_found(config, spot->path, spot->mark);
	if (!node || fy_node_is_alias(node) || (fy_node_is_scalar(node) && fy_node_is_null(node)))
		free(read_scalar(config, node, spot));
	else if (listed && is_none(node))
		return;
	else if (listed && fy_node_is_sequence(node))
		while ((entry = fy_node_sequence_iterate(node, &state)))
			read_list_item(config, key, parent, entry, spot);
	else if (listed && fy_node_is_scalar(node))
		read_list_item(config, key, parent, node, spot);
	else if (!listed && fy_node_is_mapping(node))
		read_items_mapping(config, key, parent, node, spot);
	else
		config_problem_at(config, spot->mark, "%s takes a %s, not a %s", spot->what,
			listed ? "list" : "mapping",
			fy_node_is_scalar(node)    ? "plain value"
			: fy_node_is_mapping(node) ? "mapping"
						   : "list");
}

static void
complain_about_key(struct config *config, const struct config_section *section, const char *name,
	const struct spot *spot)
{
	struct nearest nearest;
	char hint[96];

	nearest_init(&nearest, name);
	for (const struct config_key *key = section->keys; key->name; key++)
		if (key->kind != KEY_LATER)
			nearest_try(&nearest, key->name);
	config_problem_at(config, spot->mark, "unknown key \"%s\"%s%s%s", name,
		spot->what[0] ? " in " : "", spot->what,
		nearest_text(&nearest, hint, sizeof(hint)));
}

static bool
is_repeated(struct fy_node *mapping, struct fy_node_pair *pair, const char *name)
{
	struct fy_node_pair *earlier;
	void *state = NULL;

	while ((earlier = fy_node_mapping_iterate(mapping, &state)) && earlier != pair) {
		size_t length = 0;
		struct fy_node *key = fy_node_pair_key(earlier);
		const char *text =
			key && fy_node_is_scalar(key) ? fy_node_get_scalar(key, &length) : NULL;

		if (text && strlen(name) == length && memcmp(text, name, length) == 0)
			return true;
	}
	return false;
}

static void
read_pair(struct config *config, const struct config_section *section, void *item, char *name,
	struct fy_node *value, const struct spot *spot)
{
	const struct config_key *key = config_key_find(section, name);
	struct spot inner = *spot;

	if (!key) {
		complain_about_key(config, section, name, spot);
		return;
	}
	snprintf(inner.path, sizeof(inner.path), "%.50s%s%s", spot->path, spot->path[0] ? "." : "",
		name);
	snprintf(inner.what, sizeof(inner.what), "%s%s%.120s", name, spot->what[0] ? " of " : "",
		spot->what);
	switch (key->kind) {
	case KEY_LATER:
		config_problem_at(
			config, spot->mark, "%s: not there yet in this version", inner.what);
		break;
	case KEY_ITEMS:
		read_items(config, key, item, value, &inner);
		break;
	case KEY_GROUP:
		if (value && fy_node_is_mapping(value)) {
			snprintf(inner.what, sizeof(inner.what), "%s", name);
			read_mapping(config, key->section, item, value, &inner);
		} else {
			config_problem_at(config, spot->mark, "%s takes a mapping", inner.what);
		}
		break;
	case KEY_TEXT:
	case KEY_SECRET:
	case KEY_SIZE:
	case KEY_SIZE32:
	case KEY_U16:
	case KEY_NUMBER:
	case KEY_SWITCH:
	case KEY_CHOICE:
		read_value(config, key, item, value, &inner);
		break;
	}
}

/* As deep as the table of keys, not as the file. */
static void
read_mapping(struct config *config, const struct config_section *section, void *item,
	struct fy_node *node, const struct spot *spot)
{
	struct fy_node_pair *pair;
	void *state = NULL;

	while ((pair = fy_node_mapping_iterate(node, &state))) {
		struct spot inner = *spot;
		char *name;

		inner.mark = mark_node(fy_node_pair_key(pair), spot->mark);
		snprintf(inner.what, sizeof(inner.what), "a key");
		name = read_scalar(config, fy_node_pair_key(pair), &inner);
		if (!name)
			continue;
		memcpy(inner.what, spot->what, sizeof(inner.what));
		if (is_repeated(node, pair, name))
			config_problem_at(config, inner.mark, "%s%s%s is given twice", name,
				spot->what[0] ? " of " : "", spot->what);
		else
			read_pair(config, section, item, name, fy_node_pair_value(pair), &inner);
		free(name);
	}
}

static void
report_syntax(struct config *config, struct fy_diag *diag)
{
	struct fy_diag_error *error;
	void *state = NULL;
	size_t problems = config->nproblems;

	while ((error = fy_diag_errors_iterate(diag, &state)))
		if (error->type == FYET_ERROR)
			config_problem_at(config,
				(struct config_mark){error->line > 0 ? (unsigned)error->line : 1,
					error->column > 0 ? (unsigned)error->column : 1, 1},
				"%s", error->msg);
	if (config->nproblems == problems)
		config_problem_at(config, (struct config_mark){1, 1, 1}, "this is not valid YAML");
}

static void
read_documents(struct config *config, struct fy_parser *parser, struct fy_diag *diag)
{
	struct spot top = {.mark = {1, 1, 1}};
	struct fy_document *document = fy_parse_load_document(parser);
	struct fy_document *second = document ? fy_parse_load_document(parser) : NULL;
	struct fy_node *root = document ? fy_document_root(document) : NULL;

	if (fy_diag_got_error(diag))
		report_syntax(config, diag);
	else if (second)
		config_problem_at(config, top.mark, "the file holds more than one document");
	else if (root && fy_node_is_mapping(root))
		read_mapping(config, &config_root, &config->conf, root, &top);
	else if (root && !fy_node_is_null(root))
		config_problem_at(
			config, top.mark, "the file is not a mapping: begin with \"volumes:\"");
	fy_parse_document_destroy(parser, second);
	fy_parse_document_destroy(parser, document);
}

void
config_read_text(struct config *config, const char *file, const char *text, size_t length)
{
	struct fy_parse_cfg parse_cfg = {.flags = FYPCF_QUIET | FYPCF_ALLOW_DUPLICATE_KEYS};
	struct fy_parser *parser = NULL;
	struct fy_diag_cfg diag_cfg;

	config->file = file;
	config->source = malloc(length + 1);
	fy_diag_cfg_default(&diag_cfg);
	diag_cfg.fp = NULL;
	diag_cfg.output_fn = NULL;
	diag_cfg.level = FYET_ERROR;
	parse_cfg.diag = fy_diag_create(&diag_cfg);
	if (!config->source || !parse_cfg.diag) {
		config->no_memory = true;
		goto out;
	}
	memcpy(config->source, text, length);
	config->source[length] = '\0';
	config->source_length = length;
	fy_diag_set_collect_errors(parse_cfg.diag, true);
	parser = fy_parser_create(&parse_cfg);
	if (!parser || fy_parser_set_string(parser, config->source, length) != 0)
		config->no_memory = true;
	else
		read_documents(config, parser, parse_cfg.diag);
out:
	fy_parser_destroy(parser);
	fy_diag_destroy(parse_cfg.diag);
}

/* The whole file, NUL-terminated; NULL with errno. */
static char *
read_whole(int fd, size_t *length)
{
	char *text = malloc(LIMIT_CONFIG_FILE + 1);

	*length = 0;
	if (!text)
		return NULL;
	while (*length <= LIMIT_CONFIG_FILE) {
		ssize_t n = read(fd, text + *length, LIMIT_CONFIG_FILE + 1 - *length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			return text;
		if (n < 0)
			goto fail;
		*length += (size_t)n;
	}
	errno = EFBIG;
fail:
	free(text);
	return NULL;
}

void
config_read_file(struct config *config, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	char *text = fd < 0 ? NULL : read_whole(fd, &length);
	bool usage = config->usage;

	if (!text) {
		/* A line without a place, but no mistake of the command line. */
		config_usage(config, "%s: %m", path);
		config->usage = usage;
	} else {
		config_read_text(config, path, text, length);
	}
	free(text);
	if (fd >= 0)
		close(fd);
}
