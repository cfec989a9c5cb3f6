#!/usr/bin/env bash
# A real file system image goes in over one protocol and comes out over the other.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

PATH=$PATH:/usr/sbin:/sbin
require mkfs.ext4 e2fsck nbdcopy qemu-img

# Files of many sizes, deep directories, links, holes and 40 MiB that no one can compress.
make_tree() {
	local i
	mkdir -p "$dir/tree/many" "$dir/tree/a/b/c/d/e/f"
	cp -r "$SLABD_SOURCE/include" "$SLABD_SOURCE/protocols" "$SLABD_SOURCE/storage" "$dir/tree/"
	for i in $(seq 300); do
		head -c "$((i * 97))" /dev/urandom >"$dir/tree/many/$i"
	done
	head -c 40M /dev/urandom >"$dir/tree/a/b/c/big"
	truncate -s 30M "$dir/tree/a/hole"
	echo end >>"$dir/tree/a/hole"
	ln -s ../b/c/big "$dir/tree/a/link"
	ln "$dir/tree/many/7" "$dir/tree/a/b/c/d/e/f/hard"
}

allocated() {
	echo $(($(stat -c %b "$1") * 512))
}

make_tree
truncate -s 320M "$dir/source.img"
mkfs.ext4 -q -F -d "$dir/tree" "$dir/source.img" || bail "mkfs.ext4"
note "source: $(stat -c %s "$dir/source.img") bytes, $(allocated "$dir/source.img") allocated"

start_slabd disk0=memory:320M "web=file:$dir/web.img,size=320M"
iscsi_disk="iscsi://$ISCSI/$IQN:disk0/0" iscsi_web="iscsi://$ISCSI/$IQN:web/0"

has_iscsi=yes
if ! qemu-img info --output=json "$iscsi_disk" >"$dir/out" 2>"$dir/err"; then
	! grep -qi 'unknown protocol' "$dir/err" || has_iscsi=
fi

# Into memory by NBD, out by iSCSI.
check "nbdcopy writes the image over NBD" nbdcopy "$dir/source.img" "nbd://$NBD/disk0"
if [ -n "$has_iscsi" ]; then
	check "qemu-img convert reads it back over iSCSI" \
		qemu-img convert -f raw -O raw "$iscsi_disk" "$dir/back.img"
	check "it is identical" cmp "$dir/source.img" "$dir/back.img"
	check "e2fsck -fn finds nothing" e2fsck -fn "$dir/back.img"
else
	skip "qemu-img convert over iSCSI" "qemu-block-extra is not installed"
fi

# Into a sparse file by iSCSI, out by NBD.
if [ -n "$has_iscsi" ]; then
	check "qemu-img convert writes the image over iSCSI into a sparse file" \
		qemu-img convert -n -f raw -O raw "$dir/source.img" "$iscsi_web"
	check "nbdcopy reads it back over NBD" nbdcopy --flush "nbd://$NBD/web" "$dir/back2.img"
	check "it is identical" cmp "$dir/source.img" "$dir/back2.img"
	check "e2fsck -fn finds nothing" e2fsck -fn "$dir/back2.img"
fi
check "slabd ends well" stop_slabd

check "the file is the image" cmp "$dir/source.img" "$dir/web.img"
source_bytes=$(allocated "$dir/source.img") web_bytes=$(allocated "$dir/web.img")
if [ "$((web_bytes * 100))" -le "$((source_bytes * 101))" ]; then
	ok "the file allocates $web_bytes bytes, the source $source_bytes: at most 1 % more"
else
	not_ok "the file allocates $web_bytes bytes, the source $source_bytes: more than 1 % more"
fi
finish
