/*
 * SEEK_DATA and SEEK_HOLE tell data from what reads as zeroes, the page cache included. A hole of
 * theirs may still have its blocks: allocated and never written, as ZERO without MAY_UNMAP leaves
 * them. FIEMAP tells those, where the file system has it.
 */
#include "config.h"

#include "file_extents.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "bytes.h"
#include "check.h"

#define MAPPED_MAX 32 /* of one ioctl */

struct list {
	struct blk_extent *extents;
	unsigned count, most;
};

/* False: there is no room for another. */
static bool
add_extent(struct list *list, uint64_t length, uint32_t flags)
{
	if (list->count && list->extents[list->count - 1].flags == flags) {
		list->extents[list->count - 1].length += length;
		return true;
	}
	if (list->count == list->most)
		return false;
	list->extents[list->count++] = (struct blk_extent){.length = length, .flags = flags};
	return true;
}

/* [at, to) reads as zeroes. *at moves as far as is told. */
static bool
add_zeroes(int fd, struct list *list, uint64_t *at, uint64_t to)
{
	union {
		struct fiemap map;
		uint8_t room[sizeof(struct fiemap) + MAPPED_MAX * sizeof(struct fiemap_extent)];
	} u;
	const struct fiemap_extent *mapped = u.map.fm_extents;
	uint64_t from = *at, end;

	memset(&u.map, 0, sizeof(u.map));
	u.map.fm_start = *at;
	u.map.fm_length = to - *at;
	u.map.fm_extent_count = MAPPED_MAX;
	if (ioctl(fd, FS_IOC_FIEMAP, &u.map) < 0)
		u.map.fm_mapped_extents = 0;
	for (unsigned i = 0; i < u.map.fm_mapped_extents && *at < to; i++) {
		if (mapped[i].fe_logical > *at) {
			end = min_u64(mapped[i].fe_logical, to);
			if (!add_extent(list, end - *at, BLK_HOLE | BLK_ZEROES))
				return false;
			*at = end;
		}
		end = min_u64(mapped[i].fe_logical + mapped[i].fe_length, to);
		if (end <= *at)
			continue;
		if (!add_extent(list, end - *at, BLK_ZEROES))
			return false;
		*at = end;
	}
	/* More may follow than fit: asked for again from here. */
	if (*at == to || (u.map.fm_mapped_extents == MAPPED_MAX && *at > from))
		return true;
	if (!add_extent(list, to - *at, BLK_HOLE | BLK_ZEROES))
		return false;
	*at = to;
	return true;
}

int
file_extents_find(
	int fd, uint64_t offset, uint64_t length, struct blk_extent *extents, unsigned *nextents)
{
	struct list list = {.extents = extents, .most = *nextents};
	uint64_t at = offset, end = offset + length, to;
	bool room = true;

	/* lseek moves an offset that nobody else uses. */
	while (room && at < end) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;

		if (data < 0 && errno != ENXIO)
			return -errno;
		if (data < 0 || (uint64_t)data > at) {
			to = data < 0 ? end : min_u64(end, (uint64_t)data);
			room = add_zeroes(fd, &list, &at, to);
			continue;
		}
		hole = lseek(fd, (off_t)at, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		/* Somebody else may change the file between the two looks. */
		to = (uint64_t)hole <= at ? end : min_u64(end, (uint64_t)hole);
		room = add_extent(&list, to - at, 0);
		at = to;
	}
	*nextents = list.count;
	return 0;
}
