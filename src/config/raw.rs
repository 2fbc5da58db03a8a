//! The file as it may be written: every table with its keys, their types, defaults and
//! documentation.
//!
//! This is the reference of the configuration: the JSON Schema, the messages and the defaults are
//! generated from it. Each key documents its unit, default, range and interactions, in that order.

use std::net::SocketAddr;

use serde_json::Value as Json;

use super::address::Target;
use super::context::{Context, Section};
use super::kinds::{
    Budget, ClientAuth, Control, FilePath, Header, Percent, Slots, Status, Text, Trusted, Workers,
};
use super::model::{
    AccessLog, AdmissionMode, ClientAbort, FairBy, Forwarded, Listen, LogFormat, LogLevel, Order,
    Paths, RejectBody, RetryAfter, RouteKind, Standing, TlsVersion,
};
use super::node::Node;
use super::source::Place;
use super::table::{
    Entries, Field, Table, TableSchema, Value, default_of, key_name, read_nested, table,
};
use super::values::{Int, List, OrOff, Size, Time};

/// A day in milliseconds: the longest of the long timeouts.
pub(super) const DAY: u64 = 86_400_000;
pub(super) const HOUR: u64 = 3_600_000;

table! {
    /// The side that clients see: listeners, workers, connections, shutdown.
    Server {
        /// Where to accept clients, one or several: IP addresses with ports, or "unix:/PATH" for a
        /// Unix socket. Default "0.0.0.0:8080". Port 0 lets the system choose. None may be the
        /// admin address. A socket has mode 0660, is made anew where nobody listens on an old one,
        /// and is removed at the end; its peers count as loopback.
        listen: List<Listen> = "0.0.0.0:8080",
        /// Worker threads: "auto" or 1 to 64. Default "auto": the available cores (cgroup limits
        /// count), at most 4. A change needs a restart.
        workers: Workers = "auto",
        /// Client connections at once. Default 4096, 1 to 1000000. At the bound the connection that
        /// is idle for longest is closed.
        max_connections: Int<1, 1_000_000> = "4096",
        /// A duration: from the first byte of a request to the end of its head. Default "10s",
        /// 10ms to 1h.
        header_timeout: Time<10, HOUR> = "10s",
        /// A duration: how long a connection may be silent between two requests. Default "75s",
        /// 10ms to 1d. Keep it longer than the idle timeout of a load balancer in front, usually 60
        /// s.
        idle_timeout: Time<10, DAY> = "75s",
        /// Requests at once on one HTTP/2 connection. Default 100, 1 to 1000. A client waits with
        /// more of them until some are answered. Each may hold a place in a queue, so that it also
        /// bounds what one client can have queued over one connection.
        max_streams: Int<1, 1_000> = "100",
        /// A size: the largest request head. Default "32KiB", 8KiB to 1MiB.
        max_header_bytes: Size<8192, 1_048_576> = "32KiB",
        /// A duration: after SIGTERM, how long `/ready` fails while connections are still accepted.
        /// Default "0s", 0s to 1h. It comes on top of `shutdown_grace`.
        drain_delay: Time<0, HOUR> = "0s",
        /// A duration: how long queued and in-flight requests may take to finish after that.
        /// Default "8s", 0s to 1h. Together with `drain_delay` below the 10 s after which `docker
        /// stop` kills.
        shutdown_grace: Time<0, HOUR> = "8s",
        /// Peers whose `X-Forwarded-*` and `Forwarded` fields are kept: address ranges
        /// ("10.0.0.0/8"), addresses, "loopback" and "private". Default ["loopback", "private"]. []
        /// trusts nobody.
        trusted_proxies: List<Trusted> = "loopback, private",
        /// Which forwarding fields are written towards the application: "x-forwarded", "rfc7239",
        /// "both" or "off". Default "x-forwarded".
        forwarded: Forwarded = "x-forwarded",
        /// Whether peers in `trusted_proxies` begin each connection with a header of the PROXY
        /// protocol, version 1 or 2 (HAProxy's `send-proxy`, a network load balancer). Default
        /// false. Its source is then the client's address. A connection of such a peer without a
        /// valid header is closed; other peers send none, and theirs would be answered with 400.
        /// The header comes before TLS, and is awaited for `header_timeout`.
        proxy_protocol: bool = "false",
        /// Whether the configuration file is looked at every 2 s and loaded again when its content
        /// has changed. Default true. SIGHUP and POST /reload load it in any case.
        watch_config: bool = "true",
        /// TLS on every address of `listen`. Default: none. Without it clients speak HTTP/1.1 or
        /// HTTP/2 (by prior knowledge) in the clear.
        tls: ServerTls,
    }
    required {}
}

