#!/usr/bin/env bash
# Run the whole system, break it, and check that it recovers. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
	cat <<-'USAGE'
		Run the whole system, break it, and check that it recovers. It needs bash, curl and,
		to build the three programs, Go and make; no input and no network.

		Usage:
		  scripts/test-e2e.sh [--push longpoll|redis|nats|none]
		  scripts/test-e2e.sh --against URL [--worker URL]... [--target URL]

		  --push HOW      the transport (longpoll); redis starts a redis-server, nats the
		                  embedded one of the controller
		  --against URL   test a running system, by its controller's URL, instead of
		                  starting one; nothing is killed, and the previous configuration
		                  is published again at the end
		  --worker URL    the worker to hit (WORKER_URL, or http://localhost:8082); may be
		                  repeated
		  --target URL    a URL for the workers to fetch, which responds with 200; without
		                  it a small server is started here, which they must reach
		  --help          print this page

		Credentials come from ADMIN_USERNAME, ADMIN_PASSWORD, AGENT_USERNAME and
		AGENT_PASSWORD, with the defaults of the controller, or from the files that
		ADMIN_PASSWORD_FILE and AGENT_PASSWORD_FILE name. WAIT_TIMEOUT is the timeout of each
		condition in seconds (60).

		Exit status: 0 if every step passed, 1 at the first failure, 2 for an invalid
		command line.
	USAGE
}

refuse() {
	echo "test-e2e.sh: $1; see --help" >&2
	exit 2
}
against='' push='' target='' workers=()
while [ $# -gt 0 ]; do
	case $1 in
	--against | --worker | --target)
		[ $# -gt 1 ] || refuse "$1 takes a URL"
		case $1 in --against) against=${2%/} ;; --worker) workers+=("${2%/}") ;; --target) target=$2 ;; esac
		shift
		;;
	--push)
		case ${2:-} in longpoll | redis | nats | none) push=$2 ;; *) refuse "--push takes longpoll, redis, nats or none" ;; esac
		shift
		;;
	--help | -h) usage; exit 0 ;;
	*) refuse "unknown argument $1" ;;
	esac
	shift
done
[ -z "$against" ] || [ -z "$push" ] || refuse "--push is for a system that is started here, not for --against"
: "${push:=longpoll}"

