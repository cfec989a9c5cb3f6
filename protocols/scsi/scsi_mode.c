/* Mode pages: MODE SENSE and MODE SELECT. SPC-4 7.5, SBC-3 6.5 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <string.h>

#include "check.h"

#define MODE_PAGE_MAX 40 /* the longest of ours */

enum { PC_CURRENT, PC_CHANGEABLE, PC_DEFAULT, PC_SAVED };

/* Ascending. Values are the defaults, without what put_threshold() adds; what may be changed is a bit
 * in `switches`. */
static const struct mode_page {
	uint8_t code, subpage;
	uint8_t length; /* header included */
	uint8_t values[MODE_PAGE_MAX];
} pages[] = {
	{MODE_RECOVERY, 0, 12, {MODE_RECOVERY, 10, [7] = 0x80 /* LBPERE */}},
	{MODE_DISCONNECT, 0, 16, {MODE_DISCONNECT, 14}},
	{MODE_CACHING, 0, 20, {MODE_CACHING, 18, 0x04 /* WCE */}},
	{MODE_CONTROL, 0, 12,
		{MODE_CONTROL, 10, 0x20 /* TST 001b: a task set per nexus */,
			0x10 /* unrestricted reordering of SIMPLE tasks */, 0, 0, 0, 0, 0xff,
			0xff /* busy timeout: unlimited */}},
	{MODE_POWER, 0, 40, {MODE_POWER, 38}},
	{MODE_EXCEPTIONS, 0, 12,
		{MODE_EXCEPTIONS, 10, 0x08 /* DEXCPT: none is reported */,
			0x06 /* MRIE: by REQUEST SENSE alone */}},
	{MODE_EXCEPTIONS, SUBPAGE_PROVISIONING, 24,
		{MODE_EXCEPTIONS | MODE_SPF, SUBPAGE_PROVISIONING, 0, 20}},
};

/* Bits that initiators may change, and the unit's setting each stands for. */
static const struct mode_switch {
	uint8_t code, byte, mask;
	unsigned setting;
	bool inverted; /* the setting is the bit's absence */
} switches[] = {
	{MODE_RECOVERY, 7, 0x80, UNIT_LBPERE_OFF, true},
	{MODE_CACHING, 2, 0x04, UNIT_WCE_OFF, true},
	{MODE_CONTROL, 2, 0x04, UNIT_D_SENSE, false},
	{MODE_CONTROL, 3, 0x10, UNIT_RESTRICTED, true}, /* QUEUE ALGORITHM MODIFIER 0h or 1h */
	{MODE_CONTROL, 4, 0x08, UNIT_SWP, false},
	{MODE_CONTROL, 5, 0x40, UNIT_TAS, false},
	{MODE_EXCEPTIONS, 2, 0x08, UNIT_DEXCPT_OFF, true},
	{MODE_EXCEPTIONS, 2, 0x04, UNIT_TEST, false},
};

static const struct mode_switch *
next_switch(const struct mode_page *page, size_t *at)
{
	while (*at < ARRAY_SIZE(switches)) {
		const struct mode_switch *s = &switches[(*at)++];

		if (page->subpage == 0 && s->code == page->code)
			return s;
	}
	return NULL;
}

/* SBC-3 6.5.9: one descriptor, the soft threshold of what is used; it is the operator's. */
static void
put_threshold(const struct scsi_unit *unit, uint8_t *to)
{
	if (!unit->thin)
		return;
	to[0] = (uint8_t)((unit->threshold ? 0x80 : 0) |
			  0x01); /* ENABLED, soft, armed increasing */
	to[1] = 0x02;            /* used LBA mapping resources */
	put_be32(to + 4, (uint32_t)(unit->threshold >> unit->threshold_shift));
}

static void
fill_page(const struct scsi_unit *unit, const struct mode_page *page, unsigned control,
	unsigned settings, uint8_t *to)
{
	unsigned header = page->subpage ? 4 : 2;
	const struct mode_switch *s;

	memcpy(to, page->values, page->length);
	if (control == PC_CHANGEABLE)
		memset(to + header, 0, page->length - header);
	else if (page->subpage == SUBPAGE_PROVISIONING)
		put_threshold(unit, to + SCSI_THRESHOLD_OFFSET);
	for (size_t at = 0; (s = next_switch(page, &at));) {
		bool on = control == PC_CHANGEABLE || (!!(settings & s->setting) != s->inverted);

		to[s->byte] &= (uint8_t)~s->mask;
		if (on)
			to[s->byte] |= s->mask;
	}
}

