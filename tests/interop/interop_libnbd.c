/* libnbd as a client: negotiation, structured replies, block status, many connections, errors. */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients.h"

#define SIZE (64 * 1024 * 1024)

struct extents {
	unsigned count;
	uint64_t offset[64];
	uint32_t length[64], flags[64];
	uint64_t covered;
};

/* What a structured read came in. */
struct chunks {
	const uint8_t *buffer; /* of the whole read */
	uint64_t start, covered;
	unsigned data, holes, wrong;
	uint32_t data_max;
};

static struct server server;
static uint8_t data[1024 * 1024], have[1024 * 1024];

static void
test_negotiation(struct nbd_handle *nbd)
{
	tap_ok(!strcmp(nbd_get_protocol(nbd), "newstyle-fixed"), "fixed newstyle");
	tap_ok(nbd_get_structured_replies_negotiated(nbd) == 1, "structured replies");
	tap_ok(nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1, "base:allocation");
	tap_ok(nbd_get_size(nbd) == SIZE, "size");
	tap_ok(nbd_is_read_only(nbd) == 0 && nbd_can_flush(nbd) == 1 && nbd_can_fua(nbd) == 1 &&
			nbd_can_trim(nbd) == 1 && nbd_can_zero(nbd) == 1 &&
			nbd_can_multi_conn(nbd) == 1,
		"writable, flush, FUA, trim, zero, many connections");
	tap_ok(nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM) == 1 &&
			nbd_get_block_size(nbd, LIBNBD_SIZE_PREFERRED) == 4096 &&
			nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM) == 32 * 1024 * 1024,
		"block sizes 1, 4096, 32 MiB");
}

static int
count_export(void *user, const char *name, const char *description)
{
	unsigned *seen = user;

	(void)description;
	*seen |= !strcmp(name, "disk0") ? 1U : !strcmp(name, "web") ? 2U : 4U;
	return 0;
}

static void
test_list(void)
{
	struct nbd_handle *nbd = nbd_create();
	unsigned seen = 0;
	char uri[128];

	snprintf(uri, sizeof(uri), "nbd://%s", server.nbd);
	if (!nbd || nbd_set_opt_mode(nbd, true) < 0 || nbd_connect_uri(nbd, uri) < 0)
		tap_bail("%s: %s", uri, nbd_get_error());
	tap_ok(nbd_opt_list(nbd, (nbd_list_callback){count_export, &seen, NULL}) == 2 && seen == 3,
		"LIST names disk0 and web");
	tap_ok(nbd_set_export_name(nbd, "nobody") == 0 && nbd_opt_info(nbd) < 0,
		"INFO of an unknown export is refused");
	tap_ok(nbd_set_export_name(nbd, "web") == 0 && nbd_opt_info(nbd) == 0 &&
			nbd_get_size(nbd) == SIZE,
		"INFO of web, on the same connection");
	tap_ok(nbd_set_export_name(nbd, "") == 0 && nbd_opt_go(nbd) == 0,
		"GO to the default export");
	nbd_close(nbd);
}

static int
add_extents(
	void *user, const char *context, uint64_t offset, uint32_t *entries, size_t n, int *error)
{
	struct extents *extents = user;

	(void)context;
	if (*error)
		return -1;
	for (size_t i = 0; i + 1 < n && extents->count < 64; i += 2) {
		extents->offset[extents->count] = offset + extents->covered;
		extents->length[extents->count] = entries[i];
		extents->flags[extents->count++] = entries[i + 1];
		extents->covered += entries[i];
	}
	return 0;
}

/* The flags of the byte at `offset`; all ones where no extent covers it. */
static uint32_t
flags_at(struct nbd_handle *nbd, uint64_t offset)
{
	struct extents extents = {0};

	if (nbd_block_status(nbd, 4096, offset, (nbd_extent_callback){add_extents, &extents, NULL},
		    LIBNBD_CMD_FLAG_REQ_ONE) < 0 ||
		extents.count != 1 || !extents.length[0] || extents.length[0] > 4096)
		return UINT32_MAX;
	return extents.flags[0];
}

