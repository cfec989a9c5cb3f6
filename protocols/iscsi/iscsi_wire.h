/* RFC 7143 section 11 as numbers: opcodes, bits, and where the fields of a header stand. */
#ifndef SLABD_ISCSI_WIRE_H
#define SLABD_ISCSI_WIRE_H

#include <stdint.h>

#define ISCSI_PORT 3260
#define ISCSI_BHS  48   /* basic header segment, 11.2.1 */
#define ISCSI_AHS  1020 /* TotalAHSLength is one byte of four-byte words, 11.2.1.5 */

#define ISCSI_TAG_NONE 0xffffffffu /* reserved value of both task tags */

/* 11.2.1.2 */
enum iscsi_opcode {
	ISCSI_NOP_OUT = 0x00,
	ISCSI_COMMAND = 0x01,
	ISCSI_TASK_REQUEST = 0x02,
	ISCSI_LOGIN_REQUEST = 0x03,
	ISCSI_TEXT_REQUEST = 0x04,
	ISCSI_DATA_OUT = 0x05,
	ISCSI_LOGOUT_REQUEST = 0x06,
	ISCSI_SNACK = 0x10,

	ISCSI_NOP_IN = 0x20,
	ISCSI_RESPONSE = 0x21,
	ISCSI_TASK_RESPONSE = 0x22,
	ISCSI_LOGIN_RESPONSE = 0x23,
	ISCSI_TEXT_RESPONSE = 0x24,
	ISCSI_DATA_IN = 0x25,
	ISCSI_LOGOUT_RESPONSE = 0x26,
	ISCSI_R2T = 0x31,
	ISCSI_ASYNC = 0x32,
	ISCSI_REJECT = 0x3f,
};

#define ISCSI_OPCODE_MASK 0x3f
#define ISCSI_IMMEDIATE   0x40
#define ISCSI_FINAL       0x80 /* byte 1 of most PDUs */
#define ISCSI_CONTINUE    0x40 /* Text and Login */

/* Byte 1 of a SCSI Command, 11.3.1 */
#define ISCSI_COMMAND_READ  0x40
#define ISCSI_COMMAND_WRITE 0x20

/* ATTR of the same byte, 11.3.1.2 */
#define ISCSI_ATTRIBUTE_MASK 0x07
enum iscsi_attribute {
	ISCSI_UNTAGGED,
	ISCSI_SIMPLE,
	ISCSI_ORDERED,
	ISCSI_HEAD_OF_QUEUE,
	ISCSI_ACA,
};

/* Byte 1 of a SCSI Response (11.4.1) and, but for the last, of a Data-In (11.7) */
#define ISCSI_OVERFLOW       0x04
#define ISCSI_UNDERFLOW      0x02
#define ISCSI_DATA_IN_STATUS 0x01
#define ISCSI_BIDI_UNDERFLOW 0x08

/* Offsets in the header. A field with two names has two meanings in different PDUs. */
enum {
	BHS_OPCODE = 0,
	BHS_FLAGS = 1,
	BHS_VERSION_MAX = 2, /* Login */
	BHS_VERSION_MIN = 3, /* Login Request; Version-active in the response */
	BHS_RESPONSE = 2,    /* SCSI, Task Management, Logout Response; reason of a Reject */
	BHS_STATUS = 3,      /* SCSI Response, Data-In */
	BHS_AHS_LENGTH = 4,
	BHS_DATA_LENGTH = 5, /* 24 bits */
	BHS_LUN = 8,
	BHS_ISID = 8, /* Login: 6 bytes */
	BHS_TSIH = 14,
	BHS_ITT = 16,
	BHS_TTT = 20,
	BHS_EDTL = 20, /* SCSI Command */
	BHS_CID = 20,  /* Login, Logout Request */
	BHS_RTT = 20,  /* Task Management Request: referenced task tag */
	BHS_CMDSN = 24,
	BHS_STATSN = 24, /* from the target */
	BHS_EXPSTATSN = 28,
	BHS_EXPCMDSN = 28, /* from the target */
	BHS_CDB = 32,
	BHS_REFCMDSN = 32,
	BHS_MAXCMDSN = 32,     /* from the target */
	BHS_DATASN = 36,       /* R2TSN of an R2T, ExpDataSN of a SCSI Response */
	BHS_STATUS_CLASS = 36, /* Login Response: class, then detail */
	BHS_OFFSET = 40,
	BHS_BIDI_RESIDUAL = 40, /* SCSI Response: of the read */
	BHS_DESIRED = 44,       /* R2T */
	BHS_RESIDUAL = 44,      /* SCSI Response, Data-In */
	BHS_TIME2WAIT = 40,     /* Logout Response; Time2Retain follows */
	BHS_EVENT = 36,         /* Asynchronous Message */
	BHS_PARAMETER = 38,     /* likewise; three of 16 bits */
};

