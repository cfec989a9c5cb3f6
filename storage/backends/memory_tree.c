#include "config.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "check.h"
#include "memory_tree.h"
#include "slab.h"

#define SLOT_BITS 6
/* 2^60 bytes are 2^44 chunks, 2^38 leaves, keys of 32 bits: 6 levels. */
#define LEVELS_MAX 6

static struct slab_cache *nodes;

int
tree_start(void)
{
	nodes = slab_cache_new("memory_node", sizeof(struct memory_node), 0, 0, NULL);
	return nodes ? 0 : -ENOMEM;
}

void
tree_stop(void)
{
	slab_cache_free(nodes);
	nodes = NULL;
}

/* Levels above the leaves for so many chunks. */
static unsigned
count_levels(uint64_t chunks)
{
	uint64_t keys = (chunks + STRIPES * NODE_SLOTS - 1) / (STRIPES * NODE_SLOTS);
	unsigned levels = 0;

	while (keys > (uint64_t)1 << (SLOT_BITS * levels))
		levels++;
	CHECK(levels <= LEVELS_MAX);
	return levels;
}

void
tree_init(struct memory_tree *tree, uint64_t chunks)
{
	pthread_mutexattr_t attr;

	/* What it protects is short: spinning a little beats sleeping. */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	for (unsigned i = 0; i < STRIPES; i++) {
		pthread_mutex_init(&tree->stripe[i].lock, &attr);
		tree->stripe[i].root = NULL;
		tree->stripe[i].levels = count_levels(chunks);
	}
	pthread_mutexattr_destroy(&attr);
}

/* One level more above what there is. */
static bool
add_level(struct stripe *stripe)
{
	if (stripe->root) {
		struct memory_node *root = slab_alloc(nodes);

		if (!root)
			return false;
		memset(root, 0, sizeof(*root));
		root->child[0] = stripe->root;
		root->used = 1;
		stripe->root = root;
	}
	stripe->levels++;
	return true;
}

bool
tree_grow(struct memory_tree *tree, uint64_t chunks)
{
	unsigned levels = count_levels(chunks);
	bool grown = true;

	for (unsigned i = 0; grown && i < STRIPES; i++) {
		struct stripe *stripe = &tree->stripe[i];

		pthread_mutex_lock(&stripe->lock);
		while (grown && stripe->levels < levels)
			grown = add_level(stripe);
		pthread_mutex_unlock(&stripe->lock);
	}
	return grown;
}

void
tree_swap(struct memory_tree *a, struct memory_tree *b)
{
	for (unsigned i = 0; i < STRIPES; i++) {
		struct stripe *first = &a->stripe[i], *second = &b->stripe[i];
		struct memory_node *root;
		unsigned levels;

		pthread_mutex_lock(&first->lock);
		pthread_mutex_lock(&second->lock);
		root = first->root;
		levels = first->levels;
		first->root = second->root;
		first->levels = second->levels;
		second->root = root;
		second->levels = levels;
		pthread_mutex_unlock(&second->lock);
		pthread_mutex_unlock(&first->lock);
	}
}

static void
free_stripe(struct stripe *stripe)
{
	unsigned levels = stripe->levels;
	struct memory_node *path[LEVELS_MAX + 1];
	unsigned slot[LEVELS_MAX + 1];
	unsigned depth = 0;

	if (!stripe->root)
		return;
	path[0] = stripe->root;
	slot[0] = 0;
	for (;;) {
		struct memory_node *node = path[depth];

		while (depth < levels && slot[depth] < NODE_SLOTS && !node->child[slot[depth]])
			slot[depth]++;
		if (depth < levels && slot[depth] < NODE_SLOTS) {
			path[depth + 1] = node->child[slot[depth]++];
			slot[++depth] = 0;
			continue;
		}
		slab_free(nodes, node);
		if (depth-- == 0)
			break;
	}
	stripe->root = NULL;
}

void
tree_destroy(struct memory_tree *tree)
{
	for (unsigned i = 0; i < STRIPES; i++) {
		free_stripe(&tree->stripe[i]);
		pthread_mutex_destroy(&tree->stripe[i].lock);
	}
}

/* Of a key, in a node with `level` levels below it. */
static unsigned
slot_of(uint64_t key, unsigned level)
{
	return (unsigned)(key >> (SLOT_BITS * (level - 1))) % NODE_SLOTS;
}

struct memory_node *
tree_find(const struct memory_tree *tree, uint64_t leaf)
{
	const struct stripe *stripe = &tree->stripe[leaf % STRIPES];
	struct memory_node *node = stripe->root;
	uint64_t key = leaf / STRIPES;

	for (unsigned level = stripe->levels; level && node; level--)
		node = node->child[slot_of(key, level)];
	return node;
}

static struct memory_node *
make_node(void)
{
	struct memory_node *node = slab_alloc(nodes);

	if (node)
		memset(node, 0, sizeof(*node));
	return node;
}

struct memory_node *
tree_make(struct memory_tree *tree, uint64_t leaf)
{
	struct stripe *stripe = tree_stripe(tree, leaf);
	struct memory_node **link = &stripe->root, *above = NULL;
	uint64_t key = leaf / STRIPES;

	for (unsigned level = stripe->levels;; level--) {
		if (!*link) {
			*link = make_node();
			if (!*link) {
				tree_prune(tree, leaf);
				return NULL;
			}
			if (above)
				above->used++;
		}
		if (level == 0)
			return *link;
		above = *link;
		link = &above->child[slot_of(key, level)];
	}
}

void
tree_prune(struct memory_tree *tree, uint64_t leaf)
{
	struct stripe *stripe = tree_stripe(tree, leaf);
	struct memory_node **path[LEVELS_MAX + 1];
	uint64_t key = leaf / STRIPES;
	unsigned depth = 0;

	path[0] = &stripe->root;
	for (unsigned level = stripe->levels; level && *path[depth]; level--, depth++)
		path[depth + 1] = &(*path[depth])->child[slot_of(key, level)];
	/* From below: *path[d] is the node at depth d, or NULL where tree_make() got no further. */
	for (;; depth--) {
		struct memory_node *node = *path[depth];

		if (node) {
			if (node->used)
				return;
			slab_free(nodes, node);
			*path[depth] = NULL;
			if (depth)
				(*path[depth - 1])->used--;
		}
		if (depth == 0)
			return;
	}
}

struct memory_node *
tree_next(const struct memory_tree *tree, uint64_t *leaf)
{
	const struct stripe *stripe = &tree->stripe[*leaf % STRIPES];
	uint64_t key = *leaf / STRIPES;
	uint64_t keys = (uint64_t)1 << (SLOT_BITS * stripe->levels);

	/* Each round finds a leaf or moves the key past the node where there was none. */
	while (key < keys) {
		struct memory_node *node = stripe->root;
		unsigned level = stripe->levels;

		if (!node)
			return NULL;
		for (; level; level--) {
			unsigned first = slot_of(key, level), slot = first;
			uint64_t below = ((uint64_t)1 << (SLOT_BITS * (level - 1))) - 1;

			while (slot < NODE_SLOTS && !node->child[slot])
				slot++;
			if (slot == NODE_SLOTS)
				break;
			if (slot != first)
				key = (key & ~(below * NODE_SLOTS + NODE_SLOTS - 1)) |
				      (uint64_t)slot << (SLOT_BITS * (level - 1));
			node = node->child[slot];
		}
		if (level == 0) {
			*leaf = key * STRIPES + *leaf % STRIPES;
			return node;
		}
		key |= ((uint64_t)1 << (SLOT_BITS * level)) - 1;
		key++;
	}
	return NULL;
}
