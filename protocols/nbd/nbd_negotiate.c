/* The handshake: greeting, flags, option haggling (proto.md "Fixed newstyle negotiation"). */
#include "config.h"

#include "nbd/nbd.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "limits.h"

/* Answers that a client has not taken before it sends more options (R04). */
#define UNSENT_MAX (16 * 1024)

static void
message_sent(struct send_item *item, int rc)
{
	(void)rc;
	free(container_of(item, struct nbd_message, item));
}

struct nbd_message *
nbd_message_new(struct nbd_conn *conn, size_t size)
{
	struct nbd_message *message = malloc(sizeof(*message) + size);

	if (!message) {
		nbd_conn_kill(conn, "no memory for an answer");
		return NULL;
	}
	message->writer = writer_of(message->bytes, size);
	return message;
}

void
nbd_message_send(struct nbd_conn *conn, struct nbd_message *message)
{
	/* Its size was computed from the same data. */
	CHECK(!message->writer.bad);
	message->iov.iov_base = message->bytes;
	message->iov.iov_len = message->writer.length;
	message->item.iov = &message->iov;
	message->item.niov = 1;
	message->item.sent = message_sent;
	nbd_conn_send(conn, &message->item);
}

void
nbd_message_reply(struct writer *writer, const struct nbd_conn *conn, uint32_t type, size_t length)
{
	writer_be64(writer, NBD_REP_MAGIC);
	writer_be32(writer, conn->option);
	writer_be32(writer, type);
	writer_be32(writer, (uint32_t)length);
}

void
nbd_option_error(struct nbd_conn *conn, uint32_t type, const char *text)
{
	size_t length = strlen(text);
	struct nbd_message *message = nbd_message_new(conn, NBD_REP_SIZE + length);

	if (!message)
		return;
	nbd_message_reply(&message->writer, conn, type, length);
	writer_bytes(&message->writer, text, length);
	nbd_message_send(conn, message);
}

/* The data of the option is there, or has been skipped. */
static void
end_option(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	conn->phase = NBD_OPTION;
	if (conn->refusal)
		nbd_option_error(conn, conn->refusal, conn->refusal_text);
	else
		nbd_option_find(conn->option)->handle(conn, data, length);
	if (nbd_negotiating(conn) && conn->output.bytes >= UNSENT_MAX)
		conn->wait |= NBD_WAIT_OUTPUT;
}

/* What cannot be answered by an error reply, as a text; NULL: nothing. */
static const char *
find_violation(const struct nbd_conn *conn, const uint8_t *header)
{
	if (get_be64(header) != NBD_IHAVEOPT)
		return "sent no option where one was due";
	if (conn->options > LIMIT_NBD_OPTIONS)
		return "sent too many options";
	if (conn->option == NBD_OPT_EXPORT_NAME) {
		/* proto.md "FORCEDTLS mode": "as this request cannot error". */
		if (nbd_needs_tls(conn))
			return "asked for an export without TLS";
		if (get_be32(header + 12) > LIMIT_NBD_STRING)
			return "sent an export name that is too long";
		/* It MUST NOT, and there is no error reply ("NBD_OPT_EXTENDED_HEADERS"). */
		if (conn->terms.extended)
			return "sent EXPORT_NAME after EXTENDED_HEADERS";
		return conn->going ? "asked for an export while the server shuts down" : NULL;
	}
	/* "This is the only valid option in nonfixed newstyle negotiation." */
	return conn->terms.fixed ? NULL : "sent an option that is not EXPORT_NAME";
}

static size_t
take_option(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	uint8_t whole[NBD_HEADER_MAX];
	size_t used;
	const uint8_t *header = nbd_conn_header(conn, data, length, NBD_OPTION_SIZE, whole, &used);
	const struct nbd_option *option;
	const char *violation;

	if (!header)
		return used;
	conn->have = 0;
	conn->options++;
	conn->option = get_be32(header + 8);
	conn->left = get_be32(header + 12);
	violation = find_violation(conn, header);
	if (violation) {
		nbd_conn_close(conn, violation);
		return used;
	}
	/* The earlier selection goes "including when this command fails", in whichever way. */
	if (conn->option == NBD_OPT_SET_META_CONTEXT)
		conn->terms.base_allocation = false;
	option = nbd_option_find(conn->option);
	conn->refusal = nbd_option_refuse(conn, option, (uint32_t)conn->left, &conn->refusal_text);
	if (conn->left == 0)
		end_option(conn, NULL, 0);
	else if (conn->refusal || option->data == NBD_DATA_IGNORED)
		conn->phase = NBD_OPTION_SKIP;
	else
		conn->phase = NBD_OPTION_DATA;
	return used;
}

static size_t
skip_data(struct nbd_conn *conn, size_t length)
{
	size_t used = (size_t)min_u64(conn->left, length);

	conn->left -= used;
	if (conn->left == 0)
		end_option(conn, NULL, 0);
	return used;
}

/* In place where all of it is there, else collected. */
static size_t
take_data(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	size_t used = (size_t)min_u64(conn->left, length);
	uint8_t *whole;

	if (!conn->data && used == conn->left) {
		end_option(conn, data, used);
		return used;
	}
	if (!conn->data) {
		conn->data = malloc((size_t)conn->left);
		conn->data_have = 0;
		if (!conn->data) {
			nbd_conn_kill(conn, "no memory for an option");
			return 0;
		}
	}
	memcpy(conn->data + conn->data_have, data, used);
	conn->data_have += used;
	conn->left -= used;
	if (conn->left > 0)
		return used;
	whole = conn->data;
	conn->data = NULL;
	end_option(conn, whole, conn->data_have);
	free(whole);
	return used;
}

static size_t
take_client_flags(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	uint8_t whole[NBD_HEADER_MAX];
	size_t used;
	const uint8_t *header = nbd_conn_header(conn, data, length, NBD_CFLAGS_SIZE, whole, &used);
	uint32_t flags;

	if (!header)
		return used;
	conn->have = 0;
	flags = get_be32(header);
	if (flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) {
		/* "the server MUST drop the TCP connection if the client sets an unknown flag" */
		nbd_conn_close(conn, "sent unknown client flags");
		return used;
	}
	conn->terms.fixed = flags & NBD_FLAG_C_FIXED_NEWSTYLE;
	conn->terms.no_zeroes = flags & NBD_FLAG_C_NO_ZEROES;
	conn->phase = NBD_OPTION;
	return used;
}

size_t
nbd_negotiate(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	size_t at = 0;

	while (at < length && nbd_reading(conn)) {
		switch (conn->phase) {
		case NBD_CLIENT_FLAGS:
			at += take_client_flags(conn, data + at, length - at);
			break;
		case NBD_OPTION:
			at += take_option(conn, data + at, length - at);
			break;
		case NBD_OPTION_DATA:
			at += take_data(conn, data + at, length - at);
			break;
		case NBD_OPTION_SKIP:
			at += skip_data(conn, length - at);
			break;
		default:
			return at;
		}
	}
	return at;
}

void
nbd_negotiate_start(struct nbd_conn *conn)
{
	struct nbd_message *message = nbd_message_new(conn, NBD_GREETING_SIZE);

	if (!message)
		return;
	writer_be64(&message->writer, NBD_MAGIC);
	writer_be64(&message->writer, NBD_IHAVEOPT);
	writer_be16(&message->writer, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	nbd_message_send(conn, message);
}

void
nbd_negotiate_end(struct nbd_conn *conn)
{
	free(conn->data);
	conn->data = NULL;
}
