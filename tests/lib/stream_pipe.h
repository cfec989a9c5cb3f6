/*
 * The other end of a stream, in the test's hand: what the peer sends, what it gets, and how badly.
 *
 *	struct stream_pipe *pipe = pipe_new();
 *	nbd_frontend.accept(loop, pipe_stream(pipe), NULL);    code under test attaches and owns the
 * stream pipe_limit_read(pipe, 1);                              one byte at a time, please
 *	pipe_feed(pipe, hello, sizeof(hello));
 *	virtual_run_until_idle();
 *	pipe_take(pipe, reply, sizeof(reply));                 what it answered
 *	pipe_feed_eof(pipe);
 *	virtual_run_until_idle();
 *	assert_true(pipe_closed(pipe));
 *	pipe_free(pipe);
 *
 * ready() is called in phase 1 of the virtual loop's turns, as long as what is wanted is there:
 * readable when fed bytes, the end or an error are to be read, writable when there is room or an
 * error. Code that wants an event and does not act on it never comes to rest, and
 * virtual_run_until_idle() says so.
 *
 * The pipe is the test's and outlives the stream: its output can be read after stream_close().
 */
#ifndef SLABD_STREAM_PIPE_H
#define SLABD_STREAM_PIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stream.h"

struct stream_pipe;

struct stream_pipe *pipe_new(void);
/* The stream must have been closed, or never been attached. */
void pipe_free(struct stream_pipe *pipe);

/* Not yet attached. */
struct stream *pipe_stream(struct stream_pipe *pipe);

/* What stream_peer() and stream_local() say; copied. "pipe" until set. */
void pipe_set_peer(struct stream_pipe *pipe, const char *peer, const char *local);

/* The peer sends. Bytes are copied. After pipe_feed_eof() nothing more can be fed. */
void pipe_feed(struct stream_pipe *pipe, const void *data, size_t length);
void pipe_feed_eof(struct stream_pipe *pipe);

/* Fed and not yet read. */
size_t pipe_unread(const struct stream_pipe *pipe);

/* What was sent and not yet taken; good until the next call or write. */
const uint8_t *pipe_output(const struct stream_pipe *pipe, size_t *length);
size_t pipe_output_length(const struct stream_pipe *pipe);
/* Moves up to `length` bytes out; how many there were. data may be NULL: they are dropped. */
size_t pipe_take(struct stream_pipe *pipe, void *data, size_t length);

/* At most so many bytes in each read or write; 0: no limit. */
void pipe_limit_read(struct stream_pipe *pipe, size_t bytes);
void pipe_limit_write(struct stream_pipe *pipe, size_t bytes);

/* The peer reads no more than this from now on: then writes get -EAGAIN. SIZE_MAX: no limit. */
void pipe_set_room(struct stream_pipe *pipe, size_t bytes);

/* rc (negative): reads give it once the fed bytes are read, writes at once. 0: no more. */
void pipe_fail_read(struct stream_pipe *pipe, int rc);
void pipe_fail_write(struct stream_pipe *pipe, int rc);

/* For those who count system calls: calls that moved bytes, and all. */
unsigned pipe_reads(const struct stream_pipe *pipe);
unsigned pipe_writes(const struct stream_pipe *pipe);
unsigned pipe_calls(const struct stream_pipe *pipe);

/* STREAM_* events that the owner wants now; 0 when it is not attached. */
unsigned pipe_wanted(const struct stream_pipe *pipe);

/* The peer sees the end of the stream: stream_finish() or stream_close() was called. */
bool pipe_finished(const struct stream_pipe *pipe);

/* stream_close() was called. */
bool pipe_closed(const struct stream_pipe *pipe);

#endif
