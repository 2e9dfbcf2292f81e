#!/usr/bin/env bash
# Build the images and check what is in them. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
	cat <<-'USAGE'
		Build deploy/Dockerfile and check the images: their size, what is in them, whom
		they run as, and that each starts with a read-only root and without capabilities.

		Usage:
		  scripts/check-images.sh [--keep]

		  --keep    leave the images, localhost/fleetconf-check/controller and so on

		GO_IMAGE names the image to build with. One that can neither be found nor pulled
		is replaced by a substitute of test/standin/image.sh. Where no container engine runs nothing is
		checked, and that is said.
	USAGE
}
keep=
case ${1:-} in
'') ;;
--keep) keep=1 ;;
--help | -h) usage; exit 0 ;;
*) echo "check-images.sh: unknown argument $1; see --help" >&2; exit 2 ;;
esac

images=localhost/fleetconf-check
# Named after the current modules, which it contains.
stand_in=localhost/fleetconf-stand-in/golang:$(cat ./*/go.sum deploy/Dockerfile | sha256sum | cut -c 1-12)
version=v0.0.0-check commit=0123456789ab date=2026-01-02T03:04:05Z
most=45000000 # bytes of an image

started=()
fail() { # WANT GOT
	printf '  ✗ %s: want %s\n    got  %s\n' "$name" "$1" "$2" >&2
	exit 1
}
clean_up() {
	local code=$?
	[ ${#started[@]} -eq 0 ] || docker rm -f -v "${started[@]}" >/dev/null 2>&1 || true
	[ -n "$keep" ] || docker image rm -f "$images"/{controller,agent,worker,modules,build}:{latest,$version} "$stand_in" >/dev/null 2>&1 || true
	rm -rf "$tmp"
	exit "$code"
}

if ! docker version >/dev/null 2>&1; then
	echo "SKIPPED the images: no container engine responds here"
	exit 0
fi
tmp=$(mktemp -d)
trap clean_up EXIT

go_image=${GO_IMAGE:-$(sed -n 's/^ARG GO_IMAGE=//p' deploy/Dockerfile)}
if ! docker image inspect "$go_image" >/dev/null 2>&1 && ! timeout 300 docker pull -q "$go_image" >/dev/null 2>&1; then
	status=0
	docker image inspect "$stand_in" >/dev/null 2>&1 || test/standin/image.sh golang "$stand_in" || status=$?
	case $status in
	0) echo "$go_image cannot be pulled: the images are built with a stand-in, made of this machine's own Go, gcc and libc" ;;
	3) echo "SKIPPED the images: $go_image cannot be pulled, and there is no stand-in for it"; exit 0 ;;
	*) exit "$status" ;;
	esac
	go_image=$stand_in
fi

echo "Building"
# Build stages get names too, so that they can be removed.
make -s image-modules image-build images IMAGES="$images" RELEASE="$version" COMMIT="$commit" DATE="$date" GO_IMAGE="$go_image" BUILDFLAGS=-q \
	>"$tmp/build.log" 2>&1 || { cat "$tmp/build.log" >&2; exit 1; }

of() { docker image inspect -f "$1" "$images/$name:$version"; } # FORMAT
hardened=(--read-only --cap-drop ALL --security-opt no-new-privileges --network none --pids-limit 128 --memory 256m)

# expected lists the files of the image, without those that the engine adds to every container.
expected() {
	printf '%s\n' "$name" etc/group etc/passwd etc/ssl/certs/ca-certificates.crt
}

start() { # [OPTION OF DOCKER RUN...]
	container=$(docker run -d "${hardened[@]}" --health-interval 1s "$@" "$images/$name:$version")
	started+=("$container")
}

# ends waits for the container to end by itself, and keeps its exit status and log.
ends() {
	status=$(timeout 60 docker wait "$container") || fail "the container to end" "it still runs"
	said=$(docker logs "$container" 2>&1)
}

for name in controller agent worker; do
	size=$(of '{{.Size}}')
	[ "$size" -lt $most ] || fail "less than $most bytes" "$size"
	for row in "User|65532:65532" "Entrypoint|[/$name]" "StopSignal|SIGTERM" "Healthcheck.Test|[CMD /$name health]"; do
		[ "$(of "{{.Config.${row%%|*}}}")" = "${row#*|}" ] || fail "${row%%|*} ${row#*|}" "$(of "{{.Config.${row%%|*}}}")"
	done
	for row in "title|fleetconf-$name" "version|$version" "revision|$commit" "created|$date" "source|?*" "licenses|Apache-2.0" "description|?*"; do
		got=$(of "{{index .Config.Labels \"org.opencontainers.image.${row%%|*}\"}}")
		# shellcheck disable=SC2053
		[[ $got == ${row#*|} ]] || fail "the label ${row%%|*} ${row#*|}" "$got"
	done

	container=$(docker create "$images/$name:$version")
	started+=("$container")
	docker export "$container" | tar -t | grep -v -E '/$|^\.dockerenv$|^(dev|proc|sys)/|^etc/(hostname|hosts|resolv.conf|mtab)$' | sort >"$tmp/files"
	expected | sort | diff - "$tmp/files" >"$tmp/diff" || fail "no other file than its own" "$(cat "$tmp/diff")"

	got=$(docker run --rm "${hardened[@]}" "$images/$name:$version" --version)
	[[ $got == "$name $version (commit $commit, built $date, go"* ]] || fail "$name $version, its commit and its date" "$got"
	got=$(docker run --rm "${hardened[@]}" "$images/$name:$version" health 2>&1) && fail "health to fail if nothing runs" "$got"

	case $name in
	controller) passwords=(-e ADMIN_PASSWORD=for-this-check -e AGENT_PASSWORD=for-this-check-too) unset=ADMIN_PASSWORD ;;
	agent) passwords=(-e CONTROLLER_PASSWORD=for-this-check -e WORKER_TOKEN=for-this-check) unset=CONTROLLER_PASSWORD ;;
	worker) passwords=() unset='' ;;
	esac
	if [ -n "$unset" ]; then
		start
		ends
		[ "$status" = 2 ] && [[ $said == *"$unset"* ]] || fail "exit status 2, and $unset named: its default is for loopback" "$status: $said"
		refused=", refuses the default passwords"
	fi

	start "${passwords[@]}"
	for ((tries = 0; tries < 120; tries++)); do
		health=$(docker inspect -f '{{.State.Health.Status}}' "$container")
		[ "$health" = starting ] || break
		sleep 0.5
	done
	[ "$health" = healthy ] || fail "the container to become healthy" "$health: $(docker logs "$container" 2>&1 | tail -n 5)"
	docker stop -t 20 "$container" >/dev/null
	ends
	[ "$status" = 0 ] || fail "exit status 0 on its stop signal" "$status: $said"
	printf '  ✓ %-10s %4.1f MB, nothing but the program, certificates and a user; healthy with a read-only root and no capability%s\n' \
		"$name" "$(awk "BEGIN { print $size / 1e6 }")" "${refused:-}"
	refused=''
done
