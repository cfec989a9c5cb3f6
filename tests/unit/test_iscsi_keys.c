/* protocols/iscsi/iscsi_keys.c and the pairs of iscsi_text.c: pure functions of text. */
#include "config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "iscsi/iscsi.h"
#include "../lib/manual.h"

static uint8_t answer[LIMIT_ISCSI_LOGIN_PDU];
static size_t answer_length;

/* Takes a text with \n for NUL. */
static uint16_t
take(struct iscsi_negotiation *n, enum iscsi_stage stage, const char *lines)
{
	uint8_t text[LIMIT_ISCSI_TEXT];
	size_t length = strlen(lines);
	struct writer out = writer_of(answer, sizeof(answer));
	uint16_t status;

	for (size_t i = 0; i < length; i++)
		text[i] = (uint8_t)(lines[i] == '\n' ? 0 : lines[i]);
	status = iscsi_keys_take(n, stage, text, length, &out);
	answer_length = out.length;
	return status;
}

static void
assert_answer(const char *lines)
{
	char got[LIMIT_ISCSI_LOGIN_PDU + 1];

	for (size_t i = 0; i < answer_length; i++)
		got[i] = (char)(answer[i] ? answer[i] : '\n');
	got[answer_length] = '\0';
	assert_string_equal(got, lines);
}

#define P(member) offsetof(struct iscsi_params, member)
#define NONE      SIZE_MAX

