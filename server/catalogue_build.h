/* Makes the snapshot of what is offered from the configuration and the open volumes. Main thread.
 */
#ifndef SLABD_CATALOGUE_BUILD_H
#define SLABD_CATALOGUE_BUILD_H

#include <stdbool.h>
#include <stddef.h>

#include "catalogue.h"
#include "conf.h"

#define TARGET_PREFIX "iqn.2026-11.localhost.slabd:"

/*
 * Volumes that are going are left out, and with them the exports and LUNs on them, and targets
 * without a LUN. Configured exports or targets are offered as they are, besides one of each for
 * every volume that control added; without any, each volume has its own. NULL: no memory.
 */
struct catalogue *
catalogue_build(const struct conf *conf, const struct portal *portals, size_t nportals);

/* True when a volume of that name would be offered under an export's or target's name already
 * taken. */
bool catalogue_name_taken(const struct conf *conf, const char *name);

/* Builds and publishes. 0 or -ENOMEM. */
int catalogue_renew(const struct conf *conf, const struct portal *portals, size_t nportals);

#endif
