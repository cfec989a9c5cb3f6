#!/usr/bin/env bash
# Linux's iSCSI initiator by open-iscsi: discovery, login without and with digests, CHAP in both
# directions and with a wrong secret; a file system of each kind.
# shellcheck source=tests/vm/host.sh disable=SC2154 # log_in sets disk
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

guest() {
	discover
	check "finds both targets where the guest reaches them" \
		test "$(sort /tmp/out)" = "$HOST:$ISCSI_PORT,1 $IQN:open
$HOST:$ISCSI_PORT,1 $IQN:secret"

	log_in open "as Debian's iscsid.conf has it"
	use_file_system ext4 "$disk"
	log_out open

	check "ask for digests" set_node open 'node.conn[0].iscsi.HeaderDigest=CRC32C' \
		'node.conn[0].iscsi.DataDigest=CRC32C' || give_up
	log_in open "with digests"
	check "both are used" test "$(iscsiadm -m session -P 2 |
		grep -c -E '(Header|Data)Digest: CRC32C')" = 2
	use_file_system xfs "$disk"
	log_out open

	check "no login without CHAP" fails node secret --login
	check "know a wrong secret" set_node secret node.session.auth.authmethod=CHAP \
		node.session.auth.username=alice node.session.auth.password=not-her-secret
	check "no login with it" fails node secret --login
	check "know the right ones" set_node secret node.session.auth.password=her-own-secret \
		node.session.auth.username_in=target node.session.auth.password_in=the-targets-own
	log_in secret "with CHAP, both ways"
	check "verified I/O" fio --name=raw --filename="$disk" --size=8M --rw=randrw --bsrange=512-64k \
		--bs_unaligned=0 --blockalign=512 --direct=1 --ioengine=libaio --iodepth=8 \
		--verify=crc32c --verify_fatal=1 --minimal --eta=never
	log_out secret
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
