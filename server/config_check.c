/* What only the whole configuration can tell: names, references, and what does not go together. */
#include "config.h"

#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "block_driver.h"
#include "check.h"
#include "config_keys.h"
#include "config_load.h"
#include "fault.h"
#include "limits.h"
#include "tls.h"
#include "words.h"

static const char *
path_of(char path[80], const char *format, ...) __attribute__((format(printf, 2, 3)));

static const char *
path_of(char path[80], const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(path, 80, format, ap);
	va_end(ap);
	return path;
}

static bool
is_power_of_two(uint64_t n)
{
	return n > 0 && (n & (n - 1)) == 0;
}

/* The name becomes part of an IQN, and may stand in a path. */
static bool
is_volume_name(const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789.-";
	size_t length = strspn(name, letters);

	return name[length] == '\0' && length >= 1 && length <= LIMIT_VOLUME_NAME &&
	       name[0] != '.' && name[0] != '-';
}

static void
check_inquiry_text(
	struct config *config, size_t index, const char *key, const char *text, size_t most)
{
	char path[80];
	size_t length = 0;

	if (!text)
		return;
	while (text[length] >= 0x20 && text[length] <= 0x7e)
		length++;
	/* SPC-4 4.4.1: left-aligned ASCII graphic characters. */
	if (text[length] != '\0' || length > most)
		config_problem(config, path_of(path, "volumes[%zu].%s", index, key),
			"volume %s: %s has at most %zu printable ASCII characters",
			config->conf.volumes[index].name, key, most);
}

static void
check_backend(struct config *config, size_t index)
{
	const struct conf_volume *volume = &config->conf.volumes[index];
	const struct blk_driver *driver = volume->backend ? blk_driver_find(volume->backend) : NULL;
	char path[80], hint[96];
	struct nearest nearest;

	path_of(path, "volumes[%zu].backend", index);
	if (!volume->backend) {
		config_problem(config, path, "volume %s: backend is missing", volume->name);
	} else if (!driver) {
		nearest_init(&nearest, volume->backend);
		for (const struct blk_driver *const *d = blk_drivers; *d; d++)
			nearest_try(&nearest, (*d)->name);
		config_problem(config, path, "volume %s: unknown backend \"%s\"%s", volume->name,
			volume->backend, nearest_text(&nearest, hint, sizeof(hint)));
	} else if (strcmp(driver->argument, "path") == 0 && !volume->path) {
		config_problem(config, path, "volume %s: a %s volume needs a path", volume->name,
			driver->name);
	} else if (strcmp(driver->argument, "size") == 0) {
		if (volume->path)
			config_problem(config, path_of(path, "volumes[%zu].path", index),
				"volume %s: a %s volume takes no path", volume->name, driver->name);
		if (volume->size == 0)
			config_problem(config, path_of(path, "volumes[%zu].size", index),
				"volume %s: a %s volume needs a size", volume->name, driver->name);
	}
}

static void
check_file_keys(struct config *config, size_t index)
{
	const struct conf_volume *volume = &config->conf.volumes[index];
	char path[80];

	if (!volume->backend || strcmp(volume->backend, "file") == 0)
		return;
	if (volume->prealloc)
		config_problem(config, path_of(path, "volumes[%zu].prealloc", index),
			"volume %s: prealloc is for file volumes", volume->name);
	if (volume->direct != CONF_DIRECT_OFF)
		config_problem(config, path_of(path, "volumes[%zu].direct", index),
			"volume %s: direct is for file volumes", volume->name);
}

static void
check_memory_keys(struct config *config, size_t index)
{
	const struct conf_volume *volume = &config->conf.volumes[index];
	const struct {
		const char *name;
		bool given;
	} keys[] = {{"limit", volume->limit > 0}, {"zero_detect", volume->zero_detect},
		{"populate", volume->populate}, {"lock", volume->lock}, {"load", volume->load},
		{"save", volume->save}};
	char path[80];

	if (!volume->backend || strcmp(volume->backend, "memory") == 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].given)
			config_problem(config,
				path_of(path, "volumes[%zu].%s", index, keys[i].name),
				"volume %s: %s is for memory volumes", volume->name, keys[i].name);
}

static void
check_fault(struct config *config, size_t index)
{
	const struct conf_volume *volume = &config->conf.volumes[index];
	struct error error;
	char path[80];

	if (!volume->fault)
		return;
	path_of(path, "volumes[%zu].fault", index);
	if (!config->conf.allow_faults)
		config_problem(config, path,
			"volume %s: faults are not allowed (allow_faults: on allows them)",
			volume->name);
	else if (fault_check(volume->fault, &error))
		config_problem(config, path, "volume %s: fault: %s", volume->name, error.text);
}

