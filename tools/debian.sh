#!/bin/sh
# Install what the tests need of Debian's packages, where that can be done; else say that the tests that need it are skipped.
#
#     sh tools/debian.sh 'the tests of …' 'PACKAGE …' 'COMMAND that succeeds where it is there'
set -eu
wanted=$1 packages=$2 there=$3
if sh -c "$there" >/dev/null 2>&1; then
	exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "==> Missing for $wanted, which are skipped in part (Debian: apt-get install $packages)"
	exit 0
fi
echo "==> Installing $packages, for $wanted"
# shellcheck disable=SC2086  # packages are words
install() { apt-get install -y -qq --no-install-recommends $packages >/dev/null; }
install 2>/dev/null || { apt-get update -qq && install; } || echo "==> It could not be installed: tests that need it are skipped"
