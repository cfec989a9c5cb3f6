/* Who has a block device that O_EXCL was refused for. */
#ifndef SLABD_DEVICE_USER_H
#define SLABD_DEVICE_USER_H

#include <stddef.h>
#include <sys/types.h>

/* "is mounted on /home", "is in use by slabd, pid 4711", ...: text, of `size` bytes. Main thread or a
 * worker; looks through /proc and /sys. */
const char *device_user(dev_t number, char *text, size_t size);

#endif
