#include "config.h"
#include "checks.h"

const struct group *const groups[] = {
	&login_group,
	&negotiation_group,
	&chap_group,
	&data_group,
	&sequence_group,
	&digests_group,
	&management_group,
	&rejects_group,
	&logout_group,
	&reinstatement_group,
	&connections_group,
	&discovery_group,
	&nop_group,
	&text_group,
	&hostile_group,
};
const size_t group_count = COUNT_OF(groups);
