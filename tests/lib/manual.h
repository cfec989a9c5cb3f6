/* Lists of a manual page that a table in the code makes, between the lines `.\" keys: NAME` and `.\" end`. */
#ifndef SLABD_TEST_MANUAL_H
#define SLABD_TEST_MANUAL_H

#include <stddef.h>
#include <stdio.h>

struct manual_list {
	const char *name;
	void (*write)(const void *arg, FILE *out);
	const void *arg;
};

/*
 * Fails the running test unless the page, a path within the source tree, has just these lists; with
 * SLABD_UPDATE_MANUAL=1 in the environment writes them instead. Skips it where there is no source tree.
 */
void manual_check(const char *page, const struct manual_list *lists, size_t nlists);

#endif
