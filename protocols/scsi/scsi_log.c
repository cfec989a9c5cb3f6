/*
 * LOG SENSE: what the volume counted, for whoever and by whatever protocol. Counters begin with the
 * process, are never saved, and cannot be set. SPC-4 6.6 and 7.3, SBC-3 6.4
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <string.h>

#include "check.h"
#include "histogram.h"
#include "volume.h"

enum {
	LOG_SUPPORTED = 0x00,
	LOG_WRITE_ERRORS = 0x02,
	LOG_READ_ERRORS = 0x03,
	LOG_VERIFY_ERRORS = 0x05,
	LOG_PROVISIONING = 0x0c,
	LOG_TEMPERATURE = 0x0d,
	LOG_START_STOP = 0x0e,
	LOG_STATISTICS = 0x19,
	SUBPAGE_CACHE = 0x20,
};

/* FORMAT AND LINKING, SPC-4 7.3.2 */
enum { COUNTER = 0x02, ASCII_LIST = 0x01, BINARY_LIST = 0x03 };
/* PC */
enum { CUMULATIVE = 1, DEFAULT_CUMULATIVE = 3 };

#define NOT_KNOWN 0xff /* a temperature */

/* A page being built: parameters with codes below `first` are left out. */
struct log {
	struct writer w;
	unsigned first;
	unsigned last; /* the largest code there is */
	bool zeroes;   /* default values are asked for */
	const struct scsi_unit *unit;
	struct volume_stats stats;
};

static void
put_parameter(struct log *log, unsigned code, uint8_t format, const void *value, uint8_t length)
{
	log->last = code;
	if (code < log->first)
		return;
	writer_be16(&log->w, (uint16_t)code);
	writer_u8(&log->w, format);
	writer_u8(&log->w, length);
	writer_bytes(&log->w, value, length);
}

static void
put_counter(struct log *log, unsigned code, uint64_t value, uint8_t length)
{
	uint8_t bytes[8];

	put_be64(bytes, log->zeroes ? 0 : value);
	put_parameter(log, code, COUNTER, bytes + 8 - length, length);
}

/* SPC-4 7.3.5: nothing is corrected here; the medium gives its data or it does not. */
static void
put_errors(struct log *log, uint64_t bytes, uint64_t failures)
{
	for (unsigned code = 0; code < 5; code++)
		put_counter(log, code, 0, 4);
	put_counter(log, 5, bytes, 8);
	put_counter(log, 6, min_u64(failures, UINT32_MAX), 4);
}

static void
put_write_errors(struct log *log)
{
	put_errors(log, log->stats.bytes_written, log->stats.write_failures);
}

static void
put_read_errors(struct log *log)
{
	put_errors(log, log->stats.bytes_read, log->stats.read_failures);
}

static void
put_verify_errors(struct log *log)
{
	const struct scsi_lu *lu = log->unit->lu;

	put_errors(log, atomic_load(&lu->verified), atomic_load(&lu->verify_failures));
}

/* SBC-3 6.4.5: in threshold sets, as the thresholds are. */
static void
put_resource(struct log *log, unsigned code, uint64_t bytes, bool dedicated)
{
	uint8_t value[8] = {0};

	put_be32(value, (uint32_t)min_u64(bytes >> log->unit->threshold_shift, UINT32_MAX));
	value[4] = dedicated ? 1 : 2; /* SCOPE */
	put_parameter(log, code, BINARY_LIST, value, sizeof(value));
}

static void
put_provisioning(struct log *log)
{
	const struct scsi_unit *unit = log->unit;
	uint64_t used = blk_allocated(unit->handle);
	uint64_t limit = unit->info.limit ? unit->info.limit : unit->info.size;
	bool dedicated = unit->info.limit != 0;

	put_resource(log, 1, limit - min_u64(used, limit), dedicated);
	put_resource(log, 2, used, dedicated);
}

/* SPC-4 7.3.21: no sensor is asked. */
static void
put_temperature(struct log *log)
{
	static const uint8_t value[2] = {0, NOT_KNOWN};

	put_parameter(log, 0, BINARY_LIST, value, sizeof(value));
	put_parameter(log, 1, BINARY_LIST, value, sizeof(value));
}

/* SPC-4 7.3.20. A disk of software was made on no date, and does not wear out. */
static void
put_start_stop(struct log *log)
{
	static const uint8_t endless[4] = {0xff, 0xff, 0xff, 0xff};
	const struct scsi_lu *lu = log->unit->lu;
	uint8_t value[4];

	put_parameter(log, 1, ASCII_LIST, "      ", 6);
	put_parameter(log, 2, ASCII_LIST, "      ", 6);
	put_parameter(log, 3, BINARY_LIST, endless, 4);
	put_be32(value, atomic_load(&lu->starts));
	put_parameter(log, 4, BINARY_LIST, value, 4);
	put_parameter(log, 5, BINARY_LIST, endless, 4);
	put_be32(value, atomic_load(&lu->loads));
	put_parameter(log, 6, BINARY_LIST, value, 4);
}

