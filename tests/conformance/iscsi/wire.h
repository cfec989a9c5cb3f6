/* RFC 7143 section 11 as bytes: opcodes, fields, CRC32C. */
#ifndef ISCSICHECK_WIRE_H
#define ISCSICHECK_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum { BHS_SIZE = 48, DEFAULT_SEGMENT = 8192 };

enum opcode {
	OP_NOP_OUT = 0x00,
	OP_SCSI = 0x01,
	OP_TMF = 0x02,
	OP_LOGIN = 0x03,
	OP_TEXT = 0x04,
	OP_DATA_OUT = 0x05,
	OP_LOGOUT = 0x06,
	OP_SNACK = 0x10,
	OP_NOP_IN = 0x20,
	OP_SCSI_RESPONSE = 0x21,
	OP_TMF_RESPONSE = 0x22,
	OP_LOGIN_RESPONSE = 0x23,
	OP_TEXT_RESPONSE = 0x24,
	OP_DATA_IN = 0x25,
	OP_LOGOUT_RESPONSE = 0x26,
	OP_R2T = 0x31,
	OP_ASYNC = 0x32,
	OP_REJECT = 0x3f,
};

enum { IMMEDIATE = 0x40, NO_TAG = 0xffffffff };
/* Byte 1. */
enum { FINAL = 0x80, CONTINUE = 0x40, TRANSIT = 0x80 };
enum { SCSI_READ = 0x40, SCSI_WRITE = 0x20, SIMPLE = 1, ORDERED = 2, HEAD_OF_QUEUE = 3, ACA = 4 };
enum { SECURITY = 0, OPERATIONAL = 1, FULL_FEATURE = 3 };
/* 11.4.1 and 11.7.3 */
enum { OVERFLOWN = 0x04, UNDERFLOWN = 0x02, HAS_STATUS = 0x01 };
/* 11.5.1, 11.6.1 */
enum {
	ABORT_TASK = 1,
	ABORT_TASK_SET = 2,
	CLEAR_ACA = 3,
	CLEAR_TASK_SET = 4,
	LUN_RESET = 5,
	WARM_RESET = 6,
	COLD_RESET = 7,
	TASK_REASSIGN = 8,
	TMF_COMPLETE = 0,
	TMF_NO_TASK = 1,
	TMF_NO_LUN = 2,
	TMF_NO_REASSIGN = 4,
	TMF_UNSUPPORTED = 5,
	TMF_REJECTED = 255,
};
/* 11.17.1 */
enum {
	REJECT_DATA_DIGEST = 0x02,
	REJECT_SNACK = 0x03,
	REJECT_PROTOCOL = 0x04,
	REJECT_UNSUPPORTED = 0x05,
	REJECT_INVALID = 0x09,
};
/* SAM */
enum { GOOD = 0, CHECK_CONDITION = 2, TASK_SET_FULL = 0x28, TASK_ABORTED = 0x40 };

/* One received PDU. Memory of the test. */
struct pdu {
	uint8_t bhs[BHS_SIZE];
	uint8_t *data;
	size_t length; /* of the data, without padding */
};

uint16_t get16(const uint8_t *p);
uint32_t get24(const uint8_t *p);
uint32_t get32(const uint8_t *p);
void put16(uint8_t *p, uint16_t value);
void put24(uint8_t *p, uint32_t value);
void put32(uint8_t *p, uint32_t value);
uint64_t get64(const uint8_t *p);

uint32_t crc32c(const uint8_t *bytes, size_t length);

static inline unsigned
opcode_of(const struct pdu *p)
{
	return p->bhs[0] & 0x3f;
}
static inline uint32_t
tag_of(const struct pdu *p)
{
	return get32(p->bhs + 16);
}

#endif
