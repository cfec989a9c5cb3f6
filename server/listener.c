#include "config.h"
#include "listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "check.h"
#include "config_load.h"
#include "diagnose.h"
#include "frontend.h"
#include "headcount.h"
#include "limits.h"
#include "reception.h"
#include "secure.h"
#include "unix_socket.h"

struct listener {
	const struct frontend *frontend;
	const struct conf_listen *conf; /* NULL: passed to us */
	struct sockaddr_storage socket;
	socklen_t length;
	int fd;
	bool tls;
	char text[ADDRESS_TEXT];      /* as bound */
	char advertise[ADDRESS_TEXT]; /* where it is not what the configuration says */
	struct portal *portal;        /* iSCSI */
	struct reception reception;
};

static struct listener listeners[LIMIT_LISTENERS];
static size_t nlisteners;
static struct portal portals[LIMIT_LISTENERS];
static size_t nportals;

static void
list_volumes(const struct conf *conf, char *text, size_t room)
{
	size_t length = 0;

	for (size_t i = 0; i < conf->nvolumes && i < 3; i++)
		length += (size_t)snprintf(
			text + length, room - length, "%s%s", i ? ", " : "", conf->volumes[i].name);
	if (conf->nvolumes > 3)
		snprintf(text + length, room - length, " and %zu more", conf->nvolumes - 3);
}

/* Nobody gets to the volumes whom we do not know. */
static bool
is_protected(const struct conf *conf, const struct frontend *frontend, bool tls)
{
	if (frontend == &iscsi_frontend && config_targets_guarded(conf))
		return true;
	return secure_verifies() && (frontend == &nbd_frontend ? conf->tls == TLS_REQUIRE : tls);
}

static int
add_listener(const struct conf *conf, const struct listener *new, const char *name,
	const void *socket, struct error *error)
{
	struct listener *listener = &listeners[nlisteners];
	const struct frontend *frontend = new->frontend;
	char volumes[256];

	if (nlisteners == LIMIT_LISTENERS)
		return error_set(error, -ENOSPC, "%s %s: more than %d listeners", frontend->name,
			name, LIMIT_LISTENERS);
	if (!conf->insecure && !address_is_local(socket) &&
		!is_protected(conf, frontend, new->tls)) {
		list_volumes(conf, volumes, sizeof(volumes));
		return error_set(error, -EACCES,
			"%s %s would offer %s to everyone: add CHAP, TLS with verified peers or an "
			"access rule, or say --insecure",
			frontend->name, name, volumes);
	}
	*listener = *new;
	memcpy(&listener->socket, socket, new->length);
	nlisteners++;
	return 0;
}

/* A name may stand for several addresses: all are served. */
static int
resolve_name(const struct conf *conf, const struct frontend *frontend,
	const struct conf_listen *listen, const struct address *address, struct error *error)
{
	struct addrinfo hints = {
		.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found, *info;
	int rc = getaddrinfo(address->host, address->port, &hints, &found);

	if (rc != 0)
		return error_set(error, -ENOENT, "%s %s: %s", frontend->name, listen->address,
			rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
	for (info = found; rc == 0 && info; info = info->ai_next) {
		struct listener new = {.frontend = frontend,
			.conf = listen,
			.length = info->ai_addrlen,
			.fd = -1,
			.tls = address->tls};

		rc = add_listener(conf, &new, listen->address, info->ai_addr, error);
	}
	freeaddrinfo(found);
	return rc;
}

static int
resolve_all(const struct conf *conf, const struct frontend *frontend,
	const struct conf_listen *listens, size_t count, struct error *error)
{
	struct address address;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < count; i++) {
		struct listener new = {.frontend = frontend, .conf = &listens[i], .fd = -1};

		/* config_finish() has parsed it once. */
		if (!address_parse(listens[i].address, &address, error))
			return -EINVAL;
		new.length = address.is_unix ? address.local_length : sizeof(address.vm);
		if (address.is_unix)
			rc = add_listener(conf, &new, listens[i].address, &address.local, error);
		else if (address.is_vsock)
			rc = add_listener(conf, &new, listens[i].address, &address.vm, error);
		else
			rc = resolve_name(conf, frontend, &listens[i], &address, error);
	}
	return rc;
}

static int
adopt_socket(const struct conf *conf, const struct passed_socket *passed, struct error *error)
{
	struct listener new = {.frontend = passed->iscsi ? &iscsi_frontend : &nbd_frontend,
		.length = sizeof(new.socket),
		.fd = passed->fd};
	char name[ADDRESS_TEXT];
	struct sockaddr_storage socket = {0};

	if (getsockname(passed->fd, (void *)&socket, &new.length) < 0)
		return error_set(error, -errno, "LISTEN_FDS: descriptor %d: %m", passed->fd);
	address_text((void *)&socket, new.length, name, sizeof(name));
	if (passed->iscsi && socket.ss_family != AF_INET && socket.ss_family != AF_INET6)
		return error_set(error, -EINVAL, "iscsi %s: iSCSI is served over TCP only", name);
	return add_listener(conf, &new, name, &socket, error);
}

int
listeners_adopt(const struct conf *conf, const struct passed_socket *sockets, size_t count,
	struct error *error)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = adopt_socket(conf, &sockets[i], error);
	return rc;
}