static void
test_block_status(struct nbd_handle *nbd, const char *name)
{
	const uint32_t hole = LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO;
	struct extents extents = {0};
	int rc;

	tap_ok(nbd_pwrite(nbd, data, 65536, 8 << 20, 0) == 0 && flags_at(nbd, 8 << 20) == 0,
		"%s: written is data", name);
	tap_ok(flags_at(nbd, 40 << 20) == hole, "%s: never written is a hole of zeroes", name);
	tap_ok(nbd_trim(nbd, 65536, 8 << 20, 0) == 0 && flags_at(nbd, 8 << 20) == hole,
		"%s: trimmed is a hole of zeroes", name);
	tap_ok(nbd_pwrite(nbd, data, 65536, 8 << 20, 0) == 0 &&
			nbd_zero(nbd, 65536, 8 << 20, LIBNBD_CMD_FLAG_NO_HOLE) == 0 &&
			nbd_pread(nbd, have, 65536, 8 << 20, 0) == 0 && !have[0] &&
			!memcmp(have, have + 1, 65535),
		"%s: zeroed with NO_HOLE reads as zeroes", name);
	rc = nbd_block_status(nbd, SIZE, 0, (nbd_extent_callback){add_extents, &extents, NULL}, 0);
	tap_ok(rc == 0 && extents.covered > 0 && extents.covered <= SIZE,
		"%s: status of the whole disk: %u extents, %llu bytes", name, extents.count,
		(unsigned long long)extents.covered);
}

static void
test_data(struct nbd_handle *nbd, const char *name)
{
	bool same = true;

	tap_ok(nbd_pwrite(nbd, data, sizeof(data), 513, LIBNBD_CMD_FLAG_FUA) == 0 &&
			nbd_pread(nbd, have, sizeof(have), 513, 0) == 0 &&
			!memcmp(data, have, sizeof(data)),
		"%s: 1 MiB at an odd offset, FUA", name);
	for (unsigned i = 1; i < 300 && same; i++) {
		uint64_t offset = i * 7919, length = i * 3;

		same = nbd_pwrite(nbd, data + i, length, offset, 0) == 0 &&
		       nbd_pread(nbd, have, length, offset, 0) == 0 &&
		       !memcmp(data + i, have, length);
	}
	tap_ok(same, "%s: small unaligned writes", name);
	tap_ok(nbd_pwrite(nbd, data, 4096, 0, 0) == 0 && nbd_zero(nbd, 1000, 1000, 0) == 0 &&
			nbd_pread(nbd, have, 4096, 0, 0) == 0 && !memcmp(have, data, 1000) &&
			!have[1000] && !memcmp(have + 1000, have + 1001, 999) &&
			!memcmp(have + 2000, data + 2000, 2096),
		"%s: zeroing an unaligned range leaves its neighbours", name);
	tap_ok(nbd_flush(nbd, 0) == 0, "%s: flush", name);
}

static int
add_chunk(void *user, const void *bytes, size_t count, uint64_t offset, unsigned status, int *error)
{
	struct chunks *chunks = user;

	chunks->covered += count;
	if (*error || (const uint8_t *)bytes != chunks->buffer + (offset - chunks->start))
		chunks->wrong++;
	if (status == LIBNBD_READ_HOLE) {
		chunks->holes++;
	} else if (status == LIBNBD_READ_DATA) {
		chunks->data++;
		if (count > chunks->data_max)
			chunks->data_max = (uint32_t)count;
	} else {
		chunks->wrong++;
	}
	return 0;
}

