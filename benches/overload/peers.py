"""Who stands before the application, and how each is told its true capacity.

One configuration each for all scenarios. What a peer cannot do is said in `cannot`.
"""
import os
import pathlib
import shutil
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TIDEGATE = ROOT / "target/release/tidegate"

# 0.8 s in the queue leave a client of 1 s time to be answered; who has left does not stay in it.
HAPROXY = """global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  timeout queue 800ms
  retries 0
  option abortonclose
  http-reuse always
listen proxy
  bind 127.0.0.1:{port} backlog 4096
  server app 127.0.0.1:{app} maxconn {limit}
"""
# `queue`, which would hold requests back, is part of the commercial edition.
NGINX = """worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  upstream app {{ zone app 64k; server 127.0.0.1:{app} max_conns={limit} max_fails=0; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_next_upstream off;
      proxy_set_header Connection ""; }} }} }}
"""
ENVOY = """static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
HttpConnectionManager
          stat_prefix: ingress
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: app
              domains: ["*"]
              routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: app, timeout: 60s }} }} ]
          http_filters:
{filter}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: app
    connect_timeout: 1s
    type: STATIC
    circuit_breakers:
      thresholds:
      - max_connections: {limit}
        max_pending_requests: {pending}
        max_requests: 100000
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {app} }} }} }}
"""
ADAPTIVE = """
          - name: envoy.filters.http.adaptive_concurrency
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.\
AdaptiveConcurrency
              gradient_controller_config:
                sample_aggregate_percentile: {{ value: 50 }}
                concurrency_limit_params: {{ concurrency_update_interval: 0.1s }}
                min_rtt_calc_params: {{ jitter: {{ value: 10 }}, interval: 30s, request_count: 50 }}
"""
# Defaults, but for the limit, for who the clients are (here all of them have one address), and that
# the application does not notice that one has left.
TIDE = """[server]
listen = ["127.0.0.1:{port}"]
[admin]
listen = "127.0.0.1:0"
[log]
access = "off"
[upstream]
url = "http://127.0.0.1:{app}"
max_in_flight = {limit}
[defaults]
fair_by = "header:x-client"
on_client_abort = "finish"
[[route]]
name = "cheap"
match = {{ path = "/cheap" }}
"""


class Peer:
    def __init__(self, name, program, text, command, cannot="", file="conf", **values):
        self.name, self.text, self.command = name, text, command
        self.cannot, self.file, self.values = cannot, file, values
        here = os.environ.get("PEERS_BIN", os.path.join(tempfile.gettempdir(), "peers", "bin"))
        self.program = shutil.which(program) or shutil.which(os.path.join(here, program))
        self.missing = None if self.program else f"{program} is not installed"

    def start(self, directory, port, app, limit):
        """What to run."""
        path = pathlib.Path(directory, f"{self.name.replace(' ', '-')}.{self.file}")
        values = {"dir": directory, "port": port, "app": app, "limit": limit, **self.values}
        path.write_text(self.text.format(**values))
        return [self.program, *(word.format(path=path) for word in self.command)]


def peers(pending):
    """All of them; `pending`: places of a queue that holds 0.5 s of work, where it cannot be bound
    in time."""
    adaptive = ADAPTIVE.format()
    envoy = ["-c", "{path}", "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    tide = ["run", "-c", "{path}"]
    haproxy = ["-db", "-f", "{path}"]
    nginx = ["-c", "{path}"]
    finds = {"filter": adaptive, "pending": 100000, "limit": 100000}
    return [
        Peer("haproxy", "haproxy", HAPROXY, haproxy, "no fair turns of clients or routes"),
        Peer("nginx", "nginx", NGINX, nginx, "no queue: beyond max_conns 502 at once"),
        Peer("envoy", "envoy", ENVOY, envoy, "a queue bound by places, not by time", "yaml",
             filter="", pending=pending),
        Peer("envoy adaptive", "envoy", ENVOY, envoy, "finds its limit; no queue", "yaml", **finds),
        Peer("tidegate 16", str(TIDEGATE), TIDE, tide, file="toml"),
        Peer("tidegate auto", str(TIDEGATE), TIDE, tide, file="toml", limit='"auto"'),
    ]