table! {
    /// TLS with clients. Files are PEM; a path is absolute, or relative to the working directory.
    /// Files that change are read again within 10 s, without closing a connection; where the new
    /// ones are wrong, the old ones stay in use and the log says why.
    ServerTls {
        /// The file of the certificate, followed by those that lead to its authority. Required,
        /// with `key`, unless `certificates` is given.
        cert: FilePath,
        /// The file of the certificate's private key: PKCS #8, PKCS #1 or SEC1, not encrypted. Only
        /// tidegate should be able to read it.
        key: FilePath,
        /// Several pairs { cert, key }. Instead of `cert` and `key`. A client gets the first that
        /// is made out to the name that it asks for (SNI), else the first of all.
        certificates: List<CertificatePair>,
        /// The file of the authorities that sign clients' certificates. Default: none, and clients
        /// are not asked for one.
        client_ca: FilePath,
        /// "required" (a client without a certificate is refused) or "optional" (one with a
        /// certificate of another authority is). Default "required". Needs `client_ca`.
        client_auth: ClientAuth = "required",
        /// The oldest version that is spoken: "1.2" or "1.3". Default "1.2".
        min_version: TlsVersion = "1.2",
        /// Whether HTTP/2 is offered beside HTTP/1.1 (ALPN). Default true.
        http2: bool = "true",
    }
    required {}
}

table! {
    /// A certificate and its key.
    CertificatePair {
        /// The file of the certificate, followed by those that lead to its authority. Required.
        cert: FilePath,
        /// The file of its private key. Required.
        key: FilePath,
    }
    required { "cert", "key" }
}

table! {
    /// The listener for metrics, health and status.
    Admin {
        /// An IP address with a port. Default "0.0.0.0:9909". It must differ from `server.listen`.
        listen: SocketAddr = "0.0.0.0:9909",
        /// Who may send POST requests that change something (/reload, /drain): "loopback" (this
        /// machine; in a pod every container) or "off". Default "loopback".
        control: Control = "loopback",
    }
    required {}
}

table! {
    /// Logging, to standard error.
    Log {
        /// The least severe level that is written: "error", "warn", "info", "debug" or "trace".
        /// Default "info".
        level: LogLevel = "info",
        /// "auto" (text on a terminal, else JSON), "text" or "json". Default "auto".
        format: LogFormat = "auto",
        /// Which requests get a line: "off", "errors" (5xx, rejections, broken bodies) or "all".
        /// Default "errors".
        access: AccessLog = "errors",
    }
    required {}
}

