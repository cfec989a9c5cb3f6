#include "config.h"
#include "liar.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

bool with_chap;
struct peers peers = LIST_HEAD_INITIALIZER(peers);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The quotations are lines about what implementers get wrong, from which the lies were made. */
const struct lie_row lies[LIE_COUNT] = {
	/* "A key negotiated twice in login: login reject (02xx). First PDU not a Login: close silently;
	   a non-login PDU later in login: 020b, close" */
	[LIE_KEY_TWICE] = {"key-twice", "L29", "fail", "open"},
	[LIE_KEY_TWICE_LATER] = {"key-twice-later", "L30", "fail", "open"},
	[LIE_STRANGER] = {"stranger-answered", "L25", "fail", "open"},
	[LIE_COMMAND_IN_LOGIN] = {"ping-in-login-answered", "L27", "fail", "open"},
	/* "A Login or Text request with C=1 gets an empty answer, and keys may split anywhere" */
	[LIE_PART_ANSWERED] = {"part-of-login-answered", "L31", "fail", "open"},
	[LIE_PARTS_APART] = {"parts-of-login-apart", "L33", "fail", "open"},
	[LIE_TEXT_APART] = {"parts-of-text-apart", "X09", "fail", "open"},
	/* "SendTargets=All is for discovery sessions only; in a normal session an empty value lists only
	   the own target" */
	[LIE_ALL_IN_NORMAL] = {"all-in-normal-session", "X02", "fail", "open"},
	[LIE_EMPTY_LISTS_ALL] = {"empty-lists-all", "X01", "fail", "open"},
	[LIE_UNKNOWN_LISTS_ALL] = {"unknown-lists-all", "Y03", "fail", "open"},
	[LIE_NO_ADDRESS_TAG] = {"address-without-tag", "Y04", "fail", "open"},
	[LIE_DISCOVERY_COMMAND] = {"command-in-discovery", "Y05", "fail", "open"},
	/* "IFMarker, OFMarker: No or Reject; IFMarkInt, OFMarkInt: Reject; never NotUnderstood" */
	[LIE_MARKER] = {"marker-not-understood", "N38", "fail", "open"},
	[LIE_MARK_INT] = {"mark-int-not-understood", "N41", "fail", "open"},
	/* "CmdSN outside the window: silently ignored, never a closed connection. ABORT TASK of a RefCmdSN
	   never received fills the gap" */
	[LIE_ABOVE_WINDOW] = {"above-window-executed", "S03", "fail", "open"},
	[LIE_BELOW_WINDOW] = {"below-window-executed", "S01", "fail", "open"},
	[LIE_OUTSIDE_CLOSES] = {"outside-window-closes", "S04", "fail", "open"},
	[LIE_GAP_STAYS] = {"abort-leaves-gap", "M05", "fail", "open"},
	/* "A bad data digest on immediate data: Reject 0x02 only, CmdSN not consumed; on Data-Out also
	   CHECK CONDITION 0B/47/05 after all data" */
	[LIE_BAD_IMMEDIATE] = {"bad-immediate-takes-cmdsn", "G10", "fail", "open"},
	[LIE_BAD_DATA_OUT] = {"bad-data-out-good", "G11", "fail", "open"},
	[LIE_BAD_DATA_OUT_EARLY] = {"bad-data-out-status-early", "G12", "fail", "open"},
	[LIE_BAD_PING] = {"bad-ping-answered", "G09", "fail", "open"},
	[LIE_BAD_HEADER] = {"bad-header-answered", "G08", "fail", "open"},
	[LIE_HEADER_DIGEST] = {"wrong-header-digest", "G01", "fail", "open"},
	[LIE_PADDING_DIGEST] = {"padding-not-in-digest", "G05", "fail", "open"},
	/* "Data-In sequences carry F=1 at each MaxBurstLength. R2T and unsolicited NOP-In carry the next
	   StatSN without advancing it; Reject advances it" */
	[LIE_NO_FINAL] = {"no-final-at-burst", "D15", "fail", "open"},
	[LIE_R2T_STAT_SN] = {"r2t-takes-statsn", "D21", "fail", "open"},
	[LIE_REJECT_STAT_SN] = {"reject-takes-no-statsn", "R05", "fail", "open"},
	/* "FirstBurstLength is clamped to MaxBurstLength. Ping echoes are cut to the initiator's
	   MaxRecvDataSegmentLength, which may change by Text at any time" */
	[LIE_FIRST_BURST] = {"first-burst-above-max", "N51", "fail", "open"},
	[LIE_UNCUT] = {"echo-not-cut", "P03", "fail", "open"},
	[LIE_UNCUT_LATER] = {"echo-not-cut-after-text", "P04", "fail", "open"},
	/* "If no offered digest is supported: Reject; never answer a value that was not offered. Accept
	   None,CRC32C and CRC32C,None by default" */
	[LIE_UNOFFERED] = {"unoffered-digest", "N07", "fail", "open"},
	[LIE_LIST_REFUSED] = {"digest-list-refused", "N05", "fail", "open"},
	/* "Logout of an unknown CID is response 1, recovery logout at level 0 is response 2; LUN RESET on
	   a missing LUN is response 2" */
	[LIE_UNKNOWN_CID] = {"unknown-cid-logged-out", "O03", "fail", "open"},
	[LIE_RECOVERY] = {"recovery-logout-done", "O04", "fail", "open"},
	[LIE_NO_LUN] = {"missing-lun-reset", "M11", "fail", "open"},
	[LIE_AFTER_LOGOUT] = {"served-after-logout", "O08", "fail", "open"},
	/* "Session reinstatement waits for authentication" */
	[LIE_EARLY_REINSTATEMENT] = {"early-reinstatement", "I05", "fail", "open"},
	[LIE_EARLY_WITH_CHAP] = {"unauthenticated-reinstatement", "C28", "fail", "chap"},
	[LIE_OLD_STAYS] = {"old-session-stays", "I01", "fail", "open"},
	[LIE_OLD_WRITE_LANDS] = {"old-write-lands", "I03", "fail", "open"},
	/* "Residuals are exact also when EDTL and CDB disagree or the direction flags are wrong: every
	   command is answered. A wrong DataSN fails the write" */
	[LIE_RESIDUAL] = {"residual-off-by-one", "D24", "fail", "open"},
	[LIE_OVERFLOW] = {"overflow-untold", "D25", "fail", "open"},
	[LIE_NOTHING_EXPECTED] = {"no-residual-without-flags", "D31", "fail", "open"},
	[LIE_UNANSWERED] = {"wrong-direction-unanswered", "D34", "fail", "open"},
	[LIE_WRONG_DATA_SN] = {"wrong-datasn-taken", "D42", "fail", "open"},
	[LIE_EARLY_FINAL] = {"short-burst-taken", "D44", "fail", "open"},
	/* "An unknown TSIH is 020a. CHAP names may begin with 0x or 0b; values come in hex and base64,
	   upper and lower case" */
	[LIE_UNKNOWN_TSIH] = {"unknown-tsih-accepted", "L22", "fail", "open"},
	[LIE_NAME_IS_NUMBER] = {"name-taken-for-number", "C13", "warn", "chap"},
	[LIE_NO_BASE64] = {"no-base64", "C15", "fail", "chap"},
	[LIE_NO_UPPER_CASE] = {"no-upper-case", "C14", "fail", "chap"},
	/* "NOP-Out is answered while disk I/O stalls" */
	[LIE_PING_WAITS] = {"ping-waits-for-write", "P09", "fail", "open"},
	/* Rules for CHAP: reflected and repeated challenges, who proves what. */
	[LIE_REFLECTION] = {"reflection-accepted", "C20", "fail", "chap"},
	[LIE_SAME_CHALLENGE] = {"same-challenge", "C16", "fail", "chap"},
	[LIE_WRONG_PROOF] = {"wrong-proof", "C18", "fail", "chap"},
	[LIE_ANY_SECRET] = {"any-secret", "C11", "fail", "chap"},
	[LIE_STAGE_SKIPPED] = {"security-stage-skipped", "C02", "fail", "chap"},
	/* The rest breaks a MUST each that the lines above take for granted. */
	[LIE_TSIH_ZERO] = {"tsih-0", "L06", "fail", "open"},
	[LIE_TSIH_EARLY] = {"tsih-too-early", "L07", "fail", "open"},
	[LIE_LOGIN_TAG] = {"login-tag-not-echoed", "L09", "fail", "open"},
	[LIE_LOGIN_STAT_SN] = {"login-statsn-stands", "L11", "fail", "open"},
	[LIE_LOGIN_CMD_SN] = {"login-takes-cmdsn", "L12", "fail", "open"},
	[LIE_TRANSIT] = {"transit-unasked", "L14", "fail", "open"},
	[LIE_VERSION] = {"version-accepted", "L16", "fail", "open"},
	[LIE_NO_PORTAL_TAG] = {"no-portal-group-tag", "L04", "fail", "open"},
	[LIE_UNKNOWN_TARGET] = {"unknown-target-0200", "L20", "warn", "open"},
	[LIE_STAYS_OPEN] = {"open-after-refusal", "L28", "fail", "open"},
	[LIE_CONTINUE_TRANSIT] = {"continue-and-transit", "L35", "fail", "open"},
	[LIE_BACKWARDS] = {"stage-backwards", "L37", "fail", "open"},
	[LIE_LOGIN_DEATH] = {"dies-of-16-mib-login", "H05", "fail", "open"},
	[LIE_NO_NUL] = {"no-nul", "N54", "fail", "open"},
	[LIE_RANGE] = {"out-of-range-taken", "N22", "fail", "open"},
	[LIE_CASE] = {"any-case", "N17", "fail", "open"},
	[LIE_UNKNOWN_KEY] = {"unknown-key-unanswered", "N43", "fail", "open"},
	[LIE_AND] = {"and-is-or", "N15", "fail", "open"},
	[LIE_OR] = {"or-is-and", "N12", "fail", "open"},
	[LIE_HEX_NUMBER] = {"no-hexadecimal", "N20", "fail", "open"},
	[LIE_OUT_OF_ORDER] = {"out-of-order", "S05", "fail", "open"},
	[LIE_DUPLICATE] = {"duplicate-executed", "S06", "fail", "open"},
	[LIE_IMMEDIATE_COUNTS] = {"immediate-takes-cmdsn", "S08", "fail", "open"},
	[LIE_IMMEDIATE_WAITS] = {"immediate-waits-for-gap", "S07", "fail", "open"},
	[LIE_STAT_SN] = {"wrong-statsn", "S09", "fail", "open"},
	[LIE_WINDOW_BACK] = {"window-goes-back", "S12", "fail", "open"},
	[LIE_ATTRIBUTE] = {"reserved-attribute", "S19", "warn", "open"},
	[LIE_ORDERED] = {"ordered-does-not-wait", "S20", "fail", "open"},
	[LIE_DATA_SN] = {"datasn-from-1", "D11", "fail", "open"},
	[LIE_DATA_OFFSET] = {"data-out-of-order", "D12", "fail", "open"},
	[LIE_SEGMENT] = {"segment-too-long", "D13", "fail", "open"},
	[LIE_STATUS_WITHOUT_S] = {"status-without-s", "D16", "fail", "open"},
	[LIE_PADDING] = {"no-padding", "D17", "fail", "open"},
	[LIE_R2T_BEYOND] = {"r2t-above-burst", "D19", "fail", "open"},
	[LIE_R2T_SN] = {"r2tsn-stands", "D18", "fail", "open"},
	[LIE_TWO_R2TS] = {"two-r2ts-at-once", "D22", "fail", "open"},
	[LIE_R2T_TAG] = {"r2t-without-tag", "D20", "fail", "open"},
	[LIE_IMMEDIATE_TAKEN] = {"immediate-data-taken", "D45", "warn", "open"},
	[LIE_NO_SENSE] = {"no-sense", "D38", "fail", "open"},
	[LIE_MORE_THAN_ASKED] = {"more-than-asked-written", "H13", "fail", "open"},
	[LIE_ANY_TRANSFER_TAG] = {"any-transfer-tag", "D48", "warn", "open"},
	[LIE_ABOVE_BURST] = {"above-burst-taken", "D47", "fail", "open"},
	[LIE_ABOVE_FIRST_BURST] = {"above-first-burst-taken", "H11", "warn", "open"},
	[LIE_ABORTED_ANSWERED] = {"aborted-answered", "M02", "fail", "open"},
	[LIE_ABORTED_WRITES] = {"aborted-writes", "M03", "fail", "open"},
	[LIE_ABORTS_OTHERS] = {"aborts-others", "M07", "fail", "open"},
	[LIE_RESET_UNTOLD] = {"reset-untold", "M10", "fail", "open"},
	[LIE_RESET_SPARES_OTHERS] = {"reset-spares-others", "M18", "fail", "open"},
	[LIE_COLD_RESET] = {"cold-reset-closes-nothing", "M20", "fail", "open"},
	[LIE_UNKNOWN_FUNCTION] = {"unknown-function-complete", "M15", "fail", "open"},
	[LIE_REJECT_HEADER] = {"wrong-header-rejected", "R04", "fail", "open"},
	[LIE_REJECT_UNDRAINED] = {"rejected-data-undrained", "R10", "fail", "open"},
	[LIE_ECHO] = {"wrong-echo", "P02", "fail", "open"},
	[LIE_PING_STAT_SN] = {"ping-takes-no-statsn", "P07", "fail", "open"},
	[LIE_PING_UNASKED] = {"unasked-ping-answered", "P08", "fail", "open"},
	[LIE_ENDLESS_TEXT] = {"endless-text", "H21", "fail", "open"},
	[LIE_RESET_KILLS] = {"reset-kills-target", "H18", "fail", "open"},
};
const size_t lie_count = LIE_COUNT;
const char liar_options[] = "[--chap]";

