#include "config.h"
#include "control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "check.h"
#include "limits.h"
#include "loop.h"
#include "unix_socket.h"

struct control_client {
	TAILQ_ENTRY(control_client) link;
	struct loop_watch watch;
	int fd;      /* -1: gone, and only its answer is waited for */
	bool busy;   /* a request is being carried out */
	bool ending; /* closed once the answer is out */
	size_t length;
	char line[LIMIT_CONTROL_LINE];
	char *answer; /* what is left of it begins at `sent` */
	size_t answer_length, sent;
};

static TAILQ_HEAD(, control_client) clients = TAILQ_HEAD_INITIALIZER(clients);
static unsigned nclients;
static struct loop_watch listen_watch;
static struct loop_timer listen_pause;
static int listen_fd = -1;
static char path[ADDRESS_TEXT];
static const struct conf *conf;
static uint64_t started;

static void
default_path(char *text, size_t room)
{
	const char *directory = getenv("XDG_RUNTIME_DIR");

	if (directory && directory[0] == '/')
		snprintf(text, room, "%s/slabd.sock", directory);
	else
		snprintf(text, room, "/run/slabd.sock");
}

/* An address_text() without "unix:": here it goes without saying. */
static const char *
skip_scheme(const char *text)
{
	return strncmp(text, "unix:", 5) == 0 ? text + 5 : text;
}

int
control_bind(const struct conf *configuration, struct error *error)
{
	char text[sizeof(path) + 8];
	struct address address;
	struct error cause;

	conf = configuration;
	if (conf->control && strcmp(conf->control, "none") == 0)
		return 0;
	if (conf->control)
		snprintf(path, sizeof(path), "%s", conf->control);
	else
		default_path(path, sizeof(path));
	snprintf(text, sizeof(text), "unix:%s", path);
	if (address_parse(text, &address, &cause)) {
		/* Who may write to it may remove volumes: the owner. */
		listen_fd = unix_listen(&address.local, address.local_length, 0177, &cause);
		if (listen_fd >= 0)
			return 0;
	}
	if (conf->control)
		return error_set(error, -EADDRNOTAVAIL, "control %.400s", skip_scheme(cause.text));
	log_warn("control %s: going on without slabctl (--control PATH names another place)",
		skip_scheme(cause.text));
	return 0;
}

const char *
control_path(void)
{
	return listen_fd >= 0 ? path : NULL;
}

static void
free_client(struct control_client *client)
{
	TAILQ_REMOVE(&clients, client, link);
	nclients--;
	free(client->answer);
	free(client);
}

/* A busy client is freed when its answer comes. */
static void
close_client(struct control_client *client)
{
	if (client->fd >= 0) {
		loop_watch_stop(&client->watch);
		close(client->fd);
		client->fd = -1;
	}
	if (!client->busy)
		free_client(client);
}

/* False: the client is gone. */
static bool
send_answer(struct control_client *client)
{
	while (client->sent < client->answer_length) {
		ssize_t n = send(client->fd, client->answer + client->sent,
			client->answer_length - client->sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			loop_watch_change(&client->watch, LOOP_WRITE);
			return true;
		}
		if (n < 0) {
			close_client(client);
			return false;
		}
		client->sent += (size_t)n;
	}
	free(client->answer);
	client->answer = NULL;
	client->answer_length = client->sent = 0;
	if (client->ending) {
		close_client(client);
		return false;
	}
	loop_watch_change(&client->watch, LOOP_READ);
	return true;
}

static void
give_answer(struct control_client *client, json_t *answer)
{
	CHECK(client->busy);
	client->busy = false;
	if (client->fd >= 0)
		client->answer = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	json_decref(answer);
	if (!client->answer) {
		close_client(client);
		return;
	}
	/* The zero byte becomes the line's end. */
	client->answer_length = strlen(client->answer) + 1;
	client->answer[client->answer_length - 1] = '\n';
	/* Sent when the loop says that it can be: never from inside the request. */
	loop_watch_change(&client->watch, LOOP_WRITE);
}

void
control_answer(struct control_client *client, json_t *result)
{
	if (result)
		give_answer(client, json_pack("{s:o}", "result", result));
	else
		control_refuse(client, "out of memory");
}

void
control_refuse(struct control_client *client, const char *format, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	/* What was cut in the middle of a character, or was none, is no JSON string. */
	give_answer(client,
		json_pack("{s:o}", "error",
			json_string(text) ?: json_string("refused (the reason is no text)")));
}

/* Takes the next whole line, if any, unless an answer is still due. May free the client. */
static void
take_requests(struct control_client *client)
{
	json_error_t error;
	json_t *request;
	size_t length;
	char *end;

	if (client->busy || client->answer)
		return;
	end = memchr(client->line, '\n', client->length);
	if (!end && client->length < sizeof(client->line))
		return;
	client->busy = true;
	loop_watch_change(&client->watch, 0);
	if (!end) {
		client->ending = true;
		control_refuse(client, "a request has at most %d bytes", LIMIT_CONTROL_LINE);
		return;
	}
	length = (size_t)(end - client->line);
	request = json_loadb(client->line, length, JSON_REJECT_DUPLICATES, &error);
	client->length -= length + 1;
	memmove(client->line, end + 1, client->length);
	if (request)
		control_execute(client, conf, request);
	else
		control_refuse(client, "the request is not JSON: %s", error.text);
	json_decref(request);
}

static void
read_requests(struct control_client *client)
{
	ssize_t n = recv(client->fd, client->line + client->length,
		sizeof(client->line) - client->length, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_client(client);
		return;
	}
	client->length += (size_t)n;
	take_requests(client);
}

static void
on_client(struct loop_watch *watch, unsigned events)
{
	struct control_client *client = container_of(watch, struct control_client, watch);

	if (client->answer) {
		if (send_answer(client) && !client->answer)
			take_requests(client);
	} else if (!client->busy && (events & LOOP_READ)) {
		read_requests(client);
	}
}

static void
resume_listening(struct loop_timer *timer)
{
	(void)timer;
	loop_watch_change(&listen_watch, LOOP_READ);
}

static void
on_listen(struct loop_watch *watch, unsigned events)
{
	int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct control_client *client = fd < 0 ? NULL : calloc(1, sizeof(*client));

	(void)events;
	/* Out of descriptors: level-triggered, so look away for a while. */
	if (fd < 0 && errno != EAGAIN && errno != ECONNABORTED &&
		loop_timer_start(loop_main(), &listen_pause, SECOND_NS, resume_listening) == 0)
		loop_watch_change(watch, 0);
	if (!client || nclients >= LIMIT_CONTROL_CLIENTS ||
		loop_watch_start(loop_main(), &client->watch, fd, LOOP_READ, on_client) != 0) {
		if (fd >= 0)
			close(fd);
		free(client);
		return;
	}
	client->fd = fd;
	TAILQ_INSERT_TAIL(&clients, client, link);
	nclients++;
}

uint64_t
control_uptime(void)
{
	return clock_now() - started;
}

int
control_start(void)
{
	started = clock_now();
	if (listen_fd < 0)
		return 0;
	return loop_watch_start(loop_main(), &listen_watch, listen_fd, LOOP_READ, on_listen);
}

void
control_stop(void)
{
	struct control_client *client, *next;

	loop_watch_stop(&listen_watch);
	loop_timer_stop(&listen_pause);
	unix_close(listen_fd);
	listen_fd = -1;
	for (client = TAILQ_FIRST(&clients); client; client = next) {
		next = TAILQ_NEXT(client, link);
		close_client(client);
	}
	control_volumes_stop();
}