table! {
    /// One application, and the budget of requests in flight that its routes share.
    Upstream {
        /// Where the application listens, and what it speaks. Required. "http://HOST:PORT":
        /// HTTP/1.1; "h2c://HOST:PORT": HTTP/2 without TLS, as gRPC servers speak it;
        /// "https://HOST:PORT": TLS, and HTTP/2 where the application chooses it; "unix:/PATH":
        /// HTTP/1.1 over a Unix socket. Port 80 (https: 443) unless given; no path.
        url: Target,
        /// TLS with the application. Default: as in its keys. Only beside an `https` URL.
        tls: UpstreamTls,
        /// Requests that the application works on at once, over all routes; the others wait in the
        /// queue of their route. Default "auto": the number is found by watching the application;
        /// or 1 to 100000: what it works on in parallel. Streams and exempt routes come on top;
        /// with "auto" WebSockets and event streams of other routes too, up to `auto_max` in all.
        max_in_flight: Budget = "auto",
        /// What `max_in_flight = "auto"` never goes below. Default 2, or one more than the routes
        /// reserve; 1 to 100000. At most `auto_max`, and more than what routes reserve.
        auto_min: Int<1, 100_000> = "2",
        /// What `max_in_flight = "auto"` never goes above. Default 500, or less where a written
        /// `max_connections` has no room for so many, or a container no memory; 1 to 100000.
        auto_max: Int<1, 100_000> = "500",
        /// A duration or "off": where the mean time to the head of a response is above, "auto" goes
        /// down, whatever the throughput says. Default "off", 1ms to 1h. For applications that
        /// answer slower and slower without failing. Without effect where `max_in_flight` is a
        /// number.
        max_upstream_latency: OrOff<Time<1, HOUR>> = "off",
        /// A part in percent: of the slots given, each class that waits gets at least so many,
        /// whatever the classes above it ask for. Default "5%", "0%" to "12%"; "0%": a higher class
        /// always comes first.
        class_floor: Percent<0, 12> = "5%",
        /// Whether rejections are carried out. Default true. false (shadow mode): every route of
        /// the upstream is let through, up to `max_connections` at once, and what would have been
        /// rejected is counted.
        enforce: bool = "true",
        /// Connections to the application at once, over all workers. Default 512, or more where the
        /// routes need it; 1 to 1000000. At least `max_in_flight` ("auto": `auto_max`), plus the
        /// `max_in_flight` of each stream route, plus 32 for each exempt route: fewer would be a
        /// second, hidden queue.
        max_connections: Int<1, 1_000_000> = "512",
        /// A duration: to open a connection, over all addresses of the host. Default "1s", 1ms to
        /// 5m.
        connect_timeout: Time<1, 300_000> = "1s",
        /// A duration: how long an answer of the resolver is taken for true. Default "5s", 0s to
        /// 1h; 0s: it is asked for each connection. It is asked at once when connecting fails.
        /// Where it gives no answer, the last one holds. Connections to an address that is no
        /// longer in the answer are not used for further requests. Without effect for IP addresses
        /// and sockets.
        dns_refresh: Time<0, HOUR> = "5s",
        /// A duration: how long an unused connection is kept. Default "4s", 1ms to 1h. Keep it
        /// below the application's own keep-alive (Node.js: 5 s), or requests meet closed
        /// connections.
        idle_timeout: Time<1, HOUR> = "4s",
        /// A duration: while the application takes no connections (refused, unreachable, or not
        /// within `connect_timeout`), during its restart for example, requests stay in their queues
        /// for so long, counted from the first that noticed; then they are rejected with
        /// `upstream_down` until it is back. Default "0s", 0s to 10m; 0s: each request fails with
        /// 502 (or 504) by itself. Once it is back `max_wait` turns nobody away until the queue was
        /// empty once, for `hold` at most; both together bound every wait. Routes without a queue,
        /// and those in shadow mode, fail at once in any case.
        hold: Time<0, 600_000> = "0s",
    }
    required {}
}

table! {
    /// TLS with the application, whose certificate is always verified. Files are PEM; a path is
    /// absolute, or relative to the working directory. Files that change are read again within 10
    /// s.
    UpstreamTls {
        /// The file of the authorities that may have signed the application's certificate. Default:
        /// those of the system; where it has none, those of Mozilla, as of tidegate's release. For
        /// a private authority; or a self-signed certificate itself, if it does not say that it is
        /// an authority too (openssl: -addext basicConstraints=critical,CA:FALSE).
        ca: FilePath,
        /// The file of the certificate that tidegate shows when it is asked for one. Default: none.
        /// Needs `client_key`.
        client_cert: FilePath,
        /// The file of its private key. Needs `client_cert`.
        client_key: FilePath,
        /// The name that is asked for (SNI), and that the certificate must be made out to. Default:
        /// the host of `url`.
        server_name: Text,
        /// Whether HTTP/2 is offered beside HTTP/1.1 (ALPN). Default true. false for an application
        /// whose HTTP/2 is not to be used.
        http2: bool = "true",
    }
    required {}
}

