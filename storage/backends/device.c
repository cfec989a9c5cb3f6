/*
 * Raw block devices past the page cache. O_EXCL: what is mounted, swapped to or served by another is
 * refused, whole disk or partition; the kernel knows, and device_user.c says who.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "check.h"
#include "device_user.h"
#include "image.h"

struct device {
	struct image image;
	char kernel_name[40]; /* "sda1" */
	bool zeroes_fast;     /* the device writes zeroes by itself */
	bool write_back;
	atomic_bool no_zero, no_unmap, no_discard;
};

/* What stands in the way of opening this; NULL: it is a block device. */
static const char *
kind_of(mode_t mode)
{
	if (S_ISBLK(mode))
		return NULL;
	if (S_ISREG(mode))
		return "is a file, not a block device (say file: instead of device:)";
	if (S_ISDIR(mode))
		return "is a directory, not a block device";
	return "is not a block device";
}

/* The descriptor, or -errno with *error. */
static int
open_exclusively(const char *path, bool read_only, struct error *error)
{
	char user[256];
	const char *kind;
	struct stat st;
	int fd, rc;

	/* Looked at first: opening other things may do things. */
	if (stat(path, &st) < 0) {
		rc = -errno;
		return error_set(error, rc, "%s: %s", path, strerror(-rc));
	}
	kind = kind_of(st.st_mode);
	if (kind)
		return error_set(error, -EINVAL, "%s %s", path, kind);
	fd = open(path, O_EXCL | O_DIRECT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
				(read_only ? O_RDONLY : O_RDWR));
	if (fd >= 0)
		return fd;
	rc = -errno;
	if (rc == -EBUSY)
		return error_set(error, rc, "%s %s: refusing to serve it", path,
			device_user(st.st_rdev, user, sizeof(user)));
	if (rc == -EROFS || rc == -EACCES)
		return error_set(error, rc, "%s: %s%s", path, strerror(-rc),
			read_only ? "" : " (read_only= serves it without writing)");
	return error_set(error, rc, "%s: %s", path, strerror(-rc));
}

/* An attribute of the device's request queue; a partition has its disk's. */
static FILE *
open_queue(dev_t number, const char *name)
{
	char path[128];
	FILE *file = NULL;

	for (unsigned whole = 0; !file && whole < 2; whole++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(number),
			minor(number), whole ? "../" : "", name);
		file = fopen(path, "re");
	}
	return file;
}

static uint64_t
queue_number(dev_t number, const char *name, uint64_t fallback)
{
	FILE *file = open_queue(number, name);
	uint64_t value = fallback;

	if (!file)
		return fallback;
	if (fscanf(file, "%" SCNu64, &value) != 1)
		value = fallback;
	fclose(file);
	return value;
}

static bool
queue_says(dev_t number, const char *name, const char *word)
{
	FILE *file = open_queue(number, name);
	char line[64] = "";

	if (!file)
		return false;
	if (!fgets(line, sizeof(line), file))
		line[0] = '\0';
	fclose(file);
	return strncmp(line, word, strlen(word)) == 0;
}

static void
find_kernel_name(struct device *device, dev_t number)
{
	char path[64], target[256];
	const char *name;
	ssize_t length;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(number), minor(number));
	length = readlink(path, target, sizeof(target) - 1);
	if (length <= 0)
		return;
	target[length] = '\0';
	name = strrchr(target, '/');
	snprintf(device->kernel_name, sizeof(device->kernel_name), "%.39s",
		name ? name + 1 : target);
}

static int
check_size(const struct device *device, uint64_t size, const struct conf_volume *conf,
	const struct blk_info *info, struct error *error)
{
	const char *path = device->image.path;

	if (size == 0)
		return error_set(error, -ENXIO, "%s has no medium, or a size of 0", path);
	if (conf->size && conf->size != size)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes, but size= says %" PRIu64
			" (leave it out for a device)",
			path, size, conf->size);
	if (size % info->block_size)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes, not a multiple of the block size %" PRIu32
			" (the next is %" PRIu64 ")",
			path, size, info->block_size, round_up(size, info->block_size));
	if (size > LIMIT_VOLUME_SIZE)
		return error_set(error, -EFBIG, "%s has %" PRIu64 " bytes, more than %" PRIu64,
			path, size, LIMIT_VOLUME_SIZE);
	return 0;
}

/* The geometry, from the kernel. */
static int
look_at_device(struct device *device, const struct conf_volume *conf, struct blk_info *info,
	struct error *error)
{
	struct image *image = &device->image;
	unsigned physical = 0;
	int logical = 0, rc;
	uint64_t size, granularity;
	struct stat st;

	if (fstat(image->fd, &st) < 0 || ioctl(image->fd, BLKSSZGET, &logical) < 0 ||
		logical < 512 || logical & (logical - 1) || logical > (int)(64 * KIB) ||
		ioctl(image->fd, BLKPBSZGET, &physical) < 0) {
		rc = errno ? -errno : -EINVAL;
		return error_set(error, rc, "%s: cannot ask for its block size: %s", image->path,
			strerror(-rc));
	}
	size = image_measure(image);
	rc = check_size(device, size, conf, info, error);
	if (rc)
		return rc;
	atomic_store(&image->size, size);
	info->size = size;
	/* Memory too: a device's dma_alignment is never more than its logical block. */
	info->alignment = (uint32_t)logical;
	if (!conf->physical_block_size && !(physical & (physical - 1)))
		info->physical_block_size = (uint32_t)max_u64(physical, info->block_size);
	if (info->physical_block_size < info->alignment)
		info->physical_block_size = info->alignment;
	granularity = queue_number(st.st_rdev, "discard_granularity", 0);
	if (queue_number(st.st_rdev, "discard_max_bytes", 0) == 0 || granularity > GIB)
		granularity = 0;
	atomic_store(&device->no_discard, granularity == 0);
	info->discard_granularity = (uint32_t)granularity;
	info->rotational = conf->rotational || queue_number(st.st_rdev, "rotational", 0);
	device->zeroes_fast = queue_number(st.st_rdev, "write_zeroes_max_bytes", 0) > 0;
	device->write_back = queue_says(st.st_rdev, "write_cache", "write back");
	info->fast_zero = device->zeroes_fast;
	find_kernel_name(device, st.st_rdev);
	return 0;
}

