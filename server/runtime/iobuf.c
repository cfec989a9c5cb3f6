#include "config.h"

#include "iobuf.h"

#include <errno.h>
#include <stdatomic.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"
#include "slab.h"

#define PAYLOAD_MAX (LIMIT_IOBUF_SHARE / 2)

/* Pieces come in five sizes. A piece's length says which: it is never changed but by iobuf_take().
 * Large ones lie in huge pages: what O_DIRECT costs the kernel, and a device, is counted in pages.
 */
static struct size_class {
	size_t size;
	const char *name;
	unsigned flags;
	struct slab_cache *cache;
} classes[] = {
	{4 * KIB, "iobuf_4k", 0, NULL},
	{16 * KIB, "iobuf_16k", 0, NULL},
	{64 * KIB, "iobuf_64k", SLAB_HUGE_PAGES, NULL},
	{256 * KIB, "iobuf_256k", SLAB_HUGE_PAGES, NULL},
	{LIMIT_IOBUF_PIECE, "iobuf_1m", SLAB_HUGE_PAGES, NULL},
};

static struct slab_cache *vector_cache;

TAILQ_HEAD(accounts, iobuf_account);

/* One loop's, touched by its thread only; `total` is read by others. */
static struct budget {
	_Alignas(64) size_t reserved[2];
	_Atomic uint64_t total;
	struct accounts waiting; /* in order of arrival */
	struct accounts granted; /* to be told */
	struct loop_task task;
	bool used; /* the lists are made */
} budgets[LIMIT_LOOPS + 1];

static int
make_caches(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(classes); i++) {
		if (!classes[i].cache)
			classes[i].cache = slab_cache_new(
				classes[i].name, classes[i].size, 4096, classes[i].flags, NULL);
		if (!classes[i].cache)
			return -ENOMEM;
	}
	if (!vector_cache)
		vector_cache = slab_cache_new(
			"iobuf_vector", LIMIT_IOBUF_PIECES * sizeof(struct iovec), 0, 0, NULL);
	return vector_cache ? 0 : -ENOMEM;
}

int
iobuf_start(void)
{
	return make_caches();
}

static const struct size_class *
class_of(size_t length)
{
	const struct size_class *class = classes;

	while (class->size < length)
		class ++;
	return class;
}

/* Room for one more entry. */
static bool
grow_vector(struct iobuf *buffer)
{
	struct iovec *iov;
	unsigned i;

	if (buffer->niov < ARRAY_SIZE(buffer->few)) {
		buffer->iov = buffer->few;
		return true;
	}
	if (buffer->iov != buffer->few)
		return buffer->niov < LIMIT_IOBUF_PIECES;
	iov = slab_alloc(vector_cache);
	if (!iov)
		return false;
	for (i = 0; i < buffer->niov; i++)
		iov[i] = buffer->few[i];
	buffer->iov = iov;
	return true;
}

/* The last piece may have been cut from a larger class than it uses. */
static size_t
extend_last(struct iobuf *buffer, size_t bytes)
{
	struct iovec *last;
	size_t room;

	if (buffer->niov == 0)
		return 0;
	last = &buffer->iov[buffer->niov - 1];
	room = min_size(class_of(last->iov_len)->size - last->iov_len,
		LIMIT_IOBUF_PIECE - (buffer->length - last->iov_len) % LIMIT_IOBUF_PIECE -
			last->iov_len);
	room = min_size(room, bytes);
	last->iov_len += room;
	buffer->length += room;
	return room;
}

static size_t
add_piece(struct iobuf *buffer, size_t bytes)
{
	size_t length = min_size(bytes, LIMIT_IOBUF_PIECE - buffer->length % LIMIT_IOBUF_PIECE);
	void *piece;

	if (!grow_vector(buffer))
		return 0;
	piece = slab_alloc(class_of(length)->cache);
	if (!piece)
		return 0;
	buffer->iov[buffer->niov++] = (struct iovec){.iov_base = piece, .iov_len = length};
	buffer->length += length;
	return length;
}

