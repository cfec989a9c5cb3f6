/* The steps of a session, the same for every protocol. */
#include "config.h"

#include "world.h"

#include <errno.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"

/* The step's number is its first byte modulo STEPS; arguments follow. */
enum {
	STEP_FEED,      /* 16 bits: so many bytes follow and are fed */
	STEP_HOLD,      /* 8 bits: from now on requests are held, or not */
	STEP_COMPLETE,  /* 8 bits: which of those held; 8 bits: with which result */
	STEP_FAIL,      /* 8 bits: which operation fails next; 8 bits: how */
	STEP_ROOM,      /* 16 bits: the peer takes so many bytes more */
	STEP_TAKE,      /* the peer takes all */
	STEP_ADVANCE,   /* 8 bits: so many half seconds pass */
	STEP_SLOW_READ, /* 8 bits: so many bytes in each read; 0: all */
	STEP_EOF,
	STEP_RESET, /* reads and writes fail from now on */
	STEP_DRAIN,
	STEP_VOLUME_GONE,
	STEP_OTHER, /* from now on the other connection's turn, if there is one */
	STEPS
};

static void
change_connection(struct world *world)
{
	struct stream_pipe *pipe = world->pipe;
	bool ended = world->ended;

	if (!world->other)
		return;
	world->pipe = world->other;
	world->other = pipe;
	world->ended = world->other_ended;
	world->other_ended = ended;
}

static int
result(uint8_t byte)
{
	static const int results[] = {0, 0, 0, -EIO, -ENOSPC, -ENOMEM, -ERANGE, -EILSEQ};

	return results[byte % ARRAY_SIZE(results)];
}

static void
complete_held(struct world *world, unsigned index, int rc)
{
	unsigned calls = volume_script_calls(world->script);

	if (!volume_script_held(world->script))
		return;
	index %= volume_script_held(world->script);
	for (unsigned i = 0; i < calls; i++)
		if (!volume_script_call(world->script, i)->completed && index-- == 0) {
			volume_script_complete(world->script, i, rc);
			return;
		}
}

static void
do_step(struct world *world, struct reader *reader, void (*took)(struct world *world))
{
	const uint8_t *bytes = reader_bytes(reader, 1);
	size_t length;
	uint8_t byte;

	switch (bytes ? *bytes % STEPS : STEPS) {
	case STEP_FEED:
		length = min_size(reader_be16(reader), reader->left);
		bytes = reader_bytes(reader, length);
		if (bytes && !world->ended)
			pipe_feed(world->pipe, bytes, length);
		break;
	case STEP_HOLD:
		bytes = reader_bytes(reader, 1);
		volume_script_hold(world->script, bytes && *bytes & 1);
		break;
	case STEP_COMPLETE:
		bytes = reader_bytes(reader, 2);
		if (bytes)
			complete_held(world, bytes[0], result(bytes[1]));
		break;
	case STEP_FAIL:
		bytes = reader_bytes(reader, 2);
		if (bytes)
			volume_script_fail(
				world->script, bytes[0] % BLK_OPS, result(bytes[1] | 3), 1);
		break;
	case STEP_ROOM:
		pipe_set_room(world->pipe, reader_be16(reader));
		break;
	case STEP_TAKE:
		pipe_set_room(world->pipe, SIZE_MAX);
		virtual_run_until_idle();
		took(world);
		break;
	case STEP_ADVANCE:
		bytes = reader_bytes(reader, 1);
		byte = bytes ? *bytes : 0;
		virtual_advance(byte * SECOND_NS / 2);
		break;
	case STEP_SLOW_READ:
		bytes = reader_bytes(reader, 1);
		pipe_limit_read(world->pipe, bytes ? *bytes : 0);
		break;
	case STEP_EOF:
		if (!world->ended)
			pipe_feed_eof(world->pipe);
		world->ended = true;
		break;
	case STEP_RESET:
		pipe_fail_read(world->pipe, -ECONNRESET);
		pipe_fail_write(world->pipe, -EPIPE);
		break;
	case STEP_DRAIN:
		world_drain(world);
		break;
	case STEP_VOLUME_GONE:
		world->frontend->volume_gone(world->loop, volume_script_volume(world->script));
		break;
	case STEP_OTHER:
		change_connection(world);
		break;
	default:
		break;
	}
	virtual_run_until_idle();
}

void
world_steps(
	struct world *world, const uint8_t *data, size_t size, void (*took)(struct world *world))
{
	struct reader reader = reader_of(data, size);

	while (reader.left && !reader.bad)
		do_step(world, &reader, took);
}
