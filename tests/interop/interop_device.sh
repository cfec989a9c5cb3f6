#!/usr/bin/env bash
# A raw loop device over ext4, served by both protocols at once; who else may not have it; it grows and
# goes away. Then what may happen to a file: truncated under us, resized, no room behind it.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

PATH=$PATH:/usr/sbin:/sbin
require losetup qemu-io fio mkfs.ext4 jq
[ "$(id -u)" = 0 ] || skip_all "only root has loop devices"

loop='' other='' bridge='' tmpfs=''
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	local rc=$?
	[ -z "$bridge" ] || kill -KILL "$bridge" 2>/dev/null
	if [ -n "$slabd_pid" ]; then
		kill -KILL "$slabd_pid" 2>/dev/null
		wait "$slabd_pid" 2>/dev/null
		slabd_pid=
	fi
	mountpoint -q "$dir/m" && umount "$dir/m"
	[ -z "$tmpfs" ] || umount "$tmpfs"
	[ -z "$loop" ] || losetup -d "$loop"
	[ -z "$other" ] || losetup -d "$other"
	(exit "$rc")
	end_test
}
trap clean_up EXIT

# until_true COMMAND...: within 20 s.
until_true() {
	local tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ "$tries" -lt 200 ] || return 1
		sleep 0.1
	done
}

# volume NAME MEMBER: of slabctl volumes
volume() {
	slabctl --json volumes | jq -r ".volumes[] | select(.name == \"$1\") | .$2"
}

volume_is() {
	[ "$(volume "$1" "$2")" = "$3" ]
}

# io URL COMMAND...: by qemu-io, which says errors in words
io() {
	local url=$1 word
	local -a words=()
	shift
	for word; do
		words+=(-c "$word")
	done
	timeout 60 qemu-io -f raw "${words[@]}" "$url"
}

truncate -s 192M "$dir/back"
loop=$(losetup -f --show "$dir/back" 2>"$dir/err") || {
	loop=
	skip_all "no loop device: $(head -n 1 "$dir/err")"
}
truncate -s 32M "$dir/small"
other=$(losetup -f --show "$dir/small") || bail "no second loop device"

# Who else has it.
mkdir "$dir/m"
{ mkfs.ext4 -q -F "$other" && mount "$other" "$dir/m"; } || bail "cannot mount $other"
check_fails "a mounted device is refused" "$SLABD_BUILD/slabd" --nbd "unix:$dir/x" --iscsi none \
	--control none "db=device:$other"
shows "with where it is mounted" "slabd: volume db: $other is mounted on $dir/m: refusing to serve it"
umount "$dir/m"
check_fails "a file is not a device" "$SLABD_BUILD/slabd" --nbd "unix:$dir/x" --iscsi none \
	--control none "db=device:$dir/back"
shows "and what to say instead" 'is a file, not a block device \(say file: instead of device:\)'
check_fails "a device is not a file" "$SLABD_BUILD/slabd" --nbd "unix:$dir/x" --iscsi none \
	--control none "db=file:$other"
shows "and what to say instead" 'is a block device, not a file \(say device: instead of file:\)'

start_slabd "db=device:$loop" scratch=memory:64M
nbd=nbd://$NBD/db iscsi=iscsi://$ISCSI/$IQN:db/0
check_fails "a device that is served is refused" "$SLABD_BUILD/slabd" --nbd "unix:$dir/x" --iscsi none \
	--control none "db=device:$loop"
shows "with who serves it" "is in use by .*slabd.*, pid $slabd_pid"
check "slabctl status" slabctl status
shows "slabctl status says how devices are read" '^files, devices +(io_uring|workers)'

# Both protocols at once, each on its half: fio speaks NBD only, so qemu-nbd stands between.
has_iscsi=yes
if ! have qemu-nbd || { ! qemu-img info "$iscsi" >"$dir/out" 2>&1 && grep -qi 'unknown protocol' "$dir/out"; }; then
	has_iscsi=
