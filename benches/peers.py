#!/usr/bin/env python3
"""The price of a request, beside HAProxy and nginx, in one run on this machine.

The proxy under test is pinned to CPU 0, the load (wrk) and the upstream (nginx) to CPU 1. What is compared is
the proxy's own CPU time a request, which a busy machine moves least; rounds are interleaved, medians quoted.
Only the ratios mean anything.

    apt-get install haproxy nginx-light wrk
    cargo build --release && benches/peers.py [--rounds 5] [--seconds 3] [--connections 64] [--size 3]
"""
import argparse
import os
import pathlib
import re
import socket
import statistics
import subprocess
import tempfile
import time

TIDEGATE = pathlib.Path(__file__).resolve().parent.parent / "target/release/tidegate"
TICK = os.sysconf("SC_CLK_TCK")

UPSTREAM = """worker_processes 1; daemon off; pid {dir}/up.pid; error_log {dir}/up.log;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000; server {{ listen 127.0.0.1:{app}; root {dir}/www; }} }}
"""
NGINX = """worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000;
  upstream app {{ server 127.0.0.1:{app}; keepalive 512; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}
"""
HAPROXY = """global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 1s
  option forwardfor
  http-reuse always
listen proxy
  bind 127.0.0.1:{port}
  server app 127.0.0.1:{app} maxconn 4000
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    """User and system time of a process and its children."""
    total = 0
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    for process in [pid, *map(int, children)]:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def start(cpu, command):
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(["taskset", "-c", str(cpu), *command], **quiet)


def wait(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default in (("rounds", 5), ("seconds", 3), ("connections", 64), ("size", 3)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    args = parser.parse_args()
    running = []
    with tempfile.TemporaryDirectory() as directory:
        app = free_port()
        www = pathlib.Path(directory, "www")
        www.mkdir()
        os.chmod(directory, 0o755)
        (www / "body").write_bytes(b"x" * args.size)

        def config(name, text, port=0):
            path = pathlib.Path(directory, name)
            path.write_text(text.format(dir=directory, app=app, port=port))
            return str(path)

        ports = {name: free_port() for name in ("haproxy", "nginx", "tidegate")}
        commands = {
            "haproxy": ["haproxy", "-db", "-f", config("haproxy", HAPROXY, ports["haproxy"])],
            "nginx": ["nginx", "-c", config("nginx", NGINX, ports["nginx"])],
            "tidegate": [str(TIDEGATE), "run", "--upstream", f"http://127.0.0.1:{app}", "--max-in-flight", "10000",
                         "--listen", f"127.0.0.1:{ports['tidegate']}", "--admin-listen", "127.0.0.1:0"],
        }
        try:
            running.append(start(1, ["nginx", "-c", config("upstream", UPSTREAM)]))
            wait(app)
            proxies = {name: start(0, command) for name, command in commands.items()}
            running.extend(proxies.values())
            for port in ports.values():
                wait(port)
            micros = {name: [] for name in proxies}
            rates = {name: [] for name in proxies}
            for number in range(args.rounds + 1):
                for name, proxy in proxies.items():
                    before = cpu_seconds(proxy.pid)
                    wrk = ["taskset", "-c", "1", "wrk", "-t1", f"-c{args.connections}", f"-d{args.seconds}s",
                           f"http://127.0.0.1:{ports[name]}/body"]
                    report = subprocess.run(wrk, capture_output=True, text=True, check=True).stdout
                    requests = int(re.search(r"(\d+) requests in", report)[1])
                    if "Non-2xx" in report:
                        raise SystemExit(f"{name}: {report}")
                    if number:  # the first round warms up
                        micros[name].append((cpu_seconds(proxy.pid) - before) / requests * 1e6)
                        rates[name].append(requests / args.seconds)
        finally:
            for process in running:
                process.terminate()
                process.wait()
    first = statistics.median(micros["haproxy"])
    print(f"{'':10} {'CPU us/request':>15} {'x HAProxy':>10} {'requests/s':>11}")
    for name, values in micros.items():
        median = statistics.median(values)
        print(f"{name:10} {median:15.1f} {median / first:10.2f} {statistics.median(rates[name]):11.0f}")


main()
