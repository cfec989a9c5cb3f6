/*
 * Logical units: what the nexuses of one volume share, and how one nexus' change becomes the
 * others' unit attention.
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "slab.h"
#include "volume.h"

static struct slab_cache *unit_cache;

/* Taken when a nexus opens or closes a LUN, never on the data path. */
static pthread_mutex_t lus_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, scsi_lu) lus = TAILQ_HEAD_INITIALIZER(lus);

/* SAM-5 5.14: one of several pending is reported, the first of this table. */
static const struct {
	unsigned attention, clears, code;
} attentions[] = {
	{ATTENTION_POWER_ON, ATTENTION_POWER_ON | ATTENTION_RESET | ATTENTION_MODE, ASC_POWER_ON},
	{ATTENTION_RESET, ATTENTION_RESET | ATTENTION_MODE, ASC_DEVICE_RESET},
	{ATTENTION_NEXUS_LOSS, ATTENTION_NEXUS_LOSS, ASC_NEXUS_LOSS},
	{ATTENTION_MEDIUM, ATTENTION_MEDIUM | ATTENTION_CAPACITY, ASC_MEDIUM_CHANGED},
	{ATTENTION_LUNS, ATTENTION_LUNS, ASC_LUNS_CHANGED},
	{ATTENTION_ALUA, ATTENTION_ALUA, ASC_ALUA_CHANGED},
	{ATTENTION_MODE, ATTENTION_MODE, ASC_MODE_CHANGED},
	{ATTENTION_CAPACITY, ATTENTION_CAPACITY, ASC_CAPACITY_CHANGED},
	{ATTENTION_RESERVATIONS_PREEMPTED, ATTENTION_RESERVATIONS_PREEMPTED,
		ASC_RESERVATIONS_PREEMPTED},
	{ATTENTION_REGISTRATIONS_PREEMPTED, ATTENTION_REGISTRATIONS_PREEMPTED,
		ASC_REGISTRATIONS_PREEMPTED},
	{ATTENTION_RESERVATIONS_RELEASED, ATTENTION_RESERVATIONS_RELEASED,
		ASC_RESERVATIONS_RELEASED},
	{ATTENTION_OTHER_CLEARED, ATTENTION_OTHER_CLEARED, ASC_OTHER_CLEARED},
	{ATTENTION_THRESHOLD, ATTENTION_THRESHOLD, ASC_THRESHOLD},
	{ATTENTION_CLEARED, ATTENTION_CLEARED, ASC_COMMANDS_CLEARED},
};

static void
free_lu(struct scsi_lu *lu)
{
	TAILQ_REMOVE(&lus, lu, link);
	pthread_mutex_destroy(&lu->lock);
	free(lu);
}

int
scsi_unit_start(void)
{
	unit_cache = slab_cache_new("scsi_unit", sizeof(struct scsi_unit), 0, 0, NULL);
	return unit_cache ? 0 : -ENOMEM;
}

void
scsi_unit_stop(void)
{
	struct scsi_lu *lu;

	while ((lu = TAILQ_FIRST(&lus))) {
		CHECK(lu->references == 0);
		free_lu(lu);
	}
	if (unit_cache)
		slab_cache_free(unit_cache);
	unit_cache = NULL;
}

/* The logical unit of that uuid, with a reference; made when new. NULL: no memory. */
static struct scsi_lu *
get_lu(const uint8_t uuid[16])
{
	struct scsi_lu *lu;

	pthread_mutex_lock(&lus_lock);
	TAILQ_FOREACH(lu, &lus, link) {
		if (memcmp(lu->uuid, uuid, 16) == 0)
			break;
	}
	if (!lu && (lu = calloc(1, sizeof(*lu)))) {
		memcpy(lu->uuid, uuid, 16);
		pthread_mutex_init(&lu->lock, NULL);
		TAILQ_INIT(&lu->units);
		TAILQ_INSERT_TAIL(&lus, lu, link);
	}
	if (lu)
		lu->references++;
	pthread_mutex_unlock(&lus_lock);
	return lu;
}

struct scsi_lu *
scsi_lu_get(struct scsi_lu *lu)
{
	pthread_mutex_lock(&lus_lock);
	lu->references++;
	pthread_mutex_unlock(&lus_lock);
	return lu;
}

/* What an initiator set outlives its session: a unit nobody uses is kept while it differs from new.
 */
void
scsi_lu_put(struct scsi_lu *lu)
{
	pthread_mutex_lock(&lus_lock);
	if (--lu->references == 0 && lu->settings == 0)
		free_lu(lu);
	pthread_mutex_unlock(&lus_lock);
}

