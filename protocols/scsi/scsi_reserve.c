/*
 * PERSISTENT RESERVE IN and OUT (SPC-4 5.13, 6.15, 6.16), RESERVE and RELEASE (SPC-2). What each
 * service action makes of the volume's reservation is decided here; storage/reservation.c does it.
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "reservation.h"

#define OUT_LIST 24
#define OUT_MAX  4096
#define ID_MIN   24        /* SPC-4, TransportID */
#define REFUSED  (-EACCES) /* decide(): sense or RESERVATION CONFLICT is set */

#define LIST_SPEC_I_PT 0x08
#define LIST_ALL_TG_PT 0x04
#define LIST_APTPL     0x01
#define MOVE_UNREG     0x02 /* byte 17 of REGISTER AND MOVE */

static bool
fail_conflict(struct scsi_task *task)
{
	task->status = SCSI_RESERVATION_CONFLICT;
	task->in_length = 0;
	task->sense_length = 0;
	return false;
}

static int
own_index(const struct scsi_task *task, const struct reservation *r)
{
	return reservation_find(r, task->nexus->initiator, task->nexus->port);
}

/* PERSISTENT RESERVE IN */

bool
prepare_reserve_in(struct scsi_task *task)
{
	task->in_max = get_be16(task->cdb + 7);
	return true;
}

static void
put_transport_id(struct writer *w, const char *initiator)
{
	size_t length = round_up(strlen(initiator) + 1, 4);

	length = length < ID_MIN - 4 ? ID_MIN - 4 : length;
	writer_u8(w, 0x45); /* iSCSI, name with ISID. SPC-4 7.6 */
	writer_u8(w, 0);
	writer_be16(w, (uint16_t)length);
	writer_bytes(w, initiator, strlen(initiator));
	writer_zero(w, length - strlen(initiator));
}

static void
put_keys(const struct reservation *r, struct writer *w)
{
	for (unsigned i = 0; r && i < r->count; i++)
		writer_be64(w, r->registrations[i].key);
}

static void
put_reservation(const struct reservation *r, struct writer *w)
{
	if (!r || r->type == RESERVATION_NONE)
		return;
	writer_be64(w, reservation_all_registrants(r->type) ? 0 : r->registrations[r->holder].key);
	writer_be32(w, 0);
	writer_u8(w, 0);
	writer_u8(w, (uint8_t)r->type);
	writer_be16(w, 0);
}

static void
put_full_status(const struct reservation *r, struct writer *w)
{
	for (unsigned i = 0; r && i < r->count; i++) {
		const struct registration *g = &r->registrations[i];
		bool holds = reservation_holds(r, (int)i);
		size_t start;

		writer_be64(w, g->key);
		writer_be32(w, 0);
		writer_u8(w, (uint8_t)((g->all_ports ? 2 : 0) | (holds ? 1 : 0)));
		writer_u8(w, (uint8_t)(holds ? r->type : 0));
		writer_be32(w, 0);
		writer_be16(w, g->all_ports ? 0 : g->port_id);
		writer_be32(w, 0);
		start = w->length;
		put_transport_id(w, g->initiator);
		if (!w->bad)
			put_be32(w->start + start - 4, (uint32_t)(w->length - start));
	}
}

/* A report is longer than a page where many are registered. */
#define REPORT_MAX (8 + LIMIT_RESERVATIONS * (24 + 4 + RESERVATION_NAME))

static void
execute_report(struct scsi_task *task, void (*put)(const struct reservation *r, struct writer *w))
{
	struct reservation *r = reservation_get(blk_volume(task->unit->handle));
	uint8_t *data = malloc(REPORT_MAX);
	struct writer w = writer_of(data, REPORT_MAX);

	if (!data) {
		scsi_fail_busy(task);
	} else {
		writer_be32(&w, r ? r->generation : 0);
		writer_be32(&w, 0);
		put(r, &w);
		CHECK(!w.bad);
		put_be32(data + 4, (uint32_t)w.length - 8);
		scsi_data_in(task, data, w.length, task->in_max);
	}
	free(data);
	reservation_put(r);
	scsi_finish(task);
}

void
execute_read_keys(struct scsi_task *task)
{
	execute_report(task, put_keys);
}

