#include "config.h"
#include "config_keys.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "alua.h"
#include "check.h"
#include "limits.h"
#include "words.h"

#define IN(type, member) .offset = offsetof(struct type, member)
#define ITEMS(type, member, length)                                 \
	.kind = KEY_ITEMS, .offset = offsetof(struct type, member), \
	.count = offsetof(struct type, length)

static const char *const direct_words[] = {
	[CONF_DIRECT_OFF] = "off", [CONF_DIRECT_ON] = "on", [CONF_DIRECT_AUTO] = "auto", NULL};

static const struct config_key volume_keys[] = {
	{"backend", KEY_TEXT, IN(conf_volume, backend),
		.help = "What holds the data: memory, file, device or null."},
	{"path", KEY_TEXT, IN(conf_volume, path),
		.help = "The file behind a file volume, the block device behind a device volume."},
	{"size", KEY_SIZE, IN(conf_volume, size), .max = LIMIT_VOLUME_SIZE,
		.help = "Bytes offered; a multiple of the block size. "
			"A file that does not exist is created when a size is given."},
	{"block_size", KEY_SIZE32, IN(conf_volume, block_size), .min = 512, .max = 4096,
		.fallback = "512", .help = "Logical block size, 512 or 4096."},
	{"physical_block_size", KEY_SIZE32, IN(conf_volume, physical_block_size), .min = 512,
		.max = 64 * 1024,
		.help = "A power of two times the block size, at most 64K. "
			"Without it: the block size, or a device's own."},
	{"read_only", KEY_SWITCH, IN(conf_volume, read_only), .fallback = "off",
		.help = "Refuse every write."},
	{"direct", KEY_CHOICE, IN(conf_volume, direct), .choices = direct_words, .fallback = "off",
		.help = "File volumes: read and write past the page cache (O_DIRECT). "
			"on: refused where the file system has none; auto: where it has it "
			"without needing larger blocks. "
			"Devices always do."},
	{"prealloc", KEY_SWITCH, IN(conf_volume, prealloc), .fallback = "off",
		.help = "File volumes: take every block from the file system at once, so that no "
			"write finds it full; discards free nothing then."},
	{"removable", KEY_SWITCH, IN(conf_volume, removable), .fallback = "off",
		.help = "Say over SCSI that the medium can be removed."},
	{"rotational", KEY_SWITCH, IN(conf_volume, rotational), .fallback = "off",
		.help = "Say that seeks are slow."},
	{"threshold", KEY_SIZE, IN(conf_volume, threshold), .max = LIMIT_VOLUME_SIZE,
		.help = "SCSI initiators are told, once, when so many bytes are allocated (soft "
			"threshold of thin provisioning, in steps of 1M); told again after it fell "
			"below. Without it: nine tenths of limit, where there is one."},
	{"serial", KEY_TEXT, IN(conf_volume, serial),
		.help = "Unit serial number, at most 32 characters. Without it: derived from the name."},
	{"vendor", KEY_TEXT, IN(conf_volume, vendor),
		.help = "SCSI vendor identification, at most 8 characters."},
	{"product", KEY_TEXT, IN(conf_volume, product),
		.help = "SCSI product identification, at most 16 characters."},
	{"limit", KEY_SIZE, IN(conf_volume, limit), .max = LIMIT_VOLUME_SIZE,
		.help = "Memory volumes: bytes that it may take, in steps of 64K. "
			"Beyond it writes are answered ENOSPC until something is discarded. "
			"Without it: as many as it has."},
	{"zero_detect", KEY_SWITCH, IN(conf_volume, zero_detect), .fallback = "off",
		.help = "Memory volumes: pages of 4K that are written full of zeroes take no memory."},
	{"hugepages", KEY_SWITCH, IN(conf_volume, hugepages), .fallback = "on",
		.help = "Memory volumes: ask the kernel for huge pages."},
	{"populate", KEY_SWITCH, IN(conf_volume, populate), .fallback = "off",
		.help = "Memory volumes: take all memory at the start; what is discarded later is "
			"given back."},
	{"lock", KEY_SWITCH, IN(conf_volume, lock), .fallback = "off",
		.help = "Memory volumes: memory is never swapped out; what cannot be locked cannot "
			"be written."},
	{"load", KEY_TEXT, IN(conf_volume, load),
		.help = "Memory volumes: a raw file, not longer than the volume, that is its content "
			"at the start. "
			"It may be missing where save names the same."},
	{"save", KEY_TEXT, IN(conf_volume, save),
		.help = "Memory volumes: a raw sparse file that gets the content at the end, whole or "
			"not at all."},
	{"iops", KEY_SIZE, IN(conf_volume, qos.iops), .max = 1000000000,
		.help = "Operations a second for the volume; what is over it waits. 0: no limit."},
	{"iops_burst", KEY_SIZE, IN(conf_volume, qos.iops_burst), .max = 1000000000,
		.help = "Operations that may come at once after a pause. Without it: a tenth of a second's."},
	{"bps", KEY_SIZE, IN(conf_volume, qos.bps), .max = LIMIT_VOLUME_SIZE,
		.help = "Bytes read and written a second for the volume."},
	{"bps_burst", KEY_SIZE, IN(conf_volume, qos.bps_burst), .max = LIMIT_VOLUME_SIZE,
		.help = "Bytes that may come at once after a pause. Without it: a tenth of a second's."},
	{"client_iops", KEY_SIZE, IN(conf_volume, qos.client_iops), .max = 1000000000,
		.help = "Operations a second for each client, however many connections it has: an iSCSI "
			"initiator by its name, an NBD client by its TLS identity, else by its address."},
	{"client_iops_burst", KEY_SIZE, IN(conf_volume, qos.client_iops_burst), .max = 1000000000,
		.help = "The burst of client_iops."},
	{"client_bps", KEY_SIZE, IN(conf_volume, qos.client_bps), .max = LIMIT_VOLUME_SIZE,
		.help = "Bytes a second for each client."},
	{"client_bps_burst", KEY_SIZE, IN(conf_volume, qos.client_bps_burst),
		.max = LIMIT_VOLUME_SIZE, .help = "The burst of client_bps."},
	{"fault", KEY_TEXT, IN(conf_volume, fault),
		.help = "Fault rules, separated by semicolons, see FAULTS; needs allow_faults."},
	{0},
};

