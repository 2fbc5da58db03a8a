#!/usr/bin/env bash
# The container image and what starts containers, run for real. Needs Debian's docker.io, docker-compose,
# debootstrap and prometheus, and what tests/deploy/tools.sh gets. `run.sh image compose` runs some parts,
# none named runs all.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/deploy/lib.sh
. tests/deploy/image.sh
. tests/deploy/compose.sh
. tests/deploy/systemd.sh

part() {
    local began=$SECONDS
    echo "--- $1"
    "$2"
    echo "--- $1: $((SECONDS - began)) s"
}

# The containers of the Kubernetes pod, in one network, by what kustomize renders.
check_pod() {
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    target/tools/venv/bin/python tests/deploy/kubernetes.py pod target/tools/kubectl "${sudo[@]}" /usr/bin/docker
}

trap 'clean_up; stop_engine' EXIT
start_engine
KEEP=1 clean_up
part "stand-ins: Debian" make_base
part "stand-ins: builder" make_builder
part "stand-ins: runtime, Python, Prometheus, Grafana" make_small
part "image: build" make_image
if [ $# = 0 ]; then set -- image compose pod systemd; fi
for name in "$@"; do
    part "$name" "check_$name"
done
