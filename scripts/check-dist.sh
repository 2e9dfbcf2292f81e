#!/usr/bin/env bash
# Check what `make dist` built in FOLDER, and that a second build has the same bytes.
# Prints what it skipped. `make check-dist` calls it.
#
#   scripts/check-dist.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."

dist=$1
PATH=$PATH:/usr/sbin:/sbin
host=$(go env GOARCH)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# fail reports an error, and the checks go on.
fail() { echo "check-dist: $*" >&2; touch "$scratch/wrong"; }
skipped() { echo "SKIPPED $*"; }
has() { command -v "$1" >/dev/null; }

# The order of versions is that of the releases.
last=
for release in 4c5fcfe v0.9.0 v1.2.0-rc1 v1.2.0-rc1-2-gabc1234 v1.2.0 v1.2.0-3-gabc1234 v1.2.0-3-gabc1234-dirty v1.2.1; do
	version=$(scripts/debian-version.sh "$release" 1795570000)
	has dpkg || { skipped "the order of versions: dpkg is not installed"; break; }
	dpkg --validate-version "$version" || fail "$release gives the version $version"
	[ -z "$last" ] || dpkg --compare-versions "$last" lt "$version" || fail "$version ($release) does not come after $last"
	last=$version
done

(cd "$dist" && sha256sum --quiet -c SHA256SUMS) || fail "$dist/SHA256SUMS does not match"
[ "$(find "$dist" -type f ! -name SHA256SUMS | wc -l)" = "$(wc -l <"$dist/SHA256SUMS")" ] || fail "$dist/SHA256SUMS does not name all files"

scripts/dist.sh "$scratch/again" >/dev/null
diff "$dist/SHA256SUMS" "$scratch/again/SHA256SUMS" >&2 || fail "the second build has other bytes than the first"

# check_program PROGRAM FILE: an executable is static and prints its build.
check_program() {
	if has readelf; then
		if readelf -lW "$2" | grep -q INTERP || readelf -dW "$2" | grep -q NEEDED; then
			fail "$2 is not static"
		fi
	else
		skipped "whether fleetconf-$1 is static: readelf is not installed"
	fi
	local said
	said=$(env -i "$2" --version)
	[[ $said == "fleetconf-$1 $RELEASE (commit "*", built $DATE, go"* ]] || fail "fleetconf-$1 --version prints: $said"
}

# check_pages PROGRAM EXECUTABLE PAGE SETTINGS: the pages contain each setting of
# --help.
check_pages() {
	local setting settings
	settings=$(env -i "$2" --help | sed -n '/^Settings/,/^Exit status/s/^  \([A-Z][A-Z0-9_]*\).*/\1/p')
	[ "$(wc -w <<<"$settings")" -ge 5 ] || fail "fleetconf-$1 --help lists fewer than 5 settings"
	for setting in $settings; do
		grep -q "^\.B $setting\b" "$3" || fail "the manual page of fleetconf-$1 lacks $setting"
		grep -qE "^#${setting}(_FILE)?=" "$4" || fail "$1.env lacks $setting"
	done
	if has groff; then
		if groff -man -Tutf8 -ww -z "$3" 2>&1 | grep .; then
			fail "groff reports errors in the manual page of fleetconf-$1"
		fi
	else
		skipped "the manual page of fleetconf-$1: groff is not installed"
	fi
}

# check_sbom EXECUTABLE FILE: the bill of materials contains each module of a program.
check_sbom() {
	local module version rest modules
	modules=$(go version -m "$1" | grep -P '^\t(dep|=>)\t' | grep -v '\./')
	if has jq; then
		jq -e '.bomFormat == "CycloneDX" and (.components | length > 0)' "$2" >/dev/null || fail "$2 is no CycloneDX document"
	else
		skipped "whether $2 parses: jq is not installed"
	fi
	while read -r _ module version rest; do
		grep -qF "\"pkg:golang/$module@$version" "$2" || grep -qF "\"$module\"" "$2" || fail "$2 lacks $module $version"
	done <<<"$modules"
}

for archive in "$dist"/*.tar.gz; do
	name=$(basename "$archive" .tar.gz)
	package=${name%"-$RELEASE"-linux-*} arch=${name##*-}
	program=${package#fleetconf-}
	tar -C "$scratch" -xzf "$archive"
	for file in "$package" "$package.service" "$package.8" "$program.env" "$package.cdx.json" README.md LICENSE CHANGELOG.md SECURITY.md copyright; do
		[ -s "$scratch/$name/$file" ] || fail "$archive lacks $file"
	done
	if [ "$program" = controller ] && ! [ -s "$scratch/$name/docs/operations.md" -a -s "$scratch/$name/deploy/prometheus/alerts.yml" ]; then
		fail "$archive lacks its documents or alerts"
	fi
	check_sbom "$scratch/$name/$package" "$dist/$name.cdx.json"
	if [ "$arch" = "$host" ]; then
		check_program "$program" "$scratch/$name/$package"
		check_pages "$program" "$scratch/$name/$package" "$scratch/$name/$package.8" "$scratch/$name/$program.env"
	fi
done

if ! has dpkg-deb; then
	skipped "the Debian packages: dpkg-deb is not installed"
else
	for deb in "$dist"/*.deb; do
		package=$(dpkg-deb -f "$deb" Package)
		program=${package#fleetconf-}
		dpkg-deb -c "$deb" >"$scratch/content"
		for file in "-rwxr-xr-x root/root ./usr/bin/$package" "-rw-r--r-- root/root ./lib/systemd/system/$package.service" \
			"-rw-r----- root/root ./etc/fleetconf/$program.env" "drwx------ root/root ./etc/fleetconf/credentials/" \
			"-rw-r--r-- root/root ./usr/share/man/man8/$package.8.gz" "-rw-r--r-- root/root ./usr/share/doc/$package/copyright"; do
			awk '{ print $1, $2, $6 }' "$scratch/content" | grep -qxF -- "$file" || fail "$deb lacks $file"
		done
		[ "$(dpkg-deb -I "$deb" conffiles)" = "/etc/fleetconf/$program.env" ] || fail "$deb keeps other files than its settings"
	done
	if has lintian; then
		lintian --fail-on error --suppress-tags statically-linked-binary "$dist"/*.deb || fail "lintian finds errors"
	else
		skipped "lintian: it is not installed"
	fi
	if why=$(test/standin/scratch-machine.sh true 2>&1); then
		test/standin/scratch-machine.sh scripts/check-install.sh "$dist"/*_"$host".deb || fail "the packages do not install or remove as they should"
	else
		skipped "installing the packages: no scratch copy of this machine can be made ($why)"
	fi
fi

if [ -e "$scratch/wrong" ]; then
	exit 1
fi
echo "check-dist: $(wc -l <"$dist/SHA256SUMS") files, built twice with the same bytes"
