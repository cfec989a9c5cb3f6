/* Login text alone: the first byte says in which stage the rest is said, all of it once. */
#include "config.h"

#include "fuzz.h"

#include "bytes.h"
#include "check.h"
#include "iscsi/iscsi.h"

static const enum iscsi_stage stages[] = {
	ISCSI_STAGE_SECURITY, ISCSI_STAGE_OPERATIONAL, ISCSI_STAGE_FULL_FEATURE};

static void
check_active(const struct iscsi_params *active)
{
	CHECK(active->max_recv >= 512 && active->max_recv < 1 << 24);
	CHECK(active->first_burst <= active->max_burst);
	CHECK(active->max_connections >= 1 && active->error_recovery_level == 0);
	CHECK(active->max_connections <= LIMIT_ISCSI_CONNECTIONS);
	CHECK(active->header_digest <= 1 && active->data_digest <= 1 && active->discovery <= 1);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t answer[LIMIT_ISCSI_LOGIN_PDU];
	uint8_t binary[LIMIT_ISCSI_BINARY];
	struct iscsi_negotiation n;
	struct writer out = writer_of(answer, sizeof(answer));
	struct reader reader;
	struct iscsi_pair pair;
	unsigned i;

	if (size == 0 || size > LIMIT_ISCSI_TEXT)
		return 0;
	iscsi_negotiation_init(&n);
	if (iscsi_keys_take(&n, stages[data[0] % 3], data + 1, size - 1, &out))
		return 0;
	check_active(&n.active);
	for (i = 0; i < ISCSI_CHAP_KEYS; i++)
		if (n.chap[i].key)
			CHECK(iscsi_binary_decode(n.chap[i].value, n.chap[i].value_length, binary,
				      sizeof(binary)) <= (ssize_t)sizeof(binary));
	/* What is answered is text again. */
	reader = reader_of(answer, out.length);
	while ((i = (unsigned)iscsi_pair_next(&reader, &pair)) == 1)
		;
	CHECK(i == 0);
	return 0;
}
