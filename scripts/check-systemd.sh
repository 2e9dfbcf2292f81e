#!/usr/bin/env bash
# Install packages on a machine with systemd, and use, hang, stop, upgrade, remove and
# purge their services. It takes a minute, half of it until systemd detects that a
# program hangs. `make check-systemd` calls it.
#
#   scripts/check-systemd.sh PACKAGE.deb...
set -euo pipefail

if [ "${1:-}" != --here ]; then
	machine=$(dirname "$0")/../test/standin/booted-machine.sh
	status=0
	why=$("$machine" true 2>&1) || status=$?
	case $status in
	0) exec "$machine" "$0" --here "$@" ;;
	3) echo "SKIPPED check-systemd: no copy of this machine can be booted ($why)" ;;
	*) echo "$why" >&2 ;;
	esac
	exit $((status == 3 ? 0 : status))
fi
shift

# From here on the machine belongs to this check.
programs=(controller agent worker)
declare -A package port=([controller]=8080 [agent]=8081 [worker]=8082)
for file in "$@"; do package[$(dpkg-deb -f "$file" Package | sed 's/^fleetconf-//')]=$file; done
credentials=/etc/fleetconf/credentials

log() { printf '%3d s  %s\n' "$SECONDS" "$*"; }
fail() {
	journalctl --no-pager --quiet --output=cat --lines=60 --unit='fleetconf-*' >&2
	echo "check-systemd: $*" >&2
	exit 1
}
# within SECONDS COMMAND... retries until it succeeds.
within() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@" 2>/dev/null; do
		[ "$SECONDS" -lt "$deadline" ] || return 1
		sleep 0.1
	done
}
# Dependencies of a package may be missing here. Triggers of other packages, such as
# the index of manual pages, are not needed.
install() { dpkg --force-depends --force-confold --force-unsafe-io --no-triggers --install "$@" >/tmp/log 2>&1 || { cat /tmp/log >&2; fail "dpkg cannot install $*"; }; }
property() { systemctl show --value --property="$2" "fleetconf-$1"; } # PROGRAM PROPERTY
is() { [ "$(property "$1" "$2")" = "$3" ]; }                          # PROGRAM PROPERTY VALUE
other() { is "$1" ActiveState active && ! is "$1" MainPID "$2"; }     # PROGRAM PID: another process serves
ask() { curl -fsS --max-time 5 "http://127.0.0.1:$@"; }               # PORT/PATH [OPTION]...
admin() { ask "$@" --config - <<<"user = \"admin:$(cat $credentials/admin-password)\""; }
hits() { # PORT/PATH: whether a hit answers what that does
	local target
	target=$(ask "$1") && [ "$(ask 8082/hit)" = "$target" ]
}
publish() { admin 8080/api/v1/config --json "{\"url\":\"http://127.0.0.1:$1\"}" >/dev/null; }
serve() { # PROGRAM...: whether each became active by sd_notify
	local program
	for program in "$@"; do
		within 20 is "$program" ActiveState active || fail "$program is not active"
		[ "$(property "$program" Type) $(property "$program" SubState) $(property "$program" StatusText)" = "notify running Serving" ] || fail "$program has not notified that it serves"
		ask "${port[$program]}/health" >/dev/null || fail "$program does not respond"
	done
}

# Before each start: try, as the user of the program, what must be forbidden.
mkdir /run/probe
cat >/run/probe/try <<-'END'
	[ "$(nice -n 5 nice)" = 0 ] || { echo "no filter of system calls" >&2; exit 1; }
	! unshare --user true 2>/dev/null || { echo "namespaces are not refused" >&2; exit 1; }
	[ ! -e /proc/1 ] || { echo "it sees other processes" >&2; exit 1; }
END
for program in "${programs[@]}"; do
	mkdir -p "/run/systemd/system/fleetconf-$program.service.d"
	printf '[Service]\nExecStartPre=/bin/sh /run/probe/try\n' >"/run/systemd/system/fleetconf-$program.service.d/probe.conf"
done

log "systemd $(systemctl --version | awk 'NR == 1 { print $2 }') runs"

# An agent without a password uses the default one.
install "${package[agent]}"
serve agent
[ "$(cat /run/credentials/fleetconf-agent.service/agent-password)" = secret123 ] || fail "the agent does not have the default password"
install "${package[controller]}" "${package[worker]}"
serve "${programs[@]}"
cmp -s $credentials/agent-password /run/credentials/fleetconf-agent.service/agent-password || fail "the agent goes on with the old password"
log "installed: each unit is active, by sd_notify"

for program in "${programs[@]}"; do
	pid=$(property "$program" MainPID) unit=fleetconf-$program.service
	user=$(stat -c %u "/proc/$pid")
	[ "$user" -ge 61184 ] && [ "$user" -le 65519 ] || fail "$program runs as the user $user, which is not one of its own"
	for line in 'CapEff:	0000000000000000' 'CapBnd:	0000000000000000' 'NoNewPrivs:	1'; do
		grep -qx "$line" "/proc/$pid/status" || fail "$program has not $line"
	done
	awk '$2 == "/" { root = $4 } END { exit root !~ /^ro,/ }' "/proc/$pid/mounts" || fail "$program may write to /"
	secrets=$(sed -n 's/^LoadCredential=\([^:]*\):.*/\1/p' "/lib/systemd/system/$unit")
	for secret in $secrets; do
		[ "$(stat -c '%a %u' "/run/credentials/$unit/$secret")" = "400 $user" ] || fail "$secret is not $program's alone"
		! grep -qF -e "$(cat "/run/credentials/$unit/$secret")" "/proc/$pid/environ" || fail "$secret is in the environment of $program"
	done
	[ "$program" != worker ] || continue
	[ "$(stat -c '%a %u' "/var/lib/private/fleetconf-$program")" = "700 $user" ] || fail "the folder of $program is not its own"
	[ -z "$(find "/var/lib/private/fleetconf-$program/" -type f ! -perm 600)" ] || fail "others may read the files of $program"
