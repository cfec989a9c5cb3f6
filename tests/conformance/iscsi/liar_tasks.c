#include "config.h"
#include "liar.h"

#include <stdlib.h>
#include <string.h>

enum { FINAL = 0x80, READ_FLAG = 0x40, WRITE_FLAG = 0x20, STATUS_FLAG = 0x01 };

enum { ORDERED = 2, HEAD_OF_QUEUE = 3 };

enum { OVERFLOWN = 4, UNDERFLOWN = 2, GOOD = 0, CHECK_CONDITION = 2 };

/* Sense key, ASC and ASCQ. */
enum {
	NO_SENSE = 0,
	UNKNOWN_OPCODE = 0x052000,
	OUT_OF_RANGE = 0x052100,
	INVALID_FIELD = 0x052400,
	NO_UNIT = 0x052500,
	RESET_HAPPENED = 0x062903,
	UNEXPECTED_DATA = 0x0b0c0c,
	TOO_MUCH_DATA = 0x0b0c0d,
	CRC_ERROR = 0x0b4705,
};

/* SAM-5 5.2: LUN 0, and no other. */
static bool
is_our_lun(const uint8_t *bhs)
{
	return load(bhs + 8, 8) == 0;
}

static uint8_t disk[DISK_SIZE];

struct command {
	uint32_t tag, edtl;
	bool reads, writes;
	uint8_t cdb[16];
};

/* RFC 7143 11.4.5: of the length that the command has and the one that was expected. */
static void
put_residual(uint8_t *bhs, uint32_t length, uint32_t edtl)
{
	uint32_t count = length > edtl ? length - edtl : edtl - length;
	if (count == 0 || (lying(LIE_OVERFLOW) && length > edtl) ||
		(lying(LIE_NOTHING_EXPECTED) && edtl == 0))
		return;
	bhs[1] |= length > edtl ? OVERFLOWN : UNDERFLOWN;
	store(bhs + 44, count + (lying(LIE_RESIDUAL) ? 1 : 0), 4);
}

/* A SCSI Response; length is what the command moves. */
static bool
give_status(struct peer *p, uint32_t tag, unsigned sense, uint32_t length, uint32_t edtl)
{
	uint8_t bhs[BHS_SIZE] = {RESPONSE, FINAL}, data[20] = {0, 18, 0x70};
	size_t data_length = 0;
	store(bhs + 16, tag, 4);
	if (sense != NO_SENSE) {
		bhs[3] = CHECK_CONDITION;
		data[4] = (uint8_t)(sense >> 16);
		data[9] = 10;
		data[14] = (uint8_t)(sense >> 8);
		data[15] = (uint8_t)sense;
		data_length = lying(LIE_NO_SENSE) ? 0 : sizeof data;
	}
	put_residual(bhs, length, edtl);
	put_numbers(p, bhs, true);
	return give_pdu(p, bhs, data, data_length);
}

static bool
give_failure(struct peer *p, const struct command *c, unsigned sense)
{
	return give_status(p, c->tag, sense, 0, c->edtl);
}

/* One Data-In of those that bytes take. */
static bool
give_part(struct peer *p, const struct command *c, const uint8_t *bytes, uint32_t offset,
	uint32_t part, uint32_t sn, unsigned flags, uint32_t length)
{
	uint8_t bhs[BHS_SIZE] = {DATA_IN, (uint8_t)flags};
	bool has_status = (flags & STATUS_FLAG) != 0;
	store(bhs + 16, c->tag, 4);
	store(bhs + 20, NO_TAG, 4);
	store(bhs + 36, sn + (lying(LIE_DATA_SN) ? 1 : 0), 4);
	store(bhs + 40, offset, 4);
	if (has_status)
		put_residual(bhs, length, c->edtl);
	else if (lying(LIE_STATUS_WITHOUT_S))
		bhs[3] = CHECK_CONDITION;
	put_numbers(p, bhs, has_status);
	return give_pdu(p, bhs, bytes + offset, part);
}

