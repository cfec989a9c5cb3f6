#include "config.h"
#include "target.h"

#include "conn.h"
#include "session.h"

#include <stdio.h>

const char program_name[] = "iscsicheck";
const char program_subject[] = "logical unit";
const char program_peer[] = "target";
const char program_uris[] =
	"iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN[?target_user=NAME&target_password=SECRET], iscsis "
	"with TLS";

enum { READ_CAPACITY_10 = 0x25, MODE_SENSE_6 = 0x1a, READ_CAPACITY_16 = 0x9e, SIZE_MIN = 4 << 20 };

int
target_open(struct target *target, const char *uri, char *why, size_t why_size)
{
	target->uri_text = uri;
	if (uri_parse(uri, &target->uri, why, why_size) != 0)
		return -1;
	return target->uri.with_tls ? tls_open(&target->uri.tls, why, why_size) : 0;
}

int
target_connect(const struct target *target, int64_t left_ns, int *error)
{
	return conn_connect_tcp(target->uri.host, target->uri.port, left_ns, error);
}

void
target_close(struct target *target)
{
	uri_free(&target->uri);
}

static void
probe_capacity(struct session *s, struct target *target)
{
	uint8_t cdb[16] = {READ_CAPACITY_16, 0x10, [13] = 32};
	struct task *task = submit(s, cdb, FINAL | SCSI_READ | SIMPLE, 32, NULL, 0);
	expect_good(task);
	target->block_size = get32(task->in + 8);
	target->size = (get64(task->in) + 1) * target->block_size;
	if (target->block_size < 512 || target->block_size > 65536 || target->size < SIZE_MIN)
		fail(s->test, "a logical unit of at least 4 MiB", "one of %llu bytes, blocks of %u",
			(unsigned long long)target->size, target->block_size);
}

static void
probe_protection(struct session *s, struct target *target)
{
	uint8_t cdb[16] = {MODE_SENSE_6, 8, 0x3f, 0, 4};
	struct task *task = submit(s, cdb, FINAL | SCSI_READ | SIMPLE, 4, NULL, 0);
	await(task);
	target->protected = task->status == GOOD && task->in_length >= 3 && (task->in[2] & 0x80);
}

/* Some targets take long to notice that a session is gone without a word. What they answer, and
 * whether its digest is right, is no matter here. */
static void
leave(struct session *s, bool logged_in)
{
	uint8_t bhs[BHS_SIZE];
	begin_bhs(s, bhs, OP_LOGOUT | IMMEDIATE, FINAL);
	bool left = logged_in && send_pdu(s, bhs, NULL, 0);
	s->header_digest = s->data_digest = false;
	if (left)
		receive(s);
	conn_close(s->conn);
}

/* Is it answered with CRC32C? */
static bool
probe_digest(struct test *t, const char *key)
{
	struct session *s = session_connect(t);
	char offer[64];
	snprintf(offer, sizeof offer, "%s=CRC32C,None", key);
	bool agreed = login(s, offer) == 0 && answer(s, key) != NULL &&
		      strcmp(answer(s, key), "CRC32C") == 0;
	leave(s, agreed);
	return agreed;
}

static bool
probe_none(struct test *t)
{
	struct session *s = session_connect(t);
	const struct pdu *p =
		login_step(s, STAGES(SECURITY, OPERATIONAL), with_names(s, "AuthMethod=None"));
	conn_close(s->conn);
	return login_status(p) == 0;
}

static bool
probe_discovery(struct test *t)
{
	struct session *s = session_connect(t);
	s->discovery = true;
	bool agreed = login(s, "") == 0;
	leave(s, agreed);
	return agreed;
}

void
target_probe(struct test *t)
{
	/* The one place that writes to the target; all others see it as const. */
	struct target *target = (struct target *)(uintptr_t)t->target;
	struct session *s = session_open(
		t, "InitialR2T=No\nImmediateData=Yes\nMaxConnections=4\nMaxOutstandingR2T=4");
	probe_capacity(s, target);
	probe_protection(s, target);
	expect_alive(s);
	bool multi = answer(s, "MaxConnections") != NULL && answer(s, "MaxConnections")[0] > '1';
	const struct {
		unsigned need;
		bool there;
	} facts[] = {
		{WRITABLE, !target->protected && !target->read_only},
		{CHAP, target->uri.user != NULL && !probe_none(t)},
		{NOCHAP, target->uri.user == NULL},
		{MUTUAL, target->uri.target_user != NULL},
		{UNSOLICITED, !s->initial_r2t},
		{BURSTY, s->immediate_data},
		{HDIGEST, probe_digest(t, "HeaderDigest")},
		{DDIGEST, probe_digest(t, "DataDigest")},
		{DISCOVERY, probe_discovery(t)},
		{QUEUES, s->max_cmd_sn - s->exp_cmd_sn + 1 > 1},
		{MULTI, multi},
	};
	for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++)
		target->offers |= facts[i].there ? facts[i].need : 0;
	leave(s, true);
}

bool
target_is_read_only(const struct target *target)
{
	return target->protected;
}

const char *
target_lacks(const struct target *target, unsigned needs)
{
	static const char *const reasons[] = {
		"the logical unit is write-protected, or --read-only was given",
		"no CHAP: the URI has no credentials, or none are needed",
		"the URI has credentials",
		"no mutual CHAP: the URI has no target_user",
		"InitialR2T=No is not agreed to",
		"ImmediateData=Yes is not agreed to",
		"no HeaderDigest=CRC32C offered",
		"no DataDigest=CRC32C offered",
		"no discovery sessions",
		"the command window is 1",
		"MaxConnections is 1",
	};
	unsigned missing = needs & ~target->offers;
	return missing == 0 ? NULL : reasons[__builtin_ctz(missing)];
}
