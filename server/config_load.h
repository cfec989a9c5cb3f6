/*
 * The configuration while it is being made: the structs of conf.h, where each value was found, and
 * every problem so far. The file is read first (config_yaml.c), the command line adds to it
 * (config_volume.c), then config_finish() fills in defaults and checks what only the whole can tell
 * (config_check.c). Main thread.
 */
#ifndef SLABD_CONFIG_LOAD_H
#define SLABD_CONFIG_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "conf.h"
#include "log.h"

/* A piece of the file, counted from 1. length: of the marker under it; 0: unknown. */
struct config_mark {
	unsigned line, column, length;
};

/* Where the value of a path such as "nbd.exports[0].volume" stands in the file. */
struct config_place {
	char path[80];
	struct config_mark mark;
};

struct config_problem {
	char *text;
	struct config_mark mark; /* line 0: not in the file */
};

struct config {
	struct conf conf;
	const char *file; /* as typed; NULL: none */
	char *source;     /* its text */
	size_t source_length;
	struct config_place *places;
	size_t nplaces;
	struct config_problem *problems;
	size_t nproblems;
	bool usage;     /* one of them is in the command line */
	bool no_memory; /* something could not even be said */
};

/* False: no memory. */
bool config_init(struct config *config);
void config_free(struct config *config);

/* Reads a file into the configuration; what is wrong with it becomes problems. */
void config_read_file(struct config *config, const char *path);
/* The same from memory; `file` is its name in problems. */
void config_read_text(struct config *config, const char *file, const char *text, size_t length);

/* Adds the volume of a NAME=BACKEND:ARG[,KEY=VALUE]... */
void config_add_volume(struct config *config, const char *spec);
/* Adds a --nbd or --iscsi address; "none" takes all away. */
void config_add_listen(struct config *config, const char *protocol, const char *address);

/* Defaults, then the checks. False when there are problems. */
bool config_finish(struct config *config);
/* The checks of one volume alone, and its defaults. */
void config_check_volume(struct config *config, size_t index);

/* Parts of config_finish(), in files of their own. */
void config_check_reference(
	struct config *config, const char *path, const char *who, const char *volume);
void config_check_target(struct config *config, size_t index);
/* All CHAP credentials; reads their files. */
void config_check_chap(struct config *config);
/* The catalogue wants ascending numbers. Afterwards their places no longer tell. */
void config_sort_luns(struct conf *conf);

/* Every target asks who an initiator is: by CHAP or by its name. */
bool config_targets_guarded(const struct conf *conf);

/* Remembers where `path` is. */
void config_found(struct config *config, const char *path, struct config_mark mark);
const struct config_place *config_where(const struct config *config, const char *path);

/*
 * A problem with the value at `path`; shown at the nearest place that is known of it or of what it
 * is part of. Without one it came from the command line.
 */
void config_problem(struct config *config, const char *path, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void config_problem_at(struct config *config, struct config_mark mark, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void
config_usage(struct config *config, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* All problems, those in the file in its order, with the line and a marker. */
void config_print_problems(const struct config *config, FILE *out);

/* Valid YAML that reads back to the same. */
void config_print(const struct conf *conf, FILE *out);

/* Frees the members. */
void conf_clear(struct conf *conf);

#endif
