#!/usr/bin/env bash
# NBD over TLS as the clients in use speak it, with certificates and with pre-shared keys, and everyone
# who must not get in.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

require openssl

make_key() {
	openssl ecparam -name prime256v1 -genkey -noout -out "$1"
	chmod 600 "$1"
}

# make_ca NAME
make_ca() {
	make_key "$dir/$1.key"
	openssl req -x509 -new -key "$dir/$1.key" -subj "/CN=$1" -days 2 -out "$dir/$1.pem"
}

# make_pair NAME CA SUBJECT EXTENSIONS FIRST LAST: the dates as openssl ca wants them.
make_pair() {
	local name=$1 ca=$2
	[ -f "$dir/$name.key" ] || make_key "$dir/$name.key"
	openssl req -new -key "$dir/$name.key" -subj "/CN=$3" -out "$dir/$name.csr"
	printf '%s\n' "$4" >"$dir/$name.ext"
	rm -rf "$dir/db" && mkdir "$dir/db" && : >"$dir/db/index"
	printf '1%015d\n' "$RANDOM" >"$dir/db/serial"
	cat >"$dir/ca.cnf" <<-END
		[ca]
		default_ca = own
		[own]
		database = $dir/db/index
		serial = $dir/db/serial
		new_certs_dir = $dir/db
		default_md = sha256
		policy = any
		unique_subject = no
		[any]
		commonName = supplied
	END
	openssl ca -batch -notext -config "$dir/ca.cnf" -cert "$dir/$ca.pem" -keyfile "$dir/$ca.key" \
		-in "$dir/$name.csr" -extfile "$dir/$name.ext" -startdate "$5" -enddate "$6" \
		-out "$dir/$name.pem"
}

# client_directory NAME CA PAIR: as libnbd, qemu and nbdkit want it.
client_directory() {
	mkdir "$dir/$1"
	cp "$dir/$2.pem" "$dir/$1/ca-cert.pem"
	[ -z "$3" ] || cp "$dir/$3.pem" "$dir/$1/client-cert.pem"
	[ -z "$3" ] || cp "$dir/$3.key" "$dir/$1/client-key.pem"
}

