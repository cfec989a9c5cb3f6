/* Between emulate.c and bounce.c: one emulation, and the steps that they share. */
#ifndef SLABD_EMULATION_H
#define SLABD_EMULATION_H

#include "check.h"
#include "iobuf.h"
#include "storage.h"

#define ZERO_PIECE  65536
#define ZERO_PIECES (LIMIT_IOBUF_PIECE / ZERO_PIECE)

struct emulation {
	struct blk_request sub;
	struct blk_request *parent;
	struct volume *volume;
	void (*next)(struct emulation *e);
	struct freeze freeze;
	bool frozen;
	bool write_zeroes; /* the driver's own ZERO would not do */
	struct iobuf bounce;
	struct iovec iov[ZERO_PIECES];
	uint64_t at; /* the first byte of the parent that is not done */
	/* The aligned piece in the bounce buffer, and how much of the parent it holds. */
	uint64_t piece, piece_length;
	uint64_t part;
};

static inline bool
emulation_native(const struct emulation *e, enum blk_op op)
{
	return e->volume->info.native & 1u << op;
}

/* Where the parent's range ends. */
static inline uint64_t
emulation_limit(const struct emulation *e)
{
	return e->parent->offset + e->parent->length;
}

/* ZERO_PIECE bytes of zeroes, aligned for any driver. */
extern uint8_t *emulation_zeroes;

/* The one end of every emulation: it is gone afterwards. */
void emulation_end(struct emulation *e, int rc);

/* Asks the driver; next(e) is called when it has answered, with the result in e->sub.rc. */
void emulation_ask(struct emulation *e, enum blk_op op, uint64_t offset, uint64_t length,
	const struct iovec *iov, unsigned niov, void (*next)(struct emulation *e));

/*
 * The parent becomes the owner of its range: other freezes queue behind it, and do not wait for it.
 * next(e) is called when the range is frozen; emulation_end() releases it.
 */
void
emulation_freeze(struct emulation *e, enum freeze_mode mode, void (*next)(struct emulation *e));

/* Chooses the next aligned piece that holds the parent's bytes from `at` on, at most `most` long.
 */
void emulation_piece(struct emulation *e, uint64_t most);

/* Copies between the parent's data, from `skip` on, and the bounce buffer, from `from` on. */
void emulation_copy(struct emulation *e, bool in, uint64_t skip, uint64_t from, uint64_t length);

/* bounce.c: the first steps of READ, and of WRITE and ZERO. */
void bounce_read(struct emulation *e);
void bounce_write(struct emulation *e);

#endif
