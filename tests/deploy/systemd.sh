# The unit of deploy/systemd: read by systemd-analyze, and started by a real systemd, the first process
# of a container of its own. Sourced by run.sh.

host=tidegate-test-host

on_host() { docker exec "$host" "$@"; }
host_runs() { [[ $(on_host systemctl is-system-running) =~ ^(running|degraded)$ ]]; }
unit_is() { [ "$(on_host systemctl show -p "$1" --value tidegate)" = "$2" ]; }
admin() { on_host curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:9909$1"; }
logged() { grep -q "$1" <<<"$(on_host journalctl -q -u tidegate -o cat)"; }

run_host() {
    docker run -d --name "$host" "$@" --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
        --cgroupns=private --tmpfs /run --tmpfs /run/lock --tmpfs /tmp -v "$PWD/deploy/systemd:/unit:ro" \
        -v "$PWD/deploy/compose/demo:/demo:ro" tidegate-test-host >/dev/null
}

start_host() {
    stand_in host "$scratch" <<EOF
FROM $image AS tidegate
FROM $base
RUN mkdir -p /var/cache/apt/archives/partial && apt-get update -qq && apt-get install -y -qq --no-install-recommends systemd procps curl >/dev/null
COPY --from=tidegate /usr/local/bin/tidegate /usr/local/bin/tidegate
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
EOF
    # A systemd of its own wants to make control groups and mounts. All rights are more than some machines
    # have to give; the one to mount is enough where control groups are those of the first version.
    run_host --privileged 2>/dev/null || { docker rm -f "$host" >/dev/null 2>&1; run_host --cap-add SYS_ADMIN; }
    until_true 60 host_runs
    on_host install -m 644 /unit/tidegate.service /etc/systemd/system/tidegate.service
    on_host mkdir -p /etc/tidegate
    put_config 'max_in_flight = 4'
    on_host systemctl daemon-reload
}

put_config() {
    docker exec -i "$host" sh -c 'cat >/etc/tidegate/tidegate.toml' <<EOF
[upstream]
url = "http://127.0.0.1:8000"
$1
EOF
}

the_unit_is_valid() {
    local said from to
    said=$(on_host systemd-analyze verify /etc/systemd/system/tidegate.service 2>&1) || fail "verify: $said"
    [ -z "$said" ] || fail "verify: $said"
    while IFS='|' read -r from to; do
        on_host sh -c "sed 's|$from|$to|' /unit/tidegate.service >/tmp/planted.service"
        on_host cmp -s /unit/tidegate.service /tmp/planted.service && fail "nothing was planted: $from"
        said=$(on_host systemd-analyze verify /tmp/planted.service 2>&1) && [ -z "$said" ] &&
            fail "planted, and not found: $to"
        true
    done <<'EOF'
ProtectSystem=strict|ProtectSystm=strict
Type=notify|Type=notifying
/usr/local/bin/tidegate run|/usr/local/bin/tidegat run
TimeoutStopSec=30s|TimeoutStopSec=soon
@system-service|@system-servant
EOF
    said=$(on_host systemd-analyze security --no-pager tidegate | tail -1)
    # 0 is everything closed, 10 nothing. What is left is the network, which it is for.
    grep -qE 'level for tidegate.service: [01]\.[0-9]' <<<"$said" || fail "exposure: $said"
    say "systemd-analyze verify is content, and finds 5 planted mistakes; ${said#*Overall }"
}

it_is_started_when_it_accepts() {
    on_host systemctl start tidegate || { on_host journalctl -u tidegate --no-pager; fail "it does not start"; }
    unit_is ActiveState active && unit_is StatusText "Accepting clients" || fail "not notified"
    [ "$(admin /ready)" = 200 ] || fail "started, and not ready"
    # Under all of this the metrics must still be whole.
    grep -q '^process_start_time_seconds' <<<"$(on_host curl -s http://127.0.0.1:9909/metrics)" || fail "/proc is hidden"
    logged 'limit on file descriptors' && fail "the limit on file descriptors cannot be raised"
    on_host sh -c '[ "$(stat -c %U /proc/$(systemctl show -p MainPID --value tidegate))" != root ]' || fail "it is root"
    say "systemctl start returns when it accepts clients, as a user of its own; the metrics are whole"
}

a_reload_looks_first_and_takes_effect() {
    # By itself it would take a changed file too.
    put_config $'max_in_flight = 4\n[server]\nwatch_config = false'
    on_host systemctl restart tidegate
    put_config $'max_in_flight = 5\n[server]\nwatch_config = false'
    on_host systemctl reload tidegate || fail "a reload of a valid file fails"
    until_true 10 on_host sh -c 'curl -s http://127.0.0.1:9909/metrics | grep -qx "tidegate_upstream_in_flight_limit{upstream=\"default\"} 5"'
    put_config 'max_in_fligth = 4'
    on_host systemctl reload tidegate 2>/dev/null && fail "a reload of an invalid file succeeds"
    unit_is ActiveState active && [ "$(admin /ready)" = 200 ] || fail "a failed reload changed something"
    say "systemctl reload takes effect in place, fails for an invalid file, and the service goes on"
}

an_invalid_file_is_not_tried_again() {
    on_host systemctl restart tidegate 2>/dev/null && fail "it starts with an invalid file"
    sleep 2
    unit_is ExecMainStatus 78 && unit_is NRestarts 0 && unit_is ActiveState failed || fail "tried again"
    put_config 'max_in_flight = 4'
    on_host systemctl restart tidegate
    say "an invalid file: failed with 78, and not tried again"
}

it_drains_when_stopped() {
    docker exec -d -e HOST=127.0.0.1 -e SERVICE_TIME=3 "$host" python3 /demo/app.py
    until_true 20 on_host curl -sf http://127.0.0.1:8000/healthz
    local answer=$scratch/drained.txt
    on_host curl -sS http://127.0.0.1:8080/ >"$answer" &
    until_true 10 on_host sh -c 'curl -s http://127.0.0.1:9909/metrics | grep -qx "tidegate_upstream_in_flight{upstream=\"default\"} 1"'
    on_host systemctl stop --no-block tidegate
    until_true 5 unit_is StatusText Draining
    wait $!
    [ "$(cat "$answer")" = hello ] || fail "a request in flight ended so: $(cat "$answer")"
    until_true 10 unit_is ActiveState inactive
    unit_is ExecMainStatus 0 && unit_is Result success || fail "it did not end well"
    say "systemctl stop: draining, the request in flight was answered, ended with 0"
}

check_systemd() {
    start_host
    the_unit_is_valid
    it_is_started_when_it_accepts
    a_reload_looks_first_and_takes_effect
    an_invalid_file_is_not_tried_again
    it_drains_when_stopped
    docker rm -f "$host" >/dev/null
}
