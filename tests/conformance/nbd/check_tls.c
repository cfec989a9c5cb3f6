#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <inttypes.h>
#include <openssl/ssl.h>
#include <string.h>

enum { UNIT = 65536 };

/* In the clear, up to the options. */
static struct session *
open_clear(struct test *t)
{
	return session_begin(t, t->target->handshake_flags & (FIXED_NEWSTYLE | NO_ZEROES));
}

static struct session *
open_tls(struct test *t)
{
	struct session *s = open_clear(t);
	session_start_tls(s);
	return s;
}

static struct session *
go_tls(struct test *t, enum style style)
{
	struct session *s = open_tls(t);
	option_style(s, style);
	option_go(s);
	return s;
}

/* NOTLS */

static void
notls_refuses_starttls(struct test *t)
{
	struct session *s = open_clear(t);
	uint32_t type = option_ask(s, OPT_STARTTLS, NULL, 0);
	expect(t, type == REP_ERR_UNSUP || type == REP_ERR_POLICY || type == REP_ERR_PLATFORM,
		"ERR_UNSUP, ERR_POLICY or ERR_PLATFORM", "%s", reply_name(type));
	option_expect_sync(s);
}

static void
notls_never_requires_tls(struct test *t)
{
	static const uint32_t options[] = {
		OPT_LIST, OPT_STRUCTURED_REPLY, OPT_EXTENDED_HEADERS, OPT_STARTTLS, OPT_UNKNOWN};
	struct session *s = open_clear(t);
	for (size_t i = 0; i < COUNT_OF(options); i++) {
		uint32_t type = option_ask(s, options[i], NULL, 0);
		expect(t, type != REP_ERR_TLS_REQD, "no ERR_TLS_REQD without TLS", "ERR_TLS_REQD");
	}
	struct query q = query_export(t, "nbdcheck: no such export", 0, NULL);
	expect(t, option_ask(s, OPT_INFO, q.data, q.length) != REP_ERR_TLS_REQD,
		"no ERR_TLS_REQD without TLS", "ERR_TLS_REQD");
}

/* The upgrade */

static void
starttls_upgrades(struct test *t)
{
	option_expect_sync(open_tls(t));
}

static void
starttls_with_data(struct test *t)
{
	struct session *s = open_clear(t);
	uint32_t type = option_ask(s, OPT_STARTTLS, "data", 4);
	expect(t, (type & REP_ERROR) != 0, "an error, as ERR_INVALID", "%s", reply_name(type));
	/* The connection may end for it. */
	type = option_try(s, OPT_STARTTLS, NULL, 0);
	if (type == 0)
		return;
	expect(t, type == REP_ACK && session_handshake(s, 0, 0), "STARTTLS to work without data",
		"%s", reply_name(type));
	option_expect_sync(s);
}

static void
starttls_twice(struct test *t)
{
	option_expect(open_tls(t), OPT_STARTTLS, NULL, 0, REP_ERR_INVALID);
}

static void
starttls_forgets_structured(struct test *t)
{
	struct session *s = open_clear(t);
	if (option_ask(s, OPT_STRUCTURED_REPLY, NULL, 0) != REP_ACK)
		skip(t, "structured replies are not negotiated in the clear");
	session_start_tls(s);
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), FAULT_CHUNK);
	expect(t, (s->flags & SEND_DF) == 0, "SEND_DF clear", "flags %#x", s->flags);
}

static void
starttls_forgets_contexts(struct test *t)
{
	struct session *s = open_clear(t);
	if (option_ask(s, OPT_STRUCTURED_REPLY, NULL, 0) != REP_ACK)
		skip(t, "structured replies are not negotiated in the clear");
	option_select(s);
	session_start_tls(s);
	option_style(s, CHUNKED);
	option_go(s);
	struct reply *r = submit(s, CMD_BLOCK_STATUS, 0, 0, UNIT, NULL);
	await_or_close(s, r);
	expect(t, r->closed || r->error != 0, "BLOCK_STATUS refused", "success");
}

