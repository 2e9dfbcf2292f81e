#!/usr/bin/env bash
# Run the composed system. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
	cat <<-'USAGE'
		Run the composed system, deploy/compose.yaml: a controller and two workers, each
		with its agent.

		Usage:
		  scripts/compose.sh up            build missing images, create missing secrets,
		                                   start, and wait until all services are healthy
		  scripts/compose.sh COMMAND...    other commands of compose: down, logs -f, ps

		Variables of the environment (default):
		  PUSH              the transport: longpoll, redis, nats or none (longpoll);
		                    redis and nats also run that broker
		  COMPOSE_PROFILES  additional services: prometheus
		  PUBLISH           the address to publish ports at (127.0.0.1)
		  CONTROLLER_PORT (8080) WORKER_1_PORT (8082) WORKER_2_PORT (8083) PROMETHEUS_PORT (9090)
		  IMAGES, TAG       the images: IMAGES/controller:TAG (localhost/fleetconf, latest)
		  PULL_POLICY       always or if_not_present to pull them from a registry (never)
		  REDIS_IMAGE, NATS_IMAGE, PROMETHEUS_IMAGE
		  FILES             limit of open files of a container, two for each connection
		                    through it (65536, or the limit of this machine)
		  SECRETS           directory of the secrets (deploy/secrets)
		  WAIT_TIMEOUT      seconds until all services must be healthy (120)
	USAGE
}
case ${1:-} in '' | --help | -h) usage; exit 0 ;; esac

export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-fleetconf}
SECRETS=$(realpath -m "${SECRETS:-deploy/secrets}")
files=$(ulimit -Hn) # an engine of this machine cannot give more
[ "$files" != unlimited ] && [ "$files" -lt 65536 ] || files=65536
export SECRETS FILES=${FILES:-$files}
images=${IMAGES:-localhost/fleetconf} timeout=${WAIT_TIMEOUT:-120}

profiles=${COMPOSE_PROFILES:-}
case ${PUSH:-longpoll} in redis | nats) profiles+=${profiles:+,}$PUSH ;; esac
[ "$1" = up ] || profiles=redis,nats,prometheus # what stops or is asked about need not be asked for again
export COMPOSE_PROFILES=$profiles

compose() {
	if docker compose version >/dev/null 2>&1; then
		docker compose -f deploy/compose.yaml "$@"
	else
		docker-compose -f deploy/compose.yaml "$@"
	fi
}

random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; } # fit for a URL, and for every syntax

# secret makes a file, where it is missing. It is mounted into containers whose
# user is not the one who owns it here, so others may read it.
secret() { # NAME CONTENT
	[ ! -s "$SECRETS/$1.txt" ] || return 0
	if [ $((0$(stat -c %a "$SECRETS") & 1)) = 1 ]; then
		printf 'Everybody may enter %s, where %s.txt is to be made: chmod o-x %q\n' "$SECRETS" "$1" "$SECRETS" >&2
		exit 1
	fi
	[ -n "$2" ] || { echo "$1 would be empty" >&2; exit 1; }
	(umask 022; printf '%s\n' "$2" >"$SECRETS/.$1.$$"; mv "$SECRETS/.$1.$$" "$SECRETS/$1.txt")
}

# What is there already stays as it is, and as it may be read: a folder that this
# makes keeps everybody out.
make_secrets() {
	mkdir -p "$(dirname "$SECRETS")"
	[ -d "$SECRETS" ] || mkdir -m 0700 "$SECRETS"
	local name password
	for name in admin_password agent_password worker_token nats_password; do
		password=$(random)
		secret "$name" "$password"
	done
	password=$(random)
	secret redis_url "redis://:$password@redis:6379"
	password=$(sed 's|.*:\(.*\)@.*|\1|' "$SECRETS/redis_url.txt")
	secret redis_conf "requirepass $password"$'\nsave ""\nappendonly no\ndir /tmp'
	# The pings of a NATS server cost more than all else that an idle agent does.
	password=$(cat "$SECRETS/nats_password.txt")
	secret nats_conf $'port: 4222\nhttp: "127.0.0.1:8222"\nping_interval: "10m"\n'"authorization { user: fleetconf, password: \"$password\" }"
}

# wait_healthy returns when every container is healthy.
wait_healthy() {
	local deadline=$((SECONDS + timeout)) states
	while :; do
		states=$(compose ps -q | xargs docker inspect -f '{{.Name}} is {{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}')
		grep -v ' is healthy$' <<<"$states" >/dev/null || return 0
		if [ $SECONDS -ge $deadline ]; then
			echo "Not healthy within $timeout s; see scripts/compose.sh logs:" >&2
			grep -v ' is healthy$' <<<"$states" >&2
			return 1
		fi
		sleep 0.5
	done
}

greet() {
	local at=${PUBLISH:-127.0.0.1} password
	printf -v password %q "${SECRETS/#$PWD\//}/admin_password.txt"
	cat <<-GREET

		All run. The password of admin is in $password. Publish a configuration:

		  curl -u "admin:\$(cat $password)" -H 'Content-Type: application/json' \\
		    -d '{"url":"https://example.com/"}' http://$at:${CONTROLLER_PORT:-8080}/api/v1/config

		and hit a worker, which runs it a moment later:

		  curl -i http://$at:${WORKER_1_PORT:-8082}/hit
		  curl -i http://$at:${WORKER_2_PORT:-8083}/hit

		API: http://$at:${CONTROLLER_PORT:-8080}/swagger/index.html   Logs: make logs   End: make down
	GREET
}

if [ "$1" != up ]; then
	# What is to be read of the file is there, though nothing was ever started.
	[ -d "$SECRETS" ] || make_secrets
	compose "$@"
	exit
fi
make_secrets
if [ "${PULL_POLICY:-never}" = never ]; then
	missing=
	for name in controller agent worker; do
		docker image inspect "$images/$name:${TAG:-latest}" >/dev/null 2>&1 || missing=1
	done
	[ -z "$missing" ] || make images
fi
compose up -d "${@:2}"
wait_healthy
greet
