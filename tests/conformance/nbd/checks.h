/* All checks there are, by group, in the order in which they run and are numbered. */
#ifndef NBDCHECK_CHECKS_H
#define NBDCHECK_CHECKS_H

#include "test.h"

extern const struct group *const groups[];
extern const size_t group_count;

/* Each beside its functions, in check_NAME.c. */
extern const struct group handshake_group, options_group, info_group, meta_group, status_group,
	transmission_group, structured_group, extended_group, errors_group, flags_group,
	limits_group, pipelining_group, coherence_group, hostile_group, tls_group;

#define COUNT_OF(array) (sizeof array / sizeof array[0])

#endif
