/* libiscsi as an initiator: discovery, sessions, the SCSI commands that a disk needs, task
 * management. */
#include "config.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "clients.h"

#define SIZE   (64 * 1024 * 1024)
#define TARGET "iqn.2026-11.localhost.slabd:disk0"

static struct server server;
static struct iscsi_context *iscsi;
static uint8_t data[1024 * 1024];

/* Frees the task. */
static bool
good(struct scsi_task *task)
{
	bool is_good = task && task->status == SCSI_STATUS_GOOD;

	if (!is_good)
		tap_note("%s", iscsi_get_error(iscsi));
	if (task)
		scsi_free_scsi_task(task);
	return is_good;
}

/* Frees the task. True when it ended with this sense: key << 16 | ASC and ASCQ. */
static bool
refused(struct scsi_task *task, unsigned key, int ascq)
{
	bool is = task && task->status == SCSI_STATUS_CHECK_CONDITION && task->sense.key == key &&
		  task->sense.ascq == ascq;

	if (task && !is)
		tap_note("status %d, sense %x/%04x", task->status, task->sense.key,
			task->sense.ascq);
	if (task)
		scsi_free_scsi_task(task);
	return is;
}

static bool
reads(uint64_t offset, uint32_t length, const uint8_t *want)
{
	struct scsi_task *task =
		iscsi_read16_sync(iscsi, 0, offset / 512, length, 512, 0, 0, 0, 0, 0);
	bool same = task && task->status == SCSI_STATUS_GOOD && task->datain.size == (int)length;

	for (uint32_t i = 0; same && i < length; i++)
		same = task->datain.data[i] == (want ? want[i] : 0);
	if (task)
		scsi_free_scsi_task(task);
	return same;
}

static void
test_discovery(void)
{
	struct iscsi_context *context = iscsi_create_context("iqn.2026-11.localhost.scout");
	struct iscsi_discovery_address *list, *entry;
	unsigned targets = 0;

	if (!context || iscsi_set_session_type(context, ISCSI_SESSION_DISCOVERY) ||
		iscsi_connect_sync(context, server.iscsi) || iscsi_login_sync(context))
		tap_bail("discovery: %s", context ? iscsi_get_error(context) : "no memory");
	list = iscsi_discovery_sync(context);
	for (entry = list; entry; entry = entry->next) {
		targets += !strcmp(entry->target_name, TARGET);
		targets += !strcmp(entry->target_name, "iqn.2026-11.localhost.slabd:web");
		tap_note("%s at %s", entry->target_name,
			entry->portals ? entry->portals->portal : "no portal");
	}
	tap_ok(targets == 2, "discovery finds both targets");
	iscsi_free_discovery_data(context, list);
	client_iscsi_close(context);
	context = client_iscsi_try(&server, "nobody", "a", ISCSI_HEADER_DIGEST_NONE);
	tap_ok(!context, "a login to an unknown target is refused");
}

static bool
has_page(uint8_t page)
{
	struct scsi_task *task = iscsi_inquiry_sync(iscsi, 0, 1, page, 255);
	bool is = task && task->status == SCSI_STATUS_GOOD && task->datain.size >= 4 &&
		  task->datain.data[1] == page;

	if (task)
		scsi_free_scsi_task(task);
	return is;
}

