/* Answers to BLOCK_STATUS: extents become descriptors (proto.md "NBD_REPLY_TYPE_BLOCK_STATUS"). */
#include "config.h"

#include "nbd/nbd.h"

#include "bytes.h"
#include "check.h"

/* One extent more, or a longer last one. */
static void
add_extent(struct blk_extent *extents, unsigned *count, uint64_t length, uint32_t flags)
{
	if (*count && extents[*count - 1].flags == flags)
		extents[*count - 1].length += length;
	else
		extents[(*count)++] = (struct blk_extent){.length = length, .flags = flags};
}

/*
 * "MUST use descriptor lengths that are an integer multiple of any advertised minimum block size":
 * a block is what all of its parts are. In place; what a last, incomplete block would need is left
 * out, or called data where it is all there is. Returns how many there are then.
 */
static unsigned
round_extents(struct blk_extent *extents, unsigned nextents, uint64_t block)
{
	uint64_t have = 0; /* bytes of an incomplete block */
	uint32_t have_flags = 0;
	unsigned count = 0;

	for (unsigned i = 0; i < nextents; i++) {
		struct blk_extent extent = extents[i];
		uint64_t part = have ? min_u64(block - have, extent.length) : 0;
		uint64_t whole = round_down(extent.length - part, block);

		have_flags &= extent.flags;
		have += part;
		if (have == block) {
			add_extent(extents, &count, block, have_flags);
			have = 0;
		}
		/* Never past what has been read: fewer is an answer too. */
		if (whole && count > i)
			return count;
		if (whole)
			add_extent(extents, &count, whole, extent.flags);
		if (part + whole < extent.length) {
			have = extent.length - part - whole;
			have_flags = extent.flags;
		}
	}
	if (count == 0)
		add_extent(extents, &count, block, 0);
	return count;
}

static uint32_t
status_flags(uint32_t flags)
{
	return (flags & BLK_HOLE ? NBD_STATE_HOLE : 0) | (flags & BLK_ZEROES ? NBD_STATE_ZERO : 0);
}

/* In place: a descriptor is no longer than the extent it is made from. Returns their bytes. */
static size_t
write_descriptors(struct blk_extent *extents, unsigned nextents, bool extended)
{
	uint8_t *out = (uint8_t *)extents;

	_Static_assert(NBD_DESCRIPTOR_SIZE <= sizeof(struct blk_extent), "converted in place");
	_Static_assert(
		NBD_EXTENDED_DESCRIPTOR_SIZE <= sizeof(struct blk_extent), "converted in place");
	for (unsigned i = 0; i < nextents; i++) {
		struct blk_extent extent = extents[i];

		if (extended) {
			put_be64(out, extent.length);
			put_be64(out + 8, status_flags(extent.flags));
			out += NBD_EXTENDED_DESCRIPTOR_SIZE;
		} else {
			/* Together they are at most the length asked for, which has 32 bits. */
			put_be32(out, (uint32_t)extent.length);
			put_be32(out + 4, status_flags(extent.flags));
			out += NBD_DESCRIPTOR_SIZE;
		}
	}
	return (size_t)(out - (uint8_t *)extents);
}

void
nbd_send_status(struct nbd_request *request)
{
	const struct nbd_terms *terms = &request->conn->terms;
	struct blk_request *blk = &request->blk;
	size_t fixed = NBD_CONTEXT_ID_SIZE + (terms->extended ? 4 : 0);
	size_t length, header;

	if (terms->min_block > 1)
		blk->nextents = round_extents(blk->extents, blk->nextents, terms->min_block);
	length = write_descriptors(blk->extents, blk->nextents, terms->extended);
	header = nbd_write_chunk(request, request->header, NBD_REPLY_FLAG_DONE,
		terms->extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
		blk->offset, fixed + length);
	put_be32(request->header + header, NBD_BASE_ALLOCATION_ID);
	if (terms->extended)
		put_be32(request->header + header + NBD_CONTEXT_ID_SIZE, blk->nextents);
	request->iov[1].iov_base = blk->extents;
	request->iov[1].iov_len = length;
	nbd_send_reply(request, header + fixed, 1);
}