static int
open_device(
	const struct conf_volume *conf, struct blk_info *info, void **state, struct error *error)
{
	struct device *device;
	int rc;

	if (!conf->path || !conf->path[0])
		return error_set(error, -EINVAL, "needs a path: %s=device:/dev/sdb", conf->name);
	device = calloc(1, sizeof(*device));
	if (!device)
		return error_set(error, -ENOMEM, "no memory");
	device->image.device = device->image.direct = true;
	rc = image_init(&device->image, conf, error);
	if (rc)
		goto fail;
	rc = open_exclusively(conf->path, conf->read_only, error);
	if (rc < 0)
		goto fail;
	device->image.fd = rc;
	rc = look_at_device(device, conf, info, error);
	/* What an earlier failure left behind shows now, not after the first client's flush. */
	if (!rc && fdatasync(device->image.fd) < 0) {
		rc = -errno;
		error_set(error, rc, "%s: sync failed: %s", conf->path, strerror(-rc));
	}
	if (rc)
		goto fail;
	/* A cache that is written through costs a flush nothing: it is always asked for. */
	image_promise(&device->image, info);
	*state = device;
	return 0;

fail:
	image_free(&device->image);
	free(device);
	return rc;
}

static void
close_device(void *state)
{
	struct device *device = state;

	if (fdatasync(device->image.fd) < 0 && errno != EBADF)
		log_error("volume %s: %s: sync at close failed: %s", device->image.volume,
			device->image.path, strerror(errno));
	image_free(&device->image);
	free(device);
}

/*
 * PUNCH_HOLE is the device's own unmapping that promises zeroes, or nothing (EOPNOTSUPP); ZERO_RANGE
 * keeps the blocks and falls back to writing. BLKDISCARD promises no contents: never here.
 */
static int
zero_device(void *state, uint64_t offset, uint64_t length, unsigned flags)
{
	struct device *device = state;
	int rc = -ENOTSUP;

	if (flags & BLK_MAY_UNMAP && !atomic_load(&device->no_unmap)) {
		rc = image_fallocate(
			&device->image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
		if (rc == -ENOTSUP)
			atomic_store(&device->no_unmap, true);
	}
	if (rc != -ENOTSUP || atomic_load(&device->no_zero) ||
		(flags & BLK_FAST_ONLY && !device->zeroes_fast))
		return rc;
	rc = image_fallocate(
		&device->image, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
	if (rc == -ENOTSUP)
		atomic_store(&device->no_zero, true);
	return rc;
}

static int
discard_device(void *state, uint64_t offset, uint64_t length)
{
	struct device *device = state;
	uint64_t range[2] = {offset, length};
	int rc;

	if (atomic_load(&device->no_discard))
		return 0;
	while (ioctl(device->image.fd, BLKDISCARD, range) < 0) {
		if (errno == EINTR)
			continue;
		rc = image_errno(&device->image, errno);
		if (rc != -ENOTSUP)
			return rc;
		atomic_store(&device->no_discard, true);
		break;
	}
	return 0;
}

static int
reopen_device(void *state, uint64_t least, uint64_t *size, struct error *error)
{
	struct device *device = state;
	struct image *image = &device->image;
	int fd;

	/* O_EXCL is ours alone: let go of it first. */
	image_replace(image, -1);
	fd = open_exclusively(image->path, image->read_only, error);
	if (fd < 0)
		return fd;
	return image_resume(image, fd, least, size, error);
}

static int
resize_device(void *state, uint64_t size, struct error *error)
{
	struct device *device = state;
	uint64_t now = image_measure(&device->image);

	/* As large as it is, or less of it. */
	if (size > now)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes: grow the device itself, the volume follows",
			device->image.path, now);
	atomic_store(&device->image.size, size);
	return 0;
}

static uint64_t
measure_device(void *state)
{
	const struct device *device = state;

	return image_measure(&device->image);
}

static void
describe_device(void *state, char *text, size_t size)
{
	const struct device *device = state;

	snprintf(text, size, "%s (%s), O_DIRECT, %s, write cache %s", device->image.path,
		device->kernel_name[0] ? device->kernel_name : "?",
		device->image.ring ? "io_uring" : "workers", device->write_back ? "on" : "off");
}

const struct blk_driver device_driver = {
	.name = "device",
	.argument = "path",
	.open = open_device,
	.close = close_device,
	.submit = image_submit,
	.cancel = image_cancel,
	.read = image_read,
	.write = image_write,
	.flush = image_flush,
	.zero = zero_device,
	.discard = discard_device,
	.resize = resize_device,
	.reopen = reopen_device,
	.measure = measure_device,
	.describe = describe_device,
};