/* Data-In, the status in the last. */
static bool
give_data(struct peer *p, const struct command *c, const uint8_t *bytes, uint32_t length)
{
	uint32_t give = length < c->edtl ? length : c->edtl, burst = 0, sn = 0, step;
	uint32_t segment = lying(LIE_SEGMENT) ? p->max_send * 2 : p->max_send;
	if (give == 0 || !c->reads)
		return c->edtl > 0 && !c->reads ? give_failure(p, c, INVALID_FIELD)
						: give_status(p, c->tag, 0, length, c->edtl);
	for (uint32_t offset = 0; offset < give; offset += step) {
		step = give - offset < segment ? give - offset : segment;
		if (step > p->max_burst - burst)
			step = p->max_burst - burst;
		burst += step;
		unsigned flags = 0;
		if (offset + step == give)
			flags = FINAL | STATUS_FLAG;
		else if (burst == p->max_burst && !lying(LIE_NO_FINAL))
			flags = FINAL;
		if (burst == p->max_burst)
			burst = 0;
		uint32_t at = offset;
		if (lying(LIE_DATA_OFFSET) && give > 2 * segment && offset < 2 * segment)
			at = segment - offset; /* the first two change places */
		if (!give_part(p, c, bytes, at, step, sn++, flags, length))
			return false;
	}
	return true;
}

/* Writes */

static void
drop_write(struct write_task *w)
{
	LIST_REMOVE(w, link);
	free(w->bytes);
	free(w);
}

void
land_writes(struct peer *p)
{
	struct write_task *w;
	LIST_FOREACH(w, &p->writes, link)
		memcpy(disk + w->offset, w->bytes, w->wanted);
}

void
drop_tasks(struct peer *p)
{
	struct pdu *pdu;
	while (!LIST_EMPTY(&p->writes))
		drop_write(LIST_FIRST(&p->writes));
	while ((pdu = STAILQ_FIRST(&p->waiting)) != NULL) {
		STAILQ_REMOVE_HEAD(&p->waiting, link);
		free_pdu(pdu);
	}
}

static struct write_task *
find_write(const struct peer *p, uint32_t tag)
{
	struct write_task *w;
	LIST_FOREACH(w, &p->writes, link)
		if (w->tag == tag)
			return w;
	return NULL;
}

bool
has_task(const struct peer *p, uint32_t tag)
{
	return find_write(p, tag) != NULL;
}

static bool
finish_write(struct peer *p, struct write_task *w, unsigned sense)
{
	uint32_t tag = w->tag, edtl = w->edtl, length = w->residual;
	if (sense == NO_SENSE)
		memcpy(disk + w->offset, w->bytes, w->wanted);
	drop_write(w);
	return give_status(p, tag, sense, sense == NO_SENSE ? length : 0, edtl) &&
	       answer_waiting(p);
}

static bool
give_r2t(struct peer *p, struct write_task *w)
{
	uint8_t bhs[BHS_SIZE] = {R2T, FINAL};
	uint32_t length = w->wanted - w->received;
	if (length > p->max_burst && !lying(LIE_R2T_BEYOND))
		length = p->max_burst;
	if (lying(LIE_TWO_R2TS) && length > 4096 && w->burst_end == 0)
		length = 4096;
	w->burst_end = w->received + length;
	w->data_sn = 0;
	w->ttt = lying(LIE_R2T_TAG) ? NO_TAG : p->next_ttt++;
	store(bhs + 16, w->tag, 4);
	store(bhs + 20, w->ttt, 4);
	put_numbers(p, bhs, lying(LIE_R2T_STAT_SN));
	store(bhs + 36, lying(LIE_R2T_SN) ? 0 : w->r2t_sn, 4);
	w->r2t_sn++;
	store(bhs + 40, w->received, 4);
	store(bhs + 44, length, 4);
	return give_pdu(p, bhs, NULL, 0) &&
	       (!lying(LIE_TWO_R2TS) || w->r2t_sn != 1 || give_pdu(p, bhs, NULL, 0));
}

/* A burst is over: more, or the end. */
static bool
go_on(struct peer *p, struct write_task *w)
{
	if (w->failed)
		return finish_write(p, w, CRC_ERROR);
	return w->received < w->wanted ? give_r2t(p, w) : finish_write(p, w, NO_SENSE);
}

