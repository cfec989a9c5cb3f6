#include "config.h"

#include "iscsi/iscsi.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "catalogue.h"
#include "check.h"

/* 6.1: a key begins with a capital letter or, iSCSIProtocolLevel being one, with a small one. */
static bool
is_key_byte(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '-' || c == '+' || c == '@' || c == '_' || c == '#';
}

/* 6.1: binary values may be longer than others. */
static size_t
value_limit(const struct iscsi_pair *pair)
{
	bool binary = pair->key_length == 6 &&
		      (memcmp(pair->key, "CHAP_C", 6) == 0 || memcmp(pair->key, "CHAP_R", 6) == 0);

	return binary ? 2 + 2 * LIMIT_ISCSI_BINARY : LIMIT_ISCSI_VALUE;
}

int
iscsi_pair_next(struct reader *text, struct iscsi_pair *pair)
{
	const char *start, *equals, *end;
	size_t i;

	while (text->left > 0 && *text->at == 0) /* "at least one null delimiter" */
		reader_bytes(text, 1);
	if (text->left == 0)
		return 0;
	start = (const char *)text->at;
	end = memchr(start, 0, text->left);
	if (!end)
		return -EINVAL;
	equals = memchr(start, '=', (size_t)(end - start));
	if (!equals)
		return -EINVAL;
	*pair = (struct iscsi_pair){
		.key = start,
		.key_length = (size_t)(equals - start),
		.value = equals + 1,
		.value_length = (size_t)(end - equals) - 1,
	};
	if (pair->key_length == 0 || pair->key_length > LIMIT_ISCSI_KEY ||
		pair->value_length > value_limit(pair))
		return -EINVAL;
	for (i = 0; i < pair->key_length; i++) {
		if (!is_key_byte(pair->key[i]))
			return -EINVAL;
	}
	reader_bytes(text, (size_t)(end - start) + 1);
	return 1;
}

void
iscsi_pair_write(struct writer *out, const char *key, const char *value)
{
	writer_bytes(out, key, strlen(key));
	writer_u8(out, '=');
	writer_bytes(out, value, strlen(value) + 1);
}

void
iscsi_exchange_close(struct iscsi_exchange *exchange)
{
	if (exchange->text)
		slab_free(iscsi_caches.text, exchange->text);
	memset(exchange, 0, sizeof(*exchange));
}

/* The length of HOST in "HOST:PORT" or "[V6]:PORT". */
static size_t
host_length(const char *address)
{
	const char *colon = strrchr(address, ':');

	return colon ? (size_t)(colon - address) : strlen(address);
}

/* An address by who can reach it. */
struct reach {
	int family; /* 0: not an IP address */
	bool wildcard, loopback, link_local;
};

static struct reach
reach_of(const char *address)
{
	struct reach reach = {0};
	char host[64];
	size_t n = host_length(address);
	struct in6_addr v6;
	struct in_addr v4;

	if (n > 1 && *address == '[' && address[n - 1] == ']') {
		address++;
		n -= 2;
	}
	if (n >= sizeof(host))
		return reach;
	memcpy(host, address, n);
	host[n] = '\0';
	*strchrnul(host, '%') = '\0';
	if (inet_pton(AF_INET6, host, &v6) == 1) {
		reach.family = AF_INET6;
		reach.wildcard = IN6_IS_ADDR_UNSPECIFIED(&v6);
		reach.loopback = IN6_IS_ADDR_LOOPBACK(&v6);
		reach.link_local = IN6_IS_ADDR_LINKLOCAL(&v6);
		if (!IN6_IS_ADDR_V4MAPPED(&v6))
			return reach;
		memcpy(&v4, v6.s6_addr + 12, sizeof(v4));
	} else if (inet_pton(AF_INET, host, &v4) != 1) {
		return reach;
	}
	reach.family = AF_INET;
	reach.wildcard = v4.s_addr == 0;
	reach.loopback = ntohl(v4.s_addr) >> 24 == 127;
	reach.link_local = ntohl(v4.s_addr) >> 16 == 0xa9fe; /* 169.254/16 */
	return reach;
}

static bool
is_own_portal(const struct iscsi_conn *conn, const struct portal *portal)
{
	return conn->portal && conn->portal->relative_id == portal->relative_id;
}

/*
 * Who came from outside learns of no portal that only this machine reaches, and the other way
 * round. A portal that listens everywhere has an address of the family asked by, and no other that
 * we know; what an operator advertises is his word.
 */
