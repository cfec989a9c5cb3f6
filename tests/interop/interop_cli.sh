#!/bin/bash
# The command lines of slabd and slabctl: what they refuse, in which words, with which exit status, and
# that nothing is left behind.
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "${SLABD_SOURCE:-.}/tests/lib/common.sh"

slabd=$SLABD_BUILD/slabd
# No test here depends on the default ports being free.
here=(--nbd 127.0.0.1:0 --iscsi 127.0.0.1:0 --control none)

# fails STATUS LINE ARGUMENT...: slabd says exactly this one line on stderr, and nothing is in $dir/made.
fails() {
	local status=$1 line=$2 rc=0
	shift 2
	timeout 60 "$slabd" "$@" >"$dir/out" 2>"$dir/err" </dev/null || rc=$?
	if [ "$rc" = "$status" ] && [ "$(cat "$dir/err")" = "$line" ] && [ ! -s "$dir/out" ] &&
		[ -z "$(ls "$dir/made")" ]; then
		ok "refused with $status: ${line//#/}"
	else
		{
			echo "exit status $rc, not $status; wanted: $line"
			ls "$dir/made"
			cat "$dir/out"
		} >>"$dir/err"
		not_ok "refused with $status: slabd $*" "$dir/err"
	fi
	rm -rf "$dir/made"
	mkdir "$dir/made"
}
mkdir "$dir/made"
made=$dir/made

# Usage: 2.
fails 2 'slabd: no volumes: name one, as in: slabd disk0=memory:1G'
fails 2 'slabd: unknown option --nbbd (did you mean --nbd?)' --nbbd 127.0.0.1:0 a=memory:1G
fails 2 'slabd: unknown option -x' -x a=memory:1G
fails 2 'slabd: --nbd needs an argument' a=memory:1G --nbd
fails 2 'slabd: --insecure takes no argument' --insecure=on a=memory:1G
fails 2 'slabd: --config is given twice' -c /dev/null -c /dev/null a=memory:1G
fails 2 'slabd: --loops: 65 is out of range (1 to 64)' --loops 65 a=memory:1G
fails 2 'slabd: "foo" is no volume: say NAME=BACKEND:ARG, as in disk0=memory:1G' foo
fails 2 'slabd: volume web: unknown option "sise" (did you mean "size"?)' "web=file:$made/w,sise=10G"
fails 2 'slabd: volume a: unknown backend "memry" (did you mean "memory"?)' a=memry:1G
fails 2 'slabd: volume a: unknown backend "tape" (known: memory, file, device, null)' a=tape:1
fails 2 'slabd: volume a: size: "1Z" is not a size (give bytes, or a number with K, M, G, T or P)' \
	a=memory:1Z
fails 2 'slabd: volume a is defined twice' a=memory:1G a=memory:1G
fails 2 'slabd: nbd 127.0.0.1: say HOST:PORT, [V6]:PORT or unix:PATH' --nbd 127.0.0.1 a=memory:1G
fails 2 'slabd: neither NBD nor iSCSI is served: give --nbd or --iscsi an address' \
	--nbd none --iscsi none a=memory:1G

# Layers and what is for memory volumes only.
fails 2 'slabd: volume a: faults are not allowed (allow_faults: on allows them)' 'a=memory:1G,fault=read'
fails 2 'slabd: volume a: fault: "reed" is no operation (read, write, zero, discard, flush, extents, prefetch, compare_write or all, joined by +)' \
	--allow-faults 'a=memory:1G,fault=reed'
fails 2 'slabd: volume a: limit is for memory volumes' a=null:1G,limit=1M
fails 2 'slabd: volume a: iops: "many" is not a size (give bytes, or a number with K, M, G, T or P)' \
	a=memory:1G,iops=many
fails 1 "slabd: volume a: $made/no.img: No such file or directory" "a=memory:1G,load=$made/no.img"

# TLS; what is in the files is interop_tls's matter.
fails 2 'slabd: --tls: "on" is none of off, allow, require' --tls on a=memory:1G
fails 2 'slabd: TLS needs a certificate and its key (--tls-cert, --tls-key) or a PSK file (--tls-psk)' \
	--tls require a=memory:1G
fails 2 'slabd: a TLS certificate without its key: give --tls-key (tls: key)' \
	--tls-cert "$made/c" a=memory:1G
fails 1 "slabd: PSK file $made/no.psk: No such file or directory" --tls-psk "$made/no.psk" a=memory:1G

