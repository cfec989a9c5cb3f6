#!/usr/bin/env bash
# libiscsi's own suite, for the commands that slabd has: each of its tests is a case here, and what it
# skips is skipped with its words.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

require iscsi-test-cu

# The families that check the commands slabd has; SLABD_CONFORMANCE=full takes all there are, on more volumes
# (make check-conformance).
families="CompareAndWrite ExtendedCopy GetLBAStatus Inquiry Mandatory ModeSense6 NoMedia OrWrite Prefetch10 Prefetch16
	PrinReadKeys PrinReportCapabilities PrinServiceactionRange ProutClear ProutPreempt ProutRegister
	ProutReserve Read6 Read10 Read12 Read16 ReadCapacity10 ReadCapacity16 ReadDefectData10
	ReadDefectData12 ReceiveCopyResults ReportSupportedOpcodes Reserve6 StartStopUnit TestUnitReady Unmap Verify10
	Verify12 Verify16 Write10 Write12 Write16 WriteAtomic16 WriteSame10 WriteSame16 WriteVerify10 WriteVerify12
	WriteVerify16 iSCSIcmdsn iSCSIdatasn iSCSIResiduals iSCSITMF"

# Tests that are wrong in the tool; protocols/scsi/README.md says why.
wrong="eighths.GetLBAStatus.UnmapSingle file.WriteAtomic16.Simple"

# Tests that leave out cryptographic erase, say so, and do the rest.
partly="Sanitize.Readonly Sanitize.Reservations"

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

# run_family LABEL FAMILY URL...
run_family() {
	local label=$1 family=$2 rc=0 verdict name why
	shift 2
	timeout --kill-after=5 300 iscsi-test-cu --dataloss --allow-sanitize --test="ALL.$family" "$@" \
		>"$dir/suite" 2>&1 </dev/null || rc=$?
	read_verdicts "$dir/suite" >"$dir/verdicts"
	while read -r verdict name why; do
		case $verdict in
		pass) ok "$label.$family.$name" ;;
		skip)
			case " $partly " in
			*" $family.$name "*) ok "$label.$family.$name" ;;
			*) skip "$label.$family.$name" "iscsi-test-cu: $why" ;;
			esac
			;;
		fail)
			case " $wrong " in
			*" $label.$family.$name "*)
				skip "$label.$family.$name" "wrong in the tool, see the README"
				;;
			*) not_ok "$label.$family.$name" "$dir/suite" ;;
			esac
			;;
		esac
	done <"$dir/verdicts"
	if [ "$rc" -ge 124 ] || ! [ -s "$dir/verdicts" ]; then
		not_ok "$label.$family: the suite ends (exit status $rc)" "$dir/suite"
	fi
}

# run_suite LABEL VOLUME...: one path for each VOLUME named.
run_suite() {
	local label=$1 family volume
	local -a urls=()
	shift
	for volume in "$@"; do
		urls+=("iscsi://$ISCSI/$IQN:$volume/0")
	done
	for family in $families; do
		if grep -qx "ALL.$family" "$dir/list"; then
			run_family "$label" "$family" "${urls[@]}"
		else
			skip "$label.$family" "this iscsi-test-cu does not have it"
		fi
	done
}

iscsi-test-cu -l >"$dir/list" 2>&1
start_slabd --state "$dir/state" disk0=memory:256M cd=memory:64M,removable=on \
	eighths=memory:256M,physical_block_size=4096 ro=memory:64M,read_only=on \
	file="file:$dir/disk,size=256M"
if [ "${SLABD_CONFORMANCE:-}" = full ]; then
	families=$(sed -n 's/^ALL\.\([^.]*\)$/\1/p' "$dir/list")
	run_suite memory disk0
	run_suite file file
	run_suite eighths eighths
	run_suite removable cd
	run_suite paths disk0 disk0
	families="ReadOnly Inquiry Read10 ReadCapacity16"
	run_suite read-only ro
else
	run_suite memory disk0
	families=PreventAllow
	run_suite removable cd
	families=ReadOnly
	run_suite read-only ro
fi
check "slabd ends well" stop_slabd
finish