static bool
is_reachable(const struct iscsi_conn *conn, const struct portal *portal)
{
	struct reach here, there;

	if (portal->advertise || is_own_portal(conn, portal))
		return true;
	here = reach_of(stream_local(conn->stream));
	there = reach_of(portal->address);
	if (!here.family || !there.family)
		return true;
	if (there.wildcard)
		return there.family == here.family;
	return there.loopback == here.loopback && there.link_local == here.link_local;
}

/*
 * 13.8: how the asking initiator reaches a portal. The one it came by answers with the address it
 * used, and another one that listens everywhere with the same host.
 */
static void
format_address(const struct iscsi_conn *conn, const struct portal *portal, char *out, size_t size)
{
	const char *local = stream_local(conn->stream);
	const char *port;

	if (portal->advertise) {
		snprintf(out, size, "%s,%u", portal->advertise, portal->group);
	} else if (is_own_portal(conn, portal)) {
		snprintf(out, size, "%s,%u", local, portal->group);
	} else if (reach_of(portal->address).wildcard) {
		port = portal->address + host_length(portal->address);
		snprintf(out, size, "%.*s%s,%u", (int)host_length(local), local, port,
			portal->group);
	} else {
		snprintf(out, size, "%s,%u", portal->address, portal->group);
	}
}

/* Asked for, and open to who asks. */
static bool
is_listed(const struct iscsi_conn *conn, const struct target *target)
{
	const struct iscsi_listing *listing = &conn->exchange.listing;

	return (listing->all || strcmp(listing->name, target->name) == 0) &&
	       catalogue_admit(target, conn->session->names.initiator);
}

/* Writes the next record and steps on; false where it does not fit. */
static bool
write_record(const struct iscsi_conn *conn, const struct catalogue *catalogue,
	struct iscsi_listing *listing, struct writer *out, size_t room)
{
	const char *key = "TargetAddress";
	char address[400];
	const char *value = address;

	if (listing->portal == 0) {
		key = "TargetName";
		value = catalogue->targets[listing->target].name;
	} else if (is_reachable(conn, &catalogue->portals[listing->portal - 1])) {
		format_address(
			conn, &catalogue->portals[listing->portal - 1], address, sizeof(address));
	} else {
		key = NULL;
	}
	if (key && out->length + strlen(key) + strlen(value) + 2 > room)
		return false;
	if (key)
		iscsi_pair_write(out, key, value);
	if (listing->portal++ == catalogue->nportals) {
		listing->portal = 0;
		listing->target++;
	}
	return true;
}

/*
 * As many records as fit into `room` bytes, split between keys; listing->on stays while there are
 * more. A catalogue that was replaced between two PDUs shifts what is listed: nothing here points
 * into the old one.
 */
static void
write_listing(const struct iscsi_conn *conn, struct iscsi_listing *listing, struct writer *out,
	size_t room)
{
	const struct catalogue *catalogue = catalogue_get();

	while (listing->target < catalogue->ntargets) {
		if (!is_listed(conn, &catalogue->targets[listing->target]) ||
			listing->portal > catalogue->nportals) {
			listing->target++;
			listing->portal = 0;
		} else if (!write_record(conn, catalogue, listing, out, room)) {
			break;
		}
	}
	listing->on = listing->target < catalogue->ntargets;
	catalogue_put(catalogue);
}

/*
 * Appendix C: All is for discovery sessions; a normal session sees its own target, by an empty
 * value or by name.
 */
static bool
start_listing(const struct iscsi_conn *conn, struct iscsi_listing *listing, const char *value)
{
	const char *own = conn->session->names.target;
	size_t i;

	*listing = (struct iscsi_listing){.on = true};
	if (strcmp(value, "All") == 0) {
		listing->all = true;
		return conn->session->params.discovery;
	}
	if (strlen(value) > LIMIT_ISCSI_NAME)
		return false;
	for (i = 0; value[i]; i++)
		listing->name[i] =
			(char)(value[i] >= 'A' && value[i] <= 'Z' ? value[i] | 0x20 : value[i]);
	if (conn->session->params.discovery)
		return true;
	if (!*value)
		strcpy(listing->name, own);
	return strcmp(listing->name, own) == 0;
}

/* 11.11: F=0 with a target transfer tag while either side has more to say. */
static void
send_text(struct iscsi_conn *conn, struct iscsi_reply *reply, size_t length, bool final, bool more)
{
	struct iscsi_exchange *exchange = &conn->exchange;

	reply->head[BHS_FLAGS] = (uint8_t)((final ? ISCSI_FINAL : 0) | (more ? ISCSI_CONTINUE : 0));
	put_be32(reply->head + BHS_TTT, final ? ISCSI_TAG_NONE : exchange->ttt);
	if (final)
		iscsi_exchange_close(exchange);
	iscsi_reply_push(reply, length, STATSN_ADVANCE);
}

