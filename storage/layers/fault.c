/* The fault layer: asks the rules about every request, and does what they say. */
#include "config.h"

#include "fault.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "fault_rule.h"
#include "../storage.h"

#define PART_PIECES 64

struct fault {
	/* Rules are changed on the main thread and count on every loop. */
	pthread_mutex_t lock;
	unsigned nrules;
	struct fault_rule rules[LIMIT_FAULT_RULES];
};

/* What is to become of a request. */
struct verdict {
	int rc;
	uint64_t delay_ns;
	enum fault_part part;
	uint64_t part_bytes;
};

/* The first bytes of a request that is cut short, on their own way down. */
struct cut {
	struct blk_request part;
	struct blk_request *whole;
	int rc; /* of the whole, unless the part fails itself */
	struct iovec iov[PART_PIECES];
};

static void
report(const struct fault_rule *rule, const struct blk_request *request)
{
	char text[sizeof(((struct fault_stats *)NULL)->rule)];

	if (rule->verbose == 0)
		return;
	fault_rule_text(rule, text, sizeof(text));
	log_info("volume %s: fault %" PRIu64 " of %" PRIu64 ": %s at %" PRIu64 ", %" PRIu64
		 " bytes%s%s (%s)",
		request->handle->volume->name, rule->injected, rule->candidates,
		blk_op_name(request->op), request->offset, request->length,
		rule->verbose > 1 ? ", of " : "",
		rule->verbose > 1 ? blk_name(request->handle) : "", text);
}

/* True: some rule chose it. */
static bool
judge(struct fault *fault, const struct blk_request *request, bool late, struct verdict *verdict)
{
	bool chosen = false;

	*verdict = (struct verdict){0};
	pthread_mutex_lock(&fault->lock);
	for (unsigned i = 0; i < fault->nrules; i++) {
		struct fault_rule *rule = &fault->rules[i];

		if (rule->late != late || !fault_rule_choose(rule, request))
			continue;
		chosen = true;
		report(rule, request);
		verdict->delay_ns += fault_rule_delay(rule);
		verdict->rc = rule->rc;
		verdict->part = rule->part;
		verdict->part_bytes = rule->part_bytes;
		if (rule->rc || rule->part != PART_ALL)
			break;
	}
	pthread_mutex_unlock(&fault->lock);
	return chosen;
}

static void
end_now(struct blk_request *request)
{
	blk_complete(request, request->rc);
}

/* R10: what was not read is not what the buffer had before. */
static void
clear_rest(const struct blk_request *whole, uint64_t from)
{
	if (whole->op == BLK_READ)
		iov_zero(whole->iov, whole->niov, from, whole->length - from);
}

static void
part_done(struct blk_request *part)
{
	struct cut *cut = container_of(part, struct cut, part);
	struct blk_request *whole = cut->whole;
	int rc = part->rc ? part->rc : cut->rc;

	clear_rest(whole, part->length);
	free(cut);
	blk_complete(whole, rc);
}

static void
cancel_cut(struct blk_request *whole)
{
	blk_take_back(&((struct cut *)whole->driver[0])->part);
}

static void
pass_part(struct blk_request *part)
{
	layer_pass_part(part, container_of(part, struct cut, part)->whole);
}

/* As many whole aligned units as the rule lets through; 0: nothing is. NULL then, or without
 * memory. */
static struct cut *
make_cut(struct blk_request *whole, const struct verdict *verdict)
{
	uint64_t align = whole->handle->volume->align_mask + 1;
	uint64_t length = round_down(min_u64(verdict->part_bytes, whole->length), align);
	struct cut *cut = length && whole->niov <= PART_PIECES ? calloc(1, sizeof(*cut)) : NULL;
	unsigned n = 0;

	if (!cut)
		return NULL;
	cut->whole = whole;
	cut->rc = verdict->rc;
	cut->part = (struct blk_request){.op = whole->op,
		.flags = whole->flags,
		.offset = whole->offset,
		.length = length,
		.iov = cut->iov,
		.done = part_done,
		.handle = whole->handle,
		.state = STATE_SUB | STATE_EMULATED | STATE_LAYERED,
		.task.run = blk_finish};
	whole->driver[0] = (uintptr_t)cut;
	whole->cancel = cancel_cut;
	for (uint64_t left = length; left && n < whole->niov; n++) {
		cut->iov[n] = whole->iov[n];
		cut->iov[n].iov_len = min_size(cut->iov[n].iov_len, left);
		left -= cut->iov[n].iov_len;
	}
	cut->part.niov = n;
	return cut;
}

static void
carry_out_part(struct blk_request *whole, const struct verdict *verdict, uint64_t due)
{
	struct cut *cut = make_cut(whole, verdict);

	if (cut && due) {
		layer_delay(&cut->part, due, pass_part);
	} else if (cut) {
		pass_part(&cut->part);
	} else {
		clear_rest(whole, 0);
		whole->rc = verdict->rc;
		if (due)
			layer_delay(whole, due, end_now);
		else
			end_now(whole);
	}
}

static void
enter_fault(void *state, struct blk_request *request)
{
	struct verdict verdict;
	uint64_t due = 0;

	if (!judge(state, request, false, &verdict)) {
		layer_pass(request);
		return;
	}
	if (verdict.delay_ns)
		due = loop_now(request->handle->loop) + verdict.delay_ns;
	if (verdict.part != PART_ALL) {
		carry_out_part(request, &verdict, due);
		return;
	}
	request->rc = verdict.rc;
	if (due)
		layer_delay(request, due, verdict.rc ? end_now : layer_pass);
	else if (verdict.rc)
		end_now(request);
	else
		layer_pass(request);
}