static bool
begin_write(struct peer *p, const struct command *c, const struct pdu *pdu, uint32_t length)
{
	bool final = (pdu->bhs[1] & FINAL) != 0;
	uint32_t limit = c->edtl < p->first_burst ? c->edtl : p->first_burst;
	if (c->edtl > 0 && !c->writes)
		return lying(LIE_UNANSWERED) || give_failure(p, c, INVALID_FIELD);
	if (c->edtl == 0)
		return give_status(p, c->tag, 0, length, 0);
	if ((pdu->length > 0 && !p->immediate_data && !lying(LIE_IMMEDIATE_TAKEN)) ||
		(!final && p->initial_r2t))
		return give_failure(p, c, UNEXPECTED_DATA);
	if (pdu->length > limit && !(lying(LIE_ABOVE_FIRST_BURST) && pdu->length <= c->edtl))
		return give_failure(p, c, TOO_MUCH_DATA);
	struct write_task *w = calloc(1, sizeof *w);
	if (w == NULL)
		return false;
	/* Room for what a lie takes beyond it, too. */
	w->bytes = calloc(1, (size_t)c->edtl + MAX_BURST);
	w->tag = c->tag;
	w->offset = (uint32_t)load(c->cdb + 2, 4) * BLOCK;
	w->edtl = c->edtl;
	w->wanted = length < c->edtl ? length : c->edtl;
	w->residual = length;
	w->received = (uint32_t)pdu->length;
	w->unsolicited = !final;
	w->ordered = (pdu->bhs[1] & 7) == ORDERED;
	w->burst_end = final ? 0 : limit;
	w->ttt = NO_TAG;
	LIST_INSERT_HEAD(&p->writes, w, link);
	if (w->bytes == NULL)
		return false;
	if (pdu->length > 0)
		memcpy(w->bytes, pdu->data, pdu->length);
	return !final || go_on(p, w);
}

/* True if the PDU is what was due. */
static bool
take_data(struct write_task *w, const struct pdu *pdu)
{
	uint32_t sn = (uint32_t)load(pdu->bhs + 36, 4), offset = (uint32_t)load(pdu->bhs + 40, 4);
	bool in_order = sn == w->data_sn++ || lying(LIE_WRONG_DATA_SN);
	bool good_data = !pdu->bad_data || lying(LIE_BAD_DATA_OUT);
	if (lying(LIE_MORE_THAN_ASKED) && offset == w->received && offset >= w->burst_end &&
		w->offset + offset + pdu->length <= DISK_SIZE)
		memcpy(disk + w->offset + offset, pdu->data, pdu->length);
	uint32_t end = lying(LIE_ABOVE_BURST) ? w->wanted : w->burst_end;
	if (!in_order || !good_data || offset != w->received || offset > end ||
		pdu->length > end - offset)
		return false;
	if (pdu->length > 0)
		memcpy(w->bytes + offset, pdu->data, pdu->length);
	w->received += (uint32_t)pdu->length;
	return true;
}

bool
answer_data_out(struct peer *p, const struct pdu *pdu)
{
	struct write_task *w = find_write(p, (uint32_t)load(pdu->bhs + 16, 4));
	bool final = (pdu->bhs[1] & FINAL) != 0;
	if (pdu->bad_data && !give_reject(p, pdu, 0x02))
		return false;
	if (w == NULL || (load(pdu->bhs + 20, 4) != w->ttt && !lying(LIE_ANY_TRANSFER_TAG)))
		return true;
	if (!take_data(w, pdu))
		w->failed = true;
	if (w->failed && lying(LIE_BAD_DATA_OUT_EARLY))
		return finish_write(p, w, CRC_ERROR);
	if (!final)
		return true;
	/* RFC 7143 11.7.1: F ends a solicited burst, which must be whole. */
	if (!w->unsolicited && w->received < w->burst_end) {
		if (lying(LIE_EARLY_FINAL))
			w->received = w->burst_end;
		else
			w->failed = true;
	}
	w->unsolicited = false;
	return go_on(p, w);
}

/* Commands */

static bool
give_inquiry(struct peer *p, const struct command *c)
{
	static const uint8_t standard[36] = {
		0, 0, 6, 2, 31, 0, 0, 2, 'l', 'i', 'a', 'r', ' ', ' ', ' ', ' '};
	uint32_t allocated = (uint32_t)load(c->cdb + 3, 2);
	if (c->cdb[1] != 0 || c->cdb[2] != 0)
		return give_failure(p, c, INVALID_FIELD);
	return give_data(p, c, standard, allocated < 36 ? allocated : 36);
}

