//! The resolved configuration: every default applied, every value checked.
//!
//! Plain data without serde and without positions. What stands here is what runs; `raw` describes
//! the file and `resolve` turns one into the other.

mod listen;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use listen::{Endpoint, Listen};
pub use tls::{CertificateFiles, ClientCertificates, Scheme, ServerTls, TlsVersion, UpstreamTls};

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The listeners, workers and client-side limits.
    pub server: Server,
    /// The admin listener.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
    /// At least one. Each has one budget (one gate).
    pub upstreams: Vec<Upstream>,
    /// At least one: the last is the built-in route `default`, whose matcher is the prefix `/`.
    pub routes: Vec<Route>,
}

/// `[server]`: the side that clients see.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// At least one address to accept clients on. Port 0 lets the system choose.
    pub listen: Vec<Listen>,
    /// Worker threads, 1 to 64. Default: the available cores, at most 4.
    pub workers: usize,
    /// Client connections at once, 1 to 1,000,000. Default 4,096.
    pub max_connections: u32,
    /// From the first byte of a request to the end of its head. Default 10 s.
    pub header_timeout: Duration,
    /// Between two requests of a connection, and before its first byte. Default 75 s.
    pub idle_timeout: Duration,
    /// Requests at once on one HTTP/2 connection, 1 to 1,000. Default 100.
    pub max_streams: u32,
    /// The largest request head in bytes, 8 KiB to 1 MiB. Default 32 KiB.
    pub max_header_bytes: usize,
    /// After SIGTERM: how long `/ready` fails while connections are still accepted. Default 0.
    pub drain_delay: Duration,
    /// How long queued and in-flight requests may take to finish after that. Default 8 s.
    pub shutdown_grace: Duration,
    /// Peers whose `X-Forwarded-*` and `Forwarded` are kept. Default loopback and private networks.
    pub trusted_proxies: Vec<Cidr>,
    /// Which forwarding fields are written. Default `x-forwarded`.
    pub forwarded: Forwarded,
    /// Connections of trusted proxies begin with a header of the PROXY protocol. Default false.
    pub proxy_protocol: bool,
    /// Whether the file is loaded again when its content changes. Default true.
    pub watch_config: bool,
    /// What clients speak TLS with, on every address; `None`: they speak it on none. Default none.
    pub tls: Option<ServerTls>,
}

/// An address range in CIDR notation; a single address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The network's first address.
    pub network: IpAddr,
    /// How many leading bits must agree: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub prefix: u8,
}

/// Which forwarding fields tidegate writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto`, `-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
    /// Both families.
    Both,
    /// Neither; what arrives passes through untouched.
    Off,
}

/// `[admin]`: metrics, health and status on a listener of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Default `0.0.0.0:9909`.
    pub listen: SocketAddr,
    /// Whether POST requests of this machine may change something. Default true.
    pub control: bool,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least severe level that is written. Default `info`.
    pub level: LogLevel,
    /// Default `auto`.
    pub format: LogFormat,
    /// Which requests get a line. Default `errors`.
    pub access: AccessLog,
}

/// A log level, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed that an operator must look at.
    Error,
    /// Something is wrong, and tidegate goes on.
    Warn,
    /// Milestones.
    Info,
    /// Details of connections.
    Debug,
    /// Everything.
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which requests get a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those answered with 5xx or a rejection, and those whose body broke off.
    Errors,
    /// Each.
    All,
}

/// `[upstream]` or `[upstreams.NAME]`: one application and the budget of slots that its routes
/// share.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name in metrics; `default` for `[upstream]`.
    pub name: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What it speaks there.
    pub scheme: Scheme,
    /// How old an answer of the resolver may be. Default 5 s.
    pub dns_refresh: Duration,
    /// Requests in flight at once over all routes that share the budget. Default 16.
    pub max_in_flight: Budget,
    /// The least part of the grants that each class that waits gets, in percent, 0 to 12. Default
    /// 5.
    pub class_floor: u32,
    /// Whether rejections are carried out; if not, all routes are in shadow mode. Default true.
    pub enforce: bool,
    /// Connections at once over all workers. Default 512.
    pub max_connections: u32,
    /// To open a connection, over all addresses of the host. Default 1 s.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept; below the application's own keep-alive. Default 4 s.
    pub idle_timeout: Duration,
    /// How long requests wait in their queues for an application that takes no connections; zero:
    /// not at all. Default 0 s.
    pub hold: Duration,
}

/// How many requests may be in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many, 1 to 100,000.
    Fixed(u32),
    /// As many as the application is found to be able to work on.
    Auto {
        /// Never fewer, 1 to 100,000. Default 2.
        min: u32,
        /// Never more, 1 to 100,000. Default 500.
        max: u32,
        /// Fewer where the mean service time is above; `None`: throughput alone decides. Default
        /// none.
        max_latency: Option<Duration>,
    },
}

