#!/bin/bash
# nbdcheck as a program: what it lists, prints and exits with.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "$0")/lib.sh"
nbdcheck=$build/nbdcheck
liar=$build/tests/conformance/nbd/liar

# status ARGUMENTS...: the exit status; output in $dir/out and $dir/err.
status() {
	"$nbdcheck" "$@" >"$dir/out" 2>"$dir/err"
	echo $?
}

start_liar() {
	"$liar" "${@:2}" "$dir/$1" >"$dir/$1.out" &
	started+=($!)
	for _ in $(seq 100); do
		grep -qs ready "$dir/$1.out" && break
		sleep 0.02
	done
}

start_liar truth
start_liar lie --lie wrong-cookie
start_liar warning --lie read-past-end-enospc
start_liar locked --require-tls
start_liar mortal --lie reset-kills-server
truth="nbd+unix:///truth?socket=$dir/truth"

is "--list exits 0" 0 "$(status --list)"
count=$(wc -l <"$dir/out")
is "--list has 200 checks at least" yes "$([ "$count" -ge 200 ] && echo yes || echo "$count")"
is "every id is listed once" "" "$(awk '{print $1}' "$dir/out" | sort | uniq -d)"
is "every title is listed once" "" "$(sed 's/^[^ ]* //' "$dir/out" | sort | uniq -d)"
is "every line cites a section and its word" "" "$(grep -vE '\(.*"[^"]+": (MUST|SHOULD)\)$' "$dir/out")"
is "--list --only GROUP lists a group" "meta" \
	"$("$nbdcheck" --list --only meta | awk '{print $2}' | sort -u)"
is "--list --only ID,ID lists two" 2 "$("$nbdcheck" --list --only H01,R01 | wc -l)"

is "--version exits 0" 0 "$(status --version)"
is "--help exits 0" 0 "$(status --help)"
is "no arguments are a usage error" 2 "$(status)"
is "an unknown option is a usage error" 2 "$(status --nonsense "$truth")"
is "an unknown check is a usage error" 2 "$(status --only H01,NONSENSE "$truth")"
is "and is named" 1 "$(grep -c '"NONSENSE"' "$dir/err")"
is "a deadline of 0 is a usage error" 2 "$(status --deadline 0 "$truth")"
is "a seed that is no number is a usage error" 2 "$(status --seed 12x "$truth")"
is "and is named" 1 "$(grep -c -- '--seed 12x' "$dir/err")"
is "two URIs are a usage error" 2 "$(status "$truth" "$truth")"

is "another scheme is refused" 2 "$(status http://localhost/)"
is "nbd+unix without a socket is refused" 2 "$(status nbd+unix:///)"
is "an unknown parameter is refused" 2 "$(status "$truth&colour=red")"
is "and is named" 1 "$(grep -c 'colour=red' "$dir/err")"
is "a broken escape is refused" 2 "$(status 'nbd://localhost/%zz')"
is "a bad port is refused" 2 "$(status 'nbd://[::1/')"
is "a missing PSK file is refused" 2 "$(status "$truth&tls-psk-file=$dir/none")"
is "an escaped name is decoded" 0 "$(status --only H01 "nbd+unix:///%74ruth?socket=$dir/truth")"

is "nobody there exits 2" 2 "$(status "nbd+unix:///?socket=$dir/nobody")"
is "an unknown export exits 2" 2 "$(status "nbd+unix:///nonsense?socket=$dir/truth")"
is "TLS wanted and not offered exits 2" 2 "$(status "nbds+unix:///?socket=$dir/truth")"
is "TLS forced by the server is used" 0 "$(status --only T03 "nbd+unix:///?socket=$dir/locked")"

is "a check that passes exits 0" 0 "$(status --only R03 "$truth")"
is "its line is TAP and cites the section" \
	'ok 1 - R03 cookies are echoed, whatever their bits (proto.md "Transmission")' \
	"$(grep '^ok' "$dir/out")"