static void
starttls_forgets_extended(struct test *t)
{
	struct session *s = open_clear(t);
	if (option_ask(s, OPT_EXTENDED_HEADERS, NULL, 0) != REP_ACK)
		skip(t, "extended headers are not negotiated in the clear");
	session_start_tls(s);
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), FAULT_CHUNK);
}

/* Options sent in the clear behind STARTTLS come from somebody in the middle, and must not count.
 */
static void
injected_options_do_not_count(struct test *t)
{
	struct session *s = open_clear(t);
	uint8_t message[32];
	put32(put32(put64(message, IHAVEOPT), OPT_STARTTLS), 0);
	put32(put32(put64(message + 16, IHAVEOPT), OPT_STRUCTURED_REPLY), 0);
	conn_write(s->conn, message, sizeof message);
	sent(t, "STARTTLS and STRUCTURED_REPLY in one segment");
	struct option_reply reply;
	if (!option_read(s, OPT_STARTTLS, &reply))
		return;
	expect(t, reply.type == REP_ACK, "ACK", "%s", reply_name(reply.type));
	if (!session_handshake(s, 0, 0))
		return; /* the option was taken for a broken handshake */
	option_go(s);
	expect_faultless(s, request(s, CMD_READ, 0, 0, block_of(t), NULL), FAULT_CHUNK);
}

static void
failed_handshake_ends(struct test *t)
{
	struct session *s = open_clear(t);
	option_expect(s, OPT_STARTTLS, NULL, 0, REP_ACK);
	uint8_t *nonsense = take_pattern(t, 130, 256);
	conn_write(s->conn, nonsense, 256);
	sent(t, "STARTTLS, then 256 bytes that are no handshake");
	conn_drain(s->conn); /* an alert may come first */
}

static void
clear_after_ack_is_no_option(struct test *t)
{
	struct session *s = open_clear(t);
	option_expect(s, OPT_STARTTLS, NULL, 0, REP_ACK);
	option_send(s, OPT_ABORT, NULL, 0);
	sent(t, "STARTTLS, then ABORT in the clear");
	uint8_t header[20];
	if (conn_read(s->conn, header, sizeof header))
		expect(t, get64(header) != OPTION_REPLY, "no option in the clear after STARTTLS",
			"an option reply");
}

static void
other_sessions_go_on(struct test *t)
{
	struct session *a = open_clear(t), *b = session_open(t);
	option_expect(a, OPT_STARTTLS, NULL, 0, REP_ACK);
	option_go(b);
	expect_sync(b);
	expect_sync(session_export(t, COMPACT));
	expect(t, session_handshake(a, 0, 0), "the handshake that waited", "a failure");
	option_expect_sync(a);
}

static void
hang_up_in_handshake(struct test *t)
{
	struct session *bystander = session_export(t, COMPACT);
	static const uint8_t hello[] = {
		0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03};
	for (size_t length = 0; length <= sizeof hello; length++) {
		struct session *s = open_clear(t);
		option_expect(s, OPT_STARTTLS, NULL, 0, REP_ACK);
		conn_write(s->conn, hello, length);
		conn_reset(s->conn);
	}
	sent(t, "STARTTLS and part of a ClientHello, then a reset");
	expect_sync(bystander);
	expect_sync(session_export(t, COMPACT));
}

static void
not_before_fixed_newstyle(struct test *t)
{
	struct session *s = session_begin(t, 0);
	uint32_t type = option_try(s, OPT_STARTTLS, NULL, 0);
	expect(t, type != REP_ACK, "NOTLS to a client that is not fixed newstyle", "ACK");
}

/* Versions */

/* Why a handshake of this version is refused, NULL if it is not. */
static const char *
try_version(struct test *t, int version)
{
	struct session *s = open_clear(t);
	option_expect(s, OPT_STARTTLS, NULL, 0, REP_ACK);
	return session_handshake(s, version, version) ? NULL : conn_tls_error(s->conn);
}

