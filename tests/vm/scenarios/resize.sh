#!/usr/bin/env bash
# A volume becomes larger under a mounted file system: the initiator is told and looks, the file system
# grows, and nothing of it is lost. An NBD client sees the new size when it attaches.
# shellcheck source=tests/vm/host.sh disable=SC2154 # log_in sets disk
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

at_resize() {
	slabctl resize disk0 "$1"
}

# DEVICE BYTES
guest_has_size() {
	[ "$(blockdev --getsize64 "$1")" = "$2" ]
}

guest() {
	discover
	log_in disk0 "before"
	check "mkfs" mkfs.ext4 -q -F "$disk" || give_up
	check "mount" mount -t ext4 "$disk" /mnt || give_up
	check "verified writes" write_verified /mnt
	check "resize" on_host resize 192M || give_up
	# The unit attention comes with the next command; what it says is for an administrator.
	check "sync" fio --name=nudge --filename="$disk" --rw=read --bs=4k --size=4k --direct=1
	kernel_says 'sd [0-9:]+: Capacity data has changed' "that the capacity has changed"
	check "rescan" iscsiadm -m session --rescan
	check "the disk is larger" wait_for guest_has_size "$disk" 201326592 || give_up
	check "the file system grows" resize2fs "$disk"
	check "everything is there" read_verified /mnt
	check "there is room for more than there was" fio --name=more --directory=/mnt --rw=write --bs=256k \
		--size=80M --verify=crc32c --verify_fatal=1 --minimal --eta=never
	check "unmount" umount /mnt || give_up
	check "fsck" e2fsck -f -n "$disk"
	log_out disk0
	modprobe nbd
	check "nbd-client" nbd-client "$HOST" "$NBD_PORT" /dev/nbd0 -N disk0 || give_up
	check "the size is the new one" guest_has_size /dev/nbd0 201326592
	check "its file system is what iSCSI left" e2fsck -f -n /dev/nbd0
	check "detach" nbd-client -d /dev/nbd0
}

cat >"$dir/slabd.yaml" <<-YAML
	nbd: {listen: "127.0.0.1:0"}
	iscsi: {listen: [{address: "127.0.0.1:0", advertise: "10.0.2.2:0"}]}
YAML
slabd_listens=()
start_slabd --config "$dir/slabd.yaml" disk0=memory:64M
boot_guest
check "slabd ends without a complaint" stop_slabd
finish
