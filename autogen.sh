#!/bin/sh
# Makes ./configure; needs autoconf, automake and pkg-config (contrib/deps installs them).
set -e
cd "$(dirname "$0")"
autoreconf --install --force --warnings=all
