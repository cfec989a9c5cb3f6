#include "config.h"

#include "alua.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

const char *const alua_words[] = {[ALUA_OPTIMIZED] = "active/optimized",
	[ALUA_NON_OPTIMIZED] = "active/non-optimized",
	[ALUA_STANDBY] = "standby",
	[ALUA_UNAVAILABLE] = "unavailable",
	NULL};

/* What has been set; the rest is active/optimized. */
struct group_state {
	TAILQ_ENTRY(group_state) link;
	uint16_t group;
	enum alua_state state;
	char target[]; /* its name */
};

/* Taken when something was set, never on the data path. */
static pthread_mutex_t states_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, group_state) states = TAILQ_HEAD_INITIALIZER(states);

_Atomic uint32_t alua_generation;

/* With the lock held. */
static struct group_state *
find_state(const char *target, uint16_t group)
{
	struct group_state *state;

	TAILQ_FOREACH(state, &states, link) {
		if (state->group == group && strcmp(state->target, target) == 0)
			return state;
	}
	return NULL;
}

enum alua_state
alua_get(const char *target, uint16_t group)
{
	const struct group_state *found;
	enum alua_state state;

	pthread_mutex_lock(&states_lock);
	found = find_state(target, group);
	state = found ? found->state : ALUA_OPTIMIZED;
	pthread_mutex_unlock(&states_lock);
	return state;
}

int
alua_set(const char *target, uint16_t group, enum alua_state state)
{
	struct group_state *found;
	size_t length = strlen(target) + 1;
	int rc = 0;

	pthread_mutex_lock(&states_lock);
	found = find_state(target, group);
	if (!found && (found = calloc(1, sizeof(*found) + length))) {
		found->group = group;
		memcpy(found->target, target, length);
		TAILQ_INSERT_TAIL(&states, found, link);
	}
	if (found)
		found->state = state;
	else
		rc = -ENOMEM;
	atomic_fetch_add_explicit(&alua_generation, 1, memory_order_release);
	pthread_mutex_unlock(&states_lock);
	return rc;
}

void
alua_clear(void)
{
	struct group_state *state;

	pthread_mutex_lock(&states_lock);
	while ((state = TAILQ_FIRST(&states))) {
		TAILQ_REMOVE(&states, state, link);
		free(state);
	}
	atomic_fetch_add_explicit(&alua_generation, 1, memory_order_release);
	pthread_mutex_unlock(&states_lock);
}
