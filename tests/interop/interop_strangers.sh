#!/usr/bin/env bash
# Handshakes of one address, in a network of the test's own: whoever is not on loopback is counted until
# an export is chosen or the login is done.
if [ -z "${SLABD_TEST_NETWORK:-}" ]; then
	if ! unshare --user --map-root-user --net true 2>/dev/null || ! command -v ip >/dev/null; then
		echo "1..0 # SKIP needs a network namespace (unshare, ip)"
		exit 0
	fi
	SLABD_TEST_NETWORK=1 exec unshare --user --map-root-user --net "$0" "$@"
fi
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

LIMIT=4
ONE=192.0.2.1 TWO=192.0.2.2
fds=()

# hold ADDRESS:PORT: connects LIMIT times and says nothing.
hold() {
	local fd i
	for ((i = 0; i < LIMIT; i++)); do
		exec {fd}<>"/dev/tcp/${1%:*}/${1##*:}" || return
		fds+=("$fd")
	done
}

# What slabd greets with, over the last of these: it has accepted them all.
is_greeted() {
	local bytes
	read -rN 8 -t 60 bytes <&"${fds[-1]}"
	[ "$bytes" = NBDMAGIC ]
}

let_go() {
	local fd
	for fd in "${fds[@]}"; do
		exec {fd}>&-
	done
	fds=()
}

# in_time COMMAND...: slabd reads of a login or an end in its own time.
in_time() {
	local _
	for _ in {1..200}; do
		"$@" && return
		sleep 0.05
	done
	return 1
}

test_handshakes() {
	local nbd=${NBD##*:} iscsi=${ISCSI##*:}
	hold "$ONE:$nbd"
	check "as many handshakes as may be" is_greeted
	check_fails "one more from the same address" nbdinfo --size "nbd://$ONE:$nbd/disk0"
	check_fails "over iSCSI as well" iscsi-ls "iscsi://$ONE:$iscsi"
	if grep -q "refused 1 times: $ONE: as many handshakes" "$SLABD_LOG"; then
		ok "a warning names the address"
	else
		not_ok "a warning names the address" "$SLABD_LOG"
	fi
	check "another address" nbdinfo --size "nbd://$TWO:$nbd/disk0"
	check "loopback" nbdinfo --size "nbd://127.0.0.1:$nbd/disk0"
	let_go
	check "the same address when they are gone" in_time nbdinfo --size "nbd://$ONE:$nbd/disk0"
	hold "127.0.0.1:$nbd"
	hold "127.0.0.1:$nbd"
	check "more on loopback" is_greeted
	let_go
}

# has_sessions NUMBER: logged in, from a second address.
has_sessions() {
	[ "$(slabctl connections | grep -c "iscsi .*$TWO:.*disk0")" = "$1" ]
}

# Each is done with its handshake before the next begins, and stays.
test_established() {
	local i sessions=()
	dd if=/dev/zero of="$dir/zeroes" bs=1M count=64 status=none
	check "more connections with an export" nbdcopy --threads=16 --connections=16 "$dir/zeroes" \
		"nbd://$TWO:${NBD##*:}/disk0"
	check "and over TLS" nbdcopy --threads=16 --connections=16 "$dir/zeroes" \
		"nbds://alice@$TWO:${NBD##*:}/disk0?tls-psk-file=$dir/keys.psk"
	for ((i = 1; i <= LIMIT + 2; i++)); do
		iscsi-perf -m 1 -b 1 "iscsi://$TWO:${ISCSI##*:}/$IQN:disk0/0" \
			>/dev/null 2>&1 &
		sessions+=("$!")
		in_time has_sessions "$i" || break
	done
	check "more iSCSI sessions" has_sessions $((LIMIT + 2))
	kill "${sessions[@]}"
	wait "${sessions[@]}"
}

require nbdinfo nbdcopy iscsi-ls iscsi-perf openssl
ip link set lo up
ip address add "$ONE/32" dev lo
ip address add "$TWO/32" dev lo
printf 'alice:%s\n' "$(openssl rand -hex 32)" >"$dir/keys.psk"
chmod 600 "$dir/keys.psk"
echo "limits: {handshakes_per_address: $LIMIT}" >"$dir/slabd.yaml"
start_slabd --config "$dir/slabd.yaml" --insecure --nbd 0.0.0.0:0 --iscsi 0.0.0.0:0 \
	--tls allow --tls-psk "$dir/keys.psk" disk0=memory:64M
test_handshakes
test_established
check "slabd ends well" stop_slabd
finish