/* A key alone, in the operational stage of a normal session. */
static const struct {
	const char *offer, *answer;
	size_t param;
	uint32_t active;
} cases[] = {
	{"HeaderDigest=None\n", "HeaderDigest=None\n", P(header_digest), 0},
	{"HeaderDigest=CRC32C\n", "HeaderDigest=CRC32C\n", P(header_digest), 1},
	{"HeaderDigest=CRC32C,None\n", "HeaderDigest=CRC32C\n", P(header_digest), 1},
	{"HeaderDigest=None,CRC32C\n", "HeaderDigest=None\n", P(header_digest), 0},
	{"HeaderDigest=X-md5,CRC32C\n", "HeaderDigest=CRC32C\n", P(header_digest), 1},
	{"HeaderDigest=X-md5\n", "HeaderDigest=Reject\n", P(header_digest), 0},
	{"HeaderDigest=crc32c\n", "HeaderDigest=Reject\n", P(header_digest), 0},
	{"HeaderDigest=\n", "HeaderDigest=Reject\n", P(header_digest), 0},
	{"DataDigest=CRC32C,None\n", "DataDigest=CRC32C\n", P(data_digest), 1},
	{"DataDigest=None\n", "DataDigest=None\n", P(data_digest), 0},
	{"MaxConnections=2\n", "MaxConnections=2\n", P(max_connections), 2},
	{"MaxConnections=9\n", "MaxConnections=8\n", P(max_connections), 8},
	{"MaxConnections=0\n", "MaxConnections=Reject\n", P(max_connections), 1},
	{"MaxConnections=65536\n", "MaxConnections=Reject\n", P(max_connections), 1},
	{"InitialR2T=Yes\n", "InitialR2T=Yes\n", P(initial_r2t), 1},
	{"InitialR2T=No\n", "InitialR2T=No\n", P(initial_r2t), 0},
	{"InitialR2T=no\n", "InitialR2T=Reject\n", P(initial_r2t), 1},
	{"ImmediateData=Yes\n", "ImmediateData=Yes\n", P(immediate_data), 1},
	{"ImmediateData=No\n", "ImmediateData=No\n", P(immediate_data), 0},
	{"ImmediateData=Maybe\n", "ImmediateData=Reject\n", P(immediate_data), 1},
	{"MaxRecvDataSegmentLength=65536\n", "", P(max_recv), 65536},
	{"MaxRecvDataSegmentLength=512\n", "", P(max_recv), 512},
	{"MaxRecvDataSegmentLength=16777215\n", "", P(max_recv), 16777215},
	{"MaxRecvDataSegmentLength=0x4000\n", "", P(max_recv), 16384},
	{"MaxRecvDataSegmentLength=0XfF00\n", "", P(max_recv), 0xff00},
	{"MaxRecvDataSegmentLength=511\n", "MaxRecvDataSegmentLength=Reject\n", P(max_recv), 8192},
	{"MaxRecvDataSegmentLength=16777216\n", "MaxRecvDataSegmentLength=Reject\n", P(max_recv),
		8192},
	{"MaxRecvDataSegmentLength=99999999999999999999999\n", "MaxRecvDataSegmentLength=Reject\n",
		P(max_recv), 8192},
	{"MaxRecvDataSegmentLength=-1\n", "MaxRecvDataSegmentLength=Reject\n", P(max_recv), 8192},
	{"MaxRecvDataSegmentLength=0x\n", "MaxRecvDataSegmentLength=Reject\n", P(max_recv), 8192},
	{"MaxRecvDataSegmentLength=\n", "MaxRecvDataSegmentLength=Reject\n", P(max_recv), 8192},
	{"MaxBurstLength=16776192\n", "MaxBurstLength=1048576\n", P(max_burst), 1048576},
	{"MaxBurstLength=512\n", "MaxBurstLength=512\n", P(max_burst), 512},
	{"MaxBurstLength=100\n", "MaxBurstLength=Reject\n", P(max_burst), 262144},
	{"FirstBurstLength=65536\n", "FirstBurstLength=65536\n", P(first_burst), 65536},
	{"FirstBurstLength=262144\n", "FirstBurstLength=262144\n", P(first_burst), 262144},
	/* 13.14: clamped, also where MaxBurstLength comes later in the text */
	{"FirstBurstLength=262144\nMaxBurstLength=4096\n",
		"FirstBurstLength=4096\nMaxBurstLength=4096\n", P(first_burst), 4096},
	{"DefaultTime2Wait=2\n", "DefaultTime2Wait=2\n", P(time2wait), 2},
	{"DefaultTime2Wait=3600\n", "DefaultTime2Wait=3600\n", P(time2wait), 3600},
	{"DefaultTime2Wait=3601\n", "DefaultTime2Wait=Reject\n", P(time2wait), 2},
	{"DefaultTime2Retain=20\n", "DefaultTime2Retain=0\n", P(time2retain), 0},
	{"MaxOutstandingR2T=16\n", "MaxOutstandingR2T=8\n", P(max_r2t), 8},
	{"MaxOutstandingR2T=0\n", "MaxOutstandingR2T=Reject\n", P(max_r2t), 1},
	{"DataPDUInOrder=No\n", "DataPDUInOrder=No\n", P(data_pdu_in_order), 0},
	{"DataSequenceInOrder=No\n", "DataSequenceInOrder=No\n", P(data_sequence_in_order), 0},
	{"ErrorRecoveryLevel=2\n", "ErrorRecoveryLevel=0\n", P(error_recovery_level), 0},
	{"ErrorRecoveryLevel=3\n", "ErrorRecoveryLevel=Reject\n", P(error_recovery_level), 0},
	{"SessionType=Normal\n", "", P(discovery), 0},
	{"SessionType=Discovery\n", "", P(discovery), 1},
	{"TaskReporting=RFC3720\n", "TaskReporting=RFC3720\n", P(task_reporting), 0},
	{"TaskReporting=FastAbort,RFC3720\n", "TaskReporting=RFC3720\n", P(task_reporting), 0},
	{"TaskReporting=FastAbort\n", "TaskReporting=Reject\n", P(task_reporting), 0},
	{"iSCSIProtocolLevel=2\n", "iSCSIProtocolLevel=1\n", P(protocol_level), 1},
	{"iSCSIProtocolLevel=0\n", "iSCSIProtocolLevel=0\n", P(protocol_level), 0},
	{"IFMarker=No\n", "IFMarker=No\n", NONE, 0},
	{"IFMarker=Yes\n", "IFMarker=No\n", NONE, 0},
	{"OFMarker=Perhaps\n", "OFMarker=Reject\n", NONE, 0},
	{"IFMarkInt=2048~8192\n", "IFMarkInt=Reject\n", NONE, 0},
	{"OFMarkInt=1\n", "OFMarkInt=Reject\n", NONE, 0},
	{"TargetAlias=me\n", "TargetAlias=Reject\n", NONE, 0},
	{"TargetAddress=1.2.3.4\n", "TargetAddress=Reject\n", NONE, 0},
	{"TargetPortalGroupTag=1\n", "TargetPortalGroupTag=Reject\n", NONE, 0},
	{"SendTargets=All\n", "SendTargets=Reject\n", NONE, 0},
	{"InitiatorAlias=a machine\n", "", NONE, 0},
	{"X-NodeArchitecture=pdp11\n", "", NONE, 0},
	{"X-org.example.key=1\n", "X-org.example.key=NotUnderstood\n", NONE, 0},
	{"X#extension=1\n", "X#extension=NotUnderstood\n", NONE, 0},
	{"maxburstlength=1\n", "maxburstlength=NotUnderstood\n", NONE, 0},
	{"MaxBurstLengthy=1\n", "MaxBurstLengthy=NotUnderstood\n", NONE, 0},
	{"", "", NONE, 0},
	{"\n\nInitialR2T=No\n\n\n", "InitialR2T=No\n", P(initial_r2t), 0},
};