static void
check_blocks(struct config *config, size_t index)
{
	struct conf_volume *volume = &config->conf.volumes[index];
	uint32_t block = volume->block_size;
	char path[80];

	if (block != 512 && block != 4096) {
		config_problem(config, path_of(path, "volumes[%zu].block_size", index),
			"volume %s: block_size is 512 or 4096, not %u", volume->name, block);
		return;
	}
	/* A device has its own. */
	if (volume->physical_block_size == 0 &&
		!(volume->backend && strcmp(volume->backend, "device") == 0))
		volume->physical_block_size = block;
	if (volume->physical_block_size && (!is_power_of_two(volume->physical_block_size) ||
						   volume->physical_block_size < block))
		config_problem(config, path_of(path, "volumes[%zu].physical_block_size", index),
			"volume %s: physical_block_size %u is not a power of two times "
			"block_size %u",
			volume->name, volume->physical_block_size, block);
	if (volume->size % block != 0)
		config_problem(config, path_of(path, "volumes[%zu].size", index),
			"volume %s: size is not a multiple of block_size %u", volume->name, block);
}

void
config_check_volume(struct config *config, size_t index)
{
	const struct conf_volume *volume = &config->conf.volumes[index];
	char path[80];

	path_of(path, "volumes[%zu]", index);
	if (!is_volume_name(volume->name))
		config_problem(config, path,
			"volume %.80s: a name is [a-z0-9][a-z0-9.-]*, at most %d characters",
			volume->name, LIMIT_VOLUME_NAME);
	for (size_t i = 0; i < index; i++)
		if (strcmp(config->conf.volumes[i].name, volume->name) == 0) {
			config_problem(config, path, "volume %s is defined twice", volume->name);
			break;
		}
	check_backend(config, index);
	check_blocks(config, index);
	check_file_keys(config, index);
	check_memory_keys(config, index);
	check_fault(config, index);
	check_inquiry_text(config, index, "serial", volume->serial, 32);
	check_inquiry_text(config, index, "vendor", volume->vendor, 8);
	check_inquiry_text(config, index, "product", volume->product, 16);
}

void
config_check_reference(struct config *config, const char *path, const char *who, const char *volume)
{
	const struct conf *conf = &config->conf;
	char known[256] = "";
	struct nearest nearest;

	nearest_init(&nearest, volume);
	for (size_t i = 0; i < conf->nvolumes; i++) {
		size_t length = strlen(known);

		if (strcmp(conf->volumes[i].name, volume) == 0)
			return;
		nearest_try(&nearest, conf->volumes[i].name);
		snprintf(known + length, sizeof(known) - length, "%s%s", length ? ", " : "",
			conf->volumes[i].name);
	}
	config_problem(config, path, "%s names volume \"%s\", which is not defined (volumes: %s)",
		who, volume, known[0] ? known : "none");
}

static void
check_export(struct config *config, size_t index)
{
	struct conf_export *export = &config->conf.exports[index];
	char path[80], who[160];

	path_of(path, "nbd.exports[%zu]", index);
	snprintf(who, sizeof(who), "export \"%.100s\"", export->name);
	if (strlen(export->name) > LIMIT_NBD_STRING || export->name[0] == '\0')
		config_problem(
			config, path, "an export's name has 1 to %d bytes", LIMIT_NBD_STRING);
	if (export->description && strlen(export->description) > LIMIT_NBD_STRING)
		config_problem(config, path, "%s: a description has at most %d bytes", who,
			LIMIT_NBD_STRING);
	for (size_t i = 0; i < index; i++) {
		if (strcmp(config->conf.exports[i].name, export->name) == 0)
			config_problem(config, path, "%s is defined twice", who);
		if (export->is_default && config->conf.exports[i].is_default)
			config_problem(config, path_of(path, "nbd.exports[%zu].default", index),
				"%s is a second default export, after \"%.100s\"", who,
				config->conf.exports[i].name);
	}
	if (export->min_block && !is_power_of_two(export->min_block))
		config_problem(config, path_of(path, "nbd.exports[%zu].min_block", index),
			"%s: min_block %u is not a power of two", who, export->min_block);
	if (!export->volume)
		export->volume = strdup(export->name);
	if (!export->volume)
		config->no_memory = true;
	else
		config_check_reference(config, path_of(path, "nbd.exports[%zu].volume", index), who,
			export->volume);
}

/* What the files hold is looked at when they are loaded. */
static void
check_tls(struct config *config)
{
	struct conf *conf = &config->conf;
	char path[80];

	if (conf->tls_certificate && !conf->tls_key)
		config_problem(config, "tls.certificate",
			"a TLS certificate without its key: give --tls-key (tls: key)");
	if (!conf->tls_certificate && (conf->tls_key || conf->tls_ca))
		config_problem(config, conf->tls_key ? "tls.key" : "tls.ca",
			"a TLS %s without a certificate: give --tls-cert (tls: certificate)",
			conf->tls_key ? "key" : "CA");
	if (conf->tls == TLS_UNSET)
		conf->tls = conf->tls_certificate || conf->tls_psk ? TLS_REQUIRE : TLS_OFF;
	if (conf->tls != TLS_OFF && !conf->tls_certificate && !conf->tls_psk)
		config_problem(config, "tls.mode",
			"TLS needs a certificate and its key (--tls-cert, --tls-key) or a PSK file "
			"(--tls-psk)");
	for (size_t i = 0; i < conf->nexports; i++) {
		struct conf_export *export = &conf->exports[i];

		if (export->tls == TLS_UNSET)
			export->tls = conf->tls;
		if (conf->tls != TLS_ALLOW && export->tls != conf->tls)
			config_problem(config, path_of(path, "nbd.exports[%zu].tls", i),
				"export \"%.100s\": the server %s TLS; exports may differ where it "
				"allows it",
				export->name, conf->tls == TLS_REQUIRE ? "requires" : "has no");
	}
}

