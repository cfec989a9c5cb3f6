/*
 * LOGICAL UNIT RESET by one session while another one's task is with a disk that does not answer: what can
 * be taken back is, and the answer is "complete"; what the disk keeps is waited for 10 s, then the
 * answer is 255 and the task ends as it does.
 */
#include "config.h"

#include <poll.h>
#include <signal.h>
#include <string.h>

#include "clients.h"

static struct server server;
static char out[4096];

/* Of the task under way. */
static bool ended;
static int ended_status;

static void
note_end(struct iscsi_context *iscsi, int status, void *data, void *arg)
{
	(void)iscsi;
	(void)data;
	(void)arg;
	ended = true;
	ended_status = status;
}

/* Sends what is queued, and takes what comes within so many ms. */
static void
serve(struct iscsi_context *iscsi, int ms)
{
	struct pollfd fd = {.fd = iscsi_get_fd(iscsi)};

	for (int waited = 0; waited <= ms && !ended; waited += 20) {
		fd.events = (short)iscsi_which_events(iscsi);
		if (poll(&fd, 1, 20) > 0 && iscsi_service(iscsi, fd.revents) < 0)
			tap_bail("libiscsi: %s", iscsi_get_error(iscsi));
	}
}

/* How many requests the volume's first rule has chosen. */
static bool
injected(const char *count)
{
	return server_ctl(&server, out, sizeof(out),
		       "--json fault disk | jq -r '.rules[0].injected'") == 0 &&
	       strncmp(out, count, strlen(count)) == 0;
}

static void
begin(struct iscsi_context *iscsi, bool write)
{
	static unsigned char data[512];
	struct scsi_task *task;

	ended = false;
	task = write ? iscsi_write10_task(
			       iscsi, 0, 0, data, 512, 512, 0, 0, 0, 0, 0, note_end, NULL)
		     : iscsi_read10_task(iscsi, 0, 0, 512, 512, 0, 0, 0, 0, 0, note_end, NULL);
	if (!task)
		tap_bail("libiscsi: %s", iscsi_get_error(iscsi));
	for (unsigned i = 0; i < 500 && !injected("1"); i++)
		serve(iscsi, 20);
}

static bool
clear_attention(struct iscsi_context *iscsi)
{
	int status = -1;

	for (unsigned i = 0; i < 4 && status != SCSI_STATUS_GOOD; i++) {
		struct scsi_task *task = iscsi_testunitready_sync(iscsi, 0);

		if (!task)
			return false;
		status = task->status;
		scsi_free_scsi_task(task);
	}
	return status == SCSI_STATUS_GOOD;
}

int
main(void)
{
	const char *arguments[] = {"disk=memory:16M", "--allow-faults", "--loops", "2", NULL};
	struct iscsi_context *one, *other;

	server_prepare(&server);
	server_start(&server, arguments);
	one = client_iscsi(&server, "disk", "iqn.2026-11.test:one");
	other = client_iscsi(&server, "disk", "iqn.2026-11.test:other");
	tap_ok(clear_attention(one) && clear_attention(other), "two sessions");

	tap_ok(server_ctl(&server, out, sizeof(out), "fault disk set read latency=60s") == 0,
		"a disk that does not answer reads");
	begin(one, false);
	tap_ok(injected("1") && !ended, "a read is with it");
	tap_ok(iscsi_task_mgmt_lun_reset_sync(other, 0) == 0,
		"it is taken back: the other session's reset is complete");
	serve(one, 100);
	tap_ok(!ended, "and it has no status");
	tap_ok(server_ctl(&server, out, sizeof(out), "fault disk clear") == 0 &&
			clear_attention(one) && clear_attention(other),
		"both sessions go on");

	tap_ok(server_ctl(&server, out, sizeof(out), "fault disk set write latency=14s late=on") ==
			0,
		"a disk that writes, and says so late");
	begin(one, true);
	tap_ok(injected("1") && !ended, "a write is with it");
	tap_ok(iscsi_task_mgmt_lun_reset_sync(other, 0) != 0,
		"it is not taken back: FUNCTION REJECTED");
	serve(one, (int)patience_seconds(30) * 1000);
	tap_ok(ended && ended_status == SCSI_STATUS_GOOD, "and it ends as it would have");

	client_iscsi_close(one);
	client_iscsi_close(other);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
