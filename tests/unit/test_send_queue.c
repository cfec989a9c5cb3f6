#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "limits.h"
#include "loop_virtual.h"
#include "stream_pipe.h"

struct message {
	struct send_item item;
	struct iovec iov[2];
	int rc;
	unsigned sent;        /* calls */
	struct message *next; /* pushed from sent() */
};

static struct stream_pipe *pipe_end;
static struct stream *stream;
static struct send_queue queue;

static void
on_sent(struct send_item *item, int rc)
{
	struct message *m = container_of(item, struct message, item);

	m->rc = rc;
	m->sent++;
	if (m->next)
		send_queue_push(&queue, &m->next->item);
}

static void
on_ready(struct stream *s, unsigned events)
{
	assert_int_equal(events, STREAM_WRITABLE);
	if (send_queue_flush(&queue) == 0)
		stream_watch(s, 0);
}

static int
setup(void **state)
{
	(void)state;
	virtual_loops_start(1);
	pipe_end = pipe_new();
	stream = pipe_stream(pipe_end);
	if (stream_attach(stream, loop_current(), on_ready, NULL))
		return -1;
	send_queue_init(&queue, stream);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	stream_close(stream);
	pipe_free(pipe_end);
	virtual_loops_stop();
	return 0;
}

static void
fill(struct message *m, const char *a, const char *b)
{
	memset(m, 0, sizeof(*m));
	m->rc = 1;
	m->iov[0] = (struct iovec){(char *)a, strlen(a)};
	m->iov[1] = (struct iovec){(char *)b, strlen(b)};
	m->item.iov = m->iov;
	m->item.niov = 2;
	m->item.sent = on_sent;
}

static void
check_output(const char *expected)
{
	size_t length;
	const uint8_t *output = pipe_output(pipe_end, &length);

	assert_int_equal(length, strlen(expected));
	assert_memory_equal(output, expected, length);
}

static void
test_one_write(void **state)
{
	struct message m[3];

	(void)state;
	fill(&m[0], "head", "data");
	fill(&m[1], "", "");
	fill(&m[2], "x", "");
	send_queue_push(&queue, &m[0].item);
	send_queue_push(&queue, &m[1].item);
	send_queue_push(&queue, &m[2].item);
	assert_true(queue.bytes == 9);
	assert_int_equal(send_queue_flush(&queue), 0);
	check_output("headdatax");
	assert_int_equal(pipe_calls(pipe_end), 1);
	assert_true(send_queue_empty(&queue) && queue.bytes == 0);
	assert_true(m[0].sent == 1 && m[1].sent == 1 && m[2].sent == 1);
	assert_true(m[0].rc == 0 && m[1].rc == 0 && m[2].rc == 0);
}

static void
test_nothing_to_write(void **state)
{
	struct message m;

	(void)state;
	assert_int_equal(send_queue_flush(&queue), 0);
	fill(&m, "", "");
	send_queue_push(&queue, &m.item);
	assert_int_equal(send_queue_flush(&queue), 0);
	assert_int_equal(m.sent, 1);
	assert_int_equal(pipe_calls(pipe_end), 0);
}

/* Every way to cut the stream: n bytes per write. */
static void
test_partial_writes(void **state)
{
	struct message m[3];
	size_t n;
	unsigned i;

	(void)state;
	for (n = 1; n <= 12; n++) {
		fill(&m[0], "abc", "defg");
		fill(&m[1], "", "h");
		fill(&m[2], "ijk", "");
		pipe_limit_write(pipe_end, n);
		for (i = 0; i < 3; i++)
			send_queue_push(&queue, &m[i].item);
		if (send_queue_flush(&queue) == -EAGAIN)
			stream_watch(stream, STREAM_WRITABLE);
		else
			stream_watch(stream, 0);
		virtual_run_until_idle();
		check_output("abcdefghijk");
		pipe_take(pipe_end, NULL, 11);
		for (i = 0; i < 3; i++)
			assert_true(m[i].sent == 1 && m[i].rc == 0);
	}
}

static void
test_full_stream(void **state)
{
	struct message m[2];

	(void)state;
	fill(&m[0], "abc", "def");
	fill(&m[1], "ghi", "");
	pipe_set_room(pipe_end, 7);
	virtual_set_clock(clock_now() + 5);
	virtual_loop_turn(loop_current());
	send_queue_push(&queue, &m[0].item);
	send_queue_push(&queue, &m[1].item);
	assert_true(queue.progress_ns == clock_now());
	assert_int_equal(send_queue_flush(&queue), -EAGAIN);
	assert_true(m[0].sent == 1 && m[1].sent == 0);
	assert_true(queue.bytes == 2);
	/* No progress while it is full. */
	virtual_set_clock(clock_now() + 5);
	virtual_loop_turn(loop_current());
	assert_int_equal(send_queue_flush(&queue), -EAGAIN);
	assert_true(queue.progress_ns == clock_now() - 5);
	pipe_set_room(pipe_end, SIZE_MAX);
	assert_int_equal(send_queue_flush(&queue), 0);
	assert_true(queue.progress_ns == clock_now());
	check_output("abcdefghi");
}

static void
test_dead_stream(void **state)
{
	struct message m[2];

	(void)state;
	fill(&m[0], "abc", "def");
	fill(&m[1], "ghi", "");
	pipe_set_room(pipe_end, 2);
	send_queue_push(&queue, &m[0].item);
	send_queue_push(&queue, &m[1].item);
	assert_int_equal(send_queue_flush(&queue), -EAGAIN);
	pipe_fail_write(pipe_end, -ECONNRESET);
	assert_int_equal(send_queue_flush(&queue), -ECONNRESET);
	assert_true(m[0].sent == 0);
	send_queue_drop(&queue, -ECONNRESET);
	assert_true(m[0].sent == 1 && m[0].rc == -ECONNRESET);
	assert_true(m[1].sent == 1 && m[1].rc == -ECONNRESET);
	assert_true(send_queue_empty(&queue) && queue.bytes == 0 && queue.done == 0);
}

static void
test_push_from_sent(void **state)
{
	struct message m[2];

	(void)state;
	fill(&m[0], "a", "");
	fill(&m[1], "b", "");
	m[0].next = &m[1];
	send_queue_push(&queue, &m[0].item);
	assert_int_equal(send_queue_flush(&queue), 0);
	check_output("ab");
}

/* More pieces than one write may have. */
static void
test_many_pieces(void **state)
{
	enum { COUNT = 3 * LIMIT_SEND_IOV / 2 + 1 };
	struct message *m = calloc(COUNT, sizeof(*m));
	unsigned i;

	(void)state;
	for (i = 0; i < COUNT; i++) {
		fill(&m[i], "x", "yz");
		send_queue_push(&queue, &m[i].item);
	}
	assert_int_equal(send_queue_flush(&queue), 0);
	assert_int_equal(pipe_output_length(pipe_end), 3 * COUNT);
	assert_int_equal(pipe_calls(pipe_end), 4);
	for (i = 0; i < COUNT; i++)
		assert_int_equal(m[i].sent, 1);
	free(m);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_to_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_partial_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_stream, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dead_stream, setup, teardown),
		cmocka_unit_test_setup_teardown(test_push_from_sent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_pieces, setup, teardown),
	};

	return cmocka_run_group_tests_name("send_queue", tests, NULL, NULL);
}
