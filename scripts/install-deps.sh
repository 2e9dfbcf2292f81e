#!/usr/bin/env bash
# Install what building and testing takes beside Go, on Debian and its kin.
# Quiet if nothing is missing. Tests run Redis servers of their own, on ports of
# their own; one that the package may start is left alone.
set -euo pipefail

declare -A package=(
	[gcc]=gcc [make]=make [curl]=curl [git]=git [awk]=mawk [diff]=diffutils
	[redis-server]=redis-server
)
missing=()
for program in "${!package[@]}"; do
	command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
# go-sqlite3 is C: it takes the headers of the C library too.
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)

if ! command -v go >/dev/null; then
	echo "Go 1.26 or newer is missing: install it, and put its bin folder in PATH" >&2
	exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "Missing: ${missing[*]}. Install them, on Debian with: sudo apt-get install ${missing[*]}" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
