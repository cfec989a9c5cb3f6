#!/usr/bin/env bash
# A disk that does not answer for a while: the initiator's pings are answered, its ABORT TASK and its
# LOGICAL UNIT RESET too, and what it asked for is done in the end.
# shellcheck source=tests/vm/host.sh disable=SC2154 # log_in sets disk
. "${SLABD_SOURCE:-.}/tests/vm/host.sh"

# OPERATIONS SECONDS: the next one of it waits.
at_stall() {
	slabctl fault disk0 clear && slabctl fault disk0 set "$1 latency=${2}s times=1"
}

# A request has begun to wait.
at_stalled() {
	slabctl --json fault disk0 show | jq -e '[.rules[].injected] | add >= 1'
}

# SECONDS: how long the kernel lets a command take before it aborts it.
guest_patience() {
	echo "$1" >"/sys/block/${disk#/dev/}/device/timeout"
}

# The initiator has asked for so many task management functions, at least.
guest_managed() {
	iscsiadm -m session -s
	[ "$(iscsiadm -m session -s | awk '/tmfcmd_pdus:/ { print $2 }')" -ge "$1" ]
}

guest_read() {
	dd if="$disk" of=/tmp/block bs=64k count=1 iflag=direct
}

guest_write() {
	dd if=/tmp/pattern of="$disk" bs=64k count=1 oflag=direct
}

guest() {
	discover
	log_in disk0 "before"
	dd if=/dev/urandom of=/tmp/pattern bs=64k count=1 2>/dev/null
	check "write" guest_write

	# iscsid's ping comes every 5 seconds and may take 5.
	check "reads stall" on_host stall read 15
	guest_patience 60
	check "a read waits, no ping is lost" guest_read
	check "the initiator left it in peace" fails guest_managed 1
	check "it is what was written" cmp /tmp/pattern /tmp/block

	check "reads stall" on_host stall read 20
	guest_patience 3
	check "a read is aborted and sent again" guest_read
	check "the initiator asked for that" guest_managed 1
	check "it is what was written" cmp /tmp/pattern /tmp/block

	dd if=/dev/urandom of=/tmp/pattern bs=64k count=1 2>/dev/null
	check "writes stall" on_host stall write 20
	check "a write is aborted and sent again" guest_write
	check "the initiator asked for that" guest_managed 2

	check "reads stall" on_host stall read 20
	guest_patience 60
	guest_read >/tmp/read.log 2>&1 &
	check "a read waits" wait_for on_host stalled
	check "LOGICAL UNIT RESET is done" sg_reset --device "$disk"
	check "the read is sent again" wait $!
	check "the kernel has been told of the reset, after that of the login" \
		test "$(dmesg | grep -c 'Power-on or device reset occurred')" -ge 2
	check "it is what was written" cmp /tmp/pattern /tmp/block
	log_out disk0
}

cat >"$dir/slabd.yaml" <<-YAML
	allow_faults: on
	nbd: {listen: none}
	iscsi: {listen: [{address: "127.0.0.1:0", advertise: "10.0.2.2:0"}]}
YAML
slabd_listens=()
start_slabd --config "$dir/slabd.yaml" disk0=memory:64M
boot_guest
check "slabd ends without a complaint" stop_slabd
finish
