/* Options of the handshake: one table, and what each of them does (proto.md "Option types"). */
#include "config.h"

#include "nbd/nbd.h"

#include <errno.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"
#include "limits.h"
#include "log.h"
#include "volume.h"

static void
reply_ack(struct nbd_conn *conn)
{
	struct nbd_message *message = nbd_message_new(conn, NBD_REP_SIZE);

	if (!message)
		return;
	nbd_message_reply(&message->writer, conn, NBD_REP_ACK, 0);
	nbd_message_send(conn, message);
}

/* The reason why an export cannot be opened. */
static void
reply_unavailable(struct nbd_conn *conn, int rc)
{
	if (rc == -ENOMEM)
		nbd_option_error(conn, NBD_REP_ERR_UNKNOWN, "the server is out of memory");
	else
		nbd_option_error(conn, NBD_REP_ERR_UNKNOWN, "the export is going away");
}

static void
enter_transmission(
	struct nbd_conn *conn, struct blk_handle *blk, const uint8_t *name, size_t length)
{
	struct nbd_terms *terms = &conn->terms;

	struct blk_info info;

	terms->base_allocation = nbd_context_selected(terms, name, length);
	blk_info(blk, &info);
	nbd_read_prepare(conn, &info);
	conn->blk = blk;
	conn->phase = NBD_REQUEST;
	stream_established(conn->stream);
	log_debug("%s: uses volume %s", blk_name(blk), volume_name(blk_volume(blk)));
}

/* Why the export is not served over this connection, secure or not: NBD_REP_ERR_* and a text, or 0.
 */
static uint32_t
refuse_export(const struct nbd_conn *conn, const struct export *export, const char **text)
{
	if (export->tls == TLS_REQUIRE && !conn->secure) {
		*text = "this export needs TLS";
		return NBD_REP_ERR_TLS_REQD;
	}
	if (export->tls == TLS_OFF && conn->secure) {
		*text = "this export is not served over TLS";
		return NBD_REP_ERR_POLICY;
	}
	return 0;
}

static void
handle_export_name(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	const struct catalogue *catalogue = catalogue_get();
	const struct export *export = catalogue ? catalogue_export(catalogue, data, length) : NULL;
	struct blk_handle *blk = NULL;
	struct nbd_message *message;
	struct blk_info info;
	const char *text;
	int rc;

	if (export && !refuse_export(conn, export, &text))
		blk = nbd_export_open(conn, export, &info, &rc);
	if (catalogue)
		catalogue_put(catalogue);
	if (!blk) {
		/* This option has no error reply (proto.md "NBD_OPT_EXPORT_NAME"). */
		nbd_conn_close(conn, "asked for an export that is not there");
		return;
	}
	message = nbd_message_new(conn, NBD_EXPORT_SIZE + NBD_EXPORT_PAD);
	if (!message) {
		blk_close(blk);
		return;
	}
	writer_be64(&message->writer, info.size);
	writer_be16(&message->writer, conn->terms.flags);
	if (!conn->terms.no_zeroes)
		writer_zero(&message->writer, NBD_EXPORT_PAD);
	nbd_message_send(conn, message);
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
	struct nbd_message *message;
	const char *text;

	(void)data;
	(void)length;
	for (size_t i = 0; i < n; i++)
		size += server_reply_size(&catalogue->exports[i]);
	message = nbd_message_new(conn, size);
	for (size_t i = 0; message && i < n; i++) {
		const struct export *export = &catalogue->exports[i];
		struct writer *writer = &message->writer;

		if (export->hidden || refuse_export(conn, export, &text))
			continue;
		nbd_message_reply(
			writer, conn, NBD_REP_SERVER, server_reply_size(export) - NBD_REP_SIZE);
		writer_be32(writer, (uint32_t)strlen(export->name));
		writer_bytes(writer, export->name, strlen(export->name));
		if (export->description)
			writer_bytes(writer, export->description, strlen(export->description));
	}
	if (catalogue)
		catalogue_put(catalogue);
	if (!message)
		return;
	nbd_message_reply(&message->writer, conn, NBD_REP_ACK, 0);
	nbd_message_send(conn, message);
}

static void
write_info(struct writer *writer, const struct nbd_conn *conn, uint16_t type, const char *text)
{
	size_t length = strlen(text);

	nbd_message_reply(writer, conn, NBD_REP_INFO, 2 + length);
	writer_be16(writer, type);
	writer_bytes(writer, text, length);
}