const struct config_section config_volume_section = {"volumes: NAME", "volume", SECTION_NAMED,
	sizeof(struct conf_volume), offsetof(struct conf_volume, name), NULL, volume_keys};

/* enum tls_mode */
static const char *const tls_modes[] = {"", "off", "allow", "require", NULL};

static const struct config_key nbd_listen_keys[] = {
	{"address", KEY_TEXT, IN(conf_listen, address),
		.help = "HOST:PORT, [V6]:PORT, unix:PATH, unix:@NAME (abstract) or vsock:PORT."},
	{0},
};

static const struct config_section nbd_listen_section = {"nbd: listen", "NBD listener",
	SECTION_LISTED, sizeof(struct conf_listen), 0, "address", nbd_listen_keys};

static const struct config_key export_keys[] = {
	{"volume", KEY_TEXT, IN(conf_export, volume),
		.help = "The volume behind the export. Without it: the one of the export's name."},
	{"description", KEY_TEXT, IN(conf_export, description),
		.help = "A text for clients that list."},
	{"min_block", KEY_SIZE32, IN(conf_export, min_block), .max = 64 * 1024, .fallback = "0",
		.help = "Refuse requests that are not aligned to this power of two; "
			"0 serves any byte range."},
	{"read_only", KEY_SWITCH, IN(conf_export, read_only), .fallback = "off",
		.help = "Refuse writes through this export."},
	{"hidden", KEY_SWITCH, IN(conf_export, hidden), .fallback = "off",
		.help = "Leave it out when a client lists exports."},
	{"default", KEY_SWITCH, IN(conf_export, is_default), .fallback = "off",
		.help = "Answer to the empty export name too; one export at most."},
	{"tls", KEY_CHOICE, IN(conf_export, tls), .choices = tls_modes,
		.help = "Whether it is served over TLS: off (never), allow (to whoever asks) or "
			"require (not without). Without it: as the server, see tls. "
			"Where the server allows TLS, an export may differ."},
	{0},
};

static const struct config_section export_section = {"nbd: exports: NAME", "export", SECTION_NAMED,
	sizeof(struct conf_export), offsetof(struct conf_export, name), "volume", export_keys};