bool
liar_option(const char *word)
{
	if (strcmp(word, "--chap") != 0)
		return false;
	with_chap = true;
	return true;
}

static uint32_t crc_table[256];

/* RFC 7143 13.1 */
bool
liar_prepare(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t r = i;
		for (int bit = 0; bit < 8; bit++)
			r = (r & 1) != 0 ? r >> 1 ^ 0x82f63b78u : r >> 1;
		crc_table[i] = r;
	}
	return true;
}

static uint32_t
crc32c(const uint8_t *bytes, size_t length)
{
	uint32_t crc = 0xffffffff;
	for (size_t i = 0; i < length; i++)
		crc = crc_table[(crc ^ bytes[i]) & 255] ^ crc >> 8;
	return crc ^ 0xffffffff;
}

/* Little-endian: the register's lowest byte first. */
static void
put_digest(uint8_t *at, uint32_t crc)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(crc >> 8 * i);
}

static bool
take_bytes(struct peer *p, uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n = recv(p->fd, bytes, length, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		bytes += n;
		length -= (size_t)n;
	}
	return true;
}

static bool
give_bytes(struct peer *p, const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n = send(p->fd, bytes, length, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		bytes += n;
		length -= (size_t)n;
	}
	return true;
}

bool
give_pdu(struct peer *p, uint8_t *bhs, const void *data, size_t length)
{
	size_t padded = (length + 3) & ~(size_t)3;
	uint8_t *whole = calloc(1, BHS_SIZE + padded + 8), *at = whole;
	if (whole == NULL)
		return false;
	store(bhs + 5, length, 3);
	memcpy(at, bhs, BHS_SIZE);
	at += BHS_SIZE;
	if (p->full_feature && p->header_digest) {
		put_digest(at, crc32c(bhs, BHS_SIZE) ^ (lying(LIE_HEADER_DIGEST) ? 1 : 0));
		at += 4;
	}
	if (length > 0) {
		memcpy(at, data, length);
		size_t covered = lying(LIE_PADDING_DIGEST) ? length : padded;
		uint32_t crc = crc32c(at, covered);
		at += lying(LIE_PADDING) && p->full_feature ? length : padded;
		if (p->full_feature && p->data_digest) {
			put_digest(at, crc);
			at += 4;
		}
	}
	bool given = give_bytes(p, whole, (size_t)(at - whole));
	free(whole);
	return given;
}

