/*
 * Buffered files, sparse. One open file description for the volume's life, locked against others,
 * synced once before the first client (promises section 3). A file that has become shorter under us
 * is an error, not zeroes: what was there is lost, and growing it again would hide that.
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

#include "bytes.h"
#include "check.h"
#include "../storage.h"

/* Above this a copy from the page cache takes the loop too long. */
#define INLINE_READ_MAX (256 * KIB)
#define BATCH_IOV       64

/* Of one PREFETCH, and of one advice: the least that Linux reads ahead by default. */
#define PREFETCH_MAX  (256 * MIB)
#define PREFETCH_STEP (128 * KIB)

struct file {
	int fd;
	uint64_t size;
	char *path;
	char *volume;
	atomic_bool no_nowait; /* tmpfs refuses RWF_NOWAIT */
	atomic_bool no_zero, no_punch;
	atomic_bool told_short;
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
		return "is a block device, not a file";
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

static int
create_file(struct file *file, const struct conf_volume *conf, struct error *error)
{
	int rc;

	file->fd = open(conf->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (file->fd < 0) {
		rc = -errno;
		return error_set(
			error, rc, "%s: cannot create it: %s", conf->path, strerror(errno));
	}
	if (ftruncate(file->fd, (off_t)conf->size) < 0) {
		rc = -errno;
		return error_set(error, rc, "%s: cannot make it %" PRIu64 " bytes long: %s",
			conf->path, conf->size, strerror(errno));
	}
	sync_directory(conf->path);
	return 0;
}

/* *created: it was not there before, and is to be removed if anything fails. */
static int
open_or_create(
	struct file *file, const struct conf_volume *conf, bool *created, struct error *error)
{
	const char *path = conf->path;
	int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (conf->read_only ? O_RDONLY : O_RDWR);
	const char *kind;
	struct stat st;
	int rc;

	*created = false;
	/* Looked at first: opening a device or FIFO may do things. */
	if (stat(path, &st) < 0) {
		rc = -errno;
		if (rc == -ENOENT && conf->size && !conf->read_only) {
			rc = create_file(file, conf, error);
			*created = file->fd >= 0;
			return rc;
		}
		return error_set(error, rc, "%s: %s%s", path, strerror(-rc),
			rc != -ENOENT     ? ""
			: conf->size      ? " (read_only: it is not created)"
			: conf->read_only ? ""
					  : " (give size= to create it)");
	}
	kind = kind_of(st.st_mode);
	if (kind)
		return error_set(error, -EINVAL, "%s %s", path, kind);
	file->fd = open(path, flags);
	if (file->fd < 0) {
		rc = -errno;
		return error_set(error, rc, "%s: %s", path, strerror(errno));
	}
	return 0;
}

static int
lock_file(const struct file *file, bool read_only, struct error *error)
{
	struct flock lock = {
		.l_type = (short)(read_only ? F_RDLCK : F_WRLCK), .l_whence = SEEK_SET};
	int rc;

	if (fcntl(file->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	rc = -errno;
	if (rc != -EAGAIN && rc != -EACCES)
		return error_set(error, rc, "%s: cannot lock it: %s", file->path, strerror(-rc));
	/* The owner of another OFD lock is not told; of an older kind of lock it is. */
	if (fcntl(file->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0)
		return error_set(
			error, -EBUSY, "%s: in use by process %d", file->path, (int)lock.l_pid);
	return error_set(error, -EBUSY, "%s: in use by another volume or process", file->path);
}

static int
check_file(struct file *file, const struct conf_volume *conf, struct blk_info *info,
	struct error *error)
{
	const char *kind;
	struct stat st;
	uint64_t size;

	if (fstat(file->fd, &st) < 0)
		return error_set(error, -errno, "%s: %s", file->path, strerror(errno));
	kind = kind_of(st.st_mode);
	if (kind)
		return error_set(error, -EINVAL, "%s %s", file->path, kind);
	size = (uint64_t)st.st_size;
	if (conf->size && size != conf->size)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes, but size= says %" PRIu64
			" (leave it out for a file that exists)",
			file->path, size, conf->size);
	if (size == 0)
		return error_set(error, -EINVAL,
			"%s is empty (remove it and give size= to create it)", file->path);
	if (size % info->block_size)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes, not a multiple of the block size %" PRIu32
			" (the next is %" PRIu64 ")",
			file->path, size, info->block_size, round_up(size, info->block_size));
	if (size > LIMIT_VOLUME_SIZE)
		return error_set(error, -EFBIG, "%s has %" PRIu64 " bytes, more than %" PRIu64,
			file->path, size, LIMIT_VOLUME_SIZE);
	file->size = size;
	info->size = size;
	info->discard_granularity = (uint32_t)st.st_blksize;
	return 0;
}

static void
free_file(struct file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	free(file->path);
	free(file->volume);
	free(file);
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
	file->fd = -1;
	file->path = strdup(conf->path);
	file->volume = strdup(conf->name);
	rc = -ENOMEM;
	if (!file->path || !file->volume) {
		error_set(error, rc, "no memory");
		goto fail;
	}
	rc = open_or_create(file, conf, &created, error);
	if (!rc)
		rc = lock_file(file, conf->read_only, error);
	if (!rc)
		rc = check_file(file, conf, info, error);
	if (rc)
		goto fail;
	/* What an earlier failure left behind shows now, not after the first client's flush. */
	if (fdatasync(file->fd) < 0) {
		rc = error_set(error, -errno, "%s: sync failed: %s", file->path, strerror(errno));
		goto fail;
	}
	info->native = 1u << BLK_READ;
	info->volatile_cache = true;
	info->buffered = true;
	info->sparse = true;
	info->fast_zero = true;
	*state = file;
	return 0;

fail:
	if (created)
		unlink(conf->path);
	free_file(file);
	return rc;
}

static void
close_file(void *state)
{
	struct file *file = state;

	/* Nobody is left to be told, but people. */
	if (fdatasync(file->fd) < 0)
		log_error("volume %s: %s: sync at close failed: %s", file->volume, file->path,
			strerror(errno));
	free_file(file);
}

/* The end of the file came before the end of the volume. */
static int
fail_short(struct file *file)
{
	if (!atomic_exchange(&file->told_short, true))
		log_error("volume %s: %s is shorter than the %" PRIu64
			  " bytes it had: somebody truncated it; requests fail",
			file->volume, file->path, file->size);
	return -EIO;
}

/* Before what would make a truncated file grow again. */
static int
check_end(struct file *file)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return -errno;
	return (uint64_t)st.st_size < file->size ? fail_short(file) : 0;
}

/* The errors of block.h for what the kernel may say. */
static int
map_errno(int error)
{
	switch (error) {
	case ENOSPC:
	case EDQUOT:
		return -ENOSPC;
	case ENOMEM:
		return -ENOMEM;
	case EFBIG:
		return -ENOSPC;
	case EOPNOTSUPP:
	case ENOSYS:
		return -ENOTSUP;
	default:
		return -EIO;
	}
}

/* All of [offset, offset + length), however short the kernel's steps are. */
static int
move_all(struct file *file, bool write, const struct iovec *iov, unsigned niov, uint64_t offset,
	uint64_t length)
{
	uint64_t done = 0;

	while (done < length) {
		struct iovec part[BATCH_IOV];
		unsigned n = iov_slice(iov, niov, done, length - done, part, BATCH_IOV, NULL);
		ssize_t moved = write ? pwritev(file->fd, part, (int)n, (off_t)(offset + done))
				      : preadv(file->fd, part, (int)n, (off_t)(offset + done));

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return map_errno(errno);
		if (moved == 0)
			return write ? -ENOSPC : fail_short(file);
		done += (uint64_t)moved;
	}
	return 0;
}

static int
read_file(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length)
{
	return move_all(state, false, iov, niov, offset, length);
}

static int
write_file(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length)
{
	int rc = check_end(state);

	return rc ? rc : move_all(state, true, iov, niov, offset, length);
}

static int
flush_file(void *state)
{
	struct file *file = state;

	return fdatasync(file->fd) < 0 ? (errno == EINTR ? -EINTR : map_errno(errno)) : 0;
}

static int
punch_or_zero(struct file *file, int mode, uint64_t offset, uint64_t length)
{
	int rc = check_end(file);

	if (rc)
		return rc;
	while (fallocate(file->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0)
		if (errno != EINTR)
			return map_errno(errno);
	return 0;
}

static int
punch_file(struct file *file, uint64_t offset, uint64_t length)
{
	int rc;

	if (atomic_load_explicit(&file->no_punch, memory_order_relaxed))
		return -ENOTSUP;
	rc = punch_or_zero(file, FALLOC_FL_PUNCH_HOLE, offset, length);
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
	rc = punch_or_zero(file, FALLOC_FL_ZERO_RANGE, offset, length);
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
	uint64_t at = offset, end = offset + length;
	unsigned n = 0;
	int rc = check_end(file);

	if (rc)
		return rc;
	/* lseek moves an offset that nobody else uses. */
	while (at < end && n < *nextents) {
		off_t data = lseek(file->fd, (off_t)at, SEEK_DATA), to;
		bool hole = data < 0 || (uint64_t)data > at;

		if (data < 0 && errno != ENXIO)
			return map_errno(errno);
		if (hole)
			to = data < 0 ? (off_t)end : data;
		else
			to = lseek(file->fd, (off_t)at, SEEK_HOLE);
		if (to < 0)
			return map_errno(errno);
		/* Somebody else may change the file between the two looks. */
		if ((uint64_t)to <= at || (uint64_t)to > end)
			to = (off_t)end;
		extents[n++] = (struct blk_extent){
			.length = (uint64_t)to - at, .flags = hole ? BLK_HOLE | BLK_ZEROES : 0};
		at = (uint64_t)to;
	}
	*nextents = n;
	return 0;
}

static int
prefetch_file(void *state, uint64_t offset, uint64_t length)
{
	struct file *file = state;

	uint64_t end = offset + min_u64(length, PREFETCH_MAX);

	/* Advice: nothing depends on it. The kernel takes no more of it at once than it reads ahead. */
	for (; offset < end; offset += PREFETCH_STEP)
		posix_fadvise(file->fd, (off_t)offset, (off_t)min_u64(end - offset, PREFETCH_STEP),
			POSIX_FADV_WILLNEED);
	return 0;
}

/* READ: what is in the page cache is copied here; the rest is for a worker. */
static bool
submit_file(void *state, struct blk_request *request)
{
	struct file *file = state;
	ssize_t got;

	if (request->length > INLINE_READ_MAX || request->niov > BATCH_IOV ||
		atomic_load_explicit(&file->no_nowait, memory_order_relaxed))
		return false;
	got = preadv2(
		file->fd, request->iov, (int)request->niov, (off_t)request->offset, RWF_NOWAIT);
	if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		atomic_store(&file->no_nowait, true);
	if (got < 0 || (uint64_t)got != request->length)
		return false;
	blk_complete(request, 0);
	return true;
}

static uint64_t
file_allocated(void *state)
{
	const struct file *file = state;
	struct stat st;

	return fstat(file->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

static void
describe_file(void *state, char *text, size_t size)
{
	const struct file *file = state;

	snprintf(text, size, "%s", file->path);
}

const struct blk_driver file_driver = {
	.name = "file",
	.argument = "path",
	.open = open_file,
	.close = close_file,
	.submit = submit_file,
	.read = read_file,
	.write = write_file,
	.flush = flush_file,
	.zero = zero_file,
	.discard = discard_file,
	.extents = file_extents,
	.prefetch = prefetch_file,
	.allocated = file_allocated,
	.describe = describe_file,
};