static void
tls_1_2_is_supported(struct test *t)
{
	const char *refusal = try_version(t, TLS1_2_VERSION);
	expect(t, refusal == NULL, "a handshake of TLS 1.2", "%s", refusal);
}

static void
tls_1_3_is_supported(struct test *t)
{
	const char *refusal = try_version(t, TLS1_3_VERSION);
	expect(t, refusal == NULL, "a handshake of TLS 1.3", "%s", refusal);
}

static void
old_tls_is_refused(struct test *t)
{
	expect(t, try_version(t, TLS1_1_VERSION) != NULL, "TLS 1.1 refused", "a handshake");
	expect(t, try_version(t, TLS1_VERSION) != NULL, "TLS 1.0 refused", "a handshake");
}

/* FORCEDTLS */

static void
forced_list(struct test *t)
{
	option_expect(open_clear(t), OPT_LIST, NULL, 0, REP_ERR_TLS_REQD);
}

static void
forced_info(struct test *t)
{
	struct session *s = open_clear(t);
	uint32_t type = option_info(s, OPT_INFO);
	expect(t, type == REP_ERR_TLS_REQD, "ERR_TLS_REQD", "%s", reply_name(type));
	expect(t, count_replies(s, REP_INFO) == 0, "no INFO replies", "%zu",
		count_replies(s, REP_INFO));
}

static void
forced_go(struct test *t)
{
	uint32_t type = option_info(open_clear(t), OPT_GO);
	expect(t, type == REP_ERR_TLS_REQD, "ERR_TLS_REQD", "%s", reply_name(type));
}

static void
forced_unknown(struct test *t)
{
	option_expect(open_clear(t), OPT_UNKNOWN, NULL, 0, REP_ERR_TLS_REQD);
}

static void
forced_state(struct test *t)
{
	static const uint32_t options[] = {OPT_STRUCTURED_REPLY, OPT_EXTENDED_HEADERS};
	struct session *s = open_clear(t);
	for (size_t i = 0; i < COUNT_OF(options); i++)
		option_expect(s, options[i], NULL, 0, REP_ERR_TLS_REQD);
}

static void
forced_contexts(struct test *t)
{
	static const char *const names[] = {"base:allocation"};
	struct session *s = open_clear(t);
	struct query q = query_contexts(t, t->target->uri.export_name, 1, names);
	option_expect(s, OPT_LIST_META_CONTEXT, q.data, q.length, REP_ERR_TLS_REQD);
	option_expect(s, OPT_SET_META_CONTEXT, q.data, q.length, REP_ERR_TLS_REQD);
}

static void
forced_drains(struct test *t)
{
	struct session *s = open_clear(t);
	option_expect(s, OPT_UNKNOWN, take_pattern(t, 131, 3000), 3000, REP_ERR_TLS_REQD);
	option_expect(s, OPT_LIST, NULL, 0, REP_ERR_TLS_REQD);
	session_start_tls(s);
	option_go(s);
	expect_sync(s);
}

static void
forced_export_name(struct test *t)
{
	const char *name = t->target->uri.export_name;
	struct session *s = open_clear(t);
	option_send(s, OPT_EXPORT_NAME, name, strlen(name));
	expect(t, conn_ends(s->conn), "a closed connection", "an answer");
}

static void
forced_abort(struct test *t)
{
	option_expect(open_clear(t), OPT_ABORT, NULL, 0, REP_ACK);
}

static void
forced_old_client(struct test *t)
{
	const char *name = t->target->uri.export_name;
	struct session *s = session_begin(t, 0);
	option_send(s, OPT_EXPORT_NAME, name, strlen(name));
	sent(t, "EXPORT_NAME from a client that is not fixed newstyle");
	expect(t, conn_ends(s->conn), "a closed connection", "an answer");
}

/* A client that is not fixed newstyle does not know option replies, so it cannot be told TLS_REQD.
 */
