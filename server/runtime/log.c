#include "config.h"

#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "loop.h"

#define LOG_TEXT 1024                /* a longer message is cut */
#define LOG_LINE (4 * LOG_TEXT + 32) /* every byte may become \xNN */

static _Atomic int threshold = LOG_LEVEL_INFO;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool on_journal;

void
log_set_level(enum log_level level)
{
	atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
}

enum log_level
log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&threshold, memory_order_relaxed);
}

/* systemd.exec(5): $JOURNAL_STREAM is device:inode of the journal's socket; it is inherited, so
 * stderr must still be that very socket. */
static void
find_journal(void)
{
	const char *value = getenv("JOURNAL_STREAM");
	unsigned long long device;
	unsigned long long inode;
	struct stat st;

	on_journal = value && sscanf(value, "%llu:%llu", &device, &inode) == 2 &&
		     fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

static const char *
line_prefix(enum log_level level)
{
	static const char *const plain[] = {"error: ", "warning: ", "", "debug: "};
	static const char *const journal[] = {"<3>", "<4>", "<6>", "<7>"};

	pthread_once(&once, find_journal);
	return on_journal ? journal[level] : plain[level];
}

/* What came from outside can neither end the line nor steer the terminal that shows it. */
static size_t
copy_escaped(char *out, const char *text)
{
	static const char hex[] = "0123456789abcdef";
	char *start = out;

	for (; *text; text++) {
		uint8_t c = (uint8_t)*text;

		if (c >= 0x20 && c != 0x7f) {
			*out++ = *text;
			continue;
		}
		*out++ = '\\';
		*out++ = 'x';
		*out++ = hex[c >> 4];
		*out++ = hex[c & 15];
	}
	return (size_t)(out - start);
}

static void
write_line(const char *prefix, const char *text)
{
	char line[LOG_LINE];
	size_t length = strlen(prefix);
	size_t done = 0;
	ssize_t n;

	memcpy(line, prefix, length);
	length += copy_escaped(line + length, text);
	line[length++] = '\n';
	while (done < length) {
		n = write(STDERR_FILENO, line + done, length - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* nobody is left to tell */
		done += (size_t)n;
	}
}

__attribute__((format(printf, 2, 0))) static void
write_message(enum log_level level, const char *format, va_list ap, unsigned left_out)
{
	char text[LOG_TEXT];
	int saved = errno;
	int length = vsnprintf(text, sizeof(text), format, ap);

	if (length < 0)
		text[length = 0] = '\0';
	if (left_out && (size_t)length < sizeof(text))
		snprintf(text + length, sizeof(text) - (size_t)length,
			"; %u lines like this were left out before it", left_out);
	write_line(line_prefix(level), text);
	errno = saved;
}

void
log_write(enum log_level level, const char *format, ...)
{
	va_list ap;

	if (level > log_get_level())
		return;
	va_start(ap, format);
	write_message(level, format, ap, 0);
	va_end(ap);
}

bool
log_limit_passes(struct log_limit *limit, uint64_t now, unsigned *left_out)
{
	*left_out = 0;
	if (limit->since == 0 || now - limit->since >= LOG_WINDOW_NS) {
		*left_out = limit->lines > LOG_BURST ? limit->lines - LOG_BURST : 0;
		*limit = (struct log_limit){.since = now};
	}
	return ++limit->lines <= LOG_BURST;
}

void
log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	unsigned left_out = 0;
	bool passes = true;
	va_list ap;

	if (level > log_get_level())
		return;
	if (level < LOG_LEVEL_DEBUG) {
		pthread_mutex_lock(&lock);
		passes = log_limit_passes(limit, clock_now(), &left_out);
		pthread_mutex_unlock(&lock);
	}
	if (!passes)
		return;
	va_start(ap, format);
	write_message(level, format, ap, left_out);
	va_end(ap);
}

int
error_set(struct error *e, int rc, const char *format, ...)
{
	va_list ap;

	if (!e)
		return rc;
	va_start(ap, format);
	if (vsnprintf(e->text, sizeof(e->text), format, ap) < 0)
		e->text[0] = '\0';
	va_end(ap);
	return rc;
}

_Noreturn void
check_failed(const char *file, int line, const char *expression)
{
	char text[LOG_TEXT];

	snprintf(text, sizeof(text), "%s:%d: CHECK(%s) failed", file, line, expression);
	write_line(line_prefix(LOG_LEVEL_ERROR), text);
	abort();
}