/* SBC-3 4.7.3.7: counted in sets of 1 MiB, or larger ones where 31 bits of them do not suffice. */
static void
set_threshold(struct scsi_unit *unit)
{
	uint64_t threshold = unit->conf->threshold;

	if (threshold == 0)
		threshold = unit->info.limit / 10 * 9;
	unit->threshold_shift = 20;
	while (unit->info.size >> unit->threshold_shift > INT32_MAX)
		unit->threshold_shift++;
	unit->threshold =
		unit->thin ? round_down(threshold, UINT64_C(1) << unit->threshold_shift) : 0;
}

static void
fill_info(struct scsi_unit *unit)
{
	blk_info(unit->handle, &unit->info);
	unit->block_shift = (unsigned)__builtin_ctz(unit->info.block_size);
	unit->transfer_max = round_down(
		min_u64(LIMIT_SCSI_TRANSFER, unit->info.transfer_max), unit->info.block_size);
	unit->compare_max = min_u64(unit->transfer_max, LIMIT_IOBUF_PIECE);
	unit->atomic_unit =
		unit->info.atomic_max ? unit->info.block_size : unit->info.physical_block_size;
	unit->atomic_max = round_down(
		min_u64(unit->compare_max, unit->info.atomic_max ? unit->info.atomic_max
								 : unit->info.physical_block_size),
		unit->atomic_unit);
	unit->thin = unit->info.discard_granularity != 0;
	set_threshold(unit);
}

int
scsi_unit_open(struct scsi_nexus *nexus, const struct lun *lun, struct scsi_unit **unitp)
{
	char name[sizeof(nexus->initiator) + 8] = "scsi ", client[RESERVATION_NAME + 8] = "scsi ";
	struct scsi_unit *unit = slab_alloc(unit_cache);
	int rc;

	if (!unit)
		return -ENOMEM;
	*unit = (struct scsi_unit){.nexus = nexus,
		.number = lun->number,
		.read_only = lun->read_only,
		.attentions = nexus->returned ? ATTENTION_NEXUS_LOSS : ATTENTION_POWER_ON};
	unit->announced = unit->attentions; /* a nexus that begins knows of them */
	TAILQ_INIT(&unit->parts);
	strncat(name, nexus->initiator, sizeof(name) - strlen(name) - 1);
	unit->handle = blk_open(lun->volume, name, lun->read_only, &rc);
	if (!unit->handle)
		goto fail;
	unit->conf = volume_conf(lun->volume);
	unit->content = blk_content(unit->handle);
	fill_info(unit);
	scsi_nexus_initiator(nexus, client + strlen(client));
	rc = blk_set_client(unit->handle, client);
	if (rc == 0)
		rc = scsi_unit_identify(unit);
	if (rc < 0)
		goto fail_handle;
	unit->lu = get_lu(unit->info.uuid);
	if (!unit->lu) {
		rc = -ENOMEM;
		goto fail_handle;
	}
	pthread_mutex_lock(&unit->lu->lock);
	TAILQ_INSERT_TAIL(&unit->lu->units, unit, link);
	unit->settings = unit->lu->settings;
	unit->generation = atomic_load_explicit(&unit->lu->generation, memory_order_relaxed);
	pthread_mutex_unlock(&unit->lu->lock);
	*unitp = unit;
	return 0;

fail_handle:
	blk_close(unit->handle);
fail:
	slab_free(unit_cache, unit);
	return rc;
}

void
scsi_unit_close(struct scsi_unit *unit)
{
	CHECK(unit->tasks == 0);
	scsi_copy_forget(unit);
	/* A nexus that is lost no longer prevents removal. */
	scsi_unit_prevent(unit, false);
	pthread_mutex_lock(&unit->lu->lock);
	scsi_abort_close(unit);
	TAILQ_REMOVE(&unit->lu->units, unit, link);
	pthread_mutex_unlock(&unit->lu->lock);
	scsi_lu_put(unit->lu);
	blk_close(unit->handle);
	slab_free(unit_cache, unit);
}

void
scsi_unit_sync(struct scsi_unit *unit)
{
	struct scsi_lu *lu = unit->lu;
	unsigned kept;

	pthread_mutex_lock(&lu->lock);
	/* Who hears of a reset may write again: its tasks are to be ended first (scsi_abort.c). */
	kept = TAILQ_EMPTY(&unit->parts) ? 0 : unit->posted & ATTENTION_RESET;
	unit->settings = lu->settings;
	unit->attentions |= unit->posted & ~kept;
	unit->posted = kept;
	unit->generation = atomic_load_explicit(&lu->generation, memory_order_relaxed);
	pthread_mutex_unlock(&lu->lock);
}

unsigned
scsi_unit_attention(struct scsi_unit *unit)
{
	/* It is over before it was told. */
	if (!atomic_load_explicit(&unit->lu->past_threshold, memory_order_relaxed))
		unit->attentions &= ~(unsigned)ATTENTION_THRESHOLD;
	for (size_t i = 0; i < ARRAY_SIZE(attentions); i++) {
		if (unit->attentions & attentions[i].attention) {
			unit->attentions &= ~attentions[i].clears;
			unit->announced &= unit->attentions;
			return attentions[i].code;
		}
	}
	return 0;
}