static void
forced_old_client_is_not_told(struct test *t)
{
	struct session *s = session_begin(t, 0);
	uint32_t type = option_try(s, OPT_LIST, NULL, 0);
	expect(t, type != REP_ERR_TLS_REQD, "a closed connection", "ERR_TLS_REQD");
}

/* SELECTIVETLS */

static void
selective_serves_options(struct test *t)
{
	static const uint32_t options[] = {OPT_LIST, OPT_STRUCTURED_REPLY, OPT_UNKNOWN};
	struct session *s = open_clear(t);
	for (size_t i = 0; i < COUNT_OF(options); i++) {
		uint32_t type = option_ask(s, options[i], NULL, 0);
		expect(t, type != REP_ERR_TLS_REQD, "no ERR_TLS_REQD for this option",
			"ERR_TLS_REQD");
	}
}

static void
selective_info_agrees_with_go(struct test *t)
{
	struct session *s = open_clear(t);
	uint32_t info = option_info(s, OPT_INFO), go = option_info(s, OPT_GO);
	expect(t, info == go, "GO to be answered as INFO", "%s, INFO %s", reply_name(go),
		reply_name(info));
	expect(t, info == REP_ACK || info == REP_ERR_TLS_REQD, "ACK or ERR_TLS_REQD", "%s",
		reply_name(info));
}

static void
selective_export_name(struct test *t)
{
	struct session *s = open_clear(t);
	const char *name = t->target->uri.export_name;
	if (option_info(s, OPT_INFO) != REP_ERR_TLS_REQD)
		skip(t, "the export does not need TLS");
	option_send(s, OPT_EXPORT_NAME, name, strlen(name));
	expect(t, conn_ends(s->conn), "a closed connection", "an answer");
}

/* Under TLS */

static void
no_tls_required_under_tls(struct test *t)
{
	static const uint32_t options[] = {
		OPT_LIST, OPT_STRUCTURED_REPLY, OPT_EXTENDED_HEADERS, OPT_UNKNOWN, OPT_STARTTLS};
	struct session *s = open_tls(t);
	for (size_t i = 0; i < COUNT_OF(options); i++) {
		uint32_t type = option_ask(s, options[i], NULL, 0);
		expect(t, type != REP_ERR_TLS_REQD, "no ERR_TLS_REQD under TLS", "ERR_TLS_REQD");
	}
	struct query q = query_export(t, "nbdcheck: no such export", 0, NULL);
	expect(t, option_ask(s, OPT_INFO, q.data, q.length) != REP_ERR_TLS_REQD,
		"no ERR_TLS_REQD under TLS", "ERR_TLS_REQD");
}

static void
data_under_tls(struct test *t)
{
	struct session *s = go_tls(t, COMPACT);
	uint64_t length = end_of(t) < 8u << 20 ? 1u << 20 : 8u << 20;
	uint8_t *bytes = take_pattern(t, 132, length);
	write_bytes(s, 0, bytes, length);
	expect_stored(s, 0, bytes, length);
}

static void
refused_write_under_tls(struct test *t)
{
	struct session *s = go_tls(t, COMPACT);
	uint8_t *bytes = take_pattern(t, 133, 1 << 20);
	for (int i = 0; i < 4; i++) {
		struct reply *r = request(s, CMD_WRITE, 0, end_of(t), 1 << 20, bytes);
		expect(t, r->error != 0, "an error", "success");
		expect_sync(s);
	}
}

static void
pipelining_under_tls(struct test *t)
{
	struct session *s = go_tls(t, COMPACT);
	struct reply *r[64];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = submit(s, CMD_READ, 0, i * 8192, 8192 + i * block_of(t) % UNIT, NULL);
	for (size_t i = 0; i < COUNT_OF(r); i++) {
		await(s, r[i]);
		expect_success(s, r[i]);
	}
}