static bool
give_capacity(struct peer *p, const struct command *c)
{
	uint8_t data[32] = {0};
	uint32_t allocated = (uint32_t)load(c->cdb + 10, 4);
	if ((c->cdb[1] & 31) != 0x10)
		return give_failure(p, c, INVALID_FIELD);
	store(data, DISK_SIZE / BLOCK - 1, 8);
	store(data + 8, BLOCK, 4);
	return give_data(p, c, data, allocated < 32 ? allocated : 32);
}

static bool
move_blocks(struct peer *p, const struct command *c, const struct pdu *pdu)
{
	uint32_t lba = (uint32_t)load(c->cdb + 2, 4), blocks = (uint32_t)load(c->cdb + 7, 2);
	if (lba > DISK_SIZE / BLOCK || blocks > DISK_SIZE / BLOCK - lba)
		return give_failure(p, c, OUT_OF_RANGE);
	if (c->cdb[0] == 0x2a)
		return begin_write(p, c, pdu, blocks * BLOCK);
	return give_data(p, c, disk + (size_t)lba * BLOCK, blocks * BLOCK);
}

static bool
execute_command(struct peer *p, const struct pdu *pdu)
{
	static const uint8_t luns[16] = {0, 0, 0, 8}, mode[4] = {3}, sense[18] = {0x70, [7] = 10};
	struct command c = {
		.tag = (uint32_t)load(pdu->bhs + 16, 4),
		.edtl = (uint32_t)load(pdu->bhs + 20, 4),
		.reads = (pdu->bhs[1] & READ_FLAG) != 0,
		.writes = (pdu->bhs[1] & WRITE_FLAG) != 0,
	};
	unsigned attribute = pdu->bhs[1] & 7;
	memcpy(c.cdb, pdu->bhs + 32, 16);
	if (pdu->bad_ahs)
		return give_reject(p, pdu, 0x09);
	if (!is_our_lun(pdu->bhs))
		return give_failure(p, &c, NO_UNIT);
	if (c.reads && c.writes)
		return give_failure(p, &c, INVALID_FIELD);
	if (attribute > 3 && !lying(LIE_ATTRIBUTE))
		return give_failure(p, &c, INVALID_FIELD);
	if (p->attention && c.cdb[0] != 0x12 && c.cdb[0] != 0xa0 && c.cdb[0] != 0x03) {
		p->attention = false;
		return give_failure(p, &c, RESET_HAPPENED);
	}
	switch (c.cdb[0]) {
	case 0x00:
		return give_status(p, c.tag, 0, 0, c.edtl);
	case 0x03:
		return give_data(p, &c, sense, c.cdb[4] < 18 ? c.cdb[4] : 18);
	case 0x12:
		return give_inquiry(p, &c);
	case 0x1a:
		return give_data(p, &c, mode, c.cdb[4] < 4 ? c.cdb[4] : 4);
	case 0x28:
	case 0x2a:
		return move_blocks(p, &c, pdu);
	case 0x9e:
		return give_capacity(p, &c);
	case 0xa0: {
		uint32_t allocated = (uint32_t)load(c.cdb + 6, 4);
		return give_data(p, &c, luns, allocated < 16 ? allocated : 16);
	}
	default:
		return give_failure(p, &c, UNKNOWN_OPCODE);
	}
}

/* SAM-5 8.9: ORDERED waits for all before it, and all after it wait for it. */
static bool
must_wait(const struct peer *p, const struct pdu *pdu)
{
	unsigned attribute = pdu->bhs[1] & 7;
	const struct write_task *w;
	if (attribute == HEAD_OF_QUEUE || lying(LIE_ORDERED))
		return false;
	LIST_FOREACH(w, &p->writes, link)
		if (w->ordered || attribute == ORDERED)
			return true;
	return false;
}

bool
answer_waiting(struct peer *p)
{
	struct pdu *pdu;
	while ((pdu = STAILQ_FIRST(&p->waiting)) != NULL && !must_wait(p, pdu)) {
		STAILQ_REMOVE_HEAD(&p->waiting, link);
		bool given = execute_command(p, pdu);
		free_pdu(pdu);
		if (!given)
			return false;
	}
	return true;
}

