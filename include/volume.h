/* Volumes as the daemon manages them. Main thread unless said otherwise. */
#ifndef SLABD_VOLUME_H
#define SLABD_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"
#include "conf.h"
#include "histogram.h"
#include "log.h"

struct blk_driver;

/* Before the loops start / after they ended. memory_cap: bytes of all memory volumes together; 0 is
 * the default, 75 % of the machine's or cgroup's memory. 0 or -ENOMEM. */
int storage_start(uint64_t memory_cap);
void storage_stop(void);
/* How files and devices are read and written: "io_uring", or "workers (WHY)". */
const char *storage_engine(void);
uint64_t storage_memory_cap(void);
uint64_t storage_memory_used(void); /* any thread */

/*
 * Opens a volume: checks conf (name, block sizes, size a multiple of the block), then the driver. The
 * caller holds one reference. 0, or -errno with error->text starting with what is wrong ("volume web: "
 * is the caller's to print). Nothing is created when it fails.
 */
int volume_open(const struct conf_volume *conf, struct volume **volume, struct error *error);

/* The same over a driver given by hand, for tests. */
int volume_open_driver(const struct conf_volume *conf, const struct blk_driver *driver,
	struct volume **volume, struct error *error);

/* Any thread. The last put closes the volume, on the main thread (posted there if need be; tests without
 * a main loop: at once). A file's close may block: it syncs. */
struct volume *volume_get(struct volume *volume);
void volume_put(struct volume *volume);
/*
 * The caller's put. When the last one comes the driver closes what is behind the volume on a worker, and
 * closed(arg) follows on the main loop: from then on another may open it. Main thread.
 */
void volume_close(struct volume *volume, void (*closed)(void *arg), void *arg);
/* The main loop has ended: runs it until what workers are closing is closed; the rest is closed at once. */
void volumes_wait_closed(void);

/* Any thread; constant for the volume's life. */
const char *volume_name(const struct volume *volume);
const struct conf_volume *volume_conf(const struct volume *volume);
const uint8_t *volume_uuid(const struct volume *volume); /* 16 bytes, as in blk_info */

/* From now on requests and blk_open() get -ESHUTDOWN; what is in flight finishes. */
void volume_set_going(struct volume *volume);
bool volume_going(const struct volume *volume); /* any thread */

/* B7, or its device is gone. The text of why and when is kept for people; any thread may latch. */
bool volume_broken(const struct volume *volume);

/*
 * Changes of an open volume, one at a time. 0: begun, and done() follows on the main thread, later; its
 * text is empty or says what went wrong. -errno: refused, with *error.
 *
 * Resizing to less than it has needs `force`, waits until nothing is in flight, and forgets what is
 * above. Clients learn of a new size by the next request that looks.
 */
int volume_resize(struct volume *volume, uint64_t size, bool force,
	void (*done)(void *arg, int rc, const char *text), void *arg, struct error *error);
/* Lifts the latch (B7) after what is behind the volume was opened anew and has its size. */
int volume_clear(struct volume *volume, void (*done)(void *arg, int rc, const char *text), void *arg,
	struct error *error);
/* Notices what a device did by itself: it has grown, or is gone. About once a second. */
void volume_look(struct volume *volume);
/*
 * Copies, for drivers that can (memory); one change of a volume at a time. 0: begun, and done() follows on
 * the main thread, later. -errno: refused, with *error. None of them keeps a loop waiting.
 *
 * A snapshot is what the volume was at one instant between writes, and from then on a volume of its own
 * (`made`, with one reference; NULL where rc is not 0) that shares what neither changes.
 */
typedef void volume_copied(void *arg, struct volume *made, int rc, const char *text);
int volume_snapshot(struct volume *volume, const char *name, volume_copied *done, void *arg,
	struct error *error);
/* Such a snapshot, into a raw sparse file, which is replaced whole or not at all. */
int volume_save(struct volume *volume, const char *path, volume_copied *done, void *arg,
	struct error *error);
/* A raw file, not longer than the volume, becomes all of its content at one instant. */
int volume_load(struct volume *volume, const char *path, volume_copied *done, void *arg,
	struct error *error);

/* On each loop after a layer was set (fault.h, qos.h): what this loop submits from now on sees it. */
void volume_layers_apply(struct volume *volume);

struct volume_stats {
	uint64_t size, allocated;
	uint64_t limit; /* of what can be allocated; 0: as much as its size */
	unsigned handles;
	bool broken, going;
	char why[256]; /* "flush failed with EIO at 2026-11-22 14:03:11"; empty when not broken */
	char detail[128]; /* the driver's describe() */
	/* What volume_count() fills. */
	uint64_t operations[BLK_OPS], errors;
	uint64_t read_failures, write_failures; /* errors of the medium */
	uint64_t bytes_read, bytes_written;
	uint64_t rmw_ops, bounced_bytes; /* of requests that were not aligned */
	struct histogram read, write; /* nanoseconds, all loops together */
};

void volume_get_stats(struct volume *volume, struct volume_stats *stats);
/* Only what is counted; the rest is 0. Any thread. */
void volume_count(struct volume *volume, struct volume_stats *stats);

#endif
