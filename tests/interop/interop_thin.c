/*
 * A memory volume of 100 GiB that may take 1 GiB: beyond it writes are refused, by NBD with ENOSPC and by
 * iSCSI with DATA PROTECT 27/07, and nothing else is; what TRIM or UNMAP gives back can be written again,
 * through either.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "clients.h"

#define MIB    ((uint64_t)1 << 20)
#define STRIDE (90 * MIB)
#define LIMIT  1024 /* MiB */

static struct server server;
static struct nbd_handle *nbd;
static struct iscsi_context *iscsi;
static uint8_t data[MIB], have[MIB];

/* The i-th MiB that is written: 0, or the errno. */
static int
write_nbd(unsigned i)
{
	memset(data, (int)(i % 255 + 1), sizeof(data));
	return nbd_pwrite(nbd, data, sizeof(data), i * STRIDE, 0) < 0 ? nbd_get_errno() : 0;
}

static bool
holds(unsigned i)
{
	memset(data, (int)(i % 255 + 1), sizeof(data));
	return nbd_pread(nbd, have, sizeof(have), i * STRIDE, 0) == 0 &&
	       memcmp(have, data, sizeof(have)) == 0;
}

/* 0: GOOD; else key << 16 | ASC << 8 | ASCQ; -1: neither. */
static int
write_iscsi(unsigned i)
{
	struct scsi_task *task;
	int result = -1;

	memset(data, (int)(i % 255 + 1), sizeof(data));
	task = iscsi_write16_sync(
		iscsi, 0, i * STRIDE / 512, data, sizeof(data), 512, 0, 0, 0, 0, 0);
	if (task && task->status == SCSI_STATUS_GOOD)
		result = 0;
	else if (task && task->status == SCSI_STATUS_CHECK_CONDITION)
		result = (int)task->sense.key << 16 | task->sense.ascq;
	if (task)
		scsi_free_scsi_task(task);
	return result;
}

static bool
unmap_iscsi(unsigned i)
{
	struct unmap_list list = {.lba = i * STRIDE / 512, .num = MIB / 512};
	struct scsi_task *task = iscsi_unmap_sync(iscsi, 0, 0, 0, &list, 1);
	bool good = task && task->status == SCSI_STATUS_GOOD;

	if (task)
		scsi_free_scsi_task(task);
	return good;
}

int
main(void)
{
	const char *args[] = {"disk0=memory:100G,limit=1G", NULL};
	unsigned written = 0, wrong = 0;
	int error = 0, sense;

	server_prepare(&server);
	server_start(&server, args);
	nbd = client_nbd(&server, "disk0");
	iscsi = client_iscsi(&server, "disk0", "thin");
	tap_ok(nbd_get_size(nbd) == 100 * 1024 * (int64_t)MIB, "100 GiB are offered");
	while (written <= LIMIT && !(error = write_nbd(written)))
		written++;
	tap_ok(written == LIMIT, "%u MiB can be written", written);
	tap_ok(error == ENOSPC, "one more is refused by NBD with ENOSPC (%s)", strerror(error));
	sense = write_iscsi(LIMIT);
	tap_ok(sense == 0x063807, "iSCSI is told first that a soft threshold was passed (%06x)",
		(unsigned)sense);
	sense = write_iscsi(LIMIT);
	tap_ok(sense == 0x072707, "and by iSCSI with DATA PROTECT 27/07 (%06x)", (unsigned)sense);
	tap_ok(write_nbd(3) == 0 && write_iscsi(4) == 0, "what has its memory is written");
	for (unsigned i = 0; i < LIMIT; i += 17)
		wrong += !holds(i);
	tap_ok(wrong == 0, "everything is still there");

	tap_ok(nbd_trim(nbd, MIB, 10 * STRIDE, 0) == 0, "a MiB is trimmed over NBD");
	tap_ok(write_iscsi(LIMIT) == 0 && holds(LIMIT), "and another one written over iSCSI");
	tap_ok(write_nbd(LIMIT + 1) == ENOSPC, "but no second one");
	tap_ok(unmap_iscsi(20), "a MiB is unmapped over iSCSI");
	tap_ok(write_nbd(LIMIT + 1) == 0 && holds(LIMIT + 1), "and another one written over NBD");
	sense = write_iscsi(LIMIT + 2);
	tap_ok(sense == 0x072707, "but no second one (%06x)", (unsigned)sense);
	nbd_close(nbd);
	client_iscsi_close(iscsi);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