static void
test_each_key(void **state)
{
	struct iscsi_negotiation n;
	uint32_t active;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		iscsi_negotiation_init(&n);
		assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, cases[i].offer), 0);
		assert_answer(cases[i].answer);
		if (cases[i].param == NONE)
			continue;
		memcpy(&active, (const char *)&n.active + cases[i].param, sizeof(active));
		assert_int_equal(active, cases[i].active);
	}
}

static void
test_defaults(void **state)
{
	struct iscsi_negotiation n;

	(void)state;
	iscsi_negotiation_init(&n);
	assert_int_equal(n.active.max_recv, 8192);
	assert_int_equal(n.active.max_burst, 262144);
	assert_int_equal(n.active.first_burst, 65536);
	assert_int_equal(n.active.initial_r2t, 1);
	assert_int_equal(n.active.immediate_data, 1);
	assert_int_equal(n.active.time2wait, 2);
	assert_int_equal(n.active.time2retain, 20);
	assert_int_equal(n.active.protocol_level, 1);
	assert_int_equal(n.mine.max_recv, LIMIT_ISCSI_RECV);
}

static void
test_irrelevant_in_discovery(void **state)
{
	struct iscsi_negotiation n;

	(void)state;
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL,
				 "SessionType=Discovery\nInitialR2T=No\nMaxBurstLength=512\n"
				 "HeaderDigest=None\nMaxConnections=2\nTaskReporting=FastAbort\n"),
		0);
	assert_answer("InitialR2T=Irrelevant\nMaxBurstLength=Irrelevant\nHeaderDigest=None\n"
		      "MaxConnections=Irrelevant\nTaskReporting=Irrelevant\n");
	assert_int_equal(n.active.max_burst, 262144);
}

static void
test_names(void **state)
{
	struct iscsi_negotiation n;
	char lines[1024];

	(void)state;
	iscsi_negotiation_init(&n);
	assert_int_equal(
		take(&n, ISCSI_STAGE_SECURITY,
			"InitiatorName=IQN.2001-04.com.Example:Host\nTargetName=iqn.x:Y\n"),
		0);
	assert_string_equal(n.names.initiator, "iqn.2001-04.com.example:host");
	assert_string_equal(n.names.target, "iqn.x:y");
	/* initiators say their names again in the next stage */
	assert_int_equal(
		take(&n, ISCSI_STAGE_OPERATIONAL, "InitiatorName=iqn.2001-04.com.example:host\n"),
		0);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, "InitiatorName=iqn.other\n"), 0x0200);

	iscsi_negotiation_init(&n);
	snprintf(lines, sizeof(lines), "InitiatorName=%0223d\n", 7);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, lines), 0);
	iscsi_negotiation_init(&n);
	snprintf(lines, sizeof(lines), "InitiatorName=%0224d\n", 7);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, lines), 0x0200);
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "InitiatorName=\n"), 0x0200);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "TargetName=iqn.a,i,0x1\n"), 0x0200);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "TargetName=iqn.a b\n"), 0x0200);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "TargetName=iqn.\x07\n"), 0x0200);
}

