#include "config.h"
#include "volumes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "limits.h"

static struct served_volumes volumes = TAILQ_HEAD_INITIALIZER(volumes);

struct served_volumes *
volumes_list(void)
{
	return &volumes;
}

struct served_volume *
volumes_find(const char *name)
{
	struct served_volume *served;

	TAILQ_FOREACH(served, &volumes, link)
		if (strcmp(volume_name(served->volume), name) == 0 && !volume_going(served->volume))
			return served;
	return NULL;
}

int
volumes_open(const struct conf_volume *conf, bool added, struct served_volume **opened,
	struct error *error)
{
	struct served_volume *served = calloc(1, sizeof(*served));
	struct error cause = {.text = ""};
	int rc;

	if (!served)
		return error_set(error, -ENOMEM, "volume %s: out of memory", conf->name);
	rc = volume_open(conf, &served->volume, &cause);
	if (rc) {
		free(served);
		return error_set(error, rc, "volume %s: %.400s", conf->name, cause.text);
	}
	served->added = added;
	TAILQ_INSERT_TAIL(&volumes, served, link);
	if (opened)
		*opened = served;
	return 0;
}

int
volumes_take(struct volume *volume, struct served_volume **taken)
{
	struct served_volume *served = calloc(1, sizeof(*served));

	if (!served)
		return -ENOMEM;
	served->volume = volume;
	served->added = true;
	TAILQ_INSERT_TAIL(&volumes, served, link);
	*taken = served;
	return 0;
}

void
volumes_drop(struct served_volume *served)
{
	TAILQ_REMOVE(&volumes, served, link);
	volume_put(served->volume);
	free(served);
}

void
volumes_close(struct served_volume *served, void (*closed)(void *arg), void *arg)
{
	TAILQ_REMOVE(&volumes, served, link);
	volume_close(served->volume, closed, arg);
	free(served);
}

void
volumes_close_all(void)
{
	while (!TAILQ_EMPTY(&volumes))
		volumes_drop(TAILQ_LAST(&volumes, served_volumes));
}

int
volumes_open_all(const struct conf *conf, struct error *error)
{
	bool *created = calloc(conf->nvolumes + 1, sizeof(*created));
	size_t opened = 0;
	int rc = 0;

	if (!created)
		return error_set(error, -ENOMEM, "out of memory");
	for (; rc == 0 && opened < conf->nvolumes; opened++) {
		const struct conf_volume *volume = &conf->volumes[opened];

		created[opened] = volume->path && access(volume->path, F_OK) < 0;
		rc = volumes_open(volume, false, NULL, error);
	}
	if (rc) {
		volumes_close_all();
		/* The last one failed and left nothing. */
		for (size_t i = 0; i + 1 < opened; i++)
			if (created[i])
				unlink(conf->volumes[i].path);
	}
	free(created);
	return rc;
}

static void
sample(struct served_volume *served, uint64_t now)
{
	struct volume_stats stats;
	uint64_t elapsed_ms = (now - served->sampled) / MS_NS;

	volume_get_stats(served->volume, &stats);
	if (served->sampled && elapsed_ms > 0) {
		uint64_t reads = stats.operations[BLK_READ], writes = stats.operations[BLK_WRITE];

		served->reads_rate = (reads - served->reads) * 1000 / elapsed_ms;
		served->writes_rate = (writes - served->writes) * 1000 / elapsed_ms;
		served->read_bytes_rate =
			(stats.bytes_read - served->read_bytes) * 1000 / elapsed_ms;
		served->write_bytes_rate =
			(stats.bytes_written - served->write_bytes) * 1000 / elapsed_ms;
	}
	served->sampled = now;
	served->reads = stats.operations[BLK_READ];
	served->writes = stats.operations[BLK_WRITE];
	served->read_bytes = stats.bytes_read;
	served->write_bytes = stats.bytes_written;
	histogram_window_turn(&served->recent_reads, &stats.read, now);
	histogram_window_turn(&served->recent_writes, &stats.write, now);
}

void
volumes_sample(uint64_t now)
{
	struct served_volume *served;

	TAILQ_FOREACH(served, &volumes, link)
		sample(served, now);
}

void
volumes_look(void)
{
	struct served_volume *served;

	TAILQ_FOREACH(served, &volumes, link)
		volume_look(served->volume);
}