fails 2 "slabd: nbd tls:127.0.0.1:1: NBD's clients ask for TLS themselves: see --tls" \
	--nbd tls:127.0.0.1:1 a=memory:1G
fails 2 'slabd: iscsi tls:127.0.0.1:1: TLS needs a certificate or a PSK file' \
	--iscsi tls:127.0.0.1:1 a=memory:1G

# Transports; what they carry is interop_transports' matter.
fails 2 'slabd: --stdio serves nothing else: say --nbd none --iscsi none' \
	--stdio --nbd 127.0.0.1:0 a=memory:1G
fails 2 'slabd: nbd vsock:x: "x" is not a vsock port (1 to 4294967294)' --nbd vsock:x a=memory:1G
fails 1 'slabd: nbd vsock:1 would offer a to everyone: add CHAP, TLS with verified peers or an access rule, or say --insecure' \
	--nbd vsock:1 a=memory:1G

# What is not there yet says so.
fails 2 'slabd: --metrics: not there yet in this version' --metrics 127.0.0.1:9000 a=memory:1G

# Failures: 1, and nothing is left of what came before.
fails 1 "slabd: volume web: $made/no.img: No such file or directory (give size= to create it)" \
	"${here[@]}" "web=file:$made/no.img"
fails 1 "slabd: volume b: $made/no.img: No such file or directory (give size= to create it)" \
	"${here[@]}" --nbd "unix:$made/s" "a=file:$made/new.img,size=1M" "b=file:$made/no.img"
fails 1 'slabd: iscsi 0.0.0.0:3260 would offer disk0 to everyone: add CHAP, TLS with verified peers or an access rule, or say --insecure' \
	--iscsi 0.0.0.0:3260 disk0=memory:1G
fails 1 "slabd: control $made/no/c: No such file or directory" \
	--nbd 127.0.0.1:0 --iscsi none --control "$made/no/c" a=memory:1G
fails 1 "slabd: nbd unix:$made/no/n: No such file or directory" \
	--nbd "unix:$made/no/n" --iscsi none --control none "a=file:$made/new.img,size=1M"
fails 1 "slabd: $made/no.yaml: No such file or directory" -c "$made/no.yaml"

# A configuration's mistakes: file, line, column, the line and a marker; all of them.
cat >"$dir/bad.yaml" <<'END'
volumes:
  db:  {backend: memory, size: 1G}
  web: {backend: file, path: /srv/web.img, sise: 10G}
iscsi:
  targets:
    iqn.2026-11.net.example:db:
      luns: {0: dbb}
END
cat >"$dir/wanted" <<END
$dir/bad.yaml:3:44: unknown key "sise" in volume "web" (did you mean "size"?)
    3 |   web: {backend: file, path: /srv/web.img, sise: 10G}
      |                                            ^~~~
$dir/bad.yaml:7:17: LUN 0 of target iqn.2026-11.net.example:db names volume "dbb", which is not defined (volumes: db, web)
    7 |       luns: {0: dbb}
      |                 ^~~
END
rc=0
"$slabd" --check-config -c "$dir/bad.yaml" >"$dir/out" 2>"$dir/err" || rc=$?
if [ "$rc" = 1 ] && cmp -s "$dir/wanted" "$dir/err"; then
	ok 'each mistake of a configuration is shown where it is'
else
	diff "$dir/wanted" "$dir/err" >"$dir/said"
	not_ok "each mistake of a configuration is shown where it is (exit status $rc)" "$dir/said"
fi

# What is printed reads back to the same.
check 'the example configuration is sound' \
	"$slabd" --check-config -c "$SLABD_SOURCE/contrib/examples/slabd.yaml"
check 'the example of memory volumes is sound' \
	"$slabd" --check-config -c "$SLABD_SOURCE/contrib/examples/memory.yaml"
"$slabd" --print-config -c "$SLABD_SOURCE/contrib/examples/slabd.yaml" more=memory:1G,serial=on \
	>"$dir/first.yaml"
check 'what is printed can be read' "$slabd" --print-config -c "$dir/first.yaml"
cp "$dir/out" "$dir/second.yaml"
check 'and is the same' cmp "$dir/first.yaml" "$dir/second.yaml"

check '--version' "$slabd" --version
shows '--version names the version' '^slabd [0-9]+\.[0-9]+'
check '--help' "$slabd" --help
shows '--help shows how to name a volume' 'disk0=memory:1G'
check 'slabctl --help' "$SLABD_BUILD/slabctl" --help