static void
free_piece(const struct iovec *piece)
{
	slab_free(class_of(piece->iov_len)->cache, piece->iov_base);
}

/* Back to what it was before iobuf_take() failed half-way. */
static void
restore_buffer(struct iobuf *buffer, unsigned niov, size_t length, size_t last_length)
{
	while (buffer->niov > niov)
		free_piece(&buffer->iov[--buffer->niov]);
	if (niov > 0)
		buffer->iov[niov - 1].iov_len = last_length;
	buffer->length = length;
	if (niov == 0)
		iobuf_free(buffer);
}

int
iobuf_take(struct iobuf *buffer, size_t bytes)
{
	unsigned niov = buffer->niov;
	size_t length = buffer->length;
	size_t last_length = niov ? buffer->iov[niov - 1].iov_len : 0;
	size_t got;

	bytes -= extend_last(buffer, bytes);
	while (bytes > 0) {
		got = add_piece(buffer, bytes);
		if (got == 0) {
			restore_buffer(buffer, niov, length, last_length);
			return -ENOMEM;
		}
		bytes -= got;
	}
	return 0;
}

void
iobuf_free(struct iobuf *buffer)
{
	unsigned i;

	for (i = 0; i < buffer->niov; i++)
		free_piece(&buffer->iov[i]);
	if (buffer->iov && buffer->iov != buffer->few)
		slab_free(vector_cache, buffer->iov);
	buffer->iov = NULL;
	buffer->niov = 0;
	buffer->length = 0;
}

static struct budget *
budget_of(const struct iobuf_account *account)
{
	return &budgets[loop_index(account->loop)];
}

static void
set_total(struct budget *budget)
{
	atomic_store_explicit(&budget->total,
		budget->reserved[IOBUF_PAYLOAD] + budget->reserved[IOBUF_READY],
		memory_order_relaxed);
}

static void
add_reserved(struct iobuf_account *account, size_t bytes, enum iobuf_use use)
{
	struct budget *budget = budget_of(account);

	account->reserved[use] += bytes;
	budget->reserved[use] += bytes;
	set_total(budget);
}

static void
sub_reserved(struct iobuf_account *account, size_t bytes, enum iobuf_use use)
{
	struct budget *budget = budget_of(account);

	CHECK(account->reserved[use] >= bytes);
	account->reserved[use] -= bytes;
	budget->reserved[use] -= bytes;
	set_total(budget);
}

/* iobuf_arrived() and iobuf_charge() may carry a client, or a loop, past its part of READY: then nothing fits for a
 * while. */
static bool
fits(size_t used, size_t bytes, size_t most)
{
	return used <= most && bytes <= most - used;
}

static bool
client_allows(const struct iobuf_account *account, size_t bytes, enum iobuf_use use)
{
	return fits(account->reserved[use], bytes, LIMIT_IOBUF_CLIENT);
}

static bool
use_allows(const struct budget *budget, size_t bytes, enum iobuf_use use)
{
	return use == IOBUF_READY || fits(budget->reserved[use], bytes, PAYLOAD_MAX);
}

static bool
share_allows(const struct budget *budget, size_t bytes)
{
	return fits(budget->reserved[IOBUF_PAYLOAD] + budget->reserved[IOBUF_READY], bytes,
		LIMIT_IOBUF_SHARE);
}

static void
tell_granted(struct loop_task *task)
{
	struct budget *budget = container_of(task, struct budget, task);
	struct iobuf_account *account;

	while ((account = TAILQ_FIRST(&budget->granted))) {
		TAILQ_REMOVE(&budget->granted, account, link);
		account->granting = false;
		account->granted(account);
	}
}

static void
grant_account(struct budget *budget, struct iobuf_account *account)
{
	TAILQ_REMOVE(&budget->waiting, account, link);
	account->waiting = false;
	account->granting = true;
	add_reserved(account, account->want, account->want_use);
	TAILQ_INSERT_TAIL(&budget->granted, account, link);
	if (!budget->task.queued)
		loop_defer(account->loop, &budget->task);
}

