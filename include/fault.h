/*
 * Faults on purpose: a layer of a volume that fails, delays or cuts short what its rules choose,
 * with the knobs of the kernel's fault injection (Documentation/fault-injection). A rule is a line
 * of text, the same in slabd.yaml, on the command line and in slabctl:
 *
 *	write+flush errno=EIO probability=10 times=3 seed=1
 *
 * slabd.yaml(5), FAULTS, says what each word means. The first rule that ends a request or cuts it
 * short decides about it; delays of several rules add up.
 */
#ifndef SLABD_FAULT_H
#define SLABD_FAULT_H

#include <stdint.h>

struct error;
struct volume;

/* 0, or -errno with a text: rules, separated by ';', are well formed. Any thread. */
int fault_check(const char *rules, struct error *error);

/*
 * Main thread, all below. Adds rules; one for the same operations and the same client takes the
 * other's place, its counters at 0. All or nothing: 0, or -errno with a text. Loops see it once
 * they have called volume_layers_apply().
 */
int volume_fault_set(struct volume *volume, const char *rules, struct error *error);

/* Takes away the rules for exactly these operations ("write+flush"; NULL: all rules). 0 or -errno.
 */
int volume_fault_clear(struct volume *volume, const char *operations, struct error *error);

struct fault_stats {
	char rule[320]; /* as it could be typed; with times, space and fail-nth as they are now */
	uint64_t candidates; /* requests that it could have chosen */
	uint64_t injected;   /* that it did choose */
};

void volume_fault_visit(struct volume *volume,
	void (*visit)(const struct fault_stats *stats, void *arg), void *arg);

#endif
