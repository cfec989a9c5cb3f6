#include "config.h"
#include "conn.h"

#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct conn {
	LIST_ENTRY(conn) link;
	struct test *test;
	int fd;
	SSL *ssl;
	bool ended, goodbye;
	const char *tls_error;
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
		fail(t, "an answer within the deadline", "nothing: the %s hangs", program_peer);
	struct pollfd pfd = {.fd = c->fd, .events = events};
	int rc = poll(&pfd, 1, ms >= 0 && ms < left ? ms : (int)left + 1);
	return rc > 0 || (rc < 0 && errno == EINTR) || ms < 0;
}

/* connect() obeys the time limit for sending. */
static void
limit_connect(int fd, int64_t left_ns)
{
	int64_t us = left_ns / 1000 > 1000 ? left_ns / 1000 : 1000;
	struct timeval limit = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

int
conn_connect_unix(const char *name, size_t name_length, int64_t left_ns)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (name_length >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(address.sun_path, name, name_length);
	/* The length decides for an abstract name; a path ends with its NUL. */
	socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name_length +
				       (name[0] != '\0'));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		limit_connect(fd, left_ns);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, length) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int
conn_connect_tcp(const char *host, const char *port, int64_t left_ns, int *error)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
	*error = getaddrinfo(host, port, &hints, &list);
	if (*error != 0)
		return -1;
	int fd = -1;
	for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0)
			limit_connect(fd, left_ns);
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
	int fd = target_connect(t->target, t->deadline_ns - now_ns(), &error);
	if (fd < 0) {
		t->refused = true;
		fail(t, "a connection", "%s", error != 0 ? gai_strerror(error) : strerror(errno));
	}
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

static void
end(struct conn *c)
{
	LIST_REMOVE(c, link);
	SSL_free(c->ssl);
	close(c->fd);
	free(c->input);
	free(c);
}

void
conn_close(struct conn *c)
{
	if (c->ssl != NULL && !c->ended)
		SSL_shutdown(c->ssl);
	ERR_clear_error();
	end(c);
}

void
conn_reset(struct conn *c)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	end(c);
}

/* One SSL call's failure: true if it is to be tried again when the socket is ready for *events. */
static bool
retry_tls(struct conn *c, int rc, short *events)
{
	int error = SSL_get_error(c->ssl, rc);
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());
	ERR_clear_error();
	*events = error == SSL_ERROR_WANT_WRITE ? POLLIN | POLLOUT : POLLIN;
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return true;
	c->goodbye = error == SSL_ERROR_ZERO_RETURN;
	c->tls_error = reason;
	c->ended = true;
	return false;
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
			skip(c->test, "no memory for the %s's bytes", program_peer);
		c->input = input;
		c->input_size = size;
	}
	uint8_t *room = c->input + c->input_end;
	size_t size = c->input_size - c->input_end;
	ssize_t n;
	if (c->ssl != NULL) {
		short events;
		n = SSL_read(c->ssl, room, (int)(size < INT32_MAX ? size : INT32_MAX));
		if (n <= 0)
			return !retry_tls(c, (int)n, &events);
	} else {
		n = recv(c->fd, room, size, 0);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return false;
		c->ended = n <= 0;
	}
	if (n > 0)
		c->input_end += (size_t)n;
	return true;
}

/* As much as the transport takes now; 0 for nothing, with what to wait for in *events. */
static size_t
give_output(struct conn *c, const uint8_t *bytes, size_t length, short *events)
{
	*events = POLLIN | POLLOUT;
	if (c->ssl != NULL) {
		int n = SSL_write(c->ssl, bytes, (int)(length < INPUT_STEP ? length : INPUT_STEP));
		if (n > 0)
			return (size_t)n;
		retry_tls(c, n, events);
		return 0;
	}
	ssize_t n = send(c->fd, bytes, length, MSG_NOSIGNAL);
	if (n >= 0)
		return (size_t)n;
	if (errno != EAGAIN && errno != EINTR) {
		/* What the peer said before it closed can still be read. */
		while (!c->ended && take_input(c))
			;
		c->ended = true;
	}
	return 0;
}

bool
conn_write(struct conn *c, const void *bytes, size_t length)
{
	const uint8_t *p = bytes;
	while (length > 0 && !c->ended) {
		short events;
		size_t n = give_output(c, p, length, &events);
		p += n;
		length -= n;
		if (n == 0 && !c->ended) {
			wait_for(c, events, -1);
			take_input(c);
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
conn_ends(struct conn *c)
{
	while (c->input_start == c->input_end && !c->ended)
		if (!take_input(c))
			wait_for(c, POLLIN, -1);
	return c->input_start == c->input_end;
}

void
conn_drain(struct conn *c)
{
	do
		c->input_start = c->input_end = 0;
	while (!conn_ends(c));
}

bool
conn_start_tls(struct conn *c, struct ssl_st *ssl)
{
	c->ssl = ssl;
	if (c->ssl == NULL || SSL_set_fd(c->ssl, c->fd) != 1)
		skip(c->test, "no memory for TLS");
	for (;;) {
		short events;
		int rc = SSL_connect(c->ssl);
		if (rc == 1)
			return true;
		if (!retry_tls(c, rc, &events))
			return false;
		wait_for(c, events & POLLOUT ? POLLOUT : POLLIN, -1);
	}
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

const char *
conn_tls_error(const struct conn *c)
{
	return c->tls_error != NULL ? c->tls_error : "the connection was closed";
}

bool
conn_said_goodbye(const struct conn *c)
{
	return c->goodbye;
}

pid_t
conn_peer(const struct conn *c)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
		return 0;
	return peer.pid;
}

void
conn_delay_acks(struct conn *c)
{
	int off = 0;
	setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off);
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
