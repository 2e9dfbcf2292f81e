#!/usr/bin/env bash
# For machines without a container registry only: build a substitute for a base image. See --help.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
	cat <<-'USAGE'
		Build a substitute for an image that cannot be pulled, from this machine's own
		files, for tests on a machine without access to a registry. It has the programs of
		the real image at the same paths, but not its other contents.

		Usage:
		  test/standin/image.sh golang|redis|nats|prometheus|target TAG

		  golang       Go as it is installed here, gcc, the C library and the modules
		               that the programs need (Debian and its kin)
		  redis, prometheus
		               as they are installed here
		  nats         bin/nats-server, as make nats-server builds it
		  target       test/cmd/target, something to fetch

		Exit status: 0 when the image is there, 3 when this machine has not got what it
		takes, and the reason on standard error.
	USAGE
}
case ${1:-} in --help | -h) usage; exit 0 ;; esac
[ $# = 2 ] || { usage >&2; exit 2; }
tag=$2

missing() {
	echo "no stand-in for $tag: $1" >&2
	exit 3
}
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp" && rm -rf "$tmp"' EXIT
mkdir "$tmp/root"

# files_of prints the files of packages and their dependencies.
files_of() { # PACKAGE...
	local seen=' ' name depends
	while [ $# -gt 0 ]; do
		name=$1
		shift
		[[ $seen != *" $name "* ]] || continue
		seen+="$name "
		depends=$(dpkg-query -W -f '${Pre-Depends},${Depends}\n' "$name" 2>/dev/null | head -n 1) || continue # a virtual one
		dpkg -L "$name" 2>/dev/null | grep -v -E '^/usr/share/(doc|man|locale|info|lintian|bug)/'
		while read -r name; do [ -z "$name" ] || set -- "$@" "$name"; done < <(tr ',' '\n' <<<"$depends" | sed -e 's/|.*//' -e 's/[(:].*//' | tr -d ' ')
	done
}

# take copies files to the same paths, with the targets of links.
take() {
	sort -u | while IFS= read -r file; do
		[ -d "$file" ] || [ ! -e "$file" ] || printf '%s\0' "${file#/}"
	done | tar -C / -c --no-recursion --null -T - | tar -C "$tmp/root" -x
}

# program copies a program and its shared libraries.
program() { # NAME DIRECTORY
	local path library
	path=$(command -v "$1") || missing "there is no $1 here"
	install -D "$path" "$tmp/root$2/$1"
	{ ldd "$path" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
		install -D "$(readlink -f "$library")" "$tmp/root$library"
	done
}

# passwd writes /etc/passwd.
passwd() {
	mkdir -p "$tmp/root/etc" "$tmp/root/tmp"
	chmod 1777 "$tmp/root/tmp"
	echo 'root:x:0:0::/:/bin/sh' >"$tmp/root/etc/passwd"
	echo 'nobody:x:65534:65534::/:/bin/sh' >>"$tmp/root/etc/passwd"
}

as_image() { # [CHANGE...]: of docker import
	local change=() one
	for one in "$@"; do change+=(--change "$one"); done
	tar -C "$tmp/root" -c . | docker import "${change[@]}" --message 'a stand-in, made of the files of the machine that tests' - "$tag" >/dev/null
}

passwd
case $1 in
golang)
	command -v dpkg-query >/dev/null || missing "its compiler is put together from Debian's packages"
	[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ -n "$(gcc -print-file-name=libc.a | grep /)" ] || missing "there is no libc.a here; install libc6-dev"
	files_of gcc libc6-dev dash coreutils ca-certificates | take
	take <<</etc/ssl/certs/ca-certificates.crt
	# Only what compiling needs of Go: each additional file slows down each build step.
	goroot=$(go env GOROOT)
	mkdir -p "$tmp/root/usr/local/go"
	tar -C "$goroot" -c --exclude '*_test.go' --exclude testdata --exclude src/cmd bin pkg src lib go.env VERSION |
		tar -C "$tmp/root/usr/local/go" -x
	# A file proxy with the modules, from the cache of this machine or its proxy.
	cache=$(go env GOMODCACHE)/cache/download
	for m in controller agent worker; do
		GOWORK=off GOFLAGS=-modcacherw GOMODCACHE=$tmp/modules GOPROXY="file://$cache,$(go env GOPROXY)" GOSUMDB=off go -C "$m" mod download
	done
	mv "$tmp/modules/cache/download" "$tmp/root/modules"
	# The build cache of the programs, so that they are not compiled again.
	cache=$(go env GOCACHE)
	for m in controller agent worker; do
		GOWORK=off CGO_ENABLED=$([ $m = controller ] && echo 1 || echo 0) CGO_CFLAGS=$(sed -n 's/.*CGO_CFLAGS="\([^"]*\)".*/\1/p' deploy/Dockerfile) go -C "$m" list -export -deps -trimpath -buildvcs=false \
			-tags "$(sed -n 's/^ARG TAGS=//p' deploy/Dockerfile)" -f '{{.Export}}' ./cmd
	done | sed 's|.*/||' | sort -u >"$tmp/outputs"
	mkdir "$tmp/root/cache"
	{
		cd "$cache"
		sed -n 's|^\(..\).*|\1/&|p' "$tmp/outputs"                                         # each output, and
		sed -n 's/-d$//p' "$tmp/outputs" | grep -r -l -F -f - --include '*-a' . # what it is the output of
	} | tar -C "$cache" -c -T - | tar -C "$tmp/root/cache" -x
	as_image 'ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin' 'ENV GOPATH=/go' 'ENV GOPROXY=file:///modules' 'ENV GOSUMDB=off' 'ENV GOCACHE=/cache' \
		'VOLUME /go' # what is not kept from one step to the next need not be compared
	;;
redis)
	program redis-server /usr/local/bin
	program redis-cli /usr/local/bin
	as_image 'ENV PATH=/usr/local/bin' 'CMD ["redis-server"]'
	;;
nats)
	[ -x bin/nats-server ] || make -s nats-server
	install -D bin/nats-server "$tmp/root/usr/local/bin/nats-server"
	program wget /usr/bin
	as_image 'ENV PATH=/usr/local/bin:/usr/bin' 'CMD ["nats-server"]'
	;;
prometheus)
	program prometheus /bin
	program wget /bin
	mkdir "$tmp/root/prometheus"
	chmod 1777 "$tmp/root/prometheus"
	as_image 'ENV PATH=/bin' 'USER nobody' 'WORKDIR /prometheus' 'VOLUME /prometheus' 'ENTRYPOINT ["/bin/prometheus"]'
	;;
target)
	CGO_ENABLED=0 go build -trimpath -o "$tmp/root/target" ./test/cmd/target
	as_image 'USER 65532:65532' 'ENV HOST=0.0.0.0' 'ENV PORT=8083' 'ENTRYPOINT ["/target"]'
	;;
*) usage >&2; exit 2 ;;
esac
