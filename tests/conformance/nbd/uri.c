#include "config.h"
#include "uri.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int
decode_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* RFC 3986 2.1. A new string, or NULL if two digits do not follow a %. It may hold NULs. */
static char *
decode(const char *text, size_t text_length, size_t *length)
{
	char *out = malloc(text_length + 1);
	*length = 0;
	for (size_t i = 0; out != NULL && i < text_length; i++) {
		if (text[i] != '%') {
			out[(*length)++] = text[i];
			continue;
		}
		int high = text_length - i > 2 ? decode_digit(text[i + 1]) : -1;
		int low = high >= 0 ? decode_digit(text[i + 2]) : -1;
		if (low < 0) {
			free(out);
			return NULL;
		}
		out[(*length)++] = (char)(high << 4 | low);
		i += 2;
	}
	if (out != NULL)
		out[*length] = '\0';
	return out;
}

/* The same, where a NUL has no meaning. */
static char *
decode_string(const char *text, size_t text_length)
{
	size_t length;
	char *out = decode(text, text_length, &length);
	if (out != NULL && strlen(out) != length) {
		free(out);
		return NULL;
	}
	return out;
}

static bool
parse_scheme(const char *text, size_t length, struct uri *uri)
{
	static const char *const schemes[] = {"nbd", "nbds", "nbd+unix", "nbds+unix"};
	for (unsigned i = 0; i < 4; i++) {
		if (strlen(schemes[i]) != length || memcmp(schemes[i], text, length) != 0)
			continue;
		uri->with_tls = i & 1;
		uri->unix_socket = i & 2;
		return true;
	}
	return false;
}

/* [userinfo@]host[:port], RFC 3986 3.2; a literal IPv6 address stands in brackets. */
static bool
parse_authority(const char *text, size_t length, struct uri *uri)
{
	const char *end = text + length;
	const char *at = memchr(text, '@', length);
	if (at != NULL) {
		uri->tls.username = decode_string(text, (size_t)(at - text));
		text = at + 1;
	}
	const char *host_end =
		text < end && *text == '[' ? memchr(text, ']', (size_t)(end - text)) : text;
	if (host_end == NULL)
		return false;
	const char *colon = memchr(host_end, ':', (size_t)(end - host_end));
	if (colon == NULL)
		colon = end;
	if (*text == '[') {
		if (host_end + 1 != colon)
			return false;
		uri->host = decode_string(text + 1, (size_t)(host_end - text - 1));
	} else {
		uri->host = decode_string(text, (size_t)(colon - text));
	}
	if (colon + 1 < end)
		uri->port = decode_string(colon + 1, (size_t)(end - colon - 1));
	return uri->host != NULL;
}

static bool
parse_parameter(
	const char *name, size_t name_length, const char *value, size_t length, struct uri *uri)
{
	if (name_length == 6 && memcmp(name, "socket", 6) == 0) {
		free(uri->socket);
		uri->socket = decode(value, length, &uri->socket_length);
		return uri->socket != NULL && uri->socket_length > 0;
	}
	/* What the certificate directory or the PSK file says already. */
	if (name_length == 8 && memcmp(name, "tls-type", 8) == 0)
		return (length == 4 && memcmp(value, "x509", 4) == 0) ||
		       (length == 3 && memcmp(value, "psk", 3) == 0);
	char *decoded = decode_string(value, length);
	if (decoded != NULL && tls_parameter(&uri->tls, name, name_length, decoded))
		return true;
	free(decoded);
	return false;
}

/* False with the unknown or malformed parameter in why. */
static bool
parse_query(const char *query, struct uri *uri, char *why, size_t why_size)
{
	while (*query != '\0') {
		size_t length = strcspn(query, "&;");
		size_t name = strcspn(query, "=&;");
		size_t value = name < length ? name + 1 : length;
		if (!parse_parameter(query, name, query + value, length - value, uri)) {
			snprintf(why, why_size, "parameter \"%.*s\" is not understood", (int)length,
				query);
			return false;
		}
		query += length + (query[length] != '\0');
	}
	return true;
}

int
uri_parse(const char *text, struct uri *uri, char *why, size_t why_size)
{
	*uri = (struct uri){.tls.verify = true};
	const char *rest = strstr(text, "://");
	if (rest == NULL || !parse_scheme(text, (size_t)(rest - text), uri)) {
		snprintf(
			why, why_size, "nbd://, nbds://, nbd+unix:// or nbds+unix:// was expected");
		goto fail;
	}
	rest += 3;
	size_t authority = strcspn(rest, "/?#");
	const char *path = rest + authority;
	size_t path_length = strcspn(path, "?#");
	const char *query = path + path_length + (path[path_length] == '?');
	if (strchr(path, '#') != NULL) {
		snprintf(why, why_size, "a fragment has no meaning");
		goto fail;
	}
	if (!parse_authority(rest, authority, uri)) {
		snprintf(why, why_size, "\"%.*s\" is not HOST:PORT", (int)authority, rest);
		goto fail;
	}
	size_t skip = path_length > 0; /* the leading slash is no part of the name */
	uri->export_name = decode_string(path + skip, path_length - skip);
	if (uri->export_name == NULL) {
		snprintf(why, why_size, "the export name is not encoded as RFC 3986 says");
		goto fail;
	}
	if (!parse_query(query, uri, why, why_size))
		goto fail;
	if (uri->unix_socket != (uri->socket != NULL)) {
		snprintf(why, why_size, "the socket parameter belongs to nbd+unix and nbds+unix");
		goto fail;
	}
	if (!uri->unix_socket && uri->host[0] == '\0') {
		free(uri->host);
		uri->host = strdup("localhost");
	}
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
	free(uri->socket);
	free(uri->export_name);
	tls_close(&uri->tls);
	*uri = (struct uri){0};
}
