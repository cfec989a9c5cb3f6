/*
 * An initiator in the test's hand, over a pipe, and the target it talks to: the true iSCSI and SCSI
 * layers over a scripted volume on virtual loops. Its wire code is its own: a mistake in the
 * target's does not hide itself.
 */
#ifndef TEST_ISCSI_PEER_H
#define TEST_ISCSI_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "catalogue.h"
#include "check.h"
#include "frontend.h"
#include "iobuf.h"
#include "iscsi/iscsi_wire.h"
#include "limits.h"
#include "loop_virtual.h"
#include "stream_pipe.h"
#include "volume_script.h"

#define WORLD_SIZE   (8 * MIB)
#define WORLD_TARGET "iqn.2026-11.localhost.slabd:disk0"
#define WORLD_OTHER  "iqn.2026-11.localhost.slabd:other"
#define PEER_NAME    "iqn.2026-11.test:peer"

struct world {
	struct volume_script *script;
	struct lun luns[1];
	struct target targets[2];
	struct portal portals[2];
	struct catalogue catalogue;
};
extern struct world world;

/* options may be NULL; the size is WORLD_SIZE, loops 2. */
int world_start(void **state);
void world_start_with(const struct volume_script_options *options);
/* Checks that nothing of any connection is left. */
int world_stop(void **state);
unsigned world_connections(unsigned loop);

struct pdu {
	uint8_t bhs[ISCSI_BHS];
	size_t length;
	uint8_t data[512 * 1024];
};

struct peer {
	struct stream_pipe *pipe;
	uint8_t bhs[ISCSI_BHS]; /* of the PDU to be sent */
	uint32_t itt, cmdsn, statsn;
	uint8_t isid[6];
	uint16_t tsih, cid;
	bool header_digest, data_digest;
	bool spoil_header, spoil_data; /* the next PDU's digest */
	const char *name;
};

struct peer *peer_new(unsigned loop);
/* Logged in with these keys (may be NULL), without unit attention; on loop 0. */
struct peer *peer_session(const char *keys);
/* One more connection in the other's session, on a loop of its own choice. */
struct peer *peer_join(const struct peer *other, unsigned loop, uint16_t cid);
/* Hangs up if need be. */
void peer_free(struct peer *peer);
bool peer_open(const struct peer *peer);

/* A zeroed header with opcode, F and the next ITT; CmdSN and ExpStatSN as they are due. */
uint8_t *peer_start(struct peer *peer, enum iscsi_opcode opcode);
/* Sends it with its data; CmdSN moves on unless it is immediate or a Data-Out. */
void peer_send(struct peer *peer, const void *data, size_t length);
/* The PDU's bytes instead of sending it. */
size_t peer_compose(struct peer *peer, const void *data, size_t length, uint8_t *out);

/* Runs the loops and takes the next PDU; false where there is none. Digests and padding are
 * checked. */
bool peer_try(struct peer *peer, struct pdu *pdu);
/* The same, and it is of that kind. The PDU is good until the next call. */
struct pdu *peer_expect(struct peer *peer, enum iscsi_opcode opcode);
void peer_expect_nothing(struct peer *peer);
void peer_expect_closed(struct peer *peer);

/* Text with \n for NUL, for people. */
size_t text_of(const char *lines, uint8_t *out);
bool text_is(const struct pdu *pdu, const char *lines);
bool text_has(const struct pdu *pdu, const char *line);

/* One Login Request with that byte 1; its response's status, or -1 where none came. */
int peer_login_step(struct peer *peer, uint8_t flags, const char *lines, struct pdu *response);
/* Straight to the full feature phase in one PDU; more is added to the names. */
void peer_login(struct peer *peer, const char *more);
void peer_discover(struct peer *peer);

/* Starts a SCSI command on LUN 0: flags are R and W. */
uint8_t *
peer_command(struct peer *peer, uint8_t flags, uint32_t edtl, const void *cdb, size_t length);
uint8_t *peer_read10(struct peer *peer, uint32_t lba, uint16_t blocks);
uint8_t *peer_write10(struct peer *peer, uint32_t lba, uint16_t blocks);
/* A new nexus has unit attentions; this takes them away. */
void peer_clear_attention(struct peer *peer);
/* The status of the SCSI Response that comes. */
int peer_status(struct peer *peer);
/* Data-Out answering an R2T or, with ttt none, unsolicited, in PDUs of at most `segment`. */
void peer_data_out(struct peer *peer, uint32_t itt, uint32_t ttt, const uint8_t *data,
	size_t offset, size_t length, size_t segment);

uint32_t peer_crc(const void *data, size_t length);
void fill_pattern(uint8_t *data, size_t length, unsigned seed);

#endif
