/*
 * Clients: whose handles are whose, so that what is counted for a client is not multiplied by opening more
 * connections, nor forgotten by closing them. A client that nobody is any more is kept until its rates would
 * not know it from a new one (qos_client_rested()).
 */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "storage.h"

/* Under the lock. */
static void
forget_client(struct volume *volume, struct blk_client *client)
{
	LIST_REMOVE(client, link);
	volume->nclients--;
	free(client);
}

/* Under the lock: the one of that name, held. On the way those go whom nobody needs. */
static struct blk_client *
find_client(struct volume *volume, const char *name, uint64_t now)
{
	struct blk_client *client = LIST_FIRST(&volume->clients), *found = NULL, *next;

	for (; client; client = next) {
		next = LIST_NEXT(client, link);
		if (strcmp(client->name, name) == 0)
			found = client;
		else if (client->handles == 0 && (qos_client_rested(volume, client, now) ||
							 volume->nclients > LIMIT_CLIENTS_KEPT))
			forget_client(volume, client);
	}
	if (found)
		found->handles++;
	return found;
}

int
blk_set_client(struct blk_handle *handle, const char *name)
{
	struct volume *volume = handle->volume;
	size_t length = strlen(name) + 1;
	struct blk_client *made = calloc(1, sizeof(*made) + length), *client;

	if (!made)
		return -ENOMEM;
	CHECK(handle->client == &handle->own && handle->in_flight == 0);
	memcpy(made->name, name, length);
	made->handles = 1;
	pthread_mutex_lock(&volume->lock);
	client = find_client(volume, name, loop_now(handle->loop));
	if (!client) {
		client = made;
		LIST_INSERT_HEAD(&volume->clients, made, link);
		volume->nclients++;
	}
	handle->client = client;
	pthread_mutex_unlock(&volume->lock);
	if (client != made)
		free(made);
	return 0;
}

const char *
blk_client(const struct blk_handle *handle)
{
	return handle->client == &handle->own ? handle->name : handle->client->name;
}

void
client_leave(struct blk_handle *handle)
{
	if (handle->client != &handle->own)
		handle->client->handles--;
}

void
clients_free(struct volume *volume)
{
	while (!LIST_EMPTY(&volume->clients))
		forget_client(volume, LIST_FIRST(&volume->clients));
}
