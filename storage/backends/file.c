/*
 * Files, sparse or preallocated, through the page cache or past it. One open file description for the
 * volume's life, locked against others, synced once before the first client (promises section 3). A
 * file that has become shorter under us is an error, not zeroes: what was there is lost, and growing
 * it again would hide that.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "file_extents.h"
#include "image.h"
#include "qualities.h"
#include "../uring.h"

/* Of one PREFETCH, and of one advice: the least that Linux reads ahead by default. */
#define PREFETCH_MAX  (256 * MIB)
#define PREFETCH_STEP (128 * KIB)

struct file {
	struct image image;
	struct qualities qualities;
	bool preallocated; /* every block, for good: nothing is punched */
	uint32_t block_size;
	atomic_bool no_zero, no_punch;
};

/* What stands in the way of opening this; NULL: it is a regular file. */
static const char *
kind_of(mode_t mode)
{
	if (S_ISREG(mode))
		return NULL;
	if (S_ISDIR(mode))
		return "is a directory, not a file";
	if (S_ISFIFO(mode))
		return "is a FIFO, not a file";
	if (S_ISSOCK(mode))
		return "is a socket, not a file";
	if (S_ISBLK(mode))
		return "is a block device, not a file (say device: instead of file:)";
	return "is a device, not a file";
}

/* The name of a new file is durable when its directory is synced. Where that cannot be done it is
 * not. */
static void
sync_directory(const char *path)
{
	char *copy = strdup(path);
	int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	free(copy);
}

/* Takes the blocks of the whole file from the file system now. Never posix_fallocate: it would write
 * them where the file system cannot. */
static int
allocate_blocks(const struct file *file, uint64_t size, struct error *error)
{
	while (fallocate(file->image.fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size) < 0)
		if (errno != EINTR) {
			int rc = -errno;

			return error_set(error, rc, "%s: cannot preallocate %" PRIu64 " bytes: %s",
				file->image.path, size, strerror(-rc));
		}
	return 0;
}

static int
create_file(struct file *file, const struct conf_volume *conf, struct error *error)
{
	int rc;

	file->image.fd = open(conf->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (file->image.fd < 0) {
		rc = -errno;
		return error_set(error, rc, "%s: cannot create it: %s", conf->path, strerror(-rc));
	}
	if (ftruncate(file->image.fd, (off_t)conf->size) < 0) {
		rc = -errno;
		return error_set(error, rc, "%s: cannot make it %" PRIu64 " bytes long: %s",
			conf->path, conf->size, strerror(-rc));
	}
	sync_directory(conf->path);
	return 0;
}

/* The descriptor, or -errno with *error. */
static int
open_existing(const char *path, bool read_only, struct error *error)
{
	const char *kind;
	struct stat st;
	int fd, rc;

	/* Looked at first: opening a device or FIFO may do things. */
	if (stat(path, &st) < 0) {
		rc = -errno;
		return error_set(error, rc, "%s: %s", path, strerror(-rc));
	}
	kind = kind_of(st.st_mode);
	if (kind)
		return error_set(error, -EINVAL, "%s %s", path, kind);
	fd = open(path, O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (read_only ? O_RDONLY : O_RDWR));
	if (fd < 0) {
		rc = -errno;
		return error_set(error, rc, "%s: %s", path, strerror(-rc));
	}
	return fd;
}

/* *created: it was not there before, and is to be removed if anything fails. */
static int
open_or_create(
	struct file *file, const struct conf_volume *conf, bool *created, struct error *error)
{
	int fd = open_existing(conf->path, conf->read_only, error);
	int rc;

	*created = false;
	if (fd >= 0) {
		file->image.fd = fd;
		return 0;
	}
	if (fd != -ENOENT)
		return fd;
	if (conf->size && !conf->read_only) {
		rc = create_file(file, conf, error);
		*created = file->image.fd >= 0;
		return rc;
	}
	return error_set(error, fd, "%s: %s%s", conf->path, strerror(-fd),
		conf->size        ? " (read_only: it is not created)"
		: conf->read_only ? ""
				  : " (give size= to create it)");
}

static int
lock_file(int fd, const char *path, bool read_only, struct error *error)
{
	struct flock lock = {
		.l_type = (short)(read_only ? F_RDLCK : F_WRLCK), .l_whence = SEEK_SET};
	int rc;

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	rc = -errno;
	if (rc != -EAGAIN && rc != -EACCES)
		return error_set(error, rc, "%s: cannot lock it: %s", path, strerror(-rc));
	/* The owner of another OFD lock is not told; of an older kind of lock it is. */
	if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0)
		return error_set(error, -EBUSY, "%s: in use by process %d", path, (int)lock.l_pid);
	return error_set(error, -EBUSY, "%s: in use by another volume or process", path);
}

static int
check_file(struct file *file, const struct conf_volume *conf, struct blk_info *info,
	struct error *error)
{
	const char *path = file->image.path, *kind;
	struct stat st;
	uint64_t size;

