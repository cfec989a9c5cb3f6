/* What a client is told about an export: flags, sizes, metadata contexts. */
#include "config.h"

#include "nbd/nbd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"
#include "limits.h"

/* proto.md "Transmission flags": each is set where it is true, and only there. */
static uint16_t
transmission_flags(const struct blk_info *info, bool structured)
{
	/*
	 * A volume has one cache, shared by all connections and both protocols, and one flush for
	 * all of them (B5, B6), so CAN_MULTI_CONN holds on every backend. FLUSH and FUA always keep
	 * their promise; without a volatile cache there is nothing to do for it.
	 */
	unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
			 NBD_FLAG_CAN_MULTI_CONN;

	if (info->rotational)
		flags |= NBD_FLAG_ROTATIONAL;
	if (info->native & 1u << BLK_PREFETCH)
		flags |= NBD_FLAG_SEND_CACHE;
	if (structured)
		flags |= NBD_FLAG_SEND_DF;
	if (info->read_only)
		return (uint16_t)(flags | NBD_FLAG_READ_ONLY);
	flags |= NBD_FLAG_SEND_WRITE_ZEROES;
	if (info->fast_zero)
		flags |= NBD_FLAG_SEND_FAST_ZERO;
	if (info->discard_granularity)
		flags |= NBD_FLAG_SEND_TRIM;
	return (uint16_t)flags;
}

/* Who it is, however many connections it has: what it proved by TLS, else its address. */
static int
set_client(struct nbd_conn *conn, struct blk_handle *blk)
{
	const char *identity = stream_identity(conn->stream), *peer = stream_peer(conn->stream);
	const char *port = strrchr(peer, ':');
	char name[256];

	if (identity[0])
		snprintf(name, sizeof(name), "nbd %s", identity);
	else
		snprintf(name, sizeof(name), "nbd %.*s",
			(int)(port ? (size_t)(port - peer) : strlen(peer)), peer);
	return blk_set_client(blk, name);
}

struct blk_handle *
nbd_export_open(struct nbd_conn *conn, const struct export *export, struct blk_info *info, int *rc)
{
	struct nbd_terms *terms = &conn->terms;
	struct blk_handle *blk;
	char name[128];

	snprintf(name, sizeof(name), "nbd %s", stream_peer(conn->stream));
	blk = blk_open(export->volume, name, export->read_only, rc);
	if (!blk)
		return NULL;
	*rc = set_client(conn, blk);
	if (*rc) {
		blk_close(blk);
		return NULL;
	}
	blk_info(blk, info);
	/* What no aligned request can reach is not offered ("Size constraints"). */
	if (export->min_block)
		info->size = round_down(info->size, export->min_block);
	terms->flags = transmission_flags(info, terms->structured);
	terms->min_block = export->min_block ? export->min_block : 1;
	terms->payload_max = (uint32_t)min_u64(LIMIT_NBD_PAYLOAD, info->transfer_max);
	return blk;
}

/* proto.md "Size constraints": a power of 2, at least the minimum; 4,096 is the default. */
uint32_t
nbd_export_preferred(const struct export *export, const struct blk_info *info)
{
	uint32_t preferred = 4096;

	if (info->physical_block_size > preferred)
		preferred = info->physical_block_size;
	if (export->min_block > preferred)
		preferred = export->min_block;
	return preferred;
}

/*
 * SET_META_CONTEXT holds for the export name it was sent with (proto.md
 * "NBD_OPT_SET_META_CONTEXT"). A name may have 4,096 bytes, so its FNV-1a hash stands for it: who
 * makes two names collide gets to ask for the status of an export that is his to open anyway.
 */
uint64_t
nbd_export_hash(const void *name, size_t length)
{
	const uint8_t *byte = name;
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
	return hash;
}

bool
nbd_context_selected(const struct nbd_terms *terms, const void *name, size_t length)
{
	return terms->base_allocation && terms->context_export == nbd_export_hash(name, length);
}

/*
 * proto.md "Metadata querying": NAMESPACE:LEAF. Unknown namespaces and leaves are ignored; what has
 * no namespace and colon is semantically invalid.
 */
int
nbd_context_match(const uint8_t *query, size_t length, bool listing)
{
	static const char name[] = NBD_BASE_ALLOCATION;
	static const char wildcard[] = "base:";
	const uint8_t *colon = length ? memchr(query, ':', length) : NULL;

	if (!colon || colon == query || length > LIMIT_NBD_STRING || memchr(query, 0, length))
		return -EINVAL;
	if (length == sizeof(name) - 1 && !memcmp(query, name, length))
		return 1;
	return listing && length == sizeof(wildcard) - 1 && !memcmp(query, wildcard, length);
}
