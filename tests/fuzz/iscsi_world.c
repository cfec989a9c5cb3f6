#include "config.h"

#include "iscsi_world.h"

#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "catalogue.h"
#include "check.h"
#include "frontend.h"
#include "iobuf.h"
#include "iscsi/iscsi_wire.h"
#include "limits.h"
#include "log.h"
#include "volume.h"

static struct lun luns[2] = {{.number = 0}, {.number = 3, .read_only = true}};
static const struct credential alice = {"alice", "twelve bytes"};
static const struct credential own = {"target", "other twelve"};
static const struct initiator friend = {
	.name = WORLD_FRIEND, .as = {.name = WORLD_RULES, .luns = luns, .nluns = 1}};
static const struct target targets[] = {
	{.name = WORLD_OPEN, .luns = luns, .nluns = 2},
	{.name = WORLD_CHAP, .luns = luns, .nluns = 2, .chap = &alice, .nchap = 1, .mutual = &own},
	{.name = WORLD_RULES, .luns = luns, .nluns = 2, .initiators = &friend, .ninitiators = 1},
};
static const struct portal portals[] = {
	{.address = "0.0.0.0:3260", .group = 1, .relative_id = 1},
	{.address = "127.0.0.1:3261", .group = 2, .relative_id = 2},
};

static struct catalogue catalogue;

static void
keep_catalogue(struct catalogue *unused)
{
	(void)unused;
}

static void
publish_targets(struct volume *volume)
{
	luns[0].volume = luns[1].volume = volume;
	catalogue = (struct catalogue){.references = 1,
		.targets = targets,
		.ntargets = ARRAY_SIZE(targets),
		.portals = portals,
		.nportals = ARRAY_SIZE(portals),
		.chap_algorithms = {7, 8, 6, 5},
		.nchap_algorithms = 4,
		.destroy = keep_catalogue};
	catalogue_publish(&catalogue);
}

static struct world the_world = {.frontend = &iscsi_frontend, .publish = publish_targets};

struct world *
world_begin(void)
{
	world_open(&the_world);
	memset(volume_script_data(the_world.script), 0x5a, WORLD_SIZE);
	pipe_set_peer(the_world.pipe, "10.0.0.7:41332", "10.0.0.1:3260");
	iscsi_frontend.accept(the_world.loop, pipe_stream(the_world.pipe), &portals[0]);
	virtual_run_until_idle();
	return &the_world;
}

/* Sends a login of CID `cid` by world->pipe. The session's TSIH. */
static uint16_t
send_login(struct world *world, const char *text, size_t length, uint16_t tsih, uint16_t cid)
{
	uint8_t pdu[ISCSI_BHS + 512] = {ISCSI_LOGIN_REQUEST | ISCSI_IMMEDIATE, 0x87};
	const uint8_t *output;
	size_t n;

	memcpy(pdu + ISCSI_BHS, text, length);
	put_be24(pdu + BHS_DATA_LENGTH, (uint32_t)length);
	pdu[BHS_ISID] = 0x40;
	put_be16(pdu + BHS_TSIH, tsih);
	put_be16(pdu + BHS_CID, cid);
	put_be32(pdu + BHS_CMDSN, 1);
	world_feed(world, pdu, ISCSI_BHS + (length + 3) / 4 * 4);
	output = pipe_output(world->pipe, &n);
	CHECK(n > ISCSI_BHS && get_be16(output + BHS_STATUS_CLASS) == 0);
	tsih = get_be16(output + BHS_TSIH);
	pipe_take(world->pipe, NULL, SIZE_MAX);
	return tsih;
}

static uint16_t session;

void
world_login(struct world *world, bool discovery, bool digests)
{
	char text[512];
	int n;

	n = snprintf(text, sizeof(text),
		"InitiatorName=%s%c%s=%s%cHeaderDigest=%s%cDataDigest=%s%cInitialR2T=No%c"
		"MaxConnections=2%c",
		WORLD_FRIEND, 0, discovery ? "SessionType" : "TargetName",
		discovery ? "Discovery" : WORLD_OPEN, 0, digests ? "CRC32C" : "None", 0,
		digests ? "CRC32C" : "None", 0, 0, 0);
	session = send_login(world, text, (size_t)n, 0, 0);
}

void
world_join(struct world *world)
{
	struct stream_pipe *first = world->pipe;
	char text[512];
	int n;

	world->pipe = pipe_new();
	pipe_set_peer(world->pipe, "10.0.0.7:41333", "10.0.0.1:3260");
	iscsi_frontend.accept(world->loop, pipe_stream(world->pipe), &portals[0]);
	n = snprintf(text, sizeof(text), "InitiatorName=%s%cTargetName=%s%c", WORLD_FRIEND, 0,
		WORLD_OPEN, 0);
	send_login(world, text, (size_t)n, session, 1);
	world->other = world->pipe;
	world->pipe = first;
}

void
world_check_output(struct world *world, bool digests)
{
	size_t length, data, pdu;
	const uint8_t *at = pipe_output(world->pipe, &length);

	while (length >= ISCSI_BHS) {
		switch (at[BHS_OPCODE]) {
		case ISCSI_NOP_IN:
		case ISCSI_RESPONSE:
		case ISCSI_TASK_RESPONSE:
		case ISCSI_LOGIN_RESPONSE:
		case ISCSI_TEXT_RESPONSE:
		case ISCSI_DATA_IN:
		case ISCSI_LOGOUT_RESPONSE:
		case ISCSI_R2T:
		case ISCSI_ASYNC:
		case ISCSI_REJECT:
			break;
		default:
			CHECK(!"a PDU of unknown kind");
		}
		CHECK(at[BHS_AHS_LENGTH] == 0);
		data = get_be24(at + BHS_DATA_LENGTH);
		pdu = ISCSI_BHS + (digests ? 4u : 0u) + (data + 3) / 4 * 4 +
		      (digests && data ? 4u : 0u);
		if (pdu > length)
			break; /* the connection ended in the middle of it */
		at += pdu;
		length -= pdu;
	}
	pipe_take(world->pipe, NULL, SIZE_MAX);
}
