#!/usr/bin/env bash
# Run every fuzz target for a while.
#
#   scripts/fuzz.sh [TIME]     such as 10s, which is what it is without
set -euo pipefail
cd "$(dirname "$0")/.."

grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' pkg controller agent worker | sort |
	while IFS=: read -r file func; do
		target=${func#func }
		echo "== $(dirname "$file") $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-10s}" "./$(dirname "$file")" </dev/null
	done
