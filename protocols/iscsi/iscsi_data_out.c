#include "config.h"

#include "iscsi/iscsi.h"

#include <string.h>

#include "check.h"

/*
 * A task's data-out on the wire: R2T and Data-Out (RFC 7143 11.8, 11.7). What is to come is a list of
 * bursts: the unsolicited one, or up to MaxOutstandingR2T that were asked for. Within a burst data
 * comes by ascending offsets, or, with DataPDUInOrder=No, in any order: then a record of ranges says
 * what is there, since nothing that did not come may be written.
 */

static void
remove_range(struct iscsi_ranges *ranges, unsigned at)
{
	ranges->count--;
	memmove(ranges->range + at, ranges->range + at + 1,
		(ranges->count - at) * sizeof(ranges->range[0]));
}

enum note { NOTE_NEW, NOTE_TWICE, NOTE_NO_ROOM };

/* Notes [start, end), start < end. */
static enum note
note_range(struct iscsi_ranges *ranges, uint32_t start, uint32_t end)
{
	struct iscsi_range *r = ranges->range;
	unsigned at = 0;
	bool before, after;

	while (at < ranges->count && r[at].end <= start)
		at++;
	if (at < ranges->count && r[at].start < end)
		return NOTE_TWICE;
	before = at > 0 && r[at - 1].end == start;
	after = at < ranges->count && r[at].start == end;
	if (before && after) {
		r[at - 1].end = r[at].end;
		remove_range(ranges, at);
	} else if (before) {
		r[at - 1].end = end;
	} else if (after) {
		r[at].start = start;
	} else {
		if (ranges->count == LIMIT_ISCSI_RANGES)
			return NOTE_NO_ROOM;
		memmove(r + at + 1, r + at, (ranges->count - at) * sizeof(*r));
		r[at] = (struct iscsi_range){start, end};
		ranges->count++;
	}
	return NOTE_NEW;
}

bool
iscsi_data_sink(struct iscsi_task *task, size_t offset, size_t length)
{
	struct iscsi_rx *rx = &task->conn->rx;
	struct iobuf *out = &task->scsi.out;
	size_t end = min_size(offset + length, task->out_want);

	if (offset >= task->out_want)
		return true; /* more than the command takes: it passes by */
	/* Piece by piece as data comes, each but the last a whole one. */
	while (out->length < end) {
		if (iobuf_take(out, min_size(task->out_want - out->length,
					    LIMIT_IOBUF_PIECE - out->length % LIMIT_IOBUF_PIECE))) {
			iscsi_task_refuse(task, SCSI_BUSY);
			return false;
		}
	}
	rx->iov = out->iov;
	rx->niov = out->niov;
	rx->skip = offset;
	return true;
}

void
iscsi_data_announce(struct iscsi_task *task, uint32_t ttt, size_t start, size_t end)
{
	CHECK(task->nbursts < LIMIT_ISCSI_R2TS);
	task->bursts[task->nbursts++] =
		(struct iscsi_burst){.ttt = ttt, .start = (uint32_t)start, .end = (uint32_t)end};
}

/* False: no memory, and the connection is dying. */
static bool
send_r2t(struct iscsi_task *task, size_t burst)
{
	struct iscsi_session *session = task->session;
	struct iscsi_reply *reply = iscsi_reply_new(task->conn, ISCSI_R2T, task->itt);

	if (!reply)
		return false;
	if (++session->ttt == ISCSI_TAG_NONE)
		session->ttt = 0;
	iscsi_data_announce(task, session->ttt, task->out_asked, task->out_asked + burst);
	memcpy(reply->head + BHS_LUN, task->scsi.lun, sizeof(task->scsi.lun));
	put_be32(reply->head + BHS_TTT, session->ttt);
	put_be32(reply->head + BHS_DATASN, task->r2tsn++);
	put_be32(reply->head + BHS_OFFSET, (uint32_t)task->out_asked);
	put_be32(reply->head + BHS_DESIRED, (uint32_t)burst);
	task->out_asked += burst;
	/* 11.8: StatSN is carried and not advanced. */
	iscsi_reply_push(reply, 0, STATSN_NEXT);
	return true;
}

void
iscsi_data_solicit(struct iscsi_task *task)
{
	const struct iscsi_params *params = &task->session->params;

	task->progress = loop_now(task->conn->loop);
	while (task->out_asked < task->out_want && task->nbursts < params->max_r2t &&
		send_r2t(task, min_size(task->out_want - task->out_asked, params->max_burst)))
		;
}

static struct iscsi_burst *
find_burst(struct iscsi_task *task, uint32_t ttt)
{
	unsigned i;

	for (i = 0; i < task->nbursts; i++) {
		if (task->bursts[i].ttt == ttt)
			return &task->bursts[i];
	}
	return NULL;
}