static void
goodbye_after_disconnect(struct test *t)
{
	struct session *s = go_tls(t, COMPACT);
	uint8_t header[32];
	conn_write(s->conn, header, build_request(s, header, CMD_DISC, 0, 0, 0, 0));
	sent(t, "DISC under TLS");
	expect(t, conn_ends(s->conn), "a closed connection", "bytes");
	expect(t, conn_said_goodbye(s->conn), "close_notify before the connection closes",
		"the connection closed without it");
}

static void
disconnect_waits_under_tls(struct test *t)
{
	struct session *s = go_tls(t, COMPACT);
	struct reply *r[8];
	for (size_t i = 0; i < COUNT_OF(r); i++)
		r[i] = submit(s, CMD_READ, 0, 0, 2 * UNIT, NULL);
	uint8_t header[32];
	conn_write(s->conn, header, build_request(s, header, CMD_DISC, 0, 0, 0, 0));
	sent(t, "8 READs and DISC under TLS");
	for (size_t i = 0; i < COUNT_OF(r); i++) {
		await_or_close(s, r[i]);
		expect(t, r[i]->done, "all replies before the end", "%zu of 8", i);
	}
}

static void
abort_under_tls(struct test *t)
{
	option_expect(open_tls(t), OPT_ABORT, NULL, 0, REP_ACK);
}

static void
structured_under_tls(struct test *t)
{
	struct session *s = go_tls(t, CHUNKED);
	struct reply *r = request(s, CMD_READ, 0, 0, UNIT, NULL);
	expect_success(s, r);
	expect_faultless(s, r, FAULT_SIMPLE | FAULT_OVERLAP | FAULT_OUTSIDE | FAULT_EMPTY);
}

static void
goodbye_without_disconnect(struct test *t)
{
	struct session *bystander = session_export(t, COMPACT);
	for (int i = 0; i < 4; i++) {
		struct session *s = go_tls(t, COMPACT);
		submit(s, CMD_READ, 0, 0, UNIT, NULL);
		conn_close(s->conn);
	}
	expect_sync(bystander);
	expect_sync(session_export(t, COMPACT));
}

