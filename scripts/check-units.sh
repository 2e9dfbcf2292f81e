#!/usr/bin/env bash
# Fail if a unit is faulty, or exposes the machine more than it must
# (systemd-analyze verify, systemd-analyze security).
set -euo pipefail
cd "$(dirname "$0")/.."

limit=2.0 # "OK" ends at 4.0; most services stand at 9
if ! command -v systemd-analyze >/dev/null; then
	echo "SKIPPED check-units: there is no systemd-analyze here"
	exit 0
fi
units=$(mktemp -d)
trap 'rm -rf "$units"' EXIT
failed=0
for unit in deploy/systemd/*.service; do
	name=$(basename "$unit")
	# verify wants the program, which may not be installed here.
	sed "s|^ExecStart=.*|ExecStart=$(command -v true)|" "$unit" >"$units/$name"
	status=0
	report=$(systemd-analyze verify --man=no "$units/$name" 2>&1) || status=$?
	if [ "$status" != 0 ] || [[ $report == *"$name"* ]]; then
		printf '%s: systemd-analyze verify: exit status %s\n%s\n' "$unit" "$status" "$report" >&2
		failed=1
	fi
done
if ! systemd-analyze security --help 2>/dev/null | grep -q -- --offline; then
	echo "SKIPPED the exposure of units: systemd-analyze --offline requires systemd 250"
	exit $failed
fi
for unit in deploy/systemd/*.service; do
	verdict=$(systemd-analyze security --offline=true --no-pager "$units/$(basename "$unit")" 2>/dev/null | tail -1)
	exposure=$(grep -oE '[0-9]+\.[0-9]+' <<<"$verdict" || true)
	echo "$unit: exposure ${exposure:?systemd-analyze security prints nothing for $unit}, to be below $limit"
	if ! awk -v is="$exposure" -v limit="$limit" 'BEGIN { exit !(is < limit) }'; then
		echo "$unit: run systemd-analyze security --offline=true $unit to see what exposes it" >&2
		failed=1
	fi
done
exit $failed
