#include "config.h"
#include "target.h"

#include "conn.h"
#include "session.h"

#include <stdio.h>

const char program_name[] = "nbdcheck";
const char program_subject[] = "export";
const char program_peer[] = "server";
const char program_uris[] = "nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbds and "
			    "nbds+unix with TLS";

int
target_open(struct target *target, const char *uri, char *why, size_t why_size)
{
	target->uri_text = uri;
	if (uri_parse(uri, &target->uri, why, why_size) != 0)
		return -1;
	return tls_open(&target->uri.tls, why, why_size);
}

int
target_connect(const struct target *target, int64_t left_ns, int *error)
{
	const struct uri *uri = &target->uri;
	if (uri->unix_socket)
		return conn_connect_unix(uri->socket, uri->socket_length, left_ns);
	return conn_connect_tcp(uri->host, uri->port != NULL ? uri->port : "10809", left_ns, error);
}

struct ssl_st *
target_new_tls(const struct target *target, int min_version, int max_version)
{
	return tls_new(&target->uri.tls, target->uri.host, min_version, max_version);
}

void
target_close(struct target *target)
{
	uri_free(&target->uri);
}

/* Does the server take STARTTLS, and anything before it? */
static void
probe_tls(struct test *t, struct target *target)
{
	struct session *s =
		session_begin(t, target->handshake_flags & (FIXED_NEWSTYLE | NO_ZEROES));
	/* SELECTIVETLS may say TLS_REQD to INFO and GO alone. */
	uint32_t list = option_try(s, OPT_LIST, NULL, 0);
	target->tls_forced = list == REP_ERR_TLS_REQD;
	target->lists = list == REP_ACK;
	target->plain = list != 0 && !target->tls_forced && option_info(s, OPT_INFO) == REP_ACK;
	uint32_t starttls = list != 0 ? option_try(s, OPT_STARTTLS, NULL, 0) : 0;
	target->tls_offered = starttls == REP_ACK;
	conn_close(s->conn);
	if ((target->uri.with_tls || target->tls_forced) && !target->tls_offered)
		fail(t, "STARTTLS answered with ACK", "%s", reply_name(starttls));
	target->tls = target->uri.with_tls || target->tls_forced;
}

static void
probe_export(struct test *t, struct target *target)
{
	struct session *s = session_open(t);
	if (target->tls)
		target->lists = option_try(s, OPT_LIST, NULL, 0) == REP_ACK;
	uint32_t type = option_info(s, OPT_INFO);
	if (type == REP_ERR_TLS_REQD && target->tls_offered && !target->tls) {
		conn_close(s->conn);
		target->tls = true;
		s = session_open(t);
		type = option_info(s, OPT_INFO);
	}
	const struct option_reply *sizes = find_info(s, INFO_BLOCK_SIZE);
	if (sizes != NULL && sizes->length == 14) {
		target->has_block_sizes = true;
		target->min_block = get32(sizes->data + 2);
		target->preferred_block = get32(sizes->data + 6);
		target->max_payload = get32(sizes->data + 10);
		if (target->min_block == 0 || target->min_block > FRAGMENT_MAX)
			target->min_block = SECTOR;
	}
	option_go(s);
	target->size = s->size;
	target->compact_flags = s->flags;
}

static void
probe_styles(struct test *t, struct target *target)
{
	struct session *s = session_open(t);
	target->structured = option_try(s, OPT_STRUCTURED_REPLY, NULL, 0) == REP_ACK;
	if (target->structured) {
		static const char *const names[] = {"base:allocation"};
		struct query q = query_contexts(t, target->uri.export_name, 1, names);
		target->meta = option_try(s, OPT_SET_META_CONTEXT, q.data, q.length) == REP_ACK &&
			       find_context(s, names[0]) != NULL;
	}
	option_go(s);
	target->flags = s->flags;
	s = session_open(t);
	target->extended = option_try(s, OPT_EXTENDED_HEADERS, NULL, 0) == REP_ACK;
}

