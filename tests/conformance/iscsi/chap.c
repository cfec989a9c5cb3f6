#include "config.h"
#include "session.h"

#include <openssl/evp.h>
#include <stdio.h>

enum { BINARY_MAX = 1024 };

/* 6.1: hexadecimal and base64 constants. The length, 0 if it is none. */
static size_t
decode(const char *text, uint8_t *bytes)
{
	static const char base64[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t length = 0;
	if (text == NULL || text[0] != '0')
		return 0;
	if (text[1] == 'x' || text[1] == 'X') {
		for (text += 2; text[0] != '\0' && length < BINARY_MAX; text += 2) {
			unsigned byte;
			if (sscanf(text, "%2x", &byte) != 1 || text[1] == '\0')
				return 0;
			bytes[length++] = (uint8_t)byte;
		}
		return length;
	}
	if (text[1] != 'b' && text[1] != 'B')
		return 0;
	unsigned bits = 0;
	uint32_t value = 0;
	for (text += 2; *text != '\0' && *text != '=' && length < BINARY_MAX; text++) {
		const char *digit = strchr(base64, *text);
		if (digit == NULL)
			return 0;
		value = value << 6 | (uint32_t)(digit - base64);
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			bytes[length++] = (uint8_t)(value >> bits);
		}
	}
	return length;
}

static void
encode(char *text, const uint8_t *bytes, size_t length, unsigned form)
{
	if (form == BASE64) {
		strcpy(text, "0b");
		EVP_EncodeBlock((unsigned char *)text + 2, bytes, (int)length);
		return;
	}
	strcpy(text, form == HEX ? "0x" : "0X");
	for (size_t i = 0; i < length; i++)
		sprintf(text + 2 + 2 * i, form == HEX ? "%02x" : "%02X", bytes[i]);
}

/* RFC 1994 4.1: the hash of identifier, secret and challenge. The length, 0 if the algorithm is
 * unknown. */
static unsigned
respond(const char *algorithm, uint8_t id, const char *secret, const uint8_t *challenge,
	size_t length, uint8_t *response)
{
	const EVP_MD *md = strcmp(algorithm, "5") == 0   ? EVP_md5()
			   : strcmp(algorithm, "6") == 0 ? EVP_sha1()
			   : strcmp(algorithm, "7") == 0 ? EVP_sha256()
			   : strcmp(algorithm, "8") == 0 ? EVP_sha3_256()
							 : NULL;
	unsigned size = 0;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (md == NULL || ctx == NULL || EVP_DigestInit_ex(ctx, md, NULL) != 1 ||
		EVP_DigestUpdate(ctx, &id, 1) != 1 ||
		EVP_DigestUpdate(ctx, secret, strlen(secret)) != 1 ||
		EVP_DigestUpdate(ctx, challenge, length) != 1 ||
		EVP_DigestFinal_ex(ctx, response, &size) != 1)
		size = 0;
	EVP_MD_CTX_free(ctx);
	return size;
}

static bool
read_id(const char *text, uint8_t *id)
{
	unsigned value;
	if (text == NULL || sscanf(text, strncmp(text, "0x", 2) == 0 ? "%x" : "%u", &value) != 1 ||
		value > 255)
		return false;
	*id = (uint8_t)value;
	return true;
}

static void
check_proof(
	struct session *s, struct chap *chap, uint8_t id, const uint8_t *challenge, size_t length)
{
	const struct uri *uri = &s->test->target->uri;
	uint8_t theirs[BINARY_MAX], ours[64];
	const char *name = answer(s, "CHAP_N");
	size_t size = decode(answer(s, "CHAP_R"), theirs);
	unsigned wanted = respond(chap->algorithm, id,
		uri->target_secret != NULL ? uri->target_secret : "", challenge, length, ours);
	chap->proved = name != NULL && uri->target_user != NULL &&
		       strcmp(name, uri->target_user) == 0 && wanted > 0 && size == wanted &&
		       memcmp(theirs, ours, wanted) == 0;
}

unsigned
chap_login(struct session *s, struct chap *chap)
{
	struct test *t = s->test;
	char keys[8192], text[4096];
	const struct pdu *p =
		login_step(s, SECURITY << 2 | OPERATIONAL, with_names(s, "AuthMethod=CHAP"));
	if (login_status(p) != 0)
		return login_status(p);
	const char *method = answer(s, "AuthMethod");
	if (method == NULL || strcmp(method, "CHAP") != 0)
		fail(t, "AuthMethod=CHAP", "AuthMethod=%s", method != NULL ? method : "(nothing)");
	snprintf(keys, sizeof keys, "CHAP_A=%s", chap->algorithms != NULL ? chap->algorithms : "5");
	p = login_step(s, SECURITY << 2, keys);
	if (login_status(p) != 0)
		return login_status(p);
	uint8_t id, response[64];
	const char *algorithm = answer(s, "CHAP_A");
	chap->challenge_length = decode(answer(s, "CHAP_C"), chap->challenge);
	if (algorithm == NULL || !read_id(answer(s, "CHAP_I"), &id) || chap->challenge_length == 0)
		fail(t, "CHAP_A, CHAP_I and CHAP_C", "%s, %s, %.40s",
			algorithm != NULL ? algorithm : "(none)",
			answer(s, "CHAP_I") != NULL ? answer(s, "CHAP_I") : "(none)",
			answer(s, "CHAP_C") != NULL ? answer(s, "CHAP_C") : "(none)");
	snprintf(chap->algorithm, sizeof chap->algorithm, "%s", algorithm);
	unsigned size = respond(
		algorithm, id, chap->secret, chap->challenge, chap->challenge_length, response);
	if (size == 0)
		return CLOSED;
	encode(text, response, size, chap->form);
	int used = snprintf(keys, sizeof keys, "CHAP_N=%s\nCHAP_R=%s", chap->user, text);
	uint8_t own[24], own_id = (uint8_t)(id + 1);
	for (size_t i = 0; i < sizeof own; i++)
		own[i] = (uint8_t)test_random(t);
	const uint8_t *challenge = chap->reflect ? chap->challenge : own;
	size_t challenge_length = chap->reflect ? chap->challenge_length : sizeof own;
	if (chap->mutual) {
		encode(text, challenge, challenge_length, chap->form);
		snprintf(keys + used, sizeof keys - (size_t)used, "\nCHAP_I=%u\nCHAP_C=%s", own_id,
			text);
	}
	p = login_step(s, STAGES(SECURITY, OPERATIONAL), keys);
	if (login_status(p) != 0)
		return login_status(p);
	if (chap->mutual)
		check_proof(s, chap, own_id, challenge, challenge_length);
	if ((p->bhs[1] & TRANSIT) == 0)
		p = login_step(s, STAGES(SECURITY, OPERATIONAL), "");
	return login_status(p);
}
