/* Volumes: opened from their configuration, shared by reference, closed on the main thread. */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fault.h"
#include "qos.h"
#include "storage.h"
#include "uring.h"

const struct blk_driver *const blk_drivers[] = {
	&memory_driver, &file_driver, &device_driver, &null_driver, NULL};

/* Closes on workers, or on their way back. */
static atomic_uint closings;
static bool closes_at_once; /* main thread */

int
storage_start(uint64_t memory_cap)
{
	int rc = emulate_start();

	if (rc)
		return rc;
	closes_at_once = false;
	uring_start();
	rc = memory_start();
	if (rc) {
		emulate_stop();
		return rc;
	}
	memory_cap_set(memory_cap);
	return 0;
}

void
storage_stop(void)
{
	uring_stop();
	reservation_directory(NULL);
	memory_stop();
	emulate_stop();
}

const char *
storage_engine(void)
{
	return uring_text();
}

static int
check_name(const char *name, struct error *error)
{
	size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-");

	if (name[0] == '\0' || name[0] == '.' || name[0] == '-' || name[length] != '\0' ||
		length > LIMIT_VOLUME_NAME)
		return error_set(error, -EINVAL,
			"name \"%.80s\" will not do: a small letter or digit, then at most %d small letters, digits, '.' or '-'",
			name, LIMIT_VOLUME_NAME - 1);
	return 0;
}

static int
check_blocks(const struct conf_volume *conf, struct error *error)
{
	uint32_t block = conf->block_size;
	uint32_t physical = conf->physical_block_size ? conf->physical_block_size : block;

	if (block != 512 && block != 4096)
		return error_set(
			error, -EINVAL, "block_size %" PRIu32 " must be 512 or 4096", block);
	/* READ CAPACITY (16) has 4 bits for the exponent. */
	if (physical < block || physical & (physical - 1) || physical > block << 15)
		return error_set(error, -EINVAL,
			"physical_block_size %" PRIu32
			" must be a power of two times block_size %" PRIu32,
			physical, block);
	return 0;
}

static int
check_size(const struct conf_volume *conf, struct error *error)
{
	uint64_t size = conf->size, block = conf->block_size;

	if (size > LIMIT_VOLUME_SIZE)
		return error_set(error, -EINVAL,
			"size %" PRIu64 " is more than %" PRIu64 " (%d PiB)", size,
			LIMIT_VOLUME_SIZE, (int)(LIMIT_VOLUME_SIZE / PIB));
	if (size % block)
		return error_set(error, -EINVAL,
			"size %" PRIu64 " is not a multiple of the block size %" PRIu64
			" (the next is %" PRIu64 ")",
			size, block, round_up(size, block));
	return 0;
}

static char *
copy_string(const char *s, bool *failed)
{
	char *copy = s ? strdup(s) : NULL;

	if (s && !copy)
		*failed = true;
	return copy;
}

static int
copy_conf(struct conf_volume *copy, const struct conf_volume *conf)
{
	bool failed = false;

	*copy = *conf;
	copy->name = copy_string(conf->name, &failed);
	copy->backend = copy_string(conf->backend, &failed);
	copy->path = copy_string(conf->path, &failed);
	copy->serial = copy_string(conf->serial, &failed);
	copy->vendor = copy_string(conf->vendor, &failed);
	copy->product = copy_string(conf->product, &failed);
	copy->fault = copy_string(conf->fault, &failed);
	copy->load = copy_string(conf->load, &failed);
	copy->save = copy_string(conf->save, &failed);
	return failed ? -ENOMEM : 0;
}

static void
free_conf(struct conf_volume *conf)
{
	free(conf->name);
	free(conf->backend);
	free(conf->path);
	free(conf->serial);
	free(conf->vendor);
	free(conf->product);
	free(conf->fault);
	free(conf->load);
	free(conf->save);
}

/*
 * The volume's identity: the same after a restart and on every path, different for different names.
 * FNV-1a, 64 bits, twice from different bases, stamped as a version 8 UUID (RFC 9562 5.8).
 */