static void
test_identity(void)
{
	static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};
	struct scsi_readcapacity16 *capacity;
	struct scsi_inquiry_standard *inquiry;
	struct scsi_task *task;
	bool all = true;

	tap_ok(good(iscsi_testunitready_sync(iscsi, 0)), "TEST UNIT READY");
	task = iscsi_inquiry_sync(iscsi, 0, 0, 0, 255);
	inquiry = task ? scsi_datain_unmarshall(task) : NULL;
	tap_ok(inquiry &&
			inquiry->device_type == SCSI_INQUIRY_PERIPHERAL_DEVICE_TYPE_DIRECT_ACCESS &&
			inquiry->version == 6 && inquiry->cmdque,
		"INQUIRY: a disk, SPC-4, command queueing");
	if (task)
		scsi_free_scsi_task(task);
	for (size_t i = 0; i < sizeof(pages); i++)
		all = has_page(pages[i]) && all;
	tap_ok(all, "VPD pages 00 80 83 B0 B1 B2");
	tap_ok(refused(iscsi_inquiry_sync(iscsi, 0, 1, 0x7f, 255), 5, 0x2400),
		"another VPD page: 24/00");
	task = iscsi_readcapacity16_sync(iscsi, 0);
	capacity = task ? scsi_datain_unmarshall(task) : NULL;
	tap_ok(capacity && capacity->returned_lba == SIZE / 512 - 1 &&
			capacity->block_length == 512 && capacity->lbpme && capacity->lbprz,
		"READ CAPACITY(16): size, thin, unmapped reads as zeroes");
	if (task)
		scsi_free_scsi_task(task);
	tap_ok(good(iscsi_readcapacity10_sync(iscsi, 0, 0, 0)), "READ CAPACITY(10)");
	tap_ok(good(iscsi_reportluns_sync(iscsi, 0, 64)), "REPORT LUNS");
	tap_ok(good(iscsi_modesense6_sync(iscsi, 0, 0, SCSI_MODESENSE_PC_CURRENT,
		       SCSI_MODEPAGE_RETURN_ALL_PAGES, 0, 255)),
		"MODE SENSE(6)");
	tap_ok(good(iscsi_modesense10_sync(
		       iscsi, 0, 0, 0, SCSI_MODESENSE_PC_CURRENT, SCSI_MODEPAGE_CACHING, 0, 255)),
		"MODE SENSE(10), caching page");
	tap_ok(good(iscsi_startstopunit_sync(iscsi, 0, 0, 0, 0, 0, 0, 1)), "START STOP UNIT");
}

static void
test_read_write(void)
{
	uint32_t big = sizeof(data);

	tap_ok(good(iscsi_write10_sync(iscsi, 0, 8, data, 4096, 512, 0, 0, 0, 0, 0)) &&
			reads(4096, 4096, data),
		"WRITE(10)");
	tap_ok(good(iscsi_write12_sync(iscsi, 0, 16, data + 1, 4096, 512, 0, 0, 0, 0, 0)) &&
			reads(8192, 4096, data + 1),
		"WRITE(12)");
	tap_ok(good(iscsi_write16_sync(iscsi, 0, 2048, data, big, 512, 0, 1, 0, 0, 0)) &&
			reads(1 << 20, big, data),
		"WRITE(16) of 1 MiB with FUA: immediate and solicited data");
	tap_ok(good(iscsi_read6_sync(iscsi, 0, 8, 4096, 512)) &&
			good(iscsi_read10_sync(iscsi, 0, 8, 4096, 512, 0, 0, 0, 0, 0)) &&
			good(iscsi_read12_sync(iscsi, 0, 8, 4096, 512, 0, 0, 0, 0, 0)),
		"READ(6), READ(10), READ(12)");
	tap_ok(good(iscsi_synchronizecache10_sync(iscsi, 0, 0, 0, 0, 0)) &&
			good(iscsi_synchronizecache16_sync(iscsi, 0, 0, 0, 0, 0)),
		"SYNCHRONIZE CACHE(10) and (16)");
	tap_ok(refused(iscsi_read16_sync(iscsi, 0, SIZE / 512, 512, 512, 0, 0, 0, 0, 0), 5, 0x2100),
		"READ past the end: 21/00");
	tap_ok(refused(iscsi_write16_sync(iscsi, 0, SIZE / 512 - 1, data, 4096, 512, 0, 0, 0, 0, 0),
		       5, 0x2100),
		"WRITE past the end: 21/00");
	tap_ok(good(iscsi_testunitready_sync(iscsi, 0)), "and the session is in order");
}

