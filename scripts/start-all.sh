#!/usr/bin/env bash
# Build and run controller, agent and worker on this machine. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
	cat <<-'USAGE'
		Build and run controller, agent and worker on this machine.

		Usage:
		  scripts/start-all.sh [--tmux]

		  --tmux    run each in a pane of a tmux session named fleetconf, with a shell
		            below them, if tmux is installed
		  --help    print this page

		Without --tmux all three run in the foreground, and each log line begins with the
		name of its program. A program that ends is restarted, so that you can kill any of
		them and watch the others go on. Ctrl-C ends all three.

		Variables of the environment (default):
		  DATA_DIR          directory of the database and the agent's cache (./data)
		  CONTROLLER_PORT   (8080)
		  AGENT_PORT        (8081)
		  WORKER_PORT       (8082)
		  NO_COLOR          set to anything for no colours on a terminal
		  LOG_FORMAT        of all three, also without a terminal (text)
		and the settings of the three programs, as in bin/controller --help. With
		TLS_CERT_FILE the agent uses https://localhost, and trusts that certificate
		unless CONTROLLER_CA_FILE is set.
	USAGE
}

tmux=
while [ $# -gt 0 ]; do
	case $1 in
	--tmux) tmux=1 ;;
	--help | -h) usage; exit 0 ;;
	*) echo "start-all.sh: unknown argument $1; see --help" >&2; exit 2 ;;
	esac
	shift
done

data=${DATA_DIR:-./data}
: "${CONTROLLER_PORT:=8080}" "${AGENT_PORT:=8081}" "${WORKER_PORT:=8082}"
declare -A port=([controller]=$CONTROLLER_PORT [agent]=$AGENT_PORT [worker]=$WORKER_PORT)
names=(controller worker agent)
session=fleetconf

export DB_PATH="${DB_PATH:-$data/controller.db}" CACHE_FILE="${CACHE_FILE:-$data/agent_config.cache}"
export CONTROLLER_URL="http://localhost:${port[controller]}" WORKER_URL="http://127.0.0.1:${port[worker]}"
trust= # of curl
if [ -n "${TLS_CERT_FILE:-}" ]; then
	CONTROLLER_URL="https://localhost:${port[controller]}"
	export CONTROLLER_CA_FILE="${CONTROLLER_CA_FILE:-$TLS_CERT_FILE}"
	printf -v trust -- '--cacert %q ' "$CONTROLLER_CA_FILE"
fi
export CONTROLLER_USERNAME="${CONTROLLER_USERNAME:-${AGENT_USERNAME:-agent}}"
[ -z "${AGENT_PASSWORD:-}" ] || export CONTROLLER_PASSWORD="${CONTROLLER_PASSWORD:-$AGENT_PASSWORD}"
[ -z "${AGENT_PASSWORD_FILE:-}" ] || export CONTROLLER_PASSWORD_FILE="${CONTROLLER_PASSWORD_FILE:-$AGENT_PASSWORD_FILE}"
export LOG_FORMAT="${LOG_FORMAT:-text}"
export DEFAULT_POLL_INTERVAL="${DEFAULT_POLL_INTERVAL:-2}" # to see a publish arrive; a fleet polls less often

colour() { :; }
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	export CLICOLOR_FORCE=1 # of what writes to a pipe here
	colour() {
		case $1 in
		controller) printf '\e[36m' ;; agent) printf '\e[33m' ;; worker) printf '\e[35m' ;; off) printf '\e[0m' ;;
		esac
	}
fi

declare -A pid=()
stopping=

# settings_of sets own to the settings of NAME. None is a secret: tmux has them on its
# command line, which all users can read.
settings_of() { # NAME
	own=("PORT=${port[$1]}")
	if [ "$1" = agent ] && [ "${NATS_URL:-}" = embedded ]; then
		own+=("NATS_URL=nats://${NATS_LISTEN:-127.0.0.1:4222}")
	fi
}

start() { # NAME
	settings_of "$1"
	env "${own[@]}" "bin/$1" > >(prefix "$1") 2>&1 &
	pid[$1]=$!
}

# prefix adds the name of the program to each line. It ends with the program, not with
# Ctrl-C, so that the last lines are printed.
prefix() { # NAME
	trap '' INT TERM
	local line before
	before="$(colour "$1")$(printf '%-10s |' "$1")$(colour off)"
	while IFS= read -r line; do printf '%s %s\n' "$before" "$line"; done
}