static void
make_uuid(const char *name, uint8_t uuid[16])
{
	static const uint64_t bases[2] = {0xcbf29ce484222325, 0x9ae16a3b2f90404f};

	for (unsigned half = 0; half < 2; half++) {
		uint64_t hash = bases[half];

		for (const char *c = name; *c; c++)
			hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
		/* The last bytes of a name hardly reach the upper bits without this. */
		hash ^= hash >> 32;
		hash *= 0xd6e8feb86659fd93;
		hash ^= hash >> 32;
		memcpy(uuid + 8 * half, &hash, sizeof(hash));
	}
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x80);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

/* What is known before the driver is asked. */
static void
prepare_info(struct volume *volume)
{
	struct blk_info *info = &volume->info;

	*info = (struct blk_info){.block_size = volume->conf.block_size,
		.physical_block_size = volume->conf.physical_block_size
					       ? volume->conf.physical_block_size
					       : volume->conf.block_size,
		.alignment = 1,
		.transfer_max = GIB,
		.read_only = volume->conf.read_only,
		.rotational = volume->conf.rotational};
	make_uuid(volume->name, info->uuid);
}

void
volume_settle(struct volume *volume, void *state, const struct blk_info *found)
{
	const struct blk_driver *driver = volume->driver;
	struct blk_info *info = &volume->info;

	volume->state = state;
	*info = *found;
	CHECK(info->size <= LIMIT_VOLUME_SIZE && info->size % info->block_size == 0);
	CHECK(info->alignment && (info->alignment & (info->alignment - 1)) == 0);
	CHECK(info->transfer_max && info->transfer_max % info->alignment == 0);
	CHECK(info->size % info->alignment == 0);
	volume->submits = driver->submit ? info->native : 0;
	info->native = volume->submits | blocking_operations(driver);
	if (!(info->native & 1u << BLK_ZERO))
		info->fast_zero = false;
	volume->drop_sync = !info->volatile_cache || !(info->native & 1u << BLK_FLUSH);
	volume->write_syncs = info->fua && !volume->drop_sync && volume->submits & 1u << BLK_WRITE;
	volume->align_mask = info->alignment - 1;
	atomic_init(&volume->size, info->size);
	volume->measured = driver->measure ? driver->measure(volume->state) : 0;
}

static void
free_volume(struct volume *volume)
{
	layers_free(volume);
	reservation_close(volume);
	clients_free(volume);
	for (unsigned i = 0; i < LANES; i++)
		free(atomic_load(&volume->lanes[i]));
	pthread_mutex_destroy(&volume->lock);
	free_conf(&volume->conf);
	free(volume);
}

int
volume_make(const struct conf_volume *conf, const struct blk_driver *driver, struct volume **made,
	struct error *error)
{
	struct volume *volume;
	int rc = check_name(conf->name, error);

	if (!rc)
		rc = check_blocks(conf, error);
	if (!rc)
		rc = check_size(conf, error);
	if (rc)
		return rc;
	volume = calloc(1, sizeof(*volume));
	if (!volume)
		return error_set(error, -ENOMEM, "no memory");
	pthread_mutex_init(&volume->lock, NULL);
	TAILQ_INIT(&volume->freezes);
	TAILQ_INIT(&volume->sync.on_way);
	TAILQ_INIT(&volume->changes);
	LIST_INIT(&volume->clients);
	volume->driver = driver;
	atomic_init(&volume->references, 1);
	rc = copy_conf(&volume->conf, conf);
	if (!rc)
		rc = jobs_start(volume);
	if (rc) {
		error_set(error, rc, "no memory");
		goto fail;
	}
	strcpy(volume->name, conf->name);
	prepare_info(volume);
	*made = volume;
	return 0;

fail:
	free_volume(volume);
	return rc;
}

void
volume_abandon(struct volume *volume)
{
	jobs_stop(volume);
	free_volume(volume);
}

int
volume_open_driver(const struct conf_volume *conf, const struct blk_driver *driver,
	struct volume **opened, struct error *error)
{
	struct volume *volume;
	struct blk_info info;
	void *state;
	int rc = volume_make(conf, driver, &volume, error);

