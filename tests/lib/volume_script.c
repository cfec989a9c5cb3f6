#include "config.h"

#include "volume_script.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "block_driver.h"
#include "bytes.h"
#include "check.h"
#include "limits.h"
#include "../../storage/storage.h"

struct volume_script {
	struct volume_script_options options;
	struct blk_driver driver;
	struct volume *volume;
	uint8_t *data;
	uint8_t *holes; /* one per block */

	pthread_mutex_t lock;
	bool hold;
	unsigned ncalls, nheld;
	struct script_call *calls;
	struct {
		int rc;
		unsigned times;
	} fail[BLK_OPS];
};

/* The one that volume_open_driver() is opening. */
static _Thread_local struct volume_script *opening;

static bool
carried_inline(const struct volume_script_options *o)
{
	return !o->not_inline && !o->blocking && o->alignment == 1;
}

static int
open_script(
	const struct conf_volume *conf, struct blk_info *info, void **state, struct error *error)
{
	const struct volume_script_options *o = &opening->options;

	(void)error;
	info->size = conf->size;
	info->alignment = o->alignment;
	info->transfer_max = o->transfer_max;
	info->discard_granularity = o->discard_granularity;
	info->native = ((1u << BLK_OPS) - 1) & ~o->missing;
	info->volatile_cache = o->volatile_cache;
	info->buffered = o->buffered;
	info->fua = o->fua;
	info->sparse = true;
	info->fast_zero = !o->no_fast_zero;
	info->carried_inline = carried_inline(o);
	*state = opening;
	return 0;
}

static void
close_script(void *state)
{
	struct volume_script *script = state;

	CHECK(script->nheld == 0);
	pthread_mutex_destroy(&script->lock);
	free(script->calls);
	free(script->holes);
	free(script->data);
	free(script);
}

/* Whole blocks only, inwards. Under the lock. */
static void
mark_holes(struct volume_script *script, uint64_t offset, uint64_t length, bool hole)
{
	uint64_t block = script->options.block_size;
	uint64_t from = hole ? round_up(offset, block) : round_down(offset, block);
	uint64_t to = hole ? round_down(offset + length, block) : round_up(offset + length, block);

	for (uint64_t at = from; at < to; at += block)
		script->holes[at / block] = hole;
}

static void
report_extents(struct volume_script *script, uint64_t offset, uint64_t length, bool one,
	struct blk_extent *extents, unsigned *nextents)
{
	uint64_t block = script->options.block_size, at = offset, end = offset + length;
	unsigned n = 0, most = one ? 1 : *nextents;

	while (at < end) {
		uint64_t to = min_u64(end, round_down(at, block) + block);
		uint32_t flags = script->holes[at / block] ? BLK_HOLE | BLK_ZEROES : 0;

		if (n && extents[n - 1].flags == flags)
			extents[n - 1].length += to - at;
		else if (n == most)
			break;
		else
			extents[n++] = (struct blk_extent){to - at, flags};
		at = to;
	}
	*nextents = n;
}

/* Compares the first half of the data with what is there. Under the lock. */
static int
compare(const struct volume_script *script, struct blk_request *request)
{
	for (uint64_t i = 0; i < request->length; i++) {
		uint8_t byte;

		iov_to(request->iov, request->niov, i, &byte, 1);
		if (byte != script->data[request->offset + i]) {
			request->mismatch = i;
			return -EILSEQ;
		}
	}
	return 0;
}

/* Under the lock. The result, 0 for most. */
static int
carry_out(struct volume_script *script, struct blk_request *request)
{
	uint64_t offset = request->offset, length = request->length;
	uint8_t *data = script->data + offset;
	int rc = 0;

	switch (request->op) {
	case BLK_READ:
		iov_from(request->iov, request->niov, 0, data, length);
		break;
	case BLK_COMPARE_WRITE:
		rc = compare(script, request);
		if (rc)
			break;
		mark_holes(script, offset, length, false);
		iov_to(request->iov, request->niov, length, data, length);
		break;
	case BLK_WRITE:
		mark_holes(script, offset, length, false);
		iov_to(request->iov, request->niov, 0, data, length);
		break;
	case BLK_ZERO:
	case BLK_DISCARD:
		memset(data, 0, length);
		mark_holes(script, offset, length,
			request->op == BLK_DISCARD || request->flags & BLK_MAY_UNMAP);
		break;
	case BLK_EXTENTS:
		report_extents(script, offset, length, request->flags & BLK_EXTENT_ONE,
			request->extents, &request->nextents);
		break;
	default:
		break;
	}
	return rc;
}

