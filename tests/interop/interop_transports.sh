#!/usr/bin/env bash
# Ways to reach slabd besides TCP and unix sockets by path: abstract unix sockets, sockets that somebody
# else listens on, standard input and output, iSCSI inside TLS.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

slabd=$SLABD_BUILD/slabd

test_abstract() {
	local name=slabd-test-$$ image
	start_slabd --nbd "unix:@$name" disk0=memory:3M
	if have qemu-img; then
		image=driver=nbd,server.type=unix,server.path=$name,server.abstract=on,export=disk0
		check "an abstract unix socket" qemu-img info --image-opts "$image"
		shows "its size" 'virtual size: 3 MiB'
	else
		skip "an abstract unix socket" "qemu-utils is not installed"
	fi
	check "slabd ends well" stop_slabd
}

# libnbd passes a socket without a name; systemd-socket-activate passes what it is told.
test_activation() {
	if have nbdinfo; then
		check "a passed socket" nbdinfo --size -- \
			[ "$slabd" --control none disk0=memory:3M ]
		shows "is NBD's where nobody says otherwise" '^3145728$'
	else
		skip "a passed socket" "libnbd-bin is not installed"
	fi
	if have systemd-socket-activate && have iscsi-ls; then
		test_passed_iscsi
	else
		skip "a passed iSCSI socket" "systemd-socket-activate or libiscsi-bin is not installed"
	fi
}

# It takes no port 0: a port that is taken is tried again as another. The first client starts slabd.
test_passed_iscsi() {
	local tries=0 port
	while [ -z "$slabd_pid" ] && [ "$tries" -lt 10 ]; do
		tries=$((tries + 1))
		port=$((20000 + RANDOM % 10000))
		: >"$SLABD_LOG"
		systemd-socket-activate -l "127.0.0.1:$port" --fdname=iscsi \
			"$slabd" --control none disk0=memory:3M >>"$SLABD_LOG" 2>&1 </dev/null &
		slabd_pid=$!
		while slabd_running && ! grep -q '^Listening' "$SLABD_LOG"; do sleep 0.05; done
		slabd_running || slabd_pid=
	done
	check "a passed iSCSI socket" iscsi-ls "iscsi://127.0.0.1:$port"
	shows "is served" "$IQN:disk0"
	if grep -q '^nbd ' "$SLABD_LOG"; then
		not_ok "and nothing else is" "$SLABD_LOG"
	else
		ok "and nothing else is"
	fi
	check "slabd ends well" stop_slabd
}

# option NUMBER, bytes of an option without data.
option() {
	# shellcheck disable=SC2059 # the option's number is an escape in the format
	printf "IHAVEOPT\\0\\0\\0\\$(printf %03o "$1")\\0\\0\\0\\0"
}

# A file, as fuzzers give it; a pipe; a client that hangs up; a socket, as inetd gives it.
test_stdio() {
	local listing said
	{ printf '\0\0\0\1' && option 3 && option 2; } >"$dir/session"
	"$slabd" --stdio disk0=memory:3M <"$dir/session" >"$dir/out" 2>"$dir/err" ||
		note "slabd --stdio says $?"
	listing=$(od -An -v -tx1 "$dir/out" | tr -d ' \n')
	said=4e42444d4147494349484156454f50540003
	said=${said}0003e889045565a9000000030000000200000009000000056469736b30
	said=${said}0003e889045565a9000000030000000100000000
	said=${said}0003e889045565a9000000020000000100000000
	if [ "$listing" = "$said" ]; then
		ok "a session from a file"
	else
		not_ok "a session from a file: $listing"
	fi
	if [ -s "$dir/err" ]; then not_ok "says nothing else" "$dir/err"; else ok "says nothing else"; fi
	if { printf '\0\0\0\1' && option 3 && option 2; } |
		"$slabd" --stdio disk0=memory:3M 2>/dev/null | cmp -s - "$dir/out"; then
		ok "the same through pipes"
	else
		not_ok "the same through pipes"
	fi
	check "a client that says nothing" "$slabd" --stdio disk0=memory:3M
	check_fails "a configuration that is wrong" "$slabd" --stdio disk0=memory:x
	test_inetd
}

