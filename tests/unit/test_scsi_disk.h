/*
 * A target for SCSI unit tests: two nexuses on one loop of virtual time, LUN 0 a scripted volume.
 *
 *	disk_start(&(struct volume_script_options){.size = MIB});
 *	disk_ready(disk.nexus);                          takes the POWER ON attention away
 *	a = disk_command(disk.nexus, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 8), NULL, 0);
 *	assert_int_equal(a->status, SCSI_GOOD);          a->in, a->in_length, a->key, a->code
 *	disk_stop();
 */
#ifndef SLABD_TEST_SCSI_DISK_H
#define SLABD_TEST_SCSI_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block_driver.h"
#include "catalogue.h"
#include "limits.h"
#include "scsi/scsi.h"
#include "volume.h"
#include "../lib/loop_virtual.h"
#include "../lib/volume_script.h"

#define DISK_LUNS 4

extern struct disk {
	struct volume_script *script; /* NULL where the test brought a volume of its own */
	struct lun luns[DISK_LUNS];
	struct target target;
	struct portal portals[2];
	struct catalogue catalogue;
	struct scsi_nexus *nexus, *other;
	uint16_t portal_id; /* by which commands come: 2 */
} disk;

struct answer {
	uint8_t status;
	uint8_t key;   /* 0 without sense */
	uint16_t code; /* ASC << 8 | ASCQ */
	bool prepared; /* scsi_prepare() let it pass */
	uint64_t out_length, in_max;
	uint8_t sense[LIMIT_SCSI_SENSE];
	uint8_t sense_length;
	const uint8_t *in; /* good until the next command */
	size_t in_length;
};

#define CDB(...) ((const uint8_t[LIMIT_SCSI_CDB]){__VA_ARGS__})

void disk_start(const struct volume_script_options *options);
/* The volume's reference is taken over. */
void disk_start_volume(struct volume *volume);
/* A memory volume, to start with. */
struct volume *disk_memory_volume(const struct conf_volume *conf);
/* A driver that does nothing but be there, for any configuration; info is what its open() sets. */
struct volume *disk_plain_volume(const struct conf_volume *conf, const struct blk_info *info);
/* Another LUN of the same script; before the nexuses use it. The nexuses are made anew. */
void disk_add_lun(uint16_t number, struct volume *volume, bool read_only);
void disk_stop(void);

/* For cmocka: 16 MiB with a volatile cache and no unit attention left; and the end. */
int disk_setup(void **state);
int disk_teardown(void **state);

/* The script's bytes; its calls with an operation since the last forget. */
uint8_t *disk_medium(void);
unsigned disk_calls(enum blk_op op);

/* Runs to its end. LUN 0. */
const struct answer *
disk_command(struct scsi_nexus *nexus, const uint8_t *cdb, const void *out, size_t length);
const struct answer *disk_command_lun(struct scsi_nexus *nexus, const uint8_t lun[8],
	const uint8_t *cdb, const void *out, size_t length);

/* The same without waiting: the task of the last command, and whether done() was called. */
struct scsi_task *
disk_begin(struct scsi_nexus *nexus, const uint8_t *cdb, const void *out, size_t length);
bool disk_ended(void);
const struct answer *disk_end(void);

/* TEST UNIT READY until it is GOOD. */
void disk_ready(struct scsi_nexus *nexus);

/* Bytes of a CDB by its group code. SPC-4 4.2.5.1 */
unsigned disk_cdb_length(uint8_t opcode);

void assert_good(const struct answer *answer);
void assert_sense(const struct answer *answer, uint8_t key, unsigned code);
/* ILLEGAL REQUEST 24/00 whose field pointer names that byte. */
void assert_bad_cdb(const struct answer *answer, unsigned byte);

#endif
