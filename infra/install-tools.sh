#!/bin/sh
# Prometheus, promtool and Docker Compose for the tests of infra/, from Debian 13's packages, unpacked into a cache.
# Nothing is installed, so no service is started and no root is needed; apt checks the signatures. Quiet, and never an
# error: where it cannot (no apt, no network, no Debian keyring) it says so and the tests skip with their reason.
#
#   infra/install-tools.sh            fetch what is missing
#   tests/infra/tools.py              looks on PATH first, then in this folder
set -u
tools="${XDG_CACHE_HOME:-$HOME/.cache}/design-dedup/tools"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

give_up() {
    echo "infra/install-tools.sh: $1; tests that need prometheus or docker compose will be skipped" >&2
    exit 0
}

has_all() { [ -x "$tools/prometheus" ] && [ -x "$tools/promtool" ] && [ -x "$tools/docker-compose" ]; }

if has_all; then exit 0; fi
if command -v prometheus >/dev/null && command -v promtool >/dev/null && docker compose version >/dev/null 2>&1; then
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || give_up "no apt"
[ -r "$keyring" ] || give_up "no $keyring"

mkdir -p "$tools" || give_up "cannot write $tools"
work=$(mktemp -d) || give_up "no temporary folder"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/unpacked"
# A list of its own: the machine's own apt settings and lists are neither used nor changed.
echo "deb [signed-by=$keyring] http://deb.debian.org/debian trixie main" >"$work/sources.list"
cd "$work" || give_up "cannot enter $work"
apt() {
    timeout 180 apt-get -qq -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o APT::Sandbox::User=root -o Acquire::Retries=2 "$@" >"$work/apt.log" 2>&1
}
apt update || give_up "apt-get update failed"
apt download prometheus promtool docker-compose || give_up "apt-get download failed"
for package in ./*.deb; do
    dpkg -x "$package" unpacked || give_up "$package cannot be unpacked"
done
# Moved into place one by one, so that a run that is cut short leaves whole files only.
for file in usr/bin/prometheus usr/bin/promtool usr/libexec/docker/cli-plugins/docker-compose; do
    name=${file##*/}
    "./unpacked/$file" version >/dev/null 2>&1 || "./unpacked/$file" --version >/dev/null 2>&1 ||
        give_up "$name does not run on this machine"
    cp "unpacked/$file" "$tools/.$name.$$" && mv "$tools/.$name.$$" "$tools/$name" || give_up "cannot write $tools"
done
