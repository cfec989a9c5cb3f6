# Sourced by the tests of the testers: each lie of a liar is told to its tester. The check that the lie names
# must catch it, and must pass when the liar tells the truth.
# shellcheck shell=bash
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "$0")/lib.sh"

# start_liar NAME SCENE LIAR OPTIONS...: waits for it; sets pid, and port where it listens on TCP.
start_liar() {
	"${@:2}" >"$dir/$1.out" &
	pid=$!
	started+=("$pid")
	for _ in $(seq 1000); do
		grep -qs ready "$dir/$1.out" && break
		sleep 0.02
	done
	# shellcheck disable=SC2034 # for the tests
	port=$(head -1 "$dir/$1.out")
}

# run CHECK URI OK...: sets line, the check's. Where it is none of the patterns OK the machine may have been too
# slow for the first deadline.
run() {
	local seconds pattern
	for seconds in 3 30; do
		line=$("$checker" --deadline "$seconds" --only "$1" "$2" 2>&1 |
			grep -E '^(not )?ok |^[a-z]+check:')
		for pattern in "${@:3}"; do
			# shellcheck disable=SC2053 # it is a pattern
			[[ $line == $pattern ]] && return
		done
	done
	return 1
}

report() {
	number=$((number + 1))
	echo "$1 $number - $2"
	[ "$1" = ok ] || echo "#   $3"
}

# tell_lies LIAR CHECKER SCENE...: by the test's start NAME SCENE [LIE], which sets uri.
tell_lies() {
	liar=$1 checker=$2
	local -A truth
	local scene line lie check verdict caught
	"$liar" --list >"$dir/lies"
	echo "1..$((2 * $(wc -l <"$dir/lies") + $# - 2))"
	for scene in "${@:3}"; do
		start "truth-$scene" "$scene"
		# shellcheck disable=SC2154 # start() sets it
		truth[$scene]=$uri
		line=$("$checker" "$uri" | grep -E -m 1 '^not ok|# warn')
		if [ -z "$line" ]; then
			report ok "the truth passes every check, $scene"
		else
			report "not ok" "the truth passes, $scene" "$line"
		fi
	done
	while read -r lie check verdict scene; do
		if run "$check" "${truth[$scene]}" 'ok *' && [[ $line != *"# warn"* && $line != *"# SKIP"* ]]; then
			report ok "$check passes without $lie"
		else
			report "not ok" "$check passes without $lie" "$line"
		fi
		start "lie-$lie" "$scene" "$lie"
		caught=('not ok *')
		[ "$verdict" = warn ] && caught+=('ok *# warn*')
		if run "$check" "$uri" "${caught[@]}"; then
			report ok "$check catches $lie"
		else
			report "not ok" "$check catches $lie" "$line"
		fi
		kill "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null || : # it ended by the signal
	done <"$dir/lies"
}