static void
test_provisioning(void)
{
	struct unmap_list list[2] = {{.lba = 2048, .num = 128}, {.lba = 2304, .num = 64}};
	uint8_t zeroes[512] = {0};

	tap_ok(good(iscsi_unmap_sync(iscsi, 0, 0, 0, list, 2)) && reads(2048 * 512, 65536, NULL) &&
			reads(2304 * 512, 32768, NULL) && reads(2176 * 512, 65536, data + 65536),
		"UNMAP of two ranges, and only these");
	list[1].lba = SIZE / 512;
	list[0] = (struct unmap_list){.lba = 2176, .num = 8};
	tap_ok(refused(iscsi_unmap_sync(iscsi, 0, 0, 0, list, 2), 5, 0x2100) &&
			reads(2176 * 512, 4096, data + 65536),
		"UNMAP past the end: 21/00, and nothing is done");
	tap_ok(good(iscsi_writesame10_sync(iscsi, 0, 4096, data, 512, 64, 0, 0, 0, 0)) &&
			reads((4096 + 63) * 512, 512, data),
		"WRITE SAME(10)");
	tap_ok(good(iscsi_writesame16_sync(iscsi, 0, 4096, zeroes, 512, 64, 0, 1, 0, 0)) &&
			reads(4096 * 512, 32768, NULL),
		"WRITE SAME(16) with UNMAP");
}

static void
count_done(struct iscsi_context *context, int status, void *command_data, void *private_data)
{
	unsigned *done = private_data;

	(void)context;
	(void)command_data;
	(void)status;
	++*done;
}

static void
task_done(struct iscsi_context *context, int status, void *command_data, void *private_data)
{
	count_done(context, status, command_data, private_data);
	scsi_free_scsi_task(command_data);
}

static bool
run_until(unsigned *done, unsigned wanted)
{
	double end = seconds_now() + patience_seconds(30);

	while (*done < wanted && seconds_now() < end) {
		struct pollfd poller = {
			.fd = iscsi_get_fd(iscsi), .events = (short)iscsi_which_events(iscsi)};

		if (poll(&poller, 1, 1000) < 0 || iscsi_service(iscsi, poller.revents) < 0)
			return false;
	}
	return *done >= wanted;
}

static void
test_tasks(void)
{
	unsigned done = 0, asked = 0;
	struct scsi_task *task;

	for (; asked < 64; asked++) {
		task = iscsi_read16_task(
			iscsi, 0, asked * 8, 4096, 512, 0, 0, 0, 0, 0, task_done, &done);
		if (!task)
			tap_bail("read: %s", iscsi_get_error(iscsi));
	}
	tap_ok(run_until(&done, asked), "64 reads in flight");
	done = 0;
	tap_ok(!iscsi_nop_out_async(iscsi, count_done, data, 100, &done) && run_until(&done, 1),
		"NOP");
	tap_ok(iscsi_task_mgmt_abort_task_set_sync(iscsi, 0) == 0, "ABORT TASK SET");
	tap_ok(iscsi_task_mgmt_lun_reset_sync(iscsi, 0) == 0, "LOGICAL UNIT RESET");
	/* Its own reset may be told to the nexus that asked, once. */
	task = iscsi_testunitready_sync(iscsi, 0);
	if (task)
		scsi_free_scsi_task(task);
	tap_ok(good(iscsi_testunitready_sync(iscsi, 0)), "and the LUN is ready");
	tap_ok(iscsi_task_mgmt_lun_reset_sync(iscsi, 5) != 0,
		"LOGICAL UNIT RESET of a missing LUN");
}

/*
 * libiscsi may send the request to abort before the command itself. "Function complete" says that
 * the task has no status any more; any other answer leaves it to be answered.
 */
static void
test_abort_task(void)
{
	static unsigned
		done; /* a task that was aborted is called back when the session is closed */
	struct scsi_task *task =
		iscsi_read16_task(iscsi, 0, 0, 65536, 512, 0, 0, 0, 0, 0, task_done, &done);
	bool complete = task && iscsi_task_mgmt_abort_task_sync(iscsi, task) == 0;
	unsigned before = done;

	tap_ok(good(iscsi_testunitready_sync(iscsi, 0)),
		"the session is in order after ABORT TASK");
	tap_ok(complete ? done == before : run_until(&done, 1), "ABORT TASK: %s, and %s",
		complete ? "function complete" : "no such task yet",
		complete ? "no status after that" : "the task is answered");
}

