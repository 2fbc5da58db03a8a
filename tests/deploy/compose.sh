# The files of deploy/compose, brought up as they stand. Sourced by run.sh.
#
# The images are stand-ins: Prometheus and the application are real programs in them, Grafana is not
# there and only reads the files that it would load.

project=tidegate-test-compose
copy=$scratch/copy

compose() {
    as_root env COMPOSE_PROJECT_NAME="$project" TIDEGATE_IMAGE="$image" PYTHON_IMAGE=tidegate-test-python \
        PROMETHEUS_IMAGE=tidegate-test-prometheus GRAFANA_IMAGE=tidegate-test-grafana \
        PORT=0 ADMIN_PORT=0 PROMETHEUS_PORT=0 GRAFANA_PORT=0 \
        docker-compose -f "$copy/deploy/compose/$file" "$@" >>"$scratch/compose.log" 2>&1 ||
        { tail -20 "$scratch/compose.log"; fail "docker-compose $*"; }
}

container() { docker ps -q --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1"; }
published() { docker port "$(container "$1")" "$2" | head -1; }

# Over the published port, as a person would.
through() { curl -sS --max-time 10 "http://$(published tidegate 8080)/"; }
comes_through() { [ "$(through)" = hello ]; }
service_is_healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$(container tidegate)")" = healthy ]; }

# query PROMQL: the values that Prometheus has now.
query() {
    curl -sS --get --data-urlencode "query=$1" "http://$(published prometheus 9090)/api/v1/query" |
        python3 -c 'import json, sys; print(*[r["value"][1] for r in json.load(sys.stdin)["data"]["result"]])'
}
is_more_than() { [ -n "$(query "$2 > $1")" ]; }

# A client in the network of a service; fails if nobody answers.
answers_inside() {
    docker run --rm --network "$1" tidegate-test-python python3 -c \
        'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=3)' "$2" >/dev/null 2>&1
}

everything_in_one_command() {
    file=compose.yaml
    compose up -d
    until_true 40 service_is_healthy
    until_true 20 comes_through
    [ -z "$(docker port "$(container app)")" ] || fail "the application publishes a port"
    answers_inside "${project}_behind" http://app:8000/ || fail "the test itself: the application is not there"
    if answers_inside "${project}_default" http://app:8000/; then fail "the application can be reached past tidegate"; fi
    [ -n "$(container grafana)" ] && sleep 1 && [ -n "$(container grafana)" ] || fail "Grafana cannot read its files"
    until_true 40 is_more_than 0 'up{job="tidegate"}'
    say "up: the application answers through tidegate, and not past it; Prometheus has the target"
}

the_queue_moves_under_load() {
    [ "$(query 'max_over_time(tidegate_queue_depth{route="default"}[1m])')" = 0 ] || fail "the queue moved before"
    compose --profile load up -d load
    until_true 60 is_more_than 5 'rate(tidegate_queue_depth_seconds_total{route="default"}[20s])'
    until_true 60 is_more_than 5 'sum(rate(tidegate_rejected_total{route="default"}[20s]))'
    until_true 60 is_more_than 0 'upstream:tidegate_limit_used:ratio_mean5m'
    say "under load: depth $(query 'max_over_time(tidegate_queue_depth{route="default"}[1m])') at most," \
        "$(query 'round(sum(rate(tidegate_rejected_total{route="default"}[20s])))')/s turned away; the rules are evaluated"
    compose --profile load rm -fs load
}

# What the files say about mounting the directory.
a_replaced_file_is_seen() {
    local toml=$copy/deploy/compose/tidegate/tidegate.toml effective
    docker run -d --name tidegate-test-single -v "$toml:/etc/tidegate/tidegate.toml:ro" "$image" >/dev/null
    sed 's/^max_queue = .*/max_queue = 77/' "$toml" >"$toml.new"
    mv "$toml.new" "$toml"
    effective=$(docker exec "$(container tidegate)" /usr/local/bin/tidegate check --print-effective)
    grep -q 'max_queue = 77' <<<"$effective" || fail "the mounted directory has the old file"
    effective=$(docker exec tidegate-test-single /usr/local/bin/tidegate check --print-effective)
    grep -q 'max_queue = 77' <<<"$effective" && fail "a mounted file is replaced too: the reason given is wrong"
    docker rm -f tidegate-test-single >/dev/null
    compose restart tidegate
    until_true 40 service_is_healthy
    until_true 20 comes_through
    say "a file that an editor replaces is seen in the mounted directory, and would not be as a mounted file"
}

in_a_shared_network() {
    file=shared-network.yaml
    compose up -d
    until_true 40 service_is_healthy
    until_true 20 comes_through
    local before tidegate
    tidegate=$(container tidegate)
    answers_inside "${project}_default" http://tidegate:8080/ || fail "the test itself: tidegate is not there"
    if answers_inside "${project}_default" http://tidegate:8000/; then fail "the application can be reached past tidegate"; fi
    before=$(container app)
    compose up -d --force-recreate --no-deps app
    [ "$before" != "$(container app)" ] && [ "$tidegate" = "$(container tidegate)" ] || fail "the application was not made anew alone"
    until_true 20 comes_through
    # Who joined loses the network when the other is made anew: the reason that the file gives for its order.
    compose up -d --force-recreate --no-deps tidegate
    until_true 40 service_is_healthy
    [[ $(curl -s -o /dev/null -w '%{http_code}' "http://$(published tidegate 8080)/") == 50[24] ]] ||
        fail "the application did not lose the network: the reason given is wrong"
    compose up -d --force-recreate
    until_true 40 service_is_healthy
    until_true 20 comes_through
    say "shared network: only through tidegate; the application is made anew alone, and found again; it loses" \
        "the network when tidegate is made anew alone, and comes back when both are"
}

check_compose() {
    rm -rf "$copy"
    mkdir -p "$copy"
    cp -r deploy "$copy"
    : >"$scratch/compose.log"
    everything_in_one_command
    the_queue_moves_under_load
    a_replaced_file_is_seen
    compose down -v
    in_a_shared_network
    compose down -v
}
