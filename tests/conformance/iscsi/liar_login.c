#include "config.h"
#include "liar.h"

#include <stdio.h>
#include <string.h>

enum { TRANSIT = 0x80, CONTINUE = 0x40, FULL_FEATURE = 3, REQUESTS_MAX = 16 };

/* RFC 7143 11.13.5 */
enum {
	INITIATOR_ERROR = 0x0200,
	UNAUTHENTICATED = 0x0201,
	NOT_FOUND = 0x0203,
	UNSUPPORTED_VERSION = 0x0205,
	TOO_MANY = 0x0206,
	MISSING = 0x0207,
	NO_SESSION_TYPE = 0x0209,
	NO_SESSION = 0x020a,
	INVALID_REQUEST = 0x020b,
};

static bool
give_response(struct peer *p, const struct pdu *pdu, unsigned status, unsigned flags)
{
	uint8_t bhs[BHS_SIZE] = {LOGIN_RESPONSE, (uint8_t)(status == 0 ? flags : 0)};
	bool ends = status == 0 && (flags & TRANSIT) != 0 && (flags & 3) == FULL_FEATURE;
	memcpy(bhs + 8, pdu->bhs + 8, 6);
	if ((ends && !lying(LIE_TSIH_ZERO)) || lying(LIE_TSIH_EARLY))
		store(bhs + 14, p->tsih | 1u, 2);
	if (ends && !lying(LIE_TSIH_ZERO))
		store(bhs + 14, p->tsih, 2);
	store(bhs + 16, load(pdu->bhs + 16, 4) ^ (lying(LIE_LOGIN_TAG) ? 1 : 0), 4);
	if (lying(LIE_LOGIN_CMD_SN))
		p->exp_cmd_sn++;
	put_numbers(p, bhs, !lying(LIE_LOGIN_STAT_SN));
	if (lying(LIE_LOGIN_CMD_SN))
		p->exp_cmd_sn--;
	store(bhs + 36, status, 2);
	bool given = give_pdu(p, bhs, p->answers, status == 0 ? p->answers_length : 0);
	p->answers_length = 0;
	return given && (status == 0 || lying(LIE_STAYS_OPEN));
}

static bool
is_same_session(const struct peer *a, const struct peer *b)
{
	return a != b && !a->dead && memcmp(a->isid, b->isid, 6) == 0 &&
	       strcmp(a->initiator, b->initiator) == 0 && a->discovery == b->discovery;
}

/* RFC 7143 6.3.5 */
static void
end_old_session(struct peer *p)
{
	struct peer *old;
	LIST_FOREACH(old, &peers, link)
		if (is_same_session(old, p) && !lying(LIE_OLD_STAYS))
			end_peer(old);
}

/* What the first request must say. */
static unsigned
begin_login(struct peer *p, const struct pdu *pdu, const char *text, size_t length)
{
	static uint16_t last_tsih;
	const char *name = find_key(text, length, "InitiatorName");
	const char *type = find_key(text, length, "SessionType");
	const char *target = find_key(text, length, "TargetName");
	uint16_t tsih = (uint16_t)load(pdu->bhs + 14, 2);
	struct peer *old;
	if (pdu->bhs[3] > 0 && !lying(LIE_VERSION))
		return UNSUPPORTED_VERSION;
	if (name == NULL || name[0] == '\0' || strlen(name) >= NAME_MAX_LENGTH)
		return MISSING;
	if (type != NULL && strcmp(type, "Normal") != 0 && strcmp(type, "Discovery") != 0)
		return NO_SESSION_TYPE;
	p->discovery = type != NULL && type[0] == 'D';
	if (target == NULL && !p->discovery)
		return MISSING;
	if (!p->discovery && strcmp(target, TARGET_NAME) != 0)
		return lying(LIE_UNKNOWN_TARGET) ? INITIATOR_ERROR : NOT_FOUND;
	snprintf(p->initiator, sizeof p->initiator, "%s", name);
	memcpy(p->isid, pdu->bhs + 8, 6);
	p->cid = (uint16_t)load(pdu->bhs + 20, 2);
	p->tsih = ++last_tsih;
	p->authenticated = !with_chap;
	if (!p->discovery)
		add_answer(p, "TargetPortalGroupTag", "1");
	if (lying(LIE_NO_PORTAL_TAG))
		p->answers_length = 0;
	if (lying(LIE_EARLY_REINSTATEMENT) || lying(LIE_EARLY_WITH_CHAP))
		end_old_session(p);
	if (tsih == 0 || lying(LIE_UNKNOWN_TSIH))
		return 0;
	LIST_FOREACH(old, &peers, link)
		if (is_same_session(old, p) && old->tsih == tsih)
			return TOO_MANY;
	return NO_SESSION;
}

