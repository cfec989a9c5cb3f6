#!/usr/bin/env bash
# What a volume may not be made of, each with its reason: what others use, whole or in part, and images that
# do not fit.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

PATH=$PATH:/usr/sbin:/sbin

loop=''
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	local rc=$?
	if [ -n "$slabd_pid" ]; then
		kill -KILL "$slabd_pid" 2>/dev/null
		wait "$slabd_pid" 2>/dev/null
		slabd_pid=
	fi
	if [ -n "$loop" ]; then
		mountpoint -q "$dir/m" && umount "$dir/m"
		grep -q "^${loop}p2 " /proc/swaps && swapoff "${loop}p2"
		losetup -d "$loop"
	fi
	(exit "$rc")
	end_test
}
trap clean_up EXIT

# refuses WHAT SPEC REASON: slabd does not start, and says why
refuses() {
	check_fails "$1 is refused" "$SLABD_BUILD/slabd" --nbd "unix:$dir/x" --iscsi none --control none "$2"
	shows "with the reason" "$3"
}

# serves WHAT SPEC
serves() {
	start_slabd "$2"
	check "$1 is served" slabctl volumes
	stop_slabd
}

truncate -s 1000 "$dir/odd"
refuses "an image that ends within a block" "web=file:$dir/odd" \
	"web: $dir/odd has 1000 bytes, not a multiple of the block size 512 \(the next is 1024\)"
truncate -s 6656 "$dir/odd4k"
refuses "and within one of 4096 bytes" "web=file:$dir/odd4k,block_size=4096" \
	'has 6656 bytes, not a multiple of the block size 4096 \(the next is 8192\)'
ln -s b "$dir/a"
ln -s a "$dir/b"
refuses "a loop of symbolic links" "web=file:$dir/a" "web: $dir/a: Too many levels of symbolic links"
refuses "as a device too" "web=device:$dir/a" "web: $dir/a: Too many levels of symbolic links"
truncate -s 1M "$dir/served"
start_slabd "web=file:$dir/served"
refuses "a file that another slabd serves" "web=file:$dir/served" 'served: in use by another volume or process'
refuses "and for reading" "web=file:$dir/served,read_only" 'served: in use by another volume or process'
stop_slabd

# A disk of two partitions, told to the kernel by hand: it may be built without the tables.
if [ "$(id -u)" != 0 ] || ! have losetup || ! have addpart; then
	skip "devices" "they need root, losetup and addpart"
	finish
fi
truncate -s 64M "$dir/disk"
loop=$(losetup -f --show "$dir/disk" 2>"$dir/err") || {
	loop=
	skip "devices" "no loop device: $(head -n 1 "$dir/err")"
	finish
}
if ! addpart "$loop" 1 2048 32768 || ! addpart "$loop" 2 34816 32768 || [ ! -b "${loop}p2" ]; then
	skip "devices" "this kernel's loop devices have no partitions"
	finish
fi

start_slabd "db=device:${loop}p1"
refuses "a device that another slabd serves" "db=device:${loop}p1" "p1 is in use by .*slabd.*, pid $slabd_pid"
refuses "the disk of a partition that is served" "db=device:$loop" \
	"$loop has a partition, ${loop#/dev/}p1, that is in use by .*slabd.*, pid $slabd_pid"
stop_slabd
start_slabd "db=device:$loop"
refuses "a partition of a disk that is served" "db=device:${loop}p2" \
	"p2 is part of a disk that is in use by .*slabd.*, pid $slabd_pid"
stop_slabd

mkdir "$dir/m"
if have mkfs.ext4 && mkfs.ext4 -q "${loop}p1" && mount "${loop}p1" "$dir/m"; then
	refuses "a mounted partition" "db=device:${loop}p1" "p1 is mounted on $dir/m: refusing to serve it"
	refuses "a disk with a mounted partition" "db=device:$loop" \
		"has a partition, ${loop#/dev/}p1, that is mounted on $dir/m: refusing to serve it"
	serves "the partition beside it" "db=device:${loop}p2"
	umount "$dir/m"
else
	skip "mounted partitions" "no ext4 can be made and mounted here"
fi
if have mkswap && mkswap -q "${loop}p2" 2>/dev/null && swapon "${loop}p2" 2>/dev/null; then
	refuses "swap" "db=device:${loop}p2" 'p2 is used as swap: refusing to serve it'
	refuses "a disk with swap on it" "db=device:$loop" \
		"has a partition, ${loop#/dev/}p2, that is used as swap: refusing to serve it"
	serves "the partition beside it" "db=device:${loop}p1"
	swapoff "${loop}p2"
else
	skip "swap" "no swap can be made here"
fi
if have mkfs.ext4 && mkfs.ext4 -q -F "$loop" && mount "$loop" "$dir/m"; then
	refuses "a partition of a mounted disk" "db=device:${loop}p1" \
		"p1 is part of a disk that is mounted on $dir/m: refusing to serve it"
	umount "$dir/m"
else
	skip "a mounted disk" "no ext4 can be made and mounted here"
fi
serves "the disk, when nobody has it" "db=device:$loop"
finish