/* One volume behind CHAP, one-way or mutual. */
static void
start_guarded(void)
{
	static char config[160];
	const char *args[] = {"-c", config, NULL};
	FILE *file;

	snprintf(config, sizeof(config), "%s/chap.yaml", server.dir);
	file = fopen(config, "we");
	if (!file)
		tap_bail("%s", config);
	fprintf(file,
		"volumes:\n  disk0: {backend: memory, size: 64M}\niscsi:\n  targets:\n    " TARGET
		":\n      luns: {0: disk0}\n"
		"      chap: [{user: alice, secret: open sesame 1}]\n"
		"      mutual_chap: {user: target, secret: open sesame 2}\n");
	fclose(file);
	chmod(config, 0600);
	server_start(&server, args);
}

/* A session with CHAP and header digests; NULL where it is refused. */
static struct iscsi_context *
log_in(const char *user, const char *secret, const char *target_secret)
{
	struct iscsi_context *context = iscsi_create_context("iqn.2026-11.localhost.chap");

	if (!context || iscsi_set_targetname(context, TARGET) ||
		iscsi_set_session_type(context, ISCSI_SESSION_NORMAL) ||
		iscsi_set_header_digest(context, ISCSI_HEADER_DIGEST_CRC32C) ||
		(user && iscsi_set_initiator_username_pwd(context, user, secret)) ||
		(target_secret && iscsi_set_target_username_pwd(context, "target", target_secret)))
		tap_bail("libiscsi: no context");
	iscsi_set_noautoreconnect(context, 1);
	if (iscsi_full_connect_sync(context, server.iscsi, 0)) {
		iscsi_destroy_context(context);
		return NULL;
	}
	return context;
}

static void
test_chap(void)
{
	static const struct {
		const char *words, *user, *secret, *target_secret;
		bool let_in;
	} cases[] = {
		{"CHAP", "alice", "open sesame 1", NULL, true},
		{"mutual CHAP", "alice", "open sesame 1", "open sesame 2", true},
		{"a wrong secret is refused", "alice", "open sesame 3", NULL, false},
		{"an unknown user is refused", "carol", "open sesame 1", NULL, false},
		{"nobody is refused", NULL, NULL, NULL, false},
		{"a target with another secret is not believed", "alice", "open sesame 1",
			"open sesame 3", false},
	};

	start_guarded();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		iscsi = log_in(cases[i].user, cases[i].secret, cases[i].target_secret);
		tap_ok((iscsi != NULL) == cases[i].let_in, "%s", cases[i].words);
		if (!iscsi)
			continue;
		tap_ok(good(iscsi_write16_sync(iscsi, 0, 8, data, 65536, 512, 0, 0, 0, 0, 0)) &&
				reads(4096, 65536, data),
			"and I/O with header digests");
		client_iscsi_close(iscsi);
	}
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
}

int
main(void)
{
	char file[160];
	const char *args[] = {"disk0=memory:64M", file, NULL};
	uint64_t random;

	server_prepare(&server);
	snprintf(file, sizeof(file), "web=file:%s/web.img,size=64M", server.dir);
	server_start(&server, args);
	random = test_seed();
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(random_next(&random) | 1);

	test_discovery();
	iscsi = client_iscsi_try(&server, "disk0", "a", ISCSI_HEADER_DIGEST_NONE);
	tap_ok(iscsi != NULL, "a session");
	if (!iscsi)
		return tap_done();
	test_identity();
	test_read_write();
	test_provisioning();
	test_tasks();
	test_abort_task();
	client_iscsi_close(iscsi);

	iscsi = client_iscsi_try(&server, "web", "b", ISCSI_HEADER_DIGEST_NONE_CRC32C);
	tap_ok(iscsi != NULL, "a session that offers None,CRC32C");
	if (!iscsi)
		return tap_done();
	test_read_write();
	test_provisioning();
	client_iscsi_close(iscsi);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	test_chap();
	return tap_done();
}
