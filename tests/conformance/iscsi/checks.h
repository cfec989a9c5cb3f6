/* All checks there are, by group, in the order in which they run and are numbered. */
#ifndef ISCSICHECK_CHECKS_H
#define ISCSICHECK_CHECKS_H

#include "test.h"

extern const struct group *const groups[];
extern const size_t group_count;

/* Each beside its functions, in check_NAME.c. */
extern const struct group login_group, negotiation_group, chap_group, data_group, sequence_group,
	digests_group, management_group, rejects_group, logout_group, reinstatement_group,
	connections_group, discovery_group, nop_group, text_group, hostile_group;

#define COUNT_OF(array) (sizeof array / sizeof array[0])

#endif