int
listeners_resolve(const struct conf *conf, struct error *error)
{
	int rc = resolve_all(conf, &nbd_frontend, conf->nbd_listen, conf->nnbd_listen, error);

	if (rc == 0)
		rc = resolve_all(
			conf, &iscsi_frontend, conf->iscsi_listen, conf->niscsi_listen, error);
	return rc;
}

static in_port_t *
find_port(struct sockaddr_storage *socket)
{
	return socket->ss_family == AF_INET6 ? &((struct sockaddr_in6 *)(void *)socket)->sin6_port
					     : &((struct sockaddr_in *)(void *)socket)->sin_port;
}

static int
listen_tcp(struct listener *listener)
{
	static const int on = 1;
	int fd = socket(listener->socket.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	/* "[::]:P" and "0.0.0.0:P" stand side by side. */
	if (listener->socket.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, (void *)&listener->socket, listener->length) == 0 &&
		listen(fd, SOMAXCONN) == 0) {
		listener->fd = fd;
		return 0;
	}
	rc = -errno;
	close(fd);
	return rc;
}

static int
bind_tcp(struct listener *listener, struct error *error)
{
	struct sockaddr *socket = (void *)&listener->socket;
	char holder[96] = "", text[ADDRESS_TEXT];
	int rc;

	/* A name with several addresses and port 0: one port for all. */
	if (listener > listeners && listener->conf && listener[-1].conf == listener->conf &&
		*find_port(&listener->socket) == 0)
		*find_port(&listener->socket) = *find_port(&listener[-1].socket);
	rc = listen_tcp(listener);
	if (rc == 0)
		return 0;
	address_text(socket, listener->length, text, sizeof(text));
	if (rc == -EADDRINUSE && socket->sa_family != AF_VSOCK)
		return error_set(error, rc, "%s %s: address in use%s", listener->frontend->name,
			text, diagnose_port(socket, holder, sizeof(holder)));
	return error_set(error, rc, "%s %s: %s", listener->frontend->name, text, strerror(-rc));
}

static int
bind_unix(struct listener *listener, struct error *error)
{
	struct error cause;

	/* Whoever may write to the socket may write to the volumes: the owner, by default. */
	listener->fd = unix_listen((const void *)&listener->socket, listener->length, 0077, &cause);
	if (listener->fd >= 0)
		return 0;
	return error_set(error, listener->fd, "%s %.400s", listener->frontend->name, cause.text);
}

static int
bind_listener(struct listener *listener, struct error *error)
{
	if (!listener->conf)
		return 0;
	return listener->socket.ss_family == AF_UNIX ? bind_unix(listener, error)
						     : bind_tcp(listener, error);
}

/* A portal group is one SCSI target port, with one relative identifier (RFC 7143 4.4.1). */
static uint16_t
relative_port(uint16_t group)
{
	uint16_t last = 0;

	for (size_t i = 0; i < nportals; i++) {
		if (portals[i].group == group)
			return portals[i].relative_id;
		if (portals[i].relative_id > last)
			last = portals[i].relative_id;
	}
	return (uint16_t)(last + 1);
}