static const struct config_key nbd_keys[] = {
	{"listen", ITEMS(conf, nbd_listen, nnbd_listen), .section = &nbd_listen_section,
		.help = "Where NBD is served; none or an empty list: nowhere. "
			"Without it: 127.0.0.1:10809."},
	{"exports", ITEMS(conf, exports, nexports), .section = &export_section,
		.help = "What is exported. Without it: every volume under its name, "
			"the first also as the default export."},
	{0},
};

static const struct config_section nbd_section = {"nbd", "nbd", SECTION_GROUP, .keys = nbd_keys};

static const struct config_key iscsi_listen_keys[] = {
	{"address", KEY_TEXT, IN(conf_listen, address),
		.help = "HOST:PORT or [V6]:PORT; with tls: before it, TLS from the first byte."},
	{"group", KEY_U16, IN(conf_listen, group), .min = 1, .max = 65535, .fallback = "1",
		.help = "Target portal group tag."},
	{"advertise", KEY_TEXT, IN(conf_listen, advertise),
		.help = "HOST:PORT told to initiators instead of the address that they reached; "
			"port 0: the one that is listened on."},
	{0},
};

static const struct config_section iscsi_listen_section = {"iscsi: listen", "iSCSI listener",
	SECTION_LISTED, sizeof(struct conf_listen), 0, "address", iscsi_listen_keys};

static const struct config_key lun_keys[] = {
	{"volume", KEY_TEXT, IN(conf_lun, volume), .help = "The volume behind the logical unit."},
	{"read_only", KEY_SWITCH, IN(conf_lun, read_only), .fallback = "off",
		.help = "Refuse writes through this logical unit."},
	{0},
};

static const struct config_section lun_section = {"iscsi: targets: IQN: luns: NUMBER", "LUN",
	SECTION_NUMBERED, sizeof(struct conf_lun), offsetof(struct conf_lun, number), "volume",
	lun_keys};

#define CREDENTIAL_KEYS(type, user, secret, secret_file)                                             \
	{"user", KEY_TEXT, IN(type, user), .help = "The name sent with the proof."},                 \
		{"secret", KEY_SECRET, IN(type, secret),                                             \
			.help = "The secret itself, 12 to 255 bytes. It is never shown or logged."}, \
		{"secret_file", KEY_TEXT, IN(type, secret_file),                                     \
			.help = "Instead: a file that holds it, on one line; "                       \
				"nobody's but its owner's to read (mode 0600 or 0400)."},            \
	{                                                                                            \
		0                                                                                    \
	}

static const struct config_key credential_keys[] = {
	CREDENTIAL_KEYS(conf_credential, user, secret, secret_file)};

static const struct config_section credential_section = {"iscsi: targets: IQN: chap",
	"CHAP credential", SECTION_LISTED, sizeof(struct conf_credential), 0, NULL,
	credential_keys};

static const struct config_key mutual_keys[] = {
	CREDENTIAL_KEYS(conf_target, mutual.user, mutual.secret, mutual.secret_file)};

static const struct config_section mutual_section = {
	"iscsi: targets: IQN: mutual_chap", "mutual_chap", SECTION_GROUP, .keys = mutual_keys};

static const struct config_key redirect_keys[] = {
	{"address", KEY_TEXT, IN(conf_target, redirect),
		.help = "HOST:PORT, where initiators have to log in instead."},
	{"permanent", KEY_SWITCH, IN(conf_target, moved), .fallback = "off",
		.help = "Tell them that the target has moved for good."},
	{0},
};

static const struct config_section redirect_section = {
	"iscsi: targets: IQN: redirect", "redirect", SECTION_GROUP, .keys = redirect_keys};

static const struct config_key initiator_keys[] = {
	{"name", KEY_TEXT, IN(conf_initiator, name),
		.help = "Its iSCSI name; case does not matter."},
	{"luns", ITEMS(conf_initiator, luns, nluns), .section = &lun_section, .sparse = true,
		.help = "The logical units that it sees. Without it: the target's."},
	{"chap", ITEMS(conf_initiator, chap, nchap), .section = &credential_section, .sparse = true,
		.help = "What it proves itself by. Without it: the target's chap, if any."},
	{0},
};

static const struct config_section initiator_section = {"iscsi: targets: IQN: initiators",
	"initiator", SECTION_LISTED, sizeof(struct conf_initiator), 0, "name", initiator_keys};

static const struct config_key group_keys[] = {
	{"state", KEY_CHOICE, IN(conf_group, state), .choices = alua_words,
		.fallback = "active/optimized",
		.help = "active/optimized, active/non-optimized, standby (what reads or writes is "
			"refused) or unavailable (nearly all is)."},
	{0},
};

