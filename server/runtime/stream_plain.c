#include "config.h"

#include "stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "limits.h"
#include "slab.h"

#define ADDRESS_TEXT 56 /* "[", 45 of an IPv6 address, "]:65535" and the end */
#define LOCAL_BUFFER (256 * 1024)

struct plain_stream {
	struct stream stream;
	struct loop_watch watch;
	int fd;
	char peer[ADDRESS_TEXT];
	char local[ADDRESS_TEXT];
};

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_vm vm;
	struct sockaddr_storage storage;
};

static const struct stream_ops plain_ops;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct slab_cache *cache;

static void
make_cache(void)
{
	cache = slab_cache_new("stream_plain", sizeof(struct plain_stream), 0, 0, NULL);
}

static struct plain_stream *
plain_of(struct stream *stream)
{
	return container_of(stream, struct plain_stream, stream);
}

/* An IPv4 client of a socket that serves both families is shown as what it is. */
static void
unmap_v4(union address *a)
{
	struct sockaddr_in in = {.sin_family = AF_INET};

	if (a->any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
		return;
	in.sin_port = a->in6.sin6_port;
	memcpy(&in.sin_addr, &a->in6.sin6_addr.s6_addr[12], sizeof(in.sin_addr));
	a->in = in;
}

static void
format_address(const union address *a, char *text)
{
	char host[INET6_ADDRSTRLEN];

	switch (a->any.sa_family) {
	case AF_UNIX:
		snprintf(text, ADDRESS_TEXT, "unix");
		break;
	case AF_INET:
		inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof(host));
		snprintf(text, ADDRESS_TEXT, "%s:%u", host, ntohs(a->in.sin_port));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
		snprintf(text, ADDRESS_TEXT, "[%s]:%u", host, ntohs(a->in6.sin6_port));
		break;
	case AF_VSOCK:
		snprintf(text, ADDRESS_TEXT, "vsock:%u:%u", a->vm.svm_cid, a->vm.svm_port);
		break;
	default:
		snprintf(text, ADDRESS_TEXT, "unknown");
		break;
	}
}

/* A peer that has already gone leaves its end unknown, which is no reason to fail here. */
static void
find_address(int fd, int (*find)(int, struct sockaddr *, socklen_t *), union address *a)
{
	socklen_t length = sizeof(*a);

	memset(a, 0, sizeof(*a));
	if (find(fd, &a->any, &length) || length < sizeof(a->any.sa_family))
		a->any.sa_family = AF_UNSPEC;
	unmap_v4(a);
}

static bool
is_loopback(const union address *a)
{
	if (a->any.sa_family == AF_INET)
		return ntohl(a->in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return a->any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
}

/*
 * Options are wishes: a socket without them still serves. A fixed send buffer only where there is no
 * long link: it switches the kernel's autotuning off. SO_RCVBUF is left alone: set on loopback it made
 * 256 KiB writes cost half as much CPU again (92 against 62 us a request).
 */
static void
tune_socket(int fd, const union address *peer)
{
	int bytes = LOCAL_BUFFER;
	int on = 1;
	bool tcp = peer->any.sa_family == AF_INET || peer->any.sa_family == AF_INET6;

	if (tcp)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (peer->any.sa_family == AF_UNIX || is_loopback(peer))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

struct stream *
stream_plain_new(int fd)
{
	struct plain_stream *plain = NULL;
	union address peer;
	union address local;

	pthread_once(&once, make_cache);
	if (cache)
		plain = slab_alloc(cache);
	if (!plain) {
		close(fd);
		return NULL;
	}
	memset(plain, 0, sizeof(*plain));
	plain->stream.ops = &plain_ops;
	plain->fd = fd;
	find_address(fd, getpeername, &peer);
	find_address(fd, getsockname, &local);
	if (peer.any.sa_family == AF_UNSPEC)
		peer.any.sa_family = local.any.sa_family == AF_UNIX ? AF_UNIX : AF_UNSPEC;
	format_address(&peer, plain->peer);
	format_address(&local, plain->local);
	tune_socket(fd, &peer);
	return &plain->stream;
}

static ssize_t
read_plain(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = niov};
	int fd = plain_of(stream)->fd;
	ssize_t n;

	do {
		if (niov == 1)
			n = recv(fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT);
		else
			n = recvmsg(fd, &msg, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static ssize_t
write_plain(struct stream *stream, const struct iovec *iov, unsigned niov)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = niov};
	int fd = plain_of(stream)->fd;
	ssize_t n;

	do {
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static unsigned
to_loop(unsigned events)
{
	return (events & STREAM_READABLE ? LOOP_READ : 0) |
	       (events & STREAM_WRITABLE ? LOOP_WRITE : 0);
}

static void
on_ready(struct loop_watch *watch, unsigned events)
{
	struct plain_stream *plain = container_of(watch, struct plain_stream, watch);

	plain->stream.ready(&plain->stream, (events & LOOP_READ ? STREAM_READABLE : 0) |
						    (events & LOOP_WRITE ? STREAM_WRITABLE : 0));
}

static int
watch_plain(struct stream *stream, unsigned events)
{
	return loop_watch_change(&plain_of(stream)->watch, to_loop(events));
}

static int
attach_plain(struct stream *stream, struct loop *loop)
{
	struct plain_stream *plain = plain_of(stream);

	return loop_watch_start(loop, &plain->watch, plain->fd, LOOP_READ, on_ready);
}

static void
detach_plain(struct stream *stream)
{
	loop_watch_stop(&plain_of(stream)->watch);
}

static int
finish_plain(struct stream *stream)
{
	return shutdown(plain_of(stream)->fd, SHUT_WR) < 0 ? -errno : 0;
}

static void
close_plain(struct stream *stream)
{
	struct plain_stream *plain = plain_of(stream);

	close(plain->fd);
	slab_free(cache, plain);
}

static const char *
peer_plain(const struct stream *stream)
{
	return plain_of((struct stream *)stream)->peer;
}

static const char *
local_plain(const struct stream *stream)
{
	return plain_of((struct stream *)stream)->local;
}

static const struct stream_ops plain_ops = {
	.read = read_plain,
	.write = write_plain,
	.watch = watch_plain,
	.attach = attach_plain,
	.detach = detach_plain,
	.close = close_plain,
	.finish = finish_plain,
	.peer = peer_plain,
	.local = local_plain,
};