fi
verify() { # NAME URI OFFSET
	(cd "$dir" && timeout 200 fio --name="$1" --ioengine=nbd --uri="$2" --rw=randrw --bsrange=512-64k \
		--ba=512 --offset="$3" --size=32M --io_size=48M --iodepth=16 --verify=crc32c --verify_fatal=1 \
		--fsync=64 --random_generator=tausworthe64 --output-format=terse --output="$dir/$1.out") \
		>"$dir/$1.err" 2>&1
}
if ! fio --enghelp 2>/dev/null | grep -q nbd; then
	skip "verified fio by both protocols" "this fio was built without its NBD engine"
elif [ -z "$has_iscsi" ]; then
	check "verified fio over NBD" verify nbd "$nbd" 0
	skip "verified fio over iSCSI" "qemu-nbd or qemu's iSCSI driver is not installed"
else
	qemu-nbd -t -k "$dir/bridge" -f raw "$iscsi" >"$dir/bridge.log" 2>&1 &
	bridge=$!
	until_true test -S "$dir/bridge"
	verify by-iscsi "nbd+unix:///?socket=$dir/bridge" 64M &
	job=$!
	check "verified fio over NBD, while" verify by-nbd "$nbd" 0 || cat "$dir/by-nbd.err"
	check "verified fio over iSCSI" wait "$job" || cat "$dir/by-iscsi.err"
	kill "$bridge"
	wait "$bridge" 2>/dev/null
	bridge=
fi

# It grows: noticed within seconds, and its new end can be written.
truncate -s 256M "$dir/back"
losetup -c "$loop"
check "a device that grows is followed" until_true volume_is db size $((256 << 20))
check "its new end is there" io "$nbd" 'write -P 7 255M 64k' 'read -P 7 255M 64k' flush

# It goes away: nothing is behind it any more.
truncate -s 0 "$dir/back"
losetup -c "$loop"
check "a device that is gone is FAILED" until_true volume_is db state failed
check_fails "its clients get errors" io "$nbd" 'read 0 4k'
check "the others go on" io "nbd://$NBD/scratch" 'write -P 3 0 1M' 'read -P 3 0 1M' flush
truncate -s 256M "$dir/back"
check_fails "clear is refused while it is gone" slabctl clear db
losetup -c "$loop"
check "clear takes it up again" slabctl clear db
check "and it works" io "$nbd" 'write -P 9 1M 64k' 'read -P 9 1M 64k' flush
check "slabd ends well" stop_slabd

# A file: resized under a client, truncated by somebody else.
mkdir "$dir/full"
if mount -t tmpfs -o size=16m none "$dir/full" 2>/dev/null; then
	tmpfs=$dir/full
fi
start_slabd "web=file:$dir/web.img,size=64M" "direct=file:$dir/direct.img,size=64M,direct=auto" \
	${tmpfs:+"thin=file:$tmpfs/thin.img,size=64M"}
check "slabctl resize web 96M" slabctl resize web 96M
check "the new end is served" io "nbd://$NBD/web" 'write -P 5 95M 64k' 'read -P 5 95M 64k'
check_fails "less is refused" slabctl resize web 32M
shows "and --force named" 'would be lost: --force does it'
check "slabctl resize --force" slabctl resize web 32M --force
check "the file is shorter" test "$(stat -c %s "$dir/web.img")" = $((32 << 20))
check_fails "what lay above is gone" io "nbd://$NBD/web" 'read 32M 4k'
check_fails "a size that is no multiple" slabctl resize web 1000
shows "is refused with the unit" 'size 1000 is not a multiple of 512'

check "unaligned writes work past the page cache" \
	io "nbd://$NBD/direct" 'write -P 1 0 8k' 'write -P 2 100 1000' 'read -P 1 0 100' \
	'read -P 2 100 1000' 'read -P 1 1100 7092'