stop_all() {
	stopping=1
	trap '' INT TERM
	[ ${#pid[@]} -eq 0 ] || kill -TERM "${pid[@]}" 2>/dev/null || true
	local name
	for name in "${!pid[@]}"; do wait "${pid[$name]}" 2>/dev/null || true; done
	pid=()
}

die() {
	printf 'start-all.sh: %s\n' "$*" >&2
	exit 1
}

is_healthy() { PORT=${port[$1]} "bin/$1" health >/dev/null 2>&1; } # NAME

# wait_healthy returns when NAME is healthy; it fails when the command ALIVE does.
wait_healthy() { # NAME ALIVE
	local tries
	for ((tries = 0; tries < 150; tries++)); do
		"$2" "$1" || die "$1 ended at its start; what it said stands above"
		is_healthy "$1" && return
		sleep 0.1
	done
	die "$1 does not answer on port ${port[$1]}"
}

greet() {
	cat <<-GREET

		All three run. Publish a configuration:

		  curl ${trust}-u ${ADMIN_USERNAME:-admin}:$admin -H 'Content-Type: application/json' -d '{"url":"https://example.com/"}' $CONTROLLER_URL/api/v1/config

		and hit the worker, which runs it a moment later:

		  curl -i http://localhost:${port[worker]}/hit

		API: $CONTROLLER_URL/swagger/index.html   Data: $data   $1
	GREET
}
admin=admin123
[ -z "${ADMIN_PASSWORD:-}${ADMIN_PASSWORD_FILE:-}" ] || admin='YOUR_ADMIN_PASSWORD'

make -s build
mkdir -p "$data"
for name in "${names[@]}"; do
	if (exec 3<>"/dev/tcp/127.0.0.1/${port[$name]}") 2>/dev/null; then
		die "port ${port[$name]} is in use already; end what listens there, or set ${name^^}_PORT"
	fi
done

if [ -n "$tmux" ] && command -v tmux >/dev/null; then
	server() { tmux -L "$session" "$@"; }
	server has-session -t "=$session" 2>/dev/null && die "a tmux session $session runs already; tmux -L $session attach"
	# A tmux server of its own gets this environment, with the passwords in it.
	export HOST="${HOST:-127.0.0.1}"
	server new-session -d -s "$session" -x 200 -y 50 -e "PORT=${port[controller]}" bin/controller \; \
		set-option -w remain-on-exit on
	server select-pane -t "=$session:" -T controller
	for name in worker agent; do
		settings_of "$name"
		server split-window -t "=$session:" "${own[@]/#/-e}" "bin/$name"
		server select-pane -t "=$session:" -T "$name"
		server select-layout -t "=$session:" tiled >/dev/null # room for the next
	done
	server set-option -w -t "=$session:" pane-border-status top
	server set-option -w -t "=$session:" pane-border-format ' #{pane_title} '

	alive() { # NAME: the pane whose command it is has not ended
		! server list-panes -t "=$session:" -F '#{pane_start_command} #{pane_dead}' | grep -q "bin/$1\"* 1"
	}
	give_up() {
		server list-panes -t "=$session:" -F '#{pane_id}' | while read -r pane; do server capture-pane -p -t "$pane" | grep . >&2; done
		server kill-server
	}
	trap give_up EXIT
	for name in "${names[@]}"; do wait_healthy "$name" alive; done
	trap - EXIT
	greeting=$(greet "End: tmux -L $session kill-server")
	echo "$greeting"
	# Also in a pane: tmux hides what this terminal shows.
	server split-window -t "=$session:" -e "GREETING=$greeting" 'printf "%s\n" "$GREETING"; unset GREETING; exec "${SHELL:-/bin/sh}"'
	server select-pane -t "=$session:" -T shell
	server select-layout -t "=$session:" tiled >/dev/null
	[ ! -t 1 ] || exec tmux -L "$session" attach
	exit 0
elif [ -n "$tmux" ]; then
	echo "start-all.sh: tmux is not installed; running in the foreground" >&2
fi

trap stop_all EXIT
trap 'exit 0' INT TERM HUP
alive() { kill -0 "${pid[$1]}" 2>/dev/null; } # NAME
for name in "${names[@]}"; do
	start "$name"
	wait_healthy "$name" alive
done
greet "End: Ctrl-C"

while [ -z "$stopping" ]; do
	sleep 0.5 # not wait -n, which misses what ends while another is started
	for name in "${names[@]}"; do
		alive "$name" && continue
		status=0
		wait "${pid[$name]}" 2>/dev/null || status=$?
		echo "start-all.sh: $name ended (exit status $status) and is started again" >&3
		sleep 1
		start "$name"
	done
done 3>&2 2>/dev/null # bash would report killed programs too