unsigned
scsi_unit_announce(struct scsi_unit *unit)
{
	unsigned news;

	scsi_unit_refresh(unit);
	scsi_unit_look(unit);
	unit->announced &= unit->attentions; /* what has gone may come again */
	news = unit->attentions & ~unit->announced;
	for (size_t i = 0; i < ARRAY_SIZE(attentions); i++) {
		if (news & attentions[i].attention) {
			unit->announced |= attentions[i].clears;
			return attentions[i].code;
		}
	}
	return 0;
}

/* With the unit's lock held. */
static void
post_others(struct scsi_unit *unit, unsigned attention)
{
	struct scsi_unit *other;

	TAILQ_FOREACH(other, &unit->lu->units, link) {
		if (other != unit)
			other->posted |= attention;
	}
	atomic_fetch_add_explicit(&unit->lu->generation, 1, memory_order_release);
}

void
scsi_unit_change(struct scsi_unit *unit, unsigned clear, unsigned set, unsigned attention)
{
	pthread_mutex_lock(&unit->lu->lock);
	unit->lu->settings = (unit->lu->settings & ~clear) | set;
	post_others(unit, attention);
	pthread_mutex_unlock(&unit->lu->lock);
	scsi_unit_refresh(unit);
}

void
scsi_unit_watch(struct scsi_unit *unit)
{
	struct scsi_lu *lu = unit->lu;
	bool past = blk_allocated(unit->handle) >= unit->threshold;
	struct scsi_unit *each;

	if (past == atomic_load_explicit(&lu->past_threshold, memory_order_relaxed))
		return;
	pthread_mutex_lock(&lu->lock);
	if (past != lu->past_threshold) { /* another nexus may have seen it meanwhile */
		lu->past_threshold = past;
		TAILQ_FOREACH(each, &lu->units, link) {
			if (past && !(lu->settings & UNIT_LBPERE_OFF))
				each->posted |= ATTENTION_THRESHOLD;
		}
		atomic_fetch_add_explicit(&lu->generation, 1, memory_order_release);
	}
	pthread_mutex_unlock(&lu->lock);
	scsi_unit_refresh(unit);
}

void
scsi_unit_prevent(struct scsi_unit *unit, bool prevent)
{
	pthread_mutex_lock(&unit->lu->lock);
	if (unit->prevents != prevent) {
		unit->prevents = prevent;
		unit->lu->prevents += prevent ? 1u : -1u;
	}
	pthread_mutex_unlock(&unit->lu->lock);
}

bool
scsi_unit_prevented(struct scsi_unit *unit)
{
	bool prevented;

	pthread_mutex_lock(&unit->lu->lock);
	prevented = unit->lu->prevents != 0;
	pthread_mutex_unlock(&unit->lu->lock);
	return prevented;
}

void
scsi_unit_tell(struct scsi_unit *unit,
	unsigned (*attention)(const struct scsi_unit *unit, void *arg), void *arg)
{
	struct scsi_unit *other;

	pthread_mutex_lock(&unit->lu->lock);
	TAILQ_FOREACH(other, &unit->lu->units, link) {
		if (other != unit)
			other->posted |= attention(other, arg);
	}
	atomic_fetch_add_explicit(&unit->lu->generation, 1, memory_order_release);
	pthread_mutex_unlock(&unit->lu->lock);
}

int
scsi_unit_identify(struct scsi_unit *unit)
{
	return reservation_identify(unit->handle, unit->nexus->initiator, unit->nexus->port);
}

/*
 * SAM-5 6.3: mode pages go back to their defaults, prevention ends, and what RESERVE took is given
 * back. Persistent reservations stay.
 */
void
scsi_unit_reset(struct scsi_unit *unit)
{
	struct scsi_unit *each;

	reservation_drop(unit->handle, true);
	pthread_mutex_lock(&unit->lu->lock);
	unit->lu->settings &= ~(unsigned)UNIT_MODE_PAGES;
	unit->lu->prevents = 0;
	TAILQ_FOREACH(each, &unit->lu->units, link) {
		each->prevents = false;
		/* Every nexus, the one that asked for it too; some were told with their abort. */
		if (each != unit && each->resets_told > 0)
			each->resets_told--;
		else
			each->posted |= ATTENTION_RESET;
	}
	atomic_fetch_add_explicit(&unit->lu->generation, 1, memory_order_release);
	pthread_mutex_unlock(&unit->lu->lock);
}

void
scsi_unit_look(struct scsi_unit *unit)
{
	uint64_t size = unit->info.size;

	fill_info(unit);
	if (unit->info.size != size)
		unit->attentions |= ATTENTION_CAPACITY;
	if (unit->content != blk_content(unit->handle))
		unit->attentions |= ATTENTION_MEDIUM;
	unit->content = blk_content(unit->handle);
}
