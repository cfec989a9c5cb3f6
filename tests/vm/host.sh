# Linux itself as a client: a Debian kernel in qemu, by software emulation, attaches to a slabd on this
# machine's loopback, which qemu's user-mode network shows it as 10.0.2.2. Sourced by each scenario,
# a test that starts its slabd and calls boot_guest. There its function guest() runs, with all others
# whose names begin with guest_ and what guest.sh offers. `on_host NAME` of the guest calls at_NAME()
# here. So scenarios are bash, and their guest functions such as dash understands too.
# shellcheck shell=bash
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

vm=$SLABD_SOURCE/tests/vm
packages=$SLABD_SOURCE/build-vm/guest # unpacked by contrib/deps --vm
image=$SLABD_BUILD/tests/vm/image     # shared by scenarios and runs; put there whole
deadline=$((SECONDS + ${SLABD_VM_SECONDS:-540}))
qemu_pid=

for tool in qemu-system-x86_64 cpio modprobe; do
	have "$tool" || skip_all "$tool is not installed (contrib/deps --vm installs it)"
done
[ -f "$packages/complete" ] || skip_all "the guest's packages are not there (contrib/deps --vm unpacks them)"

stop_qemu() {
	[ -n "$qemu_pid" ] || return 0
	kill -KILL "$qemu_pid" 2>/dev/null
	wait "$qemu_pid" 2>/dev/null
	qemu_pid=
}

# shellcheck disable=SC2317 # the trap calls it
end_scenario() {
	local rc=$?
	stop_qemu
	(exit "$rc")
	end_test
}
trap end_scenario EXIT

ensure_image() {
	local source
	for source in "$vm"/{make_image,init,guest.sh} "$packages/complete"; do
		if [ ! -f "$image" ] || [ "$source" -nt "$image" ]; then
			mkdir -p "${image%/*}"
			"$vm/make_image" "$packages" "$dir/image" && mv "$dir/image" "$image.$$" &&
				mv "$image.$$" "$image"
			return
		fi
	done
}

# What only this scenario's guest gets: a second cpio archive behind the image's, which the kernel
# unpacks over it. Files for the guest are put in $extra before.
extra=$dir/extra
mkdir "$extra"

pack_scenario() {
	# shellcheck disable=SC2046 # words
	declare -f guest $(compgen -A function guest_) >"$extra/scenario.sh"
	grep -v '^#' "$vm/kernel_log_allowed" >"$extra/kernel_log_allowed"
	printf '%s=%q\n' NBD_PORT "${NBD##*:}" ISCSI_PORT "${ISCSI##*:}" IQN "$IQN" SEED "$RANDOM" \
		>"$extra/environment"
	(cd "$extra" && find . | cpio --quiet -o -H newc >"$dir/extra.cpio")
}

# Nobody is attached.
at_unused() {
	slabctl --json connections | jq -e '.connections | length == 0'
}

# A wish of the guest: NAME ARGUMENT... The answer is a line: exit status, space, last line of output.
serve() {
	local rc=0
	"at_$1" "${@:2}" >"$dir/said" 2>&1 || rc=$?
	printf '%s %s\n' "$rc" "$(tail -n 1 "$dir/said")" >&4
}

# One line of the guest's results; 1 at the last, 2 when qemu has ended.
take_result() {
	local words
	case $1 in
	"ok "*) ok "${1#ok }" ;;
	"not ok "*) not_ok "${1#not ok }" ;;
	"host "*)
		read -ra words <<<"${1#host }"
		serve "${words[@]}"
		;;
	end) return 1 ;;
	gone) return 2 ;;
	*) note "${1#\# }" ;;
	esac
}

# read_results: until the guest says "end", or never will.
read_results() {
	local line left rc=0
	while [ "$rc" = 0 ]; do
		left=$((deadline - SECONDS))
		if [ "$left" -le 0 ] || ! IFS= read -r -t "$left" line <&3; then
			not_ok "the scenario ends in time" "$dir/console"
			return
		fi
		take_result "${line%$'\r'}" || rc=$?
	done
	[ "$rc" = 1 ] || not_ok "the guest lives to the end of its scenario" "$dir/console"
}

keep_console() {
	local kept
	kept=$(mktemp "$SLABD_BUILD/tests/vm/console.XXXXXX")
	cat "$dir/console" "$dir/qemu.log" >"$kept"
	note "the guest's console: $kept"
}

boot_guest() {
	local before=$tap_failed
	ensure_image || bail "the guest's image cannot be made"
	pack_scenario
	cat "$image" "$dir/extra.cpio" >"$dir/initrd"
	mkfifo "$dir/results.in" "$dir/results.out"
	exec 3<>"$dir/results.out" 4<>"$dir/results.in"
	qemu-system-x86_64 -machine pc -accel tcg -cpu max -smp 1 -m 1G -nodefaults -no-user-config \
		-display none -no-reboot -kernel "$packages/kernel" -initrd "$dir/initrd" \
		-append 'console=ttyS0 panic=-1 net.ifnames=0' \
		-netdev user,id=net,ipv6=off -device virtio-net-pci,netdev=net,romfile= \
		-serial "file:$dir/console" -serial "pipe:$dir/results" \
		>"$dir/qemu.log" 2>&1 </dev/null 3>&- 4>&- &
	qemu_pid=$!
	(tail --pid="$qemu_pid" -f /dev/null && echo gone >&3) &
	read_results
	[ "$tap_failed" = "$before" ] || keep_console
	stop_qemu
	exec 3>&- 4>&-
}
