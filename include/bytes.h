/*
 * Wire data: big-endian integers, one bounded reader and one bounded writer (promises R02). Pure
 * functions of memory; any thread.
 */
#ifndef SLABD_BYTES_H
#define SLABD_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

static inline uint16_t
get_be16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap16(v);
}

static inline uint32_t
get_be24(const void *p)
{
	const uint8_t *b = p;

	return (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
}

static inline uint32_t
get_be32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap32(v);
}

static inline uint64_t
get_be64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap64(v);
}

static inline void
put_be16(void *p, uint16_t v)
{
	v = __builtin_bswap16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void
put_be24(void *p, uint32_t v)
{
	uint8_t *b = p;

	b[0] = (uint8_t)(v >> 16);
	b[1] = (uint8_t)(v >> 8);
	b[2] = (uint8_t)v;
}

static inline void
put_be32(void *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void
put_be64(void *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, sizeof(v));
}

/*
 * Reads forward through `left` bytes. Reading past the end yields zeroes or NULL and sets `bad` for
 * good, so that a parser may read everything and look at `bad` once.
 */
struct reader {
	const uint8_t *at;
	size_t left;
	bool bad;
};

static inline struct reader
reader_of(const void *data, size_t length)
{
	return (struct reader){.at = data, .left = length};
}

/* The next `length` bytes where they stand, or NULL. Good for as long as the data is. */
static inline const uint8_t *
reader_bytes(struct reader *r, size_t length)
{
	const uint8_t *p = r->at;

	if (r->bad || length > r->left) {
		r->bad = true;
		return NULL;
	}
	r->at += length;
	r->left -= length;
	return p;
}

static inline uint16_t
reader_be16(struct reader *r)
{
	const uint8_t *p = reader_bytes(r, 2);

	return p ? get_be16(p) : 0;
}

static inline uint32_t
reader_be32(struct reader *r)
{
	const uint8_t *p = reader_bytes(r, 4);

	return p ? get_be32(p) : 0;
}

static inline uint64_t
reader_be64(struct reader *r)
{
	const uint8_t *p = reader_bytes(r, 8);

	return p ? get_be64(p) : 0;
}

/* Writes forward into `size` bytes. What does not fit is not written at all, and sets `bad`. */
struct writer {
	uint8_t *start;
	size_t length; /* written so far */
	size_t size;
	bool bad;
};

static inline struct writer
writer_of(void *data, size_t size)
{
	return (struct writer){.start = data, .size = size};
}

/* Room for `length` bytes to be filled by the caller, or NULL. */
static inline uint8_t *
writer_room(struct writer *w, size_t length)
{
	uint8_t *p = w->start + w->length;

	if (w->bad || length > w->size - w->length) {
		w->bad = true;
		return NULL;
	}
	w->length += length;
	return p;
}

static inline void
writer_bytes(struct writer *w, const void *data, size_t length)
{
	uint8_t *p = writer_room(w, length);

	if (p && length)
		memcpy(p, data, length);
}

static inline void
writer_zero(struct writer *w, size_t length)
{
	uint8_t *p = writer_room(w, length);

	if (p && length)
		memset(p, 0, length);
}

static inline void
writer_u8(struct writer *w, uint8_t v)
{
	writer_bytes(w, &v, 1);
}

static inline void
writer_be16(struct writer *w, uint16_t v)
{
	uint8_t *p = writer_room(w, 2);

	if (p)
		put_be16(p, v);
}

static inline void
writer_be32(struct writer *w, uint32_t v)
{
	uint8_t *p = writer_room(w, 4);

	if (p)
		put_be32(p, v);
}

static inline void
writer_be64(struct writer *w, uint64_t v)
{
	uint8_t *p = writer_room(w, 8);

	if (p)
		put_be64(p, v);
}

/*
 * I/O vectors (server/runtime/bytes.c). `skip` bytes of the vector are passed over first; each
 * returns the bytes done, less than `length` only where the vector ends.
 */
size_t iov_from(const struct iovec *iov, unsigned niov, size_t skip, const void *data, size_t length);
size_t iov_to(const struct iovec *iov, unsigned niov, size_t skip, void *data, size_t length);
size_t iov_zero(const struct iovec *iov, unsigned niov, size_t skip, size_t length);
size_t iov_length(const struct iovec *iov, unsigned niov);

/*
 * Describes [skip, skip + length) of a vector as a vector of its own in out[max]. Returns the entries
 * used; *covered (may be NULL) gets the bytes described, fewer than length where out[] is full.
 */
unsigned iov_slice(const struct iovec *iov, unsigned niov, size_t skip, size_t length,
	struct iovec *out, unsigned max, size_t *covered);

#endif
