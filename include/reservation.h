/*
 * Reservations of a volume: who registered, who holds it, and whom that fences. They live with the
 * volume, so that they hold for every protocol: a client that has no name of a SCSI nexus counts as
 * one that is not registered. What each service action does is the SCSI layer's to decide; storage
 * serializes, fences, and keeps what must survive.
 */
#ifndef SLABD_RESERVATION_H
#define SLABD_RESERVATION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "limits.h"
#include "log.h"

struct blk_handle;
struct volume;

/* SPC-4, persistent reservation types */
enum reservation_type {
	RESERVATION_NONE = 0,
	RESERVATION_WRITE_EXCLUSIVE = 1,
	RESERVATION_EXCLUSIVE_ACCESS = 3,
	RESERVATION_WRITE_EXCLUSIVE_RO = 5, /* registrants only */
	RESERVATION_EXCLUSIVE_ACCESS_RO = 6,
	RESERVATION_WRITE_EXCLUSIVE_AR = 7, /* all registrants */
	RESERVATION_EXCLUSIVE_ACCESS_AR = 8,
};

/* What a handle may not do. */
enum {
	FENCE_READ = 1,
	FENCE_WRITE = 2,
	FENCE_RESERVED = 4, /* another nexus holds all of the volume (SPC-2 RESERVE) */
};

#define RESERVATION_NAME (LIMIT_ISCSI_NAME + 33)

struct registration {
	uint64_t key;
	bool all_ports; /* whatever target port it comes by */
	uint16_t port_id;
	char initiator[RESERVATION_NAME]; /* initiator port */
	char port[RESERVATION_NAME];      /* target port */
};

/* Never changed once it is the volume's; counted. */
struct reservation {
	atomic_uint references;
	uint32_t generation;
	bool survives; /* a restart: APTPL */
	enum reservation_type type;
	unsigned holder; /* of the types that have one */
	unsigned count;
	struct registration registrations[]; /* LIMIT_RESERVATIONS */
};

/* A reference; NULL: no nexus is registered. Any thread. */
struct reservation *reservation_get(struct volume *volume);
void reservation_put(struct reservation *reservation);

/* Index of a nexus' registration, or -1. */
int reservation_find(
	const struct reservation *reservation, const char *initiator, const char *port);
static inline bool
reservation_all_registrants(enum reservation_type type)
{
	return type >= RESERVATION_WRITE_EXCLUSIVE_AR;
}
static inline bool
reservation_shared(enum reservation_type type)
{
	return type >= RESERVATION_WRITE_EXCLUSIVE_RO;
}
/* True when that registration's nexus holds the reservation. */
bool reservation_holds(const struct reservation *reservation, int index);
/* Takes a registration away; its reservation too, where it was the holder. Of `after` only. */
void reservation_remove(struct reservation *reservation, unsigned index);

/* Says which nexus a handle is. Its loop. 0 or -ENOMEM. */
int reservation_identify(struct blk_handle *handle, const char *initiator, const char *port);
/* FENCE_* of a handle. Its loop. */
unsigned reservation_fence(const struct blk_handle *handle);

/* A change. Changes of one volume happen one after the other. The owner keeps the volume open until
 * done(). */
struct reservation_change_ops {
	/*
	 * The owner's loop. Makes of `after`, a copy of `before`, what is to be; both are good until
	 * done() returns. 0: do it; 1: there is nothing to do; -errno: refused.
	 */
	int (*decide)(void *arg, const struct reservation *before, struct reservation *after);
	/* The owner's loop. 0; or what decide() said; or -ETIMEDOUT (what is in flight does not
	 * come back), -ENOMEM, or what the file system said. */
	void (*done)(void *arg, int rc, const struct reservation *before,
		const struct reservation *after);
};

/*
 * With `fences` everything in flight on the volume is waited for, and nothing new starts until the
 * change is done: what is fenced off cannot land after done(). -ENOMEM, or 0: done() follows, never
 * from inside.
 */
int reservation_change(struct volume *volume, bool fences,
	const struct reservation_change_ops *ops, void *arg);

/* The same for all of a volume at once, by a nexus, as SPC-2's RESERVE has it: done(arg, -EBUSY)
 * when another has it, or nexuses are registered. */
int reservation_take(struct blk_handle *handle, const struct reservation_change_ops *ops, void *arg);
/* Gives it back; harmless for another nexus. Its loop. `any`: whoever has it. */
void reservation_drop(struct blk_handle *handle, bool any);

/* Where reservations that survive are kept; before volumes are opened. NULL: nowhere. 0 or -ENOMEM. */
int reservation_directory(const char *path);
bool reservation_can_survive(void);

#endif
