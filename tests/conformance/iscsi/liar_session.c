#include "config.h"
#include "liar.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { FINAL = 0x80, CONTINUE = 0x40, IMMEDIATE = 0x40, TEXT_TTT = 1 };

static bool
answer_ping(struct peer *p, const struct pdu *pdu)
{
	uint8_t bhs[BHS_SIZE] = {NOP_IN, FINAL}, wrong = 'x';
	uint32_t most = p->max_send;
	const void *data = pdu->data;
	if (load(pdu->bhs + 16, 4) == NO_TAG && !lying(LIE_PING_UNASKED))
		return true;
	if (lying(LIE_UNCUT) || (lying(LIE_UNCUT_LATER) && p->keys_length == 0))
		most = SEGMENT_MAX;
	if (lying(LIE_PING_WAITS) && !LIST_EMPTY(&p->writes))
		return true;
	if (lying(LIE_ECHO) && pdu->length == 1)
		data = &wrong;
	memcpy(bhs + 8, pdu->bhs + 8, 12);
	store(bhs + 20, NO_TAG, 4);
	put_numbers(p, bhs, !lying(LIE_PING_STAT_SN));
	return give_pdu(p, bhs, data, pdu->length < most ? pdu->length : most);
}

/* RFC 7143 11.14 and 11.15 */
static bool
answer_logout(struct peer *p, const struct pdu *pdu)
{
	uint8_t bhs[BHS_SIZE] = {LOGOUT_RESPONSE, FINAL};
	unsigned reason = pdu->bhs[1] & 0x7f;
	bool ends = true;
	if (reason > 2)
		return give_reject(p, pdu, 0x09);
	if (reason == 1 && load(pdu->bhs + 20, 2) != p->cid) {
		bhs[2] = lying(LIE_UNKNOWN_CID) ? 0 : 1;
		ends = false;
	} else if (reason == 2) {
		bhs[2] = lying(LIE_RECOVERY) ? 0 : 2;
		ends = false;
	}
	memcpy(bhs + 16, pdu->bhs + 16, 4);
	put_numbers(p, bhs, true);
	return give_pdu(p, bhs, NULL, 0) && (!ends || lying(LIE_AFTER_LOGOUT));
}

static void
list_target(struct peer *p, const char *name)
{
	struct sockaddr_in address = {0};
	socklen_t length = sizeof address;
	char text[64];
	getsockname(p->fd, (struct sockaddr *)&address, &length);
	snprintf(text, sizeof text, "%s:%u%s", inet_ntoa(address.sin_addr), ntohs(address.sin_port),
		lying(LIE_NO_ADDRESS_TAG) ? "" : ",1");
	add_answer(p, "TargetName", name);
	add_answer(p, "TargetAddress", text);
}

/* RFC 7143 app. C */
static void
send_targets(struct peer *p, const char *value)
{
	bool all = strcmp(value, "All") == 0, own = strcmp(value, TARGET_NAME) == 0;
	if (!p->discovery && lying(LIE_EMPTY_LISTS_ALL))
		all = true;
	if (!p->discovery && all && !lying(LIE_ALL_IN_NORMAL) && !lying(LIE_EMPTY_LISTS_ALL)) {
		add_answer(p, "SendTargets", "Reject");
		return;
	}
	if (all || own || (value[0] == '\0' && !p->discovery) || lying(LIE_UNKNOWN_LISTS_ALL))
		list_target(p, TARGET_NAME);
	if (all || strcmp(value, OTHER_NAME) == 0)
		list_target(p, OTHER_NAME);
}

/* RFC 7143 6.4: what may be asked outside of login. */
static void
answer_pair(struct peer *p, const char *name, const char *value)
{
	static const char *const login_only[] = {"HeaderDigest", "DataDigest", "MaxBurstLength",
		"FirstBurstLength", "InitialR2T", "ImmediateData", "InitiatorName", "TargetName"};
	if (strcmp(name, "SendTargets") == 0) {
		send_targets(p, value);
		return;
	}
	if (strcmp(name, "MaxRecvDataSegmentLength") == 0) {
		unsigned long length = strtoul(value, NULL, 0);
		if (length < 512 || length > 16777215) {
			add_answer(p, name, "Reject");
			return;
		}
		p->max_send = (uint32_t)length;
		p->keys_length = 0; /* seen by LIE_UNCUT_LATER */
		return;
	}
	for (size_t i = 0; i < sizeof login_only / sizeof login_only[0]; i++)
		if (strcmp(name, login_only[i]) == 0) {
			add_answer(p, name, "Reject");
			return;
		}
	add_answer(p, name, "NotUnderstood");
}

static bool
answer_pairs(struct peer *p)
{
	p->text[p->text_length] = '\0';
	for (char *at = p->text; at < p->text + p->text_length; at += strlen(at) + 1) {
		char *equals = strchr(at, '=');
		if (*at == '\0')
			continue;
		if (equals == NULL || equals == at)
			return false;
		*equals = '\0';
		answer_pair(p, at, equals + 1);
		*equals = '=';
	}
	return true;
}