/* RFC 7143 11.12.1 to 11.12.3 */
static unsigned
check_stages(struct peer *p, unsigned flags)
{
	unsigned now = flags >> 2 & 3, next = flags & 3;
	if ((flags & TRANSIT) != 0 && (flags & CONTINUE) != 0 && !lying(LIE_CONTINUE_TRANSIT))
		return INITIATOR_ERROR;
	if (now == 2 || now == FULL_FEATURE)
		return INITIATOR_ERROR;
	if ((flags & TRANSIT) != 0 && (next == 2 || next <= now))
		return INITIATOR_ERROR;
	if (p->began && now != p->stage && !lying(LIE_BACKWARDS))
		return INITIATOR_ERROR;
	p->stage = now;
	return 0;
}

static void
enter_full_feature(struct peer *p)
{
	end_old_session(p);
	p->full_feature = true;
	if (p->first_burst > p->max_burst)
		p->first_burst = p->max_burst;
	LIST_INSERT_HEAD(&peers, p, link);
}

/* The whole text is there. */
static bool
answer_text(struct peer *p, const struct pdu *pdu)
{
	unsigned flags = pdu->bhs[1], status = 0;
	size_t length = p->text_length;
	p->text_length = 0;
	p->text[length] = '\0';
	if (!p->began)
		status = begin_login(p, pdu, p->text, length);
	p->began = true;
	if (status == 0)
		status = answer_keys(p, p->text, length);
	if (status == 0 && p->stage == 0 && !p->authenticated)
		status = answer_chap(p, p->text, length);
	else if (status == 0 && p->stage == 0 && find_key(p->text, length, "AuthMethod") != NULL)
		status = answer_chap(p, p->text, length);
	if (status == 0 && p->stage != 0 && lying(LIE_STAGE_SKIPPED))
		p->authenticated = true;
	if (status == 0 && p->stage != 0 && !p->authenticated)
		status = UNAUTHENTICATED;
	bool transit = (flags & TRANSIT) != 0 && p->authenticated;
	if (status != 0 || !transit)
		return give_response(p, pdu, status,
			(flags & 0x0c) | (lying(LIE_TRANSIT) && p->stage == 0 ? 0x81 : 0));
	bool ends = (flags & 3) == FULL_FEATURE;
	p->stage = flags & 3;
	/* One answer, long enough to see that it must have been asked for. */
	if (ends && !p->discovery)
		add_answer(p, "MaxRecvDataSegmentLength", "65536");
	bool given = give_response(p, pdu, 0, flags & 0x8f);
	if (ends && given)
		enter_full_feature(p);
	return given;
}

static bool
refuse(struct peer *p, const struct pdu *pdu, unsigned status)
{
	return give_response(p, pdu, status, 0);
}

bool
answer_login(struct peer *p, const struct pdu *pdu)
{
	static const unsigned immediate_login = LOGIN | 0x40;
	unsigned requests = (unsigned)(p->stat_sn & 0xff);
	if (pdu->bhs[0] != immediate_login) {
		if (!p->began)
			return lying(LIE_STRANGER) && give_reject(p, pdu, 0x04);
		if (!lying(LIE_COMMAND_IN_LOGIN))
			return refuse(p, pdu, INVALID_REQUEST);
		uint8_t bhs[BHS_SIZE] = {NOP_IN, 0x80};
		memcpy(bhs + 16, pdu->bhs + 16, 4);
		store(bhs + 20, NO_TAG, 4);
		put_numbers(p, bhs, true);
		return give_pdu(p, bhs, NULL, 0);
	}
	if (!p->began && p->text_length == 0)
		p->exp_cmd_sn = (uint32_t)load(pdu->bhs + 24, 4);
	unsigned status = check_stages(p, pdu->bhs[1]);
	if (status == 0 && (requests >= REQUESTS_MAX || pdu->length > TEXT_MAX - p->text_length))
		status = INITIATOR_ERROR;
	if (status != 0)
		return refuse(p, pdu, status);
	if (pdu->length > 0)
		memcpy(p->text + p->text_length, pdu->data, pdu->length);
	p->text_length += pdu->length;
	if ((pdu->bhs[1] & CONTINUE) == 0)
		return answer_text(p, pdu);
	if (lying(LIE_PART_ANSWERED) || lying(LIE_PARTS_APART)) {
		size_t length = p->text_length;
		p->text_length = 0;
		status = answer_keys(p, p->text, length);
		if (status != 0)
			return refuse(p, pdu, status);
		if (lying(LIE_PARTS_APART))
			p->answers_length = 0;
	}
	return give_response(p, pdu, 0, pdu->bhs[1] & 0x0c);
}
