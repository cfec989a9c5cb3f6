#!/bin/bash
# nbdcheck against the servers of Debian, and slabd if it is built: a row of counts each, in markdown, for
# protocols/nbd/README.md. With -v, the FAILs and warns too. Servers that are not installed are left out.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "$0")/lib.sh"
nbdcheck=$build/nbdcheck
verbose=no
[ "${1-}" != -v ] || verbose=yes

wait_for_socket() {
	for _ in $(seq 100); do
		[ -S "$1" ] && return
		sleep 0.05
	done
}

have() {
	command -v "$1" >/dev/null
}

make_certificates() {
	mkdir "$dir/pki"
	(
		cd "$dir/pki" || exit
		openssl req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca-cert.pem -days 2 \
			-subj /CN=ca
		echo subjectAltName=DNS:localhost,IP:127.0.0.1 >names
		for name in server client; do
			openssl req -newkey rsa:2048 -nodes -keyout $name-key.pem -out $name.csr \
				-subj /CN=localhost
			openssl x509 -req -in $name.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial \
				-days 2 -extfile names -out $name-cert.pem
		done
		chmod 600 ./*-key.pem
	) >/dev/null 2>&1
}

# keep SOCKET COMMAND...: started again when it dies.
keep() {
	local socket=$1
	shift
	deaths=$socket.deaths
	: >"$deaths"
	(
		trap 'kill "$child" 2>/dev/null; exit' TERM
		while :; do
			rm -f "$socket"
			"$@" 2>/dev/null &
			child=$!
			wait "$child"
			echo died >>"$deaths"
		done
	) 2>/dev/null &
	started+=($!)
	wait_for_socket "$socket"
}

# again URI [OPTION...]: the server has died, and lives again. What failed then, or found it gone, is run
# alone.
again() {
	local id
	grep -vE '^not ok|^#   |# SKIP the server is gone' "$dir/out" >"$dir/again"
	while read -r id; do
		sleep 0.5
		"$nbdcheck" "${@:2}" --only "$id" "$1" | grep -E '^(not )?ok |^#   ' >>"$dir/again"
	done < <(sed -nE '/^not ok|# SKIP the server is gone/s/^[a-z ]+ [0-9]+ - ([A-Z][0-9]+) .*/\1/p' "$dir/out")
	mv "$dir/again" "$dir/out"
}

# row NAME URI [OPTION...]
row() {
	local name=$1
	"$nbdcheck" "${@:3}" "$2" >"$dir/out" 2>"$dir/err"
	sleep 2 # an abort takes its time
	if [ -s "$deaths" ]; then
		name="$name; it died"
		again "$2" "${@:3}"
	fi
	awk -v name="$name" '
		/^(not )?ok / { count++ }
		/^not ok / { fail++ }
		/^ok .*# SKIP / { skip++ }
		/^ok .*# warn: / { warn++ }
		END {
			if (count)
				printf "| %s | %d | %d | %d | %d | %d |\n", name, count,
					count - fail - warn - skip, fail, warn, skip
			else
				printf "| %s | cannot be reached |\n", name
		}' "$dir/out"
	[ "$verbose" = no ] || grep -E '^not ok|# warn|^#   (sent|expected|got)' "$dir/out" | sed 's/^/    /'
}

make_certificates
tls="tls-certificates=$dir/pki&tls-hostname=localhost"
echo "| server | checks | pass | FAIL | warn | skip |"
echo "|---|--:|--:|--:|--:|--:|"
if [ -x "$build/slabd" ]; then
	keep "$dir/slabd" "$build/slabd" --nbd "unix:$dir/slabd" --iscsi none --control none m=memory:1G \
		"f=file:$dir/slabd.img,size=64M" n=null:1T
	row "slabd, memory" "nbd+unix:///m?socket=$dir/slabd"
	row "slabd, file" "nbd+unix:///f?socket=$dir/slabd"
	row "slabd, null, \`--read-only\`" "nbd+unix:///n?socket=$dir/slabd" --read-only
fi
if have nbdkit; then
	version=$(nbdkit --version | awk '{print $2}')
	keep "$dir/nbdkit" nbdkit -f -U "$dir/nbdkit" memory size=64M
	row "nbdkit $version, memory" "nbd+unix:///?socket=$dir/nbdkit"
	keep "$dir/nbdkit-tls" nbdkit -f -U "$dir/nbdkit-tls" --tls=require --tls-certificates="$dir/pki" \
		--tls-verify-peer memory size=64M
	row "nbdkit $version, memory, TLS" "nbds+unix:///?socket=$dir/nbdkit-tls&$tls"
fi
if have qemu-nbd; then
	version=$(qemu-nbd --version | awk 'NR == 1 {print $2}')
	truncate -s 64M "$dir/qemu.img" "$dir/qemu-tls.img"
	keep "$dir/qemu" qemu-nbd -k "$dir/qemu" -t -e 100 -f raw --discard=unmap "$dir/qemu.img"
	row "qemu-nbd $version, file" "nbd+unix:///?socket=$dir/qemu"
	keep "$dir/qemu-tls" qemu-nbd -k "$dir/qemu-tls" -t -e 100 -f raw --discard=unmap --tls-creds tls0 \
		--object "tls-creds-x509,id=tls0,dir=$dir/pki,endpoint=server,verify-peer=on" "$dir/qemu-tls.img"
	row "qemu-nbd $version, file, TLS" "nbds+unix:///?socket=$dir/qemu-tls&$tls"
fi
if have nbd-server; then
	version=$(nbd-server --version 2>&1 | awk '{print $NF; exit}')
	truncate -s 64M "$dir/server.img"
	cat >"$dir/nbd-server.conf" <<CONF
[generic]
	listenaddr = 127.0.0.1
	port = $((20000 + RANDOM % 20000))
	unixsock = $dir/nbd-server
	allowlist = true
[disk]
	exportname = $dir/server.img
	flush = true
	fua = true
	trim = true
CONF
	# It goes into the background by itself, and wants a port although it has a socket.
	deaths=$dir/nbd-server.deaths
	: >"$deaths"
	nbd-server -C "$dir/nbd-server.conf" -p "$dir/nbd-server.pid" >/dev/null 2>&1
	wait_for_socket "$dir/nbd-server"
	started+=("$(cat "$dir/nbd-server.pid")")
	row "nbd-server $version, file" "nbd+unix:///disk?socket=$dir/nbd-server"
fi