static bool
answer_text(struct peer *p, const struct pdu *pdu)
{
	uint8_t bhs[BHS_SIZE] = {TEXT_RESPONSE, FINAL};
	bool more = (pdu->bhs[1] & CONTINUE) != 0, goes_on = load(pdu->bhs + 20, 4) != NO_TAG;
	if (lying(LIE_ENDLESS_TEXT) && pdu->length > TEXT_MAX - p->text_length)
		p->text_length = 0;
	if (goes_on != p->text_pending || pdu->length > TEXT_MAX - p->text_length)
		return give_reject(p, pdu, 0x09);
	if (pdu->length > 0)
		memcpy(p->text + p->text_length, pdu->data, pdu->length);
	p->text_length += pdu->length;
	p->text_pending = more;
	p->answers_length = 0;
	if (!more || lying(LIE_TEXT_APART)) {
		bool understood = answer_pairs(p);
		p->text_length = 0;
		if (!understood)
			return give_reject(p, pdu, 0x09);
	}
	if (more)
		bhs[1] = 0;
	memcpy(bhs + 16, pdu->bhs + 16, 4);
	store(bhs + 20, more ? TEXT_TTT : NO_TAG, 4);
	put_numbers(p, bhs, true);
	return give_pdu(p, bhs, p->answers, p->answers_length);
}

static bool
execute(struct peer *p, const struct pdu *pdu)
{
	unsigned op = pdu->bhs[0] & 0x3f;
	bool unit = op == COMMAND || op == MANAGEMENT;
	if (p->discovery && (unit || op == NOP_OUT) && !lying(LIE_DISCOVERY_COMMAND))
		return give_reject(p, pdu, 0x04);
	if (unit && has_task(p, (uint32_t)load(pdu->bhs + 16, 4)))
		return give_reject(p, pdu, 0x07);
	switch (op) {
	case NOP_OUT:
		return answer_ping(p, pdu);
	case COMMAND:
		return answer_command(p, pdu);
	case MANAGEMENT:
		return answer_management(p, pdu);
	case TEXT:
		return answer_text(p, pdu);
	case LOGOUT:
		return answer_logout(p, pdu);
	case LOGIN:
		return give_reject(p, pdu, 0x04);
	default:
		return give_reject(p, pdu, op >= NOP_IN ? 0x04 : 0x05);
	}
}

bool
answer_held(struct peer *p)
{
	for (;;) {
		unsigned slot = p->exp_cmd_sn % WINDOW;
		struct pdu *pdu = p->held[slot];
		if (pdu == NULL && !p->filled[slot])
			return true;
		p->held[slot] = NULL;
		p->filled[slot] = false;
		p->exp_cmd_sn++;
		bool goes_on = pdu == NULL || execute(p, pdu);
		free_pdu(pdu);
		if (!goes_on)
			return false;
	}
}

/* RFC 7143 4.2.2.1: what is outside of the window, or there already, is ignored. Takes the PDU. */
static bool
queue_request(struct peer *p, struct pdu *pdu)
{
	uint32_t cmd_sn = (uint32_t)load(pdu->bhs + 24, 4);
	int32_t ahead = (int32_t)(cmd_sn - p->exp_cmd_sn);
	unsigned slot = cmd_sn % WINDOW;
	bool outside = ahead < 0 || ahead >= WINDOW, goes_on = true;
	if (outside && lying(LIE_OUTSIDE_CLOSES))
		goes_on = false;
	else if (outside && (lying(LIE_ABOVE_WINDOW) ? ahead > 0 : lying(LIE_BELOW_WINDOW)))
		goes_on = execute(p, pdu);
	else if (!outside && p->held[slot] != NULL && lying(LIE_DUPLICATE))
		goes_on = execute(p, pdu);
	else if (!outside && p->held[slot] == NULL && !p->filled[slot]) {
		if (pdu->bad_data)
			goes_on = give_reject(p, pdu, 0x02);
		if (pdu->bad_data && lying(LIE_BAD_IMMEDIATE))
			p->exp_cmd_sn++;
		if (!pdu->bad_data) {
			if (ahead > 0 && lying(LIE_OUT_OF_ORDER)) {
				p->filled[slot] = true;
				goes_on = execute(p, pdu);
			} else {
				p->held[slot] = pdu;
				return answer_held(p);
			}
		}
	}
	free_pdu(pdu);
	return goes_on;
}

bool
answer_request(struct peer *p, struct pdu *pdu)
{
	unsigned op = pdu->bhs[0] & 0x3f;
	bool goes_on;
	if (op != DATA_OUT && op != SNACK && (pdu->bhs[0] & IMMEDIATE) == 0)
		return queue_request(p, pdu);
	if (op == DATA_OUT)
		goes_on = p->discovery ? give_reject(p, pdu, 0x04) : answer_data_out(p, pdu);
	else if (op == SNACK)
		goes_on = give_reject(p, pdu, 0x03);
	else if (pdu->bad_data && !lying(LIE_BAD_PING))
		goes_on = give_reject(p, pdu, 0x02);
	else if (op == COMMAND && lying(LIE_IMMEDIATE_WAITS))
		return queue_request(p, pdu);
	else {
		if (op == COMMAND && lying(LIE_IMMEDIATE_COUNTS))
			p->exp_cmd_sn++;
		goes_on = execute(p, pdu);
	}
	free_pdu(pdu);
	return goes_on;
}