/* What initiators are told: to advertise port 0 is to advertise the one that was bound. */
static const char *
advertised_address(struct listener *listener)
{
	const char *text = listener->conf ? listener->conf->advertise : NULL;
	const char *port = text ? strrchr(text, ':') : NULL;

	if (!port || strtoul(port + 1, NULL, 10) != 0)
		return text;
	snprintf(listener->advertise, sizeof(listener->advertise), "%.*s%s", (int)(port - text),
		text, strrchr(listener->text, ':'));
	return listener->advertise;
}

int
listeners_bind(struct error *error)
{
	for (size_t i = 0; i < nlisteners; i++) {
		struct listener *listener = &listeners[i];
		int rc = bind_listener(listener, error);
		uint16_t group;

		if (rc)
			return rc;
		if (listener->socket.ss_family != AF_UNIX)
			getsockname(listener->fd, (void *)&listener->socket, &listener->length);
		address_text((void *)&listener->socket, listener->length, listener->text,
			sizeof(listener->text));
		if (listener->frontend != &iscsi_frontend)
			continue;
		group = listener->conf ? listener->conf->group : 1;
		listener->portal = &portals[nportals];
		portals[nportals] = (struct portal){.address = listener->text,
			.advertise = advertised_address(listener),
			.group = group,
			.tls = listener->tls,
			.relative_id = relative_port(group)};
		nportals++;
	}
	return 0;
}

const struct portal *
listeners_portals(size_t *count)
{
	*count = nportals;
	return portals;
}

int
listeners_start(const struct conf *conf)
{
	for (size_t i = 0; i < nlisteners; i++) {
		struct listener *listener = &listeners[i];
		int rc = reception_start(&listener->reception, listener->fd, listener->frontend,
			listener->portal, listener->text, conf);

		if (rc)
			return rc;
	}
	return 0;
}

static void
print_offer(const struct listener *listener, const struct catalogue *catalogue)
{
	size_t left;

	if (listener->portal) {
		left = catalogue->ntargets;
		if (left > 0)
			dprintf(STDERR_FILENO, "%s, LUN %u", catalogue->targets[0].name,
				catalogue->targets[0].luns[0].number);
	} else {
		left = catalogue->nexports;
		if (left > 0)
			dprintf(STDERR_FILENO, "%s%s", catalogue->exports[0].name,
				catalogue->exports[0].is_default ? " (default export)" : "");
	}
	if (left > 1)
		dprintf(STDERR_FILENO, " and %zu more", left - 1);
	if (!listener->portal && catalogue->tls != TLS_OFF)
		dprintf(STDERR_FILENO, ", TLS %s",
			catalogue->tls == TLS_REQUIRE ? "required" : "allowed");
}

void
listeners_print(const struct catalogue *catalogue)
{
	for (size_t i = 0; i < nlisteners; i++) {
		int width = dprintf(STDERR_FILENO, "%s %s%s", listeners[i].frontend->name,
			listeners[i].tls ? "tls:" : "", listeners[i].text);

		dprintf(STDERR_FILENO, "%*s", width < 34 ? 35 - width : 1, "");
		print_offer(&listeners[i], catalogue);
		dprintf(STDERR_FILENO, "\n");
	}
}

void
listeners_visit(void (*visit)(const char *protocol, const char *address, void *arg), void *arg)
{
	for (size_t i = 0; i < nlisteners; i++)
		visit(listeners[i].frontend->name, listeners[i].text, arg);
}

void
listeners_stop(void)
{
	for (size_t i = 0; i < nlisteners; i++) {
		struct listener *listener = &listeners[i];

		reception_stop(&listener->reception);
		if (listener->fd < 0)
			continue;
		/* A passed socket's file is whoever's made it. */
		if (listener->socket.ss_family == AF_UNIX && listener->conf)
			unix_close(listener->fd);
		else
			close(listener->fd);
		listener->fd = -1;
	}
	nlisteners = 0;
}
