/*
 * Asymmetric logical unit access, SPC-4 5.15: states of target port groups, what is refused in them, and
 * REPORT TARGET PORT GROUPS.
 */
#include "config.h"

#include "scsi/scsi_internal.h"

#include "check.h"

void
scsi_alua_sync(struct scsi_nexus *nexus)
{
	bool changed = false;

	nexus->alua_generation = atomic_load_explicit(&alua_generation, memory_order_acquire);
	nexus->limited = false;
	for (unsigned i = 0; i < nexus->nports; i++) {
		struct scsi_port *port = &nexus->ports[i];
		enum alua_state state = alua_get(nexus->target, port->group);

		changed = changed || state != port->state;
		port->altered = port->altered || state != port->state;
		port->state = state;
		nexus->limited = nexus->limited || state >= ALUA_STANDBY;
	}
	for (unsigned i = 0; changed && i < nexus->nunits; i++)
		nexus->units[i]->attentions |= ATTENTION_ALUA;
}

/* SPC-4 5.15.2.4.4 and 5.15.2.4.5: what is still answered. */
static bool
is_allowed(const struct scsi_opcode *row, enum alua_state state)
{
	switch (row->opcode) {
	case OP_INQUIRY:
	case OP_REPORT_LUNS:
	case OP_REQUEST_SENSE:
		return true;
	case OP_MAINTENANCE_IN:
		return row->action == SA_REPORT_PORT_GROUPS;
	case OP_LOG_SENSE:
	case OP_MODE_SELECT_6:
	case OP_MODE_SELECT_10:
	case OP_MODE_SENSE_6:
	case OP_MODE_SENSE_10:
	case OP_RECEIVE_DIAGNOSTIC:
	case OP_SEND_DIAGNOSTIC:
	case OP_RESERVE_IN:
	case OP_RESERVE_OUT:
		return state == ALUA_STANDBY;
	default:
		return false;
	}
}

bool
scsi_alua_check(struct scsi_task *task, const struct scsi_opcode *row)
{
	const struct scsi_port *port = scsi_nexus_find_port(task->nexus, task->portal_id);

	if (!port || port->state < ALUA_STANDBY || is_allowed(row, port->state))
		return true;
	return scsi_fail(
		task, KEY_NOT_READY, port->state == ALUA_STANDBY ? ASC_STANDBY : ASC_UNAVAILABLE);
}

/* REPORT TARGET PORT GROUPS */

#define GROUP_SUPPORTED 0x0f /* U_SUP, S_SUP, AN_SUP, AO_SUP */
#define GROUP_ALTERED   0x02 /* STATUS CODE: implicitly, since the nexus began */

bool
prepare_report_port_groups(struct scsi_task *task)
{
	task->in_max = min_u64(get_be32(task->cdb + 6), SCSI_PAGE_MAX);
	return true;
}

static bool
first_of_group(const struct scsi_nexus *nexus, unsigned index)
{
	for (unsigned i = 0; i < index; i++) {
		if (nexus->ports[i].group == nexus->ports[index].group)
			return false;
	}
	return true;
}

static void
put_group(const struct scsi_nexus *nexus, const struct scsi_port *first, struct writer *w)
{
	size_t start = w->length;
	uint8_t ports = 0;

	writer_u8(w, (uint8_t)first->state);
	writer_u8(w, GROUP_SUPPORTED);
	writer_be16(w, first->group);
	writer_u8(w, 0);
	writer_u8(w, first->altered ? GROUP_ALTERED : 0);
	writer_be16(w, 0); /* the last byte counts the ports */
	for (unsigned i = 0; i < nexus->nports && ports < UINT8_MAX; i++) {
		if (nexus->ports[i].group != first->group)
			continue;
		writer_be16(w, 0);
		writer_be16(w, nexus->ports[i].relative_id);
		ports++;
	}
	if (!w->bad)
		w->start[start + 7] = ports;
}

void
execute_report_port_groups(struct scsi_task *task)
{
	const struct scsi_nexus *nexus = task->nexus;
	uint8_t page[SCSI_PAGE_MAX];
	struct writer w = writer_of(page, sizeof(page));

	writer_be32(&w, 0);
	for (unsigned i = 0; i < nexus->nports; i++) {
		if (first_of_group(nexus, i))
			put_group(nexus, &nexus->ports[i], &w);
	}
	CHECK(!w.bad);
	put_be32(page, (uint32_t)w.length - 4);
	scsi_data_in(task, page, w.length, get_be32(task->cdb + 6));
	scsi_finish(task);
}
/* Listeners are ports; each may be a group. */
_Static_assert(4 + LIMIT_LISTENERS * 12 <= SCSI_PAGE_MAX, "every group fits the report");
