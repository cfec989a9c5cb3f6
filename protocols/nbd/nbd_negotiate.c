/* The handshake: greeting, client flags, option haggling (proto.md "Fixed newstyle negotiation").
 */
#include "config.h"

#include "nbd/nbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "catalogue.h"
#include "check.h"
#include "limits.h"
#include "log.h"
#include "volume.h"

/* Answers that a client has not taken before it sends more options (R04). */
#define UNSENT_MAX (16 * 1024)

/* --- answers: one allocation an option, sent together at the end of the turn --- */

struct message {
	struct send_item item;
	struct iovec iov;
	struct writer writer;
	uint8_t bytes[];
};

static void
message_sent(struct send_item *item, int rc)
{
	(void)rc;
	free(container_of(item, struct message, item));
}

/* Room for `size` bytes. NULL: no memory, and the connection is closed. */
static struct message *
new_message(struct nbd_conn *conn, size_t size)
{
	struct message *message = malloc(sizeof(*message) + size);

	if (!message) {
		nbd_conn_kill(conn, "no memory for an answer");
		return NULL;
	}
	message->writer = writer_of(message->bytes, size);
	return message;
}

static void
send_message(struct nbd_conn *conn, struct message *message)
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

static void
write_reply(struct writer *writer, const struct nbd_conn *conn, uint32_t type, size_t length)
{
	writer_be64(writer, NBD_REP_MAGIC);
	writer_be32(writer, conn->option);
	writer_be32(writer, type);
	writer_be32(writer, (uint32_t)length);
}

/* `text`: for people, ASCII; nothing a client sent is echoed. */
static void
reply_error(struct nbd_conn *conn, uint32_t type, const char *text)
{
	size_t length = strlen(text);
	struct message *message = new_message(conn, NBD_REP_SIZE + length);

	if (!message)
		return;
	write_reply(&message->writer, conn, type, length);
	writer_bytes(&message->writer, text, length);
	send_message(conn, message);
}

static void
reply_ack(struct nbd_conn *conn)
{
	struct message *message = new_message(conn, NBD_REP_SIZE);

	if (!message)
		return;
	write_reply(&message->writer, conn, NBD_REP_ACK, 0);
	send_message(conn, message);
}

/* --- exports --- */

/* The reason why an export cannot be opened. */
static void
reply_unavailable(struct nbd_conn *conn, int rc)
{
	if (rc == -ENOMEM)
		reply_error(conn, NBD_REP_ERR_UNKNOWN, "the server is out of memory");
	else
		reply_error(conn, NBD_REP_ERR_UNKNOWN, "the export is going away");
}

static void
enter_transmission(
	struct nbd_conn *conn, struct blk_handle *blk, const uint8_t *name, size_t length)
{
	struct nbd_terms *terms = &conn->terms;

	if (terms->context_export != nbd_export_hash(name, length))
		terms->base_allocation = false;
	conn->blk = blk;
	conn->phase = NBD_REQUEST;
	log_debug("%s: uses volume %s", blk_name(blk), volume_name(blk_volume(blk)));
}

static void
handle_export_name(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	const struct catalogue *catalogue = catalogue_get();
	const struct export *export = catalogue ? catalogue_export(catalogue, data, length) : NULL;
	struct blk_handle *blk = NULL;
	struct message *message;
	struct blk_info info;
	int rc;

	if (export && !conn->going)
		blk = nbd_export_open(conn, export, &info, &rc);
	if (catalogue)
		catalogue_put(catalogue);
	if (!blk) {
		/* This option has no error reply (proto.md "NBD_OPT_EXPORT_NAME"). */
		nbd_conn_close(conn, "asked for an export that is not there");
		return;
	}
	message = new_message(conn, NBD_EXPORT_SIZE + NBD_EXPORT_PAD);
	if (!message) {
		blk_close(blk);
		return;
	}
	writer_be64(&message->writer, info.size);
	writer_be16(&message->writer, conn->terms.flags);
	if (!conn->terms.no_zeroes)
		writer_zero(&message->writer, NBD_EXPORT_PAD);
	send_message(conn, message);
	enter_transmission(conn, blk, data, length);
}

