/* Numbers and sizes of the NBD protocol, with the names of proto.md. All integers are big-endian.
 */
#ifndef SLABD_NBD_WIRE_H
#define SLABD_NBD_WIRE_H

#include <stdint.h>

/* proto.md "Newstyle negotiation", "Fixed newstyle negotiation" */
#define NBD_MAGIC         UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_IHAVEOPT      UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REP_MAGIC     UINT64_C(0x0003e889045565a9)
#define NBD_GREETING_SIZE 18
#define NBD_CFLAGS_SIZE   4
#define NBD_OPTION_SIZE   16 /* header of an option: magic, option, length */
#define NBD_REP_SIZE      20 /* header of its reply: magic, option, type, length */
#define NBD_EXPORT_SIZE   10 /* answer to EXPORT_NAME: size, flags */
#define NBD_EXPORT_PAD    124

/* "Handshake flags", "Client flags" */
#define NBD_FLAG_FIXED_NEWSTYLE   (1u << 0)
#define NBD_FLAG_NO_ZEROES        (1u << 1)
#define NBD_FLAG_C_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_C_NO_ZEROES      (1u << 1)

/* "Transmission flags" */
#define NBD_FLAG_HAS_FLAGS            (1u << 0)
#define NBD_FLAG_READ_ONLY            (1u << 1)
#define NBD_FLAG_SEND_FLUSH           (1u << 2)
#define NBD_FLAG_SEND_FUA             (1u << 3)
#define NBD_FLAG_ROTATIONAL           (1u << 4)
#define NBD_FLAG_SEND_TRIM            (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES    (1u << 6)
#define NBD_FLAG_SEND_DF              (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN       (1u << 8)
#define NBD_FLAG_SEND_CACHE           (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO       (1u << 11)
#define NBD_FLAG_BLOCK_STATUS_PAYLOAD (1u << 12)

/* "Option types" */
#define NBD_OPT_EXPORT_NAME       1
#define NBD_OPT_ABORT             2
#define NBD_OPT_LIST              3
#define NBD_OPT_STARTTLS          5
#define NBD_OPT_INFO              6
#define NBD_OPT_GO                7
#define NBD_OPT_STRUCTURED_REPLY  8
#define NBD_OPT_LIST_META_CONTEXT 9
#define NBD_OPT_SET_META_CONTEXT  10
#define NBD_OPT_EXTENDED_HEADERS  11

/* "Option reply types" */
#define NBD_REP_ACK                 1u
#define NBD_REP_SERVER              2u
#define NBD_REP_INFO                3u
#define NBD_REP_META_CONTEXT        4u
#define NBD_REP_ERR_UNSUP           (0x80000000u + 1)
#define NBD_REP_ERR_POLICY          (0x80000000u + 2)
#define NBD_REP_ERR_INVALID         (0x80000000u + 3)
#define NBD_REP_ERR_TLS_REQD        (0x80000000u + 5)
#define NBD_REP_ERR_UNKNOWN         (0x80000000u + 6)
#define NBD_REP_ERR_SHUTDOWN        (0x80000000u + 7)
#define NBD_REP_ERR_TOO_BIG         (0x80000000u + 9)
#define NBD_REP_ERR_EXT_HEADER_REQD (0x80000000u + 10)

#define NBD_INFO_EXPORT          0
#define NBD_INFO_NAME            1
#define NBD_INFO_DESCRIPTION     2
#define NBD_INFO_BLOCK_SIZE      3
#define NBD_INFO_EXPORT_SIZE     12 /* with the type's two bytes */
#define NBD_INFO_BLOCK_SIZE_SIZE 14

/* "Request message", "Simple reply message", "Structured" and "Extended reply chunk message" */
#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_REQUEST_SIZE           28
#define NBD_SIMPLE_REPLY_SIZE      16
#define NBD_CHUNK_SIZE             20
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_EXTENDED_REPLY_MAGIC   0x6e8a278cu
#define NBD_EXTENDED_REQUEST_SIZE  32
#define NBD_EXTENDED_CHUNK_SIZE    32

/* "Command flags", "Request types" */
#define NBD_CMD_FLAG_FUA         (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE     (1u << 1)
#define NBD_CMD_FLAG_DF          (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE     (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO   (1u << 4)
#define NBD_CMD_FLAG_PAYLOAD_LEN (1u << 5)

#define NBD_CMD_READ         0
#define NBD_CMD_WRITE        1
#define NBD_CMD_DISC         2
#define NBD_CMD_FLUSH        3
#define NBD_CMD_TRIM         4
#define NBD_CMD_CACHE        5
#define NBD_CMD_WRITE_ZEROES 6
#define NBD_CMD_BLOCK_STATUS 7

/* "Structured reply flags", "Structured reply types" */
#define NBD_REPLY_FLAG_DONE             (1u << 0)
#define NBD_REPLY_TYPE_NONE             0
#define NBD_REPLY_TYPE_OFFSET_DATA      1
#define NBD_REPLY_TYPE_OFFSET_HOLE      2
#define NBD_REPLY_TYPE_BLOCK_STATUS     5
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT 6
#define NBD_REPLY_TYPE_ERROR            (0x8000u + 1)

/* "`base:allocation` metadata context" */
#define NBD_STATE_HOLE               (1u << 0)
#define NBD_STATE_ZERO               (1u << 1)
#define NBD_DESCRIPTOR_SIZE          8
#define NBD_CONTEXT_ID_SIZE          4
#define NBD_EXTENDED_DESCRIPTOR_SIZE 16
#define NBD_STATUS_LIST_SIZE         12 /* payload of a BLOCK_STATUS that names one context */
#define NBD_HOLE_SIZE                12 /* payload of OFFSET_HOLE */

/* "Error values" */
#define NBD_EPERM     1u
#define NBD_EIO       5u
#define NBD_ENOMEM    12u
#define NBD_EINVAL    22u
#define NBD_ENOSPC    28u
#define NBD_EOVERFLOW 75u
#define NBD_ENOTSUP   95u
#define NBD_ESHUTDOWN 108u

#endif
