#!/usr/bin/env bash
# libiscsi's own suite on a set of LUNs: each of its tests is a case here. One that no LUN of the set lets
# run is skipped, with the suite's words.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

PATH=$PATH:/usr/sbin:/sbin
require iscsi-test-cu

# What every LUN is asked in make check; SLABD_CONFORMANCE=full takes all there is, on every kind of volume
# (make check-conformance).
families="CompareAndWrite ExtendedCopy GetLBAStatus Inquiry Mandatory ModeSense6 NoMedia OrWrite Prefetch10 Prefetch16
	PrinReadKeys PrinReportCapabilities PrinServiceactionRange ProutClear ProutPreempt ProutRegister
	ProutReserve Read6 Read10 Read12 Read16 ReadCapacity10 ReadCapacity16 ReadDefectData10
	ReadDefectData12 ReceiveCopyResults ReportSupportedOpcodes Reserve6 StartStopUnit TestUnitReady Unmap Verify10
	Verify12 Verify16 Write10 Write12 Write16 WriteAtomic16 WriteSame10 WriteSame16 WriteVerify10 WriteVerify12
	WriteVerify16 iSCSIcmdsn iSCSIdatasn iSCSIResiduals iSCSITMF"
# Of SANITIZE those that need not wait for an overwrite's end.
sanitize="Sanitize.BlockErase Sanitize.BlockEraseReserved Sanitize.CryptoErase Sanitize.CryptoEraseReserved
	Sanitize.ExitFailureMode Sanitize.InvalidServiceAction Sanitize.OverwriteReserved Sanitize.Readonly"
# A write-protected LUN is asked what does not want to write.
read_only="ReadOnly Inquiry Read10 Read16 ReadCapacity16 ModeSense6 TestUnitReady"

# Tests that are wrong in the tool; protocols/scsi/README.md says why, and what checks the right behaviour.
is_wrong() {
	case $1 in
	*.eighths*.GetLBAStatus.UnmapSingle) ;;
	device.*.Sanitize.BlockErase) ;;
	file.*.WriteAtomic16.Simple | device.*.WriteAtomic16.Simple) ;;
	*.WriteSame10.UnmapUntilEnd) ;;
	*) return 1 ;;
	esac
}

# Tests that leave out cryptographic erase, say so, and do the rest.
partly="Sanitize.Readonly Sanitize.Reservations"

loops=()
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	local rc=$? loop
	if [ -n "$slabd_pid" ]; then
		kill -KILL "$slabd_pid" 2>/dev/null
		wait "$slabd_pid" 2>/dev/null
		slabd_pid=
	fi
	for loop in "${loops[@]}"; do
		losetup -d "$loop"
	done
	(exit "$rc")
	end_test
}
trap clean_up EXIT

# Lines "pass NAME", "fail NAME" or "skip NAME WHY". A verdict stands at the end of the test's line, or of
# a later one when the test had something to say; what follows it is about the next.
read_verdicts() {
	awk '
		/^  Test: / { name = $2; why = "" }
		name == "" { next }
		match($0, /(^|[. ])(passed|FAILED)( |$)/) {
			verdict = substr($0, RSTART, RLENGTH) ~ /passed/ ? "pass" : "fail"
			$0 = substr($0, 1, RSTART)
		}
		why == "" && sub(/.*\[SKIPPED\] */, "") { why = $0; sub(/[ .]*$/, "", why) }
		verdict != "" {
			print verdict == "pass" && why != "" ? "skip" : verdict, name, why
			name = verdict = ""
		}
		END { if (name != "") print "fail", name }
	' "$1"
}

# run_family LABEL FAMILY[.TEST] URL...
run_family() {
	local label=$1 test=$2 family=${2%%.*} rc=0 verdict name why
	shift 2
	timeout --kill-after=5 300 iscsi-test-cu --dataloss --allow-sanitize --test="ALL.$test" "$@" \
		>"$dir/suite" 2>&1 </dev/null || rc=$?
	read_verdicts "$dir/suite" >"$dir/verdicts"
	while read -r verdict name why; do
		case " $partly " in
		*" $family.$name "*) [ "$verdict" != skip ] || verdict=pass ;;
		esac
		case $verdict in
		pass) ok "$label.$family.$name" ;;
		skip) echo "$family.$name $why" >>"$dir/skipped" ;;
		fail)
			if is_wrong "$label.$family.$name"; then
				ok "$label.$family.$name: the tool is wrong, see the README"
			else
				not_ok "$label.$family.$name" "$dir/suite"
			fi
			;;
		esac
		[ "$verdict" = skip ] || echo "$family.$name" >>"$dir/ran"
	done <"$dir/verdicts"
	if [ "$rc" -ge 124 ] || ! [ -s "$dir/verdicts" ]; then
		not_ok "$label.$test: the suite ends (exit status $rc)" "$dir/suite"
	fi
}

