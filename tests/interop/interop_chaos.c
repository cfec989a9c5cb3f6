/*
 * 64 iSCSI sessions do verified I/O at once on 2 loops while they are killed, reinstated, logged out,
 * their tasks aborted and their units and target reset at random: no byte is wrong (O1), and caches,
 * descriptors and memory are back where they were (O6). SLABD_SECONDS says for how long.
 */
#include "config.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chaos.h"
#include "harness.h"

enum {
	SESSIONS = 64,
	TARGETS = 2,
	REGION = CHAOS_BLOCKS * CHAOS_BLOCK,
	WARM_SECONDS = 2,
	RSS_MARGIN = 48 << 20, /* magazines, buffers that a loop keeps */
};

static struct server server;
static struct chaos sessions[SESSIONS];
static atomic_bool stop;

static void
prepare_sessions(uint64_t *random)
{
	static const char *const targets[TARGETS] = {
		"iqn.2026-11.localhost.slabd:m/0", "iqn.2026-11.localhost.slabd:f/0"};

	for (unsigned i = 0; i < SESSIONS; i++) {
		sessions[i].address = server.iscsi;
		sessions[i].target = targets[i % TARGETS];
		sessions[i].number = i;
		sessions[i].base = (uint64_t)(i / TARGETS) * REGION;
		sessions[i].random = random_next(random);
		sessions[i].stop = &stop;
	}
}

/* True if none of them found anything wrong; the first is noted. */
static bool
all_well(void)
{
	for (unsigned i = 0; i < SESSIONS; i++)
		if (sessions[i].wrong) {
			tap_note("session %u: %s", i, sessions[i].why);
			return false;
		}
	return true;
}

static bool
sweep_all(bool (*sweep)(struct chaos *))
{
	for (unsigned i = 0; i < SESSIONS; i++)
		if (!sweep(&sessions[i]))
			break;
	return all_well();
}

static bool
run_chaos(unsigned seconds)
{
	pthread_t threads[SESSIONS];

	atomic_store(&stop, false);
	for (unsigned i = 0; i < SESSIONS; i++)
		if (pthread_create(&threads[i], NULL, chaos_run, &sessions[i]))
			tap_bail("pthread_create");
	for (unsigned second = 0; second < seconds && server_running(&server); second++)
		sleep_ms(1000);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < SESSIONS; i++)
		pthread_join(threads[i], NULL);
	return all_well();
}

static void
note_counts(void)
{
	uint64_t reads = 0, writes = 0, uncertain = 0, attentions = 0, deeds[CHAOS_DEEDS] = {0};
	char words[512];
	size_t used = 0;

	for (unsigned i = 0; i < SESSIONS; i++) {
		reads += sessions[i].reads;
		writes += sessions[i].writes;
		uncertain += sessions[i].uncertain;
		attentions += sessions[i].attentions;
		for (unsigned j = 0; j < CHAOS_DEEDS; j++)
			deeds[j] += sessions[i].deeds[j];
	}
	tap_note("%llu reads, %llu writes, %llu requests without an end, %llu unit attentions",
		(unsigned long long)reads, (unsigned long long)writes,
		(unsigned long long)uncertain, (unsigned long long)attentions);
	for (unsigned j = 0; j < CHAOS_DEEDS; j++)
		used += (size_t)snprintf(words + used, sizeof(words) - used, "%s%llu %s",
			j ? ", " : "", (unsigned long long)deeds[j], chaos_deeds[j]);
	tap_note("%s", words);
}

/* "CACHE ACTIVE" lines. A ring, which a loop makes when it first needs one, has a watch of its own. */
static void
read_slabs(char *out, size_t size, unsigned rings)
{
	static char table[65536];
	size_t used = 0;
	char *rest;

	if (server_ctl(&server, table, sizeof(table), "slabs"))
		tap_bail("slabctl slabs: %s", table);
	out[0] = '\0';
	for (char *line = strtok_r(table, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char name[64];
		unsigned long long active;

		if (sscanf(line, "%63s %*u %*u %*u %llu", name, &active) == 2)
			used += (size_t)snprintf(out + used, used < size ? size - used : 0,
				"%s %llu\n", name,
				active - (strcmp(name, "loop_watch") ? 0 : rings));
	}
}

/* What each descriptor is, to be told where there are more than before. The number of io_uring's. */
static unsigned
list_descriptors(char *out, size_t size)
{
	unsigned rings = 0;
	char path[64], name[256];
	struct dirent *entry;
	size_t used = 0;
	DIR *dir;

	out[0] = '\0';
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)server.pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, name, sizeof(name) - 1);

		if (n > 0 && used + 300 < size) {
			name[n] = '\0';
			rings += !strcmp(name, "anon_inode:[io_uring]");
			used += (size_t)snprintf(
				out + used, size - used, " %s:%s", entry->d_name, name);
		}
	}
	if (dir)
		closedir(dir);
	return rings;
}

struct state {
	char slabs[8192], names[8192];
	unsigned descriptors;
	uint64_t rss;
};

static void
take_state(struct state *state)
{
	unsigned rings = list_descriptors(state->names, sizeof(state->names));

	read_slabs(state->slabs, sizeof(state->slabs), rings);
	state->descriptors = server_descriptors(&server) - rings;
	state->rss = server_rss(&server);
}

static bool
is_back(const struct state *before, struct state *after)
{
	take_state(after);
	return !strcmp(before->slabs, after->slabs) && after->descriptors <= before->descriptors &&
	       (sanitized() || after->rss <= before->rss + RSS_MARGIN);
}

static void
test_return_to_base(const struct state *before)
{
	struct state after;

	for (unsigned waits = 0; waits < 10 * patience_seconds(20) && !is_back(before, &after);
		waits++)
		sleep_ms(100);
	tap_ok(!strcmp(before->slabs, after.slabs), "every cache is back at its count");
	if (strcmp(before->slabs, after.slabs))
		tap_note("before:\n%safter:\n%s", before->slabs, after.slabs);
	tap_ok(after.descriptors <= before->descriptors, "descriptors are: %u before, %u after",
		before->descriptors, after.descriptors);
	if (after.descriptors > before->descriptors)
		tap_note("before:%s; after:%s", before->names, after.names);
	if (sanitized())
		tap_skip("a sanitizer keeps what was freed", "resident memory is");
	else
		tap_ok(after.rss <= before->rss + RSS_MARGIN,
			"resident memory is: %llu KiB before, %llu KiB after",
			(unsigned long long)before->rss / 1024,
			(unsigned long long)after.rss / 1024);
}

int
main(void)
{
	const char *seconds = getenv("SLABD_SECONDS");
	unsigned length = seconds ? (unsigned)atoi(seconds) : 4;
	struct state before;
	char file[160];
	uint64_t random;

	server_prepare(&server);
	snprintf(file, sizeof(file), "f=file:%s/f.img,size=64M", server.dir);
	const char *args[] = {"m=memory:64M", file, NULL};
	server_start(&server, args);
	random = test_seed();
	prepare_sessions(&random);
	tap_ok(sweep_all(chaos_fill), "each of %d sessions writes its region", SESSIONS);
	tap_ok(run_chaos(WARM_SECONDS), "no byte is wrong in %d seconds of chaos", WARM_SECONDS);
	tap_ok(sweep_all(chaos_verify), "nor afterwards");
	take_state(&before);
	tap_ok(run_chaos(length), "no byte is wrong in %u seconds more", length);
	tap_ok(sweep_all(chaos_verify), "nor afterwards");
	note_counts();
	test_return_to_base(&before);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