static bool
is_long(const struct scsi_task *task)
{
	return task->opcode->length == 10;
}

static uint64_t
allocation_length(const struct scsi_task *task)
{
	return is_long(task) ? get_be16(task->cdb + 7) : task->cdb[4];
}

/* MODE SENSE */

/* SPC-4 6.11.1: page 3Fh is all pages, subpage FFh all subpages with them. */
static bool
is_asked(const struct mode_page *page, uint8_t code, uint8_t subpage)
{
	return (code == MODE_ALL || page->code == code) &&
	       (subpage == SUBPAGE_ALL || page->subpage == subpage);
}

bool
prepare_mode_sense(struct scsi_task *task)
{
	uint8_t code = task->cdb[2] & 0x3f, subpage = task->cdb[3];
	bool known = code == MODE_ALL, found = false;

	if (task->cdb[2] >> 6 == PC_SAVED)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_SAVING_UNSUPPORTED);
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		known |= pages[i].code == code;
		found |= is_asked(&pages[i], code, subpage);
	}
	if (!known)
		return scsi_fail_cdb(task, 2);
	if (!found || (code == MODE_ALL && subpage != 0 && subpage != SUBPAGE_ALL))
		return scsi_fail_cdb(task, 3);
	task->in_max = min_u64(allocation_length(task), SCSI_PAGE_MAX);
	return true;
}

static void
put_block_descriptor(const struct scsi_unit *unit, struct writer *w, bool long_lba)
{
	uint64_t blocks = scsi_unit_blocks(unit);

	if (long_lba) {
		writer_be64(w, blocks);
		writer_be32(w, 0);
		writer_be32(w, unit->info.block_size);
		return;
	}
	writer_be32(w, (uint32_t)min_u64(blocks, UINT32_MAX));
	writer_be32(w, unit->info.block_size); /* a reserved byte and 24 bits */
}

void
execute_mode_sense(struct scsi_task *task)
{
	const struct scsi_unit *unit = task->unit;
	const uint8_t *cdb = task->cdb;
	uint8_t data[256], code = cdb[2] & 0x3f;
	struct writer w = writer_of(data, sizeof(data));
	bool long_lba = is_long(task) && (cdb[1] & CDB_LLBAA);
	uint8_t descriptor = cdb[1] & CDB_DBD ? 0 : long_lba ? 16 : 8;
	unsigned control = cdb[2] >> 6;
	/* WP, DPOFUA */
	uint8_t device = (uint8_t)((scsi_unit_read_only(unit) ? 0x80 : 0) | 0x10);

	if (is_long(task)) {
		writer_be16(&w, 0);
		writer_u8(&w, 0);
		writer_u8(&w, device);
		writer_u8(&w, long_lba && descriptor ? 1 : 0);
		writer_u8(&w, 0);
		writer_be16(&w, descriptor);
	} else {
		writer_be16(&w, 0);
		writer_u8(&w, device);
		writer_u8(&w, descriptor);
	}
	if (descriptor)
		put_block_descriptor(unit, &w, long_lba);
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		uint8_t page[MODE_PAGE_MAX];

		if (!is_asked(&pages[i], code, cdb[3]))
			continue;
		fill_page(
			unit, &pages[i], control, control == PC_DEFAULT ? 0 : unit->settings, page);
		writer_bytes(&w, page, pages[i].length);
	}
	CHECK(!w.bad);
	if (is_long(task))
		put_be16(data, (uint16_t)(w.length - 2));
	else
		data[0] = (uint8_t)(w.length - 1);
	scsi_data_in(task, data, w.length, allocation_length(task));
	scsi_finish(task);
}

/* MODE SELECT */

bool
prepare_mode_select(struct scsi_task *task)
{
	uint64_t length = allocation_length(task);

	if (length && !(task->cdb[1] & CDB_PF)) /* pages follow, nothing of a vendor's own */
		return scsi_fail_cdb(task, 1);
	if (length > SCSI_PAGE_MAX)
		return scsi_fail_cdb(task, is_long(task) ? 7 : 4);
	task->out_length = length;
	return true;
}

static bool
fail_length(struct scsi_task *task)
{
	return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
}

/* Geometry cannot be changed: a block descriptor may only repeat it. */
static bool
check_block_descriptor(
	struct scsi_task *task, struct reader *r, size_t length, bool long_lba, unsigned at)
{
	const struct scsi_unit *unit = task->unit;
	const uint8_t *p = reader_bytes(r, length);
	uint64_t blocks, shown = scsi_unit_blocks(unit), all = UINT64_MAX;
	uint32_t block_size;

