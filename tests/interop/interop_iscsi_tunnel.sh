#!/usr/bin/env bash
# iSCSI over TLS for clients that speak none: libiscsi's tools and qemu through a plain tunnel (socat), with CHAP.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

TARGET=iqn.2026-11.net.example:db
tunnel_pid=

# make_config: a TLS portal, and a certificate for it.
make_config() {
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 \
		-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null
	chmod 600 "$dir/key.pem"
	cat >"$dir/slabd.yaml" <<-END
		volumes:
		  db: {backend: memory, size: 32M}
		nbd: {listen: none}
		iscsi:
		  listen: ["tls:127.0.0.1:0"]
		  targets:
		    $TARGET:
		      luns: {0: db}
		      chap: [{user: alice, secret: "open sesame 12"}]
		      mutual_chap: {user: target, secret: "target's sesame"}
		tls: {certificate: $dir/cert.pem, key: $dir/key.pem}
		control: none
	END
	chmod 600 "$dir/slabd.yaml"
}

start_guarded() {
	local tries=0
	"$SLABD_BUILD/slabd" --config "$dir/slabd.yaml" 2>"$SLABD_LOG" &
	slabd_pid=$!
	until grep -qs '^ready' "$SLABD_LOG"; do
		tries=$((tries + 1))
		if ! slabd_running || [ "$tries" -gt 400 ]; then
			bail "slabd does not start"
		fi
		sleep 0.05
	done
	ISCSI=$(sed -n 's/^iscsi tls:\([^ ]*\).*/\1/p' "$SLABD_LOG")
}

# Sets TUNNEL, where clients connect in the clear; socat says which port it got.
start_tunnel() {
	local tries=0
	socat -d -d "TCP-LISTEN:0,bind=127.0.0.1,fork,reuseaddr" \
		"OPENSSL:$ISCSI,cafile=$dir/cert.pem,commonname=localhost" 2>"$dir/socat.log" &
	tunnel_pid=$!
	until grep -qs 'listening on' "$dir/socat.log"; do
		tries=$((tries + 1))
		[ "$tries" -le 400 ] || bail "socat does not listen"
		sleep 0.05
	done
	TUNNEL=127.0.0.1:$(sed -nE 's/.*listening on .*:([0-9]+)$/\1/p' "$dir/socat.log" | head -1)
}

test_clients() {
	local user="alice%open sesame 12"
	check "discovery" iscsi-ls "iscsi://$TUNNEL/"
	shows "finds the target" "$TARGET"
	check "iscsi-inq with CHAP" iscsi-inq "iscsi://$user@$TUNNEL/$TARGET/0"
	shows "sees a disk" 'DIRECT_ACCESS'
	check "iscsi-inq with mutual CHAP" iscsi-inq \
		"iscsi://$user@$TUNNEL/$TARGET/0?target_user=target&target_password=target's sesame"
	check "iscsi-readcapacity16" iscsi-readcapacity16 "iscsi://$user@$TUNNEL/$TARGET/0"
	shows "knows the size" 'Total size:33554432'
	check "iscsi-perf" iscsi-perf -t 1 "iscsi://$user@$TUNNEL/$TARGET/0"
	check_fails "a wrong secret" timeout 20 iscsi-inq "iscsi://alice%open sesame 13@$TUNNEL/$TARGET/0"
	check_fails "in the clear without the tunnel" timeout 20 iscsi-inq "iscsi://$user@$ISCSI/$TARGET/0"
}

test_qemu() {
	local image="json:{\"driver\":\"raw\",\"file\":{\"driver\":\"iscsi\",\"transport\":\"tcp\",
		\"portal\":\"$TUNNEL\",\"target\":\"$TARGET\",\"lun\":0,\"user\":\"alice\",
		\"password\":\"open sesame 12\",\"header-digest\":\"crc32c\"}}"
	head -c 32M /dev/urandom >"$dir/image"
	check "qemu-img convert" qemu-img convert -n -f raw -O raw "$dir/image" "$image"
	check "qemu-img compare" qemu-img compare "$dir/image" "$image"
	check "qemu-io writes" qemu-io -f raw -c 'write -P 0x5a 1M 64k' -c 'read -P 0x5a 1M 64k' "$image"
	check_fails "and what it wrote differs" qemu-img compare "$dir/image" "$image"
}

test_tester() {
	check "iscsicheck speaks TLS itself" "$SLABD_BUILD/iscsicheck" --only login,chap,digests \
		"iscsis://alice%open sesame 12@$ISCSI/$TARGET/0?tls-certificates=$dir/pki"
	shows_not "with no FAIL" '^not ok'
}

require socat iscsi-ls iscsi-inq iscsi-perf iscsi-readcapacity16 openssl
make_config
mkdir "$dir/pki" && cp "$dir/cert.pem" "$dir/pki/ca-cert.pem"
start_guarded
start_tunnel
test_clients
if have qemu-img && have qemu-io; then
	test_qemu
else
	skip "qemu's iSCSI driver through the tunnel" "qemu-img is not installed"
fi
test_tester
kill "$tunnel_pid"
wait "$tunnel_pid" 2>/dev/null
check "slabd ends" stop_slabd
finish
