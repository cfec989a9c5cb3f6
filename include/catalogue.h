/*
 * What is offered: one immutable, reference-counted snapshot. Control builds a new one and publishes
 * it on the main thread; loops take a reference when they negotiate and keep it while they use what it
 * names. Volumes are held by the snapshot.
 */
#ifndef SLABD_CATALOGUE_H
#define SLABD_CATALOGUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tls.h"

struct volume;

/* NBD */
struct export {
	const char *name;
	const char *description; /* NULL: none */
	struct volume *volume;
	uint32_t min_block; /* 0: none; else requests not aligned to it get EINVAL */
	bool read_only;     /* also where the volume is not */
	bool hidden;        /* not in LIST */
	bool is_default;    /* answers to the empty name too */
	enum tls_mode tls;
};

/* iSCSI */
struct lun {
	uint16_t number;
	struct volume *volume;
	bool read_only;
};

/* CHAP: a user and its secret, wiped when the snapshot goes. */
struct credential {
	const char *user;
	const char *secret;
};

struct initiator;

struct target {
	const char *name; /* IQN */
	const struct lun *luns; /* ascending numbers */
	size_t nluns;
	const struct credential *chap; /* who may log in; none: everyone that the rules let in */
	size_t nchap;
	const struct credential *mutual;    /* what the target proves itself by; NULL: nothing */
	const char *redirect; /* HOST:PORT where it is instead; NULL: here */
	bool moved;           /* there for good */
	bool events;          /* unit attentions are sent as they come, too (RFC 7143 11.9.1) */
	const struct initiator *initiators; /* access rules; none: any name */
	size_t ninitiators;
};

struct initiator {
	const char *name; /* in lower case */
	struct target as; /* what the target is to this one; no rules in it */
};

struct portal {
	const char *address;   /* "HOST:PORT" as bound; a wildcard host stays one */
	const char *advertise; /* NULL: the local address of the connection that asks */
	uint16_t group;        /* target portal group tag */
	uint16_t relative_id;  /* relative target port identifier, 1 .., the same in all of a group */
	bool tls;              /* from the first byte: the stream is a secure one */
};

struct catalogue {
	atomic_uint references;
	const struct export *exports;
	size_t nexports;
	const struct target *targets;
	size_t ntargets;
	const struct portal *portals;
	size_t nportals;
	const struct credential *discovery_chap; /* for discovery sessions */
	size_t ndiscovery_chap;
	uint8_t chap_algorithms[4]; /* the ones preferred first */
	size_t nchap_algorithms;
	enum tls_mode tls;               /* NBD */
	struct tls_context *tls_context; /* NULL: no TLS */
	void (*destroy)(struct catalogue *catalogue); /* on whichever thread lets the last reference go */
};

/* The current one with a reference taken; never NULL once the daemon serves. Any thread. */
const struct catalogue *catalogue_get(void);
/* One more reference. */
void catalogue_hold(const struct catalogue *catalogue);
void catalogue_put(const struct catalogue *catalogue);

/* Another one with each catalogue that is published: who compares it finds out, for one load, that what
 * he holds is no longer the current one. Any thread. */
extern _Atomic uint32_t catalogue_generation;

/* Main thread. Takes over the caller's reference; the one before loses the published one. NULL: none
 * any more (shutdown). */
void catalogue_publish(struct catalogue *catalogue);

/* The export of that name, or the default one for length 0; NULL. */
const struct export *catalogue_export(const struct catalogue *catalogue, const void *name, size_t length);
/* iSCSI names compare byte by byte once normalised (RFC 7143 4.2.7.2): the caller lower-cases. */
const struct target *catalogue_target(const struct catalogue *catalogue, const char *name);
/*
 * What the target is to an initiator of that name; NULL: none of its rules lets it in. One that no
 * rule names gets the target's own LUNs where the target has CHAP of its own to know it by.
 */
const struct target *catalogue_admit(const struct target *target, const char *initiator);

#endif
