#!/usr/bin/env bash
# Run the composed system, kill each of its containers, and check that it recovers. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
	cat <<-'USAGE'
		Run deploy/compose.yaml under a name, ports and secrets of its own, with each
		transport. Each container in turn is killed, and the broker: it must restart by
		itself, hits must go on meanwhile, and scripts/test-e2e.sh must pass before and after.

		Usage:
		  scripts/check-compose.sh [--keep] [--quick]

		  --keep    keep the images, which saves most of the time of the next run
		  --quick   with longpoll only, and test-e2e.sh runs after all containers were
		            killed, not after each

		scripts/check-images.sh builds and checks the images. For an image of a broker that
		cannot be pulled test/standin/image.sh makes a substitute; if it cannot, the broker
		is listed as skipped.
	USAGE
}
keep='' quick=''
for option; do
	case $option in
	--keep) keep=1 ;;
	--quick) quick=1 ;;
	--help | -h) usage; exit 0 ;;
	*) echo "check-compose.sh: unknown option $option; see --help" >&2; exit 2 ;;
	esac
done

skip() {
	echo "SKIPPED the composed system: $1"
	exit 0
}
docker version >/dev/null 2>&1 || skip "no container engine responds here"
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || skip "docker compose is not installed"

tmp=$(mktemp -d)
target=''
made=() # images
clean_up() {
	local code=$?
	trap '' INT TERM
	if [ "$code" != 0 ]; then
		scripts/compose.sh ps -a >&2 || true
		scripts/compose.sh logs --no-color --tail=15 >&2 || true
	fi
	[ -z "$target" ] || docker rm -f "$target" >/dev/null 2>&1 || true
	scripts/compose.sh down --volumes --timeout 5 >/dev/null 2>&1 || true
	if [ -z "$keep" ]; then
		docker image rm -f localhost/fleetconf-check/{controller,agent,worker,modules,build}:{latest,v0.0.0-check} $(docker images -q localhost/fleetconf-stand-in/golang) "${made[@]}" >/dev/null 2>&1 || true
	fi
	rm -rf "$tmp"
	exit "$code"
}

free_port() {
	local port=$((20000 + RANDOM % 10000))
	while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	echo $port
}
export COMPOSE_PROJECT_NAME=fleetconf-check-$$ SECRETS=$tmp/secrets IMAGES=localhost/fleetconf-check TAG=latest
CONTROLLER_PORT=$(free_port) WORKER_1_PORT=$(free_port) WORKER_2_PORT=$(free_port) PROMETHEUS_PORT=$(free_port)
export CONTROLLER_PORT WORKER_1_PORT WORKER_2_PORT PROMETHEUS_PORT
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

scripts/check-images.sh --keep
docker image inspect localhost/fleetconf-check/{controller,agent,worker}:latest >/dev/null 2>&1 || skip "there are no images to run"

fail() {
	echo "  ✗ $1" >&2
	exit 1
}
fleet=http://127.0.0.1:$CONTROLLER_PORT
workers=("http://127.0.0.1:$WORKER_1_PORT" "http://127.0.0.1:$WORKER_2_PORT")
container() { docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --filter "label=com.docker.compose.service=$1"; } # SERVICE

# image finds or pulls an image, or makes a substitute, and sets its variable for the
# composed system. Without any it prints SKIPPED and fails.
image() { # NAME
	local variable=${1^^}_IMAGE stand_in=localhost/fleetconf-stand-in/$1 real status=0
	real=${!variable:-$(sed -n "s/.*\${$variable:-\(.*\)}.*/\1/p" deploy/compose.yaml)}
	if ! docker image inspect "$real" >/dev/null 2>&1 && ! timeout 120 docker pull -q "$real" >/dev/null 2>&1; then
		docker image inspect "$stand_in" >/dev/null 2>&1 || test/standin/image.sh "$1" "$stand_in" || status=$?
		case $status in
		0) ;;
		3) echo "SKIPPED $1: $real cannot be pulled" && return 1 ;;
		*) fail "a stand-in for $real" ;;
		esac
		echo "$real cannot be pulled: this machine's own $1 replaces it"
		made+=("$stand_in") real=$stand_in
	fi
	export "$variable=$real"
}

