#!/bin/bash
# iscsicheck against the targets of Debian, and slabd if it is built: a row of counts each, in markdown, for
# protocols/iscsi/README.md. With -v, the FAILs and warns too. Targets that are not installed are left out.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "$0")/lib.sh"
iscsicheck=$build/iscsicheck
iqn=iqn.2026-11.localhost.peers:disk
secrets="alice%secretsecret12@"
mutual="?target_user=thetarget&target_password=targetsecret12"
verbose=no
[ "${1-}" != -v ] || verbose=yes
# Neither can be told to pick one.
port=$((20000 + RANDOM % 10000))

have() {
	command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]
}

wait_for_port() {
	for _ in $(seq 100); do
		(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
		sleep 0.05
	done
}

# row NAME URI [RESTART]: group by group, so that a target that crashes or hangs in one is started again.
row() {
	local group
	: >"$dir/all"
	for group in $("$iscsicheck" --list | awk '!seen[$2]++ {print $2}'); do
		[ $# -lt 3 ] || reaches || "$3"
		"$iscsicheck" --deadline 10 --only "$group" "$2" >"$dir/out" 2>"$dir/err"
		grep -q '^1\.\.' "$dir/out" || echo "    $group: $(cat "$dir/err")"
		cat "$dir/out" >>"$dir/all"
		[ "$verbose" = no ] || grep -E '^not ok|# warn|^#   (sent|expected|got)' "$dir/out" | sed 's/^/    /'
	done
	awk -v name="$1" '/^# [0-9]+ checks/ {for (i = 0; i < 5; i++) sum[i] += $(2 + 2 * i)}
		END {printf "| %s | %d | %d | %d | %d | %d |\n", name, sum[0], sum[1], sum[2], sum[3], sum[4]}' \
		"$dir/all"
}

# rows NAME HOST:PORT LUN [RESTART]
rows() {
	address=$2 lun=$3
	row "$1" "iscsi://$2/$iqn/$3" "${@:4}"
	row "$1, CHAP" "iscsi://$secrets$2/$iqn-chap/$3$mutual" "${@:4}"
}

# Does it still answer a first login?
reaches() {
	"$iscsicheck" --deadline 10 --only L01 "iscsi://$address/$iqn/$lun" >/dev/null 2>&1
}

start_slabd() {
	cat >"$dir/slabd.yaml" <<YAML
volumes:
  m: {backend: memory, size: 64M}
  c: {backend: memory, size: 64M}
nbd: {listen: none}
iscsi:
  listen: ["127.0.0.1:0"]
  targets:
    $iqn: {luns: {0: m}}
    $iqn-chap:
      luns: {0: c}
      chap: [{user: alice, secret: secretsecret12}]
      mutual_chap: {user: thetarget, secret: targetsecret12}
control: none
YAML
	chmod 600 "$dir/slabd.yaml"
	"$build/slabd" -c "$dir/slabd.yaml" 2>"$dir/slabd.err" &
	started+=($!)
	for _ in $(seq 100); do
		grep -qs '^ready$' "$dir/slabd.err" && break
		sleep 0.05
	done
	slabd=$(sed -n 's/^iscsi \([^ ]*\).*/\1/p' "$dir/slabd.err" | head -1)
}

# tgtd's control socket and port are its own; it does not end by SIGTERM while it has targets.
start_tgt() {
	local control=$((RANDOM % 20000 + 1000)) tgtadm n tid
	end_peer
	mkdir -p "$dir/tgt"
	export TGT_IPC_SOCKET=$dir/tgt/socket
	tgtd -f -C "$control" --iscsi "portal=127.0.0.1:$port" >"$dir/tgt/log" 2>&1 &
	peer=$!
	tgtadm=(tgtadm -C "$control" --lld iscsi)
	for _ in $(seq 100); do
		"${tgtadm[@]}" --op show --mode target >/dev/null 2>&1 && break
		sleep 0.05
	done
	for n in 1 2; do
		tid=(--tid "$n")
		truncate -s 64M "$dir/tgt/$n.img"
		"${tgtadm[@]}" --op new --mode target "${tid[@]}" -T "$iqn$([ $n = 1 ] || echo -chap)" &&
			"${tgtadm[@]}" --op new --mode logicalunit "${tid[@]}" --lun 1 -b "$dir/tgt/$n.img" &&
			"${tgtadm[@]}" --op bind --mode target "${tid[@]}" -I ALL || return
	done
	"${tgtadm[@]}" --op new --mode account --user alice --password secretsecret12 &&
		"${tgtadm[@]}" --op bind --mode account --tid 2 --user alice &&
		"${tgtadm[@]}" --op new --mode account --user thetarget --password targetsecret12 &&
		"${tgtadm[@]}" --op bind --mode account --tid 2 --user thetarget --outgoing
}

# Without CHAP: it takes no one-way login to a target that has a secret of its own.
start_istgt() {
	end_peer
	mkdir -p "$dir/istgt"
	truncate -s 64M "$dir/istgt/1.img"
	: >"$dir/istgt/auth.conf"
	chmod 600 "$dir/istgt/auth.conf"
	cat >"$dir/istgt/istgt.conf" <<CONF
[Global]
  NodeBase iqn.2026-11.localhost.peers
  PidFile $dir/istgt/pid
  AuthFile $dir/istgt/auth.conf
  MediaDirectory $dir/istgt
  LogFacility local7
  DiscoveryAuthMethod None
  DiscoveryAuthGroup None
  MaxSessions 64
  MaxConnections 4
[UnitControl]
  AuthMethod None
  Portal UC1 127.0.0.1:$((port + 2))
  Netmask 127.0.0.1
[PortalGroup1]
  Portal DA1 127.0.0.1:$((port + 1))
[InitiatorGroup1]
  InitiatorName ALL
  Netmask ALL
[LogicalUnit1]
  TargetName disk
  Mapping PortalGroup1 InitiatorGroup1
  AuthMethod None
  AuthGroup None
  UnitType Disk
  LUN0 Storage $dir/istgt/1.img Auto
CONF
	istgt -D -c "$dir/istgt/istgt.conf" -p "$dir/istgt/pid" >"$dir/istgt/log" 2>&1 &
	peer=$!
	wait_for_port $((port + 1))
}

peer= # the one that runs
end_peer() {
	[ -z "$peer" ] || kill -9 "$peer" 2>/dev/null
	[ -z "$peer" ] || wait "$peer" 2>/dev/null
	peer=
}

end_peers() {
	end_peer
	end_started
}
trap end_peers EXIT
PATH=$PATH:/usr/sbin

echo "| target | checks | pass | FAIL | warn | skip |"
echo "|---|--:|--:|--:|--:|--:|"
if [ -x "$build/slabd" ]; then
	start_slabd
	rows slabd "$slabd" 0
fi
if have tgtd; then
	start_tgt
	rows "tgt $(tgtd --version)" "127.0.0.1:$port" 1 start_tgt
fi
if have istgt; then
	start_istgt
	address=127.0.0.1:$((port + 1)) lun=0
	row "istgt $(istgt -V 2>&1 | awk '{print $NF; exit}')" "iscsi://$address/$iqn/$lun" start_istgt
fi
