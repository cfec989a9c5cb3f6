/*
 * Sealing (block.h): the volume is frozen until what is in flight is over, then nobody but the
 * handle that sealed it passes the first check of a request. A seal may outlive its handle.
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "storage.h"

struct seal {
	struct blk_handle *handle;
	bool (*may)(void *arg);
	void (*done)(void *arg, int rc);
	void *arg;
	struct freeze freeze;
};

/* Nothing is in flight. A seal that nobody holds is taken over. */
static int
take_seal(struct blk_handle *handle)
{
	struct volume *volume = handle->volume;
	int rc = 0;

	pthread_mutex_lock(&volume->lock);
	if (atomic_load(&volume->sealer) != NULL)
		rc = -EBUSY;
	else
		atomic_store(&volume->sealer, handle);
	pthread_mutex_unlock(&volume->lock);
	if (rc == 0)
		atomic_fetch_or(&volume->refuse, VOLUME_SEALED);
	return rc;
}

static void
volume_still(struct freeze *freeze, int rc)
{
	struct seal *seal = container_of(freeze, struct seal, freeze);

	if (rc == 0) {
		rc = seal->may && !seal->may(seal->arg) ? -EPERM : take_seal(seal->handle);
		freeze_release(freeze);
	}
	seal->done(seal->arg, rc);
	free(seal);
}

int
blk_seal(struct blk_handle *handle, bool (*may)(void *arg), void (*done)(void *arg, int rc),
	void *arg)
{
	struct seal *seal = calloc(1, sizeof(*seal));

	if (!seal)
		return -ENOMEM;
	seal->handle = handle;
	seal->may = may;
	seal->done = done;
	seal->arg = arg;
	freeze_start(&seal->freeze, handle->volume, 0, blk_size(handle), FREEZE_ALL, volume_still);
	return 0;
}

void
blk_unseal(struct blk_handle *handle)
{
	struct volume *volume = handle->volume;
	struct blk_handle *sealer;

	pthread_mutex_lock(&volume->lock);
	sealer = atomic_load(&volume->sealer);
	if (!sealer || sealer == handle) {
		atomic_fetch_and(&volume->refuse, ~(unsigned)VOLUME_SEALED);
		atomic_store(&volume->sealer, NULL);
	}
	pthread_mutex_unlock(&volume->lock);
}

bool
blk_sealed(const struct blk_handle *handle)
{
	const struct volume *volume = handle->volume;

	return (atomic_load_explicit(&volume->refuse, memory_order_relaxed) & VOLUME_SEALED) &&
	       atomic_load_explicit(&volume->sealer, memory_order_relaxed) != handle;
}

void
seal_forget(struct blk_handle *handle)
{
	struct blk_handle *expected = handle;

	atomic_compare_exchange_strong(&handle->volume->sealer, &expected, NULL);
}
