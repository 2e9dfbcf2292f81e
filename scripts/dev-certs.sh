#!/usr/bin/env bash
# Make a local authority and certificates for development. See --help.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."

program=$(mktemp)
trap 'rm -f "$program"' EXIT
go build -o "$program" ./pkg/cmd/dev-certs
cd "$from" # which DIR counts from
"$program" "$@"