table! {
    /// What a rejection looks like.
    Reject {
        /// The status code: 503 or 429. Default 503.
        status: Status = "503",
        /// "problem+json" (RFC 9457), "text" (one line) or "none". Default "problem+json".
        body: RejectBody = "problem+json",
        /// The `Retry-After` field: "auto" (from queue and drain rate, 1 to 30 s), whole seconds
        /// from "1s" to "1h", or "off". Default "auto".
        retry_after: RetryAfter = "auto",
    }
    required {}
}

table! {
    /// What a route overrides of `[reject]`.
    RouteReject {
        /// The status code: 503 or 429. Default: that of `[reject]`.
        status: Status,
        /// "problem+json", "text" or "none". Default: that of `[reject]`.
        body: RejectBody,
        /// "auto", whole seconds from "1s" to "1h", or "off". Default: that of `[reject]`.
        retry_after: RetryAfter,
    }
    required {}
}

table! {
    /// What every route inherits.
    Defaults {
        /// Places in the queue of each route. Default 1024, 0 to 1000000; 0: never wait. More
        /// places than can be served within `max_wait` are of no use.
        max_queue: Int<0, 1_000_000> = "1024",
        /// A duration: the longest wait for a slot; then the request is rejected. Default "1s", 1ms
        /// to 10m. Without effect where `max_queue` is 0.
        max_wait: Time<1, 600_000> = "1s",
        /// Who of those that wait is next: "fifo" (who came first), "lifo" (who came last) or
        /// "adaptive" (who came first, but who came last while the queue stands, since its client
        /// is the most likely to be still there). Default "adaptive".
        order: Order = "adaptive",
        /// A duration, "auto" or "off": a queue that has not been empty for so long, and has turned
        /// somebody away or lost somebody's patience meanwhile, stands, and waits in it are held
        /// short until it was empty once. Default "auto": one and a half times `max_wait`; 1ms to
        /// 1d. Shorter absorbs shorter bursts; "off": `max_wait` alone bounds waits.
        standing_after: Standing = "auto",
        /// A header field in which a trusted proxy gives a request's class, 0 to 7; or "off".
        /// Default "off". From peers outside `trusted_proxies`, and with any other value, the class
        /// is the route's.
        class_header: OrOff<Header> = "off",
        /// A header field in which a client says for how many milliseconds more it waits for the
        /// answer; or "off". Default "off". Who cannot be answered in time is rejected at once. It
        /// is forwarded less the time spent waiting. `grpc-timeout` of gRPC requests is always
        /// understood.
        deadline_header: OrOff<Header> = "off",
        /// Between whom what waits is shared out: "client" (by address; IPv6 by /64),
        /// "header:NAME" (by the value of a field, which counts from `trusted_proxies` only, else
        /// by client) or "none". Default "client". Addresses from forwarding fields count as far as
        /// `trusted_proxies` reach.
        fair_by: FairBy = "client",
        /// A duration or "off": from the request being sent to the head of the response; then 504.
        /// Default "30s", 1ms to 1d.
        response_timeout: OrOff<Time<1, DAY>> = "30s",
        /// A duration or "off": the longest silence inside the body of a request or response.
        /// Default "30s", 1ms to 1d. Stream routes do not inherit it: theirs is "off" unless set on
        /// the route.
        idle_body_timeout: OrOff<Time<1, DAY>> = "30s",
        /// A duration or "off": the longest silence in a tunnel, such as a WebSocket, in both
        /// directions together. Default "1h", 1ms to 1d. A tunnel holds its slot while it lives;
        /// `idle_body_timeout` does not apply to it.
        tunnel_idle_timeout: OrOff<Time<1, DAY>> = "1h",
        /// Which request targets are taken: "any" or "strict". Default "any": each is matched and
        /// forwarded as it came. "strict": 400 for those that an application may read otherwise
        /// than tidegate, and so slip past a route: dot segments (`/../`, `/%2e/`), `//`, `%2F`,
        /// `%5C`, a backslash, `;`, `%00`, and escapes of what needs none (`%61` is `a`) in the
        /// path. It holds for the route that such a target matches as it came, so set it for all
        /// of an application.
        paths: Paths = "any",
        /// What becomes of a request in flight whose client left: "cancel" closes the upstream
        /// connection; "finish" holds the slot until the application is done (for at most ten times
        /// `response_timeout`), for applications that do not notice a closed connection. So it does
        /// with a request that was answered with 504. Default "cancel".
        on_client_abort: ClientAbort = "cancel",
        /// Whether rejections are carried out. Default true. false (shadow mode): everything is let
        /// through, up to the upstream's `max_connections` at once, and what would have been
        /// rejected is counted in `tidegate_shadow_rejected_total`.
        enforce: bool = "true",
    }
    required {}
}

