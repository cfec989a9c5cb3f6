/*
 * The liar: a small NBD server in memory that tells the truth, or one lie. It shares no code with
 * nbdcheck or slabd.
 */
#ifndef NBDCHECK_LIAR_H
#define NBDCHECK_LIAR_H

#include "lying.h"

#include <sys/queue.h>

struct ssl_st;

enum lie {
	NO_LIE,
	/* options */
	LIE_CLIENT_FLAGS,
	LIE_ZEROES,
	LIE_ABORT,
	LIE_UNKNOWN_ACKED,
	LIE_UNDRAINED,
	LIE_UNDRAINED_LIST,
	LIE_DRAINED_TWICE,
	LIE_UNDRAINED_QUERY,
	LIE_INFO_BARE,
	LIE_INFO_DIFFERS,
	LIE_PREFERRED,
	LIE_GO_PADDING,
	LIE_DF_IN_GO,
	LIE_DF_IN_INFO,
	LIE_STRUCTURED_DATA,
	LIE_RAW_NAME,
	LIE_NUL_NAME,
	LIE_LONG_MESSAGE,
	LIE_NAGLE,
	/* meta contexts */
	LIE_SET_KEEPS,
	LIE_INFO_CLEARS,
	LIE_LIST_CLEARS,
	LIE_UNKNOWN_CLEARS,
	LIE_GO_CLEARS,
	LIE_BASE_SELECTS,
	LIE_BASE_LISTS_NOTHING,
	LIE_NAMESPACE_ERROR,
	LIE_LEAF_ERROR,
	LIE_MALFORMED_ACKED,
	/* TLS */
	LIE_KEEPS_STRUCTURED,
	LIE_KEEPS_CONTEXTS,
	LIE_KEEPS_EXTENDED,
	LIE_KEEPS_PLAINTEXT,
	LIE_FORCED_LIST,
	LIE_FORCED_EXPORT_NAME,
	LIE_FORCED_OLD_CLIENT,
	LIE_NO_GOODBYE,
	LIE_TLS_UNDRAINED,
	/* transmission */
	LIE_COOKIE,
	LIE_DISC_DROPS,
	LIE_DISC_REPLIES,
	LIE_FUA_REFUSED,
	LIE_UNKNOWN_FLAG,
	LIE_CACHE_FLAG,
	LIE_WRITE_END,
	LIE_ZEROES_END,
	LIE_READ_END,
	LIE_TRIM_END,
	LIE_STATUS_END,
	LIE_ENOTSUP,
	LIE_WRAP,
	LIE_READ_ONLY_WRITES,
	LIE_READ_ONLY_EINVAL,
	LIE_ZEROES_KEEP,
	LIE_ZEROES_SPILL,
	LIE_TRIM_BOUND,
	LIE_ZEROES_BOUND,
	LIE_CACHE_BOUND,
	LIE_STATUS_BOUND,
	LIE_EAGER_MEMORY,
	LIE_RESET_KILLS,
	LIE_HANGUP_KILLS,
	LIE_FLUSH_FORGETS,
	LIE_FUA_FORGETS,
	/* structured replies */
	LIE_SIMPLE_ERROR,
	LIE_SHORT_READ,
	LIE_OVERLAP,
	LIE_OUTSIDE,
	LIE_EMPTY_HOLE,
	LIE_REPLY_FLAG,
	LIE_UNALIGNED_HOLE,
	LIE_DF_FRAGMENTS,
	LIE_DATA_AS_HOLE,
	LIE_AFTER_DONE,
	LIE_ERROR_MESSAGE,
	/* block status */
	LIE_EMPTY_EXTENT,
	LIE_REQ_ONE_TWO,
	LIE_REQ_ONE_LONG,
	LIE_DATA_AS_ZERO,
	LIE_PAST_EXPORT,
	LIE_NO_HOLE_HOLE,
	/* extended headers */
	LIE_EXT_STRUCTURED,
	LIE_EXT_ECHO,
	LIE_EXT_ERROR_ECHO,
	LIE_EXT_SIMPLE,
	LIE_EXT_UNFLAGGED,
	LIE_EXT_UNDRAINED,
	LIE_EXT_CUT,
	LIE_COUNT,
};

static inline bool
lying(enum lie lie)
{
	return the_lie == lie;
}

enum tls_mode { TLS_OFF, TLS_ALLOW, TLS_REQUIRE };

extern enum tls_mode tls_mode;
extern bool read_only;

enum { DISK_SIZE = 40 << 20, PAGE = 4096, PAYLOAD_MAX = 1 << 25 };

/* A write that other connections do not see yet; only a lie has any. */
struct held_write {
	STAILQ_ENTRY(held_write) link;
	uint64_t offset;
	size_t length;
	uint8_t bytes[];
};

struct peer {
	int fd;
	struct ssl_st *ssl;
	bool fixed, no_zeroes, structured, extended, selected;
	STAILQ_HEAD(, held_write) held;
	uint8_t *kept; /* replies that LIE_DISC_DROPS keeps back */
	size_t kept_length;
};

/* False when the connection is over. */
bool take_bytes(struct peer *p, void *bytes, size_t length);
bool give_bytes(struct peer *p, const void *bytes, size_t length);
bool drain(struct peer *p, uint64_t length);
/* True if it is under TLS now. */
bool start_tls(struct peer *p);

/* liar_options.c: true when the transmission phase begins. */
bool negotiate(struct peer *p);
/* liar_transmit.c: until the end. */
void transmit(struct peer *p);

#endif