static void
handle_abort(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	(void)data;
	(void)length;
	reply_ack(conn);
	nbd_conn_close(conn, NULL);
}

static size_t
server_reply_size(const struct export *export)
{
	size_t description = export->description ? strlen(export->description) : 0;

	return NBD_REP_SIZE + 4 + strlen(export->name) + description;
}

static void
handle_list(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	const struct catalogue *catalogue = catalogue_get();
	size_t n = catalogue ? catalogue->nexports : 0;
	size_t size = NBD_REP_SIZE;
	struct message *message;

	(void)data;
	(void)length;
	for (size_t i = 0; i < n; i++)
		size += server_reply_size(&catalogue->exports[i]);
	message = new_message(conn, size);
	for (size_t i = 0; message && i < n; i++) {
		const struct export *export = &catalogue->exports[i];
		struct writer *writer = &message->writer;

		if (export->hidden)
			continue;
		write_reply(writer, conn, NBD_REP_SERVER, server_reply_size(export) - NBD_REP_SIZE);
		writer_be32(writer, (uint32_t)strlen(export->name));
		writer_bytes(writer, export->name, strlen(export->name));
		if (export->description)
			writer_bytes(writer, export->description, strlen(export->description));
	}
	if (catalogue)
		catalogue_put(catalogue);
	if (!message)
		return;
	write_reply(&message->writer, conn, NBD_REP_ACK, 0);
	send_message(conn, message);
}

/* --- INFO and GO --- */

static void
write_info(struct writer *writer, const struct nbd_conn *conn, uint16_t type, const char *text)
{
	size_t length = strlen(text);

	write_reply(writer, conn, NBD_REP_INFO, 2 + length);
	writer_be16(writer, type);
	writer_bytes(writer, text, length);
}

/* `wanted`: bit 1 << NBD_INFO_*. NULL: no memory. */
static struct message *
describe_export(struct nbd_conn *conn, const struct export *export, const struct blk_info *info,
	unsigned wanted)
{
	const char *description = export->description;
	struct message *message = new_message(
		conn, 5 * NBD_REP_SIZE + NBD_INFO_EXPORT_SIZE + NBD_INFO_BLOCK_SIZE_SIZE + 2 +
			      strlen(export->name) + 2 + (description ? strlen(description) : 0));
	struct writer *writer;

	if (!message)
		return NULL;
	writer = &message->writer;
	write_reply(writer, conn, NBD_REP_INFO, NBD_INFO_EXPORT_SIZE);
	writer_be16(writer, NBD_INFO_EXPORT);
	writer_be64(writer, info->size);
	writer_be16(writer, conn->terms.flags);
	if (wanted & 1u << NBD_INFO_NAME)
		write_info(writer, conn, NBD_INFO_NAME, export->name);
	if (wanted & 1u << NBD_INFO_DESCRIPTION && description)
		write_info(writer, conn, NBD_INFO_DESCRIPTION, description);
	/* Constraints that are not the defaults are told unasked ("Size constraints"). */
	if (wanted & 1u << NBD_INFO_BLOCK_SIZE || conn->terms.min_block > 1) {
		write_reply(writer, conn, NBD_REP_INFO, NBD_INFO_BLOCK_SIZE_SIZE);
		writer_be16(writer, NBD_INFO_BLOCK_SIZE);
		writer_be32(writer, conn->terms.min_block);
		writer_be32(writer, nbd_export_preferred(export, info));
		writer_be32(writer, conn->terms.payload_max);
	}
	write_reply(writer, conn, NBD_REP_ACK, 0);
	return message;
}

static void
answer_info(struct nbd_conn *conn, const struct export *export, unsigned wanted,
	const uint8_t *name, size_t name_length)
{
	struct message *message;
	struct blk_handle *blk;
	struct blk_info info;
	int rc;

	blk = nbd_export_open(conn, export, &info, &rc);
	if (!blk) {
		reply_unavailable(conn, rc);
		return;
	}
	message = describe_export(conn, export, &info, wanted);
	if (message)
		send_message(conn, message);
	if (message && conn->option == NBD_OPT_GO)
		enter_transmission(conn, blk, name, name_length);
	else
		blk_close(blk);
}

