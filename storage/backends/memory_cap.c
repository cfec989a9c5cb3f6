/*
 * How much all memory volumes may take together. Counted in bytes of slabs: what the system really
 * gave. Beyond it writes get -ENOSPC, and the kernel need not kill anybody.
 */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "../storage.h"

static _Atomic uint64_t cap, used;

/* The number in a file of one number; UINT64_MAX when there is none ("max"). */
static uint64_t
read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	uint64_t number = UINT64_MAX;

	if (!file)
		return number;
	if (fscanf(file, "%" SCNu64, &number) != 1)
		number = UINT64_MAX;
	fclose(file);
	return number;
}

/* The least memory.max of our cgroup (version 2) and those above it. */
static uint64_t
cgroup_memory(void)
{
	char line[4096], path[4096 + 64];
	uint64_t least = read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes"); /* version 1 */
	FILE *file = fopen("/proc/self/cgroup", "re");
	bool found = false;

	if (!file)
		return least;
	while (!found && fgets(line, sizeof(line), file))
		found = strncmp(line, "0::/", 4) == 0;
	fclose(file);
	if (!found)
		return least;
	line[strcspn(line, "\n")] = '\0';
	for (char *end = line + strlen(line);; *end = '\0') {
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", line + 3);
		least = min_u64(least, read_number(path));
		end = strrchr(line + 3, '/');
		if (!end)
			return least;
	}
}

void
memory_cap_set(uint64_t bytes)
{
	if (!bytes) {
		uint64_t machine =
			(uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

		bytes = min_u64(machine, cgroup_memory()) / 4 * 3;
	}
	atomic_store(&cap, bytes);
}

bool
memory_cap_take(uint64_t bytes)
{
	uint64_t before = atomic_load(&used);

	do {
		if (!range_within(before, bytes, atomic_load(&cap)))
			return false;
	} while (!atomic_compare_exchange_weak(&used, &before, before + bytes));
	return true;
}

void
memory_cap_give(uint64_t bytes)
{
	atomic_fetch_sub(&used, bytes);
}

uint64_t
storage_memory_cap(void)
{
	return atomic_load(&cap);
}

uint64_t
storage_memory_used(void)
{
	return atomic_load(&used);
}