static const struct config_section group_section = {"iscsi: targets: IQN: alua: GROUP",
	"portal group", SECTION_NUMBERED, sizeof(struct conf_group),
	offsetof(struct conf_group, group), "state", group_keys};

static const struct config_key target_keys[] = {
	{"luns", ITEMS(conf_target, luns, nluns), .section = &lun_section,
		.help = "The logical units by number, 0 to 16383; each a volume's name or a mapping."},
	{"chap", ITEMS(conf_target, chap, nchap), .section = &credential_section, .sparse = true,
		.help = "Users, one of whom an initiator proves to be before it gets in."},
	{"mutual_chap", KEY_GROUP, .section = &mutual_section,
		.help = "What the target proves itself by, to initiators that ask for it."},
	{"initiators", ITEMS(conf_target, initiators, ninitiators), .section = &initiator_section,
		.sparse = true,
		.help = "Access rules: who gets in, by name. "
			"Any other initiator has to prove itself by the target's chap; "
			"where the target has none it does not get in."},
	{"alua", ITEMS(conf_target, groups, ngroups), .section = &group_section, .sparse = true,
		.help = "How good the paths through a portal group are, told to initiators that have "
			"several (ALUA): a word by the group's number. Every other group is "
			"active/optimized. slabctl alua changes it."},
	{"redirect", KEY_GROUP, .section = &redirect_section,
		.help = "Send initiators that may get in to another address. "
			"Such a target needs no luns."},
	{"events", KEY_SWITCH, IN(conf_target, events), .fallback = "off",
		.help = "Send unit attentions by themselves too, within a second, in asynchronous "
			"messages: for initiators that expect them, since others may close the "
			"connection. INQUIRY says so in its AERC bit."},
	{0},
};

static const struct config_section target_section = {"iscsi: targets: IQN", "target", SECTION_NAMED,
	sizeof(struct conf_target), offsetof(struct conf_target, name), NULL, target_keys};

static const struct config_key algorithm_keys[] = {
	{"number", KEY_NUMBER, IN(conf_algorithm, number), .min = 5, .max = 8,
		.help = "5 (MD5), 6 (SHA-1), 7 (SHA-256) or 8 (SHA3-256)."},
	{0},
};

static const struct config_section algorithm_section = {"iscsi: chap_algorithms", "CHAP algorithm",
	SECTION_LISTED, sizeof(struct conf_algorithm), 0, "number", algorithm_keys};

static const struct config_key iscsi_keys[] = {
	{"listen", ITEMS(conf, iscsi_listen, niscsi_listen), .section = &iscsi_listen_section,
		.help = "Where iSCSI is served; none or an empty list: nowhere. "
			"Without it: 127.0.0.1:3260."},
	{"targets", ITEMS(conf, targets, ntargets), .section = &target_section,
		.help = "What initiators find. Without it: for every volume a target "
			"iqn.2026-11.localhost.slabd:NAME with the volume as LUN 0."},
	{"chap_algorithms", ITEMS(conf, chap_algorithms, nchap_algorithms),
		.section = &algorithm_section,
		.help = "The digests taken for CHAP, the ones preferred first. "
			"Without it: 7, 8, 6, 5."},
	{"discovery_chap", ITEMS(conf, discovery_chap, ndiscovery_chap),
		.section = &credential_section, .sparse = true,
		.help = "Users, one of whom an initiator proves to be before it may ask for targets."},
	{0},
};

static const struct config_section iscsi_section = {
	"iscsi", "iscsi", SECTION_GROUP, .keys = iscsi_keys};

