#include "config.h"
#include "lying.h"

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

size_t the_lie;

uint64_t
load(const uint8_t *bytes, size_t length)
{
	uint64_t value = 0;
	for (size_t i = 0; i < length; i++)
		value = value << 8 | bytes[i];
	return value;
}

uint8_t *
store(uint8_t *bytes, uint64_t value, size_t length)
{
	for (size_t i = length; i-- > 0; value >>= 8)
		bytes[i] = (uint8_t)value;
	return bytes + length;
}

static int
listen_unix(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address.sun_path)
		return -1;
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
		listen(fd, 128) != 0)
		return -1;
	return fd;
}

/* On a port of the kernel's choice, which is printed. */
static int
listen_tcp(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
		listen(fd, 128) != 0 || getsockname(fd, (struct sockaddr *)&address, &length) != 0)
		return -1;
	printf("%d\n", ntohs(address.sin_port));
	return fd;
}

static void *
serve(void *arg)
{
	liar_serve((int)(intptr_t)arg);
	return NULL;
}

static void
accept_forever(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		pthread_t thread;
		if (fd < 0)
			continue;
		if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0)
			pthread_detach(thread);
		else
			close(fd);
	}
}

static bool
choose_lie(const char *name)
{
	for (size_t i = 1; i < lie_count; i++)
		if (strcmp(lies[i].name, name) == 0)
			the_lie = i;
	return the_lie != 0;
}

int
main(int argc, char **argv)
{
	const char *address = NULL;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--list") == 0) {
			for (size_t j = 1; j < lie_count; j++)
				printf("%s %s %s %s\n", lies[j].name, lies[j].check,
					lies[j].verdict, lies[j].scene);
			return 0;
		} else if (strcmp(argv[i], "--lie") == 0 && i + 1 < argc) {
			if (!choose_lie(argv[++i]))
				return 2;
		} else if (!liar_option(argv[i])) {
			address = argv[i];
		}
	}
	if (address == NULL) {
		fprintf(stderr, "usage: liar [--lie NAME] %s PATH|tcp\n       liar --list\n",
			liar_options);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (!liar_prepare())
		return 1;
	int fd = strcmp(address, "tcp") == 0 ? listen_tcp() : listen_unix(address);
	if (fd < 0) {
		perror(address);
		return 1;
	}
	printf("ready\n");
	fflush(stdout);
	accept_forever(fd);
}
