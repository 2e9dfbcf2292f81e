#!/usr/bin/env bash
# Install, upgrade, remove and purge the packages given. It changes the machine:
# test/standin/scratch-machine.sh runs it in a copy of one.
#
#   scripts/check-install.sh PACKAGE.deb...
set -euo pipefail

fail() { echo "check-install: $*" >&2; exit 1; }
for package in "$@"; do
	packages+=("$(dpkg-deb -f "$package" Package)")
done
credentials=/etc/fleetconf/credentials

# Dependencies of a package may be missing here. dpkg gets no input for its questions.
install() { dpkg --force-depends --install "$@" >/tmp/log 2>&1 </dev/null || { cat /tmp/log >&2; fail "dpkg cannot install"; }; }
install "$@"
for package in "${packages[@]}"; do
	program=${package#fleetconf-}
	[ "$(env -i "$package" --version | cut -d' ' -f1)" = "$package" ] || fail "$package does not run"
	[ -s "/lib/systemd/system/$package.service" ] || fail "$package has no unit"
	[ -L "/etc/systemd/system/multi-user.target.wants/$package.service" ] || fail "$package.service is not enabled"
	secrets=$(sed -n 's/^LoadCredential=[^:]*://p' "/lib/systemd/system/$package.service")
	for secret in $secrets; do
		[ "$(stat -c '%a %U' "$secret")" = "600 root" ] || fail "$secret is not root's alone"
		[ "$(wc -c <"$secret")" -ge 32 ] || fail "$secret is short"
	done
	env -i bash -c "set -a; . /etc/fleetconf/$program.env; exec $package --help" >/dev/null || fail "$program.env is not a valid environment file"
done

# An upgrade with another list of settings asks nothing, and keeps local settings and
# secrets.
before=$(sha256sum $credentials/*)
echo "LOG_LEVEL=warn" >/etc/fleetconf/agent.local.env
for package in "$@"; do
	newer=$(mktemp -d)
	chmod 755 "$newer"
	dpkg-deb -R "$package" "$newer"
	sed -i 's/^Version: .*/&+next/' "$newer/DEBIAN/control"
	sed -i '$a #NEW_SETTING=' "$newer"/etc/fleetconf/*.env
	dpkg-deb -b "$newer" "$newer.deb" >/dev/null
	install "$newer.deb"
done
[ "$(sha256sum $credentials/*)" = "$before" ] || fail "an upgrade made other secrets"
grep -qx LOG_LEVEL=warn /etc/fleetconf/agent.local.env || fail "an upgrade lost the settings"
grep -qx '#NEW_SETTING=' /etc/fleetconf/agent.env || fail "an upgrade does not list the new settings"

# Removal keeps settings and secrets; purge removes everything.
mkdir -p /var/lib/private/fleetconf-controller
dpkg --remove "${packages[@]}" >/dev/null
[ ! -e /usr/bin/fleetconf-agent ] || fail "a removed package is still here"
[ -s /etc/fleetconf/agent.local.env ] || fail "a removed package lost its settings"
dpkg --purge fleetconf-controller >/dev/null
[ ! -e $credentials/admin-password ] || fail "a purged controller leaves its passwords"
dpkg --purge "${packages[@]}" >/dev/null 2>&1
left=$(find /etc /usr/bin /usr/share/doc /usr/share/man /lib/systemd /var/lib/dpkg/info /var/lib/private /var/lib/systemd -name '*fleetconf*' 2>/dev/null || true)
[ -z "$left" ] || fail "purged packages leave $left"
echo "check-install: ${packages[*]} install, upgrade, remove and purge"
