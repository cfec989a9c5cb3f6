#include "config.h"

#include "stream_pipe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "loop_virtual.h"

/* Bytes [start, end) of data. */
struct bytes {
	uint8_t *data;
	size_t start, end, size;
};

struct stream_pipe {
	struct stream stream;
	struct virtual_source source;
	struct bytes input, output;
	bool eof, finished, closed;
	size_t read_limit, write_limit; /* 0: none */
	size_t room;
	int read_rc, write_rc;
	unsigned reads, writes, calls;
	unsigned wanted;
	char peer[64], local[64];
};

static size_t
bytes_left(const struct bytes *b)
{
	return b->end - b->start;
}

/* Room for `length` bytes behind what there is. */
static uint8_t *
extend_bytes(struct bytes *b, size_t length)
{
	uint8_t *data;

	if (b->start > 0) {
		memmove(b->data, b->data + b->start, bytes_left(b));
		b->end -= b->start;
		b->start = 0;
	}
	if (length > b->size - b->end) {
		data = realloc(b->data, 2 * (b->end + length));
		CHECK(data);
		b->data = data;
		b->size = 2 * (b->end + length);
	}
	b->end += length;
	return b->data + b->end - length;
}

static struct stream_pipe *
pipe_of(const struct stream *stream)
{
	return container_of(stream, struct stream_pipe, stream);
}

static ssize_t
read_pipe(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	struct stream_pipe *pipe = pipe_of(stream);
	size_t most = min_size(iov_length(iov, niov), bytes_left(&pipe->input));

	CHECK(!pipe->closed && iov_length(iov, niov) > 0);
	pipe->calls++;
	if (bytes_left(&pipe->input) == 0) {
		if (pipe->read_rc)
			return pipe->read_rc;
		return pipe->eof ? 0 : -EAGAIN;
	}
	if (pipe->read_limit)
		most = min_size(most, pipe->read_limit);
	iov_from(iov, niov, 0, pipe->input.data + pipe->input.start, most);
	pipe->input.start += most;
	pipe->reads++;
	return (ssize_t)most;
}

static ssize_t
write_pipe(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	struct stream_pipe *pipe = pipe_of(stream);
	size_t most = min_size(iov_length(iov, niov), pipe->room);

	CHECK(!pipe->closed && !pipe->finished && iov_length(iov, niov) > 0);
	pipe->calls++;
	if (pipe->write_rc)
		return pipe->write_rc;
	if (most == 0)
		return -EAGAIN;
	if (pipe->write_limit)
		most = min_size(most, pipe->write_limit);
	iov_to(iov, niov, 0, extend_bytes(&pipe->output, most), most);
	if (pipe->room != SIZE_MAX)
		pipe->room -= most;
	pipe->writes++;
	return (ssize_t)most;
}

static unsigned
ready_events(const struct stream_pipe *pipe)
{
	unsigned events = 0;

	if (bytes_left(&pipe->input) > 0 || pipe->eof || pipe->read_rc)
		events |= STREAM_READABLE;
	if (pipe->room > 0 || pipe->write_rc)
		events |= STREAM_WRITABLE;
	return events & pipe->wanted;
}

static bool
poll_pipe(struct virtual_source *source)
{
	struct stream_pipe *pipe = container_of(source, struct stream_pipe, source);
	unsigned events = ready_events(pipe);

	if (events)
		pipe->stream.ready(&pipe->stream, events);
	return events != 0;
}

static int
watch_pipe(struct stream *stream, unsigned events)
{
	CHECK(stream->loop == loop_current());
	pipe_of(stream)->wanted = events;
	return 0;
}

static int
attach_pipe(struct stream *stream, struct loop *loop)
{
	struct stream_pipe *pipe = pipe_of(stream);

	pipe->wanted = STREAM_READABLE;
	pipe->source.poll = poll_pipe;
	virtual_source_add(loop, &pipe->source);
	return 0;
}

static void
detach_pipe(struct stream *stream)
{
	struct stream_pipe *pipe = pipe_of(stream);

	pipe->wanted = 0;
	virtual_source_remove(&pipe->source);
}

