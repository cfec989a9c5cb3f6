/*
 * One disk, two protocols: an NBD client and an iSCSI session that is not registered are fenced by
 * each type of persistent reservation and freed again; a reservation that is to survive does so
 * when the server is killed.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients.h"

#define KEY_ONE 0x1111

static struct server server;
static struct iscsi_context *holder, *stranger;
static struct nbd_handle *nbd;
static char state[4096];

static const struct {
	enum scsi_persistent_out_type type;
	const char *name;
	bool exclusive;
} types[] = {
	{SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE, "Write Exclusive", false},
	{SCSI_PERSISTENT_RESERVE_TYPE_EXCLUSIVE_ACCESS, "Exclusive Access", true},
	{SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
		"Write Exclusive, Registrants Only", false},
	{SCSI_PERSISTENT_RESERVE_TYPE_EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
		"Exclusive Access, Registrants Only", true},
	{SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE_ALL_REGISTRANTS,
		"Write Exclusive, All Registrants", false},
	{SCSI_PERSISTENT_RESERVE_TYPE_EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
		"Exclusive Access, All Registrants", true},
};

/* The status of a task, which is freed; -1: none came. */
static int
status(struct scsi_task *task)
{
	int code = task ? task->status : -1;

	if (task)
		scsi_free_scsi_task(task);
	return code;
}

static bool
reserve_out(struct iscsi_context *iscsi, enum scsi_persistent_out_sa action, unsigned type,
	uint64_t key, uint64_t action_key, bool survives)
{
	struct scsi_persistent_reserve_out_basic list = {.reservation_key = key,
		.service_action_reservation_key = action_key,
		.aptpl = survives};

	return status(iscsi_persistent_reserve_out_sync(iscsi, 0, (int)action,
		       SCSI_PERSISTENT_RESERVE_SCOPE_LU, (int)type, &list)) == SCSI_STATUS_GOOD;
}

static int
iscsi_read(struct iscsi_context *iscsi)
{
	return status(iscsi_read10_sync(iscsi, 0, 0, 512, 512, 0, 0, 0, 0, 0));
}

static int
iscsi_write(struct iscsi_context *iscsi)
{
	static unsigned char block[512];

	return status(iscsi_write10_sync(iscsi, 0, 0, block, 512, 512, 0, 0, 0, 0, 0));
}

/* 0 or the errno. */
static int
nbd_read(void)
{
	char data[512];

	return nbd_pread(nbd, data, sizeof(data), 0, 0) == 0 ? 0 : nbd_get_errno();
}

static int
nbd_write(void)
{
	static const char data[512];

	return nbd_pwrite(nbd, data, sizeof(data), 0, 0) == 0 ? 0 : nbd_get_errno();
}

static void
test_type(unsigned i)
{
	bool exclusive = types[i].exclusive;
	int read_status = exclusive ? SCSI_STATUS_RESERVATION_CONFLICT : SCSI_STATUS_GOOD;

	tap_ok(reserve_out(
		       holder, SCSI_PERSISTENT_RESERVE_RESERVE, types[i].type, KEY_ONE, 0, false),
		"%s: reserved", types[i].name);
	tap_ok(nbd_write() == EPERM, "%s: an NBD write is refused with EPERM", types[i].name);
	tap_ok(nbd_read() == (exclusive ? EPERM : 0), "%s: an NBD read is %s", types[i].name,
		exclusive ? "refused" : "served");
	tap_ok(nbd_flush(nbd, 0) == 0, "%s: an NBD flush is served", types[i].name);
	tap_ok(iscsi_write(stranger) == SCSI_STATUS_RESERVATION_CONFLICT &&
			iscsi_read(stranger) == read_status,
		"%s: so it is for a session that is not registered", types[i].name);
	tap_ok(iscsi_write(holder) == SCSI_STATUS_GOOD && iscsi_read(holder) == SCSI_STATUS_GOOD,
		"%s: the holder reads and writes", types[i].name);
	tap_ok(reserve_out(
		       holder, SCSI_PERSISTENT_RESERVE_RELEASE, types[i].type, KEY_ONE, 0, false),
		"%s: released", types[i].name);
	tap_ok(nbd_write() == 0 && nbd_read() == 0 && iscsi_write(stranger) == SCSI_STATUS_GOOD,
		"%s: and everybody is free", types[i].name);
}

static void
connect_clients(void)
{
	nbd = client_nbd(&server, "disk0");
	holder = client_iscsi(&server, "disk0", "iqn.2026-11.localhost.holder");
	stranger = client_iscsi(&server, "disk0", "iqn.2026-11.localhost.stranger");
	/* The attentions of new sessions. */
	while (status(iscsi_testunitready_sync(stranger, 0)) == SCSI_STATUS_CHECK_CONDITION)
		;
	while (status(iscsi_testunitready_sync(holder, 0)) == SCSI_STATUS_CHECK_CONDITION)
		;
}

static void
test_survives(const char *const *args)
{
	tap_ok(reserve_out(holder, SCSI_PERSISTENT_RESERVE_REGISTER, 0, KEY_ONE, KEY_ONE, true) &&
			reserve_out(holder, SCSI_PERSISTENT_RESERVE_RESERVE,
				SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE, KEY_ONE, 0, false),
		"a reservation that is to survive");
	server_stop(&server, SIGKILL);
	nbd_close(nbd);
	iscsi_destroy_context(holder);
	iscsi_destroy_context(stranger);
	server_start(&server, args);
	connect_clients();
	tap_ok(nbd_write() == EPERM, "after kill -9 an NBD write is refused");
	tap_ok(iscsi_write(stranger) == SCSI_STATUS_RESERVATION_CONFLICT,
		"and a session that is not registered");
	tap_ok(nbd_read() == 0, "an NBD read is served");
	/* Its ISID is new, so it is another initiator port: the key is known, and it registers again. */
	tap_ok(reserve_out(holder, SCSI_PERSISTENT_RESERVE_REGISTER_AND_IGNORE_EXISTING_KEY, 0, 0,
		       KEY_ONE + 1, true) &&
			reserve_out(holder, SCSI_PERSISTENT_RESERVE_PREEMPT,
				SCSI_PERSISTENT_RESERVE_TYPE_EXCLUSIVE_ACCESS, KEY_ONE + 1, KEY_ONE,
				false),
		"the host comes back and preempts itself");
	tap_ok(nbd_read() == EPERM && iscsi_write(holder) == SCSI_STATUS_GOOD,
		"which is in force at once");
	tap_ok(reserve_out(holder, SCSI_PERSISTENT_RESERVE_CLEAR, 0, KEY_ONE + 1, 0, false) &&
			nbd_write() == 0,
		"cleared: everybody is free");
}

int
main(void)
{
	static char option[] = "--state";
	const char *args[] = {option, state, "disk0=memory:16M", NULL};

	server_prepare(&server);
	snprintf(state, sizeof(state), "%s/state", server.dir);
	server_start(&server, args);
	connect_clients();
	tap_ok(reserve_out(holder, SCSI_PERSISTENT_RESERVE_REGISTER, 0, 0, KEY_ONE, false),
		"registered");
	for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		test_type(i);
	test_survives(args);
	nbd_close(nbd);
	client_iscsi_close(holder);
	client_iscsi_close(stranger);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