/* Its place among what came, where PDUs may come in any order. */
static enum note
note_data(struct iscsi_task *task, uint32_t offset, uint32_t length)
{
	if (length == 0)
		return NOTE_NEW;
	if (!task->ranges) {
		task->ranges = slab_alloc(iscsi_caches.ranges);
		if (!task->ranges)
			return NOTE_NO_ROOM;
		task->ranges->count = 0;
	}
	return note_range(task->ranges, offset, offset + length);
}

/* 7.9: a PDU in its burst. Fails the task, or sets the sink. */
static void
place_data(struct iscsi_task *task, const struct iscsi_burst *burst)
{
	const struct iscsi_params *params = &task->session->params;
	const struct iscsi_rx *rx = &task->conn->rx;
	uint32_t offset = get_be32(rx->head + BHS_OFFSET);
	enum note note;

	if (!range_within(offset, rx->data_length, burst->end)) {
		iscsi_task_fail(task, 0x0c, 0x0d); /* more than was agreed */
		return;
	}
	/* Something is missing in between, or comes again. */
	if (get_be32(rx->head + BHS_DATASN) != burst->datasn || offset < burst->start ||
		(params->data_sequence_in_order && burst != &task->bursts[0]) ||
		(params->data_pdu_in_order && offset != burst->start + burst->got)) {
		iscsi_task_fail(task, 0x47, 0x05);
		return;
	}
	if (!params->data_pdu_in_order) {
		note = note_data(task, offset, rx->data_length);
		if (note == NOTE_TWICE)
			iscsi_task_fail(task, 0x47, 0x05);
		else if (note == NOTE_NO_ROOM)
			iscsi_task_refuse(task, SCSI_BUSY);
		if (note != NOTE_NEW)
			return;
	}
	iscsi_data_sink(task, offset, rx->data_length);
}

void
iscsi_data_begin(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	uint32_t ttt = get_be32(rx->head + BHS_TTT);
	struct iscsi_task *task = iscsi_task_find(conn->session, get_be32(rx->head + BHS_ITT));
	const struct iscsi_burst *burst;

	/* Data of a task that was aborted may still be on its way. */
	rx->drop = true;
	if (!task || task->state != TASK_COLLECT)
		return;
	if (task->conn != conn) { /* 4.2.5.1: allegiance */
		rx->reject = ISCSI_REJECT_PROTOCOL;
		return;
	}
	burst = find_burst(task, ttt);
	if (!burst && ttt == ISCSI_TAG_NONE) {
		iscsi_task_fail(task, 0x0c, 0x0c); /* 11.4.7.2: unexpected unsolicited data */
		iscsi_task_go(task);
		return;
	}
	if (!burst) {
		rx->reject = ISCSI_REJECT_FIELD;
		return;
	}
	rx->drop = false;
	rx->task = task;
	if (!task->refused)
		place_data(task, burst);
}

/* A burst is over: with F, or when all of it has come. False: it goes on. */
static bool
end_burst(struct iscsi_task *task, struct iscsi_burst *burst, bool final)
{
	uint32_t length = burst->end - burst->start;

	if (!final && (task->refused || burst->got < length))
		return false;
	/* A solicited one brings all that was asked for; an unsolicited one may be shorter, without
	 * a hole. */
	if (burst->ttt != ISCSI_TAG_NONE) {
		if (burst->got < length)
			iscsi_task_fail(task, 0x0c, 0x0d);
	} else {
		if (burst->top > burst->start + burst->got)
			iscsi_task_fail(task, 0x47, 0x05);
		task->out_asked = burst->start + burst->got;
	}
	task->nbursts--;
	memmove(burst, burst + 1, (size_t)(task->bursts + task->nbursts - burst) * sizeof(*burst));
	return true;
}

void
iscsi_data_finish(struct iscsi_conn *conn)
{
	struct iscsi_rx *rx = &conn->rx;
	struct iscsi_task *task = rx->task;
	uint32_t end = get_be32(rx->head + BHS_OFFSET) + rx->data_length;
	struct iscsi_burst *burst;

	rx->task = NULL;
	if (rx->bad_digest) {
		/* 7.8: a Reject now, and CHECK CONDITION when the sequence is over. */
		iscsi_reply_reject(conn, ISCSI_REJECT_DIGEST, rx->head);
		if (conn->dying)
			return;
		iscsi_task_fail(task, 0x47, 0x05);
	}
	task->progress = loop_now(conn->loop);
	burst = find_burst(task, get_be32(rx->head + BHS_TTT));
	burst->datasn++;
	burst->got += rx->data_length;
	if (end > burst->top)
		burst->top = end;
	if (end_burst(task, burst, rx->head[BHS_FLAGS] & ISCSI_FINAL))
		iscsi_task_go(task);
}