	if (rc)
		return rc;
	info = volume->info;
	if (conf->fault)
		rc = volume_fault_set(volume, conf->fault, error);
	if (!rc && qos_limits(&conf->qos))
		rc = volume_qos_set(volume, &conf->qos, error);
	if (!rc)
		rc = reservation_open(volume, error);
	if (!rc)
		rc = driver->open(&volume->conf, &info, &state, error);
	if (rc) {
		volume_abandon(volume);
		return rc;
	}
	volume_settle(volume, state, &info);
	*opened = volume;
	return 0;
}

const struct blk_driver *
blk_driver_find(const char *name)
{
	for (const struct blk_driver *const *driver = blk_drivers; *driver; driver++)
		if (strcmp((*driver)->name, name) == 0)
			return *driver;
	return NULL;
}

int
volume_open(const struct conf_volume *conf, struct volume **volume, struct error *error)
{
	const struct blk_driver *found = blk_driver_find(conf->backend);
	char names[128] = "";
	size_t used = 0;

	if (found)
		return volume_open_driver(conf, found, volume, error);
	for (const struct blk_driver *const *driver = blk_drivers; *driver; driver++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
			used ? ", " : "", (*driver)->name);
	return error_set(
		error, -EINVAL, "unknown backend \"%.64s\" (backends: %s)", conf->backend, names);
}

/* Main thread; the driver has closed. */
static void
end_volume(struct volume *volume)
{
	void (*closed)(void *arg) = volume->closed;
	void *arg = volume->closed_arg;

	jobs_stop(volume);
	free_volume(volume);
	if (closed)
		closed(arg);
}

/* Main thread; nobody knows the volume any more. */
static void
close_volume(struct volume *volume)
{
	CHECK(atomic_load(&volume->nhandles) == 0);
	volume->driver->close(volume->state);
	end_volume(volume);
}

static void
closed_here(struct loop_task *task)
{
	end_volume(container_of(task, struct volume, close_task));
	if (atomic_fetch_sub(&closings, 1) == 1 && closes_at_once)
		loop_stop_main();
}

static void
close_on_worker(struct work *work)
{
	struct volume *volume = container_of(work, struct volume, close_work);

	volume->driver->close(volume->state);
	volume->close_task.run = closed_here;
	loop_post(loop_main(), &volume->close_task);
}

/* The main loop, which sees whether it still runs. */
static void
begin_close(struct loop_task *task)
{
	struct volume *volume = container_of(task, struct volume, close_task);

	if (closes_at_once) {
		close_volume(volume);
		return;
	}
	CHECK(atomic_load(&volume->nhandles) == 0);
	atomic_fetch_add(&closings, 1);
	volume->close_work.run = close_on_worker;
	work_submit(volume->works, &volume->close_work);
}

void
volume_close(struct volume *volume, void (*closed)(void *arg), void *arg)
{
	volume->closed = closed;
	volume->closed_arg = arg;
	volume_put(volume);
}

void
volumes_wait_closed(void)
{
	closes_at_once = true;
	if (atomic_load(&closings))
		loop_run_main();
}

static void
close_here(struct loop_task *task)
{
	close_volume(container_of(task, struct volume, close_task));
}

struct volume *
volume_get(struct volume *volume)
{
	atomic_fetch_add_explicit(&volume->references, 1, memory_order_relaxed);
	return volume;
}

void
volume_put(struct volume *volume)
{
	struct loop *main_loop;

	if (atomic_fetch_sub_explicit(&volume->references, 1, memory_order_acq_rel) > 1)
		return;
	main_loop = loop_main();
	volume->close_task.run = volume->closed ? begin_close : close_here;
	if (!main_loop || loop_current() == main_loop)
		volume->close_task.run(&volume->close_task);
	else
		loop_post(main_loop, &volume->close_task);
}

const char *
volume_name(const struct volume *volume)
{
	return volume->name;
}

const char *
volume_occupied(const struct volume *volume)
{
	if (volume_going(volume))
		return "going";
	if (volume->changing)
		return "being changed";
	return atomic_load(&volume->refuse) & VOLUME_SEALED
		       ? "sealed: it is being sanitized, or that failed"
		       : NULL;
}

const uint8_t *
volume_uuid(const struct volume *volume)
{
	return volume->info.uuid;
}

