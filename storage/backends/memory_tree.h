/*
 * Which chunk holds what of a memory volume. 64 radix trees, interleaved by leaf: leaf number n (64
 * chunks, 4 MiB) belongs to stripe n % 64 and has the key n / 64 there. A stripe's mutex covers its
 * whole tree and the contents of its chunks, so that inserting, freeing and copying need no other
 * care: no reader sees half a page, and no freed chunk or node is read. A lookup in a volume of 1
 * GiB passes one node and a leaf, of 1 PiB four and a leaf.
 */
#ifndef SLABD_MEMORY_TREE_H
#define SLABD_MEMORY_TREE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define CHUNK_SIZE  ((uint64_t)65536)
#define CHUNK_PAGE  ((uint64_t)4096)
#define CHUNK_PAGES ((unsigned)(CHUNK_SIZE / CHUNK_PAGE))
#define NODE_SLOTS  64
#define STRIPES     64

/* Of a chunk. Not present: a hole. Present: the pages in the mask hold data, the others read as
 * zeroes and their memory holds anything. */
struct chunk_entry {
	uint32_t chunk; /* slab_index() */
	uint16_t pages;
	uint16_t present;
};

struct memory_node {
	union {
		struct memory_node *child[NODE_SLOTS];
		struct chunk_entry entry[NODE_SLOTS]; /* of a leaf */
	};
	unsigned used; /* slots that are not empty */
};

struct stripe {
	_Alignas(64) pthread_mutex_t lock;
	struct memory_node *root; /* NULL: nothing */
	unsigned levels;          /* of nodes above the leaves */
};

struct memory_tree {
	struct stripe stripe[STRIPES];
};

/* The cache of nodes, for all volumes. */
int tree_start(void);
void tree_stop(void);

void tree_init(struct memory_tree *tree, uint64_t chunks);
/* Room for more chunks; takes the stripes' locks. False: no memory, and nothing is different to
 * see. */
bool tree_grow(struct memory_tree *tree, uint64_t chunks);
/* Two trees change what they hold; takes the stripes' locks, a's first. */
void tree_swap(struct memory_tree *a, struct memory_tree *b);
/* Frees all nodes; the chunks are the caller's. */
void tree_destroy(struct memory_tree *tree);

static inline struct stripe *
tree_stripe(struct memory_tree *tree, uint64_t leaf)
{
	return &tree->stripe[leaf % STRIPES];
}

/* All below: under the leaf's stripe lock. */

/* The leaf of that number; NULL: there is none. */
struct memory_node *tree_find(const struct memory_tree *tree, uint64_t leaf);

/* The same, made if need be; NULL: no memory. Who leaves it empty calls tree_prune(). */
struct memory_node *tree_make(struct memory_tree *tree, uint64_t leaf);

/* Frees the leaf if it is empty, and the nodes above that become so. */
void tree_prune(struct memory_tree *tree, uint64_t leaf);

/* The first leaf of the same stripe with a number >= *leaf, which gets its number; NULL: no more.
 * Costs what is there, not what is not. */
struct memory_node *tree_next(const struct memory_tree *tree, uint64_t *leaf);

#endif