static void
handle_info(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	struct reader reader = reader_of(data, length);
	uint32_t name_length = reader_be32(&reader);
	const uint8_t *name = reader_bytes(&reader, name_length);
	unsigned count = reader_be16(&reader);
	const struct catalogue *catalogue;
	const struct export *export;
	unsigned wanted = 0;
	uint16_t type;

	for (unsigned i = 0; i < count && !reader.bad; i++) {
		type = reader_be16(&reader);
		/* What we do not know is ignored ("NBD_OPT_INFO"). */
		if (type <= NBD_INFO_BLOCK_SIZE)
			wanted |= 1u << type;
	}
	if (reader.bad || reader.left || name_length > LIMIT_NBD_STRING) {
		reply_error(conn, NBD_REP_ERR_INVALID, "malformed request for an export");
		return;
	}
	catalogue = catalogue_get();
	export = catalogue ? catalogue_export(catalogue, name, name_length) : NULL;
	if (export)
		answer_info(conn, export, wanted, name, name_length);
	else
		reply_error(conn, NBD_REP_ERR_UNKNOWN, "no such export");
	if (catalogue)
		catalogue_put(catalogue);
}

static void
handle_structured(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	(void)data;
	(void)length;
	conn->terms.structured = true;
	reply_ack(conn);
}

/* --- metadata contexts --- */

/* The queries: 1 when one of them names base:allocation, else 0; -EINVAL, -E2BIG. */
static int
match_queries(struct reader *reader, bool listing)
{
	uint32_t count = reader_be32(reader);
	const uint8_t *query;
	uint32_t length;
	int match = 0;
	int rc;

	if (reader->bad)
		return -EINVAL;
	if (count > LIMIT_NBD_QUERIES)
		return -E2BIG;
	for (uint32_t i = 0; i < count; i++) {
		length = reader_be32(reader);
		query = reader_bytes(reader, length);
		if (!query)
			return -EINVAL;
		rc = nbd_context_match(query, length, listing);
		if (rc < 0)
			return rc;
		match |= rc;
	}
	if (reader->left)
		return -EINVAL;
	/* No query at all lists everything and selects nothing. */
	return count == 0 ? listing : match;
}

static bool
export_exists(const uint8_t *name, size_t length)
{
	const struct catalogue *catalogue = catalogue_get();
	bool found = catalogue && catalogue_export(catalogue, name, length);

	if (catalogue)
		catalogue_put(catalogue);
	return found;
}

static void
handle_meta_context(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	bool listing = conn->option == NBD_OPT_LIST_META_CONTEXT;
	struct reader reader = reader_of(data, length);
	uint32_t name_length = reader_be32(&reader);
	const uint8_t *name = reader_bytes(&reader, name_length);
	static const char context[] = NBD_BASE_ALLOCATION;
	const size_t context_length = sizeof(context) - 1;
	struct message *message;
	int match;

	if (!conn->terms.structured) {
		reply_error(conn, NBD_REP_ERR_INVALID, "negotiate structured replies first");
		return;
	}
	match = name_length > LIMIT_NBD_STRING ? -EINVAL : match_queries(&reader, listing);
	if (match < 0) {
		if (match == -E2BIG)
			reply_error(conn, NBD_REP_ERR_TOO_BIG, "too many queries");
		else
			reply_error(
				conn, NBD_REP_ERR_INVALID, "malformed query for metadata contexts");
		return;
	}
	if (!export_exists(name, name_length)) {
		reply_error(conn, NBD_REP_ERR_UNKNOWN, "no such export");
		return;
	}
	message = new_message(conn, 2 * NBD_REP_SIZE + NBD_CONTEXT_ID_SIZE + context_length);
	if (!message)
		return;
	if (match) {
		write_reply(&message->writer, conn, NBD_REP_META_CONTEXT,
			NBD_CONTEXT_ID_SIZE + context_length);
		/* "The metadata context ID in these replies is reserved" where they only list. */
		writer_be32(&message->writer, listing ? 0 : NBD_BASE_ALLOCATION_ID);
		writer_bytes(&message->writer, context, context_length);
	}
	write_reply(&message->writer, conn, NBD_REP_ACK, 0);
	send_message(conn, message);
	if (!listing) {
		conn->terms.base_allocation = match;
		conn->terms.context_export = nbd_export_hash(name, name_length);
	}
}

