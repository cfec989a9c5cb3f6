#include "config.h"

#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "check.h"
#include "../uring.h"

/* Above this a copy from the page cache takes the loop too long. */
#define INLINE_READ_MAX (256 * KIB)
#define BATCH_IOV       64

/* An image as one loop sees it. */
struct image_lane {
	struct uring_client client;
	struct image *image;
	bool ring;        /* this loop has one */
	uint64_t checked; /* the turn in which the file's end was looked at */
};

int
image_init(struct image *image, const struct conf_volume *conf, struct error *error)
{
	image->fd = -1;
	image->read_only = conf->read_only;
	image->path = strdup(conf->path);
	image->volume = strdup(conf->name);
	if (!image->path || !image->volume)
		return error_set(error, -ENOMEM, "no memory");
	return 0;
}

void
image_free(struct image *image)
{
	for (unsigned i = 0; i < LANES; i++)
		free(atomic_load(&image->lanes[i]));
	if (image->fd >= 0)
		close(image->fd);
	free(image->path);
	free(image->volume);
}

void
image_promise(struct image *image, struct blk_info *info)
{
	image->ring = uring_usable();
	info->native = 0;
	/* tmpfs and others without RWF_NOWAIT are found out by the first read. */
	if (!image->direct || image->ring)
		info->native |= 1u << BLK_READ;
	/* The kernel does buffered writes one at a time on a thread of its own: ours are faster. */
	if (image->direct && image->ring)
		info->native |= 1u << BLK_WRITE;
	/* promises section 2: by RWF_DSYNC on O_DIRECT only. */
	info->fua = image->direct && image->ring;
	info->volatile_cache = true;
	info->buffered = !image->direct;
}

