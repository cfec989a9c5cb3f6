/* Vital product data: identity, limits and qualities. SPC-4 7.8, SBC-3 6 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <stdio.h>
#include <string.h>

#include "check.h"
#include "conf.h"

/* Designators, SPC-4 7.8, Device Identification page */
enum {
	CODE_BINARY = 1,
	CODE_ASCII = 2,
	CODE_UTF8 = 3,

	ASSOCIATION_UNIT = 0x00,
	ASSOCIATION_PORT = 0x10,
	ASSOCIATION_DEVICE = 0x20,

	DESIGNATOR_RELATIVE_PORT = 4,
	DESIGNATOR_PORT_GROUP = 5,
	DESIGNATOR_NAME = 8,

	PROTOCOL_ISCSI = 0x50, /* in the high nibble; with PIV */
	PIV = 0x80,
};

#define SERIAL_MAX 64

const char *
scsi_vendor(const struct scsi_unit *unit)
{
	return unit && unit->conf->vendor ? unit->conf->vendor : "SLABD";
}

const char *
scsi_product(const struct scsi_unit *unit)
{
	return unit && unit->conf->product ? unit->conf->product : "disk";
}

void
scsi_put_ascii(struct writer *w, const char *text, size_t length)
{
	size_t n = strnlen(text, length);

	for (size_t i = 0; i < length; i++)
		writer_u8(w, i < n && text[i] > 0x20 && text[i] < 0x7f ? (uint8_t)text[i] : ' ');
}

/* What is configured, or the uuid in hexadecimal: the same after a restart and on every path. */
static void
make_serial(const struct scsi_unit *unit, char serial[SERIAL_MAX + 1])
{
	if (unit->conf->serial) {
		snprintf(serial, SERIAL_MAX + 1, "%s", unit->conf->serial);
		return;
	}
	for (unsigned i = 0; i < sizeof(unit->info.uuid); i++)
		snprintf(serial + 2 * i, 3, "%02x", unit->info.uuid[i]);
}

/* NAA 3h: locally assigned, since nobody has a company identifier for us. */
uint64_t
scsi_naa(const uint8_t uuid[16])
{
	return (get_be64(uuid) & UINT64_C(0x0fffffffffffffff)) | UINT64_C(3) << 60;
}

/* EUI-64 of the range that is locally administered: U/L set, no group. */
uint64_t
scsi_eui_64(const uint8_t uuid[16])
{
	return (get_be64(uuid) & ~(UINT64_C(3) << 56)) | UINT64_C(2) << 56;
}

/* The pages, without their header */

static void put_supported(const struct scsi_task *task, struct writer *w);

static void
put_serial(const struct scsi_task *task, struct writer *w)
{
	char serial[SERIAL_MAX + 1];

	make_serial(task->unit, serial);
	scsi_put_ascii(w, serial, strlen(serial));
}

/* Returns where the length goes once it is known. */
static size_t
start_designator(struct writer *w, uint8_t code, uint8_t association, uint8_t type)
{
	bool port = association != ASSOCIATION_UNIT;

	writer_u8(w, (uint8_t)(code | (port ? PROTOCOL_ISCSI : 0)));
	writer_u8(w, (uint8_t)(association | type | (port ? PIV : 0)));
	writer_u8(w, 0);
	writer_u8(w, 0);
	return w->length;
}

static void
end_designator(struct writer *w, size_t start)
{
	if (!w->bad)
		w->start[start - 1] = (uint8_t)(w->length - start);
}

/* SCSI name string: UTF-8, ended and padded with NULs to a multiple of 4. */
static void
put_name(struct writer *w, uint8_t association, const char *name)
{
	size_t start = start_designator(w, CODE_UTF8, association, DESIGNATOR_NAME);
	size_t length = strlen(name);

	writer_bytes(w, name, length);
	writer_zero(w, 4 - length % 4);
	end_designator(w, start);
}

