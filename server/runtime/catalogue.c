#include "config.h"

#include "catalogue.h"

#include <pthread.h>
#include <string.h>

#include "check.h"

/* Guards `current` between reading it and counting the reference. Taken at negotiation only. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct catalogue *current;

_Atomic uint32_t catalogue_generation;

const struct catalogue *
catalogue_get(void)
{
	struct catalogue *catalogue;

	pthread_mutex_lock(&lock);
	catalogue = current;
	if (catalogue)
		atomic_fetch_add_explicit(&catalogue->references, 1, memory_order_relaxed);
	pthread_mutex_unlock(&lock);
	return catalogue;
}

void
catalogue_hold(const struct catalogue *shared)
{
	struct catalogue *catalogue = (struct catalogue *)shared;

	atomic_fetch_add_explicit(&catalogue->references, 1, memory_order_relaxed);
}

void
catalogue_put(const struct catalogue *shared)
{
	/* Immutable to its readers but for the count. */
	struct catalogue *catalogue = (struct catalogue *)shared;
	unsigned before;

	before = atomic_fetch_sub_explicit(&catalogue->references, 1, memory_order_acq_rel);
	CHECK(before > 0);
	if (before == 1)
		catalogue->destroy(catalogue);
}

void
catalogue_publish(struct catalogue *catalogue)
{
	struct catalogue *before;

	pthread_mutex_lock(&lock);
	before = current;
	current = catalogue;
	pthread_mutex_unlock(&lock);
	atomic_fetch_add_explicit(&catalogue_generation, 1, memory_order_release);
	if (before)
		catalogue_put(before);
}

const struct export *
catalogue_export(const struct catalogue *catalogue, const void *name, size_t length)
{
	const struct export *export;
	size_t i;

	for (i = 0; i < catalogue->nexports; i++) {
		export = &catalogue->exports[i];
		if (length == 0 ? export->is_default
				: strlen(export->name) == length &&
					  memcmp(export->name, name, length) == 0)
			return export;
	}
	return NULL;
}

const struct target *
catalogue_target(const struct catalogue *catalogue, const char *name)
{
	size_t i;

	for (i = 0; i < catalogue->ntargets; i++)
		if (strcmp(catalogue->targets[i].name, name) == 0)
			return &catalogue->targets[i];
	return NULL;
}

const struct target *
catalogue_admit(const struct target *target, const char *initiator)
{
	size_t i;

	for (i = 0; i < target->ninitiators; i++)
		if (strcmp(target->initiators[i].name, initiator) == 0)
			return &target->initiators[i].as;
	return target->ninitiators == 0 || target->nchap > 0 ? target : NULL;
}
