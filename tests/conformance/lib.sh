# Sourced by the testers' tests: a directory and processes of their own, which end with the test.
# shellcheck shell=bash
set -u
# shellcheck disable=SC2034 # for the tests, as number is
build=${SLABD_BUILD:-.}
dir=$(mktemp -d)
started=() # processes to end

end_started() {
	for pid in ${started[@]+"${started[@]}"}; do
		kill "$pid" 2>/dev/null
	done
	wait 2>/dev/null
	rm -rf "$dir"
}
trap end_started EXIT

number=0
# is NAME WANTED GOT
is() {
	number=$((number + 1))
	if [ "$2" = "$3" ]; then
		echo "ok $number - $1"
	else
		printf 'not ok %s - %s\n#   wanted %s\n#   got    %s\n' "$number" "$1" "$2" "$3"
	fi
}