/* --- the table --- */

enum option_data {
	DATA_USED,
	DATA_IGNORED, /* skipped, however long */
	DATA_REFUSED, /* ERR_INVALID where there is any */
};

static const struct option {
	uint32_t number;
	enum option_data data;
	void (*handle)(struct nbd_conn *conn, const uint8_t *data, size_t length);
} options[] = {
	{NBD_OPT_EXPORT_NAME, DATA_USED, handle_export_name},
	{NBD_OPT_ABORT, DATA_IGNORED, handle_abort},
	{NBD_OPT_LIST, DATA_REFUSED, handle_list},
	{NBD_OPT_INFO, DATA_USED, handle_info},
	{NBD_OPT_GO, DATA_USED, handle_info},
	{NBD_OPT_STRUCTURED_REPLY, DATA_REFUSED, handle_structured},
	{NBD_OPT_LIST_META_CONTEXT, DATA_USED, handle_meta_context},
	{NBD_OPT_SET_META_CONTEXT, DATA_USED, handle_meta_context},
};

static const struct option *
find_option(uint32_t number)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		if (options[i].number == number)
			return &options[i];
	}
	return NULL;
}

/* Why the option is refused before its data is looked at: NBD_REP_ERR_* and a text, or 0. */
static uint32_t
refuse_option(const struct nbd_conn *conn, const struct option *option, uint32_t length,
	const char **text)
{
	if (conn->going && conn->option != NBD_OPT_ABORT) {
		*text = "the server is shutting down";
		return NBD_REP_ERR_SHUTDOWN;
	}
	if (!option) {
		*text = "this option is not supported";
		return NBD_REP_ERR_UNSUP;
	}
	if (option->data == DATA_REFUSED && length > 0) {
		*text = "this option takes no data";
		return NBD_REP_ERR_INVALID;
	}
	if (option->data == DATA_USED && length > LIMIT_NBD_OPTION) {
		*text = "the data of this option is too long";
		return NBD_REP_ERR_TOO_BIG;
	}
	return 0;
}

/* The data of the option is there, or has been skipped. */
static void
end_option(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	conn->phase = NBD_OPTION;
	if (conn->refusal)
		reply_error(conn, conn->refusal, conn->refusal_text);
	else
		find_option(conn->option)->handle(conn, data, length);
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
	if (conn->option == NBD_OPT_EXPORT_NAME)
		return get_be32(header + 12) > LIMIT_NBD_STRING
			       ? "sent an export name that is too long"
			       : NULL;
	/* "This is the only valid option in nonfixed newstyle negotiation." */
	return conn->terms.fixed ? NULL : "sent an option that is not EXPORT_NAME";
}

static size_t
take_option(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	uint8_t whole[NBD_REQUEST_SIZE];
	size_t used;
	const uint8_t *header = nbd_conn_header(conn, data, length, NBD_OPTION_SIZE, whole, &used);
	const struct option *option;
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
	option = find_option(conn->option);
	conn->refusal = refuse_option(conn, option, (uint32_t)conn->left, &conn->refusal_text);
	if (conn->left == 0)
		end_option(conn, NULL, 0);
	else if (conn->refusal || option->data == DATA_IGNORED)
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
	uint8_t whole[NBD_REQUEST_SIZE];
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
	struct message *message = new_message(conn, NBD_GREETING_SIZE);

	if (!message)
		return;
	writer_be64(&message->writer, NBD_MAGIC);
	writer_be64(&message->writer, NBD_IHAVEOPT);
	writer_be16(&message->writer, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	send_message(conn, message);
}

void
nbd_negotiate_end(struct nbd_conn *conn)
{
	free(conn->data);
	conn->data = NULL;
}