	if (fstat(file->image.fd, &st) < 0)
		return error_set(error, -errno, "%s: %s", path, strerror(errno));
	kind = kind_of(st.st_mode);
	if (kind)
		return error_set(error, -EINVAL, "%s %s", path, kind);
	size = (uint64_t)st.st_size;
	if (conf->size && size != conf->size)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes, but size= says %" PRIu64
			" (leave it out for a file that exists)",
			path, size, conf->size);
	if (size == 0)
		return error_set(error, -EINVAL,
			"%s is empty (remove it and give size= to create it)", path);
	if (size % info->block_size)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes, not a multiple of the block size %" PRIu32
			" (the next is %" PRIu64 ")",
			path, size, info->block_size, round_up(size, info->block_size));
	if (size > LIMIT_VOLUME_SIZE)
		return error_set(error, -EFBIG, "%s has %" PRIu64 " bytes, more than %" PRIu64,
			path, size, LIMIT_VOLUME_SIZE);
	atomic_store(&file->image.size, size);
	info->size = size;
	info->discard_granularity = (uint32_t)st.st_blksize;
	return 0;
}

/* O_DIRECT as it was asked for: on must be had; auto is on where blocks need no read-modify-write. */
static int
choose_direct(struct file *file, const struct conf_volume *conf, struct blk_info *info,
	struct error *error)
{
	struct image *image = &file->image;
	uint32_t alignment;

	if (conf->direct == CONF_DIRECT_OFF)
		return 0;
	alignment = qualities_direct_alignment(image->fd);
	if (conf->direct == CONF_DIRECT_AUTO &&
		(!alignment || alignment > info->block_size || info->size % alignment))
		return 0;
	if (!alignment)
		return error_set(error, -EINVAL,
			"%s: direct=on: the file system has no O_DIRECT (auto takes it where it can be had)",
			image->path);
	if (info->size % alignment)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes, not a multiple of the %" PRIu32
			" that O_DIRECT needs here (the next is %" PRIu64 ")",
			image->path, info->size, alignment, round_up(info->size, alignment));
	image->direct = true;
	info->alignment = alignment;
	if (info->physical_block_size < alignment)
		info->physical_block_size = alignment;
	return 0;
}

/* The description's own flags, as open() would have set them. */
static int
set_direct(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0 ? -errno : 0;
}

/* What was found out becomes what is promised. */
static void
promise(struct file *file, struct blk_info *info)
{
	const struct qualities *q = &file->qualities;
	bool punches = q->punch_hole && !file->preallocated;

	image_promise(&file->image, info);
	atomic_store(&file->no_punch, !punches);
	atomic_store(&file->no_zero, !q->zero_range);
	if (!punches)
		info->discard_granularity = 0;
	info->sparse = q->seek_hole;
	info->fast_zero = punches || q->zero_range;
}

static int
prepare_file(struct file *file, const struct conf_volume *conf, struct blk_info *info,
	struct error *error)
{
	struct image *image = &file->image;
	int rc = lock_file(image->fd, image->path, conf->read_only, error);

	if (!rc)
		rc = check_file(file, conf, info, error);
	if (!rc)
		rc = choose_direct(file, conf, info, error);
	if (rc)
		return rc;
	file->block_size = info->block_size;
	file->preallocated = conf->prealloc && !conf->read_only;
	if (file->preallocated)
		rc = allocate_blocks(file, info->size, error);
	if (!rc && image->direct && (rc = set_direct(image->fd)) < 0)
		error_set(error, rc, "%s: O_DIRECT: %s", image->path, strerror(-rc));
	/* What an earlier failure left behind shows now, not after the first client's flush. */
	if (!rc && fdatasync(image->fd) < 0) {
		rc = -errno;
		error_set(error, rc, "%s: sync failed: %s", image->path, strerror(-rc));
	}
	if (rc)
		return rc;
	qualities_probe(image->path, &file->qualities);
	promise(file, info);
	return 0;
}

static int
open_file(const struct conf_volume *conf, struct blk_info *info, void **state, struct error *error)
{
	struct file *file;
	bool created = false;
	int rc;

	if (!conf->path || !conf->path[0])
		return error_set(error, -EINVAL, "needs a path: %s=file:/srv/%s.img", conf->name,
			conf->name);
	file = calloc(1, sizeof(*file));
	if (!file)
		return error_set(error, -ENOMEM, "no memory");
	rc = image_init(&file->image, conf, error);
	if (!rc)
		rc = open_or_create(file, conf, &created, error);
	if (!rc)
		rc = prepare_file(file, conf, info, error);
	if (!rc) {
		*state = file;
		return 0;
	}
	if (created)
		unlink(conf->path);
	image_free(&file->image);
	free(file);
	return rc;
}

static void
close_file(void *state)
{
	struct file *file = state;

	/* Nobody is left to be told, but people. */
	if (fdatasync(file->image.fd) < 0)
		log_error("volume %s: %s: sync at close failed: %s", file->image.volume,
			file->image.path, strerror(errno));
	image_free(&file->image);
	free(file);
}