static void
test_stages(void **state)
{
	struct iscsi_negotiation n;

	(void)state;
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "AuthMethod=KRB5,CHAP,None\n"), 0);
	assert_answer(""); /* iscsi_chap.c says it */
	assert_true(n.auth_said);
	assert_int_equal(n.auth_offered, ISCSI_AUTH_CHAP | ISCSI_AUTH_NONE);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "CHAP_A=5,7\n"), 0);
	assert_memory_equal(n.chap[ISCSI_CHAP_A].value, "5,7", 4);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "CHAP_A=5,7\n"), 0x0200);
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, "CHAP_N=bob\n"), 0x0200);
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, "AuthMethod=None\n"), 0x0200);
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "InitialR2T=No\n"), 0x0200);
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_SECURITY, "SessionType=Replay\n"), 0x0209);
	/* in the full feature phase only what may change does */
	iscsi_negotiation_init(&n);
	assert_int_equal(
		take(&n, ISCSI_STAGE_FULL_FEATURE,
			"MaxBurstLength=512\nMaxRecvDataSegmentLength=4096\nInitiatorName=a\n"),
		0);
	assert_answer("MaxBurstLength=Reject\nInitiatorName=Reject\n");
	assert_int_equal(n.active.max_recv, 4096);
	assert_int_equal(n.active.max_burst, 262144);
}

static void
test_key_negotiated_twice(void **state)
{
	static const char *const keys[] = {"InitialR2T=No\n", "MaxBurstLength=4096\n",
		"HeaderDigest=None\n", "MaxRecvDataSegmentLength=4096\n", "IFMarker=No\n"};
	struct iscsi_negotiation n;
	char lines[128];

	(void)state;
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		iscsi_negotiation_init(&n);
		snprintf(lines, sizeof(lines), "%s%s", keys[i], keys[i]);
		assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, lines), 0x0200);
		iscsi_negotiation_init(&n);
		assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, keys[i]), 0);
		assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, keys[i]), 0x0200);
	}
}

static void
test_unknown_keys_are_bounded(void **state)
{
	struct iscsi_negotiation n;
	char lines[4096];
	size_t length = 0;

	(void)state;
	for (unsigned i = 0; i < LIMIT_ISCSI_UNKNOWN; i++)
		length += (size_t)snprintf(lines + length, sizeof(lines) - length, "X-%u=1\n", i);
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, lines), 0);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, "X-more=1\n"), 0x0200);
}

static void
test_malformed_text(void **state)
{
	static const char *const bad[] = {"InitialR2T\n", "=Yes\n", "InitialR2T=Yes",
		"Initial R2T=Yes\n", "InitialR2T:Yes\n", "\x80=1\n"};
	struct iscsi_negotiation n;
	char lines[512];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		iscsi_negotiation_init(&n);
		assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, bad[i]), 0x0200);
	}
	/* 63 bytes of key and 255 of value are the most (6.1) */
	snprintf(lines, sizeof(lines), "X%062d=%0255d\n", 0, 0);
	iscsi_negotiation_init(&n);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, lines), 0);
	snprintf(lines, sizeof(lines), "X%063d=1\n", 0);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, lines), 0x0200);
	snprintf(lines, sizeof(lines), "X-=%0256d\n", 0);
	assert_int_equal(take(&n, ISCSI_STAGE_OPERATIONAL, lines), 0x0200);
}

/* Bytes at random, and true texts with bytes changed: nothing but an answer or a status may come.
 */
