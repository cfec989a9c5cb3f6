#include "config.h"
#include "session.h"

#include "target.h"

#include <inttypes.h>

struct session *
session_connect(struct test *t)
{
	struct session *s = take(t, sizeof *s);
	s->test = t;
	s->conn = conn_open(t);
	s->next_cookie = test_random(t);
	LIST_INIT(&s->pending);
	sent(t, "nothing yet");
	return s;
}

void
session_greet(struct session *s)
{
	uint8_t greeting[18];
	if (!conn_read(s->conn, greeting, sizeof greeting))
		fail(s->test, "a greeting of 18 bytes", "the connection was closed before it");
	if (get64(greeting) != NBDMAGIC || get64(greeting + 8) != IHAVEOPT)
		fail(s->test, "NBDMAGIC and IHAVEOPT", "%#" PRIx64 " and %#" PRIx64,
			get64(greeting), get64(greeting + 8));
	s->handshake_flags = get16(greeting + 16);
}

struct session *
session_begin(struct test *t, uint32_t client_flags)
{
	struct session *s = session_connect(t);
	session_greet(s);
	uint8_t flags[4];
	put32(flags, client_flags);
	sent(t, "client flags %#" PRIx32, client_flags);
	conn_write(s->conn, flags, sizeof flags);
	return s;
}

bool
session_handshake(struct session *s, int min_version, int max_version)
{
	return conn_start_tls(s->conn, target_new_tls(s->test->target, min_version, max_version));
}

void
session_start_tls(struct session *s)
{
	uint32_t type = option_ask(s, OPT_STARTTLS, NULL, 0);
	if (type != REP_ACK)
		fail(s->test, "STARTTLS answered with ACK", "%s", reply_name(type));
	if (!session_handshake(s, 0, 0))
		fail(s->test, "a TLS handshake", "%s", conn_tls_error(s->conn));
}

struct session *
session_open(struct test *t)
{
	struct session *s =
		session_begin(t, t->target->handshake_flags & (FIXED_NEWSTYLE | NO_ZEROES));
	if (t->target->tls)
		session_start_tls(s);
	return s;
}

struct session *
session_export(struct test *t, enum style style)
{
	struct session *s = session_open(t);
	option_style(s, style);
	option_go(s);
	return s;
}

struct session *
session_status(struct test *t, enum style style)
{
	struct session *s = session_open(t);
	option_style(s, style);
	option_select(s);
	option_go(s);
	return s;
}
