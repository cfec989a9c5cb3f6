# Sourced by quickstart and check: work that is announced, timed, and shown only when it fails.
# shellcheck shell=sh

# step WORDS LOG COMMAND...: runs the command with its output in LOG.
step() {
	step_words=$1 step_log=$2
	shift 2
	printf '%s … ' "$step_words"
	step_start=$(date +%s)
	if "$@" >"$step_log" 2>&1 </dev/null; then
		echo "done ($(($(date +%s) - step_start)) s)"
	else
		echo "failed ($(($(date +%s) - step_start)) s)"
		return 1
	fi
}

# Makes ./configure where it is not there, or older than what it is made from.
ensure_configure() {
	if [ ! -x configure ] || [ -n "$(find configure.ac -newer configure)" ]; then
		./autogen.sh
	fi
}
