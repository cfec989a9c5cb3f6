#!/bin/bash
# nbdcheck against slabd: no FAIL and no warn on any volume and transport, and hardly a check that runs in
# none of them. TLS is left out, with its checks, where there is no openssl to make a certificate.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "$0")/lib.sh"
nbdcheck=$build/nbdcheck
slabd=$build/slabd
unreached=10 # so many checks may run nowhere

# start NAME ARGUMENTS...: on a unix socket of that name and a port, which is set. 1 if it does not start.
start() {
	local name=$1
	"$slabd" --nbd "unix:$dir/$name" --nbd 127.0.0.1:0 --iscsi none --control none "${@:2}" \
		2>"$dir/$name.err" &
	local pid=$!
	started+=("$pid")
	for _ in $(seq 200); do
		grep -qs '^ready$' "$dir/$name.err" && break
		kill -0 "$pid" 2>/dev/null || return 1
		sleep 0.05
	done
	port=$(sed -n 's/^nbd 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$dir/$name.err" | head -1)
}

ok() {
	number=$((number + 1))
	echo "ok $number - $1"
}

# check NAME ARGUMENTS...: a run of nbdcheck, which must find nothing.
check() {
	"$nbdcheck" "${@:2}" >"$dir/out" 2>&1
	local status=$?
	cat "$dir/out" >>"$dir/all"
	local found
	found=$(grep -E '^not ok|# warn|^#   |^nbdcheck' "$dir/out")
	if [ $status = 0 ] && [ -z "$found" ]; then
		ok "$1: $(tail -1 "$dir/out" | cut -c3-)"
	else
		number=$((number + 1))
		echo "not ok $number - $1"
		# shellcheck disable=SC2001 # of each line
		echo "${found:-exit status $status}" | sed 's/^#* */#   /'
	fi
}

# An export with what only a configuration file can say.
configure() {
	cat >"$dir/slabd.yaml" <<YAML
volumes:
  m: {backend: memory, size: 64M}
nbd:
  exports:
    blocks: {volume: m, description: "in blocks of 4 KiB", min_block: 4096}
    locked: {volume: m, $1}
YAML
}

make_certificate() {
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 \
		-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 >/dev/null 2>&1
	chmod 600 "$dir/key.pem"
}

if start plain m=memory:1G "f=file:$dir/f.img,size=64M" "big=file:$dir/big.img,size=8G" n=null:1T \
	ro=memory:64M,read_only=on; then
	check "memory over a unix socket" "nbd+unix:///m?socket=$dir/plain"
	check "memory over TCP" "nbd://127.0.0.1:$port/m"
	check "file" "nbd+unix:///f?socket=$dir/plain"
	check "file above 4 GiB" "nbd+unix:///big?socket=$dir/plain"
	check "null, --read-only" --read-only "nbd+unix:///n?socket=$dir/plain"
	check "a read-only volume" "nbd+unix:///ro?socket=$dir/plain"
else
	echo "Bail out! slabd does not start: $(tail -1 "$dir/plain.err")"
	exit 1
fi
configure "description: unlocked"
if start configured -c "$dir/slabd.yaml"; then
	check "blocks of 4 KiB, with a description" "nbd+unix:///blocks?socket=$dir/configured"
else
	echo "Bail out! slabd does not start: $(tail -1 "$dir/configured.err")"
	exit 1
fi
tls=(--tls-cert "$dir/cert.pem" --tls-key "$dir/key.pem")
if ! command -v openssl >/dev/null; then
	number=$((number + 1))
	echo "ok $number - TLS # SKIP openssl is not installed"
elif make_certificate && start require "${tls[@]}" --tls require m=memory:1G &&
	start allow "${tls[@]}" --tls allow m=memory:1G; then
	check "memory over TLS, required" "nbds+unix:///m?socket=$dir/require&tls-verify-peer=0"
	check "memory over TLS, allowed" "nbds+unix:///m?socket=$dir/allow&tls-verify-peer=0"
	check "memory in the clear, TLS allowed" --only tls "nbd+unix:///m?socket=$dir/allow"
	configure "tls: require"
	start locked -c "$dir/slabd.yaml" "${tls[@]}" --tls allow
	check "an export for TLS alone" --only tls "nbd+unix:///locked?socket=$dir/locked"
	nowhere=$(sed -nE 's/^(not )?ok [0-9]+ - ([A-Z][0-9]+) (.*)$/\2 \3/p' "$dir/all" |
		awk '{seen[$1]; if (!/# SKIP/) ran[$1]} END {for (id in seen) if (!(id in ran)) print id}' | sort)
	number=$((number + 1))
	verdict="not ok"
	[ "$(echo "$nowhere" | wc -w)" -gt $unreached ] || verdict=ok
	echo "$verdict $number - all but $unreached checks run somewhere"
	# shellcheck disable=SC2086 # on one line
	echo "# nowhere:" $nowhere
else
	echo "Bail out! slabd does not start with TLS: $(tail -qn 1 "$dir"/require.err "$dir"/allow.err)"
	exit 1
fi
echo "1..$number"
