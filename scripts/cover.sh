#!/usr/bin/env bash
# Print how much of each package of rules its tests cover; fail below a bound.
#
#   scripts/cover.sh MINIMUM TAGS PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."

minimum=$1 tags=$2
shift 2

failed=0
for package in "$@"; do
	if ! output=$(go test -short -tags "$tags" -cover "./$package" 2>&1); then
		printf '%s\n' "$output"
		exit 1
	fi
	percent=$(sed -n 's/.*coverage: \([0-9.]*\)% of statements.*/\1/p' <<<"$output")
	if [ -z "$percent" ]; then
		echo "$package has no tests: $output" >&2
		exit 1
	fi
	printf '%6s %%  %s\n' "$percent" "$package"
	if awk -v got="$percent" -v want="$minimum" 'BEGIN { exit !(got < want) }'; then
		echo "$package is covered to $percent %; at least $minimum % is wanted" >&2
		failed=1
	fi
done
exit "$failed"
