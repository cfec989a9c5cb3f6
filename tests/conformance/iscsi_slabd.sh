#!/bin/bash
# iscsicheck against slabd: memory and file, blocks of 512 and 4096 bytes, with and without CHAP, and over TLS.
# A FAIL or a warn fails this test.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "$0")/lib.sh"
iscsicheck=$build/iscsicheck
unreached=15 # so many checks may run nowhere

# start ARGUMENTS...: sets port.
start() {
	"$build/slabd" --nbd none --control none "$@" 2>"$dir/err" &
	started+=($!)
	for _ in $(seq 200); do
		grep -qs '^ready$' "$dir/err" && break
		sleep 0.05
	done
	port=$(sed -n 's/^iscsi \(tls:\)*127\.0\.0\.1:\([0-9]*\).*/\2/p' "$dir/err" | head -1)
}

# check NAME USER@ LUN PARAMETERS; over TLS with scheme=iscsis
scheme=iscsi
check() {
	number=$((number + 1))
	"$iscsicheck" "$scheme://${2}127.0.0.1:$port/iqn.2026-11.localhost.slabd:$3/0$4" >"$dir/out" 2>&1
	cat "$dir/out" >>"$dir/all"
	local found
	found=$(awk '/^not ok|# warn:/ {for (i = 1; i < NF; i++) if ($i == "-") {print $(i + 1); break}}' \
		"$dir/out" | paste -sd' ')
	if [ -z "$found" ] && grep -q '^1\.\.' "$dir/out"; then
		echo "ok $number - $1: $(tail -1 "$dir/out" | cut -c3-)"
	else
		echo "not ok $number - $1: $found"
		grep -A3 -E '^not ok|# warn:|^iscsicheck' "$dir/out" | sed 's/^/# /'
	fi
}

start --iscsi 127.0.0.1:0 m=memory:64M "f=file:$dir/f.img,size=64M" k=memory:64M,block_size=4K
check "memory" "" m ""
check "file" "" f ""
check "blocks of 4096 bytes" "" k ""

cat >"$dir/chap.yaml" <<YAML
volumes:
  c:
    backend: memory
    size: 64M
iscsi:
  listen: ["127.0.0.1:0"]
  discovery_chap: [{user: alice, secret: secretsecret12}]
  targets:
    iqn.2026-11.localhost.slabd:c:
      luns: {0: c}
      chap: [{user: alice, secret: secretsecret12}]
      mutual_chap: {user: thetarget, secret: targetsecret12}
YAML
chmod 600 "$dir/chap.yaml"
start -c "$dir/chap.yaml"
check "CHAP" "alice%secretsecret12@" c "?target_user=thetarget&target_password=targetsecret12"

openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/ca-key.pem" -out "$dir/ca-cert.pem" -days 2 \
	-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 2>/dev/null
chmod 600 "$dir/ca-key.pem"
start --iscsi tls:127.0.0.1:0 --tls-cert "$dir/ca-cert.pem" --tls-key "$dir/ca-key.pem" t=memory:64M
scheme=iscsis
check "TLS" "" t "?tls-certificates=$dir"

awk '/^(not )?ok / {for (i = 1; i < NF; i++) if ($i == "-") {id = $(i + 1); break}
	seen[id] = 1; if (!/# SKIP/) ran[id] = 1}
	END {for (id in seen) if (!(id in ran)) print id}' "$dir/all" | sort >"$dir/nowhere"
number=$((number + 1))
count=$(wc -l <"$dir/nowhere")
if [ "$count" -le $unreached ]; then
	echo "ok $number - $count checks run nowhere: $(paste -sd' ' "$dir/nowhere")"
else
	echo "not ok $number - $count checks run nowhere: $(paste -sd' ' "$dir/nowhere")"
fi
echo "1..$number"
