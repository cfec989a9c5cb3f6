/* A volume that costs nothing: reads are zeroes, writes vanish. For measuring everything else. */
#include "config.h"

#include <errno.h>
#include <stdio.h>

#include "bytes.h"
#include "check.h"
#include "../storage.h"

#define NATIVE                                                                   \
	(1u << BLK_READ | 1u << BLK_WRITE | 1u << BLK_ZERO | 1u << BLK_DISCARD | \
		1u << BLK_EXTENTS | 1u << BLK_PREFETCH)

static int
open_null(const struct conf_volume *conf, struct blk_info *info, void **state, struct error *error)
{
	if (!conf->size)
		return error_set(error, -EINVAL, "needs a size: %s=null:1T", conf->name);
	info->size = conf->size;
	info->native = NATIVE;
	info->discard_granularity = info->block_size;
	info->sparse = true;
	info->fast_zero = true;
	info->carried_inline = true;
	*state = NULL;
	return 0;
}

static void
close_null(void *state)
{
	(void)state;
}

/* READ, from where the last turn ended. R10: what was in the buffer goes to nobody. */
static void
read_zeroes(struct blk_request *request)
{
	uint64_t n = min_u64(request->length - request->progress, LIMIT_INLINE_BYTES);

	iov_zero(request->iov, request->niov, request->progress, n);
	request->progress += n;
	if (request->progress < request->length)
		blk_yield(request, read_zeroes);
	else
		blk_complete(request, 0);
}

static bool
submit_null(void *state, struct blk_request *request)
{
	(void)state;
	if (request->op == BLK_READ) {
		read_zeroes(request);
		return true;
	}
	if (request->op == BLK_EXTENTS) {
		request->extents[0] = (struct blk_extent){request->length, BLK_HOLE | BLK_ZEROES};
		request->nextents = 1;
	}
	blk_complete(request, 0);
	return true;
}

static uint64_t
null_allocated(void *state)
{
	(void)state;
	return 0;
}

static void
describe_null(void *state, char *text, size_t size)
{
	(void)state;
	snprintf(text, size, "reads zeroes, forgets writes");
}

const struct blk_driver null_driver = {
	.name = "null",
	.argument = "size",
	.open = open_null,
	.close = close_null,
	.submit = submit_null,
	.allocated = null_allocated,
	.describe = describe_null,
};