static bool
leave_fault(void *state, struct blk_request *request)
{
	struct verdict verdict;

	if (request->rc || !judge(state, request, true, &verdict))
		return true;
	request->rc = verdict.rc;
	if (!verdict.delay_ns)
		return true;
	layer_delay(request, loop_now(request->handle->loop) + verdict.delay_ns, end_now);
	/* It is done, and only says so late: as what the kernel has and does not give back. */
	request->cancel = NULL;
	return false;
}

static void
free_fault(void *state)
{
	struct fault *fault = state;

	pthread_mutex_destroy(&fault->lock);
	free(fault);
}

static const struct layer_ops fault_layer = {
	.enter = enter_fault, .leave = leave_fault, .free = free_fault};

/* Each rule of a text, in order. 0 or -errno. */
static int
for_each_rule(const char *rules,
	int (*take)(void *arg, const struct fault_rule *rule, struct error *error), void *arg,
	struct error *error)
{
	for (;;) {
		size_t length = strcspn(rules, ";");
		struct fault_rule rule;
		int rc = fault_rule_parse(rules, length, &rule, error);

		if (!rc && take)
			rc = take(arg, &rule, error);
		if (rc || !rules[length])
			return rc;
		rules += length + 1;
	}
}

int
fault_check(const char *rules, struct error *error)
{
	return for_each_rule(rules, NULL, NULL, error);
}

/* Into a copy that nobody else sees yet. */
static int
take_rule(void *arg, const struct fault_rule *rule, struct error *error)
{
	struct fault *fault = arg;

	for (unsigned i = 0; i < fault->nrules; i++)
		if (fault->rules[i].operations == rule->operations &&
			strcmp(fault->rules[i].client, rule->client) == 0) {
			fault->rules[i] = *rule;
			return 0;
		}
	if (fault->nrules == LIMIT_FAULT_RULES)
		return error_set(
			error, -ENOSPC, "a volume has at most %d fault rules", LIMIT_FAULT_RULES);
	fault->rules[fault->nrules++] = *rule;
	return 0;
}

static struct fault *
get_fault(struct volume *volume)
{
	struct fault *fault = layer_state(volume, LAYER_FAULT);

	if (fault)
		return fault;
	fault = calloc(1, sizeof(*fault));
	if (!fault)
		return NULL;
	pthread_mutex_init(&fault->lock, NULL);
	layer_put_in(volume, LAYER_FAULT, &fault_layer, fault);
	return fault;
}

/* Other threads count, only this one changes which rules there are. */
int
volume_fault_set(struct volume *volume, const char *rules, struct error *error)
{
	struct fault *fault = get_fault(volume);
	struct fault *copy = malloc(sizeof(*copy));
	int rc;

	if (!fault || !copy) {
		free(copy);
		return error_set(error, -ENOMEM, "out of memory");
	}
	pthread_mutex_lock(&fault->lock);
	copy->nrules = fault->nrules;
	memcpy(copy->rules, fault->rules, sizeof(copy->rules));
	rc = for_each_rule(rules, take_rule, copy, error);
	if (!rc) {
		fault->nrules = copy->nrules;
		memcpy(fault->rules, copy->rules, sizeof(copy->rules));
	}
	pthread_mutex_unlock(&fault->lock);
	free(copy);
	layer_switch(volume, LAYER_FAULT, fault->nrules > 0);
	return rc;
}

int
volume_fault_clear(struct volume *volume, const char *operations, struct error *error)
{
	struct fault *fault = layer_state(volume, LAYER_FAULT);
	uint32_t bits = 0;
	unsigned kept = 0, before;

	if (operations) {
		int rc = fault_operations_parse(operations, strlen(operations), &bits, error);

		if (rc)
			return rc;
	}
	if (!fault)
		return operations ? error_set(error, -ENOENT, "there is no such rule") : 0;
	pthread_mutex_lock(&fault->lock);
	before = fault->nrules;
	for (unsigned i = 0; i < before; i++)
		if (operations && fault->rules[i].operations != bits)
			fault->rules[kept++] = fault->rules[i];
	fault->nrules = kept;
	pthread_mutex_unlock(&fault->lock);
	layer_switch(volume, LAYER_FAULT, kept > 0);
	return operations && kept == before ? error_set(error, -ENOENT, "there is no such rule")
					    : 0;
}

void
volume_fault_visit(
	struct volume *volume, void (*visit)(const struct fault_stats *stats, void *arg), void *arg)
{
	struct fault *fault = layer_state(volume, LAYER_FAULT);

	if (!fault)
		return;
	for (unsigned i = 0;; i++) {
		struct fault_stats stats;
		bool there;

		pthread_mutex_lock(&fault->lock);
		there = i < fault->nrules;
		if (there) {
			fault_rule_text(&fault->rules[i], stats.rule, sizeof(stats.rule));
			stats.candidates = fault->rules[i].candidates;
			stats.injected = fault->rules[i].injected;
		}
		pthread_mutex_unlock(&fault->lock);
		if (!there)
			return;
		visit(&stats, arg);
	}
}
