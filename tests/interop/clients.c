#include "config.h"

#include "clients.h"

#include <stdio.h>

struct nbd_handle *
client_nbd(const struct server *server, const char *volume)
{
	struct nbd_handle *nbd = nbd_create();
	char uri[192];

	snprintf(uri, sizeof(uri), "nbd://%s/%s", server->nbd, volume);
	if (!nbd || nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
		nbd_connect_uri(nbd, uri) < 0)
		tap_bail("%s: %s", uri, nbd_get_error());
	return nbd;
}

struct iscsi_context *
client_iscsi_try(const struct server *server, const char *volume, const char *initiator,
	enum iscsi_header_digest digest)
{
	struct iscsi_context *iscsi;
	char name[192];

	snprintf(name, sizeof(name), "iqn.2026-11.localhost.%s", initiator);
	iscsi = iscsi_create_context(name);
	snprintf(name, sizeof(name), "iqn.2026-11.localhost.slabd:%s", volume);
	if (!iscsi || iscsi_set_targetname(iscsi, name) ||
		iscsi_set_session_type(iscsi, ISCSI_SESSION_NORMAL) ||
		iscsi_set_header_digest(iscsi, digest))
		tap_bail("libiscsi: %s", name);
	iscsi_set_noautoreconnect(iscsi, 1);
	if (iscsi_full_connect_sync(iscsi, server->iscsi, 0)) {
		tap_note("%s: %s", name, iscsi_get_error(iscsi));
		iscsi_destroy_context(iscsi);
		return NULL;
	}
	return iscsi;
}

struct iscsi_context *
client_iscsi(const struct server *server, const char *volume, const char *initiator)
{
	struct iscsi_context *iscsi =
		client_iscsi_try(server, volume, initiator, ISCSI_HEADER_DIGEST_NONE);

	if (!iscsi)
		tap_bail("no iSCSI session with %s", volume);
	return iscsi;
}

void
client_iscsi_close(struct iscsi_context *iscsi)
{
	iscsi_logout_sync(iscsi);
	iscsi_destroy_context(iscsi);
}
