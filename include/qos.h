/*
 * Rates that a volume keeps to: token buckets for operations and bytes, for all of it and for each client,
 * however many connections it has (blk_set_client()): an iSCSI initiator by its name, an NBD client by its TLS
 * identity, else by its address. What is over the rate waits; nothing fails.
 */
#ifndef SLABD_QOS_H
#define SLABD_QOS_H

#include <stdbool.h>
#include <stdint.h>

#include "conf.h"

struct error;
struct volume;

/* Main thread. Loops see it once they have called volume_layers_apply(). 0 or -ENOMEM with *error. */
int volume_qos_set(struct volume *volume, const struct conf_qos *qos, struct error *error);

struct qos_stats {
	struct conf_qos qos;
	uint64_t requests; /* that came by */
	uint64_t delayed;  /* that had to wait */
};

void volume_qos_get(struct volume *volume, struct qos_stats *stats);

/* There is a rate to keep to. */
static inline bool
qos_limits(const struct conf_qos *qos)
{
	return qos->iops || qos->bps || qos->client_iops || qos->client_bps;
}

#endif
