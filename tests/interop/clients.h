/* Real clients of the server under test: libnbd and libiscsi, connected to one of its volumes. */
#ifndef SLABD_CLIENTS_H
#define SLABD_CLIENTS_H

#include <stdint.h>

/* The second does not say what it needs. */
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <libnbd.h>

#include "harness.h"

/* base:allocation asked for. Bails out where it does not connect. */
struct nbd_handle *client_nbd(const struct server *server, const char *volume);

/*
 * A session with LUN 0, which is not taken up again when the connection is lost. NULL, with a note,
 * where the login is refused.
 */
struct iscsi_context *client_iscsi_try(const struct server *server, const char *volume,
	const char *initiator, enum iscsi_header_digest digest);
/* The same without digests; bails out. */
struct iscsi_context *
client_iscsi(const struct server *server, const char *volume, const char *initiator);
/* Logs out and frees. */
void client_iscsi_close(struct iscsi_context *iscsi);

#endif
