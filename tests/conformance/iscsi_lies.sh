#!/bin/bash
# The liar tells each of its lies (iscsi/liar.c) to iscsicheck.
# shellcheck source=tests/conformance/lies.sh
. "$(dirname "$0")/lies.sh"

start() {
	local options=() user="" mutual=""
	if [ "$2" = chap ]; then
		options=(--chap)
		user=alice%secretsecret12@
		mutual="?target_user=thetarget&target_password=targetsecret12"
	fi
	[ $# -lt 3 ] || options+=(--lie "$3")
	start_liar "$1" "$liar" ${options[@]+"${options[@]}"} tcp
	uri="iscsi://${user}127.0.0.1:$port/iqn.2026-11.localhost.liar:disk/0$mutual"
}

tell_lies "$build/tests/conformance/iscsi/liar" "$build/iscsicheck" open chap
