#!/usr/bin/env bash
# Images copied between slabd and other NBD servers, and between two slabds; nbdkit as a proxy in front of us.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

require nbdcopy nbdinfo qemu-img qemu-io

others=() # their processes

end_others() {
	local rc=$?
	[ "${#others[@]}" = 0 ] || kill "${others[@]}" 2>/dev/null
	(exit "$rc")
	end_test
}
trap end_others EXIT

# serve SOCKET COMMAND...: it listens when this returns.
serve() {
	local socket=$1 tries=0
	shift
	"$@" >>"$dir/others.log" 2>&1 </dev/null &
	others+=($!)
	until [ -S "$socket" ]; do
		tries=$((tries + 1))
		[ "$tries" -lt 400 ] || bail "$1 does not listen: $(tail -n 1 "$dir/others.log")"
		sleep 0.05
	done
}

# Data and holes, none of them a round number of anything's blocks.
make_image() {
	head -c 48M /dev/urandom >"$dir/image"
	truncate -s 64M "$dir/image"
	fallocate --punch-hole --offset 5000000 --length 9000000 "$dir/image"
}

# holds WORDS URI: it has the image.
holds() {
	rm -f "$dir/back"
	check "nbdcopy out of $1" nbdcopy "$2" "$dir/back"
	check "$1 holds the image" cmp "$dir/image" "$dir/back"
}

# there_and_back NAME URI: the image, which web holds, goes to another server and from there to disk0.
there_and_back() {
	check "nbdcopy to $1, 4 connections, holes kept" nbdcopy --connections=4 --flush "$web" "$2"
	holds "$1" "$2"
	check "disk0 is overwritten" qemu-io -f raw -c 'write -q -P 0x7e 0 64M' "$disk0"
	check "nbdcopy from $1" nbdcopy --connections=4 --flush "$2" "$disk0"
	holds "disk0 after $1" "$disk0"
	check "qemu-img compare of $1 and disk0" qemu-img compare -f raw -F raw "$2" "$disk0"
}

test_slabd() {
	serve "$dir/second.sock" "$SLABD_BUILD/slabd" --nbd "unix:$dir/second.sock" --iscsi none --control none \
		second=memory:64M
	there_and_back "a second slabd" "nbd+unix:///second?socket=$dir/second.sock"
	check "nbdinfo --map of the copy" nbdinfo --map --totals "nbd+unix:///second?socket=$dir/second.sock"
	shows "it has its holes" 'hole,zero'
}

test_nbdkit() {
	serve "$dir/nbdkit.sock" nbdkit -f --exit-with-parent -U "$dir/nbdkit.sock" memory 64M
	there_and_back "nbdkit" "nbd+unix:///?socket=$dir/nbdkit.sock"
}

test_qemu_nbd() {
	truncate -s 64M "$dir/qemu.img"
	serve "$dir/qemu.sock" qemu-nbd -t -e 8 -f raw --discard=unmap -k "$dir/qemu.sock" "$dir/qemu.img"
	there_and_back "qemu-nbd" "nbd+unix:///?socket=$dir/qemu.sock"
}

# Behind its plugin we are a client's server all the same: reads, writes, zeroes, discards, status, errors.
test_proxy() {
	local proxy="nbd+unix:///?socket=$dir/proxy.sock"
	serve "$dir/proxy.sock" nbdkit -f --exit-with-parent -U "$dir/proxy.sock" nbd "uri=$disk0"
	check "nbdinfo through the proxy" nbdinfo "$proxy"
	shows "it passes on what we can" 'can_multi_conn: true'
	check "nbdcopy through the proxy" nbdcopy --connections=4 --flush "$dir/image" "$proxy"
	holds "disk0 behind the proxy" "$disk0"
	holds "the proxy" "$proxy"
	check "write, zero, discard and flush through it" qemu-io -f raw -c 'write -q -P 0x21 1M 1M' \
		-c 'write -q -z 1M 64k' -c 'write -q -z -u 1536k 64k' -c 'discard -q 3M 1M' -c flush "$proxy"
	check "are seen behind it" qemu-io -f raw -c 'read -q -P 0 1M 64k' -c 'read -q -P 0x21 1088k 448k' \
		-c 'read -q -P 0 1536k 64k' -c 'read -q -P 0x21 1600k 448k' "$disk0"
	shows_not "byte for byte" 'fail|verification'
	check "block status through it" nbdinfo --map --totals "$proxy"
	shows "knows holes" 'hole,zero'
}

test_bench() {
	check "qemu-img bench, reads" qemu-img bench -q -f raw -c 2000 -d 16 -s 4096 "$disk0"
	check "qemu-img bench, writes and flushes" \
		qemu-img bench -q -f raw -w -c 1000 -d 16 -s 4096 --flush-interval=100 --pattern=90 "$disk0"
	check "what it wrote is there" qemu-io -f raw -c 'read -q -P 90 0 1000k' "$disk0"
	shows_not "byte for byte" 'fail|verification'
}

make_image
start_slabd "web=file:$dir/web.img,size=64M" disk0=memory:64M
web=nbd://$NBD/web disk0="nbd+unix:///disk0?socket=$NBD_SOCKET"
check "nbdcopy of an image with holes" nbdcopy --connections=4 --flush "$dir/image" "$web"
holds "web" "$web"
test_slabd
if have nbdkit; then
	test_nbdkit
	test_proxy
else
	skip "copies to and from nbdkit, and its proxy" "nbdkit is not installed"
fi
if have qemu-nbd; then
	test_qemu_nbd
else
	skip "copies to and from qemu-nbd" "qemu-nbd is not installed"
fi
test_bench
check "slabd ends well" stop_slabd
finish
