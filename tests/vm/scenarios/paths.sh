#!/usr/bin/env bash
# One disk by two portals: the initiator sees one identifier and makes one disk of both paths, writes
# through both at once, and goes on when one of them fails and comes back.
# shellcheck source=tests/vm/host.sh
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

at_sessions() {
	slabctl --json connections | jq -e '.connections | length == 2'
}

# The two disks, when both are there.
guest_disks() {
	set -- /dev/sd?
	[ $# = 2 ] && [ -b "$1" ] && [ -b "$2" ] && echo "$@"
}

# DISK STATE: as the kernel's SCSI layer has it.
guest_set_state() {
	echo "$2" >"/sys/block/${1#/dev/}/device/state"
}

# FIELD OF dmsetup's status: A active, F failed.
guest_paths_are() {
	dmsetup status both | tee /dev/stderr | grep -q -E " [0-9]+:[0-9]+ $1 .* [0-9]+:[0-9]+ $2 "
}

guest() {
	modprobe -a dm_multipath dm_round_robin
	discover
	check "two portals" test "$(wc -l </tmp/out)" = 2
	check "login by both" iscsiadm -m node --login || give_up
	check "two disks" wait_for guest_disks || give_up
	check "slabd has two sessions" on_host sessions
	# shellcheck disable=SC2046 # words
	set -- $(guest_disks)
	first=$1 second=$2
	check "they are one by their identifier" cmp "/sys/block/${first#/dev/}/device/wwid" \
		"/sys/block/${second#/dev/}/device/wwid"
	check "a disk of both" dmsetup create both --table "0 $(blockdev --getsz "$first") multipath \
		1 queue_if_no_path 0 1 1 round-robin 0 2 1 $first 1 $second 1" || give_up
	check "dmsetup makes its node" dmsetup mknodes
	check "mkfs" mkfs.ext4 -q -F /dev/mapper/both || give_up
	check "mount" mount -t ext4 /dev/mapper/both /mnt || give_up
	check "verified writes by both" write_verified /mnt
	check "both are used" guest_paths_are A A

	write_verified /mnt >/tmp/fio.log 2>&1 &
	writer=$!
	sleep 2
	guest_set_state "$first" offline
	check "a path fails" wait_for guest_paths_are F A
	check "the writer ends well" wait "$writer"
	kernel_says 'sd [0-9:]+: rejecting I/O to offline device' "why"
	kernel_says 'device-mapper: multipath: [0-9:]+: Failing path' "that it failed"
	guest_set_state "$first" running
	check "it comes back" dmsetup message both 0 reinstate_path "$first"
	kernel_says 'device-mapper: multipath: [0-9:]+: Reinstating path' "so"
	check "everything is there" read_verified /mnt
	check "both are used again" guest_paths_are A A
	check "unmount" umount /mnt || give_up
	check "fsck by the first path" e2fsck -f -n "$first"
	check "fsck by the second path" e2fsck -f -n "$second"
	check "remove the disk of both" dmsetup remove both
	check "logout" iscsiadm -m node --logout
	check "slabd has no connection left" wait_for on_host unused
}

cat >"$dir/slabd.yaml" <<-YAML
	nbd: {listen: none}
	iscsi:
	  listen:
	    - {address: "127.0.0.1:0", advertise: "10.0.2.2:0", group: 1}
	    - {address: "127.0.0.1:0", advertise: "10.0.2.2:0", group: 2}
YAML
slabd_listens=()
start_slabd --config "$dir/slabd.yaml" disk0=memory:256M
boot_guest
check "slabd ends without a complaint" stop_slabd
finish