/* Every call keeps the driver's side of the contract. */
static void
check_call(const struct volume_script *script, const struct blk_request *request)
{
	uint64_t bits = request->offset | request->length;

	CHECK((unsigned)request->op < BLK_OPS && !(script->options.missing & 1u << request->op));
	if (request->op == BLK_FLUSH)
		return;
	CHECK(request->length > 0);
	CHECK(range_within(request->offset, request->length, script->options.size));
	if (request->op == BLK_READ || request->op == BLK_WRITE) {
		CHECK(request->length <= script->options.transfer_max);
		CHECK(iov_length(request->iov, request->niov) == request->length);
		for (unsigned i = 0; i < request->niov; i++)
			bits |= (uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len;
	}
	CHECK((bits & (script->options.alignment - 1)) == 0);
}

/* Under the lock: notes the call, and says what becomes of it. */
static struct script_call *
note_call(struct volume_script *script, struct blk_request *request)
{
	struct script_call *call;

	check_call(script, request);
	if (script->options.forgets)
		script->ncalls = 0;
	CHECK(script->ncalls < SCRIPT_CALLS);
	call = &script->calls[script->ncalls++];
	*call = (struct script_call){.op = request->op,
		.flags = request->flags,
		.offset = request->offset,
		.length = request->length};
	return call;
}

static int
finish_call(struct volume_script *script, struct script_call *call, struct blk_request *request)
{
	if (script->fail[call->op].times) {
		script->fail[call->op].times--;
		call->rc = script->fail[call->op].rc;
	} else {
		call->rc = carry_out(script, request);
	}
	call->completed = true;
	return call->rc;
}

static bool
submit_script(void *state, struct blk_request *request)
{
	struct volume_script *script = state;
	struct script_call *call;
	bool held;
	int rc = 0;

	pthread_mutex_lock(&script->lock);
	call = note_call(script, request);
	held = script->hold;
	if (held) {
		call->request = request;
		script->nheld++;
	} else {
		rc = finish_call(script, call, request);
	}
	pthread_mutex_unlock(&script->lock);
	if (!held)
		blk_complete(request, rc);
	return true;
}

/* The blocking functions: a request made up for each. */
static int
do_blocking(struct volume_script *script, struct blk_request *request)
{
	int rc;

	pthread_mutex_lock(&script->lock);
	rc = finish_call(script, note_call(script, request), request);
	pthread_mutex_unlock(&script->lock);
	return rc;
}

static void
cancel_script(void *state, struct blk_request *request)
{
	struct volume_script *script = state;
	bool found = false;

	pthread_mutex_lock(&script->lock);
	for (unsigned i = 0; i < script->ncalls && !found; i++) {
		struct script_call *call = &script->calls[i];

		if (call->request != request)
			continue;
		found = true;
		call->request = NULL;
		call->completed = true;
		call->rc = -ETIMEDOUT;
		script->nheld--;
	}
	pthread_mutex_unlock(&script->lock);
	if (found)
		blk_complete(request, -ETIMEDOUT);
}

static int
script_read(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length)
{
	struct blk_request request = {
		.op = BLK_READ, .offset = offset, .length = length, .iov = iov, .niov = niov};

	return do_blocking(state, &request);
}

static int
script_write(void *state, const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t length)
{
	struct blk_request request = {
		.op = BLK_WRITE, .offset = offset, .length = length, .iov = iov, .niov = niov};

	return do_blocking(state, &request);
}

static int
script_flush(void *state)
{
	struct blk_request request = {.op = BLK_FLUSH};

	return do_blocking(state, &request);
}

static int
script_zero(void *state, uint64_t offset, uint64_t length, unsigned flags)
{
	struct blk_request request = {
		.op = BLK_ZERO, .flags = flags, .offset = offset, .length = length};

	return do_blocking(state, &request);
}

static int
script_discard(void *state, uint64_t offset, uint64_t length)
{
	struct blk_request request = {.op = BLK_DISCARD, .offset = offset, .length = length};

	return do_blocking(state, &request);
}

static int
script_extents(void *state, uint64_t offset, uint64_t length, struct blk_extent *extents,
	unsigned *nextents)
{
	struct blk_request request = {.op = BLK_EXTENTS,
		.offset = offset,
		.length = length,
		.extents = extents,
		.nextents = *nextents};
	int rc = do_blocking(state, &request);

	*nextents = request.nextents;
	return rc;
}

static int
script_prefetch(void *state, uint64_t offset, uint64_t length)
{
	struct blk_request request = {.op = BLK_PREFETCH, .offset = offset, .length = length};

	return do_blocking(state, &request);
}

static void
set_functions(struct blk_driver *driver, const struct volume_script_options *options)
{
	uint32_t missing = options->missing;

	*driver = (struct blk_driver){
		.name = "script", .argument = "size", .open = open_script, .close = close_script};
	if (!options->blocking) {
		driver->submit = submit_script;
		driver->cancel = options->cancels ? cancel_script : NULL;
		return;
	}
	driver->read = missing & 1u << BLK_READ ? NULL : script_read;
	driver->write = missing & 1u << BLK_WRITE ? NULL : script_write;
	driver->flush = missing & 1u << BLK_FLUSH ? NULL : script_flush;
	driver->zero = missing & 1u << BLK_ZERO ? NULL : script_zero;
	driver->discard = missing & 1u << BLK_DISCARD ? NULL : script_discard;
	driver->extents = missing & 1u << BLK_EXTENTS ? NULL : script_extents;
	driver->prefetch = missing & 1u << BLK_PREFETCH ? NULL : script_prefetch;
}

static void
set_defaults(struct volume_script_options *o)
{
	o->name = o->name ? o->name : "script";
	o->size = o->size ? o->size : MIB;
	o->block_size = o->block_size ? o->block_size : 512;
	o->physical_block_size = o->physical_block_size ? o->physical_block_size : o->block_size;
	o->alignment = o->alignment ? o->alignment : 1;
	o->transfer_max = o->transfer_max ? o->transfer_max : 32 * MIB;
	o->discard_granularity = o->discard_granularity ? o->discard_granularity : o->block_size;
}

struct volume_script *
volume_script_open(const struct volume_script_options *options)
{
	struct volume_script *script = calloc(1, sizeof(*script));
	struct volume_script_options *o;
	struct conf_volume conf = {0};
	struct error error;
	char backend[] = "script", name[LIMIT_VOLUME_NAME + 1];
	int rc;

	CHECK(script);
	script->options = *options;
	o = &script->options;
	set_defaults(o);
	script->data = calloc(1, o->size);
	script->holes = calloc(1, o->size / o->block_size + 1);
	script->calls = calloc(SCRIPT_CALLS, sizeof(*script->calls));
	CHECK(script->data && script->holes && script->calls && strlen(o->name) < sizeof(name));
	pthread_mutex_init(&script->lock, NULL);
	set_functions(&script->driver, o);
	strcpy(name, o->name);
	conf.name = name;
	conf.backend = backend;
	conf.size = o->size;
	conf.block_size = o->block_size;
	conf.physical_block_size = o->physical_block_size;
	conf.read_only = o->read_only;
	conf.rotational = o->rotational;
	opening = script;
	rc = volume_open_driver(&conf, &script->driver, &script->volume, &error);
	CHECK(rc == 0);
	return script;
}

void
volume_script_close(struct volume_script *script)
{
	volume_put(script->volume);
}

struct volume *
volume_script_volume(struct volume_script *script)
{
	return script->volume;
}

uint8_t *
volume_script_data(struct volume_script *script)
{
	return script->data;
}

void
volume_script_punch(struct volume_script *script, uint64_t offset, uint64_t length)
{
	pthread_mutex_lock(&script->lock);
	memset(script->data + offset, 0, length);
	mark_holes(script, offset, length, true);
	pthread_mutex_unlock(&script->lock);
}

void
volume_script_hold(struct volume_script *script, bool hold)
{
	pthread_mutex_lock(&script->lock);
	CHECK(!script->options.blocking && !script->options.forgets);
	script->hold = hold;
	/* What is held is not carried out before blk_submit() returns. */
	script->volume->info.carried_inline = !hold && carried_inline(&script->options);
	pthread_mutex_unlock(&script->lock);
}

void
volume_script_fail(struct volume_script *script, enum blk_op op, int rc, unsigned times)
{
	pthread_mutex_lock(&script->lock);
	script->fail[op].rc = rc;
	script->fail[op].times = times;
	pthread_mutex_unlock(&script->lock);
}

unsigned
volume_script_calls(struct volume_script *script)
{
	unsigned n;

	pthread_mutex_lock(&script->lock);
	n = script->ncalls;
	pthread_mutex_unlock(&script->lock);
	return n;
}

const struct script_call *
volume_script_call(struct volume_script *script, unsigned index)
{
	CHECK(index < volume_script_calls(script));
	return &script->calls[index];
}

void
volume_script_forget(struct volume_script *script)
{
	pthread_mutex_lock(&script->lock);
	CHECK(script->nheld == 0);
	script->ncalls = 0;
	pthread_mutex_unlock(&script->lock);
}

unsigned
volume_script_held(struct volume_script *script)
{
	unsigned n;

	pthread_mutex_lock(&script->lock);
	n = script->nheld;
	pthread_mutex_unlock(&script->lock);
	return n;
}

void
volume_script_complete(struct volume_script *script, unsigned index, int rc)
{
	struct blk_request *request;
	struct script_call *call;

	pthread_mutex_lock(&script->lock);
	CHECK(index < script->ncalls && script->calls[index].request);
	call = &script->calls[index];
	request = call->request;
	call->request = NULL;
	call->completed = true;
	call->rc = rc ? rc : carry_out(script, request);
	rc = call->rc;
	script->nheld--;
	pthread_mutex_unlock(&script->lock);
	blk_complete(request, rc);
}

void
volume_script_complete_all(struct volume_script *script, int rc)
{
	for (unsigned i = 0; i < volume_script_calls(script); i++)
		if (volume_script_call(script, i)->request)
			volume_script_complete(script, i, rc);
}
