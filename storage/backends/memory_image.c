/*
 * Memory volumes to and from raw files. Loading follows the file's data and leaves out what is
 * zero; saving writes only pages that hold data, into a new file beside the old one, which takes
 * its name when it is durable.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory.h"
#include "../storage.h"

static int
fail(struct error *error, const char *path, const char *what)
{
	int rc = -errno;

	return error_set(error, rc, "%s: %s%s", path, what, strerror(-rc));
}

/* The descriptor of a regular file, or -errno with *error. */
static int
open_image(const char *path, uint64_t *size, struct error *error)
{
	/* A FIFO must not keep us waiting. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	int rc;

	if (fd < 0)
		return fail(error, path, "");
	if (fstat(fd, &st) < 0)
		rc = fail(error, path, "");
	else if (!S_ISREG(st.st_mode))
		rc = error_set(error, -EINVAL, "%s is not a regular file", path);
	else {
		*size = (uint64_t)st.st_size;
		return fd;
	}
	close(fd);
	return rc;
}

/* All of it; what the file has not (any more) are zeroes. 0 or -errno. */
static int
read_piece(int fd, uint8_t *data, size_t length, uint64_t offset)
{
	while (length) {
		ssize_t n = pread(fd, data, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) {
			memset(data, 0, length);
			return 0;
		}
		data += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

static bool
is_zero_page(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, CHUNK_PAGE - 1) == 0;
}

/* A chunk's worth of data into the empty chunk at `offset`. Nobody else has the volume yet. */
static bool
take_chunk(struct memory *memory, uint64_t offset, const uint8_t data[CHUNK_SIZE])
{
	struct span span = first_span(offset, CHUNK_SIZE);
	struct stripe *stripe = tree_stripe(&memory->tree, span.leaf);
	struct chunk_entry *entry = NULL;
	bool done = true;

	pthread_mutex_lock(&stripe->lock);
	for (unsigned page = 0; done && page < CHUNK_PAGES; page++) {
		const uint8_t *from = data + page * CHUNK_PAGE;

		if (is_zero_page(from))
			continue;
		if (!entry)
			entry = memory_entry(memory, &span);
		done = entry != NULL;
		if (done) {
			memcpy(memory_chunk(memory, entry) + page * CHUNK_PAGE, from, CHUNK_PAGE);
			entry->pages |= (uint16_t)(1u << page);
		}
	}
	pthread_mutex_unlock(&stripe->lock);
	return done;
}

/* From the file's data that begins at or behind `offset`. */
static int
load_data(struct memory *memory, int fd, const char *path, uint64_t size, uint8_t *buffer,
	struct error *error)
{
	for (uint64_t offset = 0; offset < size; offset += CHUNK_SIZE) {
		off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
		size_t length;
		int rc;

		if (data < 0 && errno == ENXIO)
			return 0;
		/* The file may grow meanwhile: what is behind its old end is not for this volume. */
		if (data >= (off_t)size)
			return 0;
		if (data > (off_t)offset)
			offset = round_down((uint64_t)data, CHUNK_SIZE);
		length = (size_t)min_u64(CHUNK_SIZE, size - offset);
		rc = read_piece(fd, buffer, length, offset);
		memset(buffer + length, 0, CHUNK_SIZE - length);
		if (rc)
			return error_set(error, rc, "%s: %s", path, strerror(-rc));
		if (!take_chunk(memory, offset, buffer))
			return error_set(error, -ENOSPC,
				"%s does not fit into the memory that the volume may have", path);
	}
	return 0;
}

int
memory_image_load(struct memory *memory, const char *path, struct error *error)
{
	uint64_t size = 0;
	int fd = open_image(path, &size, error);
	uint8_t *buffer;
	int rc;

	if (fd < 0)
		return fd;
	buffer = malloc(CHUNK_SIZE);
	if (size > memory->size)
		rc = error_set(error, -EFBIG,
			"%s has %" PRIu64 " bytes, more than the volume's %" PRIu64, path, size,
			(uint64_t)memory->size);
	else if (!buffer)
		rc = error_set(error, -ENOMEM, "no memory");
	else
		rc = load_data(memory, fd, path, size, buffer, error);
	free(buffer);
	close(fd);
	return rc;
}

static int
write_piece(int fd, const uint8_t *data, size_t length, uint64_t offset)
{
	while (length) {
		ssize_t n = pwrite(fd, data, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

/* A copy of the chunk's entry and data. False: it has none. */
static bool
copy_chunk(struct memory *memory, uint64_t leaf, unsigned slot, struct chunk_entry *entry,
	uint8_t buffer[CHUNK_SIZE])
{
	struct stripe *stripe = tree_stripe(&memory->tree, leaf);
	struct memory_node *node;

	pthread_mutex_lock(&stripe->lock);
	node = tree_find(&memory->tree, leaf);
	*entry = node ? node->entry[slot] : (struct chunk_entry){0};
	if (entry->pages)
		memcpy(buffer, memory_chunk(memory, entry), CHUNK_SIZE);
	pthread_mutex_unlock(&stripe->lock);
	return entry->pages;
}

/* The pages that hold data, as many at once as follow each other. */
static int
write_chunk(int fd, uint64_t offset, uint64_t size, uint16_t pages, const uint8_t *buffer)
{
	unsigned page = 0;

	while (page < CHUNK_PAGES) {
		unsigned first = page;
		uint64_t from = offset + first * CHUNK_PAGE, to;
		int rc;

		if (!(pages & 1u << page)) {
			page++;
			continue;
		}
		while (page < CHUNK_PAGES && pages & 1u << page)
			page++;
		to = min_u64(offset + page * CHUNK_PAGE, size);
		rc = from < to ? write_piece(fd, buffer + first * CHUNK_PAGE, to - from, from) : 0;
		if (rc)
			return rc;
	}
	return 0;
}

static int
save_leaf(struct memory *memory, int fd, uint64_t leaf, uint8_t *buffer)
{
	for (unsigned slot = 0; slot < NODE_SLOTS; slot++) {
		uint64_t offset = leaf * LEAF_SIZE + slot * CHUNK_SIZE;
		struct chunk_entry entry;
		int rc;

		if (!copy_chunk(memory, leaf, slot, &entry, buffer))
			continue;
		rc = write_chunk(fd, offset, memory->size, entry.pages, buffer);
		if (rc)
			return rc;
	}
	return 0;
}

/* Stripe by stripe: the file is written in strides of 256 MiB, but only once. */
static int
save_data(struct memory *memory, int fd)
{
	uint8_t *buffer = malloc(CHUNK_SIZE);
	int rc = buffer ? 0 : -ENOMEM;

	for (unsigned i = 0; !rc && i < STRIPES; i++) {
		struct stripe *stripe = &memory->tree.stripe[i];
		struct memory_node *leaf;
		uint64_t number = i;

		do {
			pthread_mutex_lock(&stripe->lock);
			leaf = tree_next(&memory->tree, &number);
			pthread_mutex_unlock(&stripe->lock);
			if (leaf)
				rc = save_leaf(memory, fd, number, buffer);
			number += STRIPES;
		} while (leaf && !rc);
	}
	free(buffer);
	if (!rc && ftruncate(fd, (off_t)memory->size) < 0)
		rc = -errno;
	if (!rc && fsync(fd) < 0)
		rc = -errno;
	return rc;
}

/* The new name must outlive a crash. */
static int
sync_directory(const char *path)
{
	char *copy = strdup(path);
	int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int rc = !copy ? -ENOMEM : fd < 0 || fsync(fd) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	free(copy);
	return rc;
}

int
memory_image_save(struct memory *memory, const char *path, struct error *error)
{
	char *new_path;
	struct stat st;
	int fd, rc;

	/* Not over a device, a directory or a FIFO. */
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return error_set(error, -EINVAL, "%s is not a regular file", path);
	if (asprintf(&new_path, "%s.XXXXXX", path) < 0)
		return error_set(error, -ENOMEM, "no memory");
	fd = mkostemp(new_path, O_CLOEXEC);
	if (fd < 0) {
		rc = fail(error, path, "cannot create a file beside it: ");
		free(new_path);
		return rc;
	}
	rc = save_data(memory, fd);
	if (close(fd) < 0 && !rc)
		rc = -errno;
	if (!rc && rename(new_path, path) < 0)
		rc = -errno;
	if (rc)
		unlink(new_path);
	else
		rc = sync_directory(path);
	free(new_path);
	return rc ? error_set(error, rc, "%s: %s", path, strerror(-rc)) : 0;
}