/* 11.5.1 */
enum iscsi_task_function {
	ISCSI_ABORT_TASK = 1,
	ISCSI_ABORT_TASK_SET = 2,
	ISCSI_CLEAR_ACA = 3,
	ISCSI_CLEAR_TASK_SET = 4,
	ISCSI_LUN_RESET = 5,
	ISCSI_TARGET_WARM_RESET = 6,
	ISCSI_TARGET_COLD_RESET = 7,
	ISCSI_TASK_REASSIGN = 8,
};

/* 11.6.1 */
enum iscsi_task_answer {
	ISCSI_FUNCTION_COMPLETE = 0,
	ISCSI_NO_TASK = 1,
	ISCSI_NO_LUN = 2,
	ISCSI_NO_REASSIGN = 4,
	ISCSI_NOT_SUPPORTED = 5,
	ISCSI_FUNCTION_REJECTED = 255,
};

/* 11.9.1 */
enum iscsi_async_event {
	ISCSI_ASYNC_SCSI = 0,   /* LUN and sense data */
	ISCSI_ASYNC_LOGOUT = 1, /* Parameter3: within so many seconds */
	ISCSI_ASYNC_DROP = 2,   /* Parameter1: CID, 2: Time2Wait, 3: Time2Retain */
};

/* 11.17.1 */
enum iscsi_reject {
	ISCSI_REJECT_DIGEST = 0x02,
	ISCSI_REJECT_SNACK = 0x03,
	ISCSI_REJECT_PROTOCOL = 0x04,
	ISCSI_REJECT_COMMAND = 0x05,   /* not supported */
	ISCSI_REJECT_IMMEDIATE = 0x06, /* too many immediate commands */
	ISCSI_REJECT_IN_PROGRESS = 0x07,
	ISCSI_REJECT_FIELD = 0x09, /* invalid PDU field */
	ISCSI_REJECT_RESOURCES =
		0x0a, /* long operation reject: cannot generate a target transfer tag */
};

/* 11.13.5: class in the upper byte, detail in the lower */
enum iscsi_login_status {
	ISCSI_LOGIN_OK = 0x0000,
	ISCSI_LOGIN_MOVED_TEMPORARILY = 0x0101,
	ISCSI_LOGIN_MOVED = 0x0102, /* for good */
	ISCSI_LOGIN_INITIATOR_ERROR = 0x0200,
	ISCSI_LOGIN_AUTHENTICATION = 0x0201,
	ISCSI_LOGIN_FORBIDDEN = 0x0202,
	ISCSI_LOGIN_NOT_FOUND = 0x0203,
	ISCSI_LOGIN_REMOVED = 0x0204,
	ISCSI_LOGIN_VERSION = 0x0205,
	ISCSI_LOGIN_CONNECTIONS = 0x0206, /* too many in the session */
	ISCSI_LOGIN_MISSING = 0x0207,
	ISCSI_LOGIN_NOT_INCLUDED = 0x0208, /* cannot include the connection in the session */
	ISCSI_LOGIN_TYPE = 0x0209,
	ISCSI_LOGIN_NO_SESSION = 0x020a,
	ISCSI_LOGIN_REQUEST_TYPE = 0x020b,
	ISCSI_LOGIN_TARGET_ERROR = 0x0300,
	ISCSI_LOGIN_UNAVAILABLE = 0x0301,
	ISCSI_LOGIN_RESOURCES = 0x0302,
};

/* 11.12.3 */
enum iscsi_stage {
	ISCSI_STAGE_SECURITY = 0,
	ISCSI_STAGE_OPERATIONAL = 1,
	ISCSI_STAGE_FULL_FEATURE = 3,
};

/* 11.14.1 and 11.15.1 */
enum iscsi_logout {
	ISCSI_LOGOUT_SESSION = 0,
	ISCSI_LOGOUT_CONNECTION = 1,
	ISCSI_LOGOUT_RECOVERY = 2,
};

enum iscsi_logout_answer {
	ISCSI_LOGOUT_CLOSED = 0,
	ISCSI_LOGOUT_NO_CID = 1,
	ISCSI_LOGOUT_NO_RECOVERY = 2,
};

/* RFC 1982 arithmetic, as 4.2.2.1 asks. */
static inline int32_t
sn_diff(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

#endif
