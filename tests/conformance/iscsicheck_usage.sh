#!/bin/bash
# iscsicheck as a program: what it lists, prints and exits with.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "$0")/lib.sh"
iscsicheck=$build/iscsicheck

# status ARGUMENTS...: the exit status; output in $dir/out and $dir/err.
status() {
	"$iscsicheck" "$@" >"$dir/out" 2>"$dir/err"
	echo $?
}

# target NAME VOLUME: a slabd with one volume; the URI in $dir/NAME.uri.
target() {
	"$build/slabd" --nbd none --iscsi 127.0.0.1:0 --control none "$2" 2>"$dir/$1.err" &
	started+=($!)
	for _ in $(seq 200); do
		grep -qs '^ready$' "$dir/$1.err" && break
		sleep 0.05
	done
	local port
	port=$(sed -n 's/^iscsi 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$dir/$1.err" | head -1)
	echo "iscsi://127.0.0.1:$port/iqn.2026-11.localhost.slabd:${2%%=*}/0" >"$dir/$1.uri"
}

target disk disk=memory:16M
target locked locked=memory:16M,read_only=on
target small small=memory:1M
disk=$(cat "$dir/disk.uri")

is "--list exits 0" 0 "$(status --list)"
count=$(wc -l <"$dir/out")
is "--list has 200 checks at least" yes "$([ "$count" -ge 200 ] && echo yes || echo "$count")"
is "every id is listed once" "" "$(awk '{print $1}' "$dir/out" | sort | uniq -d)"
is "every title is listed once" "" "$(sed 's/^[^ ]* //' "$dir/out" | sort | uniq -d)"
is "every line cites a section and its word" "" \
	"$(grep -vE '\(RFC 7143 "([0-9.]+|C)": (MUST|SHOULD)\)$' "$dir/out")"
is "--list --only GROUP lists a group" "digests" \
	"$("$iscsicheck" --list --only digests | awk '{print $2}' | sort -u)"
is "--list --only ID,ID lists two" 2 "$("$iscsicheck" --list --only L01,D01 | wc -l)"

is "--version exits 0" 0 "$(status --version)"
is "--help exits 0" 0 "$(status --help)"
is "no arguments are a usage error" 2 "$(status)"
is "an unknown option is a usage error" 2 "$(status --nonsense "$disk")"
is "an unknown check is a usage error" 2 "$(status --only L01,NONSENSE "$disk")"
is "and is named" 1 "$(grep -c '"NONSENSE"' "$dir/err")"
is "a deadline of 0 is a usage error" 2 "$(status --deadline 0 "$disk")"
is "two URIs are a usage error" 2 "$(status "$disk" "$disk")"

is "another scheme is refused" 2 "$(status http://localhost/a/0)"
is "a URI without LUN is refused" 2 "$(status iscsi://localhost/iqn.2026-11.localhost:a)"
is "a LUN that is no number is refused" 2 "$(status iscsi://localhost/iqn.2026-11.localhost:a/x)"
is "a user without secret is refused" 2 "$(status iscsi://alice@localhost/iqn.2026-11.localhost:a/0)"
is "an unknown parameter is refused" 2 "$(status "$disk?colour=red")"
is "a target_user without target_password is refused" 2 "$(status "$disk?target_user=x")"
is "a TLS parameter without TLS is refused" 2 "$(status "$disk?tls-psk-file=$dir/none")"
is "a missing PSK file is refused" 2 "$(status "${disk/iscsi:/iscsis:}?tls-psk-file=$dir/none")"
is "TLS where there is none exits 2" 2 "$(status "${disk/iscsi:/iscsis:}")"
is "and is told" 1 "$(grep -c 'expected a TLS handshake' "$dir/err")"
is "a bad host is refused" 2 "$(status 'iscsi://[::1/iqn.2026-11.localhost:a/0')"

is "nobody there exits 2" 2 "$(status iscsi://127.0.0.1:1/iqn.2026-11.localhost:a/0)"
is "an unknown target exits 2" 2 "$(status "${disk%/0}x/0")"
is "and its status is told" 1 "$(grep -c 'status 0203h' "$dir/err")"
is "an unknown LUN exits 2" 2 "$(status "${disk%/0}/77")"
is "a unit that is too small exits 2" 2 "$(status "$(cat "$dir/small.uri")")"

is "a check that passes exits 0" 0 "$(status --only L01 "$disk")"
is "its line is TAP and cites the section" \
	'ok 1 - L01 a login through both stages ends in the full feature phase (RFC 7143 "6.3")' \
	"$(grep '^ok' "$dir/out")"
is "the plan is there" "1..1" "$(grep '^1\.\.' "$dir/out")"
is "the warning stands at the top" 1 \
	"$(head -2 "$dir/out" | grep -c 'overwrites the whole logical unit')"
is "a skip is told with its reason" 1 \
	"$(status --only C05 "$disk" >/dev/null; grep -c '^ok 1 - C05 .*# SKIP no CHAP' "$dir/out")"
is "every line of a whole run is TAP" "" \
	"$(status "$disk" >/dev/null; grep -vE '^(ok|not ok) [0-9]+ - |^# |^#   |^1\.\.' "$dir/out")"
is "with as many checks as are listed" "$count" "$(grep -cE '^(not )?ok ' "$dir/out")"

status --read-only "$disk" >/dev/null
is "--read-only writes nothing" 0 "$(grep -c 'overwrites' "$dir/out")"
is "and says so where it skips" yes \
	"$([ "$(grep -c 'SKIP the logical unit is write-protected, or' "$dir/out")" -gt 20 ] && echo yes)"
is "a write-protected unit is checked without writes" read-only \
	"$(status --only L01 "$(cat "$dir/locked.uri")" >/dev/null; grep -o 'read-only$' "$dir/out" | head -1)"

is "--json exits 0" 0 "$(status --json --only login,logout "$disk")"
if command -v python3 >/dev/null; then
	is "and is one document that adds up" "True" "$(python3 - "$dir/out" <<'PYTHON'
import json, sys
d = json.load(open(sys.argv[1]))
s = d["summary"]
print("iscsicheck" in d and
      s["checks"] == len(d["results"]) == s["pass"] + s["warn"] + s["fail"] + s["skip"] and
      {"id", "group", "title", "document", "section", "level", "result"} <= set(d["results"][0]))
PYTHON
)"
	python3 - "$dir/port" <<'PYTHON' &
import socket, sys, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(8)
open(sys.argv[1], "w").write("%d\n" % s.getsockname()[1])
time.sleep(60)
PYTHON
	started+=($!)
	for _ in $(seq 100); do
		[ -s "$dir/port" ] && break
		sleep 0.05
	done
	is "a target that says nothing exits 2" 2 \
		"$(status --deadline 1 "iscsi://127.0.0.1:$(cat "$dir/port")/iqn.2026-11.localhost:a/0")"
	is "and is said to hang" 1 "$(grep -c 'the target hangs' "$dir/err")"
fi
echo "1..$number"