void
execute_read_reservation(struct scsi_task *task)
{
	execute_report(task, put_reservation);
}

void
execute_read_full_status(struct scsi_task *task)
{
	execute_report(task, put_full_status);
}

void
execute_report_capabilities(struct scsi_task *task)
{
	struct reservation *r = reservation_get(blk_volume(task->unit->handle));
	bool survives = reservation_can_survive();
	uint8_t data[8] = {0, 8, (uint8_t)(0x0c | survives), /* SIP_C, ATP_C, PTPL_C */
		(uint8_t)(0x80 | (r && r->survives)),        /* TMV, PTPL_A */
		0xea, 0x01};                                 /* all six types */

	reservation_put(r);
	scsi_data_in(task, data, sizeof(data), task->in_max);
	scsi_finish(task);
}

/* PERSISTENT RESERVE OUT */

/* What a PERSISTENT RESERVE OUT asks for; made when its list is there. */
struct reserve_out {
	struct scsi_task *task;
	struct scsi_abort abort; /* PREEMPT AND ABORT */
	uint8_t action;
	enum reservation_type type;
	uint64_t key, action_key;
	bool all_ports, survives, unregister;
	uint16_t port_id; /* REGISTER AND MOVE */
	char port[RESERVATION_NAME];
	unsigned count; /* initiator ports named in the list */
	char initiators[LIMIT_SCSI_NAMED][RESERVATION_NAME];
};

static bool
known_type(unsigned type)
{
	return type == 1 || type == 3 || (type >= 5 && type <= 8);
}

bool
prepare_reserve_out(struct scsi_task *task)
{
	unsigned action = task->opcode->action;
	uint32_t length = get_be32(task->cdb + 5);

	if (action == SA_RESERVE || action == SA_RELEASE || action == SA_PREEMPT ||
		action == SA_PREEMPT_AND_ABORT) {
		if (task->cdb[2] >> 4 != 0 || !known_type(task->cdb[2] & 0x0f))
			return scsi_fail_cdb(task, 2);
	}
	if (length < OUT_LIST || length > OUT_MAX)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	task->out_length = length;
	return true;
}

/* SPC-4 7.6.4.6, iSCSI TransportID with the ISID (an initiator port). Its length, or 0. */
static size_t
parse_transport_id(const uint8_t *p, size_t left, char initiator[RESERVATION_NAME])
{
	size_t length, name;

	if (left < ID_MIN || p[0] != 0x45)
		return 0;
	length = get_be16(p + 2);
	if (length < ID_MIN - 4 || length % 4 || length > left - 4 || length > RESERVATION_NAME)
		return 0;
	name = strnlen((const char *)p + 4, length);
	if (name == 0 || name == length || name >= RESERVATION_NAME ||
		!memmem(p + 4, name, ",i,0x", 5))
		return 0;
	for (size_t i = 0; i < name; i++) {
		if (p[4 + i] <= ' ' || p[4 + i] >= 0x7f)
			return 0;
	}
	memcpy(initiator, p + 4, name);
	initiator[name] = '\0';
	return 4 + length;
}

