#include "config.h"
#include "strangers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "address.h"
#include "loop.h"

#define BUCKETS 1024

/*
 * Only the main thread raises a count, looks entries up and frees them; any thread lowers the count.
 * So an entry that the main thread sees at 0 is nobody's.
 */
struct stranger {
	SLIST_ENTRY(stranger) link;
	sa_family_t family;
	uint64_t network; /* IPv4: the address; IPv6: the first half of it */
	atomic_uint count;
};

static SLIST_HEAD(, stranger) buckets[BUCKETS];
static unsigned addresses;
static unsigned swept;    /* the bucket whose turn it is */
static uint64_t odd_seed; /* so that peers cannot choose a bucket; 0: not made yet */

/* An IPv4 client of a socket that serves both families is counted as what it is. */
static struct stranger
identify(const struct sockaddr *peer)
{
	const struct sockaddr_in *in = (const void *)peer;
	const struct sockaddr_in6 *in6 = (const void *)peer;
	const uint8_t *bytes = in6->sin6_addr.s6_addr;
	struct stranger who = {.family = peer->sa_family};
	in_addr_t mapped;

	if (peer->sa_family == AF_INET) {
		who.network = in->sin_addr.s_addr;
	} else if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
		memcpy(&mapped, bytes + 12, sizeof(mapped));
		who.family = AF_INET;
		who.network = mapped;
	} else {
		memcpy(&who.network, bytes, sizeof(who.network));
	}
	return who;
}

/* Multiplicative; the upper bits of the product depend on all of the network's. */
static unsigned
choose_bucket(const struct stranger *who)
{
	if (!odd_seed) {
		loop_random(&odd_seed, sizeof(odd_seed));
		odd_seed |= 1;
	}
	return (unsigned)((who->network * odd_seed) >> 32) % BUCKETS;
}

/* The entry of `who`, if it is here; those at 0 are freed on the way. */
static struct stranger *
search_bucket(unsigned bucket, const struct stranger *who)
{
	struct stranger *entry = SLIST_FIRST(&buckets[bucket]), *next, *found = NULL;

	for (; entry; entry = next) {
		next = SLIST_NEXT(entry, link);
		if (who && entry->family == who->family && entry->network == who->network) {
			found = entry;
		} else if (atomic_load_explicit(&entry->count, memory_order_acquire) == 0) {
			SLIST_REMOVE(&buckets[bucket], entry, stranger, link);
			free(entry);
			addresses--;
		}
	}
	return found;
}

int
strangers_enter(const struct sockaddr *peer, unsigned max, struct stranger **whose)
{
	struct stranger who, *entry;
	unsigned bucket;

	*whose = NULL;
	if ((peer->sa_family != AF_INET && peer->sa_family != AF_INET6) || address_is_local(peer))
		return 0;
	who = identify(peer);
	bucket = choose_bucket(&who);
	/* A bucket a time: no entry at 0 outlives BUCKETS arrivals, which bounds the table. */
	swept = (swept + 1) % BUCKETS;
	search_bucket(swept, NULL);
	entry = search_bucket(bucket, &who);
	if (entry && atomic_load_explicit(&entry->count, memory_order_relaxed) >= max)
		return -EUSERS;
	if (!entry) {
		entry = malloc(sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		*entry = who;
		SLIST_INSERT_HEAD(&buckets[bucket], entry, link);
		addresses++;
	}
	atomic_fetch_add_explicit(&entry->count, 1, memory_order_relaxed);
	*whose = entry;
	return 0;
}

void
strangers_leave(struct stranger *whose)
{
	if (whose)
		atomic_fetch_sub_explicit(&whose->count, 1, memory_order_release);
}

void
strangers_text(const struct sockaddr *peer, char *text, size_t room)
{
	struct stranger who = identify(peer);
	struct in_addr in = {(in_addr_t)who.network};
	struct in6_addr in6 = {0};
	char host[INET6_ADDRSTRLEN];

	if (who.family == AF_INET) {
		inet_ntop(AF_INET, &in, host, sizeof(host));
		snprintf(text, room, "%s", host);
		return;
	}
	memcpy(&in6, &who.network, sizeof(who.network));
	inet_ntop(AF_INET6, &in6, host, sizeof(host));
	snprintf(text, room, "%s/64", host);
}

unsigned
strangers_addresses(void)
{
	return addresses;
}
