#include "config.h"
#include "liar.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* iscsi_lies.sh knows them too. */
static const char user[] = "alice", secret[] = "secretsecret12";
static const char own_user[] = "thetarget", own_secret[] = "targetsecret12";

enum { UNAUTHENTICATED = 0x0201, INITIATOR_ERROR = 0x0200, CHALLENGE = 24, BINARY_MAX = 1024 };

/* RFC 1994 4.1 */
static unsigned
respond(unsigned algorithm, uint8_t id, const char *word, const uint8_t *challenge, size_t length,
	uint8_t *response)
{
	const EVP_MD *md = algorithm == 5   ? EVP_md5()
			   : algorithm == 6 ? EVP_sha1()
			   : algorithm == 7 ? EVP_sha256()
					    : EVP_sha3_256();
	uint8_t all[1 + 64 + BINARY_MAX];
	size_t word_length = strlen(word);
	unsigned size = 0;
	all[0] = id;
	memcpy(all + 1, word, word_length);
	memcpy(all + 1 + word_length, challenge, length);
	return EVP_Digest(all, 1 + word_length + length, response, &size, md, NULL) == 1 ? size : 0;
}

static int
digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F' && !lying(LIE_NO_UPPER_CASE))
		return c - 'A' + 10;
	return -1;
}

/* The length, 0 if it is no binary value. */
static size_t
decode(const char *text, uint8_t *bytes)
{
	size_t length = strlen(text);
	if (length < 4 || text[0] != '0' || length > 2 * BINARY_MAX)
		return 0;
	if (text[1] == 'b' || text[1] == 'B') {
		uint8_t padded[2 * BINARY_MAX + 8];
		int n;
		if (lying(LIE_NO_BASE64) || (length - 2) % 4 != 0)
			return 0;
		n = EVP_DecodeBlock(padded, (const uint8_t *)text + 2, (int)length - 2);
		if (n <= 0)
			return 0;
		n -= (text[length - 1] == '=') + (text[length - 2] == '=');
		memcpy(bytes, padded, (size_t)n);
		return (size_t)n;
	}
	if ((text[1] != 'x' && text[1] != 'X') || length % 2 != 0)
		return 0;
	for (size_t i = 2; i < length; i += 2) {
		int high = digit(text[i]), low = digit(text[i + 1]);
		if (high < 0 || low < 0)
			return 0;
		bytes[i / 2 - 1] = (uint8_t)(high << 4 | low);
	}
	return length / 2 - 1;
}

static void
add_binary(struct peer *p, const char *key, const uint8_t *bytes, size_t length)
{
	char text[2 * 64 + 3] = "0x";
	for (size_t i = 0; i < length; i++)
		snprintf(text + 2 + 2 * i, 3, "%02x", bytes[i]);
	add_answer(p, key, text);
}

static unsigned
give_challenge(struct peer *p, const char *algorithms)
{
	char text[16];
	for (const char *at = algorithms; *at != '\0'; at += strcspn(at, ","), at += *at == ',') {
		unsigned number = (unsigned)atoi(at);
		if (number >= 5 && number <= 8) {
			p->algorithm = number;
			break;
		}
	}
	if (p->algorithm == 0)
		return UNAUTHENTICATED;
	p->challenge_length = CHALLENGE;
	if (lying(LIE_SAME_CHALLENGE))
		memset(p->challenge, 0x5a, CHALLENGE);
	else if (RAND_bytes(p->challenge, CHALLENGE) != 1)
		return 0x0300;
	p->chap_id = p->challenge[0];
	snprintf(text, sizeof text, "%u", p->algorithm);
	add_answer(p, "CHAP_A", text);
	snprintf(text, sizeof text, "%u", p->chap_id);
	add_answer(p, "CHAP_I", text);
	add_binary(p, "CHAP_C", p->challenge, p->challenge_length);
	return 0;
}

/* Mutual: they want our response. */
static unsigned
prove(struct peer *p, const char *id, const char *challenge)
{
	uint8_t theirs[BINARY_MAX], response[EVP_MAX_MD_SIZE];
	size_t length = decode(challenge, theirs);
	if (length == 0 ||
		(length == p->challenge_length && memcmp(theirs, p->challenge, length) == 0 &&
			!lying(LIE_REFLECTION)))
		return UNAUTHENTICATED;
	unsigned size = respond(
		p->algorithm, (uint8_t)strtoul(id, NULL, 0), own_secret, theirs, length, response);
	if (lying(LIE_WRONG_PROOF))
		response[0] ^= 1;
	add_answer(p, "CHAP_N", own_user);
	add_binary(p, "CHAP_R", response, size);
	return 0;
}

static unsigned
check_response(struct peer *p, const char *text, size_t length)
{
	const char *name = find_key(text, length, "CHAP_N");
	const char *response = find_key(text, length, "CHAP_R");
	const char *id = find_key(text, length, "CHAP_I");
	const char *challenge = find_key(text, length, "CHAP_C");
	uint8_t theirs[BINARY_MAX], right[EVP_MAX_MD_SIZE];
	if (name == NULL || response == NULL)
		return INITIATOR_ERROR;
	if (lying(LIE_NAME_IS_NUMBER) && name[0] == '0')
		return INITIATOR_ERROR;
	unsigned size =
		respond(p->algorithm, p->chap_id, secret, p->challenge, p->challenge_length, right);
	bool same = decode(response, theirs) == size && memcmp(theirs, right, size) == 0;
	if (strcmp(name, user) != 0 || (!same && !lying(LIE_ANY_SECRET)))
		return UNAUTHENTICATED;
	p->authenticated = true;
	return id != NULL && challenge != NULL ? prove(p, id, challenge) : 0;
}

unsigned
answer_chap(struct peer *p, const char *text, size_t length)
{
	const char *method = find_key(text, length, "AuthMethod");
	const char *algorithms = find_key(text, length, "CHAP_A");
	const char *wanted = with_chap ? "CHAP" : "None";
	if (method != NULL) {
		bool listed = false;
		for (const char *at = method; *at != '\0'; at += strcspn(at, ","), at += *at == ',')
			listed |= strcspn(at, ",") == 4 && strncmp(at, wanted, 4) == 0;
		if (!listed)
			return UNAUTHENTICATED;
		add_answer(p, "AuthMethod", wanted);
		return 0;
	}
	if (p->authenticated)
		return 0;
	if (algorithms != NULL)
		return give_challenge(p, algorithms);
	return p->algorithm != 0 ? check_response(p, text, length) : UNAUTHENTICATED;
}
