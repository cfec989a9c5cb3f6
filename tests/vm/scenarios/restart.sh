#!/usr/bin/env bash
# slabd is killed, and then ended in order, under a mounted file system that is written to, and started
# again on the same port: the initiator logs in anew, sends again what was not answered, and whoever
# writes notices nothing.
# shellcheck source=tests/vm/host.sh disable=SC2154 # log_in sets disk
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

# ADDRESS: the port that initiators know from then on.
start_disk() {
	cat >"$dir/slabd.yaml" <<-YAML
		nbd: {listen: none}
		iscsi: {listen: [{address: "$1", advertise: "10.0.2.2:0"}]}
	YAML
	start_slabd --config "$dir/slabd.yaml" "disk0=file:$dir/disk0.img,size=256M"
}

at_kill() {
	kill -KILL "$slabd_pid"
	wait "$slabd_pid" 2>/dev/null
	start_disk "$ISCSI"
}

at_stop() {
	stop_slabd
	start_disk "$ISCSI"
}

# HOW
guest_survives() {
	write_verified /mnt >/tmp/fio.log 2>&1 &
	writer=$!
	sleep 3
	check "slabd: $1" on_host "$1" || give_up
	check "$1: the writer ends well" wait "$writer"
	check "$1: everything is there" read_verified /mnt
}

guest() {
	discover
	log_in disk0 "before"
	check "mkfs" mkfs.ext4 -q -F "$disk" || give_up
	check "mount" mount -t ext4 "$disk" /mnt || give_up
	guest_survives kill
	guest_survives stop
	check "unmount" umount /mnt || give_up
	check "fsck" e2fsck -f -n "$disk"
	log_out disk0
}

slabd_listens=()
start_disk 127.0.0.1:0
boot_guest
check "slabd ends without a complaint" stop_slabd
finish
