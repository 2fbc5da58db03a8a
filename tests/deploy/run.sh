#!/usr/bin/env bash
# The container image and what starts containers, run for real. Needs Docker's engine and debootstrap;
# `tests/deploy/run.sh image compose` runs some parts, none named runs all.
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

trap 'clean_up; stop_engine' EXIT
start_engine
KEEP=1 clean_up
part "stand-ins: Debian" make_base
part "stand-ins: builder" make_builder
part "stand-ins: runtime, Python, Prometheus, Grafana" make_small
part "image: build" make_image
if [ $# = 0 ]; then set -- image compose systemd; fi
for name in "$@"; do
    part "$name" "check_$name"
done