static const struct check checks[] = {
	{"T01", MUST, "NOTLS mode", NOTLS, "without TLS, STARTTLS is an error",
		notls_refuses_starttls},
	{"T02", MUST, "NOTLS mode", NOTLS, "without TLS, no option is answered TLS_REQD",
		notls_never_requires_tls},
	{"T03", MUST, "NBD_OPT_STARTTLS", TLS, "STARTTLS upgrades the session", starttls_upgrades},
	{"T04", MUST, "NBD_OPT_STARTTLS", TLS, "STARTTLS with data is an error, and drained",
		starttls_with_data},
	{"T05", MUST, "FORCEDTLS mode", TLS, "STARTTLS under TLS is ERR_INVALID", starttls_twice},
	{"T06", MUST, "NBD_OPT_STARTTLS", TLS, "STARTTLS forgets structured replies",
		starttls_forgets_structured},
	{"T07", MUST, "NBD_OPT_STARTTLS", TLS | META | PLAIN, "STARTTLS forgets selected contexts",
		starttls_forgets_contexts},
	{"T08", MUST, "NBD_OPT_STARTTLS", TLS | EXTENDED, "STARTTLS forgets extended headers",
		starttls_forgets_extended},
	{"T09", MUST, "FORCEDTLS mode", TLS, "options in the clear behind STARTTLS do not count",
		injected_options_do_not_count},
	{"T10", MUST, "FORCEDTLS mode", TLS, "a failed handshake ends the session",
		failed_handshake_ends},
	{"T11", MUST, "FORCEDTLS mode", TLS, "after STARTTLS nothing is taken in the clear",
		clear_after_ack_is_no_option},
	{"T12", MUST, "FORCEDTLS mode", TLS, "a handshake that waits holds up no other session",
		other_sessions_go_on},
	{"T13", MUST, "Terminating the transmission phase", TLS,
		"clients that hang up in the handshake harm nobody", hang_up_in_handshake},
	{"T14", MUST, "Server-side requirements", TLS,
		"to a client that is not fixed newstyle there is no TLS",
		not_before_fixed_newstyle},
	{"T15", MUST, "TLS versions", TLS, "TLS 1.2 is supported", tls_1_2_is_supported},
	{"T16", SHOULD, "TLS versions", TLS, "TLS 1.3 is supported", tls_1_3_is_supported},
	{"T17", SHOULD, "TLS versions", TLS, "TLS 1.0 and 1.1 are not", old_tls_is_refused},
	{"T18", MUST, "FORCEDTLS mode", FORCED, "LIST in the clear is TLS_REQD", forced_list},
	{"T19", MUST, "FORCEDTLS mode", FORCED, "INFO in the clear is TLS_REQD, and tells nothing",
		forced_info},
	{"T20", MUST, "FORCEDTLS mode", FORCED, "GO in the clear is TLS_REQD", forced_go},
	{"T21", MUST, "FORCEDTLS mode", FORCED, "an unknown option in the clear is TLS_REQD",
		forced_unknown},
	{"T22", MUST, "FORCEDTLS mode", FORCED,
		"STRUCTURED_REPLY and EXTENDED_HEADERS in the clear are TLS_REQD", forced_state},
	{"T23", MUST, "FORCEDTLS mode", FORCED, "meta contexts in the clear are TLS_REQD",
		forced_contexts},
	{"T24", MUST, "FORCEDTLS mode", FORCED,
		"what is TLS_REQD is drained, and STARTTLS still works", forced_drains},
	{"T25", MUST, "FORCEDTLS mode", FORCED, "EXPORT_NAME in the clear closes the connection",
		forced_export_name},
	{"T26", MUST, "FORCEDTLS mode", FORCED, "ABORT in the clear is answered with ACK",
		forced_abort},
	{"T27", MUST, "FORCEDTLS mode", FORCED,
		"EXPORT_NAME of a client that is not fixed newstyle closes the connection",
		forced_old_client},
	{"T28", MUST, "Server-side requirements", FORCED,
		"a client that is not fixed newstyle is not told TLS_REQD",
		forced_old_client_is_not_told},
	{"T29", MUST, "SELECTIVETLS mode", SELECTIVE,
		"options that name no export are not TLS_REQD", selective_serves_options},
	{"T30", MUST, "SELECTIVETLS mode", SELECTIVE, "INFO and GO in the clear agree about TLS",
		selective_info_agrees_with_go},
	{"T31", MUST, "SELECTIVETLS mode", SELECTIVE,
		"EXPORT_NAME of a TLS-only export in the clear closes the connection",
		selective_export_name},
	{"T32", MUST, "FORCEDTLS mode", TLS, "under TLS nothing is TLS_REQD",
		no_tls_required_under_tls},
	{"T33", MUST, "NBD_CMD_WRITE", TLS | WRITABLE, "8 MiB are written and read under TLS",
		data_under_tls},
	{"T34", SHOULD, "Request message", TLS | WRITABLE, "refused WRITEs under TLS are drained",
		refused_write_under_tls},
	{"T35", MUST, "Transmission", TLS, "64 READs in flight under TLS", pipelining_under_tls},
	{"T36", MUST, "NBD_CMD_DISC", TLS, "DISC closes the TLS session before the connection",
		goodbye_after_disconnect},
	{"T37", MUST, "NBD_CMD_DISC", TLS,
		"READs in flight under TLS are answered before DISC closes",
		disconnect_waits_under_tls},
	{"T38", MUST, "NBD_OPT_ABORT", TLS, "ABORT under TLS is answered with ACK",
		abort_under_tls},
	{"T39", MUST, "NBD_CMD_READ", TLS | STRUCTURED, "structured replies under TLS",
		structured_under_tls},
	{"T40", MUST, "Terminating the transmission phase", TLS,
		"clients that end TLS with a READ in flight harm nobody",
		goodbye_without_disconnect},
};

const struct group tls_group = {"tls", "proto.md", checks, COUNT_OF(checks)};
