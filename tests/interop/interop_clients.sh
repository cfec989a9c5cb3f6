#!/usr/bin/env bash
# The clients that people use, as they use them, over both protocols.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

start_slabd disk0=memory:256M "web=file:$dir/web.img,size=64M"
nbd=nbd://$NBD/disk0
nbd_unix="nbd+unix:///disk0?socket=$NBD_SOCKET"
iscsi=iscsi://$ISCSI/$IQN:disk0/0

# with TOOL FUNCTION: or a skip that names the tool.
with() {
	if have "$1"; then
		"$2"
	else
		skip "$1" "$1 is not installed"
	fi
}

test_nbdinfo() {
	check "nbdinfo" nbdinfo "$nbd"
	shows "nbdinfo says what the export can" 'can_multi_conn: true'
	check "nbdinfo --list" nbdinfo --list "nbd://$NBD"
	shows "nbdinfo --list shows both" 'export="web"'
	check "nbdinfo --json, default export" nbdinfo --json "nbd://$NBD"
	check "nbdinfo --size" nbdinfo --size "$nbd_unix"
	shows "the size is right" '^268435456$'
	check_fails "nbdinfo of an unknown export" nbdinfo "nbd://$NBD/nobody"
}

test_nbdcopy() {
	head -c 64M /dev/urandom >"$dir/random"
	check "nbdcopy to a file volume, 4 connections" \
		nbdcopy --connections=4 --flush "$dir/random" "nbd://$NBD/web"
	check "nbdcopy back" nbdcopy "nbd://$NBD/web" "$dir/random.back"
	check "identical" cmp "$dir/random" "$dir/random.back"
	check "nbdcopy between two exports" nbdcopy "nbd://$NBD/web" "$nbd_unix"
	check "nbdinfo --map" nbdinfo --map --totals "$nbd"
}

# qemu_io WORDS FORMAT IMAGE COMMAND...
qemu_io() {
	local words=$1 image=$2 args=()
	shift 2
	while [ $# -gt 0 ]; do
		args+=(-c "$1")
		shift
	done
	check "$words" qemu-io -f raw "${args[@]}" "$image"
	shows_not "$words: no error, no mismatch" 'fail|error|mismatch|verification'
}

patterns() {
	qemu_io "qemu-io over $1: write, read back" "$2" \
		'write -P 0x5a 0 1M' 'read -P 0x5a 0 1M' \
		'write -P 0x77 1k 512' 'read -P 0x77 1k 512' 'read -P 0x5a 0 1k' 'flush'
	qemu_io "qemu-io over $1: FUA" "$2" 'write -f -P 0x31 2M 64k' 'read -P 0x31 2M 64k'
	qemu_io "qemu-io over $1: zero" "$2" \
		'write -P 0x66 4M 1M' 'write -z 4M 512k' 'read -P 0 4M 512k' 'read -P 0x66 4608k 512k'
	qemu_io "qemu-io over $1: zero and unmap" "$2" \
		'write -P 0x67 8M 1M' 'write -z -u 8M 1M' 'read -P 0 8M 1M'
	qemu_io "qemu-io over $1: discard" "$2" \
		'write -P 0x68 12M 1M' 'discard 12M 1M' 'read 12M 1M'
	qemu_io "qemu-io over $1: many at once" "$2" \
		'aio_write -P 0x11 16M 1M' 'aio_write -P 0x12 17M 1M' 'aio_write -P 0x13 18M 1M' \
		'aio_flush' 'read -P 0x11 16M 1M' 'read -P 0x12 17M 1M' 'read -P 0x13 18M 1M'
}

test_qemu_nbd() {
	check "qemu-img info over NBD" qemu-img info "$nbd"
	check "qemu-img create, for convert" qemu-img create -q -f raw "$dir/part" 64M
	qemu-io -f raw -c 'write -P 0x21 1M 3M' -c 'write -P 0x22 40M 5M' "$dir/part" >/dev/null
	check "qemu-img convert over NBD" qemu-img convert -n -f raw -O raw "$dir/part" "nbd://$NBD/web"
	check "qemu-img compare over NBD" qemu-img compare -f raw -F raw "$dir/part" "nbd://$NBD/web"
	check "qemu-img map over NBD" qemu-img map --output=json -f raw "nbd://$NBD/web"
	shows "map knows the holes" '"data": false'
}

test_qemu_io_nbd() {
	patterns "NBD" "$nbd"
	patterns "NBD, unix socket" "$nbd_unix"
}

# The driver is a module of its own (qemu-block-extra).
test_qemu_iscsi() {
	if qemu-img info "$iscsi" 2>&1 | grep -qi "unknown protocol\|unknown driver"; then
		skip "qemu over iSCSI" "qemu-block-extra is not installed"
		return
	fi
	check "qemu-img info over iSCSI" qemu-img info "$iscsi"
	check "qemu-img convert over iSCSI" \
		qemu-img convert -n -f raw -O raw "$dir/part" "iscsi://$ISCSI/$IQN:web/0"
	check "qemu-img compare over iSCSI" \
		qemu-img compare -f raw -F raw "$dir/part" "iscsi://$ISCSI/$IQN:web/0"
	check "qemu-img compare of iSCSI with NBD" qemu-img compare -f raw -F raw "$nbd" "$iscsi"
	patterns "iSCSI" "$iscsi"
}

fio_nbd() {
	check "fio over NBD, $1: verified random writes and reads" \
		fio --name=verify --ioengine=nbd --uri="$2" --rw=randrw --bsrange=512-64k --ba=512 \
		--size=32M --iodepth=16 --verify=crc32c --verify_fatal=1 --random_generator=tausworthe64 \
		--loops=2 --output-format=terse
}

test_fio() {
	if ! fio --enghelp 2>/dev/null | grep -q nbd; then
		skip "fio over NBD" "this fio was built without its NBD engine"
		return
	fi
	cd "$dir" || return # fio leaves its state file where it runs
	fio_nbd TCP "$nbd"
	fio_nbd "unix socket" "$nbd_unix"
}

test_iscsi_ls() {
	check "iscsi-ls" iscsi-ls "iscsi://$ISCSI"
	shows "iscsi-ls shows both" "$IQN:web"
	check "iscsi-ls -s shows the LUN" iscsi-ls -s "iscsi://$ISCSI"
	shows "with its size" 'Lun:0 .*25[56]M'
}

test_iscsi_inq() {
	check "iscsi-inq" iscsi-inq "$iscsi"
	for page in 0 128 131 176 177 178; do
		check "iscsi-inq, VPD page $page" iscsi-inq -e 1 -c "$page" "$iscsi"
	done
}

test_iscsi_perf() {
	check "iscsi-perf" timeout 30 iscsi-perf -t 2 -b 8 -m 32 "$iscsi"
}

with nbdinfo test_nbdinfo
with nbdcopy test_nbdcopy
with qemu-img test_qemu_nbd
with qemu-io test_qemu_io_nbd
with qemu-img test_qemu_iscsi
with fio test_fio
with iscsi-ls test_iscsi_ls
with iscsi-inq test_iscsi_inq
with iscsi-perf test_iscsi_perf
check "slabd ends well" stop_slabd
finish
