/* What a test of real disks does by hand: mount, losetup, mkfs. As root. */
#ifndef SLABD_SHELL_H
#define SLABD_SHELL_H

#include <stdbool.h>

/* The shell's exit status, 0 for success; what it prints becomes a note. */
int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A loop device over a file. False, with a note: there is none here. */
bool shell_attach_loop(const char *file, char device[64]);

#endif