static const struct config_key limits_keys[] = {
	{"connections", KEY_NUMBER, IN(conf, connections), .min = 1, .max = LIMIT_CONNECTIONS_MAX,
		.fallback = "1024",
		.help = "Connections served at a time, NBD and iSCSI together; "
			"one more is closed at once."},
	{"handshakes_per_address", KEY_NUMBER, IN(conf, handshakes_per_address), .min = 1,
		.max = LIMIT_CONNECTIONS_MAX, .fallback = "256",
		.help = "Connections from one IPv4 address or IPv6 /64 that have not chosen an export "
			"or logged in yet; one more is closed at once. "
			"Loopback and unix sockets are exempt."},
	{"handshake_timeout", KEY_NUMBER, IN(conf, handshake_timeout), .min = 1, .max = 3600,
		.fallback = "10",
		.help = "Seconds that an NBD client may take to choose an export, TLS included."},
	{"login_timeout", KEY_NUMBER, IN(conf, login_timeout), .min = 1, .max = 3600,
		.fallback = "15", .help = "Seconds that an iSCSI initiator may take to log in."},
	{"request_timeout", KEY_NUMBER, IN(conf, request_timeout), .min = 1, .max = 3600,
		.fallback = "30",
		.help = "Seconds without a byte in the middle of a request or PDU, "
			"after which its connection is closed."},
	{"output_timeout", KEY_NUMBER, IN(conf, output_timeout), .min = 1, .max = 3600,
		.fallback = "60",
		.help = "Seconds in which a client takes nothing of what it is sent, "
			"after which its connection is closed."},
	{0},
};

static const struct config_section limits_section = {
	"limits", "limits", SECTION_GROUP, .keys = limits_keys};

static const struct config_key tls_keys[] = {
	{"mode", KEY_CHOICE, IN(conf, tls), .choices = tls_modes,
		.help = "For NBD, unix sockets included: off, allow (whoever asks gets it) or "
			"require (nothing is served without it). "
			"Without it: require where there is a certificate or a PSK file, else off."},
	{"certificate", KEY_TEXT, IN(conf, tls_certificate),
		.help = "PEM file: the server's certificate, then the chain up to what clients trust."},
	{"key", KEY_TEXT, IN(conf, tls_key),
		.help = "PEM file: the certificate's key, not encrypted, and nobody's but its owner's "
			"to read (mode 0600 or 0400). "
			"RSA above 2048 bits works and earns a warning: it is slow."},
	{"ca", KEY_TEXT, IN(conf, tls_ca),
		.help = "PEM file: who signs the clients' certificates. "
			"With it, every client needs one."},
	{"psk", KEY_TEXT, IN(conf, tls_psk),
		.help = "File of pre-shared keys, a line IDENTITY:HEXKEY each, as psktool makes it; "
			"mode 0600 or 0400."},
	{0},
};

static const struct config_section tls_section = {"tls", "tls", SECTION_GROUP, .keys = tls_keys};

static const struct config_key root_keys[] = {
	{"volumes", ITEMS(conf, volumes, nvolumes), .section = &config_volume_section,
		.help = "The volumes by name; a name is [a-z0-9][a-z0-9.-]{0,63}."},
	{"nbd", KEY_GROUP, .section = &nbd_section, .help = "What is served over NBD."},
	{"iscsi", KEY_GROUP, .section = &iscsi_section, .help = "What is served over iSCSI."},
	{"limits", KEY_GROUP, .section = &limits_section, .help = "Bounds."},
	{"control", KEY_TEXT, IN(conf, control),
		.help = "Path of the control socket, or none. Without it: "
			"$XDG_RUNTIME_DIR/slabd.sock, else /run/slabd.sock."},
	{"state", KEY_TEXT, IN(conf, state),
		.help = "Directory of what survives a restart, made when needed: persistent "
			"reservations that ask for it; or none. Without it: /var/lib/slabd."},
	{"loops", KEY_NUMBER, IN(conf, loops), .min = 1, .max = LIMIT_LOOPS,
		.help = "Event loops, each on a thread of its own. Without it: one per core."},
	{"insecure", KEY_SWITCH, IN(conf, insecure), .fallback = "off",
		.help = "Serve beyond loopback although nothing protects the volumes."},
	{"allow_faults", KEY_SWITCH, IN(conf, allow_faults), .fallback = "off",
		.help = "Let volumes fail on purpose, by their key fault and by slabctl fault."},
	{"tls", KEY_GROUP, .section = &tls_section,
		.help = "How NBD and iSCSI are secured by TLS."},
	{.name = "metrics", .kind = KEY_LATER},
	{0},
};

const struct config_section config_root = {"", "configuration", SECTION_GROUP, .keys = root_keys};

const struct config_section *const config_sections[] = {&config_root, &config_volume_section,
	&nbd_section, &nbd_listen_section, &export_section, &iscsi_section, &iscsi_listen_section,
	&target_section, &lun_section, &group_section, &credential_section, &mutual_section,
	&initiator_section, &redirect_section, &algorithm_section, &limits_section, &tls_section,
	NULL};