table! {
    /// A route: which requests it takes, and how they are admitted. Requests that no route takes go
    /// to the built-in route `default`, which a `[[route]]` of that name tunes.
    Route {
        /// Its name in metrics and logs: 1 to 64 letters, digits, `_` and `-`. Required, and
        /// unique.
        name: Text,
        /// Which requests it takes. Default: all. Of several routes that match, one with `exact` is
        /// taken first, then the longest path, then more conditions, then the order of the file.
        matches as "match": Match,
        /// The name of an `[upstreams.NAME]`. Default: the only upstream; required where there are
        /// several.
        upstream: Text,
        /// "queue" (through the gate), "exempt" (past the budget, at most 32 at once, never queued:
        /// for probes) or "deny" (404). Default "queue".
        admission: AdmissionMode = "queue",
        /// "request" or "stream". Default "request". A stream (server-sent events, long polling)
        /// does not count against the budget of the upstream and needs a `max_in_flight` of its
        /// own.
        kind: RouteKind = "request",
        /// Requests of this route in flight at once. Default: no cap of its own; 1 to 100000. At
        /// most the upstream's, unless the route is a stream; a stream needs it.
        max_in_flight: Slots,
        /// Slots of the budget that other routes may not use. Default 0, 0 to 100000. At most the
        /// route's `max_in_flight`; the sum over all routes at most the upstream's.
        reserved: Int<0, 100_000> = "0",
        /// Places in the queue, 0 to 1000000. Default: that of `[defaults]`.
        max_queue: Int<0, 1_000_000>,
        /// A duration: the longest wait for a slot, 1ms to 10m. Default: that of `[defaults]`.
        max_wait: Time<1, 600_000>,
        /// Who of those that wait is next: "fifo", "lifo" or "adaptive". Default: that of
        /// `[defaults]`.
        order: Order,
        /// A duration (1ms to 1d), "auto" or "off": when a queue stands that has not been empty and
        /// has failed somebody. Default: that of `[defaults]`.
        standing_after: Standing,
        /// How important its requests are: 0 to 7, 7 the most. Default 3. Who waits in a higher
        /// class goes first, apart from `class_floor`, and takes the place of a lower one when the
        /// queue is full.
        class: Int<0, 7> = "3",
        /// A header field in which a trusted proxy gives a request's class; or "off". Default: that
        /// of `[defaults]`.
        class_header: OrOff<Header>,
        /// A header field with the milliseconds that a client still waits; or "off". Default: that
        /// of `[defaults]`.
        deadline_header: OrOff<Header>,
        /// "client", "header:NAME" or "none". Default: that of `[defaults]`.
        fair_by: FairBy,
        /// A duration or "off": from the request being sent to the head of the response, 1ms to 1d.
        /// Default: that of `[defaults]`.
        response_timeout: OrOff<Time<1, DAY>>,
        /// A duration or "off": the longest silence inside a body, 1ms to 1d. Default: that of
        /// `[defaults]`; "off" for a stream.
        idle_body_timeout: OrOff<Time<1, DAY>>,
        /// A duration or "off": the longest silence in a tunnel (WebSocket), 1ms to 1d. Default:
        /// that of `[defaults]`.
        tunnel_idle_timeout: OrOff<Time<1, DAY>>,
        /// "any" or "strict": whether ambiguous targets are answered with 400. Default: that of
        /// `[defaults]`.
        paths: Paths,
        /// "cancel" or "finish". Default: that of `[defaults]`.
        on_client_abort: ClientAbort,
        /// Whether rejections are carried out; false: shadow mode. Default: that of `[defaults]`.
        enforce: bool,
        /// What a rejection looks like. Default: that of `[reject]`, key by key.
        reject: RouteReject,
    }
    required { "name" }
}

