#!/bin/bash
# The liar tells each of its lies (nbd/liar.c) to nbdcheck.
# shellcheck source=tests/conformance/lies.sh
. "$(dirname "$0")/lies.sh"

start() {
	local options=() address=$dir/$1.sock
	case $2 in
	tcp) address=tcp ;;
	allow) options=(--allow-tls) ;;
	require) options=(--require-tls) ;;
	read-only) options=(--read-only) ;;
	esac
	[ $# -lt 3 ] || options+=(--lie "$3")
	start_liar "$1" "$liar" ${options[@]+"${options[@]}"} "$address"
	uri="nbd+unix:///?socket=$address"
	[ "$2" != tcp ] || uri="nbd://127.0.0.1:$port/"
}

tell_lies "$build/tests/conformance/nbd/liar" "$build/nbdcheck" unix tcp allow require read-only