_Static_assert(LIMIT_CONNECTIONS == 1024 && LIMIT_STRANGERS == 256,
	"limits: connections and handshakes_per_address say their defaults in words");
_Static_assert(LIMIT_NBD_HANDSHAKE == 10 * SECOND_NS && LIMIT_ISCSI_LOGIN == 15 * SECOND_NS &&
		       LIMIT_PARTIAL_IDLE == 30 * SECOND_NS && LIMIT_OUTPUT_STALL == 60 * SECOND_NS,
	"limits: the timeouts say their defaults in words");

const struct config_key *
config_key_find(const struct config_section *section, const char *name)
{
	for (const struct config_key *key = section->keys; key->name; key++)
		if (strcmp(key->name, name) == 0)
			return key;
	return NULL;
}

static void *
find_member(const struct config_key *key, const void *item)
{
	return (char *)(uintptr_t)item + key->offset;
}

static bool
set_number(const struct config_key *key, void *member, uint64_t number, const char *text,
	struct error *error)
{
	if (number < key->min || (key->max && number > key->max)) {
		char least[32], most[32];

		if (key->kind == KEY_SIZE || key->kind == KEY_SIZE32) {
			size_text(key->min, least, sizeof(least));
			size_text(key->max, most, sizeof(most));
		} else {
			snprintf(least, sizeof(least), "%" PRIu64, key->min);
			snprintf(most, sizeof(most), "%" PRIu64, key->max);
		}
		error_set(error, -ERANGE, "%s is out of range (%s to %s)", text, least, most);
		return false;
	}
	if (key->kind == KEY_SIZE)
		*(uint64_t *)member = number;
	else if (key->kind == KEY_SIZE32)
		*(uint32_t *)member = (uint32_t)number;
	else if (key->kind == KEY_U16)
		*(uint16_t *)member = (uint16_t)number;
	else
		*(unsigned *)member = (unsigned)number;
	return true;
}

static bool
set_text(char **member, const char *text, struct error *error)
{
	char *copy = *text ? strdup(text) : NULL;

	if (!copy) {
		error_set(error, -EINVAL, *text ? "out of memory" : "must not be empty");
		return false;
	}
	free(*member);
	*member = copy;
	return true;
}

static bool
set_choice(const struct config_key *key, unsigned *member, const char *text, struct error *error)
{
	char known[96] = "";
	size_t length;

	for (unsigned i = 0; key->choices[i]; i++) {
		if (*text && strcmp(key->choices[i], text) == 0) {
			*member = i;
			return true;
		}
		length = strlen(known);
		if (*key->choices[i])
			snprintf(known + length, sizeof(known) - length, "%s%s", length ? ", " : "",
				key->choices[i]);
	}
	error_set(error, -EINVAL, "\"%s\" is none of %s", text, known);
	return false;
}

bool
config_key_set(const struct config_key *key, void *item, const char *text, struct error *error)
{
	void *member = find_member(key, item);
	uint64_t number = 0;

	switch (key->kind) {
	case KEY_TEXT:
	case KEY_SECRET:
		return set_text(member, text, error);
	case KEY_SIZE:
	case KEY_SIZE32:
		if (parse_size(text, &number))
			return set_number(key, member, number, text, error);
		error_set(error, -EINVAL,
			"\"%s\" is not a size (give bytes, or a number with K, M, G, T or P)",
			text);
		return false;
	case KEY_U16:
	case KEY_NUMBER:
		if (parse_number(text, &number))
			return set_number(key, member, number, text, error);
		error_set(error, -EINVAL, "\"%s\" is not a number", text);
		return false;
	case KEY_SWITCH:
		if (parse_switch(text, member))
			return true;
		error_set(error, -EINVAL, "\"%s\" is neither on nor off", text);
		return false;
	case KEY_CHOICE:
		return set_choice(key, member, text, error);
	case KEY_LATER:
		error_set(error, -ENOTSUP, "not there yet in this version");
		return false;
	case KEY_GROUP:
	case KEY_ITEMS:
		break;
	}
	error_set(error, -EINVAL, "takes no plain value");
	return false;
}

bool
config_key_defaults(const struct config_section *section, void *item)
{
	for (const struct config_key *key = section->keys; key->name; key++) {
		if (key->kind == KEY_GROUP && !config_key_defaults(key->section, item))
			return false;
		if (key->fallback && !config_key_set(key, item, key->fallback, NULL))
			return false;
	}
	return true;
}

