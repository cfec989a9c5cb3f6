/* EXTENTS of a memory volume: pages that hold data, zeroes that have their memory, holes. */
#include "config.h"

#include <string.h>

#include "block_driver.h"
#include "memory.h"

/* EXTENTS: leaves looked at, and searches over holes, in one request; it may answer less than
 * asked. */
#define SCAN_LEAVES   256
#define SCAN_SEARCHES 64

/* The first leaf there is with a number >= from; UINT64_MAX: none. */
static uint64_t
find_leaf(struct memory *memory, uint64_t from)
{
	uint64_t nearest = UINT64_MAX;

	for (uint64_t i = 0; i < STRIPES && from + i < nearest; i++) {
		struct stripe *stripe = tree_stripe(&memory->tree, from + i);
		uint64_t number = from + i;

		pthread_mutex_lock(&stripe->lock);
		if (tree_next(&memory->tree, &number))
			nearest = min_u64(nearest, number);
		pthread_mutex_unlock(&stripe->lock);
	}
	return nearest;
}

struct scan {
	struct blk_request *request;
	uint64_t at, end;
	unsigned extents, most;
};

/* False: no room for another. */
static bool
add_extent(struct scan *scan, uint64_t to, uint32_t flags)
{
	struct blk_extent *last = scan->request->extents + scan->extents;

	if (scan->extents && last[-1].flags == flags) {
		last[-1].length += to - scan->at;
	} else {
		if (scan->extents == scan->most)
			return false;
		*last = (struct blk_extent){.length = to - scan->at, .flags = flags};
		scan->extents++;
	}
	scan->at = to;
	return true;
}

static bool
scan_leaf(struct scan *scan, const struct chunk_entry entry[NODE_SLOTS])
{
	uint64_t end = min_u64(scan->end, round_down(scan->at, LEAF_SIZE) + LEAF_SIZE);

	while (scan->at < end) {
		const struct chunk_entry *e = &entry[scan->at / CHUNK_SIZE % NODE_SLOTS];
		unsigned page = (unsigned)(scan->at % CHUNK_SIZE / CHUNK_PAGE);
		bool whole = !e->present || !e->pages || e->pages == UINT16_MAX;
		uint64_t unit = whole ? CHUNK_SIZE : CHUNK_PAGE;
		uint64_t to = min_u64(end, round_down(scan->at, unit) + unit);
		uint32_t flags = !e->present            ? BLK_HOLE | BLK_ZEROES
				 : e->pages >> page & 1 ? 0
							: BLK_ZEROES;

		if (!add_extent(scan, to, flags))
			return false;
	}
	return true;
}

void
memory_extents(struct memory *memory, struct blk_request *request)
{
	struct scan scan = {.request = request,
		.at = request->offset,
		.end = request->offset + request->length,
		.most = request->flags & BLK_EXTENT_ONE ? 1 : request->nextents};
	unsigned leaves = 0, searches = 0;

	while (scan.at < scan.end && leaves++ < SCAN_LEAVES && searches < SCAN_SEARCHES) {
		uint64_t number = scan.at / LEAF_SIZE;
		struct stripe *stripe = tree_stripe(&memory->tree, number);
		struct chunk_entry entry[NODE_SLOTS];
		struct memory_node *leaf;

		pthread_mutex_lock(&stripe->lock);
		leaf = tree_find(&memory->tree, number);
		if (leaf)
			memcpy(entry, leaf->entry, sizeof(entry));
		pthread_mutex_unlock(&stripe->lock);
		if (leaf) {
			if (!scan_leaf(&scan, entry))
				break;
		} else {
			uint64_t next = find_leaf(memory, number + 1);
			uint64_t to = next > scan.end / LEAF_SIZE ? scan.end : next * LEAF_SIZE;

			searches++;
			if (!add_extent(&scan, to, BLK_HOLE | BLK_ZEROES))
				break;
		}
	}
	request->nextents = scan.extents;
	blk_complete(request, 0);
}