io "nbd://$NBD/web" 'write -P 6 0 1M' flush >/dev/null
truncate -s 512k "$dir/web.img"
check_fails "a truncated file is an error past its end" io "nbd://$NBD/web" 'read 16M 4k'
check_fails "and for writes, which would hide it" io "nbd://$NBD/web" 'write 16M 4k'
check "it was not made longer" test "$(stat -c %s "$dir/web.img")" = $((512 << 10))
check "the log says so" grep -q 'web.img is shorter than the .* bytes it had: somebody truncated it' "$SLABD_LOG"
check "what is left of it is served" io "nbd://$NBD/web" 'read -P 6 0 256k'
check "the others go on" io "nbd://$NBD/direct" 'write -P 3 0 1M' 'read -P 3 0 1M' flush

# A disk that hangs stalls its own volumes: everything in the kernel, past the page cache and in it.
if have fsfreeze && mount "$other" "$dir/m"; then
	truncate -s 16M "$dir/m/hung" "$dir/m/cached"
	slabctl add "hung=file:$dir/m/hung,direct=auto"
	slabctl add "hangs=file:$dir/m/cached"
	check "both work" io "nbd://$NBD/hung" 'write -P 1 0 64k' flush
	fsfreeze -f "$dir/m"
	hanging=()
	for name in hung hangs; do
		for _ in 1 2 3 4; do
			io "nbd://$NBD/$name" 'aio_write -P 2 0 64k' 'aio_write -P 2 64k 64k' \
				'aio_write -P 2 128k 64k' 'write -P 2 1M 64k' flush >/dev/null 2>&1 &
			hanging+=($!)
		done
	done
	sleep 1
	check "a disk hangs: the others go on past the page cache" io "nbd://$NBD/direct" \
		'write -P 4 0 1M' 'write -f -P 5 1M 64k' flush 'read -P 4 0 1M'
	check "and in it" io "nbd://$NBD/web" 'read -P 6 0 256k'
	check "slabctl answers" slabctl connections
	fsfreeze -u "$dir/m"
	for job in "${hanging[@]}"; do
		wait "$job" || hung_failed=yes
	done
	check "what hung is carried out when the disk is back" test -z "${hung_failed:-}"
	slabctl remove hung --force
	slabctl remove hangs --force
	umount "$dir/m"
else
	skip "a disk that hangs" "no fsfreeze"
fi

# No room: the right errno, nothing latched, room again after a discard.
if [ -n "$tmpfs" ]; then
	check_fails "a full file system, over NBD" io "nbd://$NBD/thin" 'write -P 4 0 32M'
	shows "is ENOSPC" 'no space left on device'
	if [ -n "$has_iscsi" ]; then
		check_fails "and over iSCSI" io "iscsi://$ISCSI/$IQN:thin/0" 'write -P 4 0 32M'
		shows "is 27/07, which qemu calls" 'no space left on device'
	fi
	check "the volume has not failed" volume_is thin state ok
	check "a discard makes room" io "nbd://$NBD/thin" 'discard 0 32M' 'write -P 8 0 4M' 'read -P 8 0 4M' flush
fi
check "slabd ends well" stop_slabd

# Without io_uring: the same by workers, and it is said once.
SLABD_NO_IO_URING=1
export SLABD_NO_IO_URING
start_slabd "db=device:$loop" "direct=file:$dir/direct.img,direct=auto"
unset SLABD_NO_IO_URING
check "slabctl status" slabctl status
shows "status says that workers do it, and why" '^files, devices +workers \((SLABD_NO_IO_URING is set|built without io_uring)\)'
check "the log says it once" test "$(grep -c ' · workers (' "$SLABD_LOG")" = 1
check "the device works" io "nbd://$NBD/db" 'write -P 2 5M 256k' 'write -f -P 3 6M 4k' flush 'read -P 2 5M 256k'
check "the file works" io "nbd://$NBD/direct" 'write -P 2 5M 256k' 'write -f -P 3 6M 4k' flush 'read -P 2 5M 256k'
check "slabd ends well" stop_slabd
finish
