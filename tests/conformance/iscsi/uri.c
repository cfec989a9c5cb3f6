#include "config.h"
#include "uri.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* USER%SECRET@, up to the last @. */
static bool
parse_user(const char **text, const char *end, struct uri *uri)
{
	const char *at = memrchr(*text, '@', (size_t)(end - *text));
	if (at == NULL)
		return true;
	const char *percent = memchr(*text, '%', (size_t)(at - *text));
	if (percent == NULL || percent == *text)
		return false;
	uri->user = strndup(*text, (size_t)(percent - *text));
	uri->secret = strndup(percent + 1, (size_t)(at - percent - 1));
	*text = at + 1;
	return true;
}

static bool
parse_host(const char *text, const char *end, struct uri *uri)
{
	const char *host_end = text;
	if (*text == '[' && (host_end = memchr(text, ']', (size_t)(end - text))) == NULL)
		return false;
	const char *colon = memchr(host_end, ':', (size_t)(end - host_end));
	if (colon == NULL)
		colon = end;
	if (*text == '[') {
		if (host_end + 1 != colon)
			return false;
		text++;
	} else {
		host_end = colon;
	}
	uri->host = strndup(text, (size_t)(host_end - text));
	uri->port =
		colon + 1 < end ? strndup(colon + 1, (size_t)(end - colon - 1)) : strdup("3260");
	return uri->host[0] != '\0';
}

/* False with the unknown or malformed parameter in why. */
static bool
parse_parameters(const char *text, struct uri *uri, char *why, size_t why_size)
{
	while (*text != '\0') {
		size_t length = strcspn(text, "&");
		const char *value = memchr(text, '=', length);
		size_t name = value != NULL ? (size_t)(value - text) : length;
		char **field = name == 11 && memcmp(text, "target_user", 11) == 0
				       ? &uri->target_user
			       : name == 15 && memcmp(text, "target_password", 15) == 0
				       ? &uri->target_secret
				       : NULL;
		char *copy = value != NULL ? strndup(value + 1, length - name - 1) : NULL;
		if (field != NULL && copy != NULL) {
			free(*field);
			*field = copy;
		} else if (copy == NULL || !uri->with_tls ||
			   !tls_parameter(&uri->tls, text, name, copy)) {
			free(copy);
			snprintf(why, why_size, "parameter \"%.*s\" is not understood", (int)length,
				text);
			return false;
		}
		text += length + (text[length] == '&');
	}
	if ((uri->target_user == NULL) != (uri->target_secret == NULL)) {
		snprintf(why, why_size, "target_user and target_password belong together");
		return false;
	}
	return true;
}

int
uri_parse(const char *text, struct uri *uri, char *why, size_t why_size)
{
	*uri = (struct uri){.tls.verify = true};
	uri->with_tls = strncmp(text, "iscsis://", 9) == 0;
	if (!uri->with_tls && strncmp(text, "iscsi://", 8) != 0) {
		snprintf(why, why_size, "iscsi:// or iscsis:// was expected");
		return -1;
	}
	text += uri->with_tls ? 9 : 8;
	const char *query = strchr(text, '?');
	const char *end = query != NULL ? query : text + strlen(text);
	const char *slash = memchr(text, '/', (size_t)(end - text));
	const char *last = memrchr(text, '/', (size_t)(end - text));
	char *lun_end;
	if (slash == NULL || last == slash || last == slash + 1) {
		snprintf(why, why_size, "HOST/TARGET/LUN was expected");
		goto fail;
	}
	unsigned long lun = strtoul(last + 1, &lun_end, 10);
	if (lun_end == last + 1 || lun_end != end || lun > 255) {
		snprintf(why, why_size, "the logical unit is a number to 255");
		goto fail;
	}
	uri->lun = (unsigned)lun;
	uri->target = strndup(slash + 1, (size_t)(last - slash - 1));
	if (!parse_user(&text, slash, uri)) {
		snprintf(why, why_size, "USER%%SECRET was expected before the @");
		goto fail;
	}
	if (!parse_host(text, slash, uri)) {
		snprintf(why, why_size, "\"%.*s\" is not HOST:PORT", (int)(slash - text), text);
		goto fail;
	}
	if (query != NULL && !parse_parameters(query + 1, uri, why, why_size))
		goto fail;
	return 0;
fail:
	uri_free(uri);
	return -1;
}

void
uri_free(struct uri *uri)
{
	free(uri->host);
	free(uri->port);
	free(uri->target);
	free(uri->user);
	free(uri->secret);
	free(uri->target_user);
	free(uri->target_secret);
	tls_close(&uri->tls);
	*uri = (struct uri){0};
}