size_t
config_item_count(const struct config_key *key, const void *parent)
{
	return *(const size_t *)(const void *)((const char *)parent + key->count);
}

static void
set_count(const struct config_key *key, void *parent, size_t count)
{
	*(size_t *)(void *)((char *)parent + key->count) = count;
}

void *
config_item(const struct config_key *key, const void *parent, size_t index)
{
	char *items;

	memcpy(&items, find_member(key, parent), sizeof(items));
	return items + index * key->section->size;
}

void *
config_item_add(const struct config_key *key, void *parent)
{
	size_t count = config_item_count(key, parent);
	void *items, *item;

	memcpy(&items, find_member(key, parent), sizeof(items));
	items = reallocarray(items, count + 1, key->section->size);
	if (!items)
		return NULL;
	memcpy(find_member(key, parent), &items, sizeof(items));
	item = config_item(key, parent, count);
	memset(item, 0, key->section->size);
	set_count(key, parent, count + 1);
	return config_key_defaults(key->section, item) ? item : NULL;
}

static void
wipe_text(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
}

void
config_item_clear(const struct config_section *section, void *item)
{
	if (section->form == SECTION_NAMED)
		free(*(char **)(void *)((char *)item + section->id));
	for (const struct config_key *key = section->keys; key->name; key++) {
		if (key->kind == KEY_SECRET)
			wipe_text(*(char **)find_member(key, item));
		if (key->kind == KEY_TEXT || key->kind == KEY_SECRET)
			free(*(char **)find_member(key, item));
		else if (key->kind == KEY_GROUP)
			config_item_clear(key->section, item);
		else if (key->kind == KEY_ITEMS) {
			for (size_t i = 0; i < config_item_count(key, item); i++)
				config_item_clear(key->section, config_item(key, item, i));
			free(*(void **)find_member(key, item));
		}
	}
}

void
config_item_remove(const struct config_key *key, void *parent, size_t index)
{
	size_t count = config_item_count(key, parent);
	char *item = config_item(key, parent, index);

	CHECK(index < count);
	config_item_clear(key->section, item);
	memmove(item, item + key->section->size, (count - index - 1) * key->section->size);
	set_count(key, parent, count - 1);
}

static const char *
name_kind(const struct config_key *key)
{
	switch (key->kind) {
	case KEY_TEXT:
	case KEY_SECRET:
		return "text";
	case KEY_SIZE:
	case KEY_SIZE32:
		return "size";
	case KEY_U16:
	case KEY_NUMBER:
		return "number";
	case KEY_SWITCH:
		return "on | off";
	case KEY_CHOICE:
		return "word";
	case KEY_ITEMS:
		return key->section->form == SECTION_LISTED ? "list" : "mapping";
	case KEY_GROUP:
	case KEY_LATER:
		break;
	}
	return "mapping";
}

/* mdoc wants a new sentence on a new line, and lines of at most 80 bytes. */
static void
print_help(const char *help, FILE *out)
{
	size_t column = 0;

	while (*help) {
		size_t word = strcspn(help, " ");
		bool ends = help[word - 1] == '.' && help[word] == ' ';

		if (column + 1 + word > 78) {
			fputc('\n', out);
			column = 0;
		}
		column += (size_t)fprintf(out, "%s%.*s", column ? " " : "", (int)word, help);
		if (ends) {
			fputc('\n', out);
			column = 0;
		}
		help += word + (help[word] == ' ');
	}
	fputc('\n', out);
}

void
config_keys_manual(const struct config_section *section, FILE *out)
{
	bool later = false;

	fprintf(out, ".Bl -tag -width Ds\n");
	for (const struct config_key *key = section->keys; key->name; key++) {
		if (key->kind == KEY_LATER) {
			later = true;
			continue;
		}
		fprintf(out, ".It Ic %s : Ar %s\n", key->name, name_kind(key));
		print_help(key->help, out);
		if (key->fallback)
			fprintf(out, "Default: %s.\n", key->fallback);
	}
	fprintf(out, ".El\n");
	if (!later)
		return;
	fprintf(out, ".Pp\nReserved, and refused as not there yet:");
	for (const struct config_key *key = section->keys; key->name; key++)
		if (key->kind == KEY_LATER)
			fprintf(out, "\n.Ic %s", key->name);
	fprintf(out, " .\n");
}
