#!/usr/bin/env bash
# A volume's properties, as INQUIRY, vital product data, READ CAPACITY and NBD tell them: the same everywhere.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

require iscsi-inq iscsi-readcapacity16 nbdinfo jq

# shows_on COMMAND... -- LINE...: each line is there, as a whole.
shows_on() {
	local -a command=()
	while [ "$1" != -- ]; do
		command+=("$1")
		shift
	done
	shift
	check "${command[*]:0:5}" "${command[@]}"
	for line; do
		shows "$line" "^$line\$"
	done
}

# scsi_says VOLUME REMOVABLE VENDOR PRODUCT SERIAL RATE BLOCK EXPONENT LAST
scsi_says() {
	local url="iscsi://$ISCSI/$IQN:$1/0"
	shows_on iscsi-inq "$url" -- "Removable:$2" "Vendor:$3 *" "Product:$4 *"
	shows_on iscsi-inq -e 1 -c 128 "$url" -- "Unit Serial Number:\\[$5\\]"
	shows_on iscsi-inq -e 1 -c 131 "$url" -- "Designator:\\[$3 *$4 *$5\\]"
	shows_on iscsi-inq -e 1 -c 177 "$url" -- "Medium Rotation Rate:$6"
	shows_on iscsi-readcapacity16 "$url" -- "RETURNED LOGICAL BLOCK ADDRESS:$9" \
		"LOGICAL BLOCK LENGTH IN BYTES:$7" ".*LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT:$8"
}

# nbd_says VOLUME READ_ONLY ROTATIONAL PREFERRED SIZE
nbd_says() {
	check "nbdinfo of $1" nbdinfo --json "nbd://$NBD/$1"
	check "$1: read-only, rotational, block size and size over NBD" jq -e ".exports[0] |
		.is_read_only == $2 and .is_rotational == $3 and .block_size_preferred == $4 and
		.\"export-size\" == $5" "$dir/out"
}

start_slabd --state none plain=memory:64M \
	odd=memory:64M,block_size=4096,physical_block_size=16384,removable=on,rotational=on,serial=S-4711,vendor=ACME,product=Anvil,read_only=on
scsi_says odd 1 ACME Anvil S-4711 7200RPM 4096 2 16383
nbd_says odd true true 16384 67108864
serial=$(iscsi-inq -e 1 -c 128 "iscsi://$ISCSI/$IQN:plain/0" | sed -n 's/.*\[\(.*\)\]/\1/p')
check 'without one, the serial number is made of the name' test "${#serial}" = 32
scsi_says plain 0 SLABD disk "$serial" 1RPM 512 0 131071
nbd_says plain false false 4096 67108864
check "slabd ends well" stop_slabd
finish
