/* Addresses to listen on, as an operator types them and as the kernel says them. Any thread. */
#ifndef SLABD_ADDRESS_H
#define SLABD_ADDRESS_H

#include <stdbool.h>
#include <linux/vm_sockets.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "log.h"

struct address {
	bool is_unix;
	bool is_vsock;
	bool tls;       /* from the first byte: "tls:" before HOST:PORT */
	char host[256]; /* TCP */
	char port[8];
	struct sockaddr_un local; /* unix; sun_path begins with a zero byte when abstract */
	socklen_t local_length;
	struct sockaddr_vm vm; /* vsock */
};

#define ADDRESS_TEXT 272

/* HOST:PORT, [V6]:PORT, tls:HOST:PORT, unix:PATH, unix:@NAME, vsock:PORT. False with *error saying what would be right. */
bool address_parse(const char *text, struct address *address, struct error *error);

/* "127.0.0.1:10809", "[::1]:10809", "unix:/run/x", "unix:@x", "vsock:10809". */
void address_text(const struct sockaddr *socket, socklen_t length, char *text, size_t room);

/* Only this machine can reach it. */
bool address_is_local(const struct sockaddr *socket);

#endif