/* 512 KiB of data with a hole of 256 KiB on either side. */
static void
test_structured_read(struct nbd_handle *nbd, const char *name)
{
	const uint64_t start = 20 << 20, hole = 256 * 1024;
	struct chunks chunks = {.buffer = have, .start = start};
	struct chunks whole = chunks;
	nbd_chunk_callback callback = {add_chunk, &chunks, NULL};
	int rc;

	if (nbd_trim(nbd, sizeof(have), start, 0) < 0 ||
		nbd_pwrite(nbd, data, 2 * hole, start + hole, 0) < 0)
		tap_bail("%s: %s", name, nbd_get_error());
	memset(have, 0x5a, sizeof(have));
	rc = nbd_pread_structured(nbd, have, sizeof(have), start, callback, 0);
	tap_ok(rc == 0 && !chunks.wrong && chunks.covered == sizeof(have) && chunks.holes == 2 &&
			chunks.data >= 2 && chunks.data_max <= hole,
		"%s: a structured read: %u holes, %u chunks of data", name, chunks.holes,
		chunks.data);
	tap_ok(!have[0] && !memcmp(have, have + 1, hole - 1) &&
			!memcmp(have + hole, data, 2 * hole) && !have[3 * hole] &&
			!memcmp(have + 3 * hole, have + 3 * hole + 1, hole - 1),
		"%s: and its bytes", name);
	callback.user_data = &whole;
	rc = nbd_pread_structured(nbd, have, sizeof(have), start, callback, LIBNBD_CMD_FLAG_DF);
	tap_ok(rc == 0 && !whole.wrong && whole.data == 1 && !whole.holes &&
			whole.covered == sizeof(have),
		"%s: with DF it comes in one piece", name);
}

/* What CAN_MULTI_CONN promises: one connection writes, another flushes, a third one reads. */
static void
test_multi_conn(const char *name)
{
	const uint64_t part = 256 * 1024, offset = 30 << 20;
	struct nbd_handle *nbd[4];
	bool told = true, same;

	for (unsigned i = 0; i < 4; i++) {
		nbd[i] = client_nbd(&server, name);
		told = told && nbd_can_multi_conn(nbd[i]) == 1;
	}
	tap_ok(told, "%s: each of 4 connections is told that there may be more", name);
	for (unsigned i = 0; i < 4; i++)
		if (nbd_aio_pwrite(nbd[i], data + i * part, part, offset + i * part,
			    NBD_NULL_COMPLETION, 0) < 0)
			tap_bail("%s", nbd_get_error());
	for (unsigned i = 0; i < 4; i++)
		while (nbd_aio_in_flight(nbd[i]) > 0)
			if (nbd_poll(nbd[i], 30000) <= 0)
				tap_bail("poll: %s", nbd_get_error());
	same = nbd_flush(nbd[1], 0) == 0 && nbd_pread(nbd[2], have, sizeof(have), offset, 0) == 0 &&
	       !memcmp(have, data, sizeof(have));
	tap_ok(same, "%s: what all of them wrote and one flushed, another reads", name);
	for (unsigned i = 0; i < 4; i++) {
		nbd_shutdown(nbd[i], 0);
		nbd_close(nbd[i]);
	}
}

static void
test_errors(struct nbd_handle *nbd)
{
	/* libnbd would refuse these itself. */
	nbd_set_strict_mode(nbd, 0);
	tap_ok(nbd_pread(nbd, have, 4096, SIZE - 512, 0) < 0 && nbd_get_errno() == EINVAL,
		"reading past the end: EINVAL");
	tap_ok(nbd_pwrite(nbd, data, 4096, SIZE - 512, 0) < 0 && nbd_get_errno() == ENOSPC,
		"writing past the end: ENOSPC");
	tap_ok(nbd_zero(nbd, 4096, UINT64_MAX - 100, 0) < 0 && nbd_get_errno() == ENOSPC,
		"zeroing past 2^64: ENOSPC");
	tap_ok(nbd_trim(nbd, 4096, SIZE, 0) < 0 && nbd_get_errno() == EINVAL,
		"trimming past the end: EINVAL");
	tap_ok(nbd_pread(nbd, have, 512, 0, 1U << 14) < 0 && nbd_get_errno() == EINVAL,
		"an unknown flag: EINVAL");
	tap_ok(nbd_pread(nbd, have, 512, 0, 0) == 0, "and the connection is in order");
}

