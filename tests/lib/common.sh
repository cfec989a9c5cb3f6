# Sourced by the tests written in bash: TAP, and a slabd of their own to talk to. A test's first lines:
#     . "${SLABD_SOURCE:-.}/tests/lib/common.sh"
# and its last one: finish.
# shellcheck shell=bash

set -u

SLABD_BUILD=${SLABD_BUILD:-$PWD}
SLABD_SOURCE=${SLABD_SOURCE:-$PWD}
SLABD_SANITIZERS=${SLABD_SANITIZERS:-no}
# shellcheck disable=SC2034 # for the tests
IQN=iqn.2026-11.localhost.slabd

# The test's own directory; everything made in it goes with it.
dir=$(mktemp -d "${TMPDIR:-/tmp}/slabd-test.XXXXXX") || exit 99
tap_count=0
tap_failed=0
slabd_pid=
# What start_slabd sets: HOST:PORT, HOST:PORT, paths.
NBD='' ISCSI='' NBD_SOCKET=$dir/nbd.sock CONTROL=$dir/control.sock SLABD_LOG=$dir/slabd.log
# Where start_slabd lets it listen; a test that configures listeners itself changes it.
slabd_listens=(--nbd 127.0.0.1:0 --nbd "unix:$NBD_SOCKET" --iscsi 127.0.0.1:0)

end_test() {
	local rc=$?
	trap - EXIT
	if [ -n "$slabd_pid" ]; then
		kill -KILL "$slabd_pid" 2>/dev/null
		wait "$slabd_pid" 2>/dev/null
	fi
	if [ "$tap_failed" != 0 ] && [ -s "$SLABD_LOG" ]; then
		tail -n 100 "$SLABD_LOG" | sed 's/^/# slabd: /'
	fi
	rm -rf "$dir"
	exit "$rc"
}
trap end_test EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

note() {
	printf '%s\n' "$*" | sed 's/^/# /'
}

# ok WORDS / not_ok WORDS [FILE with what happened]
ok() {
	tap_count=$((tap_count + 1))
	echo "ok $tap_count - $1"
}

not_ok() {
	tap_count=$((tap_count + 1))
	tap_failed=$((tap_failed + 1))
	echo "not ok $tap_count - $1"
	if [ $# -gt 1 ]; then
		tail -n 40 "$2" | sed 's/^/#   /'
	fi
}

# skip WORDS WHY
skip() {
	tap_count=$((tap_count + 1))
	echo "ok $tap_count - $1 # SKIP $2"
}

bail() {
	tap_failed=$((tap_failed + 1))
	echo "Bail out! $*"
	exit 1
}

# skip_all WHY: before anything was counted.
skip_all() {
	echo "1..0 # SKIP $*"
	exit 0
}

# finish: the plan and the exit status.
finish() {
	echo "1..$tap_count"
	[ "$tap_failed" = 0 ]
	exit
}

# check WORDS COMMAND...: the command must succeed within 2 minutes; its output is shown when it does not,
# and is left in $dir/out and $dir/err.
check() {
	local words=$1 limit=()
	shift
	[ "$(type -t "$1")" != file ] || limit=(timeout --kill-after=5 120)
	if "${limit[@]}" "$@" >"$dir/out" 2>"$dir/err" </dev/null; then
		ok "$words"
	else
		echo "exit status $? (124: took too long) of: $*" >>"$dir/err"
		cat "$dir/out" >>"$dir/err"
		not_ok "$words" "$dir/err"
		return 1
	fi
}

# check_fails WORDS COMMAND...: the command must fail within 2 minutes, not by a signal.
check_fails() {
	local words=$1 rc=0 limit=()
	shift
	[ "$(type -t "$1")" != file ] || limit=(timeout --kill-after=5 120)
	"${limit[@]}" "$@" >"$dir/out" 2>"$dir/err" </dev/null || rc=$?
	if [ "$rc" -gt 0 ] && [ "$rc" -lt 124 ]; then
		ok "$words"
	else
		echo "exit status $rc (124: took too long) of: $*" >>"$dir/err"
		not_ok "$words" "$dir/err"
		return 1
	fi
}

# shows WORDS PATTERN / shows_not WORDS PATTERN: the output of the last check has a line that matches
# (egrep's patterns, upper or lower case), or has none.
shows() {
	if grep -Eiq -- "$2" "$dir/out" "$dir/err"; then
		ok "$1"
	else
		cat "$dir/out" "$dir/err" >"$dir/said"
		not_ok "$1" "$dir/said"
	fi
}

shows_not() {
	if grep -Ei -- "$2" "$dir/out" "$dir/err" >"$dir/said"; then
		not_ok "$1" "$dir/said"
	else
		ok "$1"
	fi
}

have() {
	command -v "$1" >/dev/null
}

# require TOOL...: the whole test needs them.
require() {
	local tool
	for tool in "$@"; do
		have "$tool" || skip_all "$tool is not installed (contrib/deps installs it)"
	done
}

sanitized() {
	[ "$SLABD_SANITIZERS" != no ]
}

slabd_running() {
	[ -n "$slabd_pid" ] && kill -0 "$slabd_pid" 2>/dev/null
}

# start_slabd ARGUMENT...: on ports of its own choosing and sockets in $dir, ready when this returns.
start_slabd() {
	local tries=0 word address _
	: >"$SLABD_LOG"
	"${SLABD_PROGRAM:-$SLABD_BUILD/slabd}" "${slabd_listens[@]}" --control "$CONTROL" --loops 2 "$@" \
		>>"$SLABD_LOG" 2>&1 </dev/null &
	slabd_pid=$!
	until grep -qx ready "$SLABD_LOG"; do
		tries=$((tries + 1))
		if ! slabd_running || [ "$tries" -gt 1200 ]; then
			bail "slabd did not get ready: $*"
		fi
		sleep 0.05
	done
	NBD='' ISCSI=''
	# shellcheck disable=SC2034 # for the tests
	while read -r word address _; do
		case "$word $address" in
		"nbd unix:"*) ;;
		"nbd "*:*) NBD=$address ;;
		"iscsi "*:*) ISCSI=$address ;;
		esac
	done <"$SLABD_LOG"
}

# stop_slabd: by SIGTERM; its exit status.
stop_slabd() {
	local tries=0 rc=0
	kill -TERM "$slabd_pid"
	while slabd_running && [ "$tries" -lt 1200 ]; do
		tries=$((tries + 1))
		sleep 0.05
	done
	slabd_running && kill -KILL "$slabd_pid"
	wait "$slabd_pid" || rc=$?
	slabd_pid=
	return "$rc"
}

slabctl() {
	"$SLABD_BUILD/slabctl" --socket "$CONTROL" "$@"
}