const struct conf_volume *
volume_conf(const struct volume *volume)
{
	return &volume->conf;
}

void
volume_set_going(struct volume *volume)
{
	atomic_fetch_or(&volume->refuse, VOLUME_GOING);
}

bool
volume_going(const struct volume *volume)
{
	return atomic_load(&volume->refuse) & VOLUME_GOING;
}

bool
volume_broken(const struct volume *volume)
{
	return atomic_load(&volume->refuse) & (VOLUME_BROKEN | VOLUME_GONE);
}

static struct lane *
make_lane(struct volume *volume, unsigned index)
{
	struct lane *lane = calloc(1, sizeof(*lane));

	if (!lane)
		return NULL;
	lane->volume = volume;
	lane->loop = loop_current();
	lane->index = index;
	TAILQ_INIT(&lane->in_flight);
	TAILQ_INIT(&lane->held);
	LIST_INIT(&lane->handles);
	lane->layers = (uint8_t)atomic_load(&volume->layers);
	pthread_mutex_lock(&volume->lock);
	freeze_inherit(lane);
	atomic_store_explicit(&volume->lanes[index], lane, memory_order_release);
	pthread_mutex_unlock(&volume->lock);
	return lane;
}

struct lane *
volume_lane(struct volume *volume)
{
	unsigned index = loop_index(loop_current());
	struct lane *lane;

	CHECK(index < LANES);
	/* Only this thread writes this entry. */
	lane = atomic_load_explicit(&volume->lanes[index], memory_order_relaxed);
	return lane ? lane : make_lane(volume, index);
}

static void
add_counters(struct volume_stats *stats, const struct blk_counters *counters)
{
	for (unsigned op = 0; op < BLK_OPS; op++)
		stats->operations[op] +=
			atomic_load_explicit(&counters->operations[op], memory_order_relaxed);
	stats->errors += atomic_load_explicit(&counters->errors, memory_order_relaxed);
	stats->read_failures +=
		atomic_load_explicit(&counters->read_failures, memory_order_relaxed);
	stats->write_failures +=
		atomic_load_explicit(&counters->write_failures, memory_order_relaxed);
	stats->bytes_read += atomic_load_explicit(&counters->bytes_read, memory_order_relaxed);
	stats->bytes_written +=
		atomic_load_explicit(&counters->bytes_written, memory_order_relaxed);
	stats->rmw_ops += atomic_load_explicit(&counters->rmw_ops, memory_order_relaxed);
	stats->bounced_bytes +=
		atomic_load_explicit(&counters->bounced_bytes, memory_order_relaxed);
}

static void
add_lane(struct volume_stats *stats, const struct lane *lane)
{
	const struct blk_handle *handle;

	add_counters(stats, &lane->closed);
	LIST_FOREACH(handle, &lane->handles, link)
		add_counters(stats, &handle->counters);
	histogram_merge(&stats->read, &lane->latency[BLK_READ]);
	histogram_merge(&stats->write, &lane->latency[BLK_WRITE]);
}

void
volume_count(struct volume *volume, struct volume_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	pthread_mutex_lock(&volume->lock);
	for (unsigned i = 0; i < LANES; i++) {
		struct lane *lane = atomic_load_explicit(&volume->lanes[i], memory_order_relaxed);

		if (lane)
			add_lane(stats, lane);
	}
	pthread_mutex_unlock(&volume->lock);
}

void
volume_get_stats(struct volume *volume, struct volume_stats *stats)
{
	volume_count(volume, stats);
	stats->size = atomic_load(&volume->size);
	stats->limit = volume->info.limit;
	stats->allocated =
		volume->driver->allocated ? volume->driver->allocated(volume->state) : stats->size;
	stats->handles = atomic_load(&volume->nhandles);
	stats->broken = volume_broken(volume);
	stats->going = volume_going(volume);
	if (volume->driver->describe)
		volume->driver->describe(volume->state, stats->detail, sizeof(stats->detail));
	pthread_mutex_lock(&volume->lock);
	memcpy(stats->why, volume->why, sizeof(stats->why));
	pthread_mutex_unlock(&volume->lock);
}