table! {
    /// The conditions of a route: all that are given must hold.
    Match {
        /// A path that begins with `/`. Default "/". It takes everything below it, on segment
        /// borders: "/api" takes "/api" and "/api/x", not "/apix". Compared with the path as the
        /// client sent it, without decoding `%` escapes, and case-sensitively.
        path: Text = "/",
        /// Whether the whole path must be equal. Default false.
        exact: bool = "false",
        /// Methods, such as ["GET", "HEAD"]. Default: any.
        methods: List<Text> = "",
        /// Host names without port, such as ["example.org", "*.example.org"]; a `*.` takes any
        /// subdomain. Default: any. Compared without regard to case.
        hosts: List<Text> = "",
    }
    required {}
}

/// Tables whose keys a variable or flag can set.
pub(super) const SECTIONS: &[Section] = &[
    ("server", Server::KEYS),
    ("admin", Admin::KEYS),
    ("log", Log::KEYS),
    ("upstream", Upstream::KEYS),
    ("reject", Reject::KEYS),
    ("defaults", Defaults::KEYS),
];

// === hints ===

/// Help for a key that people bring along from elsewhere, or that belongs into another table.
pub(super) fn hint_for(name: &str, title: &str, keys: &[&str]) -> Option<String> {
    let in_match = Match::KEYS.contains(&name) || matches!(name, "method" | "host" | "prefix");
    if in_match && title.contains("route") {
        let key = match name {
            "method" => "methods",
            "host" => "hosts",
            "prefix" => "path",
            name => name,
        };
        return Some(format!("conditions stand in `match`: match = {{ {key} = ... }}"));
    }
    if let Some(hint) = hint_of_tls(name, keys) {
        return Some(hint);
    }
    let ours = match name {
        "concurrency" | "limit" | "max_concurrency" | "max_concurrent_requests" | "slots" => {
            "max_in_flight"
        }
        "queue" | "queue_size" | "max_pending" | "max_queue_size" | "backlog" => "max_queue",
        "queue_timeout" | "max_queue_wait" => "max_wait",
        "timeout" | "request_timeout" | "read_timeout" => "response_timeout",
        "address" | "bind" | "port" | "addr" => "listen",
        "target" | "backend" | "uri" => "url",
        "keepalive" | "keep_alive" | "keepalive_timeout" => "idle_timeout",
        _ => name,
    };
    if keys.contains(&ours) {
        return Some(format!("here it is called `{ours}`"));
    }
    if Route::KEYS.contains(&ours) && !Defaults::KEYS.contains(&ours) && title == "[defaults]" {
        return Some(format!("`{ours}` belongs in a `[[route]]`"));
    }
    let home = SECTIONS.iter().find(|(_, keys)| keys.contains(&ours))?.0;
    let also = if home == "defaults" { " or a `[[route]]`" } else { "" };
    Some(format!("`{ours}` belongs in `[{home}]`{also}"))
}

/// Help for keys of TLS that other programs have.
fn hint_of_tls(name: &str, keys: &[&str]) -> Option<String> {
    let switches = ["insecure", "verify", "skip_verify", "insecure_skip_verify", "tls_verify"];
    if switches.contains(&name) && !keys.contains(&"client_auth") {
        let why = "the application's certificate is always verified: without that, TLS keeps \
                   nobody out who stands in between";
        let instead = "for a private authority or a self-signed certificate give its file, \
                       `[upstream.tls]` ca = \"ca.pem\"; for another name, server_name = \"NAME\"";
        return Some(format!("{why}; {instead}"));
    }
    let ours = match name {
        "certificate" | "cert_file" | "certfile" => "cert",
        "private_key" | "key_file" | "keyfile" => "key",
        "ca_file" | "ca_cert" | "root_ca" if keys.contains(&"client_ca") => "client_ca",
        "ca_file" | "ca_cert" | "root_ca" | "roots" => "ca",
        "sni" | "hostname" => "server_name",
        "verify" | "client_verify" | "verify_client" => "client_auth",
        "alpn" | "protocols" => "http2",
        _ => return None,
    };
    keys.contains(&ours).then(|| format!("here it is called `{ours}`"))
}
