/* NBD URIs, as nbd-uri.md (uri.md of the NBD project) describes them. */
#ifndef NBDCHECK_URI_H
#define NBDCHECK_URI_H

#include "tls.h"

struct uri {
	bool unix_socket, with_tls;
	char *host, *port; /* TCP */
	char *socket;      /* unix; an abstract name begins with NUL */
	size_t socket_length;
	char *export_name; /* may be empty, never NULL */
	struct tls tls;
};

/* 0, or -1 with the reason in why. On success the strings are the caller's, for uri_free(). */
int uri_parse(const char *text, struct uri *uri, char *why, size_t why_size);
void uri_free(struct uri *uri);

#endif
