/*
 * What files and devices have in common: one descriptor for the volume's life, read and written by
 * the ring of the request's loop, by its page cache at once, or by workers.
 */
#ifndef SLABD_IMAGE_H
#define SLABD_IMAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../storage.h"

struct image_lane;

/* First in the state of its driver. */
struct image {
	int fd; /* its number never changes: image_replace() */
	char *path;
	char *volume; /* its name, for the log */
	_Atomic uint64_t size;
	bool read_only;
	bool device;
	bool direct;                               /* O_DIRECT */
	bool ring;                                 /* io_uring may be used */
	atomic_bool no_nowait;                     /* tmpfs refuses RWF_NOWAIT */
	atomic_bool told;                          /* that it is shorter than it was, or gone */
	_Atomic(struct image_lane *) lanes[LANES]; /* each made by its loop */
};

/* Copies path and name. 0 or -ENOMEM with *error. */
int image_init(struct image *image, const struct conf_volume *conf, struct error *error);
/* Closes the descriptor. Nothing is in flight. */
void image_free(struct image *image);
/* What the driver promises of image_submit(), when `direct` is known. */
void image_promise(struct image *image, struct blk_info *info);

/* 0 or -errno of block.h for what the kernel may say; looks at whether the device is still there. */
int image_errno(struct image *image, int error);
/* Bytes behind the descriptor now. 0: none, or gone. */
uint64_t image_measure(const struct image *image);
/* A file that was truncated would grow again by a write: -EIO instead. */
int image_check_end(struct image *image);

/* The drivers' functions; `state` is the image. */
int
image_read(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length);
int
image_write(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length);
int image_flush(void *state);
bool image_submit(void *state, struct blk_request *request);
void image_cancel(void *state, struct blk_request *request);
int image_fallocate(struct image *image, int mode, uint64_t offset, uint64_t length);

/* From now on the number stands for another description (fd is closed), or for none at all (-1):
 * whoever still uses it gets -ENODEV. */
void image_replace(struct image *image, int fd);

/*
 * The end of a clear (promises section 3 (4)): fd, which it takes over, is a new description; its first
 * sync shows what is still wrong. 0 with *size = least, or -errno with *error: the sync failed, or there
 * are fewer bytes than `least`.
 */
int image_resume(struct image *image, int fd, uint64_t least, uint64_t *size, struct error *error);

#endif
