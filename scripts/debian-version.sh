#!/usr/bin/env bash
# Print the Debian version of a release, as git describe names it, of a time in
# seconds since 1970: one that dpkg sorts as the releases follow one another.
#
#   v1.2.0                  1.2.0
#   v1.2.0-rc1              1.2.0~rc1                before 1.2.0
#   v1.2.0-3-g4c5fcfe       1.2.0+3.g4c5fcfe         after 1.2.0, before 1.2.1
#   4c5fcfe (no tag yet)    0~20261125013000.4c5fcfe  before all of them
#   …-dirty                 …+dirty
#
#   scripts/debian-version.sh RELEASE SECONDS
set -euo pipefail

release=$1
dirty=
if [[ $release == *-dirty ]]; then
	release=${release%-dirty} dirty=+dirty
fi
if [[ $release =~ ^v?([0-9][0-9.]*[.][0-9]+)(-([A-Za-z][A-Za-z0-9.]*))?(-([0-9]+)-(g[0-9a-f]+))?$ ]]; then
	version=${BASH_REMATCH[1]}${BASH_REMATCH[3]:+~${BASH_REMATCH[3]}}${BASH_REMATCH[5]:++${BASH_REMATCH[5]}.${BASH_REMATCH[6]}}
else
	time=$(date -u -d "@$2" +%Y%m%d%H%M%S)
	version=0~$time.$(tr -c 'A-Za-z0-9\n' . <<<"$release")
fi
echo "$version$dirty"