is "the plan is there" "1..1" "$(grep '^1\.\.' "$dir/out")"
is "the warning stands at the top" 1 "$(head -2 "$dir/out" | grep -c 'overwrites the whole export')"
is "a check that fails exits 1" 1 "$(status --only R03 "nbd+unix:///?socket=$dir/lie")"
is "its line is not ok, and says MUST" 1 "$(grep -c '^not ok 1 - R03 .*: MUST)$' "$dir/out")"
is "what was sent, expected and got is told" "#   sent: #   expected: #   got:" \
	"$(grep -oE '^#   (sent|expected|got):' "$dir/out" | paste -sd' ')"
is "a warn exits 0" 0 "$(status --only E01 "nbd+unix:///?socket=$dir/warning")"
is "its line is ok with a warn" 1 "$(grep -c '^ok 1 - E01 .*: SHOULD) # warn: ' "$dir/out")"
is "a warn exits 1 with --strict" 1 "$(status --strict --only E01 "nbd+unix:///?socket=$dir/warning")"
is "a skip is told with its reason" 1 \
	"$(status --only T03 "$truth" >/dev/null; grep -c '^ok 1 - T03 .*# SKIP no TLS offered$' "$dir/out")"

is "a server that dies fails" 1 "$(status --only Z13,Z14,Z15,Z16 "nbd+unix:///?socket=$dir/mortal")"
is "for one check, or two" yes "$(grep -c '^not ok' "$dir/out" | grep -qx '[12]' && echo yes)"
is "and what would have come next is skipped" 1 \
	"$(grep -c '^ok 4 - Z16 .*# SKIP the server is gone: Connection refused$' "$dir/out")"

if command -v openssl >/dev/null; then
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 \
		-subj /CN=localhost >"$dir/out" 2>&1
	"$build/slabd" --nbd "unix:$dir/strict" --iscsi none --control none --tls-cert "$dir/cert.pem" \
		--tls-key "$dir/key.pem" --tls-ca "$dir/cert.pem" a=memory:1M 2>"$dir/strict.err" &
	started+=($!)
	for _ in $(seq 200); do
		grep -qs '^ready$' "$dir/strict.err" && break
		sleep 0.05
	done
	is "a server that wants a certificate exits 2" 2 "$(status "nbds+unix:///a?socket=$dir/strict")"
	is "and that is told" 1 "$(grep -c 'certificate required' "$dir/err")"
fi

status --read-only "$truth" >/dev/null
is "--read-only writes nothing" "0 0" "$(grep -c 'overwrites' "$dir/out") $(grep -c '^not ok' "$dir/out")"
is "and says so where it skips" yes \
	"$([ "$(grep -c 'SKIP the export is read-only, or --read-only' "$dir/out")" -gt 50 ] && echo yes)"

is "--json exits 0" 0 "$(status --json --only handshake,errors "$truth")"
if command -v python3 >/dev/null; then
	is "and is one document that adds up" "True" "$(python3 - "$dir/out" <<'PYTHON'
import json, sys
d = json.load(open(sys.argv[1]))
s = d["summary"]
print(s["checks"] == len(d["results"]) == s["pass"] + s["warn"] + s["fail"] + s["skip"] and
      {"id", "group", "title", "document", "section", "level", "result"} <= set(d["results"][0]))
PYTHON
)"
	python3 - "$dir/silent" <<'PYTHON' &
import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(8)
time.sleep(60)
PYTHON
	started+=($!)
	for _ in $(seq 100); do
		[ -S "$dir/silent" ] && break
		sleep 0.05
	done
	is "a server that says nothing exits 2" 2 \
		"$(timeout 20 "$nbdcheck" --deadline 1 "nbd+unix:///?socket=$dir/silent" 2>"$dir/err"; echo $?)"
	is "and is said to hang" 1 "$(grep -c 'the server hangs' "$dir/err")"
fi
echo "1..$number"
