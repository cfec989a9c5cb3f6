#include "config.h"
#include "address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "words.h"

static bool
parse_unix(const char *path, struct address *address, struct error *error)
{
	size_t length = strlen(path);
	bool is_abstract = path[0] == '@';

	address->is_unix = true;
	address->local.sun_family = AF_UNIX;
	if (length <= is_abstract || length >= sizeof(address->local.sun_path)) {
		error_set(error, -EINVAL, "a unix socket's name has 1 to %zu bytes",
			sizeof(address->local.sun_path) - 1);
		return false;
	}
	memcpy(address->local.sun_path, path, length + 1);
	/* unix(7): an abstract name is counted, a path ends with a zero byte. */
	address->local_length =
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + !is_abstract);
	if (is_abstract)
		address->local.sun_path[0] = '\0';
	return true;
}

/* Every address that the hypervisor gave this machine: guests and host reach it alike. */
static bool
parse_vsock(const char *text, struct address *address, struct error *error)
{
	uint64_t port;

	if (!parse_number(text, &port) || port == 0 || port >= (uint32_t)VMADDR_PORT_ANY) {
		error_set(error, -EINVAL, "\"%s\" is not a vsock port (1 to 4294967294)", text);
		return false;
	}
	address->is_vsock = true;
	address->vm.svm_family = AF_VSOCK;
	address->vm.svm_cid = VMADDR_CID_ANY;
	address->vm.svm_port = (unsigned)port;
	return true;
}

bool
address_parse(const char *text, struct address *address, struct error *error)
{
	const char *colon = strrchr(text, ':'), *host = text;
	size_t length;
	uint64_t port;

	*address = (struct address){0};
	if (strncmp(text, "unix:", 5) == 0)
		return parse_unix(text + 5, address, error);
	if (strncmp(text, "vsock:", 6) == 0)
		return parse_vsock(text + 6, address, error);
	if (strncmp(text, "tls:", 4) == 0) {
		address->tls = true;
		host += 4;
		if (colon < host)
			colon = NULL;
	}
	if (!colon || colon == host) {
		error_set(error, -EINVAL, "say HOST:PORT, [V6]:PORT or unix:PATH");
		return false;
	}
	length = (size_t)(colon - host);
	if (host[0] == '[' && host[length - 1] == ']') {
		host++;
		length -= 2;
	} else if (memchr(host, ':', length) || memchr(host, '[', length)) {
		error_set(error, -EINVAL, "an IPv6 address goes into brackets: [V6]:PORT");
		return false;
	}
	if (length == 0 || length >= sizeof(address->host)) {
		error_set(error, -EINVAL, "say HOST:PORT, [V6]:PORT or unix:PATH");
		return false;
	}
	if (!parse_number(colon + 1, &port) || port > 65535) {
		error_set(error, -EINVAL, "\"%s\" is not a port (0 to 65535)", colon + 1);
		return false;
	}
	memcpy(address->host, host, length);
	snprintf(address->port, sizeof(address->port), "%u", (unsigned)port);
	return true;
}

static void
unix_text(const struct sockaddr_un *local, socklen_t length, char *text, size_t room)
{
	int name = (int)length - (int)offsetof(struct sockaddr_un, sun_path);

	if (name > 1 && local->sun_path[0] == '\0')
		snprintf(text, room, "unix:@%.*s", name - 1, local->sun_path + 1);
	else
		snprintf(text, room, "unix:%.*s", name > 0 ? name : 0, local->sun_path);
}

void
address_text(const struct sockaddr *socket, socklen_t length, char *text, size_t room)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (socket->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)socket;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(text, room, "%s:%u", host, ntohs(in->sin_port));
	} else if (socket->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)socket;

		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		snprintf(text, room, "[%s]:%u", host, ntohs(in6->sin6_port));
	} else if (socket->sa_family == AF_VSOCK) {
		snprintf(text, room, "vsock:%u",
			((const struct sockaddr_vm *)(const void *)socket)->svm_port);
	} else if (socket->sa_family == AF_UNIX) {
		unix_text((const void *)socket, length, text, room);
	} else {
		snprintf(text, room, "?");
	}
}

bool
address_is_local(const struct sockaddr *socket)
{
	if (socket->sa_family == AF_UNIX)
		return true;
	if (socket->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)socket;

		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	}
	if (socket->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)socket;

		if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
			return in6->sin6_addr.s6_addr[12] == 127;
		return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
	}
	return false;
}