static void
put_unit_designators(const struct scsi_unit *unit, struct writer *w)
{
	char serial[SERIAL_MAX + 1], name[32];
	size_t start;

	start = start_designator(w, CODE_BINARY, ASSOCIATION_UNIT, DESIGNATOR_NAA);
	writer_be64(w, scsi_naa(unit->info.uuid));
	end_designator(w, start);

	start = start_designator(w, CODE_BINARY, ASSOCIATION_UNIT, DESIGNATOR_EUI_64);
	writer_be64(w, scsi_eui_64(unit->info.uuid));
	end_designator(w, start);

	make_serial(unit, serial);
	start = start_designator(w, CODE_ASCII, ASSOCIATION_UNIT, DESIGNATOR_T10);
	scsi_put_ascii(w, scsi_vendor(unit), 8);
	scsi_put_ascii(w, scsi_product(unit), 16);
	scsi_put_ascii(w, serial, strlen(serial));
	end_designator(w, start);

	snprintf(name, sizeof(name), "naa.%016llX", (unsigned long long)scsi_naa(unit->info.uuid));
	put_name(w, ASSOCIATION_UNIT, name);
}

static void
put_port_name(const struct scsi_nexus *nexus, const struct scsi_port *port, struct writer *w)
{
	char name[sizeof(nexus->target) + 16];

	snprintf(name, sizeof(name), "%s,t,0x%04x", nexus->target, (unsigned)port->group);
	put_name(w, ASSOCIATION_PORT, name);
}

/* Of the port the command came by. */
static void
put_port_designators(const struct scsi_task *task, struct writer *w)
{
	const struct scsi_port *port = scsi_nexus_find_port(task->nexus, task->portal_id);
	size_t start;

	start = start_designator(w, CODE_BINARY, ASSOCIATION_PORT, DESIGNATOR_RELATIVE_PORT);
	writer_be16(w, 0);
	writer_be16(w, task->portal_id);
	end_designator(w, start);
	if (!port)
		return;
	start = start_designator(w, CODE_BINARY, ASSOCIATION_PORT, DESIGNATOR_PORT_GROUP);
	writer_be16(w, 0);
	writer_be16(w, port->group);
	end_designator(w, start);
	put_port_name(task->nexus, port, w);
}

static void
put_identification(const struct scsi_task *task, struct writer *w)
{
	put_unit_designators(task->unit, w);
	put_port_designators(task, w);
	put_name(w, ASSOCIATION_DEVICE, task->nexus->target);
}

static void
put_extended_inquiry(const struct scsi_task *task, struct writer *w)
{
	writer_u8(w, 0);
	writer_u8(w, 0x07);                                       /* HEADSUP, ORDSUP, SIMPSUP */
	writer_u8(w, task->unit->info.volatile_cache ? 0x01 : 0); /* V_SUP */
	writer_zero(w, 57);
}

/* Every page is one for all: what a nexus changes holds for each. */
static void
put_mode_policy(const struct scsi_task *task, struct writer *w)
{
	(void)task;
	writer_u8(w, MODE_ALL);
	writer_u8(w, SUBPAGE_ALL);
	writer_be16(w, 0); /* of this unit alone (MLUS 0), shared */
}

static void
put_ports(const struct scsi_task *task, struct writer *w)
{
	const struct scsi_nexus *nexus = task->nexus;

	for (unsigned i = 0; i < nexus->nports; i++) {
		size_t start;

		writer_be16(w, 0);
		writer_be16(w, nexus->ports[i].relative_id);
		writer_be32(w, 0); /* a target port: no initiator's TransportID */
		writer_be32(w, 0);
		start = w->length;
		put_port_name(nexus, &nexus->ports[i], w);
		if (!w->bad)
			put_be16(w->start + start - 2, (uint16_t)(w->length - start));
	}
}
/* 12 bytes of a port, 4 of its designator, and its name with an end and padding. */
_Static_assert(4 + LIMIT_LISTENERS * (12 + 4 + LIMIT_ISCSI_NAME + 9 + 4) <= SCSI_INQUIRY_MAX,
	"every port fits the page");

