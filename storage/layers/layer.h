/*
 * Layers: drivers over a volume's driver. A request that the block layer dispatches enters each
 * layer that is on, from above to below, and leaves them in the other order when what is below has
 * ended it; so do the parts of an emulated one and the shared sync, so that a layer sees what a
 * driver would.
 *
 * Nothing is allocated: what a request has passed is a few bits of its state. With no layer on, a
 * loop looks at one byte of its lane. Layers are made on the main thread and stay for the volume's
 * life; each loop switches them on and off for itself (volume_layers_apply()), so that blk_inline()
 * keeps its word.
 */
#ifndef SLABD_LAYER_H
#define SLABD_LAYER_H

#include "block.h"

struct error;

enum layer_id { LAYER_QOS, LAYER_FAULT, LAYERS }; /* from above to below */

struct layer_ops {
	/*
	 * Required. On the request's loop; must not block. The request goes on by layer_pass() or
	 * ends by blk_complete(), now or later; until then its progress and driver[] are the
	 * layer's, and `cancel`, where it can be taken back (B10).
	 */
	void (*enter)(void *state, struct blk_request *request);
	/*
	 * Optional. On its loop: what is below has ended it with request->rc. True: it goes on
	 * upwards. False: the layer keeps it until it calls blk_complete().
	 */
	bool (*leave)(void *state, struct blk_request *request);
	/* Main thread, with the volume. */
	void (*free)(void *state);
};

/* From blk_dispatch(): the lane has layers on. */
void layer_enter(struct blk_request *request);

/* From a layer: to the next one below, or to the driver. The request's loop. */
void layer_pass(struct blk_request *request);

/* From blk_finish(), for requests that passed layers. False: a layer keeps it. */
bool layer_leave(struct blk_request *request);

/* A part of `whole`, which a layer has, made by that layer (a STATE_SUB on the same handle): goes where
 * `whole` would by layer_pass(). */
void layer_pass_part(struct blk_request *part, const struct blk_request *whole);

/*
 * resume(request) is called on its loop when loop_now() has reached `due`, not from inside the
 * call. Requests due at the same time keep their order. Uses progress and driver[].
 */
void
layer_delay(struct blk_request *request, uint64_t due, void (*resume)(struct blk_request *request));

/* Main thread. The volume's layer: its state, made by make() when there is none yet; NULL: none. */
void *layer_state(struct volume *volume, enum layer_id id);
/* Takes `state` over; there was none. */
void
layer_put_in(struct volume *volume, enum layer_id id, const struct layer_ops *ops, void *state);
/* For lanes that apply it, and for those made from now on. */
void layer_switch(struct volume *volume, enum layer_id id, bool on);

/* With the volume. */
void layers_free(struct volume *volume);

#endif
