#!/usr/bin/env bash
# nbd-client over TLS, both sides with certificates; without one it does not get in.
# shellcheck source=tests/vm/host.sh
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

guest() {
	modprobe nbd
	check "not without TLS" fails nbd-client "$HOST" "$NBD_PORT" /dev/nbd0 -N disk0
	use_nbd ext4 -certfile /own.pem -keyfile /own.key -cacertfile /own.pem -tlshostname slabd.example
	use_nbd xfs -C 2 -certfile /own.pem -keyfile /own.key -cacertfile /own.pem -tlshostname slabd.example
}

# One certificate is authority, server and client.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$extra/own.key" \
	-subj /CN=slabd.example -addext subjectAltName=DNS:slabd.example -days 2 \
	-out "$extra/own.pem" 2>"$dir/err" || bail "openssl made no certificate"
chmod 600 "$extra/own.key"
start_slabd --tls-cert "$extra/own.pem" --tls-key "$extra/own.key" --tls-ca "$extra/own.pem" disk0=memory:512M
boot_guest
check "slabd ends without a complaint" stop_slabd
finish
