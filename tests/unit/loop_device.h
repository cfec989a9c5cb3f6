/* A block device for tests: a loop device over a file, where we are root and the kernel has them. */
#ifndef SLABD_LOOP_DEVICE_H
#define SLABD_LOOP_DEVICE_H

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct loop_device {
	char path[32];
	int fd; /* keeps it, without claiming it */
};

/* 0, or -errno: no such thing here. The device goes when it is detached and nobody has it open. */
static inline int
loop_device_attach(struct loop_device *device, const char *file, uint32_t block_size)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int backing = open(file, O_RDWR | O_CLOEXEC);
	int rc = control < 0 || backing < 0 ? -errno : -EBUSY;

	device->fd = -1;
	/* Somebody else may take the free one first. */
	for (int tries = 0; rc == -EBUSY && tries < 20; tries++) {
		struct loop_config config = {.fd = (uint32_t)backing,
			.block_size = block_size,
			.info.lo_flags = LO_FLAGS_AUTOCLEAR};
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		if (number < 0) {
			rc = -errno;
			break;
		}
		snprintf(device->path, sizeof(device->path), "/dev/loop%d", number);
		device->fd = open(device->path, O_RDWR | O_CLOEXEC);
		rc = device->fd < 0 || ioctl(device->fd, LOOP_CONFIGURE, &config) < 0 ? -errno : 0;
		if (rc && device->fd >= 0)
			close(device->fd);
	}
	if (backing >= 0)
		close(backing);
	if (control >= 0)
		close(control);
	return rc;
}

/* The file behind it has changed its size. */
static inline int
loop_device_follow(const struct loop_device *device)
{
	return ioctl(device->fd, LOOP_SET_CAPACITY, 0) < 0 ? -errno : 0;
}

static inline void
loop_device_detach(struct loop_device *device)
{
	if (device->fd < 0)
		return;
	ioctl(device->fd, LOOP_CLR_FD, 0);
	close(device->fd);
	device->fd = -1;
}

#endif
