/*
 * The control socket: a request is a line of JSON, {"command": NAME, ...}, and so is its answer,
 * {"result":
 * ...} or {"error": TEXT}. On the main loop; nothing blocks.
 */
#ifndef SLABD_CONTROL_H
#define SLABD_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf.h"
#include "log.h"

/* Binds the socket. A default path that cannot be had is a warning, not an error. `conf` must stay.
 * 0 or -errno with *error. */
int control_bind(const struct conf *conf, struct error *error);

/* Answers from now on. 0 or -errno. */
int control_start(void);

/* No more requests; answers that are on their way are given up. Harmless when it was not bound. */
void control_stop(void);

/* The path it answers on; NULL: none. */
const char *control_path(void);

/* Nanoseconds since control_start(). */
uint64_t control_uptime(void);

/* One who asks. It takes the next request when the one before is answered. */
struct control_client;
struct volume;

/* control_commands.c: carries out a request; exactly one answer follows, now or later. */
void control_execute(struct control_client *client, const struct conf *conf, json_t *request);

/* control_volumes.c */
void control_add(struct control_client *client, const struct conf *conf, json_t *request);
void control_remove(struct control_client *client, const struct conf *conf, json_t *request);
/* Whether a volume may have this name; refused if not. */
bool control_name_free(struct control_client *client, const struct conf *conf, const char *name);
/* Offers an open volume, whose reference it takes over, and answers. */
void control_offer(struct control_client *client, const struct conf *conf, struct volume *volume);
/* Ends what removals still wait for. */
void control_volumes_stop(void);

/* control_changes.c */
void control_resize(struct control_client *client, const struct conf *conf, json_t *request);
void control_clear(struct control_client *client, const struct conf *conf, json_t *request);
void control_snapshot(struct control_client *client, const struct conf *conf, json_t *request);
void control_save(struct control_client *client, const struct conf *conf, json_t *request);
void control_load(struct control_client *client, const struct conf *conf, json_t *request);
/* Runs the main loop until those that are being made have ended: workers have their volumes. */
void control_changes_finish(void);

/* control_alua.c */
void control_alua(struct control_client *client, const struct conf *conf, json_t *request);

/* control_layers.c */
void control_qos(struct control_client *client, const struct conf *conf, json_t *request);
void control_fault(struct control_client *client, const struct conf *conf, json_t *request);

/* The volume that a request names. NULL: there is none, and the client has been told. */
struct volume *control_volume(struct control_client *client, json_t *request);

/* The answer. `result` is taken over; NULL says that there was no memory for it. */
void control_answer(struct control_client *client, json_t *result);
void control_refuse(struct control_client *client, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
