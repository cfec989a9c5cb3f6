#include "config.h"
#include "checks.h"

const struct group *const groups[] = {
	&handshake_group,
	&options_group,
	&info_group,
	&meta_group,
	&status_group,
	&transmission_group,
	&structured_group,
	&extended_group,
	&errors_group,
	&flags_group,
	&limits_group,
	&pipelining_group,
	&coherence_group,
	&hostile_group,
	&tls_group,
};
const size_t group_count = COUNT_OF(groups);