[ ${#workers[@]} -gt 0 ] || workers=("${WORKER_URL:-http://localhost:8082}")

for password in ADMIN_PASSWORD AGENT_PASSWORD; do
	file=${password}_FILE
	[ -n "${!file:-}" ] || continue
	value=$(<"${!file}")
	printf -v "$password" '%s' "$value"
done
admin="${ADMIN_USERNAME:-admin}:${ADMIN_PASSWORD:-admin123}"
agent="${AGENT_USERNAME:-agent}:${AGENT_PASSWORD:-secret123}"
timeout=${WAIT_TIMEOUT:-60} # of every condition, in seconds

# --- steps and expectations -------------------------------------------------

tmp=$(mktemp -d)
declare -A pid=() port=([controller]=0 [agent]=0 [worker]=0 [target]=0) url=()
what='' passed=0 since=$SECONDS reported=''
frozen=''  # set while this script freezes publishing
restore='' # what to publish at the end, also after a failure

step() {
	if [ -n "$what" ]; then
		printf '  ✓ %s\n' "$what"
		passed=$((passed + 1))
	fi
	what=$1
}

fail() { # WANT GOT
	reported=1
	{
		printf '  ✗ %s\n    want %s\n    got  %s\n' "$what" "$1" "$2"
		local name
		for name in controller agent worker broker target; do
			[ -s "$tmp/$name.log" ] || continue
			printf '\n--- the last lines of %s\n' "$name"
			tail -n 15 "$tmp/$name.log"
		done
	} >&2
	exit 1
}

clean_up() {
	local code=$?
	trap '' INT TERM
	[ "$code" = 0 ] || [ -n "$reported" ] || echo "  ✗ $what: broken off, line $1" >&2
	[ -z "$frozen" ] || as "$admin" DELETE "$api/freeze"
	if [ -n "$restore" ]; then
		publish "$restore"
		[ "$status" = 200 ] || echo "  ✗ the previous configuration could not be published again; publish it: $restore" >&2
	fi
	local name
	for name in "${!pid[@]}"; do crash "$name"; done
	rm -rf "$tmp"
	exit "$code"
}
trap 'clean_up $LINENO' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# http sends a request and stores the response in $status (000 for none), $body and, for
# header, the headers.
http() { # METHOD URL [OPTION OF CURL...]
	local method=$1
	called="$1 $2"
	: >"$tmp/body" >"$tmp/headers"
	status=$(curl -s --max-time 20 -X "$method" -o "$tmp/body" -D "$tmp/headers" -w '%{http_code}' "${@:2}") || true
	body=$(tr -d '\000' <"$tmp/body") || fail "to read the response" "an error" # callers put && behind it
}
as() { http "$2" "$3" -u "$1" "${@:4}"; }                                                              # WHO METHOD URL…
send() { as "$1" POST "$2" -H 'Content-Type: application/json' -d "$3" "${@:4}"; }                      # WHO URL JSON…
header() { tr -d '\r' <"$tmp/headers" | sed -n "s/^$1: //Ip" | tail -n 1; }                             # NAME
json() { grep -o "\"$1\":\(\"[^\"]*\"\|[^,}]*\)" <<<"$body" | head -n 1 | cut -d: -f2- | tr -d '"' || true; } # NAME: its first value

want_status() { [ "$status" = "$1" ] || fail "the status of $called: $1" "$status $body"; }
want_body() { [[ $body == *"$1"* ]] || fail "the body to contain $1" "$body"; }
want_header() { [[ $(header "$1") == $2 ]] || fail "the header $1: $2" "$(header "$1")"; } # NAME PATTERN
want_json() { [ "$(json "$1")" = "$2" ] || fail "$1 to be $2" "$body"; }
want_problem() { # STATUS [WORDS]
	want_status "$1"
	want_header Content-Type 'application/problem+json*'
	want_json status "$1"
	[ -z "${2:-}" ] || want_body "$2"
}

# eventually retries until a condition is true.
eventually() { # CONDITION [ARGUMENT...]
	local deadline=$((SECONDS + timeout))
	until "$@"; do
		[ $SECONDS -lt $deadline ] || fail "within $timeout s: $*" "${status:-} ${body:-}"
		sleep 0.1
	done
}
answers() { http GET "$1" && [ "$status" = "$2" ]; }                       # URL STATUS
runs() { # VERSION: every worker does
	local worker
	for worker in "${workers[@]}"; do
		http GET "$worker/hit" && [ "$(header X-Config-Version)" = "$1" ] || return
	done
}
hit_gives() { # WORDS: the hit of every worker is the target's own answer
	local worker
	for worker in "${workers[@]}"; do
		http GET "$worker/hit" && want_status 200
		[ -z "${url[target]:-}" ] || want_body "target /e2e?$1"
	done
}
applied() { as "$admin" GET "$api/agents?version=$1" && [ "$(header X-Total-Count)" -ge "$2" ]; } # VERSION COUNT
failed() { as "$admin" GET "$api/rollouts/$1" && [ "$(json failed)" -ge 1 ]; }                  # VERSION
to() { local query='?'; [[ $target != *\?* ]] || query='&'; printf '%s%s%s' "$target" "$query" "$1"; } # WORDS: a URL of its own
publish() { send "$admin" "$api/config" "$1"; }                            # JSON

# --- the processes ------------------------------------------------------------

start() { # NAME [SETTING...]
	local name=$1 said=0 program=bin/$1
	[ "$name" != target ] || program=$tmp/target
	[ ! -e "$tmp/$name.log" ] || said=$(wc -l <"$tmp/$name.log")
	env -i PATH="$PATH" HOME="$tmp" LOG_FORMAT=json LOG_LEVEL=info PORT="${port[$name]}" "${@:2}" "$program" >>"$tmp/$name.log" 2>&1 &
	pid[$name]=$!
	listening() {
		local address
		address=$(tail -n "+$((said + 1))" "$tmp/$name.log" | sed -n -e '/"msg":"Listening"/s/.*"addr":"\([^"]*\)".*/\1/p' -e 's|^http://||p' | head -n 1)
		if [ -z "$address" ]; then
			alive "$name" || fail "$name to start" "it ended"
			return 1
		fi
		url[$name]=http://$address port[$name]=${address##*:}
	}
	eventually listening
}
start_controller() {
	local nats=()
	[ "$push" != nats ] || nats=(NATS_URL=embedded NATS_LISTEN="127.0.0.1:$broker_port")
	start controller DB_PATH="$tmp/controller.db" DEFAULT_POLL_INTERVAL=1 PUSH="$push" REDIS_URL="redis://127.0.0.1:$broker_port" "${nats[@]}" \
		ADMIN_USERNAME="${admin%%:*}" ADMIN_PASSWORD="${admin#*:}" AGENT_USERNAME="${agent%%:*}" AGENT_PASSWORD="${agent#*:}"
}
start_worker() { start worker; }
start_agent() {
	start agent PUSH="$push" REDIS_URL="redis://127.0.0.1:$broker_port" NATS_URL="nats://127.0.0.1:$broker_port" CACHE_FILE="$tmp/agent_config.cache" CONTROLLER_URL="http://127.0.0.1:${port[controller]}" WORKER_URL="http://127.0.0.1:${port[worker]}" \
		CONTROLLER_USERNAME="${agent%%:*}" CONTROLLER_PASSWORD="${agent#*:}"
}
start_broker() {
	redis-server --port "$broker_port" --bind 127.0.0.1 --save '' --appendonly no --dir "$tmp" >>"$tmp/broker.log" 2>&1 &
	pid[broker]=$!
	eventually taken "$broker_port"
}
broker_port=$((20000 + RANDOM % 10000))
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; } # PORT
while taken "$broker_port"; do broker_port=$((broker_port + 1)); done
has_transport() { as "$admin" GET "$api/agents?transport=$1" && [ "$(header X-Total-Count)" = 1 ]; }             # TRANSPORT: the agent does
polls_every() { http GET "${url[agent]}/status" && [ "$(json poll_interval_seconds)" = "$1" ]; }               # SECONDS: to poll so often
alive() { kill -0 "${pid[$1]}" 2>/dev/null; }
crash() { # NAME: as when the machine loses it, with nothing said before
	kill -9 "${pid[$1]}" 2>/dev/null || true
	wait "${pid[$1]}" 2>/dev/null || true
	unset "pid[$1]"
}
terminate() { # NAME: as a supervisor stops it; its exit status must be 0
	local code=0
	kill -TERM "${pid[$1]}"
	wait "${pid[$1]}" || code=$?
	unset "pid[$1]"
	[ "$code" = 0 ] || fail "$1 to end with exit status 0 on SIGTERM" "$code"
}

if [ -z "$against" ]; then
	make -s build
fi
if [ -z "$target" ]; then
	go build -o "$tmp/target" ./test/cmd/target
	start target
	target=${url[target]}/e2e
fi
if [ -n "$against" ]; then
	url[controller]=$against
	for i in "${!workers[@]}"; do url[worker${i#0}]=${workers[i]}; done
	echo "Against the controller at $against and ${workers[*]}"
else
	echo "With PUSH=$push"
	[ "$push" != redis ] || start_broker
	start_controller
	start_worker
	workers=("${url[worker]}")
	start_agent
fi
api=${url[controller]}/api/v1

# --- the steps -----------------------------------------------------------------

step "each program is healthy and reports its build"
for name in "${!url[@]}"; do
	[ "$name" != target ] || continue
	eventually answers "${url[$name]}/health" 200
	http GET "${url[$name]}/version" && want_status 200 && want_body '"commit"'
done
eventually answers "${url[controller]}/ready" 200
[ -n "$against" ] || eventually answers "${url[agent]}/ready" 200

if [ -z "$against" ]; then
	step "before the first publish there is no configuration"
	as "$agent" GET "$api/config" && want_problem 404
	want_header X-Poll-Interval-Seconds 1
	http GET "${url[worker]}/hit" && want_problem 503
	want_header Retry-After '[1-9]*'
	http GET "${url[worker]}/config" && want_problem 404
	http GET "${url[worker]}/ready" && want_problem 503 configuration
	as "$admin" GET "$api/configs" && want_status 200
	[ "$body" = '[]' ] || fail "an empty history, []" "$body"
fi
as "$admin" GET "$api/config"
before=$([ "$status" != 200 ] || echo "$body")
was="{\"url\":\"$(json url)\",\"poll_interval_seconds\":$(json poll_interval_seconds),\"probe\":$([[ $body == *'"probe":true'* ]] && echo true || echo false),\"message\":\"e2e: as it was before\"}"

step "requests without access get 401 and 403"
http GET "$api/config" && want_problem 401
want_header WWW-Authenticate 'Basic *'
as "${admin%%:*}:wrong" GET "$api/configs" && want_problem 401
want_header WWW-Authenticate 'Basic *'
http GET "$api/config" -H 'Authorization: Basic !!!' && want_problem 401
send "${admin%%:*}:" "$api/config" '{"url":"http://example.com/"}' && want_problem 401
send "$agent" "$api/config" '{"url":"http://example.com/"}' && want_problem 403
as "$agent" GET "$api/agents" && want_problem 403
as "$agent" GET "$api/configs" && want_problem 403

step "invalid input gets an error with the field, and changes nothing"
for bad in '' '/relative' 'ftp://example.com/' 'http://' 'http://user:secret@example.com/' 'http://example.com/#top' 'http://example.com/a b' 'http://münchen.de/' \
	'http://example.com:99999/' "http://example.com/$(printf 'x%.0s' {1..2048})"; do
	publish "{\"url\":\"$bad\"}" && want_problem 400 '"field":"url"'
done
for seconds in 0 -1 86401 1.5 '"abc"' 99999999999999999999; do
	publish "{\"url\":\"http://example.com/\",\"poll_interval_seconds\":$seconds}" && want_problem 400 '"field":"poll_interval_seconds"'
done
publish '{"uri":"http://example.com/"}' && want_problem 400 '"field":"uri"'
publish '{"url":"http://example.com/","url":"http://example.com/"}' && want_problem 400 '"field":"url"'
publish '{"url":null}' && want_problem 400 '"field":"url"'
publish '{"url":"http://example.com/\u0000"}' && want_problem 400 '"field":"url"'
publish '{"url":"http://exam' && want_problem 400
publish '{"url":"http://example.com/"}{}' && want_problem 400
publish '' && want_problem 400
send "$admin" "$api/config?poll_interval=soon" '{"url":"http://example.com/"}' && want_problem 400 '"field":"poll_interval"'
as "$admin" POST "$api/config" -d 'url=http://example.com/' && want_problem 415
head -c 70000 /dev/zero | tr '\0' ' ' >"$tmp/large"
as "$admin" POST "$api/config" -H 'Content-Type: application/json' --data-binary "@$tmp/large" && want_problem 413
as "$admin" GET "$api/config"
[ "$([ "$status" != 200 ] || echo "$body")" = "$before" ] || fail "the previous configuration, $before" "$body"

step "unknown paths get 404, and unknown methods 405"
for name in controller worker; do
	http GET "${url[$name]}/nothing/here" && want_problem 404
	http DELETE "${url[$name]}/health" && want_problem 405
	want_header Allow '*GET*'
done
as "$admin" GET "$api/configs/999999999" && want_problem 404
as "$admin" GET "$api/agents/nobody" && want_problem 404
as "$admin" PUT "$api/config" && want_problem 405
want_header Allow '*POST*'

step "the API documents itself"
for name in controller worker; do
	http GET "${url[$name]}/swagger/index.html" && want_status 200
	want_header Content-Type 'text/html*'
	http GET "${url[$name]}/swagger/doc.json" && want_status 200 && want_body '"paths"'
done

step "a publish is acknowledged with its version and entity tag"
mark=$$-$RANDOM
[ -z "$against" ] || [ -z "$before" ] || restore=$was
publish "{\"url\":\"$(to "$mark-1")\",\"poll_interval_seconds\":1,\"message\":\"e2e $mark\"}" && want_status 200
want_json changed true
version=$(json version)
[ -n "$against" ] || want_json version 1
etag=$(header ETag)
want_header ETag '"?*"'


step "the fleet runs it: a hit gets the response of the target"
eventually runs "$version"
hit_gives "$mark-1"
if [ -n "${url[target]:-}" ]; then
	want_header Content-Type 'text/plain; charset=utf-8'
fi
eventually answers "${url[worker]}/ready" 200

step "an unchanged configuration gets 304, also for a list of tags and for *"
for tags in "$etag" "\"other\", $etag" "W/$etag" '*'; do
	as "$agent" GET "$api/config" -H "If-None-Match: $tags" && want_status 304
	want_header ETag "$etag"
	want_header X-Poll-Interval-Seconds 1
done
for tags in '"other"' '' "${etag//\"/}" "\"$(printf 'x%.0s' {1..10000})\""; do
	as "$agent" GET "$api/config" -H "If-None-Match: $tags" && want_status 200
	want_json version "$version"
done

step "the same content makes no new version"
publish "{\"url\":\"$(to "$mark-1")\"}" && want_status 200
want_json changed false
want_json version "$version"
want_header ETag "$etag"

step "the poll interval changes alone, with ?poll_interval="
as "$admin" POST "$api/config?poll_interval=2" && want_status 200
want_json changed true
as "$agent" GET "$api/config" && want_status 200
want_json poll_interval_seconds 2
want_header X-Poll-Interval-Seconds 2
want_body "$mark-1"

step "a publish with a stale If-Match gets 412"
send "$admin" "$api/config" "{\"url\":\"$(to "$mark-lost")\"}" -H "If-Match: $etag" && want_problem 412
as "$admin" GET "$api/config"
send "$admin" "$api/config?poll_interval=1" "{\"url\":\"$(to "$mark-2")\"}" -H "If-Match: $(header ETag)" && want_status 200
version=$(json version)
eventually runs "$version"
hit_gives "$mark-2"

step "the history shows who published what, when and why"
as "$admin" GET "$api/configs" && want_status 200
want_json version "$version"
want_body "\"message\":\"e2e $mark\""
want_body "\"published_by\":\"${admin%%:*}\""
[[ $(json published_at) == 20??-* ]] || fail "when it was published" "$body"
as "$admin" GET "$api/configs/$((version - 2))" && want_status 200 && want_body "$mark-1"

step "the rollout shows which agents run it, and waits for them"
as "$admin" GET "$api/rollouts/$version?wait=15s&applied=$([ -z "$against" ] && echo 1 || echo 0.01)" && want_status 200
want_body '"latency_ms"'
as "$admin" GET "$api/rollouts/$((version - 1))" && want_status 200 && want_body "\"superseded_by\":$version"
as "$admin" GET "$api/rollouts/$((version + 1))" && want_problem 404
as "$admin" GET "$api/rollouts/$version?wait=soon" && want_problem 400 '"field":"wait"'
as "$admin" GET "$api/agents/summary" && want_status 200 && want_body '"by_status"'

step "a publish is rolled back, after a dry run"
as "$admin" POST "$api/configs/$((version - 2))/rollback?dry_run=true" && want_status 200
want_json dry_run true
want_body "$mark-1"
as "$admin" GET "$api/configs/$((version + 1))" && want_problem 404
as "$admin" POST "$api/configs/$((version - 2))/rollback" && want_status 200
want_json version $((version + 1))
eventually runs $((version + 1))
hit_gives "$mark-1"
as "$admin" POST "$api/configs/$version/rollback" && want_status 200
version=$((version + 2))
want_json version "$version"
eventually runs "$version"
hit_gives "$mark-2"
as "$admin" GET "$api/configs/$version" && want_status 200 && want_json restored_from $((version - 2))
as "$admin" GET "$api/configs/$((version - 1))/diff/$version" && want_status 200 && want_body '"field":"data.url"'

step "a worker refuses a URL whose probe fails, and keeps its configuration"
publish '{"url":"http://127.0.0.1:1/","probe":true}' && want_status 200
version=$((version + 1))
eventually failed "$version"
want_body 'cannot be reached'
hit_gives "$mark-2"
as "$admin" POST "$api/configs/$((version - 1))/rollback" && want_status 200
version=$((version + 1))
want_json version "$version"
eventually runs "$version"

step "while publishing is frozen, a publish requires override"
frozen=1
send "$admin" "$api/freeze" '{"reason":""}' -X PUT && want_problem 400 '"field":"reason"'
as "$admin" PUT "$api/freeze" -H 'Content-Type: application/json' -d "{\"reason\":\"e2e $mark\"}" && want_status 200
publish "{\"url\":\"$(to "$mark-frozen")\"}" && want_problem 409 "e2e $mark"
as "$admin" POST "$api/config?poll_interval=2&override=true" && want_status 200
as "$admin" DELETE "$api/freeze" && want_status 204
frozen=''
as "$admin" POST "$api/config?poll_interval=1" && want_status 200
version=$(json version)
eventually runs "$version"
as "$admin" GET "$api/audit?limit=20" && want_status 200
for action in publish rollback freeze unfreeze override login_failed; do
	as "$admin" GET "$api/audit?action=$action&limit=1" && want_status 200 && want_body "\"action\":\"$action\""
done

step "the list of agents shows their status and version"
as "$admin" GET "$api/agents?status=online" && want_status 200
online=$(header X-Total-Count)
[ "$online" -gt 0 ] || fail "an agent that is online" "$body"
[ -n "$against" ] || [ "$online" = 1 ] || fail "one agent" "$body"
eventually applied "$version" "$online"
[[ $(json last_poll) == 20??-* ]] || fail "the time of the last poll" "$body"
want_body '"status":"APPLIED"'

if [ -z "$against" ]; then
	id=$(json id)
	http GET "${url[agent]}/status" && want_status 200 && want_json agent_id "$id"
	want_json applied_version "$version"

	if [ "$push" = none ]; then
		step "without push the agent polls, and reports that"
		eventually has_transport poll
		as "$agent" GET "$api/config?wait=20s" -H 'If-None-Match: *' && want_status 304 # at once: http gives up after 20 s
	else
		step "a hint of a newer version arrives immediately, though the next poll is in an hour"
		eventually has_transport "$push"
		as "$admin" POST "$api/config?poll_interval=3600" && want_status 200
		version=$(json version)
		eventually polls_every 3600
		eventually applied "$version" 1
		eventually has_transport "$push"
		publish "{\"url\":\"$(to "$mark-push")\"}" && want_status 200
		version=$(json version)
		eventually runs "$version"
		hit_gives "$mark-push"
		http GET "${url[agent]}/status" && want_json transport "$push"
		publish "{\"url\":\"$(to "$mark-2")\",\"poll_interval_seconds\":1}" && want_status 200
		version=$(json version)
		eventually runs "$version"
	fi
	if [ "$push" = longpoll ]; then
		step "a poll waits until there is a newer version, or its wait expires"
		as "$agent" GET "$api/config?wait=1s" -H 'If-None-Match: *' && want_status 304
		want_header X-Wait-Seconds 1
		as "$agent" GET "$api/config?wait=soon" && want_problem 400 '"field":"wait"'
	fi
	if [ "$push" = redis ]; then
		step "while the broker is down the fleet follows a publish, and both sides report the loss"
		crash broker
		eventually has_transport poll
		publish "{\"url\":\"$(to "$mark-broker")\"}" && want_status 200
		version=$(json version)
		eventually runs "$version"
		reports_push() { http GET "${url[controller]}/ready" && [ "$status" = 200 ] && [[ $body == *push* ]]; }
		eventually reports_push
		http GET "${url[agent]}/ready" && want_status 200 && want_body '"field":"push"'

		step "the broker is back, and hints arrive again"
		start_broker
		eventually has_transport redis
		publish "{\"url\":\"$(to "$mark-2")\"}" && want_status 200
		version=$(json version)
		eventually runs "$version"
	fi

	step "a restarted worker gets its configuration back, without a publish"
	crash worker
	start_worker
	eventually runs "$version"
	hit_gives "$mark-2"

	step "while the controller is down, hits go on and the agent runs"
	crash controller
	hit_gives "$mark-2"
	http GET "${url[agent]}/health" && want_status 200

	step "the restarted controller has all acknowledged versions, and accepts publishes"
	start_controller
	as "$admin" GET "$api/config" && want_status 200 && want_json version "$version"
	publish "{\"url\":\"$(to "$mark-3")\"}" && want_status 200
	version=$((version + 1))
	want_json version "$version"
	eventually runs "$version"
	hit_gives "$mark-3"
	eventually applied "$version" 1

	step "without the controller, a restarted agent configures a restarted worker from its cache"
	crash controller
	crash agent
	crash worker
	start_worker
	http GET "${url[worker]}/hit" && want_problem 503
	start_agent
	eventually runs "$version"
	hit_gives "$mark-3"
	http GET "${url[agent]}/status" && want_json agent_id "$id"

	step "after all restarts there is one agent, with the same id"
	start_controller
	publish "{\"url\":\"$(to "$mark-4")\"}" && want_status 200
	version=$((version + 1))
	want_json version "$version"
	eventually runs "$version"
	eventually applied "$version" 1
	as "$admin" GET "$api/agents"
	want_header X-Total-Count 1
	want_json id "$id"

	step "each ends with exit status 0 on SIGTERM"
	for name in agent worker controller; do terminate "$name"; done
elif [ -n "$before" ]; then
	step "the previous configuration is published again"
	publish "$restore" && want_status 200
	restore=''
elif [ -n "$against" ]; then
	echo "  There was no previous configuration: the fleet runs this script's target. Publish another one."
fi
step ''
printf 'All steps passed in %s s\n%s passed, 0 failed\n' "$((SECONDS - since))" "$passed"
