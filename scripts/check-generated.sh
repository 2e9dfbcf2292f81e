#!/usr/bin/env bash
# Fail if the generated documents of a module, or docs/settings.md, differ from what
# `make generate` writes. The tree is not changed.
#
#   scripts/check-generated.sh MODULE...
set -euo pipefail
cd "$(dirname "$0")/.."

before=$(mktemp -d)
restore() {
	for module in "$@"; do
		if [ -d "$before/$module" ]; then
			rm -rf "$module/docs"
			cp -a "$before/$module" "$module/docs"
		fi
	done
	rm -rf "$before"
}
trap 'restore "$@"' EXIT

for module in "$@"; do
	cp -a "$module/docs" "$before/$module"
	log=$(go generate "./$module/..." 2>&1) || { printf '%s\n' "$log" >&2; exit 1; }
	if ! diff -r -u "$before/$module" "$module/docs" >&2; then
		echo "$module/docs is stale: run make generate and commit what it changes" >&2
		exit 1
	fi
done

scripts/settings-doc.sh >"$before/settings.md"
if ! diff -u docs/settings.md "$before/settings.md" >&2; then
	echo "docs/settings.md is stale: run make generate and commit what it changes" >&2
	exit 1
fi
