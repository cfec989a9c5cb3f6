#include "config.h"

#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t tap_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned tap_count, tap_failures;
static struct server *current; /* to be ended and removed at exit */

__attribute__((format(printf, 2, 0))) static void
print_line(const char *prefix, const char *format, va_list args)
{
	fputs(prefix, stdout);
	vprintf(format, args);
	putchar('\n');
	fflush(stdout);
}

void
tap_ok(bool ok, const char *format, ...)
{
	char prefix[32];
	va_list args;

	pthread_mutex_lock(&tap_lock);
	tap_count++;
	if (!ok)
		tap_failures++;
	snprintf(prefix, sizeof(prefix), "%sok %u - ", ok ? "" : "not ", tap_count);
	va_start(args, format);
	print_line(prefix, format, args);
	va_end(args);
	pthread_mutex_unlock(&tap_lock);
}

void
tap_skip(const char *why, const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&tap_lock);
	printf("ok %u - ", ++tap_count);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf(" # SKIP %s\n", why);
	fflush(stdout);
	pthread_mutex_unlock(&tap_lock);
}

void
tap_note(const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&tap_lock);
	va_start(args, format);
	print_line("# ", format, args);
	va_end(args);
	pthread_mutex_unlock(&tap_lock);
}

void
tap_bail(const char *format, ...)
{
	va_list args;

	tap_failures++;
	va_start(args, format);
	print_line("Bail out! ", format, args);
	va_end(args);
	exit(1);
}

void
tap_skip_all(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_line("1..0 # SKIP ", format, args);
	va_end(args);
	exit(0);
}

int
tap_done(void)
{
	printf("1..%u\n", tap_count);
	return tap_failures ? 1 : 0;
}

const char *
sanitizers(void)
{
	const char *list = getenv("SLABD_SANITIZERS");

	return list && *list ? list : "no";
}

bool
sanitized(void)
{
	return strcmp(sanitizers(), "no") != 0;
}

unsigned
patience_seconds(unsigned normal)
{
	return sanitized() ? normal * 5 : normal;
}

double
seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void
sleep_ms(unsigned ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
		;
}

uint64_t
test_seed(void)
{
	const char *given = getenv("SEED");
	uint64_t seed = 1;
	int fd;

	if (given) {
		seed = strtoull(given, NULL, 0);
	} else {
		fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, &seed, sizeof(seed)) != (ssize_t)sizeof(seed))
			tap_bail("/dev/urandom: %s", strerror(errno));
		close(fd);
	}
	tap_note("seed: SEED=0x%llx", (unsigned long long)seed);
	return seed;
}

/* splitmix64 */
uint64_t
random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static const char *
build_dir(void)
{
	const char *dir = getenv("SLABD_BUILD");

	return dir && *dir ? dir : ".";
}