static bool
parse_named(struct reserve_out *out, const uint8_t *list, size_t length)
{
	size_t at = 28, used;

	if (length < 28 || get_be32(list + 24) != length - 28)
		return scsi_fail(out->task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	for (; at < length; at += used) {
		if (out->count == LIMIT_SCSI_NAMED)
			return scsi_fail(out->task, KEY_ILLEGAL_REQUEST, ASC_NO_REGISTRATION);
		used = parse_transport_id(list + at, length - at, out->initiators[out->count]);
		if (used == 0)
			return scsi_fail_list(out->task, (unsigned)at);
		out->count++;
	}
	return true;
}

static bool
parse_move(struct reserve_out *out, const uint8_t *list, size_t length)
{
	uint32_t id = get_be32(list + 20);

	out->unregister = list[17] & MOVE_UNREG;
	out->survives = list[17] & LIST_APTPL;
	out->port_id = get_be16(list + 18);
	if ((list[17] & ~(MOVE_UNREG | LIST_APTPL)) != 0)
		return scsi_fail_list(out->task, 17);
	if (id != length - OUT_LIST)
		return scsi_fail(out->task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	if (out->action_key == 0)
		return scsi_fail_list(out->task, 8);
	if (!scsi_nexus_port(out->task->nexus, out->port_id, out->port))
		return scsi_fail_list(out->task, 18);
	if (parse_transport_id(list + OUT_LIST, length - OUT_LIST, out->initiators[0]) != id)
		return scsi_fail_list(out->task, OUT_LIST);
	out->count = 1;
	return true;
}

static bool
parse_list(struct reserve_out *out, const uint8_t *list, size_t length)
{
	bool registers = out->action == SA_REGISTER || out->action == SA_REGISTER_AND_IGNORE;

	out->key = get_be64(list);
	out->action_key = get_be64(list + 8);
	if (out->action == SA_REGISTER_AND_MOVE)
		return parse_move(out, list, length);
	if (list[20] & ~(LIST_SPEC_I_PT | LIST_ALL_TG_PT | LIST_APTPL))
		return scsi_fail_list(out->task, 20);
	if ((list[20] & LIST_SPEC_I_PT) && out->action != SA_REGISTER)
		return scsi_fail_list(out->task, 20);
	if (registers) {
		out->survives = list[20] & LIST_APTPL;
		out->all_ports = list[20] & LIST_ALL_TG_PT;
	}
	if (list[20] & LIST_SPEC_I_PT)
		return parse_named(out, list, length);
	if (length != OUT_LIST)
		return scsi_fail(out->task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	return true;
}

static void
add_registration(struct reserve_out *out, struct reservation *r, const char *initiator,
	const char *port, uint16_t port_id)
{
	struct registration *g = &r->registrations[r->count++];

	*g = (struct registration){
		.key = out->action_key, .all_ports = out->all_ports, .port_id = port_id};
	snprintf(g->initiator, sizeof(g->initiator), "%s", initiator);
	snprintf(g->port, sizeof(g->port), "%s", port);
}

/* SPC-4 5.13.7 */
static int
decide_register(struct reserve_out *out, struct reservation *r, int own)
{
	struct scsi_task *task = out->task;
	bool ignore = out->action == SA_REGISTER_AND_IGNORE;

	if (!ignore && out->key != (own < 0 ? 0 : r->registrations[own].key))
		return fail_conflict(task), REFUSED;
	if (own >= 0 && out->count)
		return scsi_fail_list(task, 20), REFUSED;
	if (own < 0 && out->action_key == 0)
		return 1;
	r->generation++;
	r->survives = out->survives;
	if (own >= 0 && out->action_key == 0) {
		reservation_remove(r, (unsigned)own);
		return 0;
	}
	if (own >= 0) {
		r->registrations[own].key = out->action_key;
		return 0;
	}
	if (r->count + 1 + out->count > LIMIT_RESERVATIONS)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_NO_REGISTRATION), REFUSED;
	add_registration(out, r, task->nexus->initiator, task->nexus->port, task->portal_id);
	for (unsigned i = 0; i < out->count; i++) {
		/* SPC-4 5.13.7: one that is registered already makes all of it fail. */
		if (reservation_find(r, out->initiators[i], task->nexus->port) >= 0)
			return fail_conflict(task), REFUSED;
		add_registration(out, r, out->initiators[i], task->nexus->port, task->portal_id);
	}
	return 0;
}

/* SPC-4 5.13.9 */
static int
decide_reserve(struct reserve_out *out, struct reservation *r, int own)
{
	if (r->type == RESERVATION_NONE) {
		r->type = out->type;
		r->holder = (unsigned)own;
		return 0;
	}
	if (reservation_holds(r, own) && r->type == out->type)
		return 1;
	return fail_conflict(out->task), REFUSED;
}

/* SPC-4 5.13.11.2 */
static int
decide_release(struct reserve_out *out, struct reservation *r, int own)
{
	if (!reservation_holds(r, own))
		return 1;
	if (r->type != out->type)
		return scsi_fail(out->task, KEY_ILLEGAL_REQUEST, ASC_INVALID_RELEASE), REFUSED;
	r->type = RESERVATION_NONE;
	return 0;
}

/* Takes away every registration with that key (`all`: any key) but the own one. How many. */
static unsigned
remove_key(struct reservation *r, uint64_t key, bool all, unsigned *own)
{
	unsigned removed = 0;

	for (unsigned i = r->count; i-- > 0;) {
		if (i == *own || (!all && r->registrations[i].key != key))
			continue;
		reservation_remove(r, i);
		if (i < *own)
			--*own;
		removed++;
	}
	return removed;
}

/* SPC-4 5.13.11.2.4 */
static int
decide_preempt(struct reserve_out *out, struct reservation *r, int index)
{
	bool shared = reservation_all_registrants(r->type), held = r->type != RESERVATION_NONE;
	bool takes_over = shared ? out->action_key == 0
				 : held && r->registrations[r->holder].key == out->action_key;
	unsigned own = (unsigned)index;

	if (out->action_key == 0 && !shared)
		return scsi_fail_list(out->task, 8), REFUSED;
	if (remove_key(r, out->action_key, takes_over && shared, &own) == 0 && !takes_over)
		return fail_conflict(out->task), REFUSED;
	if (takes_over) {
		r->type = out->type;
		r->holder = own;
	}
	r->generation++;
	return 0;
}

/* SPC-4 5.13.8 */
static int
decide_move(struct reserve_out *out, struct reservation *r, int own)
{
	struct scsi_task *task = out->task;
	int to;

	if (!reservation_holds(r, own) || reservation_all_registrants(r->type))
		return fail_conflict(task), REFUSED;
	to = reservation_find(r, out->initiators[0], out->port);
	if (to == own)
		return scsi_fail_list(task, OUT_LIST), REFUSED;
	if (to < 0) {
		if (r->count == LIMIT_RESERVATIONS)
			return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_NO_REGISTRATION), REFUSED;
		to = (int)r->count;
		add_registration(out, r, out->initiators[0], out->port, out->port_id);
	}
	r->registrations[to].key = out->action_key;
	r->holder = (unsigned)to;
	r->generation++;
	r->survives = out->survives;
	if (out->unregister)
		reservation_remove(r, (unsigned)own);
	return 0;
}

static int
decide_out(void *arg, const struct reservation *before, struct reservation *after)
{
	struct reserve_out *out = arg;
	int own = own_index(out->task, before);

	if (out->action == SA_REGISTER || out->action == SA_REGISTER_AND_IGNORE)
		return decide_register(out, after, own);
	if (own < 0 || after->registrations[own].key != out->key)
		return fail_conflict(out->task), REFUSED;
	switch (out->action) {
	case SA_RESERVE:
		return decide_reserve(out, after, own);
	case SA_RELEASE:
		return decide_release(out, after, own);
	case SA_CLEAR:
		after->count = 0;
		after->type = RESERVATION_NONE;
		after->generation++;
		return 0;
	case SA_REGISTER_AND_MOVE:
		return decide_move(out, after, own);
	default:
		return decide_preempt(out, after, own);
	}
}

/* A change that was made, for attention_for(). */
struct made {
	const struct reservation *before, *after;
	uint8_t action;
};

/* What a nexus that was registered is told. SPC-4 5.13 */
static unsigned
attention_for(const struct scsi_unit *unit, void *arg)
{
	const struct made *made = arg;
	const char *initiator = unit->nexus->initiator, *port = unit->nexus->port;
	const struct reservation *before = made->before, *after = made->after;

	if (reservation_find(before, initiator, port) < 0)
		return 0;
	if (made->action == SA_CLEAR)
		return ATTENTION_RESERVATIONS_PREEMPTED;
	if (reservation_find(after, initiator, port) < 0)
		return ATTENTION_REGISTRATIONS_PREEMPTED;
	/* Registrants lose what they shared. */
	if (reservation_shared(before->type) && after->type != before->type)
		return ATTENTION_RESERVATIONS_RELEASED;
	return 0;
}

/* Lost its registration. */
static bool
is_preempted(const struct scsi_unit *unit, void *arg)
{
	return attention_for(unit, arg) == ATTENTION_REGISTRATIONS_PREEMPTED;
}

static void
end_out(struct reserve_out *out)
{
	struct scsi_task *task = out->task;

	free(out);
	scsi_complete(task);
}

/*
 * What it may still have to say is that some task could not be ended: no write of it lands any more,
 * because all that was in flight had ended before the change, and what starts later is refused.
 */
static void
abort_done(struct scsi_abort *abort, bool complete)
{
	(void)complete;
	end_out(container_of(abort, struct reserve_out, abort));
}

static void
out_done(void *arg, int rc, const struct reservation *before, const struct reservation *after)
{
	struct reserve_out *out = arg;
	struct scsi_task *task = out->task;
	struct made made = {before, after, out->action};

	if (rc == 0 && before) {
		scsi_unit_tell(task->unit, attention_for, &made);
		/* SPC-4 5.13.11.2.6. Without memory for it they end in RESERVATION CONFLICT. */
		if (out->action == SA_PREEMPT_AND_ABORT &&
			scsi_unit_abort(task->unit, &out->abort, is_preempted, &made) == 0)
			return;
	} else if (rc == -ENOMEM) {
		scsi_fail_busy(task);
	} else if (rc == -ETIMEDOUT) {
		scsi_fail(task, KEY_ABORTED_COMMAND, ASC_COMMAND_TIMEOUT);
	} else if (rc < 0 && rc != REFUSED) { /* it could not be written down */
		scsi_fail(task, KEY_HARDWARE_ERROR, ASC_INTERNAL_FAILURE);
	}
	end_out(out);
}

static const struct reservation_change_ops out_ops = {decide_out, out_done};

/* Whether somebody may lose what he had: then all that is in flight is waited for. */
static bool
takes_rights(const struct reserve_out *out)
{
	switch (out->action) {
	case SA_REGISTER:
	case SA_REGISTER_AND_IGNORE:
		return out->action_key == 0;
	case SA_RELEASE:
	case SA_CLEAR:
		return false;
	default:
		return true;
	}
}

/* False: the task's end is set. */
static bool
start_out(struct scsi_task *task, struct reserve_out *out)
{
	uint8_t list[OUT_MAX];

	if (task->out.length < task->out_length)
		return scsi_fail(task, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
	iov_to(task->out.iov, task->out.niov, 0, list, (size_t)task->out_length);
	if (!parse_list(out, list, (size_t)task->out_length))
		return false;
	if (out->survives && !reservation_can_survive())
		return scsi_fail_list(task, out->action == SA_REGISTER_AND_MOVE ? 17 : 20);
	if (reservation_change(blk_volume(task->unit->handle), takes_rights(out), &out_ops, out))
		return scsi_fail_busy(task);
	return true;
}

void
execute_reserve_out(struct scsi_task *task)
{
	struct reserve_out *out = calloc(1, sizeof(*out));

	if (!out) {
		scsi_fail_busy(task);
		scsi_finish(task);
		return;
	}
	out->task = task;
	out->abort.done = abort_done;
	out->action = task->opcode->action;
	out->type = (enum reservation_type)(task->cdb[2] & 0x0f);
	if (start_out(task, out))
		return;
	free(out);
	scsi_finish(task);
}

/* RESERVE and RELEASE (SPC-2 7.21, 7.16) */

static int
decide_nothing(void *arg, const struct reservation *before, struct reservation *after)
{
	(void)arg;
	(void)before;
	(void)after;
	return 1;
}

static void
take_done(void *arg, int rc, const struct reservation *before, const struct reservation *after)
{
	struct scsi_task *task = arg;

	(void)before;
	(void)after;
	if (rc == -EBUSY)
		fail_conflict(task);
	else if (rc < 0)
		scsi_fail(task, KEY_ABORTED_COMMAND, ASC_COMMAND_TIMEOUT);
	scsi_complete(task);
}

void
execute_reserve(struct scsi_task *task)
{
	static const struct reservation_change_ops ops = {decide_nothing, take_done};

	if (reservation_take(task->unit->handle, &ops, task) < 0) {
		scsi_fail_busy(task);
		scsi_finish(task);
	}
}

/* SPC-2 7.16: from anybody else it is GOOD and without effect. */
void
execute_release(struct scsi_task *task)
{
	reservation_drop(task->unit->handle, false);
	scsi_finish(task);
}