/* Lengths in blocks. */
static void
put_block_limits(const struct scsi_task *task, struct writer *w)
{
	const struct scsi_unit *unit = task->unit;
	const struct blk_info *info = &unit->info;
	unsigned shift = unit->block_shift;
	uint64_t optimal = min_u64(MIB, unit->transfer_max);
	uint32_t granularity = info->discard_granularity >> shift;

	writer_u8(w, 0); /* no WSNZ: WRITE SAME of 0 blocks goes to the end */
	writer_u8(
		w, (uint8_t)min_u64(unit->compare_max >> shift, UINT8_MAX)); /* COMPARE AND WRITE */
	writer_be16(w, (uint16_t)min_u64(info->physical_block_size >> shift, UINT16_MAX));
	writer_be32(w, (uint32_t)(unit->transfer_max >> shift));
	writer_be32(w, (uint32_t)(optimal >> shift));
	writer_be32(w, 0); /* prefetch */
	writer_be32(w, unit->thin ? UINT32_MAX : 0);
	writer_be32(w, unit->thin ? LIMIT_SCSI_UNMAP : 0);
	writer_be32(w, unit->thin && granularity == 0 ? 1 : granularity);
	writer_be32(w, unit->thin ? UINT32_C(1) << 31 : 0); /* UGAVALID: aligned at 0 */
	writer_be64(w, LIMIT_SCSI_WRITE_SAME >> shift);
	writer_be32(w, (uint32_t)(unit->atomic_max >> shift));
	writer_be32(w, unit->atomic_unit >> shift); /* alignment, and granularity */
	writer_be32(w, unit->atomic_unit >> shift);
	writer_zero(w, 8); /* no atomic boundaries */
}

static void
put_characteristics(const struct scsi_task *task, struct writer *w)
{
	writer_be16(w, task->unit->info.rotational ? 7200 : 1); /* 1: not rotating */
	writer_u8(w, 0);
	writer_u8(w, 0x40); /* WABEREQ: erased blocks read without error; no cryptographic erase */
	writer_zero(w, 56);
}

static void
put_provisioning(const struct scsi_task *task, struct writer *w)
{
	const struct scsi_unit *unit = task->unit;
	bool zeroes = unit->thin && unit->info.sparse;

	/* Threshold sets of 1 << this logical blocks. */
	writer_u8(w, (uint8_t)(unit->thin ? unit->threshold_shift - unit->block_shift : 0));
	writer_u8(w, (uint8_t)((unit->thin ? 0xe2 : 0) | /* LBPU LBPWS LBPWS10 ANC_SUP */
			       (zeroes ? 0x04 : 0)));
	writer_u8(w, unit->thin ? 2 : 0); /* thin provisioned */
	writer_u8(w, 0);
}

/* Not zoned: nothing is reported but that (ZBC 6.5.2). */
static void
put_zones(const struct scsi_task *task, struct writer *w)
{
	(void)task;
	writer_be32(w, 0);
	for (unsigned i = 0; i < 3; i++)
		writer_be32(w, UINT32_MAX); /* zones that may be open: not reported */
	writer_zero(w, 44);
}

/* No streams, and no WRITE SCATTERED (SBC-4 6.6.5). */
static void
put_more_limits(const struct scsi_task *task, struct writer *w)
{
	(void)task;
	writer_zero(w, 60);
}

static const struct {
	uint8_t page;
	void (*put)(const struct scsi_task *task, struct writer *w);
} pages[] = {
	/* ascending, as page 00h must list them */
	{VPD_SUPPORTED, put_supported},
	{VPD_SERIAL, put_serial},
	{VPD_IDENTIFICATION, put_identification},
	{VPD_EXTENDED_INQUIRY, put_extended_inquiry},
	{VPD_MODE_POLICY, put_mode_policy},
	{VPD_PORTS, put_ports},
	{VPD_THIRD_PARTY_COPY, scsi_put_third_party_copy},
	{VPD_BLOCK_LIMITS, put_block_limits},
	{VPD_CHARACTERISTICS, put_characteristics},
	{VPD_PROVISIONING, put_provisioning},
	{VPD_ZONES, put_zones},
	{VPD_MORE_LIMITS, put_more_limits},
};

static void
put_supported(const struct scsi_task *task, struct writer *w)
{
	(void)task;
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
		writer_u8(w, pages[i].page);
}

bool
scsi_vpd_exists(uint8_t page)
{
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (pages[i].page == page)
			return true;
	}
	return false;
}

void
scsi_vpd_page(const struct scsi_task *task, uint8_t page, struct writer *w)
{
	writer_u8(w, 0); /* connected, direct access block device */
	writer_u8(w, page);
	writer_be16(w, 0);
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (pages[i].page == page)
			pages[i].put(task, w);
	}
	CHECK(!w->bad && w->length >= 4);
	put_be16(w->start + 2, (uint16_t)(w->length - 4));
}
