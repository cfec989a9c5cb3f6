#include "config.h"

#include "iscsi_peer.h"

#include <errno.h>
#include <stdio.h>

#include "bytes.h"
#include "log.h"
#include "scsi/scsi.h"
#include "slab.h"
#include "volume.h"

struct world world;

static struct pdu received;

static void
keep_catalogue(struct catalogue *unused)
{
	(void)unused;
}

void
world_start_with(const struct volume_script_options *options)
{
	struct volume_script_options all = {.not_inline = true, .volatile_cache = true};

	if (options)
		all = *options;
	all.size = WORLD_SIZE;
	memset(&world, 0, sizeof(world));
	virtual_loops_start(2);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(iobuf_start(), 0);
	assert_int_equal(storage_start(0), 0);
	assert_int_equal(iscsi_frontend.start(), 0);
	world.script = volume_script_open(&all);
	world.luns[0] = (struct lun){.number = 0, .volume = volume_script_volume(world.script)};
	world.targets[0] = (struct target){.name = WORLD_TARGET, .luns = world.luns, .nluns = 1};
	world.targets[1] = (struct target){.name = WORLD_OTHER, .luns = world.luns, .nluns = 1};
	world.portals[0] = (struct portal){.address = "0.0.0.0:3260", .group = 1, .relative_id = 1};
	world.portals[1] = (struct portal){.address = "10.0.0.1:3261",
		.advertise = "192.0.2.7:3261",
		.group = 2,
		.relative_id = 2};
	world.catalogue = (struct catalogue){.references = 1,
		.targets = world.targets,
		.ntargets = 2,
		.portals = world.portals,
		.nportals = 2,
		.destroy = keep_catalogue};
	catalogue_publish(&world.catalogue);
}

int
world_start(void **state)
{
	(void)state;
	world_start_with(NULL);
	return 0;
}

unsigned
world_connections(unsigned loop)
{
	unsigned in_flight, count;
	struct loop *before = virtual_as(loop_by_index(loop));

	count = iscsi_frontend.connections(loop_by_index(loop), &in_flight);
	virtual_as(before);
	return count;
}

static void
check_cache(const struct slab_stats *stats, void *arg)
{
	(void)arg;
	if (strncmp(stats->name, "iscsi_", 6) == 0 && stats->active != 0)
		fail_msg("%s: %lu objects left", stats->name, (unsigned long)stats->active);
}

int
world_stop(void **state)
{
	(void)state;
	virtual_run_until_idle();
	assert_int_equal(world_connections(0), 0);
	assert_int_equal(world_connections(1), 0);
	assert_int_equal(iobuf_reserved(0), 0);
	assert_int_equal(iobuf_reserved(1), 0);
	slab_for_each(check_cache, NULL);
	catalogue_publish(NULL);
	volume_script_close(world.script);
	virtual_run_until_idle();
	iscsi_frontend.stop();
	storage_stop();
	virtual_loops_stop();
	return 0;
}

struct peer *
peer_new(unsigned loop)
{
	static unsigned serial;
	struct peer *peer = calloc(1, sizeof(*peer));
	struct loop *before = virtual_as(loop_by_index(loop));

	assert_non_null(peer);
	peer->name = PEER_NAME;
	peer->cmdsn = 0xfffffff0; /* numbers wrap on the way */
	peer->statsn = 77;
	peer->itt = 1000;
	memcpy(peer->isid, (uint8_t[]){0x40, 1, 2, 3, 0, (uint8_t)++serial}, 6);
	peer->pipe = pipe_new();
	pipe_set_peer(peer->pipe, "10.0.0.7:41332", "10.0.0.1:3260");
	iscsi_frontend.accept(loop_by_index(loop), pipe_stream(peer->pipe), &world.portals[0]);
	virtual_as(before);
	return peer;
}

bool
peer_open(const struct peer *peer)
{
	return !pipe_closed(peer->pipe);
}

void
peer_free(struct peer *peer)
{
	if (peer_open(peer)) {
		pipe_feed_eof(peer->pipe);
		virtual_run_until_idle();
	}
	if (peer_open(peer)) { /* it does not read now: time or its own words will tell it */
		pipe_fail_write(peer->pipe, -EPIPE);
		virtual_advance(2 * LIMIT_OUTPUT_STALL);
	}
	assert_false(peer_open(peer));
	pipe_free(peer->pipe);
	free(peer);
}

