#include "config.h"
#include "config_load.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "config_keys.h"

/* A longer line is shown from the place where something is wrong. */
#define SHOWN_COLUMNS 160

bool
config_init(struct config *config)
{
	*config = (struct config){0};
	return config_key_defaults(&config_root, &config->conf);
}

void
conf_clear(struct conf *conf)
{
	config_item_clear(&config_root, conf);
	*conf = (struct conf){0};
}

void
config_free(struct config *config)
{
	conf_clear(&config->conf);
	for (size_t i = 0; i < config->nproblems; i++)
		free(config->problems[i].text);
	free(config->problems);
	free(config->places);
	if (config->source)
		explicit_bzero(config->source, config->source_length);
	free(config->source);
}

void
config_found(struct config *config, const char *path, struct config_mark mark)
{
	struct config_place *places =
		reallocarray(config->places, config->nplaces + 1, sizeof(*places));

	if (!places) {
		config->no_memory = true;
		return;
	}
	config->places = places;
	snprintf(places[config->nplaces].path, sizeof(places->path), "%s", path);
	places[config->nplaces++].mark = mark;
}

const struct config_place *
config_where(const struct config *config, const char *path)
{
	for (size_t i = 0; i < config->nplaces; i++)
		if (strcmp(config->places[i].path, path) == 0)
			return &config->places[i];
	return NULL;
}

static void __attribute__((format(printf, 3, 0)))
add_problem(struct config *config, struct config_mark mark, const char *format, va_list ap)
{
	struct config_problem *problems;
	char *text;

	if (vasprintf(&text, format, ap) < 0) {
		config->no_memory = true;
		return;
	}
	problems = reallocarray(config->problems, config->nproblems + 1, sizeof(*problems));
	if (!problems) {
		free(text);
		config->no_memory = true;
		return;
	}
	config->problems = problems;
	problems[config->nproblems++] = (struct config_problem){.text = text, .mark = mark};
	if (mark.line == 0)
		config->usage = true;
}

/* The place of "a.b[1].c", else of "a.b[1]", else of "a.b", else of "a". */
static struct config_mark
find_mark(const struct config *config, const char *path)
{
	char part[sizeof(config->places->path)];
	const struct config_place *place;

	snprintf(part, sizeof(part), "%s", path);
	for (size_t length = strlen(part); length > 0; length--) {
		if (part[length] != '\0' && part[length] != '.' && part[length] != '[')
			continue;
		part[length] = '\0';
		place = config_where(config, part);
		if (place)
			return place->mark;
		/* An item of the command line lies in an array that the file may have begun. */
		if (part[length - 1] == ']')
			break;
	}
	return (struct config_mark){0};
}

void
config_problem(struct config *config, const char *path, const char *format, ...)
{
	struct config_mark mark = find_mark(config, path);
	va_list ap;

	/* A value that could not be read is not also missing. */
	for (size_t i = 0; mark.line > 0 && i < config->nproblems; i++)
		if (config->problems[i].mark.line == mark.line &&
			config->problems[i].mark.column == mark.column)
			return;
	va_start(ap, format);
	add_problem(config, mark, format, ap);
	va_end(ap);
}

void
config_problem_at(struct config *config, struct config_mark mark, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	add_problem(config, mark, format, ap);
	va_end(ap);
}

void
config_usage(struct config *config, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	add_problem(config, (struct config_mark){0}, format, ap);
	va_end(ap);
}

static int
compare_problems(const void *a, const void *b)
{
	const struct config_problem *p = *(const struct config_problem *const *)a;
	const struct config_problem *q = *(const struct config_problem *const *)b;

	if (p->mark.line != q->mark.line)
		return p->mark.line < q->mark.line ? -1 : 1;
	if (p->mark.column != q->mark.column)
		return p->mark.column < q->mark.column ? -1 : 1;
	return p < q ? -1 : p > q;
}

/* One character of UTF-8 takes one column, whatever its bytes. */
static bool
starts_character(char c)
{
	return ((unsigned char)c & 0xc0) != 0x80;
}

static void
print_source(const struct config *config, struct config_mark mark, FILE *out)
{
	const char *line = config->source, *end = line + config->source_length, *stop;
	unsigned column = 1, skipped = mark.column > SHOWN_COLUMNS ? mark.column - 20 : 0;

	for (unsigned n = 1; n < mark.line && line; n++) {
		line = memchr(line, '\n', (size_t)(end - line));
		line = line ? line + 1 : NULL;
	}
	if (!line || line == end)
		return;
	stop = memchr(line, '\n', (size_t)(end - line));
	if (!stop)
		stop = end;
	/* R13: what may be a secret is not shown. */
	if (memmem(line, (size_t)(stop - line), "secret", strlen("secret")))
		return;
	fprintf(out, "%5u | ", mark.line);
	for (const char *c = line; c < stop; c++) {
		if (c > line && starts_character(*c))
			column++;
		if (column <= skipped || column >= skipped + SHOWN_COLUMNS)
			continue;
		/* A tab would move the marker. */
		fputc((unsigned char)*c < 0x20 || *c == 0x7f ? ' ' : *c, out);
	}
	if (column > mark.column && mark.length > column - mark.column + 1)
		mark.length = column - mark.column + 1;
	fprintf(out, "\n      | %*s^", (int)(mark.column - skipped - 1), "");
	for (unsigned i = 1; i < mark.length && i < SHOWN_COLUMNS; i++)
		fputc('~', out);
	fputc('\n', out);
}

void
config_print_problems(const struct config *config, FILE *out)
{
	const struct config_problem **sorted = calloc(config->nproblems + 1, sizeof(void *));

	if (config->no_memory || !sorted)
		fprintf(out, "slabd: out of memory\n");
	for (size_t i = 0; sorted && i < config->nproblems; i++)
		sorted[i] = &config->problems[i];
	if (sorted)
		qsort(sorted, config->nproblems, sizeof(void *), compare_problems);
	for (size_t i = 0; sorted && i < config->nproblems; i++) {
		const struct config_problem *problem = sorted[i];

		if (problem->mark.line == 0) {
			fprintf(out, "slabd: %s\n", problem->text);
			continue;
		}
		fprintf(out, "%s:%u:%u: %s\n", config->file, problem->mark.line,
			problem->mark.column, problem->text);
		print_source(config, problem->mark, out);
	}
	free(sorted);
}