uint64_t
image_measure(const struct image *image)
{
	uint64_t size = 0;
	struct stat st;

	if (!image->device)
		return fstat(image->fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
	return ioctl(image->fd, BLKGETSIZE64, &size) < 0 ? 0 : size;
}

static int
tell_gone(struct image *image)
{
	if (!atomic_exchange(&image->told, true))
		log_error("volume %s: %s is gone", image->volume, image->path);
	return -ENODEV;
}

/* A write beyond the end of a device is ENOSPC too: it has become shorter than the volume. */
static int
no_room(struct image *image)
{
	uint64_t now = image->device ? image_measure(image) : UINT64_MAX;

	if (now == 0)
		return tell_gone(image);
	return now < atomic_load_explicit(&image->size, memory_order_relaxed) ? -EIO : -ENOSPC;
}

int
image_errno(struct image *image, int error)
{
	switch (error) {
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return no_room(image);
	case ENOMEM:
		return -ENOMEM;
	case EOPNOTSUPP:
	case ENOSYS:
		return -ENOTSUP;
	case ENODEV:
	case ENXIO:
	case ENOMEDIUM:
	case EBADF:
		return tell_gone(image);
	default:
		/* What was pulled out says EIO like a bad block, but has no size any more. */
		return image->device && image_measure(image) == 0 ? tell_gone(image) : -EIO;
	}
}

/* The end came before the end of the volume. */
static int
fail_short(struct image *image)
{
	if (image->device)
		return image_errno(image, EIO);
	if (!atomic_exchange(&image->told, true))
		log_error("volume %s: %s is shorter than the %" PRIu64
			  " bytes it had: somebody truncated it; requests fail",
			image->volume, image->path, atomic_load(&image->size));
	return -EIO;
}

int
image_check_end(struct image *image)
{
	struct stat st;

	if (image->device)
		return 0;
	if (fstat(image->fd, &st) < 0)
		return image_errno(image, errno);
	return (uint64_t)st.st_size < atomic_load_explicit(&image->size, memory_order_relaxed)
		       ? fail_short(image)
		       : 0;
}

/* All of [offset, offset + length), however short the kernel's steps are. */
static int
move_all(struct image *image, bool write, const struct iovec *iov, unsigned niov, uint64_t offset,
	uint64_t length)
{
	uint64_t done = 0;

	while (done < length) {
		struct iovec part[BATCH_IOV];
		unsigned n = iov_slice(iov, niov, done, length - done, part, BATCH_IOV, NULL);
		ssize_t moved = write ? pwritev(image->fd, part, (int)n, (off_t)(offset + done))
				      : preadv(image->fd, part, (int)n, (off_t)(offset + done));

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return image_errno(image, errno);
		if (moved == 0)
			return write ? no_room(image) : fail_short(image);
		done += (uint64_t)moved;
	}
	return 0;
}

int
image_read(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length)
{
	return move_all(state, false, iov, niov, offset, length);
}

int
image_write(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length)
{
	int rc = image_check_end(state);

	return rc ? rc : move_all(state, true, iov, niov, offset, length);
}

int
image_flush(void *state)
{
	struct image *image = state;

	if (fdatasync(image->fd) == 0)
		return 0;
	return errno == EINTR ? -EINTR : image_errno(image, errno);
}

int
image_fallocate(struct image *image, int mode, uint64_t offset, uint64_t length)
{
	int rc = image_check_end(image);

	if (rc)
		return rc;
	while (fallocate(image->fd, mode, (off_t)offset, (off_t)length) < 0)
		if (errno != EINTR)
			return image_errno(image, errno);
	return 0;
}

/* On the loop. What the kernel did only in part, or not now, a worker does again from the start. */
static void
ring_done(struct uring_client *client, struct blk_request *request, int result)
{
	struct image *image = container_of(client, struct image_lane, client)->image;

	if (result >= 0 && (uint64_t)result == request->length)
		blk_complete(request, 0);
	else if (result == -ECANCELED)
		blk_complete(request, -ETIMEDOUT);
	else if (result >= 0 || result == -EAGAIN || result == -EINTR)
		blk_retry_blocking(request);
	else
		blk_complete(request, image_errno(image, -result));
}

/* The calling loop's. NULL: no memory. */
static struct image_lane *
find_lane(struct image *image)
{
	unsigned index = loop_index(loop_current());
	struct image_lane *lane = atomic_load_explicit(&image->lanes[index], memory_order_relaxed);

	if (lane)
		return lane;
	lane = calloc(1, sizeof(*lane));
	if (!lane)
		return NULL;
	lane->image = image;
	lane->client.fd = image->fd;
	lane->client.dsync = image->direct;
	lane->client.done = ring_done;
	lane->ring = image->ring && uring_join(&lane->client);
	atomic_store_explicit(&image->lanes[index], lane, memory_order_release);
	return lane;
}

static bool
submit_to_ring(struct image *image, struct blk_request *request)
{
	struct image_lane *lane = find_lane(image);
	uint64_t now;
	int rc;

	if (!lane || !lane->ring)
		return false;
	/* Once for all that a turn brings. */
	now = loop_now(request->handle->loop);
	if (request->op == BLK_WRITE && !image->device && lane->checked != now) {
		rc = image_check_end(image);
		if (rc) {
			blk_complete(request, rc);
			return true;
		}
		lane->checked = now;
	}
	return uring_submit(&lane->client, request);
}

/* What is in the page cache is copied here. */
static bool
read_cached(struct image *image, struct blk_request *request)
{
	ssize_t got;

	if (request->length > INLINE_READ_MAX || request->niov > BATCH_IOV ||
		atomic_load_explicit(&image->no_nowait, memory_order_relaxed))
		return false;
	got = preadv2(
		image->fd, request->iov, (int)request->niov, (off_t)request->offset, RWF_NOWAIT);
	if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		atomic_store(&image->no_nowait, true);
	if (got < 0 || (uint64_t)got != request->length)
		return false;
	blk_complete(request, 0);
	return true;
}

bool
image_submit(void *state, struct blk_request *request)
{
	struct image *image = state;

	if (request->op == BLK_READ && !image->direct && read_cached(image, request))
		return true;
	return image->ring && submit_to_ring(image, request);
}

void
image_cancel(void *state, struct blk_request *request)
{
	struct image *image = state;

	uring_cancel(&find_lane(image)->client, request);
}

void
image_replace(struct image *image, int fd)
{
	/* Nothing can be read or written by an O_PATH descriptor: EBADF. */
	int other = fd >= 0 ? fd : open("/", O_PATH | O_CLOEXEC);

	if (other < 0 || dup3(other, image->fd, O_CLOEXEC) < 0)
		log_error("volume %s: %s: %s", image->volume, image->path, strerror(errno));
	if (other >= 0)
		close(other);
}

int
image_resume(struct image *image, int fd, uint64_t least, uint64_t *size, struct error *error)
{
	uint64_t now;
	int rc;

	if (fdatasync(fd) < 0) {
		rc = -errno;
		close(fd);
		return error_set(error, rc, "%s: sync failed: %s", image->path, strerror(-rc));
	}
	image_replace(image, fd);
	now = image_measure(image);
	if (now < least)
		return error_set(error, -EINVAL,
			"%s has %" PRIu64 " bytes, fewer than the volume's %" PRIu64, image->path,
			now, least);
	atomic_store(&image->told, false);
	*size = least;
	return 0;
}
