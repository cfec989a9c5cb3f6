/*
 * LUNs as a nexus sees them: those of its target, in the catalogue of now. A logical unit is opened when
 * it is first used, so that a nexus costs what it uses, however many there are.
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"
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

const struct lun *
scsi_nexus_lun(const struct scsi_nexus *nexus, unsigned number)
{
	const struct lun *luns = nexus->offered ? nexus->offered->luns : NULL;
	size_t low = 0, high = nexus->offered ? nexus->offered->nluns : 0;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (luns[middle].number == number)
			return volume_going(luns[middle].volume) ? NULL : &luns[middle];
		if (luns[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* Where the open unit of that number is, or would be. */
static unsigned
find_place(const struct scsi_nexus *nexus, unsigned number)
{
	unsigned low = 0, high = nexus->nunits;

	/* LUN 0 alone, or from 0 without a gap, as nearly always. */
	if (number < high && nexus->units[number]->number == number)
		return number;
	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (nexus->units[middle]->number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* NULL: it was not used yet. */
static struct scsi_unit *
find_open(const struct scsi_nexus *nexus, unsigned number)
{
	unsigned place = find_place(nexus, number);

	if (place == nexus->nunits || nexus->units[place]->number != number)
		return NULL;
	return nexus->units[place];
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
			nexus->ports[nexus->nports++] =
				(struct scsi_port){.relative_id = portal->relative_id,
					.group = portal->group,
					.state = alua_get(nexus->target, portal->group)};
	}
	return 0;
}

/*
 * Nexuses that were lost, by a hash of their name: the last ones, in a ring. One that is forgotten, or taken
 * for another, hears 29/00 for 29/07 or the other way round.
 */
static pthread_mutex_t lost_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t lost[LIMIT_SCSI_NEXUSES];
static unsigned next_lost;

/* FNV-1a of initiator port and target, never 0. */
static uint64_t
hash_nexus(const struct scsi_nexus *nexus)
{
	const char *const parts[] = {nexus->initiator, nexus->target};
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		for (const char *c = parts[i]; *c; c++)
			hash = (hash ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
		hash = (hash ^ 0xff) * UINT64_C(0x100000001b3);
	}
	return hash | 1;
}

/* True: it was; with `now` it is from now on. */
static bool
was_lost(const struct scsi_nexus *nexus, bool now)
{
	uint64_t hash = hash_nexus(nexus);
	bool found = false;

	pthread_mutex_lock(&lost_lock);
	for (unsigned i = 0; i < ARRAY_SIZE(lost) && !found; i++)
		found = lost[i] == hash;
	if (now && !found)
		lost[next_lost++ % ARRAY_SIZE(lost)] = hash;
	pthread_mutex_unlock(&lost_lock);
	return found;
}

void
scsi_nexus_stop(void)
{
	memset(lost, 0, sizeof(lost));
	next_lost = 0;
}

void
scsi_nexus_initiator(const struct scsi_nexus *nexus, char name[RESERVATION_NAME])
{
	char *isid;

	snprintf(name, RESERVATION_NAME, "%s", nexus->initiator);
	isid = strstr(name, ",i,0x");
	if (isid)
		*isid = '\0';
}

/* The target as a catalogue offers it to the nexus' initiator; NULL. */
static const struct target *
find_offered(const struct scsi_nexus *nexus, const struct catalogue *catalogue)
{
	const struct target *target = catalogue_target(catalogue, nexus->target);
	char name[RESERVATION_NAME];

	scsi_nexus_initiator(nexus, name);
	return target ? catalogue_admit(target, name) : NULL;
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
	nexus->loop = loop_current();
	nexus->catalogue = catalogue;
	catalogue_hold(catalogue);
	nexus->offered = target;
	/* Another may have been published since the caller got his: the first command looks. */
	nexus->generation = atomic_load_explicit(&catalogue_generation, memory_order_relaxed) - 1;
	if (copy_ports(nexus, catalogue) < 0) {
		scsi_nexus_free(nexus);
		return NULL;
	}
	scsi_alua_sync(nexus);
	nexus->returned = was_lost(nexus, false);
	return nexus;
}

void
scsi_nexus_attach(struct scsi_nexus *nexus, scsi_abort_fn *abort, void *owner)
{
	nexus->abort = abort;
	nexus->owner = owner;
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

static void
close_unit(struct scsi_unit *unit)
{
	struct scsi_nexus *nexus = unit->nexus;
	unsigned place = find_place(nexus, unit->number);

	CHECK(place < nexus->nunits && nexus->units[place] == unit);
	nexus->nunits--;
	memmove(nexus->units + place, nexus->units + place + 1,
		(nexus->nunits - place) * sizeof(*nexus->units));
	scsi_unit_close(unit);
}

/* It is no longer what its LUN names. */
static void
drop_unit(struct scsi_unit *unit)
{
	unit->gone = true;
	if (unit->tasks == 0)
		close_unit(unit);
}

void
scsi_nexus_free(struct scsi_nexus *nexus)
{
	if (nexus->nunits > 0) /* else it has nothing to lose */
		was_lost(nexus, true);
	while (nexus->nunits > 0)
		close_unit(nexus->units[nexus->nunits - 1]);
	free(nexus->units);
	free(nexus->ports);
	catalogue_put(nexus->catalogue);
	free(nexus);
}

static bool
same_luns(const struct target *a, const struct target *b)
{
	if (!a || !b || a->nluns != b->nluns)
		return false;
	for (size_t i = 0; i < a->nluns; i++) {
		if (a->luns[i].number != b->luns[i].number ||
			a->luns[i].volume != b->luns[i].volume ||
			a->luns[i].read_only != b->luns[i].read_only)
			return false;
	}
	return true;
}

void
scsi_nexus_renew(struct scsi_nexus *nexus)
{
	uint32_t generation = atomic_load_explicit(&catalogue_generation, memory_order_acquire);
	const struct catalogue *now = catalogue_get(), *before = nexus->catalogue;
	const struct target *offered;
	bool same;

	nexus->generation = generation;
	if (!now) /* slabd ends: what there was stays */
		return;
	offered = find_offered(nexus, now);
	same = now == before || same_luns(nexus->offered, offered);
	nexus->catalogue = now;
	nexus->offered = offered;
	for (unsigned i = nexus->nunits; !same && i-- > 0;) {
		struct scsi_unit *unit = nexus->units[i];
		const struct lun *lun = scsi_nexus_lun(nexus, unit->number);

		/* The handle may write or not as the LUN said when it was opened. */
		if (lun && lun->volume == blk_volume(unit->handle) &&
			lun->read_only == unit->read_only)
			unit->attentions |= ATTENTION_LUNS;
		else
			drop_unit(unit);
	}
	catalogue_put(before);
}

/* Room for one more. 0 or -ENOMEM. */
static int
make_room(struct scsi_nexus *nexus)
{
	unsigned room = nexus->room ? 2 * nexus->room : 1;
	struct scsi_unit **units;

	if (nexus->nunits < nexus->room)
		return 0;
	units = realloc(nexus->units, room * sizeof(struct scsi_unit *));
	if (!units)
		return -ENOMEM;
	nexus->units = units;
	nexus->room = room;
	return 0;
}

static int
open_number(struct scsi_nexus *nexus, unsigned number, struct scsi_unit **unitp)
{
	const struct lun *offered;
	struct scsi_unit *unit;
	unsigned place;
	int rc;

	*unitp = NULL;
	unit = find_open(nexus, number);
	if (unit && unit->gone) /* its last tasks end */
		return -ENXIO;
	if (unit) {
		*unitp = unit;
		return 0;
	}
	offered = scsi_nexus_lun(nexus, number);
	if (!offered)
		return -ENXIO;
	if (make_room(nexus) < 0)
		return -ENOMEM;
	rc = scsi_unit_open(nexus, offered, &unit);
	if (rc < 0)
		return rc == -ENOMEM ? rc : -ENXIO;
	place = find_place(nexus, unit->number);
	memmove(nexus->units + place + 1, nexus->units + place,
		(nexus->nunits - place) * sizeof(*nexus->units));
	nexus->units[place] = unit;
	nexus->nunits++;
	*unitp = unit;
	return 0;
}

void
scsi_lun_write(uint8_t to[8], uint16_t number)
{
	memset(to, 0, 8);
	put_be16(to, (uint16_t)(number < 256 ? number : 0x4000 | number));
}

int
scsi_nexus_unit(struct scsi_nexus *nexus, const uint8_t lun[8], struct scsi_unit **unit)
{
	int number = parse_lun(lun);

	return number < 0 ? -ENXIO : open_number(nexus, (unsigned)number, unit);
}

int
scsi_nexus_find(struct scsi_nexus *nexus, bool (*match)(const uint8_t uuid[16], const void *arg),
	const void *arg, struct scsi_unit **unit)
{
	const struct lun *found = NULL;

	for (size_t i = 0; nexus->offered && i < nexus->offered->nluns; i++) {
		const struct lun *lun = &nexus->offered->luns[i];

		if (volume_going(lun->volume) || !match(volume_uuid(lun->volume), arg))
			continue;
		if (!found || (found->read_only && !lun->read_only))
			found = lun;
	}
	return found ? open_number(nexus, found->number, unit) : -ENXIO;
}

void
scsi_nexus_leave(struct scsi_unit *unit)
{
	if (--unit->tasks == 0 && unit->gone)
		close_unit(unit);
}

bool
scsi_nexus_drop_volume(struct scsi_nexus *nexus, struct volume *volume)
{
	for (unsigned i = nexus->nunits; i-- > 0;) {
		if (blk_volume(nexus->units[i]->handle) == volume)
			drop_unit(nexus->units[i]);
	}
	scsi_nexus_refresh(nexus);
	for (size_t i = 0; nexus->offered && i < nexus->offered->nluns; i++) {
		if (!volume_going(nexus->offered->luns[i].volume))
			return false;
	}
	return true;
}

bool
scsi_nexus_event(struct scsi_nexus *nexus, uint8_t lun[8], uint8_t sense[LIMIT_SCSI_SENSE],
	uint8_t *sense_length)
{
	unsigned code = 0;

	scsi_nexus_refresh(nexus);
	if (!nexus->offered || !nexus->offered->events)
		return false;
	scsi_alua_refresh(nexus);
	for (unsigned i = 0; i < nexus->nunits && !code; i++) {
		const struct scsi_unit *unit = nexus->units[i];
		struct scsi_sense event;

		code = scsi_unit_announce(nexus->units[i]);
		if (!code)
			continue;
		event = scsi_attention_sense(code);
		scsi_lun_write(lun, unit->number);
		*sense_length = scsi_sense_build(&event, unit->settings & UNIT_D_SENSE, sense);
	}
	return code != 0;
}

void
scsi_nexus_describe(const struct scsi_nexus *nexus, char *text, size_t size)
{
	size_t length = 0;

	if (size)
		text[0] = '\0';
	for (unsigned i = 0; i < nexus->nunits && length < size; i++) {
		const struct scsi_unit *unit = nexus->units[i];
		const char *name = volume_name(blk_volume(unit->handle));
		int n;

		if (nexus->offered && nexus->offered->nluns == 1)
			n = snprintf(text, size, "%s", name);
		else
			n = snprintf(text + length, size - length, "%s%s:%u", length ? " " : "",
				name, (unsigned)unit->number);
		length += n > 0 ? (size_t)n : 0;
	}
}

bool
scsi_lun_exists(struct scsi_nexus *nexus, const uint8_t lun[8])
{
	int number = parse_lun(lun);

	scsi_nexus_refresh(nexus);
	return number >= 0 && scsi_nexus_lun(nexus, (unsigned)number);
}

bool
scsi_lun_same(const uint8_t a[8], const uint8_t b[8])
{
	int number;

	if (memcmp(a, b, 8) == 0)
		return true;
	number = parse_lun(a);
	return number >= 0 && number == parse_lun(b);
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
	int number = parse_lun(lun);
	struct scsi_unit *unit = number < 0 ? NULL : find_open(nexus, (unsigned)number);

	if (unit)
		unit->attentions |= ATTENTION_CLEARED;
}

void
scsi_nexus_use_all(struct scsi_nexus *nexus)
{
	struct scsi_unit *unit;

	scsi_nexus_refresh(nexus);
	for (size_t i = 0; nexus->offered && i < nexus->offered->nluns; i++)
		open_number(nexus, nexus->offered->luns[i].number, &unit);
}

void
scsi_target_reset(struct scsi_nexus *nexus)
{
	scsi_nexus_use_all(nexus);
	for (unsigned i = 0; i < nexus->nunits; i++)
		scsi_unit_reset(nexus->units[i]);
}
