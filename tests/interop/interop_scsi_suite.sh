#!/usr/bin/env bash
# libiscsi's own suite, for the commands that slabd has: each of its tests is a case here, and what it
# skips is skipped with its words.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

require iscsi-test-cu

families="CompareAndWrite Inquiry Mandatory ModeSense6 NoMedia OrWrite Prefetch10 Prefetch16 Read6 Read10 Read12 Read16 ReadCapacity10 ReadCapacity16
	ReadDefectData10 ReadDefectData12 ReportSupportedOpcodes StartStopUnit TestUnitReady Unmap
	Verify10 Verify12 Verify16 Write10 Write12 Write16 WriteSame10 WriteSame16
	WriteVerify10 WriteVerify12 WriteVerify16
	iSCSIcmdsn iSCSIdatasn iSCSIResiduals iSCSITMF"

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

iscsi-test-cu -l >"$dir/list" 2>&1
start_slabd disk0=memory:256M

for family in $families; do
	if ! grep -qx "ALL.$family" "$dir/list"; then
		skip "$family" "this iscsi-test-cu does not have it"
		continue
	fi
	rc=0
	timeout --kill-after=5 120 iscsi-test-cu --dataloss --test="ALL.$family" \
		"iscsi://$ISCSI/$IQN:disk0/0" >"$dir/suite" 2>&1 </dev/null || rc=$?
	read_verdicts "$dir/suite" >"$dir/verdicts"
	while read -r verdict name why; do
		case $verdict in
		pass) ok "$family.$name" ;;
		skip) skip "$family.$name" "iscsi-test-cu: $why" ;;
		fail) not_ok "$family.$name" "$dir/suite" ;;
		esac
	done <"$dir/verdicts"
	if [ "$rc" -ge 124 ] || ! [ -s "$dir/verdicts" ]; then
		not_ok "$family: the suite ends (exit status $rc)" "$dir/suite"
	fi
done
check "slabd ends well" stop_slabd
finish
