/* What a file system can do, found out on a nameless file beside the volume's own. */
#ifndef SLABD_QUALITIES_H
#define SLABD_QUALITIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct qualities {
	bool punch_hole, zero_range;
	bool seek_hole; /* tells holes from data */
	bool reflink;
	bool known; /* false: nothing could be tried there; the above say yes */
};

/* Main thread; blocks. `path` is a file in the directory in question. */
void qualities_probe(const char *path, struct qualities *qualities);

/* "punch hole, zero range, …" */
void qualities_describe(const struct qualities *qualities, char *text, size_t size);

/* What O_DIRECT on the descriptor needs of offset, length and memory; 0: it cannot be had. */
uint32_t qualities_direct_alignment(int fd);

#endif
