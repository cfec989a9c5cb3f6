#!/usr/bin/env bash
# Linux's nbd driver by nbd-client, with one connection and with four: attach, make a file system, use
# it, detach.
# shellcheck source=tests/vm/host.sh
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

guest() {
	use_nbd ext4
	use_nbd xfs -C 4
}

start_slabd disk0=memory:512M
boot_guest
check "slabd ends without a complaint" stop_slabd
finish