static int
punch_file(struct file *file, uint64_t offset, uint64_t length)
{
	int rc;

	if (atomic_load_explicit(&file->no_punch, memory_order_relaxed))
		return -ENOTSUP;
	rc = image_fallocate(
		&file->image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
	if (rc == -ENOTSUP)
		atomic_store(&file->no_punch, true);
	return rc;
}

static int
zero_file(void *state, uint64_t offset, uint64_t length, unsigned flags)
{
	struct file *file = state;
	int rc = -ENOTSUP;

	if (flags & BLK_MAY_UNMAP)
		rc = punch_file(file, offset, length);
	if (rc != -ENOTSUP || atomic_load_explicit(&file->no_zero, memory_order_relaxed))
		return rc;
	rc = image_fallocate(
		&file->image, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
	if (rc == -ENOTSUP)
		atomic_store(&file->no_zero, true);
	return rc;
}

static int
discard_file(void *state, uint64_t offset, uint64_t length)
{
	int rc = punch_file(state, offset, length);

	return rc == -ENOTSUP ? 0 : rc;
}

static int
file_extents(void *state, uint64_t offset, uint64_t length, struct blk_extent *extents,
	unsigned *nextents)
{
	struct file *file = state;
	int rc = image_check_end(&file->image);

	if (rc)
		return rc;
	rc = file_extents_find(file->image.fd, offset, length, extents, nextents);
	return rc ? image_errno(&file->image, -rc) : 0;
}

static int
prefetch_file(void *state, uint64_t offset, uint64_t length)
{
	struct file *file = state;

	uint64_t end = offset + min_u64(length, PREFETCH_MAX);

	/* Advice: nothing depends on it. The kernel takes no more of it at once than it reads ahead. */
	for (; offset < end; offset += PREFETCH_STEP)
		posix_fadvise(file->image.fd, (off_t)offset,
			(off_t)min_u64(end - offset, PREFETCH_STEP), POSIX_FADV_WILLNEED);
	return 0;
}

static int
resize_file(void *state, uint64_t size, struct error *error)
{
	struct file *file = state;
	struct image *image = &file->image;
	uint64_t before = atomic_load(&image->size);
	int rc;

	if (file->image.direct && size % qualities_direct_alignment(image->fd))
		return error_set(error, -EINVAL,
			"size %" PRIu64 " is not a multiple of the %" PRIu32
			" that O_DIRECT needs here",
			size, qualities_direct_alignment(image->fd));
	/* Somebody's shortening is not to be hidden. */
	if (image_check_end(image) != 0)
		return error_set(error, -EIO, "%s is shorter than the %" PRIu64 " bytes it had",
			image->path, before);
	if (file->preallocated && size > before) {
		rc = allocate_blocks(file, size, error);
		if (rc)
			return rc;
	}
	/* A file that ends earlier than it should fails every request: what is smaller comes first. */
	if (size < before)
		atomic_store(&image->size, size);
	if (ftruncate(image->fd, (off_t)size) < 0) {
		rc = -errno;
		atomic_store(&image->size, before);
		return error_set(error, rc, "%s: cannot make it %" PRIu64 " bytes long: %s",
			image->path, size, strerror(-rc));
	}
	atomic_store(&image->size, size);
	return 0;
}

/* promises section 3 (4): a new description, whose first sync shows what is still wrong. */
static int
reopen_file(void *state, uint64_t least, uint64_t *size, struct error *error)
{
	struct file *file = state;
	struct image *image = &file->image;
	int fd, rc;

	/* Its lock goes with it. */
	image_replace(image, -1);
	fd = open_existing(image->path, image->read_only, error);
	if (fd < 0)
		return fd;
	rc = lock_file(fd, image->path, image->read_only, error);
	if (!rc && image->direct && (rc = set_direct(fd)) < 0)
		error_set(error, rc, "%s: O_DIRECT: %s", image->path, strerror(-rc));
	if (rc) {
		close(fd);
		return rc;
	}
	return image_resume(image, fd, least, size, error);
}

static uint64_t
file_allocated(void *state)
{
	const struct file *file = state;
	struct stat st;

	return fstat(file->image.fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

static void
describe_file(void *state, char *text, size_t size)
{
	const struct file *file = state;
	char can[80];

	qualities_describe(&file->qualities, can, sizeof(can));
	snprintf(text, size, "%s, %s%s%s%s", file->image.path,
		file->image.direct ? "O_DIRECT" : "page cache",
		file->image.ring ? ", io_uring" : ", workers",
		file->preallocated ? ", preallocated" : "", can);
}

const struct blk_driver file_driver = {
	.name = "file",
	.argument = "path",
	.open = open_file,
	.close = close_file,
	.submit = image_submit,
	.cancel = image_cancel,
	.read = image_read,
	.write = image_write,
	.flush = image_flush,
	.zero = zero_file,
	.discard = discard_file,
	.extents = file_extents,
	.prefetch = prefetch_file,
	.resize = resize_file,
	.reopen = reopen_file,
	.allocated = file_allocated,
	.describe = describe_file,
};