/* The text is complete: takes its keys and answers. */
static void
answer_text(struct iscsi_conn *conn, const uint8_t *bhs, bool final)
{
	struct iscsi_exchange *exchange = &conn->exchange;
	struct iscsi_negotiation n;
	struct iscsi_reply *reply;
	struct writer out;
	size_t room;

	reply = iscsi_reply_new(conn, ISCSI_TEXT_RESPONSE, exchange->itt);
	if (!reply)
		return;
	reply->text = slab_alloc(iscsi_caches.text);
	if (!reply->text) {
		iscsi_reply_discard(reply);
		iscsi_conn_die(conn, "out of memory");
		return;
	}
	room = min_size(conn->max_recv, LIMIT_ISCSI_LOGIN_PDU);
	out = writer_of(reply->text->data, room);
	if (!exchange->listing.on) {
		iscsi_negotiation_init(&n);
		n.active = conn->session->params;
		n.active.max_recv = conn->max_recv;
		if (iscsi_keys_take(&n, ISCSI_STAGE_FULL_FEATURE, exchange->text->data,
			    exchange->text->length, &out)) {
			iscsi_reply_discard(reply);
			iscsi_exchange_close(exchange);
			iscsi_reply_reject(conn, ISCSI_REJECT_PROTOCOL, bhs);
			return;
		}
		exchange->text->length = 0;
		conn->max_recv = n.active.max_recv;
		room = min_size(room, conn->max_recv); /* it holds for this answer too */
		if (n.send_targets &&
			!start_listing(conn, &exchange->listing, n.send_targets_value)) {
			exchange->listing.on = false;
			iscsi_pair_write(&out, "SendTargets", "Reject");
		}
	}
	if (exchange->listing.on)
		write_listing(conn, &exchange->listing, &out, room);
	send_text(conn, reply, out.length, final && !exchange->listing.on, exchange->listing.on);
}

/* True when the request belongs to the exchange under way, or has opened a new one. */
static bool
join_exchange(struct iscsi_conn *conn, const uint8_t *bhs)
{
	struct iscsi_exchange *exchange = &conn->exchange;
	uint32_t ttt = get_be32(bhs + BHS_TTT);
	uint32_t itt = get_be32(bhs + BHS_ITT);

	if (ttt != ISCSI_TAG_NONE)
		return exchange->open && exchange->ttt == ttt && exchange->itt == itt;
	/* 11.10.4: a new tag forgets the exchange before. */
	iscsi_exchange_close(exchange);
	exchange->text = slab_alloc(iscsi_caches.text);
	if (!exchange->text)
		return false;
	exchange->text->length = 0;
	exchange->open = true;
	exchange->itt = itt;
	if (++conn->session->ttt == ISCSI_TAG_NONE)
		conn->session->ttt = 0;
	exchange->ttt = conn->session->ttt;
	return true;
}

void
iscsi_text_request(struct iscsi_conn *conn, const struct iscsi_request *request)
{
	struct iscsi_exchange *exchange = &conn->exchange;
	uint8_t flags = request->bhs[BHS_FLAGS];
	struct iscsi_reply *reply;
	struct iscsi_text *text;

	if ((flags & ISCSI_FINAL) && (flags & ISCSI_CONTINUE)) {
		iscsi_reply_reject(conn, ISCSI_REJECT_PROTOCOL, request->bhs);
		return;
	}
	if (!join_exchange(conn, request->bhs)) {
		iscsi_reply_reject(conn, ISCSI_REJECT_FIELD, request->bhs);
		return;
	}
	text = exchange->text;
	if (request->length > LIMIT_ISCSI_TEXT - text->length ||
		(exchange->listing.on && request->length > 0)) {
		iscsi_exchange_close(exchange);
		iscsi_reply_reject(conn, ISCSI_REJECT_PROTOCOL, request->bhs);
		return;
	}
	iov_to(request->data.iov, request->data.niov, 0, text->data + text->length,
		request->length);
	text->length += request->length;
	if (flags & ISCSI_CONTINUE) { /* 6.2: an empty answer asks for the rest */
		reply = iscsi_reply_new(conn, ISCSI_TEXT_RESPONSE, exchange->itt);
		if (reply)
			send_text(conn, reply, 0, false, false);
		return;
	}
	answer_text(conn, request->bhs, flags & ISCSI_FINAL);
}
