#!/usr/bin/env bash
# Linux's iSCSI initiator by open-iscsi: discovery, login without and with digests, CHAP in both
# directions and with a wrong secret; a file system of each kind.
# shellcheck source=tests/vm/host.sh
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

at_unused() {
	slabctl --json connections | jq -e '.connections | length == 0'
}

# TARGET ARGUMENT...
guest_node() {
	target=$1
	shift
	iscsiadm -m node -T "$IQN:$target" -p "$HOST:$ISCSI_PORT" "$@"
}

# TARGET NAME=VALUE...
guest_set() {
	target=$1
	shift
	for setting; do
		guest_node "$target" -o update -n "${setting%%=*}" -v "${setting#*=}" || return
	done
}

# TARGET WORDS
guest_login() {
	check "login $2" guest_node "$1" --login || give_up
	check "its disk is there" wait_for disk_is_there "$HOST:$ISCSI_PORT" || give_up
	disk=$(disk_of "$HOST:$ISCSI_PORT")
}

# TARGET
guest_logout() {
	check "logout" guest_node "$1" --logout
	check "slabd has no connection left" wait_for on_host unused
}

guest() {
	start_iscsid
	check "discovery" iscsiadm -m discovery -t sendtargets -p "$HOST:$ISCSI_PORT" || give_up
	check "finds both targets where the guest reaches them" \
		test "$(sort /tmp/out)" = "$HOST:$ISCSI_PORT,1 $IQN:open
$HOST:$ISCSI_PORT,1 $IQN:secret"

	guest_login open "as Debian's iscsid.conf has it"
	use_file_system ext4 "$disk"
	guest_logout open

	check "ask for digests" guest_set open 'node.conn[0].iscsi.HeaderDigest=CRC32C' \
		'node.conn[0].iscsi.DataDigest=CRC32C' || give_up
	guest_login open "with digests"
	check "both are used" test "$(iscsiadm -m session -P 2 |
		grep -c -E '(Header|Data)Digest: CRC32C')" = 2
	use_file_system xfs "$disk"
	guest_logout open

	check "no login without CHAP" guest_fails guest_node secret --login
	check "know a wrong secret" guest_set secret node.session.auth.authmethod=CHAP \
		node.session.auth.username=alice node.session.auth.password=not-her-secret
	check "no login with it" guest_fails guest_node secret --login
	check "know the right ones" guest_set secret node.session.auth.password=her-own-secret \
		node.session.auth.username_in=target node.session.auth.password_in=the-targets-own
	guest_login secret "with CHAP, both ways"
	check "verified I/O" fio --name=raw --filename="$disk" --size=8M --rw=randrw --bsrange=512-64k \
		--bs_unaligned=0 --blockalign=512 --direct=1 --ioengine=libaio --iodepth=8 \
		--verify=crc32c --verify_fatal=1 --minimal --eta=never
	guest_logout secret
}

guest_fails() {
	! "$@"
}

cat >"$dir/slabd.yaml" <<-YAML
	volumes:
	  disk0: {backend: memory, size: 512M}
	  disk1: {backend: memory, size: 64M}
	nbd: {listen: none}
	iscsi:
	  listen: [{address: "127.0.0.1:0", advertise: "10.0.2.2:0"}]
	  targets:
	    $IQN:open: {luns: {0: disk0}}
	    $IQN:secret:
	      luns: {0: disk1}
	      chap: [{user: alice, secret: her-own-secret}]
	      mutual_chap: {user: target, secret: the-targets-own}
YAML
slabd_listens=()
start_slabd --config "$dir/slabd.yaml"
boot_guest
check "slabd ends without a complaint" stop_slabd
finish
