#!/usr/bin/env bash
# Make a local authority and certificates for development. See --help.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."

program=$PWD/bin/dev-certs
mkdir -p bin
go build -o "$program" ./pkg/cmd/dev-certs # links only after a change
cd "$from" # DIR is relative to it
exec "$program" "$@"
