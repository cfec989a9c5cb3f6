/* `slabctl fault` on a served volume: exactly the chosen requests fail, and it is refused where it is not
 * allowed. */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "clients.h"

static struct server server;
static char out[4096];

static bool
ctl(const char *words)
{
	return server_ctl(&server, out, sizeof(out), words) == 0;
}

/* Bit i: the i-th of n writes failed with this errno; all bits: with another. */
static uint64_t
failed_writes(struct nbd_handle *nbd, unsigned n, int error)
{
	uint64_t failed = 0;
	uint8_t data[512] = {1};

	for (unsigned i = 0; i < n; i++)
		if (nbd_pwrite(nbd, data, sizeof(data), i * 512, 0) < 0) {
			if (nbd_get_errno() != error)
				return UINT64_MAX;
			failed |= (uint64_t)1 << i;
		}
	return failed;
}

int
main(void)
{
	const char *refusing[] = {"disk0=memory:1G", NULL};
	const char *allowing[] = {
		"disk0=memory:1G,fault=write errno=EPERM fail-nth=2", "--allow-faults", NULL};
	struct nbd_handle *nbd, *other;
	uint8_t data[512];

	server_prepare(&server);
	server_start(&server, refusing);
	tap_ok(!ctl("fault disk0 set write") && strstr(out, "not allowed"),
		"refused where faults are not allowed");
	server_stop(&server, SIGTERM);

	server_start(&server, allowing);
	nbd = client_nbd(&server, "disk0");
	other = client_nbd(&server, "disk0");
	tap_ok(failed_writes(nbd, 10, EPERM) == 0x2, "the configured rule fails the second write");
	tap_ok(ctl("fault disk0 set write errno=ENOSPC interval=3 times=2"),
		"set while it is served");
	tap_ok(failed_writes(nbd, 16, ENOSPC) == 0x24, "every third write fails, twice");
	tap_ok(ctl("--json fault disk0 | jq -r '.rules[] | \"\\(.candidates) \\(.injected) \\(.rule)\"'") &&
			strncmp(out, "16 2 write errno=ENOSPC interval=3 times=0 seed=", 48) == 0,
		"and is counted");
	tap_ok(ctl("fault disk0 set read errno=EIO client=nobody*") &&
			nbd_pread(nbd, data, sizeof(data), 0, 0) == 0,
		"a rule for another client leaves this one alone");
	tap_ok(ctl("fault disk0 set write short=100 fail-nth=1") &&
			failed_writes(nbd, 1, EIO) == 0x1 && failed_writes(other, 8, EIO) == 0,
		"a short write fails, whoever it is, and only once");
	tap_ok(!ctl("fault disk0 set wriet") && strstr(out, "no operation"), "nonsense is refused");
	tap_ok(ctl("fault disk0 clear") && ctl("fault disk0 set flush errno=EIO times=1") &&
			nbd_flush(nbd, 0) < 0,
		"a flush fails");
	tap_ok(nbd_pwrite(other, data, sizeof(data), 0, 0) < 0, "and breaks the volume for all");
	tap_ok(ctl("clear disk0") && ctl("fault disk0 clear") &&
			failed_writes(other, 8, EIO) == 0 && nbd_flush(nbd, 0) == 0,
		"until it is cleared");
	nbd_close(nbd);
	nbd_close(other);
	tap_ok(server_stop(&server, SIGTERM) == 0, "slabd ends well");
	return tap_done();
}
