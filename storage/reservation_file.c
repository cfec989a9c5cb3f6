/*
 * Reservations that survive: one small file of text for each volume, replaced whole. A change is
 * told done after the new file, its name and its directory are on the disk; whatever ends the
 * server before, or takes the power away, leaves the old file or the new one, never a part.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reservation.h"
#include "storage.h"

#define FILE_HEAD "slabd reservations 1"
#define FILE_MAX  (LIMIT_RESERVATIONS * (2 * RESERVATION_NAME + 64) + 256)
#define FILE_NAME (LIMIT_VOLUME_NAME + 32)

static char *directory;

int
reservation_directory(const char *path)
{
	free(directory);
	directory = path ? strdup(path) : NULL;
	return path && !directory ? -ENOMEM : 0;
}

bool
reservation_can_survive(void)
{
	return directory;
}

static uint64_t
sum_of(const char *text, size_t length)
{
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3;
	return hash;
}

/* Saving */

static int
fail(struct error *error, const char *what, const char *name)
{
	int rc = -errno;

	return error_set(error, rc, "%s %s/%s: %s", what, directory, name, strerror(-rc));
}

static int
write_whole(int fd, const char *text, size_t length)
{
	while (length) {
		ssize_t n = write(fd, text, length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		text += n;
		length -= (size_t)n;
	}
	return 0;
}

static int
replace_file(int dir, const char *name, const char *text, size_t length, struct error *error)
{
	char fresh[FILE_NAME + 8];
	int fd, rc = 0;

	snprintf(fresh, sizeof(fresh), "%s.new", name);
	fd = openat(dir, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail(error, "cannot create", fresh);
	if (write_whole(fd, text, length) < 0)
		rc = fail(error, "cannot write", fresh);
	else if (fsync(fd) < 0)
		rc = fail(error, "cannot sync", fresh);
	if (close(fd) < 0 && rc == 0)
		rc = fail(error, "cannot close", fresh);
	if (rc == 0 && renameat(dir, fresh, dir, name) < 0)
		rc = fail(error, "cannot replace", name);
	if (rc < 0)
		unlinkat(dir, fresh, 0);
	return rc;
}

static size_t
print_reservation(const struct reservation *r, char *text, size_t size)
{
	size_t length;

	length = (size_t)snprintf(
		text, size, FILE_HEAD "\n%u %u %u\n", (unsigned)r->type, r->holder, r->count);
	for (unsigned i = 0; i < r->count; i++) {
		const struct registration *g = &r->registrations[i];

		length += (size_t)snprintf(text + length, size - length,
			"%016" PRIx64 " %u %u %s %s\n", g->key, (unsigned)g->all_ports,
			(unsigned)g->port_id, g->initiator, g->port);
	}
	return length + (size_t)snprintf(text + length, size - length, "%016" PRIx64 "\n",
				sum_of(text, length));
}

/* The directory is new: its own name must be on the disk too. */
static int
sync_parent(int dir, struct error *error)
{
	int parent = openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (parent < 0)
		return fail(error, "cannot open", "..");
	if (fsync(parent) < 0)
		rc = fail(error, "cannot sync", "..");
	close(parent);
	return rc;
}

int
reservation_save(const char *volume, const struct reservation *r, struct error *error)
{
	bool keep = r->survives && r->count;
	char name[FILE_NAME], *text = malloc(FILE_MAX);
	int dir, rc = 0;
	bool made;

	if (!text)
		return error_set(error, -ENOMEM, "no memory");
	snprintf(name, sizeof(name), "%s.reservations", volume);
	made = mkdir(directory, 0700) == 0;
	if (!made && errno != EEXIST) {
		rc = fail(error, "cannot make the directory of", name);
		goto out;
	}
	dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		rc = fail(error, "cannot open the directory of", name);
		goto out;
	}
	if (keep)
		rc = replace_file(dir, name, text, print_reservation(r, text, FILE_MAX), error);
	else if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
		rc = fail(error, "cannot remove", name);
	if (rc == 0 && fsync(dir) < 0)
		rc = fail(error, "cannot sync the directory of", name);
	if (rc == 0 && made)
		rc = sync_parent(dir, error);
	close(dir);
out:
	free(text);
	return rc;
}

/* Loading */

/* The next line, without its end; NULL: there is none. */
static char *
take_line(char **at)
{
	char *line = *at, *end = strchr(line, '\n');

	if (!end)
		return NULL;
	*end = '\0';
	*at = end + 1;
	return line;
}

static bool
parse_registration(const char *line, struct registration *g)
{
	unsigned all, port;

	if (!line || sscanf(line, "%16" SCNx64 " %u %u %255s %255s", &g->key, &all, &port,
			     g->initiator, g->port) != 5)
		return false;
	g->all_ports = all != 0;
	g->port_id = (uint16_t)port;
	return g->key != 0 && all <= 1 && port <= UINT16_MAX;
}
_Static_assert(RESERVATION_NAME == 256, "the widths above");

static bool
parse_reservation(char *text, size_t length, struct reservation *r)
{
	char *at = text, *line;
	unsigned type;
	uint64_t sum;

	/* The last line is the sum of all before it. */
	if (length < 18 || text[length - 1] != '\n' || strlen(text) != length ||
		sscanf(text + length - 17, "%16" SCNx64, &sum) != 1 ||
		sum != sum_of(text, length - 17))
		return false;
	line = take_line(&at);
	if (!line || strcmp(line, FILE_HEAD) != 0)
		return false;
	line = take_line(&at);
	if (!line || sscanf(line, "%u %u %u", &type, &r->holder, &r->count) != 3)
		return false;
	if (type > RESERVATION_EXCLUSIVE_ACCESS_AR || type == 2 || type == 4 || r->count == 0 ||
		r->count > LIMIT_RESERVATIONS || r->holder >= r->count)
		return false;
	r->type = (enum reservation_type)type;
	r->survives = true;
	for (unsigned i = 0; i < r->count; i++) {
		if (!parse_registration(take_line(&at), &r->registrations[i]))
			return false;
	}
	return (size_t)(at - text) == length - 17;
}

int
reservation_load(const char *volume, struct reservation *r, struct error *error)
{
	char name[FILE_NAME], *path = NULL, *text = NULL;
	size_t length;
	FILE *file;
	int rc = 0;

	if (!directory)
		return 0;
	snprintf(name, sizeof(name), "%s.reservations", volume);
	if (asprintf(&path, "%s/%s", directory, name) < 0)
		return error_set(error, -ENOMEM, "no memory");
	file = fopen(path, "re");
	free(path);
	if (!file)
		return errno == ENOENT || errno == ENOTDIR ? 0 : fail(error, "cannot read", name);
	text = malloc(FILE_MAX + 1);
	if (!text) {
		rc = error_set(error, -ENOMEM, "no memory");
		goto out;
	}
	length = fread(text, 1, FILE_MAX, file);
	text[length] = '\0';
	if (ferror(file))
		rc = fail(error, "cannot read", name);
	else if (!parse_reservation(text, length, r))
		/* To go on without it would let in who is fenced off. */
		rc = error_set(error, -EINVAL,
			"%s/%s: not a file of reservations as slabd writes it; remove it to start "
			"without them",
			directory, name);
	else
		rc = 1;
out:
	free(text);
	fclose(file);
	return rc;
}