void
put_numbers(struct peer *p, uint8_t *bhs, bool takes)
{
	uint32_t window = WINDOW;
	if (lying(LIE_WINDOW_BACK) && p->full_feature && p->stat_sn % 4 == 3)
		window = WINDOW / 2;
	store(bhs + 24, p->stat_sn, 4);
	store(bhs + 28, p->exp_cmd_sn, 4);
	store(bhs + 32, p->exp_cmd_sn + window - 1, 4);
	if (takes)
		p->stat_sn += lying(LIE_STAT_SN) && p->full_feature && p->stat_sn % 4 == 3 ? 2 : 1;
}

bool
give_reject(struct peer *p, const struct pdu *pdu, unsigned reason)
{
	uint8_t bhs[BHS_SIZE] = {REJECT, 0x80, (uint8_t)reason}, header[BHS_SIZE];
	store(bhs + 16, NO_TAG, 4);
	put_numbers(p, bhs, !lying(LIE_REJECT_STAT_SN));
	memcpy(header, pdu->bhs, BHS_SIZE);
	if (lying(LIE_REJECT_HEADER))
		header[0] &= 0x3f;
	return give_pdu(p, bhs, header, BHS_SIZE);
}

/* What follows the header: segments, and data. */
static bool
take_rest(struct peer *p, struct pdu *pdu)
{
	uint8_t header[BHS_SIZE + 1024], digest[4], right[4];
	size_t ahs = (size_t)pdu->bhs[4] * 4, padded = (pdu->length + 3) & ~(size_t)3;
	memcpy(header, pdu->bhs, BHS_SIZE);
	if (!take_bytes(p, header + BHS_SIZE, ahs))
		return false;
	if (ahs > 0 && load(header + BHS_SIZE, 2) + 3 > ahs)
		pdu->bad_ahs = true;
	if (p->full_feature && p->header_digest) {
		put_digest(right, crc32c(header, BHS_SIZE + ahs));
		if (!take_bytes(p, digest, 4) ||
			(memcmp(digest, right, 4) != 0 && !lying(LIE_BAD_HEADER)))
			return false;
	}
	if (lying(LIE_REJECT_UNDRAINED) && (pdu->bhs[0] & 0x3f) == 0x07)
		return true;
	if (padded == 0)
		return true;
	pdu->data = calloc(1, padded + 1);
	if (pdu->data == NULL || !take_bytes(p, pdu->data, padded))
		return false;
	if (p->full_feature && p->data_digest) {
		put_digest(right, crc32c(pdu->data, padded));
		if (!take_bytes(p, digest, 4))
			return false;
		pdu->bad_data = memcmp(digest, right, 4) != 0;
	}
	return true;
}

