#!/usr/bin/env bash
# A target that sends initiators to another slabd, where libiscsi's tools and qemu follow it, and a drain
# that an initiator ends early by logging out.
# shellcheck source=tests/lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"
require iscsi-inq iscsi-ls iscsi-perf

there_pid=''

end_both() {
	local rc=$?
	if [ -n "$there_pid" ]; then
		kill -KILL "$there_pid" 2>/dev/null
		wait "$there_pid" 2>/dev/null
	fi
	(exit "$rc")
	end_test
}
trap end_both EXIT

start_slabd disk0=memory:8M,serial=over-there
there_pid=$slabd_pid THERE=$ISCSI

# The other one: the same target, sent away.
SLABD_LOG=$dir/here.log CONTROL=$dir/here.sock
slabd_listens=(--nbd none --iscsi 127.0.0.1:0)
for permanent in off on; do
	cat >"$dir/here.yaml" <<-END
		volumes: {disk0: {backend: memory, size: 8M, serial: here}}
		iscsi:
		  targets:
		    $IQN:disk0: {redirect: {address: "$THERE", permanent: $permanent}}
		    $IQN:kept: {luns: {0: disk0}}
	END
	start_slabd --config "$dir/here.yaml"
	check "permanent $permanent: the target is found" iscsi-ls "iscsi://$ISCSI/"
	shows "permanent $permanent: among others" "$IQN:kept"
	if [ "$permanent" = off ]; then
		check "the initiator goes there" \
			iscsi-inq -e 1 -c 128 "iscsi://$ISCSI/$IQN:disk0/0"
		shows "and finds it" 'over-there'
	else # libiscsi does not follow this one
		check_fails "permanent: not served here" \
			iscsi-inq -e 1 -c 128 "iscsi://$ISCSI/$IQN:disk0/0"
		shows "permanent: as who asks is told" '(258|moved)'
	fi
	check "permanent $permanent: the other target is here" \
		iscsi-inq -e 1 -c 128 "iscsi://$ISCSI/$IQN:kept/0"
	shows "permanent $permanent: still" 'here'
	stop_slabd || not_ok "permanent $permanent: an orderly end"
done

slabd_pid=$there_pid there_pid=''
# It serves reads all the while, logs out when asked, and finds nobody to come back to.
iscsi-perf -i "$IQN:perf" -b 8 -m 4 -n "iscsi://$THERE/$IQN:disk0/0" >"$dir/perf" 2>&1 </dev/null &
perf_pid=$!
for _ in $(seq 200); do
	SLABD_LOG=$dir/slabd.log CONTROL=$dir/control.sock
	slabctl connections >"$dir/connections" 2>/dev/null && grep -q 'disk0' "$dir/connections" && break
	sleep 0.05
done
if stop_slabd; then
	ok "an orderly end with an initiator at work"
else
	not_ok "an orderly end with an initiator at work" "$dir/slabd.log"
fi
kill -KILL "$perf_pid" 2>/dev/null
wait "$perf_pid" 2>/dev/null
check "no request was given up" test -f "$dir/slabd.log"
cp "$dir/slabd.log" "$dir/out"
shows_not "by the drain" 'giving up'
finish