# slabctl without a slabd.
check_fails 'slabctl without a daemon fails' "$SLABD_BUILD/slabctl" --socket "$dir/nobody" status
shows 'and names the socket' "no slabd answers at $dir/nobody"
usage() {
	local words=$1 rc=0
	shift
	"$SLABD_BUILD/slabctl" "$@" >"$dir/out" 2>"$dir/err" || rc=$?
	if [ "$rc" = 2 ] && [ -s "$dir/err" ]; then
		ok "slabctl: $words"
	else
		not_ok "slabctl: $words: exit status $rc" "$dir/err"
	fi
}
usage 'no command'
usage 'an unknown command' volume
usage 'an unknown option' --jsn volumes
usage 'one word too many' volumes disk0
usage 'add without a volume' add
usage 'kill is not there yet' kill 17
shows 'and says so' 'not there yet'

# A start: each address on a line, then "ready" alone.
start_slabd disk0=memory:1G "web=file:$dir/web.img,size=1M"
# shellcheck disable=SC2016 # awk's
check 'addresses come before ready' awk -v nbd="^nbd $NBD( |\$)" -v iscsi="^iscsi $ISCSI( |\$)" '
	ready { late = 1 }
	$0 ~ nbd { n++ }
	$0 ~ iscsi { i++ }
	$0 == "ready" { ready = 1 }
	END { exit !(n == 1 && i == 1 && ready && !late) }' "$SLABD_LOG"
check 'the control socket is its owner'"'"'s' test "$(stat -c %a "$CONTROL")" = 600

check 'slabctl volumes' slabctl volumes
shows 'lists the file' '^web +file +1 MiB'
check 'slabctl --json volumes is one document' slabctl --json volumes
if have jq; then
	check 'with plain numbers' jq -e '.volumes[1].size == 1048576' "$dir/out"
fi
check 'slabctl status' slabctl status
check 'slabctl connections' slabctl connections
check 'slabctl stats' slabctl stats
check 'slabctl slabs' slabctl slabs
check 'slabctl alua' slabctl alua
shows 'lists the groups' "^$IQN:web +1 +active/optimized"
check 'a state is set' slabctl alua "$IQN:web" 1 standby
shows 'and shown' "^$IQN:web +1 +standby"
check_fails 'an unknown state is refused' slabctl alua "$IQN:web" 1 asleep
shows 'with the words that there are' 'active/non-optimized, standby or unavailable'
check_fails 'so is an unknown group' slabctl alua "$IQN:web" 9 standby
check_fails 'and an unknown target' slabctl alua "$IQN:nobody" 1 standby
check_fails 'and half of it' slabctl alua "$IQN:web" 1
check_fails 'a volume that is there is not added' slabctl add disk0=memory:1G
shows 'and says so' 'volume disk0 is already there'
check 'a volume is added' slabctl add more=memory:1G
check 'and removed' slabctl remove more
check_fails 'and is gone' slabctl remove more

# What the running one holds, a second cannot have.
check_fails 'a locked file is refused' "$slabd" "${here[@]}" "web=file:$dir/web.img"
shows 'and named' "slabd: volume web: $dir/web.img"
check_fails 'a port in use is refused' "$slabd" --nbd "$NBD" --iscsi none --control none a=memory:1G
shows 'and who has it' "slabd: nbd $NBD: address in use( \\(by slabd, pid $slabd_pid\\))?\$"
check_fails 'a unix socket in use is refused' \
	"$slabd" --nbd "unix:$NBD_SOCKET" --iscsi none --control none a=memory:1G
check 'and is still there' test -S "$NBD_SOCKET"
check_fails 'a control socket in use is refused' \
	"$slabd" --nbd 127.0.0.1:0 --iscsi none --control "$CONTROL" a=memory:1G
check 'and still answers' slabctl status

kill -HUP "$slabd_pid"
check 'SIGHUP is not there yet' timeout 20 sh -c \
	"until grep -q 'reload is not there yet' '$SLABD_LOG'; do sleep 0.05; done"
check 'SIGTERM ends it with 0' stop_slabd
check 'and says that it stopped' grep -q '^draining: 0 connections, 0 requests in flight … stopped$' \
	"$SLABD_LOG"
check 'no socket is left' test ! -e "$NBD_SOCKET" -a ! -e "$CONTROL"

# A killed one leaves its sockets; the next replaces them.
start_slabd disk0=memory:1G
kill -KILL "$slabd_pid"
wait "$slabd_pid" 2>/dev/null
slabd_pid=
start_slabd disk0=memory:1G
ok 'stale sockets are replaced'
check 'SIGTERM ends it' stop_slabd

finish
