#!/usr/bin/env bash
# The architecture, checked: who may name and include whom (design, "Layout"), and that each header
# compiles alone.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

cd "$SLABD_SOURCE" || bail "$SLABD_SOURCE"

# nowhere WORDS PATTERN PATH...: no C file below the paths has a line that matches. Comments count: what
# must not be known need not be spoken of.
nowhere() {
	local words=$1 pattern=$2
	shift 2
	if grep -rnE --include='*.[ch]' "$pattern" "$@" >"$dir/found"; then
		not_ok "$words" "$dir/found"
	else
		ok "$words"
	fi
}

# includes PATH... : FILE:HEADER for each #include below the paths.
includes() {
	grep -rnE --include='*.[ch]' '^#[[:space:]]*include' "$@" |
		sed -E 's/^([^:]*):[0-9]*:#[[:space:]]*include[[:space:]]*[<"]([^>"]*)[>"].*/\1:\2/'
}

# only WORDS HEADERS ALLOWED: files that include what matches HEADERS must match ALLOWED.
only() {
	includes include server storage protocols tests/lib tests/unit |
		grep -E ":($2)\$" | grep -vE "^($3):" >"$dir/found"
	if [ -s "$dir/found" ]; then
		not_ok "$1" "$dir/found"
	else
		ok "$1"
	fi
}

# may_include WORDS DIRECTORY PATTERN: quoted includes of the directory's files that are neither in
# include/ nor match PATTERN.
may_include() {
	grep -rnE --include='*.[ch]' '^#[[:space:]]*include[[:space:]]*"' "$2" |
		sed -E 's/^([^:]*):[0-9]*:#[[:space:]]*include[[:space:]]*"([^"]*)".*/\1 \2/' |
		while read -r file header; do
			[ -f "include/$header" ] || [ "$header" = config.h ] ||
				[[ $header =~ ^($3)$ ]] || echo "$file includes \"$header\""
		done >"$dir/found"
	if [ -s "$dir/found" ]; then
		not_ok "$1" "$dir/found"
	else
		ok "$1"
	fi
}

nowhere "protocols/ names no backend" \
	'\b(memory|file|null|device)_(backend|driver|volume)\b|backends/' protocols
nowhere "storage/ names no protocol" '\b(nbd|iscsi|scsi)_|\b(NBD|ISCSI|SCSI)_' storage
nowhere "include/ names neither a backend nor a protocol's insides" \
	'#include "(nbd|iscsi|scsi)/|backends/' include
nowhere "protocols/scsi knows no transport" '\biscsi_[a-z]|\bnbd_[a-z]|#include "(stream|iscsi|nbd)' protocols/scsi

may_include "protocols/nbd includes include/ and its own" protocols/nbd '(nbd/)?nbd[a-z_]*\.h'
may_include "protocols/scsi includes include/ and its own" protocols/scsi '(scsi/)?scsi[a-z_]*\.h'
may_include "protocols/iscsi includes include/, its own and scsi/scsi.h" protocols/iscsi \
	'(iscsi/)?iscsi[a-z_]*\.h|scsi/scsi\.h'
may_include "storage includes include/ and its own" storage \
	'(storage|[a-z_]+)\.h|(\.\./)?(storage|backends|layers)/[a-z_]+\.h|\.\./[a-z_]+\.h'
may_include "server/runtime includes include/ and its own" server/runtime '[a-z_]+\.h'

only "only the loop and the metrics endpoint include libevent" 'event2?/.*|event\.h' \
	'server/runtime/loop[a-z_]*\.[ch]|server/metrics\.c'
only "only TLS and CHAP include OpenSSL" 'openssl/.*' \
	'server/runtime/(stream_tls\.c|tls_context\.c|tls_openssl\.h|tls_records\.[ch])|protocols/iscsi/iscsi_chap\.c|tests/(unit|bench|fuzz)/.*(tls|chap).*'
only "only the digests include ISA-L" 'isa-l/.*|isa-l\.h' 'protocols/iscsi/.*|tests/unit/test_iscsi.*'
only "only the daemon includes libfyaml and jansson" 'libfyaml\.h|jansson\.h' \
	'server/[a-z_]*\.[ch]|tests/unit/.*'
only "sockets enter by stream, loop and listener alone" 'sys/socket\.h|netinet/.*|sys/un\.h|netdb\.h' \
	'server/.*|tests/.*|include/stream\.h'

scripts=()

# What is checked is that the header names all it needs, whoever includes it.
compiler=${CC:-cc}
if have "${compiler%% *}"; then
	for header in include/*.h protocols/*/*.h server/*.h server/runtime/*.h storage/*.h storage/*/*.h; do
		[ -f "$header" ] || continue
		# shellcheck disable=SC2086 # CC may carry options
		if ! $compiler -std=gnu11 -fsyntax-only -I "$SLABD_BUILD" -iquote include -iquote protocols \
			-include "$SLABD_BUILD/config.h" -x c "$header" 2>"$dir/one"; then
			echo "$header" >>"$dir/headers"
			cat "$dir/one" >>"$dir/headers"
		fi
	done
	if [ -s "$dir/headers" ]; then
		not_ok "each header compiles alone" "$dir/headers"
	else
		ok "each header compiles alone"
	fi
else
	skip "each header compiles alone" "no compiler $compiler"
fi

if have shellcheck; then
	for script in autogen.sh .ci/run contrib/deps contrib/quickstart contrib/check contrib/step.sh \
		tests/lib/*.sh tests/interop/*.sh tests/bench/run tests/conformance/*.sh tests/fuzz/run tests/vm/*.sh tests/vm/init \
		tests/vm/make_image tests/vm/scenarios/*.sh; do
		[ ! -f "$script" ] || scripts+=("$script")
	done
	# SC2317: functions that are called by name look unreachable to it.
	check "shellcheck finds nothing in our scripts" shellcheck -x -e SC2317 "${scripts[@]}"
else
	skip "shellcheck finds nothing in our scripts" "shellcheck is not installed"
fi
finish
