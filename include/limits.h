/*
 * Every bound there is (promises section 1). Bytes and nanoseconds unless named. Included as "limits.h";
 * the system's header of that name is <limits.h>.
 */
#ifndef SLABD_LIMITS_H
#define SLABD_LIMITS_H

#include <stdint.h>

#define KIB ((uint64_t)1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)
#define PIB (TIB * 1024)

#define SECOND_NS ((uint64_t)1000000000)
#define MS_NS     ((uint64_t)1000000)

/* Runtime */
#define LIMIT_LOOPS            64                  /* serving loops; the main loop is one more */
#define LIMIT_RECV_BUFFER      (256 * 1024)        /* one per loop */
#define LIMIT_MAGAZINE_OBJECTS 64
#define LIMIT_MAGAZINE_BYTES   (256 * 1024)
#define LIMIT_SEND_IOV         512                 /* pieces gathered into one sendmsg */
#define LIMIT_DIRECT_RECV      (16 * 1024)         /* a remainder above this is read in place */

/* I/O buffers */
#define LIMIT_IOBUF_PIECE  (1024 * 1024)
#define LIMIT_IOBUF_PIECES 33                      /* a 32 MiB payload and an unaligned start */
#define LIMIT_IOBUF_SHARE  (256 * 1024 * 1024)     /* each loop's budget */
#define LIMIT_IOBUF_CLIENT (LIMIT_IOBUF_SHARE / 4) /* one client's part of it */

/* Block layer */
#define LIMIT_VOLUME_NAME   64
#define LIMIT_VOLUME_SIZE   ((uint64_t)1 << 60)
#define LIMIT_INLINE_BYTES  (1024 * 1024) /* copied in one turn for one request */
#define LIMIT_INLINE_CHUNKS 128           /* chunks freed in one turn for one request */
#define LIMIT_VOLUME_WORKS  8             /* workers that one volume may occupy */
#define LIMIT_URING_DEPTH   128           /* requests of one volume in one loop's io_uring */
#define LIMIT_FAULT_RULES   16          /* of one volume */
#define LIMIT_FREEZE_WAIT   (10 * SECOND_NS)
#define LIMIT_RESERVATIONS  128 /* nexuses registered with one volume */

/* NBD */
#define LIMIT_NBD_PAYLOAD       (32 * 1024 * 1024)
#define LIMIT_NBD_STRING        4096 /* proto.md "Conventions" */
#define LIMIT_NBD_OPTION        (64 * 1024)
#define LIMIT_NBD_OPTIONS       64
#define LIMIT_NBD_QUERIES       64
#define LIMIT_NBD_IN_FLIGHT     1024 /* requests of one connection */
#define LIMIT_NBD_CHUNK         (256 * 1024) /* of data in an answer to READ, unless it asks for one piece */
#define LIMIT_NBD_EXTENTS       1024 /* extents in one BLOCK_STATUS reply */
#define LIMIT_NBD_HANDSHAKE     (10 * SECOND_NS)
#define LIMIT_NBD_LEFTOVER      (16 * 1024 * 1024) /* bytes that a loop keeps unparsed; above it ... */
#define LIMIT_NBD_SMALL_READ    4096               /* ... so many are received at once */
#define LIMIT_NBD_LINGER        (2 * SECOND_NS) /* for a peer to see the end, before it is closed */
#define LIMIT_NBD_LINGER_BYTES  (32 * 1024 * 1024)

/* TLS */
#define LIMIT_TLS_FILE         (1024 * 1024)
#define LIMIT_TLS_PSK_IDENTITY 128
#define LIMIT_TLS_PSK_KEY_MIN  16          /* RFC 9257 4: at least 128 bits */
#define LIMIT_TLS_PSK_KEY      64
#define LIMIT_TLS_CHAIN        (24 * 1024) /* a client's certificates (R04) */
#define LIMIT_TLS_INPUT        (16 * 1024) /* ciphertext kept for a later read */
#define LIMIT_TLS_OUTPUT       (36 * 1024) /* two records and alerts, kept until the socket takes them */

