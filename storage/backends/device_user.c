#include "config.h"

#include "device_user.h"

#include <ctype.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Where it is mounted, by its number in the third field of mountinfo (proc_pid_mountinfo(5)). */
static bool
find_mount(dev_t number, char *where, size_t size)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;
	bool found = false;

	if (!file)
		return false;
	while (!found && getline(&line, &room, file) > 0) {
		unsigned a, b;
		char *point = NULL;

		if (sscanf(line, "%*u %*u %u:%u %*s %ms", &a, &b, &point) == 3 &&
			makedev(a, b) == number) {
			snprintf(where, size, "%s", point);
			found = true;
		}
		free(point);
	}
	free(line);
	fclose(file);
	return found;
}

static bool
is_swap(dev_t number)
{
	FILE *file = fopen("/proc/swaps", "re");
	char path[256];
	bool found = false;

	if (!file)
		return false;
	while (!found && fscanf(file, "%255s%*[^\n]", path) == 1) {
		struct stat st;

		found = stat(path, &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == number;
	}
	fclose(file);
	return found;
}

/* A device made of this one: dm, md. */
static bool
find_holder(dev_t number, char *name, size_t size)
{
	char path[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(number), minor(number));
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir)))
		if (entry->d_name[0] != '.') {
			snprintf(name, size, "%.60s", entry->d_name);
			found = true;
		}
	closedir(dir);
	return found;
}

static bool
has_open(const char *pid, dev_t number)
{
	char path[300];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		struct stat st;

		found = fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && S_ISBLK(st.st_mode) &&
			st.st_rdev == number;
	}
	closedir(dir);
	return found;
}

/* As far as we may look: root sees all. */
static bool
find_process(dev_t number, char *text, size_t size)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	bool found = false;

	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		char path[300], name[32] = "a process";
		FILE *file;

		if (!isdigit((unsigned char)entry->d_name[0]) || !has_open(entry->d_name, number))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (file) {
			if (fgets(name, sizeof(name), file))
				name[strcspn(name, "\n")] = '\0';
			fclose(file);
		}
		snprintf(text, size, "is in use by %s, pid %s", name, entry->d_name);
		found = true;
	}
	closedir(dir);
	return found;
}

static bool
find_user(dev_t number, char *text, size_t size)
{
	char other[128];

	if (find_mount(number, other, sizeof(other)))
		snprintf(text, size, "is mounted on %s", other);
	else if (is_swap(number))
		snprintf(text, size, "is used as swap");
	else if (find_holder(number, other, sizeof(other)))
		snprintf(text, size, "is part of %s", other);
	else
		return find_process(number, text, size);
	return true;
}

static bool
read_number(const char *path, dev_t *number)
{
	FILE *file = fopen(path, "re");
	unsigned a, b;
	bool read;

	if (!file)
		return false;
	read = fscanf(file, "%u:%u", &a, &b) == 2;
	fclose(file);
	if (read)
		*number = makedev(a, b);
	return read;
}

/* The disk's partitions are directories beside its queue. */
static bool
find_partition_user(dev_t disk, char *text, size_t size)
{
	char base[64], path[400], user[200];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(base, sizeof(base), "/sys/dev/block/%u:%u", major(disk), minor(disk));
	dir = opendir(base);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		dev_t number;

		snprintf(path, sizeof(path), "%s/%s/partition", base, entry->d_name);
		if (entry->d_name[0] == '.' || access(path, F_OK) < 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s/dev", base, entry->d_name);
		if (!read_number(path, &number) || !find_user(number, user, sizeof(user)))
			continue;
		snprintf(text, size, "has a partition, %.40s, that %s", entry->d_name, user);
		found = true;
	}
	closedir(dir);
	return found;
}

const char *
device_user(dev_t number, char *text, size_t size)
{
	char path[80], user[200];
	dev_t disk;

	if (find_user(number, text, size) || find_partition_user(number, text, size))
		return text;
	snprintf(
		path, sizeof(path), "/sys/dev/block/%u:%u/partition", major(number), minor(number));
	if (access(path, F_OK) == 0) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../dev", major(number),
			minor(number));
		if (read_number(path, &disk) && find_user(disk, user, sizeof(user))) {
			snprintf(text, size, "is part of a disk that %s", user);
			return text;
		}
	}
	snprintf(text, size, "is in use");
	return text;
}
