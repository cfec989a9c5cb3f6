#include "config.h"
#include "wire.h"

#include <stdio.h>
#include <string.h>

uint16_t
get16(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] << 8 | b[1]);
}

uint32_t
get32(const void *p)
{
	return (uint32_t)get16(p) << 16 | get16((const uint8_t *)p + 2);
}

uint64_t
get64(const void *p)
{
	return (uint64_t)get32(p) << 32 | get32((const uint8_t *)p + 4);
}

uint8_t *
put16(void *p, uint16_t value)
{
	uint8_t *b = p;
	b[0] = (uint8_t)(value >> 8);
	b[1] = (uint8_t)value;
	return b + 2;
}

uint8_t *
put32(void *p, uint32_t value)
{
	return put16(put16(p, (uint16_t)(value >> 16)), (uint16_t)value);
}

uint8_t *
put64(void *p, uint64_t value)
{
	return put32(put32(p, (uint32_t)(value >> 32)), (uint32_t)value);
}

uint8_t *
put_bytes(void *p, const void *bytes, size_t length)
{
	if (length > 0)
		memcpy(p, bytes, length);
	return (uint8_t *)p + length;
}

struct name {
	uint32_t value;
	const char *name;
};

static const char *
find_name(const struct name *names, size_t count, uint32_t value, const char *kind)
{
	static char unnamed[4][48];
	static unsigned turn;
	for (size_t i = 0; i < count; i++)
		if (names[i].value == value)
			return names[i].name;
	char *text = unnamed[turn++ % 4];
	snprintf(text, sizeof unnamed[0], "%s %#x", kind, value);
	return text;
}

#define FIND(names, value, kind) find_name(names, sizeof names / sizeof names[0], value, kind)

const char *
option_name(uint32_t option)
{
	static const struct name names[] = {
		{OPT_EXPORT_NAME, "EXPORT_NAME"},
		{OPT_ABORT, "ABORT"},
		{OPT_LIST, "LIST"},
		{OPT_PEEK_EXPORT, "PEEK_EXPORT"},
		{OPT_STARTTLS, "STARTTLS"},
		{OPT_INFO, "INFO"},
		{OPT_GO, "GO"},
		{OPT_STRUCTURED_REPLY, "STRUCTURED_REPLY"},
		{OPT_LIST_META_CONTEXT, "LIST_META_CONTEXT"},
		{OPT_SET_META_CONTEXT, "SET_META_CONTEXT"},
		{OPT_EXTENDED_HEADERS, "EXTENDED_HEADERS"},
	};
	return FIND(names, option, "option");
}

const char *
reply_name(uint32_t type)
{
	static const struct name names[] = {
		{REP_ACK, "ACK"},
		{REP_SERVER, "SERVER"},
		{REP_INFO, "INFO"},
		{REP_META_CONTEXT, "META_CONTEXT"},
		{REP_ERR_UNSUP, "ERR_UNSUP"},
		{REP_ERR_POLICY, "ERR_POLICY"},
		{REP_ERR_INVALID, "ERR_INVALID"},
		{REP_ERR_PLATFORM, "ERR_PLATFORM"},
		{REP_ERR_TLS_REQD, "ERR_TLS_REQD"},
		{REP_ERR_UNKNOWN, "ERR_UNKNOWN"},
		{REP_ERR_SHUTDOWN, "ERR_SHUTDOWN"},
		{REP_ERR_BLOCK_SIZE_REQD, "ERR_BLOCK_SIZE_REQD"},
		{REP_ERR_TOO_BIG, "ERR_TOO_BIG"},
		{REP_ERR_EXT_HEADER_REQD, "ERR_EXT_HEADER_REQD"},
		{0, "a closed connection"},
	};
	return FIND(names, type, "reply type");
}

const char *
command_name(uint16_t command)
{
	static const struct name names[] = {
		{CMD_READ, "READ"},
		{CMD_WRITE, "WRITE"},
		{CMD_DISC, "DISC"},
		{CMD_FLUSH, "FLUSH"},
		{CMD_TRIM, "TRIM"},
		{CMD_CACHE, "CACHE"},
		{CMD_WRITE_ZEROES, "WRITE_ZEROES"},
		{CMD_BLOCK_STATUS, "BLOCK_STATUS"},
		{CMD_RESIZE, "RESIZE"},
	};
	return FIND(names, command, "command");
}

static const struct name errors[] = {
	{ERR_PERM, "EPERM"},
	{ERR_IO, "EIO"},
	{ERR_NOMEM, "ENOMEM"},
	{ERR_INVAL, "EINVAL"},
	{ERR_NOSPC, "ENOSPC"},
	{ERR_OVERFLOW, "EOVERFLOW"},
	{ERR_NOTSUP, "ENOTSUP"},
	{ERR_SHUTDOWN, "ESHUTDOWN"},
};

const char *
error_name(uint32_t error)
{
	return error == 0 ? "success" : FIND(errors, error, "error");
}

bool
error_is_listed(uint32_t error)
{
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
		if (errors[i].value == error)
			return true;
	return false;
}

const char *
flags_text(uint16_t flags)
{
	static const char *const names[] = {
		"FUA", "NO_HOLE", "DF", "REQ_ONE", "FAST_ZERO", "PAYLOAD_LEN"};
	static char text[96];
	size_t used = 0;
	text[0] = '\0';
	for (unsigned bit = 0; bit < 16; bit++) {
		if (!(flags >> bit & 1))
			continue;
		const char *bar = used > 0 ? "|" : "";
		int n = bit < 6 ? snprintf(text + used, sizeof text - used, "%s%s", bar, names[bit])
				: snprintf(text + used, sizeof text - used, "%sbit %u", bar, bit);
		if (n < 0 || (size_t)n >= sizeof text - used)
			break;
		used += (size_t)n;
	}
	return used > 0 ? text : "0";
}

/* The length of the UTF-8 sequence at bytes, 0 if there is none: RFC 3629, section 4. */
static size_t
measure_code_point(const uint8_t *b, size_t left)
{
	if (b[0] >= 0x01 && b[0] <= 0x7f)
		return 1;
	size_t length = b[0] >= 0xc2 && b[0] <= 0xdf   ? 2
			: b[0] >= 0xe0 && b[0] <= 0xef ? 3
			: b[0] >= 0xf0 && b[0] <= 0xf4 ? 4
						       : 0;
	if (length == 0 || length > left)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((b[i] & 0xc0) != 0x80)
			return 0;
	if ((b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xed && b[1] > 0x9f) ||
		(b[0] == 0xf0 && b[1] < 0x90) || (b[0] == 0xf4 && b[1] > 0x8f))
		return 0;
	return length;
}

bool
string_is_valid(const void *bytes, size_t length)
{
	if (length > STRING_MAX)
		return false;
	for (size_t i = 0; i < length;) {
		size_t n = measure_code_point((const uint8_t *)bytes + i, length - i);
		if (n == 0)
			return false;
		i += n;
	}
	return true;
}
