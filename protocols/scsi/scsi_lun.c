/* LUNs as a nexus sees them: the map of its target, each logical unit opened when it is first used.
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"
#include "log.h"
#include "volume.h"

/* SAM-5 4.7: single level, peripheral (bus 0) or flat space addressing. -1: any other. */
static int
parse_lun(const uint8_t lun[8])
{
	uint64_t all = get_be64(lun);

	if (all & UINT64_C(0xffffffffffff)) /* no second level */
		return -1;
	switch (lun[0] >> 6) {
	case 0:
		return lun[0] == 0 ? lun[1] : -1;
	case 1:
		return (lun[0] & 0x3f) << 8 | lun[1];
	default:
		return -1;
	}
}

static struct scsi_map *
find_map(const struct scsi_nexus *nexus, const uint8_t lun[8])
{
	unsigned low = 0, high = nexus->nmap;
	int number = parse_lun(lun);

	if (number < 0)
		return NULL;
	/* Numbered from 0 without a gap, as nearly always. */
	if ((unsigned)number < high && nexus->map[number].number == number)
		return &nexus->map[number];
	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (nexus->map[middle].number == number)
			return &nexus->map[middle];
		if (nexus->map[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static int
copy_map(struct scsi_nexus *nexus, const struct target *target)
{
	size_t n = min_size(target->nluns, LIMIT_SCSI_LUNS);

	if (n < target->nluns)
		log_warn("target %s: %zu LUNs, only the first %zu are seen by %s", target->name,
			target->nluns, n, nexus->initiator);
	if (n == 0)
		return 0;
	nexus->map = calloc(n, sizeof(*nexus->map));
	if (!nexus->map)
		return -ENOMEM;
	nexus->nmap = (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		nexus->map[i].number = target->luns[i].number;
		nexus->map[i].read_only = target->luns[i].read_only;
		nexus->map[i].volume = volume_get(target->luns[i].volume);
	}
	return 0;
}

struct scsi_port *
scsi_nexus_find_port(const struct scsi_nexus *nexus, uint16_t relative_id)
{
	for (unsigned i = 0; i < nexus->nports; i++) {
		if (nexus->ports[i].relative_id == relative_id)
			return &nexus->ports[i];
	}
	return NULL;
}

/* RFC 7143 4.4.1: a portal group is one SCSI port, through however many portals. */
static int
copy_ports(struct scsi_nexus *nexus, const struct catalogue *catalogue)
{
	if (catalogue->nportals == 0)
		return 0;
	nexus->ports = calloc(catalogue->nportals, sizeof(*nexus->ports));
	if (!nexus->ports)
		return -ENOMEM;
	for (size_t i = 0; i < catalogue->nportals; i++) {
		const struct portal *portal = &catalogue->portals[i];

		if (!scsi_nexus_find_port(nexus, portal->relative_id))
			nexus->ports[nexus->nports++] = (struct scsi_port){
				.relative_id = portal->relative_id, .group = portal->group};
	}
	return 0;
}

struct scsi_nexus *
scsi_nexus_new(
	const struct catalogue *catalogue, const struct target *target, const char *initiator)
{
	struct scsi_nexus *nexus = calloc(1, sizeof(*nexus));

	if (!nexus)
		return NULL;
	snprintf(nexus->initiator, sizeof(nexus->initiator), "%s", initiator);
	snprintf(nexus->target, sizeof(nexus->target), "%s", target->name);
	if (copy_map(nexus, target) < 0 || copy_ports(nexus, catalogue) < 0) {
		scsi_nexus_free(nexus);
		return NULL;
	}
	return nexus;
}

bool
scsi_nexus_port(const struct scsi_nexus *nexus, uint16_t relative_id, char name[RESERVATION_NAME])
{
	const struct scsi_port *port = scsi_nexus_find_port(nexus, relative_id);

	if (port)
		snprintf(name, RESERVATION_NAME, "%s,t,0x%04x", nexus->target,
			(unsigned)port->group);
	return port != NULL;
}

/* The volume has left this LUN for good. */
static void
clear_map(struct scsi_map *map)
{
	if (map->unit)
		scsi_unit_close(map->unit);
	map->unit = NULL;
	if (map->volume)
		volume_put(map->volume);
	map->volume = NULL;
}

void
scsi_nexus_free(struct scsi_nexus *nexus)
{
	for (unsigned i = 0; i < nexus->nmap; i++)
		clear_map(&nexus->map[i]);
	free(nexus->map);
	free(nexus->ports);
	free(nexus);
}

int
scsi_nexus_unit(struct scsi_nexus *nexus, const uint8_t lun[8], struct scsi_unit **unit)
{
	struct scsi_map *map = find_map(nexus, lun);
	int rc;

	if (!map || map->gone)
		return -ENXIO;
	if (!map->unit) {
		rc = scsi_unit_open(nexus, map, &map->unit);
		if (rc < 0)
			return rc == -ENOMEM ? rc : -ENXIO;
	}
	*unit = map->unit;
	return 0;
}

void
scsi_nexus_leave(struct scsi_unit *unit)
{
	struct scsi_map *map = unit->map;

	if (--unit->tasks == 0 && map->gone)
		clear_map(map);
}

bool
scsi_nexus_drop_volume(struct scsi_nexus *nexus, struct volume *volume)
{
	bool left = false;

	for (unsigned i = 0; i < nexus->nmap; i++) {
		struct scsi_map *map = &nexus->map[i];

		if (map->volume == volume) {
			map->gone = true;
			if (!map->unit || map->unit->tasks == 0)
				clear_map(map);
		}
		left |= !map->gone;
	}
	return !left;
}

void
scsi_nexus_describe(const struct scsi_nexus *nexus, char *text, size_t size)
{
	size_t length = 0;

	if (size)
		text[0] = '\0';
	for (unsigned i = 0; i < nexus->nmap && length < size; i++) {
		const struct scsi_map *map = &nexus->map[i];
		int n;

		if (!map->unit)
			continue;
		if (nexus->nmap == 1)
			n = snprintf(text, size, "%s", volume_name(map->volume));
		else
			n = snprintf(text + length, size - length, "%s%s:%u", length ? " " : "",
				volume_name(map->volume), (unsigned)map->number);
		length += n > 0 ? (size_t)n : 0;
	}
}

bool
scsi_lun_exists(struct scsi_nexus *nexus, const uint8_t lun[8])
{
	const struct scsi_map *map = find_map(nexus, lun);

	return map && !map->gone;
}

void
scsi_lun_reset(struct scsi_nexus *nexus, const uint8_t lun[8])
{
	struct scsi_unit *unit;
	int rc = scsi_nexus_unit(nexus, lun, &unit);

	/* -ENOMEM: no handle could be had; then nothing of this nexus is there to be reset, and the
	 * other nexuses hear of the next attempt. */
	if (rc == 0)
		scsi_unit_reset(unit);
}

void
scsi_lun_cleared(struct scsi_nexus *nexus, const uint8_t lun[8])
{
	struct scsi_map *map = find_map(nexus, lun);

	if (map && map->unit)
		map->unit->attentions |= ATTENTION_CLEARED;
}
