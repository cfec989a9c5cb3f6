#include "config.h"
#include "checks.h"

#include "session.h"
#include "target.h"

#include <string.h>

enum { UNIT = 65536 };

static struct session *
open_any(struct test *t)
{
	return session_export(t, t->target->structured ? CHUNKED : COMPACT);
}

/* A command in good order but for its flags. */
static struct reply *
with_flags(struct session *s, uint16_t type, uint16_t flags)
{
	uint64_t length = type == CMD_FLUSH ? 0 : UNIT;
	uint8_t *payload = type == CMD_WRITE ? take_pattern(s->test, 50, UNIT) : NULL;
	return request(s, type, flags, 0, length, payload);
}

/* FUA: "the server MUST accept all commands with this bit set" */

static void
accept_fua(struct test *t, uint16_t type)
{
	struct session *s = open_any(t);
	struct reply *plain = with_flags(s, type, 0), *fua = with_flags(s, type, FUA);
	expect(t, fua->error == plain->error, "the result that the command has without FUA", "%s",
		error_name(fua->error));
}

static void
fua_write(struct test *t)
{
	struct session *s = open_any(t);
	expect_success(s, with_flags(s, CMD_WRITE, FUA));
	expect_stored(s, 0, take_pattern(t, 50, UNIT), UNIT);
}

static void
fua_read(struct test *t)
{
	accept_fua(t, CMD_READ);
}

static void
fua_flush(struct test *t)
{
	accept_fua(t, CMD_FLUSH);
}

static void
fua_trim(struct test *t)
{
	accept_fua(t, CMD_TRIM);
}

static void
fua_zeroes(struct test *t)
{
	struct session *s = open_any(t);
	write_bytes(s, 0, take_pattern(t, 51, UNIT), UNIT);
	expect_success(s, with_flags(s, CMD_WRITE_ZEROES, FUA));
	expect_stored(s, 0, NULL, UNIT);
}

static void
fua_cache(struct test *t)
{
	accept_fua(t, CMD_CACHE);
}

static void
fua_status(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	expect_success(s, with_flags(s, CMD_BLOCK_STATUS, FUA));
}

static void
fua_with_others(struct test *t)
{
	struct session *s = open_any(t);
	expect_success(s, with_flags(s, CMD_WRITE_ZEROES, FUA | NO_HOLE));
	expect_stored(s, 0, NULL, UNIT);
}

static void
unoffered_fua(struct test *t)
{
	struct session *s = open_any(t);
	if (s->flags & SEND_FUA)
		skip(t, "FUA is offered");
	expect_error(s, with_flags(s, CMD_WRITE, FUA), ERR_INVAL);
}

/* Unknown flags, and flags of other commands: EINVAL */

static void
refuse(struct test *t, uint16_t type, uint16_t flags)
{
	struct session *s = open_any(t);
	expect_error(s, with_flags(s, type, flags), ERR_INVAL);
	expect_sync(s);
}

static void
unknown_on_read(struct test *t)
{
	refuse(t, CMD_READ, UNKNOWN_FLAG);
}

static void
unknown_on_write(struct test *t)
{
	refuse(t, CMD_WRITE, UNKNOWN_FLAG);
}

static void
unknown_on_flush(struct test *t)
{
	refuse(t, CMD_FLUSH, UNKNOWN_FLAG);
}

static void
unknown_on_trim(struct test *t)
{
	refuse(t, CMD_TRIM, UNKNOWN_FLAG);
}

static void
unknown_on_zeroes(struct test *t)
{
	refuse(t, CMD_WRITE_ZEROES, UNKNOWN_FLAG);
}

static void
unknown_on_cache(struct test *t)
{
	struct session *s = open_any(t);
	struct reply *r = with_flags(s, CMD_CACHE, UNKNOWN_FLAG);
	expect(t, r->error != 0, "an error", "success");
	prefer(t, r->error == ERR_INVAL, "EINVAL", "%s", error_name(r->error));
}

static void
unknown_on_status(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	expect_error(s, with_flags(s, CMD_BLOCK_STATUS, UNKNOWN_FLAG), ERR_INVAL);
	expect_sync(s);
}

static void
unknown_with_known(struct test *t)
{
	refuse(t, CMD_WRITE, FUA | UNKNOWN_FLAG);
}

static void
no_hole_on_write(struct test *t)
{
	refuse(t, CMD_WRITE, NO_HOLE);
}

static void
no_hole_on_trim(struct test *t)
{
	refuse(t, CMD_TRIM, NO_HOLE);
}

static void
df_on_write(struct test *t)
{
	refuse(t, CMD_WRITE, DF);
}

static void
df_without_structured(struct test *t)
{
	struct session *s = session_export(t, COMPACT);
	struct reply *r = submit(s, CMD_READ, DF, 0, UNIT, NULL);
	await(s, r);
	expect_error(s, r, ERR_INVAL);
}

static void
req_one_on_read(struct test *t)
{
	refuse(t, CMD_READ, REQ_ONE);
}

