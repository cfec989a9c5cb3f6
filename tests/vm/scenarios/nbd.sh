#!/usr/bin/env bash
# Linux's nbd driver by nbd-client, with one connection and with four: attach, make a file system, use
# it, detach.
# shellcheck source=tests/vm/host.sh
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

at_unused() {
	slabctl --json connections | jq -e '.connections | length == 0'
}

# KIND OPTION...
guest_session() {
	kind=$1
	shift
	check "nbd-client $*" nbd-client "$HOST" "$NBD_PORT" /dev/nbd0 -N disk0 "$@" || give_up
	check "the size is the volume's" test "$(blockdev --getsize64 /dev/nbd0)" = 536870912
	use_file_system "$kind" /dev/nbd0
	check "detach" nbd-client -d /dev/nbd0
	check "slabd has no connection left" wait_for on_host unused
}

guest() {
	modprobe nbd
	guest_session ext4
	guest_session xfs -C 4
}

start_slabd disk0=memory:512M
boot_guest
check "slabd ends without a complaint" stop_slabd
finish