/* 256 reads in flight on each of 4 connections; each gets its own data. */
static void
test_pipeline(void)
{
	static uint8_t blocks[4][256][4096];
	struct nbd_handle *nbd[4];
	unsigned wrong = 0;

	for (unsigned c = 0; c < 4; c++)
		nbd[c] = client_nbd(&server, "disk0");
	if (nbd_pwrite(nbd[0], data, sizeof(data), 0, 0) < 0)
		tap_bail("%s", nbd_get_error());
	for (unsigned c = 0; c < 4; c++)
		for (unsigned i = 0; i < 256; i++)
			if (nbd_aio_pread(nbd[c], blocks[c][i], 4096, (uint64_t)i * 4096,
				    NBD_NULL_COMPLETION, 0) < 0)
				tap_bail("%s", nbd_get_error());
	for (unsigned c = 0; c < 4; c++) {
		while (nbd_aio_in_flight(nbd[c]) > 0)
			if (nbd_poll(nbd[c], 30000) <= 0)
				tap_bail("poll: %s", nbd_get_error());
		for (unsigned i = 0; i < 256; i++)
			wrong += memcmp(blocks[c][i], data + i * 4096, 4096) != 0;
		nbd_shutdown(nbd[c], 0);
		nbd_close(nbd[c]);
	}
	tap_ok(!wrong, "1024 reads in flight on 4 connections: %u wrong", wrong);
}

static void
test_unix(void)
{
	struct nbd_handle *nbd = nbd_create();

	tap_ok(nbd && nbd_set_export_name(nbd, "disk0") == 0 &&
			nbd_connect_unix(nbd, server.nbd_unix + 5) == 0 &&
			nbd_pread(nbd, have, 4096, 0, 0) == 0,
		"over a unix socket");
	nbd_close(nbd);
}

/* EXPORT_NAME and simple replies, as old clients do it. */
static void
test_simple(void)
{
	struct nbd_handle *nbd = nbd_create();
	char uri[128];

	snprintf(uri, sizeof(uri), "nbd://%s/disk0", server.nbd);
	if (!nbd)
		tap_bail("nbd_create");
	nbd_set_request_structured_replies(nbd, false);
	nbd_set_handshake_flags(nbd, 0);
	tap_ok(nbd_connect_uri(nbd, uri) == 0 && nbd_get_size(nbd) == SIZE &&
			nbd_pwrite(nbd, data, 4096, 4096, 0) == 0 &&
			nbd_pread(nbd, have, 4096, 4096, 0) == 0 && !memcmp(data, have, 4096),
		"EXPORT_NAME, simple replies");
	nbd_close(nbd);
}

int
main(void)
{
	char file[160];
	const char *args[] = {"disk0=memory:64M", file, NULL};
	struct nbd_handle *nbd;
	uint64_t random;

	server_prepare(&server);
	snprintf(file, sizeof(file), "web=file:%s/web.img,size=64M", server.dir);
	server_start(&server, args);
	random = test_seed();
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(random_next(&random) | 1);

	nbd = client_nbd(&server, "disk0");
	test_negotiation(nbd);
	test_data(nbd, "memory");
	test_block_status(nbd, "memory");
	test_structured_read(nbd, "memory");
	test_errors(nbd);
	nbd_shutdown(nbd, 0);
	nbd_close(nbd);
	nbd = client_nbd(&server, "web");
	test_data(nbd, "file");
	test_block_status(nbd, "file");
	test_structured_read(nbd, "file");
	nbd_close(nbd);
	test_multi_conn("disk0");
	test_multi_conn("web");
	test_list();
	test_pipeline();
	test_unix();
	test_simple();
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
