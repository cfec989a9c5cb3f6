/*
 * The words of the NBD document as nbdcheck writes and reads them, and their names for people.
 * Nothing here is shared with the server: a mistake must not hide by being made twice.
 */
#ifndef NBDCHECK_WIRE_H
#define NBDCHECK_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBDMAGIC          UINT64_C(0x4e42444d41474943)
#define IHAVEOPT          UINT64_C(0x49484156454f5054)
#define OPTION_REPLY      UINT64_C(0x0003e889045565a9)
#define REQUEST_MAGIC     0x25609513u
#define EXT_REQUEST_MAGIC 0x21e41c71u
#define SIMPLE_MAGIC      0x67446698u
#define STRUCTURED_MAGIC  0x668e33efu
#define EXT_REPLY_MAGIC   0x6e8a278cu

enum {
	DEFAULT_PORT = 10809,
	STRING_MAX = 4096,         /* "Conventions" */
	DEFAULT_PAYLOAD = 1 << 25, /* "Size constraints" */
	FRAGMENT_MAX = 65536,      /* a read with DF up to here MUST work */
	SECTOR = 512,
};

enum handshake_flag { FIXED_NEWSTYLE = 1, NO_ZEROES = 2 };

enum transmission_flag {
	HAS_FLAGS = 1 << 0,
	READ_ONLY = 1 << 1,
	SEND_FLUSH = 1 << 2,
	SEND_FUA = 1 << 3,
	ROTATIONAL = 1 << 4,
	SEND_TRIM = 1 << 5,
	SEND_WRITE_ZEROES = 1 << 6,
	SEND_DF = 1 << 7,
	CAN_MULTI_CONN = 1 << 8,
	SEND_RESIZE = 1 << 9,
	SEND_CACHE = 1 << 10,
	SEND_FAST_ZERO = 1 << 11,
	STATUS_PAYLOAD = 1 << 12,
};

enum option {
	OPT_EXPORT_NAME = 1,
	OPT_ABORT,
	OPT_LIST,
	OPT_PEEK_EXPORT,
	OPT_STARTTLS,
	OPT_INFO,
	OPT_GO,
	OPT_STRUCTURED_REPLY,
	OPT_LIST_META_CONTEXT,
	OPT_SET_META_CONTEXT,
	OPT_EXTENDED_HEADERS,
	OPT_UNKNOWN = 0x5ab1ed, /* nobody's */
};

enum { REP_ACK = 1, REP_SERVER, REP_INFO, REP_META_CONTEXT };

#define REP_ERROR               0x80000000u
#define REP_ERR_UNSUP           (REP_ERROR + 1)
#define REP_ERR_POLICY          (REP_ERROR + 2)
#define REP_ERR_INVALID         (REP_ERROR + 3)
#define REP_ERR_PLATFORM        (REP_ERROR + 4)
#define REP_ERR_TLS_REQD        (REP_ERROR + 5)
#define REP_ERR_UNKNOWN         (REP_ERROR + 6)
#define REP_ERR_SHUTDOWN        (REP_ERROR + 7)
#define REP_ERR_BLOCK_SIZE_REQD (REP_ERROR + 8)
#define REP_ERR_TOO_BIG         (REP_ERROR + 9)
#define REP_ERR_EXT_HEADER_REQD (REP_ERROR + 10)

enum info { INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE };

enum command {
	CMD_READ,
	CMD_WRITE,
	CMD_DISC,
	CMD_FLUSH,
	CMD_TRIM,
	CMD_CACHE,
	CMD_WRITE_ZEROES,
	CMD_BLOCK_STATUS,
	CMD_RESIZE,
	CMD_UNKNOWN = 0x7357,
};

enum command_flag {
	FUA = 1 << 0,
	NO_HOLE = 1 << 1,
	DF = 1 << 2,
	REQ_ONE = 1 << 3,
	FAST_ZERO = 1 << 4,
	PAYLOAD_LEN = 1 << 5,
	UNKNOWN_FLAG = 1 << 14,
};

enum { REPLY_DONE = 1 };

enum chunk {
	CHUNK_NONE = 0,
	CHUNK_DATA = 1,
	CHUNK_HOLE = 2,
	CHUNK_STATUS = 5,
	CHUNK_STATUS_EXT = 6,
	CHUNK_ERROR = 0x8001,
	CHUNK_ERROR_OFFSET = 0x8002,
	CHUNK_ERROR_BIT = 0x8000,
};

enum { STATE_HOLE = 1, STATE_ZERO = 2 };

enum error {
	ERR_PERM = 1,
	ERR_IO = 5,
	ERR_NOMEM = 12,
	ERR_INVAL = 22,
	ERR_NOSPC = 28,
	ERR_OVERFLOW = 75,
	ERR_NOTSUP = 95,
	ERR_SHUTDOWN = 108,
};

uint16_t get16(const void *p);
uint32_t get32(const void *p);
uint64_t get64(const void *p);
/* Each returns the byte after what it wrote. */
uint8_t *put16(void *p, uint16_t value);
uint8_t *put32(void *p, uint32_t value);
uint8_t *put64(void *p, uint64_t value);
uint8_t *put_bytes(void *p, const void *bytes, size_t length);

/* For diagnostics; a value without a name is written as a number into a static buffer. */
const char *option_name(uint32_t option);
const char *reply_name(uint32_t type);
const char *command_name(uint16_t command);
const char *error_name(uint32_t error);
/* "FUA|DF", or "0". Static buffer. */
const char *flags_text(uint16_t flags);

bool error_is_listed(uint32_t error);
/* "Conventions": UTF-8, no NUL, at most 4096 bytes. */
bool string_is_valid(const void *bytes, size_t length);

#endif
