/* What the kernel says about our memory: /proc/self/smaps, where a range with one policy is one entry. */
#ifndef SLABD_TEST_SMAPS_H
#define SLABD_TEST_SMAPS_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Bytes of `key` ("Rss:") in all mappings with `flag` ("hg", "lo"; proc_pid_smaps(5)). */
static inline uint64_t
smaps_sum(const char *key, const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	uint64_t sum = 0, here = 0, kib;
	char line[512];

	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, key, strlen(key)) == 0 &&
			sscanf(line + strlen(key), "%" SCNu64, &kib) == 1)
			here = kib * 1024;
		/* The last line of an entry: words of two letters. */
		if (strncmp(line, "VmFlags:", 8) == 0) {
			char word[8];

			snprintf(word, sizeof(word), " %s ", flag);
			line[strcspn(line, "\n")] = ' ';
			sum += strstr(line, word) ? here : 0;
			here = 0;
		}
	}
	if (file)
		fclose(file);
	return sum;
}

/* Bytes of a line of /proc/self/status ("VmLck:"). */
static inline uint64_t
status_bytes(const char *key)
{
	FILE *file = fopen("/proc/self/status", "re");
	uint64_t kib = 0;
	char line[512];

	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, key, strlen(key)) == 0)
			sscanf(line + strlen(key), "%" SCNu64, &kib);
	if (file)
		fclose(file);
	return kib * 1024;
}

#endif