test_inetd() {
	local tries=0
	if ! have systemd-socket-activate || ! have nbdcopy; then
		skip "a session under inetd" "systemd-socket-activate or libnbd-bin is not installed"
		return
	fi
	systemd-socket-activate --accept --inetd -l "$dir/inetd.sock" \
		"$slabd" --stdio "disk0=file:$dir/inetd.img,size=8M" >"$dir/inetd.log" 2>&1 </dev/null &
	slabd_pid=$!
	while slabd_running && [ ! -S "$dir/inetd.sock" ] && [ "$tries" -lt 400 ]; do
		tries=$((tries + 1))
		sleep 0.05
	done
	head -c 8M /dev/urandom >"$dir/random"
	check "nbdcopy under inetd" nbdcopy --connections=1 "$dir/random" "nbd+unix:///?socket=$dir/inetd.sock"
	# The process of that connection lets go of the file when it is done with it.
	tries=0
	until cmp -s "$dir/random" "$dir/inetd.img" || [ "$tries" -gt 400 ]; do
		tries=$((tries + 1))
		sleep 0.05
	done
	check "is in the file" cmp "$dir/random" "$dir/inetd.img"
	kill -TERM "$slabd_pid"
	wait "$slabd_pid"
	slabd_pid=
}

# A Login request of a discovery session, as an initiator begins, inside TLS; the answer is a Login
# response with status 0.
test_iscsi_tls() {
	local answer client tries=0
	if ! have openssl; then
		skip "iSCSI inside TLS" "openssl is not installed"
		return
	fi
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/own.key" \
		-subj /CN=localhost -days 2 -out "$dir/own.pem" 2>"$dir/err"
	chmod 600 "$dir/own.key"
	start_slabd --iscsi none --iscsi tls:127.0.0.1:0 --tls off --tls-cert "$dir/own.pem" \
		--tls-key "$dir/own.key" disk0=memory:3M
	printf 'InitiatorName=iqn.1993-08.org.debian:01:test\0SessionType=Discovery\0\0\0\0' >"$dir/keys"
	truncate -s 72 "$dir/keys"
	{
		# Immediate, Login; T, CSG 1, NSG 3; 72 bytes of data; ISID, TSIH 0, ITT 1.
		printf '\103\207\0\0\0\0\0\110\200\0\0\0\0\1\0\0\0\0\0\1\0\0\0\0\0\0\0\1'
		head -c 20 /dev/zero
		cat "$dir/keys"
	} >"$dir/login"
	mkfifo "$dir/peer"
	timeout 60 openssl s_client -quiet -verify_quiet -no_ign_eof -connect "${ISCSI#tls:}" \
		-CAfile "$dir/own.pem" <"$dir/peer" >"$dir/answer" 2>"$dir/err" &
	client=$!
	exec 7>"$dir/peer"
	cat "$dir/login" >&7
	until [ "$(wc -c <"$dir/answer")" -ge 48 ] || [ "$tries" -ge 400 ]; do
		tries=$((tries + 1))
		sleep 0.05
	done
	check "connections are listed" slabctl connections
	shows "this one as what it is" 'iscsi\+tls.*discovery'
	exec 7>&-
	wait "$client"
	answer=$(head -c 48 "$dir/answer" | od -An -v -tx1 | tr -d ' \n')
	case $answer in
	2387*) ok "an iSCSI login inside TLS" ;;
	*) not_ok "an iSCSI login inside TLS: $answer" "$dir/err" ;;
	esac
	if [ "${answer:72:4}" = 0000 ]; then ok "it succeeds"; else not_ok "it succeeds: $answer"; fi
	if have iscsi-ls; then
		check_fails "an initiator without TLS" timeout 20 iscsi-ls "iscsi://${ISCSI#tls:}"
	else
		skip "an initiator without TLS" "libiscsi-bin is not installed"
	fi
	check "slabd ends well" stop_slabd
}

test_abstract
test_activation
test_stdio
test_iscsi_tls
finish
