/* What of a file is data, what is provisioned, and what is a hole. */
#ifndef SLABD_FILE_EXTENTS_H
#define SLABD_FILE_EXTENTS_H

#include <stdint.h>

#include "block.h"

/* As the driver's extents(); 0 or the negative errno of the kernel. May block. */
int file_extents_find(
	int fd, uint64_t offset, uint64_t length, struct blk_extent *extents, unsigned *nextents);

#endif
