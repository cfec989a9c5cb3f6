/*
 * The log, and error texts for people. Any thread. One line is one write(2) to stderr; with
 * systemd's journal on stderr each line carries its <priority>.
 */
#ifndef SLABD_LOG_H
#define SLABD_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Lines above `level` are dropped. Default: INFO. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* printf-like, without a newline at the end. Bytes below 0x20 and DEL are written as \xNN. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                           \
	do {                                                     \
		if (log_get_level() >= LOG_LEVEL_DEBUG)          \
			log_write(LOG_LEVEL_DEBUG, __VA_ARGS__); \
	} while (0)

/*
 * The same for lines that a peer can cause as often as it likes: at most LOG_BURST of them in
 * LOG_WINDOW_NS from one place in the code; the next one says how many were left out. At debug level
 * none is. Any thread.
 */
#define LOG_BURST     20
#define LOG_WINDOW_NS (10 * UINT64_C(1000000000))

struct log_limit {
	uint64_t since; /* the window's first line; 0: none yet */
	unsigned lines; /* in it, also those left out */
};

#define log_seldom(level, ...)                               \
	do {                                                 \
		static struct log_limit log_limit;           \
                                                             \
		log_limited(&log_limit, level, __VA_ARGS__); \
	} while (0)

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* May a line be written at `now`? *left_out is how many before it were not. One thread at a time. */
bool log_limit_passes(struct log_limit *limit, uint64_t now, unsigned *left_out);

/*
 * What went wrong, for a person: the object, what was found, what would be right; no newline, no
 * program name. Filled by whoever fails; printed once, where it is handled.
 */
struct error {
	char text[512];
};

/* Returns `rc`, so that `return error_set(e, -EINVAL, "...")` reads well. `e` may be NULL. */
int
error_set(struct error *e, int rc, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