# run_suite LABEL TESTS URL...: families or single tests; one path for each URL.
run_suite() {
	local label=$1 family
	local -a tests
	read -r -a tests <<<"$(echo "$2" | tr '\n\t' '  ')"
	shift 2
	for family in "${tests[@]}"; do
		if grep -qx "ALL.$family" "$dir/list"; then
			run_family "$label" "$family" "$@"
		else
			skip "$label.$family" "this iscsi-test-cu does not have it"
		fi
	done
}

# What no LUN of the set let run.
report_skipped() {
	local name why
	sort -u "$dir/ran" >"$dir/ran.sorted"
	while read -r name why; do
		grep -qx "$name" "$dir/ran.sorted" || skip "$1.$name" "iscsi-test-cu: $why"
	done < <(sort -u -k1,1 "$dir/skipped")
}

# place BACKEND NAME: the keys that say where a volume's data is.
place() {
	local file=$dir/$1-$2
	case $1 in
	memory) echo "backend: memory, size: 256M" ;;
	file) echo "backend: file, path: $file, size: 256M" ;;
	device)
		truncate -s 256M "$file"
		losetup -f --show "$file" >"$dir/loop" || bail "no loop device for $file"
		loops+=("$(cat "$dir/loop")")
		echo "backend: device, path: ${loops[-1]}"
		;;
	esac
}

# serve BACKEND: a set of LUNs in one target, behind two ports, and one that asks who comes.
# 0: under 1 GiB, blocks of 512 bytes. 1: eight logical blocks in a physical one. 2: removable. 3: write-protected.
serve() {
	local -a places
	local name
	for name in plain eighths cd ro; do
		place "$1" "$name" >"$dir/place" # no subshell: loops
		places+=("$(cat "$dir/place")")
	done
	cat >"$dir/slabd.yaml" <<-END
		volumes:
		  plain: {${places[0]}}
		  eighths: {${places[1]}, physical_block_size: 4096}
		  cd: {${places[2]}, removable: on}
		  ro: {${places[3]}, read_only: on}
		iscsi:
		  listen: [{address: "127.0.0.1:0", group: 1}, {address: "127.0.0.2:0", group: 2}]
		  targets:
		    $IQN:set: {luns: {0: plain, 1: eighths, 2: cd, 3: ro}}
		    $IQN:asked: {luns: {0: plain}, chap: [{user: alice, secret: a-secret-of-hers}]}
	END
	slabd_listens=(--nbd none)
	truncate -s 256M "$dir/file-ro"
	start_slabd --config "$dir/slabd.yaml" --state "$dir/state"
	mapfile -t ports < <(awk '$1 == "iscsi" { print $2 }' "$SLABD_LOG")
	set="$IQN:set"
	: >"$dir/ran"
	: >"$dir/skipped"
}

done_with() {
	report_skipped "$1"
	check "$1: slabd ends well" stop_slabd
	rm -f "$dir/$1"-*
}

# All families, on every LUN that can be written, by one path and by two, and with CHAP. Each test of
# SANITIZE by itself: one leaves a reservation to the end of its connection, which the next does not wait for.
# They take their time, and see nothing new on a removable LUN or through CHAP.
run_all() {
	local all sanitize one other
	all=$(sed -n 's/^ALL\.\([^.]*\)$/\1/p' "$dir/list" | grep -vx Sanitize)
	sanitize=$(sed -n 's/^ALL\.\(Sanitize\.[^.]*\)$/\1/p' "$dir/list")
	serve "$1"
	one="iscsi://${ports[0]}/$set" other="iscsi://${ports[1]}/$set"
	run_suite "$1.plain" "$all $sanitize" "$one/0"
	run_suite "$1.plain-paths" "$all $sanitize" "$one/0" "$other/0"
	run_suite "$1.eighths" "$all $sanitize" "$one/1"
	run_suite "$1.eighths-paths" "$all" "$one/1" "$other/1"
	run_suite "$1.removable" "$all" "$one/2"
	run_suite "$1.read-only" "$read_only" "$one/3"
	run_suite "$1.chap" "$all" "iscsi://alice%a-secret-of-hers@${ports[0]}/$IQN:asked/0"
	done_with "$1"
}

iscsi-test-cu -l >"$dir/list" 2>&1
if [ "${SLABD_CONFORMANCE:-}" = full ]; then
	run_all memory
	run_all file
	if [ "$(id -u)" = 0 ] && have losetup && losetup -f >/dev/null 2>&1; then
		run_all device
	else
		skip device "no loop devices here"
	fi
else
	serve memory
	one="iscsi://${ports[0]}/$set" other="iscsi://${ports[1]}/$set"
	run_suite memory.plain "$families" "$one/0"
	run_suite memory.plain-paths MultipathIO "$one/0" "$other/0"
	run_suite memory.eighths "CompareAndWrite $sanitize WriteSame10 WriteSame16" "$one/1"
	run_suite memory.removable "PreventAllow StartStopUnit" "$one/2"
	run_suite memory.read-only "$read_only" "$one/3"
	run_suite memory.chap "Inquiry Read10" "iscsi://alice%a-secret-of-hers@${ports[0]}/$IQN:asked/0"
	done_with memory
fi
finish
