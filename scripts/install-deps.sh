#!/usr/bin/env bash
# Install the packages for building and testing, except Go, on Debian and derivatives.
# Quiet if nothing is missing. Tests run Redis, nginx and HAProxy themselves, on
# ports of their own: one that was there before is left alone, and what is
# installed here does not run by itself. With NO_INSTALL=1 it installs nothing,
# and fails if something is missing.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

declare -A package=(
	[gcc]=gcc [make]=make [curl]=curl [git]=git [awk]=mawk [diff]=diffutils
	[redis-server]=redis-server [nginx]=nginx-light [haproxy]=haproxy
	[prometheus]=prometheus [groff]=groff-base [tmux]=tmux
)
missing=()
for program in "${!package[@]}"; do
	command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
# go-sqlite3 contains C code, which needs the headers of the C library.
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)

if ! command -v go >/dev/null; then
	echo "Go 1.26 or newer is missing: install it, and put its bin directory in PATH" >&2
	exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if [ -n "${NO_INSTALL:-}" ] || [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "Missing: ${missing[*]}. Install them, on Debian with: sudo apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "Installing ${missing[*]} (NO_INSTALL=1 only names missing packages)" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
for service in redis-server nginx haproxy prometheus; do
	[[ " ${missing[*]} " == *" ${package[$service]} "* ]] || continue
	if [ -d /run/systemd/system ]; then
		systemctl --quiet disable --now "$service"
	else
		service "$service" stop >/dev/null 2>&1 || true # it was not started here
		update-rc.d "$service" disable >/dev/null
	fi
done