static unsigned
sum_up(const struct target *target)
{
	const struct {
		unsigned need;
		bool there;
	} facts[] = {
		{WRITABLE, (target->flags & READ_ONLY) == 0 && !target->read_only},
		{READONLY, (target->flags & READ_ONLY) != 0 && !target->read_only},
		{STRUCTURED, target->structured},
		{EXTENDED, target->extended},
		{META, target->meta},
		{FLUSHES, (target->flags & SEND_FLUSH) != 0},
		{FUAS, (target->flags & SEND_FUA) != 0},
		{TRIMS, (target->flags & SEND_TRIM) != 0},
		{ZEROES, (target->flags & SEND_WRITE_ZEROES) != 0},
		{FAST_ZEROES, (target->flags & SEND_FAST_ZERO) != 0},
		{CACHES, (target->flags & SEND_CACHE) != 0},
		{DFS, (target->flags & SEND_DF) != 0},
		{MULTI, (target->flags & CAN_MULTI_CONN) != 0},
		{TLS, target->tls_offered},
		{NOTLS, !target->tls_offered},
		{FORCED, target->tls_forced},
		{SELECTIVE, target->tls_offered && !target->tls_forced},
		{PLAIN, target->plain},
		{BLOCK_SIZES, target->has_block_sizes},
		{BYTES, target->min_block == 1},
		{BLOCKS, target->min_block > 1},
		{TCP, !target->uri.unix_socket},
		{MEBIBYTES, target->size >= 8 << 20},
		{LISTS, target->lists},
	};
	unsigned offers = 0;
	for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++)
		offers |= facts[i].there ? facts[i].need : 0;
	return offers;
}

void
target_probe(struct test *t)
{
	/* The one place that writes to the target; all others see it as const. */
	struct target *target = (struct target *)(uintptr_t)t->target;
	target->min_block = 1;
	target->preferred_block = 4096;
	target->max_payload = DEFAULT_PAYLOAD;
	struct session *s = session_connect(t);
	session_greet(s);
	target->handshake_flags = s->handshake_flags;
	conn_close(s->conn);
	if ((target->handshake_flags & FIXED_NEWSTYLE) == 0)
		fail(t, "a fixed newstyle server", "handshake flags %#x", target->handshake_flags);
	probe_tls(t, target);
	probe_export(t, target);
	probe_styles(t, target);
	if (target->size < 1 << 20)
		fail(t, "an export of at least 1 MiB", "one of %llu bytes",
			(unsigned long long)target->size);
	target->offers = sum_up(target);
}

bool
target_is_read_only(const struct target *target)
{
	return (target->flags & READ_ONLY) != 0;
}

const char *
target_lacks(const struct target *target, unsigned needs)
{
	static const char *const reasons[] = {
		[0] = "the export is read-only, or --read-only was given",
		[1] = "the export is not read-only, or --read-only was given",
		[2] = "no structured replies offered",
		[3] = "no extended headers offered",
		[4] = "no base:allocation offered",
		[5] = "no FLUSH offered",
		[6] = "no FUA offered",
		[7] = "no TRIM offered",
		[8] = "no WRITE_ZEROES offered",
		[9] = "no FAST_ZERO offered",
		[10] = "no CACHE offered",
		[11] = "no DF offered",
		[12] = "CAN_MULTI_CONN is not set",
		[13] = "no TLS offered",
		[14] = "TLS is offered",
		[15] = "TLS is not forced",
		[16] = "TLS is not offered, or forced",
		[17] = "the export needs TLS",
		[18] = "no block sizes told",
		[19] = "the minimum block size is not 1",
		[20] = "the minimum block size is 1",
		[21] = "not over TCP",
		[22] = "the export is smaller than 8 MiB",
		[23] = "no LIST offered",
	};
	unsigned missing = needs & ~target->offers;
	return missing == 0 ? NULL : reasons[__builtin_ctz(missing)];
}
