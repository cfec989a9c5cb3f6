#!/bin/bash
# The liar tells each of its lies (nbd/liar.c) to nbdcheck: the check that the lie names must catch it,
# and must pass when the liar tells the truth.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "$0")/lib.sh"
liar=$build/tests/conformance/nbd/liar
nbdcheck=$build/nbdcheck

# start NAME SCENE [LIE]: sets uri and pid.
start() {
	local name=$1 scene=$2 options=() address=$dir/$1.sock
	case $scene in
	tcp) address=tcp ;;
	allow) options=(--allow-tls) ;;
	require) options=(--require-tls) ;;
	read-only) options=(--read-only) ;;
	esac
	[ $# -lt 3 ] || options+=(--lie "$3")
	"$liar" ${options[@]+"${options[@]}"} "$address" >"$dir/$name.out" &
	pid=$!
	started+=("$pid")
	for _ in $(seq 100); do
		grep -qs ready "$dir/$name.out" && break
		sleep 0.02
	done
	uri="nbd+unix:///?socket=$address"
	[ "$scene" != tcp ] || uri="nbd://127.0.0.1:$(head -1 "$dir/$name.out")/"
}

# One check's line.
run() {
	"$nbdcheck" --deadline 3 --only "$1" "$2" 2>&1 | grep -E '^(not )?ok |^nbdcheck'
}

"$liar" --list >"$dir/lies"
count=$(wc -l <"$dir/lies")
echo "1..$((2 * count + 1))"

report() {
	number=$((number + 1))
	echo "$1 $number - $2"
	[ "$1" = ok ] || echo "#   $3"
}

declare -A truth
for scene in unix tcp allow require read-only; do
	start "truth-$scene" "$scene"
	truth[$scene]=$uri
done

line=$("$nbdcheck" "${truth[unix]}" | grep -E -m 1 '^not ok|# warn')
[ -z "$line" ] && report ok "the truth passes every check" || report "not ok" "the truth passes" "$line"

while read -r lie check verdict scene; do
	line=$(run "$check" "${truth[$scene]}")
	case $line in
	"ok "*"# warn"* | "ok "*"# SKIP"*) report "not ok" "$check passes without $lie" "$line" ;;
	"ok "*) report ok "$check passes without $lie" ;;
	*) report "not ok" "$check passes without $lie" "$line" ;;
	esac
	start "lie-$lie" "$scene" "$lie"
	line=$(run "$check" "$uri")
	kill "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	case $verdict:$line in
	"fail:not ok "* | "warn:not ok "* | "warn:ok "*"# warn"*) report ok "$check catches $lie" ;;
	*) report "not ok" "$check catches $lie" "$line" ;;
	esac
done <"$dir/lies"
