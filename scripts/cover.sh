#!/usr/bin/env bash
# Print the coverage of packages in a test run whose events (go test -json -cover) are in
# FILE, and fail below a minimum.
#
#   scripts/cover.sh MINIMUM FILE PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."

minimum=$1 events=$2
shift 2

failed=0
for package in "$@"; do
	percent=$(sed -n 's|.*"Package":"[^"]*/'"$package"'","Output":"coverage: \([0-9.]*\)% of statements.*|\1|p' "$events" | head -n 1)
	if [ -z "$percent" ]; then
		echo "$events has no coverage of $package: run make test" >&2
		exit 1
	fi
	printf '%6s %%  %s\n' "$percent" "$package"
	if awk -v got="$percent" -v want="$minimum" 'BEGIN { exit !(got < want) }'; then
		echo "$package is covered to $percent %; at least $minimum % is required" >&2
		failed=1
	fi
done
exit "$failed"
