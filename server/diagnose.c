#include "config.h"
#include "diagnose.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TCP_LISTENING 0x0a /* net/tcp_states.h, as /proc/net/tcp shows it */

static uint16_t
find_port(const struct sockaddr *socket)
{
	if (socket->sa_family == AF_INET)
		return ntohs(((const struct sockaddr_in *)(const void *)socket)->sin_port);
	if (socket->sa_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)(const void *)socket)->sin6_port);
	return 0;
}

/* The inode of a socket that listens on the port, on whatever address; 0: none. */
static uint64_t
find_listener(const char *table, uint16_t port)
{
	FILE *file = fopen(table, "re");
	uint64_t inode = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file)) {
		unsigned listening, state;
		uint64_t number;

		/* sl local:port remote:port st tx:rx tr:when retrnsmt uid timeout inode */
		if (sscanf(line,
			    " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*x:%*x %*x:%*x %*x %*u %*u "
			    "%" SCNu64,
			    &listening, &state, &number) != 3)
			continue;
		if (listening != port || state != TCP_LISTENING || number == 0)
			continue;
		inode = number;
		break;
	}
	if (file)
		fclose(file);
	return inode;
}

static bool
holds_socket(const char *pid, const char *link)
{
	char path[64], target[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

		if (n <= 0)
			continue;
		target[n] = '\0';
		found = strcmp(target, link) == 0;
	}
	closedir(dir);
	return found;
}

static void
name_process(const char *pid, char *text, size_t room)
{
	char path[64], name[64] = "?";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
	file = fopen(path, "re");
	if (file && fgets(name, sizeof(name), file))
		name[strcspn(name, "\n")] = '\0';
	if (file)
		fclose(file);
	snprintf(text, room, " (by %s, pid %s)", name, pid);
}

const char *
diagnose_port(const struct sockaddr *socket, char *text, size_t room)
{
	uint16_t port = find_port(socket);
	uint64_t inode = port ? find_listener("/proc/net/tcp", port) : 0;
	struct dirent *entry;
	char link[64];
	DIR *dir;

	snprintf(text, room, "%s", "");
	if (port && inode == 0)
		inode = find_listener("/proc/net/tcp6", port);
	dir = inode ? opendir("/proc") : NULL;
	if (!dir)
		return text;
	snprintf(link, sizeof(link), "socket:[%" PRIu64 "]", inode);
	while (text[0] == '\0' && (entry = readdir(dir)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
			holds_socket(entry->d_name, link))
			name_process(entry->d_name, text, room);
	closedir(dir);
	return text;
}
