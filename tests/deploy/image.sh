# The image of the Dockerfile, as its users run it: read-only, without capabilities, in 64 MiB.
# Sourced by run.sh.

net=tidegate-test-net
gate=tidegate-test-gate
app=tidegate-test-app
client=tidegate-test-client
crowd=tidegate-test-crowd

run_app() {
    docker run -d --name "$app" --network "$net" --network-alias app -e WORKERS=4 -e SERVICE_TIME="$1" \
        -v "$PWD/deploy/compose/demo:/demo:ro" tidegate-test-python python3 /demo/app.py >/dev/null
}

# Before the application, of which it knows how many it works on at once.
small=(-e TIDEGATE_UPSTREAM_URL=http://app:8000 -e TIDEGATE_UPSTREAM_MAX_IN_FLIGHT=4)

# run_gate OPTION...: with these options of docker run.
run_gate() {
    docker run -d --name "$gate" --network "$net" --read-only --cap-drop ALL \
        --security-opt no-new-privileges --memory 64m --memory-swap 64m --pids-limit 64 "$@" "$image" >/dev/null
}

from_client() { docker exec "$client" python3 "$@"; }

# get URL: the status, and the body or the error.
get() {
    from_client -c 'import sys, urllib.request as r, urllib.error as e
try: a = r.urlopen(sys.argv[1], timeout=10); print(a.status, a.read().decode())
except e.HTTPError as a: print(a.code, a.read().decode())' "$1"
}

answers() { [[ $(get "http://$gate:8080/") == "200 hello"* ]]; }
health() { docker inspect -f '{{.State.Health.Status}}' "$gate"; }
is_healthy() { [ "$(health)" = healthy ]; }
inspect() { docker inspect -f "$1" "$2"; }
address() { inspect '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }

image_is_what_it_says() {
    local version
    version=$(docker run --rm "$image" --version)
    [ "$version" = "tidegate $(inspect '{{index .Config.Labels "org.opencontainers.image.version"}}' "$image")" ] ||
        fail "the label of the version is not $version"
    [ "$(inspect '{{index .Config.Labels "org.opencontainers.image.revision"}}' "$image")" = "$(git rev-parse HEAD)" ] ||
        fail "the label of the revision"
    [ "$(inspect '{{.Config.User}} {{.Config.StopSignal}} {{json .Config.Entrypoint}}' "$image")" = \
        '65532:65532 SIGTERM ["/usr/local/bin/tidegate"]' ] || fail "user, signal or entry point"
    if docker run --rm --entrypoint /bin/sh "$image" -c true 2>/dev/null; then fail "there is a shell"; fi
    # Without an upstream it says what is missing, and with the status of a bad configuration.
    local status=0 said
    said=$(docker run --rm "$image" 2>&1) || status=$?
    [ "$status" = 78 ] && grep -q upstream <<<"$said" || fail "without an upstream: $status, $said"
    say "$version, $(($(inspect '{{.Size}}' "$image") / 1000000)) MB over a stand-in of" \
        "$(($(inspect '{{.Size}}' tidegate-test-runtime) / 1000000)) MB; no shell; status 78 without an upstream"
}

# A change of the sources alone must not compile the dependencies again.
dependencies_are_cached() {
    local context said
    context=$(mktemp -d)
    cp Dockerfile .dockerignore Cargo.toml Cargo.lock LICENSE-* "$context"
    mkdir "$context/src" "$context/config" "$context/deploy"
    touch "$context/src/lib.rs"
    echo 'fn main() { println!("another") }' >"$context/src/main.rs"
    # As old as a checkout may be.
    touch -d 2020-01-01 "$context/src/"*
    docker build -t tidegate-test-another --build-arg BUILD_IMAGE=tidegate-test-builder \
        --build-arg RUNTIME_IMAGE=tidegate-test-runtime "$context" >"$scratch/again.log" 2>&1 ||
        { tail -20 "$scratch/again.log"; fail "a second build"; }
    rm -rf "$context"
    # BuildKit names a step, and says on a line of its own that it was there.
    local step
    step=$(grep -oE '^#[0-9]+ \[build [0-9]+/[0-9]+\] RUN mkdir' "$scratch/again.log" | cut -d' ' -f1 | head -1)
    [ -n "$step" ] && grep -q "^$step CACHED" "$scratch/again.log" || fail "the dependencies were compiled again"
    said=$(docker run --rm tidegate-test-another)
    [ "$said" = another ] || fail "the sources that were built are not those that were given: $said"
    say "other sources: the layer of the dependencies is used again, and the binary is the new one"
}

starts_without_rights() {
    until_true 20 is_healthy
    local pid status
    pid=$(inspect '{{.State.Pid}}' "$gate")
    status=$(as_root cat "/proc/$pid/status")
    grep -qE '^Uid:\s65532\s65532\s65532\s65532' <<<"$status" || fail "not the user 65532"
    grep -qE '^CapEff:\s0+$' <<<"$status" || fail "it has capabilities"
    grep -qE '^NoNewPrivs:\s1$' <<<"$status" || fail "it may gain privileges"
    if docker exec "$gate" /usr/local/bin/tidegate healthcheck --admin 127.0.0.1:1 >/dev/null 2>&1; then
        fail "healthcheck calls healthy what nobody serves"
    fi
    say "healthy; uid 65532, no capabilities, read-only; healthcheck of a closed port fails"
}

proxies_by_service_name() {
    answers || fail "not proxied: $(get "http://$gate:8080/")"
    say "an application in another container is found by its name"
}

survives_a_restart_of_the_application() {
    local before after
    before=$(address "$app")
    docker rm -f "$app" >/dev/null
    # Its name is gone, its last address is still tried: nobody refuses there, or nobody answers.
    [[ $(get "http://$gate:8080/") == 50[24]* ]] || fail "without an application: $(get "http://$gate:8080/")"
    # Somebody else takes the address, so that the application comes back with another.
    docker run -d --name tidegate-test-squatter --network "$net" tidegate-test-python sleep 600 >/dev/null
    run_app 0.05
    after=$(address "$app")
    [ "$before" != "$after" ] || fail "the address is the same, so that nothing is shown"
    until_true 20 answers
    docker rm -f tidegate-test-squatter >/dev/null
    say "the application came back with another address, and is found again (a failure of the application meanwhile)"
}

# At half of what the application can do, it is killed and comes back after 2 s: its address, its name, all is gone.
waits_for_a_restart_of_the_application() {
    local told said=$scratch/held.txt
    docker rm -f "$gate" >/dev/null
    run_gate "${small[@]}" -e TIDEGATE_UPSTREAM_HOLD=20s
    until_true 20 answers
    from_client /demo/load.py "http://$gate:8080/" 40 10 >"$said" &
    until_true 10 has_answered 80
    docker kill "$app" >/dev/null
    until_true 10 is_waited_for
    sleep 2
    told=$(docker exec "$gate" tidegate status)
    docker start "$app" >/dev/null
    wait $!
    # The four that were with it when it died may be lost, and nobody else.
    grep -qE '^200=(39[6-9]|400) ' "$said" && ! grep -q 503= "$said" || fail "with hold: $(cat "$said"), $told"
    say "killed for 2 s under load, with hold: $(cat "$said"); meanwhile: ${told%%$'\n'*}"
}

has_answered() {
    get "http://$gate:9909/metrics" |
        awk -v least="$1" '/^tidegate_requests_total{code="200"/ { sum += $2 } END { exit sum < least }'
}

is_waited_for() { docker exec "$gate" tidegate status | grep -q 'waited for'; }

lives_in_64_mib() {
    local said peak
    # Four workers and 50 ms are 80 a second; this is five times as many, hundreds of them waiting.
    said=$(from_client /demo/load.py "http://$gate:8080/" 400 8)
    grep -q '200=' <<<"$said" && grep -q '503=' <<<"$said" || fail "an overload looks otherwise: $said"
    [ "$(inspect '{{.State.OOMKilled}} {{.State.Running}}' "$gate")" = "false true" ] || fail "out of memory"
    peak=$(as_root awk '/^VmHWM/ { print $2 }' "/proc/$(inspect '{{.State.Pid}}' "$gate")/status")
    [ "$peak" -lt 65536 ] || fail "$peak KiB"
    say "five times too much: $said; at most $peak KiB resident"
    is_healthy || fail "overload made it unhealthy"
}

# memory_of VERSION_2 VERSION_1: a file about the memory of the proxy's cgroup, by the version that the machine has.
memory_of() {
    local groups path
    groups=$(as_root cat "/proc/$(inspect '{{.State.Pid}}' "$gate")/cgroup")
    path=$(awk -F: '$2 == "memory" { print $3 }' <<<"$groups")
    if [ -n "$path" ]; then
        as_root cat "/sys/fs/cgroup/memory$path/$2"
    else
        as_root cat "/sys/fs/cgroup$(awk -F: '$1 == "0" { print $3 }' <<<"$groups")/$1"
    fi
}

# 2,000 clients, 100 that hardly read 8 MiB and 100 that hardly send them, before a proxy of 64 MiB that has room
# for fewer and an application that has time for fewer still.
sheds_a_crowd_in_64_mib() {
    local config=$scratch/crowd before said peak most failed=
    mkdir -p "$config"
    printf '[server]\nmax_header_bytes = "8KiB"\n[upstream]\nurl = "http://crowd:8000"\nmax_in_flight = 220\n%s' \
        '[defaults]
max_queue = 50
[[route]]
name = "health"
match = { path = "/healthz", exact = true }
admission = "exempt"
' >"$config/tidegate.toml"
    docker run -d --name "$crowd" --network "$net" --network-alias crowd --ulimit nofile=16384:16384 \
        -v "$PWD/tests/deploy:/tests:ro" tidegate-test-python python3 /tests/crowd.py app 8000 >/dev/null
    docker rm -f "$gate" >/dev/null
    run_gate -v "$config:/etc/tidegate:ro"
    until_true 20 is_healthy
    until_true 20 crowd_is_answered
    before=$(inspect '{{.State.StartedAt}} {{.State.Pid}}' "$gate")
    said=$(docker exec "$crowd" python3 /tests/crowd.py clients "$gate" 8080 12 2>&1) || failed=1
    [ "$(inspect '{{.State.OOMKilled}} {{.State.Running}} {{.RestartCount}}' "$gate")" = "false true 0" ] &&
        [ "$(inspect '{{.State.StartedAt}} {{.State.Pid}}' "$gate")" = "$before" ] ||
        fail "killed, for want of memory: $said"
    [ -z "$failed" ] || fail "somebody was failed: $said"
    ! memory_of memory.events memory.oom_control | grep -qE '^oom_kill [1-9]' || fail "something was killed"
    peak=$(as_root awk '/^VmHWM/ { print $2 }' "/proc/$(inspect '{{.State.Pid}}' "$gate")/status")
    most=$(($(memory_of memory.peak memory.max_usage_in_bytes) / 1024))
    # By the README's formula: a quarter is for the kernel, and for gaps.
    [ "$peak" -lt $((64 * 1024 * 3 / 4)) ] || fail "$peak KiB resident"
    is_healthy || fail "the crowd made it unhealthy"
    say "a crowd: ${said//$'\n'/, }; at most $peak KiB resident, $most KiB by its cgroup, of 65536"
    docker rm -f "$crowd" >/dev/null
}

crowd_is_answered() { [[ $(get "http://$gate:8080/healthz") == 200* ]]; }

drains_on_stop() {
    docker rm -f "$app" "$gate" >/dev/null
    run_app 3
    run_gate "${small[@]}"
    until_true 20 answers
    local answer=$scratch/slow.txt began stopped
    get "http://$gate:8080/" >"$answer" &
    until_true 10 in_flight_is 1
    began=$(date +%s%N)
    docker stop "$gate" >/dev/null
    stopped=$((($(date +%s%N) - began) / 1000000))
    wait $!
    [[ $(cat "$answer") == "200 hello"* ]] || fail "a request in flight ended so: $(cat "$answer")"
    [ "$(inspect '{{.State.ExitCode}}' "$gate")" = 0 ] || fail "exit status $(inspect '{{.State.ExitCode}}' "$gate")"
    [ "$stopped" -lt 9000 ] || fail "stopping took $stopped ms: it was killed"
    say "docker stop: the request in flight was answered, then it exited with 0, after $stopped ms"
}

in_flight_is() { grep -qx "tidegate_upstream_in_flight{upstream=\"default\"} $1" <<<"$(get "http://$gate:9909/metrics")"; }

check_image() {
    image_is_what_it_says
    dependencies_are_cached
    docker network create "$net" >/dev/null
    docker run -d --name "$client" --network "$net" -v "$PWD/deploy/compose/demo:/demo:ro" \
        tidegate-test-python sleep 3600 >/dev/null
    run_app 0.05
    run_gate "${small[@]}"
    starts_without_rights
    proxies_by_service_name
    survives_a_restart_of_the_application
    waits_for_a_restart_of_the_application
    lives_in_64_mib
    sheds_a_crowd_in_64_mib
    drains_on_stop
    docker rm -f "$gate" "$app" "$client" >/dev/null
    docker network rm "$net" >/dev/null
}
