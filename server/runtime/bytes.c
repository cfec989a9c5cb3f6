#include "config.h"

#include "bytes.h"

#include "check.h"

/* What iov_from(), iov_to() and iov_zero() do with each stretch of the vector. */
enum move { MOVE_IN, MOVE_OUT, MOVE_ZERO };

static void
move_bytes(enum move move, uint8_t *at, void *data, size_t length)
{
	switch (move) {
	case MOVE_IN:
		memcpy(at, data, length);
		break;
	case MOVE_OUT:
		memcpy(data, at, length);
		break;
	case MOVE_ZERO:
		memset(at, 0, length);
		break;
	}
}

static size_t
move_vector(enum move move, const struct iovec *iov, unsigned niov, size_t skip, uint8_t *data,
	size_t length)
{
	size_t done = 0;
	size_t n;
	unsigned i;

	for (i = 0; i < niov && done < length; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		n = min_size(iov[i].iov_len - skip, length - done);
		move_bytes(move, (uint8_t *)iov[i].iov_base + skip, data ? data + done : NULL, n);
		skip = 0;
		done += n;
	}
	return done;
}

size_t
iov_from(const struct iovec *iov, unsigned niov, size_t skip, const void *data, size_t length)
{
	return move_vector(MOVE_IN, iov, niov, skip, (uint8_t *)data, length);
}

size_t
iov_to(const struct iovec *iov, unsigned niov, size_t skip, void *data, size_t length)
{
	return move_vector(MOVE_OUT, iov, niov, skip, data, length);
}

size_t
iov_zero(const struct iovec *iov, unsigned niov, size_t skip, size_t length)
{
	return move_vector(MOVE_ZERO, iov, niov, skip, NULL, length);
}

size_t
iov_length(const struct iovec *iov, unsigned niov)
{
	size_t length = 0;
	unsigned i;

	for (i = 0; i < niov; i++)
		length += iov[i].iov_len;
	return length;
}

unsigned
iov_slice(const struct iovec *iov, unsigned niov, size_t skip, size_t length, struct iovec *out,
	unsigned max, size_t *covered)
{
	size_t done = 0;
	size_t n;
	unsigned used = 0;
	unsigned i;

	for (i = 0; i < niov && done < length && used < max; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		n = min_size(iov[i].iov_len - skip, length - done);
		out[used].iov_base = (uint8_t *)iov[i].iov_base + skip;
		out[used].iov_len = n;
		used++;
		skip = 0;
		done += n;
	}
	if (covered)
		*covered = done;
	return used;
}