make_everything() {
	local server='subjectAltName=DNS:localhost,IP:127.0.0.1'
	local client='extendedKeyUsage=clientAuth'
	local now later long_ago
	now=$(date -u -d '-1 day' +%y%m%d000000Z)
	later=$(date -u -d '+2 days' +%y%m%d000000Z)
	long_ago=$(date -u -d '-9 days' +%y%m%d000000Z)
	make_ca ca
	make_ca strangers
	make_pair server ca localhost "$server" "$now" "$later"
	make_pair elsewhere ca elsewhere.example 'subjectAltName=DNS:elsewhere.example' "$now" "$later"
	make_pair old ca localhost "$server" "$long_ago" "$now"
	make_pair client ca client.example "$client" "$now" "$later"
	make_pair oldclient ca client.example "$client" "$long_ago" "$now"
	make_pair stranger strangers client.example "$client" "$now" "$later"
	client_directory good ca client
	client_directory nameless ca ''
	client_directory expired ca oldclient
	client_directory foreign ca stranger
	client_directory mistrusting strangers client
	printf 'alice:%s\n' "$(openssl rand -hex 32)" >"$dir/keys.psk"
	printf 'alice:%s\n' "$(openssl rand -hex 32)" >"$dir/wrong.psk"
	sed 's/alice/mallory/' "$dir/keys.psk" >"$dir/mallory.psk"
	chmod 600 "$dir"/*.psk
}

make_everything >"$dir/made" 2>&1 || {
	sed 's/^/# /' "$dir/made"
	bail "no certificates"
}

# refused WORDS PATTERN ARGUMENT...: slabd does not start, and says why.
refused() {
	local words=$1 pattern=$2
	shift 2
	check_fails "$words" timeout 20 "$SLABD_BUILD/slabd" --nbd 127.0.0.1:0 --iscsi none \
		--control none "$@" a=memory:1M
	shows "$words: the reason" "$pattern"
}

# uri KIND [EXPORT]: with certificates of a directory, or with a key of a file.
certificates() {
	echo "nbds://localhost:${NBD##*:}/${2:-}?tls-certificates=$dir/$1"
}

psk() {
	echo "nbds://alice@localhost:${NBD##*:}/${2:-}?tls-psk-file=$dir/$1.psk"
}

# no_client WORDS URI: the handshake fails, and the server lives.
no_client() {
	check_fails "$1" timeout 20 nbdinfo "$2"
	slabd_running || bail "slabd is gone"
}

test_starts() {
	local own=(--tls-cert "$dir/server.pem" --tls-key)
	refused "an expired certificate" "$dir/old.pem: expired on " \
		--tls-cert "$dir/old.pem" --tls-key "$dir/old.key"
	refused "a key of another certificate" "$dir/client.key: does not match" "${own[@]}" "$dir/client.key"
	refused "no key where it should be" "$dir/none.key: No such file" "${own[@]}" "$dir/none.key"
	chmod 640 "$dir/server.key"
	refused "a key that the group may read" "$dir/server.key: mode 0640 " "${own[@]}" "$dir/server.key"
	chmod 601 "$dir/server.key"
	refused "a key with any bit for others" "$dir/server.key: mode 0601 " "${own[@]}" "$dir/server.key"
	chmod 600 "$dir/server.key"
	chmod 604 "$dir/keys.psk"
	refused "a PSK file that others may read" "$dir/keys.psk: mode 0604 " --tls-psk "$dir/keys.psk"
	chmod 600 "$dir/keys.psk"
	openssl genrsa -out "$dir/rsa.key" 3072 2>/dev/null
	chmod 600 "$dir/rsa.key"
	openssl req -x509 -new -key "$dir/rsa.key" -subj /CN=localhost -days 2 -out "$dir/rsa.pem"
	check "a large RSA key is taken" "$SLABD_BUILD/slabd" --check-config \
		--tls-cert "$dir/rsa.pem" --tls-key "$dir/rsa.key" a=memory:1M
	shows "with a warning that names its cost" 'RSA with 3072 bits costs about 3 ms'
	refused "beyond loopback, peers unknown" 'would offer a to everyone' --nbd 0.0.0.0:0 \
		"${own[@]}" "$dir/server.key"
	refused "beyond loopback, TLS not required" 'would offer a to everyone' --nbd 0.0.0.0:0 \
		--tls allow --tls-psk "$dir/keys.psk"
	check "beyond loopback with a PSK" "$SLABD_BUILD/slabd" --check-config --nbd 0.0.0.0:0 \
		--tls-psk "$dir/keys.psk" a=memory:1M
	check "beyond loopback with a CA" "$SLABD_BUILD/slabd" --check-config --nbd 0.0.0.0:0 \
		"${own[@]}" "$dir/server.key" --tls-ca "$dir/ca.pem" a=memory:1M
}

test_clients() {
	local words=$1 uri=$2
	check "nbdinfo, $words" nbdinfo "$uri"
	shows "nbdinfo says TLS, $words" 'with TLS'
	check "nbdcopy, $words" nbdcopy --connections=4 --flush "$dir/random" "$uri"
	rm -f "$dir/random.back"
	check "nbdcopy back, $words" nbdcopy "$uri" "$dir/random.back"
	check "identical, $words" cmp "$dir/random" "$dir/random.back"
}

# qemu's own words for TLS; it takes the same directory, PSK files by directory and name.
test_qemu() {
	local words=$1 object=$2 host=127.0.0.1
	local image="driver=nbd,host=$host,port=${NBD##*:},export=disk0,tls-creds=tls0,tls-hostname=localhost"
	check "qemu-img info, $words" qemu-img info --object "$object" --image-opts "$image"
	check "qemu-img convert, $words" qemu-img convert -n --object "$object" -f raw \
		--target-image-opts "$dir/random" "driver=raw,file.driver=nbd,file.host=$host,file.port=${NBD##*:},file.export=disk0,file.tls-creds=tls0,file.tls-hostname=localhost"
	check "qemu-img compare, $words" qemu-img compare --object "$object" --image-opts \
		"driver=raw,file.driver=file,file.filename=$dir/random" \
		"driver=raw,file.driver=nbd,file.host=$host,file.port=${NBD##*:},file.export=disk0,file.tls-creds=tls0,file.tls-hostname=localhost"
}

# nbdkit's nbd plugin as a proxy: TLS towards us, plain towards nbdcopy.
test_nbdkit() {
	local words=$1
	shift
	rm -f "$dir/random.back"
	check "nbdkit's nbd plugin, $words" nbdkit --exit-with-parent -U - nbd "$@" \
		--run "nbdcopy --flush '$dir/random' \"\$uri\" && nbdcopy \"\$uri\" '$dir/random.back'"
	check "identical through nbdkit, $words" cmp "$dir/random" "$dir/random.back"
}

# nbdinfo and nbdcopy alike, as both take URIs.
no_libnbd() {
	no_client "nbdinfo, $1" "$2"
	check_fails "nbdcopy, $1" timeout 20 nbdcopy "$dir/random" "$2"
	slabd_running || bail "slabd is gone"
}

test_refused_clients() {
	no_libnbd "no certificate" "$(certificates nameless)"
	no_libnbd "a certificate of another CA" "$(certificates foreign)"
	no_libnbd "an expired client certificate" "$(certificates expired)"
	no_libnbd "a client that trusts another CA" "$(certificates mistrusting)"
	no_libnbd "a wrong PSK" "$(psk wrong)"
	no_libnbd "an unknown identity" "nbds://mallory@localhost:${NBD##*:}/?tls-psk-file=$dir/mallory.psk"
	no_libnbd "plaintext" "nbd://localhost:${NBD##*:}/"
	no_libnbd "plaintext over the unix socket" "nbd+unix:///?socket=$NBD_SOCKET"
	# One such line a second, whoever knocks.
	sleep 1.1
	no_client "the expired one again" "$(certificates expired)"
	cp "$SLABD_LOG" "$dir/out"
	shows "the operator is told why" 'no TLS: certificate has expired'
}

# no_qemu WORDS OBJECT [NAME of the server]
no_qemu() {
	local image="driver=nbd,host=127.0.0.1,port=${NBD##*:},export=disk0,tls-creds=tls0"
	check_fails "qemu-img, $1" timeout 20 qemu-img info --object "$2" \
		--image-opts "$image,tls-hostname=${3:-localhost}"
	slabd_running || bail "slabd is gone"
}

test_refused_qemu() {
	# qemu would find some of them wrong itself.
	local x509="tls-creds-x509,id=tls0,endpoint=client,sanity-check=no,dir=$dir"
	mkdir -p "$dir/psk-wrong" && cp "$dir/wrong.psk" "$dir/psk-wrong/keys.psk"
	no_qemu "no certificate" "$x509/nameless"
	no_qemu "a certificate of another CA" "$x509/foreign"
	no_qemu "an expired client certificate" "$x509/expired"
	no_qemu "a client that trusts another CA" "$x509/mistrusting"
	no_qemu "a server of another name" "$x509/good" elsewhere.example
	no_qemu "a wrong PSK" "tls-creds-psk,id=tls0,dir=$dir/psk-wrong,endpoint=client,username=alice"
	check_fails "qemu-img, plaintext" timeout 20 qemu-img info "nbd://localhost:${NBD##*:}/disk0"
}

# no_nbdkit WORDS PARAMETER...: its plugin connects before it serves.
no_nbdkit() {
	local words=$1
	shift
	check_fails "nbdkit's nbd plugin, $words" timeout 20 nbdkit --exit-with-parent -U - nbd \
		"port=${NBD##*:}" export=disk0 "$@" --run "nbdinfo \"\$uri\""
	slabd_running || bail "slabd is gone"
}

test_refused_nbdkit() {
	local tls=(hostname=localhost tls=require)
	no_nbdkit "no certificate" "${tls[@]}" "tls-certificates=$dir/nameless"
	no_nbdkit "a certificate of another CA" "${tls[@]}" "tls-certificates=$dir/foreign"
	no_nbdkit "an expired client certificate" "${tls[@]}" "tls-certificates=$dir/expired"
	no_nbdkit "a client that trusts another CA" "${tls[@]}" "tls-certificates=$dir/mistrusting"
	no_nbdkit "a wrong PSK" "${tls[@]}" "tls-psk=$dir/wrong.psk" tls-username=alice
	no_nbdkit "plaintext" hostname=localhost
}

# option NUMBER, bytes of an option without data.
option() {
	# shellcheck disable=SC2059 # the option's number is an escape in the format
	printf "IHAVEOPT\\0\\0\\0\\$(printf %03o "$1")\\0\\0\\0\\0"
}

# hear FD BYTES: as hexadecimal.
hear() {
	timeout 10 head -c "$2" <&"$1" | od -An -v -tx1 | tr -d ' \n'
}

# open_raw FD: greeted, fixed newstyle.
open_raw() {
	eval "exec $1<>/dev/tcp/127.0.0.1/${NBD##*:}"
	hear "$1" 18 >/dev/null
	printf '\0\0\0\1' >&"$1"
}

# start_tls FD OPTION...: STARTTLS, and others behind it in the same packet.
start_tls() {
	local fd=$1 said number
	shift
	for number in 5 "$@"; do option "$number"; done >"$dir/options"
	cat "$dir/options" >&"$fd"
	said=$(hear "$fd" 20)
	if [ "$said" = 0003e889045565a9000000050000000100000000 ]; then
		ok "STARTTLS is answered"
	else
		not_ok "STARTTLS is answered: $said"
	fi
}

# A handshake that stands still holds up nobody: others come and go while it waits, and then it goes on.
test_slow_handshake() {
	open_raw 7
	start_tls 7
	# The first bytes of a ClientHello, and nothing more.
	printf '\26\3\1\2\0\1\0\1\374\3\3' >&7
	check "others on the same loops go on" nbdinfo --size "$(certificates good)"
	check "again" nbdinfo --size "$(psk keys)"
	check "and again" nbdinfo --size "$(certificates good)"
	slabctl --json connections >"$dir/out" 2>"$dir/err"
	shows "the slow one is still there" '"nbd\+tls"'
	exec 7>&-
}

resident() {
	awk '/^VmRSS/ { print $2 }' "/proc/$slabd_pid/status"
}

# R04: 16 KiB for a connection and 64 more with TLS, before anybody is known. Each of a hundred sends most
# of the largest ClientHello there is.
test_memory() {
	local fds=() fd before after
	if sanitized; then
		skip "memory before authentication" "sanitizers have their own"
		return
	fi
	{ option 5 && printf '\26\3\1\100\0\1\0\77\374\3\3' && head -c 16000 /dev/zero; } >"$dir/half"
	before=$(resident)
	for _ in {1..100}; do
		exec {fd}<>"/dev/tcp/127.0.0.1/${NBD##*:}"
		fds+=("$fd")
		{ printf '\0\0\0\1' && option 5; } >&"$fd"
		hear "$fd" 38 >/dev/null
		tail -c +17 "$dir/half" >&"$fd"
	done
	check "others get in beside them" nbdinfo --size "$(certificates good)"
	after=$(resident)
	note "$(((after - before) / 100)) KiB for each of 100 half ClientHellos"
	if [ $((after - before)) -lt 8000 ]; then
		ok "memory before authentication"
	else
		not_ok "memory before authentication: $before KiB, then $after"
	fi
	for fd in "${fds[@]}"; do exec {fd}>&-; done
}

# What was sent in the clear behind STARTTLS is not answered, in whichever packet it comes.
test_injection() {
	local said
	open_raw 7
	start_tls 7 3 8
	# A cut record: an alert or the end may come, an answer to an option must not.
	option 3 >&7
	said=$(hear 7 4096)
	case $said in
	*0003e889045565a9*) not_ok "no option sent in the clear is answered: $said" ;;
	*) ok "no option sent in the clear is answered" ;;
	esac
	exec 7>&-
	check "others are served" nbdinfo --size "$(certificates good)"
}

test_require() {
	local own=(--tls-cert "$dir/server.pem" --tls-key "$dir/server.key" --tls-ca "$dir/ca.pem")
	start_slabd "${own[@]}" --tls-psk "$dir/keys.psk" disk0=memory:32M
	cp "$SLABD_LOG" "$dir/out"
	shows "it is said at the start" '^nbd 127.*disk0 .*, TLS required$'
	if have nbdcopy; then
		test_clients "certificates" "$(certificates good)"
		test_clients "PSK" "$(psk keys)"
		check "nbdinfo over the unix socket" nbdinfo \
			"nbds+unix://alice@/disk0?socket=$NBD_SOCKET&tls-psk-file=$dir/keys.psk"
		test_refused_clients
		test_slow_handshake
		test_injection
		test_memory
	else
		skip "nbdinfo and nbdcopy over TLS" "libnbd-bin is not installed"
	fi
	if have qemu-img; then
		test_qemu "certificates" "tls-creds-x509,id=tls0,dir=$dir/good,endpoint=client"
		mkdir -p "$dir/psk" && cp "$dir/keys.psk" "$dir/psk/keys.psk"
		test_qemu "PSK" "tls-creds-psk,id=tls0,dir=$dir/psk,endpoint=client,username=alice"
		test_refused_qemu
	else
		skip "qemu-img over TLS" "qemu-utils is not installed"
	fi
	if have nbdkit && have nbdcopy; then
		test_nbdkit "certificates" hostname=localhost "port=${NBD##*:}" export=disk0 tls=require \
			"tls-certificates=$dir/good"
		test_nbdkit "PSK" hostname=localhost "port=${NBD##*:}" export=disk0 tls=require \
			"tls-psk=$dir/keys.psk" tls-username=alice
		test_refused_nbdkit
	else
		skip "nbdkit's nbd plugin over TLS" "nbdkit is not installed"
	fi
	check "slabd ends well" stop_slabd
}

# TLS where it is asked for, and one export that has nothing else.
test_allow() {
	cat >"$dir/allow.yaml" <<-END
		volumes:
		  a: {backend: memory, size: 1M}
		  b: {backend: memory, size: 2M}
		nbd:
		  exports:
		    a: {default: on}
		    b: {tls: require}
		tls: {mode: allow, certificate: $dir/server.pem, key: $dir/server.key}
	END
	start_slabd --config "$dir/allow.yaml"
	check "in the clear, where it may be" nbdinfo --size "nbd://$NBD/a"
	check "by TLS, the same" nbdinfo --size "$(certificates nameless a)"
	check_fails "in the clear, where it may not be" nbdinfo --size "nbd://$NBD/b"
	check "by TLS, where it must be" nbdinfo --size "$(certificates nameless b)"
	shows "its size" '^2097152$'
	check "the list of a client without TLS" nbdinfo --list "nbd://$NBD"
	shows_not "has no export that needs it" 'export="b"'
	check "slabd ends well" stop_slabd
}

# Without TLS clients are told so; with a certificate of another name they go away themselves.
test_others() {
	start_slabd disk0=memory:1M
	check_fails "a client that insists, a server without TLS" nbdinfo "$(certificates good)"
	check "slabd ends well" stop_slabd
	start_slabd --tls-cert "$dir/elsewhere.pem" --tls-key "$dir/elsewhere.key" disk0=memory:1M
	no_libnbd "a server of another name" "$(certificates good)"
	if have nbdkit; then
		no_nbdkit "a server of another name" hostname=localhost tls=require \
			"tls-certificates=$dir/good"
	fi
	check "slabd ends well" stop_slabd
}

head -c 32M /dev/urandom >"$dir/random"
test_starts
test_require
if have nbdinfo; then
	test_allow
	test_others
fi
finish
