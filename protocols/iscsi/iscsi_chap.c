#include "config.h"

#include "iscsi/iscsi.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"

/*
 * CHAP in the security stage: RFC 7143 12.1.3 and 9.2.1, RFC 1994, SHA-2 and SHA-3 by IANA's CHAP
 * algorithms. Secrets compare in constant time and are wiped; a user that is not known costs what a
 * wrong secret costs and is answered alike (R13).
 */

static const struct algorithm {
	uint32_t number;
	const EVP_MD *(*digest)(void);
	size_t length;
} algorithms[] = {
	{5, EVP_md5, 16},
	{6, EVP_sha1, 20},
	{7, EVP_sha256, 32},
	{8, EVP_sha3_256, 32},
};

static const struct algorithm *
find_algorithm(uint32_t number)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(algorithms); i++) {
		if (algorithms[i].number == number)
			return &algorithms[i];
	}
	return NULL;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static ssize_t
decode_hex(const char *text, size_t length, uint8_t *out, size_t room)
{
	size_t i;
	int high, low;

	if (length % 2 != 0 || length / 2 > room)
		return -EINVAL;
	for (i = 0; i < length / 2; i++) {
		high = hex_digit(text[2 * i]);
		low = hex_digit(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return -EINVAL;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return (ssize_t)i;
}

static int
base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* RFC 4648 section 4: whole groups of four, padding in the last one only, its spare bits zero. */
static ssize_t
decode_base64(const char *text, size_t length, uint8_t *out, size_t room)
{
	size_t padding = 0, i, n = 0;
	uint32_t bits = 0;
	int digit;

	if (length % 4 != 0)
		return -EINVAL;
	while (padding < 2 && padding < length && text[length - padding - 1] == '=')
		padding++;
	if (length / 4 * 3 - padding > room)
		return -EINVAL;
	for (i = 0; i < length - padding; i++) {
		digit = base64_digit(text[i]);
		if (digit < 0)
			return -EINVAL;
		bits = bits << 6 | (uint32_t)digit;
		if (i % 4 != 0)
			out[n++] = (uint8_t)(bits >> (6 - i % 4 * 2));
	}
	if (padding && bits & (padding == 1 ? 3u : 15u))
		return -EINVAL;
	return (ssize_t)n;
}

ssize_t
iscsi_binary_decode(const char *text, size_t length, uint8_t *out, size_t room)
{
	if (length < 2 || text[0] != '0')
		return -EINVAL;
	if ((text[1] | 0x20) == 'x')
		return decode_hex(text + 2, length - 2, out, room);
	if ((text[1] | 0x20) == 'b')
		return decode_base64(text + 2, length - 2, out, room);
	return -EINVAL;
}

bool
iscsi_chap_response(uint32_t algorithm, uint8_t id, const char *secret, const uint8_t *challenge,
	size_t length, uint8_t response[ISCSI_CHAP_DIGEST])
{
	const struct algorithm *a = find_algorithm(algorithm);
	EVP_MD_CTX *context = a ? EVP_MD_CTX_new() : NULL;
	bool good;

	/* RFC 1994 4.1: the identifier, the secret, the challenge. */
	good = context && EVP_DigestInit_ex(context, a->digest(), NULL) &&
	       EVP_DigestUpdate(context, &id, 1) &&
	       EVP_DigestUpdate(context, secret, strlen(secret)) &&
	       EVP_DigestUpdate(context, challenge, length) &&
	       EVP_DigestFinal_ex(context, response, NULL);
	EVP_MD_CTX_free(context); /* wipes it */
	return good;
}

static void
write_binary(struct writer *out, const char *key, const uint8_t *data, size_t length)
{
	char text[2 + 2 * ISCSI_CHAP_DIGEST + 1] = "0x";
	size_t i;

	for (i = 0; i < length; i++)
		snprintf(text + 2 + 2 * i, 3, "%02x", data[i]);
	iscsi_pair_write(out, key, text);
}

static void
write_number(struct writer *out, const char *key, uint32_t number)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", number);
	iscsi_pair_write(out, key, text);
}

static bool
is_said(const struct iscsi_negotiation *n, enum iscsi_chap_key key)
{
	return n->chap[key].key != NULL;
}

static bool
says_anything(const struct iscsi_negotiation *n)
{
	unsigned i;

	for (i = 0; i < ISCSI_CHAP_KEYS; i++) {
		if (is_said(n, i))
			return true;
	}
	return false;
}

static bool
offers_algorithm(const struct iscsi_pair *offer, uint32_t wanted)
{
	struct iscsi_pair part = *offer;
	const char *comma, *end = offer->value + offer->value_length;
	uint32_t number;

	for (;;) {
		comma = memchr(part.value, ',', (size_t)(end - part.value));
		part.value_length = (size_t)((comma ? comma : end) - part.value);
		if (iscsi_pair_number(&part, &number) && number == wanted)
			return true;
		if (!comma)
			return false;
		part.value = comma + 1;
	}
}

/* Ours is the order: the first of the configured ones that the initiator has too. */
static const struct algorithm *
choose_algorithm(const struct catalogue *catalogue, const struct iscsi_pair *offer)
{
	size_t i;

	for (i = 0; i < catalogue->nchap_algorithms; i++) {
		if (offers_algorithm(offer, catalogue->chap_algorithms[i]))
			return find_algorithm(catalogue->chap_algorithms[i]);
	}
	return NULL;
}

static uint16_t
send_challenge(struct iscsi_chap *chap, const struct catalogue *catalogue,
	const struct iscsi_negotiation *n, struct writer *out)
{
	const struct algorithm *algorithm;

	if (!is_said(n, ISCSI_CHAP_A) || is_said(n, ISCSI_CHAP_N) || is_said(n, ISCSI_CHAP_R) ||
		is_said(n, ISCSI_CHAP_I) || is_said(n, ISCSI_CHAP_C))
		return ISCSI_LOGIN_AUTHENTICATION;
	algorithm = choose_algorithm(catalogue, &n->chap[ISCSI_CHAP_A]);
	if (!algorithm)
		return ISCSI_LOGIN_AUTHENTICATION;
	chap->algorithm = algorithm->number;
	chap->length = algorithm->length;
	loop_random(&chap->id, sizeof(chap->id));
	loop_random(chap->challenge, chap->length);
	chap->state = CHAP_CHALLENGED;
	write_number(out, "CHAP_A", chap->algorithm);
	write_number(out, "CHAP_I", chap->id);
	write_binary(out, "CHAP_C", chap->challenge, chap->length);
	return 0;
}

static bool
is_user(const struct credential *credential, const struct iscsi_pair *name)
{
	return strlen(credential->user) == name->value_length &&
	       memcmp(credential->user, name->value, name->value_length) == 0;
}

static bool
check_response(struct iscsi_chap *chap, const struct iscsi_access *access,
	const struct iscsi_negotiation *n)
{
	static const char nobodys_secret[] = "one as long as most";
	const struct iscsi_pair *response = &n->chap[ISCSI_CHAP_R];
	uint8_t said[ISCSI_CHAP_DIGEST], expected[ISCSI_CHAP_DIGEST];
	const char *secret = nobodys_secret;
	bool known = false, good;
	size_t i;

	/* CHAP_N is text: a name that begins with 0x or 0b is that name. */
	for (i = 0; i < access->nchap; i++) {
		if (is_user(&access->chap[i], &n->chap[ISCSI_CHAP_N])) {
			known = true;
			secret = access->chap[i].secret;
		}
	}
	if (iscsi_binary_decode(response->value, response->value_length, said, sizeof(said)) !=
		(ssize_t)chap->length)
		return false;
	good = iscsi_chap_response(chap->algorithm, chap->id, secret, chap->challenge, chap->length,
		       expected) &&
	       CRYPTO_memcmp(said, expected, chap->length) == 0;
	OPENSSL_cleanse(expected, sizeof(expected));
	return good && known;
}

/* The other direction, when the initiator asks for it. */
static uint16_t
answer_challenge(struct iscsi_chap *chap, const struct iscsi_access *access,
	const struct iscsi_negotiation *n, const uint8_t *challenge, size_t length,
	struct writer *out)
{
	uint8_t response[ISCSI_CHAP_DIGEST];
	uint32_t id;

	if (!access->mutual || !iscsi_pair_number(&n->chap[ISCSI_CHAP_I], &id) || id > 255)
		return ISCSI_LOGIN_AUTHENTICATION;
	if (!iscsi_chap_response(chap->algorithm, (uint8_t)id, access->mutual->secret, challenge,
		    length, response))
		return ISCSI_LOGIN_TARGET_ERROR;
	iscsi_pair_write(out, "CHAP_N", access->mutual->user);
	write_binary(out, "CHAP_R", response, chap->length);
	OPENSSL_cleanse(response, sizeof(response));
	return 0;
}

static uint16_t
take_response(struct iscsi_chap *chap, const struct iscsi_access *access,
	const struct iscsi_negotiation *n, struct writer *out)
{
	const struct iscsi_pair *asked = &n->chap[ISCSI_CHAP_C];
	uint8_t challenge[LIMIT_ISCSI_BINARY];
	ssize_t length = 0;

	if (is_said(n, ISCSI_CHAP_A) || !is_said(n, ISCSI_CHAP_N) || !is_said(n, ISCSI_CHAP_R) ||
		is_said(n, ISCSI_CHAP_I) != is_said(n, ISCSI_CHAP_C))
		return ISCSI_LOGIN_AUTHENTICATION;
	if (is_said(n, ISCSI_CHAP_C)) {
		length = iscsi_binary_decode(
			asked->value, asked->value_length, challenge, sizeof(challenge));
		if (length <= 0)
			return ISCSI_LOGIN_AUTHENTICATION;
		/* 9.2.1: our own challenge sent back closes the connection, whatever else is said. */
		if ((size_t)length == chap->length &&
			CRYPTO_memcmp(challenge, chap->challenge, chap->length) == 0)
			return ISCSI_LOGIN_REFLECTED;
	}
	if (!check_response(chap, access, n))
		return ISCSI_LOGIN_AUTHENTICATION;
	chap->state = CHAP_DONE;
	return length ? answer_challenge(chap, access, n, challenge, (size_t)length, out) : 0;
}

static uint16_t
choose_method(struct iscsi_chap *chap, const struct iscsi_access *access,
	const struct iscsi_negotiation *n, struct writer *out)
{
	if (says_anything(n))
		return ISCSI_LOGIN_AUTHENTICATION;
	if (!n->auth_said)
		return 0;
	if (access->nchap > 0) {
		if (!(n->auth_offered & ISCSI_AUTH_CHAP))
			return ISCSI_LOGIN_AUTHENTICATION;
		chap->state = CHAP_CHOSEN;
		iscsi_pair_write(out, "AuthMethod", "CHAP");
	} else {
		if (!(n->auth_offered & ISCSI_AUTH_NONE))
			return ISCSI_LOGIN_AUTHENTICATION;
		chap->state = CHAP_DONE;
		iscsi_pair_write(out, "AuthMethod", "None");
	}
	return 0;
}

uint16_t
iscsi_chap_step(struct iscsi_chap *chap, const struct catalogue *catalogue,
	const struct iscsi_access *access, struct iscsi_negotiation *n, struct writer *out)
{
	uint16_t status;

	switch (chap->state) {
	case CHAP_OFF:
		status = choose_method(chap, access, n, out);
		break;
	case CHAP_CHOSEN:
		status = send_challenge(chap, catalogue, n, out);
		break;
	case CHAP_CHALLENGED:
		status = take_response(chap, access, n, out);
		break;
	default:
		status = says_anything(n) ? ISCSI_LOGIN_AUTHENTICATION : 0;
	}
	memset(n->chap, 0, sizeof(n->chap)); /* they point into a text that goes */
	return status;
}