/* Bit by bit, from the polynomial: not the library the target uses. */
uint32_t
peer_crc(const void *data, size_t length)
{
	const uint8_t *p = data;
	uint32_t crc = 0xffffffff;
	unsigned bit;

	while (length-- > 0) {
		crc ^= *p++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static void
put_crc(uint8_t *out, uint32_t crc)
{
	for (unsigned i = 0; i < 4; i++)
		out[i] = (uint8_t)(crc >> (8 * i));
}

static uint32_t
get_crc(const uint8_t *in)
{
	return (uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 |
	       (uint32_t)in[3] << 24;
}

uint8_t *
peer_start(struct peer *peer, enum iscsi_opcode opcode)
{
	memset(peer->bhs, 0, sizeof(peer->bhs));
	peer->bhs[BHS_OPCODE] = (uint8_t)opcode;
	peer->bhs[BHS_FLAGS] = ISCSI_FINAL;
	put_be32(peer->bhs + BHS_ITT, ++peer->itt);
	put_be32(peer->bhs + BHS_CMDSN, peer->cmdsn);
	put_be32(peer->bhs + BHS_EXPSTATSN, peer->statsn);
	return peer->bhs;
}

size_t
peer_compose(struct peer *peer, const void *data, size_t length, uint8_t *out)
{
	size_t n = ISCSI_BHS, pad = -length & 3, start;

	put_be24(peer->bhs + BHS_DATA_LENGTH, (uint32_t)length);
	memcpy(out, peer->bhs, ISCSI_BHS);
	if (peer->header_digest) {
		put_crc(out + n, peer_crc(out, n) ^ peer->spoil_header);
		n += 4;
	}
	start = n;
	if (length)
		memcpy(out + n, data, length);
	memset(out + n + length, 0, pad);
	n += length + pad;
	if (peer->data_digest && length) {
		put_crc(out + n, peer_crc(out + start, n - start) ^ peer->spoil_data);
		n += 4;
	}
	peer->spoil_header = peer->spoil_data = false;
	if (!(peer->bhs[BHS_OPCODE] & ISCSI_IMMEDIATE) &&
		(peer->bhs[BHS_OPCODE] & ISCSI_OPCODE_MASK) != ISCSI_DATA_OUT)
		peer->cmdsn++;
	return n;
}

void
peer_send(struct peer *peer, const void *data, size_t length)
{
	uint8_t *out = malloc(ISCSI_BHS + length + 16);
	size_t n;

	assert_non_null(out);
	n = peer_compose(peer, data, length, out);
	pipe_feed(peer->pipe, out, n);
	free(out);
}

bool
peer_try(struct peer *peer, struct pdu *pdu)
{
	size_t have, need, pad, digests;
	const uint8_t *p;

	virtual_run_until_idle();
	p = pipe_output(peer->pipe, &have);
	if (have == 0)
		return false;
	need = ISCSI_BHS + (peer->header_digest ? 4 : 0);
	assert_true(have >= need);
	memcpy(pdu->bhs, p, ISCSI_BHS);
	assert_int_equal(pdu->bhs[BHS_AHS_LENGTH], 0);
	if (peer->header_digest)
		assert_int_equal(get_crc(p + ISCSI_BHS), peer_crc(p, ISCSI_BHS));
	pdu->length = get_be24(p + BHS_DATA_LENGTH);
	assert_true(pdu->length <= sizeof(pdu->data));
	pad = -pdu->length & 3;
	digests = peer->data_digest && pdu->length ? 4 : 0;
	assert_true(have >= need + pdu->length + pad + digests);
	memcpy(pdu->data, p + need, pdu->length);
	for (size_t i = 0; i < pad; i++)
		assert_int_equal(p[need + pdu->length + i], 0);
	if (digests)
		assert_int_equal(get_crc(p + need + pdu->length + pad),
			peer_crc(p + need, pdu->length + pad));
	pipe_take(peer->pipe, NULL, need + pdu->length + pad + digests);
	return true;
}

/* PDUs that carry a StatSN of their own, 4.2.2.2. */
static bool
advances_statsn(const struct pdu *pdu)
{
	switch (pdu->bhs[BHS_OPCODE]) {
	case ISCSI_R2T:
		return false;
	case ISCSI_NOP_IN: /* a ping of the target's carries the next one */
		return get_be32(pdu->bhs + BHS_ITT) != ISCSI_TAG_NONE;
	case ISCSI_DATA_IN:
		return pdu->bhs[BHS_FLAGS] & ISCSI_DATA_IN_STATUS;
	default:
		return true;
	}
}

struct pdu *
peer_expect(struct peer *peer, enum iscsi_opcode opcode)
{
	if (!peer_try(peer, &received))
		fail_msg("no PDU where %02x was due", opcode);
	assert_int_equal(received.bhs[BHS_OPCODE], opcode);
	if (advances_statsn(&received)) {
		assert_int_equal(get_be32(received.bhs + BHS_STATSN), peer->statsn);
		peer->statsn++;
	} else if (opcode != ISCSI_DATA_IN) {
		assert_int_equal(get_be32(received.bhs + BHS_STATSN), peer->statsn);
	}
	return &received;
}

void
peer_expect_nothing(struct peer *peer)
{
	if (peer_try(peer, &received))
		fail_msg("unexpected PDU %02x", received.bhs[BHS_OPCODE]);
}

void
peer_expect_closed(struct peer *peer)
{
	virtual_run_until_idle();
	assert_false(peer_open(peer));
	assert_int_equal(pipe_output_length(peer->pipe), 0);
}

size_t
text_of(const char *lines, uint8_t *out)
{
	size_t n = strlen(lines);

	for (size_t i = 0; i < n; i++)
		out[i] = (uint8_t)(lines[i] == '\n' ? 0 : lines[i]);
	return n;
}

bool
text_is(const struct pdu *pdu, const char *lines)
{
	uint8_t text[LIMIT_ISCSI_TEXT];
	size_t n = text_of(lines, text);

	if (pdu->length == n && memcmp(pdu->data, text, n) == 0)
		return true;
	for (size_t i = 0; i < pdu->length; i++)
		print_message("%c", pdu->data[i] ? pdu->data[i] : '\n');
	return false;
}

bool
text_has(const struct pdu *pdu, const char *line)
{
	size_t n = strlen(line) + 1;

	for (size_t i = 0; i + n <= pdu->length; i++) {
		if (memcmp(pdu->data + i, line, n) == 0 && (i == 0 || pdu->data[i - 1] == 0))
			return true;
	}
	return false;
}

int
peer_login_step(struct peer *peer, uint8_t flags, const char *lines, struct pdu *response)
{
	uint8_t text[LIMIT_ISCSI_TEXT];
	size_t n = text_of(lines, text);
	uint8_t *bhs = peer_start(peer, ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE);

	put_be32(bhs + BHS_ITT, 5);
	bhs[BHS_FLAGS] = flags;
	memcpy(bhs + BHS_ISID, peer->isid, 6);
	put_be16(bhs + BHS_TSIH, peer->tsih);
	put_be16(bhs + BHS_CID, peer->cid);
	peer_send(peer, text, n);
	if (!peer_try(peer, response))
		return -1;
	assert_int_equal(response->bhs[BHS_OPCODE], ISCSI_LOGIN_RESPONSE);
	assert_int_equal(get_be32(response->bhs + BHS_ITT), 5);
	if (get_be16(response->bhs + BHS_STATUS_CLASS) == 0) {
		assert_int_equal(get_be32(response->bhs + BHS_STATSN), peer->statsn);
		assert_int_equal(get_be32(response->bhs + BHS_EXPCMDSN), peer->cmdsn);
	}
	peer->statsn++;
	return get_be16(response->bhs + BHS_STATUS_CLASS);
}

void
peer_login(struct peer *peer, const char *more)
{
	char lines[4096];

	snprintf(lines, sizeof(lines), "InitiatorName=%s\nTargetName=%s\n%s", peer->name,
		WORLD_TARGET, more ? more : "");
	assert_int_equal(peer_login_step(peer, 0x87, lines, &received), 0);
	assert_int_equal(received.bhs[BHS_FLAGS], 0x87);
	assert_true(get_be16(received.bhs + BHS_TSIH) != 0);
	peer->tsih = get_be16(received.bhs + BHS_TSIH);
	assert_true(text_has(&received, "TargetPortalGroupTag=1"));
	peer->header_digest = text_has(&received, "HeaderDigest=CRC32C");
	peer->data_digest = text_has(&received, "DataDigest=CRC32C");
}

void
peer_discover(struct peer *peer)
{
	char lines[512];

	snprintf(lines, sizeof(lines), "InitiatorName=%s\nSessionType=Discovery\n", peer->name);
	assert_int_equal(peer_login_step(peer, 0x87, lines, &received), 0);
}

struct peer *
peer_join(const struct peer *other, unsigned loop, uint16_t cid)
{
	struct peer *peer = peer_new(loop);

	memcpy(peer->isid, other->isid, 6);
	peer->tsih = other->tsih;
	peer->cid = cid;
	peer->cmdsn = other->cmdsn;
	peer->itt = other->itt + 0x10000u * (cid + 1u); /* one space of tags for all */
	return peer;
}

uint8_t *
peer_command(struct peer *peer, uint8_t flags, uint32_t edtl, const void *cdb, size_t length)
{
	uint8_t *bhs = peer_start(peer, ISCSI_COMMAND);

	bhs[BHS_FLAGS] = ISCSI_FINAL | flags;
	put_be32(bhs + BHS_EDTL, edtl);
	memcpy(bhs + BHS_CDB, cdb, length);
	return bhs;
}

static uint8_t *
start_transfer(struct peer *peer, uint8_t opcode, uint8_t flags, uint32_t lba, uint16_t blocks)
{
	uint8_t cdb[10] = {opcode};

	put_be32(cdb + 2, lba);
	put_be16(cdb + 7, blocks);
	return peer_command(peer, flags, (uint32_t)blocks * 512, cdb, sizeof(cdb));
}

uint8_t *
peer_read10(struct peer *peer, uint32_t lba, uint16_t blocks)
{
	return start_transfer(peer, 0x28, ISCSI_COMMAND_READ, lba, blocks);
}

uint8_t *
peer_write10(struct peer *peer, uint32_t lba, uint16_t blocks)
{
	return start_transfer(peer, 0x2a, ISCSI_COMMAND_WRITE, lba, blocks);
}

int
peer_status(struct peer *peer)
{
	return peer_expect(peer, ISCSI_RESPONSE)->bhs[BHS_STATUS];
}

void
peer_clear_attention(struct peer *peer)
{
	uint8_t cdb[6] = {0};
	int status, tries = 0;

	do {
		peer_command(peer, 0, 0, cdb, sizeof(cdb));
		peer_send(peer, NULL, 0);
		status = peer_status(peer);
	} while (status != SCSI_GOOD && ++tries < 4);
	assert_int_equal(status, SCSI_GOOD);
}

void
peer_data_out(struct peer *peer, uint32_t itt, uint32_t ttt, const uint8_t *data, size_t offset,
	size_t length, size_t segment)
{
	uint32_t datasn = 0;
	uint8_t *bhs;
	size_t part;

	while (length > 0) {
		part = length < segment ? length : segment;
		bhs = peer_start(peer, ISCSI_DATA_OUT);
		peer->itt--;
		bhs[BHS_FLAGS] = part == length ? ISCSI_FINAL : 0;
		put_be32(bhs + BHS_ITT, itt);
		put_be32(bhs + BHS_TTT, ttt);
		put_be32(bhs + BHS_CMDSN, 0);
		put_be32(bhs + BHS_DATASN, datasn++);
		put_be32(bhs + BHS_OFFSET, (uint32_t)offset);
		peer_send(peer, data + offset, part);
		offset += part;
		length -= part;
	}
}

void
fill_pattern(uint8_t *data, size_t length, unsigned seed)
{
	uint32_t x = seed * 2654435761u + 1;

	for (size_t i = 0; i < length; i++) {
		x = x * 1664525u + 1013904223u;
		data[i] = (uint8_t)(x >> 24);
	}
}

struct peer *
peer_session(const char *keys)
{
	struct peer *peer = peer_new(0);

	peer_login(peer, keys);
	peer_clear_attention(peer);
	return peer;
}