/* Port 0: the kernel picks another one each time. */
static bool
is_any_port(const char *text)
{
	struct address address = {.port = ""};
	struct error error;

	return address_parse(text, &address, &error) && strcmp(address.port, "0") == 0;
}

static void
check_listen(struct config *config, const char *protocol, struct conf_listen *listens, size_t count)
{
	struct address address;
	struct error error;
	char path[80];

	for (size_t i = 0; i < count; i++) {
		path_of(path, "%s.listen[%zu].address", protocol, i);
		if (!listens[i].address)
			config_problem(config, path, "%s listener: address is missing", protocol);
		else if (!address_parse(listens[i].address, &address, &error))
			config_problem(config, path, "%s %s: %s", protocol, listens[i].address,
				error.text);
		else if (address.tls && strcmp(protocol, "nbd") == 0)
			config_problem(config, path,
				"nbd %s: NBD's clients ask for TLS themselves: see --tls",
				listens[i].address);
		else if (address.tls && !config->conf.tls_certificate && !config->conf.tls_psk)
			config_problem(config, path,
				"iscsi %s: TLS needs a certificate or a PSK file",
				listens[i].address);
		else if ((address.is_unix || address.is_vsock) && strcmp(protocol, "iscsi") == 0)
			config_problem(config, path, "iscsi %s: iSCSI is served over TCP only",
				listens[i].address);
		for (size_t j = 0; listens[i].address && j < i; j++)
			if (listens[j].address &&
				strcmp(listens[i].address, listens[j].address) == 0 &&
				!is_any_port(listens[i].address))
				config_problem(config, path, "%s %s is listed twice", protocol,
					listens[i].address);
		path_of(path, "%s.listen[%zu].advertise", protocol, i);
		if (listens[i].advertise &&
			(!address_parse(listens[i].advertise, &address, &error) ||
				address.is_unix || address.is_vsock || address.tls))
			config_problem(config, path, "advertise: \"%s\" is not HOST:PORT",
				listens[i].advertise);
	}
}

static void
default_listen(struct config *config, const char *protocol, const char *address)
{
	char path[80];

	/* Whoever passes sockets, or is the one client, wants no others. */
	if (!config->conf.passed && !config->conf.stdio &&
		!config_where(config, path_of(path, "%s.listen", protocol)))
		config_add_listen(config, protocol, address);
}

static unsigned
count_cores(void)
{
	cpu_set_t set;
	int count = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		count = CPU_COUNT(&set);
	return count < 1 ? 1 : count > LIMIT_LOOPS ? LIMIT_LOOPS : (unsigned)count;
}

bool
config_finish(struct config *config)
{
	struct conf *conf = &config->conf;

	default_listen(config, "nbd", "127.0.0.1:10809");
	default_listen(config, "iscsi", "127.0.0.1:3260");
	if (conf->loops == 0 && conf->stdio)
		conf->loops = 1;
	if (!conf->control && conf->stdio && !(conf->control = strdup("none")))
		config->no_memory = true;
	if (conf->loops == 0)
		conf->loops = count_cores();
	if (conf->nvolumes == 0 && config->nproblems == 0)
		config_usage(config, "no volumes: name one, as in: slabd disk0=memory:1G");
	for (size_t i = 0; i < conf->nvolumes; i++)
		config_check_volume(config, i);
	for (size_t i = 0; i < conf->nexports; i++)
		check_export(config, i);
	for (size_t i = 0; i < conf->ntargets; i++)
		config_check_target(config, i);
	config_check_chap(config);
	check_tls(config);
	check_listen(config, "nbd", conf->nbd_listen, conf->nnbd_listen);
	check_listen(config, "iscsi", conf->iscsi_listen, conf->niscsi_listen);
	if (conf->stdio && conf->nnbd_listen + conf->niscsi_listen > 0)
		config_usage(config, "--stdio serves nothing else: say --nbd none --iscsi none");
	if (conf->stdio && conf->passed > 0)
		config_usage(config, "--stdio serves nothing else, and LISTEN_FDS passes sockets");
	if (conf->nnbd_listen + conf->niscsi_listen + conf->passed == 0 && !conf->stdio)
		config_usage(config,
			"neither NBD nor iSCSI is served: give --nbd or --iscsi an address");
	if (conf->nnbd_listen + conf->niscsi_listen + conf->passed > LIMIT_LISTENERS)
		config_usage(config, "more than %d listeners", LIMIT_LISTENERS);
	config_sort_luns(conf);
	return config->nproblems == 0 && !config->no_memory;
}
