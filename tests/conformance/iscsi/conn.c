#include "config.h"
#include "conn.h"

#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct conn {
	LIST_ENTRY(conn) link;
	struct test *test;
	int fd;
	bool ended;
	uint8_t *input; /* what came and was not read: [input_start, input_end) */
	size_t input_start, input_end, input_size;
};

enum { INPUT_STEP = 256 * 1024 };

/* Past the deadline the check ends here. False if nothing happened within ms (-1: the deadline). */
static bool
wait_for(struct conn *c, short events, int ms)
{
	struct test *t = c->test;
	int64_t left = (t->deadline_ns - now_ns()) / 1000000;
	if (left <= 0)
		fail(t, "an answer within the deadline", "nothing: the target hangs");
	struct pollfd pfd = {.fd = c->fd, .events = events};
	int rc = poll(&pfd, 1, ms >= 0 && ms < left ? ms : (int)left + 1);
	return rc > 0 || (rc < 0 && errno == EINTR) || ms < 0;
}

/* The first address that answers. *error is for gai_strerror(), 0 if errno tells. */
static int
connect_tcp(const struct uri *uri, int64_t left_ns, int *error)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
	int64_t us = left_ns / 1000 > 1000 ? left_ns / 1000 : 1000;
	struct timeval limit = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
	*error = getaddrinfo(uri->host, uri->port, &hints, &list);
	if (*error != 0)
		return -1;
	int fd = -1;
	for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		/* connect() obeys the time limit for sending. */
		if (fd >= 0)
			setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
			int keep = errno;
			close(fd);
			fd = -1;
			errno = keep;
		}
	}
	freeaddrinfo(list);
	int one = 1;
	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

struct conn *
conn_open(struct test *t)
{
	int error = 0;
	int fd = connect_tcp(&t->target->uri, t->deadline_ns - now_ns(), &error);
	if (fd < 0)
		fail(t, "a connection", "%s", error != 0 ? gai_strerror(error) : strerror(errno));
	struct conn *c = calloc(1, sizeof *c);
	if (c == NULL) {
		close(fd);
		skip(t, "no memory for a connection");
	}
	fcntl(fd, F_SETFL, O_NONBLOCK);
	*c = (struct conn){.test = t, .fd = fd};
	LIST_INSERT_HEAD(&t->conns, c, link);
	return c;
}

void
conn_close(struct conn *c)
{
	LIST_REMOVE(c, link);
	close(c->fd);
	free(c->input);
	free(c);
}

void
conn_reset(struct conn *c)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	conn_close(c);
}

/* Takes in what is there, without waiting. False if nothing was. */
static bool
take_input(struct conn *c)
{
	if (c->input_start == c->input_end)
		c->input_start = c->input_end = 0;
	if (c->input_size - c->input_end < INPUT_STEP) {
		size_t size = c->input_size * 2 + INPUT_STEP;
		uint8_t *input = realloc(c->input, size);
		if (input == NULL)
			skip(c->test, "no memory for the target's bytes");
		c->input = input;
		c->input_size = size;
	}
	ssize_t n = recv(c->fd, c->input + c->input_end, c->input_size - c->input_end, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	c->ended = n <= 0;
	if (n > 0)
		c->input_end += (size_t)n;
	return true;
}

bool
conn_write(struct conn *c, const void *bytes, size_t length)
{
	const uint8_t *p = bytes;
	while (length > 0 && !c->ended) {
		ssize_t n = send(c->fd, p, length, MSG_NOSIGNAL);
		if (n > 0) {
			p += n;
			length -= (size_t)n;
		} else if (errno == EAGAIN || errno == EINTR) {
			wait_for(c, POLLIN | POLLOUT, -1);
			take_input(c);
		} else {
			/* What the target said before it closed can still be read. */
			while (!c->ended && take_input(c))
				;
			c->ended = true;
		}
	}
	return length == 0;
}

bool
conn_read(struct conn *c, void *bytes, size_t length)
{
	uint8_t *p = bytes;
	while (length > 0) {
		size_t n = c->input_end - c->input_start;
		if (n == 0) {
			if (c->ended)
				return false;
			if (!take_input(c))
				wait_for(c, POLLIN, -1);
			continue;
		}
		if (n > length)
			n = length;
		memcpy(p, c->input + c->input_start, n);
		c->input_start += n;
		p += n;
		length -= n;
	}
	return true;
}

bool
conn_is_quiet(struct conn *c, unsigned ms)
{
	int64_t until = now_ns() + (int64_t)ms * 1000000;
	while (c->input_start == c->input_end && !c->ended) {
		int64_t left = (until - now_ns()) / 1000000;
		if (left <= 0)
			return true;
		if (!take_input(c))
			wait_for(c, POLLIN, (int)left);
	}
	return false;
}

bool
conn_ends_within(struct conn *c, unsigned ms)
{
	int64_t until = now_ns() + (int64_t)ms * 1000000;
	while (!c->ended) {
		c->input_start = c->input_end = 0;
		int64_t left = (until - now_ns()) / 1000000;
		if (left <= 0)
			return false;
		if (!take_input(c))
			wait_for(c, POLLIN, (int)left);
	}
	return true;
}

void
conn_name(const struct conn *c, char *name, size_t size)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof address;
	char host[64] = "", port[8] = "";
	if (getpeername(c->fd, (struct sockaddr *)&address, &length) == 0)
		getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port,
			sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
	bool v6 = address.ss_family == AF_INET6;
	snprintf(name, size, "%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
}