static void
exec_server(struct server *server, const char *const *args)
{
	const char *argv[64] = {"slabd", "--nbd", "127.0.0.1:0", "--nbd", server->nbd_unix,
		"--iscsi", "127.0.0.1:0", "--control", server->control, "--loops", "2"};
	const char *program = getenv("SLABD_PROGRAM");
	char path[4096];
	size_t n = 11;
	int fd;

	while (*args && n + 1 < sizeof(argv) / sizeof(argv[0]))
		argv[n++] = *args++;
	argv[n] = NULL;
	if (!program) {
		snprintf(path, sizeof(path), "%s/slabd", build_dir());
		program = path;
	}
	fd = open(server->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0)
		_exit(127);
	if (fd > STDERR_FILENO)
		close(fd);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execv(program, (char *const *)argv);
	fprintf(stderr, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

/* Takes the second word of each "nbd ADDRESS" and "iscsi ADDRESS" line. True once "ready" is there.
 */
static bool
read_addresses(struct server *server)
{
	char line[512], word[256];
	bool ready = false;
	FILE *log = fopen(server->log, "re");

	if (!log)
		return false;
	while (fgets(line, sizeof(line), log)) {
		if (!strcmp(line, "ready\n"))
			ready = true;
		else if (sscanf(line, "nbd %63s", word) == 1 && strncmp(word, "unix:", 5))
			strcpy(server->nbd, word);
		else if (sscanf(line, "iscsi %63s", word) == 1)
			strcpy(server->iscsi, word);
	}
	fclose(log);
	return ready;
}

static void
show_log(const struct server *server)
{
	char line[512];
	FILE *log = fopen(server->log, "re");
	unsigned left = 200;

	if (!log)
		return;
	while (left-- && fgets(line, sizeof(line), log))
		printf("# slabd: %s%s", line, strchr(line, '\n') ? "" : "\n");
	fflush(stdout);
	fclose(log);
}

void
server_start(struct server *server, const char *const *args)
{
	double start = seconds_now();
	unsigned patience = patience_seconds(20);

	server->nbd[0] = server->iscsi[0] = '\0';
	unlink(server->log);
	server->pid = fork();
	if (server->pid < 0)
		tap_bail("fork: %s", strerror(errno));
	if (!server->pid)
		exec_server(server, args);
	while (!read_addresses(server)) {
		if (!server_running(server) || seconds_now() - start > patience)
			tap_bail("slabd did not get ready");
		sleep_ms(1);
	}
	server->start_seconds = seconds_now() - start;
	if (!server->nbd[0] || !server->iscsi[0])
		tap_bail("slabd did not print its addresses");
}

/* A child that ended stays a zombie until server_stop(), so its number is not given to another. */
bool
server_running(struct server *server)
{
	siginfo_t info = {0};

	return server->pid > 0 &&
	       !waitid(P_PID, (id_t)server->pid, &info, WEXITED | WNOHANG | WNOWAIT) &&
	       info.si_pid == 0;
}

int
server_stop(struct server *server, int sig)
{
	double end = seconds_now() + patience_seconds(60);
	int status;
	pid_t pid;

	if (server->pid <= 0)
		return -1;
	if (sig)
		kill(server->pid, sig);
	for (;;) {
		pid = waitpid(server->pid, &status, WNOHANG);
		if (pid == server->pid)
			break;
		if (pid < 0 || seconds_now() > end)
			return -1;
		sleep_ms(2);
	}
	server->pid = 0;
	return status;
}

static int
remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void
clean_up(void)
{
	if (current->pid > 0)
		server_stop(current, SIGKILL);
	if (tap_failures)
		show_log(current);
	nftw(current->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void
server_prepare(struct server *server)
{
	memset(server, 0, sizeof(*server));
	signal(SIGPIPE, SIG_IGN);
	strcpy(server->dir, "/tmp/slabd-interop.XXXXXX");
	if (!mkdtemp(server->dir))
		tap_bail("mkdtemp %s: %s", server->dir, strerror(errno));
	current = server;
	atexit(clean_up);
	snprintf(server->nbd_unix, sizeof(server->nbd_unix), "unix:%s/nbd.sock", server->dir);
	snprintf(server->control, sizeof(server->control), "%s/control.sock", server->dir);
	snprintf(server->log, sizeof(server->log), "%s/slabd.log", server->dir);
}

int
server_ctl(const struct server *server, char *out, size_t size, const char *words)
{
	char command[8192];
	size_t length;
	FILE *pipe;
	int status;

	snprintf(command, sizeof(command), "'%s/slabctl' --socket '%s' %s 2>&1", build_dir(),
		server->control, words);
	pipe = popen(command, "re");
	if (!pipe)
		tap_bail("popen: %s", strerror(errno));
	length = fread(out, 1, size - 1, pipe);
	out[length] = '\0';
	while (fgetc(pipe) != EOF)
		;
	status = pclose(pipe);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

uint64_t
server_rss(const struct server *server)
{
	unsigned long long kib = 0;
	char path[64], line[256];
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)server->pid);
	status = fopen(path, "re");
	if (!status)
		tap_bail("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), status) && sscanf(line, "VmRSS: %llu kB", &kib) != 1)
		;
	fclose(status);
	return (uint64_t)kib * 1024;
}

unsigned
server_descriptors(const struct server *server)
{
	struct dirent *entry;
	unsigned count = 0;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)server->pid);
	dir = opendir(path);
	if (!dir)
		tap_bail("%s: %s", path, strerror(errno));
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			count++;
	closedir(dir);
	return count;
}