/*
 * Serves those who wait, in order of arrival. Who waits for something of his own (his part, or the
 * payloads' part) does not hold up those behind him who do not need it; who waits for the share
 * does, or small requests would starve large ones.
 */
static void
serve_waiting(struct budget *budget)
{
	struct iobuf_account *account;
	struct iobuf_account *next;
	bool payload_blocked = false;

	for (account = TAILQ_FIRST(&budget->waiting); account; account = next) {
		next = TAILQ_NEXT(account, link);
		if (!client_allows(account, account->want, account->want_use))
			continue;
		if (account->want_use == IOBUF_PAYLOAD && payload_blocked)
			continue;
		if (!use_allows(budget, account->want, account->want_use)) {
			payload_blocked = true;
			continue;
		}
		if (!share_allows(budget, account->want))
			break;
		grant_account(budget, account);
	}
}

void
iobuf_account_init(struct iobuf_account *account, struct loop *loop,
	void (*granted)(struct iobuf_account *account))
{
	struct budget *budget = &budgets[loop_index(loop)];

	account->loop = loop;
	account->granted = granted;
	if (budget->used)
		return;
	budget->used = true;
	budget->task.run = tell_granted;
	TAILQ_INIT(&budget->waiting);
	TAILQ_INIT(&budget->granted);
}

/* Nobody waits who could be served, so with others waiting this one is granted only past them. */
static bool
try_past_waiting(struct budget *budget, struct iobuf_account *account)
{
	serve_waiting(budget);
	if (account->waiting)
		return false;
	TAILQ_REMOVE(&budget->granted, account, link);
	account->granting = false;
	return true;
}

bool
iobuf_reserve(struct iobuf_account *account, size_t bytes, enum iobuf_use use)
{
	struct budget *budget = budget_of(account);

	CHECK(bytes <= LIMIT_IOBUF_CLIENT);
	CHECK(!account->waiting && !account->granting);
	if (TAILQ_EMPTY(&budget->waiting) && client_allows(account, bytes, use) &&
		use_allows(budget, bytes, use) && share_allows(budget, bytes)) {
		add_reserved(account, bytes, use);
		return true;
	}
	account->waiting = true;
	account->want = bytes;
	account->want_use = use;
	TAILQ_INSERT_TAIL(&budget->waiting, account, link);
	return try_past_waiting(budget, account);
}

void
iobuf_unreserve(struct iobuf_account *account, size_t bytes, enum iobuf_use use)
{
	struct budget *budget = budget_of(account);

	sub_reserved(account, bytes, use);
	if (!TAILQ_EMPTY(&budget->waiting))
		serve_waiting(budget);
}

void
iobuf_charge(struct iobuf_account *account, size_t bytes, enum iobuf_use use)
{
	add_reserved(account, bytes, use);
}

void
iobuf_arrived(struct iobuf_account *account, size_t bytes)
{
	struct budget *budget = budget_of(account);

	sub_reserved(account, bytes, IOBUF_PAYLOAD);
	add_reserved(account, bytes, IOBUF_READY);
	if (!TAILQ_EMPTY(&budget->waiting))
		serve_waiting(budget);
}

void
iobuf_account_close(struct iobuf_account *account)
{
	struct budget *budget;

	if (!account->loop)
		return;
	budget = budget_of(account);
	if (account->waiting)
		TAILQ_REMOVE(&budget->waiting, account, link);
	if (account->granting)
		TAILQ_REMOVE(&budget->granted, account, link);
	account->waiting = false;
	account->granting = false;
	sub_reserved(account, account->reserved[IOBUF_PAYLOAD], IOBUF_PAYLOAD);
	sub_reserved(account, account->reserved[IOBUF_READY], IOBUF_READY);
	account->loop = NULL;
	serve_waiting(budget);
}

uint64_t
iobuf_reserved(unsigned loop)
{
	CHECK(loop <= LIMIT_LOOPS);
	return atomic_load_explicit(&budgets[loop].total, memory_order_relaxed);
}