/// `[[route]]` with everything it inherits.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The metric label.
    pub name: String,
    /// Which requests it takes.
    pub matches: Match,
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
    /// How its requests are admitted.
    pub admission: AdmissionMode,
    /// Whether its requests count against the shared budget.
    pub kind: RouteKind,
    /// The route's own cap within the budget; for a stream route its bound outside it.
    pub max_in_flight: Option<u32>,
    /// Slots of the budget that other routes may not use. Default 0.
    pub reserved: u32,
    /// Places in the queue; 0: never wait. Default 1,024.
    pub max_queue: u32,
    /// The longest wait for a slot. Default 1 s.
    pub max_wait: Duration,
    /// Who of those that wait is next. Default adaptive.
    pub order: Order,
    /// When a queue stands that has not been empty and has failed somebody. Default auto.
    pub standing_after: Standing,
    /// How important its requests are, 0 to 7, 7 the most. Default 3.
    pub class: u8,
    /// The field in which a trusted proxy gives a request's class, in lower case. Default none.
    pub class_header: Option<String>,
    /// The field in which a client says how long it waits for the answer, in lower case. Default
    /// none.
    pub deadline_header: Option<String>,
    /// Between whom what waits is shared out. Default the clients.
    pub fair_by: FairBy,
    /// Whether rejections are carried out; if not, they are counted only. Default true.
    pub enforce: bool,
    /// Request sent to response head; `None`: no bound. Default 30 s.
    pub response_timeout: Option<Duration>,
    /// The longest silence inside either body; `None`: no bound. Default 30 s; none for streams.
    pub idle_body_timeout: Option<Duration>,
    /// The longest silence in a tunnel (WebSocket), both ways; `None`: no bound. Default 1 h.
    pub tunnel_idle_timeout: Option<Duration>,
    /// Whether targets that can be read in several ways are refused. Default any.
    pub paths: Paths,
    /// What becomes of a request in flight whose client left. Default cancel.
    pub on_client_abort: ClientAbort,
    /// What a rejection looks like.
    pub reject: Reject,
}

/// The conditions of a route: all that are given must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// A path that begins with `/`; a prefix on segment borders unless `exact`.
    pub path: String,
    /// The whole path must be equal.
    pub exact: bool,
    /// Upper-case method names; empty: any.
    pub methods: Vec<String>,
    /// Lower-case host names without port; `*.example.org` takes any subdomain; empty: any.
    pub hosts: Vec<String>,
}

/// How a route's requests are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionMode {
    /// Through the gate.
    Queue,
    /// Past the budget, without a queue, at most 32 at once: for probes.
    Exempt,
    /// Never: 404.
    Deny,
}

/// Whether a route's requests count against the shared budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Ordinary requests.
    Request,
    /// Long-lived ones (server-sent events, long polling): a bound of their own, outside the
    /// budget.
    Stream,
}

/// Who of those that wait is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Who came first.
    Fifo,
    /// Who came last.
    Lifo,
    /// Who came first; but who came last while the queue stands.
    Adaptive,
}

/// When a queue stands, so that waits in it are held short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// After one and a half times `max_wait` without being empty.
    Auto,
    /// After so long, 1 ms to a day.
    After(Duration),
    /// Never.
    Off,
}

/// Between whom what waits is shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FairBy {
    /// Nobody: all are one.
    None,
    /// The clients' addresses.
    Client,
    /// The values of this field (in lower case), which counts from trusted proxies only; otherwise
    /// the clients' addresses.
    Header(String),
}

/// What becomes of a request in flight whose client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAbort {
    /// The upstream connection is closed; the slot is free once it is.
    Cancel,
    /// Once the request was sent whole, the slot is held until the application is done.
    Finish,
}

/// Which request targets a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// All: matched and forwarded as they came.
    Any,
    /// Those with one reading only: 400 for dot segments (`%2E` ones too), `//`, `%2F`, `%5C`, `\`,
    /// `;` and `%00`.
    Strict,
}

/// `[reject]`: what a rejection looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// 503 or 429. Default 503.
    pub status: u16,
    /// Default `problem+json`.
    pub body: RejectBody,
    /// Default `auto`.
    pub retry_after: RetryAfter,
}

/// The body of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectBody {
    /// RFC 9457.
    ProblemJson,
    /// One plain line.
    Text,
    /// Empty.
    None,
}

/// The `Retry-After` of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// Computed from queue and drain rate, 1 to 30 s.
    Auto,
    /// Whole seconds, 1 to 3,600.
    Fixed(u32),
    /// No such field.
    Off,
}

// === impl Budget ===

impl Budget {
    /// The most requests that it can ever let in at once.
    #[must_use]
    pub fn most(self) -> u32 {
        match self {
            Budget::Fixed(slots) => slots,
            Budget::Auto { max, .. } => max,
        }
    }

    /// The fewest requests that it can ever bound to.
    #[must_use]
    pub fn least(self) -> u32 {
        match self {
            Budget::Fixed(slots) => slots,
            Budget::Auto { min, .. } => min,
        }
    }

    /// The same, of which never more than `bound` is used.
    #[must_use]
    pub fn at_most(self, bound: u32) -> Budget {
        match self {
            Budget::Fixed(slots) => Budget::Fixed(slots.min(bound)),
            Budget::Auto { min, max, max_latency } => {
                Budget::Auto { min: min.min(bound), max: max.min(bound), max_latency }
            }
        }
    }
}

impl std::fmt::Display for Budget {
    /// As it stands in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Budget::Fixed(slots) => write!(f, "{slots}"),
            Budget::Auto { .. } => f.write_str("auto"),
        }
    }
}

// === impl Standing ===

impl Standing {
    /// How long a queue with such a `max_wait` may not be empty before it stands; `None`: for ever.
    #[must_use]
    pub fn after(self, max_wait: Duration) -> Option<Duration> {
        match self {
            Standing::Auto => Some(max_wait + max_wait / 2),
            Standing::After(time) => Some(time),
            Standing::Off => None,
        }
    }
}
