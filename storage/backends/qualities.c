#include "config.h"

#include "qualities.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "limits.h"

#define PROBE_SIZE (256 * KIB)
#define PROBE_DATA 4096

/* Without a name, so that nothing is left whatever happens. Some file systems cannot: unlinked. */
static int
make_probe(const char *directory)
{
	char path[4096];
	int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0)
		return fd;
	if ((size_t)snprintf(path, sizeof(path), "%s/.slabd-probe-XXXXXX", directory) >=
		sizeof(path))
		return -1;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	return fd;
}

static bool
can_fallocate(int fd, int mode)
{
	return fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, 0, PROBE_DATA) == 0 ||
	       (errno != EOPNOTSUPP && errno != ENOSYS);
}

static bool
can_clone(int fd, const char *directory)
{
	int copy = make_probe(directory);
	bool can;

	if (copy < 0)
		return false;
	can = ioctl(copy, FICLONE, fd) == 0;
	close(copy);
	return can;
}

static void
try_on(int fd, const char *directory, struct qualities *q)
{
	static const char data[PROBE_DATA] = {1};

	/* Data at the end, a hole before it. */
	if (ftruncate(fd, PROBE_SIZE) < 0 ||
		pwrite(fd, data, sizeof(data), PROBE_SIZE - PROBE_DATA) != PROBE_DATA)
		return;
	q->known = true;
	q->seek_hole = lseek(fd, 0, SEEK_HOLE) == 0 && lseek(fd, 0, SEEK_DATA) > 0;
	q->reflink = can_clone(fd, directory);
	q->punch_hole = can_fallocate(fd, FALLOC_FL_PUNCH_HOLE);
	q->zero_range = can_fallocate(fd, FALLOC_FL_ZERO_RANGE);
}

void
qualities_probe(const char *path, struct qualities *q)
{
	char *copy = strdup(path);
	const char *directory = copy ? dirname(copy) : NULL;
	int fd = directory ? make_probe(directory) : -1;

	*q = (struct qualities){.punch_hole = true, .zero_range = true, .seek_hole = true};
	if (fd >= 0) {
		try_on(fd, directory, q);
		close(fd);
	}
	free(copy);
}

void
qualities_describe(const struct qualities *q, char *text, size_t size)
{
	const char *const words[] = {q->punch_hole ? ", punch hole" : NULL,
		q->zero_range ? ", zero range" : NULL, q->seek_hole ? ", holes seen" : NULL,
		q->reflink ? ", reflink" : NULL};
	size_t length = 0;

	text[0] = '\0';
	for (unsigned i = 0; q->known && i < ARRAY_SIZE(words); i++)
		if (words[i] && length + strlen(words[i]) < size)
			length += (size_t)snprintf(text + length, size - length, "%s", words[i]);
}

uint32_t
qualities_direct_alignment(int fd)
{
	uint32_t need = 0;
	struct stat st;
	int flags;

#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && sx.stx_mask & STATX_DIOALIGN)
		need = sx.stx_dio_offset_align > sx.stx_dio_mem_align ? sx.stx_dio_offset_align
								      : sx.stx_dio_mem_align;
	/* Told, and told 0: none. */
	if (!need && sx.stx_mask & STATX_DIOALIGN)
		return 0;
#endif
	/* Who takes the flag and does not say: no file system needs more than its block. */
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0)
		return 0;
	fcntl(fd, F_SETFL, flags);
	if (!need && fstat(fd, &st) == 0)
		need = (uint32_t)(st.st_blksize > 512 ? st.st_blksize : 512);
	if (need < 512)
		need = 512;
	return need & (need - 1) || need > 64 * KIB ? 0 : need;
}