static void
test_random_text(void **state)
{
	static const char good[] =
		"InitiatorName=iqn.a\0HeaderDigest=CRC32C,None\0MaxBurstLength=0x400\0"
		"X-unknown=1\0SessionType=Normal\0InitialR2T=No\0IFMarkInt=1~2";
	const unsigned seed = 7143;
	struct iscsi_negotiation n;
	uint8_t text[sizeof(good)];
	struct writer out;
	uint32_t x = seed;
	uint16_t status;

	(void)state;
	print_message("seed %u\n", seed);
	for (unsigned round = 0; round < 20000; round++) {
		memcpy(text, good, sizeof(good));
		for (unsigned i = 0; i < round % 7; i++) {
			x = x * 1664525u + 1013904223u;
			text[(x >> 8) % sizeof(text)] = (uint8_t)(x >> 24);
		}
		out = writer_of(answer, sizeof(answer));
		iscsi_negotiation_init(&n);
		status = iscsi_keys_take(
			&n, ISCSI_STAGE_OPERATIONAL, text, sizeof(text) - round % 5, &out);
		assert_true(status == 0 || status >> 8 == 2);
		assert_true(n.active.first_burst <= n.active.max_burst);
		assert_true(n.active.max_recv >= 512);
	}
}

static void
test_describe(void **state)
{
	char line[256];
	unsigned rows = 0;

	(void)state;
	while (iscsi_key_describe(rows, line, sizeof(line)))
		rows++;
	assert_int_equal(rows, 35);
	assert_true(iscsi_key_describe(18, line, sizeof(line)));
	assert_string_equal(line, "| MaxRecvDataSegmentLength | 13.12 | declared number | "
				  "512 to 16777215, default 8192, ours 262144 | connection |");
}

static void
write_keys(const void *arg, FILE *out)
{
	char line[256], *field[5], *rest;

	(void)arg;
	fputs(".Bl -tag -width Ds -compact\n", out);
	for (unsigned row = 0; iscsi_key_describe(row, line, sizeof(line)); row++) {
		rest = line + 2;
		for (unsigned i = 0; i < ARRAY_SIZE(field); i++) {
			field[i] = rest;
			rest = strstr(rest, " |");
			*rest = '\0';
			rest += rest[2] == ' ' ? 3 : 2;
		}
		fprintf(out, ".It Ic %s\n%s, %s%s%s.\n", field[0], field[1], field[2],
			*field[3] ? ": " : "", field[3]);
	}
	fputs(".El\n", out);
}

static void
test_manual_has_each_row(void **state)
{
	static const struct manual_list list = {"iSCSI", write_keys, NULL};

	(void)state;
	manual_check("server/slabd.8", &list, 1);
}

/* The README's table is the code's. */
static void
test_readme_has_each_row(void **state)
{
	const char *source = getenv("SLABD_SOURCE");
	static char readme[64 * 1024];
	char path[4096], line[256];
	size_t length;
	FILE *file;

	(void)state;
	if (!source)
		skip();
	snprintf(path, sizeof(path), "%s/protocols/iscsi/README.md", source);
	file = fopen(path, "r");
	assert_non_null(file);
	length = fread(readme, 1, sizeof(readme) - 1, file);
	fclose(file);
	readme[length] = '\0';
	for (unsigned row = 0; iscsi_key_describe(row, line, sizeof(line)); row++) {
		if (!strstr(readme, line))
			fail_msg("README.md lacks: %s", line);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_key),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_irrelevant_in_discovery),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_stages),
		cmocka_unit_test(test_key_negotiated_twice),
		cmocka_unit_test(test_unknown_keys_are_bounded),
		cmocka_unit_test(test_malformed_text),
		cmocka_unit_test(test_random_text),
		cmocka_unit_test(test_describe),
		cmocka_unit_test(test_readme_has_each_row),
		cmocka_unit_test(test_manual_has_each_row),
	};

	return cmocka_run_group_tests_name("iscsi_keys", tests, NULL, NULL);
}
