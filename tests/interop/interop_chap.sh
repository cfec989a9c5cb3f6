#!/usr/bin/env bash
# CHAP and access rules as an operator writes them and libiscsi's tools and qemu use them.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

IQN=iqn.2026-11.net.example:db
FRIEND=iqn.1993-08.org.debian:01:9a41

secret() {
	printf '%s\n' "$2" >"$dir/$1"
	chmod 600 "$dir/$1"
}

# config LISTEN TARGET-KEYS: writes the file.
config() {
	cat >"$dir/slabd.yaml" <<-END
		volumes:
		  db: {backend: memory, size: 16M}
		  tmp: {backend: memory, size: 32M}
		nbd: {listen: none}
		iscsi:
		  listen: ["$1"]
		  targets:
		    $IQN:
		      luns: {0: db, 1: tmp}
		$2
		control: none
	END
}

# refused WORDS PATTERN TARGET-KEYS
refused() {
	config 127.0.0.1:0 "$3"
	check_fails "$1" timeout 20 "$SLABD_BUILD/slabd" --config "$dir/slabd.yaml" --check-config
	shows "$1: the reason" "$2"
	shows_not "$1: no secret is shown" "sesame"
}

test_config() {
	local rules='      chap: [{user: alice, secret_file: '$dir'/alice}]'
	refused "a short secret" 'alice: a secret has 12 to 255 bytes' \
		'      chap: [{user: alice, secret: "sesame12345"}]'
	refused "one secret for both ways" "its secret is an initiator's too" \
		'      chap: [{user: alice, secret: "open sesame 1"}]
      mutual_chap: {user: target, secret: "open sesame 1"}'
	for mode in 0640 0604 0620; do
		chmod "$mode" "$dir/alice"
		refused "a secret file with mode $mode" "alice: mode $mode lets others" "$rules"
	done
	chmod 600 "$dir/alice"
	printf 'two lines\nof open sesame' >"$dir/lines" && chmod 600 "$dir/lines"
	refused "two lines" 'one line' '      chap: [{user: alice, secret_file: '"$dir"'/lines}]'
	refused "no such file" 'No such file' '      chap: [{user: alice, secret_file: '"$dir"'/none}]'
	refused "no file" 'not a file' '      chap: [{user: alice, secret_file: '"$dir"'}]'

	config 0.0.0.0:0 ''
	check_fails "beyond loopback without CHAP" timeout 20 "$SLABD_BUILD/slabd" \
		--config "$dir/slabd.yaml" --check-config
	shows "and is told what would help" 'to everyone: add CHAP'
	config 0.0.0.0:0 "$rules"
	check "beyond loopback with CHAP" "$SLABD_BUILD/slabd" --config "$dir/slabd.yaml" --check-config
	config 0.0.0.0:0 "      initiators: [$FRIEND]"
	check "beyond loopback with an access rule" "$SLABD_BUILD/slabd" --config "$dir/slabd.yaml" \
		--check-config
	config 127.0.0.1:0 '      chap: [{user: alice, secret: "open sesame 1"}]
      mutual_chap: {user: target, secret: "open sesame 2"}'
	check "the configuration is printed" "$SLABD_BUILD/slabd" --config "$dir/slabd.yaml" --print-config
	shows_not "without its secrets" 'sesame'
}

# denied WORDS COMMAND...
denied() {
	check_fails "$1" timeout 20 "${@:2}"
	shows "$1: the reason" 'authentication failure|513'
}

start_guarded() {
	local tries=0
	config 127.0.0.1:0 "      chap: [{user: alice, secret_file: $dir/alice}]
      mutual_chap: {user: target, secret_file: $dir/target}
      initiators: [{name: $FRIEND, luns: {0: tmp}, chap: [{user: bob, secret: \"bob's sesame\"}]}]
  discovery_chap: [{user: scout, secret: \"scout's sesame\"}]"
	"$SLABD_BUILD/slabd" --config "$dir/slabd.yaml" 2>"$SLABD_LOG" &
	slabd_pid=$!
	until grep -q '^ready' "$SLABD_LOG"; do
		tries=$((tries + 1))
		if ! slabd_running || [ "$tries" -gt 400 ]; then
			bail "slabd does not start"
		fi
		sleep 0.05
	done
	ISCSI=$(sed -n 's/^iscsi \([^ ]*\).*/\1/p' "$SLABD_LOG")
}

test_clients() {
	check "discovery" iscsi-ls "iscsi://scout%scout's sesame@$ISCSI/"
	shows "finds the target" "$IQN"
	denied "discovery with a wrong secret" iscsi-ls "iscsi://scout%scout's sesama@$ISCSI/"
	denied "discovery by a target's user" iscsi-ls "iscsi://alice%open sesame 12@$ISCSI/"
	denied "discovery by nobody" iscsi-ls "iscsi://$ISCSI/"

	check "iscsi-inq" iscsi-inq "iscsi://alice%open sesame 12@$ISCSI/$IQN/1"
	shows "sees a disk" 'DIRECT_ACCESS'
	check "iscsi-inq, mutual" iscsi-inq \
		"iscsi://alice%open sesame 12@$ISCSI/$IQN/1?target_user=target&target_password=target's sesame"
	denied "a wrong secret" iscsi-inq "iscsi://alice%open sesame 13@$ISCSI/$IQN/1"
	denied "an unknown user" iscsi-inq "iscsi://carol%open sesame 12@$ISCSI/$IQN/1"
	denied "nobody" iscsi-inq "iscsi://$ISCSI/$IQN/1"
	check_fails "a target that is not the one" timeout 20 iscsi-inq \
		"iscsi://alice%open sesame 12@$ISCSI/$IQN/1?target_user=target&target_password=not its sesame"

	check "an initiator with a user of its own" iscsi-inq -i "$FRIEND" \
		"iscsi://bob%bob's sesame@$ISCSI/$IQN/0"
	denied "and no other" iscsi-inq -i "$FRIEND" "iscsi://alice%open sesame 12@$ISCSI/$IQN/0"
	denied "which nobody else has" iscsi-inq "iscsi://bob%bob's sesame@$ISCSI/$IQN/0"
	check_fails "and LUNs of its own" timeout 20 iscsi-inq -i "$FRIEND" \
		"iscsi://bob%bob's sesame@$ISCSI/$IQN/1"
}

test_qemu() {
	local image="json:{\"driver\":\"raw\",\"file\":{\"driver\":\"iscsi\",\"transport\":\"tcp\",
		\"portal\":\"$ISCSI\",\"target\":\"$IQN\",\"lun\":1,\"user\":\"alice\",
		\"password\":\"open sesame 12\",\"header-digest\":\"crc32c\"}}"
	head -c 32M /dev/urandom >"$dir/image"
	check "qemu-img convert" qemu-img convert -n -f raw -O raw "$dir/image" "$image"
	check "qemu-img compare, with digests" qemu-img compare "$dir/image" "$image"
}

test_log() {
	cp "$SLABD_LOG" "$dir/out" && : >"$dir/err"
	shows "refusals are logged" 'not authenticated \(0201\)'
	shows_not "no secret is" 'sesame'
}

secret alice 'open sesame 12'
secret target "target's sesame"
test_config
if have iscsi-ls && have iscsi-inq; then
	start_guarded
	test_clients
	if have qemu-img; then
		test_qemu
	else
		skip "qemu's iSCSI driver with CHAP" "qemu-img is not installed"
	fi
	test_log
	check "slabd ends" stop_slabd
else
	skip "libiscsi's tools with CHAP" "they are not installed"
fi
finish