static void
fast_zero_on_write(struct test *t)
{
	refuse(t, CMD_WRITE, FAST_ZERO);
}

static void
fast_zero_on_trim(struct test *t)
{
	refuse(t, CMD_TRIM, FAST_ZERO);
}

static void
unoffered_fast_zero(struct test *t)
{
	struct session *s = open_any(t);
	if (s->flags & SEND_FAST_ZERO)
		skip(t, "FAST_ZERO is offered");
	expect_error(s, with_flags(s, CMD_WRITE_ZEROES, FAST_ZERO), ERR_INVAL);
}

static void
payload_flag_is_compact(struct test *t)
{
	refuse(t, CMD_READ, PAYLOAD_LEN);
}

static void
df_on_status(struct test *t)
{
	struct session *s = session_status(t, CHUNKED);
	expect_error(s, with_flags(s, CMD_BLOCK_STATUS, DF), ERR_INVAL);
}

static void
req_one_on_flush(struct test *t)
{
	refuse(t, CMD_FLUSH, REQ_ONE);
}

static const struct check checks[] = {
	{"F01", MUST, "Command flags", FUAS | WRITABLE, "FUA is accepted on WRITE", fua_write},
	{"F02", MUST, "Command flags", FUAS, "FUA is accepted on READ", fua_read},
	{"F03", MUST, "Command flags", FUAS | FLUSHES, "FUA is accepted on FLUSH", fua_flush},
	{"F04", MUST, "Command flags", FUAS | TRIMS | WRITABLE, "FUA is accepted on TRIM",
		fua_trim},
	{"F05", MUST, "Command flags", FUAS | ZEROES | WRITABLE, "FUA is accepted on WRITE_ZEROES",
		fua_zeroes},
	{"F06", MUST, "Command flags", FUAS | CACHES, "FUA is accepted on CACHE", fua_cache},
	{"F07", MUST, "Command flags", FUAS | META, "FUA is accepted on BLOCK_STATUS", fua_status},
	{"F08", MUST, "Command flags", FUAS | ZEROES | WRITABLE, "FUA goes together with NO_HOLE",
		fua_with_others},
	{"F09", SHOULD, "Error values", WRITABLE, "FUA that is not offered is EINVAL",
		unoffered_fua},
	{"F10", SHOULD, "Error values", 0, "an unknown flag on READ is EINVAL", unknown_on_read},
	{"F11", SHOULD, "Error values", WRITABLE, "an unknown flag on WRITE is EINVAL, and drained",
		unknown_on_write},
	{"F12", SHOULD, "Error values", FLUSHES, "an unknown flag on FLUSH is EINVAL",
		unknown_on_flush},
	{"F13", SHOULD, "Error values", TRIMS | WRITABLE, "an unknown flag on TRIM is EINVAL",
		unknown_on_trim},
	{"F14", SHOULD, "Error values", ZEROES | WRITABLE,
		"an unknown flag on WRITE_ZEROES is EINVAL", unknown_on_zeroes},
	{"F15", MUST, "NBD_CMD_CACHE", CACHES, "an unknown flag on CACHE is rejected",
		unknown_on_cache},
	{"F16", SHOULD, "Error values", META, "an unknown flag on BLOCK_STATUS is EINVAL",
		unknown_on_status},
	{"F17", SHOULD, "Error values", WRITABLE, "an unknown flag beside FUA is EINVAL",
		unknown_with_known},
	{"F18", SHOULD, "Error values", WRITABLE, "NO_HOLE on WRITE is EINVAL", no_hole_on_write},
	{"F19", SHOULD, "Error values", WRITABLE | TRIMS, "NO_HOLE on TRIM is EINVAL",
		no_hole_on_trim},
	{"F20", SHOULD, "Error values", WRITABLE, "DF on WRITE is EINVAL", df_on_write},
	{"F21", SHOULD, "Error values", 0, "DF on READ without structured replies is EINVAL",
		df_without_structured},
	{"F22", SHOULD, "Error values", 0, "REQ_ONE on READ is EINVAL", req_one_on_read},
	{"F23", SHOULD, "Error values", WRITABLE, "FAST_ZERO on WRITE is EINVAL",
		fast_zero_on_write},
	{"F24", SHOULD, "Error values", WRITABLE | TRIMS, "FAST_ZERO on TRIM is EINVAL",
		fast_zero_on_trim},
	{"F25", SHOULD, "NBD_CMD_WRITE_ZEROES", ZEROES | WRITABLE,
		"FAST_ZERO that is not offered is EINVAL", unoffered_fast_zero},
	{"F26", SHOULD, "Error values", 0, "PAYLOAD_LEN without extended headers is EINVAL",
		payload_flag_is_compact},
	{"F27", SHOULD, "Error values", META, "DF on BLOCK_STATUS is EINVAL", df_on_status},
	{"F28", SHOULD, "Error values", FLUSHES, "REQ_ONE on FLUSH is EINVAL", req_one_on_flush},
};

const struct group flags_group = {"flags", "proto.md", checks, COUNT_OF(checks)};
