/* The open volumes in the order they came. Main thread. */
#ifndef SLABD_VOLUMES_H
#define SLABD_VOLUMES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "conf.h"
#include "histogram.h"
#include "log.h"
#include "volume.h"

struct served_volume {
	TAILQ_ENTRY(served_volume) link;
	struct volume *volume; /* one reference */
	bool added;            /* by control, not by the configuration */
	/* What a second brought, as of the last sample. */
	uint64_t reads_rate, writes_rate, read_bytes_rate, write_bytes_rate;
	uint64_t sampled; /* when; 0: never */
	struct histogram_window recent_reads, recent_writes;
	uint64_t reads, writes, read_bytes, write_bytes;
};

TAILQ_HEAD(served_volumes, served_volume);

/* All of them, also those on their way out (volume_going()). */
struct served_volumes *volumes_list(void);

/* NULL where there is none, or it is going. */
struct served_volume *volumes_find(const char *name);

/*
 * Opens every volume of the configuration. When one fails, those before it are closed, files they
 * created are taken away again, and *error names the volume. 0 or -errno.
 */
int volumes_open_all(const struct conf *conf, struct error *error);

/* Opens one more. *error names the volume. 0 or -errno. */
int volumes_open(const struct conf_volume *conf, bool added, struct served_volume **served,
	struct error *error);

/* One that is open already; takes its reference over. 0 or -ENOMEM. */
int volumes_take(struct volume *volume, struct served_volume **served);

/* Out of the list; its reference is put. */
void volumes_drop(struct served_volume *served);
/* The same; closed(arg) is called on the main loop when the volume is closed. */
void volumes_close(struct served_volume *served, void (*closed)(void *arg), void *arg);

/* All references are put. */
void volumes_close_all(void);

/* Sees whether devices grew or went; about once a second. */
void volumes_look(void);

/* Takes the rates; to be called about once a second. */
void volumes_sample(uint64_t now);

#endif