/* `wanted`: bit 1 << NBD_INFO_*. NULL: no memory. */
static struct nbd_message *
describe_export(struct nbd_conn *conn, const struct export *export, const struct blk_info *info,
	unsigned wanted)
{
	const char *description = export->description;
	struct nbd_message *message = nbd_message_new(
		conn, 5 * NBD_REP_SIZE + NBD_INFO_EXPORT_SIZE + NBD_INFO_BLOCK_SIZE_SIZE + 2 +
			      strlen(export->name) + 2 + (description ? strlen(description) : 0));
	struct writer *writer;

	if (!message)
		return NULL;
	writer = &message->writer;
	nbd_message_reply(writer, conn, NBD_REP_INFO, NBD_INFO_EXPORT_SIZE);
	writer_be16(writer, NBD_INFO_EXPORT);
	writer_be64(writer, info->size);
	writer_be16(writer, conn->terms.flags);
	if (wanted & 1u << NBD_INFO_NAME)
		write_info(writer, conn, NBD_INFO_NAME, export->name);
	if (wanted & 1u << NBD_INFO_DESCRIPTION && description)
		write_info(writer, conn, NBD_INFO_DESCRIPTION, description);
	/* Constraints that are not the defaults are told unasked ("Size constraints"). */
	if (wanted & 1u << NBD_INFO_BLOCK_SIZE || conn->terms.min_block > 1) {
		nbd_message_reply(writer, conn, NBD_REP_INFO, NBD_INFO_BLOCK_SIZE_SIZE);
		writer_be16(writer, NBD_INFO_BLOCK_SIZE);
		writer_be32(writer, conn->terms.min_block);
		writer_be32(writer, nbd_export_preferred(export, info));
		writer_be32(writer, conn->terms.payload_max);
	}
	nbd_message_reply(writer, conn, NBD_REP_ACK, 0);
	return message;
}

static void
answer_info(struct nbd_conn *conn, const struct export *export, unsigned wanted,
	const uint8_t *name, size_t name_length)
{
	struct nbd_message *message;
	struct blk_handle *blk;
	struct blk_info info;
	const char *text;
	uint32_t refusal = refuse_export(conn, export, &text);
	int rc;

	if (refusal) {
		nbd_option_error(conn, refusal, text);
		return;
	}
	blk = nbd_export_open(conn, export, &info, &rc);
	if (!blk) {
		reply_unavailable(conn, rc);
		return;
	}
	if (conn->terms.extended && nbd_context_selected(&conn->terms, name, name_length))
		conn->terms.flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
	message = describe_export(conn, export, &info, wanted);
	if (message)
		nbd_message_send(conn, message);
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
		nbd_option_error(conn, NBD_REP_ERR_INVALID, "malformed request for an export");
		return;
	}
	catalogue = catalogue_get();
	export = catalogue ? catalogue_export(catalogue, name, name_length) : NULL;
	if (export)
		answer_info(conn, export, wanted, name, name_length);
	else
		nbd_option_error(conn, NBD_REP_ERR_UNKNOWN, "no such export");
	if (catalogue)
		catalogue_put(catalogue);
}

static void
handle_structured(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	(void)data;
	(void)length;
	if (conn->terms.extended) {
		nbd_option_error(conn, NBD_REP_ERR_EXT_HEADER_REQD,
			"extended headers are negotiated already");
		return;
	}
	conn->terms.structured = true;
	reply_ack(conn);
}

/* "This option takes precedence over structured replies." */
static void
handle_extended(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	(void)data;
	(void)length;
	conn->terms.structured = true;
	conn->terms.extended = true;
	reply_ack(conn);
}

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