static int
finish_pipe(struct stream *stream)
{
	CHECK(!pipe_of(stream)->finished);
	pipe_of(stream)->finished = true;
	return 0;
}

static void
close_pipe(struct stream *stream)
{
	CHECK(!pipe_of(stream)->closed);
	pipe_of(stream)->closed = true;
}

static const char *
peer_pipe(const struct stream *stream)
{
	return pipe_of(stream)->peer;
}

static const char *
local_pipe(const struct stream *stream)
{
	return pipe_of(stream)->local;
}

static const struct stream_ops pipe_ops = {
	.read = read_pipe,
	.write = write_pipe,
	.watch = watch_pipe,
	.attach = attach_pipe,
	.detach = detach_pipe,
	.close = close_pipe,
	.finish = finish_pipe,
	.peer = peer_pipe,
	.local = local_pipe,
};

struct stream_pipe *
pipe_new(void)
{
	struct stream_pipe *pipe = calloc(1, sizeof(*pipe));

	CHECK(pipe);
	pipe->stream.ops = &pipe_ops;
	pipe->room = SIZE_MAX;
	pipe_set_peer(pipe, "pipe", "pipe");
	return pipe;
}

void
pipe_free(struct stream_pipe *pipe)
{
	CHECK(pipe->closed || !pipe->stream.loop);
	free(pipe->input.data);
	free(pipe->output.data);
	free(pipe);
}

struct stream *
pipe_stream(struct stream_pipe *pipe)
{
	return &pipe->stream;
}

void
pipe_set_peer(struct stream_pipe *pipe, const char *peer, const char *local)
{
	snprintf(pipe->peer, sizeof(pipe->peer), "%s", peer);
	snprintf(pipe->local, sizeof(pipe->local), "%s", local);
}

void
pipe_feed(struct stream_pipe *pipe, const void *data, size_t length)
{
	CHECK(!pipe->eof);
	if (length > 0)
		memcpy(extend_bytes(&pipe->input, length), data, length);
}

void
pipe_feed_eof(struct stream_pipe *pipe)
{
	pipe->eof = true;
}

size_t
pipe_unread(const struct stream_pipe *pipe)
{
	return bytes_left(&pipe->input);
}

const uint8_t *
pipe_output(const struct stream_pipe *pipe, size_t *length)
{
	*length = bytes_left(&pipe->output);
	return pipe->output.data + pipe->output.start;
}

size_t
pipe_output_length(const struct stream_pipe *pipe)
{
	return bytes_left(&pipe->output);
}

size_t
pipe_take(struct stream_pipe *pipe, void *data, size_t length)
{
	length = min_size(length, bytes_left(&pipe->output));
	if (data && length > 0)
		memcpy(data, pipe->output.data + pipe->output.start, length);
	pipe->output.start += length;
	return length;
}

void
pipe_limit_read(struct stream_pipe *pipe, size_t bytes)
{
	pipe->read_limit = bytes;
}

void
pipe_limit_write(struct stream_pipe *pipe, size_t bytes)
{
	pipe->write_limit = bytes;
}

void
pipe_set_room(struct stream_pipe *pipe, size_t bytes)
{
	pipe->room = bytes;
}

void
pipe_fail_read(struct stream_pipe *pipe, int rc)
{
	CHECK(rc <= 0);
	pipe->read_rc = rc;
}

void
pipe_fail_write(struct stream_pipe *pipe, int rc)
{
	CHECK(rc <= 0);
	pipe->write_rc = rc;
}

unsigned
pipe_reads(const struct stream_pipe *pipe)
{
	return pipe->reads;
}

unsigned
pipe_writes(const struct stream_pipe *pipe)
{
	return pipe->writes;
}

unsigned
pipe_calls(const struct stream_pipe *pipe)
{
	return pipe->calls;
}

unsigned
pipe_wanted(const struct stream_pipe *pipe)
{
	return pipe->wanted;
}

bool
pipe_finished(const struct stream_pipe *pipe)
{
	return pipe->finished || pipe->closed;
}

bool
pipe_closed(const struct stream_pipe *pipe)
{
	return pipe->closed;
}
