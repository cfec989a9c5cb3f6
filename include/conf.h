/*
 * The configuration as plain structs, no parser. Strings are the struct's own. Sizes are bytes. Made by
 * server/config_load.h from the command line and slabd.yaml; read-only afterwards.
 */
#ifndef SLABD_CONF_H
#define SLABD_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum conf_direct { CONF_DIRECT_OFF, CONF_DIRECT_ON, CONF_DIRECT_AUTO };

/* Rates of the qos layer (qos.h), a second's worth; 0: no limit. Bursts: 0 is a tenth of a second's. */
struct conf_qos {
	uint64_t iops, iops_burst, bps, bps_burst;
	uint64_t client_iops, client_iops_burst, client_bps, client_bps_burst;
};

/* What every volume takes (design section 7); a backend uses `path` or `size` or both. */
struct conf_volume {
	char *name;
	char *backend;
	char *path;
	uint64_t size; /* 0: not given */
	uint32_t block_size;
	uint32_t physical_block_size; /* 0: not given */
	enum conf_direct direct; /* file: past the page cache */
	bool prealloc;           /* file: every block taken from the file system at once */
	bool read_only;
	bool removable;
	bool rotational;
	uint64_t threshold; /* soft: initiators hear when so much is allocated; 0: 9/10 of a limit */
	char *serial, *vendor, *product; /* NULL: derived from the name, and slabd's own */
	struct conf_qos qos;
	char *fault; /* rules of the fault layer (fault.h); NULL: none */

	/* Memory volumes. */
	uint64_t limit;    /* bytes that it may take; 0: as many as it has */
	bool zero_detect;  /* pages written full of zeroes take no memory */
	bool hugepages;    /* the kernel is asked for them */
	bool populate;     /* everything is taken at the start */
	bool lock;         /* it is never swapped out */
	char *load, *save; /* raw files read at the start and written at the end; NULL: none */
};

struct conf_export {
	char *name;
	char *volume;
	char *description; /* NULL: none */
	uint32_t min_block; /* 0: any byte range is served */
	bool read_only;
	bool hidden;
	bool is_default;
	unsigned tls; /* enum tls_mode; never TLS_UNSET once checked */
};

struct conf_lun {
	uint16_t number;
	char *volume;
	bool read_only;
};

/* CHAP. Checked, `secret` is there wherever it came from. */
struct conf_credential {
	char *user;
	char *secret;
	char *secret_file; /* NULL: `secret` was given */
};

struct conf_initiator {
	char *name; /* in lower case once checked */
	struct conf_lun *luns; /* none: the target's */
	size_t nluns;
	struct conf_credential *chap; /* none: the target's */
	size_t nchap;
};

/* Asymmetric access by a portal group (alua.h). */
struct conf_group {
	uint16_t group;
	unsigned state; /* enum alua_state */
};

struct conf_target {
	char *name; /* IQN */
	struct conf_group *groups;
	size_t ngroups;
	struct conf_lun *luns;
	size_t nluns;
	struct conf_credential *chap;
	size_t nchap;
	struct conf_credential mutual; /* user NULL: none */
	char *redirect;                /* HOST:PORT to log in to instead; NULL: none */
	bool moved;                    /* there for good */
	bool events;                   /* SCSI events in asynchronous messages */
	struct conf_initiator *initiators; /* none: any name */
	size_t ninitiators;
};

struct conf_algorithm {
	unsigned number; /* IANA's, of CHAP */
};

struct conf_listen {
	char *address;   /* as typed: HOST:PORT, [V6]:PORT, unix:PATH */
	uint16_t group;  /* iSCSI target portal group tag */
	char *advertise; /* iSCSI TargetAddress instead of the local one; NULL: none */
};

struct conf {
	struct conf_volume *volumes;
	size_t nvolumes;
	struct conf_listen *nbd_listen, *iscsi_listen;
	size_t nnbd_listen, niscsi_listen;
	struct conf_export *exports; /* none: every volume under its name */
	size_t nexports;
	struct conf_target *targets; /* none: a target per volume */
	size_t ntargets;
	struct conf_algorithm *chap_algorithms; /* the ones preferred first */
	size_t nchap_algorithms;
	struct conf_credential *discovery_chap;
	size_t ndiscovery_chap;
	char *state;   /* directory; NULL: not given, the default; "none" */
	char *control; /* "none"; NULL: not given, the default path */
	unsigned loops;
	unsigned connections, handshakes_per_address;
	unsigned handshake_timeout, login_timeout, request_timeout, output_timeout; /* seconds */
	bool insecure;
	bool allow_faults; /* fault.h */
	bool stdio;      /* one connection on standard input and output, and nothing else */
	unsigned passed; /* sockets that are listening already (activation.h) */
	unsigned tls; /* enum tls_mode of the server; never TLS_UNSET once checked */
	char *tls_certificate, *tls_key, *tls_ca, *tls_psk; /* paths; NULL: none */
};

#endif