/* "SELECTIVETLS mode": these options may not say that an export needs TLS, so it is not there. */
static bool
export_exists(const struct nbd_conn *conn, const uint8_t *name, size_t length)
{
	const struct catalogue *catalogue = catalogue_get();
	const struct export *export = catalogue ? catalogue_export(catalogue, name, length) : NULL;
	const char *text;
	bool found = export && !refuse_export(conn, export, &text);

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
	struct nbd_message *message;
	int match;

	if (!conn->terms.structured) {
		nbd_option_error(conn, NBD_REP_ERR_INVALID, "negotiate structured replies first");
		return;
	}
	match = name_length > LIMIT_NBD_STRING ? -EINVAL : match_queries(&reader, listing);
	if (match < 0) {
		if (match == -E2BIG)
			nbd_option_error(conn, NBD_REP_ERR_TOO_BIG, "too many queries");
		else
			nbd_option_error(
				conn, NBD_REP_ERR_INVALID, "malformed query for metadata contexts");
		return;
	}
	if (!export_exists(conn, name, name_length)) {
		nbd_option_error(conn, NBD_REP_ERR_UNKNOWN, "no such export");
		return;
	}
	message = nbd_message_new(conn, 2 * NBD_REP_SIZE + NBD_CONTEXT_ID_SIZE + context_length);
	if (!message)
		return;
	if (match) {
		nbd_message_reply(&message->writer, conn, NBD_REP_META_CONTEXT,
			NBD_CONTEXT_ID_SIZE + context_length);
		/* "The metadata context ID in these replies is reserved" where they only list. */
		writer_be32(&message->writer, listing ? 0 : NBD_BASE_ALLOCATION_ID);
		writer_bytes(&message->writer, context, context_length);
	}
	nbd_message_reply(&message->writer, conn, NBD_REP_ACK, 0);
	nbd_message_send(conn, message);
	if (!listing) {
		conn->terms.base_allocation = match;
		conn->terms.context_export = nbd_export_hash(name, name_length);
	}
}

/* proto.md "TLS support" */
static void
handle_starttls(struct nbd_conn *conn, const uint8_t *data, size_t length)
{
	const struct catalogue *catalogue = catalogue_get();
	bool offered = catalogue && catalogue->tls != TLS_OFF && catalogue->tls_context;

	(void)data;
	(void)length;
	if (catalogue)
		catalogue_put(catalogue);
	if (conn->secure) {
		nbd_option_error(conn, NBD_REP_ERR_INVALID, "this is TLS already");
		return;
	}
	if (!offered) {
		nbd_option_error(conn, NBD_REP_ERR_POLICY, "this server has no TLS");
		return;
	}
	conn->secure = true;
	conn->wait |= NBD_WAIT_TLS;
	reply_ack(conn);
}

bool
nbd_needs_tls(const struct nbd_conn *conn)
{
	const struct catalogue *catalogue = conn->secure ? NULL : catalogue_get();
	bool needs = catalogue && catalogue->tls == TLS_REQUIRE;

	if (catalogue)
		catalogue_put(catalogue);
	return needs;
}

static const struct nbd_option options[] = {
	{NBD_OPT_EXPORT_NAME, NBD_DATA_USED, handle_export_name},
	{NBD_OPT_ABORT, NBD_DATA_IGNORED, handle_abort},
	{NBD_OPT_LIST, NBD_DATA_REFUSED, handle_list},
	{NBD_OPT_STARTTLS, NBD_DATA_REFUSED, handle_starttls},
	{NBD_OPT_INFO, NBD_DATA_USED, handle_info},
	{NBD_OPT_GO, NBD_DATA_USED, handle_info},
	{NBD_OPT_STRUCTURED_REPLY, NBD_DATA_REFUSED, handle_structured},
	{NBD_OPT_LIST_META_CONTEXT, NBD_DATA_USED, handle_meta_context},
	{NBD_OPT_SET_META_CONTEXT, NBD_DATA_USED, handle_meta_context},
	{NBD_OPT_EXTENDED_HEADERS, NBD_DATA_REFUSED, handle_extended},
};

const struct nbd_option *
nbd_option_find(uint32_t number)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		if (options[i].number == number)
			return &options[i];
	}
	return NULL;
}

uint32_t
nbd_option_refuse(const struct nbd_conn *conn, const struct nbd_option *option, uint32_t length,
	const char **text)
{
	/* "FORCEDTLS mode": any other option, unknown ones too. */
	if (conn->option != NBD_OPT_STARTTLS && conn->option != NBD_OPT_ABORT &&
		nbd_needs_tls(conn)) {
		*text = "negotiate TLS first";
		return NBD_REP_ERR_TLS_REQD;
	}
	if (conn->going && conn->option != NBD_OPT_ABORT) {
		*text = "the server is shutting down";
		return NBD_REP_ERR_SHUTDOWN;
	}
	if (!option) {
		*text = "this option is not supported";
		return NBD_REP_ERR_UNSUP;
	}
	if (option->data == NBD_DATA_REFUSED && length > 0) {
		*text = "this option takes no data";
		return NBD_REP_ERR_INVALID;
	}
	if (option->data == NBD_DATA_USED && length > LIMIT_NBD_OPTION) {
		*text = "the data of this option is too long";
		return NBD_REP_ERR_TOO_BIG;
	}
	return 0;
}