struct pdu *
take_pdu(struct peer *p)
{
	struct pdu *pdu = calloc(1, sizeof *pdu);
	if (pdu == NULL || !take_bytes(p, pdu->bhs, BHS_SIZE)) {
		free(pdu);
		return NULL;
	}
	pdu->length = (size_t)load(pdu->bhs + 5, 3);
	size_t most = p->full_feature ? SEGMENT_MAX : LOGIN_SEGMENT_MAX;
	if (pdu->length > most && lying(LIE_LOGIN_DEATH))
		raise(SIGKILL);
	if (pdu->length > most || !take_rest(p, pdu)) {
		free_pdu(pdu);
		return NULL;
	}
	return pdu;
}

void
free_pdu(struct pdu *pdu)
{
	if (pdu == NULL)
		return;
	free(pdu->data);
	free(pdu);
}

void
end_peer(struct peer *p)
{
	if (lying(LIE_OLD_WRITE_LANDS))
		land_writes(p);
	p->dead = true;
	shutdown(p->fd, SHUT_RDWR);
}

static bool
answer(struct peer *p, struct pdu *pdu)
{
	bool goes_on = false;
	pthread_mutex_lock(&lock);
	if (p->dead)
		free_pdu(pdu);
	else if (p->full_feature)
		goes_on = answer_request(p, pdu);
	else {
		goes_on = answer_login(p, pdu);
		free_pdu(pdu);
	}
	pthread_mutex_unlock(&lock);
	return goes_on;
}

void
liar_serve(int fd)
{
	struct peer *p = calloc(1, sizeof *p);
	struct timeval patience = {.tv_sec = 5};
	struct pdu *pdu;
	int one = 1;
	if (p == NULL) {
		close(fd);
		return;
	}
	p->fd = fd;
	STAILQ_INIT(&p->waiting);
	p->initial_r2t = p->immediate_data = true;
	p->max_burst = MAX_BURST;
	p->first_burst = FIRST_BURST;
	p->max_send = 8192;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	while ((pdu = take_pdu(p)) != NULL && answer(p, pdu))
		;
	pthread_mutex_lock(&lock);
	if (lying(LIE_RESET_KILLS) && !LIST_EMPTY(&p->writes))
		raise(SIGKILL);
	drop_tasks(p);
	if (p->full_feature)
		LIST_REMOVE(p, link);
	for (int i = 0; i < WINDOW; i++)
		free_pdu(p->held[i]);
	pthread_mutex_unlock(&lock);
	/* Unread input would turn the close into a reset, and take answers back. */
	shutdown(fd, SHUT_WR);
	close(fd);
	free(p);
}