/* SPC-4 7.3.9; intervals are microseconds. */
static void
put_statistics(struct log *log)
{
	const struct volume_stats *s = &log->stats;
	unsigned shift = log->unit->block_shift;
	uint64_t counts[8] = {s->operations[BLK_READ],
		s->operations[BLK_WRITE] + s->operations[BLK_COMPARE_WRITE],
		s->bytes_written >> shift, s->bytes_read >> shift, atomic_load(&s->read.sum) / 1000,
		atomic_load(&s->write.sum) / 1000};
	uint8_t value[64] = {0}, interval[8] = {[3] = 6, [7] = 1}; /* 1 * 10^-6 s */

	counts[6] = counts[0] + counts[1]; /* weighted alike */
	counts[7] = counts[4] + counts[5];
	for (unsigned i = 0; i < ARRAY_SIZE(counts) && !log->zeroes; i++)
		put_be64(value + 8 * i, counts[i]);
	put_parameter(log, 1, BINARY_LIST, value, sizeof(value));
	put_parameter(log, 3, BINARY_LIST, interval, sizeof(interval));
}

/*
 * SPC-4 7.3.4. Whether the system's cache had what was read is not known: no hits are claimed.
 * What is written goes to the volatile cache where there is one, and out of it with a flush.
 */
static void
put_cache(struct log *log)
{
	const struct volume_stats *s = &log->stats;
	bool cache = log->unit->info.volatile_cache;

	put_counter(log, 1, 0, 8);
	put_counter(log, 2, s->operations[BLK_PREFETCH], 8);
	put_counter(log, 3, cache ? s->operations[BLK_WRITE] : 0, 8);
	put_counter(log, 4, cache ? s->operations[BLK_FLUSH] : 0, 8);
}

static const struct log_page {
	uint8_t page, subpage;
	void (*put)(struct log *log); /* NULL: a list of pages */
} pages[] = {
	/* ascending, as they must be listed */
	{LOG_SUPPORTED, 0, NULL},
	{LOG_SUPPORTED, SUBPAGE_ALL, NULL},
	{LOG_WRITE_ERRORS, 0, put_write_errors},
	{LOG_READ_ERRORS, 0, put_read_errors},
	{LOG_VERIFY_ERRORS, 0, put_verify_errors},
	{LOG_PROVISIONING, 0, put_provisioning},
	{LOG_TEMPERATURE, 0, put_temperature},
	{LOG_START_STOP, 0, put_start_stop},
	{LOG_STATISTICS, 0, put_statistics},
	{LOG_STATISTICS, SUBPAGE_CACHE, put_cache},
};

/* A page that says something of this unit. */
static bool
is_there(const struct scsi_unit *unit, const struct log_page *page)
{
	return page->put != put_provisioning || unit->thin;
}

static const struct log_page *
find_page(const struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (pages[i].page == (task->cdb[2] & 0x3f) && pages[i].subpage == task->cdb[3] &&
			is_there(task->unit, &pages[i]))
			return &pages[i];
	}
	return NULL;
}

/* SPC-4 7.3.19 and 7.3.18: pages alone, or pages and subpages. */
static void
put_list(struct log *log, bool subpages)
{
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (!is_there(log->unit, &pages[i]) || (pages[i].subpage && !subpages))
			continue;
		writer_u8(&log->w, pages[i].page);
		if (subpages)
			writer_u8(&log->w, pages[i].subpage);
	}
}

/* Saved parameters (SP) and the obsolete PPC are refused as bits of the CDB. */
bool
prepare_log_sense(struct scsi_task *task)
{
	const struct log_page *page = find_page(task);
	unsigned pc = task->cdb[2] >> 6;

	if (!page)
		return scsi_fail_cdb(task, 2);
	if (page->put && pc != CUMULATIVE && pc != DEFAULT_CUMULATIVE) /* there are no thresholds */
		return scsi_fail_cdb(task, 2);
	if (!page->put && get_be16(task->cdb + 5) != 0)
		return scsi_fail_cdb(task, 5);
	task->in_max = min_u64(get_be16(task->cdb + 7), SCSI_PAGE_MAX);
	return true;
}

void
execute_log_sense(struct scsi_task *task)
{
	const struct log_page *page = find_page(task);
	uint8_t data[SCSI_PAGE_MAX];
	struct log log = {.w = writer_of(data, sizeof(data)),
		.first = get_be16(task->cdb + 5),
		.zeroes = task->cdb[2] >> 6 == DEFAULT_CUMULATIVE,
		.unit = task->unit};

	CHECK(page); /* pages do not come and go: `thin` is fixed when a volume is opened */
	/* DS: parameters are not saved; SPF: there is a subpage. */
	writer_u8(&log.w,
		(uint8_t)((page->put ? 0x80 : 0) | (page->subpage ? 0x40 : 0) | page->page));
	writer_u8(&log.w, page->subpage);
	writer_be16(&log.w, 0);
	volume_count(blk_volume(task->unit->handle), &log.stats);
	if (page->put)
		page->put(&log);
	else
		put_list(&log, page->subpage);
	CHECK(!log.w.bad);
	if (log.first > log.last) { /* SPC-4 6.6.2: the largest code there is */
		scsi_fail_cdb(task, 5);
	} else {
		put_be16(data + 2, (uint16_t)(log.w.length - 4));
		scsi_data_in(task, data, log.w.length, get_be16(task->cdb + 7));
	}
	scsi_finish(task);
}
