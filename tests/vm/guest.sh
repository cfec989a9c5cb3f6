# What the guest's side of a scenario is written with. Each line of the second serial port is read by
# tests/vm/run: results in TAP's words, and wishes for the host's side.
# shellcheck shell=sh disable=SC2034 # scenarios use the rest

# The host's loopback as qemu's user-mode network shows it.
HOST=10.0.2.2

say() {
	echo "$*" >/dev/ttyS1
}

# check WORDS COMMAND...: the command must succeed; its output is shown when it does not, and is left in
# /tmp/out.
check() {
	words=$1 rc=0
	shift
	"$@" >/tmp/out 2>&1 </dev/null || rc=$?
	if [ "$rc" = 0 ]; then
		say "ok $words"
		return
	fi
	say "not ok $words"
	say "# exit status $rc of: $*"
	tail -n 30 /tmp/out | sed 's/^/# /' >/dev/ttyS1
	return 1
}

# give_up: what follows makes no sense without what has just failed.
give_up() {
	say "# the scenario ends here"
	kernel_log_is_clean
	say end
	poweroff -f
}

# on_host NAME [ARGUMENT...]: runs at_NAME of the scenario on the host; its exit status and the last line
# that it printed.
on_host() {
	say "host $*"
	IFS= read -r reply </dev/ttyS1
	echo "${reply#* }"
	return "${reply%% *}"
}

# The log since the scenario began, from warnings up, but for lines that kernel_log_allowed explains. A
# trace, from its cut to its end, is one line to this.
kernel_log_is_clean() {
	dmesg -l emerg,alert,crit,err,warn | awk '
		FNR == NR { allowed = allowed bar "(" $0 ")"; bar = "|"; next }
		{ entry = inside ? entry "\n" $0 : $0 }
		/\[ cut here \]/ { inside = 1 }
		/\[ end trace / { inside = 0 }
		!inside && entry !~ allowed { print entry }
		END { if (inside) print entry }' /kernel_log_allowed - >/tmp/complaints
	check "the kernel has no complaint" show_if_any /tmp/complaints
}

# kernel_says PATTERN WORDS: and it is no complaint.
kernel_says() {
	check "the kernel says $2" wait_for sh -c "dmesg | grep -E '$1'"
	echo "$1" >>/kernel_log_allowed
}

show_if_any() {
	cat "$1"
	[ ! -s "$1" ]
}

fails() {
	! "$@"
}

# wait_for COMMAND...: it succeeds within 60 s.
wait_for() {
	tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		if [ "$tries" -gt 300 ]; then
			echo "still not after 60 s: $*"
			return 1
		fi
		sleep 0.2
	done
}

# write_verified DIRECTORY: files full of patterns that say where they belong, some by direct I/O, some
# synced, some through the page cache; read back at once.
write_verified() {
	fio --directory="$1" --size=8M --verify=crc32c --verify_fatal=1 --randseed="$SEED" \
		--minimal --eta=never \
		--name=direct --rw=randrw --bs=4k --direct=1 --ioengine=libaio --iodepth=16 \
		--name=synced --rw=randwrite --bsrange=1k-64k --fsync=16 --ioengine=psync \
		--name=cached --rw=write --bs=256k --ioengine=psync --end_fsync=1
}

# read_verified DIRECTORY: what write_verified() left there, and nothing of it from a cache.
read_verified() {
	fio --directory="$1" --size=8M --verify=crc32c --verify_fatal=1 --randseed="$SEED" \
		--verify_only --minimal --eta=never --direct=1 \
		--name=direct --rw=randrw --bs=4k --ioengine=libaio --iodepth=16 \
		--name=cached --rw=write --bs=256k --ioengine=psync
}

# use_file_system KIND DEVICE: from mkfs to fsck.
use_file_system() {
	case $1 in
	ext4) check "ext4: mkfs" mkfs.ext4 -q -F "$2" || give_up ;;
	xfs) check "xfs: mkfs" mkfs.xfs -q -f "$2" || give_up ;;
	esac
	check "$1: mount" mount -t "$1" "$2" /mnt || give_up
	check "$1: verified writes" write_verified /mnt
	check "$1: unmount" umount /mnt || give_up
	check "$1: mount again" mount -t "$1" "$2" /mnt || give_up
	check "$1: everything is there" read_verified /mnt
	check "$1: remove" rm -r /mnt/direct.0.0 /mnt/synced.0.0 /mnt/cached.0.0
	check "$1: trim" fstrim -v /mnt
	check "$1: last unmount" umount /mnt || give_up
	case $1 in
	ext4) check "ext4: fsck" e2fsck -f -n "$2" ;;
	xfs) check "xfs: xfs_repair -n" xfs_repair -n "$2" ;;
	esac
}

# use_nbd KIND OPTION...: the volume disk0, of 512 MiB, by nbd-client.
use_nbd() {
	kind=$1
	shift
	modprobe nbd
	check "nbd-client $*" nbd-client "$HOST" "$NBD_PORT" /dev/nbd0 -N disk0 "$@" || give_up
	check "the size is the volume's" test "$(blockdev --getsize64 /dev/nbd0)" = 536870912
	use_file_system "$kind" /dev/nbd0
	check "detach" nbd-client -d /dev/nbd0
	check "slabd has no connection left" wait_for on_host unused
}

# --- iSCSI: the functions take what follows IQN: in a target's name

# discover: by an iscsid that it starts.
discover() {
	echo "InitiatorName=iqn.1993-08.org.debian:01:guest" >/etc/iscsi/initiatorname.iscsi
	modprobe -a iscsi_tcp sd_mod
	iscsid -f >/tmp/iscsid.log 2>&1 &
	check "iscsid starts" wait_for iscsiadm -m iface || give_up
	check "discovery" iscsiadm -m discovery -t sendtargets -p "$HOST:$ISCSI_PORT" || give_up
}

# node TARGET ARGUMENT...
node() {
	target=$1
	shift
	iscsiadm -m node -T "$IQN:$target" -p "$HOST:$ISCSI_PORT" "$@"
}

# set_node TARGET NAME=VALUE...
set_node() {
	target=$1
	shift
	for setting; do
		node "$target" -o update -n "${setting%%=*}" -v "${setting#*=}" || return
	done
}

# disk_of PORTAL: the session's one disk, /dev/sdX.
disk_of() {
	iscsiadm -m session -P 3 | awk -v portal="$1," '
		/Current Portal:/ { here = index($3, portal) == 1 }
		here && /Attached scsi disk/ { print "/dev/" $4; exit }'
}

disk_is_there() {
	[ -b "$(disk_of "$1")" ]
}

# log_in TARGET WORDS: $disk is its disk then.
log_in() {
	check "login $2" node "$1" --login || give_up
	check "its disk is there" wait_for disk_is_there "$HOST:$ISCSI_PORT" || give_up
	disk=$(disk_of "$HOST:$ISCSI_PORT")
}

log_out() {
	check "logout" node "$1" --logout
	check "slabd has no connection left" wait_for on_host unused
}