done
[ -s /var/lib/fleetconf-controller/controller.db ] || fail "the database is not in the controller's folder"
log "each has a user, credentials and a folder of its own, no capability, and is confined"

publish 8080/version
within 10 hits 8080/version || fail "no hit answers what was published"
[ -n "$(find /var/lib/fleetconf-agent/ -type f -size +0)" ] || fail "the agent keeps nothing in its folder"
log "published with the password that was made: a hit answers what the URL does"

# The programs hang, all at once.
declare -A hung
for program in "${programs[@]}"; do
	hung[$program]=$(property "$program" MainPID)
	kill -STOP "${hung[$program]}"
done
for program in "${programs[@]}"; do
	within 45 other "$program" "${hung[$program]}" || fail "$program hangs, and is not started again"
	is "$program" NRestarts 1 || fail "$program was not started again by systemd"
	journalctl --quiet --unit="fleetconf-$program" --grep='Watchdog timeout' >/dev/null || fail "no watchdog ended $program"
	journalctl --quiet --unit="fleetconf-$program" --grep='^goroutine [0-9]+ ' >/dev/null || fail "$program ended without its goroutines in the log"
done
serve "${programs[@]}"
within 15 hits 8080/version || fail "no hit answers after the watchdog"
publish 8081/version
within 15 hits 8081/version || fail "the worker does not run a version that was published after the watchdog"
log "hung: the watchdog ended each, and they are back"

for program in "${programs[@]}"; do
	from=$SECONDS
	systemctl stop "fleetconf-$program"
	[ $((SECONDS - from)) -le 12 ] || fail "$program took $((SECONDS - from)) s to stop"
	is "$program" Result success && is "$program" ExecMainStatus 0 || fail "$program stopped with $(property "$program" Result), status $(property "$program" ExecMainStatus)"
done
systemctl start fleetconf-worker fleetconf-agent
within 15 hits 8081/version || fail "no hit answers from what the agent kept"
# A backup is restored as docs/operations.md says, and as the controller's own.
DB_PATH=/var/lib/fleetconf-controller/controller.db fleetconf-controller backup /tmp/backup.db >/dev/null || fail "root cannot back up"
(
	cd /var/lib/fleetconf-controller
	rm controller.db
	cp /tmp/backup.db controller.db && chown --reference=. controller.db
)
systemctl start fleetconf-controller
serve "${programs[@]}"
[ "$(admin 8080/api/v1/config | sed 's/.*"version":\([0-9]*\).*/\1/')" = 2 ] || fail "a restored controller has another version"
log "stopped, in time and with status 0; started, and hits are answered before the controller is; restored"

# An upgrade restarts what runs, and leaves alone what was stopped and disabled.
systemctl disable --quiet --now fleetconf-worker
declare -A old
for program in "${programs[@]}"; do old[$program]=$(property "$program" MainPID); done
install "${package[@]}"
for program in controller agent; do
	within 20 other "$program" "${old[$program]}" || fail "an upgrade does not restart $program"
done
is worker ActiveState inactive || fail "an upgrade starts a worker that was disabled"
# A port below 1024, with the drop-in that the units speak of.
cat >/run/systemd/system/fleetconf-worker.service.d/port.conf <<-'END'
	[Service]
	Environment=PORT=80
	AmbientCapabilities=CAP_NET_BIND_SERVICE
	CapabilityBoundingSet=CAP_NET_BIND_SERVICE
	PrivateUsers=no
END
systemctl daemon-reload
systemctl enable --quiet --now fleetconf-worker
ask 80/health >/dev/null || fail "a worker with that drop-in does not listen on port 80"
rm /run/systemd/system/fleetconf-worker.service.d/port.conf
systemctl daemon-reload
systemctl restart fleetconf-worker
serve "${programs[@]}"
within 15 hits 8081/version || fail "no hit answers after an upgrade"
log "upgraded: what ran was restarted, what was disabled was not"

names=("${programs[@]/#/fleetconf-}")
rm -r /run/systemd/system/fleetconf-*.service.d
systemctl daemon-reload
dpkg --no-triggers --remove "${names[@]}" >/dev/null
[ -z "$(pgrep -f /usr/bin/fleetconf-)" ] || fail "a removed program still runs"
[ -s /var/lib/private/fleetconf-controller/controller.db ] || fail "a removed controller lost its database"
dpkg --no-triggers --purge "${names[@]}" >/dev/null 2>&1
left=$(find /etc /usr/bin /lib/systemd /run/systemd/system /run/credentials /var/lib/private /var/lib/systemd /var/lib/fleetconf* -name '*fleetconf*' 2>/dev/null || true)
left+=$(systemctl list-units --all --plain --no-legend 'fleetconf-*')
[ -z "$left" ] || fail "purged packages leave $left"
log "removed, and purged: nothing is left"