bool
answer_command(struct peer *p, const struct pdu *pdu)
{
	bool passes = (pdu->bhs[1] & 7) == HEAD_OF_QUEUE || STAILQ_EMPTY(&p->waiting);
	if (passes && !must_wait(p, pdu))
		return execute_command(p, pdu);
	struct pdu *copy = calloc(1, sizeof *copy);
	if (copy == NULL)
		return false;
	*copy = *pdu;
	copy->data = calloc(1, pdu->length + 1);
	if (pdu->length > 0 && copy->data != NULL)
		memcpy(copy->data, pdu->data, pdu->length);
	STAILQ_INSERT_TAIL(&p->waiting, copy, link);
	return true;
}

/* Task management, RFC 7143 11.5.1 and 11.6.1 */

enum { COMPLETE = 0, NO_TASK = 1, NO_LUN = 2, NO_REASSIGN = 4, UNSUPPORTED = 5, REFUSED = 255 };

static bool
abort_write(struct peer *p, struct write_task *w)
{
	uint32_t tag = w->tag, edtl = w->edtl;
	if (lying(LIE_ABORTED_WRITES))
		return true;
	drop_write(w);
	return !lying(LIE_ABORTED_ANSWERED) || give_status(p, tag, CRC_ERROR, 0, edtl);
}

/* 11.5.5: a command older than this request that may still come counts as received. */
static unsigned
abort_task(struct peer *p, const struct pdu *pdu)
{
	struct write_task *w = find_write(p, (uint32_t)load(pdu->bhs + 20, 4));
	uint32_t ref = (uint32_t)load(pdu->bhs + 32, 4), own = (uint32_t)load(pdu->bhs + 24, 4);
	if (w != NULL)
		return abort_write(p, w) ? COMPLETE : REFUSED;
	if (ref - p->exp_cmd_sn >= WINDOW || (int32_t)(ref - own) >= 0 ||
		p->held[ref % WINDOW] != NULL)
		return NO_TASK;
	if (!lying(LIE_GAP_STAYS))
		p->filled[ref % WINDOW] = true;
	return COMPLETE;
}

static void
abort_all(struct peer *p)
{
	struct write_task *w, *next;
	for (w = LIST_FIRST(&p->writes); w != NULL; w = next) {
		next = LIST_NEXT(w, link);
		abort_write(p, w);
	}
	if (LIST_EMPTY(&p->writes))
		drop_tasks(p);
}

static void
reset_unit(struct peer *p)
{
	struct peer *other;
	LIST_FOREACH(other, &peers, link) {
		if (other == p || !lying(LIE_RESET_SPARES_OTHERS))
			abort_all(other);
		if (other != p && !lying(LIE_RESET_UNTOLD))
			other->attention = true;
	}
}

static unsigned
manage(struct peer *p, const struct pdu *pdu)
{
	unsigned function = pdu->bhs[1] & 0x7f;
	struct peer *other;
	bool unit = function == 1 || function == 2 || function == 4 || function == 5;
	if (unit && !is_our_lun(pdu->bhs) && !lying(LIE_NO_LUN))
		return NO_LUN;
	switch (function) {
	case 1:
		return abort_task(p, pdu);
	case 2:
	case 4:
		abort_all(p);
		if (lying(LIE_ABORTS_OTHERS))
			LIST_FOREACH(other, &peers, link)
				drop_tasks(other);
		return COMPLETE;
	case 5:
	case 6:
		reset_unit(p);
		return COMPLETE;
	case 7:
		LIST_FOREACH(other, &peers, link)
			if (other != p && !lying(LIE_COLD_RESET))
				end_peer(other);
		return COMPLETE;
	case 3:
		return UNSUPPORTED;
	case 8:
		return NO_REASSIGN;
	default:
		return lying(LIE_UNKNOWN_FUNCTION) ? COMPLETE : REFUSED;
	}
}

bool
answer_management(struct peer *p, const struct pdu *pdu)
{
	uint8_t bhs[BHS_SIZE] = {MANAGEMENT_RESPONSE, FINAL};
	bhs[2] = (uint8_t)manage(p, pdu);
	if (!answer_held(p) || !answer_waiting(p))
		return false;
	memcpy(bhs + 16, pdu->bhs + 16, 4);
	put_numbers(p, bhs, true);
	bool ends = (pdu->bhs[1] & 0x7f) == 7 && !lying(LIE_COLD_RESET);
	return give_pdu(p, bhs, NULL, 0) && !ends;
}
