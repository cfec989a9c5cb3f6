/*
 * iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN[?target_user=NAME&target_password=SECRET], as libiscsi
 * has it; and iscsis:// for TLS from the first byte, with the parameters of tls.h.
 */
#ifndef ISCSICHECK_URI_H
#define ISCSICHECK_URI_H

#include "tls.h"

struct uri {
	char *host, *port, *target;
	char *user, *secret;               /* NULL without CHAP */
	char *target_user, *target_secret; /* NULL without mutual CHAP */
	unsigned lun;
	bool with_tls;
	struct tls tls;
};

/* 0, or -1 with the reason in why. */
int uri_parse(const char *text, struct uri *uri, char *why, size_t why_size);
void uri_free(struct uri *uri);

#endif