	if (length == 0)
		return true;
	if (!p)
		return fail_length(task);
	if (length != (long_lba ? 16 : 8))
		return scsi_fail_list(task, is_long(task) ? 6 : 3);
	blocks = long_lba ? get_be64(p) : get_be32(p);
	block_size = long_lba ? get_be32(p + 12) : get_be24(p + 5);
	if (!long_lba) {
		shown = min_u64(shown, UINT32_MAX);
		all = UINT32_MAX;
	}
	if (blocks != 0 && blocks != all && blocks != shown)
		return scsi_fail_list(task, at);
	if (block_size != unit->info.block_size)
		return scsi_fail_list(task, at + (long_lba ? 12 : 5));
	return true;
}

/* One page: nothing may differ from what is, but for the switches, which are noted in *settings. */
static bool
check_page(struct scsi_task *task, struct reader *r, unsigned at, unsigned *settings)
{
	uint8_t current[MODE_PAGE_MAX], mask[MODE_PAGE_MAX];
	const struct mode_page *page = NULL;
	const struct mode_switch *s;
	unsigned header;
	const uint8_t *p;

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		bool subpage = r->at[0] & MODE_SPF;

		/* PS is not set in ours. */
		if (pages[i].values[0] == r->at[0] &&
			(!subpage || r->left < 2 || pages[i].subpage == r->at[1]))
			page = &pages[i];
	}
	if (!page)
		return scsi_fail_list(task, at + (r->at[0] == (MODE_EXCEPTIONS | MODE_SPF)));
	header = page->subpage ? 4 : 2;
	for (unsigned i = 0; i < header; i++) {
		if (r->left > i && r->at[i] != page->values[i])
			return scsi_fail_list(task, at + i);
	}
	p = reader_bytes(r, page->length);
	if (!p)
		return fail_length(task);
	fill_page(task->unit, page, PC_CURRENT, task->unit->settings, current);
	fill_page(task->unit, page, PC_CHANGEABLE, 0, mask);
	for (unsigned i = header; i < page->length; i++) {
		if ((p[i] ^ current[i]) & ~mask[i])
			return scsi_fail_list(task, at + i);
	}
	for (size_t i = 0; (s = next_switch(page, &i));) {
		*settings &= ~s->setting;
		if (!!(p[s->byte] & s->mask) != s->inverted)
			*settings |= s->setting;
	}
	/* SPC-4 7.5.11: nothing is tested where nothing is reported. */
	if (page->code == MODE_EXCEPTIONS && (*settings & UNIT_TEST) &&
		!(*settings & UNIT_DEXCPT_OFF))
		return scsi_fail_list(task, at + 2);
	return true;
}

/* The list is checked whole before anything of it is done. */
static bool
check_list(struct scsi_task *task, struct reader *r, unsigned *settings)
{
	const uint8_t *start = r->at;
	const uint8_t *header = reader_bytes(r, is_long(task) ? 8 : 4);
	bool long_lba;
	size_t descriptor;

	if (!header)
		return fail_length(task);
	long_lba = is_long(task) && (header[4] & 1);
	descriptor = is_long(task) ? get_be16(header + 6) : header[3];
	if (header[is_long(task) ? 2 : 1] != 0) /* medium type */
		return scsi_fail_list(task, is_long(task) ? 2 : 1);
	if (!check_block_descriptor(task, r, descriptor, long_lba, (unsigned)(r->at - start)))
		return false;
	while (r->left) {
		if (!check_page(task, r, (unsigned)(r->at - start), settings))
			return false;
	}
	return true;
}

void
execute_mode_select(struct scsi_task *task)
{
	unsigned before = task->unit->settings, after = before;
	uint8_t list[SCSI_PAGE_MAX];
	struct reader r = reader_of(list, (size_t)task->out_length);

	if (task->out_length == 0) {
		scsi_finish(task);
		return;
	}
	if (task->out.length < task->out_length) {
		scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_INFORMATION_UNIT);
		scsi_finish(task);
		return;
	}
	iov_to(task->out.iov, task->out.niov, 0, list, (size_t)task->out_length);
	if (!check_list(task, &r, &after)) {
		scsi_finish(task);
		return;
	}
	if (after != before)
		scsi_unit_change(task->unit, before & ~after, after & ~before, ATTENTION_MODE);
	/* What was cached before WCE went off is written before GOOD. */
	if (after & ~before & UNIT_WCE_OFF)
		scsi_flush(task);
	else
		scsi_finish(task);
}