/* iSCSI and SCSI */
#define LIMIT_ISCSI_NAME        223 /* RFC 7143 4.2.7.1 */
#define LIMIT_ISCSI_LOGIN_PDU   8192
#define LIMIT_ISCSI_TEXT        (16 * 1024)
#define LIMIT_ISCSI_KEY         63
#define LIMIT_ISCSI_VALUE       255
#define LIMIT_ISCSI_BINARY      1024          /* bytes of a binary value: RFC 7143 6.1 */
#define LIMIT_ISCSI_UNKNOWN     32
#define LIMIT_ISCSI_RECV        (256 * 1024)  /* our MaxRecvDataSegmentLength */
#define LIMIT_ISCSI_BURST       (1024 * 1024) /* MaxBurstLength */
#define LIMIT_ISCSI_FIRST_BURST (256 * 1024)
#define LIMIT_ISCSI_R2TS        8             /* our MaxOutstandingR2T */
#define LIMIT_ISCSI_RANGES      64            /* of a write's data that comes in any order */
#define LIMIT_ISCSI_WINDOW      128           /* commands: MaxCmdSN - ExpCmdSN + 1 */
#define LIMIT_ISCSI_WINDOW_PRESSED 16         /* ... while memory is short */
#define LIMIT_ISCSI_LOGIN       (15 * SECOND_NS)
#define LIMIT_ISCSI_LOGIN_PDUS  8
#define LIMIT_ISCSI_REPLIES     1024          /* queued on a connection before it reads no more */
#define LIMIT_ISCSI_CONNECTIONS 8             /* of a session: our MaxConnections */
#define LIMIT_ISCSI_EVENTS      16            /* asynchronous SCSI events of a session in a second */
#define LIMIT_ISCSI_TASKS       256           /* of a session, immediate ones included */
#define LIMIT_ISCSI_TMFS        16            /* task management functions that wait for tasks */
#define LIMIT_ISCSI_ABORT       LIMIT_SCSI_ABORT /* task management waits so long for tasks */
#define LIMIT_ISCSI_LOGOUT      (3 * SECOND_NS)  /* for an initiator that is asked to log out */
#define LIMIT_ISCSI_SILENCE     (60 * SECOND_NS) /* nothing heard: the target pings */
#define LIMIT_ISCSI_PING        (30 * SECOND_NS) /* ... and nothing still: the connection is lost */
#define LIMIT_SCSI_TRANSFER     (32 * 1024 * 1024) /* VPD B0 MAXIMUM TRANSFER LENGTH */
#define LIMIT_SCSI_CDB          16
#define LIMIT_SCSI_SENSE        252
#define LIMIT_SCSI_LUNS         16384 /* of a target: flat space addressing. SAM-5 4.7.7.3 */
#define LIMIT_SCSI_NEXUSES      1024 /* that were lost and are remembered: they hear of it */
#define LIMIT_SCSI_UNMAP        256 /* descriptors in one UNMAP */
#define LIMIT_SCSI_NAMED        16 /* initiator ports in one PERSISTENT RESERVE OUT */
#define LIMIT_SCSI_COPIES        16 /* EXTENDED COPYs of a nexus and unit, running or remembered */
#define LIMIT_SCSI_COPY_TARGETS  16 /* CSCD descriptors in one */
#define LIMIT_SCSI_COPY_SEGMENTS 64
#define LIMIT_SCSI_COPY_LIST     (32 * (LIMIT_SCSI_COPY_TARGETS + LIMIT_SCSI_COPY_SEGMENTS))
#define LIMIT_SCSI_COPY_SEGMENT  (256 * 1024 * 1024)
#define LIMIT_SCSI_ABORT        (10 * SECOND_NS) /* other nexuses have so long to end tasks */
#define LIMIT_SCSI_SANITIZE      (15 * SECOND_NS) /* an overwrite takes at least so long */
#define LIMIT_SCSI_WRITE_SAME   (4 * GIB)

/* Peers */
#define LIMIT_PARTIAL_IDLE   (30 * SECOND_NS) /* a partial request or PDU without progress */
#define LIMIT_PARTIAL_WINDOW (10 * SECOND_NS) /* ... or with less progress than this in so long */
#define LIMIT_PARTIAL_BYTES  (64 * 1024)
#define LIMIT_OUTPUT_STALL   (60 * SECOND_NS)
#define LIMIT_DRAIN          (10 * SECOND_NS)
#define LIMIT_CONNECTIONS    1024
#define LIMIT_STRANGERS      256 /* connections of one address before authentication */
#define LIMIT_CONTROL_LINE   (64 * 1024)

/* The daemon */
#define LIMIT_CONNECTIONS_MAX  16384 /* that may be configured */
#define LIMIT_CONFIG_FILE      (1024 * 1024)
#define LIMIT_LISTENERS        64 /* sockets, NBD's and iSCSI's together */
#define LIMIT_ACCEPTS          64 /* connections taken from one listener in a turn */
#define LIMIT_CONTROL_CLIENTS  32
#define LIMIT_REMOVE_WAIT      (10 * SECOND_NS) /* for the clients of a volume that is taken away */
#define LIMIT_CLIENTS_KEPT     16384 /* of a volume, with those who left and are not rested (qos) */

_Static_assert(LIMIT_IOBUF_CLIENT >= LIMIT_NBD_PAYLOAD, "one largest NBD request must fit a client");
_Static_assert(LIMIT_IOBUF_CLIENT >= LIMIT_SCSI_TRANSFER, "one largest SCSI command must fit a client");
_Static_assert(LIMIT_IOBUF_PIECES > LIMIT_NBD_PAYLOAD / LIMIT_IOBUF_PIECE, "pieces for a payload");
_Static_assert(LIMIT_RECV_BUFFER <= LIMIT_INLINE_BYTES,
	"a write lent from the receive buffer must finish in one turn");
/* Or connections that keep bytes and wait for memory could wait for each other. */
_Static_assert(LIMIT_IOBUF_SHARE / 2 + LIMIT_NBD_LEFTOVER + LIMIT_RECV_BUFFER +
		LIMIT_NBD_SMALL_READ * LIMIT_CONNECTIONS_MAX + LIMIT_NBD_PAYLOAD <= LIMIT_IOBUF_SHARE,
	"a largest request fits beside all that is kept");
_Static_assert(LIMIT_ISCSI_FIRST_BURST <= LIMIT_ISCSI_BURST, "RFC 7143 13.14");

#endif
