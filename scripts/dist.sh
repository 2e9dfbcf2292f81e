#!/usr/bin/env bash
# Build what is released, into FOLDER: for each program and architecture an
# archive, a Debian package and a bill of materials (CycloneDX), and their
# checksums. The same commit gives the same bytes. `make dist` calls it, with
# RELEASE, COMMIT, DATE, TAGS and LDFLAGS as in the Makefile.
#
#   scripts/dist.sh FOLDER
#
# ARCHS=native builds for this machine's architecture only, else for amd64 and arm64.
# What cannot be built here is skipped; with COMPLETE=1 that is an error.
set -euo pipefail
cd "$(dirname "$0")/.."

dist=$1
: "${RELEASE:?run make dist}" "${DATE:?run make dist}" "${TAGS:?run make dist}" "${LDFLAGS:?run make dist}"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(date -u -d "$DATE" +%s)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC0
DEBIAN_VERSION=$(scripts/debian-version.sh "$RELEASE" "$SOURCE_DATE_EPOCH")
host=$(go env GOARCH)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

declare -A about=(
	[controller]="keeps every version of the configuration and serves it to the fleet
 The controller of Fleetconf: an admin publishes a configuration once, all
 agents fetch it, and the admin sees who runs it. It keeps its data in a
 SQLite file."
	[agent]="keeps the worker beside it at the configuration of the fleet
 The agent of Fleetconf: it fetches the configuration from the controller,
 keeps the last good one on disk, and sees to it that the worker runs it."
	[worker]="answers hits with what the configured URL answers
 The worker of Fleetconf: it runs the configuration that the agent beside it
 pushes."
)

# compiler prints the C compiler for an architecture. Only the controller has C code:
# SQLite.
compiler() {
	case $1 in
	"$host") echo "${CC:-gcc}" ;;
	arm64) echo aarch64-linux-gnu-gcc ;;
	amd64) echo x86_64-linux-gnu-gcc ;;
	esac
}

# build PROGRAM ARCHITECTURE FILE builds a static program.
build() {
	local flags=$LDFLAGS cgo=0
	if [ "$1" = controller ]; then
		cgo=1 flags+=' -linkmode external -extldflags "-static -Wl,--build-id=none"'
	fi
	CGO_ENABLED=$cgo CC=$(compiler "$2") GOOS=linux GOARCH=$2 \
		go build -trimpath -buildvcs=false -tags "$TAGS" -ldflags "$flags" -o "$3" "./$1/cmd"
}

# pack PROGRAM ARCHITECTURE makes all release files of a program.
pack() {
	local program=$1 arch=$2 package=fleetconf-$1
	local name=$package-$RELEASE-linux-$arch
	local stage=$work/$arch/$package
	if [ "$program" = controller ] && ! command -v "$(compiler "$arch")" >/dev/null; then
		echo "SKIPPED $package for $arch: $(compiler "$arch") is not installed"
		[ -z "${COMPLETE:-}" ] || { echo "Without it the release is not complete" >&2; exit 1; }
		return
	fi
	mkdir -p "$stage"
	build "$program" "$arch" "$stage/$package"
	cp "deploy/systemd/$package.service" README.md LICENSE CHANGELOG.md SECURITY.md deploy/deb/copyright "$stage/"
	# A program of another architecture cannot run here; its pages are the same.
	"$work/$host/$package/$package" --print man >"$stage/$package.8"
	"$work/$host/$package/$package" --print env >"$stage/$program.env"
	bin/tools/cyclonedx-gomod bin -json -noserial -notimestamp -std -version "$RELEASE" -output "$stage/$package.cdx.json" "$stage/$package"
	cp "$stage/$package.cdx.json" "$dist/$name.cdx.json"
	local more=()
	if [ "$program" = controller ]; then # for operators of the fleet
		mkdir -p "$stage/deploy" "$stage/docs"
		cp -r deploy/prometheus deploy/grafana "$stage/deploy/"
		cp docs/*.md "$stage/docs/"
		more=(deploy docs)
	fi
	archive "$stage" "$name" "$package" "$package.service" "$package.8" "$program.env" "$package.cdx.json" README.md LICENSE CHANGELOG.md SECURITY.md copyright "${more[@]}"

	gzip -9nk "$stage/$package.8"
	changelog "$package" | gzip -9n >"$stage/changelog.gz"
	for script in postinst prerm postrm; do
		sed "s/@PROGRAM@/$program/g" "deploy/deb/$script" >"$stage/$script"
	done
	# nfpm takes the paths of scripts as they are.
	sed "s|\${STAGE}/p|$stage/p|" deploy/deb/nfpm.yaml >"$stage/nfpm.yaml"
	find "$stage" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
	PACKAGE=$package PROGRAM=$program ARCH=$arch STAGE=$stage DESCRIPTION=${about[$program]} DEBIAN_VERSION=$DEBIAN_VERSION \
		bin/tools/nfpm package --config "$stage/nfpm.yaml" --packager deb --target "$dist/${package}_${DEBIAN_VERSION}_$arch.deb"
}

# archive FOLDER NAME FILE... makes NAME.tar.gz of files in a directory.
archive() {
	local stage=$1 name=$2
	shift 2
	tar -C "$stage" --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
		--transform="s|^|$name/|" -cf - "$@" | gzip -9n >"$dist/$name.tar.gz"
}

changelog() {
	cat <<-END
		$1 ($DEBIAN_VERSION) unstable; urgency=medium

		  * Release $RELEASE.

		 -- The Fleetconf authors <maintainers@fleetconf.example>  $(date -u -d "@$SOURCE_DATE_EPOCH" '+%a, %d %b %Y %H:%M:%S +0000')
	END
}

rm -rf "$dist"
mkdir -p "$dist"
dist=$(cd "$dist" && pwd)
others=$([ "$host" = arm64 ] && echo amd64 || echo arm64)
if [ "${ARCHS:-}" = native ]; then
	echo "SKIPPED $others: ARCHS is native"
	others=
fi
for arch in "$host" $others; do
	for program in controller agent worker; do
		pack "$program" "$arch"
	done
done
(cd "$dist" && sha256sum -- *.cdx.json *.deb *.tar.gz >SHA256SUMS)