up() { # PUSH [PROFILE]
	export PUSH=$1
	COMPOSE_PROFILES=${2:-} scripts/compose.sh up >"$tmp/up.log" 2>&1 || { cat "$tmp/up.log" >&2 && fail "PUSH=$1 make up"; }
	target=$(docker run -d --network "${COMPOSE_PROJECT_NAME}_work" --network-alias target --read-only --cap-drop ALL localhost/fleetconf-stand-in/target)
}
down() {
	docker rm -f "$target" >/dev/null
	target=''
	scripts/compose.sh down --volumes --timeout 20 >/dev/null 2>&1
}

e2e() { # WHEN
	local begun=$SECONDS
	ADMIN_PASSWORD_FILE=$SECRETS/admin_password.txt AGENT_PASSWORD_FILE=$SECRETS/agent_password.txt \
		scripts/test-e2e.sh --against "$fleet" --worker "${workers[0]}" --worker "${workers[1]}" --target http://target:8083/e2e >"$tmp/e2e.log" 2>&1 ||
		{ cat "$tmp/e2e.log" >&2 && fail "test-e2e.sh --against, $1"; }
	printf '  ✓ test-e2e.sh --against passes %s (%s s)\n' "$1" $((SECONDS - begun))
}

# crash kills the process of a container from outside: the engine does not restart a
# container that it was asked to kill.
crash() { # SERVICE
	local pid
	pid=$(docker inspect -f '{{.State.Pid}}' "$(container "$1")")
	kill -9 "$pid" 2>/dev/null || sudo -n kill -9 "$pid"
}
back() { # SERVICE RESTARTS: it was restarted so many times, and is healthy
	[ "$(docker inspect -f '{{.RestartCount}} {{.State.Health.Status}}' "$(container "$1")")" = "$2 healthy" ]
}
until_true() { # CONDITION...
	local deadline=$((SECONDS + 60))
	until "$@"; do
		[ $SECONDS -lt $deadline ] || fail "within 60 s: $*"
		sleep 0.2
	done
}
hit() { [ "$(curl -s -o "$tmp/hit" -w '%{http_code}' --max-time 5 "$1/hit")" = 200 ]; } # WORKER
hits_go_on() { # SERVICE: on every worker but a killed one, until the killed one is back
	local i
	for i in 0 1; do
		[ "$1" = "worker-$((i + 1))" ] || hit "${workers[i]}" || fail "hits go on at worker-$((i + 1)) while $1 is down"
	done
	back "$1" 1
}

docker image inspect localhost/fleetconf-stand-in/target >/dev/null 2>&1 || test/standin/image.sh target localhost/fleetconf-stand-in/target
made+=(localhost/fleetconf-stand-in/target)

profile=
image prometheus && profile=prometheus
echo "With PUSH=longpoll"
up longpoll "$profile"
docker ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" | xargs docker inspect >"$tmp/inspected"
for file in "$SECRETS"/*.txt; do
	value=$(grep -o '[0-9a-f]\{64\}' "$file") || fail "${file##*/} to hold 64 hexadecimal digits"
	! grep -qF "$value" "$tmp/inspected" || fail "docker inspect not to show ${file##*/}"
done
e2e "after make up"
if [ -n "$profile" ]; then
	scraped() { [ "$(curl -s "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/targets?state=active" | grep -o '"health":"up"' | wc -l)" = 5 ]; }
	until_true scraped
	echo "  ✓ Prometheus scrapes all five"
fi
curl -sf -u "admin:$(cat "$SECRETS/admin_password.txt")" -H 'Content-Type: application/json' \
	-d '{"url":"http://target:8083/kill","poll_interval_seconds":1}' "$fleet/api/v1/config" >/dev/null
for service in controller agent-1 agent-2 worker-1 worker-2; do
	for worker in "${workers[@]}"; do until_true hit "$worker"; done
	crash "$service"
	until_true hits_go_on "$service"
	if [ -n "$quick" ]; then
		echo "  ✓ $service was killed and restarted; hits went on"
	else
		e2e "after $service was killed and came back"
	fi
done
[ -z "$quick" ] || e2e "after all of them were killed and came back"
down
if [ -n "$quick" ]; then
	echo "SKIPPED redis and nats, and test-e2e.sh after each kill: --quick"
	exit 0
fi

for push in redis nats; do
	image $push || continue
	echo "With PUSH=$push"
	up $push
	has_transport() {
		[ "$(curl -s -o /dev/null -w '%header{x-total-count}' -u "admin:$(cat "$SECRETS/admin_password.txt")" "$fleet/api/v1/agents?transport=$push")" = 2 ]
	}
	until_true has_transport
	e2e "with both agents listening to $push"
	crash "$push"
	until_true back "$push" 1
	until_true has_transport
	e2e "after $push was killed and came back"
	down
done
